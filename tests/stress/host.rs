//! A server in a process of its own, so that the measured figures are the server's: this program again, in
//! the part of the host.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use udsmsg::os::CapabilityDir;
use udsmsg::{Address, Batch, Environment, Limits, Namespace, Server};

use super::measure;
use super::util::real::{Home, PATIENCE, RawPeer, patient_limits};

/// The prefix of each line that a child prints.
const MARK: &str = "=> ";

/// This program as a child in the part `part`, with the variables of `home`.
pub fn part(name: &str, home: &Home) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env("STRESS_PART", name)
        .env("CLAUDE_CONFIG_DIR", home.path().join("config"))
        .env("TMPDIR", home.path().join("t"))
        .env("HOME", home.path().join("home"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// Whether this process was started by [`part`] to play `name`.
pub fn plays(name: &str) -> bool {
    env::var("STRESS_PART").is_ok_and(|part| part == name)
}

pub fn say(what: impl std::fmt::Display) {
    println!("{MARK}{what}");
    io::stdout().flush().unwrap();
}

/// The next line that a child prints; empty if it has ended.
pub fn listen(lines: &mut impl BufRead) -> String {
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 {
            return String::new();
        }
        if let Some((_, said)) = line.trim_end().split_once(MARK) {
            return said.to_owned();
        }
    }
}

/// The contents of the capability file for `path`.
pub fn token_of(home: &Home, path: &Path) -> String {
    let capabilities = CapabilityDir::of(&Namespace::default(), &home.environment()).unwrap();
    capabilities.read(&Address::from_path(path).unwrap()).unwrap().auth_token.expose().to_owned()
}

/// The parent's end of such a server.
pub struct Host {
    pub home: Home,
    pub path: PathBuf,
    pub token: String,
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Host {
    /// A server with `limits` in place of the defaults, timeouts in milliseconds.
    pub fn start(limits: &[(&str, usize)]) -> Self {
        let home = Home::new();
        let limits: Vec<String> = limits.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut process = part("host::entry", &home).env("STRESS_LIMITS", limits.join(",")).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap());
        let path = PathBuf::from(listen(&mut lines));
        let token = token_of(&home, &path);
        Self { home, path, token, process, lines }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn connect(&self) -> RawPeer {
        RawPeer::connect(&self.path, &self.token)
    }

    /// A connected peer that has authenticated.
    pub fn connect_known(&self) -> RawPeer {
        let mut peer = self.connect();
        assert!(is_pong(&ask(&mut peer)), "the server answers");
        peer
    }

    /// `template` with the token and the path in it.
    pub fn fill(&self, template: &[u8]) -> Vec<u8> {
        super::util::fill(template, &self.token, self.path.to_str().unwrap())
    }

    /// Tells the host to do something between two turns, and returns its answer.
    pub fn tell(&mut self, what: &str) -> String {
        writeln!(self.process.stdin.as_mut().unwrap(), "{what}").unwrap();
        listen(&mut self.lines)
    }

    /// One of the figures of the server.
    pub fn figure(&mut self, name: &str) -> usize {
        let all = self.tell("figures");
        let value = all.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {name} in {all:?}")).parse().unwrap()
    }

    /// Writes `burst` to each of `streams` until the server takes nothing more from any of them and does
    /// nothing more of what it has taken, or `bytes_max` are written to each; how many bytes that were.
    pub fn stuff(&mut self, streams: &[&UnixStream], burst: &[u8], bytes_max: usize) -> usize {
        let mut written = vec![0; streams.len()];
        let (mut done, mut idle_looks) = (0, 0);
        while idle_looks < 5 {
            let before: usize = written.iter().sum();
            for (stream, written) in streams.iter().zip(&mut written) {
                stream.set_nonblocking(true).unwrap();
                while *written < bytes_max
                    && let Ok(n) = { *stream }.write(&burst[*written % burst.len()..])
                {
                    *written += n;
                }
            }
            // It has had a turn since: the first of two may have begun before.
            let turns = self.figure("turns");
            while self.figure("turns") < turns + 2 {}
            let done_now = self.figure("messages") + self.figure("pings");
            let is_idle = done_now == done && written.iter().sum::<usize>() == before;
            idle_looks = if is_idle { idle_looks + 1 } else { 0 };
            done = done_now;
        }
        written.iter().sum()
    }

    /// Stops the process at once, until [`Host::go_on`].
    pub fn stand_still(&self) {
        self.signal(Signal::SIGSTOP);
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        while !stat().rsplit_once(") ").unwrap().1.starts_with('T') {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// Waits until a figure is what it should be.
    pub fn wait_for(&mut self, name: &str, is_right: impl Fn(usize) -> bool) {
        let patience = Instant::now() + PATIENCE;
        loop {
            let value = self.figure(name);
            if is_right(value) {
                return;
            }
            assert!(Instant::now() < patience, "{name} stays at {value}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn memory(&self) -> usize {
        measure::memory(self.pid())
    }

    pub fn descriptors(&self) -> usize {
        measure::descriptors(self.pid())
    }

    pub fn cpu(&self) -> Duration {
        measure::cpu(self.pid())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The answer to a ping; `None` at the end.
pub fn ask(peer: &mut RawPeer) -> Option<String> {
    peer.send(&super::util::ping());
    peer.line()
}

pub fn is_pong(answer: &Option<String>) -> bool {
    answer.as_ref().is_some_and(|line| line.starts_with(r#"{"type":"pong""#))
}

fn limits_from_environment() -> Limits {
    let mut limits = patient_limits();
    let text = env::var("STRESS_LIMITS").unwrap();
    for (name, value) in text.split(',').filter_map(|pair| pair.split_once('=')) {
        let value: usize = value.parse().unwrap();
        let duration = Duration::from_millis(value as u64);
        match name {
            "inbox_entries_max" => limits.inbox_entries_max = value,
            "inbox_bytes_max" => limits.inbox_bytes_max = value,
            "inbox_share_percent_max" => limits.inbox_share_percent_max = value,
            "pid_lines_per_second_max" => limits.pid_lines_per_second_max = value,
            "clients_max" => limits.clients_max = value,
            "turn_frames_max" => limits.turn_frames_max = value,
            "output_timeout" => limits.output_timeout = duration,
            "closing_timeout" => limits.closing_timeout = duration,
            "idle_timeout" => limits.idle_timeout = duration,
            "frame_timeout" => limits.frame_timeout = duration,
            "auth_timeout" => limits.auth_timeout = duration,
            _ => panic!("no limit is called {name} here"),
        }
    }
    limits
}

/// The part itself. It is told, a line each: `drain` (from now on after every turn), `hold` (drain into a
/// batch that is kept), `figures`, `nofile N` (allow N descriptors more than are open), `stop MS` (stop with
/// that grace, and write what is in the inbox to the file `drained`, a line each).
#[test]
fn entry() {
    if !plays("host::entry") {
        return;
    }
    let environment = Environment::from_process();
    let server = Server::builder().environment(environment).limits(limits_from_environment()).start();
    let mut server = server.unwrap();
    let (commands, told) = mpsc::channel();
    let waker = server.waker();
    std::thread::spawn(move || {
        for line in io::stdin().lines() {
            commands.send(line.unwrap()).unwrap();
            waker.wake().unwrap();
        }
        // The parent is gone.
        std::process::exit(0);
    });
    say(server.address().path());
    let (mut drains, mut turns, mut turn_max, mut drained) = (false, 0, 0, 0);
    let mut batch = Batch::new();
    loop {
        let turn = server.turn(None).unwrap();
        turns += 1;
        turn_max = turn_max.max(turn.enqueued);
        if drains {
            drained += server.drain_into(&mut batch);
        }
        for command in told.try_iter() {
            match command.split_once(' ').unwrap_or((&command, "")) {
                ("drain", _) => {
                    drains = true;
                    say("ok");
                }
                ("hold", _) => say(server.drain_into(&mut batch)),
                ("nofile", more) => {
                    let open = measure::descriptors(std::process::id()) - 1;
                    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
                    let soft = (open + more.parse::<usize>().unwrap()) as u64;
                    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
                    say(soft);
                }
                ("stop", grace) => {
                    if stop(&mut server, grace).is_break() {
                        return;
                    }
                }
                _ => {
                    let stats = server.stats();
                    let closed = stats.closed;
                    say(format_args!(
                        "turns={turns} turn_max={turn_max} drained={drained} clients={} connections={} \
                         messages={} pings={} inbox={} throttled={} full={} stalled={} finished={} gone={} \
                         auth={} idle={}",
                        stats.clients,
                        stats.connections,
                        stats.messages,
                        stats.pings,
                        stats.inbox_entries,
                        stats.throttled,
                        closed.inbox_full,
                        closed.output_stalled,
                        closed.peer_finished,
                        closed.peer_gone,
                        closed.auth_timeout,
                        closed.idle_timeout + closed.frame_timeout,
                    ));
                }
            }
        }
    }
}

/// Stops, prints how many milliseconds it took, and writes the inbox to a file.
fn stop(server: &mut Server, grace: &str) -> ControlFlow<()> {
    let begun = Instant::now();
    server.shutdown(Duration::from_millis(grace.parse().unwrap())).unwrap();
    let took = begun.elapsed();
    let text: String = server
        .drain()
        .iter()
        .map(|entry| format!("{} {}\n", entry.id(), entry.message().data().unwrap().text().unwrap()))
        .collect();
    let home = PathBuf::from(env::var_os("TMPDIR").unwrap());
    std::fs::write(home.join("drained"), text).unwrap();
    say(took.as_millis());
    ControlFlow::Break(())
}

/// The rest of a child's output.
pub fn rest(mut from: impl Read) -> String {
    let mut text = Vec::new();
    from.read_to_end(&mut text).unwrap();
    String::from_utf8_lossy(&text).into_owned()
}
