//! What nodes' processes take of the machine, as the system counts it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::cluster::Cluster;

/// One node's process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint {
    /// Resident memory.
    resident_kib: u64,
    /// The most that it ever was.
    peak_kib: u64,
    /// Open descriptors of sockets.
    pub(super) sockets: usize,
    /// All other open descriptors: segments of the log above all.
    pub(super) files: usize,
}

impl Footprint {
    /// Of a node that runs.
    pub(super) fn of(cluster: &Cluster, node: usize) -> Result<Self> {
        let process = format!("/proc/{}", cluster.pid(node)?.as_raw_nonzero());
        let status = fs::read_to_string(format!("{process}/status"))?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let line = line.with_context(|| format!("no {name} in a process' status"))?;
            line.trim().trim_end_matches(" kB").parse().context("no number of kilobytes")
        };
        // One that is closed while it is looked at is no longer open.
        let open = fs::read_dir(format!("{process}/fd"))?.flatten();
        let (sockets, files): (Vec<PathBuf>, Vec<PathBuf>) = open
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .partition(|target| target.to_string_lossy().starts_with("socket:"));
        let (sockets, files) = (sockets.len(), files.len());
        Ok(Self { resident_kib: kib("VmRSS:")?, peak_kib: kib("VmHWM:")?, sockets, files })
    }

    /// Of each of so many nodes, in their order.
    pub(super) fn of_each(cluster: &Cluster, nodes: usize) -> Result<Vec<Self>> {
        (0..nodes).map(|node| Self::of(cluster, node)).collect()
    }

    pub(super) fn resident_mib(&self) -> u64 {
        self.resident_kib >> 10
    }

    pub(super) fn peak_mib(&self) -> u64 {
        self.peak_kib >> 10
    }
}
