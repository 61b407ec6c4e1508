//! Consensus: Raft as a pure state machine.
//!
//! "Raft is a consensus algorithm for managing a replicated log" (Ongaro and Ousterhout, *In
//! Search of an Understandable Consensus Algorithm*, extended version, 2014: "the paper"; Ongaro,
//! *Consensus: Bridging Theory and Practice*, 2014: "the thesis"). Have the paper's Figure 2 in
//! hand: names are its names, and each rule stands as a quotation above the line that obeys it.
//!
//! # The shape
//!
//! [`Raft`] owns no clock, socket or file. Messages and the time come in by [`Raft::step`] and
//! [`Raft::tick`]; once a turn [`Raft::ready`] gives what shall be sent and stored, and
//! [`Raft::advance`], called when it is stored, gives what could only be promised then.
//!
//! | file | what it answers |
//! |---|---|
//! | `config.rs` `core.rs` | settings; what a node has in every role |
//! | `node.rs` | the rules for all servers, and the only changes of role (Figure 4) |
//! | `follower.rs` `candidate.rs` `leader.rs` | a role's own state, and one `on_<message>` for each message |
//! | `log.rs` | the log, and the Log Matching Property |
//! | `progress.rs` `window.rs` `quorum.rs` | what a leader knows of its followers; how much is under way to each; majorities |
//! | `read_index.rs` | linearizable reads without a log entry |
//! | `loyalty.rs` | who refuses candidates, and what proves that a leader is dead |
//! | `transfer.rs` | a leader that hands over |
//! | `snapshots.rs` | what stands for the log before its base, and who is sent it |
//! | `ready.rs` | what comes out, and when it may be acted on |
//! | `invariants.rs` | what must hold in every state and over every step |
//!
//! # Departures from Figure 2
//!
//! - **Pre-vote** (thesis 9.6): who would not win does not disturb. **Check-quorum** (6.2): a
//!   leader that hears no majority gives way. **Loyalty** (4.2.3): who hears its leader helps
//!   nobody to depose it.
//! - **Heartbeats** are messages of their own, answered before the disk is touched, and they are
//!   the rounds by which reads are confirmed (6.4). Their answers say nothing about the log.
//! - **Conflict hints** and **pipelining**: one round trip for each conflicting term, and many
//!   AppendEntries under way. A leader sends entries before its own disk has them (10.2.1) and
//!   counts itself only once it has.
//! - **Leadership transfer** (3.10). Who is ordered to campaign asks first whether that still holds.
//! - **InstallSnapshot** (section 7): chunks name the very file that they are of, and are
//!   acknowledged one by one. The core knows which entries a snapshot stands for and who needs
//!   one; bytes are its caller's.
//! - **Patience.** A candidate's begins when its requests leave, doubles with each try in vain, and a
//!   new try begins with a pre-vote in the same term, in which late votes still count: disks slower
//!   than a retry delay an election, but do not prevent it.
//!
//! # What is left out
//!
//! - Clock leases. They would make reads one round trip cheaper and every pause of a machine a
//!   question of safety, and they contradict acting on evidence of a dead leader.
//! - Changes of the members (thesis 4). They are a configuration in the log from entry 1 on, so
//!   that changing them later is one more kind of entry.
//!
//! # How it is tested
//!
//! `tests.rs` has an index of which golden script (`testscripts/`) tests which rule of the paper and
//! the thesis. Beside the scripts, random networks, disks and deaths, and peers that say anything.

mod config;
mod core;
mod node;

mod candidate;
mod follower;
mod leader;
mod loyalty;

mod log;
mod progress;
mod quorum;
mod read_index;
mod ready;
mod snapshots;
mod transfer;
mod window;

pub mod invariants;

pub use config::Config;
pub use core::{ProposeError, TransferError};
pub use log::{Log, Position};
pub use node::Raft;
pub use ready::{Cause, Event, Mark, ReadState, Ready, Timeline};
pub use snapshots::{LogBounds, SnapshotInput};

#[cfg(test)]
mod tests;
