//! What was found, as tables or as JSON.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use kvstore::kv::StateMachine;
use kvstore::storage::{FileUse, Inspection, Recovered, SegmentReport};
use kvstore::types::{ClientId, ClusterId, Incarnation, NodeId};
use kvstore::wire::client::Command;
use kvstore::wire::entry::{Configuration, Entry, Member, Payload, Reached};
use serde_json::{Map, Value, json};

use super::Findings;
use super::entries::{Described, Span};
use crate::terminal::write_table;

/// What is told of a directory.
pub(super) struct Report<'a> {
    path: &'a Path,
    findings: &'a Findings,
    span: Option<Span>,
}

/// A named session: as the snapshot has it, and what the log after it adds.
#[derive(Debug, Default)]
struct Named {
    in_snapshot: Option<u64>,
    writes: u64,
    last_sequence: u64,
}

impl<'a> Report<'a> {
    pub(super) fn new(path: &'a Path, findings: &'a Findings, span: Option<Span>) -> Self {
        Self { path, findings, span }
    }

    fn inspection(&self) -> &'a Inspection {
        &self.findings.inspection
    }

    fn recovered(&self) -> Option<&'a Recovered> {
        self.inspection().recovered.as_ref()
    }

    fn configuration(&self) -> Option<&'a Configuration> {
        let recovered = self.recovered()?;
        let of_snapshot = recovered.snapshot.as_ref().map(|found| &found.snapshot.configuration);
        of_snapshot.or_else(|| match &recovered.entries.first()?.payload {
            Payload::Configuration(configuration) => Some(configuration),
            _ => None,
        })
    }

    /// What a start would do, in words.
    fn verdict(&self) -> String {
        if let Some(refusal) = self.findings.refusal() {
            return format!("would refuse: {refusal}");
        }
        if let Some((node, restored)) = &self.inspection().restored {
            return format!(
                "would start as node {node}, made of a backup of revision {}, and found a new cluster with it \
                 once it has met all of its --peers",
                restored.snapshot.index
            );
        }
        let Some(recovered) = self.recovered() else {
            return "would start as a new node: nothing here is a node's".to_owned();
        };
        let snapshot = recovered.snapshot.as_ref().map(|found| found.snapshot.index.0);
        let last = last_index(recovered);
        let begins = match snapshot {
            Some(index) => format!("the snapshot at index {index} and {} after it", self.count_entries()),
            None => self.count_entries(),
        };
        let (node, boot) = (recovered.node, recovered.boot);
        let mut words =
            format!("would start as node {node}, with a boot above {boot}, at index {last}: {begins}");
        if let Ok(start) = &self.inspection().verdict
            && let Some(torn) = &start.torn
        {
            let (bytes, path, offset) = (torn.bytes, &torn.path, torn.offset);
            words +=
                &format!("; dropping a torn tail of {bytes} bytes at {path}:{offset}, promised to nobody");
        }
        let removed = self.inspection().files.iter().filter(|file| file.used_as == FileUse::Removed);
        let removed: Vec<&str> = removed.map(|file| file.name.as_str()).collect();
        if !removed.is_empty() {
            words += &format!("; removing {}", removed.join(", "));
        }
        words
    }

    fn count_entries(&self) -> String {
        match self.recovered().map_or(0, |recovered| recovered.entries.len()) {
            1 => "1 entry".to_owned(),
            count => format!("{count} entries"),
        }
    }

    fn entries(&self) -> impl Iterator<Item = &'a Entry> {
        let all = self.recovered().map(|recovered| recovered.entries.as_slice()).unwrap_or_default();
        let span = self.span;
        all.iter().filter(move |entry| span.is_some_and(|span| span.contains(entry.index)))
    }

    /// The named sessions of the snapshot and of the writes after it, by name.
    fn named_sessions(&self) -> BTreeMap<String, Named> {
        let mut named: BTreeMap<String, Named> = BTreeMap::new();
        if let Some(Ok(state)) = &self.findings.state {
            for session in state.sessions() {
                named.entry(session.name.to_string()).or_default().in_snapshot =
                    Some(session.last_sequence.0);
            }
        }
        let entries = self.recovered().map(|recovered| recovered.entries.as_slice()).unwrap_or_default();
        for entry in entries {
            let Payload::Command(command) = &entry.payload else { continue };
            if let Ok(Command::Write(write)) = Command::decode(command.clone())
                && let ClientId::Named(name) = &write.client
            {
                let session = named.entry(name.to_string()).or_default();
                session.writes += 1;
                session.last_sequence = session.last_sequence.max(write.sequence.0);
            }
        }
        named
    }

    /// Field and value of everything there is one of.
    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = vec![("directory", self.path.display().to_string())];
        let header = self.inspection().segments.iter().flatten().next();
        if let Some(SegmentReport { node, incarnation, .. }) = header {
            facts.push(("node", node.to_string()));
            facts.push(("incarnation", hex(*incarnation)));
        }
        if let Some(recovered) = self.recovered() {
            facts.push(("boot", recovered.boot.to_string()));
            let hard_state = recovered.hard_state;
            facts.push(("term", hard_state.term.to_string()));
            facts.push(("vote", or_dash(hard_state.voted_for)));
        }
        facts.push(("cluster", or_dash(self.cluster())));
        if let Some(configuration) = self.configuration() {
            let member = |m: &Member| format!("{} ({})", m.id, hex(m.incarnation));
            let members = configuration.members().iter().map(member);
            facts.push(("members", members.collect::<Vec<_>>().join(", ")));
        }
        if let Some(recovered) = self.recovered().filter(|recovered| !recovered.peers.is_empty()) {
            let reached = |(id, seen): &(NodeId, Reached)| {
                format!("node {id}: boot {}, index {}", seen.boot, seen.index)
            };
            let peers = recovered.peers.iter().map(reached);
            facts.push(("peers had reached", peers.collect::<Vec<_>>().join("; ")));
        }
        facts.push(("snapshot", self.snapshot()));
        facts
    }

    fn cluster(&self) -> Option<ClusterId> {
        let of_header = self.inspection().segments.iter().flatten().find_map(|segment| segment.cluster);
        self.configuration().map(|configuration| configuration.cluster).or(of_header)
    }

    /// Who the node is. What has 64 bits or more of randomness is text: many readers of JSON round it.
    fn identity_json(&self) -> Map<String, Value> {
        let header = self.inspection().segments.iter().flatten().next();
        let recovered = self.recovered();
        let member = |m: &Member| json!({ "id": m.id.0, "incarnation": hex(m.incarnation) });
        let members = self.configuration().map(|all| all.members().iter().map(member).collect::<Vec<_>>());
        let identity = json!({
            "directory": self.path.display().to_string(),
            "node": header.map(|header| header.node.0),
            "incarnation": header.map(|header| hex(header.incarnation)),
            "boot": recovered.map(|recovered| recovered.boot.0),
            "term": recovered.map(|recovered| recovered.hard_state.term.0),
            "vote": recovered.and_then(|recovered| Some(recovered.hard_state.voted_for?.0)),
            "cluster": self.cluster().map(|cluster| cluster.to_string()),
            "members": members,
        });
        let Value::Object(identity) = identity else { unreachable!("written as an object") };
        identity
    }

    fn peers_json(&self) -> Value {
        let reached = |(id, seen): &(NodeId, Reached)| json!({ "id": id.0, "boot": seen.boot.0, "index": seen.index.0 });
        let peers = self.recovered().map(|recovered| recovered.peers.as_slice()).unwrap_or_default();
        peers.iter().map(reached).collect()
    }

    fn snapshot_json(&self) -> Value {
        let Some(id) = self.inspection().snapshot else { return Value::Null };
        let state = self.findings.state.as_ref();
        let content = state.and_then(|state| state.as_ref().ok());
        json!({
            "index": id.index.0,
            "term": id.term.0,
            "size_bytes": id.bytes,
            "keys": content.map(StateMachine::key_count),
            "sessions": content.map(StateMachine::session_count),
            "error": state.and_then(|state| state.as_ref().err()),
        })
    }

    fn restored_json(&self) -> Value {
        let Some((node, restored)) = &self.inspection().restored else { return Value::Null };
        json!({ "node": node.0, "revision": restored.snapshot.index.0 })
    }

    fn snapshot(&self) -> String {
        let Some(id) = self.inspection().snapshot else { return "-".to_owned() };
        let content = match &self.findings.state {
            Some(Ok(state)) => {
                format!("{} keys, {} sessions", state.key_count(), state.session_count())
            }
            Some(Err(error)) => error.clone(),
            None => "not read".to_owned(),
        };
        format!("index {}, term {}, {} bytes, {content}", id.index, id.term, id.bytes)
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let facts = self.facts().into_iter().map(|(name, value)| vec![name.to_owned(), value]);
        write_table(out, &facts.collect::<Vec<_>>())?;
        writeln!(out)?;
        write_table(out, &self.file_rows())?;
        let sessions = self.named_sessions();
        if !sessions.is_empty() {
            writeln!(out)?;
            write_table(out, &session_rows(&sessions))?;
        }
        if self.span.is_some() {
            writeln!(out)?;
            self.write_entries(out)?;
        }
        writeln!(out, "\n{}", self.verdict())
    }

    /// Those that were asked for; if the log has none of them, which it has.
    fn write_entries(&self, out: &mut impl Write) -> io::Result<()> {
        let head = Described::HEAD.map(str::to_owned).to_vec();
        let rows: Vec<_> = self.entries().map(|entry| Described::new(entry).row()).collect();
        if !rows.is_empty() {
            return write_table(out, &[vec![head], rows].concat());
        }
        let all = self.recovered().map(|recovered| recovered.entries.as_slice()).unwrap_or_default();
        match (all.first(), all.last()) {
            (Some(first), Some(last)) => {
                let (first, last) = (first.index, last.index);
                writeln!(out, "none of these entries is in the log, which has {first} to {last}")
            }
            _ => writeln!(out, "no entry is in the log"),
        }
    }

    fn file_rows(&self) -> Vec<Vec<String>> {
        let head = ["FILE", "STATE", "BYTES", "USED", "RECORDS", "INDEXES", "TERMS"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for segment in &self.inspection().segments {
            rows.push(match segment {
                Ok(segment) => vec![
                    segment.name.clone(),
                    "live".to_owned(),
                    segment.size_bytes.to_string(),
                    segment.used_bytes.to_string(),
                    segment.records.to_string(),
                    range(segment.indexes),
                    range(segment.terms),
                ],
                Err(error) => row_of(&["-", "damaged", "-", "-", "-", "-", &error.to_string()]),
            });
        }
        for file in &self.inspection().files {
            let (bytes, used_as) = (or_dash(file.size_bytes), word(file.used_as));
            rows.push(row_of(&[&file.name, used_as, &bytes, "-", "-", "-", "-"]));
        }
        rows
    }

    /// The same for programs: every figure is a number, and the verdict alone is in words.
    pub(super) fn json(&self) -> Value {
        let mut object = self.identity_json();
        object.insert("peers_reached".into(), self.peers_json());
        object.insert("snapshot".into(), self.snapshot_json());
        object.insert("restored_from".into(), self.restored_json());
        object.insert("log_entries".into(), json!(self.recovered().map(|recovered| recovered.entries.len())));
        object.insert("last_index".into(), json!(self.recovered().map(last_index)));
        object.insert("would_start".into(), json!(self.findings.would_start()));
        object.insert("verdict".into(), json!(self.verdict()));
        object.insert("segments".into(), self.inspection().segments.iter().map(segment_json).collect());
        let files = self.inspection().files.iter().map(
            |file| json!({ "name": file.name, "size_bytes": file.size_bytes, "state": word(file.used_as) }),
        );
        object.insert("files".into(), files.collect());
        let sessions = self.named_sessions().into_iter().map(|(name, session)| {
            let Named { in_snapshot, writes, last_sequence } = session;
            let in_log = (writes > 0).then_some(last_sequence);
            json!({ "name": name, "last_seq": in_snapshot, "writes_in_log": writes, "last_seq_in_log": in_log })
        });
        object.insert("named_sessions".into(), sessions.collect());
        if self.span.is_some() {
            let entries = self.entries().map(|entry| Described::new(entry).json());
            object.insert("entries".into(), entries.collect());
        }
        Value::Object(object)
    }
}

/// Where the log ends.
fn last_index(recovered: &Recovered) -> u64 {
    let snapshot = recovered.snapshot.as_ref().map_or(0, |found| found.snapshot.index.0);
    recovered.entries.last().map_or(snapshot, |entry| entry.index.0)
}

fn segment_json<E: ToString>(segment: &Result<SegmentReport, E>) -> Value {
    match segment {
        Ok(segment) => json!({
            "name": segment.name,
            "size_bytes": segment.size_bytes,
            "used_bytes": segment.used_bytes,
            "records": segment.records,
            "first_index": segment.indexes.map(|(first, _)| first.0),
            "last_index": segment.indexes.map(|(_, last)| last.0),
            "first_term": segment.terms.map(|(first, _)| first.0),
            "last_term": segment.terms.map(|(_, last)| last.0),
        }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

fn session_rows(sessions: &BTreeMap<String, Named>) -> Vec<Vec<String>> {
    let head = ["NAMED SESSION", "LAST SEQ IN SNAPSHOT", "WRITES IN LOG", "LAST SEQ IN LOG"];
    let rows = sessions.iter().map(|(name, session)| {
        let in_log = (session.writes > 0).then_some(session.last_sequence);
        row_of(&[name, &or_dash(session.in_snapshot), &session.writes.to_string(), &or_dash(in_log)])
    });
    [row_of(&head)].into_iter().chain(rows).collect()
}

fn word(used_as: FileUse) -> &'static str {
    match used_as {
        FileUse::Snapshot => "snapshot",
        FileUse::Spare => "spare",
        FileUse::Recycled => "recycled",
        FileUse::Restored => "restored",
        FileUse::Removed => "to be removed",
        FileUse::Ignored => "left alone",
    }
}

fn hex(incarnation: Incarnation) -> String {
    format!("{:016x}", incarnation.0)
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn range<T: ToString>(range: Option<(T, T)>) -> String {
    or_dash(range.map(|(first, last)| format!("{}-{}", first.to_string(), last.to_string())))
}

fn row_of(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}
