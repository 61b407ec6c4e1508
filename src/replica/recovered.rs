//! The state at the start of a node, built of the snapshot that its disk has.

use bytes::Bytes;
use thiserror::Error;

use crate::kv::{Limits, SnapshotError, SnapshotReader, StateMachine};
use crate::storage::RecoveredSnapshot;
use crate::types::LogIndex;
use crate::wire::DecodeError;
use crate::wire::client::Command;
use crate::wire::entry::{Entry, Payload, Snapshot};

/// Bytes that are intact, but that this program does not understand.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// The state in a snapshot.
    #[error(
        "the state in the snapshot at index {index} cannot be read ({cause}): use the kvstore that wrote it"
    )]
    Snapshot {
        /// What the snapshot stands for.
        index: LogIndex,
        /// What is not understood.
        cause: SnapshotError,
    },
    /// The command in an entry of the log.
    #[error(
        "the command in entry {index} of the log cannot be read ({cause}): use the kvstore that wrote it"
    )]
    Command {
        /// The entry.
        index: LogIndex,
        /// What is not understood.
        cause: DecodeError,
    },
}

/// Whether all commands of a log can be applied once they are committed. One that cannot must not be
/// skipped, so it is better found at the start.
///
/// # Errors
/// The first that cannot.
pub fn check_commands(entries: &[Entry]) -> Result<(), StateError> {
    entries.iter().try_for_each(|entry| match &entry.payload {
        Payload::Command(command) => match Command::decode(command.clone()) {
            Ok(_) => Ok(()),
            Err(cause) => Err(StateError::Command { index: entry.index, cause }),
        },
        Payload::NoOp { .. } | Payload::Configuration(_) => Ok(()),
    })
}

/// The state at the start of a node: that of its snapshot.
pub(super) fn state_and_snapshot(
    recovered: Option<RecoveredSnapshot>,
    limits: Limits,
) -> Result<(StateMachine, Option<Snapshot>), StateError> {
    let Some(RecoveredSnapshot { snapshot, state }) = recovered else {
        return Ok((StateMachine::new(limits), None));
    };
    let state = state_of(&snapshot, state, limits)?;
    Ok((state, Some(snapshot)))
}

/// The state in a snapshot that was recovered, built of its slices with the cluster's limits.
///
/// # Errors
/// If its bytes, which are intact, are of another format, or not the state at its index.
pub fn state_of(snapshot: &Snapshot, state: Vec<Bytes>, limits: Limits) -> Result<StateMachine, StateError> {
    let mut reader = SnapshotReader::new(limits);
    let fed = state.into_iter().try_for_each(|slice| reader.feed(&slice));
    let state = fed.and_then(|()| reader.finish()).and_then(|state| {
        let is_right = state.revision() == snapshot.index.into();
        is_right.then_some(state).ok_or(SnapshotError::Contradiction("the state is not that of its index"))
    });
    state.map_err(|cause| StateError::Snapshot { index: snapshot.index, cause })
}
