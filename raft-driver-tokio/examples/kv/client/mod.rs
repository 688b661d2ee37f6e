//! The HTTP client: finds the leader by itself, and is honest about what it knows of a write.
//!
//! * One HTTP/2 connection to each node, shared by everybody who uses the client.
//! * Follows 307 and 503 within a limit of time; a request of which nobody knows whether it was performed is repeated
//!   only if that changes nothing: a read, or a write in a [`session`].

pub(crate) mod backup;
pub(crate) mod commands;
mod connection;
pub(crate) mod operator;
pub(crate) mod session;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

pub(crate) use crate::client::connection::{Ask, told};
use crate::client::connection::{Attempt, Connection, outcome};

/// Longer than the server takes at most, so that its own answer is heard.
const ANSWER_LIMIT: Duration = Duration::from_secs(12);
/// For what may be repeated: another node may be faster than one that is stuck.
const REPEAT_LIMIT: Duration = Duration::from_secs(4);
/// `Retry-After` is in whole seconds, made for clients far away; these are near and measure the gap.
const PAUSE: Duration = Duration::from_millis(10);
/// Addresses that are followed at most: whoever answers names new ones.
const NODES_MAX: usize = 256;

/// What is known of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Committed and applied.
    Acknowledged,
    /// It may have happened, or may happen later, or never.
    Unknown(String),
    /// It did not happen, and was given up.
    NotWritten(String),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failed {
    /// Nobody performed it within the limit.
    NotDone(String),
    /// It may have been performed, or may be yet.
    Unknown(String),
}

/// How long a client goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until<'a> {
    pub(crate) deadline: Instant,
    /// Set when it is to give up before that.
    pub(crate) stop: Option<&'a AtomicBool>,
}

impl Until<'_> {
    pub(crate) fn limit(limit: Duration) -> Self {
        Self { deadline: Instant::now() + limit, stop: None }
    }

    fn over(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) || Instant::now() >= self.deadline
    }
}

/// A client of all nodes.
pub(crate) struct Client {
    nodes: Mutex<Vec<Arc<Connection>>>,
    /// Who led last.
    leader: AtomicUsize,
    /// Attempts that came to nothing, by kind.
    retries: Mutex<BTreeMap<&'static str, u64>>,
}

/// What `GET /status` says, as far as the demo looks at it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) id: u64,
    pub(crate) role: String,
    pub(crate) term: u64,
    pub(crate) commit_index: u64,
    pub(crate) last_applied: u64,
    pub(crate) machine: MachineStatus,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct MachineStatus {
    pub(crate) applied: u64,
    pub(crate) keys: u64,
    pub(crate) digest: String,
}

impl Client {
    pub(crate) fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        let nodes = addresses.into_iter().map(|address| Arc::new(Connection::new(address)));
        Self { nodes: Mutex::new(nodes.collect()), leader: AtomicUsize::new(0), retries: Mutex::default() }
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many nodes it knows.
    pub(crate) fn len(&self) -> usize {
        self.nodes().len()
    }

    /// Attempts that came to nothing until now, by kind.
    pub(crate) fn retries(&self) -> BTreeMap<&'static str, u64> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The node at this address, which is remembered.
    fn place(&self, address: &str) -> Option<usize> {
        let mut nodes = self.nodes();
        let found = nodes.iter().position(|node| node.address == address);
        found.or_else(|| {
            (nodes.len() < NODES_MAX).then(|| {
                nodes.push(Arc::new(Connection::new(address.to_owned())));
                nodes.len() - 1
            })
        })
    }

    /// Reads `key` linearizably; a read may be repeated whatever became of it.
    pub(crate) async fn get(&self, key: &str, limit: Duration) -> Result<Option<Bytes>, String> {
        match self.send(&Ask::new(Method::GET, format!("/kv/{key}")), Until::limit(limit)).await {
            Ok((StatusCode::OK, value)) => Ok(Some(value)),
            Ok((StatusCode::NOT_FOUND, _)) => Ok(None),
            Ok((status, body)) => Err(told(status, &body)),
            Err(Failed::NotDone(why) | Failed::Unknown(why)) => Err(why),
        }
    }

    /// One node's status. `None` if it does not answer.
    pub(crate) async fn status(&self, node: usize) -> Option<Status> {
        self.ask_one(node, &Ask::new(Method::GET, "/status"), Until::limit(REPEAT_LIMIT)).await
    }

    /// What one node answers with 200, as JSON; nobody else is asked. `None` for anything else.
    pub(crate) async fn ask_one<T: DeserializeOwned>(
        &self,
        node: usize,
        ask: &Ask,
        until: Until<'_>,
    ) -> Option<T> {
        let node = self.nodes().get(node).cloned()?;
        match node.ask(ask, until.deadline.saturating_duration_since(Instant::now())).await {
            Attempt::Answered(StatusCode::OK, body) => serde_json::from_slice(&body).ok(),
            _ => None,
        }
    }

    /// Asks whoever led last, and follows the leader.
    pub(crate) async fn send(&self, ask: &Ask, until: Until<'_>) -> Result<(StatusCode, Bytes), Failed> {
        self.send_from(None, ask, until).await
    }

    /// Asks this node first, or whoever led last.
    pub(crate) async fn send_from(
        &self,
        first: Option<usize>,
        ask: &Ask,
        until: Until<'_>,
    ) -> Result<(StatusCode, Bytes), Failed> {
        self.exchange(first, ask, until).await.0
    }

    /// The same, and whether an attempt before the answer may have been performed too. After a failure the next node is
    /// tried, and after each there is a pause.
    async fn exchange(
        &self,
        first: Option<usize>,
        ask: &Ask,
        until: Until<'_>,
    ) -> (Result<(StatusCode, Bytes), Failed>, bool) {
        let mut at = first;
        let mut unknown = None;
        loop {
            let place = at.unwrap_or_else(|| self.leader.load(Ordering::Relaxed));
            let node = {
                let nodes = self.nodes();
                Arc::clone(&nodes[place % nodes.len()])
            };
            let limit = if ask.repeatable { REPEAT_LIMIT } else { ANSWER_LIMIT };
            let limit = limit.min(until.deadline.saturating_duration_since(Instant::now()));
            let (to, pause, why) = match node.ask(ask, limit).await {
                Attempt::Answered(status, body) => return (Ok((status, body)), unknown.is_some()),
                Attempt::Unknown(why) if !ask.repeatable => return (Err(Failed::Unknown(why)), true),
                // Two nodes that each take the other for the leader must not make this spin.
                Attempt::Elsewhere(leader) => {
                    self.count("redirected");
                    (self.place(&leader), PAUSE / 10, "the leader moved".to_owned())
                }
                Attempt::NotNow(why) => {
                    self.count("not served");
                    (None, PAUSE, why)
                }
                Attempt::Unknown(why) => {
                    self.count("unknown, repeated");
                    unknown = Some(why.clone());
                    (None, PAUSE, why)
                }
            };
            if until.over() {
                let doubtful = unknown.is_some();
                return (Err(unknown.map_or(Failed::NotDone(why), Failed::Unknown)), doubtful);
            }
            sleep(pause).await;
            let to = to.unwrap_or_else(|| (place + 1) % self.len());
            match &mut at {
                Some(at) => *at = to,
                // Of many clients that failed at the same node only the first moves on.
                None => {
                    let _ = self.leader.compare_exchange(place, to, Ordering::Relaxed, Ordering::Relaxed);
                }
            }
        }
    }

    fn count(&self, kind: &'static str) {
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        *retries.entry(kind).or_default() += 1;
    }
}

/// What an answer to a write says of it.
pub(crate) fn fate(answer: Result<(StatusCode, Bytes), Failed>) -> Fate {
    match answer {
        Ok((StatusCode::OK, _)) => Fate::Acknowledged,
        Ok((_, body)) if outcome(&body).as_deref() == Some("committed") => Fate::Acknowledged,
        Ok((status, body)) => Fate::NotWritten(told(status, &body)),
        Err(Failed::Unknown(why)) => Fate::Unknown(why),
        Err(Failed::NotDone(why)) => Fate::NotWritten(why),
    }
}
