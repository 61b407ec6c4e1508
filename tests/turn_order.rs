//! The order in which a turn's effects leave a replica: what promises nothing before the disk, what
//! the disk must have first after it. One replica, whose peers are played by the test; its disk and
//! its transport write into one journal.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use kvstore::replica::{ClientConnection, Options, Replica, SnapshotOptions, Transport};
use kvstore::storage::{self, Disk, FileDisk, Storage, WriteError};
use kvstore::time::{Duration, Instant};
use kvstore::types::{
    BootNumber, ClientId, ClientName, ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Sequence, Term,
};
use kvstore::wire::client::{Operation, Request, RequestBody, Response, Write};
use kvstore::wire::entry::{Configuration, Entry, Member, Payload};
use kvstore::wire::peer::*;
use tempfile::TempDir;

/// What happened, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Effect {
    Sent(&'static str),
    Replied(u64),
    Synced,
    /// The log says what is synced.
    Marked,
}

use Effect::{Marked, Replied, Sent, Synced};

#[derive(Clone, Default)]
struct Journal {
    effects: Rc<RefCell<Vec<Effect>>>,
    /// Every sync fails from now on.
    is_disk_dead: Rc<RefCell<bool>>,
    sent: Rc<RefCell<Vec<Message>>>,
}

impl Journal {
    fn note(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }
}

impl Transport for Journal {
    fn send(&mut self, _: NodeId, message: &Message) {
        self.note(Sent(match message {
            Message::PreVote(_) => "PreVote",
            Message::RequestVote(_) => "RequestVote",
            Message::RequestVoteResponse(_) => "RequestVoteResponse",
            Message::AppendEntries(_) => "AppendEntries",
            Message::AppendEntriesResponse(_) => "AppendEntriesResponse",
            Message::Heartbeat(_) => "Heartbeat",
            Message::HeartbeatResponse(_) => "HeartbeatResponse",
            // Nothing depends on when it leaves.
            Message::Standing(_) => return,
            _ => "another",
        }));
        self.sent.borrow_mut().push(message.clone());
    }

    fn reply(&mut self, _: ClientConnection, response: &Response) {
        self.note(Replied(response.id));
    }

    fn flush(&mut self) {}
}

/// A real directory whose syncs are noted.
struct NotedDisk {
    disk: FileDisk,
    journal: Journal,
}

impl Disk for NotedDisk {
    type File = File;

    fn list(&mut self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&mut self, name: &str) -> io::Result<File> {
        self.disk.create(name)
    }

    fn open(&mut self, name: &str) -> io::Result<File> {
        self.disk.open(name)
    }

    fn size(&mut self, file: &File) -> io::Result<u64> {
        self.disk.size(file)
    }

    fn read_at(&mut self, file: &File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.disk.read_at(file, offset, into)
    }

    fn write_at(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        // A marker is alone in its page, and says so at this place.
        if bytes.len() == 4096 && bytes[32] == 3 {
            self.journal.note(Marked);
        }
        self.disk.write_at(file, offset, bytes)
    }

    fn shrink(&mut self, file: &File, size_bytes: u64) -> io::Result<()> {
        self.disk.shrink(file, size_bytes)
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        if *self.journal.is_disk_dead.borrow() {
            return Err(io::Error::other("the disk is dead"));
        }
        self.journal.note(Synced);
        self.disk.sync(file)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_space(&mut self) -> io::Result<u64> {
        self.disk.free_space()
    }

    fn path_of(&self, name: &str) -> String {
        self.disk.path_of(name)
    }
}

const NOW: Instant = Instant::from_millis(1_000);

/// One of three replicas, founded and linked; the others are words of the test.
struct Node {
    replica: Replica<NotedDisk>,
    journal: Journal,
    /// When a sync ends that begins at `NOW`, and how often that was asked.
    synced_at: Instant,
    clock_reads: u32,
    _directory: TempDir,
}

impl Node {
    fn founded(id: u64) -> Self {
        let directory = TempDir::new().unwrap();
        let journal = Journal::default();
        let disk = NotedDisk { disk: FileDisk::open(directory.path()).unwrap(), journal: journal.clone() };
        let small = storage::Options { segment_bytes: 64 << 10, ..storage::Options::default() };
        let (storage, recovered) = Storage::open(disk, NodeId(id), small, Incarnation(id * 11)).unwrap();
        let options = Options {
            address: format!("127.0.0.1:{id}"),
            heartbeat: Duration::from_millis(30),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(250),
            fsync: true,
            seed: id,
            snapshots: SnapshotOptions::default(),
        };
        let replica = Replica::new(options, storage, recovered, NOW).unwrap();
        let mut node = Self { replica, journal, synced_at: NOW, clock_reads: 0, _directory: directory };
        let member = |id| Member { id: NodeId(id), incarnation: Incarnation(id * 11) };
        let configuration = Configuration::new(ClusterId(7), (1..=3).map(member).collect()).unwrap();
        for peer in (1..=3).filter(|peer| *peer != id) {
            node.replica.on_link_up(NOW, NodeId(peer), BootNumber(1), "127.0.0.1:1");
        }
        node.replica.found(NOW, configuration);
        node
    }

    /// Node 1, elected for term 1, its no-op committed.
    fn leading() -> Self {
        let mut node = Self::founded(1);
        node.turn();
        let round = node.pre_vote_round();
        let grant = PreVoteResponse { term: Term(1), round, vote_granted: true };
        node.hear(2, Message::PreVoteResponse(grant));
        node.turn();
        node.hear(2, Message::RequestVoteResponse(RequestVoteResponse { term: Term(1), vote_granted: true }));
        node.turn();
        node.hear(2, matched(1));
        node.hear(3, matched(1));
        node.turn();
        node.hear(2, matched(2));
        node.hear(3, matched(2));
        node.turn();
        assert_eq!(node.replica.raft().log().committed(), LogIndex(2));
        node
    }

    fn pre_vote_round(&self) -> u64 {
        let sent = self.journal.sent.borrow();
        let mut rounds = sent.iter().filter_map(|message| match message {
            Message::PreVote(pre_vote) => Some(pre_vote.round),
            _ => None,
        });
        rounds.next_back().expect("it asked for pre-votes")
    }

    fn hear(&mut self, from: u64, message: Message) {
        self.replica.on_message(NOW, NodeId(from), message);
    }

    fn put(&mut self, request: u64) {
        let operation = Operation::Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v") };
        let client = ClientId::Named(ClientName::new(b"me").unwrap());
        let write = Write { client, sequence: Sequence(request), acknowledged: Sequence(0), operation };
        let body = RequestBody::Write(write);
        let request = Request { id: request, time_left_ms: 5_000, silent_leader: None, body };
        self.replica.on_request(NOW, ClientConnection(1), request);
    }

    /// One turn's end; its effects.
    fn try_turn(&mut self) -> (Result<(), WriteError>, Vec<Effect>) {
        self.journal.effects.borrow_mut().clear();
        let after_sync = || {
            self.clock_reads += 1;
            self.synced_at
        };
        let result = self.replica.process_ready(NOW, after_sync, &mut self.journal);
        (result, self.journal.effects.borrow().clone())
    }

    fn turn(&mut self) -> Vec<Effect> {
        let (result, effects) = self.try_turn();
        result.unwrap();
        effects
    }
}

fn matched(match_index: u64) -> Message {
    let result = AppendResult::Match { match_index: LogIndex(match_index) };
    Message::AppendEntriesResponse(AppendEntriesResponse { term: Term(1), result })
}

fn request_vote() -> Message {
    Message::RequestVote(RequestVote {
        term: Term(1),
        last_log_index: LogIndex(1),
        last_log_term: Term(0),
        leadership_transfer: false,
    })
}

fn append_no_op() -> Message {
    let no_op = Payload::NoOp { leader: NodeId(1) };
    Message::AppendEntries(AppendEntries {
        term: Term(1),
        prev_log_index: LogIndex(1),
        prev_log_term: Term(0),
        entries: vec![Entry::new(LogIndex(2), Term(1), ClusterTime::ZERO, no_op)],
        leader_commit: LogIndex(1),
    })
}

#[test]
fn vote_leaves_after_the_disk_has_it() {
    let mut node = Node::founded(2);
    node.turn();
    node.hear(1, request_vote());
    assert_eq!(node.turn(), [Synced, Marked, Sent("RequestVoteResponse")]);
}

#[test]
fn vote_that_the_disk_did_not_take_never_leaves() {
    let mut node = Node::founded(2);
    node.turn();
    node.hear(1, request_vote());
    *node.journal.is_disk_dead.borrow_mut() = true;
    let (result, effects) = node.try_turn();
    assert!(result.is_err());
    assert_eq!(effects, []);
}

#[test]
fn heartbeat_is_answered_before_the_disk_and_entries_after_it() {
    let mut node = Node::founded(2);
    node.hear(1, request_vote());
    node.turn();
    node.hear(1, append_no_op());
    node.hear(1, Message::Heartbeat(Heartbeat { term: Term(1), commit: LogIndex(1), round: 1 }));
    assert_eq!(node.turn(), [Sent("HeartbeatResponse"), Synced, Marked, Sent("AppendEntriesResponse")]);
}

#[test]
fn candidate_asks_for_votes_after_the_disk_has_its_own() {
    let mut node = Node::founded(1);
    assert_eq!(node.turn(), [Sent("PreVote"), Sent("PreVote"), Synced, Marked]);
    let grant = PreVoteResponse { term: Term(1), round: node.pre_vote_round(), vote_granted: true };
    node.hear(2, Message::PreVoteResponse(grant));
    assert_eq!(node.turn(), [Synced, Marked, Sent("RequestVote"), Sent("RequestVote")]);
}

#[test]
fn time_is_told_again_after_a_sync_only_and_a_candidates_patience_begins_then() {
    let mut node = Node::founded(1);
    node.turn();
    let grant = PreVoteResponse { term: Term(1), round: node.pre_vote_round(), vote_granted: true };
    node.hear(2, Message::PreVoteResponse(grant));
    node.synced_at = NOW + Duration::from_millis(100);
    node.clock_reads = 0;
    node.turn();
    assert_eq!(node.clock_reads, 1);
    node.replica.tick(node.synced_at + Duration::from_millis(36));
    assert_eq!(node.turn(), [], "a slow disk has taken nothing of its patience");
    assert_eq!(node.clock_reads, 1, "nothing was synced");
    node.replica.tick(node.synced_at + Duration::from_millis(76));
    assert_eq!(node.turn(), [Sent("PreVote"), Sent("PreVote")]);
}

#[test]
fn entries_leave_for_the_followers_before_the_leaders_own_disk() {
    let mut node = Node::leading();
    node.put(1);
    assert_eq!(node.turn(), [Sent("AppendEntries"), Sent("AppendEntries"), Synced, Marked]);
}

#[test]
fn committed_write_is_answered_before_the_disk_takes_the_next_one() {
    let mut node = Node::leading();
    node.put(1);
    node.turn();
    node.hear(2, matched(3));
    node.put(2);
    let effects = node.turn();
    let place = |wanted| effects.iter().position(|effect| *effect == wanted).expect("it happened");
    assert!(place(Sent("AppendEntries")) < place(Replied(1)), "{effects:?}");
    assert!(place(Replied(1)) < place(Synced), "{effects:?}");
    assert!(!effects.contains(&Replied(2)), "one disk is no majority: {effects:?}");
}
