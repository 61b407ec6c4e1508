//! `kvstore demo`: the quest, played and checked by itself on three real processes; or one kind of
//! fail-over, many times, measured.

mod cluster;
mod proxy;
mod quest;
mod trials;

use std::process::ExitCode;

use clap::Args;

use trials::Strike;

/// What the demo is asked to do.
#[derive(Debug, Args)]
pub(crate) struct DemoFlags {
    /// Repeats one kind of fail-over so often and prints the distribution, instead of the quest.
    #[arg(long, value_name = "N")]
    trials: Option<u32>,
    /// What happens to the leader in each trial.
    #[arg(long, value_enum, default_value = "kill", requires = "trials")]
    signal: Strike,
}

/// Plays the quest, or measures, telling what it does as it goes.
pub(crate) fn run(flags: &DemoFlags) -> ExitCode {
    let result = match flags.trials {
        Some(count) => trials::run(count, flags.signal),
        None => quest::play(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvstore demo: not seen to hold: {error:#}");
            ExitCode::FAILURE
        }
    }
}
