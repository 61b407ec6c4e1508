//! Disks that get full.

use kvstore::wire::client::NodeStatus;

use super::*;

/// Less than any snapshot.
const NONE: u64 = 1 << 10;
const PLENTY: u64 = 1 << 30;

impl World {
    /// The disks have so much left from now on, and have been asked.
    fn set_free(&mut self, bytes: &[(usize, u64)]) {
        for (node, bytes) in bytes {
            self.free[*node].set(*bytes);
        }
        self.pass(150);
    }

    /// So much that puts are refused and deletes are not: one more segment fits, two do not.
    fn low(&mut self, node: usize) -> u64 {
        self.pass(150); // until the next segment is prepared, and takes nothing any more
        self.status(node).disk.reserve_bytes - 1
    }

    pub(crate) fn status(&mut self, node: usize) -> NodeStatus {
        self.ask(node, 9_999, RequestBody::Status);
        self.pass(1);
        match self.answer(9_999).expect("status is answered at once").1.body {
            ResponseBody::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn write_at_leader(&mut self, id: u64, body: RequestBody) -> ResponseBody {
        let leader = self.leader().expect("somebody leads");
        self.ask(leader, id, body);
        self.pass(2);
        self.answer(id).expect("it is answered").1.body
    }
}

fn is_no_space(body: &ResponseBody, node: u64) -> bool {
    let named = format!("node {node} has");
    matches!(body, ResponseBody::Refused(refused @ Refused::NoSpace(message))
        if refused.is_definite() && message.contains(&named) && message.contains("free some space"))
}

fn delete(sequence: u64, key: &str) -> RequestBody {
    let RequestBody::Write(write) = put(sequence, key, "") else { unreachable!() };
    let operation = Operation::Delete { key: Bytes::copy_from_slice(key.as_bytes()) };
    RequestBody::Write(Write { operation, ..write })
}

fn close_session(name: &str) -> RequestBody {
    let RequestBody::Write(write) = put(1, "key", "") else { unreachable!() };
    let client = ClientId::Named(ClientName::new(name.as_bytes()).unwrap());
    let own = ClientId::Named(ClientName::new(b"operator").unwrap());
    RequestBody::Write(Write { client: own, operation: Operation::CloseSession { client }, ..write })
}

#[test]
fn majority_without_room_refuses_writes_and_heals_by_itself() {
    let mut world = World::founded(3);
    assert_eq!(world.write_at_leader(1, put(1, "key", "value")), written(false));
    let low = world.low(1);
    world.set_free(&[(1, low), (2, low)]);
    assert!(is_no_space(&world.write_at_leader(2, put(2, "key", "new")), 2));
    world.ask(0, 3, get("key"));
    world.pass(2);
    assert_eq!(world.answer(3).unwrap().1.body, ResponseBody::Value(Some(Bytes::from_static(b"value"))));
    assert_eq!(world.write_at_leader(4, put(1, "key", "value")), written(true), "a result is told again");

    // At the mark again it is not enough: it must be well above it.
    world.set_free(&[(1, low + 1)]);
    let refused = world.write_at_leader(5, put(5, "key", "new"));
    assert!(is_no_space(&refused, 2) || is_no_space(&refused, 3), "{refused:?}");
    world.set_free(&[(1, PLENTY)]);
    assert_eq!(world.write_at_leader(6, put(6, "key", "new")), written(false));
}

#[test]
fn one_follower_without_room_stops_nobody() {
    let mut world = World::founded(3);
    world.set_free(&[(2, NONE)]);
    assert_eq!(world.write_at_leader(1, put(1, "key", "value")), written(false));
    // Until it is needed for a majority.
    world.kill(1);
    world.pass(400);
    assert!(is_no_space(&world.write_at_leader(2, put(2, "key", "new")), 3));
    world.restart(1);
    world.pass(50);
    assert_eq!(world.write_at_leader(3, put(3, "key", "new")), written(false));
}

#[test]
fn link_that_flaps_and_words_that_are_lost_make_nobody_refuse_writes() {
    let mut world = World::founded(3);
    world.set_free(&[(1, NONE)]);
    let now = world.now;
    world.node(0).on_link_down(now, NodeId(3));
    world.ask(0, 1, put(1, "key", "value"));
    world.node(0).on_link_up(now, NodeId(3), BootNumber(1), "node:3");
    world.pass(2);
    assert_eq!(world.answer(1).unwrap().1.body, written(false));
    // What another leader is told in a moment, and what was told while the link was cut.
    world.set_free(&[(2, NONE)]);
    assert!(is_no_space(&world.write_at_leader(2, put(2, "key", "new")), 2));
    world.cut_off.insert(2);
    world.set_free(&[(2, PLENTY)]);
    world.cut_off.remove(&2);
    world.pass(310);
    assert_eq!(world.write_at_leader(3, put(3, "key", "new")), written(false));
}

#[test]
fn leader_that_alone_is_low_hands_over() {
    let mut world = World::founded(3);
    let leader = world.leader().unwrap();
    let low = world.low(leader);
    world.set_free(&[(leader, low)]);
    world.pass(100);
    let next = world.leader().expect("another leads");
    assert_ne!(next, leader);
    assert_eq!(world.write_at_leader(1, put(1, "key", "value")), written(false));
    world.pass(3_000);
    assert_eq!(world.leader(), Some(next), "nobody hands back");
}

#[test]
fn write_that_comes_while_a_low_leader_hands_over_waits_for_the_next() {
    let mut world = World::founded(3);
    let low = world.low(0);
    world.free[0].set(low);
    while world.node(0).raft().transferring_to().is_none() {
        world.now += Duration::from_millis(1);
        world.turn(0);
    }
    world.ask(0, 1, put(1, "key", "value"));
    world.pass(10);
    let referred = world.answer(1).expect("another leads by now").1.body;
    assert!(matches!(referred, ResponseBody::Refused(Refused::NotLeader { .. })), "{referred:?}");
}

#[test]
fn leader_that_alone_is_low_hands_over_to_who_still_answers() {
    for (deaf, next) in [(1, 2), (2, 1)] {
        let mut world = World::founded(3);
        let low = world.low(0);
        world.cut_off.insert(deaf);
        world.pass(50);
        world.set_free(&[(0, low)]);
        world.pass(100);
        assert_eq!(world.leader(), Some(next), "node {} hears nothing", deaf + 1);
    }
}

#[test]
fn leader_that_alone_is_low_hands_over_to_who_has_come_furthest() {
    for (behind, ahead) in [(1, NodeId(3)), (2, NodeId(2))] {
        let mut world = World::founded(3);
        let low = world.low(0);
        world.cut_off.insert(behind);
        assert_eq!(world.write_at_leader(1, put(1, "key", "value")), written(false));
        world.free[0].set(low);
        let to = (0..200).find_map(|_| {
            world.pass(1);
            world.node(0).raft().transferring_to()
        });
        assert_eq!(to.or(world.node(0).leader()), Some(ahead));
    }
}

#[test]
fn alone_node_without_room_takes_deletes_as_long_as_it_can() {
    let mut world = World::founded(1);
    assert_eq!(world.write_at_leader(1, put(1, "key", "value")), written(false));
    let low = world.low(0);
    world.set_free(&[(0, low)]);
    assert!(is_no_space(&world.write_at_leader(2, put(2, "key", "new")), 1));
    assert_eq!(world.write_at_leader(3, delete(3, "key")), written(false));
    assert!(!is_no_space(&world.write_at_leader(6, close_session("nobody")), 1), "it gives room, too");
    world.set_free(&[(0, NONE)]);
    assert!(is_no_space(&world.write_at_leader(4, delete(4, "key")), 1));
    assert_eq!(world.status(0).disk.free_bytes, NONE);
    world.set_free(&[(0, PLENTY)]);
    assert_eq!(world.write_at_leader(5, put(5, "key", "new")), written(false));
}

#[test]
fn cluster_without_any_room_still_elects_and_expires() {
    let mut world = World::founded(3);
    assert_eq!(world.write_at_leader(1, put(1, "key", "value")), written(false));
    world.set_free(&[(0, NONE), (1, NONE), (2, NONE)]);
    let (leader, before) = (world.leader().unwrap(), world.node(0).durable_index());
    world.kill(leader);
    world.pass(700);
    let next = world.leader().expect("another is elected");
    assert_ne!(next, leader);
    assert!(world.node(next).durable_index() > before, "its no-op is written");
    assert!(matches!(world.write_at_leader(2, put(2, "a", "b")), ResponseBody::Refused(Refused::NoSpace(_))));
    world.ask(next, 3, get("key"));
    world.pass(2);
    assert_eq!(world.answer(3).unwrap().1.body, ResponseBody::Value(Some(Bytes::from_static(b"value"))));
}

#[test]
fn deletes_lower_the_mark_at_once() {
    let mut world = World::founded(1);
    let value = "x".repeat(100_000);
    for number in 1..=5 {
        world.write_at_leader(number, put(number, &format!("key{number}"), &value));
    }
    world.pass(200);
    let full = world.status(0).disk.reserve_bytes;
    assert!(full > 500_000, "a snapshot has all of it: {full}");
    world.set_free(&[(0, full - 50_000)]);
    assert!(is_no_space(&world.write_at_leader(11, put(11, "more", &value)), 1));
    for number in 1..=3 {
        assert_eq!(
            world.write_at_leader(20 + number, delete(20 + number, &format!("key{number}"))),
            written(false)
        );
    }
    world.pass(200);
    assert!(world.status(0).disk.reserve_bytes < full - 250_000);
    assert_eq!(world.write_at_leader(30, put(30, "more", &value)), written(false));
}

#[test]
fn disk_without_room_gets_no_segment_that_is_not_needed_yet() {
    let mut world = World::founded(1);
    world.set_free(&[(0, NONE)]);
    assert_eq!(world.files(0, "spare.wal"), 1, "prepared while there was room");
    // Elections are written, and fill the log all the same.
    for round in 0.. {
        assert!(round < 1_000, "the log does not grow");
        world.kill(0);
        world.restart(0);
        world.pass(700);
        if world.files(0, "0000000002.wal") == 1 {
            break;
        }
    }
    world.pass(10);
    assert_eq!((world.files(0, "spare.wal"), world.files(0, "spare.tmp")), (0, 0));
    world.set_free(&[(0, PLENTY)]);
    assert_eq!(world.files(0, "spare.wal"), 1);
}

#[test]
fn snapshot_that_is_being_written_takes_what_was_reserved_for_it() {
    let mut world = World::founded_with(1, super::taking_snapshots::TINY);
    world.put_numbers(1..50);
    world.pass(150);
    let free = world.status(0).disk.reserve_bytes + 5_000;
    world.set_free(&[(0, free)]);
    world.put_numbers(50..51);
    world.ask(0, 1, RequestBody::Snapshot);
    let (draft, mut most) = (world.directory.path().join("0/snapshot.tmp"), 0);
    for number in 0..40 {
        let written = std::fs::metadata(&draft).map_or(0, |file| file.len());
        most = written.max(most);
        world.free[0].set(free - written);
        world.now += Duration::from_millis(150);
        world.turn(0);
        world.ask(0, 100 + number, put(100 + number, "key1", "value"));
    }
    world.pass(1);
    assert!(most > 8_000, "{most} bytes were seen of it");
    assert!(world.answer(1).is_some_and(|(_, answer)| matches!(answer.body, ResponseBody::SnapshotSaved(_))));
    for number in 0..40 {
        assert_eq!(world.answer(100 + number).unwrap().1.body, written(false), "write {number}");
    }
}
