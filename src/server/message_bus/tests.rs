use std::net::SocketAddr;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::bounds::{
    ALL_CLIENTS_INPUT_BYTES, ALL_CLIENTS_WITHHELD_BYTES, CLIENT_SOFT_BYTES, CLIENT_WITHHELD_BYTES,
};
use super::*;
use crate::net::memory::{Host, MemorySocket, Network};
use crate::server::admission::Limits;
use crate::server::config::PeerEntry;
use crate::server::peers::Identity;
use crate::types::{ClusterId, Incarnation, Revision};
use crate::wire::client::{Outcome, Refused, RequestBody, ResponseBody};
use crate::wire::entry::Member;
use crate::wire::frame::{self, Decoder};
use crate::wire::hello::{DialNumber, PeerHello, Refusal, RefusalReason};
use crate::wire::peer::{Heartbeat, TimeoutNow};
use crate::wire::{Reader, Writer};

mod clients;
mod forged;
mod nodes;

const EMFILE: i32 = 24;
const LIMITS: Limits =
    Limits { clients: 2, unknown: 3, claims: 4, client_output_bytes: 8 << 20, peer_output_bytes: 16 << 20 };

fn address(id: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(id).unwrap()], 9000))
}

fn member(id: u64) -> Member {
    Member { id: NodeId(id), incarnation: Incarnation(id * 100) }
}

fn cluster_of(ids: &[u64]) -> Configuration {
    Configuration::new(ClusterId(9), ids.iter().map(|id| member(*id)).collect()).unwrap()
}

/// Some nodes without replicas, on one network and at one time.
struct World {
    network: Network,
    now: Instant,
    nodes: Vec<TestNode>,
}

struct TestNode {
    id: u64,
    bus: MessageBus<MemorySocket>,
    inbound: Vec<Inbound>,
}

impl World {
    fn new() -> Self {
        Self { network: Network::default(), now: Instant::ZERO, nodes: Vec::new() }
    }

    /// Nodes 1 to `count`, founded and linked.
    fn founded(count: u64) -> Self {
        let mut world = Self::new();
        let ids: Vec<u64> = (1..=count).collect();
        for id in &ids {
            world.start(*id, 1, &ids, Some(cluster_of(&ids)));
        }
        world.pass(2_000);
        for node in &mut world.nodes {
            node.inbound.clear();
        }
        world
    }

    fn start(&mut self, id: u64, boot: u64, list: &[u64], configuration: Option<Configuration>) {
        let others: Vec<u64> = list.iter().copied().filter(|other| *other != id).collect();
        let entries = others.iter().map(|id| PeerEntry { node: None, address: address(*id).to_string() });
        let identity = Identity {
            node: NodeId(id),
            incarnation: member(id).incarnation,
            boot: BootNumber(boot),
            last_index: LogIndex(0),
            advertise: address(id).to_string(),
            restored: None,
        };
        let heartbeat = Duration::from_millis(30);
        let peers = Peers::new(
            identity,
            heartbeat,
            entries.collect(),
            configuration,
            &[],
            [(id + 16 * boot) as u8; 32],
        );
        let addresses = others.iter().map(|id| address(*id)).collect();
        let host: Host = self.network.listen(address(id));
        let bus = MessageBus::new(host, peers, addresses, Admission::new(LIMITS), self.now);
        self.nodes.push(TestNode { id, bus, inbound: Vec::new() });
    }

    /// The process dies: its listener and its sockets are gone.
    fn kill(&mut self, id: u64) {
        self.network.stop_listening(address(id));
        self.nodes.retain(|node| node.id != id);
    }

    fn node(&mut self, id: u64) -> &mut TestNode {
        self.nodes.iter_mut().find(|node| node.id == id).unwrap()
    }

    /// What was told since the last call, but for where the list has whom.
    fn inbound(&mut self, id: u64) -> Vec<Inbound> {
        let inbound = std::mem::take(&mut self.node(id).inbound).into_iter();
        inbound.filter(|inbound| !matches!(inbound, Inbound::PeerListed(..))).collect()
    }

    /// Turns of all nodes until nothing moves any more.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let now = self.now;
            let network = self.network.clone();
            let moved = self.nodes.iter_mut().map(|node| node.turn(&network, now)).filter(|moved| *moved);
            if moved.count() == 0 {
                return;
            }
        }
        panic!("the nodes never come to rest");
    }

    /// One turn of one node.
    fn turn_of(&mut self, place: usize) -> bool {
        let (network, now) = (self.network.clone(), self.now);
        self.nodes[place].turn(&network, now)
    }

    /// Time passes, a millisecond at once.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.settle();
            self.now += Duration::from_millis(1);
            for node in &mut self.nodes {
                node.bus.fire_timers(self.now);
            }
        }
        self.settle();
    }

    fn client(&mut self, node: u64) -> TestClient {
        let socket = self.network.connect(address(node)).unwrap();
        TestClient { socket, decoder: Decoder::new(MAX_CLIENT_FRAME_BYTES), is_closed: false }
    }

    /// A client that has introduced itself, and its name.
    fn welcomed(&mut self, node: u64) -> (TestClient, ClientConnection) {
        let mut client = self.client(node);
        client.send(FrameKind::ClientHello, |_| {});
        self.settle();
        let hello = self.inbound(node).pop();
        let Some(Inbound::ClientHello(name)) = hello else { panic!("{hello:?}") };
        (client, name)
    }
}

impl TestNode {
    /// One turn as the server's loop has it; whether anything happened.
    fn turn(&mut self, network: &Network, now: Instant) -> bool {
        let (events, is_listener_ready) = network.take_events(address(self.id));
        let moved = !events.is_empty() || is_listener_ready || self.bus.has_work();
        for (id, readiness) in events {
            self.bus.on_event(id, readiness);
        }
        if is_listener_ready {
            self.bus.on_listener_ready();
        }
        for _ in 0..self.bus.ready_peers() {
            self.bus.read_next_peer(now);
        }
        for _ in 0..self.bus.ready_clients() {
            self.bus.read_next_client(now);
        }
        self.bus.accept(now);
        self.inbound.extend(std::iter::from_fn(|| self.bus.next_inbound()));
        self.bus.flush();
        self.bus.reap();
        moved
    }
}

/// The other end of a connection, played by a test.
struct TestClient {
    socket: MemorySocket,
    decoder: Decoder,
    is_closed: bool,
}

impl TestClient {
    fn send(&mut self, kind: FrameKind, write: impl FnOnce(&mut Writer)) {
        let mut out = Writer::new();
        frame::encode(kind, &mut out, write);
        self.send_bytes(&out.into_bytes());
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        let count = self.socket.write_vectored(&[io::IoSlice::new(bytes)]).unwrap();
        assert_eq!(count, bytes.len());
    }

    fn send_get(&mut self, id: u64) {
        self.send(FrameKind::Request, |out| request(id).encode(out));
    }

    /// Everything that has arrived.
    fn receive(&mut self) -> Vec<Frame> {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => self.is_closed = true,
                Ok(count) => {
                    self.decoder.push(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.is_closed = true,
            }
            break;
        }
        std::iter::from_fn(|| self.decoder.next().unwrap()).collect()
    }

    fn refusal(&mut self) -> RefusalReason {
        let frames = self.receive();
        let last = frames.last().expect("a refusal");
        assert_eq!(last.kind, FrameKind::Refusal);
        Refusal::decode(&mut Reader::new(last.payload.clone())).unwrap().reason
    }
}

fn request(id: u64) -> Request {
    let body = RequestBody::Get { key: Bytes::from_static(b"key"), stale: false };
    Request { id, time_left_ms: 1000, silent_leader: None, body }
}

fn response(id: u64, bytes: usize) -> Response {
    let body = ResponseBody::Value(Some(Bytes::from(vec![7; bytes])));
    Response { id, revision: Revision(1), body }
}

fn heartbeat(round: u64) -> Message {
    Message::Heartbeat(Heartbeat { term: crate::types::Term(1), commit: crate::types::LogIndex(1), round })
}

#[test]
fn link_that_takes_nothing_is_closed_at_its_cap() {
    let mut world = World::founded(2);
    let bytes = vec![7; 1 << 20];
    let link = world.node(1).bus.peers.link(NodeId(2)).unwrap();
    for _ in 0..17 {
        world.node(1).bus.queue(link, FrameKind::Message, |out| out.put(&bytes));
    }
    world.node(1).bus.send(NodeId(2), &Message::TimeoutNow(TimeoutNow { term: crate::types::Term(1) }));
    world.node(1).bus.flush();
    let inbound: Vec<Inbound> = std::iter::from_fn(|| world.node(1).bus.next_inbound()).collect();
    assert_eq!(inbound[0], Inbound::LinkDown(NodeId(2)));
}

#[test]
fn accepting_out_of_descriptors_pauses_and_recovers_by_itself() {
    let mut world = World::founded(1);
    world.network.fail_accept(address(1), &[EMFILE]);
    let mut client = world.client(1);
    client.send(FrameKind::ClientHello, |_| {});
    world.settle();
    assert_eq!(world.inbound(1), [], "and the loop does not spin: it has settled");
    world.pass(101);
    assert!(matches!(world.inbound(1)[..], [Inbound::ClientHello(_)]));
}

#[test]
fn event_for_a_connection_that_was_closed_is_ignored() {
    let mut world = World::founded(1);
    let (client, name) = world.welcomed(1);
    drop(client);
    world.settle();
    world.inbound(1);
    let everything = Readiness { readable: true, writable: true, read_closed: true, write_closed: true };
    world.node(1).bus.on_event(ConnectionId::from_u64(name.0), everything);
    assert!(!world.node(1).bus.has_work());
}
