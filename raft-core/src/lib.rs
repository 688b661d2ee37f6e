//! Raft as a pure state machine: events in, actions out.
//!
//! [`Node`] is one Raft server without any IO: no clock, no sockets, no disk, no threads, no randomness of its
//! own. A *driver* gives it [`Event`]s, performs the [`Action`]s that it hands out, and reports when they are
//! done. The same node runs under Tokio, under Actix, in a simulator, or in your own loop; given the same calls it
//! does the same, on every machine. The crate is `no_std` and needs only `alloc`.
//!
//! ```text
//!            Event                        Action
//! driver ───────────────▶  Node (pure)  ───────────────▶  driver
//! ```
//!
//! # The law of actions
//!
//! **If you can see it, you may do it.** An action is handed out only when performing it at once is safe: a
//! message that depends on a disk write stays inside until that write is reported durable. So disk, network and
//! state machine run beside each other, and there is no order between them to get wrong. Order exists only within
//! a *lane*: [`Action::Log`] for the log store, [`Action::Machine`] for the state machine, and what writes or drops
//! snapshots. A driver has four duties:
//!
//! 1. Perform the log lane in order, and report [`Event::Persisted`] only after fsync. One report may stand for
//!    many writes. Report a snapshot, or its last chunk, only when it is complete, checked and durable.
//! 2. Perform the machine lane in order.
//! 3. Read `now` *after* the event (or the last of a batch) was taken in; it never runs backwards. Only
//!    [`Event::Wake`] fires timers.
//! 4. When the log store or the state machine fails, drop the node. Never retry a failed fsync.
//!
//! Everything else is harmless: messages may be lost, duplicated, reordered and delayed, wake-ups may be late or
//! spurious, actions may be polled at any time and after many steps.
//!
//! # A complete run loop
//!
//! One server that votes for itself, with a vector for a disk:
//!
//! ```
//! use raft_core::{
//!     Action, Config, Entries, Event, Instant, LogId, LogRecovery, LogTask, MachineTask, Node, NodeId, Recovery,
//!     Response, SnapshotPolicy, Ticket, WriteOutcome,
//! };
//!
//! let id = NodeId::new(1);
//! let config = Config { snapshot_policy: SnapshotPolicy::Never, ..Config::new(id) };
//! let log = LogRecovery::default();
//! let recovery = Recovery { log, snapshot: None, applied: LogId::ZERO, incarnation: 1 };
//! let mut node = Node::start(config, recovery, Instant::ZERO)?;
//!
//! let mut disk: Vec<Entries> = Vec::new(); // a real one also keeps the hard state, and replaces suffixes
//! let mut events = std::collections::VecDeque::from([
//!     Event::Bootstrap { ticket: Ticket::new(1), members: [(id, "here".into())].into() },
//!     Event::Wake,
//!     Event::Propose { first: Ticket::new(2), commands: ["hello"].iter().collect() },
//! ]);
//! let mut committed = false;
//! while let Some(event) = events.pop_front() {
//!     node.step(Instant::ZERO, event)?;
//!     while let Some(action) = node.poll_action() {
//!         match action {
//!             Action::Log(LogTask::Write(write)) => {
//!                 disk.push(write.entries); // and fsync
//!                 events.push_front(Event::Persisted(write.id));
//!             }
//!             Action::Machine(MachineTask::Apply(entries)) => {
//!                 let last = entries.last().expect("an Apply is not empty");
//!                 events.push_front(Event::Applied(last.index));
//!             }
//!             Action::Respond(Response::Write { outcome, .. }) => {
//!                 committed = matches!(outcome, WriteOutcome::Committed { .. });
//!             }
//!             Action::Send(message) => println!("{message:?}"), // nobody else is here
//!             Action::ReadLog { .. } => unreachable!("the log is shorter than the tail in memory"),
//!             Action::Log(LogTask::Compact { .. })
//!             | Action::Snapshot(_)
//!             | Action::Machine(MachineTask::Restore(_) | MachineTask::TakeSnapshot(_)) => {
//!                 unreachable!("nobody takes a snapshot here")
//!             }
//!             Action::Machine(MachineTask::Serve(_)) | Action::Respond(_) => {}
//!             Action::Peers(_) | Action::Notify(_) => {}
//!         }
//!     }
//! }
//! assert!(committed);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is here
//!
//! Elections with pre-vote, check-quorum and leader stickiness; pipelined replication; durability by write ids;
//! batched proposals, each with exactly one outcome; membership changes from any set to any set by joint consensus,
//! with learners; snapshots, compaction and their transfer in chunks; linearizable reads at every member, by ReadIndex or
//! by lease; transfer of the leadership; recovery from headers; recordings of a node's life that replay elsewhere (`host::recording`). A cluster on plain threads
//! is in `examples/embed.rs`.
//!
//! Sections (§) are those of the extended Raft paper, "thesis §" those of Ongaro's dissertation.
#![no_std]
#![warn(clippy::std_instead_of_core, clippy::std_instead_of_alloc, clippy::alloc_instead_of_core)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod action;
#[cfg(feature = "serde")]
mod canonical;
mod change;
mod config;
mod durability;
mod entry;
mod error;
mod event;
mod flow;
pub mod host;
mod ids;
mod lease;
mod log;
mod membership;
mod message;
mod node;
mod progress;
mod proposals;
mod questions;
mod quorum;
mod reads;
mod recovery;
mod rng;
mod role;
mod rounds;
mod snapshot;
mod state;
mod status;
mod terms;
mod time;
mod timers;
mod transfer;
pub mod wire;

/// The crate of `Bytes`, in which commands, addresses and parts of snapshots travel: the version that fits.
#[doc(no_inline)]
pub use bytes;

pub use action::{
    Action, AdminOutcome, AdminRefusal, HardState, LogTask, MachineTask, Notice, ReadOutcome, Response,
    RoleKind, SnapshotTask, Violation, Write, WriteOutcome, WriteRefusal,
};
#[cfg(feature = "serde")]
pub use canonical::{Form, Name};
pub use config::{Config, Lease, SnapshotPolicy};
pub use entry::{CommandPacker, CommandRef, Commands, Entries, EntryRef, NotConsecutive};
pub use error::{ConfigError, Fatal, StartError};
pub use event::{Event, LogReadError, ReadConsistency};
pub use ids::{LogId, LogIndex, NodeId, ReadId, Term, Ticket, Tickets, WriteId};
pub use membership::{Membership, MembershipChange, MembershipError, Target};
pub use message::{Body, Conflict, InstallProgress, Message, QuestionId};
#[cfg(feature = "serde")]
pub use node::Frame;
pub use node::Node;
pub use recovery::{LogRecovery, LogScan, Recovery, ScanError};
pub use snapshot::{SnapshotError, SnapshotId, SnapshotMeta, SnapshotMetaError, TermRun};
pub use status::{Counters, PeerStatus, ReplicationState, Status};
pub use time::Instant;
