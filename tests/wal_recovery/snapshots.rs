//! Snapshots, the release of the log before them, and installs, with a crash or a failure at each
//! operation, and with damage.

use kvstore::storage::{OpenError, Options, Recovered, SpareProgress, Storage, WriteError};
use kvstore::types::{ClusterTime, Incarnation, LogIndex, Term};
use kvstore::wire::entry::{Entry, HardState, Payload, Snapshot, SnapshotId};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

use crate::disk::{End, Fault, SimDisk};
use crate::script::{NODE, SMALL, Turn, command, founding};

/// What one step makes durable.
#[derive(Clone, Debug)]
enum Step {
    Turn(Turn),
    /// A snapshot of the node's own, at this index.
    Snapshot(u64),
    /// A snapshot of another node, which replaces the log.
    Install(SnapshotId, Vec<u8>),
}

/// What must be found.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    hard_state: HardState,
    snapshot: Option<(u64, Vec<u8>)>,
    entries: Vec<Entry>,
}

impl Model {
    fn base(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |(index, _)| *index)
    }

    fn last(&self) -> u64 {
        self.base() + self.entries.len() as u64
    }

    fn apply(&mut self, step: &Step) {
        let base = self.base();
        match step {
            Step::Turn(turn) => {
                self.hard_state = turn.hard_state.unwrap_or(self.hard_state);
                let first = turn.entries[0].index.0;
                self.entries.truncate((first - 1 - base) as usize);
                self.entries.extend_from_slice(&turn.entries);
            }
            Step::Snapshot(index) => {
                self.entries.drain(..(index - base) as usize);
                self.snapshot = Some((*index, state_at(*index)));
            }
            Step::Install(id, _) => {
                self.entries.clear();
                self.snapshot = Some((id.index.0, state_at(id.index.0)));
            }
        }
    }

    fn of(recovered: &Recovered) -> Self {
        let snapshot = recovered.snapshot.as_ref().map(|found| {
            let state: Vec<u8> = found.state.concat();
            (found.snapshot.index.0, state)
        });
        Self { hard_state: recovered.hard_state, snapshot, entries: recovered.entries.clone() }
    }
}

/// What stands for a state: several slices of it.
pub(crate) fn state_at(index: u64) -> Vec<u8> {
    (0..3000 + index * 7).map(|at| (at * index % 251) as u8).collect()
}

pub(crate) fn snapshot_of(index: u64, term: Term) -> Snapshot {
    let founding = founding();
    let Payload::Configuration(configuration) = founding.entries[0].payload.clone() else { unreachable!() };
    Snapshot { index: LogIndex(index), term, stamp: ClusterTime(index), configuration }
}

fn open(disk: &SimDisk) -> Result<(Storage<SimDisk>, Recovered), OpenError> {
    Storage::open(disk.clone(), NODE, SMALL, Incarnation(9))
}

/// Saves a snapshot slice by slice.
pub(crate) fn save(storage: &mut Storage<SimDisk>, index: u64, term: Term) -> Result<SnapshotId, WriteError> {
    storage.begin_snapshot(snapshot_of(index, term))?;
    for slice in state_at(index).chunks(1000) {
        storage.write_snapshot(slice)?;
    }
    Ok(storage.save_snapshot()?.expect("there is room for it"))
}

/// Takes over another node's snapshot, piece by piece.
fn install(storage: &mut Storage<SimDisk>, id: SnapshotId, file: &[u8]) -> Result<(), WriteError> {
    storage.begin_copy()?;
    for piece in file.chunks(1500) {
        storage.write_copy(piece)?.expect("the file is intact");
    }
    storage.install_copy(id, None)?.expect("the file is whole");
    Ok(())
}

/// The file of another node's snapshot.
pub(crate) fn file_at(index: u64, term: Term) -> (SnapshotId, Vec<u8>) {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).unwrap();
    storage.persist(&founding().batch()).unwrap();
    let hard_state = Some(HardState { term, voted_for: None });
    let entries = (2..=index).map(|index| command(index, term.0, 1)).collect();
    storage.persist(&Turn { hard_state, entries, ..Turn::default() }.batch()).unwrap();
    let id = save(&mut storage, index, term).unwrap();
    (id, disk.content(&format!("{index:010}.snap")))
}

/// Steps with models before each and after the last: batches that replace only what no snapshot
/// stands for, every few of them a snapshot, at times one of another node, at or beyond the end.
fn script(seed: u64, steps: usize) -> (Vec<Step>, Vec<Model>) {
    let mut rng = Rng::seed_from_u64(seed);
    let (mut script, mut models) = (Vec::new(), vec![Model::default()]);
    while script.len() < steps {
        let model = models.last().unwrap();
        let step = match script.len() {
            0 => Step::Turn(founding()),
            number if number % 11 == 10 => {
                let index = model.base() + rng.random_range(1..2 * model.entries.len() as u64 + 4);
                let (id, file) = file_at(index, model.hard_state.term);
                Step::Install(id, file)
            }
            number if number % 5 == 4 && model.entries.len() > 2 => {
                Step::Snapshot(rng.random_range(model.base() + 1..=model.last()))
            }
            _ => Step::Turn(turn(model, &mut rng)),
        };
        let mut next = model.clone();
        next.apply(&step);
        script.push(step);
        models.push(next);
    }
    (script, models)
}

fn turn(model: &Model, rng: &mut Rng) -> Turn {
    let term = Term(model.hard_state.term.0 + u64::from(rng.random_bool(0.3)));
    let hard_state = (term > model.hard_state.term).then_some(HardState { term, voted_for: None });
    let floor = model.base().max(1);
    let kept = if rng.random_bool(0.2) { rng.random_range(floor..=model.last()) } else { model.last() };
    let entry = |at| command(kept + at, term.0, rng.random_range(0..1500));
    Turn { hard_state, entries: (1..=3).map(entry).collect(), ..Turn::default() }
}

struct Node {
    disk: SimDisk,
    script: Vec<Step>,
    models: Vec<Model>,
    done: usize,
    begun: usize,
}

impl Node {
    fn new(seed: u64, steps: usize) -> Self {
        let (script, models) = script(seed, steps);
        Self { disk: SimDisk::new(seed), script, models, done: 0, begun: 0 }
    }

    /// Opens, and checks that exactly what was done is found, or what was begun besides.
    fn start(&mut self) -> Result<Storage<SimDisk>, OpenError> {
        let (storage, recovered) = open(&self.disk)?;
        let found = Model::of(&recovered);
        let possible = self.done..=self.begun;
        let place = possible.clone().find(|count| self.models[*count] == found);
        self.done = place.unwrap_or_else(|| {
            let wanted = &self.models[self.done];
            panic!(
                "{possible:?}: found {:?} {}..{}, wanted {:?} {}..{}",
                found.hard_state,
                found.base(),
                found.last(),
                wanted.hard_state,
                wanted.base(),
                wanted.last()
            )
        });
        self.begun = self.done;
        Ok(storage)
    }

    /// Lives to the end of the script, or to the first failure. False if it failed.
    fn live(&mut self) -> bool {
        let mut storage = match self.start() {
            Ok(storage) => storage,
            Err(OpenError::Read { .. } | OpenError::Write(_)) => return false,
            Err(error) => panic!("{error}"),
        };
        let lived = self.work(&mut storage);
        if let Err(error) = &lived {
            assert_eq!(storage.begin_copy(), Err(error.clone()), "nothing is written after a failure");
        }
        lived.is_ok()
    }

    fn work(&mut self, storage: &mut Storage<SimDisk>) -> Result<(), WriteError> {
        while self.done < self.script.len() {
            self.begun = self.done + 1;
            match &self.script[self.done] {
                Step::Turn(turn) => storage.persist(&turn.batch())?,
                Step::Snapshot(index) => {
                    let model = &self.models[self.done];
                    let term = model.entries[(index - model.base() - 1) as usize].term;
                    save(storage, *index, term)?;
                }
                Step::Install(id, file) => install(storage, *id, file)?,
            }
            self.done = self.begun;
            storage.mark_synced()?;
            storage.release_segment()?;
            storage.free_removed()?;
            if self.done.is_multiple_of(3) {
                storage.prepare_spare(5 << 10)?;
            }
            if self.done.is_multiple_of(7) && storage.has_surplus() {
                storage.give_back()?;
            }
        }
        Ok(())
    }

    fn segments(&self) -> usize {
        let is_segment = |name: &&String| name.starts_with('0') && name.ends_with(".wal");
        self.disk.names().iter().filter(is_segment).count()
    }
}

const STEPS: usize = 45;

/// Lives with `fault`, then recovers with a crash, then twice without. Gives whether it came.
fn survives(seed: u64, fault: Fault, end: End) -> bool {
    let mut node = Node::new(seed, STEPS);
    node.disk.set_fault(fault);
    let came = !node.live();
    node.disk.end_process(end);
    let operation = match fault {
        Fault::Crash(n) | Fault::Once(n) | Fault::From(n) => n.wrapping_mul(7).wrapping_add(seed) % 60,
        Fault::None | Fault::NextSync | Fault::NextSyncFull => 0,
    };
    node.disk.set_fault(Fault::Crash(operation));
    node.live();
    node.disk.end_process(End::PowerCut);
    assert!(node.live(), "a start without faults needs no hand");
    node.disk.end_process(End::PowerCut);
    node.start().expect("and neither does the next");
    assert_eq!(node.done, STEPS);
    came
}

fn survives_each(seed: u64, end: End, fault: impl Fn(u64) -> Fault, stride: usize) {
    let mut operations = (seed % stride as u64..).step_by(stride);
    let count = operations.by_ref().take_while(|n| survives(seed, fault(*n), end)).count();
    assert!(count * stride > 200, "the script takes more than {count} operations");
}

#[test]
fn snapshot_and_install_with_a_crash_at_each_operation_lose_nothing() {
    for seed in 0..3 {
        survives_each(seed, End::PowerCut, Fault::Crash, if seed == 0 { 1 } else { 4 });
        survives_each(seed, End::Kill, Fault::Crash, 7);
    }
}

#[test]
fn snapshot_and_install_with_a_failure_of_each_operation_end_the_process_and_lose_nothing() {
    for seed in 0..2 {
        survives_each(seed, End::PowerCut, Fault::Once, 5);
        survives_each(seed, End::Kill, Fault::From, 5);
    }
}

/// The process dies as it records a snapshot, the record is read at the next start, and the power
/// goes before that start has made it durable: then the snapshot before is the one that counts.
#[test]
fn snapshot_whose_record_was_read_but_never_synced_leaves_the_one_before_in_place() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).unwrap();
    storage.persist(&founding().batch()).unwrap();
    let entries = (2..20).map(|index| command(index, 0, 10)).collect();
    storage.persist(&Turn { entries, ..Turn::default() }.batch()).unwrap();
    save(&mut storage, 10, Term(0)).unwrap();
    storage.mark_synced().unwrap();
    let saving = {
        let other = disk.fork(1);
        other.end_process(End::PowerCut);
        let (mut storage, _) = open(&other).unwrap();
        other.set_fault(Fault::None);
        save(&mut storage, 15, Term(0)).unwrap();
        other.operations().0
    };
    let mut outcomes = std::collections::BTreeSet::new();
    for (seed, operation) in (0..20).flat_map(|seed| (0..saving).map(move |operation| (seed, operation))) {
        let node = disk.fork(seed);
        node.end_process(End::PowerCut);
        let (mut storage, _) = open(&node).unwrap();
        node.set_fault(Fault::Crash(operation));
        assert!(save(&mut storage, 15, Term(0)).is_err() || operation + 1 >= saving);
        node.end_process(End::Kill);
        for start in 0..40 {
            let node = node.fork(seed + start);
            node.end_process(End::Kill);
            node.set_fault(Fault::Crash(start));
            let _ = open(&node);
            node.end_process(End::PowerCut);
            let (_, recovered) = open(&node).expect("a crash needs no hand");
            let snapshot = recovered.snapshot.expect("there was one").snapshot.index;
            assert_eq!(recovered.entries.last().unwrap().index, LogIndex(19));
            outcomes.insert(snapshot.0);
        }
    }
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), [10, 15]);
}

#[test]
fn segments_before_a_snapshot_are_released_and_used_again() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).unwrap();
    storage.persist(&founding().batch()).unwrap();
    let (mut index, mut most) = (1, 0);
    for _ in 0..40 {
        for _ in 0..10 {
            index += 1;
            let turn = Turn { entries: vec![command(index, 0, 1500)], ..Turn::default() };
            storage.persist(&turn.batch()).unwrap();
        }
        save(&mut storage, index - 3, Term(0)).unwrap();
        while storage.release_segment().unwrap() {}
        most = most.max(disk.names().len());
    }
    assert!(most <= 3 + 4 + 1, "{:?}", disk.names());
    disk.set_fault(Fault::None);
    storage.prepare_spare(u64::MAX).unwrap();
    assert_eq!(disk.operations(), (0, 0), "a segment that was released needs no preparing");
    let recycled = disk.names().iter().filter(|name| name.starts_with("spare-")).count();
    assert!(recycled > 0, "{:?}", disk.names());
    disk.end_process(End::PowerCut);
    let (_, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.entries.first().unwrap().index, LogIndex(index - 2));
    assert_eq!(recovered.entries.last().unwrap().index, LogIndex(index));
}

#[test]
fn released_segments_of_another_size_than_the_next_start_wants_are_not_used_again() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).unwrap();
    let put = |storage: &mut Storage<SimDisk>, index| {
        let turn = Turn { entries: vec![command(index, 0, 1500)], ..Turn::default() };
        storage.persist(&turn.batch()).unwrap();
    };
    storage.persist(&founding().batch()).unwrap();
    (2..40).for_each(|index| put(&mut storage, index));
    save(&mut storage, 37, Term(0)).unwrap();
    while storage.release_segment().unwrap() {}
    let has_recycled = |disk: &SimDisk| disk.names().iter().any(|name| name.starts_with("spare-"));
    assert!(has_recycled(&disk));
    disk.end_process(End::Kill);
    let larger = Options { segment_bytes: 64 << 10, ..SMALL };
    let (mut storage, _) = Storage::open(disk.clone(), NODE, larger, Incarnation(9)).unwrap();
    assert!(!has_recycled(&disk));
    (40..120).for_each(|index| put(&mut storage, index));
    disk.end_process(End::PowerCut);
    let (_, recovered) = Storage::open(disk, NODE, larger, Incarnation(9)).unwrap();
    assert_eq!(recovered.entries.last().unwrap().index, LogIndex(119));
}

#[test]
fn large_segments_released_before_a_power_cut_leave_no_gap() {
    for seed in 0..30 {
        let disk = SimDisk::new(seed);
        let (mut storage, _) = open(&disk).unwrap();
        storage.persist(&founding().batch()).unwrap();
        for index in 2..12 {
            // Larger than a segment: it has one to itself, which is no spare for others.
            let turn = Turn { entries: vec![command(index, 0, 20_000)], ..Turn::default() };
            storage.persist(&turn.batch()).unwrap();
        }
        save(&mut storage, 11, Term(0)).unwrap();
        for _ in 0..seed % 10 {
            storage.release_segment().unwrap();
        }
        disk.end_process(End::PowerCut);
        open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
}

#[test]
fn many_segments_released_at_once_are_kept_to_a_few() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).unwrap();
    storage.persist(&founding().batch()).unwrap();
    for index in 2..120 {
        let turn = Turn { entries: vec![command(index, 0, 1500)], ..Turn::default() };
        storage.persist(&turn.batch()).unwrap();
    }
    let count = |disk: &SimDisk, start: &str| disk.names().iter().filter(|n| n.starts_with(start)).count();
    assert!(count(&disk, "00000000") > 10, "{:?}", disk.names());
    save(&mut storage, 119, Term(0)).unwrap();
    while storage.release_segment().unwrap() {}
    assert_eq!(count(&disk, "spare-"), 4, "{:?}", disk.names());
}

#[test]
fn spares_are_given_back_for_good_but_for_the_last_one() {
    let spares = |disk: &SimDisk| disk.names().iter().filter(|name| name.starts_with("spare")).count();
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).unwrap();
    storage.persist(&founding().batch()).unwrap();
    let fill = |storage: &mut Storage<SimDisk>, indexes: std::ops::Range<u64>| {
        for index in indexes {
            let turn = Turn { entries: vec![command(index, 0, 1500)], ..Turn::default() };
            storage.persist(&turn.batch()).unwrap();
        }
    };
    fill(&mut storage, 2..40);
    assert_eq!(storage.prepare_spare(5 << 10), Ok(SpareProgress::Unfinished));
    assert!(!storage.has_surplus(), "it is the only one");
    save(&mut storage, 39, Term(0)).unwrap();
    while storage.release_segment().unwrap() {}
    assert_eq!(spares(&disk), 5, "{:?}", disk.names());
    while storage.has_surplus() {
        storage.give_back().unwrap();
    }
    assert_eq!(spares(&disk), 1, "{:?}", disk.names());
    disk.end_process(End::PowerCut);
    assert_eq!(spares(&disk), 1, "{:?}", disk.names());
    let (mut storage, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.snapshot.unwrap().snapshot.index, LogIndex(39));
    assert!(!storage.has_surplus());
    fill(&mut storage, 40..60);
    disk.end_process(End::PowerCut);
    assert_eq!(open(&disk).unwrap().1.entries.len(), 20);
}

#[test]
fn segments_stay_until_the_snapshot_is_recorded() {
    let mut node = Node::new(2, STEPS);
    let disk = node.disk.clone();
    let mut storage = node.start().unwrap();
    storage.persist(&founding().batch()).unwrap();
    for index in 2..30 {
        let turn = Turn { entries: vec![command(index, 0, 1500)], ..Turn::default() };
        storage.persist(&turn.batch()).unwrap();
    }
    let before = node.segments();
    storage.begin_snapshot(snapshot_of(29, Term(0))).unwrap();
    storage.write_snapshot(b"a part").unwrap();
    assert!(!storage.release_segment().unwrap());
    assert_eq!(node.segments(), before);
    assert!(disk.names().contains(&"snapshot.tmp".to_owned()));
    storage.save_snapshot().unwrap();
    assert!(storage.release_segment().unwrap());
}

#[test]
fn unfinished_snapshot_of_any_length_is_removed_at_the_next_start() {
    let node = small_node();
    let file = node.disk.content("0000000020.snap");
    for count in (0..file.len()).step_by(97) {
        let disk = node.disk.fork(1);
        disk.put("snapshot.tmp", file[..count].to_vec());
        disk.put("0000000099.snap", file[..count].to_vec());
        let (_, recovered) = open(&disk).unwrap();
        assert_eq!(recovered.snapshot.unwrap().snapshot.index, LogIndex(20));
        let names = disk.names();
        assert!(!names.iter().any(|name| name == "snapshot.tmp" || name == "0000000099.snap"), "{names:?}");
    }
}

/// Entries up to 30 and a snapshot at 20.
fn small_node() -> Node {
    let mut node = Node::new(1, 1);
    let mut storage = node.start().unwrap();
    storage.persist(&founding().batch()).unwrap();
    let entries = (2..=30).map(|index| command(index, 0, 700)).collect();
    storage.persist(&Turn { entries, ..Turn::default() }.batch()).unwrap();
    save(&mut storage, 20, Term(0)).unwrap();
    storage.mark_synced().unwrap();
    node
}

#[test]
fn snapshot_with_a_flipped_bit_is_refused_with_its_file_and_offset() {
    let node = small_node();
    let file = node.disk.content("0000000020.snap");
    for at in (0..100).chain(4090..4110).chain((0..file.len()).step_by(64)) {
        let (disk, mut damaged) = (node.disk.fork(1), file.clone());
        damaged[at] ^= 1 << (at % 8);
        disk.put("0000000020.snap", damaged);
        let before = disk.names();
        let error = open(&disk).unwrap_err();
        let OpenError::Damaged { path, offset, .. } = &error else { panic!("{at}: {error}") };
        assert!(path.ends_with("0000000020.snap") && *offset <= at as u64, "{at}: {error}");
        assert_eq!(disk.names(), before, "what is refused is not touched");
    }
}

#[test]
fn snapshot_that_is_missing_or_cut_or_another_is_refused() {
    let node = small_node();
    let file = node.disk.content("0000000020.snap");
    let missing = node.disk.fork(1);
    missing.take_away("0000000020.snap");
    let other = node.disk.fork(1);
    other.put("0000000020.snap", file_at(20, Term(1)).1);
    for disk in [missing, other].into_iter().chain([0, 4095, 4096, file.len() - 1].map(|count| {
        let disk = node.disk.fork(1);
        disk.put("0000000020.snap", file[..count].to_vec());
        disk
    })) {
        let error = open(&disk).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("0000000020.snap"), "{error}");
    }
}

#[test]
fn segment_that_the_snapshot_does_not_replace_is_missed() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).unwrap();
    storage.persist(&founding().batch()).unwrap();
    for index in 2..40 {
        let turn = Turn { entries: vec![command(index, 0, 1500)], ..Turn::default() };
        storage.persist(&turn.batch()).unwrap();
    }
    save(&mut storage, 3, Term(0)).unwrap();
    assert!(!storage.release_segment().unwrap(), "entry 4 lies in the first segment");
    disk.take_away("0000000001.wal");
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("entries 4 to"), "{error}");
}

/// The start releases the log before the snapshot for good, so the snapshot must be there for good.
#[test]
fn snapshot_written_without_syncs_is_durable_once_a_start_with_syncs_has_built_on_it() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let unsafe_options = Options { sync: false, ..SMALL };
        let (mut storage, _) = Storage::open(disk.clone(), NODE, unsafe_options, Incarnation(9)).unwrap();
        storage.persist(&founding().batch()).unwrap();
        let entries = (2..=30).map(|index| command(index, 0, 1500)).collect();
        storage.persist(&Turn { entries, ..Turn::default() }.batch()).unwrap();
        let id = save(&mut storage, 30, Term(0)).unwrap();
        disk.end_process(End::Kill);
        let (mut storage, _) = open(&disk).unwrap();
        while storage.release_segment().unwrap() {}
        storage.persist(&Turn { entries: vec![command(31, 0, 10)], ..Turn::default() }.batch()).unwrap();
        disk.end_process(End::PowerCut);
        let (storage, recovered) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!((storage.snapshot_id(), recovered.entries.len()), (Some(id), 1));
    }
}

#[test]
fn copy_that_is_damaged_or_not_the_announced_one_is_given_up() {
    let (id, file) = file_at(50, Term(0));
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).unwrap();
    storage.persist(&founding().batch()).unwrap();
    for at in [3, 4100, file.len() - 1] {
        let mut damaged = file.clone();
        damaged[at] ^= 4;
        storage.begin_copy().unwrap();
        assert!(storage.write_copy(&damaged).unwrap().is_err());
        assert!(!disk.names().contains(&"snapshot.tmp".to_owned()));
    }
    storage.begin_copy().unwrap();
    storage.write_copy(&file[..file.len() - 4]).unwrap().unwrap();
    assert!(storage.install_copy(id, None).unwrap().is_err(), "its end is missing");
    storage.begin_copy().unwrap();
    storage.write_copy(&file).unwrap().unwrap();
    let other = SnapshotId { checksum: id.checksum ^ 1, ..id };
    assert!(storage.install_copy(other, None).unwrap().is_err());
    assert_eq!(storage.snapshot_id(), None);
    install(&mut storage, id, &file).unwrap();
    assert_eq!(storage.snapshot_id(), Some(id));
    disk.end_process(End::PowerCut);
    let (mut storage, recovered) = open(&disk).unwrap();
    assert_eq!(recovered.entries, [], "the log begins anew after it");
    let next = Turn { entries: vec![command(51, 0, 5)], ..Turn::default() };
    storage.persist(&next.batch()).unwrap();
}

#[test]
fn snapshot_open_for_reading_can_be_read_when_another_has_replaced_it() {
    let node = small_node();
    let disk = node.disk.fork(1);
    let file = disk.content("0000000020.snap");
    let (mut storage, _) = open(&disk).unwrap();
    let mut reader = storage.open_snapshot().unwrap().unwrap();
    save(&mut storage, 30, Term(0)).unwrap();
    assert!(!disk.names().contains(&"0000000020.snap".to_owned()));
    let mut read = Vec::new();
    loop {
        let slice = storage.read_snapshot(&mut reader, read.len() as u64, 1000).unwrap();
        if slice.is_empty() {
            break;
        }
        read.extend_from_slice(&slice);
    }
    assert_eq!(read, file);
}

#[test]
fn snapshot_that_was_damaged_since_the_start_is_found_out_before_its_last_byte_is_given() {
    let node = small_node();
    let file = node.disk.content("0000000020.snap");
    let read = |storage: &mut Storage<SimDisk>| {
        let mut reader = storage.open_snapshot().unwrap().unwrap();
        // Given up, begun anew, and each slice asked for twice.
        for offset in [0, 900, 0, 0] {
            storage.read_snapshot(&mut reader, offset, 900)?;
        }
        for offset in (0..file.len() as u64).step_by(900) {
            storage.read_snapshot(&mut reader, offset, 900)?;
            storage.read_snapshot(&mut reader, offset, 900)?;
        }
        storage.read_snapshot(&mut reader, file.len() as u64, 900)
    };
    let (mut storage, _) = open(&node.disk.fork(1)).unwrap();
    assert!(read(&mut storage).unwrap().is_empty(), "its end");
    for at in (0..file.len()).step_by(61).chain([file.len() - 1]) {
        let (disk, mut damaged) = (node.disk.fork(1), file.clone());
        let (mut storage, _) = open(&disk).unwrap();
        damaged[at] ^= 1 << (at % 8);
        disk.put("0000000020.snap", damaged);
        let error = read(&mut storage).unwrap_err();
        let words = error.to_string();
        let is_told = words.contains("0000000020.snap") && words.contains("damaged at offset");
        assert!(is_told || (8..12).contains(&at) && words.contains("version"), "{at}: {words}");
        assert!(words.contains("start the node again"), "{words}");
        assert_eq!(storage.begin_copy(), Err(error), "the process must end");
    }
}

#[test]
fn replaced_snapshot_is_given_back_slice_by_slice_once_nobody_reads_it() {
    let (mut storage, _) = open(&small_node().disk.fork(1)).unwrap();
    storage.begin_snapshot(snapshot_of(25, Term(0))).unwrap();
    assert!((0..20).all(|_| storage.write_snapshot(&[7; 1 << 20]).unwrap()));
    let large = storage.save_snapshot().unwrap().expect("there is room for it");
    let free = |storage: &mut Storage<SimDisk>| {
        let mut turns = 0;
        while storage.has_removed() {
            storage.free_removed().unwrap();
            turns += 1;
        }
        turns
    };
    // Reads begin; both readers have the same file open.
    let mut readers = [(); 2].map(|()| storage.open_snapshot().unwrap().unwrap());
    save(&mut storage, 30, Term(0)).unwrap();
    assert_eq!(free(&mut storage), 1, "the small one before it");
    let end = storage.read_snapshot(&mut readers[1], large.bytes - 10, 1000).unwrap();
    assert_eq!(end.len(), 10, "it is whole while somebody reads it");
    drop(readers);
    assert_eq!(free(&mut storage), 11, "2 MiB each, and what its header takes beyond");
    // So is what was begun and given up.
    storage.begin_copy().unwrap();
    storage.abandon_snapshot().unwrap();
    assert_eq!(free(&mut storage), 1);
}

#[test]
fn room_for_a_snapshot_is_what_is_left_of_the_disk() {
    let disk = SimDisk::new(1);
    let options = Options { segment_bytes: 16 << 10, sync: true };
    let (mut storage, _) = Storage::open(disk.clone(), NODE, options, Incarnation(9)).unwrap();
    disk.leave_free(80 << 10);
    assert_eq!(storage.reserve_bytes(50, 2), 50 + (32 << 10));
    assert!(storage.has_room_for(60 << 10));
    assert!(!storage.has_room_for(70 << 10), "one segment must fit besides");
}
