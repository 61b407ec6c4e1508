//! What sockets do: dial, accept, read, write, and go.

use std::io::ErrorKind;

use kvstore::net::{ConnectionId, Readiness};

use super::{Action, Deed, Dial, End, Pipe, State};
use crate::sim::node::Connection;
use crate::sim::pipe_plan::SocketFault;
use crate::sim::sockets::{EAGAIN, EMFILE};

impl State {
    pub(in crate::sim) fn count(&mut self, fault: SocketFault) {
        *self.faults.entry(fault).or_insert(0) += 1;
    }

    /// A new connection, about to be dialled.
    pub(in crate::sim) fn dial(&mut self, from: usize, to: usize, id: Option<ConnectionId>) -> Connection {
        self.made += 1;
        let name = Connection(self.made);
        let mut ends = [End::new(from, id), End::new(to, None)];
        ends[1].is_gone = true; // until the dial arrives
        self.pipes.insert(name, Pipe { ends, flows: Default::default(), dial: Dial::UnderWay });
        self.act(name, 0, Deed::Dialled);
        name
    }

    /// The next who waits at a site's door.
    pub(in crate::sim) fn accept(&mut self, site: usize, id: ConnectionId) -> Result<Connection, i32> {
        const ECONNABORTED: i32 = 103;
        if self.is_exhausted(site) {
            return Err(EMFILE);
        }
        let Some(name) = self.sites[site].backlog.pop_front() else {
            return Err(EAGAIN);
        };
        let end = &mut self.pipes.get_mut(&name).expect("who waits has a pipe").ends[1];
        if end.is_reset && self.rng.chance(500_000) {
            self.leave(name, 1);
            self.count(SocketFault::AbortedAccept);
            return Err(ECONNABORTED);
        }
        end.id = Some(id);
        self.edge(name, 1);
        Ok(name)
    }

    pub(in crate::sim) fn is_exhausted(&mut self, site: usize) -> bool {
        let is_exhausted = self.sites[site].is_exhausted;
        if is_exhausted {
            self.count(SocketFault::OutOfDescriptors);
        }
        is_exhausted
    }

    pub(in crate::sim) fn act(&mut self, pipe: Connection, side: usize, what: Deed) {
        let site = self.pipes[&pipe].ends[side].site;
        let syncs = self.sites[site].turn.syncs();
        self.actions.push(Action { pipe, side, syncs, what });
    }

    /// Something has changed for an end.
    pub(in crate::sim) fn edge(&mut self, name: Connection, side: usize) {
        let Some(pipe) = self.pipes.get_mut(&name) else { return };
        let end = &mut pipe.ends[side];
        let site = &mut self.sites[end.site];
        if end.is_gone || site.is_node && end.id.is_none() {
            return; // nobody, or somebody who is not let in yet
        }
        if !std::mem::replace(&mut end.has_edge, site.is_node) {
            if site.is_node {
                site.edges.push((name, side));
            }
            self.woken.push((name, side));
        }
    }

    /// Somebody waits at a site's door.
    pub(in crate::sim) fn knock(&mut self, name: Connection) {
        let end = &mut self.pipes.get_mut(&name).expect("its dial has just arrived").ends[1];
        end.is_gone = false;
        let site = &mut self.sites[end.site];
        site.backlog.push_back(name);
        site.is_listener_ready = true;
        self.woken.push((name, 1));
    }

    /// An end's socket is dropped.
    pub(in crate::sim) fn leave(&mut self, name: Connection, side: usize) {
        let Some(pipe) = self.pipes.get_mut(&name) else { return };
        let end = &mut pipe.ends[side];
        if std::mem::replace(&mut end.is_gone, true) {
            return;
        }
        let (site, other) = (end.site, 1 - side);
        let incoming = &pipe.flows[other];
        let reset = pipe.dial != Dial::Done || incoming.arrived > incoming.read;
        let is_over = end.is_reset || pipe.ends[other].is_gone;
        if self.sites[site].is_on && !is_over {
            self.act(name, side, Deed::Closed { reset });
        }
        if self.pipes[&name].ends.iter().all(|end| end.is_gone) {
            self.pipes.remove(&name);
        }
    }

    /// Reads what has arrived at an end.
    pub(in crate::sim) fn read(
        &mut self,
        name: Connection,
        side: usize,
        buffer: &mut [u8],
    ) -> Result<usize, ErrorKind> {
        if self.rng.chance(self.plan.interrupts_per_million) {
            self.count(SocketFault::Interrupted);
            return Err(ErrorKind::Interrupted);
        }
        let capacity = self.plan.capacity;
        let pipe = self.pipes.get_mut(&name).expect("an open socket has its pipe");
        let is_reset = pipe.ends[side].is_reset;
        let flow = &mut pipe.flows[1 - side];
        let there = (flow.arrived - flow.read) as usize;
        if there == 0 {
            return match (is_reset, flow.has_ended) {
                (true, _) => Err(ErrorKind::ConnectionReset),
                (false, true) => Ok(0),
                (false, false) => Err(ErrorKind::WouldBlock),
            };
        }
        let count = there.min(buffer.len());
        flow.take(&mut buffer[..count]);
        if flow.is_starved && flow.room(capacity) >= capacity.div_ceil(3) {
            flow.is_starved = false;
            self.act(name, side, Deed::MadeRoom);
        }
        Ok(count)
    }

    /// Writes as much as an end's flow has room for.
    pub(in crate::sim) fn write<'a>(
        &mut self,
        name: Connection,
        side: usize,
        slices: impl Iterator<Item = &'a [u8]>,
    ) -> Result<usize, ErrorKind> {
        if self.rng.chance(self.plan.interrupts_per_million) {
            self.count(SocketFault::Interrupted);
            return Err(ErrorKind::Interrupted);
        }
        let pipe = self.pipes.get_mut(&name).expect("an open socket has its pipe");
        let (end, flow) = (&mut pipe.ends[side], &mut pipe.flows[side]);
        let turn = &self.sites[end.site].turn;
        if end.is_reset {
            return Err(ErrorKind::BrokenPipe);
        }
        let room = flow.room(self.plan.capacity);
        if room == 0 {
            flow.is_starved = true;
            end.watch.blocked_in = Some(turn.number);
            self.count(SocketFault::FullBuffer);
            return Err(ErrorKind::WouldBlock);
        }
        let is_short = self.rng.chance(self.plan.oddity_per_million);
        let limit = if is_short { self.rng.between(1, room as u64) as usize } else { room };
        let mut count = 0;
        let mut is_cut = false;
        for slice in slices {
            let part = &slice[..slice.len().min(limit - count)];
            is_cut |= part.len() < slice.len();
            flow.bytes.extend(part);
            count += part.len();
            if self.sites[end.site].is_node {
                end.watch.push(part, turn.number);
            }
        }
        flow.written += count as u64;
        let written = flow.written;
        if is_cut {
            self.count(SocketFault::ShortWrite);
        }
        self.note_frames(name, side);
        self.act(name, side, Deed::Wrote(written));
        Ok(count)
    }

    /// An event that means nothing, of some connection of the site.
    pub(in crate::sim) fn spurious(&mut self, site: usize) -> Option<(ConnectionId, Readiness)> {
        let ends = self.pipes.values().flat_map(|pipe| &pipe.ends);
        let own = ends.filter(|end| end.site == site && !end.is_gone).filter_map(|end| end.id);
        let own: Vec<ConnectionId> = own.collect();
        if own.is_empty() {
            return None;
        }
        self.count(SocketFault::SpuriousEvent);
        let (readable, writable) = (self.rng.chance(700_000), self.rng.chance(700_000));
        Some((self.rng.pick(&own), Readiness { readable, writable, ..Readiness::default() }))
    }
}
