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

// Events carry a connection's whole name, with its generation.
const _: () = assert!(usize::BITS >= u64::BITS);

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

/// A port that this process has taken. Nobody is accepted on it yet: dials are refused.
#[derive(Debug)]
pub struct Port(socket2::Socket);

impl Port {
    /// Takes the port of `address`.
    ///
    /// # Errors
    /// The address is taken (`AddrInUse`) or is not this machine's (`AddrNotAvailable`), or may
    /// not be used (`PermissionDenied`).
    pub fn take(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // A restarted node takes its port back though old connections still linger on it.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(Self(socket))
    }
}

impl TcpDriver {
    /// Listens on a port.
    ///
    /// # Errors
    /// Somebody else, who took it at the same time, listens there already (`AddrInUse`).
    pub fn listen(registry: Registry, Port(socket): Port) -> io::Result<Self> {
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

    fn set_user_timeout(&self, timeout: Duration) -> io::Result<()> {
        SockRef::from(&self.stream).set_tcp_user_timeout(Some(timeout))
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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{Ipv4Addr, TcpListener as StdListener, TcpStream as StdStream};

    use mio::{Events, Poll};

    use super::super::{CloseCause, Connection, Connections, ReadBudget};
    use super::*;
    use crate::wire::frame::FrameKind;

    const BUDGET: ReadBudget = ReadBudget { bytes: 1 << 20, frames: 128 };
    const PATIENCE: Duration = Duration::from_secs(10);

    fn free_address() -> SocketAddr {
        let first = 15_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        let mut ports = (first..30_000).map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        ports.find(|address| StdListener::bind(address).is_ok()).expect("a free port")
    }

    /// A socket that listens to nobody, and whose address no other test can take meanwhile.
    fn bound() -> (socket2::Socket, SocketAddr) {
        let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let address = (0..20).map(|_| free_address()).find(|address| socket.bind(&(*address).into()).is_ok());
        (socket, address.expect("a free port"))
    }

    /// A listener with its poll, and the connections that events are for.
    struct Loop {
        poll: Poll,
        driver: TcpDriver,
        connections: Connections<TcpSocket, ()>,
        address: SocketAddr,
    }

    impl Loop {
        /// Between the probe of a port and its use another test may take it: then the next one.
        fn new() -> Self {
            for _ in 0..20 {
                let poll = Poll::new().unwrap();
                let address = free_address();
                let registry = poll.registry().try_clone().unwrap();
                if let Ok(driver) = Port::take(address).and_then(|port| TcpDriver::listen(registry, port)) {
                    return Self { poll, driver, connections: Connections::new(), address };
                }
            }
            panic!("no free port");
        }

        /// Waits for events until `done`; the listener's are left to the caller.
        fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
            let mut events = Events::with_capacity(16);
            while !done(self) {
                self.poll.poll(&mut events, Some(PATIENCE)).unwrap();
                assert!(!events.is_empty(), "nothing happened");
                for event in events.iter().filter(|event| event.token() != LISTENER) {
                    let id = ConnectionId::from_u64(event.token().0 as u64);
                    if let Some((connection, ())) = self.connections.get_mut(id) {
                        connection.on_event(readiness(event));
                    }
                }
            }
        }

        fn accept(&mut self) -> ConnectionId {
            let mut accepted = None;
            self.wait(|this| {
                let id = this.connections.next_id();
                if let Ok(socket) = TcpSocket::accept(&mut this.driver, id) {
                    accepted = Some(this.connections.insert(Connection::accepted(socket, 1 << 20), ()));
                }
                accepted.is_some()
            });
            accepted.unwrap()
        }

        fn dial(&mut self, address: SocketAddr) -> Result<ConnectionId, CloseCause> {
            let id = self.connections.next_id();
            let socket = TcpSocket::dial(&mut self.driver, id, address)?;
            self.connections.insert(Connection::dialled(socket, 1 << 20), ());
            let mut end = None;
            self.wait(|this| {
                match this.connections.get_mut(id).unwrap().0.finish_connect() {
                    Ok(true) => end = Some(Ok(id)),
                    Ok(false) => {}
                    Err(cause) => end = Some(Err(cause)),
                }
                end.is_some()
            });
            end.unwrap()
        }

        /// Reads until the connection ends; how many frames came before.
        fn read_to_the_end(&mut self, id: ConnectionId) -> (usize, CloseCause) {
            let mut frames = Vec::new();
            let mut end = None;
            self.wait(|this| {
                let (connection, ()) = this.connections.get_mut(id).unwrap();
                while connection.has_input() && end.is_none() {
                    end = connection.read_frames(BUDGET, &mut [0; 4096], &mut frames).err();
                }
                end.is_some()
            });
            (frames.len(), end.unwrap())
        }
    }

    #[test]
    fn frames_through_a_real_socket_arrive_whole_and_before_the_end() {
        let mut this = Loop::new();
        let dialled = this.dial(this.address).unwrap();
        let accepted = this.accept();
        let payload = vec![7; 1 << 20];
        let (connection, ()) = this.connections.get_mut(dialled).unwrap();
        for _ in 0..8 {
            connection.queue(FrameKind::Message, |out| out.put(&payload));
        }
        let mut frames = Vec::new();
        this.wait(|this| {
            this.connections.get_mut(dialled).unwrap().0.flush().unwrap();
            let (connection, ()) = this.connections.get_mut(accepted).unwrap();
            while connection.has_input() {
                connection.read_frames(BUDGET, &mut [0; 1 << 16], &mut frames).unwrap();
            }
            frames.len() == 8
        });
        let (connection, ()) = this.connections.get_mut(dialled).unwrap();
        connection.queue(FrameKind::Message, |out| out.put(b"last"));
        connection.flush().unwrap();
        this.connections.close(dialled);
        this.connections.reap();
        assert!(matches!(this.read_to_the_end(accepted), (1, CloseCause::EndOfStream)));
    }

    #[test]
    fn sockets_send_at_once_and_notice_a_machine_that_vanished() {
        let mut this = Loop::new();
        let dialled = TcpSocket::dial(&mut this.driver, this.connections.next_id(), this.address).unwrap();
        let id = this.accept();
        let accepted = this.connections.get(id).unwrap().0.socket();
        for stream in [&dialled.stream, &accepted.stream] {
            let options = SockRef::from(stream);
            assert!(options.tcp_nodelay().unwrap() && options.keepalive().unwrap());
            assert_eq!(options.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        }
        for socket in [&dialled, accepted] {
            socket.set_user_timeout(Duration::from_secs(2)).unwrap();
            let timeout = SockRef::from(&socket.stream).tcp_user_timeout().unwrap();
            assert_eq!(timeout, Some(Duration::from_secs(2)));
        }
    }

    #[test]
    fn dial_to_a_port_where_nobody_listens_is_refused() {
        let mut this = Loop::new();
        let (_nobody, address) = bound();
        let cause = this.dial(address).unwrap_err();
        let CloseCause::Io(error) = cause else { panic!("{cause}") };
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn reset_by_the_other_end_is_an_error_and_not_the_end_of_the_stream() {
        let mut this = Loop::new();
        let client = StdStream::connect(this.address).unwrap();
        let accepted = this.accept();
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let (_, cause) = this.read_to_the_end(accepted);
        let CloseCause::Io(error) = cause else { panic!("{cause}") };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn accept_with_nobody_waiting_would_block() {
        let mut this = Loop::new();
        let error = TcpSocket::accept(&mut this.driver, this.connections.next_id()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn address_that_is_taken_says_so() {
        let this = Loop::new();
        assert_eq!(Port::take(this.address).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn port_that_is_taken_refuses_dials_until_it_is_listened_on() {
        // An address of its own, which no other test listens on meanwhile.
        let address = SocketAddr::from(([127, 0, 0, 7], free_address().port()));
        let port = Port::take(address).unwrap();
        assert_eq!(StdStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let poll = Poll::new().unwrap();
        let _driver = TcpDriver::listen(poll.registry().try_clone().unwrap(), port).unwrap();
        StdStream::connect(address).unwrap();
    }

    #[test]
    fn socket_that_dialled_its_own_port_notices() {
        let (socket, address) = bound();
        socket.connect(&address.into()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut socket = TcpSocket { stream: TcpStream::from_std(socket.into()) };
        assert!(socket.finish_connect().unwrap());
        assert!(socket.is_self_connected());
        assert!(matches!(Connection::dialled(socket, 16).finish_connect(), Err(CloseCause::SelfConnected)));
    }
}
