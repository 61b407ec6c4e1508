//! Many clients on one thread: a poll loop around the very session that every client is.
//!
//! The load shares its machine with the nodes that it measures, so a request costs little here: a
//! client's answers of one turn are read by one system call, its requests written by another. What
//! a client does about redirects, silence and lost connections is [`Session`]'s business, as it is
//! for everybody else, so a fail-over is seen here as users see it.
//!
//! One *lane* is one request in flight with its session; a client is its lanes and the connections
//! that they share. What was queued on a connection that broke counts as sent.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use kvstore::client::{Action, Answer, Error, LinkId, Session};
use kvstore::time::{Clock, Duration, Instant};
use kvstore::types::NodeId;
use kvstore::wire::client::{Request, Response};
use kvstore::wire::hello::Welcome;

use super::connection::{Arrival, Connection, Numbering};
use super::figures::{Figures, Interval};
use super::pace::Pace;
use super::sockets::{Connections, SocketPoll};
use super::workload::{Asked, Task, Workload};

/// The client of idle connections.
const NOBODY: usize = usize::MAX;
/// Idle connections are dialled so many at a time: a listener's queue is short.
const DIALS_AT_ONCE: usize = 256;
/// How long the nodes may take to close the sessions.
const FAREWELL: Duration = Duration::from_secs(1);

/// One request in flight, or room for one.
#[derive(Debug)]
struct Lane {
    session: Session,
    client: usize,
    /// The slots of its connections, by the session's names for them.
    links: Vec<(LinkId, usize)>,
    /// The request under way.
    task: Option<Begun>,
}

/// A request under way.
#[derive(Debug)]
struct Begun {
    task: Task,
    /// When it was to be sent.
    intended: Instant,
}

/// Where requests come from, and where their results go.
pub(super) struct Load<'a> {
    pub(super) workload: &'a mut Workload,
    /// Makes the next request.
    pub(super) next: &'a mut dyn FnMut(&mut Workload) -> Task,
    pub(super) pace: &'a mut Pace,
    pub(super) figures: &'a mut Figures,
    /// Becomes true if no more requests are wanted.
    pub(super) is_over: &'a AtomicBool,
    pub(super) interval: Duration,
    /// Told of every interval, and who leads as far as it is known.
    pub(super) on_interval: &'a mut dyn FnMut(&Interval, Option<NodeId>),
}

/// How many clients, and requests in flight of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) clients: usize,
    pub(super) pipeline: usize,
}

/// The clients.
///
/// Invariants: lane `l` of client `c` stands at place `c * pipeline + l`; a lane stands in `free` if
/// and only if it has no task; `due[lane]` is when its session wants to be asked again, and
/// `next_due` is no later than any of these.
pub(super) struct Driver {
    socket_poll: SocketPoll,
    clock: Clock,
    lanes: Vec<Lane>,
    numbering: Numbering,
    free: VecDeque<usize>,
    due: Vec<Instant>,
    next_due: Instant,
    connections: Connections,
    /// All answers that arrived.
    answers: usize,
    /// Requests that ended in this turn.
    finished: Vec<(Begun, Result<Answer, Error>)>,
    timeout: Duration,
    /// The node that led when we heard of it last.
    leader: Option<NodeId>,
}

impl Driver {
    /// Clients that begin with these endpoints, each with another one of them: reads, which any node
    /// answers, are so spread over all that were given.
    pub(super) fn new(endpoints: &[String], size: Size, timeout: Duration, seed: u64) -> io::Result<Self> {
        let lane = |number: usize| {
            let client = number / size.pipeline;
            let mut endpoints = endpoints.to_vec();
            let first = client % endpoints.len();
            endpoints.rotate_left(first);
            let session = Session::new(&endpoints, seed.wrapping_add(number as u64));
            Lane { session, client, links: Vec::new(), task: None }
        };
        let lanes: Vec<Lane> = (0..size.clients * size.pipeline).map(lane).collect();
        Ok(Self {
            socket_poll: SocketPoll::new()?,
            clock: Clock::start(),
            free: (0..lanes.len()).collect(),
            due: vec![Instant::MAX; lanes.len()],
            next_due: Instant::MAX,
            lanes,
            numbering: Numbering { lanes: size.pipeline as u64 },
            connections: Connections::new(),
            answers: 0,
            finished: Vec::new(),
            timeout,
            leader: None,
        })
    }

    pub(super) fn now(&mut self) -> Instant {
        self.clock.now()
    }

    /// Runs a load until its last request has ended.
    pub(super) fn run(&mut self, load: &mut Load<'_>) -> io::Result<()> {
        let mut next_interval = self.clock.now() + load.interval;
        loop {
            let now = self.clock.now();
            self.wake_lanes(now);
            self.report_finished(now, load);
            let next_request = self.send_what_is_due(now, load);
            self.flush(now);
            if next_interval <= now {
                (load.on_interval)(load.figures.end_interval(now), self.leader);
                next_interval += load.interval;
            }
            let all_are_free = self.free.len() == self.lanes.len();
            if next_request.is_none() && all_are_free && self.finished.is_empty() {
                load.figures.on_end(now);
                if load.figures.interval_has_answers() {
                    (load.on_interval)(load.figures.end_interval(now), self.leader);
                }
                return Ok(());
            }
            let next_request = next_request.filter(|_| !self.free.is_empty());
            self.turn(next_interval, next_request)?;
        }
    }

    /// Opens connections that say hello and nothing more, spread over the endpoints. How many the
    /// nodes took.
    pub(super) fn open_idle(&mut self, endpoints: &[String], count: usize) -> io::Result<usize> {
        let until = self.clock.now() + self.timeout;
        let mut dialled = 0;
        loop {
            let now = self.clock.now();
            while dialled < count && self.connections.unwelcome < DIALS_AT_ONCE {
                // No client has this number: nobody listens to what they hear.
                let address = &endpoints[dialled % endpoints.len()];
                self.connections.dial(self.socket_poll.registry(), address, NOBODY, now)?;
                dialled += 1;
            }
            if until <= now || dialled == count && self.connections.unwelcome == 0 {
                return Ok(self.idle());
            }
            self.turn(until, None)?;
        }
    }

    /// How many idle connections are open.
    pub(super) fn idle(&self) -> usize {
        let is_idle = |connection: &Connection| connection.client == NOBODY && connection.welcome.is_some();
        self.connections.slots.iter().filter(|(_, connection)| is_idle(connection)).count()
    }

    /// Closes the sessions, where that is safe, and waits until the nodes have said so or for a
    /// second: the cluster need not remember for ten minutes what was only a measurement.
    pub(super) fn say_farewell(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        let mut said = 0;
        for lane in 0..self.lanes.len() {
            if let Some((link, request)) = self.lanes[lane].session.farewell() {
                self.send(lane, link, request);
                said += 1;
            }
        }
        let until = now + FAREWELL;
        let expected = self.answers + said;
        while self.answers < expected && self.clock.now() < until {
            let now = self.clock.now();
            self.flush(now);
            self.turn(until, None)?;
        }
        Ok(())
    }

    /// Waits for something to happen, and takes it in.
    fn turn(&mut self, until: Instant, next_request: Option<Instant>) -> io::Result<()> {
        let now = self.clock.now();
        let until = until.min(self.next_due);
        let exactly = next_request.map(|due| due.since(now));
        self.socket_poll.wait(until.since(now), exactly)?;
        let now = self.clock.now();
        let mut ready = std::mem::take(&mut self.socket_poll.ready);
        ready.drain(..).for_each(|slot| self.on_event(slot, now));
        self.socket_poll.ready = ready;
        Ok(())
    }

    /// Gives requests that are due to free lanes. When the next one is due, if there is one.
    fn send_what_is_due(&mut self, now: Instant, load: &mut Load<'_>) -> Option<Instant> {
        if load.is_over.load(Ordering::Relaxed) {
            load.pace.stop(now);
        }
        loop {
            let due = load.pace.due(now)?;
            if now < due || self.free.is_empty() {
                return Some(due);
            }
            let lane = self.free.pop_front().expect("one is free");
            load.pace.take();
            let task = (load.next)(load.workload);
            let session = &mut self.lanes[lane].session;
            let deadline = now + self.timeout;
            match &task.asked {
                Asked::Write(operation) => session.begin_write(now, deadline, operation.clone(), None),
                Asked::Read(body) => session.begin(now, deadline, body.clone()),
            }
            self.lanes[lane].task = Some(Begun { task, intended: due });
            self.drive(lane, now);
        }
    }

    fn report_finished(&mut self, now: Instant, load: &mut Load<'_>) {
        for (Begun { task, intended }, result) in self.finished.drain(..) {
            match result {
                Ok(answer) => {
                    if matches!(task.asked, Asked::Write(_)) {
                        self.leader = Some(answer.node);
                    }
                    let outcome = load.workload.on_answer(task, answer.body);
                    load.figures.on_answer(now, now.since(intended), outcome, answer.attempts);
                }
                Err(error) => load.figures.on_error(&error),
            }
        }
    }

    /// Does what the session says until it waits.
    fn drive(&mut self, lane: usize, now: Instant) {
        loop {
            match self.lanes[lane].session.pull(now) {
                Action::Dial { link, address } => self.dial(lane, link, &address, now),
                Action::Send { link, request } => self.send(lane, link, request),
                Action::Close { link } => {
                    if let Some(slot) = self.lanes[lane].slot(link) {
                        self.lose(slot, now, "given up");
                    }
                }
                Action::Finished(result) => {
                    let begun = self.lanes[lane].task.take().expect("only what was begun finishes");
                    self.finished.push((begun, result));
                    self.free.push_back(lane);
                }
                Action::Wait { until } => return self.wake_at(lane, until),
            }
        }
    }

    /// Joins the connection that the lane's client has to this address, or dials it.
    fn dial(&mut self, lane: usize, link: LinkId, address: &str, now: Instant) {
        let client = self.lanes[lane].client;
        let pipeline = self.numbering.lanes as usize;
        let siblings = &self.lanes[client * pipeline..(client + 1) * pipeline];
        let mut slots = siblings.iter().flat_map(|lane| &lane.links).map(|(_, slot)| *slot);
        let shared = slots.find(|slot| self.connections.slots[*slot].address == address);
        let dialled = shared
            .map_or_else(|| self.connections.dial(self.socket_poll.registry(), address, client, now), Ok);
        let slot = match dialled {
            Ok(slot) => slot,
            Err(error) => return self.lanes[lane].session.on_lost(now, link, &error.to_string()),
        };
        let connection = &mut self.connections.slots[slot];
        connection.links.push((lane, link));
        self.lanes[lane].links.push((link, slot));
        if let Some(welcome) = &connection.welcome {
            self.lanes[lane].session.on_connected(now, link, welcome);
        }
    }

    fn send(&mut self, lane: usize, link: LinkId, mut request: Request) {
        let Some(slot) = self.lanes[lane].slot(link) else { return };
        let place = lane % self.numbering.lanes as usize;
        request.id = self.numbering.join(place, request.id);
        if self.connections.slots[slot].queue(&request) {
            self.connections.unsent.push(slot);
        }
    }

    fn flush(&mut self, now: Instant) {
        while let Some(slot) = self.connections.unsent.pop() {
            if let Err(error) = self.connections.slots[slot].flush(now) {
                self.lose(slot, now, &error.to_string());
            }
        }
    }

    /// A connection is over: every lane that used it looks for another.
    fn lose(&mut self, slot: usize, now: Instant, why: &str) {
        for (lane, link) in self.connections.remove(slot).links {
            self.lanes[lane].links.retain(|(own, _)| *own != link);
            self.lanes[lane].session.on_lost(now, link, why);
            self.wake_at(lane, now);
        }
    }

    fn wake_at(&mut self, lane: usize, at: Instant) {
        self.due[lane] = at;
        self.next_due = self.next_due.min(at);
    }

    /// Asks the sessions whose time has come what they want.
    fn wake_lanes(&mut self, now: Instant) {
        if now < self.next_due {
            return;
        }
        for lane in 0..self.lanes.len() {
            if now < self.due[lane] {
                continue;
            }
            let Lane { session, links, .. } = &mut self.lanes[lane];
            for (link, slot) in links.iter() {
                session.on_progress(self.connections.slots[*slot].moved, *link);
            }
            self.drive(lane, now);
        }
        self.next_due = self.due.iter().copied().min().unwrap_or(Instant::MAX);
    }

    fn on_event(&mut self, slot: usize, now: Instant) {
        let Some(connection) = self.connections.slots.get_mut(slot) else { return };
        let mut arrivals = std::mem::take(&mut self.connections.arrivals);
        let outcome = connection
            .flush(now)
            .and_then(|()| connection.read(&mut self.connections.buffer, now, &mut arrivals));
        for arrival in arrivals.drain(..) {
            match arrival {
                Arrival::Welcome(welcome) => self.on_welcome(slot, now, welcome),
                Arrival::Response(response) => self.on_response(slot, now, response),
            }
        }
        self.connections.arrivals = arrivals;
        let why = match outcome {
            Ok(true) => return,
            Ok(false) => "connection closed".to_owned(),
            Err(error) => error.to_string(),
        };
        if self.connections.slots.contains(slot) {
            self.lose(slot, now, &why);
        }
    }

    fn on_welcome(&mut self, slot: usize, now: Instant, welcome: Welcome) {
        let Some(connection) = self.connections.slots.get_mut(slot) else { return };
        self.leader = welcome.leader.or(self.leader);
        for (lane, link) in &connection.links {
            self.lanes[*lane].session.on_connected(now, *link, &welcome);
        }
        let waiting: Vec<usize> = connection.links.iter().map(|(lane, _)| *lane).collect();
        self.connections.unwelcome -= usize::from(connection.welcome.replace(welcome).is_none());
        waiting.into_iter().for_each(|lane| self.drive(lane, now));
    }

    fn on_response(&mut self, slot: usize, now: Instant, mut response: Response) {
        let Some(connection) = self.connections.slots.get(slot) else { return };
        if connection.client == NOBODY {
            return;
        }
        let (place, id) = self.numbering.split(response.id);
        response.id = id;
        let lane = connection.client * self.numbering.lanes as usize + place;
        let Lane { session, links, .. } = &mut self.lanes[lane];
        let Some((link, _)) = links.iter().find(|(_, own)| *own == slot) else { return };
        session.on_response(now, *link, response);
        self.answers += 1;
        self.drive(lane, now);
    }
}

impl Lane {
    fn slot(&self, link: LinkId) -> Option<usize> {
        self.links.iter().find(|(own, _)| *own == link).map(|(_, slot)| *slot)
    }
}
