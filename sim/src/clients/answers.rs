//! What the clients are told, and what they make of it.

use raft_core::{LogId, NodeId, ReadOutcome, WriteOutcome};

use super::Stage;
use crate::check::{Broken, Check, OpId, ensure};
use crate::trace::What;
use crate::workload::Workload;
use crate::world::{World, note};

impl<W: Workload> World<'_, W> {
    /// A server crashed with this operation: its outcome is unknown for ever.
    pub(crate) fn lost_with_server(&mut self, op: OpId) {
        self.clients.over(op);
    }

    /// A node answered the `offset`-th write of a range.
    pub(crate) fn write_answered(
        &mut self,
        at: usize,
        op: OpId,
        offset: u64,
        outcome: &WriteOutcome,
    ) -> Check {
        note!(self, at, What::answers(self.clients.attempt(op).client, op, true, outcome));
        self.clients.answered += 1;
        match outcome {
            WriteOutcome::Committed { first, applied_here } => {
                let id = LogId::new(first.term, first.index.plus(offset));
                let node = self.servers[at].status().id;
                self.checks.answered_committed(node, op, id, *applied_here)?;
                self.summary.applied_elsewhere += u64::from(!applied_here);
                let client = self.clients.attempt(op).client;
                self.clients.clients[client].modest = false;
                self.clients.attempt_mut(op).answered = true;
                self.clients.over(op);
                Ok(())
            }
            WriteOutcome::Superseded => {
                self.checks.operations.superseded(op)?;
                self.clients.over(op);
                self.again_if_last(op)
            }
            WriteOutcome::NotLeader { leader } => self.refused(op, Some(*leader)),
            WriteOutcome::Busy => {
                self.summary.busy += 1;
                self.refused(op, None)
            }
            WriteOutcome::Unknown => self.unknown(at, op),
            WriteOutcome::Refused(refusal) => {
                Err(Broken::new("operations", format!("operation {op} was refused: {refusal}")))
            }
        }
    }

    /// A node answered a read that it did not serve.
    pub(crate) fn read_answered(&mut self, at: usize, op: OpId, outcome: &ReadOutcome) -> Check {
        note!(self, at, What::answers(self.clients.attempt(op).client, op, false, outcome));
        self.clients.answered += 1;
        match outcome {
            ReadOutcome::NotLeader { leader } => self.refused(op, Some(*leader)),
            ReadOutcome::Busy => {
                self.summary.busy += 1;
                self.refused(op, None)
            }
            ReadOutcome::Unknown => self.unknown(at, op),
        }
    }

    /// A node serves a read from its state machine.
    pub(crate) fn read_served(&mut self, at: usize, op: OpId) -> Check {
        self.clients.answered += 1;
        let key = self.clients.attempt(op).key;
        let saw = self.servers[at].machine().get(key);
        note!(self, at, What::serves(self.clients.attempt(op).client, op, key, saw));
        self.checks.operations.served(op, saw)?;
        self.clients.attempt_mut(op).answered = true;
        self.clients.over(op);
        Ok(())
    }

    /// It was not proposed: the client asks again, elsewhere if there is a hint (or no leader known).
    fn refused(&mut self, op: OpId, leader: Option<Option<NodeId>>) -> Check {
        self.checks.operations.refused(op)?;
        let clients = &mut self.clients;
        let attempt = clients.attempt(op);
        let client = attempt.client;
        if attempt.abandoned {
            clients.over(op);
            return self.checks.operations.withdrawn(op);
        }
        clients.attempt_mut(op).stage = Stage::Queued;
        let hint = leader.map(|leader| match leader {
            Some(leader) => usize::try_from(leader.get()).unwrap_or(1).saturating_sub(1),
            None => self.any_server(client),
        });
        let servers = self.servers.len();
        let state = &mut self.clients.clients[client];
        state.queue.push_back(op);
        match hint {
            Some(target) => state.target = target.min(servers - 1),
            None => state.modest = true,
        }
        self.retry_soon(client);
        Ok(())
    }

    /// Nobody knows what became of it: the client gave it up, or a snapshot that the node installed did not say.
    fn unknown(&mut self, at: usize, op: OpId) -> Check {
        let forgotten = self.clients.attempt(op).forgotten;
        let seen = self.checks.operations.seen(op);
        let lost = seen.is_some_and(|id| self.servers[at].may_not_know(id.index));
        ensure!(
            "operations",
            forgotten || lost,
            "n{} does not know what became of operation {op}, which stands at {seen:?}",
            at + 1
        );
        self.summary.unknown += u64::from(!forgotten);
        self.clients.over(op);
        self.again_if_last(op)
    }
}
