//! The HTTP front's connections: accepted, limited in number and in silence, and ended in order.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::failure::chain;
use crate::http::Front;

/// Clients connected at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 1024;
/// How long a connection may be silent.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a shutdown waits for requests in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// Accepts clients until it is cancelled, then lets requests in flight end.
pub(crate) async fn accept(listener: TcpListener, front: Arc<Front>, stop: CancellationToken) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_LIMIT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(IDLE_LIMIT / 2)
        .keep_alive_timeout(IDLE_LIMIT / 2);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let next = async {
        loop {
            let permit = Arc::clone(&room).acquire_owned().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Answers are short: waiting to fill a packet would only delay them.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a client vanished");
                        continue;
                    }
                    let front = Arc::clone(&front);
                    let service = service_fn(move |request| {
                        let front = Arc::clone(&front);
                        async move { Ok::<_, Infallible>(front.answer(request).await) }
                    });
                    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
                    let connection = graceful.watch(connection);
                    tokio::spawn(async move {
                        let _permit = permit;
                        if let Err(error) = connection.await {
                            tracing::debug!(error = chain(&*error), "a client's connection ended");
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: others may close theirs.
                    tracing::warn!(%error, "a client cannot be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    stop.run_until_cancelled(next).await;
    drop(listener);
    if tokio::time::timeout(DRAIN_LIMIT, graceful.shutdown()).await.is_err() {
        tracing::info!("clients did not end in time");
    }
}
