//! What the committed history means: applied once more, by the state machine and by a plain model.
//!
//! The model knows nothing of sessions, trees or digests: it is a map of versions for each key. The
//! state machine says which writes took effect; the model says what they must have come to.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvstore::kv::{Applied, Limits, StateMachine};
use kvstore::types::{ClientId, Revision, Sequence};
use kvstore::wire::client::{Command, MAX_MISMATCH_BYTES, Operation, Outcome, Write};
use kvstore::wire::entry::{Entry, Payload};

use super::checker::violated;

/// A write that took effect (or was found to have none: a failed compare is a result too).
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    pub(crate) revision: u64,
    pub(crate) outcome: Outcome,
    pub(crate) operation: Operation,
}

/// The committed history, understood.
pub(crate) struct Reference {
    state: StateMachine,
    digests: Vec<u64>,
    versions: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    effects: BTreeMap<(ClientId, Sequence), Effect>,
}

impl Reference {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = StateMachine::new(limits);
        let digests = vec![state.digest()];
        Self { state, digests, versions: BTreeMap::new(), effects: BTreeMap::new() }
    }

    /// The digest after the entry at `revision`.
    pub(crate) fn digest_at(&self, revision: u64) -> u64 {
        self.digests[revision as usize]
    }

    /// Whether a cap of the sessions is reached, or nearly so.
    pub(crate) fn is_near_caps(&self) -> bool {
        let slack = |name: &str| if name.ends_with("_bytes") { 4_096 } else { 8 };
        self.state.bounds().iter().any(|bound| bound.used + slack(&bound.name) >= bound.cap)
    }

    /// The last revision.
    pub(crate) fn revision(&self) -> u64 {
        self.state.revision().0
    }

    /// All writes that took effect.
    pub(crate) fn effects(&self) -> &BTreeMap<(ClientId, Sequence), Effect> {
        &self.effects
    }

    /// The next committed entry.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        if let Some((write, outcome)) = apply(&mut self.state, entry) {
            self.take_effect(entry.index.0, write, outcome);
        }
        self.digests.push(self.state.digest());
    }

    fn take_effect(&mut self, revision: u64, write: Write, outcome: Outcome) {
        let Write { client, sequence, operation, .. } = write;
        let current = operation.key().and_then(|key| self.value_at(key, revision)).cloned();
        let (expected, new) = match &operation {
            Operation::Put { value, .. } => (Outcome::Done, Some(Some(value.clone()))),
            Operation::Delete { .. } if current.is_none() => (Outcome::NotFound, None),
            Operation::Delete { .. } => (Outcome::Done, Some(None)),
            Operation::CompareAndSet { expected, new, .. } if current == *expected => {
                (Outcome::Done, Some(Some(new.clone())))
            }
            Operation::CompareAndSet { .. } => (mismatch(current), None),
            // Clients of this workload close their own sessions only.
            Operation::CloseSession { .. } => (Outcome::Done, None),
        };
        if outcome != expected {
            violated!("writes come to what they must", "{operation:?} at {revision} came to {outcome:?}");
        }
        if let (Some(key), Some(value)) = (operation.key(), new) {
            self.versions.entry(key.clone()).or_default().push((revision, value));
        }
        let effect = Effect { revision, outcome, operation };
        if let Some(first) = self.effects.insert((client.clone(), sequence), effect) {
            violated!(
                "a write is applied once",
                "{client} {sequence} at {} and again at {revision}",
                first.revision
            );
        }
    }

    /// The value of a key after the entry at `revision`.
    pub(crate) fn value_at(&self, key: &Bytes, revision: u64) -> Option<&Bytes> {
        let versions = self.versions.get(key)?;
        let count = versions.partition_point(|(since, _)| *since <= revision);
        versions[..count].last().and_then(|(_, value)| value.as_ref())
    }

    /// The first rows of a prefix after the entry at `revision`, and whether there are more.
    pub(crate) fn rows_at(&self, prefix: &Bytes, limit: u32, revision: u64) -> (Vec<(Bytes, Bytes)>, bool) {
        let of_prefix = self.versions.keys().filter(|key| key.starts_with(prefix));
        let row = |key: &Bytes| Some((key.clone(), self.value_at(key, revision)?.clone()));
        let mut rows: Vec<_> = of_prefix.filter_map(row).collect();
        let more = rows.len() > limit as usize;
        rows.truncate(limit as usize);
        (rows, more)
    }
}

/// Applies an entry. Gives the write that took effect, if one did.
pub(crate) fn apply(state: &mut StateMachine, entry: &Entry) -> Option<(Write, Outcome)> {
    let revision = Revision::from(entry.index);
    let Payload::Command(command) = &entry.payload else {
        state.advance(revision, entry.stamp);
        return None;
    };
    let command = Command::decode(command.clone()).expect("committed commands can be read");
    match (command.clone(), state.apply(revision, entry.stamp, command)) {
        (Command::Write(write), Applied::Written { outcome, cached: false, .. }) => Some((write, outcome)),
        _ => None,
    }
}

fn mismatch(current: Option<Bytes>) -> Outcome {
    let truncated = current.as_ref().is_some_and(|value| value.len() > MAX_MISMATCH_BYTES);
    let current = current.map(|value| value.slice(..value.len().min(MAX_MISMATCH_BYTES)));
    Outcome::Mismatch { current, truncated }
}
