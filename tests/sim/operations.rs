//! What clients asked and were told, checked against the committed history by revisions.
//!
//! Every answer names the revision of the state that it reflects, so the search for a linear order
//! is a look-up: writes stand at their revisions, a read must give the state at its revision, and
//! that must not lie before any revision of which some client had heard when the read began.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvstore::client::session::Answer;
use kvstore::client::{Error, Identity};
use kvstore::time::Instant;
use kvstore::types::{ClientId, NodeId, Sequence};
use kvstore::wire::client::{Operation, RequestBody, ResponseBody, Write};
use kvstore::wire::entry::SnapshotId;

use super::checker::violated;
use super::reference::Reference;

/// What a client asks for.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Write(Operation),
    Get { key: Bytes, stale: bool },
    Scan { prefix: Bytes, limit: u32, stale: bool },
    Transfer { to: NodeId },
    Status,
    Backup { snapshot: Option<SnapshotId>, offset: u64 },
}

/// How it ended.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Answered {
        body: ResponseBody,
    },
    /// It had no effect, and never will have one.
    Refused,
    Unknown,
}

/// One operation, however many copies of it were sent, over one session or several.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) client: usize,
    pub(crate) asked: Asked,
    pub(crate) began: Instant,
    pub(crate) ended: Option<Instant>,
    pub(crate) ending: Ending,
    /// The highest revision that any client had heard of when it began.
    floor: u64,
    /// The names under which copies of it were sent.
    names: BTreeSet<(ClientId, Sequence)>,
    /// An attempt at it may have had an effect: no refusal of a later one settles that.
    pub(crate) in_doubt: bool,
}

/// All operations of a run.
#[derive(Default)]
pub(crate) struct Operations {
    records: Vec<Record>,
    by_name: BTreeMap<(ClientId, Sequence), usize>,
    highest_heard: u64,
    pub(crate) answered: u64,
}

impl Asked {
    /// The body of a request that is no write.
    pub(crate) fn body(&self) -> RequestBody {
        match self.clone() {
            Asked::Write(_) => unreachable!("a write is named by its session"),
            Asked::Get { key, stale } => RequestBody::Get { key, stale },
            Asked::Scan { prefix, limit, stale } => RequestBody::Scan { prefix, after: None, limit, stale },
            Asked::Transfer { to } => RequestBody::Transfer { to },
            Asked::Status => RequestBody::Status,
            Asked::Backup { snapshot, offset } => RequestBody::Backup { snapshot, offset },
        }
    }
}

impl Operations {
    /// A client begins an operation; gives its number.
    pub(crate) fn begin(&mut self, now: Instant, client: usize, asked: Asked) -> usize {
        let (floor, names) = (self.highest_heard, BTreeSet::new());
        let (ended, ending, in_doubt) = (None, Ending::Unknown, false);
        self.records.push(Record { client, asked, began: now, ended, ending, floor, names, in_doubt });
        self.records.len() - 1
    }

    /// All of them, by the time of their beginning.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// An operation.
    pub(crate) fn record(&self, number: usize) -> &Record {
        &self.records[number]
    }

    /// A copy of a write is sent under a name.
    pub(crate) fn on_named(&mut self, number: usize, write: &Write) {
        let name = (write.client.clone(), write.sequence);
        if let Some(other) = self.by_name.insert(name.clone(), number).filter(|other| *other != number) {
            violated!("names are used once", "operations {other} and {number} are both {name:?}");
        }
        self.records[number].names.insert(name);
    }

    /// The name of a write that its caller named.
    pub(crate) fn identity(&self, number: usize) -> Option<Identity> {
        let (client, sequence) = self.records[number].names.first()?.clone();
        Some(Identity { client, sequence })
    }

    /// An operation ended, or one attempt at it: an unknown one may be asked again.
    pub(crate) fn end(
        &mut self,
        now: Instant,
        number: usize,
        result: &Result<Answer, Error>,
        reference: &Reference,
    ) {
        let record = &mut self.records[number];
        record.ended = Some(now);
        record.ending = match result {
            Ok(answer) => Ending::Answered { body: answer.body.clone() },
            Err(error) if error.is_definite() && !record.in_doubt => Ending::Refused,
            Err(_) => Ending::Unknown,
        };
        record.in_doubt |= matches!(result, Err(error) if !error.is_definite());
        if let Ok(answer) = result {
            self.check_answer(number, answer, reference);
            self.answered += 1;
            self.highest_heard = self.highest_heard.max(answer.revision.0);
        }
    }

    /// Its client ends without an answer.
    pub(crate) fn abandon(&mut self, number: usize) {
        self.records[number].in_doubt = true;
    }

    fn check_answer(&self, number: usize, answer: &Answer, reference: &Reference) {
        let record = &self.records[number];
        let revision = answer.revision.0;
        if revision > reference.revision() {
            violated!("answers tell what is committed", "operation {number}: {answer:?}");
        }
        let (is_right, is_stale) = match (&record.asked, &answer.body) {
            (Asked::Write(_), ResponseBody::Written { outcome, .. }) => {
                let effects = record.names.iter().filter_map(|name| reference.effects().get(name));
                let mut same =
                    effects.filter(|effect| effect.revision == revision && effect.outcome == *outcome);
                (same.next().is_some(), revision <= record.floor)
            }
            (Asked::Get { key, stale }, ResponseBody::Value(value)) => {
                (reference.value_at(key, revision) == value.as_ref(), !stale && revision < record.floor)
            }
            (Asked::Scan { prefix, limit, stale }, ResponseBody::Rows { rows, more }) => {
                let expected = reference.rows_at(prefix, *limit, revision);
                (expected == (rows.clone(), *more), !stale && revision < record.floor)
            }
            (Asked::Transfer { .. }, ResponseBody::Transferred) => (true, false),
            (Asked::Status, ResponseBody::Status(status)) => {
                // After a restart nobody knows how much of the log is committed.
                let mut bounds = status.bounds.iter().filter(|bound| bound.name != "uncommitted_bytes");
                (bounds.all(|bound| bound.used <= bound.cap), false)
            }
            (Asked::Backup { snapshot, .. }, ResponseBody::BackupChunk { snapshot: found, .. }) => {
                let oldest = snapshot.map_or(record.floor, |asked| asked.index.0);
                (found.index.0 <= revision, found.index.0 < oldest)
            }
            _ => (false, false),
        };
        if !is_right {
            violated!("answers are true", "operation {number}: {record:?} was told {answer:?}");
        }
        if is_stale {
            violated!(
                "linearizable by revision",
                "operation {number} began when {} was known: {record:?} was told {answer:?}",
                record.floor
            );
        }
    }

    /// Exactly once, and honest: an answered write took effect once, an unknown one at most once, a
    /// refused one never, and none took effect that nobody asked for.
    pub(crate) fn check_effects(&self, reference: &Reference) {
        let mut counts = BTreeMap::new();
        for (name, effect) in reference.effects() {
            let Some(number) = self.by_name.get(name) else {
                violated!("no phantoms", "nobody asked for {name:?}: {effect:?}");
            };
            let record = &self.records[*number];
            let is_asked = matches!(&record.asked, Asked::Write(asked) if *asked == effect.operation);
            if !is_asked {
                violated!("no phantoms", "operation {number}: {record:?} took effect as {effect:?}");
            }
            *counts.entry(*number).or_insert(0) += 1;
        }
        for (number, record) in self.records.iter().enumerate() {
            let count = counts.get(&number).copied().unwrap_or(0);
            let is_write = matches!(record.asked, Asked::Write(_));
            let is_right = match record.ending {
                Ending::Answered { .. } if is_write => count == 1,
                Ending::Refused => count == 0,
                _ => count <= 1,
            };
            if !is_right {
                violated!("exactly once", "operation {number} took effect {count} times: {record:?}");
            }
        }
    }
}
