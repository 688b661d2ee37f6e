//! Runs [`raft-core`](raft_core) inside an [Actix](actix) actor.
//!
//! A [`Builder`] starts a [`Raft`] actor around a node. Everything goes in as a message and is answered as one:
//! [`ClientWrite`](messages::ClientWrite) and [`ClientRead`](messages::ClientRead) from clients,
//! [`RaftMessage`](messages::RaftMessage) from peers, [`InitWithConfig`](admin::InitWithConfig),
//! [`ProposeConfigChange`](admin::ProposeConfigChange) and others in [`admin`] from operators,
//! [`GetMetrics`](metrics::GetMetrics) from whoever wants to know. The node, the protocol, the formats on disks and
//! wires are those of `raft-driver-tokio`: nodes of both drivers form one cluster.
//!
//! ```
//! use raft_core::NodeId;
//! use raft_core::host::StateMachine;
//! use raft_driver_actix::admin::{InitWithConfig, Shutdown};
//! use raft_driver_actix::messages::{ClientWrite, ResponseMode};
//! use raft_driver_actix::storage::{MemoryLog, MemorySnapshots};
//! use raft_driver_actix::{Builder, Config};
//! use raft_driver_tokio::transport::Channels;
//!
//! async fn run<S: StateMachine>(machine: S) -> Result<(), Box<dyn std::error::Error>> {
//!     let id = NodeId::new(1);
//!     let builder = Builder::new(Config::build(id).validate()?);
//!     let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
//!     let raft = builder.start(log, snapshots, machine, Channels::default().endpoint()).await?;
//!     raft.send(InitWithConfig::new([(id, "here")])).await??;
//!     let written = raft.send(ClientWrite::new("hello", ResponseMode::Committed)).await??;
//!     println!("committed at {}", written.id());
//!     raft.send(Shutdown).await?;
//!     Ok(())
//! }
//! ```
//!
//! The [`guide`] begins with a [whole program](guide::getting_started); those who know actix-raft find
//! [each of its items](guide::coming_from_actix_raft) there.
//!
//! # What the application brings
//!
//! A state machine, or an [`Application`](raft_core::host::Application) with typed commands; a log store, a snapshot store and a
//! network, for each of which one is shipped. Log, state machine and network may be actors of its own: see [`storage`] and
//! [`network`].
//!
//! # What to know
//!
//! * `Addr::send` nests results: the outer one is Actix's `MailboxError`, the inner one says what became of the
//!   request. `Closed`: the actor is gone; it may have taken the request. `Timeout`: it did not answer within the limit
//!   that the caller set, and may do what was asked all the same. After either the outcome is unknown. Every error of a write says whether the command happened, and returns it if it did not: a
//!   follower answers [`WriteError::NotLeader`] with the leader and the command.
//! * Overload is answered `Busy`: by [`Builder::queue_bytes_max`] for writes, by the limits of [`raft_core::Config`] for the
//!   rest. That is the back-pressure. The mailbox's capacity holds back only `try_send`, and whoever sends again and again
//!   through one `Addr`: the first `send` of each clone is queued however full the mailbox is. `do_send` knows no limit.
//! * A node that fails (its log store, its state machine, a panic in either) stops at once and for good: whoever waits
//!   gets an error, later requests too, [`GetMetrics`](metrics::GetMetrics) and listeners tell the reason. Its actor
//!   stays until [`Shutdown`](admin::Shutdown) comes or its last address is dropped. Start the node anew when the cause
//!   is gone, or let [`Builder::supervise`] do so, where that is safe: not after a failure of the log store.
//! * A node whose last address is dropped stops. An address within one of its own listeners or its network counts too.
//!
//! # How it works
//!
//! Actix polls every future of an actor each time that the actor is woken, after it has emptied the mailbox. So there is
//! one future, for as long as the actor lives: it finds whatever has arrived as a batch, steps the node through it and
//! then performs its actions: one message to each follower, one write, one apply for all of it. A request does not
//! become a future; the sender of its reply waits in a queue.

mod actor;
pub mod admin;
mod builder;
mod config;
pub mod guide;
mod inbox;
pub mod messages;
pub mod metrics;
pub mod network;
pub mod storage;
mod supervise;

pub use actor::Raft;
pub use builder::Builder;
pub use config::{Config, ConfigBuilder, ConfigError};
#[doc(no_inline)]
pub use raft_driver_tokio::{
    AdminError, Certainty, Health, ReadError, Recording, Recovered, StartError, StopReason, WriteError,
};
pub use supervise::{Forgotten, Parts};
