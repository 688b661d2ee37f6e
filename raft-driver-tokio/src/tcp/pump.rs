//! The loop that writes what is queued into one connection to a peer.
//!
//! * Whatever has gathered while the last write ran, of whichever group, is encoded into one buffer and written at once.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::tcp::frame;
use crate::tcp::peers::Peer;
use crate::tcp::queue::Lane;
use crate::tcp::shared::Shared;
use crate::tcp::stream::Stream;

/// About how much is written at once; the buffer is given back if one message made it grow far beyond.
const WRITE_BYTES: usize = 128 * 1024;
/// A buffer that held no more than this is kept while nothing is to be sent.
const KEPT_BYTES: usize = 16 * 1024;

/// Writes what is queued until the connection is lost; returns why it was.
pub(crate) async fn pump(shared: &Shared, peer: &Peer, lane: Lane, stream: &mut Stream) -> io::Error {
    let (config, counts) = (&shared.config, &shared.counts);
    let outbox = peer.outbox(lane);
    let mut batch = Vec::new();
    let mut out = Vec::new();
    let mut nothing = [0; 1];
    loop {
        outbox.take(WRITE_BYTES as u64, &mut batch);
        if batch.is_empty() {
            out.shrink_to(KEPT_BYTES);
            tokio::select! {
                () = outbox.arrived() => {}
                // The peer never says anything here: this is the end of the connection, or a mistake.
                read = stream.read(&mut nothing) => {
                    return match read {
                        Ok(0) => io::ErrorKind::ConnectionReset.into(),
                        Ok(_) => io::Error::other("the peer sent something"),
                        Err(error) => error,
                    };
                }
            }
            if lane == Lane::Control {
                // Whoever was woken at the same moment has something to say too: heartbeats of other groups.
                tokio::task::yield_now().await;
            }
            continue;
        }
        for (group, parcel) in batch.drain(..) {
            if frame::append_parcel(&mut out, config.frame_bytes_max, group, &parcel).is_none() {
                // Never by configuration: a frame holds the longest append.
                tracing::error!(peer = %peer.id, %group, "raft.tcp.message_too_long");
                counts.messages_dropped.one();
                continue;
            }
            counts.messages_sent.one();
        }
        if let Err(error) = write(stream, &out, config.write_timeout).await {
            return error;
        }
        outbox.written();
        counts.writes.one();
        counts.bytes_sent.add(out.len() as u64);
        out.clear();
        out.shrink_to(4 * WRITE_BYTES);
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
    // TLS keeps what the socket did not take.
    timeout(limit, writer.flush()).await?
}
