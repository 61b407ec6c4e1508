//! Introductions that are not what they say.

use super::*;

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
fn introduction_as_the_node_itself_is_answered_once_and_not_listened_to() {
    let mut world = World::founded(1);
    let mut forger = world.client(1);
    for _ in 0..3 {
        forger.send(FrameKind::PeerHello, |out| hello_of(1, 1, 7).encode(out));
    }
    world.settle();
    let kinds: Vec<FrameKind> = forger.receive().iter().map(|frame| frame.kind).collect();
    assert_eq!(kinds, [FrameKind::PeerHello]);
    world.pass(1_001);
    forger.receive();
    assert!(forger.is_closed);
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
