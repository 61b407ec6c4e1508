//! Every answer that a session can give, and the properties that hold whatever is applied.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::time::Duration;
use crate::types::{ClientId, ClientName};

const LIFETIME_MS: u64 = 1000;

/// Limits that a test reaches.
const SMALL: Limits = Limits {
    lifetime: Duration::from_millis(LIFETIME_MS),
    window: 4,
    library: Quota { sessions: 3, kept_bytes: 10 * 64 },
    named: Quota { sessions: 2, kept_bytes: 2000 },
};

/// A state machine at some cluster time, which gives each command the next revision.
struct Applier {
    machine: StateMachine,
    now_ms: u64,
}

impl Applier {
    fn new() -> Self {
        Self { machine: StateMachine::new(SMALL), now_ms: 0 }
    }

    fn at(&mut self, now_ms: u64) -> &mut Self {
        self.now_ms = now_ms;
        self
    }

    fn apply(&mut self, command: Command) -> Applied {
        let revision = Revision(self.machine.revision().0 + 1);
        let applied = self.machine.apply(revision, ClusterTime(self.now_ms), command);
        assert_eq!(self.machine.store.digest(), self.machine.store.recomputed_digest());
        assert_eq!(self.machine.sessions.digest(), self.machine.sessions.recomputed_digest());
        applied
    }

    fn write(&mut self, write: Write) -> Applied {
        self.apply(Command::Write(write))
    }

    /// A put of one's own key.
    fn put(&mut self, client: &ClientId, sequence: u64) -> Applied {
        self.write(put(client, sequence))
    }

    /// `closer` ends the session of `client` by its write of this number.
    fn close(&mut self, closer: &ClientId, sequence: u64, client: &ClientId) -> Applied {
        self.write(write(closer, sequence, Operation::CloseSession { client: client.clone() }))
    }

    fn expire(&mut self) -> usize {
        match self.apply(Command::ExpireSessions) {
            Applied::Expired { count } => count,
            other => panic!("{other:?}"),
        }
    }
}

fn library(born_ms: u64, nonce: u64) -> ClientId {
    ClientId::Library { born: ClusterTime(born_ms), nonce }
}

fn named(name: &str) -> ClientId {
    ClientId::Named(ClientName::new(name.as_bytes()).unwrap())
}

fn write(client: &ClientId, sequence: u64, operation: Operation) -> Write {
    Write { client: client.clone(), sequence: Sequence(sequence), acknowledged: Sequence(0), operation }
}

/// The put that this client sends under this number.
fn put(client: &ClientId, sequence: u64) -> Write {
    let key = Bytes::from(format!("{client} {sequence}"));
    write(client, sequence, Operation::Put { key, value: Bytes::from_static(b"value") })
}

fn put_of(client: &ClientId, key: Bytes, value: Bytes) -> Write {
    write(client, 1, Operation::Put { key, value })
}

fn acknowledging(write: Write, acknowledged: u64) -> Write {
    Write { acknowledged: Sequence(acknowledged), ..write }
}

fn compare_and_set(expected: Option<&'static str>, new: &'static str) -> Operation {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    Operation::CompareAndSet { key: bytes("key"), expected: expected.map(bytes), new: bytes(new) }
}

fn done(revision: u64) -> Applied {
    Applied::Written { revision: Revision(revision), outcome: Outcome::Done, cached: false }
}

fn not_found(revision: u64) -> Applied {
    Applied::Written { revision: Revision(revision), outcome: Outcome::NotFound, cached: false }
}

fn cached(revision: u64) -> Applied {
    Applied::Written { revision: Revision(revision), outcome: Outcome::Done, cached: true }
}

fn is_busy(applied: &Applied) -> bool {
    matches!(applied, Applied::Refused(Refused::Busy(_)))
}

fn is_malformed(applied: &Applied) -> bool {
    matches!(applied, Applied::Refused(Refused::Malformed(_)))
}

const REUSED: Applied = Applied::Refused(Refused::SequenceReused);
const FORGOTTEN: Applied = Applied::Refused(Refused::OutcomeForgotten);
const EXPIRED: Applied = Applied::Refused(Refused::SessionExpired);

// One write and its copies.

#[test]
fn write_sent_twice_is_applied_once_and_answered_alike() {
    for client in [library(0, 1), named("one")] {
        let (mut applier, write) = (Applier::new(), put(&client, 1));
        let key = write.operation.key().unwrap();
        assert_eq!(applier.write(write.clone()), done(1));
        applier.write(put_of(&named("other"), key.clone(), Bytes::new()));
        assert_eq!(applier.write(write.clone()), cached(1));
        assert_eq!(applier.machine.get(key), Some(Bytes::new()), "the other's write still stands");
    }
}

#[test]
fn number_used_for_another_write_is_refused_as_reused() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    applier.write(write(&client, 1, compare_and_set(None, "value")));
    let key = Bytes::from_static(b"key");
    let value = Bytes::from_static(b"value");
    assert_eq!(applier.write(write(&client, 1, compare_and_set(Some(""), "value"))), REUSED);
    assert_eq!(applier.write(write(&client, 1, Operation::Put { key: key.clone(), value })), REUSED);
    assert_eq!(applier.write(write(&client, 1, Operation::Delete { key })), REUSED);
    assert_eq!(applier.write(write(&client, 1, compare_and_set(None, "value"))), cached(1));
}

#[test]
fn delete_of_a_missing_key_is_a_result_and_stays_one() {
    let (mut applier, client) = (Applier::new(), named("one"));
    let delete = write(&client, 1, Operation::Delete { key: Bytes::from_static(b"key") });
    let not_found = |cached| Applied::Written { revision: Revision(1), outcome: Outcome::NotFound, cached };
    assert_eq!(applier.write(delete.clone()), not_found(false));
    applier.write(write(&client, 2, compare_and_set(None, "value")));
    assert_eq!(applier.write(delete), not_found(true));
    assert!(applier.machine.get(b"key").is_some());
    assert_eq!(
        applier.write(write(&client, 3, Operation::Delete { key: Bytes::from_static(b"key") })),
        done(4)
    );
    assert_eq!(applier.machine.get(b"key"), None);
}

#[test]
fn failed_compare_is_a_result_and_stays_one() {
    let (mut applier, client) = (Applier::new(), named("one"));
    let failing = write(&client, 1, compare_and_set(Some("old"), "new"));
    let absent = Outcome::Mismatch { current: None, truncated: false };
    let answer = |cached| Applied::Written { revision: Revision(1), outcome: absent.clone(), cached };
    assert_eq!(applier.write(failing.clone()), answer(false));
    applier.write(write(&client, 2, compare_and_set(None, "old")));
    assert_eq!(applier.write(failing), answer(true));
    assert_eq!(applier.machine.get(b"key").unwrap(), "old");
}

#[test]
fn value_in_a_mismatch_is_cut_and_counted() {
    for (length, kept) in [(0, 0), (1024, 1024), (1025, 1024)] {
        let (mut applier, client) = (Applier::new(), named("one"));
        applier.write(put_of(&client, Bytes::from_static(b"key"), Bytes::from(vec![7; length])));
        let applied = applier.write(write(&client, 2, compare_and_set(None, "new")));
        let current = Some(Bytes::from(vec![7; kept]));
        let outcome = Outcome::Mismatch { current, truncated: length > kept };
        assert_eq!(applied, Applied::Written { revision: Revision(2), outcome, cached: false });
        assert_eq!(applier.machine.kept_bytes(), 2 * 64 + kept as u64);
    }
}

#[test]
fn compares_of_many_clients_on_one_key_have_one_winner() {
    let mut applier = Applier::new();
    let clients = [library(0, 1), library(0, 2), library(0, 3), named("one"), named("two")];
    let winners = clients.iter().filter(|client| {
        let applied = applier.write(write(client, 1, compare_and_set(None, "mine")));
        matches!(applied, Applied::Written { outcome: Outcome::Done, .. })
    });
    assert_eq!(winners.count(), 1);
}

#[test]
fn name_that_spells_a_library_id_is_another_session() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    let name = named(&client.to_string());
    let key = Bytes::from_static(b"key");
    let delete = Operation::Delete { key };
    applier.write(write(&client, 1, compare_and_set(None, "value")));
    assert_eq!(applier.write(write(&name, 1, delete)), done(2));
    assert_eq!(applier.machine.sessions().len(), 1);
    assert_eq!(applier.machine.session_count(), 2);
}

#[test]
fn look_up_before_the_log_knows_results_and_nothing_else() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    assert_eq!(applier.machine.recorded(&put(&client, 1)), None);
    applier.put(&client, 1);
    let recorded = Recorded { revision: Revision(1), outcome: Outcome::Done };
    assert_eq!(applier.machine.recorded(&put(&client, 1)), Some(recorded));
    let other = write(&client, 1, compare_and_set(None, "value"));
    assert_eq!(applier.machine.recorded(&other), None, "reused");
    applier.write(acknowledging(put(&client, 2), 2));
    assert_eq!(applier.machine.recorded(&put(&client, 1)), None, "forgotten");
    applier.close(&client, 3, &client);
    assert_eq!(applier.machine.recorded(&put(&client, 2)), None, "closed");
}

// The window.

#[test]
fn numbers_within_the_window_are_applied_in_any_order() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    for (revision, sequence) in [(1, 3), (2, 1), (3, 4), (4, 2)] {
        assert_eq!(applier.put(&client, sequence), done(revision));
    }
    for (revision, sequence) in [(4, 2), (3, 4), (2, 1), (1, 3)] {
        assert_eq!(applier.put(&client, sequence), cached(revision));
    }
}

#[test]
fn results_beyond_the_window_are_forgotten_lowest_first() {
    let (mut applier, client) = (Applier::new(), named("one"));
    for sequence in 1..=5 {
        applier.put(&client, sequence);
    }
    assert_eq!(applier.put(&client, 1), FORGOTTEN);
    assert_eq!(applier.put(&client, 2), cached(2));
    assert_eq!(applier.machine.sessions()[0].kept_results, 4);
}

#[test]
fn standard_window_keeps_256_results_without_acknowledgements() {
    let (mut machine, client) = (StateMachine::new(Limits::STANDARD), named("one"));
    let mut apply = |sequence| {
        let revision = Revision(machine.revision().0 + 1);
        machine.apply(revision, ClusterTime::ZERO, Command::Write(put(&client, sequence)))
    };
    for sequence in 1..=257 {
        assert_eq!(apply(sequence), done(sequence));
    }
    assert_eq!(apply(1), FORGOTTEN);
    assert_eq!(apply(2), cached(2));
    assert_eq!(apply(257), cached(257));
}

#[test]
fn new_number_below_a_full_window_is_applied_once_and_not_kept() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    for sequence in [10, 11, 12, 13] {
        applier.put(&client, sequence);
    }
    assert_eq!(applier.put(&client, 5), done(5));
    assert_eq!(applier.put(&client, 5), FORGOTTEN);
    assert_eq!(applier.put(&client, 10), cached(1));
    assert_eq!(applier.put(&client, 6), done(8), "above the floor and never applied");
}

#[test]
fn acknowledgement_moves_the_floor_for_good() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    applier.put(&client, 1);
    applier.put(&client, 3);
    assert_eq!(applier.write(acknowledging(put(&client, 4), 3)), done(3));
    assert_eq!(applier.put(&client, 1), FORGOTTEN, "applied and acknowledged");
    assert_eq!(applier.put(&client, 2), FORGOTTEN, "given up: a late first copy is not applied either");
    assert_eq!(applier.put(&client, 3), cached(2), "the lowest that is still kept");
    assert_eq!(applier.write(acknowledging(put(&client, 5), 1)), done(7), "an older acknowledgement");
    assert_eq!(applier.put(&client, 2), FORGOTTEN);
}

#[test]
fn acknowledgement_up_to_the_write_itself_does_not_forget_it() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    assert_eq!(applier.write(acknowledging(put(&client, 7), 7)), done(1));
    assert_eq!(applier.put(&client, 7), cached(1));
}

#[test]
fn acknowledgement_of_the_write_itself_is_malformed_and_changes_nothing() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    applier.put(&client, 1);
    assert!(is_malformed(&applier.write(acknowledging(put(&client, 2), 3))));
    assert_eq!(applier.put(&client, 1), cached(1));
    assert_eq!(applier.put(&client, 2), done(4));
}

#[test]
fn highest_number_of_all_is_applied_once() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    assert_eq!(applier.write(acknowledging(put(&client, u64::MAX), u64::MAX)), done(1));
    assert_eq!(applier.put(&client, u64::MAX), cached(1));
    assert_eq!(applier.put(&client, u64::MAX - 1), FORGOTTEN);
}

#[test]
fn nonsense_is_refused_by_the_request_alone() {
    let client = named("one");
    let bytes = |length: usize| Bytes::from(vec![7; length]);
    let sized = |key, value| put_of(&client, bytes(key), bytes(value));
    assert_eq!(check_write(&sized(MAX_KEY_BYTES, MAX_VALUE_BYTES)), Ok(()));
    assert!(matches!(check_write(&sized(0, 0)), Err(Refused::Malformed(_))));
    assert!(matches!(check_write(&sized(MAX_KEY_BYTES + 1, 0)), Err(Refused::TooLarge(_))));
    assert!(matches!(check_write(&sized(1, MAX_VALUE_BYTES + 1)), Err(Refused::TooLarge(_))));
    let (key, expected) = (bytes(1), Some(bytes(MAX_VALUE_BYTES + 1)));
    let compare = Operation::CompareAndSet { key, expected, new: bytes(1) };
    assert!(matches!(check_write(&write(&client, 1, compare)), Err(Refused::TooLarge(_))));
    let mut applier = Applier::new();
    assert!(is_malformed(&applier.put(&client, 0)));
    assert_eq!(applier.machine.session_count(), 0);
}

// The life of a session.

#[test]
fn library_id_as_old_as_a_lifetime_opens_a_session_and_an_older_one_does_not() {
    let mut applier = Applier::new();
    applier.at(5000);
    assert_eq!(applier.put(&library(5000 - LIFETIME_MS, 1), 1), done(1));
    assert_eq!(applier.put(&library(5000 - LIFETIME_MS - 1, 1), 1), EXPIRED);
    assert_eq!(applier.machine.session_count(), 1);
}

#[test]
fn library_id_born_ahead_of_the_log_lives_until_its_birth_has_aged() {
    let (mut applier, client) = (Applier::new(), library(5000 + LIFETIME_MS, 1));
    assert_eq!(applier.at(5000).put(&client, 1), done(1));
    assert_eq!(applier.at(5000 + 2 * LIFETIME_MS).expire(), 0);
    assert_eq!(applier.put(&client, 1), cached(1));
    assert_eq!(applier.at(5001 + 2 * LIFETIME_MS).expire(), 1);
    assert_eq!(applier.put(&client, 1), EXPIRED, "never applied again");
}

#[test]
fn library_id_born_too_far_ahead_is_malformed() {
    let mut applier = Applier::new();
    for born_ms in [5001 + LIFETIME_MS, u64::MAX] {
        assert!(is_malformed(&applier.at(5000).put(&library(born_ms, 1), 1)));
    }
    assert_eq!(applier.machine.session_count(), 0);
}

#[test]
fn library_session_lives_a_lifetime_after_its_last_write() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    applier.at(100).put(&client, 1);
    applier.at(900).put(&client, 2);
    assert_eq!(applier.machine.next_expiry(), ClusterTime(900 + LIFETIME_MS / 4), "idle comes first");
    assert_eq!(applier.at(900 + LIFETIME_MS).expire(), 0);
    assert_eq!(applier.machine.next_expiry(), ClusterTime(901 + LIFETIME_MS));
    assert_eq!(applier.put(&client, 1), cached(1), "long after the id itself has aged");
    assert_eq!(applier.at(901 + LIFETIME_MS).expire(), 1);
    assert_eq!(applier.machine.kept_bytes(), 0);
}

#[test]
fn library_session_overdue_but_not_yet_expired_still_knows_its_writes() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    applier.put(&client, 1);
    applier.at(9 * LIFETIME_MS);
    assert_eq!(applier.put(&client, 1), cached(1));
    assert_eq!(applier.put(&client, 2), done(3));
    assert_eq!(applier.expire(), 0, "it was written to just now");
}

#[test]
fn write_committed_after_the_eviction_of_its_session_is_not_applied_again() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    applier.put(&client, 1);
    applier.at(LIFETIME_MS + 1);
    assert_eq!(applier.expire(), 1);
    assert_eq!(applier.put(&client, 1), EXPIRED);
    assert_eq!(applier.put(&client, 2), EXPIRED);
}

#[test]
fn library_id_whose_session_expired_at_the_first_moment_is_known_as_old() {
    // Of a lifetime of a thousandth that is no whole step, as the standard one's 600 ms.
    let limits = Limits { lifetime: Duration::from_secs(10), ..SMALL };
    for born in 0..25 {
        let mut applier = Applier { machine: StateMachine::new(limits), now_ms: born };
        let client = library(born, 1);
        applier.put(&client, 1);
        let expiry = (born..).find(|now_ms| applier.at(*now_ms).expire() == 1).expect("it expires");
        assert!(expiry > born + 10_000, "born at {born}, gone at {expiry}");
        assert_eq!(applier.put(&client, 1), Applied::Refused(Refused::SessionExpired), "born at {born}");
    }
}

#[test]
fn sessions_expire_at_most_a_thousand_an_entry() {
    let mut machine = StateMachine::new(Limits::STANDARD);
    let count = sessions::MAX_EXPIRED_PER_ENTRY as u64 + 1;
    for nonce in 1..=count {
        machine.apply(Revision(nonce), ClusterTime::ZERO, Command::Write(put(&library(0, nonce), 1)));
    }
    let late = ClusterTime(600_001);
    for (revision, expired) in [(count + 1, sessions::MAX_EXPIRED_PER_ENTRY), (count + 2, 1)] {
        assert!(machine.next_expiry() <= late);
        let applied = machine.apply(Revision(revision), late, Command::ExpireSessions);
        assert_eq!(applied, Applied::Expired { count: expired });
    }
    assert!(machine.next_expiry() > late);
}

#[test]
fn named_session_never_expires() {
    let (mut applier, client) = (Applier::new(), named("one"));
    applier.put(&client, 1);
    assert_eq!(applier.at(u64::MAX).expire(), 0);
    assert_eq!(applier.put(&client, 1), cached(1));
}

#[test]
fn named_session_closed_is_opened_anew_by_the_next_write() {
    let (mut applier, client) = (Applier::new(), named("one"));
    applier.put(&client, 7);
    let closer = library(0, 1);
    assert_eq!(applier.close(&closer, 1, &client), done(2));
    assert_eq!(applier.close(&closer, 2, &client), not_found(3));
    assert_eq!(applier.machine.sessions(), []);
    assert_eq!(applier.put(&client, 1), done(4));
}

#[test]
fn close_sent_again_is_answered_alike_and_spares_a_session_opened_between() {
    let (mut applier, client) = (Applier::new(), named("one"));
    applier.put(&client, 1);
    for closer in [library(0, 1), named("two")] {
        let revision = applier.machine.revision().0 + 1;
        assert_eq!(applier.close(&closer, 1, &client), done(revision));
        assert_eq!(applier.close(&closer, 1, &client), cached(revision), "it did exist");
        assert_eq!(applier.put(&client, 1), done(revision + 2));
        assert_eq!(applier.close(&closer, 1, &client), cached(revision));
        assert_eq!(applier.put(&client, 1), cached(revision + 2), "the one opened between is still there");
        assert_eq!(applier.close(&closer, 1, &named("other")), REUSED);
    }
}

#[test]
fn name_cannot_close_itself() {
    let (mut applier, client) = (Applier::new(), named("one"));
    applier.put(&client, 1);
    assert!(matches!(applier.close(&client, 2, &client), Applied::Refused(Refused::Malformed(_))));
    assert_eq!(applier.put(&client, 1), cached(1));
}

#[test]
fn library_session_closed_does_not_apply_a_late_copy_of_its_writes() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    applier.put(&client, 1);
    assert_eq!(applier.close(&client, 2, &client), done(2));
    assert_eq!(applier.machine.kept_bytes(), 0);
    assert_eq!(applier.put(&client, 1), EXPIRED);
    assert_eq!(applier.put(&client, 3), EXPIRED);
    assert_eq!(applier.close(&client, 2, &client), EXPIRED);
    assert_eq!(applier.at(LIFETIME_MS + 1).expire(), 1);
    assert_eq!(applier.put(&client, 1), EXPIRED);
}

#[test]
fn list_of_sessions_shows_the_named_ones_by_name() {
    let mut applier = Applier::new();
    applier.put(&library(0, 1), 1);
    applier.put(&named("two"), 9);
    applier.put(&named("one"), 1);
    applier.put(&named("two"), 8);
    let infos = applier.machine.sessions();
    let names: Vec<_> = infos.iter().map(|info| info.name.to_string()).collect();
    assert_eq!(names, ["one", "two"]);
    let (last, revision) = (infos[1].last_sequence, infos[1].last_write);
    assert_eq!((last, revision, infos[1].kept_results), (Sequence(9), Revision(4), 2));
}

// The caps.

#[test]
fn session_beyond_the_cap_is_busy_until_one_ends() {
    let mut applier = Applier::new();
    for nonce in 1..=3 {
        applier.at(nonce).put(&library(0, nonce), 1);
    }
    let late = library(4, 4);
    assert!(is_busy(&applier.put(&late, 1)));
    assert_eq!(applier.machine.get(put(&late, 1).operation.key().unwrap()), None, "busy is definite");
    assert_eq!(applier.put(&library(0, 1), 2), done(5), "those that are open go on");
    assert_eq!(applier.put(&named("one"), 1), done(6), "the other kind has its own cap");
    applier.at(3 + LIFETIME_MS).expire();
    assert_eq!(applier.put(&late, 1), done(8));
}

#[test]
fn named_session_beyond_the_cap_is_busy_until_one_is_closed() {
    let mut applier = Applier::new();
    applier.put(&named("one"), 1);
    applier.put(&named("two"), 1);
    let Applied::Refused(Refused::Busy(message)) = applier.put(&named("three"), 1) else { panic!() };
    assert!(message.contains("kv_client session close"), "{message}");
    assert_eq!(applier.close(&library(0, 1), 1, &named("one")), done(4));
    assert_eq!(applier.put(&named("three"), 1), done(5));
}

#[test]
fn result_beyond_the_cap_of_kept_bytes_is_busy_until_others_are_acknowledged() {
    let mut applier = Applier::new();
    for (nonce, sequences) in [(1, 1..=4), (2, 1..=4), (3, 1..=2)] {
        sequences.for_each(|sequence| drop(applier.put(&library(0, nonce), sequence)));
    }
    assert_eq!(applier.machine.kept_bytes(), SMALL.library.kept_bytes);
    let refused = put(&library(0, 3), 3);
    assert!(is_busy(&applier.write(refused.clone())));
    assert_eq!(applier.machine.get(refused.operation.key().unwrap()), None, "busy is definite");
    assert_eq!(applier.put(&library(0, 1), 5), done(12), "it takes the place of an older result");
    assert_eq!(applier.write(acknowledging(put(&library(0, 2), 4), 4)), cached(8), "frees three");
    assert_eq!(applier.write(refused), done(14));
}

#[test]
fn acknowledgement_in_a_refused_write_counts() {
    let (mut applier, client) = (Applier::new(), library(0, 1));
    applier.put(&client, 1);
    applier.put(&client, 2);
    let reused = acknowledging(write(&client, 2, compare_and_set(None, "value")), 2);
    assert_eq!(applier.write(reused), REUSED);
    assert_eq!(applier.put(&client, 1), FORGOTTEN);
}

#[test]
fn bounds_show_use_and_cap_of_both_kinds() {
    let mut applier = Applier::new();
    applier.put(&library(0, 1), 1);
    applier.put(&library(0, 2), 1);
    applier.put(&named("one"), 1);
    let bounds = applier.machine.bounds();
    let shown: Vec<_> = bounds.iter().map(|bound| (&*bound.name, bound.used, bound.cap)).collect();
    let library = [("library_sessions", 2, 3), ("library_kept_bytes", 128, 640)];
    let named = [("named_sessions", 1, 2), ("named_kept_bytes", 64, 2000)];
    assert_eq!(shown, [library, named].concat());
}

#[test]
fn list_of_as_many_sessions_as_there_can_be_fits_one_answer() {
    use crate::wire::MAX_CLIENT_FRAME_BYTES;
    use crate::wire::client::{Response, ResponseBody};
    let name = ClientName::new(&[7; ClientName::MAX_BYTES]).unwrap();
    let info = SessionInfo { name, last_sequence: Sequence(1), kept_results: 1, last_write: Revision(1) };
    let body = ResponseBody::Sessions(vec![info; Limits::STANDARD.named.sessions]);
    let mut out = crate::wire::Writer::new();
    Response { id: 1, revision: Revision(1), body }.encode(&mut out);
    assert!(out.len() <= MAX_CLIENT_FRAME_BYTES as usize, "{}", out.len());
}

// Order, time and determinism.

#[test]
fn entry_without_a_command_moves_revision_and_time() {
    let mut machine = StateMachine::new(SMALL);
    machine.advance(Revision(1), ClusterTime(5));
    assert_eq!((machine.revision(), machine.cluster_time()), (Revision(1), ClusterTime(5)));
    assert_eq!(machine.next_expiry(), ClusterTime(5 + LIFETIME_MS / 4));
}

#[test]
#[should_panic(expected = "one after the other")]
fn entry_applied_twice_panics() {
    let mut machine = StateMachine::new(SMALL);
    machine.advance(Revision(1), ClusterTime(0));
    machine.advance(Revision(1), ClusterTime(0));
}

#[test]
#[should_panic(expected = "one after the other")]
fn entry_skipped_panics() {
    StateMachine::new(SMALL).advance(Revision(2), ClusterTime(0));
}

#[test]
#[should_panic(expected = "lies before")]
fn stamp_that_falls_panics() {
    let mut machine = StateMachine::new(SMALL);
    machine.advance(Revision(1), ClusterTime(5));
    machine.advance(Revision(2), ClusterTime(4));
}

#[test]
fn digest_covers_data_sessions_revision_and_time() {
    let mut base = Applier::new();
    base.put(&library(0, 1), 1);
    base.put(&library(0, 1), 2);
    let after = |command: Option<Command>, stamp: u64| {
        let mut machine = base.machine.clone();
        match command {
            Some(command) => drop(machine.apply(Revision(3), ClusterTime(stamp), command)),
            None => machine.advance(Revision(3), ClusterTime(stamp)),
        }
        machine.digest()
    };
    let put = |client, sequence| Some(Command::Write(put(client, sequence)));
    let close = |client: &ClientId, sequence| {
        write(&library(0, 1), sequence, Operation::CloseSession { client: client.clone() })
    };
    let acknowledged = acknowledging(super::tests::put(&library(0, 1), 2), 2);
    let digests = [
        base.machine.digest(),
        after(None, 0),
        after(None, 1),
        after(put(&library(0, 1), 3), 0),
        after(put(&library(0, 2), 3), 0),
        after(put(&named("one"), 3), 0),
        after(Some(Command::Write(acknowledged)), 0),
        after(Some(Command::Write(close(&library(0, 1), 3))), 0),
        after(Some(Command::Write(close(&library(0, 2), 3))), 0),
    ];
    assert_eq!(BTreeSet::from(digests).len(), digests.len());
    assert_eq!(after(Some(Command::ExpireSessions), 0), after(None, 0), "it found nothing");
}

#[test]
fn clone_is_a_point_in_time_of_data_and_sessions() {
    let mut applier = Applier::new();
    let client = named("one");
    applier.put(&client, 1);
    let mut clone = applier.machine.clone();
    let digest = clone.digest();
    applier.put(&client, 2);
    applier.close(&library(0, 1), 1, &client);
    assert_eq!((clone.digest(), clone.sessions().len()), (digest, 1));
    assert_eq!(clone.sessions.digest(), clone.sessions.recomputed_digest());
    let applied = clone.apply(Revision(2), ClusterTime(0), Command::Write(put(&client, 1)));
    assert_eq!(applied, cached(1));
}

/// A command of few clients with few numbers, and how much time goes by before it.
fn step() -> impl Strategy<Value = (u64, Command)> {
    let client = prop_oneof![
        (0..6_u64, 0..2_u64).prop_map(|(born, nonce)| library(born * LIFETIME_MS / 2, nonce)),
        (0..3_u64).prop_map(|name| named(&name.to_string())),
    ];
    let operation = prop_oneof![
        client.clone().prop_map(|client| Operation::CloseSession { client }),
        Just(compare_and_set(None, "a")),
        Just(compare_and_set(Some("a"), "b")),
        Just(Operation::Delete { key: Bytes::from_static(b"key") }),
        Just(Operation::Put { key: Bytes::from_static(b"key"), value: Bytes::from(vec![7; 1500]) }),
    ];
    let numbers = (0..9_u64, 0..5_u64);
    let write = (client.clone(), numbers, operation).prop_map(|(client, (sequence, ahead), operation)| {
        Command::Write(acknowledging(write(&client, sequence, operation), sequence.saturating_sub(ahead)))
    });
    let command = prop_oneof![
        12 => write,
        1 => Just(Command::ExpireSessions),
    ];
    (prop_oneof![4 => Just(0), 1 => 0..LIFETIME_MS], command)
}

proptest! {
    #[test]
    fn write_of_any_history_is_applied_at_most_once(steps in prop::collection::vec(step(), 0..200)) {
        let mut applier = Applier::new();
        let mut first_answers = BTreeMap::new();
        for (elapsed_ms, command) in &steps {
            applier.now_ms += elapsed_ms;
            let before = applier.machine.clone();
            let applied = applier.apply(command.clone());
            let data_changed = applier.machine.store.digest() != before.store.digest();
            match (command, applied) {
                (Command::Write(write), Applied::Written { revision, outcome, cached }) => {
                    let answer = (write.operation.clone(), revision, outcome);
                    let key = (write.client.clone(), write.sequence);
                    prop_assert_eq!(cached, before.recorded(write).is_some() && revision < applier.machine.revision());
                    if cached {
                        prop_assert_eq!(first_answers.get(&key), Some(&answer));
                        prop_assert!(!data_changed);
                    } else {
                        prop_assert!(first_answers.insert(key, answer).is_none(), "applied twice");
                        if let Operation::CloseSession { client: closed @ ClientId::Named(_) } = &write.operation {
                            // Only here may a number be used again.
                            first_answers.retain(|(client, _), _| client != closed);
                        }
                    }
                }
                _ => prop_assert!(!data_changed),
            }
        }
    }

    #[test]
    fn replay_of_any_history_gives_the_same_digest_at_every_entry(steps in prop::collection::vec(step(), 0..100)) {
        let (mut original, mut digests) = (Applier::new(), Vec::new());
        for (elapsed_ms, command) in &steps {
            original.now_ms += elapsed_ms;
            let applied = original.apply(command.clone());
            digests.push((original.now_ms, applied, original.machine.digest()));
        }
        let mut replay = Applier::new();
        for ((_, command), (now_ms, applied, digest)) in steps.iter().zip(digests) {
            prop_assert_eq!(replay.at(now_ms).apply(command.clone()), applied);
            prop_assert_eq!(replay.machine.digest(), digest);
        }
    }
}
