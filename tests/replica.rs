//! Whole replicas, real logs on disk, without sockets: messages wait in a queue, time is a number.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kvstore::replica::{ClientConnection, Options, Replica, SnapshotOptions, Transport};
use kvstore::storage::{self, Recovered, Storage};
use kvstore::time::{Duration, Instant};
use kvstore::types::{
    BootNumber, ClientId, ClientName, ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Sequence, Term,
};
use kvstore::wire::client::{
    Bound, Operation, Outcome, Refused, Request, RequestBody, Response, ResponseBody, SilentLeader, Write,
};
use kvstore::wire::entry::{Configuration, Forgotten, Member};
use kvstore::wire::peer::{Heartbeat, Message};
use limited_disk::{Free, LimitedDisk};
use tempfile::TempDir;

#[path = "replica/full_disk.rs"]
mod full_disk;
#[path = "replica/handing_over.rs"]
mod handing_over;
#[path = "replica/limited_disk.rs"]
mod limited_disk;
#[path = "replica/restoring.rs"]
mod restoring;
#[path = "replica/space.rs"]
mod space;
#[path = "replica/standing.rs"]
mod standing;
#[path = "replica/snapshots.rs"]
mod taking_snapshots;
#[path = "replica/waiting.rs"]
mod waiting;

const CLIENT: ClientConnection = ClientConnection(1);

/// Some replicas, the messages between them, and the answers that they gave.
struct World {
    nodes: Vec<Option<Replica<LimitedDisk>>>,
    /// What the nodes are told of their disks.
    free: Vec<Free>,
    /// Nodes that run, but whose messages are lost, both ways.
    cut_off: BTreeSet<usize>,
    network: Network,
    now: Instant,
    snapshots: SnapshotOptions,
    directory: TempDir,
}

#[derive(Default)]
struct Network {
    sender: usize,
    queue: VecDeque<(usize, NodeId, Message)>,
    answers: Vec<(usize, Response)>,
    /// How often somebody asked for its bounds.
    looked_up: Cell<usize>,
}

impl Transport for Network {
    fn send(&mut self, to: NodeId, message: &Message) {
        self.queue.push_back((self.sender, to, message.clone()));
    }

    fn reply(&mut self, _: ClientConnection, response: &Response) {
        self.answers.push((self.sender, response.clone()));
    }

    fn flush(&mut self) {}

    fn bounds(&self) -> Vec<Bound> {
        self.looked_up.set(self.looked_up.get() + 1);
        vec![Bound { name: "of_the_network".to_owned(), used: 0, cap: 1 }]
    }
}

fn open(
    directory: &Path,
    node: usize,
    now: Instant,
    snapshots: SnapshotOptions,
    free: Free,
) -> Replica<LimitedDisk> {
    open_with(directory, node, now, 64 << 10, (snapshots, free))
}

fn open_with(
    directory: &Path,
    node: usize,
    now: Instant,
    segment_bytes: u64,
    (snapshots, free): (SnapshotOptions, Free),
) -> Replica<LimitedDisk> {
    let path: PathBuf = directory.join(node.to_string());
    let disk = LimitedDisk::open(&path, free);
    let id = NodeId(node as u64 + 1);
    let small = storage::Options { segment_bytes, ..storage::Options::default() };
    // What a directory that exists makes its next boot number of.
    let drawn = if path.join("0000000001.wal").exists() { now.as_millis() << 40 } else { 0 };
    let (storage, recovered): (_, Recovered) =
        Storage::open(disk, id, small, Incarnation(id.0 * 11 + drawn)).unwrap();
    let options = Options {
        address: format!("127.0.0.1:{}", 9001 + node),
        heartbeat: Duration::from_millis(30),
        election_min: Duration::from_millis(150),
        election_max: Duration::from_millis(250),
        fsync: true,
        seed: id.0,
        snapshots,
    };
    Replica::new(options, storage, recovered, now).unwrap()
}

fn cluster_of(count: u64) -> Configuration {
    let member = |id: u64| Member { id: NodeId(id), incarnation: Incarnation(id * 11) };
    Configuration::new(ClusterId(77), (1..=count).map(member).collect()).unwrap()
}

impl World {
    /// `count` replicas, linked to each other and founded.
    fn founded(count: usize) -> Self {
        Self::founded_with(count, SnapshotOptions::default())
    }

    /// The same, which takes snapshots as it is told.
    fn founded_with(count: usize, snapshots: SnapshotOptions) -> Self {
        Self::founded_on((0..count).map(|_| Free::default()).collect(), snapshots)
    }

    /// One on each of these disks.
    fn founded_on(disks: Vec<Free>, snapshots: SnapshotOptions) -> Self {
        let count = disks.len();
        let mut world = Self::linked(TempDir::new().unwrap(), disks, snapshots);
        let (now, configuration) = (world.now, cluster_of(count as u64));
        world.node(0).found(now, configuration.clone());
        for node in 1..count {
            world.node(node).on_message(now, NodeId(1), Message::Found(configuration.clone()));
        }
        world.settle();
        world
    }

    /// A replica on each of these disks, with what the directory holds of it, linked to each other.
    fn linked(directory: TempDir, free: Vec<Free>, snapshots: SnapshotOptions) -> Self {
        let now = Instant::from_millis(1_000);
        let start = |node| Some(open(directory.path(), node, now, snapshots, Free::clone(&free[node])));
        let nodes = (0..free.len()).map(start).collect();
        let (cut_off, network) = (BTreeSet::new(), Network::default());
        let mut world = Self { nodes, free, cut_off, network, now, snapshots, directory };
        world.link_all();
        world
    }

    fn node(&mut self, node: usize) -> &mut Replica<LimitedDisk> {
        self.nodes[node].as_mut().expect("the node runs")
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].is_some()).collect()
    }

    /// Links all who run, as the server does: a node is linked to only if it has forgotten nothing.
    fn link_all(&mut self) {
        for node in self.running() {
            for peer in self.running().into_iter().filter(|peer| *peer != node) {
                let forgotten = self.forgotten(node, peer);
                assert_eq!(forgotten, None, "node {node} refuses the honest node {peer}");
                self.link(node, peer);
            }
        }
    }

    fn link(&mut self, node: usize, peer: usize) {
        let (now, boot) = (self.now, self.node(peer).reached().boot);
        let address = format!("127.0.0.1:{}", 9001 + peer);
        self.node(node).on_link_up(now, NodeId(peer as u64 + 1), boot, &address);
    }

    /// What `node` sees that `peer` forgot.
    fn forgotten(&mut self, node: usize, peer: usize) -> Option<Forgotten> {
        let (boot, last_index) = (self.node(peer).reached().boot, self.node(peer).durable_index());
        self.node(node).seen(NodeId(peer as u64 + 1)).forgotten_by(boot, last_index)
    }

    /// One turn of every node, and delivery, until nothing is left to do at this moment.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            for node in self.running() {
                self.turn(node);
                kvstore::raft::invariants::check(self.node(node).raft());
            }
            if self.network.queue.is_empty() && self.running().iter().all(|node| !self.has_work(*node)) {
                return;
            }
            self.deliver_all();
        }
        panic!("the nodes do not come to rest");
    }

    /// Delivers what is under way.
    fn deliver_all(&mut self) {
        for (from, to, message) in std::mem::take(&mut self.network.queue) {
            let (now, to) = (self.now, to.0 as usize - 1);
            if self.cut_off.contains(&from) || self.cut_off.contains(&to) {
                continue;
            }
            if let Some(replica) = &mut self.nodes[to] {
                replica.on_message(now, NodeId(from as u64 + 1), message);
            }
        }
    }

    /// One turn of one node, whose messages stay in the queue.
    fn turn(&mut self, node: usize) {
        let now = self.now;
        self.network.sender = node;
        let replica = self.nodes[node].as_mut().unwrap();
        replica.tick(now);
        replica.process_ready(now, || now, &mut self.network).unwrap();
    }

    /// What a node has sent and nobody has got yet.
    fn sent_by(&self, node: usize) -> Vec<Message> {
        let own = self.network.queue.iter().filter(|(from, ..)| *from == node);
        own.map(|(_, _, message)| message.clone()).collect()
    }

    fn has_work(&self, node: usize) -> bool {
        self.nodes[node].as_ref().is_some_and(|replica| replica.has_work(self.now))
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now += Duration::from_millis(1);
            self.settle();
        }
    }

    fn ask(&mut self, node: usize, id: u64, body: RequestBody) {
        let request = Request { id, time_left_ms: 5_000, silent_leader: None, body };
        let now = self.now;
        self.node(node).on_request(now, CLIENT, request);
    }

    fn answer(&mut self, id: u64) -> Option<(usize, Response)> {
        let place = self.network.answers.iter().position(|(_, response)| response.id == id)?;
        Some(self.network.answers.remove(place))
    }

    fn leader(&self) -> Option<usize> {
        let leads = |node: &usize| {
            let replica = self.nodes[*node].as_ref().unwrap();
            replica.leader() == Some(NodeId(*node as u64 + 1))
        };
        self.running().into_iter().find(leads)
    }

    /// The process ends without a word; its directory stays.
    fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
        let now = self.now;
        for peer in self.running() {
            self.node(peer).on_link_down(now, NodeId(node as u64 + 1));
            self.node(peer).on_peer_dead(now, NodeId(node as u64 + 1));
        }
    }

    fn restart(&mut self, node: usize) {
        self.restart_alone(node);
        self.link_all();
    }

    fn restart_alone(&mut self, node: usize) {
        let free = Free::clone(&self.free[node]);
        self.nodes[node] = Some(open(self.directory.path(), node, self.now, self.snapshots, free));
    }
}

/// A put under a name.
fn put(sequence: u64, key: &str, value: &str) -> RequestBody {
    put_by(ClientId::Named(ClientName::new(b"test").unwrap()), sequence, key, value)
}

/// A put under an id that a client made for itself.
fn library_put(sequence: u64, key: &str, value: &str) -> RequestBody {
    put_by(ClientId::Library { born: ClusterTime(0), nonce: 7 }, sequence, key, value)
}

fn put_by(client: ClientId, sequence: u64, key: &str, value: &str) -> RequestBody {
    let operation = Operation::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    RequestBody::Write(Write { client, sequence: Sequence(sequence), acknowledged: Sequence(0), operation })
}

fn get(key: &str) -> RequestBody {
    RequestBody::Get { key: Bytes::copy_from_slice(key.as_bytes()), stale: false }
}

fn written(cached: bool) -> ResponseBody {
    ResponseBody::Written { outcome: Outcome::Done, cached }
}

#[test]
fn put_at_the_leader_is_read_on_every_node() {
    let mut world = World::founded(3);
    assert_eq!(world.leader(), Some(0), "the lowest id founds and leads first");
    world.ask(0, 1, put(1, "key", "value"));
    world.settle();
    assert_eq!(world.answer(1).unwrap().1.body, written(false));
    for node in 0..3 {
        world.ask(node, 2, get("key"));
        world.settle();
        let (answered_by, response) = world.answer(2).unwrap();
        assert_eq!(answered_by, node, "a read is answered by the node that was asked");
        assert_eq!(response.body, ResponseBody::Value(Some(Bytes::from_static(b"value"))));
    }
}

#[test]
fn put_at_a_follower_is_referred_to_the_leader() {
    let mut world = World::founded(3);
    world.ask(1, 1, put(1, "key", "value"));
    world.settle();
    let ResponseBody::Refused(Refused::NotLeader { leader: Some(leader), .. }) =
        world.answer(1).unwrap().1.body
    else {
        panic!("not referred");
    };
    assert_eq!((leader.id, leader.address.as_str()), (NodeId(1), "127.0.0.1:9001"));
}

#[test]
fn put_sent_again_after_fail_over_gets_the_first_answer() {
    let mut world = World::founded(3);
    world.ask(0, 1, put(1, "key", "value"));
    world.settle();
    let first = world.answer(1).unwrap().1;
    world.kill(0);
    world.pass(30);
    let leader = world.leader().expect("a survivor leads soon after evidence of the death");
    world.ask(leader, 2, put(1, "key", "value"));
    world.pass(1);
    let again = world.answer(2).unwrap().1;
    assert_eq!((again.body, again.revision), (written(true), first.revision));
    world.ask(leader, 3, put(1, "key", "another value"));
    world.pass(1);
    assert_eq!(world.answer(3).unwrap().1.body, ResponseBody::Refused(Refused::SequenceReused));
}

#[test]
fn put_sent_twice_at_once_is_one_entry() {
    let mut world = World::founded(3);
    world.settle();
    let before = world.node(0).raft().log().last_index();
    world.ask(0, 1, library_put(1, "key", "value"));
    world.ask(0, 2, library_put(1, "key", "value"));
    world.settle();
    let (first, second) = (world.answer(1).unwrap().1, world.answer(2).unwrap().1);
    assert_eq!((first.body, first.revision), (second.body, second.revision));
    assert_eq!(world.node(0).raft().log().last_index(), before.next());
}

#[test]
fn all_killed_at_once_after_an_acknowledgement_lose_nothing() {
    let mut world = World::founded(3);
    world.ask(0, 1, put(1, "key", "value"));
    world.settle();
    assert_eq!(world.answer(1).unwrap().1.body, written(false));
    (0..3).for_each(|node| world.kill(node));
    (0..3).for_each(|node| world.restart(node));
    world.pass(600);
    world.ask(2, 2, get("key"));
    world.settle();
    assert_eq!(world.answer(2).unwrap().1.body, ResponseBody::Value(Some(Bytes::from_static(b"value"))));
}

#[test]
fn request_without_a_leader_is_parked_and_then_refused() {
    let mut world = World::founded(3);
    world.kill(0);
    world.kill(1);
    world.pass(300);
    world.ask(2, 1, put(1, "key", "value"));
    world.pass(149);
    assert!(world.answer(1).is_none(), "it waits for a leader");
    world.pass(2);
    assert_eq!(world.answer(1).unwrap().1.body, ResponseBody::Refused(Refused::NoLeader));
}

#[test]
fn request_parked_until_a_leader_is_elected_is_served() {
    let mut world = World::founded(3);
    world.kill(0);
    for node in 1..3 {
        world.ask(node, node as u64, put(1, "key", "value"));
    }
    world.pass(60);
    let leader = world.leader().expect("a survivor leads");
    assert_eq!(world.answer(leader as u64).unwrap().1.body, written(false));
    let other = if leader == 1 { 2 } else { 1 };
    let referred = world.answer(other).unwrap().1.body;
    assert!(matches!(referred, ResponseBody::Refused(Refused::NotLeader { .. })), "{referred:?}");
}

#[test]
fn request_that_names_its_leader_silent_is_parked() {
    let mut world = World::founded(3);
    let silent_leader = Some(SilentLeader { id: NodeId(1), term: Term(1) });
    let request = Request { id: 1, time_left_ms: 5_000, silent_leader, body: put(1, "key", "value") };
    let now = world.now;
    world.node(1).on_request(now, CLIENT, request);
    world.settle();
    assert!(world.answer(1).is_none(), "it is not sent back to the silent leader");
    world.pass(151);
    assert_eq!(world.answer(1).unwrap().1.body, ResponseBody::Refused(Refused::NoLeader));
}

#[test]
fn hand_over_of_a_leaving_leader_keeps_its_promises() {
    let mut world = World::founded(3);
    world.ask(0, 1, put(1, "key", "value"));
    let now = world.now;
    world.node(0).begin_hand_over(now);
    world.ask(0, 2, put(2, "key", "parked"));
    assert!(!world.node(0).may_exit(now), "it owes answers");
    world.pass(5);
    let now = world.now;
    assert!(world.node(0).may_exit(now), "another leads and nothing is owed");
    assert!(world.leader().is_some_and(|leader| leader != 0));
    assert_eq!(world.answer(1).unwrap().1.body, written(false));
    let referred = world.answer(2).unwrap().1.body;
    assert!(matches!(referred, ResponseBody::Refused(Refused::NotLeader { .. })), "{referred:?}");
}

#[test]
fn transfer_asked_for_by_a_client_is_answered_when_it_is_done() {
    let mut world = World::founded(3);
    world.ask(0, 1, RequestBody::Transfer { to: NodeId(3) });
    world.pass(5);
    assert_eq!(world.answer(1).unwrap().1.body, ResponseBody::Transferred);
    assert_eq!(world.leader(), Some(2));
    world.ask(2, 2, RequestBody::Transfer { to: NodeId(9) });
    world.settle();
    let refused = world.answer(2).unwrap().1.body;
    assert!(matches!(refused, ResponseBody::Refused(Refused::TransferFailed(_))), "{refused:?}");
}

#[test]
fn writes_that_a_new_leader_never_got_are_told_so_without_waiting_for_their_indexes() {
    let mut world = World::founded(3);
    // The leader's writes reach nobody, and the others believe it dead.
    for id in 1..=5 {
        world.ask(0, id, put(id, "key", "value"));
    }
    let now = world.now;
    world.network.sender = 0;
    world.nodes[0].as_mut().unwrap().process_ready(now, || now, &mut world.network).unwrap();
    world.network.queue.clear();
    for node in 1..3 {
        world.node(node).on_link_down(now, NodeId(1));
        world.node(node).on_peer_dead(now, NodeId(1));
    }
    world.pass(60);
    assert!(world.leader().is_some_and(|leader| leader != 0));
    for id in 1..=5 {
        let lost = ResponseBody::Refused(Refused::LeadershipLost);
        assert_eq!(world.answer(id).map(|(_, response)| response.body), Some(lost), "write {id}");
    }
}

#[test]
fn cluster_of_one_serves_by_itself() {
    let mut world = World::founded(1);
    world.ask(0, 1, put(1, "key", "value"));
    world.settle();
    assert_eq!(world.answer(1).unwrap().1.body, written(false));
    world.ask(0, 2, get("key"));
    world.settle();
    assert_eq!(world.answer(2).unwrap().1.body, ResponseBody::Value(Some(Bytes::from_static(b"value"))));
}

/// Node 2 of three, as a process alone, founded long after its start by a word of node 1.
fn follower_founded_late(segment_bytes: u64) -> (World, Instant) {
    let directory = TempDir::new().unwrap();
    let start = Instant::from_millis(1_000);
    let now = Instant::from_millis(9_000);
    let snapshots = SnapshotOptions::default();
    let mut replica = open_with(directory.path(), 1, start, segment_bytes, (snapshots, Free::default()));
    for peer in [1, 3] {
        replica.on_link_up(now, NodeId(peer), BootNumber(1), &format!("127.0.0.1:{}", 9000 + peer));
    }
    replica.on_message(now, NodeId(1), Message::Found(cluster_of(3)));
    let nodes = vec![None, Some(replica)];
    let (free, cut_off, network) = (Vec::new(), BTreeSet::new(), Network::default());
    (World { nodes, free, cut_off, network, now, snapshots, directory }, now)
}

fn heartbeat(term: u64) -> Message {
    Message::Heartbeat(Heartbeat { term: Term(term), commit: LogIndex(1), round: 1 })
}

#[test]
fn node_told_of_the_founding_long_after_its_start_leaves_the_founder_time_to_be_elected() {
    let (mut world, _) = follower_founded_late(64 << 10);
    for _ in 0..100 {
        world.turn(1);
        world.now += Duration::from_millis(1);
    }
    let votes = world.sent_by(1).into_iter().filter(|message| !matches!(message, Message::Standing(_)));
    assert_eq!(votes.collect::<Vec<_>>(), [], "it campaigns against the founder");
}

#[test]
fn founding_that_gives_this_id_to_another_directory_is_not_believed() {
    let directory = TempDir::new().unwrap();
    let now = Instant::from_millis(1_000);
    let mut replica = open(directory.path(), 1, now, SnapshotOptions::default(), Free::default());
    let mut members = cluster_of(3).members().to_vec();
    members[1].incarnation = Incarnation(99);
    let others = Configuration::new(ClusterId(77), members).unwrap();
    replica.on_message(now, NodeId(1), Message::Found(others));
    assert_eq!(replica.configuration(), None);
    replica.on_message(now, NodeId(1), Message::Found(cluster_of(3)));
    assert_eq!(replica.configuration(), Some(&cluster_of(3)));
}

#[test]
fn segment_half_prepared_when_the_leader_is_lost_keeps_nobody_awake() {
    let (mut world, now) = follower_founded_late(8 << 20);
    world.node(1).on_message(now, NodeId(1), heartbeat(1));
    world.turn(1);
    world.turn(1);
    assert!(world.has_work(1), "the next segment is being prepared");
    world.node(1).on_link_down(now, NodeId(1));
    world.node(1).on_peer_dead(now, NodeId(1));
    for _ in 0..3 {
        world.turn(1);
    }
    assert_eq!(world.node(1).leader(), None);
    assert!(!world.has_work(1), "turns without end that prepare nothing");
}

#[test]
fn read_whose_leader_is_replaced_within_a_turn_asks_the_new_one_at_once() {
    let (mut world, now) = follower_founded_late(64 << 10);
    world.node(1).on_message(now, NodeId(1), heartbeat(1));
    world.ask(1, 1, get("key"));
    world.turn(1);
    world.network.queue.clear();
    world.node(1).on_message(now, NodeId(3), heartbeat(2));
    world.turn(1);
    world.turn(1);
    let asked = world.network.queue.iter().find(|(_, _, message)| matches!(message, Message::ReadIndex(_)));
    assert_eq!(asked.map(|(_, to, _)| *to), Some(NodeId(3)));
}

#[test]
fn write_of_a_leader_elected_again_is_not_taken_for_one_that_was_overwritten() {
    let mut world = World::founded(3);
    world.cut_off.insert(0);
    for id in 1..=4 {
        world.ask(0, id, put(id, "key", "lost with its leader"));
    }
    world.pass(600);
    let leader = world.leader().expect("the majority elected a leader");
    world.cut_off.clear();
    world.pass(100);
    world.ask(leader, 9, RequestBody::Transfer { to: NodeId(1) });
    world.pass(30);
    assert_eq!(world.leader(), Some(0));
    world.network.answers.clear();
    for id in 11..=13 {
        world.ask(0, id, put(id, "key", "value"));
    }
    world.settle();
    for id in 11..=13 {
        assert_eq!(world.answer(id).unwrap().1.body, written(false), "write {id}");
    }
}

#[test]
fn resends_of_a_write_under_way_count_against_the_cap() {
    let mut world = World::founded(3);
    world.cut_off.insert(0);
    for id in 0..=1 << 16 {
        world.ask(0, id, put(1, "key", "value"));
    }
    world.turn(0);
    let refused = world.answer(1 << 16).expect("one too many is answered").1.body;
    assert!(matches!(refused, ResponseBody::Refused(Refused::Busy(_))), "{refused:?}");
}

#[test]
fn parked_requests_are_bounded_by_their_bytes_too() {
    let mut world = World::founded(3);
    world.kill(0);
    world.kill(1);
    world.pass(300);
    let large = "x".repeat(1 << 20);
    for id in 1..=100 {
        world.ask(2, id, put(id, "key", &large));
    }
    world.turn(2);
    let refused = world.answer(100).expect("one too many is answered").1.body;
    assert!(matches!(refused, ResponseBody::Refused(Refused::Busy(_))), "{refused:?}");
    assert!(world.answer(1).is_none());
    world.pass(151);
    world.ask(2, 101, put(101, "key", &large));
    world.turn(2);
    assert!(world.answer(101).is_none(), "there is room again");
}

#[test]
fn request_that_names_a_silent_leader_of_a_later_term_is_parked() {
    let mut world = World::founded(3);
    let silent_leader = Some(SilentLeader { id: NodeId(3), term: Term(7) });
    let request = Request { id: 1, time_left_ms: 5_000, silent_leader, body: put(1, "key", "value") };
    let now = world.now;
    world.node(1).on_request(now, CLIENT, request);
    world.settle();
    assert!(world.answer(1).is_none(), "the leader known here is older than the silent one");
}

#[test]
fn hand_over_to_a_follower_that_does_not_catch_up_waits_for_a_heartbeat_only() {
    let mut world = World::founded(3);
    world.cut_off.extend([1, 2]);
    world.ask(0, 1, put(1, "key", "value"));
    world.settle();
    let now = world.now;
    world.node(0).begin_hand_over(now);
    let timeouts_now = |world: &mut World| {
        world.turn(0);
        let sent = world.sent_by(0);
        world.network.queue.clear();
        sent.iter().filter(|message| matches!(message, Message::TimeoutNow(_))).count()
    };
    assert_eq!(timeouts_now(&mut world), 0, "it may catch up");
    world.now += Duration::from_millis(29);
    assert_eq!(timeouts_now(&mut world), 0);
    world.now += Duration::from_millis(1);
    assert_eq!(timeouts_now(&mut world), 1);
    let now = world.now;
    assert!(!world.node(0).may_exit(now), "it waits for the successor");
}

#[test]
fn hand_over_whose_target_is_lost_goes_to_another() {
    let mut world = World::founded(3);
    let now = world.now;
    world.node(0).begin_hand_over(now);
    let target = world.node(0).raft().transferring_to().expect("somebody is to take over");
    world.node(0).on_link_down(now, target);
    world.turn(0);
    assert!(!world.node(0).may_exit(now));
    let second = world.node(0).raft().transferring_to().expect("another one is to take over");
    assert_ne!(second, target);
}

#[test]
fn transfers_asked_for_again_and_again_are_bounded() {
    let mut world = World::founded(3);
    world.cut_off.insert(0);
    for id in 0..2_000 {
        world.ask(0, id, RequestBody::Transfer { to: NodeId(2) });
    }
    world.turn(0);
    let refused = world.answer(1_999).expect("one too many is answered").1.body;
    assert!(matches!(refused, ResponseBody::Refused(Refused::Busy(_))), "{refused:?}");
}

#[test]
fn reads_of_much_data_are_answered_over_several_turns() {
    let mut world = World::founded(1);
    world.ask(0, 1, put(1, "key", &"x".repeat(1 << 20)));
    world.settle();
    for id in 100..200 {
        let RequestBody::Get { key, .. } = get("key") else { unreachable!() };
        world.ask(0, id, RequestBody::Get { key, stale: id % 2 == 0 });
    }
    world.network.answers.clear();
    world.turn(0);
    let first = world.network.answers.len();
    assert!((1..50).contains(&first), "{first} in one turn");
    assert!(world.has_work(0), "the next turn goes on at once");
    world.settle();
    assert_eq!(world.network.answers.len(), 100);
}
