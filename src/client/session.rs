//! One client's conversation with a cluster, without its sockets.
//!
//! A [`Session`] knows what to ask, of whom, under which number, when to ask somebody else, and
//! what may be said at the end. It owns no socket, no thread and no clock: events and the time come
//! in as arguments, [`Action`]s are pulled out, and the same inputs give the same outputs. The
//! blocking [`super::Client`] drives it over TCP, the simulator over a simulated network.
//!
//! # How it asks
//!
//! A write goes to the leader, as far as one is known from a [`Welcome`] or a `NotLeader`; else to
//! any node, which keeps it for 150 ms and answers when it knows better. A read goes to the first
//! node of the caller's list that answers. Every copy of a write has the same client id and
//! sequence number, so it is applied once however many arrive.
//!
//! | what happens | what follows |
//! |---|---|
//! | a redirect that is news (a higher term) | that leader is asked at once |
//! | a connection breaks, or the leader cannot be dialled | all others are asked at once, and told that this leader is silent |
//! | the leader is silent for [`LEADER_PATIENCE`], or twice as long as it took lately | the same; its late answer is still welcome |
//! | a node that does not lead is silent for [`PARKED_PATIENCE`], one that reads for [`READ_PATIENCE`] | all others are asked at once |
//! | every node had its turn | a pause of [`PAUSE_MIN`] to [`PAUSE_MAX`], then a new round |
//! | no byte moved on a connection for [`GIVE_UP`] after that patience | it is given up, and dialled anew |
//!
//! Patience with a leader is short since asking others is cheap: they keep the copy and drop it if
//! the leader is well after all. It is longer with a follower, which may keep a request for 150 ms
//! in good faith. Pauses never grow: in a cluster of this size the clients are not the problem, and
//! a client that sleeps through the election's end is. In a round every node is asked at most
//! once, or twice if its connection broke, so nodes that redirect in circles cost one round.
//!
//! # What it reports
//!
//! A result, a definite error, or [`Error::Unknown`]; the table of it stands above
//! `src/client/attempts.rs`. Unknown is sticky: once a copy of a write may be in a log, no later
//! refusal makes it undone.

mod answers;
mod asking;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::attempts::{Attempts, NamedBy};
use super::error::{Error, Identity};
use super::own_session::OwnSession;
use super::roster::{Node, Roster, Route};
use crate::time::{Duration, Instant};
use crate::types::{ClusterTime, NodeId, Revision};
use crate::wire::client::{Operation, Request, RequestBody, Response, ResponseBody, Write};
use crate::wire::hello::{MemberAddress, Welcome};

pub use super::roster::LinkId;

/// How long the leader may be silent before others are asked beside it; longer if twice as long as
/// it took lately is longer. Asking others is cheap only for a leader that is gone: one that is busy
/// would get busier with the copies, take longer, and be asked for more of them.
pub const LEADER_PATIENCE: Duration = Duration::from_millis(100);
/// The longest patience with a leader, however long it took lately.
pub const LEADER_PATIENCE_MAX: Duration = Duration::from_secs(1);
/// The same for another node that was sent what only the leader takes: it may keep it for 150 ms.
pub const PARKED_PATIENCE: Duration = Duration::from_millis(200);
/// The same for a read: the node may have to wait for an election to end.
pub const READ_PATIENCE: Duration = Duration::from_millis(250);
/// The same for a hand-over, which lasts until the new leader leads.
pub const TRANSFER_PATIENCE: Duration = Duration::from_secs(2);
/// The same for the next bytes of a backup: other work may delay them.
pub const BACKUP_PATIENCE: Duration = Duration::from_secs(2);
/// How long a connection on which we wait may stay without a byte after that patience ended.
pub const GIVE_UP: Duration = Duration::from_secs(1);
/// The shortest pause between two rounds.
pub const PAUSE_MIN: Duration = Duration::from_millis(2);
/// The longest pause between two rounds.
pub const PAUSE_MAX: Duration = Duration::from_millis(20);
/// So close to its deadline a write whose copies were all refused is not sent once more: the answer
/// might come too late, and the definite no that its caller is due would become an unknown outcome.
const LAST_COPY: Duration = Duration::from_millis(100);
/// How many times longer the pause is after `Busy`: a full queue needs time, not more requests.
pub const BUSY_FACTOR: u32 = 5;
/// A new library id is made only of a [`Welcome`] that is younger than this. Its stamp must be
/// near the present cluster time, for an id that is born too old opens no session.
pub const WELCOME_LIFETIME: Duration = Duration::from_secs(60);

/// What the driver of a session has to do next.
#[derive(Debug)]
pub enum Action {
    /// Dial, say hello, and report [`Session::on_connected`] or [`Session::on_lost`].
    Dial {
        /// Names the connection from now on.
        link: LinkId,
        /// The `HOST:PORT` to dial.
        address: String,
    },
    /// Send a request over a connection that is up.
    Send {
        /// The connection.
        link: LinkId,
        /// The request.
        request: Request,
    },
    /// Close this connection, or stop dialling it. Nothing that it still says is listened to.
    Close {
        /// The connection.
        link: LinkId,
    },
    /// Nothing to do before this moment, unless an event comes first.
    Wait {
        /// When to pull again at the latest.
        until: Instant,
    },
    /// The request is over. Pulled once; the next one may begin.
    Finished(Result<Answer, Error>),
}

/// A node's answer, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The answer; never a refusal.
    pub body: ResponseBody,
    /// The revision that it reflects.
    pub revision: Revision,
    /// The node that gave it.
    pub node: NodeId,
    /// How many copies of the request were sent.
    pub attempts: u32,
    /// Of a write: it was applied before this request began, under the same identity.
    pub cached: bool,
    /// Of a write: its name.
    pub identity: Option<Identity>,
}

/// What the caller wants.
#[derive(Clone, Debug)]
enum Asked {
    Write(Operation),
    Other(RequestBody),
}

/// The request under way.
#[derive(Debug)]
struct Pending {
    asked: Asked,
    route: Route,
    named_by: NamedBy,
    /// Of a write: its name, from its first copy on.
    identity: Option<Identity>,
    began: Instant,
    deadline: Instant,
    attempts: Attempts,
    /// Someone was silent or broke off: ask everybody at once.
    fan_out: bool,
    /// Every node had its turn; the next round begins then.
    pause_until: Option<Instant>,
    /// The session was found expired, and was replaced for this request.
    renewed: bool,
    /// The newest definite refusal that was no reason to stop.
    refusal: Option<Error>,
    /// A revision that the cluster had reached before the first copy was sent.
    revision_before: Revision,
}

/// One client's conversation with a cluster; see the [module](self).
///
/// *Commands*: [`begin_write`](Self::begin_write), [`begin`](Self::begin),
/// [`farewell`](Self::farewell). *Inputs*: the methods `on_…`. *Output*: [`pull`](Self::pull), to
/// be called after each of them until it says [`Action::Wait`].
///
/// Invariants: one request at a time; every copy of a write carries the same identity, but where
/// no copy can have been applied and the session is renewed; a request ends at its deadline.
#[derive(Debug)]
pub struct Session {
    roster: Roster,
    own: OwnSession,
    pending: Option<Pending>,
    finished: Option<Result<Answer, Error>>,
    closing: Vec<LinkId>,
    /// The latest cluster time heard of, and when.
    cluster_time: Option<(ClusterTime, Instant)>,
    /// The highest revision heard of.
    revision: Revision,
    /// How long leaders took for a write lately: a mean in which the last one counts for a quarter.
    usual: Duration,
    next_request: u64,
    rng: StdRng,
}

impl Session {
    /// A session that starts from these `HOST:PORT`s, in order of preference. The seed decides its
    /// jitter and the random half of its ids: two clients of a cluster need different ones.
    #[must_use]
    pub fn new(endpoints: &[String], seed: u64) -> Self {
        Self {
            roster: Roster::new(endpoints),
            own: OwnSession::new(),
            pending: None,
            finished: None,
            closing: Vec::new(),
            cluster_time: None,
            revision: Revision(0),
            usual: Duration::ZERO,
            next_request: 1,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Begins a write: under a number of this session, or under the caller's identity.
    ///
    /// # Panics
    /// While another request is under way.
    pub fn begin_write(
        &mut self,
        now: Instant,
        deadline: Instant,
        operation: Operation,
        identity: Option<Identity>,
    ) {
        let named_by = if identity.is_some() { NamedBy::Caller } else { NamedBy::Session };
        self.begin_request(now, deadline, Asked::Write(operation), Route::Leader, named_by, identity);
        if named_by == NamedBy::Session && !self.own.has_id() {
            let is_fresh = |(_, heard)| now.since(heard) < WELCOME_LIFETIME;
            if !self.cluster_time.is_some_and(is_fresh) {
                self.forget_welcomes();
            }
        }
    }

    /// Begins a request that is no write.
    ///
    /// # Panics
    /// While another request is under way, or with [`RequestBody::Write`].
    pub fn begin(&mut self, now: Instant, deadline: Instant, body: RequestBody) {
        let route = match &body {
            RequestBody::Write(_) => panic!("writes begin with begin_write, which names them"),
            RequestBody::Get { stale: true, .. } | RequestBody::Scan { stale: true, .. } => Route::Given,
            RequestBody::Status | RequestBody::Snapshot => Route::Given,
            RequestBody::Get { .. }
            | RequestBody::Scan { .. }
            | RequestBody::ListSessions
            | RequestBody::Backup { .. } => Route::Any,
            RequestBody::Transfer { .. } => Route::Leader,
        };
        self.begin_request(now, deadline, Asked::Other(body), route, NamedBy::Nobody, None);
    }

    /// The last word of a client that leaves: a write which closes the session that it made for
    /// itself, where that is safe and the leader is connected. Nobody waits for the answer.
    pub fn farewell(&mut self) -> Option<(LinkId, Request)> {
        let link = self.roster.leader_link().filter(|_| self.pending.is_none())?;
        let Identity { client, sequence } = self.own.take_to_close()?;
        let (id, time_left_ms) = (self.take_request_id(), 1_000);
        let operation = Operation::CloseSession { client: client.clone() };
        let body = RequestBody::Write(Write { client, sequence, acknowledged: sequence, operation });
        Some((link, Request { id, time_left_ms, silent_leader: None, body }))
    }

    /// A dial succeeded and the node said welcome.
    pub fn on_connected(&mut self, now: Instant, link: LinkId, welcome: &Welcome) {
        let Some(index) = self.roster.by_link(link) else { return };
        let Some(is_news) = self.roster.on_connected(link, index, welcome) else {
            self.roster.on_lost(index, now, "belongs to another cluster".into());
            self.closing.push(link);
            return;
        };
        self.cut_pause_if(is_news);
        let newest =
            self.cluster_time.map_or(welcome.cluster_time, |(time, _)| time.max(welcome.cluster_time));
        self.cluster_time = Some((newest, now));
        self.on_revision(welcome.revision);
    }

    /// A dial failed, or a connection was lost; `why` in a few words for people.
    pub fn on_lost(&mut self, now: Instant, link: LinkId, why: &str) {
        let Some(index) = self.roster.by_link(link) else { return };
        let had_copy = self.drop_copies_on(link);
        self.roster.on_lost(index, now, why.to_owned());
        if let Some(pending) = self.pending.as_mut().filter(|_| had_copy) {
            pending.fan_out = true;
        }
    }

    /// Not a byte of this request could be written; the connection is about to be lost, and the
    /// node is not asked again before that.
    pub fn on_not_sent(&mut self, now: Instant, link: LinkId, request: u64) {
        self.own.on_not_sent(request, link);
        if let Some(pending) = &mut self.pending
            && pending.attempts.on_not_sent(request, link)
        {
            pending.fan_out = true;
            self.roster.on_broken(link, now);
        }
    }

    /// Bytes moved on a connection, in either direction, that are no whole answer yet.
    pub fn on_progress(&mut self, now: Instant, link: LinkId) {
        let Some(pending) = &mut self.pending else { return };
        for attempt in pending.attempts.in_flight().iter_mut().filter(|attempt| attempt.link == link) {
            attempt.give_up_at = attempt.give_up_at.max(now + GIVE_UP);
        }
    }

    /// A node answered.
    pub fn on_response(&mut self, now: Instant, link: LinkId, response: Response) {
        let Some(index) = self.roster.by_link(link) else { return };
        self.roster.on_heard(index);
        self.on_revision(response.revision);
        let request = response.id;
        let settles = match (&response.body, &self.pending) {
            (ResponseBody::Refused(refused), _) => refused.is_definite(),
            (body, pending) => pending.as_ref().is_some_and(|pending| pending.asked.is_answered_by(body)),
        };
        let pending = self.pending.as_mut();
        match pending.and_then(|pending| pending.attempts.on_answered(request, link, settles)) {
            Some(attempt) => {
                self.roster.on_answered(index);
                self.on_answer(now, index, &attempt, settles, response);
            }
            None => self.own.on_stray_answered(request, link, &response.body),
        }
    }

    /// What to do now. To be called until it says [`Action::Wait`].
    pub fn pull(&mut self, now: Instant) -> Action {
        self.note_silence(now);
        if let Some(link) = self.closing.pop() {
            return Action::Close { link };
        }
        if let Some(result) = self.finished.take() {
            return Action::Finished(result);
        }
        let Some(pending) = &self.pending else { return Action::Wait { until: Instant::MAX } };
        if pending.deadline <= now {
            let error = self.error_at_deadline();
            self.finish(Err(error));
            return self.pull(now);
        }
        self.ask(now)
    }

    /// The members as far as they are known: ids and addresses.
    #[must_use]
    pub fn members(&self) -> Vec<MemberAddress> {
        let known = |node: &Node| node.id.map(|id| MemberAddress { id, address: node.address.clone() });
        self.roster.nodes().iter().filter_map(known).collect()
    }

    fn begin_request(
        &mut self,
        now: Instant,
        deadline: Instant,
        asked: Asked,
        route: Route,
        named_by: NamedBy,
        identity: Option<Identity>,
    ) {
        assert!(self.pending.is_none() && self.finished.is_none(), "one request at a time");
        self.roster.begin_request();
        self.pending = Some(Pending {
            asked,
            route,
            named_by,
            identity,
            began: now,
            deadline,
            attempts: Attempts::default(),
            fan_out: false,
            pause_until: None,
            renewed: false,
            refusal: None,
            revision_before: self.revision,
        });
    }
}

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
