//! Starting a node: recovery, lanes, network and actor are put together here.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::{Addr, AsyncContext, Context, Recipient};
use raft_core::host::{Clients, LogStore, SnapshotStore, StateMachine};
use raft_core::{Config, Event};
use raft_driver_tokio::driver::{self, Assembled, SnapshotLane};
use raft_driver_tokio::transport::{Closed, Inbox, Incoming, Network, Started};
use raft_driver_tokio::{Recovered, StartError};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::actor::{Children, Input, Raft};
use crate::metrics::{Publisher, RaftMetrics};
use crate::storage::{Reports, log_lane, machine_lane};
use crate::turn::Running;

/// Starts a node.
#[derive(Clone, Debug)]
pub struct Builder {
    config: Config,
    mailbox_max: usize,
    machine_thread: bool,
    listeners: Vec<Recipient<RaftMetrics>>,
}

impl Builder {
    /// A node with this configuration of the protocol.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self { config, mailbox_max: 8192, machine_thread: false, listeners: Vec::new() }
    }

    /// How many messages the actor's mailbox holds before those who `send` wait, and how many writes may wait in the
    /// actor for room in the node before they are `Busy`. Default 8,192.
    ///
    /// # Panics
    /// If it is zero, which Actix takes for no limit.
    #[must_use]
    pub const fn mailbox_max(mut self, messages: usize) -> Self {
        assert!(messages > 0, "a mailbox holds one message at least");
        self.mailbox_max = messages;
        self
    }

    /// Gives the state machine a thread of its own. By default it is an actor on the node's arbiter, which costs less;
    /// a machine that waits for a device, or computes for long, needs the thread.
    #[must_use]
    pub const fn machine_on_thread(mut self) -> Self {
        self.machine_thread = true;
        self
    }

    /// Sends metrics there at each change of role, term, leader or membership, and when the node stops.
    #[must_use]
    pub fn listener(mut self, listener: Recipient<RaftMetrics>) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Recovers what survived and starts the node on the current arbiter.
    ///
    /// # Errors
    /// If something cannot be recovered, or what was recovered cannot be trusted. Nothing runs then.
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
        L: LogStore,
        P: SnapshotStore,
        N: Network,
    {
        self.start_recovered(Recovered::ask(log, snapshots, machine).await?, network)
    }

    /// Starts the node on the current arbiter, on what was recovered and looked at before.
    ///
    /// # Errors
    /// If what was recovered cannot be trusted. Nothing runs then.
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
        L: LogStore,
        P: SnapshotStore,
        N: Network,
    {
        let (config, command_bytes_max) = (self.config.clone(), self.config.command_bytes_max);
        network.check(&config).map_err(StartError::Network)?;
        let Assembled { node, timer, log, snapshots, machine } =
            recovered.assemble(self.config, network.message_bytes_max(), None)?;
        let node = node.into_node();

        let context = Context::<Raft<S>>::new();
        let address = context.address().downgrade();
        let (lifeline, lanes) = mpsc::channel(1);
        let report = address.clone();
        let reports: Reports = Arc::new(move |input| {
            // A node that is gone needs no report.
            if let Some(node) = report.upgrade() {
                node.do_send(input);
            }
        });
        let log = log_lane(log, Arc::clone(&reports), &lifeline)?;
        let pool = TaskTracker::new();
        let report = Arc::clone(&reports);
        let snapshots =
            SnapshotLane::start(snapshots, Arc::new(move |event| report(Input::Event(event))), pool.clone());
        let machine = machine_lane(machine, snapshots.clone(), reports, &lifeline, self.machine_thread)
            .inspect_err(|_| snapshots.stop())?;
        let inbox = Inbox::new(move |incoming| {
            let node = address.upgrade().ok_or(Closed)?;
            node.do_send(match incoming {
                Incoming::Message(message, room) => Input::Receive(message, Some(room)),
                Incoming::Unreachable(peer) => Input::Event(Event::Unreachable(peer)),
                // A write that a node of the other driver forwards: nobody here takes it, and it gets no answer.
                Incoming::Letter { .. } => return Ok(()),
            });
            Ok(())
        });
        let Started { transport, stats, stop } = network.start(&config, inbox);
        let publisher = Publisher::new(&node, stats, self.listeners);
        let running = Running {
            node,
            log,
            machine,
            snapshots: Box::new(snapshots),
            transport: Box::new(transport),
            clients: Clients::new(command_bytes_max).checking(driver::check::<S>),
            backlog: VecDeque::new(),
            backlog_max: self.mailbox_max,
        };
        let stop = Box::pin(async move {
            stop.await;
            pool.close();
            pool.wait().await;
        });
        let children = Children { network: Some(stop), lanes };
        Ok(context.run(Raft::new(running, timer, publisher, children, self.mailbox_max)))
    }
}
