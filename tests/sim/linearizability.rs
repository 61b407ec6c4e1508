//! Is there an order of these operations, in agreement with real time, that explains every answer?
//!
//! A history is linearizable if each operation can be given a moment between its call and its
//! return so that, taken in the order of these moments, a copy that does one thing after another
//! would have given the same answers (Herlihy and Wing, 1990). The search is that of Wing and Gong
//! (1993) with the cache of Lowe (2017):
//!
//! ```text
//!  client 1   |--- put a ---|                      The events, in order of time, are a list: a call
//!  client 2         |------- get -> a -------|     and, if there was an answer, a return.
//!  client 3              |--- put b -----------    (no answer)
//! ```
//!
//! From the front of the list, a call whose operation may come next, by the model, is placed: its
//! two events leave the list, and the walk starts again at the front. A return in the way belongs
//! to an operation that should have been placed by now, so the last placed one is put back, and the
//! walk goes on behind it. Once every answered operation is placed, an order is found. What has been
//! tried is remembered as the set of placed operations and the state that they led to: another order
//! of the same set to the same state need not be tried again.
//!
//! **Unknown outcomes.** An operation without an answer has no return, so nothing ever waits for it:
//! it may take effect at any moment after its call, or never. Many of them would make the search
//! explode, and two rules prevent it; the shortest explanation never breaks them, so nothing is lost:
//! - One that would change nothing is not placed.
//! - One is not placed right before an operation that leads to the same state without it (a put
//!   over a put, say). So it is only ever placed where something notices it.
//!
//! **Equal stamps.** Intervals are closed: of two operations that meet in one stamp, neither is the
//! first. Calls therefore stand before returns of the same stamp.
//!
//! Keys are independent, so each is searched by itself: linearizability is a local property. The
//! limit counts steps and not time, so that a verdict does not depend on the machine.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Debug, Display};
use std::hash::Hash;
use std::mem;

/// How many operations of an explanation are printed: those that led up to the contradiction.
const PRINTED_OPERATIONS: usize = 8;

/// What one key would do if only one operation at a time were under way.
pub(crate) trait Model: Clone + Debug {
    /// What a key holds; by default, what it holds before the first operation.
    type State: Clone + Debug + Default + Eq + Hash;
    /// What is asked for.
    type Input: Clone + Debug + Display;
    /// What is answered.
    type Output: Clone + Debug + Display;

    /// The state after an operation on `state`, or `None` if the operation would not have been
    /// answered by `output` there. Without an `output`, any answer will do: the result is `Some`.
    fn step(state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;
}

/// One operation on one key, as its client saw it. Stamps are those of one clock, of any unit.
#[derive(Clone, Debug)]
pub(crate) struct Operation<M: Model> {
    /// Who asked; only people read it.
    pub(crate) client: u64,
    /// What was asked.
    pub(crate) input: M::Input,
    /// When it was asked.
    pub(crate) call: u64,
    /// The answer; `None` if the outcome is unknown.
    pub(crate) answer: Option<Answer<M>>,
}

/// The end of an operation. It does not lie before the call.
#[derive(Clone, Debug)]
pub(crate) struct Answer<M: Model> {
    /// When it came.
    pub(crate) at: u64,
    /// What it said.
    pub(crate) output: M::Output,
}

/// What became of a check.
#[derive(Clone, Debug)]
pub(crate) enum Verdict<V> {
    /// The history is as promised.
    Holds,
    /// It is not, and this is why.
    Violated(V),
    /// The steps ran out first. This is no success.
    Unknown {
        /// The key whose search was given up.
        key: String,
        /// The steps that were not enough.
        steps: u64,
    },
}

/// Why no order explains a key's history.
///
/// Everything that was answered before `stuck` was can be put in order, and `order` shows how. That
/// and `stuck` itself cannot, whichever of the other operations under way by then one adds, with the
/// answers that they got in the end.
#[derive(Clone, Debug)]
pub(crate) struct Violation<M: Model> {
    /// The key.
    pub(crate) key: String,
    /// An order of everything that was answered before `stuck` was, and perhaps of more.
    pub(crate) order: Vec<Operation<M>>,
    /// The state to which it leads.
    pub(crate) state: M::State,
    /// The operation that cannot be placed.
    pub(crate) stuck: Operation<M>,
}

/// Checks the histories of all keys, with at most `step_limit` steps for each. Takes keys in order
/// and stops at the first violation; a key that is not decided is reported only if there is none.
pub(crate) fn check<M: Model>(
    history: &BTreeMap<String, Vec<Operation<M>>>,
    step_limit: u64,
) -> Verdict<Violation<M>> {
    let mut undecided = None;
    for (key, operations) in history {
        match Search::new(key, operations).run(step_limit) {
            Verdict::Holds => {}
            Verdict::Unknown { key, steps } => undecided = undecided.or(Some((key, steps))),
            violated @ Verdict::Violated(_) => return violated,
        }
    }
    undecided.map_or(Verdict::Holds, |(key, steps)| Verdict::Unknown { key, steps })
}

impl<M: Model> Operation<M> {
    fn output(&self) -> Option<&M::Output> {
        self.answer.as_ref().map(|answer| &answer.output)
    }
}

impl<M: Model> Display for Operation<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, input, call, answer } = self;
        match answer {
            Some(Answer { at, output }) => write!(f, "client {client}: {input} -> {output}  [{call}, {at}]"),
            None => write!(f, "client {client}: {input} -> unknown  [{call}, ...]"),
        }
    }
}

impl<V: Display> Display for Verdict<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Holds => write!(f, "holds"),
            Verdict::Violated(violation) => write!(f, "violated: {violation}"),
            Verdict::Unknown { key, steps } => write!(f, "unknown: key {key:?} not decided in {steps} steps"),
        }
    }
}

impl<M: Model> Display for Violation<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { key, order, state, stuck } = self;
        writeln!(f, "key {key:?}: no order of its operations explains the answers")?;
        let hidden = order.len().saturating_sub(PRINTED_OPERATIONS);
        if hidden > 0 {
            writeln!(f, "    ({hidden} operations before)")?;
        }
        for operation in &order[hidden..] {
            writeln!(f, "    {operation}")?;
        }
        writeln!(f, "  leads to the state {state:?}, and so far all is explained; no order admits")?;
        write!(f, "    {stuck}")
    }
}

/// The search for an order of one key's operations.
///
/// Invariants:
/// - `state` is where the placed operations lead, in the order in which they were placed.
/// - The placed operations are exactly those in `placed`, and exactly those without events in the
///   list.
/// - `waiting` counts the answered operations that are not placed.
struct Search<'a, M: Model> {
    key: &'a str,
    operations: &'a [Operation<M>],
    events: EventList,
    waiting: usize,
    state: M::State,
    order: Vec<Placement<M>>,
    placed: Bits,
    tried: HashSet<(Bits, M::State)>,
    furthest: Option<Furthest<M>>,
}

/// An operation that was given its place in the order.
struct Placement<M: Model> {
    operation: usize,
    state_before: M::State,
}

/// The return, furthest back in time, at which the search ever had to turn round.
struct Furthest<M: Model> {
    event: usize,
    order: Vec<usize>,
    state: M::State,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(key: &'a str, operations: &'a [Operation<M>]) -> Self {
        Self {
            key,
            operations,
            events: EventList::new(operations),
            waiting: operations.iter().filter(|operation| operation.answer.is_some()).count(),
            state: M::State::default(),
            order: Vec::new(),
            placed: Bits::zero(operations.len()),
            tried: HashSet::new(),
            furthest: None,
        }
    }

    fn run(mut self, step_limit: u64) -> Verdict<Violation<M>> {
        let mut at = self.events.first();
        for _ in 0..step_limit {
            if self.waiting == 0 {
                return Verdict::Holds;
            }
            at = match self.events.event(at) {
                Event::Call(operation) if self.place(operation) => self.events.first(),
                Event::Call(_) => self.events.after(at),
                Event::Return(_) => {
                    self.note_obstacle(at);
                    match self.take_back() {
                        Some(operation) => self.events.after_call(operation),
                        None => return Verdict::Violated(self.violation()),
                    }
                }
            };
        }
        match self.waiting {
            0 => Verdict::Holds,
            _ => Verdict::Unknown { key: self.key.to_owned(), steps: step_limit },
        }
    }

    /// Gives an operation the next place, if it may take it and this leads to anything new.
    fn place(&mut self, at: usize) -> bool {
        let operation = &self.operations[at];
        let Some(after) = M::step(&self.state, &operation.input, operation.output()) else { return false };
        if self.is_pointless(operation, &after) {
            return false;
        }
        self.placed.flip(at);
        if !self.tried.insert((self.placed.clone(), after.clone())) {
            self.placed.flip(at);
            return false;
        }
        self.events.remove(at);
        self.waiting -= usize::from(operation.answer.is_some());
        let state_before = mem::replace(&mut self.state, after);
        self.order.push(Placement { operation: at, state_before });
        true
    }

    /// Whether the same is reached with one operation of unknown outcome less: this one, which
    /// changes nothing, or the last placed one, whose effect this one hides.
    fn is_pointless(&self, operation: &Operation<M>, after: &M::State) -> bool {
        if operation.answer.is_none() && *after == self.state {
            return true;
        }
        self.order.last().is_some_and(|last| {
            self.operations[last.operation].answer.is_none()
                && M::step(&last.state_before, &operation.input, operation.output()).as_ref() == Some(after)
        })
    }

    /// Takes the last operation out of the order again.
    fn take_back(&mut self) -> Option<usize> {
        let Placement { operation, state_before } = self.order.pop()?;
        self.state = state_before;
        self.placed.flip(operation);
        self.waiting += usize::from(self.operations[operation].answer.is_some());
        self.events.restore(operation);
        Some(operation)
    }

    fn note_obstacle(&mut self, event: usize) {
        if self.furthest.as_ref().is_none_or(|furthest| event > furthest.event) {
            let order = self.order.iter().map(|placement| placement.operation).collect();
            self.furthest = Some(Furthest { event, order, state: self.state.clone() });
        }
    }

    fn violation(self) -> Violation<M> {
        let furthest = self.furthest.expect("a search that fails has met an obstacle");
        let (Event::Return(stuck) | Event::Call(stuck)) = self.events.event(furthest.event);
        Violation {
            key: self.key.to_owned(),
            order: furthest.order.iter().map(|at| self.operations[*at].clone()).collect(),
            state: furthest.state,
            stuck: self.operations[stuck].clone(),
        }
    }
}

/// A call or a return, of the operation with this number.
#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

/// The events of the operations that are not placed, by time, as a linked list.
///
/// Invariants:
/// - Links are the positions of events among all events, by time; the one after the last event
///   stands for both ends of the list.
/// - The events of an operation that is removed still know their former neighbours. So operations
///   can be restored in the opposite order of their removal, and only so.
struct EventList {
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    call_of: Vec<usize>,
    return_of: Vec<Option<usize>>,
}

impl EventList {
    fn new<M: Model>(operations: &[Operation<M>]) -> Self {
        let mut stamped = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            stamped.push((operation.call, false, number));
            if let Some(answer) = &operation.answer {
                assert!(operation.call <= answer.at, "an answer before its question: {operation}");
                stamped.push((answer.at, true, number));
            }
        }
        stamped.sort_unstable();
        let (mut call_of, mut return_of) = (vec![0; operations.len()], vec![None; operations.len()]);
        let mut events = Vec::new();
        for (at, (_, is_return, number)) in stamped.into_iter().enumerate() {
            if is_return {
                return_of[number] = Some(at);
                events.push(Event::Return(number));
            } else {
                call_of[number] = at;
                events.push(Event::Call(number));
            }
        }
        let ends = events.len();
        let next = (1..=ends).chain([0]).collect();
        let previous = [ends].into_iter().chain(0..ends).collect();
        Self { events, next, previous, call_of, return_of }
    }

    /// The event at a position in the list.
    ///
    /// # Panics
    /// At the end of the list. The search never gets there: an answered operation that waits has
    /// its return before it.
    fn event(&self, at: usize) -> Event {
        self.events[at]
    }

    fn first(&self) -> usize {
        self.next[self.events.len()]
    }

    fn after(&self, at: usize) -> usize {
        self.next[at]
    }

    fn after_call(&self, operation: usize) -> usize {
        self.next[self.call_of[operation]]
    }

    fn remove(&mut self, operation: usize) {
        self.unlink(self.call_of[operation]);
        if let Some(at) = self.return_of[operation] {
            self.unlink(at);
        }
    }

    fn restore(&mut self, operation: usize) {
        if let Some(at) = self.return_of[operation] {
            self.link(at);
        }
        self.link(self.call_of[operation]);
    }

    fn unlink(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn link(&mut self, at: usize) {
        let (previous, next) = (self.previous[at], self.next[at]);
        self.next[previous] = at;
        self.previous[next] = at;
    }
}

/// A set of numbers below a bound, one bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Box<[u64]>);

impl Bits {
    fn zero(bound: usize) -> Self {
        Self(vec![0; bound.div_ceil(64)].into())
    }

    fn flip(&mut self, bit: usize) {
        self.0[bit / 64] ^= 1 << (bit % 64);
    }
}
