//! The machine's floor, and how far above it a put of ours is.
//!
//! The floor is the least that a durable, replicated write can cost on this machine: client to
//! leader, leader to two followers, three processes that each overwrite 128 bytes in a preallocated
//! file and `fdatasync`, and the answer once the leader and one follower are durable. Blocking
//! sockets, no protocol, no log, no state: what is left is the kernel, the loopback and the disk.
//! All figures "times the floor" in the documents mean this one.
//!
//! Machines are noisy, so the floor and our puts are measured in turns, in one run, and compared
//! round by round. Ours are measured twice: on a bare connection, which writes a request and reads
//! its answer on one thread as the floor's client does, and through the client library.
//!
//! `cargo bench --bench floor` takes about half a minute; with `-- --quick`, two seconds.

#[path = "../src/bin/kvstore/demo/cluster.rs"]
#[expect(unused, reason = "the demo uses all of it")]
mod cluster;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use kvstore::client::Client;
use kvstore::types::{ClientId, Sequence};
use kvstore::wire::client::{Operation, Outcome, Request, RequestBody, Response, ResponseBody, Write as Put};
use kvstore::wire::frame::{self, Decoder, Frame, FrameKind};
use kvstore::wire::hello::Welcome;
use kvstore::wire::{MAX_CLIENT_FRAME_BYTES, Reader, Writer};
use rustix::event::{PollFd, PollFlags, poll};
use tempfile::TempDir;

use cluster::{Cluster, Port, free_ports, list_of_others};

/// What is written for each request.
const RECORD_BYTES: usize = 128;
/// Records go one after the other through a file of this size, and then begin again.
const FILE_BYTES: usize = 4 << 20;
/// An acknowledgement: the number of the request.
const ACK_BYTES: usize = 8;
const VALUE: [u8; 64] = [b'v'; 64];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["follower", port, file] => follow(port.parse()?, Path::new(file)),
        ["leader", port, file, ref followers @ ..] => lead(port.parse()?, Path::new(file), followers),
        _ if words.contains(&"--quick") || words.contains(&"--test") => compare(40, 10),
        _ => compare(400, 25),
    }
}

/// A file of written zeroes: overwriting them changes no metadata, so a sync is as cheap as it gets.
struct Records {
    file: File,
    offset: usize,
}

impl Records {
    fn create(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(&vec![0; FILE_BYTES])?;
        file.sync_all()?;
        Ok(Self { file, offset: 0 })
    }

    fn store(&mut self, record: &[u8; RECORD_BYTES]) -> Result<()> {
        self.file.write_all_at(record, self.offset as u64)?;
        self.offset = (self.offset + RECORD_BYTES) % FILE_BYTES;
        Ok(self.file.sync_data()?)
    }
}

/// Reads exactly one message; false if the other end is gone.
fn receive(stream: &mut TcpStream, message: &mut [u8]) -> Result<bool> {
    match stream.read_exact(message) {
        Ok(()) => Ok(true),
        // Whoever ends with an acknowledgement unread resets the connection.
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Says that this process listens, and waits for whoever is to send to it.
fn accept(port: u16) -> Result<TcpStream> {
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("listening");
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn dial(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn follow(port: u16, file: &Path) -> Result<()> {
    let mut records = Records::create(file)?;
    let mut leader = accept(port)?;
    let mut record = [0; RECORD_BYTES];
    while receive(&mut leader, &mut record)? {
        records.store(&record)?;
        leader.write_all(&record[..ACK_BYTES])?;
    }
    Ok(())
}

fn lead(port: u16, file: &Path, followers: &[&str]) -> Result<()> {
    let mut records = Records::create(file)?;
    let mut followers = followers.iter().map(|port| dial(port.parse()?)).collect::<Result<Vec<_>>>()?;
    let mut client = accept(port)?;
    let mut record = [0; RECORD_BYTES];
    while receive(&mut client, &mut record)? {
        for follower in &mut followers {
            follower.write_all(&record)?;
        }
        records.store(&record)?;
        await_one(&mut followers, &record[..ACK_BYTES])?;
        client.write_all(&record[..ACK_BYTES])?;
    }
    Ok(())
}

/// Waits until one follower has acknowledged. The other's late answer is read in the next round.
fn await_one(followers: &mut [TcpStream], wanted: &[u8]) -> Result<()> {
    loop {
        let mut waiting: Vec<PollFd> = followers
            .iter()
            .map(|follower| PollFd::from_borrowed_fd(follower.as_fd(), PollFlags::IN))
            .collect();
        poll(&mut waiting, None)?;
        let readable: Vec<bool> = waiting.iter().map(|waiting| !waiting.revents().is_empty()).collect();
        for (follower, _) in followers.iter_mut().zip(readable).filter(|(_, readable)| *readable) {
            let mut ack = [0; ACK_BYTES];
            ensure!(receive(follower, &mut ack)?, "a follower is gone");
            if ack == *wanted {
                return Ok(());
            }
        }
    }
}

/// The client of the floor, and its processes.
struct Floor {
    leader: TcpStream,
    requests: u64,
    processes: Vec<Child>,
    _ports: Vec<Port>,
    _directory: TempDir,
}

impl Floor {
    fn start() -> Result<Self> {
        let directory = TempDir::with_prefix("kvstore-floor-")?;
        let ports = free_ports(3)?;
        let file = |name: &str| directory.path().join(name).display().to_string();
        let [leader, first, second] = [0, 1, 2].map(|place| ports[place].number().to_string());
        let processes = vec![
            start_process(&["follower", &first, &file("first")])?,
            start_process(&["follower", &second, &file("second")])?,
            start_process(&["leader", &leader, &file("leader"), &first, &second])?,
        ];
        let leader = dial(ports[0].number())?;
        Ok(Self { leader, requests: 0, processes, _ports: ports, _directory: directory })
    }
}

impl Drop for Floor {
    /// The processes end by themselves, one after the other, once this connection has.
    fn drop(&mut self) {
        let _ = self.leader.shutdown(Shutdown::Both);
        for process in &mut self.processes {
            let _ = process.wait();
        }
    }
}

/// Starts this program in another role and waits until it listens.
fn start_process(arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut process = command.args(arguments).stdout(Stdio::piped()).spawn()?;
    let stdout = process.stdout.take().context("a process without stdout")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    ensure!(line == "listening\n", "the floor's {} did not start", arguments[0]);
    Ok(process)
}

/// A connection to our leader with nothing around it.
struct Bare {
    stream: TcpStream,
    decoder: Decoder,
    client: ClientId,
    sequence: Sequence,
}

impl Bare {
    fn connect(endpoint: &str) -> Result<Self> {
        let mut stream = TcpStream::connect(endpoint)?;
        stream.set_nodelay(true)?;
        let mut hello = Writer::new();
        frame::encode(FrameKind::ClientHello, &mut hello, |_| {});
        stream.write_all(&hello.into_bytes())?;
        let mut decoder = Decoder::new(MAX_CLIENT_FRAME_BYTES);
        let welcome = next_frame(&mut stream, &mut decoder)?;
        let welcome = Welcome::decode(&mut Reader::new(welcome.payload))?;
        let client = ClientId::Library { born: welcome.cluster_time, nonce: 1 };
        Ok(Self { stream, decoder, client, sequence: Sequence(0) })
    }
}

fn next_frame(stream: &mut TcpStream, decoder: &mut Decoder) -> Result<Frame> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(frame) = decoder.next()? {
            return Ok(frame);
        }
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "the node closed the connection");
        decoder.push(&buffer[..count]);
    }
}

/// Something that can be asked to write, durably and on a majority, again and again.
trait Store {
    fn write(&mut self) -> Result<()>;
}

impl Store for Floor {
    fn write(&mut self) -> Result<()> {
        self.requests += 1;
        let mut record = [b'r'; RECORD_BYTES];
        record[..ACK_BYTES].copy_from_slice(&self.requests.to_le_bytes());
        self.leader.write_all(&record)?;
        let mut ack = [0; ACK_BYTES];
        ensure!(receive(&mut self.leader, &mut ack)? && ack == record[..ACK_BYTES], "no answer of the floor");
        Ok(())
    }
}

impl Store for Bare {
    fn write(&mut self) -> Result<()> {
        self.sequence = self.sequence.next();
        let operation = Operation::Put { key: Bytes::from_static(b"key"), value: Bytes::from_static(&VALUE) };
        let put = Put {
            client: self.client.clone(),
            sequence: self.sequence,
            acknowledged: self.sequence,
            operation,
        };
        let id = self.sequence.0;
        let body = RequestBody::Write(put);
        let request = Request { id, time_left_ms: 5000, silent_leader: None, body };
        let mut out = Writer::new();
        frame::encode(FrameKind::Request, &mut out, |out| request.encode(out));
        self.stream.write_all(&out.into_bytes())?;
        let answer = Response::decode(next_frame(&mut self.stream, &mut self.decoder)?.payload)?;
        match answer.body {
            ResponseBody::Written { outcome: Outcome::Done, .. } if answer.id == id => Ok(()),
            other => bail!("no put: {other:?}"),
        }
    }
}

impl Store for Client {
    fn write(&mut self) -> Result<()> {
        self.put("key", VALUE)?;
        Ok(())
    }
}

/// One of those that are compared, and what was measured of it.
struct Candidate {
    name: &'static str,
    store: Box<dyn Store>,
    /// Of each round, in ascending order.
    rounds: Vec<Vec<Duration>>,
}

impl Candidate {
    fn new(name: &'static str, store: impl Store + 'static) -> Self {
        Self { name, store: Box::new(store), rounds: Vec::new() }
    }

    fn play(&mut self, writes: usize) -> Result<()> {
        let mut times = Vec::with_capacity(writes);
        for _ in 0..writes {
            let begin = Instant::now();
            self.store.write()?;
            times.push(begin.elapsed());
        }
        times.sort_unstable();
        self.rounds.push(times);
        Ok(())
    }

    fn medians(&self) -> impl Iterator<Item = f64> {
        self.rounds.iter().map(|round| percentile(round, 0.5).as_secs_f64())
    }

    fn report(&self, floor: &Candidate) {
        let mut all: Vec<Duration> = self.rounds.iter().flatten().copied().collect();
        all.sort_unstable();
        let micros = |share| percentile(&all, share).as_secs_f64() * 1e6;
        let mut ratios: Vec<f64> =
            self.medians().zip(floor.medians()).map(|(own, floor)| own / floor).collect();
        ratios.sort_by(f64::total_cmp);
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| percentile(&ratios, share));
        println!(
            "{:<16} {:>8.0} {:>8.0} {:>8.0}   {middle:>6.2}   {low:>5.2} to {high:.2}",
            self.name,
            micros(0.0),
            micros(0.5),
            micros(0.99),
        );
    }
}

/// The least value that at least this share of them does not exceed (nearest rank).
fn percentile<T: Copy>(ascending: &[T], share: f64) -> T {
    let rank = (share * ascending.len() as f64).ceil() as usize;
    ascending[rank.saturating_sub(1)]
}

/// Measures all candidates in turns: whatever disturbs the machine disturbs each of them alike.
fn compare(rounds: usize, writes: usize) -> Result<()> {
    let program = env!("CARGO_BIN_EXE_kvstore").into();
    let mut nodes = Cluster::new(program, 3, list_of_others)?;
    (0..3).try_for_each(|node| nodes.start(node))?;
    let leader = nodes.wait_until_whole()?;
    let mut candidates = [
        Candidate::new("floor", Floor::start()?),
        Candidate::new("bare connection", Bare::connect(&nodes.endpoint(leader))?),
        Candidate::new("client library", nodes.client()?),
    ];
    for candidate in &mut candidates {
        candidate.play(writes)?;
        candidate.rounds.clear();
    }
    for _ in 0..rounds {
        candidates.iter_mut().try_for_each(|candidate| candidate.play(writes))?;
    }
    println!("\na write of one idle client, {rounds} rounds of {writes} writes each, in turns");
    println!("{:<16} {:>8} {:>8} {:>8}   times the floor, by rounds", "microseconds", "min", "p50", "p99");
    println!("{:<16} {:>8} {:>8} {:>8}   {:>6}   middle half", "", "", "", "", "median");
    candidates.iter().for_each(|candidate| candidate.report(&candidates[0]));
    Ok(())
}
