//! Before the founding: whom this node has met, whom it tells, and when it founds.

use std::collections::BTreeSet;

use rand::RngExt;

use super::judge::refusal;
use super::{Effect, Identity, Peers};
use crate::net::ConnectionId;
use crate::server::founding::{self, Own, Report, Verdict};
use crate::types::ClusterId;
use crate::wire::entry::{Configuration, Member};
use crate::wire::hello::{DialNumber, PeerHello, Refusal, RefusalReason};

/// What the founding has come to.
#[derive(Debug)]
pub(super) struct Meeting {
    /// Whom the last announced hello had met.
    announced: BTreeSet<Member>,
    /// This node founds.
    founding: bool,
}

impl Meeting {
    /// Nobody was met yet.
    pub(super) fn new(own: Member) -> Self {
        Self { announced: BTreeSet::from([own]), founding: false }
    }
}

impl Peers {
    /// An entry that was dialled has answered.
    pub(super) fn learn(&mut self, entry: usize, hello: &PeerHello) {
        let dialler = &mut self.diallers[entry];
        dialler.on_handshake(hello.node);
        if self.configuration.is_none() {
            let member = Member { id: hello.node, incarnation: hello.incarnation };
            let PeerHello { cluster, met, restored, .. } = hello.clone();
            dialler.report = Some(Report { member, cluster, met, restored });
        }
        self.place_unmet();
    }

    /// This node has met itself: unless the answer has the number of a dial, which no answer of a node
    /// has. Then some other service echoes, and to take it for this node would found without the true one.
    pub(super) fn on_own_hello(
        &mut self,
        connection: ConnectionId,
        entry: Option<usize>,
        dial: DialNumber,
    ) -> Result<(), Refusal> {
        match entry {
            Some(entry) if dial != DialNumber::NONE => {
                let address = self.address(entry);
                let message = format!("{address} only sends back what it is sent: correct --peers");
                return Err(refusal(RefusalReason::Contradiction, message));
            }
            Some(entry) => {
                self.end_dial(connection);
                self.diallers[entry].on_own();
                self.place_unmet();
                self.effects.push(Effect::Close(connection));
                self.judge_founding();
            }
            // The dialling end, which is this node too, needs the answer to find that out. Or it is somebody
            // who says the same as this node, over and over if he is let.
            None => self.effects.extend([Effect::Hello(connection), Effect::Close(connection)]),
        }
        Ok(())
    }

    /// A node that answered a dial before says something newer, on whatever connection. A later boot
    /// of it may have met fewer than its report says.
    pub(super) fn learn_again(&mut self, hello: &PeerHello) {
        let member = Member { id: hello.node, incarnation: hello.incarnation };
        let reports = self.diallers.iter_mut().filter_map(|dialler| dialler.report.as_mut());
        for report in reports.filter(|report| report.member == member) {
            report.cluster = hello.cluster;
            report.met.clone_from(&hello.met);
            report.restored = hello.restored;
        }
    }

    pub(super) fn met(&self) -> BTreeSet<Member> {
        founding::met(self.identity.member(), &self.entries())
    }

    fn entries(&self) -> Vec<founding::Entry<'_>> {
        let others = self.diallers.iter().filter(|dialler| !dialler.is_own());
        others
            .map(|dialler| founding::Entry {
                address: &dialler.entry.address,
                report: dialler.report.as_ref(),
                is_refusal: dialler.is_refusal,
            })
            .collect()
    }

    pub(super) fn verdict(&self) -> Verdict {
        let Identity { advertise, restored, .. } = &self.identity;
        let own = Own { member: self.identity.member(), address: advertise, restored: *restored };
        founding::judge(own, &self.entries())
    }

    /// Tells everybody whom this node has met, if that has changed.
    pub(super) fn announce(&mut self) {
        let met = self.met();
        if self.configuration.is_none() && met != self.meeting.announced {
            self.meeting.announced = met;
            self.effects.extend(self.handshaken.keys().copied().map(Effect::Hello));
        }
    }

    pub(super) fn judge_founding(&mut self) {
        if self.configuration.is_some() || self.meeting.founding {
            return;
        }
        if let Verdict::Found(members) = self.verdict() {
            let cluster = ClusterId(self.random.random());
            let configuration =
                Configuration::new(cluster, members).expect("a list is bounded, its ids differ");
            self.meeting.founding = true;
            self.effects.push(Effect::Found(configuration));
        }
    }

    pub(super) fn tell_founded(&mut self) {
        let Some(configuration) = &self.configuration else { return };
        for (node, connection) in &self.links {
            let link = self.handshaken.get_mut(connection).expect("links are handshaken");
            if link.hello.cluster.is_none() && !link.told {
                link.told = true;
                self.effects.push(Effect::TellFounded(*connection, *node, configuration.clone()));
            }
        }
    }
}
