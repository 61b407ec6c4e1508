//! Runs seeds, and tells what a failure was and how to see it again.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::time::Instant as RealTime;

use kvstore::time::{Duration, Instant};

use super::case::Case;
use super::pipe_plan::Mode;
use super::plan::DueFault;
use super::stats::Stats;
use super::world::World;

/// What became of a run.
pub(crate) struct Outcome {
    pub(crate) stats: Stats,
    pub(crate) trace_hash: u64,
    /// All that came due.
    pub(crate) faults: Vec<DueFault>,
}

/// A rule that a run violated.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) case: Case,
    pub(crate) event: u64,
    pub(crate) at: Instant,
    /// The name of the rule, or where the code under test asserted.
    pub(crate) rule: String,
    pub(crate) message: String,
    pub(crate) trace_hash: u64,
    /// All that came due until then.
    pub(crate) faults: Vec<DueFault>,
}

thread_local! {
    /// Where the last panic of this thread was, while a run is under way.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_RUNNING: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs one seed to its end.
pub(crate) fn run(mode: Mode, seed: u64, is_printed: bool) -> Result<Outcome, Box<Failure>> {
    run_case(&Case::whole(mode, seed), &[], is_printed)
}

/// The faults of a whole run, whatever comes of it.
pub(crate) fn faults_of(mode: Mode, seed: u64) -> Vec<DueFault> {
    run(mode, seed, false).map_or_else(|failure| failure.faults, |outcome| outcome.faults)
}

/// Runs a case whose whole run had these faults.
pub(crate) fn run_case(case: &Case, faults: &[DueFault], is_printed: bool) -> Result<Outcome, Box<Failure>> {
    catch_panics_quietly();
    let mut world = World::new(case.seed, case.plan(faults), is_printed);
    IS_RUNNING.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    IS_RUNNING.set(false);
    match result {
        Ok(()) => {
            let (stats, trace_hash, faults) = (world.stats, world.trace.hash(), world.trace.faults);
            Ok(Outcome { stats, trace_hash, faults })
        }
        Err(payload) => Err(Box::new(failure(case, world, payload.as_ref()))),
    }
}

fn play(world: &mut World) {
    world.run_until(Instant::ZERO + world.plan.turmoil);
    world.check_liveness();
    world.check_rest();
    let simulated = world.now.since(Instant::ZERO);
    let sockets = world.socket_faults();
    let stats = &mut world.stats;
    stats.faults.at_sockets = sockets;
    (stats.runs, stats.simulated) = (1, simulated);
    stats.answers = world.operations.answered;
    stats.leaders = world.checker.leader_count() as u64;
    stats.events = world.trace.events;
    stats.snapshots = world.checker.transfers.counts;
    if stats.answers >= 20 * simulated.as_secs() {
        stats.counted = simulated;
    }
}

fn failure(case: &Case, world: World, payload: &(dyn std::any::Any + Send)) -> Failure {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let message = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned();
    let place = PANIC.take().unwrap_or_default();
    let rule = match message.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((rule, _)) => rule.to_owned(),
        None => format!("assertion in {place}"),
    };
    let (event, trace_hash) = (world.trace.events, world.trace.hash());
    let (case, at, faults) = (case.clone(), world.now, world.trace.faults);
    Failure { case, event, at, rule, message, trace_hash, faults }
}

/// Panics of runs are told by the runner, in its own words.
fn catch_panics_quietly() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IS_RUNNING.with_borrow(|is_running| *is_running) {
                let place = info.location().map(|place| format!("{}:{}", place.file(), place.line()));
                PANIC.set(place);
            } else {
                usual(info);
            }
        }));
    });
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { case, event, rule, message, trace_hash, .. } = self;
        let (seed, mode) = (case.seed, case.mode.name());
        write!(
            f,
            "seed {seed}, mode {mode}, event {event}, trace {trace_hash:016x}: violated: {rule}\n{message}"
        )?;
        write!(f, "\nreplay with its log: {}", case.command("SIM_TRACE=1"))?;
        write!(f, "\nshrink it: {}", case.command("SIM_SHRINK=1"))
    }
}

/// However slow the machine is, so many runs are made where time is the limit.
const LEAST_RUNS: u64 = 25;

/// Runs seeds until so many have run or so much real time went by; all failures are told.
pub(crate) fn run_many(
    mode: Mode,
    seeds: impl Iterator<Item = u64>,
    at_most: Duration,
) -> (Stats, Vec<Failure>) {
    let began = RealTime::now();
    let (mut stats, mut failures) = (Stats::default(), Vec::new());
    for seed in seeds {
        match run(mode, seed, false) {
            Ok(outcome) => stats.add(&outcome.stats),
            Err(failure) => {
                eprintln!("{failure}\n");
                failures.push(*failure);
            }
        }
        let runs = stats.runs + failures.len() as u64;
        if began.elapsed() >= at_most && runs >= LEAST_RUNS {
            break;
        }
    }
    println!("{}", stats.report(began.elapsed()));
    (stats, failures)
}
