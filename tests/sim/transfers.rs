//! Snapshots on their way from leaders to followers, as their messages tell.

use std::collections::BTreeMap;

use kvstore::wire::entry::SnapshotId;
use kvstore::wire::peer::InstallSnapshot;

/// What became of snapshots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotCounts {
    /// Taken of a node's own state, and durable.
    pub(crate) taken: u64,
    /// Begun to be sent.
    pub(crate) sent: u64,
    /// Installed by a follower.
    pub(crate) installed: u64,
    /// Begun anew by a leader, and gone on with where the follower was.
    pub(crate) resumed: u64,
    /// Sent from the beginning once more.
    pub(crate) restarted: u64,
    /// Given up, whole or in part, for another.
    pub(crate) abandoned: u64,
    /// Made a whole backup of, by a client.
    pub(crate) backed_up: u64,
}

/// The chunk that a follower was sent last, until it has installed all of it.
#[derive(Default)]
pub(crate) struct Transfers {
    last: BTreeMap<usize, Chunk>,
    pub(crate) counts: SnapshotCounts,
}

struct Chunk {
    leader: usize,
    snapshot: SnapshotId,
    offset: u64,
    end: u64,
}

impl Transfers {
    /// A node has a new snapshot.
    pub(crate) fn on_snapshot(&mut self, is_installed: bool) {
        let count = if is_installed { &mut self.counts.installed } else { &mut self.counts.taken };
        *count += 1;
    }

    /// A leader sends a chunk.
    pub(crate) fn on_chunk(&mut self, leader: usize, follower: usize, chunk: &InstallSnapshot) {
        let InstallSnapshot { snapshot, offset, ref chunk, .. } = *chunk;
        let end = offset + chunk.len() as u64;
        let last = self.last.insert(follower, Chunk { leader, snapshot, offset, end });
        let counts = &mut self.counts;
        match last {
            None => counts.sent += 1,
            Some(last) if last.snapshot != snapshot => {
                counts.sent += 1;
                counts.abandoned += 1;
            }
            Some(last) if last.leader == leader && offset > last.offset && offset != last.end => {
                counts.resumed += 1;
            }
            Some(last) if offset == 0 && last.offset > 0 => counts.restarted += 1,
            Some(_) => {}
        }
    }

    /// A follower says that it has all that it was sent.
    pub(crate) fn on_installed(&mut self, follower: usize) {
        self.last.remove(&follower);
    }
}

impl SnapshotCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.taken += other.taken;
        self.sent += other.sent;
        self.installed += other.installed;
        self.resumed += other.resumed;
        self.restarted += other.restarted;
        self.abandoned += other.abandoned;
        self.backed_up += other.backed_up;
    }

    /// What never happened.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let Self { taken, sent, installed, resumed, restarted, abandoned, backed_up } = *self;
        let named = [
            (taken, "taken"),
            (sent, "sent"),
            (installed, "installed"),
            (resumed, "resumed"),
            (restarted, "restarted"),
            (abandoned, "abandoned"),
            (backed_up, "backed up"),
        ];
        named.into_iter().filter(|(count, _)| *count == 0).map(|(_, name)| name).collect()
    }
}
