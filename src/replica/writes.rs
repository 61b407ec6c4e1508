//! Writes on their way: from their entry in the log to the answer.

use std::collections::BTreeMap;

use super::ClientConnection;
use crate::raft::Log;
use crate::types::{ClientId, LogIndex, Sequence, Term};
use crate::wire::client::{Command, Write};
use crate::wire::entry::{Entry, Payload};

/// Who waits for an entry to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) client: ClientConnection,
    pub(super) request: u64,
}

/// The clients that wait for entries, and the writes that are in the log but not applied.
///
/// Applying an entry is the law: it finds out by the session whether a write is a duplicate.
/// `in_flight` only spares the log a second copy, by letting a resend wait for the first; so it may
/// miss one, but must never name an entry of another write. It is kept while this node leads and
/// rebuilt from the log's tail when it is elected.
///
/// Who waits names the entry by its term too: a leader that was deposed and elected again may give
/// an index a second time while clients still wait for what it held the first time.
#[derive(Debug, Default)]
pub(super) struct Writes {
    waiting: BTreeMap<(LogIndex, Term), Vec<Waiter>>,
    in_flight: BTreeMap<(ClientId, Sequence), LogIndex>,
    waiters: usize,
}

impl Writes {
    /// More are refused as busy.
    pub(super) const MAX_WAITERS: usize = 1 << 16;

    pub(super) fn waiters(&self) -> usize {
        self.waiters
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiters >= Self::MAX_WAITERS
    }

    /// `waiter` wants the answer of the entry at `index`, proposed in `term`.
    pub(super) fn wait_for(&mut self, index: LogIndex, term: Term, waiter: Waiter) {
        self.waiters += 1;
        self.waiting.entry((index, term)).or_default().push(waiter);
    }

    /// A command of a client is in the log. Only writes are sent again under their old name.
    pub(super) fn on_proposed(&mut self, index: LogIndex, command: &Command) {
        if let Command::Write(write) = command {
            self.in_flight.insert((write.client.clone(), write.sequence), index);
        }
    }

    /// The entry that holds this very write already, if it is in the log and not applied.
    pub(super) fn find_in_flight(&self, log: &Log, write: &Write) -> Option<LogIndex> {
        let index = *self.in_flight.get(&(write.client.clone(), write.sequence))?;
        let Command::Write(held) = command_of(log.entry(index)?)? else { return None };
        let is_same = held.client == write.client
            && held.sequence == write.sequence
            && held.operation == write.operation;
        is_same.then_some(index)
    }

    /// Takes those who wait for an entry that was applied.
    pub(super) fn on_applied(&mut self, index: LogIndex, term: Term) -> Vec<Waiter> {
        let waiters = self.waiting.remove(&(index, term)).unwrap_or_default();
        self.waiters -= waiters.len();
        waiters
    }

    /// Takes those who wait for entries up to `index`, all of which are applied by now: other
    /// entries took the place of theirs.
    pub(super) fn take_overwritten(&mut self, index: LogIndex) -> Vec<Waiter> {
        let mut waiters = Vec::new();
        while let Some(first) = self.waiting.first_entry().filter(|first| first.key().0 <= index) {
            waiters.extend(first.remove());
        }
        self.waiters -= waiters.len();
        waiters
    }

    /// Takes those at the end whose entries the log holds no more: a new leader's log ends before
    /// them, or has others in their place.
    pub(super) fn take_lost(&mut self, log: &Log) -> Vec<Waiter> {
        let is_lost = |(index, term): (LogIndex, Term)| log.term_at(index) != Some(term);
        let mut waiters = Vec::new();
        while let Some(last) = self.waiting.last_entry().filter(|last| is_lost(*last.key())) {
            waiters.extend(last.remove());
        }
        self.waiters -= waiters.len();
        waiters
    }

    /// A write was applied: it is recorded now, no longer in flight.
    pub(super) fn on_recorded(&mut self, write: &Write) {
        self.in_flight.remove(&(write.client.clone(), write.sequence));
    }

    /// This node was elected: what its log holds above `applied` is in flight.
    pub(super) fn rebuild(&mut self, log: &Log, applied: LogIndex) {
        self.in_flight.clear();
        for entry in log.entries_from(applied.next(), usize::MAX) {
            if let Some(command) = command_of(&entry) {
                self.on_proposed(entry.index, &command);
            }
        }
    }

    /// This node leads no more. Who waits goes on waiting: the entries may yet be applied.
    pub(super) fn forget_in_flight(&mut self) {
        self.in_flight.clear();
    }
}

fn command_of(entry: &Entry) -> Option<Command> {
    let Payload::Command(command) = &entry.payload else { return None };
    Command::decode(command.clone()).ok()
}
