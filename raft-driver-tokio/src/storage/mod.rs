//! Where log and snapshots survive: shipped stores, and the lanes that run any store beside the node.

pub mod durable;
pub(crate) mod lane;
mod memory;
pub(crate) mod snapshot_lane;
pub mod snapshots;

pub use durable::{
    DurableError, DurableLog, DurableReader, DurableStore, FileLayer, GroupError, GroupLog, Identity,
    KNOWN_PEERS_MAX, KnownPeers, OpenError, PeerRefused,
};
pub use lane::{AsyncLog, NodeLog};
pub use memory::{MemoryLog, MemoryLogError, MemoryReader};
pub use snapshots::{BackupFile, MemorySnapshots, SnapshotFileError, SnapshotFiles};
