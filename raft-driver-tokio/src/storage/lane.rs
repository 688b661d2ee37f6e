//! The log lane: runs a store beside the node, in order.
//!
//! * A store that may block has one thread. It takes whatever is queued as one batch, so that a group commit forms
//!   while the last fsync runs. What is queued is bounded by the core's limit on writes in flight.
//! * A store that does not block runs in the node's task, once for all writes of a turn.
//! * An asynchronous one has a task while it has something to do, which takes whatever is queued as one batch. A lane
//!   that is idle has neither thread nor task.
//! * Reads never queue behind an fsync: they have threads of the runtime's blocking pool, or tasks, or run inline.
//! * After the first failure, a panic included, the store is not called again, only dropped.
//! * A lane that is dropped still performs what it has begun with. Whatever runs is among the tasks that it was given.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use raft_core::host::{AsyncLogReader, AsyncLogStore, LogReader, LogSpan, LogStore};
use raft_core::{Event, LogRecovery, LogTask, Write, WriteId};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::driver::{LOG_STORE, discard, guard, perform_log, read_log};
use crate::error::{Panicked, StartError, StopReason};

/// How a lane reports to its node, from any thread: an event to step, or why the node must stop. Harmless if the node
/// is gone.
pub type LogReports = Arc<dyn Fn(Result<Event, StopReason>) + Send + Sync>;

/// A log store that runs.
pub trait LogLane: Send {
    /// Takes the next task.
    fn perform(&mut self, task: LogTask);

    /// To be called when the node has no more to do: begins with what was taken. If it is performed at once, says what
    /// is durable now; otherwise that is reported later.
    ///
    /// # Errors
    /// If the store failed: the reason to stop the node.
    fn flush(&mut self) -> Result<Option<WriteId>, StopReason>;

    /// Reads entries: returns the event, or sees to it that it is reported later.
    ///
    /// # Errors
    /// If the reader failed: the reason to stop the node.
    fn read(&mut self, span: LogSpan) -> Result<Option<Event>, StopReason>;
}

/// A log store that a node can run on: any [`LogStore`], or an [`AsyncLogStore`] within [`AsyncLog`].
pub trait NodeLog: sealed::Sealed + Send + Sized + 'static {
    /// For drivers: asks what survived.
    fn ask(self) -> impl Future<Output = Result<(Self, LogRecovery), StartError>> + Send;

    /// For drivers: begins, within the current runtime. Whatever runs is among `tasks`, until the store was dropped.
    ///
    /// # Errors
    /// If there is no thread to be had.
    fn start(self, reports: LogReports, tasks: TaskTracker) -> Result<Box<dyn LogLane>, StartError>;
}

mod sealed {
    use super::{AsyncLog, AsyncLogStore, LogStore};

    pub trait Sealed {}
    impl<L: LogStore> Sealed for L {}
    impl<A: AsyncLogStore> Sealed for AsyncLog<A> {}
}

// ---------------------------------------------------------------------------------------------------------
// Stores that block, and stores that do not
// ---------------------------------------------------------------------------------------------------------

impl<L: LogStore> NodeLog for L {
    async fn ask(mut self) -> Result<(Self, LogRecovery), StartError> {
        let asked = tokio::task::spawn_blocking(move || {
            let found = guard(LOG_STORE, || self.recover())?;
            Ok((self, found.map_err(|error| StartError::Log(Box::new(error)))?))
        });
        asked.await.unwrap_or_else(|error| Err(ended(&error)))
    }

    fn start(self, reports: LogReports, tasks: TaskTracker) -> Result<Box<dyn LogLane>, StartError> {
        let reader = self.reader();
        if !L::MAY_BLOCK {
            let queue = Vec::new();
            return Ok(Box::new(Inline { store: Some(self), reader, queue, batch: Vec::new() }));
        }
        let (queue, taken) = mpsc::channel();
        let (told, running) = (Arc::clone(&reports), tasks.token());
        let run = move || {
            run(self, &taken, &told);
            drop(running);
        };
        let thread = std::thread::Builder::new().name(THREAD.into()).spawn(run);
        // Its end is known by its token.
        drop(thread.map_err(|error| StartError::Thread { part: THREAD, error })?);
        Ok(Box::new(Threaded { queue, reader, reports, tasks }))
    }
}

const THREAD: &str = "raft-log";

/// A panic of a drop, or the end of the runtime: those of the calls themselves are caught.
fn ended(error: &tokio::task::JoinError) -> StartError {
    StartError::Panicked { part: "recovery", message: error.to_string() }
}

/// A store in the node's task.
struct Inline<L: LogStore> {
    /// `None` when it is being dropped.
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
        if self.queue.is_empty() {
            return Ok(None);
        }
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

/// A store with a thread of its own.
struct Threaded<R> {
    queue: mpsc::Sender<LogTask>,
    reader: R,
    reports: LogReports,
    tasks: TaskTracker,
}

impl<R: LogReader> LogLane for Threaded<R> {
    fn perform(&mut self, task: LogTask) {
        // A thread that has ended reported why before it did.
        drop(self.queue.send(task));
    }

    fn flush(&mut self) -> Result<Option<WriteId>, StopReason> {
        Ok(None)
    }

    fn read(&mut self, span: LogSpan) -> Result<Option<Event>, StopReason> {
        let (reader, reports) = (self.reader.clone(), Arc::clone(&self.reports));
        drop(self.tasks.spawn_blocking(move || reports(read_log(&reader, span))));
        Ok(None)
    }
}

/// The thread of a store that may block.
fn run<L: LogStore>(mut store: L, tasks: &mpsc::Receiver<LogTask>, reports: &LogReports) {
    let mut batch = Vec::new();
    while let Ok(first) = tasks.recv() {
        let queued = std::iter::once(first).chain(tasks.try_iter());
        let performed = perform_log(&mut store, queued, &mut batch, |id| reports(Ok(Event::Persisted(id))));
        if let Err(reason) = performed {
            reports(Err(reason));
            break;
        }
    }
    discard(LOG_STORE, store);
}

// ---------------------------------------------------------------------------------------------------------
// Asynchronous stores
// ---------------------------------------------------------------------------------------------------------

/// Gives an [`AsyncLogStore`] to the [`Builder`](crate::Builder).
///
/// ```
/// # use raft_driver_tokio::storage::{AsyncLog, NodeLog};
/// # use raft_core::host::AsyncLogStore;
/// fn log_of_a_node(store: impl AsyncLogStore) -> impl NodeLog {
///     AsyncLog(store) // for Builder::start, where any LogStore could stand
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct AsyncLog<A>(pub A);

impl<A: AsyncLogStore> NodeLog for AsyncLog<A> {
    async fn ask(self) -> Result<(Self, LogRecovery), StartError> {
        // A task of its own: whatever panics on the way, in a drop for example, is told.
        let asked = tokio::spawn(async move {
            let mut store = self.0;
            let found = guarded(|| Box::pin(store.recover())).await?;
            Ok((Self(store), found.map_err(|error| StartError::Log(Box::new(error)))?))
        });
        asked.await.unwrap_or_else(|error| Err(ended(&error)))
    }

    fn start(self, reports: LogReports, tasks: TaskTracker) -> Result<Box<dyn LogLane>, StartError> {
        let reader = self.0.reader();
        let shared = Shared { idle: Some(Idle(Some(self.0))), queue: Vec::new() };
        let shared = Arc::new(Mutex::new(shared));
        Ok(Box::new(Asynchronous { shared, reader, reports, tasks, runtime: Handle::current() }))
    }
}

/// A store whose calls are futures.
struct Asynchronous<A: AsyncLogStore> {
    shared: Arc<Mutex<Shared<A>>>,
    reader: A::Reader,
    reports: LogReports,
    tasks: TaskTracker,
    runtime: Handle,
}

struct Shared<A> {
    /// `None` while the task has it, and once it has failed.
    idle: Option<Idle<A>>,
    /// What no task has taken yet.
    queue: Vec<LogTask>,
}

/// A store that nobody calls.
struct Idle<A>(Option<A>);

impl<A> Drop for Idle<A> {
    fn drop(&mut self) {
        discard(LOG_STORE, self.0.take());
    }
}

fn lock<A>(shared: &Mutex<Shared<A>>) -> MutexGuard<'_, Shared<A>> {
    // No user's code runs while it is held.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<A: AsyncLogStore> LogLane for Asynchronous<A> {
    fn perform(&mut self, task: LogTask) {
        lock(&self.shared).queue.push(task);
    }

    fn flush(&mut self) -> Result<Option<WriteId>, StopReason> {
        if !self.reader.is_connected() {
            return Err(failed(StoreGone));
        }
        let mut shared = lock(&self.shared);
        if !shared.queue.is_empty()
            && let Some(store) = shared.idle.take()
        {
            let work = work(store, Arc::clone(&self.shared), Arc::clone(&self.reports));
            drop(self.tasks.spawn_on(work, &self.runtime));
        }
        Ok(None)
    }

    fn read(&mut self, span: LogSpan) -> Result<Option<Event>, StopReason> {
        let (reader, reports) = (self.reader.clone(), Arc::clone(&self.reports));
        let read = async move {
            let found = guarded(|| Box::pin(reader.read(span.from, span.through, span.bytes_max))).await;
            reports(match found {
                Ok(Ok(entries)) => Ok(span.found(entries)),
                Ok(Err(error)) => Err(failed(error)),
                Err(panicked) => Err(panicked.into()),
            });
        };
        drop(self.tasks.spawn_on(read, &self.runtime));
        Ok(None)
    }
}

/// The store says that it is not there any more.
#[derive(Debug, thiserror::Error)]
#[error("the log store is gone")]
struct StoreGone;

fn failed(error: impl Error + Send + Sync + 'static) -> StopReason {
    StopReason::Log(Arc::new(error))
}

/// Performs what is queued until nothing is.
async fn work<A: AsyncLogStore>(mut store: Idle<A>, shared: Arc<Mutex<Shared<A>>>, reports: LogReports) {
    loop {
        let tasks = {
            let mut shared = lock(&shared);
            if shared.queue.is_empty() {
                shared.idle = Some(store);
                return;
            }
            std::mem::take(&mut shared.queue)
        };
        let Some(store) = &mut store.0 else { return };
        if let Err(reason) = perform(store, tasks, &reports).await {
            reports(Err(reason));
            return;
        }
    }
}

/// Performs tasks in order. Writes that follow each other are one batch.
async fn perform<A: AsyncLogStore>(
    store: &mut A,
    tasks: Vec<LogTask>,
    reports: &LogReports,
) -> Result<(), StopReason> {
    let mut batch = Vec::new();
    let mut tasks = tasks.into_iter().peekable();
    while let Some(task) = tasks.next() {
        match task {
            LogTask::Compact { through } => {
                guarded(|| Box::pin(store.compact(through))).await?.map_err(failed)?;
            }
            LogTask::Write(write) => {
                let id = write.id;
                batch.push(write);
                if matches!(tasks.peek(), Some(LogTask::Write(_))) {
                    continue;
                }
                guarded(|| Box::pin(store.write(&batch))).await?.map_err(failed)?;
                batch.clear();
                reports(Ok(Event::Persisted(id)));
            }
        }
    }
    Ok(())
}

/// Awaits users' code. What has panicked is not polled again.
async fn guarded<F: Future + Unpin>(call: impl FnOnce() -> F) -> Result<F::Output, Panicked> {
    let mut future = guard(LOG_STORE, call)?;
    let output = poll_fn(|cx| match guard(LOG_STORE, || std::pin::Pin::new(&mut future).poll(cx)) {
        Ok(poll) => poll.map(Ok),
        Err(panicked) => std::task::Poll::Ready(Err(panicked)),
    })
    .await;
    discard(LOG_STORE, future);
    output
}
