//! Histories as long as those of real runs, in which many outcomes are unknown.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::linearizability::{Answer, Model, Operation, Verdict, check};
use crate::store_model::{Input, Output, Store};
use crate::{STEP_LIMIT, one_key};

const CLIENTS: u64 = 16;

/// What a store would give to clients that ask all the time, on one key. A tenth of the operations
/// get no answer, and half of these are never applied. Each value is written once.
fn random_run(seed: u64, operations: usize) -> Vec<Operation<Store>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut clocks = vec![0; CLIENTS as usize];
    let mut moments = Vec::new();
    for number in 0..operations {
        let client = rng.random_range(0..CLIENTS);
        let call = clocks[client as usize] + rng.random_range(0..100);
        let moment = call + rng.random_range(0..1_000);
        let at = moment + rng.random_range(0..1_000);
        clocks[client as usize] = at + 1;
        moments.push((moment, number, client, call, at));
    }
    moments.sort_unstable();
    let mut state = None;
    let mut run = Vec::new();
    for (_, number, client, call, at) in moments {
        let new = format!("v{number}").into();
        let input = match rng.random_range(0..10) {
            0..=3 => Input::Get,
            4..=6 => Input::Put(new),
            7 => Input::Delete,
            _ => Input::CompareAndSet { expected: state.clone(), new },
        };
        let answered = rng.random_bool(0.9);
        let output = match &input {
            Input::Get => Output::Value(state.clone()),
            Input::Delete if state.is_none() => Output::NotFound,
            _ => Output::Done,
        };
        if answered || rng.random_bool(0.5) {
            state = Store::step(&state, &input, None).expect("any answer will do");
        }
        run.push(Operation { client, input, call, answer: answered.then_some(Answer { at, output }) });
    }
    run
}

/// Makes the last get that can be wronged answer what was overwritten long before it.
fn with_a_stale_read(mut run: Vec<Operation<Store>>) -> Vec<Operation<Store>> {
    let read = |operation: &Operation<Store>| match &operation.answer {
        Some(Answer { output: Output::Value(value @ Some(_)), .. }) => value.clone(),
        _ => None,
    };
    let stale = run.iter().find_map(read).expect("something was read");
    let last = run.iter_mut().rev().find(|operation| read(operation).is_some()).expect("a last read");
    last.answer.as_mut().expect("it was answered").output = Output::Value(Some(stale));
    run
}

#[test]
fn run_of_three_hundred_operations_with_unknown_outcomes_holds() {
    for seed in 0..20 {
        let verdict = check(&one_key(random_run(seed, 300)), STEP_LIMIT);
        assert!(matches!(verdict, Verdict::Holds), "seed {seed}: {verdict}");
    }
}

#[test]
fn run_of_three_hundred_operations_with_a_stale_read_is_a_violation() {
    for seed in 0..20 {
        let verdict = check(&one_key(with_a_stale_read(random_run(seed, 300))), STEP_LIMIT);
        assert!(matches!(verdict, Verdict::Violated(_)), "seed {seed}: {verdict}");
    }
}

#[test]
fn run_that_is_not_decided_within_the_limit_is_unknown() {
    let run = random_run(1, 300);
    let verdict = check(&one_key(run.clone()), 250);
    assert_eq!(verdict.to_string(), "unknown: key \"k\" not decided in 250 steps");
    let mut keys = one_key(run);
    let never_written = Answer { at: 1, output: Output::Value(Some("x".into())) };
    let read = Operation { client: 1, input: Input::Get, call: 0, answer: Some(never_written) };
    keys.insert("m".to_owned(), vec![read]);
    let verdict = check(&keys, 250);
    assert!(matches!(verdict, Verdict::Violated(_)), "a violation of another key is still found: {verdict}");
}
