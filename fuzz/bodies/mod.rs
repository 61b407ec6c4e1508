//! What is fuzzed: functions of any bytes that panic if a promise is broken.
//!
//! `cargo fuzz` runs each as a target of its own; `tests/fuzz.rs` runs all of them on the kept
//! corpora and on some inputs made from these, wherever there is a stable toolchain.

mod frame_decoder;
mod handshake;
mod log_scanner;
#[expect(unused, reason = "the tests of recovery use all of it")]
#[path = "../../tests/wal_recovery/memory.rs"]
mod memory;
mod messages;
pub(crate) mod raft_step;
mod snapshot_reader;
mod source;
mod timer_wheel;

pub(crate) use frame_decoder::frame_decoder;
pub(crate) use handshake::handshake;
pub(crate) use log_scanner::log_scanner;
pub(crate) use messages::messages;
pub(crate) use raft_step::raft_step;
pub(crate) use snapshot_reader::snapshot_reader;
pub(crate) use timer_wheel::timer_wheel;
