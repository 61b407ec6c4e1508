//! What one key of the store promises: it is absent, or has a value.
//!
//! Values are text here: tests write what people can read.

use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;

use super::linearizability::{Makes, Model, Operation};

/// A value. Cloning one is cheap: a search keeps very many states.
pub(crate) type Value = Rc<str>;

/// One key of the store.
#[derive(Clone, Debug)]
pub(crate) struct Store;

/// What is asked of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Its value.
    Get,
    /// Set it.
    Put(Value),
    /// Remove it.
    Delete,
    /// Set it if it is as expected; `None`: absent.
    CompareAndSet { expected: Option<Value>, new: Value },
}

/// What a key answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// To a get: the value, or that there is none.
    Value(Option<Value>),
    /// To a put, a delete that found something, and a compare-and-set that set.
    Done,
    /// To a delete: it was absent already.
    NotFound,
    /// To a compare-and-set: what the key has instead.
    Mismatch { current: Option<Value> },
}

impl Model for Store {
    type State = Option<Value>;
    type Input = Input;
    type Output = Output;

    fn step(state: &Option<Value>, input: &Input, output: Option<&Output>) -> Option<Option<Value>> {
        let (answer, after) = apply(state, input);
        let explained = output.is_none_or(|output| *output == answer);
        explained.then_some(after)
    }

    fn makes(input: &Input, output: Option<&Output>) -> Makes<Option<Value>> {
        match (input, output) {
            (Input::Get, _) | (_, Some(Output::NotFound | Output::Mismatch { .. })) => Makes::Nothing,
            (Input::Put(new) | Input::CompareAndSet { new, .. }, _) => Makes::State(Some(new.clone())),
            (Input::Delete, _) => Makes::State(None),
        }
    }

    fn needs(input: &Input, output: &Output) -> Option<Option<Value>> {
        match (input, output) {
            (_, Output::Value(state) | Output::Mismatch { current: state }) => Some(state.clone()),
            (_, Output::NotFound) => Some(None),
            (Input::CompareAndSet { expected, .. }, _) => Some(expected.clone()),
            _ => None,
        }
    }

    /// Values that nobody saw and no compare-and-set expects are all alike.
    fn simplify(operations: &mut [Operation<Self>]) {
        let mut mentioned: BTreeSet<Value> = BTreeSet::new();
        for operation in &*operations {
            if let Input::CompareAndSet { expected: Some(value), .. } = &operation.input {
                mentioned.insert(value.clone());
            }
            let output = operation.answer.as_ref().map(|answer| &answer.output);
            if let Some(Output::Value(Some(value)) | Output::Mismatch { current: Some(value) }) = output {
                mentioned.insert(value.clone());
            }
        }
        let mut like_all_others = None;
        for operation in operations {
            if let Input::Put(value) | Input::CompareAndSet { new: value, .. } = &mut operation.input
                && !mentioned.contains(value)
            {
                value.clone_from(like_all_others.get_or_insert(value.clone()));
            }
        }
    }
}

fn apply(state: &Option<Value>, input: &Input) -> (Output, Option<Value>) {
    match input {
        Input::Get => (Output::Value(state.clone()), state.clone()),
        Input::Put(value) => (Output::Done, Some(value.clone())),
        Input::Delete if state.is_some() => (Output::Done, None),
        Input::Delete => (Output::NotFound, None),
        Input::CompareAndSet { expected, new } if expected == state => (Output::Done, Some(new.clone())),
        Input::CompareAndSet { .. } => (Output::Mismatch { current: state.clone() }, state.clone()),
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Get => write!(f, "get"),
            Input::Put(value) => write!(f, "put {value:?}"),
            Input::Delete => write!(f, "delete"),
            Input::CompareAndSet { expected: Some(expected), new } => write!(f, "cas {expected:?} {new:?}"),
            Input::CompareAndSet { expected: None, new } => write!(f, "cas --absent {new:?}"),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Value(Some(value)) => write!(f, "{value:?}"),
            Output::Value(None) | Output::NotFound => write!(f, "not found"),
            Output::Done => write!(f, "ok"),
            Output::Mismatch { current: Some(current) } => write!(f, "mismatch, it is {current:?}"),
            Output::Mismatch { current: None } => write!(f, "mismatch, it is absent"),
        }
    }
}
