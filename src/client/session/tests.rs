//! A session told what happens and asked what it does, over nodes `a`, `b`, `c` with ids 1, 2, 3.

use bytes::Bytes;

use super::*;
use crate::client::error::UnknownReason;
use crate::types::{ClientId, ClientName, ClusterId, Sequence, Term};
use crate::wire::client::{Outcome, Refused};

mod leader;
mod nodes;
mod outcomes;

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

    /// Node 1 was silent for long enough that node 2 got a copy, and answered then.
    fn with_put_answered_and_a_copy_on_its_way() -> Self {
        let mut script = Self::with_put_at_leader();
        script.advance(100);
        script.pull();
        script.welcome(B);
        script.pull();
        script.written(A, 11, false);
        script.done();
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

    /// The node knows the addresses of these members; of the others it knows only that they are.
    fn welcome_of(&mut self, node: usize, known: &[usize]) {
        let address = |index: usize| if known.contains(&index) { NAMES[index] } else { "" };
        let member = |index: usize| MemberAddress { id: id(index), address: address(index).into() };
        let welcome = Welcome {
            cluster: Some(ClusterId(1)),
            node: id(node),
            cluster_time: ClusterTime(self.cluster_time),
            revision: Revision(self.revision),
            term: Term(self.term),
            leader: self.leader.map(NodeId),
            members: [A, B, C].map(member).to_vec(),
        };
        self.session.on_connected(self.now, self.links[node], &welcome);
    }

    fn lost(&mut self, node: usize) {
        self.session.on_lost(self.now, self.links[node], "connection refused");
    }

    /// The node's socket took no byte of the newest request; its connection is about to be lost.
    fn not_sent(&mut self, node: usize) {
        let request = self.sent[node].as_ref().expect("it was asked").id;
        self.session.on_not_sent(self.now, self.links[node], request);
    }

    fn transfer(&mut self, to: usize) {
        let body = RequestBody::Transfer { to: id(to) };
        self.session.begin(self.now, self.now + Duration::from_secs(5), body);
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
