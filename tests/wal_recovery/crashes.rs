//! Crashes and failures at each operation.

use kvstore::storage::OpenError;

use crate::disk::{End, Fault};
use crate::script::{Ended, Node};

/// First boot, appends, markers, spares and two segment rolls.
const TURNS: usize = 30;
const MAX_BYTES: usize = 800;

/// Lives with `fault`. Gives whether it came; if so, what follows finds all that was promised.
fn survives(seed: u64, fault: Fault, end: End) -> bool {
    let mut node = Node::new(seed, TURNS, MAX_BYTES);
    node.disk.set_fault(fault);
    let ended = node.live();
    let came = ended.is_err();
    expect_honest(ended);
    node.disk.end_process(end);

    // Recovery is hit as well, at an early operation.
    let operation = match fault {
        Fault::Crash(n) | Fault::Once(n) | Fault::From(n) => n.wrapping_mul(7).wrapping_add(seed) % 40,
        Fault::None | Fault::NextSync | Fault::NextSyncFull => 0,
    };
    node.disk.set_fault(Fault::Crash(operation));
    expect_honest(node.live());
    node.disk.end_process(End::PowerCut);

    node.live().expect("a start without faults needs no hand");
    node.disk.end_process(End::PowerCut);
    node.start().expect("and neither does the next");
    assert_eq!(node.acknowledged, TURNS);
    let segments = node.disk.names().iter().filter(|name| name.starts_with('0')).count();
    assert!(segments >= 3, "the script fills three segments");
    came
}

/// A disk that fails is never taken for a log that is damaged.
fn expect_honest(ended: Result<(), Ended>) {
    match ended {
        Ok(()) | Err(Ended::Write | Ended::Open(OpenError::Read { .. } | OpenError::Write(_))) => {}
        Err(Ended::Open(error)) => panic!("{error}"),
    }
}

/// Lives once with each fault, until one no longer comes.
fn survives_each(seed: u64, end: End, fault: impl Fn(u64) -> Fault) {
    let faults = (0..).take_while(|n| survives(seed, fault(*n), end)).count();
    assert!(faults > 100, "{faults} operations are too few to be true");
}

#[test]
fn crash_at_each_operation_then_power_cut_loses_nothing() {
    for seed in 0..12 {
        survives_each(seed, End::PowerCut, Fault::Crash);
    }
}

#[test]
fn crash_at_each_operation_then_restart_loses_nothing() {
    for seed in 0..6 {
        survives_each(seed, End::Kill, Fault::Crash);
    }
}

#[test]
fn failure_of_each_operation_once_ends_the_process_and_loses_nothing() {
    for seed in 0..6 {
        survives_each(seed, End::Kill, Fault::Once);
        survives_each(seed, End::PowerCut, Fault::Once);
    }
}

#[test]
fn failure_of_each_operation_for_ever_ends_the_process_and_loses_nothing() {
    for seed in 0..4 {
        survives_each(seed, End::Kill, Fault::From);
        survives_each(seed, End::PowerCut, Fault::From);
    }
}

/// After a failed sync reads may show what is not stored. What a restart then recovers from the
/// cache it must store itself before it says so.
#[test]
fn failed_sync_then_restart_then_power_cut_keeps_what_the_restart_found() {
    let mut kept = 0;
    for seed in 0..300 {
        let mut node = Node::new(seed, TURNS, MAX_BYTES);
        node.disk.set_fault(Fault::Once(40 + seed % 60));
        expect_honest(node.live());
        let acknowledged = node.acknowledged;
        node.disk.end_process(End::Kill);
        node.start().expect("a restart succeeds");
        kept += usize::from(node.acknowledged > acknowledged);
        node.disk.end_process(End::PowerCut);
        node.start().expect("what was recovered was durable");
    }
    assert!(kept > 0, "no seed left an unacknowledged turn in the cache");
}

#[test]
fn short_counts_and_interrupts_change_nothing() {
    for seed in 0..10 {
        let mut node = Node::new(seed, TURNS, MAX_BYTES);
        node.disk.set_short_counts(true);
        node.live().expect("short counts are no failure");
        node.disk.end_process(End::PowerCut);
        node.start().expect("all was written");
        assert_eq!(node.acknowledged, TURNS);
    }
}

#[test]
fn disk_full_ends_the_process_and_room_heals_it() {
    let mut outcomes = Vec::new();
    for pages in 1..20 {
        let mut node = Node::new(3, TURNS, MAX_BYTES);
        node.disk.set_capacity(pages << 12);
        let ended = node.live();
        outcomes.push(ended.is_ok());
        expect_honest(ended);
        node.disk.end_process(End::PowerCut);
        node.disk.set_capacity(u64::MAX);
        node.live().expect("with room all goes well");
        assert_eq!(node.acknowledged, TURNS);
    }
    assert!(outcomes.is_sorted(), "more room never hurts: {outcomes:?}");
    assert!(!outcomes[0] && outcomes[18], "{outcomes:?}");
}
