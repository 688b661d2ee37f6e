//! The end of a run: everything heals, and what must be true then is looked at.
//!
//! * Writes are accepted again within [`RECOVERY_LIMIT`], as the clients that go on see it.
//! * The members are as many as they were, none is changing, and all of them hold the same state.
//! * Every key is read once more; the verdict then says whether what is there is right.
//! * All servers are shut down in order and started again: they hold the same state as before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::api::{Caller, Machine};
use crate::clients::{Load, READER};
use crate::cluster::Cluster;
use crate::events::Events;
use crate::history::{Op, Outcome, Record};
use crate::members::Members;
use crate::report::Progress;
use crate::watch::View;

/// How long it may take until a write is accepted after everything has healed: two election time-outs would do on
/// an idle machine.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// How long servers may take to agree, and changes of the members to end.
const AGREEMENT_LIMIT: Duration = Duration::from_secs(60);
/// For one answer, and for all together, when a key is read at the end.
const READ_LIMITS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(20)];
const READERS: usize = 16;
/// The number that faults of the end itself carry.
const LAST: u64 = u64::MAX;

/// What the end of a run needs.
pub(crate) struct Settle {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) events: Arc<Events>,
    pub(crate) views: watch::Receiver<View>,
}

impl Settle {
    /// Ends all faults, and says when.
    pub(crate) async fn heal(&self) -> u64 {
        self.cluster.network().links.lift_all();
        if let Err(error) = self.cluster.release_all().await {
            self.events.wrong(format!("a server cannot be started: {error}"));
        }
        self.events.note("everything is healed".to_owned());
        self.events.now_ns()
    }

    /// Waits for a write that was acknowledged after `healed_ns`, and says how long that took.
    pub(crate) async fn recovery(
        &self,
        healed_ns: u64,
        written_ns: &mut watch::Receiver<u64>,
    ) -> Option<Duration> {
        let written = written_ns.wait_for(|written_ns| *written_ns > healed_ns);
        match tokio::time::timeout(RECOVERY_LIMIT, written).await {
            Ok(Ok(written_ns)) => Some(Duration::from_nanos(*written_ns - healed_ns)),
            _ => {
                self.events.wrong(format!(
                    "no write was accepted within {RECOVERY_LIMIT:?} after the end of all faults"
                ));
                None
            }
        }
    }

    /// Brings the members back to as many as there were.
    pub(crate) async fn members(&self, members: &mut Members) {
        let deadline = Instant::now() + AGREEMENT_LIMIT;
        let mut views = self.views.clone();
        let mut last = String::new();
        for draw in 0.. {
            let stable = |view: &View| {
                let leader = view.leader.as_ref()?;
                let voters: BTreeSet<u64> = leader.voters().collect();
                (!leader.changing && leader.members.len() == voters.len() && voters.len() == members.voters)
                    .then_some(voters)
            };
            let view = views.borrow_and_update().clone();
            if let Some(voters) = stable(&view) {
                self.events.note(format!("the members are {voters:?}"));
                return;
            }
            if let Some(leader) = &view.leader {
                last = format!("{:?}, changing: {}", leader.members, leader.changing);
                let learners = leader.members.iter().filter(|member| !member.voter).map(|member| member.id);
                let learners: Vec<u64> = learners.collect();
                if !leader.changing && !learners.is_empty() {
                    members.remove(learners).await;
                } else if !leader.changing
                    && let Err(error) = members.restore_count(draw).await
                {
                    self.events.wrong(format!("no further server: {error}"));
                }
            }
            if !matches!(timeout_at(deadline, views.changed()).await, Ok(Ok(()))) {
                self.events.wrong(format!("the members did not settle within {AGREEMENT_LIMIT:?}: {last}"));
                return;
            }
        }
    }

    /// Waits until all members have applied the same, and says what.
    pub(crate) async fn agreement(&self, when: &str) -> Option<Machine> {
        let mut views = self.views.clone();
        let mut last = String::new();
        let agreed = async {
            loop {
                let view = views.borrow_and_update().clone();
                if let Some(leader) = &view.leader {
                    let voters: BTreeSet<u64> = leader.voters().collect();
                    let machines: BTreeMap<u64, Machine> = view
                        .statuses
                        .iter()
                        .filter(|(id, _)| voters.contains(id))
                        .map(|(id, status)| (*id, status.machine.clone()))
                        .collect();
                    let all = |machine: &Machine| machine == &leader.machine;
                    if machines.len() == voters.len()
                        && machines.values().all(all)
                        && leader.machine.applied == leader.last_log_index
                    {
                        return Some(leader.machine.clone());
                    }
                    last = format!("{machines:?} of {voters:?}");
                }
                // An error: nobody watches any more.
                views.changed().await.ok()?;
            }
        };
        let agreed = tokio::time::timeout(AGREEMENT_LIMIT, agreed).await.ok().flatten();
        if agreed.is_none() {
            self.events.wrong(format!("the members did not agree {when} within {AGREEMENT_LIMIT:?}: {last}"));
        }
        agreed
    }

    /// Reads all these keys once more.
    pub(crate) async fn read_back(
        &self,
        load: &Arc<Load>,
        keys: Vec<String>,
        shown: &Progress,
    ) -> Vec<Record> {
        let (keys, next) = (Arc::new(keys), Arc::new(AtomicUsize::new(0)));
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let (load, keys, next) = (Arc::clone(load), Arc::clone(&keys), Arc::clone(&next));
            let sender = sender.clone();
            readers.spawn(async move {
                let mut caller = Caller::default();
                while let Some(key) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let read = load.perform(&mut caller, READER, key.clone(), Op::Get, READ_LIMITS).await;
                    if !matches!(read.outcome, Outcome::Saw(_)) {
                        // The others would take as long.
                        next.store(keys.len(), Ordering::Relaxed);
                    }
                    if sender.send(read).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut records = Vec::with_capacity(keys.len());
        while let Some(record) = receiver.recv().await {
            shown.step();
            records.push(record);
        }
        let unread =
            keys.len() - records.iter().filter(|record| matches!(record.outcome, Outcome::Saw(_))).count();
        if unread > 0 {
            self.events.wrong(format!("{unread} of {} keys could not be read at the end", keys.len()));
        }
        records
    }

    /// Restarts everybody, and says how many keys all have, before and after.
    pub(crate) async fn restart_and_compare(&self) -> Option<u64> {
        let before = self.agreement("after everything was read").await?;
        self.restart().await;
        let after = self.agreement("after a restart").await?;
        if (before.keys, &before.digest) != (after.keys, &after.digest) {
            self.events.wrong(format!("a restart changed the state: {before:?}, then {after:?}"));
            return None;
        }
        Some(after.keys)
    }

    /// Shuts everybody down in order and starts them again.
    async fn restart(&self) {
        let mut ends = JoinSet::new();
        for id in self.cluster.ids().await {
            let cluster = Arc::clone(&self.cluster);
            ends.spawn(async move { (id, cluster.shut_down(LAST, id).await) });
        }
        while let Some(ended) = ends.join_next().await {
            if let Ok((id, false)) = ended {
                self.events.wrong(format!("server {id} did not shut down, although nothing was wrong"));
            }
        }
        if let Err(error) = self.cluster.release(LAST).await {
            self.events.wrong(format!("a server cannot be started: {error}"));
        }
    }

    /// Ends all processes.
    pub(crate) async fn kill_all(&self) {
        let all = self.cluster.ids().await.into_iter().collect();
        self.cluster.kill(LAST, &all).await;
    }
}
