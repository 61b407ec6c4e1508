//! A backup, checked from its first byte to its last.

use std::io::{self, Write};
use std::path::Path;

use kvstore::kv::{Limits, SnapshotReader, StateMachine};
use kvstore::storage::{BackupError, FileDisk, OpenError, read_backup};
use kvstore::wire::entry::{Snapshot, SnapshotId};
use serde_json::{Value, json};

use super::progress::Watched;
use crate::terminal::write_table;

/// What a whole backup holds.
pub(crate) struct Backup {
    snapshot: Snapshot,
    id: SnapshotId,
    state: StateMachine,
}

impl Backup {
    /// Reads and checks all of a file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let (disk, name) = FileDisk::of_file(path)?;
        let mut disk = Watched::new(disk.for_reading());
        let mut reader = SnapshotReader::new(Limits::STANDARD);
        let (snapshot, id) = read_backup(&mut disk, &name, |_, parts| {
            parts.iter().try_for_each(|part| reader.feed(part)).map_err(anyhow::Error::from)
        })?;
        let state = reader.finish()?;
        anyhow::ensure!(state.revision() == snapshot.index.into(), "its state is not that of its index");
        Ok(Self { snapshot, id, state })
    }

    pub(crate) fn id(&self) -> SnapshotId {
        self.id
    }

    pub(crate) fn keys(&self) -> usize {
        self.state.key_count()
    }

    pub(crate) fn sessions(&self) -> usize {
        self.state.session_count()
    }

    pub(super) fn json(&self, path: &Path) -> Value {
        let configuration = &self.snapshot.configuration;
        let members: Vec<u64> = configuration.members().iter().map(|member| member.id.0).collect();
        let sessions = self.state.sessions();
        let named = sessions
            .iter()
            .map(|session| json!({ "name": session.name.to_string(), "last_seq": session.last_sequence.0 }));
        json!({
            "file": path.display().to_string(),
            "whole": true,
            "revision": self.id.index.0,
            "term": self.id.term.0,
            "size_bytes": self.id.bytes,
            "keys": self.state.key_count(),
            "sessions": self.state.session_count(),
            "named_sessions": named.collect::<Vec<_>>(),
            "cluster": configuration.cluster.to_string(),
            "members": members,
        })
    }

    pub(super) fn print(&self, path: &Path, out: &mut impl Write) -> io::Result<()> {
        let Self { snapshot, id, state } = self;
        let members = snapshot.configuration.members().iter().map(|member| member.id.to_string());
        let facts = [
            ("file", path.display().to_string()),
            ("revision", id.index.to_string()),
            ("term", id.term.to_string()),
            ("bytes", id.bytes.to_string()),
            ("keys", state.key_count().to_string()),
            ("sessions", state.session_count().to_string()),
            ("of cluster", snapshot.configuration.cluster.to_string()),
            ("its members", members.collect::<Vec<_>>().join(", ")),
        ];
        write_table(out, &facts.map(|(name, value)| vec![name.to_owned(), value]))?;
        let sessions = state.sessions();
        if !sessions.is_empty() {
            let row = |cells: [String; 2]| cells.to_vec();
            let head = row(["NAMED SESSION".to_owned(), "LAST SEQ".to_owned()]);
            let rows = sessions
                .iter()
                .map(|session| row([session.name.to_string(), session.last_sequence.to_string()]));
            writeln!(out)?;
            write_table(out, &[head].into_iter().chain(rows).collect::<Vec<_>>())?;
        }
        writeln!(out, "\na whole backup: `kvstore restore` makes a new cluster of it")
    }
}

/// What is told of a file that is none, or of a place where none can be restored.
pub(crate) fn refusal(path: &Path, error: &anyhow::Error) -> String {
    match error.is::<BackupError>() || error.is::<OpenError>() {
        true => error.to_string(),
        false => format!("{} is no whole backup: {error:#}", path.display()),
    }
}
