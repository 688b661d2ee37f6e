//! The sending side of one peer: connects, says who it is, and writes what is queued.
//!
//! * Everything queued is encoded into one buffer and written at once.
//! * While it pauses after a failure, what is queued is dropped: it would be stale when it arrived.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use raft_core::{Message, NodeId};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout};

use crate::tcp::Refused;
use crate::tcp::frame::{self, FrameError, FrameReader};
use crate::tcp::handshake::{HELLO_BYTES_MAX, Hello, NotAHandshake, Refusal, Welcome};
use crate::tcp::shared::Shared;

/// Messages taken from the queue at once.
const BATCH_MAX: usize = 256;
/// The buffer is written when it holds this much, and given back if one message made it grow far beyond.
const WRITE_BYTES: usize = 128 * 1024;
/// A connection that lasted for this long was a good one: the next pause is the shortest.
const GOOD: Duration = Duration::from_secs(5);

/// What is queued for one peer.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) messages: Receiver<Message>,
    /// About how many bytes wait.
    pub(crate) bytes: Arc<AtomicU64>,
}

/// About what a message takes up.
pub(crate) fn size_bytes(message: &Message) -> u64 {
    const MESSAGE_BYTES: u64 = 64;
    MESSAGE_BYTES
        + match &message.body {
            raft_core::Body::AppendEntries { entries, .. } => entries.size_bytes(),
            raft_core::Body::InstallSnapshot { data, .. } => data.len() as u64,
            _ => 0,
        }
}

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
    #[error("not a node: {0}")]
    NotANode(#[from] NotAHandshake),
    #[error("refused: {refusal}")]
    Refused { refusal: Refusal, by_peer: bool },
}

impl From<tokio::time::error::Elapsed> for NoConnection {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::TimedOut
    }
}

/// Why a connection ended.
enum End {
    Lost(io::Error),
    /// The node is gone.
    Stopped,
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
                Ok((reader, writer)) => {
                    counts.connects.one();
                    told = None;
                    reached = true;
                    tracing::info!(%id, %peer, "raft.tcp.connected");
                    let since = Instant::now();
                    let End::Lost(error) = self.pump(reader, writer).await else { return };
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
    async fn connect(&self) -> Result<(OwnedReadHalf, OwnedWriteHalf), NoConnection> {
        let config = &self.shared.config;
        let stream = timeout(config.connect_timeout, TcpStream::connect(&*self.address)).await??;
        timeout(config.handshake_timeout, self.greet(stream)).await?
    }

    async fn greet(&self, stream: TcpStream) -> Result<(OwnedReadHalf, OwnedWriteHalf), NoConnection> {
        let Shared { identity, address, config, .. } = &*self.shared;
        self.shared.tune(&stream)?;
        let (mut reader, mut writer) = stream.into_split();
        let hello = Hello { from: *identity, to: self.peer, address: address.clone() };
        let mut out = Vec::new();
        frame::append(&mut out, config.frame_bytes_max, |out| hello.encode(out))
            .ok_or_else(|| io::Error::other("the handshake is longer than a frame"))?;
        writer.write_all(&out).await?;
        let answer = FrameReader::new(&mut reader, HELLO_BYTES_MAX).next().await?;
        let by_us = |refusal| NoConnection::Refused { refusal, by_peer: false };
        match Welcome::decode(&answer) {
            Ok(Ok(by)) => {
                identity.fits(&by).map_err(by_us)?;
                if by.node != self.peer {
                    return Err(by_us(Refusal::Target));
                }
                Ok((reader, writer))
            }
            Ok(Err(refusal)) => Err(NoConnection::Refused { refusal, by_peer: true }),
            Err(NotAHandshake::Version) => Err(by_us(Refusal::Version)),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what is queued until the connection is lost.
    async fn pump(&mut self, mut reader: OwnedReadHalf, mut writer: OwnedWriteHalf) -> End {
        let config = &self.shared.config;
        let counts = &self.shared.counts;
        let mut batch = Vec::new();
        let mut out = Vec::new();
        let mut nothing = [0; 1];
        loop {
            let count = tokio::select! {
                count = self.queue.messages.recv_many(&mut batch, BATCH_MAX) => count,
                // The peer never says anything here: this is the end of the connection, or a mistake.
                read = reader.read(&mut nothing) => {
                    let error = match read {
                        Ok(0) => io::ErrorKind::ConnectionReset.into(),
                        Ok(_) => io::Error::other("the peer sent something"),
                        Err(error) => error,
                    };
                    return End::Lost(error);
                }
            };
            if count == 0 {
                return End::Stopped;
            }
            for message in batch.drain(..) {
                self.queue.bytes.fetch_sub(size_bytes(&message), Ordering::Relaxed);
                if frame::append_message(&mut out, config.frame_bytes_max, &message).is_none() {
                    // Never by configuration: a frame holds the longest append.
                    tracing::error!(peer = %self.peer, "raft.tcp.message_too_long");
                    counts.messages_dropped.one();
                    continue;
                }
                counts.messages_sent.one();
                if out.len() >= WRITE_BYTES {
                    if let Err(error) = write(&mut writer, &out, config.write_timeout).await {
                        return End::Lost(error);
                    }
                    counts.bytes_sent.add(out.len() as u64);
                    out.clear();
                }
            }
            if let Err(error) = write(&mut writer, &out, config.write_timeout).await {
                return End::Lost(error);
            }
            counts.bytes_sent.add(out.len() as u64);
            out.clear();
            out.shrink_to(4 * WRITE_BYTES);
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

/// Writes all of `bytes`, as long as the peer takes some of them within each `limit`.
async fn write(writer: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8], limit: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(limit, writer.write(bytes)).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
    }
    Ok(())
}
