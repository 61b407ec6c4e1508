//! `kv_client bench`: a load, and what it came to.
//!
//! Three loads after one another, on the same connections: each request in flight once, which dials
//! and opens the sessions; with `--fill` every key once; then the one that is measured.
//!
//! [`arguments`] says what can be asked for. [`workload`], with [`distribution`], makes the requests,
//! [`pace`] says when they are due, [`driver`], over [`sockets`] and [`connection`], sends them,
//! [`figures`] counts, and [`report`] prints.

pub(crate) mod arguments;
mod connection;
mod distribution;
mod driver;
mod figures;
mod pace;
mod report;
mod sockets;
mod workload;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kvstore::client::{Error, Options};
use kvstore::time::Duration;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::Failure;
use arguments::BenchArguments;
use driver::{Driver, Load, Size};
use figures::{Figures, Interval};
use pace::{Pace, Until};
use workload::{Task, Workload};

/// Runs the load; whether every request of it was answered.
pub(crate) fn run(arguments: &BenchArguments, options: &Options, json: bool) -> Result<bool, Failure> {
    raise_descriptor_limit();
    let is_over = end_early_on_signal().map_err(no_poll)?;
    let size = Size { clients: arguments.clients as usize, pipeline: arguments.pipeline as usize };
    let endpoints = &options.endpoints;
    let mut driver = Driver::new(endpoints, size, options.timeout, rand::random()).map_err(no_poll)?;
    let workload = Workload::new(arguments.op, &arguments.data, rand::random());
    let mut bench = Bench { arguments, driver: &mut driver, workload, is_over };
    bench.connect(size.clients * size.pipeline)?;
    bench.open_idle(endpoints)?;
    if arguments.data.fill {
        bench.fill()?;
    }
    let (figures, unsent) = bench.measure()?;
    let idle = bench.driver.idle();
    let result = report::Result { arguments, figures: &figures, unsent, idle };
    let mut out = io::stdout().lock();
    if json {
        result.write_json(&mut out)?
    } else {
        result.write_text(&mut out)?
    }
    out.flush()?;
    driver.say_farewell().map_err(no_poll)?;
    Ok(figures.failures() == 0)
}

/// The three loads.
struct Bench<'a> {
    arguments: &'a BenchArguments,
    driver: &'a mut Driver,
    workload: Workload,
    is_over: Arc<AtomicBool>,
}

impl Bench<'_> {
    /// Every lane once.
    fn connect(&mut self, lanes: usize) -> Result<(), Failure> {
        let pace = (None, Until::Count(lanes as u64));
        let (figures, _) = self.load(pace, &mut Workload::next, &mut |_, _| {})?;
        all_answered(&figures, "the first request of each")
    }

    fn open_idle(&mut self, endpoints: &[String]) -> Result<(), Failure> {
        let count = self.arguments.idle as usize;
        let open = self.driver.open_idle(endpoints, count).map_err(no_poll)?;
        if open < count {
            let message = format!(
                "only {open} of {count} idle connections were taken: see `ulimit -n` of the nodes and of this shell"
            );
            return Err(Error::Unreachable(message).into());
        }
        Ok(())
    }

    /// Every key once.
    fn fill(&mut self) -> Result<(), Failure> {
        let keys = self.arguments.data.keys;
        report::heading(&format!("putting {keys} keys"));
        let mut next_key = 0;
        let mut put_next = |workload: &mut Workload| -> Task {
            next_key += 1;
            workload.put(next_key - 1)
        };
        let (figures, _) = self.load((None, Until::Count(keys)), &mut put_next, &mut report::progress)?;
        all_answered(&figures, "filling in the keys")
    }

    /// The load that counts, and how many of its requests were never sent.
    fn measure(&mut self) -> Result<(Figures, u64), Failure> {
        let arguments = self.arguments;
        report::heading(&report::describe(arguments));
        let seconds = Until::Elapsed(Duration::from_secs(arguments.seconds));
        let until = arguments.count.map_or(seconds, Until::Count);
        self.load((arguments.rate, until), &mut Workload::next, &mut report::progress)
    }

    fn load(
        &mut self,
        (rate, until): (Option<u64>, Until),
        next: &mut dyn FnMut(&mut Workload) -> Task,
        on_interval: &mut dyn FnMut(&Interval, Option<kvstore::types::NodeId>),
    ) -> Result<(Figures, u64), Failure> {
        let now = self.driver.now();
        let (mut pace, mut figures) = (Pace::new(now, rate, until), Figures::new(now));
        let mut load = Load {
            workload: &mut self.workload,
            next,
            pace: &mut pace,
            figures: &mut figures,
            is_over: &self.is_over,
            interval: Duration::from_millis(self.arguments.interval_ms),
            on_interval,
        };
        self.driver.run(&mut load).map_err(no_poll)?;
        Ok((figures, pace.unsent()))
    }
}

/// What comes before the measurement must be right, or it measures something else.
fn all_answered(figures: &Figures, what: &str) -> Result<(), Failure> {
    match figures.failures() {
        0 => Ok(()),
        failures => {
            let words = figures.errors.keys().copied().collect::<Vec<_>>().join(", ");
            let message = format!("{what} failed {failures} times ({words}): see `kv_client status`");
            Err(Error::Unreachable(message).into())
        }
    }
}

fn no_poll(error: io::Error) -> Failure {
    Error::Unreachable(format!("the load cannot run: {error}")).into()
}

/// Becomes true at the first SIGINT or SIGTERM: the load ends, and says what it came to. The second one
/// ends the process.
fn end_early_on_signal() -> io::Result<Arc<AtomicBool>> {
    let is_over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&is_over))?;
        signal_hook::flag::register(signal, Arc::clone(&is_over))?;
    }
    Ok(is_over)
}

/// Raises the limit on open files as far as the system allows.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Where it stays lower, dialling says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
