//! What clients and operators see of a node: typed commands, kinds of reads, metrics, limits, configuration, recordings.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;
use raft_core::host::recording::Replay;
use raft_core::host::{Application, ByCodec, Codec, CommandError, Typed};
use raft_core::{ConfigError as ProtocolError, LogId, RoleKind, SnapshotPolicy};
use raft_driver_actix::admin::{AddLearner, InitWithConfig, Shutdown};
use raft_driver_actix::messages::{ClientRead, ClientResponse, ClientWrite, ResponseMode};
use raft_driver_actix::metrics::{GetMetrics, RaftMetrics, State, health, watch as listen};
use raft_driver_actix::network::ActorNetwork;
use raft_driver_actix::storage::{MemoryLog, MemorySnapshots};
use raft_driver_actix::{Builder, Config, ConfigError, Raft, ReadError, Recording, StartError, WriteError};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{ClusterId, Postcard};
use serde::{Deserialize, Serialize};

use crate::support::{Async, Cluster, LIMIT, Machine, Route, Router, address, members, n, within};

/// Accounts. Amounts of zero are rejected before anything is in the log.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Bank(BTreeMap<String, u64>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Deposit {
    account: String,
    amount: u64,
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("an amount of 0")]
struct NoAmount;

impl Application for Bank {
    type Command = Deposit;
    type Response = u64;
    type Rejection = NoAmount;
    type Error = Infallible;

    fn validate(command: &Deposit) -> Result<(), NoAmount> {
        if command.amount == 0 { Err(NoAmount) } else { Ok(()) }
    }

    fn apply(&mut self, Deposit { account, amount }: Deposit, _: LogId) -> Result<u64, Infallible> {
        let sum = self.0.entry(account).or_default();
        *sum += amount;
        Ok(*sum)
    }
}

type Teller = Typed<Bank, Postcard>;

fn deposit(amount: u64) -> Result<ClientWrite<u64>, CommandError<NoAmount>> {
    let command = Deposit { account: "a".into(), amount };
    ClientWrite::typed::<Bank, Postcard, ByCodec>(&command, ResponseMode::Applied)
}

/// A node alone, which leads.
async fn alone(builder: Builder) -> Addr<Raft<Teller>> {
    let (listener, mut metrics) = listen();
    let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
    let builder = builder.listener(listener);
    let start = builder.start(log, snapshots, Teller::default(), Channels::default().endpoint());
    let raft = start.await.unwrap();
    raft.send(InitWithConfig { members: members([1]) }).await.unwrap().unwrap();
    let leads = |seen: &Option<RaftMetrics>| seen.as_ref().is_some_and(|seen| seen.state() == State::Leader);
    within(metrics.wait_for(leads)).await.unwrap();
    raft
}

#[actix::test]
async fn typed_commands_are_validated_before_anything_is_in_the_log() {
    let raft = alone(Builder::new(Config::build(n(1)).validate().unwrap())).await;
    let written = raft.send(deposit(5).unwrap()).await.unwrap().unwrap();
    assert!(matches!(written, ClientResponse::Applied { response: 5, .. }));
    let before = raft.send(GetMetrics).await.unwrap().status.last;
    assert!(matches!(deposit(0), Err(CommandError::Rejected(NoAmount))), "refused in the caller");
    // Bytes that somebody made without asking the application.
    let zero = Postcard::encode(&Deposit { account: "a".into(), amount: 0 });
    for bytes in [zero.unwrap(), "no command at all \u{ff}".into()] {
        let refused = raft.send(ClientWrite::new(bytes.clone(), ResponseMode::Committed)).await.unwrap();
        match refused {
            Err(WriteError::Invalid { command, .. }) => assert_eq!(command, bytes, "it comes back"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(raft.send(GetMetrics).await.unwrap().status.last, before, "nothing was logged");
    let committed = Deposit { account: "a".into(), amount: 2 };
    let committed = ClientWrite::typed::<Bank, Postcard, ByCodec>(&committed, ResponseMode::Committed);
    let written = raft.send(committed.unwrap()).await.unwrap().unwrap();
    assert!(matches!(written, ClientResponse::Committed { .. }) && written.response().is_none());
    let sum = raft.send(ClientRead::new(|bank: &Teller| bank.application().0["a"])).await.unwrap();
    assert_eq!(sum, Ok(7));
    within(raft.send(Shutdown)).await.unwrap();
}

#[actix::test]
async fn reads_linearizable_by_lease_and_as_stale_as_allowed() {
    fn with_lease(config: &mut raft_core::Config) {
        config.lease = Some(raft_core::Lease { clock_drift_ppm_max: 1000 });
    }
    let mut cluster = Cluster::<Async>::form(1..=3, with_lease).await;
    let last = cluster.write("one").await;
    cluster.compare(last).await;
    for id in [1, 2, 3].map(n) {
        assert_eq!(cluster.read(id).await.len(), 1, "linearizable, at leader and followers");
        let node = &cluster.nodes[&id];
        let lease = node.raft.send(ClientRead::new(|_: &Machine| ()).lease()).await.unwrap();
        assert!(matches!(lease, Ok(()) | Err(ReadError::NotLeader { .. })), "{lease:?}");
        let stale = node.raft.send(ClientRead::new(|_: &Machine| 7).stale(LIMIT)).await.unwrap();
        assert_eq!(stale, Ok(7), "proved a moment ago");
        assert!(health(&node.raft, LIMIT).await.is_ready());
    }
    // Cut off, a node knows only how old its state is.
    let cut = *cluster.nodes.keys().next().unwrap();
    cluster.router.send(Route::Isolate(cut)).await.unwrap();
    let node = &cluster.nodes[&cut];
    node.until(|seen| seen.status.leader.is_none()).await;
    let strict = node.raft.send(ClientRead::new(|_: &Machine| ())).await.unwrap();
    assert!(matches!(strict, Err(ReadError::NotLeader { .. })), "{strict:?}");
    let strict = node.raft.send(ClientRead::new(|_: &Machine| ()).stale(Duration::ZERO)).await.unwrap();
    assert!(matches!(strict, Err(ReadError::NotLeader { .. })), "{strict:?}");
    for bound in [LIMIT, Duration::MAX] {
        let stale = node.raft.send(ClientRead::new(|_: &Machine| 8).stale(bound)).await.unwrap();
        assert_eq!(stale, Ok(8));
    }
    cluster.end().await;
}

/// Keeps all that it is told.
struct Keeps(tokio::sync::mpsc::UnboundedSender<RaftMetrics>);

impl Actor for Keeps {
    type Context = Context<Self>;
}

impl Handler<RaftMetrics> for Keeps {
    type Result = ();

    fn handle(&mut self, metrics: RaftMetrics, _: &mut Self::Context) {
        let _ = self.0.send(metrics);
    }
}

#[actix::test]
async fn metrics_come_at_their_rate_and_at_each_change() {
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    // Never by the rate, first.
    let config = Config::build(n(1)).metrics_rate(Duration::from_secs(3600)).validate().unwrap();
    let raft = alone(Builder::new(config).listener(Keeps(sender).start().recipient())).await;
    let mut states = Vec::new();
    while states.last() != Some(&State::Leader) {
        let seen = within(told.recv()).await.unwrap();
        states.push(seen.state());
        assert!(seen.stopped.is_none());
    }
    assert_eq!(states.first(), Some(&State::NonVoter), "before it has members: {states:?}");
    raft.send(deposit(5).unwrap()).await.unwrap().unwrap();
    let now = raft.send(GetMetrics).await.unwrap();
    assert_eq!((now.status.id, now.status.leader), (n(1), Some(n(1))));
    assert_eq!(now.status.last.index, now.status.commit);
    assert!(now.membership.is_voter(n(1)));
    within(raft.send(Shutdown)).await.unwrap();
    let mut last = None;
    while let Some(seen) = within(told.recv()).await {
        last = Some(seen);
    }
    assert!(last.unwrap().stopped.is_some(), "the stop is told, and after it nothing");

    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let config = Config::build(n(1)).metrics_rate(Duration::from_millis(1)).validate().unwrap();
    let raft = alone(Builder::new(config).listener(Keeps(sender).start().recipient())).await;
    let mut same = 0;
    while same < 3 {
        let seen = within(told.recv()).await.unwrap();
        same += usize::from(seen.status.role == RoleKind::Leader);
    }
    within(raft.send(Shutdown)).await.unwrap();
}

#[actix::test]
async fn overload_is_busy_and_nobody_is_lost_or_overtaken() {
    // Room for a hundred commands that wait for their outcome.
    let builder = Builder::new(Config::build(n(1)).validate().unwrap());
    let raft = alone(builder.mailbox_max(4).queue_bytes_max(100 * 256)).await;
    // Each on an address of its own: the mailbox takes them all, whatever its capacity.
    let writes: Vec<_> = (0..2000).map(|_| raft.clone().send(deposit(1).unwrap())).collect();
    let refused = (0..10_000).any(|_| matches!(raft.try_send(deposit(1).unwrap()), Err(SendError::Full(_))));
    assert!(refused, "try_send, again and again through one address, says that there is no room");
    let mut last = 0;
    let (mut taken, mut busy) = (0, 0);
    for written in within(futures_util::future::join_all(writes)).await {
        match written.unwrap() {
            Ok(written) => {
                let now = written.response().unwrap();
                assert!(now > last, "in the order in which they were sent");
                last = now;
                taken += 1;
            }
            Err(WriteError::Busy { .. }) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(taken + busy, 2000);
    assert!(taken >= 100 && busy > 0, "taken: {taken}, busy: {busy}");
    let again = raft.send(deposit(1).unwrap()).await.unwrap();
    assert!(again.is_ok(), "what has its outcome gives its room back");
    within(raft.send(Shutdown)).await.unwrap();
    let none = Builder::new(Config::build(n(1)).validate().unwrap()).mailbox_max(0);
    let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
    let refused = none.start(log, snapshots, Teller::default(), Channels::default().endpoint()).await;
    assert!(matches!(refused, Err(StartError::Limit { what: "mailbox_max", value: 0, .. })));

    let mut none = Config::build(n(1)).validate().unwrap();
    none.metrics_rate = Duration::ZERO;
    let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
    let none = Builder::new(none).start(log, snapshots, Teller::default(), Channels::default().endpoint());
    assert!(matches!(none.await, Err(StartError::Limit { what: "metrics_rate", value: 0, .. })));

    // One command is more than there is room for beside another that waits.
    let fast = Config::build(n(1)).validate().unwrap();
    let small = alone(Builder::new(fast).queue_bytes_max(1)).await;
    let both = [small.send(deposit(1).unwrap()), small.send(deposit(1).unwrap())];
    let both = within(futures_util::future::join_all(both)).await;
    let busy = both.into_iter().filter(|written| matches!(written, Ok(Err(WriteError::Busy { .. })))).count();
    assert_eq!(busy, 1);
    within(small.send(Shutdown)).await.unwrap();
}

#[actix::test]
async fn reads_that_wait_for_the_machine_alone_are_bounded_too() {
    const LIMIT: u64 = 8;
    let config = Config::build(n(1)).protocol(|protocol| protocol.pending_reads_max = LIMIT);
    let raft = alone(Builder::new(config.validate().unwrap()).machine_on_thread()).await;
    let read = || ClientRead::new(|_: &Teller| ());
    // The state machine hangs, in the hands of a read.
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let (hangs, seen) = tokio::sync::oneshot::channel();
    let hang = ClientRead::new(move |_: &Teller| (hangs.send(()), gate.recv().is_err()).1);
    let hang = raft.clone().send(hang);
    within(seen).await.unwrap();
    let waiting: Vec<_> = (0..LIMIT).map(|_| raft.clone().send(read())).collect();
    // Committed in their turn, or a later one.
    let write = ClientWrite::new(deposit(1).unwrap().command, ResponseMode::Committed);
    within(raft.send(write)).await.unwrap().unwrap();
    for beyond in [read(), read().lease(), read().stale(Duration::ZERO)] {
        assert_eq!(within(raft.send(beyond)).await.unwrap(), Err(ReadError::Busy));
    }
    // Given up, they are where they were.
    drop(waiting);
    assert_eq!(within(raft.send(read())).await.unwrap(), Err(ReadError::Busy));
    let stale = raft.clone().send(read().stale(Duration::MAX));
    drop(open);
    assert_eq!(within(hang).await.unwrap(), Ok(true));
    assert_eq!(within(stale).await.unwrap(), Ok(()));
    assert_eq!(within(raft.send(read())).await.unwrap(), Ok(()));
    within(raft.send(Shutdown)).await.unwrap();
}

#[actix::test]
async fn commands_that_make_no_sense_are_in_nobodys_way() {
    // More of them than the node has room for at a time; and nothing else happens that would wake it.
    let hour = LIMIT * 60;
    let config = Config::build(n(1)).election_timeout(hour, hour * 2).heartbeat_interval(hour / 2);
    let config = config.metrics_rate(hour).protocol(|protocol| {
        protocol.uncommitted_bytes_max = 64 * 1024;
        protocol.command_bytes_max = 16 * 1024;
    });
    let raft = alone(Builder::new(config.validate().unwrap())).await;
    let nonsense = ClientWrite::<u64>::new(vec![0xff; 8 * 1024], ResponseMode::Applied);
    let nonsense = (0..64).map(|_| raft.send(nonsense.clone())).collect::<Vec<_>>();
    let good = raft.send(deposit(1).unwrap());
    let (refused, good) = within(futures_util::future::join(join_all(nonsense), good)).await;
    assert!(refused.iter().all(|refused| matches!(refused, Ok(Err(WriteError::Invalid { .. })))));
    assert_eq!(good.unwrap().unwrap().response(), Some(1));
    within(raft.send(Shutdown)).await.unwrap();
}

/// Nobody should do that.
struct PanicsAtDrop;

impl Drop for PanicsAtDrop {
    fn drop(&mut self) {
        panic!("planted");
    }
}

#[actix::test]
async fn a_reader_that_panics_when_it_is_dropped_harms_nobody() {
    // There is no leader yet: reads are rejected.
    let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
    let builder = Builder::new(Config::build(n(1)).validate().unwrap());
    let start = builder.start(log, snapshots, Teller::default(), Channels::default().endpoint());
    let raft = start.await.unwrap();
    let read = || {
        let bad = PanicsAtDrop;
        ClientRead::new(move |_: &Teller| std::mem::forget(bad))
    };
    for read in [read(), read().lease(), read().stale(Duration::ZERO)] {
        let refused = within(raft.send(read)).await.unwrap();
        assert!(matches!(refused, Err(ReadError::NotLeader { .. })), "{refused:?}");
    }
    assert!(raft.send(GetMetrics).await.unwrap().stopped.is_none());
    raft.send(InitWithConfig { members: members([1]) }).await.unwrap().unwrap();
    within(raft.send(Shutdown)).await.unwrap();
}

#[actix::test]
async fn a_forwarded_write_waits_no_longer_than_its_limit() {
    // A leader alone, and a learner: which has no timer, nor a listener, nor anything else that would wake it.
    let router = Router::default().start();
    let mut nodes = Vec::new();
    for id in 1..=2 {
        let network = ActorNetwork::new(router.clone().recipient());
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let builder = Builder::new(Config::build(n(id)).validate().unwrap());
        let raft = builder.start(log, snapshots, Teller::default(), network).await.unwrap();
        router.send(Route::Join(n(id), raft.clone().recipient())).await.unwrap();
        nodes.push(raft);
    }
    let (leader, learner) = (&nodes[0], &nodes[1]);
    leader.send(InitWithConfig { members: members([1]) }).await.unwrap().unwrap();
    let add = AddLearner { node: n(2), address: address(2) };
    within(async {
        while leader.send(add.clone()).await.unwrap().is_err() {
            tokio::task::yield_now().await;
        }
        // No clock can name that limit.
        while learner.send(deposit(1).unwrap().forwarding(Duration::MAX)).await.unwrap().is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let write = || within(learner.send(deposit(1).unwrap().forwarding(Duration::from_millis(50))));
    // The leader writes it and says so, but the entry does not come.
    router.send(Route::LettersOnly(n(2))).await.unwrap();
    let lost = write().await.unwrap();
    assert!(matches!(lost, Err(WriteError::ResponseLost { .. })), "{lost:?}");
    // Nobody answers.
    router.send(Route::Isolate(n(1))).await.unwrap();
    let lost = write().await.unwrap();
    assert!(matches!(lost, Err(WriteError::Unknown)), "{lost:?}");
    for node in [learner, leader] {
        within(node.send(Shutdown)).await.unwrap();
    }
}

#[actix::test]
async fn whoever_gives_up_is_forgotten() {
    // Two of three are missing: a linearizable read has no answer, and its caller does not wait for ever.
    let cluster = Cluster::<Async>::form(1..=3, |_| {}).await;
    let led_by = cluster.leader().await;
    let node = &cluster.nodes[&led_by];
    cluster.router.send(Route::Isolate(led_by)).await.unwrap();
    let read = node.raft.send(ClientRead::new(|_: &Machine| ())).timeout(Duration::from_millis(1)).await;
    assert!(matches!(read, Err(MailboxError::Timeout) | Ok(Err(ReadError::NotLeader { .. }))), "{read:?}");
    let write = ClientWrite::new("given up", ResponseMode::Applied);
    let _ = node.raft.send(write).timeout(Duration::from_millis(1)).await;
    node.until(|seen| (seen.pending_reads, seen.pending_writes) == (0, 0)).await;
    cluster.router.send(Route::Heal).await.unwrap();
    cluster.write("after").await;
    cluster.end().await;
}

#[test]
fn the_configuration_has_the_seeds_fields_and_says_what_is_wrong() {
    let config = Config::build(n(1)).validate().unwrap();
    let protocol = &config.protocol;
    let millis = Duration::from_millis;
    assert_eq!((protocol.election_timeout_min, protocol.election_timeout_max), (millis(200), millis(300)));
    assert_eq!((protocol.heartbeat_interval, config.metrics_rate), (millis(50), Duration::from_secs(5)));
    assert_eq!((protocol.append_entries_max, protocol.snapshot_chunk_bytes), (300, 3 << 20));
    assert_eq!(protocol.snapshot_policy, SnapshotPolicy::LogsSinceLast(5000));
    assert!(config.snapshots(ClusterId::new(1)).is_none());

    let wrong = |build: raft_driver_actix::ConfigBuilder| build.validate().unwrap_err();
    let build = || Config::build(n(1));
    let range = ConfigError::Protocol(ProtocolError::ElectionTimeoutRange);
    assert_eq!(wrong(build().election_timeout(millis(300), millis(300))), range);
    let heartbeat = ConfigError::Protocol(ProtocolError::HeartbeatInterval);
    assert_eq!(wrong(build().heartbeat_interval(millis(200))), heartbeat);
    let zero = |name| ConfigError::Protocol(ProtocolError::Zero(name));
    assert_eq!(wrong(build().max_payload_entries(0)), zero("append_entries_max"));
    assert_eq!(wrong(build().snapshot_max_chunk_bytes(0)), zero("snapshot_chunk_bytes"));
    assert_eq!(wrong(build().snapshot_policy(SnapshotPolicy::LogsSinceLast(0))), zero("snapshot_policy"));
    assert_eq!(wrong(build().metrics_rate(Duration::ZERO)), ConfigError::MetricsRate);
    let file = tempfile::NamedTempFile::new().unwrap();
    let not_a_directory = ConfigError::NotADirectory(file.path().to_owned());
    assert_eq!(wrong(build().snapshot_dir(file.path())), not_a_directory);

    let directory = tempfile::tempdir().unwrap();
    let config = build()
        .snapshot_dir(directory.path().join("snapshots"))
        .snapshot_policy(SnapshotPolicy::Never)
        .protocol(|protocol| protocol.seed = 7)
        .validate()
        .unwrap();
    assert_eq!(config.protocol.seed, 7);
    assert!(config.snapshots(ClusterId::new(1)).unwrap().is_ok());
}

#[actix::test]
async fn a_recorded_life_replays() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config::build(n(1)).validate().unwrap();
    let raft = alone(Builder::new(config).record(Recording::new(directory.path()))).await;
    for _ in 0..100 {
        raft.send(deposit(1).unwrap()).await.unwrap().unwrap();
    }
    within(raft.send(Shutdown)).await.unwrap();
    let files: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let bytes = std::fs::read(&files[0]).unwrap();
    let mut replay = Replay::open(bytes.into(), crc32fast::hash).unwrap();
    let mut proposed = 0;
    while let Some(step) = replay.next_step().unwrap() {
        if let Some((_, raft_core::Event::Propose { commands, .. })) = &step.event {
            proposed += commands.len();
        }
    }
    assert_eq!(proposed, 100, "every step was verified");
}
