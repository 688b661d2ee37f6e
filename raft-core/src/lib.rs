//! Raft as a pure state machine: events in, actions out.
#![no_std]
#![warn(clippy::std_instead_of_core, clippy::std_instead_of_alloc, clippy::alloc_instead_of_core)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod action;
mod config;
mod durability;
mod entry;
mod error;
mod event;
pub mod host;
mod ids;
mod log;
mod membership;
mod message;
mod node;
mod progress;
mod proposals;
mod quorum;
mod reads;
mod recovery;
mod rng;
mod role;
mod state;
mod status;
mod terms;
mod time;
mod timers;
pub mod wire;

pub use action::{
    Action, AdminOutcome, AdminRefusal, HardState, LogTask, MachineTask, Notice, ReadOutcome, Response,
    RoleKind, Violation, Write, WriteOutcome, WriteRefusal,
};
pub use config::Config;
pub use entry::{CommandPacker, CommandRef, Commands, Entries, EntryRef, NotConsecutive};
pub use error::{ConfigError, Fatal, StartError};
pub use event::{Event, LogReadError, ReadConsistency};
pub use ids::{LogId, LogIndex, NodeId, ReadId, Term, Ticket, Tickets, WriteId};
pub use membership::{Membership, MembershipError, Target};
pub use message::{Body, Conflict, Message};
pub use node::Node;
pub use recovery::{LogRecovery, LogScan, Recovery, ScanError, TermRun};
pub use status::{Counters, PeerStatus, ReplicationState, Status};
pub use time::Instant;
