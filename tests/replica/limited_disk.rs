//! A real directory on a disk of which a test says how much is free.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;

use kvstore::storage::{Disk, FileDisk};

/// What the disk says is free; at first, enough for everything.
pub(crate) type Free = Rc<FreeBytes>;

pub(crate) struct FreeBytes {
    bytes: Cell<u64>,
    /// Files take of it and give back to it, and find it full. Else it is what the disk says, and no more.
    is_counted: bool,
    /// The disk does not say it.
    is_secret: bool,
    /// How often it was found full.
    refusals: Cell<u32>,
}

impl Default for FreeBytes {
    fn default() -> Self {
        Self { bytes: Cell::new(1 << 40), is_counted: false, is_secret: false, refusals: Cell::new(0) }
    }
}

impl FreeBytes {
    /// That of a disk, of one node or several, that can be full.
    pub(crate) fn counted() -> Free {
        Rc::new(Self { is_counted: true, ..Self::default() })
    }

    /// The same, of which nobody knows before it is full: a quota.
    pub(crate) fn secret() -> Free {
        Rc::new(Self { is_counted: true, is_secret: true, ..Self::default() })
    }

    pub(crate) fn refusals(&self) -> u32 {
        self.refusals.get()
    }

    pub(crate) fn set(&self, bytes: u64) {
        self.bytes.set(bytes);
    }

    /// A file that shall grow by so many bytes takes what is left of them; nothing is an error.
    fn take(&self, bytes: u64) -> io::Result<u64> {
        if !self.is_counted || bytes == 0 {
            return Ok(bytes);
        }
        let left = self.bytes.get();
        self.bytes.set(left.saturating_sub(bytes));
        if left == 0 {
            self.refusals.set(self.refusals.get() + 1);
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(bytes.min(left))
    }

    fn give_back(&self, bytes: u64) {
        if self.is_counted {
            self.bytes.set(self.bytes.get() + bytes);
        }
    }
}

pub(crate) struct LimitedDisk {
    disk: FileDisk,
    free: Free,
}

impl LimitedDisk {
    pub(crate) fn open(path: &Path, free: Free) -> Self {
        Self { disk: FileDisk::open(path).unwrap(), free }
    }

    /// What the file of this name takes; nothing if there is none.
    fn size_of(&self, name: &str) -> u64 {
        fs::metadata(self.disk.path_of(name)).map_or(0, |file| file.len())
    }
}

impl Disk for LimitedDisk {
    type File = <FileDisk as Disk>::File;

    fn list(&mut self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&mut self, name: &str) -> io::Result<Self::File> {
        self.disk.create(name)
    }

    fn open(&mut self, name: &str) -> io::Result<Self::File> {
        self.disk.open(name)
    }

    fn size(&mut self, file: &Self::File) -> io::Result<u64> {
        self.disk.size(file)
    }

    fn read_at(&mut self, file: &Self::File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.disk.read_at(file, offset, into)
    }

    fn write_at(&mut self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let size_bytes = self.disk.size(file)?;
        let end = offset + bytes.len() as u64;
        let growth = end.saturating_sub(size_bytes);
        let missing = growth - self.free.take(growth)?;
        self.disk.write_at(file, offset, &bytes[..bytes.len() - missing as usize])
    }

    fn shrink(&mut self, file: &Self::File, size_bytes: u64) -> io::Result<()> {
        self.free.give_back(self.disk.size(file)?.saturating_sub(size_bytes));
        self.disk.shrink(file, size_bytes)
    }

    fn sync(&mut self, file: &Self::File) -> io::Result<()> {
        self.disk.sync(file)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.free.give_back(self.size_of(to));
        self.disk.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        // The node has snapshots open when it removes them, and gives them back slice by slice.
        if name != "snapshot.tmp" && !name.ends_with(".snap") {
            self.free.give_back(self.size_of(name));
        }
        self.disk.remove(name)
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_space(&mut self) -> io::Result<u64> {
        if self.free.is_secret { Err(io::ErrorKind::Unsupported.into()) } else { Ok(self.free.bytes.get()) }
    }

    fn path_of(&self, name: &str) -> String {
        self.disk.path_of(name)
    }
}
