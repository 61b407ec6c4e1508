//! What is written when nothing goes wrong.

use kvstore::storage::{Batch, Options, SpareProgress, Storage};
use kvstore::types::{BootNumber, Incarnation, NodeId, Term};
use kvstore::wire::entry::HardState;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus as Rng;

use crate::disk::{End, Fault, SimDisk};
use crate::script::{Model, NODE, SMALL, Turn, command, founding, random_turn};

fn open(disk: &SimDisk, options: Options) -> (Storage<SimDisk>, Model) {
    let (storage, recovered) = Storage::open(disk.clone(), NODE, options, Incarnation(9)).unwrap();
    (storage, Model::of(&recovered))
}

fn vote(term: u64, voted_for: Option<u64>) -> Turn {
    let hard_state = HardState { term: Term(term), voted_for: voted_for.map(NodeId) };
    Turn { hard_state: Some(hard_state), ..Turn::default() }
}

fn commands(entries: impl IntoIterator<Item = (u64, u64)>) -> Turn {
    let entries = entries.into_iter().map(|(index, term)| command(index, term, 10)).collect();
    Turn { entries, ..Turn::default() }
}

#[test]
fn batch_costs_one_write_and_one_sync_and_an_empty_one_nothing() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk, Options::default());
    disk.set_fault(Fault::None);
    storage.persist(&founding().batch()).unwrap();
    assert_eq!(disk.operations(), (2, 1));
    storage.persist(&Batch::default()).unwrap();
    assert_eq!(disk.operations(), (2, 1));
}

#[test]
fn marker_is_written_once_after_a_sync_and_never_synced() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk, SMALL);
    storage.persist(&founding().batch()).unwrap();
    disk.set_fault(Fault::None);
    for _ in 0..3 {
        storage.mark_synced().unwrap();
    }
    assert_eq!(disk.operations(), (1, 0));
}

#[test]
fn spare_is_prepared_in_slices_of_the_budget() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk, SMALL);
    let slices = (1..).find(|_| storage.prepare_spare(5000).unwrap() == SpareProgress::Ready);
    assert_eq!(slices, Some(4), "16 KiB in slices of 5000 bytes");
    assert_eq!(disk.content("spare.wal"), vec![0; 16 << 10]);
    disk.set_fault(Fault::None);
    assert_eq!(storage.prepare_spare(5000).unwrap(), SpareProgress::Ready);
    assert_eq!(disk.operations(), (0, 0), "there is nothing left to do");
}

#[test]
fn segment_roll_with_a_spare_syncs_data_once() {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk, SMALL);
    storage.persist(&founding().batch()).unwrap();
    storage.persist(&Turn { entries: vec![command(2, 0, 7000)], ..Turn::default() }.batch()).unwrap();
    storage.prepare_spare(u64::MAX).unwrap();
    disk.set_fault(Fault::None);
    storage.persist(&Turn { entries: vec![command(3, 0, 7000)], ..Turn::default() }.batch()).unwrap();
    assert_eq!(disk.operations(), (4, 1), "write, sync, rename, sync of the directory");
    assert!(disk.names().contains(&"0000000002.wal".to_owned()));
}

#[test]
fn batch_larger_than_a_segment_gets_a_file_of_its_own() {
    let disk = SimDisk::new(1);
    let (mut storage, mut model) = open(&disk, SMALL);
    let large = Turn { entries: vec![command(2, 0, 100_000), command(3, 0, 1)], ..Turn::default() };
    let next = Turn { entries: vec![command(4, 0, 5000)], ..Turn::default() };
    for turn in [founding(), large, next] {
        storage.persist(&turn.batch()).unwrap();
        model.apply(&turn);
    }
    assert!(disk.content("0000000002.wal").len() > 100_000);
    assert_eq!(disk.content("0000000003.wal").len(), 16 << 10);
    disk.end_process(End::PowerCut);
    assert_eq!(open(&disk, SMALL).1, model);
}

#[test]
fn boot_number_rises_at_each_start_and_incarnation_stays() {
    let disk = SimDisk::new(1);
    // Enough starts to fill segments with nothing else.
    for boot in 1..=200 {
        let drawn = Incarnation(1000 + boot);
        let (_, recovered) = Storage::open(disk.clone(), NODE, SMALL, drawn).unwrap();
        assert_eq!(recovered.boot, BootNumber(boot));
        assert_eq!(recovered.incarnation, Incarnation(1001));
        assert_eq!(recovered.node, NODE);
        disk.end_process(if boot % 2 == 0 { End::Kill } else { End::PowerCut });
    }
    assert!(disk.names().contains(&"0000000002.wal".to_owned()));
}

#[test]
fn segment_size_may_change_between_starts() {
    let disk = SimDisk::new(1);
    let mut model = Model::default();
    let mut rng = Rng::seed_from_u64(1);
    for (start, kib) in [16, 64, 1, 32, 17].into_iter().enumerate() {
        let (mut storage, found) = open(&disk, Options { segment_bytes: kib << 10, sync: true });
        assert_eq!(found, model);
        for turn in 0..20 {
            let turn = if start + turn == 0 { founding() } else { random_turn(&model, &mut rng, 2000) };
            storage.persist(&turn.batch()).unwrap();
            model.apply(&turn);
            storage.prepare_spare(8 << 10).unwrap();
        }
        disk.end_process(End::PowerCut);
    }
    assert_eq!(open(&disk, SMALL).1, model);
}

/// What was written without a sync survives the end of the process, and is durable once a start
/// with syncs has returned.
#[test]
fn log_written_without_syncs_is_durable_after_a_start_with_them() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let mut rng = Rng::seed_from_u64(seed);
        let (mut storage, mut model) = open(&disk, Options { sync: false, ..SMALL });
        for turn in 0..40 {
            let turn = if turn == 0 { founding() } else { random_turn(&model, &mut rng, 1000) };
            storage.persist(&turn.batch()).unwrap();
            model.apply(&turn);
        }
        assert_eq!(disk.operations().1, 0, "no sync at all");
        disk.end_process(End::Kill);
        assert_eq!(open(&disk, SMALL).1, model);
        disk.end_process(End::PowerCut);
        assert_eq!(open(&disk, SMALL).1, model, "seed {seed}");
    }
}

#[test]
fn batch_that_contradicts_the_log_panics_and_writes_nothing() {
    let cases = [
        ("entry 4 does not follow", commands([(4, 2)])),
        ("entry 5 stands", commands([(3, 2), (5, 2)])),
        ("entry 4 has term 1", commands([(3, 2), (4, 1)])),
        ("entry 3 has term 3", commands([(3, 3)])),
        ("entry 1 is no configuration", commands([(1, 0)])),
        ("entry 0 does not follow", commands([(0, 0)])),
        ("the term falls from 2 to 1", vote(1, None)),
        ("the vote of term 2 changes", vote(2, Some(1))),
        ("the vote of term 2 changes", vote(2, None)),
    ];
    for (reason, turn) in cases {
        let disk = SimDisk::new(1);
        let (mut storage, _) = open(&disk, SMALL);
        for turn in [founding(), vote(1, None), commands([(2, 1)]), vote(2, Some(0))] {
            storage.persist(&turn.batch()).unwrap();
        }
        disk.set_fault(Fault::None);
        let persist = std::panic::AssertUnwindSafe(|| storage.persist(&turn.batch()));
        let panic = std::panic::catch_unwind(persist).expect_err(reason);
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains(reason), "{message}");
        assert_eq!(disk.operations(), (0, 0));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Turn(u64),
    Mark,
    Spare(u64),
    Restart(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u64>().prop_map(Step::Turn),
        2 => Just(Step::Mark),
        1 => (1_u64..20_000).prop_map(Step::Spare),
        1 => any::<bool>().prop_map(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn log_is_what_the_model_says_after_any_steps(
        steps in prop::collection::vec(step(), 1..60),
        seed in any::<u64>(),
    ) {
        let disk = SimDisk::new(seed);
        disk.set_short_counts(true);
        let (mut storage, mut model) = open(&disk, SMALL);
        storage.persist(&founding().batch()).unwrap();
        model.apply(&founding());
        for step in steps.into_iter().chain([Step::Restart(false), Step::Restart(true)]) {
            match step {
                Step::Turn(seed) => {
                    let turn = random_turn(&model, &mut Rng::seed_from_u64(seed), 3000);
                    storage.persist(&turn.batch()).unwrap();
                    model.apply(&turn);
                }
                Step::Mark => storage.mark_synced().unwrap(),
                Step::Spare(budget_bytes) => {
                    storage.prepare_spare(budget_bytes).unwrap();
                }
                Step::Restart(power_cut) => {
                    disk.end_process(if power_cut { End::PowerCut } else { End::Kill });
                    let (next, found) = open(&disk, SMALL);
                    storage = next;
                    prop_assert_eq!(&found, &model);
                }
            }
        }
    }
}
