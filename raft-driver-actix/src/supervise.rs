//! Where a supervised node comes from, and how it returns after it has failed.
//!
//! * A restart opens everything anew, after everything of the life before has ended: nothing of a store that failed is
//!   used again.
//! * It waits before it tries, and longer each time that does not help.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use actix::WeakAddr;
use raft_core::host::{SnapshotStore, StateMachine};
use raft_driver_tokio::driver::{Input, Setup};
use raft_driver_tokio::storage::NodeLog;
use raft_driver_tokio::transport::{Closed, Network};
use raft_driver_tokio::{Recovered, StartError};
use tokio::time::{Instant, Sleep};

use crate::actor::{NodeRunning, Raft};
use crate::inbox::Arrival;

/// The first pause before a restart, and the longest. One that has lived for the longest pause begins with the first.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What a node is made of: its log, its snapshots, its state machine and its network.
pub type Parts<L, P, S, N> = (L, P, S, N);

pub(crate) type Starting<S> = Pin<Box<dyn Future<Output = Result<NodeRunning<S>, StartError>>>>;
type Open<S> = Rc<dyn Fn(u64) -> Starting<S>>;

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
        let open: Open<S> = Rc::new(move |life| {
            let (opened, setup, place) = (open(), setup.clone(), Arc::clone(&place));
            Box::pin(async move {
                let (log, snapshots, machine, network) = opened.await?;
                let recovered = Recovered::ask(log, snapshots, machine).await?;
                setup.start(recovered, network, inputs(place, life))
            })
        });
        Self { open, pause: PAUSE_MIN, started: Instant::now() }
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
        Restart { open, life, pause, step: Step::Pauses(Box::pin(tokio::time::sleep(pause))) }
    }
}

/// A node on its way back.
pub(crate) struct Restart<S: StateMachine> {
    open: Open<S>,
    life: u64,
    pause: Duration,
    step: Step<S>,
}

enum Step<S: StateMachine> {
    Pauses(Pin<Box<Sleep>>),
    Opens(Starting<S>),
}

impl<S: StateMachine> Restart<S> {
    /// The node, when it runs. `None` when it is not `wanted` any more and nothing is open.
    pub(crate) fn poll(&mut self, task: &mut Context<'_>, wanted: bool) -> Poll<Option<NodeRunning<S>>> {
        loop {
            match &mut self.step {
                Step::Pauses(_) if !wanted => return Poll::Ready(None),
                Step::Pauses(pause) => {
                    std::task::ready!(pause.as_mut().poll(task));
                    self.step = Step::Opens((self.open)(self.life));
                }
                // Also if it is not wanted: what is being opened cannot be left half open.
                Step::Opens(starting) => match std::task::ready!(starting.as_mut().poll(task)) {
                    Ok(running) => return Poll::Ready(Some(running)),
                    Err(error) => {
                        tracing::error!(%error, "raft.restart");
                        self.pause = (self.pause * 2).min(PAUSE_MAX);
                        self.step = Step::Pauses(Box::pin(tokio::time::sleep(self.pause)));
                    }
                },
            }
        }
    }
}
