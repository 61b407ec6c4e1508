//! Lengths and counts at their limits and beyond, and the largest values in their frames.

use bytes::Bytes;
use kvstore::types::{
    BootNumber, ClientId, ClientName, ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Revision,
    Sequence, Term,
};
use kvstore::wire::client::*;
use kvstore::wire::entry::{Configuration, Entry, Member, Payload, Reached, SnapshotId};
use kvstore::wire::hello::{DialNumber, Inquiry, MemberAddress, PeerHello, Refusal, RefusalReason, Welcome};
use kvstore::wire::peer::{AppendEntries, InstallSnapshot, Message};
use kvstore::wire::{self, DecodeError, Reader, Writer};

use crate::{Format, assert_decodes_to_itself};

fn put(key_bytes: usize, value_bytes: usize) -> Operation {
    Operation::Put { key: vec![b'k'; key_bytes].into(), value: vec![b'v'; value_bytes].into() }
}

fn write_of(operation: Operation) -> Request {
    let client = ClientId::Named(ClientName::new(&[b'n'; ClientName::MAX_BYTES]).unwrap());
    let write = Write { client, sequence: Sequence(1), acknowledged: Sequence(0), operation };
    let silent_leader = Some(SilentLeader { id: NodeId(1), term: Term(1) });
    Request { id: 7, time_left_ms: 5000, silent_leader, body: RequestBody::Write(write) }
}

fn get(key_bytes: usize) -> Request {
    let body = RequestBody::Get { key: vec![b'k'; key_bytes].into(), stale: false };
    Request { id: 7, time_left_ms: 5000, silent_leader: None, body }
}

#[test]
fn key_and_value_at_their_limits_decode() {
    for key_bytes in [1, wire::MAX_KEY_BYTES] {
        assert_decodes_to_itself(&get(key_bytes));
        for value_bytes in [0, wire::MAX_VALUE_BYTES] {
            assert_decodes_to_itself(&write_of(put(key_bytes, value_bytes)));
        }
    }
}

#[test]
fn key_or_value_beyond_its_limit_is_refused_and_the_answer_finds_its_request() {
    let too_long = |what, limit| DecodeError::TooLong { what, length: limit + 1, limit };
    let empty = DecodeError::Invalid("key: it has 1 byte to 4 KiB");
    for (request, error) in [
        (get(0), empty.clone()),
        (get(wire::MAX_KEY_BYTES + 1), too_long("key", wire::MAX_KEY_BYTES)),
        (write_of(put(0, 1)), empty),
        (write_of(put(wire::MAX_KEY_BYTES + 1, 0)), too_long("key", wire::MAX_KEY_BYTES)),
        (write_of(put(1, wire::MAX_VALUE_BYTES + 1)), too_long("value", wire::MAX_VALUE_BYTES)),
    ] {
        assert_eq!(Request::decode(request.encoded()), Err(RequestError { id: Some(7), error }));
    }
}

#[test]
fn client_name_of_no_or_too_many_bytes_is_refused() {
    for length in [0, ClientName::MAX_BYTES + 1] {
        let mut out = Writer::new();
        out.u8(2); // the end of a session
        out.u8(1); // a named one
        out.byte_string(&vec![b'n'; length]);
        assert!(Command::decode(out.into_bytes()).is_err(), "a name of {length} bytes");
    }
}

fn status_without_members() -> NodeStatus {
    let index = LogIndex(1);
    NodeStatus {
        id: NodeId(1),
        role: RoleName::Leader,
        term: Term(1),
        leader: None,
        commit: index,
        applied: index,
        first_index: index,
        last_index: index,
        disk: DiskStatus { fsync: true, free_bytes: 1, reserve_bytes: 1 },
        version: String::new(),
        members: vec![],
        bounds: vec![],
    }
}

/// The longest welcome with this many members.
fn welcome(members: usize) -> Welcome {
    let member = |id| MemberAddress { id: NodeId(id), address: "a".repeat(wire::MAX_ADDRESS_BYTES) };
    Welcome {
        cluster: Some(ClusterId(1)),
        node: NodeId(1),
        cluster_time: ClusterTime(1),
        revision: Revision(1),
        term: Term(1),
        leader: Some(NodeId(1)),
        members: (0..members as u64).map(member).collect(),
    }
}

/// The longest hello of a node that met this many.
fn hello(met: usize) -> PeerHello {
    let member = |id| Member { id: NodeId(id), incarnation: Incarnation(id) };
    PeerHello {
        cluster: Some(ClusterId(1)),
        node: NodeId(1),
        incarnation: Incarnation(1),
        boot: BootNumber(1),
        last_index: LogIndex(1),
        dial: DialNumber(1),
        advertise: "a".repeat(wire::MAX_ADDRESS_BYTES),
        met: (0..met as u64).map(member).collect(),
        restored: Some(Revision(1)),
    }
}

/// Takes a value whose list is empty and ends `after` bytes before its end, and claims 2^32 - 1
/// members there.
fn assert_count_is_not_believed<F: Format>(value: &F, after: usize) {
    let bytes = value.encoded();
    let mut claiming = bytes[..bytes.len() - after - 4].to_vec();
    claiming.extend(u32::MAX.to_le_bytes());
    // Room for so many values of any type here would be 64 GiB or more, and end this test.
    let read = F::read(claiming.into());
    assert!(matches!(read, Err(DecodeError::Truncated { left: 0, .. })), "{value:?}: {read:?}");
}

#[test]
fn list_with_a_count_far_beyond_its_bytes_is_cut_short_and_allocates_nothing_for_it() {
    let append = Message::AppendEntries(AppendEntries {
        term: Term(1),
        prev_log_index: LogIndex(0),
        prev_log_term: Term(0),
        entries: vec![],
        leader_commit: LogIndex(0),
    });
    let answer = |body| Response { id: 1, revision: Revision(1), body };
    let status = answer(ResponseBody::Status(Box::new(status_without_members())));
    assert_count_is_not_believed(&append, 0);
    assert_count_is_not_believed(&answer(ResponseBody::Rows { rows: vec![], more: false }), 1);
    assert_count_is_not_believed(&answer(ResponseBody::Sessions(vec![])), 0);
    assert_count_is_not_believed(&status, 4); // members
    assert_count_is_not_believed(&status, 0); // bounds
    assert_count_is_not_believed(&welcome(0), 0);
    assert_count_is_not_believed(&hello(0), 9); // restored
    assert_count_is_not_believed(&inquiry_about(0), 0);
    let before_members = [0; 16];
    let claiming = [&before_members[..], &u32::MAX.to_le_bytes()].concat();
    let read = Configuration::read(claiming.into());
    assert!(matches!(read, Err(DecodeError::Truncated { left: 0, .. })), "{read:?}");
}

#[test]
fn largest_values_fit_into_their_frames() {
    let value = || Bytes::from(vec![b'v'; wire::MAX_VALUE_BYTES]);
    let key = Bytes::from(vec![b'k'; wire::MAX_KEY_BYTES]);
    let compare =
        write_of(Operation::CompareAndSet { key: key.clone(), expected: Some(value()), new: value() });
    assert!(compare.encoded().len() <= wire::MAX_CLIENT_FRAME_BYTES as usize);

    let RequestBody::Write(write) = compare.body else { unreachable!("it is a write") };
    let command = Payload::Command(Command::Write(write).encoded());
    let entry = Entry::new(LogIndex(1), Term(1), ClusterTime(1), command);
    let append = Message::AppendEntries(AppendEntries {
        term: Term(1),
        prev_log_index: LogIndex(0),
        prev_log_term: Term(0),
        entries: vec![entry],
        leader_commit: LogIndex(0),
    });
    assert_decodes_to_itself(&append);
    assert!(append.encoded().len() <= wire::MAX_PEER_FRAME_BYTES as usize);

    // A page of a scan: as many rows as there may be, or one of the largest size.
    let row_bytes = MAX_SCAN_BYTES / MAX_SCAN_ROWS as usize;
    let small = (Bytes::from_static(b"k"), Bytes::from(vec![b'v'; row_bytes]));
    for rows in [vec![small; MAX_SCAN_ROWS as usize], vec![(key, value())]] {
        let body = ResponseBody::Rows { rows, more: true };
        let page = Response { id: 1, revision: Revision(1), body };
        assert!(page.encoded().len() <= wire::MAX_CLIENT_FRAME_BYTES as usize);
    }
}

#[test]
fn largest_greetings_fit_into_their_frames() {
    let (welcome, hello) = (welcome(wire::MAX_MEMBERS), hello(wire::MAX_MEMBERS));
    let message = "m".repeat(Refusal::MAX_MESSAGE_BYTES);
    let refusal = Refusal { reason: RefusalReason::Stranger, message };
    assert_decodes_to_itself(&welcome);
    assert_decodes_to_itself(&hello);
    assert_decodes_to_itself(&refusal);
    for greeting in [welcome.encoded(), hello.encoded(), refusal.encoded()] {
        assert!(greeting.len() <= wire::MAX_HELLO_BYTES as usize, "{} bytes", greeting.len());
    }
}

#[test]
fn inquiry_about_more_dials_than_may_be_is_refused() {
    let bytes = inquiry_about(Inquiry::MAX_DIALS).encoded();
    assert!(bytes.len() <= wire::MAX_HELLO_BYTES as usize);
    assert!(Inquiry::read(bytes).is_ok());
    assert!(Inquiry::read(inquiry_about(Inquiry::MAX_DIALS + 1).encoded()).is_err());
}

fn inquiry_about(dials: usize) -> Inquiry {
    Inquiry { node: NodeId(1), advertise: String::new(), dials: vec![DialNumber(1); dials] }
}

#[test]
fn refusal_with_line_breaks_in_it_is_logged_as_one_line() {
    let message = "no\n[ERROR] made up\u{1b}[2J".to_owned();
    let refusal = Refusal { reason: RefusalReason::Busy, message };
    assert_eq!(refusal.line(), "no [ERROR] made up [2J");
}

#[test]
fn what_contradicts_itself_is_refused() {
    let no_op = |index, term| {
        Entry::new(LogIndex(index), Term(term), ClusterTime::ZERO, Payload::NoOp { leader: NodeId(1) })
    };
    let append = |entries| {
        let (prev_log_index, prev_log_term) = (LogIndex(4), Term(2));
        Message::AppendEntries(AppendEntries {
            term: Term(3),
            prev_log_index,
            prev_log_term,
            entries,
            leader_commit: LogIndex(4),
        })
    };
    assert_decodes_to_itself(&append(vec![no_op(5, 2), no_op(6, 3)]));
    for entries in [vec![no_op(6, 3)], vec![no_op(5, 3), no_op(7, 3)], vec![no_op(5, 1)], vec![no_op(5, 4)]] {
        let refused = Message::decode(append(entries).encoded());
        assert_eq!(refused, Err(DecodeError::Invalid("order of entries")));
    }
    let chunk = |term, offset| {
        let snapshot = SnapshotId { index: LogIndex(4), term: Term(2), bytes: 100, checksum: 7 };
        let chunk = vec![1; 10].into();
        Message::InstallSnapshot(InstallSnapshot { term: Term(term), snapshot, offset, chunk })
    };
    [chunk(2, 90), chunk(0, 0)].iter().for_each(assert_decodes_to_itself);
    for refused in [chunk(2, 91), chunk(2, u64::MAX), chunk(1, 0)] {
        assert_eq!(Message::decode(refused.encoded()), Err(DecodeError::Invalid("chunk of a snapshot")));
    }
    let backup = |offset| {
        let snapshot = SnapshotId { index: LogIndex(4), term: Term(2), bytes: 100, checksum: 7 };
        let body = ResponseBody::BackupChunk { snapshot, offset, chunk: vec![1; 10].into() };
        Response { id: 1, revision: Revision(4), body }
    };
    assert_decodes_to_itself(&backup(90));
    for refused in [backup(91), backup(u64::MAX)] {
        assert_eq!(Response::decode(refused.encoded()), Err(DecodeError::Invalid("chunk of a snapshot")));
    }
    let mut out = Writer::new();
    Reached { boot: BootNumber(1), before: LogIndex(3), index: LogIndex(2) }.encode(&mut out);
    let refused = Reached::decode(&mut Reader::new(out.into_bytes()));
    assert_eq!(refused, Err(DecodeError::Invalid("index that was reached")));
}
