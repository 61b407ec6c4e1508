//! etcd: three nodes with their defaults, asked over gRPC.
//!
//! Its own clients cost more than its answers do, and its tools measure other work than ours. So
//! here is as much of HTTP/2 and gRPC as a unary call needs, over the same cheap driver. Puts go to
//! the leader at once, so that nothing is forwarded.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::driver::{Measured, Protocol, fill, run};
use crate::load::Ports;
use crate::work::{Op, Work};

pub(crate) const PROGRAM: &str = "etcd";

/// Three nodes. Dropping it ends them.
pub(crate) struct Etcd {
    processes: Vec<Child>,
    ports: Ports,
    /// Of the node that leads.
    leader: usize,
    _directory: TempDir,
}

impl Etcd {
    pub(crate) fn start() -> Result<Self> {
        let (ports, directory) = (Ports::claim(6)?, TempDir::with_prefix("kvstore-compare-etcd-")?);
        let mut etcd = Self { processes: Vec::new(), ports, leader: 0, _directory: directory };
        let url = |place: usize| format!("http://127.0.0.1:{}", etcd.ports.number(place));
        let cluster = [0, 1, 2].map(|node| format!("n{node}={}", url(3 + node))).join(",");
        for node in 0..3 {
            let (client, peer) = (url(node), url(3 + node));
            let mut command = Command::new(PROGRAM);
            command.args(["--name", &format!("n{node}"), "--log-level", "error"]);
            command.arg("--data-dir").arg(etcd._directory.path().join(node.to_string()));
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &cluster, "--initial-cluster-state", "new"]);
            let command = command.stdout(Stdio::null()).stderr(Stdio::null());
            etcd.processes.push(command.spawn().context(PROGRAM)?);
        }
        etcd.leader = etcd.wait_for_leader()?;
        Ok(etcd)
    }

    pub(crate) fn run(&self, work: Work, time: Duration) -> Result<Measured> {
        let ports = [0, 1, 2].map(|node| self.ports.number(node));
        let leader = &ports[self.leader..=self.leader];
        if work.op != Op::Put {
            fill(leader, Grpc::default)?;
        }
        let asked = if work.op == Op::Put { leader } else { &ports[..] };
        run(asked, work, time, Grpc::default)
    }

    fn wait_for_leader(&self) -> Result<usize> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(Some(leader)) = self.find_leader() {
                return Ok(leader);
            }
            ensure!(Instant::now() < deadline, "{PROGRAM} has no leader that all three know");
            // It must be asked again; nothing is measured yet.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn find_leader(&self) -> Result<Option<usize>> {
        let endpoints = [0, 1, 2].map(|node| format!("127.0.0.1:{}", self.ports.number(node)));
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &endpoints.join(",")]);
        let output = command.args(["endpoint", "status", "-w", "json"]).output().context("etcdctl")?;
        let views: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let leads = |view: &Value| view["Status"]["leader"] == view["Status"]["header"]["member_id"];
        let agree = views.len() == 3
            && views.iter().all(|view| {
                view["Status"]["leader"].is_u64() && view["Status"]["leader"] == views[0]["Status"]["leader"]
            });
        let leader = views.iter().find(|view| leads(view)).filter(|_| agree);
        Ok(leader.and_then(|view| endpoints.iter().position(|endpoint| view["Endpoint"] == **endpoint)))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const FRAME_HEADER: usize = 9;
/// What a connection may send before it is told that the other end has read.
const WINDOW: i64 = 65_535;
/// We read everything at once: the other end may send as much as it likes.
const CREDIT: u32 = 1 << 30;

/// Unary calls of gRPC over HTTP/2. Call `n` is stream `2n + 1`.
struct Grpc {
    /// What we may still send.
    window: i64,
    /// What the other end may still send, of the credit that we gave.
    credit: i64,
    /// Calls whose message has come, but not its end.
    received: Vec<u64>,
}

impl Default for Grpc {
    fn default() -> Self {
        Self { window: WINDOW, credit: WINDOW, received: Vec::new() }
    }
}

impl Protocol for Grpc {
    fn greet(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        frame(SETTINGS, 0, 0, &[], out);
        self.give_credit(out);
    }

    fn ask(&mut self, number: u64, op: Op, key: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let mut message = Vec::new();
        field(1, key, &mut message);
        let path: &[u8] = match op {
            Op::Put => {
                field(2, value, &mut message);
                b"/etcdserverpb.KV/Put"
            }
            // Field 7, `serializable`: what the node has.
            Op::StaleGet => {
                message.extend_from_slice(&[7 << 3, 1]);
                b"/etcdserverpb.KV/Range"
            }
            Op::Get => b"/etcdserverpb.KV/Range",
        };
        let stream = u32::try_from(number * 2 + 1).expect("fewer calls than streams");
        frame(HEADERS, END_HEADERS, stream, &headers(path), out);
        let mut data = vec![0];
        data.extend_from_slice(&(message.len() as u32).to_be_bytes());
        data.extend_from_slice(&message);
        self.window -= data.len() as i64;
        frame(DATA, END_STREAM, stream, &data, out);
    }

    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, done: &mut Vec<u64>) -> Result<usize> {
        ensure!(self.window > 0, "more in flight than one connection's window of HTTP/2");
        let mut taken = 0;
        while let Some((header, rest)) = input[taken..].split_first_chunk::<FRAME_HEADER>() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let Some(payload) = rest.get(..length) else { break };
            let stream = u32::from_be_bytes([header[5], header[6], header[7], header[8]]);
            self.on_frame(header[3], header[4], stream, payload, out, done)?;
            taken += FRAME_HEADER + length;
        }
        if self.credit < i64::from(CREDIT / 2) {
            self.give_credit(out);
        }
        Ok(taken)
    }
}

impl Grpc {
    fn on_frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        out: &mut Vec<u8>,
        done: &mut Vec<u64>,
    ) -> Result<()> {
        let number = u64::from(stream / 2);
        match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], out),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, payload, out),
            WINDOW_UPDATE if stream == 0 => {
                let more: [u8; 4] = payload.try_into().context("a window update of 4 bytes")?;
                self.window += i64::from(u32::from_be_bytes(more));
            }
            DATA => {
                self.credit -= payload.len() as i64;
                self.received.push(number);
            }
            // A call that failed ends without any message.
            HEADERS if flags & END_STREAM != 0 => {
                let place = self.received.iter().position(|received| *received == number);
                self.received.swap_remove(place.context("a call was refused")?);
                done.push(number);
            }
            RESET | GO_AWAY => bail!("the node broke off: {payload:?}"),
            _ => {}
        }
        Ok(())
    }

    fn give_credit(&mut self, out: &mut Vec<u8>) {
        frame(WINDOW_UPDATE, 0, 0, &CREDIT.to_be_bytes(), out);
        self.credit += i64::from(CREDIT);
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// A field of protobuf with fewer than 128 bytes.
fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[number << 3 | 2, bytes.len() as u8]);
    out.extend_from_slice(bytes);
}

/// HPACK without its tables' moving parts: names by their place in the fixed table where they have
/// one, values as they are.
fn headers(path: &[u8]) -> Vec<u8> {
    const POST: u8 = 0x80 | 3;
    const HTTP: u8 = 0x80 | 6;
    const PATH: &[u8] = &[4];
    const AUTHORITY: &[u8] = &[1];
    const CONTENT_TYPE: &[u8] = &[0x0F, 31 - 15];
    const TE: &[u8] = &[0, 2, b't', b'e'];
    let mut block = vec![POST, HTTP];
    let pairs: [(&[u8], &[u8]); 4] =
        [(PATH, path), (AUTHORITY, b"127.0.0.1"), (CONTENT_TYPE, b"application/grpc"), (TE, b"trailers")];
    for (name, value) in pairs {
        block.extend_from_slice(name);
        block.push(value.len() as u8);
        block.extend_from_slice(value);
    }
    block
}
