//! Messages written by hand: `Heartbeat term=1 round=2 commit=0`. What is not said is zero, false
//! or nothing.

use crate::types::{ClusterTime, LogIndex, NodeId, Term};
use crate::wire::entry::{Entry, Payload};
use crate::wire::peer::{
    AppendEntries, AppendEntriesResponse, AppendResult, Heartbeat, HeartbeatResponse, Message, PreVote,
    PreVoteResponse, ReadIndex, ReadIndexResponse, RequestVote, RequestVoteResponse, TimeoutNow,
};

/// Reads the kind and its fields.
pub(super) fn message(words: &[&str]) -> Message {
    let (kind, fields) = words.split_first().expect("a kind of message");
    let fields = Fields(fields);
    let term = Term(fields.number("term"));
    match *kind {
        "PreVote" => {
            let (last_log_index, last_log_term) = fields.position("last");
            Message::PreVote(PreVote { term, last_log_index, last_log_term, round: fields.number("round") })
        }
        "PreVoteResponse" => {
            let (round, vote_granted) = (fields.number("round"), fields.flag("granted"));
            Message::PreVoteResponse(PreVoteResponse { term, round, vote_granted })
        }
        "RequestVote" => {
            let (last_log_index, last_log_term) = fields.position("last");
            let leadership_transfer = fields.flag("hand-over");
            Message::RequestVote(RequestVote { term, last_log_index, last_log_term, leadership_transfer })
        }
        "RequestVoteResponse" => {
            let vote_granted = fields.flag("granted");
            Message::RequestVoteResponse(RequestVoteResponse { term, vote_granted })
        }
        "AppendEntries" => fields.append_entries(term),
        "AppendEntriesResponse" => {
            let (hint_index, hint_term) = fields.position("hint");
            let result = match fields.get("conflict") {
                Some(_) => AppendResult::Conflict {
                    prev_log_index: LogIndex(fields.number("conflict")),
                    hint_index,
                    hint_term,
                },
                None => AppendResult::Match { match_index: LogIndex(fields.number("match")) },
            };
            Message::AppendEntriesResponse(AppendEntriesResponse { term, result })
        }
        "Heartbeat" => {
            let (commit, round) = (LogIndex(fields.number("commit")), fields.number("round"));
            Message::Heartbeat(Heartbeat { term, commit, round })
        }
        "HeartbeatResponse" => {
            Message::HeartbeatResponse(HeartbeatResponse { term, round: fields.number("round") })
        }
        "ReadIndex" => Message::ReadIndex(ReadIndex { term, request: fields.number("request") }),
        "ReadIndexResponse" => {
            let read_index = fields.get("index").map(|_| LogIndex(fields.number("index")));
            let request = fields.number("request");
            Message::ReadIndexResponse(ReadIndexResponse { term, request, read_index })
        }
        "TimeoutNow" => Message::TimeoutNow(TimeoutNow { term }),
        _ => panic!("{kind} is no kind of message"),
    }
}

struct Fields<'a>(&'a [&'a str]);

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn flag(&self, word: &str) -> bool {
        self.0.contains(&word)
    }

    fn number(&self, key: &str) -> u64 {
        self.get(key).map_or(0, |value| value.parse().expect("a number"))
    }

    /// `index@term`
    fn position(&self, key: &str) -> (LogIndex, Term) {
        let (index, term) =
            self.get(key).map_or(("0", "0"), |value| value.split_once('@').expect("a position"));
        (LogIndex(index.parse().expect("an index")), Term(term.parse().expect("a term")))
    }

    /// `prev=2@1 entries=1,2 commit=2`: the terms of the entries that follow `prev`.
    fn append_entries(&self, term: Term) -> Message {
        let (prev_log_index, prev_log_term) = self.position("prev");
        let terms = self.get("entries").unwrap_or_default().split(',').filter(|term| !term.is_empty());
        let entries = terms.zip(prev_log_index.0 + 1..).map(|(term, index)| {
            let payload = match self.get("no-op") {
                Some(leader) => Payload::NoOp { leader: NodeId(leader.parse().expect("a node")) },
                None => Payload::Command(format!("{index}.{term}").into()),
            };
            Entry::new(LogIndex(index), Term(term.parse().expect("a term")), ClusterTime::ZERO, payload)
        });
        let (entries, leader_commit) = (entries.collect(), LogIndex(self.number("commit")));
        Message::AppendEntries(AppendEntries { term, prev_log_index, prev_log_term, entries, leader_commit })
    }
}
