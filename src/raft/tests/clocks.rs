//! Clocks may begin anywhere.

use super::cluster::Cluster;
use crate::raft::{Config, Raft};
use crate::time::{Duration, Instant};
use crate::types::NodeId;
use crate::wire::entry::HardState;

/// Deadlines near the end of time saturate instead of wrapping (V14).
#[test]
fn core_near_the_end_of_time_does_not_wrap() {
    let end = u64::MAX;
    for start in [0, end / 2, end - 1_000_000_000, end - 1] {
        let start = Instant::from_nanos(start);
        let founding = Cluster::founded(3, |_| {}).founding();
        let mut raft = Raft::new(Config::new(NodeId(1), 7), HardState::default(), vec![founding], start);
        for step in 0..100 {
            let now = start + Duration::from_millis(step * 10);
            raft.tick(now);
            assert!(raft.next_deadline() >= now || raft.has_ready(now));
            let ready = raft.ready(now);
            let _ = raft.advance(now, ready.mark);
        }
    }
}
