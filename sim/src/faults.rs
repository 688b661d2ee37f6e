//! What goes wrong, and when.
//!
//! * A fault may come at any event, also between two actions of one step.
//! * A fault is first drawn, with everything that it needs, and then done: what was drawn can be done again.
//! * Each fault ends by itself; when the run's time is over none is left. Only a lost disk stays lost.
//! * No more disks are lost than the cluster can bear: a run without a majority proves nothing.

mod draw;
mod loss;
mod perform;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::check::Check;
use crate::clock::Nanos;
use crate::disk::Failing;
use crate::rng::Ppm;
use crate::trace::What;
use crate::transcript::{Decision, Source};
use crate::workload::Workload;
use crate::world::{Happening, World, note};

/// What goes wrong in a run, and how badly.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FaultModel {
    /// Mean time between faults; `None` for a calm run.
    pub(crate) interval_mean: Option<Nanos>,
    #[serde(skip)]
    pub(crate) weights: [u64; FaultKind::ALL.len()],
    pub(crate) down_mean: Nanos,
    pub(crate) cut_mean: Nanos,
    pub(crate) pause_mean: Nanos,
    /// How long a flapping link stays down, or up, at a time.
    pub(crate) flap_mean: Nanos,
    /// What a slow link adds to a delay, and what it takes for a byte.
    pub(crate) slow_mean: Nanos,
    pub(crate) slow_byte_mean: Nanos,
    /// How long a disk stays full.
    pub(crate) full_mean: Nanos,
    /// By how much clocks are set ahead.
    pub(crate) jump_mean: Nanos,
    /// The greatest speed, off by so much, to which a clock changes.
    pub(crate) drift_ppm_max: u64,
    /// How often a leader that hands over is cut off as it does.
    pub(crate) spite: Ppm,
    /// How often a fault picks the leader as its victim.
    pub(crate) at_leader: Ppm,
}

impl FaultModel {
    /// Whether disks are lost for good.
    pub(crate) fn loses_disks(&self) -> bool {
        let lose = [FaultKind::BitRot, FaultKind::DiskLost];
        self.interval_mean.is_some() && lose.iter().any(|kind| self.weights[*kind as usize] > 0)
    }
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Crash,
    CrashSoon,
    CrashAll,
    CrashRolling,
    Partition,
    Isolate,
    OneWay,
    Deaf,
    Mute,
    Flap,
    Slow,
    Pause,
    Stall,
    SlowDisk,
    DiskError,
    DiskFull,
    BitRot,
    DiskLost,
    ClockAhead,
    ClockBack,
    ClockSpeed,
    Campaign,
    Unreachable,
    Usurp,
}

impl FaultKind {
    /// Every kind.
    pub(crate) const ALL: [Self; 24] = [
        Self::Crash,
        Self::CrashSoon,
        Self::CrashAll,
        Self::CrashRolling,
        Self::Partition,
        Self::Isolate,
        Self::OneWay,
        Self::Deaf,
        Self::Mute,
        Self::Flap,
        Self::Slow,
        Self::Pause,
        Self::Stall,
        Self::SlowDisk,
        Self::DiskError,
        Self::DiskFull,
        Self::BitRot,
        Self::DiskLost,
        Self::ClockAhead,
        Self::ClockBack,
        Self::ClockSpeed,
        Self::Campaign,
        Self::Unreachable,
        Self::Usurp,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Crash => "crashes",
            Self::CrashSoon => "crashes amid actions",
            Self::CrashAll => "crashes of all",
            Self::CrashRolling => "rolling restarts",
            Self::Partition => "partitions",
            Self::Isolate => "isolated servers",
            Self::OneWay => "one-way cuts",
            Self::Deaf => "deaf servers",
            Self::Mute => "mute servers",
            Self::Flap => "flapping links",
            Self::Slow => "slow links",
            Self::Pause => "pauses",
            Self::Stall => "stalled disks",
            Self::SlowDisk => "slow disks",
            Self::DiskError => "disk errors",
            Self::DiskFull => "full disks",
            Self::BitRot => "rotten disks",
            Self::DiskLost => "lost disks",
            Self::ClockAhead => "clocks set ahead",
            Self::ClockBack => "clocks set back",
            Self::ClockSpeed => "clocks at another speed",
            Self::Campaign => "elections on demand",
            Self::Unreachable => "lost connections",
            Self::Usurp => "usurpers",
        }
    }
}

/// How often servers are told to campaign, at most, in one fault.
const USURP_TIMES_MAX: u64 = 100;

/// A fault with all that was drawn for it. Servers are counted from 0, times are nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// A server crashes.
    Crash { server: usize, down: Nanos },
    /// A server crashes after so many more actions.
    CrashSoon { server: usize, actions: u64, down: Nanos },
    /// All servers crash.
    CrashAll { downs: Vec<Nanos> },
    /// Servers crash one after the other: which, how long after the beginning, for how long.
    CrashRolling { crashes: Vec<(usize, Nanos, Nanos)> },
    /// The cluster falls into two parts: the servers whose bits are set, and the others.
    Partition { group: u64, lasts: Nanos },
    /// A server is alone.
    Isolate { server: usize, lasts: Nanos },
    /// One direction between two servers is cut.
    OneWay { from: usize, to: usize, lasts: Nanos },
    /// A server hears nobody, and is heard.
    Deaf { server: usize, lasts: Nanos },
    /// A server hears everybody, and is not heard.
    Mute { server: usize, lasts: Nanos },
    /// The link between two servers, or all links of one, goes down and up again and again.
    Flap { server: usize, peer: Option<usize>, lasts: Nanos, down: Nanos, up: Nanos },
    /// The link between two servers, or all links of one, is slow.
    Slow { server: usize, peer: Option<usize>, lasts: Nanos, delay: Nanos, nanos_per_byte: Nanos },
    /// A server's process stands still.
    Pause { server: usize, lasts: Nanos },
    /// A server's disk stands still.
    Stall { server: usize, lasts: Nanos },
    /// A server's disk takes so much longer, on average, for each sync.
    SlowDisk { server: usize, lasts: Nanos, more_mean: Nanos },
    /// An append or a sync fails.
    DiskError { server: usize, failing: Failing },
    /// A server's disk has no space left.
    DiskFull { server: usize, lasts: Nanos },
    /// A server crashes, and while it is down a bit changes: of its log with the hard state, or of its newest snapshot.
    BitRot { server: usize, down: Nanos, snapshot: bool, bit: u64 },
    /// A server crashes, and its disk is gone for good.
    DiskLost { server: usize },
    /// A server's clock is set ahead.
    ClockAhead { server: usize, by: Nanos },
    /// A server's clock is set back.
    ClockBack { server: usize, by: Nanos },
    /// A server's clock changes its speed.
    ClockSpeed { server: usize, drift_ppm: i32 },
    /// An operator wants an election.
    Campaign { server: usize },
    /// A transport says that it lost its connection.
    Unreachable { server: usize, peer: usize },
    /// The leader hears nobody, and is perhaps not heard either (`alone`); all others start anew, perhaps, and one of them
    /// or each is told to campaign, so many times. Whatever they had promised that leader must outlive their memory.
    Usurp {
        leader: usize,
        lasts: Nanos,
        alone: bool,
        down: Option<Nanos>,
        usurper: Option<usize>,
        delay: Nanos,
        every: Nanos,
        times: u64,
    },
}

impl Fault {
    fn kind(&self) -> FaultKind {
        match self {
            Self::Crash { .. } => FaultKind::Crash,
            Self::CrashSoon { .. } => FaultKind::CrashSoon,
            Self::CrashAll { .. } => FaultKind::CrashAll,
            Self::CrashRolling { .. } => FaultKind::CrashRolling,
            Self::Partition { .. } => FaultKind::Partition,
            Self::Isolate { .. } => FaultKind::Isolate,
            Self::OneWay { .. } => FaultKind::OneWay,
            Self::Deaf { .. } => FaultKind::Deaf,
            Self::Mute { .. } => FaultKind::Mute,
            Self::Flap { .. } => FaultKind::Flap,
            Self::Slow { .. } => FaultKind::Slow,
            Self::Pause { .. } => FaultKind::Pause,
            Self::Stall { .. } => FaultKind::Stall,
            Self::SlowDisk { .. } => FaultKind::SlowDisk,
            Self::DiskError { .. } => FaultKind::DiskError,
            Self::DiskFull { .. } => FaultKind::DiskFull,
            Self::BitRot { .. } => FaultKind::BitRot,
            Self::DiskLost { .. } => FaultKind::DiskLost,
            Self::ClockAhead { .. } => FaultKind::ClockAhead,
            Self::ClockBack { .. } => FaultKind::ClockBack,
            Self::ClockSpeed { .. } => FaultKind::ClockSpeed,
            Self::Campaign { .. } => FaultKind::Campaign,
            Self::Unreachable { .. } => FaultKind::Unreachable,
            Self::Usurp { .. } => FaultKind::Usurp,
        }
    }

    /// Whether it names only servers that there are.
    pub(crate) fn is_within(&self, servers: usize) -> bool {
        let other = |server: usize, peer: usize| server < servers && peer < servers && server != peer;
        match self {
            Self::Crash { server, .. }
            | Self::CrashSoon { server, .. }
            | Self::Isolate { server, .. }
            | Self::Deaf { server, .. }
            | Self::Mute { server, .. }
            | Self::Pause { server, .. }
            | Self::Stall { server, .. }
            | Self::SlowDisk { server, .. }
            | Self::DiskError { server, .. }
            | Self::DiskFull { server, .. }
            | Self::BitRot { server, .. }
            | Self::DiskLost { server }
            | Self::ClockAhead { server, .. }
            | Self::ClockBack { server, .. }
            | Self::Campaign { server } => *server < servers,
            // A clock that stands still or runs backwards is none.
            Self::ClockSpeed { server, drift_ppm } => *server < servers && drift_ppm.abs() < 1_000_000,
            Self::OneWay { from, to, .. } => other(*from, *to),
            Self::Unreachable { server, peer } => other(*server, *peer),
            Self::Flap { server, peer, .. } | Self::Slow { server, peer, .. } => {
                *server < servers && peer.is_none_or(|peer| other(*server, peer))
            }
            Self::CrashRolling { crashes } => crashes.iter().all(|(server, ..)| *server < servers),
            Self::Usurp { leader, usurper, times, .. } => {
                *leader < servers
                    && usurper.is_none_or(|usurper| usurper < servers)
                    && *times <= USURP_TIMES_MAX
            }
            Self::CrashAll { .. } | Self::Partition { .. } => true,
        }
    }
}

/// How often each kind of fault came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultCounts([u64; FaultKind::ALL.len()]);

impl FaultCounts {
    fn count(&mut self, kind: FaultKind) {
        self.0[kind as usize] += 1;
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }

    /// Each kind's name and number.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        FaultKind::ALL.iter().map(|kind| (kind.name(), self.0[*kind as usize]))
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, count)) in self.iter().enumerate() {
            write!(f, "{}{count} {name}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl<W: Workload> World<'_, W> {
    /// Schedules the next fault.
    pub(crate) fn next_fault(&mut self) {
        if self.settling {
            return;
        }
        if self.plan.is_given() {
            if let Some(at) = self.plan.next_at(Source::Faults) {
                self.clock.at(at, Happening::Fault);
            }
        } else if let Some(mean) = self.scenario.faults.interval_mean {
            let delay = self.fault_rng.exponential(mean);
            self.clock.after(delay, Happening::Fault);
        }
    }

    /// Something goes wrong.
    pub(crate) fn fault(&mut self) -> Check {
        if self.settling {
            return Ok(());
        }
        let fault = match self.plan.next(Source::Faults) {
            Some(Decision::Fault(fault)) => Some(fault),
            _ => self.draw_fault(),
        };
        self.next_fault();
        let Some(fault) = fault else { return Ok(()) };
        self.decided(Decision::Fault(fault.clone()));
        note!(self, None, What::fault(&fault, self.clock.now(), self.servers.len()));
        let kind = fault.kind();
        if self.do_fault(fault)? {
            self.summary.faults.count(kind);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_in_its_place() {
        let mut counts = FaultCounts::default();
        for (at, kind) in FaultKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
            (0..=at).for_each(|_| counts.count(kind));
        }
        let mut sum = counts;
        sum.add(&counts);
        assert!(sum.iter().zip(2..).all(|((_, count), at)| count == 2 * (at - 1)));
        assert!(counts.to_string().starts_with("1 crashes, 2 crashes amid actions, "));
    }

    #[test]
    fn a_fault_names_only_servers_that_there_are() {
        assert!(Fault::Crash { server: 2, down: 1 }.is_within(3));
        assert!(!Fault::Crash { server: 3, down: 1 }.is_within(3));
        let slow = |peer| Fault::Slow { server: 1, peer, lasts: 1, delay: 1, nanos_per_byte: 1 };
        assert!(slow(None).is_within(2) && slow(Some(0)).is_within(2));
        assert!(!slow(Some(1)).is_within(2) && !slow(Some(2)).is_within(2));
        assert!(!Fault::CrashRolling { crashes: vec![(0, 1, 1), (3, 1, 1)] }.is_within(3));
        assert!(!Fault::ClockSpeed { server: 0, drift_ppm: -1_000_000 }.is_within(3));
    }
}
