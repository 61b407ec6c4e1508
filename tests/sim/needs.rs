//! What the operations that are not placed yet wait for, and whether it can still come.

use std::collections::HashMap;

use super::{Makes, Model, Operation};

/// For each state that some operation must find: how many wait for it, and how many could still
/// bring it about.
///
/// Invariant: the counts are those of the operations that are not placed.
pub(super) struct Needs<S> {
    by_operation: Vec<(Option<usize>, Makes<usize>)>,
    numbers: HashMap<S, usize>,
    waiting: Vec<usize>,
    makers: Vec<usize>,
    makers_of_anything: usize,
}

impl<S: Clone + Eq + std::hash::Hash> Needs<S> {
    /// No operation is placed.
    pub(super) fn new<M: Model<State = S>>(operations: &[Operation<M>]) -> Self {
        let mut numbers = HashMap::new();
        let mut number = |state: S| {
            let next = numbers.len();
            *numbers.entry(state).or_insert(next)
        };
        let one = |operation: &Operation<M>| {
            let needs = operation.output().and_then(|output| M::needs(&operation.input, output));
            let makes = match M::makes(&operation.input, operation.output()) {
                Makes::Nothing => Makes::Nothing,
                Makes::State(state) => Makes::State(number(state)),
                Makes::Anything => Makes::Anything,
            };
            (needs.map(&mut number), makes)
        };
        let by_operation: Vec<_> = operations.iter().map(one).collect();
        let (waiting, makers) = (vec![0; numbers.len()], vec![0; numbers.len()]);
        let mut needs = Self { by_operation, numbers, waiting, makers, makers_of_anything: 0 };
        (0..operations.len()).for_each(|operation| needs.take_back(operation));
        needs
    }

    /// This operation has a place now.
    pub(super) fn place(&mut self, operation: usize) {
        self.count(operation, |count| *count -= 1);
    }

    /// This operation has no place any more.
    pub(super) fn take_back(&mut self, operation: usize) {
        self.count(operation, |count| *count += 1);
    }

    /// Whether some operation needs this state, which nothing can bring about again.
    pub(super) fn would_miss(&self, state: &S) -> bool {
        let missed = |number: &usize| self.waiting[*number] > 0 && self.makers[*number] == 0;
        self.makers_of_anything == 0 && self.numbers.get(state).is_some_and(missed)
    }

    fn count(&mut self, operation: usize, change: impl Fn(&mut usize)) {
        let (needs, makes) = &self.by_operation[operation];
        if let Some(state) = needs {
            change(&mut self.waiting[*state]);
        }
        match makes {
            Makes::Nothing => {}
            Makes::State(state) => change(&mut self.makers[*state]),
            Makes::Anything => change(&mut self.makers_of_anything),
        }
    }
}
