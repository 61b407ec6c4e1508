//! Nodes that speak the protocol and do as a test tells them.

use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use kvstore::types::{ClientId, ClusterId, ClusterTime, LogIndex, NodeId, Revision, Sequence, Term};
use kvstore::wire::client::{
    DiskStatus, MAX_MISMATCH_BYTES, NodeStatus, Operation, Outcome, Refused, Request, RequestBody, Response,
    ResponseBody, RoleName, SessionInfo, Write,
};
use kvstore::wire::frame::{self, Decoder, Frame, FrameKind};
use kvstore::wire::hello::{MemberAddress, Welcome};
use kvstore::wire::{MAX_CLIENT_FRAME_BYTES, Writer};
use socket2::{Domain, Socket, Type};

/// What a node does with a request.
pub(crate) enum Reaction {
    /// Answers, at this revision.
    Answer(u64, ResponseBody),
    /// Says nothing.
    Silence,
    /// Closes the connection, and from then on every other without a word, as a dying process.
    Die,
    /// Reads nothing more from this connection, and keeps it open.
    StopReading,
    /// Answers, and from then on gives answers that nobody asked for, as many as the client takes.
    Babble(ResponseBody),
}

/// What a node does with each request.
pub(crate) type Script = Box<dyn FnMut(&Request) -> Reaction + Send>;

/// A refusal as a reaction.
pub(crate) fn refuse(refused: Refused) -> Reaction {
    Reaction::Answer(10, ResponseBody::Refused(refused))
}

/// A write that was just applied.
pub(crate) fn written(revision: u64) -> Reaction {
    Reaction::Answer(revision, ResponseBody::Written { outcome: Outcome::Done, cached: false })
}

/// A socket that has a port between 15000 and 30000 to itself. As long as it does not listen, dials to it
/// are refused.
pub(crate) fn bound() -> Socket {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 15_000 + (std::process::id() % 149) as u16 * 100;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        if socket.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).is_ok() {
            return socket;
        }
    }
}

/// The address of such a socket, as an endpoint.
pub(crate) fn address_of(socket: &Socket) -> String {
    socket.local_addr().unwrap().as_socket().unwrap().to_string()
}

/// A listener on such a port.
pub(crate) fn listener() -> TcpListener {
    let socket = bound();
    socket.listen(128).unwrap();
    socket.into()
}

/// The address of a listener, as an endpoint.
pub(crate) fn address(listener: &TcpListener) -> String {
    listener.local_addr().unwrap().to_string()
}

/// A running node. It ends with the test's process.
pub(crate) struct FakeNode {
    /// Where it listens.
    pub(crate) address: String,
    /// What it was sent.
    pub(crate) requests: Receiver<Request>,
    /// One message for each connection that ended.
    pub(crate) ends: Receiver<()>,
    /// Bytes of answers that nobody asked for, as far as they were taken.
    pub(crate) babbled: Arc<AtomicUsize>,
}

impl FakeNode {
    /// Starts nodes 1, 2, ... with one script each; node 1 is the leader of term 5.
    pub(crate) fn cluster(scripts: Vec<Script>) -> Vec<FakeNode> {
        Self::cluster_that_says(&Bytes::new(), scripts)
    }

    /// The same, and every node says this behind each welcome.
    fn cluster_that_says(more: &Bytes, scripts: Vec<Script>) -> Vec<FakeNode> {
        let listeners: Vec<TcpListener> = scripts.iter().map(|_| listener()).collect();
        let ids = (1..).map(NodeId);
        let members: Vec<MemberAddress> = ids
            .zip(&listeners)
            .map(|(id, listener)| MemberAddress { id, address: address(listener) })
            .collect();
        let nodes = members.iter().zip(listeners).zip(scripts);
        let start = |((member, listener), script): ((&MemberAddress, TcpListener), Script)| {
            FakeNode::start(member.id, listener, members.clone(), (script, more.clone()))
        };
        nodes.map(start).collect()
    }

    /// Starts one node, the leader of a cluster of one.
    pub(crate) fn alone(script: Script) -> FakeNode {
        FakeNode::cluster(vec![script]).remove(0)
    }

    /// A leader of a cluster of one that answers, on each connection and before it is asked anything,
    /// a request of this number.
    pub(crate) fn hasty(request: u64, script: Script) -> FakeNode {
        let answer = response_frame(request, 10, ResponseBody::Value(None));
        FakeNode::cluster_that_says(&answer, vec![script]).remove(0)
    }

    fn start(
        id: NodeId,
        listener: TcpListener,
        members: Vec<MemberAddress>,
        (script, more): (Script, Bytes),
    ) -> FakeNode {
        let address = address(&listener);
        let (log, requests) = mpsc::channel();
        let (ended, ends) = mpsc::channel();
        let babbled = Arc::new(AtomicUsize::new(0));
        let behavior =
            Behavior { script: Mutex::new(script), more, is_dead: false.into(), babbled: babbled.clone() };
        let behavior = Arc::new(behavior);
        let welcome = Welcome {
            cluster: Some(ClusterId(7)),
            node: id,
            cluster_time: ClusterTime(1_000_000),
            revision: Revision(10),
            term: Term(5),
            leader: Some(NodeId(1)),
            members,
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (welcome, log, ended) = (welcome.clone(), log.clone(), ended.clone());
                let behavior = Arc::clone(&behavior);
                thread::spawn(move || {
                    serve(stream.unwrap(), &welcome, &behavior, &log);
                    let _ = ended.send(());
                });
            }
        });
        FakeNode { address, requests, ends, babbled }
    }
}

/// What the connections of a node share.
struct Behavior {
    script: Mutex<Script>,
    /// Said behind each welcome.
    more: Bytes,
    is_dead: AtomicBool,
    babbled: Arc<AtomicUsize>,
}

/// One connection, until one of its ends closes it.
fn serve(mut stream: TcpStream, welcome: &Welcome, behavior: &Behavior, log: &Sender<Request>) {
    let Behavior { script, more, is_dead, babbled } = behavior;
    let mut decoder = Decoder::new(MAX_CLIENT_FRAME_BYTES);
    while let Some(frame) = next_frame(&mut stream, &mut decoder) {
        if is_dead.load(Ordering::Relaxed) {
            return;
        }
        let mut out = Writer::new();
        match frame.kind {
            FrameKind::ClientHello => {
                frame::encode(FrameKind::Welcome, &mut out, |out| welcome.encode(out));
                out.put(more);
            }
            FrameKind::Request => {
                let request = Request::decode(frame.payload).expect("the client sends sound requests");
                let reaction = (script.lock().unwrap())(&request);
                let id = request.id;
                let _ = log.send(request);
                match reaction {
                    Reaction::Answer(revision, body) => out.put(&response_frame(id, revision, body)),
                    Reaction::Silence => continue,
                    Reaction::StopReading => loop {
                        thread::park();
                    },
                    Reaction::Babble(body) => {
                        let answer = |id| response_frame(id, 10, body.clone());
                        let babble = answer(0).repeat(100);
                        let mut answered = stream.write_all(&answer(id));
                        while answered.is_ok() {
                            answered = stream.write_all(&babble);
                            babbled.fetch_add(babble.len(), Ordering::Relaxed);
                        }
                        return;
                    }
                    Reaction::Die => {
                        is_dead.store(true, Ordering::Relaxed);
                        let _ = stream.shutdown(Shutdown::Both);
                        return;
                    }
                }
            }
            other => panic!("the client sent {other:?}"),
        }
        if stream.write_all(&out.into_bytes()).is_err() {
            return;
        }
    }
}

fn response_frame(id: u64, revision: u64, body: ResponseBody) -> Bytes {
    let mut out = Writer::new();
    let response = Response { id, revision: Revision(revision), body };
    frame::encode(FrameKind::Response, &mut out, |out| response.encode(out));
    out.into_bytes()
}

fn next_frame(stream: &mut TcpStream, decoder: &mut Decoder) -> Option<Frame> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(frame) = decoder.next().expect("the client sends sound frames") {
            return Some(frame);
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => decoder.push(&buffer[..count]),
        }
    }
}

/// A store without a log, for the words and numbers of the command line.
#[derive(Default)]
pub(crate) struct Store {
    rows: BTreeMap<Bytes, Bytes>,
    results: BTreeMap<(ClientId, Sequence), (u64, Operation, Outcome)>,
    revision: u64,
    members: Vec<MemberAddress>,
}

impl Store {
    /// A node of its own that serves such a store, in pages of two rows, each of a new revision.
    pub(crate) fn node() -> FakeNode {
        let mut store = Store { revision: 10, ..Store::default() };
        FakeNode::alone(Box::new(move |request| store.react(&request.body)))
    }

    /// What it says to a request.
    pub(crate) fn react(&mut self, body: &RequestBody) -> Reaction {
        let body = match body {
            // A farewell: nobody waits for it, and it makes no revision, for it comes at any time.
            RequestBody::Write(Write {
                client,
                operation: Operation::CloseSession { client: closed },
                ..
            }) if client == closed => ResponseBody::Written { outcome: Outcome::Done, cached: false },
            RequestBody::Write(write) => {
                let identity = (write.client.clone(), write.sequence);
                if let Some((revision, operation, outcome)) = self.results.get(&identity) {
                    if *operation != write.operation {
                        return refuse(Refused::SequenceReused);
                    }
                    let body = ResponseBody::Written { outcome: outcome.clone(), cached: true };
                    return Reaction::Answer(*revision, body);
                }
                self.revision += 1;
                let outcome = self.apply(&write.operation);
                let result = (self.revision, write.operation.clone(), outcome.clone());
                self.results.insert(identity, result);
                ResponseBody::Written { outcome, cached: false }
            }
            RequestBody::Get { key, .. } => ResponseBody::Value(self.rows.get(key).cloned()),
            RequestBody::Scan { prefix, after, limit, .. } => self.scan(prefix, after.as_ref(), *limit),
            RequestBody::Status => ResponseBody::Status(Box::new(self.status())),
            RequestBody::Transfer { to: NodeId(1) } => ResponseBody::Transferred,
            RequestBody::Transfer { to } => {
                return refuse(Refused::TransferFailed(format!("node {to} is no member")));
            }
            RequestBody::ListSessions => ResponseBody::Sessions(self.sessions()),
            RequestBody::Snapshot | RequestBody::Backup { .. } => {
                return refuse(Refused::Busy("no snapshots here".into()));
            }
        };
        Reaction::Answer(self.revision, body)
    }

    fn apply(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Put { key, value } => {
                self.rows.insert(key.clone(), value.clone());
                Outcome::Done
            }
            Operation::Delete { key } => match self.rows.remove(key) {
                Some(_) => Outcome::Done,
                None => Outcome::NotFound,
            },
            Operation::CompareAndSet { key, expected, new } => match self.rows.get(key) {
                current if current == expected.as_ref() => {
                    self.rows.insert(key.clone(), new.clone());
                    Outcome::Done
                }
                current => {
                    let truncated = current.is_some_and(|value| value.len() > MAX_MISMATCH_BYTES);
                    let cut = |value: &Bytes| value.slice(..value.len().min(MAX_MISMATCH_BYTES));
                    Outcome::Mismatch { current: current.map(cut), truncated }
                }
            },
            Operation::CloseSession { client } => {
                let before = self.results.len();
                self.results.retain(|(owner, _), _| owner != client);
                if self.results.len() < before { Outcome::Done } else { Outcome::NotFound }
            }
        }
    }

    fn scan(&mut self, prefix: &Bytes, after: Option<&Bytes>, limit: u32) -> ResponseBody {
        self.revision += 1;
        let is_wanted = |key: &Bytes| key.starts_with(prefix) && after.is_none_or(|after| after < key);
        let mut rows = self.rows.iter().filter(|(key, _)| is_wanted(key));
        let page = rows.by_ref().take(limit.min(2) as usize);
        let page = page.map(|(key, value)| (key.clone(), value.clone())).collect();
        ResponseBody::Rows { rows: page, more: rows.next().is_some() }
    }

    fn sessions(&self) -> Vec<SessionInfo> {
        let named = |((client, sequence), (revision, ..)): (&(ClientId, Sequence), &(u64, _, _))| match client
        {
            ClientId::Named(name) => Some(SessionInfo {
                name: name.clone(),
                last_sequence: *sequence,
                kept_results: 1,
                last_write: Revision(*revision),
            }),
            ClientId::Library { .. } => None,
        };
        self.results.iter().filter_map(named).collect()
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            id: NodeId(1),
            role: RoleName::Leader,
            term: Term(5),
            leader: Some(NodeId(1)),
            commit: LogIndex(12),
            applied: LogIndex(11),
            first_index: LogIndex(1),
            last_index: LogIndex(13),
            disk: DiskStatus { fsync: true, free_bytes: 3 << 30, reserve_bytes: 1 << 20 },
            version: "0.1.0".into(),
            members: self.members.clone(),
            bounds: Vec::new(),
        }
    }
}
