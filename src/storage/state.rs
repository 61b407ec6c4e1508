//! What is durable, as values: the payloads of the log's records, and what they add up to.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Batch;
use crate::types::{BootNumber, ClusterId, Incarnation, LogIndex, NodeId, Term};
use crate::wire::entry::{Entry, HardState, MAX_ENTRY_BYTES, Payload};
use crate::wire::{DecodeError, Reader, Writer};

/// All that is durable but the entries.
///
/// ```text
/// node u64 | incarnation u64 | boot u64 | hard state | list of (node u64, boot u64)
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The node that the directory belongs to.
    pub(super) node: NodeId,
    /// The directory's incarnation.
    pub(super) incarnation: Incarnation,
    /// How often the directory was opened.
    pub(super) boot: BootNumber,
    /// "Persistent state on all servers" (the paper's Figure 2), but for the log itself.
    pub(super) hard_state: HardState,
    /// The highest boot seen of each peer.
    pub(super) peer_boots: BTreeMap<NodeId, BootNumber>,
}

impl State {
    /// The state of a directory that was never opened.
    pub(super) fn new(node: NodeId, incarnation: Incarnation) -> Self {
        let (hard_state, peer_boots) = (HardState::default(), BTreeMap::new());
        Self { node, incarnation, boot: BootNumber(0), hard_state, peer_boots }
    }

    /// The payload of a state record.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Writer::new();
        out.u64(self.node.0);
        out.u64(self.incarnation.0);
        out.u64(self.boot.0);
        self.hard_state.encode(&mut out);
        out.list(self.peer_boots.iter(), |out, (id, boot)| put_boot(out, *id, *boot));
        out.into_bytes()
    }

    /// Reads the payload of a state record.
    pub(super) fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(payload);
        let (node, incarnation) = (NodeId(bytes.u64()?), Incarnation(bytes.u64()?));
        let boot = BootNumber(bytes.u64()?);
        let hard_state = HardState::decode(&mut bytes)?;
        let peer_boots = bytes.list(take_boot)?.into_iter().collect();
        bytes.finish()?;
        Ok(Self { node, incarnation, boot, hard_state, peer_boots })
    }

    /// Takes over what a batch changes.
    pub(super) fn apply(&mut self, batch: &Batch<'_>) {
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        for (id, boot) in batch.peer_boots {
            let known = self.peer_boots.entry(*id).or_default();
            *known = (*known).max(*boot);
        }
    }
}

fn put_boot(out: &mut Writer, id: NodeId, boot: BootNumber) {
    out.u64(id.0);
    out.u64(boot.0);
}

fn take_boot(bytes: &mut Reader) -> Result<(NodeId, BootNumber), DecodeError> {
    Ok((NodeId(bytes.u64()?), BootNumber(bytes.u64()?)))
}

/// The payload of a batch record, as it is read.
///
/// ```text
/// optional hard state | list of (node u64, boot u64) | list of entries, each a byte string
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredBatch {
    hard_state: Option<HardState>,
    peer_boots: Vec<(NodeId, BootNumber)>,
    entries: Vec<Entry>,
}

impl StoredBatch {
    /// Reads the payload. The entries are slices of it.
    pub(super) fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(payload);
        let hard_state = bytes.option("hard state", HardState::decode)?;
        let peer_boots = bytes.list(take_boot)?;
        let entries = bytes.list(|bytes| Entry::decode(bytes.byte_string("entry", MAX_ENTRY_BYTES)?))?;
        bytes.finish()?;
        Ok(Self { hard_state, peer_boots, entries })
    }

    /// The same as it was written.
    pub(super) fn as_batch(&self) -> Batch<'_> {
        let Self { hard_state, peer_boots, entries } = self;
        Batch { hard_state: *hard_state, entries, peer_boots }
    }

    /// Its entries.
    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}

/// The payload of a batch record.
pub(super) fn encode_batch(batch: &Batch<'_>) -> Bytes {
    let entries: usize = batch.entries.iter().map(|entry| 4 + entry.encoded().len()).sum();
    let mut out = Writer::with_capacity(64 + 16 * batch.peer_boots.len() + entries);
    out.option(batch.hard_state, |out, hard_state| hard_state.encode(out));
    out.list(batch.peer_boots.iter(), |out, (id, boot)| put_boot(out, *id, *boot));
    out.list(batch.entries.iter(), |out, entry| out.byte_string(entry.encoded()));
    out.into_bytes()
}

/// The sum of all records so far, without the entries themselves.
///
/// Invariants, kept by what [`Durable::contradiction`] refuses:
/// - The log is contiguous from index 1 on; entry 1 is a configuration and names the cluster.
/// - Terms never fall along the log, and none is above the hard state's.
/// - The hard state's term never falls. Within a term a vote is given once and never taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Durable {
    /// All but the log.
    pub(super) state: State,
    /// The cluster, once entry 1 is there.
    pub(super) cluster: Option<ClusterId>,
    last: LogIndex,
    /// Each term of the log with the index of its first entry, ascending by both.
    term_starts: Vec<(LogIndex, Term)>,
}

impl Durable {
    /// An empty log.
    pub(super) fn new(state: State) -> Self {
        Self { state, cluster: None, last: LogIndex::ZERO, term_starts: Vec::new() }
    }

    /// The index after the last entry.
    pub(super) fn next_index(&self) -> LogIndex {
        self.last.next()
    }

    /// Which invariant `batch` would break, if any.
    pub(super) fn contradiction(&self, batch: &Batch<'_>) -> Option<String> {
        let (old, new) = (self.state.hard_state, batch.hard_state.unwrap_or(self.state.hard_state));
        if new.term < old.term {
            return Some(format!("the term falls from {} to {}", old.term, new.term));
        }
        if new.term == old.term && old.voted_for.is_some() && new.voted_for != old.voted_for {
            return Some(format!(
                "the vote of term {} changes from {:?} to {:?}",
                new.term, old.voted_for, new.voted_for
            ));
        }
        let first = batch.entries.first()?;
        if first.index == LogIndex::ZERO || first.index > self.next_index() {
            return Some(format!("entry {} does not follow entry {}", first.index, self.last));
        }
        let mut term = self.term_at(first.index.prev());
        for (position, entry) in (0..).zip(batch.entries) {
            if entry.index != first.index.plus(position) {
                return Some(format!("entry {} stands where {position} follow {}", entry.index, first.index));
            }
            if entry.index == LogIndex(1) && !matches!(entry.payload, Payload::Configuration(_)) {
                return Some("entry 1 is no configuration".to_owned());
            }
            if entry.term < term || entry.term > new.term {
                return Some(format!(
                    "entry {} has term {}, after an entry of term {term} and in term {}",
                    entry.index, entry.term, new.term
                ));
            }
            term = entry.term;
        }
        None
    }

    /// Takes over a batch without [`Durable::contradiction`].
    pub(super) fn apply(&mut self, batch: &Batch<'_>) {
        self.state.apply(batch);
        let Some(first) = batch.entries.first() else { return };
        self.term_starts.retain(|(start, _)| *start < first.index);
        self.last = first.index.prev();
        for entry in batch.entries {
            if self.term_starts.is_empty() || self.term_at(self.last) < entry.term {
                self.term_starts.push((entry.index, entry.term));
            }
            self.last = entry.index;
        }
        if let (LogIndex(1), Payload::Configuration(configuration)) = (first.index, &first.payload) {
            self.cluster = Some(configuration.cluster);
        }
    }

    fn term_at(&self, index: LogIndex) -> Term {
        let later = self.term_starts.partition_point(|(start, _)| *start <= index);
        later.checked_sub(1).map_or(Term::ZERO, |position| self.term_starts[position].1)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
