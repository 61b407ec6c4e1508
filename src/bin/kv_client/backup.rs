//! `kv_client backup`: fetches a snapshot, chunk by chunk, into a file.

use std::path::Path;

use kvstore::client::{BackupChunk, Client, Reply};
use kvstore::storage::{BackupError, BackupWriter, FileDisk};
use kvstore::types::NodeId;
use kvstore::wire::entry::Snapshot;

use crate::Failure;
use crate::terminal::{Progress, complain};

/// A backup that is complete.
pub(crate) struct Backup {
    pub(crate) snapshot: Snapshot,
    pub(crate) bytes: u64,
    /// The last answer, without its bytes.
    pub(crate) reply: Reply<()>,
}

/// Makes a backup in `path`. A connection that breaks, or a node that has another snapshot by then,
/// costs time alone; each step may take as long as the client's timeout.
pub(crate) fn make(client: &mut Client, path: &Path, replace: bool) -> Result<Backup, Failure> {
    let (mut disk, name) = place_of(path)?;
    BackupWriter::check_name(&mut disk, &name, replace)?;
    let progress = Progress::begin("kv_client", "waiting for a snapshot");
    let mut writer: Option<BackupWriter<FileDisk>> = None;
    loop {
        let known = writer.as_ref().map(BackupWriter::id);
        let offset = writer.as_ref().map_or(0, BackupWriter::written_bytes);
        let fetched = client.backup(known, offset).map_err(Failure::from);
        let written = fetched.and_then(|reply| Ok((write(&mut writer, path, &reply, replace)?, reply)));
        let (is_whole, reply) = match written {
            Ok(written) => written,
            Err(failure) => {
                if let Some(unfinished) = writer {
                    // Whatever went wrong before is the news.
                    _ = unfinished.abandon();
                }
                return Err(failure);
            }
        };
        let (written_bytes, id) = (reply.value.offset + reply.value.chunk.len() as u64, reply.value.snapshot);
        progress.note(written_bytes, id.bytes);
        if is_whole && let Some(writer) = writer.take() {
            let snapshot = writer.finish().map_err(|error| failure(error, reply.node))?;
            let Reply { revision, node, attempts, cached, .. } = reply;
            let reply = Reply { value: (), revision, node, attempts, cached };
            return Ok(Backup { snapshot, bytes: id.bytes, reply });
        }
    }
}

/// Writes a chunk, in a new file if it begins one. Gives whether it was the last.
fn write(
    writer: &mut Option<BackupWriter<FileDisk>>,
    path: &Path,
    reply: &Reply<BackupChunk>,
    replace: bool,
) -> Result<bool, Failure> {
    let BackupChunk { snapshot, offset, chunk } = &reply.value;
    let goes_on = |writer: &BackupWriter<FileDisk>| {
        writer.id() == *snapshot && writer.written_bytes() == *offset && !chunk.is_empty()
    };
    if !writer.as_ref().is_some_and(goes_on) {
        if let Some(before) = writer.take() {
            let index = before.id().index;
            complain(format_args!(
                "kv_client: note: the snapshot at {index} is gone, the backup begins anew with node {}'s at {}",
                reply.node, snapshot.index
            ));
        }
        let (disk, name) = place_of(path)?;
        *writer = Some(BackupWriter::begin(disk, &name, *snapshot, replace)?);
    }
    let writer = writer.as_mut().expect("it was begun");
    writer.write(chunk).map_err(|error| failure(error, reply.node))?;
    Ok(writer.written_bytes() == snapshot.bytes)
}

/// The directory of the file, and its name there.
fn place_of(path: &Path) -> Result<(FileDisk, String), Failure> {
    let unusable = |why: &str| {
        let path = path.display();
        Failure::Place(format!("cannot store a backup as {path}: {why}: name a file in a directory"))
    };
    if path == Path::new("-") {
        return Err(unusable("a backup is no stream (./- is a file)"));
    }
    // A device or a directory is nothing to replace, whoever may.
    if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
        return Err(unusable("what has that name is no ordinary file"));
    }
    FileDisk::of_file(path).map_err(|error| unusable(&error.to_string()))
}

/// What is wrong with the bytes themselves is their sender's doing.
fn failure(error: BackupError, node: NodeId) -> Failure {
    match error {
        BackupError::Content { cause, .. } => Failure::Damaged { node, cause },
        error => Failure::Backup(error),
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        Failure::Backup(error)
    }
}
