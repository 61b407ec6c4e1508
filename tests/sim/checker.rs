//! What must hold of a whole cluster, looked at after every turn of every node.
//!
//! The checker keeps its own books. For each node it mirrors the log in memory and the part of it
//! that was synced, as hashes that run along the log; it learns of them from outside, by what the
//! replica shows and by how often the disk was synced before a message left. It knows all votes and
//! acknowledgements that ever left a node, all leaders, and the one history that was committed,
//! which it applies to a state machine and to a plain model of its own ([`super::reference`]).

use std::collections::BTreeMap;

use kvstore::raft::Raft;
use kvstore::raft::invariants::{self, View};
use kvstore::replica::Replica;
use kvstore::storage::Recovered;
use kvstore::types::{BootNumber, LogIndex, NodeId, Revision, Term};
use kvstore::wire::client::{ResponseBody, RoleName};
use kvstore::wire::entry::HardState;
use kvstore::wire::peer::{AppendResult, InstallResult, Message};

use super::disk::SimDisk;
use super::mirror::{Mirror, Positions, Torn};
use super::node::{Sent, TurnEffects, id_of};
use super::reference::Reference;
use super::transfers::Transfers;

/// Breaks off the run: a rule is violated. The name of the rule stands first.
macro_rules! violated {
    ($rule:literal, $($explanation:tt)+) => {
        panic!("[{}] {}", $rule, format_args!($($explanation)+))
    };
}
pub(crate) use violated;

/// The cluster's books.
pub(crate) struct Checker {
    nodes: Vec<NodeBooks>,
    /// Running hash of the log at each position that any node ever had.
    positions: BTreeMap<(u64, Term), u64>,
    leaders: BTreeMap<Term, usize>,
    /// The process that led each term.
    pub(crate) led_by: BTreeMap<Term, u64>,
    votes: BTreeMap<(usize, Term), NodeId>,
    /// The last round of a term that a node answered.
    rounds: BTreeMap<(usize, Term), u64>,
    /// The committed history, and the term in which each commit was first seen.
    committed: Positions,
    committed_in: Vec<Term>,
    pub(crate) reference: Reference,
    pub(crate) transfers: Transfers,
}

/// What is known of one node, over all its boots.
struct NodeBooks {
    mirror: Mirror,
    view: Option<View>,
    boot: BootNumber,
    /// The last turn failed.
    torn: Option<Torn>,
    /// The index of its last snapshot, as far as it says.
    snapshot: LogIndex,
}

impl Checker {
    pub(crate) fn new(nodes: usize, reference: Reference) -> Self {
        let books = || NodeBooks {
            mirror: Mirror::default(),
            view: None,
            boot: BootNumber(0),
            torn: None,
            snapshot: LogIndex::ZERO,
        };
        Self {
            nodes: (0..nodes).map(|_| books()).collect(),
            positions: BTreeMap::new(),
            leaders: BTreeMap::new(),
            led_by: BTreeMap::new(),
            votes: BTreeMap::new(),
            rounds: BTreeMap::new(),
            committed: Positions::new(),
            committed_in: Vec::new(),
            reference,
            transfers: Transfers::default(),
        }
    }

    /// How many leaders there were.
    pub(crate) fn leader_count(&self) -> usize {
        self.leaders.len()
    }

    /// The last index known to be committed.
    pub(crate) fn committed_index(&self) -> u64 {
        self.committed.len() as u64
    }

    /// Whether every disk has the founding.
    pub(crate) fn is_founded_everywhere(&self) -> bool {
        self.nodes.iter().all(|books| books.mirror.durable_hash(1).is_some())
    }

    fn quorum(&self) -> usize {
        self.nodes.len() / 2 + 1
    }

    /// A process started: its disk gave back what it was trusted with, or what was being written.
    pub(crate) fn on_start(&mut self, node: usize, recovered: &Recovered) {
        let books = &mut self.nodes[node];
        if recovered.boot <= books.boot {
            violated!("boots rise", "node {} boots as {} after {}", node + 1, recovered.boot, books.boot);
        }
        books.boot = recovered.boot;
        books.view = None;
        let torn = books.torn.take();
        if let Err(difference) = books.mirror.recover(recovered, &self.committed, torn) {
            violated!("synced is kept", "node {}: {difference}", node + 1);
        }
        let snapshot = recovered.snapshot.as_ref().map_or(LogIndex::ZERO, |found| found.snapshot.index);
        if snapshot < books.snapshot {
            violated!(
                "a snapshot is durable before it counts",
                "node {}: snapshot {snapshot} after {}",
                node + 1,
                books.snapshot
            );
        }
        books.snapshot = snapshot;
    }

    /// A disk with damage was taken for a sound one: then nothing may be missing on it.
    pub(crate) fn check_whole(&self, node: usize, recovered: &Recovered, damage: &str) {
        if let Err(difference) = self.nodes[node].mirror.compare(recovered, &self.committed) {
            violated!("damage is refused", "node {}, {damage}: {difference}", node + 1);
        }
    }

    /// A turn was taken. Gives whether the node has a new snapshot.
    pub(crate) fn on_turn(&mut self, node: usize, replica: &Replica<SimDisk>, effects: &TurnEffects) -> bool {
        let raft = replica.raft();
        invariants::check(raft);
        let view = View::of(raft);
        let before = self.nodes[node].view.replace(view.clone());
        if let Some(before) = &before {
            invariants::check_step(before, &view);
            self.check_counting(node, before, &view);
        }
        let is_installed = self.update_log(node, raft);
        effects.late_sends.iter().for_each(|message| self.note_round(node, message));
        self.nodes[node].mirror.hard_state = raft.hard_state();
        for sent in effects.sends.iter().filter(|sent| !sent.after_log) {
            self.check_send(node, sent);
        }
        // A turn that fails may have got past its sync; then it must be held to it.
        let is_past = effects.sends.iter().any(|sent| sent.after_log)
            || effects.log_syncs > 0 && self.nodes[node].mirror.is_news(raft.log().stable());
        if effects.failed.is_none() && effects.log_syncs > 0 || is_past {
            self.nodes[node].mirror.on_synced(raft.log().stable());
        }
        let log = (!is_past).then_some(raft.log().stable());
        self.nodes[node].torn = effects.failed.is_some().then_some(Torn { log });
        for sent in effects.sends.iter().filter(|sent| sent.after_log) {
            self.check_send(node, sent);
        }
        self.check_leader(node, raft, before.as_ref());
        self.check_counted(node, raft);
        if effects.failed.is_some() && raft.log().committed() <= LogIndex(1) {
            return false; // the founding did not take place
        }
        self.check_commit(node, raft);
        self.check_state(node, replica);
        for reply in &effects.replies {
            let (_, response) = &reply.what;
            let is_write = matches!(response.body, ResponseBody::Written { .. });
            self.check_answer(node, response.revision, is_write);
        }
        check_caps(node, replica);
        self.note_snapshot(node, raft, is_installed)
    }

    /// Notes a node's last snapshot. Gives whether it is new.
    fn note_snapshot(&mut self, node: usize, raft: &Raft, is_installed: bool) -> bool {
        let index = raft.snapshot().map_or(LogIndex::ZERO, |snapshot| snapshot.index);
        let is_new = std::mem::replace(&mut self.nodes[node].snapshot, index) != index;
        if is_new {
            self.transfers.on_snapshot(is_installed);
        }
        is_new
    }

    /// Log Matching: "if two logs contain an entry with the same index and term, then the logs are
    /// identical in all entries up through the given index".
    ///
    /// Gives whether a snapshot took the place of the log; then it is durable.
    fn update_log(&mut self, node: usize, raft: &Raft) -> bool {
        let Self { nodes, positions, committed, .. } = self;
        let mirror = &mut nodes[node].mirror;
        let updated = mirror.update(raft.log(), committed, |index, term, hash| {
            let known = positions.entry((index, term)).or_insert(hash);
            if index == 1 && committed.is_empty() {
                *known = hash; // a founding that reached no disk is tried again, with another id
            }
            if *known != hash {
                violated!("log matching", "node {}: entry {index} of term {term} is another", node + 1);
            }
        });
        let is_installed = updated.unwrap_or_else(|difference| {
            violated!("snapshots hold what is committed", "node {}: {difference}", node + 1)
        });
        if is_installed {
            mirror.on_log_synced(raft.log().base().index);
        }
        is_installed
    }

    /// No promise leaves before the disk has it, and no vote is given twice.
    fn check_send(&mut self, node: usize, sent: &Sent<(usize, Message)>) {
        let (to, message) = &sent.what;
        self.note_round(node, message);
        let durable = self.nodes[node].mirror.durable_hard_state;
        // A request for a read index promises nothing.
        let is_promise = !matches!(message, Message::ReadIndex(_));
        if is_promise && message.term().is_some_and(|term| term > durable.term) {
            violated!(
                "terms are durable before they are spoken of",
                "node {} with durable term {} sends {message:?}",
                node + 1,
                durable.term
            );
        }
        match message {
            Message::RequestVote(request) => self.check_vote(node, request.term, id_of(node), durable),
            Message::RequestVoteResponse(response) if response.vote_granted => {
                self.check_vote(node, response.term, id_of(*to), durable);
            }
            Message::AppendEntriesResponse(response) => {
                if let AppendResult::Match { match_index } = response.result {
                    self.check_acknowledgement(node, *to, response.term, match_index);
                }
            }
            Message::InstallSnapshot(chunk) => self.transfers.on_chunk(node, *to, chunk),
            Message::InstallSnapshotResponse(response) if response.result == InstallResult::Installed => {
                self.check_acknowledgement(node, *to, response.term, response.snapshot.index);
                self.transfers.on_installed(node);
            }
            _ => {}
        }
    }

    fn note_round(&mut self, node: usize, message: &Message) {
        if let Message::HeartbeatResponse(answer) = message {
            let last = self.rounds.entry((node, answer.term)).or_insert(0);
            *last = (*last).max(answer.round);
        }
    }

    fn check_vote(&mut self, node: usize, term: Term, candidate: NodeId, durable: HardState) {
        let first = *self.votes.entry((node, term)).or_insert(candidate);
        if first != candidate {
            violated!(
                "one vote a term",
                "node {} votes for {candidate} in term {term}, after {first}",
                node + 1
            );
        }
        let is_stored = durable == HardState { term, voted_for: Some(candidate) };
        if !is_stored {
            violated!(
                "votes are durable before they are given",
                "node {} votes for {candidate} in term {term}, its disk has {durable:?}",
                node + 1
            );
        }
    }

    fn check_acknowledgement(&mut self, node: usize, leader: usize, term: Term, match_index: LogIndex) {
        let mirror = &self.nodes[node].mirror;
        if mirror.durable_hash(match_index.0) != mirror.hash(match_index.0) || !mirror.holds(match_index.0) {
            violated!(
                "entries are durable before they are acknowledged",
                "node {} acknowledges {match_index}",
                node + 1
            );
        }
        // One that crashed may have lost what it sent before its own disk had it.
        let is_leader = |view: &View| view.term == term && view.role == RoleName::Leader;
        if self.nodes[leader].view.as_ref().is_some_and(is_leader)
            && self.nodes[leader].mirror.hash(match_index.0) != mirror.hash(match_index.0)
        {
            violated!(
                "acknowledged entries are the leader's",
                "node {} acknowledges {match_index} to node {} in term {term}",
                node + 1,
                leader + 1
            );
        }
    }

    /// Election Safety: "at most one leader can be elected in a given term". Leader Completeness:
    /// "if a log entry is committed in a given term, then that entry will be present in the logs of
    /// the leaders for all higher-numbered terms".
    fn check_leader(&mut self, node: usize, raft: &Raft, before: Option<&View>) {
        if raft.role_name() != RoleName::Leader {
            return;
        }
        let term = raft.term();
        let first = *self.leaders.entry(term).or_insert(node);
        if first != node {
            violated!("election safety", "nodes {} and {} lead term {term}", first + 1, node + 1);
        }
        let led_before = before.is_some_and(|view| view.role == RoleName::Leader && view.term == term);
        if led_before {
            return;
        }
        let before_term = self.committed_in.iter().rposition(|committed_in| *committed_in < term);
        if let Some(position) = before_term {
            let index = position as u64 + 1;
            if self.nodes[node].mirror.hash(index) != Some(self.committed[position].1) {
                violated!("leader completeness", "node {} leads term {term} without {index}", node + 1);
            }
        }
    }

    /// What a leader counts of its followers is so: their disks have its log as far as it believes
    /// (until they hear of a later term), and they answered the rounds that it takes for answered.
    fn check_counted(&self, node: usize, raft: &Raft) {
        let own = &self.nodes[node].mirror;
        for (peer, books) in self.nodes.iter().enumerate().filter(|(peer, _)| *peer != node) {
            let Some((matched, round)) = invariants::counted_of(raft, id_of(peer)) else { continue };
            let is_of_term = books.mirror.hard_state.term <= raft.term();
            if matched.0 > 0 && is_of_term && books.mirror.durable_hash(matched.0) != own.hash(matched.0) {
                violated!(
                    "what a leader counts is so",
                    "node {} counts {matched} on node {}, whose disk has another log",
                    node + 1,
                    peer + 1
                );
            }
            let answered = self.rounds.get(&(peer, raft.term())).copied().unwrap_or(0);
            if round > answered {
                violated!(
                    "what a leader counts is so",
                    "node {} takes round {round} for answered by node {}, which answered {answered}",
                    node + 1,
                    peer + 1
                );
            }
        }
    }

    /// "Only log entries from the leader's current term are committed by counting replicas"
    /// (section 5.4.2).
    fn check_counting(&self, node: usize, before: &View, after: &View) {
        let led = before.role == RoleName::Leader && after.role == RoleName::Leader;
        let is_counted = led && before.term == after.term && before.committed < after.committed;
        if is_counted && after.committed_term != Some(after.term) {
            violated!(
                "only entries of the own term are counted",
                "node {} in term {} commits {} of term {:?}",
                node + 1,
                after.term,
                after.committed,
                after.committed_term
            );
        }
    }

    /// State Machine Safety: nobody ever commits another entry at an index. And what is committed
    /// is on a majority of disks.
    fn check_commit(&mut self, node: usize, raft: &Raft) {
        let known = self.committed_index();
        let committed = raft.log().committed().0;
        let common = known.min(committed);
        let mirror = &self.nodes[node].mirror;
        if common > 0 && mirror.hash(common) != Some(self.committed[common as usize - 1].1) {
            violated!("committed entries never change", "node {} has another entry {common}", node + 1);
        }
        for index in known + 1..=committed {
            let entry = raft.log().entry(LogIndex(index));
            let entry = entry.expect("what was just committed is in no snapshot yet");
            let hash = self.nodes[node].mirror.hash(index).expect("the mirror has all of it");
            self.committed.push((entry.term, hash));
            self.committed_in.push(raft.term());
            self.reference.apply(entry);
        }
        if committed > known.max(1) {
            let copies = self.durable_copies(committed);
            if copies < self.quorum() {
                violated!(
                    "committed is on a quorum of disks",
                    "node {} commits {committed}, which {copies} disks have",
                    node + 1
                );
            }
        }
    }

    fn durable_copies(&self, index: u64) -> usize {
        let hash = Some(self.committed[index as usize - 1].1);
        self.nodes.iter().filter(|books| books.mirror.durable_hash(index) == hash).count()
    }

    /// Same index, same state: data, sessions and all.
    fn check_state(&self, node: usize, replica: &Replica<SimDisk>) {
        let Revision(revision) = replica.state().revision();
        if revision != replica.raft().log().applied().0 {
            violated!("the state follows the log", "node {} is at {revision}", node + 1);
        }
        if self.reference.digest_at(revision) != replica.state().digest() {
            violated!("same index, same state", "node {} differs at {revision}", node + 1);
        }
    }

    /// What is acknowledged is durable on a majority; nobody speaks of what is not committed.
    fn check_answer(&self, node: usize, revision: Revision, is_write: bool) {
        if revision.0 > self.committed_index() {
            violated!("answers tell what is committed", "node {} answers at {revision}", node + 1);
        }
        if is_write && revision.0 > 1 && self.durable_copies(revision.0) < self.quorum() {
            violated!("acknowledged is durable on a quorum", "node {} acknowledges {revision}", node + 1);
        }
    }
}

fn check_caps(node: usize, replica: &Replica<SimDisk>) {
    let raft = replica.raft();
    // One entry may be taken when there is any room at all.
    let slack = kvstore::wire::entry::MAX_ENTRY_BYTES;
    let used = raft.log().uncommitted_bytes();
    let is_leader = raft.role_name() == RoleName::Leader;
    if is_leader && used > raft.config().max_uncommitted_bytes + slack {
        violated!("caps", "node {} holds {used} uncommitted bytes", node + 1);
    }
    for bound in replica.state().bounds() {
        if bound.used > bound.cap {
            violated!("caps", "node {}: {} is {} of {}", node + 1, bound.name, bound.used, bound.cap);
        }
    }
}
