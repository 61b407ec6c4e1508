//! Backups as files, directories that are made of them, and the founding of a cluster with one: with
//! a crash or a failure at each operation, and with damage.

use kvstore::storage::{
    BackupError, BackupWriter, FileDisk, OpenError, Recovered, Storage, read_backup, restore,
};
use kvstore::types::{ClusterId, Incarnation, NodeId, Term};
use kvstore::wire::entry::{Configuration, HardState, Member, Snapshot, SnapshotId};

use crate::disk::{End, Fault, SimDisk};
use crate::inspecting::{agree, inspected};
use crate::script::{NODE, SMALL, Turn};
use crate::snapshots::{save, state_at};

const INDEX: u64 = 40;
const FAULTS: [fn(u64) -> Fault; 3] = [Fault::Crash, Fault::Once, Fault::From];
const RESTORED: &str = "restored-2.snap";

/// A backup: its id and its bytes.
fn backup() -> (SnapshotId, Vec<u8>) {
    let disk = SimDisk::new(1);
    let (mut storage, _) = Storage::open(disk.clone(), NODE, SMALL, Incarnation(5)).unwrap();
    let founding = crate::script::founding();
    storage.persist(&founding.batch()).unwrap();
    let entries = (2..=INDEX).map(|index| crate::script::command(index, 3, 10)).collect();
    let hard_state = Some(HardState { term: Term(3), voted_for: None });
    storage.persist(&Turn { hard_state, entries, ..Turn::default() }.batch()).unwrap();
    let id = save(&mut storage, INDEX, Term(3)).unwrap();
    let name = disk.names().into_iter().find(|name| name.ends_with(".snap")).unwrap();
    (id, disk.content(&name))
}

fn write<D: kvstore::storage::Disk>(
    mut writer: BackupWriter<D>,
    bytes: &[u8],
) -> Result<Snapshot, BackupError> {
    for piece in bytes.chunks(1500) {
        writer.write(piece)?;
    }
    writer.finish()
}

/// Does something with a fault at each operation in turn, until one run has met none. Gives how many
/// operations there were.
fn at_each_operation(mut run: impl FnMut(Fault, End, u64) -> bool) -> u64 {
    let mut operations = 0;
    for fault in FAULTS {
        for end in [End::Kill, End::PowerCut] {
            for number in 0.. {
                if run(fault(number), end, number) {
                    operations = number;
                    break;
                }
            }
        }
    }
    operations
}

#[test]
fn crash_at_each_operation_of_a_backup_leaves_the_old_file_or_the_new_one() {
    let (id, bytes) = backup();
    let operations = at_each_operation(|fault, end, number| {
        let disk = SimDisk::new(number);
        disk.put("b", b"the one before".to_vec());
        disk.put("b.part", b"of an attempt that died".to_vec());
        let make = |disk: SimDisk| write(BackupWriter::begin(disk, "b", id, true)?, &bytes);
        disk.set_fault(fault);
        let before = disk.operations();
        let made = make(disk.clone());
        let is_through = disk.operations().0 - before.0 <= number;
        disk.end_process(end);
        let content = disk.content("b");
        assert!(content == bytes || (made.is_err() && content == b"the one before"), "{fault:?} {end:?}");
        make(disk.clone()).expect("the next attempt needs no hand");
        assert_eq!(disk.content("b"), bytes);
        is_through
    });
    assert!(operations > 8, "{operations} operations");
}

#[test]
fn backup_is_refused_for_any_damage_and_an_unknown_version_by_name() {
    let (id, bytes) = backup();
    let read = |bytes: Vec<u8>| {
        let mut disk = SimDisk::new(1);
        disk.put("b", bytes);
        read_backup::<_, BackupError>(&mut disk, "b", |_, _| Ok(()))
    };
    assert_eq!(read(bytes.clone()).unwrap().1, id);
    for at in (0..bytes.len()).filter(|at| *at < 64 || *at > 4080 && *at < 4120 || at % 97 == 0) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(matches!(read(damaged), Err(BackupError::Content { .. })), "byte {at}");
    }
    for end in (0..bytes.len()).step_by(131) {
        assert!(matches!(read(bytes[..end].to_vec()), Err(BackupError::Content { .. })), "cut at {end}");
    }
    let mut unknown = bytes;
    unknown[8] = 77;
    let checksum = crc32c::crc32c(&unknown[..4092]);
    unknown[4092..4096].copy_from_slice(&checksum.to_le_bytes());
    let error = read(unknown).unwrap_err().to_string();
    assert!(error.contains("version 77"), "{error}");
}

#[test]
fn snapshot_of_an_unknown_version_is_refused_by_name_and_left_alone() {
    let (_, bytes) = backup();
    let mut unknown = bytes;
    unknown[8] = 77;
    let checksum = crc32c::crc32c(&unknown[..4092]);
    unknown[4092..4096].copy_from_slice(&checksum.to_le_bytes());
    // The snapshot that a log names, and the one of which a directory was made.
    let disk = SimDisk::new(1);
    let (mut storage, _) = Storage::open(disk.clone(), NODE, SMALL, Incarnation(5)).unwrap();
    storage.persist(&crate::script::founding().batch()).unwrap();
    save(&mut storage, 1, Term(0)).unwrap();
    drop(storage);
    let restored = SimDisk::new(2);
    for (disk, name) in [(disk, "0000000001.snap"), (restored, RESTORED)] {
        disk.put(name, unknown.clone());
        let names = disk.names();
        let error = open(&disk).map(drop).unwrap_err();
        assert!(matches!(error, OpenError::UnknownVersion { version: 77, .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(disk.names(), names);
    }
}

/// On a real file system, where both are there at a time.
#[test]
fn backups_into_one_name_at_a_time_never_mix_and_replace_nothing_unasked() {
    let (id, bytes) = backup();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("b");
    let begin = |may_replace| {
        let (disk, name) = FileDisk::of_file(&path).unwrap();
        BackupWriter::begin(disk, &name, id, may_replace)
    };
    let names = || std::fs::read_dir(directory.path()).unwrap().count();
    // What died, longer than what comes.
    std::fs::write(directory.path().join("b.part"), vec![7; 2 * bytes.len()]).unwrap();

    let first = begin(false).unwrap();
    let second = begin(true).unwrap_err();
    assert!(matches!(second, BackupError::InUse { .. }) && second.to_string().contains("b.part"), "{second}");
    write(first, &bytes).unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes && names() == 1);

    let late = begin(false).unwrap();
    assert!(matches!(write(late, &bytes), Err(BackupError::Exists { .. })), "the name was taken meanwhile");
    std::fs::write(&path, "another's").unwrap();
    assert!(matches!(write(begin(false).unwrap(), &bytes), Err(BackupError::Exists { .. })));
    assert!(std::fs::read(&path).unwrap() == b"another's" && names() == 1, "nothing is left, nothing lost");
    write(begin(true).unwrap(), &bytes).unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes && names() == 1);
}

#[test]
fn backup_of_another_snapshot_than_announced_never_gets_its_name() {
    let (id, bytes) = backup();
    let disk = SimDisk::new(1);
    let other = SnapshotId { checksum: id.checksum ^ 1, ..id };
    let writer = BackupWriter::begin(disk.clone(), "b", other, false).unwrap();
    assert!(matches!(write(writer, &bytes), Err(BackupError::Content { .. })));
    let writer = BackupWriter::begin(disk.clone(), "b", id, false).unwrap();
    assert!(matches!(write(writer, &bytes[..bytes.len() - 8]), Err(BackupError::Content { .. })));
    assert!(!disk.names().contains(&"b".to_owned()));
}

/// Opens, and checks that an inspection said so before.
fn open(disk: &SimDisk) -> Result<(Storage<SimDisk>, Recovered), OpenError> {
    let inspection = inspected(disk);
    let opened = Storage::open(disk.clone(), NODE, SMALL, Incarnation(9));
    if inspection.restored.is_none() {
        agree(&inspection, opened.as_ref().map(|(_, recovered)| recovered));
    } else {
        assert!(inspection.verdict.is_ok() == opened.is_ok());
    }
    opened
}

/// Whether a directory is restored, whole; false if nothing but an unfinished restore is there, or
/// nothing at all.
fn is_restored(disk: &SimDisk) -> bool {
    let was_empty = disk.names().is_empty();
    match open(disk) {
        Ok((_, recovered)) => {
            assert_eq!(recovered.restored.is_none(), was_empty, "a start may not overlook a restore");
            recovered.restored.is_some_and(|restored| restored.state.concat() == state_at(INDEX))
        }
        Err(OpenError::UnfinishedRestore { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn crash_at_each_operation_of_a_restore_leaves_nothing_to_start_from_by_mistake() {
    let (id, bytes) = backup();
    let (mut finished, mut unfinished) = (0, 0);
    at_each_operation(|fault, end, number| {
        let disk = SimDisk::new(number);
        let make = |disk: SimDisk| write(restore(disk, NODE, id)?, &bytes);
        disk.set_fault(fault);
        let before = disk.operations();
        let made = make(disk.clone());
        let is_through = disk.operations().0 - before.0 <= number;
        disk.end_process(end);
        let restored = is_restored(&disk.fork(number));
        assert!(restored || made.is_err(), "{fault:?} {end:?}: what is done stays");
        *(if restored { &mut finished } else { &mut unfinished }) += 1;
        match make(disk.clone()) {
            Ok(_) => assert!(!restored && is_restored(&disk)),
            Err(BackupError::NotEmpty { .. }) => assert!(restored, "an unfinished one is done again"),
            Err(error) => panic!("{error}"),
        }
        is_through
    });
    assert!(finished > 3 && unfinished > 20, "{finished} finished, {unfinished} unfinished");
}

#[test]
fn restore_over_anything_is_refused_and_changes_nothing() {
    let (id, _) = backup();
    for name in ["0000000001.wal", "notes.txt", "restored-2.snap", "spare.tmp"] {
        let disk = SimDisk::new(1);
        disk.put(name, vec![1]);
        assert!(matches!(restore(disk.clone(), NODE, id), Err(BackupError::NotEmpty { .. })), "{name}");
        assert_eq!(disk.names(), [name]);
    }
    let disk = SimDisk::new(1);
    disk.put("lost+found", Vec::new());
    restore(disk, NODE, id).expect("a new file system is empty");
}

#[test]
fn directory_restored_for_another_node_or_damaged_since_is_refused() {
    let (id, bytes) = backup();
    let disk = SimDisk::new(1);
    write(restore(disk.clone(), NodeId(3), id).unwrap(), &bytes).unwrap();
    let refused = Storage::open(disk.fork(1), NODE, SMALL, Incarnation(9)).unwrap_err();
    assert!(matches!(refused, OpenError::OtherNode { found: NodeId(3), asked: NODE, .. }), "{refused}");
    assert_eq!(disk.names(), ["restored-3.snap"]);

    let disk = SimDisk::new(1);
    write(restore(disk.clone(), NODE, id).unwrap(), &bytes).unwrap();
    for at in (0..bytes.len()).step_by(53) {
        let disk = disk.fork(1);
        let mut content = bytes.clone();
        content[at] ^= 2;
        disk.put(RESTORED, content);
        assert!(matches!(open(&disk), Err(OpenError::Damaged { .. })), "byte {at}");
        assert_eq!(disk.names(), [RESTORED]);
    }
}

/// The first boot of a restored node, and its founding.
fn found(disk: &SimDisk, cluster: u128) -> Result<(), ()> {
    let (mut storage, recovered) = Storage::open(disk.clone(), NODE, SMALL, Incarnation(9)).map_err(drop)?;
    let Some(restored) = recovered.restored else { return Ok(()) };
    let members = vec![Member { id: NODE, incarnation: recovered.incarnation }];
    let configuration = Configuration::new(ClusterId(cluster), members).unwrap();
    let snapshot = Snapshot { configuration, ..restored.snapshot };
    let is_raised = recovered.hard_state.term < snapshot.term;
    let raised = is_raised.then_some(HardState { term: snapshot.term, voted_for: None });
    let mut found = || {
        storage.begin_snapshot(snapshot.clone())?;
        for slice in &restored.state {
            storage.write_snapshot(slice)?;
        }
        storage.save_founding_snapshot(raised)
    };
    found().map(drop).map_err(drop)
}

#[test]
fn crash_at_each_operation_of_a_founding_leaves_all_of_it_or_none() {
    let (id, bytes) = backup();
    let (mut founded, mut waiting) = (0, 0);
    at_each_operation(|fault, end, number| {
        let disk = SimDisk::new(number);
        write(restore(disk.clone(), NODE, id).unwrap(), &bytes).unwrap();
        disk.set_fault(fault);
        let before = disk.operations();
        let done = found(&disk, 1);
        let is_through = disk.operations().0 - before.0 <= number;
        disk.end_process(end);
        let (_, recovered) = Storage::open(disk.clone(), NODE, SMALL, Incarnation(10)).unwrap();
        match (&recovered.snapshot, &recovered.restored) {
            (Some(snapshot), None) => {
                founded += 1;
                assert_eq!(snapshot.snapshot.configuration.cluster, ClusterId(1));
                assert_eq!(snapshot.state.concat(), state_at(INDEX));
                assert!(!disk.names().contains(&RESTORED.to_owned()), "the backup has served");
            }
            (None, Some(restored)) => {
                waiting += 1;
                assert!(done.is_err(), "what is done stays");
                assert_eq!(restored.state.concat(), state_at(INDEX));
            }
            (snapshot, restored) => panic!("{snapshot:?} {restored:?}"),
        }
        drop(recovered);
        found(&disk, 2).expect("the next start needs no hand");
        let (_, recovered) = open(&disk).unwrap();
        let cluster = recovered.snapshot.unwrap().snapshot.configuration.cluster;
        assert!(cluster == ClusterId(1) || cluster == ClusterId(2));
        is_through
    });
    assert!(founded > 3 && waiting > 20, "{founded} founded, {waiting} waiting");
}

#[test]
fn power_cut_during_the_start_after_a_founding_that_was_killed_keeps_what_was_restored() {
    let (id, bytes) = backup();
    let mut starts = 0;
    for killed_at in 0.. {
        let disk = SimDisk::new(killed_at);
        write(restore(disk.clone(), NODE, id).unwrap(), &bytes).unwrap();
        disk.set_fault(Fault::Crash(killed_at));
        let is_through = found(&disk, 1).is_ok();
        disk.end_process(End::Kill);
        for cut_at in 0.. {
            let disk = disk.fork(killed_at * 1000 + cut_at);
            disk.set_fault(Fault::Crash(cut_at));
            let is_open = Storage::open(disk.clone(), NODE, SMALL, Incarnation(10)).is_ok();
            disk.end_process(End::PowerCut);
            let (_, recovered) = Storage::open(disk, NODE, SMALL, Incarnation(11)).unwrap();
            let kept = recovered.snapshot.or(recovered.restored);
            assert!(kept.is_some_and(|kept| kept.state.concat() == state_at(INDEX)), "{killed_at} {cut_at}");
            starts += 1;
            if is_open {
                break;
            }
        }
        if is_through {
            break;
        }
    }
    assert!(starts > 100, "{starts} starts");
}

#[cfg(any(debug_assertions, feature = "planted-bugs"))]
#[test]
fn backup_that_is_removed_early_is_noticed() {
    let test = power_cut_during_the_start_after_a_founding_that_was_killed_keeps_what_was_restored;
    assert!(kvstore::planted::is_caught(kvstore::planted::Bug::SnapshotRemovedEarly, test));
}

#[test]
fn restore_that_lost_power_is_not_taken_for_an_empty_directory() {
    let (id, bytes) = backup();
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let mut writer = restore(disk.clone(), NODE, id).unwrap();
        writer.write(&bytes[..1500]).unwrap();
        drop(writer);
        disk.end_process(End::PowerCut);
        assert!(matches!(open(&disk), Err(OpenError::UnfinishedRestore { .. })), "seed {seed}");
    }
}
