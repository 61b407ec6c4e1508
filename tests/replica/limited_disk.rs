//! A real directory on a disk of which a test says how much is free.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use kvstore::storage::{Disk, FileDisk};

/// What the disk says is free; at first, enough for everything.
pub(crate) type Free = Rc<FreeBytes>;

pub(crate) struct FreeBytes(Cell<u64>);

impl Default for FreeBytes {
    fn default() -> Self {
        Self(Cell::new(1 << 40))
    }
}

impl FreeBytes {
    pub(crate) fn set(&self, bytes: u64) {
        self.0.set(bytes);
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
        self.disk.write_at(file, offset, bytes)
    }

    fn shrink(&mut self, file: &Self::File, size_bytes: u64) -> io::Result<()> {
        self.disk.shrink(file, size_bytes)
    }

    fn sync(&mut self, file: &Self::File) -> io::Result<()> {
        self.disk.sync(file)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_dir(&mut self) -> io::Result<()> {
        self.disk.sync_dir()
    }

    fn free_space(&mut self) -> io::Result<u64> {
        Ok(self.free.0.get())
    }

    fn path_of(&self, name: &str) -> String {
        self.disk.path_of(name)
    }
}
