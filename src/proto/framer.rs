//! Where a line ends: [`Framer`] cuts the bytes of one connection's [`Ring`] into frames at their newlines.
//!
//! It remembers how far it has searched, so each byte is searched once however the bytes arrive, and it never
//! looks further than the longest frame allowed.

use std::fmt;

use super::ring::Ring;

/// What [`Framer::next_frame`] found.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum FrameOutcome<'r> {
    /// A whole frame, its newline taken off. It has left the ring, and its bytes stay until the ring is
    /// written to.
    Frame(&'r [u8]),
    /// No newline yet, and the limit is not passed.
    NeedMore,
    /// The frame is longer than the limit. Nothing after it will be framed.
    TooLong {
        /// Bytes of it that have been looked at: one more than the limit.
        seen: usize,
    },
}

/// Shows how long a frame is, not what is in it: that may be a token.
impl fmt::Debug for FrameOutcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(line) => write!(f, "Frame({} bytes)", line.len()),
            Self::NeedMore => f.write_str("NeedMore"),
            Self::TooLong { seen } => write!(f, "TooLong({seen} bytes)"),
        }
    }
}

/// Finds frames in one connection's input, one after the other.
///
/// A frame of exactly the limit is fine and one byte more is not, with or without its newline. A ring of the
/// limit and one byte therefore never fills up without a frame or a refusal.
///
/// Use one framer with one ring at a time and consume nothing behind its back. When the ring is empty,
/// another empty one may take its place.
#[derive(Debug)]
pub struct Framer {
    frame_bytes_max: usize,
    search: Search,
}

/// What is known of the waiting bytes, counted from the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// The first `searched` bytes hold no newline. Invariant: `searched <= ring.len()`.
    Open { searched: usize },
    /// The first newline is the byte at `length`, which is within the limit.
    Found { length: usize },
    /// A frame was too long; nothing more is framed.
    TooLong,
}

impl Framer {
    /// A framer for frames of at most `frame_bytes_max` bytes, the newline not counted.
    pub const fn new(frame_bytes_max: usize) -> Self {
        Self { frame_bytes_max, search: Search::Open { searched: 0 } }
    }

    /// Takes the next frame out of `ring`, or says why there is none.
    ///
    /// O(bytes not searched before, up to the newline). Once too long is too long for ever.
    pub fn next_frame<'r>(&mut self, ring: &'r mut Ring) -> FrameOutcome<'r> {
        match self.search(ring.view()) {
            Search::Open { .. } => FrameOutcome::NeedMore,
            Search::Found { length } => {
                self.search = Search::Open { searched: 0 };
                FrameOutcome::Frame(ring.consume(length + 1).get(..length).unwrap_or_default())
            }
            Search::TooLong => FrameOutcome::TooLong { seen: self.frame_bytes_max.saturating_add(1) },
        }
    }

    /// Searches as [`Framer::next_frame`] does and takes nothing out: whether that would give something other
    /// than a need for more bytes.
    pub fn look_for_frame(&mut self, ring: &Ring) -> bool {
        !matches!(self.search(ring.view()), Search::Open { .. })
    }

    /// The length of the frame that [`Framer::next_frame`] would take out, if it would.
    pub(crate) fn ready_len(&mut self, ring: &Ring) -> Option<usize> {
        match self.search(ring.view()) {
            Search::Found { length } => Some(length),
            Search::Open { .. } | Search::TooLong => None,
        }
    }

    /// Goes on with the search in `waiting`, all that is in the ring.
    fn search(&mut self, waiting: &[u8]) -> Search {
        if let Search::Open { searched } = self.search
            && searched != waiting.len()
        {
            debug_assert!(searched <= waiting.len(), "{searched} of {} bytes searched", waiting.len());
            // The newline of the longest frame comes right behind it.
            let end = waiting.len().min(self.frame_bytes_max.saturating_add(1));
            let newline = memchr::memchr(b'\n', waiting.get(searched..end).unwrap_or_default());
            self.search = match newline {
                Some(at) => Search::Found { length: searched + at },
                None if end > self.frame_bytes_max => Search::TooLong,
                None => Search::Open { searched: end },
            };
        }
        self.search
    }
}
