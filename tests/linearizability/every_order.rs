//! The search against the definition: short random histories, and every order of their operations.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::linearizability::{Answer, Model, Operation, Verdict, check};
use crate::store_model::{Input, Output, Store, Value};
use crate::{STEP_LIMIT, one_key};

const HISTORIES: u64 = 6_000;
const MAX_OPERATIONS: u32 = 6;

pub(crate) type State = <Store as Model>::State;

/// Whether some order of all answered operations and any of the rest, in agreement with time, gives
/// every answer. It tries them all and remembers nothing.
fn some_order_explains(operations: &[Operation<Store>], placed: &mut Vec<usize>, state: &State) -> bool {
    let next: Vec<usize> = (0..operations.len()).filter(|at| !placed.contains(at)).collect();
    if next.iter().all(|at| operations[*at].answer.is_none()) {
        return true;
    }
    let may_be_next =
        |at: &&usize| next.iter().all(|other| !precedes(&operations[*other], &operations[**at]));
    next.iter().filter(may_be_next).any(|at| {
        let output = operations[*at].answer.as_ref().map(|answer| &answer.output);
        Store::step(state, &operations[*at].input, output).is_some_and(|after| {
            placed.push(*at);
            let explained = some_order_explains(operations, placed, &after);
            placed.pop();
            explained
        })
    })
}

/// Whether one ended before the other began, and so must not come after it.
fn precedes(first: &Operation<Store>, second: &Operation<Store>) -> bool {
    first.answer.as_ref().is_some_and(|answer| answer.at < second.call)
}

fn explains(operations: &[Operation<Store>]) -> bool {
    some_order_explains(operations, &mut Vec::new(), &State::default())
}

/// A value of very few, so that histories are often explained by accident.
fn value(rng: &mut StdRng) -> Value {
    ["a", "b", "c"][rng.random_range(0..3)].into()
}

fn value_or_absent(rng: &mut StdRng) -> Option<Value> {
    rng.random_bool(0.8).then(|| value(rng))
}

pub(crate) fn input(rng: &mut StdRng) -> Input {
    match rng.random_range(0..10) {
        0..=3 => Input::Get,
        4..=6 => Input::Put(value(rng)),
        7 => Input::Delete,
        _ => Input::CompareAndSet { expected: value_or_absent(rng), new: value(rng) },
    }
}

/// Some answer to this question, true or not.
pub(crate) fn output(rng: &mut StdRng, input: &Input) -> Output {
    match input {
        Input::Get => Output::Value(value_or_absent(rng)),
        Input::Put(_) => Output::Done,
        Input::Delete if rng.random_bool(0.5) => Output::NotFound,
        Input::CompareAndSet { .. } if rng.random_bool(0.5) => {
            Output::Mismatch { current: value_or_absent(rng) }
        }
        Input::Delete | Input::CompareAndSet { .. } => Output::Done,
    }
}

/// The answer that the model gives.
pub(crate) fn true_output(rng: &mut StdRng, state: &State, input: &Input) -> Output {
    loop {
        let output = output(rng, input);
        if Store::step(state, input, Some(&output)).is_some() {
            return output;
        }
    }
}

/// Operations that really happened one after the other, each inside its interval; but one in four
/// got any answer at all, and one in four got none and perhaps did nothing. Stamps are so few that
/// many are equal.
fn random_history(seed: u64) -> Vec<Operation<Store>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut state = State::default();
    let mut operations = Vec::new();
    for client in 0..rng.random_range(1..=u64::from(MAX_OPERATIONS)) {
        let input = input(&mut rng);
        let moment = client + 3;
        let call = moment - rng.random_range(0..=3);
        let at = moment + rng.random_range(0..=3);
        let lied = rng.random_bool(0.25);
        let output = if lied { output(&mut rng, &input) } else { true_output(&mut rng, &state, &input) };
        let answered = rng.random_bool(0.75);
        if answered || rng.random_bool(0.5) {
            state = Store::step(&state, &input, None).expect("any answer will do");
        }
        operations.push(Operation { client, input, call, answer: answered.then_some(Answer { at, output }) });
    }
    // The order in which operations are given must not matter.
    let start = rng.random_range(0..operations.len());
    operations.rotate_left(start);
    operations
}

/// The history as it stood when the operations up to this one, by the time of their returns, had been
/// answered, and, if `stuck` itself must wait, right before. Ties go by number, as in the check.
fn cut(operations: &[Operation<Store>], stuck: usize, stuck_too: bool) -> Vec<Operation<Store>> {
    let end = |at: usize| (operations[at].answer.as_ref().map_or(u64::MAX, |answer| answer.at), at);
    let mut cut = operations.to_vec();
    for (at, operation) in cut.iter_mut().enumerate() {
        operation.answer.take_if(|_| end(at) > end(stuck) || (at == stuck && !stuck_too));
    }
    cut
}

/// The state that an order of operations leads to, if it gives every answer.
fn replay(order: &[Operation<Store>]) -> Option<State> {
    order.iter().try_fold(State::default(), |state, operation| {
        Store::step(&state, &operation.input, operation.answer.as_ref().map(|answer| &answer.output))
    })
}

#[test]
fn search_of_short_histories_agrees_with_every_order() {
    let mut counts = [0, 0];
    for seed in 0..HISTORIES {
        let operations = random_history(seed);
        let expected = explains(&operations);
        counts[usize::from(expected)] += 1;
        match check(&one_key(operations.clone()), STEP_LIMIT) {
            Verdict::Holds => assert!(expected, "seed {seed}: no order explains {operations:#?}"),
            Verdict::Violated(why) => assert!(!expected, "seed {seed}: some order does explain, not: {why}"),
            Verdict::Unknown { .. } => panic!("seed {seed}: not decided"),
        }
    }
    assert!(counts.iter().all(|count| *count > HISTORIES / 10), "both verdicts are common: {counts:?}");
}

#[test]
fn explanation_of_a_violation_names_the_first_answer_that_no_order_admits() {
    let mut violations = 0;
    for seed in 0..HISTORIES {
        let operations = random_history(seed);
        let Verdict::Violated(why) = check(&one_key(operations.clone()), STEP_LIMIT) else { continue };
        violations += 1;
        assert_eq!(replay(&why.order), Some(why.state.clone()), "seed {seed}: the order is none: {why}");
        let stuck = operations.iter().position(|operation| operation.client == why.stuck.client).unwrap();
        let before = cut(&operations, stuck, false);
        for operation in before.iter().filter(|operation| operation.answer.is_some()) {
            let placed = why.order.iter().any(|placed| placed.client == operation.client);
            assert!(placed, "seed {seed}: {operation} is left out of: {why}");
        }
        assert!(explains(&before), "seed {seed}: stuck before: {why}");
        assert!(!explains(&cut(&operations, stuck, true)), "seed {seed}: not stuck: {why}");
    }
    assert!(violations > HISTORIES / 10, "violations are common: {violations}");
}
