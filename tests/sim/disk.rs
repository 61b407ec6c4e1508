//! A disk in memory that does, on demand and by seed, what real disks do wrong.
//!
//! A file has a durable image, a list of writes that are not synced, and what the kernel shows of
//! it (the cache). A sync moves the writes into the image. When the power goes, each write that is
//! not synced is, by the seed, kept, lost, cut at a byte or a sector, or kept in some of its
//! sectors, whatever becomes of the others; what it would have added to the file may be zeroes
//! instead. Names change alike until the directory is synced. A kill leaves all as the kernel shows
//! it. After a sync that failed its writes are no longer waiting for any other, and reads show
//! either version.

#[path = "disk/inode.rs"]
mod inode;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use kvstore::storage::Disk;
use rand::rngs::Xoshiro256PlusPlus as Rng;
use rand::{RngExt, SeedableRng};

use inode::Inode;

/// When operations fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Never.
    None,
    /// The n-th operation fails, counted from 0, and the ones after it do not.
    Once(u64),
    /// The n-th operation and all after it fail.
    From(u64),
    /// The next sync of a file fails, and nothing after it.
    NextSync,
    /// The same, as it finds the disk full: room was promised at the write, and given to others.
    NextSyncFull,
    /// At the n-th operation the process dies: it and all after it fail, and whether it was still
    /// carried out is open.
    Crash(u64),
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The machine goes on, and what it holds in memory reaches the disk one day.
    Kill,
    /// The machine goes off.
    PowerCut,
}

/// A handle to a disk; clones are handles to the same one.
#[derive(Clone, Debug)]
pub(crate) struct SimDisk {
    machine: Rc<RefCell<Machine>>,
}

/// An open file, until the process that opened it has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SimFile {
    inode: usize,
    process: u64,
}

#[derive(Clone, Debug)]
struct Machine {
    rng: Rng,
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<NameChange>,
    process: u64,
    operations: u64,
    syncs: u64,
    /// Those of them that made something of the log durable.
    log_syncs: u64,
    fault: Fault,
    short_counts: bool,
    capacity_bytes: u64,
}

#[derive(Clone, Debug)]
enum NameChange {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

impl SimDisk {
    /// An empty disk without faults.
    pub(crate) fn new(seed: u64) -> Self {
        let machine = Machine {
            rng: Rng::seed_from_u64(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            process: 0,
            operations: 0,
            syncs: 0,
            log_syncs: 0,
            fault: Fault::None,
            short_counts: false,
            capacity_bytes: u64::MAX,
        };
        Self { machine: Rc::new(RefCell::new(machine)) }
    }

    /// Another disk with the same content, which goes its own way from here on, and has room. What no
    /// name leads to is not on it.
    pub(crate) fn fork(&self, seed: u64) -> Self {
        let machine = self.machine.borrow();
        let named = machine.named();
        let kept = |(number, inode): (usize, &Inode)| match named.contains(&number) {
            true => inode.clone(),
            false => Inode::default(),
        };
        let fork = Machine {
            rng: Rng::seed_from_u64(seed),
            inodes: machine.inodes.iter().enumerate().map(kept).collect(),
            names: machine.names.clone(),
            durable_names: machine.durable_names.clone(),
            pending_names: machine.pending_names.clone(),
            capacity_bytes: u64::MAX,
            ..*machine
        };
        Self { machine: Rc::new(RefCell::new(fork)) }
    }

    /// Counts operations from 0 again, with this fault ahead.
    pub(crate) fn set_fault(&self, fault: Fault) {
        let mut machine = self.machine.borrow_mut();
        (machine.fault, machine.operations, machine.syncs, machine.log_syncs) = (fault, 0, 0, 0);
    }

    /// Whether reads and writes may do less than they were asked to, or be interrupted.
    pub(crate) fn set_short_counts(&self, short_counts: bool) {
        self.machine.borrow_mut().short_counts = short_counts;
    }

    /// How much all files together may hold.
    pub(crate) fn set_capacity(&self, capacity_bytes: u64) {
        self.machine.borrow_mut().capacity_bytes = capacity_bytes;
    }

    /// Leaves room for so much more than there is.
    pub(crate) fn leave_free(&self, bytes: u64) {
        let mut machine = self.machine.borrow_mut();
        machine.capacity_bytes = machine.used_bytes() + bytes;
    }

    /// How many operations and how many syncs of files there were since the last `set_fault`.
    pub(crate) fn operations(&self) -> (u64, u64) {
        let machine = self.machine.borrow();
        (machine.operations, machine.syncs)
    }

    /// Ends the process that uses the disk, and all faults: what it holds open fails from now on.
    pub(crate) fn end_process(&self, end: End) {
        let mut machine = self.machine.borrow_mut();
        machine.process += 1;
        machine.fault = Fault::None;
        let named = machine.named();
        let nameless = machine.inodes.iter_mut().enumerate().filter(|(inode, _)| !named.contains(inode));
        nameless.for_each(|(_, inode)| *inode = Inode::default());
        if end == End::PowerCut {
            machine.cut_power();
        }
    }

    /// How many syncs of the log's segments there were since the last `set_fault`: not of a snapshot,
    /// nor of a segment that is only being prepared.
    pub(crate) fn log_syncs(&self) -> u64 {
        self.machine.borrow().log_syncs
    }

    /// Whether a snapshot is being written, or received.
    pub(crate) fn has_unfinished_snapshot(&self) -> bool {
        self.machine.borrow().names.contains_key("snapshot.tmp")
    }

    /// All names, as the kernel shows them.
    pub(crate) fn names(&self) -> Vec<String> {
        self.machine.borrow().names.keys().cloned().collect()
    }

    /// What the kernel shows of a file.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let machine = self.machine.borrow();
        machine.inodes[machine.names[name]].cache.clone()
    }

    /// Puts a file in place, durable, whatever was there: for damage of every kind.
    pub(crate) fn put(&self, name: &str, content: Vec<u8>) {
        let mut machine = self.machine.borrow_mut();
        let inode = machine.inodes.len();
        machine.inodes.push(Inode { durable: content.clone(), cache: content, pending: Vec::new() });
        machine.names.insert(name.to_owned(), inode);
        machine.durable_names.insert(name.to_owned(), inode);
    }

    /// Takes a file away, durably.
    pub(crate) fn take_away(&self, name: &str) {
        let mut machine = self.machine.borrow_mut();
        machine.names.remove(name);
        machine.durable_names.remove(name);
    }
}

impl Machine {
    /// Counts an operation. Gives whether it is to be carried out, and whether it succeeds.
    fn begin(&mut self) -> (bool, io::Result<()>) {
        let operation = self.operations;
        self.operations += 1;
        let broken = || Err(io::Error::other("input/output error"));
        match self.fault {
            Fault::Once(n) if operation == n => (self.rng.random_bool(0.5), broken()),
            Fault::From(n) if operation >= n => (self.rng.random_bool(0.5), broken()),
            Fault::Crash(n) if operation == n => (self.rng.random_bool(0.5), broken()),
            Fault::Crash(n) if operation > n => (false, broken()),
            _ => (true, Ok(())),
        }
    }

    fn inode(&mut self, file: &SimFile) -> io::Result<&mut Inode> {
        if file.process != self.process {
            return Err(io::Error::other("the process that opened this file has ended"));
        }
        Ok(&mut self.inodes[file.inode])
    }

    /// How much of a read or write of `count` bytes is done.
    fn count(&mut self, count: usize) -> io::Result<usize> {
        if !self.short_counts || count == 0 || self.rng.random_bool(0.5) {
            return Ok(count);
        }
        if self.rng.random_bool(0.2) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(self.rng.random_range(1..=count))
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].cache.len() as u64).sum()
    }

    fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes())
    }

    fn change_name(&mut self, change: NameChange) {
        apply(&change, &mut self.names);
        self.pending_names.push(change);
    }

    /// Whether an inode has no name but one under which no log is: it is only being prepared.
    fn is_unfinished(&self, inode: usize) -> bool {
        let name = self.names.iter().find(|(_, named)| **named == inode).map(|(name, _)| name.as_str());
        matches!(name, Some("snapshot.tmp" | "spare.tmp"))
    }

    /// The files to which some name leads, or may lead after a power cut. To the others none ever will.
    fn named(&self) -> BTreeSet<usize> {
        let pending = self.pending_names.iter().filter_map(|change| match change {
            NameChange::Create(_, inode) | NameChange::Rename(_, _, inode) => Some(inode),
            NameChange::Remove(_) => None,
        });
        self.names.values().chain(self.durable_names.values()).chain(pending).copied().collect()
    }

    fn cut_power(&mut self) {
        for inode in &mut self.inodes {
            inode.lose_power(&mut self.rng);
        }
        for change in std::mem::take(&mut self.pending_names) {
            if self.rng.random_bool(0.5) {
                apply(&change, &mut self.durable_names);
            }
        }
        self.names = self.durable_names.clone();
    }
}

fn apply(change: &NameChange, names: &mut BTreeMap<String, usize>) {
    match change {
        NameChange::Create(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameChange::Rename(from, to, inode) => {
            if names.get(from) == Some(inode) {
                names.remove(from);
            }
            names.insert(to.clone(), *inode);
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&mut self) -> io::Result<Vec<String>> {
        self.machine.borrow_mut().begin().1?;
        Ok(self.names())
    }

    fn create(&mut self, name: &str) -> io::Result<SimFile> {
        let machine = &mut *self.machine.borrow_mut();
        let (done, result) = machine.begin();
        if machine.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = machine.inodes.len();
        if done {
            machine.inodes.push(Inode::default());
            machine.change_name(NameChange::Create(name.to_owned(), inode));
        }
        result.map(|()| SimFile { inode, process: machine.process })
    }

    fn open(&mut self, name: &str) -> io::Result<SimFile> {
        let machine = &mut *self.machine.borrow_mut();
        machine.begin().1?;
        let inode = *machine.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(SimFile { inode, process: machine.process })
    }

    fn size(&mut self, file: &SimFile) -> io::Result<u64> {
        let machine = &mut *self.machine.borrow_mut();
        machine.begin().1?;
        Ok(machine.inode(file)?.cache.len() as u64)
    }

    fn read_at(&mut self, file: &SimFile, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let machine = &mut *self.machine.borrow_mut();
        machine.begin().1?;
        let count = machine.count(into.len())?;
        let content = &machine.inode(file)?.cache;
        let there = content.get(offset as usize..).unwrap_or_default();
        let count = count.min(there.len());
        into[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }

    fn write_at(&mut self, file: &SimFile, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let machine = &mut *self.machine.borrow_mut();
        let (done, result) = machine.begin();
        let mut count = machine.count(bytes.len())?;
        let free = machine.free_bytes();
        let room = machine.inode(file)?.cache.len() as u64 + free;
        count = count.min(room.saturating_sub(offset) as usize);
        if count == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if done {
            let part = if result.is_ok() { count } else { machine.rng.random_range(0..=count) };
            machine.inode(file)?.write(offset as usize, &bytes[..part]);
        }
        result.map(|()| count)
    }

    fn shrink(&mut self, file: &SimFile, size_bytes: u64) -> io::Result<()> {
        let machine = &mut *self.machine.borrow_mut();
        let (done, result) = machine.begin();
        let is_named = machine.names.values().any(|inode| *inode == file.inode);
        assert!(!is_named, "a file that has a name is cut short");
        if done {
            let size = usize::try_from(size_bytes).expect("files are addressable");
            let is_durable = machine.rng.random_bool(0.5);
            machine.inode(file)?.shrink(size, is_durable);
        }
        result
    }

    fn sync(&mut self, file: &SimFile) -> io::Result<()> {
        let machine = &mut *self.machine.borrow_mut();
        machine.syncs += 1;
        machine.log_syncs += u64::from(!machine.is_unfinished(file.inode));
        let (done, mut result) = machine.begin();
        let failed = match machine.fault {
            Fault::NextSync => Some(io::Error::other("input/output error")),
            Fault::NextSyncFull => Some(io::ErrorKind::StorageFull.into()),
            _ => None,
        };
        if let Some(error) = failed {
            machine.fault = Fault::None;
            result = Err(error);
        }
        let crashes = matches!(machine.fault, Fault::Crash(_));
        let mut rng = Rng::seed_from_u64(machine.rng.random());
        match (done, &result) {
            (true, Ok(())) => machine.inode(file)?.sync(),
            // A crash in the middle of a sync: all of it was stored, or nothing is known yet.
            (true, Err(_)) if crashes => machine.inode(file)?.sync(),
            (false, Err(_)) if crashes => {}
            _ => machine.inode(file)?.fail_sync(&mut rng),
        }
        result
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let machine = &mut *self.machine.borrow_mut();
        let (done, result) = machine.begin();
        let inode = *machine.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if done {
            machine.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), inode));
        }
        result
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let machine = &mut *self.machine.borrow_mut();
        let (done, result) = machine.begin();
        if !machine.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if done {
            machine.change_name(NameChange::Remove(name.to_owned()));
        }
        result
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        let machine = &mut *self.machine.borrow_mut();
        let (done, result) = machine.begin();
        // A directory whose sync failed keeps its changes: file systems journal names, and either
        // commit them later or turn read-only.
        if done && result.is_ok() {
            for change in std::mem::take(&mut machine.pending_names) {
                apply(&change, &mut machine.durable_names);
            }
        }
        result
    }

    fn free_space(&mut self) -> io::Result<u64> {
        let machine = &mut *self.machine.borrow_mut();
        machine.begin().1?;
        Ok(machine.free_bytes())
    }

    fn path_of(&self, name: &str) -> String {
        format!("sim/{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &mut SimDisk, content: &[u8]) -> SimFile {
        let file = disk.create("file").unwrap();
        assert_eq!(disk.write_at(&file, 0, content).unwrap(), content.len());
        disk.sync(&file).unwrap();
        disk.sync_dir().unwrap();
        file
    }

    #[test]
    fn disk_keeps_what_was_synced_through_any_power_cut() {
        for seed in 0..50 {
            let mut disk = SimDisk::new(seed);
            let file = written(&mut disk, &[7; 2000]);
            disk.write_at(&file, 0, &[7; 1000]).unwrap();
            disk.end_process(End::PowerCut);
            assert_eq!(disk.content("file"), [7; 2000], "seed {seed}");
            assert!(disk.sync(&file).is_err(), "a dead process' file is closed");
        }
    }

    #[test]
    fn disk_loses_keeps_and_tears_what_was_not_synced() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..100 {
            let mut disk = SimDisk::new(seed);
            let file = written(&mut disk, &[1; 1024]);
            disk.write_at(&file, 0, &[2; 2048]).unwrap();
            disk.end_process(End::PowerCut);
            let content = disk.content("file");
            let new = content.iter().filter(|byte| **byte == 2).count();
            seen.insert(match (new, content.len()) {
                (0, 1024) => "lost",
                (0, _) => "zeroes",
                (2048, _) => "kept",
                (new, _) if new % 512 == 0 => "cut at a sector",
                _ => "cut at a byte",
            });
        }
        assert_eq!(seen.len(), 5, "{seen:?}");
    }

    #[test]
    fn disk_name_is_durable_only_after_sync_dir() {
        let kept = (0..40).filter(|seed| {
            let mut disk = SimDisk::new(*seed);
            disk.create("file").unwrap();
            disk.end_process(End::PowerCut);
            !disk.names().is_empty()
        });
        assert!((1..40).contains(&kept.count()));
        let mut disk = SimDisk::new(1);
        written(&mut disk, b"x");
        disk.rename("file", "other").unwrap();
        disk.sync_dir().unwrap();
        disk.remove("other").unwrap();
        disk.sync_dir().unwrap();
        disk.end_process(End::PowerCut);
        assert!(disk.names().is_empty());
    }

    #[test]
    fn disk_after_a_failed_sync_lies() {
        let lies = (0..40).filter(|seed| {
            let mut disk = SimDisk::new(*seed);
            let file = written(&mut disk, &[1; 512]);
            disk.write_at(&file, 0, &[2; 512]).unwrap();
            disk.set_fault(Fault::NextSync);
            assert!(disk.sync(&file).is_err());
            assert!(disk.sync(&file).is_ok(), "the next sync succeeds");
            let shown = disk.content("file");
            disk.end_process(End::PowerCut);
            shown == [2; 512] && disk.content("file") != shown
        });
        assert!(lies.count() > 0);
    }

    #[test]
    fn disk_kill_keeps_what_the_kernel_shows() {
        let mut disk = SimDisk::new(1);
        let file = disk.create("file").unwrap();
        disk.write_at(&file, 3, b"abc").unwrap();
        disk.end_process(End::Kill);
        assert_eq!(disk.content("file"), b"\0\0\0abc");
    }

    #[test]
    fn disk_faults_come_when_they_are_due() {
        let mut disk = SimDisk::new(1);
        let outcomes = |disk: &mut SimDisk, fault| {
            disk.set_fault(fault);
            [disk.list().is_ok(), disk.list().is_ok(), disk.list().is_ok()]
        };
        assert_eq!(outcomes(&mut disk, Fault::Once(1)), [true, false, true]);
        assert_eq!(outcomes(&mut disk, Fault::From(1)), [true, false, false]);
        assert_eq!(outcomes(&mut disk, Fault::Crash(1)), [true, false, false]);
        assert_eq!(disk.operations(), (3, 0));
    }

    #[test]
    fn disk_full_takes_what_fits_and_no_more() {
        let mut disk = SimDisk::new(1);
        disk.set_capacity(10);
        let file = disk.create("file").unwrap();
        assert_eq!(disk.write_at(&file, 0, &[1; 16]).unwrap(), 10);
        assert_eq!(disk.free_space().unwrap(), 0);
        let full = disk.write_at(&file, 10, &[1; 6]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        disk.set_fault(Fault::NextSyncFull);
        assert_eq!(disk.sync(&file).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.write_at(&file, 0, &[2; 10]).unwrap(), 10, "overwriting needs no room");
    }

    #[test]
    fn disk_short_counts_never_do_more_than_they_say() {
        let mut disk = SimDisk::new(1);
        let file = written(&mut disk, &[1; 64]);
        disk.set_short_counts(true);
        let counts: Vec<_> = (0..50).filter_map(|_| disk.write_at(&file, 0, &[2; 64]).ok()).collect();
        assert!(counts.iter().any(|count| *count < 64));
        let mut into = [0; 64];
        let count = (0..50).filter_map(|_| disk.read_at(&file, 0, &mut into).ok()).min().unwrap();
        assert!(count < 64);
    }

    #[test]
    fn disk_tells_the_log_from_what_is_only_prepared() {
        let mut disk = SimDisk::new(1);
        let segment = written(&mut disk, b"a record");
        let snapshot = disk.create("snapshot.tmp").unwrap();
        assert!(disk.has_unfinished_snapshot());
        disk.sync(&snapshot).unwrap();
        assert_eq!((disk.operations().1, disk.log_syncs()), (2, 1));
        disk.rename("snapshot.tmp", "0000000001.snap").unwrap();
        disk.sync(&segment).unwrap();
        assert!(!disk.has_unfinished_snapshot());
        assert_eq!((disk.operations().1, disk.log_syncs()), (3, 2));
    }

    #[test]
    fn disk_fork_lacks_only_what_has_no_name() {
        let mut disk = SimDisk::new(1);
        written(&mut disk, b"gone");
        disk.remove("file").unwrap();
        let found_in = |disk: &SimDisk| {
            let forks = (0..40).map(|seed| disk.fork(seed));
            let is_found = |fork: &SimDisk| {
                fork.end_process(End::PowerCut);
                fork.names().iter().any(|name| fork.content(name) == b"gone")
            };
            forks.filter(is_found).count()
        };
        assert!((1..40).contains(&found_in(&disk)), "until the directory is synced it may come back, or not");
        disk.sync_dir().unwrap();
        assert_eq!(found_in(&disk), 0);
    }

    #[test]
    fn disk_fork_goes_its_own_way() {
        let mut disk = SimDisk::new(1);
        written(&mut disk, b"both");
        let fork = disk.fork(2);
        fork.put("file", b"fork".to_vec());
        fork.take_away("none");
        assert_eq!(disk.content("file"), b"both");
        assert_eq!(fork.content("file"), b"fork");
    }
}
