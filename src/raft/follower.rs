//! Followers: "respond to RPCs from candidates and leaders" (Figure 2).

use super::config::Config;
use super::core::Core;
use super::log::{Mismatch, Position};
use super::node::Transition;
use super::read_index::ForwardedReads;
use super::ready::{Cause, Event, ReadState};
use super::snapshots::SnapshotInput;
use crate::planted::{Bug, is_planted};
use crate::time::Instant;
use crate::types::NodeId;
use crate::wire::peer::{
    AppendEntries, AppendEntriesResponse, AppendResult, Heartbeat, HeartbeatResponse, InstallResult,
    InstallSnapshot, InstallSnapshotResponse, Message, PreVote, PreVoteResponse, ReadIndex,
    ReadIndexResponse, RequestVote, RequestVoteResponse,
};

/// A follower's own state.
///
/// Invariant: without a leader there is no link whose redial is waited for, no order to campaign,
/// and no read that waits for an answer.
#[derive(Debug)]
pub(super) struct Follower {
    /// The leader of the current term, if known.
    leader: Option<NodeId>,
    /// When a valid message of the leader was last accepted; before the first, when this node
    /// began to listen.
    heard_at: Instant,
    /// When to ask for an election.
    election_deadline: Instant,
    /// Why that would be.
    cause: Cause,
    /// The link to the leader is lost, and its redial undecided, until then at most.
    undecided_until: Option<Instant>,
    /// Pre-votes that wait for the decision.
    held: Vec<(NodeId, PreVote)>,
    /// The leader ordered this node to campaign; it is asked, by this round of pre-votes, whether it
    /// still means it.
    order: Option<u64>,
    reads: ForwardedReads,
}

impl Follower {
    /// A follower that begins to listen now, and heard a leader at `heard_at` for the last time.
    pub(super) fn new(core: &mut Core, now: Instant, heard_at: Instant) -> Self {
        Self {
            leader: None,
            heard_at,
            election_deadline: now + core.election_timeout(),
            cause: Cause::Timeout,
            undecided_until: None,
            held: Vec::new(),
            order: None,
            reads: ForwardedReads::default(),
        }
    }

    /// There may be a leader from now on. Before, nobody could have been heard, so that time is not
    /// counted as silence.
    pub(super) fn begin_to_wait(&mut self, core: &mut Core, now: Instant) {
        self.heard_at = now;
        self.election_deadline = now + core.election_timeout();
    }

    /// Asserts the invariant.
    pub(super) fn check(&self) {
        let waits = self.undecided_until.is_some() || self.order.is_some() || self.reads.asked_at().is_some();
        assert!(self.leader.is_some() || !waits, "without a leader nothing is waited for: {self:?}");
    }

    pub(super) fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    pub(super) fn cause(&self) -> Cause {
        self.cause
    }

    pub(super) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Whether this follower heard its leader so recently that it helps nobody to depose it.
    pub(super) fn is_loyal(&self, now: Instant, config: &Config) -> bool {
        self.leader.is_some() && now.since(self.heard_at) < config.election_min
    }

    /// Whether a pre-vote should wait: the link to the leader is lost, and soon it will be known
    /// whether the leader is dead.
    pub(super) fn is_undecided(&self) -> bool {
        self.undecided_until.is_some()
    }

    pub(super) fn hold(&mut self, from: NodeId, message: PreVote) {
        self.held.retain(|(candidate, _)| *candidate != from);
        self.held.push((from, message));
    }

    pub(super) fn next_deadline(&self, core: &Core) -> Instant {
        let retry = self.reads.asked_at().map_or(Instant::MAX, |asked| asked + core.read_retry());
        self.election_deadline.min(self.undecided_until.unwrap_or(Instant::MAX)).min(retry)
    }

    /// "If election timeout elapses without receiving AppendEntries RPC from current leader or
    /// granting vote to candidate: convert to candidate" (Figure 2), by way of a pre-vote.
    pub(super) fn tick(&mut self, now: Instant) -> Transition {
        if now >= self.election_deadline { Transition::PreCandidate(self.cause) } else { Transition::Stay }
    }

    /// This follower was a candidate until it learned of a later term: it goes on with the patience
    /// that was left, and with the cause.
    pub(super) fn resume(&mut self, election_deadline: Instant, cause: Cause) {
        self.election_deadline = election_deadline;
        self.cause = cause;
    }

    /// Takes the pre-votes that were held if the decision is made, or has taken too long.
    pub(super) fn take_decided(&mut self, now: Instant) -> Vec<(NodeId, PreVote)> {
        match self.undecided_until {
            Some(until) if now < until => Vec::new(),
            _ => {
                self.undecided_until = None;
                std::mem::take(&mut self.held)
            }
        }
    }

    /// The leader's bytes wait to be read: whatever they say, it is alive.
    pub(super) fn on_unread(&mut self, now: Instant, from: NodeId, config: &Config) {
        if self.leader == Some(from) {
            self.election_deadline = self.election_deadline.max(now + config.heartbeat);
        }
    }

    pub(super) fn on_link_down(&mut self, now: Instant, peer: NodeId) {
        if self.leader == Some(peer) {
            self.undecided_until = Some(now + Config::HOLD);
        }
    }

    /// Who has just introduced itself is alive. Its words may have been lost with a link that this
    /// one replaces; a leader speaks anew at once.
    pub(super) fn on_link_up(&mut self, now: Instant, peer: NodeId, config: &Config) {
        if self.leader == Some(peer) {
            self.undecided_until = None;
            self.on_unread(now, peer, config);
        }
    }

    /// Evidence that the leader's process is dead: forget it, and ask for an election at once, one
    /// survivor after the other.
    pub(super) fn on_peer_dead(&mut self, core: &mut Core, now: Instant, peer: NodeId) {
        if self.leader != Some(peer) {
            return;
        }
        self.forget_leader(core);
        let rank = core.rank_without(peer);
        self.election_deadline = self.election_deadline.min(now + core.config.stagger() * rank);
        self.cause = Cause::LostConnection;
    }

    /// There is no leader (any more). Reads that waited for it ask again.
    pub(super) fn forget_leader(&mut self, core: &mut Core) {
        self.leader = None;
        self.undecided_until = None;
        self.order = None;
        let unread = self.reads.abandon();
        core.reads.extend(unread.into_iter().map(|batch| ReadState { batch, read_index: None }));
    }

    /// A valid message of `from`, the leader of the current term, was accepted. Whatever spoke
    /// against it is void. False if it cannot be the leader.
    pub(super) fn follow(&mut self, core: &mut Core, now: Instant, from: NodeId) -> bool {
        match self.leader {
            Some(leader) if leader != from => return false,
            Some(_) => {}
            None => {
                self.leader = Some(from);
                self.reads.begin(core.numbers.read_request);
                core.events.push(Event::NewLeader { leader: from, term: core.term() });
            }
        }
        self.heard_at = now;
        self.election_deadline = now + core.election_timeout();
        self.cause = Cause::Timeout;
        self.undecided_until = None;
        true
    }

    /// Steps 2 to 5 of AppendEntries (Figure 2); step 1, the term, was seen to.
    pub(super) fn on_append_entries(&mut self, core: &mut Core, from: NodeId, message: AppendEntries) {
        let prev = Position { index: message.prev_log_index, term: message.prev_log_term };
        match core.log.splice(prev, message.entries) {
            Ok(match_index) => {
                // "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of
                // last new entry)": of this message's entries, since ours beyond them may be stale.
                let known =
                    if is_planted(Bug::OwnTailCommitted) { core.log.last_index() } else { match_index };
                core.commit_to(message.leader_commit.min(known));
                core.outbox.promise_match(from, core.term(), match_index);
            }
            Err(Mismatch::Conflict { hint }) => {
                let result = AppendResult::Conflict {
                    prev_log_index: prev.index,
                    hint_index: hint.index,
                    hint_term: hint.term,
                };
                let term = core.term();
                core.speak(from, Message::AppendEntriesResponse(AppendEntriesResponse { term, result }));
            }
            Err(Mismatch::Contradiction) => {
                core.violation(from, "entries that would change what is committed");
            }
        }
    }

    /// A chunk of a snapshot. If this log has all that the snapshot stands for, nothing need be
    /// installed: what is committed, and what follows an entry like its last one, is the same
    /// (Figure 13, step 6).
    pub(super) fn on_install_snapshot(&mut self, core: &mut Core, from: NodeId, message: InstallSnapshot) {
        if core.needs_snapshot(&message.snapshot) {
            core.outbox.hand_up(SnapshotInput::Chunk(from, message));
            return;
        }
        core.commit_to(message.snapshot.index);
        let (term, snapshot) = (core.term(), message.snapshot);
        let result = InstallResult::Installed;
        let answer = InstallSnapshotResponse { term, snapshot, result };
        core.outbox.promise(from, Message::InstallSnapshotResponse(answer));
    }

    /// A heartbeat is answered at once and says nothing about the log.
    pub(super) fn on_heartbeat(&mut self, core: &mut Core, from: NodeId, message: Heartbeat) {
        // The leader names no more than what it knows to match here.
        if message.commit > core.log.last_index() {
            core.violation(from, "a commit index beyond what this node acknowledged");
            return;
        }
        core.commit_to(message.commit);
        if message.round > 0 {
            let answer = HeartbeatResponse { term: core.term(), round: message.round };
            core.speak(from, Message::HeartbeatResponse(answer));
        }
    }

    /// A vote is a promise. Once this node knows the term's leader it gives none any more: the election
    /// of the term is over. The vote that it gave is given again, as the answer may have been lost.
    pub(super) fn on_request_vote(
        &mut self,
        core: &mut Core,
        now: Instant,
        from: NodeId,
        message: &RequestVote,
    ) {
        let is_open = self.leader.is_none() || core.hard_state.voted_for == Some(from);
        if !is_open || !core.would_grant(from, message) {
            return core.refuse_vote(from);
        }
        core.hard_state.voted_for = Some(from);
        self.election_deadline = now + core.election_timeout();
        self.cause = Cause::Timeout;
        let grant = RequestVoteResponse { term: core.term(), vote_granted: true };
        if is_planted(Bug::VoteNotSynced) {
            return core.outbox.send(from, Message::RequestVoteResponse(grant));
        }
        core.outbox.promise(from, Message::RequestVoteResponse(grant));
    }

    /// A granted vote leaves only now: the candidate gets the whole timeout to make use of it.
    pub(super) fn on_vote_durable(&mut self, core: &mut Core, now: Instant) {
        self.election_deadline = self.election_deadline.max(now + core.election_timeout());
    }

    /// Thesis 3.10: "this is equivalent to the server's election timer firing", but the order may have
    /// lain in a socket for long, while this node was stopped or its link was cut, and be given up.
    /// Who obeyed it then would depose a leader that went on. So the leader alone is asked first, by
    /// a pre-vote; meanwhile this node goes on following.
    pub(super) fn on_timeout_now(&mut self, core: &mut Core, from: NodeId) {
        let question = core.next_pre_vote();
        self.order = Some(question.round);
        core.outbox.send(from, Message::PreVote(question));
    }

    /// The leader stands by its order, or does not. It campaigns at once, since the leader's word
    /// counts for more than a majority's, and with the mark that sets loyalty aside.
    pub(super) fn on_pre_vote_response(&mut self, from: NodeId, message: PreVoteResponse) -> Transition {
        if self.leader != Some(from) || self.order != Some(message.round) {
            return Transition::Stay; // an answer to an earlier question
        }
        self.order = None;
        match message.vote_granted {
            true => Transition::Candidate { cause: Cause::HandOver },
            false => Transition::Stay,
        }
    }

    /// Reads of this node: its leader will tell the index. Without a leader they must ask again.
    pub(super) fn read_index(&mut self, core: &mut Core, batch: u64) {
        if self.leader.is_some() {
            self.reads.register(batch);
        } else {
            core.reads.push(ReadState { batch, read_index: None });
        }
    }

    /// All reads of the turn go to the leader in one request.
    pub(super) fn send_read_index(&mut self, core: &mut Core, now: Instant) {
        let Some(leader) = self.leader else { return };
        if self.wants_request(core, now) {
            core.numbers.read_request += 1;
            let request = core.numbers.read_request;
            self.reads.on_asked(now, request);
            core.speak(leader, Message::ReadIndex(ReadIndex { term: core.term(), request }));
        }
    }

    /// Whether a request for a read index is due.
    pub(super) fn wants_request(&self, core: &Core, now: Instant) -> bool {
        let retry = core.read_retry();
        let is_late = self.reads.asked_at().is_some_and(|asked| now >= asked + retry);
        self.reads.wants_request(if is_late { now } else { Instant::ZERO })
    }

    /// The leader's answer. If the leader itself says that it does not lead, it gave way for good:
    /// nobody leads twice in one term. What it was asked in an earlier term it refuses though it leads.
    pub(super) fn on_read_index_response(
        &mut self,
        core: &mut Core,
        from: NodeId,
        message: ReadIndexResponse,
    ) {
        if self.leader != Some(from) || !self.reads.was_asked(message.request) {
            return;
        }
        if message.read_index.is_none() {
            return self.forget_leader(core);
        }
        let batches = self.reads.answered(message.request);
        let read_index = message.read_index;
        core.reads.extend(batches.into_iter().map(|batch| ReadState { batch, read_index }));
    }
}
