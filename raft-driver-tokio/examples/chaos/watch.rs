//! Looks at every server several times a second, past all faults of the network, and finds what must never be.
//!
//! * Two servers that lead in one term; two machines that applied the same entries and differ; a server that ended
//!   although nobody did anything to it.
//! * It also knows who leads and who the members are, as the leader of the highest term tells: others rely on that.
//! * A server that is no member any more is switched off, and on again should it turn out to be one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::api::{Caller, Status};
use crate::cluster::Cluster;
use crate::events::Events;
use crate::links::Id;

const INTERVAL: Duration = Duration::from_millis(200);
const STATUS_LIMIT: Duration = Duration::from_millis(500);
/// How long a server must have been absent from the members before it is switched off.
const ABSENT: Duration = Duration::from_secs(8);

/// What was seen last.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    /// Of those that answered.
    pub(crate) statuses: BTreeMap<Id, Status>,
    /// Of the highest term.
    pub(crate) leader: Option<Status>,
    /// When.
    pub(crate) round: u64,
}

impl View {
    /// The voters as last known, by whoever knows most.
    pub(crate) fn voters(&self) -> BTreeSet<Id> {
        let by_term = || self.statuses.values().max_by_key(|status| (status.term, status.commit_index));
        let known = self.leader.as_ref().or_else(by_term);
        known.map(|status| status.voters().collect()).unwrap_or_default()
    }
}

/// What was ever seen.
#[derive(Default)]
struct Seen {
    leaders: BTreeMap<u64, Id>,
    digests: HashMap<u64, (String, Id)>,
    absent: BTreeMap<Id, Instant>,
}

impl Seen {
    /// What contradicts something seen before.
    fn enter(&mut self, status: &Status) -> Vec<String> {
        let mut wrong = Vec::new();
        if status.leads() {
            let leader = *self.leaders.entry(status.term).or_insert(status.id);
            if leader != status.id {
                wrong.push(format!("servers {leader} and {} both lead in term {}", status.id, status.term));
            }
        }
        let machine = &status.machine;
        let known = self.digests.entry(machine.applied);
        let (digest, by) = known.or_insert_with(|| (machine.digest.clone(), status.id));
        if *digest != machine.digest {
            wrong.push(format!(
                "servers {by} and {} applied everything to index {} and differ: {digest} and {}",
                status.id, machine.applied, machine.digest
            ));
        }
        wrong
    }
}

/// Looks until it is dropped.
pub(crate) async fn watch(cluster: Arc<Cluster>, events: Arc<Events>, views: watch::Sender<View>) {
    let mut callers: BTreeMap<Id, Caller> = BTreeMap::new();
    let mut seen = Seen::default();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 1.. {
        ticks.tick().await;
        match cluster.reconcile().await {
            Ok(surprises) => surprises.into_iter().for_each(|what| events.wrong(what)),
            Err(error) => events.wrong(format!("a server cannot be started: {error}")),
        }
        let mut asked = JoinSet::new();
        for (id, address) in cluster.listens().await {
            let mut caller = callers.remove(&id).unwrap_or_default();
            asked.spawn(async move { (id, caller.status(&address, STATUS_LIMIT).await, caller) });
        }
        let mut view = View { round, ..View::default() };
        while let Some(asked) = asked.join_next().await {
            let Ok((id, status, caller)) = asked else { continue };
            callers.insert(id, caller);
            if let Some(status) = status {
                seen.enter(&status).into_iter().for_each(|what| events.wrong(what));
                view.statuses.insert(id, status);
            }
        }
        let leaders = view.statuses.values().filter(|status| status.leads());
        view.leader = leaders.max_by_key(|status| status.term).cloned();
        tend(&cluster, &events, &mut seen, &view).await;
        views.send_replace(view);
    }
}

/// Switches those off that left, and those on that are members.
async fn tend(cluster: &Cluster, events: &Events, seen: &mut Seen, view: &View) {
    let Some(leader) = &view.leader else { return };
    // What is in force may not be committed yet: it must have stood for a while, and be committed now.
    let settled = !leader.changing && leader.commit_index == leader.last_log_index;
    for member in &leader.members {
        seen.absent.remove(&member.id);
        if let Err(error) = cluster.retire(member.id, false).await {
            events.wrong(format!("server {} cannot be started: {error}", member.id));
        }
    }
    for id in cluster.ids().await {
        if leader.is_member(id) {
            continue;
        }
        let since = *seen.absent.entry(id).or_insert_with(Instant::now);
        if settled && since.elapsed() > ABSENT {
            seen.absent.remove(&id);
            events.note(format!("server {id} is no member, and is switched off"));
            // An error: of a start, and none is started here.
            let _ = cluster.retire(id, true).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: u64, role: &str, term: u64, applied: u64, digest: &str) -> Status {
        let text = format!(
            "{{\"id\":{id},\"role\":\"{role}\",\"term\":{term},\"commit_index\":9,\"last_log_index\":9,\
             \"changing\":false,\"members\":[{{\"id\":1,\"voter\":true}}],\
             \"machine\":{{\"applied\":{applied},\"keys\":1,\"digest\":\"{digest}\"}}}}"
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn two_leaders_of_a_term_are_noticed() {
        let mut seen = Seen::default();
        assert!(seen.enter(&status(1, "leader", 3, 1, "a")).is_empty());
        assert!(seen.enter(&status(2, "follower", 3, 1, "a")).is_empty());
        assert!(seen.enter(&status(2, "leader", 4, 1, "a")).is_empty());
        assert_eq!(seen.enter(&status(3, "leader", 3, 1, "a")).len(), 1);
    }

    #[test]
    fn machines_that_differ_are_noticed() {
        let mut seen = Seen::default();
        assert!(seen.enter(&status(1, "follower", 3, 7, "a")).is_empty());
        assert!(seen.enter(&status(2, "follower", 3, 8, "b")).is_empty());
        assert_eq!(seen.enter(&status(2, "follower", 3, 7, "b")).len(), 1);
    }
}
