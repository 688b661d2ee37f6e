//! The simulated network: whether a message arrives, how often, and when; and who is cut off from whom.
//!
//! * It never alters a message. A share of them travels as bytes, and must come out equal.
//! * A cut has a direction; a partition is cuts in both directions. Cuts end by themselves.

use bytes::Bytes;
use raft_core::Message;
use raft_core::wire::{decode_message, encode_message};

use crate::clock::{MILLISECOND, Nanos};
use crate::rng::{Ppm, Rng};

/// How bad the network is in a run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NetworkModel {
    pub(crate) delay_min: Nanos,
    /// Mean of what is added to the least delay.
    pub(crate) delay_more: Nanos,
    pub(crate) loss: Ppm,
    pub(crate) duplication: Ppm,
    /// How often a message is held up for long, overtaken by many others.
    pub(crate) straggle: Ppm,
    pub(crate) straggle_mean: Nanos,
    /// Messages between two nodes keep their order, as over one connection.
    pub(crate) ordered: bool,
    /// A cut also loses what is under way when it begins.
    pub(crate) abrupt: bool,
    /// The share of messages that travel as bytes.
    pub(crate) encoded: Ppm,
}

/// When the copies of a message arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Never.
    Lost,
    /// Once.
    Once(Nanos),
    /// Twice.
    Twice(Nanos, Nanos),
}

/// All links between the nodes.
pub(crate) struct Network {
    model: NetworkModel,
    rng: Rng,
    nodes: usize,
    /// By `from * nodes + to`.
    cut_until: Vec<Nanos>,
    last_arrival: Vec<Nanos>,
    buffer: Vec<u8>,
}

impl Network {
    pub(crate) fn new(model: NetworkModel, nodes: usize, rng: Rng) -> Self {
        let links = nodes * nodes;
        let buffer = Vec::new();
        Self { model, rng, nodes, cut_until: vec![0; links], last_arrival: vec![0; links], buffer }
    }

    /// Whether the link from one node to another is cut at `now`.
    pub(crate) fn is_cut(&self, now: Nanos, from: usize, to: usize) -> bool {
        self.cut_until[from * self.nodes + to] > now
    }

    /// Whether a message that arrives at `now` is lost to a cut that began while it was under way.
    pub(crate) fn swallows(&self, now: Nanos, from: usize, to: usize) -> bool {
        self.model.abrupt && self.is_cut(now, from, to)
    }

    /// When a process that stands still until `until` hears a message that came meanwhile.
    pub(crate) fn after_pause(&mut self, until: Nanos) -> Nanos {
        if self.model.ordered { until } else { until + self.rng.below(MILLISECOND) }
    }

    /// Cuts one direction.
    pub(crate) fn cut(&mut self, from: usize, to: usize, until: Nanos) {
        let link = &mut self.cut_until[from * self.nodes + to];
        *link = until.max(*link);
    }

    /// Cuts `group` (a set of bits) off from the others, in both directions.
    pub(crate) fn partition(&mut self, group: u64, until: Nanos) {
        for from in 0..self.nodes {
            for to in 0..self.nodes {
                if (group >> from) & 1 != (group >> to) & 1 {
                    self.cut(from, to, until);
                }
            }
        }
    }

    /// Ends every cut, and every fault of the model from now on.
    pub(crate) fn heal(&mut self) {
        self.cut_until.fill(0);
        self.model.loss = 0;
        self.model.duplication = 0;
        self.model.straggle = 0;
    }

    /// Decides what becomes of a message sent at `now`.
    pub(crate) fn route(&mut self, now: Nanos, from: usize, to: usize) -> Fate {
        if self.is_cut(now, from, to) || self.rng.chance(self.model.loss) {
            return Fate::Lost;
        }
        let first = self.arrival(now, from, to);
        if self.rng.chance(self.model.duplication) {
            // A copy is often one that was sent again, long after the first: old answers come back late.
            let late =
                if self.rng.chance(500_000) { self.rng.exponential(self.model.straggle_mean) } else { 0 };
            return Fate::Twice(first, self.arrival(now + late, from, to));
        }
        Fate::Once(first)
    }

    fn arrival(&mut self, now: Nanos, from: usize, to: usize) -> Nanos {
        let model = self.model;
        let mut delay = model.delay_min + self.rng.exponential(model.delay_more);
        if self.rng.chance(model.straggle) {
            delay += self.rng.exponential(model.straggle_mean);
        }
        let arrival = now + delay;
        if !model.ordered {
            return arrival;
        }
        let last = &mut self.last_arrival[from * self.nodes + to];
        *last = arrival.max(*last);
        *last
    }

    /// The message as its receiver gets it: a share goes through the shipped encoding.
    ///
    /// # Errors
    /// If it does not come out as it went in.
    pub(crate) fn carry(&mut self, message: Message) -> Result<Message, String> {
        if !self.rng.chance(self.model.encoded) {
            return Ok(message);
        }
        self.buffer.clear();
        encode_message(&message, &mut self.buffer);
        match decode_message(Bytes::copy_from_slice(&self.buffer)) {
            Ok(decoded) if decoded == message => Ok(decoded),
            Ok(decoded) => Err(format!("{message:?} was encoded and decoded as {decoded:?}")),
            Err(error) => Err(format!("{message:?} was encoded and could not be decoded: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{append, id, message, puts};

    fn network(model: NetworkModel) -> Network {
        Network::new(model, 3, Rng::new(1, 1))
    }

    #[test]
    fn cuts_have_a_direction_and_end() {
        let mut network = network(NetworkModel { delay_min: 5, ..NetworkModel::default() });
        network.cut(0, 1, 100);
        network.cut(0, 1, 50);
        assert_eq!(network.route(99, 0, 1), Fate::Lost);
        assert_eq!(network.route(99, 1, 0), Fate::Once(104));
        assert_eq!(network.route(100, 0, 1), Fate::Once(105));
        network.partition(0b001, 200);
        for (from, to, cut) in [(0, 1, true), (1, 0, true), (2, 0, true), (1, 2, false)] {
            assert_eq!(network.is_cut(150, from, to), cut, "{from} to {to}");
        }
        assert!(!network.swallows(150, 0, 1));
        network.model.abrupt = true;
        assert!(network.swallows(150, 0, 1));
        network.heal();
        assert!(!network.is_cut(150, 0, 1));
    }

    #[test]
    fn messages_are_lost_doubled_and_overtaken_at_about_the_rates_of_the_model() {
        let model = NetworkModel {
            delay_min: 10,
            delay_more: 1_000,
            loss: 100_000,
            duplication: 200_000,
            ..NetworkModel::default()
        };
        let mut network = network(model);
        let (mut lost, mut doubled, mut overtaken, mut last) = (0, 0, 0, 0);
        for now in 0..10_000 {
            match network.route(now, 0, 1) {
                Fate::Lost => lost += 1,
                Fate::Once(at) => {
                    overtaken += u64::from(at < last);
                    last = at;
                }
                Fate::Twice(..) => doubled += 1,
            }
        }
        assert!((800..1_200).contains(&lost), "{lost} of 10000 lost");
        assert!((1_600..2_000).contains(&doubled), "{doubled} of 10000 doubled");
        assert!(overtaken > 1_000, "only {overtaken} overtaken");
    }

    #[test]
    fn an_ordered_network_keeps_the_order_of_each_link() {
        let model = NetworkModel { delay_more: 1_000, ordered: true, ..NetworkModel::default() };
        let mut network = network(model);
        let mut last = 0;
        for now in 0..1_000 {
            let Fate::Once(at) = network.route(now, 0, 1) else { panic!("lost without loss") };
            assert!(at >= last && at >= now);
            last = at;
        }
    }

    #[test]
    fn encoded_messages_come_out_equal() {
        let mut network = network(NetworkModel { encoded: 1_000_000, ..NetworkModel::default() });
        let sent = message(1, 2, 3, append(id(4, 2), puts(5, 3, &[1, 2]), 4));
        assert_eq!(network.carry(sent.clone()), Ok(sent));
    }
}
