//! Everything works again: what then becomes of it all.

use raft_core::{LogId, Membership, WriteOutcome};

use super::ops::Op;
use super::storm::Storm;

impl Storm {
    /// The network is whole again, and everything is as fast as can be.
    pub(crate) fn heal(&mut self) {
        for op in
            [Op::Heal, Op::FastDisks, Op::FastMachines, Op::FastReads, Op::FastChunks, Op::FastSnapshots]
        {
            self.perform(op);
        }
    }

    pub(crate) fn calm(mut self) {
        self.heal();
        for _ in 0..1_500 {
            if self.agreed().is_some_and(|members| self.unanswered(&members).is_none()) {
                break;
            }
            let (_, next) = self.cluster.next_due().expect("somebody waits");
            self.cluster.time_out(next);
            self.cluster.settle();
            self.check();
        }
        let members = self.agreed().unwrap_or_else(|| {
            let all: Vec<_> = self.cluster.servers.values().map(|server| server.node.status()).collect();
            panic!("no leader brings everybody together: {all:#?}")
        });
        let first = &self.cluster.servers[&members[0]].applied;
        assert!(members.iter().all(|server| self.cluster.servers[server].applied == *first));
        for (ticket, outcome) in &self.answered {
            let command = self.proposed[ticket].as_bytes();
            let found = first.iter().filter(|(_, applied)| applied == command);
            let places: Vec<LogId> = found.map(|(at, _)| *at).collect();
            match outcome {
                WriteOutcome::Committed { first, .. } => assert_eq!(places, [*first], "an answer is kept"),
                WriteOutcome::Unknown => {}
                _ => assert_eq!(places, [], "{ticket} ended as {outcome:?}"),
            }
        }
        let unanswered = self.unanswered(&members);
        assert_eq!(unanswered, None, "{members:?}: a request, and whom it was asked");
    }

    /// Whoever asked a member that is still in the same life is answered in the end.
    fn unanswered(&self, members: &[u64]) -> Option<(u64, u64)> {
        let lost = |server: u64, life: u64| self.cluster.servers[&server].incarnation > life;
        let mut waiting = self.waiting.iter().map(|(ticket, (server, life))| (*ticket, *server, *life));
        let found = waiting.find(|(_, server, life)| members.contains(server) && !lost(*server, *life));
        found.map(|(ticket, server, _)| (ticket, server))
    }

    /// The members, if one leader has brought them all together and no change is under way.
    fn agreed(&self) -> Option<Vec<u64>> {
        let leader = self.cluster.leader()?;
        let node = &self.cluster.servers[&leader].node;
        let membership: &Membership = node.membership();
        if membership.is_joint() || membership.intent.is_some() {
            return None;
        }
        let members: Vec<u64> = membership.members().iter().map(|id| id.get()).collect();
        // A commit index is forgotten by a restart: only logs that are equal and committed to their ends agree.
        let last = node.status().last;
        let done = members.iter().all(|server| {
            let status = self.cluster.servers[server].node.status();
            (status.last, status.commit, status.applied) == (last, last.index, last.index)
                && status.leader.map(|id| id.get()) == Some(leader)
        });
        (done && members.contains(&leader)).then_some(members)
    }
}
