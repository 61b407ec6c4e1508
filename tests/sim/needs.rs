//! What the operations that are not placed yet wait for, and whether it can still come.

use std::collections::HashMap;

use super::{Makes, Model, Operation};

/// For each state that some operation must find: how many wait for it, and how many could still
/// bring it about.
///
/// Invariants: the counts are those of the operations that are not placed; `stranded` counts the
/// states that some wait for and none could make.
pub(super) struct Needs<S> {
    by_operation: Vec<(Option<usize>, Makes<usize>)>,
    numbers: HashMap<S, usize>,
    waiting: Vec<usize>,
    makers: Vec<usize>,
    makers_of_anything: usize,
    stranded: usize,
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
        let (makers_of_anything, stranded) = (0, 0);
        let mut needs = Self { by_operation, numbers, waiting, makers, makers_of_anything, stranded };
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

    /// Whether some operation needs a state other than this one, and nothing can bring it about.
    pub(super) fn is_hopeless_at(&self, state: &S) -> bool {
        let is_here = self.numbers.get(state).is_some_and(|number| self.is_stranded(*number));
        self.makers_of_anything == 0 && self.stranded > usize::from(is_here)
    }

    fn is_stranded(&self, number: usize) -> bool {
        self.waiting[number] > 0 && self.makers[number] == 0
    }

    fn count(&mut self, operation: usize, change: impl Fn(&mut usize)) {
        let (needs, makes) = self.by_operation[operation];
        let made = if let Makes::State(state) = makes { Some(state) } else { None };
        let touched = [needs, made.filter(|made| Some(*made) != needs)];
        let stranded = |of: &Self| touched.iter().flatten().filter(|state| of.is_stranded(**state)).count();
        self.stranded -= stranded(self);
        if let Some(state) = needs {
            change(&mut self.waiting[state]);
        }
        if let Some(state) = made {
            change(&mut self.makers[state]);
        }
        if makes == Makes::Anything {
            change(&mut self.makers_of_anything);
        }
        self.stranded += stranded(self);
    }
}

/// Whether some answer can only be given in a state that nothing asked by then can have brought about,
/// or not even there: then there is no need to try any order.
pub(super) fn is_impossible<M: Model>(operations: &[Operation<M>]) -> bool {
    operations.iter().any(|operation| {
        let Some(answer) = &operation.answer else { return false };
        let Some(state) = M::needs(&operation.input, &answer.output) else { return false };
        let could_make = |other: &Operation<M>| match M::makes(&other.input, other.output()) {
            Makes::Nothing => false,
            Makes::State(made) => other.call <= answer.at && made == state,
            Makes::Anything => other.call <= answer.at,
        };
        let is_there = state == M::State::default() || operations.iter().any(could_make);
        !is_there || M::step(&state, &operation.input, Some(&answer.output)).is_none()
    })
}
