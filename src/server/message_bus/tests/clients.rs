//! Clients: welcomed, served, refused, and bounded.

use super::*;

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
fn refusal_reaches_whoever_has_closed_his_half_already() {
    let mut world = World::founded(1);
    let (mut client, _) = world.welcomed(1);
    client.receive();
    for client in [&mut world.client(1), &mut client] {
        client.send(FrameKind::Welcome, |_| {});
        client.socket.close_half();
        world.settle();
        assert_eq!(client.refusal(), RefusalReason::Malformed);
    }
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
fn client_that_reads_its_answers_slowly_but_reads_them_is_not_closed() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    world.node(1).bus.reply(name, &response(1, CLIENT_SOFT_BYTES));
    world.node(1).bus.flush();
    for _ in 0..8 {
        world.pass(4_000);
        client.socket.read(&mut [0; 100_000]).unwrap();
    }
    assert_eq!(world.inbound(1), [], "32 s, and 10 s without a byte would have been too long");
}

#[test]
fn client_that_is_never_done_with_a_frame_but_sends_many_is_not_closed() {
    let mut world = World::founded(1);
    let (mut client, _) = world.welcomed(1);
    let mut out = Writer::new();
    frame::encode(FrameKind::Request, &mut out, |out| request(1).encode(out));
    let bytes = out.into_bytes();
    client.send_bytes(&bytes[..20]);
    for _ in 0..8 {
        world.pass(4_000);
        client.send_bytes(&bytes[20..]);
        client.send_bytes(&bytes[..20]);
    }
    let inbound = world.inbound(1);
    assert!(inbound.iter().all(|inbound| matches!(inbound, Inbound::Request(..))), "{inbound:?}");
}

#[test]
fn client_that_waits_for_an_answer_is_not_idle() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    client.send_get(1);
    world.pass(1);
    world.inbound(1).clear();
    for _ in 0..3 {
        world.now += Duration::from_secs(601);
        world.pass(1);
    }
    assert_eq!(world.inbound(1), []);
    world.node(1).bus.reply(name, &response(1, 1));
    world.now += Duration::from_secs(1_200);
    world.pass(1);
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
    client.send_get(0); // what is left is no whole number of turns' shares
    world.settle();
    (1..1_500).for_each(|id| client.send_get(id));
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
fn answer_to_a_write_for_which_there_is_no_room_is_no_refusal_but_the_end() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    // Two fill the output, then this many what may be withheld, to the last byte.
    let most = (1 << 20) + 64;
    let (whole, rest) = (CLIENT_WITHHELD_BYTES / most, CLIENT_WITHHELD_BYTES % most);
    let sizes = [1 << 20; 2].into_iter().chain(std::iter::repeat_n(1 << 20, whole)).chain([rest - 64]);
    for (id, bytes) in sizes.enumerate() {
        world.node(1).bus.reply(name, &response(id as u64, bytes));
    }
    world.settle();
    assert_eq!(world.inbound(1), [], "all of it may wait");
    world.node(1).bus.reply(name, &response(198, 1));
    world.settle();
    assert_eq!(world.inbound(1), [], "a read may be asked again");
    let body = ResponseBody::Written { outcome: Outcome::Done, cached: false };
    world.node(1).bus.reply(name, &Response { id: 199, revision: Revision(2), body });
    world.settle();
    assert_eq!(world.inbound(1), [Inbound::ClientGone(name)], "what was done is never called refused");
    let answers = client.receive().into_iter().map(|frame| Response::decode(frame.payload).unwrap());
    assert!(answers.into_iter().all(|answer| matches!(answer.body, ResponseBody::Value(_))));
}

#[test]
fn flush_writes_no_more_to_clients_than_its_share_and_the_rest_in_their_order() {
    const ANSWER_BYTES: usize = 200 << 10;
    let mut world = World::founded(2);
    world.node(1).bus.admission = Admission::new(Limits { clients: 50, ..LIMITS });
    let mut clients: Vec<(TestClient, ClientConnection)> = (0..50).map(|_| world.welcomed(1)).collect();
    for (id, (client, name)) in clients.iter_mut().enumerate() {
        client.receive();
        world.node(1).bus.reply(*name, &response(id as u64, ANSWER_BYTES));
    }
    world.node(1).bus.send(NodeId(2), &heartbeat(7));
    let mut answered = Vec::new();
    for flush in 0..3 {
        assert!(world.node(1).bus.has_work());
        world.node(1).bus.flush();
        let before = answered.len();
        for (client, _) in &mut clients {
            let frames = client.receive().into_iter();
            answered.extend(frames.map(|frame| Response::decode(frame.payload).unwrap().id));
        }
        let share = (4 << 20) / ANSWER_BYTES;
        assert!(flush == 2 || (answered.len() - before).abs_diff(share) <= 1, "{answered:?}");
    }
    assert!(answered.into_iter().eq(0..50));
    assert!(!world.node(1).bus.has_work());
    let turn_of_the_other = 1;
    world.turn_of(turn_of_the_other);
    assert_eq!(world.inbound(2), [Inbound::Message(NodeId(1), heartbeat(7))], "nodes wait for no client");
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
    frame::encode(FrameKind::Request, &mut out, |out| request(1).encode(out));
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
fn frame_that_comes_byte_by_byte_counts_from_its_first() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    let id = ConnectionId::from_u64(name.0);
    let partial = |world: &mut World| world.node(1).bus.connections.get(id).unwrap().1.partial;
    client.send_bytes(b"KV\x01");
    world.settle();
    let began = world.now;
    assert_eq!(partial(&mut world), Some((began, 3)));
    world.pass(50);
    client.send_bytes(b"\x06");
    world.settle();
    assert_eq!(partial(&mut world), Some((began, 4)), "who takes longest is known by this");
    let mut out = Writer::new();
    frame::encode(FrameKind::Request, &mut out, |out| request(1).encode(out));
    let rest = out.into_bytes().split_off(4);
    world.pass(50);
    client.send_bytes(&rest);
    client.send_bytes(b"KV");
    world.settle();
    assert_eq!(partial(&mut world), Some((world.now, 2)), "the next frame has its own time");
}

#[test]
fn answers_withheld_for_a_client_that_goes_hold_on_to_nothing_any_more() {
    let mut world = World::founded(1);
    let (client, name) = world.welcomed(1);
    for id in 0..10 {
        world.node(1).bus.reply(name, &response(id, 1 << 20));
    }
    let withheld = |world: &mut World| {
        let bounds = world.node(1).bus.all_bounds();
        bounds.iter().find(|bound| bound.name == "all_clients_withheld_bytes").unwrap().used
    };
    assert!(withheld(&mut world) > 0);
    drop(client);
    world.settle();
    assert_eq!(withheld(&mut world), 0);
}

#[test]
fn link_may_have_more_waiting_than_a_client() {
    let mut world = World::founded(2);
    let link = world.node(1).bus.peers.link(NodeId(2)).unwrap();
    world.node(1).bus.queue(link, FrameKind::Message, |out| out.put(&vec![0; LIMITS.client_output_bytes]));
    assert_eq!(world.node(1).bus.link(NodeId(2)), Some(link));
    world.node(1).bus.queue(link, FrameKind::Message, |out| out.put(&vec![0; LIMITS.peer_output_bytes]));
    assert_ne!(world.node(1).bus.link(NodeId(2)), Some(link), "but not without bound");
}

#[test]
fn client_whose_frame_takes_longest_makes_room_where_memory_is_short() {
    let mut world = World::founded(1);
    let (mut slow, slow_name) = world.welcomed(1);
    let (mut quick, _) = world.welcomed(1);
    slow.send_bytes(b"KV");
    world.pass(1);
    quick.send_bytes(b"K");
    world.settle();
    // Clients that are not played here have sent the rest.
    world.node(1).bus.queues.partial_bytes = ALL_CLIENTS_INPUT_BYTES;
    world.settle();
    assert_eq!(world.inbound(1), [], "as much as may be");
    quick.send_bytes(b"V");
    world.settle();
    assert_eq!(world.inbound(1), [Inbound::ClientGone(slow_name)]);
}

#[test]
fn client_that_has_introduced_itself_makes_room_for_nobody() {
    let mut world = World::founded(2);
    let (mut first, _) = world.welcomed(1);
    let (mut second, _) = world.welcomed(1);
    let _silent: Vec<TestClient> = (0..10).map(|_| world.client(1)).collect();
    world.settle();
    assert_eq!(world.inbound(1), [], "neither clients nor the link to node 2 are lost");
    for client in [&mut first, &mut second] {
        client.receive();
        assert!(!client.is_closed);
    }
}

#[test]
fn answers_withheld_for_all_clients_together_are_bounded_too() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    // Answers to clients that are not played here hold on to the rest.
    let others = ALL_CLIENTS_WITHHELD_BYTES - response(0, 1 << 20).body.payload_bytes();
    world.node(1).bus.queues.withheld_bytes = others;
    for id in 0..3 {
        world.node(1).bus.reply(name, &response(id, 1 << 20));
    }
    let mut answers = Vec::new();
    while answers.len() < 3 {
        world.settle();
        answers.extend(client.receive().into_iter().map(|frame| Response::decode(frame.payload).unwrap()));
    }
    let is_busy = |answer: &Response| matches!(answer.body, ResponseBody::Refused(Refused::Busy(_)));
    let busy: Vec<bool> = answers.iter().map(is_busy).collect();
    assert_eq!(busy, [false, false, true], "one is on its way, one just fits, and one does not");
    assert_eq!(world.node(1).bus.queues.withheld_bytes, others);
}

#[test]
fn client_that_goes_while_it_is_not_read_is_gone_at_once_and_leaves_nothing_behind() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    world.node(1).bus.reply(name, &response(1, CLIENT_SOFT_BYTES + (300 << 10)));
    client.send_get(2);
    world.settle();
    assert_eq!(world.inbound(1), [], "its answers wait, so it is not read");
    assert_eq!(world.node(1).bus.queues.backlog.len(), 1);
    drop(client);
    world.settle();
    assert_eq!(world.inbound(1), [Inbound::ClientGone(name)]);
    assert!(world.node(1).bus.queues.backlog.is_empty());
}

#[test]
fn client_that_goes_while_it_waits_for_too_many_answers_is_gone_at_once() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    (0..1_100).for_each(|id| client.send_get(id));
    world.pass(20);
    assert_eq!(world.inbound(1).len(), 1_024);
    world.network.reset(world.network.pipes() - 1);
    world.settle();
    assert_eq!(world.inbound(1), [Inbound::ClientGone(name)], "though 76 of its requests were never read");
}

#[test]
fn answer_does_not_overtake_those_that_are_withheld() {
    let mut world = World::founded(1);
    let (mut client, name) = world.welcomed(1);
    for id in 0..2 {
        world.node(1).bus.reply(name, &response(id, 1 << 20));
    }
    let queued = |world: &mut World| {
        let id = ConnectionId::from_u64(name.0);
        world.node(1).bus.connections.get(id).unwrap().0.queued_bytes()
    };
    let mut answers = Vec::new();
    while queued(&mut world) > CLIENT_SOFT_BYTES {
        world.settle();
        answers.extend(client.receive());
    }
    world.node(1).bus.reply(name, &response(2, 1));
    while answers.len() < 3 {
        world.settle();
        answers.extend(client.receive());
    }
    let ids = answers.into_iter().map(|frame| Response::decode(frame.payload).unwrap().id);
    assert!(ids.eq(0..3));
}
