//! Recordings of a node's life: all that went into it, and enough of what came out to notice any difference. A node is
//! deterministic, so that an incident on another machine becomes a local run.
//!
//! [`RecordedNode`] writes them, [`Replay`] steps through them with the same core. Neither does IO.
//!
//! * A file replays alone. It begins with what a node started from, or with a *checkpoint*: all of a node. Once a file is
//!   long enough, the next one begins with a checkpoint.
//! * A step is on record before the node takes it in, so that one that panics is there to be looked at.
//! * When actions are taken is an input too, since they are built late: a step says how many were taken after the one
//!   before it.
//! * Payloads are in it, whole: whoever may read a recording may read what clients wrote.
//!
//! # Format
//!
//! Numbers are little endian. A file begins with:
//!
//! | bytes | field |
//! |--:|---|
//! | 8 | [`MAGIC`] |
//! | 2 | version: [`VERSION`] |
//! | 1, … | length and text: the version of this crate |
//! | … | frames |
//!
//! A checkpoint is a node's own memory, which changes from one release to the next: other releases' recordings are
//! refused. A frame:
//!
//! | bytes | field |
//! |--:|---|
//! | 4 | checksum of everything that follows, the length included |
//! | 8 | length of what follows, at least 1 |
//! | 1 | kind |
//! | … | content |
//!
//! | kind | frame | content |
//! |--:|---|---|
//! | 0 | start, only the first | configuration, recovery, time |
//! | 1 | checkpoint, only the first | how many steps there were before, node |
//! | 2 | step | account of the actions before it, time, event |
//! | 3 | end, only the last | account of the last actions |
//!
//! A file without an end was cut short, by a crash for example: all that is whole replays, only the last step's actions
//! cannot be verified. The account is an [`Account`]; all values are written field by field: numbers as wide as their
//! type, lengths in 8 bytes, the number of a variant in 1.

mod codec;
mod recorder;
mod replay;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::error::StartError;
use crate::time::Instant;

pub use recorder::{RecordedNode, RecorderOptions, RecordingPart};
pub use replay::{Divergence, Ending, Replay, ReplayError, Replayed};

/// How a recording begins: what tells it from other files.
pub const MAGIC: [u8; 8] = *b"\x89raftrec";

/// The version of the format. Others are refused.
pub const VERSION: u16 = 8;

/// The release whose nodes replay what its own nodes did.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// A checksum of bytes, chosen by the host. All that is shipped uses CRC-32.
pub type Checksum = fn(&[u8]) -> u32;

/// What came out of a node between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Account {
    /// How many actions were taken.
    pub actions: u64,
    /// Whether there was none left.
    pub drained: bool,
    /// The checksum of them all, and of the error of the step, if it returned one. Of long payloads it covers the length
    /// and both ends only: a node passes payloads on and never looks into them.
    pub digest: u32,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { actions, drained, digest } = self;
        write!(f, "{actions} actions{} (digest {digest:08x})", if *drained { " and no more" } else { "" })
    }
}

/// Why a recording cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// It does not begin as recordings do.
    #[error("not a recording of a node")]
    NotARecording,
    /// It was made by a node of another release, in which the same may not happen. Replay it with that release.
    #[error("a recording of raft-core {release} (format {format}), which only that release can replay")]
    Release {
        /// The other version of the format.
        format: u16,
        /// The other version of this crate.
        release: String,
    },
    /// Nothing of it is whole: the first frame is cut short, or damaged.
    #[error("the recording is cut short or damaged from its beginning on")]
    Damaged,
    /// A frame is whole and cannot be understood: it was altered, or no recorder wrote it.
    #[error("the frame at byte {offset} makes no sense: {what}")]
    Senseless {
        /// Where the frame begins.
        offset: usize,
        /// What is wrong with it.
        what: String,
    },
    /// No node starts from what it begins with: it was altered, or no recorder wrote it.
    #[error("the node does not start: {0}")]
    Start(#[from] StartError),
}

/// What stands in a file: borrowed from a node when written, owned when read.
#[derive(serde::Serialize, serde::Deserialize)]
enum Frame<C, R, N, E> {
    Start(C, R, Instant),
    Checkpoint(u64, N),
    Step(Account, Instant, E),
    End(Account),
}

/// Length and kind of a frame.
const FRAME_BYTES_MIN: usize = 8 + 1;

fn put_header(out: &mut Vec<u8>) {
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.push(u8::try_from(RELEASE.len()).expect("a version of a few letters"));
    out.extend_from_slice(RELEASE.as_bytes());
}

/// What follows the header of a file that this release has written.
fn after_header(file: &[u8]) -> Result<&[u8], RecordingError> {
    let rest = file.strip_prefix(&MAGIC).ok_or(RecordingError::NotARecording)?;
    let (version, rest) = rest.split_first_chunk().ok_or(RecordingError::Damaged)?;
    let (length, rest) = rest.split_first().ok_or(RecordingError::Damaged)?;
    let (release, rest) = rest.split_at_checked((*length).into()).ok_or(RecordingError::Damaged)?;
    let format = u16::from_le_bytes(*version);
    if (format, release) != (VERSION, RELEASE.as_bytes()) {
        return Err(RecordingError::Release { format, release: String::from_utf8_lossy(release).into() });
    }
    Ok(rest)
}

fn put_frame<C, R, N, E>(frame: &Frame<C, R, N, E>, checksum: Checksum, out: &mut Vec<u8>)
where
    Frame<C, R, N, E>: serde::Serialize,
{
    let start = out.len();
    out.extend_from_slice(&[0; 4 + 8]);
    codec::encode(frame, out);
    let length = (out.len() - start - 4 - 8) as u64;
    out[start + 4..start + 4 + 8].copy_from_slice(&length.to_le_bytes());
    let sum = checksum(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&sum.to_le_bytes());
}

/// The content of the first frame and what follows it, if the frame is whole.
fn split_frame(bytes: &[u8], checksum: Checksum) -> Option<(&[u8], &[u8])> {
    let (sum, covered) = bytes.split_first_chunk()?;
    let (length, content) = covered.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    let (content, after) = content.split_at_checked(length)?;
    let covered = &covered[..covered.len() - after.len()];
    let whole = covered.len() >= FRAME_BYTES_MIN && checksum(covered) == u32::from_le_bytes(*sum);
    whole.then_some((content, after))
}
