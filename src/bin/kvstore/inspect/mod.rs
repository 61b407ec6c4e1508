//! `kvstore inspect`: what a node's directory holds, and what a start would make of it; or what a
//! backup holds. It reads, and changes nothing.

mod backup;
mod entries;
mod progress;
mod report;

pub(crate) use backup::{Backup, refusal};
pub(crate) use progress::Watched;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kvstore::kv::{Limits, StateMachine};
use kvstore::replica::{check_commands, state_of};
use kvstore::storage::{FileDisk, FileUse, Inspection, OpenError, Options, RecoveredSnapshot, inspect};

use crate::terminal::complain;
use entries::Span;
use report::Report;
use serde_json::json;

/// What to read, and how to tell of it.
#[derive(Debug, Args)]
pub(crate) struct InspectFlags {
    /// A node's directory, or a backup.
    #[arg(value_name = "DIR|FILE")]
    path: PathBuf,
    /// Prints the entries of these indexes too, both ends included; either may be left out.
    #[arg(long, value_name = "A..B")]
    entries: Option<Span>,
    /// Prints one JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

/// Reads, and prints what was found. Success is a directory in which a start would succeed.
pub(crate) fn run(flags: &InspectFlags) -> ExitCode {
    if flags.path.is_file() {
        return run_on_backup(flags);
    }
    if flags.path.exists() && !flags.path.is_dir() {
        complain(format_args!(
            "kvstore: {} is neither: name a node's directory, or a backup",
            flags.path.display()
        ));
        return ExitCode::FAILURE;
    }
    let findings = match Findings::of_directory(&flags.path) {
        Ok(findings) => findings,
        Err(error) => {
            complain(format_args!("kvstore: {error}"));
            let directory = flags.path.display().to_string();
            if flags.json {
                // Nobody may be listening to stdout any more.
                _ = writeln!(
                    io::stdout(),
                    "{}",
                    json!({ "directory": directory, "would_start": null, "message": error.to_string() })
                );
            }
            return ExitCode::FAILURE;
        }
    };
    let report = Report::new(&flags.path, &findings, flags.entries);
    // Nobody may be listening to stdout any more.
    _ = match flags.json {
        true => writeln!(io::stdout(), "{}", report.json()),
        false => report.print(&mut io::stdout().lock()),
    };
    if findings.would_start() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The same for a backup. Success is a whole one.
fn run_on_backup(flags: &InspectFlags) -> ExitCode {
    let path = &flags.path;
    let mut out = io::stdout().lock();
    let (printed, status) = match Backup::read(path) {
        Ok(backup) if flags.json => (writeln!(out, "{}", backup.json(path)), ExitCode::SUCCESS),
        Ok(backup) => (backup.print(path, &mut out), ExitCode::SUCCESS),
        Err(error) => {
            let refusal = refusal(path, &error);
            let object = json!({ "file": path.display().to_string(), "whole": false, "message": refusal });
            let line = if flags.json { object.to_string() } else { refusal };
            (writeln!(out, "{line}"), ExitCode::FAILURE)
        }
    };
    // Nobody may be listening to stdout any more.
    _ = printed;
    status
}

/// All that was found in a directory.
struct Findings {
    inspection: Inspection,
    /// The state in the snapshot, or why it cannot be read.
    state: Option<Result<StateMachine, String>>,
    /// Why a start would be refused that found all bytes as they should be.
    refusal: Option<String>,
}

impl Findings {
    fn of_directory(path: &Path) -> Result<Self, OpenError> {
        let mut disk = Watched::new(FileDisk::read_only(path)?);
        let inspection = inspect(&mut disk, Options::default());
        let read = |found: &RecoveredSnapshot| {
            let state = state_of(&found.snapshot, found.state.clone(), Limits::STANDARD);
            state.map_err(|error| error.to_string())
        };
        let recovered = inspection.recovered.as_ref();
        let state = recovered.and_then(|found| found.snapshot.as_ref()).map(read);
        let restored = inspection.restored.as_ref().map(|(_, found)| read(found));
        let commands =
            recovered.map(|found| check_commands(&found.entries).map_err(|error| error.to_string()));
        let writable = FileDisk::check_writable(path, used_files(&inspection));
        let refusal = restored.and_then(Result::err);
        let refusal = refusal.or_else(|| state.as_ref().and_then(|state| state.as_ref().err().cloned()));
        let refusal = refusal.or(commands.and_then(Result::err));
        let refusal = refusal.or(writable.err().map(|error| error.to_string()));
        Ok(Self { inspection, state, refusal })
    }

    fn would_start(&self) -> bool {
        self.refusal().is_none()
    }

    /// Why a start would be refused.
    fn refusal(&self) -> Option<String> {
        if let Err(error) = &self.inspection.verdict {
            return Some(error.to_string());
        }
        self.refusal.clone()
    }
}

/// The files that a start opens, in its order.
fn used_files(inspection: &Inspection) -> impl Iterator<Item = &str> {
    let segments = inspection.segments.iter().flatten().map(|segment| segment.name.as_str());
    let of_use = |use_of: FileUse| {
        let files = inspection.files.iter().filter(move |file| file.used_as == use_of);
        files.map(|file| file.name.as_str())
    };
    let uses = [FileUse::Snapshot, FileUse::Restored, FileUse::Spare, FileUse::Recycled];
    segments.chain(uses.into_iter().flat_map(of_use))
}
