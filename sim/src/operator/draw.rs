//! What the operator wants next, drawn: from what is committed and who leads, and sometimes nonsense.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft_core::{AdminRefusal, Membership, MembershipChange, NodeId, Target};

use super::{Act, Move, Order};
use crate::clock::MILLISECOND;
use crate::workload::Workload;
use crate::world::World;

impl<W: Workload> World<'_, W> {
    pub(super) fn draw_move(&mut self) -> Option<Move> {
        let weights = self.scenario.operator.weights;
        let act = self.operator.rng.weighted(&Act::ALL, &weights)?;
        let in_force = self.checks.configuration().map(|(_, in_force)| Membership::clone(in_force))?;
        let leader = self.leader();
        // First of all the cluster gets back what it has lost.
        if act.changes_members() && !self.lost_members().is_empty() {
            let change = self.replacement()?;
            return self.addressed(Order::Change(change), leader);
        }
        let change = match act {
            Act::Grow => self.grow(&in_force),
            Act::Shrink => self.shrink(&in_force, None),
            Act::RemoveLeader => {
                self.shrink(&in_force, leader.map(|leader| self.servers[leader].status().id))
            }
            Act::Replace => Some(self.replace()),
            Act::Demote => self.demote(&in_force),
            Act::Cancel => Some(MembershipChange::Cancel),
            Act::SetAddress => self.readdress(&in_force),
            Act::Nonsense => {
                let order = self.nonsense(&in_force)?;
                return self.addressed(order, leader);
            }
            Act::Transfer => {
                let members: Vec<NodeId> = in_force.members().into_iter().collect();
                let any = self.operator.rng.chance(300_000);
                let to = (!any).then(|| *self.operator.rng.pick(&members));
                return self.addressed(Order::Transfer(to), leader);
            }
            Act::Restart => return self.addressed(Order::Restart, leader),
            Act::Snapshot => return self.addressed(Order::Snapshot, None),
            Act::Retire => return self.draw_retirement(),
        };
        self.addressed(Order::Change(change?), leader)
    }

    /// An order to the leader, mostly, or to any server.
    fn addressed(&mut self, order: Order, leader: Option<usize>) -> Option<Move> {
        let joins = std::mem::take(&mut self.operator.joins);
        let rng = &mut self.operator.rng;
        let up: Vec<usize> = (0..self.servers.len()).filter(|at| self.servers[*at].is_up()).collect();
        let at = match leader {
            Some(leader) if rng.chance(900_000) => leader,
            _ if up.is_empty() => return None,
            _ => *rng.pick(&up),
        };
        Some(Move::Give { server: at, order, joins })
    }

    /// Servers that are no members, the never started ones last.
    fn spare(&self, in_force: &Membership) -> Vec<NodeId> {
        self.sound().into_iter().filter(|id| !in_force.contains(*id)).collect()
    }

    /// Servers that have not lost their disks.
    fn sound(&self) -> Vec<NodeId> {
        let sound = self.servers.iter().filter(|server| !server.is_lost());
        sound.map(|server| server.status().id).collect()
    }

    fn address(&self, node: NodeId) -> Bytes {
        Bytes::from(format!("sim:{node}"))
    }

    /// Servers that are to take part are to be switched on, mostly.
    fn enlist(&mut self, nodes: &BTreeSet<NodeId>) {
        for node in nodes {
            let at = usize::try_from(node.get()).unwrap_or(1) - 1;
            if self.servers[at].is_enlisted() || self.operator.rng.chance(30_000) {
                continue;
            }
            let delay = self.operator.rng.below(100 * MILLISECOND);
            self.operator.joins.push((at, delay));
        }
    }

    pub(crate) fn update(
        &mut self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
        remove: BTreeSet<NodeId>,
    ) -> MembershipChange {
        let named: BTreeSet<NodeId> = voters.union(&learners).copied().collect();
        self.enlist(&named);
        let addresses = named.iter().map(|node| (*node, self.address(*node))).collect();
        MembershipChange::Update { voters, learners, remove, addresses }
    }

    fn some_of(&mut self, from: &[NodeId], most: u64) -> BTreeSet<NodeId> {
        if from.is_empty() {
            return BTreeSet::new();
        }
        let rng = &mut self.operator.rng;
        (0..rng.between(1, most)).map(|_| *rng.pick(from)).collect()
    }

    fn grow(&mut self, in_force: &Membership) -> Option<MembershipChange> {
        let spare = self.spare(in_force);
        let chosen = self.some_of(&spare, 3);
        if chosen.is_empty() || in_force.members().len() >= 7 {
            return None;
        }
        let rng = &mut self.operator.rng;
        let (voters, learners) = chosen.into_iter().partition(|_| rng.chance(700_000));
        Some(self.update(voters, learners, BTreeSet::new()))
    }

    fn shrink(&mut self, in_force: &Membership, who: Option<NodeId>) -> Option<MembershipChange> {
        let members: Vec<NodeId> = in_force.members().into_iter().collect();
        let mut remove = self.some_of(&members, 2);
        remove.extend(who);
        if in_force.voters.is_subset(&remove) {
            return None;
        }
        // One that leaves is sometimes replaced in the same change.
        let spare = self.spare(in_force);
        let voters =
            if self.operator.rng.chance(400_000) { self.some_of(&spare, 2) } else { BTreeSet::new() };
        Some(self.update(voters, BTreeSet::new(), remove))
    }

    fn demote(&mut self, in_force: &Membership) -> Option<MembershipChange> {
        let voters: Vec<NodeId> = in_force.voters.iter().copied().collect();
        let learners: Vec<NodeId> = in_force.learners.iter().copied().collect();
        let promoted = self.some_of(&learners, 2);
        let demoted = if promoted.is_empty() || self.operator.rng.chance(500_000) {
            self.some_of(&voters, 2)
        } else {
            BTreeSet::new()
        };
        let left = in_force.voters.difference(&demoted).count() + promoted.len();
        (left > 0).then(|| self.update(promoted, demoted, BTreeSet::new()))
    }

    /// Any set, of any size up to seven voters and two learners.
    pub(crate) fn replace(&mut self) -> MembershipChange {
        let all = self.sound();
        let most = self.operator.rng.between(1, 7);
        let voters = self.some_of(&all, most);
        let mut learners =
            if self.operator.rng.chance(400_000) { self.some_of(&all, 2) } else { BTreeSet::new() };
        learners.retain(|node| !voters.contains(node));
        let named: BTreeSet<NodeId> = voters.union(&learners).copied().collect();
        self.enlist(&named);
        let addresses: BTreeMap<NodeId, Bytes> =
            named.iter().map(|node| (*node, self.address(*node))).collect();
        MembershipChange::Set { target: Target { voters, learners }, addresses }
    }

    fn readdress(&mut self, in_force: &Membership) -> Option<MembershipChange> {
        let members: Vec<NodeId> = in_force.members().into_iter().collect();
        self.operator.moves += 1;
        let node = *self.some_of(&members, 1).first()?;
        Some(MembershipChange::SetAddress {
            node,
            address: Bytes::from(format!("sim:{node}#{}", self.operator.moves)),
        })
    }

    /// What every leader has to refuse.
    fn nonsense(&mut self, in_force: &Membership) -> Option<Order> {
        let member = *self.some_of(&in_force.members().into_iter().collect::<Vec<_>>(), 1).first()?;
        let stranger = NodeId::new(77);
        let one = |node| BTreeSet::from([node]);
        let update = |voters, learners, remove| MembershipChange::Update {
            voters,
            learners,
            remove,
            addresses: BTreeMap::new(),
        };
        let none = BTreeSet::new;
        let nobody = MembershipChange::Set { target: Target::default(), addresses: BTreeMap::new() };
        let (change, reason) = match self.operator.rng.below(5) {
            0 => (nobody, AdminRefusal::NoVoters),
            1 => (update(one(stranger), none(), none()), AdminRefusal::NoAddress(stranger)),
            2 => (update(one(member), one(member), none()), AdminRefusal::NamedTwice(member)),
            3 => (update(none(), none(), one(stranger)), AdminRefusal::UnknownNode(stranger)),
            _ => {
                let address = Bytes::from_static(b"nowhere");
                let change = MembershipChange::SetAddress { node: stranger, address };
                (change, AdminRefusal::UnknownNode(stranger))
            }
        };
        Some(Order::Nonsense(change, vec![reason, AdminRefusal::NoChange]))
    }

    /// A server that nobody counts on any more.
    fn draw_retirement(&mut self) -> Option<Move> {
        let needed = self.needed();
        let gone: Vec<usize> = (0..self.servers.len())
            .filter(|at| self.servers[*at].is_up() && !needed.contains(&self.servers[*at].status().id))
            .collect();
        (!gone.is_empty()).then(|| Move::Retire { server: *self.operator.rng.pick(&gone) })
    }
}
