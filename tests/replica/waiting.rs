//! Requests that wait for a leader, or for their entry: for how long, and what is left of them.

use kvstore::storage::FileDisk;
use kvstore::wire::client::NodeStatus;
use kvstore::wire::entry::{Entry, Payload};
use kvstore::wire::peer::{AppendEntries, AppendEntriesResponse, AppendResult};

use super::*;

impl World {
    /// Node 2 of three is left, and there will be no leader.
    fn last_of_three() -> Self {
        let mut world = Self::founded(3);
        world.kill(0);
        world.kill(1);
        world.pass(300);
        world
    }

    fn ask_within(&mut self, node: usize, id: u64, time_left_ms: u32, silent_leader: Option<SilentLeader>) {
        let request = Request { id, time_left_ms, silent_leader, body: put(1, "key", "value") };
        let now = self.now;
        self.node(node).on_request(now, CLIENT, request);
    }

    /// What is used of the bound of this name.
    fn used(&mut self, node: usize, name: &str) -> u64 {
        self.ask(node, 9_999, RequestBody::Status);
        self.turn(node);
        let ResponseBody::Status(status) = self.answer(9_999).expect("status is answered at once").1.body
        else {
            panic!("no status");
        };
        let NodeStatus { bounds, .. } = *status;
        bounds.iter().find(|bound| bound.name == name).expect("a bound of this name").used
    }

    fn is_refused(&mut self, id: u64, refused: &Refused) -> bool {
        let body = self.answer(id).map(|(_, response)| response.body);
        body == Some(ResponseBody::Refused(refused.clone()))
    }
}

#[test]
fn parked_request_is_refused_well_before_its_client_gives_up() {
    let mut world = World::last_of_three();
    world.ask_within(2, 1, 100, None);
    world.pass(74);
    assert!(world.answer(1).is_none(), "it waits for a leader");
    world.pass(2);
    assert!(world.is_refused(1, &Refused::NoLeader), "a definite no that comes in time");
}

#[test]
fn request_parked_a_second_time_gains_no_time() {
    let mut world = World::founded(3);
    world.ask_within(1, 1, 5_000, Some(SilentLeader { id: NodeId(3), term: Term(7) }));
    world.pass(100);
    let now = world.now;
    world.node(1).on_message(now, NodeId(3), heartbeat(2));
    world.pass(49);
    assert!(world.answer(1).is_none(), "the new leader is older than the silent one, too");
    world.pass(2);
    assert!(world.is_refused(1, &Refused::NoLeader));
}

#[test]
fn parked_request_dies_with_its_connection() {
    let mut world = World::last_of_three();
    world.ask(2, 1, put(1, "key", "value"));
    let now = world.now;
    world.turn(2);
    world.node(2).on_client_gone(CLIENT);
    assert_eq!(world.used(2, "parked_requests"), 0);
    world.restart(0);
    world.pass(400);
    assert!(world.leader().is_some() && world.now > now);
    assert!(world.answer(1).is_none());
    assert_eq!(world.node(2).state().get(b"key"), None, "nobody is left whom it would tell anything");
}

#[test]
fn requests_that_waited_for_a_leader_and_were_served_count_no_more() {
    let mut world = World::founded(3);
    // Reads whose leader dies before it tells an index are asked again, and so are parked writes.
    for node in 1..3 {
        world.ask(node, node as u64, get("key"));
        world.turn(node);
    }
    world.network.queue.clear();
    world.kill(0);
    for node in 1..3 {
        world.ask(node, 10 + node as u64, put(1, "key", "value"));
    }
    world.pass(60);
    for id in [1, 2, 11, 12] {
        assert!(world.answer(id).is_some(), "request {id}");
    }
    for node in 1..3 {
        for name in
            ["waiting_writes", "waiting_reads", "waiting_read_bytes", "parked_requests", "parked_bytes"]
        {
            assert_eq!(world.used(node, name), 0, "{name} of node {}", node + 1);
        }
    }
}

#[test]
fn writes_in_whose_place_a_new_leader_puts_others_are_told_before_those_are_committed() {
    let mut world = World::founded(3);
    world.cut_off.insert(0);
    for id in 1..=3 {
        world.ask(0, id, put(id, "key", "value"));
    }
    world.turn(0);
    let log = world.node(0).raft().log();
    let (last, stamp) = (log.last_index(), log.last_stamp());
    let prev_log_index = LogIndex(last.0 - 3);
    let others = (1..=3).map(|ahead| {
        let payload = Payload::NoOp { leader: NodeId(2) };
        Entry::new(prev_log_index.plus(ahead), Term(2), stamp, payload)
    });
    let append = AppendEntries {
        term: Term(2),
        prev_log_index,
        prev_log_term: Term(1),
        entries: others.collect(),
        leader_commit: prev_log_index,
    };
    let now = world.now;
    world.node(0).on_message(now, NodeId(2), Message::AppendEntries(append));
    world.turn(0);
    assert!((1..=3).all(|id| world.is_refused(id, &Refused::LeadershipLost)));
    assert_eq!(world.used(0, "waiting_writes"), 0);
}

#[test]
fn write_under_the_number_of_another_that_is_under_way_is_refused() {
    let mut world = World::founded(3);
    world.ask(0, 1, put(1, "key", "value"));
    world.ask(0, 2, put(1, "key", "another value"));
    world.settle();
    assert_eq!(world.answer(1).unwrap().1.body, written(false));
    assert!(world.is_refused(2, &Refused::SequenceReused));
}

#[test]
fn write_that_an_elected_leader_finds_in_its_log_is_not_appended_again() {
    let mut world = World::founded(3);
    world.ask(0, 1, library_put(1, "key", "value"));
    world.turn(0);
    world.deliver_all();
    for node in 1..3 {
        world.turn(node);
    }
    world.network.queue.clear(); // acknowledgements: nobody knows it for committed
    world.kill(0);
    for node in 1..3 {
        world.ask(node, 10 + node as u64, library_put(1, "key", "value"));
    }
    world.pass(60);
    let leader = world.leader().expect("a survivor leads");
    assert_eq!(world.answer(10 + leader as u64).unwrap().1.body, written(false));
    // The founding, the first no-op, the write, the second no-op.
    assert_eq!(world.node(leader).raft().log().last_index(), LogIndex(4));
}

/// A leader that was deposed and does not know it, while its successor closed the session of `put`.
fn deposed_leader_of_a_closed_name(world: &mut World) {
    world.cut_off.insert(0);
    let now = world.now;
    for survivor in [1, 2] {
        world.node(survivor).on_link_down(now, NodeId(1));
        world.node(survivor).on_peer_dead(now, NodeId(1));
    }
    world.pass(30);
    let led_by = |world: &mut World, node: usize| world.node(node).leader() == Some(NodeId(node as u64 + 1));
    let successor = [1, 2].into_iter().find(|node| led_by(world, *node)).expect("a survivor leads");
    let operation = Operation::CloseSession { client: ClientId::Named(ClientName::new(b"test").unwrap()) };
    let client = ClientId::Named(ClientName::new(b"closer").unwrap());
    let close = Write { client, sequence: Sequence(1), acknowledged: Sequence(0), operation };
    world.ask(successor, 90, RequestBody::Write(close));
    world.settle();
    assert_eq!(world.answer(90).unwrap().1.body, written(false));
    assert!(led_by(world, 0), "it does not know yet");
}

#[test]
fn result_of_a_name_that_was_closed_meanwhile_is_not_given_by_a_leader_that_was_deposed() {
    let mut world = World::founded(3);
    world.ask(0, 1, put(1, "key", "value"));
    world.settle();
    deposed_leader_of_a_closed_name(&mut world);
    // The name is used anew, and this is another write, though it looks like the first one.
    world.ask(0, 2, put(1, "key", "value"));
    world.settle();
    assert!(world.answer(2).is_none(), "it must make sure first that it leads");
    world.cut_off.clear();
    world.pass(100);
    let refused = world.answer(2).expect("its successor is known").1.body;
    assert!(matches!(refused, ResponseBody::Refused(Refused::NotLeader { .. })), "{refused:?}");
}

#[test]
fn write_of_a_name_waits_for_no_entry_that_may_stand_before_the_end_of_the_name() {
    let mut world = World::founded(3);
    world.ask(0, 1, put(1, "key", "value"));
    world.turn(0);
    world.deliver_all();
    for node in 1..3 {
        world.turn(node);
    }
    world.network.queue.clear(); // acknowledgements: the leader does not know it for committed
    deposed_leader_of_a_closed_name(&mut world);
    world.ask(0, 2, put(1, "key", "value"));
    world.settle();
    world.cut_off.clear();
    world.pass(100);
    assert_eq!(world.answer(1).unwrap().1.body, written(false), "it was applied, before the end");
    assert!(world.is_refused(2, &Refused::LeadershipLost));
}

#[test]
fn node_that_leaves_waits_for_what_becomes_of_its_writes_when_it_leads_no_more() {
    let mut world = World::founded(3);
    world.cut_off.insert(0);
    world.ask(0, 1, put(1, "key", "value"));
    world.turn(0);
    let now = world.now;
    world.node(0).begin_hand_over(now);
    world.node(0).on_message(now, NodeId(2), heartbeat(2));
    world.turn(0);
    assert_eq!(world.node(0).leader(), Some(NodeId(2)));
    assert!(!world.node(0).may_exit(now), "the write may yet be applied, and its client waits");
    let at_last = world.node(0).exit_at().expect("it is leaving");
    assert!(world.node(0).may_exit(at_last));
}

#[test]
fn log_that_stays_full_but_moves_on_keeps_clients_waiting_and_tells_them_nothing() {
    let mut world = World::founded(3);
    world.cut_off.insert(0);
    let large = "x".repeat(1 << 20);
    let mut id = 0;
    let mut ask_until_full = |world: &mut World| {
        while world.node(0).raft().log().uncommitted_bytes() < 16 << 20 {
            id += 1;
            world.ask(0, id, put(id, "key", &large));
        }
    };
    ask_until_full(&mut world);
    world.turn(0);
    let first = world.now;
    for _ in 0..3 {
        let now = world.now;
        assert!(!world.node(0).takes_requests(now), "there will be room in a moment");
        let now = now + Duration::from_millis(70);
        world.now = now;
        let match_index = world.node(0).raft().log().committed().next();
        let ack = AppendEntriesResponse { term: Term(1), result: AppendResult::Match { match_index } };
        world.node(0).on_message(now, NodeId(2), Message::AppendEntriesResponse(ack));
        ask_until_full(&mut world);
        world.turn(0);
    }
    let now = world.now;
    assert!(now.since(first) > Duration::from_millis(150) && !world.node(0).takes_requests(now));
    assert!(world.node(0).takes_requests(now + Duration::from_millis(150)), "now nothing moves");
}

#[test]
fn clock_of_a_leader_that_lost_its_majority_stands_still() {
    let mut world = World::founded(3);
    world.ask(0, 1, put(1, "key", "value"));
    world.pass(50);
    world.cut_off.insert(0);
    world.pass(600);
    assert_eq!(world.node(0).leader(), None);
    let (now, applied) = (world.now, world.node(0).state().cluster_time());
    assert_eq!(world.node(0).welcome(now).cluster_time, applied, "ids made by it would be of the future");
}

#[test]
fn welcome_tells_the_revision_that_is_applied_and_not_what_is_only_in_the_log() {
    let mut world = World::founded(3);
    world.pass(50);
    world.cut_off.insert(0);
    world.ask(0, 1, put(1, "key", "value"));
    world.turn(0);
    let now = world.now;
    assert!(world.node(0).raft().log().last_index() > world.node(0).raft().log().applied());
    let revision = world.node(0).welcome(now).revision;
    assert_eq!(revision, world.node(0).state().revision());
}

#[test]
fn damage_to_the_last_write_of_a_process_that_died_is_known_for_damage() {
    let mut world = World::founded(1);
    world.ask(0, 1, put(1, "key", "value"));
    world.settle();
    world.kill(0);
    let path = world.directory.path().join("0");
    let options = storage::Options { segment_bytes: 64 << 10, ..storage::Options::default() };
    let inspection = storage::inspect(&mut FileDisk::open(&path).unwrap(), options);
    let segment = inspection.segments.last().unwrap().as_ref().unwrap();
    let file = path.join(&segment.name);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[segment.used_bytes as usize - 1] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let opened = Storage::open(FileDisk::open(&path).unwrap(), NodeId(1), options, Incarnation(1));
    assert!(matches!(opened, Err(storage::OpenError::Damaged { .. })), "an acknowledged write was dropped");
}

#[test]
fn idle_leader_proposes_expiry_every_quarter_of_a_lifetime() {
    let mut world = World::founded(1);
    world.ask(0, 1, put(1, "key", "value"));
    world.settle();
    for _ in 0..3 {
        let before = world.node(0).raft().log().last_index();
        world.now += Duration::from_secs(149);
        world.settle();
        assert_eq!(world.node(0).raft().log().last_index(), before);
        world.now += Duration::from_secs(2);
        world.settle();
        assert_eq!(world.node(0).raft().log().last_index(), before.next());
    }
}

#[test]
fn sessions_that_end_together_are_expired_as_fast_as_the_log_takes_it() {
    let mut world = World::founded(1);
    let now = world.now;
    let born = world.node(0).welcome(now).cluster_time;
    for nonce in 1..=2_500 {
        let operation = Operation::Delete { key: Bytes::from_static(b"none") };
        let (client, sequence) = (ClientId::Library { born, nonce }, Sequence(1));
        let write = Write { client, sequence, acknowledged: Sequence(1), operation };
        world.ask(0, nonce, RequestBody::Write(write));
    }
    world.settle();
    assert_eq!(world.node(0).state().session_count(), 2_500);
    world.now += Duration::from_secs(601);
    world.pass(5);
    assert_eq!(world.node(0).state().session_count(), 0, "a thousand an entry, and nothing waits between");
}

#[test]
fn leader_whose_log_goes_on_proposes_no_expiry() {
    let mut world = World::founded(1);
    for id in 1..=4 {
        world.ask(0, id, put(id, "key", "value"));
        world.settle();
        // The founding, the no-op, and the writes.
        assert_eq!(world.node(0).raft().log().last_index(), LogIndex(2 + id));
        world.now += Duration::from_secs(100);
        world.settle();
    }
}

#[test]
fn expiry_that_is_on_its_way_is_not_proposed_again() {
    let mut world = World::founded(3);
    world.ask(0, 1, put(1, "key", "value"));
    world.settle();
    world.cut_off.insert(0);
    let before = world.node(0).raft().log().last_index();
    world.now += Duration::from_secs(151);
    for _ in 0..10 {
        // Somebody follows it, and has no disk for more.
        let ack =
            AppendEntriesResponse { term: Term(1), result: AppendResult::Match { match_index: before } };
        let now = world.now;
        world.node(0).on_message(now, NodeId(2), Message::AppendEntriesResponse(ack));
        world.turn(0);
        world.now += Duration::from_millis(10);
    }
    assert_eq!(world.node(0).leader(), Some(NodeId(1)));
    assert_eq!(world.node(0).raft().log().last_index(), before.next());
}

#[test]
fn node_that_leaves_waits_for_the_answers_to_requests_that_wait_for_a_leader() {
    let mut world = World::last_of_three();
    world.ask(2, 1, put(1, "key", "value"));
    world.turn(2);
    let now = world.now;
    world.node(2).begin_hand_over(now);
    assert!(!world.node(2).may_exit(now));
    world.pass(151);
    assert!(world.is_refused(1, &Refused::NoLeader));
    let now = world.now;
    assert!(world.node(2).may_exit(now));
}

#[test]
fn follower_whose_log_is_full_reads_its_clients_all_the_same() {
    let mut world = World::founded(3);
    world.cut_off.insert(0);
    let large = "x".repeat(1 << 20);
    (1..=17).for_each(|id| world.ask(0, id, put(id, "key", &large)));
    world.turn(0);
    let log = world.node(0).raft().log();
    let (committed, last) = (log.committed(), log.last_index());
    let entries = (committed.0 + 1..=last.0).map(|index| log.entry(LogIndex(index)).unwrap().clone());
    let append = AppendEntries {
        term: Term(1),
        prev_log_index: committed,
        prev_log_term: Term(1),
        entries: entries.collect(),
        leader_commit: committed,
    };
    let now = world.now;
    assert!(!world.node(0).takes_requests(now), "it leads, and cannot take more");
    world.node(1).on_message(now, NodeId(1), Message::AppendEntries(append));
    world.turn(1);
    assert!(world.node(1).raft().log().uncommitted_bytes() >= 16 << 20);
    assert!(world.node(1).takes_requests(now), "stale reads, and who asks for the leader, wait for no disk");
}

#[test]
fn request_whose_client_gives_up_at_once_is_not_parked() {
    let mut world = World::last_of_three();
    world.ask_within(2, 1, 0, None);
    world.turn(2);
    assert!(world.is_refused(1, &Refused::NoLeader));
}

#[test]
fn parked_requests_are_bounded_in_number_too() {
    let mut world = World::last_of_three();
    for id in 1..=4_097 {
        world.ask(2, id, put(id, "key", "value"));
    }
    world.turn(2);
    let refused = world.answer(4_097).expect("one too many is answered").1.body;
    assert!(matches!(refused, ResponseBody::Refused(Refused::Busy(_))), "{refused:?}");
    assert_eq!(world.used(2, "parked_requests"), 4_096);
    world.pass(151);
    assert!(
        (1..=4_096).all(|id| world.is_refused(id, &Refused::NoLeader)),
        "the others waited as long as ever"
    );
}

#[test]
fn request_in_the_place_of_one_that_left_waits_its_own_time() {
    let mut world = World::last_of_three();
    world.ask(2, 1, put(1, "key", "value"));
    world.pass(100);
    let now = world.now;
    world.node(2).on_client_gone(CLIENT);
    let request = Request { id: 2, time_left_ms: 5_000, silent_leader: None, body: put(2, "key", "value") };
    world.node(2).on_request(now, ClientConnection(2), request);
    world.pass(149);
    assert!(world.answer(2).is_none(), "the timer of the one before is not its own");
    world.pass(2);
    assert!(world.is_refused(2, &Refused::NoLeader));
    assert!(world.answer(1).is_none());
}

#[test]
fn read_that_waits_for_its_index_dies_with_its_connection() {
    let mut world = World::founded(3);
    world.ask(1, 1, get("key"));
    world.turn(1);
    world.network.queue.clear();
    world.ask(1, 2, get("key"));
    world.node(1).on_client_gone(CLIENT);
    world.turn(1);
    assert_eq!(world.used(1, "waiting_reads"), 0, "neither those of this turn nor those asked for");
    world.kill(0);
    world.turn(1);
    assert_eq!(world.used(1, "parked_requests"), 0);
    world.pass(60);
    assert!(world.answer(1).is_none() && world.answer(2).is_none());
}

#[test]
fn reads_confirmed_together_are_answered_over_several_turns() {
    let mut world = World::founded(1);
    (0..10_000).for_each(|id| world.ask(0, id, get("key")));
    world.turn(0);
    let answered = world.network.answers.len();
    assert!((4_096..10_000).contains(&answered), "{answered} in one turn");
    world.settle();
    let ids: BTreeSet<u64> = world.network.answers.iter().map(|(_, answer)| answer.id).collect();
    assert_eq!((ids.len(), world.network.answers.len()), (10_000, 10_000));
}

#[test]
fn bounds_of_connections_are_looked_up_once_for_all_who_ask_in_a_turn() {
    let mut world = World::founded(1);
    let before = world.network.looked_up.get();
    (0..1_000).for_each(|id| world.ask(0, id, RequestBody::Status));
    world.turn(0);
    assert_eq!(world.network.looked_up.get() - before, 1);
    for (_, answer) in &world.network.answers {
        let ResponseBody::Status(status) = &answer.body else { panic!("{answer:?}") };
        assert!(status.bounds.iter().any(|bound| bound.name == "of_the_network"));
    }
    assert_eq!(world.network.answers.len(), 1_000);
}

#[test]
fn transfer_that_waits_dies_with_its_connection() {
    let mut world = World::founded(3);
    world.cut_off.insert(0);
    world.ask(0, 1, RequestBody::Transfer { to: NodeId(2) });
    world.node(0).on_client_gone(CLIENT);
    world.pass(300);
    world.cut_off.clear();
    world.pass(300);
    assert!(world.node(0).leader().is_some());
    assert!(world.answer(1).is_none());
}

#[test]
fn read_whose_time_is_over_is_served_if_there_is_a_leader() {
    let mut world = World::founded(3);
    world.ask(1, 1, get("key"));
    world.turn(1);
    world.network.queue.clear();
    world.now += Duration::from_millis(160);
    let now = world.now;
    world.node(1).on_message(now, NodeId(3), heartbeat(2));
    world.turn(1);
    world.turn(1);
    assert!(world.answer(1).is_none(), "nobody says that there is no leader");
    let asked = world.network.queue.iter().find(|(_, _, message)| matches!(message, Message::ReadIndex(_)));
    assert_eq!(asked.map(|(_, to, _)| *to), Some(NodeId(3)));
}

#[test]
fn request_that_names_the_present_leader_silent_in_an_earlier_term_is_parked() {
    let mut world = World::founded(3);
    let now = world.now;
    world.node(1).on_message(now, NodeId(3), heartbeat(2));
    world.ask_within(1, 1, 5_000, Some(SilentLeader { id: NodeId(3), term: Term(1) }));
    world.turn(1);
    assert!(
        world.answer(1).is_none(),
        "that it leads a later term by now is no reason to send anybody there"
    );
    world.ask_within(1, 2, 5_000, Some(SilentLeader { id: NodeId(1), term: Term(1) }));
    world.turn(1);
    let referred = world.answer(2).expect("node 3 is news").1.body;
    assert!(matches!(referred, ResponseBody::Refused(Refused::NotLeader { .. })), "{referred:?}");
    world.pass(151);
    assert!(world.is_refused(1, &Refused::NoLeader));
}
