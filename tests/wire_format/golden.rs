//! The bytes of some values, written out by hand: whoever changes one of these changes the
//! protocol or the disk, and must say so with a new version.
//!
//! Checksums were computed by an independent implementation of CRC-32C.

use bytes::Bytes;
use kvstore::types::{
    BootNumber, ClientId, ClientName, ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Revision,
    Sequence, Term,
};
use kvstore::wire::Writer;
use kvstore::wire::client::*;
use kvstore::wire::entry::{Configuration, Entry, HardState, Member, Payload, Reached, SnapshotId};
use kvstore::wire::frame::{self, Decoder, Frame, FrameKind};
use kvstore::wire::hello::{
    Confirmation, DialNumber, Inquiry, MemberAddress, PeerHello, Refusal, RefusalReason, Welcome,
};
use kvstore::wire::peer::*;

use crate::Format;

/// The bytes of a listing: a line has bytes in hex with one space between, then two spaces or
/// more and what they are.
fn listed(listing: &str) -> Bytes {
    let bytes = listing.lines().flat_map(|line| {
        let hex = line.trim_start().split("  ").next().expect("split gives at least one part");
        hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("a byte in hex"))
    });
    bytes.collect()
}

fn assert_bytes<F: Format>(value: &F, listing: &str) {
    assert_eq!(value.encoded(), listed(listing), "{value:?} is encoded differently");
    assert_eq!(F::read(listed(listing)).as_ref(), Ok(value));
}

fn assert_frame<F: Format>(kind: FrameKind, value: &F, listing: &str) {
    let mut out = Writer::new();
    frame::encode(kind, &mut out, |out| value.write(out));
    assert_eq!(out.into_bytes(), listed(listing), "the frame of {value:?} is different");
    let mut decoder = Decoder::new(100);
    decoder.push(&listed(listing));
    assert_eq!(decoder.next(), Ok(Some(Frame { kind, payload: value.encoded() })));
    assert_eq!(F::read(value.encoded()).as_ref(), Ok(value));
}

#[test]
fn frame_of_a_client_hello_is_a_bare_header() {
    assert_frame(
        FrameKind::ClientHello,
        &kvstore::wire::hello::ClientHello,
        "4B 56  magic
         01  version
         02  kind: client hello
         00 00 00 00  length
         D7 2F 4F 03  checksum",
    );
}

#[test]
fn frame_of_a_get() {
    let body = RequestBody::Get { key: Bytes::from_static(b"a"), stale: false };
    assert_frame(
        FrameKind::Request,
        &Request { id: 7, time_left_ms: 5000, silent_leader: None, body },
        "4B 56  magic
         01  version
         06  kind: request
         14 00 00 00  length: 20
         23 36 05 D9  checksum
         07 00 00 00 00 00 00 00  request id: 7
         88 13 00 00  time left: 5000 ms
         00  no silent leader
         02  type: get
         01 00 00 00 61  key: a
         00  not stale",
    );
}

#[test]
fn frame_of_a_value() {
    let body = ResponseBody::Value(Some(Bytes::from_static(b"v1")));
    assert_frame(
        FrameKind::Response,
        &Response { id: 7, revision: Revision(42), body },
        "4B 56  magic
         01  version
         07  kind: response
         18 00 00 00  length: 24
         E7 FE 36 3C  checksum
         07 00 00 00 00 00 00 00  request id: 7
         2A 00 00 00 00 00 00 00  revision: 42
         02  type: value
         01  there is one
         02 00 00 00 76 31  v1",
    );
}

#[test]
fn frame_of_a_heartbeat() {
    assert_frame(
        FrameKind::Message,
        &Message::Heartbeat(Heartbeat { term: Term(3), commit: LogIndex(258), round: 9 }),
        "4B 56  magic
         01  version
         05  kind: message
         19 00 00 00  length: 25
         56 AC D9 C9  checksum
         07  type: heartbeat
         03 00 00 00 00 00 00 00  term: 3
         02 01 00 00 00 00 00 00  commit: 258
         09 00 00 00 00 00 00 00  round: 9",
    );
}

#[test]
fn chunk_of_a_snapshot_and_its_answer() {
    let (index, term) = (LogIndex(258), Term(2));
    let snapshot = SnapshotId { index, term, bytes: 16, checksum: 0x0102_0304 };
    let chunk = Bytes::from_static(b"ab");
    assert_bytes(
        &Message::InstallSnapshot(InstallSnapshot { term: Term(3), snapshot, offset: 5, chunk }),
        "0D  type: install snapshot
         03 00 00 00 00 00 00 00  term: 3
         02 01 00 00 00 00 00 00  index of the snapshot: 258
         02 00 00 00 00 00 00 00  its term: 2
         10 00 00 00 00 00 00 00  its size: 16 bytes
         04 03 02 01  its checksum
         05 00 00 00 00 00 00 00  offset: 5
         02 00 00 00 61 62  chunk",
    );
    let result = InstallResult::Received { offset: 7 };
    assert_bytes(
        &Message::InstallSnapshotResponse(InstallSnapshotResponse { term: Term(3), snapshot, result }),
        "0E  type: install snapshot response
         03 00 00 00 00 00 00 00  term: 3
         02 01 00 00 00 00 00 00  index of the snapshot: 258
         02 00 00 00 00 00 00 00  its term: 2
         10 00 00 00 00 00 00 00  its size: 16 bytes
         04 03 02 01  its checksum
         00  received
         07 00 00 00 00 00 00 00  up to: 7",
    );
}

#[test]
fn standing_of_a_member_and_what_it_saw() {
    let room = Room { free_bytes: 0x0302, reserve_bytes: 0x0303, level: RoomLevel::Low };
    let reached = Reached { boot: BootNumber(4), before: LogIndex(7), index: LogIndex(258) };
    assert_bytes(
        &Message::Standing(Standing { room, reached: vec![(NodeId(2), reached)] }),
        "0F  type: standing
         02 03 00 00 00 00 00 00  bytes free
         03 03 00 00 00 00 00 00  bytes kept in reserve
         01  low
         01 00 00 00  one
         02 00 00 00 00 00 00 00  node: 2
         04 00 00 00 00 00 00 00  boot: 4
         07 00 00 00 00 00 00 00  its earlier boots had: 7
         02 01 00 00 00 00 00 00  it has: 258",
    );
}

#[test]
fn frame_of_a_refusal() {
    let message = String::from("stranger");
    assert_frame(
        FrameKind::Refusal,
        &Refusal { reason: RefusalReason::Stranger, message },
        "4B 56  magic
         01  version
         04  kind: refusal
         0D 00 00 00  length: 13
         2D 78 47 12  checksum
         05  reason: stranger
         08 00 00 00 73 74 72 61 6E 67 65 72  stranger",
    );
}

#[test]
fn hello_of_a_peer_before_the_founding() {
    let hello = PeerHello {
        cluster: None,
        node: NodeId(2),
        incarnation: Incarnation(0xA1B2),
        boot: BootNumber(1),
        last_index: LogIndex(0x0301),
        dial: DialNumber(0xD1A1),
        advertise: String::from("h:9002"),
        met: vec![Member { id: NodeId(2), incarnation: Incarnation(0xA1B2) }],
        restored: Some(Revision(300)),
    };
    assert_bytes(
        &hello,
        "00  no cluster yet
         02 00 00 00 00 00 00 00  node: 2
         B2 A1 00 00 00 00 00 00  incarnation
         01 00 00 00 00 00 00 00  boot: 1
         01 03 00 00 00 00 00 00  last index on its disk
         A1 D1 00 00 00 00 00 00  dial
         06 00 00 00 68 3A 39 30 30 32  advertise: h:9002
         01 00 00 00  met: one
         02 00 00 00 00 00 00 00  node: 2
         B2 A1 00 00 00 00 00 00  incarnation
         01 2C 01 00 00 00 00 00 00  restored: revision 300",
    );
}

#[test]
fn inquiry_about_two_dials_and_its_answer() {
    let dials = vec![DialNumber(0xD1A1), DialNumber(0xD1A2)];
    let inquiry = Inquiry { node: NodeId(3), advertise: "h:9003".to_owned(), dials };
    assert_bytes(
        &inquiry,
        "03 00 00 00 00 00 00 00  node: 3
         06 00 00 00 68 3A 39 30 30 33  advertise: h:9003
         02 00 00 00  dials: two
         A1 D1 00 00 00 00 00 00  the first
         A2 D1 00 00 00 00 00 00  the second",
    );
    let confirmation = Confirmation {
        node: NodeId(2),
        incarnation: Incarnation(0xA1B2),
        boot: BootNumber(1),
        dials: vec![DialNumber(0xD1A1)],
    };
    assert_bytes(
        &confirmation,
        "02 00 00 00 00 00 00 00  node: 2
         B2 A1 00 00 00 00 00 00  incarnation
         01 00 00 00 00 00 00 00  boot: 1
         01 00 00 00  its own dials: one
         A1 D1 00 00 00 00 00 00  the first",
    );
}

#[test]
fn welcome_of_a_leader() {
    let welcome = Welcome {
        cluster: Some(ClusterId(0x0102)),
        node: NodeId(1),
        cluster_time: ClusterTime(1000),
        revision: Revision(42),
        term: Term(3),
        leader: Some(NodeId(1)),
        members: vec![MemberAddress { id: NodeId(1), address: String::from("h:1") }],
    };
    assert_bytes(
        &welcome,
        "01 02 01 00 00 00 00 00 00 00 00 00 00 00 00 00 00  cluster
         01 00 00 00 00 00 00 00  node: 1
         E8 03 00 00 00 00 00 00  cluster time: 1000 ms
         2A 00 00 00 00 00 00 00  revision: 42
         03 00 00 00 00 00 00 00  term: 3
         01 01 00 00 00 00 00 00 00  leader: 1
         01 00 00 00  members: one
         01 00 00 00 00 00 00 00  node: 1
         03 00 00 00 68 3A 31  h:1",
    );
}

#[test]
fn append_entries_with_a_no_op() {
    let no_op = Entry::new(LogIndex(6), Term(3), ClusterTime(255), Payload::NoOp { leader: NodeId(2) });
    let message = AppendEntries {
        term: Term(3),
        prev_log_index: LogIndex(5),
        prev_log_term: Term(2),
        entries: vec![no_op],
        leader_commit: LogIndex(4),
    };
    assert_bytes(
        &Message::AppendEntries(message),
        "05  type: append entries
         03 00 00 00 00 00 00 00  term: 3
         05 00 00 00 00 00 00 00  prev log index: 5
         02 00 00 00 00 00 00 00  prev log term: 2
         04 00 00 00 00 00 00 00  leader commit: 4
         01 00 00 00  entries: one
         21 00 00 00  of 33 bytes
         06 00 00 00 00 00 00 00  index: 6
         03 00 00 00 00 00 00 00  term: 3
         FF 00 00 00 00 00 00 00  stamp: 255 ms
         00  type: no-op
         02 00 00 00 00 00 00 00  leader: 2",
    );
}

#[test]
fn append_entries_response_of_a_conflict() {
    let (prev_log_index, hint_index) = (LogIndex(5), LogIndex(4));
    let result = AppendResult::Conflict { prev_log_index, hint_index, hint_term: Term(1) };
    assert_bytes(
        &Message::AppendEntriesResponse(AppendEntriesResponse { term: Term(3), result }),
        "06  type: append entries response
         03 00 00 00 00 00 00 00  term: 3
         01  result: conflict
         05 00 00 00 00 00 00 00  prev log index: 5
         04 00 00 00 00 00 00 00  hint index: 4
         01 00 00 00 00 00 00 00  hint term: 1",
    );
}

#[test]
fn request_vote_of_a_transfer() {
    let vote = RequestVote {
        term: Term(4),
        last_log_index: LogIndex(6),
        last_log_term: Term(3),
        leadership_transfer: true,
    };
    assert_bytes(
        &Message::RequestVote(vote),
        "03  type: request vote
         04 00 00 00 00 00 00 00  term: 4
         06 00 00 00 00 00 00 00  last log index: 6
         03 00 00 00 00 00 00 00  last log term: 3
         01  leadership transfer",
    );
}

#[test]
fn entry_with_the_founding_configuration() {
    let member = |id, incarnation| Member { id: NodeId(id), incarnation: Incarnation(incarnation) };
    let configuration = Configuration::new(ClusterId(0xFF), vec![member(2, 20), member(1, 10)]);
    let payload = Payload::Configuration(configuration.expect("two distinct members"));
    assert_bytes(
        &Entry::new(LogIndex(1), Term(1), ClusterTime::ZERO, payload),
        "01 00 00 00 00 00 00 00  index: 1
         01 00 00 00 00 00 00 00  term: 1
         00 00 00 00 00 00 00 00  stamp: 0 ms
         01  type: configuration
         FF 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  cluster
         02 00 00 00  members: two, ids ascending
         01 00 00 00 00 00 00 00  node: 1
         0A 00 00 00 00 00 00 00  incarnation: 10
         02 00 00 00 00 00 00 00  node: 2
         14 00 00 00 00 00 00 00  incarnation: 20",
    );
}

#[test]
fn command_of_a_named_compare_and_set() {
    let operation = Operation::CompareAndSet {
        key: Bytes::from_static(b"k"),
        expected: None,
        new: Bytes::from_static(b"new"),
    };
    let client = ClientId::Named(ClientName::new(b"me").expect("two bytes"));
    let write = Write { client, sequence: Sequence(5), acknowledged: Sequence(4), operation };
    assert_bytes(
        &Command::Write(write),
        "01  type: write
         01 02 00 00 00 6D 65  client: named, me
         05 00 00 00 00 00 00 00  sequence: 5
         04 00 00 00 00 00 00 00  acknowledged: 4
         03  operation: compare and set
         01 00 00 00 6B  key: k
         00  expected: absent
         03 00 00 00 6E 65 77  new: new",
    );
}

#[test]
fn command_that_closes_a_library_session() {
    let client = ClientId::Library { born: ClusterTime(1000), nonce: 0xAB };
    let operation = Operation::CloseSession { client: client.clone() };
    let write = Write { client, sequence: Sequence(2), acknowledged: Sequence(2), operation };
    assert_bytes(
        &Command::Write(write),
        "01  type: write
         00  client: library
         E8 03 00 00 00 00 00 00  born: 1000 ms
         AB 00 00 00 00 00 00 00  nonce
         02 00 00 00 00 00 00 00  sequence: 2
         02 00 00 00 00 00 00 00  acknowledged: 2
         04  operation: close session
         00  of a client: library
         E8 03 00 00 00 00 00 00  born: 1000 ms
         AB 00 00 00 00 00 00 00  nonce",
    );
}

#[test]
fn answer_of_a_node_that_does_not_lead() {
    let leader = Some(MemberAddress { id: NodeId(2), address: String::from("h:2") });
    let body = ResponseBody::Refused(Refused::NotLeader { term: Term(3), leader });
    assert_bytes(
        &Response { id: 7, revision: Revision(42), body },
        "07 00 00 00 00 00 00 00  request id: 7
         2A 00 00 00 00 00 00 00  revision: 42
         08  type: refused
         01  not leader
         03 00 00 00 00 00 00 00  term: 3
         01  the leader is known
         02 00 00 00 00 00 00 00  node: 2
         03 00 00 00 68 3A 32  h:2",
    );
}

#[test]
fn hard_state_with_a_vote() {
    assert_bytes(
        &HardState { term: Term(3), voted_for: Some(NodeId(2)) },
        "03 00 00 00 00 00 00 00  term: 3
         01 02 00 00 00 00 00 00 00  voted for: 2",
    );
}
