//! The simulator: whole clusters with their clients in one thread, reproducible from a seed.

mod checker;
mod clients;
mod clock;
mod disk;
mod linear_order;
mod linearizability;
mod mirror;
mod network;
mod node;
mod operations;
mod plan;
mod reference;
mod rng;
pub(crate) mod runner;
pub(crate) mod stats;
mod store_model;
mod trace;
mod transfers;
mod words;
mod world;
