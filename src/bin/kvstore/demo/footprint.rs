//! What nodes' processes take of the machine, as the system counts it.

use std::fs;

use anyhow::{Context, Result};

use super::cluster::Cluster;

/// One node's process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Footprint {
    /// Resident memory.
    pub(super) resident_kib: u64,
    /// Open descriptors.
    pub(super) descriptors: usize,
}

impl Footprint {
    /// Of a node that runs.
    pub(super) fn of(cluster: &Cluster, node: usize) -> Result<Self> {
        let process = format!("/proc/{}", cluster.pid(node)?.as_raw_nonzero());
        let status = fs::read_to_string(format!("{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS line")?;
        let resident_kib = line.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { resident_kib, descriptors: fs::read_dir(format!("{process}/fd"))?.count() })
    }

    /// Of each of so many nodes, in their order.
    pub(super) fn of_each(cluster: &Cluster, nodes: usize) -> Result<Vec<Self>> {
        (0..nodes).map(|node| Self::of(cluster, node)).collect()
    }

    pub(super) fn resident_mib(&self) -> u64 {
        self.resident_kib >> 10
    }
}
