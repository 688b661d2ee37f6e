//! What a client is to a server of either kind: one HTTP/2 connection, any number of requests at a time, and what an answer
//! means. hyper speaks it, so that a request costs the generator as much for one as for the other.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::servers::{System, etcd, kv};

/// What became of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    Done,
    /// Ask at this address.
    Elsewhere(String),
    Failed,
}

/// How a server is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) leads: bool,
    /// The index through which it has applied the log.
    pub(crate) applied: u64,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

/// A connection to one server, made anew when it was lost.
#[derive(Debug)]
pub(crate) struct Link {
    system: System,
    address: String,
    sender: RefCell<Option<SendRequest<Full<Bytes>>>>,
}

impl Link {
    pub(super) fn new(system: System, address: &str) -> Self {
        Self { system, address: address.to_owned(), sender: RefCell::default() }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Writes once.
    pub(crate) async fn put(&self, key: &[u8], value: Bytes, limit: Duration) -> Put {
        let request = match self.system {
            System::Kv => kv::put(&self.address, key, value),
            System::Etcd => etcd::put(&self.address, key, value),
        };
        match timeout(limit, self.ask(request)).await {
            Ok(Some(answer)) => match self.system {
                System::Kv => kv::understand_put(&answer),
                System::Etcd => etcd::understand_put(&answer),
            },
            _ => Put::Failed,
        }
    }

    /// Asks how it is, if it answers.
    pub(crate) async fn status(&self, limit: Duration) -> Option<Status> {
        let (request, understand): (_, fn(&Answer) -> _) = match self.system {
            System::Kv => (kv::status(&self.address), kv::understand_status),
            System::Etcd => (etcd::status(&self.address), etcd::understand_status),
        };
        timeout(limit, self.ask(request)).await.ok().flatten().as_ref().and_then(understand)
    }

    /// Connects, so that the first request need not.
    pub(crate) async fn connect(&self) -> Option<SendRequest<Full<Bytes>>> {
        if let Some(sender) = &*self.sender.borrow()
            && !sender.is_closed()
        {
            return Some(sender.clone());
        }
        let stream = TcpStream::connect(&self.address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
        tokio::spawn(async move {
            // An error: whoever waits for an answer hears of it.
            let _ = connection.await;
        });
        self.sender.replace(Some(sender.clone()));
        Some(sender)
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Option<Answer> {
        let mut sender = self.connect().await?;
        let (parts, body) = sender.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?;
        let trailers = body.trailers().cloned();
        Some(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    }
}
