//! Which node is asked, given up, and left.

use super::*;

#[test]
fn read_is_answered_by_the_first_endpoint_though_another_leads() {
    let mut script = Script::new(&[C, A]);
    script.get(false);
    assert_eq!(script.pull(), "dial c, wait 100");
    script.welcome(C);
    assert_eq!(script.pull(), "ask c, wait 250");
    script.answer(C, 10, ResponseBody::Value(None));
    assert_eq!(script.done().node, NodeId(3));
}

#[test]
fn read_of_a_silent_node_is_asked_of_others_and_times_out_definitely() {
    let mut script = Script::new(&[C]);
    script.get(false);
    script.pull();
    script.welcome(C);
    script.pull();
    script.advance(250);
    assert_eq!(script.pull(), "dial a, dial b, wait 350");
    assert_eq!(script.error_at_deadline(), Error::TimedOut);
}

#[test]
fn backup_for_which_one_disk_has_no_room_is_asked_of_the_others() {
    let no_space = || Refused::NoSpace("the node's disk has no room for a snapshot".into());
    let mut script = Script::new(&[A]);
    let body = RequestBody::Backup { snapshot: None, offset: 0 };
    script.session.begin(script.now, script.now + Duration::from_secs(5), body);
    script.pull();
    script.welcome(A);
    script.pull();
    script.refused(A, no_space());
    assert!(script.pull().starts_with("dial b, "));
    script.welcome(B);
    assert!(script.pull().starts_with("ask b, "));
    script.refused(B, no_space());
    assert!(script.pull().starts_with("dial c, "));
    script.welcome(C);
    script.pull();
    script.refused(C, no_space());
    assert_eq!(script.pull(), "failed", "all of them were asked");
    assert_eq!(script.error().word(), "no_space");
}

#[test]
fn stale_read_never_leaves_the_given_endpoints() {
    let mut script = Script::new(&[C]);
    script.get(true);
    script.pull();
    script.welcome(C);
    script.pull();
    script.lost(C);
    assert_eq!(script.pull(), "dial c, wait 100");
    script.lost(C);
    let words = script.pull();
    assert!(words.starts_with("wait ") && words != "wait 5000", "a pause, then c again: {words}");
}

#[test]
fn endpoint_that_swallows_the_dial_costs_a_little_once() {
    let mut script = Script::new(&[A, B]);
    script.get(false);
    assert_eq!(script.pull(), "dial a, wait 100");
    script.advance(100);
    assert_eq!(script.pull(), "dial b, wait 200");
    script.welcome(B);
    script.pull();
    script.answer(B, 10, ResponseBody::Value(None));
    script.done();
    script.get(false);
    assert!(script.pull().starts_with("ask b,"), "a stands back now");
}

#[test]
fn all_nodes_refusing_are_dialled_in_rounds_with_short_pauses_until_the_deadline() {
    let mut script = Script::new(&[A]);
    script.put();
    let mut dials = 0;
    while script.result.is_none() {
        if script.pull().contains("dial a") {
            dials += 1;
            script.lost(A);
        }
        script.advance(1);
    }
    assert!((5_000 / 22..5_000 / 2).contains(&dials), "{dials} dials in 5 seconds");
    assert_eq!(script.now.as_millis(), 5_001, "the loop went one step on after the deadline");
    assert!(matches!(script.error(), Error::Unreachable(_)));
}

#[test]
fn connection_without_a_byte_is_given_up_and_dialled_anew() {
    let mut script = Script::new(&[A]);
    script.leader = None;
    script.get(true);
    script.pull();
    script.welcome(A);
    assert_eq!(script.pull(), "ask a, wait 250");
    script.advance(250);
    assert_eq!(script.pull(), "wait 1250");
    script.advance(750);
    script.session.on_progress(script.now, script.links[A]);
    assert_eq!(script.pull(), "wait 2000", "bytes arrive, if slowly");
    script.advance(1_000);
    assert_eq!(script.pull(), "close a, dial a, wait 2100");
}

#[test]
fn new_id_is_made_of_a_fresh_welcome_only() {
    let mut script = Script::new(&[A]);
    script.get(false);
    script.pull();
    script.welcome(A);
    script.pull();
    script.answer(A, 10, ResponseBody::Value(None));
    script.done();
    script.advance(61_000);
    script.put();
    assert_eq!(script.pull(), "close a, dial a, wait 61100");
}

#[test]
fn new_id_is_made_of_the_latest_time_that_any_node_told() {
    let mut script = Script::new(&[A, B]);
    script.get(false);
    script.pull();
    script.welcome(A);
    script.cluster_time -= 900_000;
    script.pull();
    script.advance(250);
    script.pull();
    script.welcome(B);
    script.pull();
    script.answer(A, 10, ResponseBody::Value(None));
    script.done();
    script.put();
    script.pull();
    let (ClientId::Library { born, .. }, _) = script.identity(A) else { panic!("an id of its own") };
    assert_eq!(born, ClusterTime(1_000_000), "node b had heard of no entry for long");
}

#[test]
fn node_of_another_cluster_is_not_talked_to() {
    let mut script = Script::with_put_at_leader();
    script.lost(A);
    script.pull();
    let stranger = Welcome {
        cluster: Some(ClusterId(2)),
        node: NodeId(2),
        cluster_time: ClusterTime(0),
        revision: Revision(0),
        term: Term(9),
        leader: Some(NodeId(2)),
        members: Vec::new(),
    };
    script.session.on_connected(script.now, script.links[B], &stranger);
    let words = script.session.pull(script.now);
    assert!(matches!(words, Action::Close { link } if link == script.links[B]));
    assert!(script.pull().starts_with("wait"));
}

#[test]
fn members_are_kept_though_a_node_that_restarted_does_not_know_where_they_are() {
    let mut script = Script::new(&[A]);
    script.get(false);
    script.pull();
    script.welcome(A);
    script.pull();
    script.answer(A, 10, ResponseBody::Value(None));
    script.done();
    script.lost(A);
    script.leader = None;
    script.get(false);
    assert!(script.pull().starts_with("dial a, "));
    script.welcome_of(A, &[A]);
    assert!(script.pull().starts_with("ask a, "));
    script.refused(A, Refused::NoLeader);
    assert!(script.pull().starts_with("dial b, "), "b and c were learned before");
}

#[test]
fn words_of_an_old_connection_are_not_listened_to() {
    let mut script = Script::with_put_at_leader();
    let old = script.links[A];
    script.lost(A);
    script.pull();
    let id = script.sent[A].as_ref().unwrap().id;
    let body = ResponseBody::Refused(Refused::NoLeader);
    script.session.on_response(script.now, old, Response { id, revision: Revision(99), body });
    script.session.on_lost(script.now, old, "again");
    assert!(script.pull().starts_with("wait 100"), "the new dial goes on");
}

#[test]
fn answer_to_another_question_leaves_a_write_in_doubt() {
    let mut script = Script::with_put_at_leader();
    script.answer(A, 11, ResponseBody::Transferred);
    assert!(script.pull().starts_with("close a, dial"));
    assert!(!script.error_at_deadline().is_definite());
}

#[test]
fn farewell_closes_the_session_once_everything_is_answered() {
    let mut script = Script::with_put_at_leader();
    assert!(script.session.farewell().is_none(), "a request is under way");
    script.written(A, 11, false);
    script.done();
    let client = script.identity(A).0;
    let (link, request) = script.session.farewell().expect("there is a session");
    let operation = Operation::CloseSession { client: client.clone() };
    let farewell = Write { client, sequence: Sequence(2), acknowledged: Sequence(2), operation };
    assert_eq!((link, request.body), (script.links[A], RequestBody::Write(farewell)));
    assert!(script.session.farewell().is_none(), "it is said once");
}

#[test]
fn farewell_is_left_unsaid_while_a_copy_may_still_arrive() {
    let mut script = Script::with_put_answered_and_a_copy_on_its_way();
    assert!(script.session.farewell().is_none(), "the copy at b would open the session again");
    script.refused(B, Refused::NoLeader);
    assert!(script.session.farewell().is_some(), "that copy is dead now");
}

#[test]
fn farewell_is_said_where_the_copy_was_answered_while_something_else_was_asked() {
    let mut script = Script::with_put_answered_and_a_copy_on_its_way();
    script.get(false);
    assert!(script.pull().starts_with("ask a"));
    script.written(B, 11, true);
    script.answer(A, 11, ResponseBody::Value(None));
    script.done();
    assert!(script.session.farewell().is_some());
}

#[test]
fn answer_over_another_connection_than_its_request_is_no_answer() {
    let mut script = Script::with_put_at_leader();
    script.advance(100);
    script.pull();
    script.welcome(B);
    let id = script.sent[A].as_ref().unwrap().id;
    let body = ResponseBody::Written { outcome: Outcome::Done, cached: false };
    script.session.on_response(script.now, script.links[B], Response { id, revision: Revision(11), body });
    assert!(script.pull().starts_with("put b"), "the write goes on");
    script.written(A, 12, false);
    assert_eq!(script.done().revision, Revision(12));
}

#[test]
fn farewell_is_said_once_a_copy_has_its_result() {
    let mut script = Script::with_put_answered_and_a_copy_on_its_way();
    script.written(B, 11, true);
    assert!(script.session.farewell().is_some(), "its session holds nothing any more that somebody may want");
}

#[test]
fn farewell_is_said_once_a_copy_is_known_not_to_have_left() {
    let mut script = Script::with_put_answered_and_a_copy_on_its_way();
    script.not_sent(B);
    assert!(script.session.farewell().is_some());
}

#[test]
fn farewell_is_left_unsaid_after_a_copy_was_lost() {
    let mut script = Script::with_put_at_leader();
    script.lost(A);
    script.pull();
    script.welcome(B);
    script.pull();
    script.written(B, 11, false);
    script.done();
    assert!(script.session.farewell().is_none());
}

#[test]
fn farewell_of_a_client_that_wrote_nothing_is_nothing() {
    let mut script = Script::new(&[A]);
    script.put_as("billing", 1);
    script.pull();
    script.welcome(A);
    script.pull();
    script.written(A, 11, false);
    script.done();
    assert!(script.session.farewell().is_none(), "named sessions stay");
}

#[test]
fn dial_that_outlasts_its_request_is_given_up_once() {
    let mut script = Script::new(&[A, B]);
    script.get(false);
    script.pull();
    script.advance(100);
    script.pull();
    script.welcome(B);
    script.pull();
    script.answer(B, 10, ResponseBody::Value(None));
    script.done();
    script.advance(900);
    assert_eq!(script.pull(), format!("close a, wait {}", Instant::MAX.as_millis()));
}

#[test]
fn write_that_was_refused_is_not_sent_again_at_the_last_moment() {
    for (left_ms, is_sent_again) in [(200, true), (99, false)] {
        let mut script = Script::new(&[A]);
        script.put();
        script.pull();
        script.advance(5_000 - left_ms);
        script.welcome(A);
        assert!(script.pull().contains("put a"), "a first copy is sent however late it is");
        script.refused(A, Refused::NoLeader);
        for node in [B, C] {
            script.pull();
            script.lost(node);
        }
        script.pull();
        script.advance(21);
        assert_eq!(script.pull().contains("put a"), is_sent_again, "{left_ms} ms left");
    }
}

#[test]
fn write_with_little_time_is_sent_again_all_the_same() {
    let mut script = Script::new(&[A]);
    script.session.begin_write(script.now, script.now + Duration::from_millis(90), Script::operation(), None);
    script.pull();
    script.welcome(A);
    script.pull();
    script.refused(A, Refused::NoLeader);
    for node in [B, C] {
        script.pull();
        script.lost(node);
    }
    script.pull();
    script.advance(21);
    assert!(script.pull().contains("put a"), "69 of its 90 ms are left");
}
