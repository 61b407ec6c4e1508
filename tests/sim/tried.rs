//! Where a search has been already.

use std::collections::HashMap;
use std::hash::Hash;

/// The operations that are placed, by number: those that were answered, and those that were not.
#[derive(Clone)]
pub(super) struct Placed {
    answered: Bits,
    unanswered: Bits,
}

/// What was tried.
///
/// Of two ways to place the same answered operations and come to the same state, the one that used
/// fewer of the others can be completed wherever the other can. So a set of these is remembered
/// only while none of its subsets is.
pub(super) struct Tried<S> {
    unanswered: HashMap<(Bits, S), Vec<Bits>>,
}

/// A set of numbers below a bound, one bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Bits(Box<[u64]>);

impl Placed {
    /// None of so many operations.
    pub(super) fn none(operations: usize) -> Self {
        let none = Bits(vec![0; operations.div_ceil(64)].into());
        Self { answered: none.clone(), unanswered: none }
    }

    /// Puts an operation in or takes it out.
    pub(super) fn flip(&mut self, operation: usize, answered: bool) {
        let bits = if answered { &mut self.answered } else { &mut self.unanswered };
        bits.0[operation / 64] ^= 1 << (operation % 64);
    }

    /// Whether this operation without an answer is placed.
    pub(super) fn has_unanswered(&self, operation: usize) -> bool {
        self.unanswered.0[operation / 64] & (1 << (operation % 64)) != 0
    }
}

impl<S: Clone + Eq + Hash> Tried<S> {
    pub(super) fn nothing() -> Self {
        Self { unanswered: HashMap::new() }
    }

    /// Notes that these operations were placed and led to this state. False if what was noted
    /// before makes it superfluous to go on from here.
    pub(super) fn note(&mut self, placed: &Placed, state: &S) -> bool {
        let sets = self.unanswered.entry((placed.answered.clone(), state.clone())).or_default();
        if sets.iter().any(|set| set.is_subset(&placed.unanswered)) {
            return false;
        }
        sets.retain(|set| !placed.unanswered.is_subset(set));
        sets.push(placed.unanswered.clone());
        true
    }
}

impl Bits {
    fn is_subset(&self, other: &Bits) -> bool {
        self.0.iter().zip(&other.0).all(|(own, other)| own & !other == 0)
    }
}
