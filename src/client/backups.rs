//! Snapshots on demand, and backups.

use bytes::Bytes;

use super::{Client, Error, Reply, reply};
use crate::wire::client::{RequestBody, ResponseBody};
use crate::wire::entry::SnapshotId;

/// Some bytes of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupChunk {
    /// The snapshot that is the backup; its index is the backup's revision.
    pub snapshot: SnapshotId,
    /// Where the bytes begin.
    pub offset: u64,
    /// The bytes.
    pub chunk: Bytes,
}

impl Client {
    /// Has the first endpoint that answers take a snapshot; returns once it is durable there. To be
    /// called with a long timeout: a snapshot of a large state takes a while. It goes on if the
    /// timeout passes, and the next call waits for the same one.
    pub fn take_snapshot(&mut self) -> Result<Reply<SnapshotId>, Error> {
        let answer = self.call(RequestBody::Snapshot)?;
        Ok(reply(answer, |body| match body {
            ResponseBody::SnapshotSaved(snapshot) => Some(snapshot),
            _ => None,
        }))
    }

    /// The next bytes of a backup, of which the caller has those of `snapshot` before `offset`. The
    /// first call names no snapshot. An answer of another snapshot than the one that was named
    /// begins the backup anew. It is complete with the snapshot's last byte.
    pub fn backup(&mut self, snapshot: Option<SnapshotId>, offset: u64) -> Result<Reply<BackupChunk>, Error> {
        let answer = self.call(RequestBody::Backup { snapshot, offset })?;
        Ok(reply(answer, |body| match body {
            ResponseBody::BackupChunk { snapshot, offset, chunk } => {
                Some(BackupChunk { snapshot, offset, chunk })
            }
            _ => None,
        }))
    }
}
