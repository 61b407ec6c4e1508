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
//! it may take effect at any moment after its call, or never.
//!
//! **Equal stamps.** Intervals are closed: of two operations that meet in one stamp, neither is the
//! first. Calls therefore stand before returns of the same stamp.
//!
//! **Fewer choices.** With many clients at once, or many unknown outcomes, there are far too many
//! orders. Of those that come to the same, one is enough; each rule keeps one:
//! - What only looks at the state is placed as soon as it finds it as it should be.
//! - An unknown outcome is not placed where it would change nothing, nor right before an operation
//!   that leads to the same state without it (a put over a put, say), nor before its twin, which
//!   asked the same earlier. Of two sets of them that come to the same, the smaller will do.
//! - No way is followed on which somebody needs a state that nothing can bring about any more.
//! - Values that no answer mentions are alike.
//!
//! Keys are independent, so each is searched by itself: linearizability is a local property. The
//! limit counts steps and not time, so that a verdict does not depend on the machine.

#[path = "event_list.rs"]
mod event_list;
#[path = "needs.rs"]
mod needs;
#[path = "order_search.rs"]
mod order_search;
#[path = "tried.rs"]
mod tried;

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::hash::Hash;

use order_search::{Found, Search};

/// How many operations of an explanation are printed: those that led up to the contradiction.
const PRINTED_OPERATIONS: usize = 8;

/// What one key would do if only one operation at a time were under way.
pub(crate) trait Model: Clone + Debug {
    /// What a key holds; by default, what it holds before the first operation.
    type State: Clone + Debug + Default + Eq + Hash;
    /// What is asked for.
    type Input: Clone + Debug + Display + Eq;
    /// What is answered.
    type Output: Clone + Debug + Display;

    /// The state after an operation on `state`, or `None` if the operation would not have been
    /// answered by `output` there. Without an `output`, any answer will do: the result is `Some`.
    fn step(state: &Self::State, input: &Self::Input, output: Option<&Self::Output>) -> Option<Self::State>;

    /// What an operation with this answer, if it has one, can turn another state into.
    fn makes(_input: &Self::Input, _output: Option<&Self::Output>) -> Makes<Self::State> {
        Makes::Anything
    }

    /// The only state in which an operation can get this answer; `None` if there are several.
    fn needs(_input: &Self::Input, _output: &Self::Output) -> Option<Self::State> {
        None
    }

    /// Makes inputs equal that no answer of this history can tell apart, so that there are fewer
    /// states to search. What is explained must stay the same.
    fn simplify(_operations: &mut [Operation<Self>]) {}
}

/// What an operation can turn a state into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Makes<S> {
    /// It only looks: every state stays as it is.
    Nothing,
    /// This one, whatever was before; or it changes nothing.
    State(S),
    /// It depends.
    Anything,
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
/// The history up to the return of `stuck` is the shortest that cannot be explained (if the steps
/// sufficed to look for shorter ones): without that return, `order` explains it. What was under way
/// at that moment counts as unknown.
#[derive(Clone, Debug)]
pub(crate) struct Violation<M: Model> {
    /// The key.
    pub(crate) key: String,
    /// An order of everything that was answered before `stuck` was, and of what else it needs.
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
        match Search::new(operations.clone()).run(step_limit) {
            Found::Order(_) => {}
            Found::NoOrder => return Verdict::Violated(explain(key, operations, step_limit)),
            Found::NothingYet => undecided = undecided.or(Some(key)),
        }
    }
    undecided.map_or(Verdict::Holds, |key| Verdict::Unknown { key: key.clone(), steps: step_limit })
}

/// Finds the first answer that cannot be explained, by halving the history. What could not be
/// decided is passed over.
fn explain<M: Model>(key: &str, operations: &[Operation<M>], step_limit: u64) -> Violation<M> {
    let mut ends: Vec<usize> = (0..operations.len()).collect();
    ends.retain(|at| operations[*at].answer.is_some());
    ends.sort_by_key(|at| operations[*at].answer.as_ref().map(|answer| answer.at));
    let (mut explained, mut order) = (0, Vec::new());
    let mut unexplained = ends.len();
    while explained + 1 < unexplained {
        let middle = usize::midpoint(explained, unexplained);
        let prefix = prefix(operations, &ends[..middle]);
        match Search::new(prefix.clone()).run(step_limit) {
            Found::NoOrder => unexplained = middle,
            Found::NothingYet => explained = middle,
            Found::Order(found) => {
                explained = middle;
                order = found.iter().map(|at| prefix[*at].clone()).collect();
            }
        }
    }
    let state = order.iter().try_fold(M::State::default(), |state, operation| operation.step(&state));
    let state = state.expect("an order explains its answers");
    Violation { key: key.to_owned(), order, state, stuck: operations[ends[unexplained - 1]].clone() }
}

/// The history as it stood when the last of these operations had been answered.
fn prefix<M: Model>(operations: &[Operation<M>], answered: &[usize]) -> Vec<Operation<M>> {
    let last = answered.iter().filter_map(|at| operations[*at].answer.as_ref()).map(|answer| answer.at).max();
    let mut prefix = operations.to_vec();
    for (at, operation) in prefix.iter_mut().enumerate() {
        operation.answer.take_if(|_| !answered.contains(&at));
    }
    prefix.retain(|operation| Some(operation.call) <= last);
    prefix
}

impl<M: Model> Operation<M> {
    fn output(&self) -> Option<&M::Output> {
        self.answer.as_ref().map(|answer| &answer.output)
    }

    /// The state after this on `state`, if it can have got its answer there.
    pub(crate) fn step(&self, state: &M::State) -> Option<M::State> {
        M::step(state, &self.input, self.output())
    }

    fn only_looks(&self) -> bool {
        self.answer.is_some() && M::makes(&self.input, self.output()) == Makes::Nothing
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
