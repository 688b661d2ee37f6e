//! The machine lane: applies, restores and serves reads beside the node, in order, on a task or a thread of its own.
//!
//! * What is applied, and who waits for it, is [`MachineLane`]'s; here is where it runs, and what a failure means.
//! * A snapshot's state is frozen in the lane and kept beside it. A restore is the lane's own work, and may block: a
//!   lane that is a task moves to the blocking pool for as long.
//! * While writes are forwarded to the leader, the responses that nobody waits for are kept for a while: the leader's
//!   answer, which names the entry, may come after it was applied here.
//! * After the first failure the machine is not called again. Whoever still waits is told that the command is
//!   committed and the response lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use raft_core::host::{Committed, MachineLane, Read, SnapshotStore, StateMachine, Writer};
use raft_core::{Entries, Event, LogId, LogIndex, SnapshotMeta};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;

use crate::driver::{
    LogReports, STATE_MACHINE, SnapshotLane, apply, apply_keeping, discard, reject_reads, serve,
};
use crate::error::{StartError, StopReason};
use crate::forward::Kept;
use crate::worker::Worker;

/// Tasks taken at once; what was applied is reported once for all of them.
const BATCH_MAX: usize = 64;

/// Responses kept for answers of the leader that are late.
const RESPONSES_KEPT_MAX: usize = 16 * 1024;
/// What they may take up, as the machine counts it, beside the last one.
const RESPONSES_KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Something for the state machine.
pub(crate) enum LaneTask<S, W> {
    /// Apply these; the commands of those who wait are among them or come later.
    Apply { entries: Entries, committed: Vec<Committed<W>> },
    /// Answer this one, whose command the leader wrote, when it is applied here.
    Claim(Committed<W>, Kept),
    /// Give up those of them whose limit has passed.
    Forget,
    /// Answer these from what has been applied.
    Serve(Vec<Box<dyn Read<S>>>),
    /// Keep the state as it is now.
    TakeSnapshot(Arc<SnapshotMeta>),
    /// Replace the state.
    Restore(Restore<W>),
}

/// A snapshot that takes the state's place, and those whose entries it may skip.
pub(crate) struct Restore<W> {
    pub(crate) meta: Arc<SnapshotMeta>,
    pub(crate) committed: Vec<Committed<W>>,
}

/// Where a lane runs.
#[derive(Debug)]
pub(crate) enum Runner {
    Task(JoinHandle<()>),
    Thread(Worker),
}

impl Runner {
    /// Resolves when the lane has ended and the machine is dropped.
    pub(crate) async fn ended(self) {
        match self {
            Self::Thread(worker) => worker.ended().await,
            Self::Task(task) => {
                if task.await.is_err_and(|error| error.is_panic()) {
                    tracing::error!("the state machine's task panicked while it ended");
                }
            }
        }
    }
}

/// Begins; the lane ends when its sender is dropped and what is queued is done, or at the first failure.
pub(crate) fn start<S, P, W>(
    machine: S,
    snapshots: SnapshotLane<P>,
    reports: LogReports,
    keep: Arc<AtomicUsize>,
    on_thread: bool,
) -> Result<(UnboundedSender<LaneTask<S, W>>, Runner), StartError>
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    // Unbounded: the core bounds what is unapplied, and how many reads are pending.
    let (sender, tasks) = mpsc::unbounded_channel();
    let lane = Lane {
        machine: MachineLane::new(machine),
        snapshots,
        reports,
        tasks: VecDeque::new(),
        keep,
        unclaimed: Unclaimed::default(),
        applied: LogIndex::ZERO,
    };
    let runner = if on_thread {
        Runner::Thread(Worker::spawn("raft-machine", move || run_on_thread(lane, tasks))?)
    } else {
        Runner::Task(tokio::spawn(run_as_task(lane, tasks)))
    };
    Ok((sender, runner))
}

fn run_on_thread<S, P, W>(mut lane: Lane<S, P, W>, mut queue: UnboundedReceiver<LaneTask<S, W>>)
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        lane.tasks.extend(batch.drain(..));
        loop {
            match lane.run() {
                Next::Wait => break,
                Next::End => return lane.finish(queue),
                Next::Restore(restore) => {
                    if !lane.restore(restore) {
                        return lane.finish(queue);
                    }
                }
            }
        }
    }
    lane.finish(queue);
}

async fn run_as_task<S, P, W>(mut lane: Lane<S, P, W>, mut queue: UnboundedReceiver<LaneTask<S, W>>)
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, BATCH_MAX).await > 0 {
        lane.tasks.extend(batch.drain(..));
        loop {
            match lane.run() {
                Next::Wait => break,
                Next::End => return lane.finish(queue),
                Next::Restore(restore) => {
                    let restored = tokio::task::spawn_blocking(move || {
                        let goes_on = lane.restore(restore);
                        (lane, goes_on)
                    });
                    // An error: the runtime is shut down, and the lane is gone with it.
                    let Ok((back, goes_on)) = restored.await else { return };
                    lane = back;
                    if !goes_on {
                        return lane.finish(queue);
                    }
                }
            }
        }
    }
    lane.finish(queue);
}

/// What comes after some tasks.
enum Next<W> {
    /// All are done.
    Wait,
    /// This, which may block; then go on.
    Restore(Restore<W>),
    /// The lane has failed.
    End,
}

struct Lane<S: StateMachine, P: SnapshotStore, W> {
    machine: MachineLane<S, W>,
    snapshots: SnapshotLane<P>,
    reports: LogReports,
    /// Taken from the queue and not done.
    tasks: VecDeque<LaneTask<S, W>>,
    /// How many forwarded writes may yet claim a response.
    keep: Arc<AtomicUsize>,
    unclaimed: Unclaimed<S::Response>,
    /// The last index applied since the start.
    applied: LogIndex,
}

/// Responses that nobody waited for, in log order; the oldest make room.
struct Unclaimed<R> {
    responses: VecDeque<(LogId, usize, R)>,
    bytes: usize,
}

impl<R> Default for Unclaimed<R> {
    fn default() -> Self {
        Self { responses: VecDeque::new(), bytes: 0 }
    }
}

impl<R> Unclaimed<R> {
    fn keep(&mut self, id: LogId, bytes: usize, response: R) {
        // Too long is too long: sums stay within their bounds.
        let bytes = bytes.min(RESPONSES_KEPT_BYTES_MAX + 1);
        self.responses.push_back((id, bytes, response));
        self.bytes += bytes;
        let is_too_much =
            |kept: &Self| kept.responses.len() > RESPONSES_KEPT_MAX || kept.bytes > RESPONSES_KEPT_BYTES_MAX;
        while self.responses.len() > 1 && is_too_much(self) {
            let (_, bytes, _) = self.responses.pop_front().expect("there are two");
            self.bytes -= bytes;
        }
    }

    fn take(&mut self, index: LogIndex) -> Option<(LogId, R)> {
        let at = self.responses.binary_search_by_key(&index, |(id, ..)| id.index).ok()?;
        let (id, bytes, response) = self.responses.remove(at)?;
        self.bytes -= bytes;
        Some((id, response))
    }
}

impl<S: StateMachine, P: SnapshotStore, W: Writer<Response = S::Response>> Lane<S, P, W> {
    /// Performs tasks and reports.
    fn run(&mut self) -> Next<W> {
        let mut applied = None;
        let next = loop {
            let result = match self.tasks.pop_front() {
                None => break Next::Wait,
                Some(LaneTask::Restore(restore)) => break Next::Restore(restore),
                Some(LaneTask::Serve(reads)) => {
                    serve(reads, self.machine.machine());
                    continue;
                }
                Some(LaneTask::TakeSnapshot(meta)) => self.snapshots.take(&mut self.machine, meta),
                Some(LaneTask::Claim(claim, kept)) => {
                    self.claim(claim);
                    drop(kept);
                    continue;
                }
                Some(LaneTask::Forget) => {
                    self.machine.forget();
                    continue;
                }
                Some(LaneTask::Apply { entries, committed }) => {
                    let result = self.apply(&entries, committed);
                    applied = entries.last().map(|last| last.index).or(applied);
                    result
                }
            };
            if let Err(reason) = result {
                // Who waits behind it is answered by `finish`.
                self.fail(reason);
                return Next::End;
            }
        };
        if let Some(index) = applied {
            self.report(index);
        }
        next
    }

    fn apply(&mut self, entries: &Entries, committed: Vec<Committed<W>>) -> Result<(), StopReason> {
        self.applied = entries.last().map_or(self.applied, |last| last.index);
        // Counted before the leader was asked, and so before it could send the entry.
        if self.keep.load(Ordering::Acquire) == 0 {
            self.unclaimed = Unclaimed::default();
            return apply(&mut self.machine, entries, committed);
        }
        let unclaimed = &mut self.unclaimed;
        apply_keeping(&mut self.machine, entries, committed, |id, response| {
            unclaimed.keep(id, S::response_bytes(&response), response);
        })
    }

    /// Answers from what was kept, or lets the writer wait.
    fn claim(&mut self, claim: Committed<W>) {
        match self.unclaimed.take(claim.id.index) {
            Some((id, response)) if id == claim.id => claim.writer.applied(id, response),
            Some(_) => claim.lose(),
            None if claim.id.index > self.applied => self.machine.wait(claim),
            None => claim.lose(),
        }
    }

    /// Returns whether to go on.
    fn restore(&mut self, Restore { meta, committed }: Restore<W>) -> bool {
        match self.snapshots.restore(&mut self.machine, &meta, committed) {
            Ok(()) => {
                self.applied = meta.id.last.index;
                self.report(meta.id.last.index);
                true
            }
            Err(reason) => {
                self.fail(reason);
                false
            }
        }
    }

    fn report(&self, index: LogIndex) {
        // A node that is gone needs no report; its lane ends when the queue is empty.
        (self.reports)(Ok(Event::Applied(index)));
    }

    fn fail(&self, reason: StopReason) {
        (self.reports)(Err(reason));
    }

    /// Answers whoever still waits and drops the machine.
    fn finish(self, mut queue: UnboundedReceiver<LaneTask<S, W>>) {
        let machine = self.machine.stop();
        queue.close();
        for task in self.tasks.into_iter().chain(std::iter::from_fn(|| queue.try_recv().ok())) {
            match task {
                LaneTask::Apply { committed, .. } | LaneTask::Restore(Restore { committed, .. }) => {
                    committed.into_iter().for_each(Committed::lose);
                }
                LaneTask::Claim(claim, _) => claim.lose(),
                LaneTask::Serve(reads) => reject_reads(reads),
                LaneTask::TakeSnapshot(_) | LaneTask::Forget => {}
            }
        }
        discard(STATE_MACHINE, machine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::Term;

    fn id(index: u64) -> LogId {
        LogId::new(Term::new(1), LogIndex::new(index))
    }

    #[test]
    fn responses_are_kept_up_to_a_number_and_a_size() {
        let mut unclaimed = Unclaimed::default();
        for index in 1..=RESPONSES_KEPT_MAX as u64 + 2 {
            unclaimed.keep(id(index), 8, index);
        }
        assert_eq!(unclaimed.take(LogIndex::new(2)), None);
        assert_eq!(unclaimed.take(LogIndex::new(3)), Some((id(3), 3)));
        let mut unclaimed = Unclaimed::default();
        let half = RESPONSES_KEPT_BYTES_MAX / 2;
        (1..=3).for_each(|index| unclaimed.keep(id(index), half, index));
        assert_eq!(unclaimed.take(LogIndex::new(1)), None);
        assert_eq!(unclaimed.take(LogIndex::new(2)), Some((id(2), 2)));
        // One that is longer than everything has it alone.
        unclaimed.keep(id(4), usize::MAX, 4);
        assert_eq!((unclaimed.responses.len(), unclaimed.take(LogIndex::new(4))), (1, Some((id(4), 4))));
        assert_eq!(unclaimed.bytes, 0);
    }
}
