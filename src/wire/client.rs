//! What clients ask and what nodes answer, and the commands that become log entries.
//!
//! ```text
//! Request   id u64 | time left u32 (ms) | silent leader option (id u64, term u64) | type u8 | fields
//! Response  id u64 | revision u64 | type u8 | fields
//! Command   type u8 | fields
//! ```
//!
//! Requests may be pipelined; answers carry the request's id and may come in another order.

use bytes::Bytes;

use super::codec::{DecodeError, Reader, Writer};
use super::hello::MemberAddress;
use super::{MAX_ADDRESS_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use crate::types::{ClientId, ClientName, ClusterTime, LogIndex, NodeId, Revision, Sequence, Term};

/// A value in a mismatch is cut to this many bytes.
pub const MAX_MISMATCH_BYTES: usize = 1 << 10;
/// Rows in one answer to a scan, at most.
pub const MAX_SCAN_ROWS: u32 = 10_000;
/// Bytes of keys and values in one answer to a scan, at most, but for a single larger row.
pub const MAX_SCAN_BYTES: usize = 1 << 20;

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
        /// At most this many rows (and never more than [`MAX_SCAN_ROWS`]).
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
    /// Forget a session. Only the leader takes it. Safe to repeat.
    CloseSession {
        /// The session's owner.
        client: ClientId,
    },
}

/// A write and the identity by which it is applied once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Whose write it is.
    pub client: ClientId,
    /// The client's number for it.
    pub sequence: Sequence,
    /// The client has the answers to all its writes below this number; they may be forgotten.
    /// Zero says nothing.
    pub acknowledged: Sequence,
    /// What it does.
    pub operation: Operation,
}

/// What a write does to the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// Its value from now on.
        value: Bytes,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Sets a key if its value is as expected.
    CompareAndSet {
        /// The key.
        key: Bytes,
        /// The value that it must have; `None`: it must be absent.
        expected: Option<Bytes>,
        /// Its value if so.
        new: Bytes,
    },
}

/// What a write came to. It is a result, also where it is a "no": it is kept and given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// The key to delete was not there.
    NotFound,
    /// The value to compare with was another.
    Mismatch {
        /// The value that the key has, cut to [`MAX_MISMATCH_BYTES`]; `None` if it is absent.
        current: Option<Bytes>,
        /// Whether `current` was cut.
        truncated: bool,
    },
}

/// An entry's command for the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A client's write.
    Write(Write),
    /// The end of a session.
    CloseSession {
        /// The session's owner.
        client: ClientId,
    },
    /// Forget the library sessions that are too old by this entry's stamp.
    ExpireSessions,
}

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
    /// The session is forgotten.
    SessionClosed {
        /// Whether there was one.
        existed: bool,
    },
    /// Not done; see [`Refused::is_definite`].
    Refused(Refused),
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
    /// This node led when it took the write and leads no more: the write may yet be applied.
    LeadershipLost,
    /// Leadership was not handed over.
    TransferFailed(String),
}

impl Refused {
    /// Whether this very attempt was certainly not applied and never will be.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        !matches!(self, Refused::LeadershipLost)
    }
}

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
    /// Whether acknowledged writes are on disk (not with `--unsafe-no-fsync`).
    pub fsync: bool,
    /// The program's version.
    pub version: String,
    /// All members, this node included.
    pub members: Vec<MemberAddress>,
    /// What is bounded: how much of it is in use, and its cap.
    pub bounds: Vec<Bound>,
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
            RequestBody::CloseSession { client } => {
                out.u8(7);
                encode_client(client, out);
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
            7 => RequestBody::CloseSession { client: decode_client(bytes)? },
            tag => return Err(DecodeError::UnknownTag { what: "request type", tag }),
        })
    }
}

impl Write {
    fn encode(&self, out: &mut Writer) {
        encode_client(&self.client, out);
        out.u64(self.sequence.0);
        out.u64(self.acknowledged.0);
        self.operation.encode(out);
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            client: decode_client(bytes)?,
            sequence: Sequence(bytes.u64()?),
            acknowledged: Sequence(bytes.u64()?),
            operation: Operation::decode(bytes)?,
        })
    }
}

impl Operation {
    /// The key that is written.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key } | Operation::CompareAndSet { key, .. } => {
                key
            }
        }
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Operation::Put { key, value } => {
                out.u8(1);
                out.byte_string(key);
                out.byte_string(value);
            }
            Operation::Delete { key } => {
                out.u8(2);
                out.byte_string(key);
            }
            Operation::CompareAndSet { key, expected, new } => {
                out.u8(3);
                out.byte_string(key);
                out.option(expected.as_ref(), |out, value| out.byte_string(value));
                out.byte_string(new);
            }
        }
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match bytes.u8()? {
            1 => Operation::Put { key: key(bytes)?, value: value(bytes)? },
            2 => Operation::Delete { key: key(bytes)? },
            3 => Operation::CompareAndSet {
                key: key(bytes)?,
                expected: bytes.option("expected", value)?,
                new: value(bytes)?,
            },
            tag => return Err(DecodeError::UnknownTag { what: "operation", tag }),
        })
    }
}

impl Command {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Command::Write(write) => {
                out.u8(1);
                write.encode(out);
            }
            Command::CloseSession { client } => {
                out.u8(2);
                encode_client(client, out);
            }
            Command::ExpireSessions => out.u8(3),
        }
    }

    /// Takes the encoding of exactly one command.
    pub fn decode(command: Bytes) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(command);
        let command = match bytes.u8()? {
            1 => Command::Write(Write::decode(&mut bytes)?),
            2 => Command::CloseSession { client: decode_client(&mut bytes)? },
            3 => Command::ExpireSessions,
            tag => return Err(DecodeError::UnknownTag { what: "command", tag }),
        };
        bytes.finish()?;
        Ok(command)
    }
}

impl Outcome {
    /// Appends the encoding.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Outcome::Done => out.u8(0),
            Outcome::NotFound => out.u8(1),
            Outcome::Mismatch { current, truncated } => {
                out.u8(2);
                out.option(current.as_ref(), |out, value| out.byte_string(value));
                out.bool(*truncated);
            }
        }
    }

    /// Takes the encoding.
    pub fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(match bytes.u8()? {
            0 => Outcome::Done,
            1 => Outcome::NotFound,
            2 => Outcome::Mismatch {
                current: bytes.option("current", |bytes| bytes.byte_string("value", MAX_MISMATCH_BYTES))?,
                truncated: bytes.bool("truncated")?,
            },
            tag => return Err(DecodeError::UnknownTag { what: "outcome", tag }),
        })
    }
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
            ResponseBody::SessionClosed { existed } => {
                out.u8(7);
                out.bool(*existed);
            }
            ResponseBody::Refused(refused) => {
                out.u8(8);
                refused.encode(out);
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
            7 => ResponseBody::SessionClosed { existed: bytes.bool("existed")? },
            8 => ResponseBody::Refused(Refused::decode(bytes)?),
            tag => return Err(DecodeError::UnknownTag { what: "response type", tag }),
        })
    }
}

impl Refused {
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
            tag => return Err(DecodeError::UnknownTag { what: "refusal", tag }),
        })
    }
}

impl NodeStatus {
    fn encode(&self, out: &mut Writer) {
        out.u64(self.id.0);
        out.u8(self.role as u8);
        out.u64(self.term.0);
        out.option(self.leader, |out, leader| out.u64(leader.0));
        for index in [self.commit, self.applied, self.first_index, self.last_index] {
            out.u64(index.0);
        }
        out.bool(self.fsync);
        out.byte_string(self.version.as_bytes());
        out.list(self.members.iter(), |out, member| member.encode(out));
        out.list(self.bounds.iter(), |out, bound| {
            out.byte_string(bound.name.as_bytes());
            out.u64(bound.used);
            out.u64(bound.cap);
        });
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            id: NodeId(bytes.u64()?),
            role: decode_role(bytes)?,
            term: Term(bytes.u64()?),
            leader: bytes.option("leader", |bytes| bytes.u64().map(NodeId))?,
            commit: LogIndex(bytes.u64()?),
            applied: LogIndex(bytes.u64()?),
            first_index: LogIndex(bytes.u64()?),
            last_index: LogIndex(bytes.u64()?),
            fsync: bytes.bool("fsync")?,
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
    fn encode(&self, out: &mut Writer) {
        out.byte_string(self.name.as_bytes());
        out.u64(self.last_sequence.0);
        out.u32(self.kept_results);
        out.u64(self.last_write.0);
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            name: client_name(bytes)?,
            last_sequence: Sequence(bytes.u64()?),
            kept_results: bytes.u32()?,
            last_write: Revision(bytes.u64()?),
        })
    }
}

/// Appends a client id: 0, born, nonce; or 1 and the name.
pub fn encode_client(client: &ClientId, out: &mut Writer) {
    match client {
        ClientId::Library { born, nonce } => {
            out.u8(0);
            out.u64(born.0);
            out.u64(*nonce);
        }
        ClientId::Named(name) => {
            out.u8(1);
            out.byte_string(name.as_bytes());
        }
    }
}

/// Takes a client id.
pub fn decode_client(bytes: &mut Reader) -> Result<ClientId, DecodeError> {
    match bytes.u8()? {
        0 => Ok(ClientId::Library { born: ClusterTime(bytes.u64()?), nonce: bytes.u64()? }),
        1 => Ok(ClientId::Named(client_name(bytes)?)),
        tag => Err(DecodeError::UnknownTag { what: "client id", tag }),
    }
}

fn client_name(bytes: &mut Reader) -> Result<ClientName, DecodeError> {
    let name = bytes.byte_string("client id", ClientName::MAX_BYTES)?;
    ClientName::new(&name).ok_or(DecodeError::Invalid("client id: it has 1 to 64 bytes"))
}

fn decode_role(bytes: &mut Reader) -> Result<RoleName, DecodeError> {
    use RoleName::{Candidate, Follower, Leader, Learner, PreCandidate};
    let tag = bytes.u8()?;
    let roles = [Follower, PreCandidate, Candidate, Leader, Learner];
    let role = roles.into_iter().find(|role| *role as u8 == tag);
    role.ok_or(DecodeError::UnknownTag { what: "role", tag })
}

fn key(bytes: &mut Reader) -> Result<Bytes, DecodeError> {
    let key = bytes.byte_string("key", MAX_KEY_BYTES)?;
    if key.is_empty() { Err(DecodeError::Invalid("key: it has 1 byte to 4 KiB")) } else { Ok(key) }
}

fn value(bytes: &mut Reader) -> Result<Bytes, DecodeError> {
    bytes.byte_string("value", MAX_VALUE_BYTES)
}

fn put_message(tag: u8, message: &str, out: &mut Writer) {
    out.u8(tag);
    out.byte_string(message.as_bytes());
}

fn message(bytes: &mut Reader) -> Result<String, DecodeError> {
    bytes.string("message", super::hello::Refusal::MAX_MESSAGE_BYTES)
}
