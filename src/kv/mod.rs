//! The replicated state machine: the data, and the sessions that make writes exactly-once.
//!
//! It is a function of the log. Every node applies the same entries in the same order and comes to
//! the same state, session by session and byte by byte; so nothing here reads a clock, draws a
//! random number, or depends on the order of a hash map, and time is what the leader stamped on the
//! entries. [`StateMachine::digest`] tells two nodes at the same revision whether it holds.
//!
//! # A write
//!
//! A write is judged by its session (`sessions.rs` has the table of answers), what comes of it is
//! worked out, the result is recorded, and only then is the data changed. Each step before the last
//! may refuse, and a refused write was certainly not applied.
//!
//! "Not done" is a result too: a compare-and-set that found another value, or a delete that found
//! no key, is recorded and given again, since the very same request must never come to anything
//! else later on.
//!
//! # Before the log
//!
//! A leader may answer a resent write at once if its result is recorded, for a result is committed
//! state (of a name only after a read round, since a name that was closed may be used anew). Nothing else may be answered from a look-up: an entry that is still on its way could turn
//! every "no" into a lie. [`StateMachine::recorded`] therefore knows results only, and
//! [`check_write`] looks at the request alone.
//!
//! # Point in time
//!
//! Everything lies in trees whose nodes are shared and copied on write. A clone of the state
//! machine takes a few references whatever its size, and shows no later change: a snapshot is such
//! a clone, written out in slices between turns while the original goes on ([`SnapshotWriter`]),
//! and built again of slices as they arrive ([`SnapshotReader`]).

mod digest;
mod session;
mod sessions;
mod snapshot;
mod store;
mod tree;

use std::fmt;

use bytes::Bytes;

pub use session::Recorded;
pub use sessions::{Limits, Quota};
pub use snapshot::{SnapshotError, SnapshotReader, SnapshotWriter};
pub use store::Page;

use crate::planted::{Bug, is_planted};
use crate::types::{ClientId, ClusterTime, Revision, Sequence};
use crate::wire::client::{
    Bound, Command, MAX_MISMATCH_BYTES, Operation, Outcome, Refused, SessionInfo, Write,
};
use crate::wire::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use digest::Hash64;
use sessions::{Sessions, Verdict};
use store::Store;

/// Sets the digest of a whole state apart from the hashes that it is made of.
const STATE_DOMAIN: u64 = 5;

/// What an entry's command came to. It is the client's answer, where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The write was applied, by this entry or by an earlier one.
    Written {
        /// The revision that the write made when it was applied.
        revision: Revision,
        /// What it came to.
        outcome: Outcome,
        /// It was an earlier entry that applied it.
        cached: bool,
    },
    /// The write was not applied.
    Refused(Refused),
    /// Library sessions were forgotten.
    Expired {
        /// How many.
        count: usize,
    },
}

/// The state after some entry of the log.
///
/// A clone costs a few references and is a point in time.
///
/// Invariants:
/// - `revision` rises by exactly one with each entry: none is skipped, none is applied twice.
/// - `cluster_time` is the stamp of the last entry, and never falls.
#[derive(Clone)]
pub struct StateMachine {
    revision: Revision,
    cluster_time: ClusterTime,
    store: Store,
    sessions: Sessions,
}

impl StateMachine {
    /// The state before the first entry. All nodes of a cluster must be given the same limits.
    ///
    /// # Panics
    /// If `limits` has an empty window.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let (revision, cluster_time) = (Revision(0), ClusterTime::ZERO);
        Self { revision, cluster_time, store: Store::default(), sessions: Sessions::new(limits) }
    }

    // Inputs: each takes the next entry of the log.

    /// Applies the next entry, a command.
    ///
    /// # Panics
    /// If `revision` is not the next one, or if `stamp` lies before the stamp of the last entry:
    /// then the log is not the one that this state came from.
    pub fn apply(&mut self, revision: Revision, stamp: ClusterTime, command: Command) -> Applied {
        self.advance(revision, stamp);
        match command {
            Command::Write(write) => self.apply_write(&write),
            Command::ExpireSessions => Applied::Expired { count: self.sessions.expire(stamp) },
        }
    }

    /// Passes the next entry, one that holds no command: a no-op or a configuration. Time goes on.
    ///
    /// # Panics
    /// As [`StateMachine::apply`].
    pub fn advance(&mut self, revision: Revision, stamp: ClusterTime) {
        assert_eq!(revision.0, self.revision.0 + 1, "entries are applied one after the other");
        assert!(stamp >= self.cluster_time, "stamp {stamp} lies before {}", self.cluster_time);
        self.revision = revision;
        self.cluster_time = stamp;
    }

    // Getters.

    /// The index of the last entry that was applied or passed.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The stamp of that entry.
    #[must_use]
    pub fn cluster_time(&self) -> ClusterTime {
        self.cluster_time
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.store.get(key)
    }

    /// One page of the rows whose keys begin with `prefix` and lie above `after`. It has at most
    /// `limit` rows, and no more rows and bytes than [`crate::wire::client`] allows in an answer,
    /// but for a single larger row. It is empty only if nothing is left or `limit` is 0.
    #[must_use]
    pub fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Page {
        self.store.scan(prefix, after, limit)
    }

    /// How many keys there are.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.store.len()
    }

    /// About how large a snapshot of this state is, and rather more than less.
    #[must_use]
    pub fn snapshot_bytes(&self) -> u64 {
        const ROW_OVERHEAD_BYTES: u64 = 7;
        const SESSION_OVERHEAD_BYTES: u64 = 160;
        const FILE_OVERHEAD_BYTES: u64 = 8 << 10;
        let rows = self.store.bytes() + ROW_OVERHEAD_BYTES * self.store.len() as u64;
        let sessions = self.sessions.kept_bytes() + SESSION_OVERHEAD_BYTES * self.sessions.count() as u64;
        FILE_OVERHEAD_BYTES + rows + sessions
    }

    /// The result of a write that was applied, if it is kept: the answer to a resend of it, which
    /// need not go through the log.
    ///
    /// `None` says nothing about the write. It may be new, or on its way in the log, or its session
    /// may refuse it; only [`StateMachine::apply`] tells.
    #[must_use]
    pub fn recorded(&self, write: &Write) -> Option<Recorded> {
        self.sessions.recorded(write).filter(|_| !is_planted(Bug::DuplicateApplied)).cloned()
    }

    /// The named sessions, sorted by name.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.sessions.named()
    }

    /// How many sessions are remembered, of both kinds, closed ones included.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.count()
    }

    /// How many bytes of results the sessions keep, as the caps count them.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.sessions.kept_bytes()
    }

    /// What is used of each cap, for `status`.
    #[must_use]
    pub fn bounds(&self) -> Vec<Bound> {
        self.sessions.bounds()
    }

    /// When, in cluster time, the leader should propose [`Command::ExpireSessions`]: as soon as it
    /// would end a session, and in an idle cluster every quarter of a session's lifetime all the
    /// same. It may be due at once.
    ///
    /// The idle ones keep the stamps of the log, on which every node and every later leader builds,
    /// close to the time that a leader tells its clients. Otherwise an id made by the time of a
    /// node that had heard of no entry for long would be too old, and one made by the time of a
    /// leader that died too far ahead (see `Sessions::begin_session`).
    #[must_use]
    pub fn next_expiry(&self) -> ClusterTime {
        let idle = self.cluster_time.plus(self.sessions.lifetime() / 4);
        self.sessions.next_expiry().map_or(idle, |expiry| expiry.min(idle))
    }

    /// A hash of the whole state: data, sessions, revision and time. It is kept up to date with
    /// each change, so that it costs nothing to compare nodes after every entry.
    #[must_use]
    pub fn digest(&self) -> u64 {
        Hash64::new(STATE_DOMAIN)
            .number(self.revision.0)
            .number(self.cluster_time.0)
            .number(self.store.digest())
            .number(self.sessions.digest())
            .finish()
    }

    // Applying a write.

    fn apply_write(&mut self, write: &Write) -> Applied {
        if let Err(refused) = check_write(write) {
            return Applied::Refused(refused);
        }
        match self.sessions.begin(write, self.cluster_time) {
            Verdict::New => {}
            Verdict::Recorded(Recorded { outcome: Outcome::Done, .. })
                if is_planted(Bug::DuplicateApplied) && matches!(write.operation, Operation::Put { .. }) =>
            {
                self.perform(&write.operation);
                return Applied::Written { revision: self.revision, outcome: Outcome::Done, cached: false };
            }
            Verdict::Recorded(Recorded { revision, outcome }) => {
                return Applied::Written { revision, outcome, cached: true };
            }
            Verdict::Refused(refused) => return Applied::Refused(refused),
        }
        let recorded = Recorded { revision: self.revision, outcome: self.outcome(write) };
        if let Err(refused) = self.sessions.record(write, recorded.clone(), self.cluster_time) {
            return Applied::Refused(refused);
        }
        if recorded.outcome == Outcome::Done {
            self.perform(&write.operation);
        }
        Applied::Written { revision: recorded.revision, outcome: recorded.outcome, cached: false }
    }

    /// What a write comes to in this state.
    fn outcome(&self, write: &Write) -> Outcome {
        match &write.operation {
            Operation::Put { .. } => Outcome::Done,
            Operation::Delete { key } => match self.store.get(key) {
                Some(_) => Outcome::Done,
                None => Outcome::NotFound,
            },
            Operation::CompareAndSet { key, expected, .. } => {
                let current = self.store.get(key);
                let is_skipped = is_planted(Bug::CompareSkipped) && self.revision.0.is_multiple_of(32);
                if current == *expected || is_skipped { Outcome::Done } else { mismatch(current) }
            }
            // One's own is there: this very write opens it if none before did.
            Operation::CloseSession { client } if *client == write.client => Outcome::Done,
            Operation::CloseSession { client } => match self.sessions.is_open(client) {
                true => Outcome::Done,
                false => Outcome::NotFound,
            },
        }
    }

    /// Does what came to [`Outcome::Done`].
    fn perform(&mut self, operation: &Operation) {
        match operation {
            Operation::Put { key, value } | Operation::CompareAndSet { key, new: value, .. } => {
                self.store.put(key, value);
            }
            Operation::Delete { key } => {
                let existed = self.store.delete(key);
                assert!(existed, "a delete is done only if the key is there");
            }
            Operation::CloseSession { client } => self.sessions.close(client),
        }
    }
}

impl fmt::Debug for StateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateMachine")
            .field("revision", &self.revision)
            .field("cluster_time", &self.cluster_time)
            .field("key_count", &self.key_count())
            .field("session_count", &self.session_count())
            .field("digest", &self.digest())
            .finish()
    }
}

/// Whether a write makes sense by itself, whatever the state. A leader asks before it proposes one,
/// so that nonsense does not fill the log; applying asks again, since entries may be of any leader.
///
/// # Errors
/// [`Refused::Malformed`] for a number 0, an acknowledgement above the write's own number (its
/// sender would claim to have the answer to what it asks), an empty key, or a name that ends its own
/// session (a resend would open it anew); [`Refused::TooLarge`] for a key or value above its limit.
pub fn check_write(write: &Write) -> Result<(), Refused> {
    let malformed = |message: &str| Err(Refused::Malformed(message.into()));
    if write.sequence == Sequence(0) {
        return malformed("sequence 0: a client's writes are numbered from 1");
    }
    if write.acknowledged > write.sequence {
        return malformed("a write cannot acknowledge itself: lower the acknowledged number");
    }
    match write.operation.key().map(Bytes::len) {
        Some(0) => return malformed("empty key: it has 1 byte to 4 KiB"),
        Some(bytes) if bytes > MAX_KEY_BYTES => {
            let message = format!("key of {bytes} bytes, at most {MAX_KEY_BYTES} are allowed");
            return Err(Refused::TooLarge(message));
        }
        _ => {}
    }
    let values = match &write.operation {
        Operation::CloseSession { client: own @ ClientId::Named(_) } if *own == write.client => {
            return malformed("a name cannot end its own session: end it under another client id");
        }
        Operation::Put { value, .. } => [Some(value), None],
        Operation::Delete { .. } | Operation::CloseSession { .. } => [None, None],
        Operation::CompareAndSet { expected, new, .. } => [expected.as_ref(), Some(new)],
    };
    match values.into_iter().flatten().map(Bytes::len).max() {
        Some(bytes) if bytes > MAX_VALUE_BYTES => {
            let message = format!("value of {bytes} bytes, at most {MAX_VALUE_BYTES} are allowed");
            Err(Refused::TooLarge(message))
        }
        _ => Ok(()),
    }
}

/// The outcome that reports `current`. Its bytes are copied: a slice would keep a large value alive
/// for as long as the result is kept, and no cap would know.
fn mismatch(current: Option<Bytes>) -> Outcome {
    let truncated = current.as_ref().is_some_and(|value| value.len() > MAX_MISMATCH_BYTES);
    let cut = |value: Bytes| Bytes::copy_from_slice(&value[..value.len().min(MAX_MISMATCH_BYTES)]);
    Outcome::Mismatch { current: current.map(cut), truncated }
}

#[cfg(test)]
mod tests;
