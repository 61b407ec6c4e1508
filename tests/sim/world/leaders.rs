//! Leaders that live are not deposed for want of reading, and none is held for dead that lives.

use kvstore::raft::{Cause, Raft};
use kvstore::types::{NodeId, Term};
use kvstore::wire::peer::Message;

use super::World;
use crate::sim::checker::violated;
use crate::sim::node::{Engine, TurnEffects, id_of, index_of};

/// What a node thinks of its leader before a turn, and what it could read of it.
pub(super) struct Before {
    term: Term,
    leader: Option<NodeId>,
    /// In which terms that one speaks as a leader in what waits to be read.
    unread: Vec<Term>,
}

impl World {
    fn raft(&self, node: usize) -> &Raft {
        self.nodes[node].process.as_ref().expect("it runs").replica().raft()
    }

    pub(super) fn before_turn(&self, node: usize) -> Before {
        let raft = self.raft(node);
        let leader = raft.leader().filter(|leader| *leader != id_of(node));
        let engine = &self.nodes[node].process.as_ref().expect("it runs").engine;
        let link = match (engine, leader) {
            (Engine::Bytes(bytes), Some(leader)) => bytes.node.bus().link(leader),
            _ => None,
        };
        let unread = link.map(|link| self.network.pipes.unread_of_leader(node, link)).unwrap_or_default();
        Before { term: raft.term(), leader, unread }
    }

    /// Compares what a node thinks of its leader after a turn.
    pub(super) fn check_leader_of(&mut self, node: usize, before: &Before, effects: &TurnEffects) {
        let raft = self.raft(node);
        let (term, leader, cause) = (raft.term(), raft.leader(), raft.election_cause());
        if leader == Some(id_of(node)) {
            let number = self.process_number(node).expect("it runs");
            self.checker.led_by.insert(term, number);
        }
        let Some(old) = before.leader.map(index_of).filter(|_| before.term == term) else { return };
        let process = self.process_number(old);
        let lives = process.is_some() && process == self.checker.led_by.get(&term).copied();
        if lives && leader.is_none() && cause == Some(Cause::LostConnection) {
            violated!("who is held for dead is dead", "node {} forgets node {} of {term}", node + 1, old + 1);
        }
        // The leader alone is asked whether its order to campaign holds.
        let is_question =
            |(to, message): &(usize, Message)| *to != old && matches!(message, Message::PreVote(_));
        let asks = effects.sends.iter().any(|sent| is_question(&sent.what));
        if lives && asks && before.unread.contains(&term) {
            violated!("who is heard is not deposed", "node {} did not read node {}", node + 1, old + 1);
        }
    }
}
