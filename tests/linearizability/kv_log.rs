//! Text by key, which is read, set and appended to, and the logs of clients that did so.
//!
//! A line is `{:process P, :type T, :f F, :key "K", :value V}`, in the order of time, where T is
//! `:invoke` or `:ok`. The text is what a put or an append was asked with, or what a get answered.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::linearizability::{Answer, Makes, Model, Operation};

/// Text, at first empty.
#[derive(Clone, Debug)]
pub(crate) struct Text;

/// What is asked of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Get,
    Put(String),
    Append(String),
}

/// The text that a get saw; the other answers say nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Output(Option<String>);

impl Model for Text {
    type State = Rc<str>;
    type Input = Input;
    type Output = Output;

    fn step(state: &Rc<str>, input: &Input, output: Option<&Output>) -> Option<Rc<str>> {
        match (input, output) {
            (Input::Get, Some(Output(Some(seen)))) => (**seen == **state).then(|| state.clone()),
            (Input::Get, _) => Some(state.clone()),
            (Input::Put(text), _) => Some(text.as_str().into()),
            (Input::Append(text), _) => Some(format!("{state}{text}").into()),
        }
    }

    fn makes(input: &Input, _: Option<&Output>) -> Makes<Rc<str>> {
        match input {
            Input::Get => Makes::Nothing,
            Input::Put(text) => Makes::State(text.as_str().into()),
            Input::Append(_) => Makes::Anything,
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Get => write!(f, "get"),
            Input::Put(text) => write!(f, "put {text:?}"),
            Input::Append(text) => write!(f, "append {text:?}"),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) => write!(f, "{text:?}"),
            None => write!(f, "ok"),
        }
    }
}

/// The operations of a log by key, stamped with the numbers of their lines.
///
/// # Panics
/// On a line that makes no sense.
pub(crate) fn parse(log: &str) -> BTreeMap<String, Vec<Operation<Text>>> {
    let mut keys: BTreeMap<String, Vec<Operation<Text>>> = BTreeMap::new();
    let mut under_way: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, line) in (0..).zip(log.lines()) {
        let (client, kind, key, input, text) = fields(line).unwrap_or_else(|| panic!("line {at}: {line}"));
        let operations = keys.entry(key.to_owned()).or_default();
        if kind == ":invoke" {
            under_way.insert(client, operations.len());
            operations.push(Operation { client, input, call: at, answer: None });
        } else {
            let began = under_way.remove(&client).unwrap_or_else(|| panic!("line {at} ends nothing: {line}"));
            let output = Output(matches!(input, Input::Get).then(|| text.to_owned()));
            operations[began].answer = Some(Answer { at, output });
        }
    }
    keys
}

fn fields(line: &str) -> Option<(u64, &str, &str, Input, &str)> {
    let (process, rest) = line.strip_prefix("{:process ")?.split_once(", :type ")?;
    let (kind, rest) = rest.split_once(", :f ")?;
    let (function, rest) = rest.split_once(", :key \"")?;
    let (key, rest) = rest.split_once("\", :value ")?;
    let value = rest.strip_suffix('}')?;
    let text = if value == "nil" { "" } else { value.strip_prefix('"')?.strip_suffix('"')? };
    let input = match function {
        ":get" => Input::Get,
        ":put" => Input::Put(text.to_owned()),
        ":append" => Input::Append(text.to_owned()),
        _ => return None,
    };
    matches!(kind, ":invoke" | ":ok").then_some((process.parse().ok()?, kind, key, input, text))
}

#[test]
fn kv_log_is_parsed_by_key() {
    let log = "{:process 0, :type :invoke, :f :append, :key \"7\", :value \"x 0 y\"}\n\
               {:process 1, :type :invoke, :f :get, :key \"7\", :value nil}\n\
               {:process 0, :type :ok, :f :append, :key \"7\", :value \"x 0 y\"}\n\
               {:process 1, :type :ok, :f :get, :key \"7\", :value \"\"}\n\
               {:process 0, :type :invoke, :f :put, :key \"8\", :value \"z\"}\n";
    let keys = parse(log);
    let lines = |key: &str| keys[key].iter().map(Operation::to_string).collect::<Vec<_>>();
    assert_eq!(lines("7"), ["client 0: append \"x 0 y\" -> ok  [0, 2]", "client 1: get -> \"\"  [1, 3]"]);
    assert_eq!(lines("8"), ["client 0: put \"z\" -> unknown  [4, ...]"]);
}
