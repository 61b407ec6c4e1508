//! The log in memory: what Figure 2 calls `log[]`, with `commitIndex` and `lastApplied`.

use std::collections::VecDeque;

use crate::planted::{Bug, is_planted};
use crate::types::{ClusterTime, LogIndex, Term};
use crate::wire::entry::{Entry, Payload};

/// The entries above `base`: zero, or an entry that a snapshot stands for.
///
/// Invariants, asserted where they could break:
/// 1. Entries are contiguous: the first has the index after `base`, each next one the next.
/// 2. Terms and stamps never fall from an entry to the next.
/// 3. `base` ≤ `applied` ≤ `committed` ≤ last index.
/// 4. An entry at or below `committed` is never changed nor removed from the end.
/// 5. `stable` ≤ last index, and what lies at or below it is on this node's disk.
/// 6. `held_bytes` is the size of all entries, `uncommitted_bytes` of those above `committed`.
#[derive(Clone, Debug)]
pub struct Log {
    entries: VecDeque<Entry>,
    base: Position,
    base_stamp: ClusterTime,
    committed: LogIndex,
    applied: LogIndex,
    stable: LogIndex,
    held_bytes: usize,
    uncommitted_bytes: usize,
    /// What a reset removed, to be freed a few at a time.
    discarded: VecDeque<Entry>,
}

/// An entry's index and term. By the Log Matching Property (section 5.3) two logs that have one
/// position in common are equal up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Index of the entry.
    pub index: LogIndex,
    /// Term of the entry.
    pub term: Term,
}

/// Why entries of a leader were not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// There is no entry like `prev`. Nothing above `hint` can match the sender's log there.
    Conflict {
        /// The highest position of ours that may match.
        hint: Position,
    },
    /// The entries would change what is committed: the sender breaks the protocol.
    Contradiction,
}

impl Log {
    /// A log as storage recovered it. Entry 1 is the founding configuration, which is committed by
    /// definition; nothing else is known to be.
    ///
    /// # Panics
    /// If the entries are not contiguous from 1 on or their terms fall, which storage excludes.
    #[must_use]
    pub fn recover(entries: Vec<Entry>) -> Self {
        Self::recover_after(Position::default(), ClusterTime::ZERO, entries)
    }

    /// A log as storage recovered it after a snapshot whose last entry is `base`, with this stamp.
    /// All that the snapshot stands for is committed, and applied.
    ///
    /// # Panics
    /// If the entries are not contiguous after `base` or their terms fall.
    #[must_use]
    pub fn recover_after(base: Position, base_stamp: ClusterTime, entries: Vec<Entry>) -> Self {
        let mut log = Self {
            entries: VecDeque::with_capacity(entries.len()),
            base,
            base_stamp,
            committed: base.index,
            applied: base.index,
            stable: base.index,
            held_bytes: 0,
            uncommitted_bytes: 0,
            discarded: VecDeque::new(),
        };
        for entry in entries {
            log.append(entry);
        }
        log.stable = log.last_index();
        log.commit_to(log.last_index().min(LogIndex(1)));
        log
    }

    /// Removes the oldest entry, if it is at or below `upto`; frees a discarded one instead while
    /// there are any. Whether there was one.
    ///
    /// # Panics
    /// If an entry to be removed is not applied here, or not on this node's disk.
    pub fn compact_one(&mut self, upto: LogIndex) -> bool {
        assert!(upto <= self.applied.min(self.stable), "to be compacted to {upto}, applied {}", self.applied);
        if self.discarded.pop_front().is_some() {
            return true;
        }
        let Some(entry) = self.entries.pop_front_if(|entry| entry.index <= upto) else { return false };
        self.held_bytes -= entry.encoded().len();
        (self.base, self.base_stamp) = (Position { index: entry.index, term: entry.term }, entry.stamp);
        true
    }

    /// Begins anew after a snapshot whose last entry is `base`: whatever was held conflicts with it
    /// or lies before it.
    ///
    /// # Panics
    /// If that entry is committed here already: then nothing needs to be replaced.
    pub fn reset(&mut self, base: Position, base_stamp: ClusterTime) {
        assert!(base.index > self.committed, "snapshot {}, {} committed", base.index, self.committed);
        let tail = if is_planted(Bug::TailKept) {
            self.entries_from(base.index.next(), usize::MAX)
        } else {
            Vec::new()
        };
        let discarded = std::mem::take(&mut self.entries);
        let later = std::mem::replace(self, Self::recover_after(base, base_stamp, tail));
        self.discarded = later.discarded;
        self.discarded.extend(discarded);
    }

    /// Whether entries that were removed wait to be freed.
    #[must_use]
    pub fn has_discarded(&self) -> bool {
        !self.discarded.is_empty()
    }

    /// Bytes of all entries.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Position of the entry before the first that is held.
    #[must_use]
    pub fn base(&self) -> Position {
        self.base
    }

    /// The stamp of the entry at `index`; `None` where [`Log::term_at`] gives none.
    #[must_use]
    pub fn stamp_at(&self, index: LogIndex) -> Option<ClusterTime> {
        if index == self.base.index {
            return Some(self.base_stamp);
        }
        self.entry(index).map(|entry| entry.stamp)
    }

    /// Position of the last entry.
    #[must_use]
    pub fn last(&self) -> Position {
        let last = self.entries.back();
        last.map_or(self.base, |entry| Position { index: entry.index, term: entry.term })
    }

    /// Index of the last entry.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.last().index
    }

    /// Index of the first entry that is held, or the one that would be.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.base.index.next()
    }

    /// Stamp of the last entry.
    #[must_use]
    pub fn last_stamp(&self) -> ClusterTime {
        self.entries.back().map_or(self.base_stamp, |entry| entry.stamp)
    }

    /// Highest index known to be committed.
    #[must_use]
    pub fn committed(&self) -> LogIndex {
        self.committed
    }

    /// Highest index that was given out to be applied.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Highest index that is on this node's disk.
    #[must_use]
    pub fn stable(&self) -> LogIndex {
        self.stable
    }

    /// Bytes of the entries that are not committed.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        self.uncommitted_bytes
    }

    /// The entry at `index`, if it is held.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let offset = index.0.checked_sub(self.first_index().0)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    /// The term of the entry at `index`; `None` if it lies beyond either end. (Never a zero that
    /// could match another log's missing entry.)
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index && is_planted(Bug::CompactedTermIsZero) {
            return Some(Term::ZERO);
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// "Candidate's log is at least as up-to-date as receiver's log" (sections 5.2 and 5.4.1): the
    /// later last term wins, then the longer log.
    #[must_use]
    pub fn is_up_to_date(&self, candidate: Position) -> bool {
        let own = self.last();
        (candidate.term, candidate.index) >= (own.term, own.index)
    }

    /// Appends one entry after the last.
    ///
    /// # Panics
    /// If it does not follow it.
    pub fn append(&mut self, entry: Entry) {
        let last = self.last();
        assert_eq!(entry.index, last.index.next(), "entry {} after entry {}", entry.index, last.index);
        assert!(entry.term >= last.term, "entry of term {} after term {}", entry.term, last.term);
        assert!(entry.stamp >= self.last_stamp(), "the stamp of entry {} falls", entry.index);
        self.held_bytes += entry.encoded().len();
        self.uncommitted_bytes += entry.encoded().len();
        self.entries.push_back(entry);
    }

    /// The receiver's steps 2 to 4 of AppendEntries (Figure 2): refuses entries without a match
    /// for `prev`, removes what conflicts with them, and appends what is new. Gives the index up
    /// to which this log now equals the sender's: `prev` plus the entries, never more.
    ///
    /// `entries` are contiguous after `prev` (the decoder saw to it).
    pub fn splice(&mut self, prev: Position, entries: Vec<Entry>) -> Result<LogIndex, Mismatch> {
        let match_index = prev.index.plus(entries.len() as u64);
        if prev.index >= self.base.index && self.term_at(prev.index) != Some(prev.term) {
            if prev.index <= self.committed {
                return Err(Mismatch::Contradiction);
            }
            return Err(Mismatch::Conflict { hint: self.last_possible_match(prev) });
        }
        if is_planted(Bug::OverlapTruncated) && match_index >= self.committed {
            self.truncate_from(match_index.next());
        }
        // "If an existing entry conflicts with a new one (same index but different terms), delete
        // the existing entry and all that follow it": only then. An old or empty message
        // (a prefix of what we have) must not shorten the log.
        let is_new =
            |entry: &Entry| entry.index > self.base.index && self.term_at(entry.index) != Some(entry.term);
        let Some(first_new) = entries.iter().position(is_new) else { return Ok(match_index) };
        let new = &entries[first_new..];
        if !self.may_replace_from(new) {
            return Err(Mismatch::Contradiction);
        }
        self.truncate_from(new[0].index);
        entries.into_iter().skip(first_new).for_each(|entry| self.append(entry));
        Ok(match_index)
    }

    /// Whether `new` may stand from its first index on without breaking invariants 2 and 4. Bytes
    /// from outside must not reach the assertions of `append`.
    fn may_replace_from(&self, new: &[Entry]) -> bool {
        let first = &new[0];
        let before = first.index.prev();
        let mut stamp = self.stamp_at(before).unwrap_or(ClusterTime::ZERO);
        let stamps_rise = new.iter().all(|entry| {
            let rises = entry.stamp >= stamp;
            stamp = entry.stamp;
            rises
        });
        let members_stay = new.iter().all(|entry| !matches!(entry.payload, Payload::Configuration(_)));
        let term_rises = self.term_at(before).is_some_and(|term| first.term >= term);
        first.index > self.committed && term_rises && stamps_rise && members_stay
    }

    fn truncate_from(&mut self, index: LogIndex) {
        assert!(index > self.committed, "entry {index} to be removed, {} committed", self.committed);
        while self.last_index() >= index {
            let removed = self.entries.pop_back().expect("entries above the base are held");
            self.held_bytes -= removed.encoded().len();
            self.uncommitted_bytes -= removed.encoded().len();
        }
        self.stable = self.stable.min(self.last_index());
    }

    /// The highest position of ours, at or below `other`, whose term does not exceed the other's:
    /// since terms never fall within a log, nothing above it can match (section 5.3, the last
    /// paragraphs; one round trip for each term instead of each entry).
    #[must_use]
    pub fn last_possible_match(&self, other: Position) -> Position {
        let mut index = other.index.min(self.last_index());
        while index > self.base.index {
            match self.term_at(index) {
                Some(term) if term <= other.term => return Position { index, term },
                _ => index = index.prev(),
            }
        }
        self.base
    }

    /// Entries from `from` on, up to `max_bytes` of them but at least one if there is one.
    #[must_use]
    pub fn entries_from(&self, from: LogIndex, max_bytes: usize) -> Vec<Entry> {
        let start = from.0.saturating_sub(self.first_index().0);
        let mut bytes = 0;
        self.entries
            .range(usize::try_from(start).unwrap_or(usize::MAX).min(self.entries.len())..)
            .take_while(|entry| {
                let first = bytes == 0;
                bytes += entry.encoded().len();
                first || bytes <= max_bytes
            })
            .cloned()
            .collect()
    }

    /// Raises the commit index; never lowers it.
    ///
    /// # Panics
    /// Beyond the last entry.
    pub fn commit_to(&mut self, index: LogIndex) {
        assert!(index <= self.last_index(), "commit {index} beyond the last entry {}", self.last_index());
        while self.committed < index {
            self.committed = self.committed.next();
            let size = self.entry(self.committed).map_or(0, |entry| entry.encoded().len());
            self.uncommitted_bytes -= size;
        }
    }

    /// "If commitIndex > lastApplied: increment lastApplied, apply `log[lastApplied]`" (Figure 2):
    /// gives that entry out.
    pub fn next_to_apply(&mut self) -> Option<Entry> {
        if self.applied == self.committed {
            return None;
        }
        self.applied = self.applied.next();
        let entry = self.entry(self.applied);
        Some(entry.expect("committed entries above the base are held").clone())
    }

    /// The entries that are not on disk yet.
    #[must_use]
    pub fn unstable(&self) -> Vec<Entry> {
        self.entries_from(self.stable.next(), usize::MAX)
    }

    /// Notes that the log is on disk up to `position`, if it still holds that entry.
    pub fn stable_to(&mut self, position: Position) {
        if self.term_at(position.index) == Some(position.term) {
            self.stable = self.stable.max(position.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{ClusterId, Incarnation, NodeId};
    use crate::wire::entry::{Configuration, Member};

    fn entry(index: u64, term: u64) -> Entry {
        let payload = Payload::Command(Bytes::from(format!("{term}.{index}")));
        Entry::new(LogIndex(index), Term(term), ClusterTime::ZERO, payload)
    }

    fn position(index: u64, term: u64) -> Position {
        Position { index: LogIndex(index), term: Term(term) }
    }

    fn log(terms: &[u64]) -> Log {
        let entries = terms.iter().zip(1..).map(|(term, index)| entry(index, *term));
        Log::recover(entries.collect())
    }

    fn terms(log: &Log) -> Vec<u64> {
        log.entries.iter().map(|entry| entry.term.0).collect()
    }

    #[test]
    fn splice_of_what_is_there_already_changes_nothing() {
        let mut log = log(&[0, 1, 1, 2]);
        assert_eq!(log.splice(position(1, 0), vec![entry(2, 1), entry(3, 1)]), Ok(LogIndex(3)));
        assert_eq!(log.splice(position(2, 1), vec![]), Ok(LogIndex(2)), "a heartbeat's prefix");
        assert_eq!(terms(&log), [0, 1, 1, 2]);
    }

    #[test]
    fn splice_with_a_conflict_removes_it_and_all_that_follow() {
        let mut log = log(&[0, 1, 1, 1]);
        assert_eq!(log.splice(position(2, 1), vec![entry(3, 2)]), Ok(LogIndex(3)));
        assert_eq!(terms(&log), [0, 1, 2]);
        assert_eq!(log.stable(), LogIndex(2), "what replaced the durable entry is not durable yet");
    }

    #[test]
    fn splice_without_a_match_gives_the_last_possible_one() {
        let mut log = log(&[0, 1, 1, 4, 4]);
        let hint = |log: &mut Log, prev| match log.splice(prev, vec![]) {
            Err(Mismatch::Conflict { hint }) => hint,
            other => panic!("{other:?}"),
        };
        assert_eq!(hint(&mut log, position(9, 4)), position(5, 4), "beyond the end");
        assert_eq!(hint(&mut log, position(5, 2)), position(3, 1), "terms above 2 cannot match");
        assert_eq!(hint(&mut log, position(5, 0)), position(1, 0));
    }

    #[test]
    fn splice_that_would_change_a_committed_entry_is_a_contradiction() {
        let mut log = log(&[0, 1, 1]);
        log.commit_to(LogIndex(3));
        assert_eq!(log.splice(position(2, 1), vec![entry(3, 2)]), Err(Mismatch::Contradiction));
        assert_eq!(log.splice(position(3, 9), vec![]), Err(Mismatch::Contradiction));
        assert_eq!(terms(&log), [0, 1, 1]);
    }

    #[test]
    fn splice_of_what_no_leader_appends_is_a_contradiction() {
        let stamped =
            |index, stamp, payload| Entry::new(LogIndex(index), Term(2), ClusterTime(stamp), payload);
        let command = || Payload::Command(Bytes::from_static(b"x"));
        let members =
            Configuration::new(ClusterId(1), vec![Member { id: NodeId(1), incarnation: Incarnation(1) }]);
        let mut log = Log::recover(vec![entry(1, 0), stamped(2, 7, command())]);
        let refused = [
            vec![stamped(3, 6, command())],
            vec![stamped(3, 8, command()), stamped(4, 7, command())],
            vec![stamped(3, 7, Payload::Configuration(members.unwrap()))],
        ];
        for entries in refused {
            assert_eq!(
                log.splice(position(2, 2), entries.clone()),
                Err(Mismatch::Contradiction),
                "{entries:?}"
            );
        }
        assert_eq!(log.splice(position(2, 2), vec![stamped(3, 7, command())]), Ok(LogIndex(3)));
    }

    /// Terms 0, 1, 1, 2 with all committed and applied, compacted up to entry 3.
    fn compacted() -> Log {
        let mut log = log(&[0, 1, 1, 2]);
        log.commit_to(LogIndex(4));
        while log.next_to_apply().is_some() {}
        while log.compact_one(LogIndex(3)) {}
        log
    }

    #[test]
    fn compacted_log_knows_the_term_of_its_base_and_of_nothing_below() {
        let log = compacted();
        assert_eq!((log.first_index(), log.last_index()), (LogIndex(4), LogIndex(4)));
        let known: Vec<_> = (0..6).map(|index| log.term_at(LogIndex(index)).map(|term| term.0)).collect();
        assert_eq!(known, [None, None, None, Some(1), Some(2), None], "never a zero that could match");
        assert_eq!(log.held_bytes(), log.entry(LogIndex(4)).unwrap().encoded().len());
    }

    #[test]
    fn compacted_log_takes_what_overlaps_it_and_deletes_nothing() {
        let mut log = compacted();
        assert_eq!(log.splice(position(1, 0), vec![entry(2, 1)]), Ok(LogIndex(2)));
        let overlapping = vec![entry(2, 1), entry(3, 1), entry(4, 2), entry(5, 2)];
        assert_eq!(log.splice(position(1, 0), overlapping), Ok(LogIndex(5)));
        assert_eq!(terms(&log), [2, 2]);
        assert_eq!(log.splice(position(3, 9), vec![entry(4, 9)]), Err(Mismatch::Contradiction));
    }

    #[test]
    fn compacted_to_its_tip_the_log_still_has_a_last_position() {
        let mut log = compacted();
        while log.compact_one(LogIndex(4)) {}
        assert_eq!(log.last(), position(4, 2));
        assert_eq!(log.splice(position(4, 2), vec![entry(5, 2)]), Ok(LogIndex(5)));
    }

    #[cfg(any(debug_assertions, feature = "planted-bugs"))]
    #[test]
    fn reset_that_keeps_a_tail_is_noticed() {
        assert!(crate::planted::is_caught(Bug::TailKept, reset_leaves_nothing_of_a_divergent_tail));
    }

    #[test]
    fn reset_leaves_nothing_of_a_divergent_tail() {
        let mut log = log(&[0, 1, 1, 1, 1, 1]);
        log.reset(position(4, 3), ClusterTime(7));
        assert_eq!((log.last(), log.base()), (position(4, 3), position(4, 3)));
        assert_eq!((log.stable(), log.committed(), log.applied()), (LogIndex(4), LogIndex(4), LogIndex(4)));
        assert_eq!((log.held_bytes(), log.uncommitted_bytes(), log.last_stamp()), (0, 0, ClusterTime(7)));
        assert!(log.next_to_apply().is_none(), "its last entry is not applied again");
        let freed = (0..).find(|_| !log.compact_one(LogIndex(4))).unwrap();
        assert_eq!(freed, 6);
    }

    #[test]
    fn up_to_date_compares_terms_before_lengths() {
        let log = log(&[0, 1, 3]);
        assert!(log.is_up_to_date(position(2, 4)), "later term, shorter log");
        assert!(log.is_up_to_date(position(3, 3)), "equal");
        assert!(!log.is_up_to_date(position(2, 3)), "same term, shorter log");
        assert!(!log.is_up_to_date(position(9, 2)), "earlier term, longer log");
    }

    #[test]
    fn entries_from_under_any_limit_are_contiguous_and_at_least_one() {
        let log = log(&[0, 1, 1, 1, 1]);
        for limit in 0..200 {
            let batch = log.entries_from(LogIndex(2), limit);
            assert!(!batch.is_empty());
            assert!(batch.iter().zip(2..).all(|(entry, index)| entry.index.0 == index));
        }
        assert!(log.entries_from(LogIndex(6), 100).is_empty());
        let two =
            log.entries_from(LogIndex(2), usize::MAX)[..2].iter().map(|entry| entry.encoded().len()).sum();
        assert_eq!(log.entries_from(LogIndex(2), two).len(), 2, "as many as fit");
    }

    #[test]
    fn uncommitted_bytes_at_rest_are_none() {
        let mut log = log(&[0, 1, 1]);
        assert!(log.uncommitted_bytes() > 0);
        log.splice(position(2, 1), vec![entry(3, 2), entry(4, 2)]).unwrap();
        log.commit_to(LogIndex(4));
        assert_eq!(log.uncommitted_bytes(), 0);
    }

    #[test]
    fn apply_gives_each_committed_entry_once_and_in_order() {
        let mut log = log(&[0, 1, 1]);
        log.commit_to(LogIndex(2));
        let mut applied = Vec::new();
        while let Some(entry) = log.next_to_apply() {
            applied.push(entry.index.0);
        }
        assert_eq!(applied, [1, 2]);
    }
}
