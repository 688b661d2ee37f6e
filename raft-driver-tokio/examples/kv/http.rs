//! What clients are answered: every outcome of the node as a status code.
//!
//! * 200 means committed and applied here. 307, 4xx and 503 mean that the write did not happen and never will;
//!   any other 5xx says in its body what is known.
//! * Every request ends within [`REQUEST_LIMIT`]; what is in flight fits into [`IN_FLIGHT_BYTES_MAX`], an answer
//!   until it was sent.
//! * A value that is read is shared with the map.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Request, Response, StatusCode, Uri};
use raft_core::{NodeId, RoleKind, WriteRefusal};
use raft_driver_tokio::{Applied, Raft, ReadError, WriteError};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::machine::{self, Glance, Machine, Outcome, VALUE_BYTES_MAX};
use crate::request::{Refusal, Route, read_admin, read_put, route};

/// The longest that a client waits for an answer.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// What all requests and answers in flight may hold together: 8,192 without a body, 126 with the longest.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 128 * 1024 * 1024;
/// What a request counts beside its body, and what a short answer counts.
const REQUEST_BYTES: usize = 16 * 1024;

pub(crate) type Answer = Response<Bytes>;

/// What answers need.
pub(crate) struct Front {
    pub(crate) raft: Raft<Machine>,
    pub(crate) glance: Glance,
    /// Where clients reach whom, as this node was started with. The log may know better.
    pub(crate) http: BTreeMap<NodeId, String>,
    pub(crate) in_flight: Arc<Semaphore>,
    pub(crate) request_limit: Duration,
}

impl Front {
    pub(crate) fn new(raft: Raft<Machine>, glance: Glance, http: BTreeMap<NodeId, String>) -> Self {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX));
        Self { raft, glance, http, in_flight, request_limit: REQUEST_LIMIT }
    }

    /// Answers one request. What comes with the answer is to be kept until it was sent.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> (Answer, Option<OwnedSemaphorePermit>) {
        let body_bytes = request.body().size_hint().exact().unwrap_or(u64::MAX);
        let cost_bytes =
            REQUEST_BYTES + usize::try_from(body_bytes).unwrap_or(usize::MAX).min(VALUE_BYTES_MAX);
        let Some(mut permit) = self.acquire(cost_bytes) else {
            return (unavailable("too much is in flight; the request was not performed"), None);
        };
        let answer = match route(request.method(), request.uri()) {
            Ok(route) => self.serve_in_time(route, request).await,
            Err(refusal) => refused(&refusal),
        };
        // From here on it is the answer that counts. A write's is never longer than what it holds already.
        let answer_bytes = REQUEST_BYTES.max(answer.body().len());
        match answer_bytes.checked_sub(permit.num_permits()) {
            Some(0) => {}
            None => drop(permit.split(permit.num_permits() - answer_bytes)),
            Some(more_bytes) => match self.acquire(more_bytes) {
                Some(more) => permit.merge(more),
                None => return (unavailable("too much is in flight; try again"), Some(permit)),
            },
        }
        (answer, Some(permit))
    }

    fn acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.in_flight).try_acquire_many_owned(bytes).ok()
    }

    async fn serve_in_time(&self, route: Route, request: Request<Incoming>) -> Answer {
        let deadline = Instant::now() + self.request_limit;
        let write = matches!(route, Route::Put(_) | Route::Delete(_));
        let admin = matches!(route, Route::Members | Route::Transfer | Route::Snapshot);
        let (parts, body) = request.into_parts();
        match tokio::time::timeout_at(deadline, self.serve(route, &parts.uri, body, deadline)).await {
            Ok(answer) => answer,
            Err(_) if write => unknown(
                StatusCode::GATEWAY_TIMEOUT,
                "no outcome in time: the write may happen or not; read the key to find out",
            ),
            Err(_) if admin => {
                let body = json!({ "done": false, "why": "it takes longer, and goes on; GET /status tells" });
                json(StatusCode::ACCEPTED, &body)
            }
            Err(_) => problem(
                StatusCode::GATEWAY_TIMEOUT,
                "not answered in time; a read changes nothing, try again",
            ),
        }
    }

    async fn serve(&self, route: Route, uri: &Uri, body: Incoming, deadline: Instant) -> Answer {
        match route {
            // Two limits of the same length, and this one is asked first: until the body is there, nothing was
            // proposed.
            Route::Put(key) => match tokio::time::timeout_at(deadline, read_put(&key, body)).await {
                Ok(Ok(command)) => self.write(command, uri).await,
                Ok(Err(refusal)) => refused(&refusal),
                Err(_) => problem(
                    StatusCode::REQUEST_TIMEOUT,
                    "the body did not arrive in time; the write did not happen",
                ),
            },
            Route::Delete(key) => self.write(machine::delete(&key), uri).await,
            Route::Get(key) => match self.raft.read(move |machine: &Machine| machine.get(&key)).await {
                Ok(Some(value)) => with(
                    StatusCode::OK,
                    value,
                    CONTENT_TYPE,
                    HeaderValue::from_static("application/octet-stream"),
                ),
                Ok(None) => problem(StatusCode::NOT_FOUND, "the key has no value"),
                Err(ReadError::NotLeader { leader, .. }) => self.elsewhere(leader, uri),
                Err(error @ (ReadError::Busy | ReadError::TimedOut | ReadError::Stopped)) => {
                    unavailable(&error.to_string())
                }
                Err(error @ ReadError::Panicked) => {
                    problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
                }
            },
            Route::Status => self.status().await,
            Route::Snapshot => self.snapshot(uri).await,
            Route::Members | Route::Transfer => {
                let body = match tokio::time::timeout_at(deadline, read_admin(body)).await {
                    Ok(Ok(body)) => body,
                    Ok(Err(refusal)) => return refused(&refusal),
                    Err(_) => {
                        let what = "the body did not arrive in time; nothing was done";
                        return problem(StatusCode::REQUEST_TIMEOUT, what);
                    }
                };
                match route {
                    Route::Members => self.change_members(&body, uri).await,
                    _ => self.transfer(&body, uri).await,
                }
            }
        }
    }

    async fn write(&self, command: Bytes, uri: &Uri) -> Answer {
        match self.raft.write(command).await {
            Ok(Applied { id, response: Outcome { existed } }) => {
                json(StatusCode::OK, &Done { index: id.index.get(), existed })
            }
            Err(WriteError::NotLeader { leader, .. }) => self.elsewhere(leader, uri),
            Err(
                error
                @ (WriteError::Busy { .. } | WriteError::Superseded { .. } | WriteError::Stopped { .. }),
            ) => unavailable(&format!("the write did not happen: {error}")),
            Err(WriteError::Refused { refusal: refusal @ WriteRefusal::TooLarge { .. }, .. }) => {
                problem(StatusCode::PAYLOAD_TOO_LARGE, &refusal.to_string())
            }
            Err(WriteError::Refused { refusal: refusal @ WriteRefusal::LogFull, .. }) => problem(
                StatusCode::INSUFFICIENT_STORAGE,
                &format!("the write did not happen, and none will any more: {refusal}"),
            ),
            Err(error @ WriteError::Unknown) => {
                unknown(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}; read the key to find out"))
            }
            Err(error @ WriteError::ResponseLost { id }) => json(
                StatusCode::INTERNAL_SERVER_ERROR,
                &json!({ "error": error.to_string(), "outcome": "committed", "index": id.index.get() }),
            ),
        }
    }

    /// To the leader, if it is known where clients reach it.
    pub(crate) fn elsewhere(&self, leader: Option<NodeId>, uri: &Uri) -> Answer {
        let Some(leader) = leader.filter(|leader| *leader != self.raft.id()) else {
            return unavailable("no leader is known; the request was not performed");
        };
        let known = self.glance.http();
        let Some(address) = known.get(&leader).or_else(|| self.http.get(&leader)) else {
            return unavailable(&format!(
                "node {leader} leads, and this node does not know its HTTP address: add it to --peer, as in \
                 --peer {leader}=RAFT@HTTP; the request was not performed"
            ));
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let Ok(location) = HeaderValue::from_str(&format!("http://{address}{path}")) else {
            return unavailable(&format!(
                "node {leader} leads, and its HTTP address in --peer is no address"
            ));
        };
        let body = json!({ "error": "this node does not lead; ask the leader", "leader": leader.get() });
        with(StatusCode::TEMPORARY_REDIRECT, body.to_string().into(), LOCATION, location)
    }

    async fn status(&self) -> Answer {
        let Some(status) = self.raft.status().await else { return unavailable("the node has stopped") };
        let membership = Arc::clone(&self.raft.metrics().borrow().membership);
        let machine = self.glance.get();
        let known = self.glance.http();
        let members = membership.members().into_iter().map(|id| Member {
            id: id.get(),
            raft: membership.nodes.get(&id).map(|address| String::from_utf8_lossy(address).into_owned()),
            http: known.get(&id).or_else(|| self.http.get(&id)).cloned(),
            voter: membership.is_voter(id),
        });
        let view = StatusView {
            id: status.id.get(),
            role: match status.role {
                RoleKind::Follower => "follower",
                RoleKind::PreCandidate => "pre-candidate",
                RoleKind::Candidate => "candidate",
                RoleKind::Leader => "leader",
            },
            term: status.term.get(),
            leader: status.leader.map(NodeId::get),
            commit_index: status.commit.get(),
            last_applied: status.applied.get(),
            last_log_index: status.last.index.get(),
            log_base_index: status.base.index.get(),
            snapshot_index: status.snapshot.index.get(),
            changing: membership.intent.is_some(),
            members: members.collect(),
            machine: MachineView {
                applied: machine.applied.get(),
                keys: machine.keys,
                digest: format!("{:032x}", machine.digest),
            },
        };
        json(StatusCode::OK, &view)
    }
}

/// The body of a write's 200.
#[derive(Debug, Serialize)]
struct Done {
    index: u64,
    existed: bool,
}

/// The body of `GET /status`.
#[derive(Debug, Serialize)]
struct StatusView {
    id: u64,
    role: &'static str,
    term: u64,
    leader: Option<u64>,
    commit_index: u64,
    last_applied: u64,
    last_log_index: u64,
    log_base_index: u64,
    snapshot_index: u64,
    /// Whether the members are being changed.
    changing: bool,
    members: Vec<Member>,
    machine: MachineView,
}

#[derive(Debug, Serialize)]
struct Member {
    id: u64,
    raft: Option<String>,
    http: Option<String>,
    voter: bool,
}

/// The state machine, to compare nodes by: equal `applied` means equal `digest`.
#[derive(Debug, Serialize)]
struct MachineView {
    applied: u64,
    keys: u64,
    digest: String,
}

/// What was refused before the node heard of it.
fn refused(refusal: &Refusal) -> Answer {
    let mut answer = problem(refusal.status, &refusal.what);
    if let Some(allow) = refusal.allow {
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    answer
}

pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).expect("plain structs with string keys");
    with(status, body.into(), CONTENT_TYPE, HeaderValue::from_static("application/json"))
}

pub(crate) fn problem(status: StatusCode, what: &str) -> Answer {
    json(status, &json!({ "error": what }))
}

/// It may have happened or not.
pub(crate) fn unknown(status: StatusCode, what: &str) -> Answer {
    json(status, &json!({ "error": what, "outcome": "unknown" }))
}

/// Did not happen; may be tried again.
pub(crate) fn unavailable(what: &str) -> Answer {
    let body = json!({ "error": what }).to_string();
    with(StatusCode::SERVICE_UNAVAILABLE, body.into(), RETRY_AFTER, HeaderValue::from_static("1"))
}

fn with(status: StatusCode, body: Bytes, name: HeaderName, value: HeaderValue) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(name, value);
    answer
}
