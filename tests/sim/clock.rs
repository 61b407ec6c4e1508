//! Clocks of nodes: each runs from an origin of its own, a little too fast or too slow.

use kvstore::time::{Duration, Instant};

/// A node's monotonic clock, as a function of the world's time.
///
/// Invariant: it never goes back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalClock {
    began: Instant,
    origin: Instant,
    /// Local nanoseconds in a million of the world's.
    rate: u64,
}

impl LocalClock {
    /// A clock that shows `origin` now.
    pub(crate) fn new(now: Instant, origin: Instant, rate: u64) -> Self {
        Self { began: now, origin, rate }
    }

    /// What it shows.
    pub(crate) fn at(&self, now: Instant) -> Instant {
        let nanos = u128::from(now.since(self.began).as_nanos() as u64) * u128::from(self.rate) / 1_000_000;
        self.origin + Duration::from_nanos(nanos as u64)
    }

    /// The first moment of the world at which it shows `local` or more.
    pub(crate) fn when(&self, local: Instant) -> Instant {
        let nanos = local.since(self.origin).as_nanos() * 1_000_000;
        let nanos = nanos.div_ceil(u128::from(self.rate));
        self.began + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// It jumps ahead.
    pub(crate) fn jump(&mut self, by: Duration) {
        self.origin += by;
    }
}
