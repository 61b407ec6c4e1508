//! A disk that tells how far its reader has come, if that takes long.

use std::io;

use kvstore::storage::Disk;

use crate::terminal::Progress;

/// Reads of a disk, watched.
pub(crate) struct Watched<D> {
    disk: D,
    read_bytes: u64,
    progress: Progress,
}

impl<D> Watched<D> {
    pub(crate) fn new(disk: D) -> Self {
        Self { disk, read_bytes: 0, progress: Progress::begin("kvstore", "reading") }
    }
}

impl<D: Disk> Disk for Watched<D> {
    type File = D::File;

    fn read_at(&mut self, file: &D::File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        // Whole segments are asked for at once: in pieces, so that there is something to tell.
        let piece = into.len().min(1 << 20);
        let count = self.disk.read_at(file, offset, &mut into[..piece])?;
        self.read_bytes += count as u64;
        self.progress.note(self.read_bytes, 0);
        Ok(count)
    }

    fn list(&mut self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&mut self, name: &str) -> io::Result<D::File> {
        self.disk.create(name)
    }

    fn open(&mut self, name: &str) -> io::Result<D::File> {
        self.disk.open(name)
    }

    fn size(&mut self, file: &D::File) -> io::Result<u64> {
        self.disk.size(file)
    }

    fn write_at(&mut self, file: &D::File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.disk.write_at(file, offset, bytes)
    }

    fn shrink(&mut self, file: &D::File, size_bytes: u64) -> io::Result<()> {
        self.disk.shrink(file, size_bytes)
    }

    fn sync(&mut self, file: &D::File) -> io::Result<()> {
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
        self.disk.free_space()
    }

    fn path_of(&self, name: &str) -> String {
        self.disk.path_of(name)
    }
}
