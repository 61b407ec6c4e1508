//! The history of a run: a line for each call of a client, and for each fault.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use kvstore::client::Error;
use serde_json::{Value as Json, json};

use crate::history::Attempt;

/// Writes the history. All stamps are nanoseconds since its beginning, by one monotonic clock.
pub(crate) struct Recorder {
    began: Instant,
    attempts: AtomicU64,
    file: Mutex<BufWriter<File>>,
}

impl Recorder {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let file = Mutex::new(BufWriter::new(file));
        Ok(Self { began: Instant::now(), attempts: AtomicU64::new(1), file })
    }

    /// The time now.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a run is shorter than 500 years")
    }

    /// A number for an attempt that begins.
    pub(crate) fn next_attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed)
    }

    /// An attempt has ended; how often it was sent, or why it failed, is for people to read.
    pub(crate) fn attempt(&self, attempt: &Attempt, how: &Result<u32, Error>) {
        let mut line: Json = serde_json::from_str(&attempt.to_string()).expect("an attempt is JSON");
        match how {
            Ok(sent) => line["attempts"] = json!(sent),
            Err(error) => line["error"] = json!(error.to_string()),
        }
        self.write(&line);
    }

    /// Something was done to the cluster.
    pub(crate) fn fault(&self, what: &str) {
        self.write(&json!({ "at_ns": self.now_ns(), "fault": what }));
    }

    /// Everything so far is in the file.
    pub(crate) fn flush(&self) -> Result<()> {
        Ok(self.file.lock().expect("writing does not panic").flush()?)
    }

    fn write(&self, line: &Json) {
        let mut file = self.file.lock().expect("writing does not panic");
        writeln!(file, "{line}").expect("the history can be written");
    }
}
