//! Some are lost for good, amid changes of the membership: as long as those who live decide by every configuration that
//! counts, one of them comes to lead and to commit, whoever has the newest log, and whatever it says of its holder
//! (§5.4.1, thesis §4.2.2).

use std::collections::BTreeSet;

use raft_core::{Membership, NodeId, RoleKind};

use super::ops::{Op, SERVERS};
use super::storm::{Storm, bits};
use super::support::n;

/// What became of those who live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// There were no such servers, but for all of them.
    NotTried,
    /// Nobody may end a joint configuration that was not committed: who began it is lost, and most of those whom it
    /// brings.
    Excused,
    Recovered,
    /// The same, by a leader that did not vote.
    RecoveredByNonVoter,
}

fn is_majority(living: &BTreeSet<u64>, of: &BTreeSet<NodeId>) -> bool {
    of.is_empty() || of.iter().filter(|id| living.contains(&id.get())).count() > of.len() / 2
}

fn decide(living: &BTreeSet<u64>, membership: &Membership) -> bool {
    is_majority(living, &membership.voters) && is_majority(living, &membership.outgoing)
}

impl Storm {
    /// From now on only the first set of servers from `living` on that must be enough lives, if there is one.
    pub(crate) fn survive(mut self, living: u8) -> Fate {
        self.heal();
        let all = 1 << SERVERS;
        let mut sets = (0..all).map(|step| bits((living + step) % all).into_iter().collect::<BTreeSet<_>>());
        let enough = |set: &BTreeSet<u64>| set.len() < SERVERS as usize && self.must_be_enough(set);
        let Some(living) = sets.find(enough) else { return Fate::NotTried };
        self.cluster.cut = (1..=SERVERS).filter(|server| !living.contains(server)).collect();
        let (before, mut non_voter) = (self.committed, false);
        for _ in 0..1_500 {
            let node = |server: u64| &self.cluster.servers[&server].node;
            let leads = |server: &u64| node(*server).role() == RoleKind::Leader;
            if let Some(leader) =
                living.iter().copied().filter(leads).max_by_key(|at| node(*at).status().term)
            {
                let votes = node(leader).membership().is_voter(n(leader));
                non_voter |= !votes;
                if votes && node(leader).status().commit.get() > before {
                    return if non_voter { Fate::RecoveredByNonVoter } else { Fate::Recovered };
                }
                self.perform(Op::Propose(leader, 1));
            }
            self.cluster.settle();
            self.check();
            let due = living.iter().filter_map(|server| Some((self.cluster.due(*server)?, *server))).min();
            let (_, next) = due.expect("somebody waits");
            self.cluster.time_out(next);
        }
        let statuses: Vec<_> =
            living.iter().map(|server| self.cluster.servers[server].node.status()).collect();
        assert!(!self.must_be_enough(&living), "nobody leads and commits: {statuses:#?}");
        Fate::Excused
    }

    /// Whether these can decide by the last configuration that is committed, and by each that follows in their logs.
    fn must_be_enough(&self, living: &BTreeSet<u64>) -> bool {
        let (at, committed) = &self.configuration;
        let by_its_own = |server: &u64| {
            let node = &self.cluster.servers[server].node;
            node.status().membership_index.get() < *at || decide(living, node.membership())
        };
        *at > 0 && decide(living, committed) && living.iter().all(by_its_own)
    }
}
