//! What clients ask.

use bytes::Bytes;

use super::command::Write;
use super::key;
use crate::types::{NodeId, Term};
use crate::wire::MAX_KEY_BYTES;
use crate::wire::codec::{DecodeError, Reader, Writer};
use crate::wire::entry::SnapshotId;

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's number for this request on this connection; the answer carries it.
    pub id: u64,
    /// How long the client will still wait, in milliseconds.
    pub time_left_ms: u32,
    /// A leader that the client found silent: do not send it back there.
    pub silent_leader: Option<SilentLeader>,
    /// What is asked.
    pub body: RequestBody,
}

/// A leader that did not answer, as far as the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SilentLeader {
    /// The silent node.
    pub id: NodeId,
    /// The term in which it led.
    pub term: Term,
}

/// What a request asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// A write, applied exactly once however often it is sent. Only the leader takes it.
    Write(Write),
    /// One key's value. Linearizable, or what the asked node has if `stale`.
    Get {
        /// The key, 1 byte to 4 KiB.
        key: Bytes,
        /// Answer at once from the node's own state.
        stale: bool,
    },
    /// The rows whose keys begin with a prefix, in byte order of the keys.
    Scan {
        /// The prefix, 0 bytes to 4 KiB.
        prefix: Bytes,
        /// Only keys above this one: the last key of the page before.
        after: Option<Bytes>,
        /// At most this many rows (and never more than [`super::MAX_SCAN_ROWS`]).
        limit: u32,
        /// Answer at once from the node's own state.
        stale: bool,
    },
    /// The asked node's own view.
    Status,
    /// Hand leadership over. Only the leader takes it.
    Transfer {
        /// The node that shall lead.
        to: NodeId,
    },
    /// The named sessions. Linearizable.
    ListSessions,
    /// Take a snapshot now, on the asked node. Answered once it is durable there.
    Snapshot,
    /// The next bytes of a backup. The first request names no snapshot: the node answers with one
    /// that has all that was acknowledged before. An answer that names another snapshot than the
    /// request begins the backup anew.
    Backup {
        /// The snapshot of which the caller has the bytes before `offset`.
        snapshot: Option<SnapshotId>,
        /// Where the bytes asked for begin.
        offset: u64,
    },
}

/// Why a payload is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// The request's id, if it could still be read: then there is somebody to answer.
    pub id: Option<u64>,
    /// What is wrong.
    pub error: DecodeError,
}

impl Request {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        out.u64(self.id);
        out.u32(self.time_left_ms);
        out.option(self.silent_leader, |out, silent| {
            out.u64(silent.id.0);
            out.u64(silent.term.0);
        });
        self.body.encode(out);
    }

    /// Takes the encoding of exactly one request.
    pub fn decode(payload: Bytes) -> Result<Self, RequestError> {
        let mut bytes = Reader::new(payload);
        let id = bytes.u64().map_err(|error| RequestError { id: None, error })?;
        Self::decode_after_id(id, bytes).map_err(|error| RequestError { id: Some(id), error })
    }

    fn decode_after_id(id: u64, mut bytes: Reader) -> Result<Self, DecodeError> {
        let time_left_ms = bytes.u32()?;
        let silent_leader = bytes.option("silent leader", |bytes| {
            Ok(SilentLeader { id: NodeId(bytes.u64()?), term: Term(bytes.u64()?) })
        })?;
        let body = RequestBody::decode(&mut bytes)?;
        bytes.finish()?;
        Ok(Self { id, time_left_ms, silent_leader, body })
    }
}

impl RequestBody {
    /// Bytes of keys and values in it: what it takes in memory while it waits, give or take a
    /// hundred.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self {
            RequestBody::Write(write) => write.operation.payload_bytes(),
            RequestBody::Get { key, .. } => key.len(),
            RequestBody::Scan { prefix, after, .. } => prefix.len() + after.as_ref().map_or(0, Bytes::len),
            RequestBody::Status
            | RequestBody::Transfer { .. }
            | RequestBody::ListSessions
            | RequestBody::Snapshot
            | RequestBody::Backup { .. } => 0,
        }
    }

    fn encode(&self, out: &mut Writer) {
        match self {
            RequestBody::Write(write) => {
                out.u8(1);
                write.encode(out);
            }
            RequestBody::Get { key, stale } => {
                out.u8(2);
                out.byte_string(key);
                out.bool(*stale);
            }
            RequestBody::Scan { prefix, after, limit, stale } => {
                out.u8(3);
                out.byte_string(prefix);
                out.option(after.as_ref(), |out, key| out.byte_string(key));
                out.u32(*limit);
                out.bool(*stale);
            }
            RequestBody::Status => out.u8(4),
            RequestBody::Transfer { to } => {
                out.u8(5);
                out.u64(to.0);
            }
            RequestBody::ListSessions => out.u8(6),
            RequestBody::Snapshot => out.u8(8),
            RequestBody::Backup { snapshot, offset } => {
                out.u8(9);
                out.option(*snapshot, |out, snapshot| snapshot.encode(out));
                out.u64(*offset);
            }
        }
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match bytes.u8()? {
            1 => RequestBody::Write(Write::decode(bytes)?),
            2 => RequestBody::Get { key: key(bytes)?, stale: bytes.bool("stale")? },
            3 => RequestBody::Scan {
                prefix: bytes.byte_string("prefix", MAX_KEY_BYTES)?,
                after: bytes.option("after", key)?,
                limit: bytes.u32()?,
                stale: bytes.bool("stale")?,
            },
            4 => RequestBody::Status,
            5 => RequestBody::Transfer { to: NodeId(bytes.u64()?) },
            6 => RequestBody::ListSessions,
            8 => RequestBody::Snapshot,
            9 => RequestBody::Backup {
                snapshot: bytes.option("snapshot", SnapshotId::decode)?,
                offset: bytes.u64()?,
            },
            tag => return Err(DecodeError::UnknownTag { what: "request type", tag }),
        })
    }
}
