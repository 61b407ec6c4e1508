//! A core of one of five nodes that is told anything by anybody: it does not panic, its invariants
//! hold in every state, and what only rises rises.

use bytes::Bytes;
use kvstore::raft::invariants::{View, check, check_step};
use kvstore::raft::{Config, LogBounds, Raft};
use kvstore::time::{Duration, Instant};
use kvstore::types::{ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Term};
use kvstore::wire::Writer;
use kvstore::wire::client::RoleName;
use kvstore::wire::entry::{Configuration, Entry, HardState, Member, Payload, SnapshotId};
use kvstore::wire::peer::{
    AppendEntries, AppendEntriesResponse, AppendResult, Heartbeat, HeartbeatResponse, InstallResult,
    InstallSnapshot, InstallSnapshotResponse, Message, PreVote, PreVoteResponse, ReadIndex,
    ReadIndexResponse, RequestVote, RequestVoteResponse, TimeoutNow,
};

use super::source::Source;

const OWN: NodeId = NodeId(1);
/// Messages that this node sent, and that a friendly node may still answer.
const MAX_ASKED: usize = 16;

pub(crate) fn raft_step(data: &[u8]) {
    roles_taken(data);
}

/// In which roles the core was: a test may ask whether it came to all.
pub(crate) fn roles_taken(data: &[u8]) -> Vec<RoleName> {
    let mut roles = Vec::new();
    let mut source = Source::new(data);
    let members = (1..=5).map(|id| Member { id: NodeId(id), incarnation: Incarnation(id) }).collect();
    let configuration = Configuration::new(ClusterId(7), members).expect("distinct members");
    let founding =
        Entry::new(LogIndex(1), Term::ZERO, ClusterTime::ZERO, Payload::Configuration(configuration));
    let mut now = Instant::ZERO;
    let mut raft = Raft::new(Config::new(OWN, 1), HardState::default(), vec![founding], now);
    let mut asked: Vec<(NodeId, Message)> = Vec::new();
    while !source.is_empty() {
        let before = View::of(&raft);
        now += Duration::from_millis(u64::from(source.byte() % 20));
        act(&mut raft, now, &mut source, &mut asked);
        check(&raft);
        check_step(&before, &View::of(&raft));
        if !roles.contains(&raft.role_name()) {
            roles.push(raft.role_name());
        }
    }
    roles
}

fn act(raft: &mut Raft, now: Instant, source: &mut Source<'_>, asked: &mut Vec<(NodeId, Message)>) {
    let peer = NodeId(u64::from(source.byte() % 7));
    match source.choice(16) {
        0 => raft.tick(now),
        1 => raft.on_link_up(now, peer),
        2 => raft.on_link_down(now, peer),
        3 => raft.on_peer_dead(now, peer),
        4 => drop(raft.propose(ClusterTime::ZERO, Bytes::from_static(b"x"))),
        5 => raft.read_index(now.as_nanos()),
        6 => drop(raft.transfer_leadership(now, peer)),
        7 => drop(raft.resign(now)),
        8 | 9 => {
            let ready = raft.ready(now);
            let promised = raft.advance(now, ready.mark);
            let sent = ready.messages.into_iter().chain(promised);
            asked.extend(sent.map(|envelope| (envelope.to, envelope.message)));
            asked.drain(..asked.len().saturating_sub(MAX_ASKED));
            while raft.next_to_apply().is_some() {}
            drop(raft.take_snapshot_inputs());
            if let Some(snapshot) = raft.next_snapshot().filter(|_| source.choice(4) == 0) {
                raft.on_snapshot_saved(snapshot);
                raft.compact(4, LogBounds { trailing_bytes: 0, max_bytes: 0 });
            }
        }
        10 | 11 if !asked.is_empty() => {
            let (from, question) = asked.swap_remove(source.choice(asked.len()));
            if let Some(answer) = fair_answer(&question) {
                raft.step(now, from, answer);
            }
        }
        12 => {
            let bytes = usize::from(source.byte());
            if let Ok(message) = Message::decode(Bytes::copy_from_slice(source.bytes(bytes))) {
                raft.step(now, peer, message);
            }
        }
        _ => {
            if let Some(message) = over_the_wire(&message(raft, source)) {
                raft.step(now, peer, message);
            }
        }
    }
}

/// What would come out of the wire: a message that cannot be decoded never reaches a core.
fn over_the_wire(message: &Message) -> Option<Message> {
    let mut out = Writer::new();
    message.encode(&mut out);
    Message::decode(out.into_bytes()).ok()
}

/// What a friendly node would answer, so that every role is reached.
fn fair_answer(question: &Message) -> Option<Message> {
    Some(match question {
        Message::PreVote(m) => {
            Message::PreVoteResponse(PreVoteResponse { term: m.term, round: m.round, vote_granted: true })
        }
        Message::RequestVote(m) => {
            Message::RequestVoteResponse(RequestVoteResponse { term: m.term, vote_granted: true })
        }
        Message::Heartbeat(m) => {
            Message::HeartbeatResponse(HeartbeatResponse { term: m.term, round: m.round })
        }
        Message::AppendEntries(m) => {
            let match_index = m.prev_log_index.plus(m.entries.len() as u64);
            let result = AppendResult::Match { match_index };
            Message::AppendEntriesResponse(AppendEntriesResponse { term: m.term, result })
        }
        Message::ReadIndex(m) => Message::ReadIndexResponse(ReadIndexResponse {
            term: m.term,
            request: m.request,
            read_index: Some(LogIndex(1)),
        }),
        _ => return None,
    })
}

fn message(raft: &Raft, source: &mut Source<'_>) -> Message {
    let last = raft.log().last();
    let choice = source.choice(14);
    let term = Term(source.number(raft.term().0));
    let (index, index_term) = (LogIndex(source.number(last.index.0)), Term(source.number(last.term.0)));
    let (number, flag) = (source.number(3), source.flag());
    match choice {
        0 => Message::PreVote(PreVote {
            term,
            last_log_index: index,
            last_log_term: index_term,
            round: number,
        }),
        1 => Message::PreVoteResponse(PreVoteResponse { term, round: number, vote_granted: flag }),
        2 => Message::RequestVote(RequestVote {
            term,
            last_log_index: index,
            last_log_term: index_term,
            leadership_transfer: flag,
        }),
        3 => Message::RequestVoteResponse(RequestVoteResponse { term, vote_granted: flag }),
        4 | 5 => {
            let known = raft.log().term_at(index).filter(|_| flag);
            Message::AppendEntries(AppendEntries {
                term,
                prev_log_index: index,
                prev_log_term: known.unwrap_or(index_term),
                entries: entries(index, term, source),
                leader_commit: LogIndex(source.number(last.index.0)),
            })
        }
        6 => {
            let (hint_index, hint_term) = (LogIndex(source.number(last.index.0)), index_term);
            let result = match flag {
                true => AppendResult::Match { match_index: index },
                false => AppendResult::Conflict { prev_log_index: index, hint_index, hint_term },
            };
            Message::AppendEntriesResponse(AppendEntriesResponse { term, result })
        }
        7 => Message::Heartbeat(Heartbeat { term, commit: index, round: number }),
        8 => Message::HeartbeatResponse(HeartbeatResponse { term, round: number }),
        9 => Message::ReadIndex(ReadIndex { term, request: number }),
        10 => {
            let read_index = flag.then_some(index);
            Message::ReadIndexResponse(ReadIndexResponse { term, request: number, read_index })
        }
        11 => {
            let (offset, chunk) = (source.number(0), Bytes::from_static(b"chunk"));
            let snapshot = SnapshotId { index, term: index_term, bytes: source.number(9000), checksum: 1 };
            Message::InstallSnapshot(InstallSnapshot { term, snapshot, offset, chunk })
        }
        12 => {
            let snapshot = SnapshotId { index, term: index_term, bytes: 9000, checksum: 1 };
            let received = InstallResult::Received { offset: source.number(0) };
            let result = if flag { InstallResult::Installed } else { received };
            Message::InstallSnapshotResponse(InstallSnapshotResponse { term, snapshot, result })
        }
        _ => Message::TimeoutNow(TimeoutNow { term }),
    }
}

fn entries(prev: LogIndex, term: Term, source: &mut Source<'_>) -> Vec<Entry> {
    let count = source.choice(4) as u64;
    let entry = |offset| {
        let index = prev.0.checked_add(offset)?;
        let entry_term = Term(source.number(term.0).min(term.0));
        let stamp = ClusterTime(source.number(0));
        let payload = match source.flag() {
            true => Payload::NoOp { leader: NodeId(source.number(1)) },
            false => Payload::Command(Bytes::from_static(b"x")),
        };
        Some(Entry::new(LogIndex(index), entry_term, stamp, payload))
    };
    (1..=count).map_while(entry).collect()
}
