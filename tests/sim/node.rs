//! A simulated node: a machine with a disk, and at times a process on it.
//!
//! In message mode the process is a replica that is handed whole messages
//! ([`super::message_node`]); in byte mode it is all of the server but its poll
//! ([`super::byte_node`]). Either way it takes turns, and a turn takes virtual time, most of all its
//! syncs; what arrives meanwhile waits.

use bytes::Bytes;
use kvstore::replica::{Caps, Options, Replica, SnapshotOptions};
use kvstore::server::admission::Limits;
use kvstore::storage::{self, OpenError, Recovered, Storage, WriteError};
use kvstore::time::{Duration, Instant};
use kvstore::types::{BootNumber, Incarnation, NodeId};
use kvstore::wire::Writer;
use kvstore::wire::client::Response;
use kvstore::wire::hello::Welcome;
use kvstore::wire::peer::Message;

use super::byte_node::{ByteNode, Surroundings};
use super::clock::LocalClock;
use super::disk::SimDisk;
use super::message_node::MessageNode;
use super::pipes::Pipes;
use super::plan::Timing;

/// A connection between two nodes, or between a client and a node. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Connection(pub(crate) u64);

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
    pub(crate) engine: Engine,
    pub(crate) boot: BootNumber,
    pub(crate) clock: LocalClock,
    pub(crate) schedule: Schedule,
    pub(crate) leaving: bool,
}

/// What runs in a process.
pub(crate) enum Engine {
    Messages(Box<MessageNode>),
    Bytes(Box<ByteNode>),
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
    /// Messages that waited in front of a full socket before they left.
    pub(crate) late: u64,
    /// These messages.
    pub(crate) late_sends: Vec<Message>,
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
    /// In byte mode: the network, how many nodes there are, and what connections may take.
    pub(crate) pipes: Option<(Pipes, usize, Limits)>,
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
        let heartbeat = options.heartbeat;
        let replica = Replica::with_caps(options, start.caps, storage, recovered.clone(), local).unwrap();
        let engine = match start.pipes {
            None => Engine::Messages(Box::new(MessageNode::new(replica))),
            Some((pipes, nodes, limits)) => {
                let (site, seed) = (self.index, start.seed);
                let surroundings =
                    Surroundings { site, nodes, limits, heartbeat, recovered: &recovered, seed };
                Engine::Bytes(Box::new(ByteNode::start(local, replica, pipes, surroundings)))
            }
        };
        self.process = Some(Process {
            number: start.number,
            engine,
            boot: recovered.boot,
            clock: start.clock,
            schedule: Schedule { turn_at: None, busy_until: now, paused_until: now },
            leaving: false,
        });
        Ok(recovered)
    }

    /// One turn of the process.
    pub(crate) fn turn(&mut self, now: Instant) -> TurnEffects {
        let process = self.process.as_mut().expect("the process runs");
        let local = process.clock.at(now);
        match &mut process.engine {
            Engine::Messages(messages) => messages.turn(local, &self.disk),
            Engine::Bytes(bytes) => bytes.turn(local, &self.disk),
        }
    }
}

impl Process {
    /// The replica, to look at.
    pub(crate) fn replica(&self) -> &Replica<SimDisk> {
        match &self.engine {
            Engine::Messages(messages) => &messages.replica,
            Engine::Bytes(bytes) => bytes.node.replica(),
        }
    }

    /// In message mode, what the process is.
    pub(crate) fn messages(&self) -> Option<&MessageNode> {
        match &self.engine {
            Engine::Messages(messages) => Some(messages),
            Engine::Bytes(_) => None,
        }
    }

    /// The process is told to leave; at `now` on its own clock.
    pub(crate) fn leave(&mut self, now: Instant) {
        if std::mem::replace(&mut self.leaving, true) {
            return;
        }
        match &mut self.engine {
            Engine::Messages(messages) => messages.replica.begin_hand_over(now),
            Engine::Bytes(bytes) => bytes.node.begin_hand_over(now),
        }
    }

    /// Whether it has left.
    pub(crate) fn may_exit(&self, now: Instant) -> bool {
        self.leaving && self.replica().may_exit(now)
    }

    /// A turn has ended at `now`: when the next must begin at the latest.
    pub(crate) fn end_turn(&mut self, now: Instant) -> Option<Instant> {
        match &mut self.engine {
            Engine::Messages(messages) => messages.end_turn(now),
            Engine::Bytes(bytes) => bytes.node.end_turn(now),
        }
    }
}

pub(crate) fn encoded(encode: impl FnOnce(&mut Writer)) -> Bytes {
    let mut out = Writer::new();
    encode(&mut out);
    out.into_bytes()
}
