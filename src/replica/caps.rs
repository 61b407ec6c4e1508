//! What bounds a replica.

use super::Options;
use crate::kv::Limits;
use crate::raft;
use crate::types::NodeId;

/// What bounds a replica, apart from what is constant. Real nodes have the default; the simulator's
/// caps are small, so that it reaches them.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Those of sessions. They are a part of the format: equal on all nodes.
    pub sessions: Limits,
    /// See [`raft::Config::max_append_bytes`].
    pub max_append_bytes: usize,
    /// See [`raft::Config::window_messages`].
    pub window_messages: usize,
    /// See [`raft::Config::max_uncommitted_bytes`].
    pub max_uncommitted_bytes: usize,
}

impl Default for Caps {
    fn default() -> Self {
        let raft::Config { max_append_bytes, window_messages, max_uncommitted_bytes, .. } =
            raft::Config::new(NodeId::MIN, 0);
        Self { sessions: Limits::STANDARD, max_append_bytes, window_messages, max_uncommitted_bytes }
    }
}

impl Caps {
    /// The settings of consensus on this node.
    pub(super) fn raft_config(&self, node: NodeId, options: &Options) -> raft::Config {
        raft::Config {
            heartbeat: options.heartbeat,
            election_min: options.election_min,
            election_max: options.election_max,
            max_append_bytes: self.max_append_bytes,
            window_messages: self.window_messages,
            max_uncommitted_bytes: self.max_uncommitted_bytes,
            ..raft::Config::new(node, options.seed)
        }
    }
}
