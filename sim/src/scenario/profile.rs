//! Profiles: what kind of runs a campaign consists of.
//!
//! * A profile changes what was drawn, after everything was drawn: the seed still decides the rest.

use std::fmt;
use std::time::Duration;

use raft_core::{Config, NodeId, SnapshotPolicy};

use super::{ClientModel, Scenario};
use crate::clock::{MICROSECOND, MILLISECOND, SECOND};

/// What kind of runs a campaign consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Profile {
    /// Every seed gets its own mix of sizes, limits, timing, faults, operators and clients. For finding bugs.
    #[default]
    Swarm,
    /// Five servers, faults, and clients that ask for as much as the cluster takes. For figures.
    Heavy,
    /// Five servers, faults, heartbeats every 100 ms, and ten operations a second. For figures.
    Light,
    /// As [`Swarm`](Self::Swarm), and nothing goes wrong: no fault, no loss, no operator. For what must hold even then.
    Calm,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Swarm => "swarm",
            Self::Heavy => "heavy",
            Self::Light => "light",
            Self::Calm => "calm",
        })
    }
}

impl Profile {
    /// How many servers begin, if the profile says.
    pub(super) fn nodes(self) -> Option<usize> {
        matches!(self, Self::Heavy | Self::Light).then_some(5)
    }

    pub(super) fn shape(self, scenario: &mut Scenario) {
        match self {
            Self::Swarm => {}
            Self::Calm => scenario.calm(),
            Self::Heavy => {
                scenario.plain(30 * MILLISECOND);
                scenario.clients = ClientModel {
                    clients: 32,
                    think_mean: 2 * MILLISECOND,
                    outstanding_max: 8,
                    batch_max: 1,
                    ..scenario.clients
                };
            }
            Self::Light => {
                scenario.plain(100 * MILLISECOND);
                // It is the time that counts.
                scenario.operations_min = 0;
                scenario.clients = ClientModel {
                    clients: 5,
                    think_mean: SECOND / 2,
                    outstanding_max: 4,
                    batch_max: 1,
                    ..scenario.clients
                };
            }
        }
    }
}

impl Scenario {
    /// An ordinary cluster in one place, as its users configure it, with the faults that were drawn.
    fn plain(&mut self, heartbeat: u64) {
        for config in &mut self.configs {
            let defaults = Config::new(NodeId::new(config.id.get()));
            *config = Config {
                seed: config.seed,
                lease: config.lease,
                heartbeat_interval: Duration::from_nanos(heartbeat),
                election_timeout_min: Duration::from_nanos(heartbeat * 5),
                election_timeout_max: Duration::from_nanos(heartbeat * 10),
                snapshot_policy: SnapshotPolicy::LogsSinceLast(5_000),
                ..defaults
            };
        }
        self.network.delay_min = 50 * MICROSECOND;
        self.network.delay_more = 100 * MICROSECOND;
        self.network.loss = self.network.loss.min(1_000);
        self.network.duplication = self.network.duplication.min(1_000);
        self.network.straggle = self.network.straggle.min(1_000);
        self.network.encoded = 50_000;
        self.disk.sync_min = 100 * MICROSECOND;
        self.disk.sync_more = 400 * MICROSECOND;
        self.disk.stall = self.disk.stall.min(500);
        self.machine.task_mean = 10 * MICROSECOND;
        self.machine.ballast_bytes = 0;
        self.driver.late_poll = self.driver.late_poll.min(20_000);
        self.operator.interval_mean = None;
        self.faults.interval_mean = Some(3 * SECOND);
        self.clients.reads = 300_000;
        self.clients.keys = 64;
        self.clients.padding_max = 32;
        self.clients.stray = 5_000;
        self.clients.near = 0;
    }

    /// Nothing goes wrong.
    fn calm(&mut self) {
        self.faults.interval_mean = None;
        self.faults.spite = 0;
        (self.network.loss, self.network.duplication, self.network.straggle) = (0, 0, 0);
        (self.disk.stall, self.disk.snapshot_fails) = (0, 0);
        self.driver.late_wake = 0;
        self.operator.interval_mean = None;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    #[test]
    fn every_profile_gives_valid_scenarios() {
        for profile in [Profile::Swarm, Profile::Heavy, Profile::Light, Profile::Calm] {
            for seed in 0..50 {
                let scenario = Scenario::draw(seed, &Options { profile, ..Options::default() }, 0);
                for config in &scenario.configs {
                    assert_eq!(config.validate(), Ok(()), "seed {seed} of {profile:?}");
                }
                assert_eq!(
                    scenario.faults.interval_mean.is_none(),
                    profile == Profile::Calm || {
                        profile == Profile::Swarm
                            && Scenario::draw(seed, &Options::default(), 0).faults.interval_mean.is_none()
                    }
                );
                assert!(profile.nodes().is_none_or(|nodes| nodes == scenario.nodes));
            }
        }
    }
}
