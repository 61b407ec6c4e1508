//! Hand-overs that fail, or whose end nobody knows.

use kvstore::wire::peer::{PreVoteResponse, RequestVoteResponse};

use super::*;

/// Node 3 of three, asked to take over, has read the order and asked whether it holds. Its answer
/// waits at node 1 to be sent.
fn with_an_order_confirmed() -> World {
    let mut world = World::founded(3);
    world.ask(0, 1, RequestBody::Transfer { to: NodeId(3) });
    world.turn(0);
    world.deliver_all();
    world.turn(2);
    world.deliver_all();
    assert!(world.node(0).raft().has_confirmed_order(NodeId(3)));
    world
}

fn refusal(world: &mut World, id: u64) -> Option<Refused> {
    match world.answer(id)?.1.body {
        ResponseBody::Refused(refused) => Some(refused),
        body => panic!("{body:?} is no refusal"),
    }
}

#[test]
fn transfer_to_a_node_that_never_reads_the_order_has_failed_for_certain() {
    let mut world = World::founded(3);
    world.cut_off.insert(2);
    world.ask(0, 1, RequestBody::Transfer { to: NodeId(3) });
    world.pass(249);
    assert_eq!(refusal(&mut world, 1), None);
    world.pass(2);
    let refused = refusal(&mut world, 1);
    assert!(matches!(refused, Some(Refused::TransferFailed(_))), "{refused:?}");
}

#[test]
fn transfer_whose_order_was_confirmed_is_not_called_failed() {
    let mut world = with_an_order_confirmed();
    world.turn(0);
    world.cut_off.insert(2);
    world.pass(249);
    assert_eq!(refusal(&mut world, 1), None, "the target may be writing its vote");
    world.pass(2);
    assert_eq!(refusal(&mut world, 1), Some(Refused::LeadershipLost), "it may win yet");
}

#[test]
fn transfer_whose_target_is_lost_with_a_confirmed_order_is_not_called_failed() {
    let mut world = with_an_order_confirmed();
    let now = world.now;
    world.node(0).on_link_down(now, NodeId(3));
    world.turn(0);
    assert_eq!(refusal(&mut world, 1), Some(Refused::LeadershipLost));
}

#[test]
fn transfer_after_which_a_third_leads_is_not_called_failed() {
    let mut world = with_an_order_confirmed();
    world.cut_off.insert(2);
    let now = world.now;
    world.node(0).on_message(now, NodeId(2), heartbeat(7));
    world.turn(0);
    assert_eq!(refusal(&mut world, 1), Some(Refused::LeadershipLost), "the target may have led between");
}

#[test]
fn hand_over_of_a_leaving_leader_prefers_who_was_heard_last() {
    let mut world = World::founded(3);
    world.cut_off.insert(1);
    world.pass(65);
    let now = world.now;
    world.node(0).begin_hand_over(now);
    assert_eq!(world.node(0).raft().transferring_to(), Some(NodeId(3)), "node 2 is silent");
}

#[test]
fn hand_over_of_a_leaving_leader_to_a_node_that_was_just_stopped_goes_to_another_in_time() {
    let mut world = World::founded(3);
    world.pass(5);
    world.cut_off.insert(1);
    let (now, exit_at) = (world.now, world.now + Duration::from_millis(250));
    world.node(0).begin_hand_over(now);
    assert_eq!(world.node(0).raft().transferring_to(), Some(NodeId(2)));
    world.pass(70);
    assert_eq!(world.leader(), Some(2), "after two heartbeats it is the other one's turn");
    let now = world.now;
    assert!(now < exit_at && world.node(0).may_exit(now));
}

#[test]
fn hand_over_of_a_leaving_leader_waits_for_links_that_are_being_reset() {
    let mut world = World::founded(3);
    let now = world.now;
    for peer in [NodeId(2), NodeId(3)] {
        world.node(0).on_link_down(now, peer);
    }
    world.node(0).begin_hand_over(now);
    world.turn(0);
    assert!(!world.node(0).may_exit(now), "others live, and may be linked again at once");
    world.pass(10);
    world.link(0, 2);
    world.pass(10);
    assert_eq!(world.leader(), Some(2));
    let now = world.now;
    assert!(world.node(0).may_exit(now));
}

#[test]
fn hand_over_of_a_leaving_leader_without_links_ends_after_an_election_timeout() {
    let mut world = World::founded(3);
    let now = world.now;
    for peer in [NodeId(2), NodeId(3)] {
        world.node(0).on_link_down(now, peer);
    }
    world.node(0).begin_hand_over(now);
    assert!(!world.node(0).may_exit(now + Duration::from_millis(249)));
    assert!(world.node(0).may_exit(now + Duration::from_millis(250)));
}

#[test]
fn hand_over_of_a_cluster_of_one_is_over_at_once() {
    let mut world = World::founded(1);
    let now = world.now;
    world.node(0).begin_hand_over(now);
    assert!(world.node(0).may_exit(now));
}

#[test]
fn write_that_came_during_a_hand_over_that_failed_is_served_when_it_ends() {
    let mut world = World::founded(3);
    world.cut_off.insert(2);
    world.ask(0, 1, RequestBody::Transfer { to: NodeId(3) });
    world.pass(200);
    world.ask(0, 2, put(1, "key", "value"));
    world.pass(49);
    assert!(world.answer(2).is_none(), "it waits for whoever will lead");
    world.pass(5);
    assert_eq!(world.answer(2).map(|(_, response)| response.body), Some(written(false)));
}

#[test]
fn transfer_after_which_its_leader_leads_a_later_term_is_not_called_failed() {
    let mut world = World::founded(3);
    world.ask(0, 1, RequestBody::Transfer { to: NodeId(3) });
    world.turn(0);
    world.network.queue.clear(); // whatever node 3 does, it is heard by nobody
    world.cut_off.extend([0, 1, 2]);
    let now = world.now;
    let vote = |vote_granted, term| Message::RequestVoteResponse(RequestVoteResponse { term, vote_granted });
    world.node(0).on_message(now, NodeId(2), vote(false, Term(7)));
    world.turn(0);
    assert_eq!(refusal(&mut world, 1), None, "node 3 may lead by now");
    world.now += Duration::from_millis(260);
    world.turn(0);
    let asked = world.sent_by(0).into_iter().find_map(|message| match message {
        Message::PreVote(pre_vote) => Some(pre_vote),
        _ => None,
    });
    let pre_vote = asked.expect("nobody leads");
    let (term, round) = (pre_vote.term, pre_vote.round);
    let now = world.now;
    let answer = PreVoteResponse { term, round, vote_granted: true };
    world.node(0).on_message(now, NodeId(2), Message::PreVoteResponse(answer));
    world.turn(0);
    world.node(0).on_message(now, NodeId(2), vote(true, term));
    world.turn(0);
    assert_eq!(world.node(0).leader(), Some(NodeId(1)));
    assert_eq!(refusal(&mut world, 1), Some(Refused::LeadershipLost), "node 3 may have led between");
}
