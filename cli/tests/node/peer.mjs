// The other side of the protocol, written from its text alone: no line of the Rust implementation is used here.
//
//   node peer.mjs serve PATH                 own an inbox; print what arrives as JSON lines; stop when stdin ends;
//                                            a query with a `meta.queryId` is answered with its `data` in upper case
//   node peer.mjs burst TARGET LINES         send the JSON array LINES at once, half-close, print every answer
//   node peer.mjs flood TARGET CLIENTS EACH  CLIENTS connections at once with EACH messages in flight
//   node peer.mjs crumbs TARGET              one message, a byte at a time

import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';

const FRAME_BYTES_MAX = 65536;

function capabilityFile(socketPath) {
  const home = process.env.CLAUDE_CONFIG_DIR || path.join(os.homedir(), '.claude');
  const name = createHash('sha256').update(socketPath).digest('hex') + '.json';
  return path.join(home, 'messaging-capabilities', name);
}

function readToken(socketPath) {
  const file = capabilityFile(socketPath);
  const stat = fs.lstatSync(file);
  if (!stat.isFile() || stat.uid !== process.getuid() || stat.mode & 0o077 || stat.size > 4096) {
    throw new Error(`${file} is not to be believed`);
  }
  const capability = JSON.parse(fs.readFileSync(file, 'utf8'));
  if (capability.socketPath !== socketPath) throw new Error(`${file} is for ${capability.socketPath}`);
  return capability.authToken;
}

function splitLines(stream, onLine) {
  let tail = Buffer.alloc(0);
  stream.on('data', (bytes) => {
    tail = Buffer.concat([tail, bytes]);
    for (let end; (end = tail.indexOf(0x0a)) >= 0; ) {
      const line = tail.subarray(0, end);
      tail = tail.subarray(end + 1);
      onLine(line);
    }
    if (tail.length > FRAME_BYTES_MAX) onLine(tail);
  });
}

function print(value) {
  process.stdout.write(JSON.stringify(value) + '\n');
}

// --- client ---------------------------------------------------------------------------------------------------------

// Everything in one write, then half a close; resolves with all answers when the server has closed.
function exchange(socketPath, messages) {
  return new Promise((resolve, reject) => {
    const token = readToken(socketPath);
    const answers = [];
    const socket = net.connect(socketPath);
    splitLines(socket, (line) => answers.push(JSON.parse(line.toString('utf8'))));
    socket.on('error', reject);
    socket.on('end', () => resolve(answers));
    const lines = messages.map((message) => {
      const meta = { ...message.meta, authToken: token };
      return JSON.stringify({ ts: new Date().toISOString(), ...message, meta }) + '\n';
    });
    socket.end(lines.join(''));
  });
}

async function flood(socketPath, clients, each) {
  const all = Array.from({ length: clients }, async (_, client) => {
    const messages = Array.from({ length: each }, (_, n) => ({ type: 'text', data: `${client}-${n}` }));
    const answers = await exchange(socketPath, messages);
    if (answers.length !== each) throw new Error(`client ${client} got ${answers.length} answers`);
    return answers.map((answer, n) => [answer.meta.id, messages[n].data]);
  });
  return (await Promise.all(all)).flat();
}

function crumbs(socketPath) {
  return new Promise((resolve, reject) => {
    const line = Buffer.from(
      JSON.stringify({ type: 'text', data: 'brösel 🍞', meta: { authToken: readToken(socketPath) } }) + '\n',
    );
    const socket = net.connect(socketPath);
    socket.on('error', reject);
    splitLines(socket, (answer) => {
      socket.destroy();
      resolve([JSON.parse(answer.toString('utf8'))]);
    });
    let at = 0;
    const step = () => {
      if (at < line.length) socket.write(line.subarray(at, ++at), () => setImmediate(step));
    };
    step();
  });
}

// --- server ---------------------------------------------------------------------------------------------------------

function sameToken(given, token) {
  if (typeof given !== 'string') return false;
  const digest = (text) => createHash('sha256').update(text).digest();
  return timingSafeEqual(digest(given), digest(token));
}

function serve(socketPath) {
  const token = randomBytes(32).toString('hex');
  let accepted = 0;

  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    let isOver = false;
    const answer = (value) => socket.write(JSON.stringify({ ...value }) + '\n');
    const fail = (data) => {
      isOver = true;
      socket.end(JSON.stringify({ type: 'error', data, ts: new Date().toISOString() }) + '\n');
    };
    socket.on('error', () => {});
    socket.on('end', () => socket.end());
    splitLines(socket, (line) => {
      if (isOver) return;
      const ts = new Date().toISOString();
      if (line.length > FRAME_BYTES_MAX) {
        return fail(`NDJSON frame exceeded ${FRAME_BYTES_MAX} bytes (${line.length})`);
      }
      if (/^[ \t\r]*$/.test(line.toString('latin1'))) return;
      let message;
      try {
        message = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(line));
      } catch {
        return fail('invalid frame');
      }
      if (!sameToken(message?.meta?.authToken, token)) return fail('unauthorized');
      if (typeof message.type !== 'string') return fail('invalid frame');
      if (message.type === 'ping') return answer({ type: 'pong', from: socketPath, ts });
      delete message.meta.authToken;
      if (Object.keys(message.meta).length === 0) delete message.meta;
      if (message.data === 'refuse me') return fail('inbox full');
      const id = `uds-${++accepted}`;
      print({ id, message });
      answer({ type: 'response', data: 'ok', ts, meta: { id } });
      const { queryId, hops = 0 } = message.meta ?? {};
      if (message.type === 'query' && queryId && message.from) {
        const meta = { inReplyTo: queryId, hops: hops + 1 };
        const reply = { type: 'response', data: message.data.toUpperCase(), from: socketPath, meta };
        exchange(message.from, [reply]).then(([told]) => print({ told }));
      }
    });
  });

  fs.mkdirSync(path.dirname(socketPath), { recursive: true, mode: 0o700 });
  process.umask(0o177);
  server.listen(socketPath, () => {
    process.umask(0o077);
    const file = capabilityFile(socketPath);
    fs.mkdirSync(path.dirname(file), { recursive: true, mode: 0o700 });
    const temporary = `${file}.${process.pid}.tmp`;
    fs.writeFileSync(temporary, JSON.stringify({ socketPath, authToken: token }), { flag: 'wx', mode: 0o600 });
    fs.renameSync(temporary, file);
    print({ event: 'listening', socket: socketPath });
    process.stdin.resume().on('end', () => {
      fs.unlinkSync(file);
      server.close();
      process.exit(0);
    });
  });
}

// --- the command ----------------------------------------------------------------------------------------------------

const [command, target = '', ...rest] = process.argv.slice(2);
const socketPath = target.replace(/^uds:/, '');
switch (command) {
  case 'serve':
    serve(socketPath);
    break;
  case 'burst':
    print(await exchange(socketPath, JSON.parse(rest[0])));
    break;
  case 'flood':
    print(await flood(socketPath, Number(rest[0]), Number(rest[1])));
    break;
  case 'crumbs':
    print(await crumbs(socketPath));
    break;
  default:
    console.error('usage: peer.mjs serve|burst|flood|crumbs TARGET …');
    process.exit(2);
}
