//! Warnings about others, who may repeat what they do wrong as often as they like.

use std::collections::BTreeMap;

use log::warn;

use crate::time::{Duration, Instant};

/// The same line appears once in this time.
const PERIOD: Duration = Duration::from_secs(10);
/// So many different lines appear in this time, at most.
const MAX_LINES: usize = 64;

/// The lines that were written lately.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: BTreeMap<String, Instant>,
}

impl Complaints {
    /// Logs a line, unless it was logged lately, or too many others were.
    pub(super) fn warn(&mut self, now: Instant, line: String) {
        if self.permits(now, &line) {
            warn!("{line}");
            self.last.insert(line, now);
        }
    }

    fn permits(&mut self, now: Instant, line: &str) -> bool {
        self.last.retain(|_, then| now.since(*then) < PERIOD);
        !self.last.contains_key(line) && self.last.len() < MAX_LINES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_repeated_within_the_period_is_not_logged_again() {
        let mut complaints = Complaints::default();
        complaints.warn(Instant::ZERO, "a stranger".to_owned());
        assert!(!complaints.permits(Instant::from_millis(9_999), "a stranger"));
        assert!(complaints.permits(Instant::from_millis(9_999), "another stranger"));
        assert!(complaints.permits(Instant::from_millis(10_000), "a stranger"));
    }

    #[test]
    fn flood_of_different_lines_is_cut_off() {
        let mut complaints = Complaints::default();
        for number in 0..1000 {
            complaints.warn(Instant::ZERO, number.to_string());
        }
        assert_eq!(complaints.last.len(), MAX_LINES);
    }
}
