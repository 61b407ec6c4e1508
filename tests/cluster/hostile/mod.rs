//! Whoever reaches the port may send what he likes. He gets an answer if he was understood, and is
//! closed; nobody else notices: the leader and its term stay, other clients are served, and the
//! memory that he took comes back.

mod bytes;
mod limits;
mod nodes;
mod overload;
mod raw;
mod slow;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use kvstore::client::Client;
use kvstore::wire::client::NodeStatus;

use crate::cluster::{Cluster, PATIENCE};
use crate::setup::{CALM, client_of, eventually, founded_with};

/// What a node may keep of an attack, allocator and warm caches included.
const KEPT_BYTES: u64 = 24 << 20;
/// What any other client may have to wait, on a machine that runs other tests beside this one.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A calm cluster, of which the leader is attacked.
struct Target {
    cluster: Cluster,
    resident: u64,
}

impl Target {
    fn new() -> Result<Self> {
        Self::with(&CALM)
    }

    fn with(options: &[&str]) -> Result<Self> {
        let cluster = founded_with(3, options)?;
        // Memory that any work takes for good is taken before.
        let mut client = cluster.client()?;
        for _ in 0..20 {
            client.put("bystander", vec![b'v'; 1 << 10])?;
            client.get("bystander")?;
        }
        let resident = resident_bytes(&cluster, 0)?;
        Ok(Self { cluster, resident })
    }

    fn port(&self) -> u16 {
        self.cluster.port(0)
    }

    /// How much more memory the leader takes than before the attack.
    fn growth(&self) -> Result<u64> {
        Ok(resident_bytes(&self.cluster, 0)?.saturating_sub(self.resident))
    }

    /// A bound of the leader, as its status shows it: present use and cap.
    fn bound(&self, name: &str) -> Result<(u64, u64)> {
        let bounds = self.cluster.status(0)?.bounds;
        let bound = bounds.iter().find(|bound| bound.name == name);
        bound.map(|bound| (bound.used, bound.cap)).with_context(|| format!("no bound {name}"))
    }

    /// Attacks while a bystander reads and writes, and checks that nothing has come of it.
    fn withstands(&self, attack: impl FnOnce() -> Result<()>) -> Result<()> {
        let is_over = AtomicBool::new(false);
        let client = self.cluster.client()?;
        thread::scope(|scope| {
            let bystander = scope.spawn(|| stand_by(client, &is_over));
            let attacked = attack();
            is_over.store(true, Ordering::SeqCst);
            let waited = bystander.join().expect("a bystander does not panic").context("the bystander")?;
            attacked?;
            ensure!(waited <= LONGEST_WAIT, "a bystander waited {waited:?}");
            Ok(())
        })?;
        self.check_calm()
    }

    fn check_calm(&self) -> Result<()> {
        for node in 0..3 {
            let NodeStatus { term, leader, .. } = self.cluster.status(node)?;
            let seen = (term.0, leader.map(|leader| leader.0));
            ensure!(seen == (1, Some(1)), "node {} sees term and leader {seen:?}", node + 1);
            let mut client = client_of(&self.cluster, &[node], PATIENCE)?;
            client.put("after", "the attack")?;
            ensure!(client.get("after")?.value.as_deref() == Some(&b"the attack"[..]));
        }
        eventually("the attacker's connections are gone", || {
            // One is the status' own; a session that was just closed may still be there.
            let clients = self.bound("client_connections").ok()?.0;
            (clients <= 2 && self.bound("unknown_connections").ok()?.0 == 0).then_some(())
        })?;
        let mut growth = u64::MAX;
        eventually("memory is given back", || {
            growth = self.growth().ok()?;
            (growth <= KEPT_BYTES).then_some(())
        })
        .with_context(|| format!("{growth} bytes were kept"))
    }
}

/// Reads and writes until it is over. The longest wait for an answer.
fn stand_by(mut client: Client, is_over: &AtomicBool) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    while !is_over.load(Ordering::SeqCst) {
        let began = Instant::now();
        client.put("bystander", "here")?;
        client.get("bystander")?;
        longest = longest.max(began.elapsed());
        // A client that never rests would be a load of its own.
        thread::sleep(Duration::from_millis(2));
    }
    Ok(longest)
}

/// The resident memory of a node's process.
pub(crate) fn resident_bytes(cluster: &Cluster, node: usize) -> Result<u64> {
    let pid = cluster.pid(node)?.as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}

/// Processor time that a node's process has taken.
pub(crate) fn processor_time(cluster: &Cluster, node: usize) -> Result<Duration> {
    let pid = cluster.pid(node)?.as_raw_nonzero();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // After the name, which may hold anything, come the fields from the third on.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|ticks| ticks.parse::<u64>().ok());
    let (user, system) = ticks(14).zip(ticks(15)).context("no times in stat")?;
    Ok(Duration::from_millis((user + system) * 10))
}
