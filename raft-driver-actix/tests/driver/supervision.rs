//! A supervised node opens its stores anew after a failure, under the same address; but not those of a log store that
//! failed, or forgot.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use actix::Addr;
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Config, Entries, EntryRef, RoleKind};
use raft_driver_actix::admin::{InitWithConfig, Shutdown};
use raft_driver_actix::messages::{ClientRead, ClientWrite, ResponseMode};
use raft_driver_actix::metrics::{GetMetrics, RaftMetrics, watch as listen};
use raft_driver_actix::storage::{MemoryLog, MemorySnapshots};
use raft_driver_actix::{Builder, Forgotten, Parts, Raft, ReadError, StartError, StopReason, WriteError};
use raft_driver_tokio::transport::{Channels, Endpoint};
use tokio::sync::watch;

use crate::journals::{Journal, SlowLog};
use crate::support::{members, n, within};

/// A journal that fails when told to.
struct Machine {
    journal: Journal,
    switches: Switches,
}

/// What is told to a machine, and what outlives it.
#[derive(Clone, Default)]
struct Switches {
    log: SlowLog,
    snapshots: MemorySnapshots,
    machine_panics: Arc<AtomicBool>,
    /// A command waits for it.
    gate: Arc<tokio::sync::Mutex<()>>,
    opened: Arc<AtomicUsize>,
}

impl StateMachine for Machine {
    type Response = usize;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<usize>) -> Result<(), Infallible> {
        drop(self.switches.gate.blocking_lock());
        let commands = entries.iter().any(|entry| matches!(entry, EntryRef::Command(..)));
        assert!(!commands || !self.switches.machine_panics.swap(false, Ordering::Relaxed), "planted");
        self.journal.apply(entries, responses)
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        self.journal.snapshot()
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        self.journal.restore(source)
    }
}

struct Supervised {
    raft: Addr<Raft<Machine>>,
    metrics: watch::Receiver<Option<RaftMetrics>>,
    switches: Switches,
}

/// What opening does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opens {
    Well,
    WithAnError,
    WithAPanic,
    WithAPanicInItsFuture,
    WithANewLog,
}

/// A node alone, and how its lives after the first are opened.
async fn supervised(later: &'static [Opens]) -> Supervised {
    let (listener, metrics) = listen();
    let switches = Switches::default();
    let kept = switches.clone();
    let open = move || {
        let number = kept.opened.fetch_add(1, Ordering::Relaxed);
        let how = number.checked_sub(1).and_then(|at| later.get(at)).copied().unwrap_or(Opens::Well);
        assert!(how != Opens::WithAPanic, "planted");
        let switches = kept.clone();
        async move {
            assert!(how != Opens::WithAPanicInItsFuture, "planted");
            let (mut log, snapshots) = (switches.log.clone(), switches.snapshots.clone());
            match how {
                Opens::WithAnError => return Err(StartError::Log("planted".into())),
                Opens::WithANewLog => log.log = MemoryLog::default(),
                _ => {}
            }
            let machine = Machine { journal: Journal::new().0, switches };
            Ok((log, snapshots, machine, Channels::default().endpoint()))
        }
    };
    let builder = Builder::new(Config::new(n(1))).machine_on_thread().listener(listener);
    let raft = builder.supervise(open).await.unwrap();
    raft.send(InitWithConfig { members: members([1]) }).await.unwrap().unwrap();
    let mut node = Supervised { raft, metrics, switches };
    node.leads().await;
    assert_eq!(node.write("one").await, Ok(1));
    node
}

impl Supervised {
    async fn until(&mut self, mut holds: impl FnMut(&RaftMetrics) -> bool) -> RaftMetrics {
        let held = self.metrics.wait_for(|seen| seen.as_ref().is_some_and(&mut holds));
        within(held).await.unwrap().clone().unwrap()
    }

    async fn leads(&mut self) {
        self.until(|seen| seen.status.role == RoleKind::Leader && seen.stopped.is_none()).await;
    }

    async fn write(&self, command: &'static str) -> Result<usize, WriteError> {
        let written = within(self.raft.send(ClientWrite::new(command, ResponseMode::Applied))).await.unwrap();
        written.map(|written| written.response().unwrap())
    }

    /// The machine fails at the next command, which is committed.
    async fn fail(&mut self) {
        self.switches.machine_panics.store(true, Ordering::Relaxed);
        let lost = self.write("committed").await;
        assert!(matches!(lost, Err(WriteError::ResponseLost { .. })), "{lost:?}");
        let told = self.until(|seen| seen.stopped.is_some()).await;
        let reason = told.stopped.clone().unwrap();
        assert!(matches!(&reason, StopReason::Panicked { part: "state machine", .. }), "{reason}");
    }

    /// It does not return, and says why; `Shutdown` resolves with the same reason.
    async fn stays_stopped(mut self, opened: usize, is_why: impl Fn(&StopReason) -> bool) {
        self.until(|seen| seen.stopped.as_ref().is_some_and(&is_why)).await;
        let late = within(async {
            loop {
                match self.write("late").await {
                    // While the old life ends.
                    Err(WriteError::Busy { .. }) => tokio::task::yield_now().await,
                    other => return other,
                }
            }
        });
        let late = late.await;
        assert!(matches!(late, Err(WriteError::Stopped { .. })), "{late:?}");
        let told = self.raft.send(GetMetrics).await.unwrap();
        assert!(told.stopped.as_ref().is_some_and(&is_why), "{:?}", told.stopped);
        let reason = within(self.raft.send(Shutdown)).await.unwrap();
        assert!(is_why(&reason), "{reason}");
        assert_eq!(self.switches.opened.load(Ordering::Relaxed), opened);
    }
}

#[actix::test]
async fn a_node_whose_machine_failed_returns_from_what_survived() {
    // Three restarts fail as well, and are tried again.
    let mut node =
        supervised(&[Opens::WithAnError, Opens::WithAPanic, Opens::WithAPanicInItsFuture, Opens::Well]).await;
    for commands in [3, 5] {
        node.fail().await;
        // While it is away, nothing is taken and nothing waits; nor is anybody told that it is over.
        let read = node.raft.send(ClientRead::new(|_: &Machine| ())).await.unwrap();
        assert!(matches!(read, Err(ReadError::Busy)), "{read:?}");
        node.leads().await;
        assert_eq!(node.write("more").await, Ok(commands), "what was committed is not lost");
    }
    assert_eq!(node.switches.opened.load(Ordering::Relaxed), 6, "three lives, and three that did not begin");
    let reason = within(node.raft.send(Shutdown)).await.unwrap();
    assert!(matches!(reason, StopReason::Requested));
    // It stays away, and says so.
    let after = node.write("late").await;
    assert!(matches!(after, Err(WriteError::Stopped { .. })), "{after:?}");
    let told = node.raft.send(GetMetrics).await.unwrap();
    assert!(matches!(told.stopped, Some(StopReason::Requested)));
    assert_eq!(node.switches.opened.load(Ordering::Relaxed), 6);
}

#[actix::test]
async fn a_node_whose_log_store_failed_does_not_return() {
    // What it shows after a failed write may not be on the disk.
    let node = supervised(&[]).await;
    node.switches.log.broken.store(true, Ordering::Relaxed);
    assert!(node.write("lost").await.is_err());
    node.stays_stopped(1, |reason| matches!(reason, StopReason::Log(_))).await;
    let node = supervised(&[]).await;
    node.switches.log.panics.store(true, Ordering::Relaxed);
    assert!(node.write("lost").await.is_err());
    node.stays_stopped(1, |reason| matches!(reason, StopReason::Panicked { part: "log store", .. })).await;
}

#[actix::test]
async fn a_log_store_that_fails_after_the_node_has_failed_counts_too() {
    let mut node = supervised(&[]).await;
    let Switches { log, gate: machine_gate, .. } = node.switches.clone();
    let held = machine_gate.lock().await;
    let command = |name: &'static str, mode| node.raft.send(ClientWrite::new(name, mode));
    within(command("committed", ResponseMode::Committed)).await.unwrap().unwrap();
    node.switches.machine_panics.store(true, Ordering::Relaxed);
    // The machine is within that command; then the log is within this one.
    let log_held = log.gate.lock().await;
    let lost = command("lost", ResponseMode::Committed);
    let lost = actix::spawn(lost);
    node.raft.send(GetMetrics).await.unwrap();
    drop(held);
    node.until(|seen| matches!(seen.stopped, Some(StopReason::Panicked { part: "state machine", .. }))).await;
    assert!(within(lost).await.unwrap().unwrap().is_err());
    log.broken.store(true, Ordering::Relaxed);
    drop(log_held);
    node.stays_stopped(1, |reason| matches!(reason, StopReason::Log(_))).await;
}

#[actix::test]
async fn a_node_whose_log_store_has_forgotten_does_not_return() {
    let mut node = supervised(&[Opens::WithAnError, Opens::WithANewLog]).await;
    node.fail().await;
    let forgot = |reason: &StopReason| match reason {
        StopReason::Log(error) => error.downcast_ref::<Forgotten>().is_some_and(|forgotten| {
            forgotten.known_term.get() > 0
                && forgotten.known_last.get() >= 2
                && (forgotten.found_term.get(), forgotten.found_last.get()) == (0, 0)
        }),
        _ => false,
    };
    node.stays_stopped(3, forgot).await;
}

#[actix::test]
async fn a_shutdown_while_it_is_away_is_the_end() {
    let mut node = supervised(&[Opens::WithAnError; 8]).await;
    node.fail().await;
    // It would fail again and again.
    within(node.raft.send(Shutdown)).await.unwrap();
    let again = node.write("late").await;
    assert!(matches!(again, Err(WriteError::Stopped { .. })), "{again:?}");
    assert!(node.switches.opened.load(Ordering::Relaxed) <= 3);
}

#[actix::test]
async fn the_first_start_that_fails_is_an_error() {
    type Opened = Parts<MemoryLog, MemorySnapshots, Machine, Endpoint>;
    let open = async || Err::<Opened, _>(StartError::Log("planted".into()));
    let started = Builder::new(Config::new(n(1))).supervise(open).await;
    assert!(matches!(started, Err(StartError::Log(_))));
}
