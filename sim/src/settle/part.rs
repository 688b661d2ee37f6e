//! A random majority is healed, and the rest stays broken for good: crashed, standing still, without a disk, or cut off
//! in one direction or both.
//!
//! What must then be true of those inside, whatever those outside do:
//! * somebody leads within twenty of the longest election timeouts, by the slowest clock;
//! * every request is answered, a change of the membership that waits for somebody outside among them;
//! * new writes commit, all members inside hold the same state;
//! * and from then on nobody campaigns any more.
//!
//! Who decides: the majority is one of the committed configuration and of every other that may still be committed, of both
//! sets while joint, and of what a change in progress aims at. No link between the inside and the outside works in both directions, so that
//! nobody outside can go on as a leader; only one whose disk stands still may have all its links, and has to notice.

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{Membership, NodeId, RoleKind, Target, Term};

use super::slot;
use crate::check::{Broken, Check, decides};
use crate::clock::{Nanos, SECOND};
use crate::rng::Rng;
use crate::trace::What;
use crate::workload::Workload;
use crate::world::{World, note};

/// A time that no run reaches. Times may still be added to it.
const FOR_GOOD: Nanos = u64::MAX / 4;

/// The longest election timeouts within which somebody has to lead.
const LEAD_TIMEOUTS: u64 = 20;

/// For how many of the longest election timeouts nobody may campaign.
const CALM_TIMEOUTS: u64 = 8;

/// How a server stays broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// It is down.
    Down,
    /// Its process stands still.
    Paused,
    /// Its disk stands still; everything else works.
    NoDisk,
    /// It hears nobody inside, and nobody inside hears it.
    Alone,
    /// It hears nobody inside, and all of them hear it.
    Deaf,
    /// It hears everybody, and nobody inside hears it.
    Mute,
    /// With each server inside it is one of the last three.
    Mixed,
}

impl Harm {
    const ALL: [Self; 7] =
        [Self::Down, Self::Paused, Self::NoDisk, Self::Alone, Self::Deaf, Self::Mute, Self::Mixed];

    const fn name(self) -> &'static str {
        match self {
            Self::Down => "down for good",
            Self::Paused => "paused for good",
            Self::NoDisk => "stalled for good",
            Self::Alone => "alone for good",
            Self::Deaf => "deaf for good",
            Self::Mute => "mute for good",
            Self::Mixed => "cut off for good",
        }
    }
}

impl Harm {
    /// The links between a server and those inside that are cut, each as from and to.
    fn cuts(self, at: usize, inside: &BTreeSet<usize>, rng: &mut Rng) -> Vec<(usize, usize)> {
        let mut cuts = Vec::new();
        for other in inside {
            let (hears, is_heard) = match self {
                Self::Down | Self::Paused | Self::NoDisk => (true, true),
                Self::Alone => (false, false),
                Self::Deaf => (false, true),
                Self::Mute => (true, false),
                Self::Mixed => *rng.pick(&[(false, false), (false, true), (true, false)]),
            };
            if !hears {
                cuts.push((*other, at));
            }
            if !is_heard {
                cuts.push((at, *other));
            }
        }
        cuts
    }
}

/// What is asked of those inside.
#[derive(Debug)]
pub(super) struct Part {
    inside: BTreeSet<usize>,
    outside: BTreeMap<usize, Harm>,
    /// Until when a message that was sent before may still arrive, or an answer to it, and raise a term.
    stragglers_until: Nanos,
    /// Somebody inside has led.
    led: bool,
    calm: Option<Calm>,
}

/// All is done: from now on nothing may happen.
#[derive(Debug)]
struct Calm {
    since: Nanos,
    leader: NodeId,
    term: Term,
    /// Answers to operators: who is asked for a transfer may well campaign.
    answers: usize,
    /// The calm has lasted: one more write, and it is over.
    over: bool,
}

impl Part {
    pub(super) fn is_outside(&self, at: usize) -> bool {
        self.outside.contains_key(&at)
    }

    pub(super) fn may_answer(&self, at: usize) -> bool {
        matches!(self.outside.get(&at), None | Some(Harm::NoDisk))
    }
}

impl<W: Workload> World<'_, W> {
    /// Breaks what is not in a random majority. False if there is nothing to break, or no majority.
    pub(super) fn break_for_good(&mut self) -> Result<bool, Broken> {
        // A cluster that nobody has founded yet has no majorities.
        if self.checks.configuration().is_none() {
            return Ok(false);
        }
        let needed: Vec<usize> = self.needed().into_iter().map(slot).collect();
        let Some(inside) = self.draw_majority(&needed) else {
            // Servers whose disks are lost never come back: if they are too many, the cluster is lost with them.
            self.summary.excused += 1;
            return Ok(false);
        };
        let outside: Vec<usize> = needed.into_iter().filter(|at| !inside.contains(at)).collect();
        if outside.is_empty() {
            return Ok(false);
        }
        let group = inside.iter().fold(0_u64, |group, at| group | 1 << at);
        let stragglers_until = self.network.last_arrival() + self.election_max();
        self.network.heal_among(group);
        let ids = || inside.iter().map(|at| self.servers[*at].status().id).collect();
        note!(self, None, What::MajorityHealed { nodes: ids() });
        // What is about to fail fails no more, wherever it is, except for what is broken now.
        for at in 0..self.servers.len() {
            self.heal_server(at);
        }
        let mut broken = BTreeMap::new();
        for at in outside {
            let how = *self.operator.rng.pick(&Harm::ALL);
            broken.insert(at, how);
            self.break_one(at, how, &inside)?;
        }
        for at in &inside {
            self.servers[*at].enlist(true);
            self.start(*at)?;
        }
        (0..self.servers.len()).for_each(|at| self.set_timer(at));
        self.summary.majorities += 1;
        self.stage(Some(Part { inside, outside: broken, stragglers_until, led: false, calm: None }));
        Ok(true)
    }

    /// Servers that decide by every configuration that is or may come into force, and by what a change aims at, in a
    /// random order until they are enough. A leader whose disk stands still may complete a change yet, with the help of
    /// others outside.
    fn draw_majority(&mut self, needed: &[usize]) -> Option<BTreeSet<usize>> {
        let mut configurations = self.checks.possible();
        let intents: Vec<Target> = configurations.iter().filter_map(|it| it.intent.clone()).collect();
        let aims = |target: Target| Membership { voters: target.voters, ..Membership::default() };
        configurations.extend(intents.into_iter().map(aims));
        let enough = |inside: &BTreeSet<usize>| {
            configurations.iter().all(|it| decides(it, |node| inside.contains(&slot(node))))
                // The first entry counts as committed wherever it is.
                && inside.iter().any(|at| self.checks.holds_entries(self.servers[*at].status().id))
        };
        let mut left: Vec<usize> = needed.iter().copied().filter(|at| !self.servers[*at].is_lost()).collect();
        let mut inside = BTreeSet::new();
        while !enough(&inside) {
            if left.is_empty() {
                return None;
            }
            let next = self.operator.rng.index(left.len());
            inside.insert(left.swap_remove(next));
        }
        Some(inside)
    }

    fn break_one(&mut self, at: usize, how: Harm, inside: &BTreeSet<usize>) -> Check {
        let cuts = how.cuts(at, inside, &mut self.operator.rng);
        let id = |at: usize| NodeId::new(at as u64 + 1);
        note!(
            self,
            None,
            What::Fault {
                fault: how.name().to_owned(),
                nodes: vec![id(at)],
                cuts: cuts.iter().map(|(from, to)| (id(*from), id(*to))).collect(),
                until_ns: None,
                more: BTreeMap::new(),
            }
        );
        for (from, to) in cuts {
            self.network.cut(from, to, FOR_GOOD);
        }
        match how {
            // What is lost already stays so.
            _ if self.servers[at].is_lost() => Ok(()),
            Harm::Down => {
                self.servers[at].enlist(false);
                self.crash(at, 0)
            }
            Harm::Paused => {
                self.servers[at].pause(FOR_GOOD);
                Ok(())
            }
            Harm::NoDisk => {
                // Its links work as well as those inside.
                let group = inside.iter().fold(1_u64 << at, |group, at| group | 1 << at);
                self.network.heal_among(group);
                // It is up from the beginning: it may know a later term, and those inside hear of that.
                self.servers[at].enlist(true);
                self.start(at)?;
                self.servers[at].stall(FOR_GOOD);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What was broken for good is repaired: what stood still begins anew.
    pub(super) fn repair(&mut self) -> Check {
        let Some(part) = self.settle.part.take() else { return Ok(()) };
        for (at, how) in part.outside {
            match how {
                Harm::Paused | Harm::NoDisk => self.crash(at, 0)?,
                Harm::Down => self.servers[at].enlist(true),
                _ => {}
            }
        }
        Ok(())
    }

    /// What is still missing among those inside. Fails if nobody leads in time, or if somebody campaigns when all is calm.
    pub(super) fn missing_inside(&mut self) -> Result<Option<String>, Broken> {
        let wrote = self.wrote()?;
        let leader = self.leader_inside();
        let Some(part) = &mut self.settle.part else { return Ok(None) };
        part.led |= leader.is_some();
        let (led, stragglers_until) = (part.led, part.stragglers_until);
        if let Some(calm) = &self.settle.part.as_ref().and_then(|part| part.calm.as_ref()) {
            let disturbed = leader != Some((calm.leader, calm.term)) || self.highest_term() > calm.term;
            if disturbed && calm.answers == self.operator.answers() {
                let what = format!(
                    "n{} led term {} in peace, and now {leader:?} (node, term) leads, and term {} has begun",
                    calm.leader,
                    calm.term,
                    self.highest_term()
                );
                return Err(self.stuck(&what));
            }
            if disturbed {
                self.calm_down(None);
            }
        }
        let now = self.clock.now();
        if !led {
            let within = LEAD_TIMEOUTS * self.election_max();
            if now - self.settle.began > within && !self.is_excused() {
                return Err(self.stuck(&format!("nobody inside leads within {} ms", within * 1_000 / SECOND)));
            }
            return Ok(Some("nobody inside leads".to_owned()));
        }
        let unfinished =
            if wrote { self.unfinished() } else { Some("a new write has not committed".to_owned()) };
        let Some(Calm { since, over, .. }) = self.settle.part.as_ref().and_then(|part| part.calm.as_ref())
        else {
            if let (None, Some((leader, term))) = (&unfinished, leader) {
                if now <= stragglers_until {
                    self.settle.progressed_at = now;
                    return Ok(Some("what was sent before the healing is still under way".to_owned()));
                }
                let answers = self.operator.answers();
                self.calm_down(Some(Calm { since: now, leader, term, answers, over: false }));
                self.settle.progressed_at = now;
                return Ok(Some("it is calm since a moment ago".to_owned()));
            }
            return Ok(Some(unfinished.unwrap_or_else(|| "nobody inside leads any more".to_owned())));
        };
        if *over {
            return Ok(unfinished);
        }
        if now - since > CALM_TIMEOUTS * self.election_max() {
            if let Some(calm) = self.settle.part.as_mut().and_then(|part| part.calm.as_mut()) {
                calm.over = true;
            }
            self.settle.last_write = None;
            self.settle.progressed_at = now;
        }
        Ok(Some("it is calm, and has to stay so".to_owned()))
    }

    fn calm_down(&mut self, calm: Option<Calm>) {
        if let Some(part) = &mut self.settle.part {
            part.calm = calm;
        }
    }

    /// Whoever leads those inside: one of them, and a majority of them knows.
    fn leader_inside(&self) -> Option<(NodeId, Term)> {
        let part = self.settle.part.as_ref()?;
        let status = |at: usize| self.servers[at].status();
        let leads = |at: &&usize| self.servers[**at].is_up() && status(**at).role == RoleKind::Leader;
        let leader = status(*part.inside.iter().filter(leads).max_by_key(|at| status(**at).term)?);
        let follows = |node: NodeId| {
            let at = slot(node);
            let known = status(at);
            part.inside.contains(&at) && known.term == leader.term && known.leader == Some(leader.id)
        };
        decides(self.checks.in_force(leader.id), follows).then_some((leader.id, leader.term))
    }

    /// Of the members inside: whoever was removed meanwhile may have any term, and disturbs nobody by it (thesis §4.2.3).
    fn highest_term(&self) -> Term {
        let Some((_, in_force)) = self.checks.configuration() else { return Term::default() };
        let inside = self.settle.part.iter().flat_map(|part| &part.inside);
        let members =
            inside.map(|at| self.servers[*at].status()).filter(|status| in_force.contains(status.id));
        members.map(|status| status.term).max().unwrap_or_default()
    }

    /// What those inside have not done yet.
    fn unfinished(&self) -> Option<String> {
        let part = self.settle.part.as_ref()?;
        let committed = self.checks.committed();
        let (at, in_force) = self.checks.configuration()?;
        if in_force.is_joint() || in_force.intent.is_some() {
            return Some(format!("the change at {at} is not finished: {in_force:?}"));
        }
        if let Some((leader, _)) = self.leader_inside().filter(|(leader, _)| !in_force.is_voter(*leader)) {
            return Some(format!("n{leader} leads and has left"));
        }
        for server in part.inside.iter().map(|at| &self.servers[*at]) {
            let status = server.status();
            if !in_force.contains(status.id) {
                continue;
            }
            if status.membership_index > at.index {
                return Some(format!(
                    "n{} has begun another change at {}",
                    status.id, status.membership_index
                ));
            }
            if status.applied != committed || server.machine().applied().index != committed {
                return Some(format!("n{} has applied {} of {committed}", status.id, status.applied));
            }
            if server.waiting() > 0 {
                return Some(format!("n{} has not answered {} requests", status.id, server.waiting()));
            }
        }
        None
    }

    /// Whether those inside need somebody outside through no fault of theirs: counted, and shown.
    ///
    /// A leader that had heard the new voters just before they broke may have entered a joint configuration of which
    /// those inside are no majority. Its author takes it back (§6); if that one is outside, or was deposed, nobody may.
    /// And an order that was given before may be carried out only now, and end with a configuration of others.
    pub(super) fn is_excused(&mut self) -> bool {
        let Some(part) = &self.settle.part else { return false };
        let stuck = |at: &usize| {
            let in_force = self.checks.in_force(self.servers[*at].status().id);
            in_force.is_joint() && !decides(in_force, |node| part.inside.contains(&slot(node)))
        };
        // An order that had waited at a paused server may have moved the cluster to others.
        let configuration = self.checks.configuration();
        let moved = configuration
            .is_some_and(|(_, in_force)| !decides(in_force, |node| part.inside.contains(&slot(node))));
        let excused = moved || part.inside.iter().any(stuck);
        self.summary.excused += u64::from(excused);
        excused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_cut_off_hears_or_is_heard_by_each_server_inside_but_never_both() {
        let inside = BTreeSet::from([0, 2, 3]);
        let mut rng = Rng::new(1, 1);
        let mut patterns = BTreeSet::new();
        for _ in 0..50 {
            for how in Harm::ALL {
                let cuts = how.cuts(1, &inside, &mut rng);
                let whole = matches!(how, Harm::Down | Harm::Paused | Harm::NoDisk);
                for other in &inside {
                    let cut = cuts.contains(&(1, *other)) || cuts.contains(&(*other, 1));
                    assert_eq!(cut, !whole, "{how:?}: {cuts:?}");
                }
                patterns.insert(cuts);
            }
        }
        assert!(patterns.len() > 20, "{patterns:?}");
    }

    #[test]
    fn clients_leave_what_is_broken_alone_except_for_a_disk_that_has_to_be_noticed() {
        let outside = BTreeMap::from([(1, Harm::Deaf), (4, Harm::NoDisk)]);
        let inside = BTreeSet::from([0, 2, 3]);
        let part = Part { inside, outside, stragglers_until: 0, led: false, calm: None };
        assert_eq!([0, 1, 4, 5].map(|at| part.may_answer(at)), [true, false, true, true]);
    }
}
