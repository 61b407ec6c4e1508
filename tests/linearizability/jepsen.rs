//! One register with compare-and-set, and the logs that Jepsen wrote of it.
//!
//! A line is `INFO  jepsen.util - P<tab>:T<tab>:F<tab>VALUE`; others are noise. `:invoke` begins an
//! operation of process P. `:ok` answers it; so does `:fail` of a cas, which did not match. `:fail` of
//! anything else says that nothing happened. After `:info`, or no second line, nobody knows.

use std::collections::BTreeMap;
use std::fmt;

use crate::linearizability::{Answer, Makes, Model, Operation};

/// A register of numbers, at first without one.
#[derive(Clone, Debug)]
pub(crate) struct Register;

/// What is asked of the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Read,
    Write(i64),
    CompareAndSet(i64, i64),
}

/// What it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    Value(Option<i64>),
    Done,
    Mismatch,
}

impl Model for Register {
    type State = Option<i64>;
    type Input = Input;
    type Output = Output;

    fn step(state: &Option<i64>, input: &Input, output: Option<&Output>) -> Option<Option<i64>> {
        let (answer, after) = match *input {
            Input::Read => (Output::Value(*state), *state),
            Input::Write(value) => (Output::Done, Some(value)),
            Input::CompareAndSet(old, new) if *state == Some(old) => (Output::Done, Some(new)),
            Input::CompareAndSet(..) => (Output::Mismatch, *state),
        };
        output.is_none_or(|output| *output == answer).then_some(after)
    }

    fn makes(input: &Input, output: Option<&Output>) -> Makes<Option<i64>> {
        match (*input, output) {
            (Input::Read, _) | (_, Some(Output::Mismatch)) => Makes::Nothing,
            (Input::Write(new) | Input::CompareAndSet(_, new), _) => Makes::State(Some(new)),
        }
    }

    fn needs(input: &Input, output: &Output) -> Option<Option<i64>> {
        match (*input, *output) {
            (_, Output::Value(state)) => Some(state),
            (Input::CompareAndSet(old, _), Output::Done) => Some(Some(old)),
            _ => None,
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Read => write!(f, "read"),
            Input::Write(value) => write!(f, "write {value}"),
            Input::CompareAndSet(old, new) => write!(f, "cas {old} {new}"),
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Value(Some(value)) => write!(f, "{value}"),
            Output::Value(None) => write!(f, "nil"),
            Output::Done => write!(f, "ok"),
            Output::Mismatch => write!(f, "mismatch"),
        }
    }
}

/// The operations of a log, stamped with the numbers of their lines.
///
/// # Panics
/// On a line of a process that makes no sense.
pub(crate) fn parse(log: &str) -> Vec<Operation<Register>> {
    let mut operations: Vec<Operation<Register>> = Vec::new();
    let mut nothing_happened = Vec::new();
    let mut under_way: BTreeMap<u64, usize> = BTreeMap::new();
    for (at, line) in (0..).zip(log.lines()) {
        let Some(Line { process: client, kind, function, value }) = Line::parse(line) else { continue };
        if kind == ":invoke" {
            under_way.insert(client, operations.len());
            let input = input(function, value).unwrap_or_else(|| panic!("line {at}: {line}"));
            operations.push(Operation { client, input, call: at, answer: None });
            continue;
        }
        let began = under_way.remove(&client).unwrap_or_else(|| panic!("line {at} ends nothing: {line}"));
        let output = match (kind, function) {
            (":ok", ":read") => Output::Value(number(value)),
            (":ok", _) => Output::Done,
            (":fail", ":cas") => Output::Mismatch,
            (":fail", _) => {
                nothing_happened.push(began);
                continue;
            }
            (":info", _) => continue,
            _ => panic!("line {at}: {line}"),
        };
        operations[began].answer = Some(Answer { at, output });
    }
    let mut numbers = 0..;
    operations.retain(|_| !nothing_happened.contains(&numbers.next().expect("numbers never run out")));
    operations
}

struct Line<'a> {
    process: u64,
    kind: &'a str,
    function: &'a str,
    value: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (_, event) = line.split_once("jepsen.util - ")?;
        let mut fields = event.split('\t').map(str::trim);
        let process = fields.next()?.parse().ok()?;
        Some(Self { process, kind: fields.next()?, function: fields.next()?, value: fields.next()? })
    }
}

fn input(function: &str, value: &str) -> Option<Input> {
    match function {
        ":read" => Some(Input::Read),
        ":write" => number(value).map(Input::Write),
        ":cas" => {
            let (old, new) = value.strip_prefix('[')?.strip_suffix(']')?.split_once(' ')?;
            Some(Input::CompareAndSet(number(old)?, number(new)?))
        }
        _ => None,
    }
}

/// A number, or `None` for nil.
fn number(text: &str) -> Option<i64> {
    (text != "nil").then(|| text.parse().unwrap_or_else(|_| panic!("{text:?} is no number")))
}

#[test]
fn jepsen_log_with_every_kind_of_line_is_parsed() {
    let log = "INFO  jepsen.util - 0\t:invoke\t:read\tnil\n\
               INFO  jepsen.util - :nemesis\t:info\t:start\tnil\n\
               INFO  jepsen.util - 1\t:invoke\t:cas\t[1 2]\n\
               INFO  jepsen.util - 0\t:ok\t:read\tnil\n\
               INFO  jepsen.util - 2\t:invoke\t:write\t3\n\
               INFO  jepsen.util - 1\t:fail\t:cas\t[1 2]\n\
               INFO  jepsen.core - some noise\n\
               INFO  jepsen.util - 0\t:invoke\t:read\tnil\n\
               INFO  jepsen.util - 0\t:fail\t:read\t:timed-out\n\
               INFO  jepsen.util - 2\t:info\t:write\t:timed-out\n\
               INFO  jepsen.util - 1\t:invoke\t:cas\t[3 4]\n";
    let operations: Vec<String> = parse(log).iter().map(Operation::to_string).collect();
    assert_eq!(
        operations,
        [
            "client 0: read -> nil  [0, 3]",
            "client 1: cas 1 2 -> mismatch  [2, 5]",
            "client 2: write 3 -> unknown  [4, ...]",
            "client 1: cas 3 4 -> unknown  [10, ...]",
        ]
    );
}
