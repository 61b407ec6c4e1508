//! The calls and returns of a history as a list that operations can leave and come back to.

use super::{Model, Operation};

/// What happens at a moment: the call of the operation with this number, or a return.
#[derive(Clone, Copy)]
pub(super) enum Event {
    Call(usize),
    Return,
}

/// The events of the operations that are not placed, by time, as a linked list.
///
/// Invariants:
/// - Links are the positions of events among all events, by time; the one after the last event
///   stands for both ends of the list.
/// - The events of an operation that is removed still know their former neighbours. So operations
///   can be restored in the opposite order of their removal, and only so.
pub(super) struct EventList {
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    call_of: Vec<usize>,
    return_of: Vec<Option<usize>>,
}

impl EventList {
    pub(super) fn new<M: Model>(operations: &[Operation<M>]) -> Self {
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
                events.push(Event::Return);
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

    /// The event at a position, or `None` at the end of the list.
    pub(super) fn get(&self, at: usize) -> Option<Event> {
        self.events.get(at).copied()
    }

    pub(super) fn first(&self) -> usize {
        self.next[self.events.len()]
    }

    pub(super) fn after(&self, at: usize) -> usize {
        self.next[at]
    }

    pub(super) fn before(&self, at: usize) -> usize {
        self.previous[at]
    }

    pub(super) fn after_call(&self, operation: usize) -> usize {
        self.next[self.call_of[operation]]
    }

    pub(super) fn remove(&mut self, operation: usize) {
        self.unlink(self.call_of[operation]);
        if let Some(at) = self.return_of[operation] {
            self.unlink(at);
        }
    }

    pub(super) fn restore(&mut self, operation: usize) {
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
