//! Directories that are put back from an old copy: they look like what they are a copy of, and only
//! the other nodes know better.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::setup::{client_of, founded, kv};

/// That of [`CALM`](crate::setup::CALM).
const HEARTBEAT: Duration = Duration::from_millis(200);

fn kill(cluster: &mut Cluster, node: usize) -> Result<()> {
    cluster.signal(node, Signal::KILL)?;
    cluster.wait_for_exit(node)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

/// The node's directory as it is now, and in its place the copy.
fn exchange(cluster: &Cluster, node: usize, copy: &Path) -> Result<()> {
    let kept = cluster.directory().join("kept");
    fs::rename(cluster.data(node), &kept)?;
    fs::rename(copy, cluster.data(node))?;
    fs::rename(kept, copy)?;
    Ok(())
}

/// Copies the directory of `node` while it is down, goes on with a single write, puts the copy back.
fn put_back(cluster: &mut Cluster, node: usize) -> Result<()> {
    let old = cluster.directory().join("old");
    kill(cluster, node)?;
    copy(&cluster.data(node), &old)?;
    cluster.start(node)?;
    cluster.wait_until_whole()?;
    ensure!(kv(cluster, node, "put key new")?.status == 0);
    cluster.wait_until_whole()?;
    kill(cluster, node)?;
    wait_until_told(cluster, node)?;
    exchange(cluster, node, &old)
}

/// Each of the others knows how far the node had come: the leader by its acknowledgements, and whoever the
/// leader tells, once a heartbeat and in the order of its other messages. A copy that comes before is believed
/// until then, and the directory that it is a copy of is refused afterwards, for the boot that the copy named.
fn wait_until_told(cluster: &Cluster, gone: usize) -> Result<()> {
    let until = Instant::now() + 2 * HEARTBEAT;
    let mut is_over = false;
    while !is_over {
        is_over = Instant::now() >= until; // one more write, and everybody has what was sent before it
        ensure!(kv(cluster, (gone + 1) % 3, "put while it-is-gone")?.status == 0);
        cluster.wait_until_whole()?;
    }
    Ok(())
}

#[test]
fn old_copy_of_any_node_is_refused_on_both_sides_and_gives_no_majority() -> Result<()> {
    for node in [0, 2] {
        let mut cluster = founded(3)?;
        ensure!(kv(&cluster, 0, "put key old")?.status == 0);
        put_back(&mut cluster, node)?;
        let since = Instant::now();
        cluster.start(node)?;
        let it = format!("node {} comes with", node + 1);
        for other in (0..3).filter(|other| *other != node) {
            cluster.wait_for_line(other, since, |line| line.contains("refused") && line.contains(&it))?;
        }
        cluster
            .wait_for_line(node, since, |line| line.contains("refuses this node") && line.contains(&it))?;

        // With the copy one of the others would be a majority.
        kill(&mut cluster, 1)?;
        let left = 2 - node;
        let refused = client_of(&cluster, &[left], Duration::from_millis(1500))?.put(b"key", b"lost");
        ensure!(refused.is_err(), "an old copy made a majority: {refused:?}");
        ensure!(cluster.lines_since(since, |line| line.contains("elected leader")).len() <= 1);

        kill(&mut cluster, node)?;
        exchange(&cluster, node, &cluster.directory().join("old"))?;
        cluster.start(node)?;
        cluster.start(1)?;
        cluster.wait_until_whole()?;
        ensure!(kv(&cluster, 1, "put key newer")?.status == 0);
        ensure!(kv(&cluster, left, "get key")?.text() == "newer\n");
    }
    Ok(())
}

#[test]
fn nodes_killed_under_load_in_any_order_come_back_and_are_never_taken_for_copies() -> Result<()> {
    let mut cluster = founded(3)?;
    let since = Instant::now();
    for round in 0..6 {
        let node = [2, 1, 2, 1, 1, 2][round];
        for number in 0..20 {
            ensure!(kv(&cluster, 0, &format!("put key{number} {round}"))?.status == 0);
        }
        kill(&mut cluster, node)?;
        ensure!(kv(&cluster, 0, "put key while-away")?.status == 0);
        cluster.start(node)?;
    }
    cluster.wait_until_whole()?;
    (0..3).try_for_each(|node| kill(&mut cluster, node))?;
    (0..3).try_for_each(|node| cluster.start(node))?;
    cluster.wait_until_whole()?;
    let is_refusal = |line: &str| line.contains("refused a connection") || line.contains("refuses this node");
    let refused = cluster.lines_since(since, is_refusal);
    ensure!(refused.is_empty(), "{refused:?}");
    Ok(())
}
