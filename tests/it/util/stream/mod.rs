//! What raw peers and scripted servers connect with: Unix sockets, on Windows named pipes with the same face.

#[cfg(windows)]
mod pipe;

#[cfg(unix)]
pub use std::os::unix::net::{UnixListener as Listener, UnixStream as Stream};
use std::path::{Path, PathBuf};

#[cfg(windows)]
pub use self::pipe::{Listener, Stream};

/// A path for a server of the test's own that has the directory `dir`; its parent need not exist.
pub fn path_in(dir: &Path, name: &str) -> PathBuf {
    if cfg!(windows) {
        let dir = dir.file_name().unwrap().to_str().unwrap();
        return format!(r"\\.\pipe\{dir}-{}", name.replace('/', "-")).into();
    }
    dir.join(name)
}

/// Whether a client is let in now.
pub fn can_connect(path: &Path) -> bool {
    #[cfg(unix)]
    let connected = Stream::connect(path);
    // While a stopped server has clients its name is there, and busy.
    #[cfg(windows)]
    let connected = Stream::try_connect(path);
    connected.is_ok()
}

/// A listener to which no other client can connect now, and who keeps others from it.
#[cfg(unix)]
pub fn full_listener(path: &str) -> (Listener, Stream) {
    use nix::sys::socket::{Backlog, listen};
    let listener = Listener::bind(path).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    (listener, Stream::connect(path).unwrap())
}

#[cfg(windows)]
pub fn full_listener(path: &str) -> (Listener, Stream) {
    (Listener::with_backlog(path.as_ref(), 1).unwrap(), Stream::connect(path).unwrap())
}
