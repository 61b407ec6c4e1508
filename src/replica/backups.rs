//! Snapshots on demand, and their bytes for clients that make backups.
//!
//! A backup is the file of a snapshot, byte for byte, so all that a node does for one is to see that
//! it has a snapshot that is young enough, and to read from it. What "young enough" means: the first
//! request of a backup is a linearizable read, and the snapshot must reach the index that this node
//! had applied when the read was due. So all that was acknowledged before the backup began is in it.
//!
//! One request gives one chunk, and one is answered a turn for each of the few backups that there
//! may be: the loop's turns stay short. A file that is being read stays readable when the node
//! takes a newer snapshot; it is closed with the client's connection, or when the client has asked for
//! nothing more for a while.

use std::collections::{BTreeMap, VecDeque};

use super::parking::Arrival;
use super::{ClientConnection, Replica};
use crate::storage::{Disk, OpenSnapshot, WriteError};
use crate::time::{Duration, Instant};
use crate::types::LogIndex;
use crate::wire::client::{Refused, RequestBody, ResponseBody};
use crate::wire::entry::SnapshotId;

/// Who waits for a snapshot of this node's.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    client: ClientConnection,
    request: u64,
    /// It must reach this index.
    at_least: LogIndex,
    /// Its bytes are wanted, too.
    for_backup: bool,
}

/// A request for some bytes.
#[derive(Clone, Copy, Debug)]
struct Asked {
    client: ClientConnection,
    request: u64,
    snapshot: SnapshotId,
    offset: u64,
}

/// A backup's file, open for a client.
#[derive(Debug)]
struct Reading<F> {
    snapshot: OpenSnapshot<F>,
    /// When bytes of it were asked for last, or given.
    used_at: Instant,
}

/// The demand for snapshots and their bytes.
///
/// Invariants: at most `MAX_WAITERS` wait; those of them that make a backup, the files that are open,
/// and those that are about to be are at most `MAX_BACKUPS` together; a client has one file open at most.
#[derive(Debug)]
pub(super) struct Backups<F> {
    waiters: Vec<Waiter>,
    open: BTreeMap<ClientConnection, Reading<F>>,
    asked: VecDeque<Asked>,
}

impl<F> Default for Backups<F> {
    fn default() -> Self {
        Self { waiters: Vec::new(), open: BTreeMap::new(), asked: VecDeque::new() }
    }
}

impl<F> Backups<F> {
    /// More who wait for a snapshot are refused as busy.
    const MAX_WAITERS: usize = 64;
    /// More backups at a time are refused as busy.
    pub(super) const MAX_BACKUPS: usize = 4;
    /// Who asks for nothing more for so long gives its place to others. It may go on later, if there is a
    /// place then, and the snapshot is still this node's.
    const MAX_PAUSE: Duration = Duration::from_secs(30);

    /// Backups under way, and about to be.
    pub(super) fn len(&self) -> usize {
        let opening = self.asked.iter().filter(|asked| !self.open.contains_key(&asked.client)).count();
        let waiting = self.waiters.iter().filter(|waiter| waiter.for_backup).count();
        self.open.len() + opening + waiting
    }

    /// Why a client that names a snapshot, as if it had some of its bytes, gets no more of them now.
    fn refusal_to_continue(&self, client: ClientConnection) -> Option<Refused> {
        if self.asked.iter().any(|asked| asked.client == client) {
            return Some(Refused::Busy(
                "the next bytes of a backup can be asked for once those before came".to_owned(),
            ));
        }
        (!self.open.contains_key(&client)).then(|| self.refusal_to_begin()).flatten()
    }

    fn refusal_to_begin(&self) -> Option<Refused> {
        let most = Self::MAX_BACKUPS;
        let busy =
            || Refused::Busy(format!("{most} backups are being made here: ask another node, or later"));
        (self.len() >= most).then(busy)
    }

    /// Whether somebody waits for a snapshot that reaches further than this one.
    pub(super) fn wants_beyond(&self, snapshot: Option<SnapshotId>) -> bool {
        let reached = snapshot.map_or(LogIndex::ZERO, |snapshot| snapshot.index);
        self.waiters.iter().any(|waiter| waiter.at_least > reached)
    }

    /// Whether [`Replica::serve_backups`] has something to do.
    pub(super) fn has_work(&self, snapshot: Option<SnapshotId>) -> bool {
        let reached = snapshot.map_or(LogIndex::ZERO, |snapshot| snapshot.index);
        !self.asked.is_empty() || self.waiters.iter().any(|waiter| waiter.at_least <= reached)
    }

    /// Gives the places of those up who paused for too long. There is a turn soon enough without a timer
    /// of its own: a node that has a snapshot is a member, and wakes for heartbeats or elections.
    fn give_up_idle(&mut self, now: Instant) {
        self.open.retain(|_, reading| now.since(reading.used_at) < Self::MAX_PAUSE);
    }

    pub(super) fn on_client_gone(&mut self, client: ClientConnection) {
        self.waiters.retain(|waiter| waiter.client != client);
        self.asked.retain(|asked| asked.client != client);
        self.open.remove(&client);
    }

    /// Whether the bytes of this snapshot can be had without another.
    fn has(&self, client: ClientConnection, snapshot: SnapshotId, current: Option<SnapshotId>) -> bool {
        current == Some(snapshot) || self.has_open(client, snapshot)
    }

    fn has_open(&self, client: ClientConnection, snapshot: SnapshotId) -> bool {
        self.open.get(&client).is_some_and(|reading| reading.snapshot.id() == snapshot)
    }
}

impl<D: Disk> Replica<D> {
    /// A client asks for a snapshot. One that is being written will do.
    pub(super) fn on_snapshot_request(&mut self, now: Instant, arrival: Arrival) {
        if self.configuration().is_none() {
            return self.park(now, arrival);
        }
        let at_least = self.snapshots.being_written().unwrap_or(self.raft.log().applied());
        self.wait_for_snapshot(&arrival, at_least, false);
    }

    /// A client asks for bytes of a backup. Those of a snapshot that is there can be had at once;
    /// anything else begins with a linearizable read.
    pub(super) fn on_backup_request(&mut self, now: Instant, arrival: Arrival) {
        let RequestBody::Backup { snapshot, offset } = arrival.request.body else { return };
        let current = self.storage.snapshot_id();
        match snapshot.filter(|snapshot| self.snapshots.backups.has(arrival.client, *snapshot, current)) {
            Some(snapshot) if offset <= snapshot.bytes => {
                let (client, request) = (arrival.client, arrival.request.id);
                if let Some(refused) = self.snapshots.backups.refusal_to_continue(client) {
                    return self.refuse(client, request, refused);
                }
                if let Some(reading) = self.snapshots.backups.open.get_mut(&client) {
                    reading.used_at = now;
                }
                self.snapshots.backups.asked.push_back(Asked { client, request, snapshot, offset });
            }
            Some(SnapshotId { bytes, .. }) => {
                let message = format!("offset {offset} in a backup of {bytes} bytes");
                self.refuse(arrival.client, arrival.request.id, Refused::Malformed(message));
            }
            None if !self.may_serve(&arrival) => self.park(now, arrival),
            None => self.on_read(arrival, false),
        }
    }

    /// The read with which a backup begins is due: everything up to what is applied belongs in it.
    pub(super) fn begin_backup(&mut self, arrival: &Arrival) {
        self.snapshots.backups.open.remove(&arrival.client);
        if let Some(refused) = self.snapshots.backups.refusal_to_begin() {
            return self.refuse(arrival.client, arrival.request.id, refused);
        }
        self.wait_for_snapshot(arrival, self.raft.log().applied(), true);
    }

    fn wait_for_snapshot(&mut self, arrival: &Arrival, at_least: LogIndex, for_backup: bool) {
        let (client, request) = (arrival.client, arrival.request.id);
        if self.snapshots.backups.waiters.len() >= Backups::<D::File>::MAX_WAITERS {
            return self.refuse_as_busy(arrival, "too many wait for a snapshot");
        }
        self.snapshots.backups.waiters.push(Waiter { client, request, at_least, for_backup });
    }

    /// There is no room for a snapshot: nobody shall wait for one, unless it is being written.
    pub(super) fn refuse_snapshots(&mut self) {
        if self.snapshots.being_written().is_some() {
            return;
        }
        for Waiter { client, request, .. } in std::mem::take(&mut self.snapshots.backups.waiters) {
            let why = "the node's disk has no room for a snapshot: free some space".to_owned();
            self.refuse(client, request, Refused::NoSpace(why));
        }
    }

    /// Answers those whose snapshot is durable, and gives each backup its next bytes.
    pub(super) fn serve_backups(&mut self, now: Instant) -> Result<(), WriteError> {
        self.snapshots.backups.give_up_idle(now);
        if let Some(snapshot) = self.storage.snapshot_id() {
            let is_settled = |waiter: &mut Waiter| waiter.at_least <= snapshot.index;
            for Waiter { client, request, for_backup, .. } in
                self.snapshots.backups.waiters.extract_if(.., is_settled).collect::<Vec<_>>()
            {
                match for_backup {
                    true => {
                        self.snapshots.backups.asked.push_back(Asked { client, request, snapshot, offset: 0 })
                    }
                    false => self.answer(client, request, ResponseBody::SnapshotSaved(snapshot)),
                }
            }
        }
        while let Some(asked) = self.snapshots.backups.asked.pop_front() {
            self.give_chunk(now, asked)?;
        }
        Ok(())
    }

    fn give_chunk(&mut self, now: Instant, asked: Asked) -> Result<(), WriteError> {
        let Asked { client, request, snapshot, offset } = asked;
        if !self.snapshots.backups.has_open(client, snapshot) {
            // If a newer one has taken its place in the meantime, the backup begins anew with that.
            let Some(snapshot) = self.storage.open_snapshot()? else { return Ok(()) };
            self.snapshots.backups.open.insert(client, Reading { snapshot, used_at: now });
        }
        let slice_bytes = self.snapshots.slice_bytes();
        let reading = self.snapshots.backups.open.get_mut(&client).expect("it was just put there");
        let snapshot = reading.snapshot.id();
        let offset = if snapshot == asked.snapshot { offset } else { 0 };
        let chunk = self.storage.read_snapshot(&mut reading.snapshot, offset, slice_bytes)?;
        if offset + chunk.len() as u64 == snapshot.bytes {
            self.snapshots.backups.open.remove(&client);
        }
        self.answer(client, request, ResponseBody::BackupChunk { snapshot, offset, chunk });
        Ok(())
    }
}
