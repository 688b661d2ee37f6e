//! The HTTP front's connections: accepted, limited in number, in silence and in what they leave unread (see
//! [`activity`](crate::http::activity)), and ended in order. Who speaks HTTP on them is the driver's matter: see
//! [`Connections`].

use std::time::Duration;

use hyper::Version;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::driver::{self, Connections};
use crate::http::activity::Clients;
use crate::node::Node;

/// Clients connected at a time.
pub(crate) const CONNECTIONS_MAX: u32 = 1024;
/// How long a connection may be quiet; also how long a request's head may take.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a client may take to receive an answer.
pub(crate) const RECEIVE_LIMIT: Duration = Duration::from_secs(60);
/// The same where somebody else waits for its place, and for a request's body.
pub(crate) const CROWDED_LIMIT: Duration = Duration::from_secs(5);
/// How long a shutdown waits for requests in flight.
pub(crate) const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connected at a time.
    pub(crate) connections_max: u32,
    /// How long a connection may be quiet.
    pub(crate) idle: Duration,
    /// How long a client may take to receive an answer, or the next part of it.
    pub(crate) receive: Duration,
    /// The same where somebody else waits for its place, and how long it may then take to send the body of a request.
    pub(crate) crowded: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let (idle, receive, crowded) = (IDLE_LIMIT, RECEIVE_LIMIT, CROWDED_LIMIT);
        Self { connections_max: CONNECTIONS_MAX, idle, receive, crowded }
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
pub(crate) async fn accept<N: Node>(
    listener: TcpListener,
    connections: Connections<N>,
    stop: CancellationToken,
    limits: Limits,
) {
    let clients = Clients::new(limits, stop.clone());
    let next = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = prepare(&stream) {
                        tracing::debug!(%error, "a client vanished");
                        continue;
                    }
                    let place = clients.enter().await;
                    let connection = connections.open(&place.activity);
                    driver::spawn(async move {
                        let activity = &place.activity;
                        let serve = async {
                            match activity.leave().run_until_cancelled(begins(&stream)).await {
                                Some(Ok(Some(version))) => connection.serve(stream, version).await,
                                _ => tracing::debug!("a client connected and asked nothing"),
                            }
                        };
                        tokio::select! {
                            () = serve => {}
                            () = activity.left(limits.idle) => {}
                            () = activity.overdue(limits.receive) => {
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
    if tokio::time::timeout(DRAIN_LIMIT, clients.gone()).await.is_err() {
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
    use std::sync::Arc;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::{Request, Response};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use raft_core::host::Envelope;
    use raft_core::{Config, NodeId};
    use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
    use raft_driver_tokio::tcp::{Tcp, TcpConfig};
    use raft_driver_tokio::{ClusterId, Recovered};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

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
        let node = driver::start(config, None, recovered, tcp).await.unwrap();
        node.bootstrap([(id, Bytes::from_static(b"127.0.0.1:1"))].into()).await.unwrap();
        let mut front = Front::new(node, glance, BTreeMap::new());
        front.request_limit = request_limit;
        Arc::new(front)
    }

    async fn listen(front: &Arc<Front<Handle>>, limits: Limits) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        drop(driver::listen(listener, Arc::clone(front), stop, limits, 1).unwrap());
        address
    }

    const WIDE: Limits = Limits { connections_max: 8, idle: PATIENCE, receive: PATIENCE, crowded: PATIENCE };

    /// Connects, and says something.
    async fn said(address: std::net::SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }

    /// Waits until a request takes room.
    async fn is_served(front: &Front<Handle>) {
        while front.in_flight.available_permits() == IN_FLIGHT_BYTES_MAX {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// All that the server says until it closes the connection.
    async fn heard(mut stream: TcpStream) -> String {
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    }

    #[test]
    fn answers_that_nobody_reads_count_and_end_with_their_connection() {
        driver::run(1, leave_answers_unread()).unwrap();
    }

    async fn leave_answers_unread() -> Result<(), Failure> {
        let front = front(PATIENCE).await;
        put_long(&front).await;
        let address = listen(&front, Limits { receive: Duration::from_secs(2), ..WIDE }).await;
        let (unread, connection) = read_nothing(address, 4).await;
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

    /// Gives `k` a value of the greatest length.
    async fn put_long(front: &Front<Handle>) {
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
    }

    /// Asks for `k` so many times on one connection, and takes the heads of the answers only.
    async fn read_nothing(
        address: std::net::SocketAddr,
        times: usize,
    ) -> (Vec<Response<hyper::body::Incoming>>, JoinHandle<hyper::Result<()>>) {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(65_535)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let mut unread = Vec::new();
        for _ in 0..times {
            let request = Request::get(format!("http://{address}/kv/k")).body(Full::default()).unwrap();
            let answer = client.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            unread.push(answer);
        }
        (unread, connection)
    }

    #[test]
    fn a_body_that_does_not_arrive_is_no_write() {
        driver::run(1, send_half_a_body()).unwrap();
    }

    async fn send_half_a_body() -> Result<(), Failure> {
        let front = front(Duration::from_millis(50)).await;
        let address = listen(&front, WIDE).await;
        let half = "PUT /kv/k HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc";
        let answer = heard(said(address, half).await).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("did_not_happen"), "{answer}");
        Ok(())
    }

    #[test]
    fn whoever_asks_how_the_node_is_hears_it_although_everything_is_taken() {
        driver::run(1, ask_while_all_is_taken()).unwrap();
    }

    async fn ask_while_all_is_taken() -> Result<(), Failure> {
        let front = front(PATIENCE).await;
        let address = listen(&front, WIDE).await;
        // A long body that hardly arrives takes no more than did arrive.
        let slow = "PUT /kv/k HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nabc";
        let _slow = said(address, slow).await;
        is_served(&front).await;
        let free = front.in_flight.available_permits();
        assert!(free > IN_FLIGHT_BYTES_MAX - 100_000, "{free}");

        let all =
            Arc::clone(&front.in_flight).acquire_many_owned(u32::try_from(free).unwrap()).await.unwrap();
        let health = heard(said(address, &get("/healthz")).await).await;
        assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
        let read = heard(said(address, &get("/kv/k")).await).await;
        assert!(read.starts_with("HTTP/1.1 503 "), "{read}");
        drop(all);
        let read = heard(said(address, &get("/kv/k")).await).await;
        assert!(read.starts_with("HTTP/1.1 404 "), "{read}");
        Ok(())
    }

    #[test]
    fn a_connection_on_which_nobody_asks_ends_whatever_else_is_sent() {
        driver::run(1, only_ping()).unwrap();
    }

    async fn only_ping() -> Result<(), Failure> {
        let front = front(PATIENCE).await;
        let address = listen(&front, Limits { idle: Duration::from_millis(300), ..WIDE }).await;
        let stream = TcpStream::connect(address).await.unwrap();
        let (client, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(hyper_util::rt::TokioTimer::new())
            .keep_alive_interval(Duration::from_millis(20))
            .keep_alive_while_idle(true)
            .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
            .await
            .unwrap();
        // With a farewell or without: not every driver's HTTP has one.
        drop(tokio::time::timeout(PATIENCE, connection).await.unwrap());
        drop(client);
        // Half a head, and nothing at all.
        assert_eq!(heard(said(address, "GET /healthz HTTP/1.1\r\nho").await).await, "");
        assert_eq!(heard(said(address, "").await).await, "");
        Ok(())
    }

    #[test]
    fn whoever_is_quiet_makes_room_and_whoever_is_served_does_not() {
        driver::run(1, fill_all_places()).unwrap();
    }

    async fn fill_all_places() -> Result<(), Failure> {
        let front = front(PATIENCE).await;
        let address = listen(&front, Limits { connections_max: 2, ..WIDE }).await;
        let half =
            "PUT /kv/k HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 6\r\n\r\nabc";
        let mut served = said(address, half).await;
        is_served(&front).await;
        let quiet = said(address, "").await;
        let third = heard(said(address, &get("/healthz")).await).await;
        assert!(third.starts_with("HTTP/1.1 200 "), "{third}");
        assert_eq!(heard(quiet).await, "");
        served.write_all(b"def").await.unwrap();
        let put = heard(served).await;
        assert!(put.starts_with("HTTP/1.1 200 "), "{put}");
        Ok(())
    }

    #[test]
    fn whoever_takes_an_answer_makes_room_after_all_who_are_quiet_and_not_at_once() {
        driver::run(1, read_slowly()).unwrap();
    }

    async fn read_slowly() -> Result<(), Failure> {
        let front = front(PATIENCE).await;
        put_long(&front).await;
        let address = listen(&front, Limits { connections_max: 2, ..WIDE }).await;
        let (mut unread, _connection) = read_nothing(address, 1).await;
        let quiet = said(address, "").await;
        let third = heard(said(address, &get("/healthz")).await).await;
        assert!(third.starts_with("HTTP/1.1 200 "), "{third}");
        assert_eq!(heard(quiet).await, "");
        let taken = unread.remove(0).into_body().collect().await.unwrap().to_bytes();
        assert_eq!(taken.len(), VALUE_BYTES_MAX, "all of it, although slowly");

        // Who takes nothing for too long does.
        let crowded = Duration::from_millis(200);
        let address = listen(&front, Limits { connections_max: 1, crowded, ..WIDE }).await;
        let (_unread, connection) = read_nothing(address, 1).await;
        let second = heard(said(address, &get("/healthz")).await).await;
        assert!(second.starts_with("HTTP/1.1 200 "), "{second}");
        drop(tokio::time::timeout(PATIENCE, connection).await.unwrap());
        Ok(())
    }

    #[test]
    fn a_body_that_hardly_arrives_makes_room_and_is_no_write() {
        driver::run(1, dribble()).unwrap();
    }

    async fn dribble() -> Result<(), Failure> {
        let front = front(PATIENCE).await;
        let crowded = Duration::from_millis(200);
        let address = listen(&front, Limits { connections_max: 1, crowded, ..WIDE }).await;
        let half = "PUT /kv/k HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nabc";
        let slow = said(address, half).await;
        is_served(&front).await;
        let health = heard(said(address, &get("/healthz")).await).await;
        assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
        let answer = heard(slow).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("did_not_happen"), "{answer}");
        Ok(())
    }
}
