//! What a directory holds, and what a start would make of it, without changing a byte.
//!
//! The judgement is that of recovery itself: [`inspect`] runs the part of it that a start runs before
//! its first write. Only the description of single files is made here, of the same bytes by the same
//! parsers, so that the files behind a damaged one are looked at too.

use bytes::Bytes;

use super::disk::Disk;
use super::recovery::{self, Segment, Survey};
use super::restore::restored_node;
use super::segment::{RecordKind, torn_tail};
use super::snapshot_file::is_snapshot_name;
use super::spares::{SPARE, is_recycled_name};
use super::state::StoredBatch;
use super::wal;
use super::{OpenError, Options, Recovered, RecoveredSnapshot, recovered};
use crate::types::{ClusterId, Incarnation, LogIndex, NodeId, Term};
use crate::wire::entry::SnapshotId;

/// What [`inspect`] found.
#[derive(Debug)]
pub struct Inspection {
    /// The segments in their order; what is wrong with one by itself stands in its place.
    pub segments: Vec<Result<SegmentReport, OpenError>>,
    /// All other files, by name.
    pub files: Vec<FileReport>,
    /// What the log adds up to, as far as it can be read; none in a new directory. Its boot is the
    /// last one that was begun.
    pub recovered: Option<Recovered>,
    /// The backup of which the directory was made, if no cluster is founded with it yet, and the node
    /// for which.
    pub restored: Option<(NodeId, RecoveredSnapshot)>,
    /// The snapshot that the log names.
    pub snapshot: Option<SnapshotId>,
    /// What a start would come to.
    pub verdict: Result<Start, OpenError>,
}

/// One segment of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// The file's name.
    pub name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How many of them records take, the header page included.
    pub used_bytes: u64,
    /// How many records it has.
    pub records: usize,
    /// The first and the last index of the entries in it.
    pub indexes: Option<(LogIndex, LogIndex)>,
    /// Their lowest and highest term.
    pub terms: Option<(Term, Term)>,
    /// Whose it is.
    pub node: NodeId,
    /// The directory's incarnation.
    pub incarnation: Incarnation,
    /// The cluster, if the node belonged to one when the segment began.
    pub cluster: Option<ClusterId>,
}

/// A file that is no segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Its name.
    pub name: String,
    /// Its size in bytes; none if it cannot be opened.
    pub size_bytes: Option<u64>,
    /// What a start makes of it.
    pub used_as: FileUse,
}

/// What a start makes of a file that is no segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileUse {
    /// The snapshot after which the log begins.
    Snapshot,
    /// A blank segment, kept for use.
    Spare,
    /// What was a segment, kept to be used again.
    Recycled,
    /// The backup of which the directory was made, and of which a cluster is to be founded.
    Restored,
    /// Nothing: a crash left it unfinished, or it is not needed. It is removed.
    Removed,
    /// Nothing: it is left alone.
    Ignored,
}

/// A start that would succeed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// What it would drop of the last segment.
    pub torn: Option<TornTail>,
}

/// The traces of a write that never became durable, promised to nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The segment's file.
    pub path: String,
    /// Where they begin, in bytes.
    pub offset: u64,
    /// How many bytes they are.
    pub bytes: u64,
}

/// Reads a whole directory as a start would, and says what it would come to. Nothing is written: a
/// disk that can only be read will do.
pub fn inspect<D: Disk>(disk: &mut D, options: Options) -> Inspection {
    let numbers = recovery::segment_numbers(disk).unwrap_or_default();
    let segments = numbers.into_iter().map(|number| {
        let segment = recovery::read_segment(disk, number, None)?;
        Ok(report(&segment))
    });
    let segments = segments.collect();
    let (mut survey, mut restored) = (None, None);
    let verdict = judge(disk, options.rounded(), &mut survey, &mut restored);
    let snapshot = survey.as_ref().and_then(Survey::snapshot_id);
    let files = files(disk, options.rounded(), snapshot, verdict.is_ok());
    let recovered = survey.map(|mut survey| {
        let (snapshot, entries) = (survey.snapshot.take(), std::mem::take(&mut survey.entries));
        recovered(&survey.durable().state, snapshot, entries)
    });
    Inspection { segments, files, recovered, restored, snapshot, verdict }
}

/// What a start does before it writes anything.
fn judge<D: Disk>(
    disk: &mut D,
    options: Options,
    survey: &mut Option<Survey<D::File>>,
    restored: &mut Option<(NodeId, RecoveredSnapshot)>,
) -> Result<Start, OpenError> {
    recovery::survey(disk, None, survey)?;
    *restored = recovery::restored(disk, None, survey.as_ref())?;
    let snapshot = survey.as_ref().and_then(Survey::snapshot_id);
    recovery::sort_files(disk, options, snapshot)?;
    let torn = survey.as_ref().and_then(|survey| {
        let Segment { name, header, bytes, scan, .. } = survey.last();
        let torn = torn_tail(bytes, header, scan)?;
        let (offset, bytes) = (torn.start as u64, torn.len() as u64);
        Some(TornTail { path: disk.path_of(name), offset, bytes })
    });
    Ok(Start { torn })
}

fn report<F>(segment: &Segment<F>) -> SegmentReport {
    let Segment { name, header, bytes, scan, .. } = segment;
    let batches = scan.records.iter().filter(|record| record.header.kind == RecordKind::Batch);
    // A batch that is not understood is what the verdict is about.
    let batches = batches.filter_map(|record| {
        StoredBatch::decode(Bytes::copy_from_slice(&bytes[record.payload.clone()])).ok()
    });
    let (mut indexes, mut terms) = (None, None);
    for entry in batches.flat_map(StoredBatch::into_entries) {
        widen(&mut indexes, entry.index);
        widen(&mut terms, entry.term);
    }
    SegmentReport {
        name: name.clone(),
        size_bytes: header.size_bytes,
        used_bytes: scan.end as u64,
        records: scan.records.len(),
        indexes,
        terms,
        node: header.node,
        incarnation: header.incarnation,
        cluster: header.cluster,
    }
}

fn widen<T: Ord + Copy>(range: &mut Option<(T, T)>, value: T) {
    let (low, high) = range.unwrap_or((value, value));
    *range = Some((low.min(value), high.max(value)));
}

/// All files but the segments.
fn files<D: Disk>(
    disk: &mut D,
    options: Options,
    snapshot: Option<SnapshotId>,
    would_start: bool,
) -> Vec<FileReport> {
    let useless = recovery::sort_files(disk, options, snapshot).map(|sorted| sorted.useless);
    let mut names = disk.list().unwrap_or_default();
    names.retain(|name| wal::segment_number(name).is_none());
    names.sort_unstable();
    let report = |name: String| {
        let size_bytes = disk.open(&name).and_then(|file| disk.size(&file)).ok();
        let is_useless = useless.as_ref().is_ok_and(|useless| useless.contains(&name));
        let is_useless = is_useless || recovery::UNFINISHED.contains(&name.as_str());
        let used_as = match name.as_str() {
            // What is refused is left as it is.
            _ if is_useless && !would_start => FileUse::Ignored,
            _ if is_useless => FileUse::Removed,
            SPARE => FileUse::Spare,
            name if is_recycled_name(name) => FileUse::Recycled,
            name if is_snapshot_name(name) => FileUse::Snapshot,
            name if restored_node(name).is_some() => FileUse::Restored,
            _ => FileUse::Ignored,
        };
        FileReport { name, size_bytes, used_as }
    };
    names.into_iter().map(report).collect()
}
