//! What a peer asks for is decided here, in one `match`, and nowhere else.

use super::Endpoint;
use super::connection::Pause;
use crate::proto::error::CloseReason;
use crate::proto::message::{Reply, Request};
use crate::proto::slots::ConnKey;
use crate::proto::time::Now;

/// How much of what a connection has sent is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The lines of one turn.
    Budget,
    /// Every whole line in its buffer: a timeout or an eviction is about to be enforced.
    Everything,
}

/// Why no further line of a connection is taken now.
enum Stop {
    /// There is no whole line.
    NoLine,
    /// There may be lines, and they wait.
    Pause(Pause),
    /// The connection ends.
    Close(CloseReason),
}

impl Endpoint {
    /// Takes up to a budget of lines out of what a connection has sent, and answers them.
    ///
    /// A message that finds the inbox full is refused only if nothing was put into it in this turn. Otherwise
    /// it waits for the next one, so that an owner who drains after every turn never has a message refused.
    /// Its sender keeps its place ahead of those that were served in this turn, and its timeouts are
    /// suspended meanwhile.
    pub(super) fn process(&mut self, key: ConnKey, scope: Scope, now: Now) {
        let stop = match self.slots.get(key) {
            Some(connection) if connection.is_open() && !connection.is_paused() => {
                self.take_lines(key, scope, now)
            }
            // What a closing one sends is thrown away, and one that is paused goes on when its pause ends.
            _ => return self.settle(key),
        };
        let Some(connection) = self.slots.get_mut(key) else { return };
        let reason = match stop {
            Stop::Close(reason) => Some(reason),
            Stop::NoLine => {
                connection.note_unfinished(now.mono);
                connection.finished()
            }
            Stop::Pause(pause) => {
                connection.pause(pause);
                if pause.ends_next_turn() {
                    self.turns.enqueue(key, connection.share_mut());
                }
                None
            }
        };
        match reason {
            Some(reason) => self.close(key, reason, now),
            None => self.settle(key),
        }
    }

    fn take_lines(&mut self, key: ConnKey, scope: Scope, now: Now) -> Stop {
        let Self { limits, turns, inbox, stats, answer_bytes_max, .. } = self;
        let Some(connection) = self.slots.get_mut(key) else { return Stop::NoLine };
        connection.lend_output_memory(&mut self.spare_outputs);
        let (peer, rate) = (connection.peer(), limits.pid_lines_per_second_max);
        // What was left over and what is read anew are one budget.
        let budget = match scope {
            Scope::Budget => turns.lines_left(connection.share_mut(), limits.turn_frames_max),
            Scope::Everything => usize::MAX,
        };
        let mut taken = 0;
        let stop = loop {
            if taken == budget {
                break if connection.look_for_line() { Stop::Pause(Pause::NextTurn) } else { Stop::NoLine };
            }
            let has_room = |len| inbox.has_room(peer.pid(), len);
            if turns.has_enqueued() && !connection.next_line_len().is_none_or(has_room) {
                break Stop::Pause(Pause::InboxFull);
            }
            // A client that is about to be closed because it has not authenticated may show all that it has
            // sent.
            let is_paced = rate > 0 && (scope == Scope::Budget || connection.is_authenticated());
            if is_paced
                && let Err(until) = connection.count_line(|| self.rates.take(peer.pid(), rate, now.mono))
            {
                stats.count_throttled();
                break Stop::Pause(Pause::RateLimited { until });
            }
            if connection.is_output_full(*answer_bytes_max, limits) {
                break Stop::Pause(Pause::OutputFull { since: now.mono });
            }
            let Some(request) = connection.next_request(limits, &self.auth_token) else { break Stop::NoLine };
            taken += 1;
            let reply = match request {
                Request::Blank => continue,
                Request::Ping => {
                    stats.count_ping();
                    Reply::Pong { from_json: &self.path_json }
                }
                Request::Deliver(message) => {
                    let Some(id) = inbox.push(message, peer, now.wall) else {
                        break Stop::Close(CloseReason::InboxFull);
                    };
                    turns.note_enqueued();
                    Reply::Response { number: id.number() }
                }
                Request::Refuse(reason) => break Stop::Close(reason),
            };
            // A blank line leaves its place in the rate to the next one.
            if is_paced {
                connection.counted_line_taken();
            }
            if !connection.reply(&reply, self.stamp.text(now.wall), *answer_bytes_max, limits) {
                // Without memory for an answer there is none for an error line either.
                connection.fail_output();
                break Stop::Close(CloseReason::PeerGone);
            }
        };
        if taken > 0 {
            turns.note_taken(connection.share_mut(), taken);
            connection.lines_taken(now.mono);
        }
        stop
    }
}
