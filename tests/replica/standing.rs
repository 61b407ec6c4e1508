//! What members remember of how far each other came, and by what a directory is known that was put
//! back from an old copy.

use std::fs;

use kvstore::wire::entry::Reached;
use kvstore::wire::peer::Room;

use super::*;

impl World {
    fn put_key(&mut self, number: u64) {
        let leader = self.leader().expect("somebody leads");
        self.ask(leader, number, put(number, &format!("key{number}"), "value"));
        self.pass(1);
        assert_eq!(self.answer(number).expect("it is acknowledged").1.body, written(false));
    }

    fn seen(&mut self, node: usize, of: usize) -> Reached {
        self.node(node).seen(NodeId(of as u64 + 1))
    }

    /// Copies the directory of a node that does not run.
    fn copy_directory(&self, node: usize) -> TempDir {
        let copy = TempDir::new().unwrap();
        copy_files(&self.directory.path().join(node.to_string()), copy.path());
        copy
    }

    /// Ends the node and starts it with the copy, without links.
    fn put_back(&mut self, node: usize, copy: &TempDir) {
        self.kill(node);
        let own = self.directory.path().join(node.to_string());
        fs::remove_dir_all(&own).unwrap();
        fs::create_dir(&own).unwrap();
        copy_files(copy.path(), &own);
        self.restart_alone(node);
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn members_remember_how_far_each_came_and_tell_each_other() {
    let mut world = World::founded(3);
    (1..=20).for_each(|number| world.put_key(number));
    world.pass(60);
    let last = world.node(0).durable_index();
    for (node, of) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        assert_eq!(world.seen(node, of).index, last, "node {node} of node {of}");
    }
}

#[test]
fn leader_remembers_what_a_follower_acknowledges_before_anybody_tells() {
    let mut world = World::founded(3);
    world.pass(60);
    world.ask(0, 1, put(1, "key", "value"));
    for _ in 0..2 {
        world.network.queue.retain(|(.., message)| !matches!(message, Message::Standing(_)));
        (0..3).for_each(|node| world.turn(node));
        world.deliver_all();
    }
    world.network.queue.clear();
    world.turn(0);
    assert_eq!(world.answer(1).expect("it is acknowledged").1.body, written(false));
    let last = world.node(0).durable_index();
    assert_eq!((world.seen(0, 1).index, world.seen(0, 2).index), (last, last));
}

#[test]
fn members_that_do_nothing_tell_nothing_new_and_seldom_repeat_themselves() {
    let mut world = World::founded(3);
    world.put_key(1);
    world.pass(100);
    world.network.queue.clear();
    let mut told = 0;
    for _ in 0..900 {
        world.now += Duration::from_millis(1);
        for node in world.running() {
            world.turn(node);
        }
        let queue = &world.network.queue;
        told += queue.iter().filter(|(.., message)| matches!(message, Message::Standing(_))).count();
        world.deliver_all();
    }
    assert_eq!(told, 3 * 3 * 2, "each of the three tells two others every ten heartbeats");
}

#[test]
fn what_was_seen_is_stored_with_the_next_write_and_survives_a_restart() {
    let mut world = World::founded(3);
    (1..=20).for_each(|number| world.put_key(number));
    world.pass(60);
    world.put_key(21);
    let seen = world.seen(1, 2).index;
    world.kill(1);
    world.restart(1);
    assert!(world.seen(1, 2).index.next().next() >= seen, "{:?} after {seen}", world.seen(1, 2));
}

#[test]
fn follower_put_back_from_an_old_copy_is_known_to_leader_and_follower() {
    let mut world = World::founded(3);
    (1..=10).for_each(|number| world.put_key(number));
    world.kill(2);
    let copy = world.copy_directory(2);
    world.restart(2);
    world.pass(50);
    // One write is enough; and what was told within a heartbeat, the other follower knows too.
    world.put_key(11);
    world.pass(60);
    world.put_back(2, &copy);
    for node in [0, 1] {
        assert!(
            matches!(world.forgotten(node, 2), Some(Forgotten::Index(_) | Forgotten::Boot(_))),
            "node {node}"
        );
    }
    // A node that starts anew and did not store it yet is told as soon as it is linked.
    world.kill(1);
    world.restart_alone(1);
    world.link(0, 1);
    world.link(1, 0);
    world.turn(0);
    world.deliver_all();
    assert!(world.forgotten(1, 2).is_some());
}

#[test]
fn leader_put_back_from_an_old_copy_is_known_to_its_followers() {
    let mut world = World::founded(3);
    world.put_key(1);
    let leader = world.leader().unwrap();
    world.kill(leader);
    let copy = world.copy_directory(leader);
    world.restart(leader);
    world.pass(600);
    let again = world.leader().unwrap();
    world.put_key(2);
    world.pass(60);
    world.put_back(leader, &copy);
    for node in (0..3).filter(|node| *node != leader) {
        assert!(world.forgotten(node, leader).is_some(), "node {node}, under leader {again}");
    }
}

#[test]
fn node_whose_uncommitted_tail_was_replaced_is_never_taken_for_a_copy() {
    let mut world = World::founded(3);
    (1..=5).for_each(|number| world.put_key(number));
    world.cut_off.insert(0);
    for number in 100..140 {
        world.ask(0, number, put(number, "tail", "lost"));
        world.pass(1);
    }
    let long = world.node(0).durable_index();
    world.pass(600);
    world.cut_off.remove(&0);
    world.pass(600);
    assert!(world.node(0).durable_index() < long, "its log has become shorter");
    (6..=9).for_each(|number| world.put_key(number));
    // `restart` links, and asserts that nobody is refused.
    for node in [0, 1, 2, 0] {
        world.kill(node);
        world.restart(node);
        world.pass(600);
    }
}

#[test]
fn nodes_of_a_pair_and_a_node_alone_come_back_whatever_was_seen() {
    for count in [1, 2] {
        let mut world = World::founded(count);
        for round in 0..5 {
            world.pass(600);
            (1..=3).for_each(|number| world.put_key(round * 10 + number));
            let node = round as usize % count;
            world.kill(node);
            world.restart(node);
        }
    }
}

#[test]
fn member_that_claims_that_this_node_was_further_changes_nothing_here() {
    let mut world = World::founded(3);
    let far = Reached { boot: BootNumber(99), before: LogIndex(0), index: LogIndex(1 << 40) };
    let reached = vec![(NodeId(1), far), (NodeId(77), far)];
    let standing = kvstore::wire::peer::Standing { room: Room::default(), reached };
    let now = world.now;
    world.node(0).on_message(now, NodeId(2), Message::Standing(standing));
    assert_eq!((world.seen(0, 0), world.seen(0, 76)), (Reached::default(), Reached::default()));
    world.put_key(1);
}
