//! The way to the leader, and to the next one.

use super::*;

#[test]
fn first_write_learns_the_members_and_goes_to_the_leader() {
    let mut script = Script::new(&[B]);
    script.put();
    assert_eq!(script.pull(), "dial b, wait 100");
    script.welcome(B);
    assert_eq!(script.pull(), "dial a, wait 100");
    script.welcome(A);
    assert_eq!(script.pull(), "put a seq 1 ack 1, wait 100");
    script.written(A, 11, false);
    let answer = script.done();
    assert_eq!((answer.node, answer.attempts, answer.cached), (NodeId(1), 1, false));
    script.put();
    assert_eq!(script.pull(), "put a seq 2 ack 2, wait 100", "the connection is kept");
}

#[test]
fn redirect_to_a_newer_leader_is_followed_at_once_under_the_same_name() {
    let mut script = Script::with_put_at_leader();
    let first = script.identity(A);
    script.redirect(A, 6, Some(C));
    assert_eq!(script.pull(), "dial c, wait 100");
    (script.term, script.leader) = (6, Some(3));
    script.welcome(C);
    assert_eq!(script.pull(), "put c seq 1 ack 1, wait 100");
    assert_eq!(script.identity(C), first);
}

#[test]
fn redirects_in_a_circle_end_with_the_round() {
    let mut script = Script::with_put_at_leader();
    script.redirect(A, 5, Some(B));
    assert_eq!(script.pull(), "dial b, wait 100");
    script.welcome(B);
    assert_eq!(script.pull(), "put b seq 1 ack 1, wait 100");
    script.redirect(B, 5, Some(A));
    assert_eq!(script.pull(), "dial c, wait 100", "a had its turn");
    script.lost(C);
    let words = script.pull();
    let pause: u64 = words.strip_prefix("wait ").unwrap().parse().unwrap();
    assert!((2..=20).contains(&pause), "{words}");
    script.advance(20);
    assert!(script.pull().starts_with("put a seq 1 ack 1,"), "a new round");
}

#[test]
fn redirect_of_a_node_to_itself_says_nothing() {
    let mut script = Script::with_put_at_leader();
    script.redirect(A, 9, Some(A));
    assert_eq!(script.pull(), "dial b, wait 100");
}

#[test]
fn silent_leader_is_named_to_the_others_and_its_late_answer_taken() {
    let mut script = Script::with_put_at_leader();
    script.advance(99);
    assert_eq!(script.pull(), "wait 100");
    script.advance(1);
    assert_eq!(script.pull(), "dial b, dial c, wait 200");
    script.welcome(C);
    assert_eq!(script.pull(), "put c seq 1 ack 1 silent 1@5, wait 200");
    assert_eq!(script.identity(C), script.identity(A));
    script.written(A, 11, false);
    assert_eq!(script.done().node, NodeId(1));
}

#[test]
fn highest_term_that_a_node_can_claim_ends_no_client() {
    let mut script = Script::new(&[A, B, C]);
    script.term = u64::MAX;
    script.put();
    script.pull();
    script.welcome(A);
    script.pull();
    script.advance(100);
    script.pull();
    script.welcome(B);
    script.pull();
    script.written(B, 11, false);
    assert_eq!(script.done().node, NodeId(2), "it leads, in whatever term");
}

#[test]
fn leader_that_was_slow_lately_is_waited_for_twice_as_long() {
    let mut script = Script::with_put_at_leader();
    script.advance(90);
    script.written(A, 11, false);
    script.done();
    // The mean of writes is 22.5 ms now: the least patience still holds.
    script.put();
    assert_eq!(script.pull(), "put a seq 2 ack 2, wait 190");
    script.advance(800);
    script.written(A, 12, false);
    script.done();
    // Now it is 216.9 ms.
    script.put();
    assert_eq!(script.pull(), "put a seq 3 ack 3, wait 1323");
    for sequence in 4..12 {
        script.written(A, 9 + sequence, false);
        script.done();
        script.put();
        script.pull();
    }
    assert_eq!(script.pull(), "wait 990", "answers that come at once make it short again");
}

#[test]
fn only_known_node_without_a_leader_is_asked_for_the_others() {
    let mut script = Script::new(&[A]);
    script.leader = None;
    script.get(false);
    script.pull();
    script.welcome_of(A, &[A]);
    assert!(script.pull().starts_with("ask a, "));
    script.refused(A, Refused::NoLeader);
    assert!(script.pull().starts_with("close a, wait "));
    script.advance(20);
    assert!(script.pull().starts_with("dial a, "));
    script.welcome(A);
    assert!(script.pull().starts_with("ask a, "));
    script.advance(150);
    script.refused(A, Refused::NoLeader);
    assert!(script.pull().starts_with("dial b, "), "now it knows others");
}

#[test]
fn silent_leader_and_all_others_without_one_are_asked_again_after_a_pause() {
    let mut script = Script::with_put_at_leader();
    script.advance(100);
    script.pull();
    script.welcome(B);
    script.welcome(C);
    assert_eq!(script.pull(), "put b seq 1 ack 1 silent 1@5, put c seq 1 ack 1 silent 1@5, wait 300");
    script.advance(150);
    script.refused(B, Refused::NoLeader);
    script.refused(C, Refused::NoLeader);
    assert!(script.pull().starts_with("wait 2"));
    script.advance(20);
    let words = script.pull();
    assert!(words.starts_with("put b seq 1 ack 1 silent 1@5, put c seq 1 ack 1 silent 1@5,"), "{words}");
    script.redirect(C, 6, Some(B));
    script.written(B, 12, false);
    assert_eq!(script.done().attempts, 5);
}

#[test]
fn broken_connection_has_all_others_asked_at_once_and_the_node_redialled() {
    let mut script = Script::with_put_at_leader();
    script.lost(A);
    assert_eq!(script.pull(), "dial b, dial c, dial a, wait 100");
    script.lost(A);
    script.welcome(B);
    assert_eq!(script.pull(), "put b seq 1 ack 1 silent 1@5, wait 100");
    script.written(B, 11, false);
    assert_eq!(script.done().node, NodeId(2));
    script.put();
    assert!(script.pull().starts_with("put b seq 2 ack 2,"), "b is known to lead");
}

#[test]
fn leader_that_only_closed_the_connection_is_asked_again_in_the_same_round() {
    let mut script = Script::with_put_at_leader();
    script.lost(A);
    assert_eq!(script.pull(), "dial b, dial c, dial a, wait 100");
    script.welcome(A);
    assert_eq!(script.pull(), "put a seq 1 ack 1, wait 100");
    script.lost(A);
    assert!(!script.pull().contains("dial a"), "but only once a round");
}

/// A session whose first leader died and whose second, node `b` of this term, has answered a copy
/// that it kept.
fn after_a_failover_to_b(term: u64) -> Script {
    let mut script = Script::with_put_at_leader();
    script.lost(A);
    script.pull();
    script.welcome(B);
    assert!(script.pull().starts_with("put b seq 1 ack 1 silent 1@5"));
    script.written(B, 11, false);
    script.done();
    (script.term, script.leader) = (term, Some(2));
    script
}

#[test]
fn second_failover_names_the_second_leader_in_a_term_of_its_own() {
    for term in [6, 8] {
        let mut script = after_a_failover_to_b(term);
        script.put();
        script.pull();
        script.lost(B);
        script.pull();
        script.welcome(C);
        let words = script.pull();
        let expected = format!("put c seq 2 ack 2 silent 2@{term},");
        assert!(words.starts_with(&expected), "what c tells of b is not news: {words}");
    }
}

#[test]
fn late_answer_of_an_old_leader_does_not_hide_the_new_one() {
    let mut script = Script::with_put_at_leader();
    script.advance(100);
    script.pull();
    (script.term, script.leader) = (6, Some(3));
    script.welcome(C);
    assert!(script.pull().starts_with("put c seq 1 ack 1,"));
    script.written(A, 11, false);
    script.done();
    script.put();
    assert!(script.pull().starts_with("put c seq 2 ack 2,"), "c leads in a later term");
}

#[test]
fn write_after_a_transfer_goes_to_the_new_leader_though_the_old_one_answered() {
    let mut script = Script::with_put_at_leader();
    script.written(A, 11, false);
    script.done();
    script.transfer(B);
    assert!(script.pull().starts_with("ask a, "));
    script.answer(A, 11, ResponseBody::Transferred);
    script.done();
    script.put();
    assert!(script.pull().starts_with("dial b, "));
    (script.term, script.leader) = (6, Some(2));
    script.welcome(B);
    assert!(script.pull().starts_with("put b seq 2 ack 2,"));
}

#[test]
fn failover_does_not_make_patience_longer() {
    for (leader, term) in [(1, 5), (2, 6)] {
        let mut script = Script::with_put_at_leader();
        script.lost(A);
        script.pull();
        [A, B, C].into_iter().for_each(|node| script.lost(node));
        script.pull();
        script.advance(900);
        script.pull();
        (script.leader, script.term) = (Some(leader), term);
        script.welcome(B);
        assert!(script.pull().contains("put b seq 1"));
        [A, C].into_iter().for_each(|node| script.lost(node));
        script.written(B, 11, false);
        script.done();
        script.put();
        assert_eq!(script.pull(), "put b seq 2 ack 2, wait 1000", "100 ms, as ever");
    }
}

#[test]
fn copy_that_a_dead_leader_took_no_byte_of_has_the_others_asked_at_once() {
    let mut script = Script::with_put_at_leader();
    script.not_sent(A);
    assert_eq!(script.pull(), "dial b, dial c, wait 100");
    script.lost(A);
    assert_eq!(script.pull(), "dial a, wait 100");
    script.welcome(C);
    assert_eq!(script.pull(), "put c seq 1 ack 1 silent 1@5, wait 100");
}
