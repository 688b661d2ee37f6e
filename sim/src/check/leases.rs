//! Reads in true time: who serves one without having heard from anybody since it was asked, relies on its lease (thesis
//! §6.4.1), and then nobody else may have been elected when it was asked.
//!
//! * This is more than linearizability asks for: it is seen even if nobody has written anything in between.
//! * A read that waits for a round is served after answers have come in; a leader that votes alone has nobody to hear
//!   from, and cannot be deposed without its own vote.

use std::collections::BTreeMap;

use raft_core::{NodeId, RoleKind, Status, Term, Ticket, Tickets};

use super::disks::slot;
use super::{Check, ensure};

/// A read that was asked of a leader.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// How many messages the leader had taken in.
    heard: u64,
    /// Who had been elected since.
    deposed_by: Option<(Term, NodeId)>,
    /// It asked for the lease, and the state machine had nothing to wait for.
    at_once: bool,
}

#[derive(Clone, Debug, Default)]
struct Leader {
    heard: u64,
    reads: BTreeMap<Ticket, Asked>,
}

/// How a read was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// By the lease.
    Lease,
    /// By a round of messages, though it asked for the lease.
    Fallback,
    /// In another way, or by one that cannot be told from outside.
    Other,
}

/// The reads that wait, by node.
#[derive(Debug)]
pub(crate) struct Leases {
    leaders: Vec<Leader>,
    /// Clocks went beyond the bound that was declared: nothing is promised any more.
    unbound: bool,
}

impl Leases {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { leaders: vec![Leader::default(); nodes], unbound: false }
    }

    /// From now on clocks may break their bound.
    pub(crate) fn unbound(&mut self) {
        self.unbound = true;
    }

    /// A node takes in a message.
    pub(crate) fn heard(&mut self, node: NodeId) {
        self.leaders[slot(node)].heard += 1;
    }

    /// Reads are asked of a node. `elected`: who was elected last, and in which term.
    pub(crate) fn asked(
        &mut self,
        status: &Status,
        tickets: Tickets,
        lease: bool,
        elected: Option<(Term, NodeId)>,
    ) {
        if status.role != RoleKind::Leader {
            return;
        }
        let leader = &mut self.leaders[slot(status.id)];
        let deposed_by = elected.filter(|(term, _)| *term > status.term);
        let at_once = lease && status.applied == status.commit;
        let asked = Asked { heard: leader.heard, deposed_by, at_once };
        leader.reads.extend(tickets.iter().map(|ticket| (ticket, asked)));
    }

    /// A node answers reads without serving them.
    pub(crate) fn refused(&mut self, node: NodeId, tickets: Tickets) {
        let reads = &mut self.leaders[slot(node)].reads;
        for ticket in tickets.iter() {
            reads.remove(&ticket);
        }
    }

    /// A node crashed: its reads are lost with it.
    pub(crate) fn crashed(&mut self, node: NodeId) {
        self.leaders[slot(node)].reads.clear();
    }

    /// A node is about to serve a read.
    pub(crate) fn serves(&mut self, node: NodeId, ticket: Ticket) -> Result<Proof, super::Broken> {
        let leader = &mut self.leaders[slot(node)];
        let Some(asked) = leader.reads.remove(&ticket) else { return Ok(Proof::Other) };
        let silent = asked.heard == leader.heard;
        self.truly(node, ticket, asked, silent)?;
        Ok(match (silent, asked.at_once) {
            (true, true) => Proof::Lease,
            (false, true) => Proof::Fallback,
            _ => Proof::Other,
        })
    }

    fn truly(&self, node: NodeId, ticket: Ticket, asked: Asked, silent: bool) -> Check {
        ensure!(
            "lease",
            !silent || asked.deposed_by.is_none() || self.unbound,
            "n{node} serves read {ticket} without having heard from anybody since it was asked, and by then \
             {:?} (term, leader) had been elected",
            asked.deposed_by
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, status, term};

    fn leader() -> Status {
        Status { role: RoleKind::Leader, ..status(1, 2) }
    }

    fn read(ticket: u64) -> Tickets {
        Tickets::one(Ticket::new(ticket))
    }

    #[test]
    fn a_deposed_leader_that_serves_by_its_lease_is_seen() {
        let mut leases = Leases::new(3);
        let successor = Some((term(3), node(2)));
        leases.asked(&leader(), read(1), true, successor);
        assert!(leases.serves(node(1), Ticket::new(1)).unwrap_err().what.contains("had been elected"));
        // A linearizable read is no better, if nobody answered since.
        leases.asked(&leader(), read(2), false, successor);
        assert!(leases.serves(node(1), Ticket::new(2)).is_err());
        // Answers to an earlier question may still confirm it: then other checkers judge by what it saw.
        leases.asked(&leader(), read(3), true, successor);
        leases.heard(node(1));
        assert_eq!(leases.serves(node(1), Ticket::new(3)), Ok(Proof::Fallback));
        // Elected after it was asked: the read is as of then.
        leases.asked(&leader(), read(4), true, Some((term(2), node(1))));
        assert_eq!(leases.serves(node(1), Ticket::new(4)), Ok(Proof::Lease));
    }

    #[test]
    fn clocks_beyond_their_bound_and_reads_elsewhere_are_no_findings() {
        let mut leases = Leases::new(3);
        let successor = Some((term(3), node(2)));
        leases.asked(&status(1, 2), read(1), true, successor);
        assert_eq!(leases.serves(node(1), Ticket::new(1)), Ok(Proof::Other));
        leases.asked(&leader(), read(2), true, successor);
        leases.crashed(node(1));
        assert_eq!(leases.serves(node(1), Ticket::new(2)), Ok(Proof::Other));
        leases.asked(&leader(), read(3), true, successor);
        leases.refused(node(1), read(3));
        assert_eq!(leases.serves(node(1), Ticket::new(3)), Ok(Proof::Other));
        leases.unbound();
        leases.asked(&leader(), read(4), true, successor);
        assert_eq!(leases.serves(node(1), Ticket::new(4)), Ok(Proof::Lease));
    }
}
