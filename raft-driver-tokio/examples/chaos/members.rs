//! Changes who the members are, one change after the other, while everything else goes on.
//!
//! * Every kind of change comes back to as many voters as there were; what did not come about is made good by the next
//!   one, or at the end.
//! * An answer that is not a plain success says little: the change is asked for again until it is done, or its time is
//!   over. To ask for what is done is harmless.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::api::{Caller, Lost, Operator};
use crate::cluster::Cluster;
use crate::events::Events;
use crate::links::Id;
use crate::schedule::Change;
use crate::watch::View;

/// How long a step is tried.
const STEP_LIMIT: Duration = Duration::from_secs(15);
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(200);

/// Whoever changes members.
pub(crate) struct Members {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) events: Arc<Events>,
    pub(crate) views: watch::Receiver<View>,
    /// How many voters there should be.
    pub(crate) voters: usize,
}

/// A change's body, as `PATCH /members` takes it.
#[derive(Default)]
struct Body {
    voters: Vec<(Id, Option<String>)>,
    learners: Vec<(Id, Option<String>)>,
    remove: Vec<Id>,
}

impl Body {
    /// Whether it is so already, as the leader sees it.
    fn holds(&self, view: &View) -> bool {
        let Some(leader) = &view.leader else { return false };
        let member =
            |id: Id, voter| leader.members.iter().any(|member| (member.id, member.voter) == (id, voter));
        !leader.changing
            && self.voters.iter().all(|(id, _)| member(*id, true))
            && self.learners.iter().all(|(id, _)| member(*id, false))
            && !self.remove.iter().any(|id| leader.is_member(*id))
    }

    fn json(&self) -> String {
        let named = |servers: &[(Id, Option<String>)]| {
            let named = servers.iter().map(|(id, address)| (id.to_string(), serde_json::json!(address)));
            serde_json::Value::Object(named.collect())
        };
        serde_json::json!({
            "voters": named(&self.voters), "learners": named(&self.learners), "remove": self.remove,
        })
        .to_string()
    }
}

impl Members {
    /// Performs what is asked for until nobody asks any more.
    pub(crate) async fn run(mut self, mut changes: mpsc::Receiver<(u64, Change, u64)>) {
        while let Some((number, change, draw)) = changes.recv().await {
            self.events.begin(number, "membership change", format!("{change:?}"));
            let told = match self.perform(change, draw).await {
                Ok(true) => "done".to_owned(),
                Ok(false) => "not done in time".to_owned(),
                Err(error) => {
                    self.events.wrong(format!("no further server: {error}"));
                    error.to_string()
                }
            };
            self.events.end(number, told);
        }
    }

    fn known_voters(&self) -> Vec<Id> {
        self.views.borrow().voters().into_iter().collect()
    }

    /// A voter, by the draw.
    fn one(&self, draw: u64) -> Option<Id> {
        let voters = self.known_voters();
        let at = usize::try_from(draw % (voters.len().max(1) as u64)).unwrap_or(0);
        voters.get(at).copied()
    }

    async fn named(&self, id: Id) -> (Id, Option<String>) {
        (id, self.cluster.address(id).await)
    }

    /// A server that is there and not a member, or a new one.
    async fn newcomer(&self) -> std::io::Result<(Id, Option<String>)> {
        let id = self.cluster.add().await?;
        Ok(self.named(id).await)
    }

    async fn perform(&mut self, change: Change, draw: u64) -> std::io::Result<bool> {
        // What an earlier one left undone comes first.
        self.restore_count(draw).await?;
        let Some(one) = self.one(draw) else { return Ok(false) };
        let named = self.named(one).await;
        let steps = match change {
            Change::Replace => {
                let new = self.newcomer().await?;
                vec![Body { voters: vec![new], remove: vec![one], ..Body::default() }]
            }
            Change::Grow => {
                let new = self.newcomer().await?;
                let leave = Body { remove: vec![one], ..Body::default() };
                vec![Body { voters: vec![new], ..Body::default() }, leave]
            }
            Change::LeaveAndReturn => {
                let leave = Body { remove: vec![one], ..Body::default() };
                vec![leave, Body { voters: vec![named], ..Body::default() }]
            }
            Change::Learner => {
                let new = self.newcomer().await?;
                let promote = Body { voters: vec![new.clone()], remove: vec![one], ..Body::default() };
                vec![Body { learners: vec![new], ..Body::default() }, promote]
            }
            Change::Demote => {
                let promote = Body { voters: vec![named.clone()], ..Body::default() };
                vec![Body { learners: vec![named], ..Body::default() }, promote]
            }
        };
        for step in steps {
            if !self.ask(&step).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds or removes voters until there are as many as there should be. Whether there are.
    pub(crate) async fn restore_count(&mut self, draw: u64) -> std::io::Result<bool> {
        let voters: BTreeSet<Id> = self.known_voters().into_iter().collect();
        if voters.is_empty() {
            return Ok(false);
        }
        if voters.len() > self.voters {
            let remove = self.one(draw).into_iter().collect();
            return Ok(self.ask(&Body { remove, ..Body::default() }).await);
        }
        if voters.len() < self.voters {
            let there = self.cluster.ids().await.into_iter().find(|id| !voters.contains(id));
            let voter = match there {
                Some(id) => self.named(id).await,
                None => self.newcomer().await?,
            };
            return Ok(self.ask(&Body { voters: vec![voter], ..Body::default() }).await);
        }
        Ok(true)
    }

    /// Takes these out.
    pub(crate) async fn remove(&mut self, remove: Vec<Id>) -> bool {
        self.ask(&Body { remove, ..Body::default() }).await
    }

    /// Asks the leader until the change is done or its time is over.
    async fn ask(&mut self, body: &Body) -> bool {
        let deadline = Instant::now() + STEP_LIMIT;
        let (mut caller, json) = (Caller::default(), body.json());
        let mut last = String::new();
        while Instant::now() < deadline {
            let leader = self.views.borrow().leader.as_ref().map(|leader| leader.id);
            let address = leader.and_then(|id| self.cluster.http().borrow().get(&id).cloned());
            let Some(address) = address else {
                // An error: nobody watches any more, and the run is over.
                if !matches!(timeout_at(deadline, self.views.changed()).await, Ok(Ok(()))) {
                    break;
                }
                continue;
            };
            if body.holds(&self.views.borrow()) {
                return true;
            }
            let told = match caller.operate(&address, Operator::Members, json.clone(), ANSWER_LIMIT).await {
                Ok(answer) if answer.status == StatusCode::OK => return true,
                Ok(answer) => answer.told(),
                Err(Lost::Unsent(why) | Lost::Maybe(why)) => why,
            };
            if told != last {
                self.events.note(format!("members {json}: {told}"));
                last = told;
            }
            sleep(PAUSE).await;
        }
        false
    }
}
