//! The command line: what can be asked for.
//!
//! Keys, values and client ids are bytes, taken as the system hands them over.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use kvstore::client::{Error, Identity, Options};
use kvstore::types::{ClientId, ClientName, ClusterTime, Sequence};

use crate::bench::arguments::{BenchArguments, Op};

/// What stands before the 32 digits of an id that a fresh session made for itself.
const LIBRARY_PREFIX: &str = "library:";

const AFTER_HELP: &str = "\
Exit status:
  0  done
  1  a definite no: key not found, mismatch, no leader or no node in `status`
  2  wrong usage
  3  outcome unknown: the write may have been applied, or may yet be (or standard output did not
     take what came of it)
  4  refused, and certainly not applied by this command; what an earlier one with the same --client-id
     and --seq did stays open (a read that failed also ends so: it leaves no trace)

A write whose outcome is unknown can be asked about: send the very same command again with the
--client-id and --seq that the message gives. It is applied once, and answered as the first was.
An id of the form library:<32 hex digits> is one that a fresh session made for itself; the cluster
keeps it for ten minutes after its last write. Every other id is a name of yours, and is kept until
`session close`.

A KEY or VALUE that begins with `-` stands behind `--`: kv_client --port 9001 put -- -k -v";

const USAGE: &str = "kv_client --port P[,P...] [OPTIONS] COMMAND";
/// Apart from a command's own options, which would else stand between them.
const COMMON: &str = "Options of every command";

/// Sends one request to a kvstore cluster.
#[derive(Debug, Parser)]
#[command(name = "kv_client", version, after_help = AFTER_HELP, override_usage = USAGE)]
#[command(arg_required_else_help = false)]
pub(crate) struct Arguments {
    /// Ports of nodes on --host. One live node is enough, more survive more; reads are answered by
    /// the first that can be reached
    #[arg(long, value_name = "P[,P...]", value_delimiter = ',', global = true, help_heading = COMMON)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// The host of the ports
    #[arg(long, default_value = "127.0.0.1", global = true, help_heading = COMMON)]
    host: String,
    /// Nodes on different hosts, instead of --port or besides
    #[arg(long, value_name = "HOST:PORT[,...]", value_delimiter = ',', global = true, help_heading = COMMON)]
    endpoints: Vec<String>,
    /// Deadline for the whole command, retries and fail-over included; of `backup`, for each of its
    /// steps [default: 5000; 60000 for `snapshot` and `backup`]
    #[arg(long, value_name = "T", global = true, help_heading = COMMON)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    timeout_ms: Option<u64>,
    /// Name this write yourself (1 to 64 bytes), so that the very same write can be sent again
    #[arg(long, value_name = "C", global = true, help_heading = COMMON)]
    client_id: Option<OsString>,
    /// The number of this write under --client-id, 1 or more
    #[arg(long, value_name = "S", global = true, help_heading = COMMON)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    seq: Option<u64>,
    /// Print one JSON object a line instead of text
    #[arg(long, global = true, help_heading = COMMON)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Set a key; prints `OK`, or `OK (cached)` if this client id and number was applied before
    Put {
        /// 1 byte to 4 KiB
        #[arg(allow_negative_numbers = true)]
        key: OsString,
        /// Up to 1 MiB; `-` reads it from standard input
        #[arg(allow_negative_numbers = true)]
        value: OsString,
    },
    /// Print a key's value, as the node that is asked reads it from the whole cluster's state
    Get {
        /// The key
        #[arg(allow_negative_numbers = true)]
        key: OsString,
        /// Print what the named node has, perhaps an old value
        #[arg(long)]
        stale: bool,
        /// Print no newline behind the value
        #[arg(long)]
        raw: bool,
    },
    /// Remove a key
    Delete {
        /// The key
        #[arg(allow_negative_numbers = true)]
        key: OsString,
    },
    /// Set a key to NEW if its value is OLD, or, with --absent, if it has none
    #[command(override_usage = "kv_client --port P cas KEY OLD NEW\n       \
                                kv_client --port P cas --absent KEY NEW")]
    Cas(Cas),
    /// Print the keys that begin with a prefix, and their values, a tab between them, a line each
    Scan {
        /// Nothing: all keys
        #[arg(default_value = "", hide_default_value = true, allow_negative_numbers = true)]
        prefix: OsString,
        /// Print at most this many
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Print a table of the nodes. LAG: entries that the leader has committed and the node has not
    /// applied yet
    Status,
    /// Ask the leader to hand over to another node; prints `OK` once that one leads
    Transfer {
        /// The node that shall lead
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        id: u64,
    },
    /// List the named sessions, or end one
    #[command(subcommand, arg_required_else_help = false)]
    Session(SessionCommand),
    /// Put the cluster under load and measure it: exactly-once writes, retries and fail-over as
    /// every client has them. Progress goes to stderr, the summary to stdout; exit 1 if a request
    /// failed or its outcome stayed unknown. Writes keys that begin with `bench/`
    Bench(BenchArguments),
    /// Have each of the named nodes take a snapshot now; prints a line when it is durable there
    Snapshot,
    /// Store a consistent copy of everything that was acknowledged before, from any node
    Backup {
        /// The file to write; it must not exist
        file: OsString,
        /// Replace the file if it exists, once the new one is whole
        #[arg(long)]
        force: bool,
    },
}

impl Command {
    fn default_timeout_ms(&self) -> u64 {
        match self {
            // A snapshot of a large state takes a while.
            Command::Snapshot | Command::Backup { .. } => 60_000,
            _ => 5_000,
        }
    }
}

/// A comparison's operands.
#[derive(Debug, Args)]
pub(crate) struct Cas {
    /// Set the key only if it is absent; there is no OLD then
    #[arg(long)]
    pub(crate) absent: bool,
    /// The key
    #[arg(allow_negative_numbers = true)]
    key: OsString,
    /// The value that it must have; left out with --absent
    #[arg(value_name = "OLD", allow_negative_numbers = true)]
    second: OsString,
    /// Its value from then on
    #[arg(value_name = "NEW", allow_negative_numbers = true)]
    third: Option<OsString>,
}

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub(crate) enum SessionCommand {
    /// List them
    List,
    /// End one: its results are forgotten
    Close {
        /// Its client id
        id: OsString,
    },
}

impl Arguments {
    /// Reads the command line. What it cannot understand it explains; so it does when asked for help.
    pub(crate) fn from_command_line() -> Result<Self, clap::Error> {
        Self::try_parse().and_then(Self::check)
    }

    /// Where the cluster is, and how long the command may take.
    pub(crate) fn options(&self) -> Options {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let of_ports = self.port.iter().map(|port| format!("{host}:{port}"));
        Options::new(of_ports.chain(self.endpoints.iter().cloned()))
            .with_timeout(Duration::from_millis(self.timeout_ms.unwrap_or(self.command.default_timeout_ms())))
    }

    /// The name that the caller gave to the write.
    pub(crate) fn identity(&self) -> Result<Option<Identity>, Error> {
        let (Some(client), Some(sequence)) = (&self.client_id, self.seq) else { return Ok(None) };
        let client = parse_client_id(client.as_bytes())?;
        Ok(Some(Identity { client, sequence: Sequence(sequence) }))
    }

    /// The rules that concern several options at once.
    fn check(self) -> Result<Self, clap::Error> {
        use ErrorKind::{ArgumentConflict, MissingRequiredArgument, WrongNumberOfValues};
        let is_write = matches!(
            self.command,
            Command::Put { .. }
                | Command::Delete { .. }
                | Command::Cas(_)
                | Command::Session(SessionCommand::Close { .. })
        );
        let wrong = |kind, message: &str| Err(Self::command().error(kind, message));
        if self.port.is_empty() && self.endpoints.is_empty() {
            return wrong(MissingRequiredArgument, "--port is missing: name at least one node");
        }
        if self.client_id.is_some() != self.seq.is_some() {
            return wrong(MissingRequiredArgument, "--client-id and --seq name a write together: give both");
        }
        if self.client_id.is_some() && !is_write {
            return wrong(
                ArgumentConflict,
                "--client-id and --seq name a write: only put, delete, cas and session close take them",
            );
        }
        match &self.command {
            Command::Cas(cas) if cas.absent == cas.third.is_some() => {
                wrong(WrongNumberOfValues, "cas takes KEY OLD NEW, or --absent KEY NEW")
            }
            Command::Bench(load) if load.data.reads.is_some() && load.op != Op::Mixed => {
                wrong(ArgumentConflict, "--reads belongs to --op mixed")
            }
            _ => Ok(self),
        }
    }
}

impl Cas {
    /// Key, expected value (`None` with `--absent`), new value.
    pub(crate) fn operands(&self) -> (&[u8], Option<&[u8]>, &[u8]) {
        let (key, second) = (self.key.as_bytes(), self.second.as_bytes());
        match &self.third {
            None => (key, None, second),
            Some(new) => (key, Some(second), new.as_bytes()),
        }
    }
}

/// Whether the command line asks for JSON, though it may make no sense otherwise.
pub(crate) fn asks_for_json() -> bool {
    std::env::args_os().skip(1).take_while(|argument| argument != "--").any(|argument| argument == "--json")
}

/// The bytes of an argument.
pub(crate) fn bytes(argument: &OsString) -> Vec<u8> {
    argument.clone().into_vec()
}

/// A client id as people write it: a name, or what [`ClientId`] displays for a library's own.
pub(crate) fn parse_client_id(bytes: &[u8]) -> Result<ClientId, Error> {
    if let Some(library) = std::str::from_utf8(bytes).ok().and_then(parse_library_id) {
        return Ok(library);
    }
    let name = ClientName::new(bytes).ok_or_else(|| {
        Error::Invalid(format!("a client id has 1 to {} bytes, not {}", ClientName::MAX_BYTES, bytes.len()))
    })?;
    Ok(ClientId::Named(name))
}

fn parse_library_id(text: &str) -> Option<ClientId> {
    let digits = text.strip_prefix(LIBRARY_PREFIX)?;
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let half = |range| u64::from_str_radix(&digits[range], 16).ok();
    Some(ClientId::Library { born: ClusterTime(half(0..16)?), nonce: half(16..32)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::one_line;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn library_id_is_read_as_it_is_printed() {
        let id = ClientId::Library { born: ClusterTime(1_234_567), nonce: 0xfeed_0000_0000_beef };
        assert_eq!(parse_client_id(id.to_string().as_bytes()), Ok(id));
        for name in ["library:", "library:12", "library:0000000000000000000000000000000g"] {
            assert!(matches!(parse_client_id(name.as_bytes()), Ok(ClientId::Named(_))), "{name}");
        }
        assert!(parse_client_id(&[b'x'; 65]).is_err());
    }

    #[test]
    fn ports_and_endpoints_add_up_in_order() {
        let line = "kv_client --port 9001,9002 --host ::1 --endpoints h:1 status";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        assert_eq!(arguments.options().endpoints, ["[::1]:9001", "[::1]:9002", "h:1"]);
    }

    #[test]
    fn options_stand_before_or_behind_the_command() {
        for line in ["kv_client --port 9001 --json get k", "kv_client get k --json --port 9001"] {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert!(arguments.json && arguments.port == [9001], "{line}");
        }
    }

    #[test]
    fn arguments_that_contradict_each_other_are_refused_in_one_line() {
        for line in [
            "kv_client get k",
            "kv_client --port 9001 --seq 1 put k v",
            "kv_client --port 9001 --client-id c --seq 1 get k",
            "kv_client --port 9001 cas k v",
            "kv_client --port 9001 cas --absent k old new",
            "kv_client --port 9001 bench --reads 50",
        ] {
            let error = Arguments::try_parse_from(line.split(' ')).and_then(Arguments::check).unwrap_err();
            assert_eq!(one_line(&error).lines().count(), 1, "{line}");
        }
    }
}
