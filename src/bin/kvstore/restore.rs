//! `kvstore restore`: makes the directory of a new cluster's founding node of a backup.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use kvstore::server::config::Config;
use kvstore::storage::{BackupError, FileDisk, read_backup, restore};

use crate::inspect::{Backup, Watched, refusal};
use crate::terminal::complain;
use crate::{NodeFlags, wrong_usage};

/// What is restored, and which node is made of it.
#[derive(Debug, Args)]
pub(crate) struct RestoreFlags {
    /// A backup, or a snapshot out of a node's directory.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    node: NodeFlags,
}

/// Checks the backup, makes the directory, and says what to type next.
pub(crate) fn run(flags: RestoreFlags) -> ExitCode {
    let RestoreFlags { file, node } = flags;
    let peers = node.peers.clone();
    let config = match Config::check(node.into()) {
        Ok(config) => config,
        Err(error) => return wrong_usage(&error.to_string()),
    };
    match make(&file, &config) {
        Ok(backup) => {
            // Nobody may be listening to stdout.
            _ = tell(&backup, &config, &peers);
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(format_args!("kvstore: {}", refusal(&file, &error)));
            ExitCode::FAILURE
        }
    }
}

/// First all of the backup is checked; only then is anything written.
fn make(file: &Path, config: &Config) -> anyhow::Result<Backup> {
    let backup = Backup::read(file)?;
    refuse_directories_in(&config.data_dir)?;
    let mut writer = restore(FileDisk::open(&config.data_dir)?, config.node, backup.id())?;
    let (disk, name) = FileDisk::of_file(file)?;
    let mut disk = Watched::new(disk.for_reading());
    read_backup::<_, BackupError>(&mut disk, &name, |bytes, _| writer.write(bytes))?;
    writer.finish()?;
    Ok(backup)
}

/// A node would leave a directory in its own alone. But who restores into a place with directories in it
/// has mistyped the place.
fn refuse_directories_in(place: &Path) -> Result<(), BackupError> {
    // A place that cannot be read is refused when it is opened.
    let mut found = fs::read_dir(place).into_iter().flatten().flatten();
    let is_foreign = |entry: &fs::DirEntry| entry.path().is_dir() && entry.file_name() != "lost+found";
    match found.find(is_foreign) {
        Some(entry) => Err(BackupError::NotEmpty {
            path: place.display().to_string(),
            holds: entry.file_name().display().to_string(),
        }),
        None => Ok(()),
    }
}

fn tell(backup: &Backup, config: &Config, peers: &str) -> io::Result<()> {
    let (node, directory) = (config.node, config.data_dir.display());
    let (keys, sessions) = (backup.keys(), backup.sessions());
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "OK: {directory} is node {node} with revision {}, {keys} keys, {sessions} sessions",
        backup.id().index
    )?;
    writeln!(
        out,
        "Now start it with the command line that it will always have, and the other nodes with theirs and"
    )?;
    writeln!(
        out,
        "with empty data directories. Node {node} founds the new cluster when it has met all of them, and they"
    )?;
    writeln!(out, "get the data from it:")?;
    let port = config.listen.rsplit(':').next().unwrap_or_default();
    let peers = if peers.is_empty() { String::new() } else { format!(" --peers {peers}") };
    writeln!(out, "    kvstore --id {node} --port {port}{peers} --data-dir {directory}")
}
