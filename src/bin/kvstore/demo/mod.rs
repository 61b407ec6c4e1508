//! `kvstore demo`: the quest, played and checked by itself on three real processes; or one kind of
//! fail-over, many times, measured; or a long time under full load.

mod bystander;
mod cluster;
mod footprint;
mod proxy;
mod quest;
mod soak;
mod trials;

use std::process::ExitCode;

use clap::Args;

use trials::{Plan, Strike};

use crate::terminal::complain;

/// What the demo is asked to do.
#[derive(Debug, Args)]
pub(crate) struct DemoFlags {
    /// Repeats one kind of fail-over so often and prints the distribution, instead of the quest.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    trials: Option<u32>,
    /// What happens to the leader in each trial.
    #[arg(long, value_enum, default_value = "kill", requires = "trials")]
    signal: Strike,
    /// Puts so many keys of 16 bytes with values of 100 before the first trial, with the `kv_client`
    /// beside this program.
    #[arg(long, value_name = "K", default_value_t = 0, requires = "trials")]
    keys: u64,
    /// Prints each trial as one JSON object, a line each, instead of the distribution.
    #[arg(long, requires = "trials")]
    json: bool,
    /// Loads the cluster from 64 connections for so long, 20 seconds at least, with resets, a pause and
    /// hostile guests beside, and judges whether it stayed calm.
    #[arg(long, value_name = "SECONDS", conflicts_with = "trials")]
    #[arg(value_parser = clap::value_parser!(u64).range(soak::SHORTEST_SECONDS..))]
    soak: Option<u64>,
    /// Stands beside a soak: naps, and reports how long the naps took.
    #[arg(long, hide = true, exclusive = true)]
    bystander: bool,
}

/// Plays the quest, or measures, telling what it does as it goes.
pub(crate) fn run(flags: &DemoFlags) -> ExitCode {
    let result = match *flags {
        DemoFlags { bystander: true, .. } => bystander::stand_by(),
        DemoFlags { soak: Some(seconds), .. } => soak::run(seconds),
        DemoFlags { trials: Some(count), signal: strike, keys, json, .. } => {
            trials::run(Plan { count, strike, keys, json })
        }
        _ => quest::play(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("kvstore demo: not seen to hold: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
