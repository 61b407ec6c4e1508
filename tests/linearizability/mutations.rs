//! Long histories that hold, each made false in one place: in every one that place must be found.
//!
//! Each value is written once, so what is changed is surely false, whatever order is tried.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::STEP_LIMIT;
use crate::history::{Attempt, Ending, History};
use crate::linearizability::{Verdict, check};
use crate::long_histories::{CLIENTS, random_run};
use crate::revisions;
use crate::store_model::{Input, Output, Value};

const SEEDS: u64 = 20;
const OPERATIONS: u64 = 300;

/// A change that makes a history false; `None` where the history gives no occasion.
type Lie = fn(&mut [Attempt], &mut StdRng) -> Option<()>;

fn read_value(attempt: &Attempt) -> Option<&Value> {
    match attempt.answer() {
        Some((_, Output::Value(Some(value)), _)) => Some(value),
        _ => None,
    }
}

fn written(attempt: &Attempt) -> Option<&Value> {
    match &attempt.input {
        Input::Put(value) | Input::CompareAndSet { new: value, .. } => Some(value),
        _ => None,
    }
}

/// The place of a random attempt of which this is true.
fn some_place(run: &[Attempt], rng: &mut StdRng, is_fit: impl Fn(&Attempt) -> bool) -> Option<usize> {
    let places: Vec<usize> = (0..run.len()).filter(|at| is_fit(&run[*at])).collect();
    (!places.is_empty()).then(|| places[rng.random_range(0..places.len())])
}

fn set_output(attempt: &mut Attempt, new: Output) {
    let Ending::Ok { output, .. } = &mut attempt.ending else { panic!("it was answered") };
    *output = new;
}

/// A read of what nobody wrote.
fn phantom(run: &mut [Attempt], rng: &mut StdRng) -> Option<()> {
    let at = some_place(run, rng, |attempt| read_value(attempt).is_some())?;
    set_output(&mut run[at], Output::Value(Some("nobody's".into())));
    Some(())
}

/// A read whose write is said to have failed.
fn refused_and_seen(run: &mut [Attempt], rng: &mut StdRng) -> Option<()> {
    let read = some_place(run, rng, |attempt| read_value(attempt).is_some())?;
    let value = read_value(&run[read])?.clone();
    let write = run.iter().position(|attempt| written(attempt) == Some(&value))?;
    let ret_ns = run[write].call_ns + 1;
    run[write].ending = Ending::Fail { ret_ns };
    Some(())
}

/// A read that ended before its write was asked.
fn read_ahead(run: &mut [Attempt], rng: &mut StdRng) -> Option<()> {
    let read = some_place(run, rng, |attempt| read_value(attempt).is_some())?;
    let value = read_value(&run[read])?.clone();
    let write = run.iter().find(|attempt| written(attempt) == Some(&value))?.call_ns;
    let ends = write.checked_sub(1)?;
    let read = &mut run[read];
    read.call_ns = read.call_ns.min(ends);
    let Ending::Ok { ret_ns, .. } = &mut read.ending else { panic!("it was answered") };
    *ret_ns = ends;
    Some(())
}

/// A read of what was certainly overwritten before it was asked, by a put that came after its write.
fn overwritten(run: &mut [Attempt], rng: &mut StdRng) -> Option<()> {
    let put = |attempt: &Attempt| match (&attempt.input, attempt.answer()) {
        (Input::Put(value), Some((ret_ns, ..))) => Some((attempt.call_ns, ret_ns, value.clone())),
        _ => None,
    };
    let puts: Vec<_> = run.iter().filter_map(put).collect();
    let read = some_place(run, rng, |attempt| {
        let over = puts.iter().filter(|(_, ret_ns, _)| *ret_ns < attempt.call_ns);
        let latest = over.map(|(call_ns, ..)| *call_ns).max().unwrap_or(0);
        read_value(attempt).is_some() && puts.iter().any(|(_, ret_ns, _)| *ret_ns < latest)
    })?;
    let over = puts.iter().filter(|(_, ret_ns, _)| *ret_ns < run[read].call_ns);
    let latest = over.map(|(call_ns, ..)| *call_ns).max()?;
    let old = puts.iter().find(|(_, ret_ns, _)| *ret_ns < latest)?.2.clone();
    set_output(&mut run[read], Output::Value(Some(old)));
    Some(())
}

/// A compare-and-set that did set, and is told of a mismatch with the very value that it expected.
fn mismatch_with_the_expected(run: &mut [Attempt], rng: &mut StdRng) -> Option<()> {
    let is_set = |attempt: &Attempt| {
        matches!(attempt.input, Input::CompareAndSet { .. })
            && matches!(attempt.answer(), Some((_, Output::Done, _)))
    };
    let at = some_place(run, rng, is_set)?;
    let Input::CompareAndSet { expected, .. } = run[at].input.clone() else { return None };
    set_output(&mut run[at], Output::Mismatch { current: expected });
    Some(())
}

/// A compare-and-set that set although it expected what was never there.
fn set_over_nothing_expected(run: &mut [Attempt], rng: &mut StdRng) -> Option<()> {
    let is_set = |attempt: &Attempt| {
        matches!(attempt.input, Input::CompareAndSet { .. })
            && matches!(attempt.answer(), Some((_, Output::Done, _)))
    };
    let at = some_place(run, rng, is_set)?;
    let Input::CompareAndSet { expected, .. } = &mut run[at].input else { return None };
    *expected = Some("nobody's".into());
    Some(())
}

const LIES: [(&str, Lie); 6] = [
    ("phantom", phantom),
    ("refused and seen", refused_and_seen),
    ("read ahead", read_ahead),
    ("overwritten", overwritten),
    ("mismatch with the expected", mismatch_with_the_expected),
    ("set over nothing expected", set_over_nothing_expected),
];

#[test]
fn history_made_false_in_one_place_is_a_violation_by_time_and_by_revision() {
    for (name, lie) in LIES {
        let mut told = 0;
        for seed in 0..SEEDS {
            let mut run = random_run(seed, OPERATIONS, CLIENTS);
            if lie(&mut run, &mut StdRng::seed_from_u64(seed)).is_none() {
                continue;
            }
            told += 1;
            let history = History::new(run).expect("each write has its own number");
            let by_time = check(&history.by_key(), STEP_LIMIT);
            assert!(matches!(by_time, Verdict::Violated(_)), "{name}, seed {seed}: {by_time}");
            let by_revision = revisions::check(&history, STEP_LIMIT);
            assert!(matches!(by_revision, Verdict::Violated(_)), "{name}, seed {seed}: {by_revision}");
        }
        assert!(told > SEEDS / 2, "{name}: only {told} histories gave an occasion");
    }
}

/// Revisions are claims of their own: each of these leaves the order by time as it was.
#[test]
fn revision_made_false_in_one_place_is_a_violation() {
    for seed in 0..SEEDS {
        let mut rng = StdRng::seed_from_u64(seed);
        let run = random_run(seed, OPERATIONS, CLIENTS);
        let is_write = |attempt: &Attempt| attempt.input != Input::Get && attempt.answer().is_some();
        let [first, second] = [(); 2].map(|()| some_place(&run, &mut rng, is_write).expect("writes"));
        let revision_of = |attempt: &Attempt| attempt.answer().and_then(|(.., revision)| revision);
        let (mut twice, stolen) = (run.clone(), revision_of(&run[second]));
        let Ending::Ok { revision, .. } = &mut twice[first].ending else { panic!("it was answered") };
        *revision = stolen;
        let verdict = revisions::check(&History::new(twice).expect("distinct writes"), STEP_LIMIT);
        let is_same = first == second;
        assert!(is_same || matches!(verdict, Verdict::Violated(_)), "seed {seed}: {verdict}");
    }
}
