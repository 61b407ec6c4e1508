//! The quest: eight things that a replicated store must be seen to do.

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use kvstore::client::{Client, Identity};
use kvstore::types::{ClientId, ClientName, Sequence};
use kvstore::wire::client::Operation;
use rustix::process::Signal;

use super::bystander::Bystander;
use super::cluster::{Cluster, list_of_others, place_of};

/// Within so long a follower must have become a candidate and won.
const ELECTION_LIMIT: Duration = Duration::from_millis(500);
/// A shorter pause of the machine moves no leadership and keeps no answer waiting for long.
const PAUSE: Duration = Duration::from_millis(75);

/// What the quest found out.
pub(super) struct Quest {
    cluster: Cluster,
    bystander: Bystander,
    failovers: Vec<Failover>,
}

/// One fail-over, as measured from outside.
struct Failover {
    what: &'static str,
    struck: Instant,
    elected: Duration,
    first_write: Duration,
}

/// Plays the quest.
///
/// # Errors
/// The first requirement that was not seen to hold, and why.
pub(super) fn play() -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let cluster = Cluster::new(program, 3, list_of_others)?;
    println!("three nodes, data in {}\n", cluster.directory().display());
    let mut quest = Quest { cluster, bystander: Bystander::start()?, failovers: Vec::new() };
    let first = quest.found()?;
    quest.write_three(first)?;
    let leader = quest.kill_the_leader(first)?;
    quest.read_all_from_the_follower(3 - first - leader)?;
    quest.write_twice()?;
    quest.bring_back(first, leader)?;
    quest.stop_and_continue()?;
    quest.terminate_the_leader()?;
    quest.report();
    Ok(())
}

fn seen(requirement: u32, what: &str, how: impl Display) {
    println!("  [{requirement}] {what:<62} seen: {how}");
}

impl Quest {
    fn found(&mut self) -> Result<usize> {
        let start = Instant::now();
        for node in 0..3 {
            self.cluster.start(node)?;
            println!("      node {} listens on port {}", node + 1, self.cluster.port(node));
        }
        let leader = self.cluster.wait_until_whole()?;
        let took = start.elapsed().as_millis();
        // That line is read by now, then, and not taken for one of the first fail-over.
        self.cluster.wait_for_line(leader, start, |line| line.contains("elected leader"))?;
        if leader != 0 {
            let instead = format!("the lowest id founds, so node 1 leads first, not node {}", leader + 1);
            self.blame_the_machine(start, &instead)?;
        }
        seen(
            1,
            "one leader, two followers, connected and replicating",
            format_args!("node {} leads, after {took} ms", leader + 1),
        );
        Ok(leader)
    }

    /// What should not be is no fault of ours if the machine stood still since then: nodes and clients that
    /// do not run seem silent to each other. That is told.
    fn blame_the_machine(&mut self, since: Instant, what: &str) -> Result<()> {
        let pause = self.pause_between(since, Instant::now());
        ensure!(!pause.is_zero(), "{what}");
        println!("      the machine stood still for {:.1} ms: {what}", millis(pause));
        Ok(())
    }

    /// How long the machine stood still at a time, if that was for long.
    fn pause_between(&mut self, since: Instant, until: Instant) -> Duration {
        Some(self.bystander.longest(since, until)).filter(|gap| *gap > PAUSE).unwrap_or_default()
    }

    fn write_three(&mut self, leader: usize) -> Result<()> {
        let mut client = self.cluster.client_of(leader)?;
        for number in 1..=3 {
            client.put(format!("key{number}"), format!("value{number}"))?;
        }
        seen(2, "three pairs written through the leader", "key1, key2, key3 acknowledged");
        Ok(())
    }

    fn kill_the_leader(&mut self, leader: usize) -> Result<usize> {
        let next = self.fail_over(leader, Signal::KILL, "SIGKILL")?;
        self.cluster.wait_for_exit(leader)?;
        seen(3, "the leader is killed", format_args!("SIGKILL to node {}", leader + 1));
        let Failover { struck, elected, .. } = *self.failovers.last().context("a fail-over was measured")?;
        if elected > ELECTION_LIMIT {
            let pause = self.pause_between(struck, struck + elected);
            let late = format!("the election took {elected:?}, at most {ELECTION_LIMIT:?} is allowed");
            ensure!(elected <= ELECTION_LIMIT + pause, "{late}; the machine stood still for {pause:?}");
            self.blame_the_machine(struck, &late)?;
        }
        let what = "within 500 ms a follower becomes a candidate and wins";
        seen(4, what, format_args!("node {} elected after {:.1} ms", next + 1, millis(elected)));
        let mut client = self.cluster.client_of(next)?;
        for number in 4..=5 {
            client.put(format!("key{number}"), format!("value{number}"))?;
        }
        seen(5, "the new leader takes two more writes", "key4, key5 acknowledged");
        Ok(next)
    }

    /// Strikes the leader while a client is connected, and measures until its next write is
    /// acknowledged. Gives the new leader.
    fn fail_over(&mut self, leader: usize, signal: Signal, what: &'static str) -> Result<usize> {
        let mut client = self.cluster.client()?;
        client.put("connected", what)?;
        let struck = Instant::now();
        self.cluster.signal(leader, signal)?;
        client.put("failed over", what)?;
        let first_write = struck.elapsed();
        let line = self.cluster.wait_for(struck, |line| line.text.contains("elected leader"))?;
        let next = line.node;
        ensure!(next != leader, "node {} was elected again", leader + 1);
        let elected = line.at.duration_since(struck);
        self.failovers.push(Failover { what, struck, elected, first_write });
        Ok(next)
    }

    fn read_all_from_the_follower(&mut self, follower: usize) -> Result<()> {
        self.check_all_keys(follower)?;
        let port = self.cluster.port(follower);
        seen(
            6,
            "all five keys read from the remaining follower",
            format_args!("node {} answers on its own port {port}", follower + 1),
        );
        Ok(())
    }

    fn check_all_keys(&mut self, node: usize) -> Result<()> {
        for number in 1..=5 {
            // A client asks another node if its own is silent for a quarter of a second.
            while !self.answers_itself(node, number)? {}
        }
        Ok(())
    }

    /// Reads a key, and checks its value. Whether the node that was asked gave it; if not, it was kept from it.
    fn answers_itself(&mut self, node: usize, number: u32) -> Result<bool> {
        let (asked, expected) = (Instant::now(), format!("value{number}"));
        let reply = self.cluster.client_of(node)?.get(format!("key{number}"))?;
        ensure!(reply.value.as_deref() == Some(expected.as_bytes()), "key{number} is {:?}", reply.value);
        let is_its_own = place_of(reply.node)? == node;
        if !is_its_own {
            self.blame_the_machine(asked, &format!("node {} answered instead", reply.node))?;
        }
        Ok(is_its_own)
    }

    /// The same (client id, sequence) twice, with another client's write between: if it were applied
    /// twice, the other's value would be gone.
    fn write_twice(&mut self) -> Result<()> {
        let name = ClientName::new(b"demo").context("a name of four bytes")?;
        let identity = Identity { client: ClientId::Named(name), sequence: Sequence(1) };
        let operation =
            Operation::Put { key: Bytes::from_static(b"once"), value: Bytes::from_static(b"first") };
        let mut client: Client = self.cluster.client()?;
        let first = client.write_as(identity.clone(), operation.clone())?;
        client.put("once", "second")?;
        let again = self.cluster.client()?.write_as(identity, operation)?;
        ensure!(!first.cached && again.cached, "cached: first {}, again {}", first.cached, again.cached);
        ensure!(first.revision == again.revision, "revisions {} and {}", first.revision, again.revision);
        ensure!(client.get("once")?.value.as_deref() == Some(b"second"), "the duplicate was applied again");
        seen(
            7,
            "a duplicate write gets the cached result, applied once",
            format_args!("revision {} both times", first.revision),
        );
        Ok(())
    }

    fn bring_back(&mut self, old: usize, leader: usize) -> Result<()> {
        let since = Instant::now();
        self.cluster.start(old)?;
        self.cluster.wait_for_line(old, since, |line| line.contains("stepping down"))?;
        let now = self.cluster.wait_until_whole()?;
        if now != leader {
            let moved = format!("node {} led, node {} leads after the restart", leader + 1, now + 1);
            self.blame_the_machine(since, &moved)?;
        }
        self.check_all_keys(old)?;
        seen(
            8,
            "the old leader returns and steps down to follower",
            format_args!("node {} restarted, has all keys", old + 1),
        );
        Ok(())
    }

    fn stop_and_continue(&mut self) -> Result<()> {
        let leader = self.cluster.wait_until_whole()?;
        self.fail_over(leader, Signal::STOP, "SIGSTOP")?;
        let since = Instant::now();
        self.cluster.signal(leader, Signal::CONT)?;
        self.cluster.wait_for_line(leader, since, |line| line.contains("stepping down"))?;
        let now = self.cluster.wait_until_whole()?;
        ensure!(now != leader, "the stopped leader leads again");
        self.check_all_keys(leader)?;
        seen(
            8,
            "so does one that was stopped and continued",
            format_args!("node {} after SIGSTOP and SIGCONT", leader + 1),
        );
        Ok(())
    }

    fn terminate_the_leader(&mut self) -> Result<()> {
        let leader = self.cluster.wait_until_whole()?;
        let next = self.fail_over(leader, Signal::TERM, "SIGTERM")?;
        let status = self.cluster.wait_for_exit(leader)?;
        ensure!(status.success(), "node {} left with {status}", leader + 1);
        self.check_all_keys(next)?;
        seen(
            3,
            "a leader that is told to leave hands over first",
            format_args!("node {} exit 0, node {} leads", leader + 1, next + 1),
        );
        Ok(())
    }

    fn report(&self) {
        println!("\n  {:<10} {:>14} {:>28}", "fail-over", "elected", "first acknowledged write");
        for Failover { what, elected, first_write, .. } in &self.failovers {
            println!("  {what:<10} {:>11.1} ms {:>25.1} ms", millis(*elected), millis(*first_write));
        }
        println!("\nall eight requirements were seen to hold");
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
