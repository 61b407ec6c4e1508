//! What happened: a hash over all of it, and a readable log where one is wanted.

use std::cell::RefCell;

use kvstore::time::Instant;

use super::mirror::hash_on;
use super::plan::DueFault;

/// The record of a run.
pub(crate) struct Trace {
    hash: u64,
    is_printed: bool,
    pub(crate) events: u64,
    /// Faults, as they came due.
    pub(crate) faults: Vec<DueFault>,
}

thread_local! {
    /// Who speaks, for lines that the code under test logs: the time and the node.
    static SPEAKER: RefCell<Option<(Instant, usize)>> = const { RefCell::new(None) };
}

/// Prints what replicas log, in its place among the events.
struct NodeLog;

impl log::Log for NodeLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Some((now, node)) = SPEAKER.with_borrow(|speaker| *speaker) {
            println!("{now:>18}  node {}     | {}", node + 1, record.args());
        }
    }

    fn flush(&self) {}
}

impl Trace {
    pub(crate) fn new(is_printed: bool) -> Self {
        if is_printed && log::set_logger(&NodeLog).is_ok() {
            log::set_max_level(log::LevelFilter::Debug);
        }
        Self { hash: 0, is_printed, events: 0, faults: Vec::new() }
    }

    /// Takes in what makes an event this one.
    pub(crate) fn note(&mut self, now: Instant, words: &[u64]) {
        self.hash = words.iter().fold(mix(self.hash, now.as_nanos()), |hash, word| mix(hash, *word));
    }

    /// Takes in bytes that were sent.
    pub(crate) fn note_bytes(&mut self, bytes: &[u8]) {
        self.hash = hash_on(self.hash, bytes);
    }

    /// A line of the readable log.
    pub(crate) fn line(&self, now: Instant, text: impl FnOnce() -> String) {
        if self.is_printed {
            println!("{now:>18}  {}", text());
        }
    }

    /// This node speaks until the next call.
    pub(crate) fn speaker(&self, speaker: Option<(Instant, usize)>) {
        if self.is_printed {
            SPEAKER.set(speaker);
        }
    }

    /// The hash of all that happened.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    product ^ (product >> 32)
}
