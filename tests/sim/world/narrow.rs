//! Narrow links: where an AppendEntries takes longer to arrive than a follower is patient.
//!
//! A calm cluster of whole servers (byte mode) on fast disks. What is large takes most of a second on
//! its way, and heartbeats wait behind it; the leader itself is patient enough.

use kvstore::replica::{Caps, SnapshotOptions};
use kvstore::time::{Duration, Instant};
use kvstore::types::Term;

use super::World;
use crate::sim::operations::Ending;
use crate::sim::pipe_plan::Mode;
use crate::sim::plan::{Plan, Timing};

/// For so long links are made, the cluster is founded, and a leader is found.
const SETTLING: Duration = Duration::from_secs(10);
const MEASURED: Duration = Duration::from_secs(120);
/// 3 KB, the largest value, arrive within 750 ms.
const BYTES_PER_SECOND: u64 = 4_000;

/// What became of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// The term at the beginning and at the end.
    pub(crate) terms: [Term; 2],
    /// Puts that were answered in between.
    pub(crate) puts: usize,
}

/// A client puts for two minutes.
pub(crate) fn run(seed: u64) -> Outcome {
    let mut world = World::new(seed, plan(seed), false);
    world.run_until(Instant::ZERO + SETTLING);
    let (before, first) = (world.latest_term(), world.operations.records().len());
    world.run_until(world.now + MEASURED);
    let records = world.operations.records()[first..].iter();
    let puts = records.filter(|record| matches!(record.ending, Ending::Answered { .. })).count();
    Outcome { terms: [before, world.latest_term()], puts }
}

fn plan(seed: u64) -> Plan {
    let mut plan = Plan::draw(seed, Mode::Bytes);
    plan.nodes = 3;
    let ms = Duration::from_millis;
    plan.timing = Timing { heartbeat: ms(100), election_min: ms(300), election_max: ms(3_000) };
    plan.weather.latency = (ms(1), ms(1));
    (plan.weather.tail_per_million, plan.weather.loss_per_million) = (0, 0);
    let sync = Duration::from_micros(200);
    (plan.disk.sync, plan.disk.slow_per_million) = ((sync, sync), 0);
    (plan.disk.short_counts, plan.disk.segment_bytes) = (false, 1 << 20);
    (plan.clients.count, plan.clients.keys, plan.clients.think) = (1, 1, ms(100));
    (plan.clients.least_patience, plan.clients.patience) = (Duration::from_secs(60), Duration::from_secs(60));
    (plan.clients.mix, plan.clients.named_per_million) = ([1, 0, 0, 0, 0, 0, 0, 0], 0);
    plan.clients.large_per_million = 1_000_000;
    (plan.caps, plan.snapshots) = (Caps::default(), SnapshotOptions::default());
    plan.faults.means.clear();
    plan.clock_error_ppm = 0;
    (plan.pipes.capacity, plan.pipes.bytes_per_second) = (256 << 10, Some(BYTES_PER_SECOND));
    (plan.pipes.oddity_per_million, plan.pipes.interrupts_per_million) = (0, 0);
    plan
}

impl World {
    fn latest_term(&self) -> Term {
        let rafts = self.nodes.iter().filter_map(|node| Some(node.process.as_ref()?.replica().raft()));
        rafts.map(|raft| raft.term()).max().expect("all run")
    }
}
