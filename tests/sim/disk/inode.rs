//! A file of a simulated disk: what reads show, and what a power cut leaves.

use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus as Rng;

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) cache: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<(usize, Vec<u8>)>,
}

impl Inode {
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        overwrite(&mut self.cache, offset, bytes);
        self.pending.push((offset, bytes.to_vec()));
    }

    /// What was written and not synced is gone with what the file had.
    pub(super) fn shrink(&mut self, size: usize, is_durable: bool) {
        self.pending.clear();
        self.cache.truncate(size);
        if is_durable {
            self.durable.truncate(size);
        }
    }

    pub(super) fn sync(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            overwrite(&mut self.durable, offset, &bytes);
        }
    }

    pub(super) fn lose_power(&mut self, rng: &mut Rng) {
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            tear(&mut self.durable, offset, &bytes, rng);
        }
        self.cache = self.durable.clone();
    }

    /// Some of it may be stored, none of it waits any more, and reads show either version.
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) {
        let cache = self.cache.clone();
        self.lose_power(rng);
        if rng.random_bool(0.7) {
            self.cache = cache;
        }
    }
}

fn overwrite(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

/// Leaves of one write what a power cut leaves. What was in the file before and is not overwritten
/// stays as it was.
fn tear(file: &mut Vec<u8>, offset: usize, bytes: &[u8], rng: &mut Rng) {
    let cut = rng.random_range(0..=bytes.len());
    match rng.random_range(0..6) {
        0 => overwrite(file, offset, bytes),
        1 => {}
        2 => overwrite(file, offset, &bytes[..cut]),
        3 => overwrite(file, offset, &bytes[..cut - cut % SECTOR_BYTES]),
        4 => {
            for (sector, content) in bytes.chunks(SECTOR_BYTES).enumerate() {
                if rng.random_bool(0.5) {
                    overwrite(file, offset + sector * SECTOR_BYTES, content);
                }
            }
        }
        _ => file.resize(file.len().max(offset + bytes.len()), 0),
    }
}
