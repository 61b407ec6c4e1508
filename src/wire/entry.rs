//! What is both sent and stored: log entries, hard state, configurations.
//!
//! ```text
//! entry:  index u64 | term u64 | stamp u64 | type u8 | payload
//!   type 0  no-op          leader u64
//!   type 1  configuration  cluster u128 | list of (id u64, incarnation u64), ids ascending
//!   type 2  command        the rest of the entry, opaque here (see client::Command)
//! id of a snapshot: index u64 | term u64 | bytes u64 | checksum u32
//! reached: boot u64 | index before it u64 | index u64
//! ```

use bytes::Bytes;

use super::codec::{DecodeError, Reader, Writer};
use super::{MAX_CLIENT_FRAME_BYTES, MAX_MEMBERS};
use crate::types::{BootNumber, ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Term};

/// The largest encoded entry, in bytes.
pub const MAX_ENTRY_BYTES: usize = MAX_CLIENT_FRAME_BYTES as usize;

/// Bytes of an entry before its payload.
pub const ENTRY_HEADER_BYTES: usize = 25;

/// "Persistent state on all servers" (the paper's Figure 2), but for the log itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term this server has seen (`currentTerm`).
    pub term: Term,
    /// Candidate that received this server's vote in the current term (`votedFor`).
    pub voted_for: Option<NodeId>,
}

impl HardState {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.term.0);
        out.option(self.voted_for, |out, id| out.u64(id.0));
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let term = Term(bytes.u64()?);
        let voted_for = bytes.option("vote", |bytes| bytes.u64().map(NodeId))?;
        Ok(Self { term, voted_for })
    }
}

/// A member as the log knows it: an id alone does not name one, since a directory may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The member's id.
    pub id: NodeId,
    /// The incarnation of its data directory.
    pub incarnation: Incarnation,
}

impl Member {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.id.0);
        out.u64(self.incarnation.0);
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { id: NodeId(bytes.u64()?), incarnation: Incarnation(bytes.u64()?) })
    }
}

/// Who belongs to the cluster, all of them voters. Entry 1 of every log is one.
///
/// Invariant: 1 to [`MAX_MEMBERS`] members, ids ascending and distinct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// The cluster that these members form.
    pub cluster: ClusterId,
    members: Vec<Member>,
}

impl Configuration {
    /// Takes the members in any order; `None` if there are none or too many, or if ids repeat.
    #[must_use]
    pub fn new(cluster: ClusterId, mut members: Vec<Member>) -> Option<Self> {
        members.sort_unstable();
        let distinct = members.windows(2).all(|pair| pair[0].id < pair[1].id);
        let count = (1..=MAX_MEMBERS).contains(&members.len());
        (distinct && count).then_some(Self { cluster, members })
    }

    /// The members, ids ascending.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u128(self.cluster.0);
        out.list(self.members.iter(), |out, member| member.encode(out));
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let cluster = ClusterId(bytes.u128()?);
        let members = bytes.list(Member::decode)?;
        let ascending = members.windows(2).all(|pair| pair[0].id < pair[1].id);
        let configuration = ascending.then(|| Self::new(cluster, members)).flatten();
        configuration.ok_or(DecodeError::Invalid("configuration"))
    }
}

/// What a snapshot stands for: the log up to one committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Index of the last entry that it replaces.
    pub index: LogIndex,
    /// Term of that entry.
    pub term: Term,
    /// Stamp of that entry.
    pub stamp: ClusterTime,
    /// The members as of that entry.
    pub configuration: Configuration,
}

/// Names the very bytes of one snapshot. Two nodes may have snapshots of one index; only with the
/// same id are their files the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId {
    /// Index of the last entry that it replaces.
    pub index: LogIndex,
    /// Term of that entry.
    pub term: Term,
    /// Size of its file.
    pub bytes: u64,
    /// Checksum of its file, without the checksum itself.
    pub checksum: u32,
}

impl SnapshotId {
    /// Whether a chunk of so many bytes from `offset` on lies inside the file.
    #[must_use]
    pub fn has_chunk(&self, offset: u64, chunk_bytes: usize) -> bool {
        offset.checked_add(chunk_bytes as u64).is_some_and(|end| end <= self.bytes)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.index.0);
        out.u64(self.term.0);
        out.u64(self.bytes);
        out.u32(self.checksum);
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let (index, term) = (LogIndex(bytes.u64()?), Term(bytes.u64()?));
        Ok(Self { index, term, bytes: bytes.u64()?, checksum: bytes.u32()? })
    }
}

/// How far a node was seen to come. None of it ever falls, whatever crashes and elections do: an
/// entry that is durable on a node and committed stays there for good. A node that comes back
/// with less has lost promises on which others rely.
///
/// Invariant: `before` <= `index`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The highest boot of its directory.
    pub boot: BootNumber,
    /// Up to here the boots **before** `boot` had the log on disk, as far as it was committed.
    pub before: LogIndex,
    /// Up to here any boot had it, `boot` included.
    pub index: LogIndex,
}

/// What shows that a directory was put back from an old copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// A later boot was seen.
    Boot(BootNumber),
    /// An earlier boot had the log up to this index.
    Index(LogIndex),
}

impl Reached {
    /// Takes over what `other` has seen, of the same node. Whether any of it is news.
    pub fn raise_to(&mut self, other: Reached) -> bool {
        let old = *self;
        self.boot = old.boot.max(other.boot);
        self.before = [old, other].map(|seen| seen.floor(self.boot)).into_iter().max().unwrap_or_default();
        self.index = old.index.max(other.index);
        *self != old
    }

    /// Whether a node has forgotten something, if it introduces itself with this boot and with this
    /// last index of its log on disk. What that very boot has reached is not held against it: its log
    /// has grown since it said so.
    #[must_use]
    pub fn forgotten_by(&self, boot: BootNumber, last_index: LogIndex) -> Option<Forgotten> {
        let floor = self.floor(boot);
        match boot < self.boot {
            true => Some(Forgotten::Boot(self.boot)),
            false => (last_index < floor).then_some(Forgotten::Index(floor)),
        }
    }

    /// What the boots before `boot` had reached. `boot` is not below `self.boot`.
    fn floor(&self, boot: BootNumber) -> LogIndex {
        if self.boot < boot { self.index } else { self.before }
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.boot.0);
        out.u64(self.before.0);
        out.u64(self.index.0);
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let (boot, before) = (BootNumber(bytes.u64()?), LogIndex(bytes.u64()?));
        let index = LogIndex(bytes.u64()?);
        if before > index {
            return Err(DecodeError::Invalid("index that was reached"));
        }
        Ok(Self { boot, before, index })
    }
}

/// What an entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader's first entry, by which it commits those of earlier terms. It names
    /// the leader, so that the log itself tells who led each term.
    NoOp {
        /// Who leads the entry's term.
        leader: NodeId,
    },
    /// The members from this entry on.
    Configuration(Configuration),
    /// A command for the state machine, opaque to Raft: see [`super::client::Command`].
    Command(Bytes),
}

/// One entry of the Raft log.
///
/// Invariant: `encoded` is the encoding of the other fields, made once, when the entry was
/// proposed or received; it serves the log on disk and every peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry's position.
    pub index: LogIndex,
    /// The term in which a leader proposed it.
    pub term: Term,
    /// The leader's cluster time when it did; never less than the stamp of the entry before.
    pub stamp: ClusterTime,
    /// What it holds.
    pub payload: Payload,
    encoded: Bytes,
}

impl Entry {
    /// Makes and encodes an entry.
    #[must_use]
    pub fn new(index: LogIndex, term: Term, stamp: ClusterTime, payload: Payload) -> Self {
        let mut out = Writer::with_capacity(ENTRY_HEADER_BYTES + 64);
        out.u64(index.0);
        out.u64(term.0);
        out.u64(stamp.0);
        match &payload {
            Payload::NoOp { leader } => {
                out.u8(0);
                out.u64(leader.0);
            }
            Payload::Configuration(configuration) => {
                out.u8(1);
                configuration.encode(&mut out);
            }
            Payload::Command(command) => {
                out.u8(2);
                out.put(command);
            }
        }
        let encoded = out.into_bytes();
        // The command is kept as a slice of the one encoding, not a second time.
        let payload = match payload {
            Payload::Command(_) => Payload::Command(encoded.slice(ENTRY_HEADER_BYTES..)),
            other => other,
        };
        Self { index, term, stamp, payload, encoded }
    }

    /// The encoding.
    #[must_use]
    pub fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// Takes an entry from exactly `encoded`.
    pub fn decode(encoded: Bytes) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(encoded.clone());
        let (index, term) = (LogIndex(bytes.u64()?), Term(bytes.u64()?));
        let stamp = ClusterTime(bytes.u64()?);
        let payload = match bytes.u8()? {
            0 => Payload::NoOp { leader: NodeId(bytes.u64()?) },
            1 => Payload::Configuration(Configuration::decode(&mut bytes)?),
            2 => Payload::Command(bytes.rest()),
            tag => return Err(DecodeError::UnknownTag { what: "entry type", tag }),
        };
        bytes.finish()?;
        Ok(Self { index, term, stamp, payload, encoded })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        Member { id: NodeId(id), incarnation: Incarnation(id * 10) }
    }

    #[test]
    fn entry_of_each_type_decodes_to_itself() {
        let configuration = Configuration::new(ClusterId(9), vec![member(2), member(1)]).unwrap();
        let command = Payload::Command(Bytes::from_static(b"command"));
        for payload in [Payload::NoOp { leader: NodeId(1) }, Payload::Configuration(configuration), command] {
            let entry = Entry::new(LogIndex(3), Term(2), ClusterTime(1), payload);
            assert_eq!(Entry::decode(entry.encoded().clone()), Ok(entry));
        }
    }

    #[test]
    fn configuration_with_a_repeated_id_does_not_exist() {
        assert!(Configuration::new(ClusterId(9), vec![member(1), member(1)]).is_none());
        assert!(Configuration::new(ClusterId(9), vec![]).is_none());
    }

    #[test]
    fn hard_state_with_any_vote_decodes_to_itself() {
        for voted_for in [None, Some(NodeId(0)), Some(NodeId(u64::MAX))] {
            let state = HardState { term: Term(7), voted_for };
            let mut out = Writer::new();
            state.encode(&mut out);
            let mut bytes = Reader::new(out.into_bytes());
            assert_eq!(HardState::decode(&mut bytes), Ok(state));
            assert_eq!(bytes.finish(), Ok(()));
        }
    }
}
