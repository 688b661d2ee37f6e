//! The HTTP front's connections: accepted, limited in number, in silence and in what they leave unread, and ended
//! in order. Who speaks HTTP on them is the driver's matter: see [`Connections`].

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hyper::Version;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::driver::{self, Connections};
use crate::node::Node;

/// Clients connected at a time; more wait to be accepted.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Requests at a time on one HTTP/2 connection.
pub(crate) const STREAMS_MAX: u32 = 128;
/// The longest head of a request; also what HTTP/1.1 buffers for a connection.
pub(crate) const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How long a connection may be silent.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a client may take to receive an answer.
pub(crate) const RECEIVE_LIMIT: Duration = Duration::from_secs(60);
/// How long a shutdown waits for requests in flight.
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// The answers of one connection that were not sent yet, by when each was ready.
#[derive(Debug, Default)]
pub(crate) struct Unsent {
    since: Mutex<BTreeSet<(Instant, usize)>>,
}

/// An answer's body. It goes when its last byte has been handed to the operating system, or its connection ends:
/// hyper is done with an answer as such earlier than that.
struct Held<T> {
    bytes: Bytes,
    unsent: Arc<Unsent>,
    key: (Instant, usize),
    _with: T,
}

impl<T> AsRef<[u8]> for Held<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<T> Drop for Held<T> {
    fn drop(&mut self) {
        self.unsent.since().remove(&self.key);
    }
}

impl Unsent {
    fn since(&self) -> MutexGuard<'_, BTreeSet<(Instant, usize)>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer's body; `with` is kept until it was sent.
    pub(crate) fn hold(self: &Arc<Self>, bytes: Bytes, with: impl Send + 'static) -> Bytes {
        let now = Instant::now();
        let mut since = self.since();
        let number = since.range((now, 0)..).next_back().map_or(0, |(_, number)| number + 1);
        since.insert((now, number));
        drop(since);
        Bytes::from_owner(Held { bytes, unsent: Arc::clone(self), key: (now, number), _with: with })
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

/// Accepts clients until it is cancelled, at most so many at a time, then lets requests in flight end.
pub(crate) async fn accept<N: Node>(
    listener: TcpListener,
    connections: Connections<N>,
    stop: CancellationToken,
    connections_max: usize,
    receive_limit: Duration,
) {
    let room = Arc::new(Semaphore::new(connections_max));
    let next = async {
        loop {
            let permit = Arc::clone(&room).acquire_owned().await;
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = prepare(&stream) {
                        tracing::debug!(%error, "a client vanished");
                        continue;
                    }
                    let unsent = Arc::<Unsent>::default();
                    let connection = connections.open(&unsent);
                    driver::spawn(async move {
                        let _permit = permit;
                        let Ok(Ok(Some(version))) = tokio::time::timeout(IDLE_LIMIT, begins(&stream)).await
                        else {
                            tracing::debug!("a client connected and asked nothing");
                            return;
                        };
                        tokio::select! {
                            () = connection.serve(stream, version) => {}
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
    if tokio::time::timeout(DRAIN_LIMIT, connections.end()).await.is_err() {
        tracing::info!("clients did not end in time");
    }
}

/// Waits until a client has said what it speaks: until then nothing else limits how long it may be silent. `None`
/// if it has closed the connection.
async fn begins(stream: &TcpStream) -> std::io::Result<Option<Version>> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut said = [0; PREFACE.len()];
    loop {
        let length = stream.peek(&mut said).await?;
        match &said[..length] {
            [] => return Ok(None),
            PREFACE => return Ok(Some(Version::HTTP_2)),
            said if !PREFACE.starts_with(said) => return Ok(Some(Version::HTTP_11)),
            _ => {}
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
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use raft_core::host::Envelope;
    use raft_core::{Config, NodeId};
    use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
    use raft_driver_tokio::tcp::{Tcp, TcpConfig};
    use raft_driver_tokio::{ClusterId, Recovered};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::driver::Handle;
    use crate::failure::Failure;
    use crate::http::{Front, IN_FLIGHT_BYTES_MAX};
    use crate::machine::{COMMAND_BYTES_MAX, VALUE_BYTES_MAX, begin_put};
    use crate::once::replicated;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// One node that leads, and its front.
    async fn front(request_limit: Duration) -> Arc<Front<Handle>> {
        let tcp = Tcp::bind("127.0.0.1:0", TcpConfig::new(ClusterId::new(1))).await.unwrap();
        let (machine, glance) = replicated();
        let id = NodeId::new(1);
        let mut config = Config::new(id);
        config.command_bytes_max = COMMAND_BYTES_MAX as u64;
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let recovered = Recovered::ask(log, snapshots, machine).await.unwrap();
        let node = driver::start(config, None, recovered, tcp).unwrap();
        node.bootstrap([(id, Bytes::from_static(b"127.0.0.1:1"))].into()).await.unwrap();
        let mut front = Front::new(node, glance, BTreeMap::new());
        front.request_limit = request_limit;
        Arc::new(front)
    }

    async fn listen(front: &Arc<Front<Handle>>, receive_limit: Duration) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _ = driver::listen(listener, Arc::clone(front), CancellationToken::new(), receive_limit, 1);
        address
    }

    #[test]
    fn answers_that_nobody_reads_count_and_end_with_their_connection() {
        driver::run(1, leave_answers_unread()).unwrap();
    }

    async fn leave_answers_unread() -> Result<(), Failure> {
        let front = front(PATIENCE).await;
        let mut command = begin_put(b"k", VALUE_BYTES_MAX);
        command.resize(command.len() + VALUE_BYTES_MAX, 7);
        let command = Envelope::Plain.seal(command.freeze());
        tokio::time::timeout(PATIENCE, async {
            while front.node.write(command.clone()).await.is_err() {
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
        Ok(())
    }

    #[test]
    fn a_body_that_does_not_arrive_is_no_write() {
        driver::run(1, send_half_a_body()).unwrap();
    }

    async fn send_half_a_body() -> Result<(), Failure> {
        let front = front(Duration::from_millis(50)).await;
        let address = listen(&front, PATIENCE).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PUT /kv/k HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc").await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("did_not_happen"), "{answer}");
        Ok(())
    }
}
