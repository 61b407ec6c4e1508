//! The cheap check: do the revisions of the answers tell one story?
//!
//! Every answer carries the revision of the state that it reflects, and this claim is far easier to
//! check than the order of a history is to find, for the revisions are the order:
//!
//! 1. A write makes its revision: no two writes have the same one.
//! 2. Revisions agree with real time. An operation reflects at least what was reflected by any
//!    answer that came before it was asked; a write makes a revision after that.
//! 3. Replayed in the order of the revisions, each write comes to its answer, and each read with
//!    revision r finds the state at r.
//!
//! For the third, a write of unknown outcome may have made any revision that no other write on its key
//! made, after those that were known when it was asked. So it is the search of [`super::linearizability`] with
//! revisions in the place of stamps: they leave what was answered no choice, and the rest is found
//! where a read shows it.
//!
//! Answers without a revision are left out. Others may then seem to see a state that nobody wrote,
//! so a driver records the revision of each write.

use std::collections::BTreeMap;
use std::fmt;

use super::history::{Attempt, History};
use super::linearizability::{self, Answer, Makes, Model, Operation, Verdict, Violation};
use super::store_model::{Input, Output, Store, Value};

/// Why the revisions do not tell one story.
#[derive(Clone, Debug)]
pub(crate) enum RevisionViolation {
    /// Two writes made one revision.
    Twice { revision: u64, first: Box<Attempt>, second: Box<Attempt> },
    /// An operation reflects less than was known before it was asked.
    WentBack { known: u64, operation: Box<Attempt> },
    /// An answer is not what the state at its revision gives. The explanation's stamps are those of
    /// [`stamp`].
    WrongState(Violation<StoreByRevision>),
}

/// One key of the store, and the revision that it has come to.
#[derive(Clone, Debug)]
pub(crate) struct StoreByRevision;

/// What was asked of a key, and the revision of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputAtRevision {
    input: Input,
    at: At,
}

/// The revision of an operation: the one of its answer, or one after what was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Revision(u64),
    After(u64),
}

/// Checks a history's revisions, with at most `step_limit` steps for each key.
pub(crate) fn check(history: &History, step_limit: u64) -> Verdict<RevisionViolation> {
    let numbered = Numbered::all_of(history);
    if let Some(violation) = made_twice(&numbered).or_else(|| went_back(&numbered)) {
        return Verdict::Violated(violation);
    }
    match linearizability::check(&by_revision(&numbered), step_limit) {
        Verdict::Holds => Verdict::Holds,
        Verdict::Violated(violation) => Verdict::Violated(RevisionViolation::WrongState(violation)),
        Verdict::Unknown { key, steps } => Verdict::Unknown { key, steps },
    }
}

impl fmt::Display for RevisionViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RevisionViolation::Twice { revision, first, second } => {
                write!(f, "two writes made revision {revision}:\n    {first}\n    {second}")
            }
            RevisionViolation::WentBack { known, operation } => {
                write!(f, "revision {known} was known before this was asked:\n    {operation}")
            }
            RevisionViolation::WrongState(violation) => write!(f, "by revision, {violation}"),
        }
    }
}

/// An operation, and the highest revision that any answer reflected before it was asked.
struct Numbered<'a> {
    operation: &'a Attempt,
    known: u64,
}

impl<'a> Numbered<'a> {
    fn all_of(history: &'a History) -> Vec<Self> {
        let operations = history.operations();
        let ends = operations.iter().filter_map(Attempt::answer);
        let mut ends: Vec<_> = ends.filter_map(|(at, _, revision)| Some((at, revision?))).collect();
        ends.sort_unstable();
        let (mut passed, mut known) = (0, 0);
        let number = |operation: &'a Attempt| {
            while let Some((_, revision)) = ends.get(passed).filter(|(at, _)| *at < operation.call_ns) {
                known = known.max(*revision);
                passed += 1;
            }
            Numbered { operation, known }
        };
        operations.iter().map(number).collect()
    }

    fn is_write(&self) -> bool {
        self.operation.input != Input::Get
    }

    fn revision(&self) -> Option<u64> {
        self.operation.answer().and_then(|(_, _, revision)| revision)
    }
}

fn made_twice(numbered: &[Numbered]) -> Option<RevisionViolation> {
    let mut made: BTreeMap<u64, &Attempt> = BTreeMap::new();
    for write in numbered.iter().filter(|operation| operation.is_write()) {
        let Some(revision) = write.revision() else { continue };
        if let Some(first) = made.insert(revision, write.operation) {
            let (first, second) = (Box::new(first.clone()), Box::new(write.operation.clone()));
            return Some(RevisionViolation::Twice { revision, first, second });
        }
    }
    None
}

fn went_back(numbered: &[Numbered]) -> Option<RevisionViolation> {
    let late = numbered.iter().find(|operation| {
        let least = operation.known + u64::from(operation.is_write());
        operation.revision().is_some_and(|revision| revision < least)
    })?;
    Some(RevisionViolation::WentBack { known: late.known, operation: Box::new(late.operation.clone()) })
}

/// The operations on each key, with revisions for stamps.
fn by_revision(numbered: &[Numbered]) -> BTreeMap<String, Vec<Operation<StoreByRevision>>> {
    let mut keys: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for Numbered { operation, known } in numbered {
        let Attempt { key, client, input, .. } = (*operation).clone();
        let (at, output) = match operation.answer() {
            Some((_, output, Some(revision))) => (At::Revision(revision), Some(output.clone())),
            Some((_, _, None)) => continue,
            None => (At::After(*known), None),
        };
        let input = InputAtRevision { input, at };
        let call = stamp(&input);
        let answer = output.map(|output| Answer { at: call, output });
        keys.entry(key).or_default().push(Operation { client, input, call, answer });
    }
    keys
}

/// Revisions as stamps: a write at twice its revision, reads of that revision behind it.
fn stamp(InputAtRevision { input, at }: &InputAtRevision) -> u64 {
    match at {
        At::Revision(revision) => 2 * revision + u64::from(*input == Input::Get),
        At::After(known) => 2 * (known + 1),
    }
}

impl Model for StoreByRevision {
    type State = (Option<Value>, u64);
    type Input = InputAtRevision;
    type Output = Output;

    fn step(state: &Self::State, input: &InputAtRevision, output: Option<&Output>) -> Option<Self::State> {
        let (before, last) = state;
        let after = Store::step(before, &input.input, output)?;
        match input.at {
            At::Revision(revision) => {
                let least = last + u64::from(input.input != Input::Get);
                (revision >= least).then_some((after, revision))
            }
            At::After(_) if after == *before => Some(state.clone()),
            At::After(known) => Some((after, known.max(*last) + 1)),
        }
    }

    /// Whatever reflects a revision rules out that an earlier one is made behind it.
    fn makes(_: &InputAtRevision, _: Option<&Output>) -> Makes<Self::State> {
        Makes::Anything
    }
}

impl fmt::Display for InputAtRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Revision(revision) => write!(f, "{} at revision {revision}", self.input),
            At::After(known) => write!(f, "{} after revision {known}", self.input),
        }
    }
}
