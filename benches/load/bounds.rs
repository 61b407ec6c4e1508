//! What `bounded` does with nodes: snapshots, kills, returns, and a look at what they take.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvstore::client::{Client, Options};
use rustix::process::Signal;

use super::{Command, Nodes};

/// How long anything of this may take.
const PATIENCE: Duration = Duration::from_secs(300);

impl Nodes {
    /// A snapshot on each node, one after the other, while all else goes on.
    pub(crate) fn snapshot_each(&mut self) -> Result<()> {
        for node in 0..self.count {
            let since = Instant::now();
            let status = Command::new(env!("CARGO_BIN_EXE_kv_client"))
                .args(["--port", &self.cluster.port(node).to_string(), "--timeout-ms", "120000", "snapshot"])
                .output()?;
            ensure!(
                status.status.success(),
                "kv_client snapshot: {}",
                String::from_utf8_lossy(&status.stderr)
            );
            self.cluster
                .wait_for_line(node, since, |line| line.contains("before the snapshot is released"))?;
        }
        Ok(())
    }

    /// The longest turn that nodes told of since then, with work for snapshots in it.
    pub(crate) fn longest_snapshot_turn_ms(&mut self, since: Instant) -> Result<f64> {
        let told = self.cluster.lines_since(since, |line| line.contains("longest_turn_ms="));
        let turns = told.iter().filter_map(|line| line.text.rsplit_once("longest_turn_ms=")?.1.parse().ok());
        turns.reduce(f64::max).context("no node told of a snapshot")
    }

    /// Of the node that has most: its log with all spares, and its snapshot.
    pub(crate) fn log_and_snapshot_bytes(&self) -> Result<(u64, u64)> {
        let mut largest = (0, 0);
        for node in 0..self.count {
            let directory = self.cluster.data(node);
            largest = largest.max((sum(&directory, ".wal")?, sum(&directory, ".snap")?));
        }
        Ok(largest)
    }

    /// The most memory that any node ever took, in MiB.
    pub(crate) fn peak_resident_mib(&self) -> Result<u64> {
        self.memory_mib("VmHWM:")
    }

    /// Kills a follower and starts it again: how long until it answers a linearizable read.
    pub(crate) fn restart_follower(&mut self) -> Result<Duration> {
        let node = self.kill_follower()?;
        let endpoint = self.cluster.endpoint(node);
        let began = Instant::now();
        self.cluster.start(node)?;
        Client::connect(Options::new([endpoint]).with_timeout(PATIENCE))?.get("bench/0000000000")?;
        Ok(began.elapsed())
    }

    /// Kills a follower. Gives its place.
    pub(crate) fn kill_follower(&mut self) -> Result<usize> {
        let node = (self.leader + 1) % self.count;
        self.cluster.signal(node, Signal::KILL)?;
        self.cluster.wait_for_exit(node)?;
        Ok(node)
    }

    /// Starts a node, and waits until it has applied what was committed when it was asked.
    pub(crate) fn start_and_catch_up(&mut self, node: usize) -> Result<Duration> {
        let began = Instant::now();
        self.cluster.start(node)?;
        let mut there = self.cluster.client_of(node)?;
        let mut leader = self.cluster.client_of(self.leader)?;
        while began.elapsed() < PATIENCE {
            let goal = leader.status()?.value.commit;
            if there.status()?.value.applied.0 + 1_000 >= goal.0 {
                return Ok(began.elapsed());
            }
            // Nothing tells when it has caught up; asking is the only way.
            thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("node {} has not caught up within {PATIENCE:?}", node + 1)
    }

    /// Elections of which any node told since then.
    pub(crate) fn elections_since(&mut self, since: Instant) -> usize {
        self.cluster.lines_since(since, |line| line.contains("election started")).len()
    }
}

fn sum(directory: &Path, ending: &str) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(ending) {
            // A spare may get another name meanwhile.
            bytes += entry.metadata().map_or(0, |metadata| metadata.len());
        }
    }
    Ok(bytes)
}
