//! All sessions: who may open one, how much they may keep, and when they end.
//!
//! A client sends a write as often as it must, always under the same client id and number, and it
//! is applied once (the Raft paper's section 8, the thesis' 6.3). The table below is a part of the
//! replicated state: the same entries give the same sessions on every node, and so every cap and
//! every lifetime in it counts by entries and their stamps, never by a node's own clock or options.
//!
//! ```text
//! the session                  the number                   answer
//! ---------------------------  ---------------------------  ------------------------------------
//! is open                      has a result, same content   that result, cached
//!                              has a result, other content  SequenceReused
//!                              lies below the floor         OutcomeForgotten
//!                              is new, in any order         applied; Busy if no room for the result
//! was closed (library)         any                          SessionExpired
//! is unknown, named            any                          opened and applied; Busy if no room
//! is unknown, library: young   any                          the same
//!   born too long ago          any                          SessionExpired
//!   born too far ahead         any                          Malformed
//! ```
//!
//! **An id that was evicted never opens a session again.** Let `L` be the lifetime. A library
//! session is evicted by an entry stamped `s` only if `alive + L < s`, and `born <= alive` by
//! definition of `alive` (the later of birth and last write, rounded up a little). Stamps never fall,
//! so every later entry has a stamp `t >= s > born + L`, and the first write of a session is refused
//! if `born + L < t`. So a copy of a write that turns up after the eviction is recognised as old,
//! however late it comes, and nothing need be remembered.
//!
//! **A closed library session is remembered** until it would have expired, without its results. A
//! copy of its last write may still lie in some socket when the close is applied; were the session
//! unknown by then, the young id would open it again and the write would be applied twice.
//!
//! **Named sessions never expire**, and one that was closed is unknown: a later write opens it
//! anew. Whoever closes one says by it that no copy of its writes is under way.

use std::sync::Arc;

use super::session::{Known, Recorded, Session, Tally, kept_bytes};
use super::tree::{Keyed, Leaves, Tree};
use crate::time::Duration;
use crate::types::{ClientId, ClusterTime};
use crate::wire::client::{Bound, Refused, SessionInfo, Write};

/// One `ExpireSessions` ends at most this many, so that no turn of the event loop is long; the next
/// one is due at once if there are more. Part of the format, like [`Limits`].
pub(super) const MAX_EXPIRED_PER_ENTRY: usize = 1000;

/// What sessions may take. Every node must have the same limits, or their states drift apart; so
/// they are constants of the format version, not options. The simulator has smaller ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a library session lives after its last write, in cluster time.
    pub lifetime: Duration,
    /// Results that one session keeps, at least 1.
    pub window: usize,
    /// The caps of all library sessions together.
    pub library: Quota,
    /// The caps of all named sessions together. They have their own: since they never expire, they
    /// could otherwise lock out all others for ever.
    pub named: Quota,
}

/// The caps of one kind of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// How many sessions are remembered, closed ones included.
    pub sessions: usize,
    /// How many bytes of results are kept: 64 for each, and the value that a mismatch carries.
    pub kept_bytes: u64,
}

impl Limits {
    /// The limits of this format version.
    ///
    /// Library sessions: those of 870 new clients a second for ten minutes, which take 140 MiB of
    /// memory if each wrote once. Named sessions: few enough that a list of all of them fits in
    /// one answer.
    pub const STANDARD: Limits = Limits {
        lifetime: Duration::from_secs(600),
        window: 256,
        library: Quota { sessions: 1 << 19, kept_bytes: 64 << 20 },
        named: Quota { sessions: 1 << 14, kept_bytes: 64 << 20 },
    };

    /// From when the lifetime of a session is counted that was last alive at `alive`: rounded up to the
    /// next thousandth of a lifetime. So a session that is written to all the time gets a new deadline
    /// once in a while, and not with each write.
    fn counted_from(&self, alive: ClusterTime) -> ClusterTime {
        let step_ms = u64::try_from(self.lifetime.as_millis() / 1000).unwrap_or(u64::MAX).max(1);
        ClusterTime(alive.0.checked_next_multiple_of(step_ms).unwrap_or(u64::MAX))
    }
}

/// What is to be done with a write.
pub(super) enum Verdict {
    /// Nothing: it was done before, and this is what came of it.
    Recorded(Recorded),
    /// Nothing: it must not be done.
    Refused(Refused),
    /// Find out what comes of it, have it recorded, and do it.
    New,
}

/// The sessions. A clone costs a few references and is a point in time.
///
/// Invariants:
/// - `library` and `named` hold the sessions of their kind of [`ClientId`].
/// - `deadlines` has exactly one item for each library session, counted from its `alive`.
/// - No quota is exceeded.
#[derive(Clone)]
pub(super) struct Sessions {
    pub(super) limits: Limits,
    library: Table,
    named: Table,
    deadlines: Tree<Deadline>,
}

/// The sessions of one kind.
///
/// Invariant: `tally` is the sum over `sessions`.
#[derive(Clone, Default)]
struct Table {
    sessions: Tree<Arc<Session>>,
    tally: Tally,
}

/// When a library session was alive for the last time, rounded up by [`Limits::counted_from`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Deadline {
    alive: ClusterTime,
    client: ClientId,
}

/// A part of the sessions that is being taken apart.
pub(super) enum SessionLeaves {
    Sessions(Leaves<Arc<Session>>),
    Deadlines(Leaves<Deadline>),
}

impl Sessions {
    /// No sessions yet.
    ///
    /// # Panics
    /// If the window is empty: no write could be recognised.
    pub(super) fn new(limits: Limits) -> Self {
        assert!(limits.window > 0, "a session keeps at least one result");
        Self { limits, library: Table::default(), named: Table::default(), deadlines: Tree::default() }
    }

    /// Judges a well-formed write in an entry with this stamp, after taking its acknowledgement:
    /// that one counts whatever becomes of the write, so that it frees room even where there is
    /// none for the write itself.
    pub(super) fn begin(&mut self, write: &Write, stamp: ClusterTime) -> Verdict {
        let judge = |session: &mut Session| {
            session.acknowledge(write.acknowledged);
            match session.known(write) {
                Known::New => Verdict::New,
                Known::Recorded(recorded) => Verdict::Recorded(recorded.clone()),
                Known::Reused => Verdict::Refused(Refused::SequenceReused),
                Known::Forgotten => Verdict::Refused(Refused::OutcomeForgotten),
                Known::Closed => Verdict::Refused(Refused::SessionExpired),
            }
        };
        let verdict = self.table_mut(&write.client).change(&write.client, judge);
        verdict.unwrap_or_else(|| self.begin_session(write, stamp))
    }

    /// Judges the first write of a session.
    ///
    /// An id may well be born ahead of the stamp: a client learns the time from a leader that runs
    /// ahead of the stamps in its log, and if that leader dies its successor starts over from those
    /// stamps. Such a client must not be turned away, so its session just lives until its birth has
    /// aged. It cannot be ahead by a lifetime, since a leader lets only a quarter of one pass without
    /// an entry (`StateMachine::next_expiry`); an id that is was made up, and would live for ever.
    fn begin_session(&self, write: &Write, stamp: ClusterTime) -> Verdict {
        let ClientId::Library { born, .. } = write.client else { return Verdict::New };
        if stamp.since(born) > self.limits.lifetime {
            Verdict::Refused(Refused::SessionExpired)
        } else if born.since(stamp) > self.limits.lifetime {
            let message = "the client id was born in the future of this cluster; make a new one with the \
                           time from the handshake";
            Verdict::Refused(Refused::Malformed(message.into()))
        } else {
            Verdict::New
        }
    }

    /// Keeps the result of a write that [`Sessions::begin`] found new, opening its session if need
    /// be. If there is no room nothing is kept, and the write must not be done.
    pub(super) fn record(
        &mut self,
        write: &Write,
        recorded: Recorded,
        stamp: ClusterTime,
    ) -> Result<(), Refused> {
        let (client, window) = (&write.client, self.limits.window);
        let is_known = self.check_room(write, &recorded)?;
        if !is_known {
            self.open(Session::open(write, stamp));
        }
        let alive = self.table_mut(client).change(client, |session| {
            let before = session.alive();
            session.record(write, recorded, stamp, window);
            (before, session.alive())
        });
        let (before, after) = alive.expect("the session was open or is now");
        let (before, after) = (self.limits.counted_from(before), self.limits.counted_from(after));
        if before != after && matches!(client, ClientId::Library { .. }) {
            self.deadlines.remove(&Deadline { alive: before, client: client.clone() });
            self.deadlines.insert(Deadline { alive: after, client: client.clone() });
        }
        Ok(())
    }

    /// Takes a session in that is not there yet.
    fn open(&mut self, session: Session) {
        if let client @ ClientId::Library { .. } = session.client() {
            let alive = self.limits.counted_from(session.alive());
            self.deadlines.insert(Deadline { alive, client: client.clone() });
        }
        self.table_mut(&session.client().clone()).insert(session);
    }

    /// The result of a write, if it was applied and its result is kept.
    pub(super) fn recorded(&self, write: &Write) -> Option<&Recorded> {
        match self.table(&write.client).sessions.get(&write.client)?.known(write) {
            Known::Recorded(recorded) => Some(recorded),
            _ => None,
        }
    }

    /// Whether there is a session of this client that was not closed.
    pub(super) fn is_open(&self, client: &ClientId) -> bool {
        self.table(client).sessions.get(client).is_some_and(|session| session.is_open())
    }

    /// Ends a session.
    pub(super) fn close(&mut self, client: &ClientId) {
        let table = self.table_mut(client);
        match client {
            ClientId::Library { .. } => _ = table.change(client, Session::close),
            ClientId::Named(_) => _ = table.remove(client),
        }
    }

    /// Forgets library sessions that were not alive for longer than the lifetime, those first that
    /// have been so for longest; at most [`MAX_EXPIRED_PER_ENTRY`] of them. Says how many.
    pub(super) fn expire(&mut self, stamp: ClusterTime) -> usize {
        for count in 0..MAX_EXPIRED_PER_ENTRY {
            let first = self.deadlines.iter().next();
            let overdue = first.filter(|deadline| stamp.since(deadline.alive) > self.limits.lifetime);
            let Some(deadline) = overdue.cloned() else { return count };
            self.deadlines.remove(&deadline);
            self.library.remove(&deadline.client).expect("a deadline belongs to a session");
        }
        MAX_EXPIRED_PER_ENTRY
    }

    /// The lowest stamp at which [`Sessions::expire`] finds something.
    pub(super) fn next_expiry(&self) -> Option<ClusterTime> {
        let first = self.deadlines.iter().next()?;
        Some(first.alive.plus(self.limits.lifetime).plus(Duration::from_millis(1)))
    }

    /// How long a library session lives after its last write.
    pub(super) fn lifetime(&self) -> Duration {
        self.limits.lifetime
    }

    /// The named sessions, sorted by name.
    pub(super) fn named(&self) -> Vec<SessionInfo> {
        self.named.sessions.iter().filter_map(|session| session.info()).collect()
    }

    /// How many sessions are remembered, closed ones included.
    pub(super) fn count(&self) -> usize {
        self.library.sessions.len() + self.named.sessions.len()
    }

    /// How many bytes of results are kept.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.library.tally.kept_bytes + self.named.tally.kept_bytes
    }

    /// What is used of each cap.
    pub(super) fn bounds(&self) -> Vec<Bound> {
        let kinds =
            [("library", &self.library, &self.limits.library), ("named", &self.named, &self.limits.named)];
        let bounds = kinds.into_iter().flat_map(|(kind, table, quota)| {
            let (sessions, cap) = (table.sessions.len() as u64, quota.sessions as u64);
            let (kept, kept_cap) = (table.tally.kept_bytes, quota.kept_bytes);
            [
                Bound { name: format!("{kind}_sessions"), used: sessions, cap },
                Bound { name: format!("{kind}_kept_bytes"), used: kept, cap: kept_cap },
            ]
        });
        bounds.collect()
    }

    /// Equal for equal sessions.
    pub(super) fn digest(&self) -> u64 {
        self.library.tally.digest.wrapping_add(self.named.tally.digest)
    }

    /// Takes the sessions apart: the library's, the named ones, and what goes with the former.
    pub(super) fn into_leaves(self) -> [SessionLeaves; 3] {
        let Self { library, named, deadlines, .. } = self;
        [
            SessionLeaves::Sessions(library.sessions.into_leaves()),
            SessionLeaves::Sessions(named.sessions.into_leaves()),
            SessionLeaves::Deadlines(deadlines.into_leaves()),
        ]
    }

    /// Puts a session of a snapshot in; false if there is one of this client already.
    pub(super) fn restore(&mut self, session: Session) -> bool {
        let is_new = self.table(session.client()).sessions.get(session.client()).is_none();
        if is_new {
            self.open(session);
        }
        is_new
    }

    /// The digest computed anew, after asserting the invariants.
    #[cfg(test)]
    pub(super) fn recomputed_digest(&self) -> u64 {
        for (table, quota) in [(&self.library, &self.limits.library), (&self.named, &self.limits.named)] {
            let mut sum = Tally::default();
            table.sessions.iter().for_each(|session| sum.add(session.recomputed_tally(self.limits.window)));
            assert_eq!(sum, table.tally);
            assert!(table.sessions.len() <= quota.sessions && sum.kept_bytes <= quota.kept_bytes);
        }
        assert_eq!(self.deadlines.len(), self.library.sessions.len());
        for deadline in self.deadlines.iter() {
            let alive = self.library.sessions.get(&deadline.client).unwrap().alive();
            assert_eq!(self.limits.counted_from(alive), deadline.alive);
        }
        self.digest()
    }

    fn table(&self, client: &ClientId) -> &Table {
        match client {
            ClientId::Library { .. } => &self.library,
            ClientId::Named(_) => &self.named,
        }
    }

    fn table_mut(&mut self, client: &ClientId) -> &mut Table {
        match client {
            ClientId::Library { .. } => &mut self.library,
            ClientId::Named(_) => &mut self.named,
        }
    }

    /// `Busy` if a result does not fit in. One that takes no more than the result that it pushes
    /// out of the window always fits. Otherwise whether there is a session for it.
    fn check_room(&self, write: &Write, recorded: &Recorded) -> Result<bool, Refused> {
        let (table, quota) = (self.table(&write.client), self.quota(&write.client));
        let session = table.sessions.get(&write.client);
        if session.is_none() && table.sessions.len() >= quota.sessions {
            return Err(self.busy(&write.client, format!("all {} sessions are in use", quota.sessions)));
        }
        let needed = kept_bytes(&recorded.outcome);
        let freed = session.map_or(0, |session| session.freed_by_next(self.limits.window));
        if needed > freed && table.tally.kept_bytes + needed - freed > quota.kept_bytes {
            return Err(self.busy(&write.client, format!("kept results fill {} bytes", quota.kept_bytes)));
        }
        Ok(session.is_some())
    }

    /// Names the cap that is reached, and what the reader can do.
    fn busy(&self, client: &ClientId, cap: String) -> Refused {
        Refused::Busy(match client {
            ClientId::Library { .. } => {
                let seconds = self.limits.lifetime.as_secs();
                format!("{cap}; sessions end {seconds} s after their last write: try again later")
            }
            ClientId::Named(_) => {
                format!("{cap} (named sessions); end some with `kv_client session close ID`")
            }
        })
    }

    fn quota(&self, client: &ClientId) -> &Quota {
        match client {
            ClientId::Library { .. } => &self.limits.library,
            ClientId::Named(_) => &self.limits.named,
        }
    }
}

impl Table {
    fn insert(&mut self, session: Session) {
        self.tally.add(session.tally());
        let replaced = self.sessions.insert(Arc::new(session));
        assert!(replaced.is_none(), "a session is opened once");
    }

    fn remove(&mut self, client: &ClientId) -> Option<Arc<Session>> {
        let session = self.sessions.remove(client)?;
        self.tally.subtract(session.tally());
        Some(session)
    }

    /// Changes a session, if there is one. Every change passes here, so that the sums stay right.
    fn change<R>(&mut self, client: &ClientId, change: impl FnOnce(&mut Session) -> R) -> Option<R> {
        let session = Arc::make_mut(self.sessions.get_mut(client)?);
        self.tally.subtract(session.tally());
        let result = change(session);
        self.tally.add(session.tally());
        Some(result)
    }
}

impl Keyed for Deadline {
    type Key = Self;
    type Separator = Self;

    fn key(&self) -> &Self {
        self
    }

    fn separator(&self) -> Self {
        self.clone()
    }
}
