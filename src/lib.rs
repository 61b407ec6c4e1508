//! A replicated key-value store that survives the death of its leader.
//!
//! The crate is a house with floors; imports go down only, and sisters on one floor never import
//! each other (`tests/tidy` holds them to it). Read it from the ground up, in the order of the
//! lines below, or follow one put through it in `docs/architecture.md`.

// Floor 0, nouns: what everything else speaks of, and time as a value.
pub mod time;
pub mod types;

// Beside the house: bugs for the tests to find, and none without a feature of their own.
pub mod planted;

// Floor 1, tools: values and their bytes; timers.
pub mod timer_wheel;
pub mod wire;

// Floor 2, four sisters: consensus, the replicated state, what is durable, sockets.
pub mod kv;
pub mod net;
pub mod raft;
pub mod storage;

// Floor 3 introduces raft, kv and storage to each other.
pub mod replica;

// Floor 4: the two ends of a connection that a user sees.
pub mod client;
pub mod server;
