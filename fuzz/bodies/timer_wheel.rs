//! The wheel does what a sorted map does.

use std::collections::BTreeMap;

use kvstore::time::{Duration, Instant};
use kvstore::timer_wheel::{TimerKey, TimerWheel};

use super::source::Source;

const NS_PER_TICK: u64 = 1_000_000;

/// Distances, in ticks, at which a digit carries into the next.
const BORDERS: [u64; 8] = [0, 1, 63, 64, 4095, 4096, 1 << 18, 1 << 24];

/// The first two bytes say near which border time begins; the rest is a list of operations.
pub(crate) fn timer_wheel(data: &[u8]) {
    let mut source = Source::new(data);
    let start = BORDERS[source.choice(BORDERS.len())] << source.choice(20);
    let mut now = Instant::from_nanos(start.saturating_mul(NS_PER_TICK));
    let mut wheel = TimerWheel::new(now);
    // By key, for it is unique: the tick in which each must fire.
    let mut model: Vec<(TimerKey, u64, u32)> = Vec::new();
    for number in 0.. {
        if source.is_empty() {
            break;
        }
        match source.choice(5) {
            0 | 1 => {
                let deadline = deadline(&mut source, now);
                model.push((wheel.insert(deadline, number), tick(deadline), number));
            }
            2 if !model.is_empty() => {
                let (key, _, value) = model.swap_remove(source.choice(model.len()));
                assert_eq!(wheel.cancel(key), Some(value));
                assert_eq!(wheel.cancel(key), None, "a key is used once");
            }
            3 if !model.is_empty() => {
                let place = source.choice(model.len());
                let deadline = deadline(&mut source, now);
                assert!(wheel.reschedule(model[place].0, deadline));
                model[place].1 = tick(deadline);
            }
            _ => now = advance(&mut wheel, &mut model, step(&mut source, now)),
        }
        assert_eq!(wheel.len(), model.len());
        let first = model.iter().map(|(_, tick, _)| *tick).min();
        assert_eq!(wheel.next_wake().is_some(), first.is_some());
        // It may wake too early, to sort what is far away; never too late.
        if let (Some(wake), Some(first)) = (wheel.next_wake(), first) {
            assert!(tick(wake) <= first.max(now.as_nanos() / NS_PER_TICK), "{wake:?} for {first}");
        }
    }
    while let Some(wake) = wheel.next_wake() {
        now = advance(&mut wheel, &mut model, wake.max(now));
    }
    assert!(model.is_empty(), "never fired: {model:?}");
}

fn tick(deadline: Instant) -> u64 {
    deadline.as_nanos().div_ceil(NS_PER_TICK)
}

fn deadline(source: &mut Source<'_>, now: Instant) -> Instant {
    let distance = BORDERS[source.choice(BORDERS.len())] * NS_PER_TICK;
    let around = u64::from(source.u16()) * NS_PER_TICK / 8;
    let later = now.as_nanos().saturating_add(distance).saturating_add(around);
    Instant::from_nanos(if source.flag() { later } else { now.as_nanos().saturating_sub(around) })
}

fn step(source: &mut Source<'_>, now: Instant) -> Instant {
    let distance = BORDERS[source.choice(BORDERS.len())];
    now + Duration::from_millis(distance) + Duration::from_nanos(u64::from(source.u16()) * 1000)
}

/// Lets time pass; what fires is what is due, in order of ticks.
fn advance(wheel: &mut TimerWheel<u32>, model: &mut Vec<(TimerKey, u64, u32)>, now: Instant) -> Instant {
    let mut fired = Vec::new();
    wheel.advance(now, &mut fired);
    let is_due = |tick: u64| tick <= now.as_nanos() / NS_PER_TICK;
    let mut due: BTreeMap<u32, (TimerKey, u64)> = BTreeMap::new();
    model.retain(|(key, tick, value)| {
        let due_now = is_due(*tick);
        if due_now {
            due.insert(*value, (*key, *tick));
        }
        !due_now
    });
    for (key, value) in fired {
        assert_eq!(due.remove(&value).map(|(key, _)| key), Some(key), "{value} fired, and was not due");
    }
    assert!(due.is_empty(), "not fired: {due:?}");
    now
}
