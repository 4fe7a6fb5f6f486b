//! What Windows calls a user: a security identifier.

use std::fmt;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests may fail loudly")]
mod tests;

/// The revision that all identifiers have.
const REVISION: u8 = 1;

/// Bytes before the numbers below the authority: revision, how many numbers, and 6 bytes of authority.
const HEAD_BYTES: usize = 8;

/// The most numbers that one can have.
const NUMBERS_MAX: usize = 15;

/// The most bytes that one can have.
const BYTES_MAX: usize = HEAD_BYTES + 4 * NUMBERS_MAX;

/// A Windows security identifier: a user, a group, or a part of the system.
///
/// It is displayed as Windows writes it: `S-1-5-18`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sid {
    /// As Windows has it in memory, followed by zeros.
    bytes: [u8; BYTES_MAX],
}

impl Sid {
    /// The identifier that `bytes` are in the binary form of Windows; `None` if they are none, or more.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&revision, &numbers) = (bytes.first()?, bytes.get(1)?);
        let len = HEAD_BYTES + 4 * usize::from(numbers);
        if revision != REVISION || bytes.len() != len {
            return None;
        }
        let mut own = [0; BYTES_MAX];
        own.get_mut(..len)?.copy_from_slice(bytes);
        Some(Self { bytes: own })
    }

    /// The binary form of Windows.
    pub fn as_bytes(&self) -> &[u8] {
        let len = HEAD_BYTES + 4 * usize::from(self.bytes[1]);
        self.bytes.get(..len).unwrap_or_default()
    }

    /// Whether it is the system itself (`S-1-5-18`), which can do what root can.
    #[cfg(feature = "os")]
    pub(crate) fn is_local_system(&self) -> bool {
        self.as_bytes() == [1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]
    }

    /// Whether it is the group of administrators (`S-1-5-32-544`), who can take every right.
    #[cfg(feature = "os")]
    pub(crate) fn is_administrators(&self) -> bool {
        self.as_bytes() == [1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 32, 2, 0, 0]
    }

    /// Whether it stands for the owner of a file in the access list of that file (`S-1-3-4`).
    #[cfg(feature = "os")]
    pub(crate) fn is_owner_rights(&self) -> bool {
        self.as_bytes() == [1, 1, 0, 0, 0, 0, 0, 3, 4, 0, 0, 0]
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [revision, _, a, b, c, d, e, g, ..] = self.bytes;
        let authority = u64::from_be_bytes([0, 0, a, b, c, d, e, g]);
        write!(f, "S-{revision}-")?;
        // An authority of more than 32 bits is written in hexadecimal.
        if u32::try_from(authority).is_ok() {
            write!(f, "{authority}")?;
        } else {
            write!(f, "0x{authority:012X}")?;
        }
        let (numbers, _) = self.as_bytes().get(HEAD_BYTES..).unwrap_or_default().as_chunks();
        numbers.iter().try_for_each(|&number| write!(f, "-{}", u32::from_le_bytes(number)))
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sid({self})")
    }
}
