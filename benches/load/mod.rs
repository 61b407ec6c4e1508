//! A cluster of ours under `kv_client bench`, for the benches that load one; and what they say of
//! the machine.

#[path = "../../src/bin/kvstore/demo/cluster.rs"]
#[expect(unused, reason = "the demo uses all of it")]
mod cluster;

mod bounds;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use cluster::{Cluster, Port, list_of_others};

/// Nodes that run and agree.
pub(crate) struct Nodes {
    cluster: Cluster,
    count: usize,
    /// Which one led at the beginning.
    leader: usize,
}

/// A load that runs.
pub(crate) struct Load {
    process: Child,
    began: Instant,
    /// What it says besides its summary.
    progress: JoinHandle<Vec<String>>,
}

impl Nodes {
    /// Starts so many, with empty directories, and waits until they agree.
    pub(crate) fn start(count: usize) -> Result<Self> {
        Self::start_as(env!("CARGO_BIN_EXE_kvstore").into(), count)
    }

    /// The same, of a program that takes the options of a node.
    pub(crate) fn start_as(program: PathBuf, count: usize) -> Result<Self> {
        let mut cluster = Cluster::new(program, count, list_of_others)?;
        (0..count).try_for_each(|node| cluster.start(node))?;
        let leader = cluster.wait_until_whole()?;
        Ok(Self { cluster, count, leader })
    }

    /// The summary of `kv_client bench` with these options, on all nodes.
    pub(crate) fn bench(&self, words: &str) -> Result<Value> {
        self.begin_bench(words)?.finish()
    }

    /// The same, begun.
    pub(crate) fn begin_bench(&self, words: &str) -> Result<Load> {
        let ports: Vec<String> = (0..self.count).map(|node| self.cluster.port(node).to_string()).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kv_client"));
        command.args(["--json", "--timeout-ms", "20000", "--port", &ports.join(","), "bench"]);
        command.args(words.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().context("cannot start kv_client")?;
        let mut lines = BufReader::new(process.stderr.take().context("no stderr")?).lines();
        // The load is described before it begins; what came before is no part of it.
        let said = lines.by_ref().map_while(Result::ok).take_while(|line| !line.contains("in flight each"));
        let said: Vec<String> = said.collect();
        let began = Instant::now();
        let progress = thread::spawn(move || said.into_iter().chain(lines.map_while(Result::ok)).collect());
        Ok(Load { process, began, progress })
    }

    /// Kills the node that led at the beginning.
    pub(crate) fn kill_leader(&mut self) -> Result<()> {
        self.cluster.signal(self.leader, Signal::KILL)?;
        self.cluster.wait_for_exit(self.leader)?;
        Ok(())
    }

    /// The nodes that saved a snapshot, and how long after `began`.
    pub(crate) fn snapshots_since(&mut self, began: Instant) -> Vec<(usize, Duration)> {
        let lines = self.cluster.lines_since(began, |line| line.contains("snapshot saved"));
        lines.into_iter().map(|line| (line.node + 1, line.at - began)).collect()
    }

    /// The process of each node, the one that led at the beginning first.
    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        let others = (0..self.count).filter(|node| *node != self.leader);
        let nodes = [self.leader].into_iter().chain(others);
        nodes.map(|node| Ok(self.cluster.pid(node)?.as_raw_nonzero().get())).collect()
    }

    /// Tells all to end, the one that led at the beginning last, and gives the last line of each
    /// that has this word, that one's first.
    pub(crate) fn end(mut self, word: &str) -> Result<Vec<String>> {
        let others = (0..self.count).filter(|node| *node != self.leader);
        let mut words = Vec::new();
        for node in others.chain([self.leader]).collect::<Vec<_>>() {
            let since = Instant::now();
            self.cluster.signal(node, Signal::TERM)?;
            words.insert(0, self.cluster.wait_for_line(node, since, |line| line.contains(word))?.text);
            self.cluster.wait_for_exit(node)?;
        }
        Ok(words)
    }

    /// The memory that the largest node takes, in MiB.
    pub(crate) fn resident_mib(&self) -> Result<u64> {
        self.memory_mib("VmRSS:")
    }

    fn memory_mib(&self, name: &str) -> Result<u64> {
        let mut largest = 0;
        for node in 0..self.count {
            let status = format!("/proc/{}/status", self.cluster.pid(node)?.as_raw_nonzero());
            let status = fs::read_to_string(status)?;
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()).context("no such memory")?;
            largest = largest.max(kib.parse::<u64>()? / 1024);
        }
        Ok(largest)
    }
}

impl Load {
    /// When its measurement began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Waits for its summary.
    pub(crate) fn finish(self) -> Result<Value> {
        let output = self.process.wait_with_output()?;
        let progress = self.progress.join().expect("reading does not panic");
        let stdout = String::from_utf8_lossy(&output.stdout);
        ensure!(!stdout.is_empty(), "kv_client bench: {}", progress.join("\n"));
        serde_json::from_str(&stdout).with_context(|| stdout.into_owned())
    }
}

/// A figure of a summary.
pub(crate) fn figure(summary: &Value, name: &str) -> Result<f64> {
    summary[name].as_f64().with_context(|| format!("no {name} in {summary}"))
}

/// Ports that nobody else takes while this lives.
pub(crate) struct Ports(Vec<Port>);

impl Ports {
    pub(crate) fn claim(count: usize) -> Result<Self> {
        Ok(Self(cluster::free_ports(count)?))
    }

    pub(crate) fn number(&self, place: usize) -> u16 {
        self.0[place].number()
    }
}

/// What was measured on, in a line: figures of two machines have nothing to do with each other.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let models: Vec<&str> = cpus.lines().filter(|line| line.starts_with("model name")).collect();
    let model = models.first().and_then(|line| line.split_once(": ")).map_or("unknown", |(_, model)| model);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("unknown");
    let directory = std::env::temp_dir();
    format!(
        "{} cores ({model}), Linux {}, data on {} ({}), load average before: {load}",
        std::thread::available_parallelism().map_or(0, usize::from),
        kernel.trim(),
        directory.display(),
        file_system(&directory),
    )
}

/// The kind of file system that a directory is on.
fn file_system(directory: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let below = fields.filter(|fields| fields.len() > 2 && directory.starts_with(fields[1]));
    let nearest = below.max_by_key(|fields| fields[1].len());
    nearest.map_or("unknown".into(), |fields| fields[2].to_owned())
}
