//! A recorded life replays alone, file by file, and everything else is noticed: see `raft_core::host::recording`.
//!
//! * [`world`]: the servers that are recorded. Actions are built late, so when they are taken is an input too: they take
//!   a few at a time.
//! * [`lives`]: recordings replay to what was seen, whatever happened and however they were cut into files.
//! * [`differences`]: what is not what was recorded is found, at its first step.
//! * [`damage`]: files that are cut short, damaged or made up.

#![cfg(feature = "serde")]

#[path = "../support/mod.rs"]
mod support;

mod damage;
mod differences;
mod lives;
mod world;

use raft_core::host::recording::{Ending, Replay, ReplayError, Replayed};

/// All steps of a file, and how it ends.
fn replay(file: &[u8]) -> Result<(Vec<Replayed>, Option<Ending>), ReplayError> {
    let mut replay = Replay::open(file.to_vec().into(), crc32fast::hash)?;
    let mut steps = Vec::new();
    while let Some(step) = replay.next_step()? {
        steps.push(step);
    }
    Ok((steps, replay.ending()))
}

/// A file's header, and its frames with their checksum and length.
fn frames(file: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let header = 8 + 2 + 1 + usize::from(file[10]);
    let mut frames = Vec::new();
    let mut rest = &file[header..];
    while let Some(length) = rest.get(4..12) {
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        let (frame, after) = rest.split_at(12 + usize::try_from(length).expect("a short frame"));
        frames.push(frame.to_vec());
        rest = after;
    }
    (file[..header].to_vec(), frames)
}

/// Gives a frame that was altered the checksum that it should have.
fn seal(frame: &mut [u8]) {
    let sum = crc32fast::hash(&frame[4..]);
    frame[..4].copy_from_slice(&sum.to_le_bytes());
}
