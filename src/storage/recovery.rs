//! How what is durable is found again.
//!
//! [`survey`] and [`sort_files`] read and judge, and change nothing; `inspect` runs them too, so what
//! it says is what a start does. [`remove`] and [`resume`] then act: they make durable what may not
//! be, and give the log's end. What is refused is never touched.
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

use std::collections::VecDeque;

use bytes::Bytes;

use super::disk::{self, Disk};
use super::restore::{is_unfinished_restore, restored_node};
use super::segment::{HeaderError, PAGE_BYTES, Record, RecordKind, Scan, SegmentHeader, page_floor, scan};
use super::snapshot_file::{Parser, SnapshotFileError, is_snapshot_name, snapshot_name};
use super::snapshots::UNFINISHED_SNAPSHOT;
use super::spares::{SPARE, Spares, UNFINISHED_SPARE, is_recycled_name};
use super::state::{Durable, State, StoredBatch, decode_snapshot};
use super::wal::{self, Active, Chain, Held, UNFINISHED_LARGE, Wal, segment_name, segment_number};
use super::{Batch, OpenError, Options, RecoveredSnapshot, WriteError};
use crate::planted::{Bug, is_planted};
use crate::types::{LogIndex, NodeId};
use crate::wire::DecodeError;
use crate::wire::entry::{Entry, SnapshotId};

/// Files that nothing is in yet: after a crash they are removed.
pub(super) const UNFINISHED: [&str; 3] = [UNFINISHED_SPARE, UNFINISHED_SNAPSHOT, UNFINISHED_LARGE];

/// What a directory holds.
#[derive(Debug)]
pub(super) struct Survey<F> {
    durable: Durable,
    /// The log, as far as the segments that are left hold it.
    pub(super) entries: Vec<Entry>,
    /// The index before the first of them.
    base: LogIndex,
    /// The snapshot after which the log begins.
    pub(super) snapshot: Option<RecoveredSnapshot>,
    held: VecDeque<Held>,
    last: Segment<F>,
    /// Segments of which no later one says that they are synced: they were written without.
    unproven: Vec<(String, F)>,
}

/// One segment, read whole.
#[derive(Debug)]
pub(super) struct Segment<F> {
    pub(super) name: String,
    file: F,
    pub(super) header: SegmentHeader,
    pub(super) bytes: Vec<u8>,
    pub(super) scan: Scan,
}

/// What a start does with the files that are no segments.
#[derive(Debug)]
pub(super) struct Sorted<F> {
    /// Those of the right size to make segments of.
    pub(super) spares: Spares<F>,
    /// What a crash left unfinished, spares of another size or too many, and snapshots other than
    /// the one that the log names: to be removed.
    pub(super) useless: Vec<String>,
}

/// Finds out which files are of use, and which are to be removed.
pub(super) fn sort_files<D: Disk>(
    disk: &mut D,
    options: Options,
    snapshot: Option<SnapshotId>,
) -> Result<Sorted<D::File>, OpenError> {
    let named = snapshot.map(|snapshot| snapshot_name(snapshot.index));
    let (mut fresh, mut recycled, mut useless) = (None, Spares::new(None, Vec::new()), Vec::new());
    for name in list(disk)? {
        let is_spare = name == SPARE || is_recycled_name(&name);
        if is_spare {
            let file = read(disk, &name, |disk| disk.open(&name))?;
            let is_right = read(disk, &name, |disk| disk.size(&file))? == options.segment_bytes;
            if is_right && name == SPARE {
                fresh = Some(file);
                continue;
            }
            if is_right && recycled.has_place() {
                recycled.add(name, file);
                continue;
            }
        }
        let is_unnamed = is_snapshot_name(&name) && Some(&name) != named.as_ref();
        let is_used_up = restored_node(&name).is_some() && snapshot.is_some();
        if is_spare || is_unnamed || is_used_up || UNFINISHED.contains(&name.as_str()) {
            useless.push(name);
        }
    }
    Ok(Sorted { spares: recycled.with_fresh(fresh), useless })
}

/// Removes these files.
pub(super) fn remove<D: Disk>(disk: &mut D, names: &[String]) -> Result<(), WriteError> {
    names.iter().try_for_each(|name| {
        let removed = disk.remove(name);
        removed.map_err(|cause| wal::failed(disk, "remove", name, &cause))
    })
}

/// The numbers of all segments, ascending.
pub(super) fn segment_numbers<D: Disk>(disk: &mut D) -> Result<Vec<u64>, OpenError> {
    let mut numbers: Vec<u64> = list(disk)?.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads the whole log of `node`, or of whichever node it is, into `survey`; nothing if there is
/// none yet. Where it fails, `survey` holds what was read until then.
pub(super) fn survey<D: Disk>(
    disk: &mut D,
    node: Option<NodeId>,
    survey: &mut Option<Survey<D::File>>,
) -> Result<(), OpenError> {
    for number in segment_numbers(disk)? {
        let node = node.or(survey.as_ref().map(|survey| survey.last.header.node));
        let segment = read_segment(disk, number, node)?;
        match survey {
            None => survey.insert(begin(disk, segment)?).replay(disk)?,
            Some(survey) => follow(disk, survey, segment)?,
        }
    }
    let Some(survey) = survey else { return check_new(disk) };
    let Segment { name, scan, .. } = &survey.last;
    if scan.claimed > scan.last && !is_planted(Bug::DamageCut) {
        let what = format!("record {} was stored, and cannot be read", scan.last + 1);
        return Err(damaged(disk, name, scan.end, what));
    }
    survey.join_snapshot(disk)
}

/// A directory without a log is a new one, unless it holds what only a log leaves.
fn check_new<D: Disk>(disk: &mut D) -> Result<(), OpenError> {
    let names = list(disk)?;
    if let Some(name) = names.iter().filter(|name| is_snapshot_name(name)).max() {
        let what = "the log that goes on after this snapshot is missing (where no majority is left, \
            `kvstore restore` makes a new cluster of the snapshot)";
        return Err(damaged(disk, name, 0, what.to_owned()));
    }
    match names.iter().filter(|name| is_recycled_name(name)).max() {
        Some(name) => Err(damaged(disk, name, 0, "the log that this was a part of is missing".to_owned())),
        None => Ok(()),
    }
}

/// Makes durable all that was found, and the number of this boot, which rises by a step that depends on
/// `drawn`. Gives the end of the log, and what it adds up to.
pub(super) fn resume<D: Disk>(
    disk: &mut D,
    options: Options,
    survey: Survey<D::File>,
    spares: Spares<D::File>,
    drawn: u64,
) -> Result<(Wal<D::File>, Durable), WriteError> {
    let Survey { mut durable, last: Segment { file, header, bytes, scan, .. }, unproven, held, .. } = survey;
    // Names may be known to this kernel, but not yet to the disk.
    wal::sync_names(disk, options)?;
    for (name, file) in &unproven {
        wal::sync(disk, options, name, file)?;
    }
    if let Some(SnapshotId { index, .. }) = durable.state.snapshot {
        // Whoever wrote it may have done so without syncs.
        let name = snapshot_name(index);
        let file = disk.open(&name).map_err(|cause| wal::failed(disk, "open", &name, &cause))?;
        wal::sync(disk, options, &name, &file)?;
    }
    let first_unproven = scan.records.iter().find(|record| record.header.link.number > scan.claimed);
    let tail = bytes[page_floor(scan.end)..scan.end].to_vec();
    let active = Active { file, header, offset: scan.end, tail };
    let chain = Chain { checksum: scan.chain, last: scan.last };
    let mut wal = Wal::resume(options, active, chain, scan.claimed, (spares, held));
    if let Some(record) = first_unproven {
        let from = page_floor(record.offset);
        wal.rewrite(disk, from, &bytes[from..scan.end])?;
    }
    durable.state.boot = durable.state.boot.next(drawn);
    wal.append(disk, &durable, (RecordKind::State, &durable.state.encode()))?;
    wal.mark_synced(disk)?;
    Ok((wal, durable))
}

/// Reads a segment, of this node if one is given.
pub(super) fn read_segment<D: Disk>(
    disk: &mut D,
    number: u64,
    node: Option<NodeId>,
) -> Result<Segment<D::File>, OpenError> {
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
    if let Some(asked) = node.filter(|node| *node != header.node) {
        return Err(OpenError::OtherNode { path: disk.path_of(&name), found: header.node, asked });
    }
    bytes.resize(size_bytes as usize, 0);
    let rest = &mut bytes[PAGE_BYTES..];
    read(disk, &name, |disk| disk::read_exact(disk, &file, PAGE_BYTES as u64, rest))?;
    let scan = scan(&bytes, &header);
    Ok(Segment { name, file, header, bytes, scan })
}

fn begin<D: Disk>(disk: &D, segment: Segment<D::File>) -> Result<Survey<D::File>, OpenError> {
    let durable = if segment.header.segment == 1 {
        Durable::new(State::new(segment.header.node, segment.header.incarnation))
    } else {
        oldest_state(disk, &segment)?
    };
    Ok(Survey {
        base: durable.state.last.0,
        durable,
        entries: Vec::new(),
        snapshot: None,
        held: VecDeque::from([Held::of(&segment.header)]),
        last: segment,
        unproven: Vec::new(),
    })
}

/// The state that the oldest segment begins with. By it the rest is understood; whether what is
/// missing before it was released is judged when the last snapshot is known.
fn oldest_state<D: Disk>(disk: &D, segment: &Segment<D::File>) -> Result<Durable, OpenError> {
    let first = segment.scan.records.first().filter(|record| record.header.kind == RecordKind::State);
    let Some(record) = first else { return Err(stateless(disk, &segment.name)) };
    let payload = Bytes::copy_from_slice(&segment.bytes[record.payload.clone()]);
    let state = State::decode(payload).map_err(|cause| {
        let (path, offset) = (disk.path_of(&segment.name), record.offset as u64);
        OpenError::NotUnderstood { path, offset, cause }
    })?;
    if state.node != segment.header.node || state.incarnation != segment.header.incarnation {
        let what = "the state is that of another directory".to_owned();
        return Err(damaged(disk, &segment.name, record.offset, what));
    }
    Ok(Durable::resume(state, segment.header.cluster))
}

fn stateless<D: Disk>(disk: &D, name: &str) -> OpenError {
    damaged(disk, name, PAGE_BYTES, "the state that every segment begins with is missing".to_owned())
}

fn follow<D: Disk>(disk: &D, survey: &mut Survey<D::File>, next: Segment<D::File>) -> Result<(), OpenError> {
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
    survey.held.push_back(Held::of(&survey.last.header));
    survey.replay(disk)
}

impl<F> Survey<F> {
    /// The snapshot that the log names.
    pub(super) fn snapshot_id(&self) -> Option<SnapshotId> {
        self.durable.state.snapshot
    }

    /// What the log adds up to, but for entries and snapshot.
    pub(super) fn durable(&self) -> &Durable {
        &self.durable
    }

    /// The last segment that was read.
    pub(super) fn last(&self) -> &Segment<F> {
        &self.last
    }

    /// Takes over the records of the last segment.
    fn replay<D: Disk<File = F>>(&mut self, disk: &D) -> Result<(), OpenError> {
        let records = std::mem::take(&mut self.last.scan.records);
        if records.first().is_none_or(|first| first.header.kind != RecordKind::State) {
            return Err(stateless(disk, &self.last.name));
        }
        for record in &records {
            let payload = Bytes::copy_from_slice(&self.last.bytes[record.payload.clone()]);
            let contradiction = match record.header.kind {
                RecordKind::State => self.replay_state(payload),
                RecordKind::Batch => self.replay_batch(payload),
                RecordKind::Snapshot => self.replay_snapshot(payload),
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
        if state.last != known.last || state.snapshot != known.snapshot {
            return Ok(Some("the state is that of another log".to_owned()));
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
                let kept = first.index.prev();
                self.entries.truncate(kept.distance_from(self.base) as usize);
                self.base = self.base.min(kept);
            }
            self.entries.extend(entries);
        }
        Ok(contradiction)
    }

    fn replay_snapshot(&mut self, payload: Bytes) -> Result<Option<String>, DecodeError> {
        let (id, resets_log) = decode_snapshot(payload)?;
        let contradiction = self.durable.snapshot_contradiction(&id, resets_log);
        if contradiction.is_none() {
            self.durable.apply_snapshot(id, resets_log);
            if resets_log {
                self.entries.clear();
                self.base = id.index;
            }
        }
        Ok(contradiction)
    }

    /// Looks for the snapshot that the log names, and leaves the entries after it. Without one the
    /// log must begin with entry 1.
    fn join_snapshot<D: Disk<File = F>>(&mut self, disk: &mut D) -> Result<(), OpenError> {
        let snapshot = self.durable.state.snapshot;
        let start = snapshot.map_or(LogIndex::ZERO, |snapshot| snapshot.index);
        if self.base > start {
            let oldest = segment_name(self.held[0].segment);
            let what = format!(
                "entries {} to {} are missing: they were in segments before it",
                start.next(),
                self.base
            );
            return Err(damaged(disk, &oldest, 0, what));
        }
        self.entries.drain(..start.distance_from(self.base) as usize);
        self.base = start;
        if let Some(id) = snapshot {
            let recovered = read_named_snapshot(disk, &id)?;
            self.durable.cluster = Some(recovered.snapshot.configuration.cluster);
            self.snapshot = Some(recovered);
        }
        Ok(())
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

/// The backup of which the directory was made and a cluster is still to be founded, and of which node
/// it was made.
pub(super) fn restored<D: Disk>(
    disk: &mut D,
    node: Option<NodeId>,
    survey: Option<&Survey<D::File>>,
) -> Result<Option<(NodeId, RecoveredSnapshot)>, OpenError> {
    let names = list(disk)?;
    if let Some(name) = names.iter().find(|name| is_unfinished_restore(name)) {
        return Err(OpenError::UnfinishedRestore { path: disk.path_of(name) });
    }
    if survey.is_some_and(|survey| survey.durable.cluster.is_some()) {
        return Ok(None);
    }
    let Some((name, found)) = names.iter().find_map(|name| Some((name, restored_node(name)?))) else {
        return Ok(None);
    };
    let node = node.or(survey.map(|survey| survey.last.header.node));
    if let Some(asked) = node.filter(|asked| *asked != found) {
        return Err(OpenError::OtherNode { path: disk.path_of(name), found, asked });
    }
    let (restored, _) = read_snapshot(disk, name)?;
    Ok(Some((found, restored)))
}

/// Reads the snapshot that the log names, and compares it with what the log says.
fn read_named_snapshot<D: Disk>(disk: &mut D, id: &SnapshotId) -> Result<RecoveredSnapshot, OpenError> {
    let name = snapshot_name(id.index);
    if !list(disk)?.contains(&name) {
        return Err(damaged(
            disk,
            &name,
            0,
            "the snapshot, after which the log begins, is missing".to_owned(),
        ));
    }
    let (snapshot, found) = read_snapshot(disk, &name)?;
    if found != *id {
        let what = format!("this is another snapshot ({found:?}) than the one that the log names ({id:?})");
        return Err(damaged(disk, &name, 0, what));
    }
    Ok(snapshot)
}

/// Reads a snapshot's file, all of it.
fn read_snapshot<D: Disk>(disk: &mut D, name: &str) -> Result<(RecoveredSnapshot, SnapshotId), OpenError> {
    const SLICE_BYTES: u64 = 256 << 10;
    let file = read(disk, name, |disk| disk.open(name))?;
    let size_bytes = read(disk, name, |disk| disk.size(&file))?;
    let (mut parser, mut state, mut offset) = (Parser::default(), Vec::new(), 0);
    while offset < size_bytes {
        let mut slice = vec![0; SLICE_BYTES.min(size_bytes - offset) as usize];
        read(disk, name, |disk| disk::read_exact(disk, &file, offset, &mut slice))?;
        offset += slice.len() as u64;
        state.extend(parser.feed(&slice).map_err(|error| snapshot_error(disk, name, error))?);
    }
    let (snapshot, id) = parser.finish().map_err(|error| snapshot_error(disk, name, error))?;
    Ok((RecoveredSnapshot { snapshot, state }, id))
}

fn snapshot_error<D: Disk>(disk: &D, name: &str, error: SnapshotFileError) -> OpenError {
    let path = disk.path_of(name);
    match error {
        SnapshotFileError::Damaged { offset, what } => {
            OpenError::Damaged { path, offset, what: what.to_owned() }
        }
        SnapshotFileError::UnknownVersion(version) => OpenError::UnknownVersion { path, version },
        SnapshotFileError::NotUnderstood(cause) => OpenError::NotUnderstood { path, offset: 0, cause },
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
