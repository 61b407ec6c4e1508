//! A node as a process: one thread, one poll, one port.
//!
//! [`Server::run`] is the loop. Everything in it happens in **turns** ([`Node::turn`]): what has
//! arrived is read, timers are fired, and then the replica's effects leave in one order, with one
//! write and one sync for all of them. Three rules keep a turn honest:
//!
//! * **Sockets before timers.** After a pause of our own (a slow disk, a stopped process) the
//!   leader's heartbeats wait in a socket; whoever fired the election timer first would depose a
//!   living leader. So timers are fired only when everything that had arrived was read, and after
//!   a stall the sockets are asked once more.
//! * **A turn is bounded.** Each connection has a budget, and all clients together have one; what is
//!   left over is remembered, and the next poll does not sleep. Turns that take longer than a heartbeat are counted and logged.
//! * **Nothing else waits.** The poll sleeps, and the sync of the log blocks; host names are
//!   resolved before the loop begins.
//!
//! Below the loop, `node` joins the replica and the connections, `message_bus` knows who is behind
//! each connection, `peers`, `dialler` and `founding` hold the rules of links between nodes, and
//! `admission` those of who may connect at all. `place` takes the port before anything is written.
//! None of them knows mio or a clock.

pub mod admission;
mod complaints;
pub mod config;
pub mod dialler;
pub mod founding;
pub mod message_bus;
pub mod node;
pub mod peers;
mod place;
mod turns;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use log::info;
use mio::{Events, Interest, Poll, Token};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use thiserror::Error;

use self::admission::{Admission, Limits};
use self::config::Config;
use self::message_bus::MessageBus;
use self::node::Node;
use self::peers::{Identity, Peers};
pub use self::place::Place;
use crate::net::{self, ConnectionId, TcpDriver, TcpSocket};
use crate::replica::{self, Replica};
use crate::storage::{Disk, Recovered, Storage, WriteError};
use crate::time::{Clock, Duration, Instant};
use crate::types::NodeId;

/// The token of signals; connections and the listener never have it.
const SIGNALS: Token = Token(usize::MAX - 1);
/// Events taken from one poll, at most. More than there can be connections: else those of thousands of
/// clients could hide those of a leader, and its heartbeats be late.
const EVENTS_PER_POLL: usize = 1 << 17;
/// The exit status of a process that was told to end a second time.
const ENDED_AT_ONCE: i32 = 1;

/// Why a node does not start. Whoever started it can act on each.
#[derive(Debug, Error)]
pub enum StartError {
    /// A name that cannot be resolved.
    #[error("cannot resolve {address}: {cause}; correct it or the machine's name service")]
    Resolve {
        /// The `HOST:PORT`.
        address: String,
        /// What the system said.
        cause: io::Error,
    },
    /// Another process has the port.
    #[error("port taken: another process listens on {address}; stop it, or choose another --port")]
    PortTaken {
        /// The `HOST:PORT`.
        address: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}; choose another --host or --port")]
    Listen {
        /// The `HOST:PORT`.
        address: String,
        /// What the system said.
        cause: io::Error,
    },
    /// The list names a node that the cluster does not have.
    #[error(
        "--peers names node {node}, but the cluster of this data directory has only {members}; correct --peers"
    )]
    NotAMember {
        /// The node.
        node: NodeId,
        /// The ids of the members.
        members: String,
    },
    /// The state in the snapshot is of another format.
    #[error(transparent)]
    State(#[from] replica::StateError),
    /// Poll or signals cannot be set up.
    #[error("cannot set up the event loop: {0}; raise the limit on open files, or free some memory")]
    System(#[from] io::Error),
}

impl StartError {
    fn of_port(address: &str, cause: io::Error) -> Self {
        let address = address.to_owned();
        match cause.kind() {
            io::ErrorKind::AddrInUse => StartError::PortTaken { address },
            _ => StartError::Listen { address, cause },
        }
    }
}

/// Why a node ended that was not told to.
#[derive(Debug, Error)]
pub enum RunError {
    /// The log could not be written. Nothing unsynced was promised to anybody.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The poll failed.
    #[error("the event loop cannot go on: {0}; start the node again")]
    Poll(#[from] io::Error),
}

/// A node that listens.
pub struct Server<D: Disk> {
    clock: Clock,
    world: World,
    node: Node<D, TcpSocket>,
}

/// What comes from outside: events and signals.
struct World {
    poll: Poll,
    events: Events,
    signals: Signals,
    /// The node was told to leave.
    is_leaving: bool,
}

impl<D: Disk> Server<D> {
    /// Listens at its place, and begins to look for the other nodes. `seed` is random.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn open(
        config: &Config,
        place: Place,
        storage: Storage<D>,
        recovered: Recovered,
        seed: [u8; 32],
    ) -> Result<Self, StartError> {
        let mut random = StdRng::from_seed(seed);
        let clock = Clock::start();
        let now = clock.now();
        let reached = recovered.peers.clone();
        let (node, incarnation, boot) = (recovered.node, recovered.incarnation, recovered.boot);
        let restored = recovered.restored.as_ref().map(|restored| restored.snapshot.index.into());
        let replica = Replica::new(replica_options(config, random.random()), storage, recovered, now)?;
        let configuration = replica.configuration().cloned();
        let world = World::new()?;
        let (port, entries, addresses) = place.into_parts(configuration.as_ref())?;
        let registry = world.poll.registry().try_clone()?;
        let driver =
            TcpDriver::listen(registry, port).map_err(|cause| StartError::of_port(&config.listen, cause))?;
        let limits = Limits::for_descriptors(raise_descriptor_limit(), entries.len());
        let last_index = replica.durable_index();
        let advertise = config.advertise.clone();
        let identity = Identity { node, incarnation, boot, last_index, advertise, restored };
        let peers = Peers::new(identity, config.heartbeat, entries, configuration, &reached, random.random());
        let bus = MessageBus::new(driver, peers, addresses, Admission::new(limits), now);
        let node = Node::new(bus, replica, config.heartbeat, now);
        Ok(Self { clock, world, node })
    }

    /// Runs until a signal has ended it and leadership was handed over.
    ///
    /// # Errors
    /// See [`RunError`]. The process must end: what is in memory may be ahead of the disk.
    pub fn run(self) -> Result<(), RunError> {
        let Self { clock, mut world, mut node } = self;
        loop {
            let now = clock.now();
            let wake = node.end_turn(now);
            let now = world.poll(&mut node, &clock, wake.map(|wake| wake.since(now)))?;
            let poll_again = |node: &mut _| world.poll(node, &clock, Some(Duration::ZERO)).map(drop);
            node.turn(now, poll_again, || clock.now())?;
            if world.is_leaving && node.may_exit(now) {
                return Ok(());
            }
        }
    }
}

impl World {
    fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let signals = signals(&poll)?;
        let events = Events::with_capacity(EVENTS_PER_POLL);
        Ok(Self { poll, events, signals, is_leaving: false })
    }

    /// The only call that waits. Tells connections what their events say; nothing is read yet.
    /// Gives the time at which it returned.
    fn poll<D: Disk>(
        &mut self,
        node: &mut Node<D, TcpSocket>,
        clock: &Clock,
        timeout: Option<Duration>,
    ) -> Result<Instant, RunError> {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            // A signal, or the process was stopped and continues. There are no events, but what
            // arrived meanwhile must be read before any timer fires.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                node.on_interrupted();
            }
            Err(error) => return Err(error.into()),
        }
        let now = clock.now();
        for event in &self.events {
            match event.token() {
                net::LISTENER => node.bus_mut().on_listener_ready(),
                SIGNALS if self.signals.pending().count() > 0 && !self.is_leaving => {
                    info!("told to end; a second signal ends this process at once");
                    self.is_leaving = true;
                    node.begin_hand_over(now);
                }
                SIGNALS => {}
                Token(bits) => {
                    let id = ConnectionId::from_u64(bits as u64);
                    node.bus_mut().on_event(id, net::readiness(event));
                }
            }
        }
        Ok(now)
    }
}

fn replica_options(config: &Config, seed: u64) -> replica::Options {
    replica::Options {
        snapshots: replica::SnapshotOptions::for_log(config.snapshot_log_bytes),
        address: config.advertise.clone(),
        heartbeat: config.heartbeat,
        election_min: config.election_min,
        election_max: config.election_max,
        fsync: config.fsync,
        seed,
    }
}

/// The first SIGTERM or SIGINT is an event of the poll. The second ends the process from within
/// the signal itself, even if the loop hangs in a sync.
fn signals(poll: &Poll) -> io::Result<Signals> {
    let was_told = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, ENDED_AT_ONCE, Arc::clone(&was_told))?;
        signal_hook::flag::register(signal, Arc::clone(&was_told))?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
    Ok(signals)
}

/// Raises the limit on open files as far as the system allows. What it is then.
fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;

    use tempfile::TempDir;

    use super::config::Flags;
    use super::*;
    use crate::replica::Transport;
    use crate::storage::{FileDisk, Options};
    use crate::types::Incarnation;
    use crate::wire::Writer;
    use crate::wire::client::{Request, RequestBody};
    use crate::wire::frame::{self, FrameKind};

    /// More than any round number of events that a poll might be limited to.
    const CLIENTS: usize = 1_100;

    fn open(directory: &TempDir) -> (Server<FileDisk>, String) {
        let first = 15_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        let flags = |port| Flags {
            id: 1,
            port,
            peers: String::new(),
            host: "127.0.0.1".to_owned(),
            advertise: None,
            data_dir: None,
            heartbeat_ms: 1_000,
            election_ms: "5000-6000".to_owned(),
            snapshot_log_kib: config::DEFAULT_SNAPSHOT_LOG_KIB,
            unsafe_no_fsync: true,
        };
        let start = |port| {
            let config = Config::check(flags(port)).unwrap();
            let place = Place::take(&config).ok()?;
            let disk = FileDisk::open(directory.path()).unwrap();
            let options = Options { sync: false, ..Options::default() };
            let (storage, recovered) = Storage::open(disk, NodeId(1), options, Incarnation(1)).unwrap();
            let server = Server::open(&config, place, storage, recovered, [7; 32]).ok()?;
            Some((server, config.listen))
        };
        (first..30_000).find_map(start).expect("a free port")
    }

    impl Server<FileDisk> {
        /// Polls; how many clients it told of. The turn follows.
        fn turn(&mut self) -> usize {
            let Self { clock, world, node } = self;
            let now = world.poll(node, clock, Some(Duration::from_millis(10))).unwrap();
            let ready = node.bus().ready_clients();
            node.turn::<RunError>(now, |_| Ok(()), || now).unwrap();
            ready
        }

        fn used(&self, name: &str) -> usize {
            let bounds = self.node.bus().bounds();
            bounds.iter().find(|bound| bound.name == name).unwrap().used as usize
        }
    }

    /// Connects this many clients.
    fn connect(server: &mut Server<FileDisk>, address: &str, count: usize) -> Vec<TcpStream> {
        let mut hello = Writer::new();
        frame::encode(FrameKind::ClientHello, &mut hello, |_| {});
        let hello = hello.into_bytes();
        let mut clients = Vec::new();
        while clients.len() < count {
            clients.push(TcpStream::connect(address).unwrap());
            clients.last_mut().unwrap().write_all(&hello).unwrap();
            let is_admitted = (0..1_000).any(|_| {
                server.turn();
                server.used("client_connections") == clients.len()
            });
            assert!(is_admitted, "no more than {} clients are admitted", clients.len() - 1);
        }
        clients
    }

    #[test]
    fn turn_reads_no_more_of_all_clients_than_its_share() {
        const CLIENTS: usize = 200;
        const BYTES: usize = 80 << 10;
        let directory = TempDir::new().unwrap();
        let (mut server, address) = open(&directory);
        let mut clients = connect(&mut server, &address, CLIENTS);
        let mut begun = Writer::new();
        frame::encode(FrameKind::Request, &mut begun, |out| out.put(&[0; 2 * BYTES]));
        let begun = begun.into_bytes();
        clients.iter_mut().for_each(|client| client.write_all(&begun[..BYTES]).unwrap());
        let arrived = |server: &mut Server<FileDisk>| {
            server.world.poll(&mut server.node, &server.clock, Some(Duration::from_millis(10))).unwrap();
            server.node.bus().ready_clients() == CLIENTS
        };
        assert!((0..1_000).any(|_| arrived(&mut server)));
        server.turn();
        let read = server.used("all_clients_input_bytes");
        assert!(read > 7 << 20 && read <= (8 << 20) + (64 << 10), "{read} bytes in one turn");
        assert!((0..1_000).any(|_| {
            server.turn();
            server.used("all_clients_input_bytes") == CLIENTS * BYTES
        }));
    }

    #[test]
    fn one_poll_tells_of_all_who_are_ready_however_many_they_are() {
        let directory = TempDir::new().unwrap();
        let (mut server, address) = open(&directory);
        // Each has two ends here. The server has raised the limit as far as it may.
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        if most.is_some_and(|most| most < 2 * CLIENTS as u64 + 300) {
            let mut stderr = std::io::stderr(); // past the capture of test output
            writeln!(stderr, "SKIPPED one_poll_tells_of_all: no more than {most:?} files may be open")
                .unwrap();
            return;
        }
        let mut clients = connect(&mut server, &address, CLIENTS);
        let mut request = Writer::new();
        let body = RequestBody::Get { key: "key".into(), stale: true };
        let get = Request { id: 1, time_left_ms: 1_000, silent_leader: None, body };
        frame::encode(FrameKind::Request, &mut request, |out| get.encode(out));
        let request = request.into_bytes();
        // The system may deliver some of it a moment later: then the next time.
        let is_told_of_all = (0..100).any(|_| {
            clients.iter_mut().for_each(|client| client.write_all(&request).unwrap());
            server.turn() == CLIENTS
        });
        assert!(is_told_of_all);
    }
}
