//! The first frame in each direction of a connection: who is there.
//!
//! ```text
//! PeerHello    cluster option u128 | node u64 | incarnation u64 | boot u64 | last index u64
//!              | dial u64 | advertise string | met: list of (id u64, incarnation u64)
//!              | restored option u64
//! Inquiry      node u64 | advertise string | list of dial u64
//! Confirmation node u64 | incarnation u64 | boot u64 | list of dial u64
//! ClientHello  empty
//! Welcome      cluster option u128 | node u64 | cluster time u64 | revision u64 | term u64
//!              | leader option u64 | list of (id u64, address string)
//! Refusal      reason u8 | message string
//! ```

use super::codec::{DecodeError, Reader, Writer};
use super::entry::Member;
use super::{MAX_ADDRESS_BYTES, MAX_MEMBERS};
use crate::types::{BootNumber, ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Revision, Term};

/// A number that a node draws for each of its dials, and that nobody else can guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DialNumber(pub u64);

impl DialNumber {
    /// In the hello of the end that was dialled.
    pub const NONE: Self = Self(0);
}

/// A node introduces itself to another; the one that was dialled answers with its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// The sender's cluster; none before its founding.
    pub cluster: Option<ClusterId>,
    /// The sender's id.
    pub node: NodeId,
    /// The incarnation of its directory.
    pub incarnation: Incarnation,
    /// Which boot of that directory this is.
    pub boot: BootNumber,
    /// The last index of the log that its disk has. It may fall, but never below what is committed.
    pub last_index: LogIndex,
    /// The number of this dial, by which the sender will own up to it; none in an answer.
    pub dial: DialNumber,
    /// The `HOST:PORT` at which clients reach the sender.
    pub advertise: String,
    /// Before the founding: every node met so far, the sender included, ids ascending.
    pub met: Vec<Member>,
    /// Before the founding: the revision of the backup of which the sender's directory was made.
    /// Such a node founds, whatever its id.
    pub restored: Option<Revision>,
}

impl PeerHello {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.option(self.cluster, |out, cluster| out.u128(cluster.0));
        out.u64(self.node.0);
        out.u64(self.incarnation.0);
        out.u64(self.boot.0);
        out.u64(self.last_index.0);
        out.u64(self.dial.0);
        out.byte_string(self.advertise.as_bytes());
        out.list(self.met.iter(), |out, member| member.encode(out));
        out.option(self.restored, |out, revision| out.u64(revision.0));
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let hello = Self {
            cluster: bytes.option("cluster", |bytes| bytes.u128().map(ClusterId))?,
            node: NodeId(bytes.u64()?),
            incarnation: Incarnation(bytes.u64()?),
            boot: BootNumber(bytes.u64()?),
            last_index: LogIndex(bytes.u64()?),
            dial: DialNumber(bytes.u64()?),
            advertise: bytes.string("address", MAX_ADDRESS_BYTES)?,
            met: bytes.list(Member::decode)?,
            restored: bytes.option("restored", |bytes| bytes.u64().map(Revision))?,
        };
        if hello.met.len() > MAX_MEMBERS {
            return Err(DecodeError::Invalid("number of members met"));
        }
        if hello.node < NodeId::MIN {
            return Err(DecodeError::Invalid("node id"));
        }
        Ok(hello)
    }
}

/// A node asks at another one's known address which of these dials are its own, and were meant for
/// the node that asks. Anybody may ask: a number that nobody knows gives nothing away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inquiry {
    /// The node that asks.
    pub node: NodeId,
    /// The `HOST:PORT` at which others reach it.
    pub advertise: String,
    /// The numbers, as somebody showed them.
    pub dials: Vec<DialNumber>,
}

impl Inquiry {
    /// The most numbers in one inquiry.
    pub const MAX_DIALS: usize = 256;

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.node.0);
        out.byte_string(self.advertise.as_bytes());
        encode_dials(&self.dials, out);
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            node: NodeId(bytes.u64()?),
            advertise: bytes.string("address", MAX_ADDRESS_BYTES)?,
            dials: decode_dials(bytes)?,
        })
    }
}

/// The answer to an [`Inquiry`], after which the connection ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// The node that was asked.
    pub node: NodeId,
    /// The incarnation of its directory.
    pub incarnation: Incarnation,
    /// Which boot of that directory this is.
    pub boot: BootNumber,
    /// Those of the dials that are its own, not ended, and not known to lead to another node than the
    /// one that asked.
    pub dials: Vec<DialNumber>,
}

impl Confirmation {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.node.0);
        out.u64(self.incarnation.0);
        out.u64(self.boot.0);
        encode_dials(&self.dials, out);
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            node: NodeId(bytes.u64()?),
            incarnation: Incarnation(bytes.u64()?),
            boot: BootNumber(bytes.u64()?),
            dials: decode_dials(bytes)?,
        })
    }
}

fn encode_dials(dials: &[DialNumber], out: &mut Writer) {
    out.list(dials.iter(), |out, dial| out.u64(dial.0));
}

fn decode_dials(bytes: &mut Reader) -> Result<Vec<DialNumber>, DecodeError> {
    let dials = bytes.list(|bytes| bytes.u64().map(DialNumber))?;
    if dials.len() > Inquiry::MAX_DIALS {
        return Err(DecodeError::Invalid("number of dials"));
    }
    Ok(dials)
}

/// A client introduces itself. It has nothing to say: its writes carry their client id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello;

impl ClientHello {
    /// Takes the (empty) encoding.
    pub fn decode(_: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self)
    }
}

/// A member as a client needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberAddress {
    /// The member's id.
    pub id: NodeId,
    /// The `HOST:PORT` at which clients reach it; empty while it is not known.
    pub address: String,
}

impl MemberAddress {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.id.0);
        out.byte_string(self.address.as_bytes());
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let id = NodeId(bytes.u64()?);
        Ok(Self { id, address: bytes.string("address", MAX_ADDRESS_BYTES)? })
    }
}

/// What a node tells a client first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The cluster; none before its founding.
    pub cluster: Option<ClusterId>,
    /// The node that answers.
    pub node: NodeId,
    /// The cluster time, of which library client ids are made.
    pub cluster_time: ClusterTime,
    /// The revision that the node has applied.
    pub revision: Revision,
    /// The node's term.
    pub term: Term,
    /// The leader of that term, if the node knows one.
    pub leader: Option<NodeId>,
    /// All members, this node included.
    pub members: Vec<MemberAddress>,
}

impl Welcome {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.option(self.cluster, |out, cluster| out.u128(cluster.0));
        out.u64(self.node.0);
        out.u64(self.cluster_time.0);
        out.u64(self.revision.0);
        out.u64(self.term.0);
        out.option(self.leader, |out, leader| out.u64(leader.0));
        out.list(self.members.iter(), |out, member| member.encode(out));
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            cluster: bytes.option("cluster", |bytes| bytes.u128().map(ClusterId))?,
            node: NodeId(bytes.u64()?),
            cluster_time: ClusterTime(bytes.u64()?),
            revision: Revision(bytes.u64()?),
            term: Term(bytes.u64()?),
            leader: bytes.option("leader", |bytes| bytes.u64().map(NodeId))?,
            members: bytes.list(MemberAddress::decode)?,
        })
    }
}

/// Why the sender closes the connection next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalReason {
    /// The bytes were no valid frame, or a frame that has no place here.
    Malformed = 1,
    /// A frame above the limit.
    FrameTooLarge = 2,
    /// The other end belongs to another cluster.
    WrongCluster = 3,
    /// The other end's id is taken by another node, or is our own.
    DuplicateId = 4,
    /// The other end is not in the configuration.
    Stranger = 5,
    /// The other end has an older boot number than was seen of it: a copy put back.
    OldBoot = 6,
    /// Too many connections.
    Busy = 7,
    /// The lists of the two nodes contradict each other.
    Contradiction = 8,
    /// The other end's log ends before what its disk had: a copy put back.
    OldCopy = 9,
    /// The node that the other end says it is does not know of its dial.
    NotConfirmed = 10,
}

impl RefusalReason {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Malformed,
        Self::FrameTooLarge,
        Self::WrongCluster,
        Self::DuplicateId,
        Self::Stranger,
        Self::OldBoot,
        Self::Busy,
        Self::Contradiction,
        Self::OldCopy,
        Self::NotConfirmed,
    ];
}

/// The last frame before a close, for the log on the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: RefusalReason,
    /// For people: cause and cure in one line.
    pub message: String,
}

impl Refusal {
    /// The longest message, in bytes.
    pub const MAX_MESSAGE_BYTES: usize = 1024;

    /// The message as one line, whatever the other end has put into it.
    #[must_use]
    pub fn line(&self) -> String {
        self.message.replace(char::is_control, " ")
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u8(self.reason as u8);
        out.byte_string(self.message.as_bytes());
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let tag = bytes.u8()?;
        let reason = RefusalReason::ALL.into_iter().find(|reason| *reason as u8 == tag);
        let reason = reason.ok_or(DecodeError::UnknownTag { what: "refusal reason", tag })?;
        Ok(Self { reason, message: bytes.string("refusal message", Self::MAX_MESSAGE_BYTES)? })
    }
}
