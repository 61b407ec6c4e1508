//! What members tell each other of themselves, besides consensus: how far each has come, and what room
//! its disk has (see `space.rs`).
//!
//! A directory that is put back from an old copy forgets what it acknowledged, and its vote could
//! make others forget it too. Nothing in it can tell. So every member remembers how far each other
//! one had come: a boot, and an index up to which its disk has the log **and** which is committed,
//! since only what is committed is never taken back. A leader sees that of its followers with each
//! acknowledgement; everybody tells everybody, at most once a heartbeat and only news, what it
//! knows of all, and repeats it now and then in case it was lost. It is stored with the next write of
//! the log: nothing waits for it. Who comes back below is not linked to (`server/peers/judge.rs`).

use std::collections::BTreeSet;

use super::{Replica, Transport};
use crate::storage::Disk;
use crate::time::Instant;
use crate::types::{LogIndex, NodeId};
use crate::wire::entry::Reached;
use crate::wire::peer::{Message, Room, RoomLevel, Standing};

/// After so many heartbeats without news the last are told again.
const REPEATED_AFTER_HEARTBEATS: u32 = 10;

/// What was told of this node's standing.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// What was said of this node itself.
    told: Option<(Reached, Room)>,
    told_at: Instant,
    /// Another member was seen to come further since.
    has_seen_more: bool,
    /// Linked since then: to be told at once.
    newcomers: BTreeSet<NodeId>,
}

impl Telling {
    pub(super) fn on_link_up(&mut self, peer: NodeId) {
        self.newcomers.insert(peer);
    }

    pub(super) fn on_link_down(&mut self, peer: NodeId) {
        self.newcomers.remove(&peer);
    }

    pub(super) fn on_seen_more(&mut self) {
        self.has_seen_more = true;
    }

    /// Whether there is more to tell than was told. How much room there is is news only while it matters.
    fn has_news(&self, reached: Reached, room: Room) -> bool {
        self.has_seen_more
            || self.told.is_none_or(|(then, told)| {
                let is_felt =
                    room.level != RoomLevel::Enough && told.free_bytes >> 20 != room.free_bytes >> 20;
                then != reached || told.level != room.level || is_felt
            })
    }
}

impl<D: Disk> Replica<D> {
    /// How far this node itself has come.
    #[must_use]
    pub fn reached(&self) -> Reached {
        let log = self.raft.log();
        let index = log.committed().min(log.stable());
        Reached { boot: self.own.boot, index, ..Reached::default() }
    }

    /// The last index of the log that this node's disk has.
    #[must_use]
    pub fn durable_index(&self) -> LogIndex {
        self.raft.log().stable()
    }

    /// How far a member was seen to come.
    #[must_use]
    pub fn seen(&self, member: NodeId) -> Reached {
        self.members.reached().find(|(id, _)| *id == member).map(|(_, reached)| reached).unwrap_or_default()
    }

    /// Which members were seen to have come further since the last call: by this, links to them are
    /// to be judged.
    pub fn take_reached(&mut self) -> Vec<(NodeId, Reached)> {
        self.members.take_unjudged()
    }

    /// A member tells how it stands.
    pub(super) fn on_standing(&mut self, from: NodeId, standing: &Standing) {
        let Some(configuration) = self.raft.configuration() else { return };
        if configuration.member(from).is_none() {
            return;
        }
        self.members.set_room(from, standing.room);
        for (id, reached) in &standing.reached {
            if *id != self.own.id && configuration.member(*id).is_some() {
                self.members.on_reached(*id, *reached);
            }
        }
    }

    /// A leader learns of its followers by their acknowledgements.
    pub(super) fn note_acknowledged(&mut self) {
        for (id, index) in self.raft.acknowledged() {
            self.members.on_acknowledged(id, index);
        }
    }

    /// Tells the others how this node stands, if the time has come.
    pub(super) fn tell_standing(&mut self, now: Instant, transport: &mut impl Transport) {
        if self.telling_deadline().is_some_and(|deadline| deadline <= now) {
            self.members.telling.newcomers.extend(self.other_members());
            let told = Some((self.reached(), self.own.space.room()));
            let telling = &mut self.members.telling;
            (telling.told, telling.told_at, telling.has_seen_more) = (told, now, false);
        }
        if self.members.telling.newcomers.is_empty() {
            return;
        }
        let Some(standing) = self.standing() else { return };
        let message = Message::Standing(standing);
        for to in std::mem::take(&mut self.members.telling.newcomers) {
            transport.send(to, &message);
        }
    }

    /// When the others are to be told: news soon, and anything again after a while.
    pub(super) fn telling_deadline(&self) -> Option<Instant> {
        self.raft.configuration()?;
        let telling = &self.members.telling;
        if telling.told.is_none() {
            return Some(Instant::ZERO);
        }
        let has_news = telling.has_news(self.reached(), self.own.space.room());
        let heartbeats = if has_news { 1 } else { REPEATED_AFTER_HEARTBEATS };
        Some(telling.told_at + self.raft.config().heartbeat * heartbeats)
    }

    fn standing(&self) -> Option<Standing> {
        let configuration = self.raft.configuration()?;
        let own = (self.own.id, self.reached());
        let is_member = |id: &NodeId| configuration.member(*id).is_some();
        let others = self.members.reached().filter(|(id, _)| is_member(id));
        let mut reached: Vec<(NodeId, Reached)> = others.chain([own]).collect();
        reached.sort_unstable_by_key(|(id, _)| *id);
        Some(Standing { room: self.own.space.room(), reached })
    }

    fn other_members(&self) -> Vec<NodeId> {
        let members = self.raft.configuration().map_or(&[][..], |configuration| configuration.members());
        members.iter().map(|member| member.id).filter(|id| *id != self.own.id).collect()
    }
}
