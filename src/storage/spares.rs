//! The blank files that segments are made of: fresh ones, filled with zeroes in slices of idle turns,
//! and segments that a snapshot has replaced.

use super::disk::Disk;
use super::wal::{create, failed, remove_unfinished, rename, sync, sync_names, write};
use super::{Options, WriteError};

/// A fresh spare that is ready.
pub(super) const SPARE: &str = "spare.wal";
/// A fresh spare that is not finished.
pub(super) const UNFINISHED_SPARE: &str = "spare.tmp";
/// So many released segments are kept to be used again; more are removed.
const MAX_RECYCLED: usize = 4;
pub(super) static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// The name of a spare that was this segment.
pub(super) fn recycled_name(segment: u64) -> String {
    format!("spare-{segment:010}.wal")
}

/// Whether a file of this name is a spare that was a segment.
pub(super) fn is_recycled_name(name: &str) -> bool {
    let number = name.strip_prefix("spare-").and_then(|name| name.strip_suffix(".wal"));
    number.and_then(|number| number.parse().ok()).is_some_and(|number| recycled_name(number) == name)
}

/// How far the next segment is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpareProgress {
    /// It is ready.
    Ready,
    /// More of it is to be written.
    Unfinished,
    /// The disk is full. What there was of it is removed; the next call begins anew.
    NoRoom,
}

/// The spares of a directory.
#[derive(Debug)]
pub(super) struct Spares<F> {
    fresh: Fresh<F>,
    /// What was a segment and is none any more, at most [`MAX_RECYCLED`], with their names.
    recycled: Vec<(String, F)>,
}

#[derive(Debug)]
enum Fresh<F> {
    Missing,
    Filling { file: F, written_bytes: u64 },
    Ready { file: F },
}

impl<F> Spares<F> {
    /// Those that a directory has: a fresh one, and others by their names.
    pub(super) fn new(fresh: Option<F>, recycled: Vec<(String, F)>) -> Self {
        Self { fresh: fresh.map_or(Fresh::Missing, |file| Fresh::Ready { file }), recycled }
    }

    /// The same with this fresh one.
    pub(super) fn with_fresh(self, fresh: Option<F>) -> Self {
        Self::new(fresh, self.recycled)
    }

    /// Whether one more released segment is worth keeping.
    pub(super) fn has_place(&self) -> bool {
        self.recycled.len() < MAX_RECYCLED
    }

    /// Adds one that was a segment.
    pub(super) fn add(&mut self, name: String, file: F) {
        self.recycled.push((name, file));
    }

    /// What is written already of segments to come.
    pub(super) fn written_bytes(&self, segment_bytes: u64) -> u64 {
        let fresh_bytes = match self.fresh {
            Fresh::Missing => 0,
            Fresh::Filling { written_bytes, .. } => written_bytes,
            Fresh::Ready { .. } => segment_bytes,
        };
        self.recycled.len() as u64 * segment_bytes + fresh_bytes
    }

    /// All of them, which leaves none.
    pub(super) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(None, Vec::new()))
    }

    /// One of them with its name; a fresh one is finished first, if there is no other.
    pub(super) fn take_one<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        options: Options,
    ) -> Result<(String, F), WriteError> {
        if let Some(recycled) = self.recycled.pop() {
            return Ok(recycled);
        }
        self.fill(disk, options, u64::MAX)?;
        self.finish(disk, options)?;
        match std::mem::replace(&mut self.fresh, Fresh::Missing) {
            Fresh::Ready { file } => Ok((SPARE.to_owned(), file)),
            Fresh::Missing | Fresh::Filling { .. } => unreachable!("without a budget a spare gets ready"),
        }
    }

    /// Whether there is more than the one that the log needs next.
    pub(super) fn has_surplus(&self) -> bool {
        let is_ready = matches!(self.fresh, Fresh::Ready { .. });
        let ready = self.recycled.len() + usize::from(is_ready);
        ready > 1 || (ready == 1 && self.is_filling())
    }

    fn is_filling(&self) -> bool {
        matches!(self.fresh, Fresh::Filling { .. })
    }

    /// Removes one of the surplus, durably: what is unfinished first.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn give_back<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        options: Options,
    ) -> Result<(), WriteError> {
        assert!(self.has_surplus(), "the last spare is kept");
        let name = if self.is_filling() {
            self.fresh = Fresh::Missing;
            UNFINISHED_SPARE.to_owned()
        } else {
            self.recycled.pop().expect("at most one is fresh").0
        };
        disk.remove(&name).map_err(|cause| failed(disk, "remove", &name, &cause))?;
        sync_names(disk, options)
    }

    /// Goes on with the fresh one, if there is no other: writes and syncs at most `budget_bytes` of it.
    pub(super) fn prepare<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        options: Options,
        budget_bytes: u64,
    ) -> Result<SpareProgress, WriteError> {
        if !self.recycled.is_empty() {
            return Ok(SpareProgress::Ready);
        }
        match self.fill(disk, options, budget_bytes) {
            Ok(()) => self.finish(disk, options),
            // No log is in it yet, and what it took may be what the log needs now.
            Err(full) if full.is_full => {
                remove_unfinished(disk, UNFINISHED_SPARE)?;
                Ok(SpareProgress::NoRoom)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes and syncs more of the fresh one. After a failure there is none.
    fn fill<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        options: Options,
        budget_bytes: u64,
    ) -> Result<(), WriteError> {
        let (file, mut written_bytes) = match std::mem::replace(&mut self.fresh, Fresh::Missing) {
            Fresh::Missing => (create(disk, UNFINISHED_SPARE)?, 0),
            Fresh::Filling { file, written_bytes } => (file, written_bytes),
            ready @ Fresh::Ready { .. } => {
                self.fresh = ready;
                return Ok(());
            }
        };
        let upto = options.segment_bytes.min(written_bytes.saturating_add(budget_bytes));
        while written_bytes < upto {
            let count = (upto - written_bytes).min(ZEROES.len() as u64);
            write(disk, UNFINISHED_SPARE, &file, written_bytes as usize, &ZEROES[..count as usize])?;
            written_bytes += count;
        }
        sync(disk, options, UNFINISHED_SPARE, &file)?;
        self.fresh = Fresh::Filling { file, written_bytes };
        Ok(())
    }

    /// Gives the fresh one the name of a spare, if all of it is written.
    fn finish<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        options: Options,
    ) -> Result<SpareProgress, WriteError> {
        match std::mem::replace(&mut self.fresh, Fresh::Missing) {
            Fresh::Filling { file, written_bytes } if written_bytes == options.segment_bytes => {
                rename(disk, options, UNFINISHED_SPARE, SPARE)?;
                self.fresh = Fresh::Ready { file };
            }
            other => self.fresh = other,
        }
        let is_ready = matches!(self.fresh, Fresh::Ready { .. });
        Ok(if is_ready { SpareProgress::Ready } else { SpareProgress::Unfinished })
    }
}
