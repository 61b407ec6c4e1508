use super::*;
use crate::storage::Batch;
use crate::storage::state::encode_batch;
use crate::types::{ClusterTime, Term};
use crate::wire::entry::{Entry, HardState, Payload};

fn example_header() -> SegmentHeader {
    SegmentHeader {
        segment: 1,
        size_bytes: 16 << 20,
        node: NodeId(2),
        incarnation: Incarnation(0x1122_3344_5566_7788),
        first_index: LogIndex(1),
        first_record: 1,
        synced_upto: 1,
        previous: 0,
        cluster: None,
    }
}

/// A vote for node 3 in term 5 and its no-op, as record 9 at offset 4184.
fn example_record() -> Bytes {
    let entry = Entry::new(LogIndex(7), Term(5), ClusterTime(1000), Payload::NoOp { leader: NodeId(3) });
    let hard_state = HardState { term: Term(5), voted_for: Some(NodeId(3)) };
    let batch = Batch { hard_state: Some(hard_state), entries: &[entry], peers: &[] };
    let link = Link { previous: 0xAABB_CCDD, number: 9, synced_upto: 8 };
    let mut out = Writer::new();
    put_record(&mut out, (example_header().salt(), 4184), link, RecordKind::Batch, &encode_batch(&batch));
    out.into_bytes()
}

/// Lines of sixteen bytes as `docs/formats.md` shows them, without those that are all zeroes.
pub(in crate::storage) fn hex_lines(bytes: &[u8]) -> Vec<String> {
    let lines = bytes.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|byte| *byte != 0));
    let hex = |line: &[u8]| line.iter().map(|byte| format!(" {byte:02x}")).collect::<String>();
    lines.map(|(number, line)| format!("{:04x} {}", number * 16, hex(line))).collect()
}

#[test]
fn header_and_record_are_the_bytes_that_the_documentation_shows() {
    let documentation = include_str!("../../docs/formats.md");
    for example in [example_header().encode(), example_record()] {
        let lines = hex_lines(&example);
        let missing = lines.iter().filter(|line| !documentation.contains(*line)).count();
        assert_eq!(missing, 0, "docs/formats.md must show\n{}", lines.join("\n"));
    }
}

#[test]
fn header_page_decodes_to_itself() {
    for cluster in [None, Some(ClusterId(u128::MAX)), Some(ClusterId(0))] {
        let header = SegmentHeader { cluster, ..example_header() };
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
    }
    assert_eq!(SegmentHeader::decode(&[0; PAGE_BYTES]), Err(HeaderError::Damaged));
    assert_eq!(SegmentHeader::decode(b"short"), Err(HeaderError::Damaged));
}

#[test]
fn record_header_is_valid_in_its_place_alone() {
    let record = example_record();
    let salt = example_header().salt();
    let at = |offset: usize, salt| {
        let mut bytes = vec![0; offset];
        bytes.extend_from_slice(&record);
        header_at(&bytes, offset, salt)
    };
    let found = at(4184, salt).expect("this is its place");
    assert_eq!(found.link, Link { previous: 0xAABB_CCDD, number: 9, synced_upto: 8 });
    assert_eq!(at(4192, salt), None, "another offset");
    assert_eq!(at(4184, Salt { segment: 2, ..salt }), None, "the file's next use");
    assert_eq!(at(4184, Salt { incarnation: Incarnation(7), ..salt }), None, "another directory");
}

#[test]
fn record_is_a_multiple_of_eight_bytes() {
    for payload_bytes in 0..20 {
        let mut out = Writer::new();
        let link = Link { previous: 0, number: 1, synced_upto: 0 };
        let place = (example_header().salt(), PAGE_BYTES);
        put_record(&mut out, place, link, RecordKind::Batch, &vec![1; payload_bytes]);
        assert_eq!(out.len(), record_bytes(payload_bytes));
        assert_eq!(out.len() % 8, 0);
    }
}

#[test]
fn scan_takes_claims_from_behind_the_records() {
    let header = example_header();
    let page = header.encode();
    let mut out = Writer::new();
    out.put(&page);
    let first = Link { previous: header_checksum(&page), number: 1, synced_upto: 0 };
    put_record(&mut out, (header.salt(), PAGE_BYTES), first, RecordKind::State, b"state");
    let end = out.len();
    out.put(&vec![0; page_ceil(end) - end]);
    let marker = Link { previous: 0, number: 4, synced_upto: 4 };
    let place = (header.salt(), out.len());
    put_record(&mut out, place, marker, RecordKind::Marker, &[]);
    let scan = scan(&out.into_bytes(), &header);
    assert_eq!((scan.records.len(), scan.end, scan.last, scan.claimed), (1, end, 1, 4));
}
