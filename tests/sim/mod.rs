//! The simulator: whole clusters with their clients in one thread, reproducible from a seed.

mod byte_node;
pub(crate) mod case;
mod checker;
mod clients;
mod clock;
mod disk;
mod linear_order;
mod linearizability;
mod message_node;
mod mirror;
mod network;
mod node;
mod operations;
pub(crate) mod pipe_plan;
mod pipes;
mod plan;
#[cfg(any(debug_assertions, feature = "planted-bugs"))]
pub(crate) mod planted_bugs;
mod reference;
mod rng;
pub(crate) mod runner;
pub(crate) mod settings;
pub(crate) mod shrinking;
mod sockets;
pub(crate) mod stats;
mod store_model;
mod trace;
mod transfers;
mod trimmed;
mod words;
pub(crate) mod world;
