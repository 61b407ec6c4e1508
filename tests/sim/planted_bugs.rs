//! Every planted bug is caught: by a seed that `docs/testing.md` names, or by a test.
//!
//! What a seed draws depends on the code, down to how many times a disk is asked. So a seed may miss
//! its bug after some change of another thing; then the next ones are tried, and the table should be
//! made anew.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use kvstore::planted::{self, Bug};

use super::pipe_plan::Mode;
use super::{runner, settings};

/// Seeds that are tried where the one of the table misses.
const MORE_SEEDS: u64 = 100;
/// Seeds that are tried at most when the table is made.
const SEEDS: u64 = 200;
/// What stands in the table for a bug that only a test can catch.
const BY_A_TEST: &str = "a test";
/// Two runs at a time.
const WORKERS: usize = 2;

/// Where the table is.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/testing.md");
const HEAD: &str = "| bug | caught by | seed | seeds tried from 1 on, seconds |\n|---|---|---|---|\n";

/// How a bug was caught.
struct Catch {
    bug: Bug,
    rule: String,
    seed: u64,
    took: Duration,
}

impl Catch {
    /// The seed, with its mode if that is not messages.
    fn place(&self) -> String {
        match mode_of(self.bug) {
            Mode::Messages => self.seed.to_string(),
            Mode::Bytes => format!("bytes {}", self.seed),
        }
    }
}

/// The mode in which a bug can be seen.
fn mode_of(bug: Bug) -> Mode {
    if planted::OF_STREAMS.contains(&bug) { Mode::Bytes } else { Mode::Messages }
}

/// Runs the bugs of the table, and gives those that are not caught.
pub(crate) fn missed() -> Vec<String> {
    let table = read_table();
    let chosen = planted::ALL.into_iter().filter(|bug| settings::bug().is_none_or(|asked| asked == *bug));
    let missed = Mutex::new(Vec::new());
    let try_one = |bug: Bug| match table.iter().find(|(name, _)| *name == format!("{bug:?}")) {
        None => missed.lock().unwrap().push(format!("{bug:?}: no line in {DOCUMENT}")),
        Some((_, None)) => {}
        Some((name, Some(seed))) => {
            if let Some(rule) = caught_by(bug, *seed) {
                println!("{name}: {rule} (seed {seed})");
            } else if let Some(Catch { rule, seed: other, .. }) = search(bug, MORE_SEEDS) {
                println!("{name}: {rule} (seed {other}; {seed} misses it now: make the table anew)");
            } else {
                missed.lock().unwrap().push(format!("{bug:?}: not by {seed} nor by 1 to {MORE_SEEDS}"));
            }
        }
    };
    at_the_same_time(chosen.collect(), try_one);
    missed.into_inner().unwrap()
}

/// Looks for the first seed that catches each bug, and writes the table anew.
pub(crate) fn make_table() {
    let table = read_table();
    let is_of_test = |bug: &Bug| {
        let line = table.iter().find(|(name, _)| *name == format!("{bug:?}"));
        line.is_some_and(|(_, seed)| seed.is_none())
    };
    let by_seed = planted::ALL.into_iter().filter(|bug| !is_of_test(bug));
    let caught = Mutex::new(Vec::new());
    at_the_same_time(by_seed.collect(), |bug| match search(bug, SEEDS) {
        Some(found) => caught.lock().unwrap().push(found),
        None => println!("{bug:?} is not caught by seeds 1 to {SEEDS}"),
    });
    let caught = caught.into_inner().unwrap();
    let text = std::fs::read_to_string(DOCUMENT).expect("the document is there");
    let (before, rest) = text.split_once(HEAD).expect("the table has its head");
    let (lines, after) = rest.split_once("\n\n").expect("an empty line ends the table");
    let old = |bug: Bug| lines.lines().find(|line| line.starts_with(&format!("| {bug:?} |")));
    let line = |bug: Bug| match caught.iter().find(|caught| caught.bug == bug) {
        Some(found) => {
            let Catch { rule, seed, took, .. } = found;
            let rule = without_line(rule);
            format!("| {bug:?} | {rule} | {} | {seed}, {:.1} |", found.place(), took.as_secs_f64())
        }
        None => old(bug).map_or_else(|| format!("| {bug:?} | nothing | 0 | |"), str::to_owned),
    };
    let lines: Vec<String> = planted::ALL.into_iter().map(line).collect();
    let table = lines.join("\n");
    println!("{HEAD}{table}");
    std::fs::write(DOCUMENT, format!("{before}{HEAD}{table}\n\n{after}")).expect("the document is ours");
}

/// A rule without the line of the assertion that it names: lines move with every change of a file.
fn without_line(rule: &str) -> &str {
    rule.trim_end_matches(|c: char| c.is_ascii_digit() || c == ':')
}

/// The bugs of the table, with the seed of each that a seed catches.
fn read_table() -> Vec<(String, Option<u64>)> {
    let text = std::fs::read_to_string(DOCUMENT).expect("the document is there");
    let (_, rest) = text.split_once(HEAD).expect("the table has its head");
    let lines = rest.lines().take_while(|line| line.starts_with('|'));
    let cells = lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let entry = |cells: Vec<&str>| (cells[0].to_owned(), seed_of(cells[2]));
    cells.map(entry).collect()
}

fn seed_of(cell: &str) -> Option<u64> {
    match cell {
        BY_A_TEST => None,
        seed => Some(
            seed.trim_start_matches("bytes ")
                .parse()
                .unwrap_or_else(|_| panic!("{seed:?} in the table is no seed")),
        ),
    }
}

fn caught_by(bug: Bug, seed: u64) -> Option<String> {
    planted::plant(Some(bug));
    let result = runner::run(mode_of(bug), seed, false);
    planted::plant(None);
    result.err().map(|failure| failure.rule)
}

fn search(bug: Bug, seeds: u64) -> Option<Catch> {
    let began = Instant::now();
    (1..=seeds).find_map(|seed| {
        let rule = caught_by(bug, seed)?;
        // A seed that finds something else proves nothing.
        runner::run(mode_of(bug), seed, false).ok()?;
        Some(Catch { bug, rule, seed, took: began.elapsed() })
    })
}

/// Does something with each bug, in a few threads: one thread has one bug at a time.
fn at_the_same_time(bugs: Vec<Bug>, act: impl Fn(Bug) + Sync) {
    let bugs = Mutex::new(bugs.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let next = bugs.lock().unwrap().next();
                    match next {
                        Some(bug) => act(bug),
                        None => break,
                    }
                }
            });
        }
    });
}
