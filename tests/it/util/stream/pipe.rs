//! Named pipes with the face of the standard library's Unix sockets. A blocking write returns when the system
//! has taken all of it.
#![allow(
    unsafe_code,
    unnameable_types,
    reason = "calls of Windows are foreign functions; re-exported by cfg"
)]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{FromRawHandle, IntoRawHandle};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use mio::windows::NamedPipe;
use mio::{Events, Interest, Poll, Token};
use miow::pipe::NamedPipeBuilder;
use udsmsg::Sid;
use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::ConvertStringSecurityDescriptorToSecurityDescriptorW;
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_OVERLAPPED;

use crate::util::real::{Home, PATIENCE};

/// Error 231: each instance has a client.
const PIPE_BUSY: i32 = 231;
/// How long one thread asks the queue before another one can.
const TICK: Duration = Duration::from_millis(5);
/// Bytes of one write: as many as the buffer of a pipe holds.
const WRITE_BYTES_MAX: usize = 64 << 10;
/// Clients that can connect before the listener is asked.
const BACKLOG: usize = 8;

/// One end of a connection. A clone is the same end.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pipe: NamedPipe,
    queue: Mutex<Queue>,
    is_nonblocking: AtomicBool,
    is_shut: AtomicBool,
}

#[derive(Debug)]
struct Queue {
    poll: Poll,
    events: Events,
    /// A write is on its way.
    is_writing: bool,
}

impl Stream {
    /// Waits for as long as each instance has a client, as a socket waits for a full backlog.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let begun = Instant::now();
        loop {
            match Self::try_connect(path.as_ref()) {
                Err(error) if error.raw_os_error() == Some(PIPE_BUSY) && begun.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                connected => return connected,
            }
        }
    }

    /// The same without waiting.
    pub fn try_connect(path: &Path) -> io::Result<Self> {
        let file: File =
            OpenOptions::new().read(true).write(true).custom_flags(FILE_FLAG_OVERLAPPED).open(path)?;
        // SAFETY: it is an open handle, opened for overlapped calls, and `into_raw_handle` has given it up.
        let stream = Self::new(unsafe { NamedPipe::from_raw_handle(file.into_raw_handle()) })?;
        stream.shared.take_first_events()?;
        Ok(stream)
    }

    fn new(mut pipe: NamedPipe) -> io::Result<Self> {
        let poll = Poll::new()?;
        poll.registry().register(&mut pipe, Token(0), Interest::READABLE | Interest::WRITABLE)?;
        let queue = Mutex::new(Queue { poll, events: Events::with_capacity(16), is_writing: false });
        let [is_nonblocking, is_shut] = [AtomicBool::new(false), AtomicBool::new(false)];
        Ok(Self { shared: Arc::new(Shared { pipe, queue, is_nonblocking, is_shut }) })
    }

    pub fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        self.shared.is_nonblocking.store(is_nonblocking, Ordering::Relaxed);
        Ok(())
    }

    /// It is always the same: the time that a peer is waited for.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        assert_eq!(timeout, Some(PATIENCE));
        Ok(())
    }

    /// Makes all that waits for it in other threads end.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        assert_eq!(how, Shutdown::Both, "a pipe has no half-close");
        self.shared.is_shut.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { shared: Arc::clone(&self.shared) })
    }
}

impl Shared {
    /// Asks the queue once; whether a write is still on its way.
    fn ask(&self, timeout: Duration) -> io::Result<bool> {
        if self.is_shut.load(Ordering::Relaxed) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let Queue { poll, events, is_writing } = &mut *self.queue.lock().unwrap();
        poll.poll(events, Some(timeout))?;
        if events.iter().any(mio::event::Event::is_writable) {
            *is_writing = false;
        }
        Ok(*is_writing)
    }

    /// Those that say that it is connected: they are there already.
    fn take_first_events(&self) -> io::Result<()> {
        self.ask(Duration::ZERO).map(drop)
    }

    /// Repeats `attempt` until it does not block.
    fn until<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        let is_nonblocking = self.is_nonblocking.load(Ordering::Relaxed);
        let begun = Instant::now();
        self.ask(Duration::ZERO)?;
        loop {
            match attempt() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if is_nonblocking || begun.elapsed() > PATIENCE {
                        return Err(error);
                    }
                    self.ask(TICK)?;
                }
                result => return result,
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        (&*self).read(space)
    }
}

impl Read for &Stream {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.shared.until(|| (&self.shared.pipe).read(space))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Write for &Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let shared = &*self.shared;
        let bytes = &bytes[..bytes.len().min(WRITE_BYTES_MAX)];
        let n = shared.until(|| {
            let mut queue = shared.queue.lock().unwrap();
            if queue.is_writing {
                return Err(ErrorKind::WouldBlock.into());
            }
            let n = (&shared.pipe).write(bytes)?;
            queue.is_writing = true;
            Ok(n)
        })?;
        if !shared.is_nonblocking.load(Ordering::Relaxed) {
            while shared.ask(TICK)? {}
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The instances of a pipe of the test's own.
#[derive(Debug)]
pub struct Listener {
    path: Box<Path>,
    waiting: Mutex<VecDeque<Stream>>,
    is_nonblocking: AtomicBool,
}

impl Listener {
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::with_backlog(path.as_ref(), BACKLOG)
    }

    pub fn with_backlog(path: &Path, backlog: usize) -> io::Result<Self> {
        let waiting: io::Result<VecDeque<Stream>> = (0..backlog).map(|n| instance(path, n == 0)).collect();
        Ok(Self { path: path.into(), waiting: Mutex::new(waiting?), is_nonblocking: AtomicBool::new(false) })
    }

    pub fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        self.is_nonblocking.store(is_nonblocking, Ordering::Relaxed);
        Ok(())
    }

    pub fn accept(&self) -> io::Result<(Stream, ())> {
        let mut waiting = self.waiting.lock().unwrap();
        loop {
            for at in 0..waiting.len() {
                let shared = &waiting[at].shared;
                shared.ask(Duration::ZERO)?;
                if shared.pipe.connect().is_ok() {
                    shared.take_first_events()?;
                    waiting.push_back(instance(&self.path, false)?);
                    return Ok((waiting.remove(at).unwrap(), ()));
                }
            }
            if self.is_nonblocking.load(Ordering::Relaxed) {
                return Err(ErrorKind::WouldBlock.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One instance that waits for a client. A pipe of another owner would get no token.
fn instance(path: &Path, is_first: bool) -> io::Result<Stream> {
    let sid = own_sid();
    let text: Vec<u16> = format!("O:{sid}D:P(A;;GA;;;{sid})\0").encode_utf16().collect();
    let mut descriptor = ptr::null_mut();
    // SAFETY: `text` ends with a 0, and there is room for a pointer behind the third argument.
    let is_made = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            text.as_ptr(),
            1,
            &raw mut descriptor,
            ptr::null_mut(),
        )
    };
    assert_ne!(is_made, 0, "{}", io::Error::last_os_error());
    let mut attributes = SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap(),
        lpSecurityDescriptor: descriptor,
        bInheritHandle: 0,
    };
    let mut builder = NamedPipeBuilder::new(path);
    builder.first(is_first);
    // SAFETY: the attributes and what they point to are valid until the call returns.
    let made = unsafe { builder.with_security_attributes((&raw mut attributes).cast()) };
    // SAFETY: the call before allocated it, and nothing points to it any more.
    unsafe { LocalFree(descriptor) };
    // SAFETY: it is an open handle, made for overlapped calls, and `into_raw_handle` has given it up.
    let pipe = unsafe { NamedPipe::from_raw_handle(made?.into_raw_handle()) };
    let stream = Stream::new(pipe)?;
    match stream.shared.pipe.connect() {
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Ok(stream),
    }
}

/// Who we are, as a server of ours sees it.
fn own_sid() -> Sid {
    static SID: OnceLock<Sid> = OnceLock::new();
    *SID.get_or_init(|| {
        let mut server = Home::new().start(|_| ());
        let _client = Stream::connect(server.address().path()).unwrap();
        loop {
            let _ = server.turn(Some(TICK)).unwrap();
            if let Some(connection) = server.connections().next() {
                return connection.peer.sid().unwrap();
            }
        }
    })
}
