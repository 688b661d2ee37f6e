//! The sending side of one peer: connects, says who it is, and has what is queued written.
//!
//! * While it pauses after a failure, what is queued is dropped: it would be stale when it arrived.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use raft_core::NodeId;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::tcp::Refused;
use crate::tcp::frame::{self, FrameError, FrameReader};
use crate::tcp::handshake::{HELLO_BYTES_MAX, Hello, NotAHandshake, Refusal, Welcome};
use crate::tcp::pump::{BATCH_MAX, End, Queue, size_bytes};
use crate::tcp::secure::{self, Insecure};
use crate::tcp::shared::Shared;
use crate::tcp::stream::Stream;

/// A connection that lasted for this long was a good one: the next pause is the shortest.
const GOOD: Duration = Duration::from_secs(5);

/// One peer.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: NodeId,
    pub(crate) address: String,
    pub(crate) queue: Queue,
    /// Whether this node belongs together with it. If not, it is connected to for as long as it can be reached.
    pub(crate) is_member: Arc<AtomicBool>,
    /// The peer was seen: try now.
    pub(crate) kick: Arc<Notify>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum NoConnection {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("timed out")]
    TimedOut,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("no TLS as it is spoken here: {0}")]
    NotTls(io::Error),
    #[error("not a node: {0}")]
    NotANode(#[from] NotAHandshake),
    #[error("refused: {refusal}")]
    Refused { refusal: Refusal, by_peer: bool },
}

impl From<Insecure> for NoConnection {
    fn from(error: Insecure) -> Self {
        match error {
            Insecure::Io(error) => Self::Io(error),
            Insecure::Malformed(error) => Self::NotTls(error),
            Insecure::Refused { refusal, by_peer } => Self::Refused { refusal, by_peer },
        }
    }
}

impl From<tokio::time::error::Elapsed> for NoConnection {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::TimedOut
    }
}

impl Dialer {
    /// Runs until the node is gone, or a peer that is no member.
    pub(crate) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let (id, peer, counts) = (shared.identity.node, self.peer, &shared.counts);
        let mut pause = shared.config.backoff_min;
        let mut told = None;
        // Changes are told once; a peer that stays away is not news.
        let mut reached = true;
        loop {
            match self.connect().await {
                Ok(mut stream) => {
                    counts.connects.one();
                    told = None;
                    reached = true;
                    tracing::info!(%id, %peer, "raft.tcp.connected");
                    let since = Instant::now();
                    let End::Lost(error) = self.queue.pump(&shared, peer, &mut stream).await else { return };
                    counts.disconnects.one();
                    tracing::info!(%id, %peer, %error, "raft.tcp.lost");
                    if since.elapsed() >= GOOD {
                        pause = shared.config.backoff_min;
                    }
                }
                Err(error) => {
                    counts.connect_failures.one();
                    let address = &self.address;
                    if std::mem::take(&mut reached) {
                        tracing::info!(%id, %peer, address, %error, "raft.tcp.unreachable");
                    } else {
                        tracing::debug!(%id, %peer, address, %error, "raft.tcp.unreachable");
                    }
                    if let NoConnection::Refused { refusal, by_peer } = error {
                        let address = self.address.clone();
                        shared.refused(Refused { peer, address, by_peer, refusal }, told != Some(refusal));
                        told = Some(refusal);
                    }
                }
            }
            // What was on the way or queued is lost.
            shared.inbox.unreachable(peer);
            if !self.is_member.load(Ordering::Relaxed) && shared.stranger(peer).is_none() {
                // Nobody asks for an answer any more. Should it come back, it is connected to anew.
                return;
            }
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            pause = (pause * 2).min(shared.config.backoff_max);
            if self.pause(jittered).await.is_none() {
                return;
            }
        }
    }

    /// A connection whose handshake is over.
    async fn connect(&self) -> Result<Stream, NoConnection> {
        let config = &self.shared.config;
        let stream = timeout(config.connect_timeout, TcpStream::connect(&*self.address)).await??;
        timeout(config.handshake_timeout, self.greet(stream)).await?
    }

    async fn greet(&self, stream: TcpStream) -> Result<Stream, NoConnection> {
        let Shared { identity, address, config, .. } = &*self.shared;
        self.shared.tune(&stream)?;
        let mut stream = secure::connect(config, stream, self.peer).await?;
        let hello = Hello { from: *identity, to: self.peer, address: address.clone() };
        let mut out = Vec::new();
        frame::append(&mut out, config.frame_bytes_max, |out| hello.encode(out))
            .ok_or_else(|| io::Error::other("the handshake is longer than a frame"))?;
        stream.write_all(&out).await?;
        stream.flush().await?;
        let answer = match FrameReader::new(&mut stream, HELLO_BYTES_MAX).next().await {
            Err(FrameError::Io(error)) => return Err(secure::why(error).into()),
            answer => answer?,
        };
        let by_us = |refusal| NoConnection::Refused { refusal, by_peer: false };
        match Welcome::decode(&answer) {
            Ok(Ok(by)) => {
                identity.fits(&by).map_err(by_us)?;
                if by.node != self.peer {
                    return Err(by_us(Refusal::Target));
                }
                self.shared.remember(&by).await.map_err(by_us)?;
                Ok(stream)
            }
            Ok(Err(refusal)) => Err(NoConnection::Refused { refusal, by_peer: true }),
            Err(NotAHandshake::Version) => Err(by_us(Refusal::Version)),
            Err(error) => Err(error.into()),
        }
    }

    /// Pauses, dropping what is queued meanwhile; no longer than the shortest pause once the peer was seen. `None`
    /// if the node is gone.
    async fn pause(&mut self, pause: Duration) -> Option<()> {
        let soonest = Instant::now() + pause.min(self.shared.config.backoff_min);
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = &mut until => return Some(()),
                () = self.kick.notified() => until.as_mut().reset(soonest),
                count = self.queue.messages.recv_many(&mut batch, BATCH_MAX) => {
                    if count == 0 {
                        return None;
                    }
                    let bytes = batch.iter().map(size_bytes).sum();
                    self.queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
                    self.shared.counts.messages_dropped.add(count as u64);
                    batch.clear();
                }
            }
        }
    }
}
