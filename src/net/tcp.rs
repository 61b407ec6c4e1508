//! TCP over mio. No other file of this floor names mio.
//!
//! mio registers everything edge-triggered. Options are set by `socket2`: no delay, since a turn's
//! output is written in one piece anyway; keep-alive and the user timeout, which only free what a
//! vanished machine left behind. Heartbeats are the detector of dead nodes, not these.

use std::io::{self, IoSlice, Read, Write};
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockRef, TcpKeepalive, Type};

use super::{ConnectionId, Readiness, Socket};
use crate::time::Duration;

/// The token of the listener's events. No connection is ever named so: slots are counted from 0.
pub const LISTENER: Token = Token(usize::MAX);

/// Connections that the system completes before we accept them.
const BACKLOG: i32 = 1024;
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(4);
const KEEPALIVE_PROBES: u32 = 3;
/// The user timeout overrides the number of probes, so it is what they come to.
const USER_TIMEOUT: Duration = Duration::from_secs(17);

/// The listener, and the registry that all sockets are put in.
#[derive(Debug)]
pub struct TcpDriver {
    registry: Registry,
    listener: TcpListener,
}

impl TcpDriver {
    /// Listens on `address`.
    ///
    /// # Errors
    /// The address is taken (`AddrInUse`) or is not this machine's (`AddrNotAvailable`), or may
    /// not be used (`PermissionDenied`).
    pub fn listen(registry: Registry, address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // A restarted node takes its port back though old connections still linger on it.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(socket.into());
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self { registry, listener })
    }

    fn adopt(&self, mut stream: TcpStream, id: ConnectionId) -> io::Result<TcpSocket> {
        let options = SockRef::from(&stream);
        options.set_tcp_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES);
        options.set_tcp_keepalive(&keepalive)?;
        options.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        let token = Token(id.to_u64() as usize);
        self.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(TcpSocket { stream })
    }
}

/// A TCP connection.
#[derive(Debug)]
pub struct TcpSocket {
    stream: TcpStream,
}

impl Socket for TcpSocket {
    type Driver = TcpDriver;

    fn dial(driver: &mut TcpDriver, id: ConnectionId, address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        driver.adopt(stream, id)
    }

    fn accept(driver: &mut TcpDriver, id: ConnectionId) -> io::Result<Self> {
        let (stream, _) = driver.listener.accept()?;
        driver.adopt(stream, id)
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        // "Writable" also comes when the connect failed, and may come early: mio's documentation
        // of `TcpStream::connect` has these two steps.
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_self_connected(&self) -> bool {
        matches!((self.stream.local_addr(), self.stream.peer_addr()), (Ok(own), Ok(other)) if own == other)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored(slices)
    }
}

/// What mio's event says.
#[must_use]
pub fn readiness(event: &Event) -> Readiness {
    Readiness {
        readable: event.is_readable() || event.is_read_closed() || event.is_error(),
        writable: event.is_writable() || event.is_write_closed() || event.is_error(),
        read_closed: event.is_read_closed(),
        write_closed: event.is_write_closed() || event.is_error(),
    }
}
