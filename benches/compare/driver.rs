//! The load on the others: a closed loop over many connections on one thread, as cheap as that of
//! `kv_client bench`. What differs between them is a [`Protocol`].

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::work::{KEYS, Op, VALUE_BYTES, Work};

/// How long an answer may take before the whole comparison is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// How requests and answers look on one connection. Requests are numbered by the caller.
pub(crate) trait Protocol {
    /// What is sent first.
    fn greet(&mut self, out: &mut Vec<u8>);
    /// Appends a request.
    fn ask(&mut self, number: u64, op: Op, key: &[u8], value: &[u8], out: &mut Vec<u8>);
    /// Appends what ends a batch of requests that were asked together.
    fn end_batch(&mut self, _out: &mut Vec<u8>) {}
    /// Whether all requests of a connection are asked, and answered, together.
    fn is_batched(&self) -> bool {
        false
    }
    /// Takes the answers at the beginning of `input` apart: how many bytes that were. What the
    /// protocol must say in return goes into `out`, the numbers of what is done into `done`.
    fn take(&mut self, input: &[u8], out: &mut Vec<u8>, done: &mut Vec<u64>) -> Result<usize>;
}

/// One connection and its requests in flight.
struct Connection<P> {
    protocol: P,
    stream: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    in_flight: Vec<(u64, Instant)>,
    next: u64,
}

/// What a load came to.
pub(crate) struct Measured {
    pub(crate) latencies: Histogram<u64>,
    pub(crate) duration: Duration,
}

/// Where the next request comes from.
struct Source {
    op: Op,
    pipeline: usize,
    rng: StdRng,
    value: Vec<u8>,
    /// While the keys are filled in: the next one.
    filling: Option<u64>,
    until: Instant,
}

impl Source {
    fn new(work: Work, time: Duration) -> Self {
        Self {
            op: work.op,
            pipeline: work.pipeline,
            rng: StdRng::seed_from_u64(1),
            value: vec![b'v'; VALUE_BYTES],
            filling: None,
            until: Instant::now() + time,
        }
    }

    /// The next key, or `None` if it is over.
    fn next(&mut self, now: Instant) -> Option<u64> {
        match &mut self.filling {
            Some(KEYS) => None,
            Some(next) => {
                *next += 1;
                Some(*next - 1)
            }
            None => (now < self.until).then(|| self.rng.random_range(0..KEYS)),
        }
    }
}

/// Puts every key once.
pub(crate) fn fill<P: Protocol>(ports: &[u16], protocol: impl Fn() -> P) -> Result<()> {
    let work = Work { op: Op::Put, clients: 16, pipeline: 1 };
    let source = Source { filling: Some(0), ..Source::new(work, Duration::ZERO) };
    turn_over(&mut connect(ports, work.clients, protocol)?, source)?;
    Ok(())
}

/// Connects `work.clients` times, to `ports` in turn, and does the work for so long.
pub(crate) fn run<P: Protocol>(
    ports: &[u16],
    work: Work,
    time: Duration,
    protocol: impl Fn() -> P,
) -> Result<Measured> {
    let mut connections = connect(ports, work.clients, protocol)?;
    turn_over(&mut connections, Source::new(work, time))
}

/// Blocking until all are connected: that is not measured.
fn connect<P: Protocol>(ports: &[u16], count: usize, protocol: impl Fn() -> P) -> Result<Vec<Connection<P>>> {
    let connect = |place: usize| {
        let stream = std::net::TcpStream::connect(("127.0.0.1", ports[place % ports.len()]))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let (stream, mut protocol, mut out) = (TcpStream::from_std(stream), protocol(), Vec::new());
        protocol.greet(&mut out);
        Ok(Connection { protocol, stream, out, input: Vec::new(), in_flight: Vec::new(), next: 0 })
    };
    (0..count).map(connect).collect()
}

/// Goes on until the source has no more and every request is answered.
fn turn_over<P: Protocol>(connections: &mut [Connection<P>], mut source: Source) -> Result<Measured> {
    let mut poll = Poll::new()?;
    for (place, connection) in connections.iter_mut().enumerate() {
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut connection.stream, Token(place), interest)?;
    }
    let began = Instant::now();
    let mut latencies = Histogram::<u64>::new_with_max(3_600_000_000_000, 3)?;
    let mut events = Events::with_capacity(1024);
    for connection in &mut *connections {
        connection.ask_more(&mut source, began);
        connection.flush()?;
    }
    while connections.iter().any(|connection| !connection.in_flight.is_empty()) {
        poll.poll(&mut events, Some(PATIENCE))?;
        ensure!(!events.is_empty(), "no answer within {PATIENCE:?}");
        for event in &events {
            let connection = &mut connections[event.token().0];
            connection.read(&mut latencies)?;
            connection.ask_more(&mut source, Instant::now());
            connection.flush()?;
        }
    }
    Ok(Measured { latencies, duration: began.elapsed() })
}

impl<P: Protocol> Connection<P> {
    fn ask_more(&mut self, source: &mut Source, now: Instant) {
        if self.protocol.is_batched() && !self.in_flight.is_empty() {
            return;
        }
        let before = self.in_flight.len();
        while self.in_flight.len() < source.pipeline
            && let Some(key) = source.next(now)
        {
            let key = format!("bench/{key:010}");
            self.protocol.ask(self.next, source.op, key.as_bytes(), &source.value, &mut self.out);
            self.in_flight.push((self.next, now));
            self.next += 1;
        }
        if before < self.in_flight.len() && source.op == Op::Put {
            self.protocol.end_batch(&mut self.out);
        }
    }

    fn flush(&mut self) -> Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => bail!("the connection takes no more"),
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("writing"),
            }
        }
        Ok(())
    }

    fn read(&mut self, latencies: &mut Histogram<u64>) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        let mut done = Vec::new();
        loop {
            let count = match self.stream.read(&mut buffer) {
                Ok(0) => bail!("the node closed the connection"),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("reading"),
            };
            self.input.extend_from_slice(&buffer[..count]);
            let taken = self.protocol.take(&self.input, &mut self.out, &mut done)?;
            self.input.drain(..taken);
            let now = Instant::now();
            for number in done.drain(..) {
                let place = self.in_flight.iter().position(|(own, _)| *own == number);
                let (_, sent) = self.in_flight.swap_remove(place.context("an answer to nothing")?);
                latencies.saturating_record(u64::try_from((now - sent).as_nanos())?);
            }
            if count < buffer.len() {
                return Ok(());
            }
        }
    }
}
