//! The writing end of the log: one write and one sync a turn.
//!
//! Files are prepared before they are needed, since a sync is cheap only when nothing but data
//! changes: no size, no block, no name. A **spare** is filled with written zeroes in slices of idle
//! turns (`spares.rs`). A segment begins as a spare: its header page, the state carried over and the
//! record that did not fit into the segment before are written and synced, and only then does the file
//! get the segment's name. So a file with that name always has what it began with, and whatever is
//! found wrong there is damage, never the trace of a crash. A segment that a snapshot has replaced
//! becomes a spare again.

use std::collections::VecDeque;
use std::io;

use super::disk::{self, Disk};
use super::segment::{
    Link, PAGE_BYTES, RecordKind, Salt, SegmentHeader, header_checksum, page_ceil, page_floor, put_record,
    record_bytes,
};
use super::spares::{SPARE, SpareProgress, Spares, ZEROES, recycled_name};
use super::state::Durable;
use super::{Options, WriteError};
use crate::planted::{Bug, is_planted};
use crate::types::LogIndex;
use crate::wire::Writer;

/// A segment of more than the usual size that is not finished.
pub(super) const UNFINISHED_LARGE: &str = "large.tmp";

/// The name of a segment's file.
pub(super) fn segment_name(segment: u64) -> String {
    format!("{segment:010}.wal")
}

/// The number of the segment in the file of this name, if it is one.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".wal")?.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// The end of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The checksum of the last record.
    pub(super) checksum: u32,
    /// Its number.
    pub(super) last: u64,
}

/// The segment that is written to.
///
/// Invariant: `tail` is what the page in which `offset` lies holds before `offset`. Every write
/// begins with it, at the start of that page, so nothing ever has to be read back and what stood
/// behind the records disappears page by page.
#[derive(Debug)]
pub(super) struct Active<F> {
    /// Its file.
    pub(super) file: F,
    /// Its first page.
    pub(super) header: SegmentHeader,
    /// Where the next record goes.
    pub(super) offset: usize,
    /// The bytes before it, from the start of the page on.
    pub(super) tail: Vec<u8>,
}

/// A segment of the log, as its release needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Its number.
    pub(super) segment: u64,
    /// The size of its file.
    pub(super) size_bytes: u64,
    /// The index that the next entry had when it began.
    pub(super) first_index: LogIndex,
}

impl Held {
    /// The segment with this header.
    pub(super) fn of(header: &SegmentHeader) -> Self {
        let SegmentHeader { segment, size_bytes, first_index, .. } = *header;
        Self { segment, size_bytes, first_index }
    }
}

/// The log's end, open for writing.
///
/// Invariants:
/// - At most one record is unsynced, and only while `append` runs (if syncing is on at all).
/// - `marked <= synced <= chain.last`, and no record says more than `synced` did when it was made.
/// - A page for a marker is left at the end of every segment.
#[derive(Debug)]
pub(super) struct Wal<F> {
    options: Options,
    active: Active<F>,
    chain: Chain,
    /// All records up to this number are durable.
    synced: u64,
    /// The highest number that the log itself says is durable.
    marked: u64,
    spares: Spares<F>,
    /// All segments, the active one last.
    held: VecDeque<Held>,
}

impl<F> Wal<F> {
    /// Begins the log of a new directory with its first segment.
    pub(super) fn found<D: Disk<File = F>>(
        disk: &mut D,
        options: Options,
        durable: &Durable,
        spares: Spares<F>,
    ) -> Result<Self, WriteError> {
        let mut opening =
            Opening { options, segment: 1, chain: Chain { checksum: 0, last: 0 }, synced: 0, spares };
        let (active, chain) = opening.begin(disk, durable, None)?;
        let synced = if options.sync { chain.last } else { 0 };
        let held = VecDeque::from([Held::of(&active.header)]);
        Ok(Self { options, active, chain, synced, marked: synced, spares: opening.spares, held })
    }

    /// Goes on with a log that was read; `synced` is what it proves, `held` its segments.
    pub(super) fn resume(
        options: Options,
        active: Active<F>,
        chain: Chain,
        synced: u64,
        (spares, held): (Spares<F>, VecDeque<Held>),
    ) -> Self {
        assert!(synced <= chain.last, "record {synced} is durable, but the last is {}", chain.last);
        Self { options, active, chain, synced, marked: synced, spares, held }
    }

    /// What the operator chose.
    pub(super) fn options(&self) -> Options {
        self.options
    }

    /// The size of a segment.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes
    }

    /// What is written already of segments to come.
    pub(super) fn spare_bytes(&self) -> u64 {
        self.spares.written_bytes(self.options.segment_bytes)
    }

    /// Releases the oldest segment if no entry above `upto` can lie in it: all of those were
    /// written when the next one had begun. It becomes a spare, or is removed; durably, before
    /// this returns. Gives whether there was one.
    pub(super) fn release<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        upto: LogIndex,
    ) -> Result<bool, WriteError> {
        if self.held.get(1).is_none_or(|next| next.first_index > upto.next()) {
            return Ok(false);
        }
        let oldest = self.held.pop_front().expect("there are two");
        let name = segment_name(oldest.segment);
        if oldest.size_bytes == self.options.segment_bytes && self.spares.has_place() {
            let file = disk.open(&name).map_err(|cause| failed(disk, "open", &name, &cause))?;
            let spare = recycled_name(oldest.segment);
            rename(disk, self.options, &name, &spare)?;
            self.spares.add(spare, file);
        } else {
            disk.remove(&name).map_err(|cause| failed(disk, "remove", &name, &cause))?;
            sync_names(disk, self.options)?;
        }
        Ok(true)
    }

    /// Writes again, and syncs, the `records` that stand in the active segment from `from` on.
    ///
    /// A process before this one may have seen its sync fail. Its bytes are then in the page cache
    /// and read well, but the kernel holds them for stored: only writing them makes them so.
    pub(super) fn rewrite<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        from: usize,
        records: &[u8],
    ) -> Result<(), WriteError> {
        assert_eq!(from + records.len(), self.active.offset, "rewriting must end where the records do");
        let name = segment_name(self.active.header.segment);
        write(disk, &name, &self.active.file, from, records)?;
        self.sync_active(disk)
    }

    /// Appends one record and makes it durable, in the next segment if this one is full.
    pub(super) fn append<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        durable: &Durable,
        (kind, payload): (RecordKind, &[u8]),
    ) -> Result<(), WriteError> {
        let end = self.active.offset + record_bytes(payload.len());
        if page_ceil(end) + PAGE_BYTES > self.active.header.size_bytes as usize {
            return self.roll(disk, durable, (kind, payload));
        }
        let start = page_floor(self.active.offset);
        let mut out = Writer::with_capacity(page_ceil(end) - start);
        out.put(&self.active.tail);
        let place = (self.active.header.salt(), self.active.offset);
        let link =
            Link { previous: self.chain.checksum, number: self.chain.last + 1, synced_upto: self.synced };
        let checksum = put_record(&mut out, place, link, kind, payload);
        let bytes = padded_to_page(out);
        write(disk, &segment_name(self.active.header.segment), &self.active.file, start, &bytes)?;

        self.active.offset = end;
        self.active.tail = bytes[page_floor(end) - start..end - start].to_vec();
        self.chain = Chain { checksum, last: link.number };
        self.marked = self.synced;
        self.sync_active(disk)
    }

    /// Writes a marker, unsynced, unless the log says already what is durable.
    pub(super) fn mark_synced<D: Disk<File = F>>(&mut self, disk: &mut D) -> Result<(), WriteError> {
        if self.marked == self.synced {
            return Ok(());
        }
        let offset = page_ceil(self.active.offset);
        let mut out = Writer::with_capacity(PAGE_BYTES);
        let link = Link { previous: self.chain.checksum, number: self.chain.last, synced_upto: self.synced };
        put_record(&mut out, (self.active.header.salt(), offset), link, RecordKind::Marker, &[]);
        let page = padded_to_page(out);
        write(disk, &segment_name(self.active.header.segment), &self.active.file, offset, &page)?;
        self.marked = self.synced;
        Ok(())
    }

    /// Prepares the next segment: writes and syncs at most `budget_bytes` of it.
    pub(super) fn prepare_spare<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        budget_bytes: u64,
    ) -> Result<SpareProgress, WriteError> {
        self.spares.prepare(disk, self.options, budget_bytes)
    }

    /// Whether there are more spares than one.
    pub(super) fn has_surplus(&self) -> bool {
        self.spares.has_surplus()
    }

    /// Removes one of them.
    pub(super) fn give_back<D: Disk<File = F>>(&mut self, disk: &mut D) -> Result<(), WriteError> {
        self.spares.give_back(disk, self.options)
    }

    fn roll<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        durable: &Durable,
        record: (RecordKind, &[u8]),
    ) -> Result<(), WriteError> {
        let segment = self.active.header.segment + 1;
        let spares = self.spares.take();
        let mut opening =
            Opening { options: self.options, segment, chain: self.chain, synced: self.synced, spares };
        let (active, chain) = opening.begin(disk, durable, Some(record))?;
        if self.options.sync {
            (self.synced, self.marked) = (chain.last, chain.last);
        }
        self.held.push_back(Held::of(&active.header));
        (self.active, self.chain, self.spares) = (active, chain, opening.spares);
        Ok(())
    }

    fn sync_active<D: Disk<File = F>>(&mut self, disk: &mut D) -> Result<(), WriteError> {
        sync(disk, self.options, &segment_name(self.active.header.segment), &self.active.file)?;
        if self.options.sync {
            self.synced = self.chain.last;
        }
        Ok(())
    }
}

/// The beginning of a segment: where the log stands, and the file to be made of.
struct Opening<F> {
    options: Options,
    segment: u64,
    chain: Chain,
    synced: u64,
    spares: Spares<F>,
}

impl<F> Opening<F> {
    /// Writes header page, state and `record` into a spare, makes them durable, and then gives the
    /// file its name. A batch larger than a segment gets a file of its own, as large as it needs.
    fn begin<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        durable: &Durable,
        record: Option<(RecordKind, &[u8])>,
    ) -> Result<(Active<F>, Chain), WriteError> {
        let state = durable.state.encode();
        let records: Vec<(RecordKind, &[u8])> =
            [(RecordKind::State, &state[..])].into_iter().chain(record).collect();
        let end = PAGE_BYTES + records.iter().map(|(_, payload)| record_bytes(payload.len())).sum::<usize>();
        let needed_bytes = (page_ceil(end) + PAGE_BYTES) as u64;
        let size_bytes = needed_bytes.max(self.options.segment_bytes);

        let header = self.header(durable, size_bytes, records.len() as u64);
        let (mut bytes, chain) = self.encode(&header, &records);
        let (blank, file) = if needed_bytes <= self.options.segment_bytes {
            self.spares.take_one(disk, self.options)?
        } else {
            bytes.resize(needed_bytes as usize, 0);
            (UNFINISHED_LARGE.to_owned(), create(disk, UNFINISHED_LARGE)?)
        };
        write(disk, &blank, &file, 0, &bytes)?;
        sync(disk, self.options, &blank, &file)?;
        rename(disk, self.options, &blank, &segment_name(self.segment))?;
        let tail = bytes[page_floor(end)..end].to_vec();
        Ok((Active { file, header, offset: end, tail }, chain))
    }

    fn header(&self, durable: &Durable, size_bytes: u64, records: u64) -> SegmentHeader {
        let last = self.chain.last + records;
        SegmentHeader {
            segment: self.segment,
            size_bytes,
            node: durable.state.node,
            incarnation: durable.state.incarnation,
            first_index: durable.next_index(),
            first_record: self.chain.last + 1,
            synced_upto: if self.options.sync { last } else { self.synced },
            previous: self.chain.checksum,
            cluster: durable.cluster,
        }
    }

    fn encode(&self, header: &SegmentHeader, records: &[(RecordKind, &[u8])]) -> (Vec<u8>, Chain) {
        let page = header.encode();
        let mut chain = Chain { checksum: header_checksum(&page), last: self.chain.last };
        let mut out = Writer::new();
        out.put(&page);
        for (kind, payload) in records {
            let place: (Salt, usize) = (header.salt(), out.len());
            let link = Link { previous: chain.checksum, number: chain.last + 1, synced_upto: self.synced };
            chain = Chain { checksum: put_record(&mut out, place, link, *kind, payload), last: link.number };
        }
        (padded_to_page(out), chain)
    }
}

fn padded_to_page(mut out: Writer) -> Vec<u8> {
    let padding = page_ceil(out.len()) - out.len();
    out.put(&ZEROES[..padding]);
    out.into_bytes().into()
}

pub(super) fn create<D: Disk>(disk: &mut D, name: &str) -> Result<D::File, WriteError> {
    let created = disk.create(name);
    created.map_err(|cause| failed(disk, "create", name, &cause))
}

pub(super) fn write<D: Disk>(
    disk: &mut D,
    name: &str,
    file: &D::File,
    offset: usize,
    bytes: &[u8],
) -> Result<(), WriteError> {
    let written = disk::write_all(disk, file, offset as u64, bytes);
    written.map_err(|cause| failed(disk, "write", name, &cause))
}

pub(super) fn sync<D: Disk>(
    disk: &mut D,
    options: Options,
    name: &str,
    file: &D::File,
) -> Result<(), WriteError> {
    let synced = if options.sync { disk.sync(file) } else { Ok(()) };
    let synced = if is_planted(Bug::SyncRetried) { synced.or_else(|_| disk.sync(file)) } else { synced };
    synced.map_err(|cause| failed(disk, "sync", name, &cause))
}

/// Removes a file that nothing builds on yet, and that need not be there.
pub(super) fn remove_unfinished<D: Disk>(disk: &mut D, name: &str) -> Result<(), WriteError> {
    match disk.remove(name) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(failed(disk, "remove", name, &cause)),
        _ => Ok(()),
    }
}

/// Makes all names durable.
pub(super) fn sync_names<D: Disk>(disk: &mut D, options: Options) -> Result<(), WriteError> {
    let must_sync = options.sync && !is_planted(Bug::NoDirectorySync);
    let synced = if must_sync { disk.sync_dir() } else { Ok(()) };
    synced.map_err(|cause| failed(disk, "sync the directory of", SPARE, &cause))
}

pub(super) fn rename<D: Disk>(
    disk: &mut D,
    options: Options,
    from: &str,
    to: &str,
) -> Result<(), WriteError> {
    let renamed = disk.rename(from, to);
    renamed.map_err(|cause| failed(disk, "rename", from, &cause))?;
    sync_names(disk, options)
}

/// The error that ends the process.
pub(super) fn failed<D: Disk>(disk: &D, action: &'static str, name: &str, cause: &io::Error) -> WriteError {
    let is_full = matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let cure = match cause.kind() {
        _ if is_full => " (free some space first)",
        io::ErrorKind::ReadOnlyFilesystem => " (mount it for writing first)",
        _ => "",
    };
    WriteError { action, path: disk.path_of(name), cause: format!("{cause}{cure}"), is_full }
}
