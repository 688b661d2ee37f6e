//! What is queued for one peer, and the loop that writes it into a connection.
//!
//! * Everything queued is encoded into one buffer and written at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use raft_core::{Message, NodeId};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use crate::tcp::frame;
use crate::tcp::shared::Shared;
use crate::tcp::stream::Stream;

/// Messages taken from the queue at once.
pub(crate) const BATCH_MAX: usize = 256;
/// The buffer is written when it holds this much, and given back if one message made it grow far beyond.
const WRITE_BYTES: usize = 128 * 1024;

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

/// Why a connection ended.
pub(crate) enum End {
    Lost(io::Error),
    /// The node is gone.
    Stopped,
}

impl Queue {
    /// Writes what is queued until the connection is lost.
    pub(crate) async fn pump(&mut self, shared: &Shared, peer: NodeId, stream: &mut Stream) -> End {
        let config = &shared.config;
        let counts = &shared.counts;
        let mut batch = Vec::new();
        let mut out = Vec::new();
        let mut nothing = [0; 1];
        loop {
            let count = tokio::select! {
                count = self.messages.recv_many(&mut batch, BATCH_MAX) => count,
                // The peer never says anything here: this is the end of the connection, or a mistake.
                read = stream.read(&mut nothing) => {
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
                self.bytes.fetch_sub(size_bytes(&message), Ordering::Relaxed);
                if frame::append_message(&mut out, config.frame_bytes_max, &message).is_none() {
                    // Never by configuration: a frame holds the longest append.
                    tracing::error!(%peer, "raft.tcp.message_too_long");
                    counts.messages_dropped.one();
                    continue;
                }
                counts.messages_sent.one();
                if out.len() >= WRITE_BYTES {
                    if let Err(error) = write(stream, &out, config.write_timeout).await {
                        return End::Lost(error);
                    }
                    counts.bytes_sent.add(out.len() as u64);
                    out.clear();
                }
            }
            if let Err(error) = write(stream, &out, config.write_timeout).await {
                return End::Lost(error);
            }
            counts.bytes_sent.add(out.len() as u64);
            out.clear();
            out.shrink_to(4 * WRITE_BYTES);
        }
    }
}

/// Writes all of `bytes`, as long as the peer takes some of them within each `limit`.
pub(crate) async fn write(
    writer: &mut (impl AsyncWrite + Unpin),
    mut bytes: &[u8],
    limit: Duration,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(limit, writer.write(bytes)).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
    }
    // TLS keeps what the socket did not take.
    timeout(limit, writer.flush()).await?
}
