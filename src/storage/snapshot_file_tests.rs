use super::*;
use crate::storage::segment::tests::hex_lines;
use crate::types::{ClusterId, Incarnation, NodeId};
use crate::wire::entry::Member;

fn example() -> Snapshot {
    let member = |id| Member { id: NodeId(id), incarnation: Incarnation(id * 16) };
    let configuration = Configuration::new(ClusterId(77), vec![member(1), member(2)]).unwrap();
    Snapshot { index: LogIndex(300), term: Term(4), stamp: ClusterTime(1000), configuration }
}

fn file(payloads: &[&[u8]]) -> Vec<u8> {
    let mut out = Writer::new();
    let mut checksum = put_header(&mut out, &example());
    for payload in payloads.iter().chain(&[&[][..]]) {
        checksum = put_chunk(&mut out, checksum, payload);
    }
    out.into_bytes().to_vec()
}

fn parse(slices: &[&[u8]]) -> Result<(Vec<Bytes>, Snapshot, SnapshotId), SnapshotFileError> {
    let (mut parser, mut payloads) = (Parser::default(), Vec::new());
    for slice in slices {
        payloads.extend(parser.feed(slice)?);
    }
    parser.finish().map(|(snapshot, id)| (payloads, snapshot, id))
}

#[test]
fn file_is_the_bytes_that_the_documentation_shows() {
    let lines = hex_lines(&file(&[b"state"]));
    let documentation = include_str!("../../docs/formats.md");
    let missing = lines.iter().filter(|line| !documentation.contains(*line)).count();
    assert_eq!(missing, 0, "docs/formats.md must show\n{}", lines.join("\n"));
}

#[test]
fn file_fed_in_pieces_of_any_size_gives_its_payloads() {
    let file = file(&[b"one", b"two", &[3; 5000]]);
    for size in [1, 13, 4096, 1 << 20] {
        let pieces: Vec<&[u8]> = file.chunks(size).collect();
        let (payloads, snapshot, id) = parse(&pieces).unwrap();
        assert_eq!(payloads, [&b"one"[..], b"two", &[3; 5000]]);
        assert_eq!(snapshot, example());
        assert_eq!((id.index, id.term, id.bytes), (LogIndex(300), Term(4), file.len() as u64));
    }
}

#[test]
fn file_with_any_bit_flipped_is_damaged() {
    let file = file(&[b"one", b"two"]);
    for bit in (0..100 * 8).chain(4000 * 8..file.len() * 8) {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(&[&damaged]).is_err(), "bit {bit}");
    }
}

#[test]
fn file_cut_or_joined_or_with_its_chunks_in_another_order_is_damaged() {
    let whole = file(&[b"one", b"two"]);
    for count in (0..200).chain(4090..whole.len()) {
        assert!(parse(&[&whole[..count]]).is_err(), "{count} bytes");
    }
    assert!(parse(&[&whole, &whole]).is_err());
    let (one, two) = (PAGE_BYTES..PAGE_BYTES + 11, PAGE_BYTES + 11..PAGE_BYTES + 22);
    let rest = &whole[two.end..];
    let header = &whole[..PAGE_BYTES];
    assert!(parse(&[header, &whole[two.clone()], &whole[one.clone()], rest]).is_err(), "swapped");
    assert!(parse(&[header, &whole[one.clone()], &whole[one.clone()], &whole[two.clone()], rest]).is_err());
    assert!(parse(&[header, &whole[one], rest]).is_err(), "dropped");
}

#[test]
fn names_of_snapshots_are_told_from_others() {
    assert!(is_snapshot_name(&snapshot_name(LogIndex(7))));
    assert!(is_snapshot_name(&snapshot_name(LogIndex(u64::MAX))));
    for name in ["7.snap", "0000000007.wal", "snapshot.tmp", "x.snap"] {
        assert!(!is_snapshot_name(name), "{name}");
    }
}
