//! The sending side of one connection to a peer: connects, says who it is, and has what is queued written.
//!
//! * While it pauses after a failure, what is queued is dropped: it would be stale when it arrived.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::tcp::frame::{self, FrameError, FrameReader};
use crate::tcp::handshake::{Agreed, HELLO_BYTES_MAX, Hello, NotAHandshake, Welcome};
use crate::tcp::peers::Peer;
use crate::tcp::pump::pump;
use crate::tcp::queue::Lane;
use crate::tcp::secure::{self, Insecure};
use crate::tcp::shared::Shared;
use crate::tcp::stream::Stream;
use crate::tcp::{Refusal, Refused};

/// A connection that lasted for this long was a good one: the next pause is the shortest.
const GOOD: Duration = Duration::from_secs(5);

/// One connection to a peer.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) lane: Lane,
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
    /// Runs until it is given up: a peer that is no member, and no longer speaks.
    pub(crate) async fn run(self) {
        let Self { shared, peer, lane } = &self;
        let (id, counts) = (shared.identity.node, &shared.counts);
        let mut pause = shared.config.backoff_min;
        // Changes are told once; a peer that stays away is not news.
        let mut reached = true;
        let mut paused = false;
        let mut attempts = 0;
        // Behind the last address was another, or nobody who speaks as a node does.
        let mut misled = false;
        while let Some((address, stale)) = peer.address(attempts) {
            let peer_id = peer.id;
            match stale.run_until_cancelled(self.connect(&address, &mut misled)).await {
                None => {}
                Some(Ok((mut stream, Agreed { protocol, wire }))) => {
                    counts.connects.one();
                    reached = true;
                    if std::mem::take(&mut paused) {
                        // What was dropped meanwhile need not be waited for: it can be sent now.
                        shared.registry.unreachable(peer_id);
                    }
                    tracing::info!(%id, peer = %peer_id, ?lane, protocol, wire, "raft.tcp.connected");
                    let since = Instant::now();
                    let pumping = stale.run_until_cancelled(pump(shared, peer, *lane, &mut stream));
                    let error = pumping.await.unwrap_or_else(|| io::Error::other("it is reached elsewhere"));
                    counts.disconnects.one();
                    tracing::info!(%id, peer = %peer_id, ?lane, %error, "raft.tcp.lost");
                    // What was on the way or queued is lost.
                    shared.registry.unreachable(peer_id);
                    if since.elapsed() >= GOOD {
                        pause = shared.config.backoff_min;
                    }
                }
                Some(Err(error)) => {
                    counts.connect_failures.one();
                    // Another address, if there is one.
                    attempts += 1;
                    let address = &*address;
                    if std::mem::take(&mut reached) {
                        tracing::info!(%id, peer = %peer_id, ?lane, address, %error, "raft.tcp.unreachable");
                        shared.registry.unreachable(peer_id);
                    } else {
                        tracing::debug!(%id, peer = %peer_id, ?lane, address, %error, "raft.tcp.unreachable");
                    }
                    if let NoConnection::Refused { refusal, by_peer } = error {
                        shared.refused(Refused {
                            peer: peer_id,
                            address: address.to_owned(),
                            by_peer,
                            refusal,
                        });
                    }
                }
            }
            if shared.give_up(peer) {
                return;
            }
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            pause = (pause * 2).min(shared.config.backoff_max);
            self.pause(jittered).await;
            paused = true;
        }
    }

    /// A connection whose handshake is over.
    async fn connect(&self, address: &str, misled: &mut bool) -> Result<(Stream, Agreed), NoConnection> {
        let config = &self.shared.config;
        let stream = timeout(config.connect_timeout, config.resolver.connect(address, *misled)).await??;
        *misled = true;
        let greeted = timeout(config.handshake_timeout, self.greet(stream)).await??;
        *misled = false;
        Ok(greeted)
    }

    async fn greet(&self, stream: TcpStream) -> Result<(Stream, Agreed), NoConnection> {
        let Shared { identity, address, config, .. } = &*self.shared;
        self.shared.tune(&stream)?;
        let mut stream = secure::connect(config, stream, self.peer.id).await?;
        let hello = Hello { from: *identity, to: self.peer.id, lane: self.lane, address: address.clone() };
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
                let agreed = identity.fits(&by).map_err(by_us)?;
                if by.node != self.peer.id {
                    return Err(by_us(Refusal::Target));
                }
                self.shared.remember(&by).await.map_err(by_us)?;
                Ok((stream, agreed))
            }
            Ok(Err(refusal)) => Err(NoConnection::Refused { refusal, by_peer: true }),
            Err(NotAHandshake::Version) => Err(by_us(Refusal::Version)),
            Err(error) => Err(error.into()),
        }
    }

    /// Pauses, dropping what is queued meanwhile; no longer than the shortest pause once the peer was seen.
    async fn pause(&self, pause: Duration) {
        let soonest = Instant::now() + pause.min(self.shared.config.backoff_min);
        let until = tokio::time::sleep(pause);
        tokio::pin!(until);
        let outbox = self.peer.outbox(self.lane);
        loop {
            self.shared.counts.messages_dropped.add(outbox.clear() as u64);
            tokio::select! {
                () = &mut until => return,
                () = self.peer.kick(self.lane).notified() => until.as_mut().reset(soonest),
                () = outbox.arrived() => {}
            }
        }
    }
}
