//! For authors of drivers: what any driver on Tokio needs beside [`raft_core::host`]. `raft-driver-actix` is built on it.
//!
//! * Whatever calls users' code goes through [`guard`]: a panic stops a node, never the process or its runtime.
//! * What has failed or panicked is not called again, only dropped, by [`discard`].
//! * Nothing here steps a node.

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use raft_core::host::{
    Committed, LaneError, LogReader, LogSpan, LogStore, MachineLane, Read, Rejection, StateMachine, Writer,
    message_bytes_needed,
};
use raft_core::{Config, Entries, Event, Instant, LogId, LogRecovery, Node, NodeId, Notice, Recovery, Write};
use tokio::time::Sleep;

use crate::error::{Panicked, StartError, StopReason};

/// What errors call the log store.
pub const LOG_STORE: &str = "log store";
/// What errors call the state machine.
pub const STATE_MACHINE: &str = "state machine";

/// Calls users' code.
///
/// # Errors
/// If it panics. Whatever it borrowed must not be used again.
pub fn guard<R>(part: &'static str, call: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|payload| Panicked::new(part, &*payload))
}

/// Drops what is users' own. Should it panic, that is only traced: the node's reason to stop was told already.
pub fn discard<T>(part: &'static str, value: T) {
    if let Err(panicked) = guard(part, || drop(value)) {
        tracing::error!(%panicked, "raft.drop");
    }
}

/// Answers reads from the machine. A reader that panics, in its closure or in a drop, harms only its caller: it had
/// no more than a shared reference.
pub fn serve<S>(reads: Vec<Box<dyn Read<S>>>, machine: &S) {
    for read in reads {
        if let Err(panicked) = guard("read", || read.serve(machine)) {
            tracing::error!(%panicked, "raft.read");
        }
    }
}

/// Answers reads of a machine that is gone.
pub fn reject_reads<S>(reads: Vec<Box<dyn Read<S>>>) {
    for read in reads {
        if let Err(panicked) = guard("read", || read.reject(Rejection::Stopped)) {
            tracing::error!(%panicked, "raft.read");
        }
    }
}

/// Makes a batch durable.
///
/// # Errors
/// If the store fails or panics: the reason to stop the node.
pub fn write_log<L: LogStore>(store: &mut L, batch: &[Write]) -> Result<(), StopReason> {
    guard(LOG_STORE, || store.write(batch))?.map_err(|error| StopReason::Log(Arc::new(error)))
}

/// Reads entries, and returns what to step.
///
/// # Errors
/// If the reader fails or panics: the reason to stop the node.
pub fn read_log<R: LogReader>(reader: &R, span: LogSpan) -> Result<Event, StopReason> {
    guard(LOG_STORE, || span.read(reader))?.map_err(|error| StopReason::Log(Arc::new(error)))
}

/// Applies entries and answers their writers.
///
/// # Errors
/// If the state machine fails or panics: the reason to stop the node.
pub fn apply<S, W>(
    lane: &mut MachineLane<S, W>,
    entries: &Entries,
    committed: Vec<Committed<W>>,
) -> Result<(), StopReason>
where
    S: StateMachine,
    W: Writer<Response = S::Response>,
{
    guard(STATE_MACHINE, || lane.apply(entries, committed))?.map_err(|error| match error {
        LaneError::Machine(error) => StopReason::Machine(Arc::new(error)),
        LaneError::Responses { commands, responses } => StopReason::Responses { commands, responses },
    })
}

/// Time as a node sees it, and its one timer.
#[derive(Debug)]
pub struct Timer {
    epoch: tokio::time::Instant,
    /// When `sleep` will fire, if it is armed. Never later than the node's deadline, often earlier: a deadline moves
    /// with every message, and a spurious wake is cheaper than re-arming a timer each time.
    armed: Option<Instant>,
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    /// Time begins.
    ///
    /// # Panics
    /// Outside a Tokio runtime, or in one without timers.
    #[must_use]
    pub fn start() -> Self {
        let sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { epoch: tokio::time::Instant::now(), armed: None, sleep }
    }

    /// How late it is.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// Whether it has not fired since it was armed.
    #[must_use]
    pub const fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// Whether it fires now; if it is armed and does not, the task is woken when it does.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.armed.is_none() || self.sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.armed = None;
        Poll::Ready(())
    }

    /// Sees to it that it fires by the node's deadline; to be polled afterwards.
    pub fn arm(&mut self, deadline: Option<Instant>) {
        // Soon enough for a spurious wake, and within what the runtime's clock can name.
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let Some(deadline) = deadline else { return };
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.armed = Some(deadline);
            let ahead = deadline.since(self.now()).min(YEAR);
            self.sleep.as_mut().reset(tokio::time::Instant::now() + ahead);
        }
    }
}

/// Traces what a node notifies of.
pub fn trace_notice(id: NodeId, notice: Notice) {
    let id = id.get();
    match notice {
        Notice::Role { role, term } => tracing::info!(id, ?role, %term, "raft.role"),
        Notice::Leader { leader, term } => tracing::info!(id, ?leader, %term, "raft.leader"),
        Notice::Membership { index } => tracing::info!(id, %index, "raft.membership"),
        Notice::Violation { peer, kind } => tracing::error!(id, %peer, ?kind, "raft.violation"),
    }
}

/// Traces why a node stops.
pub fn trace_stop(id: NodeId, reason: &StopReason) {
    let id = id.get();
    if reason.is_orderly() {
        tracing::info!(id, %reason, "raft.stopped");
    } else {
        tracing::error!(id, %reason, "raft.stopped");
    }
}

/// A log store and a state machine that have said what they hold, before a node runs on them.
#[derive(Debug)]
pub struct Recovered<S, L> {
    machine: S,
    log: L,
    found: LogRecovery,
    applied: LogId,
}

impl<S: StateMachine, L: LogStore> Recovered<S, L> {
    /// Asks both, on a thread where blocking harms nobody.
    ///
    /// # Errors
    /// If one of them cannot be recovered.
    pub async fn ask(mut log: L, mut machine: S) -> Result<Self, StartError> {
        let asked = tokio::task::spawn_blocking(move || {
            let found = guard(LOG_STORE, || log.recover())?;
            let found = found.map_err(|error| StartError::Log(boxed(error)))?;
            let applied = guard(STATE_MACHINE, || machine.recover())?;
            let applied = applied.map_err(|error| StartError::Machine(boxed(error)))?;
            Ok(Self { machine, log, found, applied })
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

    /// For drivers: the node, with its time, its log store and its state machine. A transport that carries messages of
    /// `message_bytes_max` at most is refused if the configuration allows longer ones: they would be sent for ever.
    ///
    /// # Errors
    /// If the node refuses what was recovered, or the configuration.
    ///
    /// # Panics
    /// As [`Timer::start`].
    pub fn node(self, config: Config, message_bytes_max: u64) -> Result<(Node, Timer, L, S), StartError> {
        config.validate().map_err(raft_core::StartError::from)?;
        let needed_bytes = message_bytes_needed(&config);
        if needed_bytes > message_bytes_max {
            return Err(StartError::MessageTooLong { message_bytes_max, needed_bytes });
        }
        let Self { machine, log, found, applied } = self;
        let recovery = Recovery { log: found, applied, incarnation: fastrand::u64(..) };
        let timer = Timer::start();
        let node = Node::start(config, recovery, timer.now())?;
        Ok((node, timer, log, machine))
    }
}

fn boxed(error: impl Error + Send + Sync + 'static) -> Box<dyn Error + Send + Sync> {
    Box::new(error)
}
