//! `kvstore demo`: the quest, played and checked by itself on three real processes.

mod cluster;
mod quest;

use std::process::ExitCode;

/// Plays the quest, telling what it does as it goes.
pub(crate) fn run() -> ExitCode {
    match quest::play() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvstore demo: not seen to hold: {error:#}");
            ExitCode::FAILURE
        }
    }
}
