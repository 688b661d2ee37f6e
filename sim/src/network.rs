//! The simulated network: whether a message arrives, how often, and when; and who is cut off from whom.
//!
//! * It never alters a message. A share of them travels as bytes, and must come out equal.
//! * A cut has a direction; a partition is cuts in both directions. Cuts, flapping and slowness end by themselves.
//! * Each link draws from a stream of its own: the fate of its n-th message does not depend on the other links.

use bytes::Bytes;
use raft_core::Message;
use raft_core::wire::{decode_message, encode_message};
use serde::{Deserialize, Serialize};

use crate::clock::{MILLISECOND, Nanos};
use crate::rng::{Ppm, Rng};

/// The links' streams begin here: beyond those of the other parts of the world.
const STREAMS: u64 = 1 << 32;

/// By the nodes' numbers, so that a link draws the same in a larger cluster.
fn stream(from: usize, to: usize) -> u64 {
    STREAMS | (from as u64) << 16 | to as u64
}

/// How bad the network is in a run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
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

/// A link that goes down and up again, quickly, for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flapping {
    pub(crate) from: Nanos,
    pub(crate) until: Nanos,
    /// How long it is down, and then up, again and again.
    pub(crate) down: Nanos,
    pub(crate) up: Nanos,
}

impl Flapping {
    fn is_down(&self, now: Nanos) -> bool {
        let round = (self.down + self.up).max(1);
        (self.from..self.until).contains(&now) && (now - self.from) % round < self.down
    }
}

/// A link that is slow for a while: what is sent queues up, and is lost when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slowness {
    pub(crate) until: Nanos,
    /// Added to every delay.
    pub(crate) delay: Nanos,
    pub(crate) nanos_per_byte: Nanos,
    /// The longest queue, as the time it takes to drain.
    pub(crate) queue_max: Nanos,
}

/// One direction between two nodes.
struct Link {
    rng: Rng,
    cut_until: Nanos,
    flapping: Option<Flapping>,
    slowness: Option<Slowness>,
    /// When the slow link has sent what waits.
    drained_at: Nanos,
    last_arrival: Nanos,
    /// The faults of the model are over here.
    healed: bool,
}

/// All links between the nodes.
pub(crate) struct Network {
    model: NetworkModel,
    nodes: usize,
    /// By `from * nodes + to`.
    links: Vec<Link>,
    /// Which messages travel as bytes. Nothing else depends on it.
    encoding: Rng,
    buffer: Vec<u8>,
}

/// What a message takes on the wire beside its payload.
const FRAME_BYTES: u64 = 64;

impl Network {
    pub(crate) fn new(model: NetworkModel, nodes: usize, seed: u64) -> Self {
        let link = |at: usize| {
            let (from, to) = (at / nodes, at % nodes);
            Link {
                rng: Rng::new(seed, stream(from, to)),
                cut_until: 0,
                flapping: None,
                slowness: None,
                drained_at: 0,
                last_arrival: 0,
                healed: false,
            }
        };
        let links = (0..nodes * nodes).map(link).collect();
        Self { model, nodes, links, encoding: Rng::new(seed, STREAMS - 1), buffer: Vec::new() }
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from * self.nodes + to]
    }

    /// Whether the link from one node to another is down at `now`.
    pub(crate) fn is_cut(&self, now: Nanos, from: usize, to: usize) -> bool {
        let link = &self.links[from * self.nodes + to];
        link.cut_until > now || link.flapping.is_some_and(|flapping| flapping.is_down(now))
    }

    /// Whether a message that arrives at `now` is lost because its link went down while it was under way.
    pub(crate) fn swallows(&self, now: Nanos, from: usize, to: usize) -> bool {
        self.model.abrupt && self.is_cut(now, from, to)
    }

    /// When a process that stands still until `until` hears a message that came meanwhile.
    pub(crate) fn after_pause(&self, now: Nanos, until: Nanos, from: usize, to: usize) -> Nanos {
        if self.model.ordered {
            return until;
        }
        // By the moment, and not from the link's stream: a pause that is taken away leaves the fates as they were.
        until + Rng::new(now, stream(from, to)).below(MILLISECOND)
    }

    /// Cuts one direction.
    pub(crate) fn cut(&mut self, from: usize, to: usize, until: Nanos) {
        let link = self.link(from, to);
        link.cut_until = until.max(link.cut_until);
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

    /// One direction goes down and up for a while.
    pub(crate) fn flap(&mut self, from: usize, to: usize, flapping: Flapping) {
        self.link(from, to).flapping = Some(flapping);
    }

    /// One direction is slow for a while.
    pub(crate) fn slow(&mut self, from: usize, to: usize, slowness: Slowness) {
        self.link(from, to).slowness = Some(slowness);
    }

    /// When the last of what is under way arrives.
    pub(crate) fn last_arrival(&self) -> Nanos {
        self.links.iter().map(|link| link.last_arrival).max().unwrap_or_default()
    }

    /// Ends every cut, and every fault of the model from now on.
    pub(crate) fn heal(&mut self) {
        self.heal_among(u64::MAX);
    }

    /// Ends every cut and every fault of the model on the links between members of `group` (a set of bits). Nothing that
    /// is sent from now on is late on any link: whoever stays cut off answers what was sent before, and is heard soon.
    pub(crate) fn heal_among(&mut self, group: u64) {
        self.model.straggle_mean = 0;
        for (at, link) in self.links.iter_mut().enumerate() {
            let (from, to) = (at / self.nodes, at % self.nodes);
            link.slowness = None;
            if (group >> from) & (group >> to) & 1 == 1 {
                (link.cut_until, link.flapping) = (0, None);
                link.healed = true;
                // A new connection: what was held up on the old one holds up nothing.
                link.last_arrival = 0;
            }
        }
    }

    /// Decides what becomes of a message with a payload of so many bytes, sent at `now`.
    pub(crate) fn route(&mut self, now: Nanos, from: usize, to: usize, payload_bytes: u64) -> Fate {
        let (model, cut) = (self.model, self.is_cut(now, from, to));
        let link = self.link(from, to);
        // Drawn in any case: a cut that is taken away leaves the fates of all other messages as they were.
        let lost = link.rng.chance(model.loss) && !link.healed;
        let doubled = link.rng.chance(model.duplication) && !link.healed;
        let first = link.delay(&model);
        let late = if doubled && link.rng.chance(500_000) {
            // A copy is often one that was sent again, long after the first: old answers come back late.
            link.rng.exponential(model.straggle_mean)
        } else {
            0
        };
        let second = if doubled { link.delay(&model) } else { 0 };
        let Some(sent) = link.queue(now, payload_bytes + FRAME_BYTES).filter(|_| !cut && !lost) else {
            return Fate::Lost;
        };
        let first = link.arrival(sent + first, model.ordered);
        if doubled {
            Fate::Twice(first, link.arrival(sent + late + second, model.ordered))
        } else {
            Fate::Once(first)
        }
    }

    /// The message as its receiver gets it: a share goes through the shipped encoding.
    ///
    /// # Errors
    /// If it does not come out as it went in.
    pub(crate) fn carry(&mut self, message: Message) -> Result<Message, String> {
        if !self.encoding.chance(self.model.encoded) {
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

impl Link {
    /// How long a message is under way.
    fn delay(&mut self, model: &NetworkModel) -> Nanos {
        let delay = model.delay_min + self.rng.exponential(model.delay_more);
        let straggles = self.rng.chance(model.straggle) && !self.healed;
        delay + if straggles { self.rng.exponential(model.straggle_mean) } else { 0 }
    }

    /// When a message leaves the link's queue, with the delay of a slow link added. `None`: the queue is full.
    fn queue(&mut self, now: Nanos, bytes: u64) -> Option<Nanos> {
        let Some(slow) = self.slowness.filter(|slow| slow.until > now) else { return Some(now) };
        let begins = self.drained_at.max(now);
        if begins - now > slow.queue_max {
            return None;
        }
        self.drained_at = begins + bytes * slow.nanos_per_byte;
        Some(self.drained_at + slow.delay)
    }

    fn arrival(&mut self, at: Nanos, ordered: bool) -> Nanos {
        self.last_arrival = at.max(self.last_arrival);
        if ordered { self.last_arrival } else { at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{append, id, message, puts};

    fn network(model: NetworkModel) -> Network {
        Network::new(model, 3, 1)
    }

    #[test]
    fn cuts_have_a_direction_and_end() {
        let mut network = network(NetworkModel { delay_min: 5, ..NetworkModel::default() });
        network.cut(0, 1, 100);
        network.cut(0, 1, 50);
        assert_eq!(network.route(99, 0, 1, 0), Fate::Lost);
        assert_eq!(network.route(99, 1, 0, 0), Fate::Once(104));
        assert_eq!(network.route(100, 0, 1, 0), Fate::Once(105));
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
            match network.route(now, 0, 1, 0) {
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
            let Fate::Once(at) = network.route(now, 0, 1, 0) else { panic!("lost without loss") };
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

    #[test]
    fn the_fates_on_a_link_do_not_depend_on_the_others_nor_on_cuts_that_are_gone() {
        let model = NetworkModel {
            delay_more: 1_000,
            loss: 100_000,
            duplication: 100_000,
            straggle: 100_000,
            straggle_mean: 5_000,
            ..NetworkModel::default()
        };
        let (mut quiet, mut busy) = (network(model), network(model));
        busy.cut(0, 1, 100);
        let mut same = 0;
        for now in 0..1_000 {
            let fate = busy.route(now, 0, 1, 10);
            busy.route(now, 1, 0, 10);
            busy.route(now, 2, 1, 10);
            let alone = quiet.route(now, 0, 1, 10);
            assert_eq!(fate, if now < 100 { Fate::Lost } else { alone });
            same += u64::from(quiet.route(now, 1, 2, 10) == alone);
        }
        assert!(same < 200, "two links share a stream");
    }

    #[test]
    fn a_flapping_link_goes_down_and_up_until_its_end() {
        let mut network = network(NetworkModel { delay_min: 1, ..NetworkModel::default() });
        network.flap(0, 1, Flapping { from: 100, until: 200, down: 10, up: 20 });
        let cuts = |now| network.is_cut(now, 0, 1);
        for (now, cut) in
            [(99, false), (100, true), (109, true), (110, false), (129, false), (130, true), (200, false)]
        {
            assert_eq!(cuts(now), cut, "at {now}");
        }
        assert!(!network.is_cut(100, 1, 0));
        network.heal();
        assert!(!network.is_cut(100, 0, 1));
    }

    #[test]
    fn a_slow_link_queues_delays_and_drops_what_its_queue_cannot_hold() {
        let mut network = network(NetworkModel { delay_min: 1, ..NetworkModel::default() });
        network.slow(0, 1, Slowness { until: 10_000, delay: 500, nanos_per_byte: 2, queue_max: 300 });
        assert_eq!(network.route(0, 0, 1, 36), Fate::Once(701));
        assert_eq!(network.route(0, 0, 1, 36), Fate::Once(901));
        assert_eq!(network.route(0, 0, 1, 36), Fate::Lost);
        assert_eq!(network.route(0, 1, 0, 36), Fate::Once(1));
        assert_eq!(network.route(1_000, 0, 1, 0), Fate::Once(1_629));
        assert_eq!(network.route(10_000, 0, 1, 36), Fate::Once(10_001));
    }

    #[test]
    fn links_heal_only_inside_the_group() {
        let mut network = network(NetworkModel { loss: 1_000_000, ..NetworkModel::default() });
        network.partition(0b011, 100);
        network.cut(0, 1, 100);
        network.heal_among(0b011);
        assert_eq!(network.route(5, 0, 1, 0), Fate::Once(5));
        assert_eq!(network.route(5, 1, 2, 0), Fate::Lost);
        assert_eq!(network.route(200, 1, 2, 0), Fate::Lost);
        network.heal();
        assert_eq!(network.route(5, 1, 2, 0), Fate::Once(5));
    }
}
