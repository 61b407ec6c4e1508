//! Real files in a real directory.

use std::path::Path;

use kvstore::storage::{Disk, FileDisk, OpenError, Options, Storage};
use kvstore::types::{BootNumber, Incarnation, NodeId};

use crate::script::{Model, NODE, SMALL, script};

fn open(path: &Path) -> Result<(Storage<FileDisk>, kvstore::storage::Recovered), OpenError> {
    Storage::open(FileDisk::open(path)?, NODE, SMALL, Incarnation(5))
}

#[test]
fn directory_is_created_and_found_again() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("data").join("node-2");
    let (turns, models) = script(1, 40, 1000);
    for (start, turns) in (1..).zip(turns.chunks(15)) {
        let (mut storage, recovered) = open(&path).unwrap();
        assert_eq!(Model::of(&recovered), models[(start - 1) * 15]);
        assert_eq!(recovered.boot, BootNumber(start as u64));
        for turn in turns {
            storage.persist(&turn.batch()).unwrap();
            storage.mark_synced().unwrap();
            storage.prepare_spare(4 << 10).unwrap();
        }
    }
    let (_, recovered) = open(&path).unwrap();
    assert_eq!(Model::of(&recovered), models[40]);
    assert!(path.join("0000000003.wal").exists());
}

#[test]
fn segment_of_the_default_size_is_preallocated_at_the_first_boot() {
    let directory = tempfile::tempdir().unwrap();
    let disk = FileDisk::open(directory.path()).unwrap();
    Storage::open(disk, NODE, Options::default(), Incarnation(5)).unwrap();
    let segment = std::fs::metadata(directory.path().join("0000000001.wal")).unwrap();
    assert_eq!(segment.len(), 16 << 20);
}

#[test]
fn directory_in_use_is_refused_with_the_process_that_uses_it() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open(directory.path()).unwrap();
    let error = open(directory.path()).unwrap_err();
    let pid = std::process::id();
    assert!(matches!(error, OpenError::Locked { pid: Some(found), .. } if found == pid), "{error}");
    assert!(error.to_string().contains(&format!("in use by process {pid}")), "{error}");
    drop(storage);
    open(directory.path()).expect("the lock ends with its owner");
}

#[test]
fn path_that_is_a_file_is_refused_with_its_name_and_the_cure() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"not ours").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = open(&path).unwrap_err();
        assert!(matches!(error, OpenError::Directory { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(message.contains("move the file that is in the way"), "{message}");
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"not ours");
}

#[test]
fn directory_of_another_node_is_refused_with_both_ids() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).unwrap();
    let disk = FileDisk::open(directory.path()).unwrap();
    let error = Storage::open(disk, NodeId(3), SMALL, Incarnation(5)).unwrap_err().to_string();
    assert!(error.contains("belongs to node 2, not to node 3"), "{error}");
}

#[test]
fn file_disk_does_what_its_trait_says() {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = FileDisk::open(directory.path()).unwrap();
    let file = disk.create("a").unwrap();
    assert!(disk.create("a").is_err(), "a name is created once");
    assert_eq!(disk.write_at(&file, 3, b"abc").unwrap(), 3);
    disk.sync(&file).unwrap();
    disk.rename("a", "b").unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(disk.size(&file).unwrap(), 6, "an open file stays the same when it is renamed");

    let file = disk.open("b").unwrap();
    let mut into = [1; 8];
    assert_eq!(disk.read_at(&file, 0, &mut into).unwrap(), 6);
    assert_eq!(&into[..6], b"\0\0\0abc");
    assert_eq!(disk.read_at(&file, 6, &mut into).unwrap(), 0);

    let mut names = disk.list().unwrap();
    names.sort();
    assert_eq!(names, ["b", "lock"]);
    disk.remove("b").unwrap();
    assert!(disk.open("b").is_err());
    assert!(disk.free_space().unwrap() > 0);
    assert_eq!(disk.path_of("b"), directory.path().join("b").display().to_string());
}

#[test]
fn directory_whose_lock_file_was_removed_is_still_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path()).unwrap();
    std::fs::remove_file(directory.path().join("lock")).unwrap();
    assert!(matches!(open(directory.path()), Err(OpenError::Locked { .. })));
    assert!(matches!(FileDisk::read_only(directory.path()), Err(OpenError::Locked { .. })));
    drop(first);
    assert!(!directory.path().join("lock").exists());
    let reader = FileDisk::read_only(directory.path()).unwrap();
    assert!(matches!(open(directory.path()), Err(OpenError::Locked { .. })), "it is being read");
    drop(reader);
    open(directory.path()).unwrap();
}

#[test]
fn directories_with_names_of_ours_are_refused_and_all_directories_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.tmp");
    std::fs::create_dir(&other).unwrap();
    drop(open(directory.path()).unwrap());
    for name in ["0000000005.snap", "spare-0000000001.wal", "0000000007.wal", "restored-2.snap", "spare.wal"]
    {
        let path = directory.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let refused = open(directory.path()).unwrap_err().to_string();
        assert!(refused.contains(&path.display().to_string()), "{name}: {refused}");
        std::fs::remove_dir(path).expect("it is still there");
    }
    let (_, recovered) = open(directory.path()).unwrap();
    assert_eq!(recovered.boot, BootNumber(2), "who is refused raises no boot");
    assert!(other.is_dir());
}
