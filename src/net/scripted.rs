//! A socket that does what a test tells it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;

use super::{ConnectionId, Socket};

/// Plays its scripts from the front; where one has ended, the socket would block.
#[derive(Debug, Default)]
pub(crate) struct ScriptedSocket {
    pub(crate) connects: VecDeque<io::Result<bool>>,
    pub(crate) reads: VecDeque<io::Result<Vec<u8>>>,
    pub(crate) writes: VecDeque<io::Result<usize>>,
    pub(crate) written: Vec<u8>,
    pub(crate) self_connected: bool,
}

pub(crate) fn would_block() -> io::Error {
    ErrorKind::WouldBlock.into()
}

impl Socket for ScriptedSocket {
    type Driver = ();

    fn dial(_: &mut (), _: ConnectionId, _: SocketAddr) -> io::Result<Self> {
        Ok(Self::default())
    }

    fn accept(_: &mut (), _: ConnectionId) -> io::Result<Self> {
        Err(would_block())
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        self.connects.pop_front().unwrap_or(Ok(false))
    }

    fn is_self_connected(&self) -> bool {
        self.self_connected
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.reads.pop_front().unwrap_or_else(|| Err(would_block()))?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        if count < bytes.len() {
            self.reads.push_front(Ok(bytes.split_off(count)));
        }
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let limit = self.writes.pop_front().unwrap_or_else(|| Err(would_block()))?;
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(limit).collect();
        self.written.extend_from_slice(&bytes);
        Ok(bytes.len())
    }
}
