//! Entries of the log, for people.

use std::str::FromStr;

use kvstore::types::LogIndex;
use kvstore::wire::client::{Command, Operation, Write};
use kvstore::wire::entry::{Entry, Payload};
use serde_json::{Value, json};

/// Longer keys and values are cut to this many bytes.
const SHOWN_BYTES: usize = 40;

/// A range of indexes, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    first: u64,
    last: u64,
}

impl Span {
    pub(super) fn contains(self, index: LogIndex) -> bool {
        (self.first..=self.last).contains(&index.0)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("{text:?} is no range of indexes: write A..B, A.., ..B or A");
        let end = |text: &str, open: u64| match text {
            "" => Ok(open),
            text => text.parse().map_err(|_| malformed()),
        };
        let (first, last) = match text.split_once("..") {
            _ if text.is_empty() => return Err(malformed()),
            Some((first, last)) => (end(first, 0)?, end(last, u64::MAX)?),
            None => (end(text, 0)?, end(text, 0)?),
        };
        if last < first { Err(malformed()) } else { Ok(Self { first, last }) }
    }
}

/// One entry in words.
pub(super) struct Described {
    index: u64,
    term: u64,
    kind: &'static str,
    client: Option<String>,
    sequence: Option<u64>,
    content: String,
}

impl Described {
    pub(super) const HEAD: [&str; 6] = ["INDEX", "TERM", "KIND", "CLIENT", "SEQ", "CONTENT"];

    pub(super) fn new(entry: &Entry) -> Self {
        let (mut client, mut sequence) = (None, None);
        let (kind, content) = match &entry.payload {
            Payload::NoOp { leader } => ("no-op", format!("leader {leader}")),
            Payload::Configuration(configuration) => {
                let ids = configuration.members().iter().map(|member| member.id.to_string());
                let ids = ids.collect::<Vec<_>>().join(",");
                ("members", format!("{ids} of cluster {}", configuration.cluster))
            }
            Payload::Command(command) => match Command::decode(command.clone()) {
                Ok(Command::Write(write)) => {
                    client = Some(write.client.to_string());
                    sequence = Some(write.sequence.0);
                    operation(&write)
                }
                Ok(Command::ExpireSessions) => ("expire sessions", String::new()),
                Err(error) => ("unknown", format!("a command of another version: {error}")),
            },
        };
        let (index, term) = (entry.index.0, entry.term.0);
        Self { index, term, kind, client, sequence, content }
    }

    pub(super) fn row(self) -> Vec<String> {
        let dash = || "-".to_owned();
        let sequence = self.sequence.map_or_else(dash, |sequence| sequence.to_string());
        let (index, term) = (self.index.to_string(), self.term.to_string());
        vec![index, term, self.kind.to_owned(), self.client.unwrap_or_else(dash), sequence, self.content]
    }

    pub(super) fn json(self) -> Value {
        json!({
            "index": self.index,
            "term": self.term,
            "kind": self.kind,
            "client": self.client,
            "seq": self.sequence,
            "content": self.content,
        })
    }
}

fn operation(write: &Write) -> (&'static str, String) {
    match &write.operation {
        Operation::Put { key, value } => ("put", format!("{} = {}", shown(key), shown(value))),
        Operation::Delete { key } => ("delete", shown(key)),
        Operation::CompareAndSet { key, expected, new } => {
            let expected = expected.as_ref().map_or_else(|| "absent".to_owned(), |value| shown(value));
            ("cas", format!("{}: {expected} -> {}", shown(key), shown(new)))
        }
        Operation::CloseSession { client } => ("close session", client.to_string()),
    }
}

/// Bytes as text in quotes; what is long is cut, and its size said.
fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if cut.len() < bytes.len() { format!("... ({} bytes)", bytes.len()) } else { String::new() };
    format!("\"{}\"{more}", cut.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_in_each_form_is_read() {
        let span = |text: &str| text.parse::<Span>().map(|span| (span.first, span.last)).ok();
        assert_eq!(span("3..7"), Some((3, 7)));
        assert_eq!(span("3.."), Some((3, u64::MAX)));
        assert_eq!(span("..7"), Some((0, 7)));
        assert_eq!(span("5"), Some((5, 5)));
        for text in ["", "a", "7..3", "1..b", "-1..2"] {
            assert_eq!(span(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_that_are_long_or_no_text_are_shown_in_one_short_line() {
        assert_eq!(shown(b"a\n\xff"), r#""a\n\xff""#);
        assert_eq!(shown(&[b'x'; 1000]), format!("\"{}\"... (1000 bytes)", "x".repeat(40)));
    }
}
