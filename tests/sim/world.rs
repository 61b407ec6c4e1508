//! The simulated world: one thread, one clock, one queue of events.
//!
//! The code under test is the shipped one: replicas with their logs on simulated disks, and client
//! sessions. The world brings messages, as bytes, and time; it takes away power. After each turn
//! of a node the [`Checker`] looks at the whole cluster.

mod asking;
mod backups;
mod faults;
mod images;
mod leaders;
mod lines;
mod links;
mod liveness;
pub(crate) mod narrow;
mod pipes;
mod turns;
pub(crate) mod wide;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use bytes::Bytes;
use kvstore::client::session::LinkId;
use kvstore::time::{Duration, Instant};
use kvstore::wire::client::{Request, Response};
use kvstore::wire::hello::Welcome;

use super::checker::Checker;
use super::clients::{SimClient, Workload};
use super::disk::{End, SimDisk};
use super::message_node::Input;
use super::network::Network;
use super::node::{Connection, SimNode};
use super::operations::Operations;
use super::pipe_plan::Mode;
use super::pipes::{Flight, Pipes};
use super::plan::{DueFault, Fault, Plan};
use super::reference::Reference;
use super::rng::Rng;
use super::stats::Stats;
use super::trace::Trace;

/// Everything.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) now: Instant,
    queue: Queue,
    streams: Streams,
    pub(crate) nodes: Vec<SimNode>,
    network: Network,
    clients: Clients,
    pub(crate) checker: Checker,
    pub(crate) operations: Operations,
    pub(crate) stats: Stats,
    pub(crate) trace: Trace,
    phase: Phase,
}

/// The random streams that belong to nobody else.
struct Streams {
    faults: Rng,
    disks: Rng,
    starts: Rng,
    /// Numbers for processes and connections.
    next_number: u64,
}

/// The clients and their connections.
struct Clients {
    all: Vec<SimClient>,
    workload: Workload,
    /// Connections that nodes have accepted.
    ends: BTreeMap<Connection, ClientEnd>,
    /// In byte mode, their ends of connections.
    lines: BTreeMap<Connection, lines::Line>,
    /// What an operator was answered last.
    told_operator: Option<Response>,
}

/// Where the client's end of a connection is, and the process at the other.
#[derive(Clone, Copy, Debug)]
struct ClientEnd {
    client: usize,
    life: u64,
    link: LinkId,
    node: usize,
    process: u64,
}

/// What the world is up to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Things go wrong.
    Turmoil,
    /// Some nodes are broken for good, a majority is well.
    Liveness { core: Vec<usize> },
    /// All is well, and clients ask no more.
    Calm,
}

/// Something that is to happen.
#[derive(Debug)]
enum Event {
    /// A process takes its turn, unless that was put off.
    Turn { node: usize },
    /// Something arrives at a process, if it still runs.
    Arrive { node: usize, process: u64, input: Input, other: u64 },
    /// Two nodes try to connect.
    Dial { one: usize, other: usize },
    /// A client has something to do.
    ClientWake { client: usize },
    /// A client's dial arrives.
    ClientDial { client: usize, life: u64, link: LinkId, node: usize },
    /// Something arrives at a client, if it is still the same process.
    ToClient { client: usize, life: u64, link: LinkId, what: ToClient },
    /// A fault is due.
    Fault(Fault),
    /// A fault of an earlier run of the seed is due again.
    FixedFault(Box<DueFault>),
    /// A machine loses power.
    PowerCut { node: usize },
    /// Other programs give a machine's disk back.
    FreeDisk { node: usize },
    /// A machine gets power, if need be, and a process.
    Start { node: usize },
    /// Ways are open again.
    Unblock(Vec<(usize, usize)>),
    /// Ways are cut.
    Block(Vec<(usize, usize)>),
    /// An operator asks a node for something.
    Operator { node: usize, request: Request },
    /// Something arrives along a pipe.
    Flight { pipe: Connection, flight: Flight },
    /// Something is over again.
    Relief(pipes::Relief),
    /// A process is told to leave.
    Leave { node: usize, process: u64 },
    /// A node that is broken for good shows it.
    Limp { node: usize, how: liveness::Defect },
}

#[derive(Debug)]
enum ToClient {
    Welcome(Connection, Box<Welcome>),
    Answer(Bytes),
    Lost(&'static str),
}

/// Events by time; of one moment, in the order in which they were added.
#[derive(Default)]
struct Queue {
    heap: BinaryHeap<Reverse<Due>>,
    added: u64,
}

struct Due {
    at: Instant,
    number: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Queue {
    fn add(&mut self, at: Instant, event: Event) {
        self.added += 1;
        self.heap.push(Reverse(Due { at, number: self.added, event }));
    }

    fn next_until(&mut self, until: Instant) -> Option<(Instant, Event)> {
        if self.heap.peek().is_none_or(|Reverse(due)| due.at > until) {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| (due.at, due.event))
    }
}

impl World {
    /// The world of a seed, at its beginning: all machines on, no process started.
    pub(crate) fn new(seed: u64, plan: Plan, is_printed: bool) -> Self {
        let mut streams = Streams {
            faults: Rng::new(seed, 2),
            disks: Rng::new(seed, 3),
            starts: Rng::new(seed, 4),
            next_number: 1,
        };
        let nodes = (0..plan.nodes).map(|index| {
            let disk = SimDisk::new(streams.disks.u64());
            disk.set_short_counts(plan.disk.short_counts);
            SimNode::new(index, disk)
        });
        let nodes: Vec<SimNode> = nodes.collect();
        let mut workload = Workload::new(plan.clients.clone(), plan.nodes, Rng::new(seed, 5));
        let all = (0..plan.clients.count).map(|index| SimClient::new(index, &mut workload)).collect();
        let sites = plan.nodes + plan.clients.count;
        let pipes = Pipes::new(sites, plan.nodes, plan.pipes.clone(), Rng::new(seed, 9));
        let network = Network::new(sites, plan.weather.clone(), pipes, Rng::new(seed, 6));
        let checker = Checker::new(plan.nodes, Reference::new(plan.caps.sessions));
        let mut world = Self {
            now: Instant::ZERO,
            queue: Queue::default(),
            streams,
            nodes,
            network,
            clients: Clients {
                all,
                workload,
                ends: BTreeMap::new(),
                lines: BTreeMap::new(),
                told_operator: None,
            },
            checker,
            operations: Operations::default(),
            stats: Stats::default(),
            trace: Trace::new(is_printed),
            phase: Phase::Turmoil,
            plan,
        };
        world.schedule_beginning();
        world
    }

    fn schedule_beginning(&mut self) {
        for node in 0..self.plan.nodes {
            let at = self.now + self.streams.starts.duration(Duration::ZERO, Duration::from_millis(20));
            self.queue.add(at, Event::Start { node });
        }
        for client in 0..self.plan.clients.count {
            let pause = self.clients.workload.pause();
            self.wake_client(client, self.now + pause);
        }
        for (fault, mean) in self.plan.faults.means.clone() {
            self.schedule_fault(fault, mean);
        }
        self.schedule_fixed_faults();
    }

    /// Lets the world go on until a moment.
    pub(crate) fn run_until(&mut self, until: Instant) {
        while let Some((at, event)) = self.queue.next_until(until) {
            self.now = at;
            self.trace.events += 1;
            self.on_event(event);
        }
        self.now = until;
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Turn { node } => self.on_turn_due(node),
            Event::Arrive { node, process, input, other } => self.on_arrival(node, process, input, other),
            Event::Dial { one, other } => self.on_dial(one, other),
            Event::ClientWake { client } => self.on_client_wake(client),
            Event::ClientDial { client, life, link, node } => self.on_client_dial(client, life, link, node),
            Event::ToClient { client, life, link, what } => self.on_client_input(client, life, link, what),
            Event::Fault(fault) => self.on_fault(fault),
            Event::FixedFault(due) => self.on_fixed_fault(due),
            Event::PowerCut { node } => self.end_process(node, End::PowerCut),
            Event::FreeDisk { node } if self.phase == Phase::Turmoil => {
                self.nodes[node].disk.set_capacity(u64::MAX);
            }
            Event::FreeDisk { .. } => {} // it was freed meanwhile, or is full for good
            Event::Start { node } => self.start(node),
            Event::Unblock(ways) if self.phase == Phase::Turmoil => self.unblock(&ways),
            Event::Block(ways) if self.phase == Phase::Turmoil => self.block(&ways),
            Event::Unblock(_) | Event::Block(_) => {} // all ways were opened meanwhile
            Event::Operator { node, request } => self.on_operator(node, &request),
            Event::Flight { pipe, flight } => self.on_flight(pipe, flight),
            Event::Relief(relief) => self.on_relief(relief),
            Event::Leave { node, process } => self.on_leave(node, process),
            Event::Limp { node, how } => self.limp(node, how),
        }
    }

    fn take_number(&mut self) -> u64 {
        self.streams.next_number += 1;
        self.streams.next_number
    }

    /// The process on a node, if one runs.
    fn process_number(&self, node: usize) -> Option<u64> {
        self.nodes[node].process.as_ref().map(|process| process.number)
    }

    fn is_bytes(&self) -> bool {
        self.plan.pipes.mode == Mode::Bytes
    }

    /// The site of a client.
    fn site_of(&self, client: usize) -> usize {
        self.plan.nodes + client
    }
}
