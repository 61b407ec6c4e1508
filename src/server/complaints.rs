//! Warnings about others, who may repeat what they do wrong as often as they like.

use std::collections::BTreeMap;

use log::warn;

use crate::time::{Duration, Instant};

/// The same line appears once in this time.
const PERIOD: Duration = Duration::from_secs(10);
/// So many different lines appear in this time, at most.
const MAX_LINES: usize = 64;

/// What there is to complain of: this node's own troubles and the nodes of its list, and strangers. Each
/// is counted apart, so that no stranger can silence a line that somebody needs.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    own: Lines,
    of_strangers: Lines,
}

impl Complaints {
    /// Logs a line, unless it was logged lately, or too many others were.
    pub(super) fn warn(&mut self, now: Instant, line: String) {
        self.own.warn(now, line);
    }

    /// The same of somebody who may be anybody.
    pub(super) fn warn_of_stranger(&mut self, now: Instant, line: String) {
        self.of_strangers.warn(now, line);
    }
}

/// The lines that were written lately.
#[derive(Debug, Default)]
struct Lines {
    last: BTreeMap<String, Instant>,
}

impl Lines {
    fn warn(&mut self, now: Instant, line: String) {
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
        let mut lines = Lines::default();
        lines.warn(Instant::ZERO, "a stranger".to_owned());
        assert!(!lines.permits(Instant::from_millis(9_999), "a stranger"));
        assert!(lines.permits(Instant::from_millis(9_999), "another stranger"));
        assert!(lines.permits(Instant::from_millis(10_000), "a stranger"));
    }

    #[test]
    fn flood_of_lines_about_strangers_is_cut_off_and_silences_nothing_else() {
        let mut complaints = Complaints::default();
        for number in 0..1000 {
            complaints.warn_of_stranger(Instant::ZERO, number.to_string());
        }
        assert_eq!(complaints.of_strangers.last.len(), MAX_LINES);
        assert!(complaints.own.permits(Instant::ZERO, "accepting pauses"));
    }
}
