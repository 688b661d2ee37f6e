//! Asking a server over HTTP, and what is known when it does not answer.
//!
//! * One HTTP/1.1 connection to each server and caller, so that a connection that breaks takes one request with it.
//! * Nothing is repeated here. A request that may have reached a server and has no answer is [`Lost::Maybe`].

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, LOCATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// What a server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
    /// The host that it sends to, with a 307.
    pub(crate) leader: Option<String>,
}

impl Answer {
    /// Whether it says that what was asked for did not happen and never will.
    pub(crate) fn did_not_happen(&self) -> bool {
        let refused = self.status.is_redirection() || self.status.is_client_error();
        // An error: it says nothing of the kind.
        let said = || serde_json::from_slice::<Refusal>(&self.body).is_ok_and(Refusal::did_not_happen);
        refused || self.status == StatusCode::SERVICE_UNAVAILABLE || said()
    }

    /// As one line.
    pub(crate) fn told(&self) -> String {
        format!("{} {}", self.status.as_u16(), String::from_utf8_lossy(&self.body).trim())
    }
}

/// The body of an answer that is no success.
#[derive(Deserialize)]
struct Refusal {
    outcome: Option<String>,
}

impl Refusal {
    fn did_not_happen(self) -> bool {
        self.outcome.as_deref() == Some("did_not_happen")
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Lost {
    /// The request never left: it was not performed.
    Unsent(String),
    /// It may have been performed, or be performed later.
    Maybe(String),
}

/// A caller, with its connections by address.
#[derive(Default)]
pub(crate) struct Caller {
    connections: BTreeMap<String, SendRequest<Full<Bytes>>>,
}

impl Caller {
    /// Sends one request and waits so long for the answer.
    pub(crate) async fn ask(
        &mut self,
        address: &str,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, Lost> {
        let connection = self.connections.remove(address).filter(|connection| !connection.is_closed());
        let mut connection = match connection {
            Some(connection) => connection,
            None => timeout(CONNECT_LIMIT.min(limit), connect(address))
                .await
                .map_err(|_| Lost::Unsent("no connection in time".to_owned()))?
                .map_err(Lost::Unsent)?,
        };
        let request = Request::builder().method(method).uri(path).header(HOST, address).body(Full::new(body));
        let request = request.map_err(|error| Lost::Unsent(error.to_string()))?;
        let exchange = async {
            let answer = connection.try_send_request(request).await.map_err(|mut error| {
                let unsent = error.take_message().is_some();
                let why = error.into_error().to_string();
                if unsent { Lost::Unsent(why) } else { Lost::Maybe(why) }
            })?;
            let (parts, body) = answer.into_parts();
            // The head alone tells what happened, but not to a client that needs the body.
            let body = body.collect().await.map_err(|error| Lost::Maybe(error.to_string()))?.to_bytes();
            let location = parts.headers.get(LOCATION).and_then(|location| location.to_str().ok());
            let leader = location.and_then(|location| location.strip_prefix("http://")?.split('/').next());
            Ok(Answer { status: parts.status, body, leader: leader.map(str::to_owned) })
        };
        let answer =
            timeout(limit, exchange).await.map_err(|_| Lost::Maybe("no answer in time".into()))??;
        // Kept only now: a connection with an answer outstanding is of no use to the next request.
        self.connections.insert(address.to_owned(), connection);
        Ok(answer)
    }

    /// One server's status.
    pub(crate) async fn status(&mut self, address: &str, limit: Duration) -> Option<Status> {
        let answer = self.ask(address, Method::GET, "/status", Bytes::new(), limit).await.ok()?;
        (answer.status == StatusCode::OK).then(|| serde_json::from_slice(&answer.body).ok())?
    }
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let made = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = made.map_err(|error| error.to_string())?;
    // Ends with its sender, or when the server closes it; whoever waits on it is told.
    tokio::spawn(connection);
    Ok(sender)
}

/// What `GET /status` says, as far as it is looked at.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) id: u64,
    pub(crate) role: String,
    pub(crate) term: u64,
    pub(crate) commit_index: u64,
    pub(crate) last_log_index: u64,
    pub(crate) changing: bool,
    pub(crate) members: Vec<Member>,
    pub(crate) machine: Machine,
}

/// A member of the cluster.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) voter: bool,
}

/// The state machine: equal `applied` means equal `digest`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) applied: u64,
    pub(crate) keys: u64,
    pub(crate) digest: String,
}

impl Status {
    pub(crate) fn leads(&self) -> bool {
        self.role == "leader"
    }

    pub(crate) fn voters(&self) -> impl Iterator<Item = u64> + '_ {
        self.members.iter().filter(|member| member.voter).map(|member| member.id)
    }

    pub(crate) fn is_member(&self, id: u64) -> bool {
        self.members.iter().any(|member| member.id == id)
    }
}

/// What operators ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operator {
    Members,
    Transfer,
    Snapshot,
}

impl Operator {
    fn route(self) -> (Method, &'static str) {
        match self {
            Self::Members => (Method::PATCH, "/members"),
            Self::Transfer => (Method::POST, "/transfer"),
            Self::Snapshot => (Method::POST, "/snapshot"),
        }
    }
}

impl Caller {
    /// Asks for what operators ask for.
    pub(crate) async fn operate(
        &mut self,
        address: &str,
        what: Operator,
        body: String,
        limit: Duration,
    ) -> Result<Answer, Lost> {
        let (method, path) = what.route();
        self.ask(address, method, path, body.into(), limit).await
    }
}
