//! What a power cut would leave on a disk, read back.

use kvstore::kv::{Limits, SnapshotReader, StateMachine};
use kvstore::storage::{self, OpenError, Recovered, Storage};
use kvstore::types::LogIndex;

use super::World;
use crate::sim::checker::violated;
use crate::sim::disk::End;
use crate::sim::node::id_of;
use crate::sim::reference;

/// Of so many new snapshots about one is read back.
const IMAGES_ONE_IN: u64 = 8;

impl World {
    /// A node has a new snapshot, and the log before it may be released.
    pub(super) fn on_snapshot(&mut self, node: usize) {
        if self.streams.disks.below(IMAGES_ONE_IN) == 0 {
            self.check_disk(node);
        }
    }

    /// What a power cut leaves on the disk is the snapshot that the node counts on and the log after
    /// it, and replaying both gives the state that is committed.
    pub(super) fn check_disk(&mut self, node: usize) {
        let Some(process) = &self.nodes[node].process else { return };
        self.stats.disks.read_back += 1;
        let raft = process.replica().raft();
        let snapshot = raft.snapshot().map_or(LogIndex::ZERO, |snapshot| snapshot.index);
        let committed = raft.log().committed().min(raft.log().stable());
        let image = self.nodes[node].disk.fork(self.streams.disks.u64());
        image.end_process(End::PowerCut);
        let options = storage::Options { segment_bytes: self.plan.disk.segment_bytes, sync: true };
        let recovered = match Storage::open(image, id_of(node), options, self.nodes[node].incarnation()) {
            Ok((_, recovered)) => recovered,
            Err(error) => violated!("a sound disk is not refused", "node {}: {error}", node + 1),
        };
        let found = recovered.snapshot.as_ref().map_or(LogIndex::ZERO, |found| found.snapshot.index);
        if found != snapshot {
            violated!(
                "a snapshot is durable before it counts",
                "node {} counts on snapshot {snapshot}, its disk has {found}",
                node + 1
            );
        }
        let state = replay(&recovered, committed, self.plan.caps.sessions);
        let revision = state.revision().0;
        if revision < committed.0 || state.digest() != self.checker.reference.digest_at(revision) {
            violated!("replay gives the same state", "node {} replays to another at {revision}", node + 1);
        }
    }
}

impl World {
    /// One bit of what a process that was killed left is another: all of it is found all the same, if
    /// the bit meant nothing, or the disk is refused.
    pub(super) fn check_damage(&mut self, node: usize) {
        if self.nodes[node].process.is_none() {
            return;
        }
        let image = self.nodes[node].disk.fork(self.streams.disks.u64());
        image.end_process(End::Kill);
        let name = self.streams.disks.pick(&image.names());
        let mut content = image.content(&name);
        if content.is_empty() {
            return;
        }
        let bit = self.streams.disks.index(content.len() * 8);
        content[bit / 8] ^= 1 << (bit % 8);
        image.put(&name, content);
        let options = storage::Options { segment_bytes: self.plan.disk.segment_bytes, sync: true };
        let opened = Storage::open(image, id_of(node), options, self.nodes[node].incarnation());
        self.trace.note(self.now, &[6, node as u64, u64::from(opened.is_ok())]);
        match opened {
            Ok((_, recovered)) => self.checker.check_whole(node, &recovered, &format!("bit {bit} of {name}")),
            Err(
                OpenError::Damaged { .. } | OpenError::UnknownVersion { .. } | OpenError::OtherNode { .. },
            ) => {
                self.stats.disks.refused += 1;
            }
            Err(error) => violated!("damage is called damage", "bit {bit} of {name}: {error}"),
        }
    }
}

/// The state that a disk holds, up to an index.
fn replay(recovered: &Recovered, upto: LogIndex, limits: Limits) -> StateMachine {
    let mut state = StateMachine::new(limits);
    if let Some(snapshot) = &recovered.snapshot {
        let mut reader = SnapshotReader::new(limits);
        let fed = snapshot.state.iter().try_for_each(|slice| reader.feed(slice));
        state = fed
            .and_then(|()| reader.finish())
            .unwrap_or_else(|error| violated!("a snapshot can be read", "{:?}: {error}", snapshot.snapshot));
    }
    for entry in recovered.entries.iter().filter(|entry| entry.index <= upto) {
        reference::apply(&mut state, entry);
    }
    state
}
