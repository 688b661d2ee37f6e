//! How a run ends: first a majority is healed while the rest stays broken for good ([`part`]), then everything
//! ([`rest`]). Each time the cluster has to come to rest in bounded time.
//!
//! * As long as anything moves, the cluster is given time; when nothing does, it has failed.
//! * Whatever is drawn here comes from the operator's stream, which begins anew when the faults end.

mod part;
mod rest;

use std::time::Duration;

use raft_core::NodeId;

use crate::check::{Broken, Check, OpId};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::server::Server;
use crate::workload::Workload;
use crate::world::{Happening, World};

use part::Part;
use rest::Rest;

/// Simulated time beyond which a cluster that still makes progress is taken to be too slow.
const SETTLE_MAX: Nanos = 2_000 * SECOND;

/// How often it is looked at.
const LOOK: Nanos = 10 * MILLISECOND;

/// How far the cluster has come.
#[derive(Debug, Default)]
pub(crate) struct Settle {
    began: Nanos,
    /// Advances whenever anything becomes durable, is applied or answered.
    progress: u64,
    progressed_at: Nanos,
    /// While a part of the cluster is broken for good.
    part: Option<Part>,
    rest: Rest,
    /// The write that has to commit now.
    last_write: Option<OpId>,
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The place of a server.
fn slot(node: NodeId) -> usize {
    usize::try_from(node.get()).unwrap_or(1).saturating_sub(1)
}

impl<W: Workload> World<'_, W> {
    /// The time for faults is over.
    pub(crate) fn settle(&mut self) -> Check {
        self.settling = true;
        self.soothe();
        if !self.break_for_good()? {
            self.heal()?;
        }
        self.clock.after(0, Happening::Settle);
        Ok(())
    }

    /// From now on disks and processes are as fast as they are on a good day: what is slow at random for ever would be
    /// a fault that never ends.
    fn soothe(&mut self) {
        let election_min =
            self.scenario.configs.iter().map(|config| nanos(config.election_timeout_min)).min();
        let heartbeat = self.scenario.configs.iter().map(|config| nanos(config.heartbeat_interval)).min();
        let (election_min, heartbeat) = (election_min.unwrap_or(SECOND), heartbeat.unwrap_or(SECOND));
        let (disk, driver) = (&mut self.scenario.disk, &mut self.scenario.driver);
        (disk.stall, disk.snapshot_fails) = (0, 0);
        disk.sync_min = disk.sync_min.min(election_min / 24);
        disk.sync_more = disk.sync_more.min(election_min / 24);
        // Drawn without an upper end: a sync that is reported too late is a disk that stands still.
        disk.late_mean = disk.late_mean.min(heartbeat / 16);
        driver.late_wake = 0;
        driver.late_poll_mean = driver.late_poll_mean.min(heartbeat / 16);
    }

    /// A server works again. If it stood still, what waits for it is waited for no longer.
    fn heal_server(&mut self, at: usize) {
        if let Some(until) = self.servers[at].heal(self.clock.now()) {
            let node = self.servers[at].status().id;
            self.clock.hasten(until, |happening| happening.waits_for(at, node));
        }
        self.resume_sync(at);
    }

    /// The longest election timeout of any server, in true time: its clock may be slow.
    fn election_max(&self) -> Nanos {
        let longest = self.scenario.configs.iter().map(|config| nanos(config.election_timeout_max)).max();
        let slowest = 1_000_000 - self.scenario.driver.drift_ppm_max.min(900_000);
        longest.unwrap_or_default() * 1_000_000 / slowest
    }

    /// For how long nothing may move before the cluster has failed.
    fn patience(&self) -> Nanos {
        let catch_up = self.scenario.configs.iter().map(|config| nanos(config.catch_up_timeout)).max();
        (40 * self.election_max()).max(10 * SECOND) + 2 * catch_up.unwrap_or_default()
    }

    /// Whether a client or an operator may still ask this server: what is broken for good may never answer.
    pub(crate) fn may_answer(&self, at: usize) -> bool {
        self.settle.part.as_ref().is_none_or(|part| part.may_answer(at))
    }

    /// The last write found another entry in its place, or nobody knows: its client writes another one.
    pub(crate) fn again_if_last(&mut self, op: OpId) -> Check {
        if self.settling && self.settle.last_write == Some(op) {
            self.settle.last_write = Some(self.last_request()?);
        }
        Ok(())
    }

    /// Whether the run is over. It fails if nothing moves any more and the cluster has not come to rest.
    pub(crate) fn settled(&mut self) -> Result<bool, Broken> {
        let missing = if self.settle.part.is_some() { self.missing_inside()? } else { self.missing()? };
        let Some(missing) = missing else {
            if self.settle.part.is_none() {
                self.summary.undecided += self.checks.operations.finish()?;
                return Ok(true);
            }
            self.heal()?;
            self.clock.after(LOOK, Happening::Settle);
            return Ok(false);
        };
        let now = self.clock.now();
        // A slow disk that writes one entry at a time may be busy for long with what it has to catch up.
        let moved =
            |server: &Server<W::Machine>| server.status().applied.get() + server.status().durable.get();
        let inside = (0..self.servers.len()).filter(|at| self.may_answer(*at));
        let moved: u64 = inside.map(|at| moved(&self.servers[at])).sum();
        let progress = moved + self.clients.answered() + self.summary.chunks;
        if progress != self.settle.progress {
            (self.settle.progress, self.settle.progressed_at) = (progress, now);
        }
        let (idle, all) = (now - self.settle.progressed_at, now - self.settle.began);
        if idle > self.patience() || all > SETTLE_MAX {
            if self.is_excused() {
                self.heal()?;
            } else {
                return Err(self.stuck(&missing));
            }
        }
        self.clock.after(LOOK, Happening::Settle);
        Ok(false)
    }

    fn stuck(&self, missing: &str) -> Broken {
        let since = (self.clock.now() - self.settle.began) / MILLISECOND;
        let healed = if self.settle.part.is_some() { "a majority" } else { "everything" };
        Broken::new("liveness", format!("{since} ms after {healed} was healed: {missing}"))
    }

    /// A stage of the end begins.
    fn stage(&mut self, part: Option<Part>) {
        let now = self.clock.now();
        self.settle.part = part;
        (self.settle.began, self.settle.progressed_at, self.settle.progress) = (now, now, 0);
        self.settle.last_write = None;
    }

    /// Whether a server is to stay broken.
    fn is_outside(&self, at: usize) -> bool {
        self.settle.part.as_ref().is_some_and(|part| part.is_outside(at))
    }

    /// Whether a server is no member of the last configuration.
    fn has_left(&self, at: usize) -> bool {
        let id = self.servers[at].status().id;
        self.checks.configuration().is_some_and(|(_, in_force)| !in_force.contains(id))
    }

    /// Whether the last write has succeeded. If none was asked for yet, one is.
    fn wrote(&mut self) -> Result<bool, Broken> {
        let op = match self.settle.last_write {
            // Who stays broken owes nobody an answer, and who was removed may never hear what becomes of it: then another
            // one is asked for.
            Some(op)
                if !self.clients.held_by(op).is_some_and(|at| self.is_outside(at) || self.has_left(at)) =>
            {
                op
            }
            _ => self.last_request()?,
        };
        self.settle.last_write = Some(op);
        Ok(self.clients.is_answered(op))
    }
}
