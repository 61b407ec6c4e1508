//! Where the list has members that this node has not met since it started.

use std::collections::BTreeSet;

use super::{Effect, Peers};
use crate::types::NodeId;

impl Peers {
    /// Tells where members are that were not met: at the entry that names them or, if only one is left, at
    /// the only entry at which nobody was met. Nothing is tried there that would not be tried anyway;
    /// people look for it in the status of a member that is down.
    pub(super) fn place_unmet(&mut self) {
        let last = self.only_one_missing();
        let Some(configuration) = &self.configuration else { return };
        for (index, dialler) in self.diallers.iter_mut().enumerate() {
            let named = dialler.entry.node.filter(|node| configuration.member(*node).is_some());
            let here = last.filter(|(entry, _)| *entry == index).map(|(_, node)| node);
            if let Some(node) = named.or(here).filter(|node| dialler.listed != Some(*node)) {
                dialler.listed = Some(node);
                self.effects.push(Effect::Listed(node, dialler.entry.address.clone()));
            }
        }
    }

    /// The only entry of which it is not known who is there, and the only member of which it is not known
    /// where it is.
    fn only_one_missing(&self) -> Option<(usize, NodeId)> {
        let nodes: Vec<Option<NodeId>> =
            self.diallers.iter().map(|dialler| dialler.entry.node.or(dialler.node)).collect();
        let is_free = |entry: &usize| nodes[*entry].is_none() && !self.diallers[*entry].is_own();
        let mut free = (0..nodes.len()).filter(is_free);
        let found: BTreeSet<NodeId> = nodes.iter().copied().flatten().chain([self.identity.node]).collect();
        let members = self.configuration.as_ref()?.members().iter();
        let mut missing = members.map(|member| member.id).filter(|id| !found.contains(id));
        let only = free.next().zip(missing.next());
        only.filter(|_| free.next().is_none() && missing.next().is_none())
    }
}
