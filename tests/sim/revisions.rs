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
//! For the third, a write of unknown outcome may have made any revision that nobody else made, after
//! those that were known when it was asked. It is taken for applied only where an answer shows it:
//! what is not needed to explain an answer is not needed at all.
//!
//! Answers without a revision are left out. Others may then seem to see a state that nobody wrote,
//! so a driver records the revision of each write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::history::{Attempt, History};
use super::linearizability::{Model, Operation, Verdict};
use super::store_model::{Input, Store};

/// Why the revisions do not tell one story.
#[derive(Clone, Debug)]
pub(crate) enum RevisionViolation {
    /// Two writes made one revision.
    Twice { revision: u64, first: Box<Attempt>, second: Box<Attempt> },
    /// An operation reflects less than was known before it was asked.
    WentBack { known: u64, operation: Box<Attempt> },
    /// An answer is not what the state at its revision gives, which this write made, or nobody.
    WrongState { writer: Option<Box<Attempt>>, operation: Box<Attempt> },
}

/// Checks a history's revisions, with at most `step_limit` steps for each key.
pub(crate) fn check(history: &History, step_limit: u64) -> Verdict<RevisionViolation> {
    let numbered = Numbered::all_of(history);
    if let Some(violation) = made_twice(&numbered).or_else(|| went_back(&numbered)) {
        return Verdict::Violated(violation);
    }
    let made: BTreeSet<u64> =
        numbered.iter().filter(|operation| operation.is_write()).filter_map(Numbered::revision).collect();
    let mut keys: BTreeMap<&str, Vec<&Numbered>> = BTreeMap::new();
    for operation in &numbered {
        keys.entry(&operation.attempt.key).or_default().push(operation);
    }
    let mut undecided = None;
    for (key, operations) in keys {
        match Replay::new(&operations, &made, step_limit).run() {
            Replayed::Explained => {}
            Replayed::Wrong(violation) => return Verdict::Violated(violation),
            Replayed::OutOfSteps => undecided = undecided.or(Some(key.to_owned())),
        }
    }
    undecided.map_or(Verdict::Holds, |key| Verdict::Unknown { key, steps: step_limit })
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
            RevisionViolation::WrongState { writer, operation } => {
                write!(f, "this does not fit the state at its revision:\n    {operation}\n")?;
                match writer {
                    Some(writer) => write!(f, "  which this write made:\n    {writer}"),
                    None => write!(f, "  where nothing had been written"),
                }
            }
        }
    }
}

/// An operation, and the highest revision that any answer reflected before it was asked.
struct Numbered<'a> {
    attempt: &'a Attempt,
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
            Numbered { attempt: operation, known }
        };
        operations.iter().map(number).collect()
    }

    fn is_write(&self) -> bool {
        self.attempt.input != Input::Get
    }

    fn revision(&self) -> Option<u64> {
        self.attempt.answer().and_then(|(_, _, revision)| revision)
    }
}

fn made_twice(numbered: &[Numbered]) -> Option<RevisionViolation> {
    let mut made: BTreeMap<u64, &Attempt> = BTreeMap::new();
    for write in numbered.iter().filter(|operation| operation.is_write()) {
        let Some(revision) = write.revision() else { continue };
        if let Some(first) = made.insert(revision, write.attempt) {
            let (first, second) = (Box::new(first.clone()), Box::new(write.attempt.clone()));
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
    Some(RevisionViolation::WentBack { known: late.known, operation: Box::new(late.attempt.clone()) })
}

/// The replay of one key's operations in the order of their revisions.
struct Replay<'a> {
    turns: Vec<Turn<'a>>,
    unanswered: Vec<Step<'a>>,
    steps_left: u64,
    furthest: Option<(usize, Option<&'a Attempt>)>,
}

/// An operation to replay, its input simplified.
struct Step<'a> {
    numbered: &'a Numbered<'a>,
    operation: Operation<Store>,
}

/// An operation whose revision is known, and the revisions up to it, since the one before it on its
/// key, which nobody is known to have made.
struct Turn<'a> {
    step: Step<'a>,
    free: Vec<u64>,
}

/// What a replay came to.
enum Replayed {
    Explained,
    Wrong(RevisionViolation),
    OutOfSteps,
}

/// A state in a replay, and the write that made it.
#[derive(Clone)]
struct Reached<'a> {
    state: <Store as Model>::State,
    writer: Option<&'a Attempt>,
}

impl<'a> Replay<'a> {
    fn new(numbered: &[&'a Numbered<'a>], made: &BTreeSet<u64>, steps_left: u64) -> Self {
        let mut operations: Vec<Operation<Store>> =
            numbered.iter().map(|numbered| numbered.attempt.operation()).collect();
        Store::simplify(&mut operations);
        let steps = numbered.iter().zip(operations);
        let steps = steps.map(|(numbered, operation)| Step { numbered, operation });
        let (mut answered, mut unanswered): (Vec<_>, Vec<_>) =
            steps.partition(|step| step.operation.answer.is_some());
        unanswered.retain(|step| step.numbered.is_write());
        answered.retain(|step| step.numbered.revision().is_some());
        answered.sort_by_key(|step| (step.numbered.revision(), !step.numbered.is_write()));
        let mut last = 0;
        let turn = |step: Step<'a>| {
            let revision = step.numbered.revision().expect("those without were left out");
            let free = (last + 1..=revision).filter(|revision| !made.contains(revision)).collect();
            last = revision;
            Turn { step, free }
        };
        let turns = answered.into_iter().map(turn).collect();
        Self { turns, unanswered, steps_left, furthest: None }
    }

    fn run(mut self) -> Replayed {
        let nothing = Reached { state: None, writer: None };
        if self.explain_from(0, nothing, &mut BTreeSet::new()) {
            return Replayed::Explained;
        }
        if self.steps_left == 0 {
            return Replayed::OutOfSteps;
        }
        let (turn, writer) = self.furthest.expect("what fails has failed somewhere");
        let operation = Box::new(self.turns[turn].step.numbered.attempt.clone());
        let writer = writer.map(|writer| Box::new(writer.clone()));
        Replayed::Wrong(RevisionViolation::WrongState { writer, operation })
    }

    /// Whether the turns from this one on can be explained, when these writes without an answer are
    /// used up.
    fn explain_from(&mut self, first: usize, mut reached: Reached<'a>, used: &mut BTreeSet<usize>) -> bool {
        for turn in first..self.turns.len() {
            let Some(after) = self.turns[turn].step.apply(&reached) else {
                if self.furthest.is_none_or(|(furthest, _)| turn > furthest) {
                    self.furthest = Some((turn, reached.writer));
                }
                return self.explain_by_unanswered(turn, &reached, used, 0);
            };
            reached = after;
        }
        true
    }

    /// Whether a turn that does not fit, and those after it, can be explained by putting writes
    /// without an answer before it, at free revisions above `last`.
    fn explain_by_unanswered(
        &mut self,
        turn: usize,
        reached: &Reached<'a>,
        used: &mut BTreeSet<usize>,
        last: u64,
    ) -> bool {
        let mut tried: Vec<usize> = Vec::new();
        for write in 0..self.unanswered.len() {
            if self.steps_left == 0 {
                return false;
            }
            self.steps_left -= 1;
            let step = &self.unanswered[write];
            let least = last.max(step.numbered.known);
            let free = self.turns[turn].free.iter().copied().find(|free| *free > least);
            let like = |other: &usize| self.unanswered[*other].operation.input == step.operation.input;
            let (Some(free), false) = (free, used.contains(&write) || tried.iter().any(like)) else {
                continue;
            };
            // Of those alike the first was asked first, and leaves the most room.
            tried.push(write);
            let after = step.apply(reached).expect("any answer will do");
            if after.state == reached.state {
                continue;
            }
            used.insert(write);
            let fits = self.turns[turn].step.apply(&after).is_some();
            let explained = if fits {
                self.explain_from(turn, after, used)
            } else {
                self.explain_by_unanswered(turn, &after, used, free)
            };
            if explained {
                return true;
            }
            used.remove(&write);
        }
        false
    }
}

impl<'a> Step<'a> {
    /// What this leads to, if it gets its answer there.
    fn apply(&self, reached: &Reached<'a>) -> Option<Reached<'a>> {
        let state = self.operation.step(&reached.state)?;
        let writer = if state == reached.state { reached.writer } else { Some(self.numbered.attempt) };
        Some(Reached { state, writer })
    }
}
