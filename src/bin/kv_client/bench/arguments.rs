//! The command line of `bench`.

use clap::{Args, ValueEnum};

/// How the load is made, and how much of it.
#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// What each request does
    #[arg(long, value_enum, default_value_t = Op::Put)]
    pub(crate) op: Op,
    /// Clients, each with its own connections
    #[arg(long, value_name = "C", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) clients: u32,
    /// Requests in flight of each client, each with a session of its own
    #[arg(long, value_name = "P", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub(crate) pipeline: u32,
    /// Open loop: so many requests a second, at even distances, whether the ones before have their
    /// answers or not; latencies count from the moment at which a request was to be sent
    #[arg(long, value_name = "R")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) rate: Option<u64>,
    /// End after this time
    #[arg(long, value_name = "S", default_value_t = 10, conflicts_with = "count")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) seconds: u64,
    /// End after this many requests instead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Connections beside them that say hello and nothing more
    #[arg(long, value_name = "N", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub(crate) idle: u32,
    /// The time from one line of progress to the next
    #[arg(long, value_name = "T", default_value_t = 1_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) interval_ms: u64,
    #[command(flatten)]
    pub(crate) data: DataArguments,
}

/// What is written and read.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataArguments {
    /// How many different keys, of 16 bytes each
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) keys: u64,
    /// The size of a value
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=1_048_576))]
    pub(crate) value_bytes: u32,
    /// Which keys are chosen how often, as YCSB has it
    #[arg(long, value_enum, default_value_t = DistributionName::Uniform)]
    pub(crate) distribution: DistributionName,
    /// How many of 100 requests read, with --op mixed [default: 50]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=100))]
    pub(crate) reads: Option<u32>,
    /// Put every key once before the measurement begins
    #[arg(long)]
    pub(crate) fill: bool,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Op {
    /// Set a key
    Put,
    /// Linearizable read
    Get,
    /// Read what the asked node has
    StaleGet,
    /// Puts and linearizable gets
    Mixed,
    /// Compare with what this program last saw of the key, and set
    Cas,
}

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DistributionName {
    /// All alike
    Uniform,
    /// The k-th favourite in proportion to 1/k^0.99; the favourites lie all over the keys
    Zipfian,
    /// Writes go from key to key; reads prefer, by the same law, what was written last
    Latest,
}

impl Op {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::Get => "get",
            Op::StaleGet => "stale-get",
            Op::Mixed => "mixed",
            Op::Cas => "cas",
        }
    }
}

impl DistributionName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            DistributionName::Uniform => "uniform",
            DistributionName::Zipfian => "zipfian",
            DistributionName::Latest => "latest",
        }
    }
}
