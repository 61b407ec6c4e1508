//! Non-blocking sockets. This floor knows frames, not their meaning.
//!
//! The server lives on edge-triggered readiness: the system says once that a socket has become
//! readable or writable, and says it again only after the socket was seen to be exhausted. From
//! that follow the rules that [`Connection`] keeps, each of which was a bug in some well-known
//! program first:
//!
//! * Readiness is **state**. An event sets it; only a read or write that would block, or a short
//!   read that proves the socket empty, clears it.
//! * A short read proves nothing once the other end's close was announced: data and the end of
//!   the stream may share one event, and stopping early would lose the end for ever.
//! * Reading has a **budget**. What is left over is remembered by us, since no event repeats it.
//! * Writing comes first and interest second: both directions are registered once, at birth, and
//!   never changed.
//! * Back-pressure is not reading.
//! * A connection's name carries a **generation**. Events that were fetched for the connection
//!   which had this slot before are ignored, and slots are freed only at the end of a turn.
//!
//! [`Socket`] is the edge of the house: [`TcpSocket`] is the real one, and the simulator brings
//! its own, with the same rules, to drive the very same connections.

mod connection;
mod connections;
mod tcp;

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use crate::time::Duration;

pub use connection::{CloseCause, Connection, ReadBudget};
pub use connections::Connections;
pub use tcp::{LISTENER, Port, TcpDriver, TcpSocket, readiness};

// The token of a connection's events holds all of its name.
const _: () = assert!(usize::BITS >= 64);

/// A connection's name: a slot, and which of the connections that had the slot one after another
/// is meant. Names are never used twice (before 2^32 connections have come and gone).
///
/// They are ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Counts all connections.
    pub generation: u32,
    /// The place in the slab.
    pub slot: u32,
}

impl ConnectionId {
    /// Both numbers in one, as events and other layers carry it.
    #[must_use]
    pub fn to_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The name that [`ConnectionId::to_u64`] gave.
    #[must_use]
    pub fn from_u64(bits: u64) -> Self {
        Self { generation: (bits >> 32) as u32, slot: bits as u32 }
    }
}

/// What an event says about a socket. Each of them is a hint: the read or write decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// A read may not block.
    pub readable: bool,
    /// A write may not block; or a connect has ended, one way or the other.
    pub writable: bool,
    /// The other end will send no more.
    pub read_closed: bool,
    /// The other end will take no more, or the socket has failed.
    pub write_closed: bool,
}

/// A non-blocking stream of bytes. Dropping it closes it.
pub trait Socket: Sized {
    /// Where sockets come from: a listener, and the events' destination.
    type Driver;

    /// Starts to connect. An event named `id` says when to ask [`Socket::finish_connect`].
    ///
    /// # Errors
    /// The attempt may fail at once, with the same meaning as later.
    fn dial(driver: &mut Self::Driver, id: ConnectionId, address: SocketAddr) -> io::Result<Self>;

    /// Takes one waiting connection, whose events will be named `id`.
    ///
    /// # Errors
    /// `WouldBlock` if none waits. For the rest see [`is_exhausted`].
    fn accept(driver: &mut Self::Driver, id: ConnectionId) -> io::Result<Self>;

    /// Whether a dialled socket is connected by now.
    ///
    /// # Errors
    /// Why it never will be.
    fn finish_connect(&mut self) -> io::Result<bool>;

    /// Whether both ends of this connection are the same socket: dialling a dead process' port can
    /// connect to itself, if the system happens to choose that port as the source.
    fn is_self_connected(&self) -> bool;

    /// From now on, what the other machine does not acknowledge within this time ends the connection.
    /// Where there is no such machine, nothing does.
    ///
    /// # Errors
    /// The system does not take it.
    fn set_user_timeout(&self, _timeout: Duration) -> io::Result<()> {
        Ok(())
    }

    /// Reads what is there; zero bytes are the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there yet.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes as much as is taken now.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is.
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// Whether an error of dial or accept means that this process or machine has run out of
/// descriptors or memory. Connections that wait then cause no further event: try again later.
#[must_use]
pub fn is_exhausted(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}

#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
pub(crate) mod scripted;
