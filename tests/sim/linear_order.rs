//! The second opinion: a search for a linear order of each key's operations, by their times alone.
//!
//! It believes no revision, so a mistake in those cannot deceive it.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use kvstore::wire::client::{Operation as Written, Outcome, ResponseBody};

use super::checker::violated;
use super::linearizability::{self, Answer, Operation, Verdict};
use super::operations::{Asked, Ending, Operations, Record};
use super::store_model::{Input, Output, Store, Value};

/// Steps for one key: far more than a key of the workload needs as a rule.
const STEP_LIMIT: u64 = 200_000;

/// Checks all keys; whether all were decided.
pub(crate) fn check(operations: &Operations) -> bool {
    let mut keys: BTreeMap<String, Vec<Operation<Store>>> = BTreeMap::new();
    for record in operations.records() {
        if let Some((key, operation)) = of_record(record) {
            keys.entry(key).or_default().push(operation);
        }
    }
    match linearizability::check(&keys, STEP_LIMIT) {
        Verdict::Holds => true,
        Verdict::Violated(violation) => violated!("linearizable by time", "{violation}"),
        Verdict::Unknown { .. } => false,
    }
}

/// What a record means for its key; `None` if it promises nothing about one.
fn of_record(record: &Record) -> Option<(String, Operation<Store>)> {
    let (key, input) = match &record.asked {
        Asked::Write(operation) => (operation.key()?, input(operation)?),
        Asked::Get { key, stale: false } => (key, Input::Get),
        _ => return None,
    };
    let answer = match (&record.ending, record.ended) {
        (Ending::Answered { body }, Some(ended)) => {
            Some(Answer { at: ended.as_nanos(), output: output(body)? })
        }
        (Ending::Refused, _) => return None,
        _ if input == Input::Get => return None,
        _ => None,
    };
    let call = record.began.as_nanos();
    Some((text(key).to_string(), Operation { client: record.client as u64, input, call, answer }))
}

fn input(operation: &Written) -> Option<Input> {
    Some(match operation {
        Written::Put { value, .. } => Input::Put(stem(value)),
        Written::Delete { .. } => Input::Delete,
        Written::CompareAndSet { expected, new, .. } => {
            Input::CompareAndSet { expected: expected.as_ref().map(stem), new: stem(new) }
        }
        Written::CloseSession { .. } => return None,
    })
}

fn output(body: &ResponseBody) -> Option<Output> {
    match body {
        ResponseBody::Value(value) => Some(Output::Value(value.as_ref().map(stem))),
        ResponseBody::Written { outcome: Outcome::Done, .. } => Some(Output::Done),
        ResponseBody::Written { outcome: Outcome::NotFound, .. } => Some(Output::NotFound),
        ResponseBody::Written { outcome: Outcome::Mismatch { current, .. }, .. } => {
            Some(Output::Mismatch { current: current.as_ref().map(stem) })
        }
        _ => None,
    }
}

fn text(bytes: &[u8]) -> Rc<str> {
    String::from_utf8_lossy(bytes).into()
}

/// A value without its padding, which an answer may have cut.
fn stem(value: &Bytes) -> Value {
    text(value.split(|byte| *byte == b'.').next().unwrap_or_default())
}
