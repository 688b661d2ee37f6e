//! What is done to a cluster, and when: drawn from the seed before anything starts.
//!
//! * A seed determines the faults, their times, and by which draw their victims are chosen. It does not determine a run:
//!   who leads at that time, and how messages and requests interleave, is up to real processes on a real machine.
//! * Storms alternate with calms. In a storm faults overlap as they come; in a calm nothing new begins.
//! * Kinds are dealt from a shuffled deck, so that a short run sees all of them.

use std::time::Duration;

use raft_sim::Rng;

/// Whom a fault hits, out of the members at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Leader,
    /// So many, whoever they are.
    Any(usize),
    Majority,
    All,
}

/// Which links a fault of the network hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All links of these with the others, both ways; clients reach them.
    Isolate(Who),
    /// As before, with the clients on the other side.
    IsolateFromAll(Who),
    /// What these send does not arrive.
    Mute(Who),
    /// What is sent to these does not arrive.
    Deaf(Who),
    /// Two halves that only one server connects.
    Bridge,
    /// Some links, each in one direction.
    Scattered,
    /// Every link.
    Everywhere,
}

/// How the members are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A new server takes the place of another, in one step.
    Replace,
    /// A new server votes too; then another one leaves.
    Grow,
    /// A server leaves, and comes back with its data.
    LeaveAndReturn,
    /// A new server learns first, and is promoted while another one leaves.
    Learner,
    /// A voter becomes a learner, and a voter again.
    Demote,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Kill(Who),
    Pause(Who),
    DiskFull(Who),
    RollingRestart,
    Partition(Cut),
    Slow { cut: Cut, delay: Duration, jitter: Duration },
    Narrow { cut: Cut, bytes_per_s: u64 },
    Breaking { cut: Cut, cut_ppm: u32 },
    Loss { cut: Cut, percent: u8 },
    Reset,
    HalfOpen,
    Transfer,
    Snapshot,
    Members(Change),
}

impl Fault {
    /// The kind's name in reports.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill -9",
            Self::Pause(_) => "pause",
            Self::DiskFull(_) => "disk full",
            Self::RollingRestart => "rolling restart",
            Self::Partition(Cut::Mute(_) | Cut::Deaf(_) | Cut::Scattered) => "one-way partition",
            Self::Partition(_) => "partition",
            Self::Slow { .. } => "delay",
            Self::Narrow { .. } => "bandwidth",
            Self::Breaking { .. } => "connections break",
            Self::Loss { .. } => "packet loss",
            Self::Reset => "connections reset",
            Self::HalfOpen => "half-open connections",
            Self::Transfer => "leadership transfer",
            Self::Snapshot => "snapshot on demand",
            Self::Members(_) => "membership change",
        }
    }
}

/// A fault, when it begins, and for how long it lasts where it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    pub(crate) fault: Fault,
    /// Decides whom it hits.
    pub(crate) draw: u64,
}

/// How often each kind is in the deck.
const DECK: [(u8, usize); 14] = [
    (0, 4),  // kill
    (1, 3),  // pause
    (2, 1),  // disk full
    (3, 1),  // rolling restart
    (4, 5),  // partition, also one-way
    (5, 2),  // delay
    (6, 1),  // bandwidth
    (7, 2),  // breaking
    (8, 2),  // loss
    (9, 1),  // reset
    (10, 2), // half-open
    (11, 2), // transfer
    (12, 1), // snapshot
    (13, 4), // membership
];

/// Between two faults of a storm, on average.
const INTERVAL_MS: u64 = 1_000;
const STORM_MS: (u64, u64) = (12_000, 25_000);
const CALM_MS: (u64, u64) = (3_000, 6_000);
/// The shortest and the longest that a fault lasts.
const LASTS_MS: (u64, u64) = (150, 7_000);

/// Everything that is done within `time`. With `packets`, links lose some; else connections are slow, and break.
pub(crate) fn plan(seed: u64, time: Duration, packets: bool) -> Vec<Planned> {
    let mut rng = Rng::new(seed, 1);
    let mut plan = Vec::new();
    let mut deck = Vec::new();
    let mut partitions = 0;
    let end_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    // Time to elect somebody first.
    let mut now_ms = 1_500;
    while now_ms < end_ms {
        let storm_end_ms = (now_ms + rng.between(STORM_MS.0, STORM_MS.1)).min(end_ms);
        loop {
            now_ms += rng.exponential(INTERVAL_MS).min(4 * INTERVAL_MS);
            if now_ms >= storm_end_ms {
                break;
            }
            let card = deal(&mut deck, &mut rng);
            let Some(fault) = fault(card, &mut rng, packets, &mut partitions) else { continue };
            let lasts_ms = rng.log_between(LASTS_MS.0, LASTS_MS.1).min(storm_end_ms - now_ms);
            let (at, lasts) = (Duration::from_millis(now_ms), Duration::from_millis(lasts_ms));
            plan.push(Planned { at, lasts, fault, draw: rng.bits() });
        }
        now_ms = storm_end_ms + rng.between(CALM_MS.0, CALM_MS.1);
    }
    plan
}

/// The next card of a deck that is shuffled when it is empty.
fn deal(deck: &mut Vec<u8>, rng: &mut Rng) -> u8 {
    if deck.is_empty() {
        deck.extend(DECK.iter().flat_map(|(card, times)| std::iter::repeat_n(*card, *times)));
        for at in (1..deck.len()).rev() {
            deck.swap(at, rng.index(at + 1));
        }
    }
    deck.pop().unwrap_or_default()
}

fn who(rng: &mut Rng) -> Who {
    let some = [Who::Leader, Who::Any(1), Who::Any(2), Who::Majority, Who::All];
    rng.weighted(&some, &[35, 35, 20, 6, 4]).unwrap_or(Who::Leader)
}

fn few(rng: &mut Rng) -> Who {
    rng.weighted(&[Who::Leader, Who::Any(1), Who::Any(2)], &[45, 35, 20]).unwrap_or(Who::Leader)
}

fn links(rng: &mut Rng) -> Cut {
    let who = few(rng);
    let some = [Cut::Mute(who), Cut::Deaf(who), Cut::Isolate(who), Cut::Scattered, Cut::Everywhere];
    rng.weighted(&some, &[2, 2, 2, 2, 3]).unwrap_or(Cut::Everywhere)
}

fn fault(card: u8, rng: &mut Rng, packets: bool, partitions: &mut u64) -> Option<Fault> {
    let ms = |rng: &mut Rng, max| Duration::from_millis(rng.log_between(1, max));
    Some(match card {
        0 => Fault::Kill(who(rng)),
        1 => Fault::Pause(who(rng)),
        2 => Fault::DiskFull(few(rng)),
        3 => Fault::RollingRestart,
        4 => {
            // One and the other in turn, so that a short run sees both.
            *partitions += 1;
            let who = few(rng);
            let both_ways = [
                Cut::Isolate(who),
                Cut::Isolate(Who::Leader),
                Cut::IsolateFromAll(who),
                Cut::Isolate(Who::Majority),
                Cut::Bridge,
            ];
            let one_way = [Cut::Mute(who), Cut::Deaf(who), Cut::Scattered];
            let index = rng.bits() as usize;
            Fault::Partition(match *partitions % 2 {
                0 => both_ways[index % both_ways.len()],
                _ => one_way[index % one_way.len()],
            })
        }
        5 if !packets => Fault::Slow { cut: links(rng), delay: ms(rng, 400), jitter: ms(rng, 400) },
        6 if !packets => Fault::Narrow { cut: links(rng), bytes_per_s: rng.log_between(2_000, 500_000) },
        7 if !packets => Fault::Breaking { cut: links(rng), cut_ppm: rng.between(2_000, 100_000) as u32 },
        8 if packets => Fault::Loss { cut: links(rng), percent: rng.between(2, 60) as u8 },
        9 if !packets => Fault::Reset,
        10 if !packets => Fault::HalfOpen,
        11 => Fault::Transfer,
        12 => Fault::Snapshot,
        13 => {
            let changes =
                [Change::Replace, Change::Grow, Change::LeaveAndReturn, Change::Learner, Change::Demote];
            Fault::Members(changes[rng.index(changes.len())])
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(plan(7, MINUTE, false), plan(7, MINUTE, false));
        assert_ne!(plan(7, MINUTE, false), plan(8, MINUTE, false));
    }

    #[test]
    fn two_minutes_see_every_kind() {
        for packets in [false, true] {
            for seed in 0..50 {
                let planned = plan(seed, 2 * MINUTE, packets);
                let kinds: BTreeSet<_> = planned.iter().map(|planned| planned.fault.kind()).collect();
                let expected = if packets { 10 } else { 14 };
                assert_eq!(kinds.len(), expected, "seed {seed}: {kinds:?}");
            }
        }
    }

    #[test]
    fn everything_is_over_in_time_and_there_are_calms() {
        let planned = plan(3, 10 * MINUTE, false);
        assert!(planned.iter().all(|planned| planned.at + planned.lasts <= 10 * MINUTE));
        let calms = planned.windows(2).filter(|pair| pair[1].at - pair[0].at > Duration::from_secs(3));
        assert!(calms.count() > 10);
    }
}
