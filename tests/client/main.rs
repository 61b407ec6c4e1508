//! The client over real sockets, against nodes that a test scripts.

mod command_line;
mod deadlines;
mod failover;
mod fake_node;
#[path = "../faults/stalls.rs"]
mod stalls;
