//! Faults on real processes, under load, with every answer recorded and judged.
//!
//! A scenario starts a cluster and clients that read and write on every node, and does to it what
//! its name says, by a schedule drawn from a seed. Each call and its outcome is a line of a history,
//! which the checkers of the simulator judge at the end: each key has a linear order, revisions tell
//! one story, a write that was sent again was applied once, what was acknowledged is still there,
//! every call ended within its deadline, all nodes hold the same, none panicked. A run with few
//! answers, or whose faults cannot be shown to have happened, fails.
//!
//! | variable | meaning | without it |
//! |---|---|---|
//! | `FAULT_SECONDS` | how long each scenario goes on | 3 |
//! | `FAULT_SEED` | draws the schedule | 1 |
//!
//! A scenario that fails keeps its directory, with the history and the logs of all nodes, and says
//! where. How soon things happen decides nothing here; it is printed.

#[path = "../../src/bin/kvstore/demo/cluster.rs"]
mod cluster;
#[path = "../sim/history.rs"]
mod history;
#[path = "../sim/history_lines.rs"]
mod history_lines;
#[path = "../sim/linearizability.rs"]
mod linearizability;
#[path = "../../src/bin/kvstore/demo/proxy.rs"]
mod proxy;
#[path = "../sim/revisions.rs"]
mod revisions;
#[expect(unused, reason = "the tests of the command line use all of it")]
#[path = "../cluster/setup.rs"]
mod setup;
#[path = "../sim/store_model.rs"]
mod store_model;

mod deaths;
mod disks;
mod judge;
mod load;
mod namespaces;
mod networks;
mod overload;
mod pauses;
mod record;
mod stage;
mod stalls;
mod syscalls;
