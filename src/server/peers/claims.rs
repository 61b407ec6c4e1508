//! Whether somebody who comes in is the node that he says he is.
//!
//! Nodes share no secret, and what a node says of itself anybody can say after it. But nobody except
//! the node's own process answers at the address that `--peers` gives for it. So a node that comes
//! in is asked about **there**: each dial has a random number, which its hello shows, and an
//! [`Inquiry`] at the known address asks which of these numbers are dials of whoever answers.
//!
//! The inquiry says who asks, and a node owns up only to a dial that may have been meant for that
//! one. Otherwise somebody who took a dead member's address could pass a dial to it on to another
//! member, and stand between the two from then on.
//!
//! Until then the connection is a **claim**: it is not read any further and not answered, it takes
//! no link's place, and no boot that it names is believed. A flood of claims costs an inquiry now
//! and then, all of them in one.

use super::judge::refusal;
use super::{Effect, Handshaken, Peers, member_of};
use crate::net::ConnectionId;
use crate::server::dialler::min_pause;
use crate::time::{Duration, Instant};
use crate::types::NodeId;
use crate::wire::hello::{Confirmation, DialNumber, Inquiry, PeerHello, Refusal, RefusalReason};

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// A timer runs until the next inquiry.
    Waiting,
    /// About these.
    Asking(Vec<DialNumber>),
}

/// The inquiries at one entry: one at a time, and a few in each heartbeat at most. More patience with
/// strangers would delay the node that they give themselves out for.
#[derive(Debug, Default)]
pub struct Inquirer {
    state: State,
    not_before: Instant,
}

impl Inquirer {
    /// An inquiry is wanted: begins it, or says how long it must wait. Nothing if one is on its way.
    fn begin(&mut self, now: Instant, heartbeat: Duration) -> Option<Duration> {
        if !matches!(self.state, State::Idle) {
            return None;
        }
        if now < self.not_before {
            self.state = State::Waiting;
            return Some(self.not_before.since(now));
        }
        self.not_before = now + min_pause(heartbeat);
        self.state = State::Asking(Vec::new());
        Some(Duration::ZERO)
    }
}

impl Peers {
    /// What to ask at an entry, now that it can be asked.
    pub fn inquiry(&mut self, entry: usize) -> Inquiry {
        let dials = self.claimed_at(entry);
        self.diallers[entry].inquirer.state = State::Asking(dials.clone());
        Inquiry { node: self.identity.node, advertise: self.identity.advertise.clone(), dials }
    }

    /// What this node answers to anybody who asks about its dials.
    #[must_use]
    pub fn confirmation(&self, inquiry: &Inquiry) -> Confirmation {
        let is_own = |number: &&DialNumber| {
            let is_it = |dialler: &super::Dialler| dialler.dial.is_some_and(|dial| dial.number == **number);
            let entry = self.diallers.iter().position(is_it);
            entry.is_some_and(|entry| self.may_lead_to(entry, inquiry.node, &inquiry.advertise))
        };
        Confirmation {
            node: self.identity.node,
            incarnation: self.identity.incarnation,
            boot: self.identity.boot,
            dials: inquiry.dials.iter().filter(is_own).copied().collect(),
        }
    }

    /// Whether a connection waits until it is confirmed.
    #[must_use]
    pub fn is_claim(&self, connection: ConnectionId) -> bool {
        self.claims.contains_key(&connection)
    }

    /// The pause before the next inquiry at an entry is over.
    pub fn on_inquiry_timer(&mut self, now: Instant, entry: usize) {
        if matches!(self.diallers[entry].inquirer.state, State::Waiting) {
            self.on_inquiry_ended(now, entry);
        }
    }

    /// An inquiry has ended, with or without an answer.
    pub fn on_inquiry_ended(&mut self, now: Instant, entry: usize) {
        self.diallers[entry].inquirer.state = State::Idle;
        self.inquire_at(now, entry);
    }

    /// Somebody answers at an entry: claims of his that he was asked about are true, or not.
    pub fn on_confirmation(&mut self, now: Instant, entry: usize, answer: &Confirmation) {
        let state = std::mem::take(&mut self.diallers[entry].inquirer.state);
        let State::Asking(asked) = state else { return };
        let is_answered = |hello: &PeerHello| {
            (hello.node, hello.incarnation) == (answer.node, answer.incarnation)
                && asked.contains(&hello.dial)
        };
        let answered = self.claims.iter().filter(|(_, hello)| is_answered(hello));
        let answered: Vec<ConnectionId> = answered.map(|(connection, _)| *connection).collect();
        for connection in answered {
            let hello = self.claims.remove(&connection).expect("listed");
            let result = if hello.boot == answer.boot && answer.dials.contains(&hello.dial) {
                self.effects.push(Effect::Admit(connection));
                self.on_confirmed(now, connection, hello)
            } else {
                self.on_denied(entry, &hello)
            };
            match result {
                Ok(()) => {}
                Err(Some(refusal)) => self.effects.push(Effect::Refuse(connection, refusal)),
                Err(None) => self.effects.push(Effect::Close(connection)),
            }
        }
    }

    /// A node has come in and says who it is.
    pub(super) fn claim(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        hello: PeerHello,
    ) -> Result<(), Refusal> {
        let links = self.handshaken.values().map(|handshaken| &handshaken.hello);
        let is_shown = links.chain(self.claims.values()).any(|other| other.dial == hello.dial);
        if hello.dial == DialNumber::NONE || is_shown {
            let why = "its dial has no number of its own: it must be a kvstore of the same version";
            return Err(self.not_confirmed(hello.node, why));
        }
        if !(0..self.diallers.len()).any(|entry| self.may_answer(entry, hello.node)) {
            let (id, own) = (hello.node, self.identity.node);
            let why = format!(
                "--peers of node {own} has no address for it: add {id}=HOST:PORT there, and start node {own} again"
            );
            return Err(self.not_confirmed(id, &why));
        }
        self.claims.insert(connection, hello);
        (0..self.diallers.len()).for_each(|entry| self.inquire_at(now, entry));
        Ok(())
    }

    /// A dial that has ended is not owned up to any more.
    pub(super) fn end_dial(&mut self, connection: ConnectionId) {
        for dialler in &mut self.diallers {
            dialler.dial = dialler.dial.filter(|dial| dial.connection != connection);
        }
    }

    fn on_confirmed(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        hello: PeerHello,
    ) -> Result<(), Option<Refusal>> {
        // What is known of it may have changed since it came.
        self.judge(None, &hello).map_err(Some)?;
        self.effects.push(Effect::Hello(connection));
        self.learn_again(&hello);
        self.admit(connection, Handshaken { hello, entry: None, since: now, told: false });
        Ok(())
    }

    /// The node itself does not know of the dial. If it has ended it because there is another link,
    /// that is nothing to talk about.
    fn on_denied(&self, entry: usize, hello: &PeerHello) -> Result<(), Option<Refusal>> {
        let link = self.links.get(&hello.node).map(|link| &self.handshaken[link].hello);
        if link.is_some_and(|link| (member_of(link), link.boot) == (member_of(hello), hello.boot)) {
            return Err(None);
        }
        let (id, own, at) = (hello.node, self.identity.node, self.address(entry));
        let why = format!(
            "node {id} at {at} does not own up to this connection: correct the address of node {id} in --peers of \
             node {own}, or that of node {own}, {}, in --peers of node {id}, and start that node again",
            self.identity.advertise
        );
        Err(Some(self.not_confirmed(id, &why)))
    }

    /// Nobody has confirmed this claim in the time that there is for it.
    #[must_use]
    pub fn refusal_of_overdue(&self, claim: ConnectionId) -> Option<Refusal> {
        let (id, own) = (self.claims.get(&claim)?.node, self.identity.node);
        let mut asked = (0..self.diallers.len()).filter(|entry| self.may_answer(*entry, id));
        let first = asked.next().map_or("any address", |entry| self.address(entry));
        let others = match asked.count() {
            0 => String::new(),
            others => format!(" or {others} more"),
        };
        let why = format!(
            "nobody answers as node {id} at {first}{others} in --peers of node {own}: node {id} must be reachable \
             from there, too; if the address is wrong, correct it and start node {own} again"
        );
        Some(self.not_confirmed(id, &why))
    }

    /// Both ends log this: it names the nodes, and nothing that strangers may have made up.
    fn not_confirmed(&self, claimed: NodeId, why: &str) -> Refusal {
        let own = self.identity.node;
        let message = format!("node {own} cannot confirm that it is node {claimed} that has come in: {why}");
        refusal(RefusalReason::NotConfirmed, message)
    }

    fn inquire_at(&mut self, now: Instant, entry: usize) {
        if self.claimed_at(entry).is_empty() {
            return;
        }
        match self.diallers[entry].inquirer.begin(now, self.heartbeat) {
            Some(Duration::ZERO) => self.effects.push(Effect::Inquire(entry)),
            Some(pause) => self.effects.push(Effect::InquireAfter(entry, pause)),
            None => {}
        }
    }

    /// The dials that an entry may know of.
    fn claimed_at(&self, entry: usize) -> Vec<DialNumber> {
        let claims = self.claims.values().filter(|hello| self.may_answer(entry, hello.node));
        claims.map(|hello| hello.dial).take(Inquiry::MAX_DIALS).collect()
    }

    /// Whether a dial of this entry may lead to a node that others reach at `advertise`: not if `--peers`
    /// gives the entry to another one or has that address elsewhere, and not if another member was
    /// found at the entry since this node started.
    pub(super) fn may_lead_to(&self, entry: usize, node: NodeId, advertise: &str) -> bool {
        let dialler = &self.diallers[entry];
        let members = self.configuration.as_ref();
        let found = dialler.node.filter(|found| members.is_some_and(|all| all.member(*found).is_some()));
        let is_elsewhere = dialler.entry.address != advertise
            && self.diallers.iter().any(|other| other.entry.address == advertise);
        dialler.entry.node.or(found).is_none_or(|known| known == node) && !is_elsewhere
    }

    /// Whether a node is to be asked at an entry: where it is known to be or, as long as that is not
    /// known, wherever it may be.
    fn may_answer(&self, entry: usize, node: NodeId) -> bool {
        let is_at = |dialler: &super::Dialler| dialler.entry.node.or(dialler.node) == Some(node);
        let dialler = &self.diallers[entry];
        let is_another = dialler.node.is_some_and(|other| self.links.contains_key(&other));
        let may_be_at = dialler.entry.node.is_none() && !dialler.is_own() && !is_another;
        is_at(dialler) || may_be_at && !self.diallers.iter().any(is_at)
    }
}
