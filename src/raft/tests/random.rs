//! The core under a hostile network and hostile disks, by seed.
//!
//! Messages are lost, doubled, late and out of order; links break and come back; nodes are cut off
//! from each other, one way or both; processes die between any two calls, in the middle of a write
//! too, and start again from what their disk kept; disks are slow, and a node that writes does
//! nothing else. Evidence of a death is given late or never, but is always true. Then all faults
//! end but for those that last for ever, and the cluster must agree, answer, and come to rest.
//!
//! A failure prints its seed. `RAFT_SEED=7 cargo test --lib raft::tests::random -- --nocapture`
//! plays seed 7 alone and prints what happened.

use rand::RngExt;
use rand::rngs::StdRng;

use super::simulation::Simulation;
use crate::raft::Event;
use crate::time::Duration;
use crate::types::{LogIndex, NodeId, Term};

/// Names the seed of a run that fails.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!(
                "seed {seed} failed; RAFT_SEED={seed} cargo test --lib raft::tests::random -- --nocapture"
            );
        }
    }
}

/// Plays one seed. Gives how much was achieved, so that a test can tell that it tested something.
fn play(seed: u64, lasting: impl Fn(&mut StdRng, u64) -> Vec<(NodeId, NodeId)>) -> (LogIndex, u64, u64) {
    let _replay = Replay(seed);
    let mut simulation = Simulation::new(seed);
    let end = simulation.cluster.now + Duration::from_secs(4);
    simulation.run_until(end, true);
    let nodes = simulation.weather.nodes;
    let cuts = lasting(&mut simulation.rng, nodes);
    simulation.calm_down(&cuts);
    simulation.expect_rest(&cuts);
    let checks = &simulation.cluster.checks;
    (checks.committed_index(), checks.reads_answered, checks.elections)
}

fn seeds(range: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("RAFT_SEED") {
        Ok(seed) => vec![seed.parse().expect("RAFT_SEED is a number")],
        Err(_) => range.collect(),
    }
}

#[test]
fn core_under_random_faults_keeps_every_promise_and_recovers() {
    let (mut committed, mut reads, mut elections) = (0, 0, 0);
    let seeds = seeds(0..150);
    for seed in &seeds {
        let done = play(*seed, |_, _| Vec::new());
        committed += done.0.0;
        reads += done.1;
        elections += done.2;
    }
    let runs = seeds.len() as u64;
    println!("{runs} runs: {committed} entries, {reads} reads, {elections} elections");
    assert!(committed > 20 * runs && reads > 20 * runs && elections > runs, "the runs do next to nothing");
}

/// Links that are broken for ever, one way or both, as long as some node still reaches a majority
/// both ways: a leader, and no term that rises (Cloudflare's outage of November 2020).
#[test]
fn core_with_a_link_broken_for_ever_has_a_lasting_leader() {
    for seed in seeds(1000..1080) {
        play(seed, |rng, nodes| {
            if nodes < 3 {
                return Vec::new();
            }
            let a = NodeId(rng.random_range(1..=nodes));
            let b = NodeId(a.0 % nodes + 1);
            match rng.random_range(0..2) {
                0 => vec![(a, b)],
                _ => vec![(a, b), (b, a)],
            }
        });
    }
}

/// Disks slower than a candidate's patience delay an election; they must not prevent it.
#[test]
fn election_with_disks_slower_than_patience_is_won_in_few_terms() {
    for seed in seeds(2000..2030) {
        let _replay = Replay(seed);
        let mut simulation = Simulation::new(seed);
        simulation.weather.lost = 0;
        simulation.weather.doubled = 0;
        simulation.weather.latency_max_ms = 0;
        simulation.weather.disk_max_ms = 110;
        simulation.weather.disk_min_ms = 80;
        let end = simulation.cluster.now + Duration::from_secs(5);
        simulation.run_until(end, false);
        let elected = simulation.cluster.events.iter().find_map(|(_, event)| match event {
            Event::Elected { term, .. } => Some(*term),
            _ => None,
        });
        assert!(elected.is_some_and(|term| term < Term(12)), "elected in {elected:?}");
    }
}

/// A leader dies on a calm network, and its peers see the proof (their redial is refused) within
/// some milliseconds. Of five nodes two may begin, if the first one's vote takes its disk longer than
/// the second one's turn is away; the first wins all the same.
#[test]
fn failover_with_evidence_takes_a_moment_and_rarely_a_third_election() {
    failovers(3000..3100, true, 60, 250, 2);
}

/// The same, but nobody learns of it except by silence. Two survivors of four may collide, since
/// their timeouts are drawn from 100 ms and an election takes some of them; hardly ever twice.
#[test]
fn failover_by_timeout_takes_a_timeout_and_rarely_a_third_election() {
    failovers(4000..4100, false, 260, 450, 2);
}

/// Nine of ten fail-overs take at most `usual_ms`, all at most `worst_ms`, and nine of ten need at
/// most so many elections.
fn failovers(
    range: std::ops::Range<u64>,
    with_evidence: bool,
    usual_ms: u64,
    worst_ms: u64,
    elections: usize,
) {
    let runs: Vec<_> = seeds(range).into_iter().map(|seed| failover(seed, with_evidence)).collect();
    let mut times: Vec<Duration> = runs.iter().map(|(took, _)| *took).collect();
    times.sort_unstable();
    let (usual, worst) = (times[times.len() * 9 / 10], times[times.len() - 1]);
    let repeated = runs.iter().filter(|(_, count)| *count > elections).count();
    println!("median {:?}, 90 % {usual:?}, worst {worst:?}, repeated {repeated}", times[times.len() / 2]);
    assert!(usual <= Duration::from_millis(usual_ms), "90 % took up to {usual:?}");
    assert!(worst <= Duration::from_millis(worst_ms), "one took {worst:?}");
    assert!(repeated * 10 <= runs.len(), "{repeated} needed more than {elections} elections");
}

/// Kills a leader; how long until the next one committed its first entry, and by how many elections.
fn failover(seed: u64, with_evidence: bool) -> (Duration, usize) {
    let _replay = Replay(seed);
    let mut simulation = Simulation::calm(seed, 3 + 2 * (seed % 2));
    let rest = simulation.cluster.now + Duration::from_secs(1);
    simulation.run_until(rest, false);
    let leader = simulation.cluster.leader().expect("a calm cluster has a leader");
    simulation.cluster.events.clear();
    let died = simulation.cluster.now;
    simulation.kill(leader, with_evidence);
    simulation.run_until(died + Duration::from_secs(1), false);
    let events = &simulation.cluster.events;
    let committed = events.iter().find_map(|(_, event)| match event {
        Event::Elected { committed, .. } => Some(*committed),
        _ => None,
    });
    let started = |(_, event): &&(NodeId, Event)| matches!(event, Event::ElectionStarted { .. });
    let elections = events.iter().filter(started).count();
    (committed.expect("a new leader").since(died), elections)
}
