//! The stretches of a soak, and what is done to the cluster in each.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvstore::client::Client;
use rustix::process::Signal;

use super::super::cluster::{Cluster, place_of};
use super::super::footprint::Footprint;
use super::super::proxy::{Mesh, Weather};
use super::load::{Requests, Shared, VALUE, pace};
use super::{NODES, guests};

const PROGRESS_PERIOD: Duration = Duration::from_secs(10);
/// The pace of the light client.
const LIGHT_PERIOD: Duration = Duration::from_millis(10);
const RESET_PERIOD: Duration = Duration::from_millis(50);
const STOP: Duration = Duration::from_secs(1);
/// So long before the end of a stretch the nodes are looked at: guests are still there.
const LAST_LOOK: Duration = Duration::from_millis(200);

/// One part of the soak. All of them are under the same load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stretch {
    /// Nothing else happens.
    Calm,
    /// A link of the leader is reset again and again.
    Resets,
    /// A follower is stopped for a second, and goes on.
    Stop,
    /// Nothing again, as long as the guests will be there: what they are compared with.
    Before,
    /// Hostile guests are there.
    Guests,
    /// They are gone.
    After,
}

impl Stretch {
    /// In their order, with the tenths of the soak that they take.
    pub(super) const ALL: [(Self, u32); 6] = [
        (Self::Calm, 3),
        (Self::Resets, 1),
        (Self::Stop, 1),
        (Self::Before, 2),
        (Self::Guests, 2),
        (Self::After, 1),
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Resets => "a link reset every 50 ms",
            Self::Stop => "a follower stopped for 1 s",
            Self::Before => "calm again",
            Self::Guests => "hostile guests",
            Self::After => "guests gone",
        }
    }
}

/// What was seen of a stretch.
pub(super) struct Seen {
    pub(super) stretch: Stretch,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    /// Requests of the loaders that were answered.
    pub(super) done: u64,
    /// Those of the light client.
    pub(super) light: Requests,
    /// When each of those began that was answered.
    pub(super) light_began: Vec<Instant>,
    /// Of each node, shortly before the end.
    pub(super) nodes: Vec<Footprint>,
    /// How often it happened what makes the stretch.
    pub(super) happened: u64,
}

/// What stretches are played with.
pub(super) struct Stage<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) mesh: &'a Mesh,
    pub(super) shared: &'a Shared,
    pub(super) light: Client,
}

impl Stage<'_> {
    /// Plays one, for so long.
    pub(super) fn play(&mut self, stretch: Stretch, length: Duration) -> Result<Seen> {
        println!("{}: {:.0} s", stretch.as_str(), length.as_secs_f64());
        let (began, before) = (Instant::now(), self.shared.done.load(Ordering::Relaxed));
        let end = began + length;
        let endpoints: Vec<String> = (0..NODES).map(|node| self.cluster.endpoint(node)).collect();
        let host = self.cluster.client()?;
        let Self { cluster, mesh, shared, light } = self;
        let mut light_began = Vec::new();
        let (light, happened, nodes) = thread::scope(|scope| {
            let put = || {
                let now = Instant::now();
                light.put("light", VALUE).inspect(|_| light_began.push(now))
            };
            let light =
                scope.spawn(move || pace(stretch.as_str(), LIGHT_PERIOD, || Instant::now() < end, put));
            scope.spawn(|| show_progress(shared, end));
            let is_visited = stretch == Stretch::Guests;
            let guests = is_visited.then(|| scope.spawn(|| guests::visit(&endpoints, host, end)));
            let happened = disturb(stretch, cluster, mesh, end);
            // A stretch lasts as long as it was given; its end is looked at a moment before.
            thread::sleep(end.saturating_duration_since(Instant::now() + LAST_LOOK));
            let nodes = Footprint::of_each(cluster, NODES);
            let happened = guests.map_or(happened, |guests| guests.join().expect("guests do not panic"));
            (light.join().expect("the light client does not panic"), happened, nodes)
        });
        let (happened, nodes) = (happened?, nodes?);
        let done = self.shared.done.load(Ordering::Relaxed) - before;
        Ok(Seen { stretch, began, ended: Instant::now(), done, light, light_began, nodes, happened })
    }
}

/// Does to the cluster what makes the stretch, until its end at most; how often it happened. Guests come by
/// themselves.
fn disturb(stretch: Stretch, cluster: &Cluster, mesh: &Mesh, end: Instant) -> Result<u64> {
    let leader = leader(cluster)?;
    let follower = (leader + 1) % NODES;
    match stretch {
        Stretch::Calm | Stretch::Before | Stretch::Guests | Stretch::After => Ok(0),
        Stretch::Resets => reset_link(mesh, leader, follower, end),
        Stretch::Stop => {
            cluster.signal(follower, Signal::STOP)?;
            thread::sleep(STOP);
            cluster.signal(follower, Signal::CONT)?;
            Ok(1)
        }
    }
}

fn reset_link(mesh: &Mesh, leader: usize, follower: usize, end: Instant) -> Result<u64> {
    let before = mesh.disturbed();
    while Instant::now() < end {
        let next = Instant::now() + RESET_PERIOD;
        for resets in [true, false] {
            mesh.set(leader, follower, Weather { resets, ..Weather::default() });
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let reset = mesh.disturbed() - before;
    ensure!(reset > 0, "no connection was reset");
    Ok(reset)
}

/// Who leads, under load: nobody waits until all have applied the same.
fn leader(cluster: &Cluster) -> Result<usize> {
    let seen = (0..NODES).find_map(|node| cluster.status(node).ok()?.leader);
    place_of(seen.context("no node knows a leader")?)
}

fn show_progress(shared: &Shared, end: Instant) {
    let mut before = shared.done.load(Ordering::Relaxed);
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        let period = left.min(PROGRESS_PERIOD);
        thread::sleep(period);
        let now = shared.done.load(Ordering::Relaxed);
        let rate = (now - before) as f64 / period.as_secs_f64();
        before = now;
        println!("  {rate:>8.0} requests a second, {:>4} s left", left.saturating_sub(period).as_secs());
    }
}
