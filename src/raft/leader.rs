//! Leaders: replication, commitment, heartbeats, and handing over.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::core::{Core, ProposeError};
use super::log::Position;
use super::node::Transition;
use super::progress::{Progress, ProgressState};
use super::quorum;
use super::read_index::{Reader, Rounds};
use super::ready::{Event, ReadState, Timeline};
use super::snapshots::SnapshotInput;
use super::transfer::Transfer;
use crate::planted::{Bug, is_planted};
use crate::time::{Duration, Instant};
use crate::types::{ClusterTime, LogIndex, NodeId, Term};
use crate::wire::entry::{Entry, Payload};
use crate::wire::peer::{
    AppendEntries, AppendEntriesResponse, AppendResult, Heartbeat, HeartbeatResponse, InstallResult,
    InstallSnapshotResponse, Message, ReadIndex, ReadIndexResponse, TimeoutNow,
};

/// A leader's own state: "volatile state on leaders" (Figure 2), and its rounds.
///
/// Invariants: `progress` holds every other voter; `no_op` is the index of the first entry of the
/// leader's own term, and nothing is committed by counting below it (section 5.4.2).
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) progress: BTreeMap<NodeId, Progress>,
    rounds: Rounds,
    heartbeat_deadline: Instant,
    no_op: LogIndex,
    term: Term,
    /// How it was won; taken when the first entry of the term commits and people are told.
    timeline: Option<Timeline>,
    pub(super) transfer: Option<Transfer>,
}

impl Leader {
    /// "Upon election": begins with an entry that does nothing (section 8), since it may only
    /// commit entries of its own term by counting, and with them all before.
    pub(super) fn new(core: &mut Core, now: Instant, timeline: Timeline) -> Self {
        let last_index = core.log.last_index();
        let peers = core.peers();
        let progress = peers
            .into_iter()
            .map(|id| (id, Progress::new(&core.config, last_index, !core.links.contains(&id), now)));
        let mut leader = Self {
            progress: progress.collect(),
            rounds: Rounds::new(now),
            heartbeat_deadline: now,
            no_op: last_index.next(),
            term: core.term(),
            timeline: Some(timeline),
            transfer: None,
        };
        let leader_id = core.config.id;
        leader.append(core, core.log.last_stamp(), Payload::NoOp { leader: leader_id });
        leader
    }

    fn append(&mut self, core: &mut Core, stamp: ClusterTime, payload: Payload) -> LogIndex {
        let index = core.log.last_index().next();
        let stamp = stamp.max(core.log.last_stamp());
        core.log.append(Entry::new(index, core.term(), stamp, payload));
        index
    }

    /// "If command received from client: append entry to local log, respond after entry applied to
    /// state machine" (Figure 2).
    pub(super) fn propose(
        &mut self,
        core: &mut Core,
        stamp: ClusterTime,
        command: Bytes,
    ) -> Result<LogIndex, ProposeError> {
        if self.transfer.is_some() {
            return Err(ProposeError::Transferring);
        }
        if core.log.uncommitted_bytes() >= core.config.max_uncommitted_bytes {
            return Err(ProposeError::Full);
        }
        Ok(self.append(core, stamp, Payload::Command(command)))
    }

    pub(super) fn next_deadline(&self, core: &Core) -> Instant {
        let transfer = self.transfer.map_or(Instant::MAX, |transfer| transfer.next_deadline());
        let quorum_lost = self.heard_quorum_at() + core.config.election_max;
        self.heartbeat_deadline.min(transfer).min(quorum_lost)
    }

    /// Gives way after a maximum election timeout without a quorum (thesis 6.2), ends a hand-over
    /// that takes too long, and makes the next heartbeat due.
    pub(super) fn tick(&mut self, core: &mut Core, now: Instant) -> Transition {
        self.tick_transfer(core, now);
        let has_quorum = self.has_fresh_quorum(now, core.config.election_max);
        if has_quorum { Transition::Stay } else { Transition::Follower }
    }

    /// Whether a majority was heard to follow this leader within `window`.
    pub(super) fn has_fresh_quorum(&self, now: Instant, window: Duration) -> bool {
        now.since(self.heard_quorum_at()) < window
    }

    /// When a majority was last heard, this node always among it.
    fn heard_quorum_at(&self) -> Instant {
        let heard = self.progress.values().map(|progress| progress.heard_at);
        quorum::reached(heard.chain([Instant::MAX]).collect())
    }

    /// A follower answered what this leader sent in this term, and not in a round. On a slow link or at
    /// a slow disk many entries lie ahead of a heartbeat, and its answer may take longer than this
    /// leader is patient, though others come all the time. That they came says enough here, where only
    /// patience depends on it; what a read is told depends on rounds alone.
    pub(super) fn on_answer(&mut self, now: Instant, from: NodeId) {
        if let Some(progress) = self.progress.get_mut(&from) {
            progress.heard_at = progress.heard_at.max(now);
        }
    }

    /// The end of a turn: a round for the reads that wait or because a heartbeat is due, then the
    /// turn's entries.
    pub(super) fn fill_messages(&mut self, core: &mut Core, now: Instant) {
        if self.wants_round(core, now) {
            self.begin_round(core, now);
        }
        self.fill_appends(core);
        self.tell_commit(core);
    }

    /// Whether `fill_messages` would send anything.
    pub(super) fn has_work(&self, core: &Core, now: Instant) -> bool {
        let wants = |progress: &Progress| {
            Self::wants_append(core, progress)
                || (progress.window.is_empty() && news(core, progress).is_some())
        };
        self.wants_round(core, now) || self.progress.values().any(wants)
    }

    fn wants_round(&self, core: &Core, now: Instant) -> bool {
        let is_read_ready = self.rounds.has_waiting() && self.may_read(core);
        is_read_ready || now >= self.heartbeat_deadline
    }

    /// Once an entry of its own is committed; until then earlier leaders may have committed more than
    /// this one knows of (section 8).
    fn may_read(&self, core: &Core) -> bool {
        core.log.committed() >= self.no_op || is_planted(Bug::ReadBeforeNoOp)
    }

    fn begin_round(&mut self, core: &mut Core, now: Instant) {
        let committed = core.log.committed();
        let read_index = self.may_read(core).then_some(committed);
        let round = self.rounds.begin(now, read_index);
        self.heartbeat_deadline = now + core.config.heartbeat;
        for (id, progress) in &mut self.progress {
            let commit = committed.min(progress.match_index());
            progress.told_commit = progress.told_commit.max(commit);
            progress.window.on_heartbeat(&core.config, now, round);
            let heartbeat = Heartbeat { term: core.term(), commit, round };
            core.outbox.send(*id, Message::Heartbeat(heartbeat));
        }
        self.confirm_rounds(core); // a leader without followers is a majority
    }

    fn wants_append(core: &Core, progress: &Progress) -> bool {
        let has_entries = progress.next_index() <= core.log.last_index();
        let is_probe = matches!(progress.state(), ProgressState::Probe { .. });
        (progress.poke && !is_planted(Bug::LossNotNoticed))
            || (may_send(core, progress) && (has_entries || is_probe))
    }

    /// At most one AppendEntries for each follower and turn, with all that fits; the rest follows
    /// within the follower's [window](super::window).
    fn fill_appends(&mut self, core: &mut Core) {
        for (id, progress) in &mut self.progress {
            if !Self::wants_append(core, progress) {
                continue;
            }
            let prev_log_index = progress.next_index().prev();
            let Some(prev_log_term) = core.log.term_at(prev_log_index) else {
                let snapshot =
                    core.durable.snapshot.as_ref().expect("only what a snapshot has is not in the log");
                if !is_planted(Bug::NoSnapshotSent) {
                    progress.begin_snapshot(snapshot.index);
                }
                continue;
            };
            let entries = match may_send(core, progress) {
                true => core.log.entries_from(progress.next_index(), progress.window.room(&core.config)),
                false => Vec::new(), // only to find out whether the full window was lost
            };
            let bytes = entries.iter().map(|entry| entry.encoded().len()).sum();
            let last_index = prev_log_index.plus(entries.len() as u64);
            let leader_commit = core.log.committed();
            let term = core.term();
            progress.on_sent(last_index, bytes);
            progress.told_commit = progress.told_commit.max(leader_commit.min(last_index));
            let append = AppendEntries { term, prev_log_index, prev_log_term, entries, leader_commit };
            core.outbox.send(*id, Message::AppendEntries(append));
        }
    }

    pub(super) fn on_append_entries_response(
        &mut self,
        core: &mut Core,
        now: Instant,
        from: NodeId,
        message: AppendEntriesResponse,
    ) {
        let last_index = core.log.last_index();
        let Some(progress) = self.progress.get_mut(&from) else { return };
        match message.result {
            AppendResult::Match { match_index } if match_index <= last_index => {
                if progress.on_match(match_index) {
                    self.advance_commit(core, now);
                    self.continue_transfer(core, now);
                }
            }
            AppendResult::Conflict { prev_log_index, hint_index, hint_term }
                if prev_log_index <= last_index =>
            {
                let hint = Position { index: hint_index, term: hint_term };
                // Nothing is known of what lies below the log's base: a snapshot must go there.
                let next_index = match hint_index < core.log.base().index {
                    true => hint_index.next(),
                    false => core.log.last_possible_match(hint).index.next(),
                };
                progress.on_conflict(prev_log_index, next_index);
            }
            _ => core.violation(from, "an acknowledgement of what was never sent"),
        }
    }

    /// A follower tells how far it is with a snapshot. It matches up to its index when it is
    /// installed durably, and not before.
    pub(super) fn on_install_snapshot_response(
        &mut self,
        core: &mut Core,
        now: Instant,
        from: NodeId,
        message: InstallSnapshotResponse,
    ) {
        let Some(progress) = self.progress.get_mut(&from) else { return };
        match message.result {
            InstallResult::Received { .. } => core.outbox.hand_up(SnapshotInput::Answer(from, message)),
            InstallResult::Installed if message.snapshot.index <= core.log.committed() => {
                if progress.on_match(message.snapshot.index) {
                    self.advance_commit(core, now);
                    self.continue_transfer(core, now);
                }
            }
            InstallResult::Installed => core.violation(from, "a snapshot that was never sent"),
        }
    }

    /// Up to which index a snapshot must reach that is to be sent to this follower, if one is.
    pub(super) fn snapshot_wanted(&self, core: &Core, id: NodeId) -> Option<LogIndex> {
        match self.progress.get(&id)?.state() {
            ProgressState::Snapshot { index } if core.links.contains(&id) => Some(index),
            _ => None,
        }
    }

    /// How far each follower has come with what is committed. What it acknowledged beyond, it may yet
    /// have to give up.
    pub(super) fn acknowledged(&self, core: &Core) -> impl Iterator<Item = (NodeId, LogIndex)> {
        let committed = core.log.committed();
        self.progress.iter().map(move |(id, progress)| (*id, progress.match_index().min(committed)))
    }

    /// The lowest index that a linked follower is known to have, or will have by the snapshot that
    /// is being sent: the entries after it are still wanted.
    pub(super) fn wanted_after(&self, core: &Core) -> LogIndex {
        let linked = self.progress.iter().filter(|(id, _)| core.links.contains(id));
        let after = linked.map(|(_, progress)| match progress.state() {
            ProgressState::Snapshot { index } => index,
            _ => progress.match_index(),
        });
        after.min().unwrap_or(core.log.last_index())
    }

    pub(super) fn on_heartbeat_response(
        &mut self,
        core: &mut Core,
        now: Instant,
        from: NodeId,
        message: HeartbeatResponse,
    ) {
        if message.round == 0 {
            return; // an answer to a heartbeat of an earlier term
        }
        if message.round > self.rounds.current() {
            core.violation(from, "an answer to a round that never began");
            return;
        }
        let Some(progress) = self.progress.get_mut(&from) else { return };
        let round = if is_planted(Bug::LateRoundCounted) { self.rounds.current() } else { message.round };
        progress.acked_round = progress.acked_round.max(round);
        progress.heard_at = self.rounds.begun_at(message.round).unwrap_or_default().max(progress.heard_at);
        progress.window.on_heartbeat_answered(&core.config, now, message.round);
        progress.on_heard(core.log.last_index());
        self.confirm_rounds(core);
    }

    fn confirm_rounds(&mut self, core: &mut Core) {
        let acked = self.progress.values().map(|progress| progress.acked_round);
        let reached = quorum::reached(acked.chain([self.rounds.current()]).collect());
        let reached = if is_planted(Bug::ReadWithoutRound) { self.rounds.current() } else { reached };
        for (read_index, reader) in self.rounds.confirm(reached) {
            self.answer_read(core, read_index, reader);
        }
    }

    fn answer_read(&mut self, core: &mut Core, read_index: LogIndex, reader: Reader) {
        match reader {
            Reader::Local { batch } => core.reads.push(ReadState { batch, read_index: Some(read_index) }),
            Reader::Remote { follower, request } => {
                let term = core.term();
                let answer = ReadIndexResponse { term, request, read_index: Some(read_index) };
                core.outbox.send(follower, Message::ReadIndexResponse(answer));
                if let Some(progress) = self.progress.get_mut(&follower) {
                    tell_commit(core, follower, progress);
                }
            }
        }
    }

    /// A follower's reads (thesis 6.4, last paragraph).
    pub(super) fn on_read_index(&mut self, from: NodeId, message: ReadIndex) {
        self.rounds.register(Reader::Remote { follower: from, request: message.request });
    }

    /// This node's own reads.
    pub(super) fn read_index(&mut self, batch: u64) {
        self.rounds.register(Reader::Local { batch });
    }

    /// "If there exists an N such that N > commitIndex, a majority of matchIndex[i] ≥ N, and
    /// log[N].term == currentTerm: set commitIndex = N" (Figure 2, sections 5.3 and 5.4). This
    /// node counts with what is on its own disk.
    pub(super) fn advance_commit(&mut self, core: &mut Core, now: Instant) {
        let matched = self.progress.values().map(Progress::match_index);
        let own =
            if is_planted(Bug::OwnEntriesCountedEarly) { core.log.last_index() } else { core.log.stable() };
        let reached = quorum::reached(matched.chain([own]).collect());
        if reached <= core.log.committed() || !may_commit(core, reached) {
            return;
        }
        core.commit_to(reached);
        if let Some(timeline) = self.timeline.take() {
            core.events.push(Event::Elected { term: core.term(), timeline, committed: now });
        }
    }

    /// Tells the commit index to followers to whom nothing is under way that would tell it soon:
    /// their own reads and stale reads wait for it.
    pub(super) fn tell_commit(&mut self, core: &mut Core) {
        for (id, progress) in self.progress.iter_mut().filter(|(_, progress)| progress.window.is_empty()) {
            tell_commit(core, *id, progress);
        }
    }

    /// A round begins at once: over links that flap, the next heartbeat due may find none again, and
    /// a leader that is followed would give way for want of answers. If the link replaces another one, an
    /// order to campaign may have been lost with that.
    pub(super) fn on_link_up(&mut self, core: &mut Core, now: Instant, peer: NodeId) {
        self.heartbeat_deadline = self.heartbeat_deadline.min(now);
        if let Some(progress) = self.progress.get_mut(&peer) {
            progress.probe(false);
        }
        if self.has_ordered(peer) {
            core.outbox.send(peer, Message::TimeoutNow(TimeoutNow { term: core.term() }));
        }
    }

    /// What was under way may be lost. A hand-over to this peer is over: unless its order was
    /// confirmed it cannot win, and if it was, this node hears the new term soon.
    pub(super) fn on_link_down(&mut self, peer: NodeId) {
        if let Some(progress) = self.progress.get_mut(&peer) {
            progress.probe(true);
        }
        if self.transfer.is_some_and(|transfer| transfer.to() == peer) {
            self.transfer = None;
        }
    }

    /// Bytes of entries under way to the follower to whom most are.
    pub(super) fn in_flight_bytes(&self) -> usize {
        self.progress.values().map(|progress| progress.window.in_flight_bytes()).max().unwrap_or(0)
    }

    pub(super) fn counted_of(&self, peer: NodeId) -> Option<(LogIndex, u64)> {
        self.progress.get(&peer).map(|progress| (progress.match_index(), progress.acked_round))
    }

    /// Leadership is over: whoever waits for a read index must ask again.
    pub(super) fn give_way(self, core: &mut Core) {
        let term = core.term();
        core.events.push(Event::SteppingDown { from: self.term, to: term });
        for reader in self.rounds.abandon() {
            match reader {
                Reader::Local { batch } => core.reads.push(ReadState { batch, read_index: None }),
                Reader::Remote { follower, request } => {
                    let answer = ReadIndexResponse { term, request, read_index: None };
                    core.speak(follower, Message::ReadIndexResponse(answer));
                }
            }
        }
    }
}

/// Entries of earlier terms are committed by one of this term only (Figure 8).
fn may_commit(core: &Core, index: LogIndex) -> bool {
    core.log.term_at(index) == Some(core.term()) || is_planted(Bug::OldTermCounted)
}

/// Whether the next entries may be sent within the follower's window.
fn may_send(core: &Core, progress: &Progress) -> bool {
    let entry = core.log.entry(progress.next_index());
    progress.may_send(&core.config, entry.map_or(0, |entry| entry.encoded().len()))
}

/// The commit index, as far as the follower is known to match, if it was not told that much.
fn news(core: &Core, progress: &Progress) -> Option<LogIndex> {
    let commit = core.log.committed().min(progress.match_index());
    (commit > progress.told_commit).then_some(commit)
}

/// Tells one follower the commit index, if that is news to it. Asks for no answer.
fn tell_commit(core: &mut Core, follower: NodeId, progress: &mut Progress) {
    if let Some(commit) = news(core, progress) {
        progress.told_commit = commit;
        let heartbeat = Heartbeat { term: core.term(), commit, round: 0 };
        core.outbox.send(follower, Message::Heartbeat(heartbeat));
    }
}
