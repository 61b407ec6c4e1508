//! What the core knows of snapshots. Their bytes are the replica's, and tested there.

use bytes::Bytes;

use super::cluster::{Cluster, Flight};
use crate::raft::{Config, Event, LogBounds, Raft, SnapshotInput};
use crate::time::Instant;
use crate::types::{ClusterTime, LogIndex, NodeId, Term};
use crate::wire::entry::{Entry, HardState, Payload, Snapshot, SnapshotId};
use crate::wire::peer::{InstallResult, InstallSnapshot, InstallSnapshotResponse, Message};

const LEADER: NodeId = NodeId(1);
const BEHIND: NodeId = NodeId(3);
const NOTHING: LogBounds = LogBounds { trailing_bytes: 0, max_bytes: 0 };
const PLENTY: LogBounds = LogBounds { trailing_bytes: 0, max_bytes: usize::MAX };

/// Node 1 leads; node 3 misses twenty entries, all of which a snapshot of node 1 stands for.
fn one_behind() -> (Cluster, Snapshot) {
    let mut cluster = Cluster::founded(3, |_| {});
    cluster.now = cluster.raft(LEADER).next_deadline();
    cluster.tick(LEADER);
    cluster.run();
    for peer in [LEADER, NodeId(2)] {
        cluster.cuts.extend([(peer, BEHIND), (BEHIND, peer)]);
    }
    for _ in 0..20 {
        cluster.propose(LEADER, "x").unwrap();
        cluster.run();
    }
    // From here on a log has a beginning that is gone: what compares whole logs does not apply.
    cluster.checks.is_forged = true;
    let snapshot = cluster.raft(LEADER).next_snapshot().expect("entries are applied");
    let saved = snapshot.clone();
    cluster.call(LEADER, |raft, _| raft.on_snapshot_saved(saved));
    (cluster, snapshot)
}

fn id_of(snapshot: &Snapshot) -> SnapshotId {
    SnapshotId { index: snapshot.index, term: snapshot.term, bytes: 10_000, checksum: 7 }
}

fn answer(cluster: &mut Cluster, snapshot: SnapshotId, result: InstallResult) {
    let term = cluster.raft(LEADER).term();
    let message = Message::InstallSnapshotResponse(InstallSnapshotResponse { term, snapshot, result });
    cluster.deliver(Flight { from: BEHIND, to: LEADER, message });
}

fn chunk(cluster: &Cluster, snapshot: SnapshotId) -> Message {
    let term = cluster.raft(LEADER).term();
    Message::InstallSnapshot(InstallSnapshot { term, snapshot, offset: 0, chunk: vec![1; 10].into() })
}

#[test]
fn follower_that_lacks_what_is_gone_is_sent_a_snapshot_and_matches_when_it_is_installed() {
    let (mut cluster, snapshot) = one_behind();
    assert!(!cluster.call(LEADER, |raft, _| raft.compact(1000, NOTHING)));
    assert_eq!(cluster.raft(LEADER).log().first_index(), snapshot.index.next(), "compacted to its tip");
    cluster.cuts.clear();
    cluster.link_up(LEADER, BEHIND);
    cluster.run();
    assert_eq!(cluster.raft(LEADER).snapshot_receivers(), [(BEHIND, snapshot.index)]);

    // The last chunk was received, and nothing follows from it.
    answer(&mut cluster, id_of(&snapshot), InstallResult::Received { offset: 10_000 });
    assert_eq!(cluster.raft(LEADER).snapshot_receivers(), [(BEHIND, snapshot.index)]);
    let inputs = cluster.call(LEADER, |raft, _| raft.take_snapshot_inputs());
    assert!(matches!(inputs[..], [SnapshotInput::Answer(BEHIND, _)]));

    let (installed, id) = (snapshot.clone(), id_of(&snapshot));
    cluster.node_mut(BEHIND).disk.entries = cluster.node(LEADER).disk.entries.clone();
    cluster.call(BEHIND, |raft, _| raft.on_snapshot_installed(installed));
    answer(&mut cluster, id, InstallResult::Installed);
    assert_eq!(cluster.raft(LEADER).snapshot_receivers(), []);
    cluster.propose(LEADER, "after").unwrap();
    cluster.run();
    assert_eq!(cluster.raft(BEHIND).log().last(), cluster.raft(LEADER).log().last());
}

#[test]
fn entries_after_a_snapshot_on_its_way_are_kept_within_the_bound() {
    let (mut cluster, snapshot) = one_behind();
    // Node 3 is linked and lacks them all: as long as there is room they stay for it.
    assert!(!cluster.call(LEADER, |raft, _| raft.compact(1000, PLENTY)));
    assert!(cluster.raft(LEADER).log().first_index() < snapshot.index);
    cluster.link_down(LEADER, BEHIND);
    assert!(!cluster.call(LEADER, |raft, _| raft.compact(1000, PLENTY)));
    assert_eq!(cluster.raft(LEADER).log().first_index(), snapshot.index.next(), "nobody linked wants them");
}

#[test]
fn compaction_removes_a_bounded_number_at_a_time() {
    let (mut cluster, snapshot) = one_behind();
    assert!(cluster.call(LEADER, |raft, _| raft.compact(5, NOTHING)), "there is more to remove");
    assert_eq!(cluster.raft(LEADER).log().first_index(), LogIndex(6));
    assert!(!cluster.call(LEADER, |raft, _| raft.compact(1000, NOTHING)));
    assert_eq!(cluster.raft(LEADER).log().first_index(), snapshot.index.next());
}

#[test]
fn chunk_of_what_is_here_already_is_answered_as_installed_once_it_is_durable() {
    let (mut cluster, snapshot) = one_behind();
    let message = chunk(&cluster, id_of(&snapshot));
    let follower = NodeId(2);
    cluster.deliver(Flight { from: LEADER, to: follower, message });
    assert_eq!(cluster.call(follower, |raft, _| raft.take_snapshot_inputs()), []);
    let says_installed = |cluster: &Cluster| {
        let says = |flight: &Flight| matches!(&flight.message, Message::InstallSnapshotResponse(m) if m.result == InstallResult::Installed);
        cluster.network.iter().any(says)
    };
    cluster.ready(follower);
    assert!(!says_installed(&cluster), "it is a promise");
    cluster.advance(follower);
    assert!(says_installed(&cluster));
}

#[test]
fn chunk_that_is_needed_is_handed_up_and_counts_as_hearing_the_leader() {
    let (mut cluster, snapshot) = one_behind();
    cluster.now += crate::time::Duration::from_millis(100);
    let (message, before) = (chunk(&cluster, id_of(&snapshot)), cluster.raft(BEHIND).next_deadline());
    cluster.deliver(Flight { from: LEADER, to: BEHIND, message });
    assert!(cluster.raft(BEHIND).next_deadline() > before);
    let inputs = cluster.call(BEHIND, |raft, _| raft.take_snapshot_inputs());
    assert!(matches!(inputs[..], [SnapshotInput::Chunk(LEADER, _)]));
}

#[test]
fn snapshot_is_needed_unless_the_log_is_known_to_hold_its_last_entry() {
    let cluster = Cluster::founded(3, |_| {});
    let command = |index| {
        let payload = Payload::Command(Bytes::from_static(b"x"));
        Entry::new(LogIndex(index), Term(2), ClusterTime::ZERO, payload)
    };
    let entries = [cluster.founding()].into_iter().chain((2..=30).map(command)).collect();
    let hard_state = HardState { term: Term(3), voted_for: None };
    let raft = Raft::new(Config::new(BEHIND, 1), hard_state, entries, Instant::ZERO);
    let needs = |index, term| {
        let (index, term) = (LogIndex(index), Term(term));
        raft.needs_snapshot(&SnapshotId { index, term, bytes: 10_000, checksum: 7 })
    };
    assert!(!needs(1, 0), "committed");
    assert!(!needs(20, 2), "it matches");
    assert!(needs(20, 3), "a log that is long enough, with others' entries in it");
    assert!(needs(31, 2), "beyond the end");
}

#[test]
fn install_that_nobody_sent_is_a_violation() {
    let (mut cluster, snapshot) = one_behind();
    let beyond = SnapshotId { index: snapshot.index.plus(5), ..id_of(&snapshot) };
    answer(&mut cluster, beyond, InstallResult::Installed);
    let is_violation = |(_, event): &(NodeId, Event)| matches!(event, Event::ProtocolViolation { .. });
    assert!(cluster.events.iter().any(is_violation));
}

#[test]
fn chunk_of_what_is_here_already_commits_it() {
    let cluster = Cluster::founded(3, |_| {});
    let command = |index| {
        let payload = Payload::Command(Bytes::from_static(b"x"));
        Entry::new(LogIndex(index), Term(2), ClusterTime::ZERO, payload)
    };
    let entries = [cluster.founding()].into_iter().chain((2..=30).map(command)).collect();
    let hard_state = HardState { term: Term(3), voted_for: None };
    let mut raft = Raft::new(Config::new(BEHIND, 1), hard_state, entries, Instant::ZERO);
    let snapshot = SnapshotId { index: LogIndex(20), term: Term(2), bytes: 10_000, checksum: 7 };
    let chunk = InstallSnapshot { term: Term(3), snapshot, offset: 0, chunk: vec![1; 10].into() };
    raft.step(Instant::ZERO, LEADER, Message::InstallSnapshot(chunk));
    assert_eq!(raft.take_snapshot_inputs(), [], "it matches");
    assert_eq!(raft.log().committed(), LogIndex(20), "what a snapshot stands for is committed");
}

#[test]
fn follower_is_known_to_have_what_is_committed_and_no_more() {
    let mut cluster = Cluster::founded(5, |_| {});
    cluster.now = cluster.raft(LEADER).next_deadline();
    cluster.tick(LEADER);
    cluster.run();
    for peer in [3, 4, 5].map(NodeId) {
        cluster.cuts.extend([(LEADER, peer), (peer, LEADER)]);
    }
    cluster.propose(LEADER, "x").unwrap();
    cluster.run();
    let raft = cluster.raft(LEADER);
    let committed = raft.log().committed();
    assert_eq!(crate::raft::invariants::counted_of(raft, NodeId(2)).unwrap().0, committed.next());
    let known = raft.acknowledged().find(|(id, _)| *id == NodeId(2)).unwrap().1;
    assert_eq!(known, committed, "it may yet have to give up the rest, and would pass for an old copy then");
}
