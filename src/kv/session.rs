//! One client's session: which of its writes were applied, and what they came to.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::digest::Hash64;
use super::tree::Keyed;
use crate::types::{ClientId, ClusterTime, Revision, Sequence};
use crate::wire::client::{Operation, Outcome, SessionInfo, Write, decode_client, encode_client};
use crate::wire::{DecodeError, Reader, Writer};

/// What a kept result counts for, apart from the value that a mismatch carries: what it takes in
/// memory.
pub(super) const RECORD_BYTES: u64 = 64;

/// Set the hashes of sessions and of results apart from each other and from those of other things.
const SESSION_DOMAIN: u64 = 2;
const RECORD_DOMAIN: u64 = 3;
const FINGERPRINT_DOMAIN: u64 = 4;

/// The result of a write that was applied, at this revision, for the first and only time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The revision that the write made.
    pub revision: Revision,
    /// What it came to.
    pub outcome: Outcome,
}

/// What a session knows of a write.
pub(super) enum Known<'a> {
    /// Nothing: it was never applied, and may be.
    New,
    /// It was applied.
    Recorded(&'a Recorded),
    /// Another write with its number was applied.
    Reused,
    /// Its number lies below the floor.
    Forgotten,
    /// The session was closed.
    Closed,
}

/// Kept bytes and the digest of some part of the sessions. Both are sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) kept_bytes: u64,
    pub(super) digest: u64,
}

/// A session.
///
/// Invariants:
/// - A write with a number at or above `floor` was applied if and only if it has a record. This is
///   what makes writes exactly-once; below the floor nobody knows, so nothing is applied.
/// - `records` ascend strictly by sequence, all at or above `floor`, at most a window of them.
/// - `floor` never falls, and neither do the `last_*`.
/// - `records_tally` is the sum over `records`.
/// - A closed session has no records. It is kept so that a late copy of one of its writes finds it
///   closed and does not open it again.
#[derive(Clone)]
pub(super) struct Session {
    client: ClientId,
    floor: Sequence,
    last_sequence: Sequence,
    last_revision: Revision,
    last_stamp: ClusterTime,
    closed: bool,
    records: VecDeque<Record>,
    records_tally: Tally,
}

/// A write that was applied.
#[derive(Clone)]
struct Record {
    sequence: Sequence,
    fingerprint: u64,
    recorded: Recorded,
}

impl Session {
    /// The session that `write` opens in an entry with this stamp, before its result is recorded.
    pub(super) fn open(write: &Write, stamp: ClusterTime) -> Self {
        Self {
            client: write.client.clone(),
            floor: write.acknowledged.max(Sequence(1)),
            last_sequence: Sequence(0),
            last_revision: Revision(0),
            last_stamp: stamp,
            closed: false,
            // Most sessions are of commands that write once; by default there is room for four.
            records: VecDeque::with_capacity(1),
            records_tally: Tally::default(),
        }
    }

    /// Whose session it is.
    pub(super) fn client(&self) -> &ClientId {
        &self.client
    }

    /// Appends the session as a snapshot holds it.
    pub(super) fn encode(&self, out: &mut Writer) {
        encode_client(&self.client, out);
        out.u64(self.floor.0);
        out.u64(self.last_sequence.0);
        out.u64(self.last_revision.0);
        out.u64(self.last_stamp.0);
        out.bool(self.closed);
        out.list(self.records.iter(), |out, record| {
            out.u64(record.sequence.0);
            out.u64(record.fingerprint);
            out.u64(record.recorded.revision.0);
            record.recorded.outcome.encode(out);
        });
    }

    /// Takes a session of a snapshot. The caller compares the digest of the whole state, so the
    /// invariants are not looked at here.
    pub(super) fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let mut session = Self {
            client: decode_client(bytes)?,
            floor: Sequence(bytes.u64()?),
            last_sequence: Sequence(bytes.u64()?),
            last_revision: Revision(bytes.u64()?),
            last_stamp: ClusterTime(bytes.u64()?),
            closed: bytes.bool("closed")?,
            records: bytes.list(Record::decode)?.into(),
            records_tally: Tally::default(),
        };
        session.records.iter().for_each(|record| session.records_tally.add(record.tally()));
        Ok(session)
    }

    /// Whether the session was not closed.
    pub(super) fn is_open(&self) -> bool {
        !self.closed
    }

    /// Up to when the session certainly was of use: its last write, or its birth if that lies
    /// ahead (see `Sessions::begin` for how it can). Expiry counts from here.
    pub(super) fn alive(&self) -> ClusterTime {
        match self.client {
            ClientId::Library { born, .. } => born.max(self.last_stamp),
            ClientId::Named(_) => self.last_stamp,
        }
    }

    /// What is known of a write.
    pub(super) fn known(&self, write: &Write) -> Known<'_> {
        if self.closed {
            return Known::Closed;
        }
        if write.sequence < self.floor {
            return Known::Forgotten;
        }
        match self.position(write.sequence).map(|at| &self.records[at]) {
            Err(_) => Known::New,
            Ok(record) if record.fingerprint == fingerprint(&write.operation) => {
                Known::Recorded(&record.recorded)
            }
            Ok(_) => Known::Reused,
        }
    }

    /// The client has the answers to all its writes below `acknowledged`: forgets their results,
    /// and applies none of them any more.
    pub(super) fn acknowledge(&mut self, acknowledged: Sequence) {
        self.floor = self.floor.max(acknowledged);
        while self.records.front().is_some_and(|record| record.sequence < self.floor) {
            self.forget_lowest();
        }
    }

    /// Keeps the result of a write that is [`Known::New`]; beyond `window` results the lowest is
    /// forgotten. That may be this very one, if it comes after a full window of higher numbers:
    /// then its caller still gets the result, and a copy of it is told that it is forgotten.
    pub(super) fn record(&mut self, write: &Write, recorded: Recorded, stamp: ClusterTime, window: usize) {
        let at = self.position(write.sequence).expect_err("a write is recorded once");
        self.last_sequence = self.last_sequence.max(write.sequence);
        self.last_revision = recorded.revision;
        self.last_stamp = stamp;
        let record =
            Record { sequence: write.sequence, fingerprint: fingerprint(&write.operation), recorded };
        self.records_tally.add(record.tally());
        self.records.insert(at, record);
        if self.records.len() > window {
            self.forget_lowest();
        }
    }

    /// Ends the session, and frees what it keeps.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.records = VecDeque::new();
        self.records_tally = Tally::default();
    }

    /// Bytes that the next record frees because the window is full.
    pub(super) fn freed_by_next(&self, window: usize) -> u64 {
        let lowest = self.records.front().filter(|_| self.records.len() == window);
        lowest.map_or(0, |record| kept_bytes(&record.recorded.outcome))
    }

    /// The session as people are shown it; `None` if it has no name.
    pub(super) fn info(&self) -> Option<SessionInfo> {
        let ClientId::Named(name) = &self.client else { return None };
        Some(SessionInfo {
            name: name.clone(),
            last_sequence: self.last_sequence,
            kept_results: u32::try_from(self.records.len()).expect("a window is small"),
            last_write: self.last_revision,
        })
    }

    /// What the session adds to the sums over all sessions.
    pub(super) fn tally(&self) -> Tally {
        let hash = hash_client(Hash64::new(SESSION_DOMAIN), &self.client)
            .number(self.floor.0)
            .number(self.last_sequence.0)
            .number(self.last_revision.0)
            .number(self.last_stamp.0)
            .number(u64::from(self.closed))
            // Binds the records, whose own hashes do not name it, to this session.
            .number(self.records_tally.digest);
        Tally { kept_bytes: self.records_tally.kept_bytes, digest: hash.finish() }
    }

    /// The tally computed anew, after asserting the invariants.
    #[cfg(test)]
    pub(super) fn recomputed_tally(&self, window: usize) -> Tally {
        let mut sum = Tally::default();
        self.records.iter().for_each(|record| sum.add(record.tally()));
        assert_eq!(sum, self.records_tally);
        assert!(self.records.iter().is_sorted_by(|a, b| a.sequence < b.sequence));
        assert!(self.records.front().is_none_or(|record| record.sequence >= self.floor));
        assert!(self.records.len() <= window && (self.is_open() || self.records.is_empty()));
        self.tally()
    }

    fn position(&self, sequence: Sequence) -> Result<usize, usize> {
        self.records.binary_search_by_key(&sequence, |record| record.sequence)
    }

    fn forget_lowest(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.records_tally.subtract(record.tally());
            self.floor = self.floor.max(record.sequence.next());
        }
    }
}

impl Record {
    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let (sequence, fingerprint) = (Sequence(bytes.u64()?), bytes.u64()?);
        let revision = Revision(bytes.u64()?);
        let outcome = match Outcome::decode(bytes)? {
            // Copied, as when it was recorded: a slice would keep the snapshot's bytes alive.
            Outcome::Mismatch { current, truncated } => {
                let current = current.map(|value| Bytes::copy_from_slice(&value));
                Outcome::Mismatch { current, truncated }
            }
            other => other,
        };
        Ok(Self { sequence, fingerprint, recorded: Recorded { revision, outcome } })
    }

    fn tally(&self) -> Tally {
        let Recorded { revision, outcome } = &self.recorded;
        let hash =
            Hash64::new(RECORD_DOMAIN).number(self.sequence.0).number(self.fingerprint).number(revision.0);
        let hash = match outcome {
            Outcome::Done => hash.number(0),
            Outcome::NotFound => hash.number(1),
            Outcome::Mismatch { current, truncated } => {
                hash.number(2).option(current.as_deref()).number(u64::from(*truncated))
            }
        };
        Tally { kept_bytes: kept_bytes(outcome), digest: hash.finish() }
    }
}

impl Keyed for Arc<Session> {
    type Key = ClientId;
    type Separator = ClientId;

    fn key(&self) -> &ClientId {
        &self.client
    }

    fn separator(&self) -> ClientId {
        self.client.clone()
    }
}

impl Tally {
    /// Counts a part in.
    pub(super) fn add(&mut self, part: Tally) {
        self.kept_bytes += part.kept_bytes;
        self.digest = self.digest.wrapping_add(part.digest);
    }

    /// Counts a part out.
    pub(super) fn subtract(&mut self, part: Tally) {
        self.kept_bytes = self.kept_bytes.checked_sub(part.kept_bytes).expect("only what was added leaves");
        self.digest = self.digest.wrapping_sub(part.digest);
    }
}

/// What a kept result counts for.
pub(super) fn kept_bytes(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Mismatch { current: Some(value), .. } => RECORD_BYTES + value.len() as u64,
        _ => RECORD_BYTES,
    }
}

/// By what a session knows an operation again. Two operations of one client with one number and
/// the same fingerprint pass for the same; by accident that happens once in 2^64.
fn fingerprint(operation: &Operation) -> u64 {
    let hash = Hash64::new(FINGERPRINT_DOMAIN);
    match operation {
        Operation::Put { key, value } => hash.bytes(key).number(1).bytes(value),
        Operation::Delete { key } => hash.bytes(key).number(2),
        Operation::CompareAndSet { key, expected, new } => {
            hash.bytes(key).number(3).option(expected.as_deref()).bytes(new)
        }
        Operation::CloseSession { client } => hash_client(hash.number(4), client),
    }
    .finish()
}

fn hash_client(hash: Hash64, client: &ClientId) -> Hash64 {
    match client {
        ClientId::Library { born, nonce } => hash.number(0).number(born.0).number(*nonce),
        ClientId::Named(name) => hash.number(1).bytes(name.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_counts_for_what_it_takes() {
        assert_eq!(size_of::<Record>() as u64, RECORD_BYTES);
    }
}
