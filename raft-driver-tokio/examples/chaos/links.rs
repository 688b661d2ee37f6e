//! What the network does to whom at the moment: layers of faults on directed pairs of servers.
//!
//! * Each fault lays one layer and takes it off again; layers add up, so that faults may overlap in any way.
//! * A pair is directed: what holds for 1→2 says nothing about 2→1.
//! * Nothing here carries bytes. [`proxy`](crate::proxy) and [`namespaces`](crate::namespaces) ask what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};

/// A server's number.
pub(crate) type Id = u64;
/// All clients together, as an end of a link.
pub(crate) const CLIENTS: Id = 0;

/// Who sends, and who receives.
pub(crate) type Pair = (Id, Id);

/// What happens to everything that goes from one end to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Nothing arrives. What was sent waits; if this ends before the ends give up, it arrives then.
    pub(crate) stalled: bool,
    /// Everything arrives later by this, and by up to `jitter` more.
    pub(crate) delay: Duration,
    pub(crate) jitter: Duration,
    /// No more than this a second.
    pub(crate) bytes_per_s: Option<u64>,
    /// How likely a connection breaks, in the middle of what it carries, each time something is sent on it.
    pub(crate) cut_ppm: u32,
    /// So many packets in a hundred are lost. Only where there are packets: in namespaces.
    pub(crate) loss_percent: u8,
}

impl Rule {
    /// Both at once.
    fn and(self, other: Self) -> Self {
        Self {
            stalled: self.stalled || other.stalled,
            delay: self.delay + other.delay,
            jitter: self.jitter + other.jitter,
            bytes_per_s: match (self.bytes_per_s, other.bytes_per_s) {
                (Some(one), Some(two)) => Some(one.min(two)),
                (one, two) => one.or(two),
            },
            cut_ppm: self.cut_ppm.max(other.cut_ppm),
            loss_percent: self.loss_percent.max(other.loss_percent),
        }
    }
}

/// Something done once to the connections between two ends, whoever made them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shake {
    /// Both ends see a reset.
    Reset(Id, Id),
    /// The first end sees a reset, the other hears nothing for so long: as if the first had lost its memory.
    HalfOpen(Id, Id, Duration),
}

impl Shake {
    /// Whether a connection between these two, whoever made it, is meant.
    pub(crate) fn concerns(self, (from, to): Pair) -> bool {
        let (Self::Reset(one, two) | Self::HalfOpen(one, two, _)) = self;
        (one, two) == (from, to) || (one, two) == (to, from)
    }
}

struct Layer {
    pairs: BTreeSet<Pair>,
    rule: Rule,
}

/// The layers that are on, by the number of the fault that laid them.
pub(crate) struct Links {
    layers: Mutex<BTreeMap<u64, Layer>>,
    changed: watch::Sender<u64>,
    shakes: broadcast::Sender<Shake>,
}

impl Links {
    pub(crate) fn new() -> Self {
        Self { layers: Mutex::default(), changed: watch::Sender::new(0), shakes: broadcast::Sender::new(256) }
    }

    fn layers(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Layer>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a rule on these pairs until [`Links::lift`] with the same number.
    pub(crate) fn lay(&self, fault: u64, pairs: BTreeSet<Pair>, rule: Rule) {
        self.layers().insert(fault, Layer { pairs, rule });
        self.changed.send_modify(|version| *version += 1);
    }

    pub(crate) fn lift(&self, fault: u64) {
        if self.layers().remove(&fault).is_some() {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// Everything is well.
    pub(crate) fn lift_all(&self) {
        self.layers().clear();
        self.changed.send_modify(|version| *version += 1);
    }

    /// What holds for a pair now.
    pub(crate) fn rule(&self, pair: Pair) -> Rule {
        let layers = self.layers();
        let on = layers.values().filter(|layer| layer.pairs.contains(&pair));
        on.fold(Rule::default(), |sum, layer| sum.and(layer.rule))
    }

    /// Told whenever a layer comes or goes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Resolves once this pair is not stalled.
    pub(crate) async fn passes(&self, pair: Pair) {
        let mut changed = self.changed.subscribe();
        while self.rule(pair).stalled {
            // An error: nobody can change anything any more, and nothing will ever pass.
            if changed.changed().await.is_err() {
                std::future::pending().await
            }
        }
    }

    pub(crate) fn shake(&self, shake: Shake) {
        // An error: there is no connection.
        let _ = self.shakes.send(shake);
    }

    pub(crate) fn shakes(&self) -> broadcast::Receiver<Shake> {
        self.shakes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_add_up_and_come_off_one_by_one() {
        let links = Links::new();
        let slow = Rule { delay: Duration::from_millis(5), bytes_per_s: Some(10), ..Rule::default() };
        links.lay(1, [(1, 2), (2, 1)].into(), slow);
        links.lay(2, [(1, 2)].into(), Rule { stalled: true, bytes_per_s: Some(7), ..slow });
        let both = links.rule((1, 2));
        assert_eq!((both.stalled, both.delay, both.bytes_per_s), (true, slow.delay * 2, Some(7)));
        assert_eq!(links.rule((2, 1)), slow);
        assert_eq!(links.rule((1, 3)), Rule::default());
        links.lift(1);
        assert!(links.rule((1, 2)).stalled);
        assert_eq!(links.rule((2, 1)), Rule::default());
        links.lift_all();
        assert_eq!(links.rule((1, 2)), Rule::default());
    }

    #[test]
    fn a_shake_concerns_both_directions_of_its_pair() {
        assert!(Shake::Reset(1, 2).concerns((2, 1)));
        assert!(!Shake::HalfOpen(1, 2, Duration::ZERO).concerns((1, 3)));
    }
}
