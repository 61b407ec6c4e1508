//! Who may be linked to at all, and why not.

use super::Peers;
use crate::server::config::PeerEntry;
use crate::wire::entry::{Configuration, Forgotten, Member};
use crate::wire::hello::{PeerHello, Refusal, RefusalReason};

impl Peers {
    /// Whether a node may be linked to at all.
    pub(super) fn judge(&self, entry: Option<usize>, hello: &PeerHello) -> Result<(), Refusal> {
        let PeerHello { node, incarnation, .. } = hello;
        if *node == self.identity.node {
            let message = format!("id {node} is this node's own: give each node its own --id");
            return Err(refusal(RefusalReason::DuplicateId, message));
        }
        self.belongs(hello)?;
        self.judge_memory(hello)?;
        let member = Member { id: *node, incarnation: *incarnation };
        entry.map_or(Ok(()), |entry| self.judge_dialled(entry, member, &hello.advertise))
    }

    /// Whether a node still has all that it was seen to have.
    pub(super) fn judge_memory(&self, hello: &PeerHello) -> Result<(), Refusal> {
        let PeerHello { node, incarnation, boot, last_index, .. } = hello;
        let member = Member { id: *node, incarnation: *incarnation };
        let seen = self.reached.get(&member).copied().unwrap_or_default();
        let (reason, what) = match seen.forgotten_by(*boot, *last_index) {
            None => return Ok(()),
            Some(Forgotten::Boot(seen)) => {
                let what = format!("comes with boot {boot}, but its boot {seen} was seen already");
                (RefusalReason::OldBoot, what)
            }
            Some(Forgotten::Index(seen)) => {
                let what =
                    format!("comes with a log up to {last_index}, but had committed entries up to {seen}");
                (RefusalReason::OldCopy, what)
            }
        };
        let message = format!(
            "node {node} {what}: its directory was put back from an old copy, or another process uses a \
             copy of it; bring back the newest, or see \"Damage\" in docs/formats.md"
        );
        Err(refusal(reason, message))
    }

    fn judge_dialled(&self, entry: usize, member: Member, advertise: &str) -> Result<(), Refusal> {
        let PeerEntry { node: expected, address } = &self.diallers[entry].entry;
        if let Some(expected) = expected.filter(|expected| *expected != member.id) {
            let message = format!("--peers says {expected}={address}, but node {} answers there", member.id);
            return Err(refusal(RefusalReason::Contradiction, message));
        }
        let reports = self.diallers.iter().enumerate().filter(|(index, _)| *index != entry);
        let twin = reports.filter_map(|(_, dialler)| Some((dialler, dialler.report.as_ref()?))).find(
            |(_, report)| report.member.id == member.id && report.member.incarnation != member.incarnation,
        );
        if let Some((twin, _)) = twin {
            let message = format!(
                "id {} is used at {address} and at {}: give each node its own --id",
                member.id, twin.entry.address
            );
            return Err(refusal(RefusalReason::DuplicateId, message));
        }
        if !self.may_lead_to(entry, member.id, advertise) {
            let own = self.identity.node;
            let against = match self.diallers[entry].node.filter(|found| *found != member.id) {
                Some(found) => format!("node {found} was met there before"),
                None => format!("--peers of node {own} has the address that it tells elsewhere"),
            };
            let message = format!(
                "node {} answers at {address}, but {against}: if addresses have changed, correct --peers of \
                 node {own} and start it again",
                member.id
            );
            return Err(refusal(RefusalReason::NotConfirmed, message));
        }
        Ok(())
    }

    /// Whether a node's cluster, id and incarnation fit ours.
    pub(super) fn belongs(&self, hello: &PeerHello) -> Result<(), Refusal> {
        if let Some(refusal) = cluster_conflict(self.configuration.as_ref(), hello) {
            return Err(refusal);
        }
        let Some(configuration) = &self.configuration else { return Ok(()) };
        match configuration.member(hello.node) {
            Some(member) if member.incarnation == hello.incarnation => Ok(()),
            Some(_) => Err(refusal(
                RefusalReason::DuplicateId,
                format!(
                    "id {} belongs to another data directory: this one is new or another node's; \
                     start with the directory that the cluster knows",
                    hello.node
                ),
            )),
            None => Err(refusal(
                RefusalReason::Stranger,
                format!(
                    "node {} is not a member of cluster {}: correct its --id, or its --peers",
                    hello.node, configuration.cluster
                ),
            )),
        }
    }

    /// Whether a member is in the configuration or, before the founding, was met by a dial of ours.
    pub(super) fn is_believed(&self, member: Member) -> bool {
        match &self.configuration {
            Some(configuration) => configuration.member(member.id) == Some(&member),
            None => {
                let mut reports = self.diallers.iter().filter_map(|dialler| dialler.report.as_ref());
                reports.any(|report| report.member == member)
            }
        }
    }
}

pub(super) fn refusal(reason: RefusalReason, message: String) -> Refusal {
    Refusal { reason, message }
}

/// Nodes of two clusters never talk. A node of none may talk to both.
pub(super) fn cluster_conflict(configuration: Option<&Configuration>, hello: &PeerHello) -> Option<Refusal> {
    let (ours, theirs) = (configuration?.cluster, hello.cluster?);
    (ours != theirs).then(|| {
        let message = format!(
            "node {} is in cluster {theirs}, this one in cluster {ours}: correct --peers, or --data-dir",
            hello.node
        );
        refusal(RefusalReason::WrongCluster, message)
    })
}
