//! The receiving side: accepts connections, admits those that belong here, and has their messages read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use raft_core::NodeId;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::tcp::Refused;
use crate::tcp::frame::{self, FrameError, FrameReader};
use crate::tcp::handshake::{HELLO_BYTES_MAX, Hello, NotAHandshake, Refusal, Welcome};
use crate::tcp::receive::receive;
use crate::tcp::shared::{Admitted, Shared};
use crate::tcp::stream::Stream;

/// How long to wait after the system could not accept: it is out of something, most likely of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until the transport stops.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let handshakes = Arc::new(Semaphore::new(shared.config.handshakes_max));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => match Arc::clone(&handshakes).try_acquire_owned() {
                Ok(place) => {
                    let task = serve(Arc::clone(&shared), stream, from, place);
                    shared.spawn(shared.stop.clone(), task);
                }
                Err(_) => shared.counts.refused_full.one(),
            },
            Err(error) => {
                tracing::warn!(id = %shared.identity.node, %error, "raft.tcp.accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One connection, from its handshake to its end.
async fn serve(shared: Arc<Shared>, stream: TcpStream, from: SocketAddr, place: OwnedSemaphorePermit) {
    let greeting = tokio::time::timeout(shared.config.handshake_timeout, greet(&shared, stream, from));
    let Ok(Some((admitted, mut reader))) = greeting.await else {
        shared.counts.inbound_failures.one();
        return;
    };
    drop(place);
    let link = shared.inbox.link(shared.config.inbound_bytes_max);
    let reading = receive(&shared, &admitted, &mut reader, &link);
    if let Some(Err(reason)) = admitted.replaced.run_until_cancelled(reading).await {
        tracing::debug!(id = %shared.identity.node, peer = %admitted.peer, %reason, "raft.tcp.closed");
    }
    shared.counts.inbound_closed.one();
}

/// The handshake. `None` if the connection is of no use; whoever is owed a reason got it.
async fn greet(
    shared: &Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
) -> Option<(Admitted, FrameReader<Stream>)> {
    shared.tune(&stream).ok()?;
    let mut reader = FrameReader::new(Stream::Plain(stream), HELLO_BYTES_MAX);
    let hello = match reader.next().await {
        Ok(frame) => Hello::decode(&frame),
        Err(FrameError::Oversized) => Err(NotAHandshake::Field),
        Err(FrameError::Closed | FrameError::Io(_)) => return None,
    };
    let (peer, verdict) = match hello {
        Ok(hello) => (hello.from.node, shared.admit(&hello)),
        // Its name stands behind what may have changed with the version.
        Err(NotAHandshake::Version) => (NodeId::new(0), Err(Refusal::Version)),
        Err(error) => {
            shared.counts.malformed.one();
            tracing::warn!(id = %shared.identity.node, %from, %error, "raft.tcp.malformed");
            return None;
        }
    };
    let welcome =
        Welcome { verdict: verdict.as_ref().map(|_| ()).map_err(|refusal| *refusal), by: shared.identity };
    let mut out = Vec::new();
    frame::append(&mut out, shared.config.frame_bytes_max, |out| welcome.encode(out))?;
    let sent = async {
        reader.io().write_all(&out).await?;
        reader.io().flush().await
    };
    let sent = sent.await;
    match (verdict, sent) {
        (Ok(admitted), Ok(())) => {
            reader.set_limit(shared.config.frame_bytes_max as usize);
            Some((admitted, reader))
        }
        (Ok(_), Err(_)) => None,
        (Err(refusal), _) => {
            shared.refused(Refused { peer, address: from.to_string(), by_peer: false, refusal }, true);
            None
        }
    }
}
