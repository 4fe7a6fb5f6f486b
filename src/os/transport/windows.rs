//! Named pipes over mio.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mio::event::{Event, Source};
use mio::windows::NamedPipe;
use mio::{Interest, Registry, Token};

use super::AcceptError;
use crate::os::pipe::listener::PipeListener;
use crate::os::pipe::stream::{Progress, Readiness, ReadyStream};
use crate::os::random::Random;
use crate::os::sys::{self, OwnerOnly};
use crate::proto::peer::PeerIdentity;

#[cfg(test)]
mod tests;

/// What has no interest of its own gets this one: mio reports all there is of a pipe.
const INTEREST: Interest = Interest::READABLE;

/// The instances of a pipe that wait for clients.
#[derive(Debug)]
pub(crate) struct Listener {
    pipe: PipeListener,
    /// The queue that watches them, and with which token.
    watched: Option<(Registry, Token)>,
}

impl Listener {
    /// Listens with what a [`Claim`](crate::os::pipe::claim::Claim) has made.
    pub(crate) fn new(pipe: PipeListener) -> Self {
        Self { pipe, watched: None }
    }

    /// Takes what the queue says of it: nothing that accepting does not find out.
    pub(crate) fn note_event(&mut self, event: &Event) {
        let _ = event;
    }

    /// The next connection, and what the system says about its peer.
    ///
    /// The instance that takes its place is there before it is given out, so that the name stays ours.
    pub(crate) fn accept(&mut self) -> Result<(ReadyStream, PeerIdentity), AcceptError> {
        let Some((registry, token)) = &self.watched else { return Err(AcceptError::Blocked) };
        let called = |instance: &NamedPipe| match instance.take_error() {
            Ok(None) => instance.connect(),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        let waits = |called: &io::Result<()>| {
            called.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        };
        let waiting = self.pipe.waiting().iter().map(called).enumerate();
        let Some((at, called)) = { waiting }.find(|(_, called)| !waits(called)) else {
            return Err(AcceptError::Blocked);
        };
        let refused = |error| match sys::is_shortage(&error) {
            true => AcceptError::NotNow(error),
            false => AcceptError::Broken(error),
        };
        let mut another = self.pipe.another().map_err(refused)?;
        wait_for_client(&mut another, registry, *token).map_err(refused)?;
        self.pipe.waiting().push_back(another);
        let pipe = self.pipe.waiting().remove(at).ok_or(AcceptError::Aborted)?;
        called.map_err(|_| AcceptError::Aborted)?;
        // A peer whose identity the system does not tell is not let in.
        let peer = sys::client_identity(&pipe).map_err(|_| AcceptError::Aborted)?;
        Ok((ReadyStream::new(pipe), peer))
    }
}

impl AsRef<PipeListener> for Listener {
    fn as_ref(&self) -> &PipeListener {
        &self.pipe
    }
}

/// Has a queue report that a client has come to `instance`.
fn wait_for_client(instance: &mut NamedPipe, registry: &Registry, token: Token) -> io::Result<()> {
    instance.register(registry, token, INTEREST)?;
    match instance.connect() {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        // One that is there already causes an event too.
        _ => Ok(()),
    }
}

impl Input for Listener {
    fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let watched = (registry.try_clone()?, token);
        for instance in self.pipe.waiting() {
            wait_for_client(instance, registry, token)?;
        }
        self.watched = Some(watched);
        Ok(())
    }
}

/// What a loop waits for that is no stream.
pub(crate) trait Input {
    /// As [`watch_input`].
    fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()>;
}

/// Has a queue report with `token` that there is something for `input`, until it is dropped.
pub(crate) fn watch_input(registry: &Registry, input: &mut impl Input, token: Token) -> io::Result<()> {
    input.watch(registry, token)
}

/// What an event says of the stream that it names.
pub(crate) fn readiness(event: &Event) -> Readiness {
    Readiness::of(event)
}

/// Has a queue report the readiness of a stream with `token`, until the stream is closed.
pub(crate) fn watch(registry: &Registry, stream: &mut ReadyStream, token: Token) -> io::Result<()> {
    stream.watch(registry, token)
}

/// Nothing to do: a queue reports the end of each write that was blocked, and no other.
pub(crate) fn rewatch(registry: &Registry, stream: &mut ReadyStream, token: Token) {
    let _ = (registry, stream, token);
}

/// One write. What it has moved the peer can read, even if the stream is closed now.
pub(crate) fn write_through(stream: &mut ReadyStream, bytes: &[u8]) -> Progress {
    stream.write_through(bytes)
}

/// What both ends of a waker know.
#[derive(Debug, Default)]
struct Wakes {
    /// A byte is in the pipe, or will be at once: wakers write no other, so that none has to wait.
    is_asked: AtomicBool,
    /// The end in the loop was dropped; the system may close it later.
    is_over: AtomicBool,
}

/// The end of a waker that stands in the loop.
#[derive(Debug)]
pub(crate) struct WakeSource {
    pipe: NamedPipe,
    wakes: Arc<Wakes>,
}

impl WakeSource {
    /// Takes back what wakers wrote.
    pub(crate) fn drain(&mut self) {
        // Only with the byte in hand: one that is still to come is waited for by its event.
        if matches!(self.pipe.read(&mut [0; 8]), Ok(1..)) {
            self.wakes.is_asked.swap(false, Ordering::AcqRel);
        }
    }
}

impl Drop for WakeSource {
    fn drop(&mut self) {
        self.wakes.is_over.store(true, Ordering::Release);
    }
}

/// The end of a waker that any thread may hold.
#[derive(Debug)]
pub(crate) struct WakeHandle {
    pipe: File,
    wakes: Arc<Wakes>,
}

impl WakeHandle {
    /// Makes the loop wake up.
    pub(crate) fn wake(&self) -> io::Result<()> {
        if self.wakes.is_over.load(Ordering::Acquire) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if self.wakes.is_asked.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let written = (&self.pipe).write(&[1]);
        // The next one fails too, and says so.
        written.map(drop).inspect_err(|_| self.wakes.is_asked.store(false, Ordering::Release))
    }
}

/// A waker's two ends. It is a pipe because a `Poll` that a host lends may have a `mio::Waker` already, and
/// can have only one.
pub(crate) fn wake_pair() -> io::Result<(WakeSource, WakeHandle)> {
    let nonce = Random::from_os().map_err(io::Error::other)?.nonce();
    let path = format!(r"\\.\pipe\udsmsg-wake-{}-{nonce}", std::process::id());
    let path = Path::new(&path);
    let source = sys::new_instance(path, true, &OwnerOnly::pipe()?)?;
    // No other process knows the name, and no other instance can be made.
    let handle = OpenOptions::new().write(true).open(path)?;
    let wakes = Arc::new(Wakes::default());
    let source = WakeSource { pipe: source, wakes: Arc::clone(&wakes) };
    Ok((source, WakeHandle { pipe: handle, wakes }))
}

impl Input for WakeSource {
    fn watch(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.pipe.register(registry, token, INTEREST)
    }
}
