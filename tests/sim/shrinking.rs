//! Makes a run that fails smaller: fewer faults, fewer clients, less time.
//!
//! Faults first, by delta debugging (Zeller and Hildebrandt, 2002): whole parts of what is left are
//! left out, and the parts are halved when none of them can be spared. A smaller run is taken only if
//! it violates the same rule.

use std::time::{Duration as RealDuration, Instant as RealTime};

use kvstore::time::{Duration, Instant};

use super::case::{Case, Numbers};
use super::plan::{DueFault, Plan};
use super::runner::{Failure, faults_of, run_case};

/// How often progress is told.
const TELLING: RealDuration = RealDuration::from_secs(2);
/// The turmoil's length is not looked for more closely.
const CLOSE: Duration = Duration::from_millis(100);

/// The smallest run that was found.
struct Shrinking {
    /// Of the whole run.
    faults: Vec<DueFault>,
    smallest: Failure,
    /// The numbers of the faults that it keeps.
    kept: Vec<u64>,
    runs_left: u32,
    told: RealTime,
}

/// The smallest run found that violates the rule that this one violates, in so many runs; nothing
/// if this one violates none.
pub(crate) fn shrink(case: &Case, most_runs: u32) -> Option<Failure> {
    let faults = faults_of(case.mode, case.seed);
    let failure = *run_case(case, &faults, false).err()?;
    println!("{failure}\n");
    let kept = failure.faults.iter().map(|due| due.number).collect();
    let mut shrinking =
        Shrinking { faults, smallest: failure, kept, runs_left: most_runs, told: RealTime::now() };
    shrinking.tell();
    loop {
        let before = shrinking.smallest.case.reduction.clone();
        shrinking.shrink_faults();
        shrinking.shrink_clients();
        shrinking.shrink_turmoil();
        if shrinking.smallest.case.reduction == before || shrinking.runs_left == 0 {
            break;
        }
    }
    shrinking.tell();
    if shrinking.runs_left == 0 {
        println!("more than {most_runs} runs might make it smaller");
    }
    Some(shrinking.smallest)
}

impl Shrinking {
    /// Whether this smaller run violates the same rule; then it is the smallest.
    fn is_taken(&mut self, case: &Case) -> bool {
        if self.runs_left == 0 {
            return false;
        }
        self.runs_left -= 1;
        if self.told.elapsed() >= TELLING {
            self.told = RealTime::now();
            self.tell();
        }
        match run_case(case, &self.faults, false) {
            Err(failure) if failure.rule == self.smallest.rule => {
                self.smallest = *failure;
                true
            }
            _ => false,
        }
    }

    fn tell(&self) {
        let plan = self.plan();
        println!(
            "shrinking: {} faults, {} clients, {} ms of turmoil; {} runs left",
            self.kept.len(),
            plan.clients.asking,
            plan.turmoil.as_millis(),
            self.runs_left
        );
    }

    fn plan(&self) -> Plan {
        self.smallest.case.plan(&[])
    }

    fn shrink_faults(&mut self) {
        let mut parts = 1;
        while !self.kept.is_empty() {
            let size = self.kept.len().div_ceil(parts);
            let starts = (0..self.kept.len()).step_by(size);
            let without = |start: usize| {
                let end = self.kept.len().min(start + size);
                [&self.kept[..start], &self.kept[end..]].concat()
            };
            let candidates: Vec<Vec<u64>> = starts.map(without).collect();
            if let Some(kept) = candidates.into_iter().find(|kept| self.is_enough(kept)) {
                self.kept = kept;
                parts = (parts - 1).max(1);
            } else if size == 1 {
                break;
            } else {
                parts *= 2;
            }
        }
    }

    fn is_enough(&mut self, kept: &[u64]) -> bool {
        let mut case = self.smallest.case.clone();
        case.reduction.skipped = Numbers::all_but(kept);
        self.is_taken(&case)
    }

    fn shrink_clients(&mut self) {
        for clients in 1..self.plan().clients.asking {
            let mut case = self.smallest.case.clone();
            case.reduction.clients = Some(clients);
            if self.is_taken(&case) {
                break;
            }
        }
    }

    /// A failure within the turmoil needs no more of it; of one that shows later, the end is looked
    /// for by halving.
    fn shrink_turmoil(&mut self) {
        let failed_at = self.smallest.at.since(Instant::ZERO).as_millis() as u64 + 1;
        if Duration::from_millis(failed_at) < self.plan().turmoil {
            self.is_enough_turmoil(failed_at);
            return;
        }
        let (mut too_short, mut enough) = (0, self.plan().turmoil.as_millis() as u64);
        while Duration::from_millis(enough - too_short) > CLOSE && self.runs_left > 0 {
            let middle = too_short.midpoint(enough);
            if self.is_enough_turmoil(middle) {
                enough = middle;
            } else {
                too_short = middle;
            }
        }
    }

    fn is_enough_turmoil(&mut self, millis: u64) -> bool {
        let mut case = self.smallest.case.clone();
        case.reduction.turmoil = Some(Duration::from_millis(millis));
        self.is_taken(&case)
    }
}

/// What is compared while a run is made smaller is the very run, as long as nothing is left out.
#[test]
fn shrinking_where_nothing_is_left_out_gives_the_plain_run() {
    use super::pipe_plan::Mode;
    use super::runner::run;
    for (mode, seed) in [(Mode::Messages, 3), (Mode::Bytes, 2)] {
        let plain = run(mode, seed, false).unwrap_or_else(|failure| panic!("{failure}"));
        let last = plain.faults.last().expect("a run with faults").number;
        let mut case = Case::whole(mode, seed);
        case.reduction.skipped = Numbers::parse(&format!("{}-", last + 1)).unwrap();
        let fixed = run_case(&case, &plain.faults, false).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(fixed.trace_hash, plain.trace_hash, "seed {seed} in {mode:?}");
        case.reduction.skipped = Numbers::parse("1").unwrap();
        let fewer = run_case(&case, &plain.faults, false).unwrap_or_else(|failure| panic!("{failure}"));
        assert_ne!(fewer.trace_hash, plain.trace_hash, "seed {seed} in {mode:?}");
        assert_eq!(fewer.faults.len() as u64, last - 1);
    }
}

#[cfg(any(debug_assertions, feature = "planted-bugs"))]
#[test]
fn shrinking_a_planted_bugs_run_leaves_fewer_faults_and_the_same_failure() {
    use super::pipe_plan::Mode;
    use super::runner::run;
    use kvstore::planted::{Bug, plant};
    plant(Some(Bug::ReadWithoutRound));
    let failed = |seed| run(Mode::Messages, seed, false).err().filter(|failure| failure.faults.len() >= 4);
    let whole = (1..=100).find_map(failed).expect("a seed that catches the bug after some faults");
    let smallest = shrink(&whole.case, 60).expect("it failed before");
    assert_eq!(smallest.rule, whole.rule);
    assert!(smallest.faults.len() < whole.faults.len(), "{smallest}");
    assert!(smallest.case.command("").contains("SIM_BUG=ReadWithoutRound SIM_MODE=messages SIM_SEED="));
    // As the settings that are printed would have it.
    let skipped = Numbers::parse(&smallest.case.reduction.skipped.to_string()).unwrap();
    assert_eq!(skipped, smallest.case.reduction.skipped);
    let faults = faults_of(Mode::Messages, whole.case.seed);
    let again = run_case(&smallest.case, &faults, false).err().expect("it fails again");
    assert_eq!((again.rule.as_str(), again.event), (smallest.rule.as_str(), smallest.event));
    assert_eq!(again.trace_hash, smallest.trace_hash);
    plant(None);
}
