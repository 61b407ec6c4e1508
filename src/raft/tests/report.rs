//! The words of the referee's report.

use crate::raft::{Event, Raft, ReadState, Ready};
use crate::types::{LogIndex, NodeId, Term};
use crate::wire::client::RoleName;
use crate::wire::entry::{Entry, HardState, Payload};
use crate::wire::peer::{AppendResult, InstallResult, Message};

/// What of a node is told when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    role: RoleName,
    hard_state: HardState,
    leader: Option<NodeId>,
    entries: Vec<Entry>,
    committed: LogIndex,
    transferring_to: Option<NodeId>,
}

impl Snapshot {
    pub(super) fn of(raft: &Raft) -> Self {
        let log = raft.log();
        let indexes = log.first_index().0..=log.last_index().0;
        Self {
            role: raft.role_name(),
            hard_state: raft.hard_state(),
            leader: raft.leader(),
            entries: indexes.filter_map(|index| log.entry(LogIndex(index)).cloned()).collect(),
            committed: log.committed(),
            transferring_to: raft.transferring_to(),
        }
    }
}

/// What changed, or nothing.
pub(super) fn changes(before: &Snapshot, after: &Snapshot) -> Option<String> {
    let mut parts = Vec::new();
    if before.hard_state.term != after.hard_state.term {
        parts.push(format!("term {} -> {}", before.hard_state.term, after.hard_state.term));
    }
    if before.role != after.role {
        parts.push(format!("{} -> {}", role(before.role), role(after.role)));
    }
    match after.hard_state.voted_for {
        Some(vote) if before.hard_state != after.hard_state => parts.push(format!("votes for n{vote}")),
        _ => {}
    }
    match after.leader.filter(|_| after.role == RoleName::Follower) {
        Some(leader) if before.leader != after.leader => parts.push(format!("follows n{leader}")),
        None if before.leader.is_some() && before.role == RoleName::Follower => {
            parts.push(format!("follows n{} no more", before.leader.unwrap_or_default()));
        }
        _ => {}
    }
    log_changes(&mut parts, &before.entries, &after.entries);
    if before.committed != after.committed {
        parts.push(format!("commit {} -> {}", before.committed, after.committed));
    }
    match (before.transferring_to, after.transferring_to) {
        (None, Some(to)) => parts.push(format!("begins to hand over to n{to}")),
        (Some(to), None) => parts.push(format!("hands over to n{to} no more")),
        _ => {}
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn log_changes(parts: &mut Vec<String>, before: &[Entry], after: &[Entry]) {
    let same = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    if same < before.len() {
        parts.push(format!("removes {}", entries(&before[same..])));
    }
    if same < after.len() {
        parts.push(format!("appends {}", entries(&after[same..])));
    }
}

pub(super) fn role(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "pre-candidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
        RoleName::Learner => "learner",
    }
}

/// `[2@1 3@1=x]`: index, term, and the command if it is one.
pub(super) fn entries(entries: &[Entry]) -> String {
    let words: Vec<String> = entries.iter().map(entry).collect();
    format!("[{}]", words.join(" "))
}

fn entry(entry: &Entry) -> String {
    let position = format!("{}@{}", entry.index, entry.term);
    match &entry.payload {
        Payload::NoOp { .. } => position,
        Payload::Configuration(_) => format!("{position}=members"),
        Payload::Command(command) => format!("{position}={}", String::from_utf8_lossy(command)),
    }
}

/// A batch on its way to the disk, or nothing.
pub(super) fn write(ready: &Ready) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(HardState { term, voted_for }) = ready.hard_state {
        let vote = voted_for.map_or("-".to_owned(), |id| format!("n{id}"));
        parts.push(format!("term={term} vote={vote}"));
    }
    if !ready.entries.is_empty() {
        parts.push(entries(&ready.entries));
    }
    (!parts.is_empty()).then(|| parts.join(" "))
}

pub(super) fn message(message: &Message) -> String {
    let position = |index: LogIndex, term: Term| format!("{index}@{term}");
    match message {
        Message::PreVote(m) => {
            format!("PreVote term={} last={}", m.term, position(m.last_log_index, m.last_log_term))
        }
        Message::PreVoteResponse(m) => format!("PreVoteResponse term={} {}", m.term, vote(m.vote_granted)),
        Message::RequestVote(m) => {
            let last = position(m.last_log_index, m.last_log_term);
            let mark = if m.leadership_transfer { " hand-over" } else { "" };
            format!("RequestVote term={} last={last}{mark}", m.term)
        }
        Message::RequestVoteResponse(m) => {
            format!("RequestVoteResponse term={} {}", m.term, vote(m.vote_granted))
        }
        Message::AppendEntries(m) => {
            let prev = position(m.prev_log_index, m.prev_log_term);
            let entries = entries(&m.entries);
            format!("AppendEntries term={} prev={prev} {entries} commit={}", m.term, m.leader_commit)
        }
        Message::AppendEntriesResponse(m) => match m.result {
            AppendResult::Match { match_index } => {
                format!("AppendEntriesResponse term={} match={match_index}", m.term)
            }
            AppendResult::Conflict { prev_log_index, hint_index, hint_term } => {
                let hint = position(hint_index, hint_term);
                format!("AppendEntriesResponse term={} conflict={prev_log_index} hint={hint}", m.term)
            }
        },
        Message::Heartbeat(m) => format!("Heartbeat term={} round={} commit={}", m.term, m.round, m.commit),
        Message::HeartbeatResponse(m) => format!("HeartbeatResponse term={} round={}", m.term, m.round),
        Message::ReadIndex(m) => format!("ReadIndex term={}", m.term),
        Message::ReadIndexResponse(m) => match m.read_index {
            Some(index) => format!("ReadIndexResponse term={} index={index}", m.term),
            None => format!("ReadIndexResponse term={} refused", m.term),
        },
        Message::TimeoutNow(m) => format!("TimeoutNow term={}", m.term),
        Message::InstallSnapshot(m) => {
            let (index, term) = (m.snapshot.index, m.snapshot.term);
            format!("InstallSnapshot term={} {index}@{term} offset={}", m.term, m.offset)
        }
        Message::InstallSnapshotResponse(m) => {
            let (index, snapshot) = (m.snapshot.index, m.snapshot.term);
            let result = match m.result {
                InstallResult::Received { offset } => format!("received={offset}"),
                InstallResult::Installed => "installed".to_owned(),
            };
            format!("InstallSnapshotResponse term={} {index}@{snapshot} {result}", m.term)
        }
        Message::Found(_) => "Found".to_owned(),
        Message::Standing(_) => "Standing".to_owned(),
    }
}

fn vote(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}

pub(super) fn event(event: &Event) -> String {
    match event {
        Event::ElectionStarted { term, cause } => {
            format!("election started, term={term} ({})", cause.as_str())
        }
        Event::Elected { term, timeline, .. } => {
            format!("elected leader, term={term} ({})", timeline.cause.as_str())
        }
        Event::NewLeader { leader, term } => format!("new leader n{leader}, term={term}"),
        Event::SteppingDown { from, to } => format!("stepping down, term {from} -> {to}"),
        Event::ProtocolViolation { from, what } => format!("n{from} broke the protocol: {what}"),
    }
}

pub(super) fn read(read: &ReadState) -> String {
    match read.read_index {
        Some(index) => format!("may read at {index} (read {})", read.batch),
        None => format!("must ask again (read {})", read.batch),
    }
}
