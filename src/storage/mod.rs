//! (Signatures only for now.)

use thiserror::Error;

use crate::types::{BootNumber, Incarnation, NodeId};
use crate::wire::entry::{Entry, HardState};

/// The directory of one node.
pub trait Disk {}

/// What `open` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The node that the directory belongs to.
    pub node: NodeId,
    /// The directory's incarnation.
    pub incarnation: Incarnation,
    /// The number of this boot, already durable.
    pub boot: BootNumber,
    /// The last hard state that was stored.
    pub hard_state: HardState,
    /// The log, contiguous.
    pub entries: Vec<Entry>,
    /// The highest boot seen of each peer.
    pub peer_boots: Vec<(NodeId, BootNumber)>,
}

/// What one turn makes durable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Batch<'a> {
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// New entries; the first of them replaces the log from its index on.
    pub entries: &'a [Entry],
    /// Boots of peers that were seen for the first time.
    pub peer_boots: &'a [(NodeId, BootNumber)],
}

/// A write or sync that failed. It is never retried: the process must end.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct WriteError(pub String);

/// The durable log.
pub struct Storage<D: Disk> {
    #[allow(dead_code)]
    disk: D,
}
impl<D: Disk> Storage<D> {
    pub fn persist(&mut self, _: &Batch<'_>) -> Result<(), WriteError> {
        Ok(())
    }
    pub fn mark_synced(&mut self) -> Result<(), WriteError> {
        Ok(())
    }
    pub fn prepare_spare(&mut self, _: u64) -> Result<bool, WriteError> {
        Ok(true)
    }
}
