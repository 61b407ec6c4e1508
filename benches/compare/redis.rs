//! Redis: one master, two replicas, every write fsynced, and `WAIT 1`: the answer counts once one
//! replica has acknowledged, too.
//!
//! Requests in flight of one connection share one `WAIT`, which is kinder to Redis than one each.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::driver::{Measured, Protocol, fill, run};
use crate::load::Ports;
use crate::work::{Op, Work};

pub(crate) const PROGRAM: &str = "redis-server";
pub(crate) const FLAGS: &str = "--appendonly yes --appendfsync always --save '' \
                                --repl-diskless-sync yes --repl-diskless-sync-delay 0";

/// A master and its replicas. Dropping it ends them.
pub(crate) struct Redis {
    processes: Vec<Child>,
    ports: Ports,
    _directory: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Result<Self> {
        let (ports, directory) = (Ports::claim(3)?, TempDir::with_prefix("kvstore-compare-redis-")?);
        let mut redis = Self { processes: Vec::new(), ports, _directory: directory };
        for place in 0..3 {
            let own = redis._directory.path().join(place.to_string());
            std::fs::create_dir(&own)?;
            let mut command = Command::new(PROGRAM);
            command.args(["--port", &redis.ports.number(place).to_string(), "--bind", "127.0.0.1"]);
            command.arg("--dir").arg(own);
            command.args(FLAGS.split_whitespace().map(|flag| flag.trim_matches('\'')));
            if place > 0 {
                command.args(["--replicaof", "127.0.0.1", &redis.ports.number(0).to_string()]);
            }
            let command = command.stdout(Stdio::null()).stderr(Stdio::null());
            redis.processes.push(command.spawn().context(PROGRAM)?);
        }
        redis.wait_until_whole()?;
        Ok(redis)
    }

    pub(crate) fn run(&self, work: Work, time: Duration) -> Result<Measured> {
        let ports = [0, 1, 2].map(|place| self.ports.number(place));
        let master = &ports[..1];
        if work.op != Op::Put {
            fill(master, Resp::default)?;
        }
        // A stale read may go to any node; everything else is the master's.
        let asked = if work.op == Op::StaleGet { &ports[..] } else { master };
        run(asked, work, time, Resp::default)
    }

    fn wait_until_whole(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.is_whole().unwrap_or(false) {
            ensure!(Instant::now() < deadline, "the replicas of {PROGRAM} did not come online");
            // It must be asked again; nothing is measured yet.
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn is_whole(&self) -> Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.number(0)))?;
        stream.write_all(b"INFO replication\r\nQUIT\r\n")?;
        let lines = BufReader::new(stream).lines().map_while(Result::ok);
        Ok(lines.filter(|line| line.starts_with("slave") && line.contains("state=online")).count() == 2)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The protocol of Redis: answers come in the order of the requests.
#[derive(Default)]
struct Resp {
    /// What is to be answered: a SET or a GET by its number, or a WAIT.
    expected: VecDeque<Expected>,
    /// SETs that are answered and wait for a replica.
    set: Vec<u64>,
}

enum Expected {
    Set(u64),
    Get(u64),
    Wait,
}

impl Protocol for Resp {
    fn greet(&mut self, _: &mut Vec<u8>) {}

    fn ask(&mut self, number: u64, op: Op, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        match op {
            Op::Put => command(&[b"SET", key, value], out),
            Op::Get | Op::StaleGet => command(&[b"GET", key], out),
        }
        let is_put = op == Op::Put;
        self.expected.push_back(if is_put { Expected::Set(number) } else { Expected::Get(number) });
    }

    fn end_batch(&mut self, out: &mut Vec<u8>) {
        command(&[b"WAIT", b"1", b"0"], out);
        self.expected.push_back(Expected::Wait);
    }

    fn is_batched(&self) -> bool {
        true
    }

    fn take(&mut self, input: &[u8], _: &mut Vec<u8>, done: &mut Vec<u64>) -> Result<usize> {
        let mut taken = 0;
        while let Some((reply, length)) = reply(&input[taken..])? {
            taken += length;
            match self.expected.pop_front().context("an answer to nothing")? {
                Expected::Set(number) if reply == b"OK" => self.set.push(number),
                Expected::Get(number) if !reply.is_empty() => done.push(number),
                Expected::Wait if reply != b"0" => done.append(&mut self.set),
                _ => bail!("unexpected answer {}", String::from_utf8_lossy(reply)),
            }
        }
        Ok(taken)
    }
}

fn command(words: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The reply at the beginning, and its length with all around it; `None` if it is not whole yet.
fn reply(input: &[u8]) -> Result<Option<(&[u8], usize)>> {
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
    let line = &input[1..end];
    match input[0] {
        b'+' | b':' => Ok(Some((line, end + 2))),
        b'$' => {
            let length: i64 = std::str::from_utf8(line)?.parse()?;
            let length = usize::try_from(length).context("key not found")?;
            let whole = end + 2 + length + 2;
            Ok((whole <= input.len()).then(|| (&input[end + 2..whole - 2], whole)))
        }
        _ => bail!("{}", String::from_utf8_lossy(&input[..end])),
    }
}
