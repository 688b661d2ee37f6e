//! What happened so far, as far as anything may be held to it: part of every state.
//!
//! * `committed` only grows: whatever some server ever knew to be committed is committed for ever.
//! * An entry becomes committed at a leader, of its own term, once those who decide have it on their disks (§5.3, §5.4.2).

use raft_core::{NodeId, RoleKind, Ticket};

use super::Broken;
use super::server::{Seen, command};
use super::tables::Known;
use super::view::{Item, command_body, decides};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Waiting {
    read: Ticket,
    at: u64,
    needed: u64,
}

/// The past of a state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct History {
    /// By index, from 1 on: what was committed, and in which term.
    committed: Vec<(Item, u64)>,
    /// By term: who led.
    leaders: Vec<(u64, u64)>,
    /// Reads that wait: at which server, and how many entries they must see.
    reads: Vec<Waiting>,
    /// Through where proposals were answered.
    acknowledged: u64,
    /// Proposals of which it was said that they never will be committed.
    superseded: Vec<Ticket>,
}

impl History {
    /// A read begins.
    pub(super) fn asked(&mut self, read: Ticket, at: u64) {
        self.reads.push(Waiting { read, at, needed: self.acknowledged });
    }

    /// Whether the history has to know of a step from `before` to `after`.
    pub(super) fn is_news(before: &Known, after: &Known, seen: &[Seen]) -> bool {
        let elected =
            after.role == Some(RoleKind::Leader) && (before.role, before.term) != (after.role, after.term);
        !seen.is_empty()
            || elected
            || after.role.is_none()
            || (before.commit, before.view, before.machine) != (after.commit, after.view, after.machine)
    }

    /// Server `at` of `servers`, which was `before`, has just come to be what it is.
    pub(super) fn advance(
        &mut self,
        at: usize,
        before: &Known,
        servers: &[&Known],
        seen: &[Seen],
    ) -> Result<(), Broken> {
        let server = servers[at];
        self.elected(server)?;
        self.commits(at, before, servers)?;
        self.applied(server)?;
        seen.iter().try_for_each(|seen| self.answered(server, seen))?;
        if server.role.is_none() {
            // Nobody will answer.
            self.reads.retain(|waiting| waiting.at != server.id);
        }
        Ok(())
    }

    /// Election Safety (§5.2), Leader Completeness (§5.4).
    fn elected(&mut self, server: &Known) -> Result<(), Broken> {
        if server.role != Some(RoleKind::Leader) {
            return Ok(());
        }
        let term = server.term;
        match self.leaders.iter().find(|(of, _)| *of == term) {
            Some((_, leader)) if *leader == server.id => return Ok(()),
            Some((_, leader)) => {
                let what = format!("n{leader} and n{} both lead term {term} (§5.2)", server.id);
                return Err(Broken::new("election", what));
            }
            None => {}
        }
        self.leaders.push((term, server.id));
        self.leaders.sort_unstable();
        for (index, (item, in_term)) in (1..).zip(&self.committed) {
            if *in_term < term && !server.log.holds(index, *item) {
                let what = format!(
                    "n{} leads term {term} without entry {index}@{}, committed in term {in_term} (§5.4)",
                    server.id, item.term
                );
                return Err(Broken::new("leader-completeness", what));
            }
        }
        Ok(())
    }

    fn commits(&mut self, at: usize, before: &Known, servers: &[&Known]) -> Result<(), Broken> {
        let server = servers[at];
        for (index, (item, _)) in (1..=server.commit).zip(&self.committed) {
            if !server.log.holds(index, *item) {
                let what =
                    format!("n{} has committed another entry {index} than {index}@{}", server.id, item.term);
                return Err(Broken::new("commit", what));
            }
        }
        let known = self.committed.len() as u64;
        for index in known + 1..=server.commit {
            let broken =
                |what: String| Err(Broken::new("commit", format!("n{} commits {index}: {what}", server.id)));
            let Some(item) = server.log.item(index) else {
                return broken("its log has no such entry".into());
            };
            if server.role != Some(RoleKind::Leader) {
                return broken("no leader has".into());
            }
            if server.log.term(server.commit) != Some(server.term) {
                return broken(format!("by counting, in term {} (§5.4.2)", server.term));
            }
            let Some(membership) = &server.membership else { return broken("it is down".into()) };
            let stored = |node: NodeId| {
                let found = servers.iter().find(|server| server.id == node.get());
                found
                    .is_some_and(|server| server.disk.last_index() >= index && server.disk.holds(index, item))
            };
            // What is committed may be what the next configuration waited for (§6): then it follows in the same step.
            let until_now = before.membership.as_ref();
            if !decides(membership, &stored) && !until_now.is_some_and(|until| decides(until, &stored)) {
                return broken("those who decide do not have it on their disks (§5.3)".into());
            }
            self.committed.push((item, server.term));
        }
        let said = |ticket: &Ticket| {
            let body = command_body(&command(*ticket));
            self.committed.iter().any(|(item, _)| item.body == body)
        };
        match self.superseded.iter().find(|ticket| said(ticket)) {
            Some(ticket) => {
                Err(Broken::new("outcome", format!("proposal {ticket} was superseded, and is committed")))
            }
            None => Ok(()),
        }
    }

    /// State Machine Safety (§5.4.3).
    fn applied(&self, server: &Known) -> Result<(), Broken> {
        let committed = self.committed.iter().map(|(item, _)| item);
        if server.applied.len() > self.committed.len()
            || !server.applied.iter().zip(committed).all(|(a, b)| a == b)
        {
            let what =
                format!("the machine of n{} holds something else than what is committed (§5.4.3)", server.id);
            return Err(Broken::new("applied", what));
        }
        Ok(())
    }

    fn answered(&mut self, server: &Known, seen: &Seen) -> Result<(), Broken> {
        match seen {
            Seen::Committed { ticket, id } => {
                let at = usize::try_from(id.index.get() - 1).ok();
                let found = at.and_then(|at| self.committed.get(at)).map(|(item, _)| *item);
                let said = Item { term: id.term.get(), body: command_body(&command(*ticket)) };
                if found != Some(said) {
                    let what = format!(
                        "n{} answers that proposal {ticket} is committed at {id}; it is not",
                        server.id
                    );
                    return Err(Broken::new("outcome", what));
                }
                self.acknowledged = self.acknowledged.max(id.index.get());
            }
            Seen::Superseded { ticket } => {
                self.superseded.push(*ticket);
                self.superseded.sort_unstable();
                // What is committed already is found out at once.
                let body = command_body(&command(*ticket));
                if self.committed.iter().any(|(item, _)| item.body == body) {
                    let what = format!(
                        "n{} answers that proposal {ticket} was superseded; it is committed",
                        server.id
                    );
                    return Err(Broken::new("outcome", what));
                }
            }
            Seen::Served { ticket, applied } => {
                let Some(found) = self.reads.iter().position(|waiting| waiting.read == *ticket) else {
                    return Err(Broken::new("outcome", format!("read {ticket} was answered before")));
                };
                let Waiting { needed, .. } = self.reads.remove(found);
                if *applied < needed {
                    let what = format!(
                        "n{} serves read {ticket} with {applied} entries; {needed} were acknowledged before it began",
                        server.id
                    );
                    return Err(Broken::new("linear", what));
                }
            }
            Seen::Refused { ticket } => self.reads.retain(|waiting| waiting.read != *ticket),
        }
        Ok(())
    }

    /// All of it as bytes, with the servers called so.
    pub(super) fn write_to(&self, out: &mut Vec<u8>, called: &[NodeId]) {
        let called = |node: u64| called[usize::try_from(node - 1).expect("servers are few")].get();
        let mut put = |number: u64| out.extend_from_slice(&number.to_le_bytes());
        put(self.committed.len() as u64);
        self.committed.iter().flat_map(|(item, term)| [item.term, item.body, *term]).for_each(&mut put);
        put(self.leaders.len() as u64);
        self.leaders.iter().flat_map(|(term, node)| [*term, called(*node)]).for_each(&mut put);
        put(self.reads.len() as u64);
        let reads = self.reads.iter();
        reads.flat_map(|waiting| [waiting.read.get(), called(waiting.at), waiting.needed]).for_each(&mut put);
        put(self.acknowledged);
        self.superseded.iter().map(|ticket| ticket.get()).for_each(&mut put);
    }

    /// The first configuration counts as committed.
    pub(super) fn bootstrapped(&mut self, item: Item) {
        self.committed.push((item, item.term));
    }
}
