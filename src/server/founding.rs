//! How a cluster begins: who may found it, and what is missing until then.
//!
//! Every node dials every entry of its list and learns who answers: id, incarnation, cluster, and
//! whom that node has met. Only the node with the **lowest id** founds, and only when it has met
//! **every** entry, **all ids differ**, **none is in a cluster**, and **all report the same set**.
//! So no two nodes can found two clusters out of one set of directories: whoever founds has been
//! told by all others that they know the same set, and in that set one id is the lowest.
//!
//! If one of the nodes was **restored** from a backup, it founds instead, whatever its id: the others
//! have nothing, and take all of it from the founder before they vote or acknowledge anything. It
//! is part of what each node tells of itself, so the lowest id knows it from its own link. Two
//! restored nodes never found: one of the two states would be lost.

use std::collections::BTreeSet;
use std::fmt;

use crate::types::{ClusterId, NodeId, Revision};
use crate::wire::entry::Member;

/// What one entry of the list has told, on a link that stands now and was dialled by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who answered.
    pub member: Member,
    /// Its cluster, if it is in one.
    pub cluster: Option<ClusterId>,
    /// Whom it has met, itself included.
    pub met: Vec<Member>,
    /// The revision of the backup from which it was restored, if it was.
    pub restored: Option<Revision>,
}

/// What a node knows of itself.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Who it is.
    pub member: Member,
    /// Where others reach it.
    pub address: &'a str,
    /// The revision of the backup from which it was restored, if it was.
    pub restored: Option<Revision>,
}

/// One entry of the list, as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Where.
    pub address: &'a str,
    /// What it told; none while there is no link to it.
    pub report: Option<&'a Report>,
    /// It answers, but one side refuses the other.
    pub is_refusal: bool,
}

impl Entry<'_> {
    fn name(&self) -> String {
        let refusal = if self.is_refusal { " (refused, see the warnings)" } else { "" };
        format!("{}{refusal}", self.address)
    }
}

/// What follows from all that was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This node founds a cluster of these members.
    Found(Vec<Member>),
    /// Not this node, or not yet.
    Wait(Waiting),
}

/// Why a node does not found. Its text is what the log says once a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Entries that did not answer yet.
    Missing(Vec<String>),
    /// Two entries, or an entry and this node, have one id.
    SameId(NodeId, Vec<String>),
    /// An entry is in a cluster already: that cluster's members may tell us that we belong to it.
    InCluster(NodeId, String, ClusterId),
    /// An entry has met others than we have: it has not met all yet, or its list differs.
    OtherSet(NodeId, String, Vec<NodeId>),
    /// Several nodes were restored from a backup, at these revisions.
    Restored(Vec<(NodeId, Revision)>),
    /// All is well; the node with the lowest id founds, or the one that was restored.
    Founder(NodeId),
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Waiting::Missing(addresses) => {
                write!(f, "no link yet to {}: start it, or correct --peers", addresses.join(", "))
            }
            Waiting::SameId(id, at) => {
                write!(f, "id {id} is used twice, at {}: give each node its own --id", at.join(" and "))
            }
            Waiting::InCluster(id, address, cluster) => write!(
                f,
                "node {id} at {address} is in cluster {cluster} already: if this node is a \
                 member it is told, or sent the data first (a lost directory cannot come back under its old id)"
            ),
            Waiting::OtherSet(id, address, met) => {
                let met: Vec<String> = met.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "node {id} at {address} has met nodes {} so far: each must list all the others",
                    met.join(", ")
                )
            }
            Waiting::Restored(nodes) => {
                let nodes = nodes.iter().map(|(id, revision)| format!("node {id} (revision {revision})"));
                write!(
                    f,
                    "{} were restored from a backup: only one of the nodes may be, empty the data \
                     directories of the others",
                    nodes.collect::<Vec<_>>().join(" and ")
                )
            }
            Waiting::Founder(id) => write!(f, "waiting for node {id} to found it"),
        }
    }
}

/// Applies the rules.
#[must_use]
pub fn judge(own: Own<'_>, entries: &[Entry<'_>]) -> Verdict {
    let Own { member, address, .. } = own;
    if let Some(waiting) = same_id(member, address, entries).or_else(|| in_cluster(entries)) {
        return Verdict::Wait(waiting);
    }
    let restored = restored(own, entries);
    if restored.len() > 1 {
        return Verdict::Wait(Waiting::Restored(restored));
    }
    let missing = entries.iter().filter(|entry| entry.report.is_none());
    let missing: Vec<String> = missing.map(|entry| entry.name()).collect();
    if !missing.is_empty() {
        return Verdict::Wait(Waiting::Missing(missing));
    }
    let met = met(member, entries);
    if let Some(waiting) = other_set(&met, entries) {
        return Verdict::Wait(waiting);
    }
    let lowest = met.iter().map(|member| member.id).min().unwrap_or(member.id);
    let founder = restored.first().map_or(lowest, |(id, _)| *id);
    if founder == member.id {
        Verdict::Found(met.into_iter().collect())
    } else {
        Verdict::Wait(Waiting::Founder(founder))
    }
}

/// Who was restored from a backup, this node included.
fn restored(own: Own<'_>, entries: &[Entry<'_>]) -> Vec<(NodeId, Revision)> {
    let others = entries.iter().filter_map(|entry| entry.report);
    let others = others.map(|report| (report.member.id, report.restored));
    let all = [(own.member.id, own.restored)].into_iter().chain(others);
    all.filter_map(|(id, restored)| Some((id, restored?))).collect()
}

/// Whom this node has met: itself, and who answered.
#[must_use]
pub fn met(own: Member, entries: &[Entry<'_>]) -> BTreeSet<Member> {
    let reports = entries.iter().filter_map(|entry| entry.report);
    reports.map(|report| report.member).chain([own]).collect()
}

fn same_id(own: Member, own_address: &str, entries: &[Entry<'_>]) -> Option<Waiting> {
    let known = entries.iter().filter_map(|entry| Some((entry.report?.member.id, entry.address)));
    let known: Vec<(NodeId, &str)> = [(own.id, own_address)].into_iter().chain(known).collect();
    known.iter().find_map(|(id, _)| {
        let at: Vec<String> =
            known.iter().filter(|(other, _)| other == id).map(|(_, address)| (*address).to_owned()).collect();
        (at.len() > 1).then_some(Waiting::SameId(*id, at))
    })
}

fn in_cluster(entries: &[Entry<'_>]) -> Option<Waiting> {
    entries.iter().find_map(|entry| {
        let report = entry.report?;
        Some(Waiting::InCluster(report.member.id, entry.address.to_owned(), report.cluster?))
    })
}

fn other_set(met: &BTreeSet<Member>, entries: &[Entry<'_>]) -> Option<Waiting> {
    entries.iter().find_map(|entry| {
        let report = entry.report?;
        let theirs: BTreeSet<Member> = report.met.iter().copied().collect();
        let ids = || theirs.iter().map(|member| member.id).collect();
        (theirs != *met).then(|| Waiting::OtherSet(report.member.id, entry.address.to_owned(), ids()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Incarnation;

    fn member(id: u64) -> Member {
        Member { id: NodeId(id), incarnation: Incarnation(id * 100) }
    }

    fn report(id: u64, met: &[u64]) -> Option<Report> {
        let met = met.iter().map(|id| member(*id)).collect();
        Some(Report { member: member(id), cluster: None, met, restored: None })
    }

    /// Node `own` with one entry a report.
    fn verdict(own: u64, reports: &[Option<Report>]) -> Verdict {
        verdict_of(own, None, reports)
    }

    /// The same, where the node itself was restored perhaps.
    fn verdict_of(own: u64, restored: Option<Revision>, reports: &[Option<Report>]) -> Verdict {
        let addresses = ["b:2", "c:3"];
        let entries: Vec<Entry<'_>> = reports
            .iter()
            .zip(addresses)
            .map(|(report, address)| Entry { address, report: report.as_ref(), is_refusal: false })
            .collect();
        judge(Own { member: member(own), address: "a:1", restored }, &entries)
    }

    fn restored(id: u64, met: &[u64]) -> Option<Report> {
        report(id, met).map(|report| Report { restored: Some(Revision(7)), ..report })
    }

    fn waiting(own: u64, reports: &[Option<Report>]) -> Waiting {
        match verdict(own, reports) {
            Verdict::Wait(waiting) => waiting,
            found => panic!("{found:?}"),
        }
    }

    #[test]
    fn node_without_peers_founds_at_once() {
        assert_eq!(verdict(1, &[]), Verdict::Found(vec![member(1)]));
    }

    #[test]
    fn lowest_id_that_met_all_and_hears_the_same_from_all_founds() {
        let all = [report(2, &[1, 2, 3]), report(3, &[3, 2, 1])];
        assert_eq!(verdict(1, &all), Verdict::Found(vec![member(1), member(2), member(3)]));
    }

    #[test]
    fn higher_id_that_hears_the_same_from_all_waits_for_the_lowest() {
        let all = [report(1, &[1, 2, 3]), report(3, &[1, 2, 3])];
        assert_eq!(waiting(2, &all), Waiting::Founder(NodeId(1)));
    }

    #[test]
    fn restored_node_founds_whatever_its_id_and_the_lowest_waits_for_it() {
        let all = [report(1, &[1, 2, 3]), report(2, &[1, 2, 3])];
        assert!(matches!(verdict_of(3, Some(Revision(7)), &all), Verdict::Found(_)));
        let all = [report(2, &[1, 2, 3]), restored(3, &[1, 2, 3])];
        assert_eq!(waiting(1, &all), Waiting::Founder(NodeId(3)));
    }

    #[test]
    fn restored_node_waits_until_it_has_met_all_like_any_other() {
        let some = [report(1, &[1, 2, 3]), None];
        assert!(matches!(verdict_of(3, Some(Revision(7)), &some), Verdict::Wait(Waiting::Missing(_))));
    }

    #[test]
    fn two_restored_nodes_never_found_and_both_are_named_by_everybody() {
        let both = [(NodeId(1), Revision(7)), (NodeId(3), Revision(7))];
        let seen_by_one = verdict_of(1, Some(Revision(7)), &[report(2, &[1, 2, 3]), restored(3, &[1, 2, 3])]);
        assert_eq!(seen_by_one, Verdict::Wait(Waiting::Restored(both.to_vec())));
        let waiting = waiting(2, &[restored(1, &[1, 2, 3]), restored(3, &[1, 2, 3])]);
        assert_eq!(waiting, Waiting::Restored(both.to_vec()));
        assert!(waiting.to_string().contains("node 1 (revision 7) and node 3"));
    }

    #[test]
    fn entry_that_was_not_met_is_named() {
        let waiting = waiting(1, &[report(2, &[1, 2]), None]);
        assert_eq!(waiting, Waiting::Missing(vec!["c:3".to_owned()]));
        assert!(waiting.to_string().contains("c:3"));
    }

    #[test]
    fn entry_that_has_not_met_all_holds_the_founding() {
        let waiting = waiting(1, &[report(2, &[1, 2, 3]), report(3, &[1, 3])]);
        assert!(matches!(waiting, Waiting::OtherSet(NodeId(3), ..)));
    }

    #[test]
    fn entry_whose_list_is_longer_holds_the_founding() {
        let waiting = waiting(1, &[report(2, &[1, 2, 3, 4]), report(3, &[1, 2, 3])]);
        assert!(matches!(waiting, Waiting::OtherSet(NodeId(2), ..)));
    }

    #[test]
    fn entry_that_met_another_incarnation_holds_the_founding() {
        let mut stale = report(2, &[1, 2, 3]).unwrap();
        stale.met[2].incarnation = Incarnation(7);
        let waiting = waiting(1, &[Some(stale), report(3, &[1, 2, 3])]);
        assert!(matches!(waiting, Waiting::OtherSet(NodeId(2), ..)));
    }

    #[test]
    fn entry_in_a_cluster_holds_the_founding_even_if_another_is_missing() {
        let mut other = report(2, &[2]).unwrap();
        other.cluster = Some(ClusterId(9));
        assert!(matches!(waiting(1, &[Some(other), None]), Waiting::InCluster(NodeId(2), ..)));
    }

    #[test]
    fn id_used_twice_is_named_with_both_addresses() {
        let other = waiting(1, &[report(2, &[]), report(2, &[])]);
        assert_eq!(other, Waiting::SameId(NodeId(2), vec!["b:2".to_owned(), "c:3".to_owned()]));
        let own = waiting(1, &[report(1, &[]), None]);
        assert_eq!(own, Waiting::SameId(NodeId(1), vec!["a:1".to_owned(), "b:2".to_owned()]));
    }
}
