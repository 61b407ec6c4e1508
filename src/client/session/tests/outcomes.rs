//! What a write came to, and what nobody knows.

use super::*;

#[test]
fn write_of_which_no_byte_was_written_is_definite() {
    let mut script = Script::with_put_at_leader();
    script.not_sent(A);
    script.lost(A);
    script.lost(A);
    script.pull();
    script.lost(B);
    script.lost(C);
    let error = script.error_at_deadline();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    assert!(error.to_string().contains("b:1: connection refused"), "{error}");
}

#[test]
fn write_whose_connection_broke_is_unknown_whatever_is_refused_later() {
    let (full, key) = ("full".to_owned(), "key".to_owned());
    let later =
        [Refused::NoLeader, Refused::Busy(full.clone()), Refused::TooLarge(key), Refused::NoSpace(full)];
    for refused in later {
        let mut script = Script::with_put_at_leader();
        script.lost(A);
        script.pull();
        script.welcome(B);
        script.pull();
        script.refused(B, refused.clone());
        let over = script.pull().ends_with("failed");
        let error = if over { script.error() } else { script.error_at_deadline() };
        assert!(!error.is_definite(), "{refused:?}: {error}");
    }
}

#[test]
fn write_without_space_ends_at_once_and_is_definite() {
    let mut script = Script::with_put_at_leader();
    script.refused(A, Refused::NoSpace("node 2 has 1 MiB of disk left".into()));
    assert!(script.pull().ends_with("failed"), "another try would not make room");
    let error = script.error();
    assert_eq!((error.is_definite(), error.word(), error.exit_status()), (true, "no_space", 4));
}

#[test]
fn write_refused_by_everyone_is_definite_at_the_deadline() {
    let mut script = Script::with_put_at_leader();
    script.redirect(A, 5, None);
    script.pull();
    script.lost(B);
    script.pull();
    script.lost(C);
    assert_eq!(script.error_at_deadline(), Error::NoLeader);
}

#[test]
fn write_unanswered_at_the_deadline_is_unknown_and_the_next_one_acknowledges_all_under_another_id() {
    let mut script = Script::with_put_at_leader();
    let (client, sequence) = script.identity(A);
    let error = script.error_at_deadline();
    let identity = Some(Identity { client: client.clone(), sequence });
    assert_eq!(error, Error::Unknown { identity, reason: UnknownReason::Deadline });
    script.put();
    script.pull();
    script.welcome(A);
    assert!(script.pull().starts_with("put a seq 1 ack 1,"), "results that nobody wants are kept for nobody");
    assert_ne!(script.identity(A).0, client, "the first one may still be asked about");
}

#[test]
fn leadership_lost_leaves_the_write_in_doubt_and_has_it_sent_again() {
    let mut script = Script::with_put_at_leader();
    script.refused(A, Refused::LeadershipLost);
    assert_eq!(script.pull(), "dial b, wait 100");
    script.lost(B);
    script.pull();
    script.lost(C);
    assert!(!script.error_at_deadline().is_definite());
}

#[test]
fn busy_leader_is_asked_again_after_a_longer_pause_and_no_other_node() {
    let mut script = Script::with_put_at_leader();
    script.refused(A, Refused::Busy("4 MiB wait to be committed".into()));
    let words = script.pull();
    let pause: u64 = words.strip_prefix("wait ").unwrap().parse().unwrap();
    assert!((10..=100).contains(&pause), "{words}");
    script.advance(100);
    assert_eq!(script.pull(), "put a seq 1 ack 1, wait 200");
    script.refused(A, Refused::Busy("4 MiB wait to be committed".into()));
    assert_eq!(script.error_at_deadline(), Error::Busy("4 MiB wait to be committed".into()));
}

#[test]
fn expired_session_before_any_write_is_replaced_once() {
    let mut script = Script::with_put_at_leader();
    let (old, _) = script.identity(A);
    script.refused(A, Refused::SessionExpired);
    script.cluster_time = 2_000_000;
    assert_eq!(script.pull(), "close a, dial a, wait 100", "for a fresh welcome");
    script.welcome(A);
    script.pull();
    let (new, sequence) = script.identity(A);
    assert_ne!(new, old);
    assert!(matches!(new, ClientId::Library { born: ClusterTime(2_000_000), .. }));
    assert_eq!(sequence, Sequence(1));
    script.refused(A, Refused::SessionExpired);
    assert_eq!(script.pull(), "failed");
    assert_eq!(script.error(), Error::SessionExpired);
}

#[test]
fn expired_session_after_a_copy_may_have_been_applied_is_unknown_and_the_write_not_renamed() {
    let mut script = Script::with_put_at_leader();
    script.lost(A);
    script.pull();
    script.welcome(B);
    script.pull();
    script.refused(B, Refused::SessionExpired);
    assert_eq!(script.pull(), "failed");
    let error = script.error();
    assert!(matches!(error, Error::Unknown { reason: UnknownReason::SessionExpired, .. }), "{error}");
}

#[test]
fn identity_of_the_caller_is_kept_and_nothing_acknowledged_under_it() {
    let mut script = Script::new(&[A]);
    script.put_as("billing", 42);
    script.pull();
    script.welcome(A);
    assert_eq!(script.pull(), "put a seq 42 ack 0, wait 100");
    script.refused(A, Refused::OutcomeForgotten);
    assert_eq!(script.pull(), "failed");
    assert!(!script.error().is_definite(), "an earlier process may have applied it");
    script.put_as("billing", 43);
    script.pull();
    script.refused(A, Refused::SequenceReused);
    script.pull();
    assert_eq!(script.error(), Error::SequenceReused);
}

#[test]
fn cached_is_said_only_of_writes_applied_before_the_request() {
    // (how many copies, revision of the result, what the caller is told); the welcome said 10.
    let cases = [(1, 11, true), (1, 9, true), (2, 11, false), (2, 10, true)];
    for (copies, revision, expected) in cases {
        let mut script = Script::with_put_at_leader();
        if copies == 2 {
            script.advance(100);
            script.pull();
            script.welcome(B);
            script.pull();
        }
        script.written(A, revision, true);
        assert_eq!(script.done().cached, expected, "{copies} copies, revision {revision}");
    }
    let mut script = Script::with_put_at_leader();
    script.lost(A);
    script.pull();
    script.revision = 50; // this welcome comes after the first copy: it proves nothing
    script.welcome(B);
    script.pull();
    script.written(B, 11, true);
    assert!(!script.done().cached, "the first copy may be what was applied before the second");
}

#[test]
fn cached_after_definite_refusals_only_is_believed() {
    let mut script = Script::with_put_at_leader();
    script.redirect(A, 6, Some(B));
    script.pull();
    script.welcome(B);
    script.pull();
    script.written(B, 11, true);
    assert!(script.done().cached);
}

#[test]
fn session_found_expired_while_in_doubt_is_left_for_a_new_one() {
    let mut script = Script::with_put_at_leader();
    let client = script.identity(A).0;
    script.lost(A);
    script.pull();
    script.welcome(B);
    script.pull();
    script.refused(B, Refused::SessionExpired);
    script.pull();
    let error = script.error();
    assert!(matches!(error, Error::Unknown { reason: UnknownReason::SessionExpired, .. }), "{error}");
    script.put();
    script.pull();
    assert_ne!(script.identity(B).0, client);
}

#[test]
fn copy_sent_later_tells_how_little_time_is_left() {
    let mut script = Script::with_put_at_leader();
    let time_left = |script: &Script, node: usize| script.sent[node].as_ref().unwrap().time_left_ms;
    assert_eq!(time_left(&script, A), 5_000);
    script.advance(700);
    script.pull();
    script.welcome(B);
    script.pull();
    assert_eq!(time_left(&script, B), 4_300);
}
