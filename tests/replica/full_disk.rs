//! Disks that are full, or get full, while a snapshot or a spare is written: no process ends, and all
//! is done once there is room.

use super::limited_disk::FreeBytes;
use super::taking_snapshots::{IMPATIENT, TINY};
use super::*;

/// Snapshots in many slices, and none before the disk gets low.
const LATE: SnapshotOptions =
    SnapshotOptions { floor_bytes: 64 << 20, slice_bytes: 4_000, log_bounds: TINY.log_bounds };

impl World {
    /// Puts 60 keys of 4 kB, again and again, until the log has some ten segments.
    fn put_much(&mut self) {
        for number in 0..180_u64 {
            let value = "x".repeat(4_000);
            let body = put(1 + number, &format!("key{}", number % 60), &value);
            assert_eq!(self.write_at_leader(1_000 + number, body), written(false), "put {number}");
        }
        self.pass(200); // until the next segments are prepared, and take nothing any more
    }

    fn spares(&self, node: usize) -> usize {
        let names = std::fs::read_dir(self.directory.path().join(node.to_string())).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("spare")).count()
    }

    fn has_draft(&self, node: usize) -> bool {
        self.directory.path().join(format!("{node}/snapshot.tmp")).exists()
    }

    /// Turns, without time, until so many of these nodes write or receive a snapshot.
    fn until_drafts(&mut self, count: usize) {
        let begun = (0..1_000).find(|_| {
            self.turns(1);
            (0..self.nodes.len()).filter(|node| self.has_draft(*node)).count() == count
        });
        assert!(begun.is_some(), "nobody begins");
    }
}

fn is_no_space(body: &ResponseBody) -> bool {
    matches!(body, ResponseBody::Refused(Refused::NoSpace(_)))
}

#[test]
fn nodes_on_one_disk_that_gets_full_take_their_snapshots_one_after_the_other() {
    let disk = FreeBytes::counted();
    let mut world = World::founded_on(vec![Free::clone(&disk); 3], LATE);
    world.put_much();
    // Room for one snapshot, in the eyes of each.
    disk.set(world.status(0).disk.reserve_bytes - 1);
    world.now += Duration::from_millis(150);
    world.until_drafts(3);
    world.pass(5_000);
    let saved = |world: &mut World| (0..3).filter(|node| world.snapshot_index(*node) > LogIndex(0)).count();
    assert!(saved(&mut world) > 0, "nobody died, and somebody found the room that the others gave back");
    assert_eq!(world.write_at_leader(1, put(1_001, "key", "value")), written(false), "which made more room");

    // Until the others are low again, and again.
    for round in 1..=10 {
        disk.set(world.status(2).disk.reserve_bytes - 1);
        world.pass(5_000);
        if saved(&mut world) == 3 {
            return;
        }
        assert!(round < 10, "somebody gave up for good");
    }
}

#[test]
fn segments_kept_for_use_are_given_back_while_the_disk_is_low_but_for_the_next_one() {
    let disk = FreeBytes::counted();
    let mut world = World::founded_on(vec![Free::clone(&disk)], LATE);
    world.put_much();
    world.ask(0, 1, RequestBody::Snapshot);
    world.pass(5_000);
    let kept = world.spares(0);
    assert!(kept >= 4, "with room enough those that were released are kept: {kept}");
    disk.set(world.status(0).disk.reserve_bytes - 1);
    world.pass(300);
    assert_eq!(world.spares(0), 1, "the log needs one next");
    assert_eq!(world.write_at_leader(2, put(1_001, "key", "value")), written(false), "which made room");
}

#[test]
fn snapshot_for_the_rest_of_which_there_is_no_room_any_more_is_given_up_and_taken_again_by_itself() {
    let mut world = World::founded_with(1, TINY);
    world.free[0].set(0);
    world.put_numbers(1..30);
    world.free[0].set(1 << 30);
    world.pass(5_000);
    assert!(world.snapshot_index(0) > LogIndex(20), "the log that it would have replaced still counts");

    world.put_numbers(30..31);
    world.ask(0, 1, RequestBody::Snapshot);
    world.until_drafts(1);
    world.free[0].set(1_000);
    world.pass(150);
    assert!(!world.has_draft(0), "what is left is for the log");
    assert!(is_no_space(&world.answer(1).unwrap().1.body), "nobody shall wait for it");
    world.ask(0, 2, RequestBody::Snapshot);
    world.settle();
    assert!(is_no_space(&world.answer(2).unwrap().1.body), "nor for the next one");
    world.free[0].set(1 << 30);
    world.pass(150);
    world.ask(0, 3, RequestBody::Snapshot);
    world.settle();
    assert!(matches!(world.answer(3).unwrap().1.body, ResponseBody::SnapshotSaved(_)), "there is room again");
}

#[test]
fn disk_that_does_not_say_that_it_is_full_is_tried_now_and_then_and_ends_no_process() {
    let disk = FreeBytes::secret();
    let mut world = World::founded_on(vec![Free::clone(&disk)], LATE);
    world.put_much();
    for most in [0, 1_000, 4_096, 20_000, 70_000] {
        disk.set(most);
        let before = disk.refusals();
        world.ask(0, 1, RequestBody::Snapshot);
        world.pass(10_000);
        assert!(is_no_space(&world.answer(1).unwrap().1.body), "with room for {most} bytes");
        let tries = disk.refusals() - before;
        assert!(
            (1..20).contains(&tries),
            "with room for {most} bytes it was found full {tries} times in 10 s"
        );
    }
    disk.set(1 << 30);
    world.pass(5_000);
    world.ask(0, 1, RequestBody::Snapshot);
    world.settle();
    assert!(matches!(world.answer(1).unwrap().1.body, ResponseBody::SnapshotSaved(_)));
}

#[test]
fn own_snapshot_is_not_given_up_for_the_leaders_that_does_not_fit() {
    let mut world = World::founded_with(3, IMPATIENT);
    world.put_numbers(1..10);
    world.pass(150); // until the next segment is prepared, and takes nothing any more
    let room = world.status(2).disk.reserve_bytes - (64 << 10); // as with one segment in reserve
    world.cut_off.insert(2);
    world.put_numbers(10..200);
    world.ask(2, 1, RequestBody::Snapshot);
    world.until_drafts(1);
    world.free[2].set(room);
    world.cut_off.remove(&2);
    world.link_all();
    world.settle();
    let answer = world.answer(1).map(|(_, answer)| answer.body);
    assert!(matches!(answer, Some(ResponseBody::SnapshotSaved(_))), "{answer:?}");
    world.pass(3_000);
    assert!(world.snapshot_index(2) < LogIndex(20), "the leader's needs more");
    world.free[2].set(1 << 30);
    world.pass(6_000);
    assert!(world.snapshot_index(2) > LogIndex(150), "once there is room it gets that, too");
}

#[test]
fn follower_without_room_for_the_rest_of_a_snapshot_gives_it_up_and_gets_it_once_there_is_room() {
    for moment in [1, 2, 5, 10] {
        let mut world = World::founded_with(3, IMPATIENT);
        world.kill(2);
        world.put_numbers(1..200);
        world.restart(2);
        world.until_drafts(1);
        world.turns(moment);
        world.free[2].set(100);
        world.pass(5);
        assert!(!world.has_draft(2), "it takes nothing of what is left for the log");
        world.pass(3_000);
        assert_eq!(world.snapshot_index(2), LogIndex(0));
        world.free[2].set(1 << 30);
        world.pass(6_000);
        assert!(world.snapshot_index(2) > LogIndex(150));
    }
}

#[test]
fn restored_node_whose_disk_has_no_room_founds_once_there_is_some() {
    let disk = FreeBytes::secret();
    let mut world = super::restoring::restored_on(vec![Free::clone(&disk)], 0);
    disk.set(3_000);
    world.found_with(0);
    world.pass(100);
    assert_eq!(world.node(0).configuration(), None, "it belongs to no cluster before that is durable");
    disk.set(1 << 30);
    world.pass(3_000);
    assert!(world.node(0).configuration().is_some());
    world.put_numbers(20..30);
}
