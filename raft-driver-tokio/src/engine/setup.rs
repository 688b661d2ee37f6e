//! Starting a node: lanes and transport are put together here, and taken apart when the node stops.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use raft_core::host::{Clients, Operator, SnapshotStore, StateMachine};
use raft_core::{Config, Event};
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

use super::backlog::Backlog;
use super::question::Question;
use super::{Engine, Input, PostOf, place};
use crate::apply::Lane;
use crate::driver::{self, Assembled, Recovered, SnapshotLane, Timer};
use crate::error::{StartError, StopReason};
use crate::forward::{Caller, Desk, Forwards};
use crate::recording::{Recording, RecordingWriter};
use crate::storage::NodeLog;
use crate::transport::{Closed, Inbox, Network, Started, TransportStats};
use crate::worker::Worker;

/// For drivers: what a node is to be.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The protocol's configuration.
    pub config: Config,
    /// Where it is recorded, if it is.
    pub recording: Option<Recording>,
    /// Whether the state machine gets a thread of its own, although it does not say that it may block.
    pub machine_thread: bool,
    /// See [`Timer::align`].
    pub timer_step: Duration,
}

/// For drivers: a node that was started.
pub struct Running<S: StateMachine, W: Caller<Response = S::Response>, A: Operator> {
    /// The node and its lanes.
    pub engine: Engine<S, W, A>,
    /// Its time. The first turn comes before anything has arrived: a node that was just started has actions.
    pub timer: Timer,
    /// A look at the transport's counters.
    pub stats: TransportCounters,
    /// What must have ended before the node has.
    pub ends: Ends,
}

impl<S: StateMachine, W: Caller<Response = S::Response>, A: Operator> std::fmt::Debug for Running<S, W, A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("engine", &self.engine).finish_non_exhaustive()
    }
}

/// A look at a transport's counters.
pub type TransportCounters = Arc<dyn Fn() -> TransportStats + Send + Sync>;

impl Setup {
    /// A node with this configuration, and nothing special.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self { config, recording: None, machine_thread: false, timer_step: Duration::ZERO }
    }

    /// Starts a node within the current runtime, on what was recovered. `inputs` takes whatever reaches it, from any thread,
    /// and must not block.
    ///
    /// # Errors
    /// If what was recovered cannot be trusted, or something does not fit. Nothing runs then.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start<S, L, P, N, W, A>(
        self,
        recovered: Recovered<S, L, P>,
        network: N,
        inputs: impl Fn(Input) -> Result<(), Closed> + Clone + Send + Sync + 'static,
    ) -> Result<Running<S, W, A>, StartError>
    where
        S: StateMachine,
        L: NodeLog,
        P: SnapshotStore,
        N: Network,
        W: Caller<Response = S::Response>,
        A: Operator,
    {
        let Self { config, recording, machine_thread, timer_step } = self;
        let (id, command_bytes_max) = (config.id, config.command_bytes_max);
        let message_bytes_max = network.message_bytes_max();
        network.check(&config).map_err(StartError::Network)?;
        let pool = TaskTracker::new();
        let options = recording.as_ref().map(Recording::options);
        let recording = match &recording {
            Some(recording) => Some(RecordingWriter::start(recording, id, pool.clone())?),
            None => None,
        };
        let Assembled { node, mut timer, log, snapshots, machine } =
            recovered.assemble(config.clone(), message_bytes_max, options)?;
        timer.align(timer_step);

        let to_node = inputs.clone();
        let reports = Arc::new(move |report: Result<Event, StopReason>| {
            // A node that is gone needs no report.
            let _ = to_node(report.map_or_else(Input::Failed, Input::Event));
        });
        let log = log.start(Arc::clone(&reports) as _, pool.clone())?;
        let told = Arc::clone(&reports);
        let snapshots = SnapshotLane::start(snapshots, Arc::new(move |event| told(Ok(event))), pool.clone());
        let keep = Arc::new(AtomicUsize::new(0));
        let lane = Lane::new(machine, snapshots.clone(), reports, Arc::clone(&keep));
        let (machine, machine_thread) = if machine_thread || S::MAY_BLOCK {
            let (machine, thread) = place::on_thread(lane).inspect_err(|_| snapshots.stop())?;
            (machine, Some(thread))
        } else {
            (place::in_turns(lane, pool.clone()), None)
        };
        let Started { transport, stats, stop } =
            network.start(&config, Inbox::new(move |incoming| inputs(incoming.into())));
        let guard = snapshots.stop_on_drop();
        let engine = Engine {
            deadline: node.deadline(),
            node,
            recording,
            log,
            machine,
            snapshots: Box::new(snapshots),
            post: Box::new(PostOf::<N>(transport)),
            clients: Clients::new(command_bytes_max).checking(driver::check::<S>),
            backlog: Backlog::default(),
            worked: 0,
            forwards: Forwards::new(keep, command_bytes_max, message_bytes_max),
            unserved: Arc::default(),
            desk: Desk::new(message_bytes_max),
            question: Question::default(),
            leaving: None,
        };
        let ends = Ends { pool, machine_thread, stop, snapshots: guard };
        Ok(Running { engine, timer, stats, ends })
    }
}

/// For drivers: what must have ended before a node has.
pub struct Ends {
    /// The log store, a state machine without a thread, and whatever runs on the blocking pool.
    pool: TaskTracker,
    machine_thread: Option<Worker>,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// A runtime that ends drops it too: it waits for whatever is being saved.
    snapshots: DropGuard,
}

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ends")
    }
}

impl Ends {
    /// To be called when the engine is gone: closes the network, and resolves when every task and thread has ended and
    /// what they owned is dropped.
    pub async fn ended(self) {
        drop(self.snapshots);
        self.stop.await;
        if let Some(thread) = self.machine_thread {
            thread.ended().await;
        }
        self.pool.close();
        self.pool.wait().await;
    }
}
