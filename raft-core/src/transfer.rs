//! Snapshots on their way from a leader to a follower, chunk by chunk (§7: offset, data, done).
//!
//! * One chunk to a peer at a time; the next one is read meanwhile. A chunk without data asks the receiver how far it
//!   is, so a transfer goes on where it was after a loss, a reconnect, or under another leader with the same snapshot.
//! * Chunks join only when the whole [`SnapshotMeta`](crate::SnapshotMeta) is equal, else the receiver begins at offset 0
//!   (TRAP 43).

mod receiving;
mod sending;

pub(crate) use receiving::Receiving;
pub(crate) use sending::{Sending, Step};
