//! What operators see of a node: asked for with [`GetMetrics`], or sent to listeners.
//!
//! Listeners hear at each change of role, term, leader or membership and of the stop, once a turn at most, and at the
//! metrics rate beside.

use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix::{Actor, Addr, Handler, Message, Recipient};
use raft_core::host::StateMachine;
use raft_core::{Node, RoleKind};
use raft_driver_tokio::driver::{Export, Load, TransportCounters, guard};
use raft_driver_tokio::{Health, Metrics, ReadError, StopReason};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use crate::actor::Raft;
use crate::messages::ClientRead;

/// A node at a glance, as a message to listeners. It [derefs](Deref) to all that there is to see: the node's `status`
/// (id, term, log, commit, applied, leader), the `membership`, and the progress of each of a leader's `peers`.
#[derive(Clone, Debug)]
pub struct RaftMetrics(pub Metrics);

/// The states of a node as the seed of this crate, actix-raft, has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It receives the log, if it is part of a cluster at all, and does not vote.
    NonVoter,
    /// It votes, and follows.
    Follower,
    /// It asks for votes, or whether it would get them.
    Candidate,
    /// It leads.
    Leader,
}

impl RaftMetrics {
    /// The node's state. [`Status::role`](raft_core::Status::role) tells candidates from those that only ask whether they
    /// would win, but not voters from others.
    #[must_use]
    pub fn state(&self) -> State {
        match self.status.role {
            RoleKind::Leader => State::Leader,
            RoleKind::Candidate | RoleKind::PreCandidate => State::Candidate,
            RoleKind::Follower if self.membership.is_voter(self.status.id) => State::Follower,
            RoleKind::Follower => State::NonVoter,
        }
    }
}

impl Deref for RaftMetrics {
    type Target = Metrics;

    fn deref(&self) -> &Metrics {
        &self.0
    }
}

impl Message for RaftMetrics {
    type Result = ();
}

/// Asks for the metrics as they are now. Answered after a stop too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetMetrics;

impl Message for GetMetrics {
    type Result = RaftMetrics;
}

/// How a node is, asked of its actor and its state machine; answers after `limit` at the latest. An actor that is gone is
/// said to have been shut down as [requested](StopReason::Requested), although its arbiter may have ended under it.
///
/// Readiness is a read that may be as [stale](ClientRead::stale) as `limit`.
pub async fn health<S: StateMachine>(raft: &Addr<Raft<S>>, limit: Duration) -> Health {
    let metrics = raft.send(GetMetrics).timeout(limit);
    let read = raft.send(ClientRead::new(|_: &S| ()).stale(limit)).timeout(limit);
    let (metrics, read) = (metrics.await.ok(), read.await);
    let stopped = match &metrics {
        Some(metrics) => metrics.stopped.clone(),
        // Where the actor is gone, it was shut down; or its arbiter was, which cannot be told apart from here.
        None => (!raft.connected()).then_some(StopReason::Requested),
    };
    Health {
        status: metrics.map(|metrics| metrics.status),
        ready: read.unwrap_or(Err(ReadError::TimedOut)),
        stopped,
    }
}

/// A listener for [`Builder::listener`](crate::Builder::listener), and what it heard last, to be waited on: an actor on the
/// current arbiter, which ends when the node does. The receiver errs when the listener has ended.
///
/// # Panics
/// Outside an Actix system.
#[must_use]
pub fn watch() -> (Recipient<RaftMetrics>, watch::Receiver<Option<RaftMetrics>>) {
    let (sender, receiver) = watch::channel(None);
    (Watch(sender).start().recipient(), receiver)
}

struct Watch(watch::Sender<Option<RaftMetrics>>);

impl Actor for Watch {
    type Context = actix::Context<Self>;
}

impl Handler<RaftMetrics> for Watch {
    type Result = ();

    fn handle(&mut self, metrics: RaftMetrics, _: &mut Self::Context) {
        self.0.send_replace(Some(metrics));
    }
}

/// Who listens, and how often.
pub(crate) struct Listeners {
    listeners: Vec<Recipient<RaftMetrics>>,
    rate: Duration,
    next: Pin<Box<Sleep>>,
}

impl Listeners {
    pub(crate) fn new(listeners: Vec<Recipient<RaftMetrics>>, rate: Duration) -> Self {
        Self { listeners, rate, next: Box::pin(tokio::time::sleep(rate)) }
    }

    /// Whether it is time to tell; the task is woken when it is.
    pub(crate) fn poll_due(&mut self, task: &mut Context<'_>) -> bool {
        let mut due = false;
        while !self.listeners.is_empty() && self.next.as_mut().poll(task) == Poll::Ready(()) {
            due = true;
            self.next.as_mut().reset(Instant::now() + self.rate);
        }
        due
    }

    /// Tells of the state as it happens to be: a listener whose mailbox is full will hear the next time.
    fn tell(&self, metrics: &RaftMetrics) {
        self.listeners.iter().for_each(|listener| drop(listener.try_send(metrics.clone())));
    }

    /// Past the capacity of their mailboxes: changes are few, and a lost one would be missed for long.
    fn tell_change(&self, metrics: &RaftMetrics) {
        self.listeners.iter().for_each(|listener| listener.do_send(metrics.clone()));
    }
}

/// Keeps what was published last.
pub(crate) struct Publisher {
    last: RaftMetrics,
    transport: TransportCounters,
    listeners: Listeners,
    export: Export,
}

impl Publisher {
    pub(crate) fn new(node: &Node, transport: TransportCounters, listeners: Listeners) -> Self {
        let last = RaftMetrics(Metrics::new(node, transport()));
        let export = Export::of(node.status().id);
        let publisher = Self { last, transport, listeners, export };
        publisher.listeners.tell_change(&publisher.last);
        publisher
    }

    /// A new life of the node begins.
    pub(crate) fn restarted(&mut self, node: &Node, transport: TransportCounters) {
        self.last = RaftMetrics(Metrics::new(node, transport()));
        self.transport = transport;
        // Its time began anew.
        self.export = Export::of(node.status().id);
        self.listeners.tell_change(&self.last);
    }

    /// Publishes what listeners must know, or all if it is `due`.
    pub(crate) fn publish(&mut self, node: &Node, load: Load, now: raft_core::Instant, due: bool) {
        let (status, last) = (node.status(), &self.last.status);
        let changed = (status.role, status.term, status.leader) != (last.role, last.term, last.leader)
            || !Arc::ptr_eq(node.membership(), &self.last.membership);
        self.export.publish(changed, node, load, now, &*self.transport);
        if changed || due {
            self.refresh(node, load);
        }
        match changed {
            true => self.listeners.tell_change(&self.last),
            false if due => self.listeners.tell(&self.last),
            false => {}
        }
    }

    pub(crate) fn poll_due(&mut self, task: &mut Context<'_>) -> bool {
        self.listeners.poll_due(task)
    }

    fn refresh(&mut self, node: &Node, load: Load) {
        self.last.0.update(node, load, (self.transport)());
    }

    pub(crate) fn now(&mut self, node: &Node, load: Load) -> RaftMetrics {
        self.refresh(node, load);
        self.last.clone()
    }

    pub(crate) fn last(&self) -> &RaftMetrics {
        &self.last
    }

    pub(crate) fn stop(&mut self, node: &Node, reason: &StopReason) {
        // A node that panicked may do so again; then the last figures stand.
        if guard("node", || self.refresh(node, Load::default())).is_err() {
            tracing::error!("the node's last status cannot be read");
        }
        self.give_up(reason);
    }

    /// The node has stopped, and this is why.
    pub(crate) fn give_up(&mut self, reason: &StopReason) {
        self.last.0.stopped = Some(reason.clone());
        self.listeners.tell_change(&self.last);
    }
}
