//! The snapshot lane: runs a store of snapshots beside the node, on the runtime's blocking pool.
//!
//! * Chunks of an incoming snapshot are written one after the other, in one order with what is forgotten; chunks of
//!   complete ones are read, and states saved, whenever they are asked for. Nothing of it holds up log or machine.
//! * What fails is reported to the node, which goes on, and is told to operators. A store that panics has failed once.
//! * A stop gives up what is being saved, and what is queued.

use std::error::Error;
use std::sync::Arc;

use raft_core::host::{
    FrozenState, IncomingSnapshot, MachineLane, RestoreError, SaveError, SnapshotChunk, SnapshotFault,
    SnapshotSource, SnapshotStore, StateMachine, Writer, save_snapshot,
};
use raft_core::{Event, SnapshotError, SnapshotId, SnapshotMeta, SnapshotTask};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::driver::{STATE_MACHINE, discard, guard};
use crate::error::StopReason;

/// What errors call the snapshot store.
const SNAPSHOT_STORE: &str = "snapshot store";

/// How the lane reports to the node; harmless if it is gone.
pub(crate) type SnapshotReports = Arc<dyn Fn(Event) + Send + Sync>;

/// A snapshot store and where it runs. Clones are the same lane.
pub(crate) struct SnapshotLane<P: SnapshotStore> {
    shared: Arc<Shared<P>>,
}

struct Shared<P> {
    store: Arc<P>,
    ordered: UnboundedSender<Ordered>,
    reports: SnapshotReports,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// The lane is also called from threads outside the runtime.
    runtime: Handle,
}

/// What must stay in order.
enum Ordered {
    Write(SnapshotChunk),
    Forget(SnapshotId),
}

impl<P: SnapshotStore> Clone for SnapshotLane<P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<P: SnapshotStore> std::fmt::Debug for SnapshotLane<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SnapshotLane")
    }
}

impl<P: SnapshotStore> SnapshotLane<P> {
    /// Begins, within the current runtime. Whatever the lane does is among `tasks`.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    #[must_use]
    pub(crate) fn start(store: P, reports: SnapshotReports, tasks: TaskTracker) -> Self {
        let store = Arc::new(store);
        // Unbounded: the core hands out one write at a time.
        let (ordered, queue) = unbounded_channel();
        let stop = CancellationToken::new();
        let writing = write_in_order(Arc::clone(&store), queue, Arc::clone(&reports), stop.clone());
        tasks.spawn(writing);
        let runtime = Handle::current();
        Self { shared: Arc::new(Shared { store, ordered, reports, stop, tasks, runtime }) }
    }

    /// Ends the lane; whoever wants to know when waits for its tasks.
    pub(crate) fn stop(&self) {
        self.shared.stop.cancel();
    }

    /// Ends the lane when it is dropped, also by a runtime that ends.
    #[must_use]
    pub(crate) fn stop_on_drop(&self) -> DropGuard {
        self.shared.stop.clone().drop_guard()
    }

    /// Performs a task of the node's, and reports later.
    pub(crate) fn perform(&self, task: SnapshotTask) {
        let shared = &self.shared;
        let ordered = match task {
            SnapshotTask::Read { id, offset, bytes_max } => {
                let (store, reports) = (Arc::clone(&shared.store), Arc::clone(&shared.reports));
                let read = move || {
                    let read = guard(SNAPSHOT_STORE, || store.read(id, offset, bytes_max));
                    let result = told("read", id, read.map_err(|panicked| panicked.to_string()));
                    reports(Event::SnapshotChunkRead { id, offset, result });
                };
                drop(shared.tasks.spawn_blocking_on(read, &shared.runtime));
                return;
            }
            SnapshotTask::Write { meta, offset, data, done } => {
                Ordered::Write(SnapshotChunk { meta, offset, data, done })
            }
            SnapshotTask::Forget(id) => Ordered::Forget(id),
        };
        // A lane that was stopped does nothing more.
        let _ = shared.ordered.send(ordered);
    }

    /// Freezes the machine's state, and keeps it beside the lane: reports
    /// [`Event::SnapshotTaken`] later.
    ///
    /// # Errors
    /// If the state machine panics: the reason to stop the node.
    pub(crate) fn take<M: StateMachine, W: Writer<Response = M::Response>>(
        &self,
        lane: &mut MachineLane<M, W>,
        meta: Arc<SnapshotMeta>,
    ) -> Result<(), StopReason> {
        let frozen = guard(STATE_MACHINE, || lane.snapshot())?;
        let (shared, id) = (Arc::clone(&self.shared), meta.id);
        let frozen = match frozen {
            Ok(frozen) => frozen,
            Err(error) => {
                tracing::warn!(%id, %error, "the state cannot be frozen for a snapshot");
                (shared.reports)(Event::SnapshotTaken(Err(SnapshotError::Failed)));
                return Ok(());
            }
        };
        let save = {
            let shared = Arc::clone(&shared);
            move || {
                if let Some(event) = save(&*shared.store, &meta, frozen, &shared.stop) {
                    (shared.reports)(event);
                }
            }
        };
        drop(shared.tasks.spawn_blocking_on(save, &shared.runtime));
        Ok(())
    }

    /// Replaces the machine's state by a snapshot's. Blocks.
    ///
    /// # Errors
    /// If that fails: the reason to stop the node.
    pub(crate) fn restore<M: StateMachine, W: Writer<Response = M::Response>>(
        &self,
        lane: &mut MachineLane<M, W>,
        meta: &SnapshotMeta,
        committed: Vec<raft_core::host::Committed<W>>,
    ) -> Result<(), StopReason> {
        let (store, id) = (&self.shared.store, meta.id);
        let mut read = |offset, bytes_max| {
            let read = guard(SNAPSHOT_STORE, || store.read(id, offset, bytes_max));
            told("restore", id, read.map_err(|panicked| panicked.to_string()))
        };
        let mut source = SnapshotSource::new(meta, &mut read);
        let restored = guard(STATE_MACHINE, || lane.restore(&mut source, committed))?;
        restored.map_err(|error| match error {
            RestoreError::Machine(error) => StopReason::Machine(Arc::new(error)),
            RestoreError::Source(error) => StopReason::Restore(Arc::new(error)),
            malformed @ RestoreError::Malformed(_) => {
                let error: Box<dyn Error + Send + Sync> = malformed.to_string().into();
                StopReason::Restore(error.into())
            }
        })
    }
}

/// What operators and the node are told of a store's answer.
fn told<T, E: Error>(
    what: &'static str,
    id: SnapshotId,
    answer: Result<Result<T, SnapshotFault<E>>, String>,
) -> Result<T, SnapshotError> {
    let fault = match answer {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(fault)) => fault,
        Err(panicked) => {
            tracing::error!(%id, what, panicked, "raft.snapshot");
            return Err(SnapshotError::Failed);
        }
    };
    match &fault {
        // Another one has taken its place meanwhile, most likely.
        SnapshotFault::Missing => tracing::debug!(%id, what, "the snapshot is not there"),
        SnapshotFault::Failed(_) | SnapshotFault::Damaged(_) | SnapshotFault::Different { .. } => {
            tracing::warn!(%id, what, error = chain(&fault), "raft.snapshot");
        }
    }
    Err(fault.into())
}

fn chain(error: &dyn Error) -> String {
    crate::error::Chain(error).to_string()
}

/// `None` if the node is gone.
fn save<P: SnapshotStore, F: FrozenState>(
    store: &P,
    meta: &SnapshotMeta,
    frozen: F,
    stop: &CancellationToken,
) -> Option<Event> {
    let id = meta.id;
    let saved = guard(SNAPSHOT_STORE, || save_snapshot(store, meta, frozen, || stop.is_cancelled()));
    let error = match saved {
        Ok(Ok(meta)) => return Some(Event::SnapshotTaken(Ok(meta))),
        Ok(Err(SaveError::Stopped)) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(panicked) => panicked.to_string(),
    };
    tracing::warn!(%id, error, "the snapshot cannot be kept");
    Some(Event::SnapshotTaken(Err(SnapshotError::Failed)))
}

/// Performs what must stay in order, each on the blocking pool.
async fn write_in_order<P: SnapshotStore>(
    store: Arc<P>,
    mut queue: UnboundedReceiver<Ordered>,
    reports: SnapshotReports,
    stop: CancellationToken,
) {
    let mut incoming = IncomingSnapshot::default();
    while let Some(Some(task)) = stop.run_until_cancelled(queue.recv()).await {
        let store = Arc::clone(&store);
        let performed = tokio::task::spawn_blocking(move || {
            let event = match task {
                Ordered::Forget(id) => {
                    match guard(SNAPSHOT_STORE, || incoming.forget(&*store, id)) {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::warn!(%id, error = chain(&error), "raft.snapshot"),
                        Err(panicked) => {
                            tracing::error!(%id, %panicked, "raft.snapshot");
                            discard(SNAPSHOT_STORE, std::mem::take(&mut incoming));
                        }
                    }
                    None
                }
                Ordered::Write(chunk) => {
                    let (id, offset) = (chunk.meta.id, chunk.offset);
                    let written = guard(SNAPSHOT_STORE, || incoming.write(&*store, &chunk));
                    if written.is_err() {
                        discard(SNAPSHOT_STORE, std::mem::take(&mut incoming));
                    }
                    let result = told("write", id, written.map_err(|panicked| panicked.to_string()));
                    Some(Event::SnapshotChunkWritten { id, offset, result })
                }
            };
            (incoming, event)
        });
        // An error: the runtime is shut down.
        let Ok((back, event)) = performed.await else { return };
        incoming = back;
        if let Some(event) = event {
            reports(event);
        }
    }
    discard(SNAPSHOT_STORE, incoming);
}
