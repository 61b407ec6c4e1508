//! Files that lost their names, given back to the file system slice by slice.
//!
//! A kernel frees all of a file in the one call that takes its last name or closes it, and the larger
//! the file, the longer that takes: a snapshot of 120 MiB held up the loop for 19 ms (ext4; of the
//! rows of `cargo bench --bench bounded` that is the longest turn). So large files are open when they
//! lose their names, and are then cut shorter, turn by turn, before they are closed. If the process
//! ends before, the kernel frees the rest.

use std::io;
use std::rc::Rc;

use super::disk::Disk;

/// What is freed at a time: it takes less than a millisecond.
const SLICE_BYTES: u64 = 2 << 20;

/// Open files without a name, and how much of each is left.
///
/// Invariant: a file that somebody else has open through the same `Rc` is left as it is.
#[derive(Debug)]
pub(super) struct Removed<F> {
    files: Vec<(Rc<F>, u64)>,
}

impl<F> Default for Removed<F> {
    fn default() -> Self {
        Self { files: Vec::new() }
    }
}

impl<F> Removed<F> {
    /// A file of this size has just lost its name.
    pub(super) fn push(&mut self, file: Rc<F>, size_bytes: u64) {
        self.files.push((file, size_bytes));
    }

    /// A file that nobody reads any more.
    fn unread(&self) -> Option<usize> {
        self.files.iter().position(|(file, _)| Rc::strong_count(file) == 1)
    }

    /// Whether something can be freed.
    pub(super) fn has_unread(&self) -> bool {
        self.unread().is_some()
    }

    /// Frees a slice of one file that nobody reads.
    pub(super) fn free_slice<D: Disk<File = F>>(&mut self, disk: &mut D) -> io::Result<()> {
        let Some(place) = self.unread() else { return Ok(()) };
        let (file, left_bytes) = &mut self.files[place];
        *left_bytes = left_bytes.saturating_sub(SLICE_BYTES);
        disk.shrink(file, *left_bytes)?;
        if *left_bytes == 0 {
            self.files.swap_remove(place);
        }
        Ok(())
    }
}
