//! What clients of the store saw, as one JSON object a line.
//!
//! ```text
//! {"op_id":7,"client":2,"seq":4,"node":1,"kind":"cas","key":"k","arg":["a","b"],
//!  "call_ns":1200,"ret_ns":1900,"out":"ok","value":{"mismatch":"c"},"rev":31}
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `op_id` | the number of this attempt, unique in the history |
//! | `client`, `seq` | the driver's number of the client, and the client's number of the write, or null |
//! | `node` | the node that was asked, or null |
//! | `kind`, `arg` | `get` null, `put` VALUE, `delete` null, `cas` [OLD, NEW] where OLD is null for absent |
//! | `call_ns`, `ret_ns` | one monotonic clock's stamps; `ret_ns` is null if nothing came back |
//! | `out` | `ok`: answered; `fail`: certainly not applied; `unknown`: anything else |
//! | `value` | the answer: of a get VALUE or null, of a delete whether it was there, of a cas true or `{"mismatch": VALUE or null}`, else null |
//! | `rev` | the revision of the state that the answer reflects, or null |
//!
//! A line without an `op_id` tells of something else, such as a fault that was set, and is passed
//! over; so are other fields. Reads that may be stale (`--stale`) promise nothing and do not belong
//! into a history.
//!
//! **Attempts become operations.** A failed attempt did nothing, and is left out; this puts the
//! claim of its error code to the test. The other attempts of one (client, seq) are one operation,
//! for it is applied once: it begins with the first call. If any attempt was answered, it ends with
//! the first answer, because the others only repeat that one; otherwise its outcome is unknown.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value as Json, json};

use super::linearizability::{Answer, Operation};
use super::store_model::{Input, Output, Store};

/// One attempt at an operation, as a client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The attempt's number, unique in the history.
    pub(crate) op_id: u64,
    /// Which of the driver's clients.
    pub(crate) client: u64,
    /// The client's number of the write. Attempts with the same one are one operation.
    pub(crate) sequence: Option<u64>,
    /// The node that was asked, if one is known.
    pub(crate) node: Option<u64>,
    /// The key.
    pub(crate) key: String,
    /// What was asked of it.
    pub(crate) input: Input,
    /// When, in nanoseconds of one monotonic clock.
    pub(crate) call_ns: u64,
    /// What came of it.
    pub(crate) ending: Ending,
}

/// How an attempt ended. Stamps are nanoseconds of the clock of the calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was answered; the revision is that of the state which the answer reflects.
    Ok { ret_ns: u64, output: Output, revision: Option<u64> },
    /// It was certainly not applied, and never will be.
    Fail { ret_ns: u64 },
    /// Its client cannot tell.
    Unknown { ret_ns: Option<u64> },
}

/// Operations, by the time of their calls. An operation is an attempt that stands for all of its
/// write; none of them failed.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    operations: Vec<Attempt>,
}

/// Two attempts of one (client, seq) that cannot both be true: they are different writes, or their
/// answers differ. The store answers a repeated write with the first result, or refuses it.
#[derive(Clone, Debug)]
pub(crate) struct Contradiction {
    /// What the other attempts of its write came to.
    pub(crate) operation: Box<Attempt>,
    /// The one that does not fit.
    pub(crate) attempt: Box<Attempt>,
}

impl History {
    /// Puts attempts, in any order, together to operations.
    pub(crate) fn new(mut attempts: Vec<Attempt>) -> Result<Self, Contradiction> {
        attempts.retain(|attempt| !matches!(attempt.ending, Ending::Fail { .. }));
        attempts.sort_by_key(|attempt| (attempt.call_ns, attempt.op_id));
        let mut operations: Vec<Attempt> = Vec::new();
        let mut places = BTreeMap::new();
        for attempt in attempts {
            let Some(sequence) = attempt.sequence else {
                operations.push(attempt);
                continue;
            };
            let place = *places.entry((attempt.client, sequence)).or_insert(operations.len());
            match operations.get_mut(place) {
                Some(operation) => operation.merge(attempt)?,
                None => operations.push(attempt),
            }
        }
        Ok(Self { operations })
    }

    /// All operations, by the time of their calls.
    pub(crate) fn operations(&self) -> &[Attempt] {
        &self.operations
    }

    /// The operations on each key, for a search by the stamps of their clients' clock.
    pub(crate) fn by_key(&self) -> BTreeMap<String, Vec<Operation<Store>>> {
        let mut keys: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for attempt in &self.operations {
            keys.entry(attempt.key.clone()).or_default().push(attempt.operation());
        }
        keys
    }
}

impl Attempt {
    /// When the answer came, what it said, and the revision that it reflects.
    pub(crate) fn answer(&self) -> Option<(u64, &Output, Option<u64>)> {
        match &self.ending {
            Ending::Ok { ret_ns, output, revision } => Some((*ret_ns, output, *revision)),
            Ending::Fail { .. } | Ending::Unknown { .. } => None,
        }
    }

    /// The same for a search, without what only people want to know.
    pub(crate) fn operation(&self) -> Operation<Store> {
        let answer = self.answer().map(|(at, output, _)| Answer { at, output: output.clone() });
        Operation { client: self.client, input: self.input.clone(), call: self.call_ns, answer }
    }

    /// Takes in a later attempt of the same (client, seq).
    fn merge(&mut self, attempt: Attempt) -> Result<(), Contradiction> {
        let same_write = self.key == attempt.key && self.input == attempt.input;
        let same_answer = match (self.answer(), attempt.answer()) {
            (Some((_, own, own_revision)), Some((_, other, revision))) => {
                let revisions = own_revision.zip(revision);
                own == other && revisions.is_none_or(|(own, other)| own == other)
            }
            _ => true,
        };
        if !(same_write && same_answer) {
            return Err(Contradiction { operation: Box::new(self.clone()), attempt: Box::new(attempt) });
        }
        let ends = |attempt: &Attempt| attempt.answer().map_or(u64::MAX, |(ret_ns, ..)| ret_ns);
        if ends(&attempt) < ends(self) {
            self.ending = attempt.ending;
        }
        Ok(())
    }
}

/// The attempt's line, without an end of line.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, arg) = input_to_json(&self.input);
        let (out, ret_ns, value, rev) = match &self.ending {
            Ending::Ok { ret_ns, output, revision } => {
                ("ok", Some(*ret_ns), output_to_json(&self.input, output), *revision)
            }
            Ending::Fail { ret_ns } => ("fail", Some(*ret_ns), Json::Null, None),
            Ending::Unknown { ret_ns } => ("unknown", *ret_ns, Json::Null, None),
        };
        let object = json!({
            "op_id": self.op_id, "client": self.client, "seq": self.sequence, "node": self.node,
            "kind": kind, "key": self.key, "arg": arg,
            "call_ns": self.call_ns, "ret_ns": ret_ns, "out": out, "value": value, "rev": rev,
        });
        write!(f, "{object}")
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Contradiction { operation, attempt } = self;
        write!(f, "one write, twice told:\n    {operation}\n    {attempt}")
    }
}

fn input_to_json(input: &Input) -> (&'static str, Json) {
    match input {
        Input::Get => ("get", Json::Null),
        Input::Put(value) => ("put", json!(**value)),
        Input::Delete => ("delete", Json::Null),
        Input::CompareAndSet { expected, new } => ("cas", json!([expected.as_deref(), **new])),
    }
}

fn output_to_json(input: &Input, output: &Output) -> Json {
    match (input, output) {
        (_, Output::Value(value)) => json!(value.as_deref()),
        (Input::Put(_), _) => Json::Null,
        (_, Output::Done) => Json::Bool(true),
        (_, Output::NotFound) => Json::Bool(false),
        (_, Output::Mismatch { current }) => json!({ "mismatch": current.as_deref() }),
    }
}
