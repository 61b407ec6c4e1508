//! The checkers of histories, checked: against recorded and hand-written histories with known
//! verdicts, and against trying every order.

mod every_order;
mod every_revision;
#[path = "../sim/history.rs"]
mod history;
#[path = "../sim/history_lines.rs"]
mod history_lines;
mod jepsen;
mod kv_log;
#[path = "../sim/linearizability.rs"]
mod linearizability;
mod long_histories;
mod mutations;
mod own_histories;
mod recorded;
#[path = "../sim/revisions.rs"]
mod revisions;
#[path = "../sim/store_model.rs"]
mod store_model;

use std::collections::BTreeMap;

use linearizability::{Model, Operation};

/// Steps that every history here is decided in, with much to spare.
const STEP_LIMIT: u64 = 1_000_000;

fn one_key<M: Model>(operations: Vec<Operation<M>>) -> BTreeMap<String, Vec<Operation<M>>> {
    BTreeMap::from([("k".to_owned(), operations)])
}
