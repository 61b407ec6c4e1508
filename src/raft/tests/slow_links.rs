//! Links that take their time: much is under way on each, and a heartbeat lies behind all of it.

use std::collections::{BTreeMap, VecDeque};

use super::cluster::{Cluster, Flight};
use super::report;
use crate::raft::Event;
use crate::time::{Duration, Instant};
use crate::types::NodeId;
use crate::wire::codec::Writer;

/// How long a link takes for as much as one AppendEntries holds: 100 Mbit/s and 1 MiB, say, though it is
/// less here, all in proportion, for the test's own sake.
const PER_APPEND: Duration = Duration::from_millis(80);
const APPEND_BYTES: u32 = 4 << 10;

/// One direction of a link: messages arrive in order, each when all its bytes have passed.
#[derive(Default)]
struct Line {
    free_at: Instant,
    under_way: VecDeque<(Instant, Flight)>,
}

impl Line {
    fn send(&mut self, now: Instant, flight: Flight) {
        let mut bytes = Writer::new();
        flight.message.encode(&mut bytes);
        let length = u32::try_from(bytes.into_bytes().len()).expect("a message");
        self.free_at = self.free_at.max(now) + PER_APPEND * length / APPEND_BYTES;
        self.under_way.push_back((self.free_at, flight));
    }

    fn arrived(&mut self, now: Instant) -> Option<Flight> {
        self.under_way.pop_front_if(|(at, _)| *at <= now).map(|(_, flight)| flight)
    }
}

/// A leader that is given as much as it takes, on links that all have this bandwidth.
fn lead_for(duration: Duration) -> Cluster {
    let mut cluster = Cluster::founded(3, |config| {
        config.max_append_bytes = APPEND_BYTES as usize;
        config.window_bytes = 8 * config.max_append_bytes;
        config.max_uncommitted_bytes = 16 * config.max_append_bytes;
    });
    cluster.elapse(Duration::from_millis(500));
    let leader = cluster.leader().expect("somebody leads");
    cluster.events.clear();
    let mut lines: BTreeMap<(NodeId, NodeId), Line> = BTreeMap::new();
    let (end, command) = (cluster.now + duration, "x".repeat(1 << 10));
    while cluster.now < end && cluster.raft(leader).leader() == Some(leader) {
        while cluster.propose(leader, &command).is_ok() {}
        for id in cluster.ids() {
            cluster.tick(id);
            cluster.ready(id);
            cluster.advance(id);
        }
        for flight in std::mem::take(&mut cluster.network) {
            lines.entry((flight.from, flight.to)).or_default().send(cluster.now, flight);
        }
        for line in lines.values_mut() {
            while let Some(flight) = line.arrived(cluster.now) {
                cluster.deliver(flight);
            }
        }
        cluster.now += Duration::from_millis(1);
    }
    cluster
}

#[test]
fn leader_whose_links_are_full_of_entries_stays() {
    let cluster = lead_for(Duration::from_secs(3));
    let told: Vec<String> =
        cluster.events.iter().map(|(id, event)| format!("n{id} {}", report::event(event))).collect();
    let is_calm = |(_, event): &(NodeId, Event)| matches!(event, Event::ProtocolViolation { .. });
    assert!(cluster.events.iter().all(is_calm), "{told:?}");
    let leader = cluster.leader().expect("it leads on");
    let full = cluster.raft(leader).in_flight_bytes();
    assert!(
        full >= cluster.raft(leader).config().window_bytes,
        "the window was meant to be full: {full} bytes"
    );
    assert!(cluster.raft(leader).log().committed().0 > 60, "much was committed");
}
