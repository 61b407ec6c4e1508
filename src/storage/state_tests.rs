use super::*;
use crate::types::ClusterTime;

fn entry(index: u64, term: u64) -> Entry {
    Entry::new(LogIndex(index), Term(term), ClusterTime(0), Payload::Command(Bytes::from_static(b"x")))
}

fn reached(boot: u64, index: u64) -> Reached {
    Reached { boot: BootNumber(boot), index: LogIndex(index), before: LogIndex(0) }
}

#[test]
fn state_decodes_to_itself() {
    let mut state = State::new(NodeId(3), Incarnation(9));
    state.boot = BootNumber(4);
    state.hard_state = HardState { term: Term(7), voted_for: Some(NodeId(0)) };
    state.peers = [(NodeId(1), reached(2, 70)), (NodeId(2), reached(8, 0))].into();
    for snapshot in [None, Some(SnapshotId { index: LogIndex(3), term: Term(2), bytes: 9, checksum: 1 })] {
        state.last = (LogIndex(6), Term(5));
        state.snapshot = snapshot;
        assert_eq!(State::decode(state.encode()), Ok(state.clone()));
    }
    let longer = [&state.encode()[..], b"x"].concat();
    assert_eq!(State::decode(longer.into()), Err(DecodeError::Trailing(1)));
}

#[test]
fn batch_decodes_to_itself_with_its_entries_as_they_were_encoded() {
    let entries = [entry(4, 2), entry(5, 2)];
    let hard_state = Some(HardState { term: Term(2), voted_for: None });
    let batch = Batch { hard_state, entries: &entries, peers: &[(NodeId(1), reached(2, 5))] };
    let payload = encode_batch(&batch);
    let stored = StoredBatch::decode(payload.clone()).unwrap();
    assert_eq!(stored.as_batch().hard_state, hard_state);
    assert_eq!(stored.as_batch().peers, batch.peers);
    assert_eq!(encode_batch(&stored.as_batch()), payload);
    assert_eq!(stored.into_entries(), entries);
}

#[test]
fn batch_cut_short_anywhere_is_an_error() {
    let entries = [entry(4, 2)];
    let payload = encode_batch(&Batch { entries: &entries, ..Batch::default() });
    for count in 0..payload.len() {
        assert!(StoredBatch::decode(payload.slice(..count)).is_err(), "{count} bytes");
    }
}

#[test]
fn state_keeps_the_furthest_that_each_peer_was_seen_to_come() {
    let mut state = State::new(NodeId(3), Incarnation(9));
    for (boot, index) in [(2, 40), (5, 30), (3, 60)] {
        state.apply(&Batch { peers: &[(NodeId(1), reached(boot, index))], ..Batch::default() });
    }
    let before = LogIndex(60); // it was boot 3
    assert_eq!(state.peers, [(NodeId(1), Reached { before, ..reached(5, 60) })].into());
}

#[test]
fn durable_forgets_the_terms_of_entries_that_were_replaced() {
    let mut durable = Durable::new(State::new(NodeId(3), Incarnation(9)));
    durable.state.hard_state.term = Term(9);
    for entries in [&[entry(1, 0), entry(2, 3), entry(3, 5)][..], &[entry(2, 4)]] {
        durable.apply(&Batch { entries, ..Batch::default() });
    }
    assert_eq!(durable.next_index(), LogIndex(3));
    assert_eq!(durable.term_starts, [(LogIndex(1), Term(0)), (LogIndex(2), Term(4))]);
    assert!(durable.contradiction(&Batch { entries: &[entry(3, 4)], ..Batch::default() }).is_none());
    assert!(durable.contradiction(&Batch { entries: &[entry(3, 3)], ..Batch::default() }).is_some());
}
