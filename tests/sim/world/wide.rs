//! Wide links: what a put and a fail-over cost where every message takes its time.
//!
//! A calm cluster of whole servers (byte mode), all sites equally far from each other, one client
//! that puts. What stands beside each figure is the least that the protocol allows: round trips,
//! with nothing in between.

use kvstore::raft::Raft;
use kvstore::replica::{Caps, SnapshotOptions};
use kvstore::time::{Duration, Instant};
use kvstore::wire::client::RoleName;

use super::World;
use crate::sim::disk::End;
use crate::sim::operations::Ending;
use crate::sim::pipe_plan::Mode;
use crate::sim::plan::{Plan, Timing};

/// For so long links are made, the cluster is founded, and a leader is found.
const SETTLING: Duration = Duration::from_secs(5);
/// For so long puts are measured.
const MEASURED: Duration = Duration::from_secs(5);
/// A fail-over that takes longer is none.
const LONGEST: Duration = Duration::from_secs(60);

/// A cluster on wide links.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wide {
    pub(crate) nodes: usize,
    pub(crate) round_trip: Duration,
}

/// What was measured, or the least that it could be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// A put, median, by a client that is as far away as everybody else.
    pub(crate) put: Duration,
    /// From the death of the leader's process to the first entry that its successor commits.
    pub(crate) killed: Duration,
    /// The same, from the moment at which the leader's machine falls silent.
    pub(crate) silent: Duration,
}

impl Wide {
    /// The timing that such links want: the default where a heartbeat leaves room for three round
    /// trips, else a heartbeat each round trip, and elections after 6 to 12 of them.
    pub(crate) fn timing(&self) -> Timing {
        let usual = Duration::from_millis(30);
        if self.round_trip * 3 <= usual {
            return Timing { heartbeat: usual, election_min: usual * 5, election_max: usual * 25 / 3 };
        }
        let heartbeat = self.round_trip;
        Timing { heartbeat, election_min: heartbeat * 6, election_max: heartbeat * 12 }
    }

    /// Client to leader and back, around leader to follower and back. After a death: the reset comes
    /// half a round trip later, then redial, pre-vote, vote, and the first entry. In silence: the
    /// shortest election timeout since the last heartbeat, which left one interval before.
    pub(crate) fn least(&self) -> Figures {
        let Timing { heartbeat, election_min, .. } = self.timing();
        Figures {
            put: self.round_trip * 2,
            killed: self.round_trip * 9 / 2,
            silent: election_min + self.round_trip * 7 / 2 - heartbeat,
        }
    }

    /// Medians over some seeds.
    pub(crate) fn measure(&self, seeds: u64) -> Figures {
        let (mut puts, mut killed, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        for seed in 1..=seeds {
            for (how, times) in [(End::Kill, &mut killed), (End::PowerCut, &mut silent)] {
                let mut world = World::new(seed, self.plan(seed), false);
                world.run_until(Instant::ZERO + SETTLING);
                let first = world.operations.records().len();
                world.run_until(world.now + MEASURED);
                puts.extend(world.put_times(first));
                // Somewhere between two heartbeats.
                world.run_until(world.now + self.timing().heartbeat * seed as u32 / seeds as u32);
                times.push(world.fail_over(how));
            }
        }
        Figures { put: median(puts), killed: median(killed), silent: median(silent) }
    }

    fn plan(&self, seed: u64) -> Plan {
        let mut plan = Plan::draw(seed, Mode::Bytes);
        plan.nodes = self.nodes;
        plan.timing = self.timing();
        plan.weather.latency = (self.round_trip / 2, self.round_trip / 2);
        (plan.weather.tail_per_million, plan.weather.loss_per_million) = (0, 0);
        let sync = Duration::from_micros(200);
        (plan.disk.sync, plan.disk.slow_per_million) = ((sync, sync), 0);
        (plan.disk.short_counts, plan.disk.segment_bytes) = (false, 1 << 20);
        (plan.clients.count, plan.clients.keys, plan.clients.think) = (1, 1, Duration::from_millis(1));
        (plan.clients.least_patience, plan.clients.patience) = (LONGEST, LONGEST);
        (plan.clients.mix, plan.clients.named_per_million) = ([1, 0, 0, 0, 0, 0, 0, 0], 0);
        (plan.caps, plan.snapshots) = (Caps::default(), SnapshotOptions::default());
        plan.faults.means.clear();
        plan.clock_error_ppm = 0;
        // Who was ended stays away.
        plan.longest_fault = Duration::from_secs(1 << 20);
        (plan.pipes.capacity, plan.pipes.fragments_per_million) = (256 << 10, 0);
        (plan.pipes.oddity_per_million, plan.pipes.interrupts_per_million) = (0, 0);
        plan
    }
}

impl World {
    fn put_times(&self, first: usize) -> Vec<Duration> {
        let records = self.operations.records()[first..].iter();
        let answered = records.filter(|record| matches!(record.ending, Ending::Answered { .. }));
        answered.filter_map(|record| Some(record.ended?.since(record.began))).collect()
    }

    /// Ends the leader; how long it takes until another one has committed an entry of its own.
    fn fail_over(&mut self, how: End) -> Duration {
        let leads = |raft: &Raft| raft.role_name() == RoleName::Leader;
        let rafts = |world: &Self| -> Vec<Option<(bool, bool)>> {
            let raft = |node: &crate::sim::node::SimNode| {
                let raft = node.process.as_ref()?.replica().raft();
                let log = raft.log();
                Some((leads(raft), log.term_at(log.committed()) == Some(raft.term())))
            };
            world.nodes.iter().map(raft).collect()
        };
        let leader = rafts(self).iter().position(|raft| raft.is_some_and(|(leads, _)| leads));
        self.end_process(leader.expect("a calm cluster has a leader"), how);
        let began = self.now;
        while !rafts(self).contains(&Some((true, true))) {
            assert!(self.now.since(began) < LONGEST, "nobody takes over");
            self.run_until(self.now + Duration::from_micros(100));
        }
        self.now.since(began)
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
