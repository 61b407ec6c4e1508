use super::*;
use crate::types::{ClientId, ClientName, Sequence};
use crate::wire::client::{Command, Operation, Write};

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key {number:05}"))
}

fn write(client: &ClientId, sequence: u64, operation: Operation) -> Command {
    let (sequence, acknowledged) = (Sequence(sequence), Sequence(0));
    Command::Write(Write { client: client.clone(), sequence, acknowledged, operation })
}

/// A state with rows of many sizes and sessions of every kind.
fn example(rows: u64) -> StateMachine {
    let mut state = StateMachine::new(Limits::STANDARD);
    let named = ClientId::Named(ClientName::new(b"somebody").unwrap());
    for number in 1..=rows {
        let born = ClusterTime(number);
        let library = ClientId::Library { born, nonce: number };
        let client = if number % 3 == 0 { &library } else { &named };
        let value = Bytes::from(vec![7; (number * 37 % 900) as usize]);
        let operation = match number % 5 {
            0 => Operation::CompareAndSet { key: key(number / 2), expected: None, new: value },
            1 => Operation::Delete { key: key(number / 3) },
            _ => Operation::Put { key: key(number), value },
        };
        state.apply(Revision(number), born, write(client, number, operation));
    }
    if rows > 5 {
        let closed = ClientId::Library { born: ClusterTime(3), nonce: 3 };
        let (revision, stamp) = (Revision(rows + 1), ClusterTime(rows));
        let close = Operation::CloseSession { client: closed.clone() };
        state.apply(revision, stamp, write(&closed, rows + 1, close));
    }
    state
}

fn encoded(state: &StateMachine, slice_bytes: usize) -> Vec<Bytes> {
    let mut writer = SnapshotWriter::new(state.clone());
    std::iter::from_fn(|| writer.next_slice(slice_bytes)).collect()
}

fn decoded(slices: &[Bytes]) -> Result<StateMachine, SnapshotError> {
    let mut reader = SnapshotReader::new(Limits::STANDARD);
    slices.iter().try_for_each(|slice| reader.feed(slice))?;
    reader.finish()
}

#[test]
fn state_written_and_read_in_slices_of_any_size_has_the_same_digest() {
    for rows in [0, 1, 700] {
        let state = example(rows);
        let whole = encoded(&state, usize::MAX).concat();
        for slice_bytes in [1, 7, 1000, 1 << 20] {
            let slices = encoded(&state, slice_bytes);
            assert!(slices.iter().rev().skip(1).all(|slice| slice.len() == slice_bytes));
            assert_eq!(slices.concat(), whole, "slices are cut anywhere, the bytes are the same");
            let read = decoded(&slices).unwrap();
            assert_eq!(read.digest(), state.digest());
            assert_eq!(read.store.recomputed_digest(), state.store.digest());
            assert_eq!(read.sessions.recomputed_digest(), state.sessions.digest());
            assert_eq!(read.next_expiry(), state.next_expiry());
        }
    }
}

#[test]
fn state_read_answers_and_goes_on_as_the_one_that_was_written() {
    let (mut state, mut read) = (example(400), decoded(&encoded(&example(400), 100)).unwrap());
    let named = ClientId::Named(ClientName::new(b"somebody").unwrap());
    for number in 390..450 {
        let (revision, stamp) = (Revision(state.revision().0 + 1), ClusterTime(number + 400));
        let put = Operation::Put { key: key(number), value: Bytes::from_static(b"later") };
        let command = write(&named, number, put);
        let answers = [&mut state, &mut read].map(|state| state.apply(revision, stamp, command.clone()));
        assert_eq!(answers[0], answers[1], "duplicates are known, new ones are new");
    }
    assert_eq!(state.digest(), read.digest());
}

#[test]
fn snapshot_shows_no_change_made_while_it_is_written() {
    let mut state = example(500);
    let (expected, digest) = (encoded(&state, 64).concat(), state.digest());
    let mut writer = SnapshotWriter::new(state.clone());
    let (mut bytes, mut sequence) = (Vec::new(), 10_000);
    while let Some(slice) = writer.next_slice(64) {
        bytes.extend_from_slice(&slice);
        sequence += 1;
        let put = Operation::Put { key: key(sequence % 600), value: Bytes::from_static(b"new") };
        let named = ClientId::Named(ClientName::new(b"another").unwrap());
        let revision = Revision(state.revision().0 + 1);
        state.apply(revision, state.cluster_time(), write(&named, sequence, put));
    }
    assert_eq!(bytes, expected);
    assert_eq!(decoded(&[bytes.into()]).unwrap().digest(), digest);
}

#[test]
fn snapshot_with_any_bit_flipped_is_an_error_or_the_same_state() {
    let state = example(30);
    let bytes = encoded(&state, usize::MAX).concat();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let read = decoded(&[damaged.into()]);
        assert!(read.is_err(), "bit {bit} makes another state");
    }
}

#[test]
fn snapshot_cut_short_or_lengthened_is_an_error() {
    let bytes = Bytes::from(encoded(&example(30), usize::MAX).concat());
    for count in 0..bytes.len() {
        assert!(decoded(&[bytes.slice(..count)]).is_err(), "{count} bytes");
    }
    assert!(decoded(&[bytes.clone(), Bytes::from_static(b"x")]).is_err());
    assert!(decoded(&[bytes.clone(), bytes]).is_err());
}

#[test]
fn snapshot_of_an_unknown_version_is_refused_by_name() {
    let mut bytes = encoded(&example(1), usize::MAX).concat();
    bytes[5] = 9;
    assert_eq!(decoded(&[bytes.into()]).unwrap_err(), SnapshotError::UnknownVersion(9));
}

#[test]
fn length_far_beyond_any_item_is_refused_before_it_is_waited_for() {
    let mut reader = SnapshotReader::new(Limits::STANDARD);
    assert!(reader.feed(&[255; 5]).is_err());
}

#[test]
fn state_taken_apart_in_steps_ends() {
    let mut writer = SnapshotWriter::new(example(5000));
    let steps = (1..).find(|_| !writer.dismantle(4)).unwrap();
    assert!((5..500).contains(&steps), "{steps} steps");
}
