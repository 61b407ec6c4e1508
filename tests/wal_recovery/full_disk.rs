//! A disk that is full where nothing builds on the file yet: that file goes, and the log goes on.

use kvstore::storage::{CopyError, SpareProgress, Storage, WriteError};
use kvstore::types::{Incarnation, Term};
use kvstore::wire::entry::SnapshotId;

use crate::disk::{End, Fault, SimDisk};
use crate::script::{NODE, SMALL, Turn, command, founding};
use crate::snapshots::{file_at, snapshot_of, state_at};

const INDEX: u64 = 40;

/// A log of 50 entries, and the last index.
fn filled() -> (SimDisk, u64) {
    let disk = SimDisk::new(1);
    let mut storage = open(&disk);
    storage.persist(&founding().batch()).unwrap();
    storage.persist(&turn(2..=50).batch()).unwrap();
    storage.mark_synced().unwrap();
    (disk, 50)
}

fn open(disk: &SimDisk) -> Storage<SimDisk> {
    Storage::open(disk.clone(), NODE, SMALL, Incarnation(9)).unwrap().0
}

fn turn(indexes: impl Iterator<Item = u64>) -> Turn {
    Turn { entries: indexes.map(|index| command(index, 0, 10)).collect(), ..Turn::default() }
}

/// A snapshot of the node's own, as far as there is room for it.
fn try_own(storage: &mut Storage<SimDisk>) -> Result<Option<SnapshotId>, WriteError> {
    if !storage.begin_snapshot(snapshot_of(INDEX, Term(0)))? {
        return Ok(None);
    }
    for slice in state_at(INDEX).chunks(1000) {
        if !storage.write_snapshot(slice)? {
            return Ok(None);
        }
    }
    storage.save_snapshot()
}

/// The same with another node's.
fn try_copy(storage: &mut Storage<SimDisk>, id: SnapshotId, file: &[u8]) -> Option<SnapshotId> {
    assert!(storage.begin_copy().unwrap());
    for piece in file.chunks(1500) {
        match storage.write_copy(piece).unwrap() {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error, CopyError::NoRoom);
                return None;
            }
        }
    }
    storage.install_copy(id, None).unwrap().unwrap();
    Some(id)
}

/// With room for any number of its bytes but all of them the snapshot is given up, and gives back what it took;
/// the log goes on, and the same snapshot is saved once there is room.
fn is_given_up_at_each_byte(mut save: impl FnMut(&mut Storage<SimDisk>) -> Option<SnapshotId>, bytes: u64) {
    let (full, last) = filled();
    for left in (0..bytes).step_by(71).chain([bytes - 1]) {
        let disk = full.fork(left);
        let mut storage = open(&disk);
        disk.leave_free(left);
        assert_eq!(save(&mut storage), None, "with room for {left} bytes");
        assert!(!disk.names().contains(&"snapshot.tmp".to_owned()), "{:?}", disk.names());
        storage.persist(&turn(last + 1..=last + 1).batch()).expect("the log has room in its segment");
        disk.leave_free(bytes);
        let id = save(&mut storage).expect("there is room now");
        disk.end_process(End::PowerCut);
        assert_eq!(open(&disk).snapshot_id(), Some(id));
    }
}

#[test]
fn snapshot_that_finds_the_disk_full_at_any_byte_is_given_up_and_the_log_goes_on() {
    let (_, file) = file_at(INDEX, Term(0));
    is_given_up_at_each_byte(|storage| try_own(storage).unwrap(), file.len() as u64);
}

#[test]
fn copy_that_finds_the_disk_full_at_any_byte_is_given_up_and_the_log_goes_on() {
    let (id, file) = file_at(60, Term(0));
    is_given_up_at_each_byte(|storage| try_copy(storage, id, &file), file.len() as u64);
}

#[test]
fn snapshot_whose_sync_finds_the_disk_full_is_given_up_and_a_log_whose_sync_does_ends_the_process() {
    let (disk, last) = filled();
    let mut storage = open(&disk);
    disk.set_fault(Fault::NextSyncFull);
    assert_eq!(try_own(&mut storage).unwrap(), None);
    assert!(!disk.names().contains(&"snapshot.tmp".to_owned()));
    storage.persist(&turn(last + 1..=last + 1).batch()).unwrap();
    disk.set_fault(Fault::NextSyncFull);
    let error = storage.persist(&turn(last + 2..=last + 2).batch()).unwrap_err();
    assert!(error.is_full && error.to_string().contains("free some space"), "{error}");
    assert_eq!(try_own(&mut storage), Err(error), "nothing is written after a failure");
}

#[test]
fn spare_that_finds_the_disk_full_is_removed_and_begun_anew_once_there_is_room() {
    let (disk, last) = filled();
    let mut storage = open(&disk);
    disk.leave_free(10_000);
    let steps: Vec<_> = (0..3).map(|_| storage.prepare_spare(4 << 10).unwrap()).collect();
    assert_eq!(steps, [SpareProgress::Unfinished, SpareProgress::Unfinished, SpareProgress::NoRoom]);
    assert!(!disk.names().contains(&"spare.tmp".to_owned()), "what it took may be what the log needs");
    storage.persist(&turn(last + 1..=last + 1).batch()).unwrap();
    disk.leave_free(SMALL.segment_bytes);
    assert_eq!(storage.prepare_spare(u64::MAX).unwrap(), SpareProgress::Ready);
    assert_eq!(disk.content("spare.wal").len() as u64, SMALL.segment_bytes);
}

#[test]
fn log_that_finds_no_room_for_its_next_segment_ends_the_process() {
    let (disk, last) = filled();
    let mut storage = open(&disk);
    disk.leave_free(1000);
    let large = Turn { entries: vec![command(last + 1, 0, 9000)], ..Turn::default() };
    let error = storage.persist(&large.batch()).unwrap_err();
    assert!(error.is_full, "{error}");
    assert_eq!(storage.prepare_spare(1), Err(error), "nothing is written after a failure");
}
