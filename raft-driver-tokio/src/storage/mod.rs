//! Where the log survives: shipped stores, and the lane that runs any store beside the node.

pub mod durable;
mod lane;
mod memory;

pub use durable::{DurableError, DurableLog, DurableReader, FileLayer, Identity, OpenError};
pub(crate) use lane::LogLane;
pub use memory::{MemoryLog, MemoryLogError, MemoryReader};
