//! What nodes say to each other once they have shaken hands.
//!
//! Names and fields are those of the paper's Figure 2, with two departures. `candidateId` and
//! `leaderId` are not fields: the sender is known from its link, and no message can claim another.
//! And every answer carries what it answers (a round, an index), since late answers are common.
//!
//! | message | from | to | answered by |
//! |---|---|---|---|
//! | PreVote | pre-candidate | all | PreVoteResponse |
//! | PreVote | a follower that was told to take over | its leader | PreVoteResponse |
//! | RequestVote | candidate | all | RequestVoteResponse |
//! | AppendEntries | leader | each follower | AppendEntriesResponse, after the follower's disk |
//! | InstallSnapshot | leader | a follower that lacks what the log no longer has | InstallSnapshotResponse |
//! | Heartbeat | leader | each follower | HeartbeatResponse, at once |
//! | ReadIndex | follower | leader | ReadIndexResponse, when a round has confirmed it |
//! | TimeoutNow | leader | one follower | its PreVote |
//! | Found | a founded node | one that is not | - |
//! | Standing | every member | every other | - |

mod standing;

use bytes::Bytes;

use super::MAX_SNAPSHOT_CHUNK_BYTES;
use super::codec::{DecodeError, Reader, Writer};
use super::entry::{Configuration, Entry, MAX_ENTRY_BYTES, SnapshotId};
use crate::types::{LogIndex, NodeId, Term};

pub use standing::{Room, RoomLevel, Standing};

/// A message from one member to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// "Would you vote for me?" (thesis 9.6). Changes nothing at the receiver.
    PreVote(PreVote),
    /// The answer to it.
    PreVoteResponse(PreVoteResponse),
    /// "Invoked by candidates to gather votes" (Figure 2).
    RequestVote(RequestVote),
    /// The answer to it: a promise, sent only once it is durable.
    RequestVoteResponse(RequestVoteResponse),
    /// "Invoked by leader to replicate log entries" (Figure 2).
    AppendEntries(AppendEntries),
    /// The answer to it.
    AppendEntriesResponse(AppendEntriesResponse),
    /// A heartbeat, which is also a read round (thesis 6.4) and carries the commit index.
    Heartbeat(Heartbeat),
    /// The answer to it. It says only "I am loyal to you in this term", never how far a log goes.
    HeartbeatResponse(HeartbeatResponse),
    /// A follower asks for the commit index, for reads of its own (thesis 6.4).
    ReadIndex(ReadIndex),
    /// The answer to it.
    ReadIndexResponse(ReadIndexResponse),
    /// "Start an election at once" (thesis 3.10).
    TimeoutNow(TimeoutNow),
    /// "Invoked by leader to send chunks of a snapshot to a follower" (the paper's Figure 13).
    InstallSnapshot(InstallSnapshot),
    /// The answer to it.
    InstallSnapshotResponse(InstallSnapshotResponse),
    /// The founding of the cluster, told to a member that does not know of it yet.
    Found(Configuration),
    /// How a member stands, and how far it saw others come. No answer to anybody depends on it.
    Standing(Standing),
}

/// Fields of PreVote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreVote {
    /// The term that the sender would campaign in: one above its own.
    pub term: Term,
    /// Index of the sender's last log entry.
    pub last_log_index: LogIndex,
    /// Term of the sender's last log entry.
    pub last_log_term: Term,
    /// Counts the sender's pre-votes, so that an old answer is told from a new one.
    pub round: u64,
}

/// Fields of PreVoteResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreVoteResponse {
    /// The asked-for term if granted; else the refuser's own, for the sender to adopt.
    pub term: Term,
    /// The round that is answered.
    pub round: u64,
    /// Whether the sender would get the vote.
    pub vote_granted: bool,
}

/// Fields of RequestVote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// Candidate's term.
    pub term: Term,
    /// Index of candidate's last log entry.
    pub last_log_index: LogIndex,
    /// Term of candidate's last log entry.
    pub last_log_term: Term,
    /// The old leader asked for this election (TimeoutNow): loyalty to it is no reason to refuse.
    pub leadership_transfer: bool,
}

/// Fields of RequestVoteResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestVoteResponse {
    /// The voter's term, for the candidate to update itself. A grant is for exactly this term.
    pub term: Term,
    /// True means candidate received vote.
    pub vote_granted: bool,
}

/// Fields of AppendEntries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// Leader's term.
    pub term: Term,
    /// Index of log entry immediately preceding new ones.
    pub prev_log_index: LogIndex,
    /// Term of that entry.
    pub prev_log_term: Term,
    /// Log entries to store, contiguous from `prev_log_index` on; empty to probe.
    pub entries: Vec<Entry>,
    /// Leader's commit index.
    pub leader_commit: LogIndex,
}

/// Fields of AppendEntriesResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendEntriesResponse {
    /// The follower's term, for the leader to update itself.
    pub term: Term,
    /// Whether the follower's log matched, and how far.
    pub result: AppendResult,
}

/// The "success" of Figure 2, with what the leader learns of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendResult {
    /// The follower's log equals the leader's up to here, durably: the message's
    /// `prev_log_index` plus its entries, never more.
    Match {
        /// The last index that matches.
        match_index: LogIndex,
    },
    /// The follower has no entry like `prev_log_index`, `prev_log_term`.
    Conflict {
        /// The `prev_log_index` that was refused.
        prev_log_index: LogIndex,
        /// Where to try next: no entry above this index of the follower's can match (the
        /// paper's section 5.3, last paragraphs).
        hint_index: LogIndex,
        /// Term of the follower's entry at `hint_index`: the leader skips its own entries of
        /// higher terms.
        hint_term: Term,
    },
}

/// Fields of Heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Leader's term.
    pub term: Term,
    /// The leader's commit index, or how far the follower is known to match if that is less.
    pub commit: LogIndex,
    /// Counts the leader's rounds in this term, from 1; zero asks for no answer.
    pub round: u64,
}

/// Fields of HeartbeatResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatResponse {
    /// The follower's term.
    pub term: Term,
    /// The round of this term that is answered; 0, which is none, if the heartbeat was of an earlier
    /// term: its leader may lead this one too, and counts its rounds anew.
    pub round: u64,
}

/// Fields of ReadIndex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndex {
    /// The follower's term.
    pub term: Term,
    /// The follower's number for this request, never used twice.
    pub request: u64,
}

/// Fields of ReadIndexResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadIndexResponse {
    /// The leader's term, or the refuser's.
    pub term: Term,
    /// The request that is answered.
    pub request: u64,
    /// What the follower must have applied before it reads; none if the receiver does not lead.
    pub read_index: Option<LogIndex>,
}

/// Fields of TimeoutNow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The leader's term.
    pub term: Term,
}

/// Fields of InstallSnapshot (Figure 13). The index and term of the last entry, the size and the
/// checksum of the whole are the snapshot's id; the configuration is in its bytes, and `done` is
/// where they end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// Leader's term; 0 in what a member sends to a node that belongs to no cluster yet, leader or not.
    pub term: Term,
    /// Which snapshot this is a chunk of.
    pub snapshot: SnapshotId,
    /// Where in its file the chunk begins.
    pub offset: u64,
    /// The chunk, at most [`MAX_SNAPSHOT_CHUNK_BYTES`], inside the file.
    pub chunk: Bytes,
}

/// Fields of InstallSnapshotResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstallSnapshotResponse {
    /// The follower's term.
    pub term: Term,
    /// The snapshot that is answered for.
    pub snapshot: SnapshotId,
    /// How far the follower is.
    pub result: InstallResult,
}

/// How far a follower is with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallResult {
    /// It has the bytes before `offset` and waits for those from there on. This promises nothing:
    /// at 0 it begins, or has lost what it had.
    Received {
        /// The next byte that it waits for.
        offset: u64,
    },
    /// Its log equals the leader's up to the snapshot's index, durably.
    Installed,
}

impl Message {
    /// The sender's term as the paper's "All Servers" rule means it: none for a pre-vote, which
    /// claims a term that nobody has yet, and for what has nothing to do with terms.
    #[must_use]
    pub fn term(&self) -> Option<Term> {
        match self {
            Message::PreVote(_) | Message::Found(_) | Message::Standing(_) => None,
            Message::PreVoteResponse(m) if m.vote_granted => None,
            Message::PreVoteResponse(m) => Some(m.term),
            Message::RequestVote(m) => Some(m.term),
            Message::RequestVoteResponse(m) => Some(m.term),
            Message::AppendEntries(m) => Some(m.term),
            Message::AppendEntriesResponse(m) => Some(m.term),
            Message::Heartbeat(m) => Some(m.term),
            Message::HeartbeatResponse(m) => Some(m.term),
            Message::ReadIndex(m) => Some(m.term),
            Message::ReadIndexResponse(m) => Some(m.term),
            Message::TimeoutNow(m) => Some(m.term),
            Message::InstallSnapshot(m) => Some(m.term),
            Message::InstallSnapshotResponse(m) => Some(m.term),
        }
    }

    /// Appends the encoding: a type byte, then the fields in the order of their declaration.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Message::PreVote(m) => m.encode(out),
            Message::PreVoteResponse(m) => m.encode(out),
            Message::RequestVote(m) => m.encode(out),
            Message::RequestVoteResponse(m) => m.encode(out),
            Message::AppendEntries(m) => m.encode(out),
            Message::AppendEntriesResponse(m) => m.encode(out),
            Message::Heartbeat(m) => put(out, 7, &[m.term.0, m.commit.0, m.round]),
            Message::HeartbeatResponse(m) => put(out, 8, &[m.term.0, m.round]),
            Message::ReadIndex(m) => put(out, 9, &[m.term.0, m.request]),
            Message::ReadIndexResponse(m) => {
                put(out, 10, &[m.term.0, m.request]);
                out.option(m.read_index, |out, index| out.u64(index.0));
            }
            Message::TimeoutNow(m) => put(out, 11, &[m.term.0]),
            Message::Found(configuration) => {
                out.u8(12);
                configuration.encode(out);
            }
            Message::InstallSnapshot(m) => m.encode(out),
            Message::InstallSnapshotResponse(m) => m.encode(out),
            Message::Standing(m) => m.encode(out),
        }
    }

    /// Takes the encoding of exactly one message.
    pub fn decode(payload: Bytes) -> Result<Self, DecodeError> {
        let mut bytes = Reader::new(payload);
        let message = match bytes.u8()? {
            1 => Message::PreVote(PreVote::decode(&mut bytes)?),
            2 => Message::PreVoteResponse(PreVoteResponse::decode(&mut bytes)?),
            3 => Message::RequestVote(RequestVote::decode(&mut bytes)?),
            4 => Message::RequestVoteResponse(RequestVoteResponse::decode(&mut bytes)?),
            5 => Message::AppendEntries(AppendEntries::decode(&mut bytes)?),
            6 => Message::AppendEntriesResponse(AppendEntriesResponse::decode(&mut bytes)?),
            7 => Message::Heartbeat(Heartbeat {
                term: Term(bytes.u64()?),
                commit: LogIndex(bytes.u64()?),
                round: bytes.u64()?,
            }),
            8 => Message::HeartbeatResponse(HeartbeatResponse {
                term: Term(bytes.u64()?),
                round: bytes.u64()?,
            }),
            9 => Message::ReadIndex(ReadIndex { term: Term(bytes.u64()?), request: bytes.u64()? }),
            10 => Message::ReadIndexResponse(ReadIndexResponse {
                term: Term(bytes.u64()?),
                request: bytes.u64()?,
                read_index: bytes.option("read index", |bytes| bytes.u64().map(LogIndex))?,
            }),
            11 => Message::TimeoutNow(TimeoutNow { term: Term(bytes.u64()?) }),
            12 => Message::Found(Configuration::decode(&mut bytes)?),
            13 => Message::InstallSnapshot(InstallSnapshot::decode(&mut bytes)?),
            14 => Message::InstallSnapshotResponse(InstallSnapshotResponse::decode(&mut bytes)?),
            15 => Message::Standing(Standing::decode(&mut bytes)?),
            tag => return Err(DecodeError::UnknownTag { what: "message type", tag }),
        };
        bytes.finish()?;
        Ok(message)
    }
}

fn put(out: &mut Writer, tag: u8, fields: &[u64]) {
    out.u8(tag);
    for field in fields {
        out.u64(*field);
    }
}

impl PreVote {
    fn encode(&self, out: &mut Writer) {
        put(out, 1, &[self.term.0, self.last_log_index.0, self.last_log_term.0, self.round]);
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            term: Term(bytes.u64()?),
            last_log_index: LogIndex(bytes.u64()?),
            last_log_term: Term(bytes.u64()?),
            round: bytes.u64()?,
        })
    }
}

impl PreVoteResponse {
    fn encode(&self, out: &mut Writer) {
        put(out, 2, &[self.term.0, self.round]);
        out.bool(self.vote_granted);
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let (term, round) = (Term(bytes.u64()?), bytes.u64()?);
        Ok(Self { term, round, vote_granted: bytes.bool("vote")? })
    }
}

impl RequestVote {
    fn encode(&self, out: &mut Writer) {
        put(out, 3, &[self.term.0, self.last_log_index.0, self.last_log_term.0]);
        out.bool(self.leadership_transfer);
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self {
            term: Term(bytes.u64()?),
            last_log_index: LogIndex(bytes.u64()?),
            last_log_term: Term(bytes.u64()?),
            leadership_transfer: bytes.bool("transfer mark")?,
        })
    }
}

impl RequestVoteResponse {
    fn encode(&self, out: &mut Writer) {
        put(out, 4, &[self.term.0]);
        out.bool(self.vote_granted);
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { term: Term(bytes.u64()?), vote_granted: bytes.bool("vote")? })
    }
}

impl AppendEntries {
    fn encode(&self, out: &mut Writer) {
        put(out, 5, &[self.term.0, self.prev_log_index.0, self.prev_log_term.0, self.leader_commit.0]);
        out.list(self.entries.iter(), |out, entry| out.byte_string(entry.encoded()));
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let (term, prev_log_index) = (Term(bytes.u64()?), LogIndex(bytes.u64()?));
        let (prev_log_term, leader_commit) = (Term(bytes.u64()?), LogIndex(bytes.u64()?));
        let entries = bytes.list(|bytes| Entry::decode(bytes.byte_string("entry", MAX_ENTRY_BYTES)?))?;
        let message = Self { term, prev_log_index, prev_log_term, entries, leader_commit };
        if message.is_contiguous() { Ok(message) } else { Err(DecodeError::Invalid("order of entries")) }
    }

    /// Whether the entries follow `prev_log_index` without a gap, with terms that never fall
    /// within them and never exceed the leader's.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        let (mut index, mut term) = (self.prev_log_index.0, self.prev_log_term);
        self.entries.iter().all(|entry| {
            let follows = index.checked_add(1) == Some(entry.index.0) && entry.term >= term;
            (index, term) = (entry.index.0, entry.term);
            follows
        }) && term <= self.term
    }
}

impl AppendEntriesResponse {
    fn encode(&self, out: &mut Writer) {
        put(out, 6, &[self.term.0]);
        match self.result {
            AppendResult::Match { match_index } => put(out, 0, &[match_index.0]),
            AppendResult::Conflict { prev_log_index, hint_index, hint_term } => {
                put(out, 1, &[prev_log_index.0, hint_index.0, hint_term.0]);
            }
        }
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let term = Term(bytes.u64()?);
        let result = match bytes.u8()? {
            0 => AppendResult::Match { match_index: LogIndex(bytes.u64()?) },
            1 => AppendResult::Conflict {
                prev_log_index: LogIndex(bytes.u64()?),
                hint_index: LogIndex(bytes.u64()?),
                hint_term: Term(bytes.u64()?),
            },
            tag => return Err(DecodeError::UnknownTag { what: "append result", tag }),
        };
        Ok(Self { term, result })
    }
}

impl InstallSnapshot {
    fn encode(&self, out: &mut Writer) {
        put(out, 13, &[self.term.0]);
        self.snapshot.encode(out);
        out.u64(self.offset);
        out.byte_string(&self.chunk);
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let (term, snapshot) = (Term(bytes.u64()?), SnapshotId::decode(bytes)?);
        let (offset, chunk) = (bytes.u64()?, bytes.byte_string("chunk", MAX_SNAPSHOT_CHUNK_BYTES)?);
        let is_inside = snapshot.has_chunk(offset, chunk.len());
        let is_of_its_time = snapshot.term <= term || term == Term::ZERO;
        let message = Self { term, snapshot, offset, chunk };
        if is_inside && is_of_its_time {
            Ok(message)
        } else {
            Err(DecodeError::Invalid("chunk of a snapshot"))
        }
    }
}

impl InstallSnapshotResponse {
    fn encode(&self, out: &mut Writer) {
        put(out, 14, &[self.term.0]);
        self.snapshot.encode(out);
        match self.result {
            InstallResult::Received { offset } => put(out, 0, &[offset]),
            InstallResult::Installed => out.u8(1),
        }
    }

    fn decode(bytes: &mut Reader) -> Result<Self, DecodeError> {
        let (term, snapshot) = (Term(bytes.u64()?), SnapshotId::decode(bytes)?);
        let result = match bytes.u8()? {
            0 => InstallResult::Received { offset: bytes.u64()? },
            1 => InstallResult::Installed,
            tag => return Err(DecodeError::UnknownTag { what: "install result", tag }),
        };
        Ok(Self { term, snapshot, result })
    }
}

/// A message and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The receiver.
    pub to: NodeId,
    /// What it gets.
    pub message: Message,
}
