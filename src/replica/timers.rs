//! What a replica waits for.

use super::cluster_clock::ClusterClock;
use crate::time::Instant;
use crate::timer_wheel::{TimerKey, TimerWheel};

/// Why it is to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Raft's next deadline: elections, heartbeats, the loss of a quorum.
    Raft,
    /// A parked request has waited long enough.
    Parked { slot: usize },
    /// The leader proposes to expire sessions.
    Expiry,
}

/// The replica's wheel, the two timers of which there is one each, and cluster time.
pub(super) struct Timers {
    pub(super) wheel: TimerWheel<Timer>,
    pub(super) raft: Option<(TimerKey, Instant)>,
    pub(super) expiry: Option<(TimerKey, Instant)>,
    /// The last proposal to expire sessions is given this long to be applied.
    pub(super) no_expiry_before: Instant,
    /// By which expiry is due.
    pub(super) clock: ClusterClock,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        let (wheel, clock) = (TimerWheel::new(now), ClusterClock::default());
        Self { wheel, raft: None, expiry: None, no_expiry_before: now, clock }
    }

    /// Keeps one timer for Raft and one for expiry, each at its deadline or before: a deadline that
    /// moved later (as with every heartbeat heard) leaves the timer where it is, to fire for
    /// nothing once.
    pub(super) fn arm(&mut self, raft: Option<Instant>, expiry: Option<Instant>) {
        let expiry = expiry.map(|moment| moment.max(self.no_expiry_before));
        arm(&mut self.wheel, &mut self.raft, raft, Timer::Raft);
        arm(&mut self.wheel, &mut self.expiry, expiry, Timer::Expiry);
    }
}

fn arm(
    wheel: &mut TimerWheel<Timer>,
    armed: &mut Option<(TimerKey, Instant)>,
    deadline: Option<Instant>,
    timer: Timer,
) {
    match (&armed, deadline) {
        (Some((_, at)), Some(deadline)) if *at <= deadline => {}
        (_, Some(deadline)) => {
            if let Some((key, _)) = armed.take() {
                wheel.cancel(key);
            }
            *armed = Some((wheel.insert(deadline, timer), deadline));
        }
        (_, None) => {}
    }
}
