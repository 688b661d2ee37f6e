//! HTTP on clients' connections, by hyper.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::Full;
use hyper::Version;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::TcpStream;

use crate::failure::chain;
use crate::http::Front;
use crate::http::listen::{HEAD_BYTES_MAX, IDLE_LIMIT, STREAMS_MAX, Unsent};
use crate::node::Node;

/// What all connections have in common.
pub(crate) struct Connections<N> {
    front: Arc<Front<N>>,
    builder: auto::Builder<TokioExecutor>,
    graceful: GracefulShutdown,
}

/// One connection.
pub(crate) struct Connection<N> {
    front: Arc<Front<N>>,
    builder: auto::Builder<TokioExecutor>,
    watcher: Watcher,
    unsent: Arc<Unsent>,
}

impl<N: Node> Connections<N> {
    pub(crate) fn new(front: Arc<Front<N>>) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_LIMIT).max_buf_size(HEAD_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(IDLE_LIMIT / 2)
            .keep_alive_timeout(IDLE_LIMIT / 2);
        Self { front, builder, graceful: GracefulShutdown::new() }
    }

    /// One more, whose answers are kept in `unsent` until they were sent.
    pub(crate) fn open(&self, unsent: &Arc<Unsent>) -> Connection<N> {
        Connection {
            front: Arc::clone(&self.front),
            builder: self.builder.clone(),
            watcher: self.graceful.watcher(),
            unsent: Arc::clone(unsent),
        }
    }

    /// Lets requests in flight end, and takes no more.
    pub(crate) async fn end(self) {
        self.graceful.shutdown().await;
    }
}

impl<N: Node> Connection<N> {
    /// Serves a client until one of both sides has closed the connection.
    pub(crate) async fn serve(self, stream: TcpStream, _: Version) {
        let Self { front, builder, watcher, unsent } = self;
        let service = service_fn(move |request| {
            let (front, unsent) = (Arc::clone(&front), Arc::clone(&unsent));
            async move {
                let (answer, permit) = front.answer(request).await;
                Ok::<_, Infallible>(answer.map(|body| Full::new(unsent.hold(body, permit))))
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(error = chain(&*error), "a client's connection ended");
        }
    }
}
