//! What a replica waits for.

use super::Replica;
use super::cluster_clock::ClusterClock;
use crate::storage::Disk;
use crate::time::Instant;
use crate::timer_wheel::{TimerKey, TimerWheel};
use crate::wire::Writer;
use crate::wire::client::Command;

/// Why it is to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// Raft's next deadline: elections, heartbeats, the loss of a quorum.
    Raft,
    /// A parked request has waited long enough.
    Parked { slot: usize },
    /// The leader proposes to expire sessions.
    Expiry,
    /// There is news for the other members.
    Telling,
    /// A snapshot for which there was no room may be tried again.
    Room,
}

/// The replica's wheel, the four timers of which there is one each, and cluster time.
pub(super) struct Timers {
    pub(super) wheel: TimerWheel<Timer>,
    pub(super) raft: Option<(TimerKey, Instant)>,
    pub(super) expiry: Option<(TimerKey, Instant)>,
    pub(super) telling: Option<(TimerKey, Instant)>,
    pub(super) room: Option<(TimerKey, Instant)>,
    /// The last proposal to expire sessions is given this long to be applied, and no longer than it takes.
    pub(super) no_expiry_before: Instant,
    /// By which expiry is due.
    pub(super) clock: ClusterClock,
}

impl Timers {
    pub(super) fn new(now: Instant) -> Self {
        let (wheel, clock) = (TimerWheel::new(now), ClusterClock::default());
        Self { wheel, raft: None, expiry: None, telling: None, room: None, no_expiry_before: now, clock }
    }

    /// Sessions were expired, perhaps not all that are overdue: the next proposal need not wait.
    pub(super) fn on_expiry_applied(&mut self) {
        self.no_expiry_before = Instant::ZERO;
    }

    /// Keeps each of these timers at its deadline or before: a deadline that moved later (as with every
    /// heartbeat heard) leaves the timer where it is, to fire for nothing once.
    fn arm(&mut self, raft: Option<Instant>, expiry: Option<Instant>) {
        let expiry = expiry.map(|moment| moment.max(self.no_expiry_before));
        arm(&mut self.wheel, &mut self.raft, raft, Timer::Raft);
        arm(&mut self.wheel, &mut self.expiry, expiry, Timer::Expiry);
    }

    /// The same for those that only wake.
    fn arm_wakes(&mut self, telling: Option<Instant>, room: Option<Instant>) {
        arm(&mut self.wheel, &mut self.telling, telling, Timer::Telling);
        arm(&mut self.wheel, &mut self.room, room, Timer::Room);
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

impl<D: Disk> Replica<D> {
    /// The leader's wake-up to expire sessions.
    pub(super) fn propose_expiry(&mut self, now: Instant) {
        self.timers.no_expiry_before = now + self.raft.config().election_max;
        let time = self.timers.clock.read(now, self.state.cluster_time());
        if self.leads() && time >= self.state.next_expiry() {
            let mut out = Writer::new();
            Command::ExpireSessions.encode(&mut out);
            // If it is refused now, the timer is armed again all the same.
            let _ = self.raft.propose(time, out.into_bytes());
        }
    }

    pub(super) fn arm_timers(&mut self, now: Instant) {
        let raft = Some(self.raft.next_deadline()).filter(|deadline| *deadline < Instant::MAX);
        let expiry = self.timers.clock.moment_of(self.state.next_expiry());
        self.timers.arm(raft, expiry);
        let room = self.snapshots.sizes.no_room_until.filter(|until| now < *until);
        self.timers.arm_wakes(self.telling_deadline(), room);
    }
}
