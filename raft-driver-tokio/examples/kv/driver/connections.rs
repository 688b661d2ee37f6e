//! HTTP on clients' connections, by hyper.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use hyper::Version;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;

use crate::failure::chain;
use crate::http::Front;
use crate::http::activity::Activity;
use crate::http::listen::IDLE_LIMIT;
use crate::node::Node;

/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// The longest head of a request; also what HTTP/1.1 buffers for a connection.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// What all connections have in common.
pub(crate) struct Connections<N> {
    front: Arc<Front<N>>,
    builder: auto::Builder<TokioExecutor>,
}

/// One connection.
pub(crate) struct Connection<N> {
    front: Arc<Front<N>>,
    builder: auto::Builder<TokioExecutor>,
    activity: Arc<Activity>,
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
        Self { front, builder }
    }

    /// One more, and what is known of what it does.
    pub(crate) fn open(&self, activity: &Arc<Activity>) -> Connection<N> {
        Connection {
            front: Arc::clone(&self.front),
            builder: self.builder.clone(),
            activity: Arc::clone(activity),
        }
    }
}

impl<N: Node> Connection<N> {
    /// Serves a client until one of both sides has closed the connection, or it is to leave.
    pub(crate) async fn serve(self, stream: TcpStream, _: Version) {
        let Self { front, builder, activity } = self;
        let leave = activity.leave().clone();
        let service = service_fn(move |request| {
            let (front, activity) = (Arc::clone(&front), Arc::clone(&activity));
            // In a box: what serves it moves it around.
            Box::pin(async move { Ok::<_, Infallible>(front.answer(request, activity).await) })
        });
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = leave.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error = chain(&*error), "a client's connection ended");
        }
    }
}
