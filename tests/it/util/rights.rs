//! Passing descriptors, also one with a slow last close, and urgent data.

use std::io::{ErrorKind, IoSlice, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg, setsockopt, sockopt};

/// Sends `bytes` with `count` copies of `fd`.
pub fn send_with(stream: &UnixStream, bytes: &[u8], fd: &impl AsRawFd, count: usize) -> nix::Result<usize> {
    let fds: Vec<RawFd> = vec![fd.as_raw_fd(); count];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(stream.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), None)
}

/// Sends one byte as urgent data; `false` if this system has none on Unix sockets.
pub fn send_urgent(stream: &UnixStream, byte: u8) -> bool {
    match send(stream.as_fd().as_raw_fd(), &[byte], MsgFlags::MSG_OOB) {
        Ok(sent) => sent == 1,
        Err(Errno::EOPNOTSUPP) => false,
        Err(errno) => panic!("urgent data cannot be sent: {errno}"),
    }
}

#[cfg(target_os = "linux")]
mod pass_rights {
    use nix::libc;

    const SO_PASSRIGHTS: libc::c_int = 83;

    #[derive(Clone, Copy, Debug)]
    pub struct PassRights;
    nix::getsockopt_impl!(
        PassRights,
        libc::SOL_SOCKET,
        SO_PASSRIGHTS,
        bool,
        nix::sys::socket::sockopt::GetBool
    );
}

/// Whether sockets of this kernel can refuse descriptors, by a system call, not through the library. Reports
/// a skip if not.
#[cfg(target_os = "linux")]
pub fn can_be_refused() -> bool {
    let (socket, _other) = UnixStream::pair().unwrap();
    let knows = nix::sys::socket::getsockopt(&socket, pass_rights::PassRights).is_ok();
    if !knows {
        super::machine::skip("this kernel has no SO_PASSRIGHTS (Linux 6.16)");
    }
    knows
}

/// A TCP socket whose last close takes up to 8 s: it lingers, and the other end, which is returned with it,
/// reads nothing.
pub fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut full = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    full.set_nonblocking(true).unwrap();
    let bytes = vec![0; 1 << 20];
    loop {
        match full.write(&bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    // Closing a socket that does not block waits for nothing.
    full.set_nonblocking(false).unwrap();
    setsockopt(&full, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 8 }).unwrap();
    (full, other)
}
