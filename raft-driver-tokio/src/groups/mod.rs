//! Many Raft groups in one process: one store, one set of connections, groups that come and go.
//!
//! A group is a cluster of its own, with its own log, leader and members; a process that takes part in many of them has
//! the same [`NodeId`](raft_core::NodeId) in all. [`Groups`] starts, finds, stops and removes them, and each is used
//! through its own [`Raft`] handle, as a single one would be.
//!
//! * Groups share a store (one file, one fsync for all that waits) and the connections between two processes (what groups
//!   have to say at the same moment leaves in one write); nothing else. The failure of one stops only that one.
//! * Timers of all groups fire on a common grid ([`Builder::timer_step`], by default an eighth of the heartbeat
//!   interval), so that heartbeats of a pair of processes travel together, and an idle process wakes seldom.
//! * Nothing is removed that another member may still rely on: [`Groups::remove`] refuses while this node is a member.
//!
//! ```no_run
//! # use raft_core::host::StateMachine;
//! use raft_core::{Config, NodeId};
//! use raft_driver_tokio::groups::{DurableStores, Groups};
//! use raft_driver_tokio::storage::Identity;
//! use raft_driver_tokio::tcp::{Tcp, TcpConfig};
//! use raft_driver_tokio::{Builder, ClusterId, GroupId};
//!
//! # async fn run<S: StateMachine + Default>() -> Result<(), Box<dyn std::error::Error>> {
//! let (cluster, node) = (ClusterId::new(7), NodeId::new(1));
//! let config = Config::new(node);
//! let stores = DurableStores::open("/var/lib/shards-1", Identity { cluster, node })?;
//! let network = TcpConfig { known_peers: Some(stores.log().peers()), ..TcpConfig::new(cluster) };
//! let network = Tcp::bind("127.0.0.1:7101", network).await?.into_hub(&config);
//! let groups = Groups::new(Builder::new(config), stores, network);
//!
//! // Those that were here before, then a new one.
//! for group in groups.stored().await? {
//!     groups.start(group, S::default()).await?;
//! }
//! let orders = groups.start(GroupId::new(12), S::default()).await?;
//! orders.bootstrap([(node, "127.0.0.1:7101".into()), (NodeId::new(2), "127.0.0.1:7102".into())].into()).await?;
//! // ...
//! groups.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod parts;
mod registry;

#[cfg(doc)]
use crate::{Builder, Raft};
pub use parts::{DurableStores, DurableStoresError, GroupNetwork, GroupStores, MemoryStores};
pub use registry::{Groups, RemoveError, StartGroupError};
