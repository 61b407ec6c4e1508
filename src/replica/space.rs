//! What happens when disks get full, before they are.
//!
//! A log that cannot be written ends its process. So each node keeps some of its disk in **reserve**:
//! what the next snapshot takes, which then releases the log before it, and two segments of the log,
//! for what is under way and for elections. Whoever falls below tells the others, and a leader takes
//! no new write that needs the disk of such a node: `no space`, certainly not applied. Deletes are
//! taken until one of the two segments is used up, since they make the next snapshot smaller. Reads,
//! elections, no-ops and expiry go on. A leader that alone is low hands over. All of it ends by itself
//! once there is room: other files went, or keys were deleted, or a snapshot was taken and the segments
//! before it were given back, which else are kept for use.

use super::Replica;
use crate::storage::{Disk, SpareProgress, WriteError};
use crate::time::{Duration, Instant};
use crate::types::NodeId;
use crate::wire::client::{DiskStatus, Operation, Refused};
use crate::wire::peer::{Room, RoomLevel};

/// How often the disk is asked at most.
const PERIOD: Duration = Duration::from_millis(100);
/// A leader that is low tries to hand over again after so many maximum election timeouts: one try takes
/// one of them at most.
const HAND_OVER_TIMEOUTS: u32 = 2;
/// Segments of the log that are kept in reserve, besides a snapshot.
const RESERVED_SEGMENTS: u64 = 2;
/// Bytes of the log's next segment that one idle turn prepares.
const SPARE_SLICE_BYTES: u64 = 256 << 10;
/// With room for fewer than this, deletes are not taken any more either.
const LAST_SEGMENTS: u64 = 1;

/// What room there is on this node's disk.
#[derive(Debug, Default)]
pub(super) struct Space {
    room: Room,
    looked_at: Option<Instant>,
    /// When this leader last tried to hand over, and to whom; it is forgotten with its leadership.
    handed_over: Option<(Instant, NodeId)>,
    /// The log's next segment is being prepared, a slice in each idle turn.
    is_spare_unfinished: bool,
    /// There was no room for the log's next segment: it is not prepared before this.
    no_spare_until: Option<Instant>,
}

impl Space {
    pub(super) fn room(&self) -> Room {
        self.room
    }

    pub(super) fn level(&self) -> RoomLevel {
        self.room.level
    }
}

/// How long a node tries nothing again for which there was no room. Nodes that share a disk differ in it,
/// so that one of them finds what the others gave back.
fn patience(id: NodeId) -> Duration {
    Duration::from_secs(1 + id.0 % 4)
}

impl<D: Disk> Replica<D> {
    /// For people.
    pub(super) fn disk_status(&self) -> DiskStatus {
        let Room { free_bytes, reserve_bytes, .. } = self.own.space.room;
        DiskStatus { fsync: self.own.fsync, free_bytes, reserve_bytes }
    }

    /// Asks the disk, now and then, tells people of changes, and gives way if others have room.
    pub(super) fn look_at_space(&mut self, now: Instant) {
        if self.own.space.looked_at.is_some_and(|then| now.since(then) < PERIOD) {
            return;
        }
        self.own.space.looked_at = Some(now);
        self.members.forget_rooms(now, self.raft.config().election_max);
        let before = self.own.space.level();
        let room = self.room_now(before);
        self.own.space.room = room;
        if (before == RoomLevel::Enough) != (room.level == RoomLevel::Enough) {
            announce(room);
            self.snapshots.sizes.no_room_until = None;
        }
        self.give_way_if_low(now);
    }

    fn room_now(&mut self, before: RoomLevel) -> Room {
        let Some(free_bytes) = self.storage.free_bytes() else { return Room::default() };
        let snapshot_bytes = self.state.snapshot_bytes();
        let reserve_bytes = self.storage.reserve_bytes(snapshot_bytes, RESERVED_SEGMENTS);
        let last_bytes = self.storage.reserve_bytes(snapshot_bytes, LAST_SEGMENTS);
        // Well above it, so that a disk at the mark does not change its mind all the time.
        let healed_bytes = reserve_bytes.saturating_add(reserve_bytes / 8);
        let level = match before {
            _ if free_bytes < last_bytes => RoomLevel::None,
            _ if free_bytes < reserve_bytes => RoomLevel::Low,
            RoomLevel::None | RoomLevel::Low if free_bytes < healed_bytes => RoomLevel::Low,
            _ => RoomLevel::Enough,
        };
        Room { free_bytes, reserve_bytes, level }
    }

    /// There is no room for a snapshot, or for the rest of one: none is begun for a while.
    pub(super) fn on_no_room(&mut self, now: Instant, whose: &str) {
        let before = self.snapshots.sizes.no_room_until.replace(now + patience(self.own.id));
        if before.is_none() {
            log::warn!("no room for a snapshot {whose}, the disk is too full: the log goes on growing");
        }
        self.refuse_snapshots();
    }

    /// Prepares a slice of the log's next segment.
    pub(super) fn prepare_spare(&mut self, now: Instant) -> Result<(), WriteError> {
        let progress = self.storage.prepare_spare(SPARE_SLICE_BYTES)?;
        self.own.space.is_spare_unfinished = progress == SpareProgress::Unfinished;
        let is_full = progress == SpareProgress::NoRoom;
        self.own.space.no_spare_until = is_full.then(|| now + patience(self.own.id));
        Ok(())
    }

    /// Whether more of the log's next segment is to be prepared, without waiting for anything.
    pub(super) fn has_spare_work(&self, now: Instant) -> bool {
        self.own.space.is_spare_unfinished && self.may_prepare_spare(now)
    }

    /// Without a leader the disk is kept free for votes; without room, for the log itself.
    pub(super) fn may_prepare_spare(&self, now: Instant) -> bool {
        let space = &self.own.space;
        let is_early = space.no_spare_until.is_some_and(|until| now < until);
        self.leader().is_some() && space.level() != RoomLevel::None && !is_early
    }

    /// Whether a snapshot is worth taking early: the disk is low, and the log before it would go.
    pub(super) fn would_free_space(&self, log_bytes: u64) -> bool {
        self.own.space.level() != RoomLevel::Enough
            && log_bytes >= self.storage.segment_bytes() * RESERVED_SEGMENTS
            && self.own.space.room.free_bytes >= self.storage.reserve_bytes(self.state.snapshot_bytes(), 1)
    }

    /// Whether the disk is low, and spares lie on it beyond the one that the log needs next: the reserve
    /// has no use for them.
    pub(super) fn has_space_to_give_back(&self) -> bool {
        self.own.space.level() != RoomLevel::Enough && self.storage.has_surplus()
    }

    /// Why this leader does not take an operation, if the disks have no room for it.
    pub(super) fn lacks_space(&self, operation: &Operation) -> Option<Refused> {
        let needed = match operation {
            Operation::Delete { .. } | Operation::CloseSession { .. } => RoomLevel::Low,
            _ => RoomLevel::Enough,
        };
        let quorum = self.quorum()?;
        let (with_room, without) = self.count_rooms(needed);
        let is_own = self.own.space.level() < needed && self.raft.transferring_to().is_none();
        let is_majority = with_room < quorum && with_room + without >= quorum;
        if !is_own && !is_majority {
            return None;
        }
        let rooms = [(self.own.id, self.own.space.room)].into_iter().chain(self.members.rooms());
        let (id, room) =
            rooms.filter(|(_, room)| room.level < needed).min_by_key(|(_, room)| room.free_bytes)?;
        Some(Refused::NoSpace(format!(
            "node {id} has {} of disk left and keeps {} in reserve: free some space there, or delete keys",
            mebibytes(room.free_bytes),
            mebibytes(room.reserve_bytes)
        )))
    }

    /// A leader that is low gives way if a majority of the others are not.
    fn give_way_if_low(&mut self, now: Instant) {
        if !self.leads() {
            self.own.space.handed_over = None;
            return;
        }
        let is_low = self.own.space.level() != RoomLevel::Enough;
        let pause = self.raft.config().election_max * HAND_OVER_TIMEOUTS;
        let is_early = self.own.space.handed_over.is_some_and(|(then, _)| now.since(then) < pause);
        if !is_low || is_early || self.raft.transferring_to().is_some() {
            return;
        }
        let Some(quorum) = self.quorum() else { return };
        if self.count_rooms(RoomLevel::Enough).0 < quorum {
            return;
        }
        let has_room = |id: NodeId| {
            let mut rooms = self.members.rooms();
            rooms.any(|(member, room)| member == id && room.level == RoomLevel::Enough)
        };
        // Who was tried in vain may hear nothing, or be asleep: another one's turn comes.
        let tried = self.own.space.handed_over.map(|(_, to)| to);
        let another = self.raft.successor(|id| has_room(id) && Some(id) != tried);
        if let Some(to) = another.or_else(|| self.raft.successor(has_room))
            && self.raft.transfer_leadership(now, to).is_ok()
        {
            self.own.space.handed_over = Some((now, to));
            log::warn!("handing over to id={to}, whose disk has more room");
        }
    }

    /// How many members, this one included, have at least this much room, and how many have not. Who has
    /// not been linked for a while is not counted.
    fn count_rooms(&self, needed: RoomLevel) -> (usize, usize) {
        let rooms = self.members.rooms().map(|(_, room)| room.level).chain([self.own.space.level()]);
        let (with_room, without): (Vec<_>, Vec<_>) = rooms.partition(|level| *level >= needed);
        (with_room.len(), without.len())
    }

    fn quorum(&self) -> Option<usize> {
        self.raft.configuration().map(|configuration| configuration.members().len() / 2 + 1)
    }
}

fn announce(room: Room) {
    let (free, reserve) = (mebibytes(room.free_bytes), mebibytes(room.reserve_bytes));
    match room.level {
        RoomLevel::Enough => log::info!("the disk has room again: {free} are free, {reserve} in reserve"),
        _ => log::warn!(
            "the disk is nearly full: {free} are free, and {reserve} are kept in reserve for a snapshot and \
             the log; without a majority that has more, writes are refused: free some space, or delete keys"
        ),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people, one digit behind the point")]
fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
