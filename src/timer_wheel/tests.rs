//! The wheel against a sorted map that does the same slowly, and its edges one by one.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::time::Duration;

/// Distances, in ticks, at which a digit carries into the next.
const BORDERS: [u64; 12] =
    [1, 63, 64, 65, 4095, 4096, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, (1 << 24) - 1, 1 << 24, (1 << 24) + 1];

impl<T> TimerWheel<T> {
    /// Checks the invariants above the struct, and that each timer is in exactly one list.
    fn check(&self) {
        let mut listed = 0;
        for list in 0..LISTS {
            let mut previous = None;
            let mut next = self.heads[list];
            while let Some(slot) = next {
                let timer = &self.timers[slot as usize];
                assert_eq!((timer.list, timer.previous), (list, previous), "timer {slot}");
                assert_eq!(self.list_of(timer.deadline), list, "timer {slot} stands in a wrong list");
                (previous, next) = (next, timer.next);
                listed += 1;
            }
        }
        assert_eq!(listed, self.timers.len(), "timers in lists and timers in all");
        for (list, head) in self.heads[..OVERDUE].iter().enumerate() {
            let bit = self.occupied[list / SLOTS] >> (list % SLOTS) & 1;
            assert_eq!(bit == 1, head.is_some(), "bit of list {list}");
        }
    }
}

fn fired<T>(wheel: &mut TimerWheel<T>, now: Instant) -> Vec<T> {
    let mut fired = Vec::new();
    wheel.advance(now, &mut fired);
    wheel.check();
    fired.into_iter().map(|(_, value)| value).collect()
}

const fn ms(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

const fn just_before(moment: Instant) -> Instant {
    Instant::from_nanos(moment.as_nanos() - 1)
}

#[test]
fn timer_at_each_border_fires_in_its_tick_and_not_before() {
    for start in [0].into_iter().chain(BORDERS).chain([(1 << 40) - 1, 1 << 40]) {
        for distance in BORDERS {
            let mut wheel = TimerWheel::new(ms(start));
            wheel.insert(ms(start + distance), ());
            assert_eq!(fired(&mut wheel, ms(start + distance - 1)), [], "{start} + {distance} early");
            assert_eq!(wheel.next_wake(), Some(ms(start + distance)), "one tick ahead it is exact");
            assert_eq!(fired(&mut wheel, ms(start + distance)), [()], "{start} + {distance}");
        }
    }
}

#[test]
fn deadline_between_two_milliseconds_fires_at_the_later_one() {
    let mut wheel = TimerWheel::new(Instant::ZERO);
    wheel.insert(ms(5) + Duration::from_nanos(1), "later");
    wheel.insert(ms(5), "sooner");
    assert_eq!(wheel.next_wake(), Some(ms(5)));
    assert_eq!(fired(&mut wheel, just_before(ms(6))), ["sooner"]);
    assert_eq!(wheel.next_wake(), Some(ms(6)));
    assert_eq!(fired(&mut wheel, ms(6)), ["later"]);
}

#[test]
fn now_between_two_milliseconds_counts_as_the_earlier_one() {
    let mut wheel = TimerWheel::new(ms(8) + Duration::from_nanos(999_999));
    wheel.insert(ms(9), ());
    assert_eq!(fired(&mut wheel, just_before(ms(9))), []);
    assert_eq!(fired(&mut wheel, ms(9)), [()]);
}

#[test]
fn deadline_in_the_past_fires_at_the_next_advance_even_without_a_new_tick() {
    let mut wheel = TimerWheel::new(ms(100));
    for past in [ms(0), ms(99), ms(100)] {
        wheel.insert(past, past);
        assert_eq!(wheel.next_wake(), Some(ms(100)));
    }
    assert_eq!(fired(&mut wheel, ms(100)), [ms(0), ms(99), ms(100)]);
    assert_eq!(wheel.next_wake(), None);
}

#[test]
fn time_that_goes_back_is_no_advance() {
    let mut wheel = TimerWheel::new(ms(100));
    wheel.insert(ms(50), "overdue");
    wheel.insert(ms(101), "next");
    assert_eq!(fired(&mut wheel, ms(10)), ["overdue"]);
    assert_eq!(fired(&mut wheel, ms(0)), [] as [&str; 0]);
    assert_eq!(fired(&mut wheel, ms(101)), ["next"]);
}

#[test]
fn batch_of_a_long_jump_comes_by_deadline_then_by_insertion() {
    let mut wheel = TimerWheel::new(ms(7));
    let day = 86_400_000;
    for (deadline, name) in [(day, "d"), (5_000, "b"), (5_000, "c"), (8, "a"), (3 * day, "not yet")] {
        wheel.insert(ms(deadline), name);
    }
    assert_eq!(fired(&mut wheel, ms(2 * day)), ["a", "b", "c", "d"]);
    assert_eq!(wheel.len(), 1);
}

#[test]
fn deadlines_within_one_tick_fire_in_their_exact_order() {
    let mut wheel = TimerWheel::new(Instant::ZERO);
    for nanos in [900, 100, 500] {
        wheel.insert(ms(3) + Duration::from_nanos(nanos), nanos);
    }
    assert_eq!(fired(&mut wheel, ms(4)), [100, 500, 900]);
}

#[test]
fn deadline_never_does_not_fire_at_the_end_of_time() {
    let mut wheel = TimerWheel::new(Instant::MAX);
    let key = wheel.insert(Instant::MAX, ());
    assert_eq!(fired(&mut wheel, Instant::MAX), []);
    assert!(wheel.next_wake().is_some());
    assert_eq!(wheel.cancel(key), Some(()));
}

#[test]
fn wakes_before_a_deadline_are_at_most_one_per_level() {
    // A deadline none of whose digits is zero starts no slot above level 0: the worst case.
    let deadline = (1 << 24) + (9 << 18) + (9 << 12) + (9 << 6) + 9;
    let mut wheel = TimerWheel::new(Instant::ZERO);
    wheel.insert(ms(deadline), ());
    let mut wakes = Vec::new();
    while let Some(wake) = wheel.next_wake() {
        wakes.push(wake.as_millis());
        assert_eq!(fired(&mut wheel, wake).is_empty(), wake < ms(deadline));
    }
    let digits = [0, 18, 12, 6].map(|bits| deadline >> bits << bits);
    let starts = [1 << 24, digits[1], digits[2], digits[3], digits[0]];
    assert_eq!(wakes, starts);
}

#[test]
fn key_of_a_timer_that_is_gone_is_stale_also_when_its_slot_has_a_new_tenant() {
    let mut wheel = TimerWheel::new(Instant::ZERO);
    let cancelled = wheel.insert(ms(5), "cancelled");
    assert_eq!(wheel.cancel(cancelled), Some("cancelled"));
    let fires = wheel.insert(ms(5), "fires");
    assert_eq!(fires.slot, cancelled.slot, "the slab reuses the slot");
    assert_eq!(fired(&mut wheel, ms(5)), ["fires"]);
    let tenant = wheel.insert(ms(9), "tenant");
    for stale in [cancelled, fires] {
        assert_eq!(wheel.cancel(stale), None);
        assert!(!wheel.reschedule(stale, ms(6)));
    }
    assert_eq!(wheel.next_wake(), Some(ms(9)));
    assert_eq!(wheel.cancel(tenant), Some("tenant"));
    assert!(wheel.is_empty());
}

#[test]
fn rescheduled_timer_fires_only_at_its_new_deadline_behind_its_equals() {
    let mut wheel = TimerWheel::new(Instant::ZERO);
    let moved = wheel.insert(ms(1), "moved");
    wheel.insert(ms(70), "equal");
    assert!(wheel.reschedule(moved, ms(70)));
    assert_eq!(fired(&mut wheel, ms(69)), [] as [&str; 0]);
    assert_eq!(fired(&mut wheel, ms(70)), ["equal", "moved"]);
}

/// One step of a random history. `pick` chooses among all keys ever given, stale ones too.
#[derive(Clone, Debug)]
enum Step {
    Insert { deadline: When },
    Cancel { pick: prop::sample::Index },
    Reschedule { pick: prop::sample::Index, deadline: When },
    Advance { to: When },
    AdvanceToNextWake,
}

/// A moment relative to the time of the last advance.
#[derive(Clone, Copy, Debug)]
enum When {
    Before(u64),
    After(u64),
    Never,
}

impl When {
    fn from(self, now: Instant) -> Instant {
        match self {
            When::Before(nanos) => Instant::from_nanos(now.as_nanos().saturating_sub(nanos)),
            When::After(nanos) => now + Duration::from_nanos(nanos),
            When::Never => Instant::MAX,
        }
    }
}

/// Distances in nanoseconds: often whole ticks, often near a border, seldom beyond the top wheel.
fn nanos() -> impl Strategy<Value = u64> {
    let ticks = prop_oneof![
        4 => 0..200_u64,
        4 => prop::sample::select(BORDERS.to_vec()),
        2 => 0..1_u64 << 18,
        1 => 0..1_u64 << 27,
    ];
    let part = prop_oneof![2 => Just(0), 1 => 0..1_000_000_u64];
    (ticks, part).prop_map(|(ticks, part)| ticks * 1_000_000 + part)
}

fn step() -> impl Strategy<Value = Step> {
    let when = || prop_oneof![1 => nanos().prop_map(When::Before), 8 => nanos().prop_map(When::After)];
    let deadline = move || prop_oneof![30 => when(), 1 => Just(When::Never)];
    prop_oneof![
        6 => deadline().prop_map(|deadline| Step::Insert { deadline }),
        2 => any::<prop::sample::Index>().prop_map(|pick| Step::Cancel { pick }),
        2 => (any::<prop::sample::Index>(), deadline())
            .prop_map(|(pick, deadline)| Step::Reschedule { pick, deadline }),
        2 => when().prop_map(|to| Step::Advance { to }),
        2 => Just(Step::AdvanceToNextWake),
    ]
}

/// Start times: anywhere up to 34 years, and just before and after each level's border.
fn start() -> impl Strategy<Value = u64> {
    let bits = prop::sample::select(vec![6, 12, 18, 24, 30, 36, 40]);
    let border = (1..1000_u64, bits, 0..3_u64).prop_map(|(turn, bits, offset)| (turn << bits) + offset - 1);
    prop_oneof![0..1_u64 << 40, border.prop_map(|tick| tick % (1 << 40))]
}

/// What the wheel must do, done by a sorted map of all timers that are set.
struct Model {
    now: Instant,
    sequence: usize,
    set: BTreeMap<(Instant, usize), usize>,
}

impl Model {
    fn insert(&mut self, deadline: Instant, name: usize) {
        self.sequence += 1;
        self.set.insert((deadline, self.sequence), name);
    }

    fn remove(&mut self, name: usize) -> bool {
        let place = self.set.iter().find(|(_, set)| **set == name).map(|(place, _)| *place);
        place.is_some_and(|place| self.set.remove(&place).is_some())
    }

    /// The moment of an advance at which the first timer fires.
    fn first(&self) -> Option<Instant> {
        let (deadline, _) = self.set.keys().next()?;
        Some(ms(ticks_until(*deadline)).max(ms(self.now.as_millis())))
    }

    fn advance(&mut self, now: Instant) -> Vec<usize> {
        self.now = self.now.max(now);
        let due = |deadline: Instant| deadline <= ms(self.now.as_millis());
        let late = self.set.keys().find(|(deadline, _)| !due(*deadline)).copied();
        let rest = late.map_or_else(BTreeMap::new, |late| self.set.split_off(&late));
        std::mem::replace(&mut self.set, rest).into_values().collect()
    }
}

/// Wheel and model side by side. The value of each timer is its place in `keys`.
struct Pair {
    wheel: TimerWheel<usize>,
    model: Model,
    keys: Vec<TimerKey>,
}

impl Pair {
    fn apply(&mut self, step: Step) {
        match step {
            Step::Insert { deadline } => {
                let (deadline, name) = (deadline.from(self.model.now), self.keys.len());
                self.keys.push(self.wheel.insert(deadline, name));
                self.model.insert(deadline, name);
            }
            Step::Cancel { pick } => self.cancel(pick),
            Step::Reschedule { pick, deadline } => self.reschedule(pick, deadline.from(self.model.now)),
            Step::Advance { to } => self.advance(to.from(self.model.now)),
            Step::AdvanceToNextWake => self.advance(self.wheel.next_wake().unwrap_or(self.model.now)),
        }
        self.compare();
    }

    fn cancel(&mut self, pick: prop::sample::Index) {
        if self.keys.is_empty() {
            return;
        }
        let name = pick.index(self.keys.len());
        let expected = self.model.remove(name).then_some(name);
        assert_eq!(self.wheel.cancel(self.keys[name]), expected);
    }

    fn reschedule(&mut self, pick: prop::sample::Index, deadline: Instant) {
        if self.keys.is_empty() {
            return;
        }
        let name = pick.index(self.keys.len());
        let expected = self.model.remove(name);
        if expected {
            self.model.insert(deadline, name);
        }
        assert_eq!(self.wheel.reschedule(self.keys[name], deadline), expected);
    }

    fn advance(&mut self, now: Instant) {
        let mut fired = Vec::new();
        self.wheel.advance(now, &mut fired);
        for (key, name) in &fired {
            assert_eq!(*key, self.keys[*name]);
        }
        let names: Vec<usize> = fired.into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, self.model.advance(now), "fired at {now}");
    }

    fn compare(&self) {
        self.wheel.check();
        assert_eq!(self.wheel.len(), self.model.set.len());
        let (wake, first) = (self.wheel.next_wake(), self.model.first());
        assert_eq!(wake.is_some(), first.is_some(), "a wake if and only if a timer is set");
        assert!(wake <= first, "wake at {wake:?}, but the first timer is due at {first:?}");
        if first.is_some_and(|first| first.as_millis() >> 6 == self.model.now.as_millis() >> 6) {
            assert_eq!(wake, first, "in level 0 the wake is exact");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn wheel_in_any_history_does_as_a_sorted_map(start in start(), steps in vec(step(), 1..150)) {
        let now = ms(start);
        let model = Model { now, sequence: 0, set: BTreeMap::new() };
        let mut pair = Pair { wheel: TimerWheel::new(now), model, keys: Vec::new() };
        for step in steps {
            pair.apply(step);
        }
        // What is left fires in order, however far away; only "never" stays.
        pair.advance(Instant::MAX);
        pair.compare();
    }
}
