//! Ways between sites: nodes first, then clients. A message takes a while, is lost, or comes twice.

use bytes::Bytes;
use kvstore::time::{Duration, Instant};
use kvstore::wire::peer::Message;

use super::pipes::Pipes;
use super::plan::Weather;
use super::rng::Rng;
use super::trimmed::trimmed;

/// The ways between all sites.
pub(crate) struct Network {
    pub(crate) weather: Weather,
    /// In byte mode, the sockets.
    pub(crate) pipes: Pipes,
    rng: Rng,
    sites: usize,
    /// How many reasons there are for which nothing gets from one site to another.
    blocked: Vec<u32>,
    last_arrival: Vec<Instant>,
    /// Until when everything takes so much longer.
    lag: Vec<(Instant, Duration)>,
}

/// When the copies of a message arrive: none, one, or two.
pub(crate) type Arrivals = [Option<Instant>; 2];

impl Network {
    pub(crate) fn new(sites: usize, weather: Weather, pipes: Pipes, rng: Rng) -> Self {
        let (blocked, last_arrival) = (vec![0; sites * sites], vec![Instant::ZERO; sites * sites]);
        let lag = vec![(Instant::ZERO, Duration::ZERO); sites * sites];
        Self { weather, pipes, rng, sites, blocked, last_arrival, lag }
    }

    fn way(&self, from: usize, to: usize) -> usize {
        from * self.sites + to
    }

    /// Whether anything gets from one site to another.
    pub(crate) fn is_open(&self, from: usize, to: usize) -> bool {
        self.blocked[self.way(from, to)] == 0
    }

    /// Whether there is a way to and fro.
    pub(crate) fn is_open_both_ways(&self, one: usize, other: usize) -> bool {
        self.is_open(one, other) && self.is_open(other, one)
    }

    /// One more reason why nothing gets through.
    pub(crate) fn block(&mut self, from: usize, to: usize) {
        let way = self.way(from, to);
        self.blocked[way] += 1;
    }

    /// One reason less.
    pub(crate) fn unblock(&mut self, from: usize, to: usize) {
        let way = self.way(from, to);
        self.blocked[way] = self.blocked[way].saturating_sub(1);
    }

    /// What leaves one site for another before `until` takes so much longer.
    pub(crate) fn delay(&mut self, (from, to): (usize, usize), until: Instant, by: Duration) {
        let way = self.way(from, to);
        self.lag[way] = (until, by);
    }

    /// Everything gets through from now on, soon and once, and waits for nothing that is late.
    pub(crate) fn heal(&mut self) {
        self.blocked.fill(0);
        self.last_arrival.fill(Instant::ZERO);
        self.lag.fill((Instant::ZERO, Duration::ZERO));
        let weather = &mut self.weather;
        weather.latency = (Duration::from_micros(50), Duration::from_micros(500));
        (weather.loss_per_million, weather.duplicate_per_million, weather.tail_per_million) = (0, 0, 0);
        (weather.in_order, weather.trimmed_per_million) = (true, 0);
    }

    /// How long something takes that cannot be lost.
    pub(crate) fn latency(&mut self) -> Duration {
        let (low, high) = self.weather.latency;
        let ordinary = self.rng.duration(low, high);
        if self.weather.tail_per_million > 0 && self.rng.chance(self.weather.tail_per_million) {
            ordinary + self.rng.duration(Duration::ZERO, self.weather.tail)
        } else {
            ordinary
        }
    }

    /// Whether something is lost.
    pub(crate) fn is_lost(&mut self) -> bool {
        self.weather.loss_per_million > 0 && self.rng.chance(self.weather.loss_per_million)
    }

    /// What is sent before this message, at times.
    pub(crate) fn trim(&mut self, message: &Message) -> Option<Bytes> {
        let is_trimmed =
            matches!(message, Message::AppendEntries(_)) && self.rng.chance(self.weather.trimmed_per_million);
        is_trimmed.then(|| trimmed(message, &mut self.rng)).flatten()
    }

    /// Sends something at `depart`.
    pub(crate) fn send(&mut self, from: usize, to: usize, depart: Instant) -> Arrivals {
        if !self.is_open(from, to) || self.rng.chance(self.weather.loss_per_million) {
            return [None, None];
        }
        let (until, lag) = self.lag[self.way(from, to)];
        let depart = if depart < until { depart + lag } else { depart };
        let mut first = depart + self.latency();
        if self.weather.in_order {
            let way = self.way(from, to);
            first = first.max(self.last_arrival[way] + Duration::from_nanos(1));
            self.last_arrival[way] = first;
        }
        let is_doubled = self.rng.chance(self.weather.duplicate_per_million);
        let second = is_doubled.then(|| depart + self.latency() * 4);
        [Some(first), second]
    }
}
