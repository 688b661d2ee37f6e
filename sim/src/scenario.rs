//! What a seed means: the size of the cluster, its limits, its clients, and how bad the world is to it.
//!
//! Everything is drawn here, once, before the run begins, so that a scenario can be printed and read.

mod describe;
mod limits;
mod profile;

use std::fmt;

use raft_core::{Config, Lease};
use serde::{Deserialize, Serialize};

pub use self::profile::Profile;

use crate::clock::{MICROSECOND, MILLISECOND, Nanos, SECOND};
use crate::faults::{FaultKind, FaultModel};
use crate::network::NetworkModel;
use crate::operator::OperatorModel;
use crate::rng::{Ppm, Rng};

/// What a caller fixes; the seed decides the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many nodes begin. `None`: one to seven, mostly three or five, by the seed. At most 64. More may join.
    pub nodes: Option<usize>,
    /// Least simulated time before the faults end, in seconds.
    pub seconds_min: u64,
    /// Least number of client operations before the faults end.
    pub operations_min: u64,
    /// What kind of run.
    pub profile: Profile,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: None, seconds_min: 10, operations_min: 80, profile: Profile::Swarm }
    }
}

impl fmt::Display for Options {
    /// As arguments of the command line, as far as they are not the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defaults = Self::default();
        if let Some(nodes) = self.nodes {
            write!(f, " --nodes {nodes}")?;
        }
        if self.seconds_min != defaults.seconds_min {
            write!(f, " --seconds {}", self.seconds_min)?;
        }
        if self.operations_min != defaults.operations_min {
            write!(f, " --operations {}", self.operations_min)?;
        }
        if self.profile != defaults.profile {
            write!(f, " --profile {}", self.profile)?;
        }
        Ok(())
    }
}

/// How the disks behave.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DiskModel {
    pub(crate) sync_min: Nanos,
    pub(crate) sync_more: Nanos,
    /// How often a sync takes very long, and how long then.
    pub(crate) stall: Ppm,
    pub(crate) stall_mean: Nanos,
    /// How often a finished sync is reported late, or only with the one after it.
    pub(crate) late_report: Ppm,
    pub(crate) late_mean: Nanos,
    /// How long a read takes beyond nothing.
    pub(crate) read_mean: Nanos,
    /// How often a crash leaves something behind the cut.
    pub(crate) wreck: Ppm,
    /// How often a write is stored in parts, between which a crash can cut it.
    pub(crate) cut_writes: Ppm,
    /// A compaction drops whole records only, and so less than it could.
    pub(crate) whole_records: bool,
    /// How often a snapshot cannot be taken, read or written.
    pub(crate) snapshot_fails: Ppm,
}

/// How the state machines behave.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MachineModel {
    pub(crate) task_mean: Nanos,
    /// How often a machine saves its state after a task; zero for one that lives in memory.
    pub(crate) save: Ppm,
    /// How often an `Applied` waits for the next one.
    pub(crate) late_report: Ppm,
    /// How much longer its snapshots are than they need to be.
    pub(crate) ballast_bytes: usize,
}

/// How the driver uses its node.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DriverModel {
    /// How often actions are left for later after a step.
    pub(crate) late_poll: Ppm,
    pub(crate) late_poll_mean: Nanos,
    /// How often a wake-up comes late.
    pub(crate) late_wake: Ppm,
    pub(crate) late_wake_mean: Nanos,
    /// How often a step is followed by a wake-up that nobody asked for.
    pub(crate) spurious_wake: Ppm,
    /// The greatest difference between a local clock and the true one.
    pub(crate) drift_ppm_max: u64,
}

/// What the clients do.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ClientModel {
    pub(crate) clients: usize,
    /// Mean time between one client's requests.
    pub(crate) think_mean: Nanos,
    pub(crate) outstanding_max: usize,
    pub(crate) batch_max: u64,
    pub(crate) reads: Ppm,
    pub(crate) keys: u64,
    pub(crate) padding_max: u64,
    pub(crate) patience: Nanos,
    /// How often a client whose patience ends says so; otherwise it walks away.
    pub(crate) forget: Ppm,
    /// How often a client asks any node rather than the one it believes to lead.
    pub(crate) stray: Ppm,
    /// How often it asks any node for a read.
    pub(crate) near: Ppm,
    /// How often a read asks for the lease.
    pub(crate) lease_reads: Ppm,
}

/// Everything that is drawn for a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// How many servers begin; those behind them may join later.
    pub(crate) nodes: usize,
    /// One for each server.
    pub(crate) configs: Vec<Config>,
    /// The one node that is bootstrapped; `None`: all of them.
    pub(crate) bootstrap_only: Option<usize>,
    pub(crate) duration: Nanos,
    pub(crate) operations_min: u64,
    pub(crate) network: NetworkModel,
    pub(crate) disk: DiskModel,
    pub(crate) machine: MachineModel,
    pub(crate) driver: DriverModel,
    pub(crate) clients: ClientModel,
    pub(crate) faults: FaultModel,
    pub(crate) operator: OperatorModel,
}

/// The most servers of a run: sets of them are bits of a word.
const SERVERS_MAX: usize = 64;

/// The unit of time in which everything else is measured: a network much slower than the election timeout
/// would elect nobody, and prove nothing.
struct Timing {
    election_min: Nanos,
    election_max: Nanos,
    heartbeat: Nanos,
}

impl Timing {
    fn draw(rng: &mut Rng) -> Self {
        let election_min = rng.log_between(60 * MILLISECOND, 500 * MILLISECOND);
        let election_max = election_min + rng.between(election_min / 2, election_min * 2);
        let heartbeat = election_min / rng.between(3, 8);
        Self { election_min, election_max, heartbeat }
    }
}

impl Scenario {
    /// What a seed means, with users' commands of at most so many bytes.
    pub(crate) fn draw(seed: u64, options: &Options, command_bytes_max: u64) -> Self {
        let rng = &mut Rng::new(seed, 0);
        let nodes = options.nodes.or(options.profile.nodes());
        let nodes = nodes.unwrap_or_else(|| *rng.pick(&[1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 7]));
        let nodes = nodes.clamp(1, SERVERS_MAX);
        let timing = Timing::draw(rng);
        let operator = operator(rng, &timing);
        let lease = lease(rng);
        let faults = faults(rng, &timing, lease);
        // For servers that join, and for those that take the places of servers without a disk.
        let joining = if operator.interval_mean.is_some() { rng.index(5) } else { 0 };
        let spare = joining + if faults.loses_disks() { rng.between(1, 3) as usize } else { 0 };
        let padding_max = if rng.chance(125_000) { rng.between(64, 2_000) } else { rng.below(64) };
        let machine = machine(rng);
        let mut driver = driver(rng, &timing);
        if let Some(lease) = lease {
            driver.drift_ppm_max = *rng.pick(&[0, 1, 1]) * u64::from(lease.clock_drift_ppm_max);
        }
        let shape = limits::Shape {
            command_bytes_max: padding_max + command_bytes_max,
            ballast_bytes: machine.ballast_bytes as u64,
            lease,
        };
        let mut scenario = Self {
            nodes,
            configs: limits::configs(rng, (nodes + spare).min(SERVERS_MAX), &timing, &shape),
            bootstrap_only: rng.chance(250_000).then(|| rng.index(nodes)),
            duration: rng.between(options.seconds_min * SECOND, options.seconds_min * SECOND * 5 / 4),
            operations_min: options.operations_min,
            network: network(rng, &timing),
            disk: disk(rng, &timing),
            machine,
            driver,
            clients: clients(rng, &timing, padding_max, lease.is_some()),
            faults,
            operator,
        };
        options.profile.shape(&mut scenario);
        scenario
    }
}

fn lease(rng: &mut Rng) -> Option<Lease> {
    rng.chance(350_000).then(|| Lease { clock_drift_ppm_max: *rng.pick(&[100, 10_000, 100_000, 250_000]) })
}

fn network(rng: &mut Rng, timing: &Timing) -> NetworkModel {
    let lossy = rng.chance(600_000);
    let straggling = rng.chance(400_000);
    let mut rate = |on: bool, max: u64| if on { rng.log_between(max / 64, max) as Ppm } else { 0 };
    let (loss, duplication) = (rate(lossy, 100_000), rate(lossy, 100_000));
    let straggle = rate(straggling, 50_000);
    NetworkModel {
        delay_min: rng.log_between(10 * MICROSECOND, timing.election_min / 40),
        delay_more: rng.log_between(10 * MICROSECOND, timing.election_min / 20),
        loss,
        duplication,
        straggle,
        straggle_mean: rng.log_between(timing.heartbeat, timing.election_max * 3),
        ordered: rng.chance(250_000),
        abrupt: rng.chance(500_000),
        encoded: *rng.pick(&[50_000, 200_000, 1_000_000]),
    }
}

fn disk(rng: &mut Rng, timing: &Timing) -> DiskModel {
    let slow = rng.chance(150_000);
    let sync_max = if slow { timing.election_min } else { timing.election_min / 12 };
    DiskModel {
        sync_min: rng.log_between(5 * MICROSECOND, sync_max / 2),
        sync_more: rng.log_between(5 * MICROSECOND, sync_max / 2),
        stall: *rng.pick(&[0, 0, 500, 5_000]),
        stall_mean: rng.log_between(timing.heartbeat, timing.election_max * 3),
        late_report: *rng.pick(&[0, 20_000, 200_000]),
        late_mean: rng.log_between(10 * MICROSECOND, timing.heartbeat),
        read_mean: rng.log_between(MICROSECOND, timing.heartbeat / 2),
        wreck: *rng.pick(&[0, 300_000]),
        cut_writes: *rng.pick(&[0, 500_000]),
        whole_records: rng.chance(500_000),
        snapshot_fails: *rng.pick(&[0, 0, 10_000, 100_000]),
    }
}

fn machine(rng: &mut Rng) -> MachineModel {
    MachineModel {
        task_mean: *rng.pick(&[0, 10 * MICROSECOND, MILLISECOND, 10 * MILLISECOND]),
        save: *rng.pick(&[0, 0, 30_000, 500_000]),
        late_report: *rng.pick(&[0, 100_000]),
        ballast_bytes: *rng.pick(&[0, 0, 200, 2_000, 30_000]),
    }
}

fn operator(rng: &mut Rng, timing: &Timing) -> OperatorModel {
    let busy = rng.chance(750_000);
    OperatorModel {
        interval_mean: busy.then(|| rng.log_between(timing.election_min * 2, 5 * SECOND)),
        weights: std::array::from_fn(|_| *rng.pick(&[0, 1, 1, 2, 4])),
        down_mean: rng.log_between(5 * MILLISECOND, SECOND),
    }
}

fn driver(rng: &mut Rng, timing: &Timing) -> DriverModel {
    DriverModel {
        late_poll: *rng.pick(&[0, 20_000, 300_000]),
        late_poll_mean: rng.log_between(MICROSECOND, timing.heartbeat / 4),
        late_wake: *rng.pick(&[0, 20_000]),
        late_wake_mean: rng.log_between(10 * MICROSECOND, timing.election_max),
        spurious_wake: *rng.pick(&[0, 10_000]),
        drift_ppm_max: *rng.pick(&[0, 0, 500, 50_000, 150_000]),
    }
}

fn clients(rng: &mut Rng, timing: &Timing, padding_max: u64, lease: bool) -> ClientModel {
    let clients = rng.between(2, 8);
    let requests_per_second = rng.log_between(16, 256);
    ClientModel {
        clients: clients as usize,
        think_mean: SECOND * clients / requests_per_second,
        outstanding_max: rng.between(1, 16) as usize,
        batch_max: *rng.pick(&[1, 1, 3, 8]),
        reads: *rng.pick(&[100_000, 300_000, 600_000]),
        keys: rng.between(1, 6),
        padding_max,
        patience: rng.log_between(timing.election_min, timing.election_max * 8),
        forget: *rng.pick(&[0, 500_000, 900_000]),
        stray: *rng.pick(&[5_000, 100_000, 500_000]),
        near: *rng.pick(&[0, 200_000, 1_000_000]),
        lease_reads: if lease { *rng.pick(&[200_000, 900_000]) } else { *rng.pick(&[0, 100_000]) },
    }
}

fn faults(rng: &mut Rng, timing: &Timing, lease: Option<Lease>) -> FaultModel {
    let calm = rng.chance(80_000);
    let mut weights: [u64; FaultKind::ALL.len()] = std::array::from_fn(|_| *rng.pick(&[0, 0, 1, 2, 4]));
    // A bound that is declared is mostly kept: where it is not, leases prove nothing. Without one, clocks may be off by
    // anything.
    let beyond = rng.chance(250_000);
    let drift_ppm_max = match lease {
        Some(Lease { clock_drift_ppm_max }) if beyond => u64::from(clock_drift_ppm_max) * 3,
        Some(Lease { clock_drift_ppm_max }) => u64::from(clock_drift_ppm_max),
        None => 300_000,
    };
    if lease.is_some() && !beyond {
        weights[FaultKind::ClockAhead as usize] = 0;
        weights[FaultKind::ClockBack as usize] = 0;
    }
    // What binds a voter to a leader by time is tried hardest where somebody relies on it.
    if lease.is_some() && rng.chance(700_000) {
        weights[FaultKind::Usurp as usize] = 4;
    }
    FaultModel {
        interval_mean: (!calm).then(|| rng.log_between(timing.election_min, 6 * SECOND)),
        weights,
        down_mean: rng.log_between(5 * MILLISECOND, 3 * SECOND),
        cut_mean: rng.log_between(timing.heartbeat, 6 * SECOND),
        pause_mean: rng.log_between(timing.heartbeat, timing.election_max * 4),
        flap_mean: rng.log_between(MILLISECOND, timing.election_max * 2),
        slow_mean: rng.log_between(timing.heartbeat / 4, timing.election_max),
        slow_byte_mean: *rng.pick(&[0, 1_000, 10_000, 100_000]),
        full_mean: rng.log_between(timing.heartbeat, 5 * SECOND),
        jump_mean: *rng.pick(&[10 * MILLISECOND, SECOND, 3_600 * SECOND]),
        drift_ppm_max,
        spite: if calm { 0 } else { *rng.pick(&[0, 100_000, 500_000]) },
        at_leader: *rng.pick(&[200_000, 500_000, 900_000]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_valid_and_a_seed_means_one_of_them() {
        let options = Options::default();
        let mut sizes = [0; 8];
        let (mut leases, mut joins) = (0, 0);
        for seed in 0..500 {
            let scenario = Scenario::draw(seed, &options, 0);
            sizes[scenario.nodes] += 1;
            joins += u64::from(scenario.configs.len() > scenario.nodes);
            for config in &scenario.configs {
                assert_eq!(config.validate(), Ok(()), "seed {seed}");
                let bound = config.lease.map(|lease| u64::from(lease.clock_drift_ppm_max));
                assert!(bound.is_none_or(|bound| scenario.driver.drift_ppm_max <= bound), "seed {seed}");
                leases += u64::from(bound.is_some());
            }
            assert!(scenario.duration >= 10 * SECOND);
            assert_eq!(format!("{scenario:?}"), format!("{:?}", Scenario::draw(seed, &options, 0)));
        }
        assert!(sizes[3] > 100 && sizes[5] > 60 && sizes[1] > 10 && sizes[7] > 10, "sizes drawn: {sizes:?}");
        assert!(leases > 100 && joins > 100, "{leases} with leases, {joins} with servers that join");
        let fixed = Options { nodes: Some(7), ..options };
        let scenario = Scenario::draw(3, &fixed, 0);
        assert!(scenario.nodes == 7 && scenario.configs.len() >= 7);
        let many = Scenario::draw(3, &Options { nodes: Some(64), ..fixed }, 0);
        assert_eq!(many.configs.len(), 64);
    }
}
