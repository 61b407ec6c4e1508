//! A process in message mode: a replica to which whole messages are brought.
//!
//! Links, handshakes and evidence are done here in few words; what the server makes of bytes is for
//! byte mode. The turn is the server's: what has arrived is read, nodes before clients, timers are
//! fired, and the replica's effects happen.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvstore::replica::{ClientConnection, Replica, Transport};
use kvstore::time::{Duration, Instant};
use kvstore::types::{BootNumber, LogIndex, NodeId};
use kvstore::wire::client::{Request, Response};
use kvstore::wire::entry::Configuration;
use kvstore::wire::peer::Message;

use super::disk::SimDisk;
use super::node::{Connection, Sent, TurnEffects, address, encoded, id_of, index_of};

/// Inputs that one turn takes at most; the rest waits for the next.
const INPUTS_PER_TURN: usize = 256;

/// What arrives at a process.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// A message of a node.
    Peer { from: usize, connection: Connection, bytes: Bytes },
    /// Two processes have shaken hands.
    LinkUp { peer: usize, connection: Connection, boot: BootNumber, last_index: LogIndex, is_founded: bool },
    /// A connection to a node is gone.
    LinkDown { peer: usize, connection: Connection },
    /// A dial was refused: the process that it meant is dead.
    Refused { peer: usize, dial: u64 },
    /// A client has connected.
    ClientHello { connection: Connection },
    /// A client's request.
    ClientRequest { connection: Connection, bytes: Bytes },
    /// A client's connection is gone.
    ClientGone { connection: Connection },
    /// All nodes were met: the cluster can be founded.
    Found(Configuration),
}

/// This end of a connection to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkEnd {
    pub(crate) connection: Connection,
    /// The boot of the process at the other end.
    pub(crate) boot: BootNumber,
    /// The other process is known to be a member.
    is_founded: bool,
    /// When it was told of the founding.
    told_at: Option<Instant>,
}

/// A process in message mode.
pub(crate) struct MessageNode {
    pub(crate) replica: Replica<SimDisk>,
    pub(crate) inbox: Vec<Input>,
    pub(crate) links: BTreeMap<usize, LinkEnd>,
    /// Connections to peers that were lost, with the boot behind each, until it is known what
    /// became of it.
    suspects: BTreeMap<usize, LinkEnd>,
}

impl MessageNode {
    pub(crate) fn new(replica: Replica<SimDisk>) -> Self {
        Self { replica, inbox: Vec::new(), links: BTreeMap::new(), suspects: BTreeMap::new() }
    }

    /// One turn.
    pub(crate) fn turn(&mut self, now: Instant, disk: &SimDisk) -> TurnEffects {
        let mut effects = TurnEffects::default();
        self.inbox.sort_by_key(Input::is_of_client);
        let rest = self.inbox.split_off(self.inbox.len().min(INPUTS_PER_TURN));
        for input in std::mem::replace(&mut self.inbox, rest) {
            self.take(now, input, &mut effects);
        }
        self.note_unread(now);
        if self.replica.next_wake().is_some_and(|wake| wake <= now) {
            self.replica.tick(now);
        }
        let before = (disk.operations().1, disk.log_syncs());
        let mut outbox = Outbox { disk, before, effects: &mut effects };
        let result = self.replica.process_ready(now, || now, &mut outbox);
        effects.failed = result.err();
        effects.syncs = disk.operations().1 - before.0;
        effects.log_syncs = disk.log_syncs() - before.1;
        if effects.failed.is_none() {
            self.tell_founding(now, &mut effects);
        }
        effects
    }

    /// When the next turn must begin at the latest.
    pub(crate) fn end_turn(&self, now: Instant) -> Option<Instant> {
        if !self.inbox.is_empty() || self.replica.has_work(now) {
            return Some(now);
        }
        let wakes = [self.replica.next_wake(), self.replica.exit_at()];
        wakes.into_iter().flatten().min()
    }

    fn take(&mut self, now: Instant, input: Input, effects: &mut TurnEffects) {
        match input {
            Input::Peer { from, connection, bytes } => {
                let link = self.links.get_mut(&from).filter(|link| link.connection == connection);
                if let Some(link) = link {
                    link.is_founded = true;
                    let message = Message::decode(bytes).expect("what a node sends can be read");
                    self.replica.on_message(now, id_of(from), message);
                }
            }
            Input::LinkUp { peer, connection, boot, last_index, is_founded } => {
                self.assert_admitted(peer, boot, last_index);
                let link = LinkEnd { connection, boot, is_founded, told_at: None };
                self.on_link_up(now, peer, link);
            }
            Input::LinkDown { peer, connection } => {
                if self.links.get(&peer).is_some_and(|link| link.connection == connection) {
                    let link = self.links.remove(&peer).expect("it was just seen");
                    self.suspects.insert(peer, link);
                    self.replica.on_link_down(now, id_of(peer));
                    effects.lost.push(peer);
                }
            }
            Input::Refused { peer, dial } => {
                // A dial older than the link that was lost says nothing about who was behind that.
                let lost = self.suspects.get(&peer).filter(|lost| lost.connection.0 < dial);
                if lost.is_some() && !self.links.contains_key(&peer) {
                    self.suspects.remove(&peer);
                    self.replica.on_peer_dead(now, id_of(peer));
                }
            }
            Input::ClientHello { connection } => {
                effects.welcomes.push((connection, self.replica.welcome(now)));
            }
            Input::ClientRequest { connection, bytes } => {
                let request = Request::decode(bytes).expect("what a client sends can be read");
                self.replica.on_request(now, ClientConnection(connection.0), request);
            }
            Input::ClientGone { connection } => self.replica.on_client_gone(ClientConnection(connection.0)),
            Input::Found(configuration) => {
                if self.replica.configuration().is_none() {
                    self.replica.found(now, configuration);
                }
            }
        }
    }

    /// As the server does it: a link of an older boot is lost, and its process dead; a second link
    /// between the same two boots takes the place of the first.
    fn on_link_up(&mut self, now: Instant, peer: usize, link: LinkEnd) {
        let (old, boot) = (self.links.get(&peer).copied(), link.boot);
        if old.is_some_and(|old| old.connection > link.connection || old.boot > boot) {
            return;
        }
        let suspect = self.suspects.remove(&peer).map(|lost| lost.boot);
        if old.is_some_and(|old| old.boot < boot) {
            self.replica.on_link_down(now, id_of(peer));
        }
        if suspect.or(old.map(|old| old.boot)).is_some_and(|seen| seen < boot) {
            self.replica.on_peer_dead(now, id_of(peer));
        }
        self.links.insert(peer, link);
        self.replica.on_link_up(now, id_of(peer), boot, &address(peer));
    }

    /// The server judges by this whether a node was put back from an old copy. None ever is here. (Words of
    /// a process whose next boot is known already come too late to matter.)
    fn assert_admitted(&self, peer: usize, boot: BootNumber, last_index: LogIndex) {
        let seen = self.replica.seen(id_of(peer));
        if seen.boot <= boot {
            let forgotten = seen.forgotten_by(boot, last_index);
            assert_eq!(forgotten, None, "an honest node is refused: {seen:?}, boot {boot}, {last_index}");
        }
    }

    fn note_unread(&mut self, now: Instant) {
        let Some(leader) = self.replica.leader() else { return };
        let of_leader = |input: &Input| matches!(input, Input::Peer { from, .. } if id_of(*from) == leader);
        if self.inbox.iter().any(of_leader) {
            self.replica.on_unread(now, leader);
        }
    }

    /// The server tells of the founding, once it is durable, until the other node is a member.
    fn tell_founding(&mut self, now: Instant, effects: &mut TurnEffects) {
        let Some(configuration) = self.replica.configuration() else { return };
        for (peer, link) in self.links.iter_mut().filter(|(_, link)| !link.is_founded) {
            if link.told_at.is_some_and(|told_at| now.since(told_at) < Duration::from_millis(100)) {
                continue;
            }
            link.told_at = Some(now);
            let message = Message::Found(configuration.clone());
            let bytes = encoded(|out| message.encode(out));
            let (syncs, after_log) = (effects.syncs, effects.log_syncs > 0);
            effects.sends.push(Sent { what: (*peer, message), syncs, after_log, bytes });
        }
    }
}

impl Input {
    fn is_of_client(&self) -> bool {
        matches!(self, Input::ClientHello { .. } | Input::ClientRequest { .. } | Input::ClientGone { .. })
    }
}

/// The replica's way out: notes what leaves, and after how many syncs.
struct Outbox<'a> {
    disk: &'a SimDisk,
    /// Syncs, and those of the log, before the turn.
    before: (u64, u64),
    effects: &'a mut TurnEffects,
}

impl Outbox<'_> {
    fn sent<T>(&self, what: T, bytes: Bytes) -> Sent<T> {
        let (syncs, log_syncs) = (self.disk.operations().1, self.disk.log_syncs());
        Sent { what, syncs: syncs - self.before.0, after_log: log_syncs > self.before.1, bytes }
    }
}

impl Transport for Outbox<'_> {
    fn send(&mut self, to: NodeId, message: &Message) {
        let bytes = encoded(|out| message.encode(out));
        let sent = self.sent((index_of(to), message.clone()), bytes);
        self.effects.sends.push(sent);
    }

    fn reply(&mut self, client: ClientConnection, response: &Response) {
        let bytes = encoded(|out| response.encode(out));
        let sent = self.sent((Connection(client.0), response.clone()), bytes);
        self.effects.replies.push(sent);
    }

    fn flush(&mut self) {}
}
