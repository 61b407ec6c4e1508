//! What one seed means: the cluster, its surroundings, its clients, and what goes wrong.
//!
//! Everything is drawn once, at the start. Some seeds are calm and some brutal, and in some a whole
//! class of faults is off, so that states last which the faults of that class would end.

use std::collections::BTreeMap;

use kvstore::kv::{Limits, Quota};
use kvstore::raft::LogBounds;
use kvstore::replica::{Caps, SnapshotOptions};
use kvstore::time::{Duration, Instant};

use super::pipe_plan::{Mode, PipePlan, for_streams};
use super::rng::Rng;

/// One way to go wrong, drawn again and again over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A process ends without a word.
    Kill,
    /// A machine loses power.
    PowerCut,
    /// All processes end at once.
    KillAll,
    /// All machines lose power at once.
    PowerCutAll,
    /// A machine loses power in the middle of one of its next disk operations.
    PowerCutInWrite,
    /// The same, while it writes or receives a snapshot.
    PowerCutInSnapshot,
    /// A write or sync fails, and the process ends by it.
    DiskError,
    /// A bit of a disk flips: seen on a copy of it, since the node must not go on with it.
    Damage,
    /// The next syncs of a disk are slow.
    DiskStall,
    /// Other programs fill a disk, nearly or in full, and later give it back.
    FullDisk,
    /// A process does not run for a while.
    Pause,
    /// A monotonic clock jumps ahead.
    ClockJump,
    /// A node is cut off from all others.
    Isolate,
    /// The nodes fall into two parts.
    Split,
    /// Two parts that one node sees both of.
    Bridge,
    /// Each node sees its neighbours only.
    Ring,
    /// Messages get through in one direction only.
    OneWay,
    /// The leader is cut off with most of the clients and few others, of whom it hears late, and later
    /// it is to lead again.
    LeaderCut,
    /// One node hears of another late.
    Lag,
    /// The links of some nodes are cut one by one and come back in another order.
    Swizzle,
    /// A connection between two nodes is reset.
    Reset,
    /// The connections of clients to a node are reset.
    ResetClients,
    /// A node is told to leave: a leader hands over.
    Leave,
    /// A client's process ends, and another takes its place.
    ClientExit,
    /// Byte mode: a stream gets stuck one way.
    StreamStall,
    /// Byte mode: a process has no descriptors left.
    NoDescriptors,
    /// Byte mode: whoever dials a node is let in and thrown out again.
    HauntedDoor,
}

/// Faults of byte streams.
const OF_STREAMS: &[Fault] = &[Fault::StreamStall, Fault::NoDescriptors, Fault::HauntedDoor];

/// Faults that are switched off together.
const CLASSES: [&[Fault]; 5] = [
    &[
        Fault::Kill,
        Fault::PowerCut,
        Fault::KillAll,
        Fault::PowerCutAll,
        Fault::PowerCutInWrite,
        Fault::PowerCutInSnapshot,
    ],
    &[Fault::DiskError, Fault::Damage, Fault::DiskStall, Fault::FullDisk],
    &[Fault::Pause, Fault::ClockJump],
    &[
        Fault::Isolate,
        Fault::Split,
        Fault::Bridge,
        Fault::Ring,
        Fault::OneWay,
        Fault::LeaderCut,
        Fault::Lag,
        Fault::Swizzle,
    ],
    &[Fault::Reset, Fault::ResetClients, Fault::Leave, Fault::ClientExit],
];

/// How often each fault happens compared to the others: the mean time between two of a kind is the
/// run's own mean times this.
const RARITY: [(Fault, u32); 27] = [
    (Fault::Kill, 3),
    (Fault::PowerCut, 4),
    (Fault::KillAll, 12),
    (Fault::PowerCutAll, 8),
    (Fault::PowerCutInWrite, 4),
    (Fault::PowerCutInSnapshot, 4),
    (Fault::DiskError, 8),
    (Fault::Damage, 4),
    (Fault::DiskStall, 4),
    (Fault::FullDisk, 6),
    (Fault::Pause, 3),
    (Fault::ClockJump, 8),
    (Fault::Isolate, 3),
    (Fault::Split, 5),
    (Fault::Bridge, 8),
    (Fault::Ring, 8),
    (Fault::OneWay, 4),
    (Fault::LeaderCut, 4),
    (Fault::Lag, 6),
    (Fault::Swizzle, 10),
    (Fault::Reset, 2),
    (Fault::ResetClients, 4),
    (Fault::Leave, 5),
    (Fault::ClientExit, 4),
    (Fault::StreamStall, 3),
    (Fault::NoDescriptors, 8),
    (Fault::HauntedDoor, 8),
];

/// How the network treats a message.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// The shortest way, and the longest of an ordinary one.
    pub(crate) latency: (Duration, Duration),
    /// So many of a million take longer, up to `tail`.
    pub(crate) tail_per_million: u64,
    pub(crate) tail: Duration,
    /// So many of a million are lost, and come twice.
    pub(crate) loss_per_million: u64,
    pub(crate) duplicate_per_million: u64,
    /// So many of a million AppendEntries come with some of their entries first.
    pub(crate) trimmed_per_million: u64,
    /// Messages of one connection arrive in their order, as TCP has them.
    pub(crate) in_order: bool,
}

/// How disks behave.
#[derive(Clone, Debug)]
pub(crate) struct DiskPlan {
    pub(crate) sync: (Duration, Duration),
    pub(crate) slow_per_million: u64,
    pub(crate) slow: Duration,
    pub(crate) short_counts: bool,
    pub(crate) segment_bytes: u64,
}

/// What clients do.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    pub(crate) count: usize,
    /// So many of them ask; the others only draw what they would have asked.
    pub(crate) asking: usize,
    pub(crate) keys: usize,
    /// Mean time between an answer and the next request.
    pub(crate) think: Duration,
    /// The shortest deadline, and the longest.
    pub(crate) least_patience: Duration,
    pub(crate) patience: Duration,
    /// Weights of put, delete, compare-and-set, get, stale get, scan, stale scan, and others.
    pub(crate) mix: [u64; 8],
    /// So many of a million values are large, up to 3 KB.
    pub(crate) large_per_million: u64,
    /// So many of a million clients write under a name.
    pub(crate) named_per_million: u64,
}

/// When things go wrong.
#[derive(Clone, Debug)]
pub(crate) struct FaultPlan {
    /// The mean time between two faults of each kind that is on.
    pub(crate) means: BTreeMap<Fault, Duration>,
    /// In place of faults drawn as the run goes on: some of those that an earlier run of the seed had.
    pub(crate) fixed: Option<Vec<DueFault>>,
}

/// A fault that came due in a run, with all that makes it the same fault in another.
#[derive(Clone, Debug)]
pub(crate) struct DueFault {
    /// 1, 2, 3, ... in the order in which they came due.
    pub(crate) number: u64,
    pub(crate) at: Instant,
    pub(crate) fault: Fault,
    /// The random numbers from which its details are drawn.
    pub(crate) draws: Rng,
}

/// A node's timing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) heartbeat: Duration,
    pub(crate) election_min: Duration,
    pub(crate) election_max: Duration,
}

/// All that a seed decides at the start.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    /// How long things go wrong.
    pub(crate) turmoil: Duration,
    pub(crate) timing: Timing,
    pub(crate) weather: Weather,
    pub(crate) disk: DiskPlan,
    pub(crate) clients: ClientPlan,
    pub(crate) caps: Caps,
    pub(crate) snapshots: SnapshotOptions,
    pub(crate) faults: FaultPlan,
    /// The longest downtime, pause and partition.
    pub(crate) longest_fault: Duration,
    /// Clocks run at up to so many parts in a million faster or slower.
    pub(crate) clock_error_ppm: u64,
    pub(crate) pipes: PipePlan,
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn draw(seed: u64, mode: Mode) -> Self {
        let rng = &mut Rng::new(seed, 1);
        let timing = draw_timing(rng);
        // The mean time between two faults of the most frequent kind.
        let temper = rng.pick(&[ms(600), ms(1_500), ms(3_000), ms(8_000)]);
        let mut plan = Self {
            nodes: [1, 3, 5][rng.weighted(&[10, 60, 30])],
            turmoil: Duration::from_secs(rng.between(10, 30)),
            timing,
            weather: draw_weather(rng),
            disk: draw_disk(rng),
            clients: draw_clients(rng),
            caps: draw_caps(rng),
            snapshots: draw_snapshots(rng),
            faults: draw_faults(rng, temper),
            longest_fault: rng.pick(&[ms(300), ms(2_000), ms(6_000)]).max(timing.election_max),
            clock_error_ppm: rng.pick(&[0, 1_000, 100_000]),
            pipes: PipePlan::draw(&mut Rng::new(seed, 7), mode),
        };
        if mode == Mode::Bytes {
            plan.weather = for_streams(plan.weather);
        }
        if mode == Mode::Messages || plan.pipes.is_calm {
            plan.faults.means.retain(|fault, _| !OF_STREAMS.contains(fault));
        }
        plan
    }
}

fn draw_timing(rng: &mut Rng) -> Timing {
    let heartbeat = rng.pick(&[ms(10), ms(30), ms(50)]);
    let election_min = heartbeat * rng.pick(&[4, 5, 10]);
    let election_max = election_min * rng.pick(&[3, 4]) / 2;
    Timing { heartbeat, election_min, election_max }
}

fn draw_weather(rng: &mut Rng) -> Weather {
    let us = Duration::from_micros;
    let (low, high) = rng.pick(&[(us(50), us(300)), (us(100), us(2_000)), (us(500), us(8_000))]);
    let in_order = rng.chance(500_000);
    Weather {
        latency: (low, high),
        tail_per_million: rng.pick(&[0, 1_000, 20_000, 200_000]),
        tail: rng.pick(&[ms(50), ms(400), ms(2_000)]),
        // A connection loses nothing; what stands for reconnects loses all the more.
        loss_per_million: if in_order { 0 } else { rng.pick(&[0, 1_000, 20_000, 150_000]) },
        duplicate_per_million: if in_order { 0 } else { rng.pick(&[0, 10_000, 200_000]) },
        trimmed_per_million: rng.pick(&[0, 50_000, 500_000]),
        in_order,
    }
}

fn draw_disk(rng: &mut Rng) -> DiskPlan {
    let us = Duration::from_micros;
    DiskPlan {
        sync: rng.pick(&[(us(20), us(100)), (us(200), us(2_000)), (us(1_000), us(8_000))]),
        slow_per_million: rng.pick(&[0, 2_000, 20_000]),
        slow: rng.pick(&[ms(30), ms(300)]),
        short_counts: rng.chance(200_000),
        segment_bytes: rng.pick(&[16 << 10, 32 << 10, 128 << 10]),
    }
}

fn draw_clients(rng: &mut Rng) -> ClientPlan {
    let count = rng.pick(&[2, 3, 5, 8]);
    ClientPlan {
        count,
        asking: count,
        keys: rng.between(1, 6) as usize,
        think: rng.pick(&[ms(10), ms(40), ms(100)]),
        least_patience: ms(50),
        patience: rng.pick(&[ms(500), ms(2_000), ms(5_000)]),
        mix: [25, 8, 20, 25, 6, 8, 3, rng.pick(&[0, 1, 3])],
        large_per_million: rng.pick(&[20_000, 20_000, 400_000]),
        named_per_million: rng.pick(&[0, 300_000, 600_000]),
    }
}

fn draw_limits(rng: &mut Rng) -> Limits {
    let quota = |rng: &mut Rng| Quota {
        sessions: rng.pick(&[64, 256, 1 << 14]),
        kept_bytes: rng.pick(&[16 << 10, 1 << 20, 16 << 20]),
    };
    Limits {
        lifetime: Duration::from_secs(rng.pick(&[5, 20, 600])),
        window: rng.pick(&[2, 8, 256]),
        library: quota(rng),
        named: quota(rng),
    }
}

fn draw_caps(rng: &mut Rng) -> Caps {
    Caps {
        sessions: draw_limits(rng),
        max_append_bytes: rng.pick(&[1, 300, 4 << 10, 1 << 20]),
        window_messages: rng.pick(&[1, 4, 64]),
        max_uncommitted_bytes: rng.pick(&[2 << 10, 64 << 10, 16 << 20]),
    }
}

/// Snapshots every 5 to 500 entries, of which each takes about 200 bytes; in some runs so little of
/// the log is kept beyond them that whoever is behind at all needs one.
fn draw_snapshots(rng: &mut Rng) -> SnapshotOptions {
    let trailing_bytes = rng.pick(&[0, 1 << 10, 16 << 10]);
    SnapshotOptions {
        floor_bytes: 200 * rng.pick(&[5, 20, 100, 500]),
        slice_bytes: rng.pick(&[200, 1 << 10, 8 << 10, 256 << 10]),
        log_bounds: LogBounds {
            trailing_bytes,
            max_bytes: trailing_bytes + rng.pick(&[0, 4 << 10, 64 << 10]),
        },
    }
}

fn draw_faults(rng: &mut Rng, temper: Duration) -> FaultPlan {
    let mut means: BTreeMap<Fault, Duration> =
        RARITY.into_iter().map(|(fault, rarity)| (fault, temper * rarity)).collect();
    for class in CLASSES {
        if rng.chance(200_000) {
            means.retain(|fault, _| !class.contains(fault));
        }
    }
    FaultPlan { means, fixed: None }
}

/// All kinds of faults of a mode.
pub(crate) fn all_faults(mode: Mode) -> Vec<Fault> {
    let faults = RARITY.into_iter().map(|(fault, _)| fault);
    faults.filter(|fault| mode == Mode::Bytes || !OF_STREAMS.contains(fault)).collect()
}
