//! One node: its replica and its connections, and what passes between them in a turn.
//!
//! Everything is here but the sleep, the clock and the signals, so that a simulator can run the
//! very same node over its own sockets, disk and time.

use super::message_bus::{Inbound, MessageBus};
use super::turns::Turns;
use crate::net::{ReadBudget, Socket};
use crate::planted::{Bug, is_planted};
use crate::replica::{Replica, Transport};
use crate::storage::{Disk, WriteError};
use crate::time::{Duration, Instant};

/// What is read of all clients in one turn, but for the last one's; the rest waits for the next turn.
const CLIENTS_BUDGET: ReadBudget = ReadBudget { bytes: 8 << 20, frames: 4096 };

/// A replica and the message bus that serves it.
pub struct Node<D: Disk, S: Socket> {
    bus: MessageBus<S>,
    replica: Replica<D>,
    turns: Turns,
}

impl<D: Disk, S: Socket> Node<D, S> {
    /// Puts the two together. Turns shall be shorter than `heartbeat`.
    pub fn new(mut bus: MessageBus<S>, replica: Replica<D>, heartbeat: Duration, now: Instant) -> Self {
        bus.set_told_by_snapshot(replica.begins_with_snapshot());
        Self { bus, replica, turns: Turns::new(heartbeat, now) }
    }

    /// Where events go.
    pub fn bus_mut(&mut self) -> &mut MessageBus<S> {
        &mut self.bus
    }

    /// The message bus, to look at.
    #[must_use]
    pub fn bus(&self) -> &MessageBus<S> {
        &self.bus
    }

    /// The replica, to look at.
    #[must_use]
    pub fn replica(&self) -> &Replica<D> {
        &self.replica
    }

    /// A poll was interrupted: it told of no event, though there may be some.
    pub fn on_interrupted(&mut self) {
        self.turns.on_interrupted();
    }

    /// The turn before has ended by `now`. When the next must begin at the latest: at once, if it
    /// would find something to do without any event; else at the next timer.
    pub fn end_turn(&mut self, now: Instant) -> Option<Instant> {
        let wake = if self.has_work(now) { Some(now) } else { self.next_wake() };
        let took = self.turns.end(now, wake);
        self.replica.on_turn_end(took);
        wake
    }

    /// A turn, once the events of a poll were told: everything that has arrived is read, then timers
    /// are fired, then the effects of both leave. `poll_again` tells of the events that came
    /// meanwhile, without waiting; it is asked after a stall. `after_sync` tells the time once more; it
    /// is asked where the disk has taken some.
    ///
    /// # Errors
    /// A failed write or poll: the process must end.
    pub fn turn<E: From<WriteError>>(
        &mut self,
        now: Instant,
        poll_again: impl FnOnce(&mut Self) -> Result<(), E>,
        after_sync: impl FnOnce() -> Instant,
    ) -> Result<(), E> {
        if is_planted(Bug::TimersBeforeSockets) {
            self.fire_timers(now);
        }
        self.read_sockets(now);
        if self.turns.is_late(now) {
            poll_again(self)?;
            self.read_sockets(now);
        }
        self.fire_timers(now);
        self.process_ready(now, after_sync)?;
        self.bus.reap();
        Ok(())
    }

    fn has_work(&self, now: Instant) -> bool {
        self.bus.has_work() || self.may_read_clients(now) || self.replica.has_work(now)
    }

    fn next_wake(&self) -> Option<Instant> {
        let wakes = [self.bus.next_wake(), self.replica.next_wake(), self.replica.exit_at()];
        wakes.into_iter().flatten().min()
    }

    /// Reads every connection that may have input, once and within its budget: nodes before
    /// clients, and who wants to connect last.
    fn read_sockets(&mut self, now: Instant) {
        self.deliver(now);
        for _ in 0..self.bus.ready_peers() {
            self.bus.read_next_peer(now);
            self.deliver(now);
        }
        let mut left = CLIENTS_BUDGET;
        for _ in 0..self.bus.ready_clients() {
            if left.is_spent() || !self.may_read_clients(now) {
                break;
            }
            left.spend(self.bus.read_next_client(now));
            self.deliver(now);
        }
        self.bus.accept(now);
        self.deliver(now);
    }

    /// Fires what is due, sockets first: a leader of whom something is still to be read is alive.
    fn fire_timers(&mut self, now: Instant) {
        self.bus.fire_timers(now);
        self.deliver(now);
        if let Some(leader) = self.replica.leader().filter(|leader| self.bus.has_unread(*leader)) {
            self.replica.on_unread(now, leader);
        }
        if self.replica.next_wake().is_some_and(|wake| wake <= now) {
            self.replica.tick(now);
        }
    }

    /// Lets the replica's effects of this turn happen, in its order. What they make durable about
    /// the cluster decides from then on who is a member.
    fn process_ready(
        &mut self,
        now: Instant,
        after_sync: impl FnOnce() -> Instant,
    ) -> Result<(), WriteError> {
        self.replica.process_ready(now, after_sync, &mut self.bus)?;
        self.bus.set_told_by_snapshot(self.replica.begins_with_snapshot());
        if let Some(configuration) = self.replica.configuration()
            && self.bus.configuration() != Some(configuration)
        {
            self.bus.set_configuration(configuration);
        }
        self.bus.set_standing(self.replica.durable_index(), self.replica.take_reached());
        self.bus.flush();
        Ok(())
    }

    /// Begins to leave: a leader hands over.
    pub fn begin_hand_over(&mut self, now: Instant) {
        self.replica.begin_hand_over(now);
    }

    /// Whether it has left.
    #[must_use]
    pub fn may_exit(&self, now: Instant) -> bool {
        self.replica.may_exit(now)
    }

    fn may_read_clients(&self, now: Instant) -> bool {
        self.bus.ready_clients() > 0 && self.replica.takes_requests(now)
    }

    fn deliver(&mut self, now: Instant) {
        while let Some(inbound) = self.bus.next_inbound() {
            match inbound {
                Inbound::Message(from, message) => self.replica.on_message(now, from, message),
                Inbound::Request(client, request) => self.replica.on_request(now, client, request),
                Inbound::ClientHello(client) => self.bus.welcome(client, &self.replica.welcome(now)),
                Inbound::ClientGone(client) => self.replica.on_client_gone(client),
                Inbound::LinkUp(node, boot, address) => self.replica.on_link_up(now, node, boot, &address),
                Inbound::LinkDown(node) => self.replica.on_link_down(now, node),
                Inbound::PeerDead(node) => self.replica.on_peer_dead(now, node),
                Inbound::PeerListed(node, address) => self.replica.on_peer_listed(node, address),
                Inbound::Newcomer(node) => self.replica.on_newcomer(node),
                Inbound::Found(configuration) => {
                    if self.replica.configuration().is_none() {
                        self.replica.found(now, configuration);
                    }
                }
            }
        }
    }
}
