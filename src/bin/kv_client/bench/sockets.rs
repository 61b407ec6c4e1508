//! All connections of the load, and the poll that waits for them.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::AsRawFd;

use kvstore::time::{Duration, Instant};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use slab::Slab;

use super::connection::{Arrival, Connection};

/// The token of the timer. No connection is ever named so: slots are counted from 0.
const TIMER: Token = Token(usize::MAX);
const READ_BYTES: usize = 256 << 10;
const EVENTS: usize = 1024;
/// The poll waits for whole milliseconds.
const POLL_GRAIN: Duration = Duration::from_millis(1);

/// Connections by slot, and what they share.
pub(super) struct Connections {
    pub(super) slots: Slab<Connection>,
    /// Those to which something was queued in this turn.
    pub(super) unsent: Vec<usize>,
    /// How many wait for their welcome.
    pub(super) unwelcome: usize,
    /// Room to read into.
    pub(super) buffer: Vec<u8>,
    pub(super) arrivals: Vec<Arrival>,
    /// Host names are resolved once.
    addresses: HashMap<String, Vec<SocketAddr>>,
    dials: usize,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self {
            slots: Slab::new(),
            unsent: Vec::new(),
            unwelcome: 0,
            buffer: vec![0; READ_BYTES],
            arrivals: Vec::new(),
            addresses: HashMap::new(),
            dials: 0,
        }
    }

    /// Begins to dial a `HOST:PORT`; another address of the host's with every try.
    pub(super) fn dial(
        &mut self,
        registry: &Registry,
        address: &str,
        client: usize,
        now: Instant,
    ) -> io::Result<usize> {
        if !self.addresses.contains_key(address) {
            let found: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
            self.addresses.insert(address.to_owned(), found);
        }
        let known = &self.addresses[address];
        if known.is_empty() {
            return Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
        }
        let target = known[self.dials % known.len()];
        self.dials += 1;
        let entry = self.slots.vacant_entry();
        let slot = entry.key();
        entry.insert(Connection::dial(registry, Token(slot), address, target, client, now)?);
        self.unwelcome += 1;
        Ok(slot)
    }

    /// Forgets a connection, and so closes it.
    pub(super) fn remove(&mut self, slot: usize) -> Connection {
        let connection = self.slots.remove(slot);
        self.unsent.retain(|unsent| *unsent != slot);
        self.unwelcome -= usize::from(connection.welcome.is_none());
        connection
    }
}

/// The poll, and a timer that is finer than its milliseconds.
pub(super) struct SocketPoll {
    poll: Poll,
    events: Events,
    timer: OwnedFd,
    /// The slots of the sockets of which the last wait had news.
    pub(super) ready: Vec<usize>,
}

impl SocketPoll {
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Self { poll, events: Events::with_capacity(EVENTS), timer, ready: Vec::new() })
    }

    pub(super) fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Waits for news of a socket, for `patience` to the millisecond, or for `exactly` to the
    /// microsecond, whichever is over first.
    pub(super) fn wait(&mut self, patience: Duration, exactly: Option<Duration>) -> io::Result<()> {
        let mut patience = patience;
        match exactly {
            Some(Duration::ZERO) => patience = Duration::ZERO,
            // The poll rounds up: a patience that ends a little earlier would end later.
            Some(exactly) if exactly < patience + POLL_GRAIN => self.set_timer(exactly)?,
            _ => {}
        }
        match self.poll.poll(&mut self.events, Some(patience)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        let sockets = self.events.iter().map(|event| event.token()).filter(|token| *token != TIMER);
        self.ready.extend(sockets.map(|token| token.0));
        Ok(())
    }

    /// Edge-triggered, so nobody needs to read it: setting it anew takes back an expiry.
    fn set_timer(&self, after: Duration) -> io::Result<()> {
        let tv_sec = i64::try_from(after.as_secs()).unwrap_or(i64::MAX);
        let once = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: Timespec { tv_sec, tv_nsec: i64::from(after.subsec_nanos()) },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}
