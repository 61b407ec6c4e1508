//! What nodes tell people about themselves and about the named sessions.

use super::command::client_name;
use crate::types::{ClientName, LogIndex, NodeId, Revision, Sequence, Term};
use crate::wire::MAX_ADDRESS_BYTES;
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::hello::MemberAddress;

/// A node's part in the protocol, as people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower = 1,
    /// Asks whether it would be elected.
    PreCandidate = 2,
    /// Asks for votes.
    Candidate = 3,
    /// Leads.
    Leader = 4,
    /// Has no vote (yet).
    Learner = 5,
}

/// A node's own view of itself and its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The node.
    pub id: NodeId,
    /// Its part.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The leader of that term, if known.
    pub leader: Option<NodeId>,
    /// Highest index known to be committed.
    pub commit: LogIndex,
    /// Highest index applied.
    pub applied: LogIndex,
    /// First index that the log still holds.
    pub first_index: LogIndex,
    /// Last index of the log.
    pub last_index: LogIndex,
    /// What there is to say of its disk.
    pub disk: DiskStatus,
    /// The program's version.
    pub version: String,
    /// All members, this node included.
    pub members: Vec<MemberAddress>,
    /// What is bounded: how much of it is in use, and its cap.
    pub bounds: Vec<Bound>,
}

/// A node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    /// Whether acknowledged writes are on it (not with `--unsafe-no-fsync`).
    pub fsync: bool,
    /// Bytes that can still be stored; `u64::MAX` where the disk does not say.
    pub free_bytes: u64,
    /// Bytes of these that are kept in reserve.
    pub reserve_bytes: u64,
}

/// One bounded resource of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What is counted, with its unit, such as `uncommitted_bytes`.
    pub name: String,
    /// How much is in use now.
    pub used: u64,
    /// How much there can be.
    pub cap: u64,
}

/// A named session, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    /// The name.
    pub name: ClientName,
    /// The highest number that it used.
    pub last_sequence: Sequence,
    /// How many results are kept.
    pub kept_results: u32,
    /// Revision of its last write.
    pub last_write: Revision,
}

impl RoleName {
    /// The word of the command-line contract.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RoleName::Follower => "follower",
            RoleName::PreCandidate => "pre-candidate",
            RoleName::Candidate => "candidate",
            RoleName::Leader => "leader",
            RoleName::Learner => "learner",
        }
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        use RoleName::{Candidate, Follower, Leader, Learner, PreCandidate};
        let tag = bytes.u8()?;
        let roles = [Follower, PreCandidate, Candidate, Leader, Learner];
        let role = roles.into_iter().find(|role| *role as u8 == tag);
        role.ok_or(DecodeError::UnknownTag { what: "role", tag })
    }
}

impl NodeStatus {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.u64(self.id.0);
        out.u8(self.role as u8);
        out.u64(self.term.0);
        out.option(self.leader, |out, leader| out.u64(leader.0));
        for index in [self.commit, self.applied, self.first_index, self.last_index] {
            out.u64(index.0);
        }
        out.bool(self.disk.fsync);
        out.u64(self.disk.free_bytes);
        out.u64(self.disk.reserve_bytes);
        out.byte_string(self.version.as_bytes());
        out.list(self.members.iter(), |out, member| member.encode(out));
        out.list(self.bounds.iter(), |out, bound| {
            out.byte_string(bound.name.as_bytes());
            out.u64(bound.used);
            out.u64(bound.cap);
        });
    }

    pub(super) fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: NodeId(bytes.u64()?),
            role: RoleName::decode(bytes)?,
            term: Term(bytes.u64()?),
            leader: bytes.option("leader", |bytes| bytes.u64().map(NodeId))?,
            commit: LogIndex(bytes.u64()?),
            applied: LogIndex(bytes.u64()?),
            first_index: LogIndex(bytes.u64()?),
            last_index: LogIndex(bytes.u64()?),
            disk: DiskStatus {
                fsync: bytes.bool("fsync")?,
                free_bytes: bytes.u64()?,
                reserve_bytes: bytes.u64()?,
            },
            version: bytes.string("version", MAX_ADDRESS_BYTES)?,
            members: bytes.list(MemberAddress::decode)?,
            bounds: bytes.list(|bytes| {
                let name = bytes.string("bound", MAX_ADDRESS_BYTES)?;
                Ok(Bound { name, used: bytes.u64()?, cap: bytes.u64()? })
            })?,
        })
    }
}

impl SessionInfo {
    pub(super) fn encode(&self, out: &mut Writer) {
        out.byte_string(self.name.as_bytes());
        out.u64(self.last_sequence.0);
        out.u32(self.kept_results);
        out.u64(self.last_write.0);
    }

    pub(super) fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            name: client_name(bytes)?,
            last_sequence: Sequence(bytes.u64()?),
            kept_results: bytes.u32()?,
            last_write: Revision(bytes.u64()?),
        })
    }
}
