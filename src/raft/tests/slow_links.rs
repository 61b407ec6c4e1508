//! Links that take their time: much is under way on each, and a heartbeat lies behind all of it.

use std::collections::{BTreeMap, VecDeque};

use super::cluster::{Cluster, Flight};
use super::report;
use crate::raft::Event;
use crate::time::{Duration, Instant};
use crate::types::NodeId;
use crate::wire::codec::Writer;
use crate::wire::peer::Message;

/// How long a link takes for as much as one AppendEntries holds: 100 Mbit/s and 1 MiB, say, though it is
/// less here, all in proportion, for the test's own sake.
const PER_APPEND: Duration = Duration::from_millis(80);
const APPEND_BYTES: u32 = 4 << 10;

/// One direction of a link: messages arrive in order, each when all its bytes have passed.
#[derive(Default)]
struct Line {
    free_at: Instant,
    /// When each leaves and arrives.
    under_way: VecDeque<(Instant, Instant, Flight)>,
}

impl Line {
    fn send(&mut self, now: Instant, per_append: Duration, flight: Flight) {
        let mut bytes = Writer::new();
        flight.message.encode(&mut bytes);
        let length = u32::try_from(bytes.into_bytes().len()).expect("a message");
        self.free_at = self.free_at.max(now) + per_append * length / APPEND_BYTES;
        self.under_way.push_back((now, self.free_at, flight));
    }

    fn arrived(&mut self, now: Instant) -> Option<(Instant, Flight)> {
        self.under_way.pop_front_if(|(_, at, _)| *at <= now).map(|(left_at, _, flight)| (left_at, flight))
    }
}

struct Run {
    cluster: Cluster,
    /// What a heartbeat took to arrive, at most, on the links that replaced the first.
    longest_heartbeat: Duration,
    most_in_flight: usize,
}

/// A leader that is given as much as it takes, on links that all have this bandwidth.
fn lead_for(duration: Duration, per_append: Duration) -> Run {
    let mut cluster = Cluster::founded(3, |config| {
        config.max_append_bytes = APPEND_BYTES as usize;
        config.window_bytes = 8 * config.max_append_bytes;
        config.max_uncommitted_bytes = 16 * config.max_append_bytes;
    });
    cluster.elapse(Duration::from_millis(500));
    let leader = cluster.leader().expect("somebody leads");
    cluster.events.clear();
    let mut lines: BTreeMap<(NodeId, NodeId), Line> = BTreeMap::new();
    let (begin, command) = (cluster.now, "x".repeat(1 << 10));
    let (replaced_at, end) = (begin + duration / 3, begin + duration);
    let (mut longest_heartbeat, mut most_in_flight) = (Duration::ZERO, 0);
    while cluster.now < end && cluster.raft(leader).leader() == Some(leader) {
        if cluster.now == replaced_at {
            lines.clear();
            for id in cluster.ids().into_iter().filter(|id| *id != leader) {
                for (from, to) in [(leader, id), (id, leader)] {
                    cluster.link_down(from, to);
                    cluster.link_up(from, to);
                }
            }
        }
        while cluster.propose(leader, &command).is_ok() {}
        for id in cluster.ids() {
            cluster.tick(id);
            cluster.ready(id);
            cluster.advance(id);
        }
        for flight in std::mem::take(&mut cluster.network) {
            lines.entry((flight.from, flight.to)).or_default().send(cluster.now, per_append, flight);
        }
        for line in lines.values_mut() {
            while let Some((left_at, flight)) = line.arrived(cluster.now) {
                if matches!(flight.message, Message::Heartbeat(_)) && left_at >= replaced_at {
                    longest_heartbeat = longest_heartbeat.max(cluster.now.since(left_at));
                }
                cluster.deliver(flight);
            }
        }
        most_in_flight = most_in_flight.max(cluster.raft(leader).in_flight_bytes());
        cluster.now += Duration::from_millis(1);
    }
    Run { cluster, longest_heartbeat, most_in_flight }
}

#[test]
fn leader_whose_links_are_full_of_entries_stays() {
    let run = lead_for(Duration::from_secs(3), PER_APPEND);
    let cluster = &run.cluster;
    let told: Vec<String> =
        cluster.events.iter().map(|(id, event)| format!("n{id} {}", report::event(event))).collect();
    let is_calm = |(_, event): &(NodeId, Event)| matches!(event, Event::ProtocolViolation { .. });
    assert!(cluster.events.iter().all(is_calm), "{told:?}");
    let leader = cluster.leader().expect("it leads on");
    assert!(cluster.raft(leader).log().committed().0 > 60, "much was committed");
}

/// One AppendEntries is under way at most, and a heartbeat that leaves behind it arrives right behind it,
/// though entries wait all the time and the window may be eight times as wide.
#[test]
fn heartbeat_on_a_slow_link_waits_behind_one_append_only() {
    let run = lead_for(Duration::from_secs(3), PER_APPEND);
    let most = PER_APPEND + PER_APPEND / 8;
    assert!(run.longest_heartbeat <= most, "{} ms", run.longest_heartbeat.as_millis());
}

#[test]
fn window_of_a_fast_link_is_as_wide_as_it_may_be() {
    let run = lead_for(Duration::from_secs(3), PER_APPEND / 10);
    let leader = run.cluster.leader().expect("it leads on");
    let widest = run.cluster.raft(leader).config().window_bytes;
    assert!(run.most_in_flight > widest * 7 / 8, "{} bytes", run.most_in_flight);
}
