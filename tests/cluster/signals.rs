//! Processes that are told to end, are stopped and go on, or are killed, while clients write.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::cluster::{Cluster, PATIENCE};
use crate::setup::{PATIENT, client_of, eventually, founded, founded_with, kv, running, stop};
use crate::writers::{Writers, check_nothing_is_lost};

#[test]
fn rolling_restart_under_load_loses_no_write_and_shows_clients_no_error() -> Result<()> {
    let (mut cluster, _) = running(3)?;
    let writers = Writers::start(&cluster, 3, 3, "rolling", PATIENCE);
    for signal in [Signal::TERM, Signal::KILL] {
        for node in 0..3 {
            writers.wait_for(10)?;
            cluster.signal(node, signal)?;
            let status = cluster.wait_for_exit(node)?;
            ensure!(signal == Signal::KILL || status.success(), "node {} left with {status}", node + 1);
            writers.wait_for(10)?;
            cluster.start(node)?;
            wait_until_caught_up(&cluster, node)?;
        }
    }
    let written = writers.stop();
    ensure!(written.errors.is_empty(), "{:?}", written.errors);
    (0..3).try_for_each(|node| check_nothing_is_lost(&cluster, node, &written))
}

/// The node has applied all that was acknowledged when it was asked.
fn wait_until_caught_up(cluster: &Cluster, node: usize) -> Result<()> {
    let mark = cluster.client()?.put("mark", "")?.revision;
    eventually("a node that has caught up", || {
        let view = cluster.status(node).ok()?;
        (view.leader.is_some() && view.applied.0 >= mark.0).then_some(())
    })
}

#[test]
fn leader_told_to_end_under_load_hands_over_and_shows_clients_no_error() -> Result<()> {
    // A leader waits for a heartbeat that its successor catches up: a second, however slow the disks.
    let mut cluster = founded_with(3, &PATIENT)?;
    let writers = Writers::start(&cluster, 3, 4, "leaving", PATIENCE);
    writers.wait_for(20)?;
    let told = Instant::now();
    cluster.signal(0, Signal::TERM)?;
    cluster.wait_for_line(0, told, |line| line.contains("handing over"))?;
    let elected = cluster.wait_for(told, |line| line.text.contains("elected leader"))?;
    ensure!(elected.text.contains("cause=\"hand-over\""), "{}", elected.text);
    ensure!(cluster.wait_for_exit(0)?.success(), "the leader did not exit 0");
    writers.wait_for(20)?;
    let written = writers.stop();
    ensure!(written.errors.is_empty(), "{:?}", written.errors);
    [1, 2].into_iter().try_for_each(|node| check_nothing_is_lost(&cluster, node, &written))
}

#[test]
fn stopped_leader_is_replaced_and_follows_when_it_goes_on() -> Result<()> {
    let mut cluster = founded_with(3, &BRISK)?;
    let writers = Writers::start(&cluster, 3, 2, "stopped", PATIENCE);
    writers.wait_for(20)?;
    let stopped = Instant::now();
    stop(&cluster, 0)?;
    cluster.wait_for(stopped, |line| line.node != 0 && line.text.contains("elected leader"))?;
    writers.wait_for(20)?;
    let continued = Instant::now();
    cluster.signal(0, Signal::CONT)?;
    cluster.wait_for_line(0, continued, |line| line.contains("stepping down"))?;
    writers.wait_for(20)?;
    let written = writers.stop();
    ensure!(written.errors.is_empty(), "{:?}", written.errors);
    cluster.wait_until_whole()?;
    (0..3).try_for_each(|node| check_nothing_is_lost(&cluster, node, &written))
}

/// A node that is stopped is missed soon, and one that a slow machine keeps waiting is not.
const BRISK: [&str; 4] = ["--heartbeat-ms", "100", "--election-ms", "1500-2000"];

/// Four seconds are far longer than the election timeout: what the follower has missed waits in its
/// sockets, and it must read that before it doubts its leader.
#[test]
fn follower_stopped_for_longer_than_a_timeout_causes_no_election() -> Result<()> {
    let cluster = founded_with(3, &BRISK)?;
    let before = cluster.status(0)?;
    let writers = Writers::start(&cluster, 3, 1, "follower", PATIENCE);
    for follower in [1, 2] {
        stop(&cluster, follower)?;
        std::thread::sleep(Duration::from_secs(4)); // how long it is stopped is the point
        cluster.signal(follower, Signal::CONT)?;
        writers.wait_for(10)?;
    }
    let written = writers.stop();
    ensure!(written.errors.is_empty(), "{:?}", written.errors);
    cluster.wait_until_whole()?;
    let after = cluster.status(0)?;
    ensure!((after.term, after.leader) == (before.term, before.leader), "{after:?}, before {before:?}");
    Ok(())
}

#[test]
fn second_signal_ends_a_leader_that_waits_for_its_hand_over() -> Result<()> {
    let mut cluster = founded_with(3, &PATIENT)?;
    // With nobody to hand over to, it would wait for a maximum election timeout.
    stop(&cluster, 1)?;
    stop(&cluster, 2)?;
    let told = Instant::now();
    cluster.signal(0, Signal::TERM)?;
    cluster.wait_for_line(0, told, |line| line.contains("told to end"))?;
    cluster.signal(0, Signal::INT)?;
    let status = cluster.wait_for_exit(0)?;
    ensure!(status.code() == Some(1), "it left with {status}");
    Ok(())
}

#[test]
fn cluster_of_one_serves_and_keeps_what_it_acknowledged() -> Result<()> {
    let mut cluster = founded(1)?;
    for signal in [Signal::KILL, Signal::TERM] {
        let key = format!("key{}", signal.as_raw());
        ensure!(kv(&cluster, 0, &format!("put {key} kept"))?.status == 0);
        cluster.signal(0, signal)?;
        let status = cluster.wait_for_exit(0)?;
        ensure!(signal == Signal::KILL || status.success(), "it left with {status}");
        cluster.start(0)?;
        ensure!(kv(&cluster, 0, &format!("get {key}"))?.text() == "kept\n");
    }
    Ok(())
}

#[test]
fn five_nodes_go_on_without_two_and_stand_still_without_three() -> Result<()> {
    let mut cluster = founded(5)?;
    let writers = Writers::start(&cluster, 5, 2, "five", PATIENCE);
    writers.wait_for(20)?;
    for node in [0, 3] {
        cluster.signal(node, Signal::KILL)?;
        cluster.wait_for_exit(node)?;
        writers.wait_for(20)?;
    }
    let written = writers.stop();
    ensure!(written.errors.is_empty(), "{:?}", written.errors);
    cluster.wait_until_whole()?;
    cluster.signal(1, Signal::KILL)?;
    cluster.wait_for_exit(1)?;
    stands_still(&cluster)?;
    for node in [0, 1, 3] {
        cluster.start(node)?;
    }
    cluster.wait_until_whole()?;
    (0..5).try_for_each(|node| check_nothing_is_lost(&cluster, node, &written))
}

/// Two of five: no linearizable read and no write, but a stale read and a status.
fn stands_still(cluster: &Cluster) -> Result<()> {
    let mut client = client_of(cluster, &[2, 4], Duration::from_millis(500))?;
    ensure!(client.put("minority", "").is_err(), "a minority took a write");
    ensure!(client.get("five-0-000000").is_err(), "a minority answered a read");
    client.set_timeout(PATIENCE);
    ensure!(client.get_stale("five-0-000000")?.value.as_deref() == Some(&b"value 0"[..]));
    eventually("no leader in status", || {
        let ended = kv(cluster, 2, "status").ok()?;
        (ended.status == 1 && ended.stderr.contains("no leader")).then_some(())
    })
}
