//! Cluster time: the clock of sessions, which stands still while nobody leads.

use crate::time::Instant;
use crate::types::ClusterTime;

/// A leader's reading of cluster time: the stamp of the last entry applied when its own no-op was
/// applied, and the time that went by since. No wall clock is read, an election makes no jump, and
/// a stamp never falls (Raft sees to the last, should two leaders' readings differ).
#[derive(Debug, Default)]
pub(super) struct ClusterClock {
    anchor: Option<(ClusterTime, Instant)>,
}

impl ClusterClock {
    /// This node leads, and has just applied its no-op, with this stamp.
    pub(super) fn start(&mut self, stamp: ClusterTime, now: Instant) {
        self.anchor = Some((stamp, now));
    }

    /// This node leads no more.
    pub(super) fn stop(&mut self) {
        self.anchor = None;
    }

    /// The time now; `applied`, the stamp of the last applied entry, on a node whose clock does not
    /// run.
    pub(super) fn read(&self, now: Instant, applied: ClusterTime) -> ClusterTime {
        let running = self.anchor.map(|(stamp, since)| stamp.plus(now.since(since)));
        running.map_or(applied, |time| time.max(applied))
    }

    /// When the clock will read `time`; `None` while it does not run.
    pub(super) fn moment_of(&self, time: ClusterTime) -> Option<Instant> {
        self.anchor.map(|(stamp, since)| since + time.since(stamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_clock_of_a_new_leader_goes_on_from_the_applied_stamp() {
        let mut clock = ClusterClock::default();
        let later = Instant::from_millis(5_000);
        assert_eq!(clock.read(later, ClusterTime(70)), ClusterTime(70), "it stands still");
        clock.start(ClusterTime(70), later);
        let now = Instant::from_millis(5_030);
        assert_eq!(clock.read(now, ClusterTime(70)), ClusterTime(100));
        assert_eq!(clock.read(now, ClusterTime(170)), ClusterTime(170), "never behind what is applied");
        assert_eq!(clock.moment_of(ClusterTime(100)), Some(now));
        clock.stop();
        assert_eq!(clock.read(now, ClusterTime(90)), ClusterTime(90));
    }
}
