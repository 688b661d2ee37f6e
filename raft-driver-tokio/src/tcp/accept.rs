//! The receiving side: accepts connections, admits those that belong here, and has their messages read.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raft_core::NodeId;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::tcp::door::Place;
use crate::tcp::frame::{self, FrameError, FrameReader};
use crate::tcp::handshake::{HELLO_BYTES_MAX, Hello, NotAHandshake, Welcome};
use crate::tcp::penalty::Offence;
use crate::tcp::receive::receive;
#[cfg(feature = "tls")]
use crate::tcp::secure::Insecure;
use crate::tcp::secure::{self, Accepted};
use crate::tcp::shared::{Admitted, Shared};
use crate::tcp::stream::Stream;
use crate::tcp::{Refusal, Refused};

/// How long to wait after the system could not accept: it is out of something, most likely of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until the transport stops.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let mut failing = false;
    loop {
        let accepted = listener.accept().await;
        let was_failing = std::mem::replace(&mut failing, accepted.is_err());
        match accepted {
            // Dropped at once: it costs nothing but this.
            Ok((_, from)) if shared.door.is_shut_out(from.ip()) => shared.counts.refused_shut_out.one(),
            Ok((stream, from)) => {
                let (place, is_full) = shared.door.enter(from.ip());
                if is_full {
                    shared.counts.refused_full.one();
                }
                let task = serve(Arc::clone(&shared), stream, from, place);
                shared.spawn(shared.stop.clone(), task);
            }
            Err(error) => {
                // Once, until it works again.
                if !was_failing {
                    tracing::warn!(id = %shared.identity.node, %error, "raft.tcp.accept");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection, from its handshake to its end.
async fn serve(shared: Arc<Shared>, stream: TcpStream, from: SocketAddr, place: Place) {
    let Some((admitted, mut reader)) = begin(&shared, stream, from, place).await else {
        shared.counts.inbound_failures.one();
        return;
    };
    let reading = receive(&shared, &admitted, &mut reader);
    if let Some(Err(reason)) = admitted.replaced.run_until_cancelled(reading).await {
        tracing::debug!(id = %shared.identity.node, peer = %admitted.peer, %reason, "raft.tcp.closed");
        if reason.is_offence() {
            shared.offence(from, admitted.peer, Offence::Malformed);
        }
    }
    shared.counts.inbound_closed.one();
}

/// The handshake, as long as there is time and room for it.
async fn begin(
    shared: &Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    place: Place,
) -> Option<(Admitted, FrameReader<Stream>)> {
    let greeting = tokio::time::timeout(shared.config.handshake_timeout, greet(shared, stream, from));
    match place.lost.run_until_cancelled(greeting).await {
        Some(Ok(greeted)) => greeted,
        Some(Err(_)) => {
            shared.counts.stalled.one();
            tracing::debug!(id = %shared.identity.node, %from, "raft.tcp.stalled");
            None
        }
        None => None,
    }
}

/// The handshake. `None` if the connection is of no use; whoever is owed a reason got it.
async fn greet(
    shared: &Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
) -> Option<(Admitted, FrameReader<Stream>)> {
    shared.tune(&stream).ok()?;
    let nobody = NodeId::new(0);
    let refused = |refusal, by_peer| Refused { peer: nobody, address: from.to_string(), by_peer, refusal };
    let (stream, verdict) = match secure::accept(&shared.config, stream).await.ok()? {
        Accepted::Ready(stream) => (stream, Ok(())),
        Accepted::Plain(stream) => (stream, Err(Refusal::Tls)),
        Accepted::Tls(stream) => {
            refuse(shared, stream, from, refused(Refusal::Tls, false)).await;
            return None;
        }
        #[cfg(feature = "tls")]
        Accepted::Failed(stream, why) => {
            match why {
                Insecure::Io(_) => return None,
                Insecure::Malformed(error) => malformed(shared, from, &error),
                Insecure::Refused { refusal, by_peer } => {
                    shared.refused(refused(refusal, by_peer));
                    shared.offence(from, nobody, Offence::Refused);
                }
            }
            secure::end(stream).await;
            return None;
        }
    };
    let mut reader = FrameReader::new(stream, HELLO_BYTES_MAX);
    let hello = match reader.next().await {
        Ok(frame) => Hello::decode(&frame),
        Err(FrameError::Oversized) => Err(NotAHandshake::Field),
        Err(FrameError::Closed | FrameError::Stalled | FrameError::Io(_)) => return None,
    };
    let (peer, verdict) = match (hello, verdict) {
        (Ok(hello), Ok(())) => (hello.from.node, judge(shared, reader.io(), &hello, from).await),
        (Ok(hello), Err(refusal)) => (hello.from.node, Err(refusal)),
        // Its name stands behind what may have changed with the version.
        (Err(NotAHandshake::Version), verdict) => (nobody, Err(verdict.err().unwrap_or(Refusal::Version))),
        (Err(error), _) => {
            malformed(shared, from, &error);
            return None;
        }
    };
    match verdict {
        Ok(admitted) => {
            welcome(shared, reader.io(), Ok(())).await.ok()?;
            let config = &shared.config;
            reader.set_limits(config.frame_bytes_max as usize, config.stall_timeout);
            Some((admitted, reader))
        }
        Err(refusal) => {
            refuse(shared, reader.into_io(), from, Refused { peer, ..refused(refusal, false) }).await;
            None
        }
    }
}

/// Whether a peer is who it says, and belongs here.
async fn judge(
    shared: &Arc<Shared>,
    stream: &Stream,
    hello: &Hello,
    from: SocketAddr,
) -> Result<Admitted, Refusal> {
    shared.identity.fits(&hello.from)?;
    if !secure::is(stream, hello.from.cluster, hello.from.node) {
        return Err(Refusal::Name);
    }
    if hello.to != shared.identity.node {
        return Err(Refusal::Target);
    }
    if hello.from.node == shared.identity.node {
        return Err(Refusal::OwnId);
    }
    // First: who is sent away all the same takes no place in the memory.
    shared.has_room(hello.from.node)?;
    shared.remember(&hello.from).await?;
    shared.admit(hello, hello.address_seen_from(from.ip()))
}

/// Tells the peer the verdict.
async fn welcome(shared: &Shared, stream: &mut Stream, verdict: Result<(), Refusal>) -> io::Result<()> {
    let mut out = Vec::new();
    frame::append(&mut out, shared.config.frame_bytes_max, |out| {
        Welcome { verdict, by: shared.identity }.encode(out);
    })
    .ok_or_else(|| io::Error::other("the handshake is longer than a frame"))?;
    stream.write_all(&out).await?;
    stream.flush().await
}

/// Sends a peer away, and says why.
async fn refuse(shared: &Shared, mut stream: Stream, from: SocketAddr, refused: Refused) {
    let Refused { peer, refusal, .. } = refused;
    shared.refused(refused);
    // What is wrong at this node is no fault of the other.
    if !matches!(refusal, Refusal::Full | Refusal::Unremembered) {
        shared.offence(from, peer, Offence::Refused);
    }
    if welcome(shared, &mut stream, Err(refusal)).await.is_ok() {
        secure::end(stream).await;
    }
}

fn malformed(shared: &Shared, from: SocketAddr, error: &dyn std::error::Error) {
    shared.counts.malformed.one();
    tracing::warn!(id = %shared.identity.node, %from, %error, "raft.tcp.malformed");
    shared.offence(from, NodeId::new(0), Offence::Malformed);
}
