//! Does what the schedule says, each fault in a task of its own, and takes it back when its time is over.
//!
//! * Victims are chosen among the voters as last seen, by the draw that the schedule carries.
//! * A fault never undoes another one: holds and layers carry its number.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::api::{Answer, Caller, Lost, Operator};
use crate::cluster::Cluster;
use crate::events::Events;
use crate::links::{CLIENTS, Id, Links, Pair, Rule, Shake};
use crate::schedule::{Change, Cut, Fault, Planned, Who};
use crate::watch::View;

/// How long a disk is full at least: until somebody needs room.
const FULL_MIN: Duration = Duration::from_secs(3);
const OPERATOR_LIMIT: Duration = Duration::from_secs(5);
/// How long a rolling restart waits for a server to answer again before it goes on to the next.
const BACK_LIMIT: Duration = Duration::from_secs(5);

/// What faults need to know and to reach.
#[derive(Clone)]
pub(crate) struct Nemesis {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) events: Arc<Events>,
    pub(crate) views: watch::Receiver<View>,
    /// Changes of the members go one after the other.
    pub(crate) changes: mpsc::Sender<(u64, Change, u64)>,
}

impl Nemesis {
    /// Goes through the whole schedule. When it is dropped, faults stay as they are.
    pub(crate) async fn run(self, schedule: Vec<Planned>) {
        let began = Instant::now();
        let mut faults = JoinSet::new();
        for (number, planned) in (1..).zip(schedule) {
            sleep_until(began + planned.at).await;
            faults.spawn(self.clone().perform(number, planned));
            while faults.try_join_next().is_some() {}
        }
        while faults.join_next().await.is_some() {}
    }

    /// The servers to choose from.
    async fn choice(&self) -> (Vec<Id>, Option<Id>) {
        let view = self.views.borrow().clone();
        let ids = self.cluster.ids().await;
        let voters: Vec<Id> = ids.iter().copied().filter(|id| view.voters().contains(id)).collect();
        let leader = view.leader.map(|status| status.id).filter(|leader| ids.contains(leader));
        (if voters.is_empty() { ids } else { voters }, leader)
    }

    async fn perform(self, number: u64, planned: Planned) {
        let Planned { lasts, fault, draw, .. } = planned;
        let (ids, leader) = self.choice().await;
        let (begin, kind) = (|what| self.events.begin(number, fault.kind(), what), fault.kind());
        let victims = |who| victims(who, draw, &ids, leader);
        let done = match fault {
            Fault::Kill(who) => {
                let hit = victims(who);
                begin(format!("{hit:?} for {lasts:?}"));
                self.cluster.kill(number, &hit).await;
                sleep(lasts).await;
                self.cluster.release(number).await
            }
            Fault::Pause(who) => {
                let hit = victims(who);
                begin(format!("{hit:?} for {lasts:?}"));
                self.cluster.pause(number, &hit).await;
                sleep(lasts).await;
                self.cluster.release(number).await
            }
            Fault::DiskFull(who) => {
                let hit = victims(who);
                begin(format!("{hit:?} for {lasts:?}"));
                self.full(number, &hit, lasts.max(FULL_MIN), draw).await
            }
            Fault::RollingRestart => {
                begin(format!("{ids:?}"));
                self.rolling_restart(number, &ids).await
            }
            Fault::Partition(cut) => {
                self.lay(number, kind, lasts, cut, draw, Rule { stalled: true, ..Rule::default() }).await
            }
            Fault::Slow { cut, delay, jitter } => {
                self.lay(number, kind, lasts, cut, draw, Rule { delay, jitter, ..Rule::default() }).await
            }
            Fault::Narrow { cut, bytes_per_s } => {
                let rule = Rule { bytes_per_s: Some(bytes_per_s), ..Rule::default() };
                self.lay(number, kind, lasts, cut, draw, rule).await
            }
            Fault::Breaking { cut, cut_ppm } => {
                self.lay(number, kind, lasts, cut, draw, Rule { cut_ppm, ..Rule::default() }).await
            }
            Fault::Loss { cut, percent } => {
                let rule = Rule { loss_percent: percent, ..Rule::default() };
                self.lay(number, kind, lasts, cut, draw, rule).await
            }
            Fault::Reset | Fault::HalfOpen => {
                let pair = pair(draw, &ids);
                begin(format!("{} and {}", pair.0, pair.1));
                let shake = match fault {
                    Fault::Reset => Shake::Reset(pair.0, pair.1),
                    _ => Shake::HalfOpen(pair.0, pair.1, lasts),
                };
                self.links().shake(shake);
                Ok(())
            }
            Fault::Transfer => {
                begin(format!("by {leader:?}"));
                self.operate(self.at(leader), Operator::Transfer, transfer(draw, &ids, leader)).await;
                Ok(())
            }
            Fault::Snapshot => {
                let id = victims(Who::Any(1)).first().copied();
                begin(format!("by {id:?}"));
                self.operate(self.at(id), Operator::Snapshot, String::new()).await;
                Ok(())
            }
            Fault::Members(change) => {
                let queued = self.changes.try_send((number, change, draw)).is_ok();
                if !queued {
                    self.events.note(format!("{number}: {change:?} is left out: others are under way"));
                }
                return;
            }
        };
        match done {
            Ok(()) => self.events.end(number, ""),
            Err(error) => self.events.wrong(format!("fault {number} ({kind}) cannot be performed: {error}")),
        }
    }

    fn links(&self) -> &Links {
        &self.cluster.network().links
    }

    /// Fills disks, and sees to it that somebody needs room there: for a snapshot, or to start.
    async fn full(&self, number: u64, hit: &BTreeSet<Id>, lasts: Duration, draw: u64) -> std::io::Result<()> {
        let filled = self.cluster.fill_disks(number, hit).await;
        sleep(lasts / 3).await;
        if draw.is_multiple_of(3) {
            self.cluster.bounce(hit).await;
        } else {
            for id in hit {
                // Past the network, which may be broken too.
                let direct = self.cluster.listens().await.get(id).cloned();
                self.operate(direct, Operator::Snapshot, String::new()).await;
            }
        }
        sleep(lasts * 2 / 3).await;
        filled.and(self.cluster.release(number).await)
    }

    async fn lay(
        &self,
        number: u64,
        kind: &'static str,
        lasts: Duration,
        cut: Cut,
        draw: u64,
        rule: Rule,
    ) -> std::io::Result<()> {
        let (ids, leader) = self.choice().await;
        let pairs = pairs(cut, draw, &ids, leader);
        self.events.begin(number, kind, format!("{cut:?}, {pairs:?}, {rule:?} for {lasts:?}"));
        self.links().lay(number, pairs, rule);
        sleep(lasts).await;
        self.links().lift(number);
        Ok(())
    }

    /// Where clients reach a server.
    fn at(&self, server: Option<Id>) -> Option<String> {
        server.and_then(|id| self.cluster.http().borrow().get(&id).cloned())
    }

    async fn operate(&self, address: Option<String>, what: Operator, body: String) {
        let Some(address) = address else { return };
        let told = match Caller::default().operate(&address, what, body, OPERATOR_LIMIT).await {
            Ok(answer) => Answer::told(&answer),
            Err(Lost::Unsent(why) | Lost::Maybe(why)) => why,
        };
        self.events.note(format!("{what:?}: {told}"));
    }

    async fn rolling_restart(&self, number: u64, ids: &[Id]) -> std::io::Result<()> {
        for id in ids {
            if !self.cluster.shut_down(number, *id).await {
                self.events.note(format!("server {id} did not shut down in time, and was killed"));
            }
            self.cluster.release(number).await?;
            let mut views = self.views.clone();
            let round = views.borrow().round + 1;
            let back = views.wait_for(|view| view.round > round && view.statuses.contains_key(id));
            // In vain, if another fault has it: the next one's turn all the same.
            let _ = tokio::time::timeout(BACK_LIMIT, back).await;
        }
        Ok(())
    }
}

/// The servers in an order that the draw decides, the leader's place first if it is wanted.
fn victims(who: Who, draw: u64, ids: &[Id], leader: Option<Id>) -> BTreeSet<Id> {
    let mut order = shuffled(draw, ids);
    let count = match who {
        Who::Leader => {
            order.sort_by_key(|id| Some(*id) != leader);
            1
        }
        Who::Any(count) => count,
        Who::Majority => ids.len() / 2 + 1,
        Who::All => ids.len(),
    };
    order.into_iter().take(count).collect()
}

fn shuffled(draw: u64, ids: &[Id]) -> Vec<Id> {
    let mut order = ids.to_vec();
    order.sort_by_key(|id| (draw ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left((draw % 64) as u32));
    order
}

fn pair(draw: u64, ids: &[Id]) -> Pair {
    let mut ends = ids.to_vec();
    ends.push(CLIENTS);
    let order = shuffled(draw, &ends);
    (order.first().copied().unwrap_or(CLIENTS), order.get(1).copied().unwrap_or(CLIENTS))
}

fn transfer(draw: u64, ids: &[Id], leader: Option<Id>) -> String {
    let to = shuffled(draw, ids).into_iter().find(|id| Some(*id) != leader);
    // In one case of four to whoever is furthest.
    to.filter(|_| !draw.is_multiple_of(4)).map(|to| format!("{{\"to\":{to}}}")).unwrap_or_default()
}

/// The directed pairs of a cut.
fn pairs(cut: Cut, draw: u64, ids: &[Id], leader: Option<Id>) -> BTreeSet<Pair> {
    let all = |from: &[Id], to: &[Id]| -> BTreeSet<Pair> {
        let each = from.iter().flat_map(|from| to.iter().map(move |to| (*from, *to)));
        each.filter(|(from, to)| from != to).collect()
    };
    let split = |who| {
        let some: Vec<Id> = victims(who, draw, ids, leader).into_iter().collect();
        let others: Vec<Id> = ids.iter().copied().filter(|id| !some.contains(id)).collect();
        (some, others)
    };
    let both = |one: &[Id], two: &[Id]| -> BTreeSet<Pair> {
        all(one, two).into_iter().chain(all(two, one)).collect()
    };
    let with_clients: Vec<Id> = ids.iter().copied().chain([CLIENTS]).collect();
    match cut {
        Cut::Isolate(who) => {
            let (some, others) = split(who);
            both(&some, &others)
        }
        Cut::IsolateFromAll(who) => {
            let (some, mut others) = split(who);
            others.push(CLIENTS);
            both(&some, &others)
        }
        Cut::Mute(who) => {
            let (some, others) = split(who);
            all(&some, &others)
        }
        Cut::Deaf(who) => {
            let (some, others) = split(who);
            all(&others, &some)
        }
        Cut::Bridge => {
            let order = shuffled(draw, ids);
            let Some((_, others)) = order.split_first() else { return BTreeSet::new() };
            let (one, two) = others.split_at(others.len() / 2);
            both(one, two)
        }
        Cut::Scattered => {
            let links = all(&with_clients, &with_clients);
            links.into_iter().filter(|(from, to)| shuffled_bit(draw, from * 251 + to)).collect()
        }
        Cut::Everywhere => all(&with_clients, &with_clients),
    }
}

/// True for one link of four.
fn shuffled_bit(draw: u64, link: u64) -> bool {
    (draw ^ link).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [Id; 5] = [1, 2, 3, 5, 8];

    #[test]
    fn victims_are_as_many_as_asked_for_and_the_leader_where_it_is_wanted() {
        for draw in 0..100_u64 {
            let draw = draw.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert_eq!(victims(Who::Leader, draw, &IDS, Some(5)), [5].into());
            assert_eq!(victims(Who::Leader, draw, &IDS, None).len(), 1);
            assert_eq!(victims(Who::Any(2), draw, &IDS, Some(5)).len(), 2);
            assert_eq!(victims(Who::Majority, draw, &IDS, Some(5)).len(), 3);
            assert_eq!(victims(Who::All, draw, &IDS, Some(5)).len(), 5);
        }
        let hit: BTreeSet<Id> =
            (0..100_u64).flat_map(|draw| victims(Who::Any(1), draw << 50, &IDS, None)).collect();
        assert_eq!(hit.len(), IDS.len(), "everybody's turn comes");
    }

    #[test]
    fn cuts_are_of_one_direction_or_both() {
        let mute = pairs(Cut::Mute(Who::Leader), 3, &IDS, Some(2));
        assert_eq!(mute, [(2, 1), (2, 3), (2, 5), (2, 8)].into());
        let deaf = pairs(Cut::Deaf(Who::Leader), 3, &IDS, Some(2));
        assert_eq!(deaf, mute.iter().map(|(from, to)| (*to, *from)).collect());
        let both = pairs(Cut::Isolate(Who::Leader), 3, &IDS, Some(2));
        assert_eq!(both, mute.union(&deaf).copied().collect());
        assert!(pairs(Cut::IsolateFromAll(Who::Leader), 3, &IDS, Some(2)).contains(&(CLIENTS, 2)));
        let bridge = pairs(Cut::Bridge, 3, &IDS, Some(2));
        assert_eq!(bridge.len(), 8, "two and two, both ways");
        assert_eq!(pairs(Cut::Everywhere, 3, &IDS, None).len(), 30);
    }
}
