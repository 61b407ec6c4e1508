//! Sockets over simulated streams: what nodes and clients hold in their hands.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;

use kvstore::net::{ConnectionId, Socket};

use super::node::Connection;
use super::pipes::{Dial, Pipes, site_at};

/// The system's numbers of errors.
pub(super) const EAGAIN: i32 = 11;
pub(super) const EMFILE: i32 = 24;

/// A process' way to the network of its machine.
pub(crate) struct Driver {
    pipes: Pipes,
    site: usize,
}

/// One end of a pipe. Dropping it closes it.
pub(crate) struct SimSocket {
    pipes: Pipes,
    pipe: Connection,
    side: usize,
}

impl Driver {
    pub(crate) fn new(pipes: Pipes, site: usize) -> Self {
        Self { pipes, site }
    }
}

impl SimSocket {
    /// A client's dial.
    pub(crate) fn dial_from(pipes: &Pipes, site: usize, to: usize) -> Self {
        let pipe = pipes.state().dial(site, to, None);
        Self { pipes: pipes.clone(), pipe, side: 0 }
    }

    /// The name of its pipe.
    pub(crate) fn pipe(&self) -> Connection {
        self.pipe
    }
}

impl Socket for SimSocket {
    type Driver = Driver;

    fn dial(driver: &mut Driver, id: ConnectionId, address: SocketAddr) -> io::Result<Self> {
        let mut state = driver.pipes.state();
        if state.is_exhausted(driver.site) {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        let pipe = state.dial(driver.site, site_at(address), Some(id));
        Ok(Self { pipes: driver.pipes.clone(), pipe, side: 0 })
    }

    fn accept(driver: &mut Driver, id: ConnectionId) -> io::Result<Self> {
        let pipe = driver.pipes.state().accept(driver.site, id).map_err(io::Error::from_raw_os_error)?;
        Ok(Self { pipes: driver.pipes.clone(), pipe, side: 1 })
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        let pipe = &self.pipes.state().pipes[&self.pipe];
        match pipe.dial {
            Dial::UnderWay if pipe.ends[0].is_reset => Err(ErrorKind::ConnectionReset.into()),
            Dial::UnderWay => Ok(false),
            Dial::Done | Dial::ToItself => Ok(true),
            Dial::Refused => Err(ErrorKind::ConnectionRefused.into()),
        }
    }

    fn is_self_connected(&self) -> bool {
        self.pipes.state().pipes[&self.pipe].dial == Dial::ToItself
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.pipes.state().read(self.pipe, self.side, buffer)?)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let slices = slices.iter().map(|slice| &slice[..]);
        Ok(self.pipes.state().write(self.pipe, self.side, slices)?)
    }
}

impl io::Write for SimSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Socket::write_vectored(self, &[IoSlice::new(bytes)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.pipes.state().leave(self.pipe, self.side);
    }
}
