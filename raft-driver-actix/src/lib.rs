//! Runs [`raft-core`](raft_core) inside an [Actix](actix) actor.
//!
//! A [`Builder`] starts a [`Raft`] actor around a node. Everything goes in as a message and is answered as one:
//! [`ClientWrite`](messages::ClientWrite) and [`ClientRead`](messages::ClientRead) from clients,
//! [`RaftMessage`](messages::RaftMessage) from peers, [`InitWithConfig`](admin::InitWithConfig),
//! [`ChangeMembership`](admin::ChangeMembership) and others in [`admin`] from operators, [`GetMetrics`](metrics::GetMetrics) from whoever wants to know.
//!
//! ```
//! use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
//! use raft_core::{Entries, EntryRef, NodeId};
//! use raft_driver_actix::admin::{InitWithConfig, Shutdown};
//! use raft_driver_actix::messages::{ClientRead, ClientResponse, ClientWrite, ResponseMode};
//! use raft_driver_actix::metrics::{State, watch};
//! use raft_driver_actix::storage::{MemoryLog, MemorySnapshots};
//! use raft_driver_actix::{Builder, Config};
//! use raft_driver_tokio::transport::Channels;
//!
//! /// Adds up the lengths of all commands.
//! #[derive(Default)]
//! struct Total(u64);
//!
//! impl StateMachine for Total {
//!     type Response = u64;
//!     type Snapshot = WholeState;
//!     type Error = std::convert::Infallible;
//!
//!     fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Self::Error> {
//!         for entry in entries.iter() {
//!             if let EntryRef::Command(_, command) = entry {
//!                 self.0 += command.len() as u64;
//!                 responses.push(self.0);
//!             }
//!         }
//!         Ok(())
//!     }
//!
//!     fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
//!         Ok(WholeState::new(self.0.to_le_bytes().to_vec()))
//!     }
//!
//!     fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
//!         let mut total = [0; 8];
//!         source.read_exact(&mut total)?;
//!         self.0 = u64::from_le_bytes(total);
//!         Ok(())
//!     }
//! }
//!
//! #[actix::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let id = NodeId::new(1);
//!     let (listener, mut metrics) = watch();
//!     let builder = Builder::new(Config::build(id).validate()?).listener(listener);
//!     let network = Channels::default();
//!     let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
//!     let raft = builder.start(log, snapshots, Total::default(), network.endpoint()).await?;
//!
//!     // Once in the life of a cluster. Afterwards a node goes on from what its log store holds.
//!     raft.send(InitWithConfig::new([(id, "nowhere")])).await??;
//!     metrics.wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.state() == State::Leader)).await?;
//!
//!     let written = raft.send(ClientWrite::new("hello", ResponseMode::Applied)).await??;
//!     assert!(matches!(written, ClientResponse::Applied { response: 5, .. }));
//!     let total = raft.send(ClientRead::new(|machine: &Total| machine.0)).await??;
//!     assert_eq!(total, 5);
//!
//!     raft.send(Shutdown).await?;
//!     Ok(())
//! }
//! ```
//!
//! # What the application brings
//!
//! * A [`StateMachine`](raft_core::host::StateMachine): the same runs on Tokio.
//! * A [`LogStore`](raft_core::host::LogStore). One that may block gets a thread of its own, as an actor in a
//!   `SyncContext`; one that does not runs inline.
//! * A [`SnapshotStore`](raft_core::host::SnapshotStore), which is called on the runtime's blocking pool.
//! * A [`Network`](raft_driver_tokio::transport::Network): one of those that `raft-driver-tokio` ships, since Actix runs
//!   on Tokio, or an actor of its own behind an [`ActorNetwork`](network::ActorNetwork).
//!
//! # What to know
//!
//! * `Addr::send` nests results: the outer one is Actix's `MailboxError` (the actor is gone), the inner one says what
//!   became of the request. Every error of a write says whether the command happened, and returns it if it did not: a
//!   follower answers [`WriteError::NotLeader`] with the leader and the command.
//! * `Addr::send` waits while the mailbox is full, and `try_send` fails: that is the back-pressure. `do_send` knows no
//!   limit: use it for nothing that clients can cause.
//! * A node that fails (its log store, its state machine, a panic in either) stops at once and for good: whoever waits
//!   gets an error, later requests too, [`GetMetrics`](metrics::GetMetrics) and listeners tell the reason. Its actor
//!   stays until [`Shutdown`](admin::Shutdown) comes or its last address is dropped. Start the node anew when the cause
//!   is gone; a `Supervisor` must not.
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
pub use supervise::Parts;
