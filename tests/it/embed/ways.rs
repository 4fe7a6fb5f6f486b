//! The ways to host a server, each as a loop that a scenario can be played in.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use udsmsg::{Limits, Server, ServerBuilder, ServerEvent, Waker};

#[cfg(unix)]
use super::{bare, descriptor};
use crate::util::real::{Home, PATIENCE, RawPeer, patient_limits};

/// What a host has in its loop: a server, or the core alone.
pub trait Guest {
    fn drain(&mut self) -> Vec<String>;
    fn shutdown(&mut self, grace: Duration);
    /// Panics if it is the core alone.
    fn server(&mut self) -> &mut Server;
    fn next_event(&mut self) -> Option<ServerEvent> {
        None
    }
    fn is_stop_asked(&self) -> bool {
        false
    }
}

impl Guest for Server {
    fn drain(&mut self) -> Vec<String> {
        Self::drain(self).iter().map(|entry| entry.message().json().to_owned()).collect()
    }

    fn shutdown(&mut self, grace: Duration) {
        Self::shutdown(self, grace).unwrap();
    }

    fn server(&mut self) -> &mut Server {
        self
    }

    fn next_event(&mut self) -> Option<ServerEvent> {
        Self::next_event(self)
    }

    fn is_stop_asked(&self) -> bool {
        Self::is_stop_asked(self)
    }
}

type Job = Box<dyn FnOnce(&mut dyn Guest) + Send>;

/// The host's side of the loop: what it does after every turn.
pub struct Owner {
    jobs: Receiver<Job>,
    delivered: Sender<String>,
    told: Sender<String>,
    turns: Arc<AtomicUsize>,
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux tells what a thread does"))]
    thread_id: Arc<AtomicI32>,
}

impl Owner {
    /// Takes what has arrived, and does what the test asks for. Breaks when the loop is to end.
    pub fn after_turn(&mut self, guest: &mut dyn Guest) -> ControlFlow<()> {
        #[cfg(target_os = "linux")]
        self.thread_id.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
        self.turns.fetch_add(1, Ordering::Relaxed);
        self.collect(guest);
        if guest.is_stop_asked() {
            return ControlFlow::Break(());
        }
        loop {
            match self.jobs.try_recv() {
                Ok(job) => job(guest),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return ControlFlow::Break(()),
            }
            self.collect(guest);
        }
        ControlFlow::Continue(())
    }

    /// The test may be over and no longer receive.
    fn collect(&mut self, guest: &mut dyn Guest) {
        for message in guest.drain() {
            let _ = self.delivered.send(message);
        }
        while let Some(event) = guest.next_event() {
            let told = match event {
                ServerEvent::Sent { outcome, .. } => format!("{}: {outcome}", outcome.code()),
                ServerEvent::Unanswered { .. } => "unanswered".to_owned(),
            };
            let _ = self.told.send(told);
        }
    }
}

/// What a way needs to begin.
pub struct Start {
    pub builder: ServerBuilder,
    #[cfg_attr(windows, expect(dead_code, reason = "for the core alone"))]
    pub limits: Limits,
    home: PathBuf,
    hello: Sender<Hello>,
    owner: Owner,
}

/// Where the guest is, once it is there.
struct Hello {
    path: PathBuf,
    token: String,
    wake: Box<dyn Fn() + Send + Sync>,
    waker: Option<Waker>,
}

impl Start {
    /// Starts a server as `start` does it.
    pub fn server(
        self,
        start: impl FnOnce(ServerBuilder) -> Result<Server, udsmsg::Error>,
    ) -> (Server, Owner) {
        let server = start(self.builder).unwrap();
        let waker = server.waker();
        let token = Home::token_at(&self.home, &server);
        let wake = waker.clone();
        let hello = Hello {
            path: server.address().path().into(),
            token,
            // Frames come to their end without it.
            wake: Box::new(move || drop(wake.wake())),
            waker: Some(waker),
        };
        assert!(self.hello.send(hello).is_ok());
        (server, self.owner)
    }

    /// Marks a way that hosts the core alone.
    #[cfg(unix)]
    pub fn bare(self, path: PathBuf, token: String, wake: impl Fn() + Send + Sync + 'static) -> Owner {
        assert!(self.hello.send(Hello { path, token, wake: Box::new(wake), waker: None }).is_ok());
        self.owner
    }

    /// A path for a socket of the test's own.
    #[cfg(unix)]
    pub fn path(&self) -> PathBuf {
        self.home.join("bare.sock")
    }
}

/// One way to host it.
#[derive(Clone, Copy)]
pub struct Way {
    pub name: &'static str,
    host: fn(Start),
    /// It is a `Server`, not `Endpoint` alone.
    pub has_server: bool,
    /// It never waits, so the number of turns shows nothing.
    pub waits: bool,
}

/// All of them.
pub fn all() -> Vec<Way> {
    let server = |name, host| Way { name, host, has_server: true, waits: true };
    vec![
        server("its own turn", own_turn),
        server("its own run", own_run),
        server("busy-polling", busy),
        server("a lent mio::Poll", lent),
        // A queue of Windows is no descriptor.
        #[cfg(unix)]
        server("poll(2)", descriptor::poll_loop),
        #[cfg(target_os = "linux")]
        server("poll(2) with the timer inside", descriptor::poll_timer),
        #[cfg(unix)]
        server("calloop", descriptor::calloop_loop),
        #[cfg(target_os = "linux")]
        server("calloop with the timer inside", descriptor::calloop_timer),
        #[cfg(unix)]
        server("tokio", descriptor::tokio_loop),
        #[cfg(unix)]
        server("async-io", descriptor::async_io_loop),
        Way { waits: false, ..server("frames without a loop", frames) },
        // Its host is written with sockets and poll(2).
        #[cfg(unix)]
        Way { has_server: false, ..server("Endpoint alone", bare::host) },
    ]
}

fn own_turn(start: Start) {
    let (mut server, mut owner) = start.server(ServerBuilder::start);
    loop {
        let _ = server.turn(None).unwrap();
        if owner.after_turn(&mut server).is_break() {
            break;
        }
    }
}

fn own_run(start: Start) {
    let (mut server, mut owner) = start.server(ServerBuilder::start);
    server.run(|server| owner.after_turn(server)).unwrap();
}

fn busy(start: Start) {
    let (mut server, mut owner) =
        start.server(|builder| builder.busy_poll(Duration::from_micros(200)).start());
    server.run(|server| owner.after_turn(server)).unwrap();
}

fn lent(start: Start) {
    let mut events = mio::Events::with_capacity(8);
    let mut poll = mio::Poll::new().unwrap();
    // mio allows one waker in a `Poll`, and it is the host's.
    let _hosts_own = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
    let (mut server, mut owner) = start.server(|builder| builder.start_in(poll.registry(), 1_000));
    loop {
        match poll.poll(&mut events, server.next_timeout()) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            result => result.unwrap(),
        }
        for event in &events {
            assert!(server.on_event(event), "{event:?}");
        }
        let _ = server.process().unwrap();
        if owner.after_turn(&mut server).is_break() {
            break;
        }
    }
}

fn frames(start: Start) {
    let (mut server, mut owner) = start.server(ServerBuilder::start);
    loop {
        std::thread::sleep(Duration::from_millis(1));
        let _ = server.process().unwrap();
        if owner.after_turn(&mut server).is_break() {
            break;
        }
    }
}

/// A guest in one of the ways, on a thread of its own, until it is dropped.
pub struct Hosted {
    pub home: Home,
    pub path: PathBuf,
    pub token: String,
    pub waker: Option<Waker>,
    wake: Box<dyn Fn() + Send + Sync>,
    jobs: Option<Sender<Job>>,
    delivered: Receiver<String>,
    told: Receiver<String>,
    turns: Arc<AtomicUsize>,
    thread_id: Arc<AtomicI32>,
    thread: Option<JoinHandle<()>>,
}

impl Hosted {
    pub fn start(way: &Way, tweak: impl FnOnce(&mut Limits)) -> Self {
        let home = Home::new();
        let mut limits = patient_limits();
        tweak(&mut limits);
        // No scenario is about the look at its name, which would be a turn.
        let never = Duration::from_secs(1_000);
        let builder =
            Server::builder().environment(home.environment()).limits(limits.clone()).name_check(never);
        let (hello, introduced) = mpsc::channel();
        let (jobs, inbox) = mpsc::channel();
        let (delivered_in, delivered) = mpsc::channel();
        let (told_in, told) = mpsc::channel();
        let turns = Arc::new(AtomicUsize::new(0));
        let thread_id = Arc::new(AtomicI32::new(0));
        let owner = Owner {
            jobs: inbox,
            delivered: delivered_in,
            told: told_in,
            turns: Arc::clone(&turns),
            thread_id: Arc::clone(&thread_id),
        };
        let start = Start { builder, limits, home: home.path().to_owned(), hello, owner };
        let host = way.host;
        let thread = std::thread::spawn(move || host(start));
        let Hello { path, token, wake, waker } = introduced.recv().expect("it starts");
        let (jobs, thread) = (Some(jobs), Some(thread));
        Self { home, path, token, waker, wake, jobs, delivered, told, turns, thread_id, thread }
    }

    /// Runs `job` between two turns, and does not wait for it.
    pub fn ask(&self, job: impl FnOnce(&mut dyn Guest) + Send + 'static) {
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        (self.wake)();
    }

    /// Returns after a turn that began after this call, and after what was asked before.
    pub fn sync(&self) {
        // The first of two may have begun before.
        let seen = self.turns();
        while self.turns() < seen + 2 {
            let (done, is_done) = mpsc::channel();
            self.ask(move |_| done.send(()).unwrap());
            is_done.recv().expect("the host's thread is alive");
        }
    }

    pub fn connect(&self) -> RawPeer {
        RawPeer::connect(&self.path, &self.token)
    }

    /// The next message that the owner has found.
    pub fn delivered(&self) -> String {
        self.delivered.recv_timeout(PATIENCE).unwrap_or_else(|e| format!("(nothing delivered: {e})"))
    }

    /// How many it has found besides.
    pub fn delivered_besides(&self) -> usize {
        self.delivered.try_iter().count()
    }

    /// The next outcome that the owner got.
    pub fn told(&self) -> String {
        self.told.recv_timeout(PATIENCE).unwrap_or_else(|e| format!("(nothing told: {e})"))
    }

    /// The same if there is something already.
    pub fn told_so_far(&self) -> Option<String> {
        self.told.try_recv().ok()
    }

    /// Waits until the host has nothing to do and waits itself; how many turns it has had by then.
    pub fn turns_once_asleep(&self) -> usize {
        let (mut seen, mut asleep_for) = (self.turns(), 0);
        while asleep_for < 10 {
            std::thread::sleep(Duration::from_millis(2));
            let turns = self.turns();
            asleep_for = if turns == seen && self.is_asleep() { asleep_for + 1 } else { 0 };
            seen = turns;
        }
        seen
    }

    /// A thread that only waits for a processor is not.
    fn is_asleep(&self) -> bool {
        let id = self.thread_id.load(Ordering::Relaxed);
        // Where there is no such file, only the number of turns counts.
        std::fs::read_to_string(format!("/proc/self/task/{id}/stat"))
            .ok()
            .and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with('S')))
            .unwrap_or(true)
    }

    /// Turns so far.
    pub fn turns(&self) -> usize {
        self.turns.load(Ordering::Relaxed)
    }

    /// Waits for the end of a loop that ends by itself.
    pub fn join(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            (self.wake)();
            if thread.join().is_err() && !std::thread::panicking() {
                panic!("the host's thread panicked");
            }
        }
    }
}
