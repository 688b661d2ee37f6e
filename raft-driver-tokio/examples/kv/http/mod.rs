//! What clients are answered: every outcome of the node as a status code.
//!
//! * 200 means committed and applied here. 307, 4xx and 503 mean that the write did not happen and never will;
//!   any other 5xx says in its body what is known.
//! * Every request but a backup ends within [`REQUEST_LIMIT`]; what is in flight fits into [`IN_FLIGHT_BYTES_MAX`], a
//!   body as far as it has arrived, an answer until it was sent. `GET /healthz` is answered whatever is in flight.
//! * A value that is read is shared with the map.
//! * Nothing here knows what drives the node: see [`Node`].

#![allow(clippy::result_large_err, reason = "a refusal is an answer, made once a request at most")]

pub(crate) mod activity;
pub(crate) mod admin;
pub(crate) mod answer;
pub(crate) mod backup;
pub(crate) mod content;
pub(crate) mod disk;
pub(crate) mod elections;
pub(crate) mod health;
pub(crate) mod listen;
pub(crate) mod route;
mod site;
mod status;
mod write;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use metrics_exporter_prometheus::PrometheusHandle;
use raft_core::NodeId;
use raft_core::host::{Envelope, SessionLimits};
use raft_driver_tokio::ReadError;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::http::activity::{Activity, Working};
use crate::http::admin::Change;
use crate::http::answer::{Answer, Known, Problem, json, typed};
use crate::http::backup::Backups;
use crate::http::content::Content;
use crate::http::disk::Disk;
use crate::http::elections::Elections;
use crate::http::route::{Incoming, Route, envelope, read_admin, read_put, route};
use crate::http::site::{host_name, known_host, same_site};
use crate::http::status::{Beside, StatusView, reached};
use crate::machine::{self, Addresses, Glance};
use crate::node::Node;

/// The longest that a client waits for an answer.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// What all requests and answers in flight may hold together: 8,192 without a body, 126 with the longest.
pub(crate) const IN_FLIGHT_BYTES_MAX: usize = 128 * 1024 * 1024;
/// What a request counts beside its body, and what a short answer counts.
const REQUEST_BYTES: usize = 16 * 1024;
/// The status page: everything that it shows comes from `GET /status` of the nodes.
const PAGE: &str = include_str!("page.html");

/// What answers need.
pub(crate) struct Front<N> {
    pub(crate) node: N,
    pub(crate) glance: Glance,
    /// The cluster's name.
    pub(crate) cluster: u128,
    /// Where clients reach whom, as this node was started with. The log may know better.
    pub(crate) http: Addresses,
    /// Further names under which clients reach this node, beside those in `http` and in the log.
    pub(crate) hosts: Vec<String>,
    pub(crate) elections: Arc<Elections>,
    pub(crate) backups: Option<Backups>,
    /// Where the data is, if it is on a disk.
    pub(crate) disk: Option<Arc<Disk>>,
    /// What `GET /metrics` renders, if anything is recorded.
    pub(crate) recorder: Option<PrometheusHandle>,
    /// Set when the node is about to go: it serves whom it has, and wants nobody new.
    pub(crate) leaving: AtomicBool,
    pub(crate) in_flight: Arc<Semaphore>,
    pub(crate) request_limit: Duration,
    began: Instant,
}

impl<N: Node> Front<N> {
    pub(crate) fn new(node: N, glance: Glance, http: Addresses) -> Self {
        Self {
            node,
            glance,
            cluster: 0,
            http,
            hosts: Vec::new(),
            elections: Arc::new(Elections::new()),
            backups: None,
            disk: None,
            recorder: None,
            leaving: AtomicBool::new(false),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_BYTES_MAX)),
            request_limit: REQUEST_LIMIT,
            began: Instant::now(),
        }
    }

    /// From now on `GET /readyz` says no.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Answers one request of a connection.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<impl Incoming>,
        activity: Arc<Activity>,
    ) -> Response<Content> {
        let working = activity.begin();
        let whole = |answer: Answer, permit: Option<OwnedSemaphorePermit>| {
            answer.map(|body| Content::Whole(activity.hold(body, permit)))
        };
        let known = known_host(request.uri(), request.headers(), |name| self.is_called(name));
        let allowed = same_site(request.method(), request.uri(), request.headers());
        let routed = known.and(allowed).and_then(|()| route(request.method(), request.uri()));
        let route = match routed {
            Ok(route) => route,
            Err(problem) => return whole(problem.answer(), None),
        };
        // Whoever asks how the node is has to hear it, whatever others have taken; a backup is limited otherwise.
        match route {
            Route::Health => return whole(self.measured(&route, self.health()).await, None),
            Route::Backup => {
                let sent = Box::pin(self.backup(request.uri(), &activity, working)).await;
                return sent.unwrap_or_else(|problem| whole(problem.answer(), None));
            }
            _ => {}
        }
        let Some(mut permit) = self.acquire(REQUEST_BYTES) else {
            return whole(busy().answer(), None);
        };
        let answer = {
            // Where it is, here as below: to be passed on, it would be copied.
            let served = pin!(self.serve_in_time(&route, request, &working, &mut permit));
            self.measured(&route, served).await
        };
        // From here on it is the answer that counts.
        let answer_bytes = REQUEST_BYTES.max(answer.body().len());
        match answer_bytes.checked_sub(permit.num_permits()) {
            Some(0) => {}
            None => drop(permit.split(permit.num_permits() - answer_bytes)),
            Some(more_bytes) if grow(&mut permit, more_bytes) => {}
            Some(_) => return whole(busy().answer(), Some(permit)),
        }
        whole(answer, Some(permit))
    }

    /// Where clients reach whom, as far as the log says.
    pub(crate) fn addresses(&self) -> Addresses {
        let own = |address: &String| Some(address.strip_suffix(&self.mark())?.to_owned());
        let all = self.glance.http();
        all.iter().filter_map(|(id, address)| Some((*id, own(address)?))).collect()
    }

    /// Stands behind each address in the log: a cluster that began with another one's state must not send its clients
    /// to that one.
    pub(crate) fn mark(&self) -> String {
        format!(" of {:x}", self.cluster)
    }

    /// Whether clients know this node, or another one that may send them here, by this name.
    fn is_called(&self, name: &str) -> bool {
        let same = |host: &String| host_name(host).eq_ignore_ascii_case(name);
        self.hosts.iter().any(same) || self.http.values().any(same) || self.addresses().values().any(same)
    }

    fn acquire(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        Arc::clone(&self.in_flight).try_acquire_many_owned(bytes).ok()
    }

    async fn measured(&self, route: &Route, answer: impl Future<Output = Answer>) -> Answer {
        let began = Instant::now();
        let answer = answer.await;
        if self.recorder.is_some() {
            health::count(route.name(), answer.status(), began.elapsed());
        }
        answer
    }

    async fn serve_in_time(
        &self,
        route: &Route,
        request: Request<impl Incoming>,
        working: &Working,
        permit: &mut OwnedSemaphorePermit,
    ) -> Answer {
        let deadline = Instant::now() + self.request_limit;
        let (write, admin) = (route.is_write(), route.is_admin());
        let late = StatusCode::GATEWAY_TIMEOUT;
        let served = pin!(self.serve(route, request, working, deadline, permit));
        match timeout_at(deadline, served).await {
            Ok(answer) => answer,
            Err(_) if write => Problem::unknown(late, "no outcome in time", write::READ_IT).answer(),
            Err(_) if admin => {
                let next = "it goes on; look at GET /status; to ask again is harmless";
                json(StatusCode::ACCEPTED, &json!({ "done": false, "next": next }))
            }
            Err(_) => {
                Problem::new(late, "too_slow", "not answered in time", "try again, here or at another node")
                    .answer()
            }
        }
    }

    /// What is rarely asked for is in boxes: it takes no room where the rest is served.
    async fn serve(
        &self,
        route: &Route,
        request: Request<impl Incoming>,
        working: &Working,
        deadline: Instant,
        permit: &mut OwnedSemaphorePermit,
    ) -> Answer {
        let (parts, body) = request.into_parts();
        let uri = &parts.uri;
        match route {
            Route::Get(key) => self.get(key.clone(), uri).await,
            Route::Put(key) => {
                // First the body: whoever sends a long one hears of a wrong header all the same.
                let command = in_time(deadline, working.receive(read_put(key, body, permit))).await;
                match command.and_then(|command| Ok((envelope(&parts.headers)?, command))) {
                    Ok((envelope, command)) => self.write(envelope, command, uri).await,
                    Err(problem) => problem.answer(),
                }
            }
            Route::Delete(key) => match envelope(&parts.headers) {
                Ok(envelope) => self.write(envelope, machine::delete(key), uri).await,
                Err(problem) => problem.answer(),
            },
            Route::OpenSession => {
                self.write(Envelope::Open(SessionLimits::default()), Bytes::new(), uri).await
            }
            Route::CloseSession(id) => self.write(Envelope::Close(*id), Bytes::new(), uri).await,
            Route::Page => {
                typed(StatusCode::OK, Bytes::from_static(PAGE.as_bytes()), "text/html; charset=utf-8")
            }
            Route::Status => Box::pin(self.status()).await,
            Route::Health | Route::Backup => unreachable!("answered before"),
            Route::Ready => Box::pin(self.ready()).await,
            Route::Metrics => Box::pin(self.metrics()).await,
            Route::RemoveMember(id) => Box::pin(self.change_members(Change::remove(*id), uri)).await,
            Route::CancelChange => Box::pin(self.change_members(Change::cancel(), uri)).await,
            Route::Snapshot => Box::pin(self.snapshot(uri)).await,
            Route::AddMember | Route::ChangeMembers | Route::Transfer => {
                let body = match in_time(deadline, working.receive(read_admin(body, permit))).await {
                    Ok(body) => body,
                    Err(problem) => return problem.answer(),
                };
                match route {
                    Route::AddMember => Box::pin(self.add_member(&body, uri)).await,
                    Route::ChangeMembers => Box::pin(self.patch_members(&body, uri)).await,
                    _ => Box::pin(self.transfer(&body, uri)).await,
                }
            }
        }
    }

    async fn get(&self, key: Vec<u8>, uri: &Uri) -> Answer {
        match self.node.get(key).await {
            Ok(Some(value)) => typed(StatusCode::OK, value, "application/octet-stream"),
            Ok(None) => {
                Problem::new(StatusCode::NOT_FOUND, "no_such_key", "the key has no value", "PUT one").answer()
            }
            Err(ReadError::NotLeader { leader, .. }) => self.elsewhere(leader, uri).answer(),
            Err(error @ ReadError::Panicked) => {
                let next = "report it, with what the node logged";
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error, next).answer()
            }
            Err(error) => Problem::unavailable("not_now", error).answer(),
        }
    }

    /// To the leader, if it is known where clients reach it.
    pub(crate) fn elsewhere(&self, leader: Option<NodeId>, uri: &Uri) -> Problem {
        let Some(leader) = leader.filter(|leader| *leader != self.node.id()) else {
            return Problem::unavailable("no_leader", "no leader is known");
        };
        match reached(&self.addresses(), &self.http, leader) {
            Some(address) => {
                let path = uri.path_and_query().map_or("/", |path| path.as_str());
                match HeaderValue::from_str(&format!("http://{address}{path}")) {
                    Ok(location) => Problem::elsewhere(leader.get(), location),
                    Err(_) => Problem::unavailable(
                        "leader_unreachable",
                        format!("node {leader} leads, and its HTTP address in --peer is no address"),
                    ),
                }
            }
            None => Problem::unavailable(
                "leader_unreachable",
                format!(
                    "node {leader} leads, and this node does not know its HTTP address: add it to --peer, as in \
                     --peer {leader}=RAFT@HTTP"
                ),
            ),
        }
    }

    async fn status(&self) -> Answer {
        let Some(metrics) = self.node.observe().await else {
            return Problem::unavailable("stopped", "the node has stopped").answer();
        };
        let beside = Beside {
            machine: self.glance.get(),
            elections: self.elections.recent(),
            storage: self.storage().await,
            uptime_s: self.began.elapsed().as_secs(),
        };
        let known = self.addresses();
        let view = StatusView::new(&metrics, beside, |id| reached(&known, &self.http, id));
        let mut answer = json(StatusCode::OK, &view);
        // The page of one node asks all.
        answer.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        answer
    }
}

/// Counts more of what is in flight, if there is room.
fn grow(permit: &mut OwnedSemaphorePermit, bytes: usize) -> bool {
    let more = u32::try_from(bytes).ok();
    let more = more.and_then(|more| Arc::clone(permit.semaphore()).try_acquire_many_owned(more).ok());
    more.map(|more| permit.merge(more)).is_some()
}

fn busy() -> Problem {
    Problem::unavailable("busy", "too much is in flight")
}

/// Until the body is there, nothing was proposed: this limit is as long as the request's own, and asked first.
async fn in_time<T>(
    deadline: Instant,
    body: impl Future<Output = Option<Result<T, Problem>>>,
) -> Result<T, Problem> {
    timeout_at(deadline, body).await.ok().flatten().unwrap_or_else(|| {
        let message = "the body did not arrive in time";
        let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "slow_body", message, "send it again");
        Err(problem.known(Known::DidNotHappen))
    })
}
