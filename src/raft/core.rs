//! What a node has in every role, and why its commands may be refused.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use thiserror::Error;

use super::config::Config;
use super::log::{Log, Position};
use super::ready::{Event, Mark, Outbox, ReadState};
use crate::planted::{Bug, is_planted};
use crate::time::Duration;
use crate::types::{LogIndex, NodeId, Term};
use crate::wire::entry::{Configuration, Entry, HardState, Payload, Snapshot, SnapshotId};
use crate::wire::peer::{Message, PreVote, ReadIndex, ReadIndexResponse, RequestVote, RequestVoteResponse};

/// What a node has in every role.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Config,
    rng: StdRng,
    pub(super) configuration: Option<Configuration>,
    voters: Vec<NodeId>,
    pub(super) hard_state: HardState,
    pub(super) durable: Durable,
    pub(super) log: Log,
    pub(super) outbox: Outbox,
    /// The peers to which there is a link.
    pub(super) links: BTreeSet<NodeId>,
    pub(super) reads: Vec<ReadState>,
    pub(super) events: Vec<Event>,
    pub(super) numbers: Numbers,
}

/// What is known to be on disk, and what is being written.
#[derive(Debug)]
pub(super) struct Durable {
    pub(super) hard_state: HardState,
    pub(super) under_way: Option<Mark>,
    pub(super) batches: u64,
    /// The last snapshot: the log is held from its index on, or from before.
    pub(super) snapshot: Option<Snapshot>,
    /// The term that this node led before it stopped, until people were told that it is over.
    pub(super) led_before: Option<Term>,
}

/// Numbers that are never used twice by this node: they start at random and rise.
#[derive(Debug)]
pub(super) struct Numbers {
    pub(super) pre_vote_round: u64,
    pub(super) read_request: u64,
}

/// Why a proposal was not taken. It is in no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Only leaders take proposals.
    #[error("this node does not lead")]
    NotLeader,
    /// Leadership is being handed over; ask again in a moment.
    #[error("leadership is being handed over")]
    Transferring,
    /// Too much is uncommitted; ask again in a moment.
    #[error("the uncommitted log is full")]
    Full,
}

/// Why leadership is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// Only leaders can.
    #[error("this node does not lead")]
    NotLeader,
    /// The target has no vote.
    #[error("the target is no other member")]
    NotAVoter,
    /// The target cannot be reached.
    #[error("there is no link to the target")]
    NoLink,
    /// One at a time.
    #[error("leadership is being handed over to node {0} already")]
    UnderWay(NodeId),
}

impl Core {
    /// What storage recovered, before the founding is looked for.
    pub(super) fn recover(
        config: Config,
        hard_state: HardState,
        snapshot: Option<Snapshot>,
        entries: Vec<Entry>,
    ) -> Self {
        let mut rng = StdRng::seed_from_u64(config.seed);
        // Below 2^63, so that they can rise for ever.
        let mut start = || rng.random::<u64>() >> 1;
        let numbers = Numbers { pre_vote_round: start(), read_request: start() };
        let led_before = term_led(config.id, &entries);
        let log = match &snapshot {
            None => Log::recover(entries),
            Some(Snapshot { index, term, stamp, .. }) => {
                Log::recover_after(Position { index: *index, term: *term }, *stamp, entries)
            }
        };
        Self {
            config,
            rng,
            configuration: None,
            voters: Vec::new(),
            hard_state,
            durable: Durable { hard_state, under_way: None, batches: 0, snapshot, led_before },
            log,
            outbox: Outbox::default(),
            links: BTreeSet::new(),
            reads: Vec::new(),
            events: Vec::new(),
            numbers,
        }
    }

    /// This node is one of `configuration` from now on.
    pub(super) fn join(&mut self, configuration: Configuration) {
        self.voters = configuration.members().iter().map(|member| member.id).collect();
        self.configuration = Some(configuration);
    }

    pub(super) fn term(&self) -> Term {
        self.hard_state.term
    }

    pub(super) fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// The other voters.
    pub(super) fn peers(&self) -> Vec<NodeId> {
        self.voters.iter().copied().filter(|id| *id != self.config.id).collect()
    }

    /// This node's place among the voters if `dead` is not counted.
    pub(super) fn rank_without(&self, dead: NodeId) -> u32 {
        let before = self.voters.iter().filter(|id| **id < self.config.id && **id != dead);
        u32::try_from(before.count()).expect("members are few")
    }

    /// "Election timeouts are chosen randomly from a fixed interval" (section 5.2).
    pub(super) fn election_timeout(&mut self) -> Duration {
        self.random_between(self.config.election_min, self.config.election_max)
    }

    /// A candidate waits for answers only, so it tries again sooner.
    pub(super) fn candidate_timeout(&mut self) -> Duration {
        self.random_between(self.config.election_min / 4, self.config.election_min / 2)
    }

    fn random_between(&mut self, low: Duration, high: Duration) -> Duration {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.random_range(nanos(low)..=nanos(high)))
    }

    /// After how long a follower asks for a read index again.
    pub(super) fn read_retry(&self) -> Duration {
        self.config.heartbeat * 2
    }

    /// A new term: nobody was voted for in it yet, both in one record, and promises of older terms
    /// serve nobody any more.
    pub(super) fn begin_term(&mut self, term: Term) {
        assert!(term > self.term(), "term {term} after term {}", self.term());
        self.hard_state = HardState { term, voted_for: None };
        self.outbox.forget_promises();
    }

    /// A node that led before it stopped sees a later term, or the leader of one: it gives way now,
    /// as people are told.
    pub(super) fn end_old_leadership(&mut self) {
        let to = self.term();
        if let Some(from) = self.durable.led_before.take_if(|led| *led < to) {
            self.events.push(Event::SteppingDown { from, to });
        }
    }

    pub(super) fn commit_to(&mut self, index: LogIndex) {
        self.log.commit_to(index.max(self.log.committed()));
    }

    /// A message that promises nothing but its term: it may leave at once if the term is durable. It
    /// also waits for a vote, so as not to overtake it: a candidate that is told "I would vote
    /// for you" while the vote itself is being written would try again, and again.
    pub(super) fn speak(&mut self, to: NodeId, message: Message) {
        if self.durable.hard_state == self.hard_state {
            self.outbox.send(to, message);
        } else {
            self.outbox.promise(to, message);
        }
    }

    /// The question whether this node would be elected, in a round of its own.
    pub(super) fn next_pre_vote(&mut self) -> PreVote {
        self.numbers.pre_vote_round += 1;
        let Position { index, term } = self.log.last();
        PreVote {
            term: self.term().next(),
            last_log_index: index,
            last_log_term: term,
            round: self.numbers.pre_vote_round,
        }
    }

    /// Whether a snapshot has what this log is not known to have.
    pub(super) fn needs_snapshot(&self, id: &SnapshotId) -> bool {
        id.index > self.log.committed() && self.log.term_at(id.index) != Some(id.term)
    }

    pub(super) fn violation(&mut self, from: NodeId, what: &'static str) {
        self.events.push(Event::ProtocolViolation { from, what });
    }

    /// "If votedFor is null or candidateId, and candidate's log is at least as up-to-date as
    /// receiver's log, grant vote" (Figure 2).
    pub(super) fn would_grant(&self, from: NodeId, request: &RequestVote) -> bool {
        let candidate = Position { index: request.last_log_index, term: request.last_log_term };
        let is_free = self.hard_state.voted_for.is_none_or(|voted_for| voted_for == from);
        (is_free || is_planted(Bug::VoteGivenTwice))
            && (self.log.is_up_to_date(candidate) || is_planted(Bug::LogNotCompared))
    }

    /// This node does not lead: whoever asked for a read index must ask somebody else.
    pub(super) fn refuse_read(&mut self, from: NodeId, message: ReadIndex) {
        let (term, request) = (self.term(), message.request);
        let refusal = ReadIndexResponse { term, request, read_index: None };
        self.speak(from, Message::ReadIndexResponse(refusal));
    }

    pub(super) fn refuse_vote(&mut self, from: NodeId) {
        let refusal = RequestVoteResponse { term: self.term(), vote_granted: false };
        self.speak(from, Message::RequestVoteResponse(refusal));
    }
}

/// The term that this node led when it stopped, as far as its log knows: that of the last no-op, if
/// the no-op is its own.
fn term_led(id: NodeId, entries: &[Entry]) -> Option<Term> {
    let is_no_op = |entry: &&Entry| matches!(entry.payload, Payload::NoOp { .. });
    let last = entries.iter().rev().find(is_no_op)?;
    (last.payload == Payload::NoOp { leader: id }).then_some(last.term)
}
