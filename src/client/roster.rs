//! The nodes as one client knows them: addresses, links, who seems to lead, who was silent lately.
//!
//! Addresses come from the caller first and from every [`Welcome`] after it. The order of the list
//! is the order of preference. A node that failed to answer is *demoted* for a while: it is asked
//! after the others, never left out, so that nothing is ever waited for while it is the last hope.

use crate::time::{Duration, Instant};
use crate::types::{ClusterId, NodeId, Term};
use crate::wire::client::SilentLeader;
use crate::wire::hello::{MemberAddress, Welcome};

/// How long a node that failed to answer stands behind the others, unless it is heard again.
const DEMOTION: Duration = Duration::from_secs(5);
/// How long a dial may take before others are dialled beside it.
pub(super) const DIAL_PATIENCE: Duration = Duration::from_millis(100);
/// How long a dial, its handshake included, may take at all.
pub(super) const DIAL_LIMIT: Duration = Duration::from_secs(1);

/// One dial and the connection that comes of it. Never used twice, so that what an old connection
/// has still to say cannot be taken for a new one's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Which nodes may answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Only the leader takes it; others redirect, or keep it until they know one.
    Leader,
    /// Any node, in the order of the list.
    Any,
    /// Only those that the caller gave: the question is about that very node.
    Given,
}

/// The state of the one connection to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Down,
    Dialling { link: LinkId, since: Instant },
    Up { link: LinkId },
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: String,
    /// Whether the caller gave the address; others come and go with the members.
    given: bool,
    pub(super) id: Option<NodeId>,
    pub(super) link: Link,
    demoted_until: Instant,
    /// It had its turn in this round.
    asked: bool,
    /// It lost its connection in this round already and was given a second turn for it.
    second_chance: bool,
    /// A copy of the present request waits for its answer.
    awaited: bool,
    /// Why it could not be asked last time.
    trouble: Option<String>,
}

/// The nodes that a client knows.
///
/// Invariants: no two nodes have one address; addresses are not empty; the caller's stand first and
/// stay; a link id belongs to at most one node.
#[derive(Debug)]
pub(super) struct Roster {
    nodes: Vec<Node>,
    /// The newest leader heard of and its term. Zero and none: nothing heard.
    leader: Option<NodeId>,
    leader_term: Term,
    /// The leader is known by what it did: its term may be a later one.
    term_is_least: bool,
    cluster: Option<ClusterId>,
    next_link: u64,
}

impl Roster {
    pub(super) fn new(endpoints: &[String]) -> Self {
        let mut roster = Self {
            nodes: Vec::new(),
            leader: None,
            leader_term: Term::ZERO,
            term_is_least: false,
            cluster: None,
            next_link: 1,
        };
        endpoints.iter().for_each(|address| roster.add(address, true));
        roster
    }

    /// The node to turn to next in this round; with `at_once`, only one to which something can be
    /// done now, so that a dial under way does not hold up the others.
    pub(super) fn next(&self, route: Route, now: Instant, at_once: bool) -> Option<usize> {
        let may_ask = |index: &usize| {
            let node = &self.nodes[*index];
            node.takes(route) && !node.asked && !node.awaited && !node.is_stuck(now, at_once)
        };
        (0..self.nodes.len()).filter(may_ask).min_by_key(|index| self.rank(*index, route, now))
    }

    /// Lower is better: not demoted, then the leader, then a node that can be asked without a dial.
    fn rank(&self, index: usize, route: Route, now: Instant) -> (bool, bool, bool, usize) {
        let node = &self.nodes[index];
        let to_leader = route == Route::Leader;
        let is_leader = to_leader && self.is_leader(index);
        let needs_dial = to_leader && !matches!(node.link, Link::Up { .. });
        (node.is_demoted(now), !is_leader, needs_dial, index)
    }

    /// Whether another round would find somebody to ask.
    pub(super) fn another_round_helps(&self, route: Route, now: Instant) -> bool {
        self.nodes.iter().any(|node| node.takes(route) && !node.awaited && !node.is_stuck(now, true))
    }

    /// Gives every node another turn.
    pub(super) fn begin_round(&mut self) {
        for node in &mut self.nodes {
            node.asked = false;
            node.second_chance = false;
        }
    }

    /// Forgets who was asked and awaited: for the next request.
    pub(super) fn begin_request(&mut self) {
        self.begin_round();
        self.nodes.iter_mut().for_each(|node| node.awaited = false);
    }

    pub(super) fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node at the other end of a link; `None` if the link was given up.
    pub(super) fn by_link(&self, link: LinkId) -> Option<usize> {
        self.nodes.iter().position(|node| node.link.id() == Some(link))
    }

    pub(super) fn is_leader(&self, index: usize) -> bool {
        self.leader.is_some() && self.nodes[index].id == self.leader
    }

    /// Whether the newest leader heard of could not be reached lately, under any address of it.
    pub(super) fn leader_is_demoted(&self, now: Instant) -> bool {
        let leader = |node: &&Node| self.leader.is_some() && node.id == self.leader;
        let answers = |node: &Node| matches!(node.link, Link::Up { .. }) && !node.is_demoted(now);
        self.nodes.iter().filter(leader).any(|node| node.is_demoted(now))
            && !self.nodes.iter().filter(leader).any(answers)
    }

    /// The leader to name to node `index` as silent, if there is one.
    pub(super) fn silent_leader_for(&self, index: usize, now: Instant) -> Option<SilentLeader> {
        let id = self.leader.filter(|_| self.leader_is_demoted(now) && !self.is_leader(index))?;
        Some(SilentLeader { id, term: self.leader_term })
    }

    pub(super) fn dial(&mut self, index: usize, now: Instant) -> LinkId {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        assert_eq!(self.nodes[index].link, Link::Down, "one connection to a node at a time");
        self.nodes[index].link = Link::Dialling { link, since: now };
        link
    }

    /// A handshake was completed; whether it brought news of a leader. `None` if the node belongs
    /// to another cluster than those before: the link must be closed.
    pub(super) fn on_connected(&mut self, link: LinkId, index: usize, welcome: &Welcome) -> Option<bool> {
        if self.cluster.is_some() && welcome.cluster.is_some() && self.cluster != welcome.cluster {
            return None;
        }
        self.cluster = self.cluster.or(welcome.cluster);
        let node = &mut self.nodes[index];
        node.link = Link::Up { link };
        node.id = Some(welcome.node);
        self.on_heard(index);
        self.learn(&welcome.members);
        Some(welcome.leader.is_some_and(|leader| self.on_leader(welcome.term, leader)))
    }

    /// A word of this node arrived: whatever was held against it is void.
    pub(super) fn on_heard(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.demoted_until = Instant::ZERO;
        node.trouble = None;
    }

    /// The link was lost, or never came to be. A node that broke off while it was `awaited` may be
    /// asked once more in the same round: a live node may close an idle connection.
    pub(super) fn on_lost(&mut self, index: usize, now: Instant, why: String) {
        let node = &mut self.nodes[index];
        let was_dialled = matches!(node.link, Link::Dialling { .. });
        node.link = Link::Down;
        if was_dialled {
            node.asked = true;
        } else if node.awaited {
            node.asked = node.second_chance;
            node.second_chance = true;
        }
        if was_dialled || node.awaited {
            node.demote(now, why);
        }
        node.awaited = false;
    }

    /// The node behind this link lets us wait: others first from now on.
    pub(super) fn on_silent(&mut self, link: LinkId, now: Instant) {
        self.demote(link, now, "no answer");
    }

    /// The node behind this link takes no bytes any more. It stays awaited: the loss of the link is
    /// still to come.
    pub(super) fn on_broken(&mut self, link: LinkId, now: Instant) {
        self.demote(link, now, "connection broken");
    }

    fn demote(&mut self, link: LinkId, now: Instant, why: &str) {
        if let Some(index) = self.by_link(link) {
            self.nodes[index].demote(now, why.into());
        }
    }

    /// Demotes nodes whose dial lasts long. Returns the dials that have lasted too long altogether,
    /// and whether a slow one was begun no earlier than `began`.
    pub(super) fn note_slow_dials(&mut self, now: Instant, began: Option<Instant>) -> (Vec<LinkId>, bool) {
        let (mut given_up, mut is_slow) = (Vec::new(), false);
        for node in &mut self.nodes {
            let Link::Dialling { link, since } = node.link else { continue };
            if since + DIAL_PATIENCE <= now {
                node.demote(now, "no answer".into());
                is_slow |= began.is_some_and(|began| began <= since);
            }
            if since + DIAL_LIMIT <= now {
                given_up.push(link);
            }
        }
        (given_up, is_slow)
    }

    /// When the next dial will have lasted too long for its next step.
    pub(super) fn next_dial_due(&self, now: Instant) -> Instant {
        let due = |node: &Node| match node.link {
            Link::Dialling { since, .. } if now < since + DIAL_PATIENCE => Some(since + DIAL_PATIENCE),
            Link::Dialling { since, .. } => Some(since + DIAL_LIMIT),
            Link::Down | Link::Up { .. } => None,
        };
        self.nodes.iter().filter_map(due).min().unwrap_or(Instant::MAX)
    }

    /// Whether a dial is under way that is still worth waiting for.
    pub(super) fn dial_is_young(&self, route: Route, now: Instant) -> bool {
        let is_dialling = |node: &&Node| matches!(node.link, Link::Dialling { .. });
        let mut dialling = self.nodes.iter().filter(is_dialling);
        dialling.any(|node| node.takes(route) && !node.is_stuck(now, false))
    }

    /// The connection to the leader, if there is one.
    pub(super) fn leader_link(&self) -> Option<LinkId> {
        let leader = |node: &&Node| self.leader.is_some() && node.id == self.leader;
        let up = |node: &Node| if let Link::Up { link } = node.link { Some(link) } else { None };
        self.nodes.iter().filter(leader).find_map(up)
    }

    /// The node was sent the request.
    pub(super) fn on_asked(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.asked = true;
        node.awaited = true;
    }

    /// The node's copy waits no more.
    pub(super) fn on_answered(&mut self, index: usize) {
        self.nodes[index].awaited = false;
    }

    /// Node `from` says that it does not lead in `term`, and perhaps who does; whether that is
    /// news.
    ///
    /// A hint at the node itself says nothing. A hint is followed at once only if it is newer than
    /// the one before; otherwise the node waits for its turn, so that two nodes which point at each
    /// other cannot keep us running.
    pub(super) fn on_not_leader(&mut self, from: usize, term: Term, leader: Option<MemberAddress>) -> bool {
        if self.is_leader(from) {
            self.leader = None;
        }
        let from_id = self.nodes[from].id;
        let Some(leader) = leader.filter(|leader| Some(leader.id) != from_id) else { return false };
        self.add_member(&leader);
        self.on_leader(term, leader.id)
    }

    /// Somebody says who leads in a term; whether that is news.
    fn on_leader(&mut self, term: Term, leader: NodeId) -> bool {
        if term < self.leader_term || term == self.leader_term && self.leader.is_some() {
            return false;
        }
        let was_seen_to_lead = self.term_is_least && self.leader == Some(leader);
        let is_news = term > self.leader_term && !was_seen_to_lead;
        (self.leader, self.leader_term, self.term_is_least) = (Some(leader), term, false);
        if is_news {
            // One that is silent at this very moment stays what it is, whatever others say of it.
            let is_it = |node: &&mut Node| node.id == Some(leader) && !node.awaited;
            for node in self.nodes.iter_mut().filter(is_it) {
                node.asked = false;
                node.demoted_until = Instant::ZERO;
            }
        }
        is_news
    }

    /// This node leads, as an answer shows. Answers tell no term, but a term has one leader only: if
    /// none was heard of since the question was asked, in `term_before`, it leads in a later one.
    pub(super) fn on_led(&mut self, leader: NodeId, term_before: Term) {
        if self.leader == Some(leader) || self.leader_term != term_before {
            return;
        }
        if self.leader.is_some() {
            // It was a node that told the term, and nodes may tell anything: no claim ends the client.
            self.leader_term = Term(self.leader_term.0.saturating_add(1));
        }
        (self.leader, self.term_is_least) = (Some(leader), true);
    }

    /// The term of the newest leader heard of.
    pub(super) fn leader_term(&self) -> Term {
        self.leader_term
    }

    /// Takes down every link that is up; returns them, to be closed.
    pub(super) fn take_links_up(&mut self) -> Vec<LinkId> {
        let mut links = Vec::new();
        for node in &mut self.nodes {
            if let Link::Up { link } = node.link {
                node.link = Link::Down;
                node.awaited = false;
                links.push(link);
            }
        }
        links
    }

    /// What is wrong with the nodes, in one line for people.
    pub(super) fn troubles(&self) -> String {
        let trouble = |node: &Node| {
            let trouble = node.trouble.as_deref().unwrap_or("no answer");
            format!("{}: {trouble}", node.address)
        };
        self.nodes.iter().map(trouble).collect::<Vec<_>>().join(", ")
    }

    /// Takes over a list of members; those that we learned, and that are members no more or moved, go.
    /// An empty address says only that the node which gave the list does not know it.
    fn learn(&mut self, members: &[MemberAddress]) {
        members.iter().for_each(|member| self.add_member(member));
        if !members.is_empty() {
            let is_it = |member: &MemberAddress, node: &Node| match member.address.is_empty() {
                true => node.id == Some(member.id),
                false => node.address == member.address,
            };
            let is_listed = |node: &Node| members.iter().any(|member| is_it(member, node));
            self.nodes.retain(|node| node.given || node.link != Link::Down || is_listed(node));
        }
    }

    fn add_member(&mut self, member: &MemberAddress) {
        self.add(&member.address, false);
        let node = self.nodes.iter_mut().find(|node| node.address == member.address);
        if let Some(node) = node.filter(|node| !matches!(node.link, Link::Up { .. })) {
            node.id = Some(member.id);
        }
    }

    fn add(&mut self, address: &str, given: bool) {
        let is_known = self.nodes.iter().any(|node| node.address == address);
        if !address.is_empty() && !is_known {
            self.nodes.push(Node {
                address: address.to_owned(),
                given,
                id: None,
                link: Link::Down,
                demoted_until: Instant::ZERO,
                asked: false,
                second_chance: false,
                awaited: false,
                trouble: None,
            });
        }
    }
}

impl Node {
    /// Whether a dial is under way which has lasted too long to be waited for, or, `at_once`,
    /// which has lasted at all.
    fn is_stuck(&self, now: Instant, at_once: bool) -> bool {
        match self.link {
            Link::Dialling { since, .. } => at_once || since + DIAL_PATIENCE <= now,
            Link::Down | Link::Up { .. } => false,
        }
    }

    pub(super) fn is_demoted(&self, now: Instant) -> bool {
        now < self.demoted_until
    }

    fn demote(&mut self, now: Instant, why: String) {
        self.demoted_until = now + DEMOTION;
        self.trouble = Some(why);
    }

    fn takes(&self, route: Route) -> bool {
        self.given || route != Route::Given
    }
}

impl Link {
    pub(super) fn id(self) -> Option<LinkId> {
        match self {
            Link::Down => None,
            Link::Dialling { link, .. } | Link::Up { link } => Some(link),
        }
    }
}
