//! Who the other nodes are, and which link leads to each.
//!
//! Nodes are known by what they say of themselves on a link, never by the address that a link
//! comes from (there may be proxies between). Whoever answers a dial to an entry of `--peers` is
//! believed what he says; who comes in is believed once he is **confirmed** at such an entry
//! (see `claims.rs`). Before the founding that is all; afterwards the configuration in the log says who
//! belongs, by id **and** incarnation, and `--peers` only gives addresses.
//!
//! All nodes dial all others, so at first there are two links between each pair:
//!
//! * Of two links between the same two boots, both ends keep the one **dialled by the lower id**.
//!   The other one was a duplicate, which is not a loss.
//! * A link of an **older boot** always loses: a dead process is behind it.
//! * If the link to keep is older than any race of two dials can be, the other end would not have
//!   dialled unless it had lost it without our noticing: then the new one is kept, by both ends,
//!   since the other end has no other.
//!
//! A lost link is redialled at once by both ends, whoever dialled it. That tells whether the
//! process behind it is **dead**: the redial is refused, or answered by a higher boot.
//!
//! This is a state machine without sockets or timers: connections and what happens to them go in,
//! [`Effect`]s come out.

mod claims;
mod judge;
mod meet;
mod places;

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub use self::claims::Inquirer;
use self::judge::{cluster_conflict, refusal};
use self::meet::Meeting;
use super::config::PeerEntry;
use super::dialler::{self, Dial, Dialler, Failure};
use super::founding::{Verdict, Waiting};
use crate::net::ConnectionId;
use crate::planted::{Bug, is_planted};
use crate::time::{Duration, Instant};
use crate::types::{BootNumber, Incarnation, LogIndex, NodeId, Revision};
use crate::wire::entry::{Configuration, Member, Reached};
use crate::wire::hello::{DialNumber, PeerHello, Refusal, RefusalReason};

/// Two dials that cross each other end, one way or the other, within this time.
const RACE: Duration = Duration::from_secs(3);

/// What this node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    /// Its directory's incarnation.
    pub incarnation: Incarnation,
    /// Its boot number.
    pub boot: BootNumber,
    /// The last index of the log that its disk has.
    pub last_index: LogIndex,
    /// The `HOST:PORT` at which others reach it.
    pub advertise: String,
    /// The revision of the backup from which its directory was made, until it has founded a cluster.
    pub restored: Option<Revision>,
}

impl Identity {
    fn member(&self) -> Member {
        Member { id: self.node, incarnation: self.incarnation }
    }
}

/// What the owner of the sockets must do, or must tell the replica, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Dial this entry now.
    Dial(usize),
    /// Dial this entry after a pause; its timer, if it runs, runs anew.
    DialAfter(usize, Duration),
    /// Send this node's hello.
    Hello(ConnectionId),
    /// Ask at this entry about claims, now.
    Inquire(usize),
    /// The same, after a pause.
    InquireAfter(usize, Duration),
    /// A claim is confirmed: from now on the connection is a node's.
    Admit(ConnectionId),
    /// Close the connection, in good order. It was not lost.
    Close(ConnectionId),
    /// Send a refusal, and close.
    Refuse(ConnectionId, Refusal),
    /// Tell the node behind this link of the founding, of which it does not know.
    TellFounded(ConnectionId, NodeId, Configuration),
    /// There is a (new) link to a member.
    Up(NodeId, BootNumber, String),
    /// The link to a member was lost.
    Down(NodeId),
    /// The process behind the lost link is dead.
    Dead(NodeId),
    /// Found the cluster.
    Found(Configuration),
    /// The list has a member at this address, which was not met there.
    Listed(NodeId, String),
}

/// All that is known of the other nodes.
///
/// Invariants: every connection in `links` is in `handshaken`, and belongs to a node that is
/// believed; a node has at most one link; no other connection of a linked node is in `handshaken`.
/// Every connection in `handshaken` was dialled by us, or confirmed by the node that it claims to be.
#[derive(Debug)]
pub struct Peers {
    identity: Identity,
    heartbeat: Duration,
    configuration: Option<Configuration>,
    diallers: Vec<Dialler>,
    handshaken: BTreeMap<ConnectionId, Handshaken>,
    /// Who has come in and is not confirmed.
    claims: BTreeMap<ConnectionId, PeerHello>,
    links: BTreeMap<NodeId, ConnectionId>,
    /// How far each member was seen to have come.
    reached: BTreeMap<Member, Reached>,
    /// Members whose link was lost, and the boot behind it, until it is known what became of it.
    suspects: BTreeMap<NodeId, BootNumber>,
    meeting: Meeting,
    random: StdRng,
    effects: Vec<Effect>,
}

/// A connection whose other end has introduced itself.
#[derive(Clone, Debug)]
struct Handshaken {
    hello: PeerHello,
    /// The entry that was dialled; none if the other end dialled.
    entry: Option<usize>,
    since: Instant,
    /// The other end was told of the founding.
    told: bool,
}

impl Handshaken {
    fn member(&self) -> Member {
        member_of(&self.hello)
    }
}

fn member_of(hello: &PeerHello) -> Member {
    Member { id: hello.node, incarnation: hello.incarnation }
}

impl Peers {
    /// Takes the entries of the list, and what the log knows: the configuration, and how far peers
    /// were seen to have come. `seed` is for jitter, and for the cluster's id should this node found it.
    #[must_use]
    pub fn new(
        identity: Identity,
        heartbeat: Duration,
        entries: Vec<PeerEntry>,
        configuration: Option<Configuration>,
        reached: &[(NodeId, Reached)],
        seed: [u8; 32],
    ) -> Self {
        let of_member =
            |(id, reached): &(NodeId, Reached)| Some((*configuration.as_ref()?.member(*id)?, *reached));
        Self {
            reached: reached.iter().filter_map(of_member).collect(),
            meeting: Meeting::new(identity.member()),
            identity,
            heartbeat,
            configuration,
            diallers: entries.into_iter().map(Dialler::new).collect(),
            handshaken: BTreeMap::new(),
            claims: BTreeMap::new(),
            links: BTreeMap::new(),
            suspects: BTreeMap::new(),
            random: StdRng::from_seed(seed),
            effects: Vec::new(),
        }
    }

    /// Begins: dials every entry; a node alone founds at once.
    pub fn start(&mut self) {
        self.effects.extend((0..self.diallers.len()).map(Effect::Dial));
        self.place_unmet();
        self.judge_founding();
    }

    /// What is to be done, since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Time between heartbeats.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        self.heartbeat
    }

    /// The members; none before the founding.
    #[must_use]
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// The link to a member.
    #[must_use]
    pub fn link(&self, node: NodeId) -> Option<ConnectionId> {
        self.links.get(&node).copied()
    }

    /// The member behind a connection, if this is the link to it.
    #[must_use]
    pub fn node_behind(&self, connection: ConnectionId) -> Option<NodeId> {
        let node = self.handshaken.get(&connection)?.hello.node;
        (self.links.get(&node) == Some(&connection)).then_some(node)
    }

    /// Whether the other end has introduced itself and was not refused.
    #[must_use]
    pub fn is_handshaken(&self, connection: ConnectionId) -> bool {
        self.handshaken.contains_key(&connection)
    }

    /// Whether the node behind this link must be told of the founding before anything else.
    #[must_use]
    pub fn must_be_told(&self, connection: ConnectionId) -> bool {
        self.handshaken.get(&connection).is_some_and(|h| h.hello.cluster.is_none() && !h.told)
    }

    /// The address of an entry.
    #[must_use]
    pub fn address(&self, entry: usize) -> &str {
        &self.diallers[entry].entry.address
    }

    /// What this node says of itself now, on this connection.
    #[must_use]
    pub fn hello(&self, connection: ConnectionId) -> PeerHello {
        let mut dials = self.diallers.iter().filter_map(|dialler| dialler.dial);
        let dial = dials.find(|dial| dial.connection == connection);
        let met = if self.configuration.is_some() { BTreeSet::new() } else { self.met() };
        PeerHello {
            cluster: self.configuration.as_ref().map(|configuration| configuration.cluster),
            node: self.identity.node,
            incarnation: self.identity.incarnation,
            boot: self.identity.boot,
            last_index: self.identity.last_index,
            dial: dial.map_or(DialNumber::NONE, |dial| dial.number),
            advertise: self.identity.advertise.clone(),
            met: met.into_iter().collect(),
            restored: self.identity.restored.filter(|_| self.configuration.is_none()),
        }
    }

    /// Why there is no cluster yet; none if there is one.
    #[must_use]
    pub fn waiting(&self) -> Option<Waiting> {
        if self.configuration.is_some() {
            return None;
        }
        match self.verdict() {
            Verdict::Wait(waiting) => Some(waiting),
            Verdict::Found(_) => None,
        }
    }

    /// The timer of an entry has fired. Dials it, unless there is no need any more.
    pub fn on_dial_timer(&mut self, entry: usize) {
        let dialler = &mut self.diallers[entry];
        let linked = dialler.node.is_some_and(|node| self.links.contains_key(&node));
        let met = self.configuration.is_some() || dialler.report.is_some();
        if linked && met {
            dialler.rest();
        } else if dialler.is_waiting() {
            self.effects.push(Effect::Dial(entry));
        }
    }

    /// The dial of an entry has begun, on this connection.
    pub fn on_dial(&mut self, entry: usize, connection: ConnectionId) {
        let number = DialNumber(self.random.random_range(1..=u64::MAX));
        self.diallers[entry].on_dial(Dial { connection, number, is_outdated: false });
    }

    /// The dial of an entry, or its handshake, failed. If another one has begun since, that decides: a link
    /// came and was lost meanwhile, and what was found before proves nothing about who was behind it.
    pub fn on_dial_failed(&mut self, now: Instant, entry: usize, connection: ConnectionId, failure: Failure) {
        let dialler = &mut self.diallers[entry];
        if dialler.dial.is_some_and(|dial| dial.connection != connection) {
            return;
        }
        let pause = dialler.on_failure(now, failure, self.heartbeat, &mut self.random);
        if failure == Failure::Refused
            && let Some(node) = dialler.node
            && self.suspects.remove(&node).is_some()
        {
            self.effects.push(Effect::Dead(node));
        }
        if !self.diallers[entry].is_own() {
            self.effects.push(Effect::DialAfter(entry, pause));
        }
    }

    /// The other end of a connection introduces itself: first, or again when what it says of
    /// itself has changed. `entry` is what was dialled, if we did.
    ///
    /// # Errors
    /// It must be refused, and the connection closed.
    pub fn on_hello(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        entry: Option<usize>,
        hello: PeerHello,
    ) -> Result<(), Refusal> {
        if self.handshaken.contains_key(&connection) {
            return self.on_hello_again(connection, hello);
        }
        if member_of(&hello) == self.identity.member() {
            return self.on_own_hello(connection, entry, hello.dial);
        }
        self.judge(entry, &hello)?;
        let Some(dialled) = entry else { return self.claim(now, connection, hello) };
        self.learn(dialled, &hello);
        if self.diallers[dialled].dial.is_some_and(|dial| dial.is_outdated) {
            self.effects.push(Effect::Hello(connection));
        }
        self.admit(connection, Handshaken { hello, entry, since: now, told: false });
        Ok(())
    }

    /// A connection has ended that is not ours to redial by [`Peers::on_dial_failed`].
    pub fn on_closed(&mut self, now: Instant, connection: ConnectionId) {
        self.claims.remove(&connection);
        self.end_dial(connection);
        let Some(handshaken) = self.handshaken.remove(&connection) else { return };
        let node = handshaken.hello.node;
        if self.links.get(&node) != Some(&connection) {
            return;
        }
        self.links.remove(&node);
        self.suspects.insert(node, handshaken.hello.boot);
        self.effects.push(Effect::Down(node));
        // A link that lived for less is redialled with a pause, lest two nodes that disagree about it do
        // nothing else.
        let settled = now.since(handshaken.since) >= dialler::min_pause(self.heartbeat);
        for (index, dialler) in self.diallers.iter_mut().enumerate() {
            if dialler.node == Some(node) {
                if dialler.on_link_lost(settled) {
                    // A second loss soon after this one shall not be redialled at once again.
                    dialler.next_pause(self.heartbeat, &mut self.random);
                    self.effects.push(Effect::Dial(index));
                } else if dialler.is_waiting() {
                    let pause = dialler.next_pause(self.heartbeat, &mut self.random);
                    self.effects.push(Effect::DialAfter(index, pause));
                }
            }
        }
        self.announce();
    }

    /// The cluster is founded, durably: from now on only its members are believed.
    pub fn set_configuration(&mut self, configuration: Configuration) {
        self.configuration = Some(configuration);
        self.place_unmet();
        self.diallers.iter_mut().for_each(Dialler::on_founded);
        let connections: Vec<ConnectionId> = self.handshaken.keys().copied().collect();
        for connection in connections {
            let Some(handshaken) = self.handshaken.get(&connection) else { continue };
            let node = handshaken.hello.node;
            match self.belongs(&handshaken.hello) {
                Ok(()) => self.choose_link(node),
                Err(refusal) => self.drop_link(connection, node, refusal),
            }
        }
        self.effects.extend(self.handshaken.keys().copied().map(Effect::Hello));
        self.tell_founded();
    }

    /// The log of this node's disk ends here now.
    pub fn set_last_index(&mut self, last_index: LogIndex) {
        self.identity.last_index = last_index;
    }

    /// A member was seen to have come this far. If it is linked, and its earlier boots had more than it
    /// came with, it is refused now.
    pub fn on_reached(&mut self, node: NodeId, reached: Reached) {
        let member = self.configuration.as_ref().and_then(|configuration| configuration.member(node));
        let Some(member) = member.copied() else { return };
        self.reached.entry(member).or_default().raise_to(reached);
        let Some(connection) = self.links.get(&node).copied() else { return };
        if let Err(refusal) = self.judge_memory(&self.handshaken[&connection].hello) {
            self.drop_link(connection, node, refusal);
        }
    }

    /// Tells every linked member of the founding that does not seem to know, also if it was told:
    /// it may not have believed us then.
    pub fn tell_founded_again(&mut self) {
        for handshaken in self.handshaken.values_mut() {
            handshaken.told = false;
        }
        self.tell_founded();
    }

    /// Whether some linked member does not know of the founding.
    #[must_use]
    pub fn has_untold(&self) -> bool {
        self.handshaken.values().any(|handshaken| handshaken.hello.cluster.is_none())
    }

    fn on_hello_again(&mut self, connection: ConnectionId, hello: PeerHello) -> Result<(), Refusal> {
        let handshaken = self.handshaken.get_mut(&connection).expect("looked up before");
        let same =
            |a: &PeerHello, b: &PeerHello| (a.node, a.incarnation, a.boot) == (b.node, b.incarnation, b.boot);
        if !same(&handshaken.hello, &hello) {
            return Err(refusal(RefusalReason::Malformed, "a node cannot become another one".to_owned()));
        }
        if let Some(refusal) = cluster_conflict(self.configuration.as_ref(), &hello) {
            return Err(refusal);
        }
        handshaken.hello = hello.clone();
        self.learn_again(&hello);
        self.tell_founded();
        self.judge_founding();
        Ok(())
    }

    /// A connection whose other end is known is a link, or may become one.
    fn admit(&mut self, connection: ConnectionId, handshaken: Handshaken) {
        let node = handshaken.hello.node;
        self.handshaken.insert(connection, handshaken);
        self.choose_link(node);
        self.tell_founded();
        self.announce();
        self.judge_founding();
    }

    /// Of all connections to a node, keeps the one that the rules prefer.
    fn choose_link(&mut self, node: NodeId) {
        let believed = |other: &Handshaken| other.hello.node == node && self.is_believed(other.member());
        let all = self.handshaken.iter().filter(|(_, other)| believed(other));
        let all: Vec<ConnectionId> = all.map(|(connection, _)| *connection).collect();
        let Some(best) = all.iter().copied().reduce(|old, new| self.preferred(old, new)) else { return };
        let previous = self.links.insert(node, best);
        if previous != Some(best) {
            self.on_new_link(node, previous, best);
        }
        for duplicate in all.into_iter().filter(|connection| *connection != best) {
            self.handshaken.remove(&duplicate);
            self.end_dial(duplicate);
            self.effects.push(Effect::Close(duplicate));
        }
    }

    /// Of two connections to one node, the one to keep; `old` is the older one.
    fn preferred(&self, old: ConnectionId, new: ConnectionId) -> ConnectionId {
        let (a, b) = (&self.handshaken[&old], &self.handshaken[&new]);
        let by_lower = |link: &Handshaken| link.entry.is_some() == (self.identity.node < link.hello.node);
        let keep_old = match a.hello.boot.cmp(&b.hello.boot) {
            _ if is_planted(Bug::OldBootKept) => true,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => by_lower(a) && !by_lower(b) && b.since.since(a.since) <= RACE,
        };
        if keep_old { old } else { new }
    }

    fn on_new_link(&mut self, node: NodeId, previous: Option<ConnectionId>, link: ConnectionId) {
        let Handshaken { hello, .. } = &self.handshaken[&link];
        let suspect = self.suspects.remove(&node);
        let replaced = previous.map(|previous| self.handshaken[&previous].hello.boot);
        if replaced.is_some_and(|boot| boot < hello.boot) {
            self.effects.push(Effect::Down(node));
        }
        if suspect.or(replaced).is_some_and(|boot| boot < hello.boot) {
            self.effects.push(Effect::Dead(node));
        }
        self.effects.push(Effect::Up(node, hello.boot, hello.advertise.clone()));
        let member = self.handshaken[&link].member();
        let boot = hello.boot;
        self.reached.entry(member).or_default().raise_to(Reached { boot, ..Reached::default() });
    }

    /// A node that was believed turns out not to belong, or to have been put back from a copy.
    fn drop_link(&mut self, connection: ConnectionId, node: NodeId, refusal: Refusal) {
        self.handshaken.remove(&connection);
        self.end_dial(connection);
        if self.links.get(&node) == Some(&connection) {
            self.links.remove(&node);
            self.effects.push(Effect::Down(node));
        }
        self.effects.push(Effect::Refuse(connection, refusal));
    }
}

#[cfg(test)]
mod tests;
