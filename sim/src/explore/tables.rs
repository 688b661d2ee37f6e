//! Everything that was met so far, once each: servers, messages, logs, pasts, and what a server does about an event.
//!
//! * A state names its parts by their numbers here. A part that does not change costs nothing, and a server that has met the
//!   same event before is not stepped again: it would do the same.
//! * Two servers are one if their canonical forms are, with the same names and the same sources of new ones. So the numbers
//!   here are as concrete as what they stand for; which *states* are the same is said by [`fingerprint`](super::fingerprint).

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use raft_core::{Form, Membership, Message, Name, NodeId, RoleKind};
use twox_hash::XxHash3_128;

use super::Broken;
use super::fingerprint::{Hashed, pack};
use super::history::History;
use super::model::Model;
use super::server::{Act, Effects, Seen, Server};
use super::view::{Item, View};

/// A server, and what is asked of it often.
pub(super) struct Known {
    pub(super) server: Server,
    pub(super) id: u64,
    /// `None` while it is down.
    pub(super) role: Option<RoleKind>,
    pub(super) term: u64,
    pub(super) commit: u64,
    pub(super) membership: Option<Arc<Membership>>,
    /// Its log, and that of its disk.
    pub(super) view: u32,
    pub(super) log: Arc<View>,
    pub(super) disk_view: u32,
    pub(super) disk: Arc<View>,
    /// What its machine holds.
    pub(super) machine: u32,
    pub(super) applied: Arc<[Item]>,
    /// Whether a timer runs.
    pub(super) has_timer: bool,
    pub(super) unsynced_writes: usize,
    pub(super) unsynced_parts: u64,
    /// For the fingerprint, under each calling.
    pub(super) forms: Box<[Hashes]>,
    /// The same under all callings.
    pub(super) shape: u128,
}

/// All of a part but the names in it, and these.
#[derive(Debug)]
pub(super) struct Hashes {
    pub(super) form: u128,
    pub(super) names: Box<[u64]>,
}

/// A message, and what is asked of it often.
pub(super) struct Mail {
    pub(super) message: Message,
    /// The receiver's place among the servers.
    pub(super) to: usize,
    pub(super) forms: Box<[Hashes]>,
}

impl Mail {
    /// From whom to whom.
    pub(super) fn link(&self) -> (NodeId, NodeId) {
        (self.message.from, self.message.to)
    }
}

/// What a state remembers of its past.
pub(super) struct Past {
    pub(super) history: History,
    /// Under each calling.
    pub(super) forms: Box<[u128]>,
}

/// What a server does about an event.
pub(super) struct Step {
    pub(super) to: u32,
    pub(super) sends: Box<[u32]>,
    pub(super) seen: Box<[Seen]>,
    /// Whether the history has to know of it.
    pub(super) is_news: bool,
    /// Whether its log in memory or on disk is another.
    pub(super) is_other_log: bool,
}

/// The parts of all states so far.
pub(super) struct Tables<'m> {
    pub(super) model: &'m Model,
    /// What servers may be called, first their own names.
    pub(super) callings: Vec<Vec<NodeId>>,
    pub(super) servers: Vec<Known>,
    server_by_key: HashMap<u128, u32, Hashed>,
    pub(super) mails: Vec<Mail>,
    mail_by_key: HashMap<u128, u32, Hashed>,
    pub(super) pasts: Vec<Past>,
    past_by_key: HashMap<u128, u32, Hashed>,
    views: HashMap<Arc<View>, u32>,
    machines: HashMap<Arc<[Item]>, u32>,
    /// Pairs of logs that were compared, the lesser number first.
    matched: HashSet<u64, Hashed>,
    steps: HashMap<u64, u32, Hashed>,
    outcomes: Vec<Result<Step, Broken>>,
    form: Form,
    scratch: Vec<u8>,
    /// Which server was asked what.
    #[cfg(test)]
    asked: Vec<(u32, Act)>,
}

impl<'m> Tables<'m> {
    pub(super) fn new(model: &'m Model) -> Self {
        Self {
            model,
            callings: model.callings(),
            servers: Vec::new(),
            server_by_key: HashMap::default(),
            mails: Vec::new(),
            mail_by_key: HashMap::default(),
            pasts: Vec::new(),
            past_by_key: HashMap::default(),
            views: HashMap::new(),
            machines: HashMap::new(),
            matched: HashSet::default(),
            steps: HashMap::default(),
            outcomes: Vec::new(),
            form: Form::default(),
            scratch: Vec::new(),
            #[cfg(test)]
            asked: Vec::new(),
        }
    }

    pub(super) fn known(&self, server: u32) -> &Known {
        &self.servers[server as usize]
    }

    pub(super) fn mail(&self, mail: u32) -> &Mail {
        &self.mails[mail as usize]
    }

    pub(super) fn history(&self, history: u32) -> &History {
        &self.pasts[history as usize].history
    }

    /// How many steps of a node were really made.
    pub(super) fn steps_made(&self) -> u64 {
        self.outcomes.len() as u64
    }

    /// What `server` does when `act` happens; `code` stands for `act` among all that can happen to a server.
    pub(super) fn step(&mut self, server: u32, code: u32, act: impl FnOnce(&Self) -> Act) -> u32 {
        let key = u64::from(server) << 32 | u64::from(code);
        if let Some(outcome) = self.steps.get(&key) {
            return *outcome;
        }
        let act = act(self);
        #[cfg(test)]
        self.asked.push((server, act.clone()));
        let outcome = self.make_step(server, act);
        let number = number(self.outcomes.len());
        self.outcomes.push(outcome);
        self.steps.insert(key, number);
        number
    }

    pub(super) fn outcome(&self, step: u32) -> &Result<Step, Broken> {
        &self.outcomes[step as usize]
    }

    fn make_step(&mut self, server: u32, act: Act) -> Result<Step, Broken> {
        let mut next = self.known(server).server.clone();
        let mut effects = Effects::default();
        guarded(|| next.act(act, self.model, &mut effects))?;
        let sends = effects.sends.into_iter().map(|message| self.add_mail(message)).collect();
        let to = self.add_server(next)?;
        let (before, after) = (self.known(server), self.known(to));
        let is_news = History::is_news(before, after, &effects.seen);
        let is_other_log = (before.view, before.disk_view) != (after.view, after.disk_view);
        Ok(Step { to, sends, seen: effects.seen.into(), is_news, is_other_log })
    }

    pub(super) fn add_server(&mut self, server: Server) -> Result<u32, Broken> {
        let (key, forms) =
            self.hashes(|form| server.add_to(form), |key, tables| tables.server_by_key.contains_key(&key));
        if let Some(found) = self.server_by_key.get(&key) {
            return Ok(*found);
        }
        let (view, log) = self.add_view(server.view());
        let (disk_view, disk) = self.add_view(View::new(server.disk.base, &server.disk.log));
        let (machine, applied) = self.add_machine(&server.machine);
        let status = server.node.as_ref().map(raft_core::Node::status);
        let known = Known {
            id: server.id.get(),
            role: status.map(|status| status.role),
            term: server.term().get(),
            commit: status.map_or(0, |status| status.commit.get()),
            membership: server.node.as_ref().map(|node| Arc::clone(node.membership())),
            view,
            log,
            disk_view,
            disk,
            machine,
            applied,
            has_timer: server.node.as_ref().is_some_and(|node| node.deadline().is_some()),
            unsynced_writes: server.writes.len(),
            unsynced_parts: server.unsynced_parts(),
            shape: forms.iter().map(|hashes| hashes.form).min().unwrap_or_default(),
            forms,
            server,
        };
        known.check()?;
        let number = number(self.servers.len());
        self.servers.push(known);
        self.server_by_key.insert(key, number);
        Ok(number)
    }

    fn add_mail(&mut self, message: Message) -> u32 {
        let add = |form: &mut Form| form.add(message.from, &message);
        let (key, forms) = self.hashes(add, |key, tables| tables.mail_by_key.contains_key(&key));
        if let Some(found) = self.mail_by_key.get(&key) {
            return *found;
        }
        let number = number(self.mails.len());
        let to = usize::try_from(message.to.get() - 1).expect("servers are few");
        self.mails.push(Mail { message, to, forms });
        self.mail_by_key.insert(key, number);
        number
    }

    pub(super) fn add_history(&mut self, history: History) -> u32 {
        let called = |called: &Vec<NodeId>, bytes: &mut Vec<u8>| {
            bytes.clear();
            history.write_to(bytes, called);
            XxHash3_128::oneshot(bytes)
        };
        let key = called(&self.callings[0], &mut self.scratch);
        if let Some(found) = self.past_by_key.get(&key) {
            return *found;
        }
        let number = number(self.pasts.len());
        let forms = self.callings.iter().map(|calling| called(calling, &mut self.scratch)).collect();
        self.pasts.push(Past { history, forms });
        self.past_by_key.insert(key, number);
        number
    }

    fn add_view(&mut self, view: View) -> (u32, Arc<View>) {
        if let Some((found, number)) = self.views.get_key_value(&view) {
            return (*number, Arc::clone(found));
        }
        let (number, view) = (number(self.views.len()), Arc::new(view));
        self.views.insert(Arc::clone(&view), number);
        (number, view)
    }

    fn add_machine(&mut self, items: &[Item]) -> (u32, Arc<[Item]>) {
        if let Some((found, number)) = self.machines.get_key_value(items) {
            return (*number, Arc::clone(found));
        }
        let (number, items): (u32, Arc<[Item]>) = (number(self.machines.len()), items.into());
        self.machines.insert(Arc::clone(&items), number);
        (number, items)
    }

    /// What stands for a part as it is, and, unless it is known, for what others must know of it under each calling.
    fn hashes(
        &mut self,
        add: impl Fn(&mut Form),
        is_known: impl FnOnce(u128, &Self) -> bool,
    ) -> (u128, Box<[Hashes]>) {
        let mut form = core::mem::take(&mut self.form);
        let mut hashes = Vec::new();
        form.called.clear();
        form.clear();
        add(&mut form);
        let (key, first) = hash(&form, &mut self.scratch);
        if !is_known(key, self) {
            hashes.push(first);
            for calling in self.callings.iter().skip(1) {
                form.called.clone_from(calling);
                form.clear();
                add(&mut form);
                hashes.push(hash(&form, &mut self.scratch).1);
            }
        }
        self.form = form;
        (key, hashes.into())
    }

    /// Whether the logs of two servers, in memory and on disk, agree as far as they must (§5.3).
    pub(super) fn match_logs(&mut self, one: u32, other: u32) -> Result<(), Broken> {
        for on_disk in [(false, false), (false, true), (true, false), (true, true)] {
            let side = |server: u32, disk: bool| {
                let known = &self.servers[server as usize];
                if disk { (known.disk_view, &known.disk) } else { (known.view, &known.log) }
            };
            let ((a, first), (b, second)) = (side(one, on_disk.0), side(other, on_disk.1));
            if a == b || !self.matched.insert(u64::from(a.min(b)) << 32 | u64::from(a.max(b))) {
                continue;
            }
            if let Some(index) = first.mismatch(second) {
                let (one, other) = (self.known(one).id, self.known(other).id);
                let what =
                    format!("the logs of n{one} and n{other} differ at {index} and agree behind it (§5.3)");
                return Err(Broken::new("log-matching", what));
            }
        }
        Ok(())
    }
}

impl Known {
    /// What a server alone can be held to in a change of the membership (§6).
    fn check(&self) -> Result<(), Broken> {
        let broken = |what: &str| Err(Broken::new("membership", format!("n{} {what}", self.id)));
        if !self.server.configurations_meet() {
            return broken("has neighbours in its log that could decide without each other (§6)");
        }
        let Some(membership) = &self.membership else { return Ok(()) };
        let id = NodeId::new(self.id);
        if self.role == Some(RoleKind::Candidate) {
            // Who does not vote may be needed, unless it was removed and knows it (thesis §4.2.2).
            let open = self.log.configurations_after(self.commit) > 0;
            if !membership.contains(id) && !open {
                return broken("campaigns and has left");
            }
        }
        if self.role == Some(RoleKind::Leader) && self.log.configurations_after(self.commit) > 1 {
            // What it found in its log may be committed without its knowing; and it may take its own joint configuration back.
            let all = super::view::configurations(&self.server.log());
            let own = all.last().is_some_and(|(at, _)| self.log.term(at.get()) == Some(self.term));
            let undone = match &all[..] {
                [.., (_, before), (_, joint), (_, last)] => {
                    joint.is_joint() && last.is_settled() && last.voters == before.voters
                }
                _ => false,
            };
            if own && (!undone || self.log.configurations_after(self.commit) > 2) {
                return broken("has two uncommitted configurations in its log (§6)");
            }
        }
        Ok(())
    }
}

/// All of a form, and the form without the names that are compared across servers. Ids of writes and reads are compared
/// here, since no other server has any.
fn hash(form: &Form, bytes: &mut Vec<u8>) -> (u128, Hashes) {
    let is_own = |name: &&Name| matches!(name, Name::Write { .. } | Name::Read { .. });
    let mut own: Vec<Name> = form.names.iter().filter(is_own).copied().collect();
    own.sort_unstable();
    own.dedup();
    bytes.clear();
    bytes.extend_from_slice(&form.bytes);
    for name in form.names.iter().filter(is_own) {
        let place = own.binary_search(name).expect("it is one of them");
        bytes.push(u8::try_from(place).expect("a handful of writes"));
    }
    let without = XxHash3_128::oneshot(bytes);
    let names: Box<[u64]> = form.names.iter().filter(|name| !is_own(name)).map(|name| pack(*name)).collect();
    for number in names.iter().chain(&form.source) {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    (XxHash3_128::oneshot(bytes), Hashes { form: without, names })
}

/// A panic is a broken rule: the node's own assertions stay on.
pub(super) fn guarded(step: impl FnOnce() -> Result<(), Broken>) -> Result<(), Broken> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Broken::new("panic", text.unwrap_or("without a message").to_owned()))
    })
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("fewer than 2^32 parts")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use super::super::fingerprint::Fingerprints;
    use super::super::model::Budget;
    use super::super::state::State;
    use super::*;

    fn explored(model: &Model) -> Tables<'_> {
        let mut tables = Tables::new(model);
        let start = State::start(&mut tables).unwrap();
        let (mut fingerprints, mut choices) = (Fingerprints::default(), Vec::new());
        let mut seen = HashSet::from([fingerprints.of(&start, &tables)]);
        let mut open = VecDeque::from([start]);
        while let Some(state) = open.pop_front() {
            state.choices(&tables, &mut choices);
            for choice in &choices {
                let next = state.after(*choice, &mut tables).unwrap();
                if seen.insert(fingerprints.of(&next, &tables)) {
                    open.push_back(next);
                }
            }
        }
        tables
    }

    /// What a step comes to: another server, messages, and what the history hears.
    fn result(mut server: Server, act: &Act, tables: &mut Tables<'_>) -> (u32, Vec<u32>, Vec<Seen>) {
        let mut effects = Effects::default();
        server.act(act.clone(), tables.model, &mut effects).unwrap();
        let sends = effects.sends.into_iter().map(|message| tables.add_mail(message)).collect();
        (tables.add_server(server).unwrap(), sends, effects.seen)
    }

    /// Whatever is taken for a server that is known does the same as that one, whenever and however it came to be.
    fn those_taken_for_one_do_the_same(model: &Model, least: usize) {
        let mut tables = explored(model);
        let asked = core::mem::take(&mut tables.asked);
        let mut acts: BTreeMap<u32, Vec<&Act>> = BTreeMap::new();
        asked.iter().for_each(|(server, act)| acts.entry(*server).or_default().push(act));
        let mut compared = 0;
        for (server, act) in &asked {
            let mut twin = tables.known(*server).server.clone();
            twin.act(act.clone(), model, &mut Effects::default()).unwrap();
            let number = tables.add_server(twin.clone()).unwrap();
            for act in acts.get(&number).into_iter().flatten() {
                let known = tables.known(number).server.clone();
                let (expected, found) =
                    (result(known, act, &mut tables), result(twin.clone(), act, &mut tables));
                assert_eq!(found, expected, "n{} after {act:?}", twin.id);
                compared += 1;
            }
        }
        assert!(compared >= least, "only {compared} steps were compared");
    }

    #[test]
    fn servers_that_are_taken_for_one_do_the_same() {
        let budget = Budget { timeouts: 2, proposals: 1, ..Budget::NONE };
        let led = Model { led: true, latest_only: true, budget, ..Model::new("replication", "") };
        those_taken_for_one_do_the_same(&led, 4_000);
        let budget = Budget { heartbeats: 1, reads: 1, snapshots: 1, ..Budget::NONE };
        let model = Model { slow: true, chunk_entries: 2, budget, ..led.clone() };
        those_taken_for_one_do_the_same(&model, 1_000);
        let budget = Budget { timeouts: 1, crashes: 1, proposals: 1, ..Budget::NONE };
        those_taken_for_one_do_the_same(&Model { budget, ..led }, 4_000);
    }
}
