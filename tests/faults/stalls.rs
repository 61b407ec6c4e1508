//! A machine that stands still, told from a program that does.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Naps all the time, and adds up by how much the naps were too long: then the machine stood still,
/// for nodes and clients too.
pub(crate) struct StallWatch {
    stop: Sender<()>,
    watch: thread::JoinHandle<Duration>,
}

impl StallWatch {
    pub(crate) fn start() -> Self {
        let (stop, stopped) = channel();
        Self { stop, watch: thread::spawn(move || watch(&stopped)) }
    }

    /// How long the machine stood still since the beginning.
    pub(crate) fn stop(self) -> Duration {
        drop(self.stop);
        self.watch.join().expect("napping does not panic")
    }
}

fn watch(stopped: &Receiver<()>) -> Duration {
    const NAP: Duration = Duration::from_millis(5);
    const NOTICED: Duration = Duration::from_millis(20);
    let mut stalled = Duration::ZERO;
    loop {
        let before = Instant::now();
        if stopped.recv_timeout(NAP) == Err(RecvTimeoutError::Disconnected) {
            return stalled;
        }
        stalled += Some(before.elapsed()).filter(|nap| *nap > NOTICED).unwrap_or_default();
    }
}
