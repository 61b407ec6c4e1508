//! TCP proxies between nodes, whose cables can be cut, slowed down and torn, each way by itself.
//!
//! The demo plays with it, and so do the tests of real processes, which include this file.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::RngExt;

use super::cluster::{Port, free_ports};

/// Bytes that are read at once.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that may be under way in one direction. Who sends more must wait, as on a real cable.
const PIECES_UNDER_WAY: usize = 64;

/// What becomes of bytes that go one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Weather {
    /// Nothing passes and nobody is told. What waits arrives when this is over.
    pub(super) cut: bool,
    /// Connections are reset, and new ones as soon as they are made.
    pub(super) resets: bool,
    /// The least time that anything takes.
    pub(super) delay: Duration,
    /// What it may take besides, at random.
    pub(super) jitter: Duration,
    /// How likely a piece, and all behind it, waits for a stall besides, as after a lost packet.
    pub(super) stall_chance: f64,
    /// How long a stall takes.
    pub(super) stall: Duration,
}

impl Weather {
    /// Nothing passes.
    pub(super) fn cut() -> Self {
        Self { cut: true, ..Self::default() }
    }

    fn draw_delay(&self) -> Duration {
        let mut rng = rand::rng();
        let jitter = self.jitter.mul_f64(rng.random::<f64>());
        let stall = if rng.random_bool(self.stall_chance) { self.stall } else { Duration::ZERO };
        self.delay + jitter + stall
    }
}

/// The two ways of a cable, as its dialler sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// From the one who dials to the one who is dialled.
    Forth,
    /// The answers.
    Back,
}

/// One cable: all connections that one node dials to another.
#[derive(Debug, Default)]
struct Cable {
    state: Mutex<CableState>,
    changed: Condvar,
    /// Pieces that were held up, slowed down or dropped, and connections that were reset.
    disturbed: AtomicU64,
}

#[derive(Debug, Default)]
struct CableState {
    forth: Weather,
    back: Weather,
    /// Both ends of the connections that are open.
    connections: Vec<[Arc<TcpStream>; 2]>,
}

impl CableState {
    fn weather(&mut self, way: Way) -> &mut Weather {
        match way {
            Way::Forth => &mut self.forth,
            Way::Back => &mut self.back,
        }
    }
}

impl Cable {
    fn lock(&self) -> MutexGuard<'_, CableState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, way: Way, weather: Weather) {
        let mut state = self.lock();
        *state.weather(way) = weather;
        if weather.resets {
            let connections = std::mem::take(&mut state.connections);
            self.disturbed.fetch_add(connections.len() as u64, Ordering::Relaxed);
            connections.iter().flatten().for_each(|stream| reset(stream));
        }
        self.changed.notify_all();
    }

    fn disturb(&self) {
        self.disturbed.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits while this way is cut. Gives how it is then.
    fn wait_until_whole(&self, way: Way) -> Weather {
        let mut state = self.lock();
        if state.weather(way).cut {
            self.disturb();
        }
        while state.weather(way).cut {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        *state.weather(way)
    }
}

/// Ends a connection without a farewell: closing it, which its threads do once they notice, sends a
/// reset.
fn reset(stream: &TcpStream) {
    // It may have ended by itself, which is as good.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Read);
}

/// A cable from each node to each other one.
///
/// Each is a proxy that listens for as long as the process runs.
pub(super) struct Mesh {
    nodes: usize,
    ports: Vec<Port>,
    cables: Vec<Arc<Cable>>,
}

impl Mesh {
    /// Cables between so many nodes, on free ports. They carry nothing before [`Mesh::connect`].
    pub(super) fn new(nodes: usize) -> Result<Self> {
        let cables = (0..nodes * nodes).map(|_| Arc::default()).collect();
        Ok(Self { nodes, ports: free_ports(nodes * nodes)?, cables })
    }

    /// The `--peers` of a node: its ends of its cables to the others.
    pub(super) fn peers(&self, node: usize) -> Vec<String> {
        let others = (0..self.nodes).filter(|other| *other != node);
        let ports = others.map(|other| self.ports[self.place(node, other)].number().to_string());
        vec!["--peers".to_owned(), ports.collect::<Vec<_>>().join(",")]
    }

    /// Lets the cables lead to where the nodes listen.
    pub(super) fn connect(&self, endpoint: impl Fn(usize) -> String) -> Result<()> {
        for (place, port) in self.ports.iter().enumerate() {
            let listener =
                TcpListener::bind(("127.0.0.1", port.number())).context("cannot listen on a free port")?;
            relay(listener, endpoint(place % self.nodes), Arc::clone(&self.cables[place]));
        }
        Ok(())
    }

    /// Sets what becomes of all that `from` sends to `to`, whoever dialled.
    pub(super) fn set(&self, from: usize, to: usize, weather: Weather) {
        self.cables[self.place(from, to)].set(Way::Forth, weather);
        self.cables[self.place(to, from)].set(Way::Back, weather);
    }

    /// Sets what becomes of all that a node sends and is sent.
    pub(super) fn set_around(&self, node: usize, weather: Weather) {
        for other in (0..self.nodes).filter(|other| *other != node) {
            self.set(node, other, weather);
            self.set(other, node, weather);
        }
    }

    /// How many pieces and connections were disturbed so far.
    pub(super) fn disturbed(&self) -> u64 {
        self.cables.iter().map(|cable| cable.disturbed.load(Ordering::Relaxed)).sum()
    }

    fn place(&self, from: usize, to: usize) -> usize {
        from * self.nodes + to
    }
}

/// Relays every connection to `listener` to `target` over `cable`, until the process ends.
fn relay(listener: TcpListener, target: String, cable: Arc<Cable>) {
    thread::spawn(move || {
        for inbound in listener.incoming().flatten() {
            let (target, cable) = (target.clone(), Arc::clone(&cable));
            thread::spawn(move || {
                // If the target refuses, so does the proxy, by closing.
                let _ = join(inbound, &target, &cable);
            });
        }
    });
}

fn join(inbound: TcpStream, target: &str, cable: &Arc<Cable>) -> Result<()> {
    cable.wait_until_whole(Way::Forth);
    let outbound = TcpStream::connect(target)?;
    inbound.set_nodelay(true)?;
    outbound.set_nodelay(true)?;
    let ends = [Arc::new(inbound), Arc::new(outbound)];
    let mut state = cable.lock();
    if state.forth.resets || state.back.resets {
        cable.disturb();
        ends.iter().for_each(|end| reset(end));
        return Ok(());
    }
    state.connections.push(ends.clone());
    drop(state);
    let [inbound, outbound] = &ends;
    for (from, to, way) in [(inbound, outbound, Way::Forth), (outbound, inbound, Way::Back)] {
        let (sender, receiver) = sync_channel(PIECES_UNDER_WAY);
        let (from, to, forth, back) =
            (Arc::clone(from), Arc::clone(to), Arc::clone(cable), Arc::clone(cable));
        thread::spawn(move || take_in(&from, &sender, way, &forth));
        thread::spawn(move || give_out(&to, &receiver, way, &back));
    }
    Ok(())
}

/// A piece, and when it arrives.
type Piece = (Instant, Vec<u8>);

/// Reads what one end sends until it closes.
fn take_in(mut from: &TcpStream, pieces: &SyncSender<Piece>, way: Way, cable: &Cable) {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut last = Instant::now();
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let delay = cable.wait_until_whole(way).draw_delay();
        if !delay.is_zero() {
            cable.disturb();
        }
        // Nothing overtakes what was sent before it.
        last = last.max(Instant::now() + delay);
        if pieces.send((last, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

/// Writes what is under way to the other end when its time has come, and passes the end on.
fn give_out(mut to: &TcpStream, pieces: &Receiver<Piece>, way: Way, cable: &Cable) {
    for (arrival, piece) in pieces {
        // The delay is what this proxy is there for.
        thread::sleep(arrival.saturating_duration_since(Instant::now()));
        cable.wait_until_whole(way);
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    cable.wait_until_whole(way);
    let mut state = cable.lock();
    let is_this = |ends: &[Arc<TcpStream>; 2]| ends.iter().any(|end| std::ptr::eq(&**end, to));
    // A connection that was reset is no longer there, and must not end with a farewell.
    if let Some(at) = state.connections.iter().position(is_this) {
        let ends = state.connections.swap_remove(at);
        // Either may be closed already, which is what is wanted.
        ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }
}
