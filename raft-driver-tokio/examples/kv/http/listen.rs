//! The HTTP front's connections: accepted, limited in number, in silence and in what they leave unread, and ended
//! in order.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::chain;
use crate::http::Front;
use crate::http::node::Node;

/// Clients connected at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// Requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// The longest head of a request; also what HTTP/1.1 buffers for a connection.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How long a connection may be silent.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a client may take to receive an answer.
const RECEIVE_LIMIT: Duration = Duration::from_secs(60);
/// How long a shutdown waits for requests in flight.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// The answers of one connection that were not sent yet, by when each was ready.
#[derive(Debug, Default)]
struct Unsent {
    since: Mutex<BTreeSet<(Instant, usize)>>,
}

/// An answer's body. It goes when its last byte has been handed to the operating system, or its connection ends:
/// hyper is done with an answer as such earlier than that.
struct Held {
    bytes: Bytes,
    unsent: Arc<Unsent>,
    key: (Instant, usize),
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.unsent.since().remove(&self.key);
    }
}

impl Unsent {
    fn since(&self) -> MutexGuard<'_, BTreeSet<(Instant, usize)>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(self: &Arc<Self>, bytes: Bytes, permit: Option<OwnedSemaphorePermit>) -> Bytes {
        let now = Instant::now();
        let mut since = self.since();
        let number = since.range((now, 0)..).next_back().map_or(0, |(_, number)| number + 1);
        since.insert((now, number));
        drop(since);
        Bytes::from_owner(Held { bytes, unsent: Arc::clone(self), key: (now, number), _permit: permit })
    }

    /// Resolves when one has waited for longer than `limit`.
    async fn overdue(&self, limit: Duration) {
        loop {
            let oldest = self.since().first().map(|(since, _)| *since);
            match oldest.map(|oldest| oldest + limit) {
                Some(due) if due <= Instant::now() => return,
                Some(due) => tokio::time::sleep_until(due).await,
                None => tokio::time::sleep(limit).await,
            }
        }
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    // Answers are short: waiting to fill a packet would only delay them.
    stream.set_nodelay(true)?;
    // What hyper has copied is not counted as unsent. The system ends a connection whose peer takes nothing.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(RECEIVE_LIMIT))?;
    Ok(())
}

/// Accepts clients until it is cancelled, then lets requests in flight end.
pub(crate) async fn accept<N: Node>(listener: TcpListener, front: Arc<Front<N>>, stop: CancellationToken) {
    accept_within(listener, front, stop, RECEIVE_LIMIT).await;
}

async fn accept_within<N: Node>(
    listener: TcpListener,
    front: Arc<Front<N>>,
    stop: CancellationToken,
    receive_limit: Duration,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(IDLE_LIMIT).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(IDLE_LIMIT / 2)
        .keep_alive_timeout(IDLE_LIMIT / 2);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let next = async {
        loop {
            let permit = Arc::clone(&room).acquire_owned().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = prepare(&stream) {
                        tracing::debug!(%error, "a client vanished");
                        continue;
                    }
                    let front = Arc::clone(&front);
                    let unsent = Arc::<Unsent>::default();
                    let held = Arc::clone(&unsent);
                    let service = service_fn(move |request| {
                        let (front, held) = (Arc::clone(&front), Arc::clone(&held));
                        async move {
                            let (answer, permit) = front.answer(request).await;
                            Ok::<_, Infallible>(answer.map(|body| Full::new(held.hold(body, permit))))
                        }
                    });
                    let (builder, watcher) = (builder.clone(), graceful.watcher());
                    tokio::spawn(async move {
                        let _permit = permit;
                        if !matches!(tokio::time::timeout(IDLE_LIMIT, begins(&stream)).await, Ok(Ok(true))) {
                            tracing::debug!("a client connected and asked nothing");
                            return;
                        }
                        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
                        let connection = watcher.watch(connection);
                        tokio::select! {
                            ended = connection => if let Err(error) = ended {
                                tracing::debug!(error = chain(&*error), "a client's connection ended");
                            },
                            () = unsent.overdue(receive_limit) => {
                                tracing::debug!("a client did not receive its answers in time");
                            }
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

/// Waits until a client has said what it speaks: until then nothing else limits how long it may be silent. False if it
/// has closed the connection.
async fn begins(stream: &TcpStream) -> std::io::Result<bool> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut said = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut said).await?;
        if length == 0 || length == PREFACE.len() || said[..length] != PREFACE[..length] {
            return Ok(length > 0);
        }
        // A part of the preface is there, and peeking does not wait for the rest.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http_body_util::Full;
    use hyper::Request;
    use raft_core::host::Envelope;
    use raft_core::{Config, NodeId};
    use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
    use raft_driver_tokio::tcp::{Tcp, TcpConfig};
    use raft_driver_tokio::{Builder, ClusterId, Raft};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::http::IN_FLIGHT_BYTES_MAX;
    use crate::http::node::TokioNode;
    use crate::machine::{COMMAND_BYTES_MAX, VALUE_BYTES_MAX, begin_put};
    use crate::once::{Replicated, replicated};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// One node that leads, and its front.
    async fn front(request_limit: Duration) -> (Arc<Front<TokioNode>>, Raft<Replicated>) {
        let tcp = Tcp::bind("127.0.0.1:0", TcpConfig::new(ClusterId::new(1))).await.unwrap();
        let (machine, glance) = replicated();
        let id = NodeId::new(1);
        let mut config = Config::new(id);
        config.command_bytes_max = COMMAND_BYTES_MAX as u64;
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let raft = Builder::new(config).start(log, snapshots, machine, tcp).await.unwrap();
        raft.bootstrap([(id, Bytes::from_static(b"127.0.0.1:1"))].into()).await.unwrap();
        let mut front = Front::new(TokioNode::new(raft.clone()), glance, BTreeMap::new());
        front.request_limit = request_limit;
        (Arc::new(front), raft)
    }

    async fn listen(front: &Arc<Front<TokioNode>>, receive_limit: Duration) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept_within(listener, Arc::clone(front), CancellationToken::new(), receive_limit));
        address
    }

    #[tokio::test]
    async fn answers_that_nobody_reads_count_and_end_with_their_connection() {
        let (front, raft) = front(PATIENCE).await;
        let mut command = begin_put(b"k", VALUE_BYTES_MAX);
        command.resize(command.len() + VALUE_BYTES_MAX, 7);
        let command = Envelope::Plain.seal(command.freeze());
        tokio::time::timeout(PATIENCE, async {
            while raft.write(command.clone()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        let address = listen(&front, Duration::from_secs(2)).await;

        let stream = TcpStream::connect(address).await.unwrap();
        let (mut client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(65_535)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let mut unread = Vec::new();
        for _ in 0..4 {
            let request = Request::get(format!("http://{address}/kv/k")).body(Full::default()).unwrap();
            let answer = client.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            unread.push(answer);
        }
        // HTTP/2 lets only a part through to who reads nothing.
        let in_flight = IN_FLIGHT_BYTES_MAX - front.in_flight.available_permits();
        assert!(in_flight >= 4 * VALUE_BYTES_MAX, "{in_flight}");
        // The connection ends, although it is alive and answers pings.
        let _ = tokio::time::timeout(PATIENCE, connection).await.unwrap();
        let all = front.in_flight.acquire_many(u32::try_from(IN_FLIGHT_BYTES_MAX).unwrap());
        drop(tokio::time::timeout(PATIENCE, all).await.unwrap().unwrap());
        drop(unread);
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_no_write() {
        let (front, _raft) = front(Duration::from_millis(50)).await;
        let address = listen(&front, PATIENCE).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PUT /kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc").await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("did_not_happen"), "{answer}");
    }
}
