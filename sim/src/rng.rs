//! Chance: everything that is drawn in a run comes from here, and so from the run's seed.
//!
//! * The algorithm is fixed (xoshiro256++), and integers only: a seed means the same run on every machine.
//! * Each part of the world draws from a stream of its own, so that a change in one does not reshuffle the
//!   others.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng};

/// Parts in a million, the unit of every probability.
pub type Ppm = u32;

const MILLION: u64 = 1_000_000;

/// A stream of random numbers.
#[derive(Debug)]
pub struct Rng(Xoshiro256PlusPlus);

impl Rng {
    /// The stream `stream` of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        // Streams of one seed must not be streams of a neighbouring seed.
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd1b5_4a32_d192_ed03);
        Self(Xoshiro256PlusPlus::seed_from_u64(mixed))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, bound)`; zero if `bound` is.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias is below 2^-32 for every bound that is used here.
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, bound)`, for positions in slices.
    pub fn index(&mut self, bound: usize) -> usize {
        self.below(bound as u64) as usize
    }

    /// Uniform in `[min, max]`.
    pub fn between(&mut self, min: u64, max: u64) -> u64 {
        min + self.below(max.saturating_sub(min).saturating_add(1))
    }

    /// True with this probability.
    pub fn chance(&mut self, ppm: Ppm) -> bool {
        ppm > 0 && self.below(MILLION) < u64::from(ppm)
    }

    /// Between `min` and `max`, every order of magnitude as likely as another.
    pub fn log_between(&mut self, min: u64, max: u64) -> u64 {
        let doublings = (max / min.max(1)).max(1).ilog2();
        let base = min << self.below(u64::from(doublings) + 1);
        self.between(base, base.saturating_mul(2)).min(max)
    }

    /// About exponentially distributed with this mean: piecewise linear between halvings, integers only.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        const LN2_PER_1024: u128 = 710;
        let bits = self.bits();
        let halvings = u128::from(bits.trailing_ones().min(20)) << 10;
        let fraction = u128::from(bits >> 54);
        ((u128::from(mean) * LN2_PER_1024 * (halvings + fraction)) >> 20) as u64
    }

    /// One of the items, each as likely as its weight says; `None` if all are zero.
    pub fn weighted<T: Copy>(&mut self, items: &[T], weights: &[u64]) -> Option<T> {
        let mut drawn = self.below(weights.iter().sum());
        items.iter().zip(weights).find_map(|(item, weight)| match drawn.checked_sub(*weight) {
            Some(rest) => {
                drawn = rest;
                None
            }
            None => Some(*item),
        })
    }

    /// One of the items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }
}

/// Folds a number into a running digest.
pub(crate) fn fold(digest: u64, value: u64) -> u64 {
    (digest.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_their_ranges_and_near_their_means() {
        let mut rng = Rng::new(7, 1);
        let mut sum = 0;
        let mut hits = 0;
        for _ in 0..100_000 {
            assert!(rng.below(10) < 10);
            assert!((5..=6).contains(&rng.between(5, 6)));
            assert!((10..=1_000).contains(&rng.log_between(10, 1_000)));
            sum += rng.exponential(1_000);
            hits += u64::from(rng.chance(250_000));
        }
        assert!((90_000_000..112_000_000).contains(&sum), "mean of 1000 drawn as {}", sum / 100_000);
        assert!((24_000..26_000).contains(&hits), "a quarter drawn as {hits}");
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn a_seed_and_stream_name_one_sequence() {
        let first = |seed, stream| Rng::new(seed, stream).bits();
        assert_eq!(first(1, 2), first(1, 2));
        assert_ne!(first(1, 2), first(2, 1));
        // The algorithm is part of what a seed means: this value must never change.
        assert_eq!(first(0, 0), 5_987_356_902_031_041_503);
    }
}
