//! A cluster that is founded with restored data: whoever dies when, nobody without the data takes part
//! in anything, and in the end all have it.

use kvstore::storage::{BackupError, Disk, FileDisk, read_backup, restore};
use kvstore::wire::entry::SnapshotId;
use kvstore::wire::peer::InstallSnapshot;

use super::taking_snapshots::TINY;
use super::*;

/// A world of `count` nodes of which `founder` was restored from a backup with 14 numbers in it. The
/// nodes are linked, and nothing has happened yet.
fn restored(count: usize, founder: usize) -> World {
    restored_on((0..count).map(|_| Free::default()).collect(), founder)
}

/// The same on these disks.
pub(crate) fn restored_on(disks: Vec<Free>, founder: usize) -> World {
    let mut old = World::founded_with(1, TINY);
    old.put_numbers(1..15);
    old.ask(0, 1, RequestBody::Snapshot);
    old.settle();
    assert!(matches!(old.answer(1).unwrap().1.body, ResponseBody::SnapshotSaved(_)));
    let mut from = FileDisk::open(&old.kill_and_find(0)).unwrap();
    let name = from.list().unwrap().into_iter().find(|name| name.ends_with(".snap")).unwrap();
    let mut bytes = Vec::new();
    let (_, id) = read_backup::<_, BackupError>(&mut from, &name, |slice, _| {
        bytes.extend_from_slice(slice);
        Ok(())
    })
    .unwrap();

    let directory = TempDir::new().unwrap();
    let place = FileDisk::open(&directory.path().join(founder.to_string())).unwrap();
    let mut writer = restore(place, NodeId(founder as u64 + 1), id).unwrap();
    writer.write(&bytes).unwrap();
    writer.finish().unwrap();

    World::linked(directory, disks, TINY)
}

impl World {
    fn kill_and_find(&mut self, node: usize) -> PathBuf {
        self.kill(node);
        self.directory.path().join(node.to_string())
    }

    /// The founder has met all, unless it has founded already.
    pub(crate) fn found_with(&mut self, founder: usize) {
        let (now, configuration) = (self.now, cluster_of(self.nodes.len() as u64));
        if self.nodes[founder].is_some() && self.node(founder).configuration().is_none() {
            self.node(founder).found(now, configuration);
        }
    }

    /// What message buses tell: who is linked and does not know of the founding.
    fn tell_of_newcomers(&mut self) {
        for node in self.running() {
            for other in self.running() {
                let knows = |world: &mut World, node| world.node(node).configuration().is_some();
                if knows(self, node) && !knows(self, other) {
                    assert!(self.node(node).begins_with_snapshot(), "no member has less than the data");
                    self.node(node).on_newcomer(NodeId(other as u64 + 1));
                }
            }
        }
    }

    /// So many turns of all nodes, a millisecond each, with what must hold after each of them.
    fn turns_of_a_founding(&mut self, turns: usize) {
        for _ in 0..turns {
            self.now += Duration::from_millis(1);
            self.tell_of_newcomers();
            for node in self.running() {
                self.turn(node);
                if self.node(node).configuration().is_none() {
                    let said = self.sent_by(node);
                    let is_chunk_answer =
                        |message: &Message| matches!(message, Message::InstallSnapshotResponse(_));
                    assert!(said.iter().all(is_chunk_answer), "node {node} belongs to nothing: {said:?}");
                } else {
                    let has_data = self.node(node).state().key_count() >= 14;
                    assert!(has_data, "node {node} is a member and has nothing");
                }
            }
            self.deliver_all();
        }
    }

    fn turns_until_all_are_members(&mut self) {
        for _ in 0..40 {
            self.turns_of_a_founding(50);
            let running = self.running();
            if self.leader().is_some()
                && running.iter().all(|node| self.node(*node).configuration().is_some())
            {
                return;
            }
        }
        panic!("not all become members under a leader");
    }

    fn assert_all_restored(&mut self) {
        self.turns_until_all_are_members();
        let leader = self.leader().expect("somebody leads");
        self.ask(leader, 9, put(15, "after", "yes"));
        self.turns_of_a_founding(50);
        assert_eq!(self.answer(9).expect("it is acknowledged").1.body, written(false));
        // A write of before the backup is recognised.
        self.ask(leader, 10, put(14, "key14", &format!("{:0>200}", 14)));
        self.turns_of_a_founding(50);
        assert_eq!(self.answer(10).expect("it is answered").1.body, written(true));
        let digests: Vec<u64> =
            self.running().into_iter().map(|node| self.node(node).state().digest()).collect();
        assert!(digests.len() == self.nodes.len() && digests.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn restored_node_founds_and_all_get_its_data_whatever_its_id() {
    for (count, founder) in [(1, 0), (2, 1), (3, 0), (3, 2), (5, 3)] {
        let mut world = restored(count, founder);
        world.found_with(founder);
        world.assert_all_restored();
    }
}

#[test]
fn any_node_killed_at_any_moment_of_a_restored_founding_loses_nothing() {
    for victim in 0..3 {
        for moment in (0..45).step_by(2) {
            let mut world = restored(3, 1);
            world.found_with(1);
            world.turns_of_a_founding(moment);
            world.kill(victim);
            world.turns_of_a_founding(30);
            world.restart(victim);
            world.found_with(1);
            world.assert_all_restored();
        }
    }
}

#[test]
fn founder_killed_for_ever_leaves_a_majority_that_serves_the_last_one_or_nobody_that_leads() {
    let (mut served, mut stranded) = (0, 0);
    for moment in (0..70).step_by(3) {
        let mut world = restored(3, 1);
        world.found_with(1);
        world.cut_off.insert(2);
        world.turns_of_a_founding(moment);
        world.kill(1);
        world.cut_off.clear();
        // What the founder had sent may still arrive.
        world.turns_of_a_founding(20);
        match world.node(0).configuration().is_some() {
            true => {
                served += 1;
                world.turns_until_all_are_members();
                world.turns_of_a_founding(100);
                assert!(world.leader().is_some(), "nodes 0 and 2 are a majority that has the data");
                assert_eq!(world.node(0).state().digest(), world.node(2).state().digest());
            }
            false => {
                stranded += 1;
                world.turns_of_a_founding(600);
                assert_eq!(world.leader(), None);
            }
        }
    }
    assert!(served > 3 && stranded > 3, "{served} served, {stranded} stranded");
}

#[test]
fn founding_of_another_is_refused_by_a_restored_node() {
    let mut world = restored(3, 1);
    let now = world.now;
    world.node(1).on_message(now, NodeId(1), Message::Found(cluster_of(3)));
    world.turn(1);
    assert!(world.node(1).configuration().is_none(), "what was restored would be lost");
}

#[test]
fn directory_that_has_no_place_in_the_restored_cluster_takes_nothing_of_it() {
    let mut world = restored(3, 0);
    let member = |id: u64, incarnation: u64| Member { id: NodeId(id), incarnation: Incarnation(incarnation) };
    let members = vec![member(1, 11), member(2, 22), member(3, 99)];
    let now = world.now;
    world.node(0).found(now, Configuration::new(ClusterId(77), members).unwrap());
    world.turns_of_a_founding(400);
    assert!(world.node(1).configuration().is_some());
    assert_eq!(world.node(2).configuration(), None, "node 3 of that cluster is another directory");
    assert_eq!(world.node(2).state().key_count(), 0);
}

/// A snapshot is announced under a term that is not its own. Only its whole file shows that, and nothing of
/// the false term may be kept by then: a term that is stored can never be taken back.
#[test]
fn snapshot_announced_under_a_false_term_leaves_no_term_behind() {
    let mut world = restored(3, 1);
    world.found_with(1);
    let mut is_whole = false;
    while !is_whole {
        world.now += Duration::from_millis(1);
        world.tell_of_newcomers();
        (0..3).for_each(|node| world.turn(node));
        for (from, to, message) in &mut world.network.queue {
            match message {
                Message::InstallSnapshot(chunk) if *to == NodeId(1) => {
                    chunk.snapshot.term = Term(1000);
                    is_whole |= chunk.offset + chunk.chunk.len() as u64 == chunk.snapshot.bytes;
                }
                Message::InstallSnapshotResponse(answer) if *from == 0 => answer.snapshot.term = Term(1),
                _ => {}
            }
        }
        world.deliver_all();
    }
    world.turn(0);
    assert!(world.node(0).configuration().is_none(), "it is not what was announced");
    world.assert_all_restored();
    assert!(world.node(0).raft().term() < Term(1000));
    world.kill(0);
    world.restart(0);
    assert!(world.node(0).raft().term() < Term(1000), "nor is it on the disk");
}

#[test]
fn chunk_of_a_second_snapshot_that_waited_while_its_node_joined_is_dropped() {
    let mut world = restored(3, 1);
    world.found_with(1);
    let mut first = None;
    loop {
        world.now += Duration::from_millis(1);
        world.tell_of_newcomers();
        (0..3).for_each(|node| world.turn(node));
        let chunk = world.network.queue.iter().find_map(|(_, to, message)| match message {
            Message::InstallSnapshot(chunk) if *to == NodeId(1) => Some(chunk.clone()),
            _ => None,
        });
        world.deliver_all();
        let Some(chunk) = chunk else { continue };
        let first = first.get_or_insert_with(|| chunk.clone());
        if chunk.offset + chunk.chunk.len() as u64 == chunk.snapshot.bytes {
            let later = SnapshotId { index: first.snapshot.index.plus(500), ..first.snapshot };
            let now = world.now;
            let other = InstallSnapshot { snapshot: later, ..first.clone() };
            world.node(0).on_message(now, NodeId(3), Message::InstallSnapshot(other));
            break;
        }
    }
    for _ in 0..3 {
        world.turn(0);
    }
    assert!(world.node(0).configuration().is_some(), "it has joined by the first");
    let is_answer_to_second = |(_, to, message): &(usize, NodeId, Message)| {
        matches!(message, Message::InstallSnapshotResponse(_)) && *to == NodeId(3)
    };
    assert!(!world.network.queue.iter().any(is_answer_to_second));
    world.assert_all_restored();
}
