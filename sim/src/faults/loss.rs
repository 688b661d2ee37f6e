//! Disks that are lost or rot: how many a cluster can bear, and how it gets over it.
//!
//! * A server without its disk never comes back under its id: it has forgotten what it promised. The operator removes
//!   the id, and a server that has never stored anything joins under its own.
//! * A changed bit is found at the start, which is refused. From then on the disk is as good as lost.
//! * A disk is lost only while the last configuration is committed and settled, none other may come into force, and a
//!   majority keeps its disks: whoever they elect holds everything committed.

use std::collections::BTreeSet;

use raft_core::{MembershipChange, NodeId};

use crate::check::Broken;
use crate::clock::Nanos;
use crate::disk::Rot;
use crate::marks::Mark;
use crate::workload::Workload;
use crate::world::World;

impl<W: Workload> World<'_, W> {
    /// A server crashes, and its disk is gone.
    pub(super) fn lose_disk(&mut self, at: usize) -> Result<bool, Broken> {
        if !self.can_lose(at) {
            return Ok(false);
        }
        self.crash(at, 0)?;
        self.servers[at].lose_disk();
        Ok(true)
    }

    /// A server crashes, and a bit of what it had synced changes.
    pub(super) fn rot(&mut self, at: usize, down: Nanos, snapshot: bool, bit: u64) -> Result<bool, Broken> {
        if !self.can_lose(at) {
            return Ok(false);
        }
        self.crash(at, down)?;
        let unsynced = self.servers[at].survived();
        let rot = self.servers[at].rot(snapshot, bit);
        if matches!(rot, Rot::Tail { whole } if whole < unsynced) {
            self.checks.mark(Mark::RotInTail);
        }
        Ok(rot != Rot::Nowhere)
    }

    /// Whether the cluster can bear the loss of this server's disk.
    fn can_lose(&self, at: usize) -> bool {
        let gone = |node: NodeId| {
            let other = usize::try_from(node.get()).unwrap_or(0).wrapping_sub(1);
            other == at || self.servers.get(other).is_none_or(|server| server.is_lost())
        };
        !self.servers[at].is_lost() && !self.operator.is_changing() && self.checks.can_do_without(gone)
    }

    /// The members that have lost their disks.
    pub(crate) fn lost_members(&self) -> BTreeSet<NodeId> {
        let lost = self.servers.iter().filter(|server| server.is_lost()).map(|server| server.status().id);
        let members = self.checks.configuration().map(|(_, in_force)| in_force.members()).unwrap_or_default();
        lost.filter(|node| members.contains(node)).collect()
    }

    /// Whether a change may be asked for: as long as a member is without its disk, only what removes it.
    pub(crate) fn may_ask(&self, change: &MembershipChange) -> bool {
        let lost = self.lost_members();
        match change {
            MembershipChange::Update { remove, .. } => lost.is_subset(remove),
            MembershipChange::Set { target, .. } => {
                lost.is_disjoint(&target.voters) && lost.is_disjoint(&target.learners)
            }
            MembershipChange::Cancel | MembershipChange::SetAddress { .. } => true,
        }
    }

    /// Whether a change puts another server in the place of one that has lost its disk.
    pub(crate) fn replaces_lost(&self, change: &MembershipChange) -> bool {
        let MembershipChange::Update { voters, remove, .. } = change else { return false };
        let lost = self.servers.iter().filter(|server| server.is_lost()).map(|server| server.status().id);
        !voters.is_empty() && lost.into_iter().any(|node| remove.contains(&node))
    }

    /// Replaces the members that have lost their disks by servers that have never stored anything.
    pub(crate) fn replacement(&mut self) -> Option<MembershipChange> {
        let remove = self.lost_members();
        let (_, in_force) = self.checks.configuration()?;
        let fresh = self.servers.iter().filter(|server| server.is_pristine() && !server.is_lost());
        let fresh = fresh.map(|server| server.status().id).filter(|id| !in_force.contains(*id));
        let wanted = remove.intersection(&in_force.voters).count();
        let voters: BTreeSet<NodeId> = fresh.take(wanted).collect();
        (!remove.is_empty()).then(|| self.update(voters, BTreeSet::new(), remove))
    }
}
