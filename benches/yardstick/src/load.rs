//! The load generator: one thread that does as little as it can for a message.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::figures::median;

/// A message as it is usually sent, of about 330 bytes.
pub fn text(token: &str) -> Vec<u8> {
    line("text", 96, token)
}

/// A message that nearly fills a frame.
pub fn large_text(token: &str) -> Vec<u8> {
    line("text", 60 << 10, token)
}

pub fn ping(token: &str) -> Vec<u8> {
    line("ping", 96, token)
}

fn line(kind: &str, data: usize, token: &str) -> Vec<u8> {
    let data: String = "lorem ipsum ".chars().cycle().take(data).collect();
    format!(
        "{{\"type\":\"{kind}\",\"data\":\"{data}\",\"from\":\"/tmp/claude-code-socks/1234-0123/messaging.sock\",\
         \"ts\":\"2026-11-22T10:00:00.000Z\",\"meta\":{{\"authToken\":\"{token}\"}}}}\n"
    )
    .into_bytes()
}

struct Connection {
    stream: UnixStream,
    /// Bytes that are to be written.
    unsent: usize,
    /// Messages without an answer.
    unanswered: usize,
}

/// Connections that send bursts of messages: each its next one when its last one is answered. So a server that is
/// slow does not find more in one read than one that is fast.
pub struct Connections {
    epoll: Epoll,
    connections: Vec<Connection>,
    depth: usize,
    /// A burst.
    lines: Vec<u8>,
    line: usize,
    buffer: Vec<u8>,
}

impl Connections {
    pub fn open(socket: &Path, count: usize, depth: usize, line: &[u8]) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (lines, line, buffer) = (line.repeat(depth), line.len(), vec![0; 1 << 16]);
        let mut all = Self { epoll, connections: Vec::new(), depth, lines, line, buffer };
        for at in 0..count {
            let stream = UnixStream::connect(socket)?;
            stream.set_nonblocking(true)?;
            let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
            all.epoll.add(&stream, EpollEvent::new(flags, at as u64))?;
            all.connections.push(Connection { stream, unsent: 0, unanswered: 0 });
            // A server may want to know soon who it is, and its backlog is bounded.
            all.send(at..at + 1, 1)?;
        }
        Ok(all)
    }

    /// Sends `messages`, from all connections at once.
    pub fn run(&mut self, messages: usize) -> Result<()> {
        self.send(0..self.connections.len(), messages)
    }

    /// Sends `messages`, one after the other, each from the next connection.
    pub fn one_by_one(&mut self, messages: usize) -> Result<()> {
        for message in 0..messages {
            let at = message % self.connections.len();
            self.send(at..at + 1, 1)?;
        }
        Ok(())
    }

    fn send(&mut self, which: Range<usize>, messages: usize) -> Result<()> {
        let (mut to_send, mut to_answer) = (messages, messages);
        for connection in &mut self.connections[which] {
            to_send -= connection.begin(self.depth.min(to_send), self.line, &self.lines)?;
        }
        let mut events = [EpollEvent::empty(); 256];
        while to_answer > 0 {
            let n = match self.epoll.wait(&mut events, EpollTimeout::from(10_000u16)) {
                Ok(0) => bail!("no answer within 10 s"),
                Ok(n) => n,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..n] {
                let connection = &mut self.connections[usize::try_from(event.data())?];
                if connection.unanswered == 0 {
                    continue;
                }
                connection.write(&self.lines)?;
                to_answer -= connection.read(&mut self.buffer)?;
                if connection.unanswered == 0 {
                    to_send -= connection.begin(self.depth.min(to_send), self.line, &self.lines)?;
                }
            }
        }
        Ok(())
    }
}

impl Connection {
    /// Sends so many messages, which it returns.
    fn begin(&mut self, messages: usize, line: usize, lines: &[u8]) -> Result<usize> {
        (self.unsent, self.unanswered) = (messages * line, messages);
        self.write(lines)?;
        Ok(messages)
    }

    fn write(&mut self, lines: &[u8]) -> Result<()> {
        while self.unsent > 0 {
            match self.stream.write(&lines[lines.len() - self.unsent..]) {
                Ok(n) => self.unsent -= n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what is there; returns how many answers it was.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let before = self.unanswered;
        loop {
            match self.stream.read(buffer) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(n) => {
                    self.unanswered -= memchr::memchr_iter(b'\n', &buffer[..n]).count();
                    if n < buffer.len() {
                        return Ok(before - self.unanswered);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(before - self.unanswered),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Connects, sends one message, says that it is the last, reads the answer to the end, closes.
pub fn one_shots(socket: &Path, line: &[u8], count: usize) -> Result<()> {
    let mut answer = Vec::new();
    for _ in 0..count {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(line)?;
        stream.shutdown(Shutdown::Write)?;
        answer.clear();
        stream.read_to_end(&mut answer)?;
        if memchr::memchr(b'\n', &answer).is_none() {
            bail!("the server closed the connection without an answer");
        }
    }
    Ok(())
}

/// One message at a time over one connection, with a pause after each; the median time to an answer, in µs.
pub fn with_pauses(socket: &Path, line: &[u8], count: usize, pause: Duration) -> Result<f64> {
    let mut stream = UnixStream::connect(socket)?;
    let mut buffer = [0; 4_096];
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        stream.write_all(line)?;
        if stream.read(&mut buffer)? == 0 {
            bail!("the server closed the connection");
        }
        times.push(start.elapsed().as_secs_f64() * 1e6);
        std::thread::sleep(pause);
    }
    Ok(median(times))
}

/// Seven connections that always have 64 in flight each, until the process is killed.
pub fn flood(socket: &Path, line: &[u8]) -> Result<()> {
    let mut flooders = Connections::open(socket, 7, 64, line)?;
    println!("ready");
    loop {
        flooders.run(1_000_000)?;
    }
}
