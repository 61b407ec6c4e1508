//! Which keys are chosen how often: the distributions of YCSB.
//!
//! The zipfian one draws rank `k` (from 1) in proportion to `1 / k^0.99`, by the method of Gray et
//! al., "Quickly generating billion-record synthetic databases" (SIGMOD 1994), as YCSB does: exact
//! for the first two ranks, and a close approximation for the others.

use rand::RngExt;
use rand::rngs::StdRng;

use super::arguments::DistributionName;

/// YCSB's constant.
const THETA: f64 = 0.99;

/// How keys, numbered from 0, are chosen.
#[derive(Debug)]
pub(super) enum Distribution {
    /// All alike.
    Uniform { keys: u64 },
    /// A few favourites, which lie all over the keys.
    Zipfian(Zipfian),
    /// Reads prefer what was written last. Writes take one key after the other, round and round.
    Latest { ranks: Zipfian, written: u64 },
}

impl Distribution {
    /// The one of this name over so many keys, at least one.
    pub(super) fn new(name: DistributionName, keys: u64) -> Self {
        match name {
            DistributionName::Uniform => Self::Uniform { keys },
            DistributionName::Zipfian => Self::Zipfian(Zipfian::new(keys)),
            DistributionName::Latest => Self::Latest { ranks: Zipfian::new(keys), written: 0 },
        }
    }

    /// The key of the next read.
    pub(super) fn read(&self, rng: &mut StdRng) -> u64 {
        match self {
            Self::Uniform { keys } => rng.random_range(0..*keys),
            Self::Zipfian(ranks) => fnv(ranks.draw(rng)) % ranks.items,
            Self::Latest { ranks, written } => {
                let newest = (written + ranks.items - 1) % ranks.items;
                (newest + ranks.items - ranks.draw(rng)) % ranks.items
            }
        }
    }

    /// The key of the next write.
    pub(super) fn write(&mut self, rng: &mut StdRng) -> u64 {
        match self {
            Self::Uniform { .. } | Self::Zipfian(_) => self.read(rng),
            Self::Latest { ranks, written } => {
                let key = *written;
                *written = (key + 1) % ranks.items;
                key
            }
        }
    }
}

/// Ranks from 0, the favourite, on.
#[derive(Debug)]
pub(super) struct Zipfian {
    items: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    fn new(items: u64) -> Self {
        let zeta = zeta(items);
        let first_two = 1.0 + 0.5_f64.powf(THETA);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - first_two / zeta);
        Self { items, zeta, eta }
    }

    fn draw(&self, rng: &mut StdRng) -> u64 {
        let uniform: f64 = rng.random();
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1;
        }
        let share = (self.eta * uniform - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        ((self.items as f64 * share) as u64).min(self.items - 1)
    }
}

/// The sum of `k^-0.99` for `k` from 1 to `items`: of the first terms exactly, of the others, which
/// hardly differ from one to the next, by the trapezium under their curve.
fn zeta(items: u64) -> f64 {
    const EXACT: u64 = 100_000;
    let term = |rank: u64| (rank as f64).powf(-THETA);
    let first: f64 = (1..=items.min(EXACT)).map(term).sum();
    if items <= EXACT {
        return first;
    }
    let integral = |rank: u64| (rank as f64).powf(1.0 - THETA) / (1.0 - THETA);
    first + integral(items) - integral(EXACT) + (term(items) - term(EXACT)) / 2.0
}

/// FNV-1a of a rank's bytes: where YCSB puts it among the keys.
fn fnv(rank: u64) -> u64 {
    const OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    rank.to_le_bytes().iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const DRAWS: u64 = 400_000;

    /// How often each of `keys` is drawn.
    fn counts(keys: u64, mut draw: impl FnMut(&mut StdRng) -> u64) -> Vec<f64> {
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = vec![0.0; usize::try_from(keys).unwrap()];
        for _ in 0..DRAWS {
            counts[usize::try_from(draw(&mut rng)).unwrap()] += 1.0 / DRAWS as f64;
        }
        counts
    }

    /// The share of all draws that the law gives to the `first` ranks of `items`.
    fn law(first: u64, items: u64) -> f64 {
        let sum = |upto: u64| (1..=upto).map(|rank| (rank as f64).powf(-THETA)).sum::<f64>();
        sum(first) / sum(items)
    }

    #[test]
    fn zipfian_draws_follow_the_law() {
        let items = 10_000;
        let ranks = Zipfian::new(items);
        let shares = counts(items, |rng| ranks.draw(rng));
        for (first, tolerance) in [(1, 0.003), (2, 0.003), (10, 0.02), (100, 0.02), (1_000, 0.02)] {
            let share: f64 = shares[..first].iter().sum();
            let expected = law(first as u64, items);
            assert!((share - expected).abs() < tolerance, "first {first}: {share}, by the law {expected}");
        }
        let uniform_share = 0.1;
        assert!(shares[..1_000].iter().sum::<f64>() > 5.0 * uniform_share);
    }

    #[test]
    fn zeta_of_many_items_is_their_sum() {
        for items in [1, 100_000, 100_001, 3_000_000] {
            let sum: f64 = (1..=items).map(|rank| (rank as f64).powf(-THETA)).sum();
            assert!((zeta(items) - sum).abs() < 1e-6, "{items}: {} and not {sum}", zeta(items));
        }
    }

    #[test]
    fn zipfian_favourites_lie_all_over_the_keys() {
        let keys = 1_000;
        let distribution = Distribution::new(DistributionName::Zipfian, keys);
        let shares = counts(keys, |rng| distribution.read(rng));
        let favourite = usize::try_from(fnv(0) % keys).unwrap();
        let largest = (0..shares.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b]));
        assert_eq!(largest, Some(favourite));
        let halves = [&shares[..500], &shares[500..]].map(|half| half.iter().sum::<f64>());
        assert!(halves.iter().all(|half| *half > 0.25), "{halves:?}");
    }

    #[test]
    fn uniform_draws_are_all_alike() {
        let distribution = Distribution::new(DistributionName::Uniform, 100);
        let shares = counts(100, |rng| distribution.read(rng));
        assert!(shares.iter().all(|share| (share - 0.01).abs() < 0.001), "{shares:?}");
    }

    #[test]
    fn latest_reads_prefer_what_was_written_last() {
        let keys = 1_000;
        let mut distribution = Distribution::new(DistributionName::Latest, keys);
        let mut rng = StdRng::seed_from_u64(1);
        let written: Vec<u64> = (0..1_301).map(|_| distribution.write(&mut rng)).collect();
        assert_eq!((written[0], written[999], written[1_000], written[1_300]), (0, 999, 0, 300));
        let shares = counts(keys, |rng| distribution.read(rng));
        let last_ten: f64 = shares[291..=300].iter().sum();
        assert!((last_ten - law(10, keys)).abs() < 0.02, "{last_ten}, by the law {}", law(10, keys));
        assert!(shares[300] > shares[299] && shares[299] > shares[298]);
    }

    #[test]
    fn one_key_is_always_chosen_whatever_the_distribution() {
        for name in [DistributionName::Uniform, DistributionName::Zipfian, DistributionName::Latest] {
            let mut distribution = Distribution::new(name, 1);
            let mut rng = StdRng::seed_from_u64(1);
            for _ in 0..100 {
                assert_eq!((distribution.read(&mut rng), distribution.write(&mut rng)), (0, 0));
            }
        }
    }
}
