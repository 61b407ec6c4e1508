//! The log on a disk that does what real disks do: nothing acknowledged is ever lost, nothing that
//! was not written is ever found, and what cannot be trusted is refused.

#[path = "sim/disk.rs"]
mod disk;

#[path = "wal_recovery/crashes.rs"]
mod crashes;
#[path = "wal_recovery/damage.rs"]
mod damage;
#[path = "wal_recovery/every_byte.rs"]
mod every_byte;
#[path = "wal_recovery/files.rs"]
mod files;
#[path = "wal_recovery/full_disk.rs"]
mod full_disk;
#[path = "wal_recovery/inspecting.rs"]
mod inspecting;
#[path = "wal_recovery/memory.rs"]
mod memory;
#[path = "wal_recovery/restores.rs"]
mod restores;
#[path = "wal_recovery/script.rs"]
mod script;
#[path = "wal_recovery/snapshots.rs"]
mod snapshots;
#[path = "wal_recovery/writing.rs"]
mod writing;
