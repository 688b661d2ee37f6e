//! Storage: actors of one's own, and the stores of the shared traits.
//!
//! A node runs on four things: a log, snapshots, a state machine and a network. [`Builder::start`](crate::Builder::start)
//! takes each as it is in the shared traits:
//!
//! | what | a trait of [`raft_core::host`] | an actor instead |
//! |---|---|---|
//! | log | [`LogStore`](raft_core::host::LogStore), blocking or not, or [`AsyncLogStore`](raft_core::host::AsyncLogStore) within [`AsyncLog`] | [`ActorLog`] |
//! | state machine | [`StateMachine`](raft_core::host::StateMachine), or [`Application`](raft_core::host::Application) within `Typed` | [`ActorMachine`] |
//! | snapshots | [`SnapshotStore`](raft_core::host::SnapshotStore) | the state machine's actor gives and takes the bytes |
//! | network | [`Network`](raft_driver_tokio::transport::Network) | [`ActorNetwork`](crate::network::ActorNetwork) |
//!
//! # Storage that is an actor
//!
//! A [`RaftStorage`] is an actor with handlers for the messages here, in one of two kinds of context:
//!
//! * in a `Context`, when its calls are asynchronous: its handlers return futures, on any arbiter;
//! * in a `SyncContext`, when its calls block: on a [`SyncArbiter`](actix::SyncArbiter) of *one* thread, which keeps their
//!   order. Several would mix it up.
//!
//! [`ActorLog`] and [`ActorMachine`] hand a node's calls to it. One call is under way at a time, and the next is made when
//! it was answered, so nothing is handled out of order, whatever futures the handlers return; reads of the log alone may
//! come in between. If the actor stops, panics, or answers with an error, the node stops, and says why. A handler
//! that never answers keeps the node from making progress and from ending; a leader whose storage hangs gives its leadership
//! up after an election timeout.
//!
//! The other way round, [`LogActor`] is an actor around any [`LogStore`](raft_core::host::LogStore).

mod log;
mod log_actor;
mod machine;

pub use log::{ActorLog, ActorLogReader, CompactLog, GetInitialState, GetLogEntries, RaftStorage, SaveLog};
pub use log_actor::LogActor;
pub use machine::{
    ActorMachine, ApplyToStateMachine, CreateSnapshot, GetLastApplied, InstallSnapshot, RaftStateMachine,
};
#[doc(no_inline)]
pub use raft_driver_tokio::storage::{
    AsyncLog, DurableLog, DurableStore, Identity, MemoryLog, MemorySnapshots, NodeLog, SnapshotFiles,
};

use actix::MailboxError;

/// Why an actor's storage cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ActorError<E> {
    /// The actor says so.
    #[error(transparent)]
    Storage(E),
    /// The actor has stopped, or it panicked.
    #[error("the storage actor has stopped")]
    Gone,
    /// The actor answered a read with entries that were not asked for, or a snapshot with bytes beyond its end.
    #[error("the storage actor broke its promise: {0}")]
    Broken(&'static str),
}

impl<E> ActorError<E> {
    fn flatten<T>(answer: Result<Result<T, E>, MailboxError>) -> Result<T, Self> {
        match answer {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Self::Storage(error)),
            Err(_) => Err(Self::Gone),
        }
    }
}
