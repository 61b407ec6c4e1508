//! Reading and writing plain values: little-endian integers and byte strings with their length
//! before them. Every format of ours, on sockets and on disk, is made of these.

use byteorder::{ByteOrder, LittleEndian};
use bytes::Bytes;
use thiserror::Error;

/// Why bytes are not a value. Whoever sent or stored them is at fault; the reader never panics.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end in the middle of a value.
    #[error("cut short: {needed} bytes needed, {left} left")]
    Truncated {
        /// Bytes that the value takes.
        needed: usize,
        /// Bytes that there are.
        left: usize,
    },
    /// The value ended, the bytes did not.
    #[error("{0} bytes too many at the end")]
    Trailing(usize),
    /// A tag that this version does not know.
    #[error("unknown {what} {tag}")]
    UnknownTag {
        /// What the tag chooses, such as "message type".
        what: &'static str,
        /// The tag as read.
        tag: u8,
    },
    /// A length above the limit of its field.
    #[error("{what} of {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// The field's name.
        what: &'static str,
        /// The length as read.
        length: usize,
        /// The field's limit.
        limit: usize,
    },
    /// A value that its type forbids.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

/// Takes values off the front of some bytes. Byte strings are slices of them, not copies.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
}

impl Reader {
    /// Reads from the first of `bytes` on.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Ends the reading: `Err` if bytes are left over.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.bytes.len())) }
    }

    /// Takes exactly `count` bytes as they are.
    pub fn take(&mut self, count: usize) -> Result<Bytes, DecodeError> {
        if count > self.bytes.len() {
            return Err(DecodeError::Truncated { needed: count, left: self.bytes.len() });
        }
        Ok(self.bytes.split_to(count))
    }

    /// Takes all that is left.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.bytes)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    /// Takes two bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(LittleEndian::read_u16(&self.take(2)?))
    }

    /// Takes four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(LittleEndian::read_u32(&self.take(4)?))
    }

    /// Takes eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(LittleEndian::read_u64(&self.take(8)?))
    }

    /// Takes sixteen bytes, little-endian.
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(LittleEndian::read_u128(&self.take(16)?))
    }

    /// Takes one byte that is 0 or 1.
    pub fn bool(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Invalid(what)),
        }
    }

    /// Takes a `u32` length of at most `limit`, then that many bytes.
    pub fn byte_string(&mut self, what: &'static str, limit: usize) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        if length > limit {
            return Err(DecodeError::TooLong { what, length, limit });
        }
        self.take(length)
    }

    /// Takes a byte string that is UTF-8.
    pub fn string(&mut self, what: &'static str, limit: usize) -> Result<String, DecodeError> {
        let bytes = self.byte_string(what, limit)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Invalid(what))
    }

    /// Takes a flag (0 or 1) and, if it is 1, what `read` takes.
    pub fn option<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool(what)? { read(self).map(Some) } else { Ok(None) }
    }

    /// Takes a `u32` count, then as many values. Memory grows with what is there, not with the
    /// count that is claimed.
    pub fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u32()?;
        (0..count).map(|_| read(self)).collect()
    }
}

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes written.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.bytes)
    }

    /// The bytes written so far, to fill in what was not known before.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Appends bytes as they are.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// Appends two bytes.
    pub fn u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }

    /// Appends four bytes.
    pub fn u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }

    /// Appends eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }

    /// Appends sixteen bytes.
    pub fn u128(&mut self, value: u128) {
        self.put(&value.to_le_bytes());
    }

    /// Appends 0 or 1.
    pub fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    /// Appends a `u32` length and the bytes.
    ///
    /// # Panics
    /// Beyond 4 GiB, which every limit of ours forbids earlier.
    pub fn byte_string(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.put(bytes);
    }

    /// Appends 0, or 1 and what `write` appends.
    pub fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.bool(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    /// Appends a `u32` count, then each value by `write`.
    ///
    /// # Panics
    /// Beyond 2^32 values, which every limit of ours forbids earlier.
    pub fn list<T>(&mut self, values: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        self.count(values.len());
        for value in values {
            write(self, value);
        }
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("limits keep counts below 2^32"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_written_are_read_back() {
        let mut writer = Writer::new();
        writer.u8(1);
        writer.u16(2);
        writer.u32(3);
        writer.u64(4);
        writer.u128(5);
        writer.bool(true);
        writer.byte_string(b"six");
        writer.option(Some(7), Writer::u64);
        writer.option(None, Writer::u64);
        writer.list([8, 9].into_iter(), Writer::u8);
        let mut reader = Reader::new(writer.into_bytes());
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.u16(), Ok(2));
        assert_eq!(reader.u32(), Ok(3));
        assert_eq!(reader.u64(), Ok(4));
        assert_eq!(reader.u128(), Ok(5));
        assert_eq!(reader.bool("flag"), Ok(true));
        assert_eq!(reader.byte_string("name", 3).unwrap(), "six");
        assert_eq!(reader.option("seven", Reader::u64), Ok(Some(7)));
        assert_eq!(reader.option("none", Reader::u64), Ok(None));
        assert_eq!(reader.list(Reader::u8), Ok(vec![8, 9]));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn length_beyond_the_limit_is_refused_before_anything_is_taken() {
        let mut reader = Reader::new(Bytes::from_static(&[255, 255, 255, 255, 1]));
        let refused = DecodeError::TooLong { what: "key", length: u32::MAX as usize, limit: 4 };
        assert_eq!(reader.byte_string("key", 4), Err(refused));
    }

    #[test]
    fn list_with_a_claimed_count_beyond_the_bytes_is_truncated() {
        let mut reader = Reader::new(Bytes::from_static(&[255, 255, 255, 255, 1]));
        assert_eq!(reader.list(Reader::u8), Err(DecodeError::Truncated { needed: 1, left: 0 }));
    }

    #[test]
    fn bytes_after_the_value_are_an_error() {
        let mut reader = Reader::new(Bytes::from_static(&[1, 2]));
        assert_eq!(reader.u8(), Ok(1));
        assert_eq!(reader.finish(), Err(DecodeError::Trailing(1)));
    }
}
