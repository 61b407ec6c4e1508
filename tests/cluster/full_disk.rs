//! Disks that get full, in a small file system of their own. Where mounting one is not permitted, these
//! tests say so and check nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::setup::{CALM, eventually, kv, kv_client, prepared_with, run};

/// Room for a log of two segments and a spare, a snapshot, and some air.
const SIZE: &str = "size=72m";
/// The same for three nodes whose logs are four segments longer.
const SIZE_FOR_ALL: &str = "size=480m";

/// A small file system in the place of a node's data directory, or of all nodes' data.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` if that is not permitted.
    pub(crate) fn mount(path: &Path, size: &str) -> Result<Option<Self>> {
        fs::create_dir_all(path)?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(path);
        match run(command, b"") {
            Ok(ended) if ended.status == 0 => Ok(Some(Self(path.to_owned()))),
            refused => {
                eprintln!("SKIPPED: no small file system can be mounted here: {refused:?}");
                Ok(None)
            }
        }
    }

    /// A real file system on a file, which can go over to reading alone; `None` where none can be made.
    pub(crate) fn mount_file(file: &Path, path: &Path) -> Result<Option<Self>> {
        fs::create_dir_all(path)?;
        fs::File::create(file)?.set_len(160 << 20)?;
        let disk = Self(path.to_owned());
        let mut make = Command::new("mkfs.ext4");
        make.arg("-q").arg(file);
        let is_mounted = run(make, b"").and_then(|made| {
            ensure!(made.status == 0, "{made:?}");
            disk.mount_again(file)
        });
        if let Err(refused) = is_mounted {
            eprintln!("SKIPPED: no file system can be made in a file here: {refused}");
            return Ok(None);
        }
        Ok(Some(disk))
    }

    /// Mounts it anew.
    pub(crate) fn mount_again(&self, file: &Path) -> Result<()> {
        let mut command = Command::new("mount");
        command.args(["-o", "loop"]).arg(file).arg(&self.0);
        let ended = run(command, b"")?;
        ensure!(ended.status == 0, "{ended:?}");
        Ok(())
    }

    pub(crate) fn unmount(&self) -> Result<()> {
        let mut command = Command::new("umount");
        command.arg(&self.0);
        let ended = run(command, b"")?;
        ensure!(ended.status == 0, "{ended:?}");
        Ok(())
    }

    /// Changes how it is mounted, once nobody writes there.
    pub(crate) fn remount(&self, how: &str) -> Result<()> {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,{how}")]).arg(&self.0);
        let ended = run(command, b"")?;
        ensure!(ended.status == 0, "{ended:?}");
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64> {
        let file_system = rustix::fs::statvfs(&self.0)?;
        Ok(file_system.f_bavail * file_system.f_frsize)
    }

    /// Another's file takes all but so many bytes.
    fn fill(&self, free_bytes: u64) -> Result<()> {
        let count = usize::try_from(self.free_bytes()?.saturating_sub(free_bytes))?;
        fs::write(self.filler(), vec![1; count])?;
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Three nodes, of which these have small disks; `None` where that is not permitted. Disks are unmounted
/// after the nodes have ended.
fn with_small_disks(nodes: &[usize]) -> Result<Option<(Cluster, Vec<SmallDisk>)>> {
    let mut cluster = prepared_with(3, &CALM)?;
    let mut disks = Vec::new();
    for node in nodes {
        let Some(disk) = SmallDisk::mount(&cluster.data(*node), SIZE)? else { return Ok(None) };
        disks.push(disk);
    }
    (0..3).try_for_each(|node| cluster.start(node))?;
    cluster.wait_until_whole()?;
    Ok(Some((cluster, disks)))
}

#[test]
fn nodes_on_full_disks_refuse_writes_say_so_and_heal_by_themselves() -> Result<()> {
    let Some((mut cluster, disks)) = with_small_disks(&[0, 1])? else { return Ok(()) };
    ensure!(kv(&cluster, 0, "put key value")?.status == 0);
    // Until the next segment is prepared, which takes room.
    eventually("a spare", || disks.iter().all(|disk| disk.0.join("spare.wal").exists()).then_some(()))?;
    let since = Instant::now();
    disks.iter().try_for_each(|disk| disk.fill(4 << 20))?;
    for node in [0, 1] {
        cluster.wait_for_line(node, since, |line| line.contains("the disk is nearly full"))?;
    }
    let refused = eventually("writes are refused", || {
        // A leader that was silent for a moment may have taken an earlier copy: then nobody knows.
        let ended = kv(&cluster, 2, "put key new").ok()?;
        (ended.status == 4).then_some(ended)
    })?;
    ensure!(refused.stderr.contains("no space: node "), "{refused:?}");
    ensure!(kv(&cluster, 2, "get key")?.status == 0, "reads go on");
    eventually("a definite no to programs", || {
        let json = kv_client(&cluster, 2, &["put", "key", "new", "--json"]).ok()?.json();
        (json["error"] == "no_space").then_some(())
    })?;
    ensure!(kv(&cluster, 2, "status")?.text().contains("(low)"));
    ensure!(kv(&cluster, 2, "delete key")?.status == 0, "a delete makes room");

    let since = Instant::now();
    disks.iter().try_for_each(SmallDisk::clear)?;
    cluster.wait_for_line(0, since, |line| line.contains("the disk has room again"))?;
    eventually("writes are taken", || (kv(&cluster, 2, "put key newer").ok()?.status == 0).then_some(()))?;
    drop(cluster);
    Ok(())
}

#[test]
fn follower_whose_log_finds_no_room_ends_and_comes_back_well() -> Result<()> {
    let Some((mut cluster, disks)) = with_small_disks(&[2])? else { return Ok(()) };
    let disk = &disks[0];
    eventually("a spare", || disk.0.join("spare.wal").exists().then_some(()))?;
    disk.fill(0)?;
    let since = Instant::now();
    let client = &mut cluster.client()?;
    let value = vec![7; 900 << 10];
    for number in 0..48_u32 {
        client.put(number.to_be_bytes(), &value).with_context(|| format!("put {number}"))?;
    }
    let status = cluster.wait_for_exit(2)?;
    ensure!(status.code() == Some(1), "{status}");
    cluster
        .wait_for_line(2, since, |line| line.contains("No space left") && line.contains("free some space"))?;

    disk.clear()?;
    cluster.start(2)?;
    cluster.wait_until_whole()?;
    ensure!(cluster.client_of(2)?.get(47_u32.to_be_bytes())?.value == Some(value.into()), "it has caught up");
    cluster.signal(2, Signal::TERM)?;
    ensure!(cluster.wait_for_exit(2)?.success());
    drop(cluster);
    Ok(())
}

fn is_low(line: &str) -> bool {
    line.contains("the disk is nearly full")
}

/// There is room for the snapshot of one. Whether the others begin theirs and give them up, or find at once
/// that it is too late, is chance; nobody may die of it.
#[test]
fn nodes_on_one_disk_that_gets_full_all_live_and_take_writes_again() -> Result<()> {
    let mut cluster = prepared_with(3, &CALM)?;
    let directory = cluster.directory().to_owned();
    let Some(disk) = SmallDisk::mount(&directory, SIZE_FOR_ALL)? else { return Ok(()) };
    (0..3).try_for_each(|node| cluster.start(node))?;
    cluster.wait_until_whole()?;
    let client = &mut cluster.client()?;
    // A log of about 60 MB, of which a snapshot has 20.
    let value = vec![7; 1_000_000];
    for number in 0..60_u32 {
        client.put((number % 20).to_be_bytes(), &value).with_context(|| format!("put {number}"))?;
    }
    eventually("spares", || (0..3).all(|node| cluster.data(node).join("spare.wal").exists()).then_some(()))?;
    let since = Instant::now();
    disk.fill(34 << 20)?;
    // Who looks at the disk only when that one has made room finds nothing amiss.
    cluster.wait_for(since, |line| is_low(&line.text))?;
    cluster.wait_for(since, |line| line.text.contains("snapshot saved"))?;
    ensure!(kv(&cluster, 0, "get absent")?.status == 1, "reads go on");
    // What it released it gave back, and so does everybody whose turn comes then: nobody need clear anything.
    eventually("room for everybody", || {
        let said =
            cluster.lines_since(since, |line| is_low(line) || line.contains("the disk has room again"));
        let last_of = |node| said.iter().rfind(|line| line.node == node);
        (0..3).all(|node| last_of(node).is_none_or(|line| !is_low(&line.text))).then_some(())
    })?;
    eventually("writes are taken", || (kv(&cluster, 2, "put key new").ok()?.status == 0).then_some(()))?;
    // Nobody starts them again here.
    (0..3).try_for_each(|node| cluster.status(node).map(drop)).context("no process ended")?;
    drop(cluster);
    Ok(())
}
