//! Backups as files: written by who makes one, read by who checks or restores one.
//!
//! A backup is the file of a snapshot (`snapshot_file.rs` has its bytes), under a name of the user's.
//! So it has magic, version and a checksum over the whole, and a snapshot's file out of a directory
//! is a backup, too.
//!
//! The order: (1) the bytes go to a temporary name beside the wanted one, each checked as it
//! comes; (2) the file is synced; (3) it gets its name, and the directory is synced. So a file with
//! the wanted name is a whole backup, whatever a crash leaves.

use std::io;

use bytes::Bytes;
use thiserror::Error;

use super::disk::{self, Disk};
use super::snapshot_file::{Parser, SnapshotFileError};
use crate::wire::entry::{Snapshot, SnapshotId};

/// What is read of a backup at once.
const SLICE_BYTES: u64 = 256 << 10;

/// Why a backup cannot be written, or is none.
#[derive(Debug, Error)]
pub enum BackupError {
    /// There is such a file already.
    #[error("{path} exists: choose another name, or --force to replace it")]
    Exists {
        /// The file.
        path: String,
    },
    /// Another process writes it.
    #[error("{path} is being written by another backup: wait until that is done, or choose another name")]
    InUse {
        /// The file.
        path: String,
    },
    /// The system refused.
    #[error("cannot {action} {path}: {cause}{}", cure(cause))]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        cause: io::Error,
    },
    /// Nothing can be restored where something is.
    #[error("{path} is not empty, it holds {holds}: restore into a new directory")]
    NotEmpty {
        /// The directory.
        path: String,
        /// A file in it.
        holds: String,
    },
    /// The bytes are no whole backup.
    #[error("{path} is no whole backup: {cause}; use another one")]
    Content {
        /// The file.
        path: String,
        /// What is wrong.
        cause: SnapshotFileError,
    },
}

/// What helps, where that is plain.
fn cure(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => "; correct the path",
        io::ErrorKind::IsADirectory => "; name a backup, or a snapshot's file in it",
        io::ErrorKind::PermissionDenied => "; act as the user who owns it",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, or choose another place"
        }
        _ => "",
    }
}

/// A backup that is being written.
#[derive(Debug)]
pub struct BackupWriter<D: Disk> {
    disk: D,
    name: String,
    may_replace: bool,
    file: D::File,
    id: SnapshotId,
    parser: Parser,
    written_bytes: u64,
}

/// The name under which a backup is written.
fn unfinished(name: &str) -> String {
    format!("{name}.part")
}

/// The name that the unfinished backup in the file of this name was to get, if it is one.
pub(super) fn finished(name: &str) -> Option<&str> {
    name.strip_suffix(".part")
}

impl<D: Disk> BackupWriter<D> {
    /// Whether a backup may get this name: not that of a file that is there, unless it shall be replaced.
    ///
    /// # Errors
    /// If it may not.
    pub fn check_name(disk: &mut D, name: &str, replace: bool) -> Result<(), BackupError> {
        let names = disk.list().map_err(|cause| failed(disk, "list the directory of", name, cause))?;
        match !replace && names.iter().any(|other| other == name) {
            true => Err(BackupError::Exists { path: disk.path_of(name) }),
            false => Ok(()),
        }
    }

    /// Begins to write the backup that is this snapshot, in the place of another if it may replace one.
    /// What an earlier attempt left under the temporary name is written over.
    ///
    /// # Errors
    /// If another process writes a backup of this name, or the system refuses.
    pub fn begin(mut disk: D, name: &str, id: SnapshotId, may_replace: bool) -> Result<Self, BackupError> {
        let part = unfinished(name);
        let claimed = disk.claim(&part).map_err(|cause| failed(&disk, "create", &part, cause))?;
        let Some(file) = claimed else { return Err(BackupError::InUse { path: disk.path_of(&part) }) };
        // What is unfinished shall be known to be so after a loss of power, too.
        disk.sync_dir().map_err(|cause| failed(&disk, "sync the directory of", &part, cause))?;
        let parser = Parser::default();
        Ok(Self { disk, name: name.to_owned(), may_replace, file, id, parser, written_bytes: 0 })
    }

    /// The snapshot whose bytes these are.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// How many bytes are there.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Writes the next bytes, after checking them.
    ///
    /// # Errors
    /// If they cannot be a part of a backup, or the system refuses.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let part = unfinished(&self.name);
        if let Err(cause) = self.parser.feed(bytes) {
            return Err(BackupError::Content { path: self.disk.path_of(&part), cause });
        }
        let written = disk::write_all(&mut self.disk, &self.file, self.written_bytes, bytes);
        written.map_err(|cause| failed(&self.disk, "write", &part, cause))?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Ends the backup: it is checked as a whole, and from then on has its name for good.
    ///
    /// # Errors
    /// If it is not whole, or somebody has taken the name meanwhile, or the system refuses.
    pub fn finish(mut self) -> Result<Snapshot, BackupError> {
        let part = unfinished(&self.name);
        if let Err(taken) = Self::check_name(&mut self.disk, &self.name, self.may_replace) {
            // What was fetched is of no use under the other name; what came between is the news.
            _ = self.abandon();
            return Err(taken);
        }
        let content = |cause| BackupError::Content { path: self.disk.path_of(&part), cause };
        let (snapshot, found) = self.parser.finish().map_err(content)?;
        if found != self.id {
            return Err(content(SnapshotFileError::OTHER));
        }
        self.disk.sync(&self.file).map_err(|cause| failed(&self.disk, "sync", &part, cause))?;
        let renamed = self.disk.rename(&part, &self.name);
        renamed.map_err(|cause| failed(&self.disk, "rename", &part, cause))?;
        let synced = self.disk.sync_dir();
        synced.map_err(|cause| failed(&self.disk, "sync the directory of", &self.name, cause))?;
        Ok(snapshot)
    }

    /// Gives the backup up, and gives the disk back.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn abandon(mut self) -> Result<D, BackupError> {
        let part = unfinished(&self.name);
        let removed = self.disk.remove(&part);
        removed.map_err(|cause| failed(&self.disk, "remove", &part, cause))?;
        Ok(self.disk)
    }
}

/// Reads a backup from its beginning to its end, checks all of it, and hands its bytes, and the parts
/// of the state in them, to `take`.
///
/// # Errors
/// If it is no whole backup, or the system refuses, or `take` does.
pub fn read_backup<D: Disk, E: From<BackupError>>(
    disk: &mut D,
    name: &str,
    mut take: impl FnMut(&[u8], Vec<Bytes>) -> Result<(), E>,
) -> Result<(Snapshot, SnapshotId), E> {
    let file = disk.open(name).map_err(|cause| failed(disk, "open", name, cause))?;
    let size_bytes = disk.size(&file).map_err(|cause| failed(disk, "read", name, cause))?;
    let (mut parser, mut offset) = (Parser::default(), 0);
    while offset < size_bytes {
        let mut slice = vec![0; SLICE_BYTES.min(size_bytes - offset) as usize];
        let read = disk::read_exact(disk, &file, offset, &mut slice);
        read.map_err(|cause| failed(disk, "read", name, cause))?;
        offset += slice.len() as u64;
        let parts = parser.feed(&slice);
        let parts = parts.map_err(|cause| BackupError::Content { path: disk.path_of(name), cause })?;
        take(&slice, parts)?;
    }
    let finished = parser.finish();
    Ok(finished.map_err(|cause| BackupError::Content { path: disk.path_of(name), cause })?)
}

pub(super) fn failed<D: Disk>(disk: &D, action: &'static str, name: &str, cause: io::Error) -> BackupError {
    BackupError::File { action, path: disk.path_of(name), cause }
}
