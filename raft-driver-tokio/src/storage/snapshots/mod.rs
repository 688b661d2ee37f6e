//! Where snapshots are kept (§7): in memory, or as files.
//!
//! The digest of a snapshot is the 64-bit XXH3 of its bytes, in both.

mod backup;
mod error;
mod file;
mod files;
mod memory;
mod room;

pub use backup::BackupFile;
pub use error::SnapshotFileError;
pub use files::{FileWriter, SnapshotFiles};
pub use memory::{MemorySnapshots, MemoryWriter};
