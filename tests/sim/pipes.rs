//! Byte streams between sites, by the rules of TCP and of edge-triggered readiness.
//!
//! A pipe is a connection: two ends, and a flow of bytes each way. What a process writes goes into
//! the flow at once, as far as it has room; the world decides when it arrives ([`Action`], then
//! [`Flight`]). A process learns of what has changed by edges, one for each change and in any
//! order, and some that mean nothing; what an edge says is looked up when it is taken, as the
//! kernel does it. An end is gone when its socket is dropped: the other end gets a FIN after all
//! that was written, or a reset if something was left unread.
//!
//! What leaves a node's sockets is cut into frames here, for the checkers.

mod ends;
mod flights;
mod watch;

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;

use kvstore::net::{ConnectionId, Readiness};

use super::disk::SimDisk;
use super::node::Connection;
use super::pipe_plan::{PipePlan, SocketFault};
use super::rng::Rng;

pub(crate) use self::flights::{Arrival, Piece};
pub(crate) use self::watch::Left;
use self::watch::Watch;

/// A site's address; sites are nodes first, then clients.
pub(super) fn address_of(site: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(site + 1).expect("few sites")], 9000))
}

pub(super) fn site_at(address: SocketAddr) -> usize {
    let SocketAddr::V4(address) = address else { unreachable!("the simulator gave it out") };
    usize::from(address.ip().octets()[3]) - 1
}

/// All pipes and doors; clones are handles to the same.
#[derive(Clone)]
pub(crate) struct Pipes(pub(super) Rc<RefCell<State>>);

pub(crate) struct State {
    pub(super) plan: PipePlan,
    pub(super) rng: Rng,
    pub(super) sites: Vec<Site>,
    pub(super) pipes: BTreeMap<Connection, Pipe>,
    made: u64,
    actions: Vec<Action>,
    woken: Vec<(Connection, usize)>,
    pub(super) faults: BTreeMap<SocketFault, u64>,
}

/// Whether a site answers dials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Door {
    /// Nobody listens; a machine that is on refuses.
    #[default]
    Closed,
    Open,
    /// Whoever comes is let in and thrown out, as by a dying process.
    Dying,
}

/// A machine, as far as its sockets go.
#[derive(Default)]
pub(super) struct Site {
    is_node: bool,
    pub(super) is_on: bool,
    pub(super) door: Door,
    pub(super) backlog: VecDeque<Connection>,
    pub(super) is_listener_ready: bool,
    /// The process has as many descriptors as it may have.
    is_exhausted: bool,
    /// Ends of which something is to be told, in the order in which that came about.
    edges: Vec<(Connection, usize)>,
    turn: Turn,
    left: Vec<Left>,
}

/// A process' turn under way.
#[derive(Default)]
struct Turn {
    number: u64,
    /// Its disk, and how often that, and the log on it, was synced before the turn.
    disk: Option<(SimDisk, u64, u64)>,
}

/// A connection.
pub(super) struct Pipe {
    pub(super) ends: [End; 2],
    /// What the end of this index has written.
    pub(super) flows: [Flow; 2],
    pub(super) dial: Dial,
}

/// What became of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dial {
    UnderWay,
    Done,
    Refused,
    ToItself,
}

pub(super) struct End {
    pub(super) site: usize,
    /// How its process names it; none before it is accepted, and at a client's.
    id: Option<ConnectionId>,
    has_edge: bool,
    pub(super) is_gone: bool,
    pub(super) is_reset: bool,
    watch: Watch,
}

/// Bytes one way.
///
/// Invariant: `read <= arrived <= written`, and `bytes` are those from `read` to `written`.
#[derive(Default)]
pub(super) struct Flow {
    bytes: VecDeque<u8>,
    pub(super) written: u64,
    /// On their way, or arrived.
    pub(super) launched: u64,
    pub(super) arrived: u64,
    pub(super) read: u64,
    /// The writer has gone, and all that it wrote has arrived.
    pub(super) has_ended: bool,
    /// A write would have blocked, and room was not told of since.
    is_starved: bool,
    /// Nothing arrives for now.
    pub(super) is_stalled: bool,
    /// What could not arrive so far: up to where, and whether that is the end.
    pub(super) held: Option<(u64, bool)>,
    pub(super) last_arrival: kvstore::time::Instant,
}

/// Something that a process did with a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Action {
    pub(super) pipe: Connection,
    pub(super) side: usize,
    /// After how many of the turn's syncs.
    pub(super) syncs: u64,
    pub(super) what: Deed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Dialled,
    /// Up to here.
    Wrote(u64),
    /// There is room again for the other end.
    MadeRoom,
    Closed {
        reset: bool,
    },
}

/// Something on its way along a pipe.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flight {
    /// A dial.
    Syn,
    /// Its answer: somebody listens.
    SynAck,
    /// Its answer: nobody does.
    Refusal,
    /// All up to `upto` arrives at this end; with `fin` there is no more.
    Segment { to: usize, upto: u64, fin: bool },
    /// This end is told that the other knows nothing of the connection.
    Reset { to: usize },
    /// This end is told so by a box on the way.
    Cut { to: usize },
    /// This end may write again.
    Room { to: usize },
}

impl Pipes {
    /// No pipe yet; the first `nodes` of the sites are nodes.
    pub(crate) fn new(sites: usize, nodes: usize, plan: PipePlan, rng: Rng) -> Self {
        let site = |site| Site { is_node: site < nodes, is_on: true, ..Site::default() };
        Self(Rc::new(RefCell::new(State {
            plan,
            rng,
            sites: (0..sites).map(site).collect(),
            pipes: BTreeMap::new(),
            made: 0,
            actions: Vec::new(),
            woken: Vec::new(),
            faults: BTreeMap::new(),
        })))
    }

    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// What processes did since the last call.
    pub(super) fn take_actions(&self) -> Vec<Action> {
        std::mem::take(&mut self.state().actions)
    }

    /// Ends that have something to be told since the last call. A listener's is named by the site.
    pub(super) fn take_woken(&self) -> Vec<(Connection, usize)> {
        std::mem::take(&mut self.state().woken)
    }

    /// The sites of a pipe's ends; none if both are gone.
    pub(crate) fn sites_of(&self, pipe: Connection) -> Option<[usize; 2]> {
        let state = self.state();
        let [one, other] = &state.pipes.get(&pipe)?.ends;
        Some([one.site, other.site])
    }

    /// How often each fault happened.
    pub(crate) fn faults(&self) -> BTreeMap<SocketFault, u64> {
        self.state().faults.clone()
    }

    pub(crate) fn on_fault(&self, fault: SocketFault) {
        self.state().count(fault);
    }

    /// From now on actions of this site are stamped by the syncs of this disk.
    pub(crate) fn begin_turn(&self, site: usize, disk: &SimDisk) {
        let turn = &mut self.state().sites[site].turn;
        turn.number += 1;
        turn.disk = Some((disk.clone(), disk.operations().1, disk.log_syncs()));
    }

    /// The turn is over: what left the site's sockets in it.
    pub(crate) fn end_turn(&self, site: usize) -> Vec<Left> {
        let site = &mut self.state().sites[site];
        site.turn.disk = None;
        std::mem::take(&mut site.left)
    }

    /// What a poll of this site tells: of connections, and whether somebody waits at the door.
    pub(crate) fn take_events(&self, site: usize) -> (Vec<(ConnectionId, Readiness)>, bool) {
        let state = &mut *self.state();
        let mut edges = std::mem::take(&mut state.sites[site].edges);
        if state.rng.chance(state.plan.oddity_per_million) {
            edges = state.rng.shuffled(&edges);
        }
        let mut events = Vec::new();
        for (name, side) in edges {
            let Some(pipe) = state.pipes.get_mut(&name) else { continue };
            pipe.ends[side].has_edge = false;
            if let Some(id) = pipe.ends[side].id.filter(|_| !pipe.ends[side].is_gone) {
                events.push((id, pipe.readiness(side, state.plan.capacity)));
            }
        }
        if state.rng.chance(state.plan.oddity_per_million) {
            events.extend(state.spurious(site));
        }
        (events, std::mem::take(&mut state.sites[site].is_listener_ready))
    }

    /// Whether the site's process is out of descriptors.
    pub(crate) fn set_exhausted(&self, site: usize, is_exhausted: bool) {
        self.state().sites[site].is_exhausted = is_exhausted;
    }

    /// Nothing, or all, arrives at this end from now on.
    pub(crate) fn set_stalled(&self, pipe: Connection, to: usize, is_stalled: bool) {
        if let Some(pipe) = self.state().pipes.get_mut(&pipe) {
            pipe.flows[1 - to].is_stalled = is_stalled;
        }
    }

    /// Nothing is stalled any more, and what is late need not be: it is held, to be released.
    pub(crate) fn end_stalls(&self) {
        let mut state = self.state();
        for flow in state.pipes.values_mut().flat_map(|pipe| &mut pipe.flows) {
            flow.is_stalled = false;
            flow.last_arrival = kvstore::time::Instant::ZERO;
            if flow.launched > flow.arrived {
                let (_, fin) = flow.held.unwrap_or_default();
                flow.held = Some((flow.launched, fin));
            }
        }
    }

    /// Who listens at a site from now on. With the door go those who waited before it.
    pub(crate) fn set_door(&self, site: usize, door: Door) {
        let state = &mut *self.state();
        state.sites[site].door = door;
        if door != Door::Open {
            for name in std::mem::take(&mut state.sites[site].backlog) {
                state.leave(name, 1);
            }
        }
    }

    /// A machine gets power, or loses it: then nothing is said on its behalf.
    pub(crate) fn set_power(&self, site: usize, is_on: bool) {
        self.state().sites[site].is_on = is_on;
    }

    /// The site's connections to some others.
    pub(crate) fn pipes_between(&self, site: usize, is_other: impl Fn(usize) -> bool) -> Vec<Connection> {
        let state = self.state();
        let between = |pipe: &Pipe| {
            let [one, other] = [pipe.ends[0].site, pipe.ends[1].site];
            one == site && is_other(other) || other == site && is_other(one)
        };
        let done = state.pipes.iter().filter(|(_, pipe)| pipe.dial == Dial::Done && between(pipe));
        done.map(|(name, _)| *name).collect()
    }
}

impl Turn {
    fn syncs(&self) -> u64 {
        self.disk.as_ref().map_or(0, |(disk, before, _)| disk.operations().1 - before)
    }

    fn is_after_log(&self) -> bool {
        self.disk.as_ref().is_some_and(|(disk, _, before)| disk.log_syncs() > *before)
    }
}

impl Pipe {
    /// What an event says of one end now.
    fn readiness(&self, side: usize, capacity: usize) -> Readiness {
        let (incoming, is_reset) = (&self.flows[1 - side], self.ends[side].is_reset);
        let has_failed = is_reset || self.dial == Dial::Refused;
        let is_connected = self.dial != Dial::UnderWay;
        Readiness {
            readable: incoming.arrived > incoming.read || incoming.has_ended || has_failed,
            writable: is_connected && self.flows[side].room(capacity) > 0 || has_failed,
            read_closed: incoming.has_ended || has_failed,
            write_closed: has_failed,
        }
    }
}

impl End {
    fn new(site: usize, id: Option<ConnectionId>) -> Self {
        Self { site, id, has_edge: false, is_gone: false, is_reset: false, watch: Watch::new() }
    }
}

impl Flow {
    fn room(&self, capacity: usize) -> usize {
        capacity.saturating_sub(self.bytes.len())
    }

    fn take(&mut self, into: &mut [u8]) {
        let count = into.len();
        let (front, back) = self.bytes.as_slices();
        let cut = front.len().min(count);
        into[..cut].copy_from_slice(&front[..cut]);
        into[cut..].copy_from_slice(&back[..count - cut]);
        self.bytes.drain(..count);
        self.read += count as u64;
    }

    /// What has not been read is lost.
    pub(super) fn lose(&mut self) {
        self.bytes.clear();
        (self.read, self.arrived) = (self.written, self.written);
    }
}
