//! A hierarchical timer wheel: every timeout of a server, started and cancelled in constant time.
//!
//! Time is cut into ticks of one millisecond. Four wheels of 64 slots each turn inside one another:
//! a slot of level 0 is one tick wide, and a slot of each further level is as wide as the whole
//! wheel below it.
//!
//! ```text
//!  level 3   |  0 |  1 | .. | 63 |    one slot is  4.4 min,  the wheel  4.66 h     -> far list
//!              \____________
//!  level 2   |  0 |  1 | .. | 63 |    one slot is  4.1 s,    the wheel  4.4 min
//!              \____________
//!  level 1   |  0 |  1 | .. | 63 |    one slot is 64 ms,     the wheel  4.1 s
//!              \____________
//!  level 0   |  0 |  1 | .. | 63 |    one slot is  1 ms,     the wheel 64 ms
//!                   ^ now
//! ```
//!
//! Read a tick as a number with base-64 digits, and the wheels are its digits: `now` points at
//! one slot in each of them, and a deadline belongs to the level of the highest digit in which it
//! differs from `now`, into the slot that this digit names.
//!
//! ```text
//!                 level:     3  2  1  0
//!     now      = .. 00 : 00 07 41 20
//!     deadline = .. 00 : 00 07 43 05      differs first in level 1: slot 43 of level 1
//! ```
//!
//! When `now` reaches that slot, the digit is equal, and the timer moves down to the level of the
//! next digit that differs ("cascades"), at the latest to level 0, where a slot is a single tick.
//! So a timer is moved at most three times, and fires in exactly its tick. A deadline that differs
//! from `now` above level 3 waits in one more list, the far list, which is looked through whenever
//! level 3 has turned once, every 4.66 hours.
//!
//! A bit for each slot says whether it is occupied. [`TimerWheel::advance`] looks at the occupied
//! slots that `now` has passed, not at the ticks, so that a jump of a day costs no more than one
//! of a millisecond: 256 bits and the timers that are due.
//!
//! The wheel knows no clock. After G. Varghese and T. Lauck, "Hashed and Hierarchical Timing
//! Wheels" (SOSP 1987), scheme 7; the choice of the level by digits is that of tokio's wheel.

use slab::Slab;

use crate::time::Instant;

/// Digits of a tick that have a wheel of their own.
const LEVELS: usize = 4;
/// Slots of one wheel, and bits of one word of occupancy.
const SLOTS: usize = 64;
/// Bits of a tick that one level stands for.
const LEVEL_BITS: u32 = SLOTS.ilog2();
/// Bits of a tick below those that only the far list tells apart.
const WHEEL_BITS: u32 = LEVEL_BITS * LEVELS as u32;

/// The list of timers whose deadline was past already when they were set.
const OVERDUE: usize = LEVELS * SLOTS;
/// The list of timers beyond the top wheel.
const FAR: usize = OVERDUE + 1;
/// All lists: slot `s` of level `l` is the list `l * SLOTS + s`.
const LISTS: usize = FAR + 1;

/// Names a timer for as long as it is set. Once it has fired or was cancelled, its key is stale
/// and stays so: it never names another timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    slot: u32,
    generation: u64,
}

/// Timers, each with a deadline and a value that is given back when it fires.
///
/// Invariants, with `now` as the tick of the last advance:
///
/// 1. `now` never goes back.
/// 2. A timer in slot `s` of level `l` has a deadline whose digit `l` is `s` and above that of
///    `now`, and whose higher digits are those of `now`. Hence every timer of a level is due
///    before every timer of the levels above it, and in a level lower slots are due first.
/// 3. A timer in the far list has a deadline that differs from `now` above the highest digit, so
///    it is due after those in the slots. A timer in the overdue list has one at or before `now`.
/// 4. Bit `s` of `occupied[l]` is set if and only if slot `s` of level `l` holds a timer.
#[derive(Debug)]
pub struct TimerWheel<T> {
    /// The tick of the last advance.
    now: u64,
    /// Which slots of each level hold a timer.
    occupied: [u64; LEVELS],
    /// The first timer of each list. The order within a list means nothing.
    heads: [Option<u32>; LISTS],
    timers: Slab<Timer<T>>,
    /// Counts insertions and reschedulings; it gives generations as well as the order of timers
    /// with one deadline. At one a nanosecond it lasts for 584 years.
    sequence: u64,
    /// Slots of the timers that an advance found due; empty between advances, kept for its memory.
    due: Vec<u32>,
}

#[derive(Debug)]
struct Timer<T> {
    deadline: Instant,
    /// Orders timers of one deadline: when it was set.
    sequence: u64,
    /// The sequence at its insertion: tells it from other tenants of its slot in the slab.
    generation: u64,
    value: T,
    list: usize,
    previous: Option<u32>,
    next: Option<u32>,
}

impl<T> TimerWheel<T> {
    /// A wheel without timers that stands at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            now: now.as_millis(),
            occupied: [0; LEVELS],
            heads: [None; LISTS],
            timers: Slab::new(),
            sequence: 0,
            due: Vec::new(),
        }
    }

    /// How many timers are set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.timers.len()
    }

    /// Whether no timer is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    /// Sets a timer. It fires at the first advance whose whole milliseconds reach `deadline`,
    /// hence never early and less than a millisecond late; with a deadline in the past it fires
    /// at the next advance, and with [`Instant::MAX`] never.
    ///
    /// # Panics
    /// Beyond 2^32 timers.
    pub fn insert(&mut self, deadline: Instant, value: T) -> TimerKey {
        let sequence = self.next_sequence();
        let list = self.list_of(deadline);
        let timer =
            Timer { deadline, sequence, generation: sequence, value, list, previous: None, next: None };
        let slot = u32::try_from(self.timers.insert(timer)).expect("fewer than 2^32 timers");
        self.link(slot, list);
        TimerKey { slot, generation: sequence }
    }

    /// Takes a timer back with its value; `None` if the key is stale.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        if !self.is_set(key) {
            return None;
        }
        self.unlink(key.slot);
        Some(self.timers.remove(key.slot as usize).value)
    }

    /// Gives a timer another deadline, earlier or later, as if it were set anew but under the
    /// same key. False, and nothing happens, if the key is stale.
    pub fn reschedule(&mut self, key: TimerKey, deadline: Instant) -> bool {
        if !self.is_set(key) {
            return false;
        }
        self.unlink(key.slot);
        let sequence = self.next_sequence();
        let timer = self.timer_mut(key.slot);
        (timer.deadline, timer.sequence) = (deadline, sequence);
        self.link(key.slot, self.list_of(deadline));
        true
    }

    /// When to advance next; `None` if no timer is set. A moment at or before the last advance
    /// says that a timer is due already.
    ///
    /// It is never later than the first deadline (rounded up to whole milliseconds). It is exactly
    /// that if the deadline lies in level 0, and else the start of its slot: at most one wake per
    /// level above, and one each 4.66 hours for the far list, comes before anything is due.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        if self.heads[OVERDUE].is_some() {
            return Some(Instant::from_millis(self.now));
        }
        // By invariant 2 the lowest bit of the lowest level that has one is the first to come.
        let first = (0..LEVELS).find(|level| self.occupied[*level] != 0);
        if let Some(level) = first {
            let window = shift(level + 1);
            let slot = u64::from(self.occupied[level].trailing_zeros());
            return Some(Instant::from_millis((self.now >> window << window) + (slot << shift(level))));
        }
        self.heads[FAR].map(|_| Instant::from_millis(((self.now >> WHEEL_BITS) + 1) << WHEEL_BITS))
    }

    /// Moves to `now` and appends to `fired` every timer that is due, ordered by deadline, and
    /// where deadlines are equal by when they were set. A `now` before that of an earlier advance
    /// counts as that one: time never goes back.
    ///
    /// A timer that has fired can no longer be cancelled, also by whoever handles one that fired
    /// before it in the same batch: an owner compares the key with the one that it still holds.
    pub fn advance(&mut self, now: Instant, fired: &mut Vec<(TimerKey, T)>) {
        let before = self.now;
        self.now = before.max(now.as_millis());
        self.drain(OVERDUE);
        // Upwards, so that what cascades down is not drained a second time.
        for level in 0..LEVELS {
            let mut passed = self.occupied[level] & slots_passed(level, before, self.now);
            while passed != 0 {
                self.drain(level * SLOTS + passed.trailing_zeros() as usize);
                passed &= passed - 1;
            }
        }
        if before >> WHEEL_BITS != self.now >> WHEEL_BITS {
            self.drain(FAR);
        }
        self.fire(fired);
    }

    /// Empties a list: what is due is noted, what is not moves to the list where it belongs now.
    fn drain(&mut self, list: usize) {
        let mut next = self.heads[list].take();
        self.mark(list);
        while let Some(slot) = next {
            let timer = &self.timers[slot as usize];
            next = timer.next;
            match self.list_of(timer.deadline) {
                OVERDUE => self.due.push(slot),
                list => self.link(slot, list),
            }
        }
    }

    /// Takes the timers noted as due out of the slab, in their order.
    fn fire(&mut self, fired: &mut Vec<(TimerKey, T)>) {
        let timers = &mut self.timers;
        self.due.sort_unstable_by_key(|slot| {
            let timer = &timers[*slot as usize];
            (timer.deadline, timer.sequence)
        });
        fired.extend(self.due.drain(..).map(|slot| {
            let timer = timers.remove(slot as usize);
            (TimerKey { slot, generation: timer.generation }, timer.value)
        }));
    }

    /// Where a timer with this deadline belongs while the wheel stands at `now`.
    fn list_of(&self, deadline: Instant) -> usize {
        let deadline = ticks_until(deadline);
        if deadline <= self.now {
            return OVERDUE;
        }
        let level = ((deadline ^ self.now).ilog2() / LEVEL_BITS) as usize;
        if level >= LEVELS {
            return FAR;
        }
        level * SLOTS + (deadline >> shift(level)) as usize % SLOTS
    }

    fn link(&mut self, slot: u32, list: usize) {
        let head = self.heads[list].replace(slot);
        if let Some(head) = head {
            self.timer_mut(head).previous = Some(slot);
        }
        let timer = self.timer_mut(slot);
        (timer.list, timer.previous, timer.next) = (list, None, head);
        self.mark(list);
    }

    fn unlink(&mut self, slot: u32) {
        let timer = &self.timers[slot as usize];
        let (list, previous, next) = (timer.list, timer.previous, timer.next);
        match previous {
            Some(previous) => self.timer_mut(previous).next = next,
            None => self.heads[list] = next,
        }
        if let Some(next) = next {
            self.timer_mut(next).previous = previous;
        }
        self.mark(list);
    }

    /// Restores invariant 4 for a list that has changed.
    fn mark(&mut self, list: usize) {
        // The overdue list and the far list have no bit: there is one of each.
        let Some(word) = self.occupied.get_mut(list / SLOTS) else { return };
        let bit = 1 << (list % SLOTS);
        if self.heads[list].is_some() { *word |= bit } else { *word &= !bit }
    }

    fn is_set(&self, key: TimerKey) -> bool {
        self.timers.get(key.slot as usize).is_some_and(|timer| timer.generation == key.generation)
    }

    fn timer_mut(&mut self, slot: u32) -> &mut Timer<T> {
        &mut self.timers[slot as usize]
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

/// The first tick at which `deadline` is past: rounded up, so that no timer fires early.
fn ticks_until(deadline: Instant) -> u64 {
    deadline.as_nanos().div_ceil(Instant::from_millis(1).as_nanos())
}

/// Bits of a tick below the digit of `level`.
fn shift(level: usize) -> u32 {
    LEVEL_BITS * level as u32
}

/// The slots of `level` that time left behind or entered between the ticks `before` and `now`.
fn slots_passed(level: usize, before: u64, now: u64) -> u64 {
    let (before, now) = (before >> shift(level), now >> shift(level));
    if before >> LEVEL_BITS != now >> LEVEL_BITS {
        return u64::MAX;
    }
    slots_up_to(now) & !slots_up_to(before)
}

/// The bits of the slots from 0 to the one that the lowest digit of `position` names.
fn slots_up_to(position: u64) -> u64 {
    u64::MAX >> (SLOTS as u64 - 1 - position % SLOTS as u64)
}

#[cfg(test)]
mod tests;
