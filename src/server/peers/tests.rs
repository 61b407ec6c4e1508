use super::*;
use crate::types::ClusterId;
use crate::wire::hello::{Confirmation, Inquiry};

const HEARTBEAT: Duration = Duration::from_millis(30);

fn at(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

fn connection(number: u32) -> ConnectionId {
    ConnectionId { generation: number, slot: number }
}

fn member(id: u64) -> Member {
    Member { id: NodeId(id), incarnation: Incarnation(id * 100) }
}

fn cluster_of(ids: &[u64]) -> Configuration {
    Configuration::new(ClusterId(9), ids.iter().map(|id| member(*id)).collect()).unwrap()
}

/// A node of id `own`, with one entry for each of `others`, and nothing to do yet.
fn peers(own: u64, others: &[u64], configuration: Option<Configuration>) -> Peers {
    let identity = Identity {
        node: NodeId(own),
        incarnation: member(own).incarnation,
        boot: BootNumber(1),
        last_index: LogIndex(0),
        advertise: format!("host:{own}"),
        restored: None,
    };
    let entries = others.iter().map(|id| PeerEntry { node: None, address: format!("host:{id}") });
    let mut peers = Peers::new(identity, HEARTBEAT, entries.collect(), configuration, &[], [7; 32]);
    peers.start();
    for entry in 0..others.len() {
        peers.on_dial(entry, connection(1000 + entry as u32));
    }
    peers.take_effects();
    peers
}

fn founded(own: u64) -> Peers {
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != own).collect();
    peers(own, &others, Some(cluster_of(&[1, 2, 3])))
}

fn hello(id: u64, boot: u64) -> PeerHello {
    PeerHello {
        cluster: Some(ClusterId(9)),
        node: NodeId(id),
        incarnation: member(id).incarnation,
        boot: BootNumber(boot),
        last_index: LogIndex(0),
        dial: DialNumber::NONE,
        advertise: format!("host:{id}"),
        met: Vec::new(),
        restored: None,
    }
}

fn hello_before_founding(id: u64, met: &[u64]) -> PeerHello {
    let met = met.iter().map(|id| member(*id)).collect();
    PeerHello { cluster: None, met, ..hello(id, 1) }
}

/// The hello of a dial that has the connection's number.
fn dialling(number: u32, hello: PeerHello) -> PeerHello {
    PeerHello { dial: DialNumber(u64::from(number)), ..hello }
}

/// What a node answers to an inquiry: that these dials are its own.
fn confirmation(id: u64, boot: u64, dials: &[u32]) -> Confirmation {
    let dials = dials.iter().map(|number| DialNumber(u64::from(*number))).collect();
    Confirmation { node: NodeId(id), incarnation: member(id).incarnation, boot: BootNumber(boot), dials }
}

/// A node comes in, and is confirmed at the first entry that is asked.
fn come_in(peers: &mut Peers, now: Instant, number: u32, hello: PeerHello) -> Result<(), Refusal> {
    let (id, boot) = (hello.node.0, hello.boot.0);
    peers.on_hello(now, connection(number), None, dialling(number, hello))?;
    let inquire = |effect: &Effect| matches!(effect, Effect::Inquire(_) | Effect::InquireAfter(..));
    let asked = peers.effects.iter().find_map(|effect| match effect {
        Effect::Inquire(entry) | Effect::InquireAfter(entry, _) => Some(*entry),
        _ => None,
    });
    peers.effects.retain(|effect| !inquire(effect));
    let entry = asked.expect("somebody is asked");
    peers.inquiry(entry);
    peers.on_confirmation(now, entry, &confirmation(id, boot, &[number]));
    peers.on_inquiry_ended(now, entry);
    Ok(())
}

fn up(id: u64, boot: u64) -> Effect {
    Effect::Up(NodeId(id), BootNumber(boot), format!("host:{id}"))
}

fn reason(result: Result<(), Refusal>) -> RefusalReason {
    result.unwrap_err().reason
}

#[test]
fn two_links_of_the_same_boots_leave_the_one_dialled_by_the_lower_id_in_either_order() {
    for (own, other, lower_dialled) in [(1, 2, Some(0)), (2, 1, None)] {
        for lower_first in [true, false] {
            let mut peers = founded(own);
            let higher_dialled = if lower_dialled.is_some() { None } else { Some(0) };
            let (lower, higher) = if lower_first { (1, 2) } else { (2, 1) };
            let mut links = [(lower, lower_dialled), (higher, higher_dialled)];
            links.sort_unstable();
            for (number, entry) in links {
                match entry {
                    Some(_) => peers.on_hello(at(0), connection(number), entry, hello(other, 1)).unwrap(),
                    None => come_in(&mut peers, at(0), number, hello(other, 1)).unwrap(),
                }
            }
            assert_eq!(peers.link(NodeId(other)), Some(connection(lower)), "{own} {lower_first}");
            let effects = peers.take_effects();
            assert!(effects.contains(&Effect::Close(connection(higher))));
            assert!(!effects.iter().any(|effect| matches!(effect, Effect::Down(_) | Effect::Dead(_))));
            peers.on_closed(at(1), connection(higher));
            assert_eq!(peers.take_effects(), [], "a duplicate was not lost");
        }
    }
}

#[test]
fn second_link_dialled_by_the_same_node_replaces_its_first() {
    let mut peers = founded(1);
    come_in(&mut peers, at(0), 1, hello(2, 1)).unwrap();
    come_in(&mut peers, at(1), 2, hello(2, 1)).unwrap();
    assert_eq!(peers.link(NodeId(2)), Some(connection(2)));
}

#[test]
fn link_older_than_any_race_gives_way_since_the_other_end_has_lost_it() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    come_in(&mut peers, at(3_001), 2, hello(2, 1)).unwrap();
    assert_eq!(peers.link(NodeId(2)), Some(connection(2)));
    let effects = peers.take_effects();
    assert!(effects.contains(&Effect::Close(connection(1))));
    assert!(!effects.contains(&Effect::Dead(NodeId(2))));
}

#[test]
fn link_of_a_later_boot_wins_and_proves_the_death_of_the_one_before() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.take_effects();
    come_in(&mut peers, at(5), 2, hello(2, 2)).unwrap();
    let expected = [
        Effect::Admit(connection(2)),
        Effect::Hello(connection(2)),
        Effect::Down(NodeId(2)),
        Effect::Dead(NodeId(2)),
        up(2, 2),
        Effect::Close(connection(1)),
    ];
    assert_eq!(peers.take_effects(), expected);
}

#[test]
fn boot_below_one_seen_before_is_refused() {
    let mut peers = founded(1);
    come_in(&mut peers, at(0), 1, hello(2, 2)).unwrap();
    assert_eq!(reason(come_in(&mut peers, at(1), 2, hello(2, 1))), RefusalReason::OldBoot);

    let seen = [(NodeId(2), reached(5, 0, 0))];
    let identity = Identity {
        node: NodeId(1),
        incarnation: member(1).incarnation,
        boot: BootNumber(1),
        last_index: LogIndex(0),
        advertise: String::new(),
        restored: None,
    };
    let stored = Some(cluster_of(&[1, 2, 3]));
    let entry = PeerEntry { node: Some(NodeId(2)), address: "host:2".to_owned() };
    let mut peers = Peers::new(identity, HEARTBEAT, vec![entry], stored, &seen, [7; 32]);
    assert_eq!(reason(come_in(&mut peers, at(0), 1, hello(2, 4))), RefusalReason::OldBoot);
    assert_eq!(come_in(&mut peers, at(0), 2, hello(2, 5)), Ok(()));
}

fn reached(boot: u64, before: u64, index: u64) -> Reached {
    Reached { boot: BootNumber(boot), before: LogIndex(before), index: LogIndex(index) }
}

/// Node 2 introduces itself with this boot and this end of its log.
fn comes_with(boot: u64, last_index: u64) -> PeerHello {
    PeerHello { last_index: LogIndex(last_index), ..hello(2, boot) }
}

#[test]
fn copy_that_lacks_what_an_earlier_boot_had_is_refused_whatever_its_boot() {
    let mut peers = founded(1);
    come_in(&mut peers, at(0), 1, comes_with(3, 10)).unwrap();
    peers.on_reached(NodeId(2), reached(3, 0, 90));
    assert_eq!(peers.link(NodeId(2)), Some(connection(1)), "it went on from where it began");
    let again = come_in(&mut peers, at(1), 2, comes_with(3, 50));
    assert_eq!(again, Ok(()), "its boot may have come further since it said so");
    let copy = come_in(&mut peers, at(2), 3, comes_with(4, 89)).unwrap_err();
    assert_eq!(copy.reason, RefusalReason::OldCopy);
    assert!(copy.message.contains("up to 89") && copy.message.contains("up to 90"), "{}", copy.message);
    assert_eq!(come_in(&mut peers, at(3), 4, comes_with(4, 90)), Ok(()));
}

#[test]
fn copy_that_was_linked_before_others_told_of_it_is_dropped_then() {
    let mut peers = founded(1);
    come_in(&mut peers, at(0), 1, comes_with(6, 50)).unwrap();
    peers.take_effects();
    peers.on_reached(NodeId(2), reached(5, 0, 50));
    peers.on_reached(NodeId(2), reached(6, 0, 70));
    assert_eq!(peers.take_effects(), [], "boot 6 began where boot 5 ended");
    peers.on_reached(NodeId(2), reached(5, 0, 51));
    let effects = peers.take_effects();
    assert_eq!(effects[0], Effect::Down(NodeId(2)));
    assert!(matches!(&effects[1], Effect::Refuse(_, refusal) if refusal.reason == RefusalReason::OldCopy));
    assert_eq!(peers.link(NodeId(2)), None);
}

#[test]
fn stranger_other_incarnation_own_id_and_other_cluster_are_refused() {
    let mut peers = founded(1);
    let mut refused = |hello| reason(come_in(&mut peers, at(0), 1, hello));
    assert_eq!(refused(hello(4, 1)), RefusalReason::Stranger);
    let other = PeerHello { incarnation: Incarnation(7), ..hello(2, 1) };
    assert_eq!(refused(other.clone()), RefusalReason::DuplicateId);
    assert_eq!(refused(PeerHello { cluster: None, ..other }), RefusalReason::DuplicateId);
    assert_eq!(refused(PeerHello { node: NodeId(1), ..hello(2, 1) }), RefusalReason::DuplicateId);
    let elsewhere = PeerHello { cluster: Some(ClusterId(8)), ..hello(2, 1) };
    assert_eq!(refused(elsewhere), RefusalReason::WrongCluster);
}

#[test]
fn entry_that_names_another_id_is_a_contradiction() {
    let mut peers = founded(1);
    peers.diallers[0].entry.node = Some(NodeId(3));
    let result = peers.on_hello(at(0), connection(1), Some(0), hello(2, 1));
    assert_eq!(reason(result), RefusalReason::Contradiction);
}

#[test]
fn lost_link_is_redialled_at_once_whoever_dialled_it() {
    for entry in [Some(0), None] {
        let mut peers = founded(1);
        // The entry's node is learned by our own dial in any case.
        peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
        match entry {
            Some(_) => peers.on_hello(at(0), connection(2), entry, hello(2, 1)).unwrap(),
            None => come_in(&mut peers, at(0), 2, hello(2, 1)).unwrap(),
        }
        let link = peers.link(NodeId(2)).unwrap();
        peers.take_effects();
        peers.on_closed(at(100), link);
        assert_eq!(peers.take_effects(), [Effect::Down(NodeId(2)), Effect::Dial(0)]);
    }
}

#[test]
fn link_lost_again_before_it_settled_is_redialled_after_a_pause() {
    let mut peers = founded(1);
    let mut lose = |number, millis| {
        peers.on_dial(0, connection(number));
        peers.on_hello(at(millis), connection(number), Some(0), hello(2, 1)).unwrap();
        peers.take_effects();
        peers.on_closed(at(millis + 5), connection(number));
        peers.take_effects().pop()
    };
    assert_eq!(lose(1, 0), Some(Effect::Dial(0)), "the first time at once");
    assert!(matches!(lose(2, 6), Some(Effect::DialAfter(0, _))));
}

#[test]
fn redial_that_is_refused_proves_death_once() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.on_closed(at(100), connection(1));
    peers.take_effects();
    for expected in [true, false] {
        peers.on_dial(0, connection(1000));
        peers.on_dial_failed(at(100), 0, connection(1000), Failure::Refused);
        assert_eq!(peers.take_effects().contains(&Effect::Dead(NodeId(2))), expected);
    }
}

#[test]
fn redial_that_is_closed_early_or_silent_proves_nothing() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.on_closed(at(100), connection(1));
    peers.take_effects();
    for failure in [Failure::ClosedEarly, Failure::Other] {
        peers.on_dial(0, connection(1000));
        peers.on_dial_failed(at(100), 0, connection(1000), failure);
        let effects = peers.take_effects();
        assert!(matches!(effects[..], [Effect::DialAfter(0, _)]), "{effects:?}");
    }
}

#[test]
fn dial_that_fails_after_a_later_one_has_begun_decides_nothing() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.on_closed(at(100), connection(1));
    peers.on_dial(0, connection(1000));
    come_in(&mut peers, at(101), 2, hello(2, 1)).unwrap();
    peers.on_closed(at(200), connection(2));
    assert!(peers.take_effects().contains(&Effect::Dial(0)), "the link was lost again");
    peers.on_dial(0, connection(1001));
    peers.on_dial_failed(at(201), 0, connection(1000), Failure::Refused);
    assert_eq!(peers.take_effects(), [], "who was behind the last link is not dead");
    let number = peers.hello(connection(1001)).dial;
    assert_ne!(number, DialNumber::NONE);
    assert_eq!(peers.confirmation(&inquiry_of(2, "host:2", &[number])).dials, [number]);
    peers.on_dial_failed(at(202), 0, connection(1001), Failure::Refused);
    assert!(peers.take_effects().contains(&Effect::Dead(NodeId(2))));
}

#[test]
fn redial_answered_by_the_same_boot_ends_the_suspicion() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.on_closed(at(100), connection(1));
    peers.on_dial(0, connection(1000));
    peers.take_effects();
    peers.on_hello(at(101), connection(2), Some(0), hello(2, 1)).unwrap();
    assert_eq!(peers.take_effects(), [up(2, 1)]);
    peers.on_dial_failed(at(102), 0, connection(1000), Failure::Refused);
    assert!(!peers.take_effects().contains(&Effect::Dead(NodeId(2))));
}

#[test]
fn redial_answered_by_a_later_boot_proves_death() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.on_closed(at(100), connection(1));
    peers.take_effects();
    come_in(&mut peers, at(101), 2, hello(2, 2)).unwrap();
    let expected =
        [Effect::Admit(connection(2)), Effect::Hello(connection(2)), Effect::Dead(NodeId(2)), up(2, 2)];
    assert_eq!(peers.take_effects(), expected);
}

#[test]
fn dial_of_an_entry_whose_node_is_linked_already_rests() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.on_closed(at(100), connection(1));
    peers.on_dial(0, connection(1000));
    peers.on_dial_failed(at(100), 0, connection(1000), Failure::Other);
    come_in(&mut peers, at(101), 2, hello(2, 1)).unwrap();
    peers.take_effects();
    peers.on_dial_timer(0);
    assert_eq!(peers.take_effects(), []);
}

#[test]
fn lowest_id_founds_once_all_have_been_met_and_report_the_same() {
    let mut peers = peers(1, &[2, 3], None);
    peers.on_hello(at(0), connection(1), Some(0), hello_before_founding(2, &[2])).unwrap();
    peers.on_hello(at(0), connection(2), Some(1), hello_before_founding(3, &[1, 2, 3])).unwrap();
    let effects = peers.take_effects();
    assert!(effects.contains(&Effect::Hello(connection(1))), "others are told whom we met: {effects:?}");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Found(_))));
    peers.on_hello(at(1), connection(1), None, hello_before_founding(2, &[1, 2, 3])).unwrap();
    let effects = peers.take_effects();
    let [Effect::Found(configuration)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(configuration.members(), [member(1), member(2), member(3)]);

    peers.set_configuration(configuration.clone());
    let told = peers.take_effects().into_iter().filter(|e| matches!(e, Effect::TellFounded(..))).count();
    assert_eq!(told, 2);
    assert!(peers.has_untold());
}

#[test]
fn node_restarted_before_the_founding_is_believed_by_what_its_later_boot_has_met() {
    let mut peers = peers(1, &[2, 3], None);
    peers.on_hello(at(0), connection(1), Some(0), hello_before_founding(2, &[1, 2, 3])).unwrap();
    let restarted = PeerHello { boot: BootNumber(2), ..hello_before_founding(2, &[2]) };
    come_in(&mut peers, at(1), 2, restarted).unwrap();
    peers.on_hello(at(2), connection(3), Some(1), hello_before_founding(3, &[1, 2, 3])).unwrap();
    let founds = |effect: &Effect| matches!(effect, Effect::Found(_));
    assert!(!peers.take_effects().iter().any(founds), "node 2 has not met all");
    let met_all = PeerHello { boot: BootNumber(2), ..hello_before_founding(2, &[1, 2, 3]) };
    peers.on_hello(at(3), connection(2), None, met_all).unwrap();
    assert!(peers.take_effects().iter().any(founds));
}

#[test]
fn node_that_only_dialled_us_is_no_link_until_we_have_met_it_ourselves() {
    let mut peers = peers(2, &[1], None);
    come_in(&mut peers, at(0), 1, hello_before_founding(1, &[1])).unwrap();
    assert_eq!(peers.take_effects(), [Effect::Admit(connection(1)), Effect::Hello(connection(1))]);
    assert_eq!(peers.link(NodeId(1)), None);
    peers.on_hello(at(0), connection(2), Some(0), hello_before_founding(1, &[1])).unwrap();
    assert_eq!(peers.link(NodeId(1)), Some(connection(1)), "dialled by the lower id");
}

#[test]
fn node_that_the_founding_does_not_name_is_dismissed() {
    let mut peers = peers(1, &[2, 5], None);
    peers.on_hello(at(0), connection(1), Some(0), hello_before_founding(2, &[1, 2])).unwrap();
    peers.on_hello(at(0), connection(2), Some(1), hello_before_founding(5, &[1, 5])).unwrap();
    peers.set_configuration(cluster_of(&[1, 2]));
    let effects = peers.take_effects();
    let refused = |e: &Effect| matches!(e, Effect::Refuse(id, _) if *id == connection(2));
    assert!(effects.iter().any(refused));
    assert_eq!(peers.link(NodeId(2)), Some(connection(1)));
}

#[test]
fn id_met_twice_before_the_founding_is_refused() {
    let mut peers = peers(1, &[2, 3], None);
    peers.on_hello(at(0), connection(1), Some(0), hello_before_founding(2, &[2])).unwrap();
    let twin = PeerHello { incarnation: Incarnation(7), ..hello_before_founding(2, &[]) };
    let result = peers.on_hello(at(0), connection(2), Some(1), twin);
    assert_eq!(reason(result), RefusalReason::DuplicateId);
}

#[test]
fn entry_that_leads_to_this_node_itself_is_not_waited_for() {
    let mut peers = peers(1, &[1], None);
    let own = PeerHello { cluster: None, ..hello(1, 1) };
    peers.on_hello(at(0), connection(2), None, own.clone()).unwrap();
    let answered_once = [Effect::Hello(connection(2)), Effect::Close(connection(2))];
    assert_eq!(peers.take_effects(), answered_once);
    peers.on_hello(at(0), connection(1), Some(0), own).unwrap();
    let effects = peers.take_effects();
    assert!(matches!(effects[..], [Effect::Close(_), Effect::Found(_)]), "{effects:?}");
    peers.on_dial_failed(at(1), 0, connection(1000), Failure::ClosedEarly);
    assert_eq!(peers.take_effects(), [], "and is not dialled again");
}

#[test]
fn entry_that_only_sends_back_what_it_is_sent_is_not_this_node_and_founds_nothing() {
    let mut peers = peers(1, &[1], None);
    peers.start();
    peers.on_dial(0, connection(1));
    peers.take_effects();
    let echo = peers.hello(connection(1));
    let result = peers.on_hello(at(0), connection(1), Some(0), echo);
    assert_eq!(reason(result), RefusalReason::Contradiction);
    assert_eq!(peers.take_effects(), []);
    assert!(matches!(peers.waiting(), Some(Waiting::Missing(_))));
}

#[test]
fn node_cannot_become_another_one_on_its_link() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    let result = peers.on_hello(at(1), connection(1), None, hello(3, 1));
    assert_eq!(reason(result), RefusalReason::Malformed);
}

#[test]
fn dial_whose_link_was_lost_is_owned_up_to_no_more() {
    let mut peers = founded(1);
    let dial = peers.diallers[0].dial.expect("it is dialled");
    peers.on_hello(at(0), dial.connection, Some(0), hello(2, 1)).unwrap();
    let inquiry = Inquiry { node: NodeId(2), advertise: "host:2".to_owned(), dials: vec![dial.number] };
    assert_eq!(peers.confirmation(&inquiry).dials, [dial.number]);
    peers.on_closed(at(1), dial.connection);
    assert_eq!(peers.confirmation(&inquiry).dials, []);
}

#[test]
fn node_cannot_become_a_later_boot_on_its_link() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    let result = peers.on_hello(at(1), connection(1), None, hello(2, 2));
    assert_eq!(reason(result), RefusalReason::Malformed);
}

#[test]
fn claim_waits_for_the_node_that_it_names_and_changes_nothing_meanwhile() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.take_effects();
    peers.on_hello(at(5), connection(2), None, dialling(2, hello(2, 9))).unwrap();
    assert_eq!(peers.take_effects(), [Effect::Inquire(0)], "only its own address is asked");
    assert!(peers.is_claim(connection(2)) && !peers.is_handshaken(connection(2)));
    assert_eq!(peers.node_behind(connection(2)), None);
    assert_eq!(peers.link(NodeId(2)), Some(connection(1)));
    peers.on_closed(at(6), connection(2));
    assert_eq!(peers.take_effects(), [], "nor does its end");
}

#[test]
fn forged_boot_is_refused_and_the_true_one_is_linked_afterwards() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.on_hello(at(5), connection(2), None, dialling(2, hello(2, 9))).unwrap();
    peers.inquiry(0);
    peers.take_effects();
    peers.on_confirmation(at(6), 0, &confirmation(2, 1, &[]));
    let effects = peers.take_effects();
    let [Effect::Refuse(id, refusal)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(*id, connection(2));
    for word in ["it is node 2", "at host:2", "--peers of node 1", "node 1, host:1, in --peers of node 2"] {
        assert!(refusal.message.contains(word), "{word}: {}", refusal.message);
    }
    peers.on_inquiry_ended(at(6), 0);
    peers.on_closed(at(100), connection(1));
    come_in(&mut peers, at(101), 3, hello(2, 1)).unwrap();
    assert_eq!(peers.link(NodeId(2)), Some(connection(3)));
    assert!(!peers.take_effects().contains(&Effect::Dead(NodeId(2))));
}

#[test]
fn claim_that_would_be_refused_by_the_time_it_is_confirmed_is_refused() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), None, dialling(1, comes_with(1, 5))).unwrap();
    peers.inquiry(0);
    peers.on_reached(NodeId(2), reached(1, 9, 9));
    peers.take_effects();
    peers.on_confirmation(at(1), 0, &confirmation(2, 1, &[1]));
    let effects = peers.take_effects();
    assert!(
        matches!(&effects[..], [.., Effect::Refuse(_, refusal)] if refusal.reason == RefusalReason::OldCopy)
    );
    assert_eq!(peers.link(NodeId(2)), None);
}

#[test]
fn dial_that_is_closed_as_a_duplicate_is_owned_up_to_no_more() {
    let mut peers = founded(2);
    let number = peers.hello(connection(1000)).dial;
    peers.on_hello(at(0), connection(1000), Some(0), hello(1, 1)).unwrap();
    come_in(&mut peers, at(1), 1, hello(1, 1)).unwrap();
    assert!(
        peers.take_effects().contains(&Effect::Close(connection(1000))),
        "the lower id dialled the other"
    );
    assert_eq!(peers.confirmation(&inquiry_of(1, "host:1", &[number])).dials, []);
}

#[test]
fn replayed_introduction_is_not_confirmed_by_the_living_node() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.on_hello(at(9_000), connection(2), None, dialling(2, hello(2, 1))).unwrap();
    peers.inquiry(0);
    peers.take_effects();
    peers.on_confirmation(at(9_001), 0, &confirmation(2, 1, &[77]));
    assert_eq!(peers.take_effects(), [Effect::Close(connection(2))]);
    assert_eq!(peers.link(NodeId(2)), Some(connection(1)));
}

#[test]
fn dial_number_is_good_for_one_connection_and_none_for_no_connection() {
    let mut peers = founded(1);
    come_in(&mut peers, at(0), 5, hello(2, 1)).unwrap();
    let again = peers.on_hello(at(1), connection(6), None, dialling(5, hello(2, 1)));
    assert_eq!(reason(again), RefusalReason::NotConfirmed);
    let without = peers.on_hello(at(1), connection(7), None, hello(2, 1));
    assert_eq!(reason(without), RefusalReason::NotConfirmed);
}

#[test]
fn answer_of_another_node_or_boot_or_to_an_earlier_inquiry_confirms_nothing() {
    for (answer, is_settled) in [
        (confirmation(3, 1, &[2]), false),
        (confirmation(2, 2, &[2]), true),
        (Confirmation { incarnation: Incarnation(7), ..confirmation(2, 1, &[2]) }, false),
        (confirmation(2, 1, &[3]), true),
    ] {
        let mut peers = founded(1);
        peers.on_hello(at(0), connection(2), None, dialling(2, hello(2, 1))).unwrap();
        peers.inquiry(0);
        peers.on_hello(at(0), connection(3), None, dialling(3, hello(2, 1))).unwrap();
        peers.on_confirmation(at(1), 0, &answer);
        assert_eq!(peers.link(NodeId(2)), None, "{answer:?}");
        assert_eq!(!peers.is_claim(connection(2)), is_settled, "{answer:?}");
        assert!(peers.is_claim(connection(3)), "not asked about: {answer:?}");
    }
}

#[test]
fn flood_of_claims_costs_one_inquiry_at_a_time_and_three_a_heartbeat() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    peers.take_effects();
    let (mut inquiries, mut number) = (0, 2);
    for millis in 0..1000 {
        for _ in 0..10 {
            peers.on_hello(at(millis), connection(number), None, dialling(number, hello(2, 9))).unwrap();
            number += 1;
        }
        peers.on_inquiry_timer(at(millis), 0);
        for effect in peers.take_effects() {
            if effect == Effect::Inquire(0) {
                inquiries += 1;
                assert!(peers.inquiry(0).dials.len() <= 256);
                peers.on_confirmation(at(millis), 0, &confirmation(2, 1, &[]));
                peers.on_inquiry_ended(at(millis), 0);
            }
        }
    }
    assert_eq!(inquiries, 3 * 1000 / HEARTBEAT.as_millis());
    assert_eq!(peers.link(NodeId(2)), Some(connection(1)));
}

#[test]
fn node_owns_up_to_its_living_dials_only() {
    let mut peers = founded(2);
    let number = peers.hello(connection(1000)).dial;
    assert_eq!(peers.hello(connection(1)).dial, DialNumber::NONE, "not dialled by us");
    let inquiry = inquiry_of(1, "node-1:1", &[DialNumber(1), number]);
    assert_eq!(peers.confirmation(&inquiry).dials, [number]);
    peers.on_dial_failed(at(1), 0, connection(1000), Failure::Other);
    assert_eq!(peers.confirmation(&inquiry).dials, []);
}

fn inquiry_of(node: u64, advertise: &str, dials: &[DialNumber]) -> crate::wire::hello::Inquiry {
    let advertise = advertise.to_owned();
    crate::wire::hello::Inquiry { node: NodeId(node), advertise, dials: dials.to_vec() }
}

#[test]
fn dial_passed_on_to_another_member_than_the_one_known_there_is_not_owned_up_to() {
    // Node 1 was met at entry 0; then somebody else has its address, and shows the redial to node 3.
    let mut peers = founded(2);
    peers.on_hello(at(0), connection(1000), Some(0), hello(1, 1)).unwrap();
    peers.on_closed(at(1), connection(1000));
    peers.on_dial(0, connection(1002));
    let number = peers.hello(connection(1002)).dial;
    assert_eq!(peers.confirmation(&inquiry_of(3, "else:3", &[number])).dials, []);
    assert_eq!(peers.confirmation(&inquiry_of(1, "else:1", &[number])).dials, [number]);
    // And whoever answers there with node 3's words is not believed.
    let answer = peers.on_hello(at(2), connection(1002), Some(0), hello(3, 1));
    let refusal = answer.unwrap_err();
    assert_eq!(refusal.reason, RefusalReason::NotConfirmed);
    assert!(refusal.message.contains("node 3 answers at host:1, but node 1 was met there before"));
}

#[test]
fn dial_passed_on_to_a_member_whose_address_is_another_entry_is_not_owned_up_to() {
    // This node has just started and has met nobody yet.
    let peers = founded(2);
    let (to_first, third) = (peers.hello(connection(1000)).dial, peers.address(1).to_owned());
    assert_eq!(peers.confirmation(&inquiry_of(3, &third, &[to_first])).dials, []);
    let to_third = peers.hello(connection(1001)).dial;
    assert_eq!(peers.confirmation(&inquiry_of(3, &third, &[to_third])).dials, [to_third]);
    // Behind proxies no entry has the address that node 3 has itself: nothing speaks against it.
    assert_eq!(peers.confirmation(&inquiry_of(3, "else:3", &[to_first])).dials, [to_first]);
}

#[test]
fn node_without_an_address_in_the_list_is_refused_with_the_cure() {
    let mut peers = peers(1, &[2], Some(cluster_of(&[1, 2, 3])));
    peers.on_hello(at(0), connection(1), Some(0), hello(2, 1)).unwrap();
    let refusal = peers.on_hello(at(0), connection(2), None, dialling(2, hello(3, 1))).unwrap_err();
    for word in ["it is node 3", "add 3=HOST:PORT", "start node 1 again"] {
        assert!(refusal.message.contains(word), "{word}: {}", refusal.message);
    }
}

#[test]
fn node_that_nobody_confirms_in_time_is_told_where_it_was_looked_for() {
    let mut peers = founded(1);
    peers.on_hello(at(0), connection(2), None, dialling(2, hello(2, 1))).unwrap();
    let message = peers.refusal_of_overdue(connection(2)).expect("it is not confirmed").message;
    assert!(message.contains("as node 2 at host:2 or 1 more in --peers of node 1"), "{message}");
    peers.on_hello(at(0), connection(3), Some(1), hello(3, 1)).unwrap();
    let message = peers.refusal_of_overdue(connection(2)).expect("it is not confirmed").message;
    assert!(message.contains("as node 2 at host:2 in --peers of node 1"), "{message}");
    assert_eq!(peers.refusal_of_overdue(connection(3)), None);
}

#[test]
fn node_that_was_dialled_before_the_founding_and_answers_after_it_is_told_the_cluster() {
    let mut peers = peers(2, &[1, 3], None);
    peers.set_configuration(cluster_of(&[1, 2, 3]));
    peers.take_effects();
    peers.on_hello(at(1), connection(1000), Some(0), hello(1, 1)).unwrap();
    let effects = peers.take_effects();
    assert!(effects.contains(&Effect::Hello(connection(1000))), "it heard of none: {effects:?}");
    assert_eq!(peers.hello(connection(1000)).cluster, Some(ClusterId(9)));
    // Who is dialled from now on hears of it at once.
    peers.on_dial(1, connection(1002));
    peers.on_hello(at(2), connection(1002), Some(1), hello(3, 1)).unwrap();
    assert!(!peers.take_effects().contains(&Effect::Hello(connection(1002))));
}

/// Node 1 of a cluster of three that is founded, with these entries, after nothing but its start.
fn started(entries: &[(Option<u64>, &str)]) -> Peers {
    let identity = peers(1, &[], None).identity;
    let entry = |(node, address): &(Option<u64>, &str)| PeerEntry {
        node: node.map(NodeId),
        address: (*address).to_owned(),
    };
    let entries = entries.iter().map(entry).collect();
    let mut peers = Peers::new(identity, HEARTBEAT, entries, Some(cluster_of(&[1, 2, 3])), &[], [7; 32]);
    peers.start();
    peers
}

fn listed(peers: &mut Peers) -> Vec<(u64, String)> {
    let effects = peers.take_effects().into_iter();
    let place =
        |effect| if let Effect::Listed(node, address) = effect { Some((node.0, address)) } else { None };
    effects.filter_map(place).collect()
}

#[test]
fn member_that_was_not_met_is_placed_at_the_entry_that_names_it() {
    let mut peers = started(&[(Some(3), "c:9"), (None, "b:9")]);
    assert_eq!(listed(&mut peers), [(3, "c:9".to_owned()), (2, "b:9".to_owned())], "2 is the only one left");
    let mut peers = started(&[(Some(7), "g:9"), (None, "b:9"), (None, "c:9")]);
    assert_eq!(listed(&mut peers), [], "7 is no member, and 2 or 3 may be at either of the others");
}

#[test]
fn member_that_was_not_met_is_placed_at_the_only_entry_where_nobody_was() {
    let mut peers = started(&[(None, "b:9"), (None, "self:9"), (None, "c:9")]);
    (0..3).for_each(|entry| peers.on_dial(entry, connection(1000 + entry as u32)));
    let own = PeerHello { advertise: "host:1".to_owned(), ..hello(1, 1) };
    peers.on_hello(at(0), connection(1001), Some(1), own).unwrap();
    assert_eq!(listed(&mut peers), [], "2 and 3 are still to be met, at two entries");
    peers.on_hello(at(0), connection(1002), Some(2), hello(3, 1)).unwrap();
    assert_eq!(listed(&mut peers), [(2, "b:9".to_owned())]);
}
