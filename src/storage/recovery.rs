//! How what is durable is found again.
//!
//! [`survey`] reads and judges, and changes nothing. [`resume`] then makes durable what may not be,
//! and gives the log's end. What survey refuses is never touched.
//!
//! **Torn tail or damage?** A crash may leave traces in one place only: at the end of the last
//! segment, in what was not synced. So the first record *b* that is missing or invalid is
//! a torn tail **if and only if** it lies in the last segment and nothing there, before it or
//! behind it, says "synced up to *b*" or more; then nobody was ever promised anything about it and
//! it is dropped. Otherwise it is damage, and the node does not start.
//!
//! What is dropped stays where it is until it is written over. It can never come back: the next
//! record, which begins where it began, holds the number of the new boot, so the chain goes on in
//! another way; and what it says about syncs stays true.

use bytes::Bytes;

use super::disk::{self, Disk};
use super::segment::{HeaderError, PAGE_BYTES, Record, RecordKind, Scan, SegmentHeader, page_floor, scan};
use super::state::{Durable, State, StoredBatch};
use super::wal::{self, Active, Chain, SPARE, UNFINISHED, Wal, segment_name, segment_number};
use super::{Batch, OpenError, Options, WriteError};
use crate::types::NodeId;
use crate::wire::DecodeError;
use crate::wire::entry::Entry;

/// What a directory holds.
#[derive(Debug)]
pub(super) struct Survey<F> {
    durable: Durable,
    /// The log.
    pub(super) entries: Vec<Entry>,
    last: Segment<F>,
    /// Segments of which no later one says that they are synced: they were written without.
    unproven: Vec<(String, F)>,
}

#[derive(Debug)]
struct Segment<F> {
    name: String,
    file: F,
    header: SegmentHeader,
    bytes: Vec<u8>,
    scan: Scan,
}

/// Removes what a crash left unfinished. Gives the spare, if there is one of the right size.
pub(super) fn remove_unfinished<D: Disk>(
    disk: &mut D,
    options: Options,
) -> Result<Option<D::File>, OpenError> {
    let mut spare = None;
    for name in list(disk)? {
        if name == SPARE {
            let file = read(disk, &name, |disk| disk.open(&name))?;
            if read(disk, &name, |disk| disk.size(&file))? == options.segment_bytes {
                spare = Some(file);
                continue;
            }
        } else if !name.ends_with(UNFINISHED) {
            continue;
        }
        let removed = disk.remove(&name);
        removed.map_err(|cause| wal::failed(disk, "remove", &name, &cause))?;
    }
    Ok(spare)
}

/// Reads the whole log of `node`; `None` if there is none yet.
pub(super) fn survey<D: Disk>(disk: &mut D, node: NodeId) -> Result<Option<Survey<D::File>>, OpenError> {
    let mut numbers: Vec<u64> = list(disk)?.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    let mut survey = None;
    for number in numbers {
        let segment = read_segment(disk, number, node)?;
        survey = Some(match survey {
            None => begin(disk, segment)?,
            Some(survey) => follow(disk, survey, segment)?,
        });
    }
    if let Some(Survey { last: Segment { name, scan, .. }, .. }) = &survey
        && scan.claimed > scan.last
    {
        let what = format!("record {} was stored, and cannot be read", scan.last + 1);
        return Err(damaged(disk, name, scan.end, what));
    }
    Ok(survey)
}

/// Makes all that was found durable, and this boot's number, and gives the end of the log and
/// what it adds up to.
pub(super) fn resume<D: Disk>(
    disk: &mut D,
    options: Options,
    survey: Survey<D::File>,
    spare: Option<D::File>,
) -> Result<(Wal<D::File>, Durable), WriteError> {
    let Survey { mut durable, last: Segment { file, header, bytes, scan, .. }, unproven, .. } = survey;
    // Names may be known to this kernel, but not yet to the disk.
    wal::sync_names(disk, options)?;
    for (name, file) in &unproven {
        wal::sync(disk, options, name, file)?;
    }
    let first_unproven = scan.records.iter().find(|record| record.header.link.number > scan.claimed);
    let tail = bytes[page_floor(scan.end)..scan.end].to_vec();
    let active = Active { file, header, offset: scan.end, tail };
    let chain = Chain { checksum: scan.chain, last: scan.last };
    let mut wal = Wal::resume(options, active, chain, scan.claimed, spare);
    if let Some(record) = first_unproven {
        let from = page_floor(record.offset);
        wal.rewrite(disk, from, &bytes[from..scan.end])?;
    }
    durable.state.boot = durable.state.boot.next();
    wal.append(disk, &durable, (RecordKind::State, &durable.state.encode()))?;
    wal.mark_synced(disk)?;
    Ok((wal, durable))
}

fn read_segment<D: Disk>(disk: &mut D, number: u64, node: NodeId) -> Result<Segment<D::File>, OpenError> {
    let name = segment_name(number);
    let file = read(disk, &name, |disk| disk.open(&name))?;
    let size_bytes = read(disk, &name, |disk| disk.size(&file))?;
    if size_bytes < PAGE_BYTES as u64 {
        return Err(damaged(disk, &name, size_bytes as usize, "the file is cut short".to_owned()));
    }
    let mut bytes = vec![0; PAGE_BYTES];
    read(disk, &name, |disk| disk::read_exact(disk, &file, 0, &mut bytes))?;
    let header = SegmentHeader::decode(&bytes).map_err(|error| match error {
        HeaderError::Damaged => damaged(disk, &name, 0, "this is no header page".to_owned()),
        HeaderError::Version(version) => OpenError::UnknownVersion { path: disk.path_of(&name), version },
    })?;
    if header.segment != number || header.size_bytes != size_bytes || size_bytes % PAGE_BYTES as u64 != 0 {
        let (was, of) = (header.segment, header.size_bytes);
        let what = format!("this is segment {was} of {of} bytes in a file of {size_bytes}");
        return Err(damaged(disk, &name, 0, what));
    }
    if header.node != node {
        return Err(OpenError::OtherNode { path: disk.path_of(&name), found: header.node, asked: node });
    }
    bytes.resize(size_bytes as usize, 0);
    let rest = &mut bytes[PAGE_BYTES..];
    read(disk, &name, |disk| disk::read_exact(disk, &file, PAGE_BYTES as u64, rest))?;
    let scan = scan(&bytes, &header);
    Ok(Segment { name, file, header, bytes, scan })
}

fn begin<D: Disk>(disk: &D, segment: Segment<D::File>) -> Result<Survey<D::File>, OpenError> {
    if segment.header.segment != 1 {
        return Err(damaged(disk, &segment.name, 0, "the segments before it are missing".to_owned()));
    }
    let state = State::new(segment.header.node, segment.header.incarnation);
    let (durable, entries) = (Durable::new(state), Vec::new());
    let mut survey = Survey { durable, entries, last: segment, unproven: Vec::new() };
    survey.replay(disk)?;
    Ok(survey)
}

fn follow<D: Disk>(
    disk: &D,
    mut survey: Survey<D::File>,
    next: Segment<D::File>,
) -> Result<Survey<D::File>, OpenError> {
    let last = std::mem::replace(&mut survey.last, next);
    let next = &survey.last;
    let continues = next.header.segment == last.header.segment + 1
        && next.header.incarnation == last.header.incarnation
        && next.header.first_record == last.scan.last + 1
        && next.header.previous == last.scan.chain;
    if !continues {
        let what =
            format!("record {} is damaged or missing: {} does not follow", last.scan.last + 1, next.name);
        return Err(damaged(disk, &last.name, last.scan.end, what));
    }
    if next.header.synced_upto < next.header.first_record {
        survey.unproven.push((last.name, last.file));
    }
    survey.replay(disk)?;
    Ok(survey)
}

impl<F> Survey<F> {
    /// Takes over the records of the last segment.
    fn replay<D: Disk<File = F>>(&mut self, disk: &D) -> Result<(), OpenError> {
        let records = std::mem::take(&mut self.last.scan.records);
        if records.first().is_none_or(|first| first.header.kind != RecordKind::State) {
            let what = "the state that every segment begins with is missing".to_owned();
            return Err(damaged(disk, &self.last.name, PAGE_BYTES, what));
        }
        for record in &records {
            let payload = Bytes::copy_from_slice(&self.last.bytes[record.payload.clone()]);
            let contradiction = match record.header.kind {
                RecordKind::State => self.replay_state(payload),
                RecordKind::Batch => self.replay_batch(payload),
                RecordKind::Marker => unreachable!("a marker is no link of the chain"),
            };
            self.judge(disk, record, contradiction)?;
        }
        self.last.scan.records = records;
        Ok(())
    }

    fn replay_state(&mut self, payload: Bytes) -> Result<Option<String>, DecodeError> {
        let state = State::decode(payload)?;
        let known = &self.durable.state;
        if state.node != known.node || state.incarnation != known.incarnation || state.boot < known.boot {
            return Ok(Some("the state is that of another directory".to_owned()));
        }
        let batch = Batch { hard_state: Some(state.hard_state), ..Batch::default() };
        let contradiction = self.durable.contradiction(&batch);
        self.durable.state = state;
        Ok(contradiction)
    }

    fn replay_batch(&mut self, payload: Bytes) -> Result<Option<String>, DecodeError> {
        let stored = StoredBatch::decode(payload)?;
        let contradiction = self.durable.contradiction(&stored.as_batch());
        if contradiction.is_none() {
            self.durable.apply(&stored.as_batch());
            let entries = stored.into_entries();
            if let Some(first) = entries.first() {
                self.entries.truncate(first.index.prev().0 as usize);
            }
            self.entries.extend(entries);
        }
        Ok(contradiction)
    }

    fn judge<D: Disk<File = F>>(
        &self,
        disk: &D,
        record: &Record,
        contradiction: Result<Option<String>, DecodeError>,
    ) -> Result<(), OpenError> {
        match contradiction {
            Ok(None) => Ok(()),
            Ok(Some(what)) => Err(damaged(disk, &self.last.name, record.offset, what)),
            Err(cause) => {
                let (path, offset) = (disk.path_of(&self.last.name), record.offset as u64);
                Err(OpenError::NotUnderstood { path, offset, cause })
            }
        }
    }
}

fn list<D: Disk>(disk: &mut D) -> Result<Vec<String>, OpenError> {
    read(disk, "", Disk::list)
}

fn read<D: Disk, T>(
    disk: &mut D,
    name: &str,
    act: impl FnOnce(&mut D) -> std::io::Result<T>,
) -> Result<T, OpenError> {
    act(disk).map_err(|cause| OpenError::Read { path: disk.path_of(name), cause })
}

fn damaged<D: Disk>(disk: &D, name: &str, offset: usize, what: String) -> OpenError {
    OpenError::Damaged { path: disk.path_of(name), offset: offset as u64, what }
}
