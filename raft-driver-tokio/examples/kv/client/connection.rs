//! One node as a client sees it: a shared HTTP/2 connection, and what one exchange came to.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::{HeaderMap, LOCATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// The longest answer: values are shorter, and so is everything else.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What one attempt at one node came to.
#[derive(Debug)]
pub(super) enum Attempt {
    Answered(StatusCode, Bytes),
    /// Not performed; ask at this address.
    Elsewhere(String),
    /// Not performed; ask again, or another.
    NotNow(String),
    /// Performed or not.
    Unknown(String),
}

/// What is asked of a node.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// It changes nothing, or nothing more when it is performed again.
    pub(crate) repeatable: bool,
}

impl Ask {
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        let repeatable = method == Method::GET;
        Self { method, path: path.into(), headers: HeaderMap::new(), body: Bytes::new(), repeatable }
    }

    pub(crate) fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    pub(crate) fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }
}

/// What a refusal says of a request that was to change something.
pub(super) fn outcome(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Known {
        outcome: Option<String>,
    }
    serde_json::from_slice::<Known>(body).ok()?.outcome
}

pub(super) struct Connection {
    pub(super) address: String,
    /// Locked while a connection is made or cloned, not while it is used.
    link: Mutex<Link>,
}

#[derive(Default)]
struct Link {
    sender: Option<SendRequest<Full<Bytes>>>,
    /// When the last attempt to connect failed, and why.
    failed: Option<(Instant, String)>,
}

impl Connection {
    pub(super) fn new(address: String) -> Self {
        Self { address, link: Mutex::default() }
    }

    /// Asks once.
    pub(super) async fn ask(&self, ask: &Ask, limit: Duration) -> Attempt {
        let address = &self.address;
        let mut sender = match self.connect(limit).await {
            Ok(sender) => sender,
            Err(why) => return Attempt::NotNow(why),
        };
        let uri = format!("http://{address}{}", ask.path);
        let request = Request::builder().method(&ask.method).uri(uri).body(Full::new(ask.body.clone()));
        let mut request = match request {
            Ok(request) => request,
            Err(error) => return Attempt::NotNow(error.to_string()),
        };
        request.headers_mut().clone_from(&ask.headers);
        let exchange = async {
            let answer = sender.try_send_request(request).await.map_err(|mut error| {
                let sent = error.take_message().is_none();
                (sent, error.into_error().to_string())
            })?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            Ok((parts, body.map_err(|error| (true, error.to_string()))?.to_bytes()))
        };
        let (parts, body) = match timeout(limit, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err((true, why))) => return Attempt::Unknown(format!("{address}: {why}")),
            Ok(Err((false, why))) => return Attempt::NotNow(format!("{address}: {why}")),
            Err(_) => return Attempt::Unknown(format!("{address}: no answer in time")),
        };
        match parts.status {
            StatusCode::TEMPORARY_REDIRECT => {
                let location = parts.headers.get(LOCATION).and_then(|location| location.to_str().ok());
                let leader =
                    location.and_then(|location| location.strip_prefix("http://")?.split('/').next());
                match leader {
                    Some(leader) => Attempt::Elsewhere(leader.to_owned()),
                    None => Attempt::NotNow(format!("{address} sends to {location:?}, which is no address")),
                }
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT => {
                Attempt::NotNow(told(parts.status, &body))
            }
            status if status.is_server_error() => match outcome(&body).as_deref() {
                Some("did_not_happen" | "committed") => Attempt::Answered(status, body),
                _ => Attempt::Unknown(told(status, &body)),
            },
            status => Attempt::Answered(status, body),
        }
    }

    /// The connection to this node, made anew if there is none.
    async fn connect(&self, limit: Duration) -> Result<SendRequest<Full<Bytes>>, String> {
        let began = Instant::now();
        let mut link = self.link.lock().await;
        if let Some(sender) = link.sender.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        // Whoever waited while somebody else found out need not find out again.
        if let Some((_, why)) = link.failed.as_ref().filter(|(at, _)| *at >= began) {
            return Err(why.clone());
        }
        let connect = async {
            let stream = TcpStream::connect(&self.address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let io = TokioIo::new(stream);
            http2::Builder::new(TokioExecutor::new()).handshake(io).await.map_err(|error| error.to_string())
        };
        let made = timeout(CONNECT_LIMIT.min(limit), connect).await;
        match made.unwrap_or_else(|_| Err("no connection in time".to_owned())) {
            Ok((sender, connection)) => {
                // Ends when the last sender is dropped or the node closes it; whoever waits on it is told.
                tokio::spawn(connection);
                *link = Link { sender: Some(sender.clone()), failed: None };
                Ok(sender)
            }
            Err(why) => {
                let why = format!("{}: {why}", self.address);
                *link = Link { sender: None, failed: Some((Instant::now(), why.clone())) };
                Err(why)
            }
        }
    }
}

/// A refusal in words.
pub(crate) fn told(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Words {
        message: String,
        next: String,
    }
    match serde_json::from_slice::<Words>(body) {
        Ok(Words { message, next }) => format!("{} ({}); {next}", message, status.as_u16()),
        Err(_) => format!("{status}: {}", String::from_utf8_lossy(&body[..body.len().min(200)])),
    }
}
