//! Saving a snapshot, taking over one that was sent, and releasing the log before it.
//!
//! The order is the whole point. (1) The file is written and synced under a temporary name, slice by
//! slice. (2) It gets its name, and the directory is synced. (3) A record in the log says that this
//! very file, by size and checksum, stands for the log up to its index. (4) Only then are the
//! segments before it, and the snapshot before it, released. A crash between any two leaves a file
//! that no record names, which the next start removes, or segments that nobody needs, which it
//! releases.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use thiserror::Error;

use super::disk::{self, Disk};
use super::restore::restored_name;
use super::segment::RecordKind;
use super::snapshot_file::{self, Parser, SnapshotFileError, snapshot_name};
use super::state::encode_snapshot;
use super::wal;
use super::{Batch, Storage, WriteError};
use crate::planted::{Bug, is_planted};
use crate::types::LogIndex;
use crate::wire::Writer;
use crate::wire::entry::{HardState, Snapshot, SnapshotId};

/// The name of a snapshot that is being written or received.
pub(super) const UNFINISHED_SNAPSHOT: &str = "snapshot.tmp";

/// A snapshot's file that is not finished.
#[derive(Debug)]
pub(super) struct Draft<F> {
    file: F,
    written_bytes: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Made of this node's own state.
    Own { snapshot: Snapshot, checksum: u32 },
    /// The bytes of another node's file, checked as they come.
    Copy(Parser),
}

/// Why a copy of another node's snapshot is given up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CopyError {
    /// Its bytes can be no part of a snapshot.
    #[error(transparent)]
    Content(#[from] SnapshotFileError),
    /// It does not fit.
    #[error("the disk is full")]
    NoRoom,
}

/// A snapshot's file, open for reading. It can be read to its end also when it was replaced by
/// another. What is read in its order, from the beginning on, is checked once more: who gets it could
/// do nothing about damage.
#[derive(Debug)]
pub struct OpenSnapshot<F> {
    file: Rc<F>,
    id: SnapshotId,
    parser: Parser,
    checked_bytes: u64,
}

impl<F> OpenSnapshot<F> {
    /// The snapshot whose bytes these are.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// Checks bytes that go on where the last ones ended. Others were asked for again, or are part of a
    /// file of which the reader has had the beginning elsewhere.
    fn check(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SnapshotFileError> {
        if offset == 0 {
            (self.parser, self.checked_bytes) = (Parser::default(), 0);
        }
        if offset != self.checked_bytes || bytes.is_empty() {
            return Ok(());
        }
        self.parser.feed(bytes)?;
        self.checked_bytes += bytes.len() as u64;
        if self.checked_bytes < self.id.bytes {
            return Ok(());
        }
        let (_, found) = std::mem::take(&mut self.parser).finish()?;
        if found == self.id { Ok(()) } else { Err(SnapshotFileError::OTHER) }
    }
}

impl<D: Disk> Storage<D> {
    /// The snapshot after which the log begins, if there is one.
    #[must_use]
    pub fn snapshot_id(&self) -> Option<SnapshotId> {
        self.durable.state.snapshot
    }

    /// Begins a snapshot of this node's own state, one of entries that are all durable here. What
    /// was begun and not saved is given up. Gives false if the disk is full: then nothing is begun.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    pub fn begin_snapshot(&mut self, snapshot: Snapshot) -> Result<bool, WriteError> {
        let mut out = Writer::new();
        let checksum = snapshot_file::put_header(&mut out, &snapshot);
        Ok(self.begin_draft(Content::Own { snapshot, checksum })? && self.extend_draft(&out.into_bytes())?)
    }

    /// Writes and syncs the next slice of the state. Gives false if the disk is full: then the snapshot
    /// is given up.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    ///
    /// # Panics
    /// If no snapshot of this node's own was begun, or the slice is empty.
    pub fn write_snapshot(&mut self, slice: &[u8]) -> Result<bool, WriteError> {
        assert!(!slice.is_empty(), "an empty slice would end the snapshot");
        self.put_chunk(slice)
    }

    /// Ends the snapshot and records it: from now on the log begins after it. Gives nothing if the disk
    /// is full: then the snapshot is given up.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    ///
    /// # Panics
    /// If no snapshot of this node's own was begun, or if it is not of this log.
    pub fn save_snapshot(&mut self) -> Result<Option<SnapshotId>, WriteError> {
        let Some((id, _)) = self.end_own()? else { return Ok(None) };
        self.record_snapshot(id, false)?;
        Ok(Some(id))
    }

    /// The same for the snapshot with which a restored node founds its cluster: with the record the
    /// node belongs to the cluster that the snapshot names, and the backup is removed. The hard state is
    /// stored before it, if it changes.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    ///
    /// # Panics
    /// If no snapshot of this node's own was begun, if the log does not begin with it, or if its term is
    /// above the hard state's.
    pub fn save_founding_snapshot(
        &mut self,
        hard_state: Option<HardState>,
    ) -> Result<Option<SnapshotId>, WriteError> {
        let Some((id, snapshot)) = self.end_own()? else { return Ok(None) };
        self.persist(&Batch { hard_state, ..Batch::default() })?;
        self.record_snapshot(id, true)?;
        self.durable.cluster = Some(snapshot.configuration.cluster);
        let restored = restored_name(self.durable.state.node);
        self.on_disk(|disk, _| remove(disk, &restored))?;
        Ok(Some(id))
    }

    /// Writes the end of a snapshot of this node's own, if the disk has room for it.
    fn end_own(&mut self) -> Result<Option<(SnapshotId, Snapshot)>, WriteError> {
        if !self.put_chunk(&[])? {
            return Ok(None);
        }
        let draft = self.draft.take().expect("a snapshot was begun");
        let Content::Own { snapshot, checksum } = draft.content else {
            unreachable!("the end was written to a snapshot of this node's own");
        };
        let Snapshot { index, term, .. } = snapshot;
        let id = SnapshotId { index, term, bytes: draft.written_bytes, checksum };
        Ok(Some((id, snapshot)))
    }

    /// Begins to receive the bytes of another node's snapshot. What was begun and not saved is
    /// given up. Gives false if the disk is full: then nothing is begun.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    pub fn begin_copy(&mut self) -> Result<bool, WriteError> {
        self.begin_draft(Content::Copy(Parser::default()))
    }

    /// Writes and syncs the next bytes of the copy. Gives the parts of the state that they
    /// complete, each found intact; or why the copy is given up.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    ///
    /// # Panics
    /// If no copy was begun.
    pub fn write_copy(&mut self, bytes: &[u8]) -> Result<Result<Vec<Bytes>, CopyError>, WriteError> {
        let Some(Draft { content: Content::Copy(parser), .. }) = &mut self.draft else {
            panic!("a copy was begun");
        };
        match parser.feed(bytes) {
            Ok(payloads) if self.extend_draft(bytes)? => Ok(Ok(payloads)),
            Ok(_) => Ok(Err(CopyError::NoRoom)),
            Err(error) => {
                self.abandon_snapshot()?;
                Ok(Err(error.into()))
            }
        }
    }

    /// What the copy says of itself, once its header page was written.
    #[must_use]
    pub fn copied_snapshot(&self) -> Option<&Snapshot> {
        match &self.draft {
            Some(Draft { content: Content::Copy(parser), .. }) => parser.snapshot(),
            _ => None,
        }
    }

    /// Ends the copy, and takes it for the whole log: nothing of the log before is left, and the
    /// next entry is the one after the snapshot. The hard state is stored before that, if it changes. If
    /// the copy is not the snapshot `id`, whole and intact, it is given up instead, and nothing is stored.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    ///
    /// # Panics
    /// If no copy was begun, if it lies before the snapshot that is recorded, or if its term is above the
    /// hard state's.
    pub fn install_copy(
        &mut self,
        id: SnapshotId,
        hard_state: Option<HardState>,
    ) -> Result<Result<Snapshot, SnapshotFileError>, WriteError> {
        let Some(Draft { content: Content::Copy(parser), .. }) = &mut self.draft else {
            panic!("a copy was begun");
        };
        let finished = std::mem::take(parser).finish().and_then(|(snapshot, found)| {
            if found == id { Ok(snapshot) } else { Err(SnapshotFileError::OTHER) }
        });
        match finished {
            Ok(snapshot) => {
                self.draft = None;
                self.persist(&Batch { hard_state, ..Batch::default() })?;
                self.record_snapshot(id, true)?;
                let configuration = &snapshot.configuration;
                self.durable.cluster = Some(configuration.cluster);
                Ok(Ok(snapshot))
            }
            Err(error) => {
                self.abandon_snapshot()?;
                Ok(Err(error))
            }
        }
    }

    /// Gives up what was begun and not saved, if anything was.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    pub fn abandon_snapshot(&mut self) -> Result<(), WriteError> {
        let Some(draft) = self.draft.take() else { return Ok(()) };
        self.on_disk(|disk, _| remove(disk, UNFINISHED_SNAPSHOT))?;
        self.removed.push(Rc::new(draft.file), draft.written_bytes);
        Ok(())
    }

    /// Releases one segment of the log that the snapshot replaces: it becomes a spare, or it is
    /// removed. Gives false if there is none. To be called once a turn: each costs a sync of the
    /// directory, so that segments disappear in their order, whatever a crash leaves.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    pub fn release_segment(&mut self) -> Result<bool, WriteError> {
        let index = match (self.durable.state.snapshot, &self.draft) {
            (_, Some(Draft { content: Content::Own { snapshot, .. }, .. }))
                if is_planted(Bug::LogReleasedEarly) =>
            {
                snapshot.index
            }
            (Some(SnapshotId { index, .. }), _) => index,
            (None, _) => return Ok(false),
        };
        self.write(|wal, disk, _| wal.release(disk, index))
    }

    /// Opens the recorded snapshot to be read, slice by slice.
    ///
    /// # Errors
    /// If that fails. The process should end, as after a failed write: what the log builds on is
    /// gone.
    pub fn open_snapshot(&mut self) -> Result<Option<OpenSnapshot<D::File>>, WriteError> {
        let Some(id) = self.durable.state.snapshot else { return Ok(None) };
        let file = match &self.snapshot_file {
            Some(file) => Rc::clone(file),
            None => self.open_file(&snapshot_name(id.index))?,
        };
        self.snapshot_file = Some(Rc::clone(&file));
        Ok(Some(OpenSnapshot { file, id, parser: Parser::default(), checked_bytes: 0 }))
    }

    fn open_file(&mut self, name: &str) -> Result<Rc<D::File>, WriteError> {
        self.on_disk(|disk, _| match disk.open(name) {
            Ok(file) => Ok(Rc::new(file)),
            Err(cause) => Err(wal::failed(disk, "open", name, &cause)),
        })
    }

    /// Reads at most `max_bytes` of a snapshot's file from `offset` on; nothing at its end.
    ///
    /// # Errors
    /// As [`Storage::open_snapshot`]; also if the file is damaged, as the next start would say.
    pub fn read_snapshot(
        &mut self,
        snapshot: &mut OpenSnapshot<D::File>,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Bytes, WriteError> {
        let left = snapshot.id.bytes.saturating_sub(offset);
        let mut bytes = vec![0; max_bytes.min(usize::try_from(left).unwrap_or(usize::MAX))];
        let read = disk::read_exact(&mut self.disk, &snapshot.file, offset, &mut bytes);
        let name = snapshot_name(snapshot.id.index);
        self.on_disk(|disk, _| read.map_err(|cause| wal::failed(disk, "read", &name, &cause)))?;
        let checked = snapshot.check(offset, &bytes);
        self.on_disk(|disk, _| {
            checked.map_err(|damage| {
                let cure = "start the node again: it says whether its disk has it so, and what to do";
                wal::failed(disk, "send", &name, &io::Error::other(format!("{damage} ({cure})")))
            })
        })?;
        Ok(bytes.into())
    }

    /// Whether a snapshot of about so many bytes fits on the disk, and one more segment of the log. A
    /// disk that does not say is believed to have room.
    pub fn has_room_for(&mut self, bytes: u64) -> bool {
        let needed_bytes = self.reserve_bytes(bytes, 1);
        self.free_bytes().is_none_or(|free| free >= needed_bytes)
    }

    /// Bytes that can still be stored on the disk, if it says so.
    pub fn free_bytes(&mut self) -> Option<u64> {
        self.disk.free_space().ok()
    }

    /// What a snapshot of so many bytes and so many more segments will take: what is written of
    /// spares takes nothing any more, nor does what is written of the snapshot already.
    #[must_use]
    pub fn reserve_bytes(&self, snapshot_bytes: u64, segments: u64) -> u64 {
        let missing_bytes = (segments * self.wal.segment_bytes()).saturating_sub(self.wal.spare_bytes());
        let written_bytes = self.draft.as_ref().map_or(0, |draft| draft.written_bytes);
        snapshot_bytes.saturating_sub(written_bytes).saturating_add(missing_bytes)
    }

    fn begin_draft(&mut self, content: Content) -> Result<bool, WriteError> {
        self.abandon_snapshot()?;
        let file = self.unless_full(|disk, _| wal::create(disk, UNFINISHED_SNAPSHOT))?;
        self.draft = file.map(|file| Draft { file, written_bytes: 0, content });
        Ok(self.draft.is_some())
    }

    fn put_chunk(&mut self, payload: &[u8]) -> Result<bool, WriteError> {
        let Some(Draft { content: Content::Own { checksum, .. }, .. }) = &mut self.draft else {
            panic!("a snapshot of this node's own was begun");
        };
        let mut out = Writer::with_capacity(payload.len() + 8);
        *checksum = snapshot_file::put_chunk(&mut out, *checksum, payload);
        self.extend_draft(&out.into_bytes())
    }

    /// Writes and syncs more of what was begun; if the disk is full, gives it up.
    fn extend_draft(&mut self, bytes: &[u8]) -> Result<bool, WriteError> {
        let mut draft = self.draft.take().expect("a snapshot was begun");
        let written = self.unless_full(|disk, options| {
            let offset = usize::try_from(draft.written_bytes).expect("files are addressable");
            wal::write(disk, UNFINISHED_SNAPSHOT, &draft.file, offset, bytes)?;
            wal::sync(disk, options, UNFINISHED_SNAPSHOT, &draft.file)
        })?;
        let is_written = written.is_some();
        draft.written_bytes += if is_written { bytes.len() as u64 } else { 0 };
        self.draft = Some(draft);
        if !is_written {
            self.abandon_snapshot()?;
        }
        Ok(is_written)
    }

    /// The file is written and synced: gives it its name, records it, and removes the one before.
    fn record_snapshot(&mut self, id: SnapshotId, resets_log: bool) -> Result<(), WriteError> {
        let contradiction = self.durable.snapshot_contradiction(&id, resets_log);
        assert!(
            contradiction.is_none(),
            "this must never be recorded: {}",
            contradiction.unwrap_or_default()
        );
        let name = snapshot_name(id.index);
        self.on_disk(|disk, options| wal::rename(disk, options, UNFINISHED_SNAPSHOT, &name))?;
        let payload = encode_snapshot(&id, resets_log);
        self.write(|wal, disk, durable| wal.append(disk, durable, (RecordKind::Snapshot, &payload)))?;
        let before = self.durable.apply_snapshot(id, resets_log);
        before.map_or(Ok(()), |before| self.remove_replaced(before))
    }

    fn remove_replaced(&mut self, SnapshotId { index, bytes, .. }: SnapshotId) -> Result<(), WriteError> {
        let name = snapshot_name(index);
        let file = match self.snapshot_file.take() {
            Some(file) => file,
            None => self.open_file(&name)?,
        };
        self.on_disk(|disk, _| remove(disk, &name))?;
        self.removed.push(file, bytes);
        Ok(())
    }

    /// Whether [`Storage::free_removed`] has something to do.
    #[must_use]
    pub fn has_removed(&self) -> bool {
        self.removed.has_unread()
    }

    /// Gives the file system back some of what was removed and is not read any more. To be called
    /// once a turn, since it takes its time.
    ///
    /// # Errors
    /// As [`Storage::persist`].
    pub fn free_removed(&mut self) -> Result<(), WriteError> {
        let mut removed = std::mem::take(&mut self.removed);
        let freed = self.on_disk(|disk, _| {
            let freed = removed.free_slice(disk);
            freed.map_err(|cause| wal::failed(disk, "cut short", "a removed file", &cause))
        });
        self.removed = removed;
        freed
    }

    /// Acts on the file of the unfinished snapshot, which alone may find the disk full: nothing builds on
    /// it yet, so what becomes of its bytes does not matter. Gives nothing then.
    fn unless_full<T>(
        &mut self,
        act: impl FnOnce(&mut D, super::Options) -> Result<T, WriteError>,
    ) -> Result<Option<T>, WriteError> {
        self.write(|wal, disk, _| match act(disk, wal.options()) {
            Err(full) if full.is_full => Ok(None),
            done => done.map(Some),
        })
    }

    fn on_disk<T>(
        &mut self,
        act: impl FnOnce(&mut D, super::Options) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        self.write(|wal, disk, _| act(disk, wal.options()))
    }
}

/// The entries that a snapshot at `index` leaves of a log.
pub(super) fn is_replaced(entry: LogIndex, snapshot: Option<SnapshotId>) -> bool {
    snapshot.is_some_and(|snapshot| entry <= snapshot.index)
}

fn remove<D: Disk>(disk: &mut D, name: &str) -> Result<(), WriteError> {
    let removed = disk.remove(name);
    removed.map_err(|cause| wal::failed(disk, "remove", name, &cause))
}
