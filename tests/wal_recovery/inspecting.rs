//! What `inspect` says of a directory is what a start does, whatever was done to it; and it leaves
//! every byte as it was.

use kvstore::storage::{FileUse, Inspection, OpenError, Recovered, Storage, inspect};
use kvstore::types::{BootNumber, Incarnation};
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

use crate::disk::{End, Fault, SimDisk};
use crate::script::{NODE, Node, SMALL};

/// Inspects, and checks that this changed nothing.
pub(crate) fn inspected(disk: &SimDisk) -> Inspection {
    let content = || disk.names().into_iter().map(|name| (disk.content(&name), name)).collect::<Vec<_>>();
    let before = content();
    let inspection = inspect(&mut disk.clone(), SMALL);
    assert!(content() == before, "inspecting changes nothing");
    inspection
}

/// Checks that a start came to what the inspection before it says.
pub(crate) fn agree(inspection: &Inspection, opened: Result<&Recovered, &OpenError>) {
    match (&inspection.verdict, opened) {
        (Err(said), Err(done)) => assert_eq!(said.to_string(), done.to_string()),
        (Ok(_), Ok(recovered)) => match &inspection.recovered {
            None => assert_eq!(recovered.boot, BootNumber(1), "a new directory"),
            Some(said) => {
                let mut said = said.clone();
                said.boot = said.boot.next(0);
                assert_eq!(said, *recovered);
            }
        },
        (said, done) => panic!("inspect says {said:?}, a start comes to {done:?}"),
    }
}

#[test]
fn inspect_of_any_damage_says_what_a_start_does() {
    let (mut starts, mut refusals) = (0, 0);
    for seed in 0..400 {
        let mut rng = Rng::seed_from_u64(seed);
        let mut node = Node::new(seed, rng.random_range(1..60), 900);
        // A life that ends somewhere, by a crash, and a directory that is damaged afterwards.
        node.disk.set_fault(Fault::Crash(rng.random_range(1..200)));
        _ = node.live();
        node.disk.end_process(if rng.random_bool(0.5) { End::Kill } else { End::PowerCut });
        for _ in 0..rng.random_range(0..3) {
            damage(&node.disk, &mut rng);
        }
        let inspection = inspected(&node.disk);
        let opened = Storage::open(node.disk.clone(), NODE, SMALL, Incarnation(9));
        agree(&inspection, opened.as_ref().map(|(_, recovered)| recovered));
        *(if opened.is_ok() { &mut starts } else { &mut refusals }) += 1;
    }
    assert!(starts > 50 && refusals > 50, "{starts} starts, {refusals} refusals");
}

/// Flips a bit, cuts a file short, or takes one away.
fn damage(disk: &SimDisk, rng: &mut Rng) {
    let names = disk.names();
    if names.is_empty() {
        return;
    }
    let name = &names[rng.random_range(0..names.len())];
    let mut content = disk.content(name);
    match rng.random_range(0..10) {
        0 => return disk.take_away(name),
        1 => content.truncate(rng.random_range(0..=content.len())),
        _ if content.is_empty() => return,
        _ => {
            let at = rng.random_range(0..content.len());
            content[at] ^= 1 << rng.random_range(0..8);
        }
    }
    disk.put(name, content);
}

#[test]
fn inspect_of_a_torn_tail_names_its_place_and_size() {
    let mut node = Node::new(1, 5, 300);
    node.live().unwrap();
    let last = inspected(&node.disk).segments.pop().unwrap().unwrap();
    assert_eq!(inspected(&node.disk).verdict.unwrap().torn, None);
    let mut content = node.disk.content(&last.name);
    let at = last.used_bytes as usize;
    assert!(!at.is_multiple_of(4096), "the page of the last record has room behind it");
    content[at..at + 3].copy_from_slice(&[7, 0, 9]);
    node.disk.put(&last.name, content);
    let torn = inspected(&node.disk).verdict.unwrap().torn.unwrap();
    assert_eq!((torn.offset, torn.bytes), (last.used_bytes, 3));
    assert!(torn.path.ends_with(&last.name));
}

#[test]
fn inspect_behind_a_damaged_segment_still_describes_the_others() {
    let mut node = Node::new(1, 60, 450);
    node.live().unwrap();
    let whole = inspected(&node.disk);
    assert!(whole.segments.len() >= 3);
    let mut content = node.disk.content("0000000001.wal");
    content[0] ^= 1;
    node.disk.put("0000000001.wal", content);
    let inspection = inspected(&node.disk);
    assert!(matches!(inspection.verdict, Err(OpenError::Damaged { .. })));
    assert!(inspection.segments[0].is_err());
    let others = |inspection: &Inspection| -> Vec<_> {
        inspection.segments[1..].iter().map(|segment| segment.as_ref().unwrap().clone()).collect()
    };
    assert_eq!(others(&inspection), others(&whole));
}

#[test]
fn inspect_of_leftovers_says_what_a_start_removes() {
    let mut node = Node::new(1, 5, 300);
    node.live().unwrap();
    for name in ["spare.tmp", "snapshot.tmp", "large.tmp", "0000000009.snap", "notes.txt", "notes.tmp"] {
        node.disk.put(name, vec![1; 10]);
    }
    let removed: Vec<String> = inspected(&node.disk)
        .files
        .into_iter()
        .filter(|file| file.used_as == FileUse::Removed)
        .map(|file| file.name)
        .collect();
    let before = node.disk.names();
    node.start().unwrap();
    let gone: Vec<String> = before.into_iter().filter(|name| !node.disk.names().contains(name)).collect();
    assert_eq!(removed, gone);
    assert_eq!(gone, ["0000000009.snap", "large.tmp", "snapshot.tmp", "spare.tmp"], "and nobody else's");
}

/// Every segment is gone, and what a log alone leaves is still there: that is no new directory.
#[test]
fn log_that_is_missing_beside_its_snapshot_or_its_spares_is_refused_and_nothing_is_removed() {
    for (name, cure) in [("0000000009.snap", "`kvstore restore`"), ("spare-0000000001.wal", "Damage")] {
        let disk = SimDisk::new(1);
        disk.put(name, vec![1; 10]);
        disk.put("spare.wal", vec![0; 16 << 10]);
        let inspection = inspected(&disk);
        assert!(inspection.files.iter().all(|file| file.used_as != FileUse::Removed), "{inspection:?}");
        let opened = Storage::open(disk.clone(), NODE, SMALL, Incarnation(9));
        agree(&inspection, opened.as_ref().map(|(_, recovered)| recovered));
        let refusal = opened.unwrap_err().to_string();
        assert!(
            refusal.contains(name) && refusal.contains("is missing") && refusal.contains(cure),
            "{refusal}"
        );
        assert_eq!(disk.names().len(), 2);
    }
    let disk = SimDisk::new(1);
    disk.put("spare.wal", vec![0; 16 << 10]);
    Storage::open(disk, NODE, SMALL, Incarnation(9)).expect("a first boot that was interrupted leaves that");
}
