//! Snapshots, as far as consensus knows them: what stands for the log before its base (section 7).
//!
//! The caller saves a snapshot of what is applied and says so; then the log in memory may lose what
//! it stands for. A follower that needs an entry which is gone is sent the snapshot. Its chunks
//! pass through here only so that terms and leadership are seen to.

use super::log::Position;
use super::node::{Raft, Role, Transition};
use super::ready::Cause;
use crate::time::Instant;
use crate::types::{LogIndex, NodeId};
use crate::wire::entry::{HardState, Snapshot, SnapshotId};
use crate::wire::peer::{InstallResult, InstallSnapshot, InstallSnapshotResponse, Message};

/// What arrived about a snapshot's bytes, for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotInput {
    /// The leader sent a chunk of a snapshot that this node needs.
    Chunk(NodeId, InstallSnapshot),
    /// A follower says how far it is with what this leader sends.
    Answer(NodeId, InstallSnapshotResponse),
}

/// How much of the log is held in memory although a snapshot stands for it, so that followers a
/// little behind need no snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// So many bytes of entries are held, whether anybody wants them or not.
    pub trailing_bytes: usize,
    /// Up to so many bytes, entries are held as long as a linked follower lacks them: above all those
    /// that follow a snapshot on its way to one. (What no snapshot stands for is held in any case.)
    pub max_bytes: usize,
}

impl Raft {
    /// The last snapshot that is durable here.
    #[must_use]
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.core.durable.snapshot.as_ref()
    }

    /// What a snapshot of the state as it is now would stand for; `None` if nothing was applied
    /// since the last, or if the last applied entry is not on this node's own disk yet.
    #[must_use]
    pub fn next_snapshot(&self) -> Option<Snapshot> {
        let log = &self.core.log;
        let index = log.applied();
        let known = self.core.durable.snapshot.as_ref().map_or(LogIndex::ZERO, |snapshot| snapshot.index);
        let configuration = self.core.configuration.clone()?;
        if index <= known || index > log.stable() {
            return None;
        }
        Some(Snapshot { index, term: log.term_at(index)?, stamp: log.stamp_at(index)?, configuration })
    }

    /// A snapshot of this node's own is durable.
    ///
    /// # Panics
    /// If it does not lie between the last one and what is applied.
    pub fn on_snapshot_saved(&mut self, snapshot: Snapshot) {
        let known = self.core.durable.snapshot.as_ref().map_or(LogIndex::ZERO, |snapshot| snapshot.index);
        assert!(known < snapshot.index && snapshot.index <= self.core.log.applied(), "a snapshot of nothing");
        assert_eq!(self.core.log.term_at(snapshot.index), Some(snapshot.term), "a snapshot of another log");
        self.core.durable.snapshot = Some(snapshot);
    }

    /// Removes from memory at most `max_entries` of those that the snapshot stands for and nobody
    /// wants. Whether any may be left to remove.
    pub fn compact(&mut self, max_entries: usize, bounds: LogBounds) -> bool {
        for _ in 0..max_entries {
            let Some(upto) = self.compactable(bounds) else { return false };
            self.core.log.compact_one(upto);
        }
        self.compactable(bounds).is_some()
    }

    /// Whether [`Raft::compact`] would remove anything.
    #[must_use]
    pub fn has_compactable(&self, bounds: LogBounds) -> bool {
        self.compactable(bounds).is_some()
    }

    fn compactable(&self, bounds: LogBounds) -> Option<LogIndex> {
        let log = &self.core.log;
        if log.has_discarded() {
            return Some(log.base().index);
        }
        let upto = self.core.durable.snapshot.as_ref()?.index;
        let wanted_after = match &self.role {
            Role::Leader(leader) => leader.wanted_after(&self.core),
            _ => upto,
        };
        let first = log.first_index();
        let is_wanted = first > wanted_after && log.held_bytes() <= bounds.max_bytes;
        let is_compactable = first <= upto && log.held_bytes() > bounds.trailing_bytes && !is_wanted;
        is_compactable.then_some(upto)
    }

    /// The linked followers to which this leader must send a snapshot, and the index up to which it
    /// must reach at least.
    #[must_use]
    pub fn snapshot_receivers(&self) -> Vec<(NodeId, LogIndex)> {
        let Role::Leader(leader) = &self.role else { return Vec::new() };
        let peers = self.core.peers().into_iter();
        peers.filter_map(|id| Some((id, leader.snapshot_wanted(&self.core, id)?))).collect()
    }

    /// What arrived about snapshots since the last call.
    pub fn take_snapshot_inputs(&mut self) -> Vec<SnapshotInput> {
        self.core.outbox.take_handed_up()
    }

    /// Whether a snapshot has what this log is not known to have.
    #[must_use]
    pub fn needs_snapshot(&self, id: &SnapshotId) -> bool {
        self.core.needs_snapshot(id)
    }

    /// A snapshot of the leader's is durable here and took the place of the whole log.
    ///
    /// # Panics
    /// If this node did not need it (see [`Raft::needs_snapshot`]), or while a batch is written.
    pub fn on_snapshot_installed(&mut self, snapshot: Snapshot) {
        assert_eq!(self.core.durable.under_way, None, "a batch of the log before is being written");
        assert!(!matches!(self.role, Role::Leader(_)), "a leader has all that is committed");
        let Snapshot { index, term, stamp, .. } = snapshot;
        self.core.log.reset(Position { index, term }, stamp);
        self.core.join(snapshot.configuration.clone());
        self.core.durable.snapshot = Some(snapshot);
    }

    /// This node joins the cluster that a snapshot names, which is durable here and has everything up
    /// to its index. `hard_state` is durable too, and its term is not below the snapshot's. The founder
    /// campaigns at once; the others give it an election timeout from now on.
    ///
    /// # Panics
    /// If this node belongs to a cluster already.
    pub fn join_by_snapshot(
        &mut self,
        now: Instant,
        snapshot: Snapshot,
        hard_state: HardState,
        is_founder: bool,
    ) {
        assert!(self.core.configuration.is_none(), "a node joins once");
        assert!(hard_state.term >= snapshot.term, "a snapshot of a later term");
        (self.core.hard_state, self.core.durable.hard_state) = (hard_state, hard_state);
        self.on_snapshot_installed(snapshot);
        if let Role::Follower(follower) = &mut self.role {
            follower.begin_to_wait(&mut self.core, now);
        }
        if is_founder {
            self.transition(now, Transition::PreCandidate(Cause::Founding));
        }
    }

    /// Answers a chunk. [`InstallResult::Installed`] may be said only of what is durable.
    pub fn answer_chunk(&mut self, to: NodeId, snapshot: SnapshotId, result: InstallResult) {
        let term = self.core.term();
        let answer = InstallSnapshotResponse { term, snapshot, result };
        self.core.speak(to, Message::InstallSnapshotResponse(answer));
    }
}
