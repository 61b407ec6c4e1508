//! System calls of a running node that fail or take long, by `strace` where it is there.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::Pid;

/// What becomes of each `fdatasync` of a process while this lives.
pub(crate) struct Injection {
    tracer: Child,
    report: PathBuf,
}

impl Injection {
    /// Attaches to a process, and waits until every `fdatasync` of it meets this fault, in the words
    /// of `strace --inject`. `None` where that cannot be done.
    pub(crate) fn attach(pid: Pid, fault: &str, report: &Path) -> Result<Option<Self>> {
        let tracer = Command::new("strace")
            .args(["-f", "-p", &pid.as_raw_nonzero().to_string(), "-o"])
            .arg(report)
            .args(["-e", "trace=fdatasync", "-e", &format!("inject=fdatasync:{fault}")])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(tracer) = tracer else { return Ok(None) };
        let mut injection = Self { tracer, report: report.to_owned() };
        let stderr = injection.tracer.stderr.take().context("a tracer without stderr")?;
        // It says so once it is attached, or why it cannot be.
        let first = BufReader::new(stderr).lines().next().transpose()?.unwrap_or_default();
        Ok(first.contains("attached").then_some(injection))
    }

    /// How many calls have met the fault so far.
    pub(crate) fn injected(&self) -> usize {
        let report = fs::read_to_string(&self.report).unwrap_or_default();
        report.lines().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)")).count()
    }
}

/// The process goes on without the fault.
impl Drop for Injection {
    fn drop(&mut self) {
        // It ends by itself when its process does, which is as good.
        let _ = self.tracer.kill();
        let _ = self.tracer.wait();
    }
}

/// Whether system calls can be made to fail here; if not, says so past the capture of test output.
pub(crate) fn can_inject(test: &str) -> Result<bool> {
    let mut child = Command::new("sleep").arg("60").spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
    let report = tempfile::NamedTempFile::new()?;
    let injection = Injection::attach(pid, "error=EIO", report.path());
    child.kill()?;
    child.wait()?;
    let can = injection?.is_some();
    if !can {
        writeln!(std::io::stderr(), "SKIPPED {test}: strace is not there, or may not trace processes")?;
    }
    Ok(can)
}
