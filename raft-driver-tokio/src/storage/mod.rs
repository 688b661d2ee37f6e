//! Where log and snapshots survive: shipped stores, and the lanes that run any store beside the node.

pub mod durable;
mod lane;
mod memory;
pub(crate) mod snapshot_lane;
pub mod snapshots;

pub use durable::{
    DurableError, DurableLog, DurableReader, FileLayer, Identity, KNOWN_PEERS_MAX, KnownPeers, OpenError,
    PeerRefused,
};
pub(crate) use lane::LogLane;
pub use memory::{MemoryLog, MemoryLogError, MemoryReader};
pub use snapshots::{MemorySnapshots, SnapshotFileError, SnapshotFiles};
