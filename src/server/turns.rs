//! How long turns take, and whether the loop is late.

use log::warn;

use crate::time::{Duration, Instant};

/// Long turns are logged at most this often.
const LINE_PERIOD: Duration = Duration::from_secs(1);

/// The loop's own pulse.
#[derive(Debug)]
pub(super) struct Turns {
    heartbeat: Duration,
    /// When the current turn began: when its poll returned, as far as is known.
    began: Instant,
    /// When the poll before it meant to return at the latest.
    wake: Instant,
    /// The last turn took longer than a heartbeat, or the poll was interrupted.
    is_stalled: bool,
    long: u64,
    last_line: Option<Instant>,
}

impl Turns {
    /// Turns that shall be shorter than `heartbeat`.
    #[must_use]
    pub(super) fn new(heartbeat: Duration, now: Instant) -> Self {
        Self { heartbeat, began: now, wake: Instant::MAX, is_stalled: false, long: 0, last_line: None }
    }

    /// A poll was interrupted: by a signal, or since this process was stopped for a while.
    pub(super) fn on_interrupted(&mut self) {
        self.is_stalled = true;
    }

    /// A turn begins at `now`. Whether there was a stall: then more may have arrived than one poll
    /// has told of.
    pub(super) fn is_late(&mut self, now: Instant) -> bool {
        self.began = now;
        std::mem::take(&mut self.is_stalled) || now.since(self.wake) > self.heartbeat
    }

    /// The turn has ended; the next poll shall return at `wake` at the latest. Counts and logs the
    /// turn if it was long. Gives how long it took.
    pub(super) fn end(&mut self, now: Instant, wake: Option<Instant>) -> Duration {
        self.wake = wake.map_or(Instant::MAX, |wake| wake.max(now));
        let took = now.since(self.began);
        if took <= self.heartbeat {
            return took;
        }
        self.is_stalled = true;
        self.long += 1;
        if self.last_line.is_none_or(|then| now.since(then) >= LINE_PERIOD) {
            self.last_line = Some(now);
            warn!(
                "a turn took {} ms, longer than a heartbeat of {} ms (turns like that so far: {}): \
                 the disk or the machine is slow",
                took.as_millis(),
                self.heartbeat.as_millis(),
                self.long
            );
        }
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(30);

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn poll_that_returns_long_after_its_timer_is_late() {
        let mut turns = Turns::new(HEARTBEAT, at(0));
        let mut is_late = |ended, wake, now| {
            turns.began = at(ended);
            turns.end(at(ended), wake);
            turns.is_late(at(now))
        };
        assert!(!is_late(0, Some(at(100)), 100));
        assert!(!is_late(100, Some(at(200)), 230));
        assert!(is_late(230, Some(at(300)), 331));
        assert!(is_late(400, Some(at(350)), 431), "what was due already is due now");
        assert!(!is_late(431, None, 900), "nothing was due");
    }

    #[test]
    fn turn_after_a_long_one_is_late_once() {
        let mut turns = Turns::new(HEARTBEAT, at(0));
        turns.is_late(at(0));
        turns.end(at(31), None);
        assert!(turns.is_late(at(31)));
        assert!(!turns.is_late(at(31)));
        assert_eq!(turns.long, 1);
    }

    #[test]
    fn interrupted_poll_is_late_however_short_it_was() {
        let mut turns = Turns::new(HEARTBEAT, at(0));
        turns.on_interrupted();
        assert!(turns.is_late(at(1)));
    }
}
