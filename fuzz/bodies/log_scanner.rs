//! A log with any damage is found as it was written, or up to an unsynced end, or refused.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;
use kvstore::storage::{Batch, Disk, OpenError, Options, Recovered, Storage};
use kvstore::types::{BootNumber, ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Term};
use kvstore::wire::entry::{Configuration, Entry, HardState, Member, Payload, Reached};

use super::memory::Memory;
use super::source::Source;

const NODE: NodeId = NodeId(2);
const INCARNATION: Incarnation = Incarnation(5);
const OPTIONS: Options = Options { segment_bytes: 16 << 10, sync: true };
const PAGE: usize = 4096;
const RECORD_HEADER: usize = 40;
const TURNS: u64 = 40;

/// A log as it was written, and every state that it went through.
struct Log {
    segments: Vec<(String, Vec<u8>)>,
    states: Vec<(HardState, Vec<Entry>)>,
}

/// A list of changes to a log of several segments. A change may put the checksums of a record right
/// again, so that what is changed is believed; then only panics, and a second opinion of the second
/// start, are mistakes.
pub(crate) fn log_scanner(data: &[u8]) {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(write_log);
    let mut source = Source::new(data);
    let (mut segments, mut is_forged) = (log.segments.clone(), false);
    while !source.is_empty() {
        let at = source.choice(segments.len());
        let number = at as u64 + 1;
        is_forged |= change(&mut segments[at].1, number, &mut source);
    }
    let disk = segments.iter().fold(Memory::default(), |disk, (name, content)| disk.with(name, content));
    match Storage::open(disk.clone(), NODE, OPTIONS, INCARNATION) {
        Ok((_, found)) => {
            let state = (found.hard_state, found.entries.clone());
            assert!(is_forged || log.states.contains(&state), "never written: {state:?}");
            let (_, again) = Storage::open(disk, NODE, OPTIONS, INCARNATION).expect("what was opened can be");
            assert_eq!(again, Recovered { boot: found.boot.next(INCARNATION.0), ..found });
        }
        Err(
            OpenError::Damaged { .. }
            | OpenError::NotUnderstood { .. }
            | OpenError::UnknownVersion { .. }
            | OpenError::OtherNode { .. },
        ) => assert!(!disk.is_touched(), "what is refused is not touched"),
        Err(error) => panic!("{error}"),
    }
}

fn write_log() -> Log {
    let mut disk = Memory::default();
    let (mut storage, _) =
        Storage::open(disk.clone(), NODE, OPTIONS, INCARNATION).expect("an empty directory");
    let members = (1..=3).map(|id| Member { id: NodeId(id), incarnation: Incarnation(id) }).collect();
    let configuration = Configuration::new(ClusterId(7), members).expect("distinct members");
    let mut entries =
        vec![Entry::new(LogIndex(1), Term::ZERO, ClusterTime::ZERO, Payload::Configuration(configuration))];
    let mut states = vec![(HardState::default(), Vec::new())];
    storage.persist(&Batch { entries: &entries, ..Batch::default() }).expect("a disk without faults");
    states.push((HardState::default(), entries.clone()));
    for turn in 2..=TURNS {
        let hard_state = HardState { term: Term(turn / 10 + 1), voted_for: (turn % 3 == 0).then_some(NODE) };
        let hard_state = HardState { voted_for: Some(hard_state.voted_for.unwrap_or(NODE)), ..hard_state };
        // Every seventh turn replaces the last entry.
        let index = LogIndex(entries.len() as u64 + u64::from(turn % 7 != 0));
        let content = Bytes::from(vec![turn as u8; 300 + 37 * (turn as usize % 9)]);
        let entry = Entry::new(index, hard_state.term, ClusterTime(turn), Payload::Command(content));
        let peers = [(NodeId(1), Reached { boot: BootNumber(turn), ..Reached::default() })];
        let batch =
            Batch { hard_state: Some(hard_state), entries: std::slice::from_ref(&entry), peers: &peers };
        storage.persist(&batch).expect("a disk without faults");
        entries.truncate(index.0 as usize - 1);
        entries.push(entry);
        states.push((hard_state, entries.clone()));
    }
    let names: BTreeSet<String> = disk.list().expect("a disk without faults").into_iter().collect();
    let names = names.into_iter().filter(|name| name.starts_with('0'));
    let segments: Vec<_> = names.map(|name| (name.clone(), disk.content(&name))).collect();
    assert!(segments.len() > 1, "the turns fill more than one segment");
    Log { segments, states }
}

/// One change; whether it may be believed.
fn change(segment: &mut Vec<u8>, number: u64, source: &mut Source<'_>) -> bool {
    let records = records(segment);
    let Some(record) = records.get(source.choice(records.len().max(1))).cloned() else { return false };
    let at = (record.start + usize::from(source.u16()) % (record.len() + 64)).min(segment.len() - 1);
    match source.choice(7) {
        0 => segment[at] ^= source.byte() | 1,
        1 => {
            let end = segment.len().min(at + 1 + usize::from(source.u16()));
            segment[at..end].fill(0);
        }
        2 => {
            let bytes = usize::from(source.byte());
            let bytes = source.bytes(bytes);
            let end = segment.len().min(at + bytes.len());
            segment[at..end].copy_from_slice(&bytes[..end - at]);
        }
        3 => segment.truncate(at),
        4 => {
            let place = usize::from(source.byte()) % PAGE;
            segment[place] ^= source.byte() | 1;
        }
        5 => {
            // A header page with other fields, and its checksum right.
            let place = 8 + usize::from(source.byte()) % 85;
            segment[place] = source.byte();
            let checksum = crc32c::crc32c(&segment[..PAGE - 4]);
            segment[PAGE - 4..PAGE].copy_from_slice(&checksum.to_le_bytes());
            return true;
        }
        _ => {
            segment[at.min(record.end - 1)] = source.byte();
            forge(segment, number, record);
            return true;
        }
    }
    // A record that was put right before may have become another one.
    false
}

/// Where records lie, by their lengths, as far as these make sense.
fn records(segment: &[u8]) -> Vec<Range<usize>> {
    let mut records = Vec::new();
    let mut start = PAGE;
    while let Some(header) = segment.get(start..start + RECORD_HEADER) {
        let bytes = u32::from_le_bytes(header[24..28].try_into().expect("four bytes")) as usize;
        let end = start + (RECORD_HEADER + bytes).next_multiple_of(8);
        if !matches!(header[32], 1 | 2 | 4) || end > segment.len() {
            break;
        }
        records.push(start..end);
        start = end;
    }
    records
}

/// Puts the checksums of a record right, so that it is believed as it stands.
fn forge(segment: &mut [u8], number: u64, record: Range<usize>) {
    let payload = crc32c::crc32c(&segment[record.start + RECORD_HEADER..record.end]);
    segment[record.start + 28..record.start + 32].copy_from_slice(&payload.to_le_bytes());
    let salt = [INCARNATION.0, number, record.start as u64].map(u64::to_le_bytes).concat();
    let header = &segment[record.start + 4..record.start + RECORD_HEADER];
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&salt), header);
    segment[record.start..record.start + 4].copy_from_slice(&checksum.to_le_bytes());
}
