//! The demo's HTTP client: finds the leader by itself, and is honest about what it knows of a write.
//!
//! * One HTTP/2 connection to each node, shared by everybody who uses the client.
//! * Follows 307 and 503 within a limit of time; a request of which nobody knows whether it was performed is never
//!   repeated behind the caller's back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::LOCATION;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Longer than the server takes at most, so that its own answer is heard.
const ANSWER_LIMIT: Duration = Duration::from_secs(12);
/// `Retry-After` is in whole seconds, made for clients far away; these are near and measure the gap.
const PAUSE: Duration = Duration::from_millis(10);

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

/// What one attempt at one node came to.
enum Attempt {
    Answered(StatusCode, Bytes),
    /// Not performed; ask this node.
    Elsewhere(usize),
    /// Not performed; ask again, or another.
    NotNow(String),
    /// Performed or not.
    Unknown(String),
}

/// A client of all nodes.
pub(crate) struct Client {
    nodes: Vec<Node>,
    /// Who led last.
    leader: AtomicUsize,
}

struct Node {
    address: String,
    /// Locked while a connection is made or cloned, not while it is used.
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
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
        let nodes = addresses.into_iter().map(|address| Node { address, connection: Mutex::new(None) });
        Self { nodes: nodes.collect(), leader: AtomicUsize::new(0) }
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Sets `key` within `limit`, or until `stop` is set.
    pub(crate) async fn put(&self, key: &str, value: Bytes, limit: Duration, stop: &AtomicBool) -> Fate {
        let deadline = Instant::now() + limit;
        loop {
            let because = match self.attempt(&Method::PUT, key, value.clone()).await {
                Attempt::Answered(StatusCode::OK, _) => return Fate::Acknowledged,
                Attempt::Answered(status, body) if status.is_server_error() => {
                    return Fate::Unknown(told(status, &body));
                }
                Attempt::Answered(status, body) => return Fate::NotWritten(told(status, &body)),
                Attempt::Unknown(why) => return Fate::Unknown(why),
                Attempt::Elsewhere(_) => "the leader moved".to_owned(),
                Attempt::NotNow(why) => why,
            };
            if stop.load(Ordering::Relaxed) || Instant::now() > deadline {
                return Fate::NotWritten(because);
            }
        }
    }

    /// Reads `key` linearizably within `limit`; a read may be repeated whatever became of it.
    pub(crate) async fn get(&self, key: &str, limit: Duration) -> Result<Option<Bytes>, String> {
        let deadline = Instant::now() + limit;
        loop {
            let because = match self.attempt(&Method::GET, key, Bytes::new()).await {
                Attempt::Answered(StatusCode::OK, value) => return Ok(Some(value)),
                Attempt::Answered(StatusCode::NOT_FOUND, _) => return Ok(None),
                Attempt::Answered(status, body) => told(status, &body),
                Attempt::Elsewhere(_) => "the leader moved".to_owned(),
                Attempt::NotNow(why) | Attempt::Unknown(why) => why,
            };
            if Instant::now() > deadline {
                return Err(because);
            }
        }
    }

    /// One node's status. `None` if it does not answer.
    pub(crate) async fn status(&self, node: usize) -> Option<Status> {
        match self.ask(node, &Method::GET, "/status", Bytes::new()).await {
            Attempt::Answered(StatusCode::OK, body) => serde_json::from_slice(&body).ok(),
            _ => None,
        }
    }

    /// Asks whoever led last. After a failure the next node is tried, and after a round of all there is a pause.
    async fn attempt(&self, method: &Method, key: &str, value: Bytes) -> Attempt {
        let node = self.leader.load(Ordering::Relaxed);
        let attempt = self.ask(node, method, &format!("/kv/{key}"), value).await;
        match &attempt {
            Attempt::Answered(..) => {}
            Attempt::Elsewhere(leader) => {
                // Two nodes that each take the other for the leader must not make this spin.
                sleep(PAUSE / 10).await;
                self.move_on(node, *leader);
            }
            Attempt::NotNow(_) | Attempt::Unknown(_) => {
                sleep(PAUSE).await;
                self.move_on(node, (node + 1) % self.nodes.len());
            }
        }
        attempt
    }

    /// Of many clients that failed at the same node only the first moves on.
    fn move_on(&self, from: usize, to: usize) {
        // Failure: somebody else moved on already.
        let _ = self.leader.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn ask(&self, node: usize, method: &Method, path: &str, body: Bytes) -> Attempt {
        let address = &self.nodes[node].address;
        let mut connection = match self.nodes[node].connect().await {
            Ok(connection) => connection,
            Err(why) => return Attempt::NotNow(why),
        };
        let uri = format!("http://{address}{path}");
        let request = Request::builder().method(method).uri(uri).body(Full::new(body));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Attempt::NotNow(error.to_string()),
        };
        let exchange = async {
            let answer = connection.try_send_request(request).await.map_err(|mut error| {
                let sent = error.take_message().is_none();
                (sent, error.into_error().to_string())
            })?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| (true, error.to_string()))?.to_bytes();
            Ok((parts, body))
        };
        let (parts, body) = match timeout(ANSWER_LIMIT, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err((true, why))) => return Attempt::Unknown(format!("{address}: {why}")),
            Ok(Err((false, why))) => return Attempt::NotNow(format!("{address}: {why}")),
            Err(_) => return Attempt::Unknown(format!("{address}: no answer in time")),
        };
        match parts.status {
            StatusCode::TEMPORARY_REDIRECT => {
                let location = parts.headers.get(LOCATION).and_then(|location| location.to_str().ok());
                let authority =
                    location.and_then(|location| location.strip_prefix("http://")?.split('/').next());
                match self.nodes.iter().position(|node| Some(node.address.as_str()) == authority) {
                    Some(leader) => Attempt::Elsewhere(leader),
                    None => Attempt::NotNow(format!("{address} sends to {location:?}, which is no node")),
                }
            }
            StatusCode::SERVICE_UNAVAILABLE => Attempt::NotNow(told(parts.status, &body)),
            status => Attempt::Answered(status, body),
        }
    }
}

impl Node {
    /// The connection to this node, made anew if there is none.
    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let mut place = self.connection.lock().await;
        if let Some(connection) = place.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        *place = None;
        let connect = async {
            let stream = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let io = TokioIo::new(stream);
            http2::Builder::new(TokioExecutor::new()).handshake(io).await.map_err(|error| error.to_string())
        };
        let failed = |why: &str| format!("{}: {why}", self.address);
        let (sender, connection) = timeout(CONNECT_LIMIT, connect)
            .await
            .map_err(|_| failed("no connection in time"))?
            .map_err(|why| failed(&why))?;
        // Ends when the last sender is dropped or the node closes it; whoever waits on it is told.
        tokio::spawn(connection);
        Ok(place.insert(sender).clone())
    }
}

fn told(status: StatusCode, body: &[u8]) -> String {
    format!("{status}: {}", String::from_utf8_lossy(body))
}
