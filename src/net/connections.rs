//! All connections of a node, by name.

use slab::Slab;

use super::{Connection, ConnectionId, Socket};
use crate::planted::{Bug, is_planted};

/// Connections and what their owner knows about each (`T`), in a slab.
///
/// Invariants: a name finds exactly the connection that it was given to, or nothing. A slot is
/// freed only by [`Connections::reap`], at the end of a turn: events of the same turn for a
/// connection that was closed in it find a closed connection, never another one.
#[derive(Debug)]
pub struct Connections<S, T> {
    slots: Slab<Slot<S, T>>,
    next_generation: u32,
    closed: Vec<ConnectionId>,
}

#[derive(Debug)]
struct Slot<S, T> {
    id: ConnectionId,
    connection: Connection<S>,
    owned: T,
}

impl<S, T> Slot<S, T> {
    fn is(&self, id: ConnectionId) -> bool {
        self.id == id || is_planted(Bug::SlotReused)
    }
}

impl<S: Socket, T> Connections<S, T> {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self { slots: Slab::new(), next_generation: 0, closed: Vec::new() }
    }

    /// How many there are, those included that are closed and not yet reaped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The name that the next [`Connections::insert`] will give. A socket needs it before it
    /// exists, since its events are named so from its registration on.
    #[must_use]
    pub fn next_id(&self) -> ConnectionId {
        let slot = u32::try_from(self.slots.vacant_key()).expect("caps keep slots far below 2^32");
        ConnectionId { generation: self.next_generation, slot }
    }

    /// Takes a connection in, under the name that [`Connections::next_id`] gave.
    pub fn insert(&mut self, connection: Connection<S>, owned: T) -> ConnectionId {
        let id = self.next_id();
        self.next_generation = self.next_generation.wrapping_add(1);
        self.slots.insert(Slot { id, connection, owned });
        id
    }

    /// The connection of this name and what is known about it, unless it was closed.
    pub fn get_mut(&mut self, id: ConnectionId) -> Option<(&mut Connection<S>, &mut T)> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        let alive = slot.is(id) && !slot.connection.is_closed();
        alive.then_some((&mut slot.connection, &mut slot.owned))
    }

    /// As [`Connections::get_mut`], to look only.
    #[must_use]
    pub fn get(&self, id: ConnectionId) -> Option<(&Connection<S>, &T)> {
        let slot = self.slots.get(id.slot as usize)?;
        let alive = slot.is(id) && !slot.connection.is_closed();
        alive.then_some((&slot.connection, &slot.owned))
    }

    /// All that are not closed, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (ConnectionId, &Connection<S>, &T)> {
        let slots = self.slots.iter().map(|(_, slot)| (slot.id, &slot.connection, &slot.owned));
        slots.filter(|(_, connection, _)| !connection.is_closed())
    }

    /// Ends a connection. What was known about it is given back exactly once; later calls for
    /// this name find nothing.
    pub fn close(&mut self, id: ConnectionId) -> Option<T>
    where
        T: Default,
    {
        let (connection, owned) = self.get_mut(id)?;
        connection.close();
        let owned = std::mem::take(owned);
        if is_planted(Bug::SlotReused) {
            self.slots.remove(id.slot as usize);
        } else {
            self.closed.push(id);
        }
        Some(owned)
    }

    /// Frees the slots, and closes the sockets, of what was closed since the last call.
    pub fn reap(&mut self) -> usize {
        for id in &self.closed {
            self.slots.remove(id.slot as usize);
        }
        let count = self.closed.len();
        self.closed.clear();
        count
    }
}

impl<S: Socket, T> Default for Connections<S, T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Readiness;
    use super::super::scripted::ScriptedSocket;
    use super::*;

    fn insert(connections: &mut Connections<ScriptedSocket, u8>, owned: u8) -> ConnectionId {
        let expected = connections.next_id();
        let id = connections.insert(Connection::accepted(ScriptedSocket::default(), 16), owned);
        assert_eq!(id, expected);
        id
    }

    #[test]
    fn connection_closed_in_this_turn_is_not_found_and_keeps_its_slot() {
        let mut connections = Connections::new();
        let first = insert(&mut connections, 1);
        assert_eq!(connections.close(first), Some(1));
        assert_eq!(connections.close(first), None);
        assert!(connections.get_mut(first).is_none());
        let second = insert(&mut connections, 2);
        assert_ne!(first.slot, second.slot);
    }

    #[test]
    fn event_for_the_slot_of_a_reaped_connection_does_not_reach_its_successor() {
        let mut connections = Connections::new();
        let first = insert(&mut connections, 1);
        connections.close(first);
        assert_eq!(connections.reap(), 1);
        let second = insert(&mut connections, 2);
        assert_eq!(first.slot, second.slot);
        assert!(connections.get_mut(first).is_none());
        let (connection, owned) = connections.get_mut(second).unwrap();
        connection.on_event(Readiness { readable: true, ..Readiness::default() });
        assert_eq!(*owned, 2);
    }

    #[test]
    fn connection_id_packed_and_unpacked_is_the_same() {
        let id = ConnectionId { generation: u32::MAX, slot: 7 };
        assert_eq!(ConnectionId::from_u64(id.to_u64()), id);
    }
}
