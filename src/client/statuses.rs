//! Every node's own view, asked of all of them at once.

use std::thread;

use super::{Client, Error, Options, Reply, reply};
use crate::time::{Duration, Instant};
use crate::wire::client::{NodeStatus, RequestBody, ResponseBody};
use crate::wire::hello::MemberAddress;

/// How long [`Client::cluster_status`] waits for one member.
const STATUS_LIMIT: Duration = Duration::from_secs(1);

impl Client {
    /// The view of the first endpoint that answers.
    pub fn status(&mut self) -> Result<Reply<NodeStatus>, Error> {
        let answer = self.call(RequestBody::Status)?;
        Ok(reply(answer, |body| match body {
            ResponseBody::Status(status) => Some(*status),
            _ => None,
        }))
    }

    /// Every member and its own view; `None` of one that does not answer within half the timeout,
    /// or a second. All are asked at the same time; then those whose address only the others knew.
    pub fn cluster_status(&mut self) -> Result<Vec<(MemberAddress, Option<NodeStatus>)>, Error> {
        let deadline = self.clock.now() + self.timeout;
        let first = self.status()?.value;
        let mut members = first.members.clone();
        if members.iter().all(|member| member.id != first.id) {
            // Before the founding a node has no members to tell of, but it is there.
            members.extend(self.session.members().into_iter().filter(|member| member.id == first.id));
        }
        // A node does not know where a member is that it has not met since it started. Another may.
        let (known, mut unknown): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| !member.address.is_empty());
        let mut views = self.ask_for_statuses(known, &first, deadline);
        for member in &mut unknown {
            let told = views.iter().flat_map(|(_, status)| status).flat_map(|status| &status.members);
            let mut told = told.filter(|told| told.id == member.id && !told.address.is_empty());
            member.address = told.next().map(|told| told.address.clone()).unwrap_or_default();
        }
        views.extend(self.ask_for_statuses(unknown, &first, deadline));
        views.sort_by_key(|(member, _)| member.id);
        Ok(views)
    }

    fn ask_for_statuses(
        &self,
        members: Vec<MemberAddress>,
        first: &NodeStatus,
        deadline: Instant,
    ) -> Vec<(MemberAddress, Option<NodeStatus>)> {
        let timeout = (self.timeout / 2).min(STATUS_LIMIT).min(deadline.since(self.clock.now()));
        let ask = |member: &MemberAddress| match member.id == first.id {
            true => Some(first.clone()),
            false => status_of(member, timeout),
        };
        let statuses = thread::scope(|scope| {
            let asked: Vec<_> = members.iter().map(|member| scope.spawn(|| ask(member))).collect();
            asked.into_iter().map(|thread| thread.join().expect("asking does not panic")).collect::<Vec<_>>()
        });
        members.into_iter().zip(statuses).collect()
    }
}

/// The view of one member; `None` if it does not answer in time.
fn status_of(member: &MemberAddress, timeout: Duration) -> Option<NodeStatus> {
    let options = Options::new([member.address.clone()]).with_timeout(timeout);
    Client::connect(options).and_then(|mut client| client.status()).ok().map(|reply| reply.value)
}
