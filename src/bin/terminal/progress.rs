//! What is said while a command takes long.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What takes less than this is not worth a word; neither is more than one a second.
const PATIENCE: Duration = Duration::from_secs(2);
const PACE: Duration = Duration::from_secs(1);

/// Tells on stderr, once a second after the first two, what is waited for, until it is dropped.
pub(crate) struct Progress {
    shared: Arc<Shared>,
    /// Dropped first: the thread ends with it.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    program: &'static str,
    waits_for: &'static str,
    done_bytes: AtomicU64,
    all_bytes: AtomicU64,
}

impl Progress {
    /// `program` begins to wait for something.
    pub(crate) fn begin(program: &'static str, waits_for: &'static str) -> Self {
        let (done_bytes, all_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { program, waits_for, done_bytes, all_bytes });
        let (end, ended) = mpsc::channel();
        let told = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let (began, is_terminal) = (Instant::now(), io::stderr().is_terminal());
            let mut pause = PATIENCE;
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                pause = PACE;
                // On a terminal one line that changes; in a file a line each.
                let (begin, end) = if is_terminal { ("\r", " ") } else { ("", "\n") };
                let seconds = began.elapsed().as_secs();
                _ = write!(io::stderr(), "{begin}{}: {}, {seconds} s{end}", told.program, told.words());
            }
            if pause == PACE && is_terminal {
                _ = writeln!(io::stderr());
            }
        });
        Self { shared, end: Some(end), thread: Some(thread) }
    }

    /// So many bytes are there; `all_bytes` is 0 where nobody knows.
    pub(crate) fn note(&self, done_bytes: u64, all_bytes: u64) {
        self.shared.done_bytes.store(done_bytes, Ordering::Relaxed);
        self.shared.all_bytes.store(all_bytes, Ordering::Relaxed);
    }
}

impl Shared {
    fn words(&self) -> String {
        let (done, all) = (self.done_bytes.load(Ordering::Relaxed), self.all_bytes.load(Ordering::Relaxed));
        match (done, all) {
            (0, 0) => self.waits_for.to_owned(),
            (done, 0) => format!("{} MiB", done >> 20),
            (done, all) => format!("{} of {} MiB", done >> 20, all >> 20),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}
