//! The two lanes: where the log store and the state machine run, each in order.
//!
//! * A log store that may block is an actor in a [`SyncContext`] on a [`SyncArbiter`] of one thread, which keeps the
//!   order of its calls. One that does not block runs inline in the node's actor, once for all writes of a turn.
//! * Reads of the log never queue behind an fsync: they run on the runtime's blocking pool, or inline.
//! * The state machine is an actor on the node's own arbiter, or on a thread of its own.
//! * Whatever is done is reported by `do_send`, past the mailbox's capacity: the core's limits bound it.
//! * After the first failure, a panic included, a store or machine is not called again, only dropped.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use actix::{Actor, Addr, Context, Handler, Message, Recipient, SyncArbiter, SyncContext};
use raft_core::host::{Committed, LogSpan, LogStore, MachineLane, Read, StateMachine};
use raft_core::{Entries, Event, Write, WriteId};
use raft_driver_tokio::driver::{
    LOG_STORE, STATE_MACHINE, apply, discard, guard, read_log, reject_reads, serve, write_log,
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
    /// Takes the next write.
    fn write(&mut self, write: Write);
    /// Performs what was taken, if the store runs inline, and says what is durable now.
    fn flush(&mut self) -> Result<Option<WriteId>, StopReason>;
    /// Reads entries: returns the event, or sees to it that it comes later.
    fn read(&mut self, span: LogSpan) -> Result<Option<Event>, StopReason>;
}

/// Begins; the store is dropped after the lane, when the writes queued are done.
pub(crate) fn log_lane<L: LogStore>(
    store: L,
    reports: Reports,
    lifeline: &Lifeline,
) -> Result<Box<dyn LogLane>, Panicked> {
    let reader = store.reader();
    if !L::MAY_BLOCK {
        return Ok(Box::new(Inline { store: Some(store), reader, batch: Vec::new() }));
    }
    let actor = LogActor {
        store: Some(store),
        reports: Some(Arc::clone(&reports)),
        _lifeline: Some(lifeline.clone()),
    };
    let first = Mutex::new(Some(actor));
    // Called once: the actor never stops itself, and nobody restarts what has failed.
    let factory = move || {
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        first.take().unwrap_or(LogActor { store: None, reports: None, _lifeline: None })
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
    batch: Vec<Write>,
}

impl<L: LogStore> LogLane for Inline<L> {
    fn write(&mut self, write: Write) {
        self.batch.push(write);
    }

    fn flush(&mut self) -> Result<Option<WriteId>, StopReason> {
        let (Some(store), Some(last)) = (&mut self.store, self.batch.last()) else { return Ok(None) };
        let id = last.id;
        write_log(store, &self.batch)?;
        self.batch.clear();
        Ok(Some(id))
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
    fn write(&mut self, write: Write) {
        self.store.do_send(WriteTask(write));
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

/// One write. Up to the core's limit on writes in flight are queued, and entries gather meanwhile in the next one: the
/// group commit forms in the core.
struct WriteTask(Write);

impl Message for WriteTask {
    type Result = ();
}

impl<L: LogStore> Handler<WriteTask> for LogActor<L> {
    type Result = ();

    fn handle(&mut self, WriteTask(task): WriteTask, _: &mut Self::Context) {
        let (Some(store), Some(reports)) = (&mut self.store, &self.reports) else { return };
        match write_log(store, std::slice::from_ref(&task)) {
            Ok(()) => reports(Input::Event(Event::Persisted(task.id))),
            Err(reason) => {
                reports(Input::Failed(reason));
                discard(LOG_STORE, self.store.take());
            }
        }
    }
}

// --- the machine lane --------------------------------------------------------------------------------------

/// Something for the state machine.
pub(crate) enum MachineMessage<S: StateMachine> {
    /// Apply these; the writers' commands are among them or come later.
    Apply { entries: Entries, committed: Vec<Committed<PendingWrite<S::Response>>> },
    /// Answer these from what has been applied.
    Serve(Vec<Box<dyn Read<S>>>),
}

impl<S: StateMachine> Message for MachineMessage<S> {
    type Result = ();
}

/// Begins; the lane ends when its recipient is dropped and what is queued is done.
pub(crate) fn machine_lane<S: StateMachine>(
    machine: S,
    reports: Reports,
    lifeline: &Lifeline,
    on_thread: bool,
) -> Result<Recipient<MachineMessage<S>>, Panicked> {
    let lane = Lane {
        lane: Some(MachineLane::new(machine)),
        reports: Some(reports),
        _lifeline: Some(lifeline.clone()),
    };
    if !on_thread {
        return Ok(LocalMachine(lane).start().recipient());
    }
    let first = Mutex::new(Some(lane));
    let factory = move || {
        let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
        ThreadMachine(first.take().unwrap_or(Lane { lane: None, reports: None, _lifeline: None }))
    };
    Ok(guard("thread of the state machine", || SyncArbiter::start(1, factory))?.recipient())
}

struct Lane<S: StateMachine> {
    /// `None` once it has failed.
    lane: Option<MachineLane<S, PendingWrite<S::Response>>>,
    reports: Option<Reports>,
    // Dropped last.
    _lifeline: Option<Lifeline>,
}

impl<S: StateMachine> Lane<S> {
    fn handle(&mut self, message: MachineMessage<S>) {
        let (Some(lane), Some(reports)) = (&mut self.lane, &self.reports) else {
            match message {
                MachineMessage::Apply { committed, .. } => committed.into_iter().for_each(Committed::lose),
                MachineMessage::Serve(reads) => reject_reads(reads),
            }
            return;
        };
        let (entries, committed) = match message {
            MachineMessage::Apply { entries, committed } => (entries, committed),
            MachineMessage::Serve(reads) => return serve(reads, lane.machine()),
        };
        let applied = apply(lane, &entries, committed);
        match (applied, entries.last()) {
            (Ok(()), Some(last)) => reports(Input::Event(Event::Applied(last.index))),
            (Ok(()), None) => {}
            (Err(reason), _) => {
                // Told first, so that whoever hears that its response is lost can ask why.
                reports(Input::Failed(reason));
                self.end();
            }
        }
    }

    fn end(&mut self) {
        if let Some(lane) = self.lane.take() {
            discard(STATE_MACHINE, lane.stop());
        }
    }
}

/// A state machine on the node's arbiter.
struct LocalMachine<S: StateMachine>(Lane<S>);

/// A state machine on a thread of its own.
struct ThreadMachine<S: StateMachine>(Lane<S>);

// A machine is never pinned.
impl<S: StateMachine> Unpin for LocalMachine<S> {}
impl<S: StateMachine> Unpin for ThreadMachine<S> {}

impl<S: StateMachine> Actor for LocalMachine<S> {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.0.end();
    }
}

impl<S: StateMachine> Actor for ThreadMachine<S> {
    type Context = SyncContext<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.0.end();
    }
}

impl<S: StateMachine> Handler<MachineMessage<S>> for LocalMachine<S> {
    type Result = ();

    fn handle(&mut self, message: MachineMessage<S>, _: &mut Self::Context) {
        self.0.handle(message);
    }
}

impl<S: StateMachine> Handler<MachineMessage<S>> for ThreadMachine<S> {
    type Result = ();

    fn handle(&mut self, message: MachineMessage<S>, _: &mut Self::Context) {
        self.0.handle(message);
    }
}
