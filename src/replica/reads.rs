//! Reads on their way: from a read index to the state that reflects it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ClientConnection;
use super::parking::Arrival;
use crate::raft::ReadState;
use crate::types::LogIndex;

/// Reads that are not answered yet, and writes whose recorded results wait for a read round.
///
/// A linearizable read (thesis 6.4) passes through three places: `turn`, until the turn ends and all its
/// reads are asked for as one batch; `asked`, until the leader has confirmed a read index for the batch;
/// `confirmed`, until that index is applied here. A stale one begins at the last of them.
///
/// Invariants: `count` and `bytes` are over all three; `bytes` stays below `MAX_BYTES` but for the
/// last one that came.
#[derive(Debug, Default)]
pub(super) struct Reads {
    turn: Vec<Arrival>,
    asked: BTreeMap<u64, Vec<Arrival>>,
    confirmed: BTreeMap<LogIndex, VecDeque<Arrival>>,
    /// Whose connections were closed in this turn.
    gone: BTreeSet<ClientConnection>,
    last_batch: u64,
    count: usize,
    bytes: usize,
}

impl Reads {
    /// More are refused as busy.
    pub(super) const MAX_READS: usize = 1 << 16;
    /// Keys and prefixes (and the values of writes that are looked up) beyond this are refused as busy too.
    pub(super) const MAX_BYTES: usize = 32 << 20;

    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Bytes of keys, prefixes and values in all of them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_full(&self) -> bool {
        self.count >= Self::MAX_READS || self.bytes >= Self::MAX_BYTES
    }

    pub(super) fn push(&mut self, read: Arrival) {
        self.count_in(&read);
        self.turn.push(read);
    }

    /// A read for which the state at `applied`, or any later one, will do.
    pub(super) fn push_stale(&mut self, applied: LogIndex, read: Arrival) {
        self.count_in(&read);
        self.confirmed.entry(applied).or_default().push_back(read);
    }

    /// Whether a batch is to be asked for.
    pub(super) fn has_turn(&self) -> bool {
        !self.turn.is_empty()
    }

    /// The turn ends: gives the number of the batch to ask for, if there are reads.
    pub(super) fn begin_batch(&mut self) -> Option<u64> {
        if self.turn.is_empty() {
            return None;
        }
        self.last_batch += 1;
        self.asked.insert(self.last_batch, std::mem::take(&mut self.turn));
        Some(self.last_batch)
    }

    /// A batch got its read index; gives its reads back if they must be asked for again.
    pub(super) fn on_read_state(&mut self, state: ReadState) -> Vec<Arrival> {
        let batch = self.asked.remove(&state.batch).unwrap_or_default();
        match state.read_index {
            Some(index) => {
                self.confirmed.entry(index).or_default().extend(batch);
                Vec::new()
            }
            None => {
                batch.iter().for_each(|read| self.count_out(read));
                batch
            }
        }
    }

    /// A connection is closed.
    pub(super) fn on_client_gone(&mut self, client: ClientConnection) {
        self.gone.insert(client);
    }

    /// Forgets the reads of those that are gone and have no index yet: they need none. Those that have one
    /// are soon answered, to nobody. One look at all of them does for all clients of a turn, of whom
    /// thousands may leave at once.
    pub(super) fn forget_gone(&mut self) {
        let clients = std::mem::take(&mut self.gone);
        if clients.is_empty() {
            return;
        }
        let batches = self.asked.values_mut().chain([&mut self.turn]);
        let gone = batches.flat_map(|batch| batch.extract_if(.., |read| clients.contains(&read.client)));
        let gone: Vec<Arrival> = gone.collect();
        gone.iter().for_each(|read| self.count_out(read));
    }

    /// Whether the state at `applied` answers some read.
    pub(super) fn has_answerable(&self, applied: LogIndex) -> bool {
        self.confirmed.first_key_value().is_some_and(|(index, _)| *index <= applied)
    }

    /// Takes the next read that the state at `applied` answers.
    pub(super) fn next_answerable(&mut self, applied: LogIndex) -> Option<Arrival> {
        let mut first = self.confirmed.first_entry().filter(|first| *first.key() <= applied)?;
        let read = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        read.iter().for_each(|read| self.count_out(read));
        read
    }

    fn count_in(&mut self, read: &Arrival) {
        self.count += 1;
        self.bytes += read.request.body.payload_bytes();
    }

    fn count_out(&mut self, read: &Arrival) {
        self.count -= 1;
        self.bytes -= read.request.body.payload_bytes();
    }
}
