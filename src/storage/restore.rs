//! A directory that is made of a backup, until its cluster is founded.
//!
//! It holds one file: the backup, under a name that tells for which node. All else is made by the
//! first start, as in any new directory. The node then waits for the founding, as any new one does;
//! but it is the one that founds, whatever its id, and its first durable act is a snapshot record
//! that names a copy of the backup with the new cluster's members in its header page. From then on
//! the directory is like any other whose log begins with a snapshot, and the backup is removed.
//!
//! An interrupted restore leaves the backup under its temporary name. A start refuses that, and the
//! next restore begins anew.

use super::backup::{self, BackupError, BackupWriter};
use super::disk::Disk;
use crate::types::NodeId;
use crate::wire::entry::SnapshotId;

/// What a directory may hold that is empty to us: what a new file system has, and the lock.
const NOTHING: [&str; 2] = ["lock", "lost+found"];

/// The name of the backup of which node `node` is made.
pub(super) fn restored_name(node: NodeId) -> String {
    format!("restored-{node}.snap")
}

/// The node that is made of the backup in the file of this name, if it is one.
pub(super) fn restored_node(name: &str) -> Option<NodeId> {
    let node = NodeId(name.strip_prefix("restored-")?.strip_suffix(".snap")?.parse().ok()?);
    (restored_name(node) == name).then_some(node)
}

/// Whether a file of this name was left by a restore that did not come to its end.
pub(super) fn is_unfinished_restore(name: &str) -> bool {
    backup::finished(name).is_some_and(|name| restored_node(name).is_some())
}

/// Begins to make an empty directory one of node `node`, of the backup with this id. The directory
/// is restored when the writer has finished.
///
/// # Errors
/// If the directory is not empty, or the system refuses.
pub fn restore<D: Disk>(mut disk: D, node: NodeId, id: SnapshotId) -> Result<BackupWriter<D>, BackupError> {
    let names = disk.list().map_err(|cause| backup::failed(&disk, "list", "", cause))?;
    let is_nothing = |name: &&String| NOTHING.contains(&name.as_str()) || is_unfinished_restore(name);
    if let Some(name) = names.iter().find(|name| !is_nothing(name)) {
        return Err(BackupError::NotEmpty { path: disk.path_of(""), holds: name.clone() });
    }
    for name in names.iter().filter(|name| is_unfinished_restore(name)) {
        disk.remove(name).map_err(|cause| backup::failed(&disk, "remove", name, cause))?;
    }
    BackupWriter::begin(disk, &restored_name(node), id, false)
}
