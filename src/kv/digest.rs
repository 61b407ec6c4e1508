//! One 64-bit hash for two purposes: the fingerprint by which a session knows a write again, and
//! the digest by which two nodes find out that their states differ.
//!
//! A digest of many things is the wrapping sum of their hashes. It does not depend on their order
//! or on how a tree holds them, and one change to the state is one subtraction and one addition.
//!
//! Fingerprints are part of the replicated state, so this function is part of the format: it never
//! changes within a format version. The standard library promises no such thing of its hashers. It
//! guards against accidents, not against somebody who constructs a collision: who does so in a
//! session gets their own earlier answer.

/// 2^64 divided by the golden ratio: odd, and its bits look random.
const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// A hash in the making. What goes in is told apart: each number is a word of its own, and bytes go
/// in after their length.
#[derive(Clone, Copy)]
pub(super) struct Hash64(u64);

impl Hash64 {
    /// Starts a hash. Different `domain`s keep different kinds of things apart.
    pub(super) fn new(domain: u64) -> Self {
        Self(MULTIPLIER).number(domain)
    }

    /// Takes in one word. For a given state this maps words one to one, so that two inputs that
    /// differ in a single word never collide.
    #[must_use]
    pub(super) fn number(self, word: u64) -> Self {
        let product = (self.0 ^ word).wrapping_mul(MULTIPLIER);
        Self(product ^ (product >> 32))
    }

    /// Takes in a length and that many bytes, eight at a time, little-endian.
    #[must_use]
    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        let start = self.number(bytes.len() as u64);
        let hash = words.iter().fold(start, |hash, word| hash.number(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        if rest.is_empty() { hash } else { hash.number(u64::from_le_bytes(last)) }
    }

    /// Takes in 0, or 1 and the bytes.
    #[must_use]
    pub(super) fn option(self, bytes: Option<&[u8]>) -> Self {
        match bytes {
            None => self.number(0),
            Some(bytes) => self.number(1).bytes(bytes),
        }
    }

    /// The hash. Every bit of the input reaches every bit of it (the finalizer of MurmurHash3), as
    /// sums of hashes need.
    pub(super) fn finish(self) -> u64 {
        let mut hash = self.0;
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
        hash ^ (hash >> 33)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn hash_of_known_input_is_part_of_the_format() {
        assert_eq!(Hash64::new(1).finish(), 0xAE00_5A7F_4119_3FF1);
        let hash = Hash64::new(1).number(2).bytes(b"a key of 19 bytes..").option(None);
        assert_eq!(hash.finish(), 0x30F5_5DBA_E2BC_3C7F);
    }

    #[test]
    fn hashes_of_similar_inputs_differ() {
        let mut hashes = BTreeSet::new();
        let zeros = [0; 40];
        for length in 0..zeros.len() {
            hashes.insert(Hash64::new(1).bytes(&zeros[..length]).finish());
            hashes.insert(Hash64::new(2).bytes(&zeros[..length]).finish());
            hashes.insert(Hash64::new(3).option(Some(&zeros[..length])).finish());
        }
        assert_eq!(hashes.len(), 3 * zeros.len());
        assert_ne!(Hash64::new(3).option(None).finish(), Hash64::new(3).option(Some(b"")).finish());
        let split = |at: usize| Hash64::new(1).bytes(&b"abcdef"[..at]).bytes(&b"abcdef"[at..]).finish();
        assert_ne!(split(2), split(3));
    }
}
