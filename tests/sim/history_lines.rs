//! Reads histories back from the JSON lines that [`super::history`] describes.

use std::fmt;

use serde_json::Value as Json;

use super::history::{Attempt, Ending};
use super::store_model::{Input, Output, Value};

/// A line that is no attempt, though it has an `op_id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MalformedLine {
    /// Counted from 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) cause: String,
}

/// The attempts of a history in JSON lines, in the order of the lines.
pub(crate) fn parse_attempts(text: &str) -> Result<Vec<Attempt>, MalformedLine> {
    let mut attempts = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let malformed = |cause| MalformedLine { line: at + 1, cause };
        let object: Json = serde_json::from_str(line).map_err(|error| malformed(error.to_string()))?;
        if object.get("op_id").is_some() {
            attempts.push(attempt_from(&object).map_err(malformed)?);
        }
    }
    Ok(attempts)
}

impl fmt::Display for MalformedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.cause)
    }
}

fn attempt_from(object: &Json) -> Result<Attempt, String> {
    let field = |name: &str| object.get(name).unwrap_or(&Json::Null);
    let call_ns = number(object, "call_ns")?;
    let ret_ns = optional_number(object, "ret_ns")?;
    if ret_ns.is_some_and(|ret_ns| ret_ns < call_ns) {
        return Err("ret_ns lies before call_ns".to_owned());
    }
    let input = input_from(field("kind"), field("arg"))?;
    let end = || ret_ns.ok_or("out without ret_ns is unknown".to_owned());
    let ending = match field("out").as_str() {
        Some("ok") => {
            let output = output_from(&input, field("value"))?;
            Ending::Ok { ret_ns: end()?, output, revision: optional_number(object, "rev")? }
        }
        Some("fail") => Ending::Fail { ret_ns: end()? },
        Some("unknown") => Ending::Unknown { ret_ns },
        _ => return Err(format!("out is {}", field("out"))),
    };
    Ok(Attempt {
        op_id: number(object, "op_id")?,
        client: number(object, "client")?,
        sequence: optional_number(object, "seq")?,
        node: optional_number(object, "node")?,
        key: field("key").as_str().ok_or("key is no text")?.to_owned(),
        input,
        call_ns,
        ending,
    })
}

fn number(object: &Json, name: &str) -> Result<u64, String> {
    optional_number(object, name)?.ok_or(format!("{name} is missing"))
}

fn optional_number(object: &Json, name: &str) -> Result<Option<u64>, String> {
    match object.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(format!("{name} is no number: {value}")),
    }
}

fn text(json: &Json) -> Option<Value> {
    json.as_str().map(Value::from)
}

/// Text, or null for absent; `None` if it is neither.
fn text_or_absent(json: &Json) -> Option<Option<Value>> {
    if json.is_null() { Some(None) } else { text(json).map(Some) }
}

fn input_from(kind: &Json, arg: &Json) -> Result<Input, String> {
    let input = match (kind.as_str(), arg) {
        (Some("get"), Json::Null) => Some(Input::Get),
        (Some("delete"), Json::Null) => Some(Input::Delete),
        (Some("put"), value) => text(value).map(Input::Put),
        (Some("cas"), Json::Array(pair)) if pair.len() == 2 => text_or_absent(&pair[0])
            .zip(text(&pair[1]))
            .map(|(expected, new)| Input::CompareAndSet { expected, new }),
        _ => None,
    };
    input.ok_or_else(|| format!("kind {kind} with arg {arg}"))
}

fn output_from(input: &Input, value: &Json) -> Result<Output, String> {
    let output = match (input, value) {
        (Input::Get, value) => text_or_absent(value).map(Output::Value),
        (Input::Put(_), Json::Null) => Some(Output::Done),
        (Input::Delete, Json::Bool(existed)) => Some(if *existed { Output::Done } else { Output::NotFound }),
        (Input::CompareAndSet { .. }, Json::Bool(true)) => Some(Output::Done),
        (Input::CompareAndSet { .. }, Json::Object(mismatch)) => {
            let current = mismatch.get("mismatch").and_then(text_or_absent);
            current.map(|current| Output::Mismatch { current })
        }
        _ => None,
    };
    output.ok_or_else(|| format!("{input} with value {value}"))
}
