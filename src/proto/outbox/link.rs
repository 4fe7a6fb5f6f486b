//! One receiver: the messages that wait for it, and where its connection stands.

use std::collections::VecDeque;
use std::time::Duration;

use super::messages::{Messages, SendOutcome};
use super::wire::{Progress, Wire};
use crate::proto::error::{CloseReason, Error, ErrorKind};
use crate::proto::limits::Limits;
use crate::proto::slots::ConnKey;
use crate::proto::time::Mono;

/// The pause between two attempts while a receiver is busy; it doubles each time.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// One receiver and the messages for it.
pub(super) struct Link {
    /// The socket path of the receiver.
    pub(super) target: Box<str>,
    /// Messages not yet given to a connection, in order. Keys of those that expired may still stand here.
    waiting: VecDeque<ConnKey>,
    state: State,
    /// How long the next pause is.
    pause: Duration,
    /// How the last attempt found the receiver busy, if it did. A message that expires meanwhile is told so.
    busy: Option<Busy>,
    /// The receiver has refused a token that was read for an earlier connection.
    is_token_refused: bool,
    is_in_steps: bool,
}

/// Where the connection of a link stands.
enum State {
    /// One is to be made at the next step, if a message waits.
    Wanted,
    /// The shell was asked to make one and has not reported the result.
    Connecting(ConnKey),
    /// The receiver was busy: one is to be made at that time.
    BackingOff { until: Mono },
    /// There is one.
    Open(Box<Wire>),
}

/// How a receiver was found busy.
#[derive(Clone, Copy)]
pub(super) enum Busy {
    /// Its backlog was full.
    Backlog,
    /// It said that it has too many clients.
    Clients,
}

impl Busy {
    /// The reason why a message that waited for the receiver was not sent.
    fn error(self, target: &str) -> Error {
        let (text, what) = match self {
            Self::Backlog => ("Connection timed out".into(), "had a full backlog"),
            Self::Clients => (CloseReason::TooManyClients.wire_text().unwrap_or_default(), "was busy"),
        };
        Error::new(ErrorKind::Busy, format!("{text}: {target:?} {what} all the time"))
    }
}

/// What a link needs after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// To be put among the links that may have a step.
    Step,
    /// To be forgotten: no message needs it.
    End,
}

pub(super) fn timed_out() -> Error {
    Error::new(ErrorKind::TimedOut, "Connection timed out")
}

impl Link {
    pub(super) fn new(target: &str) -> Self {
        Self {
            target: target.into(),
            waiting: VecDeque::new(),
            state: State::Wanted,
            pause: PAUSE_MIN,
            busy: None,
            is_token_refused: false,
            is_in_steps: false,
        }
    }

    /// Whether there is a connection, and nothing waits or is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.wire().is_some_and(Wire::is_idle)
    }

    /// The key of its connection, or of the attempt to make one.
    pub(super) fn wire_key(&self) -> Option<ConnKey> {
        match &self.state {
            State::Connecting(key) => Some(*key),
            State::Open(wire) => Some(wire.key),
            State::Wanted | State::BackingOff { .. } => None,
        }
    }

    /// When the next attempt is to be made, if the link backs off.
    pub(super) fn wakes_at(&self) -> Option<Mono> {
        match self.state {
            State::BackingOff { until } => Some(until),
            _ => None,
        }
    }

    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting(_))
    }

    pub(super) fn wire(&self) -> Option<&Wire> {
        match &self.state {
            State::Open(wire) => Some(wire),
            _ => None,
        }
    }

    pub(super) fn wire_mut(&mut self) -> Option<&mut Wire> {
        match &mut self.state {
            State::Open(wire) => Some(wire),
            _ => None,
        }
    }

    /// Puts a message behind the others that wait.
    pub(super) fn push(&mut self, message: ConnKey, messages: &Messages, limits: &Limits) {
        // Messages that expired behind one that did not would pile up.
        if self.waiting.len() >= 2 * limits.outbox_entries_max {
            self.waiting.retain(|message| messages.is_outstanding(*message));
        }
        self.waiting.push_back(message);
        self.check_invariants();
    }

    /// Does what the link can do by itself: fills its output, or asks for a connection.
    pub(super) fn advance(&mut self, messages: &Messages, limits: &Limits) -> Need {
        // Those at the front that have expired.
        while self.waiting.front().is_some_and(|message| !messages.is_outstanding(*message)) {
            self.waiting.pop_front();
        }
        match &mut self.state {
            State::Open(wire) => {
                let mut has_news = false;
                while wire.has_room(limits)
                    && let Some(message) = self.waiting.pop_front()
                {
                    let Some(outstanding) = messages.get(message) else { continue };
                    if !wire.push(message, &outstanding.line, limits) {
                        self.waiting.push_front(message);
                        break;
                    }
                    has_news = true;
                }
                if !has_news {
                    return Need::Nothing;
                }
            }
            // No message needs the connection that was to be made.
            _ if self.waiting.is_empty() => return Need::End,
            State::Wanted => {}
            State::Connecting(_) | State::BackingOff { .. } => return Need::Nothing,
        }
        let was_in_steps = std::mem::replace(&mut self.is_in_steps, true);
        self.check_invariants();
        if was_in_steps { Need::Nothing } else { Need::Step }
    }

    /// Whether its step is to make a connection.
    pub(super) fn wants_connection(&self) -> bool {
        matches!(self.state, State::Wanted)
    }

    /// The step is taken: the shell is asked to make the connection `key`.
    pub(super) fn take_connect(&mut self, key: ConnKey) {
        debug_assert!(self.wants_connection(), "a connection that is wanted");
        self.state = State::Connecting(key);
        self.is_in_steps = false;
        self.check_invariants();
    }

    /// The step is taken: the connection that is to be written, if it has output.
    pub(super) fn take_write(&mut self) -> Option<ConnKey> {
        self.is_in_steps = false;
        self.check_invariants();
        self.wire().filter(|wire| !wire.output().is_empty()).map(|wire| wire.key)
    }

    /// The connection was made.
    pub(super) fn connected(&mut self, wire: Wire) {
        debug_assert!(self.is_connecting(), "a connection that was asked for");
        self.is_token_refused = false;
        self.state = State::Open(Box::new(wire));
        self.check_invariants();
    }

    /// The receiver has refused the token of the connection that was closed just now, which was an old one.
    pub(super) fn token_refused(&mut self) {
        debug_assert!(self.wire().is_none(), "a connection is closed first");
        self.is_token_refused = true;
    }

    /// Whether the next connection needs a token that was read after now.
    pub(super) fn is_token_refused(&self) -> bool {
        self.is_token_refused
    }

    /// The receiver is busy: the next attempt is made when the pause is over, at the time that is returned.
    pub(super) fn back_off(&mut self, busy: Busy, now: Mono) -> Mono {
        debug_assert!(self.wire().is_none(), "a connection is closed first");
        let until = now.plus(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.busy = Some(busy);
        self.state = State::BackingOff { until };
        self.check_invariants();
        until
    }

    /// A yes came that began at byte `start` of the connection. Takes the message that it answers, if there
    /// is one.
    pub(super) fn accepted(&mut self, start: u64) -> Option<ConnKey> {
        let message = self.wire_mut()?.take_accepted(start)?;
        self.pause = PAUSE_MIN;
        self.busy = None;
        self.check_invariants();
        Some(message)
    }

    /// The deadline of a message has passed: gives it its outcome. The others go on.
    pub(super) fn expire(&mut self, message: ConnKey, messages: &mut Messages) {
        let State::Open(wire) = &mut self.state else {
            let error = self.busy.map_or_else(timed_out, |busy| busy.error(&self.target));
            return messages.finish(message, SendOutcome::NotSent(error));
        };
        match wire.progress(message) {
            // Its answer may still come and must not be taken for that to another, so its place is kept.
            Progress::Whole => messages.finish(message, SendOutcome::Unknown(timed_out())),
            // The rest of its line will not be written, and nothing can be written behind a part of a line.
            // So the messages that were not written whole wait for another connection; those before them
            // still get their answers here.
            Progress::Part => {
                messages.finish(message, SendOutcome::NotSent(timed_out()));
                let unwritten = wire.abandon_output();
                self.wait_again(unwritten, messages);
            }
            Progress::Nothing => {
                wire.withdraw(message);
                messages.finish(message, SendOutcome::NotSent(timed_out()));
            }
        }
    }

    /// Puts messages that were in flight before those that wait, unless they have expired.
    fn wait_again(&mut self, newest_first: impl Iterator<Item = ConnKey>, messages: &Messages) {
        for message in newest_first.filter(|message| messages.is_outstanding(*message)) {
            self.waiting.push_front(message);
        }
        self.check_invariants();
    }

    /// Whether the connection is of no more use: no message waits for an answer from it, and it cannot be
    /// used again.
    pub(super) fn is_deserted(&self, messages: &Messages) -> bool {
        self.wire().is_some_and(|wire| wire.is_deserted(|message| messages.is_outstanding(message)))
    }

    /// Gives messages that were written whole the outcome *unknown*: they may have arrived.
    pub(super) fn finish_written(&mut self, messages: &mut Messages, error: &Error) {
        while let Some(message) = self.wire_mut().and_then(Wire::take_whole) {
            messages.finish(message, SendOutcome::Unknown(error.restated()));
        }
    }

    /// Gives all messages that wait the outcome *not sent*.
    pub(super) fn finish_waiting(&mut self, messages: &mut Messages, error: &Error) {
        for message in self.waiting.drain(..) {
            messages.finish(message, SendOutcome::NotSent(error.restated()));
        }
        self.check_invariants();
    }

    /// Ends the connection, the attempt to make one, or the pause before one. Messages in flight wait again.
    pub(super) fn disconnect(&mut self, messages: &Messages) {
        if let State::Open(wire) = std::mem::replace(&mut self.state, State::Wanted) {
            self.wait_again(wire.into_messages(), messages);
        }
        self.check_invariants();
    }

    /// What holds between two calls of the outbox. O(1).
    pub(super) fn check_advanced(&self) {
        debug_assert!(
            self.is_in_steps || !self.wants_connection(),
            "a link that wants a connection has a step"
        );
        self.check_invariants();
    }

    /// O(1).
    fn check_invariants(&self) {
        debug_assert!((PAUSE_MIN..=PAUSE_MAX).contains(&self.pause), "a pause of {:?}", self.pause);
        debug_assert!(self.busy.is_some() || self.pause == PAUSE_MIN, "a pause without a reason");
        debug_assert!(
            self.busy.is_some() || !matches!(self.state, State::BackingOff { .. }),
            "a link backs off from a receiver that is not busy"
        );
    }
}
