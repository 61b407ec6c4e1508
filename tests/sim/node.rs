//! A simulated node: a machine with a disk, and at times a process on it that runs a replica.
//!
//! The process takes turns as the server's loop does: it reads what has arrived (nodes before
//! clients), fires timers, and lets the replica's effects happen. A turn takes virtual time, most
//! of all its syncs; what arrives meanwhile waits.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvstore::replica::{Caps, ClientConnection, Options, Replica, SnapshotOptions, Transport};
use kvstore::storage::{self, OpenError, Recovered, Storage, WriteError};
use kvstore::time::{Duration, Instant};
use kvstore::types::{BootNumber, Incarnation, NodeId};
use kvstore::wire::Writer;
use kvstore::wire::client::{Request, Response};
use kvstore::wire::entry::Configuration;
use kvstore::wire::hello::Welcome;
use kvstore::wire::peer::Message;

use super::clock::LocalClock;
use super::disk::SimDisk;
use super::plan::Timing;

/// Inputs that one turn takes at most; the rest waits for the next.
const INPUTS_PER_TURN: usize = 256;

/// A connection between two nodes, or between a client and a node. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Connection(pub(crate) u64);

/// What arrives at a process.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A message of a node.
    Peer { from: usize, connection: Connection, bytes: Bytes },
    /// Two processes have shaken hands.
    LinkUp { peer: usize, connection: Connection, boot: BootNumber, is_founded: bool },
    /// A connection to a node is gone.
    LinkDown { peer: usize, connection: Connection },
    /// A dial was refused: the process that it meant is dead.
    Refused { peer: usize },
    /// A client has connected.
    ClientHello { connection: Connection },
    /// A client's request.
    ClientRequest { connection: Connection, bytes: Bytes },
    /// A client's connection is gone.
    ClientGone { connection: Connection },
    /// All nodes were met: the cluster can be founded.
    Found(Configuration),
    /// The process is told to leave.
    Leave,
}

/// This end of a connection to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkEnd {
    pub(crate) connection: Connection,
    /// The boot of the process at the other end.
    pub(crate) boot: BootNumber,
    /// The other process is known to be a member.
    is_founded: bool,
    /// When it was told of the founding.
    told_at: Option<Instant>,
}

/// When a process takes turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// The next turn is scheduled for then.
    pub(crate) turn_at: Option<Instant>,
    pub(crate) busy_until: Instant,
    pub(crate) paused_until: Instant,
}

/// A running process.
pub(crate) struct Process {
    /// Tells it from all other processes of the run.
    pub(crate) number: u64,
    pub(crate) replica: Replica<SimDisk>,
    pub(crate) boot: BootNumber,
    pub(crate) clock: LocalClock,
    pub(crate) inbox: Vec<Input>,
    pub(crate) links: BTreeMap<usize, LinkEnd>,
    /// Connections to peers that were lost, with the boot behind each, until it is known what
    /// became of it.
    pub(crate) suspects: BTreeMap<usize, BootNumber>,
    pub(crate) schedule: Schedule,
    pub(crate) leaving: bool,
}

/// A machine.
pub(crate) struct SimNode {
    pub(crate) index: usize,
    pub(crate) disk: SimDisk,
    pub(crate) process: Option<Process>,
    /// It has power. Without it nothing answers, not even with a refusal.
    pub(crate) is_on: bool,
    /// Its syncs take this much longer until then.
    pub(crate) slow_until: (Instant, Duration),
}

/// What of a turn leaves the process.
#[derive(Default)]
pub(crate) struct TurnEffects {
    /// Messages to nodes.
    pub(crate) sends: Vec<Sent<(usize, Message)>>,
    /// Answers to clients.
    pub(crate) replies: Vec<Sent<(Connection, Response)>>,
    /// First words to clients.
    pub(crate) welcomes: Vec<(Connection, Welcome)>,
    /// How many files were synced.
    pub(crate) syncs: u64,
    /// How many of these syncs were of the log.
    pub(crate) log_syncs: u64,
    /// Peers whose link was found lost.
    pub(crate) lost: Vec<usize>,
    pub(crate) failed: Option<WriteError>,
}

/// Something that left in a turn, after so many of the turn's syncs.
pub(crate) struct Sent<T> {
    pub(crate) what: T,
    pub(crate) syncs: u64,
    /// The turn's part of the log was durable when it left.
    pub(crate) after_log: bool,
    pub(crate) bytes: Bytes,
}

/// What a process is started with.
pub(crate) struct Start {
    pub(crate) number: u64,
    pub(crate) timing: Timing,
    pub(crate) caps: Caps,
    pub(crate) snapshots: SnapshotOptions,
    pub(crate) segment_bytes: u64,
    pub(crate) seed: u64,
    pub(crate) clock: LocalClock,
}

/// The address of a node, for clients.
pub(crate) fn address(node: usize) -> String {
    format!("node:{}", node + 1)
}

/// The node behind an address.
pub(crate) fn node_at(address: &str) -> usize {
    let number = address.strip_prefix("node:").and_then(|number| number.parse::<usize>().ok());
    number.expect("an address that the simulator gave out") - 1
}

/// The id of a node.
pub(crate) fn id_of(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

/// The node of an id.
pub(crate) fn index_of(id: NodeId) -> usize {
    usize::try_from(id.0).expect("small") - 1
}

impl SimNode {
    pub(crate) fn new(index: usize, disk: SimDisk) -> Self {
        let slow_until = (Instant::ZERO, Duration::ZERO);
        Self { index, disk, process: None, is_on: true, slow_until }
    }

    /// The incarnation that this node's directory gets.
    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation(1_000 + self.index as u64)
    }

    /// Starts a process; gives what storage recovered.
    pub(crate) fn start(&mut self, now: Instant, start: Start) -> Result<Recovered, OpenError> {
        let id = id_of(self.index);
        let options = storage::Options { segment_bytes: start.segment_bytes, sync: true };
        let (storage, recovered) = Storage::open(self.disk.clone(), id, options, self.incarnation())?;
        let options = Options {
            address: address(self.index),
            heartbeat: start.timing.heartbeat,
            election_min: start.timing.election_min,
            election_max: start.timing.election_max,
            fsync: true,
            seed: start.seed,
            snapshots: start.snapshots,
        };
        let local = start.clock.at(now);
        let replica = Replica::with_caps(options, start.caps, storage, recovered.clone(), local);
        self.process = Some(Process {
            number: start.number,
            replica,
            boot: recovered.boot,
            clock: start.clock,
            inbox: Vec::new(),
            links: BTreeMap::new(),
            suspects: BTreeMap::new(),
            schedule: Schedule { turn_at: None, busy_until: now, paused_until: now },
            leaving: false,
        });
        Ok(recovered)
    }

    /// One turn of the process.
    pub(crate) fn turn(&mut self, now: Instant) -> TurnEffects {
        let process = self.process.as_mut().expect("the process runs");
        let local = process.clock.at(now);
        let mut effects = TurnEffects::default();
        process.inbox.sort_by_key(Input::is_of_client);
        let rest = process.inbox.split_off(process.inbox.len().min(INPUTS_PER_TURN));
        for input in std::mem::replace(&mut process.inbox, rest) {
            process.take(local, input, &mut effects);
        }
        process.note_unread(local);
        if process.replica.next_wake().is_some_and(|wake| wake <= local) {
            process.replica.tick(local);
        }
        let before = (self.disk.operations().1, self.disk.log_syncs());
        let mut outbox = Outbox { disk: &self.disk, before, effects: &mut effects };
        let result = process.replica.process_ready(local, &mut outbox);
        effects.failed = result.err();
        effects.syncs = self.disk.operations().1 - before.0;
        effects.log_syncs = self.disk.log_syncs() - before.1;
        if effects.failed.is_none() {
            process.tell_founding(local, &mut effects);
        }
        effects
    }
}

impl Process {
    fn take(&mut self, now: Instant, input: Input, effects: &mut TurnEffects) {
        match input {
            Input::Peer { from, connection, bytes } => {
                let link = self.links.get_mut(&from).filter(|link| link.connection == connection);
                if let Some(link) = link {
                    link.is_founded = true;
                    let message = Message::decode(bytes).expect("what a node sends can be read");
                    self.replica.on_message(now, id_of(from), message);
                }
            }
            Input::LinkUp { peer, connection, boot, is_founded } => {
                let link = LinkEnd { connection, boot, is_founded, told_at: None };
                self.on_link_up(now, peer, link);
            }
            Input::LinkDown { peer, connection } => {
                if self.links.get(&peer).is_some_and(|link| link.connection == connection) {
                    let link = self.links.remove(&peer).expect("it was just seen");
                    self.suspects.insert(peer, link.boot);
                    self.replica.on_link_down(now, id_of(peer));
                    effects.lost.push(peer);
                }
            }
            Input::Refused { peer } => {
                if self.suspects.remove(&peer).is_some() && !self.links.contains_key(&peer) {
                    self.replica.on_peer_dead(now, id_of(peer));
                }
            }
            Input::ClientHello { connection } => {
                effects.welcomes.push((connection, self.replica.welcome(now)));
            }
            Input::ClientRequest { connection, bytes } => {
                let request = Request::decode(bytes).expect("what a client sends can be read");
                self.replica.on_request(now, ClientConnection(connection.0), request);
            }
            Input::ClientGone { connection } => self.replica.on_client_gone(ClientConnection(connection.0)),
            Input::Found(configuration) => {
                if self.replica.configuration().is_none() {
                    self.replica.found(now, configuration);
                }
            }
            Input::Leave => {
                if !self.leaving {
                    self.leaving = true;
                    self.replica.begin_hand_over(now);
                }
            }
        }
    }

    /// As the server does it: a link of an older boot is lost, and its process dead; a second link
    /// between the same two boots takes the place of the first.
    fn on_link_up(&mut self, now: Instant, peer: usize, link: LinkEnd) {
        let (old, boot) = (self.links.get(&peer).copied(), link.boot);
        if old.is_some_and(|old| old.connection > link.connection || old.boot > boot) {
            return;
        }
        let suspect = self.suspects.remove(&peer);
        if old.is_some_and(|old| old.boot < boot) {
            self.replica.on_link_down(now, id_of(peer));
        }
        if suspect.or(old.map(|old| old.boot)).is_some_and(|seen| seen < boot) {
            self.replica.on_peer_dead(now, id_of(peer));
        }
        self.links.insert(peer, link);
        self.replica.on_link_up(now, id_of(peer), boot, &address(peer));
    }

    fn note_unread(&mut self, now: Instant) {
        let Some(leader) = self.replica.leader() else { return };
        let of_leader = |input: &Input| matches!(input, Input::Peer { from, .. } if id_of(*from) == leader);
        if self.inbox.iter().any(of_leader) {
            self.replica.on_unread(now, leader);
        }
    }

    /// The server tells of the founding, once it is durable, until the other node is a member.
    fn tell_founding(&mut self, now: Instant, effects: &mut TurnEffects) {
        let Some(configuration) = self.replica.configuration() else { return };
        for (peer, link) in self.links.iter_mut().filter(|(_, link)| !link.is_founded) {
            if link.told_at.is_some_and(|told_at| now.since(told_at) < Duration::from_millis(100)) {
                continue;
            }
            link.told_at = Some(now);
            let message = Message::Found(configuration.clone());
            let bytes = encoded(|out| message.encode(out));
            let (syncs, after_log) = (effects.syncs, effects.log_syncs > 0);
            effects.sends.push(Sent { what: (*peer, message), syncs, after_log, bytes });
        }
    }
}

impl Input {
    fn is_of_client(&self) -> bool {
        matches!(
            self,
            Input::ClientHello { .. } | Input::ClientRequest { .. } | Input::ClientGone { .. } | Input::Leave
        )
    }
}

/// The replica's way out: notes what leaves, and after how many syncs.
struct Outbox<'a> {
    disk: &'a SimDisk,
    /// Syncs, and those of the log, before the turn.
    before: (u64, u64),
    effects: &'a mut TurnEffects,
}

impl Outbox<'_> {
    fn sent<T>(&self, what: T, bytes: Bytes) -> Sent<T> {
        let (syncs, log_syncs) = (self.disk.operations().1, self.disk.log_syncs());
        Sent { what, syncs: syncs - self.before.0, after_log: log_syncs > self.before.1, bytes }
    }
}

impl Transport for Outbox<'_> {
    fn send(&mut self, to: NodeId, message: &Message) {
        let bytes = encoded(|out| message.encode(out));
        let sent = self.sent((index_of(to), message.clone()), bytes);
        self.effects.sends.push(sent);
    }

    fn reply(&mut self, client: ClientConnection, response: &Response) {
        let bytes = encoded(|out| response.encode(out));
        let sent = self.sent((Connection(client.0), response.clone()), bytes);
        self.effects.replies.push(sent);
    }

    fn flush(&mut self) {}
}

pub(crate) fn encoded(encode: impl FnOnce(&mut Writer)) -> Bytes {
    let mut out = Writer::new();
    encode(&mut out);
    out.into_bytes()
}
