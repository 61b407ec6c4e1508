//! A node's log as it is known from outside: in memory, and on its disk.

use kvstore::raft::Log;
use kvstore::storage::Recovered;
use kvstore::types::{LogIndex, Term};
use kvstore::wire::entry::{Entry, HardState};

/// Positions of a log: each entry's term, and a hash over it and all before.
type Positions = Vec<(Term, u64)>;

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

    /// Follows the log; tells of each position that is new here.
    pub(crate) fn update(&mut self, log: &Log, mut on_new: impl FnMut(u64, Term, u64)) {
        let term_at = |length: usize| log.term_at(LogIndex(length as u64));
        let mut common = self.log.len().min(log.last_index().0 as usize);
        // Where index and term agree, all before agrees: that is checked as `on_new` is called.
        while common > 0 && term_at(common) != Some(self.log[common - 1].0) {
            common -= 1;
        }
        if common == self.log.len() && log.last_index().0 as usize == common {
            return;
        }
        self.log.truncate(common);
        self.changed_from = self.changed_from.min(common);
        for index in common as u64 + 1..=log.last_index().0 {
            let entry = log.entry(LogIndex(index)).expect("the log is kept whole");
            let hash = push(&mut self.log, entry);
            on_new(index, entry.term, hash);
        }
    }

    /// Whether a claim that the log is durable up to an index goes beyond what was known.
    pub(crate) fn is_news(&self, claimed: LogIndex) -> bool {
        self.changed_from < claimed.0 as usize
    }

    /// A sync is over. The node claims that the log up to `claimed` was in it; what it appended
    /// since then, as a leader just elected does, was not.
    pub(crate) fn on_synced(&mut self, claimed: LogIndex) {
        let claimed = claimed.0 as usize;
        if self.changed_from < claimed {
            self.durable.truncate(self.changed_from);
            self.durable.extend_from_slice(&self.log[self.changed_from..claimed]);
            self.changed_from = claimed;
        }
        self.durable_hard_state = self.hard_state;
    }

    /// A process started: what it recovered must be what was durable, or, if the one before ended
    /// in the middle of writing, what it was writing: all, or the log up to `attempted`.
    pub(crate) fn recover(
        &mut self,
        recovered: &Recovered,
        attempted: Option<LogIndex>,
    ) -> Result<(), String> {
        let mut log = Positions::new();
        for entry in &recovered.entries {
            push(&mut log, entry);
        }
        let found = (recovered.hard_state, log);
        let is_attempted = attempted.is_some_and(|attempted| {
            let written = &self.log[..attempted.0 as usize];
            found.0 == self.hard_state && (found.1 == self.log || found.1 == written)
        });
        let is_durable = found.0 == self.durable_hard_state && found.1 == self.durable;
        if !(is_durable || is_attempted) {
            return Err(format!(
                "{:?} with {} entries was synced, {:?} with {} was written last ({attempted:?}), \
                 {:?} with {} came back",
                self.durable_hard_state,
                self.durable.len(),
                self.hard_state,
                self.log.len(),
                found.0,
                found.1.len()
            ));
        }
        (self.hard_state, self.log) = found;
        self.changed_from = self.changed_from.min(self.log.len());
        self.durable = self.log.clone();
        self.changed_from = self.log.len();
        self.durable_hard_state = self.hard_state;
        Ok(())
    }
}
