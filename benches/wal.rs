//! The durable log on the real disk: one write and one sync for each batch.

use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use kvstore::storage::{Batch, FileDisk, Options, Storage};
use kvstore::types::{ClusterId, ClusterTime, Incarnation, LogIndex, NodeId, Term};
use kvstore::wire::entry::{Configuration, Entry, HardState, Member, Payload};
use tempfile::TempDir;

/// A put of 64 bytes, about.
const COMMAND: &[u8] = &[b'c'; 120];
/// Without a bound: the next segment is always ready, as idle turns make it.
const WHOLE_SPARE: u64 = u64::MAX;

fn main() {
    let mut criterion =
        Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3)).configure_from_args();
    for entries in [1, 16, 256] {
        append(&mut criterion, entries);
    }
    criterion.final_summary();
}

/// A log that goes on and on, as a node's does.
struct Log {
    storage: Storage<FileDisk>,
    last: LogIndex,
    /// Holds the log's files; removed at the end.
    _directory: TempDir,
}

impl Log {
    fn create() -> Self {
        let directory = TempDir::with_prefix("kvstore-wal-").expect("a temporary directory");
        let disk = FileDisk::open(directory.path()).expect("a directory of our own");
        let opened = Storage::open(disk, NodeId(1), Options::default(), Incarnation(1));
        let (storage, _) = opened.expect("a new log");
        let mut log = Self { storage, last: LogIndex::ZERO, _directory: directory };
        let member = Member { id: NodeId(1), incarnation: Incarnation(1) };
        let founding = Configuration::new(ClusterId(1), vec![member]).expect("one member");
        let entry = Entry::new(LogIndex(1), Term::ZERO, ClusterTime::ZERO, Payload::Configuration(founding));
        let hard_state = Some(HardState { term: Term(1), voted_for: None });
        log.storage.persist(&Batch { hard_state, entries: &[entry], peers: &[] }).expect("a disk");
        log.last = LogIndex(1);
        log.storage.prepare_spare(WHOLE_SPARE).expect("a disk");
        log
    }

    fn next(&mut self, count: u64) -> Vec<Entry> {
        let first = self.last.next();
        self.last = self.last.plus(count);
        let command = || Payload::Command(Bytes::from_static(COMMAND));
        (0..count).map(|more| Entry::new(first.plus(more), Term(1), ClusterTime(1), command())).collect()
    }
}

fn append(criterion: &mut Criterion, entries: u64) {
    let mut group = criterion.benchmark_group("wal/append and sync");
    group.throughput(Throughput::Elements(entries));
    group.bench_function(format!("{entries} entries"), |bencher| {
        let mut log = Log::create();
        bencher.iter_custom(|batches| {
            let mut total = Duration::ZERO;
            for _ in 0..batches {
                let entries = log.next(entries);
                let begin = Instant::now();
                log.storage.persist(&Batch { entries: &entries, ..Batch::default() }).expect("a disk");
                log.storage.mark_synced().expect("a disk");
                total += begin.elapsed();
                log.storage.prepare_spare(WHOLE_SPARE).expect("a disk");
            }
            total
        });
    });
}
