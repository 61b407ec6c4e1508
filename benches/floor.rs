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
#[path = "floor/processes.rs"]
mod processes;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use kvstore::client::Client;
use kvstore::types::{ClientId, Sequence};
use kvstore::wire::client::{Operation, Outcome, Request, RequestBody, Response, ResponseBody, Write as Put};
use kvstore::wire::frame::{self, Decoder, Frame, FrameKind};
use kvstore::wire::hello::Welcome;
use kvstore::wire::{MAX_CLIENT_FRAME_BYTES, Reader, Writer};

use cluster::{Cluster, Port, free_ports, list_of_others};
use processes::Floor;

const VALUE: [u8; 64] = [b'v'; 64];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match processes::play(&words) {
        Some(played) => played,
        None if words.contains(&"--quick") || words.contains(&"--test") => compare(40, 10),
        None => compare(400, 25),
    }
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
        Floor::write(self)
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
    let claimed = free_ports(3)?;
    let ports = [0, 1, 2].map(|place| Port::number(&claimed[place]));
    let mut candidates = [
        Candidate::new("floor", Floor::start(ports)?),
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
