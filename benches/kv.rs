//! The state machine: what applying and reading cost once the log and the network are done.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use kvstore::kv::{Limits, SnapshotReader, SnapshotWriter, StateMachine};
use kvstore::types::{ClientId, ClusterTime, Revision, Sequence};
use kvstore::wire::MAX_SNAPSHOT_CHUNK_BYTES;
use kvstore::wire::client::{Command, Operation, Write};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const KEYS: u64 = 100_000;
const ROWS: u32 = 100;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    apply(&mut criterion);
    read(&mut criterion);
    snapshot(&mut criterion);
    criterion.final_summary();
}

fn key(number: u64) -> Bytes {
    format!("key{number:08}").into()
}

/// A state machine and the log's end that it was fed to.
struct Fed {
    state: StateMachine,
    sequence: Sequence,
}

impl Fed {
    fn new() -> Self {
        let mut fed = Self { state: StateMachine::new(Limits::STANDARD), sequence: Sequence(0) };
        (0..KEYS).for_each(|number| fed.put(key(number)));
        fed
    }

    /// One put of one client that has the answers to all its puts before.
    fn put(&mut self, key: Bytes) {
        self.sequence = self.sequence.next();
        let write = Write {
            client: ClientId::Library { born: ClusterTime::ZERO, nonce: 1 },
            sequence: self.sequence,
            acknowledged: self.sequence,
            operation: Operation::Put { key, value: Bytes::from_static(&[b'v'; 64]) },
        };
        let revision = Revision(self.state.revision().0 + 1);
        black_box(self.state.apply(revision, ClusterTime::ZERO, Command::Write(write)));
    }
}

fn apply(criterion: &mut Criterion) {
    let mut random = StdRng::seed_from_u64(1);
    let mut fed = Fed::new();
    criterion.bench_function("kv/apply a put over 100,000 keys", |bencher| {
        bencher.iter(|| fed.put(key(random.random_range(0..KEYS))));
    });
    // A snapshot shares its leaves with the state: the first write to each copies it.
    criterion.bench_function("kv/apply a put beside a fresh snapshot", |bencher| {
        bencher.iter_custom(|puts| {
            let mut total = Duration::ZERO;
            for _ in 0..puts {
                let snapshot = fed.state.clone();
                let key = key(random.random_range(0..KEYS));
                let begin = Instant::now();
                fed.put(key);
                total += begin.elapsed();
                drop(snapshot);
            }
            total
        });
    });
}

fn read(criterion: &mut Criterion) {
    let mut random = StdRng::seed_from_u64(1);
    let fed = Fed::new();
    criterion.bench_function("kv/get of 100,000 keys", |bencher| {
        bencher.iter(|| fed.state.get(&key(random.random_range(0..KEYS))));
    });
    let mut group = criterion.benchmark_group("kv/scan");
    group.throughput(Throughput::Elements(u64::from(ROWS)));
    group.bench_function("100 of 100,000 keys", |bencher| {
        bencher.iter(|| {
            let after = key(random.random_range(0..KEYS - u64::from(ROWS)));
            fed.state.scan(b"key", Some(&after), ROWS)
        });
    });
}

/// What a turn of the loop spends on a snapshot that is written or received: one slice.
fn snapshot(criterion: &mut Criterion) {
    let fed = Fed::new();
    let slices = || {
        let mut writer = SnapshotWriter::new(fed.state.clone());
        std::iter::from_fn(move || writer.next_slice(MAX_SNAPSHOT_CHUNK_BYTES))
    };
    let whole: Vec<Bytes> = slices().collect();
    let mut group = criterion.benchmark_group("kv/snapshot slice");
    group.throughput(Throughput::Bytes(MAX_SNAPSHOT_CHUNK_BYTES as u64));
    group.bench_function("write", |bencher| {
        bencher.iter_custom(|count| {
            // The last one is shorter.
            let mut endless = std::iter::repeat_with(|| slices().take(whole.len() - 1)).flatten();
            let begin = Instant::now();
            (0..count).for_each(|_| drop(black_box(endless.next())));
            begin.elapsed()
        });
    });
    group.bench_function("read", |bencher| {
        bencher.iter_custom(|count| {
            let mut reader = SnapshotReader::new(Limits::STANDARD);
            let mut at = 0;
            let mut total = Duration::ZERO;
            for _ in 0..count {
                if at == whole.len() - 1 {
                    (reader, at) = (SnapshotReader::new(Limits::STANDARD), 0);
                }
                let begin = Instant::now();
                reader.feed(&whole[at]).expect("a sound snapshot");
                total += begin.elapsed();
                at += 1;
            }
            total
        });
    });
}
