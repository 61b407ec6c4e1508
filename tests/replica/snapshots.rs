//! The log stays bounded, and nothing is lost by it.

use kvstore::kv::{Limits, SnapshotWriter};
use kvstore::raft::LogBounds;
use kvstore::replica::state_of;
use kvstore::types::{ClusterTime, LogIndex};
use kvstore::wire::entry::{Entry, Payload, Snapshot, SnapshotId};
use kvstore::wire::peer::{AppendEntries, InstallResult, InstallSnapshot, InstallSnapshotResponse};

use super::*;

/// A snapshot every few entries, in many small slices.
pub(crate) const TINY: SnapshotOptions = SnapshotOptions {
    floor_bytes: 4_000,
    slice_bytes: 700,
    log_bounds: LogBounds { trailing_bytes: 0, max_bytes: 100_000 },
};

/// As `TINY`, and nothing is kept in memory for who is behind.
pub(crate) const IMPATIENT: SnapshotOptions =
    SnapshotOptions { log_bounds: LogBounds { trailing_bytes: 0, max_bytes: 0 }, ..TINY };

/// After so many turns of a transfer something happens to it: from before its first chunk to the
/// install.
const MOMENTS: [usize; 10] = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55];

impl World {
    /// Puts numbers from `from` on, one at a time, each acknowledged; the value tells the number.
    pub(crate) fn put_numbers(&mut self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.put_number(number);
        }
    }

    fn put_number(&mut self, number: u64) {
        let leader = self.leader().expect("somebody leads");
        self.ask(leader, 1_000_000 + number, put(number, &format!("key{}", number % 50), &value(number)));
        self.pass(1);
        let answer = self.answer(1_000_000 + number).expect("it is acknowledged").1;
        assert_eq!(answer.body, written(false), "put {number}");
    }

    fn first_index(&mut self, node: usize) -> LogIndex {
        self.node(node).raft().log().first_index()
    }

    pub(crate) fn snapshot_index(&mut self, node: usize) -> LogIndex {
        self.node(node).raft().snapshot().map_or(LogIndex(0), |snapshot| snapshot.index)
    }

    /// All running nodes have come to the same state; `numbers` were put last.
    fn assert_same(&mut self, numbers: std::ops::Range<u64>) {
        self.pass(400);
        let digests: Vec<u64> =
            self.running().into_iter().map(|node| self.node(node).state().digest()).collect();
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
        for number in numbers {
            let found = self.node(0).state().get(format!("key{}", number % 50).as_bytes());
            assert_eq!(found, Some(value(number).into()), "number {number}");
        }
    }

    pub(crate) fn files(&self, node: usize, ending: &str) -> usize {
        let names = std::fs::read_dir(self.directory.path().join(node.to_string())).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(ending)).count()
    }
}

fn value(number: u64) -> String {
    format!("{number:0>200}")
}

#[test]
fn log_under_load_stays_bounded_on_disk_and_in_memory() {
    let mut world = World::founded_with(3, TINY);
    for round in 0..12 {
        world.put_numbers(round * 100 + 1..round * 100 + 101);
        for node in 0..3 {
            let held = world.node(node).raft().log().held_bytes();
            assert!(held < 30_000, "node {node} holds {held} bytes in round {round}");
            assert!(
                world.files(node, ".wal") <= 3 + 5,
                "node {node}: {} segments",
                world.files(node, ".wal")
            );
            assert!(world.files(node, ".snap") <= 2);
        }
    }
    let indexes: Vec<_> = (0..3).map(|node| world.snapshot_index(node)).collect();
    assert!(indexes.iter().all(|index| *index > LogIndex(1000)), "{indexes:?}");
    world.assert_same(1151..1201);
}

#[test]
fn snapshots_of_the_nodes_are_not_taken_at_the_same_entries() {
    let mut world = World::founded_with(3, TINY);
    world.put_numbers(1..40);
    let mut indexes: Vec<_> = (0..3).map(|node| world.snapshot_index(node)).collect();
    indexes.dedup();
    assert_eq!(indexes.len(), 3, "{indexes:?}");
}

#[test]
fn all_restarted_after_compaction_find_everything() {
    let mut world = World::founded_with(3, TINY);
    world.put_numbers(1..200);
    let before = world.node(0).state().digest();
    (0..3).for_each(|node| world.kill(node));
    (0..3).for_each(|node| world.restart(node));
    assert!(world.first_index(0) > LogIndex(100), "the log before the snapshot is not read again");
    world.pass(600);
    assert_ne!(world.node(0).state().digest(), before, "a new leader's entry came");
    world.put_numbers(200..210);
    world.assert_same(160..210);
}

#[test]
fn write_sent_again_after_snapshot_and_restart_gets_the_first_answer() {
    let mut world = World::founded_with(3, TINY);
    world.ask(0, 1, put(1, "once", "value"));
    world.pass(1);
    let first = world.answer(1).unwrap().1;
    world.put_numbers(2..150);
    (0..3).for_each(|node| world.kill(node));
    (0..3).for_each(|node| world.restart(node));
    world.pass(600);
    let leader = world.leader().unwrap();
    world.ask(leader, 2, put(1, "once", "value"));
    world.pass(1);
    let again = world.answer(2).unwrap().1;
    assert_eq!((again.body, again.revision), (written(true), first.revision));
}

#[test]
fn follower_that_was_away_for_long_is_sent_a_snapshot() {
    let mut world = World::founded_with(3, IMPATIENT);
    world.put_numbers(1..20);
    world.kill(2);
    world.put_numbers(20..300);
    assert!(world.node(0).raft().log().first_index() > LogIndex(200), "compacted although one is away");
    world.restart(2);
    world.put_numbers(300..320);
    world.assert_same(270..320);
    assert!(world.snapshot_index(2) > LogIndex(200));
    // It also takes part: without it there is no majority now.
    world.kill(1);
    world.put_numbers(320..330);
}

#[test]
fn write_sent_again_to_a_follower_that_installed_a_snapshot_is_known_there() {
    let mut world = World::founded_with(3, IMPATIENT);
    world.kill(2);
    world.put_numbers(1..200);
    world.restart(2);
    world.pass(100);
    world.kill(1);
    world.ask(0, 1, RequestBody::Transfer { to: NodeId(3) });
    world.pass(50);
    assert_eq!(world.leader(), Some(2));
    world.ask(2, 2, put(199, "key49", &value(199)));
    world.pass(1);
    assert_eq!(world.answer(2).unwrap().1.body, written(true));
}

#[test]
fn idle_cluster_compacted_to_its_tip_brings_a_follower_back_without_a_write() {
    let mut world = World::founded_with(3, IMPATIENT);
    world.kill(2);
    world.put_numbers(1..200);
    world.restart(2);
    world.assert_same(150..200);
}

#[test]
fn follower_killed_at_any_moment_of_a_transfer_comes_back_and_catches_up() {
    for moment in MOMENTS {
        let mut world = World::founded_with(3, IMPATIENT);
        world.kill(2);
        world.put_numbers(1..80);
        world.restart(2);
        world.turns(moment);
        world.kill(2);
        world.put_numbers(80..90);
        world.restart(2);
        world.assert_same(40..90);
    }
}

#[test]
fn leader_changed_at_any_moment_of_a_transfer_does_not_confuse_it() {
    for moment in MOMENTS {
        let mut world = World::founded_with(5, IMPATIENT);
        world.kill(4);
        world.put_numbers(1..80);
        world.restart(4);
        world.turns(moment);
        world.kill(0);
        world.pass(600);
        world.put_numbers(80..120);
        world.restart(0);
        world.assert_same(70..120);
    }
}

#[test]
fn leadership_lost_and_regained_during_a_transfer_begins_it_anew() {
    let mut world = World::founded_with(3, IMPATIENT);
    world.kill(2);
    world.put_numbers(1..80);
    world.restart(2);
    world.turns(6);
    for to in [2, 1] {
        let leader = world.leader().unwrap();
        world.ask(leader, 1, RequestBody::Transfer { to: NodeId(to) });
        world.turns(12);
        world.pass(30);
        let _ = world.answer(1);
    }
    world.assert_same(40..80);
}

impl World {
    /// Time goes by until the process of a node must end. Gives which, why, and where the chunks began that
    /// node 1 sent until then.
    fn until_one_ends(&mut self) -> (usize, storage::WriteError, Vec<u64>) {
        let mut offsets = Vec::new();
        for _ in 0..2_000 {
            self.now += Duration::from_millis(1);
            let now = self.now;
            for node in self.running() {
                self.network.sender = node;
                let replica = self.nodes[node].as_mut().unwrap();
                replica.tick(now);
                if let Err(error) = replica.process_ready(now, || now, &mut self.network) {
                    return (node, error, offsets);
                }
            }
            offsets.extend(self.sent_by(0).into_iter().filter_map(|message| match message {
                Message::InstallSnapshot(chunk) => Some(chunk.offset),
                _ => None,
            }));
            self.deliver_all();
        }
        panic!("nobody ends; chunks that were sent: {offsets:?}");
    }
}

/// What a transfer goes on with is not checked by its sender, who has not read what lies before. So the
/// receiver finds the damage, and has all of it sent again, and then the sender finds it.
#[test]
fn snapshot_damaged_before_its_transfer_goes_on_ends_the_sender_and_is_not_sent_for_ever() {
    let mut world = World::founded_with(3, IMPATIENT);
    world.kill(2);
    world.put_numbers(1..80);
    world.restart(2);
    world.turns(8);
    world.cut_off.insert(2);
    for to in [2, 1] {
        let leader = world.leader().unwrap();
        world.ask(leader, 1, RequestBody::Transfer { to: NodeId(to) });
        world.pass(100);
        let _ = world.answer(1);
    }
    assert_eq!(world.leader(), Some(0), "it leads again, and has forgotten how far it came");
    let index = world.snapshot_index(0);
    let path = world.directory.path().join(format!("0/{index:010}.snap"));
    let mut file = std::fs::read(&path).unwrap();
    let at = file.len() - 1_000;
    file[at] ^= 4;
    std::fs::write(&path, file).unwrap();

    world.cut_off.remove(&2);
    let (node, error, offsets) = world.until_one_ends();
    let begun: Vec<usize> = (0..offsets.len()).filter(|chunk| offsets[*chunk] == 0).collect();
    assert_eq!(begun.len(), 2, "asked where to go on, and begun anew: {offsets:?}");
    assert!(offsets[1] > 700, "it went on where the one before had come to: {offsets:?}");
    assert!(node == 0 && error.path.ends_with(&format!("{index:010}.snap")), "{node}: {error}");
    assert!(error.to_string().contains("damaged at offset"), "{error}");
    assert_eq!(world.snapshot_index(2), LogIndex(0), "nothing of it was taken over");
}

#[test]
fn snapshot_taken_while_another_is_being_sent_disturbs_neither() {
    let mut world = World::founded_with(3, TINY);
    world.kill(2);
    world.put_numbers(1..600);
    world.restart(2);
    // One write after each few turns: the leader compacts again and again meanwhile.
    let mut number = 600;
    for _ in 0..60 {
        world.turns(3);
        let leader = world.leader().unwrap();
        world.ask(leader, 1_000_000 + number, put(number, &format!("key{}", number % 50), &value(number)));
        number += 1;
    }
    world.assert_same(number - 50..number);
}

#[test]
fn follower_that_stays_silent_in_a_transfer_holds_up_nothing() {
    let mut world = World::founded_with(3, IMPATIENT);
    world.kill(2);
    world.put_numbers(1..100);
    world.restart(2);
    world.turns(8);
    world.cut_off.insert(2);
    let before = world.snapshot_index(0);
    world.put_numbers(100..300);
    let after = world.snapshot_index(0);
    assert!(after > before.plus(100), "the leader goes on taking snapshots: {before}, {after}");
    assert!(world.node(0).raft().log().held_bytes() < 30_000);
    world.cut_off.remove(&2);
    world.assert_same(250..300);
}

#[test]
fn ex_leader_whose_entries_a_snapshot_replaced_answers_its_clients() {
    let mut world = World::founded_with(3, IMPATIENT);
    world.put_numbers(1..10);
    world.cut_off.insert(0);
    world.ask(0, 7, put(500, "lost", "tail"));
    world.ask(0, 8, put(501, "lost", "tail"));
    world.pass(400);
    let leader = world.leader_among(&[1, 2]);
    for number in 10..200 {
        world.ask(leader, 1_000_000 + number, put(number, &format!("key{}", number % 50), &value(number)));
        world.pass(1);
    }
    world.cut_off.remove(&0);
    world.link_all();
    world.pass(200);
    for id in [7, 8] {
        let answer = world.answer(id).expect("every request that was taken is answered").1;
        assert_eq!(answer.body, ResponseBody::Refused(Refused::LeadershipLost));
    }
    world.assert_same(150..200);
    assert_eq!(world.node(0).state().get(b"lost"), None, "a divergent tail is gone");
    assert!(world.snapshot_index(0) > LogIndex(50));
}

impl World {
    /// So many rounds of turns and deliveries, and no time.
    pub(crate) fn turns(&mut self, count: usize) {
        for _ in 0..count {
            for node in self.running() {
                self.turn(node);
            }
            self.deliver_all();
        }
    }

    fn leader_among(&self, nodes: &[usize]) -> usize {
        let leads =
            |node: &&usize| self.nodes[**node].as_ref().unwrap().leader() == Some(NodeId(**node as u64 + 1));
        *nodes.iter().find(leads).expect("one of them leads")
    }
}

/// Asks for bytes of a backup on a connection of its own.
fn ask_bytes(world: &mut World, client: u64, id: u64, snapshot: Option<SnapshotId>) {
    let body = RequestBody::Backup { snapshot, offset: 0 };
    let request = Request { id, time_left_ms: 5_000, silent_leader: None, body };
    let now = world.now;
    world.node(0).on_request(now, ClientConnection(client), request);
}

#[test]
fn backups_that_name_a_snapshot_at_once_count_against_the_cap_and_get_one_chunk_a_turn() {
    let mut world = World::founded_with(1, TINY);
    world.put_numbers(1..40);
    world.ask(0, 1, RequestBody::Snapshot);
    world.settle();
    let ResponseBody::SnapshotSaved(snapshot) = world.answer(1).unwrap().1.body else {
        panic!("no snapshot")
    };
    assert!(snapshot.bytes > 700, "more than one chunk");
    for client in 10..20 {
        ask_bytes(&mut world, client, client, Some(snapshot));
        ask_bytes(&mut world, client, 100 + client, Some(snapshot));
    }
    world.settle();
    let mut chunks = Vec::new();
    for client in 10..20 {
        let busy = |body: &ResponseBody| matches!(body, ResponseBody::Refused(Refused::Busy(_)));
        assert!(busy(&world.answer(100 + client).unwrap().1.body), "a second request of one turn");
        match world.answer(client).unwrap().1.body {
            ResponseBody::BackupChunk { chunk, .. } => chunks.push((client, chunk.len())),
            body => assert!(busy(&body), "{body:?}"),
        }
    }
    assert_eq!(chunks, [(10, 700), (11, 700), (12, 700), (13, 700)]);
    // One of them goes; its place is free.
    world.node(0).on_client_gone(ClientConnection(11));
    ask_bytes(&mut world, 15, 200, None);
    world.settle();
    assert!(matches!(world.answer(200).unwrap().1.body, ResponseBody::BackupChunk { .. }));
}

/// Asks for the bytes from `offset` on, and gives what is answered at once.
fn ask_on(world: &mut World, client: u64, snapshot: Option<SnapshotId>, offset: u64) -> ResponseBody {
    let body = RequestBody::Backup { snapshot, offset };
    let request = Request { id: 7_000, time_left_ms: 5_000, silent_leader: None, body };
    let now = world.now;
    world.node(0).on_request(now, ClientConnection(client), request);
    world.settle();
    world.answer(7_000).expect("it is answered at once").1.body
}

#[test]
fn backup_that_pauses_for_long_gives_its_place_up_and_one_that_is_slow_keeps_its_snapshot() {
    let mut world = World::founded_with(1, TINY);
    world.put_numbers(1..40);
    let ResponseBody::BackupChunk { snapshot, chunk, .. } = ask_on(&mut world, 10, None, 0) else { panic!() };
    let slice = chunk.len() as u64;
    for client in 11..14 {
        ask_on(&mut world, client, Some(snapshot), 0);
    }
    let is_busy = |body: ResponseBody| matches!(body, ResponseBody::Refused(Refused::Busy(_)));
    assert!(is_busy(ask_on(&mut world, 20, None, 0)), "all four places are taken");
    // A younger one takes its place on disk, which a backup under way does not notice.
    world.put_numbers(40..80);
    assert!(world.snapshot_index(0) > snapshot.index);
    for chunks in 1..=3 {
        world.pass(29_000);
        let next = ask_on(&mut world, 10, Some(snapshot), chunks * slice);
        let goes_on = |id, offset| id == snapshot && offset == chunks * slice;
        assert!(
            matches!(next, ResponseBody::BackupChunk { snapshot, offset, .. } if goes_on(snapshot, offset))
        );
    }
    let used = |world: &mut World| {
        let bounds = world.status(0).bounds;
        bounds.iter().find(|bound| bound.name == "backups").expect("it is bounded").used
    };
    assert_eq!(used(&mut world), 1, "the others asked for nothing for half a minute");
    let ResponseBody::BackupChunk { snapshot: anew, offset: 0, .. } =
        ask_on(&mut world, 11, Some(snapshot), slice)
    else {
        panic!("it does not begin anew, though its snapshot is gone")
    };
    assert!(anew.index > snapshot.index);
    world.pass(31_000);
    assert_eq!(used(&mut world), 0);
    let next = ask_on(&mut world, 11, Some(anew), slice);
    assert!(
        matches!(next, ResponseBody::BackupChunk { snapshot, offset, .. } if snapshot == anew && offset == slice)
    );
}

#[test]
fn backup_that_begins_while_a_snapshot_is_written_waits_for_one_with_all_that_was_acknowledged() {
    let mut world = World::founded_with(1, TINY);
    world.put_numbers(1..10);
    world.ask(0, 1, RequestBody::Snapshot);
    world.turn(0);
    world.ask(0, 2, put(10, "late", "value"));
    world.turn(0);
    let late = world.answer(2).expect("it is acknowledged").1;
    assert_eq!(late.body, written(false));
    assert!(world.answer(1).is_none(), "the snapshot without it is still being written");
    ask_bytes(&mut world, 10, 3, None);
    world.settle();
    let ResponseBody::BackupChunk { snapshot, .. } = world.answer(3).unwrap().1.body else {
        panic!("no backup");
    };
    assert!(snapshot.index.0 >= late.revision.0, "{snapshot:?} lacks revision {}", late.revision);
}

#[test]
fn large_state_is_not_written_again_for_a_log_of_less_than_half_its_size() {
    let mut world = World::founded_with(1, TINY);
    for number in 1..=50 {
        world.ask(0, number, put(number, &format!("large{number}"), &"x".repeat(1_000)));
        world.settle();
    }
    world.ask(0, 99, RequestBody::Snapshot);
    world.settle();
    let (before, written) = (world.snapshot_index(0), 10_000);
    assert!(written > 2 * TINY.floor_bytes);
    world.put_numbers(51..51 + written / 400);
    assert_eq!(world.snapshot_index(0), before);
    world.put_numbers(51 + written / 400..200);
    assert!(world.snapshot_index(0) > before);
}

#[test]
fn state_of_another_index_than_its_snapshots_is_refused() {
    let mut world = World::founded(1);
    world.ask(0, 1, put(1, "key", "value"));
    world.settle();
    let state = world.node(0).state().clone();
    let snapshot = Snapshot {
        index: LogIndex(state.revision().0),
        term: Term(1),
        stamp: state.cluster_time(),
        configuration: cluster_of(1),
    };
    let slices = |state| {
        let mut writer = SnapshotWriter::new(state);
        std::iter::from_fn(move || writer.next_slice(1 << 10)).collect::<Vec<_>>()
    };
    assert!(state_of(&snapshot, slices(state.clone()), Limits::STANDARD).is_ok());
    let other = Snapshot { index: snapshot.index.next(), ..snapshot };
    assert!(state_of(&other, slices(state), Limits::STANDARD).is_err());
}

#[test]
fn snapshot_half_received_whose_log_comes_by_itself_is_given_up_and_an_own_one_taken() {
    let (mut world, now) = follower_founded_late(64 << 10);
    let snapshot = SnapshotId { index: LogIndex(5), term: Term(1), bytes: 100_000, checksum: 7 };
    let chunk = InstallSnapshot { term: Term(1), snapshot, offset: 0, chunk: vec![0; 1_000].into() };
    world.node(1).on_message(now, NodeId(1), Message::InstallSnapshot(chunk));
    world.turn(1);
    world.turn(1);
    assert!(world.sent_by(1).iter().any(|message| matches!(message, Message::InstallSnapshotResponse(_))));
    let no_op = Payload::NoOp { leader: NodeId(1) };
    let entries =
        (2..=6).map(|index| Entry::new(LogIndex(index), Term(1), ClusterTime::ZERO, no_op.clone())).collect();
    let (prev_log_index, prev_log_term) = (LogIndex(1), Term::ZERO);
    let append =
        AppendEntries { term: Term(1), prev_log_index, prev_log_term, entries, leader_commit: LogIndex(6) };
    world.node(1).on_message(now, NodeId(1), Message::AppendEntries(append));
    world.turn(1);
    world.turn(1);
    world.ask(1, 1, RequestBody::Snapshot);
    (0..10).for_each(|_| world.turn(1));
    let answer = world.answer(1).expect("nothing stands in its way").1.body;
    assert!(matches!(answer, ResponseBody::SnapshotSaved(saved) if saved.index == LogIndex(6)), "{answer:?}");
}

#[test]
fn answer_about_another_snapshot_does_not_move_the_one_that_is_sent() {
    let mut world = World::founded_with(3, IMPATIENT);
    world.kill(2);
    world.put_numbers(1..80);
    world.restart(2);
    let sent = (0..100).find_map(|_| {
        world.turns(1);
        world.turn(0);
        world.sent_by(0).into_iter().find_map(|message| match message {
            Message::InstallSnapshot(chunk) if chunk.offset > 0 => Some(chunk),
            _ => None,
        })
    });
    let InstallSnapshot { term, snapshot, offset, .. } = sent.expect("a transfer is under way");
    world.network.queue.clear();
    let now = world.now;
    let is_sent_on = |world: &mut World, snapshot, offset| {
        let result = InstallResult::Received { offset };
        let answer = InstallSnapshotResponse { term, snapshot, result };
        world.node(0).on_message(now, NodeId(3), Message::InstallSnapshotResponse(answer));
        world.turn(0);
        world.sent_by(0).iter().any(|message| matches!(message, Message::InstallSnapshot(_)))
    };
    let other = SnapshotId { checksum: !snapshot.checksum, ..snapshot };
    assert!(!is_sent_on(&mut world, other, 0), "late news of another one");
    assert!(!is_sent_on(&mut world, snapshot, offset), "it waits for what is under way");
    assert!(is_sent_on(&mut world, snapshot, 0), "it lost what it had");
}
