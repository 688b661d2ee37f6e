//! A state of a model, what may be chosen in it, and what comes of a choice.

use raft_core::{NodeId, RoleKind, Ticket};

use super::Broken;
use super::history::History;
use super::model::{Budget, Model};
use super::server::{Act, Effects, Server};
use super::tables::Tables;

/// Servers at most.
pub(super) const SERVERS_MAX: usize = 5;

/// The parts of a state, by their numbers in the [`Tables`].
#[derive(Clone, Debug)]
pub(super) struct State {
    servers: [u32; SERVERS_MAX],
    count: u8,
    pub(super) history: u32,
    pub(super) left: Budget,
    /// The messages on their way, rising.
    pub(super) wire: Vec<u32>,
}

/// One thing that may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Deliver(u32),
    Duplicate(u32),
    Drop(u32),
    /// Something happens at a server: which, and what.
    At(u8, Local),
}

/// Something that happens at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    Fire,
    Sync(u8),
    Crash(u8, bool),
    Restart,
    Machine,
    Store,
    Propose,
    Read,
    Change(u8),
    Snapshot,
    Transfer(u8),
}

impl Local {
    const fn code(self) -> u32 {
        let (kind, number) = match self {
            Self::Fire => (0, 0),
            Self::Sync(count) => (1, count),
            Self::Crash(kept, false) => (2, kept),
            Self::Crash(kept, true) => (3, kept),
            Self::Restart => (4, 0),
            Self::Machine => (5, 0),
            Self::Store => (6, 0),
            Self::Propose => (7, 0),
            Self::Read => (8, 0),
            Self::Change(target) => (9, target),
            Self::Snapshot => (10, 0),
            Self::Transfer(to) => (11, to),
        };
        kind << 8 | number as u32
    }

    fn from_code(code: u32) -> Self {
        let number = code as u8;
        match code >> 8 {
            0 => Self::Fire,
            1 => Self::Sync(number),
            2 => Self::Crash(number, false),
            3 => Self::Crash(number, true),
            4 => Self::Restart,
            5 => Self::Machine,
            6 => Self::Store,
            7 => Self::Propose,
            8 => Self::Read,
            9 => Self::Change(number),
            10 => Self::Snapshot,
            _ => Self::Transfer(number),
        }
    }
}

impl Choice {
    /// In 32 bits, to be remembered for every state.
    pub(super) fn pack(self) -> u32 {
        let (kind, number) = match self {
            Self::Deliver(mail) => (0, mail),
            Self::Duplicate(mail) => (1, mail),
            Self::Drop(mail) => (2, mail),
            Self::At(server, local) => (3, u32::from(server) << 16 | local.code()),
        };
        assert!(number < 1 << 30, "fewer than 2^30 messages");
        kind << 30 | number
    }

    pub(super) fn unpack(packed: u32) -> Self {
        let number = packed & ((1 << 30) - 1);
        match packed >> 30 {
            0 => Self::Deliver(number),
            1 => Self::Duplicate(number),
            2 => Self::Drop(number),
            _ => Self::At((number >> 16) as u8, Local::from_code(number & 0xffff)),
        }
    }
}

/// Tickets of each kind of request are hundreds of their own.
const READS: u64 = 100;
const CHANGES: u64 = 200;
const SNAPSHOTS: u64 = 300;
const TRANSFERS: u64 = 400;

impl State {
    /// Where a model begins.
    pub(super) fn start(tables: &mut Tables<'_>) -> Result<Self, Broken> {
        let model = tables.model;
        let mut servers = [0; SERVERS_MAX];
        let mut history = History::default();
        assert!(usize::from(model.servers) <= SERVERS_MAX && model.voters <= model.servers, "a sound model");
        for (at, slot) in servers.iter_mut().enumerate().take(model.servers.into()) {
            let mut server = Server::new(NodeId::new(at as u64 + 1), model)?;
            if at < model.voters.into() {
                server.bootstrap(model)?;
            }
            *slot = tables.add_server(server)?;
        }
        if let Some(first) = tables.known(servers[0]).log.item(1) {
            history.bootstrapped(first);
        }
        let history = tables.add_history(history);
        let mut state = Self { servers, count: model.servers, history, left: model.budget, wire: Vec::new() };
        // What was applied by then is of no interest: the machines have it.
        while let Some(choice) = state.pending(tables) {
            state = state.after(choice, tables)?;
        }
        if model.led {
            state = state.lead(tables)?;
        }
        Ok(state)
    }

    /// Server 1 is elected, and all that is said because of it is heard.
    fn lead(&self, tables: &mut Tables<'_>) -> Result<Self, Broken> {
        let mut state = Self { left: Budget { timeouts: 1, heartbeats: 1, ..Budget::NONE }, ..self.clone() };
        for _ in 0..2 {
            state = state.after(Choice::At(0, Local::Fire), tables)?;
            while let Some(choice) = state.pending(tables) {
                state = state.after(choice, tables)?;
            }
        }
        let leads = tables.known(state.servers[0]).role == Some(RoleKind::Leader);
        assert!(leads, "nothing prevents its election");
        Ok(Self { left: tables.model.budget, ..state })
    }

    /// The next of what is merely to be finished.
    fn pending(&self, tables: &Tables<'_>) -> Option<Choice> {
        let at = |at: usize, local| Some(Choice::At(u8::try_from(at).expect("servers are few"), local));
        for (place, server) in self.servers().iter().enumerate() {
            let known = tables.known(*server);
            match u8::try_from(known.unsynced_writes).expect("writes are few") {
                0 => {}
                count => return at(place, Local::Sync(count)),
            }
            if !known.server.tasks.is_empty() {
                return at(place, Local::Machine);
            }
        }
        self.wire.first().map(|mail| Choice::Deliver(*mail))
    }

    pub(super) fn servers(&self) -> &[u32] {
        &self.servers[..self.count.into()]
    }

    /// Everything that may happen next.
    pub(super) fn choices(&self, tables: &Tables<'_>, out: &mut Vec<Choice>) {
        out.clear();
        let left = self.left;
        let mut before = None;
        for mail in self.wire.iter().filter(|mail| before.replace(**mail) != Some(**mail)) {
            if tables.known(self.servers[tables.mail(*mail).to]).role.is_some() {
                out.push(Choice::Deliver(*mail));
                if left.duplicates > 0 {
                    out.push(Choice::Duplicate(*mail));
                }
            }
            if left.drops > 0 {
                out.push(Choice::Drop(*mail));
            }
        }
        for (place, server) in self.servers().iter().enumerate() {
            let place = u8::try_from(place).expect("servers are few");
            let mut may = |local| out.push(Choice::At(place, local));
            let known = tables.known(*server);
            let Some(role) = known.role else {
                may(Local::Restart);
                continue;
            };
            let leads = role == RoleKind::Leader;
            if known.has_timer && (if leads { left.heartbeats } else { left.timeouts }) > 0 {
                may(Local::Fire);
            }
            for count in 1..=u8::try_from(known.unsynced_writes).expect("writes are few") {
                may(Local::Sync(count));
            }
            if !known.server.tasks.is_empty() {
                may(Local::Machine);
            }
            if known.server.chunk.is_some() {
                may(Local::Store);
            }
            if left.crashes > 0 {
                for kept in 0..=u8::try_from(known.unsynced_parts).expect("entries are few") {
                    may(Local::Crash(kept, false));
                    if known.server.chunk.is_some() {
                        may(Local::Crash(kept, true));
                    }
                }
            }
            if left.proposals > 0 && leads {
                may(Local::Propose);
            }
            if left.reads > 0 {
                may(Local::Read);
            }
            if left.changes > 0 && leads {
                (0..).zip(tables.model.targets).for_each(|(target, _)| may(Local::Change(target)));
            }
            if left.snapshots > 0 {
                may(Local::Snapshot);
            }
            if left.transfers > 0 && leads {
                (0..self.count).filter(|to| *to != place).for_each(|to| may(Local::Transfer(to)));
            }
        }
    }

    /// What comes of a choice.
    pub(super) fn after(&self, choice: Choice, tables: &mut Tables<'_>) -> Result<Self, Broken> {
        let mut next = self.clone();
        self.choose(choice, tables, &mut next)?;
        Ok(next)
    }

    /// Turns `next`, whatever it was, into what comes of a choice.
    pub(super) fn choose(
        &self,
        choice: Choice,
        tables: &mut Tables<'_>,
        next: &mut Self,
    ) -> Result<(), Broken> {
        next.servers = self.servers;
        (next.count, next.history, next.left) = (self.count, self.history, self.left);
        next.wire.clone_from(&self.wire);
        let (at, step) = match choice {
            Choice::Drop(mail) => {
                next.left.drops -= 1;
                next.take(mail);
                return Ok(());
            }
            Choice::Deliver(mail) | Choice::Duplicate(mail) => {
                if choice == Choice::Deliver(mail) {
                    next.take(mail);
                } else {
                    next.left.duplicates -= 1;
                }
                let at = tables.mail(mail).to;
                let code = 1 << 31 | mail;
                (
                    at,
                    tables.step(self.servers[at], code, |tables| {
                        Act::Receive(tables.mail(mail).message.clone())
                    }),
                )
            }
            Choice::At(place, local) => {
                let at = usize::from(place);
                let leads = tables.known(self.servers[at]).role == Some(RoleKind::Leader);
                let act = next.spend(local, leads, tables.model);
                let ticket = ticket(&act).map_or(0, Ticket::get) as u32;
                let code = ticket << 16 | local.code();
                if let Act::Read(ticket) = act {
                    let mut history = tables.history(self.history).clone();
                    history.asked(ticket, at as u64 + 1);
                    next.history = tables.add_history(history);
                }
                (at, tables.step(self.servers[at], code, |_| act))
            }
        };
        let outcome = tables.outcome(step).as_ref().map_err(Broken::clone)?;
        next.servers[at] = outcome.to;
        if !outcome.sends.is_empty() {
            for sent in &outcome.sends {
                if tables.model.latest_only {
                    let link = tables.mail(*sent).link();
                    next.wire.retain(|mail| tables.mail(*mail).link() != link);
                }
                next.wire.push(*sent);
            }
            next.wire.sort_unstable();
        }
        let (is_news, is_other_log) = (outcome.is_news, outcome.is_other_log);
        if is_other_log {
            for other in next.servers() {
                tables.match_logs(next.servers[at], *other)?;
            }
        }
        if is_news {
            next.take_note(at, self.servers[at], step, tables)?;
        }
        Ok(())
    }

    /// The same, with what the server did in words.
    pub(super) fn told(&self, choice: Choice, tables: &Tables<'_>) -> Vec<String> {
        let (at, act) = match choice {
            Choice::Drop(_) => return Vec::new(),
            Choice::Deliver(mail) | Choice::Duplicate(mail) => {
                let mail = tables.mail(mail);
                (mail.to, Act::Receive(mail.message.clone()))
            }
            Choice::At(place, local) => {
                let at = usize::from(place);
                let leads = tables.known(self.servers[at]).role == Some(RoleKind::Leader);
                (at, self.clone().spend(local, leads, tables.model))
            }
        };
        let mut server = tables.known(self.servers[at]).server.clone();
        let mut effects = Effects { lines: Some(Vec::new()), ..Effects::default() };
        // Whatever is broken by it has been said before.
        let _ = super::tables::guarded(|| server.act(act, tables.model, &mut effects));
        effects.lines.unwrap_or_default()
    }

    fn take(&mut self, mail: u32) {
        let found = self.wire.iter().position(|other| *other == mail).expect("only what is there is chosen");
        self.wire.remove(found);
    }

    /// Takes the choice out of the budget, and says what it means for the server.
    fn spend(&mut self, local: Local, leads: bool, model: &Model) -> Act {
        let (left, all) = (&mut self.left, model.budget);
        let spend = |left: &mut u8, all: u8, kind: u64| {
            *left -= 1;
            Ticket::new(kind + u64::from(all - *left))
        };
        match local {
            Local::Fire => {
                *(if leads { &mut left.heartbeats } else { &mut left.timeouts }) -= 1;
                Act::Fire
            }
            Local::Sync(count) => Act::Sync(count.into()),
            Local::Crash(kept, chunk) => {
                left.crashes -= 1;
                Act::Crash { kept: kept.into(), chunk }
            }
            Local::Restart => Act::Restart,
            Local::Machine => Act::Machine,
            Local::Store => Act::Store,
            Local::Propose => Act::Propose(spend(&mut left.proposals, all.proposals, 0)),
            Local::Read => Act::Read(spend(&mut left.reads, all.reads, READS)),
            Local::Change(target) => {
                let ticket = spend(&mut left.changes, all.changes, CHANGES);
                Act::Change(ticket, model.targets[usize::from(target)])
            }
            Local::Snapshot => Act::Snapshot(spend(&mut left.snapshots, all.snapshots, SNAPSHOTS)),
            Local::Transfer(to) => {
                let ticket = spend(&mut left.transfers, all.transfers, TRANSFERS);
                Act::Transfer(ticket, NodeId::new(u64::from(to) + 1))
            }
        }
    }

    /// A server, which was `from`, did something that the history has to know of.
    fn take_note(&mut self, at: usize, from: u32, step: u32, tables: &mut Tables<'_>) -> Result<(), Broken> {
        let mut history = tables.history(self.history).clone();
        let servers: Vec<_> = self.servers().iter().map(|server| tables.known(*server)).collect();
        if let Ok(outcome) = tables.outcome(step) {
            history.advance(at, tables.known(from), &servers, &outcome.seen)?;
        }
        self.history = tables.add_history(history);
        Ok(())
    }
}

fn ticket(act: &Act) -> Option<Ticket> {
    match act {
        Act::Propose(ticket)
        | Act::Read(ticket)
        | Act::Change(ticket, _)
        | Act::Snapshot(ticket)
        | Act::Transfer(ticket, _) => Some(*ticket),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_survives_in_32_bits() {
        let locals = [
            Local::Fire,
            Local::Sync(2),
            Local::Crash(7, false),
            Local::Crash(0, true),
            Local::Restart,
            Local::Machine,
            Local::Store,
            Local::Propose,
            Local::Read,
            Local::Change(1),
            Local::Snapshot,
            Local::Transfer(4),
        ];
        let local = locals.into_iter().map(|local| Choice::At(4, local));
        let mails = [Choice::Deliver(0), Choice::Duplicate(1_000_000), Choice::Drop(77)];
        for choice in local.chain(mails) {
            assert_eq!(Choice::unpack(choice.pack()), choice);
        }
    }
}
