//! What Raft promises of a whole cluster (the paper's Figure 3), checked after every call.

use std::collections::BTreeMap;

use super::cluster::{Disk, Node};
use crate::raft::invariants::View;
use crate::raft::{Raft, ReadState};
use crate::types::{LogIndex, NodeId, Term};
use crate::wire::client::RoleName;
use crate::wire::entry::{Entry, HardState};
use crate::wire::peer::{AppendResult, Message};

/// Everything that was ever true anywhere in the cluster and must stay so.
#[derive(Debug, Default)]
pub(super) struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    /// Each entry that was ever in a log, with the term of the one before it.
    entries: BTreeMap<(LogIndex, Term), (Term, Entry)>,
    /// The committed log, as the first node to commit each entry had it.
    committed: Vec<Entry>,
    /// Every vote that was ever sent, requests by which a node votes for itself among them.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Reads without an answer, with the index that each must reflect.
    reads: BTreeMap<u64, (NodeId, LogIndex)>,
    last_batch: u64,
    /// A message was forged: what only honest clusters promise is not expected any more.
    pub(super) is_forged: bool,
    pub(super) reads_answered: u64,
    pub(super) elections: u64,
}

impl Checks {
    /// The highest index that is committed anywhere.
    pub(super) fn committed_index(&self) -> LogIndex {
        LogIndex(self.committed.len() as u64)
    }

    pub(super) fn open_reads(&self, id: NodeId) -> usize {
        self.reads.values().filter(|(reader, _)| *reader == id).count()
    }

    pub(super) fn on_read_registered(&mut self, id: NodeId) -> u64 {
        self.last_batch += 1;
        self.reads.insert(self.last_batch, (id, self.committed_index()));
        self.last_batch
    }

    /// Its reads died with its process.
    pub(super) fn on_crash(&mut self, id: NodeId) {
        self.reads.retain(|_, (reader, _)| *reader != id);
    }

    /// "Linearizable reads" (section 8): a read reflects all that was committed when it was asked.
    pub(super) fn on_read_answered(&mut self, id: NodeId, read: ReadState) {
        let (reader, floor) = self.reads.remove(&read.batch).expect("each read is answered once");
        assert_eq!(reader, id, "read {} was answered to another node", read.batch);
        if let Some(read_index) = read.read_index {
            let floor = if self.is_forged { LogIndex::ZERO } else { floor };
            assert!(read_index >= floor, "read {} sees {read_index}, {floor} was committed", read.batch);
            self.reads_answered += 1;
        }
    }

    /// What a message promises must be on its sender's disk.
    pub(super) fn on_sent(&mut self, from: NodeId, disk: &Disk, message: &Message) {
        let HardState { term: durable, voted_for } = disk.hard_state;
        if let Some(term) = message.term() {
            assert!(term <= durable, "n{from} speaks in term {term}, term {durable} is durable: {message:?}");
        }
        match message {
            Message::RequestVote(m) => {
                assert_eq!((m.term, Some(from)), (durable, voted_for), "n{from} asks before its own vote");
            }
            Message::RequestVoteResponse(m) if m.vote_granted => {
                assert_eq!(m.term, durable, "n{from} grants a vote that is not durable");
                let vote = voted_for.expect("a granted vote is durable");
                let first = *self.votes.entry((from, m.term)).or_insert(vote);
                assert_eq!(first, vote, "n{from} votes twice in term {}", m.term);
            }
            Message::AppendEntriesResponse(m) => {
                if let AppendResult::Match { match_index } = m.result {
                    let held = disk.term_at(match_index).is_some() || match_index == LogIndex::ZERO;
                    assert!(held, "n{from} acknowledges {match_index}, which is not durable");
                }
            }
            _ => {}
        }
    }

    /// Compares a node with all that was true before.
    pub(super) fn observe(&mut self, nodes: &BTreeMap<NodeId, Node>, id: NodeId, before: &View) {
        let Some(raft) = nodes[&id].raft.as_ref().filter(|_| !self.is_forged) else { return };
        self.log_matching(id, raft, before.committed);
        self.state_machine_safety(nodes, id, raft);
        if raft.role_name() == RoleName::Leader && before.role != RoleName::Leader {
            self.elections += 1;
            self.election_safety(id, raft.term());
            self.leader_completeness(id, raft);
        }
    }

    /// "Election Safety: at most one leader can be elected in a given term."
    fn election_safety(&mut self, id: NodeId, term: Term) {
        let first = *self.leaders.entry(term).or_insert(id);
        assert_eq!(first, id, "two leaders in term {term}");
    }

    /// "Log Matching: if two logs contain an entry with the same index and term, then the logs are
    /// identical in all entries up through the given index." By induction: if what lies at an index
    /// and term, and the term before it, are the same in all logs, the whole prefix is.
    fn log_matching(&mut self, id: NodeId, raft: &Raft, from: LogIndex) {
        let log = raft.log();
        for index in from.0.max(1)..=log.last_index().0 {
            let entry = log.entry(LogIndex(index)).expect("a log has no holes");
            let before = log.term_at(LogIndex(index - 1)).expect("a log has no holes");
            let first =
                self.entries.entry((entry.index, entry.term)).or_insert_with(|| (before, entry.clone()));
            assert_eq!(*first, (before, entry.clone()), "n{id} has another entry {index}");
        }
    }

    /// "State Machine Safety: if a server has applied a log entry at a given index to its state
    /// machine, no other server will ever apply a different log entry for the same index." And
    /// whatever is committed first is on the disks of a majority.
    fn state_machine_safety(&mut self, nodes: &BTreeMap<NodeId, Node>, id: NodeId, raft: &Raft) {
        let log = raft.log();
        let known = self.committed_index().0;
        for index in known + 1..=log.committed().0 {
            let entry = log.entry(LogIndex(index)).expect("committed entries are held");
            self.committed.push(entry.clone());
        }
        if log.committed().0 > known.max(1) {
            let last = &self.committed[self.committed.len() - 1];
            let holds = |node: &&Node| node.disk.term_at(last.index) == Some(last.term);
            let count = nodes.values().filter(holds).count();
            assert!(count * 2 > nodes.len(), "n{id} commits {} on {count} disks", last.index);
        }
        // What lies below was compared when this node committed it, and does not change.
        let own = log.committed().0;
        for index in (own.saturating_sub(8).max(1)..=own).rev() {
            let first = &self.committed[usize::try_from(index - 1).unwrap()];
            assert_eq!(log.entry(LogIndex(index)), Some(first), "n{id} commits another entry {index}");
        }
    }

    /// "Leader Completeness: if a log entry is committed in a given term, then that entry will be
    /// present in the logs of the leaders for all higher-numbered terms."
    fn leader_completeness(&self, id: NodeId, raft: &Raft) {
        for entry in &self.committed {
            let own = raft.log().entry(entry.index);
            assert_eq!(own, Some(entry), "n{id} leads without the committed entry {}", entry.index);
        }
    }
}
