//! `kv_client snapshot` and `kv_client backup` on real nodes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kvstore::client::{Client, Options};
use rustix::process::Signal;

use crate::cluster::{Cluster, PATIENCE};
use crate::inspect::inspect;
use crate::setup::{Ended, eventually, founded, kv, kv_client, run};
use crate::writers::Writers;

/// Makes a backup by way of a node.
pub(crate) fn backup(cluster: &Cluster, node: usize, file: &Path, options: &[&str]) -> Result<Ended> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv_client"));
    command.args(["--port", &cluster.port(node).to_string(), "--json", "backup"]).arg(file).args(options);
    run(command, b"")
}

/// So many keys with values that can be told apart.
pub(crate) fn fill(cluster: &Cluster, keys: usize, value_bytes: usize) -> Result<()> {
    let mut client = cluster.client()?;
    for number in 0..keys {
        client.put(format!("fill-{number:06}"), format!("{}{number}", "x".repeat(value_bytes)))?;
    }
    Ok(())
}

#[test]
fn snapshot_on_demand_is_durable_on_each_named_node() -> Result<()> {
    let mut cluster = founded(3)?;
    fill(&cluster, 20, 100)?;
    let ports = format!("{},{}", cluster.port(0), cluster.port(2));
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv_client"));
    command.args(["--port", &ports, "snapshot"]);
    let taken = run(command, b"")?;
    ensure!(taken.status == 0 && taken.text().lines().count() == 2, "{taken:?}");
    ensure!(taken.text().lines().all(|line| line.starts_with("OK node=") && line.contains(" bytes=")));
    for node in 0..3 {
        cluster.signal(node, Signal::KILL)?;
        cluster.wait_for_exit(node)?;
        let found = inspect(&cluster.data(node), &["--json"])?.json();
        ensure!(found["snapshot"].is_object() == (node != 1), "node {}: {found}", node + 1);
    }
    Ok(())
}

#[test]
fn snapshot_asked_for_again_is_the_one_that_is_there() -> Result<()> {
    let cluster = founded(1)?;
    kv(&cluster, 0, "put k v")?;
    // Not before the clients' sessions are closed, which is a write too.
    let first = eventually("a snapshot of all there is", || {
        let taken = kv(&cluster, 0, "snapshot --json").ok()?.json();
        let status = cluster.status(0).ok()?;
        (taken["index"].as_u64() == Some(status.applied.0)).then_some(taken)
    })?;
    let again = kv(&cluster, 0, "snapshot --json")?.json();
    ensure!(first["index"] == again["index"] && first["bytes"] == again["bytes"], "{first} {again}");
    Ok(())
}

#[test]
fn snapshots_asked_for_by_many_at_once_are_few() -> Result<()> {
    let mut cluster = founded(1)?;
    fill(&cluster, 300, 20_000)?;
    let since = std::time::Instant::now();
    let endpoint = cluster.endpoint(0);
    let ask = || -> Result<u64> {
        let mut client = Client::connect(Options::new([endpoint.clone()]).with_timeout(PATIENCE))?;
        Ok(client.take_snapshot()?.value.index.0)
    };
    let taken: BTreeSet<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect::<Result<_>>()
    })?;
    ensure!(taken.len() <= 2, "at most the one at hand and one more: {taken:?}");
    let saved = cluster.lines_since(since, |line| line.contains("snapshot saved"));
    ensure!(saved.len() <= 2, "{saved:?}");
    Ok(())
}

#[test]
fn backup_from_a_follower_under_writes_has_all_that_was_acknowledged_before() -> Result<()> {
    let cluster = founded(3)?;
    fill(&cluster, 50, 30_000)?;
    let writers = Writers::start(&cluster, 3, 2, "under", Duration::from_secs(5));
    writers.wait_for(50)?;
    // The revision of a write that is acknowledged before the backup begins.
    let before = kv_client(&cluster, 0, &["put", "last-before", "yes", "--json"])?.json();
    let file = cluster.directory().join("all.backup");
    let made = backup(&cluster, 2, &file, &[])?;
    writers.wait_for(20)?;
    writers.stop();
    ensure!(made.status == 0, "{made:?}");
    let revision = made.json()["revision"].as_u64().context("a revision")?;
    ensure!(made.json()["node"] == 3 && revision >= before["revision"].as_u64().context("a revision")?);
    ensure!(fs::metadata(&file)?.len() == made.json()["bytes"].as_u64().context("a size")?);
    let found = inspect(&file, &["--json"])?;
    ensure!(found.status == 0 && found.json()["revision"] == revision, "{found:?}");
    ensure!(found.json()["keys"].as_u64() >= Some(101), "{found:?}");
    ensure!(!cluster.directory().join("all.backup.part").exists());
    Ok(())
}

#[test]
fn backup_on_a_file_that_exists_is_refused_without_force() -> Result<()> {
    let cluster = founded(1)?;
    let file = cluster.directory().join("mine");
    fs::write(&file, "precious")?;
    let refused = backup(&cluster, 0, &file, &[])?;
    ensure!(refused.status == 4 && refused.stderr.contains("--force"), "{refused:?}");
    ensure!(fs::read(&file)? == b"precious");
    ensure!(inspect(&file, &[])?.status == 1, "that is no backup");
    ensure!(backup(&cluster, 0, &file, &["--force"])?.status == 0);
    let directory = tempfile::tempdir()?;
    let refused = backup(&cluster, 0, directory.path(), &["--force"])?;
    ensure!(refused.status == 2 && refused.stderr.contains("no ordinary file"), "{refused:?}");
    ensure!(directory.path().is_dir());
    ensure!(inspect(&file, &[])?.status == 0);
    let stream = backup(&cluster, 0, Path::new("-"), &[])?;
    ensure!(
        stream.status == 2 && stream.stderr.contains("no stream") && !Path::new("-").exists(),
        "{stream:?}"
    );
    let nowhere = backup(&cluster, 0, &cluster.directory().join("no/where"), &[])?;
    ensure!(nowhere.status == 2 && nowhere.stderr.contains("name a file in a directory"), "{nowhere:?}");
    Ok(())
}

#[test]
fn backup_with_a_flipped_bit_is_found_out() -> Result<()> {
    let cluster = founded(1)?;
    fill(&cluster, 20, 100)?;
    let file = cluster.directory().join("all.backup");
    ensure!(backup(&cluster, 0, &file, &[])?.status == 0);
    let whole = fs::read(&file)?;
    for at in [0, 9, 30, 4094, 4100, whole.len() / 2, whole.len() - 1] {
        let mut content = whole.clone();
        content[at] ^= 4;
        fs::write(&file, content)?;
        let found = inspect(&file, &[])?;
        ensure!(found.status == 1 && found.text().contains("no whole backup"), "byte {at}: {found:?}");
    }
    fs::write(&file, &whole[..whole.len() - 8])?;
    ensure!(inspect(&file, &[])?.status == 1, "its end is missing");
    Ok(())
}

#[test]
fn backups_beyond_the_cap_are_busy_and_a_place_is_free_when_one_is_gone() -> Result<()> {
    let cluster = founded(1)?;
    fill(&cluster, 30, 30_000)?;
    let connect = || Client::connect(Options::new([cluster.endpoint(0)]).with_timeout(PATIENCE));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = connect()?;
        let chunk = client.backup(None, 0)?.value;
        ensure!((chunk.chunk.len() as u64) < chunk.snapshot.bytes, "one chunk is not all");
        clients.push((client, chunk));
    }
    let mut late = connect()?;
    late.set_timeout(Duration::from_millis(500));
    ensure!(late.backup(None, 0).is_err_and(|error| error.word() == "busy"));
    // Who had a place keeps it, also behind a newer snapshot.
    kv(&cluster, 0, "put newer yes")?;
    ensure!(kv(&cluster, 0, "snapshot")?.status == 0);
    let (client, first) = &mut clients[0];
    let next = client.backup(Some(first.snapshot), first.chunk.len() as u64)?.value;
    ensure!(next.snapshot == first.snapshot && next.offset == first.chunk.len() as u64);
    drop(clients);
    late.set_timeout(PATIENCE);
    ensure!(late.backup(None, 0)?.value.offset == 0);
    Ok(())
}

#[test]
fn backup_whose_snapshot_is_gone_begins_anew_with_a_younger_one() -> Result<()> {
    let cluster = founded(1)?;
    fill(&cluster, 30, 30_000)?;
    let connect = || Client::connect(Options::new([cluster.endpoint(0)]).with_timeout(PATIENCE));
    let first = connect()?.backup(None, 0)?.value;
    kv(&cluster, 0, "put newer yes")?;
    ensure!(kv(&cluster, 0, "snapshot")?.status == 0);
    // On a connection that does not hold the old file.
    let anew = connect()?.backup(Some(first.snapshot), first.chunk.len() as u64)?.value;
    ensure!(anew.snapshot.index > first.snapshot.index && anew.offset == 0, "{anew:?}");
    // One that is still there is gone on with, on any connection.
    let next = connect()?.backup(Some(anew.snapshot), 1000)?.value;
    ensure!(next.snapshot == anew.snapshot && next.offset == 1000);
    let beyond = connect()?.backup(Some(anew.snapshot), anew.snapshot.bytes + 1);
    ensure!(beyond.is_err_and(|error| error.word() == "malformed"));
    Ok(())
}

#[test]
fn backup_whose_node_is_killed_in_the_middle_is_made_by_another() -> Result<()> {
    let mut cluster = founded(3)?;
    fill(&cluster, 60, 500_000)?;
    let file = cluster.directory().join("all.backup");
    let part = cluster.directory().join("all.backup.part");
    let ports = format!("{},{}", cluster.port(2), cluster.port(1));
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv_client"));
    command.args(["--port", &ports, "--json", "backup"]).arg(&file);
    let making = std::thread::spawn(move || run(command, b""));
    // Node 3 is asked first, and dies when some of its bytes are there.
    let has_begun = || fs::metadata(&part).is_ok_and(|part| part.len() > 0) || file.exists();
    eventually("the first bytes", || has_begun().then_some(()))?;
    cluster.signal(2, Signal::KILL)?;
    cluster.wait_for_exit(2)?;
    let made = making.join().expect("no panic")?;
    ensure!(made.status == 0, "{made:?}");
    ensure!(inspect(&file, &[])?.status == 0);
    // Unless node 3 was through by then, somebody else has gone on, or begun anew and said so: node 2, or
    // node 1, of which the client has learned.
    ensure!(made.json()["node"].is_u64(), "{made:?}");
    ensure!(made.stderr.is_empty() || made.stderr.contains("begins anew") || made.stderr.contains("MiB"));
    Ok(())
}
