//! Runs [`raft_core`] on Tokio: storage, TCP, timers, and a handle for clients.
//!
//! You bring a [`StateMachine`](raft_core::host::StateMachine). [`Builder`] puts a node together from it, a log
//! store and a network, and gives you a [`Raft`]: a handle to write, to read, and to watch. All that Raft decides is
//! decided in [`raft_core`]; this crate performs what the core asks for, and reports what became of it.
//!
//! # Three nodes in one process
//!
//! ```
//! use std::time::Duration;
//!
//! use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
//! use raft_core::{Config, Entries, EntryRef, NodeId};
//! use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
//! use raft_driver_tokio::transport::Channels;
//! use raft_driver_tokio::{Builder, WriteError};
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
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let network = Channels::default();
//! let members = (1..=3).map(|id| (NodeId::new(id), "in this process".into())).collect();
//! let mut nodes = Vec::new();
//! for id in 1..=3 {
//!     let builder = Builder::new(Config::new(NodeId::new(id)));
//!     let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
//!     nodes.push(builder.start(log, snapshots, Total::default(), network.endpoint()).await?);
//! }
//! nodes[0].bootstrap(members).await?; // a cluster is given its members once, on one node or on all
//!
//! // Write where the leader is; a command that did not happen comes back.
//! let mut at = 0;
//! let mut command = bytes::Bytes::from("hello");
//! let applied = loop {
//!     match nodes[at].write(command).await {
//!         Ok(applied) => break applied,
//!         Err(WriteError::NotLeader { command: back, .. }) => {
//!             let leader = nodes[at].wait(Duration::from_secs(10)).leader().await?;
//!             at = nodes.iter().position(|raft| raft.id() == leader).expect("one of these");
//!             command = back;
//!         }
//!         Err(error) => return Err(error.into()),
//!     }
//! };
//! assert_eq!(applied.response, 5);
//!
//! // A read sees every write that was answered before it began.
//! let total = nodes[at].read(|machine| machine.0).await?;
//! assert!(total >= 5);
//!
//! for raft in nodes {
//!     raft.shutdown().await; // resolves when tasks and threads have ended, and files are closed
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # A server that keeps its data
//!
//! The same with log and snapshots on disk and peers over TCP. Call `bootstrap` with the same set at each start, on one node or on
//! all: again is harmless, but never with a data directory that was emptied: such a node has forgotten what it acknowledged, and
//! with its vote answered writes could be lost. Add it under a new id. Clients find the leader by [`WriteError::NotLeader`], or
//! wait for one. A node that joins later is started without `bootstrap`, and added by [`Raft::change_membership`] at the leader.
//!
//! ```no_run
//! # use raft_core::{Config, Entries, EntryRef, NodeId};
//! # use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
//! use raft_driver_tokio::storage::{DurableLog, Identity, SnapshotFiles};
//! use raft_driver_tokio::tcp::{Tcp, TcpConfig};
//! use raft_driver_tokio::{BootstrapDigest, Builder, ClusterId};
//! # #[derive(Default)]
//! # struct Total(u64);
//! # impl StateMachine for Total {
//! #     type Response = u64;
//! #     type Snapshot = WholeState;
//! #     type Error = std::convert::Infallible;
//! #     fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Self::Error> {
//! #         responses.extend(entries.iter().filter(|entry| matches!(entry, EntryRef::Command(..))).map(|_| 0));
//! #         Ok(())
//! #     }
//! #     fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
//! #         Ok(WholeState::new(""))
//! #     }
//! #     fn restore(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
//! #         Ok(())
//! #     }
//! # }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (cluster, node) = (ClusterId::new(7), NodeId::new(1));
//! // The address of each member is where it listens, or where it is reached.
//! let members = [(node, "127.0.0.1:7101".into()), (NodeId::new(2), "127.0.0.1:7102".into())].into();
//!
//! let log = DurableLog::open("/var/lib/total-1", Identity { cluster, node })?;
//! let snapshots = SnapshotFiles::open("/var/lib/total-1/snapshots", Identity { cluster, node })?;
//! let mut config = TcpConfig::new(cluster);
//! config.known_peers = Some(log.peers()); // a peer that comes back with an emptied directory is refused
//! config.bootstrap = Some(BootstrapDigest::of(&members)); // and so is one that was given another set
//! let network = Tcp::bind("127.0.0.1:7101", config).await?;
//! let raft = Builder::new(Config::new(node)).start(log, snapshots, Total::default(), network).await?;
//! raft.bootstrap(members).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # How a node runs
//!
//! ```text
//!  Raft (handles) ──bounded──▶ ┌───────────┐ ──▶ log lane: a thread, task, inline ─┐
//!  transport ──budget a peer─▶ │ node task │ ──▶ machine lane: inline, or a thread ┤
//!         ▲                    │           │ ──▶ snapshots: the blocking pool ─────┤
//!         │                    └───────────┘ ◀────────── reports ──────────────────┘
//!         └──── a bounded queue a peer ─┘
//! ```
//!
//! One task owns the node. It takes in all that has arrived, steps it, and performs what comes out, without ever
//! waiting for a disk, a socket or a client. A log store that blocks has one thread, which takes all queued writes as
//! one batch, so that one fsync covers many; a store whose calls are futures ([`storage::AsyncLog`]) has a task while
//! there is something to do; one that does not block runs in the node's own. A state machine that does not block applies in
//! the node's turns too, up to 1,024 entries a turn, and answers clients itself; what takes its time runs in a task beside
//! it: more entries, readers' closures, snapshots. One that may block has a thread. Its snapshots are frozen in its lane and
//! written beside it; chunks of them are read and written on the runtime's blocking pool.
//!
//! * **Back-pressure**: while the core has no room, commands wait in their callers.
//! * **Failure**: the first error or panic of the log store or the state machine ends the node. Nothing is retried.
//!   Everybody who waits gets an answer that says what is known, and [`Raft::stopped`] says why.
//! * **Time-outs** are the callers': [`Raft::within`] sets one, and every future may be dropped at any time.
//!   [`WriteError::certainty`] says whether a failed write can be tried again safely, and `advice` of every error what to do.
//!
//! # What is here
//!
//! | module | |
//! |---|---|
//! | [`storage`] | stores for logs and snapshots |
//! | [`transport`] | [`Channels`](transport::Channels) within a process, and what a transport of your own must offer |
//! | [`tcp`] | the transport over TCP |
//! | [`groups`] | many Raft groups in one process |
//! | [`driver`] | parts for a driver of your own |
//!
//! # What operators see
//!
//! [`Raft::health`] says whether a node is alive and whether it serves; [`Raft::metrics`] is all of it as one value.
//! [`Builder::record`] writes a node's life into files that `sim replay FILE` verifies and prints: see [`Recording`].
//!
//! **Events and spans** of `tracing`. `id` is the node's name. A node's task runs in the span `raft.node` (`id`, and
//! `group` if there is one).
//!
//! | event | level | fields | |
//! |---|---|---|---|
//! | `raft.role` | info | `id` `role` `term` | the role or the term changed |
//! | `raft.leader` | info | `id` `leader` `term` | the leader that the node knows changed |
//! | `raft.membership` | info | `id` `index` | another configuration is in force |
//! | `raft.snapshot` | info, warn | `id` `last` `taken_by`, `error` | a snapshot is complete; it could not be taken, read or written |
//! | `raft.majority_missing` | warn | `id` `silent` | a leader steps down, or a change is undone, for lack of a majority |
//! | `raft.change_timed_out` | warn | `id` `behind` | new voters did not catch up |
//! | `raft.violation` | error | `id` `peer` `kind` | a message would have broken safety: look at that peer |
//! | `raft.stopped` | info, error | `id` `reason` | the node stops, asked to or not |
//! | `raft.read` | error | `panicked` | a reader's closure panicked |
//! | `raft.drop` | error | `panicked` | a store or a state machine panicked when it was dropped |
//! | `raft.letter_refused` | debug | `from` | a forwarded write or its answer made no sense, or is of a node that is no member |
//! | `raft.recording_gap` | warn | `id` `steps` | so many steps were not recorded: the disk is slow |
//! | `raft.recording_failed` | error | `id` `error` | a recording cannot be written; tried again after a pause |
//! | `raft.tcp.accept` | warn | `id` `error` | the system could not accept a connection |
//! | `raft.tcp.connected` | info | `id` `peer` `lane` | a connection stands |
//! | `raft.tcp.lost` | info | `id` `peer` `lane` `error` | it was lost |
//! | `raft.tcp.unreachable` | info, debug | `id` `peer` `lane` `address` `error` | none could be made; info for the first time |
//! | `raft.tcp.closed` | debug | `id` `peer` `reason` | one that a peer made ended |
//! | `raft.tcp.refused` | warn | `id` `peer` `address` `by_peer` `refusal` | a handshake was refused |
//! | `raft.tcp.directory` | error | `id` `peer` `error` | a peer came back with another data directory, or its own cannot be remembered; once |
//! | `raft.tcp.shut_out` | warn | `id` `address` `pause` | an address misbehaved too often |
//! | `raft.tcp.stalled` | debug | `id` `from` | a handshake did not come to an end |
//! | `raft.tcp.malformed` | warn | `id` `peer` or `from`, `error` | bytes that are no message |
//! | `raft.tcp.unknown_group` | debug | `id` `peer` `group` | a message for a group that is not here |
//! | `raft.tcp.bad_address` | error | `peer` `address` | a member's address is no text |
//! | `raft.tcp.message_too_long` | error | `peer` `group` | a message is longer than a frame may be |
//! | `raft.tls.renewed` | info | `id` | new certificate files are in use |
//! | `raft.tls.another_node` | error | `id` `certified` | this node's certificate is another's: peers will refuse it |
//! | `raft.tls.not_renewed` | warn | `id` `error` | new certificate files are of no use; the old ones stay |
//!
//! **Figures** for the `metrics` facade, with the feature `metrics`. All have the label `node`, and `group` if the
//! [builder](Builder::group) was told of one. Install the recorder before nodes are started.
//!
//! | gauge | |
//! |---|---|
//! | `raft_is_leader` | 1 at the leader, else 0 |
//! | `raft_has_leader` | 1 if the node knows a leader, else 0 |
//! | `raft_term` | the current term |
//! | `raft_last_index` | the last entry of the log |
//! | `raft_commit_index` | the last entry known to be committed |
//! | `raft_applied_index` | the last entry that the state machine holds |
//! | `raft_snapshot_index` | the last entry that the newest snapshot replaces |
//! | `raft_pending_writes` | writes that wait for their outcome |
//! | `raft_pending_reads` | reads that wait for the proof of what they must see |
//! | `raft_peer_lag_entries` | entries that a peer lacks (label `peer`), as the leader knows; as it last was, elsewhere |
//!
//! | counter, since the node's start | |
//! |---|---|
//! | `raft_elections_total` | elections begun by this node |
//! | `raft_elections_won_total` | elections won by it |
//! | `raft_leases_lost_total` | times that it stepped down without a majority |
//! | `raft_violations_total` | messages that would have broken safety: should be zero for ever |
//! | `raft_snapshots_installed_total` | snapshots installed from a leader |
//! | `raft_messages_sent_total` | messages handed to the network |
//! | `raft_messages_received_total` | messages received |
//! | `raft_messages_dropped_total` | messages that had no room or no connection |
//! | `raft_sent_bytes_total` | bytes handed to the network |
//! | `raft_received_bytes_total` | bytes received |
//! | `raft_disconnects_total` | connections to peers that were lost |
//!
//! | histogram, seconds | |
//! |---|---|
//! | `raft_write_seconds` | from a write's call to its outcome, or until its caller gave up |
//! | `raft_read_seconds` | the same of reads |
//!
//! # Limits
//!
//! The limits of the protocol are those of [`raft_core::Config`], and hold here. Beyond them: requests that wait
//! ([`Builder::queue_max`]), the bytes of their commands ([`Builder::queue_bytes_max`]), and those of
//! [`TcpConfig`](tcp::TcpConfig). Reads that wait for a slow state machine do so until it comes to them, given up or not: when they
//! are as many as [`pending_reads_max`](raft_core::Config::pending_reads_max), further linearizable
//! ones are [`Busy`](ReadError::Busy); stale ones wait in turn beyond as many as the queue holds.
//! While writes are forwarded, a node keeps 16,384 responses or 16 MiB of them, by
//! [`response_bytes`](raft_core::host::StateMachine::response_bytes), for answers of the leader that come late; beyond
//! that, such a write is told that its response is lost. Without [TLS](tcp#tls), TCP is neither encrypted nor authenticated: use it within a
//! network that you trust.

mod apply;
mod builder;
mod cluster;
pub mod driver;
mod engine;
mod error;
mod forward;
mod freshness;
pub mod groups;
mod handle;
mod inbox;
mod leave;
mod metrics;
#[cfg(feature = "postcard")]
mod postcard;
mod recording;
mod request;
pub mod restore;
mod session;
pub mod storage;
mod task;
pub mod tcp;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;
mod typed;
mod worker;

pub use builder::Builder;
pub use cluster::{BootstrapDigest, ClusterId, DirectoryId, GroupId};
pub use driver::Recovered;
pub use error::{
    AdminError, Advice, Applied, Certainty, Panicked, ReadError, StartError, StopReason, WriteError,
};
pub use handle::{Health, Raft, Wait, WaitError};
pub use metrics::Metrics;
#[cfg(feature = "postcard")]
pub use postcard::{Postcard, PostcardError};
pub use recording::Recording;
pub use session::{Patience, Route, Session, SessionError};
pub use typed::ProposeError;
