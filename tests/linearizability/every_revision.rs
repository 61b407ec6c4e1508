//! The check of revisions against the definition: short random histories, and every revision that
//! the writes of unknown outcome may have made.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::STEP_LIMIT;
use crate::every_order::{State, input, output, true_output};
use crate::history::{Attempt, Ending, History};
use crate::linearizability::{Model, Verdict};
use crate::revisions::{self, RevisionViolation};
use crate::store_model::{Input, Store};

const HISTORIES: u64 = 6_000;

/// Operations that really happened one after the other; but one in ten got any answer at all, one in
/// three got none, and now and then something else made a revision.
fn random_history(seed: u64) -> Vec<Attempt> {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut state, mut revision) = (State::default(), 0);
    let mut attempts = Vec::new();
    for op_id in 0..rng.random_range(1..=7) {
        revision += u64::from(rng.random_bool(0.1));
        let input = input(&mut rng);
        let truth = true_output(&mut rng, &state, &input);
        let output = if rng.random_bool(0.1) { output(&mut rng, &input) } else { truth };
        let answered = rng.random_bool(0.66);
        if input != Input::Get && (answered || rng.random_bool(0.6)) {
            state = Store::step(&state, &input, None).expect("any answer will do");
            revision += 1;
        }
        let call_ns = op_id + 3 - rng.random_range(0..=3);
        let ret_ns = op_id + 3 + rng.random_range(0..=3);
        let ok = Ending::Ok { ret_ns, output, revision: Some(revision) };
        let ending = if answered { ok } else { Ending::Unknown { ret_ns: None } };
        let (client, key) = (op_id, "k".to_owned());
        attempts.push(Attempt { op_id, client, sequence: None, node: None, key, input, call_ns, ending });
    }
    attempts
}

/// The highest revision that was known before an operation was asked.
fn known(attempts: &[Attempt], call_ns: u64) -> u64 {
    let answers = attempts.iter().filter_map(Attempt::answer);
    answers.filter(|(at, ..)| *at < call_ns).filter_map(|(.., revision)| revision).max().unwrap_or(0)
}

/// Whether the operations from `next` on can be given revisions, besides those taken, so that a
/// replay comes to every answer.
fn some_revisions_explain(attempts: &[Attempt], next: usize, taken: &mut Vec<(u64, bool, usize)>) -> bool {
    let Some(attempt) = attempts.get(next) else { return replay(attempts, taken) };
    let is_read = attempt.input == Input::Get;
    let made: BTreeSet<u64> =
        attempts.iter().filter(|write| write.input != Input::Get).filter_map(revision).collect();
    let candidates = match revision(attempt) {
        Some(revision) => vec![Some(revision)],
        None if is_read => vec![None],
        None => {
            let last = attempts.iter().filter_map(revision).max().unwrap_or(0);
            let free = known(attempts, attempt.call_ns) + 1..=last;
            let free = free.filter(|r| !made.contains(r) && taken.iter().all(|t| t.1 || t.0 != *r));
            free.map(Some).chain([None]).collect()
        }
    };
    candidates.into_iter().any(|candidate| {
        let depth = taken.len();
        taken.extend(candidate.map(|revision| (revision, is_read, next)));
        let explained = some_revisions_explain(attempts, next + 1, taken);
        taken.truncate(depth);
        explained
    })
}

fn revision(attempt: &Attempt) -> Option<u64> {
    attempt.answer().and_then(|(.., revision)| revision)
}

fn replay(attempts: &[Attempt], taken: &[(u64, bool, usize)]) -> bool {
    let mut order = taken.to_vec();
    order.sort_unstable();
    let mut operations = order.iter().map(|(.., attempt)| attempts[*attempt].operation());
    operations.try_fold(State::default(), |state, operation| operation.step(&state)).is_some()
}

#[test]
fn check_of_short_histories_agrees_with_every_revision() {
    let mut counts = [0, 0];
    for seed in 0..HISTORIES {
        let attempts = random_history(seed);
        let history = History::new(attempts.clone()).expect("no write is repeated");
        let holds = match revisions::check(&history, STEP_LIMIT) {
            Verdict::Holds => true,
            Verdict::Violated(RevisionViolation::WrongState { .. }) => false,
            verdict => panic!("seed {seed}: every revision is true, but {verdict}"),
        };
        let expected = some_revisions_explain(&attempts, 0, &mut Vec::new());
        assert_eq!(holds, expected, "seed {seed}: {attempts:#?}");
        counts[usize::from(holds)] += 1;
    }
    assert!(counts.iter().all(|count| *count > HISTORIES / 20), "both verdicts are common: {counts:?}");
}
