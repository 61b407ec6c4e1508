//! The eight requirements of the quest, once by each signal.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::setup::{answered_by, founded, kv, stop};

#[test]
fn quest_with_a_leader_that_is_killed_holds() -> Result<()> {
    play(Signal::KILL)
}

#[test]
fn quest_with_a_leader_that_is_told_to_end_holds() -> Result<()> {
    play(Signal::TERM)
}

fn play(signal: Signal) -> Result<()> {
    let mut cluster = founded(3)?;
    put(&cluster, 0, &["key1 value1", "key2 value2", "key3 value3"])?;
    let struck = Instant::now();
    let leader = fail_over(&mut cluster, 0, signal)?;
    put(&cluster, leader, &["key4 value4", "key5 value5"])?;
    let follower = 3 - leader;
    check_all(&cluster, follower)?;
    write_twice(&cluster, follower)?;
    return_of_the_old_leader(&mut cluster, leader, struck)?;
    stop_and_continue(&mut cluster, leader)
}

fn put(cluster: &Cluster, node: usize, pairs: &[&str]) -> Result<()> {
    for pair in pairs {
        let ended = kv(cluster, node, &format!("put {pair}"))?;
        ensure!((ended.status, ended.text()) == (0, "OK\n"), "put {pair}: {ended:?}");
    }
    Ok(())
}

/// Strikes the leader. A follower becomes a candidate and wins, and its log says so.
fn fail_over(cluster: &mut Cluster, leader: usize, signal: Signal) -> Result<usize> {
    let struck = Instant::now();
    cluster.signal(leader, signal)?;
    let elected = cluster.wait_for(struck, |line| line.text.contains("elected leader"))?;
    let next = elected.node;
    ensure!(next != leader, "the leader that was struck was elected");
    cluster.wait_for_line(next, struck, |line| line.contains("election started"))?;
    for word in [format!("id={} ", next + 1), format!("port={} ", cluster.port(next)), "term=".into()] {
        ensure!(elected.text.contains(&word), "{word} is not in {}", elected.text);
    }
    let heard = |line: &str| line.contains(&format!("new leader id={}", next + 1));
    cluster.wait_for_line(3 - leader - next, struck, heard)?;
    let status = cluster.wait_for_exit(leader)?;
    ensure!(signal == Signal::KILL || status.success(), "the leader left with {status}");
    Ok(next)
}

/// A node has all five keys and answers for them itself.
fn check_all(cluster: &Cluster, node: usize) -> Result<()> {
    for number in 1..=5 {
        let key = format!("key{number}");
        let object = answered_by(cluster, node, &format!("--json get {key}"))?;
        ensure!(object["value"] == format!("value{number}"), "{key}: {object}");
    }
    Ok(())
}

/// The second copy comes after another client's write, which it must not undo.
fn write_twice(cluster: &Cluster, node: usize) -> Result<()> {
    let line = "--client-id shop --seq 7 put once first";
    let first = kv(cluster, node, line)?;
    put(cluster, node, &["once second"])?;
    let again = kv(cluster, node, line)?;
    ensure!((first.text(), again.text()) == ("OK\n", "OK (cached)\n"), "{first:?}, then {again:?}");
    let value = kv(cluster, node, "get once")?;
    ensure!(value.text() == "second\n", "the duplicate was applied again: {value:?}");
    Ok(())
}

/// One that was killed learns at its return that it leads no more; one that was told to end has seen
/// its successor before it left.
fn return_of_the_old_leader(cluster: &mut Cluster, leader: usize, struck: Instant) -> Result<()> {
    cluster.start(0)?;
    let line = cluster.wait_for_line(0, struck, |line| line.contains("stepping down"))?;
    ensure!(line.text.contains("term=1 new_term=2"), "both terms are to be named: {}", line.text);
    ensure!(cluster.wait_until_whole()? == leader, "the return of the old leader moved leadership");
    check_all(cluster, 0)
}

fn stop_and_continue(cluster: &mut Cluster, leader: usize) -> Result<()> {
    let struck = Instant::now();
    stop(cluster, leader)?;
    let elected = cluster.wait_for(struck, |line| line.text.contains("elected leader"))?;
    ensure!(elected.node != leader, "a stopped node was elected");
    put(cluster, elected.node, &["key6 value6"])?;
    let continued = Instant::now();
    cluster.signal(leader, Signal::CONT)?;
    cluster.wait_for_line(leader, continued, |line| line.contains("stepping down"))?;
    let now = cluster.wait_until_whole().context("after SIGCONT")?;
    ensure!(now != leader, "the stopped leader leads again");
    check_all(cluster, leader)
}
