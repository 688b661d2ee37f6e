//! Logs on a disk that survive `kill -9` and a loss of power, in one file of the embedded store [redb]: one, as a
//! [`DurableLog`], or those of several groups, as a [`DurableStore`].
//!
//! * What [`write`](raft_core::host::LogStore::write) returned for is read back, byte for byte, by every later start, or the start
//!   fails with an error that says why. Nothing is cut silently.
//! * A batch is part of one commit and one fsync: hard state, truncation and entries become durable together.
//!   Batches of several groups that wait share commit and fsync.
//! * A commit of up to 256 KiB that only appends goes into a *journal*, a region of the file that is written from front to back:
//!   one write and one fsync of as many pages as it needs. When the journal is full, or something else is to be done, redb gets
//!   all of it in one transaction, for which other writes of the store wait: some milliseconds. Until then it is in memory too,
//!   768 KiB at most, and what the buffers hold that the entries came in.
//! * Compaction drops whole blocks, a bounded number at once, so that it stops no write for long.
//! * What is read is compared with its checksum first, at start and in every read.
//! * After the first failure nothing is tried again: every later call of store and readers fails. If the file failed, it is
//!   not written or synced any more, not even when it is closed. What a group's log does not allow is the failure of that
//!   group alone.
//! * One process at a time: a second opener is refused.
//!
//! # Why redb
//!
//! Batches of 256-byte entries, each made durable, as a fraction of a preallocated plain file with `fdatasync`
//! (6,904, 4,521 and 2,038 a second there; ext4, two cores; medians of 7 rounds). A batch is stored as records of
//! many entries, which fill redb's pages:
//!
//! | store | 1 entry | 64 | 1,024 | three at once: 1 | 64 | 1,024 | crates |
//! |---|--:|--:|--:|--:|--:|--:|--:|
//! | raft-engine 0.4.2, record per batch | 1.03 | 0.82 | 1.03 | 1.09 | 1.06 | 1.11 | 68 to 86 |
//! | fjall 3.1.13, record per batch | 1.04 | 0.83 | 0.54 | 1.17 | 1.22 | 0.84 | 40 |
//! | redb 4.5.0, entry per record | 0.49 | 0.44 | 0.23 | 0.45 | 0.63 | 0.29 | 2 |
//! | redb 4.5.0, record per batch | 0.49 | 0.46 | 0.50 | 0.45 | 0.76 | 0.49 | 2 |
//! | redb 4.5.0, records that fill pages (60 and 1,000 entries) | | 0.88 | 0.96 | | 0.87 | 0.86 | 2 |
//!
//! `cargo bench --bench durable` repeats this for the log as it is, against a plain file.
//!
//! redb alone is the slowest for a single small entry (it writes 7 pages where an appended file writes one), which is why there is
//! a journal before it, and was chosen for what it does when things go wrong:
//!
//! * raft-engine in its default mode cut intact records behind a damaged one, silently; in its strict mode it
//!   refused to start after any kill. An fsync error panics. Its last release is of April 2024.
//! * fjall cut silently at damage in the middle of its journal (fjall-rs/fjall#311), and its files cannot be
//!   replaced by ones that inject faults.
//! * redb checks every page against a tree of checksums at start, refused all damage that was tried except a torn
//!   last commit, returns errors and stays failed, and does all of its IO through one trait, so that the tests
//!   here run over a disk that drops and tears what was not synced. It is well kept: a release a month.
//!
//! # What is checked when
//!
//! A start reads the whole file: redb verifies its checksums from the root to every page (0.2 to 0.4 s for 500 MB),
//! and [`recover`](raft_core::host::LogStore::recover) compares each block's own CRC-32. The first finds everything that is not as
//! redb wrote it; the second costs no further IO, since redb reads a value's page to show its header, and vouches
//! for the way into and out of redb. Entries are decoded only where a header does not say everything: memberships,
//! and blocks of several terms.
//!
//! # Limits
//!
//! * Directories that were deleted as a whole look like those of a new node, with another [`DirectoryId`]. Peers that
//!   remember the former one refuse such a node, see [`KnownPeers`]; where nobody does, nothing notices. Never start a
//!   node that had a directory again under the same id.
//! * An older copy of the log alone is refused if it was made before the latest start, see
//!   [`OpenError::RolledBack`]. One made after that start is not noticed, nor are older copies of both files, nor of
//!   the whole disk, nor an older log whose `raft-identity` was removed: never start a node from a backup or an
//!   older image of its disk.
//! * If power is lost *and* the pages of the very last commit rot, the start comes back one commit short: nothing
//!   on the disk tells this from a commit that the loss of power interrupted. Without a loss of power, or one commit
//!   earlier, it is noticed: see [`OpenError::RolledBack`]. If that commit was the one that emptied the journal, and the next one
//!   had already begun to write over it, what was in the journal then is gone with it.
//! * A start needs room on the disk for what is in the journal.
//! * After a failed fsync the operating system may show data that is not on the disk, to a process that is started anew too.
//!   Check the disk, and reboot or mount its file system anew before the next start; if in doubt, replace the node by one of a
//!   new id.
//! * The file does not shrink; the space of what was compacted or truncated is reused.
//! * A panic inside redb (it asserts on some damage in debug builds) is caught and counts as damage; not so with
//!   `panic = "abort"`.
//!
//! [redb]: https://docs.rs/redb
//! [`DirectoryId`]: crate::DirectoryId

mod directory;
mod engine;
mod error;
mod file;
mod group;
mod journal;
mod layout;
mod log;
mod peers;
mod pending;
mod read;
mod store;
mod until_failure;
mod write;

pub(super) use directory::{SYNC_DIRECTORY, create_directory, sync_ancestors, sync_directory};
pub use error::{DurableError, GroupError, OpenError};
pub(super) use file::IDENTITY_BYTES;
pub use file::{FileLayer, Identity};
pub use log::DurableLog;
pub use peers::{KNOWN_PEERS_MAX, KnownPeers, PeerRefused};
pub use read::DurableReader;
pub use store::{DurableStore, GroupLog};
