//! When requests are due, and when there are no more.

use kvstore::time::{Duration, Instant};

/// When the load ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// So long after its beginning.
    Elapsed(Duration),
    /// After so many requests.
    Count(u64),
}

/// The beat of the load.
///
/// In a closed loop a request is due as soon as a client is free. In an open loop the n-th is due
/// n periods after the beginning, whoever is free: waiting for a free client is part of its latency.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    /// Of an open loop, in requests a second.
    rate: Option<u64>,
    until: Until,
    /// Somebody wanted no more; else it lies beyond every end.
    stopped_at: Instant,
    taken: u64,
}

impl Pace {
    pub(super) fn new(began: Instant, rate: Option<u64>, until: Until) -> Self {
        Self { began, rate, until, stopped_at: Instant::MAX, taken: 0 }
    }

    /// When the next request is due; `None` if the load is over.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.rate.map_or(now, |rate| self.intended(rate));
        let goes_on = match self.until {
            Until::Count(count) => self.taken < count,
            // Behind the end nothing is sent, though it was due before: see `unsent`.
            Until::Elapsed(time) => due.max(now) < self.began + time,
        };
        (goes_on && now < self.stopped_at).then_some(due)
    }

    /// The request that is due is taken; `due` must have said so.
    pub(super) fn take(&mut self) {
        self.taken += 1;
    }

    /// Nothing is to be sent from this moment on, whatever was said at the beginning.
    pub(super) fn stop(&mut self, now: Instant) {
        self.stopped_at = self.stopped_at.min(now);
    }

    /// At the end: how many requests of an open loop were due, and never sent.
    pub(super) fn unsent(&self) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let until_stopped = self.stopped_at.since(self.began);
        let due_within = |time: Duration| {
            let due = u128::from(rate) * time.as_nanos() / 1_000_000_000;
            u64::try_from(due).unwrap_or(u64::MAX)
        };
        let due = match self.until {
            Until::Elapsed(time) => due_within(time.min(until_stopped)),
            Until::Count(count) => due_within(until_stopped).min(count),
        };
        due.saturating_sub(self.taken)
    }

    fn intended(&self, rate: u64) -> Instant {
        let nanos = u128::from(self.taken) * 1_000_000_000 / u128::from(rate);
        self.began + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Instant = Instant::from_millis(1_000);

    #[test]
    fn open_loop_is_due_at_even_distances_however_late_it_is() {
        let mut pace = Pace::new(BEGIN, Some(100), Until::Elapsed(Duration::from_secs(1)));
        let late = Instant::from_millis(1_700);
        let due: Vec<u64> = std::iter::from_fn(|| {
            let due = pace.due(late)?.as_millis();
            pace.take();
            Some(due)
        })
        .take(3)
        .collect();
        assert_eq!(due, [1_000, 1_010, 1_020]);
        assert_eq!(pace.due(Instant::from_millis(2_000)), None);
        assert_eq!(pace.unsent(), 97);
    }

    #[test]
    fn open_loop_that_is_stopped_owes_what_was_due_until_then_and_no_more() {
        let at = Instant::from_millis(2_000);
        let after_70 = |until| {
            let mut pace = Pace::new(BEGIN, Some(100), until);
            (0..70).for_each(|_| pace.take());
            pace.stop(at);
            pace.stop(Instant::from_millis(3_000));
            assert_eq!(pace.due(at), None);
            pace.unsent()
        };
        assert_eq!(after_70(Until::Elapsed(Duration::from_secs(10))), 30);
        assert_eq!(after_70(Until::Count(1_000)), 30);
        assert_eq!(after_70(Until::Count(80)), 10);
        assert_eq!(after_70(Until::Count(70)), 0, "all were sent before somebody wanted no more");
        assert_eq!(after_70(Until::Elapsed(Duration::from_millis(800))), 10, "it had ended before");
    }

    #[test]
    fn closed_loop_is_due_at_once_until_the_count_is_taken() {
        let mut pace = Pace::new(BEGIN, None, Until::Count(2));
        let now = Instant::from_millis(5_000);
        assert_eq!(pace.due(now), Some(now));
        pace.take();
        pace.take();
        assert_eq!((pace.due(now), pace.unsent()), (None, 0));
    }
}
