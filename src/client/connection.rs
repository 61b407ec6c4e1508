//! One TCP connection to one node, for a caller that blocks.
//!
//! A thread of its own dials, shakes hands and reads; what it finds goes into the client's channel
//! as [`Event`]s. While nobody takes them it stops reading after [`MAX_EVENTS`], so that a node which says
//! what nobody asked for fills its own buffers and not our memory. The caller's thread writes. Whoever drops the writing half shuts the socket down,
//! which ends the thread: wherever a half is forgotten (in the channel, too), nothing is left over.
//! Only a dial that nobody answers keeps its thread for up to [`DIAL_LIMIT`].

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::SyncSender;
use std::thread;

use super::conversation::{Inbox, Outbox, Said, hello, is_timeout};
use super::roster::{DIAL_LIMIT, LinkId};
use crate::time::Duration;
use crate::wire::client::{Request, Response};
use crate::wire::hello::Welcome;

/// How long one write may block: a node that reads nothing must not keep us from the others.
const WRITE_LIMIT: Duration = Duration::from_millis(5);
/// How long one address of a name that has several may keep us from the next.
const ADDRESS_LIMIT: Duration = Duration::from_millis(250);
/// Events of all connections together that wait to be taken, at most.
pub(super) const MAX_EVENTS: usize = 16;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// What a connection's thread found.
#[derive(Debug)]
pub(super) enum Event {
    /// The node accepted; the handshake is under way.
    Dialled(WriteHalf),
    /// The node said welcome.
    Connected(Welcome),
    /// Some bytes of an answer arrived.
    Progress,
    /// An answer arrived.
    Response(Response),
    /// The dial failed or the connection is over; why, in a few words. Always the last.
    Ended(String),
}

/// The writing half of a socket. Dropping it shuts the socket down in both directions.
#[derive(Debug)]
pub(super) struct WriteHalf(TcpStream);

impl Drop for WriteHalf {
    fn drop(&mut self) {
        // An error says that the other end was faster.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// A connection as the caller's thread sees it, and what is still to be written to it.
#[derive(Debug, Default)]
pub(super) struct Connection {
    stream: Option<WriteHalf>,
    outbox: Outbox,
}

impl Connection {
    /// Begins to dial: events for `link` will follow.
    ///
    /// # Errors
    /// If there is no thread to dial with; then no event follows.
    pub(super) fn dial(
        link: LinkId,
        address: String,
        events: SyncSender<(LinkId, Event)>,
    ) -> io::Result<Self> {
        let thread = thread::Builder::new().name(format!("kv-client-{}", link.0));
        thread.spawn(move || run(link, &address, &events))?;
        Ok(Self::default())
    }

    /// The handshake began: from now on there is something to write to.
    pub(super) fn on_dialled(&mut self, stream: WriteHalf) {
        self.stream = Some(stream);
    }

    /// Queues a request behind those that are not written yet. False if it never will be, as the
    /// connection has broken.
    pub(super) fn queue(&mut self, request: &Request) -> bool {
        if self.stream.is_none() {
            return false;
        }
        self.outbox.queue(request);
        true
    }

    /// Writes what the socket takes, until it blocks for [`WRITE_LIMIT`] in all; whether it took any
    /// bytes.
    ///
    /// After an error the socket is shut down, and the reading thread reports the end once it has
    /// read what had arrived. The error is the requests of which no byte was written.
    pub(super) fn flush(&mut self) -> Result<bool, Vec<u64>> {
        let Some(stream) = &mut self.stream else { return Ok(false) };
        let mut stream = UntilItBlocks { stream: &mut stream.0, has_blocked: false };
        self.outbox.write_to(&mut stream).map_err(|_| {
            self.stream = None;
            self.outbox.give_up()
        })
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.outbox.is_empty()
    }
}

/// A stream whose writes block for a while, as one that would block at once: where it took only a part
/// it has blocked, and would again for every little part that its reader makes room for.
struct UntilItBlocks<'a, S> {
    stream: &'a mut S,
    has_blocked: bool,
}

impl<S: Write> Write for UntilItBlocks<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.has_blocked {
            return Err(ErrorKind::WouldBlock.into());
        }
        let written = self.stream.write(bytes)?;
        self.has_blocked = written < bytes.len();
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The connection's thread.
fn run(link: LinkId, address: &str, events: &SyncSender<(LinkId, Event)>) {
    let why = match converse(link, address, events) {
        Ok(()) => "connection closed".to_owned(),
        Err(error) if is_timeout(&error) => "no answer".to_owned(),
        Err(error) if error.get_ref().is_some() => error.to_string(),
        // The kind reads better than the system's text with its number.
        Err(error) => error.kind().to_string(),
    };
    let _ = events.send((link, Event::Ended(why)));
}

fn converse(link: LinkId, address: &str, events: &SyncSender<(LinkId, Event)>) -> io::Result<()> {
    let report = |event| events.send((link, event)).is_ok();
    let mut stream = connect(address)?;
    if !report(Event::Dialled(WriteHalf(stream.try_clone()?))) {
        return Ok(());
    }
    let mut answers = Answers { inbox: Inbox::new(), buffer: vec![0; READ_BYTES] };
    let welcome = shake_hands(&mut stream, &mut answers)?;
    if !report(Event::Connected(welcome)) {
        return Ok(());
    }
    while let Some(said) = answers.next(&mut stream, || report(Event::Progress))? {
        let Said::Response(response) = said else { unreachable!("a welcome is taken once") };
        if !report(Event::Response(response)) {
            break;
        }
    }
    Ok(())
}

fn connect(name: &str) -> io::Result<TcpStream> {
    let unresolved = |cause| io::Error::other(format!("the name cannot be resolved: {cause}"));
    let stream = connect_to_one_of(&name.to_socket_addrs().map_err(unresolved)?.collect::<Vec<_>>())?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_LIMIT))?;
    Ok(stream)
}

/// Tries every address of a name in turn. All together they have [`DIAL_LIMIT`], so that one at which
/// nobody answers does not hide the next.
fn connect_to_one_of(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last_error = io::Error::other("the name has no address");
    for (address, limit) in addresses.iter().zip(shares(addresses.len())) {
        match TcpStream::connect_timeout(address, limit) {
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => {
                // A free port of this machine, chosen as our own: TCP lets a socket dial itself.
                last_error = ErrorKind::ConnectionRefused.into();
            }
            Ok(stream) => return Ok(stream),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

/// How long to wait at each of so many addresses; the last one has all that is left.
fn shares(count: usize) -> impl Iterator<Item = Duration> {
    let mut left = DIAL_LIMIT;
    (0..count).map(move |tried| {
        let untried = u32::try_from(count - tried).unwrap_or(u32::MAX);
        let share = if untried == 1 { left } else { (left / untried).min(ADDRESS_LIMIT) };
        left -= share;
        share
    })
}

fn shake_hands(stream: &mut TcpStream, answers: &mut Answers) -> io::Result<Welcome> {
    stream.set_read_timeout(Some(DIAL_LIMIT))?;
    stream.write_all(&hello())?;
    let said = answers.next(stream, || true)?.ok_or(ErrorKind::ConnectionReset)?;
    stream.set_read_timeout(None)?;
    match said {
        Said::Welcome(welcome) => Ok(welcome),
        Said::Response(_) => unreachable!("a welcome comes first"),
    }
}

/// What the node says, as it arrives.
struct Answers {
    inbox: Inbox,
    buffer: Vec<u8>,
}

impl Answers {
    /// The next thing said; `None` if the node closed, or if `on_progress`, which is called when a
    /// part of it arrived, says that nobody listens any more.
    fn next(&mut self, stream: &mut TcpStream, on_progress: impl Fn() -> bool) -> io::Result<Option<Said>> {
        loop {
            if let Some(said) = self.inbox.next_said()? {
                return Ok(Some(said));
            }
            if self.inbox.has_part() && !on_progress() {
                return Ok(None);
            }
            match stream.read(&mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.inbox.push(&self.buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::wire::client::RequestBody;

    /// Binds to a port that is free, below those from which dials come.
    fn bind<T>(bind: impl FnMut(SocketAddr) -> io::Result<T>) -> T {
        let first = 15_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        let addresses = (first..30_000).map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        addresses.map(bind).find_map(Result::ok).expect("a free port")
    }

    /// A port on which dials get no answer at all: its queue of connections is full. The sockets keep
    /// it so.
    fn black_hole() -> (Socket, Vec<Socket>, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bind(|address| socket.bind(&address.into()));
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap();
        let dial = || {
            let dialler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            dialler.set_nonblocking(true).unwrap();
            let _ = dialler.connect(&address);
            dialler
        };
        let fillers = (0..8).map(|_| dial()).collect();
        (socket, fillers, address.as_socket().unwrap())
    }

    #[test]
    fn address_at_which_nobody_answers_does_not_hide_the_next_of_the_name() {
        let (hole, listener) = (black_hole(), bind(TcpListener::bind));
        let live = listener.local_addr().unwrap();
        for addresses in [vec![hole.2, live], vec![hole.2, hole.2, hole.2, live], vec![live, hole.2]] {
            let stream = connect_to_one_of(&addresses).expect("one of them answers");
            assert_eq!(stream.peer_addr().unwrap(), live);
        }
        let nobody = connect_to_one_of(&[hole.2, hole.2]).expect_err("nobody answers");
        assert!(is_timeout(&nobody), "{nobody}");
    }

    #[test]
    fn addresses_of_a_name_have_all_together_as_long_as_a_dial_is_waited_for() {
        for count in 1..50 {
            assert_eq!(shares(count).sum::<Duration>(), DIAL_LIMIT, "{count} addresses");
            assert!(shares(count).all(|share| !share.is_zero()), "one of {count} is never tried");
        }
    }

    /// Takes a few bytes of each write, as a socket whose reader makes room all the time.
    struct Narrow(usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            Ok(bytes.len().min(64))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn flush_ends_with_the_first_write_that_took_only_a_part() {
        let mut outbox = Outbox::default();
        let body = RequestBody::Get { key: bytes::Bytes::from_static(&[b'k'; 60]), stale: false };
        outbox.queue(&Request { id: 1, time_left_ms: 1, silent_leader: None, body });
        let mut narrow = Narrow(0);
        let mut flush = || outbox.write_to(&mut UntilItBlocks { stream: &mut narrow, has_blocked: false });
        assert!(flush().unwrap() && flush().unwrap(), "it made progress");
        assert_eq!(narrow.0, 2);
        assert!(outbox.is_empty());
    }
}
