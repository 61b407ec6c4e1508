//! The nouns that every layer speaks in.
//!
//! Each is a newtype with only the arithmetic that makes sense for it, so that a term can never
//! pass for an index. None of them knows how it is encoded (see [`crate::wire`]).

use std::fmt;
use std::time::Duration;

/// Declares a `u64` newtype that is ordered, copied, hashed and displayed as its number.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A node's number within its cluster, 1 or more, chosen by the operator (`--id`).
    NodeId
}

number! {
    /// A Raft term (the paper's section 5.1). Zero stands before every election.
    Term
}

number! {
    /// A position in the Raft log. The first entry has index 1; zero stands before it.
    LogIndex
}

number! {
    /// The log index of the state that an answer reflects. It only grows, on every node alike.
    Revision
}

number! {
    /// Drawn at random when a data directory is created. With the [`NodeId`] it names a member
    /// for ever: the same id on an emptied directory is another member, and is refused.
    Incarnation
}

number! {
    /// Rises whenever a data directory is opened. Of two links to one node, the one with the lower
    /// boot number leads to a process that is dead.
    BootNumber
}

number! {
    /// A client's own number for one write. With the [`ClientId`] it makes the write unique, so
    /// that it can be sent again and is applied once.
    Sequence
}

number! {
    /// Milliseconds of cluster time: the sum of the times during which the cluster had a leader.
    ///
    /// Leaders stamp entries with it and state machines know no other time, so sessions expire at
    /// the same entry on every node. It is no wall clock and never goes back.
    ClusterTime
}

impl NodeId {
    /// The lowest id that a node may have.
    pub const MIN: NodeId = NodeId(1);
}

impl Term {
    /// Before the first election.
    pub const ZERO: Term = Term(0);

    /// The term after this one.
    ///
    /// # Panics
    /// At `u64::MAX`, which no run of elections reaches; a peer that claims it is refused earlier.
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0.checked_add(1).expect("terms never run out"))
    }
}

impl LogIndex {
    /// Before the first entry.
    pub const ZERO: LogIndex = LogIndex(0);

    /// The index after this one.
    ///
    /// # Panics
    /// At `u64::MAX`, which no log reaches.
    #[must_use]
    pub fn next(self) -> LogIndex {
        self.plus(1)
    }

    /// The index before this one.
    ///
    /// # Panics
    /// At zero, which has none.
    #[must_use]
    pub fn prev(self) -> LogIndex {
        LogIndex(self.0.checked_sub(1).expect("index zero has no predecessor"))
    }

    /// The index `count` entries further on.
    ///
    /// # Panics
    /// Beyond `u64::MAX`, which no log reaches.
    #[must_use]
    pub fn plus(self, count: u64) -> LogIndex {
        LogIndex(self.0.checked_add(count).expect("log indexes never run out"))
    }

    /// How many entries lie after `earlier` up to and including this one; zero if none.
    #[must_use]
    pub fn distance_from(self, earlier: LogIndex) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl From<LogIndex> for Revision {
    fn from(index: LogIndex) -> Self {
        Revision(index.0)
    }
}

impl BootNumber {
    /// The number of the next boot. `drawn` is random, and some of it makes the step: else a copy of a
    /// directory would come to the same number as the directory itself, and pass for it.
    #[must_use]
    pub fn next(self, drawn: u64) -> BootNumber {
        BootNumber(self.0.saturating_add(1 + (drawn >> 40)))
    }
}

impl Sequence {
    /// The number after this one, saturating at the end.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0.saturating_add(1))
    }
}

impl ClusterTime {
    /// The cluster's founding.
    pub const ZERO: ClusterTime = ClusterTime(0);

    /// This time and `duration`, in whole milliseconds, saturating.
    #[must_use]
    pub fn plus(self, duration: Duration) -> ClusterTime {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        ClusterTime(self.0.saturating_add(millis))
    }

    /// How much cluster time went by since `earlier`; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: ClusterTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A cluster's 128 random bits, drawn by its founder. Nodes of different clusters never talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Who sends a write: the owner of a session.
///
/// The two kinds are namespaces of their own: no name ever equals a library id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientId {
    /// Made by a client library for itself. Such a session expires.
    Library {
        /// The cluster time at which the id was made. An id born longer ago than a session lives
        /// can never open a session (again), so an evicted id is always recognised as old.
        born: ClusterTime,
        /// Random bits, so that two clients never make the same id.
        nonce: u64,
    },
    /// Chosen by a person (`--client-id`). Such a session never expires by itself.
    Named(ClientName),
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientId::Library { born, nonce } => write!(f, "library:{:016x}{nonce:016x}", born.0),
            ClientId::Named(name) => name.fmt(f),
        }
    }
}

/// The name of a named session: 1 to 64 bytes, any bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientName(Box<[u8]>);

impl ClientName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Takes 1 to 64 bytes; `None` if there are fewer or more.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        (1..=Self::MAX_BYTES).contains(&bytes.len()).then(|| Self(bytes.into()))
    }

    /// The bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_index_distance_counts_the_entries_between() {
        assert_eq!(LogIndex(5).distance_from(LogIndex(2)), 3);
        assert_eq!(LogIndex(2).distance_from(LogIndex(5)), 0);
        assert_eq!(LogIndex(2).next().prev(), LogIndex(2));
    }

    #[test]
    fn client_name_of_forbidden_length_is_none() {
        assert!(ClientName::new(b"").is_none());
        assert!(ClientName::new(&[7; 65]).is_none());
        assert_eq!(ClientName::new(&[7; 64]).unwrap().as_bytes(), &[7; 64]);
    }

    #[test]
    fn cluster_time_never_underflows() {
        assert_eq!(ClusterTime(5).since(ClusterTime(9)), Duration::ZERO);
        assert_eq!(ClusterTime(5).plus(Duration::from_millis(7)), ClusterTime(12));
    }
}
