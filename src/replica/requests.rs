//! What becomes of a client's request: answered, referred to the leader, proposed, or parked.

use super::backups::Backups;
use super::parking::{Arrival, Parking};
use super::reads::Reads;
use super::writes::{Waiter, Writes};
use super::{ClientConnection, Replica, Timer};
use crate::kv::{self, Applied, Recorded};
use crate::planted::{Bug, is_planted};
use crate::raft::ProposeError;
use crate::storage::Disk;
use crate::time::Instant;
use crate::timer_wheel::TimerKey;
use crate::types::{ClientId, ClusterTime, LogIndex, Revision, Term};
use crate::wire::Writer;
use crate::wire::client::{
    Bound, Command, NodeStatus, Outcome, Refused, RequestBody, Response, ResponseBody, SilentLeader, Write,
};

/// Reads answered in one step of a turn; the rest follows. Many more may be confirmed at once.
const MAX_ANSWERED_READS: usize = 4096;

/// Bytes that reads give in one step of a turn, but for a single larger answer; the rest follows.
const MAX_READ_BYTES: usize = 4 << 20;

impl<D: Disk> Replica<D> {
    /// Serves a request that has just arrived, or was parked and is looked at again.
    pub(super) fn serve(&mut self, now: Instant, arrival: Arrival) {
        match &arrival.request.body {
            RequestBody::Status => self.answer_status(&arrival),
            RequestBody::Get { stale: true, .. } | RequestBody::Scan { stale: true, .. } => {
                self.on_read(arrival, true);
            }
            RequestBody::Snapshot => self.on_snapshot_request(now, arrival),
            RequestBody::Backup { .. } => self.on_backup_request(now, arrival),
            _ if !self.may_serve(&arrival) => self.park(now, arrival),
            RequestBody::Get { .. } | RequestBody::Scan { .. } | RequestBody::ListSessions => {
                self.on_read(arrival, false);
            }
            _ if !self.leads() => self.refer_to_leader(arrival),
            RequestBody::Transfer { .. } => self.on_transfer(now, arrival),
            RequestBody::Write(write) => {
                let write = write.clone();
                self.on_write(now, arrival, write);
            }
        }
    }

    /// Whether there is a leader to serve this request, and one that is news to a client which found
    /// a leader silent: another node, of a later term, or this node itself. A client may not know in
    /// which term the leader that it found silent was elected last, so the term alone is no news.
    pub(super) fn may_serve(&self, arrival: &Arrival) -> bool {
        let Some(leader) = self.raft.leader() else { return false };
        let silent = arrival.request.silent_leader;
        let is_news = |silent: SilentLeader| silent.term < self.raft.term() && silent.id != leader;
        self.leads() || silent.is_none_or(is_news)
    }

    /// The request waits for a leader, for as long as it may.
    pub(super) fn park(&mut self, now: Instant, arrival: Arrival) {
        if self.parking.is_full() {
            return self.refuse_as_busy(&arrival, "too many requests wait for a leader");
        }
        if now >= arrival.leave_at {
            return self.refuse(arrival.client, arrival.request.id, Refused::NoLeader);
        }
        let timer = Timer::Parked { slot: self.parking.vacant() };
        let key = self.timers.wheel.insert(arrival.leave_at, timer);
        self.parking.park(arrival, key);
    }

    /// A parked request's time is over.
    pub(super) fn on_parking_over(&mut self, slot: usize, timer: TimerKey) {
        if let Some(arrival) = self.parking.take(slot, timer) {
            self.refuse(arrival.client, arrival.request.id, Refused::NoLeader);
        }
    }

    pub(super) fn refer_to_leader(&mut self, arrival: Arrival) {
        let leader = self.raft.leader().and_then(|leader| self.members.address(leader));
        let refused = Refused::NotLeader { term: self.raft.term(), leader };
        self.refuse(arrival.client, arrival.request.id, refused);
    }

    pub(super) fn on_read(&mut self, arrival: Arrival, stale: bool) {
        if self.reads.is_full() {
            return self.refuse_as_busy(&arrival, "too many reads are under way");
        }
        match stale {
            true => self.reads.push_stale(self.raft.log().applied(), arrival),
            false => self.reads.push(arrival),
        }
    }

    /// A write at the leader. Only a recorded result may be answered at once, since that is
    /// committed; a write that the log holds already is waited for; any other goes into the log,
    /// and applying it tells what it comes to.
    ///
    /// A name that was closed may be used anew, for other writes under the same numbers, and a leader that
    /// was deposed knows of no close since. So a name's result is given only after a read round, and its
    /// writes wait for no entry but their own.
    fn on_write(&mut self, now: Instant, arrival: Arrival, write: Write) {
        if let Err(refused) = kv::check_write(&write) {
            return self.refuse(arrival.client, arrival.request.id, refused);
        }
        let is_named = matches!(write.client, ClientId::Named(_));
        match self.state.recorded(&write) {
            Some(_) if is_named => return self.on_read(arrival, false),
            Some(recorded) => return self.answer_recorded(&arrival, recorded),
            None => {}
        }
        if self.writes.is_full() {
            return self.refuse_as_busy(&arrival, "too many writes are under way");
        }
        if !is_named && let Some(index) = self.writes.find_in_flight(self.raft.log(), &write) {
            return self.wait_for(index, &arrival);
        }
        if let Some(refused) = self.lacks_space(&write.operation) {
            return self.refuse(arrival.client, arrival.request.id, refused);
        }
        self.propose(now, arrival, &Command::Write(write));
    }

    fn answer_recorded(&mut self, arrival: &Arrival, recorded: Recorded) {
        let Recorded { revision, outcome } = recorded;
        let body = ResponseBody::Written { outcome, cached: true };
        self.answer_at(arrival.client, arrival.request.id, revision, body);
    }

    /// A read round has confirmed what is recorded, unless the name was closed meanwhile.
    fn on_write_looked_up(&mut self, now: Instant, arrival: Arrival, write: Write) {
        match self.state.recorded(&write) {
            Some(recorded) => self.answer_recorded(&arrival, recorded),
            None => self.serve(now, arrival),
        }
    }

    fn wait_for(&mut self, index: LogIndex, arrival: &Arrival) {
        let term = self.raft.log().term_at(index).expect("the entry is in the log");
        let waiter = Waiter { client: arrival.client, request: arrival.request.id };
        self.writes.wait_for(index, term, waiter);
    }

    /// Puts a command into the log, and has its client wait for the entry to be applied.
    fn propose(&mut self, now: Instant, arrival: Arrival, command: &Command) {
        let mut out = Writer::new();
        command.encode(&mut out);
        let stamp = self.timers.clock.read(now, self.state.cluster_time());
        match self.raft.propose(stamp, out.into_bytes()) {
            Ok(index) if is_planted(Bug::AnsweredBeforeCommit) => {
                let body = ResponseBody::Written { outcome: Outcome::Done, cached: false };
                self.answer_at(arrival.client, arrival.request.id, index.into(), body);
            }
            Ok(index) => {
                self.writes.on_proposed(index, command);
                self.wait_for(index, &arrival);
            }
            Err(ProposeError::NotLeader) => self.refer_to_leader(arrival),
            Err(ProposeError::Transferring) => self.park(now, arrival),
            Err(ProposeError::Full) => {
                self.refuse_as_busy(&arrival, "the log waits for a majority of disks");
            }
        }
    }

    /// Applies a committed command and answers who waits for its entry.
    pub(super) fn apply_command(
        &mut self,
        index: LogIndex,
        term: Term,
        stamp: ClusterTime,
        command: Command,
    ) {
        if let Command::Write(write) = &command {
            self.writes.on_recorded(write);
        }
        let applied = self.state.apply(Revision::from(index), stamp, command);
        if let Applied::Expired { .. } = applied {
            self.timers.on_expiry_applied();
        }
        let waiters = self.writes.on_applied(index, term);
        if waiters.is_empty() {
            return;
        }
        let (revision, body) = answer_of(applied, Revision::from(index));
        for Waiter { client, request } in waiters {
            self.answer_at(client, request, revision, body.clone());
        }
    }

    /// Another leader's entry took the place of one that clients wait for.
    pub(super) fn refuse_overwritten(&mut self, index: LogIndex) {
        let overwritten = self.writes.take_overwritten(index);
        self.refuse_lost(overwritten);
    }

    /// The log of a new leader ends before entries that clients wait for, and may end there for
    /// long.
    pub(super) fn refuse_truncated(&mut self) {
        let lost = self.writes.take_lost(self.raft.log());
        self.refuse_lost(lost);
    }

    fn refuse_lost(&mut self, waiters: Vec<Waiter>) {
        for Waiter { client, request } in waiters {
            if is_planted(Bug::OverwrittenAcknowledged) {
                self.answer(client, request, ResponseBody::Written { outcome: Outcome::Done, cached: false });
                continue;
            }
            self.refuse(client, request, Refused::LeadershipLost);
        }
    }

    /// Answers a bounded number of the reads that the state answers by now.
    pub(super) fn answer_reads(&mut self, now: Instant) {
        let log = self.raft.log();
        let applied = if is_planted(Bug::ReadNotWaiting) { log.last_index() } else { log.applied() };
        let mut bytes = 0;
        for _ in 0..MAX_ANSWERED_READS {
            let Some(read) = self.reads.next_answerable(applied) else { break };
            bytes += self.answer_read(now, read);
            if bytes >= MAX_READ_BYTES {
                break;
            }
        }
    }

    /// Answers a read from the state as it is, which suffices by now. Gives the bytes of the answer.
    fn answer_read(&mut self, now: Instant, arrival: Arrival) -> usize {
        let body = match arrival.request.body {
            RequestBody::Backup { .. } => {
                self.begin_backup(&arrival);
                return 0;
            }
            RequestBody::Write(ref write) => {
                let write = write.clone();
                self.on_write_looked_up(now, arrival, write);
                return 0;
            }
            RequestBody::Get { key, .. } => ResponseBody::Value(self.state.get(&key)),
            RequestBody::Scan { prefix, after, limit, .. } => {
                let page = self.state.scan(&prefix, after.as_deref(), limit);
                ResponseBody::Rows { rows: page.rows, more: page.more }
            }
            RequestBody::ListSessions => ResponseBody::Sessions(self.state.sessions()),
            _ => unreachable!("only reads come here"),
        };
        let bytes = body.payload_bytes();
        self.answer(arrival.client, arrival.request.id, body);
        bytes
    }

    fn answer_status(&mut self, arrival: &Arrival) {
        let log = self.raft.log();
        let status = NodeStatus {
            id: self.own.id,
            role: self.raft.role_name(),
            term: self.raft.term(),
            leader: self.raft.leader(),
            commit: log.committed(),
            applied: log.applied(),
            first_index: log.first_index(),
            last_index: log.last_index(),
            disk: self.disk_status(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            members: self.members.places(self.configuration()),
            bounds: self.bounds(),
        };
        self.answer(arrival.client, arrival.request.id, ResponseBody::Status(Box::new(status)));
    }

    /// What is bounded here, its present use, and its cap.
    fn bounds(&self) -> Vec<Bound> {
        let count = |number: usize| number as u64;
        let uncommitted_cap = self.raft.config().max_uncommitted_bytes;
        let own = [
            ("uncommitted_bytes", self.raft.log().uncommitted_bytes(), uncommitted_cap),
            ("in_flight_bytes", self.raft.in_flight_bytes(), self.raft.config().window_bytes),
            ("waiting_writes", self.writes.waiters(), Writes::MAX_WAITERS),
            ("waiting_reads", self.reads.len(), Reads::MAX_READS),
            ("waiting_read_bytes", self.reads.bytes(), Reads::MAX_BYTES),
            ("parked_requests", self.parking.len(), Parking::MAX_PARKED),
            ("parked_bytes", self.parking.bytes(), Parking::MAX_BYTES),
            ("backups", self.snapshots.backups.len(), Backups::<D::File>::MAX_BACKUPS),
        ];
        let own =
            own.map(|(name, used, cap)| Bound { name: name.to_owned(), used: count(used), cap: count(cap) });
        own.into_iter().chain(self.state.bounds()).collect()
    }

    /// Answers at the present revision.
    pub(super) fn answer(&mut self, client: ClientConnection, request: u64, body: ResponseBody) {
        self.answer_at(client, request, self.state.revision(), body);
    }

    pub(super) fn refuse(&mut self, client: ClientConnection, request: u64, refused: Refused) {
        self.answer(client, request, ResponseBody::Refused(refused));
    }

    /// A cap is reached that makes room by itself.
    pub(super) fn refuse_as_busy(&mut self, arrival: &Arrival, cause: &str) {
        let busy = Refused::Busy(format!("{cause}; try again in a moment"));
        self.refuse(arrival.client, arrival.request.id, busy);
    }

    fn answer_at(&mut self, client: ClientConnection, id: u64, revision: Revision, body: ResponseBody) {
        self.answers.push((client, Response { id, revision, body }));
    }
}

/// What a client is told of an applied command; an entry of its own has the entry's revision.
fn answer_of(applied: Applied, revision: Revision) -> (Revision, ResponseBody) {
    match applied {
        Applied::Written { revision, outcome, cached } => {
            (revision, ResponseBody::Written { outcome, cached })
        }
        Applied::Refused(refused) => (revision, ResponseBody::Refused(refused)),
        Applied::Expired { .. } => unreachable!("no client waits for an expiry"),
    }
}
