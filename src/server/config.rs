//! What the command line says, checked against itself.
//!
//! Nothing here touches the world: names are resolved and files opened later, so each rule is a
//! line of a table in the tests.

use std::net::IpAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::time::Duration;
use crate::types::NodeId;
use crate::wire::{MAX_ADDRESS_BYTES, MAX_MEMBERS};

/// The time between two heartbeats, in milliseconds, unless said otherwise.
pub const DEFAULT_HEARTBEAT_MS: u64 = 30;
/// The shortest and longest election timeout, in milliseconds, unless said otherwise.
pub const DEFAULT_ELECTION_MS: &str = "150-250";
/// The size of the log at which a snapshot is taken, in KiB, unless said otherwise.
pub const DEFAULT_SNAPSHOT_LOG_KIB: u64 = 64 << 10;

/// How many heartbeats must fit into the shortest election timeout: so many may be lost or late
/// before a living leader is doubted.
const HEARTBEATS_PER_ELECTION: u64 = 3;
/// Timeouts above this make no sense, and would only hide a mistyped number.
const MAX_ELECTION_MS: u64 = 60_000;
/// A log smaller than this would be mostly snapshots.
const MIN_SNAPSHOT_LOG_KIB: u64 = 64;
/// 1 TiB: more than any directory should hold before it is compacted.
const MAX_SNAPSHOT_LOG_KIB: u64 = 1 << 30;

/// The flags of `kvstore`, as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flags {
    /// `--id`.
    pub id: u64,
    /// `--port`.
    pub port: u16,
    /// `--peers`: comma separated `PORT`, `HOST:PORT` or `ID=HOST:PORT`; empty for none.
    pub peers: String,
    /// `--host`.
    pub host: String,
    /// `--advertise`.
    pub advertise: Option<String>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--heartbeat-ms`.
    pub heartbeat_ms: u64,
    /// `--election-ms`, as `MIN-MAX`.
    pub election_ms: String,
    /// `--snapshot-log-kib`.
    pub snapshot_log_kib: u64,
    /// `--unsafe-no-fsync`.
    pub unsafe_no_fsync: bool,
}

/// What a node is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's id.
    pub node: NodeId,
    /// `HOST:PORT` to listen on.
    pub listen: String,
    /// `HOST:PORT` that others are told.
    pub advertise: String,
    /// The other nodes.
    pub peers: Vec<PeerEntry>,
    /// Everything durable.
    pub data_dir: PathBuf,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// The shortest election timeout.
    pub election_min: Duration,
    /// The longest.
    pub election_max: Duration,
    /// Bytes of the log after a snapshot at which the next one is taken, if it is also half as large as
    /// that snapshot.
    pub snapshot_log_bytes: u64,
    /// False only for experiments: what is acknowledged may then be lost.
    pub fsync: bool,
}

/// One entry of `--peers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// The id that must answer there, if the entry names one.
    pub node: Option<NodeId>,
    /// Where.
    pub address: String,
}

/// Flags that make no sense. Whoever typed them can act on it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Zero is nobody's id.
    #[error("--id 0: node ids begin with 1")]
    Id,
    /// Port zero would be another port at each start.
    #[error("--port 0: choose a fixed port, the other nodes must find it")]
    Port,
    /// An entry of the list, or an address, that cannot be read.
    #[error("{flag}: {entry:?} is none of PORT, HOST:PORT, ID=HOST:PORT")]
    Address {
        /// Which flag.
        flag: &'static str,
        /// What it says.
        entry: String,
    },
    /// An id in the list that is this node's own, at another address.
    #[error("--peers: {0:?} names this node's own id at another address; give each node its own --id")]
    OwnId(String),
    /// Two entries with one id or one address.
    #[error("--peers: {0} is listed twice")]
    Twice(String),
    /// More members than a configuration holds.
    #[error("--peers: {0} nodes with this one, at most {MAX_MEMBERS} are possible")]
    TooMany(usize),
    /// Nobody can connect to "any address".
    #[error("--advertise {0}: that is no address to connect to; say where the others find this node")]
    Nowhere(String),
    /// It must be said where, then.
    #[error("--host {0} listens everywhere: say with --advertise HOST:PORT what the others are told")]
    Wildcard(String),
    /// Not two numbers.
    #[error("--election-ms {0:?}: write MIN-MAX, such as {DEFAULT_ELECTION_MS}")]
    Election(String),
    /// Without a spread all nodes would campaign at once.
    #[error("--election-ms {min}-{max}: MIN must be below MAX, and MAX at most {MAX_ELECTION_MS}")]
    Spread {
        /// MIN.
        min: u64,
        /// MAX.
        max: u64,
    },
    /// One lost heartbeat would depose a leader.
    #[error(
        "--heartbeat-ms {heartbeat} does not fit --election-ms {min}-...: \
         it must be at least 1, and {HEARTBEATS_PER_ELECTION} heartbeats at most {min}"
    )]
    Heartbeat {
        /// The heartbeat.
        heartbeat: u64,
        /// The shortest election timeout.
        min: u64,
    },
    /// So small a log, or so large a one, is a mistyped number.
    #[error(
        "--snapshot-log-kib {0}: it must be from {MIN_SNAPSHOT_LOG_KIB} to {MAX_SNAPSHOT_LOG_KIB}; \
         the default is {DEFAULT_SNAPSHOT_LOG_KIB}"
    )]
    SnapshotLog(u64),
}

impl Config {
    /// Checks the flags against each other and fills in what they leave out.
    ///
    /// # Errors
    /// The first flag that makes no sense.
    pub fn check(flags: Flags) -> Result<Self, ConfigError> {
        let node = NodeId(flags.id);
        if node < NodeId::MIN {
            return Err(ConfigError::Id);
        }
        if flags.port == 0 {
            return Err(ConfigError::Port);
        }
        let listen = join(&flags.host, flags.port);
        let advertise = advertise(&flags, &listen)?;
        let peers = peers(&flags.peers, node, &[&listen, &advertise])?;
        let (election_min, election_max) = election(&flags.election_ms)?;
        heartbeat_fits(flags.heartbeat_ms, election_min)?;
        let snapshot_log_kib = flags.snapshot_log_kib;
        if !(MIN_SNAPSHOT_LOG_KIB..=MAX_SNAPSHOT_LOG_KIB).contains(&snapshot_log_kib) {
            return Err(ConfigError::SnapshotLog(snapshot_log_kib));
        }
        Ok(Self {
            node,
            listen,
            advertise,
            peers,
            data_dir: flags.data_dir.unwrap_or_else(|| PathBuf::from(format!("data/node-{node}"))),
            heartbeat: Duration::from_millis(flags.heartbeat_ms),
            election_min: Duration::from_millis(election_min),
            election_max: Duration::from_millis(election_max),
            snapshot_log_bytes: snapshot_log_kib << 10,
            fsync: !flags.unsafe_no_fsync,
        })
    }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn advertise(flags: &Flags, listen: &str) -> Result<String, ConfigError> {
    let Some(address) = &flags.advertise else {
        return match is_wildcard(&flags.host) {
            true => Err(ConfigError::Wildcard(flags.host.clone())),
            false => Ok(listen.to_owned()),
        };
    };
    let host_and_port = address.contains(':').then(|| parse_address(address)).flatten();
    let malformed = || ConfigError::Address { flag: "--advertise", entry: address.clone() };
    let host_and_port = host_and_port.ok_or_else(malformed)?;
    match host_and_port.rsplit_once(':').is_some_and(|(host, _)| is_wildcard(host)) {
        true => Err(ConfigError::Nowhere(address.clone())),
        false => Ok(host_and_port),
    }
}

/// Whether a host is "any address", in whatever way it is written. A lone 0 is one to the system.
fn is_wildcard(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let address = bare.parse().map(|address: IpAddr| address.to_canonical());
    bare == "0" || address.is_ok_and(|address| address.is_unspecified())
}

/// The list without this node's own entry, so that one list can serve all nodes.
fn peers(list: &str, own: NodeId, own_addresses: &[&str]) -> Result<Vec<PeerEntry>, ConfigError> {
    let mut peers: Vec<PeerEntry> = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let entry = parse_entry(text)?;
        if own_addresses.contains(&entry.address.as_str()) {
            continue;
        }
        if entry.node == Some(own) {
            return Err(ConfigError::OwnId(text.to_owned()));
        }
        let same = |other: &PeerEntry| {
            other.address == entry.address || (other.node.is_some() && other.node == entry.node)
        };
        if peers.iter().any(same) {
            return Err(ConfigError::Twice(text.to_owned()));
        }
        peers.push(entry);
    }
    match peers.len() + 1 {
        nodes if nodes > MAX_MEMBERS => Err(ConfigError::TooMany(nodes)),
        _ => Ok(peers),
    }
}

fn parse_entry(text: &str) -> Result<PeerEntry, ConfigError> {
    let malformed = || ConfigError::Address { flag: "--peers", entry: text.to_owned() };
    let (node, address) = match text.split_once('=') {
        Some((id, address)) => {
            let id = id.parse().ok().map(NodeId).filter(|id| *id >= NodeId::MIN);
            (Some(id.ok_or_else(malformed)?), address)
        }
        None => (None, text),
    };
    Ok(PeerEntry { node, address: parse_address(address).ok_or_else(malformed)? })
}

/// `PORT` or `HOST:PORT` as `HOST:PORT`.
fn parse_address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("127.0.0.1", text));
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let fits = host.len() + 6 <= MAX_ADDRESS_BYTES && !host.contains(char::is_whitespace);
    (!host.is_empty() && !bare_v6 && fits).then(|| format!("{host}:{port}"))
}

fn election(text: &str) -> Result<(u64, u64), ConfigError> {
    let numbers = text
        .split_once('-')
        .and_then(|(min, max)| Some((min.trim().parse::<u64>().ok()?, max.trim().parse::<u64>().ok()?)));
    let (min, max) = numbers.ok_or_else(|| ConfigError::Election(text.to_owned()))?;
    if min >= max || max > MAX_ELECTION_MS {
        return Err(ConfigError::Spread { min, max });
    }
    Ok((min, max))
}

fn heartbeat_fits(heartbeat: u64, min: u64) -> Result<(), ConfigError> {
    if heartbeat == 0 || heartbeat.saturating_mul(HEARTBEATS_PER_ELECTION) > min {
        return Err(ConfigError::Heartbeat { heartbeat, min });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags() -> Flags {
        Flags {
            id: 1,
            port: 9001,
            peers: "9002,9003".to_owned(),
            host: "127.0.0.1".to_owned(),
            advertise: None,
            data_dir: None,
            heartbeat_ms: DEFAULT_HEARTBEAT_MS,
            election_ms: DEFAULT_ELECTION_MS.to_owned(),
            snapshot_log_kib: DEFAULT_SNAPSHOT_LOG_KIB,
            unsafe_no_fsync: false,
        }
    }

    fn with_peers(list: &str) -> Result<Vec<PeerEntry>, ConfigError> {
        Config::check(Flags { peers: list.to_owned(), ..flags() }).map(|config| config.peers)
    }

    fn entry(node: Option<u64>, address: &str) -> PeerEntry {
        PeerEntry { node: node.map(NodeId), address: address.to_owned() }
    }

    #[test]
    fn flags_of_the_quest_give_their_defaults() {
        let config = Config::check(flags()).unwrap();
        assert_eq!(config.listen, "127.0.0.1:9001");
        assert_eq!(config.advertise, "127.0.0.1:9001");
        assert_eq!(config.data_dir, PathBuf::from("data/node-1"));
        assert_eq!(config.peers, [entry(None, "127.0.0.1:9002"), entry(None, "127.0.0.1:9003")]);
        assert_eq!(config.heartbeat, Duration::from_millis(30));
        assert_eq!(config.election_min, Duration::from_millis(150));
        assert_eq!(config.election_max, Duration::from_millis(250));
        assert_eq!(config.snapshot_log_bytes, 64 << 20);
        assert!(config.fsync);
    }

    #[test]
    fn snapshot_log_beyond_its_range_is_refused() {
        let bytes = |kib| {
            Config::check(Flags { snapshot_log_kib: kib, ..flags() }).map(|config| config.snapshot_log_bytes)
        };
        assert_eq!(bytes(64), Ok(64 << 10));
        assert_eq!(bytes(1 << 30), Ok(1 << 40));
        for kib in [0, 63, (1 << 30) + 1, u64::MAX] {
            assert_eq!(bytes(kib), Err(ConfigError::SnapshotLog(kib)));
        }
    }

    #[test]
    fn peers_in_each_form_are_read() {
        let peers = with_peers("9002, db3:9003 ,4=[::1]:9004,").unwrap();
        let expected = [entry(None, "127.0.0.1:9002"), entry(None, "db3:9003"), entry(Some(4), "[::1]:9004")];
        assert_eq!(peers, expected);
        assert_eq!(with_peers("").unwrap(), []);
    }

    #[test]
    fn own_entry_in_any_form_is_ignored() {
        for list in ["9001,9002", "127.0.0.1:9001,9002", "1=127.0.0.1:9001,9002"] {
            assert_eq!(with_peers(list).unwrap(), [entry(None, "127.0.0.1:9002")], "{list}");
        }
    }

    #[test]
    fn peers_that_cannot_be_read_or_contradict_each_other_are_refused() {
        for list in ["x", "0", "65536", ":9002", "0=h:9002", "a=h:9002", "::1:9002", "h:9002:", "a b:1"] {
            assert!(matches!(with_peers(list), Err(ConfigError::Address { .. })), "{list}");
        }
        assert!(matches!(with_peers("1=h:9002"), Err(ConfigError::OwnId(_))));
        assert!(matches!(with_peers("9002,127.0.0.1:9002"), Err(ConfigError::Twice(_))));
        assert!(matches!(with_peers("2=h:9002,2=h:9003"), Err(ConfigError::Twice(_))));
        let many: Vec<String> = (0..31).map(|n| (9100 + n).to_string()).collect();
        assert_eq!(with_peers(&many.join(",")), Err(ConfigError::TooMany(32)));
    }

    #[test]
    fn wildcard_host_needs_an_address_to_tell() {
        for host in ["0.0.0.0", "0", "::", "[::]", "::0", "0:0:0:0:0:0:0:0", "::ffff:0.0.0.0"] {
            let flags = Flags { host: host.to_owned(), ..flags() };
            assert!(matches!(Config::check(flags), Err(ConfigError::Wildcard(_))), "{host}");
        }
        for told in ["0.0.0.0:9001", "[::]:9001", "0:9001"] {
            let flags = Flags { advertise: Some(told.to_owned()), ..flags() };
            assert!(matches!(Config::check(flags), Err(ConfigError::Nowhere(_))), "{told}");
        }
        let told = Some("db1:9001".to_owned());
        let config = Config::check(Flags { host: "::".to_owned(), advertise: told, ..flags() }).unwrap();
        assert_eq!((config.listen.as_str(), config.advertise.as_str()), ("[::]:9001", "db1:9001"));
        let bare = Flags { advertise: Some("9001".to_owned()), ..flags() };
        assert!(matches!(Config::check(bare), Err(ConfigError::Address { .. })));
    }

    #[test]
    fn timings_that_contradict_each_other_are_refused() {
        let timed = |heartbeat_ms, election_ms: &str| {
            Config::check(Flags { heartbeat_ms, election_ms: election_ms.to_owned(), ..flags() })
        };
        assert!(timed(50, "150-151").is_ok());
        assert!(matches!(timed(51, "150-151"), Err(ConfigError::Heartbeat { .. })));
        assert!(matches!(timed(0, "150-151"), Err(ConfigError::Heartbeat { .. })));
        assert!(matches!(timed(u64::MAX, "150-151"), Err(ConfigError::Heartbeat { .. })));
        assert!(matches!(timed(10, "150-150"), Err(ConfigError::Spread { .. })));
        assert!(matches!(timed(10, "150-60001"), Err(ConfigError::Spread { .. })));
        assert!(matches!(timed(10, "150"), Err(ConfigError::Election(_))));
        assert!(matches!(timed(10, "a-b"), Err(ConfigError::Election(_))));
    }

    #[test]
    fn id_or_port_zero_is_refused() {
        assert_eq!(Config::check(Flags { id: 0, ..flags() }), Err(ConfigError::Id));
        assert_eq!(Config::check(Flags { port: 0, ..flags() }), Err(ConfigError::Port));
    }
}
