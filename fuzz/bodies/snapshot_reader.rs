//! The bytes of a snapshot are found intact or refused, however they are cut; and what is in them is
//! a state or refused, however it is cut.

use std::sync::OnceLock;

use bytes::Bytes;
use kvstore::kv::{Limits, SnapshotReader, SnapshotWriter, StateMachine};
use kvstore::storage::{Batch, Options, Storage};
use kvstore::types::{
    ClientId, ClientName, ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Revision, Sequence, Term,
};
use kvstore::wire::client::{Command, Operation, Write};
use kvstore::wire::entry::{Configuration, Entry, HardState, Member, Payload, Snapshot};

use super::memory::Memory;
use super::source::Source;

const OPTIONS: Options = Options { segment_bytes: 16 << 10, sync: true };
const INDEX: u64 = 9;

/// The first byte says whether the rest are changes to a snapshot's file, or to the state in it.
pub(crate) fn snapshot_reader(data: &[u8]) {
    static STATE: OnceLock<Vec<u8>> = OnceLock::new();
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    let state = STATE.get_or_init(write_state);
    let file = FILE.get_or_init(|| write_file(state));
    let mut source = Source::new(data);
    if source.flag() {
        read_state(&changed(state, &mut source));
    } else {
        let changed = changed(file, &mut source);
        read_file(&changed, changed == *file);
    }
}

fn write_state() -> Vec<u8> {
    let mut state = StateMachine::new(Limits::STANDARD);
    for number in 1..INDEX {
        let client = match number % 2 {
            0 => ClientId::Named(ClientName::new(b"somebody").expect("a short name")),
            _ => ClientId::Library { born: ClusterTime(number), nonce: number },
        };
        let key = Bytes::from(format!("key {}", number / 2));
        let value = Bytes::from(vec![7; number as usize]);
        let operation = match number % 3 {
            0 => Operation::CompareAndSet { key, expected: None, new: value },
            1 => Operation::Put { key, value },
            _ => Operation::Delete { key },
        };
        let write = Write { client, sequence: Sequence(number), acknowledged: Sequence(0), operation };
        state.apply(Revision(number), ClusterTime(number), Command::Write(write));
    }
    let mut writer = SnapshotWriter::new(state);
    std::iter::from_fn(|| writer.next_slice(1 << 20)).collect::<Vec<_>>().concat()
}

fn storage() -> Storage<Memory> {
    let opened = Storage::open(Memory::default(), NodeId(2), OPTIONS, Incarnation(5));
    opened.expect("an empty directory").0
}

fn write_file(state: &[u8]) -> Vec<u8> {
    let disk = Memory::default();
    let opened = Storage::open(disk.clone(), NodeId(2), OPTIONS, Incarnation(5));
    let (mut storage, _) = opened.expect("an empty directory");
    let members = vec![Member { id: NodeId(2), incarnation: Incarnation(5) }];
    let configuration = Configuration::new(ClusterId(7), members).expect("one member");
    let founding = Payload::Configuration(configuration.clone());
    let mut entries = vec![Entry::new(LogIndex(1), Term::ZERO, ClusterTime::ZERO, founding)];
    let command = |index| {
        Entry::new(LogIndex(index), Term(1), ClusterTime::ZERO, Payload::Command(Bytes::from_static(b"x")))
    };
    entries.extend((2..=INDEX).map(command));
    let hard_state = Some(HardState { term: Term(1), voted_for: None });
    storage.persist(&Batch { hard_state, entries: &entries, ..Batch::default() }).expect("a good disk");
    let snapshot =
        Snapshot { index: LogIndex(INDEX), term: Term(1), stamp: ClusterTime::ZERO, configuration };
    storage.begin_snapshot(snapshot).expect("a good disk");
    assert!(state.chunks(50).all(|slice| storage.write_snapshot(slice).expect("a good disk")));
    storage.save_snapshot().expect("a good disk");
    disk.content("0000000009.snap")
}

/// The bytes with a list of changes.
fn changed(original: &[u8], source: &mut Source<'_>) -> Vec<u8> {
    let mut bytes = original.to_vec();
    while !source.is_empty() && !bytes.is_empty() {
        let at = usize::from(source.u16()) % bytes.len();
        match source.choice(5) {
            0 => bytes[at] ^= source.byte(),
            1 => bytes.truncate(at),
            2 => {
                let count = usize::from(source.byte()).min(bytes.len() - at);
                bytes.drain(at..at + count);
            }
            3 => {
                let count = usize::from(source.byte());
                let inserted = source.bytes(count).to_vec();
                bytes.splice(at..at, inserted);
            }
            _ => {
                let count = usize::from(source.byte()).min(bytes.len() - at);
                bytes.extend_from_within(at..at + count);
            }
        }
    }
    bytes
}

/// Only the file as it was written is taken; any other is refused, in the same way in any pieces.
fn read_file(bytes: &[u8], is_intact: bool) {
    let read = |piece: usize| {
        let mut storage = storage();
        storage.begin_copy().expect("a good disk");
        let mut state = Vec::new();
        for piece in bytes.chunks(piece) {
            match storage.write_copy(piece).expect("a good disk") {
                Ok(payloads) => state.extend(payloads.concat()),
                Err(error) => return (state, Err(error)),
            }
        }
        let snapshot = storage.copied_snapshot().cloned();
        (state, Ok(snapshot))
    };
    let whole = read(bytes.len().max(1));
    for piece in [1, 7, 1000] {
        let pieces = read(piece);
        assert_eq!(pieces.1, whole.1, "in pieces of {piece}");
        // What was intact is given out as it comes, and all at once only if all of it is.
        assert!(pieces.0.starts_with(&whole.0) || whole.1.is_err(), "in pieces of {piece}");
    }
    assert!(!is_intact || whole.1.is_ok());
}

/// A state is found or refused, and the same in any pieces.
fn read_state(bytes: &[u8]) {
    let read = |piece: usize| {
        let mut reader = SnapshotReader::new(Limits::STANDARD);
        bytes.chunks(piece).try_for_each(|piece| reader.feed(piece))?;
        reader.finish().map(|state| state.digest())
    };
    let whole = read(bytes.len().max(1));
    for piece in [1, 7, 100] {
        assert_eq!(read(piece), whole, "in pieces of {piece}");
    }
}
