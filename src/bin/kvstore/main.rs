//! `kvstore`: one node of a replicated key-value store.

mod demo;
mod inspect;
mod log_writer;
mod restore;
#[path = "../terminal/mod.rs"]
mod terminal;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use kvstore::server::config::{
    Config, DEFAULT_ELECTION_MS, DEFAULT_HEARTBEAT_MS, DEFAULT_SNAPSHOT_LOG_KIB, Flags,
};
use kvstore::server::{Place, Server};
use kvstore::storage::{FileDisk, Options, Storage};
use kvstore::types::Incarnation;
use terminal::complain;

/// The exit status of wrong usage.
const WRONG_USAGE: u8 = 2;

/// One node of a replicated key-value store.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(flatten)]
    node: Option<NodeFlags>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Plays the quest with three child processes and checks what it sees; or measures fail-overs.
    Demo(demo::DemoFlags),
    /// Reads a stopped node's directory, checks all of it, and says what a start would make of it.
    Inspect(inspect::InspectFlags),
    /// Makes the data directory of a new cluster's founding node of a backup.
    Restore(Box<restore::RestoreFlags>),
}

#[derive(Debug, Args)]
struct NodeFlags {
    /// This node's number in the cluster, 1 or more, unique.
    #[arg(long, value_name = "N")]
    id: u64,
    /// The one TCP port, for peers and clients alike.
    #[arg(long, value_name = "P")]
    port: u16,
    /// The other nodes, comma separated, each PORT, HOST:PORT or ID=HOST:PORT. None: a cluster of one.
    #[arg(long, value_name = "LIST", default_value = "", hide_default_value = true)]
    peers: String,
    /// The address to listen on.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    host: String,
    /// The address that others are told; required with a wildcard --host [default: HOST:PORT].
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Everything durable; created if missing, locked while in use [default: data/node-N].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The time between two heartbeats, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = DEFAULT_HEARTBEAT_MS)]
    heartbeat_ms: u64,
    /// The shortest and the longest election timeout, in milliseconds.
    #[arg(long, value_name = "MIN-MAX", default_value = DEFAULT_ELECTION_MS)]
    election_ms: String,
    /// A snapshot is taken once the log since the last one has so many KiB, and half of that snapshot.
    #[arg(long, value_name = "KIB", default_value_t = DEFAULT_SNAPSHOT_LOG_KIB)]
    snapshot_log_kib: u64,
    /// For experiments: do not wait for the disk. A crash of the machine may lose what was acknowledged.
    #[arg(long)]
    unsafe_no_fsync: bool,
}

impl From<NodeFlags> for Flags {
    fn from(flags: NodeFlags) -> Self {
        Self {
            id: flags.id,
            port: flags.port,
            peers: flags.peers,
            host: flags.host,
            advertise: flags.advertise,
            data_dir: flags.data_dir,
            heartbeat_ms: flags.heartbeat_ms,
            election_ms: flags.election_ms,
            snapshot_log_kib: flags.snapshot_log_kib,
            unsafe_no_fsync: flags.unsafe_no_fsync,
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return on_usage(&error),
    };
    match cli {
        Cli { command: Some(Command::Demo(flags)), .. } => demo::run(&flags),
        Cli { command: Some(Command::Inspect(flags)), .. } => inspect::run(&flags),
        Cli { command: Some(Command::Restore(flags)), .. } => restore::run(*flags),
        Cli { node: Some(flags), .. } => run_node(flags),
        Cli { node: None, .. } => wrong_usage("--id and --port are required"),
    }
}

/// Help goes to stdout and is a success; anything else is one line.
fn on_usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        _ = error.print(); // nobody may be listening to stdout
        return ExitCode::SUCCESS;
    }
    wrong_usage(&terminal::one_line(error))
}

fn wrong_usage(line: &str) -> ExitCode {
    complain(format_args!("kvstore: {line} (see kvstore --help)"));
    ExitCode::from(WRONG_USAGE)
}

fn run_node(flags: NodeFlags) -> ExitCode {
    let config = match Config::check(flags.into()) {
        Ok(config) => config,
        Err(error) => return wrong_usage(&error.to_string()),
    };
    let log = log_writer::init();
    let result = serve(&config);
    log.flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("kvstore: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(config: &Config) -> anyhow::Result<()> {
    if !config.fsync {
        log::warn!("--unsafe-no-fsync: a crash of the machine may lose acknowledged writes");
    }
    let place = Place::take(config)?;
    let disk = FileDisk::open(&config.data_dir)?;
    let options = Options { sync: config.fsync, ..Options::for_log(config.snapshot_log_bytes) };
    let (storage, recovered) = Storage::open(disk, config.node, options, Incarnation(rand::random()))?;
    let server = Server::open(config, place, storage, recovered, rand::random())?;
    // Nobody may be listening to stdout; the node is wanted all the same.
    _ = writeln!(
        io::stdout(),
        "kvstore: node {} listening on {}, data in {}",
        config.node,
        config.listen,
        config.data_dir.display()
    );
    Ok(server.run()?)
}
