//! How a run ends: everything heals, and the cluster has to come to rest in bounded time.
//!
//! * A change of the membership completes, then a new write commits, every request is answered, and all members hold
//!   the same state. A server that was removed is cut loose.
//! * As long as anything moves, the cluster is given time; when nothing does, it has failed.

use raft_core::{AdminOutcome, AdminRefusal, NodeId, RoleKind};

use crate::check::{Broken, Check, OpId};
use crate::clock::{MILLISECOND, Nanos, SECOND};
use crate::operator::{ErrandId, Order};
use crate::world::{Happening, World, say};

/// Simulated time beyond which a cluster that still makes progress is taken to be too slow.
const SETTLE_MAX: Nanos = 2_000 * SECOND;

/// How far the cluster has come.
#[derive(Debug, Default)]
pub(crate) struct Settle {
    began: Nanos,
    /// Advances whenever anything becomes durable, is applied or answered.
    progress: u64,
    progressed_at: Nanos,
    /// The last change of the membership, with the errand under way for it. `None`: done, or none wanted.
    change: Option<(Order, Option<ErrandId>)>,
    last_write: Option<OpId>,
}

impl World<'_> {
    /// The faults are over: everything heals, everybody who is needed starts.
    pub(crate) fn heal(&mut self) -> Check {
        say!(self, "---- the faults are over ----");
        self.settling = true;
        self.network.heal();
        self.scenario.disk.stall = 0;
        self.scenario.disk.snapshot_fails = 0;
        self.scenario.driver.late_wake = 0;
        let needed = self.needed();
        for server in 0..self.servers.len() {
            self.servers[server].heal();
            if needed.contains(&self.servers[server].status().id) {
                self.servers[server].enlist(true);
            }
            self.start(server)?;
        }
        let now = self.clock.now();
        let changes = self.scenario.operator.interval_mean.is_some();
        let change = changes.then(|| (Order::Change(self.replace()), None));
        self.settle = Settle { began: now, progressed_at: now, progress: 0, change, last_write: None };
        if let Some((Order::Change(raft_core::MembershipChange::Set { target, .. }), _)) = &self.settle.change
        {
            let wanted: Vec<NodeId> = target.voters.union(&target.learners).copied().collect();
            for node in wanted {
                let at = usize::try_from(node.get()).unwrap_or(1) - 1;
                if !self.servers[at].is_enlisted() {
                    self.switch_on(at);
                }
            }
        }
        self.clock.after(0, Happening::Settle);
        Ok(())
    }

    /// The last write found another entry in its place, or nobody knows: its client writes another one.
    pub(crate) fn again_if_last(&mut self, op: OpId) {
        if self.settling && self.settle.last_write == Some(op) {
            self.settle.last_write = Some(self.last_request());
        }
    }

    /// Whether the cluster has come to rest. It fails if nothing moves any more and it has not.
    pub(crate) fn settled(&mut self) -> Result<bool, Broken> {
        self.drive_change()?;
        if self.settle.change.is_none() && self.settle.last_write.is_none() {
            self.settle.last_write = Some(self.last_request());
        }
        let missing = self.missing();
        if missing.is_none() {
            return Ok(true);
        }
        let now = self.clock.now();
        // A slow disk that writes one entry at a time may be busy for long with what it has to catch up.
        let moved = self.servers.iter().map(|server| {
            let status = server.status();
            status.applied.get() + status.durable.get()
        });
        let progress = moved.sum::<u64>() + self.clients.answered() + self.summary.chunks;
        if progress != self.settle.progress {
            (self.settle.progress, self.settle.progressed_at) = (progress, now);
        }
        let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let configs = || self.scenario.configs.iter();
        let election_max =
            configs().map(|config| nanos(config.election_timeout_max)).max().unwrap_or_default();
        let catch_up = configs().map(|config| nanos(config.catch_up_timeout)).max().unwrap_or_default();
        let patience = (40 * election_max).max(10 * SECOND) + 2 * catch_up;
        if now - self.settle.progressed_at > patience || now - self.settle.began > SETTLE_MAX {
            let what = missing.unwrap_or_default();
            let healed = (now - self.settle.began) / MILLISECOND;
            return Err(Broken::new("liveness", format!("{healed} ms after everything healed: {what}")));
        }
        self.clock.after(10 * MILLISECOND, Happening::Settle);
        Ok(false)
    }

    /// Asks for the last change of the membership, again and again if it is refused for a passing reason.
    fn drive_change(&mut self) -> Check {
        let Some((order, errand)) = &self.settle.change else { return Ok(()) };
        let order = order.clone();
        let arrived = AdminOutcome::Refused(AdminRefusal::NoChange);
        match errand.map(|errand| self.operator.outcome(errand).cloned()) {
            // Under way.
            Some(None) => return Ok(()),
            Some(Some(Some(outcome))) if outcome == AdminOutcome::Done || outcome == arrived => {
                self.settle.change = None;
                return Ok(());
            }
            _ => {}
        }
        let Some(leader) = self.leader() else { return Ok(()) };
        let errand = self.give(leader, order.clone())?;
        if self.settle.change.is_some() {
            self.settle.change = Some((order, Some(errand)));
        }
        Ok(())
    }

    /// What keeps the cluster from being at rest.
    fn missing(&self) -> Option<String> {
        let committed = self.checks.committed();
        let Some(leader) = self.leader() else { return Some("nobody leads".to_owned()) };
        if let Some((change, _)) = &self.settle.change {
            return Some(format!("{change:?} has not completed"));
        }
        if !self.settle.last_write.is_some_and(|op| self.clients.is_answered(op)) {
            return Some("a new write has not committed".to_owned());
        }
        let Some((at, in_force)) = self.checks.configuration() else {
            return Some("there is no configuration".to_owned());
        };
        if in_force.is_joint() || in_force.intent.is_some() {
            return Some(format!("the change at {at} is not finished: {in_force:?}"));
        }
        let members = || {
            in_force
                .members()
                .into_iter()
                .map(|node| &self.servers[usize::try_from(node.get()).unwrap_or(1) - 1])
        };
        for server in members() {
            let (status, machine) = (server.status(), server.machine());
            if status.applied != committed || machine.applied().index != committed {
                return Some(format!("n{} has applied {} of {committed}", status.id, status.applied));
            }
            if server.waiting() > 0 {
                return Some(format!("n{} has not answered {} requests", status.id, server.waiting()));
            }
        }
        let leader = &self.servers[leader];
        if !in_force.is_voter(leader.status().id) {
            return Some(format!("n{} leads and has left", leader.status().id));
        }
        if *leader.peers() != in_force.members() {
            return Some(format!("n{} is connected to {:?}", leader.status().id, leader.peers()));
        }
        let others = members().filter(|server| server.status().role == RoleKind::Leader).count();
        if others > 1 {
            return Some(format!("{others} lead"));
        }
        let digests = || members().map(|server| server.machine().state().digest);
        (digests().max() != digests().min()).then(|| "the state machines differ".to_owned())
    }
}
