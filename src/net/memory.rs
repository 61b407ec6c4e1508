//! A network within one test: sockets that follow the rules of edge-triggered TCP.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;

use super::{ConnectionId, Readiness, Socket};

/// Bytes that one direction of a connection holds.
const CAPACITY: usize = 256 << 10;

#[derive(Debug, Default)]
struct State {
    listeners: BTreeMap<SocketAddr, Listener>,
    pipes: Vec<[End; 2]>,
    events: Vec<Event>,
}

#[derive(Debug)]
struct Event {
    host: SocketAddr,
    id: ConnectionId,
    readiness: Readiness,
}

#[derive(Debug, Default)]
struct Listener {
    backlog: VecDeque<usize>,
    is_ready: bool,
    /// Accepting fails so, once each.
    errors: VecDeque<i32>,
    /// Whoever connects is closed at once, as by a dying process.
    is_dying: bool,
}

/// One end: what has arrived for it, and who it is.
#[derive(Debug, Default)]
struct End {
    owner: Option<(SocketAddr, ConnectionId)>,
    arrived: VecDeque<u8>,
    is_other_gone: bool,
    is_reset: bool,
    is_gone: bool,
}

/// The network, shared by all who take part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network(Rc<RefCell<State>>);

/// One host of it.
#[derive(Debug)]
pub(crate) struct Host {
    network: Network,
    address: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct MemorySocket {
    network: Network,
    pipe: usize,
    side: usize,
}

impl Network {
    /// A host that listens.
    pub(crate) fn listen(&self, address: SocketAddr) -> Host {
        self.0.borrow_mut().listeners.insert(address, Listener::default());
        Host { network: self.clone(), address }
    }

    /// Dials to this address are refused from now on.
    pub(crate) fn stop_listening(&self, address: SocketAddr) {
        self.0.borrow_mut().listeners.remove(&address);
    }

    /// Dials to this address are accepted and closed.
    pub(crate) fn begin_to_die(&self, address: SocketAddr) {
        self.0.borrow_mut().listeners.entry(address).or_default().is_dying = true;
    }

    /// How many connections there ever were.
    pub(crate) fn pipes(&self) -> usize {
        self.0.borrow().pipes.len()
    }

    /// Breaks a connection, as a middlebox does: both ends find it reset, what is under way is lost.
    pub(crate) fn reset(&self, pipe: usize) {
        let mut state = self.0.borrow_mut();
        for side in 0..2 {
            let end = &mut state.pipes[pipe][side];
            end.arrived.clear();
            (end.is_other_gone, end.is_reset, end.is_gone) = (true, true, true);
            let gone = Readiness { readable: true, writable: true, read_closed: true, write_closed: true };
            state.notify(pipe, side, gone);
        }
    }

    /// Bytes arrive at a host on one of its connections, whoever is at the other end.
    pub(crate) fn arrive(&self, host: SocketAddr, id: ConnectionId, bytes: &[u8]) {
        let mut state = self.0.borrow_mut();
        let is_end = |end: &End| end.owner == Some((host, id));
        let mut ends = (0..state.pipes.len()).flat_map(|pipe| [(pipe, 0), (pipe, 1)]);
        let (pipe, side) =
            ends.find(|(pipe, side)| is_end(&state.pipes[*pipe][*side])).expect("a connection");
        state.pipes[pipe][side].arrived.extend(bytes);
        state.notify(pipe, side, Readiness { readable: true, ..Readiness::default() });
    }

    /// The next calls of accept at this address fail with these system errors.
    pub(crate) fn fail_accept(&self, address: SocketAddr, errors: &[i32]) {
        self.0.borrow_mut().listeners.entry(address).or_default().errors.extend(errors);
    }

    /// The events of a host since the last call, and whether somebody waits at its door.
    pub(crate) fn take_events(&self, host: SocketAddr) -> (Vec<(ConnectionId, Readiness)>, bool) {
        let mut state = self.0.borrow_mut();
        let (own, others) = std::mem::take(&mut state.events).into_iter().partition(|e| e.host == host);
        state.events = others;
        let own: Vec<Event> = own;
        let is_ready = state.listeners.get_mut(&host).is_some_and(|l| std::mem::take(&mut l.is_ready));
        (own.into_iter().map(|event| (event.id, event.readiness)).collect(), is_ready)
    }

    /// A connection without a host of its own at the other end: a test's client.
    pub(crate) fn connect(&self, address: SocketAddr) -> io::Result<MemorySocket> {
        let mut state = self.0.borrow_mut();
        let pipe = state.pipes.len();
        let listener = state.listeners.get_mut(&address).ok_or(ErrorKind::ConnectionRefused)?;
        let is_dying = listener.is_dying;
        if !is_dying {
            listener.backlog.push_back(pipe);
            listener.is_ready = true;
        }
        let dialler = End { is_other_gone: is_dying, ..End::default() };
        state.pipes.push([dialler, End { is_gone: is_dying, ..End::default() }]);
        Ok(MemorySocket { network: self.clone(), pipe, side: 0 })
    }
}

impl MemorySocket {
    /// Closes the sending direction alone.
    pub(crate) fn close_half(&self) {
        let mut state = self.network.0.borrow_mut();
        state.pipes[self.pipe][1 - self.side].is_other_gone = true;
        let ended = Readiness { readable: true, read_closed: true, ..Readiness::default() };
        state.notify(self.pipe, 1 - self.side, ended);
    }
}

impl State {
    fn notify(&mut self, pipe: usize, side: usize, readiness: Readiness) {
        if let Some((host, id)) = self.pipes[pipe][side].owner {
            self.events.push(Event { host, id, readiness });
        }
    }
}

fn would_block<T>() -> io::Result<T> {
    Err(ErrorKind::WouldBlock.into())
}

impl Socket for MemorySocket {
    type Driver = Host;

    fn dial(host: &mut Host, id: ConnectionId, address: SocketAddr) -> io::Result<Self> {
        let socket = host.network.connect(address)?;
        let mut state = host.network.0.borrow_mut();
        state.pipes[socket.pipe][0].owner = Some((host.address, id));
        let read_closed = state.pipes[socket.pipe][0].is_other_gone;
        state.notify(socket.pipe, 0, Readiness { writable: true, read_closed, ..Readiness::default() });
        drop(state);
        Ok(socket)
    }

    fn accept(host: &mut Host, id: ConnectionId) -> io::Result<Self> {
        let mut state = host.network.0.borrow_mut();
        let Some(listener) = state.listeners.get_mut(&host.address) else { return would_block() };
        if let Some(error) = listener.errors.pop_front() {
            return Err(io::Error::from_raw_os_error(error));
        }
        let Some(pipe) = listener.backlog.pop_front() else { return would_block() };
        state.pipes[pipe][1].owner = Some((host.address, id));
        Ok(Self { network: host.network.clone(), pipe, side: 1 })
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn is_self_connected(&self) -> bool {
        false
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.network.0.borrow_mut();
        let end = &mut state.pipes[self.pipe][self.side];
        if end.is_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if end.arrived.is_empty() {
            return if end.is_other_gone { Ok(0) } else { would_block() };
        }
        let was_full = end.arrived.len() == CAPACITY;
        let count = end.arrived.len().min(buffer.len());
        for (byte, arrived) in buffer.iter_mut().zip(end.arrived.drain(..count)) {
            *byte = arrived;
        }
        if was_full {
            state.notify(self.pipe, 1 - self.side, Readiness { writable: true, ..Readiness::default() });
        }
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.network.0.borrow_mut();
        let other = &mut state.pipes[self.pipe][1 - self.side];
        if other.is_gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let room = CAPACITY - other.arrived.len();
        let before = other.arrived.len();
        other.arrived.extend(slices.iter().flat_map(|slice| slice.iter()).take(room));
        let count = other.arrived.len() - before;
        if count == 0 {
            return would_block();
        }
        state.notify(self.pipe, 1 - self.side, Readiness { readable: true, ..Readiness::default() });
        Ok(count)
    }
}

impl Drop for MemorySocket {
    fn drop(&mut self) {
        let mut state = self.network.0.borrow_mut();
        let own = &mut state.pipes[self.pipe][self.side];
        own.is_gone = true;
        let had_unread = !own.arrived.is_empty();
        let other = &mut state.pipes[self.pipe][1 - self.side];
        other.is_other_gone = true;
        other.is_reset |= had_unread;
        let readiness =
            Readiness { readable: true, read_closed: true, write_closed: had_unread, ..Readiness::default() };
        state.notify(self.pipe, 1 - self.side, readiness);
    }
}
