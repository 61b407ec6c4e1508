//! What the core wants done, and when each part of it may be done.

use crate::planted::{Bug, is_planted};
use crate::time::{Duration, Instant};
use crate::types::{LogIndex, NodeId, Term};
use crate::wire::entry::{Entry, HardState};
use crate::wire::peer::{AppendEntriesResponse, AppendResult, Envelope, Message};

use super::invariants;
use super::log::Position;
use super::node::{Raft, Role, Transition};
use super::snapshots::SnapshotInput;

/// A turn's output, pulled by [`super::Raft::ready`].
#[derive(Debug)]
pub struct Ready {
    /// Promise nothing: to be sent before the disk is touched.
    pub messages: Vec<Envelope>,
    /// To be made durable, if it changed.
    pub hard_state: Option<HardState>,
    /// To be made durable; the first of them replaces the log from its index on.
    pub entries: Vec<Entry>,
    /// To be given back to [`super::Raft::advance`] once both are durable.
    pub mark: Mark,
}

/// Names what a [`Ready`] asked to be made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub(super) number: u64,
    pub(super) hard_state: HardState,
    pub(super) last: Position,
}

/// A batch of reads got its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The number that the caller gave the batch.
    pub batch: u64,
    /// What must be applied before the state is read; `None`: the leader changed, ask again.
    pub read_index: Option<LogIndex>,
}

/// Why a node asks for votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No leader was heard for an election timeout.
    Timeout,
    /// The leader's process is dead: its link is gone and a redial proved it.
    LostConnection,
    /// The leader handed over (thesis 3.10).
    HandOver,
    /// The cluster was just founded.
    Founding,
}

impl Cause {
    /// The words for a log line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Timeout => "timeout",
            Cause::LostConnection => "lost connection",
            Cause::HandOver => "hand-over",
            Cause::Founding => "founding",
        }
    }
}

/// When a fail-over's steps happened, on the winner's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Why it began.
    pub cause: Cause,
    /// The old leader was heard for the last time; the start of the node if there was none.
    pub last_heard: Instant,
    /// The node began to ask whether it would be elected.
    pub noticed: Instant,
    /// It had a majority of votes.
    pub won: Instant,
}

impl Timeline {
    /// Durations from `last_heard` to noticing, winning, and `committed`.
    #[must_use]
    pub fn steps(&self, committed: Instant) -> [Duration; 3] {
        [self.noticed, self.won, committed].map(|moment| moment.since(self.last_heard))
    }
}

/// A change that people follow in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// This node asks for votes.
    ElectionStarted {
        /// The term it campaigns in.
        term: Term,
        /// Why.
        cause: Cause,
    },
    /// This node won, and committed the first entry of its term.
    Elected {
        /// Its term.
        term: Term,
        /// How it went.
        timeline: Timeline,
        /// When the first entry of the term was committed.
        committed: Instant,
    },
    /// This node learned of a leader.
    NewLeader {
        /// The leader.
        leader: NodeId,
        /// Its term.
        term: Term,
    },
    /// This node led and gives way.
    SteppingDown {
        /// The term that it led.
        from: Term,
        /// The term that it saw, or the same if it lost its quorum.
        to: Term,
    },
    /// A peer broke the protocol; its message was dropped.
    ProtocolViolation {
        /// The peer.
        from: NodeId,
        /// What it did.
        what: &'static str,
    },
}

/// Messages on their way out of the core.
///
/// A promise (a vote, an acknowledgement, a request for votes by which a node votes for itself)
/// must not leave before the disk has what it promises. So nobody holds it before: it waits in
/// `promises`, and only [`Outbox::release`] makes it a message.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: Vec<Envelope>,
    promises: Vec<Envelope>,
    /// The promises that wait for the batch under way.
    in_batch: Vec<Envelope>,
    /// What arrived for the caller alone.
    handed_up: Vec<SnapshotInput>,
}

impl Outbox {
    /// A message that promises nothing.
    pub(super) fn send(&mut self, to: NodeId, message: Message) {
        self.messages.push(Envelope { to, message });
    }

    /// A message that may leave only after the next batch is durable.
    pub(super) fn promise(&mut self, to: NodeId, message: Message) {
        self.promises.push(Envelope { to, message });
    }

    /// Promises to acknowledge entries: one answer a turn, with the highest match.
    pub(super) fn promise_match(&mut self, to: NodeId, term: Term, match_index: LogIndex) {
        for promise in &mut self.promises {
            if let Message::AppendEntriesResponse(AppendEntriesResponse {
                result: AppendResult::Match { match_index: highest },
                ..
            }) = &mut promise.message
                && promise.to == to
            {
                *highest = match_index.max(*highest);
                return;
            }
        }
        let result = AppendResult::Match { match_index };
        let message = Message::AppendEntriesResponse(AppendEntriesResponse { term, result });
        if is_planted(Bug::AckBeforeSync) {
            return self.send(to, message);
        }
        self.promise(to, message);
    }

    /// What arrived about a snapshot's bytes, which are the caller's.
    pub(super) fn hand_up(&mut self, input: SnapshotInput) {
        self.handed_up.push(input);
    }

    /// Takes what arrived for the caller.
    pub(super) fn take_handed_up(&mut self) -> Vec<SnapshotInput> {
        std::mem::take(&mut self.handed_up)
    }

    /// A new term began: a promise of an older one serves nobody.
    pub(super) fn forget_promises(&mut self) {
        self.promises.clear();
    }

    /// Takes what may leave now.
    pub(super) fn take_messages(&mut self) -> Vec<Envelope> {
        std::mem::take(&mut self.messages)
    }

    /// The batch is about to be written: what was promised so far waits for it.
    pub(super) fn begin_batch(&mut self) {
        self.in_batch.append(&mut self.promises);
    }

    /// The batch is durable: its promises become messages.
    pub(super) fn release(&mut self) {
        self.messages.append(&mut self.in_batch);
    }

    /// Whether nothing waits to leave: now, after the disk, or to the caller.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.promises.is_empty() && self.handed_up.is_empty()
    }
}

impl Raft {
    /// What shall be done at the end of a turn. Its messages may be sent at once; its hard state
    /// and entries must be made durable and its mark given to `advance` before the next call.
    ///
    /// # Panics
    /// If the last mark was not given back.
    #[must_use]
    pub fn ready(&mut self, now: Instant) -> Ready {
        assert_eq!(self.core.durable.under_way, None, "advance() comes before the next ready()");
        match &mut self.role {
            Role::Leader(leader) => leader.fill_messages(&mut self.core, now),
            Role::Follower(follower) => follower.send_read_index(&mut self.core, now),
            Role::Candidate(_) => {}
        }
        let core = &mut self.core;
        core.durable.batches += 1;
        core.outbox.begin_batch();
        let mark = Mark { number: core.durable.batches, hard_state: core.hard_state, last: core.log.last() };
        core.durable.under_way = Some(mark);
        let is_changed = core.hard_state != core.durable.hard_state;
        Ready {
            messages: core.outbox.take_messages(),
            hard_state: is_changed.then_some(core.hard_state),
            entries: core.log.unstable(),
            mark,
        }
    }

    /// What `mark` names is durable: gives the messages that promised it, counts this node's own
    /// vote and entries, and tells followers of what that committed. `now` is read after the write:
    /// the patience for answers begins when the questions leave.
    ///
    /// # Panics
    /// If `mark` is not the one of the last `ready`.
    #[must_use]
    pub fn advance(&mut self, now: Instant, mark: Mark) -> Vec<Envelope> {
        assert_eq!(self.core.durable.under_way.take(), Some(mark), "the mark of another turn");
        let before = std::mem::replace(&mut self.core.durable.hard_state, mark.hard_state);
        self.core.log.stable_to(mark.last);
        self.core.outbox.release();
        let transition = match &mut self.role {
            Role::Candidate(candidate) if self.core.durable.hard_state == self.core.hard_state => {
                candidate.on_own_vote_durable(&mut self.core, now)
            }
            Role::Follower(follower) if before != mark.hard_state && mark.hard_state.voted_for.is_some() => {
                follower.on_vote_durable(&mut self.core, now);
                Transition::Stay
            }
            _ => Transition::Stay,
        };
        self.transition(now, transition);
        if let Role::Leader(leader) = &mut self.role {
            leader.advance_commit(&mut self.core, now);
            leader.tell_commit(&mut self.core);
        }
        invariants::check(self);
        self.core.outbox.take_messages()
    }

    /// Whether the end of a turn has anything to do: to send, to write, or to apply. What waits only
    /// for time or for somebody's answer is not among it.
    #[must_use]
    pub fn has_ready(&self, now: Instant) -> bool {
        let core = &self.core;
        let has_role_work = match &self.role {
            Role::Leader(leader) => leader.has_work(core, now),
            Role::Follower(follower) => follower.wants_request(core, now),
            Role::Candidate(_) => false,
        };
        has_role_work
            || !core.outbox.is_empty()
            || core.hard_state != core.durable.hard_state
            || core.log.stable() < core.log.last_index()
            || core.log.applied() < core.log.committed()
    }

    /// The next committed entry to apply, each once and in order.
    pub fn next_to_apply(&mut self) -> Option<Entry> {
        self.core.log.next_to_apply()
    }

    /// The answers to `read_index` since the last call.
    pub fn take_reads(&mut self) -> Vec<ReadState> {
        std::mem::take(&mut self.core.reads)
    }

    /// How far each follower of this leader is known to have come: durably there, and committed. Empty
    /// if this node does not lead.
    pub fn acknowledged(&self) -> impl Iterator<Item = (NodeId, LogIndex)> {
        let leader = match &self.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        };
        leader.into_iter().flat_map(|leader| leader.acknowledged(&self.core))
    }

    /// Bytes of entries under way to the follower to whom most are; none unless this node leads.
    #[must_use]
    pub fn in_flight_bytes(&self) -> usize {
        match &self.role {
            Role::Leader(leader) => leader.in_flight_bytes(),
            _ => 0,
        }
    }

    /// What people should be told since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.core.events)
    }
}
