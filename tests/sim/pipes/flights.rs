//! What arrives, and what that does to pipes.

use kvstore::time::{Duration, Instant};

use super::{Dial, Door, Pipes};
use crate::sim::node::Connection;
use crate::sim::pipe_plan::SocketFault;

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is there, or will be.
    Taken,
    /// Nobody knows of this connection.
    Unknown,
}

/// Bytes that a narrow link passes on at once.
const PACKET_BYTES: u64 = 100;

/// A part of what was written in one piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Where it ends.
    pub(crate) upto: u64,
    /// How long the link is busy with it.
    pub(crate) takes: Duration,
}

impl Pipes {
    /// The pieces in which arrives what an end wrote since its last launch.
    pub(crate) fn pieces(&self, pipe: Connection, side: usize, upto: u64) -> Vec<Piece> {
        let state = &mut *self.state();
        let Some(pipe) = state.pipes.get_mut(&pipe) else { return Vec::new() };
        let from = std::mem::replace(&mut pipe.flows[side].launched, upto);
        let is_link = pipe.ends.iter().all(|end| state.sites[end.site].is_node);
        if let Some(bytes_per_second) = state.plan.bytes_per_second.filter(|_| is_link) {
            let begins = (from..upto).step_by(PACKET_BYTES as usize);
            let piece = |from: u64| {
                let bytes = PACKET_BYTES.min(upto - from);
                let takes = Duration::from_nanos(bytes * 1_000_000_000 / bytes_per_second);
                Piece { upto: from + bytes, takes }
            };
            return begins.map(piece).collect();
        }
        let mut pieces = vec![upto];
        if upto > from + 1 && state.rng.chance(state.plan.fragments_per_million) {
            let cuts = state.rng.between(1, 3);
            pieces.extend((0..cuts).map(|_| state.rng.between(from + 1, upto - 1)));
            pieces.sort_unstable();
            pieces.dedup();
            state.count(SocketFault::Fragment);
        }
        pieces.into_iter().map(|upto| Piece { upto, takes: Duration::ZERO }).collect()
    }

    /// How much an end wrote.
    pub(crate) fn written(&self, pipe: Connection, side: usize) -> u64 {
        self.state().pipes.get(&pipe).map_or(0, |pipe| pipe.flows[side].written)
    }

    /// When what leaves an end arrives, that would be there at `at` if nothing were before it, and with
    /// which the link is busy for so long; none if nobody is there.
    pub(crate) fn in_order(
        &self,
        pipe: Connection,
        from: usize,
        at: Instant,
        takes: Duration,
    ) -> Option<Instant> {
        let mut state = self.state();
        let last = &mut state.pipes.get_mut(&pipe)?.flows[from].last_arrival;
        *last = at.max(*last + takes.max(Duration::from_nanos(1)));
        Some(*last)
    }

    /// A dial arrives; what it finds. None if that is silence.
    pub(crate) fn on_syn(&self, name: Connection) -> Option<Door> {
        let state = &mut *self.state();
        let pipe = state.pipes.get(&name)?;
        let site = &state.sites[pipe.ends[1].site];
        if pipe.ends[0].is_gone || !site.is_on {
            return None;
        }
        let door = site.door;
        match door {
            Door::Open => state.knock(name),
            Door::Closed => {}
            Door::Dying => state.count(SocketFault::DyingListener),
        }
        Some(door)
    }

    /// A dial has succeeded. False if the dialler has gone meanwhile.
    pub(crate) fn on_connected(&self, name: Connection) -> bool {
        let state = &mut *self.state();
        let Some(pipe) = state.pipes.get_mut(&name) else { return true };
        if pipe.ends[0].is_gone {
            return false;
        }
        pipe.dial = Dial::Done;
        state.edge(name, 0);
        true
    }

    /// A dial was refused; or the port that it came from was the one that it went to.
    pub(crate) fn on_refused(&self, name: Connection, to_itself: bool) {
        let state = &mut *self.state();
        let Some(pipe) = state.pipes.get_mut(&name) else { return };
        pipe.dial = if to_itself { Dial::ToItself } else { Dial::Refused };
        state.count(if to_itself { SocketFault::SelfConnected } else { SocketFault::Refused });
        state.edge(name, 0);
    }

    /// Bytes arrive at an end, if the way is open; `fin`: the last ones.
    pub(crate) fn on_segment(
        &self,
        name: Connection,
        to: usize,
        upto: u64,
        fin: bool,
        is_open: bool,
    ) -> Arrival {
        let state = &mut *self.state();
        let Some(pipe) = state.pipes.get_mut(&name) else { return Arrival::Taken };
        let (end, flow) = (&mut pipe.ends[to], &mut pipe.flows[1 - to]);
        if !is_open || flow.is_stalled || !state.sites[end.site].is_on {
            let (held, is_last) = flow.held.unwrap_or((upto, fin));
            flow.held = Some((held.max(upto), is_last || fin));
            state.count(SocketFault::Held);
            return Arrival::Taken;
        }
        if end.is_gone {
            let is_news = upto > flow.arrived;
            (flow.arrived, flow.read) = (upto.max(flow.arrived), upto.max(flow.arrived));
            if is_news {
                state.count(SocketFault::HalfOpen);
            }
            return if is_news { Arrival::Unknown } else { Arrival::Taken };
        }
        if end.is_reset {
            return Arrival::Taken;
        }
        flow.arrived = flow.arrived.max(upto);
        flow.has_ended |= fin;
        if fin {
            state.count(SocketFault::Ended);
        }
        state.edge(name, to);
        Arrival::Taken
    }

    /// An end is told that its connection is broken. What it had not read may still be read.
    pub(crate) fn on_reset(&self, name: Connection, to: usize) {
        let state = &mut *self.state();
        let Some(pipe) = state.pipes.get_mut(&name) else { return };
        if pipe.ends[to].is_gone || pipe.ends[to].is_reset {
            return;
        }
        pipe.ends[to].is_reset = true;
        if state.rng.chance(500_000) {
            pipe.flows[1 - to].lose();
        }
        state.count(SocketFault::Reset);
        state.edge(name, to);
    }

    /// An end may write again.
    pub(crate) fn on_room(&self, name: Connection, to: usize) {
        self.state().edge(name, to);
    }

    /// Takes what was held, where nothing holds it any more: pipe, end, up to where, the last.
    pub(crate) fn take_held(
        &self,
        is_open: impl Fn(usize, usize) -> bool,
    ) -> Vec<(Connection, usize, u64, bool)> {
        let state = &mut *self.state();
        let mut freed = Vec::new();
        for (name, pipe) in &mut state.pipes {
            for to in 0..2 {
                let (from_site, to_site) = (pipe.ends[1 - to].site, pipe.ends[to].site);
                let flow = &mut pipe.flows[1 - to];
                if !flow.is_stalled
                    && state.sites[to_site].is_on
                    && is_open(from_site, to_site)
                    && let Some((upto, fin)) = flow.held.take()
                {
                    freed.push((*name, to, upto, fin));
                }
            }
        }
        freed
    }
}
