//! The load, the probes, and what was measured of them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvstore::client::{Client, Error};

use super::super::trials::percentile;

/// Each loader writes its own keys, one after the other and again.
const KEYS: u64 = 1_000;
/// Of so many requests one is a write, the others read.
const READS_PER_WRITE: u64 = 3;
pub(super) const VALUE: [u8; 64] = [b'v'; 64];
const PROBE_PERIOD: Duration = Duration::from_millis(100);

/// What all threads of a soak share.
#[derive(Default)]
pub(super) struct Shared {
    /// Requests of the loaders that were answered.
    pub(super) done: AtomicU64,
    pub(super) is_over: AtomicBool,
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }
}

/// Requests of one kind, and how long each took that was answered, in microseconds.
#[derive(Default)]
pub(super) struct Requests {
    pub(super) name: String,
    pub(super) took_us: Vec<u32>,
    pub(super) failed: u64,
    first_error: Option<Error>,
}

impl Requests {
    pub(super) fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    pub(super) fn measure<T>(&mut self, request: impl FnOnce() -> Result<T, Error>) {
        let begin = Instant::now();
        match request() {
            Ok(_) => self.took_us.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX)),
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    pub(super) fn absorb(&mut self, other: Requests) {
        self.took_us.extend(other.took_us);
        self.failed += other.failed;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    /// The median, what 99 % did not exceed, and the longest, in milliseconds; none without an answer.
    pub(super) fn millis(&self) -> Option<[f64; 3]> {
        let mut ascending = self.took_us.clone();
        ascending.sort_unstable();
        let at = |share| f64::from(percentile(&ascending, share)) / 1e3;
        (!ascending.is_empty()).then(|| [at(0.5), at(0.99), at(1.0)])
    }

    pub(super) fn report(&self) {
        print!("  {:<26} {:>10}", self.name, self.took_us.len());
        if let Some([median, most, longest]) = self.millis() {
            print!(" {median:>9.2} {most:>9.2} {longest:>9.2}");
        }
        println!();
        if let Some(error) = &self.first_error {
            println!("    {} failed, the first: {error}", self.failed);
        }
    }
}

/// One connection's part of the load: its puts and its gets.
pub(super) fn keep_busy(number: usize, mut client: Client, shared: &Shared) -> (Requests, Requests) {
    let (mut writes, mut reads) = (Requests::default(), Requests::default());
    for turn in 0.. {
        if !shared.goes_on() {
            break;
        }
        let key = format!("{number}/{}", turn / (READS_PER_WRITE + 1) % KEYS);
        if turn % (READS_PER_WRITE + 1) == 0 {
            writes.measure(|| client.put(&key, VALUE));
        } else {
            reads.measure(|| client.get(&key));
        }
        shared.done.fetch_add(1, Ordering::Relaxed);
    }
    (writes, reads)
}

/// Gets from one node until all is over.
pub(super) fn probe(node: usize, mut client: Client, shared: &Shared) -> Requests {
    let goes_on = || shared.goes_on();
    pace(format!("probe: get at node {}", node + 1), PROBE_PERIOD, goes_on, || client.get("probe"))
}

/// Asks once in every period; what was late is not made up for.
pub(super) fn pace<T>(
    name: impl Into<String>,
    period: Duration,
    goes_on: impl Fn() -> bool,
    mut request: impl FnMut() -> Result<T, Error>,
) -> Requests {
    let mut requests = Requests::named(name);
    while goes_on() {
        let next = Instant::now() + period;
        requests.measure(&mut request);
        // The pace is the load; nothing is waited for.
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    requests
}
