//! The bytes of one segment of the log, and how they are read. No file is touched here.
//!
//! ```text
//! segment: header page | record | record | ... | zeroes | marker page
//!
//! header page, 4096 bytes            record, a multiple of 8 bytes
//! offset bytes                       offset bytes
//!    0    8  magic "KVSTLOG\n"          0    4  checksum of this header
//!    8    4  version, 3                 4    4  checksum of the record before
//!   12    4  zero                       8    8  number, one more than the record before
//!   16    8  segment number            16    8  synced up to this number
//!   24    8  bytes of the file         24    4  bytes of payload
//!   32    8  node id                   28    4  checksum of payload and padding
//!   40    8  incarnation               32    1  kind: 1 state, 2 batch, 3 marker, 4 snapshot
//!   48    8  index of the next entry   33    7  zero
//!   56    8  number of the 1st record  40    n  payload
//!   64    8  synced up to this number  40+n     zeroes up to a multiple of 8
//!   72    4  checksum of the last record of the segment before, 0 in the first segment
//!   76    1  1 if the cluster is known, and then
//!   77   16  cluster id
//!   93 3999  zeroes
//! 4092    4  checksum of the 4092 bytes before
//! ```
//!
//! Integers are little-endian, checksums CRC-32C. The checksum of a record's header is taken over
//! incarnation, segment number and offset (`u64` each) and then bytes 4 to 39, so it can be
//! checked by itself, anywhere, and holds for this place of this segment of this directory alone:
//! what an earlier use of the same file left behind is never valid, nor what a client put into a
//! value. It covers the payload's checksum and the checksum of the record before, so records form
//! a chain: none can be dropped, doubled or swapped.
//!
//! A header page is valid **if and only if** its magic and its checksum match; its version is
//! looked at after that. A record is valid **if and only if** (1) its header's checksum matches
//! and its kind is known, (2) it continues the chain by number and checksum, (3) its payload lies
//! inside the file and matches its checksum. The records of a segment are the valid ones from the
//! header page on, without a gap.
//!
//! A **marker** is no link of the chain: it stands at the start of the page after the last record,
//! unsynced, and states what is synced while no later record does. The next record may be written
//! over it. Standing in another page it does not share the fate of the record that it vouches for.

use std::ops::Range;

use byteorder::{ByteOrder, LittleEndian};
use bytes::Bytes;

use crate::types::{ClusterId, Incarnation, LogIndex, NodeId};
use crate::wire::Writer;

/// What is written at once: devices and page caches work in pages of this size.
pub(super) const PAGE_BYTES: usize = 4096;
/// Bytes of a record before its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 40;
/// The version of everything in the directory.
pub(super) const VERSION: u32 = 3;

const MAGIC: [u8; 8] = *b"KVSTLOG\n";
const CHECKSUM_AT: usize = PAGE_BYTES - 4;

/// The start of the page in which `offset` lies.
pub(super) fn page_floor(offset: usize) -> usize {
    offset - offset % PAGE_BYTES
}

/// The end of the page in which `offset` lies, or `offset` where it is one.
pub(super) fn page_ceil(offset: usize) -> usize {
    offset.next_multiple_of(PAGE_BYTES)
}

/// The bytes that a record with this payload takes.
pub(super) fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + payload_bytes).next_multiple_of(8)
}

/// The first page of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The segment's number, also its name. The first is 1; each has its number to itself for ever.
    pub(super) segment: u64,
    /// The size of the file, which does not change while it has this number.
    pub(super) size_bytes: u64,
    /// The node that the directory belongs to.
    pub(super) node: NodeId,
    /// The directory's incarnation.
    pub(super) incarnation: Incarnation,
    /// The index that the next entry had when the segment began.
    pub(super) first_index: LogIndex,
    /// The number of its first record.
    pub(super) first_record: u64,
    /// All records up to this number were durable before the file got its name.
    pub(super) synced_upto: u64,
    /// The checksum of the last record before it.
    pub(super) previous: u32,
    /// The cluster, once the node belongs to one.
    pub(super) cluster: Option<ClusterId>,
}

/// Why a page is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// The magic or the checksum does not match.
    Damaged,
    /// It is intact, and of this other version.
    Version(u32),
}

impl SegmentHeader {
    /// The page.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(PAGE_BYTES);
        out.put(&MAGIC);
        out.u32(VERSION);
        out.u32(0);
        out.u64(self.segment);
        out.u64(self.size_bytes);
        out.u64(self.node.0);
        out.u64(self.incarnation.0);
        out.u64(self.first_index.0);
        out.u64(self.first_record);
        out.u64(self.synced_upto);
        out.u32(self.previous);
        out.bool(self.cluster.is_some());
        out.u128(self.cluster.map_or(0, |cluster| cluster.0));
        out.put(&vec![0; CHECKSUM_AT - out.len()]);
        let checksum = crc32c::crc32c(out.as_mut_slice());
        out.u32(checksum);
        out.into_bytes()
    }

    /// Reads a page.
    pub(super) fn decode(page: &[u8]) -> Result<Self, HeaderError> {
        if page.len() != PAGE_BYTES || page[..8] != MAGIC || header_checksum(page) != sum(page) {
            return Err(HeaderError::Damaged);
        }
        let version = LittleEndian::read_u32(&page[8..]);
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let u64_at = |offset: usize| LittleEndian::read_u64(&page[offset..]);
        Ok(Self {
            segment: u64_at(16),
            size_bytes: u64_at(24),
            node: NodeId(u64_at(32)),
            incarnation: Incarnation(u64_at(40)),
            first_index: LogIndex(u64_at(48)),
            first_record: u64_at(56),
            synced_upto: u64_at(64),
            previous: LittleEndian::read_u32(&page[72..]),
            cluster: (page[76] == 1).then(|| ClusterId(LittleEndian::read_u128(&page[77..]))),
        })
    }

    /// What the checksums of its records begin with.
    pub(super) fn salt(&self) -> Salt {
        Salt { incarnation: self.incarnation, segment: self.segment }
    }
}

/// The checksum that a header page carries: the first link of its records' chain.
pub(super) fn header_checksum(page: &[u8]) -> u32 {
    LittleEndian::read_u32(&page[CHECKSUM_AT..])
}

fn sum(page: &[u8]) -> u32 {
    crc32c::crc32c(&page[..CHECKSUM_AT])
}

/// The segment in which a record stands; with the offset, what its checksum begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Salt {
    /// The directory's incarnation.
    pub(super) incarnation: Incarnation,
    /// The segment's number.
    pub(super) segment: u64,
}

impl Salt {
    fn checksum(self, offset: usize, header: &[u8]) -> u32 {
        let mut salt = [0; 24];
        LittleEndian::write_u64(&mut salt[0..], self.incarnation.0);
        LittleEndian::write_u64(&mut salt[8..], self.segment);
        LittleEndian::write_u64(&mut salt[16..], offset as u64);
        crc32c::crc32c_append(crc32c::crc32c(&salt), &header[4..RECORD_HEADER_BYTES])
    }
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum RecordKind {
    /// All durable state but the entries: first in every segment, and at every boot.
    State = 1,
    /// What one turn made durable.
    Batch = 2,
    /// What is synced, no link of the chain.
    Marker = 3,
    /// A snapshot stands for the log up to its index from now on.
    Snapshot = 4,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::State, Self::Batch, Self::Marker, Self::Snapshot].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// How a record follows the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// The checksum of the record before; of the header page for a segment's first.
    pub(super) previous: u32,
    /// The record's number; a marker repeats that of the record before.
    pub(super) number: u64,
    /// All records up to this number were durable when this one was made.
    pub(super) synced_upto: u64,
}

/// The fixed fields before a record's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    /// Its own checksum, which the next record names.
    pub(super) checksum: u32,
    /// Its place in the chain.
    pub(super) link: Link,
    /// What its payload is.
    pub(super) kind: RecordKind,
    payload_bytes: u32,
    payload_checksum: u32,
}

/// Appends a record that will stand at `offset`, and gives its checksum.
///
/// # Panics
/// If the payload has 4 GiB or more; the caps on a turn's work lie far below.
pub(super) fn put_record(
    out: &mut Writer,
    (salt, offset): (Salt, usize),
    link: Link,
    kind: RecordKind,
    payload: &[u8],
) -> u32 {
    let start = out.len();
    let body = start + RECORD_HEADER_BYTES;
    out.put(&[0; RECORD_HEADER_BYTES]);
    out.put(payload);
    out.put(&[0; 8][..out.len().next_multiple_of(8) - out.len()]);
    let bytes = out.as_mut_slice();
    let payload_checksum = crc32c::crc32c(&bytes[body..]);
    let header = &mut bytes[start..body];
    LittleEndian::write_u32(&mut header[4..], link.previous);
    LittleEndian::write_u64(&mut header[8..], link.number);
    LittleEndian::write_u64(&mut header[16..], link.synced_upto);
    LittleEndian::write_u32(&mut header[24..], u32::try_from(payload.len()).expect("a batch is below 4 GiB"));
    LittleEndian::write_u32(&mut header[28..], payload_checksum);
    header[32] = kind as u8;
    let checksum = salt.checksum(offset, header);
    LittleEndian::write_u32(header, checksum);
    checksum
}

/// The record header that stands at `offset`, if what stands there is one.
fn header_at(bytes: &[u8], offset: usize, salt: Salt) -> Option<RecordHeader> {
    let header = bytes.get(offset..offset + RECORD_HEADER_BYTES)?;
    let kind = RecordKind::from_byte(header[32])?;
    let checksum = LittleEndian::read_u32(header);
    (salt.checksum(offset, header) == checksum).then(|| RecordHeader {
        checksum,
        link: Link {
            previous: LittleEndian::read_u32(&header[4..]),
            number: LittleEndian::read_u64(&header[8..]),
            synced_upto: LittleEndian::read_u64(&header[16..]),
        },
        kind,
        payload_bytes: LittleEndian::read_u32(&header[24..]),
        payload_checksum: LittleEndian::read_u32(&header[28..]),
    })
}

/// Where the payload lies that belongs to the header at `offset`, if it is intact.
fn payload_at(bytes: &[u8], offset: usize, header: &RecordHeader) -> Option<Range<usize>> {
    let payload_bytes = header.payload_bytes as usize;
    let start = offset + RECORD_HEADER_BYTES;
    let padded = bytes.get(start..offset + record_bytes(payload_bytes))?;
    (crc32c::crc32c(padded) == header.payload_checksum).then_some(start..start + payload_bytes)
}

/// A valid record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Where it begins.
    pub(super) offset: usize,
    /// Its fixed fields.
    pub(super) header: RecordHeader,
    /// Where its payload lies.
    pub(super) payload: Range<usize>,
}

/// What the bytes of a segment hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Its records.
    pub(super) records: Vec<Record>,
    /// Where they end: there, the next would stand, or did.
    pub(super) end: usize,
    /// The checksum of the last record; of the header page if there is none.
    pub(super) chain: u32,
    /// The number of the last record.
    pub(super) last: u64,
    /// The highest `synced_upto` in this segment, in whatever intact header it stands, also behind
    /// `end`: each was written after a sync had succeeded.
    pub(super) claimed: u64,
}

/// Reads a whole segment whose header page was found valid.
pub(super) fn scan(bytes: &[u8], header: &SegmentHeader) -> Scan {
    let mut scan = Scan {
        records: Vec::new(),
        end: PAGE_BYTES,
        chain: header_checksum(&bytes[..PAGE_BYTES]),
        last: header.first_record.saturating_sub(1),
        claimed: header.synced_upto,
    };
    while let Some(record) = next_record(bytes, header.salt(), &scan) {
        scan.end += record_bytes(record.payload.len());
        scan.chain = record.header.checksum;
        scan.last = record.header.link.number;
        scan.claimed = scan.claimed.max(record.header.link.synced_upto);
        scan.records.push(record);
    }
    let later = (scan.end..bytes.len()).step_by(8);
    let claims = later.filter_map(|offset| header_at(bytes, offset, header.salt()));
    scan.claimed = claims.map(|claim| claim.link.synced_upto).fold(scan.claimed, u64::max);
    scan
}

fn next_record(bytes: &[u8], salt: Salt, scan: &Scan) -> Option<Record> {
    let offset = scan.end;
    let header = header_at(bytes, offset, salt)?;
    let follows = header.link.previous == scan.chain && header.link.number == scan.last + 1;
    if !follows || header.kind == RecordKind::Marker {
        return None;
    }
    let payload = payload_at(bytes, offset, &header)?;
    Some(Record { offset, header, payload })
}

/// What stands where the next record would begin, and is none: the traces of a write that did not
/// become durable. Whole pages behind the records may as well be of an earlier use of the file; they
/// are not counted.
pub(super) fn torn_tail(bytes: &[u8], header: &SegmentHeader, scan: &Scan) -> Option<Range<usize>> {
    let end = match header_at(bytes, scan.end, header.salt()) {
        Some(marker) if marker.kind == RecordKind::Marker => return None,
        Some(torn) => bytes.len().min(scan.end + record_bytes(torn.payload_bytes as usize)),
        None => {
            let page = &bytes[scan.end..page_ceil(scan.end).min(bytes.len())];
            scan.end + page.iter().rposition(|byte| *byte != 0)? + 1
        }
    };
    Some(scan.end..end)
}

#[cfg(test)]
#[path = "segment_tests.rs"]
pub(super) mod tests;
