//! Where the members are, and how far each was seen to have come.

use std::collections::{BTreeMap, BTreeSet};

use super::Replica;
use super::standing::Telling;
use crate::storage::Disk;
use crate::time::{Duration, Instant};
use crate::types::{BootNumber, LogIndex, NodeId};
use crate::wire::entry::{Configuration, Reached};
use crate::wire::hello::{MemberAddress, Welcome};
use crate::wire::peer::Room;

/// What links told of the members. Who they are stands in the configuration alone.
#[derive(Debug)]
pub(super) struct Members {
    addresses: BTreeMap<NodeId, String>,
    /// Where `--peers` has members, which may not be where clients find them.
    listed: BTreeMap<NodeId, String>,
    reached: BTreeMap<NodeId, Reached>,
    /// Members whose entry in `reached` storage has not been told of.
    unstored: BTreeSet<NodeId>,
    /// And those of which the links have not.
    unjudged: BTreeSet<NodeId>,
    /// What room the disks have of those that are linked (enough, until they tell), or were a moment
    /// ago: a link that flaps says nothing about a disk.
    rooms: BTreeMap<NodeId, Room>,
    /// Those in `rooms` that are not linked, and since when.
    unlinked: BTreeMap<NodeId, Instant>,
    /// What they were told of this node.
    pub(super) telling: Telling,
}

impl Members {
    /// `reached` as storage recovered it.
    pub(super) fn new(own: NodeId, own_address: String, reached: Vec<(NodeId, Reached)>) -> Self {
        let addresses = BTreeMap::from([(own, own_address)]);
        let (unstored, unjudged) = (BTreeSet::new(), BTreeSet::new());
        let reached = reached.into_iter().collect();
        let (rooms, unlinked, telling) = (BTreeMap::new(), BTreeMap::new(), Telling::default());
        Self { addresses, listed: BTreeMap::new(), reached, unstored, unjudged, rooms, unlinked, telling }
    }

    /// There is a link to this boot of a member. Before the founding a lower boot is another directory of
    /// the same id; afterwards it would not have been linked to.
    pub(super) fn on_link_up(&mut self, peer: NodeId, boot: BootNumber, address: &str, is_founded: bool) {
        self.addresses.insert(peer, address.to_owned());
        self.telling.on_link_up(peer);
        self.unlinked.remove(&peer);
        self.rooms.entry(peer).or_default();
        if !is_founded && self.reached.get(&peer).is_some_and(|known| boot < known.boot) {
            self.reached.remove(&peer);
        }
        self.on_reached(peer, Reached { boot, ..Reached::default() });
    }

    /// `--peers` has a member at this address.
    pub(super) fn on_listed(&mut self, peer: NodeId, address: String) {
        self.listed.insert(peer, address);
    }

    /// The link to a member was lost.
    pub(super) fn on_link_down(&mut self, now: Instant, peer: NodeId) {
        self.telling.on_link_down(peer);
        self.unlinked.entry(peer).or_insert(now);
    }

    /// Forgets the rooms of members that have not been linked for so long.
    pub(super) fn forget_rooms(&mut self, now: Instant, unlinked_for: Duration) {
        for (peer, _) in self.unlinked.extract_if(.., |_, since| now.since(*since) >= unlinked_for) {
            self.rooms.remove(&peer);
        }
    }

    /// A member tells what room its disk has.
    pub(super) fn set_room(&mut self, member: NodeId, room: Room) {
        self.rooms.insert(member, room);
    }

    /// The room of each member that is linked, or was a moment ago.
    pub(super) fn rooms(&self) -> impl Iterator<Item = (NodeId, Room)> {
        self.rooms.iter().map(|(id, room)| (*id, *room))
    }

    /// This member has come so far, at least.
    pub(super) fn on_reached(&mut self, member: NodeId, reached: Reached) {
        if self.reached.entry(member).or_default().raise_to(reached) {
            self.unstored.insert(member);
            self.unjudged.insert(member);
            self.telling.on_seen_more();
        }
    }

    /// The boot of this member that is linked, or was linked last, has acknowledged so much.
    pub(super) fn on_acknowledged(&mut self, member: NodeId, index: LogIndex) {
        let boot = self.reached.get(&member).map_or(BootNumber(0), |reached| reached.boot);
        self.on_reached(member, Reached { boot, index, ..Reached::default() });
    }

    /// How far each other member is known to have come, ids ascending.
    pub(super) fn reached(&self) -> impl Iterator<Item = (NodeId, Reached)> {
        self.reached.iter().map(|(id, reached)| (*id, *reached))
    }

    /// Takes what is to be stored with the next write.
    pub(super) fn take_unstored(&mut self) -> Vec<(NodeId, Reached)> {
        let ids = std::mem::take(&mut self.unstored);
        ids.into_iter().map(|id| (id, self.reached[&id])).collect()
    }

    /// Takes what links are to be judged by from now on.
    pub(super) fn take_unjudged(&mut self) -> Vec<(NodeId, Reached)> {
        let ids = std::mem::take(&mut self.unjudged);
        ids.into_iter().map(|id| (id, self.reached[&id])).collect()
    }

    /// Where clients reach a member; `None` until a link to it told.
    pub(super) fn address(&self, id: NodeId) -> Option<MemberAddress> {
        self.addresses.get(&id).map(|address| MemberAddress { id, address: address.clone() })
    }

    /// A member's port, for log lines; a question mark until it is known.
    pub(super) fn port(&self, id: NodeId) -> &str {
        let port = self.addresses.get(&id).and_then(|address| address.rsplit(':').next());
        port.unwrap_or("?")
    }

    /// All members, ids ascending; empty addresses where they are not known.
    pub(super) fn addresses(&self, configuration: Option<&Configuration>) -> Vec<MemberAddress> {
        let Some(configuration) = configuration else {
            return self.addresses.keys().filter_map(|id| self.address(*id)).collect();
        };
        let ids = configuration.members().iter().map(|member| member.id);
        let unknown = |id| MemberAddress { id, address: String::new() };
        ids.map(|id| self.address(id).unwrap_or_else(|| unknown(id))).collect()
    }

    /// The same for people, who would rather know where a member should be than nothing.
    pub(super) fn places(&self, configuration: Option<&Configuration>) -> Vec<MemberAddress> {
        let mut members = self.addresses(configuration);
        for member in members.iter_mut().filter(|member| member.address.is_empty()) {
            member.address = self.listed.get(&member.id).cloned().unwrap_or_default();
        }
        members
    }
}

impl<D: Disk> Replica<D> {
    /// What a client is told first.
    #[must_use]
    pub fn welcome(&self, now: Instant) -> Welcome {
        Welcome {
            cluster: self.configuration().map(|configuration| configuration.cluster),
            node: self.own.id,
            cluster_time: self.timers.clock.read(now, self.state.cluster_time()),
            revision: self.state.revision(),
            term: self.raft.term(),
            leader: self.raft.leader(),
            members: self.members.addresses(self.configuration()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ClusterId, Incarnation};
    use crate::wire::entry::Member;

    fn reached(boot: u64, before: u64, index: u64) -> Reached {
        Reached { boot: BootNumber(boot), before: LogIndex(before), index: LogIndex(index) }
    }

    #[test]
    fn boot_of_a_directory_that_was_replaced_before_the_founding_is_forgotten() {
        let mut members = Members::new(NodeId(1), "a:1".to_owned(), Vec::new());
        members.on_link_up(NodeId(2), BootNumber(5), "b:2", false);
        members.on_link_up(NodeId(2), BootNumber(1), "b:2", false);
        assert_eq!(members.take_unstored(), [(NodeId(2), reached(1, 0, 0))]);
        members.on_link_up(NodeId(2), BootNumber(1), "b:2", false);
        assert_eq!(members.take_unstored(), []);
    }

    #[test]
    fn what_a_member_reached_only_rises_and_is_told_once_to_each() {
        let mut members = Members::new(NodeId(1), "a:1".to_owned(), vec![(NodeId(2), reached(3, 0, 70))]);
        members.on_reached(NodeId(2), reached(2, 0, 80));
        members.on_reached(NodeId(2), reached(3, 0, 60));
        assert_eq!(members.take_unstored(), [(NodeId(2), reached(3, 80, 80))]);
        assert_eq!(members.take_unjudged(), [(NodeId(2), reached(3, 80, 80))]);
        members.on_link_up(NodeId(2), BootNumber(4), "b:2", true);
        members.on_acknowledged(NodeId(2), LogIndex(90));
        assert_eq!(members.take_unjudged(), [(NodeId(2), reached(4, 80, 90))]);
        assert_eq!(members.take_unstored(), [(NodeId(2), reached(4, 80, 90))]);
        assert_eq!((members.take_unstored(), members.take_unjudged()), (vec![], vec![]));
    }

    #[test]
    fn room_of_a_member_is_forgotten_once_it_was_not_linked_for_so_long() {
        let mut members = Members::new(NodeId(1), "a:1".to_owned(), Vec::new());
        let rooms = |members: &Members| members.rooms().count();
        members.on_link_up(NodeId(2), BootNumber(1), "b:2", true);
        members.on_link_down(Instant::from_millis(10), NodeId(2));
        members.on_link_up(NodeId(2), BootNumber(1), "b:2", true);
        members.forget_rooms(Instant::from_millis(500), Duration::from_millis(250));
        assert_eq!(rooms(&members), 1, "it is linked");
        members.on_link_down(Instant::from_millis(500), NodeId(2));
        members.forget_rooms(Instant::from_millis(749), Duration::from_millis(250));
        assert_eq!(rooms(&members), 1);
        members.forget_rooms(Instant::from_millis(750), Duration::from_millis(250));
        assert_eq!(rooms(&members), 0);
    }

    #[test]
    fn place_in_the_list_is_told_to_people_until_the_member_itself_tells_one() {
        let member = |id| Member { id: NodeId(id), incarnation: Incarnation(id) };
        let configuration = Configuration::new(ClusterId(1), [1, 2, 3].map(member).to_vec()).unwrap();
        let mut members = Members::new(NodeId(1), "a:1".to_owned(), Vec::new());
        members.on_listed(NodeId(2), "proxy:2".to_owned());
        let addresses = |list: Vec<MemberAddress>| list.into_iter().map(|m| m.address).collect::<Vec<_>>();
        assert_eq!(addresses(members.places(Some(&configuration))), ["a:1", "proxy:2", ""]);
        assert_eq!(addresses(members.addresses(Some(&configuration))), ["a:1", "", ""]);
        members.on_link_up(NodeId(2), BootNumber(5), "b:2", true);
        assert_eq!(addresses(members.places(Some(&configuration))), ["a:1", "b:2", ""]);
    }
}
