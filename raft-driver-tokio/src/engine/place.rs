//! Where the machine lane runs.
//!
//! * A machine that may block, or was given one, has a thread.
//! * Any other runs in the node's own turns: no task is woken to apply, nor to hear of it. What takes its time runs
//!   beside the node, in a task that gives the lane back when it has no more to do: users' closures, snapshots, and more
//!   entries than one turn may apply. Others, the node first of all, run after each turn's worth of entries and reads, and
//!   after a snapshot. A restore, which may block, moves to the blocking pool for as long.
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
    // Unbounded: the core bounds what is unapplied, the engine how many reads wait, and drivers how many local ones.
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
            match lane.run(u64::MAX) {
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
    let away = Away { queue: Vec::new(), back: None, ended: false, failed: false };
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
    /// It will not come back.
    failed: bool,
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
                if !away.failed {
                    return away.queue.push(task);
                }
                drop(away);
                return task.lose();
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
                    lock(&self.away).failed = true;
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

/// Does all there is to do, a turn's worth at a time, then gives the lane back. Perhaps the node has no other thread.
async fn beside<S, P, W>(mut lane: Box<Lane<S, P, W>>, away: Arc<Mutex<Away<S, P, W>>>)
where
    S: StateMachine,
    P: SnapshotStore,
    W: Writer<Response = S::Response> + Send + 'static,
{
    loop {
        let failed = match lane.run(super::TURN_APPLIES_MAX) {
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
    let behind = {
        let mut away = lock(&away);
        away.failed = true;
        std::mem::take(&mut away.queue)
    };
    lane.finish(behind.into_iter());
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use raft_core::host::{Committed, Read, Rejection, RestoreError, SnapshotSource, WholeState};
    use raft_core::{Commands, Entries, EntryRef, Event, LogId, Term};
    use tokio::sync::{mpsc, oneshot};

    use super::*;
    use crate::driver::SnapshotLane;
    use crate::request::{Answer, PendingWrite, Reply, Slot};
    use crate::storage::MemorySnapshots;

    /// Counts what it applies, in order; panics at a certain index.
    struct Count {
        applied: u64,
        panics_at: u64,
    }

    impl StateMachine for Count {
        type Response = u64;
        type Snapshot = WholeState;
        type Error = Infallible;

        fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Infallible> {
            for entry in entries.iter() {
                if let EntryRef::Command(id, _) = entry {
                    assert_ne!(id.index.get(), self.panics_at, "told to");
                    self.applied += 1;
                    assert_eq!(id.index.get(), self.applied, "in order, each once");
                    responses.push(self.applied);
                }
            }
            Ok(())
        }
        fn snapshot(&mut self) -> Result<WholeState, Infallible> {
            Ok(WholeState::new(""))
        }
        fn restore(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
            Ok(())
        }
    }

    /// Tells how much was applied when it was served.
    struct Look(oneshot::Sender<u64>);

    impl Read<Count> for Look {
        fn serve(self: Box<Self>, machine: &Count) {
            let _ = self.0.send(machine.applied);
        }
        fn reject(self: Box<Self>, _: Rejection) {}
        fn is_abandoned(&self) -> bool {
            false
        }
    }

    type Reports = mpsc::UnboundedReceiver<Result<Event, StopReason>>;

    fn place(panics_at: u64, tasks: &TaskTracker) -> (AnyPlace<Count, PendingWrite<u64>>, Reports) {
        let (told, reports) = mpsc::unbounded_channel();
        let reported = Arc::new(move |report| drop(told.send(report)));
        let snapshots = SnapshotLane::start(MemorySnapshots::default(), Arc::new(|_| ()), TaskTracker::new());
        let machine = Count { applied: 0, panics_at };
        let lane = Lane::new(machine, snapshots, reported, Arc::new(AtomicUsize::new(0)));
        (in_turns(lane, tasks.clone()), reports)
    }

    type Waiting = oneshot::Receiver<Answer<crate::Applied<u64>>>;

    /// To serve so many reads, and what they see.
    fn serve(count: u64) -> (LaneTask<Count, PendingWrite<u64>>, Vec<oneshot::Receiver<u64>>) {
        let (senders, seen): (Vec<_>, Vec<_>) = (0..count).map(|_| oneshot::channel()).unzip();
        let reads = senders.into_iter().map(|sender| Box::new(Look(sender)) as Box<dyn Read<Count>>);
        (LaneTask::Serve(reads.collect(), None), seen)
    }

    /// To apply so many entries behind `after`; the last one's writer waits.
    fn apply(after: u64, count: u64) -> (LaneTask<Count, PendingWrite<u64>>, Waiting) {
        let id = |index| LogId::new(Term::new(1), LogIndex::new(index));
        let commands = (0..count).map(|_| [7; 4]).collect::<Commands>();
        let (sender, answer) = oneshot::channel();
        let reply = Reply::Applied(Slot::One(sender));
        let writer = PendingWrite { command: Bytes::new(), reply, forward: None, room: None };
        let committed = vec![Committed { id: id(after + count), writer }];
        (LaneTask::Apply { entries: Entries::commands(id(after + 1), &commands), committed }, answer)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whatever_runs_beside_the_order_stays_and_all_is_done() {
        let tasks = TaskTracker::new();
        let (mut place, mut reports) = place(0, &tasks);
        let (mut last, mut answers, mut looks) = (0, Vec::new(), Vec::new());
        let (mut inline, mut beside) = (0, 0);
        for round in 0..2_000_u64 {
            if round % 7 == 3 {
                let (task, seen) = serve(1);
                place.perform(task);
                looks.extend(seen.into_iter().map(|seen| (last, seen)));
            }
            let count = 1 + round * 37 % 40;
            let (task, answer) = apply(last, count);
            place.perform(task);
            last += count;
            answers.push((last, answer));
            let mut entries_max = 32;
            if let Some(applied) = place.flush(&mut entries_max).expect("no failure") {
                inline += 1;
                assert!(applied.get() <= last && entries_max < 32);
            }
            if round % 3 == 0 {
                tokio::task::yield_now().await;
            }
        }
        // What is queued is done although nobody asks any more.
        drop(place);
        for (index, answer) in answers {
            assert_eq!(answer.await.expect("answered").expect("applied").response, index);
        }
        for (least, seen) in looks {
            assert_eq!(seen.await, Ok(least), "a read is served where it stands");
        }
        tasks.close();
        tasks.wait().await;
        while let Some(report) = reports.recv().await {
            assert!(matches!(report, Ok(Event::Applied(_))));
            beside += 1;
        }
        assert!(inline > 0 && beside > 0, "{inline} inline, {beside} beside");
    }

    #[tokio::test]
    async fn on_the_node_s_own_thread_others_run_meanwhile() {
        const MANY: u64 = 200_000;
        let tasks = TaskTracker::new();
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        let other = tokio::spawn(async move {
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        });
        // Of many entries, of many reads, and of many tasks with one read each.
        for (entries, reads, tasks_max) in [(MANY, 0, 1), (1, MANY, 1), (1, 1, MANY)] {
            let (mut place, mut reports) = place(0, &tasks);
            let (task, answer) = apply(0, entries);
            place.perform(task);
            let mut looks = Vec::new();
            for _ in 0..tasks_max {
                let (task, seen) = serve(reads);
                place.perform(task);
                looks.extend(seen);
            }
            let (task, behind) = apply(entries, 1);
            place.perform(task);
            let before = turns.load(Ordering::Relaxed);
            let inline = place.flush(&mut 1).expect("no failure").map_or(0, LogIndex::get);
            assert_eq!(inline, if entries == 1 { 1 } else { 0 });
            assert_eq!(answer.await.expect("answered").expect("applied").response, entries);
            assert_eq!(behind.await.expect("answered").expect("applied").response, entries + 1);
            let others = turns.load(Ordering::Relaxed) - before;
            let parts = usize::try_from(MANY / crate::engine::TURN_APPLIES_MAX).expect("small");
            // Nor does each read cost a turn.
            assert!((parts..2 * parts).contains(&others), "{others} turns of others: {entries}, {reads}");
            for seen in looks {
                assert_eq!(seen.await, Ok(entries), "served where it stands");
            }
            let mut reported = inline;
            while reported <= entries {
                let Some(Ok(Event::Applied(index))) = reports.recv().await else { panic!("no failure") };
                assert!(index.get() > reported && index.get() - reported <= crate::engine::TURN_APPLIES_MAX);
                reported = index.get();
            }
        }
        other.abort();
    }

    #[tokio::test]
    async fn who_waits_behind_a_failure_is_told_that_the_response_is_lost() {
        // In the turn, and beside it, there also in a part of what was handed over.
        for (entries_max, count, panics_at) in [(100, 4, 5), (1, 4, 5), (1, 2_000, 3_500)] {
            let tasks = TaskTracker::new();
            let (mut place, mut reports) = place(panics_at, &tasks);
            let mut answers = Vec::new();
            for after in [0, count, 2 * count] {
                let (task, answer) = apply(after, count);
                place.perform(task);
                answers.push(answer);
            }
            let flushed = place.flush(&mut entries_max.clone());
            if entries_max == 100 {
                assert!(flushed.is_err());
            } else {
                assert!(matches!(flushed, Ok(None)));
                while !matches!(reports.recv().await, Some(Err(StopReason::Panicked { .. }))) {}
                tokio::task::yield_now().await;
            }
            let (task, answer) = apply(3 * count, count);
            place.perform(task);
            answers.push(answer);
            let mut told = Vec::new();
            for answer in answers {
                told.push(match answer.await.expect("nobody is forgotten") {
                    Ok(applied) => Ok(applied.response),
                    Err(rejected) => Err(rejected.0),
                });
            }
            let lost = |index| Err(Rejection::ResponseLost(LogId::new(Term::new(1), LogIndex::new(index))));
            assert_eq!(told, [Ok(count), lost(2 * count), lost(3 * count), lost(4 * count)]);
            drop(place);
            tasks.close();
            tasks.wait().await;
        }
    }
}
