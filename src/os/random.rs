//! Randomness: ChaCha20, seeded by the operating system or, in tests, by the caller.

use std::fmt;
use std::process;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::proto::auth::AuthToken;
use crate::proto::error::{Error, ErrorKind};

/// Where tokens and nonces come from.
///
/// A forked child that draws from a copy of its parent's generator would draw its parent's tokens; one that
/// was seeded by the system is therefore seeded anew when it finds itself in another process.
pub struct Random {
    generator: ChaCha20Rng,
    /// The process that the system seeded it in; `None` if the caller gave the seed.
    seeded_in: Option<u32>,
}

impl Random {
    /// A generator seeded by the operating system.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the system has no randomness to give.
    pub fn from_os() -> Result<Self, Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|cause| {
            let sentence = format!("cannot draw a seed from the operating system: {cause}");
            Error::new(ErrorKind::Io, sentence)
        })?;
        Ok(Self { generator: ChaCha20Rng::from_seed(seed), seeded_in: Some(process::id()) })
    }

    /// A generator that gives the same for the same seed: for tests and simulations.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { generator: ChaCha20Rng::from_seed(seed), seeded_in: None }
    }

    /// A new token.
    pub fn auth_token(&mut self) -> AuthToken {
        AuthToken::from_bytes(self.draw())
    }

    /// A new nonce: 16 random bytes as 32 lower-case hex digits.
    pub fn nonce(&mut self) -> String {
        base16ct::lower::encode_string(&self.draw::<16>())
    }

    /// A number below `end`, which is not 0; small ones come slightly more often.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from_be_bytes(self.draw()) % end
    }

    fn draw<const N: usize>(&mut self) -> [u8; N] {
        self.leave_parent();
        let mut bytes = [0; N];
        self.generator.fill_bytes(&mut bytes);
        bytes
    }

    /// Seeds the generator anew if this process is a forked copy of the one that it was seeded in.
    fn leave_parent(&mut self) {
        let pid = process::id();
        if self.seeded_in.is_none_or(|seeded_in| seeded_in == pid) {
            return;
        }
        let mut drawn = [0; 32];
        self.generator.fill_bytes(&mut drawn);
        let mut fresh = [0; 32];
        // If the system fails now, the pid is enough for what matters: not to draw what the parent draws.
        let _ = getrandom::fill(&mut fresh);
        let seed = Sha256::new().chain_update(drawn).chain_update(pid.to_be_bytes()).chain_update(fresh);
        self.generator = ChaCha20Rng::from_seed(seed.finalize().into());
        self.seeded_in = Some(pid);
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Random").field("seeded_in", &self.seeded_in).finish_non_exhaustive()
    }
}
