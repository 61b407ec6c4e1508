//! What leaves nodes' sockets, cut into frames again for the checkers.

use std::collections::VecDeque;

use bytes::Bytes;
use kvstore::net::ConnectionId;
use kvstore::types::{BootNumber, Term};
use kvstore::wire::Reader;
use kvstore::wire::frame::{Decoder, Frame, FrameKind};
use kvstore::wire::hello::PeerHello;
use kvstore::wire::peer::Message;

use super::{Pipe, Pipes, State};
use crate::sim::node::Connection;

/// Cuts what an end writes into frames.
pub(super) struct Watch {
    pub(super) decoder: Decoder,
    /// In which turn a write blocked, if what was left then has not been written since.
    pub(super) blocked_in: Option<u64>,
    /// What is written in this turn may have been queued in an earlier one.
    pub(super) late_in: u64,
    /// Its introduction: where it ends, and which boot it names.
    pub(super) hello: Option<(u64, BootNumber)>,
    /// What it said as a leader: where that ends, and in which term it was.
    pub(super) as_leader: VecDeque<(u64, Term)>,
}

/// A frame that left a node's socket.
pub(crate) struct Left {
    pub(crate) pipe: Connection,
    /// The site at the other end.
    pub(crate) to: usize,
    pub(crate) frame: Frame,
    /// After how many of the turn's syncs.
    pub(crate) syncs: u64,
    /// The turn's part of the log was durable.
    pub(crate) after_log: bool,
    /// The socket was full before: the frame may be of an earlier turn.
    pub(crate) is_late: bool,
    /// The other end is of an older boot than one that this process has shaken hands with.
    pub(crate) is_outlived: bool,
}

impl Pipes {
    /// The terms in which a leader speaks in what this site's process could read now of its link to
    /// it: whole messages. What waits in a connection that the process has given up for another is
    /// nobody's any more.
    pub(crate) fn unread_of_leader(&self, site: usize, link: ConnectionId) -> Vec<Term> {
        let mut state = self.state();
        let is_link = |pipe: &Pipe, side: usize| {
            let end = &pipe.ends[side];
            end.site == site && end.id == Some(link) && !end.is_gone
        };
        let mut ends = state.pipes.values_mut().flat_map(|pipe| {
            let side = (0..2).find(|side| is_link(pipe, *side));
            side.map(|side| (pipe, side))
        });
        let Some((pipe, side)) = ends.next() else { return Vec::new() };
        let flow = &pipe.flows[1 - side];
        let said = &mut pipe.ends[1 - side].watch.as_leader;
        said.retain(|(end, _)| *end > flow.read);
        said.iter().filter(|(end, _)| *end <= flow.arrived).map(|(_, term)| *term).collect()
    }
}

impl State {
    /// Notes the frames that are complete with what an end has just written.
    pub(super) fn note_frames(&mut self, name: Connection, side: usize) {
        let pipe = self.pipes.get_mut(&name).expect("it has just been written to");
        let (site, to) = (pipe.ends[side].site, pipe.ends[1 - side].site);
        if !self.sites[site].is_node {
            return;
        }
        let (turn, written) = (&self.sites[site].turn, pipe.flows[side].written);
        let (number, syncs, after_log) = (turn.number, turn.syncs(), turn.is_after_log());
        let mut frames = Vec::new();
        let watch = &mut pipe.ends[side].watch;
        while let Some(frame) = watch.decoder.next().expect("a node writes frames") {
            let end = written - watch.decoder.buffered() as u64;
            match frame.kind {
                FrameKind::PeerHello if watch.hello.is_none() => {
                    let hello = PeerHello::decode(&mut Reader::new(frame.payload.clone()));
                    watch.hello = Some((end, hello.expect("a node's introduction can be read").boot));
                }
                FrameKind::Message => {
                    watch.as_leader.extend(leader_term(&frame.payload).map(|term| (end, term)))
                }
                _ => {}
            }
            frames.push(frame);
        }
        let is_late = watch.late_in == number;
        let is_outlived = frames.iter().any(|frame| frame.kind == FrameKind::Message)
            && self.is_outlived(site, to, name, side);
        for frame in frames {
            let left = Left { pipe: name, to, frame, syncs, after_log, is_late, is_outlived };
            self.sites[site].left.push(left);
        }
    }

    /// Whether a process talks to an older boot of another site than one that it knows: it has read
    /// that one's introduction and, who was dialled only once that was confirmed, given its own.
    fn is_outlived(&self, site: usize, to: usize, name: Connection, side: usize) -> bool {
        let boot_behind = |pipe: &Pipe, side: usize| {
            let (end, boot) = pipe.ends[1 - side].watch.hello?;
            (end <= pipe.flows[1 - side].read).then_some(boot)
        };
        let here = boot_behind(&self.pipes[&name], side);
        self.pipes.values().any(|pipe| {
            let mine = (0..2).find(|end| pipe.ends[*end].site == site && pipe.ends[1 - *end].site == to);
            mine.is_some_and(|end| {
                let has_answered = pipe.ends[end].watch.hello.is_some();
                !pipe.ends[end].is_gone && has_answered && here < boot_behind(pipe, end)
            })
        })
    }
}

/// The term of a message that only a leader sends, and that is heard as such.
fn leader_term(payload: &Bytes) -> Option<Term> {
    match Message::decode(payload.clone()) {
        Ok(Message::Heartbeat(heartbeat)) => Some(heartbeat.term),
        Ok(Message::AppendEntries(append)) => Some(append.term),
        _ => None,
    }
}

impl Watch {
    pub(super) fn new() -> Self {
        let (blocked_in, late_in, hello, as_leader) = (None, 0, None, VecDeque::new());
        Self { decoder: Decoder::new(u32::MAX), blocked_in, late_in, hello, as_leader }
    }

    pub(super) fn push(&mut self, bytes: &[u8], turn: u64) {
        if self.blocked_in.is_some_and(|blocked_in| blocked_in < turn) {
            self.blocked_in = None;
            self.late_in = turn;
        }
        self.decoder.push(bytes);
    }
}
