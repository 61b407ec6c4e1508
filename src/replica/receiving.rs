//! A follower takes over its leader's snapshot, chunk by chunk.

use super::Replica;
use super::snapshots::Work;
use crate::kv::{SnapshotReader, SnapshotWriter};
use crate::planted::{Bug, is_planted};
use crate::storage::{CopyError, Disk, WriteError};
use crate::time::Instant;
use crate::types::{NodeId, Term};
use crate::wire::entry::SnapshotId;
use crate::wire::peer::{InstallResult, InstallSnapshot};

impl<D: Disk> Replica<D> {
    /// Takes the next chunk of the leader's snapshot, if that is what it is.
    pub(super) fn on_chunk(
        &mut self,
        now: Instant,
        from: NodeId,
        message: InstallSnapshot,
    ) -> Result<(), WriteError> {
        let InstallSnapshot { snapshot: id, offset, chunk, term } = message;
        if !self.raft.needs_snapshot(&id) {
            return Ok(()); // the leader learns it when it asks again
        }
        if term == Term::ZERO && self.configuration().is_some() {
            return Ok(()); // it has joined by another member's chunks while this one waited
        }
        if offset == 0 && !self.is_receiving(&id) && !self.begin_receiving(now, id)? {
            return Ok(());
        }
        let expected = match &self.snapshots.work {
            Work::Receiving { id: expected, offset, .. } if *expected == id => *offset,
            _ => 0,
        };
        if offset == expected && self.is_receiving(&id) {
            self.receive(now, from, id, &chunk)
        } else {
            self.raft.answer_chunk(from, id, InstallResult::Received { offset: expected });
            Ok(())
        }
    }

    fn is_receiving(&self, id: &SnapshotId) -> bool {
        matches!(&self.snapshots.work, Work::Receiving { id: own, .. } if own == id)
    }

    /// Begins to receive; false if there is no room for it. Another snapshot that was being received is
    /// given up for it: the leader knows what is needed. So is one of this node's own, but not for one that
    /// does not fit: it may make room.
    fn begin_receiving(&mut self, now: Instant, id: SnapshotId) -> Result<bool, WriteError> {
        if let Work::Receiving { .. } = self.snapshots.work {
            self.stop_snapshot()?;
        }
        if self.snapshots.sizes.is_waiting_for_room(now) {
            return Ok(false);
        }
        let has_room = self.storage.has_room_for(id.bytes);
        if has_room {
            self.stop_snapshot()?;
        }
        if !has_room || !self.storage.begin_copy()? {
            self.on_no_room(now, "of the leader");
            return Ok(false);
        }
        let reader = SnapshotReader::new(self.snapshots.limits);
        self.snapshots.work = Work::Receiving { id, offset: 0, reader };
        log::info!("receiving a snapshot index={} bytes={}", id.index, id.bytes);
        Ok(true)
    }

    fn receive(
        &mut self,
        now: Instant,
        from: NodeId,
        id: SnapshotId,
        chunk: &[u8],
    ) -> Result<(), WriteError> {
        // Others write to this disk, too. What is left of it is for the log.
        let written = match self.storage.has_room_for(id.bytes) {
            true => self.storage.write_copy(chunk)?,
            false => Err(CopyError::NoRoom),
        };
        if written == Err(CopyError::NoRoom) {
            return self.give_up_for_room(now, "of the leader");
        }
        let Work::Receiving { offset, reader, .. } = &mut self.snapshots.work else { return Ok(()) };
        *offset += chunk.len() as u64;
        let offset = *offset;
        let fed = written.map_err(|error| error.to_string()).and_then(|payloads| {
            let fed = payloads.iter().try_for_each(|payload| reader.feed(payload));
            fed.map_err(|error| error.to_string())
        });
        if let Err(error) = fed {
            log::error!("node {from} sent a snapshot that cannot be taken over: {error}");
            return self.stop_snapshot();
        }
        if offset == id.bytes && is_planted(Bug::InstalledEarly) {
            self.raft.answer_chunk(from, id, InstallResult::Installed);
            return Ok(());
        }
        if self.is_stranger_to_copy() {
            log::error!("node {from} sent the snapshot of a cluster in which this directory has no place");
            return self.stop_snapshot();
        }
        if offset == id.bytes {
            return self.install(now, from, id);
        }
        self.raft.answer_chunk(from, id, InstallResult::Received { offset });
        Ok(())
    }

    /// All bytes are there: makes the snapshot this node's log and state, on disk first. Either all
    /// of it is done, or nothing.
    fn install(&mut self, now: Instant, from: NodeId, id: SnapshotId) -> Result<(), WriteError> {
        let Work::Receiving { reader, .. } = std::mem::replace(&mut self.snapshots.work, Work::None) else {
            unreachable!("its last chunk was just received");
        };
        let state = match reader.finish() {
            Ok(state) if state.revision() == id.index.into() => state,
            Ok(_) | Err(_) => {
                log::error!("node {from} sent a snapshot whose state is not that of its index");
                return self.stop_snapshot();
            }
        };
        let raised = self.raised_to(id.term);
        let snapshot = match self.storage.install_copy(id, raised)? {
            Ok(snapshot) => snapshot,
            Err(error) => {
                log::error!("node {from} sent a snapshot that cannot be taken over: {error}");
                self.snapshots.remains.push_back(SnapshotWriter::new(state));
                return Ok(());
            }
        };
        match self.configuration() {
            Some(_) => self.raft.on_snapshot_installed(snapshot),
            None => {
                let hard_state = raised.unwrap_or(self.raft.hard_state());
                self.raft.join_by_snapshot(now, snapshot, hard_state, false);
            }
        }
        self.take_over(state, id.bytes);
        // Whoever waited for an entry that the snapshot stands for: it may be among them, or not.
        self.refuse_overwritten(id.index);
        self.raft.answer_chunk(from, id, InstallResult::Installed);
        log::info!("snapshot installed index={} term={} bytes={}", id.index, id.term, id.bytes);
        Ok(())
    }
}
