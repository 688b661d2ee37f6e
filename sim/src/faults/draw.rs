//! A fault is drawn: which, of whom, for how long.

use raft_core::RoleKind;

use super::{Fault, FaultKind, USURP_TIMES_MAX};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::disk::Failing;
use crate::rng::Rng;
use crate::workload::Workload;
use crate::world::World;

impl<W: Workload> World<'_, W> {
    pub(super) fn draw_fault(&mut self) -> Option<Fault> {
        let kind = self.fault_rng.weighted(&FaultKind::ALL, &self.scenario.faults.weights)?;
        let server = self.victim();
        let leader = self.leader();
        let servers = self.servers.len();
        let usurpers = leader.map(|leader| self.other_voters(leader)).unwrap_or_default();
        let (rng, model) = (&mut self.fault_rng, &self.scenario.faults);
        let config = &self.scenario.configs[server];
        let cut = rng.exponential(model.cut_mean);
        let pause = rng.exponential(model.pause_mean);
        let down = rng.exponential(model.down_mean);
        let other = (server + 1 + rng.index(servers.max(2) - 1)) % servers;
        // One link as often as all of a server.
        let peer = (rng.chance(500_000) && other != server).then_some(other);
        Some(match kind {
            FaultKind::Crash => Fault::Crash { server, down },
            FaultKind::CrashSoon => Fault::CrashSoon { server, actions: rng.between(1, 30), down },
            FaultKind::CrashAll => {
                Fault::CrashAll { downs: (0..servers).map(|_| rng.exponential(model.down_mean)).collect() }
            }
            FaultKind::CrashRolling => rolling(rng, servers, model.down_mean),
            FaultKind::Partition => Fault::Partition { group: rng.bits(), lasts: cut },
            FaultKind::Isolate => Fault::Isolate { server, lasts: cut },
            FaultKind::OneWay if other == server => return None,
            FaultKind::OneWay => Fault::OneWay { from: server, to: other, lasts: cut },
            FaultKind::Deaf => Fault::Deaf { server, lasts: cut },
            FaultKind::Mute => Fault::Mute { server, lasts: cut },
            FaultKind::Flap => {
                let mut phase = || MILLISECOND + rng.exponential(model.flap_mean);
                Fault::Flap { server, peer, lasts: cut, down: phase(), up: phase() }
            }
            FaultKind::Slow => {
                let (delay, nanos_per_byte) = (rng.exponential(model.slow_mean), model.slow_byte_mean);
                Fault::Slow { server, peer, lasts: cut, delay, nanos_per_byte }
            }
            FaultKind::Pause => Fault::Pause { server, lasts: pause },
            FaultKind::Stall => Fault::Stall { server, lasts: pause },
            FaultKind::SlowDisk => {
                Fault::SlowDisk { server, lasts: cut, more_mean: rng.exponential(model.slow_mean) }
            }
            FaultKind::DiskError if rng.chance(500_000) => {
                Fault::DiskError { server, failing: Failing::Sync }
            }
            FaultKind::DiskError => {
                let failing = Failing::Append { kept_bytes: rng.index(200) };
                Fault::DiskError { server, failing }
            }
            FaultKind::DiskFull => Fault::DiskFull { server, lasts: rng.exponential(model.full_mean) },
            FaultKind::BitRot => {
                Fault::BitRot { server, down, snapshot: rng.chance(300_000), bit: rng.bits() }
            }
            FaultKind::DiskLost => Fault::DiskLost { server },
            FaultKind::ClockAhead => Fault::ClockAhead { server, by: rng.exponential(model.jump_mean) },
            // It stands still for so long: as long as other things that stand still.
            FaultKind::ClockBack => Fault::ClockBack { server, by: pause.min(30 * SECOND) },
            FaultKind::ClockSpeed => {
                let most = model.drift_ppm_max;
                let drift = i32::try_from(rng.between(0, 2 * most)).unwrap_or(0);
                Fault::ClockSpeed { server, drift_ppm: drift - i32::try_from(most).unwrap_or(0) }
            }
            FaultKind::Campaign => Fault::Campaign { server },
            FaultKind::Unreachable if other == server => return None,
            FaultKind::Unreachable => Fault::Unreachable { server, peer: other },
            FaultKind::Usurp => {
                let leader = leader?;
                // Where a lease is relied on, nothing of the leader may remind the others of it.
                let alone = config.lease.is_some() || rng.chance(500_000);
                let down = rng.exponential(MILLISECOND);
                let down = rng.chance(500_000).then_some(down);
                let delay = rng.between(3 * MILLISECOND, 40 * MILLISECOND);
                let usurper = (!usurpers.is_empty()).then(|| *rng.pick(&usurpers));
                // A voter that is bound refuses: asked again and again, it runs as early as can be.
                let (least, most) =
                    (config.election_timeout_min.as_nanos(), config.election_timeout_max.as_nanos());
                let every = u64::try_from(least / 16).unwrap_or(MILLISECOND).max(1);
                let span = u64::try_from(most * 3 / 2).unwrap_or(SECOND);
                let times = (span / every).min(USURP_TIMES_MAX);
                Fault::Usurp { leader, lasts: cut.max(span), alone, down, usurper, delay, every, times }
            }
        })
    }

    fn victim(&mut self) -> usize {
        let leader = self.servers.iter().position(|server| server.status().role == RoleKind::Leader);
        match leader {
            Some(leader) if self.fault_rng.chance(self.scenario.faults.at_leader) => leader,
            // A server that takes no part is spared.
            _ => {
                let there: Vec<usize> =
                    (0..self.servers.len()).filter(|at| self.servers[*at].is_enlisted()).collect();
                if there.is_empty() { 0 } else { *self.fault_rng.pick(&there) }
            }
        }
    }

    /// The voters beside a leader that are up, by the configuration in force there.
    fn other_voters(&self, leader: usize) -> Vec<usize> {
        let in_force = self.checks.in_force(self.servers[leader].status().id);
        let votes = |at: &usize| {
            let server = &self.servers[*at];
            *at != leader && server.is_up() && in_force.is_voter(server.status().id)
        };
        (0..self.servers.len()).filter(votes).collect()
    }
}

/// As an upgrade goes: one server after the other, with or without a pause between them.
fn rolling(rng: &mut Rng, servers: usize, down_mean: Nanos) -> Fault {
    let first = rng.index(servers);
    let gap_mean = *rng.pick(&[0, down_mean, SECOND]);
    let mut at = 0;
    let crashes = (0..servers).map(|step| {
        let down = rng.exponential(down_mean);
        let crash = ((first + step) % servers, at, down);
        at += down + rng.exponential(gap_mean);
        crash
    });
    Fault::CrashRolling { crashes: crashes.collect() }
}
