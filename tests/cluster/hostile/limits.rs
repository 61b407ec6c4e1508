//! Very many connections, and few descriptors.

use std::io::Write;
use std::process::Command;
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::raw::{Raw, client_hello};
use super::{Target, processor_time};
use crate::setup::{CALM, eventually, founded, prepared_with};

/// Raises this process' limit on open files, as nodes do with theirs. What it is then.
fn raise_descriptor_limit() -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

#[test]
fn ten_thousand_idle_clients_are_served_and_take_little_memory() -> Result<()> {
    const IDLE: usize = 10_000;
    let descriptors = raise_descriptor_limit()?;
    if descriptors < IDLE as u64 + 2_000 {
        let why = format!("the limit on open files is {descriptors}");
        // Past the capture of test output.
        writeln!(std::io::stderr(), "SKIPPED ten_thousand_idle_clients: {why}")?;
        return Ok(());
    }
    let target = Target::new()?;
    target.withstands(|| {
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            let mut raw = Raw::connect(target.port())?;
            raw.send(&client_hello())?;
            idle.push(raw);
        }
        for raw in &mut idle {
            raw.next()?.context("closed instead of a welcome")?;
        }
        let growth = target.growth()? as usize;
        ensure!(growth < IDLE * (10 << 10), "{growth} bytes for {IDLE} idle clients");
        let (used, _) = target.bound("client_connections")?;
        ensure!(used as usize >= IDLE, "only {used} clients are counted");
        Ok(())
    })
}

/// A node that may open 64 files. More clients come than that.
#[test]
fn node_without_descriptors_survives_and_recovers_and_its_peers_still_connect() -> Result<()> {
    let mut cluster = prepared_with(3, &CALM)?;
    for node in 0..3 {
        let own = cluster.command(node);
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 64; exec \"$@\"", "sh"]).arg(own.get_program()).args(own.get_args());
        cluster.start_as(node, command)?;
    }
    ensure!(cluster.wait_until_whole()? == 0);
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let mut raw = Raw::connect(cluster.port(0))?;
        raw.send(&client_hello())?;
        crowd.push(raw);
    }
    // Some are refused, with a word, or pushed out; as many as may are welcomed.
    let kinds =
        crowd.iter_mut().map(|raw| Ok(raw.next()?.map(|frame| frame.kind))).collect::<Result<Vec<_>>>()?;
    let welcomed =
        kinds.iter().filter(|kind| **kind == Some(kvstore::wire::frame::FrameKind::Welcome)).count();
    ensure!((5..64).contains(&welcomed), "{welcomed} of 200 were welcomed");

    // A peer that comes back finds its way in, though clients hold all the places that they may.
    cluster.signal(2, rustix::process::Signal::KILL)?;
    cluster.wait_for_exit(2)?;
    cluster.start(2)?;
    eventually("the peer is a follower again", || {
        cluster.status(2).ok()?.leader.is_some_and(|leader| leader.0 == 1).then_some(())
    })?;
    let before = processor_time(&cluster, 0)?;
    thread::sleep(Duration::from_secs(1)); // the second over which it is measured
    let spent = processor_time(&cluster, 0)? - before;
    ensure!(spent < Duration::from_millis(500), "a full node spent {spent:?} of a second");

    drop(crowd);
    ensure!(cluster.wait_until_whole()? == 0, "leadership has moved");
    let mut client = cluster.client()?;
    client.put("after", "the crowd")?;
    Ok(())
}

/// Nobody who listens on the machine keeps a descriptor of a node that ended.
#[test]
fn node_leaves_no_process_and_no_lock_behind() -> Result<()> {
    let mut cluster = founded(1)?;
    let pid = cluster.pid(0)?.as_raw_nonzero();
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?.count();
    ensure!(threads <= 3, "a node has {threads} threads: the loop, the log's writer");
    cluster.signal(0, rustix::process::Signal::TERM)?;
    ensure!(cluster.wait_for_exit(0)?.success());
    cluster.start(0)
}
