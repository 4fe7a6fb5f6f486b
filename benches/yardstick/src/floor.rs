//! The least that a server for lines can do: it counts newlines and writes as many answers that were made before.
//! It checks no token, reads no JSON and keeps nothing.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::Result;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// As long as ours are.
const TEXT_ANSWER: &str = "{\"type\":\"response\",\"data\":\"ok\",\"ts\":\"2026-11-22T10:00:00.000Z\",\
                           \"meta\":{\"id\":\"uds-1234567\"}}\n";
const PING_ANSWER: &str =
    "{\"type\":\"pong\",\"from\":\"/tmp/.tmpAbCdEf/messaging.sock\",\"ts\":\"2026-11-22T10:00:00.000Z\"}\n";

/// More answers than one read can ask for.
const ANSWERS: usize = 4_096;

/// Serves until the process is killed. Reads and writes never wait: what is read is there, and the load generator
/// takes all answers before it goes on.
pub fn serve(socket: &Path, pings: bool) -> Result<()> {
    let answer = if pings { PING_ANSWER } else { TEXT_ANSWER };
    let answers = answer.repeat(ANSWERS).into_bytes();
    let listener = UnixListener::bind(socket)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let of_listener = u64::MAX;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, of_listener))?;
    println!("ready");
    // By the number of the descriptor.
    let mut streams: Vec<Option<UnixStream>> = Vec::new();
    let mut events = [EpollEvent::empty(); 256];
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..n] {
            if event.data() == of_listener {
                let (stream, _) = listener.accept()?;
                let at = usize::try_from(stream.as_raw_fd())?;
                streams.resize_with(streams.len().max(at + 1), || None);
                epoll
                    .add(&stream, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, at as u64))?;
                streams[at] = Some(stream);
                continue;
            }
            let slot = &mut streams[usize::try_from(event.data())?];
            let Some(stream) = slot else { continue };
            let n = stream.read(&mut buffer).unwrap_or(0);
            let lines = memchr::memchr_iter(b'\n', &buffer[..n]).count();
            let answered = lines == 0 || stream.write_all(&answers[..lines * answer.len()]).is_ok();
            let ended = event.events().contains(EpollFlags::EPOLLRDHUP) && n < buffer.len();
            if n == 0 || ended || !answered {
                *slot = None;
            }
        }
    }
}
