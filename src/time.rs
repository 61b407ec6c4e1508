//! Time as a value.
//!
//! Everything that depends on time takes `now` as an argument, so that the simulator can hand in
//! its own. [`Clock`] is the only reader of the system's clock in the server, and the event loop
//! is its only caller.

use std::cell::Cell;
use std::fmt;
use std::ops::{Add, AddAssign};

pub use std::time::Duration;

/// A moment: nanoseconds since some origin (for a server, the start of its process).
///
/// Instants of two processes have nothing to do with each other. A `u64` of nanoseconds lasts for
/// 584 years; arithmetic saturates at both ends, so a deadline "never" is simply [`Instant::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin.
    pub const ZERO: Instant = Instant(0);
    /// Later than everything: a deadline that never comes.
    pub const MAX: Instant = Instant(u64::MAX);

    /// The moment `nanos` nanoseconds after the origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The moment `millis` milliseconds after the origin.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the origin.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the origin, rounded down.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    fn add(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06} ms", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// The system's monotonic clock, read as an [`Instant`] since this clock was made.
///
/// Invariant: `now` never goes back, also where the system's clock does (some virtual machines).
#[derive(Debug)]
pub struct Clock {
    origin: std::time::Instant,
    last: Cell<Instant>,
}

impl Clock {
    /// A clock whose origin is now.
    #[must_use]
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now(), last: Cell::default() }
    }

    /// Reads the clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        let elapsed = Instant::ZERO + self.origin.elapsed();
        self.last.set(self.last.get().max(elapsed));
        self.last.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instant_arithmetic_at_the_ends_saturates() {
        assert_eq!(Instant::MAX + Duration::from_secs(1), Instant::MAX);
        assert_eq!(Instant::ZERO.since(Instant::MAX), Duration::ZERO);
        assert_eq!(Instant::from_millis(3).since(Instant::from_millis(1)), Duration::from_millis(2));
    }

    #[test]
    fn clock_read_twice_does_not_go_back() {
        let clock = Clock::start();
        let first = clock.now();
        assert!(clock.now() >= first);
    }
}
