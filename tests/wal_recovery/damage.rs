//! Torn writes, misplaced records and forged ones, on a small log of three segments. What must come
//! out is computed by rule for each case. Every byte of such a log is damaged in `every_byte.rs`.

use std::ops::Range;

use kvstore::storage::{Disk, OpenError, Storage};
use kvstore::types::{Incarnation, NodeId};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

use crate::disk::{End, Fault, SimDisk};
use crate::inspecting::{agree, inspected};
use crate::script::{Model, NODE, Node, SMALL, Turn, command};

pub(crate) const PAGE: usize = 4096;
pub(crate) const SEGMENTS: [&str; 3] = ["0000000001.wal", "0000000002.wal", "0000000003.wal"];
const LAST: &str = SEGMENTS[2];

/// What an open may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The state after so many turns.
    Turns(usize),
    /// A refusal because of damage.
    Damaged,
}

/// A log of three segments, the last of them with three turns, all of it synced, and said to be so by
/// a marker.
fn marked() -> Node {
    let logs = (20..80).map(|turns| {
        let mut node = Node::new(1, turns, 450);
        let mut storage = node.start().unwrap();
        node.write(&mut storage).unwrap();
        storage.mark_synced().unwrap();
        node
    });
    let long_enough = |node: &Node| {
        let segments: Vec<_> = node.disk.names().into_iter().filter(|name| name.starts_with('0')).collect();
        segments == SEGMENTS && records(&node.disk.content(LAST)).len() == 4
    };
    logs.into_iter().find(long_enough).expect("the script fills three segments")
}

/// The same, but its process died when it had written the last record and not yet synced it. With
/// it: where the last record lies, and the last segment as it was before.
fn unsynced() -> (Node, Range<usize>, Vec<u8>) {
    let mut node = marked();
    let mut storage = node.start().unwrap();
    let before = node.disk.content(LAST);
    let last = node.models.last().unwrap();
    // A record that reaches over the marker into the next page.
    let rest_of_page = PAGE - records(&before).last().unwrap().end % PAGE;
    let entry = command(last.entries.len() as u64 + 1, last.hard_state.term.0, rest_of_page + 200);
    let turn = Turn { entries: vec![entry], ..Default::default() };
    let mut model = last.clone();
    model.apply(&turn);
    node.disk.set_fault(Fault::Crash(1));
    storage.persist(&turn.batch()).expect_err("the sync is never done");
    node.disk.end_process(End::Kill);
    node.turns.push(turn);
    node.models.push(model);
    let record = records(&node.disk.content(LAST)).last().unwrap().clone();
    assert!(record.end > record.start.next_multiple_of(PAGE) + 40, "the record lies over the marker");
    (node, record, before)
}

/// Where the records of a segment lie, told by their lengths alone.
pub(crate) fn records(segment: &[u8]) -> Vec<Range<usize>> {
    let mut records = Vec::new();
    let mut offset = PAGE;
    // A marker (3) is no record of the chain.
    while matches!(segment[offset + 32], 1 | 2) {
        let length = u32::from_le_bytes(segment[offset + 24..offset + 28].try_into().unwrap());
        let end = offset + (40 + length as usize).next_multiple_of(8);
        records.push(offset..end);
        offset = end;
    }
    records
}

/// Opens a disk whose damage was done and checks that nothing is found that was not written.
pub(crate) fn outcome(node: &Node, disk: &SimDisk) -> Outcome {
    let before: Vec<_> = disk.names().into_iter().map(|name| (disk.content(&name), name)).collect();
    let inspection = inspected(disk);
    let opened = Storage::open(disk.clone(), NODE, SMALL, Incarnation(9));
    agree(&inspection, opened.as_ref().map(|(_, recovered)| recovered));
    match opened {
        Ok((_, recovered)) => {
            let found = Model::of(&recovered);
            let turns = node.models.iter().rposition(|model| *model == found);
            Outcome::Turns(turns.unwrap_or_else(|| panic!("never written: {found:?}")))
        }
        Err(OpenError::Damaged { .. }) => {
            let after: Vec<_> = disk.names().into_iter().map(|name| (disk.content(&name), name)).collect();
            assert!(before == after, "what is refused is not touched");
            Outcome::Damaged
        }
        Err(error) => panic!("{error}"),
    }
}

/// The outcome after one file was changed.
fn outcome_with(node: &Node, name: &str, content: Vec<u8>) -> Outcome {
    let disk = node.disk.fork(1);
    disk.put(name, content);
    outcome(node, &disk)
}

/// The bytes of a segment that are to be damaged one by one: all that are in use, and samples of
/// those that are not.
fn places(segment: &[u8]) -> impl Iterator<Item = usize> {
    let used = records(segment).last().unwrap().end;
    let marker = used.next_multiple_of(PAGE)..used.next_multiple_of(PAGE) + 40;
    (0..segment.len()).filter(move |at| {
        *at < 100 || (PAGE - 8..used + 8).contains(at) || marker.contains(at) || at % 61 == 0
    })
}

#[test]
fn bit_flipped_in_the_unsynced_record_drops_it_and_elsewhere_is_refused() {
    let (node, last, _) = unsynced();
    let content = node.disk.content(LAST);
    for at in places(&content) {
        let mut damaged = content.clone();
        damaged[at] ^= 1 << (at % 8);
        let expected = match at {
            at if at < last.start => Outcome::Damaged,
            at if at < last.end => Outcome::Turns(node.turns.len() - 1),
            _ => Outcome::Turns(node.turns.len()),
        };
        assert_eq!(outcome_with(&node, LAST, damaged), expected, "byte {at}");
    }
}

/// The last write at each byte: its first part, and then what was there, zeroes, or anything. The
/// node goes on from there, and what was torn off never comes back.
#[test]
fn last_write_torn_at_each_byte_is_dropped_or_whole() {
    let (node, last, before) = unsynced();
    let after = node.disk.content(LAST);
    let mut rng = Rng::seed_from_u64(5);
    let write_end = last.end.next_multiple_of(PAGE);
    for cut in last.start..=write_end {
        let random: Vec<u8> = (cut..write_end).map(|_| rng.random()).collect();
        // Random bytes are tried at a quarter of the cuts: they take the longest.
        let modes = if cut % 4 == 0 { 3 } else { 2 };
        for rest in [&before[cut..write_end], &vec![0; write_end - cut], &random].into_iter().take(modes) {
            let mut torn = after.clone();
            torn[cut..write_end].copy_from_slice(rest);
            let whole = torn[last.clone()] == after[last.clone()];
            let disk = node.disk.fork(1);
            disk.put(LAST, torn);
            let expected = Outcome::Turns(node.turns.len() - usize::from(!whole));
            assert_eq!(outcome(&node, &disk), expected, "cut at {cut}");
            if cut % 8 == 0 {
                disk.end_process(End::PowerCut);
                assert_eq!(outcome(&node, &disk), expected, "cut at {cut}, after a second start");
            }
        }
    }
}

/// Beyond what disks are trusted with: the write also destroys synced bytes of the page that it
/// begins in. Then nothing is found that was not written, and that is all that can be said.
#[test]
fn last_write_that_destroys_its_whole_page_is_never_believed() {
    let (node, last, _) = unsynced();
    let after = node.disk.content(LAST);
    let mut rng = Rng::seed_from_u64(6);
    for cut in (last.start / PAGE * PAGE)..last.start {
        let mut torn = after.clone();
        torn[cut..].fill(0);
        assert_ne!(outcome_with(&node, LAST, torn), Outcome::Turns(node.turns.len()));
        let mut torn = after.clone();
        torn[cut..].fill_with(|| rng.random());
        assert_ne!(outcome_with(&node, LAST, torn), Outcome::Turns(node.turns.len()));
    }
}

#[test]
fn segment_of_an_older_copy_is_refused() {
    let node = marked();
    let older = node.disk.fork(1);
    for end in [End::Kill, End::PowerCut] {
        // Each start stores its boot number in the last segment.
        node.disk.end_process(end);
        Storage::open(node.disk.clone(), NODE, SMALL, Incarnation(9)).unwrap();
    }
    let (mut storage, recovered) = Storage::open(node.disk.clone(), NODE, SMALL, Incarnation(9)).unwrap();
    let mut next = recovered.entries.len() as u64;
    while node.disk.names().iter().all(|name| name != "0000000004.wal") {
        next += 1;
        let entry = command(next, recovered.hard_state.term.0, 900);
        let batch = kvstore::storage::Batch { entries: &[entry], ..Default::default() };
        storage.persist(&batch).unwrap();
    }
    assert_eq!(outcome_with(&node, LAST, older.content(LAST)), Outcome::Damaged);
}

#[test]
fn records_swapped_doubled_or_missing_are_refused() {
    let node = marked();
    let content = node.disk.content(SEGMENTS[1]);
    let ranges = records(&content);
    let parts: Vec<&[u8]> = ranges.iter().map(|range| &content[range.clone()]).collect();
    for at in 1..parts.len() - 1 {
        let mut missing = parts.clone();
        missing.remove(at);
        let mut doubled = parts.clone();
        doubled.insert(at, parts[at]);
        let mut swapped = parts.clone();
        swapped.swap(at, at + 1);
        for order in [missing, doubled, swapped] {
            let mut changed = [&content[..PAGE], &order.concat()].concat();
            changed.resize(content.len(), 0);
            assert_eq!(outcome_with(&node, SEGMENTS[1], changed), Outcome::Damaged, "record {at}");
        }
    }
}

/// Two histories part at one record and have the same lengths; a record of one, in its right place
/// of the other, does not follow what stands before it.
#[test]
fn record_of_another_history_in_its_place_is_dropped() {
    let mut node = marked();
    let last = node.models.last().unwrap().clone();
    let next = |position: u64, bytes: usize| {
        let index = last.entries.len() as u64 + position;
        Turn { entries: vec![command(index, last.hard_state.term.0, bytes)], ..Turn::default() }
    };
    let write = |turns: [Turn; 2]| {
        let disk = node.disk.fork(1);
        let (mut storage, _) = Storage::open(disk.clone(), NODE, SMALL, Incarnation(9)).unwrap();
        turns.iter().for_each(|turn| storage.persist(&turn.batch()).unwrap());
        disk
    };
    // The same number of bytes, padding included.
    let (ours, theirs) = (write([next(1, 50), next(2, 10)]), write([next(1, 49), next(2, 10)]));
    let (mut content, other) = (ours.content(LAST), theirs.content(LAST));
    let second = records(&content).last().unwrap().clone();
    assert_eq!(records(&other).last().unwrap(), &second);
    assert_ne!(content[second.clone()], other[second.clone()]);
    content[second.clone()].copy_from_slice(&other[second]);
    ours.put(LAST, content);
    let mut model = last.clone();
    model.apply(&next(1, 50));
    node.models.push(model);
    assert_eq!(outcome(&node, &ours), Outcome::Turns(node.turns.len() + 1));
}

#[test]
fn length_of_any_size_is_never_believed() {
    let node = marked();
    let content = node.disk.content(LAST);
    let last = records(&content).last().unwrap().clone();
    for length in [0, 1, 39, 40, u32::MAX / 2, u32::MAX - 1, u32::MAX] {
        let mut damaged = content.clone();
        damaged[last.start + 24..last.start + 28].copy_from_slice(&length.to_le_bytes());
        assert_eq!(outcome_with(&node, LAST, damaged), Outcome::Damaged, "length {length}");
    }
}

#[test]
fn random_damage_never_panics_and_never_invents() {
    let (node, _, _) = unsynced();
    let mut rng = Rng::seed_from_u64(7);
    for _ in 0..2000 {
        let name = SEGMENTS[rng.random_range(0..3)];
        let mut content = node.disk.content(name);
        for _ in 0..rng.random_range(1..4) {
            let start = rng.random_range(0..content.len());
            let end = content.len().min(start + rng.random_range(1..200));
            content[start..end].fill_with(|| rng.random());
        }
        outcome_with(&node, name, content);
    }
}

#[test]
fn damage_is_named_with_file_offset_and_cure() {
    let node = marked();
    let mut content = node.disk.content(SEGMENTS[1]);
    let second = records(&content)[1].clone();
    content[second.start + 50] ^= 1;
    node.disk.put(SEGMENTS[1], content);
    let error = Storage::open(node.disk.clone(), NODE, SMALL, Incarnation(9)).unwrap_err().to_string();
    let place = format!("sim/0000000002.wal is damaged at offset {}", second.start);
    assert!(error.starts_with(&place), "{error}");
    assert!(error.contains("check the disk"), "{error}");
    assert!(!error.contains('\n'), "one line");
}

#[test]
fn version_of_another_program_is_refused_by_name() {
    let node = marked();
    let mut content = node.disk.content(SEGMENTS[0]);
    content[8] = 7;
    let checksum = crc32c::crc32c(&content[..PAGE - 4]);
    content[PAGE - 4..PAGE].copy_from_slice(&checksum.to_le_bytes());
    node.disk.put(SEGMENTS[0], content);
    let error = Storage::open(node.disk.clone(), NODE, SMALL, Incarnation(9)).unwrap_err();
    assert!(matches!(error, OpenError::UnknownVersion { version: 7, .. }), "{error}");
}

#[test]
fn entry_of_an_unknown_type_is_refused_and_not_skipped() {
    let (node, last, _) = unsynced();
    let mut content = node.disk.content(LAST);
    // Behind the record's header: no hard state, no boots, one entry, its length, and 24 bytes of it.
    content[last.start + 40 + 1 + 4 + 4 + 4 + 24] = 9;
    let payload = crc32c::crc32c(&content[last.start + 40..last.end]);
    content[last.start + 28..last.start + 32].copy_from_slice(&payload.to_le_bytes());
    // The first start drew incarnation 1.
    let salt = [1, 3, last.start as u64].map(u64::to_le_bytes).concat();
    let header = crc32c::crc32c(&[&salt, &content[last.start + 4..last.start + 40]].concat());
    content[last.start..last.start + 4].copy_from_slice(&header.to_le_bytes());
    node.disk.put(LAST, content);
    let error = Storage::open(node.disk.clone(), NODE, SMALL, Incarnation(9)).unwrap_err();
    assert!(
        matches!(error, OpenError::NotUnderstood { offset, .. } if offset == last.start as u64),
        "{error}"
    );
    assert!(error.to_string().contains("unknown entry type 9"), "{error}");
}

#[test]
fn directory_of_another_node_is_refused_by_name_and_left_alone() {
    let mut node = marked();
    node.disk.create("large.tmp").unwrap();
    let error = Storage::open(node.disk.clone(), NodeId(3), SMALL, Incarnation(9)).unwrap_err();
    let named = matches!(error, OpenError::OtherNode { found: NODE, asked: NodeId(3), .. });
    assert!(named, "{error}");
    assert!(node.disk.names().contains(&"large.tmp".to_owned()));
}
