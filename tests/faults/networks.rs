//! Cables that are cut, one way or both, in many shapes; that are torn all the time; that are slow.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::RngExt;

use crate::proxy::Weather;
use crate::setup::{CALM, eventually};
use crate::stage::{Scene, Stage};

/// Which node's bytes no longer reach which.
type Pairs = Vec<(usize, usize)>;

fn both_ways(pairs: impl IntoIterator<Item = (usize, usize)>) -> Pairs {
    pairs.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

/// Each shape with its name, for five nodes of which one leads.
fn shapes(stage: &mut Stage) -> Result<Vec<(&'static str, Pairs)>> {
    let leader = stage.leader()?;
    let others: Vec<usize> = (0..stage.nodes()).filter(|node| *node != leader).collect();
    let order = stage.shuffled();
    let (left, right) = (&order[..2], &order[3..]);
    let across = || left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b)));
    let far_apart = (0..5).map(|at| (order[at], order[(at + 2) % 5]));
    let minority = || left.iter().flat_map(|a| order[2..].iter().map(move |b| (*a, *b)));
    // Followers say little to each other; of the leader there is always something to lose.
    let mut random = vec![(leader, others[stage.rng.random_range(0..4)])];
    random.extend((0..4).map(|_| (stage.rng.random_range(0..5), stage.rng.random_range(0..5))));
    Ok(vec![
        ("the leader alone", both_ways(others.iter().map(|other| (leader, *other)))),
        ("the leader unheard", others.iter().map(|other| (leader, *other)).collect()),
        ("the leader deaf", others.iter().map(|other| (*other, leader)).collect()),
        ("a minority apart", both_ways(minority())),
        ("a bridge", both_ways(across())),
        ("a ring", both_ways(far_apart)),
        ("some ways, at random", random.into_iter().filter(|(from, to)| from != to).collect()),
    ])
}

/// Every shape once at least; then again while there is time.
fn go_through_shapes(stage: &mut Stage, weather: Weather) -> Result<()> {
    let count = shapes(stage)?.len();
    for turn in 0.. {
        if turn >= count && !stage.goes_on() {
            return Ok(());
        }
        // Who has just ceased to lead has nothing to say: then a shape that was drawn around it disturbs nobody.
        eventually("a shape that disturbs something", || {
            play_shape(stage, turn % count, weather).transpose()
        })??;
        stage.prove();
        stage.load.wait_for(20)?;
    }
    Ok(())
}

/// Something, if anything was disturbed.
fn play_shape(stage: &mut Stage, number: usize, weather: Weather) -> Result<Option<()>> {
    let (name, pairs) = shapes(stage)?.swap_remove(number);
    let before = stage.mesh().disturbed();
    stage.note(&format!("{name}: {weather:?} for {pairs:?}"));
    pairs.iter().for_each(|(from, to)| stage.mesh().set(*from, *to, weather));
    stage.pause(200..700);
    stage.mend();
    stage.note("mended");
    Ok((stage.mesh().disturbed() > before).then_some(()))
}

#[test]
fn cables_cut_in_every_shape_without_a_word_lose_nothing_and_show_nothing_stale() -> Result<()> {
    let scene = Scene { nodes: 5, cables: true, ..Scene::new("cut-in-silence") };
    scene.play(|stage| go_through_shapes(stage, Weather::cut()))
}

#[test]
fn cables_cut_in_every_shape_with_resets_lose_nothing_and_show_nothing_stale() -> Result<()> {
    let scene = Scene { nodes: 5, cables: true, ..Scene::new("cut-with-resets") };
    scene.play(|stage| go_through_shapes(stage, Weather { resets: true, ..Weather::default() }))
}

/// A reset is no death: where timeouts are long, nobody doubts the leader.
#[test]
fn links_reset_all_the_time_cause_no_election() -> Result<()> {
    Scene { cables: true, options: &CALM, ..Scene::new("reset-storm") }.play(|stage| {
        let began = Instant::now();
        while stage.goes_on() {
            let nodes = stage.shuffled();
            let before = stage.mesh().disturbed();
            let torn = Weather { resets: true, ..Weather::default() };
            for weather in [torn, Weather::default()] {
                stage.mesh().set(nodes[0], nodes[1], weather);
            }
            if stage.mesh().disturbed() > before {
                stage.prove();
            }
            stage.pause(20..60);
        }
        stage.load.wait_for(20)?;
        check_no_election(stage, began)
    })
}

/// At the timings that users have: a link of the leader is reset every 50 ms, and redialled each time
/// before a follower's patience ends. Where the machine or a disk stands still for so long, that is told.
#[test]
fn link_of_the_leader_reset_every_50_ms_causes_no_election() -> Result<()> {
    Scene { cables: true, ..Scene::new("reset-leader") }.play(|stage| {
        let began = Instant::now();
        let leader = stage.leader()?;
        let follower = (leader + 1) % stage.nodes();
        while stage.goes_on() {
            let before = stage.mesh().disturbed();
            for resets in [true, false] {
                stage.mesh().set(leader, follower, Weather { resets, ..Weather::default() });
            }
            if stage.mesh().disturbed() > before {
                stage.prove();
            }
            stage.pause(50..51);
        }
        stage.load.wait_for(20)?;
        check_no_unexcused_election(stage, began)
    })
}

/// Half of the shortest patience that followers have at the timings of users.
const EXCUSE: Duration = Duration::from_millis(75);
/// How far before an election its excuse may lie: a node tells of slow turns once a second.
const EXCUSE_WINDOW: Duration = Duration::from_secs(1);

/// Of each election that began: either the machine stood still just before it, or a node said that its disk did.
fn check_no_unexcused_election(stage: &mut Stage, since: Instant) -> Result<()> {
    for line in stage.cluster.lines_since(since, |line| line.contains("election started")) {
        let window = (line.at - EXCUSE_WINDOW, line.at);
        let stall = stage.longest_stall(window.0, window.1);
        let slow =
            stage.cluster.lines_since(window.0, |line| line.contains("the disk or the machine is slow"));
        let slow = slow.into_iter().find(|slow| slow.at <= window.1);
        ensure!(stall > EXCUSE || slow.is_some(), "{line:?}");
        println!("{stall:?} of stall before {}; {slow:?}", line.text);
    }
    Ok(())
}

/// 25 to 75 ms each way, and one piece in ten waits for 200 ms besides, as TCP does after a loss.
#[test]
fn links_with_delays_and_stalls_cause_no_election() -> Result<()> {
    let slow = Weather {
        delay: Duration::from_millis(25),
        jitter: Duration::from_millis(50),
        stall_chance: 0.1,
        stall: Duration::from_millis(200),
        ..Weather::default()
    };
    // Each of them gets few answers.
    let scene = Scene { clients: 24, cables: true, options: &CALM, ..Scene::new("slow-links") };
    scene.play(|stage| {
        let began = Instant::now();
        let before = stage.mesh().disturbed();
        stage.note(&format!("{slow:?} everywhere"));
        (0..stage.nodes()).for_each(|node| stage.mesh().set_around(node, slow));
        while stage.goes_on() {
            stage.load.wait_for(20)?;
        }
        ensure!(stage.mesh().disturbed() > before + 100, "hardly anything was slow");
        stage.prove();
        check_no_election(stage, began)
    })
}

fn check_no_election(stage: &mut Stage, since: Instant) -> Result<()> {
    let elections = stage.cluster.lines_since(since, |line| line.contains("election started"));
    ensure!(elections.is_empty(), "{elections:?}");
    let terms = (0..stage.nodes()).map(|node| stage.term(node)).collect::<Result<Vec<_>>>()?;
    ensure!(terms.iter().all(|term| *term == 1), "terms {terms:?}");
    Ok(())
}
