//! The operator: changes who takes part, hands the leadership over, takes snapshots, stops servers by plan.
//!
//! * It may ask for nonsense, too early, or of a node that does not lead: every answer has to be a true one.
//! * A server whose removal is committed goes on running for a while, and is switched off later. It may come back with
//!   its own disk; an id is never given to another disk.

mod draw;

use std::collections::BTreeSet;

use raft_core::{AdminOutcome, AdminRefusal, Event, LogIndex, MembershipChange, NodeId, RoleKind, Term};
use serde::{Deserialize, Serialize};

use crate::check::{Broken, Check, ensure};
use crate::clock::Nanos;
use crate::marks::Mark;
use crate::rng::Rng;
use crate::server::{Server, Waiter};
use crate::trace::What;
use crate::transcript::{Decision, Source};
use crate::workload::Workload;
use crate::world::{Happening, World, note};

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

impl Act {
    /// Whether it asks for another set of members.
    fn changes_members(self) -> bool {
        matches!(self, Self::Grow | Self::Shrink | Self::Replace | Self::RemoveLeader | Self::Demote)
    }
}

/// How busy the operator is, and with what.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct OperatorModel {
    /// Mean time between two acts; `None`: nobody touches the cluster.
    pub(crate) interval_mean: Option<Nanos>,
    #[serde(skip)]
    pub(crate) weights: [u64; Act::ALL.len()],
    /// How long a server that was restarted by plan stays down.
    pub(crate) down_mean: Nanos,
}

/// What was asked of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    Change(MembershipChange),
    /// A change that must be refused, for one of these reasons if for no passing one.
    Nonsense(MembershipChange, Vec<AdminRefusal>),
    Transfer(Option<NodeId>),
    Restart,
    Snapshot,
}

/// What the operator does, with all that was drawn for it. Servers are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Move {
    /// Gives an order to a server; those that are to take part are switched on after a while.
    Give { server: usize, order: Order, joins: Vec<(usize, Nanos)> },
    /// Switches a server off.
    Retire { server: usize },
}

impl Move {
    /// Whether it names only servers that there are.
    pub(crate) fn is_within(&self, servers: usize) -> bool {
        match self {
            Self::Give { server, order, joins } => {
                let named = match order {
                    Order::Change(MembershipChange::Set { addresses, .. })
                    | Order::Change(MembershipChange::Update { addresses, .. }) => addresses.keys().max(),
                    _ => None,
                };
                let last = named.map_or(0, |node| node.get());
                *server < servers && joins.iter().all(|(at, _)| *at < servers) && last <= servers as u64
            }
            Self::Retire { server } => *server < servers,
        }
    }
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
    pub(crate) rng: Rng,
    errands: Vec<Errand>,
    /// Who is to be switched on with the next order.
    joins: Vec<(usize, Nanos)>,
    moves: u64,
}

impl Operator {
    pub(crate) fn new(rng: Rng) -> Self {
        Self { rng, errands: Vec::new(), joins: Vec::new(), moves: 0 }
    }

    /// Whether a change of the membership was asked for and not answered.
    pub(crate) fn is_changing(&self) -> bool {
        let open = |errand: &&Errand| matches!(errand.order, Order::Change(_)) && errand.outcome.is_none();
        self.errands.iter().rev().any(|errand| open(&errand))
    }

    /// How many errands have an outcome.
    pub(crate) fn answers(&self) -> usize {
        self.errands.iter().filter(|errand| errand.outcome.is_some()).count()
    }

    /// The outcome of an errand. `Some(None)`: it was lost.
    pub(crate) fn outcome(&self, errand: ErrandId) -> Option<&Option<AdminOutcome>> {
        self.errands.get(errand)?.outcome.as_ref()
    }
}

impl<W: Workload> World<'_, W> {
    /// Schedules the operator's next act.
    pub(crate) fn next_act(&mut self) {
        if self.settling {
            return;
        }
        if self.plan.is_given() {
            if let Some(at) = self.plan.next_at(Source::Operator) {
                self.clock.at(at, Happening::Operate);
            }
        } else if let Some(mean) = self.scenario.operator.interval_mean {
            let delay = self.operator.rng.exponential(mean);
            self.clock.after(delay, Happening::Operate);
        }
    }

    /// The operator acts.
    pub(crate) fn operate(&mut self) -> Check {
        if self.settling {
            return Ok(());
        }
        let step = match self.plan.next(Source::Operator) {
            Some(Decision::Move(step)) => Some(step),
            _ => self.draw_move(),
        };
        self.next_act();
        let Some(step) = step else { return Ok(()) };
        self.decided(Decision::Move(step.clone()));
        match step {
            // It may have crashed, where this was decided for another run.
            Move::Give { server, .. } if !self.servers[server].is_up() => Ok(()),
            Move::Give { order: Order::Change(change), .. } if !self.may_ask(&change) => Ok(()),
            Move::Give { server, order, joins } => {
                for (at, delay) in joins {
                    let server = &self.servers[at];
                    self.summary.joined += u64::from(server.is_pristine() && !server.is_lost());
                    self.switch_on(at, delay);
                }
                self.give(server, order).map(|_| ())
            }
            Move::Retire { server } => self.retire(server),
        }
    }

    /// Who leads, as far as anybody can tell.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |server: &usize| self.servers[*server].status().role == RoleKind::Leader;
        let term = |server: &usize| self.servers[*server].status().term;
        (0..self.servers.len()).filter(leads).max_by_key(term)
    }

    /// Gives an order to a server.
    pub(crate) fn give(&mut self, at: usize, order: Order) -> Result<ErrandId, Broken> {
        let errand = self.operator.errands.len();
        let ticket = self.servers[at].ticket(Waiter::Operator(errand));
        note!(self, at, What::Orders { errand: Some(errand as u64), order: format!("{order:?}") });
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
                let change = change.clone();
                self.summary.changes_done += 1;
                if self.replaces_lost(&change) {
                    self.checks.mark(Mark::LostReplaced);
                }
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
                    let down = self.servers[at].rng.exponential(self.scenario.operator.down_mean);
                    return self.crash(at, down);
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

    /// Switches a server on.
    pub(crate) fn switch_on(&mut self, at: usize, delay: Nanos) {
        self.servers[at].enlist(true);
        self.clock.after(delay, Happening::Start(at));
    }

    /// Switches a server off, if nobody counts on it.
    fn retire(&mut self, at: usize) -> Check {
        if !self.servers[at].is_up() || self.needed().contains(&self.servers[at].status().id) {
            return Ok(());
        }
        note!(self, at, What::SwitchedOff);
        self.servers[at].enlist(false);
        self.summary.retired += 1;
        self.crash(at, 0)
    }

    /// Every server that some configuration may still count on.
    pub(crate) fn needed(&self) -> BTreeSet<NodeId> {
        let mut needed =
            self.checks.configuration().map(|(_, in_force)| in_force.members()).unwrap_or_default();
        for server in self.servers.iter().filter(|server| !server.is_lost()) {
            needed.extend(self.checks.in_force(server.status().id).members());
        }
        // A cluster that is only being formed needs its founders.
        if needed.is_empty() {
            needed.extend((1..=self.scenario.nodes as u64).map(NodeId::new));
        }
        needed.retain(|node| !self.servers.get(node.get() as usize - 1).is_some_and(Server::is_lost));
        needed
    }
}
