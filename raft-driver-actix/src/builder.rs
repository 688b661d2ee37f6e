//! Starting a node: the actor is put together here around an engine.

use std::future::Future;
use std::sync::Arc;

use actix::{Addr, AsyncContext, Context, Recipient, Supervisor};
use bytes::Bytes;
use raft_core::host::{SnapshotStore, StateMachine};
use raft_driver_tokio::driver::Setup;
use raft_driver_tokio::storage::NodeLog;
use raft_driver_tokio::transport::Network;
use raft_driver_tokio::{Recording, Recovered, StartError};

use crate::actor::{Limits, NodeRunning, Raft};
use crate::config::Config;
use crate::metrics::{Listeners, Publisher, RaftMetrics};
use crate::supervise::{Origin, Parts, Place, inputs};

/// The highest limits.
const MAILBOX_MAX: usize = 1 << 20;
const QUEUE_BYTES_MAX: usize = 1 << 30;

/// Starts a node.
#[derive(Clone, Debug)]
pub struct Builder {
    setup: Setup,
    config: Config,
    limits: Limits,
    address: Option<Bytes>,
    listeners: Vec<Recipient<RaftMetrics>>,
}

impl Builder {
    /// A node with this configuration: a [`Config`], or a [`raft_core::Config`].
    #[must_use]
    pub fn new(config: impl Into<Config>) -> Self {
        let config = config.into();
        let setup = Setup::new(config.protocol.clone());
        let limits = Limits { mailbox_max: 8192, queue_bytes_max: 128 * 1024 * 1024 };
        Self { setup, config, limits, address: None, listeners: Vec::new() }
    }

    /// How many messages the actor's mailbox holds before `try_send` fails, and how many stale reads may wait for the state
    /// machine before they are `Busy`. `send` does not wait for room: what it queues is answered `Busy` where it is too much. Default 8,192; between 1 and 1,048,576.
    #[must_use]
    pub const fn mailbox_max(mut self, messages: usize) -> Self {
        self.limits.mailbox_max = messages;
        self
    }

    /// How many bytes of commands may wait for their outcome, forwarded ones included, before further ones are `Busy`. A
    /// command counts 256 bytes at least. Default 128 MiB: what the core admits
    /// ([`uncommitted_bytes_max`](raft_core::Config::uncommitted_bytes_max)), and as much that waits for it. Between 1 and 1 GiB.
    #[must_use]
    pub const fn queue_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.queue_bytes_max = bytes;
        self
    }

    /// The node's own address, as its peers reach it: [`InitWithConfig`](crate::admin::InitWithConfig) then adds the node
    /// if it is missing.
    #[must_use]
    pub fn address(mut self, address: impl Into<Bytes>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Gives the state machine a thread of its own. By default it applies in the actor's turns, which costs least, and
    /// does what takes longer in a task on the node's arbiter, up to 1,024 entries and reads at a time; a machine that waits for
    /// a device, or that takes more than some 10 µs an entry, needs the thread.
    #[must_use]
    pub const fn machine_on_thread(mut self) -> Self {
        self.setup.machine_thread = true;
        self
    }

    /// Records the node's life into files, to be replayed by `sim replay` when something went wrong: see
    /// [`raft_driver_tokio::Builder::record`]. The files hold clients' commands: treat them like the log.
    #[must_use]
    pub fn record(mut self, recording: Recording) -> Self {
        self.setup.recording = Some(recording);
        self
    }

    /// Sends metrics there: when the node starts, at each change of role, term, leader or membership, when it stops, and at
    /// the [`metrics_rate`](Config::metrics_rate). An address of an actor that is in turn held by the node keeps both alive.
    #[must_use]
    pub fn listener(mut self, listener: Recipient<RaftMetrics>) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Recovers what survived and starts the node on the current arbiter.
    ///
    /// # Errors
    /// If something cannot be recovered, what was recovered cannot be trusted, or a limit is impossible. Nothing runs then.
    ///
    /// # Panics
    /// Outside an Actix system.
    pub async fn start<S, L, P, N>(
        self,
        log: L,
        snapshots: P,
        machine: S,
        network: N,
    ) -> Result<Addr<Raft<S>>, StartError>
    where
        S: StateMachine,
        L: NodeLog,
        P: SnapshotStore,
        N: Network,
    {
        self.validate()?;
        self.start_recovered(Recovered::ask(log, snapshots, machine).await?, network)
    }

    /// Starts the node on the current arbiter, on what was recovered and looked at before.
    ///
    /// # Errors
    /// If what was recovered cannot be trusted, or a limit is impossible. Nothing runs then.
    ///
    /// # Panics
    /// Outside an Actix system.
    pub fn start_recovered<S, L, P, N>(
        self,
        recovered: Recovered<S, L, P>,
        network: N,
    ) -> Result<Addr<Raft<S>>, StartError>
    where
        S: StateMachine,
        L: NodeLog,
        P: SnapshotStore,
        N: Network,
    {
        self.validate()?;
        let context = Context::<Raft<S>>::new();
        let place = Place::default();
        take_place(&place, &context);
        let running = self.setup.clone().start(recovered, network, inputs(place, 0))?;
        Ok(context.run(self.actor(running, None)))
    }

    /// Starts the node on the current arbiter under a [`Supervisor`]: should its state machine, the restore of a snapshot,
    /// its network or the node itself fail, everything of it ends, and after a pause it is opened anew and goes on from
    /// what survived. Its address stays. Whoever waits for an outcome when it fails is told as of a node that has stopped;
    /// requests that come meanwhile are answered `Busy`, and
    /// [`GetMetrics`](crate::metrics::GetMetrics) tells why.
    ///
    /// It does not return after a failure of its log store ([`StopReason::Log`](crate::StopReason::Log), or a panic of the
    /// store), also if something else had failed first: after a failed write or fsync, what the operating system
    /// shows may not be on the disk. Nor if the log store, opened again, has [forgotten](crate::Forgotten) what it knew.
    /// Then it stays stopped and says so, as a node that is not supervised: look at the disk, and reboot or mount its file
    /// system anew, before the process is started again.
    ///
    /// `open` is called for each life of the node, and must open the same stores each time, and a state machine that holds
    /// what it says it has applied: one that is rebuilt from the log begins empty, also if it is an actor that is still
    /// there. A panic in it, or in what it returns, is a start that failed. Snapshots must last as long as the log: one
    /// that was compacted behind a snapshot which is gone is refused for ever.
    ///
    /// # Errors
    /// If the first start fails. Later ones are tried until one succeeds, ever less often, and traced.
    ///
    /// # Panics
    /// Outside an Actix system.
    pub async fn supervise<S, L, P, N, F>(
        self,
        open: impl Fn() -> F + 'static,
    ) -> Result<Addr<Raft<S>>, StartError>
    where
        S: StateMachine,
        L: NodeLog,
        P: SnapshotStore,
        N: Network,
        F: Future<Output = Result<Parts<L, P, S, N>, StartError>> + 'static,
    {
        self.validate()?;
        let (log, snapshots, machine, network) = open().await?;
        let recovered = Recovered::ask(log, snapshots, machine).await?;
        let place = Place::default();
        let running = self.setup.clone().start(recovered, network, inputs(Arc::clone(&place), 0))?;
        let origin = Origin::new(self.setup.clone(), Arc::clone(&place), open);
        Ok(Supervisor::start(move |context| {
            take_place(&place, context);
            self.actor(running, Some(origin))
        }))
    }

    fn actor<S: StateMachine>(self, running: NodeRunning<S>, origin: Option<Origin<S>>) -> Raft<S> {
        let listeners = Listeners::new(self.listeners, self.config.metrics_rate);
        let stats = Arc::clone(&running.stats);
        let publisher = Publisher::new(running.engine.node(), stats, listeners);
        let address = self.address.map(|address| (self.config.protocol.id, address));
        Raft::new(running, publisher, origin, address, self.limits)
    }

    fn validate(&self) -> Result<(), StartError> {
        let rate = self.config.metrics_rate.as_millis().try_into().unwrap_or(usize::MAX);
        let limits = [
            // In milliseconds. However seldom.
            ("metrics_rate", rate, usize::MAX),
            ("mailbox_max", self.limits.mailbox_max, MAILBOX_MAX),
            ("queue_bytes_max", self.limits.queue_bytes_max, QUEUE_BYTES_MAX),
        ];
        let broken = limits.into_iter().find(|(_, value, value_max)| !(1..=*value_max).contains(value));
        broken.map_or(Ok(()), |(what, value, value_max)| Err(StartError::Limit { what, value, value_max }))
    }
}

/// The actor is about to be there.
fn take_place<S: StateMachine>(place: &Place<S>, context: &Context<Raft<S>>) {
    place.set(context.address().downgrade()).expect("a node has one actor");
}
