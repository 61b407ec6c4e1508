//! What people and programs read: text, or one JSON object a line.
//!
//! Results go to standard output, and so does every JSON object. In either form an error is also
//! one line on stderr. Bytes are printed as they are; in JSON they are a string if they are UTF-8,
//! else hexadecimal under the field's name with `_hex`.

use std::io::{self, BufWriter, Stdout, Write};

use kvstore::client::{Error, Identity, Page, Reply};
use kvstore::types::{ClientId, NodeId, Term};
use kvstore::wire::client::{NodeStatus, Outcome, RoleName, SessionInfo};
use kvstore::wire::entry::SnapshotId;
use kvstore::wire::hello::MemberAddress;
use serde_json::{Map, Value, json};

use crate::Failure;
use crate::backup::Backup;
use crate::terminal::{complain, write_table};

type Object = Map<String, Value>;

/// Where results go, in the form that was asked for.
pub(crate) struct Output {
    out: BufWriter<Stdout>,
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { out: BufWriter::new(io::stdout()), json }
    }

    /// Writes out what is buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// A put that was applied, now or before.
    pub(crate) fn put<T>(&mut self, reply: &Reply<T>) -> io::Result<()> {
        match self.json {
            true => self.object(fields(reply)),
            false if reply.cached => writeln!(self.out, "OK (cached)"),
            false => writeln!(self.out, "OK"),
        }
    }

    /// Anything else that was done.
    pub(crate) fn done<T>(&mut self, reply: &Reply<T>) -> io::Result<()> {
        match self.json {
            true => self.object(fields(reply)),
            false => writeln!(self.out, "OK"),
        }
    }

    /// A session is closed, or there was none.
    pub(crate) fn session_closed(&mut self, reply: &Reply<Outcome>) -> io::Result<()> {
        let existed = reply.value == Outcome::Done;
        if self.json {
            let mut object = fields(reply);
            object.insert("existed".into(), json!(existed));
            return self.object(object);
        }
        match existed {
            true if reply.cached => writeln!(self.out, "OK (cached)"),
            true => writeln!(self.out, "OK"),
            false => writeln!(self.out, "OK (no such session)"),
        }
    }

    /// The value of a key.
    pub(crate) fn value<T>(&mut self, value: &[u8], raw: bool, reply: &Reply<T>) -> io::Result<()> {
        if self.json {
            let mut object = fields(reply);
            put_bytes(&mut object, "value", value);
            return self.object(object);
        }
        self.out.write_all(value)?;
        if raw { Ok(()) } else { self.out.write_all(b"\n") }
    }

    /// A key to read or to delete that is not there.
    pub(crate) fn not_found<T>(&mut self, reply: &Reply<T>) -> io::Result<()> {
        match self.json {
            true => self.object(no_fields(fields(reply), "not_found", "key not found")),
            false => {
                complain("kv_client: key not found");
                Ok(())
            }
        }
    }

    /// A comparison that failed: the value as it is.
    pub(crate) fn mismatch<T>(
        &mut self,
        current: Option<&[u8]>,
        truncated: bool,
        reply: &Reply<T>,
    ) -> io::Result<()> {
        let shown = current.map_or("key not found".into(), |value| {
            format!("current value is {}", String::from_utf8_lossy(value))
        });
        if self.json {
            let mut object = no_fields(fields(reply), "mismatch", &format!("mismatch: {shown}"));
            if let Some(value) = current {
                put_bytes(&mut object, "value", value);
                object.insert("truncated".into(), json!(truncated));
            }
            return self.object(object);
        }
        match current {
            Some(value) => {
                self.out.write_all(b"mismatch: current value is ")?;
                self.out.write_all(value)?;
                self.out.write_all(b"\n")?;
            }
            None => writeln!(self.out, "mismatch: {shown}")?,
        }
        if truncated {
            complain("kv_client: note: the current value is longer, only its beginning is shown");
        }
        Ok(())
    }

    /// Rows of a scan.
    pub(crate) fn rows(&mut self, page: &Reply<Page>) -> io::Result<()> {
        for (key, value) in &page.value.rows {
            if self.json {
                let mut object = fields(page);
                put_bytes(&mut object, "key", key);
                put_bytes(&mut object, "value", value);
                self.object(object)?;
            } else {
                self.out.write_all(key)?;
                self.out.write_all(b"\t")?;
                self.out.write_all(value)?;
                self.out.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    /// All nodes; returns the leader, if one is known.
    pub(crate) fn status(
        &mut self,
        nodes: &[(MemberAddress, Option<NodeStatus>)],
    ) -> io::Result<Option<NodeId>> {
        let view = ClusterView::of(nodes);
        if self.json {
            let nodes: Vec<Value> = nodes.iter().map(|(member, status)| view.json(member, status)).collect();
            let leader = view.leader.map(|leader| leader.0);
            let mut object =
                object(json!({ "ok": true, "leader": leader, "term": view.term.0, "nodes": nodes }));
            if leader.is_none() {
                object = no_fields(object, "no_leader", NO_LEADER);
            }
            self.object(object)?;
            return Ok(view.leader);
        }
        let mut rows = vec![STATUS_HEAD.map(str::to_owned).to_vec()];
        rows.extend(nodes.iter().map(|(member, status)| view.row(member, status)));
        write_table(&mut self.out, &rows)?;
        for (member, _) in nodes.iter().filter(|(_, status)| status.as_ref().is_some_and(|s| !s.disk.fsync)) {
            let id = member.id;
            writeln!(
                self.out,
                "WARNING: node {id} runs with --unsafe-no-fsync: a power cut loses its writes"
            )?;
        }
        if view.leader.is_none() {
            complain(format_args!("kv_client: {NO_LEADER}"));
        }
        Ok(view.leader)
    }

    /// The named sessions.
    pub(crate) fn sessions(&mut self, reply: &Reply<Vec<SessionInfo>>) -> io::Result<()> {
        if !self.json {
            let head = ["NAME", "LAST SEQ", "KEPT RESULTS", "LAST WRITE"];
            let mut rows = vec![head.map(str::to_owned).to_vec()];
            rows.extend(reply.value.iter().map(session_row));
            return write_table(&mut self.out, &rows);
        }
        for session in &reply.value {
            let mut object = fields(reply);
            put_bytes(&mut object, "client_id", session.name.as_bytes());
            object.insert("last_seq".into(), json!(session.last_sequence.0));
            object.insert("kept_results".into(), json!(session.kept_results));
            object.insert("last_write".into(), json!(session.last_write.0));
            self.object(object)?;
        }
        Ok(())
    }

    /// A snapshot that is durable on the node that was asked.
    pub(crate) fn snapshot(&mut self, reply: &Reply<SnapshotId>) -> io::Result<()> {
        let SnapshotId { index, bytes, .. } = reply.value;
        if self.json {
            let mut object = fields(reply);
            object.insert("index".into(), json!(index.0));
            object.insert("bytes".into(), json!(bytes));
            return self.object(object);
        }
        writeln!(self.out, "OK node={} index={index} bytes={bytes}", reply.node)
    }

    /// A backup that is complete.
    pub(crate) fn backup(&mut self, backup: &Backup) -> io::Result<()> {
        let Backup { snapshot, bytes, reply } = backup;
        let (revision, cluster) = (snapshot.index, snapshot.configuration.cluster);
        if self.json {
            let mut object = fields(reply);
            object.insert("revision".into(), json!(revision.0));
            object.insert("bytes".into(), json!(bytes));
            object.insert("cluster".into(), json!(cluster.to_string()));
            return self.object(object);
        }
        writeln!(self.out, "OK revision={revision} bytes={bytes} node={}", reply.node)
    }

    /// Says why there is no result, and returns the exit status.
    pub(crate) fn failure(&mut self, failure: &Failure) -> u8 {
        let (status, word) = match failure {
            Failure::Client(error) => (error.exit_status(), error.word()),
            Failure::Usage(_) => (2, "usage"),
            Failure::Output(_) => (3, "output"),
            Failure::Input(_) => (2, "input"),
            Failure::Place(_) => (2, "invalid"),
            Failure::Backup(_) | Failure::Damaged { .. } => (4, "backup"),
        };
        let identity = match failure {
            Failure::Client(Error::Unknown { identity, .. }) => identity.as_ref(),
            _ => None,
        };
        // Some of the words may be a node's: they shall not move a terminal's cursor.
        let message = message(failure, identity).replace(char::is_control, " ");
        complain(format_args!("kv_client: {message}"));
        if self.json {
            let mut object = no_fields(Object::new(), word, &message);
            if let Some(Identity { client, sequence }) = identity {
                put_bytes(&mut object, "client_id", &client_id_bytes(client));
                object.insert("seq".into(), json!(sequence.0));
            }
            // Where this cannot be written either, stderr has the line above.
            let _ = self.object(object).and_then(|()| self.flush());
        }
        status
    }

    fn object(&mut self, object: Object) -> io::Result<()> {
        writeln!(self.out, "{}", Value::Object(object))
    }
}

const STATUS_HEAD: [&str; 11] =
    ["ID", "ADDRESS", "ROLE", "TERM", "LEADER", "COMMIT", "APPLIED", "LAST", "LAG", "FREE", "VERSION"];
/// What is known of a node that answers, and else null.
const STATUS_FIELDS: [&str; 8] =
    ["role", "term", "leader", "commit", "applied", "last_index", "first_index", "version"];
const NO_LEADER: &str = "no leader is known: a majority of the nodes must run and reach each other";

/// What the nodes' views come to together.
struct ClusterView {
    leader: Option<NodeId>,
    term: Term,
    commit: u64,
}

impl ClusterView {
    /// The newest term's leader; the leader's commit index, or the highest if it does not answer.
    fn of(nodes: &[(MemberAddress, Option<NodeStatus>)]) -> Self {
        let statuses = || nodes.iter().filter_map(|(_, status)| status.as_ref());
        let term = statuses().map(|status| status.term).max().unwrap_or(Term::ZERO);
        let of_term = || statuses().filter(|status| status.term == term);
        let leader = of_term().find_map(|status| status.leader);
        let leads = of_term().find(|status| status.role == RoleName::Leader);
        let commit = leads.or(statuses().max_by_key(|status| status.commit));
        Self { leader, term, commit: commit.map_or(0, |status| status.commit.0) }
    }

    fn lag(&self, status: &NodeStatus) -> u64 {
        self.commit.saturating_sub(status.applied.0)
    }

    fn row(&self, member: &MemberAddress, status: &Option<NodeStatus>) -> Vec<String> {
        let address = if member.address.is_empty() { "-" } else { &member.address };
        let mut row = vec![member.id.to_string(), address.to_owned()];
        let Some(status) = status else {
            row.push("unreachable".into());
            row.resize(STATUS_HEAD.len(), "-".into());
            return row;
        };
        row.push(status.role.as_str().into());
        row.push(status.term.to_string());
        row.push(status.leader.map_or("-".into(), |leader| leader.to_string()));
        let indexes = [status.commit, status.applied, status.last_index];
        row.extend(indexes.map(|index| index.to_string()));
        row.push(self.lag(status).to_string());
        row.push(free_space(status));
        row.push(status.version.clone());
        row
    }

    fn json(&self, member: &MemberAddress, status: &Option<NodeStatus>) -> Value {
        let who = json!({ "id": member.id.0, "addr": member.address, "reachable": status.is_some() });
        let Some(status) = status else {
            let mut who = object(who);
            who.extend(STATUS_FIELDS.map(|field| (field.to_owned(), Value::Null)));
            return Value::Object(who);
        };
        let bounds = status.bounds.iter();
        let bounds =
            bounds.map(|bound| (bound.name.clone(), json!({ "used": bound.used, "cap": bound.cap })));
        let view = json!({
            "role": status.role.as_str(),
            "term": status.term.0,
            "leader": status.leader.map(|leader| leader.0),
            "commit": status.commit.0,
            "applied": status.applied.0,
            "first_index": status.first_index.0,
            "last_index": status.last_index.0,
            "lag": self.lag(status),
            "fsync": status.disk.fsync,
            "free_bytes": status.disk.free_bytes,
            "reserve_bytes": status.disk.reserve_bytes,
            "version": status.version,
            "bounds": bounds.collect::<Object>(),
        });
        let mut who = object(who);
        who.extend(object(view));
        Value::Object(who)
    }
}

/// What a node's disk has left, and whether that is less than it keeps in reserve.
fn free_space(status: &NodeStatus) -> String {
    if status.disk.free_bytes == u64::MAX {
        return "?".into();
    }
    let (size, unit) = match status.disk.free_bytes {
        bytes if bytes < 10 << 30 => (bytes >> 20, "MiB"),
        bytes => (bytes >> 30, "GiB"),
    };
    let mark = if status.disk.free_bytes < status.disk.reserve_bytes { " (low)" } else { "" };
    format!("{size} {unit}{mark}")
}

fn session_row(session: &SessionInfo) -> Vec<String> {
    vec![
        shell_word(session.name.as_bytes()),
        session.last_sequence.to_string(),
        session.kept_results.to_string(),
        session.last_write.to_string(),
    ]
}

/// The line for stderr. An unknown outcome is told with the options that ask again.
fn message(failure: &Failure, identity: Option<&Identity>) -> String {
    let (Failure::Client(Error::Unknown { reason, .. }), Some(Identity { client, sequence })) =
        (failure, identity)
    else {
        return failure.to_string();
    };
    let client = shell_word(&client_id_bytes(client));
    format!(
        "outcome unknown: {reason}; to ask again, send the same command with --client-id {client} --seq {sequence}"
    )
}

/// A client id as `--client-id` takes it.
fn client_id_bytes(client: &ClientId) -> Vec<u8> {
    match client {
        ClientId::Named(name) => name.as_bytes().to_vec(),
        ClientId::Library { .. } => client.to_string().into_bytes(),
    }
}

/// Bytes as a word that a shell reads back as these bytes.
fn shell_word(bytes: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_.:/@%+=,-".contains(byte);
    if bytes.iter().all(is_plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let escaped = bytes.iter().map(|byte| match is_plain(byte) {
        true => char::from(*byte).to_string(),
        false => format!("\\x{byte:02x}"),
    });
    format!("$'{}'", escaped.collect::<String>())
}

fn fields<T>(reply: &Reply<T>) -> Object {
    object(json!({
        "ok": true,
        "revision": reply.revision.0,
        "node": reply.node.0,
        "attempts": reply.attempts,
        "cached": reply.cached,
    }))
}

fn no_fields(mut object: Object, word: &str, message: &str) -> Object {
    object.insert("ok".into(), json!(false));
    object.insert("error".into(), json!(word));
    object.insert("message".into(), json!(message));
    object
}

fn put_bytes(object: &mut Object, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.into(), json!(text)),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            object.insert(format!("{name}_hex"), json!(hex))
        }
    };
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        other => unreachable!("json! with braces makes an object, not {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_word_quotes_what_a_shell_would_read_otherwise() {
        assert_eq!(shell_word(b"library:00ff"), "library:00ff");
        assert_eq!(shell_word(b"it's \xff"), r"$'it\x27s\x20\xff'");
    }

    #[test]
    fn bytes_in_json_are_text_or_hexadecimal() {
        let mut object = Object::new();
        put_bytes(&mut object, "value", "grün".as_bytes());
        put_bytes(&mut object, "key", b"\xff\x00");
        assert_eq!(Value::Object(object), json!({ "value": "grün", "key_hex": "ff00" }));
    }
}
