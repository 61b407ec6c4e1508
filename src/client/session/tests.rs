//! A session told what happens and asked what it does, over nodes `a`, `b`, `c` with ids 1, 2, 3.

use bytes::Bytes;

use super::*;
use crate::client::error::UnknownReason;
use crate::types::{ClientId, ClientName, ClusterId, Sequence, Term};
use crate::wire::client::{Outcome, Refused};

/// Drives a session by hand; renders its actions as words, times in milliseconds since the start.
struct Script {
    session: Session,
    now: Instant,
    revision: u64,
    leader: Option<u64>,
    term: u64,
    cluster_time: u64,
    /// The newest link to each node, and the newest request sent to it.
    links: [LinkId; 3],
    sent: [Option<Request>; 3],
    result: Option<Result<Answer, Error>>,
}

const NAMES: [&str; 3] = ["a:1", "b:1", "c:1"];
const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

impl Script {
    fn new(endpoints: &[usize]) -> Self {
        let endpoints: Vec<String> = endpoints.iter().map(|node| NAMES[*node].to_owned()).collect();
        Self {
            session: Session::new(&endpoints, 7),
            now: Instant::ZERO,
            revision: 10,
            leader: Some(1),
            term: 5,
            cluster_time: 1_000_000,
            links: [LinkId(0); 3],
            sent: [None, None, None],
            result: None,
        }
    }

    /// A session whose put was sent to its leader, node `a`.
    fn with_put_at_leader() -> Self {
        let mut script = Self::new(&[A, B, C]);
        script.put();
        assert_eq!(script.pull(), "dial a, wait 100");
        script.welcome(A);
        assert_eq!(script.pull(), "put a seq 1 ack 1, wait 100");
        script
    }

    fn operation() -> Operation {
        Operation::Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v") }
    }

    fn put(&mut self) {
        let deadline = self.now + Duration::from_secs(5);
        self.session.begin_write(self.now, deadline, Self::operation(), None);
    }

    fn put_as(&mut self, name: &str, sequence: u64) {
        let client = ClientId::Named(ClientName::new(name.as_bytes()).unwrap());
        let identity = Identity { client, sequence: Sequence(sequence) };
        let deadline = self.now + Duration::from_secs(5);
        self.session.begin_write(self.now, deadline, Self::operation(), Some(identity));
    }

    fn get(&mut self, stale: bool) {
        let body = RequestBody::Get { key: Bytes::from_static(b"k"), stale };
        self.session.begin(self.now, self.now + Duration::from_secs(5), body);
    }

    fn advance(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    /// Pulls until the session waits or the request is over.
    fn pull(&mut self) -> String {
        let mut words = Vec::new();
        loop {
            assert!(words.len() < 20, "the session runs in circles: {words:?}");
            match self.session.pull(self.now) {
                Action::Dial { link, address } => {
                    let node = NAMES.iter().position(|name| *name == address).unwrap();
                    self.links[node] = link;
                    words.push(format!("dial {}", &address[..1]));
                }
                Action::Send { link, request } => words.push(self.on_send(link, request)),
                Action::Close { link } => {
                    words.push(format!("close {}", &NAMES[self.node_of(link)][..1]));
                }
                Action::Wait { until } => {
                    words.push(format!("wait {}", until.as_millis()));
                    return words.join(", ");
                }
                Action::Finished(result) => {
                    words.push(if result.is_ok() { "done".into() } else { "failed".into() });
                    self.result = Some(result);
                    return words.join(", ");
                }
            }
        }
    }

    fn on_send(&mut self, link: LinkId, request: Request) -> String {
        let node = self.node_of(link);
        let words = match &request.body {
            RequestBody::Write(write) => {
                format!("put {} seq {} ack {}", &NAMES[node][..1], write.sequence, write.acknowledged)
            }
            _ => format!("ask {}", &NAMES[node][..1]),
        };
        let silent = request.silent_leader.map(|silent| format!(" silent {}@{}", silent.id, silent.term));
        self.sent[node] = Some(request);
        words + &silent.unwrap_or_default()
    }

    fn node_of(&self, link: LinkId) -> usize {
        self.links.iter().position(|known| *known == link).expect("a link that was dialled")
    }

    fn welcome(&mut self, node: usize) {
        self.welcome_of(node, &[A, B, C]);
    }

    /// The node knows the addresses of these.
    fn welcome_of(&mut self, node: usize, known: &[usize]) {
        let member = |index: usize| MemberAddress { id: id(index), address: NAMES[index].into() };
        let welcome = Welcome {
            cluster: Some(ClusterId(1)),
            node: id(node),
            cluster_time: ClusterTime(self.cluster_time),
            revision: Revision(self.revision),
            term: Term(self.term),
            leader: self.leader.map(NodeId),
            members: known.iter().copied().map(member).collect(),
        };
        self.session.on_connected(self.now, self.links[node], &welcome);
    }

    fn lost(&mut self, node: usize) {
        self.session.on_lost(self.now, self.links[node], "connection refused");
    }

    fn answer(&mut self, node: usize, revision: u64, body: ResponseBody) {
        let id = self.sent[node].as_ref().expect("it was asked").id;
        let response = Response { id, revision: Revision(revision), body };
        self.session.on_response(self.now, self.links[node], response);
    }

    fn written(&mut self, node: usize, revision: u64, cached: bool) {
        self.answer(node, revision, ResponseBody::Written { outcome: Outcome::Done, cached });
    }

    fn refused(&mut self, node: usize, refused: Refused) {
        self.answer(node, 10, ResponseBody::Refused(refused));
    }

    fn redirect(&mut self, node: usize, term: u64, leader: Option<usize>) {
        let leader = leader.map(|leader| MemberAddress { id: id(leader), address: NAMES[leader].into() });
        self.refused(node, Refused::NotLeader { term: Term(term), leader });
    }

    fn identity(&self, node: usize) -> (ClientId, Sequence) {
        match &self.sent[node].as_ref().expect("it was asked").body {
            RequestBody::Write(write) => (write.client.clone(), write.sequence),
            other => panic!("not a write: {other:?}"),
        }
    }

    /// Lets the deadline pass and takes the error.
    fn error_at_deadline(&mut self) -> Error {
        self.advance(10_000);
        assert!(self.pull().ends_with("failed"));
        self.error()
    }

    fn error(&mut self) -> Error {
        self.result.take().expect("it is over").expect_err("it failed")
    }

    fn done(&mut self) -> Answer {
        assert!(self.pull().ends_with("done"));
        self.result.take().unwrap().unwrap()
    }
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

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

#[test]
fn write_of_which_no_byte_was_written_is_definite() {
    let mut script = Script::with_put_at_leader();
    let request = script.sent[A].as_ref().unwrap().id;
    script.session.on_not_sent(script.links[A], request);
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
fn write_unanswered_at_the_deadline_is_unknown_and_never_acknowledged() {
    let mut script = Script::with_put_at_leader();
    let (client, sequence) = script.identity(A);
    let error = script.error_at_deadline();
    let identity = Some(Identity { client: client.clone(), sequence });
    assert_eq!(error, Error::Unknown { identity, reason: UnknownReason::Deadline });
    script.put();
    script.pull();
    script.welcome(A);
    assert!(script.pull().starts_with("put a seq 2 ack 1,"), "number 1 may still be asked about");
    assert_eq!(script.identity(A).0, client);
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
    assert_eq!((link, request.body), (script.links[A], RequestBody::CloseSession { client }));
    assert!(script.session.farewell().is_none(), "it is said once");
}

#[test]
fn farewell_is_left_unsaid_while_a_copy_may_still_arrive() {
    let mut script = Script::with_put_at_leader();
    script.advance(100);
    script.pull();
    script.welcome(B);
    script.pull();
    script.written(A, 11, false);
    script.done();
    assert!(script.session.farewell().is_none(), "the copy at b would open the session again");
    script.refused(B, Refused::NoLeader);
    assert!(script.session.farewell().is_some(), "that copy is dead now");
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
