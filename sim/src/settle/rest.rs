//! Everything heals, and the cluster has to come to rest.
//!
//! * A change of the membership completes, then a new write commits, every request is answered, and all members hold
//!   the same state. A server that was removed is cut loose.
//! * What snapshots replace is dropped from the logs, as far as the configuration says.
//! * The leadership can be handed to another voter.

use raft_core::{
    AdminOutcome, AdminRefusal, LogIndex, Membership, MembershipChange, NodeId, RoleKind, SnapshotPolicy,
};

use super::slot;
use crate::check::{Broken, Check};
use crate::clock::MILLISECOND;
use crate::operator::{ErrandId, Order};
use crate::server::Server;
use crate::trace::What;
use crate::workload::Workload;
use crate::world::{World, note};

/// How often a transfer among healthy servers may fail: clocks differ, and messages cross.
const TRANSFERS_MAX: u32 = 4;

/// What remains to be done.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// The last change of the membership, with the errand under way for it. `None`: done, or none wanted.
    change: Option<(Order, Option<ErrandId>)>,
    transfer: Transfer,
}

/// The leadership is handed over once more.
#[derive(Debug, Default)]
struct Transfer {
    under_way: Option<(NodeId, ErrandId)>,
    tries: u32,
    done: bool,
}

impl<W: Workload> World<'_, W> {
    /// Everything heals, everybody who is needed starts.
    pub(super) fn heal(&mut self) -> Check {
        note!(self, None, What::FaultsOver);
        self.repair()?;
        self.network.heal();
        let needed = self.needed();
        for server in 0..self.servers.len() {
            self.heal_server(server);
            if needed.contains(&self.servers[server].status().id) {
                self.servers[server].enlist(true);
            }
            self.start(server)?;
            self.set_timer(server);
        }
        self.stage(None);
        let changes = self.scenario.operator.interval_mean.is_some() || !self.lost_members().is_empty();
        let change = changes.then(|| (Order::Change(self.replace()), None));
        if let Some((Order::Change(MembershipChange::Set { target, .. }), _)) = &change {
            let wanted: Vec<NodeId> = target.voters.union(&target.learners).copied().collect();
            for at in wanted.into_iter().map(slot) {
                if !self.servers[at].is_enlisted() {
                    let delay = self.operator.rng.below(100 * MILLISECOND);
                    self.switch_on(at, delay);
                }
            }
        }
        self.settle.rest.change = change;
        Ok(())
    }

    /// What keeps the cluster from being at rest.
    pub(super) fn missing(&mut self) -> Result<Option<String>, Broken> {
        self.drive_change()?;
        if let Some((change, _)) = &self.settle.rest.change {
            return Ok(Some(format!("{change:?} has not completed")));
        }
        if !self.wrote()? {
            return Ok(Some("a new write has not committed".to_owned()));
        }
        if let Some(missing) = self.restless() {
            return Ok(Some(missing));
        }
        self.drive_transfer()
    }

    /// Asks for the last change of the membership, again and again if it is refused for a passing reason.
    fn drive_change(&mut self) -> Check {
        let Some((order, errand)) = &self.settle.rest.change else { return Ok(()) };
        let order = order.clone();
        let arrived = AdminOutcome::Refused(AdminRefusal::NoChange);
        match errand.map(|errand| self.operator.outcome(errand).cloned()) {
            // Under way.
            Some(None) => return Ok(()),
            Some(Some(Some(outcome))) if outcome == AdminOutcome::Done || outcome == arrived => {
                self.settle.rest.change = None;
                return Ok(());
            }
            _ => {}
        }
        let Some(leader) = self.leader() else { return Ok(()) };
        let errand = self.give(leader, order.clone())?;
        if self.settle.rest.change.is_some() {
            self.settle.rest.change = Some((order, Some(errand)));
        }
        Ok(())
    }

    /// Hands the leadership over, when everything else is done.
    fn drive_transfer(&mut self) -> Result<Option<String>, Broken> {
        let transfer = &mut self.settle.rest.transfer;
        if transfer.done {
            return Ok(None);
        }
        if let Some((to, errand)) = transfer.under_way {
            let Some(outcome) = self.operator.outcome(errand) else {
                return Ok(Some(format!("the leadership has not gone to n{to}")));
            };
            let (done, outcome) =
                (*outcome == Some(AdminOutcome::Transferred { to }), format!("{outcome:?}"));
            (transfer.done, transfer.under_way) = (done, None);
            if !done && transfer.tries >= TRANSFERS_MAX {
                let what = format!("a transfer to n{to} ended with {outcome}, and so did those before");
                return Err(self.stuck(&what));
            }
            // What the new leader has to do first is waited for.
            return Ok(Some("a transfer has just ended".to_owned()));
        }
        let leader = self.leader().map(|leader| self.servers[leader].status().id);
        let voters =
            self.checks.configuration().map(|(_, in_force)| in_force.voters.clone()).unwrap_or_default();
        let others: Vec<NodeId> = voters.into_iter().filter(|node| Some(*node) != leader).collect();
        let (Some(leader), false) = (leader, others.is_empty()) else { return Ok(None) };
        let to = *self.operator.rng.pick(&others);
        let errand = self.give(slot(leader), Order::Transfer(Some(to)))?;
        let transfer = &mut self.settle.rest.transfer;
        (transfer.under_way, transfer.tries) = (Some((to, errand)), transfer.tries + 1);
        Ok(Some(format!("the leadership has not gone to n{to}")))
    }

    fn restless(&self) -> Option<String> {
        let committed = self.checks.committed();
        let Some(leader) = self.leader() else { return Some("nobody leads".to_owned()) };
        let Some((at, in_force)) = self.checks.configuration() else {
            return Some("there is no configuration".to_owned());
        };
        if in_force.is_joint() || in_force.intent.is_some() {
            return Some(format!("the change at {at} is not finished: {in_force:?}"));
        }
        let members = || in_force.members().into_iter().map(|node| &self.servers[slot(node)]);
        for server in members() {
            let (status, machine) = (server.status(), server.machine());
            if status.applied != committed || machine.applied().index != committed {
                return Some(format!("n{} has applied {} of {committed}", status.id, status.applied));
            }
            if server.waiting() > 0 {
                return Some(format!("n{} has not answered {} requests", status.id, server.waiting()));
            }
            if let Some(kept) = self.uncompacted(server) {
                return Some(kept);
            }
        }
        self.unruly(leader, in_force)
    }

    /// What is not as it should be with whoever leads.
    fn unruly(&self, leader: usize, in_force: &Membership) -> Option<String> {
        let members = || in_force.members().into_iter().map(|node| &self.servers[slot(node)]);
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

    /// What a server's log still has though a snapshot replaces it, or which snapshot it should have taken.
    fn uncompacted(&self, server: &Server<W::Machine>) -> Option<String> {
        let (status, config) = (server.status(), &self.scenario.configs[slot(server.status().id)]);
        let spared = status.snapshot.index.get().saturating_sub(config.compaction_margin_entries);
        let through = LogIndex::new(spared).min(status.applied).min(status.durable);
        if status.base.index < through {
            return Some(format!(
                "n{} has compacted its log through {} of {through}",
                status.id, status.base
            ));
        }
        // After one that could not be kept the next is due as if it had been.
        let since = status.applied.since(status.snapshot.index.max(server.lost_snapshot()));
        match config.snapshot_policy {
            SnapshotPolicy::LogsSinceLast(entries) if since >= 2 * entries => {
                Some(format!("n{} has taken no snapshot since {}", status.id, status.snapshot))
            }
            _ => None,
        }
    }
}
