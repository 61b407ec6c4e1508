//! When the log is full: first nobody is read, then everybody is told.

use super::Replica;
use crate::storage::Disk;
use crate::time::{Duration, Instant};

/// How long requests are left in their sockets while the uncommitted log is at its cap and nothing is
/// committed. Well before clients give up, and long after a disk that works has answered.
const FULL_PATIENCE: Duration = Duration::from_millis(150);

impl<D: Disk> Replica<D> {
    /// Whether clients should be read: not while the uncommitted log is at its cap, since it will
    /// have room in a moment. If it gets none for long, they are read all the same, and told so.
    #[must_use]
    pub fn takes_requests(&self, now: Instant) -> bool {
        self.own.full_since.is_none_or(|(since, _)| now.since(since) >= FULL_PATIENCE)
    }

    /// The turn ends.
    pub(super) fn note_whether_full(&mut self, now: Instant) {
        let log = self.raft.log();
        let is_full = log.uncommitted_bytes() >= self.raft.config().max_uncommitted_bytes;
        let committed = log.committed();
        let stands_still = self.own.full_since.filter(|(_, then)| *then == committed);
        self.own.full_since = (is_full && self.leads()).then(|| stands_still.unwrap_or((now, committed)));
    }
}
