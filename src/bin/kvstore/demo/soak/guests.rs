//! Guests who mean no good: whoever reaches the port may send what he likes, or nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use kvstore::client::{Client, conversation};
use kvstore::wire::client::{Request, RequestBody};
use kvstore::wire::frame::{self, FrameKind};
use kvstore::wire::{MAX_CLIENT_FRAME_BYTES, Writer};
use rand::RngExt;
use socket2::SockRef;

/// How long a visitor waits to be closed.
const VISIT: Duration = Duration::from_millis(100);
/// Between two turns of those who stay.
const TURN: Duration = Duration::from_millis(50);
/// What those who never read ask for.
const LARGE_KEY: &str = "large";
const LARGE_BYTES: usize = 64 << 10;

/// What a visitor does with its connection.
type Act = fn(TcpStream) -> io::Result<()>;

/// Those who come, say something, and are done: what they do, and the pause before the next comes.
const VISITORS: [(Duration, Act); 4] = [
    (Duration::from_millis(20), |stream| say(stream, &garbage())),
    (Duration::from_millis(50), |stream| say(stream, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")),
    (Duration::from_millis(50), |stream| say(stream, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")),
    (Duration::from_millis(10), |stream| SockRef::from(&stream).set_linger(Some(Duration::ZERO))),
];

/// Those who stay for as long as they are let: how many there are, what they say first, and what in each turn.
struct Squatters {
    count: usize,
    hello: Vec<u8>,
    again: Vec<u8>,
}

impl Squatters {
    fn all() -> [Self; 4] {
        let hello = conversation::hello().to_vec();
        let greedy: Vec<u8> = (0..100).flat_map(get_large).collect();
        [
            Self { count: 30, hello: Vec::new(), again: Vec::new() },
            Self { count: 300, hello: hello.clone(), again: Vec::new() },
            Self { count: 12, hello: [hello.clone(), endless_request()].concat(), again: vec![0] },
            Self { count: 3, hello, again: greedy },
        ]
    }

    /// Whether they care for what they are sent.
    fn read(&self) -> bool {
        self.again.len() <= 1
    }
}

/// All of them at all endpoints until `end`; how many came.
pub(super) fn visit(endpoints: &[String], mut host: Client, end: Instant) -> Result<u64> {
    host.put(LARGE_KEY, vec![b'v'; LARGE_BYTES]).context("cannot prepare for the guests")?;
    let squatters = Squatters::all();
    thread::scope(|scope| {
        let visitors =
            VISITORS.map(|(pause, act)| scope.spawn(move || come_and_go(endpoints, pause, act, end)));
        let squatters: Vec<_> =
            squatters.iter().map(|kind| scope.spawn(move || squat(endpoints, kind, end))).collect();
        let counts = visitors.into_iter().chain(squatters);
        let counts = counts.map(|guests| guests.join().expect("guests do not panic"));
        counts.sum::<io::Result<u64>>().context("a guest was not let in; see `ulimit -n` of this shell")
    })
}

fn come_and_go(endpoints: &[String], pause: Duration, act: Act, end: Instant) -> io::Result<u64> {
    let mut came = 0;
    for endpoint in endpoints.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        let stream = TcpStream::connect(endpoint)?;
        // A node that has closed already takes nothing more, which is as good.
        let _ = act(stream);
        came += 1;
        // Guests come at this pace; nothing is waited for.
        thread::sleep(pause);
    }
    Ok(came)
}

/// Sends, and reads until the node closes or it takes too long.
fn say(mut stream: TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.set_read_timeout(Some(VISIT))?;
    stream.write_all(bytes)?;
    while stream.read(&mut [0; 4096])? > 0 {}
    Ok(())
}

/// Keeps so many connections; whoever is closed comes again.
fn squat(endpoints: &[String], kind: &Squatters, end: Instant) -> io::Result<u64> {
    let mut came = 0;
    let mut enter = |place: usize| {
        came += 1;
        let mut stream = TcpStream::connect(&endpoints[place % endpoints.len()])?;
        stream.write_all(&kind.hello)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let mut streams = (0..kind.count).map(&mut enter).collect::<io::Result<Vec<_>>>()?;
    while Instant::now() < end {
        for (place, stream) in streams.iter_mut().enumerate() {
            if is_closed(stream, kind) {
                *stream = enter(place)?;
            }
        }
        // A slow sender is slow on purpose: one byte in each turn.
        thread::sleep(TURN);
    }
    drop(streams);
    Ok(came)
}

/// Takes a turn, and tells whether the node has closed.
fn is_closed(stream: &mut TcpStream, kind: &Squatters) -> bool {
    let is_broken = |done: io::Result<usize>| done.is_err_and(|error| error.kind() != ErrorKind::WouldBlock);
    if !kind.again.is_empty() && is_broken(stream.write(&kind.again)) {
        return true;
    }
    kind.read()
        && match stream.read(&mut [0; 4096]) {
            Ok(count) => count == 0,
            failed => is_broken(failed),
        }
}

/// Noise, of which every second begins like an introduction.
fn garbage() -> Vec<u8> {
    let mut rng = rand::rng();
    let mut bytes = if rng.random() { conversation::hello().to_vec() } else { Vec::new() };
    let noise = rng.random_range(1..2000);
    bytes.extend((0..noise).map(|_| rng.random::<u8>()));
    bytes
}

/// The header of a request as long as any may be.
fn endless_request() -> Vec<u8> {
    let mut out = Writer::new();
    frame::encode(FrameKind::Request, &mut out, |_| {});
    let mut header = out.into_bytes().to_vec();
    header[4..8].copy_from_slice(&MAX_CLIENT_FRAME_BYTES.to_le_bytes());
    header
}

fn get_large(id: u64) -> Vec<u8> {
    let body = RequestBody::Get { key: Bytes::from_static(LARGE_KEY.as_bytes()), stale: false };
    let request = Request { id, time_left_ms: 10_000, silent_leader: None, body };
    let mut out = Writer::new();
    frame::encode(FrameKind::Request, &mut out, |out| request.encode(out));
    out.into_bytes().to_vec()
}
