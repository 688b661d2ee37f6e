//! The lanes: where the log store and the state machine run, each in order, and the snapshot store beside them.
//!
//! * A log store that may block is an actor in a [`SyncContext`] on a [`SyncArbiter`] of one thread, which keeps the
//!   order of its calls. One that does not block runs inline in the node's actor, once for all writes of a turn.
//! * Reads of the log never queue behind an fsync: they run on the runtime's blocking pool, or inline.
//! * The state machine is an actor on the node's own arbiter, or on a thread of its own. While it is restored from a
//!   snapshot, one on the arbiter moves to the runtime's blocking pool, so that the node goes on.
//! * Snapshots are read, written and saved on that pool: see [`SnapshotLane`].
//! * Whatever is done is reported by `do_send`, past the mailbox's capacity: the core's limits bound it.
//! * After the first failure, a panic included, a store or machine is not called again, only dropped.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use actix::{
    Actor, ActorFutureExt, Addr, AsyncContext, Context, Handler, Message, Recipient, SyncArbiter,
    SyncContext, WrapFuture,
};
use raft_core::host::{Committed, LogSpan, LogStore, MachineLane, Read, SnapshotStore, StateMachine};
use raft_core::{Entries, Event, LogTask, SnapshotMeta, SnapshotTask, Write, WriteId};
use raft_driver_tokio::driver::{
    LOG_STORE, STATE_MACHINE, SnapshotLane, apply, discard, guard, perform_log, read_log, reject_reads, serve,
};
use raft_driver_tokio::{Panicked, StopReason};
use tokio::sync::mpsc;

use crate::actor::Input;
use crate::messages::PendingWrite;

/// Held by whatever must have ended before the node has.
pub(crate) type Lifeline = mpsc::Sender<Infallible>;

/// How lanes report to the node; harmless if it is gone.
pub(crate) type Reports = Arc<dyn Fn(Input) + Send + Sync>;

// --- the log lane ------------------------------------------------------------------------------------------

/// The log lane, wherever it runs.
pub(crate) trait LogLane {
    /// Takes the next task.
    fn perform(&mut self, task: LogTask);
    /// Performs what was taken, if the store runs inline, and says what is durable now.
    fn flush(&mut self) -> Result<Option<WriteId>, StopReason>;
    /// Reads entries: returns the event, or sees to it that it comes later.
    fn read(&mut self, span: LogSpan) -> Result<Option<Event>, StopReason>;
}

/// Begins; the store is dropped after the lane, when the tasks queued are done.
pub(crate) fn log_lane<L: LogStore>(
    store: L,
    reports: Reports,
    lifeline: &Lifeline,
) -> Result<Box<dyn LogLane>, Panicked> {
    let reader = store.reader();
    if !L::MAY_BLOCK {
        return Ok(Box::new(Inline { store: Some(store), reader, queue: Vec::new(), batch: Vec::new() }));
    }
    let actor = LogActor {
        store: Some(store),
        batch: Vec::new(),
        reports: Some(Arc::clone(&reports)),
        _lifeline: Some(lifeline.clone()),
    };
    let first = Mutex::new(Some(actor));
    // Called once: the actor never stops itself, and nobody restarts what has failed.
    let factory = move || {
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        let none = || LogActor { store: None, batch: Vec::new(), reports: None, _lifeline: None };
        first.take().unwrap_or_else(none)
    };
    // It panics where no thread can be had.
    let store = guard("thread of the log store", || SyncArbiter::start(1, factory))?;
    Ok(Box::new(Threaded { store, reader, reports, lifeline: lifeline.clone() }))
}

/// A store in the node's own actor.
struct Inline<L: LogStore> {
    /// `None` once it has failed, or is being dropped.
    store: Option<L>,
    reader: L::Reader,
    queue: Vec<LogTask>,
    batch: Vec<Write>,
}

impl<L: LogStore> LogLane for Inline<L> {
    fn perform(&mut self, task: LogTask) {
        self.queue.push(task);
    }

    fn flush(&mut self) -> Result<Option<WriteId>, StopReason> {
        let Some(store) = &mut self.store else { return Ok(None) };
        let mut durable = None;
        perform_log(store, self.queue.drain(..), &mut self.batch, |id| durable = Some(id))?;
        Ok(durable)
    }

    fn read(&mut self, span: LogSpan) -> Result<Option<Event>, StopReason> {
        read_log(&self.reader, span).map(Some)
    }
}

impl<L: LogStore> Drop for Inline<L> {
    fn drop(&mut self) {
        discard(LOG_STORE, self.store.take());
    }
}

/// A store on a thread of its own.
struct Threaded<L: LogStore> {
    store: Addr<LogActor<L>>,
    reader: L::Reader,
    reports: Reports,
    lifeline: Lifeline,
}

impl<L: LogStore> LogLane for Threaded<L> {
    fn perform(&mut self, task: LogTask) {
        self.store.do_send(StoreTask(task));
    }

    fn flush(&mut self) -> Result<Option<WriteId>, StopReason> {
        Ok(None)
    }

    fn read(&mut self, span: LogSpan) -> Result<Option<Event>, StopReason> {
        let (reader, reports, lifeline) =
            (self.reader.clone(), Arc::clone(&self.reports), self.lifeline.clone());
        // Detached: it reports by itself, and the lifeline is how its end is awaited.
        drop(tokio::task::spawn_blocking(move || {
            reports(match read_log(&reader, span) {
                Ok(event) => Input::Event(event),
                Err(reason) => Input::Failed(reason),
            });
            discard(LOG_STORE, reader);
            drop(lifeline);
        }));
        Ok(None)
    }
}

/// The actor of a store that may block.
struct LogActor<L> {
    /// `None` once it has failed.
    store: Option<L>,
    batch: Vec<Write>,
    reports: Option<Reports>,
    // Dropped last.
    _lifeline: Option<Lifeline>,
}

// A store is never pinned.
impl<L> Unpin for LogActor<L> {}

impl<L: LogStore> Actor for LogActor<L> {
    type Context = SyncContext<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        discard(LOG_STORE, self.store.take());
    }
}

/// One task. Up to the core's limit on writes in flight are queued, and entries gather meanwhile in the next one: the
/// group commit forms in the core.
struct StoreTask(LogTask);

impl Message for StoreTask {
    type Result = ();
}

impl<L: LogStore> Handler<StoreTask> for LogActor<L> {
    type Result = ();

    fn handle(&mut self, StoreTask(task): StoreTask, _: &mut Self::Context) {
        let (Some(store), Some(reports)) = (&mut self.store, &self.reports) else { return };
        let persisted = |id| reports(Input::Event(Event::Persisted(id)));
        if let Err(reason) = perform_log(store, [task], &mut self.batch, persisted) {
            reports(Input::Failed(reason));
            discard(LOG_STORE, self.store.take());
        }
    }
}

// --- the snapshot lane -------------------------------------------------------------------------------------

/// The snapshot lane, whatever its store.
pub(crate) trait Snapshots {
    /// Performs a task; reports later.
    fn perform(&self, task: SnapshotTask);
    /// Gives up what runs.
    fn stop(&self);
}

impl<P: SnapshotStore> Snapshots for SnapshotLane<P> {
    fn perform(&self, task: SnapshotTask) {
        Self::perform(self, task);
    }

    fn stop(&self) {
        Self::stop(self);
    }
}

// --- the machine lane --------------------------------------------------------------------------------------

/// Something for the state machine.
pub(crate) enum MachineMessage<S: StateMachine> {
    /// Apply these; the writers' commands are among them or come later.
    Apply { entries: Entries, committed: Vec<Committed<PendingWrite<S::Response>>> },
    /// Answer these from what has been applied.
    Serve(Vec<Box<dyn Read<S>>>),
    /// Keep the state as it is now.
    TakeSnapshot(Arc<SnapshotMeta>),
    /// Replace the state; the entries of these writers may be skipped.
    Restore { meta: Arc<SnapshotMeta>, committed: Vec<Committed<PendingWrite<S::Response>>> },
}

impl<S: StateMachine> Message for MachineMessage<S> {
    type Result = ();
}

/// Begins; the lane ends when its recipient is dropped and what is queued is done.
pub(crate) fn machine_lane<S: StateMachine, P: SnapshotStore>(
    machine: S,
    snapshots: SnapshotLane<P>,
    reports: Reports,
    lifeline: &Lifeline,
    on_thread: bool,
) -> Result<Recipient<MachineMessage<S>>, Panicked> {
    let running =
        Lane { machine: MachineLane::new(machine), snapshots, reports, _lifeline: lifeline.clone() };
    if !on_thread {
        return Ok(LocalMachine(Some(running)).start().recipient());
    }
    let first = Mutex::new(Some(running));
    let factory = move || {
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        ThreadMachine(first.take())
    };
    Ok(guard("thread of the state machine", || SyncArbiter::start(1, factory))?.recipient())
}

struct Lane<S: StateMachine, P: SnapshotStore> {
    machine: MachineLane<S, PendingWrite<S::Response>>,
    snapshots: SnapshotLane<P>,
    reports: Reports,
    // Dropped last.
    _lifeline: Lifeline,
}

impl<S: StateMachine, P: SnapshotStore> Lane<S, P> {
    /// Performs a task. What fails ends the lane: `None`.
    fn perform(mut self, message: MachineMessage<S>) -> Option<Self> {
        let (result, applied) = match message {
            MachineMessage::Serve(reads) => {
                serve(reads, self.machine.machine());
                (Ok(()), None)
            }
            MachineMessage::TakeSnapshot(meta) => (self.snapshots.take(&mut self.machine, meta), None),
            MachineMessage::Apply { entries, committed } => {
                let last = entries.last().map(|last| last.index);
                (apply(&mut self.machine, &entries, committed), last)
            }
            MachineMessage::Restore { meta, committed } => {
                let restored = self.snapshots.restore(&mut self.machine, &meta, committed);
                (restored, Some(meta.id.last.index))
            }
        };
        if let Err(reason) = result {
            // Told first, so that whoever hears that its response is lost can ask why.
            (self.reports)(Input::Failed(reason));
            self.end();
            return None;
        }
        if let Some(index) = applied {
            (self.reports)(Input::Event(Event::Applied(index)));
        }
        Some(self)
    }

    fn end(self) {
        discard(STATE_MACHINE, self.machine.stop());
    }
}

/// A task for a machine that is gone.
fn refuse<S: StateMachine>(message: MachineMessage<S>) {
    match message {
        MachineMessage::Apply { committed, .. } | MachineMessage::Restore { committed, .. } => {
            committed.into_iter().for_each(Committed::lose);
        }
        MachineMessage::Serve(reads) => reject_reads(reads),
        MachineMessage::TakeSnapshot(_) => {}
    }
}

/// A state machine on the node's arbiter. `None` once it has failed, and while it is restored.
struct LocalMachine<S: StateMachine, P: SnapshotStore>(Option<Lane<S, P>>);

/// A state machine on a thread of its own. `None` once it has failed.
struct ThreadMachine<S: StateMachine, P: SnapshotStore>(Option<Lane<S, P>>);

// A machine is never pinned.
impl<S: StateMachine, P: SnapshotStore> Unpin for LocalMachine<S, P> {}
impl<S: StateMachine, P: SnapshotStore> Unpin for ThreadMachine<S, P> {}

impl<S: StateMachine, P: SnapshotStore> Actor for LocalMachine<S, P> {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(lane) = self.0.take() {
            lane.end();
        }
    }
}

impl<S: StateMachine, P: SnapshotStore> Actor for ThreadMachine<S, P> {
    type Context = SyncContext<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some(lane) = self.0.take() {
            lane.end();
        }
    }
}

impl<S: StateMachine, P: SnapshotStore> Handler<MachineMessage<S>> for LocalMachine<S, P> {
    type Result = ();

    fn handle(&mut self, message: MachineMessage<S>, context: &mut Self::Context) {
        let Some(lane) = self.0.take() else { return refuse(message) };
        if !matches!(message, MachineMessage::Restore { .. }) {
            self.0 = lane.perform(message);
            return;
        }
        let restored = tokio::task::spawn_blocking(move || lane.perform(message));
        // The mailbox waits meanwhile. An error: the runtime is shut down.
        context.wait(restored.into_actor(self).map(|lane, this, _| this.0 = lane.unwrap_or(None)));
    }
}

impl<S: StateMachine, P: SnapshotStore> Handler<MachineMessage<S>> for ThreadMachine<S, P> {
    type Result = ();

    fn handle(&mut self, message: MachineMessage<S>, _: &mut Self::Context) {
        match self.0.take() {
            Some(lane) => self.0 = lane.perform(message),
            None => refuse(message),
        }
    }
}
