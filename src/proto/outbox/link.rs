//! One receiver: the messages that wait for it, and where its connection stands.

use std::collections::VecDeque;
use std::time::Duration;

use super::LinkStep;
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
    target: Box<str>,
    /// Messages not yet given to a connection, in order. Keys of those that expired may still stand here.
    waiting: VecDeque<ConnKey>,
    state: State,
    /// How long the next pause is.
    pause: Duration,
    /// How the last attempt found the receiver busy, if it did. A message that expires meanwhile is told so.
    busy: Option<Busy>,
    is_in_steps: bool,
}

/// Where the connection of a link stands.
enum State {
    /// There is none, and none is needed.
    Idle,
    /// One is to be made at the next step.
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

/// What a link among those that may have a step turns out to have.
pub(super) enum NextStep {
    Nothing,
    /// It wants a connection, and no key is free for one. It stays marked as waiting for a step.
    NoKey,
    Step(ConnKey, LinkStep),
}

pub(super) fn timed_out() -> Error {
    Error::new(ErrorKind::TimedOut, "Connection timed out")
}

impl Link {
    pub(super) fn new(target: &str) -> Self {
        Self {
            target: target.into(),
            waiting: VecDeque::new(),
            state: State::Idle,
            pause: PAUSE_MIN,
            busy: None,
            is_in_steps: false,
        }
    }

    /// The socket path of the receiver.
    pub(super) fn target(&self) -> &str {
        &self.target
    }

    /// Whether nothing waits and nothing is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && match &self.state {
                State::Idle => true,
                State::Open(wire) => wire.is_idle(),
                State::Wanted | State::Connecting(_) | State::BackingOff { .. } => false,
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
        self.drop_expired(messages);
        match &mut self.state {
            State::Open(wire) => {
                while wire.has_room(limits)
                    && let Some(message) = self.waiting.pop_front()
                {
                    let Some(line) = messages.line(message) else { continue };
                    if !wire.push(message, line, limits) {
                        self.waiting.push_front(message);
                        break;
                    }
                }
                if !wire.has_news() {
                    return Need::Nothing;
                }
            }
            // No message needs the connection that was to be made.
            _ if self.waiting.is_empty() => return Need::End,
            State::Idle => self.state = State::Wanted,
            State::Wanted => {}
            State::Connecting(_) | State::BackingOff { .. } => return Need::Nothing,
        }
        let was_in_steps = std::mem::replace(&mut self.is_in_steps, true);
        self.check_invariants();
        if was_in_steps { Need::Nothing } else { Need::Step }
    }

    /// Drops the messages at the front that have expired.
    fn drop_expired(&mut self, messages: &Messages) {
        while self.waiting.front().is_some_and(|message| !messages.is_outstanding(*message)) {
            self.waiting.pop_front();
        }
    }

    /// The step that it has now. `new_key` gives a key for a connection, if one is free.
    pub(super) fn next_step(&mut self, new_key: impl FnOnce() -> Option<ConnKey>) -> NextStep {
        let next = match &mut self.state {
            State::Wanted => {
                let Some(key) = new_key() else { return NextStep::NoKey };
                self.state = State::Connecting(key);
                NextStep::Step(key, LinkStep::Connect)
            }
            State::Open(wire) => {
                if wire.take_news() {
                    NextStep::Step(wire.key(), LinkStep::Write)
                } else {
                    NextStep::Nothing
                }
            }
            State::Idle | State::Connecting(_) | State::BackingOff { .. } => NextStep::Nothing,
        };
        self.is_in_steps = false;
        self.check_invariants();
        next
    }

    /// The connection was made.
    pub(super) fn connected(&mut self, wire: Wire) {
        debug_assert!(self.is_connecting(), "a connection that was asked for");
        self.state = State::Open(Box::new(wire));
    }

    /// There is no connection: the attempt failed, or the pause is over.
    pub(super) fn set_idle(&mut self) {
        debug_assert!(self.wire().is_none(), "a connection is closed first");
        self.state = State::Idle;
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
            Progress::Part => {
                messages.finish(message, SendOutcome::NotSent(timed_out()));
                self.abandon_output(messages);
            }
            Progress::Nothing => {
                wire.withdraw(message);
                messages.finish(message, SendOutcome::NotSent(timed_out()));
            }
        }
    }

    /// The rest of a line that was written partly will not be written, and nothing can be written behind a
    /// part of a line. So the messages that were not written whole wait for another connection; those before
    /// them still get their answers here.
    fn abandon_output(&mut self, messages: &Messages) {
        let State::Open(wire) = &mut self.state else { return };
        wire.abandon_output();
        while let Some(message) = wire.take_partial() {
            if messages.is_outstanding(message) {
                self.waiting.push_front(message);
            }
        }
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
    }

    /// Ends the connection, or the attempt to make one; its key is returned. Messages in flight wait again.
    pub(super) fn disconnect(&mut self, messages: &Messages) -> Option<ConnKey> {
        let key = match &mut self.state {
            State::Open(wire) => {
                while let Some(message) = wire.take_newest() {
                    if messages.is_outstanding(message) {
                        self.waiting.push_front(message);
                    }
                }
                wire.key()
            }
            State::Connecting(key) => *key,
            State::Idle | State::Wanted | State::BackingOff { .. } => return None,
        };
        self.state = State::Idle;
        self.check_invariants();
        Some(key)
    }

    /// O(1).
    fn check_invariants(&self) {
        debug_assert!((PAUSE_MIN..=PAUSE_MAX).contains(&self.pause), "a pause of {:?}", self.pause);
        debug_assert!(
            self.is_in_steps || !matches!(self.state, State::Wanted),
            "a link that wants a connection has a step"
        );
    }
}
