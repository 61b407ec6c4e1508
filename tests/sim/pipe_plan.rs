//! What a seed means for byte streams, and what can go wrong with sockets.

use kvstore::replica::{Caps, SnapshotOptions};
use kvstore::server::admission::Limits;

use super::plan::Weather;
use super::rng::Rng;

/// How processes are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Whole messages are brought to replicas.
    Messages,
    /// Whole servers exchange bytes over sockets.
    Bytes,
}

impl Mode {
    /// The mode of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Mode::Messages, Mode::Bytes].into_iter().find(|mode| mode.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Mode::Messages => "messages",
            Mode::Bytes => "bytes",
        }
    }

    /// How many simulated cluster-seconds a release build does in a second on one core, at least.
    pub(crate) fn least_speed(self) -> f64 {
        match self {
            Mode::Messages => 300.0,
            Mode::Bytes => 50.0,
        }
    }
}

/// What can go wrong with a socket, or come out otherwise than one thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SocketFault {
    /// What was written in one piece arrives in several.
    Fragment,
    /// A write took less than it was given.
    ShortWrite,
    /// A write would have blocked.
    FullBuffer,
    /// A read or write was interrupted.
    Interrupted,
    /// A poll was.
    InterruptedPoll,
    /// An event that means nothing.
    SpuriousEvent,
    /// A stream ended in good order.
    Ended,
    /// A stream was reset by the other end.
    Reset,
    /// Something arrived for a connection of which one end knows nothing any more.
    HalfOpen,
    /// A dial was refused.
    Refused,
    /// Nothing came back of a dial.
    Silence,
    /// A dial connected to itself.
    SelfConnected,
    /// Accept or dial failed for want of descriptors.
    OutOfDescriptors,
    /// Who waited to be accepted was gone.
    AbortedAccept,
    /// A listener let somebody in only to throw him out.
    DyingListener,
    /// A segment had to wait, for a cut way, a stalled stream or a machine without power.
    Held,
}

/// All of them.
pub(crate) const SOCKET_FAULTS: [SocketFault; 16] = [
    SocketFault::Fragment,
    SocketFault::ShortWrite,
    SocketFault::FullBuffer,
    SocketFault::Interrupted,
    SocketFault::InterruptedPoll,
    SocketFault::SpuriousEvent,
    SocketFault::Ended,
    SocketFault::Reset,
    SocketFault::HalfOpen,
    SocketFault::Refused,
    SocketFault::Silence,
    SocketFault::SelfConnected,
    SocketFault::OutOfDescriptors,
    SocketFault::AbortedAccept,
    SocketFault::DyingListener,
    SocketFault::Held,
];

/// How processes are connected, and how their sockets behave.
#[derive(Clone, Debug)]
pub(crate) struct PipePlan {
    pub(crate) mode: Mode,
    /// No faults of streams come of themselves.
    pub(crate) is_calm: bool,
    /// Bytes that one direction of a connection holds.
    pub(crate) capacity: usize,
    /// What a link between nodes carries each way in a second, if that is bounded.
    pub(crate) bytes_per_second: Option<u64>,
    /// So many of a million writes arrive in pieces.
    pub(crate) fragments_per_million: u64,
    /// So many of a million writes are short, polls tell of nothing or in another order.
    pub(crate) oddity_per_million: u64,
    /// So many of a million reads and writes are interrupted.
    pub(crate) interrupts_per_million: u64,
    /// How many clients, and how many connections that have not said what they are, a node takes.
    pub(crate) clients: usize,
    pub(crate) unknown: usize,
    /// What may wait to leave beyond all that Raft may have under way to a node.
    pub(crate) reserve_bytes: usize,
}

impl PipePlan {
    pub(crate) fn draw(rng: &mut Rng, mode: Mode) -> Self {
        Self {
            mode,
            is_calm: rng.chance(200_000),
            capacity: rng.pick(&[2 << 10, 16 << 10, 256 << 10]),
            bytes_per_second: None,
            fragments_per_million: rng.pick(&[0, 20_000, 300_000]),
            oddity_per_million: rng.pick(&[1_000, 20_000, 100_000]),
            interrupts_per_million: rng.pick(&[0, 1_000, 20_000]),
            clients: rng.pick(&[16, 64]),
            unknown: rng.pick(&[4, 16, 256]),
            reserve_bytes: rng.pick(&[16 << 10, 64 << 10]),
        }
    }

    /// The caps of a node: small, but never so small that a healthy link could not work.
    pub(crate) fn limits(&self, caps: &Caps, snapshots: &SnapshotOptions) -> Limits {
        const LARGEST_ENTRY: usize = 4 << 10;
        let window = caps.window_messages * (caps.max_append_bytes + LARGEST_ENTRY);
        Limits {
            clients: self.clients,
            unknown: self.unknown,
            claims: self.unknown,
            client_output_bytes: 2 << 20,
            peer_output_bytes: (window + 2 * snapshots.slice_bytes + self.reserve_bytes).min(16 << 20),
        }
    }
}

/// A stream keeps its order: what is late holds back all that follows.
pub(crate) fn for_streams(weather: Weather) -> Weather {
    Weather {
        tail_per_million: weather.tail_per_million.min(5_000),
        loss_per_million: weather.loss_per_million.min(2_000),
        duplicate_per_million: 0,
        in_order: true,
        ..weather
    }
}
