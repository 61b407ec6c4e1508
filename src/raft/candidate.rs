//! Candidates (section 5.2), and those who ask first whether they would win (thesis 9.6).

use super::core::Core;
use super::log::Position;
use super::node::Transition;
use super::quorum::{Tally, VoteResult};
use super::ready::Cause;
use crate::time::{Duration, Instant};
use crate::types::NodeId;
use crate::wire::peer::{Message, PreVoteResponse, RequestVote, RequestVoteResponse};

/// A candidate's own state.
///
/// Invariant: `votes` holds answers of the current term only. They outlive a retry, which begins by
/// a pre-vote in the same term: where disks are slower than this node is patient, the votes of its
/// last try come in while it asks whether to try again, and they are as good as ever.
#[derive(Debug)]
pub(super) struct Candidate {
    phase: Phase,
    /// What was answered to the pre-vote of this phase.
    pre_votes: Tally,
    /// What was answered to this node's RequestVote in the current term, if it sent one.
    votes: Option<Tally>,
    campaign: Campaign,
    /// When to try again. Shorter than a follower's timeout: nobody leads meanwhile.
    retry_deadline: Instant,
}

/// What a candidate asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Whether it would get votes. Changes nothing at anybody, its own term included.
    PreVote {
        /// Which of this node's pre-votes the answers must name.
        round: u64,
    },
    /// Votes.
    Vote,
}

/// How a campaign began and went so far, handed from one phase to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Campaign {
    pub(super) cause: Cause,
    /// When the old leader was last heard.
    pub(super) last_heard: Instant,
    /// When this node began to ask.
    pub(super) noticed: Instant,
    /// In how many terms it asked for votes.
    pub(super) tries: u32,
}

impl Campaign {
    /// Each try in vain doubles the patience, three times at most: where votes take longer than it
    /// lasts (slow disks), rivals would split the votes of each term anew.
    fn patience(&self, core: &mut Core) -> Duration {
        core.candidate_timeout() * (1 << self.tries.saturating_sub(1).min(3))
    }
}

impl Candidate {
    /// Asks everybody whether they would vote for this node in the next term. `votes` are those of
    /// its last try, if that was in this term.
    pub(super) fn pre_vote(core: &mut Core, now: Instant, campaign: Campaign, votes: Option<Tally>) -> Self {
        let message = core.next_pre_vote();
        for peer in core.peers() {
            core.outbox.send(peer, Message::PreVote(message));
        }
        let mut candidate = Self::new(core, now, Phase::PreVote { round: message.round }, campaign);
        candidate.pre_votes.record(core.config.id, true);
        candidate.votes = votes;
        candidate
    }

    /// "On conversion to candidate, start election: increment currentTerm, vote for self, reset
    /// election timer, send RequestVote RPCs to all other servers" (Figure 2). The requests are
    /// promises too: this node's own vote must be durable before anybody can count on it.
    ///
    /// `is_hand_over`: the leader of the term that ends here asked for it. The mark that says so to
    /// the voters is for this term only, not for later tries.
    pub(super) fn vote(core: &mut Core, now: Instant, mut campaign: Campaign, is_hand_over: bool) -> Self {
        campaign.tries += 1;
        core.begin_term(core.term().next());
        core.hard_state.voted_for = Some(core.config.id);
        let Position { index, term } = core.log.last();
        let message = Message::RequestVote(RequestVote {
            term: core.term(),
            last_log_index: index,
            last_log_term: term,
            leadership_transfer: is_hand_over,
        });
        for peer in core.peers() {
            core.outbox.promise(peer, message.clone());
        }
        let mut candidate = Self::new(core, now, Phase::Vote, campaign);
        candidate.votes = Some(Tally::default());
        candidate
    }

    fn new(core: &mut Core, now: Instant, phase: Phase, campaign: Campaign) -> Self {
        let retry_deadline = now + campaign.patience(core);
        Self { phase, pre_votes: Tally::default(), votes: None, campaign, retry_deadline }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// The votes of this term, for a retry to go on with.
    pub(super) fn take_votes(&mut self) -> Option<Tally> {
        self.votes.take()
    }

    pub(super) fn campaign(&self) -> Campaign {
        self.campaign
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.retry_deadline
    }

    /// "If election timeout elapses: start new election" (Figure 2), beginning with a pre-vote.
    pub(super) fn tick(&mut self, now: Instant) -> Transition {
        if now < self.retry_deadline {
            return Transition::Stay;
        }
        Transition::PreCandidate(self.campaign.cause)
    }

    /// Counts the answers so far: where they lead to.
    pub(super) fn count(&self, core: &Core) -> Transition {
        // "If votes received from majority of servers: become leader" (Figure 2).
        if self.votes.as_ref().is_some_and(|votes| votes.result(core.voters()) == VoteResult::Won) {
            return Transition::Leader;
        }
        match (self.phase, self.pre_votes.result(core.voters())) {
            (Phase::PreVote { .. }, VoteResult::Won) => Transition::Candidate { cause: self.campaign.cause },
            // A majority prefers its leader, or has newer logs: theirs is the next move.
            (Phase::PreVote { .. }, VoteResult::Lost) => Transition::Follower,
            (Phase::PreVote { .. }, VoteResult::Pending) | (Phase::Vote, _) => Transition::Stay,
        }
    }

    /// This node's own vote became durable: its requests leave now, so its patience begins now.
    pub(super) fn on_own_vote_durable(&mut self, core: &mut Core, now: Instant) -> Transition {
        if let Some(votes) = &mut self.votes
            && votes.record(core.config.id, true)
        {
            self.retry_deadline = now + self.campaign.patience(core);
        }
        self.count(core)
    }

    pub(super) fn on_pre_vote_response(
        &mut self,
        core: &Core,
        from: NodeId,
        message: PreVoteResponse,
    ) -> Transition {
        if self.phase != (Phase::PreVote { round: message.round }) {
            return Transition::Stay; // an answer to an earlier question
        }
        self.pre_votes.record(from, message.vote_granted);
        self.count(core)
    }

    pub(super) fn on_request_vote_response(
        &mut self,
        core: &mut Core,
        from: NodeId,
        message: RequestVoteResponse,
    ) -> Transition {
        let Some(votes) = &mut self.votes else {
            return Transition::Stay; // this node asked for none in this term
        };
        // The question leaves when this node's own vote is durable, and not before.
        if !votes.has(core.config.id) {
            core.violation(from, "a vote that was not asked for yet");
            return Transition::Stay;
        }
        votes.record(from, message.vote_granted);
        self.count(core)
    }
}
