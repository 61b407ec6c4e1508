//! Whole clusters: real processes, real sockets, real disks, real signals.
//!
//! Each test starts nodes of its own, on ports that nobody else uses and in a directory that goes
//! away with it, and waits for what the nodes log or answer, never for a time to pass. Limits of
//! time are generous: these tests say that things happen, `kvstore demo` says how soon.

#[path = "../../src/bin/kvstore/demo/cluster.rs"]
mod cluster;

mod backups;
mod bad_input;
mod bench;
mod commands;
mod damaged_files;
mod durability;
mod full_disk;
mod hostile;
mod idle;
mod inspect;
mod old_copies;
mod quest;
mod reads;
mod repeated_writes;
mod restores;
mod setup;
mod signals;
mod typed_quest;
mod unusable;
mod writers;
