//! What a leader knows of one follower: Figure 2's `nextIndex` and `matchIndex`, and what is under
//! way to it.

use super::config::Config;
use super::window::Window;
use crate::time::Instant;
use crate::types::LogIndex;

/// How a leader sends to a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgressState {
    /// It is not known where the logs part: one message at a time, until one matches.
    Probe {
        /// A message is under way, or there is no link to send one on.
        paused: bool,
    },
    /// The logs match so far: messages are pipelined, `next_index` runs ahead.
    Replicate,
    /// It lacks what the log no longer holds: it is sent a snapshot, and no entries meanwhile.
    Snapshot {
        /// The last index that the snapshot stands for.
        index: LogIndex,
    },
}

/// One follower, as its leader sees it.
///
/// Invariants: `match_index` < `next_index`; `match_index` never falls within a term; the
/// messages under way lie between the two, in order.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    match_index: LogIndex,
    next_index: LogIndex,
    state: ProgressState,
    pub(super) window: Window,
    /// Highest round of heartbeats that it answered in this term.
    pub(super) acked_round: u64,
    /// When it last was heard to follow this leader.
    pub(super) heard_at: Instant,
    /// The highest commit index that it was told.
    pub(super) told_commit: LogIndex,
    /// What is under way to it may be lost: an empty message shall find out.
    pub(super) poke: bool,
    /// It was told that its order to campaign holds: in later terms it may win, at any time.
    pub(super) may_win: bool,
}

impl Progress {
    /// "nextIndex: initialized to leader last log index + 1; matchIndex: initialized to 0"
    /// (Figure 2). `paused` if there is no link to the follower. The votes of its election, `now`, are
    /// what the leader heard of its followers first.
    #[must_use]
    pub(super) fn new(config: &Config, last_index: LogIndex, paused: bool, now: Instant) -> Self {
        Self {
            match_index: LogIndex::ZERO,
            next_index: last_index.next(),
            state: ProgressState::Probe { paused },
            window: Window::new(config),
            acked_round: 0,
            heard_at: now,
            told_commit: LogIndex::ZERO,
            poke: false,
            may_win: false,
        }
    }

    /// Index of highest log entry known to be replicated on the follower.
    #[must_use]
    pub(super) fn match_index(&self) -> LogIndex {
        self.match_index
    }

    /// Index of the next log entry to send to it.
    #[must_use]
    pub(super) fn next_index(&self) -> LogIndex {
        self.next_index
    }

    /// How it is sent to.
    #[must_use]
    pub(super) fn state(&self) -> ProgressState {
        self.state
    }

    /// Whether an AppendEntries may be sent that begins with an entry of so many bytes.
    #[must_use]
    pub(super) fn may_send(&self, config: &Config, entry_bytes: usize) -> bool {
        match self.state {
            ProgressState::Probe { paused } => !paused,
            ProgressState::Replicate => self.window.has_room(config, entry_bytes),
            ProgressState::Snapshot { .. } => false,
        }
    }

    /// Notes that a message with entries up to `last_index` was sent (empty: `last_index` is the
    /// one before `next_index`).
    pub(super) fn on_sent(&mut self, last_index: LogIndex, bytes: usize) {
        self.poke = false;
        match self.state {
            ProgressState::Probe { .. } => self.state = ProgressState::Probe { paused: true },
            ProgressState::Replicate if last_index >= self.next_index => {
                self.window.on_sent(last_index, bytes);
                self.next_index = last_index.next();
            }
            ProgressState::Replicate | ProgressState::Snapshot { .. } => {}
        }
        self.check();
    }

    /// "If successful: update nextIndex and matchIndex for follower" (Figure 2). Whether the match
    /// is news.
    pub(super) fn on_match(&mut self, match_index: LogIndex) -> bool {
        let is_news = match_index > self.match_index;
        self.match_index = self.match_index.max(match_index);
        self.next_index = self.next_index.max(match_index.next());
        self.window.on_match(match_index);
        let goes_on = match self.state {
            ProgressState::Probe { .. } => true,
            ProgressState::Replicate => false,
            ProgressState::Snapshot { index } => match_index >= index,
        };
        if goes_on {
            self.state = ProgressState::Replicate;
        }
        self.poke &= !self.window.is_empty();
        self.check();
        is_news
    }

    /// "If AppendEntries fails because of log inconsistency: decrement nextIndex and retry"
    /// (Figure 2), with the follower's hint for how far. Late refusals of messages sent before the
    /// current ones are told by `refused`, the `prev_log_index` they answer, and ignored.
    pub(super) fn on_conflict(&mut self, refused: LogIndex, next_index: LogIndex) {
        let is_late = match self.state {
            ProgressState::Probe { .. } => refused.next() != self.next_index,
            ProgressState::Replicate => refused <= self.match_index,
            ProgressState::Snapshot { .. } => true,
        };
        if !is_late {
            self.probe(false);
            self.next_index = next_index.min(refused).max(self.match_index.next());
        }
        self.check();
    }

    /// The log does not reach back to `next_index`: a snapshot up to `index` is sent instead.
    pub(super) fn begin_snapshot(&mut self, index: LogIndex) {
        self.probe(false);
        self.state = ProgressState::Snapshot { index };
        self.poke = false;
    }

    /// Back to one message at a time: what is under way may be lost.
    pub(super) fn probe(&mut self, paused: bool) {
        self.state = ProgressState::Probe { paused };
        self.next_index = match self.window.is_empty() {
            true => self.next_index,
            false => self.match_index.next(),
        };
        self.window.clear();
        self.check();
    }

    /// The follower answered a heartbeat, so it lives. Behind messages that have no answer, an empty one
    /// is sent, which the follower refuses if they were lost: they may as well be on their way, and must
    /// not be there twice.
    pub(super) fn on_heard(&mut self, last_index: LogIndex) {
        self.poke = match self.state {
            ProgressState::Probe { paused } => paused,
            ProgressState::Replicate => self.match_index < last_index,
            ProgressState::Snapshot { .. } => self.poke,
        };
    }

    fn check(&self) {
        let (matched, next) = (self.match_index, self.next_index);
        assert!(matched < next, "match index {matched}, next index {next}");
        let bytes = self.window.in_flight_bytes();
        assert!(!self.window.is_empty() || bytes == 0, "{bytes} bytes under way in none");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    #[test]
    fn refusal_of_an_earlier_probe_changes_nothing() {
        let config = Config::new(NodeId(1), 0);
        let mut progress = Progress::new(&config, LogIndex(9), false, Instant::ZERO);
        progress.on_sent(LogIndex(9), 0);
        progress.on_conflict(LogIndex(9), LogIndex(5));
        progress.on_sent(LogIndex(4), 0);
        progress.on_conflict(LogIndex(9), LogIndex(2));
        assert_eq!(progress.next_index(), LogIndex(5));
        assert_eq!(progress.state(), ProgressState::Probe { paused: true }, "one at a time");
    }
}
