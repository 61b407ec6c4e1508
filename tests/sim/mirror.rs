//! A node's log as it is known from outside: in memory, and on its disk.
//!
//! A mirror is whole: where the node holds a snapshot instead of entries, the mirror has the
//! committed history up to the snapshot's index, for that is what the snapshot must stand for.

use kvstore::raft::{Log, Position};
use kvstore::storage::Recovered;
use kvstore::types::{LogIndex, Term};
use kvstore::wire::entry::{Entry, HardState};

/// Positions of a log: each entry's term, and a hash over it and all before.
pub(crate) type Positions = Vec<(Term, u64)>;

/// One node's log, hashed.
///
/// Invariant: `durable` equals `log` below `changed_from`.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    log: Positions,
    durable: Positions,
    /// The lowest index, from 0, at which the two may differ.
    changed_from: usize,
    pub(crate) hard_state: HardState,
    pub(crate) durable_hard_state: HardState,
}

/// How a turn ended that failed in the middle of writing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Torn {
    /// It had not got past the log, which it claims is durable up to here.
    pub(crate) log: Option<LogIndex>,
}

/// A hash of an entry and all before it.
pub(crate) fn hash_on(previous: u64, bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| {
        let product = (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        product ^ (product >> 29)
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words
        .iter()
        .fold(mix(previous, bytes.len() as u64), |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash, u64::from_le_bytes(last))
}

fn push(log: &mut Positions, entry: &Entry) -> u64 {
    let previous = log.last().map_or(0, |(_, hash)| *hash);
    let hash = hash_on(previous, entry.encoded());
    log.push((entry.term, hash));
    hash
}

impl Mirror {
    /// The hash up to an index in memory; `None` beyond the end.
    pub(crate) fn hash(&self, index: u64) -> Option<u64> {
        let position = usize::try_from(index.checked_sub(1)?).ok()?;
        self.log.get(position).map(|(_, hash)| *hash)
    }

    /// The same on disk.
    pub(crate) fn durable_hash(&self, index: u64) -> Option<u64> {
        let position = usize::try_from(index.checked_sub(1)?).ok()?;
        let log = if position < self.changed_from { &self.log } else { &self.durable };
        log.get(position).map(|(_, hash)| *hash)
    }

    /// Whether the log reaches to an index; all logs reach to 0.
    pub(crate) fn holds(&self, index: u64) -> bool {
        index <= self.log.len() as u64
    }

    /// Follows the log; tells of each position that is new here. Gives whether a snapshot took the
    /// place of the whole log: a position that was never here stands before its first entry. What
    /// `history`, the committed one, does not reach to can be in no snapshot.
    pub(crate) fn update(
        &mut self,
        log: &Log,
        history: &[(Term, u64)],
        mut on_new: impl FnMut(u64, Term, u64),
    ) -> Result<bool, String> {
        let base = log.base();
        let is_replaced = base.index.0 > 0 && self.term(base.index.0) != Some(base.term);
        if is_replaced {
            self.begin_after(base, history)?;
        }
        let term_at = |length: usize| log.term_at(LogIndex(length as u64));
        let mut common = self.log.len().min(log.last_index().0 as usize);
        // Where index and term agree, all before agrees: that is checked as `on_new` is called.
        while common as u64 > base.index.0 && term_at(common) != Some(self.log[common - 1].0) {
            common -= 1;
        }
        if common < self.log.len() {
            self.log.truncate(common);
            self.changed_from = self.changed_from.min(common);
        }
        for index in common as u64 + 1..=log.last_index().0 {
            let entry = log.entry(LogIndex(index)).expect("entries above the base are held");
            let hash = push(&mut self.log, entry);
            on_new(index, entry.term, hash);
        }
        Ok(is_replaced)
    }

    fn term(&self, index: u64) -> Option<Term> {
        self.log.get(index as usize - 1).map(|(term, _)| *term)
    }

    /// The log begins anew after `base`.
    fn begin_after(&mut self, base: Position, history: &[(Term, u64)]) -> Result<(), String> {
        let before = history_to(base.index, history)?;
        let mut common = self.log.len().min(before.len());
        while common > 0 && self.log[common - 1] != before[common - 1] {
            common -= 1;
        }
        self.log.truncate(common);
        self.log.extend_from_slice(&before[common..]);
        self.changed_from = self.changed_from.min(common);
        Ok(())
    }

    /// Whether a claim that the log is durable up to an index goes beyond what was known.
    pub(crate) fn is_news(&self, claimed: LogIndex) -> bool {
        self.changed_from < claimed.0 as usize
    }

    /// A sync is over. The node claims that the log up to `claimed` was in it; what it appended
    /// since then, as a leader just elected does, was not.
    pub(crate) fn on_synced(&mut self, claimed: LogIndex) {
        self.on_log_synced(claimed);
        self.durable_hard_state = self.hard_state;
    }

    /// The same of the log alone: a snapshot was installed up to `claimed`.
    pub(crate) fn on_log_synced(&mut self, claimed: LogIndex) {
        let claimed = claimed.0 as usize;
        if self.changed_from < claimed {
            self.durable.truncate(self.changed_from);
            self.durable.extend_from_slice(&self.log[self.changed_from..claimed]);
            self.changed_from = claimed;
        }
    }

    /// Compares a disk with what was synced.
    pub(crate) fn compare(&self, recovered: &Recovered, history: &[(Term, u64)]) -> Result<(), String> {
        let (base, found) = found(recovered, history)?;
        match found == (self.durable_hard_state, self.durable.clone()) {
            true => Ok(()),
            false => Err(self.difference(base, &found)),
        }
    }

    fn difference(&self, base: LogIndex, (hard_state, log): &(HardState, Positions)) -> String {
        format!(
            "{:?} with {} entries was synced, {:?} with {} was written last, {hard_state:?} with {} came \
             back, {base} of them in a snapshot",
            self.durable_hard_state,
            self.durable.len(),
            self.hard_state,
            self.log.len(),
            log.len(),
        )
    }

    /// A process started: what it recovered must be what was durable, or, if the one before ended
    /// in the middle of writing, what it was writing: all, or the log up to where it was torn, or a
    /// snapshot that took the place of the log.
    pub(crate) fn recover(
        &mut self,
        recovered: &Recovered,
        history: &[(Term, u64)],
        torn: Option<Torn>,
    ) -> Result<(), String> {
        let (base, found) = found(recovered, history)?;
        let is_written = |attempted: LogIndex| {
            let written = &self.log[..attempted.0 as usize];
            found.0 == self.hard_state && (found.1 == self.log || found.1 == written)
        };
        let is_attempted = torn.and_then(|torn| torn.log).is_some_and(is_written);
        let is_whole = recovered.entries.is_empty() && base > LogIndex::ZERO;
        let is_known = [self.hard_state, self.durable_hard_state].contains(&found.0);
        let is_installed = torn.is_some() && is_whole && is_known;
        let is_durable = found.0 == self.durable_hard_state && found.1 == self.durable;
        if !(is_durable || is_attempted || is_installed) {
            return Err(self.difference(base, &found) + &format!(" (torn: {torn:?})"));
        }
        (self.hard_state, self.log) = found;
        self.durable = self.log.clone();
        self.changed_from = self.log.len();
        self.durable_hard_state = self.hard_state;
        Ok(())
    }
}

/// What a disk holds: the index of its snapshot, and hard state and whole log.
fn found(
    recovered: &Recovered,
    history: &[(Term, u64)],
) -> Result<(LogIndex, (HardState, Positions)), String> {
    let base = recovered.snapshot.as_ref().map_or(LogIndex::ZERO, |found| found.snapshot.index);
    let mut log = history_to(base, history)?.to_vec();
    for entry in &recovered.entries {
        push(&mut log, entry);
    }
    Ok((base, (recovered.hard_state, log)))
}

/// The history that a snapshot at `index` must stand for.
fn history_to(index: LogIndex, history: &[(Term, u64)]) -> Result<&[(Term, u64)], String> {
    history.get(..index.0 as usize).ok_or_else(|| {
        format!("a snapshot at {index}, where only {} entries are known to be committed", history.len())
    })
}
