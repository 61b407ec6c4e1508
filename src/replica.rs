//! One node of the cluster, without its sockets: introduces consensus, the state machine and the
//! durable log to each other.
//!
//! Inputs are the `on_…` calls, [`Replica::found`], [`Replica::begin_hand_over`] and
//! [`Replica::tick`]. All effects leave once a turn, by [`Replica::process_ready`], in an order that
//! is written there and nowhere else. The server and the simulator run this very code.

mod announce;
mod back_pressure;
mod backups;
mod caps;
mod cluster_clock;
mod founding;
mod hand_over;
mod members;
mod parking;
mod reads;
mod receiving;
mod recovered;
mod requests;
mod snapshots;
mod space;
mod standing;
mod timers;
mod writes;

use crate::kv::StateMachine;
use crate::planted::{Bug, is_planted};
use crate::raft::Raft;
use crate::storage::{self, Batch, Disk, Recovered, Storage};
use crate::time::{Duration, Instant};
use crate::types::{BootNumber, Incarnation, LogIndex, NodeId, Revision, Term};
use crate::wire::client::{Bound, Command, Request, Response, ResponseBody};
use crate::wire::entry::{Configuration, Entry, Payload};
use crate::wire::peer::{Envelope, Message};

pub use caps::Caps;

use founding::Restored;
use hand_over::HandOver;
use members::Members;
use parking::{Arrival, Parking};
use reads::Reads;
use snapshots::Snapshots;
use space::Space;
use timers::{Timer, Timers};
use writes::Writes;

pub use recovered::{StateError, check_commands, state_of};
pub use snapshots::SnapshotOptions;

/// A client's connection, as the server names it; opaque here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientConnection(pub u64);

/// Where messages and answers go. The server's message bus implements it, and the simulator.
pub trait Transport {
    /// Queues a message to a member. Without a link to it the message is dropped: Raft sends again.
    fn send(&mut self, to: NodeId, message: &Message);
    /// Queues an answer. If the connection is gone it is dropped: the client asks again.
    fn reply(&mut self, client: ClientConnection, response: &Response);
    /// Writes out what is queued, as far as the sockets take it now.
    fn flush(&mut self);
    /// What is bounded on the way, for `status`; nothing, unless an implementation says so.
    fn bounds(&self) -> Vec<Bound> {
        Vec::new()
    }
}

/// What a replica is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The `HOST:PORT` at which clients reach this node.
    pub address: String,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// The shortest election timeout.
    pub election_min: Duration,
    /// The longest.
    pub election_max: Duration,
    /// Whether acknowledged writes are on disk (not with `--unsafe-no-fsync`).
    pub fsync: bool,
    /// Seed of the jitter.
    pub seed: u64,
    /// When snapshots are taken.
    pub snapshots: SnapshotOptions,
}

/// One node of the cluster without its sockets.
///
/// Invariants: the state machine's revision is the log's applied index; every answer goes through
/// `answers` and leaves in `process_ready`, never before what it tells is durable on a majority.
pub struct Replica<D: Disk> {
    own: Own,
    raft: Raft,
    state: StateMachine,
    storage: Storage<D>,
    members: Members,
    writes: Writes,
    reads: Reads,
    parking: Parking,
    timers: Timers,
    snapshots: Snapshots<D::File>,
    answers: Vec<(ClientConnection, Response)>,
    hand_over: HandOver,
}

/// Who this node is, as storage and the command line have it, and what it saw last of its leader.
struct Own {
    id: NodeId,
    incarnation: Incarnation,
    boot: BootNumber,
    fsync: bool,
    started: Instant,
    /// The leader and term for which parked requests were last looked through.
    leader_seen: (Option<NodeId>, Term),
    /// Since when this leader's uncommitted log is at its cap, at this commit index.
    full_since: Option<(Instant, LogIndex)>,
    /// What room its disk has.
    space: Space,
    /// A broken protocol is not told of again before this.
    no_complaint_before: Instant,
}

/// Entries applied in one step of a turn; the rest follows in the next turn.
const MAX_APPLY_ENTRIES: usize = 4096;

impl<D: Disk> Replica<D> {
    /// Takes what storage recovered.
    ///
    /// # Errors
    /// If the state in its snapshot, or a command in its log, is of another format.
    pub fn new(
        options: Options,
        storage: Storage<D>,
        recovered: Recovered,
        now: Instant,
    ) -> Result<Self, StateError> {
        Self::with_caps(options, Caps::default(), storage, recovered, now)
    }

    /// The same with other caps.
    ///
    /// # Errors
    /// As [`Replica::new`].
    pub fn with_caps(
        options: Options,
        caps: Caps,
        storage: Storage<D>,
        recovered: Recovered,
        now: Instant,
    ) -> Result<Self, StateError> {
        let config = caps.raft_config(recovered.node, &options);
        let mut snapshots = Snapshots::new(&options, caps.sessions, storage.snapshot_id());
        if let (state, Some(snapshot)) = recovered::state_and_snapshot(recovered.restored, caps.sessions)? {
            snapshots.restored = Some(Restored { snapshot, state, configuration: None });
        }
        let (state, snapshot) = recovered::state_and_snapshot(recovered.snapshot, caps.sessions)?;
        check_commands(&recovered.entries)?;
        Ok(Self {
            own: Own {
                id: recovered.node,
                incarnation: recovered.incarnation,
                boot: recovered.boot,
                fsync: options.fsync,
                started: now,
                leader_seen: (None, Term::ZERO),
                full_since: None,
                space: Space::default(),
                no_complaint_before: now,
            },
            raft: Raft::recover(config, recovered.hard_state, snapshot, recovered.entries, now),
            state,
            storage,
            members: Members::new(recovered.node, options.address, recovered.peers),
            writes: Writes::default(),
            reads: Reads::default(),
            parking: Parking::default(),
            timers: Timers::new(now),
            snapshots,
            answers: Vec::new(),
            hand_over: HandOver::default(),
        })
    }

    /// A message of a member arrived on its link.
    pub fn on_message(&mut self, now: Instant, from: NodeId, message: Message) {
        match message {
            Message::Found(configuration) => self.on_found(now, from, configuration),
            Message::InstallSnapshot(chunk) if chunk.term == Term::ZERO => {
                self.on_founding_chunk(from, chunk);
            }
            Message::InstallSnapshotResponse(answer) if self.snapshots.newcomers.contains(&from) => {
                self.on_newcomer_answer(now, from, answer);
            }
            Message::Standing(standing) => self.on_standing(from, &standing),
            message => {
                // Only members of a cluster say anything else: it has joined.
                self.snapshots.newcomers.remove(&from);
                self.raft.step(now, from, message);
            }
        }
    }

    /// Bytes of this member wait to be read: no election may begin for want of them.
    pub fn on_unread(&mut self, now: Instant, from: NodeId) {
        self.raft.on_unread(now, from);
    }

    /// A client's request arrived.
    pub fn on_request(&mut self, now: Instant, client: ClientConnection, request: Request) {
        self.serve(now, Arrival::new(now, client, request));
    }

    /// A client's connection is closed: what waits for a leader, or for its word, dies with it.
    pub fn on_client_gone(&mut self, client: ClientConnection) {
        self.reads.on_client_gone(client);
        self.hand_over.on_client_gone(client);
        self.snapshots.backups.on_client_gone(client);
        for timer in self.parking.take_of(client) {
            self.timers.wheel.cancel(timer);
        }
    }

    /// There is a link to this member (again).
    pub fn on_link_up(&mut self, now: Instant, peer: NodeId, boot: BootNumber, address: &str) {
        self.members.on_link_up(peer, boot, address, self.raft.configuration().is_some());
        self.raft.on_link_up(now, peer);
        self.resign_again(now);
    }

    /// The operator's list has this member at an address at which it was not met. Only people are told of
    /// it: to clients it may lead nowhere.
    pub fn on_peer_listed(&mut self, peer: NodeId, address: String) {
        self.members.on_listed(peer, address);
    }

    /// The link to this member was lost; a redial will tell whether the member is dead.
    pub fn on_link_down(&mut self, now: Instant, peer: NodeId) {
        self.snapshots.newcomers.remove(&peer);
        self.members.on_link_down(now, peer);
        self.raft.on_link_down(now, peer);
    }

    /// Evidence that the process behind the lost link is dead: the redial was refused, or was
    /// answered by a higher boot.
    pub fn on_peer_dead(&mut self, now: Instant, peer: NodeId) {
        self.raft.on_peer_dead(now, peer);
    }

    /// The members; none before the founding.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.raft.configuration()
    }

    /// The leader of the current term, if known (possibly this node).
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.leader()
    }

    fn leads(&self) -> bool {
        self.raft.leader() == Some(self.own.id)
    }

    /// The consensus state, to look at.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The state machine, to look at.
    #[must_use]
    pub fn state(&self) -> &StateMachine {
        &self.state
    }

    /// Fires what is due.
    pub fn tick(&mut self, now: Instant) {
        let mut fired = Vec::new();
        self.timers.wheel.advance(now, &mut fired);
        for (key, timer) in fired {
            match timer {
                Timer::Raft => {
                    self.timers.raft = None;
                    self.raft.tick(now);
                }
                Timer::Parked { slot } => self.on_parking_over(slot, key),
                // Only to wake: whether there is news is looked at in every turn.
                Timer::Telling => self.timers.telling = None,
                Timer::Room => self.timers.room = None,
                Timer::Expiry => {
                    self.timers.expiry = None;
                    self.propose_expiry(now);
                }
            }
        }
    }

    /// When `tick` must be called at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        self.timers.wheel.next_wake()
    }

    /// Whether `process_ready` has work left that waits for nothing.
    #[must_use]
    pub fn has_work(&self, now: Instant) -> bool {
        let log = self.raft.log();
        log.applied() < log.committed()
            || self.reads.has_turn()
            || self.reads.has_answerable(log.applied())
            || !self.answers.is_empty()
            || self.has_spare_work(now)
            || self.has_snapshot_work(now)
            || self.raft.has_ready(now)
    }

    /// The effects of a turn, in this order and for these reasons:
    ///
    /// 1. Send what promises nothing (entries, heartbeats, rounds of reads, pre-votes): followers
    ///    write to their disks while this node writes to its own.
    /// 2. Apply what is committed already and answer those clients. Their entries are durable on a
    ///    majority; they need not wait for this turn's disk.
    /// 3. Make the hard state and the new entries durable: one write, one sync, and an unsynced marker
    ///    that says so; only if there is something.
    /// 4. Send what that allows to promise (votes, acknowledgements, requests for votes). Nobody
    ///    held these messages before.
    /// 5. Apply and answer what that committed, and tell followers of it.
    /// 6. What others should know of this node, and one slice of snapshots: nobody waits for either, and
    ///    they wait for nobody.
    ///
    /// `now` is when the turn began. A sync may take long, and what leaves after it begins to wait for
    /// its answer only then: `after_sync` tells the time again, and is called after a sync only.
    ///
    /// # Errors
    /// A failed write. It is never retried: the process must end.
    pub fn process_ready(
        &mut self,
        mut now: Instant,
        after_sync: impl FnOnce() -> Instant,
        transport: &mut impl Transport,
    ) -> Result<(), storage::WriteError> {
        self.reads.forget_gone();
        self.look_for_leader(now);
        if let Some(batch) = self.reads.begin_batch() {
            self.raft.read_index(batch);
        }
        let ready = self.raft.ready(now);
        send(transport, &ready.messages);
        transport.flush();

        self.apply_committed(now);
        self.reply(transport);

        let has_hard_state = ready.hard_state.is_some() && !is_planted(Bug::HardStateNotStored);
        if has_hard_state || !ready.entries.is_empty() {
            let peers = self.members.take_unstored();
            let batch = Batch { hard_state: ready.hard_state, entries: &ready.entries, peers: &peers };
            self.storage.persist(&batch)?;
            // Before anything is said of it: what was promised must not pass for a torn write.
            self.storage.mark_synced()?;
            now = now.max(after_sync());
        } else if self.may_prepare_spare(now) {
            self.prepare_spare(now)?;
        }

        let promised = self.raft.advance(now, ready.mark);
        send(transport, &promised);

        self.look_for_leader(now);
        self.apply_committed(now);
        self.reply(transport);

        self.look_at_space(now);
        self.note_acknowledged();
        self.tell_standing(now, transport);
        self.work_on_snapshots(now, transport)?;
        self.storage.mark_synced()?;
        self.announce(now);
        self.arm_timers(now);
        self.note_whether_full(now);
        Ok(())
    }

    /// Applies a bounded number of committed entries, answers who waited for them, and the reads
    /// that their state answers.
    fn apply_committed(&mut self, now: Instant) {
        for _ in 0..MAX_APPLY_ENTRIES {
            let Some(entry) = self.raft.next_to_apply() else { break };
            self.apply(now, entry);
        }
        self.take_read_indexes(now);
        self.answer_reads(now);
    }

    /// Reads whose leader is gone before it told their index ask the next one, or wait for it.
    fn take_read_indexes(&mut self, now: Instant) {
        for state in self.raft.take_reads() {
            for read in self.reads.on_read_state(state) {
                self.serve(now, read);
            }
        }
    }

    fn apply(&mut self, now: Instant, entry: Entry) {
        let (index, revision) = (entry.index, Revision::from(entry.index));
        self.snapshots.on_applied(&entry);
        match entry.payload {
            Payload::NoOp { .. } => {
                self.state.advance(revision, entry.stamp);
                // Not if this node gave way between the entry's commitment and now.
                if self.leads() && entry.term == self.raft.term() {
                    self.timers.clock.start(entry.stamp, now);
                }
            }
            Payload::Configuration(_) => self.state.advance(revision, entry.stamp),
            Payload::Command(command) => {
                let command = Command::decode(command).unwrap_or_else(|error| {
                    panic!(
                        "entry {index} holds a command of another version ({error}): it must not be skipped"
                    )
                });
                let is_local = is_planted(Bug::ExpiryByLocalClock) && command == Command::ExpireSessions;
                let stamp =
                    if is_local { entry.stamp.plus(now.since(self.own.started)) } else { entry.stamp };
                self.apply_command(index, entry.term, stamp, command);
            }
        }
        self.refuse_overwritten(index);
    }

    /// Notices that the leader or the term changed: a node that was elected looks for writes that
    /// its log holds already, one that lost its leadership forgets them, and requests that wait for
    /// a leader are looked through.
    fn look_for_leader(&mut self, now: Instant) {
        // Reads whose leader is gone are parked by this. It comes first, as the next leader may be known
        // by now: they would not be looked through again.
        self.take_read_indexes(now);
        let seen = (self.raft.leader(), self.raft.term());
        let is_new = seen != self.own.leader_seen;
        if is_new {
            self.own.leader_seen = seen;
            if self.leads() {
                self.writes.rebuild(self.raft.log(), self.raft.log().applied());
            } else {
                self.timers.clock.stop();
                self.writes.forget_in_flight();
            }
        }
        if !self.leads() {
            self.refuse_truncated();
        }
        let was_transferring = self.hand_over.note_transfer(self.raft.transferring_to());
        self.answer_transfers();
        if was_transferring {
            self.resign_again(now);
        }
        if (is_new || was_transferring) && seen.0.is_some() && self.raft.transferring_to().is_none() {
            self.serve_parked(now);
        }
    }

    fn serve_parked(&mut self, now: Instant) {
        for (arrival, timer) in self.parking.take_all() {
            self.timers.wheel.cancel(timer);
            self.serve(now, arrival);
        }
    }

    fn reply(&mut self, transport: &mut impl Transport) {
        // Looked up once for all who ask in a turn: it takes longer the more connections there are.
        let mut bounds = None;
        for (client, mut response) in self.answers.drain(..) {
            if let ResponseBody::Status(status) = &mut response.body {
                status.bounds.extend_from_slice(bounds.get_or_insert_with(|| transport.bounds()));
            }
            transport.reply(client, &response);
        }
        transport.flush();
    }
}

fn send(transport: &mut impl Transport, messages: &[Envelope]) {
    for Envelope { to, message } in messages {
        transport.send(*to, message);
    }
}
