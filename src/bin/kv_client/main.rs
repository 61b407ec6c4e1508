//! One request to a cluster, from a command line.
//!
//! The program is a thin face of [`kvstore::client::Client`]: [`arguments`] says what can be asked
//! for, [`commands`] asks it, [`output`] prints what came of it; [`mod@bench`] is the load tool. The
//! exit status is part of the interface: 0 done, 1 a definite no, 2 wrong usage, 3 outcome unknown,
//! 4 refused and certainly not applied.

mod arguments;
mod backup;
mod bench;
mod commands;
mod output;
#[path = "../terminal/mod.rs"]
mod terminal;

use std::io;
use std::process::ExitCode;

use arguments::{Arguments, asks_for_json};
use clap::error::ErrorKind;
use kvstore::client;
use kvstore::storage::{BackupError, SnapshotFileError};
use kvstore::types::NodeId;
use output::Output;
use terminal::one_line;

/// Why a command did not come to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// A command line that makes no sense.
    #[error("{0}; see kv_client --help")]
    Usage(String),
    /// The cluster, or the way to it; or arguments that make no request.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// Standard output takes no more: whatever came of the command, its caller cannot know.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
    /// Standard input gives no value.
    #[error("cannot read the value from standard input: {0}")]
    Input(io::Error),
    /// A backup that cannot be stored.
    #[error(transparent)]
    Backup(BackupError),
    /// A node gave bytes that are no snapshot.
    #[error(
        "node {node} sent a damaged snapshot ({cause}): see its log, and ask another node for the backup"
    )]
    Damaged {
        /// The node.
        node: NodeId,
        /// What is wrong with them.
        cause: SnapshotFileError,
    },
    /// A place where no backup can be stored.
    #[error("{0}")]
    Place(String),
}

fn main() -> ExitCode {
    let arguments = match Arguments::from_command_line() {
        Ok(arguments) => arguments,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let failure = Failure::Usage(one_line(&error));
            return ExitCode::from(Output::new(asks_for_json()).failure(&failure));
        }
    };
    let mut output = Output::new(arguments.json);
    let result = commands::run(&arguments, &mut output).and_then(|status| match output.flush() {
        // Whoever read our output has seen enough; what came of the command stays what it is.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(status),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(status),
    });
    match result {
        Ok(status) => ExitCode::from(status),
        // The same, in the middle of many rows.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => ExitCode::from(output.failure(&failure)),
    }
}
