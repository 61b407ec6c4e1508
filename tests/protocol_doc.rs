//! Holds `docs/protocol.md` to the code: every hex listing, every refusal code, every limit.
//!
//! The listings were not printed by this program, so a mistake in either of the two shows.

use bytes::Bytes;
use kvstore::types::{
    ClientId, ClientName, ClusterId, ClusterTime, LogIndex, NodeId, Revision, Sequence, Term,
};
use kvstore::wire::client::*;
use kvstore::wire::entry::SnapshotId;
use kvstore::wire::frame::{self, Decoder, FrameKind};
use kvstore::wire::hello::{MemberAddress, Refusal, RefusalReason, Welcome};
use kvstore::wire::{
    MAX_CLIENT_FRAME_BYTES, MAX_HELLO_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Reader, Writer,
};

const DOCUMENT: &str = include_str!("../docs/protocol.md");

/// The listings of the document: their names, and their bytes.
fn listings() -> Vec<(&'static str, Vec<u8>)> {
    let blocks = DOCUMENT.split("\n```hex ").skip(1);
    let listing = |block: &'static str| {
        let (name, rest) = block.split_once('\n').expect("a listing has lines");
        let (lines, _) = rest.split_once("\n```").expect("a listing ends");
        let hex = lines.lines().map(|line| line.split("  ").next().expect("split gives a part"));
        let bytes = hex.flat_map(str::split_whitespace);
        (name, bytes.map(|byte| u8::from_str_radix(byte, 16).expect("a byte in hex")).collect())
    };
    blocks.map(listing).collect()
}

fn framed(kind: FrameKind, write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::new();
    frame::encode(kind, &mut out, write);
    out.into_bytes().to_vec()
}

fn request(id: u64, time_left_ms: u32, body: RequestBody) -> Vec<u8> {
    let request = Request { id, time_left_ms, silent_leader: None, body };
    framed(FrameKind::Request, |out| request.encode(out))
}

fn response(id: u64, revision: u64, body: ResponseBody) -> Vec<u8> {
    let response = Response { id, revision: Revision(revision), body };
    framed(FrameKind::Response, |out| response.encode(out))
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn member(id: u64, address: &str) -> MemberAddress {
    MemberAddress { id: NodeId(id), address: address.to_owned() }
}

fn library() -> ClientId {
    ClientId::Library { born: ClusterTime(73_500), nonce: 0x0123_4567_89AB_CDEF }
}

fn billing() -> ClientName {
    ClientName::new(b"billing").expect("seven bytes")
}

/// The one of `docs/formats.md`.
fn snapshot() -> SnapshotId {
    SnapshotId { index: LogIndex(300), term: Term(4), bytes: 4117, checksum: 0xF3C9_8310 }
}

fn write(client: ClientId, sequence: u64, acknowledged: u64, operation: Operation) -> RequestBody {
    let (sequence, acknowledged) = (Sequence(sequence), Sequence(acknowledged));
    RequestBody::Write(Write { client, sequence, acknowledged, operation })
}

fn greetings() -> Vec<(&'static str, Vec<u8>)> {
    let welcome = Welcome {
        cluster: Some(ClusterId(0x0102_0304_0506_0708_090A_0B0C_0D0E_0F10)),
        node: NodeId(2),
        cluster_time: ClusterTime(73_500),
        revision: Revision(42),
        term: Term(3),
        leader: Some(NodeId(1)),
        members: vec![member(1, "10.0.0.1:9001"), member(2, "10.0.0.2:9001"), member(3, "")],
    };
    let message = "frame of 3000000 bytes, at most 2105344 are allowed here".to_owned();
    let refusal = Refusal { reason: RefusalReason::FrameTooLarge, message };
    vec![
        ("client-hello", framed(FrameKind::ClientHello, |_| {})),
        ("welcome", framed(FrameKind::Welcome, |out| welcome.encode(out))),
        ("refusal", framed(FrameKind::Refusal, |out| refusal.encode(out))),
    ]
}

fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let put = Operation::Put { key: bytes("colour"), value: bytes("blue") };
    let delete = Operation::Delete { key: bytes("color") };
    let close = Operation::CloseSession { client: ClientId::Named(billing()) };
    let compare =
        Operation::CompareAndSet { key: bytes("colour"), expected: Some(bytes("red")), new: bytes("green") };
    let compare = Request {
        id: 3,
        time_left_ms: 1200,
        silent_leader: Some(SilentLeader { id: NodeId(1), term: Term(3) }),
        body: write(ClientId::Named(billing()), 7, 0, compare),
    };
    let scan =
        RequestBody::Scan { prefix: bytes("co"), after: Some(bytes("color")), limit: 100, stale: false };
    vec![
        ("put", request(1, 5000, write(library(), 1, 1, put))),
        ("delete", request(2, 5000, write(library(), 2, 2, delete))),
        ("compare-and-set", framed(FrameKind::Request, |out| compare.encode(out))),
        ("get", request(4, 5000, RequestBody::Get { key: bytes("colour"), stale: false })),
        ("scan", request(6, 5000, scan)),
        ("status", request(7, 1000, RequestBody::Status)),
        ("transfer", request(8, 5000, RequestBody::Transfer { to: NodeId(3) })),
        ("list-sessions", request(9, 5000, RequestBody::ListSessions)),
        ("close-session", request(10, 5000, write(library(), 3, 3, close))),
        ("snapshot", request(11, 60_000, RequestBody::Snapshot)),
        ("backup", request(12, 60_000, RequestBody::Backup { snapshot: None, offset: 0 })),
        (
            "backup-next",
            request(13, 60_000, RequestBody::Backup { snapshot: Some(snapshot()), offset: 4112 }),
        ),
    ]
}

fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let written = |outcome, cached| ResponseBody::Written { outcome, cached };
    let mismatch = Outcome::Mismatch { current: Some(bytes("blue")), truncated: false };
    let rows = ResponseBody::Rows { rows: vec![(bytes("colour"), bytes("blue"))], more: false };
    let status = NodeStatus {
        id: NodeId(2),
        role: RoleName::Follower,
        term: Term(3),
        leader: Some(NodeId(1)),
        commit: LogIndex(45),
        applied: LogIndex(45),
        first_index: LogIndex(1),
        last_index: LogIndex(46),
        disk: DiskStatus { fsync: true, free_bytes: 3 << 30, reserve_bytes: 100 << 20 },
        version: "0.1.0".to_owned(),
        members: vec![member(2, "h:1")],
        bounds: vec![Bound { name: "parked_requests".to_owned(), used: 0, cap: 4096 }],
    };
    let session = SessionInfo {
        name: billing(),
        last_sequence: Sequence(7),
        kept_results: 1,
        last_write: Revision(45),
    };
    let chunk = Bytes::from_static(&[0x00, 0x10, 0x83, 0xC9, 0xF3]);
    let chunk = ResponseBody::BackupChunk { snapshot: snapshot(), offset: 4112, chunk };
    let refused = |refused| response(1, 42, ResponseBody::Refused(refused));
    let busy = "the log waits for a majority of disks; try again in a moment".to_owned();
    let not_leader = Refused::NotLeader { term: Term(3), leader: Some(member(1, "10.0.0.1:9001")) };
    vec![
        ("written", response(1, 43, written(Outcome::Done, false))),
        ("written-not-found", response(2, 44, written(Outcome::NotFound, false))),
        ("written-mismatch", response(3, 45, written(mismatch, true))),
        ("value", response(4, 45, ResponseBody::Value(Some(bytes("blue"))))),
        ("value-absent", response(5, 45, ResponseBody::Value(None))),
        ("rows", response(6, 45, rows)),
        ("status-answer", response(7, 45, ResponseBody::Status(Box::new(status)))),
        ("transferred", response(8, 46, ResponseBody::Transferred)),
        ("sessions", response(9, 46, ResponseBody::Sessions(vec![session]))),
        ("snapshot-saved", response(11, 300, ResponseBody::SnapshotSaved(snapshot()))),
        ("backup-chunk", response(13, 312, chunk)),
        ("not-leader", refused(not_leader)),
        ("no-leader", refused(Refused::NoLeader)),
        ("busy", refused(Refused::Busy(busy))),
    ]
}

fn assert_document_has(row: &str) {
    assert!(DOCUMENT.contains(row), "docs/protocol.md has no row that begins with {row:?}");
}

/// A number as people read it.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

#[test]
fn each_hex_listing_is_what_the_code_writes() {
    let expected: Vec<_> = [greetings(), requests(), answers()].into_iter().flatten().collect();
    for (name, bytes) in listings() {
        let (_, expected) = expected
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("listing {name:?} is not known here: add its value"));
        assert_eq!(&bytes, expected, "the code writes {name:?} differently");
    }
    for (name, _) in expected {
        assert!(listings().iter().any(|(listed, _)| *listed == name), "listing {name:?} is missing");
    }
}

#[test]
fn each_hex_listing_is_a_frame_that_the_code_reads() {
    for (name, bytes) in listings() {
        let mut decoder = Decoder::new(MAX_CLIENT_FRAME_BYTES);
        decoder.push(&bytes);
        let frame = decoder.next().expect(name).expect(name);
        assert_eq!(decoder.buffered(), 0, "{name:?} is longer than its frame");
        match frame.kind {
            FrameKind::Request => drop(Request::decode(frame.payload).expect(name)),
            FrameKind::Response => drop(Response::decode(frame.payload).expect(name)),
            FrameKind::Welcome => drop(Welcome::decode(&mut Reader::new(frame.payload)).expect(name)),
            FrameKind::Refusal => drop(Refusal::decode(&mut Reader::new(frame.payload)).expect(name)),
            FrameKind::ClientHello => assert!(frame.payload.is_empty()),
            kind => panic!("{name:?} is a {kind:?}, which no client sees"),
        }
    }
}

#[test]
fn checksum_examples_are_those_of_the_code() {
    assert_document_has(&format!("`{:08X}`", crc32c::crc32c(b"123456789")));
    let header = b"KV\x01\x02\0\0\0\0";
    for end in 1..=header.len() {
        let state = !crc32c::crc32c(&header[..end]);
        assert_document_has(&format!("| `{:02X}` | `{state:08X}` |", header[end - 1]));
    }
}

#[test]
fn each_refusal_code_is_listed_as_definite_or_unknown() {
    let text = || "x".to_owned();
    let refusals = [
        Refused::NotLeader { term: Term(1), leader: None },
        Refused::NoLeader,
        Refused::Busy(text()),
        Refused::TooLarge(text()),
        Refused::Malformed(text()),
        Refused::SequenceReused,
        Refused::SessionExpired,
        Refused::OutcomeForgotten,
        Refused::LeadershipLost,
        Refused::TransferFailed(text()),
        Refused::NoSpace(text()),
    ];
    let rows: Vec<Vec<&str>> = DOCUMENT
        .lines()
        .skip_while(|line| !line.starts_with("| code | name |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), refusals.len());
    for (row, refused) in rows.iter().zip(refusals) {
        let code = response(0, 0, ResponseBody::Refused(refused.clone()))[frame::HEADER_BYTES + 17];
        let name = format!("{refused:?}");
        let name = name.split([' ', '(']).next().expect("a name");
        let word = if refused.is_definite() { "definite" } else { "unknown" };
        assert_eq!(row[1..3], [code.to_string(), format!("`{name}`")]);
        assert_eq!(row[4], word, "{name}");
    }
}

#[test]
fn each_limit_is_the_one_of_the_code() {
    let sessions = kvstore::kv::Limits::STANDARD;
    let lifetime_ms = usize::try_from(sessions.lifetime.as_millis()).expect("minutes");
    for (limit, value) in [
        ("key", format!("1 to {} bytes", grouped(MAX_KEY_BYTES))),
        ("value", format!("0 to {} bytes", grouped(MAX_VALUE_BYTES))),
        ("prefix of a scan", format!("0 to {} bytes", grouped(MAX_KEY_BYTES))),
        (
            "payload of a frame before and during the handshake",
            format!("{} bytes", grouped(MAX_HELLO_BYTES as usize)),
        ),
        (
            "payload of a frame after it, in both directions",
            format!("{} bytes", grouped(MAX_CLIENT_FRAME_BYTES as usize)),
        ),
        ("rows in one answer to a scan", grouped(MAX_SCAN_ROWS as usize)),
        (
            "bytes of keys and values in one answer to a scan, but for a single larger row",
            grouped(MAX_SCAN_BYTES),
        ),
        ("name of a session", format!("1 to {} bytes", ClientName::MAX_BYTES)),
        ("results kept for one session", grouped(sessions.window)),
        ("library session, after its last write", format!("{} ms of cluster time", grouped(lifetime_ms))),
        ("value carried by a mismatch", format!("{} bytes", grouped(MAX_MISMATCH_BYTES))),
        ("text of a refused connection", format!("{} bytes", grouped(Refusal::MAX_MESSAGE_BYTES))),
    ] {
        assert_document_has(&format!("| {limit} | {value} |"));
    }
}
