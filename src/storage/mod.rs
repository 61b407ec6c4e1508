//! What is durable, and how it is found again.
//!
//! Raft's promises are only as good as its memory: "persistent state on all servers" must be
//! "updated on stable storage before responding to RPCs" (the paper's Figure 2). Everything of that
//! kind is a record in one **log**: the directory's identity and boot number, term and vote, the
//! entries, how far peers were seen to come. One turn of the loop makes one record, one write and
//! one sync, whatever is in it; no second file can disagree with the first.
//!
//! The log lies in numbered **segments** of a fixed size (`segment.rs` has their bytes). They are
//! made of spares that idle turns fill with zeroes (`spares.rs`), so that a sync in a busy turn stores
//! data and nothing else. A record replaces what earlier ones said: its entries replace the log
//! from the first of them on, its hard state replaces the one before. Truncating is appending.
//!
//! Opening reads all of it (`recovery.rs`). What a crash tore is told from damage by what the log
//! itself says about its syncs. A torn tail was promised to nobody and is dropped; damage ends the
//! attempt, since a node that forgot part of its log can vote away what others were told is
//! stored.
//!
//! **The first write or sync that fails is the last.** After a failed sync Linux takes the pages
//! for clean, and the next sync returns success without having stored them. So [`Storage`] refuses
//! all that follows, the caller must end the process, and the next process writes again whatever
//! it can read but cannot prove to be stored. Only what nothing builds on yet, a snapshot or a spare that
//! is not finished, may find the disk full: it is removed, and the log goes on.
//!
//! A **snapshot** stands for the log up to an index (`snapshot_file.rs` has its bytes). Once a
//! record names it, the segments before are released and used again (`snapshots.rs`): every segment
//! repeats the state it begins with, so that any can be the oldest, and checksums begin with the
//! segment's number, so that what an earlier use left in a file is never taken for a record.
//!
//! What no log can notice: damage to the very last record, on a disk that lost power before the
//! next write or marker, looks like a torn write: then safety rests on the other copies.

mod backup;
mod disk;
mod inspect;
mod recovery;
mod removed;
mod restore;
mod segment;
mod snapshot_file;
mod snapshots;
mod spares;
mod state;
mod wal;

use std::rc::Rc;

use thiserror::Error;

pub use backup::{BackupError, BackupWriter, read_backup};
pub use disk::{Disk, FileDisk};
pub use inspect::{FileReport, FileUse, Inspection, SegmentReport, Start, TornTail, inspect};
pub use restore::restore;
pub use snapshot_file::SnapshotFileError;
pub use snapshots::{CopyError, OpenSnapshot};
pub use spares::SpareProgress;

use bytes::Bytes;

use recovery::Sorted;
use removed::Removed;
use segment::{PAGE_BYTES, RecordKind};
use snapshot_file::is_snapshot_name;
use snapshots::Draft;
use state::{Durable, State};
use wal::Wal;

use crate::planted::{Bug, is_planted};
use crate::types::{BootNumber, Incarnation, NodeId};
use crate::wire::DecodeError;
use crate::wire::entry::{Entry, HardState, Reached, Snapshot};

/// The size of segments, unless the whole log is to be small.
const MAX_SEGMENT_BYTES: u64 = 16 << 20;

/// What an operator may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The size of new segments, rounded up to whole pages, at least four of them.
    pub segment_bytes: u64,
    /// Whether anything is synced at all: false for `--unsafe-no-fsync` alone. A crash of the
    /// machine may then leave a directory that is refused as damaged, or that lost its end.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: MAX_SEGMENT_BYTES, sync: true }
    }
}

impl Options {
    /// For a log that is released once it has so many bytes: in segments of a quarter of it, so that there
    /// are whole ones to release.
    #[must_use]
    pub fn for_log(log_bytes: u64) -> Self {
        Self { segment_bytes: (log_bytes / 4).min(MAX_SEGMENT_BYTES), ..Self::default() }
    }

    fn rounded(self) -> Self {
        let page_bytes = PAGE_BYTES as u64;
        let segment_bytes = self.segment_bytes.max(4 * page_bytes).next_multiple_of(page_bytes);
        Self { segment_bytes, ..self }
    }
}

/// What `open` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The node that the directory belongs to.
    pub node: NodeId,
    /// The directory's incarnation.
    pub incarnation: Incarnation,
    /// The number of this boot, already durable.
    pub boot: BootNumber,
    /// The last hard state that was stored.
    pub hard_state: HardState,
    /// The snapshot after which the log begins.
    pub snapshot: Option<RecoveredSnapshot>,
    /// The log, contiguous from the entry after the snapshot on, or from entry 1.
    pub entries: Vec<Entry>,
    /// How far each peer was seen to come, ids ascending.
    pub peers: Vec<(NodeId, Reached)>,
    /// The backup of which the directory was made, until the node has founded a cluster with it.
    pub restored: Option<RecoveredSnapshot>,
}

/// A snapshot that was found, whole and intact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredSnapshot {
    /// What it stands for.
    pub snapshot: Snapshot,
    /// The state, in the slices in which it was written.
    pub state: Vec<Bytes>,
}

/// What one turn makes durable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// New entries; the first of them replaces the log from its index on.
    pub entries: &'a [Entry],
    /// Peers that were seen to have come further.
    pub peers: &'a [(NodeId, Reached)],
}

impl Batch<'_> {
    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hard_state.is_none() && self.entries.is_empty() && self.peers.is_empty()
    }
}

/// A write or sync that failed. It is never retried: the process must end, and start again once
/// the operator has seen to the cause.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("cannot {action} {path}: {cause}; nothing can be stored safely until the node is started again")]
pub struct WriteError {
    /// What was tried.
    pub action: &'static str,
    /// The file.
    pub path: String,
    /// What the system said.
    pub cause: String,
    /// Whether it said that the disk, or a quota of it, is full.
    pub is_full: bool,
}

/// Why a directory cannot be used. The operator can act on each.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("{path} is in use by {}: stop it, or choose another directory (--data-dir)", process(*.pid))]
    Locked {
        /// The directory.
        path: String,
        /// The process, where it could be learned.
        pid: Option<u32>,
    },
    /// The path is no directory, or not ours to read and write.
    #[error("cannot use the directory {path}: {cause}; {cure}, or choose another directory (--data-dir)")]
    Directory {
        /// The directory.
        path: String,
        /// What the system said.
        cause: String,
        /// What helps.
        cure: &'static str,
    },
    /// What has the name of one of a node's files is none.
    #[error(
        "{path} is {found}, where a node keeps a file: move it away, or choose another directory (--data-dir)"
    )]
    NoFile {
        /// Its path.
        path: String,
        /// What it is.
        found: &'static str,
    },
    /// It was created by a node of another id.
    #[error("{path} belongs to node {found}, not to node {asked}: choose another --data-dir or --id {found}")]
    OtherNode {
        /// A file that says so.
        path: String,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        asked: NodeId,
    },
    /// A restore into the directory did not come to its end.
    #[error("{path} was left by an unfinished restore: run `kvstore restore` again, or empty the directory")]
    UnfinishedRestore {
        /// The file.
        path: String,
    },
    /// The format is one that this program does not read.
    #[error(
        "{path} has format version {version}, this program reads version {}: use the kvstore that wrote it",
        segment::VERSION
    )]
    UnknownVersion {
        /// The file.
        path: String,
        /// Its version.
        version: u32,
    },
    /// A record is intact, but holds what this program does not know.
    #[error(
        "{path} has a record at offset {offset} that is intact but not understood ({cause}): \
        use the kvstore that wrote it"
    )]
    NotUnderstood {
        /// The file.
        path: String,
        /// Where the record begins, in bytes.
        offset: u64,
        /// What is not understood.
        cause: DecodeError,
    },
    /// Something that was stored cannot be read any more.
    #[error(
        "{path} is damaged at offset {offset}: {what}. Acknowledged writes may be lost in it, so this node \
        must not start; nothing was changed. The others go on while they are a majority. Keep the directory, \
        check the disk, and see \"Damage\" in docs/formats.md"
    )]
    Damaged {
        /// The file.
        path: String,
        /// Where the first damage was found, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A file cannot be read.
    #[error("cannot use {path}: {cause}; check the disk and the permissions")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The directory was read well, but this boot cannot be stored in it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Whether a node gives this name to a file of its own.
fn is_own_name(name: &str) -> bool {
    recovery::UNFINISHED.contains(&name)
        || name == spares::SPARE
        || spares::is_recycled_name(name)
        || wal::segment_number(name).is_some()
        || is_snapshot_name(name)
        || restore::restored_node(name).is_some()
        || restore::is_unfinished_restore(name)
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// The durable log of one node, open.
///
/// Invariant: once a call has failed, nothing is written any more and every call fails.
#[derive(Debug)]
pub struct Storage<D: Disk> {
    disk: D,
    wal: Wal<D::File>,
    durable: Durable,
    draft: Option<Draft<D::File>>,
    /// The recorded snapshot's file, since somebody read it.
    snapshot_file: Option<Rc<D::File>>,
    removed: Removed<D::File>,
    failed: Option<WriteError>,
}

impl<D: Disk> Storage<D> {
    /// Opens the directory of `node`, creating what is missing, and makes the new boot number, and
    /// all that was recovered, durable.
    ///
    /// `incarnation` is random. A new directory takes it for its own; in any other it only decides by
    /// how much the boot number rises (see [`BootNumber::next`]). A crash at any moment, also during the
    /// first boot, leaves what the next call finishes by itself.
    ///
    /// # Errors
    /// See [`OpenError`]. A directory that is refused was not changed.
    pub fn open(
        mut disk: D,
        node: NodeId,
        options: Options,
        incarnation: Incarnation,
    ) -> Result<(Self, Recovered), OpenError> {
        let options = options.rounded();
        let mut survey = None;
        recovery::survey(&mut disk, Some(node), &mut survey)?;
        let restored = recovery::restored(&mut disk, Some(node), survey.as_ref())?;
        let snapshot = survey.as_ref().and_then(recovery::Survey::snapshot_id);
        let Sorted { spares, useless } = recovery::sort_files(&mut disk, options, snapshot)?;
        // A snapshot that the log no longer names, and a backup that was used up, are removed last: the
        // record that names their successor could be read, but `resume` makes sure that it is on the disk.
        let is_last = |name: &String| {
            let is_built_on = is_snapshot_name(name) || restore::restored_node(name).is_some();
            is_built_on && !is_planted(Bug::SnapshotRemovedEarly)
        };
        let (replaced, unfinished): (Vec<_>, Vec<_>) = useless.into_iter().partition(is_last);
        recovery::remove(&mut disk, &unfinished)?;
        let found =
            survey.as_mut().map(|survey| (survey.snapshot.take(), std::mem::take(&mut survey.entries)));
        let (snapshot, entries) = found.unwrap_or_default();
        let (wal, durable) = match survey {
            Some(survey) => recovery::resume(&mut disk, options, survey, spares, incarnation.0)?,
            None => {
                let mut durable = Durable::new(State::new(node, incarnation));
                durable.state.boot = durable.state.boot.next(0);
                (Wal::found(&mut disk, options, &durable, spares)?, durable)
            }
        };
        recovery::remove(&mut disk, &replaced)?;
        let restored = restored.map(|(_, restored)| restored);
        let recovered = Recovered { restored, ..recovered(&durable.state, snapshot, entries) };
        let (snapshot_file, removed) = (None, Removed::default());
        Ok((Self { disk, wal, durable, draft: None, snapshot_file, removed, failed: None }, recovered))
    }

    /// Makes one turn's batch durable: one write and one sync; nothing at all if it is empty.
    /// All of it survives a crash, or none. Once this has returned, what it holds may be promised.
    ///
    /// # Errors
    /// The first write or sync that fails; the process must end then.
    ///
    /// # Panics
    /// If the batch contradicts what is stored: entries that leave a gap, a term that falls, an
    /// entry of a later term than the hard state's, a second vote in a term, an entry 1 that is no
    /// configuration.
    pub fn persist(&mut self, batch: &Batch<'_>) -> Result<(), WriteError> {
        if batch.is_empty() {
            return self.usable();
        }
        let contradiction = self.durable.contradiction(batch);
        assert!(contradiction.is_none(), "this must never be stored: {}", contradiction.unwrap_or_default());
        let payload = state::encode_batch(batch);
        self.write(|wal, disk, durable| wal.append(disk, durable, (RecordKind::Batch, &payload)))?;
        self.durable.apply(batch);
        Ok(())
    }

    /// Notes in the log that all of it is synced, unless it says so already. Not synced itself and
    /// cheap; to be called before anything is said of what was stored, so that damage to what was promised
    /// is never taken for a torn write.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    pub fn mark_synced(&mut self) -> Result<(), WriteError> {
        self.write(|wal, disk, _| wal.mark_synced(disk))
    }

    /// Prepares the next segment: writes and syncs at most `budget_bytes` of it, so a call takes as
    /// long as that takes. To be called in idle turns. A segment that is needed before its spare is
    /// ready is made at once, inside `persist`.
    ///
    /// # Errors
    /// As [`Storage::persist`]. A disk that is full is none: no log is in a spare yet, so it is removed.
    pub fn prepare_spare(&mut self, budget_bytes: u64) -> Result<SpareProgress, WriteError> {
        self.write(|wal, disk, _| wal.prepare_spare(disk, budget_bytes))
    }

    /// Whether more spares are kept than the one that the log needs next.
    #[must_use]
    pub fn has_surplus(&self) -> bool {
        self.wal.has_surplus()
    }

    /// Removes one spare of the surplus, for a disk that is nearly full. To be called once a turn, since
    /// each costs a sync of the directory.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    ///
    /// # Panics
    /// If there is no surplus.
    pub fn give_back(&mut self) -> Result<(), WriteError> {
        self.write(|wal, disk, _| wal.give_back(disk))
    }

    /// The size of the log's segments.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.wal.segment_bytes()
    }

    fn usable(&self) -> Result<(), WriteError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn write<T>(
        &mut self,
        act: impl FnOnce(&mut Wal<D::File>, &mut D, &Durable) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        self.usable()?;
        let result = act(&mut self.wal, &mut self.disk, &self.durable);
        self.failed = result.as_ref().err().cloned();
        result
    }
}

fn recovered(state: &State, snapshot: Option<RecoveredSnapshot>, entries: Vec<Entry>) -> Recovered {
    let State { node, incarnation, boot, hard_state, .. } = *state;
    let peers = state.peers.iter().map(|(id, reached)| (*id, *reached)).collect();
    Recovered { node, incarnation, boot, hard_state, snapshot, entries, peers, restored: None }
}
