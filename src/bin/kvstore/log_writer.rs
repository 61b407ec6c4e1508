//! The log on stderr, written by a thread of its own.
//!
//! A pipe that nobody reads blocks its writer once it is full; a node that stood still for that
//! would be deposed. So lines are handed to a thread through a bounded queue, and when the queue is
//! full they are dropped and counted.

use std::io::{self, Write};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

use env_logger::{Env, Target};

/// Lines that wait to be written, at most.
const QUEUE_LINES: usize = 4096;
/// How long the end of the process waits for the lines before it: longer than a machine pauses as a rule, for
/// the last line says why the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

enum Order {
    Line(Vec<u8>),
    /// Answer once everything before this is written.
    Flush(SyncSender<()>),
}

/// The end of the queue that lines go into.
#[derive(Clone)]
pub(crate) struct LogWriter {
    queue: SyncSender<Order>,
    dropped: u64,
}

/// Begins to log as `RUST_LOG` says, from `info` on if it says nothing.
pub(crate) fn init() -> LogWriter {
    let (queue, orders) = mpsc::sync_channel(QUEUE_LINES);
    thread::spawn(move || write_out(&orders));
    let writer = LogWriter { queue, dropped: 0 };
    env_logger::Builder::from_env(Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .format_target(false)
        .target(Target::Pipe(Box::new(writer.clone())))
        .init();
    writer
}

fn write_out(orders: &Receiver<Order>) {
    for order in orders {
        match order {
            // If stderr is closed there is nobody left to tell.
            Order::Line(line) => _ = io::stderr().write_all(&line),
            Order::Flush(done) => _ = done.try_send(()),
        }
    }
}

impl LogWriter {
    /// Waits until what was logged is written, but not for long.
    pub(crate) fn flush(&self) {
        let (done, is_done) = mpsc::sync_channel(1);
        if self.queue.try_send(Order::Flush(done)).is_ok() {
            _ = is_done.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl Write for LogWriter {
    /// env_logger writes a whole line at once.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut bytes = line.to_vec();
        if self.dropped > 0 {
            bytes.splice(0..0, format!("({} lines dropped)\n", self.dropped).into_bytes());
        }
        match self.queue.try_send(Order::Line(bytes)) {
            Ok(()) => self.dropped = 0,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.dropped += 1,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
