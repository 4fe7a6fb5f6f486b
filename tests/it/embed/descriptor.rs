//! The ways that watch the descriptor of the server's queue in another loop.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use udsmsg::{Server, ServerBuilder};

use super::ways::{Owner, Start};

const NOT_AT_ALL: Option<Duration> = Some(Duration::ZERO);

pub fn poll_timeout(timeout: Option<Duration>) -> PollTimeout {
    PollTimeout::try_from(udsmsg::os::poll_timeout(timeout)).unwrap()
}

fn wait(server: &Server, timeout: PollTimeout) {
    match poll(&mut [PollFd::new(server.event_queue().unwrap(), PollFlags::POLLIN)], timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => panic!("{error}"),
    }
}

pub fn poll_loop(start: Start) {
    let (mut server, mut owner) = start.server(ServerBuilder::start);
    loop {
        let timeout = poll_timeout(server.next_timeout());
        wait(&server, timeout);
        let _ = server.process().unwrap();
        if owner.after_turn(&mut server).is_break() {
            break;
        }
    }
}

#[cfg(target_os = "linux")]
pub fn poll_timer(start: Start) {
    let (mut server, mut owner) = start.server(|builder| builder.timer().start());
    loop {
        wait(&server, PollTimeout::NONE);
        let _ = server.process().unwrap();
        if owner.after_turn(&mut server).is_break() {
            break;
        }
    }
}

struct State {
    server: Server,
    owner: Owner,
    is_over: bool,
}

impl State {
    fn turn(&mut self) {
        let _ = self.server.process().unwrap();
        self.is_over = self.owner.after_turn(&mut self.server).is_break();
    }
}

fn in_calloop<'l>(server: &Server, on_ready: impl Fn(&mut State) + 'l) -> calloop::EventLoop<'l, State> {
    use calloop::{EventLoop, Interest, Mode, PostAction, generic::Generic};
    let event_loop = EventLoop::try_new().unwrap();
    let fd = server.event_queue().unwrap().try_clone_to_owned().unwrap();
    event_loop
        .handle()
        .insert_source(Generic::new(fd, Interest::READ, Mode::Level), move |_, _, state| {
            on_ready(state);
            Ok(PostAction::Continue)
        })
        .unwrap();
    event_loop
}

pub fn calloop_loop(start: Start) {
    let (server, owner) = start.server(ServerBuilder::start);
    let mut event_loop = in_calloop(&server, |_| ());
    let mut state = State { server, owner, is_over: false };
    while !state.is_over {
        let timeout = state.server.next_timeout();
        event_loop.dispatch(timeout, &mut state).unwrap();
        state.turn();
    }
}

#[cfg(target_os = "linux")]
pub fn calloop_timer(start: Start) {
    let (server, owner) = start.server(|builder| builder.timer().start());
    let mut event_loop = in_calloop(&server, State::turn);
    let mut state = State { server, owner, is_over: false };
    while !state.is_over {
        event_loop.dispatch(None, &mut state).unwrap();
    }
}

#[allow(deprecated, reason = "its safe form is; the copy of the descriptor is owned")]
fn async_fd(fd: OwnedFd) -> tokio::io::unix::AsyncFd<OwnedFd> {
    tokio::io::unix::AsyncFd::with_interest(fd, tokio::io::Interest::READABLE).unwrap()
}

pub fn tokio_loop(start: Start) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut server, mut owner) = start.server(ServerBuilder::start);
    runtime.block_on(async {
        let fd = async_fd(server.event_queue().unwrap().try_clone_to_owned().unwrap());
        loop {
            match server.next_timeout() {
                NOT_AT_ALL => tokio::task::yield_now().await,
                timeout => {
                    let timeout = timeout.unwrap_or(Duration::MAX);
                    if let Ok(guard) = tokio::time::timeout(timeout, fd.readable()).await {
                        guard.unwrap().clear_ready();
                    }
                }
            }
            let _ = server.process().unwrap();
            if owner.after_turn(&mut server).is_break() {
                break;
            }
        }
    });
}

pub fn async_io_loop(start: Start) {
    use futures_lite::future;
    let (mut server, mut owner) = start.server(ServerBuilder::start);
    async_io::block_on(async {
        let fd =
            async_io::Async::new_nonblocking(server.event_queue().unwrap().try_clone_to_owned().unwrap())
                .unwrap();
        loop {
            match server.next_timeout() {
                NOT_AT_ALL => future::yield_now().await,
                timeout => {
                    let timer = async {
                        timeout.map_or_else(async_io::Timer::never, async_io::Timer::after).await;
                        Ok(())
                    };
                    future::or(fd.readable(), timer).await.unwrap();
                }
            }
            let _ = server.process().unwrap();
            if owner.after_turn(&mut server).is_break() {
                break;
            }
        }
    });
}
