//! The data: keys and their values, ordered by key.
//!
//! A row is one allocation, the key and behind it the value, so that a million small rows take
//! little more than their bytes. Rows are immutable and shared: an answer slices the row that it
//! reports, and copying a leaf of the tree copies references. That is why leaves are bounded in
//! rows alone and not in bytes.

use std::ops::Bound;

use bytes::Bytes;

use super::digest::Hash64;
use super::tree::{Keyed, Leaves, Tree};
use crate::wire::client::{MAX_SCAN_BYTES, MAX_SCAN_ROWS};

/// Sets the hashes of rows apart from those of other things.
const ROW_DOMAIN: u64 = 1;

/// One page of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Keys and values, in byte order of the keys.
    pub rows: Vec<(Bytes, Bytes)>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

/// An ordered map from keys to values. A clone costs one reference and is a point in time: no later
/// change shows in it.
///
/// Invariants: `digest` is the wrapping sum of the hashes of all rows, `bytes` the sum of their sizes.
#[derive(Clone, Default)]
pub(super) struct Store {
    rows: Tree<Row>,
    digest: u64,
    bytes: u64,
}

/// A key and its value, of which no part changes.
#[derive(Clone)]
pub(super) struct Row {
    /// The key, then the value. A `Bytes` made of a full vector is that one allocation; it gains
    /// a count (32 bytes more) when it is shared for the first time.
    bytes: Bytes,
    key_bytes: u16,
}

impl Store {
    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The sum of the hashes of all rows: equal for equal data, however it came about.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// Bytes of all keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.rows.get(key).map(Row::value)
    }

    /// Sets a key. Key and value are copied: they may be slices of a network buffer, which they
    /// would keep alive.
    ///
    /// # Panics
    /// If the key is longer than 65,535 bytes; [`super::check_write`] refuses it earlier.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        let row = Row::new(key, value);
        self.digest = self.digest.wrapping_add(row.hash());
        self.bytes += row.bytes.len() as u64;
        if let Some(replaced) = self.rows.insert(row) {
            self.digest = self.digest.wrapping_sub(replaced.hash());
            self.bytes -= replaced.bytes.len() as u64;
        }
    }

    /// Removes a key, and says whether it was there.
    pub(super) fn delete(&mut self, key: &[u8]) -> bool {
        let removed = self.rows.remove(key);
        if let Some(row) = &removed {
            self.digest = self.digest.wrapping_sub(row.hash());
            self.bytes -= row.bytes.len() as u64;
        }
        removed.is_some()
    }

    /// One page of the rows whose keys begin with `prefix` and lie above `after`: at most `limit`
    /// and [`MAX_SCAN_ROWS`] rows, and at most [`MAX_SCAN_BYTES`] of keys and values unless a
    /// single row is larger. So a page is empty only if nothing is left or `limit` is 0.
    pub(super) fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: u32) -> Page {
        let lower = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let limit = limit.min(MAX_SCAN_ROWS) as usize;
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for row in self.rows.range(lower).take_while(|row| row.key().starts_with(prefix)) {
            bytes += row.bytes.len();
            if rows.len() == limit || (bytes > MAX_SCAN_BYTES && !rows.is_empty()) {
                return Page { rows, more: true };
            }
            rows.push((row.bytes.slice(..row.key().len()), row.value()));
        }
        Page { rows, more: false }
    }

    /// Takes the store apart.
    pub(super) fn into_leaves(self) -> Leaves<Row> {
        self.rows.into_leaves()
    }

    /// The digest computed anew, from every row.
    #[cfg(test)]
    pub(super) fn recomputed_digest(&self) -> u64 {
        self.rows.iter().fold(0, |sum, row| sum.wrapping_add(row.hash()))
    }
}

impl Row {
    fn new(key: &[u8], value: &[u8]) -> Self {
        let key_bytes = u16::try_from(key.len()).expect("keys have at most 4 KiB");
        let mut bytes = Vec::with_capacity(key.len() + value.len());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
        Self { bytes: bytes.into(), key_bytes }
    }

    /// The key's length, and key and value one behind the other.
    pub(super) fn parts(&self) -> (u16, &[u8]) {
        (self.key_bytes, &self.bytes)
    }

    fn value(&self) -> Bytes {
        self.bytes.slice(usize::from(self.key_bytes)..)
    }

    fn hash(&self) -> u64 {
        let (key, value) = self.bytes.split_at(usize::from(self.key_bytes));
        Hash64::new(ROW_DOMAIN).bytes(key).bytes(value).finish()
    }
}

impl Keyed for Row {
    type Key = [u8];
    type Separator = Bytes;

    fn key(&self) -> &[u8] {
        &self.bytes[..usize::from(self.key_bytes)]
    }

    fn separator(&self) -> Bytes {
        Bytes::copy_from_slice(self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    fn rows(store: &Store) -> Model {
        let page = store.scan(b"", None, u32::MAX);
        assert!(!page.more);
        page.rows.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// All rows by pages of `limit`, as a client reads them.
    fn paged(store: &Store, prefix: &[u8], limit: u32) -> Vec<(Bytes, Bytes)> {
        let mut rows: Vec<(Bytes, Bytes)> = Vec::new();
        loop {
            let after = rows.last().map(|(key, _)| key.clone());
            let page = store.scan(prefix, after.as_deref(), limit);
            assert!(page.rows.len() <= limit as usize && (!page.more || page.rows.len() == limit as usize));
            rows.extend(page.rows);
            if !page.more {
                return rows;
            }
        }
    }

    /// Short keys of few letters, so that they share prefixes and come again.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0), Just(b'a'), Just(255)], 1..6)
    }

    proptest! {
        #[test]
        fn store_after_any_changes_equals_the_model(
            changes in prop::collection::vec((key(), prop::option::of(prop::collection::vec(any::<u8>(), 0..4))), 0..400)
        ) {
            let (mut store, mut model) = (Store::default(), Model::new());
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        store.put(&key, &value);
                        model.insert(key.clone(), value);
                    }
                    None => prop_assert_eq!(store.delete(&key), model.remove(&key).is_some()),
                }
                prop_assert_eq!(store.get(&key).map(Vec::from), model.get(&key).cloned());
            }
            prop_assert_eq!(store.len(), model.len());
            prop_assert_eq!(store.digest(), store.recomputed_digest());
            let bytes: usize = model.iter().map(|(key, value)| key.len() + value.len()).sum();
            prop_assert_eq!(store.bytes(), bytes as u64);
            prop_assert_eq!(rows(&store), model);
        }

        #[test]
        fn scan_by_any_prefix_and_page_size_equals_the_model(
            keys in prop::collection::btree_set(key(), 0..80), prefix in prop::option::of(key())
        ) {
            let prefix = prefix.unwrap_or_default();
            let mut store = Store::default();
            for key in &keys {
                store.put(key, b"value");
            }
            let expected: Vec<_> = keys.iter().filter(|key| key.starts_with(&prefix)).collect();
            for limit in 1..=keys.len() as u32 + 1 {
                let rows = paged(&store, &prefix, limit);
                prop_assert!(rows.iter().map(|(key, _)| key).eq(expected.iter().copied()));
            }
        }
    }

    #[test]
    fn clone_is_a_point_in_time() {
        let mut store = Store::default();
        for number in 0..5000_u32 {
            store.put(&number.to_be_bytes(), b"before");
        }
        let (clone, before, digest) = (store.clone(), rows(&store), store.digest());
        for number in (0..6000_u32).step_by(3) {
            store.put(&number.to_be_bytes(), b"after");
            store.delete(&(number + 1).to_be_bytes());
        }
        assert_eq!(rows(&clone), before);
        assert_eq!((clone.digest(), clone.recomputed_digest()), (digest, digest));
        assert_ne!(store.digest(), digest);
    }

    #[test]
    fn digest_depends_on_the_data_and_not_on_how_it_came_about() {
        let (mut upwards, mut downwards) = (Store::default(), Store::default());
        for number in 0..1000_u32 {
            upwards.put(&number.to_be_bytes(), b"x");
            downwards.put(&(999 - number).to_be_bytes(), b"another");
        }
        assert_ne!(upwards.digest(), downwards.digest());
        for number in 0..1000_u32 {
            downwards.put(&number.to_be_bytes(), b"x");
        }
        assert_eq!(upwards.digest(), downwards.digest());
        downwards.delete(&[0; 4]);
        assert_ne!(upwards.digest(), downwards.digest());
    }

    #[test]
    fn scan_page_is_full_at_the_byte_limit_but_never_empty() {
        let mut store = Store::default();
        let half = vec![7; MAX_SCAN_BYTES / 2 - 1];
        store.put(b"a", &half);
        store.put(b"b", &half);
        store.put(b"c", &vec![7; MAX_SCAN_BYTES]);
        store.put(b"d", b"");
        let keys = |after: Option<&[u8]>| {
            let page = store.scan(b"", after, u32::MAX);
            (page.rows.iter().map(|(key, _)| key[0]).collect::<Vec<_>>(), page.more)
        };
        assert_eq!(keys(None), (b"ab".to_vec(), true));
        assert_eq!(keys(Some(b"b")), (b"c".to_vec(), true));
        assert_eq!(keys(Some(b"c")), (b"d".to_vec(), false));
    }

    #[test]
    fn scan_is_cut_at_the_row_limit_of_the_protocol() {
        let mut store = Store::default();
        for number in 0..=MAX_SCAN_ROWS {
            store.put(&number.to_be_bytes(), b"");
        }
        let page = store.scan(b"", None, u32::MAX);
        assert_eq!((page.rows.len(), page.more), (MAX_SCAN_ROWS as usize, true));
        assert_eq!(store.scan(b"", None, 0), Page { rows: Vec::new(), more: true });
        assert_eq!(store.scan(b"none", None, 0), Page { rows: Vec::new(), more: false });
    }

    #[test]
    fn scan_after_a_key_outside_the_prefix_starts_where_it_can() {
        let mut store = Store::default();
        store.put(b"b1", b"");
        assert_eq!(store.scan(b"b", Some(b"a"), 9).rows.len(), 1);
        assert_eq!(store.scan(b"b", Some(b"c"), 9).rows.len(), 0);
        assert_eq!(store.scan(b"b", Some(b"b"), 9).rows.len(), 1);
    }
}
