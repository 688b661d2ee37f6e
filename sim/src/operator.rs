//! The operator: changes who takes part, hands the leadership over, takes snapshots, stops servers by plan.
//!
//! * It may ask for nonsense, too early, or of a node that does not lead: every answer has to be a true one.
//! * A server whose removal is committed goes on running for a while, and is switched off later. It may come back with
//!   its own disk; an id is never given to another disk.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raft_core::{
    AdminOutcome, AdminRefusal, Event, LogIndex, Membership, MembershipChange, NodeId, RoleKind, Target, Term,
};

use crate::check::{Broken, Check, ensure};
use crate::clock::{MILLISECOND, Nanos};
use crate::rng::Rng;
use crate::server::Waiter;
use crate::world::{Happening, World, say};

/// Names an errand: its number.
pub(crate) type ErrandId = usize;

/// What the operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Adds a server or two, voters or learners.
    Grow,
    /// Removes a member or two.
    Shrink,
    /// Arrives at any set from any set.
    Replace,
    /// Removes the leader.
    RemoveLeader,
    /// Promotes learners, demotes voters.
    Demote,
    /// Takes a change back.
    Cancel,
    /// Says that a member is reached elsewhere.
    SetAddress,
    /// Asks for what cannot be.
    Nonsense,
    /// Hands the leadership over.
    Transfer,
    /// Restarts a server by plan: it hands over first.
    Restart,
    /// Wants a snapshot now.
    Snapshot,
    /// Switches off a server that is no member any more.
    Retire,
}

impl Act {
    /// Every kind.
    pub(crate) const ALL: [Self; 12] = [
        Self::Grow,
        Self::Shrink,
        Self::Replace,
        Self::RemoveLeader,
        Self::Demote,
        Self::Cancel,
        Self::SetAddress,
        Self::Nonsense,
        Self::Transfer,
        Self::Restart,
        Self::Snapshot,
        Self::Retire,
    ];
}

/// How busy the operator is, and with what.
#[derive(Clone, Debug)]
pub(crate) struct OperatorModel {
    /// Mean time between two acts; `None`: nobody touches the cluster.
    pub(crate) interval_mean: Option<Nanos>,
    pub(crate) weights: [u64; Act::ALL.len()],
    /// How long a server that was restarted by plan stays down.
    pub(crate) down_mean: Nanos,
}

/// What was asked of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Change(MembershipChange),
    /// A change that must be refused, for one of these reasons if for no passing one.
    Nonsense(MembershipChange, Vec<AdminRefusal>),
    Transfer(Option<NodeId>),
    Restart,
    Snapshot,
}

struct Errand {
    order: Order,
    /// What was committed, and what the server had applied, when it was asked.
    committed: LogIndex,
    applied: LogIndex,
    term: Term,
    /// Its outcome, once it has one. `None` in it: lost with its server.
    outcome: Option<Option<AdminOutcome>>,
}

/// The operator of a run.
pub(crate) struct Operator {
    rng: Rng,
    errands: Vec<Errand>,
    moves: u64,
}

impl Operator {
    pub(crate) fn new(rng: Rng) -> Self {
        Self { rng, errands: Vec::new(), moves: 0 }
    }

    /// The outcome of an errand. `Some(None)`: it was lost.
    pub(crate) fn outcome(&self, errand: ErrandId) -> Option<&Option<AdminOutcome>> {
        self.errands.get(errand)?.outcome.as_ref()
    }
}

impl World<'_> {
    /// Schedules the operator's next act.
    pub(crate) fn next_act(&mut self) {
        if let Some(mean) = self.scenario.operator.interval_mean
            && !self.settling
        {
            let delay = self.operator.rng.exponential(mean);
            self.clock.after(delay, Happening::Operate);
        }
    }

    /// The operator acts.
    pub(crate) fn operate(&mut self) -> Check {
        if self.settling {
            return Ok(());
        }
        self.next_act();
        let weights = self.scenario.operator.weights;
        let Some(act) = self.operator.rng.weighted(&Act::ALL, &weights) else { return Ok(()) };
        let Some(in_force) = self.checks.configuration().map(|(_, in_force)| Membership::clone(in_force))
        else {
            return Ok(());
        };
        let leader = self.leader();
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
                let Some(order) = self.nonsense(&in_force) else { return Ok(()) };
                return self.send_on(order, leader);
            }
            Act::Transfer => {
                let members: Vec<NodeId> = in_force.members().into_iter().collect();
                let any = self.operator.rng.chance(300_000);
                let to = (!any).then(|| *self.operator.rng.pick(&members));
                return self.send_on(Order::Transfer(to), leader);
            }
            Act::Restart => return self.send_on(Order::Restart, leader),
            Act::Snapshot => return self.send_on(Order::Snapshot, None),
            Act::Retire => return self.retire(),
        };
        match change {
            Some(change) => self.send_on(Order::Change(change), leader),
            None => Ok(()),
        }
    }

    /// Who leads, as far as anybody can tell.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |server: &usize| self.servers[*server].status().role == RoleKind::Leader;
        let term = |server: &usize| self.servers[*server].status().term;
        (0..self.servers.len()).filter(leads).max_by_key(term)
    }

    /// Gives an order to the leader, mostly, or to any server.
    fn send_on(&mut self, order: Order, leader: Option<usize>) -> Check {
        let rng = &mut self.operator.rng;
        let up: Vec<usize> = (0..self.servers.len()).filter(|at| self.servers[*at].is_up()).collect();
        let at = match leader {
            Some(leader) if rng.chance(900_000) => leader,
            _ if up.is_empty() => return Ok(()),
            _ => *rng.pick(&up),
        };
        self.give(at, order).map(|_| ())
    }

    /// Gives an order to a server.
    pub(crate) fn give(&mut self, at: usize, order: Order) -> Result<ErrandId, Broken> {
        let errand = self.operator.errands.len();
        let ticket = self.servers[at].ticket(Waiter::Operator(errand));
        say!(self, "operator → n{} {order:?} errand {errand}", at + 1);
        let event = match &order {
            Order::Change(change) | Order::Nonsense(change, _) => {
                Event::ChangeMembership { ticket, change: Box::new(change.clone()) }
            }
            Order::Transfer(to) => Event::TransferLeadership { ticket, to: *to },
            Order::Restart => Event::StepDown { ticket },
            Order::Snapshot => Event::TakeSnapshot { ticket },
        };
        let status = self.servers[at].status();
        let (committed, applied, term) = (self.checks.committed(), status.applied, status.term);
        self.operator.errands.push(Errand { order, committed, applied, term, outcome: None });
        self.ask_server(at, event)?;
        Ok(errand)
    }

    /// The server that had an errand crashed.
    pub(crate) fn errand_lost(&mut self, errand: ErrandId) {
        self.operator.errands[errand].outcome = Some(None);
    }

    /// A server has done its errand, or not.
    pub(crate) fn errand_answered(&mut self, at: usize, errand: ErrandId, outcome: AdminOutcome) -> Check {
        let done = outcome == AdminOutcome::Done;
        let known = &mut self.operator.errands[errand];
        known.outcome = Some(Some(outcome.clone()));
        let (order, committed, applied, term) = (&known.order, known.committed, known.applied, known.term);
        let status = *self.servers[at].status();
        let what = || format!("n{} answered {order:?} with {outcome:?}", at + 1);
        match (order, &outcome) {
            (Order::Change(change), AdminOutcome::Done) => {
                ensure!("operator", self.checks.changed(change, committed), "{}, and it is not so", what());
                self.summary.changes_done += 1;
            }
            (Order::Change(_), AdminOutcome::Refused(AdminRefusal::Cancelled)) => {
                self.summary.changes_cancelled += 1
            }
            (Order::Change(_), _) => self.summary.changes_refused += 1,
            (Order::Nonsense(_, reasons), AdminOutcome::Refused(refusal)) => {
                let passing = matches!(
                    refusal,
                    AdminRefusal::NotLeader { .. }
                        | AdminRefusal::ChangeInProgress
                        | AdminRefusal::NoEntryCommitted
                        | AdminRefusal::TransferInProgress
                        | AdminRefusal::Busy
                );
                ensure!("operator", passing || reasons.contains(refusal), "{}", what());
            }
            (Order::Nonsense(..), _) => return Err(Broken::new("operator", what())),
            (Order::Transfer(_), AdminOutcome::Transferred { to }) => {
                ensure!("operator", self.checks.led_after(*to, term), "{}, and it never led since", what());
                self.summary.transfers += 1;
            }
            (Order::Transfer(_), AdminOutcome::Done) => return Err(Broken::new("operator", what())),
            (Order::Transfer(_), _) => {}
            (Order::Restart, refused) => {
                let alone = matches!(
                    refused,
                    AdminOutcome::Refused(AdminRefusal::NoOtherVoter | AdminRefusal::TransferInProgress)
                );
                let leads = status.role == RoleKind::Leader && status.term == term;
                ensure!("operator", alone || !leads, "{}, and leads on", what());
                if let AdminOutcome::Transferred { to } = refused {
                    ensure!(
                        "operator",
                        self.checks.led_after(*to, term),
                        "{}, and it never led since",
                        what()
                    );
                    self.summary.transfers += 1;
                }
                if !self.settling {
                    self.summary.restarts += 1;
                    return self.crash_for(at, self.scenario.operator.down_mean);
                }
            }
            (Order::Snapshot, _) => {
                let held = self.servers[at].snapshot();
                ensure!(
                    "operator",
                    !done || held.index >= applied,
                    "{} and holds one through {held}",
                    what()
                );
            }
        }
        Ok(())
    }

    /// Servers that are no members, the never started ones last.
    fn spare(&self, in_force: &Membership) -> Vec<NodeId> {
        let ids = (1..=self.servers.len() as u64).map(NodeId::new);
        ids.filter(|id| !in_force.contains(*id)).collect()
    }

    fn address(&self, node: NodeId) -> Bytes {
        Bytes::from(format!("sim:{node}"))
    }

    /// Servers that are to take part are switched on, mostly.
    fn enlist(&mut self, nodes: &BTreeSet<NodeId>) {
        for node in nodes {
            let at = usize::try_from(node.get()).unwrap_or(1) - 1;
            if self.servers[at].is_enlisted() || self.operator.rng.chance(30_000) {
                continue;
            }
            self.summary.joined += u64::from(self.servers[at].is_pristine());
            self.switch_on(at);
        }
    }

    /// Switches a server on.
    pub(crate) fn switch_on(&mut self, at: usize) {
        self.servers[at].enlist(true);
        let delay = self.operator.rng.below(100 * MILLISECOND);
        self.clock.after(delay, Happening::Start(at));
    }

    fn update(
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
        let all: Vec<NodeId> = (1..=self.servers.len() as u64).map(NodeId::new).collect();
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

    /// Switches off a server that nobody counts on any more.
    fn retire(&mut self) -> Check {
        let needed = self.needed();
        let gone: Vec<usize> = (0..self.servers.len())
            .filter(|at| self.servers[*at].is_up() && !needed.contains(&self.servers[*at].status().id))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let at = *self.operator.rng.pick(&gone);
        say!(self, "operator switches n{} off", at + 1);
        self.servers[at].enlist(false);
        self.summary.retired += 1;
        self.crash(at)
    }

    /// Every server that some configuration may still count on.
    pub(crate) fn needed(&self) -> BTreeSet<NodeId> {
        let mut needed =
            self.checks.configuration().map(|(_, in_force)| in_force.members()).unwrap_or_default();
        for server in &self.servers {
            needed.extend(self.checks.in_force(server.status().id).members());
        }
        // A cluster that is only being formed needs its founders.
        if needed.is_empty() {
            needed.extend((1..=self.scenario.nodes as u64).map(NodeId::new));
        }
        needed
    }
}
