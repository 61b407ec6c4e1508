//! The search itself, of one key's operations.

use std::mem;

use super::event_list::{Event, EventList};
use super::needs::{Needs, is_impossible};
use super::tried::{Placed, Tried};
use super::{Model, Operation};

/// What a search has come to.
pub(super) enum Found {
    /// An order that explains all answers, by the numbers of the operations. Those that were not
    /// answered are in it only if they are needed.
    Order(Vec<usize>),
    /// That there is none.
    NoOrder,
    /// Neither, within the steps that it had.
    NothingYet,
}

/// The search for an order of one key's operations.
///
/// Invariants:
/// - `state` is where the placed operations lead, in the order in which they were placed.
/// - The placed operations are exactly those in `placed`, and exactly those without events in the
///   list.
/// - `waiting` counts the answered operations that are not placed.
pub(super) struct Search<M: Model> {
    operations: Vec<Operation<M>>,
    twins: Vec<Option<usize>>,
    events: EventList,
    waiting: usize,
    state: M::State,
    order: Vec<Placement<M>>,
    placed: Placed,
    needs: Needs<M::State>,
    tried: Tried<M::State>,
    steps: u64,
}

/// An operation that was given its place in the order.
struct Placement<M: Model> {
    operation: usize,
    state_before: M::State,
    /// Another could have come in its place.
    chosen: bool,
}

impl<M: Model> Search<M> {
    /// Nothing is placed.
    pub(super) fn new(mut operations: Vec<Operation<M>>) -> Self {
        M::simplify(&mut operations);
        Self {
            twins: twins(&operations),
            events: EventList::new(&operations),
            waiting: operations.iter().filter(|operation| operation.answer.is_some()).count(),
            state: M::State::default(),
            order: Vec::new(),
            placed: Placed::none(operations.len()),
            needs: Needs::new(&operations),
            tried: Tried::nothing(),
            steps: 0,
            operations,
        }
    }

    /// Looks for an order, within so many steps.
    pub(super) fn run(mut self, step_limit: u64) -> Found {
        self.place_what_only_looks();
        if self.needs.is_hopeless_at(&self.state) || is_impossible(&self.operations) {
            return Found::NoOrder;
        }
        let mut at = self.events.first();
        while self.waiting > 0 {
            if self.steps >= step_limit {
                return Found::NothingYet;
            }
            at = match self.events.get(at).expect("what is waited for has a return in the list") {
                Event::Call(operation) if self.choose(operation) => self.events.first(),
                Event::Call(_) => self.events.after(at),
                Event::Return => match self.take_back() {
                    Some(operation) => self.events.after_call(operation),
                    None => return Found::NoOrder,
                },
            };
        }
        Found::Order(self.order.iter().map(|placement| placement.operation).collect())
    }

    /// Gives an operation the next place, if it may take it and this leads to anything new.
    fn choose(&mut self, operation: usize) -> bool {
        let Some(after) = self.step(operation) else { return false };
        if self.is_pointless(operation, &after) {
            return false;
        }
        self.place(operation, after, true);
        if self.needs.is_hopeless_at(&self.state) {
            self.take_back();
            return false;
        }
        self.place_what_only_looks();
        let is_new = self.tried.note(&self.placed, &self.state);
        if !is_new {
            self.take_back();
        }
        is_new
    }

    /// Places what only looks at the state and finds it as it should be. There is nothing to choose:
    /// in any order from here on, it could as well come first.
    fn place_what_only_looks(&mut self) {
        let mut at = self.events.first();
        while let Some(Event::Call(operation)) = self.events.get(at) {
            let before = self.events.before(at);
            if self.operations[operation].only_looks() && self.step(operation).is_some() {
                self.place(operation, self.state.clone(), false);
                at = self.events.after(before);
            } else {
                at = self.events.after(at);
            }
        }
    }

    /// The state after an operation, if it can be the next.
    fn step(&mut self, operation: usize) -> Option<M::State> {
        self.steps += 1;
        self.operations[operation].step(&self.state)
    }

    fn place(&mut self, operation: usize, after: M::State, chosen: bool) {
        self.mark(operation);
        self.needs.place(operation);
        self.events.remove(operation);
        self.waiting -= usize::from(self.operations[operation].answer.is_some());
        let state_before = mem::replace(&mut self.state, after);
        self.order.push(Placement { operation, state_before, chosen });
    }

    /// Notes that an operation is placed, or is no more.
    fn mark(&mut self, operation: usize) {
        self.placed.flip(operation, self.operations[operation].answer.is_some());
    }

    /// Whether the same is reached with another operation of unknown outcome, or with none: this one
    /// changes nothing, or has a twin that was asked earlier, or hides the effect of the last one.
    fn is_pointless(&self, operation: usize, after: &M::State) -> bool {
        let unanswered = |operation: usize| self.operations[operation].answer.is_none();
        if unanswered(operation) {
            let waits = |twin| !self.placed.has_unanswered(twin);
            if *after == self.state || self.twins[operation].is_some_and(waits) {
                return true;
            }
        }
        self.order.last().is_some_and(|last| {
            let without = || self.operations[operation].step(&last.state_before);
            unanswered(last.operation) && without().as_ref() == Some(after)
        })
    }

    /// Takes the last chosen operation out of the order again, and what was placed since.
    fn take_back(&mut self) -> Option<usize> {
        loop {
            let Placement { operation, state_before, chosen } = self.order.pop()?;
            self.state = state_before;
            self.mark(operation);
            self.needs.take_back(operation);
            self.waiting += usize::from(self.operations[operation].answer.is_some());
            self.events.restore(operation);
            if chosen {
                return Some(operation);
            }
        }
    }
}

/// For each operation without an answer, the one like it that was asked last before it.
fn twins<M: Model>(operations: &[Operation<M>]) -> Vec<Option<usize>> {
    let mut unanswered: Vec<usize> = (0..operations.len()).collect();
    unanswered.retain(|operation| operations[*operation].answer.is_none());
    unanswered.sort_by_key(|operation| operations[*operation].call);
    let mut twins = vec![None; operations.len()];
    for (at, operation) in unanswered.iter().enumerate() {
        let mut earlier = unanswered[..at].iter().rev();
        twins[*operation] =
            earlier.find(|earlier| operations[**earlier].input == operations[*operation].input).copied();
    }
    twins
}
