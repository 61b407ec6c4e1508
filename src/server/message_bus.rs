//! Which node or client is behind each connection, and what arrives from it.
//!
//! The first frame on a connection says who is there; only then are larger frames taken. After it,
//! a node's frames are messages and a client's are requests. All that the replica must learn of
//! leaves here as an [`Inbound`], in the order in which it happened; what the replica has to say
//! comes in by its [`Transport`]. The bus has timers of its own: for dials, handshakes, frames that
//! do not end and answers that are not read.
//!
//! It knows no poll: readiness and time are handed in, by the server's loop or by a simulator.

mod bounds;
mod dispatch;
mod links;
mod output;
mod visitor;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;

use self::visitor::{Arriving, Party, Visitor};
use super::admission::Admission;
use super::complaints::Complaints;
use super::peers::Peers;
use crate::net::{self, CloseCause, Connection, ConnectionId, Connections, ReadBudget, Readiness, Socket};
use crate::replica::{ClientConnection, Transport};
use crate::time::{Duration, Instant};
use crate::timer_wheel::{TimerKey, TimerWheel};
use crate::types::{BootNumber, LogIndex, NodeId};
use crate::wire::client::{Bound, Request, Response};
use crate::wire::entry::{Configuration, Reached};
use crate::wire::frame::{Frame, FrameKind, HEADER_BYTES};
use crate::wire::hello::Welcome;
use crate::wire::peer::Message;
use crate::wire::{MAX_CLIENT_FRAME_BYTES, MAX_HELLO_BYTES, MAX_PEER_FRAME_BYTES};

/// How long somebody may take to introduce himself.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node that came in may remain unconfirmed. Less than it waits for an answer, so that it
/// learns why there was none.
const CONFIRMATION_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a frame may take to arrive, and output may wait without any progress.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// After how long without an acknowledgement the system closes a link between nodes. A cable that is
/// mended finds TCP waiting for as long again as it was cut; a redial finds it at once, and proves
/// nothing but that the other process lives.
const PEER_USER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client may ask nothing. Its library connects again when it has something to ask.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a refusal may take to be read.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause after running out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a founding is looked after.
const FOUNDING_PERIOD: Duration = Duration::from_millis(250);
/// How often it is logged what it waits for.
const FOUNDING_LINE_PERIOD: Duration = Duration::from_secs(1);

/// Read by everybody together.
const SCRATCH_BYTES: usize = 256 << 10;
const HELLO_BUDGET: ReadBudget = ReadBudget { bytes: MAX_HELLO_BYTES as usize + HEADER_BYTES, frames: 1 };
const CLIENT_BUDGET: ReadBudget = ReadBudget { bytes: 64 << 10, frames: 128 };
const PEER_BUDGET: ReadBudget = ReadBudget { bytes: 1 << 20, frames: usize::MAX };
/// Messages kept for nodes that must be told of the founding first.
const MAX_HELD: usize = 64;

/// What has happened, for the replica.
#[derive(Clone, Debug, PartialEq)]
pub enum Inbound {
    /// A member sent a message.
    Message(NodeId, Message),
    /// A client asks something.
    Request(ClientConnection, Request),
    /// A client has introduced itself and waits for its welcome.
    ClientHello(ClientConnection),
    /// A client's connection is closed.
    ClientGone(ClientConnection),
    /// There is a (new) link to a member, with this boot and address.
    LinkUp(NodeId, BootNumber, String),
    /// The link to a member was lost.
    LinkDown(NodeId),
    /// The process behind the lost link is dead.
    PeerDead(NodeId),
    /// The cluster is to be founded.
    Found(Configuration),
    /// The list has a member at this address, which was not met there.
    PeerListed(NodeId, String),
    /// A linked member does not know of the founding, and must get the snapshot.
    Newcomer(NodeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    Redial(usize),
    Inquiry(usize),
    Deadline(ConnectionId),
    /// A client may have asked nothing for long.
    Idle(ConnectionId),
    Accept,
    Founding,
}

/// The timers of everybody, and those keys that no connection keeps.
#[derive(Debug)]
struct Timers {
    wheel: TimerWheel<Timer>,
    /// One for each entry of the list.
    redials: Vec<Option<TimerKey>>,
    founding: Option<TimerKey>,
    /// When it was last logged what the founding waits for.
    founding_line: Instant,
}

/// Who is to be served.
#[derive(Debug, Default)]
struct Queues {
    /// Nodes, and who has not said what he is, that may have input.
    peers: VecDeque<ConnectionId>,
    /// Clients that may have input.
    clients: VecDeque<ConnectionId>,
    /// Whoever has output.
    dirty: Vec<ConnectionId>,
    /// Clients with output for the next flush, so that none takes more than its share of a turn:
    /// withheld answers that were released, and what is more than one flush may write.
    postponed: Vec<ConnectionId>,
    /// Clients that did not take all of it when they were last written to.
    backlog: BTreeSet<ConnectionId>,
    /// Sum over all clients of what their withheld answers hold on to.
    withheld_bytes: usize,
    /// Sum over all clients of what has come of incomplete frames.
    partial_bytes: usize,
}

/// Room that all connections share, so that an idle one needs none.
#[derive(Debug)]
struct Buffers {
    scratch: Box<[u8]>,
    frames: Vec<Frame>,
    fired: Vec<(TimerKey, Timer)>,
}

/// How members are told of the founding that do not know of it.
#[derive(Debug, Default)]
struct Telling {
    /// Messages to nodes that must be told first.
    held: Vec<(NodeId, Message)>,
    /// The log begins with a snapshot: that tells them, and nothing less.
    by_snapshot: bool,
}

/// All connections of a node, and who is behind them.
///
/// Invariants: a connection that may have input stands in a queue, unless it is a client that does
/// not read its answers; one with output and a writable socket stands in the queue of those, until
/// the next flush. Of each client that was admitted, exactly one `ClientHello` and one `ClientGone`
/// leave; of each member, `LinkUp` and `LinkDown` by turns, but for an `Up` after an `Up` where
/// another link took over.
pub struct MessageBus<S: Socket> {
    driver: S::Driver,
    /// As of the last call that was told.
    now: Instant,
    connections: Connections<S, Visitor>,
    peers: Peers,
    /// Where to dial the entries of the list.
    addresses: Vec<SocketAddr>,
    timers: Timers,
    admission: Admission,
    queues: Queues,
    inbox: VecDeque<Inbound>,
    buffers: Buffers,
    telling: Telling,
    complaints: Complaints,
}

impl<S: Socket> MessageBus<S> {
    /// A bus that accepts from `driver` and dials the `addresses` of the entries that `peers` was
    /// made with, in their order. The first dials begin at once.
    pub fn new(
        driver: S::Driver,
        peers: Peers,
        addresses: Vec<SocketAddr>,
        admission: Admission,
        now: Instant,
    ) -> Self {
        let mut wheel = TimerWheel::new(now);
        let founding = wheel.insert(now + FOUNDING_PERIOD, Timer::Founding);
        let timers = Timers {
            wheel,
            redials: vec![None; addresses.len()],
            founding: Some(founding),
            founding_line: now,
        };
        let buffers = Buffers {
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            frames: Vec::new(),
            fired: Vec::new(),
        };
        let mut bus = Self {
            driver,
            now,
            connections: Connections::new(),
            peers,
            addresses,
            timers,
            admission,
            queues: Queues::default(),
            inbox: VecDeque::new(),
            buffers,
            telling: Telling::default(),
            complaints: Complaints::default(),
        };
        bus.peers.start();
        bus.run_effects();
        bus
    }

    /// The next thing that has happened.
    pub fn next_inbound(&mut self) -> Option<Inbound> {
        self.inbox.pop_front()
    }

    /// The members, as the bus was told; none before the founding.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.peers.configuration()
    }

    /// The founding is durable here: nodes that are not members are dismissed, those that are and
    /// do not know it are told.
    pub fn set_configuration(&mut self, configuration: &Configuration) {
        self.peers.set_configuration(configuration.clone());
        self.run_effects();
    }

    /// Whether this node's log begins with a snapshot. Then a member that does not know of the
    /// founding must get that before it may take part in anything: what was restored from a backup
    /// is in no log.
    pub fn set_told_by_snapshot(&mut self, by_snapshot: bool) {
        self.telling.by_snapshot = by_snapshot;
    }

    /// How far this node's disk has come, and what was seen of other members since the last call.
    pub fn set_standing(&mut self, last_index: LogIndex, reached: Vec<(NodeId, Reached)>) {
        self.peers.set_last_index(last_index);
        for (node, reached) in reached {
            self.peers.on_reached(node, reached);
        }
        self.run_effects();
    }

    /// An event names a connection. One that was closed meanwhile is no longer known.
    pub fn on_event(&mut self, id: ConnectionId, readiness: Readiness) {
        let Some((connection, _)) = self.connections.get_mut(id) else { return };
        connection.on_event(readiness);
        self.enlist(id);
    }

    /// An event says that somebody wants to connect.
    pub fn on_listener_ready(&mut self) {
        self.admission.on_listener_ready();
    }

    /// Whether something is left to do for which no event will come.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let Queues { peers, dirty, postponed, .. } = &self.queues;
        let queues = [peers.is_empty(), dirty.is_empty(), postponed.is_empty(), self.inbox.is_empty()];
        queues.contains(&false) || self.admission.may_accept()
    }

    /// How many nodes (and connections that have not said what they are) may have input.
    #[must_use]
    pub fn ready_peers(&self) -> usize {
        self.queues.peers.len()
    }

    /// How many clients may have input.
    #[must_use]
    pub fn ready_clients(&self) -> usize {
        self.queues.clients.len()
    }

    /// The link to a member.
    #[must_use]
    pub fn link(&self, node: NodeId) -> Option<ConnectionId> {
        self.peers.link(node)
    }

    /// Whether the link to a member has input that was not read yet, or of which no message could be made
    /// yet: its frame is still arriving.
    #[must_use]
    pub fn has_unread(&self, node: NodeId) -> bool {
        let Some((connection, visitor)) = self.link(node).and_then(|id| self.connections.get(id)) else {
            return false;
        };
        let may_end_soon = |arriving: Arriving| arriving.may_end_soon(self.now, self.peers.heartbeat());
        connection.has_input() || visitor.arriving.is_some_and(may_end_soon)
    }

    /// Reads from the node that has waited longest, within its budget.
    pub fn read_next_peer(&mut self, now: Instant) {
        self.now = now;
        if let Some(id) = self.queues.peers.pop_front() {
            self.read(id, if self.is_peer(id) { PEER_BUDGET } else { HELLO_BUDGET });
            self.run_effects();
        }
    }

    /// Reads from the client that has waited longest, within its budget. How much that was.
    pub fn read_next_client(&mut self, now: Instant) -> ReadBudget {
        self.now = now;
        let Some(id) = self.queues.clients.pop_front() else { return ReadBudget::NONE };
        let used = self.read(id, CLIENT_BUDGET);
        self.run_effects();
        used
    }

    /// Lets in who waits outside, a bounded number at once.
    pub fn accept(&mut self, now: Instant) {
        self.now = now;
        for _ in 0..self.admission.accepts_per_turn() {
            if !self.admission.may_accept() {
                break;
            }
            let id = self.connections.next_id();
            match S::accept(&mut self.driver, id) {
                Ok(socket) => self.admit(Connection::accepted(socket, MAX_HELLO_BYTES)),
                Err(error) => self.on_accept_error(&error),
            }
        }
        self.run_effects();
    }

    /// When [`MessageBus::fire_timers`] must be called at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        self.timers.wheel.next_wake()
    }

    /// Fires what is due.
    pub fn fire_timers(&mut self, now: Instant) {
        self.now = now;
        let mut fired = std::mem::take(&mut self.buffers.fired);
        self.timers.wheel.advance(now, &mut fired);
        for (_, timer) in fired.drain(..) {
            match timer {
                Timer::Redial(entry) => self.on_redial(entry),
                Timer::Inquiry(entry) => self.peers.on_inquiry_timer(now, entry),
                Timer::Deadline(id) => self.on_deadline(id),
                Timer::Idle(id) => self.on_idle(id),
                Timer::Accept => self.admission.resume(),
                Timer::Founding => self.on_founding_timer(),
            }
        }
        self.buffers.fired = fired;
        self.run_effects();
    }

    /// Answers a client's introduction.
    pub fn welcome(&mut self, client: ClientConnection, welcome: &Welcome) {
        self.queue(ConnectionId::from_u64(client.0), FrameKind::Welcome, |out| welcome.encode(out));
    }

    /// Closes the sockets of what ended in this turn. Call it at the turn's end, once all events
    /// are handled that were fetched.
    pub fn reap(&mut self) {
        if self.connections.reap() > 0 {
            self.admission.resume();
        }
    }

    fn is_peer(&self, id: ConnectionId) -> bool {
        self.connections.get(id).is_some_and(|(_, visitor)| visitor.party == Party::Peer)
    }

    fn admit(&mut self, connection: Connection<S>) {
        let id = self.connections.insert(connection, Visitor::default());
        self.set_deadline(id, HANDSHAKE_TIMEOUT);
        self.enlist(id);
        if let Some(oldest) = self.admission.on_unknown(id) {
            self.close(oldest, &CloseCause::Overdue("no introduction while others waited"));
        }
    }

    fn on_accept_error(&mut self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::WouldBlock => self.admission.on_listener_empty(),
            // Who waited has gone away; the next one may not have.
            io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted => {}
            _ => {
                let cure = if net::is_exhausted(error) { " (raise the limit on open files)" } else { "" };
                self.complaints.warn(self.now, format!("accepting pauses: {error}{cure}"));
                self.admission.pause();
                self.timers.wheel.insert(self.now + ACCEPT_PAUSE, Timer::Accept);
            }
        }
    }

    /// Puts a connection into the queues that it belongs in, if it does not stand there.
    fn enlist(&mut self, id: ConnectionId) {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return };
        let has_input = connection.has_input() || connection.is_connecting();
        let queue = match visitor.party {
            Party::Unknown | Party::Dialled(_) | Party::Inquiring(_) | Party::Peer => {
                Some(&mut self.queues.peers)
            }
            Party::Client | Party::Dismissed => Some(&mut self.queues.clients),
            Party::Claimant => None, // it is not read before it is confirmed
        };
        if let Some(queue) = queue.filter(|_| has_input && !visitor.is_ready) {
            visitor.is_ready = true;
            queue.push_back(id);
        }
        if connection.queued_bytes() > 0 && !visitor.is_dirty {
            visitor.is_dirty = true;
            self.queues.dirty.push(id);
        }
    }

    /// One connection's turn. How much it gave.
    fn read(&mut self, id: ConnectionId, budget: ReadBudget) -> ReadBudget {
        let Some((connection, visitor)) = self.connections.get_mut(id) else { return ReadBudget::NONE };
        visitor.is_ready = false;
        if connection.is_connecting() {
            self.finish_connect(id);
            return ReadBudget::NONE;
        }
        if visitor.party == Party::Client && Self::is_beyond(connection, visitor, 1) {
            visitor.is_choked = true;
            // It is read again once its answers have left; unless it can never take them.
            if connection.is_write_closed() {
                self.close(id, &CloseCause::EndOfStream);
            }
            return ReadBudget::NONE;
        }
        let budget = Self::narrowed(budget, visitor);
        let before = connection.bytes_read();
        let mut frames = std::mem::take(&mut self.buffers.frames);
        let result = connection.read_frames(budget, &mut self.buffers.scratch, &mut frames);
        let bytes = (connection.bytes_read() - before) as usize;
        let used = ReadBudget { bytes, frames: frames.len() };
        for frame in frames.drain(..) {
            self.on_frame(id, frame);
        }
        self.buffers.frames = frames;
        match result {
            Ok(()) => self.enlist(id),
            Err(cause) => self.on_read_error(id, cause),
        }
        self.note_input(id, used.frames);
        self.watch(id);
        used
    }
}

impl<S: Socket> Transport for MessageBus<S> {
    fn send(&mut self, to: NodeId, message: &Message) {
        let Some(id) = self.peers.link(to) else { return };
        if !self.peers.must_be_told(id) {
            self.queue(id, FrameKind::Message, |out| message.encode(out));
        } else if self.telling.held.len() < MAX_HELD {
            self.telling.held.push((to, message.clone()));
        }
    }

    fn reply(&mut self, client: ClientConnection, response: &Response) {
        let id = ConnectionId::from_u64(client.0);
        self.answer(id, response);
    }

    fn flush(&mut self) {
        self.flush_all();
    }

    fn bounds(&self) -> Vec<Bound> {
        self.all_bounds()
    }
}

#[cfg(test)]
mod tests;
