//! `kvstore restore`: a new cluster of a backup, on real nodes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::backups::{backup, fill};
use crate::cluster::{Cluster, LogLine, PATIENCE};
use crate::inspect::inspect;
use crate::setup::{Ended, client_of, eventually, founded, kv, kv_client, prepared, program, run, stop};
use crate::writers::{Writers, Written, check_nothing_is_lost};

/// `kvstore restore` with the command line of a node.
fn restore(cluster: &Cluster, node: usize, file: &Path) -> Result<Ended> {
    let start = cluster.command(node);
    let mut command = Command::new(program());
    command.arg("restore").arg(file).args(start.get_args());
    run(command, b"")
}

/// A backup of a cluster with data, taken by way of a follower under writes; the cluster is gone
/// afterwards. With it: what had been acknowledged when the backup began.
fn backup_of_a_lost_cluster(bytes: usize) -> Result<(PathBuf, Written, tempfile::TempDir)> {
    let cluster = founded(3)?;
    fill(&cluster, 40, bytes)?;
    let named = kv(&cluster, 0, "put named once --client-id job --seq 7")?;
    ensure!(named.status == 0, "{named:?}");
    let mut written = Writers::start(&cluster, 3, 2, "before", Duration::from_secs(5));
    written.wait_for(30)?;
    let before = written.stop();
    written = Writers::start(&cluster, 3, 2, "during", Duration::from_secs(5));
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("all.backup");
    let made = backup(&cluster, 2, &file, &[])?;
    ensure!(made.status == 0, "{made:?}");
    drop(cluster);
    written.stop();
    Ok((file, before, directory))
}

fn check_all_is_there(cluster: &Cluster, before: &Written) -> Result<()> {
    cluster.wait_until_whole()?;
    for node in 0..3 {
        check_nothing_is_lost(cluster, node, before)?;
        let mut client = client_of(cluster, &[node], PATIENCE)?;
        for number in [0, 17, 39] {
            let value = client.get(format!("fill-{number:06}"))?.value.context("a value")?;
            ensure!(value.ends_with(number.to_string().as_bytes()));
        }
    }
    ensure!(kv(cluster, 1, "put after yes")?.status == 0, "the new cluster takes writes");
    Ok(())
}

fn kill(cluster: &mut Cluster, node: usize) -> Result<()> {
    cluster.signal(node, Signal::KILL)?;
    cluster.wait_for_exit(node)?;
    Ok(())
}

#[test]
fn restored_cluster_has_all_data_and_sessions_whatever_the_founders_id() -> Result<()> {
    let (file, before, _directory) = backup_of_a_lost_cluster(2_000)?;
    let old = inspect(&file, &["--json"])?.json()["cluster"].clone();
    for founder in [0, 1] {
        let mut cluster = prepared(3)?;
        let restored = restore(&cluster, founder, &file)?;
        ensure!(restored.status == 0, "{restored:?}");
        ensure!(restored.text().contains(&format!("--id {} --port", founder + 1)), "{restored:?}");
        let said = inspect(&cluster.data(founder), &[])?;
        ensure!(said.status == 0 && said.text().contains("found a new cluster"), "{said:?}");
        for node in 0..3 {
            cluster.start(node)?;
        }
        check_all_is_there(&cluster, &before)?;
        // What was applied before the backup is not applied again.
        let again = kv(&cluster, 2, "put named once --client-id job --seq 7")?;
        ensure!(again.text() == "OK (cached)\n", "{again:?}");
        for node in 0..3 {
            kill(&mut cluster, node)?;
            let found = inspect(&cluster.data(node), &["--json"])?.json();
            ensure!(found["would_start"] == true && found["snapshot"].is_object(), "{found}");
            ensure!(found["cluster"] != old, "a cluster of its own: {found}");
            ensure!(!cluster.data(node).join(format!("restored-{}.snap", node + 1)).exists());
        }
        for node in [2, 0, 1] {
            cluster.start(node)?;
        }
        check_all_is_there(&cluster, &before)?;
    }
    Ok(())
}

#[test]
fn restored_cluster_of_one_has_all_data() -> Result<()> {
    let (file, before, _directory) = backup_of_a_lost_cluster(100)?;
    let mut cluster = prepared(1)?;
    ensure!(restore(&cluster, 0, &file)?.status == 0);
    cluster.start(0)?;
    cluster.wait_until_whole()?;
    check_nothing_is_lost(&cluster, 0, &before)?;
    kill(&mut cluster, 0)?;
    cluster.start(0)?;
    check_nothing_is_lost(&cluster, 0, &before)
}

#[test]
fn snapshot_out_of_a_lost_nodes_directory_is_restored_like_a_backup() -> Result<()> {
    let mut cluster = founded(1)?;
    fill(&cluster, 40, 100)?;
    ensure!(kv(&cluster, 0, "snapshot")?.status == 0);
    kill(&mut cluster, 0)?;
    let files = fs::read_dir(cluster.data(0))?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    let file = files.iter().find(|file| file.extension().is_some_and(|end| end == "snap")).context("one")?;
    let mut anew = prepared(1)?;
    ensure!(restore(&anew, 0, file)?.status == 0);
    anew.start(0)?;
    ensure!(kv_client(&anew, 0, &["get", "fill-000039"])?.status == 0);
    Ok(())
}

#[test]
fn members_without_the_restored_data_elect_nobody_until_they_have_it() -> Result<()> {
    let (file, before, _directory) = backup_of_a_lost_cluster(100_000)?;
    let mut cluster = prepared(3)?;
    ensure!(restore(&cluster, 2, &file)?.status == 0);
    let since = Instant::now();
    for node in 0..3 {
        cluster.start(node)?;
    }
    // The founder dies while the others receive, or before.
    cluster.wait_for_line(2, since, |line| line.contains("the cluster begins with what was restored"))?;
    kill(&mut cluster, 2)?;
    let stranded = Instant::now();
    for node in 0..2 {
        if !holds_it(&cluster, node) {
            kill(&mut cluster, node)?;
            cluster.start(node)?;
        }
    }
    // A node that has nothing says what it waits for, once a second; nobody is elected who lacks it.
    for node in 0..2 {
        eventually("the data, or word that there is none", || {
            let says_so = |line: &LogLine| line.node == node && line.text.contains("no cluster yet");
            let is_missed = cluster.lines_since(stranded, |_| true).iter().any(says_so);
            (is_missed || holds_it(&cluster, node)).then_some(())
        })?;
    }
    // Who was elected by then had the vote of a majority, which is both.
    let elected = cluster.lines_since(stranded, |line| line.contains("elected leader"));
    let holders = (0..2).filter(|node| holds_it(&cluster, *node)).count();
    ensure!(elected.is_empty() || holders == 2, "{holders} hold it, and yet: {elected:?}");
    cluster.start(2)?;
    check_all_is_there(&cluster, &before)
}

/// Whether the node has the restored data. It may have died before it could say so in its log.
fn holds_it(cluster: &Cluster, node: usize) -> bool {
    cluster.status(node).is_ok_and(|view| view.applied.0 > 0)
}

#[test]
fn members_killed_while_they_receive_the_restored_data_get_it_afterwards() -> Result<()> {
    let (file, before, _directory) = backup_of_a_lost_cluster(200_000)?;
    let mut cluster = prepared(3)?;
    ensure!(restore(&cluster, 0, &file)?.status == 0);
    let since = Instant::now();
    for node in 0..3 {
        cluster.start(node)?;
    }
    for node in [1, 2] {
        cluster.wait_for_line(node, since, |line| line.contains("receiving a snapshot"))?;
        kill(&mut cluster, node)?;
    }
    kill(&mut cluster, 0)?;
    for node in [2, 1, 0] {
        cluster.start(node)?;
    }
    check_all_is_there(&cluster, &before)
}

#[test]
fn member_that_has_the_restored_data_serves_the_others_when_the_founder_is_dead() -> Result<()> {
    let (file, before, _directory) = backup_of_a_lost_cluster(100_000)?;
    let mut cluster = prepared(3)?;
    ensure!(restore(&cluster, 0, &file)?.status == 0);
    let since = Instant::now();
    for node in 0..3 {
        cluster.start(node)?;
    }
    // Node 3 gets no further than to receive, if it is stopped in time.
    cluster.wait_for_line(2, since, |line| line.contains("receiving a snapshot"))?;
    stop(&cluster, 2)?;
    cluster.wait_for_line(1, since, |line| line.contains("snapshot installed"))?;
    kill(&mut cluster, 0)?;
    cluster.signal(2, Signal::CONT)?;
    cluster.wait_until_whole()?;
    for node in [1, 2] {
        check_nothing_is_lost(&cluster, node, &before)?;
    }
    Ok(())
}

#[test]
fn two_nodes_restored_from_one_backup_refuse_each_other() -> Result<()> {
    let (file, _, _directory) = backup_of_a_lost_cluster(100)?;
    let mut cluster = prepared(3)?;
    for node in [0, 2] {
        ensure!(restore(&cluster, node, &file)?.status == 0);
    }
    let since = Instant::now();
    for node in 0..3 {
        cluster.start(node)?;
    }
    for node in 0..3 {
        cluster.wait_for_line(node, since, |line| line.contains("only one of the nodes may be"))?;
    }
    ensure!(cluster.lines_since(since, |line| line.contains("founded")).is_empty());
    // One of them is emptied, and all is well.
    kill(&mut cluster, 0)?;
    fs::remove_dir_all(cluster.data(0))?;
    cluster.start(0)?;
    cluster.wait_until_whole()?;
    Ok(())
}

#[test]
fn restore_into_a_directory_that_holds_something_is_refused() -> Result<()> {
    let mut cluster = founded(1)?;
    fill(&cluster, 3, 10)?;
    let file = cluster.directory().join("all.backup");
    ensure!(backup(&cluster, 0, &file, &[])?.status == 0);
    let running = restore(&cluster, 0, &file)?;
    ensure!(running.status == 1 && running.stderr.contains("in use"), "{running:?}");
    kill(&mut cluster, 0)?;
    let full = restore(&cluster, 0, &file)?;
    ensure!(full.status == 1 && full.stderr.contains("is not empty"), "{full:?}");
    cluster.start(0)?;
    let no_backup = cluster.directory().join("none");
    fs::write(&no_backup, [7; 5000])?;
    let other = prepared(1)?;
    let refused = restore(&other, 0, &no_backup)?;
    ensure!(refused.status == 1 && refused.stderr.contains("no whole backup"), "{refused:?}");
    let missing = restore(&other, 0, &cluster.directory().join("no/where"))?;
    ensure!(missing.status == 1 && missing.stderr.contains("; correct the path"), "{missing:?}");
    ensure!(!missing.stderr.contains("no whole backup"), "{missing:?}");
    ensure!(!other.data(0).exists(), "nothing is made of what is no backup");
    fs::create_dir_all(other.data(0).join("node-1"))?;
    let above = restore(&other, 0, &file)?;
    ensure!(above.status == 1 && above.stderr.contains("it holds node-1"), "{above:?}");
    Ok(())
}

#[test]
fn restore_that_was_interrupted_is_never_started_from_and_can_be_done_again() -> Result<()> {
    let (file, before, _directory) = backup_of_a_lost_cluster(100)?;
    let mut cluster = prepared(1)?;
    ensure!(restore(&cluster, 0, &file)?.status == 0);
    // As an interrupted one leaves it.
    let whole = cluster.data(0).join("restored-1.snap");
    fs::rename(&whole, cluster.data(0).join("restored-1.snap.part"))?;
    let refused = run(cluster.command(0), b"")?;
    ensure!(refused.status == 1 && refused.stderr.contains("unfinished restore"), "{refused:?}");
    let said = inspect(&cluster.data(0), &[])?;
    ensure!(said.status == 1 && said.text().contains("unfinished restore"), "{said:?}");
    ensure!(restore(&cluster, 0, &file)?.status == 0);
    ensure!(!cluster.data(0).join("restored-1.snap.part").exists());
    // Another node's command line does not start it.
    let mut other = Command::new(program());
    other.args(["--id", "2", "--port", &cluster.port(0).to_string(), "--data-dir"]).arg(cluster.data(0));
    let refused = run(other, b"")?;
    ensure!(refused.status == 1 && refused.stderr.contains("belongs to node 1"), "{refused:?}");
    cluster.start(0)?;
    check_nothing_is_lost(&cluster, 0, &before)
}
