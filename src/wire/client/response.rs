//! What nodes answer.

use bytes::Bytes;

use super::command::Outcome;
use super::status::{NodeStatus, SessionInfo};
use super::{key, value};
use crate::types::{Revision, Term};
use crate::wire::MAX_SNAPSHOT_CHUNK_BYTES;
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::entry::SnapshotId;
use crate::wire::hello::{MemberAddress, Refusal};

/// Rows in one answer to a scan, at most.
pub const MAX_SCAN_ROWS: u32 = 10_000;
/// Bytes of keys and values in one answer to a scan, at most, but for a single larger row.
pub const MAX_SCAN_BYTES: usize = 1 << 20;

/// One answer of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's id.
    pub id: u64,
    /// The revision of the state that this answer reflects; of a write, the one that it made.
    pub revision: Revision,
    /// The answer itself.
    pub body: ResponseBody,
}

/// What a node answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// The write was applied.
    Written {
        /// What it came to.
        outcome: Outcome,
        /// It had been applied before this attempt; this is the result of then.
        cached: bool,
    },
    /// The answer to a get.
    Value(Option<Bytes>),
    /// The answer to a scan.
    Rows {
        /// Keys and values, in byte order of the keys.
        rows: Vec<(Bytes, Bytes)>,
        /// Whether there are more after the last of them.
        more: bool,
    },
    /// The answer to a status request.
    Status(Box<NodeStatus>),
    /// The node asked for leads now.
    Transferred,
    /// The answer to a list of sessions.
    Sessions(Vec<SessionInfo>),
    /// Not done; see [`Refused::is_definite`].
    Refused(Refused),
    /// A snapshot is durable on the node that was asked.
    SnapshotSaved(SnapshotId),
    /// Some bytes of a backup.
    BackupChunk {
        /// The snapshot that is the backup. If the request named another, the backup begins anew.
        snapshot: SnapshotId,
        /// Where the bytes begin.
        offset: u64,
        /// The bytes, at most [`MAX_SNAPSHOT_CHUNK_BYTES`], inside the file; none at the snapshot's end.
        chunk: Bytes,
    },
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Ask the leader.
    NotLeader {
        /// The node's term.
        term: Term,
        /// Who leads it, if the node knows.
        leader: Option<MemberAddress>,
    },
    /// No leader was found within the time that a node keeps a request.
    NoLeader,
    /// A cap is reached; try again later.
    Busy(String),
    /// A key or value above its limit.
    TooLarge(String),
    /// The request makes no sense.
    Malformed(String),
    /// The same client used this number for another write.
    SequenceReused,
    /// The session has ended, so nobody knows any more whether an earlier attempt was applied.
    /// This attempt was not.
    SessionExpired,
    /// The number lies below those whose results are kept. This attempt was not applied; an
    /// earlier one may have been.
    OutcomeForgotten,
    /// This node led when it took the write and leads no more: the write may yet be applied. Of a
    /// hand-over: the node that shall lead was told so, and may yet come to it.
    LeadershipLost,
    /// Leadership was not handed over, nor will it be by this request.
    TransferFailed(String),
    /// The disks of so many nodes are nearly full that a majority has no room for the write.
    NoSpace(String),
}

impl Response {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.id);
        out.u64(self.revision.0);
        self.body.encode(out);
    }

    /// Takes the encoding of exactly one response.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(payload);
        let (id, revision) = (bytes.u64()?, Revision(bytes.u64()?));
        let body = ResponseBody::decode(&mut bytes)?;
        bytes.finish()?;
        Ok(Self { id, revision, body })
    }
}

impl ResponseBody {
    /// How large it is, about: what each value and row takes, and the bytes in them.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        const ROW_BYTES: usize = 64;
        match self {
            ResponseBody::Value(value) => ROW_BYTES + value.as_ref().map_or(0, Bytes::len),
            ResponseBody::Rows { rows, .. } => {
                ROW_BYTES + rows.iter().map(|(key, value)| ROW_BYTES + key.len() + value.len()).sum::<usize>()
            }
            ResponseBody::Sessions(sessions) => ROW_BYTES * (1 + sessions.len()),
            ResponseBody::BackupChunk { chunk, .. } => ROW_BYTES + chunk.len(),
            _ => ROW_BYTES,
        }
    }

    fn encode(&self, out: &mut Writer) {
        match self {
            ResponseBody::Written { outcome, cached } => {
                out.u8(1);
                outcome.encode(out);
                out.bool(*cached);
            }
            ResponseBody::Value(value) => {
                out.u8(2);
                out.option(value.as_ref(), |out, value| out.byte_string(value));
            }
            ResponseBody::Rows { rows, more } => {
                out.u8(3);
                out.list(rows.iter(), |out, (key, value)| {
                    out.byte_string(key);
                    out.byte_string(value);
                });
                out.bool(*more);
            }
            ResponseBody::Status(status) => {
                out.u8(4);
                status.encode(out);
            }
            ResponseBody::Transferred => out.u8(5),
            ResponseBody::Sessions(sessions) => {
                out.u8(6);
                out.list(sessions.iter(), |out, session| session.encode(out));
            }
            ResponseBody::Refused(refused) => {
                out.u8(8);
                refused.encode(out);
            }
            ResponseBody::SnapshotSaved(snapshot) => {
                out.u8(9);
                snapshot.encode(out);
            }
            ResponseBody::BackupChunk { snapshot, offset, chunk } => {
                out.u8(10);
                snapshot.encode(out);
                out.u64(*offset);
                out.byte_string(chunk);
            }
        }
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match bytes.u8()? {
            1 => ResponseBody::Written { outcome: Outcome::decode(bytes)?, cached: bytes.bool("cached")? },
            2 => ResponseBody::Value(bytes.option("value", value)?),
            3 => ResponseBody::Rows {
                rows: bytes.list(|bytes| Ok((key(bytes)?, value(bytes)?)))?,
                more: bytes.bool("more")?,
            },
            4 => ResponseBody::Status(Box::new(NodeStatus::decode(bytes)?)),
            5 => ResponseBody::Transferred,
            6 => ResponseBody::Sessions(bytes.list(SessionInfo::decode)?),
            8 => ResponseBody::Refused(Refused::decode(bytes)?),
            9 => ResponseBody::SnapshotSaved(SnapshotId::decode(bytes)?),
            10 => {
                let (snapshot, offset) = (SnapshotId::decode(bytes)?, bytes.u64()?);
                let chunk = bytes.byte_string("chunk", MAX_SNAPSHOT_CHUNK_BYTES)?;
                if !snapshot.has_chunk(offset, chunk.len()) {
                    return Err(DecodeError::Invalid("chunk of a snapshot"));
                }
                ResponseBody::BackupChunk { snapshot, offset, chunk }
            }
            tag => return Err(DecodeError::UnknownTag { what: "response type", tag }),
        })
    }
}

impl Refused {
    /// Whether this very attempt was certainly not applied and never will be.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        !matches!(self, Refused::LeadershipLost)
    }

    fn encode(&self, out: &mut Writer) {
        match self {
            Refused::NotLeader { term, leader } => {
                out.u8(1);
                out.u64(term.0);
                out.option(leader.as_ref(), |out, leader| leader.encode(out));
            }
            Refused::NoLeader => out.u8(2),
            Refused::Busy(message) => put_message(3, message, out),
            Refused::TooLarge(message) => put_message(4, message, out),
            Refused::Malformed(message) => put_message(5, message, out),
            Refused::SequenceReused => out.u8(6),
            Refused::SessionExpired => out.u8(7),
            Refused::OutcomeForgotten => out.u8(8),
            Refused::LeadershipLost => out.u8(9),
            Refused::TransferFailed(message) => put_message(10, message, out),
            Refused::NoSpace(message) => put_message(11, message, out),
        }
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match bytes.u8()? {
            1 => Refused::NotLeader {
                term: Term(bytes.u64()?),
                leader: bytes.option("leader", MemberAddress::decode)?,
            },
            2 => Refused::NoLeader,
            3 => Refused::Busy(message(bytes)?),
            4 => Refused::TooLarge(message(bytes)?),
            5 => Refused::Malformed(message(bytes)?),
            6 => Refused::SequenceReused,
            7 => Refused::SessionExpired,
            8 => Refused::OutcomeForgotten,
            9 => Refused::LeadershipLost,
            10 => Refused::TransferFailed(message(bytes)?),
            11 => Refused::NoSpace(message(bytes)?),
            tag => return Err(DecodeError::UnknownTag { what: "refusal", tag }),
        })
    }
}

fn put_message(tag: u8, message: &str, out: &mut Writer) {
    out.u8(tag);
    out.byte_string(message.as_bytes());
}

fn message(bytes: &mut Reader) -> Result<String, DecodeError> {
    bytes.string("message", Refusal::MAX_MESSAGE_BYTES)
}
