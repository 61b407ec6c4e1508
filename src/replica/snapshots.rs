//! Keeping the log bounded: taking snapshots, sending them to followers that lack what the log no
//! longer has, and taking them over.
//!
//! All of it is done in slices at the end of a turn, each of a bounded number of bytes: one of this
//! node's own snapshot, or one that it receives, and for each follower one chunk, of which the next
//! leaves when it is answered for. So requests, heartbeats and other followers never wait longer
//! than for one slice. What is not wanted any more (a state that was replaced, a snapshot that was
//! given up) is taken apart in slices too, as dropping it at once would stop the loop.
//!
//! A snapshot is a clone of the state at one applied entry. What is released because of it, on disk
//! and in memory, is released when it is durable and recorded, and not before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::backups::Backups;
use super::founding::Restored;
use super::{Options, Replica, Transport};
use crate::kv::{Limits, SnapshotReader, SnapshotWriter};
use crate::planted::{Bug, is_planted};
use crate::raft::{LogBounds, SnapshotInput};
use crate::storage::{Disk, OpenSnapshot, WriteError};
use crate::time::{Duration, Instant};
use crate::types::{LogIndex, NodeId, Term};
use crate::wire::MAX_SNAPSHOT_CHUNK_BYTES;
use crate::wire::entry::{Entry, Snapshot, SnapshotId};
use crate::wire::peer::{InstallResult, InstallSnapshot, InstallSnapshotResponse, Message};

/// Leaves of what is not wanted any more that one turn frees.
const DISMANTLE_LEAVES: usize = 64;
/// Entries that one turn removes from the log in memory.
const COMPACT_ENTRIES: usize = 4096;
/// Chunks that wait here at most. A leader sends one at a time; more are dropped, and sent again.
const MAX_WAITING: usize = 8;
/// What an entry takes of the log on disk besides its own bytes, in a record of its own.
const RECORD_OVERHEAD_BYTES: u64 = 64;

/// When snapshots are taken, and how much is done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// No snapshot is taken while the log after the last one is smaller than this, nor while it is
    /// smaller than half of that snapshot.
    pub floor_bytes: u64,
    /// The bytes that one slice writes, 1 to [`MAX_SNAPSHOT_CHUNK_BYTES`]; also those of a chunk.
    pub slice_bytes: usize,
    /// How much of the log stays in memory for followers that are behind.
    pub log_bounds: LogBounds,
}

impl SnapshotOptions {
    /// A snapshot once the log has `floor_bytes`. Of the log before it, an eighth of that is kept in memory,
    /// 8 MiB at most, and twice that while a follower wants it, 128 MiB at most.
    #[must_use]
    pub fn for_log(floor_bytes: u64) -> Self {
        let at_most = |bytes: u64, most: usize| usize::try_from(bytes).map_or(most, |bytes| bytes.min(most));
        let trailing_bytes = at_most(floor_bytes / 8, 8 << 20);
        let max_bytes = at_most(floor_bytes.saturating_mul(2), 128 << 20);
        let log_bounds = LogBounds { trailing_bytes, max_bytes };
        Self { floor_bytes, slice_bytes: MAX_SNAPSHOT_CHUNK_BYTES, log_bounds }
    }
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self::for_log(64 << 20)
    }
}

/// What is under way with snapshots on this node.
pub(super) struct Snapshots<F> {
    options: SnapshotOptions,
    /// Those of the sessions in a snapshot that is read.
    pub(super) limits: Limits,
    pub(super) sizes: Sizes,
    pub(super) work: Work,
    waiting: VecDeque<(NodeId, InstallSnapshot)>,
    pub(super) transfers: BTreeMap<NodeId, Transfer<F>>,
    pub(super) remains: VecDeque<SnapshotWriter>,
    pub(super) is_releasing: bool,
    pub(super) backups: Backups<F>,
    /// Linked members that do not know of the founding, and get it with a snapshot.
    pub(super) newcomers: BTreeSet<NodeId>,
    pub(super) restored: Option<Restored>,
}

/// What decides whether a snapshot is due, and what snapshots cost.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// The log after the last snapshot, about as it lies on disk.
    pub(super) log_bytes: u64,
    /// There was no room for a snapshot, and none was saved since: no other is begun before this.
    pub(super) no_room_until: Option<Instant>,
    /// The last snapshot.
    pub(super) last_bytes: u64,
    /// This turn did something for snapshots or for compaction.
    pub(super) is_busy: bool,
    /// The longest turn that did, since people were told.
    pub(super) longest_turn: Duration,
}

impl Sizes {
    /// Whether a snapshot found no room so shortly ago that none is begun.
    pub(super) fn is_waiting_for_room(&self, now: Instant) -> bool {
        self.no_room_until.is_some_and(|until| now < until)
    }
}

/// The one snapshot that is written to this node's disk.
pub(super) enum Work {
    None,
    Writing {
        snapshot: Snapshot,
        writer: SnapshotWriter,
        /// About how large it will be.
        bytes: u64,
        /// The log before it, which counts again if it is given up.
        log_bytes: u64,
    },
    Receiving {
        id: SnapshotId,
        offset: u64,
        reader: SnapshotReader,
    },
}

/// A snapshot on its way to one follower.
pub(super) struct Transfer<F> {
    snapshot: OpenSnapshot<F>,
    /// Where the next chunk begins, or the one under way.
    offset: u64,
    /// A chunk is under way; if it is not answered for by then, it is sent again.
    resend_at: Option<Instant>,
}

impl<F> Snapshots<F> {
    pub(super) fn new(options: &Options, limits: Limits, last: Option<SnapshotId>) -> Self {
        let SnapshotOptions { slice_bytes, .. } = options.snapshots;
        assert!((1..=MAX_SNAPSHOT_CHUNK_BYTES).contains(&slice_bytes), "a slice of {slice_bytes} bytes");
        Self {
            options: options.snapshots,
            limits,
            sizes: Sizes { last_bytes: last.map_or(0, |last| last.bytes), ..Sizes::default() },
            work: Work::None,
            waiting: VecDeque::new(),
            transfers: BTreeMap::new(),
            remains: VecDeque::new(),
            is_releasing: last.is_some(),
            backups: Backups::default(),
            newcomers: BTreeSet::new(),
            restored: None,
        }
    }

    pub(super) fn on_applied(&mut self, entry: &Entry) {
        self.sizes.log_bytes += entry.encoded().len() as u64 + RECORD_OVERHEAD_BYTES;
    }

    /// The size of the log at which a snapshot is due on this node. Nodes differ in it, so that
    /// those on one disk do not all take theirs at once.
    fn threshold(&self, id: NodeId) -> u64 {
        let common = self.options.floor_bytes.max(self.sizes.last_bytes / 2);
        common.saturating_add(common / 8 * (id.0 % 4))
    }

    /// The index of this node's own snapshot that is being written.
    pub(super) fn being_written(&self) -> Option<LogIndex> {
        match &self.work {
            Work::Writing { snapshot, .. } => Some(snapshot.index),
            Work::None | Work::Receiving { .. } => None,
        }
    }

    /// The bytes of a slice, and of a chunk.
    pub(super) fn slice_bytes(&self) -> usize {
        self.options.slice_bytes
    }

    /// A chunk waits to be taken; what is too much is dropped, and sent again.
    pub(super) fn push_waiting(&mut self, from: NodeId, chunk: InstallSnapshot) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back((from, chunk));
        }
    }

    /// Whether a restored node is to found its cluster, and has not begun to.
    fn is_founding_due(&self, now: Instant) -> bool {
        let restored = self.restored.as_ref();
        let is_wanted = restored.is_some_and(|restored| restored.configuration.is_some());
        is_wanted && matches!(self.work, Work::None) && !self.sizes.is_waiting_for_room(now)
    }

    /// Gives up what is being written or received, to be taken apart.
    fn give_up(&mut self) {
        let remains = match std::mem::replace(&mut self.work, Work::None) {
            Work::None => return,
            Work::Writing { writer, log_bytes, .. } => {
                self.sizes.log_bytes += log_bytes;
                writer
            }
            Work::Receiving { reader, .. } => SnapshotWriter::new(reader.abandon()),
        };
        self.remains.push_back(remains);
    }

    /// Takes a little of what is not wanted any more apart.
    fn dismantle(&mut self) {
        if self.remains.front_mut().is_some_and(|remains| !remains.dismantle(DISMANTLE_LEAVES)) {
            self.remains.pop_front();
        }
    }
}

impl<D: Disk> Replica<D> {
    /// Whether there is a slice to do that waits for nothing.
    pub(super) fn has_snapshot_work(&self, now: Instant) -> bool {
        let snapshots = &self.snapshots;
        matches!(snapshots.work, Work::Writing { .. })
            || snapshots.is_releasing
            || self.has_space_to_give_back()
            || self.storage.has_removed()
            || !snapshots.waiting.is_empty()
            || !snapshots.remains.is_empty()
            || snapshots.transfers.values().any(|transfer| transfer.resend_at.is_none())
            || self.raft.has_compactable(snapshots.options.log_bounds)
            || self.is_snapshot_due(now)
            || snapshots.is_founding_due(now)
            || self.snapshots.backups.has_work(self.storage.snapshot_id())
    }

    /// One slice of all that is under way.
    pub(super) fn work_on_snapshots(
        &mut self,
        now: Instant,
        transport: &mut impl Transport,
    ) -> Result<(), WriteError> {
        self.snapshots.sizes.is_busy = self.has_snapshot_work(now);
        for input in self.raft.take_snapshot_inputs() {
            self.snapshots.sizes.is_busy = true;
            match input {
                SnapshotInput::Chunk(from, chunk) => self.snapshots.push_waiting(from, chunk),
                SnapshotInput::Answer(from, answer) => self.on_chunk_answered(from, answer),
            }
        }
        if let Work::Receiving { id, .. } = &self.snapshots.work
            && !self.raft.needs_snapshot(id)
        {
            self.stop_snapshot()?; // the log got there by itself
        }
        self.send_chunks(now, transport)?;
        self.raft.compact(COMPACT_ENTRIES, self.snapshots.options.log_bounds);
        self.snapshots.dismantle();
        self.serve_backups(now)?;
        self.storage.free_removed()?;
        if self.snapshots.sizes.is_waiting_for_room(now) {
            self.refuse_snapshots();
        }

        if let Some((from, chunk)) = self.snapshots.waiting.pop_front() {
            self.on_chunk(now, from, chunk)
        } else if self.snapshots.is_releasing {
            self.snapshots.is_releasing = self.storage.release_segment()?;
            if !self.snapshots.is_releasing {
                let longest = std::mem::take(&mut self.snapshots.sizes.longest_turn);
                let longest_ms = longest.as_secs_f64() * 1e3;
                log::info!("the log before the snapshot is released longest_turn_ms={longest_ms:.1}");
            }
            Ok(())
        } else if self.has_space_to_give_back() {
            self.storage.give_back()
        } else if let Work::Writing { .. } = self.snapshots.work {
            self.write_slice(now)
        } else if self.snapshots.is_founding_due(now) {
            self.begin_founding(now)
        } else if self.is_snapshot_due(now) {
            self.begin_snapshot(now)
        } else {
            Ok(())
        }
    }

    /// The turn took so long; the server knows the clock.
    pub fn on_turn_end(&mut self, took: Duration) {
        let sizes = &mut self.snapshots.sizes;
        if std::mem::take(&mut sizes.is_busy) {
            sizes.longest_turn = sizes.longest_turn.max(took);
        }
    }

    fn is_snapshot_due(&self, now: Instant) -> bool {
        let log_bytes = self.snapshots.sizes.log_bytes;
        let is_wanted = log_bytes >= self.snapshots.threshold(self.own.id)
            || self.would_free_space(log_bytes)
            || self.snapshots.backups.wants_beyond(self.storage.snapshot_id());
        matches!(self.snapshots.work, Work::None)
            && is_wanted
            && !self.snapshots.sizes.is_waiting_for_room(now)
            && self.raft.next_snapshot().is_some()
    }

    fn begin_snapshot(&mut self, now: Instant) -> Result<(), WriteError> {
        let Some(snapshot) = self.raft.next_snapshot() else { return Ok(()) };
        assert_eq!(self.state.revision(), snapshot.index.into(), "the state is that of the applied index");
        let bytes = self.state.snapshot_bytes();
        if !self.storage.has_room_for(bytes) || !self.storage.begin_snapshot(snapshot.clone())? {
            self.on_no_room(now, "of this node");
            return Ok(());
        }
        let snapshots = &mut self.snapshots;
        let log_bytes = std::mem::take(&mut snapshots.sizes.log_bytes);
        snapshots.is_releasing |= is_planted(Bug::LogReleasedEarly);
        let writer = SnapshotWriter::new(self.state.clone());
        snapshots.work = Work::Writing { snapshot, writer, bytes, log_bytes };
        Ok(())
    }

    /// Writes a slice of this node's own snapshot; when nothing is left, saves it.
    fn write_slice(&mut self, now: Instant) -> Result<(), WriteError> {
        let Work::Writing { writer, bytes, .. } = &mut self.snapshots.work else { return Ok(()) };
        // Others write to this disk, too. What is left of it is for the log.
        if !self.storage.has_room_for(*bytes) {
            return self.give_up_for_room(now, "of this node");
        }
        if let Some(slice) = writer.next_slice(self.snapshots.options.slice_bytes) {
            return match self.storage.write_snapshot(&slice)? {
                true => Ok(()),
                false => self.give_up_for_room(now, "of this node"),
            };
        }
        if self.snapshots.restored.is_some() {
            return self.finish_founding(now);
        }
        let Some(id) = self.storage.save_snapshot()? else {
            return self.give_up_for_room(now, "of this node");
        };
        let Work::Writing { snapshot, .. } = std::mem::replace(&mut self.snapshots.work, Work::None) else {
            unreachable!("its last slice was just written");
        };
        log::info!("snapshot saved index={} term={} bytes={}", id.index, id.term, id.bytes);
        self.raft.on_snapshot_saved(snapshot);
        self.snapshots.sizes.last_bytes = id.bytes;
        self.snapshots.sizes.no_room_until = None;
        self.snapshots.is_releasing = true;
        Ok(())
    }

    /// Gives up the snapshot that is being written or received.
    pub(super) fn stop_snapshot(&mut self) -> Result<(), WriteError> {
        self.snapshots.give_up();
        self.storage.abandon_snapshot()
    }

    /// The same, as the disk has no room for the rest of it.
    pub(super) fn give_up_for_room(&mut self, now: Instant, whose: &str) -> Result<(), WriteError> {
        self.stop_snapshot()?;
        self.on_no_room(now, whose);
        Ok(())
    }

    // A leader sends.

    /// One chunk to each follower that is sent a snapshot and has answered for the one before.
    fn send_chunks(&mut self, now: Instant, transport: &mut impl Transport) -> Result<(), WriteError> {
        let newcomers = self.newcomers_to_serve();
        let mut receivers = self.raft.snapshot_receivers();
        receivers.retain(|(id, _)| !newcomers.contains(id));
        receivers.extend(newcomers.iter().map(|newcomer| (*newcomer, LogIndex::ZERO)));
        // What was sent and installed in the meantime may not reach far enough any more.
        self.snapshots.transfers.retain(|id, transfer| {
            let reaches = transfer.snapshot.id().index;
            receivers.iter().any(|(receiver, index)| receiver == id && *index <= reaches)
        });
        let resend_at = now + self.raft.config().election_max;
        for (to, _) in receivers {
            if !self.snapshots.transfers.contains_key(&to) {
                let Some(snapshot) = self.storage.open_snapshot()? else { continue };
                let (index, bytes) = (snapshot.id().index, snapshot.id().bytes);
                log::info!("sending a snapshot to id={to} index={index} bytes={bytes}");
                self.snapshots.transfers.insert(to, Transfer { snapshot, offset: 0, resend_at: None });
            }
            let transfer = self.snapshots.transfers.get_mut(&to).expect("it was just put there");
            if transfer.resend_at.is_some_and(|resend_at| now < resend_at) {
                continue;
            }
            transfer.resend_at = Some(resend_at);
            let (slice_bytes, offset) = (self.snapshots.options.slice_bytes, transfer.offset);
            let chunk = self.storage.read_snapshot(&mut transfer.snapshot, offset, slice_bytes)?;
            let term = if newcomers.contains(&to) { Term::ZERO } else { self.raft.term() };
            let snapshot = transfer.snapshot.id();
            transport.send(to, &Message::InstallSnapshot(InstallSnapshot { term, snapshot, offset, chunk }));
        }
        if !self.snapshots.transfers.is_empty() {
            transport.flush();
        }
        Ok(())
    }

    /// A follower says where to go on. An answer to another transfer, or one that only repeats
    /// what made the chunk under way leave, changes nothing.
    pub(super) fn on_chunk_answered(&mut self, from: NodeId, answer: InstallSnapshotResponse) {
        let Some(transfer) = self.snapshots.transfers.get_mut(&from) else { return };
        let InstallResult::Received { offset } = answer.result else { return };
        let is_news = offset != transfer.offset && offset <= answer.snapshot.bytes;
        if answer.snapshot == transfer.snapshot.id() && is_news {
            transfer.offset = offset;
            transfer.resend_at = None;
        }
    }
}
