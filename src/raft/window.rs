//! How much is under way to one follower, and how much may be.
//!
//! Entries are pipelined: the next leave before the last are acknowledged. But a heartbeat waits
//! behind all that left before it: in sockets, on the link, and for the follower's disk. So the
//! window follows the heartbeats. It begins with as much as one AppendEntries holds; it doubles when a
//! heartbeat was answered so soon that it would be in time behind twice as much, too; and it is that
//! narrow again as soon as an answer is late. On a link or at a disk that cannot take more in that
//! time, a heartbeat therefore waits behind no more than one AppendEntries.

use std::collections::VecDeque;

use super::config::Config;
use crate::time::{Duration, Instant};
use crate::types::LogIndex;

/// What is under way to one follower.
///
/// Invariants: what is under way lies in the order of the log; its bytes are within `width`, unless it
/// is one single entry, or left when the window was wider; `width` lies between the bytes of one
/// AppendEntries and the configured bytes.
#[derive(Clone, Debug)]
pub(super) struct Window {
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Bytes that may be under way.
    width: usize,
    /// The heartbeat whose time is taken: one after the other.
    timed: Option<Timed>,
}

#[derive(Clone, Copy, Debug)]
struct Timed {
    round: u64,
    left_at: Instant,
    /// Bytes of entries that were under way before it.
    behind: usize,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    last_index: LogIndex,
    bytes: usize,
}

impl Window {
    /// Nothing is under way, and nothing is known of the link.
    pub(super) fn new(config: &Config) -> Self {
        Self { in_flight: VecDeque::new(), in_flight_bytes: 0, width: narrowest(config), timed: None }
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Bytes of entries under way.
    pub(super) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    /// Whether an AppendEntries may leave that begins with an entry of so many bytes.
    pub(super) fn has_room(&self, config: &Config, entry_bytes: usize) -> bool {
        let fits = self.in_flight_bytes.saturating_add(entry_bytes) <= self.width;
        self.is_empty() || (fits && self.in_flight.len() < config.window_messages)
    }

    /// Bytes of entries in the next AppendEntries, at most, but for a single larger entry.
    pub(super) fn room(&self, config: &Config) -> usize {
        self.width.saturating_sub(self.in_flight_bytes).min(config.max_append_bytes)
    }

    /// Entries up to this one have left.
    pub(super) fn on_sent(&mut self, last_index: LogIndex, bytes: usize) {
        self.in_flight.push_back(InFlight { last_index, bytes });
        self.in_flight_bytes += bytes;
    }

    /// The follower has everything up to here.
    pub(super) fn on_match(&mut self, match_index: LogIndex) {
        while let Some(sent) = self.in_flight.pop_front_if(|sent| sent.last_index <= match_index) {
            self.in_flight_bytes -= sent.bytes;
        }
    }

    /// What was under way may be lost: it is no longer counted.
    pub(super) fn clear(&mut self) {
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// A heartbeat leaves. If an earlier one has no answer by now, too much was under way before it.
    pub(super) fn on_heartbeat(&mut self, config: &Config, now: Instant, round: u64) {
        let timed = Timed { round, left_at: now, behind: self.in_flight_bytes };
        let timed = self.timed.get_or_insert(timed);
        if now.since(timed.left_at) >= patience(config) {
            self.width = narrowest(config);
        }
    }

    /// The follower answered a heartbeat. If all the way had grown with the window, would it still have
    /// been in time?
    pub(super) fn on_heartbeat_answered(&mut self, config: &Config, now: Instant, round: u64) {
        let Some(timed) = self.timed.take_if(|timed| timed.round <= round) else { return };
        let took = now.since(timed.left_at).as_nanos();
        let twice = self.width.saturating_mul(2);
        if took * (twice as u128) < patience(config).as_nanos() * (timed.behind as u128) {
            self.width = twice.min(config.window_bytes);
        }
    }
}

/// How long a heartbeat's answer may take. It takes one interval on an idle link where operators follow
/// the advice for wide ones; and the shortest election timeout is longer.
fn patience(config: &Config) -> Duration {
    config.heartbeat * 3
}

fn narrowest(config: &Config) -> usize {
    config.max_append_bytes.min(config.window_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn width_is_kept_where_the_answer_to_a_later_heartbeat_came_in_time() {
        let config = Config::new(NodeId(1), 0);
        let mut window = Window::new(&config);
        window.on_sent(LogIndex(1), config.max_append_bytes);
        window.on_heartbeat(&config, at(0), 1);
        window.on_heartbeat_answered(&config, at(1), 1);
        assert!(window.has_room(&config, 1), "twice as much");
        window.on_heartbeat(&config, at(10), 2);
        window.on_heartbeat_answered(&config, at(12), 3);
        window.on_heartbeat(&config, at(110), 4);
        assert!(window.has_room(&config, 1), "the answer that was lost says nothing any more");
        window.on_heartbeat(&config, at(200), 5);
        assert!(!window.has_room(&config, 1), "one that has no answer for three intervals does");
    }

    #[test]
    fn width_never_exceeds_what_is_configured() {
        let config = Config::new(NodeId(1), 0);
        let mut window = Window::new(&config);
        window.on_sent(LogIndex(1), config.window_bytes);
        for round in 1..20 {
            window.on_heartbeat(&config, at(round), round);
            window.on_heartbeat_answered(&config, at(round), round);
        }
        assert!(!window.has_room(&config, 1));
    }
}
