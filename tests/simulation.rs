//! Whole clusters under simulated faults; see `docs/testing.md`.

mod sim;

use std::time::Duration;

use sim::case::Case;
use sim::pipe_plan::Mode;
use sim::settings::{modes, number};
use sim::world::narrow::{self, Outcome};
use sim::world::wide::{Figures, Wide};
use sim::{runner, settings, shrinking};

/// Runs that are made at most to shrink one.
const SHRINKING_RUNS: u32 = 1_000;

/// `SIM_SEED=n` runs one seed, `SIM_TRACE=1` with its log; `SIM_SKIP`, `SIM_CLIENTS` and
/// `SIM_TURMOIL_MS` run less of it. `SIM_SHRINK=1` looks for the least of it that still fails.
#[test]
fn one_seed_twice_is_the_same_run() {
    let seed = number("SIM_SEED").unwrap_or(1);
    let is_printed = number("SIM_TRACE").is_some();
    #[cfg(any(debug_assertions, feature = "planted-bugs"))]
    kvstore::planted::plant(settings::bug());
    if number("SIM_SHRINK").is_some() {
        return shrink_one_seed(seed);
    }
    for mode in modes() {
        let case = Case { reduction: settings::reduction(), ..Case::whole(mode, seed) };
        let faults = if case.is_whole() { Vec::new() } else { runner::faults_of(mode, seed) };
        let run = |is_printed| {
            runner::run_case(&case, &faults, is_printed).unwrap_or_else(|failure| panic!("{failure}"))
        };
        let (first, second) = (run(is_printed), run(false));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed} in {mode:?} is not reproducible");
    }
}

/// Fails as the seed fails, so that nobody takes a smaller failure for a success.
fn shrink_one_seed(seed: u64) {
    for mode in modes() {
        let case = Case { reduction: settings::reduction(), ..Case::whole(mode, seed) };
        match shrinking::shrink(&case, SHRINKING_RUNS) {
            Some(smallest) => panic!("the smallest run that was found to fail so:\n{smallest}"),
            None => println!("seed {seed} in mode {} violates no rule: nothing to shrink", mode.name()),
        }
    }
}

/// `SIM_SEEDS=n` runs so many seeds, `SIM_SECONDS=n` for so long; both begin at `SIM_FROM`. With
/// `SIM_JUDGE_SPEED=1` a run that is slower than it should be in a release build fails, too.
#[test]
fn many_seeds_violate_no_rule() {
    let from = number("SIM_FROM").unwrap_or(1);
    let count = number("SIM_SEEDS");
    let seconds = number("SIM_SECONDS").unwrap_or(if count.is_some() { 1 << 20 } else { 15 });
    for mode in modes() {
        let seeds = (0..count.unwrap_or(u64::MAX)).map(|offset| from.wrapping_add(offset));
        let began = std::time::Instant::now();
        let (stats, failures) = runner::run_many(mode, seeds, Duration::from_secs(seconds));
        let took = began.elapsed();
        assert!(failures.is_empty(), "{} runs failed; they are told above", failures.len());
        if count.is_none() {
            let shortcomings = stats.shortcomings(mode);
            assert!(shortcomings.is_empty(), "the runs exercised too little: {shortcomings:?}");
        }
        if number("SIM_JUDGE_SPEED") == Some(1) {
            let (speed, least) = (stats.speed(took), mode.least_speed());
            assert!(speed >= least, "{speed:.0} cluster-seconds a second, at least {least:.0} are asked for");
        }
    }
}

#[test]
fn seeds_that_failed_once_pass() {
    let lines = include_str!("sim/kept_seeds.txt").lines().filter(|line| !line.starts_with('#'));
    let kept: Vec<(Mode, u64)> = lines.map(kept_seed).collect();
    for mode in [Mode::Messages, Mode::Bytes] {
        let seeds = kept.iter().filter(|(of, _)| *of == mode).map(|(_, seed)| *seed);
        let (_, failures) = runner::run_many(mode, seeds, Duration::from_secs(600));
        assert!(failures.is_empty(), "{} runs failed; they are told above", failures.len());
    }
}

/// A line is "seed why", of message mode, or "bytes seed why".
fn kept_seed(line: &str) -> (Mode, u64) {
    let (mode, line) = match line.strip_prefix("bytes ") {
        Some(line) => (Mode::Bytes, line),
        None => (Mode::Messages, line),
    };
    let seed = line.split(' ').next().and_then(|seed| seed.parse().ok());
    (mode, seed.expect("a line names its seed"))
}

/// `WIDE_SEEDS=n` takes medians over so many fail-overs. Prints the table of `docs/performance.md`.
#[test]
fn wide_links_cost_little_more_than_their_round_trips() {
    let seeds = number("WIDE_SEEDS").unwrap_or(1);
    println!(
        "| nodes | round trip | heartbeat, election | put, least | put | killed, least | killed | silent, least | silent |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    for round_trip in [1, 10, 50, 150].map(Duration::from_millis) {
        for nodes in [3, 5, 7] {
            let wide = Wide { nodes, round_trip };
            let (timing, least, found) = (wide.timing(), wide.least(), wide.measure(seeds));
            let Figures { put, killed, silent } = found;
            // Disks take a little, and so do turns; and a dying listener lets a redial in for up to 5 ms,
            // which is then tried again every 5 ms.
            let spare = Duration::from_millis(15);
            assert!(put <= least.put + spare, "{wide:?}: a put takes {put:?}");
            assert!(killed <= least.killed + spare, "{wide:?}: a fail-over takes {killed:?}");
            // Patience is drawn, and votes may split once.
            let drawn = timing.election_max + timing.heartbeat;
            assert!(silent <= least.silent + drawn + spare, "{wide:?}: after silence it takes {silent:?}");
            println!(
                "| {nodes} | {} ms | {}, {}-{} ms | {} | {} | {} | {} | {} | {} |",
                round_trip.as_millis(),
                timing.heartbeat.as_millis(),
                timing.election_min.as_millis(),
                timing.election_max.as_millis(),
                ms(least.put),
                ms(put),
                ms(least.killed),
                ms(killed),
                ms(least.silent),
                ms(silent),
            );
        }
    }
}

/// A follower that is sent a large entry over a narrow link waits for it, though that takes longer than
/// the shortest election timeout.
#[test]
fn entries_that_take_longer_to_arrive_than_a_timeout_cause_no_election() {
    for seed in 1..=3 {
        let Outcome { terms: [before, after], puts } = narrow::run(seed);
        assert_eq!(before, after, "seed {seed}: elections among {puts} puts");
        assert!(puts > 60, "seed {seed}: only {puts} puts");
    }
}

/// Each planted bug is caught; `SIM_BUG=name` plants only one, `SIM_TABLE=1` looks for the seeds of all and
/// writes them into `docs/testing.md`.
#[cfg(any(debug_assertions, feature = "planted-bugs"))]
#[test]
fn planted_bugs_are_all_caught() {
    if number("SIM_TABLE").is_some() {
        return sim::planted_bugs::make_table();
    }
    let missed = sim::planted_bugs::missed();
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}
