//! Majorities.

use std::collections::BTreeMap;

use crate::types::NodeId;

/// How many of `voters` are a majority: two majorities of the same voters always share one.
#[must_use]
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// The highest value that a majority has reached, given each voter's own (match indexes, acked
/// rounds, moments). This is the paper's "a majority of matchIndex[i] ≥ N" solved for the largest N.
///
/// # Panics
/// Without voters.
#[must_use]
pub(super) fn reached<T: Ord + Copy>(mut values: Vec<T>) -> T {
    assert!(!values.is_empty(), "a quorum needs voters");
    values.sort_unstable_by(|a, b| b.cmp(a));
    values[majority(values.len()) - 1]
}

/// What voters answered in one election or pre-vote. Each voter counts once, by its first answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    votes: BTreeMap<NodeId, bool>,
}

/// What came of an election or pre-vote, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VoteResult {
    /// A majority granted its vote.
    Won,
    /// So many refused that no majority is left.
    Lost,
    /// Both are still possible.
    Pending,
}

impl Tally {
    /// Notes a voter's answer; whether it is its first.
    pub(super) fn record(&mut self, voter: NodeId, granted: bool) -> bool {
        let is_first = !self.votes.contains_key(&voter);
        self.votes.entry(voter).or_insert(granted);
        is_first
    }

    /// Whether this voter has answered.
    pub(super) fn has(&self, voter: NodeId) -> bool {
        self.votes.contains_key(&voter)
    }

    /// What came of it among `voters`, so far; answers of anybody else do not count.
    #[must_use]
    pub(super) fn result(&self, voters: &[NodeId]) -> VoteResult {
        let count = |answer| voters.iter().filter(|id| self.votes.get(id) == Some(&answer)).count();
        let (granted, refused) = (count(true), count(false));
        if granted >= majority(voters.len()) {
            VoteResult::Won
        } else if voters.len() - refused < majority(voters.len()) {
            VoteResult::Lost
        } else {
            VoteResult::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reached_for_one_to_seven_voters_equals_brute_force() {
        for voters in 1..=7_usize {
            // All vectors over {0, 1, 2}: enough to order any three values in any way.
            for code in 0..3_usize.pow(u32::try_from(voters).unwrap()) {
                let values: Vec<u64> =
                    (0..voters).map(|place| (code / 3_usize.pow(place as u32) % 3) as u64).collect();
                let brute = (0..=2).rev().find(|n| {
                    let having = values.iter().filter(|value| *value >= n).count();
                    having * 2 > voters
                });
                assert_eq!(Some(reached(values.clone())), brute, "{values:?}");
            }
        }
    }

    #[test]
    fn tally_of_every_answer_pattern_equals_brute_force() {
        for voters in 1..=5_u64 {
            let ids: Vec<NodeId> = (1..=voters).map(NodeId).collect();
            for code in 0..3_u64.pow(voters as u32) {
                let mut tally = Tally::default();
                let answers: Vec<u64> = (0..voters).map(|v| code / 3_u64.pow(v as u32) % 3).collect();
                for (id, answer) in ids.iter().zip(&answers).filter(|(_, answer)| **answer < 2) {
                    tally.record(*id, *answer == 1);
                }
                let count = |wanted| answers.iter().filter(|answer| **answer == wanted).count() as u64;
                let expected = if count(1) * 2 > voters {
                    VoteResult::Won
                } else if (voters - count(0)) * 2 <= voters {
                    VoteResult::Lost
                } else {
                    VoteResult::Pending
                };
                assert_eq!(tally.result(&ids), expected, "{answers:?}");
            }
        }
    }

    #[test]
    fn tally_counts_neither_strangers_nor_second_answers() {
        let voters = [NodeId(1), NodeId(2), NodeId(3)];
        let mut tally = Tally::default();
        tally.record(NodeId(1), true);
        tally.record(NodeId(9), true);
        tally.record(NodeId(2), false);
        tally.record(NodeId(2), true);
        assert_eq!(tally.result(&voters), VoteResult::Pending);
    }
}
