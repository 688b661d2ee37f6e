//! What fails stops the node, says so, and leaves nobody waiting; what stops leaves nothing behind.

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::{BOUND, Fault, FaultyLog, Journal, alone, config, members, within};
use raft_core::host::{LogStore, RestoreError, SnapshotSource, StateMachine, Transport, WholeState};
use raft_core::{
    Config, ConfigError, Entries, LogId, LogIndex, LogRecovery, Membership, Message, Term, Write,
};
use raft_driver_tokio::storage::{MemoryLog, MemoryReader, MemorySnapshots};
use raft_driver_tokio::transport::{Channels, Inbox, Network, Started};
use raft_driver_tokio::{
    AdminError, Builder, Certainty, Raft, ReadError, StartError, StopReason, WriteError,
};

/// The node has stopped by itself: every call says so, and nothing is left of it.
async fn assert_stopped<S: StateMachine>(raft: &Raft<S>) -> StopReason {
    let reason = within(raft.stopped()).await;
    assert!(!reason.is_orderly(), "{reason}");
    assert!(raft.stop_reason().is_some());
    assert!(raft.metrics().borrow().stopped.is_some());
    assert_eq!(within(raft.write("late")).await.err(), Some(WriteError::Stopped { command: "late".into() }));
    assert_eq!(within(raft.read(|_| ())).await, Err(ReadError::Stopped));
    assert_eq!(within(raft.campaign()).await, Err(AdminError::Stopped));
    assert_eq!(within(raft.status()).await, None);
    assert_eq!(raft.wait(BOUND).leader().await.ok(), None);
    reason
}

async fn a_store_fails<const BLOCKS: bool>(fault: Fault) -> StopReason {
    let kept = MemoryLog::default();
    let (log, control) = FaultyLog::<BLOCKS>::new(kept.clone());
    let journal = Journal::default();
    let token = Arc::clone(&journal.token);
    let raft = alone(Builder::new(config(1)), log, journal, Channels::default().endpoint()).await;
    within(raft.write("kept")).await.expect("it works");
    control.fail(fault);
    let lost = within(raft.write("lost")).await.expect_err("it cannot be durable");
    assert_eq!(lost.certainty(), Certainty::Unknown);
    let batches = control.batches().len();
    let reason = assert_stopped(&raft).await;
    assert_eq!(control.batches().len(), batches, "a failed store is not called again");
    assert_eq!(Arc::strong_count(&token), 1, "the state machine is dropped");
    // What was acknowledged is there at the next start.
    let (snapshots, network) = (MemorySnapshots::default(), Channels::default());
    let builder = Builder::new(config(1));
    let raft = within(builder.start(kept, snapshots, Journal::default(), network.endpoint()));
    let raft = raft.await.expect("it works");
    assert!(raft.wait(BOUND).leader().await.is_ok());
    assert_eq!(within(raft.read(|journal| journal.commands.clone())).await.expect("it works"), ["kept"]);
    reason
}

#[tokio::test]
async fn a_store_that_fails_on_its_thread_stops_the_node() {
    assert!(matches!(a_store_fails::<true>(Fault::Error).await, StopReason::Log(_)));
}

#[tokio::test]
async fn a_store_that_fails_inline_stops_the_node() {
    let reason = a_store_fails::<false>(Fault::Error).await;
    assert_eq!(reason.to_string(), "the log store failed: the disk is on fire");
}

#[tokio::test]
async fn a_store_that_panics_stops_the_node() {
    for reason in [a_store_fails::<true>(Fault::Panic).await, a_store_fails::<false>(Fault::Panic).await] {
        assert!(
            matches!(&reason, StopReason::Panicked { part: "log store", message } if message == "the disk melted")
        );
    }
}

/// A machine that goes wrong at the command `bad`.
#[derive(Debug)]
enum Bad {
    Error,
    Panic,
    Silent,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot decode")]
struct CannotDecode;

impl StateMachine for Bad {
    type Response = ();
    type Snapshot = WholeState;
    type Error = CannotDecode;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<()>) -> Result<(), CannotDecode> {
        for entry in entries.iter() {
            let raft_core::EntryRef::Command(_, command) = entry else { continue };
            match (&*command == b"bad", &*self) {
                (false, _) => responses.push(()),
                (true, Self::Error) => return Err(CannotDecode),
                (true, Self::Panic) => panic!("the machine broke"),
                (true, Self::Silent) => {}
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, CannotDecode> {
        Ok(WholeState::new(""))
    }

    fn restore(&mut self, _source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<CannotDecode>> {
        Ok(())
    }
}

async fn a_machine_fails(machine: Bad, on_thread: bool) -> StopReason {
    let mut builder = Builder::new(config(1));
    if on_thread {
        builder = builder.machine_on_thread();
    }
    let raft = alone(builder, MemoryLog::default(), machine, Channels::default().endpoint()).await;
    within(raft.write("good")).await.expect("it works");
    let (bad, after) = tokio::join!(within(raft.write("bad")), within(raft.write("after")));
    // It was committed before the machine broke, and the caller is told.
    assert_eq!(bad.expect_err("no response").certainty(), Certainty::Happened);
    assert!(after.is_err());
    assert_stopped(&raft).await
}

#[tokio::test]
async fn a_machine_that_fails_stops_the_node() {
    for on_thread in [false, true] {
        assert!(matches!(a_machine_fails(Bad::Error, on_thread).await, StopReason::Machine(_)));
        let reason = a_machine_fails(Bad::Panic, on_thread).await;
        assert!(matches!(reason, StopReason::Panicked { part: "state machine", .. }), "{reason}");
        let reason = a_machine_fails(Bad::Silent, on_thread).await;
        assert!(matches!(reason, StopReason::Responses { responses, commands } if responses + 1 == commands));
    }
}

/// A network whose sending half panics at its first use.
struct BadNetwork;

impl Network for BadNetwork {
    type Transport = Self;

    fn start(self, _config: &Config, _inbox: Inbox) -> Started<Self> {
        Started {
            transport: self,
            stats: Arc::new(raft_driver_tokio::transport::TransportStats::default),
            stop: Box::pin(async {}),
        }
    }
}

impl Transport for BadNetwork {
    fn send(&mut self, _message: Message) {}

    fn peers(&mut self, _membership: &Arc<Membership>) {
        panic!("no network at all");
    }
}

#[tokio::test]
async fn a_panic_in_the_node_task_is_not_a_hang() {
    let journal = Journal::default();
    let token = Arc::clone(&journal.token);
    let start =
        Builder::new(config(1)).start(MemoryLog::default(), MemorySnapshots::default(), journal, BadNetwork);
    let raft = within(start).await.unwrap();
    assert_eq!(within(raft.bootstrap(members([1, 2]))).await, Err(AdminError::Stopped));
    let reason = assert_stopped(&raft).await;
    assert!(matches!(reason, StopReason::Panicked { part: "node", .. }), "{reason}");
    assert_eq!(Arc::strong_count(&token), 1);
}

#[tokio::test]
async fn a_read_that_panics_harms_only_its_caller() {
    let raft = alone(
        Builder::new(config(1)),
        MemoryLog::default(),
        Journal::default(),
        Channels::default().endpoint(),
    )
    .await;
    let read = within(raft.read(|_| -> usize { panic!("a bad closure") })).await;
    assert_eq!(read, Err(ReadError::Panicked));
    assert_eq!(within(raft.write("on")).await.unwrap().response, 1);
}

#[tokio::test]
async fn shutdown_leaves_nothing_behind() {
    for on_thread in [false, true] {
        let mut builder = Builder::new(config(1));
        if on_thread {
            builder = builder.machine_on_thread();
        }
        let (log, control) = FaultyLog::<true>::new(MemoryLog::default());
        let journal = Journal::default();
        let token = Arc::clone(&journal.token);
        let raft = alone(builder, log, journal, Channels::default().endpoint()).await;
        within(raft.write("done")).await.unwrap();
        // What is counted from now on is the next write.
        let mut metrics = raft.metrics();
        within(metrics.wait_for(|metrics| metrics.pending_writes == 0)).await.unwrap();
        control.hold();
        let pending = tokio::spawn({
            let raft = raft.clone();
            async move { raft.write("pending").await }
        });
        within(metrics.wait_for(|metrics| metrics.pending_writes == 1)).await.unwrap();
        let shutdown = tokio::spawn({
            let raft = raft.clone();
            async move { raft.shutdown().await }
        });
        // Whoever waits is told at once, though the disk still works on it.
        assert_eq!(within(pending).await.unwrap(), Err(WriteError::Unknown));
        control.release();
        assert!(matches!(within(shutdown).await.unwrap(), StopReason::Requested));
        assert_eq!(Arc::strong_count(&token), 1, "the state machine is dropped");
        let again = within(raft.shutdown()).await;
        assert!(matches!(again, StopReason::Requested));
    }
}

#[tokio::test]
async fn dropping_every_handle_stops_the_node() {
    let journal = Journal::default();
    let token = Arc::clone(&journal.token);
    let raft =
        alone(Builder::new(config(1)), MemoryLog::default(), journal, Channels::default().endpoint()).await;
    let mut metrics = raft.metrics();
    drop(raft);
    let stopped = metrics.wait_for(|metrics| metrics.stopped.is_some());
    let reason = within(stopped).await.unwrap().stopped.clone();
    assert!(matches!(reason, Some(StopReason::HandlesDropped)));
    // The last publication is made when everything has ended; then the sender goes too.
    while within(metrics.changed()).await.is_ok() {}
    assert_eq!(Arc::strong_count(&token), 1);
}

#[test]
fn a_runtime_that_ends_leaves_nobody_waiting() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let raft = runtime.block_on(async {
        let (log, _) = FaultyLog::<true>::new(MemoryLog::default());
        alone(Builder::new(config(1)), log, Journal::default(), Channels::default().endpoint()).await
    });
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reason = runtime.block_on(within(raft.stopped()));
    assert!(matches!(reason, StopReason::RuntimeEnded), "{reason}");
    assert!(raft.stop_reason().is_some());
    assert!(runtime.block_on(within(raft.write("late"))).is_err());
}

/// A store that fails to recover, or recovers what cannot be.
struct Broken {
    log: MemoryLog,
    found: Option<LogRecovery>,
}

#[derive(Debug, thiserror::Error)]
#[error("damaged")]
struct Damaged;

impl LogStore for Broken {
    type Reader = BrokenReader;
    type Error = Damaged;

    fn recover(&mut self) -> Result<LogRecovery, Damaged> {
        self.found.take().ok_or(Damaged)
    }

    fn write(&mut self, _batch: &[Write]) -> Result<(), Damaged> {
        Err(Damaged)
    }

    fn compact(&mut self, _through: LogId) -> Result<(), Damaged> {
        Err(Damaged)
    }

    fn reader(&self) -> BrokenReader {
        BrokenReader(self.log.reader())
    }
}

#[derive(Clone)]
struct BrokenReader(MemoryReader);

impl raft_core::host::LogReader for BrokenReader {
    type Error = Damaged;

    fn read(&self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<Entries, Damaged> {
        self.0.read(from, through, bytes_max).map_err(|_| Damaged)
    }
}

#[tokio::test]
async fn what_cannot_be_trusted_does_not_start() {
    let start = |config, found| {
        let log = Broken { log: MemoryLog::default(), found };
        let (snapshots, network) = (MemorySnapshots::default(), Channels::default());
        within(Builder::new(config).start(log, snapshots, Journal::default(), network.endpoint()))
    };
    assert!(matches!(start(config(1), None).await, Err(StartError::Log(_))));
    // A log of term 5 under a hard state of term 0: the hard state was lost.
    let last = LogId::new(Term::new(5), LogIndex::FIRST);
    let terms = vec![raft_core::TermRun { term: Term::new(5), first: LogIndex::FIRST }];
    let found = LogRecovery { last, terms, ..LogRecovery::default() };
    let error = start(config(1), Some(found)).await.expect_err("a lost hard state");
    assert!(matches!(error, StartError::Node(raft_core::StartError::HardStateBehindLog { .. })), "{error}");
    let mut config = config(1);
    config.heartbeat_interval = config.election_timeout_min;
    let error = start(config, Some(LogRecovery::default())).await.expect_err("a bad configuration");
    let expected = raft_core::StartError::Config(ConfigError::HeartbeatInterval);
    assert!(matches!(error, StartError::Node(found) if found == expected), "{error}");
}

#[tokio::test]
async fn another_bootstrap_set_is_refused() {
    let raft = alone(
        Builder::new(config(1)),
        MemoryLog::default(),
        Journal::default(),
        Channels::default().endpoint(),
    )
    .await;
    within(raft.bootstrap(members([1]))).await.expect("the same again");
    let other = within(raft.bootstrap(members([1, 2]))).await;
    assert_eq!(other, Err(AdminError::Refused(raft_core::AdminRefusal::NotPristine)));
    let without = within(raft.bootstrap(members([2, 3]))).await;
    assert_eq!(without, Err(AdminError::Refused(raft_core::AdminRefusal::NotAMember)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_gather_while_the_disk_is_busy() {
    let (log, control) = FaultyLog::<true>::new(MemoryLog::default());
    let raft = alone(Builder::new(config(1)), log, Journal::default(), Channels::default().endpoint()).await;
    control.hold();
    let before = control.batches().len();
    let mut metrics = raft.metrics();
    let mut writers = tokio::task::JoinSet::new();
    for number in 1..=200 {
        let raft = raft.clone();
        writers.spawn(async move { raft.write(Bytes::from("x")).await });
        within(metrics.wait_for(|metrics| metrics.pending_writes >= number)).await.unwrap();
    }
    control.release();
    for result in within(writers.join_all()).await {
        result.unwrap();
    }
    let syncs = control.batches().len() - before;
    assert!(syncs <= 10, "200 writes took {syncs} calls");
}
