//! Where the machine lane runs.
//!
//! * A machine that may block, or was given one, has a thread.
//! * Any other runs in the node's own turns: no task is woken to apply, nor to hear of it. What takes its time runs
//!   beside the node, in a task that gives the lane back when it has no more to do: users' closures, snapshots, and more
//!   entries than one turn may apply. A restore, which may block, moves to the blocking pool for as long.
//! * A lane that is dropped still does what was handed to it, then drops the machine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft_core::LogIndex;
use raft_core::host::{SnapshotStore, StateMachine, Writer};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_util::task::TaskTracker;

use crate::apply::{Lane, LaneTask, Next};
use crate::error::{StartError, StopReason};
use crate::worker::Worker;

/// Tasks taken at once by a thread; what was applied is reported once for all of them.
const BATCH_MAX: usize = 64;

/// A machine lane that runs.
pub(super) trait Place<S: StateMachine, W>: Send {
    /// Takes the next task.
    fn perform(&mut self, task: LaneTask<S, W>);

    /// To be called when the node has no more to do: begins with what was taken. If some of it is performed at once, at
    /// most as many entries as that and they are taken from it, says what is applied now; what else is, is reported later.
    ///
    /// # Errors
    /// If the machine failed: the reason to stop the node.
    fn flush(&mut self, entries_max: &mut u64) -> Result<Option<LogIndex>, StopReason>;
}

/// Any of them.
pub(super) type AnyPlace<S, W> = Box<dyn Place<S, W>>;

/// On a thread of its own, which ends when the place is dropped and what is queued is done, or at the first failure.
pub(super) fn on_thread<S, P, W>(mut lane: Lane<S, P, W>) -> Result<(AnyPlace<S, W>, Worker), StartError>
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    // Unbounded: the core bounds what is unapplied, and how many reads are pending.
    let (sender, mut queue) = mpsc::unbounded_channel();
    let worker = Worker::spawn("raft-machine", move || {
        if let Err(reason) = work(&mut lane, &mut queue) {
            lane.fail(reason);
        }
        queue.close();
        lane.finish(std::iter::from_fn(|| queue.try_recv().ok()));
    })?;
    Ok((Box::new(OnThread(sender)), worker))
}

fn work<S, P, W>(
    lane: &mut Lane<S, P, W>,
    queue: &mut UnboundedReceiver<LaneTask<S, W>>,
) -> Result<(), StopReason>
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response>,
{
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        lane.tasks().extend(batch.drain(..));
        loop {
            match lane.run() {
                Next::Wait => break,
                Next::Long => {}
                Next::Restore(restore) => lane.restore(restore)?,
                Next::End(reason) => return Err(reason),
            }
        }
    }
    Ok(())
}

struct OnThread<S, W>(UnboundedSender<LaneTask<S, W>>);

impl<S: StateMachine, W: Send> Place<S, W> for OnThread<S, W> {
    fn perform(&mut self, task: LaneTask<S, W>) {
        // A lane that has ended reported why before it did. What the task holds is dropped, which its callers see.
        drop(self.0.send(task));
    }

    fn flush(&mut self, _: &mut u64) -> Result<Option<LogIndex>, StopReason> {
        Ok(None)
    }
}

/// In the node's turns, and beside them; what runs beside is among `tasks`.
///
/// # Panics
/// Outside a Tokio runtime.
pub(super) fn in_turns<S, P, W>(lane: Lane<S, P, W>, tasks: TaskTracker) -> AnyPlace<S, W>
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    let away = Away { queue: Vec::new(), back: None, ended: false };
    let away = Arc::new(Mutex::new(away));
    Box::new(InTurns { lane: Some(Box::new(lane)), away, tasks, runtime: Handle::current() })
}

struct InTurns<S, P, W>
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    /// `None` while it is away, and once it has failed.
    lane: Option<Box<Lane<S, P, W>>>,
    away: Arc<Mutex<Away<S, P, W>>>,
    tasks: TaskTracker,
    runtime: Handle,
}

/// What the node and a lane beside it share.
struct Away<S: StateMachine, P: SnapshotStore, W> {
    /// What the lane has not taken yet.
    queue: Vec<LaneTask<S, W>>,
    /// It has done all, and the node has not noticed.
    back: Option<Box<Lane<S, P, W>>>,
    /// The node does not want it back.
    ended: bool,
}

fn lock<S: StateMachine, P: SnapshotStore, W>(away: &Mutex<Away<S, P, W>>) -> MutexGuard<'_, Away<S, P, W>> {
    // No user's code runs while it is held.
    away.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S, P, W> InTurns<S, P, W>
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    fn send_away(&mut self, lane: Box<Lane<S, P, W>>) {
        drop(self.tasks.spawn_on(beside(lane, Arc::clone(&self.away)), &self.runtime));
    }
}

impl<S, P, W> Place<S, W> for InTurns<S, P, W>
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    fn perform(&mut self, task: LaneTask<S, W>) {
        if self.lane.is_none() {
            let mut away = lock(&self.away);
            self.lane = away.back.take();
            if self.lane.is_none() {
                return away.queue.push(task);
            }
        }
        if let Some(lane) = &mut self.lane {
            lane.tasks().push_back(task);
        }
    }

    fn flush(&mut self, entries_max: &mut u64) -> Result<Option<LogIndex>, StopReason> {
        let Some(lane) = &mut self.lane else { return Ok(None) };
        if lane.tasks().is_empty() {
            return Ok(None);
        }
        let (applied, next) = lane.run_short(entries_max);
        if !matches!(next, Next::Wait)
            && let Some(mut lane) = self.lane.take()
        {
            match next {
                Next::Restore(restore) => lane.tasks().push_front(LaneTask::Restore(restore)),
                Next::End(reason) => {
                    lane.finish(std::iter::empty());
                    return Err(reason);
                }
                Next::Wait | Next::Long => {}
            }
            self.send_away(lane);
        }
        Ok(applied)
    }
}

impl<S, P, W> Drop for InTurns<S, P, W>
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    fn drop(&mut self) {
        let back = {
            let mut away = lock(&self.away);
            away.ended = true;
            away.back.take()
        };
        let Some(mut lane) = self.lane.take().or(back) else { return };
        if lane.tasks().is_empty() {
            lane.finish(std::iter::empty());
        } else {
            self.send_away(lane);
        }
    }
}

/// Does all there is to do, then gives the lane back.
async fn beside<S, P, W>(mut lane: Box<Lane<S, P, W>>, away: Arc<Mutex<Away<S, P, W>>>)
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    loop {
        let failed = match lane.run() {
            Next::Wait => {
                let mut away = lock(&away);
                if away.queue.is_empty() {
                    if !away.ended {
                        away.back = Some(lane);
                        return;
                    }
                    break;
                }
                lane.tasks().extend(away.queue.drain(..));
                None
            }
            Next::Long => None,
            Next::Restore(restore) => {
                let restored = tokio::task::spawn_blocking(move || {
                    let restored = lane.restore(restore);
                    (lane, restored)
                });
                // An error: the runtime is shut down, and the lane is gone with it.
                let Ok((back, restored)) = restored.await else { return };
                lane = back;
                restored.err()
            }
            Next::End(reason) => Some(reason),
        };
        if let Some(reason) = failed {
            lane.fail(reason);
            break;
        }
        tokio::task::yield_now().await;
    }
    let behind = std::mem::take(&mut lock(&away).queue);
    lane.finish(behind.into_iter());
}
