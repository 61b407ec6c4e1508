//! The bytes of a snapshot's file, and how they are read. No file is touched here.
//!
//! ```text
//! snapshot: header page | chunk | chunk | ... | end
//!
//! header page, 4096 bytes            chunk, and end
//! offset bytes                       offset bytes
//!    0    8  magic "KVSTSNP\n"          0    4  bytes of payload, 0 in the end
//!    8    4  version, 3                 4    4  checksum
//!   12    4  zero                       8    n  payload
//!   16    8  index of the last entry
//!   24    8  its term
//!   32    8  its stamp
//!   40    n  configuration, then zeroes
//! 4092    4  checksum of the 4092 bytes before
//! ```
//!
//! A chunk's checksum is taken over the checksum before it (the header page's for the first) and
//! then its length and payload. So each can be checked as it comes, and the checksum of the end is
//! that of the whole file: none of its bytes can be changed, dropped, doubled or swapped. The
//! payloads, one behind the other, are the state, which is opaque here.
//!
//! Nothing in the file names a node. A follower that is sent a snapshot keeps the very same bytes.

use byteorder::{ByteOrder, LittleEndian};
use bytes::Bytes;
use thiserror::Error;

use super::segment::{PAGE_BYTES, VERSION};
use crate::types::{ClusterTime, LogIndex, Term};
use crate::wire::entry::{Configuration, Snapshot, SnapshotId};
use crate::wire::{DecodeError, Reader, Writer};

const MAGIC: [u8; 8] = *b"KVSTSNP\n";
const CHECKSUM_AT: usize = PAGE_BYTES - 4;
const CHUNK_HEADER_BYTES: usize = 8;
/// No chunk is larger; what claims to be is damage and not waited for.
const MAX_CHUNK_BYTES: usize = 4 << 20;

/// The name of the snapshot's file.
pub(super) fn snapshot_name(index: LogIndex) -> String {
    format!("{:010}.snap", index.0)
}

/// Whether a file of this name is a snapshot.
pub(super) fn is_snapshot_name(name: &str) -> bool {
    let index = name.strip_suffix(".snap").and_then(|index| index.parse().ok());
    index.is_some_and(|index| snapshot_name(LogIndex(index)) == name)
}

/// Appends a header page, and gives its checksum.
pub(super) fn put_header(out: &mut Writer, snapshot: &Snapshot) -> u32 {
    let start = out.len();
    out.put(&MAGIC);
    out.u32(VERSION);
    out.u32(0);
    out.u64(snapshot.index.0);
    out.u64(snapshot.term.0);
    out.u64(snapshot.stamp.0);
    snapshot.configuration.encode(out);
    out.put(&vec![0; CHECKSUM_AT - (out.len() - start)]);
    let checksum = crc32c::crc32c(&out.as_mut_slice()[start..]);
    out.u32(checksum);
    checksum
}

/// Appends a chunk, or the end if `payload` is empty, after what has the checksum `previous`;
/// gives its checksum.
pub(super) fn put_chunk(out: &mut Writer, previous: u32, payload: &[u8]) -> u32 {
    let bytes = u32::try_from(payload.len()).expect("chunks are far below 4 GiB");
    let checksum = chunk_checksum(previous, bytes, payload);
    out.u32(bytes);
    out.u32(checksum);
    out.put(payload);
    checksum
}

fn chunk_checksum(previous: u32, bytes: u32, payload: &[u8]) -> u32 {
    let head = [previous.to_le_bytes(), bytes.to_le_bytes()].concat();
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

/// Why bytes are no snapshot's file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SnapshotFileError {
    /// They are not what was written.
    #[error("it is damaged at offset {offset}: {what}")]
    Damaged {
        /// Where the first part that is damaged begins, in bytes.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// They are intact, and of a version that this program does not read.
    #[error("it has format version {0}, this program reads version {VERSION}")]
    UnknownVersion(u32),
    /// The header page is intact, and not understood.
    #[error("its header page is not understood: {0}")]
    NotUnderstood(DecodeError),
}

impl SnapshotFileError {
    /// The bytes are intact, and those of another snapshot.
    pub(super) const OTHER: Self = Self::Damaged { offset: 0, what: "it is another one than was announced" };
}

/// Checks a snapshot's file as its bytes come, cut anywhere, and gives what is in it.
#[derive(Debug, Default)]
pub(super) struct Parser {
    partial: Vec<u8>,
    offset: u64,
    checksum: u32,
    snapshot: Option<Snapshot>,
    is_ended: bool,
}

impl Parser {
    /// Takes the next bytes. Gives the payloads of the chunks that they complete, each of which is
    /// intact.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Bytes>, SnapshotFileError> {
        self.partial.extend_from_slice(bytes);
        let bytes = Bytes::from(std::mem::take(&mut self.partial));
        let (mut at, mut payloads) = (0, Vec::new());
        while let Some(used) = self.take_part(&bytes.slice(at..), &mut payloads)? {
            at += used;
            self.offset += used as u64;
        }
        self.partial = bytes[at..].to_vec();
        Ok(payloads)
    }

    /// What the file says of itself, once its header page was fed.
    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    /// What was read, once all of it was fed.
    pub(super) fn finish(self) -> Result<(Snapshot, SnapshotId), SnapshotFileError> {
        let offset = self.offset;
        match self.snapshot {
            Some(snapshot) if self.is_ended => {
                let Snapshot { index, term, .. } = snapshot;
                let id = SnapshotId { index, term, bytes: offset, checksum: self.checksum };
                Ok((snapshot, id))
            }
            _ => Err(SnapshotFileError::Damaged { offset, what: "it ends here" }),
        }
    }

    /// Takes one part off the front of `bytes`: gives its size, or `None` if it is not there whole.
    fn take_part(
        &mut self,
        bytes: &Bytes,
        payloads: &mut Vec<Bytes>,
    ) -> Result<Option<usize>, SnapshotFileError> {
        let damaged = |what| Err(SnapshotFileError::Damaged { offset: self.offset, what });
        if self.snapshot.is_none() {
            if bytes.len() < PAGE_BYTES {
                return Ok(None);
            }
            let page = bytes.slice(..PAGE_BYTES);
            self.checksum = LittleEndian::read_u32(&page[CHECKSUM_AT..]);
            if page[..8] != MAGIC || crc32c::crc32c(&page[..CHECKSUM_AT]) != self.checksum {
                return damaged("this is no header page");
            }
            self.snapshot = Some(header_of(page)?);
            return Ok(Some(PAGE_BYTES));
        }
        if self.is_ended {
            return if bytes.is_empty() { Ok(None) } else { damaged("bytes follow the end") };
        }
        if bytes.len() < CHUNK_HEADER_BYTES {
            return Ok(None);
        }
        let payload_bytes = LittleEndian::read_u32(bytes);
        let size = CHUNK_HEADER_BYTES + payload_bytes as usize;
        if size > MAX_CHUNK_BYTES {
            return damaged("this is no chunk");
        }
        if bytes.len() < size {
            return Ok(None);
        }
        let payload = bytes.slice(CHUNK_HEADER_BYTES..size);
        let checksum = chunk_checksum(self.checksum, payload_bytes, &payload);
        if checksum != LittleEndian::read_u32(&bytes[4..]) {
            return damaged("this chunk is not what was written");
        }
        self.checksum = checksum;
        self.is_ended = payload.is_empty();
        payloads.extend((!self.is_ended).then_some(payload));
        Ok(Some(size))
    }
}

/// What an intact header page says.
fn header_of(page: Bytes) -> Result<Snapshot, SnapshotFileError> {
    let version = LittleEndian::read_u32(&page[8..]);
    if version != VERSION {
        return Err(SnapshotFileError::UnknownVersion(version));
    }
    let mut fields = Reader::new(page.slice(16..));
    let mut decode = || {
        Ok(Snapshot {
            index: LogIndex(fields.u64()?),
            term: Term(fields.u64()?),
            stamp: ClusterTime(fields.u64()?),
            configuration: Configuration::decode(&mut fields)?,
        })
    };
    decode().map_err(SnapshotFileError::NotUnderstood)
}

#[cfg(test)]
#[path = "snapshot_file_tests.rs"]
mod tests;
