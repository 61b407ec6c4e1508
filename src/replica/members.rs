//! Where the members are, and which boot of each was seen.

use std::collections::BTreeMap;

use crate::types::{BootNumber, NodeId};
use crate::wire::entry::Configuration;
use crate::wire::hello::MemberAddress;

/// What links told of the members. Who they are stands in the configuration alone.
#[derive(Debug)]
pub(super) struct Members {
    addresses: BTreeMap<NodeId, String>,
    boots: BTreeMap<NodeId, BootNumber>,
    /// Boots that storage has not been told of.
    new_boots: BTreeMap<NodeId, BootNumber>,
}

impl Members {
    /// `boots` as storage recovered them.
    pub(super) fn new(own: NodeId, own_address: String, boots: Vec<(NodeId, BootNumber)>) -> Self {
        let addresses = BTreeMap::from([(own, own_address)]);
        Self { addresses, boots: boots.into_iter().collect(), new_boots: BTreeMap::new() }
    }

    /// Whoever is linked was admitted: it comes with the highest boot of its directory so far. A lower
    /// one is therefore another directory, as an id may have before the founding.
    pub(super) fn on_link_up(&mut self, peer: NodeId, boot: BootNumber, address: &str) {
        self.addresses.insert(peer, address.to_owned());
        if self.boots.insert(peer, boot) != Some(boot) {
            self.new_boots.insert(peer, boot);
        }
    }

    /// Takes the boots to be stored with the next write.
    pub(super) fn take_new_boots(&mut self) -> Vec<(NodeId, BootNumber)> {
        std::mem::take(&mut self.new_boots).into_iter().collect()
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_of_a_directory_that_was_replaced_before_the_founding_is_forgotten() {
        let mut members = Members::new(NodeId(1), "a:1".to_owned(), Vec::new());
        members.on_link_up(NodeId(2), BootNumber(5), "b:2");
        members.on_link_up(NodeId(2), BootNumber(1), "b:2");
        assert_eq!(members.take_new_boots(), [(NodeId(2), BootNumber(1))]);
        members.on_link_up(NodeId(2), BootNumber(1), "b:2");
        assert_eq!(members.take_new_boots(), []);
    }
}
