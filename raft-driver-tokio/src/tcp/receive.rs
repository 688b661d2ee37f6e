//! The loop that reads messages from one connection into the node.

use bytes::Bytes;
use raft_core::{NodeId, wire};

use crate::tcp::frame::{FrameError, FrameReader};
use crate::tcp::shared::{Admitted, Shared};
use crate::tcp::stream::Stream;
use crate::transport::{Closed, Link};

/// Why a connection was closed from this side, or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Malformed(#[from] wire::WireError),
    #[error("a message from {from} to {to}")]
    Misaddressed { from: NodeId, to: NodeId },
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Reads messages until something is wrong.
pub(crate) async fn receive(
    shared: &Shared,
    admitted: &Admitted,
    reader: &mut FrameReader<Stream>,
    link: &Link,
) -> Result<(), End> {
    loop {
        let end = match reader.next().await {
            Ok(frame) => match take(shared, admitted, frame, link).await {
                Ok(()) => continue,
                Err(end) => end,
            },
            Err(error) => error.into(),
        };
        let counts = &shared.counts;
        match &end {
            End::Frame(FrameError::Oversized) => counts.oversized.one(),
            End::Malformed(_) => counts.malformed.one(),
            End::Misaddressed { .. } => counts.misaddressed.one(),
            End::Frame(FrameError::Closed | FrameError::Io(_)) | End::Closed(_) => return Err(end),
        }
        tracing::warn!(id = %shared.identity.node, peer = %admitted.peer, error = %end, "raft.tcp.malformed");
        return Err(end);
    }
}

/// One message, once the node has room for it.
async fn take(shared: &Shared, admitted: &Admitted, frame: Bytes, link: &Link) -> Result<(), End> {
    let bytes = frame.len();
    let message = wire::decode_message(frame)?;
    let (from, to) = (message.from, message.to);
    if from != admitted.peer || to != shared.identity.node {
        return Err(End::Misaddressed { from, to });
    }
    shared.counts.messages_received.one();
    shared.counts.bytes_received.add(bytes as u64);
    Ok(link.deliver(message, bytes).await?)
}
