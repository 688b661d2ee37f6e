//! The promises of stores and state machines, checked: for tests of your own [`LogStore`], [`SnapshotStore`] and
//! [`StateMachine`]. Behind the feature `testing`, so that programs do without it.
//!
//! A check makes up histories of calls, compares what the store says with what a naive list would, lets it crash after
//! and within calls, opens it on what is left, and goes on. The first promise that is broken is reported in the words of
//! the trait's documentation, with the shortest history found.
//!
//! ```
//! use std::{io, sync::Arc};
//! use raft_driver_tokio::storage::{DurableLog, Identity, OpenError};
//! use raft_driver_tokio::testing::{LogCheck, SimulatedDisk};
//!
//! // Your store in place of this one.
//! let identity = Identity { cluster: raft_driver_tokio::ClusterId::new(7), node: raft_core::NodeId::new(1) };
//! let open = |disk: &SimulatedDisk| {
//!     if disk.open("log").is_err() {
//!         let file = disk.create("log.new")?;
//!         DurableLog::create_on(file.layer(), identity).map_err(io::Error::other)?;
//!         file.sync()?;
//!         disk.rename("log.new", "log")?;
//!         disk.sync_names()?;
//!     }
//!     DurableLog::open_on(disk.open("log")?.layer(), identity).map_err(io::Error::other)
//! };
//! let passed = LogCheck::new().seeds(0..1).steps(10).run(open).unwrap();
//! assert!(passed.crashes > 100);
//! ```
//!
//! A store that lives in a directory is opened there: `LogCheck::new().run(|dir: &Directory| MyLog::open(dir.path()))`.
//!
//! # What is noticed, and what is not
//!
//! | the store lives on | crashes | a missing fsync | a write that a crash tears |
//! |---|---|---|---|
//! | [`SimulatedDisk`] | before and after each operation on the disk; kills, losses of power, failing operations | yes | yes |
//! | [`Directory`] | after each call: what `kill -9` leaves | **no** | no |
//! | a process of its own, [`LogCheck::run_killed`] | at any moment, by a real kill | **no** | no |
//! | [`Survives`] | none: the store is dropped and opened again | no | no |
//!
//! * A store whose files cannot be replaced is a closed box: nothing here sees whether it calls `fsync`, since the
//!   operating system shows every process what was written, synced or not. Let your store do its IO through a trait of
//!   its own with a few methods (or [`FileLayer`](crate::storage::FileLayer)), implement that for [`SimulatedFile`], and
//!   all of it is noticed.
//! * A store with `async` methods is checked within [`Blocking`].
//! * A copy of a directory is made between calls. Background threads of a store are caught at whatever they do then.
//! * Histories are made up by a generator: what a check did not find may still be there. More seeds find more.
//!
//! [`LogStore`]: raft_core::host::LogStore
//! [`SnapshotStore`]: raft_core::host::SnapshotStore
//! [`StateMachine`]: raft_core::host::StateMachine

mod blocking;
mod disk;
mod entries;
mod log;
mod machine;
mod medium;
mod promise;
mod report;
mod snapshots;

pub use blocking::{Blocking, BlockingReader};
pub use disk::{SimulatedDisk, SimulatedFile};
pub use log::LogCheck;
pub use machine::MachineCheck;
pub use medium::{Crashed, Directory, Medium, Survives};
pub use promise::Promise;
pub use report::{Broken, Passed};
pub use snapshots::SnapshotCheck;
