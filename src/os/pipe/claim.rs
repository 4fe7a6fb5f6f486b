//! The life of one pipe name: taken, held, and given back with nothing stolen, lost or left behind.
//!
//! A name lives as long as an instance of its pipe, so nothing of a dead server is in the way, and what is
//! held cannot vanish. The system gives it to one process only, by the flag that asks for the first instance;
//! the name is asked before, to say who has it.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::listener::PipeListener;
use crate::os::files::capability::{CapabilityDir, Publication};
use crate::os::files::private_dir::MadeDirs;
use crate::os::names::address::Address;
use crate::os::names::location::Location;
use crate::os::random::Random;
use crate::os::{refused, sys};
use crate::proto::auth::AuthToken;
use crate::proto::error::{Error, ErrorKind};

/// A pipe name that is ours, with everything that was made for it.
///
/// [`Claim::release_within`] takes it all away again, and so does dropping the claim; drop the listener
/// *after* it.
#[derive(Debug)]
pub(crate) struct Claim {
    location: Location,
    auth_token: AuthToken,
    /// Where our right to talk is published, while it is to be removed.
    published: Option<Publication>,
    /// All directories that were made for a start that is not complete.
    made: MadeDirs,
}

impl Claim {
    /// Takes the name at `location`, makes the first instances of its pipe, and publishes `auth_token` in
    /// `capabilities`. The start can still fail: until [`Claim::settle`], dropping the claim also removes the
    /// directories that were made for it.
    ///
    /// If anything fails, what was made is removed again, and so are directories that were made for it,
    /// unless another has put something into them.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::PathTooLong`]: the path cannot be a pipe's
    /// - [`ErrorKind::DirectoryNotPrivate`]: of the capability files
    /// - [`ErrorKind::AlreadyRunning`]: a live server has the name
    /// - [`ErrorKind::PathOccupied`]: another user has the name, or it cannot be told from here who has
    /// - [`ErrorKind::Io`]: the system refused something
    pub(crate) fn begin(
        location: Location,
        capabilities: &CapabilityDir,
        auth_token: &AuthToken,
        random: &mut Random,
    ) -> Result<(PipeListener, Self), Error> {
        let (auth_token, made) = (auth_token.clone(), MadeDirs::default());
        let mut claim = Self { location, auth_token, published: None, made };
        claim.address().check_length()?;
        let listener = take(claim.address())?;
        claim.publish(capabilities, random)?;
        Ok((listener, claim))
    }

    /// Takes the same name again, in place of one whose `listener` is of no use any more. To be settled like
    /// [`Claim::begin`].
    pub(crate) fn begin_again(
        &mut self,
        listener: &impl AsRef<PipeListener>,
        capabilities: &CapabilityDir,
        random: &mut Random,
    ) -> Result<(PipeListener, Self), Error> {
        let another = listener.as_ref().renewed().map_err(|cause| cannot_take(self.address(), cause))?;
        self.remove()?;
        let (location, auth_token) = (self.location.clone(), self.auth_token.clone());
        let mut claim = Self { location, auth_token, published: None, made: MadeDirs::default() };
        claim.publish(capabilities, random)?;
        Ok((another, claim))
    }

    /// The start is complete: the directories that were made for it stay when it stops.
    pub(crate) fn settle(&mut self) {
        self.made = MadeDirs::default();
    }

    /// Where it is.
    pub(crate) fn location(&self) -> &Location {
        &self.location
    }

    /// The address.
    pub(crate) fn address(&self) -> &Address {
        self.location.address()
    }

    /// Whether the name still leads to our pipe: always, while the listener is there.
    pub(crate) fn still_there(&self) -> bool {
        true
    }

    /// Whether clients still find our token where they look for it: one system call, unless something has
    /// changed.
    pub(crate) fn still_published(&self) -> bool {
        self.published
            .as_ref()
            .is_some_and(|published| published.is_in_place(self.address(), &self.auth_token))
    }

    /// Publishes again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DirectoryNotPrivate`], [`ErrorKind::Io`].
    pub(crate) fn publish_again(
        &mut self,
        capabilities: &CapabilityDir,
        random: &mut Random,
    ) -> Result<(), Error> {
        self.publish(capabilities, random)?;
        self.settle();
        Ok(())
    }

    /// Removes exactly what was made: the capability file if it still holds our token. No other start or stop
    /// is in the way, so it does not wait.
    ///
    /// Give it the `listener` while that is still there: without it another server may take the name. A
    /// second call does nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`]. The error says what is left; it can be removed by calling again.
    pub(crate) fn release_within(
        &mut self,
        listener: &impl AsRef<PipeListener>,
        wait: Duration,
    ) -> Result<(), Error> {
        let _ = (listener.as_ref(), wait);
        self.remove()
    }

    fn publish(&mut self, capabilities: &CapabilityDir, random: &mut Random) -> Result<(), Error> {
        let (published, made) =
            capabilities.publish_held(self.location.address(), &self.auth_token, random)?;
        self.published = Some(published);
        self.made.append(made);
        Ok(())
    }

    fn remove(&mut self) -> Result<(), Error> {
        if let Some(published) = &self.published {
            match published.remove_if_ours(self.location.address(), &self.auth_token) {
                // What is not to be believed is not ours: we wrote a good one.
                Err(error) if error.kind() != ErrorKind::CapabilityUnusable => {
                    let sentence =
                        format!("{error}; left behind for now: the capability file {:?}", published.path());
                    return Err(Error::new(error.kind(), sentence));
                }
                _ => {}
            }
            self.published = None;
        }
        self.made.remove();
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, address = %self.address(), "what a server made could not be removed");
        }
    }
}

/// Makes the first instances of the pipe at `address`, or says who has the name.
fn take(address: &Address) -> Result<PipeListener, Error> {
    // The system would refuse it too, and not say by whom it is taken.
    ask(address)?;
    PipeListener::bind(Path::new(address.path())).map_err(|cause| match cause.kind() {
        // Another start was faster, or it is a pipe that only its owner may open.
        io::ErrorKind::PermissionDenied => ask(address)
            .err()
            .unwrap_or_else(|| occupied(address, "it has just been taken").with_source(cause)),
        _ => cannot_take(address, cause),
    })
}

/// Asks who has the name `address`, by a connection to its pipe that is closed at once.
fn ask(address: &Address) -> Result<(), Error> {
    let path = address.path();
    match sys::open_pipe(Path::new(path)) {
        Ok(pipe) => {
            let server = sys::server_identity(&pipe).ok().and_then(|server| server.pid());
            let who = server.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            let sentence = format!("a live server{who} has {path:?}; stop it, or use another path");
            Err(Error::new(ErrorKind::AlreadyRunning, sentence))
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(cause) if sys::is_pipe_busy(&cause) => {
            let sentence = format!("a live server has {path:?}; stop it, or use another path");
            Err(Error::new(ErrorKind::AlreadyRunning, sentence).with_source(cause))
        }
        Err(cause) => {
            Err(occupied(address, "it cannot be asked who has it, perhaps another user").with_source(cause))
        }
    }
}

fn occupied(address: &Address, why: &str) -> Error {
    let sentence = format!("cannot take the pipe name {:?}: {why}; use another path", address.path());
    Error::new(ErrorKind::PathOccupied, sentence)
}

fn cannot_take(address: &Address, cause: io::Error) -> Error {
    refused(format!("cannot take the pipe name {:?}", address.path()), cause)
}
