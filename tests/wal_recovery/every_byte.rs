//! Every byte and every bit of a log of fifty records in three segments, and of a snapshot's file.
//!
//! What must come out is computed for each case by the rule of docs/formats.md, "Recovery", from the
//! places of the records in the intact log and from which of their bytes were changed: a prefix of
//! whole records, or refusal. Nothing here knows how the log is read.

use std::ops::Range;

use kvstore::storage::{OpenError, Recovered, Storage};
use kvstore::types::{Incarnation, LogIndex, Term};
use kvstore::wire::entry::HardState;
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

use crate::damage::{Outcome, PAGE, SEGMENTS, records};
use crate::disk::{End, Fault};
use crate::memory::Memory;
use crate::script::{Model, NODE, Node, SMALL, Turn, command, founding};
use crate::snapshots::snapshot_of;

const RECORDS: usize = 50;
const BLOCK: usize = 512;
const RECORD_HEADER: usize = 40;
const BATCH: u8 = 2;
const MARKER: u8 = 3;

/// A log as it was written, and where everything in it lies.
struct Log {
    node: Node,
    disk: Memory,
    segments: [Segment; 3],
}

struct Segment {
    content: Vec<u8>,
    records: Vec<Range<usize>>,
    /// The number of its first record.
    first_record: u64,
    /// How many turns were written before each of its records, and before the end.
    turns: Vec<usize>,
    markers: Vec<Range<usize>>,
}

impl Log {
    /// Fifty records in three segments. Whether the last one was synced, and said to be so.
    fn new(last_is_synced: bool) -> Self {
        // A state begins each segment; the other records are turns.
        let turns = RECORDS - SEGMENTS.len();
        let nodes = (100..2000).step_by(10).map(|max_bytes| {
            let mut node = Node::new(3, turns, max_bytes);
            let mut storage = node.start().unwrap();
            if last_is_synced {
                node.write(&mut storage).unwrap();
                storage.mark_synced().unwrap();
            } else {
                let last = node.turns.pop().unwrap();
                node.write(&mut storage).unwrap();
                storage.mark_synced().unwrap();
                node.disk.set_fault(Fault::Crash(1));
                storage.persist(&last.batch()).expect_err("its sync is never done");
                node.disk.end_process(End::Kill);
                node.turns.push(last);
            }
            node
        });
        let fits = |node: &Node| {
            let names: Vec<_> = node.disk.names().into_iter().filter(|name| name.starts_with('0')).collect();
            let last = || node.disk.content(SEGMENTS[2]);
            // More than the state and the turn that the segment began with.
            names == SEGMENTS && records(&last()).len() > 5
        };
        let node = nodes.into_iter().find(fits).expect("a size with which the turns fill three segments");
        let (mut number, mut turns) = (1, 0);
        let segments = SEGMENTS.map(|name| {
            let segment = Segment::new(node.disk.content(name), number, turns);
            number += segment.records.len() as u64;
            turns = *segment.turns.last().unwrap();
            segment
        });
        assert_eq!((number, turns), (RECORDS as u64 + 1, node.turns.len()));
        let files = SEGMENTS.iter().zip(&segments);
        let disk = files.fold(Memory::default(), |disk, (name, file)| disk.with(name, &file.content));
        Self { node, disk, segments }
    }

    /// What must come out when one segment holds these bytes instead.
    fn expected(&self, at: usize, changed: &[u8]) -> Outcome {
        let segment = &self.segments[at];
        if changed.len() != segment.content.len() || segment.is_changed(&(0..PAGE), changed) {
            return Outcome::Damaged;
        }
        let broken = segment.records.iter().position(|record| segment.is_changed(record, changed));
        match broken {
            None => Outcome::Turns(self.node.turns.len()),
            Some(_) if at + 1 < self.segments.len() => Outcome::Damaged,
            Some(broken) if segment.proven(changed) >= segment.first_record + broken as u64 => {
                Outcome::Damaged
            }
            Some(broken) => Outcome::Turns(segment.turns[broken]),
        }
    }

    /// What does come out with these files.
    fn outcome(&self, disk: &Memory) -> Outcome {
        match Storage::open(disk.clone(), NODE, SMALL, Incarnation(9)) {
            Ok((_, recovered)) => {
                let found = Model::of(&recovered);
                let turns = self.node.models.iter().rposition(|model| *model == found);
                Outcome::Turns(turns.unwrap_or_else(|| panic!("never written: {found:?}")))
            }
            Err(OpenError::Damaged { .. }) => {
                assert!(!disk.is_touched(), "what is refused is not touched");
                Outcome::Damaged
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Compares what comes out with what must, when one segment holds these bytes instead.
    fn check(&self, at: usize, changed: &[u8], tally: &mut Tally, what: impl FnOnce() -> String) {
        let disk = self.disk.with(SEGMENTS[at], changed);
        let expected = self.expected(at, changed);
        assert_eq!(self.outcome(&disk), expected, "{}, {}", SEGMENTS[at], what());
        tally.count(self, expected);
    }
}

impl Segment {
    fn new(content: Vec<u8>, first_record: u64, turns_before: usize) -> Self {
        let records = records(&content);
        let mut turns = vec![turns_before];
        for record in &records {
            let is_turn = content[record.start + 32] == BATCH;
            turns.push(turns.last().unwrap() + usize::from(is_turn));
        }
        let end = records.last().unwrap().end;
        let pages = (end.next_multiple_of(PAGE)..content.len()).step_by(PAGE);
        let markers = pages.filter(|page| content[page + 32] == MARKER).map(|at| at..at + RECORD_HEADER);
        let markers = markers.collect();
        Self { content, records, first_record, turns, markers }
    }

    fn is_changed(&self, range: &Range<usize>, changed: &[u8]) -> bool {
        self.content[range.clone()] != changed[range.clone()]
    }

    /// The highest number of which the changed segment still says that all up to it was synced: in
    /// its header page, or in any header of a record or a marker that is as it was written.
    fn proven(&self, changed: &[u8]) -> u64 {
        let headers = self.records.iter().map(|record| record.start..record.start + RECORD_HEADER);
        let intact =
            headers.chain(self.markers.iter().cloned()).filter(|header| !self.is_changed(header, changed));
        let synced_upto = |at: usize| u64::from_le_bytes(self.content[at..at + 8].try_into().unwrap());
        intact.map(|header| synced_upto(header.start + 16)).fold(synced_upto(64), u64::max)
    }
}

/// Counts what came out, so that a test whose cases all end alike is noticed.
#[derive(Default)]
struct Tally {
    damaged: u64,
    whole: u64,
    shortened: u64,
}

impl Tally {
    fn count(&mut self, log: &Log, outcome: Outcome) {
        match outcome {
            Outcome::Damaged => self.damaged += 1,
            Outcome::Turns(turns) if turns == log.node.turns.len() => self.whole += 1,
            Outcome::Turns(_) => self.shortened += 1,
        }
    }

    fn print(&self, what: &str) {
        let Self { damaged, whole, shortened } = self;
        println!("{what}: {damaged} refused, {whole} whole, {shortened} a shorter prefix");
    }
}

/// All cases of one kind that a log without its last sync, and one with it, can suffer.
fn check_all(what: &str, damage: impl Fn(&Log, usize, &mut Tally)) -> Tally {
    let (synced, unsynced) = (Log::new(true), Log::new(false));
    let mut tally = Tally::default();
    for (log, segments) in [(&synced, 0..3), (&unsynced, 2..3)] {
        segments.into_iter().for_each(|at| damage(log, at, &mut tally));
    }
    tally.print(what);
    tally
}

fn flip_every_bit(last_is_synced: bool, at: usize) -> Tally {
    let log = Log::new(last_is_synced);
    let mut tally = Tally::default();
    let mut changed = log.segments[at].content.clone();
    for bit in 0..changed.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        log.check(at, &changed, &mut tally, || format!("bit {bit}"));
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    tally.print(&format!("each bit of {} flipped", SEGMENTS[at]));
    tally
}

#[test]
fn every_bit_of_the_first_segment_flipped_is_refused_or_harmless() {
    let tally = flip_every_bit(true, 0);
    assert!(tally.damaged > 0 && tally.whole > 0 && tally.shortened == 0);
}

#[test]
fn every_bit_of_the_middle_segment_flipped_is_refused_or_harmless() {
    let tally = flip_every_bit(true, 1);
    assert!(tally.damaged > 0 && tally.whole > 0 && tally.shortened == 0);
}

#[test]
fn every_bit_of_the_last_segment_flipped_is_refused_or_harmless() {
    let tally = flip_every_bit(true, 2);
    assert!(tally.damaged > 0 && tally.whole > 0 && tally.shortened == 0);
}

#[test]
fn every_bit_of_a_segment_with_an_unsynced_end_flipped_drops_that_end_at_most() {
    let tally = flip_every_bit(false, 2);
    assert!(tally.damaged > 0 && tally.whole > 0 && tally.shortened > 0);
}

/// The file is shorter than it says.
#[test]
fn log_file_cut_short_at_every_byte_is_refused() {
    let tally = check_all("each segment's file cut short at each byte", |log, at, tally| {
        let content = &log.segments[at].content;
        (0..content.len()).for_each(|cut| log.check(at, &content[..cut], tally, || format!("cut at {cut}")));
    });
    assert!(tally.damaged > 0 && tally.whole == 0 && tally.shortened == 0);
}

/// The file has its size, and nothing was written from some byte on: what a power cut leaves of what
/// was not synced. What was synced must then be refused, but for the very last of it, of which
/// nothing is left to tell (docs/formats.md, "Damage").
#[test]
fn log_written_up_to_every_byte_is_a_prefix_or_refused() {
    let tally = check_all("each segment zeroed from each byte on", |log, at, tally| {
        let mut changed = log.segments[at].content.clone();
        for cut in (0..changed.len()).rev() {
            changed[cut] = 0;
            log.check(at, &changed, tally, || format!("zeroed from {cut} on"));
        }
    });
    assert!(tally.damaged > 0 && tally.whole > 0 && tally.shortened > 0);
}

#[test]
fn every_block_of_a_log_zeroed_is_refused_or_harmless() {
    let tally = check_all("each block of 512 and of 4096 bytes zeroed", |log, at, tally| {
        let content = &log.segments[at].content;
        for bytes in [BLOCK, PAGE] {
            for start in (0..content.len()).step_by(bytes) {
                let mut changed = content.clone();
                changed[start..start + bytes].fill(0);
                log.check(at, &changed, tally, || format!("{bytes} bytes at {start} zeroed"));
            }
        }
    });
    assert!(tally.damaged > 0 && tally.whole > 0);
}

/// Behind the end of the file it is refused; behind the end of the records nobody looks at it, unless
/// it hides the marker.
#[test]
fn garbage_appended_to_a_log_is_refused_or_harmless() {
    let tally = check_all("garbage behind each segment, and behind its records", |log, at, tally| {
        let Segment { content, records, .. } = &log.segments[at];
        let mut rng = Rng::seed_from_u64(1);
        let garbage: Vec<u8> = content.iter().map(|_| rng.random()).collect();
        for bytes in [1, 7, 8, 40, BLOCK, PAGE, content.len()] {
            let longer = [&content[..], &garbage[..bytes]].concat();
            log.check(at, &longer, tally, || format!("{bytes} more bytes"));
        }
        let end = records.last().unwrap().end;
        for bytes in 1..content.len() - end {
            let mut changed = content.clone();
            changed[end..end + bytes].copy_from_slice(&garbage[..bytes]);
            log.check(at, &changed, tally, || format!("{bytes} bytes behind the records"));
        }
    });
    assert!(tally.damaged > 0 && tally.whole > 0 && tally.shortened == 0);
}

/// Each of four names is missing, or holds any of the three segments.
#[test]
fn segments_dropped_doubled_or_swapped_in_every_way_are_refused_or_a_prefix() {
    let log = Log::new(true);
    let names = [SEGMENTS[0], SEGMENTS[1], SEGMENTS[2], "0000000004.wal"];
    let mut tally = Tally::default();
    for arrangement in 0..4_usize.pow(4) {
        let held = [0, 1, 2, 3].map(|name| (arrangement >> (2 * name)) % 4);
        let held = held.map(|choice| choice.checked_sub(1));
        let mut disk = Memory::default();
        for (name, segment) in names.iter().zip(held) {
            disk = segment.map_or(disk.clone(), |at| disk.with(name, &log.segments[at].content));
        }
        let present = held.iter().flatten().count();
        let in_place = (0..4).all(|at| held[at] == (at < present).then_some(at));
        let expected = match present {
            // No log at all is a new directory, whose incarnation nobody knows.
            0 => Outcome::Turns(0),
            _ if !in_place => Outcome::Damaged,
            // That a log goes on behind its last segment only the other nodes know.
            _ => Outcome::Turns(*log.segments[present - 1].turns.last().unwrap()),
        };
        assert_eq!(log.outcome(&disk), expected, "names hold segments {held:?}, from 0 on");
        tally.count(&log, expected);
    }
    tally.print("segments dropped, doubled, swapped");
    assert_eq!((tally.damaged, tally.whole, tally.shortened), (252, 1, 3));
}

/// A small log that begins after a snapshot, and what is in it. It may be damaged anywhere in the
/// snapshot's file, and must then be refused.
struct Snapshotted {
    disk: Memory,
    name: &'static str,
    content: Vec<u8>,
    recovered: Recovered,
}

impl Snapshotted {
    fn new() -> Self {
        const INDEX: u64 = 4;
        let disk = Memory::default();
        let (mut storage, _) = Storage::open(disk.clone(), NODE, SMALL, Incarnation(9)).unwrap();
        storage.persist(&founding().batch()).unwrap();
        let hard_state = Some(HardState { term: Term(2), voted_for: None });
        let entries = (2..=6).map(|index| command(index, 2, 20)).collect();
        storage.persist(&Turn { hard_state, entries, ..Turn::default() }.batch()).unwrap();
        storage.begin_snapshot(snapshot_of(INDEX, Term(2))).unwrap();
        for slice in [&b"one"[..], &[7; 600], &b"three"[..]] {
            storage.write_snapshot(slice).unwrap();
        }
        storage.save_snapshot().unwrap();
        let name = "0000000004.snap";
        let (_, recovered) = Storage::open(disk.copy(), NODE, SMALL, Incarnation(9)).unwrap();
        assert_eq!(recovered.snapshot.as_ref().unwrap().snapshot.index, LogIndex(INDEX));
        Self { content: disk.content(name), disk, name, recovered }
    }

    /// Whether the directory is refused; if not, the same is found as without damage.
    fn is_refused(&self, disk: &Memory) -> bool {
        match Storage::open(disk.clone(), NODE, SMALL, Incarnation(9)) {
            Ok((_, recovered)) => {
                assert_eq!(recovered, self.recovered);
                false
            }
            Err(OpenError::Damaged { path, .. }) => {
                assert!(path.ends_with(self.name), "{path}");
                assert!(!disk.is_touched(), "what is refused is not touched");
                true
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Checks that it is refused if and only if any of its bytes differ.
    fn check(&self, changed: &[u8], what: impl FnOnce() -> String) {
        let disk = self.disk.with(self.name, changed);
        assert_eq!(self.is_refused(&disk), changed != self.content, "{}", what());
    }
}

#[test]
fn snapshot_with_any_bit_flipped_is_refused() {
    let log = Snapshotted::new();
    log.check(&log.content, || "nothing changed".to_owned());
    let mut changed = log.content.clone();
    for bit in 0..changed.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        log.check(&changed, || format!("bit {bit}"));
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    println!("each bit of a snapshot flipped: {} cases", changed.len() * 8);
}

#[test]
fn snapshot_cut_zeroed_lengthened_or_missing_is_refused() {
    let log = Snapshotted::new();
    let content = &log.content;
    for cut in 0..content.len() {
        log.check(&content[..cut], || format!("cut at {cut}"));
        let zeroed = [&content[..cut], &vec![0; content.len() - cut]].concat();
        log.check(&zeroed, || format!("zeroed from {cut} on"));
        log.check(&[content, &content[cut..]].concat(), || format!("the bytes from {cut} on doubled"));
    }
    for start in (0..content.len()).step_by(BLOCK) {
        let mut changed = content.clone();
        changed[start..content.len().min(start + BLOCK)].fill(0);
        log.check(&changed, || format!("block at {start} zeroed"));
    }
    let mut rng = Rng::seed_from_u64(1);
    for bytes in 1..2 * BLOCK {
        let garbage = (0..bytes).map(|_| rng.random());
        log.check(&content.iter().copied().chain(garbage).collect::<Vec<u8>>(), || format!("{bytes} more"));
    }
    assert!(log.is_refused(&log.disk.without(log.name)), "without its file");
}
