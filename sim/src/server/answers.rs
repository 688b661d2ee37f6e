//! What a node answers, taken to whoever waits for it: each exactly once.

use raft_core::{AdminOutcome, AdminRefusal, LogId, Response, Ticket};

use super::Waiter;
use crate::check::{Broken, Check, ensure};
use crate::trace::What;
use crate::workload::Workload;
use crate::world::{World, note};

impl<W: Workload> World<'_, W> {
    /// Who waits for this ticket. Each is answered exactly once.
    pub(super) fn waiter(&mut self, at: usize, ticket: Ticket) -> Result<Waiter, Broken> {
        self.servers[at].waiters.take(ticket).ok_or_else(|| {
            let what = format!("n{} answered ticket {ticket}, which nobody waits for (any more)", at + 1);
            Broken::new("tickets", what)
        })
    }

    pub(super) fn respond(&mut self, at: usize, response: Response) -> Check {
        self.checks.answers(&self.servers[at].status, &response)?;
        match response {
            Response::Write { tickets, outcome } => {
                for (offset, ticket) in (0..).zip(tickets.iter()) {
                    let waiter = self.waiter(at, ticket)?;
                    let Waiter::Client(op) = waiter else {
                        return Err(Broken::new(
                            "tickets",
                            format!("n{} answered {waiter:?} as a write", at + 1),
                        ));
                    };
                    self.write_answered(at, op, offset, &outcome)?;
                }
                Ok(())
            }
            Response::Read { tickets, outcome } => {
                for ticket in tickets.iter() {
                    let waiter = self.waiter(at, ticket)?;
                    let Waiter::Client(op) = waiter else {
                        return Err(Broken::new(
                            "tickets",
                            format!("n{} answered {waiter:?} as a read", at + 1),
                        ));
                    };
                    self.read_answered(at, op, &outcome)?;
                }
                Ok(())
            }
            Response::Admin { ticket, outcome } => {
                let waiter = self.waiter(at, ticket)?;
                note!(
                    self,
                    at,
                    What::Reports { errand: format!("{waiter:?}"), outcome: format!("{outcome:?}") }
                );
                let status = &self.servers[at].status;
                let compacted = status.base > LogId::ZERO || status.snapshot > LogId::ZERO;
                let right = match waiter {
                    Waiter::Bootstrap => outcome == AdminOutcome::Done,
                    Waiter::Operator(errand) => return self.errand_answered(at, errand, outcome),
                    // A node whose first entry is in a snapshot may no longer know with whom it began.
                    Waiter::AlienBootstrap if compacted && outcome == AdminOutcome::Done => true,
                    Waiter::AlienBootstrap => outcome == AdminOutcome::Refused(AdminRefusal::NotPristine),
                    Waiter::Campaign => true,
                    Waiter::Client(_) => false,
                };
                ensure!("tickets", right, "n{} answered {waiter:?} with {outcome:?}", at + 1);
                Ok(())
            }
        }
    }
}
