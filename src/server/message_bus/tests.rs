use std::net::SocketAddr;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::bounds::CLIENT_SOFT_BYTES;
use super::*;
use crate::net::memory::{Host, MemorySocket, Network};
use crate::server::admission::Limits;
use crate::server::config::PeerEntry;
use crate::server::peers::Identity;
use crate::types::{ClusterId, Incarnation, Revision};
use crate::wire::client::{Refused, RequestBody, ResponseBody};
use crate::wire::entry::Member;
use crate::wire::frame::{self, Decoder};
use crate::wire::hello::{DialNumber, PeerHello, Refusal, RefusalReason};
use crate::wire::peer::{Heartbeat, TimeoutNow};
use crate::wire::{Reader, Writer};

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

    fn inbound(&mut self, id: u64) -> Vec<Inbound> {
        std::mem::take(&mut self.node(id).inbound)
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
        let body = RequestBody::Get { key: Bytes::from_static(b"key"), stale: false };
        let request = Request { id, time_left_ms: 1000, silent_leader: None, body };
        self.send(FrameKind::Request, |out| request.encode(out));
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

fn response(id: u64, bytes: usize) -> Response {
    let body = ResponseBody::Value(Some(Bytes::from(vec![7; bytes])));
    Response { id, revision: Revision(1), body }
}

fn heartbeat(round: u64) -> Message {
    Message::Heartbeat(Heartbeat { term: crate::types::Term(1), commit: crate::types::LogIndex(1), round })
}

#[test]
fn nodes_that_start_one_after_the_other_found_one_cluster_through_the_lowest_id() {
    let mut world = World::new();
    for id in [3, 1, 2] {
        world.start(id, 1, &[1, 2, 3], None);
        world.pass(300);
    }
    let founding = world.inbound(1).into_iter().find_map(|inbound| match inbound {
        Inbound::Found(configuration) => Some(configuration),
        _ => None,
    });
    let configuration = founding.expect("node 1 founds");
    assert_eq!(configuration.members(), [member(1), member(2), member(3)]);
    // What is sent before the founding is durable waits for it.
    world.node(1).bus.send(NodeId(2), &heartbeat(1));
    world.settle();
    assert!(!world.inbound(2).iter().any(|inbound| matches!(inbound, Inbound::Message(..))));
    world.node(1).bus.set_configuration(&configuration);
    world.settle();
    let told = Inbound::Message(NodeId(1), Message::Found(configuration));
    assert_eq!(world.inbound(2), [told.clone(), Inbound::Message(NodeId(1), heartbeat(1))]);
    assert!(world.inbound(3).contains(&told));
}

#[test]
fn node_that_was_told_and_does_not_know_is_told_again() {
    let mut world = World::new();
    world.start(1, 1, &[1, 2], Some(cluster_of(&[1, 2])));
    world.start(2, 1, &[1, 2], None);
    world.pass(1_000);
    let is_told = |inbound: &Inbound| matches!(inbound, Inbound::Message(_, Message::Found(_)));
    assert!(world.inbound(2).iter().filter(|inbound| is_told(inbound)).count() >= 3);
    world.node(2).bus.set_configuration(&cluster_of(&[1, 2]));
    world.settle();
    world.inbound(2);
    world.pass(1_000);
    assert_eq!(world.inbound(2), []);
}

#[test]
fn each_pair_of_nodes_ends_with_one_connection() {
    let mut world = World::founded(3);
    for node in &world.nodes {
        assert_eq!(node.bus.connections.len(), 2, "node {}", node.id);
    }
    world.node(2).bus.send(NodeId(3), &heartbeat(7));
    world.node(2).bus.flush();
    world.settle();
    assert_eq!(world.inbound(3), [Inbound::Message(NodeId(2), heartbeat(7))]);
}

#[test]
fn links_broken_at_random_moments_end_in_one_that_both_ends_agree_on() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        let mut boots = [0; 4];
        let mut start = |world: &mut World, id: usize| {
            boots[id] += 1;
            world.nodes.retain(|node| node.id != id as u64);
            world.start(id as u64, boots[id], &[1, 2, 3], Some(cluster_of(&[1, 2, 3])));
        };
        (1..=3).for_each(|id| start(&mut world, id));
        for _ in 0..30 {
            match rng.random_range(0..10) {
                0 if seed % 2 == 0 => start(&mut world, rng.random_range(1..=3)),
                1..5 => world.network.reset(rng.random_range(0..world.network.pipes())),
                5..8 => world.pass(rng.random_range(1..20)),
                _ => drop(world.turn_of(rng.random_range(0..3))),
            }
        }
        world.pass(5_000);
        let is_dead = |inbound: &Inbound| matches!(inbound, Inbound::PeerDead(_));
        let found_dead = world.nodes.iter().any(|node| node.inbound.iter().any(is_dead));
        assert!(seed % 2 == 0 || !found_dead, "seed {seed}: nobody died");
        for (from, to) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
            assert_eq!(world.node(from).bus.connections.len(), 2, "seed {seed}, node {from}");
            world.inbound(to);
            world.node(from).bus.send(NodeId(to), &heartbeat(7));
            world.node(from).bus.flush();
            world.settle();
            let expected = [Inbound::Message(NodeId(from), heartbeat(7))];
            assert_eq!(world.inbound(to), expected, "seed {seed}, {from} to {to}");
        }
    }
}

#[test]
fn founding_among_restarts_and_broken_links_ends_in_one_cluster() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        let mut boots = [0; 4];
        let mut durable: [Option<Configuration>; 4] = [None, None, None, None];
        let mut founded = BTreeSet::new();
        for step in 0..80 {
            let id = rng.random_range(1..=3_usize);
            match rng.random_range(0..10) {
                0..2 if step < 40 => {
                    boots[id] += 1;
                    world.nodes.retain(|node| node.id != id as u64);
                    world.start(id as u64, boots[id], &[1, 2, 3], durable[id].clone());
                }
                2..5 if step < 40 && world.network.pipes() > 0 => {
                    world.network.reset(rng.random_range(0..world.network.pipes()));
                }
                // A node may die before what it found or was told is durable.
                5..7 => {
                    for node in &mut world.nodes {
                        let told = node.inbound.drain(..).find_map(|inbound| match inbound {
                            Inbound::Found(configuration) => Some(configuration),
                            Inbound::Message(_, Message::Found(configuration)) => Some(configuration),
                            _ => None,
                        });
                        let durable = &mut durable[node.id as usize];
                        if let Some(configuration) = told.filter(|_| durable.is_none()) {
                            founded.insert(configuration.cluster);
                            node.bus.set_configuration(&configuration);
                            *durable = Some(configuration);
                        }
                    }
                }
                _ => world.pass(rng.random_range(1..300)),
            }
        }
        assert!(founded.len() <= 1, "seed {seed}: {founded:?}");
        if world.nodes.len() == 3 {
            assert!(durable[1..].iter().all(Option::is_some), "seed {seed}: {durable:?}");
        }
    }
}

#[test]
fn killed_node_is_found_dead_by_all_at_once() {
    let mut world = World::founded(3);
    world.kill(1);
    world.settle();
    for id in [2, 3] {
        let expected = [Inbound::LinkDown(NodeId(1)), Inbound::PeerDead(NodeId(1))];
        assert_eq!(world.inbound(id), expected, "node {id}");
    }
}

#[test]
fn dying_node_that_still_accepts_is_found_dead_once_it_refuses() {
    let mut world = World::founded(2);
    world.kill(1);
    world.network.begin_to_die(address(1));
    world.pass(20);
    assert_eq!(world.inbound(2), [Inbound::LinkDown(NodeId(1))]);
    world.network.stop_listening(address(1));
    world.pass(6);
    assert_eq!(world.inbound(2), [Inbound::PeerDead(NodeId(1))]);
}

#[test]
fn node_that_comes_back_with_a_later_boot_is_linked_again_and_its_death_is_known() {
    let mut world = World::founded(2);
    world.nodes.retain(|node| node.id != 1);
    world.start(1, 2, &[1, 2], Some(cluster_of(&[1, 2])));
    world.pass(10);
    let inbound = world.inbound(2);
    assert_eq!(inbound[..2], [Inbound::LinkDown(NodeId(1)), Inbound::PeerDead(NodeId(1))]);
    assert_eq!(inbound[2], Inbound::LinkUp(NodeId(1), BootNumber(2), address(1).to_string()));
}

#[test]
fn nodes_of_two_clusters_refuse_each_other_and_stay_apart() {
    let mut world = World::new();
    let other = Configuration::new(ClusterId(8), vec![member(1), member(2)]).unwrap();
    world.start(1, 1, &[1, 2], Some(cluster_of(&[1, 2])));
    world.start(2, 1, &[1, 2], Some(other));
    world.pass(3_000);
    assert_eq!(world.inbound(1), []);
    assert_eq!(world.inbound(2), []);
    for node in &world.nodes {
        assert!(node.bus.connections.len() < 20, "refused connections are let go");
    }
}

#[test]
fn node_that_never_answers_is_given_up_and_delays_nobody() {
    let mut world = World::new();
    let _silent = world.network.listen(address(2));
    world.start(1, 1, &[1, 2, 3], Some(cluster_of(&[1, 2, 3])));
    world.start(3, 1, &[1, 2, 3], Some(cluster_of(&[1, 2, 3])));
    world.pass(10);
    assert!(matches!(world.inbound(1)[..], [Inbound::LinkUp(NodeId(3), ..), ..]));
    world.pass(10_000);
    assert!(world.node(1).bus.connections.len() <= 3);
}

#[test]
fn client_is_welcomed_asks_and_is_answered() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    client.send_get(5);
    world.settle();
    let inbound = world.inbound(1);
    assert!(matches!(&inbound[..], [Inbound::Request(from, request)] if *from == name && request.id == 5));
    world.node(1).bus.reply(name, &response(5, 3));
    world.node(1).bus.flush();
    assert_eq!(client.receive()[0].kind, FrameKind::Response);
    drop(client);
    world.settle();
    assert_eq!(world.inbound(1), [Inbound::ClientGone(name)]);
    world.node(1).bus.reply(name, &response(6, 3));
    assert_eq!(world.node(1).bus.connections.len(), 0);
}

#[test]
fn large_request_right_behind_the_introduction_is_taken() {
    let mut world = World::founded(1);
    let mut client = world.client(1);
    let mut out = Writer::new();
    frame::encode(FrameKind::ClientHello, &mut out, |_| {});
    let body = RequestBody::Get { key: Bytes::from(vec![7; 4096]), stale: true };
    let request = Request { id: 1, time_left_ms: 0, silent_leader: None, body };
    frame::encode(FrameKind::Request, &mut out, |out| request.encode(out));
    client.send_bytes(&out.into_bytes());
    world.settle();
    assert!(matches!(world.inbound(1)[..], [Inbound::ClientHello(_), Inbound::Request(..)]));
}

#[test]
fn request_that_makes_no_sense_is_answered_and_the_connection_lives_on() {
    let mut world = World::founded(1);
    let (mut client, _) = world.welcomed(1);
    client.send(FrameKind::Request, |out| {
        out.u64(7);
        out.put(b"nonsense");
    });
    let body = RequestBody::Get { key: Bytes::from(vec![7; 4097]), stale: true };
    let request = Request { id: 8, time_left_ms: 0, silent_leader: None, body };
    client.send(FrameKind::Request, |out| request.encode(out));
    client.send_get(9);
    world.settle();
    let answers: Vec<Response> =
        client.receive().into_iter().map(|frame| Response::decode(frame.payload).unwrap()).collect();
    assert_eq!((answers[0].id, answers[1].id), (7, 8));
    assert!(matches!(answers[0].body, ResponseBody::Refused(Refused::Malformed(_))));
    assert!(matches!(answers[1].body, ResponseBody::Refused(Refused::TooLarge(_))));
    assert!(matches!(&world.inbound(1)[..], [Inbound::Request(_, request)] if request.id == 9));
}

#[test]
fn frame_beyond_the_limit_is_refused_with_a_word_and_the_client_is_gone_once() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    let mut out = Writer::new();
    frame::encode(FrameKind::Request, &mut out, |_| {});
    let mut bytes = out.into_bytes().to_vec();
    bytes[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    bytes.extend([7; 1000]);
    client.send_bytes(&bytes);
    world.settle();
    assert_eq!(client.refusal(), RefusalReason::FrameTooLarge);
    assert_eq!(world.inbound(1), [Inbound::ClientGone(name)]);
    world.pass(1_100);
    client.receive();
    assert!(client.is_closed);
    assert_eq!(world.inbound(1), []);
}

#[test]
fn foreign_greeting_is_closed_without_a_word() {
    let mut world = World::founded(1);
    let mut client = world.client(1);
    client.send_bytes(b"GET / HTTP/1.1\r\n\r\n");
    world.settle();
    assert_eq!(client.receive(), []);
    assert!(client.is_closed);
}

#[test]
fn frame_that_has_no_place_is_refused_in_every_role() {
    let mut world = World::founded(1);
    let mut unknown = world.client(1);
    unknown.send_get(1);
    let (mut client, _) = world.welcomed(1);
    client.send(FrameKind::Message, |out| heartbeat(1).encode(out));
    world.settle();
    assert_eq!(unknown.refusal(), RefusalReason::Malformed);
    assert_eq!(client.refusal(), RefusalReason::Malformed);
}

#[test]
fn message_that_is_none_ends_the_link_without_a_panic() {
    let mut world = World::founded(2);
    let link = world.node(2).bus.peers.link(NodeId(1)).unwrap();
    world.node(2).bus.queue(link, FrameKind::Message, |out| out.put(b"\xff\xff"));
    world.node(2).bus.flush();
    world.settle();
    assert_eq!(world.inbound(1)[0], Inbound::LinkDown(NodeId(2)));
}

#[test]
fn client_beyond_the_cap_is_told_and_may_come_when_one_has_gone() {
    let mut world = World::founded(1);
    let first = world.welcomed(1);
    let _second = world.welcomed(1);
    let mut third = world.client(1);
    third.send(FrameKind::ClientHello, |_| {});
    world.settle();
    assert_eq!(third.refusal(), RefusalReason::Busy);
    drop(first);
    world.settle();
    world.inbound(1);
    world.welcomed(1);
}

#[test]
fn silent_connections_make_room_for_each_other_and_never_keep_a_node_out() {
    let mut world = World::founded(1);
    let mut silent: Vec<TestClient> = (0..10).map(|_| world.client(1)).collect();
    world.settle();
    let mut open = 0;
    for client in &mut silent {
        client.receive();
        open += usize::from(!client.is_closed);
    }
    assert_eq!(open, LIMITS.unknown);
    world.pass(2_001);
    for client in &mut silent {
        client.receive();
        assert!(client.is_closed, "nobody stays silent for longer than the handshake may take");
    }
}

#[test]
fn clients_that_are_being_refused_count_as_unknown() {
    let mut world = World::founded(1);
    let mut refused = Vec::new();
    for _ in 0..10 {
        let (mut client, _) = world.welcomed(1);
        client.send(FrameKind::PeerHello, |_| {});
        world.settle();
        refused.push(client);
    }
    assert_eq!(world.node(1).bus.connections.len(), LIMITS.unknown);
}

#[test]
fn frame_that_never_ends_is_given_up() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    client.send_bytes(b"KV\x01\x06");
    world.pass(9_000);
    assert_eq!(world.inbound(1), []);
    world.pass(1_001);
    assert_eq!(world.inbound(1), [Inbound::ClientGone(name)]);
}

#[test]
fn idle_client_is_left_alone() {
    let mut world = World::founded(1);
    let (mut client, _) = world.welcomed(1);
    world.pass(30_000);
    client.send_get(1);
    world.settle();
    assert!(matches!(world.inbound(1)[..], [Inbound::Request(..)]));
}

#[test]
fn client_that_does_not_read_its_answers_is_not_read_and_then_closed() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    world.node(1).bus.reply(name, &response(1, CLIENT_SOFT_BYTES + (300 << 10)));
    world.node(1).bus.flush();
    client.send_get(2);
    world.settle();
    assert_eq!(world.inbound(1), [], "not read while its answers wait");
    for _ in 0..10 {
        client.receive();
        world.settle();
    }
    assert!(matches!(world.inbound(1)[..], [Inbound::Request(..)]), "read again once they have left");
    world.node(1).bus.reply(name, &response(2, 1 << 20));
    world.node(1).bus.flush();
    world.pass(2 * 10_000);
    assert_eq!(world.inbound(1), [Inbound::ClientGone(name)]);
}

#[test]
fn client_that_asks_nothing_for_ten_minutes_is_closed_and_one_that_asks_is_not() {
    let mut world = World::founded(1);
    let (_silent, silent_name) = world.welcomed(1);
    let (mut busy, busy_name) = world.welcomed(1);
    world.now += Duration::from_secs(599);
    busy.send_get(1);
    world.pass(1);
    world.inbound(1).clear();
    world.node(1).bus.reply(busy_name, &response(1, 1));
    world.now += Duration::from_secs(2);
    world.pass(1);
    assert_eq!(world.inbound(1), [Inbound::ClientGone(silent_name)]);
    world.now += Duration::from_secs(1200);
    world.pass(1);
    assert_eq!(world.inbound(1), [Inbound::ClientGone(busy_name)]);
}

#[test]
fn client_that_waits_for_too_many_answers_is_not_read_until_it_has_half_of_them() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    (0..1_500).for_each(|id| client.send_get(id));
    world.pass(20);
    assert_eq!(world.inbound(1).len(), 1_024);
    assert_eq!(world.node(1).bus.ready_clients(), 0, "and nobody is kept awake for it");
    for id in 0..512 {
        world.node(1).bus.reply(name, &response(id, 1));
    }
    world.node(1).bus.flush();
    world.pass(20);
    assert_eq!(world.inbound(1).len(), 0);
    world.node(1).bus.reply(name, &response(512, 1));
    world.node(1).bus.flush();
    world.pass(20);
    assert_eq!(world.inbound(1).len(), 1_500 - 1_024);
}

#[test]
fn answers_to_far_more_than_may_wait_all_reach_a_client_that_reads_in_order() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    for id in 0..=24 {
        world.node(1).bus.reply(name, &response(id, 1 << 20));
    }
    let mut ids = Vec::new();
    while ids.len() <= 24 {
        let queued = world.node(1).bus.all_bounds();
        let queued = queued.iter().find(|bound| bound.name == "client_output_bytes").unwrap();
        assert!(queued.used <= (3 << 20), "{} bytes wait", queued.used);
        let before = ids.len();
        for _ in 0..1000 {
            world.settle();
            let frames = client.receive().into_iter();
            ids.extend(frames.map(|frame| Response::decode(frame.payload).unwrap().id));
            if ids.len() > before {
                break;
            }
        }
        assert!(ids.len() > before, "nothing more came after {before} answers");
    }
    assert!(ids.into_iter().eq(0..=24));
    client.send_get(1);
    world.settle();
    assert_eq!(world.inbound(1).len(), 1, "and it is read again");
}

#[test]
fn answers_withheld_beyond_their_bound_are_refused_as_busy_and_each_request_is_answered_once() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    (0..100).for_each(|id| client.send_get(id));
    world.settle();
    for id in 0..100 {
        world.node(1).bus.reply(name, &response(id, 1 << 20));
    }
    let bound = |world: &mut World, name: &str| {
        let bounds = world.node(1).bus.all_bounds();
        bounds.into_iter().find(|bound| bound.name == name).unwrap()
    };
    let withheld = bound(&mut world, "client_withheld_bytes");
    assert!(withheld.used > withheld.cap / 2 && withheld.used <= withheld.cap, "{withheld:?}");
    let (mut ids, mut busy) = (Vec::new(), 0);
    while ids.len() < 100 {
        world.settle();
        for frame in client.receive() {
            let response = Response::decode(frame.payload).unwrap();
            ids.push(response.id);
            busy += usize::from(matches!(response.body, ResponseBody::Refused(Refused::Busy(_))));
        }
    }
    assert!(ids.into_iter().eq(0..100));
    assert!((30..40).contains(&busy), "{busy} busy");
    for name in ["client_withheld_bytes", "all_clients_withheld_bytes", "client_requests"] {
        assert_eq!(bound(&mut world, name).used, 0, "{name}");
    }
}

#[test]
fn input_of_incomplete_frames_is_counted_until_they_are_complete_or_closed() {
    let mut world = World::founded(1);
    let (mut client, _) = world.welcomed(1);
    let used = |world: &mut World| {
        let bounds = world.node(1).bus.all_bounds();
        bounds.iter().find(|bound| bound.name == "all_clients_input_bytes").unwrap().used
    };
    let mut out = Writer::new();
    let body = RequestBody::Get { key: Bytes::from_static(b"key"), stale: false };
    let request = Request { id: 1, time_left_ms: 1000, silent_leader: None, body };
    frame::encode(FrameKind::Request, &mut out, |out| request.encode(out));
    let bytes = out.into_bytes();
    client.send_bytes(&bytes[..20]);
    world.settle();
    assert_eq!(used(&mut world), 20);
    client.send_bytes(&bytes[20..]);
    world.settle();
    assert_eq!(used(&mut world), 0);
    client.send_bytes(&bytes[..20]);
    world.settle();
    drop(client);
    world.settle();
    assert_eq!(used(&mut world), 0);
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

fn hello_of(node: u64, boot: u64, dial: u64) -> PeerHello {
    PeerHello {
        cluster: Some(ClusterId(9)),
        node: NodeId(node),
        incarnation: member(node).incarnation,
        boot: BootNumber(boot),
        last_index: crate::types::LogIndex(1 << 20),
        dial: DialNumber(dial),
        advertise: "elsewhere:1".to_owned(),
        met: Vec::new(),
        restored: None,
    }
}

impl World {
    /// Somebody introduces himself to node 1 as another node, and goes on at once as if he were it.
    fn forger(&mut self, hello: &PeerHello) -> TestClient {
        let mut forger = self.client(1);
        forger.send(FrameKind::PeerHello, |out| hello.encode(out));
        forger.send(FrameKind::Message, |out| heartbeat(666).encode(out));
        forger
    }
}

#[test]
fn forged_or_replayed_introduction_of_a_linked_node_disturbs_nothing() {
    // Within the time of a race of dials, and after it.
    for age in [0, 4_000] {
        for boot in [1, 2, u64::MAX] {
            let mut world = World::founded(2);
            world.pass(age);
            let mut forger = world.forger(&hello_of(2, boot, 7));
            world.pass(3_000);
            assert_eq!(world.inbound(1), [], "boot {boot} after {age} ms");
            assert!(forger.receive().iter().all(|frame| frame.kind == FrameKind::Refusal));
            world.node(2).bus.send(NodeId(1), &heartbeat(7));
            world.node(2).bus.flush();
            world.settle();
            assert_eq!(world.inbound(1), [Inbound::Message(NodeId(2), heartbeat(7))]);

            world.nodes.retain(|node| node.id != 2);
            world.start(2, 2, &[1, 2], Some(cluster_of(&[1, 2])));
            world.pass(10);
            let up = Inbound::LinkUp(NodeId(2), BootNumber(2), address(2).to_string());
            let mut inbound = world.inbound(1);
            // Once by each of two dials that cross.
            inbound.dedup();
            let expected = [Inbound::LinkDown(NodeId(2)), Inbound::PeerDead(NodeId(2)), up];
            assert_eq!(inbound, expected, "the true next boot is linked");
        }
    }
}

#[test]
fn forged_introduction_of_a_dead_node_is_no_link_and_the_node_itself_is_when_it_returns() {
    let mut world = World::founded(2);
    world.kill(2);
    world.settle();
    assert_eq!(world.inbound(1), [Inbound::LinkDown(NodeId(2)), Inbound::PeerDead(NodeId(2))]);
    let mut forgers: Vec<TestClient> =
        [1, 2, 9].iter().map(|boot| world.forger(&hello_of(2, *boot, 100 + boot))).collect();
    world.pass(2_100);
    assert_eq!(world.inbound(1), []);
    for forger in &mut forgers {
        assert_eq!(forger.refusal(), RefusalReason::NotConfirmed);
    }
    forgers = [1, 2, 9].iter().map(|boot| world.forger(&hello_of(2, *boot, 200 + boot))).collect();
    world.start(2, 2, &[1, 2], Some(cluster_of(&[1, 2])));
    world.pass(300);
    let up = Inbound::LinkUp(NodeId(2), BootNumber(2), address(2).to_string());
    assert_eq!(world.inbound(1), [up]);
    drop(forgers);
}

#[test]
fn flood_of_forged_introductions_cuts_no_link_and_keeps_no_node_out() {
    let mut world = World::founded(2);
    let mut forgers = Vec::new();
    for dial in 0..2_000 {
        if dial == 1_000 {
            assert_eq!(world.inbound(1), []);
            world.nodes.retain(|node| node.id != 2);
            world.start(2, 2, &[1, 2], Some(cluster_of(&[1, 2])));
        }
        forgers.push(world.forger(&hello_of(2, 1 + dial % 5, 1 + dial)));
        world.pass(1);
        assert!(world.node(1).bus.connections.len() <= 2 + LIMITS.unknown + LIMITS.claims + 2);
    }
    let up = Inbound::LinkUp(NodeId(2), BootNumber(2), address(2).to_string());
    let mut inbound = world.inbound(1);
    inbound.dedup();
    assert_eq!(inbound, [Inbound::LinkDown(NodeId(2)), Inbound::PeerDead(NodeId(2)), up]);
}

#[test]
fn node_that_can_only_dial_and_not_be_dialled_is_told_why_it_is_no_link() {
    let mut world = World::new();
    world.start(1, 1, &[1, 2], Some(cluster_of(&[1, 2])));
    // Nobody listens at node 2's address.
    let mut lonely = world.forger(&hello_of(2, 1, 7));
    world.pass(1_001);
    assert_eq!(lonely.refusal(), RefusalReason::NotConfirmed);
    assert_eq!(world.inbound(1), []);
}
