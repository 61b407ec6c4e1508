//! A machine that stands still, told from a program that does.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// One nap.
const NAP: Duration = Duration::from_millis(5);
/// A nap that takes longer is told of.
const NOTICED: Duration = Duration::from_millis(20);

/// Naps all the time, and notes the naps that were too long: then the machine stood still, for nodes and
/// clients too. Dropping it ends that.
pub(crate) struct StallWatch {
    stop: Sender<()>,
    found: Receiver<Stall>,
    stalls: Vec<Stall>,
}

#[derive(Clone, Copy)]
struct Stall {
    ended: Instant,
    length: Duration,
}

impl StallWatch {
    pub(crate) fn start() -> Self {
        let ((stop, stopped), (tell, found)) = (channel(), channel());
        thread::spawn(move || watch(&stopped, &tell));
        Self { stop, found, stalls: Vec::new() }
    }

    /// The longest stall that touched the time from `since` to `until`, as far as is known.
    pub(crate) fn longest(&mut self, since: Instant, until: Instant) -> Duration {
        self.stalls.extend(self.found.try_iter());
        let touches = |stall: &&Stall| stall.ended >= since && stall.ended <= until + stall.length;
        self.stalls.iter().filter(touches).map(|stall| stall.length).max().unwrap_or_default()
    }

    /// How long the machine stood still since the beginning.
    pub(crate) fn stop(mut self) -> Duration {
        drop(self.stop);
        // To its end: the last nap may have been the long one.
        self.stalls.extend(self.found.iter());
        self.stalls.iter().map(|stall| stall.length).sum()
    }
}

fn watch(stopped: &Receiver<()>, tell: &Sender<Stall>) {
    loop {
        let before = Instant::now();
        let is_over = stopped.recv_timeout(NAP) == Err(RecvTimeoutError::Disconnected);
        let (ended, length) = (Instant::now(), before.elapsed());
        // Nobody may listen any more.
        if length > NOTICED && tell.send(Stall { ended, length }).is_err() || is_over {
            return;
        }
    }
}
