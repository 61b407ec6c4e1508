//! One node: the rules for all servers, and the changes of role (Figure 4).

use bytes::Bytes;

use super::candidate::{Campaign, Candidate, Phase};
use super::config::Config;
use super::core::{Core, ProposeError};
use super::follower::Follower;
use super::leader::Leader;
use super::log::{Log, Position};
use super::ready::{Cause, Event, ReadState, Timeline};
use crate::planted::{Bug, is_planted};
use crate::time::Instant;
use crate::types::{ClusterTime, LogIndex, NodeId, Term};
use crate::wire::client::RoleName;
use crate::wire::entry::{Configuration, Entry, HardState, Payload, Snapshot};
use crate::wire::peer::{
    AppendEntriesResponse, AppendResult, HeartbeatResponse, InstallResult, InstallSnapshotResponse, Message,
    ReadIndexResponse, RequestVoteResponse,
};

/// No honest node is further ahead than this many terms; whoever claims to be would make the
/// terms run out.
const MAX_TERM_JUMP: u64 = 1 << 32;

/// One node's consensus state. It knows no clock, socket or file: time and messages come in, and
/// what shall be done comes out.
///
/// **Inputs**: [`step`](Raft::step), [`tick`](Raft::tick), and the `on_link_…` and `on_peer_…`
/// calls. **Commands**: [`found`](Raft::found), [`propose`](Raft::propose),
/// [`read_index`](Raft::read_index), [`transfer_leadership`](Raft::transfer_leadership).
/// **Outputs**, once a turn: [`ready`](Raft::ready), then, when that is durable,
/// [`advance`](Raft::advance); [`next_to_apply`](Raft::next_to_apply), `take_reads` and
/// `take_events` at any time. Everything else only looks.
#[derive(Debug)]
pub struct Raft {
    pub(super) core: Core,
    pub(super) role: Role,
}

/// "At any given time each server is in one of three states" (section 5.1).
#[derive(Debug)]
pub(super) enum Role {
    Follower(Follower),
    Candidate(Candidate),
    Leader(Leader),
}

/// Where a handler wants the node to go. Only [`Raft::transition`] goes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Stay,
    Follower,
    PreCandidate(Cause),
    Candidate { cause: Cause },
    Leader,
}

impl Raft {
    /// A node as storage recovered it; without entries it belongs to no cluster yet. It begins as a
    /// follower ("when servers start up, they begin as followers", section 5.2).
    ///
    /// # Panics
    /// If entries exist and the first is not a configuration, which storage excludes.
    #[must_use]
    pub fn new(config: Config, hard_state: HardState, entries: Vec<Entry>, now: Instant) -> Self {
        Self::recover(config, hard_state, None, entries, now)
    }

    /// The same, after a snapshot: the entries are those that follow it.
    ///
    /// # Panics
    /// As [`Raft::new`], where there is no snapshot.
    #[must_use]
    pub fn recover(
        config: Config,
        hard_state: HardState,
        snapshot: Option<Snapshot>,
        entries: Vec<Entry>,
        now: Instant,
    ) -> Self {
        let mut core = Core::recover(config, hard_state, snapshot, entries);
        if let Some(snapshot) = &core.durable.snapshot {
            core.join(snapshot.configuration.clone());
        } else if let Some(founding) = core.log.entry(LogIndex(1)) {
            let Payload::Configuration(configuration) = founding.payload.clone() else {
                panic!("entry 1 is no configuration");
            };
            core.join(configuration);
        }
        let role = Role::Follower(Follower::new(&mut core, now, now));
        Self { core, role }
    }

    /// Founds the cluster on this node, or makes this node a part of one that another founded: the
    /// configuration becomes entry 1, committed by definition, the same bytes on every node. It is
    /// durable before any vote leaves, as everything of this turn is. The lowest id campaigns at
    /// once; the others give it an election timeout from now on.
    ///
    /// # Panics
    /// If this node belongs to a cluster already.
    pub fn found(&mut self, now: Instant, configuration: Configuration) {
        assert_eq!(self.core.log.last_index(), LogIndex::ZERO, "a cluster is founded once");
        let payload = Payload::Configuration(configuration.clone());
        self.core.log.append(Entry::new(LogIndex(1), Term::ZERO, ClusterTime::ZERO, payload));
        self.core.log.commit_to(LogIndex(1));
        self.core.join(configuration);
        if let Role::Follower(follower) = &mut self.role {
            follower.begin_to_wait(&mut self.core, now);
        }
        if self.core.voters().first() == Some(&self.core.config.id) {
            self.transition(now, Transition::PreCandidate(Cause::Founding));
        }
    }

    /// A message of `from` arrived on its link.
    pub fn step(&mut self, now: Instant, from: NodeId, message: Message) {
        let is_peer = from != self.core.config.id && self.core.voters().contains(&from);
        if !is_peer || self.is_absurd(from, &message) {
            return;
        }
        match &message {
            Message::PreVote(pre_vote) => return self.on_pre_vote(now, from, *pre_vote),
            Message::RequestVote(request) if !request.leadership_transfer && self.is_loyal(now) => {
                return self.core.refuse_vote(from);
            }
            _ => {}
        }
        if let Some(term) = message.term() {
            if term > self.core.term() {
                self.adopt_term(now, term);
            } else if term < self.core.term() {
                return self.answer_stale(now, from, &message);
            }
        }
        let transition = self.dispatch(now, from, message);
        self.transition(now, transition);
        self.answer_held(now);
    }

    fn is_absurd(&mut self, from: NodeId, message: &Message) -> bool {
        let claimed = match message {
            Message::PreVote(pre_vote) => Some(pre_vote.term),
            other => other.term(),
        };
        let is_absurd = claimed.is_some_and(|term| term.0 > self.core.term().0.saturating_add(MAX_TERM_JUMP));
        if is_absurd {
            self.core.violation(from, "a term far beyond all others");
        }
        is_absurd
    }

    /// "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to
    /// follower" (Figure 2, All Servers).
    fn adopt_term(&mut self, now: Instant, term: Term) {
        self.core.begin_term(term);
        self.core.end_old_leadership();
        // The election timer goes on: to learn of a term, without giving a vote in it, is no reason to
        // wait longer.
        match &mut self.role {
            Role::Follower(follower) => follower.forget_leader(&mut self.core),
            Role::Candidate(candidate) => {
                let (deadline, cause) = (candidate.next_deadline(), candidate.campaign().cause);
                self.transition(now, Transition::Follower);
                if let Role::Follower(follower) = &mut self.role {
                    follower.resume(deadline, cause);
                }
            }
            Role::Leader(_) => self.transition(now, Transition::Follower),
        }
    }

    /// "Reply false if term < currentTerm" (Figure 2): the answer's term tells the sender that it
    /// is behind. Answers of older terms are dropped.
    fn answer_stale(&mut self, now: Instant, from: NodeId, message: &Message) {
        let term = self.core.term();
        let answer = match message {
            Message::RequestVote(_) => {
                Message::RequestVoteResponse(RequestVoteResponse { term, vote_granted: false })
            }
            Message::AppendEntries(stale) => {
                let Position { index: hint_index, term: hint_term } = self.core.log.last();
                let prev_log_index = stale.prev_log_index;
                let result = AppendResult::Conflict { prev_log_index, hint_index, hint_term };
                Message::AppendEntriesResponse(AppendEntriesResponse { term, result })
            }
            Message::Heartbeat(_) => Message::HeartbeatResponse(HeartbeatResponse { term, round: 0 }),
            Message::InstallSnapshot(stale) => {
                let (snapshot, result) = (stale.snapshot, InstallResult::Received { offset: 0 });
                Message::InstallSnapshotResponse(InstallSnapshotResponse { term, snapshot, result })
            }
            Message::ReadIndex(stale) => Message::ReadIndexResponse(ReadIndexResponse {
                term,
                request: stale.request,
                read_index: None,
            }),
            Message::AppendEntriesResponse(late) if is_planted(Bug::LateAckCounted) => {
                if let Role::Leader(leader) = &mut self.role {
                    leader.on_append_entries_response(&mut self.core, now, from, *late);
                }
                return;
            }
            _ => return,
        };
        self.core.speak(from, answer);
    }

    /// A message of the current term, to the role that it is for.
    fn dispatch(&mut self, now: Instant, from: NodeId, message: Message) -> Transition {
        let speaks_as_leader = matches!(
            message,
            Message::AppendEntries(_)
                | Message::Heartbeat(_)
                | Message::InstallSnapshot(_)
                | Message::TimeoutNow(_)
        );
        if speaks_as_leader && !self.follow(now, from) {
            self.core.violation(from, "two leaders in one term");
            return Transition::Stay;
        }
        // A pre-candidate that has not voted in this term may give its vote away, and follows then. A
        // candidate has: it voted for itself.
        if let (Role::Candidate(_), Message::RequestVote(request)) = (&self.role, &message)
            && self.core.would_grant(from, request)
        {
            self.transition(now, Transition::Follower);
        }
        let core = &mut self.core;
        match (&mut self.role, message) {
            (Role::Follower(follower), message) => Self::to_follower(follower, core, now, from, message),
            (Role::Candidate(candidate), Message::PreVoteResponse(m)) => {
                candidate.on_pre_vote_response(core, from, m)
            }
            (Role::Candidate(candidate), Message::RequestVoteResponse(m)) => {
                candidate.on_request_vote_response(core, from, m)
            }
            (Role::Leader(leader), message) => Self::to_leader(leader, core, now, from, message),
            (Role::Candidate(_), Message::RequestVote(_)) => {
                core.refuse_vote(from);
                Transition::Stay
            }
            (Role::Candidate(_), Message::ReadIndex(m)) => {
                core.refuse_read(from, m);
                Transition::Stay
            }
            (Role::Candidate(_), _) => Transition::Stay,
        }
    }

    fn to_follower(
        follower: &mut Follower,
        core: &mut Core,
        now: Instant,
        from: NodeId,
        message: Message,
    ) -> Transition {
        match message {
            Message::AppendEntries(m) => follower.on_append_entries(core, from, m),
            Message::Heartbeat(m) => follower.on_heartbeat(core, from, m),
            Message::InstallSnapshot(m) => follower.on_install_snapshot(core, from, m),
            Message::RequestVote(m) => follower.on_request_vote(core, now, from, &m),
            Message::ReadIndexResponse(m) => follower.on_read_index_response(core, from, m),
            Message::TimeoutNow(_) => follower.on_timeout_now(core, from),
            Message::PreVoteResponse(m) => return follower.on_pre_vote_response(from, m),
            Message::ReadIndex(m) => core.refuse_read(from, m),
            _ => {} // answers to what this node asked in a role that is over
        }
        Transition::Stay
    }

    fn to_leader(
        leader: &mut Leader,
        core: &mut Core,
        now: Instant,
        from: NodeId,
        message: Message,
    ) -> Transition {
        if let Message::AppendEntriesResponse(_) | Message::InstallSnapshotResponse(_) = message {
            leader.on_answer(now, from);
        }
        match message {
            Message::AppendEntriesResponse(m) => leader.on_append_entries_response(core, now, from, m),
            Message::HeartbeatResponse(m) => leader.on_heartbeat_response(core, now, from, m),
            Message::InstallSnapshotResponse(m) => leader.on_install_snapshot_response(core, now, from, m),
            Message::ReadIndex(m) => leader.on_read_index(from, m),
            // A leader voted for itself.
            Message::RequestVote(_) => core.refuse_vote(from),
            _ => {} // answers to what this node asked in a role that is over
        }
        Transition::Stay
    }

    /// `from` speaks as the leader of the current term: a candidate recognises it as legitimate and
    /// returns to follower state (section 5.2). False if it cannot be.
    fn follow(&mut self, now: Instant, from: NodeId) -> bool {
        if let Role::Candidate(_) = self.role {
            self.transition(now, Transition::Follower);
        }
        self.core.end_old_leadership();
        match &mut self.role {
            Role::Follower(follower) => follower.follow(&mut self.core, now, from),
            _ => false,
        }
    }

    /// Fires what is due by `now`.
    pub fn tick(&mut self, now: Instant) {
        self.answer_held(now);
        let transition = match &mut self.role {
            Role::Follower(follower) if !self.core.voters().is_empty() => follower.tick(now),
            Role::Follower(_) => Transition::Stay,
            Role::Candidate(candidate) => candidate.tick(now),
            Role::Leader(leader) => leader.tick(&mut self.core, now),
        };
        self.transition(now, transition);
    }

    /// When `tick` must be called next; extra calls are harmless.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        match &self.role {
            Role::Follower(_) if self.core.voters().is_empty() => Instant::MAX,
            Role::Follower(follower) => follower.next_deadline(&self.core),
            Role::Candidate(candidate) => candidate.next_deadline(),
            Role::Leader(leader) => leader.next_deadline(&self.core),
        }
    }

    /// Appends a command to the log and gives the entry's index. `stamp` is the cluster time.
    pub fn propose(&mut self, stamp: ClusterTime, command: Bytes) -> Result<LogIndex, ProposeError> {
        match &mut self.role {
            Role::Leader(leader) => leader.propose(&mut self.core, stamp, command),
            _ => Err(ProposeError::NotLeader),
        }
    }

    /// Asks for a read index for a batch of reads, to be confirmed by a round that begins from now
    /// on. The answer comes by `take_reads`.
    pub fn read_index(&mut self, batch: u64) {
        match &mut self.role {
            Role::Leader(leader) => leader.read_index(batch),
            Role::Follower(follower) => follower.read_index(&mut self.core, batch),
            Role::Candidate(_) => self.core.reads.push(ReadState { batch, read_index: None }),
        }
    }

    /// The only place where the role changes: the paper's Figure 4, with pre-candidates between
    /// followers and candidates (thesis 9.6).
    pub(super) fn transition(&mut self, now: Instant, mut next: Transition) {
        loop {
            next = match next {
                Transition::Stay => return,
                Transition::Follower => self.become_follower(now),
                Transition::PreCandidate(cause) => self.become_pre_candidate(now, cause),
                Transition::Candidate { cause } => self.become_candidate(now, cause),
                Transition::Leader => self.become_leader(now),
            }
        }
    }

    fn become_follower(&mut self, now: Instant) -> Transition {
        let heard_at = match &self.role {
            Role::Follower(_) => unreachable!("a follower that stays one is no transition"),
            Role::Candidate(candidate) => candidate.campaign().last_heard,
            Role::Leader(_) => now,
        };
        if is_planted(Bug::VoteForgotten) {
            self.core.hard_state.voted_for = None;
        }
        let follower = Follower::new(&mut self.core, now, heard_at);
        if let Role::Leader(leader) = std::mem::replace(&mut self.role, Role::Follower(follower)) {
            leader.give_way(&mut self.core);
        }
        Transition::Stay
    }

    fn become_pre_candidate(&mut self, now: Instant, cause: Cause) -> Transition {
        let (campaign, votes) = match &mut self.role {
            Role::Follower(_) => (self.end_following(now, cause), None),
            Role::Candidate(candidate) => (candidate.campaign(), candidate.take_votes()),
            Role::Leader(_) => unreachable!("a leader asks nobody whether it would be elected"),
        };
        let candidate = Candidate::pre_vote(&mut self.core, now, campaign, votes);
        let counted = candidate.count(&self.core);
        self.role = Role::Candidate(candidate);
        if is_planted(Bug::NoPreVote) { Transition::Candidate { cause } } else { counted }
    }

    fn become_candidate(&mut self, now: Instant, cause: Cause) -> Transition {
        let (campaign, is_hand_over) = match &mut self.role {
            Role::Follower(_) => {
                assert_eq!(cause, Cause::HandOver, "only for a hand-over the leader's word is enough");
                (self.end_following(now, cause), true)
            }
            Role::Candidate(candidate) => (candidate.campaign(), false),
            Role::Leader(_) => unreachable!("a leader does not campaign"),
        };
        self.role = Role::Candidate(Candidate::vote(&mut self.core, now, campaign, is_hand_over));
        self.core.events.push(Event::ElectionStarted { term: self.core.term(), cause });
        Transition::Stay
    }

    /// A follower is about to campaign: it has no leader any more, and answers what it held back.
    fn end_following(&mut self, now: Instant, cause: Cause) -> Campaign {
        let Role::Follower(follower) = &mut self.role else {
            unreachable!("only a follower ends to follow");
        };
        follower.forget_leader(&mut self.core);
        let last_heard = follower.heard_at();
        self.answer_held(now);
        Campaign { cause, last_heard, noticed: now, tries: 0 }
    }

    fn become_leader(&mut self, now: Instant) -> Transition {
        let Role::Candidate(candidate) = &self.role else {
            unreachable!("only a candidate is elected");
        };
        // Pre-votes elect nobody: it asked for votes in this term, by its own first.
        assert_eq!(self.core.hard_state.voted_for, Some(self.core.config.id), "a leader voted for itself");
        self.core.durable.led_before = None;
        let Campaign { cause, last_heard, noticed, .. } = candidate.campaign();
        let timeline = Timeline { cause, last_heard, noticed, won: now };
        self.role = Role::Leader(Leader::new(&mut self.core, now, timeline));
        Transition::Stay
    }

    /// What people call the node's role.
    #[must_use]
    pub fn role_name(&self) -> RoleName {
        match &self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::Candidate(candidate) => match candidate.phase() {
                Phase::PreVote { .. } => RoleName::PreCandidate,
                Phase::Vote => RoleName::Candidate,
            },
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// The leader of the current term, if known; possibly this node.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader(),
            Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.core.config.id),
        }
    }

    /// The current term and the vote in it.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.core.hard_state
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.core.term()
    }

    /// The log, to look at.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.core.log
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.core.config
    }

    /// The members; none before the founding.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.core.configuration.as_ref()
    }
}
