//! Starting a node: the task and its handle are put together here around an [`Engine`](crate::driver::Engine).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use raft_core::Config;
use raft_core::host::{SnapshotStore, StateMachine};
use tokio::sync::watch;
use tracing::Instrument;

use crate::cluster::GroupId;
use crate::driver::{Ends, Recovered, Running, Setup};
use crate::error::{Panicked, StartError, StopReason};
use crate::freshness::Freshness;
use crate::handle::{Life, Raft, Shared};
use crate::inbox::Inbox;
use crate::metrics::{self, Labels, Metrics, Publisher, Times};
use crate::recording::Recording;
use crate::storage::NodeLog;
use crate::task::{Input, NodeTask};
use crate::transport::Network;

/// The highest limits: within what a semaphore can count, and what a node could ever use.
const QUEUE_MAX: usize = 1 << 20;
const QUEUE_BYTES_MAX: usize = 1 << 30;

/// What waits in the node's queue needs some 100 bytes, less than what a caller that waits for a place there needs.
const QUEUE_DEFAULT: usize = 1 << 16;

/// Starts a node.
#[derive(Clone, Debug)]
pub struct Builder {
    setup: Setup,
    queue_max: usize,
    queue_bytes_max: usize,
    group: Option<GroupId>,
}

impl Builder {
    /// A node with this configuration of the protocol.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        let setup = Setup::new(config);
        Self { setup, queue_max: QUEUE_DEFAULT, queue_bytes_max: 128 * 1024 * 1024, group: None }
    }

    /// How many requests may wait for the node's task; further callers wait in turn, which costs a write about half as much
    /// again. Default 65,536 writes, and as many reads and administrative requests. Between 1 and 1,048,576.
    #[must_use]
    pub const fn queue_max(mut self, requests: usize) -> Self {
        self.queue_max = requests;
        self
    }

    /// How many bytes of commands may wait for their outcome, forwarded ones included; further callers wait in turn. A
    /// command counts 256 bytes at least, and one that is longer than the limit waits until nothing else does. Default
    /// 128 MiB: what the core admits ([`uncommitted_bytes_max`](Config::uncommitted_bytes_max)), and as much that waits for
    /// it. Between 1 and 1 GiB.
    #[must_use]
    pub const fn queue_bytes_max(mut self, bytes: usize) -> Self {
        self.queue_bytes_max = bytes;
        self
    }

    /// Records the node's life into files, to be replayed by `sim replay` when something went wrong. Costs about as much
    /// again as the node itself; without it, a branch a step. The files hold clients' commands: treat them like the log.
    #[must_use]
    pub fn record(mut self, recording: Recording) -> Self {
        self.setup.recording = Some(recording);
        self
    }

    /// Of which group it is a node, for the labels of traces and metrics in a process with several.
    #[must_use]
    pub const fn group(mut self, group: GroupId) -> Self {
        self.group = Some(group);
        self
    }

    /// Lets the node's timer fire late, by less than this, together with those of all nodes of this process that have the
    /// same step: what many groups have to say then leaves together. Heartbeats come that much later; the step must be
    /// shorter than their interval. Default zero: nothing is late.
    #[must_use]
    pub const fn timer_step(mut self, step: Duration) -> Self {
        self.setup.timer_step = step;
        self
    }

    /// Gives the state machine a thread of its own. By default it applies in the node's own turns, which costs least: up to
    /// 1,024 entries a turn, and what is more beside the node in a task, like snapshots and readers' closures, as many at a
    /// time. A machine that waits for a device, or that takes more than some 10 µs an entry, needs the thread: heartbeats
    /// wait for a turn.
    #[must_use]
    pub const fn machine_on_thread(mut self) -> Self {
        self.setup.machine_thread = true;
        self
    }

    /// Recovers what survived and starts the node, within the current runtime.
    ///
    /// # Errors
    /// If something cannot be recovered, what was recovered cannot be trusted, or a limit is impossible. Nothing runs then.
    pub async fn start<S, L, P, N>(
        self,
        log: L,
        snapshots: P,
        machine: S,
        network: N,
    ) -> Result<Raft<S>, StartError>
    where
        S: StateMachine,
        L: NodeLog,
        P: SnapshotStore,
        N: Network,
    {
        self.validate()?;
        self.start_recovered(Recovered::ask(log, snapshots, machine).await?, network)
    }

    /// Starts the node, within the current runtime, on what was recovered and looked at before.
    ///
    /// ```
    /// # async fn start<S: raft_core::host::StateMachine>(
    /// #     builder: raft_driver_tokio::Builder,
    /// #     log: raft_driver_tokio::storage::DurableLog,
    /// #     snapshots: raft_driver_tokio::storage::SnapshotFiles,
    /// #     machine: S,
    /// #     network: raft_driver_tokio::tcp::Tcp,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// let recovered = raft_driver_tokio::Recovered::ask(log, snapshots, machine).await?;
    /// if recovered.membership().is_none() {
    ///     return Err("this directory belongs to no cluster yet".into()); // and no peer heard of it
    /// }
    /// let raft = builder.start_recovered(recovered, network)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If what was recovered cannot be trusted, or a limit is impossible. Nothing runs then.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start_recovered<S, L, P, N>(
        self,
        recovered: Recovered<S, L, P>,
        network: N,
    ) -> Result<Raft<S>, StartError>
    where
        S: StateMachine,
        L: NodeLog,
        P: SnapshotStore,
        N: Network,
    {
        self.validate()?;
        let id = self.setup.config.id;
        let (inbox, arrivals) = Inbox::new(self.queue_max, self.queue_bytes_max);
        let (life_sender, life) = watch::channel(Life::default());
        let life_sender = Arc::new(life_sender);
        let abandoned = Arc::new(AtomicBool::new(false));
        let to_node = Arc::clone(&inbox);
        let take = move |input| to_node.input(Input::Node(input));
        let Running { engine, timer, stats, ends } = self.setup.start(recovered, network, take)?;
        let labels = Labels { id, group: self.group };
        let publisher = Publisher::new(engine.node(), Arc::clone(&stats), labels);
        let metrics = publisher.sender();

        let life_of_task = Arc::clone(&life_sender);
        let task = NodeTask::new(engine, timer, arrivals, publisher, life_of_task, Arc::clone(&abandoned));
        let span = match self.group {
            Some(group) => tracing::info_span!("raft.node", id = id.get(), group = group.get()),
            None => tracing::info_span!("raft.node", id = id.get()),
        };
        tokio::spawn(supervise(life_sender, ends, task, span, metrics.clone()));
        Ok(Raft::new(Shared {
            id,
            inbox,
            metrics,
            life,
            abandoned,
            transport: stats,
            room_bytes: self.queue_bytes_max,
            freshness: Freshness::new(),
            times: Times::new(labels),
        }))
    }

    /// For many groups: what suits them unless something was chosen.
    pub(crate) fn with_timer_step(mut self) -> Self {
        if self.setup.timer_step.is_zero() {
            self.setup.timer_step = self.setup.config.heartbeat_interval / 8;
        }
        self
    }

    pub(crate) const fn config(&self) -> &Config {
        &self.setup.config
    }

    fn validate(&self) -> Result<(), StartError> {
        if self.setup.timer_step >= self.setup.config.heartbeat_interval {
            return Err(StartError::TimerStep);
        }
        let limits = [
            ("queue_max", self.queue_max, QUEUE_MAX),
            ("queue_bytes_max", self.queue_bytes_max, QUEUE_BYTES_MAX),
        ];
        let broken = limits.into_iter().find(|(_, value, value_max)| !(1..=*value_max).contains(value));
        broken.map_or(Ok(()), |(what, value, value_max)| Err(StartError::Limit { what, value, value_max }))
    }
}

/// Runs the node's task and, however it ends, sees to it that everything ends.
async fn supervise<S: StateMachine>(
    // First, and so dropped last: nobody hears of the end before everything was told to end.
    life: Arc<watch::Sender<Life>>,
    ends: Ends,
    task: NodeTask<S>,
    span: tracing::Span,
    metrics: watch::Sender<Metrics>,
) {
    // Nobody looks at a span that is disabled, which is entered at each wake all the same.
    let ran = match span.is_disabled() {
        true => tokio::spawn(task.run()).await,
        false => tokio::spawn(task.run().instrument(span)).await,
    };
    let reason = match ran {
        Ok(()) => None,
        Err(error) if error.is_panic() => Some(Panicked::new("node", &*error.into_panic()).into()),
        Err(_) => Some(StopReason::RuntimeEnded),
    };
    if let Some(reason) = reason {
        tracing::error!(%reason, "raft.stopped");
        life.send_modify(|life| life.reason = life.reason.take().or(Some(reason)));
    }
    if let Some(reason) = &life.borrow().reason {
        metrics::stopped(&metrics, reason);
    }
    ends.ended().await;
    life.send_modify(|life| life.ended = true);
}
