//! Requests that wait for a leader.

use slab::Slab;

use super::ClientConnection;
use crate::time::{Duration, Instant};
use crate::timer_wheel::TimerKey;
use crate::wire::client::Request;

/// How long a request waits for a leader at most; then its client may know better where to ask.
pub(super) const PARKING_TIME: Duration = Duration::from_millis(150);

/// A request, whose it is, and until when it may wait here.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) client: ClientConnection,
    pub(super) request: Request,
    /// Set when the request first arrives, so that parking it again gains it no time.
    pub(super) leave_at: Instant,
}

impl Arrival {
    pub(super) fn new(now: Instant, client: ClientConnection, request: Request) -> Self {
        let time_left = Duration::from_millis(u64::from(request.time_left_ms));
        // The answer must get there before its client gives up, and a definite no becomes unknown.
        let may_wait = time_left - time_left / 4;
        Self { client, leave_at: now + may_wait.min(PARKING_TIME), request }
    }
}

/// The parked requests.
///
/// Invariants: each has its timer in the replica's wheel; there are at most `MAX_PARKED`; `bytes` is
/// the sum over them, and stays below `MAX_BYTES` but for the last one that came.
#[derive(Debug, Default)]
pub(super) struct Parking {
    parked: Slab<(Arrival, TimerKey)>,
    bytes: usize,
}

impl Parking {
    /// More are refused as busy.
    pub(super) const MAX_PARKED: usize = 4096;
    /// Keys and values beyond this are refused as busy too: requests may be large.
    pub(super) const MAX_BYTES: usize = 32 << 20;

    pub(super) fn len(&self) -> usize {
        self.parked.len()
    }

    /// Bytes of keys and values in all of them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_full(&self) -> bool {
        self.parked.len() >= Self::MAX_PARKED || self.bytes >= Self::MAX_BYTES
    }

    /// The slot that `park` takes next, for the timer to name.
    pub(super) fn vacant(&self) -> usize {
        self.parked.vacant_key()
    }

    pub(super) fn park(&mut self, arrival: Arrival, timer: TimerKey) {
        assert!(!self.is_full(), "the caller refuses what is too much");
        self.bytes += arrival.request.body.payload_bytes();
        self.parked.insert((arrival, timer));
    }

    /// Takes the request whose timer fired; `None` if it has left, and the slot perhaps belongs to
    /// another now.
    pub(super) fn take(&mut self, slot: usize, timer: TimerKey) -> Option<Arrival> {
        let is_its_own = self.parked.get(slot).is_some_and(|(_, key)| *key == timer);
        is_its_own.then(|| self.remove(slot).0)
    }

    /// Takes all, in the order of their slots, each with the timer to cancel.
    pub(super) fn take_all(&mut self) -> Vec<(Arrival, TimerKey)> {
        self.bytes = 0;
        self.parked.drain().collect()
    }

    /// Takes those of a connection that is gone; gives their timers.
    pub(super) fn take_of(&mut self, client: ClientConnection) -> Vec<TimerKey> {
        let of_client = self.parked.iter().filter(|(_, (arrival, _))| arrival.client == client);
        let slots: Vec<usize> = of_client.map(|(slot, _)| slot).collect();
        slots.into_iter().map(|slot| self.remove(slot).1).collect()
    }

    fn remove(&mut self, slot: usize) -> (Arrival, TimerKey) {
        let (arrival, timer) = self.parked.remove(slot);
        self.bytes -= arrival.request.body.payload_bytes();
        (arrival, timer)
    }
}
