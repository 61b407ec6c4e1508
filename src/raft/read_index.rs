//! Linearizable reads without a log entry (thesis 6.4), by numbered rounds.
//!
//! A leader notes its commit index, begins a round of heartbeats *after* that, and once a majority
//! answered that round it knows that it still led when the round began: whatever was committed
//! before is at or below the noted index. Rounds are numbered by the leader within its term, so an
//! answer to an older round, however late, confirms nothing newer; and what is answered to a heartbeat
//! of an earlier term names no round. All reads of a turn share one round, and every heartbeat is a
//! round.

use std::collections::VecDeque;

use crate::time::Instant;
use crate::types::{LogIndex, NodeId};

/// Who waits for a read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reader {
    /// This node, for a batch of its own reads.
    Local {
        /// The caller's number for the batch.
        batch: u64,
    },
    /// A follower.
    Remote {
        /// The follower.
        follower: NodeId,
        /// Its number for the request.
        request: u64,
    },
}

/// A leader's rounds in its term.
///
/// Invariants: `confirmed` ≤ `current`; `open` holds the rounds above `confirmed`, in order; each
/// reader under way waits for a round above `confirmed`.
#[derive(Debug)]
pub(super) struct Rounds {
    current: u64,
    confirmed: u64,
    /// When the confirmed round began: then, for certain, this node led.
    confirmed_at: Instant,
    /// When each round above it began.
    open: VecDeque<Instant>,
    waiting: Vec<Reader>,
    under_way: VecDeque<(u64, LogIndex, Reader)>,
}

impl Rounds {
    /// A leader just won.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            current: 0,
            confirmed: 0,
            confirmed_at: now,
            open: VecDeque::new(),
            waiting: Vec::new(),
            under_way: VecDeque::new(),
        }
    }

    /// The number of the last round that began.
    pub(super) fn current(&self) -> u64 {
        self.current
    }

    /// When this round began, unless that was before the last confirmed one.
    pub(super) fn begun_at(&self, round: u64) -> Option<Instant> {
        match round.checked_sub(self.confirmed)? {
            0 => Some(self.confirmed_at),
            later => self.open.get(usize::try_from(later - 1).ok()?).copied(),
        }
    }

    /// A read that the next round shall confirm.
    pub(super) fn register(&mut self, reader: Reader) {
        self.waiting.push(reader);
    }

    /// Whether reads wait for a round to begin.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Begins a round and gives its number. `read_index` is the commit index, or `None` while no
    /// entry of the term is committed: then the reads go on waiting.
    pub(super) fn begin(&mut self, now: Instant, read_index: Option<LogIndex>) -> u64 {
        self.current += 1;
        self.open.push_back(now);
        if let Some(index) = read_index {
            let round = self.current;
            self.under_way.extend(self.waiting.drain(..).map(|reader| (round, index, reader)));
        }
        self.current
    }

    /// A majority answered `round` or a later one: gives the reads that this confirms, each with
    /// its read index.
    pub(super) fn confirm(&mut self, round: u64) -> Vec<(LogIndex, Reader)> {
        assert!(round <= self.current, "round {round} confirmed, {} begun", self.current);
        while self.confirmed < round {
            self.confirmed += 1;
            self.confirmed_at = self.open.pop_front().expect("open rounds lie above the confirmed one");
        }
        let open = self.open.len() as u64;
        assert_eq!(self.confirmed + open, self.current, "{open} rounds are open");
        let count = self.under_way.iter().take_while(|(needed, ..)| *needed <= round).count();
        self.under_way.drain(..count).map(|(_, index, reader)| (index, reader)).collect()
    }

    /// Leadership is over: everyone who still waits must ask again.
    pub(super) fn abandon(self) -> impl Iterator<Item = Reader> {
        let under_way = self.under_way.into_iter().map(|(_, _, reader)| reader);
        under_way.chain(self.waiting)
    }
}

/// A follower's reads that wait for its leader's answer.
///
/// Request numbers only rise, also over changes of leader, so no late answer is taken for another.
/// An answer to request `r` serves every batch that was first asked for at or before `r`: the
/// leader noted its index after that.
#[derive(Debug, Default)]
pub(super) struct ForwardedReads {
    /// Batches with the number of the request that first asked for them; zero: not asked yet.
    batches: Vec<(u64, u64)>,
    /// Requests up to this one were asked of earlier leaders, or of this one in an earlier term.
    before: u64,
    last_request: u64,
    asked_at: Instant,
}

impl ForwardedReads {
    /// There is a leader; so far this node has sent so many requests.
    pub(super) fn begin(&mut self, requests: u64) {
        self.before = requests;
    }

    /// Whether a request was asked of the present leader in its term.
    pub(super) fn was_asked(&self, request: u64) -> bool {
        self.before < request && request <= self.last_request
    }

    /// Adds a batch, to be asked for at the end of the turn.
    pub(super) fn register(&mut self, batch: u64) {
        self.batches.push((0, batch));
    }

    /// Whether a request should be sent: batches are new, or the last request is unanswered since
    /// `retry_before`.
    pub(super) fn wants_request(&self, retry_before: Instant) -> bool {
        let is_new = self.batches.iter().any(|(request, _)| *request == 0);
        is_new || (!self.batches.is_empty() && self.asked_at < retry_before)
    }

    /// When the oldest request began, if one is unanswered.
    pub(super) fn asked_at(&self) -> Option<Instant> {
        (!self.batches.is_empty()).then_some(self.asked_at)
    }

    /// Notes that `request` is sent for all that wait.
    pub(super) fn on_asked(&mut self, now: Instant, request: u64) {
        assert!(request > self.last_request, "request numbers rise");
        self.last_request = request;
        self.asked_at = now;
        for (first_request, _) in self.batches.iter_mut().filter(|(first_request, _)| *first_request == 0) {
            *first_request = request;
        }
    }

    /// Takes the batches that an answer to `request` serves.
    pub(super) fn answered(&mut self, request: u64) -> Vec<u64> {
        let serves = |asked: u64| asked != 0 && asked <= request && request <= self.last_request;
        let (served, waiting) =
            std::mem::take(&mut self.batches).into_iter().partition(|(asked, _)| serves(*asked));
        self.batches = waiting;
        let served: Vec<(u64, u64)> = served;
        served.into_iter().map(|(_, batch)| batch).collect()
    }

    /// The leader changed: takes all batches.
    pub(super) fn abandon(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.batches).into_iter().map(|(_, batch)| batch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Reader = Reader::Local { batch: 7 };

    #[test]
    fn round_begun_before_a_read_does_not_confirm_it() {
        let mut rounds = Rounds::new(Instant::ZERO);
        let before = rounds.begin(Instant::ZERO, Some(LogIndex(3)));
        rounds.register(LOCAL);
        let after = rounds.begin(Instant::from_millis(1), Some(LogIndex(4)));
        assert_eq!(rounds.confirm(before), []);
        assert_eq!(rounds.confirm(after), [(LogIndex(4), LOCAL)]);
        assert_eq!(rounds.begun_at(before), None, "long ago");
        assert_eq!(rounds.begun_at(after), Some(Instant::from_millis(1)));
        let next = rounds.begin(Instant::from_millis(2), None);
        assert_eq!(rounds.begun_at(next), Some(Instant::from_millis(2)));
        assert_eq!(rounds.begun_at(next + 1), None, "not yet");
    }

    #[test]
    fn round_without_a_read_index_leaves_reads_waiting() {
        let mut rounds = Rounds::new(Instant::ZERO);
        rounds.register(LOCAL);
        let round = rounds.begin(Instant::ZERO, None);
        assert_eq!(rounds.confirm(round), []);
        assert!(rounds.has_waiting());
        assert_eq!(rounds.abandon().collect::<Vec<_>>(), [LOCAL]);
    }

    #[test]
    fn forwarded_read_is_served_by_its_own_or_a_later_request_only() {
        let mut reads = ForwardedReads::default();
        reads.register(1);
        reads.on_asked(Instant::ZERO, 10);
        reads.register(2);
        reads.on_asked(Instant::ZERO, 11);
        assert!(reads.answered(9).is_empty(), "an answer from before");
        assert_eq!(reads.answered(10), [1]);
        assert!(reads.answered(99).is_empty(), "a request that was never sent");
        reads.register(3);
        assert_eq!(reads.answered(11), [2], "batch 3 was not asked for yet");
        assert_eq!(reads.abandon(), [3]);
    }
}
