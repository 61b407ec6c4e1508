//! What is counted and measured.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use kvstore::client::Error;
use kvstore::time::{Duration, Instant};

use super::workload::Outcome;

/// Longer latencies count as this one.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Latencies in nanoseconds, to three digits.
#[derive(Debug)]
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    pub(super) fn new() -> Self {
        Self(Histogram::new_with_max(LONGEST.as_nanos() as u64, 3).expect("three digits are allowed"))
    }

    pub(super) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanos);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// In microseconds: what this share of the requests did not exceed. Zero if there was none.
    pub(super) fn at(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1e3
    }

    /// In microseconds.
    pub(super) fn max(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    fn clear(&mut self) {
        self.0.reset();
    }
}

/// What a stretch of the load came to.
#[derive(Debug)]
pub(super) struct Interval {
    /// Of its end, since the beginning of the load.
    pub(super) at: Duration,
    /// How long it lasted.
    pub(super) length: Duration,
    pub(super) answers: u64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
    /// Errors and unknown outcomes.
    pub(super) failures: u64,
}

/// All figures of one load.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) latencies: Latencies,
    /// Answers that were no error: of any content.
    pub(super) answers: u64,
    pub(super) not_found: u64,
    pub(super) mismatches: u64,
    /// Requests that ended without any effect, by the word for why.
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// Writes of which nobody knows whether they were applied.
    pub(super) unknown: u64,
    /// Copies sent again, of requests that were answered.
    pub(super) resent: u64,
    pub(super) intervals: Vec<Interval>,
    clock: Moments,
    recent: Latencies,
}

/// Invariant: `began` <= `last_answer` <= `ended`.
#[derive(Debug)]
struct Moments {
    began: Instant,
    /// The beginning, while there is none.
    last_answer: Instant,
    /// The last answer, while it goes on.
    ended: Instant,
    longest_gap: Duration,
    interval_began: Instant,
    failures_before: u64,
}

impl Figures {
    pub(super) fn new(now: Instant) -> Self {
        let clock = Moments {
            began: now,
            last_answer: now,
            ended: now,
            longest_gap: Duration::ZERO,
            interval_began: now,
            failures_before: 0,
        };
        Self {
            latencies: Latencies::new(),
            answers: 0,
            not_found: 0,
            mismatches: 0,
            errors: BTreeMap::new(),
            unknown: 0,
            resent: 0,
            intervals: Vec::new(),
            clock,
            recent: Latencies::new(),
        }
    }

    pub(super) fn on_answer(&mut self, now: Instant, latency: Duration, outcome: Outcome, attempts: u32) {
        self.answers += 1;
        self.resent += u64::from(attempts.saturating_sub(1));
        match outcome {
            Outcome::Done => {}
            Outcome::NotFound => self.not_found += 1,
            Outcome::Mismatch => self.mismatches += 1,
        }
        self.latencies.record(latency);
        self.recent.record(latency);
        self.on_end(now);
        self.clock.last_answer = now;
    }

    /// No more is under way: what was not answered since the last answer never will be.
    pub(super) fn on_end(&mut self, now: Instant) {
        let gap = now.since(self.clock.last_answer);
        self.clock.longest_gap = self.clock.longest_gap.max(gap);
        self.clock.ended = now;
    }

    pub(super) fn on_error(&mut self, error: &Error) {
        match error {
            Error::Unknown { .. } => self.unknown += 1,
            _ => *self.errors.entry(error.word()).or_default() += 1,
        }
    }

    /// Ends an interval and begins the next.
    pub(super) fn end_interval(&mut self, now: Instant) -> &Interval {
        let failures = self.failures();
        let interval = Interval {
            at: now.since(self.clock.began),
            length: now.since(self.clock.interval_began),
            answers: self.recent.count(),
            p50_us: self.recent.at(0.5),
            p99_us: self.recent.at(0.99),
            max_us: self.recent.max(),
            failures: failures - self.clock.failures_before,
        };
        self.recent.clear();
        (self.clock.interval_began, self.clock.failures_before) = (now, failures);
        self.intervals.push(interval);
        &self.intervals[self.intervals.len() - 1]
    }

    pub(super) fn interval_has_answers(&self) -> bool {
        self.recent.count() > 0
    }

    pub(super) fn failures(&self) -> u64 {
        self.errors.values().sum::<u64>() + self.unknown
    }

    /// From the beginning of the load to its end.
    pub(super) fn duration(&self) -> Duration {
        self.clock.ended.since(self.clock.began)
    }

    pub(super) fn answers_per_second(&self) -> f64 {
        self.answers as f64 / self.duration().as_secs_f64().max(1e-9)
    }

    /// Between two answers, of whatever client; from the beginning to the first; from the last to the
    /// end.
    pub(super) fn longest_gap(&self) -> Duration {
        self.clock.longest_gap
    }
}

impl Interval {
    pub(super) fn answers_per_second(&self) -> f64 {
        self.answers as f64 / self.length.as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use kvstore::client::UnknownReason;

    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn longest_gap_is_between_two_answers_of_any_client() {
        let mut figures = Figures::new(at(1_000));
        for millis in [1_010, 1_020, 1_320, 1_330] {
            figures.on_answer(at(millis), Duration::from_millis(1), Outcome::Done, 1);
        }
        assert_eq!(figures.longest_gap(), Duration::from_millis(300));
        assert_eq!(figures.duration(), Duration::from_millis(330));
        figures.on_end(at(2_000));
        assert_eq!(figures.longest_gap(), Duration::from_millis(670), "nobody was answered any more");
        assert_eq!(figures.duration(), Duration::from_secs(1));
    }

    #[test]
    fn intervals_add_up_to_the_whole() {
        let mut figures = Figures::new(at(0));
        figures.on_answer(at(10), Duration::from_micros(100), Outcome::NotFound, 3);
        figures.on_error(&Error::Busy(String::new()));
        let first = figures.end_interval(at(1_000));
        assert_eq!((first.answers, first.failures), (1, 1));
        assert!((first.p50_us - 100.0).abs() < 0.1, "{first:?}");
        let unknown = Error::Unknown { identity: None, reason: UnknownReason::Deadline };
        figures.on_answer(at(1_500), Duration::from_micros(300), Outcome::Done, 1);
        figures.on_error(&unknown);
        let second = figures.end_interval(at(2_000));
        assert_eq!((second.answers, second.failures, second.length), (1, 1, Duration::from_secs(1)));
        assert!((second.p50_us - 300.0).abs() < 0.3, "{second:?}");
        assert_eq!((figures.answers, figures.not_found, figures.resent, figures.failures()), (2, 1, 2, 2));
    }
}
