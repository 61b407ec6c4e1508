//! Nodes that find each other, lose each other, and found a cluster.

use super::*;

#[test]
fn nodes_that_start_one_after_the_other_found_one_cluster_through_the_lowest_id() {
    let mut world = World::new();
    for id in [3, 1, 2] {
        world.start(id, 1, &[1, 2, 3], None);
        world.pass(300);
    }
    let founding = world.inbound(1).into_iter().find_map(|inbound| match inbound {
        Inbound::Found(configuration) => Some(configuration),
        _ => None,
    });
    let configuration = founding.expect("node 1 founds");
    assert_eq!(configuration.members(), [member(1), member(2), member(3)]);
    // What is sent before the founding is durable waits for it.
    world.node(1).bus.send(NodeId(2), &heartbeat(1));
    world.settle();
    assert!(!world.inbound(2).iter().any(|inbound| matches!(inbound, Inbound::Message(..))));
    world.node(1).bus.set_configuration(&configuration);
    world.settle();
    let told = Inbound::Message(NodeId(1), Message::Found(configuration));
    assert_eq!(world.inbound(2), [told.clone(), Inbound::Message(NodeId(1), heartbeat(1))]);
    assert!(world.inbound(3).contains(&told));
}

#[test]
fn node_that_was_told_and_does_not_know_is_told_again() {
    let mut world = World::new();
    world.start(1, 1, &[1, 2], Some(cluster_of(&[1, 2])));
    world.start(2, 1, &[1, 2], None);
    world.pass(1_000);
    let is_told = |inbound: &Inbound| matches!(inbound, Inbound::Message(_, Message::Found(_)));
    assert!(world.inbound(2).iter().filter(|inbound| is_told(inbound)).count() >= 3);
    world.node(2).bus.set_configuration(&cluster_of(&[1, 2]));
    world.settle();
    world.inbound(2);
    world.pass(1_000);
    assert_eq!(world.inbound(2), []);
}

#[test]
fn messages_to_who_must_be_told_first_are_bounded_and_dropped_where_a_snapshot_tells_it() {
    for by_snapshot in [false, true] {
        let mut world = World::new();
        world.start(1, 1, &[1, 2], None);
        world.start(2, 1, &[1, 2], None);
        world.pass(300);
        (0..100).for_each(|round| world.node(1).bus.send(NodeId(2), &heartbeat(round)));
        let held = |world: &mut World| {
            let bounds = world.node(1).bus.all_bounds();
            bounds.into_iter().find(|bound| bound.name == "messages_held_for_founding").unwrap()
        };
        let bound = held(&mut world);
        assert_eq!(bound.used, bound.cap);
        world.inbound(1);
        world.inbound(2);
        world.node(1).bus.set_told_by_snapshot(by_snapshot);
        world.node(1).bus.set_configuration(&cluster_of(&[1, 2]));
        world.settle();
        let told = world.inbound(2).len() as u64;
        match by_snapshot {
            true => assert!(told == 0 && world.inbound(1).contains(&Inbound::Newcomer(NodeId(2)))),
            false => assert_eq!(told, 1 + bound.cap, "the founding first, then what was held"),
        }
        assert_eq!(held(&mut world).used, 0);
    }
}

#[test]
fn each_pair_of_nodes_ends_with_one_connection() {
    let mut world = World::founded(3);
    for node in &world.nodes {
        assert_eq!(node.bus.connections.len(), 2, "node {}", node.id);
    }
    world.node(2).bus.send(NodeId(3), &heartbeat(7));
    world.node(2).bus.flush();
    world.settle();
    assert_eq!(world.inbound(3), [Inbound::Message(NodeId(2), heartbeat(7))]);
}

#[test]
fn peer_socket_takes_no_byte_and_the_others_heartbeat_leaves_in_the_same_flush() {
    let mut world = World::founded(3);
    let stuck = world.node(1).bus.peers.link(NodeId(2)).unwrap();
    let bytes = vec![7; 1 << 20];
    world.node(1).bus.queue(stuck, FrameKind::Message, |out| out.put(&bytes));
    world.node(1).bus.flush(); // fills its socket: nobody reads at node 2
    let unsent = |world: &mut World| {
        world.node(1).bus.connections.get(stuck).map(|(connection, _)| connection.queued_bytes())
    };
    let before = unsent(&mut world).expect("the link stands");
    assert!(before > 0);
    for round in 1..=3 {
        world.node(1).bus.send(NodeId(2), &heartbeat(round));
        world.node(1).bus.send(NodeId(3), &heartbeat(round));
        world.node(1).bus.flush();
        world.turn_of(2);
        assert_eq!(world.inbound(3), [Inbound::Message(NodeId(1), heartbeat(round))]);
    }
    assert!(unsent(&mut world) > Some(before), "it took nothing, and its link stands");
}

/// Lets the first bytes of a long frame of node 1 arrive at node 2, and looks whether it is waited for.
fn drip(world: &mut World, bytes: usize) -> bool {
    let link = world.node(2).bus.peers.link(NodeId(1)).unwrap();
    let mut frame = Writer::new();
    frame::encode(FrameKind::Message, &mut frame, |out| out.put(&[7; 1 << 20]));
    let come = world.node(2).bus.connections.get(link).unwrap().0.buffered_bytes();
    world.network.arrive(address(2), link, &frame.into_bytes()[come..come + bytes]);
    world.settle();
    world.node(2).bus.has_unread(NodeId(1))
}

#[test]
fn frame_that_goes_on_arriving_counts_as_unread_until_it_stops() {
    let mut world = World::founded(2);
    assert!(!world.node(2).bus.has_unread(NodeId(1)));
    for _ in 0..20 {
        assert!(drip(&mut world, 10_000));
        world.pass(29);
        assert!(world.node(2).bus.has_unread(NodeId(1)));
    }
    world.pass(1);
    assert!(!world.node(2).bus.has_unread(NodeId(1)), "nothing came for a heartbeat");
    assert!(drip(&mut world, 1));
    (0..world.network.pipes()).for_each(|pipe| world.network.reset(pipe));
    world.turn_of(1);
    assert!(!world.node(2).bus.has_unread(NodeId(1)), "its link is lost");
}

#[test]
fn frame_that_drips_counts_as_unread_for_a_while_only() {
    let mut world = World::founded(2);
    let began = world.now;
    while drip(&mut world, 1) {
        assert!(world.now.since(began) < Duration::from_secs(1), "for ever");
        world.pass(10);
    }
    assert!(world.now.since(began) >= Duration::from_millis(840), "a MiB at 10 Mbit/s may arrive");
}

#[test]
fn frame_that_follows_others_has_as_much_time_as_they_had() {
    let mut world = World::founded(2);
    let link = world.node(2).bus.peers.link(NodeId(1)).unwrap();
    let mut frame = Writer::new();
    frame::encode(FrameKind::Message, &mut frame, |out| heartbeat(1).encode(out));
    let frame = frame.into_bytes();
    for _ in 0..100 {
        // The rest of one frame, and the beginning of the next.
        let come = world.node(2).bus.connections.get(link).unwrap().0.buffered_bytes();
        world.network.arrive(address(2), link, &[&frame[come..], &frame[..7]].concat());
        world.pass(20);
        assert!(world.node(2).bus.has_unread(NodeId(1)));
    }
    assert_eq!(world.inbound(2).len(), 100);
}

#[test]
fn links_broken_at_random_moments_end_in_one_that_both_ends_agree_on() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        let mut boots = [0; 4];
        let mut start = |world: &mut World, id: usize| {
            boots[id] += 1;
            world.nodes.retain(|node| node.id != id as u64);
            world.start(id as u64, boots[id], &[1, 2, 3], Some(cluster_of(&[1, 2, 3])));
        };
        (1..=3).for_each(|id| start(&mut world, id));
        for _ in 0..30 {
            match rng.random_range(0..10) {
                0 if seed % 2 == 0 => start(&mut world, rng.random_range(1..=3)),
                1..5 => world.network.reset(rng.random_range(0..world.network.pipes())),
                5..8 => world.pass(rng.random_range(1..20)),
                _ => drop(world.turn_of(rng.random_range(0..3))),
            }
        }
        world.pass(5_000);
        let is_dead = |inbound: &Inbound| matches!(inbound, Inbound::PeerDead(_));
        let found_dead = world.nodes.iter().any(|node| node.inbound.iter().any(is_dead));
        assert!(seed % 2 == 0 || !found_dead, "seed {seed}: nobody died");
        for (from, to) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
            assert_eq!(world.node(from).bus.connections.len(), 2, "seed {seed}, node {from}");
            world.inbound(to);
            world.node(from).bus.send(NodeId(to), &heartbeat(7));
            world.node(from).bus.flush();
            world.settle();
            let expected = [Inbound::Message(NodeId(from), heartbeat(7))];
            assert_eq!(world.inbound(to), expected, "seed {seed}, {from} to {to}");
        }
    }
}

#[test]
fn founding_among_restarts_and_broken_links_ends_in_one_cluster() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        let mut boots = [0; 4];
        let mut durable: [Option<Configuration>; 4] = [None, None, None, None];
        let mut founded = BTreeSet::new();
        for step in 0..80 {
            let id = rng.random_range(1..=3_usize);
            match rng.random_range(0..10) {
                0..2 if step < 40 => {
                    boots[id] += 1;
                    world.nodes.retain(|node| node.id != id as u64);
                    world.start(id as u64, boots[id], &[1, 2, 3], durable[id].clone());
                }
                2..5 if step < 40 && world.network.pipes() > 0 => {
                    world.network.reset(rng.random_range(0..world.network.pipes()));
                }
                // A node may die before what it found or was told is durable.
                5..7 => {
                    for node in &mut world.nodes {
                        let told = node.inbound.drain(..).find_map(|inbound| match inbound {
                            Inbound::Found(configuration) => Some(configuration),
                            Inbound::Message(_, Message::Found(configuration)) => Some(configuration),
                            _ => None,
                        });
                        let durable = &mut durable[node.id as usize];
                        if let Some(configuration) = told.filter(|_| durable.is_none()) {
                            founded.insert(configuration.cluster);
                            node.bus.set_configuration(&configuration);
                            *durable = Some(configuration);
                        }
                    }
                }
                _ => world.pass(rng.random_range(1..300)),
            }
        }
        assert!(founded.len() <= 1, "seed {seed}: {founded:?}");
        if world.nodes.len() == 3 {
            assert!(durable[1..].iter().all(Option::is_some), "seed {seed}: {durable:?}");
        }
    }
}

#[test]
fn killed_node_is_found_dead_by_all_at_once() {
    let mut world = World::founded(3);
    world.kill(1);
    world.settle();
    for id in [2, 3] {
        let expected = [Inbound::LinkDown(NodeId(1)), Inbound::PeerDead(NodeId(1))];
        assert_eq!(world.inbound(id), expected, "node {id}");
    }
}

#[test]
fn dying_node_that_still_accepts_is_found_dead_once_it_refuses() {
    let mut world = World::founded(2);
    world.kill(1);
    world.network.begin_to_die(address(1));
    world.pass(20);
    assert_eq!(world.inbound(2), [Inbound::LinkDown(NodeId(1))]);
    world.network.stop_listening(address(1));
    world.pass(6);
    assert_eq!(world.inbound(2), [Inbound::PeerDead(NodeId(1))]);
}

#[test]
fn node_that_comes_back_with_a_later_boot_is_linked_again_and_its_death_is_known() {
    let mut world = World::founded(2);
    world.nodes.retain(|node| node.id != 1);
    world.start(1, 2, &[1, 2], Some(cluster_of(&[1, 2])));
    world.pass(10);
    let inbound = world.inbound(2);
    assert_eq!(inbound[..2], [Inbound::LinkDown(NodeId(1)), Inbound::PeerDead(NodeId(1))]);
    assert_eq!(inbound[2], Inbound::LinkUp(NodeId(1), BootNumber(2), address(1).to_string()));
}

#[test]
fn nodes_of_two_clusters_refuse_each_other_and_stay_apart() {
    let mut world = World::new();
    let other = Configuration::new(ClusterId(8), vec![member(1), member(2)]).unwrap();
    world.start(1, 1, &[1, 2], Some(cluster_of(&[1, 2])));
    world.start(2, 1, &[1, 2], Some(other));
    world.pass(3_000);
    assert_eq!(world.inbound(1), []);
    assert_eq!(world.inbound(2), []);
    for node in &world.nodes {
        assert!(node.bus.connections.len() < 20, "refused connections are let go");
    }
}

#[test]
fn node_that_never_answers_is_given_up_and_delays_nobody() {
    let mut world = World::new();
    let _silent = world.network.listen(address(2));
    world.start(1, 1, &[1, 2, 3], Some(cluster_of(&[1, 2, 3])));
    world.start(3, 1, &[1, 2, 3], Some(cluster_of(&[1, 2, 3])));
    world.pass(10);
    assert!(matches!(world.inbound(1)[..], [Inbound::LinkUp(NodeId(3), ..), ..]));
    world.pass(10_000);
    assert!(world.node(1).bus.connections.len() <= 3);
}
