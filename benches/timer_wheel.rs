//! The timer wheel beside the two containers that would do in its place.
//!
//! A server's timers are mostly moved or cancelled and rarely fire, so those come first: a pair of
//! set and cancel, a deadline that moves on (a heartbeat arrived), and only then a sweep in which
//! all fire. Each at 10, 1,000 and 100,000 timers that are set already.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hint::black_box;

use criterion::{BatchSize, Criterion};
use kvstore::time::{Duration, Instant};
use kvstore::timer_wheel::{TimerKey, TimerWheel};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const COUNTS: [usize; 3] = [10, 1_000, 100_000];
/// Deadlines lie up to this far ahead, as those of heartbeats, elections and requests do.
const HORIZON_MS: u64 = 10_000;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for count in COUNTS {
        compare::<TimerWheel<u32>>(&mut criterion, "wheel", count);
        compare::<Heap>(&mut criterion, "heap", count);
        compare::<Tree>(&mut criterion, "tree", count);
    }
    criterion.final_summary();
}

/// What a server asks of its timers.
trait Timers {
    type Key: Copy;

    fn empty() -> Self;
    fn set(&mut self, deadline: Instant, value: u32) -> Self::Key;
    fn cancel(&mut self, key: Self::Key);
    fn move_to(&mut self, key: Self::Key, deadline: Instant) -> Self::Key;
    /// Fires what is due; how many that were.
    fn fire(&mut self, now: Instant) -> usize;
}

impl Timers for TimerWheel<u32> {
    type Key = TimerKey;

    fn empty() -> Self {
        TimerWheel::new(Instant::ZERO)
    }

    fn set(&mut self, deadline: Instant, value: u32) -> TimerKey {
        self.insert(deadline, value)
    }

    fn cancel(&mut self, key: TimerKey) {
        TimerWheel::cancel(self, key);
    }

    fn move_to(&mut self, key: TimerKey, deadline: Instant) -> TimerKey {
        self.reschedule(key, deadline);
        key
    }

    fn fire(&mut self, now: Instant) -> usize {
        let mut fired = Vec::new();
        self.advance(now, &mut fired);
        fired.len()
    }
}

/// A binary heap with lazy deletion: a cancelled timer stays until it comes up, and once the heap
/// holds more of those than of others it is made anew.
struct Heap {
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    /// The values of those that are not cancelled, by number.
    values: HashMap<u64, u32>,
    next: u64,
}

impl Timers for Heap {
    type Key = u64;

    fn empty() -> Self {
        Self { timers: BinaryHeap::new(), values: HashMap::new(), next: 0 }
    }

    fn set(&mut self, deadline: Instant, value: u32) -> u64 {
        self.next += 1;
        self.timers.push(Reverse((deadline, self.next)));
        self.values.insert(self.next, value);
        self.next
    }

    fn cancel(&mut self, key: u64) {
        self.values.remove(&key);
        if self.timers.len() > 2 * self.values.len() + 64 {
            let Self { timers, values, .. } = self;
            timers.retain(|Reverse((_, number))| values.contains_key(number));
        }
    }

    fn move_to(&mut self, key: u64, deadline: Instant) -> u64 {
        let value = self.values[&key];
        self.cancel(key);
        self.set(deadline, value)
    }

    fn fire(&mut self, now: Instant) -> usize {
        let mut fired = Vec::new();
        while let Some(Reverse((deadline, number))) = self.timers.peek().copied()
            && deadline <= now
        {
            self.timers.pop();
            fired.extend(self.values.remove(&number));
        }
        fired.len()
    }
}

/// A search tree by deadline.
struct Tree {
    timers: BTreeMap<(Instant, u64), u32>,
    next: u64,
}

impl Timers for Tree {
    type Key = (Instant, u64);

    fn empty() -> Self {
        Self { timers: BTreeMap::new(), next: 0 }
    }

    fn set(&mut self, deadline: Instant, value: u32) -> (Instant, u64) {
        self.next += 1;
        self.timers.insert((deadline, self.next), value);
        (deadline, self.next)
    }

    fn cancel(&mut self, key: (Instant, u64)) {
        self.timers.remove(&key);
    }

    fn move_to(&mut self, key: (Instant, u64), deadline: Instant) -> (Instant, u64) {
        let value = self.timers.remove(&key).expect("it is set");
        self.set(deadline, value)
    }

    fn fire(&mut self, now: Instant) -> usize {
        let later = self.timers.split_off(&(now, u64::MAX));
        std::mem::replace(&mut self.timers, later).into_values().count()
    }
}

fn compare<T: Timers>(criterion: &mut Criterion, name: &str, count: usize) {
    set_and_cancel::<T>(criterion, &format!("timers/set and cancel/{count}/{name}"), count);
    move_on::<T>(criterion, &format!("timers/move on/{count}/{name}"), count);
    fire_all::<T>(criterion, &format!("timers/fire all/{count}/{name}"), count);
}

/// Deadlines of the same sequence in each run.
struct Deadlines(StdRng);

impl Deadlines {
    fn new() -> Self {
        Self(StdRng::seed_from_u64(1))
    }

    fn next(&mut self) -> Instant {
        Instant::from_millis(self.0.random_range(1..HORIZON_MS))
    }
}

fn filled<T: Timers>(count: usize) -> (T, Vec<T::Key>) {
    let (mut timers, mut deadlines) = (T::empty(), Deadlines::new());
    let keys = (0..count).map(|number| timers.set(deadlines.next(), number as u32)).collect();
    (timers, keys)
}

fn set_and_cancel<T: Timers>(criterion: &mut Criterion, name: &str, count: usize) {
    let ((mut timers, _), mut deadlines) = (filled::<T>(count), Deadlines::new());
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let key = timers.set(black_box(deadlines.next()), 0);
            timers.cancel(black_box(key));
        });
    });
}

fn move_on<T: Timers>(criterion: &mut Criterion, name: &str, count: usize) {
    let ((mut timers, mut keys), mut deadlines) = (filled::<T>(count), Deadlines::new());
    let mut at = 0;
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            at = (at + 1) % count;
            keys[at] = timers.move_to(keys[at], black_box(deadlines.next()));
        });
    });
}

/// In steps of ten milliseconds, as turns of a loop would.
fn fire_all<T: Timers>(criterion: &mut Criterion, name: &str, count: usize) {
    let step = Duration::from_millis(10);
    criterion.bench_function(name, |bencher| {
        bencher.iter_batched(
            || filled::<T>(count).0,
            |mut timers| {
                let (mut now, mut fired) = (Instant::ZERO, 0);
                while fired < count {
                    now += step;
                    fired += timers.fire(now);
                }
                timers
            },
            BatchSize::LargeInput,
        );
    });
}
