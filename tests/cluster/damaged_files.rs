//! Flipped bits in the files of real nodes: found, refused by name, and nobody else is harmed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::setup::{Ended, founded, kv, kv_client, run};

/// Places in a file at which a bit is flipped, one after the other.
const PLACES: usize = 12;

fn file_of(cluster: &Cluster, node: usize, ending: &str) -> Result<PathBuf> {
    let files = fs::read_dir(cluster.data(node))?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_wanted = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(ending) && !name.starts_with("spare")
    };
    files.filter(is_wanted).max().with_context(|| format!("no {ending}"))
}

/// A start of the node that is expected to be refused.
fn start(cluster: &Cluster, node: usize) -> Result<Ended> {
    run(cluster.command(node), b"")
}

#[test]
fn bits_flipped_in_snapshot_or_log_are_refused_and_the_others_go_on() -> Result<()> {
    let mut cluster = founded(3)?;
    for number in 0..40 {
        ensure!(kv(&cluster, 0, &format!("put key{number} value{number}"))?.status == 0);
    }
    ensure!(kv(&cluster, 2, "snapshot")?.status == 0);
    ensure!(kv(&cluster, 0, "put last one")?.status == 0);
    cluster.wait_until_whole()?;
    cluster.signal(2, Signal::KILL)?;
    cluster.wait_for_exit(2)?;

    for ending in [".snap", ".wal"] {
        let path = file_of(&cluster, 2, ending)?;
        let sound = fs::read(&path)?;
        // Of the log, what the records take: behind them nothing is promised. Of the last page of
        // them only the marker tells, so it is left alone.
        let used = sound.iter().rposition(|byte| *byte != 0).context("an empty file")? + 1;
        let used = if ending == ".wal" { used.saturating_sub(2 * 4096).max(4200) } else { used };
        for place in 0..PLACES {
            let at = place * used / PLACES;
            let mut damaged = sound.clone();
            damaged[at] ^= 0x10;
            fs::write(&path, &damaged)?;
            let refused = start(&cluster, 2)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let words = [&*name, " at offset ", "Keep the directory"];
            let is_told = words.iter().all(|word| refused.stderr.contains(word));
            let is_version = (8..12).contains(&at) && refused.stderr.contains("has format version");
            ensure!(refused.status == 1 && (is_told || is_version), "byte {at} of {name}: {refused:?}");
            ensure!(fs::read(&path)? == damaged, "what is refused is left as it is");
        }
        fs::write(&path, &sound)?;
    }
    ensure!(kv(&cluster, 0, "put while-one-is-damaged yes")?.status == 0, "the others go on");
    cluster.start(2)?;
    cluster.wait_until_whole()?;
    ensure!(kv(&cluster, 2, "get while-one-is-damaged")?.text() == "yes\n");
    Ok(())
}

/// Damage under a node that runs: whoever gets the snapshot could do nothing about it.
#[test]
fn node_whose_snapshot_is_damaged_while_it_runs_ends_when_it_sends_it_and_says_what_to_do() -> Result<()> {
    let mut cluster = founded(3)?;
    // Under a name, as no session ends then: the snapshot has all there is, and is what a backup begins with.
    ensure!(kv(&cluster, 0, "--client-id shop --seq 1 put key value")?.status == 0);
    cluster.wait_until_whole()?;
    ensure!(kv(&cluster, 2, "snapshot")?.status == 0);
    let path = file_of(&cluster, 2, ".snap")?;
    let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4110)?;
    file.write_all_at(&[byte[0] ^ 1], 4110)?;

    let since = Instant::now();
    // Node 3 alone is asked, and what it has is what it sends.
    let backup = cluster.directory().join("b");
    let asked = kv_client(&cluster, 2, &[OsStr::new("backup"), backup.as_os_str()])?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let told = [&*name, "damaged at offset 4096", "start the node again"];
    cluster.wait_for_line(2, since, |line| told.iter().all(|words| line.contains(words)))?;
    ensure!(cluster.wait_for_exit(2)?.code() == Some(1));
    let refused = start(&cluster, 2)?;
    ensure!(refused.status == 1 && refused.stderr.contains("Keep the directory"), "{refused:?}");
    // The client has learned of the others from node 3, and one of them made the backup.
    ensure!(asked.status == 0 && backup.exists(), "{asked:?}");
    ensure!(kv(&cluster, 0, "put another value")?.status == 0, "the others go on");
    Ok(())
}
