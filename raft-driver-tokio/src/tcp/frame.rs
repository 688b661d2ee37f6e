//! Frames: a length in four bytes, little endian, and that many bytes. After the handshake these begin with the group
//! in eight bytes and the kind of what follows in one.
//!
//! * A frame that claims to be long costs no more memory than twice what has arrived of it, and a mebibyte.
//! * A large frame stays a slice of the buffer that it was received in; a small one is copied, because whoever keeps an
//!   entry of it would keep the whole buffer, whose other bytes no limit counts.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft_core::wire;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::cluster::GroupId;
use crate::tcp::queue::Parcel;

/// What is received is cut out of buffers of this size, unless a frame is longer.
const BUFFER_BYTES: usize = 64 * 1024;
/// Frames from this size on are not copied: they keep at most eight times their size.
const SLICED_BYTES_MIN: usize = 8 * 1024;
/// A buffer with less room than this is replaced.
const ROOM_BYTES_MIN: usize = 4 * 1024;
/// For a frame that claims to be longer, memory grows with what arrives.
const TRUSTED_BYTES: usize = 1024 * 1024;
const LENGTH_BYTES: usize = 4;

/// Reads frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    io: R,
    frame_bytes_max: usize,
    /// For the rest of a frame to go on arriving; `None` if whoever reads limits the time.
    stall_timeout: Option<Duration>,
    buffer: BytesMut,
}

/// Why there is no further frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("the connection was closed")]
    Closed,
    #[error("a frame above the limit")]
    Oversized,
    #[error("silence within a frame")]
    Stalled,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(io: R, frame_bytes_max: usize) -> Self {
        // Grows to its full size once the handshake is over.
        Self { io, frame_bytes_max, stall_timeout: None, buffer: BytesMut::new() }
    }

    /// The connection, to write to it.
    pub(crate) fn io(&mut self) -> &mut R {
        &mut self.io
    }

    /// The connection, once no more is read.
    pub(crate) fn into_io(self) -> R {
        self.io
    }

    /// From now on frames may be this long, and must not pause for longer.
    pub(crate) fn set_limits(&mut self, frame_bytes_max: usize, stall_timeout: Duration) {
        self.frame_bytes_max = frame_bytes_max;
        self.stall_timeout = Some(stall_timeout);
    }

    /// How much memory it holds.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    /// The length that the frame at the front claims to have, if that much is there.
    fn claimed(&self) -> Result<Option<usize>, FrameError> {
        let Some(length) = self.buffer.first_chunk() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > self.frame_bytes_max { Err(FrameError::Oversized) } else { Ok(Some(length)) }
    }

    /// The next frame, if it has been received already.
    pub(crate) fn buffered(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.claimed()? else { return Ok(None) };
        if self.buffer.len() - LENGTH_BYTES < length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH_BYTES);
        let frame = self.buffer.split_to(length);
        Ok(Some(match length < SLICED_BYTES_MIN {
            true => Bytes::copy_from_slice(&frame),
            false => frame.freeze(),
        }))
    }

    /// Makes room for what is to come: for all of a frame, unless it claims to be much longer than what has come of it.
    fn make_room(&mut self) -> Result<(), FrameError> {
        let received = self.buffer.len();
        let missing = match self.claimed()? {
            Some(length) => (LENGTH_BYTES + length - received).min(received.max(TRUSTED_BYTES)),
            None => 0,
        };
        let room = self.buffer.capacity() - received;
        if room < missing.max(ROOM_BYTES_MIN) {
            let least = if self.frame_bytes_max < BUFFER_BYTES { ROOM_BYTES_MIN } else { BUFFER_BYTES };
            self.buffer.reserve(missing.max(least));
        }
        Ok(())
    }

    /// The next frame. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Bytes, FrameError> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(frame);
            }
            self.make_room()?;
            let is_begun = !self.buffer.is_empty();
            let read = self.io.read_buf(&mut self.buffer);
            let count = match self.stall_timeout.filter(|_| is_begun) {
                Some(limit) => timeout(limit, read).await.map_err(|_| FrameError::Stalled)??,
                None => read.await?,
            };
            if count == 0 {
                return Err(FrameError::Closed);
            }
        }
    }
}

/// Appends a frame whose content `fill` writes. Returns its length, or `None` and nothing appended if it would be
/// longer than `frame_bytes_max`.
pub(crate) fn append(
    out: &mut Vec<u8>,
    frame_bytes_max: u32,
    fill: impl FnOnce(&mut Vec<u8>),
) -> Option<u32> {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_BYTES]);
    fill(out);
    let length = u32::try_from(out.len() - start - LENGTH_BYTES).ok().filter(|len| *len <= frame_bytes_max);
    match length {
        Some(length) => out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes()),
        None => out.truncate(start),
    }
    length
}

/// Bytes of a frame before its message.
pub(crate) const HEADER_BYTES: usize = 9;
const MESSAGE: u8 = 0;
const LETTER: u8 = 1;

/// Appends something of a group's as a frame.
pub(crate) fn append_parcel(
    out: &mut Vec<u8>,
    frame_bytes_max: u32,
    group: GroupId,
    parcel: &Parcel,
) -> Option<u32> {
    append(out, frame_bytes_max, |out| {
        out.put_u64_le(group.get());
        match parcel {
            Parcel::Message(message) => {
                out.put_u8(MESSAGE);
                wire::encode_message(message, out);
            }
            Parcel::Letter(letter) => {
                out.put_u8(LETTER);
                out.put_slice(letter);
            }
        }
    })
}

/// What a frame holds, before it is known whether anybody wants it.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) group: GroupId,
    kind: u8,
    bytes: Bytes,
}

impl Content {
    /// `None` if the frame is too short for any.
    pub(crate) fn of(mut frame: Bytes) -> Option<Self> {
        let group = GroupId::new(frame.try_get_u64_le().ok()?);
        Some(Self { group, kind: frame.try_get_u8().ok()?, bytes: frame })
    }

    /// # Errors
    /// If it is neither a message nor a letter.
    pub(crate) fn decode(self) -> Result<Parcel, NoParcel> {
        match self.kind {
            MESSAGE => Ok(Parcel::Message(wire::decode_message(self.bytes)?)),
            LETTER => Ok(Parcel::Letter(self.bytes)),
            kind => Err(NoParcel::Kind(kind)),
        }
    }
}

/// Bytes that nobody understands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoParcel {
    #[error("a frame that is too short")]
    Short,
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    #[error(transparent)]
    Message(#[from] wire::WireError),
}
