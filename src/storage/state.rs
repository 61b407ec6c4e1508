//! What is durable, as values: the payloads of the log's records, and what they add up to.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Batch;
use super::snapshots::is_replaced;
use crate::planted::{Bug, is_planted};
use crate::types::{BootNumber, ClusterId, Incarnation, LogIndex, NodeId, Term};
use crate::wire::entry::{Entry, HardState, MAX_ENTRY_BYTES, Payload, Reached, SnapshotId};
use crate::wire::{DecodeError, Reader, Writer};

/// All that is durable but the entries.
///
/// ```text
/// node u64 | incarnation u64 | boot u64 | hard state | list of (node u64, reached)
///   | last index u64 | last term u64 | optional id of the snapshot
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
    /// How far each peer was seen to come.
    pub(super) peers: BTreeMap<NodeId, Reached>,
    /// Index and term of the log's last entry, of the snapshot's if there is none after it. By this
    /// the records that follow are understood where all before them were released.
    pub(super) last: (LogIndex, Term),
    /// The snapshot after which the log begins.
    pub(super) snapshot: Option<SnapshotId>,
}

impl State {
    /// The state of a directory that was never opened.
    pub(super) fn new(node: NodeId, incarnation: Incarnation) -> Self {
        let (hard_state, peers) = (HardState::default(), BTreeMap::new());
        let last = (LogIndex::ZERO, Term::ZERO);
        Self { node, incarnation, boot: BootNumber(0), hard_state, peers, last, snapshot: None }
    }

    /// The payload of a state record.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Writer::new();
        out.u64(self.node.0);
        out.u64(self.incarnation.0);
        out.u64(self.boot.0);
        let vote = self.hard_state.voted_for.filter(|_| !is_planted(Bug::VoteReleased));
        HardState { voted_for: vote, ..self.hard_state }.encode(&mut out);
        out.list(self.peers.iter(), |out, (id, reached)| put_peer(out, *id, *reached));
        out.u64(self.last.0.0);
        out.u64(self.last.1.0);
        out.option(self.snapshot, |out, snapshot| snapshot.encode(out));
        out.into_bytes()
    }

    /// Reads the payload of a state record.
    pub(super) fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(payload);
        let (node, incarnation) = (NodeId(bytes.u64()?), Incarnation(bytes.u64()?));
        let boot = BootNumber(bytes.u64()?);
        let hard_state = HardState::decode(&mut bytes)?;
        let peers = bytes.list(take_peer)?.into_iter().collect();
        let last = (LogIndex(bytes.u64()?), Term(bytes.u64()?));
        let snapshot = bytes.option("snapshot", SnapshotId::decode)?;
        bytes.finish()?;
        Ok(Self { node, incarnation, boot, hard_state, peers, last, snapshot })
    }

    /// Takes over what a batch changes.
    pub(super) fn apply(&mut self, batch: &Batch<'_>) {
        self.hard_state = batch.hard_state.unwrap_or(self.hard_state);
        for (id, reached) in batch.peers {
            self.peers.entry(*id).or_default().raise_to(*reached);
        }
    }
}

fn put_peer(out: &mut Writer, id: NodeId, reached: Reached) {
    out.u64(id.0);
    reached.encode(out);
}

fn take_peer(bytes: &mut Reader) -> Result<(NodeId, Reached), DecodeError> {
    Ok((NodeId(bytes.u64()?), Reached::decode(bytes)?))
}

/// The payload of a batch record, as it is read.
///
/// ```text
/// optional hard state | list of (node u64, reached) | list of entries, each a byte string
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredBatch {
    hard_state: Option<HardState>,
    peers: Vec<(NodeId, Reached)>,
    entries: Vec<Entry>,
}

impl StoredBatch {
    /// Reads the payload. The entries are slices of it.
    pub(super) fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(payload);
        let hard_state = bytes.option("hard state", HardState::decode)?;
        let peers = bytes.list(take_peer)?;
        let entries = bytes.list(|bytes| Entry::decode(bytes.byte_string("entry", MAX_ENTRY_BYTES)?))?;
        bytes.finish()?;
        Ok(Self { hard_state, peers, entries })
    }

    /// The same as it was written.
    pub(super) fn as_batch(&self) -> Batch<'_> {
        let Self { hard_state, peers, entries } = self;
        Batch { hard_state: *hard_state, entries, peers }
    }

    /// Its entries.
    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }
}

/// The payload of a snapshot record.
///
/// ```text
/// id of the snapshot | whether the log begins anew after it u8
/// ```
pub(super) fn encode_snapshot(id: &SnapshotId, resets_log: bool) -> Bytes {
    let mut out = Writer::new();
    id.encode(&mut out);
    out.bool(resets_log);
    out.into_bytes()
}

/// Reads the payload of a snapshot record.
pub(super) fn decode_snapshot(payload: Bytes) -> Result<(SnapshotId, bool), DecodeError> {
    let mut bytes = Reader::new(payload);
    let (id, resets_log) = (SnapshotId::decode(&mut bytes)?, bytes.bool("reset of the log")?);
    bytes.finish()?;
    Ok((id, resets_log))
}

/// The payload of a batch record.
pub(super) fn encode_batch(batch: &Batch<'_>) -> Bytes {
    let entries: usize = batch.entries.iter().map(|entry| 4 + entry.encoded().len()).sum();
    let mut out = Writer::with_capacity(64 + 24 * batch.peers.len() + entries);
    out.option(batch.hard_state, |out, hard_state| hard_state.encode(out));
    out.list(batch.peers.iter(), |out, (id, reached)| put_peer(out, *id, *reached));
    out.list(batch.entries.iter(), |out, entry| out.byte_string(entry.encoded()));
    out.into_bytes()
}

/// The sum of all records so far, without the entries themselves.
///
/// Invariants, kept by what [`Durable::contradiction`] refuses:
/// - The log is contiguous, from index 1 on or after the snapshot; entry 1 is a configuration and
///   names the cluster.
/// - A snapshot is replaced by a later one only, and no entry that it stands for is replaced.
/// - Terms never fall along the log, and none is above the hard state's.
/// - The hard state's term never falls. Within a term a vote is given once and never taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Durable {
    /// All but the log.
    pub(super) state: State,
    /// The cluster, once entry 1 is there.
    pub(super) cluster: Option<ClusterId>,
    /// Each term of the log with the index of its first entry, as far back as it is known,
    /// ascending by both.
    term_starts: Vec<(LogIndex, Term)>,
}

impl Durable {
    /// An empty log.
    pub(super) fn new(state: State) -> Self {
        Self { state, cluster: None, term_starts: Vec::new() }
    }

    /// What a log adds up to whose beginning was released, by the state that its oldest segment
    /// begins with.
    pub(super) fn resume(state: State, cluster: Option<ClusterId>) -> Self {
        let term_starts = vec![state.last];
        Self { state, cluster, term_starts }
    }

    /// The index after the last entry.
    pub(super) fn next_index(&self) -> LogIndex {
        self.state.last.0.next()
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
            return Some(format!("entry {} does not follow entry {}", first.index, self.state.last.0));
        }
        if is_replaced(first.index, self.state.snapshot) {
            return Some(format!("entry {} lies in the snapshot", first.index));
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
        for entry in batch.entries {
            if self.term_starts.is_empty() || self.term_at(entry.index.prev()) < entry.term {
                self.term_starts.push((entry.index, entry.term));
            }
            self.state.last = (entry.index, entry.term);
        }
        if let (LogIndex(1), Payload::Configuration(configuration)) = (first.index, &first.payload) {
            self.cluster = Some(configuration.cluster);
        }
    }

    /// Why a snapshot cannot stand for this log, or follow the one before, if it cannot.
    pub(super) fn snapshot_contradiction(&self, id: &SnapshotId, resets_log: bool) -> Option<String> {
        if self.state.snapshot.is_some_and(|before| before.index >= id.index) {
            return Some(format!("snapshot {} follows one that reaches further", id.index));
        }
        if id.term > self.state.hard_state.term {
            return Some(format!("snapshot {} is of the later term {}", id.index, id.term));
        }
        if !resets_log && id.index > self.state.last.0 {
            return Some(format!("snapshot {} is of no entry of this log", id.index));
        }
        None
    }

    /// Takes over a snapshot without [`Durable::snapshot_contradiction`]. Gives the one before.
    pub(super) fn apply_snapshot(&mut self, id: SnapshotId, resets_log: bool) -> Option<SnapshotId> {
        if resets_log {
            self.state.last = (id.index, id.term);
            self.term_starts = vec![self.state.last];
        }
        // What lies before is asked for no more, but for the term at the snapshot itself.
        let start = (id.index, id.term);
        self.term_starts.retain(|(index, _)| *index > id.index);
        self.term_starts.insert(0, start);
        self.state.snapshot.replace(id)
    }

    fn term_at(&self, index: LogIndex) -> Term {
        let later = self.term_starts.partition_point(|(start, _)| *start <= index);
        later.checked_sub(1).map_or(Term::ZERO, |position| self.term_starts[position].1)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
