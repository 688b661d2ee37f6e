//! Marks of what clients and operators are told.

use std::collections::BTreeMap;

use raft_core::{
    AdminOutcome, AdminRefusal, Config, Event, LogIndex, MembershipChange, NodeId, QuestionId, ReadOutcome,
    Response, RoleKind, Status, Ticket, WriteOutcome,
};

use crate::check::disks::slot;
use crate::check::leases::Proof;
use crate::marks::{Mark, Marks};

/// What an operator asked of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Transfer,
    StepDown,
    Change,
    Cancel,
    Other,
}

#[derive(Clone, Debug, Default)]
struct Waiting {
    proposals: u64,
    proposals_max: u64,
    orders: BTreeMap<Ticket, Order>,
    /// The last question that it asked its leader.
    question: Option<QuestionId>,
}

/// What is remembered of clients and operators, by node.
#[derive(Debug)]
pub(crate) struct Clients {
    nodes: Vec<Waiting>,
}

impl Clients {
    pub(super) fn new(configs: &[Config]) -> Self {
        let waiting =
            |config: &Config| Waiting { proposals_max: config.pending_proposals_max, ..Waiting::default() };
        Self { nodes: configs.iter().map(waiting).collect() }
    }

    pub(super) fn crashed(&mut self, node: NodeId) {
        let waiting = &mut self.nodes[slot(node)];
        *waiting = Waiting { proposals_max: waiting.proposals_max, ..Waiting::default() };
    }

    /// A node is about to be asked something. `room`: it would take proposals in. `own`: the first entry of its term, if
    /// it leads.
    pub(crate) fn asked(
        &mut self,
        before: &Status,
        event: &Event,
        room: bool,
        own: Option<LogIndex>,
        marks: &mut Marks,
    ) {
        let waiting = &mut self.nodes[slot(before.id)];
        let leads = before.role == RoleKind::Leader;
        match event {
            Event::Propose { commands, .. } => {
                if leads && !room {
                    let handover = |order: &Order| matches!(order, Order::Transfer | Order::StepDown);
                    if waiting.orders.values().any(handover) {
                        marks.hit(Mark::BusyHandover);
                    } else if waiting.proposals >= waiting.proposals_max {
                        marks.hit(Mark::BusyProposals);
                    } else {
                        // Nothing open, or nothing to apply: then it is the other limit.
                        marks.hit_if(Mark::BusyUnapplied, before.last.index == before.commit);
                        marks.hit_if(
                            Mark::BusyUncommitted,
                            before.applied == before.commit && before.last.index > before.commit,
                        );
                    }
                }
                waiting.proposals += commands.len() as u64;
            }
            Event::Read { .. } => {
                let early = leads && own.is_some_and(|own| before.commit < own);
                marks.hit_if(Mark::ReadBeforeFirstCommit, early);
            }
            Event::TransferLeadership { ticket, .. } => {
                waiting.orders.insert(*ticket, Order::Transfer);
            }
            Event::StepDown { ticket } => {
                waiting.orders.insert(*ticket, Order::StepDown);
            }
            Event::ChangeMembership { ticket, change } => {
                let cancel = matches!(**change, MembershipChange::Cancel);
                waiting.orders.insert(*ticket, if cancel { Order::Cancel } else { Order::Change });
            }
            _ => {}
        }
    }

    /// A node answers.
    pub(crate) fn answered(&mut self, status: &Status, response: &Response, marks: &mut Marks) {
        let waiting = &mut self.nodes[slot(status.id)];
        let leads = status.role == RoleKind::Leader;
        match response {
            Response::Write { tickets, outcome } => {
                waiting.proposals = waiting.proposals.saturating_sub(u64::from(tickets.count));
                match outcome {
                    WriteOutcome::Committed { first, applied_here } => {
                        marks.hit_if(Mark::CommittedBySuccessor, !(leads && status.term == first.term));
                        marks.hit_if(Mark::DecidedBySnapshot, !applied_here);
                    }
                    WriteOutcome::Superseded => marks.hit(Mark::Superseded),
                    WriteOutcome::Unknown => marks.hit(Mark::Forgotten),
                    _ => {}
                }
            }
            Response::Read { outcome, .. } => match outcome {
                ReadOutcome::Busy => marks.hit(if leads { Mark::BusyReads } else { Mark::BusyQuestions }),
                ReadOutcome::Unknown => marks.hit(Mark::Forgotten),
                ReadOutcome::NotLeader { .. } => {}
            },
            Response::Admin { ticket, outcome } => {
                let order = waiting.orders.remove(ticket).unwrap_or(Order::Other);
                if let Some(mark) = mark_of(order, outcome) {
                    marks.hit(mark);
                }
            }
        }
    }

    /// A node serves a read.
    pub(crate) fn served(status: &Status, learner: bool, proof: Proof, marks: &mut Marks) {
        match proof {
            Proof::Lease => marks.hit(Mark::LeaseRead),
            Proof::Fallback => marks.hit(Mark::LeaseFallback),
            Proof::Other => {}
        }
        let follows = status.role != RoleKind::Leader;
        marks.hit_if(Mark::LearnerRead, follows && learner);
        marks.hit_if(Mark::FollowerRead, follows && !learner);
    }

    /// A node asks its leader for the index of a read.
    pub(super) fn asks(&mut self, node: NodeId, id: QuestionId, marks: &mut Marks) {
        let waiting = &mut self.nodes[slot(node)];
        marks.hit_if(Mark::QuestionRepeated, waiting.question == Some(id));
        waiting.question = Some(id);
    }
}

fn mark_of(order: Order, outcome: &AdminOutcome) -> Option<Mark> {
    Some(match (order, outcome) {
        (Order::Transfer, AdminOutcome::Transferred { .. }) => Mark::Transferred,
        (Order::StepDown, AdminOutcome::Transferred { .. }) => Mark::SteppedDown,
        (Order::Transfer | Order::StepDown, AdminOutcome::Refused(AdminRefusal::TimedOut)) => {
            Mark::TransferTimedOut
        }
        (Order::Transfer | Order::StepDown, AdminOutcome::Refused(AdminRefusal::OtherLeader(_))) => {
            Mark::TransferOvertaken
        }
        (Order::Change, AdminOutcome::Unknown) => Mark::ChangeLost,
        (Order::Change, AdminOutcome::Refused(AdminRefusal::Cancelled)) => Mark::ChangeCancelled,
        (Order::Change, AdminOutcome::Refused(AdminRefusal::TimedOut)) => Mark::ChangeTimedOut,
        (Order::Cancel, AdminOutcome::Refused(AdminRefusal::TooLate)) => Mark::ChangeTooLate,
        (_, AdminOutcome::Refused(AdminRefusal::LeaderAlive)) => Mark::CampaignRefused,
        _ => return None,
    })
}
