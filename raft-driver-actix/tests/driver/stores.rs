//! Over the stores of the shared traits: formation, writes, reads, the loss of a leader, failures, the end.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::thread::ThreadId;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use futures_util::future::join_all;
use raft_core::host::{
    LogStore, RestoreError, SnapshotSource, SnapshotStore, SnapshotWriter, StateMachine, WholeState,
};
use raft_core::{
    AdminRefusal, Config, Entries, LogId, LogIndex, MembershipChange, NodeId, RoleKind, SnapshotMeta,
    SnapshotPolicy,
};
use raft_driver_actix::admin::{
    ChangeMembership, InitWithConfig, Shutdown, StepDown, TransferLeader, TriggerSnapshot,
};
use raft_driver_actix::messages::{ClientRead, ClientResponse, ClientWrite, ResponseMode};
use raft_driver_actix::metrics::{GetMetrics, RaftMetrics};
use raft_driver_actix::network::ActorNetwork;
use raft_driver_actix::{AdminError, Builder, Raft, ReadError, StartError, StopReason, WriteError};
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::transport::Channels;
use tokio::sync::{mpsc, watch};

use crate::asking::ask;
use crate::journals::*;

#[actix::test]
async fn three_nodes_elect_write_lose_their_leader_and_go_on() {
    let mut cluster = Cluster::<SlowLog>::form().await;
    let mut written = Vec::new();
    let mut write = async |cluster: &Cluster<SlowLog>, name: String, mode| {
        let response = cluster.write(&name, mode).await;
        assert_eq!(mode == ResponseMode::Applied, matches!(response, ClientResponse::Applied { .. }));
        written.push((response.id(), name.into_bytes()));
        let found = cluster.read().await;
        let last = written.last().unwrap();
        assert!(found.contains(last), "a read sees the write {last:?} that was answered before it");
    };
    for count in 0..20 {
        write(&cluster, format!("first {count}"), ResponseMode::Applied).await;
        write(&cluster, format!("second {count}"), ResponseMode::Committed).await;
    }

    let first = cluster.leader().await;
    let (log, snapshots) = cluster.stop(first).await;
    for count in 0..20 {
        write(&cluster, format!("third {count}"), ResponseMode::Committed).await;
        write(&cluster, format!("fourth {count}"), ResponseMode::Applied).await;
    }
    assert_ne!(cluster.leader().await, first);

    // The stopped one comes back over its log, and catches up.
    let back = start(first, log, snapshots, &cluster.net).await;
    cluster.nodes.insert(first, back);
    write(&cluster, "last".into(), ResponseMode::Applied).await;
    let last = written.last().unwrap().0.index;
    let mut journals = Vec::new();
    for node in cluster.nodes.values_mut() {
        journals.push(node.seen.through(last).await);
    }
    for journal in &journals {
        assert_eq!(
            journal.iter().map(|(id, _)| id.index.get()).collect::<Vec<_>>(),
            (1..=last.get()).collect::<Vec<_>>()
        );
    }
    assert!(journals.iter().all(|journal| *journal == journals[0]), "entry by entry");
    assert!(written.iter().all(|acknowledged| journals[0].contains(acknowledged)));
    cluster.end().await;
}

#[actix::test]
async fn a_follower_names_the_leader_returns_the_command_and_serves_reads() {
    let cluster = Cluster::<MemoryLog>::form().await;
    let name = Bytes::from_static(b"keep me");
    // A leader may change between the question and the look at it; one that does not is found in the end.
    within(async {
        loop {
            let leads = cluster.leader().await;
            let (_, follower) = cluster.nodes.iter().find(|(id, _)| **id != leads).unwrap();
            let mut metrics = follower.metrics.clone();
            let knows = |seen: &Option<RaftMetrics>| {
                seen.as_ref().is_some_and(|seen| seen.status.leader == Some(leads))
            };
            metrics.wait_for(knows).await.unwrap();
            let write = ClientWrite::new(name.clone(), ResponseMode::Applied);
            let read = ClientRead::new(|journal: &Journal| journal.commands);
            let (write, read) =
                (follower.raft.send(write).await.unwrap(), follower.raft.send(read).await.unwrap());
            if let (Err(WriteError::NotLeader { leader: Some(leader), address, command }), Ok(0)) =
                (write, read)
                && leader == leads
            {
                assert_eq!((command, address), (name, members(1..=3).get(&leads).cloned()));
                return;
            }
        }
    })
    .await;
    cluster.end().await;
}

#[actix::test]
async fn the_channels_of_the_other_driver_carry_this_one_too() {
    let channels = Channels::default();
    let mut cluster = Cluster::<MemoryLog>::start(Net::Channels(channels.clone())).await;
    let (first, late) = (n(1), n(3));
    channels.isolate(late);
    // The others learn of their cluster from the first.
    cluster.nodes[&first].raft.send(InitWithConfig { members: members(1..=3) }).await.unwrap().unwrap();
    let mut last = LogIndex::ZERO;
    for count in 0..100 {
        last = cluster.write(&format!("{count}"), ResponseMode::Applied).await.id().index;
    }
    channels.heal();
    let expected = cluster.nodes.get_mut(&first).unwrap().seen.through(last).await;
    assert_eq!(cluster.nodes.get_mut(&late).unwrap().seen.through(last).await, expected);
    let metrics = cluster.nodes[&late].raft.send(GetMetrics).await.unwrap();
    assert_eq!(metrics.membership.nodes, members(1..=3));
    assert!(metrics.transport.messages_sent > 0);
    cluster.end().await;
}

#[actix::test]
async fn a_network_that_cannot_carry_the_longest_message_is_refused() {
    let router = Router::default().start();
    let network = ActorNetwork::new(router.recipient()).message_bytes_max(1024);
    let started = Builder::new(Config::new(n(1)))
        .start(MemoryLog::default(), MemorySnapshots::default(), Journal::new().0, network)
        .await;
    assert!(matches!(started, Err(StartError::MessageTooLong { message_bytes_max: 1024, .. })));
}

// --- members, leaders, snapshots ---------------------------------------------------------------------------

/// Small snapshots, often, of which little stays in the log.
fn compacting(id: NodeId) -> Config {
    let mut config = Config::new(id);
    config.tail_bytes_max = 1;
    config.snapshot_policy = SnapshotPolicy::LogsSinceLast(30);
    config.compaction_margin_entries = 5;
    config.snapshot_chunk_bytes = 200;
    config
}

#[actix::test]
async fn a_fourth_node_joins_by_snapshot_and_takes_the_leaders_place() {
    for on_thread in [false, true] {
        let net = Net::Channels(Channels::default());
        let mut cluster = Cluster::<SlowLog> { net, nodes: BTreeMap::new() };
        let start = async |id: u64, net: &Net| {
            let mut builder = Builder::new(compacting(n(id)));
            if on_thread {
                builder = builder.machine_on_thread();
            }
            start_with(builder, n(id), SlowLog::default(), MemorySnapshots::default(), net).await
        };
        for id in 1..=3 {
            let node = start(id, &cluster.net).await;
            node.raft.send(InitWithConfig { members: members(1..=3) }).await.unwrap().unwrap();
            cluster.nodes.insert(n(id), node);
        }
        for count in 0..100 {
            cluster.write(&format!("{count}"), ResponseMode::Applied).await;
        }
        let old = cluster.leader().await;
        let fourth = start(4, &cluster.net).await;
        let change = MembershipChange::Update {
            voters: [n(4)].into(),
            learners: BTreeSet::new(),
            remove: [old].into(),
            addresses: members([4]),
        };
        let done =
            ask(async || cluster.nodes[&cluster.leader().await].raft.clone(), ChangeMembership(change)).await;
        // The second: a new leader had completed it already.
        assert!(matches!(done, Ok(()) | Err(AdminRefusal::NoChange)), "{done:?}");
        cluster.stop(old).await;
        cluster.nodes.insert(n(4), fourth);
        let last = cluster.write("last", ResponseMode::Applied).await.id().index;
        let joined = cluster.nodes[&n(4)].raft.send(GetMetrics).await.unwrap();
        assert!(joined.status.counters.snapshots_installed > 0);
        assert!(joined.membership.voters.contains(&n(4)) && !joined.membership.voters.contains(&old));
        let mut journals = Vec::new();
        for node in cluster.nodes.values_mut() {
            let commands: Vec<Vec<u8>> =
                node.seen.through(last).await.into_iter().map(|(_, payload)| payload).collect();
            journals.push(commands);
        }
        assert!(journals.iter().all(|journal| *journal == journals[0]), "however it came there");
        assert!(journals[0].contains(&b"99".to_vec()));

        let to = n(4);
        if cluster.leader().await != to {
            let led_by =
                ask(async || cluster.nodes[&cluster.leader().await].raft.clone(), TransferLeader(Some(to)))
                    .await;
            assert!(
                matches!(led_by, Ok(leader) if leader == to) || led_by == Err(AdminRefusal::AlreadyLeader)
            );
        }
        assert_eq!(cluster.nodes[&to].raft.send(StepDown).await.unwrap(), Ok(()));
        cluster.write("after", ResponseMode::Applied).await;
        cluster.end().await;
    }
}

#[actix::test]
async fn a_snapshot_outlives_its_node_and_one_that_cannot_be_read_stops_it() {
    for on_thread in [false, true] {
        let builder = || match on_thread {
            true => Builder::new(compacting(n(1))).machine_on_thread(),
            false => Builder::new(compacting(n(1))),
        };
        let (log, snapshots) = (SlowLog::default(), MemorySnapshots::default());
        let net = Net::Channels(Channels::default());
        let mut first = start_with(builder(), n(1), log.clone(), snapshots.clone(), &net).await;
        first.raft.send(InitWithConfig { members: members([1]) }).await.unwrap().unwrap();
        let leads = |seen: &Option<RaftMetrics>| {
            seen.as_ref().is_some_and(|seen| seen.status.role == RoleKind::Leader)
        };
        within(first.metrics.wait_for(leads)).await.unwrap();
        let mut last = LogIndex::ZERO;
        within(async {
            for count in 0..80 {
                let write = ClientWrite::new(format!("{count}"), ResponseMode::Applied);
                last = first.raft.send(write).await.unwrap().unwrap().id().index;
            }
        })
        .await;
        let taken = first.raft.send(TriggerSnapshot).await.unwrap();
        // The policy may have taken one of all of it, or be taking one.
        assert!(
            matches!(taken, Ok(()) | Err(AdminError::Refused(AdminRefusal::NoSnapshotNeeded))),
            "{taken:?}"
        );
        let before = first.seen.through(last).await;
        within(first.raft.send(Shutdown)).await.unwrap();
        assert_eq!(snapshots.complete().len(), 1);

        let mut second = start_with(builder(), n(1), log.clone(), snapshots.clone(), &net).await;
        within(second.metrics.wait_for(leads)).await.unwrap();
        let read = second.raft.send(ClientRead::new(|journal: &Journal| journal.commands));
        assert_eq!(within(read).await.unwrap(), Ok(80));
        assert_eq!(second.seen.through(last).await.last(), before.last());
        within(second.raft.send(Shutdown)).await.unwrap();

        // Its bytes are another machine's.
        let taken = snapshots.complete()[0];
        let meta = snapshots.recover(LogId::ZERO).unwrap().unwrap();
        let mut writer = snapshots.begin(taken).unwrap();
        writer.write(b"no journal of any kind that this machine knows").unwrap();
        let written = writer.written();
        let meta = SnapshotMeta { size_bytes: written.size_bytes, digest: written.digest, ..(*meta).clone() };
        writer.finish(&meta).unwrap();
        let third = start_with(builder(), n(1), log, snapshots, &net).await;
        let stopped = |seen: &Option<RaftMetrics>| seen.as_ref().is_some_and(|seen| seen.stopped.is_some());
        let mut metrics = third.metrics.clone();
        let told = within(metrics.wait_for(stopped)).await.unwrap().clone().unwrap();
        assert!(matches!(told.stopped, Some(StopReason::Restore(_))), "{:?}", told.stopped);
        let write = third.raft.send(ClientWrite::new("late", ResponseMode::Applied)).await.unwrap();
        assert!(matches!(write, Err(WriteError::Stopped { .. })));
        within(third.raft.send(Shutdown)).await.unwrap();
    }
}

// --- a single node -----------------------------------------------------------------------------------------

/// A configuration in which nothing is ever decided by a time-out.
fn patient() -> Config {
    let mut config = Config::new(n(1));
    config.election_timeout_min = Duration::from_secs(3600);
    config.election_timeout_max = Duration::from_secs(7200);
    config
}

async fn lead_alone<L: LogStore>(
    builder: Builder,
    log: L,
    journal: Journal,
) -> (Addr<Raft<Journal>>, watch::Receiver<Option<RaftMetrics>>) {
    let (listener, mut metrics) = listener();
    let (builder, network) = (builder.listener(listener), Channels::default());
    let raft = builder.start(log, MemorySnapshots::default(), journal, network.endpoint()).await.unwrap();
    raft.send(InitWithConfig { members: members([1]) }).await.unwrap().unwrap();
    let leads =
        |seen: &Option<RaftMetrics>| seen.as_ref().is_some_and(|seen| seen.status.role == RoleKind::Leader);
    within(metrics.wait_for(leads)).await.unwrap();
    (raft, metrics)
}

#[actix::test]
async fn a_single_node_leads_at_once() {
    let (raft, _) = lead_alone(Builder::new(patient()), MemoryLog::default(), Journal::new().0).await;
    let written = raft.send(ClientWrite::new("one", ResponseMode::Applied)).await.unwrap().unwrap();
    assert!(matches!(written, ClientResponse::Applied { response: 1, .. }));
    let again = raft.send(InitWithConfig { members: members([1]) }).await.unwrap();
    assert_eq!(again, Ok(()));
    let other = raft.send(InitWithConfig { members: members([1, 2]) }).await.unwrap();
    assert!(matches!(other, Err(AdminError::Refused(_))));
    let panicked = raft.send(ClientRead::new(|_: &Journal| -> () { panic!("planted") })).await.unwrap();
    assert_eq!(panicked, Err(ReadError::Panicked));
    let commands = raft.send(ClientRead::new(|journal: &Journal| journal.commands)).await.unwrap();
    assert_eq!(commands, Ok(1));
    within(raft.send(Shutdown)).await.unwrap();
}

#[actix::test]
async fn requests_of_one_wake_are_one_write() {
    const COUNT: usize = 2000;
    let log = CountedLog::default();
    let (raft, _) = lead_alone(Builder::new(Config::new(n(1))), log.clone(), Journal::new().0).await;
    let before = log.writes.load(Ordering::Relaxed);
    let writes =
        (0..COUNT).map(|count| raft.send(ClientWrite::new(count.to_string(), ResponseMode::Applied)));
    for (count, written) in join_all(writes).await.into_iter().enumerate() {
        let ClientResponse::Applied { response, .. } = written.unwrap().unwrap() else {
            panic!("was applied")
        };
        assert_eq!(response, count + 1);
    }
    let called = log.writes.load(Ordering::Relaxed) - before;
    assert!(called <= 4, "{COUNT} writes that arrive together took {called} calls of the store");
    within(raft.send(Shutdown)).await.unwrap();
}

#[actix::test]
async fn a_log_store_that_fails_stops_the_node_and_everybody_hears_of_it() {
    let log = SlowLog::default();
    let (raft, mut metrics) =
        lead_alone(Builder::new(Config::new(n(1))), log.clone(), Journal::new().0).await;
    // Whatever a new leader writes is on the disk by then.
    raft.send(ClientWrite::new("kept", ResponseMode::Applied)).await.unwrap().unwrap();
    log.broken.store(true, Ordering::Relaxed);
    let failed = within(raft.send(ClientWrite::new("lost", ResponseMode::Committed))).await.unwrap();
    assert_eq!(failed.unwrap_err(), WriteError::Unknown);

    let stopped = |seen: &Option<RaftMetrics>| seen.as_ref().is_some_and(|seen| seen.stopped.is_some());
    let told = within(metrics.wait_for(stopped)).await.unwrap().clone().unwrap();
    assert!(matches!(&told.stopped, Some(StopReason::Log(error)) if error.to_string() == "the disk is gone"));
    let asked = raft.send(GetMetrics).await.unwrap();
    assert!(matches!(asked.stopped, Some(StopReason::Log(_))));

    let later = raft.send(ClientWrite::new("later", ResponseMode::Applied)).await.unwrap();
    assert_eq!(later.unwrap_err(), WriteError::Stopped { command: "later".into() });
    let read = raft.send(ClientRead::new(|journal: &Journal| journal.commands)).await.unwrap();
    assert_eq!(read, Err(ReadError::Stopped));
    let init = raft.send(InitWithConfig { members: members([1]) }).await.unwrap();
    assert_eq!(init, Err(AdminError::Stopped));
    assert!(matches!(within(raft.send(Shutdown)).await.unwrap(), StopReason::Log(_)));
}

#[actix::test]
async fn a_state_machine_that_panics_stops_the_node() {
    for builder in [Builder::new(Config::new(n(1))), Builder::new(Config::new(n(1))).machine_on_thread()] {
        let (mut journal, _seen) = Journal::new();
        journal.panic_at = Some(2);
        let (raft, _) = lead_alone(builder, MemoryLog::default(), journal).await;
        raft.send(ClientWrite::new("one", ResponseMode::Applied)).await.unwrap().unwrap();
        let lost = within(raft.send(ClientWrite::new("two", ResponseMode::Applied))).await.unwrap();
        assert!(matches!(lost, Err(WriteError::ResponseLost { .. })));
        match within(raft.send(Shutdown)).await.unwrap() {
            StopReason::Panicked { part, message } => {
                assert_eq!(part, "state machine");
                assert!(message.contains("planted"));
            }
            other => panic!("{other}"),
        }
    }
}

/// A journal and a log, their threads, and whether they are still there.
async fn threaded() -> (Addr<Raft<Journal>>, Weak<Mutex<Option<ThreadId>>>, Weak<Mutex<Vec<(LogId, Vec<u8>)>>>)
{
    let log = SlowLog::default();
    let (journal, _) = Journal::new();
    let (thread, entries) = (Arc::downgrade(&log.thread), Arc::downgrade(&journal.entries));
    let (raft, _) = lead_alone(Builder::new(Config::new(n(1))).machine_on_thread(), log, journal).await;
    raft.send(ClientWrite::new("one", ResponseMode::Applied)).await.unwrap().unwrap();
    (raft, thread, entries)
}

#[actix::test]
async fn shutdown_resolves_when_everything_has_ended() {
    let (raft, thread, entries) = threaded().await;
    let log_thread = *thread.upgrade().unwrap().lock().unwrap();
    assert_ne!(log_thread.unwrap(), std::thread::current().id(), "a store that may block has a thread");
    let machine_thread = raft.send(ClientRead::new(|_: &Journal| std::thread::current().id())).await.unwrap();
    assert_ne!(machine_thread.unwrap(), std::thread::current().id());

    // What was sent before is still answered, whoever else asks for the end hears of it too.
    let written = raft.send(ClientWrite::new("two", ResponseMode::Committed));
    let (first, second) = (raft.send(Shutdown), raft.send(Shutdown));
    let (written, first, second) = within(futures_util::future::join3(written, first, second)).await;
    assert!(matches!(written.unwrap(), Ok(_) | Err(WriteError::Unknown | WriteError::Stopped { .. })));
    assert!(matches!((first.unwrap(), second.unwrap()), (StopReason::Requested, StopReason::Requested)));
    assert!(thread.upgrade().is_none(), "the log store is dropped");
    assert!(entries.upgrade().is_none(), "the state machine is dropped");
    assert!(!raft.connected());
    assert!(matches!(raft.send(GetMetrics).await, Err(MailboxError::Closed)));
}

/// Tells when it is dropped.
struct AtEnd {
    journal: Journal,
    _ended: mpsc::Sender<()>,
}

impl StateMachine for AtEnd {
    type Response = usize;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<usize>) -> Result<(), Infallible> {
        self.journal.apply(entries, responses)
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        self.journal.snapshot()
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        self.journal.restore(source)
    }
}

#[actix::test]
async fn a_node_whose_last_address_is_dropped_stops() {
    let (sender, mut ended) = mpsc::channel(1);
    let machine = AtEnd { journal: Journal::new().0, _ended: sender };
    let network = Channels::default();
    let (log, snapshots) = (SlowLog::default(), MemorySnapshots::default());
    let started = Builder::new(Config::new(n(1))).start(log, snapshots, machine, network.endpoint());
    let raft = started.await.unwrap();
    raft.send(InitWithConfig { members: members([1]) }).await.unwrap().unwrap();
    drop(raft);
    assert!(within(ended.recv()).await.is_none());
}
