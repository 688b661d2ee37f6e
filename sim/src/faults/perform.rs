//! A fault is done.

use raft_core::{Event, NodeId};

use super::Fault;
use crate::check::{Broken, Check};
use crate::clock::{LocalClock, Nanos, SECOND};
use crate::marks::Mark;
use crate::network::{Flapping, Slowness};
use crate::server::Waiter;
use crate::trace::What;
use crate::workload::Workload;
use crate::world::{Happening, World, note};

impl<W: Workload> World<'_, W> {
    /// Does it. False if it had no effect.
    pub(super) fn do_fault(&mut self, fault: Fault) -> Result<bool, Broken> {
        let now = self.clock.now();
        let servers = self.servers.len();
        match fault {
            Fault::Crash { server, down } => {
                let up = self.servers[server].is_up();
                self.crash(server, down)?;
                return Ok(up);
            }
            Fault::CrashSoon { server, actions, down } => self.servers[server].crash_after(actions, down),
            Fault::CrashAll { downs } => {
                (0..servers).zip(downs).try_for_each(|(server, down)| self.crash(server, down))?;
            }
            Fault::CrashRolling { crashes } => {
                for (server, after, down) in crashes {
                    self.clock.after(after, Happening::Crash(server, down));
                }
            }
            Fault::Partition { group, lasts } => self.network.partition(group, now + lasts),
            Fault::Isolate { server, lasts } => self.network.partition(1 << server, now + lasts),
            Fault::OneWay { from, to, lasts } => self.network.cut(from, to, now + lasts),
            Fault::Deaf { server, lasts } => {
                (0..servers).for_each(|from| self.network.cut(from, server, now + lasts));
            }
            Fault::Mute { server, lasts } => {
                (0..servers).for_each(|to| self.network.cut(server, to, now + lasts));
            }
            Fault::Flap { server, peer, lasts, down, up } => {
                let flapping = Flapping { from: now, until: now + lasts, down, up };
                for (from, to) in links(servers, server, peer) {
                    self.network.flap(from, to, flapping);
                }
            }
            Fault::Slow { server, peer, lasts, delay, nanos_per_byte } => {
                let slowness = Slowness { until: now + lasts, delay, nanos_per_byte, queue_max: SECOND };
                for (from, to) in links(servers, server, peer) {
                    self.network.slow(from, to, slowness);
                }
            }
            Fault::Pause { server, lasts } => self.servers[server].pause(now + lasts),
            Fault::Stall { server, lasts } => self.servers[server].stall(now + lasts),
            Fault::SlowDisk { server, lasts, more_mean } => {
                self.servers[server].slow_down(now + lasts, more_mean);
            }
            Fault::DiskError { server, failing } => self.servers[server].fail_disk(failing),
            Fault::DiskFull { server, lasts } => self.servers[server].fill_disk(now + lasts),
            Fault::BitRot { server, down, snapshot, bit } => return self.rot(server, down, snapshot, bit),
            Fault::DiskLost { server } => return self.lose_disk(server),
            Fault::ClockAhead { server, by } => {
                self.mark_if_up(server, Mark::ClockSetAhead);
                self.disturb_clock(server, true, |clock| clock.jump_ahead(now, by));
            }
            Fault::ClockBack { server, by } => {
                self.mark_if_up(server, Mark::ClockStoodStill);
                self.disturb_clock(server, true, |clock| clock.jump_back(now, by));
            }
            Fault::ClockSpeed { server, drift_ppm } => {
                let lease = self.scenario.configs[server].lease;
                let beyond = lease.is_some_and(|lease| drift_ppm.unsigned_abs() > lease.clock_drift_ppm_max);
                self.disturb_clock(server, beyond, |clock| clock.set_drift(now, drift_ppm));
            }
            Fault::Usurp { leader, lasts, alone, down, usurper, delay, every, times } => {
                for other in (0..servers).filter(|at| *at != leader) {
                    self.network.cut(other, leader, now + lasts);
                    if alone {
                        self.network.cut(leader, other, now + lasts);
                    }
                    if let Some(down) = down {
                        self.crash(other, down)?;
                    }
                    if usurper.is_none_or(|usurper| usurper == other) {
                        let when = (0..times).map(|time| delay + time * every);
                        when.for_each(|after| self.clock.after(after, Happening::Usurp(other)));
                    }
                }
            }
            Fault::Campaign { server } => self.campaign(server)?,
            Fault::Unreachable { server, peer } if self.servers[server].is_awake(now) => {
                self.step(server, Event::Unreachable(NodeId::new(peer as u64 + 1)))?;
            }
            Fault::Unreachable { .. } => return Ok(false),
        }
        Ok(true)
    }

    fn mark_if_up(&mut self, at: usize, mark: Mark) {
        if self.servers[at].is_up() {
            self.checks.mark(mark);
        }
    }

    /// A clock does what a good one would not. `beyond`: more than a declared bound allows, if one is declared.
    fn disturb_clock(&mut self, at: usize, beyond: bool, how: impl FnOnce(&mut LocalClock)) {
        if beyond && self.scenario.configs[at].lease.is_some() {
            self.checks.lease_unbound();
            self.summary.beyond_bound = 1;
        }
        self.servers[at].change_clock(how);
        self.set_timer(at);
    }

    /// An operator wants an election here, if the server is there and the faults are not over.
    pub(crate) fn campaign(&mut self, at: usize) -> Check {
        if self.settling || !self.servers[at].is_awake(self.clock.now()) {
            return Ok(());
        }
        let ticket = self.servers[at].ticket(Waiter::Campaign);
        self.step(at, Event::Campaign { ticket })
    }

    /// A server's turn in a rolling restart.
    pub(crate) fn crash_in_turn(&mut self, at: usize, down: Nanos) -> Check {
        if self.settling { Ok(()) } else { self.crash(at, down) }
    }

    /// Sometimes the network fails at the worst moment: a leader that hands over does not hear what comes of it.
    pub(crate) fn spite(&mut self, leader: usize) {
        let rng = &mut self.servers[leader].rng;
        if self.settling || !rng.chance(self.scenario.faults.spite) {
            return;
        }
        let lasts = rng.exponential(self.scenario.faults.cut_mean);
        let (now, servers) = (self.clock.now(), self.servers.len());
        self.summary.spites += 1;
        note!(self, None, What::fault(&Fault::Deaf { server: leader, lasts }, now, servers));
        (0..servers).for_each(|other| self.network.cut(other, leader, now + lasts));
    }
}

/// Both directions between two servers, or all links of one.
fn links(servers: usize, server: usize, peer: Option<usize>) -> impl Iterator<Item = (usize, usize)> {
    let others = (0..servers).filter(move |other| *other != server && peer.is_none_or(|peer| peer == *other));
    others.flat_map(move |other| [(server, other), (other, server)])
}
