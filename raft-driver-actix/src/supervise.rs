//! Where a supervised node comes from, and how it returns after it has failed.
//!
//! * A restart opens everything anew, after everything of the life before has ended: nothing of a store that failed is
//!   used again.
//! * After a failure of the log store there is none: what a store shows after a failed write or fsync may not be on its
//!   disk, and a node that went on from it would break its word. Nor is there one if the log store turns out to know less
//!   than the life before had on its disk.
//! * What users' code does while it opens, a panic too, is tried again.
//! * It waits before it tries, and longer each time that does not help.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use actix::WeakAddr;
use raft_core::host::{SnapshotStore, StateMachine};
use raft_core::{LogIndex, LogRecovery, Status, Term};
use raft_driver_tokio::driver::{Input, Setup, guard};
use raft_driver_tokio::storage::NodeLog;
use raft_driver_tokio::transport::{Closed, Network};
use raft_driver_tokio::{Recovered, StartError};
use tokio::time::{Instant, Sleep};

use crate::actor::{NodeRunning, Raft};
use crate::inbox::Arrival;

/// The first pause before a restart, and the longest. One that has lived for the longest pause begins with the first.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What errors call users' code that opens a node's parts.
const OPENING: &str = "node";

/// What a node is made of: its log, its snapshots, its state machine and its network.
pub type Parts<L, P, S, N> = (L, P, S, N);

type Starting<S> = Pin<Box<dyn Future<Output = Result<NodeRunning<S>, Failed>>>>;
type Open<S> = Rc<dyn Fn(u64, Survives) -> Starting<S>>;

/// Why a life did not begin.
enum Failed {
    /// It may the next time.
    Start(StartError),
    /// It never may.
    Forgotten(Forgotten),
}

impl<E: Into<StartError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Start(error.into())
    }
}

/// A log store knows less than it did in the life before, as one that was made anew, or whose file system is not mounted.
/// A [supervised](crate::Builder::supervise) node does not go on from it: it might vote twice in a term, and helped to
/// commit what it has lost. Its [`StopReason::Log`](crate::StopReason::Log) holds this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it has forgotten: its term was {known_term} or later, its last entry {known_last} or later, and are {found_term} and {found_last}"
)]
pub struct Forgotten {
    /// A term that it knew.
    pub known_term: Term,
    /// The last entry that it held for good, at least.
    pub known_last: LogIndex,
    /// The term that it knows.
    pub found_term: Term,
    /// The last entry that it holds.
    pub found_last: LogIndex,
}

/// What a node's log store must know whenever it is opened again.
#[derive(Clone, Copy, Debug, Default)]
struct Survives {
    term: Term,
    last: LogIndex,
}

impl Survives {
    fn check(self, found: &LogRecovery) -> Result<(), Failed> {
        let (found_term, found_last) = (found.hard_state.term, found.last.index);
        if found_term >= self.term && found_last >= self.last {
            return Ok(());
        }
        let Self { term: known_term, last: known_last } = self;
        Err(Failed::Forgotten(Forgotten { known_term, known_last, found_term, found_last }))
    }
}

/// Where a node's actor is, once there is one. Nothing reaches a node before its first turn.
pub(crate) type Place<S> = Arc<OnceLock<WeakAddr<Raft<S>>>>;

/// What takes a node's inputs: its actor, in this life of it.
pub(crate) fn inputs<S: StateMachine>(
    place: Place<S>,
    life: u64,
) -> impl Fn(Input) -> Result<(), Closed> + Clone + Send + Sync + 'static {
    move |input| {
        let node = place.get().and_then(WeakAddr::upgrade).ok_or(Closed)?;
        // Past the capacity of the mailbox: the core's limits bound what comes.
        node.do_send(Arrival { life, input });
        Ok(())
    }
}

/// Where a node comes from.
pub(crate) struct Origin<S: StateMachine> {
    open: Open<S>,
    survives: Survives,
    pause: Duration,
    started: Instant,
}

impl<S: StateMachine> Origin<S> {
    pub(crate) fn new<L, P, N, F>(setup: Setup, place: Place<S>, open: impl Fn() -> F + 'static) -> Self
    where
        L: NodeLog,
        P: SnapshotStore,
        N: Network,
        F: Future<Output = Result<Parts<L, P, S, N>, StartError>> + 'static,
    {
        let open: Open<S> = Rc::new(move |life, survives: Survives| {
            let (opened, setup, place) = (open(), setup.clone(), Arc::clone(&place));
            Box::pin(async move {
                let (log, snapshots, machine, network) = opened.await?;
                let recovered = Recovered::ask(log, snapshots, machine).await?;
                survives.check(recovered.log())?;
                Ok(setup.start(recovered, network, inputs(place, life))?)
            })
        });
        Self { open, survives: Survives::default(), pause: PAUSE_MIN, started: Instant::now() }
    }

    /// A life ends, whose log store does what it was given before it ends too: all up to `handed_term`. `end` is its node's
    /// last status.
    pub(crate) fn remember(&mut self, handed_term: Term, end: Option<&Status>) {
        // An entry that was durable may have been replaced since, unless it was committed; but not by none.
        let last = end.map_or(LogIndex::ZERO, |end| end.durable.min(end.commit.max(LogIndex::new(1))));
        let Survives { term, last: before } = self.survives;
        self.survives = Survives { term: term.max(handed_term), last: last.max(before) };
    }

    /// A new life of the node begins, in a while.
    pub(crate) fn restart(&mut self, life: u64) -> Restart<S> {
        if self.started.elapsed() >= PAUSE_MAX {
            self.pause = PAUSE_MIN;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        self.started = Instant::now() + pause;
        let open = Rc::clone(&self.open);
        let survives = self.survives;
        Restart { open, life, survives, pause, step: Step::Pauses(Box::pin(tokio::time::sleep(pause))) }
    }
}

/// A node on its way back.
pub(crate) struct Restart<S: StateMachine> {
    open: Open<S>,
    life: u64,
    survives: Survives,
    pause: Duration,
    step: Step<S>,
}

enum Step<S: StateMachine> {
    Pauses(Pin<Box<Sleep>>),
    Opens(Starting<S>),
}

impl<S: StateMachine> Restart<S> {
    /// The node, when it runs. `None` when it is not `wanted` any more and nothing is open.
    ///
    /// # Errors
    /// If there is nothing to go on from.
    pub(crate) fn poll(
        &mut self,
        task: &mut Context<'_>,
        wanted: bool,
    ) -> Poll<Result<Option<NodeRunning<S>>, Forgotten>> {
        loop {
            match &mut self.step {
                Step::Pauses(_) if !wanted => return Poll::Ready(Ok(None)),
                Step::Pauses(pause) => {
                    std::task::ready!(pause.as_mut().poll(task));
                    match guard(OPENING, || (self.open)(self.life, self.survives)) {
                        Ok(starting) => self.step = Step::Opens(starting),
                        Err(panicked) => self.pause(&panicked.into()),
                    }
                }
                // Also if it is not wanted: what is being opened cannot be left half open.
                Step::Opens(starting) => match guard(OPENING, || starting.as_mut().poll(task)) {
                    Ok(Poll::Pending) => return Poll::Pending,
                    Ok(Poll::Ready(Ok(running))) => return Poll::Ready(Ok(Some(running))),
                    Ok(Poll::Ready(Err(Failed::Forgotten(forgotten)))) => return Poll::Ready(Err(forgotten)),
                    Ok(Poll::Ready(Err(Failed::Start(error)))) => self.pause(&error),
                    Err(panicked) => self.pause(&panicked.into()),
                },
            }
        }
    }

    /// It is tried again, in a while.
    fn pause(&mut self, error: &StartError) {
        tracing::error!(%error, "raft.restart");
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        let opened =
            std::mem::replace(&mut self.step, Step::Pauses(Box::pin(tokio::time::sleep(self.pause))));
        // Users' code again.
        if let Err(panicked) = guard(OPENING, || drop(opened)) {
            tracing::error!(%panicked, "raft.drop");
        }
    }
}
