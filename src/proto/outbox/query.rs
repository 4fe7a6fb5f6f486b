//! Questions and answers on top of single messages: `meta.queryId`, `meta.inReplyTo` and `meta.hops`.
//!
//! A plain message has none of these. [`Outgoing::in_reply_to`] makes a message the answer to another, and
//! [`Queries`] holds the questions that are open: each is answered once, and late answers find none.

use std::fmt;

use crate::proto::error::{Error, ErrorKind};
use crate::proto::json::{self, Kind};
use crate::proto::message::{Message, Outgoing};
use crate::proto::slots::{ConnKey, Slots};
use crate::proto::time::Mono;
use crate::proto::wheel::Wheel;

/// How many answers in a row a conversation may have; the next one is refused.
pub(crate) const HOPS_MAX: u64 = 8;

/// How many answers a conversation has had according to `meta`: the largest `hops` in it. A number that is no
/// small integer is beyond every limit.
fn hops(meta: &str) -> u64 {
    let mut hops = 0;
    json::for_each_member(meta, |key, value| {
        if key == b"hops" && value.kind() == Kind::Number {
            hops = hops.max(value.raw(meta).parse().unwrap_or(u64::MAX));
        }
    });
    hops
}

impl Outgoing {
    /// Makes this the answer to `received`: `meta.inReplyTo` is its `meta.queryId` if it has one, and
    /// `meta.hops` is one more than its own.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TooManyHops`] if the conversation has had 8 answers: two programs that answer
    /// every message would never stop. [`ErrorKind::InvalidMessage`] if `meta` has one of these members
    /// already.
    pub fn in_reply_to(mut self, received: &Message<'_>) -> Result<Self, Error> {
        let meta = received.meta().unwrap_or_default();
        let hops = hops(meta);
        if hops >= HOPS_MAX {
            return Err(Error::new(
                ErrorKind::TooManyHops,
                format!("the conversation has gone on for {HOPS_MAX} answers; this one was not sent"),
            ));
        }
        if let Some(query_id) = json::member_text(meta, "queryId") {
            self.add_meta("inReplyTo", &query_id)?;
        }
        self.add_meta("hops", &(hops + 1))?;
        Ok(self)
    }
}

/// Names one question; no two are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryId(ConnKey);

/// Questions that were asked and not answered yet.
pub struct Queries {
    open: Slots<Mono>,
    wheel: Wheel,
    /// Tells our questions from those of other askers, and of earlier processes.
    nonce: Box<str>,
}

impl Queries {
    /// Room for `queries_max` open questions. `nonce` must differ from that of any other asker: it stands in
    /// their ids.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfMemory`].
    pub fn new(queries_max: usize, nonce: &str) -> Result<Self, Error> {
        Ok(Self { open: Slots::new(queries_max)?, wheel: Wheel::new(queries_max)?, nonce: nonce.into() })
    }

    /// Makes `message` a question: it gets a `meta.queryId`, and is open until `deadline`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutboxFull`] if too many are open; [`ErrorKind::InvalidMessage`] if `meta` has a
    /// `queryId` already.
    pub fn ask(&mut self, mut message: Outgoing, deadline: Mono) -> Result<(QueryId, Outgoing), Error> {
        let key = self.open.insert(deadline).ok_or_else(|| {
            Error::new(ErrorKind::OutboxFull, format!("{} questions are open already", self.open.len()))
        })?;
        let text = format!("{}-{}-{}", self.nonce, key.index(), key.generation());
        if let Err(error) = message.add_meta("queryId", &text) {
            self.open.remove(key);
            return Err(error);
        }
        self.wheel.schedule(key, deadline);
        Ok((QueryId(key), message))
    }

    /// Closes the question that `message` answers, and names it. Later answers to it find none.
    pub fn take_answered(&mut self, message: &Message<'_>) -> Option<QueryId> {
        let in_reply_to = json::member_text(message.meta()?, "inReplyTo")?;
        let mut parts = in_reply_to.strip_prefix(&*self.nonce)?.strip_prefix('-')?.split('-');
        let (index, generation) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let id = QueryId(ConnKey::new(index, generation));
        (parts.next().is_none() && self.close(id)).then_some(id)
    }

    /// Closes a question that needs no answer any more. `false`: it was closed already.
    pub fn close(&mut self, id: QueryId) -> bool {
        self.wheel.cancel(id.0);
        self.open.remove(id.0).is_some()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The exact moment of the next deadline, if any.
    pub fn next_deadline(&mut self) -> Option<Mono> {
        let open = &self.open;
        self.wheel.next_deadline(|key| open.get(key).copied())
    }

    /// Closes a question that was not answered in time, and names it.
    pub fn next_expired(&mut self, now: Mono) -> Option<QueryId> {
        let open = &self.open;
        let key = self.wheel.next_expired(now, |key| open.get(key).copied())?;
        self.open.remove(key);
        Some(QueryId(key))
    }
}

impl fmt::Debug for Queries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queries").field("open", &self.open.len()).finish_non_exhaustive()
    }
}
