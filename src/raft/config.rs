//! What a node is told about itself and about time.

use crate::time::Duration;
use crate::types::NodeId;
use crate::wire::MAX_APPEND_BYTES;

/// Settings of one node. They may differ between nodes: no safety property depends on them.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Time between a leader's heartbeats.
    pub heartbeat: Duration,
    /// The shortest election timeout: for so long a follower is loyal to a leader that it heard.
    pub election_min: Duration,
    /// The longest election timeout; a leader without a quorum for so long gives way.
    pub election_max: Duration,
    /// Bytes of entries in one AppendEntries, but for a single larger entry.
    pub max_append_bytes: usize,
    /// AppendEntries under way to one follower, at most.
    pub window_messages: usize,
    /// Bytes of entries under way to one follower, at most, but for a single larger entry. Where its
    /// answers to heartbeats are late, it is given less.
    pub window_bytes: usize,
    /// Bytes of entries that a leader takes before they are committed.
    pub max_uncommitted_bytes: usize,
    /// Seed of the election jitter.
    pub seed: u64,
}

impl Config {
    /// Settings for a node on a local network: 30 ms heartbeats, elections after 150 to 250 ms of
    /// silence.
    #[must_use]
    pub fn new(id: NodeId, seed: u64) -> Self {
        Self {
            id,
            heartbeat: Duration::from_millis(30),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(250),
            max_append_bytes: MAX_APPEND_BYTES,
            window_messages: 64,
            window_bytes: 8 << 20,
            max_uncommitted_bytes: 16 << 20,
            seed,
        }
    }

    /// How far apart survivors that saw the same leader die begin to ask, by their rank. If the
    /// question of the second reaches the first before that one has voted for itself, both win their
    /// pre-votes and split the votes. The first votes one round trip after it began, and the question is
    /// under way for half of one; where heartbeats were chosen for the links, they are no closer
    /// together than a round trip. So two thirds of a heartbeat are enough.
    pub(super) fn stagger(&self) -> Duration {
        self.heartbeat * 2 / 3
    }

    /// How long a voter whose link to the leader is lost keeps a pre-vote unanswered, at most,
    /// while its redial is undecided.
    pub(super) const HOLD: Duration = Duration::from_millis(10);
}
