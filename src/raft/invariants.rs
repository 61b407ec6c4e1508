//! What must hold of one node in every state, and from each state to the next, in one place.
//!
//! [`check`] is cheap and runs after every turn, in release builds too. [`check_step`] compares two
//! [`View`]s of the same node; every test and the simulator run it around every step.

use super::node::{Raft, Role};
use crate::types::{LogIndex, NodeId, Term};
use crate::wire::client::RoleName;

/// What of a node's state is compared over a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The role.
    pub role: RoleName,
    /// The term.
    pub term: Term,
    /// The vote in it.
    pub voted_for: Option<NodeId>,
    /// The commit index.
    pub committed: LogIndex,
    /// The last entry's index.
    pub last_index: LogIndex,
    /// The highest index given out to be applied.
    pub applied: LogIndex,
    /// The term of the entry at the commit index.
    pub committed_term: Option<Term>,
}

impl View {
    /// Takes a view of a node.
    #[must_use]
    pub fn of(raft: &Raft) -> Self {
        let log = raft.log();
        Self {
            role: raft.role_name(),
            term: raft.term(),
            voted_for: raft.hard_state().voted_for,
            committed: log.committed(),
            last_index: log.last_index(),
            applied: log.applied(),
            committed_term: log.term_at(log.committed()),
        }
    }
}

/// What a leader counts of another node: the index up to which that one's log is known to match, and
/// the last round that it answered. Whoever sees both nodes can tell whether it is so.
#[must_use]
pub fn counted_of(raft: &Raft, peer: NodeId) -> Option<(LogIndex, u64)> {
    match &raft.role {
        Role::Leader(leader) => leader.counted_of(peer),
        _ => None,
    }
}

/// Holds of every state.
///
/// # Panics
/// If it does not: the node must stop before it does harm.
pub fn check(raft: &Raft) {
    let log = raft.log();
    let (applied, committed, last) = (log.applied(), log.committed(), log.last());
    assert!(applied <= committed, "applied {applied}, committed {committed}");
    assert!(committed <= last.index, "committed {committed}, last entry {}", last.index);
    assert!(log.stable() <= last.index, "durable to {}, last entry {}", log.stable(), last.index);
    let snapshot = raft.snapshot().map_or(LogIndex::ZERO, |snapshot| snapshot.index);
    assert!(
        log.base().index <= snapshot,
        "the log begins after {}, the snapshot {snapshot}",
        log.base().index
    );
    assert!(snapshot <= applied, "snapshot {snapshot}, applied {applied}");
    assert!(last.term <= raft.term(), "an entry of term {} in term {}", last.term, raft.term());
    let durable = raft.core.durable.hard_state;
    assert!(durable.term <= raft.term(), "durable term {} in term {}", durable.term, raft.term());
    if let Role::Follower(follower) = &raft.role {
        follower.check();
    }
    if let Role::Leader(_) = &raft.role {
        let own = Some(raft.config().id);
        assert_eq!(raft.hard_state().voted_for, own, "a leader voted for itself");
        assert_eq!(durable, raft.hard_state(), "a leader's term and vote are durable");
        assert_eq!(last.term, raft.term(), "a leader's log ends in its own term");
    }
}

/// Holds from a state to each later one of the same boot.
///
/// # Panics
/// If it does not.
pub fn check_step(before: &View, after: &View) {
    assert!(before.term <= after.term, "the term falls from {} to {}", before.term, after.term);
    assert!(before.committed <= after.committed, "the commit index falls");
    assert!(before.applied <= after.applied, "the applied index falls");
    if before.term == after.term {
        let kept = before.voted_for.is_none() || before.voted_for == after.voted_for;
        assert!(kept, "the vote of term {} changes: {before:?} to {after:?}", before.term);
        let led = before.role == RoleName::Leader && after.role == RoleName::Leader;
        let append_only = !led || before.last_index <= after.last_index;
        assert!(append_only, "a leader removed entries of its log (section 5.3)");
        let to_leader = before.role != RoleName::Leader && after.role == RoleName::Leader;
        // A pre-candidate too, by late votes of its last try in the same term.
        let asks = matches!(before.role, RoleName::Candidate | RoleName::PreCandidate);
        let has_asked = asks && before.voted_for.is_some();
        assert!(!to_leader || has_asked, "only a candidate is elected: {before:?} to {after:?}");
    }
}
