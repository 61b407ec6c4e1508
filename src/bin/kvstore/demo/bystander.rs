//! A process that does nothing, and notices when it is kept from it.
//!
//! It sleeps a millisecond at a time and reports the longest that one took. What keeps the bystander
//! from running keeps nodes from running too, so a pause of the machine is told from a fault of ours.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// One sleep.
const NAP: Duration = Duration::from_millis(1);
/// The time between two reports.
const PERIOD: Duration = Duration::from_millis(100);

/// What the process does until nobody reads its reports any more.
pub(super) fn stand_by() -> Result<()> {
    let mut stdout = std::io::stdout();
    loop {
        let (begin, mut longest) = (Instant::now(), Duration::ZERO);
        while begin.elapsed() < PERIOD {
            let before = Instant::now();
            // The sleep is what is measured: how much longer than asked the machine makes it.
            thread::sleep(NAP);
            longest = longest.max(before.elapsed());
        }
        writeln!(stdout, "{}", longest.as_micros())?;
    }
}

/// The process, seen from the one that started it. Dropping it ends it.
pub(super) struct Bystander {
    process: Child,
    reports: Receiver<Gap>,
    gaps: Vec<Gap>,
}

/// The longest nap of one period, which ended at `reported` at the latest.
#[derive(Clone, Copy)]
struct Gap {
    reported: Instant,
    length: Duration,
}

impl Bystander {
    /// Starts it from this program's own file.
    pub(super) fn start() -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.args(["demo", "--bystander"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot start the bystander")?;
        let stdout = process.stdout.take().context("a bystander without stdout")?;
        let (sender, reports) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let length = Duration::from_micros(line.parse().unwrap_or(0));
                if sender.send(Gap { reported: Instant::now(), length }).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process, reports, gaps: Vec::new() })
    }

    /// The longest gap that may have touched the time from `since` to `until`.
    pub(super) fn longest(&mut self, since: Instant, until: Instant) -> Duration {
        self.gaps.extend(self.reports.try_iter());
        let touches = |gap: &&Gap| gap.reported >= since && gap.reported <= until + PERIOD + gap.length;
        self.gaps.iter().filter(touches).map(|gap| gap.length).max().unwrap_or_default()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
