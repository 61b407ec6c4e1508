//! Whatever comes in at the port: nobody is heard who has not introduced himself, and of each who
//! was let in, coming and going are told once.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;

use kvstore::net::{ConnectionId, Readiness, Socket};
use kvstore::server::admission::{Admission, Limits};
use kvstore::server::config::PeerEntry;
use kvstore::server::message_bus::{Inbound, MessageBus};
use kvstore::server::peers::{Identity, Peers};
use kvstore::time::{Duration, Instant};
use kvstore::types::{BootNumber, ClusterId, Incarnation, LogIndex, NodeId, Revision, Term};
use kvstore::wire::Writer;
use kvstore::wire::client::{Request, RequestBody};
use kvstore::wire::entry::{Configuration, Member, Reached};
use kvstore::wire::frame::{self, FrameKind};
use kvstore::wire::hello::{Confirmation, DialNumber, PeerHello};
use kvstore::wire::peer::{Heartbeat, Message};

use super::source::Source;

const OWN: u64 = 2;
const CLUSTER: ClusterId = ClusterId(9);
/// Dials up to this number are confirmed.
const OWNED_DIALS: u64 = 200;

/// What the other end of a connection does next.
enum Move {
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// A socket whose other end acts by a script.
struct Scripted(VecDeque<Move>);

/// Who waits outside, and who was let in.
struct Door {
    waiting: VecDeque<Scripted>,
    accepted: Rc<RefCell<Vec<ConnectionId>>>,
}

impl Socket for Scripted {
    type Driver = Door;

    /// Every member owns up to the dials with small numbers, in one boot.
    fn dial(_: &mut Self::Driver, _: ConnectionId, address: SocketAddr) -> io::Result<Self> {
        let SocketAddr::V4(address) = address else { unreachable!("all are of one kind") };
        let Member { id: node, incarnation } = member(u64::from(address.ip().octets()[3]));
        let dials = (1..=OWNED_DIALS).map(DialNumber).collect();
        let confirmation = Confirmation { node, incarnation, boot: BootNumber(3), dials };
        let mut out = Writer::new();
        frame::encode(FrameKind::Confirmation, &mut out, |out| confirmation.encode(out));
        Ok(Self(VecDeque::from([Move::Bytes(out.into_bytes().to_vec())])))
    }

    fn accept(door: &mut Door, id: ConnectionId) -> io::Result<Self> {
        let socket = door.waiting.pop_front().ok_or(ErrorKind::WouldBlock)?;
        door.accepted.borrow_mut().push(id);
        Ok(socket)
    }

    fn finish_connect(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn is_self_connected(&self) -> bool {
        false
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.pop_front() {
            None => Err(ErrorKind::WouldBlock.into()),
            Some(Move::Bytes(mut bytes)) => {
                let rest = bytes.split_off(bytes.len().min(buffer.len()));
                if !rest.is_empty() {
                    self.0.push_front(Move::Bytes(rest));
                }
                buffer[..bytes.len()].copy_from_slice(&bytes);
                Ok(bytes.len())
            }
            Some(Move::End) => Ok(0),
            Some(Move::Reset) => Err(ErrorKind::ConnectionReset.into()),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
}

fn member(id: u64) -> Member {
    Member { id: NodeId(id), incarnation: Incarnation(id * 100) }
}

fn bus(door: Door, is_founded: bool) -> MessageBus<Scripted> {
    let address = |id: u64| SocketAddr::from(([10, 0, 0, id as u8], 9000));
    let configuration = Configuration::new(CLUSTER, (1..=3).map(member).collect()).expect("distinct members");
    let others = [1, 3];
    let entries = others.map(|id| PeerEntry { node: None, address: address(id).to_string() });
    let identity = Identity {
        node: NodeId(OWN),
        incarnation: member(OWN).incarnation,
        boot: BootNumber(1),
        last_index: LogIndex(1),
        advertise: address(OWN).to_string(),
        restored: None,
    };
    let peers = Peers::new(
        identity,
        Duration::from_millis(30),
        entries.to_vec(),
        is_founded.then_some(configuration),
        &[(NodeId(1), Reached { boot: BootNumber(3), ..Reached::default() })],
        [1; 32],
    );
    let admission = Admission::new(Limits { clients: 4, unknown: 4, ..Limits::for_descriptors(1000, 2) });
    MessageBus::new(door, peers, others.map(address).to_vec(), admission, Instant::ZERO)
}

/// The first byte says whether the cluster is founded; the rest are connections and what comes over
/// each.
pub(crate) fn handshake(data: &[u8]) {
    let mut source = Source::new(data);
    let is_founded = source.flag();
    let mut waiting = VecDeque::new();
    while !source.is_empty() && waiting.len() < 12 {
        let moves = (0..source.choice(8)).map(|_| next_move(&mut source)).collect();
        waiting.push_back(Scripted(moves));
    }
    let connections = waiting.len();
    let accepted = Rc::new(RefCell::new(Vec::new()));
    let mut bus = bus(Door { waiting, accepted: Rc::clone(&accepted) }, is_founded);
    let mut heard = Heard::default();
    let mut now = Instant::ZERO;
    for _ in 0..8 * (connections + 1) {
        now += Duration::from_millis(50);
        bus.on_listener_ready();
        bus.accept(now);
        // More may have come since a read took less than it could have.
        for id in accepted.borrow().iter() {
            bus.on_event(*id, Readiness { readable: true, writable: true, ..Readiness::default() });
        }
        for _ in 0..64 {
            if bus.ready_peers() + bus.ready_clients() == 0 {
                break;
            }
            bus.read_next_peer(now);
            bus.read_next_client(now);
        }
        bus.fire_timers(now);
        bus.reap();
        while let Some(inbound) = bus.next_inbound() {
            heard.judge(inbound, is_founded);
        }
    }
}

fn next_move(source: &mut Source<'_>) -> Move {
    let mut out = Writer::new();
    match source.choice(8) {
        0 => return Move::End,
        1 => return Move::Reset,
        2 => {
            let bytes = usize::from(source.byte());
            out.put(source.bytes(bytes));
        }
        3 => frame::encode(FrameKind::ClientHello, &mut out, |_| ()),
        4 | 5 => {
            let hello = hello(source);
            frame::encode(FrameKind::PeerHello, &mut out, |out| hello.encode(out));
        }
        6 => {
            let heartbeat = Heartbeat { term: Term(1), commit: LogIndex(1), round: source.u64() };
            frame::encode(FrameKind::Message, &mut out, |out| Message::Heartbeat(heartbeat).encode(out));
        }
        _ => {
            let (id, body) = (source.u64(), RequestBody::Status);
            let request = Request { id, time_left_ms: 100, silent_leader: None, body };
            frame::encode(FrameKind::Request, &mut out, |out| request.encode(out));
        }
    }
    let mut bytes = out.into_bytes().to_vec();
    if source.byte() > 250 && !bytes.is_empty() {
        let at = source.choice(bytes.len());
        bytes[at] ^= source.byte();
    }
    Move::Bytes(bytes)
}

fn hello(source: &mut Source<'_>) -> PeerHello {
    let node = source.number(2);
    let incarnation = if source.byte() > 30 { member(node.min(9)).incarnation } else { Incarnation(1) };
    let cluster = match source.byte() {
        0..60 => None,
        60..240 => Some(CLUSTER),
        _ => Some(ClusterId(1)),
    };
    let met = (0..source.choice(4)).map(|_| member(u64::from(source.byte() % 5))).collect();
    let advertise = if source.flag() { "10.0.0.1:9000" } else { "" }.to_owned();
    let boot = if source.flag() { BootNumber(3) } else { BootNumber(source.number(4)) };
    let last_index = LogIndex(source.number(4));
    let dial = DialNumber(u64::from(source.byte()));
    let restored = source.flag().then_some(Revision(9));
    let node = NodeId(node);
    PeerHello { cluster, node, incarnation, boot, last_index, dial, advertise, met, restored }
}

/// What was told so far of nodes and clients.
#[derive(Default)]
struct Heard {
    linked: BTreeMap<NodeId, bool>,
    clients: BTreeMap<u64, bool>,
}

impl Heard {
    fn judge(&mut self, inbound: Inbound, is_founded: bool) {
        match inbound {
            Inbound::Message(node, _) => {
                assert!(is_founded && node != NodeId(OWN), "{node} is no other member");
                assert_eq!(self.linked.get(&node), Some(&true), "{node} has no link");
            }
            Inbound::LinkUp(node, boot, _) => {
                assert!([NodeId(1), NodeId(3)].contains(&node) || !is_founded, "{node} is no other member");
                let is_known = is_founded && node == NodeId(1);
                assert!(!is_known || boot >= BootNumber(3), "boot {boot} was seen before");
                self.linked.insert(node, true);
            }
            Inbound::Newcomer(node) => {
                assert_eq!(self.linked.get(&node), Some(&true), "{node} has no link");
            }
            Inbound::LinkDown(node) => {
                assert_eq!(self.linked.insert(node, false), Some(true), "{node} had no link");
            }
            Inbound::ClientHello(client) => {
                assert_eq!(self.clients.insert(client.0, true), None, "a client comes once");
            }
            Inbound::Request(client, _) => {
                assert_eq!(self.clients.get(&client.0), Some(&true), "a client asks while it is there");
            }
            Inbound::ClientGone(client) => {
                assert_eq!(self.clients.insert(client.0, false), Some(true), "a client goes once");
            }
            Inbound::PeerDead(node) => assert_ne!(self.linked.get(&node), Some(&true), "{node} is linked"),
            Inbound::PeerListed(node, _) => {
                let is_other = [NodeId(1), NodeId(3)].contains(&node);
                assert!(is_founded && is_other, "{node} is no other member");
            }
            Inbound::Found(configuration) => assert!(!is_founded, "founded twice: {configuration:?}"),
        }
    }
}
