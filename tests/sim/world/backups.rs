//! Backups that clients make: fetched chunk by chunk from any node, and read back as a restore does.

use bytes::Bytes;
use kvstore::kv::SnapshotReader;
use kvstore::storage::{BackupError, read_backup};
use kvstore::wire::entry::SnapshotId;

use super::World;
use crate::sim::checker::violated;
use crate::sim::clients::Backup;
use crate::sim::disk::SimDisk;

impl World {
    /// Some bytes came: the next, or the first, of another snapshot or of the same once more.
    pub(super) fn on_backup_chunk(&mut self, client: usize, id: SnapshotId, offset: u64, chunk: &Bytes) {
        let this = &mut self.clients.all[client];
        let before = this.backup.take().filter(|backup| backup.id == id && offset > 0);
        let mut backup = before.unwrap_or(Backup { id, bytes: Vec::new() });
        if backup.bytes.len() as u64 != offset || chunk.is_empty() {
            violated!("a backup comes in order", "{} bytes at {offset} of {id:?}", chunk.len());
        }
        backup.bytes.extend_from_slice(chunk);
        if (backup.bytes.len() as u64) < id.bytes {
            this.backup = Some(backup);
        } else {
            self.check_backup(backup);
        }
    }

    /// A whole backup holds the state of its index.
    fn check_backup(&mut self, Backup { id, bytes }: Backup) {
        self.checker.transfers.counts.backed_up += 1;
        let mut disk = SimDisk::new(0);
        disk.put("backup", bytes);
        let mut reader = SnapshotReader::new(self.plan.caps.sessions);
        let mut fed = Ok(());
        let read = read_backup::<_, BackupError>(&mut disk, "backup", |_, parts| {
            fed = parts.iter().try_fold((), |(), part| reader.feed(part));
            Ok(())
        });
        let state = match (read, fed) {
            (Ok((_, found)), Ok(())) if found == id => reader.finish(),
            other => violated!("a backup is whole", "{id:?} came as {other:?}"),
        };
        let revision = id.index.0;
        match state {
            Ok(state) if state.digest() == self.checker.reference.digest_at(revision) => {}
            other => violated!("a backup holds the state of its index", "{id:?} is another: {other:?}"),
        }
    }
}
