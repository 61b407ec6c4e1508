//! Loyalty: when a node helps to depose its leader, and what it takes for evidence of a death.
//!
//! A connection that is lost is only a hint. It starts a redial, and until that is decided a voter
//! keeps pre-votes unanswered. The redial decides: a refusal, or an answer from a higher boot,
//! proves that the leader's process is dead; then its followers forget it and one after the other
//! asks for an election, by a pre-vote. No clock lease is ever relied on, so this endangers
//! nothing: it only saves the wait.

use super::log::Position;
use super::node::{Raft, Role};
use super::ready::Cause;
use crate::time::Instant;
use crate::types::NodeId;
use crate::wire::peer::{Message, PreVote, PreVoteResponse};

impl Raft {
    /// There is a link to `peer` (again).
    pub fn on_link_up(&mut self, now: Instant, peer: NodeId) {
        self.core.links.insert(peer);
        match &mut self.role {
            Role::Follower(follower) => {
                follower.on_link_up(now, peer, &self.core.config);
                self.answer_held(now);
            }
            Role::Candidate(_) => {}
            Role::Leader(leader) => leader.on_link_up(&mut self.core, now, peer),
        }
    }

    /// The link to `peer` is lost; a redial will tell whether its process is dead.
    pub fn on_link_down(&mut self, now: Instant, peer: NodeId) {
        self.core.links.remove(&peer);
        match &mut self.role {
            Role::Follower(follower) => follower.on_link_down(now, peer),
            Role::Candidate(_) => {}
            Role::Leader(leader) => leader.on_link_down(peer),
        }
    }

    /// Evidence that the process behind the lost link to `peer` is dead.
    pub fn on_peer_dead(&mut self, now: Instant, peer: NodeId) {
        if let Role::Follower(follower) = &mut self.role {
            follower.on_peer_dead(&mut self.core, now, peer);
            self.answer_held(now);
        }
    }

    /// Answers the pre-votes that were held, once it is decided whether the leader is dead.
    pub(super) fn answer_held(&mut self, now: Instant) {
        if let Role::Follower(follower) = &mut self.role {
            for (from, pre_vote) in follower.take_decided(now) {
                self.on_pre_vote(now, from, pre_vote);
            }
        }
    }

    /// Bytes of `from` wait to be read: no election may begin for want of them.
    pub fn on_unread(&mut self, now: Instant, from: NodeId) {
        if let Role::Follower(follower) = &mut self.role {
            follower.on_unread(now, from, &self.core.config);
        }
    }

    /// Why this node asks for an election, or would once its patience ends; none while it leads.
    #[must_use]
    pub fn election_cause(&self) -> Option<Cause> {
        match &self.role {
            Role::Follower(follower) => Some(follower.cause()),
            Role::Candidate(candidate) => Some(candidate.campaign().cause),
            Role::Leader(_) => None,
        }
    }

    /// Who is loyal refuses candidates without adopting their term (thesis 4.2.3): it heard its
    /// leader within the minimum election timeout, or leads itself with a fresh quorum. Exceptions
    /// are the mark of a hand-over, and a follower's own evidence, by which it forgot the leader; and
    /// a leader grants the pre-vote of whom it ordered to campaign.
    pub(super) fn is_loyal(&self, now: Instant) -> bool {
        match &self.role {
            Role::Follower(follower) => follower.is_loyal(now, &self.core.config),
            Role::Candidate(_) => false,
            Role::Leader(leader) => leader.has_fresh_quorum(now, self.core.config.election_min),
        }
    }

    /// Thesis 9.6: would this node vote for the sender? Nothing changes by the answer, timers
    /// included.
    pub(super) fn on_pre_vote(&mut self, now: Instant, from: NodeId, message: PreVote) {
        let is_loyal = self.is_loyal(now);
        if let Role::Follower(follower) = &mut self.role
            && is_loyal
            && follower.is_undecided()
        {
            follower.hold(from, message);
            return;
        }
        let candidate = Position { index: message.last_log_index, term: message.last_log_term };
        let would_win = message.term > self.core.term() && self.core.log.is_up_to_date(candidate);
        let vote_granted = match &mut self.role {
            Role::Leader(leader) if leader.has_ordered(from) => {
                leader.on_order_questioned(&self.core, now, would_win)
            }
            _ => !is_loyal && would_win,
        };
        let term = if vote_granted { message.term } else { self.core.term() };
        let answer = PreVoteResponse { term, round: message.round, vote_granted };
        self.core.speak(from, Message::PreVoteResponse(answer));
    }
}
