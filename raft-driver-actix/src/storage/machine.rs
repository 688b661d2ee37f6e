//! A state machine that is an actor.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler, Message, Recipient};
use bytes::Bytes;
use raft_core::host::{FrozenState, RestoreError, SnapshotSource, StateMachine};
use raft_core::{Entries, LogId};
use tokio::runtime::Handle;

use super::ActorError;
use super::log::storage_messages;

storage_messages! {
    /// The last entry that the machine itself holds durably; [`LogId::ZERO`] for one that is rebuilt from snapshot and log.
    /// Asked once in each life of a node, before anything else. Whoever answers zero begins empty: everything is applied from
    /// the beginning, or from the snapshot that is installed next. An actor that outlives a node drops what it holds.
    GetLastApplied {} -> LogId;

    /// Replaces the state by a snapshot's (§7), of which this is a part: the first has offset 0, the others follow one after
    /// the other, and the state changes with the last one.
    InstallSnapshot {
        /// The last entry whose effect is in the snapshot.
        last: LogId,
        /// Where this part begins.
        offset: u64,
        /// The part.
        data: Bytes,
        /// Whether it is the last one.
        done: bool,
    } -> ();
}

/// Applies committed entries in order: one response for each command among them, in a `Vec<R>`. See
/// [`StateMachine::apply`].
#[derive(Clone, Debug)]
pub struct ApplyToStateMachine<R, E> {
    /// What to apply.
    pub entries: Entries,
    result: PhantomData<fn() -> (R, E)>,
}

impl<R: Send + 'static, E: Send + 'static> Message for ApplyToStateMachine<R, E> {
    type Result = Result<Vec<R>, E>;
}

/// Freezes the state as it is now, to be read as a snapshot beside later changes: see [`StateMachine::snapshot`].
#[derive(Clone, Debug)]
pub struct CreateSnapshot<F, E> {
    result: PhantomData<fn() -> (F, E)>,
}

impl<F: Send + 'static, E: Send + 'static> Message for CreateSnapshot<F, E> {
    type Result = Result<F, E>;
}

/// An actor that is a state machine with responses `R`, frozen states `F` and errors `E`. Nothing is to be implemented but
/// the handlers.
pub trait RaftStateMachine<R: Send + 'static, F: Send + 'static, E: Send + 'static>:
    Actor
    + Handler<GetLastApplied<E>>
    + Handler<ApplyToStateMachine<R, E>>
    + Handler<CreateSnapshot<F, E>>
    + Handler<InstallSnapshot<E>>
{
}

impl<A, R: Send + 'static, F: Send + 'static, E: Send + 'static> RaftStateMachine<R, F, E> for A where
    A: Actor
        + Handler<GetLastApplied<E>>
        + Handler<ApplyToStateMachine<R, E>>
        + Handler<CreateSnapshot<F, E>>
        + Handler<InstallSnapshot<E>>
{
}

/// A [`RaftStateMachine`] as a state machine to start a node on. Its lane is a thread, which waits for the actor's answers.
///
/// To read what the actor holds, send a [`ClientRead`](crate::messages::ClientRead) with a closure that does nothing, and
/// then ask the actor: its state only moves forward.
///
/// The actor may outlive the node. Started anew with it, the node applies what follows [`GetLastApplied`]'s answer: everything
/// again, where that is zero.
pub struct ActorMachine<R: Send + 'static, F: Send + 'static, E: Send + 'static> {
    last_applied: Recipient<GetLastApplied<E>>,
    apply: Recipient<ApplyToStateMachine<R, E>>,
    create: Recipient<CreateSnapshot<F, E>>,
    install: Recipient<InstallSnapshot<E>>,
    runtime: Handle,
}

impl<R, F, E> ActorMachine<R, F, E>
where
    R: Send + 'static,
    F: FrozenState,
    E: Error + Send + Sync + 'static,
{
    /// The state machine that this actor is.
    ///
    /// # Panics
    /// Outside an Actix system.
    #[must_use]
    pub fn new<A: RaftStateMachine<R, F, E>>(actor: &Addr<A>) -> Self
    where
        A::Context: ToEnvelope<A, GetLastApplied<E>>
            + ToEnvelope<A, ApplyToStateMachine<R, E>>
            + ToEnvelope<A, CreateSnapshot<F, E>>
            + ToEnvelope<A, InstallSnapshot<E>>,
    {
        Self {
            last_applied: actor.clone().recipient(),
            apply: actor.clone().recipient(),
            create: actor.clone().recipient(),
            install: actor.clone().recipient(),
            runtime: Handle::current(),
        }
    }

    /// Sends a message and waits for the answer, on a thread that may wait.
    fn ask<M, T>(&self, actor: &Recipient<M>, message: M) -> Result<T, ActorError<E>>
    where
        M: Message<Result = Result<T, E>> + Send,
        T: Send,
    {
        ActorError::flatten(self.runtime.block_on(actor.send(message)))
    }
}

impl<R: Send + 'static, F: Send + 'static, E: Send + 'static> fmt::Debug for ActorMachine<R, F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ActorMachine")
    }
}

impl<R, F, E> StateMachine for ActorMachine<R, F, E>
where
    R: Send + 'static,
    F: FrozenState,
    E: Error + Send + Sync + 'static,
{
    type Response = R;
    type Snapshot = F;
    type Error = ActorError<E>;

    const MAY_BLOCK: bool = true;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<R>) -> Result<(), ActorError<E>> {
        let apply = ApplyToStateMachine { entries: entries.clone(), result: PhantomData };
        *responses = self.ask(&self.apply, apply)?;
        Ok(())
    }

    fn snapshot(&mut self) -> Result<F, ActorError<E>> {
        self.ask(&self.create, CreateSnapshot { result: PhantomData })
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<ActorError<E>>> {
        let (last, mut offset) = (source.last(), 0);
        loop {
            let data = source.next_chunk()?.unwrap_or_default();
            let (length, done) = (data.len() as u64, source.remaining_bytes() == 0);
            let install = InstallSnapshot::new(last, offset, data, done);
            self.ask(&self.install, install).map_err(RestoreError::Machine)?;
            if done {
                return Ok(());
            }
            offset += length;
        }
    }

    fn recover(&mut self) -> Result<LogId, ActorError<E>> {
        self.ask(&self.last_applied, GetLastApplied::new())
    }
}
