//! For authors of drivers: a node with its lanes, its time and its callers, on Tokio, beside [`raft_core::host`]. `raft-driver-actix` is built on it.
//!
//! * Whatever calls users' code goes through [`guard`]: a panic stops a node, never the process or its runtime.
//! * What has failed or panicked is not called again, only dropped.
//! * An [`Engine`] is the node and its lanes, and the only one who steps the node. A driver hands it what has arrived,
//!   turn by turn.

use std::error::Error;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use raft_core::host::recording::{RecordedNode, RecorderOptions};
use raft_core::host::{
    Committed, LaneError, LogReader, LogSpan, LogStore, MachineLane, Read, Rejection, SnapshotStore,
    StateMachine, Unacceptable, Writer, message_bytes_needed,
};
use raft_core::{
    Config, Entries, Event, Instant, LogId, LogRecovery, LogTask, Membership, Node, NodeId, Notice, Recovery,
    SnapshotMeta, Write, WriteId,
};
use tokio::task::coop;
use tokio::time::Sleep;

pub use crate::engine::{Ends, Engine, Input, Running, Setup, TransportCounters, refuse_read};
use crate::error::{Panicked, StartError, StopReason};
pub use crate::forward::{Caller, Served};
pub use crate::freshness::{Fresh, Freshness, Proof};
pub use crate::metrics::{Export, Load};
pub use crate::request::{AdminRequest, Closure, ReadJob};
use crate::storage::NodeLog;
pub use crate::storage::lane::{LogLane, LogReports};
pub(crate) use crate::storage::snapshot_lane::SnapshotLane;

/// What errors call the log store.
pub(crate) const LOG_STORE: &str = "log store";
/// What errors call the state machine.
pub(crate) const STATE_MACHINE: &str = "state machine";

/// Calls users' code.
///
/// # Errors
/// If it panics. Whatever it borrowed must not be used again.
pub fn guard<R>(part: &'static str, call: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| Panicked::new(part, &*payload))
}

/// What [`Clients`](raft_core::host::Clients) asks of each command before it is proposed: the machine's own check.
///
/// # Errors
/// If the command could only make it fail, or the check panics on it.
pub(crate) fn check<S: StateMachine>(command: &Bytes) -> Result<(), Unacceptable> {
    guard(STATE_MACHINE, || S::check(command)).unwrap_or_else(|panicked| Err(Unacceptable::new(panicked)))
}

/// Drops what is users' own. Should it panic, that is only traced: the node's reason to stop was told already.
pub(crate) fn discard<T>(part: &'static str, value: T) {
    if let Err(panicked) = guard(part, || drop(value)) {
        tracing::error!(%panicked, "raft.drop");
    }
}

/// Answers reads from the machine. A reader that panics, in its closure or in a drop, harms only its caller: it had
/// no more than a shared reference. `count` goes down by one for each, before its caller can ask again.
pub(crate) fn serve<S>(reads: Vec<Box<dyn Read<S>>>, count: Option<&AtomicUsize>, machine: &S) {
    for read in reads {
        if let Some(count) = count {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        if let Err(panicked) = guard("read", || read.serve(machine)) {
            tracing::error!(%panicked, "raft.read");
        }
    }
}

/// Answers reads of a machine that is gone.
pub(crate) fn reject_reads<S>(reads: Vec<Box<dyn Read<S>>>) {
    for read in reads {
        if let Err(panicked) = guard("read", || read.reject(Rejection::Stopped)) {
            tracing::error!(%panicked, "raft.read");
        }
    }
}

/// Performs tasks of the log lane in order. Writes that follow each other are one batch, and `persisted` hears of the
/// last of each when all of it is durable. `batch` comes and goes empty; it keeps its capacity.
///
/// # Errors
/// If the store fails or panics: the reason to stop the node.
pub(crate) fn perform_log<L: LogStore>(
    store: &mut L,
    tasks: impl IntoIterator<Item = LogTask>,
    batch: &mut Vec<Write>,
    mut persisted: impl FnMut(WriteId),
) -> Result<(), StopReason> {
    let failed = |error| StopReason::Log(Arc::new(error));
    let mut write = |store: &mut L, batch: &mut Vec<Write>| {
        let Some(last) = batch.last().map(|write| write.id) else { return Ok(()) };
        guard(LOG_STORE, || store.write(batch))?.map_err(failed)?;
        batch.clear();
        persisted(last);
        Ok::<_, StopReason>(())
    };
    for task in tasks {
        match task {
            LogTask::Write(next) => batch.push(next),
            LogTask::Compact { through } => {
                write(store, batch)?;
                guard(LOG_STORE, || store.compact(through))?.map_err(failed)?;
            }
        }
    }
    write(store, batch)
}

/// Reads entries, and returns what to step.
///
/// # Errors
/// If the reader fails or panics: the reason to stop the node.
pub(crate) fn read_log<R: LogReader>(reader: &R, span: LogSpan) -> Result<Event, StopReason> {
    guard(LOG_STORE, || span.read(reader))?.map_err(|error| StopReason::Log(Arc::new(error)))
}

/// Applies entries and answers their writers.
///
/// # Errors
/// If the state machine fails or panics: the reason to stop the node.
pub(crate) fn apply<S, W>(
    lane: &mut MachineLane<S, W>,
    entries: &Entries,
    committed: Vec<Committed<W>>,
) -> Result<(), StopReason>
where
    S: StateMachine,
    W: Writer<Response = S::Response>,
{
    guard(STATE_MACHINE, || lane.apply(entries, committed))?.map_err(lane_failed)
}

/// As [`apply`], and hands out the responses that nobody waits for here.
///
/// # Errors
/// As for [`apply`].
pub(crate) fn apply_keeping<S, W>(
    lane: &mut MachineLane<S, W>,
    entries: &Entries,
    committed: Vec<Committed<W>>,
    unclaimed: impl FnMut(LogId, S::Response),
) -> Result<(), StopReason>
where
    S: StateMachine,
    W: Writer<Response = S::Response>,
{
    guard(STATE_MACHINE, || lane.apply_keeping(entries, committed, unclaimed))?.map_err(lane_failed)
}

fn lane_failed<E: Error + Send + Sync + 'static>(error: LaneError<E>) -> StopReason {
    match error {
        LaneError::Machine(error) => StopReason::Machine(Arc::new(error)),
        LaneError::Responses { commands, responses } => StopReason::Responses { commands, responses },
    }
}

/// Time as a node sees it, and its one timer.
#[derive(Debug)]
pub struct Timer {
    epoch: tokio::time::Instant,
    /// The deadline for which `sleep` will fire, if it is armed. Often an earlier one than the node's: a deadline moves
    /// with every message, and a spurious wake is cheaper than re-arming a timer each time.
    armed: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
    bell: Option<Arc<Bell>>,
    /// It fires on whole multiples of this, counted from the first timer of the process.
    step: Duration,
}

/// What the runtime's timer wakes: the task, and a note of it, since whatever else woke the task may have taken that wake
/// too.
#[derive(Debug)]
struct Bell {
    task: Waker,
    /// It rang, or never was hung up: the runtime is to be asked.
    rang: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

/// When the first timer of the process began.
static GRID: OnceLock<tokio::time::Instant> = OnceLock::new();

impl Timer {
    /// Time begins.
    ///
    /// # Panics
    /// Outside a Tokio runtime, or in one without timers.
    #[must_use]
    pub fn start() -> Self {
        let sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        let epoch = tokio::time::Instant::now();
        Self { epoch, armed: None, sleep, bell: None, step: Duration::ZERO }
    }

    /// From now on it fires late, by less than `step`, and together with the others of this process that have the same
    /// one. Wakes that come late are harmless; see [`Event::Wake`].
    pub fn align(&mut self, step: Duration) {
        self.step = step;
    }

    /// How late it is.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Whether it has fired, or never was armed. Whoever takes a turn at `now` need not wait to be woken for that.
    pub fn pass(&mut self, now: Instant) -> bool {
        self.armed = self.armed.filter(|armed| *armed > now);
        self.armed.is_none()
    }

    /// Whether it fires now; if it is armed and does not, the task is woken when it does. To be called before each sleep:
    /// the runtime is asked only when there is news.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.armed.is_none() {
            return Poll::Pending;
        }
        let bell = match self.bell.take() {
            Some(bell) if bell.task.will_wake(context.waker()) => bell,
            _ => Arc::new(Bell { task: context.waker().clone(), rang: AtomicBool::new(true) }),
        };
        let bell = self.bell.insert(bell);
        if !bell.rang.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        // Before the runtime is asked: it may ring at once.
        bell.rang.store(false, Ordering::Release);
        let waker = Waker::from(Arc::clone(bell));
        // A task that has used up its budget would not be registered: it is asked all the same.
        let asked = pin!(coop::unconstrained(self.sleep.as_mut())).poll(&mut Context::from_waker(&waker));
        if asked.is_ready() {
            self.armed = None;
        }
        asked
    }

    /// Sees to it that it fires by the node's deadline, or as late as it is aligned; to be polled afterwards.
    pub fn arm(&mut self, now: Instant, deadline: Option<Instant>) {
        // Soon enough for a spurious wake, and within what the runtime's clock can name.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let Some(deadline) = deadline else { return };
        if self.armed.is_none_or(|armed| deadline < armed) {
            let ahead = deadline.since(now).min(YEAR);
            self.armed = Some(now + ahead);
            let at = self.epoch + now.since(Instant::ZERO) + ahead;
            self.sleep.as_mut().reset(aligned(at, self.step));
            if let Some(bell) = &self.bell {
                bell.rang.store(true, Ordering::Release);
            }
        }
    }
}

/// The first multiple of `step` that is not before `at`.
fn aligned(at: tokio::time::Instant, step: Duration) -> tokio::time::Instant {
    let since = at.saturating_duration_since(*GRID.get_or_init(tokio::time::Instant::now));
    let beyond = since.as_nanos().checked_rem(step.as_nanos()).unwrap_or(0);
    match u64::try_from(beyond) {
        // A step of zero aligns nothing.
        Err(_) | Ok(0) => at,
        Ok(beyond) => at + (step - Duration::from_nanos(beyond)),
    }
}

/// Traces what a node notifies of.
pub(crate) fn trace_notice(id: NodeId, notice: Notice) {
    let id = id.get();
    match notice {
        Notice::Role { role, term } => tracing::info!(id, ?role, %term, "raft.role"),
        Notice::Leader { leader, term } => tracing::info!(id, ?leader, %term, "raft.leader"),
        Notice::Membership { index } => tracing::info!(id, %index, "raft.membership"),
        Notice::Snapshot { last, taken_by } => tracing::info!(id, %last, %taken_by, "raft.snapshot"),
        Notice::SnapshotFailed(error) => tracing::warn!(id, %error, "raft.snapshot"),
        Notice::MajorityMissing { silent } => tracing::warn!(id, ?silent, "raft.majority_missing"),
        Notice::ChangeTimedOut { behind } => tracing::warn!(id, ?behind, "raft.change_timed_out"),
        Notice::Violation { peer, kind } => tracing::error!(id, %peer, ?kind, "raft.violation"),
    }
}

/// Traces why a node stops.
pub(crate) fn trace_stop(id: NodeId, reason: &StopReason) {
    let id = id.get();
    if reason.is_orderly() {
        tracing::info!(id, %reason, "raft.stopped");
    } else {
        tracing::error!(id, %reason, "raft.stopped");
    }
}

/// Log store, snapshot store and state machine that have said what they hold, before a node runs on them.
#[derive(Debug)]
pub struct Recovered<S, L, P> {
    machine: S,
    log: L,
    snapshots: P,
    found: LogRecovery,
    snapshot: Option<Arc<SnapshotMeta>>,
    applied: LogId,
}

/// A node, and what it runs on.
#[derive(Debug)]
pub(crate) struct Assembled<S, L, P> {
    /// The node.
    pub(crate) node: RecordedNode,
    /// Its time.
    pub(crate) timer: Timer,
    /// Its log store.
    pub(crate) log: L,
    /// Its snapshot store.
    pub(crate) snapshots: P,
    /// Its state machine.
    pub(crate) machine: S,
}

impl<S: StateMachine, L: NodeLog, P: SnapshotStore> Recovered<S, L, P> {
    /// Asks all of them, on a thread where blocking harms nobody.
    ///
    /// # Errors
    /// If one of them cannot be recovered.
    pub async fn ask(log: L, snapshots: P, mut machine: S) -> Result<Self, StartError> {
        let (log, found) = log.ask().await?;
        let asked = tokio::task::spawn_blocking(move || {
            let snapshot = guard("snapshot store", || snapshots.recover(found.base))?;
            let snapshot = snapshot.map_err(|error| StartError::Snapshots(boxed(error)))?;
            let applied = guard(STATE_MACHINE, || machine.recover())?;
            let applied = applied.map_err(|error| StartError::Machine(boxed(error)))?;
            Ok(Self { machine, log, snapshots, found, snapshot, applied })
        });
        asked.await.unwrap_or_else(|error| {
            // Panics of the calls themselves were caught; this is one of a drop, or the end of the runtime.
            Err(StartError::Panicked { part: "recovery", message: error.to_string() })
        })
    }

    /// What survived in the log store: to be looked at before a peer hears from the node.
    #[must_use]
    pub const fn log(&self) -> &LogRecovery {
        &self.found
    }

    /// The newest complete snapshot.
    #[must_use]
    pub const fn snapshot(&self) -> Option<&Arc<SnapshotMeta>> {
        self.snapshot.as_ref()
    }

    /// The configuration that will be in force; `None` for a node that was never part of a cluster.
    #[must_use]
    pub fn membership(&self) -> Option<&Arc<Membership>> {
        self.found.membership(self.snapshot.as_deref())
    }

    /// The node, with its time and its stores, recorded from its beginning if there are options for it. A
    /// transport that carries messages of
    /// `message_bytes_max` at most is refused if the configuration allows longer ones: they would be sent for ever.
    ///
    /// # Errors
    /// If the node refuses what was recovered, or the configuration.
    ///
    /// # Panics
    /// As [`Timer::start`].
    pub(crate) fn assemble(
        self,
        config: Config,
        message_bytes_max: u64,
        recording: Option<RecorderOptions>,
    ) -> Result<Assembled<S, L, P>, StartError> {
        config.validate().map_err(raft_core::StartError::from)?;
        let needed_bytes = message_bytes_needed(&config);
        if needed_bytes > message_bytes_max {
            return Err(StartError::MessageTooLong { message_bytes_max, needed_bytes });
        }
        let Self { machine, log, snapshots, found, snapshot, applied } = self;
        let recovery = Recovery { log: found, snapshot, applied, incarnation: fastrand::u64(..) };
        let timer = Timer::start();
        let node = match recording {
            Some(options) => RecordedNode::start(config, recovery, timer.now(), options)?,
            None => Node::start(config, recovery, timer.now())?.into(),
        };
        Ok(Assembled { node, timer, log, snapshots, machine })
    }
}

fn boxed(error: impl Error + Send + Sync + 'static) -> Box<dyn Error + Send + Sync> {
    Box::new(error)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// More than anything here takes.
    const BOUND: Duration = Duration::from_secs(60);

    fn soon(timer: &mut Timer) {
        let now = timer.now();
        timer.arm(now, Some(now + Duration::from_millis(2)));
    }

    async fn fires(timer: &mut Timer) {
        poll_fn(|cx| timer.poll(cx)).await;
    }

    #[tokio::test]
    async fn a_wake_that_was_taken_for_something_else_is_not_lost() {
        let mut timer = Timer::start();
        soon(&mut timer);
        assert!(poll_fn(|cx| Poll::Ready(timer.poll(cx))).await.is_pending());
        // The task waits for something else while it fires.
        tokio::time::sleep(Duration::from_millis(10)).await;
        tokio::time::timeout(BOUND, fires(&mut timer)).await.expect("it has fired");
    }

    #[tokio::test]
    async fn a_task_that_has_used_up_its_budget_is_woken_all_the_same() {
        let fired = tokio::spawn(async {
            let mut timer = Timer::start();
            soon(&mut timer);
            while coop::has_budget_remaining() {
                coop::consume_budget().await;
            }
            poll_fn(|cx| {
                // Whoever takes a turn at each wake never asks the runtime.
                let now = timer.now();
                if timer.pass(now) { Poll::Ready(()) } else { timer.poll(cx) }
            })
            .await;
        });
        tokio::time::timeout(BOUND, fired).await.expect("it fires").expect("no panic");
    }

    #[tokio::test]
    async fn it_fires_again_and_again_and_for_whoever_polls_it() {
        let mut timer = Timer::start();
        assert!(timer.pass(timer.now()), "it was not armed");
        for _ in 0..3 {
            soon(&mut timer);
            tokio::time::timeout(BOUND, fires(&mut timer)).await.expect("it fires");
            assert!(timer.pass(timer.now()));
        }
        // Polled by one task, then by another; and an earlier deadline takes the place of a later one.
        let now = timer.now();
        timer.arm(now, Some(now + 2 * BOUND));
        let _ = poll_fn(|cx| Poll::Ready(timer.poll(cx))).await;
        assert!(!timer.pass(timer.now()));
        soon(&mut timer);
        let _ = poll_fn(|cx| Poll::Ready(timer.poll(cx))).await;
        let other = tokio::spawn(async move { fires(&mut timer).await });
        tokio::time::timeout(BOUND, other).await.expect("it fires").expect("no panic");
    }

    #[tokio::test]
    async fn a_turn_that_comes_after_the_deadline_need_not_be_told() {
        let mut timer = Timer::start();
        soon(&mut timer);
        let now = timer.now() + Duration::from_millis(2);
        assert!(timer.pass(now));
        soon(&mut timer);
        tokio::time::timeout(BOUND, fires(&mut timer)).await.expect("it fires for the next one");
    }
}
