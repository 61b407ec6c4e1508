//! The whole state as bytes, made and read in slices, so that no turn of the event loop is long.
//!
//! ```text
//! snapshot:  item | item | ... | end
//! item:      u32 bytes of type and content | type u8 | content
//!   type 1   header   format version u32 | revision u64 | cluster time u64      first, once
//!   type 2   row      bytes of the key u16 | key | value                        keys ascending
//!   type 3   session  client id | floor u64 | last sequence u64 | last revision u64 | last stamp u64
//!                     | closed u8 | list of (sequence u64, fingerprint u64, revision u64, outcome)
//!   type 4   end      rows u64 | sessions u64 | digest u64                      last, once
//! ```
//!
//! Library sessions come before named ones, each kind ascending by client. So two nodes at one
//! revision make the same bytes. The bytes carry no checksum of their own: whoever stores or sends
//! them sees to that. The digest at the end tells that what was built equals what was written.
//!
//! Writing takes the clone of the state apart, leaf by leaf: at its end nothing is left to be
//! dropped at once. A state that is not wanted any more is taken apart in the same way, by a writer
//! whose bytes nobody asks for.

use bytes::Bytes;
use thiserror::Error;

use super::session::Session;
use super::sessions::{Limits, SessionLeaves, Sessions};
use super::store::Row;
use super::tree::Leaves;
use super::{ClusterTime, Revision, StateMachine};
use crate::planted::{Bug, is_planted};
use crate::wire::{DecodeError, MAX_KEY_BYTES, MAX_VALUE_BYTES, Reader, Writer};

/// The version of the bytes of a state.
const VERSION: u32 = 1;
/// The largest item: a row, or a session with a full window of the largest results.
const MAX_ITEM_BYTES: usize = MAX_KEY_BYTES + MAX_VALUE_BYTES + (64 << 10);

const HEADER: u8 = 1;
const ROW: u8 = 2;
const SESSION: u8 = 3;
const END: u8 = 4;

/// Writes a state, a clone at a point in time, in slices of a bounded size.
pub struct SnapshotWriter {
    rows: Leaves<Row>,
    /// What is left of the sessions, the next part last.
    sessions: Vec<SessionLeaves>,
    written: Written,
    /// Encoded, and not given out yet.
    pending: Writer,
    is_ended: bool,
}

/// What the end of a snapshot says of all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Written {
    rows: u64,
    sessions: u64,
    digest: u64,
}

impl SnapshotWriter {
    /// Begins to write `state`, and to take it apart.
    #[must_use]
    pub fn new(mut state: StateMachine) -> Self {
        if is_planted(Bug::SessionsNotInSnapshot) {
            state.sessions = Sessions::new(state.sessions.limits);
        }
        let written = Written { digest: state.digest(), ..Written::default() };
        let mut pending = Writer::new();
        put_item(&mut pending, HEADER, |out| {
            out.u32(VERSION);
            out.u64(state.revision.0);
            out.u64(state.cluster_time.0);
        });
        let mut sessions: Vec<SessionLeaves> = state.sessions.into_leaves().into();
        sessions.reverse();
        Self { rows: state.store.into_leaves(), sessions, written, pending, is_ended: false }
    }

    /// The next bytes: exactly `slice_bytes` of them, fewer at the end, and `None` after it.
    ///
    /// # Panics
    /// If `slice_bytes` is 0.
    pub fn next_slice(&mut self, slice_bytes: usize) -> Option<Bytes> {
        assert!(slice_bytes > 0, "an empty slice leads nowhere");
        while self.pending.len() < slice_bytes && !self.is_ended {
            self.encode_leaf();
        }
        if self.pending.is_empty() {
            return None;
        }
        let mut slice = std::mem::take(&mut self.pending).into_bytes();
        let rest = slice.split_off(slice_bytes.min(slice.len()));
        self.pending.put(&rest);
        Some(slice)
    }

    /// Takes a few more leaves apart without writing them; false once nothing is left.
    pub fn dismantle(&mut self, leaves: usize) -> bool {
        for _ in 0..leaves {
            if self.rows.next().is_some() {
                continue;
            }
            let Some(sessions) = self.sessions.last_mut() else { return false };
            let is_left = match sessions {
                SessionLeaves::Sessions(leaves) => leaves.next().is_some(),
                SessionLeaves::Deadlines(leaves) => leaves.next().is_some(),
            };
            if !is_left {
                self.sessions.pop();
            }
        }
        true
    }

    fn encode_leaf(&mut self) {
        if let Some(leaf) = self.rows.next() {
            for row in leaf.items() {
                put_item(&mut self.pending, ROW, |out| {
                    let (key_bytes, bytes) = row.parts();
                    out.u16(key_bytes);
                    out.put(bytes);
                });
            }
            self.written.rows += leaf.items().len() as u64;
            return;
        }
        match self.sessions.last_mut() {
            Some(SessionLeaves::Sessions(leaves)) => {
                let Some(leaf) = leaves.next() else { return drop(self.sessions.pop()) };
                for session in leaf.items() {
                    put_item(&mut self.pending, SESSION, |out| session.encode(out));
                }
                self.written.sessions += leaf.items().len() as u64;
            }
            // They follow from the sessions; here they are only taken apart.
            Some(SessionLeaves::Deadlines(leaves)) => {
                if leaves.next().is_none() {
                    self.sessions.pop();
                }
            }
            None => {
                let Written { rows, sessions, digest } = self.written;
                put_item(&mut self.pending, END, |out| [rows, sessions, digest].map(|n| out.u64(n)));
                self.is_ended = true;
            }
        }
    }
}

fn put_item<T>(out: &mut Writer, kind: u8, content: impl FnOnce(&mut Writer) -> T) {
    let start = out.len();
    out.u32(0);
    out.u8(kind);
    content(out);
    let bytes = u32::try_from(out.len() - start - 4).expect("items are far below 4 GiB");
    out.as_mut_slice()[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
}

/// Why bytes are no snapshot of a state.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// Its format is one that this program does not read.
    #[error("the snapshot's state has format version {0}, this program reads version {VERSION}")]
    UnknownVersion(u32),
    /// An item is not understood.
    #[error("the snapshot's state is not understood: {0}")]
    Item(#[from] DecodeError),
    /// All items make sense, but not together.
    #[error("the snapshot's state contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// Builds a state of the bytes that a [`SnapshotWriter`] made, as they come.
pub struct SnapshotReader {
    state: StateMachine,
    read: Written,
    /// The beginning of an item whose end has not come yet.
    partial: Vec<u8>,
    is_begun: bool,
    is_ended: bool,
}

impl SnapshotReader {
    /// Begins to build. `limits` must be those of the cluster.
    ///
    /// # Panics
    /// As [`StateMachine::new`].
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let state = StateMachine::new(limits);
        Self { state, read: Written::default(), partial: Vec::new(), is_begun: false, is_ended: false }
    }

    /// Takes the next bytes, cut anywhere.
    ///
    /// # Errors
    /// If they are no snapshot; nothing more may be fed then.
    pub fn feed(&mut self, slice: &[u8]) -> Result<(), SnapshotError> {
        self.partial.extend_from_slice(slice);
        let mut bytes = Reader::new(std::mem::take(&mut self.partial).into());
        loop {
            let mut ahead = bytes.clone();
            match ahead.byte_string("item", MAX_ITEM_BYTES) {
                Ok(item) => self.take_item(&mut Reader::new(item))?,
                Err(DecodeError::Truncated { .. }) => break,
                Err(error) => return Err(error.into()),
            }
            bytes = ahead;
        }
        self.partial = bytes.rest().to_vec();
        Ok(())
    }

    /// The state, once all bytes were fed.
    ///
    /// # Errors
    /// If its end is missing.
    pub fn finish(self) -> Result<StateMachine, SnapshotError> {
        if !self.is_ended || !self.partial.is_empty() {
            return Err(SnapshotError::Contradiction("it does not end where it should"));
        }
        Ok(self.state)
    }

    /// What is built so far, to be taken apart.
    #[must_use]
    pub fn abandon(self) -> StateMachine {
        self.state
    }

    fn take_item(&mut self, item: &mut Reader) -> Result<(), SnapshotError> {
        let kind = item.u8()?;
        if self.is_ended || self.is_begun == (kind == HEADER) {
            return Err(SnapshotError::Contradiction("an item stands where it may not"));
        }
        match kind {
            HEADER => return self.take_header(item),
            ROW => {
                let key_bytes = item.u16()?;
                let key = item.take(usize::from(key_bytes))?;
                self.state.store.put(&key, &item.rest());
                self.read.rows += 1;
            }
            SESSION => {
                if !self.state.sessions.restore(Session::decode(item)?) {
                    return Err(SnapshotError::Contradiction("a session comes twice"));
                }
                self.read.sessions += 1;
            }
            END => return self.take_end(item),
            tag => return Err(DecodeError::UnknownTag { what: "item", tag }.into()),
        }
        Ok(item.clone().finish()?)
    }

    fn take_header(&mut self, item: &mut Reader) -> Result<(), SnapshotError> {
        let version = item.u32()?;
        if version != VERSION {
            return Err(SnapshotError::UnknownVersion(version));
        }
        self.state.revision = Revision(item.u64()?);
        self.state.cluster_time = ClusterTime(item.u64()?);
        self.is_begun = true;
        Ok(item.clone().finish()?)
    }

    fn take_end(&mut self, item: &mut Reader) -> Result<(), SnapshotError> {
        let expected = Written { rows: item.u64()?, sessions: item.u64()?, digest: item.u64()? };
        let digest = self.state.digest();
        if (Written { digest, ..self.read }) != expected || self.state.key_count() as u64 != expected.rows {
            return Err(SnapshotError::Contradiction("its digest does not match"));
        }
        self.is_ended = true;
        Ok(item.clone().finish()?)
    }
}

impl std::fmt::Debug for SnapshotWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotReader").field("read", &self.read).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
