//! How a cluster that was restored from a backup begins, and how members get what it begins with.
//!
//! A restored node founds, but its founding is no entry 1: the log begins with a snapshot, the
//! restored state with the new cluster's members in its header. Until that is durable the node belongs
//! to no cluster, and tells nobody of one. A crash before leaves the backup, and the node meets the
//! others anew.
//!
//! **The others take part in nothing before they hold that snapshot.** A node without a cluster
//! neither votes nor acknowledges, and a member whose log begins with a snapshot does not tell of the
//! founding: it sends the snapshot instead, which names the cluster. So no majority can come to
//! exist that lacks the restored state. Any member that holds it sends it (all have the same bytes),
//! unless it follows a leader, which then does: if the founder dies, those that have it serve the others.
//!
//! These chunks are of term 0, as they are no leader's: who has joined meanwhile takes no sender of
//! such a chunk for its leader.

use super::Replica;
use super::snapshots::{Sizes, Work};
use crate::kv::{SnapshotWriter, StateMachine};
use crate::storage::{Disk, WriteError};
use crate::time::Instant;
use crate::types::{NodeId, Term};
use crate::wire::entry::{Configuration, HardState, Member, Snapshot};
use crate::wire::peer::{InstallResult, InstallSnapshot, InstallSnapshotResponse, Message};

/// What a directory was made of that has founded no cluster yet.
pub(super) struct Restored {
    /// As it was in the backup: with the old cluster's members.
    pub(super) snapshot: Snapshot,
    pub(super) state: StateMachine,
    /// The cluster that is being founded with it.
    pub(super) configuration: Option<Configuration>,
}

impl<D: Disk> Replica<D> {
    /// Founds the cluster: the configuration becomes entry 1, durable with the next
    /// `process_ready` and before any vote; where this node is its lowest member it campaigns.
    ///
    /// # Panics
    /// If this node belongs to a cluster already.
    pub fn found(&mut self, now: Instant, configuration: Configuration) {
        let ids: Vec<String> = configuration.members().iter().map(|member| member.id.to_string()).collect();
        log::info!("founded cluster={} members={}", configuration.cluster, ids.join(","));
        match &mut self.snapshots.restored {
            Some(restored) => restored.configuration = Some(configuration),
            None => self.raft.found(now, configuration),
        }
    }

    /// Another node says that the cluster is founded. It is believed if it makes both nodes
    /// members, under the incarnation that this directory has.
    pub(super) fn on_found(&mut self, now: Instant, from: NodeId, configuration: Configuration) {
        if self.configuration().is_some() {
            return;
        }
        if self.snapshots.restored.is_some() {
            return self.complain_of_cluster(from);
        }
        let own = Member { id: self.own.id, incarnation: self.own.incarnation };
        if configuration.member(own.id) == Some(&own) && configuration.member(from).is_some() {
            self.found(now, configuration);
        } else {
            log::error!(
                "node {from} belongs to cluster {} in which this directory has no place: a lost \
                 directory cannot come back under its old id; give this node a new --id",
                configuration.cluster
            );
        }
    }

    /// Whether the log begins with a snapshot, not with entry 1.
    #[must_use]
    pub fn begins_with_snapshot(&self) -> bool {
        self.storage.snapshot_id().is_some()
    }

    /// A linked member does not know of the founding: it gets this node's snapshot.
    pub fn on_newcomer(&mut self, node: NodeId) {
        self.snapshots.newcomers.insert(node);
    }

    /// The members that this node sends its snapshot, though it may not lead.
    pub(super) fn newcomers_to_serve(&self) -> Vec<NodeId> {
        match self.leader() {
            Some(leader) if leader != self.own.id => Vec::new(),
            _ => self.snapshots.newcomers.iter().copied().collect(),
        }
    }

    /// A chunk for a node that belongs to no cluster yet.
    pub(super) fn on_founding_chunk(&mut self, from: NodeId, message: InstallSnapshot) {
        if self.configuration().is_some() {
            // The sender has not heard that this node has joined, and will. To say "installed" would be
            // a promise: this node need not have that snapshot, and a leader counts on what it says.
        } else if self.snapshots.restored.is_some() {
            self.complain_of_cluster(from);
        } else {
            self.snapshots.push_waiting(from, message);
        }
    }

    /// A restored node joins no cluster: what it has would be lost.
    pub(super) fn complain_of_cluster(&self, from: NodeId) {
        log::error!(
            "node {from} belongs to a cluster already, and this node was restored from a backup to found one: \
             empty the data directories of the others"
        );
    }

    /// What a newcomer says of a chunk. Once it has the snapshot it is a member, and its leader may
    /// count on that.
    pub(super) fn on_newcomer_answer(&mut self, now: Instant, from: NodeId, answer: InstallSnapshotResponse) {
        if answer.result == InstallResult::Installed {
            self.snapshots.newcomers.remove(&from);
            self.snapshots.transfers.remove(&from);
            self.raft.step(now, from, Message::InstallSnapshotResponse(answer));
        } else {
            self.on_chunk_answered(from, answer);
        }
    }

    /// Why this node cannot join the cluster whose snapshot it is being sent; none if it can, or if
    /// it is a member of one.
    pub(super) fn is_stranger_to_copy(&self) -> bool {
        let own = Member { id: self.own.id, incarnation: self.own.incarnation };
        let copied = self.storage.copied_snapshot().filter(|_| self.configuration().is_none());
        copied.is_some_and(|snapshot| snapshot.configuration.member(own.id) != Some(&own))
    }

    /// The hard state that must be stored before a snapshot of this term, if the node's own is of an
    /// earlier one.
    pub(super) fn raised_to(&self, term: Term) -> Option<HardState> {
        (self.raft.term() < term).then_some(HardState { term, voted_for: None })
    }

    /// This restored node is the founder: the new cluster begins with a snapshot of what was restored.
    pub(super) fn begin_founding(&mut self, now: Instant) -> Result<(), WriteError> {
        let Some(Restored { snapshot, state, configuration: Some(configuration) }) = &self.snapshots.restored
        else {
            return Ok(());
        };
        let snapshot = Snapshot { configuration: configuration.clone(), ..snapshot.clone() };
        let (state, bytes) = (state.clone(), state.snapshot_bytes());
        if !self.storage.has_room_for(bytes) || !self.storage.begin_snapshot(snapshot.clone())? {
            self.on_no_room(now, "with which the cluster begins");
            return Ok(());
        }
        let writer = SnapshotWriter::new(state);
        self.snapshots.work = Work::Writing { snapshot, writer, bytes, log_bytes: 0 };
        Ok(())
    }

    /// It is written: with its record this node belongs to the cluster, and tells the others.
    pub(super) fn finish_founding(&mut self, now: Instant) -> Result<(), WriteError> {
        let Work::Writing { snapshot, .. } = &self.snapshots.work else { return Ok(()) };
        let snapshot = snapshot.clone();
        let raised = self.raised_to(snapshot.term);
        let Some(id) = self.storage.save_founding_snapshot(raised)? else {
            return self.give_up_for_room(now, "with which the cluster begins");
        };
        self.snapshots.work = Work::None;
        let Restored { state, .. } = self.snapshots.restored.take().expect("it was just written");
        log::info!("the cluster begins with what was restored index={} bytes={}", id.index, id.bytes);
        let hard_state = raised.unwrap_or(self.raft.hard_state());
        self.raft.join_by_snapshot(now, snapshot, hard_state, true);
        self.take_over(state, id.bytes);
        Ok(())
    }

    /// The state of an installed snapshot takes the place of the one before.
    pub(super) fn take_over(&mut self, state: StateMachine, bytes: u64) {
        let replaced = std::mem::replace(&mut self.state, state);
        self.snapshots.remains.push_back(SnapshotWriter::new(replaced));
        let Sizes { last_bytes, log_bytes, no_room_until, .. } = &mut self.snapshots.sizes;
        (*last_bytes, *log_bytes, *no_room_until) = (bytes, 0, None);
        self.snapshots.is_releasing = true;
    }
}
