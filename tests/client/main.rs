//! The client over real sockets, against nodes that a test scripts.

mod command_line;
mod deadlines;
mod failover;
mod fake_node;
#[expect(unused, reason = "the tests of faults use all of it")]
#[path = "../faults/stalls.rs"]
mod stalls;
