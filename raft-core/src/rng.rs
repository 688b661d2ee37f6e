//! The one source of randomness: jitter of the election timeout (§5.2), repeatable from its seed.

use core::time::Duration;

use crate::ids::NodeId;
use crate::time::nanos;

/// SplitMix64 (Steele, Lea, Flood 2014): 64 bits of state, every seed is as good as another.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Rng(u64);

impl Rng {
    /// Differs between nodes of one seed, and between starts of one node.
    pub(crate) fn new(seed: u64, node: NodeId, incarnation: u64) -> Self {
        let mut rng = Self(seed);
        for part in [node.get(), incarnation] {
            rng.0 = rng.next() ^ part;
        }
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[min, max)`; `min` if the range is empty.
    pub(crate) fn duration(&mut self, min: Duration, max: Duration) -> Duration {
        let (min, max) = (nanos(min), nanos(max));
        let span = max.saturating_sub(min).max(1);
        // The bias of a 64-bit remainder over spans of seconds is below 2^-30.
        Duration::from_nanos(min + self.next() % span)
    }
}
