//! A disk that tells how far its reader has come, if that takes long.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use kvstore::storage::Disk;

/// What takes less than this is not worth a word; neither is more than one a second.
const PATIENCE: Duration = Duration::from_secs(2);
const PACE: Duration = Duration::from_secs(1);

/// Reads of a disk, watched.
pub(crate) struct Watched<D> {
    disk: D,
    began: Instant,
    next_word: Duration,
    read_bytes: u64,
}

impl<D> Watched<D> {
    pub(crate) fn new(disk: D) -> Self {
        Self { disk, began: Instant::now(), next_word: PATIENCE, read_bytes: 0 }
    }

    fn note(&mut self, bytes: usize) {
        self.read_bytes += bytes as u64;
        let elapsed = self.began.elapsed();
        if elapsed < self.next_word {
            return;
        }
        self.next_word = elapsed + PACE;
        let seconds = elapsed.as_secs();
        // On a terminal one line that changes; in a file a line each.
        let (begin, end) = if io::stderr().is_terminal() { ("\r", " ") } else { ("", "\n") };
        let mib = self.read_bytes >> 20;
        _ = write!(io::stderr(), "{begin}kvstore: {mib} MiB read after {seconds} s{end}");
    }
}

impl<D> Drop for Watched<D> {
    fn drop(&mut self) {
        if self.next_word > PATIENCE && io::stderr().is_terminal() {
            _ = writeln!(io::stderr());
        }
    }
}

impl<D: Disk> Disk for Watched<D> {
    type File = D::File;

    fn read_at(&mut self, file: &D::File, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        // Whole segments are asked for at once: in pieces, so that there is something to tell.
        let piece = into.len().min(1 << 20);
        let count = self.disk.read_at(file, offset, &mut into[..piece])?;
        self.note(count);
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
