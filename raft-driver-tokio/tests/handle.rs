//! What a handle promises: limits, freed places, forwarding, stale reads, waits, health, an orderly end.

#![allow(clippy::unwrap_used, reason = "a test says by failing what it expected")]

mod common;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{BOUND, Cluster, FaultyLog, Journal, alone, config, leader, node, within};
use raft_core::{Commands, Config, RoleKind};
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::tcp::{Tcp, TcpConfig};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{
    AdminError, Advice, Applied, Builder, Certainty, ClusterId, Raft, ReadError, StartError, StopReason,
    WaitError, WriteError,
};

/// Only a limit that is meant to pass: how long it takes is of no interest.
const SOON: Duration = Duration::from_millis(50);

fn text(number: usize) -> Bytes {
    Bytes::from(number.to_string())
}

/// Nobody calls an election by himself within the bound of a test.
fn patient(id: u64) -> Config {
    let mut config = config(id);
    config.election_timeout_min = 4 * BOUND;
    config.election_timeout_max = 5 * BOUND;
    config
}

/// Nor is there a heartbeat.
fn silent(id: u64) -> Config {
    let mut config = patient(id);
    config.heartbeat_interval = 2 * BOUND;
    config
}

/// Three patient nodes that know their leader, which is the first.
async fn patient_cluster() -> (Cluster, Vec<Raft<Journal>>) {
    cluster_of(patient).await
}

/// The same, of nodes that are patient and perhaps more.
async fn cluster_of(configure: fn(u64) -> Config) -> (Cluster, Vec<Raft<Journal>>) {
    let mut cluster = Cluster { configure, ..Cluster::default() };
    for id in 1..=3 {
        cluster.run(id).await;
    }
    let nodes = cluster.all();
    for raft in &nodes {
        within(raft.bootstrap(common::members(1..=3))).await.unwrap();
    }
    within(nodes[0].campaign()).await.unwrap();
    for raft in &nodes {
        assert_eq!(raft.wait(BOUND).leader().await.unwrap(), node(1));
    }
    (cluster, nodes)
}

async fn nothing_pending<S: raft_core::host::StateMachine>(raft: &Raft<S>) {
    let gone = raft.wait(BOUND).until(|metrics| (metrics.pending_writes, metrics.pending_reads) == (0, 0));
    gone.await.unwrap();
}

/// Gives a future its first poll, after which the node has heard of it, and may have answered: however many there are, none
/// yields to others.
fn begin<F: Future>(future: F) -> Pin<Box<impl Future<Output = F::Output>>> {
    let mut future = Box::pin(tokio::task::unconstrained(future));
    let first = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    Box::pin(async move {
        match first {
            Poll::Ready(output) => output,
            Poll::Pending => future.await,
        }
    })
}

/// Writes by this handle, again whenever it certainly did not happen.
async fn persist(raft: &Raft<Journal>, mut command: Bytes) -> Applied<usize> {
    loop {
        let error = match within(raft.write(command)).await {
            Ok(applied) => return applied,
            Err(error) => error,
        };
        assert_eq!(error.certainty(), Certainty::DidNotHappen, "{error}");
        command = error.into_command().expect("it did not happen");
        raft.wait(BOUND).leader().await.unwrap();
        tokio::task::yield_now().await;
    }
}

async fn forwards(nodes: &[Raft<Journal>]) {
    let led_by = leader(nodes).await.id();
    let follower = nodes.iter().find(|raft| raft.id() != led_by).unwrap();
    let client = follower.forwarding().within(BOUND);
    let mut last = None;
    for number in 0..50 {
        let applied = persist(&client, text(number)).await;
        assert_eq!(applied.response, number + 1);
        assert!(last < Some(applied.id));
        last = Some(applied.id);
        // It was applied here before it was answered.
        let seen = follower.read_stale(Duration::MAX, |journal| journal.commands.len());
        assert_eq!(within(seen).await.unwrap(), number + 1);
    }
    let commands: Commands = (50..400).map(text).collect();
    let results = within(client.write_all(commands)).await;
    let responses: Vec<usize> = results.into_iter().map(|result| result.unwrap().response).collect();
    assert_eq!(responses, (51..=400).collect::<Vec<_>>());
    let id = within(client.write_committed("400")).await.unwrap();
    follower.wait(BOUND).applied(id.index).await.unwrap();
    let all = within(follower.read(|journal| journal.commands.clone())).await.unwrap();
    assert_eq!(all, (0..=400).map(text).collect::<Vec<_>>());
    nothing_pending(follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_passes_writes_on_and_answers_from_its_own_machine() {
    let (_cluster, nodes) = patient_cluster().await;
    forwards(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_passed_on_waits_for_no_heartbeat() {
    let (_cluster, nodes) = cluster_of(silent).await;
    let client = nodes[1].forwarding();
    for number in 0..10 {
        assert_eq!(persist(&client, text(number)).await.response, number + 1);
    }
    // Of two members that ask at once, and of answers that come while a question is under way.
    let other = nodes[2].forwarding();
    let ask =
        |number| begin(if number % 2 == 0 { client.write(text(number)) } else { other.write(text(number)) });
    let writes: Vec<_> = (10..400).map(ask).collect();
    let mut responses = Vec::new();
    for write in writes {
        responses.push(within(write).await.unwrap().response);
    }
    responses.sort_unstable();
    assert_eq!(responses, (11..=400).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_passed_on_over_tcp() {
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(Tcp::bind("127.0.0.1:0", TcpConfig::new(ClusterId::new(5))).await.unwrap());
    }
    let members: std::collections::BTreeMap<_, _> =
        (1..).map(node).zip(sockets.iter().map(|tcp| Bytes::from(tcp.local_addr().to_string()))).collect();
    let mut nodes = Vec::new();
    for (id, tcp) in (1..).zip(sockets) {
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let start = Builder::new(patient(id)).start(log, snapshots, Journal::default(), tcp);
        nodes.push(within(start).await.unwrap());
    }
    for raft in &nodes {
        within(raft.bootstrap(members.clone())).await.unwrap();
    }
    // A pre-vote that is lost because a connection is not there yet is not repeated within the test.
    for raft in &nodes {
        raft.wait(BOUND).until(|metrics| metrics.membership.voters.len() == 3).await.unwrap();
    }
    within(async {
        while nodes[0].wait(SOON).leader().await.is_err() {
            // Refused while one is on.
            let _ = nodes[0].campaign().await;
        }
    })
    .await;
    for raft in &nodes {
        assert_eq!(raft.wait(BOUND).leader().await.unwrap(), node(1));
    }
    forwards(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_unknown_and_the_write_happens_once() {
    let (cluster, nodes) = patient_cluster().await;
    cluster.network.cut(node(1), node(2));
    let error = nodes[1].forwarding().within(SOON).write("once").await.unwrap_err();
    assert_eq!((&error, error.advice()), (&WriteError::Unknown, Advice::OutcomeUnknown));
    nothing_pending(&nodes[1]).await;
    cluster.network.heal();
    let second = persist(&nodes[0], Bytes::from("second")).await;
    assert_eq!(second.response, 2);
    nodes[1].wait(BOUND).applied(second.id.index).await.unwrap();
    let seen = nodes[1].read_stale(Duration::MAX, |journal| journal.commands.clone());
    assert_eq!(within(seen).await.unwrap(), ["once", "second"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_being_asked_to_nobody_passes_anything_on() {
    let (_cluster, nodes) = patient_cluster().await;
    let error = within(nodes[1].write("here")).await.unwrap_err();
    let address = Some(Bytes::from("node-1"));
    assert_eq!(error.advice(), Advice::AskLeader { leader: node(1), address: address.clone() });
    assert_eq!(error.into_command(), Some(Bytes::from("here")));
    let error = within(nodes[1].add_learner(node(9), "node-9")).await.unwrap_err();
    assert_eq!(error, AdminError::NotLeader { leader: Some(node(1)), address });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stops_waiting_frees_a_place() {
    const EACH: usize = 1000;
    let (cluster, nodes) = patient_cluster().await;
    // Nothing can be committed or proved.
    cluster.network.isolate(node(1));
    let leading = &nodes[0];
    let mut writes: Vec<_> = (0..EACH).map(|number| begin(leading.write(text(number)))).collect();
    let reads: Vec<_> = (0..EACH).map(|_| begin(leading.read(|journal| journal.commands.len()))).collect();
    let batch = begin(leading.write_all((0..EACH).map(text).collect()));
    let all = leading
        .wait(BOUND)
        .until(|metrics| (metrics.pending_writes, metrics.pending_reads) == (2 * EACH, EACH));
    all.await.unwrap();
    writes.truncate(EACH / 2);
    let half = leading.wait(BOUND).until(|metrics| metrics.pending_writes == EACH / 2 + EACH);
    half.await.unwrap();
    drop((writes, reads, batch));
    nothing_pending(leading).await;

    // Passed on into nothing.
    let asking = nodes[1].forwarding();
    cluster.network.heal();
    cluster.network.cut(node(1), node(2));
    let writes: Vec<_> = (0..EACH).map(|number| begin(asking.write(text(number)))).collect();
    nodes[1].wait(BOUND).until(|metrics| metrics.pending_writes == EACH).await.unwrap();
    drop(writes);
    nothing_pending(&nodes[1]).await;
    nothing_pending(leading).await;

    cluster.network.heal();
    let last = persist(leading, Bytes::from("last")).await;
    nodes[1].wait(BOUND).applied(last.id.index).await.unwrap();
    let counts = within(nodes[1].read(|journal| journal.commands.len())).await.unwrap();
    assert_eq!(counts, last.response);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_limit_the_outcome_is_unknown_and_the_place_free() {
    let (cluster, nodes) = patient_cluster().await;
    cluster.network.isolate(node(1));
    let hurried = nodes[0].within(SOON);
    assert_eq!(hurried.write("a").await, Err(WriteError::Unknown));
    let results = hurried.write_all_committed(["b", "c"].into_iter().collect()).await;
    assert_eq!(results, [Err(WriteError::Unknown), Err(WriteError::Unknown)]);
    let error = hurried.read(|journal| journal.commands.len()).await.unwrap_err();
    assert_eq!((&error, error.advice()), (&ReadError::TimedOut, Advice::RetryLater));
    nothing_pending(&nodes[0]).await;
    let error = hurried.add_learner(node(9), "node-9").await.unwrap_err();
    assert_eq!(error.advice(), Advice::OutcomeUnknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_wait_are_bounded_by_their_bytes() {
    let (log, control) = FaultyLog::<true>::new(MemoryLog::default());
    let builder = Builder::new(config(1)).queue_bytes_max(4096);
    let raft = alone(builder, log, Journal::default(), Channels::default().endpoint()).await;
    control.hold();
    let first = begin(raft.write(vec![1; 3000]));
    raft.wait(BOUND).until(|metrics| metrics.pending_writes == 1).await.unwrap();
    let large = Bytes::from(vec![2; 2000]);
    assert_eq!(raft.within(SOON).write(large.clone()).await, Err(WriteError::Busy { command: large }));
    // Longer than the limit: alone.
    let longer = begin(raft.write(vec![3; 5000]));
    control.release();
    assert_eq!(within(first).await.unwrap().response, 1);
    assert_eq!(within(longer).await.unwrap().response, 2);
}

#[tokio::test]
async fn a_caller_that_waits_keeps_little() {
    let endpoint = Channels::default().endpoint();
    let raft = alone(Builder::new(config(1)), MemoryLog::default(), Journal::default(), endpoint).await;
    // With ten thousand callers this is what the processor's cache is too small for.
    let (one, committed) = (raft.write(Bytes::new()), raft.write_committed(Bytes::new()));
    let sizes = [size_of_val(&one), size_of_val(&committed)];
    assert!(sizes.iter().all(|size| *size <= 176), "{sizes:?}");
    assert!(within(one).await.is_ok() && within(committed).await.is_ok());
}

#[tokio::test]
async fn impossible_limits_are_refused() {
    for builder in [
        Builder::new(config(1)).queue_max(0),
        Builder::new(config(1)).queue_max(usize::MAX),
        Builder::new(config(1)).queue_bytes_max(0),
        Builder::new(config(1)).queue_bytes_max(usize::MAX),
    ] {
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let refused = builder.start(log, snapshots, Journal::default(), Channels::default().endpoint()).await;
        assert!(matches!(refused, Err(StartError::Limit { .. })), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_read_is_as_fresh_as_was_proved_or_refused() {
    const HOUR: Duration = Duration::from_secs(3600);
    let (cluster, nodes) = patient_cluster().await;
    let (leading, follower) = (&nodes[0], &nodes[1]);
    persist(leading, Bytes::from("a")).await;
    assert_eq!(follower.staleness(), None);
    let before = Instant::now();
    // Nothing was proved yet: it asks.
    let seen = within(follower.read_stale(HOUR, |journal| journal.commands.len())).await.unwrap();
    assert_eq!(seen, 1);
    assert!(follower.staleness().is_some_and(|age| age <= before.elapsed()));

    cluster.network.isolate(node(2));
    persist(leading, Bytes::from("b")).await;
    // As fresh as it says, which is not the newest.
    assert_eq!(within(follower.read_stale(HOUR, |journal| journal.commands.len())).await, Ok(1));
    let strict = follower.within(SOON).read_stale(Duration::ZERO, |journal| journal.commands.len()).await;
    assert!(matches!(strict, Err(ReadError::TimedOut | ReadError::NotLeader { .. })), "{strict:?}");
    let whatever = follower.read_stale(Duration::MAX, |journal| journal.commands.len());
    assert_eq!(within(whatever).await, Ok(1));
    // Until the proof is older than the limit: only time does that.
    tokio::time::sleep(SOON).await;
    let health = follower.health(SOON).await;
    assert!(!health.is_ready(), "{health:?}");

    cluster.network.heal();
    assert_eq!(within(follower.read(|journal| journal.commands.len())).await, Ok(2));
    assert_eq!(within(follower.read_stale(HOUR, |journal| journal.commands.len())).await, Ok(2));
}

#[tokio::test]
async fn waits_end_with_what_was_waited_for_or_say_why_not() {
    let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
    let network = Channels::default();
    let start = Builder::new(config(1)).start(log, snapshots, Journal::default(), network.endpoint());
    let raft = within(start).await.unwrap();
    let waited = raft.wait(SOON).leader().await;
    assert!(matches!(&waited, Err(WaitError::TimedOut { status, .. }) if status.role == RoleKind::Follower));
    let health = raft.health(SOON).await;
    assert!(health.is_live() && !health.is_ready(), "{health:?}");

    within(raft.bootstrap(common::members([1]))).await.unwrap();
    assert_eq!(raft.wait(BOUND).leader().await.unwrap(), node(1));
    raft.wait(BOUND).role(RoleKind::Leader).await.unwrap();
    let id = within(raft.write_committed("a")).await.unwrap();
    assert!(raft.wait(BOUND).committed(id.index).await.unwrap().commit >= id.index);
    assert!(raft.wait(BOUND).applied(id.index).await.unwrap().applied >= id.index);
    let members = raft.wait(BOUND).membership(|membership| membership.is_voter(node(1))).await.unwrap();
    assert_eq!(members.members(), [node(1)].into());
    assert!(raft.health(BOUND).await.is_ready());

    let waiting = begin(raft.wait(BOUND).applied(id.index.next()));
    assert!(within(raft.shutdown()).await.is_orderly());
    assert!(matches!(within(waiting).await, Err(WaitError::Stopped(StopReason::Requested))));
    assert!(matches!(raft.wait(BOUND).leader().await, Ok(_) | Err(WaitError::Stopped(_))));
    let health = raft.health(BOUND).await;
    assert!(!health.is_live() && health.stopped.is_some());
    assert_eq!(within(raft.write("b")).await.unwrap_err().advice(), Advice::GiveUp);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_hands_the_leadership_over_first() {
    let (_cluster, nodes) = patient_cluster().await;
    let writes: Vec<_> = (0..100).map(|number| begin(nodes[0].write(text(number)))).collect();
    // A caller that loses patience changes nothing.
    drop(begin(nodes[0].shutdown()));
    assert!(within(nodes[0].shutdown()).await.is_orderly());
    // No election timeout passes within the bound.
    let followed = |leader: Option<raft_core::NodeId>| leader != Some(node(1)) && leader.is_some();
    let next = nodes[1].wait(BOUND).until(|metrics| followed(metrics.status.leader)).await.unwrap();
    let mut happened = 0;
    for write in writes {
        match within(write).await {
            Ok(_) => happened += 1,
            Err(error) => assert_eq!(error.certainty(), Certainty::DidNotHappen, "{error}"),
        }
    }
    let leading = nodes.iter().find(|raft| Some(raft.id()) == next.status.leader).unwrap();
    assert_eq!(within(leading.read(|journal| journal.commands.len())).await, Ok(happened));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_for_the_hand_over_that_took_the_place_of_its_own() {
    let (cluster, nodes) = patient_cluster().await;
    // Nobody hears that they are to take over.
    cluster.network.isolate(node(1));
    let stopping = begin(nodes[0].shutdown());
    let stepping_down = begin(nodes[0].step_down());
    let status = within(nodes[0].status()).await;
    assert!(status.is_some_and(|status| status.role == RoleKind::Leader), "{status:?}");
    cluster.network.heal();
    assert_eq!(within(stepping_down).await, Ok(()));
    assert!(within(stopping).await.is_orderly());
    let followed = |leader: Option<raft_core::NodeId>| leader != Some(node(1)) && leader.is_some();
    nodes[1].wait(BOUND).until(|metrics| followed(metrics.status.leader)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_one_by_one() {
    let (mut cluster, nodes) = patient_cluster().await;
    cluster.run(4).await;
    within(nodes[0].add_learner(node(4), "node-4")).await.unwrap();
    let learns = nodes[0].wait(BOUND).membership(|membership| membership.learners.contains(&node(4))).await;
    assert_eq!(learns.unwrap().voters.len(), 3);
    within(nodes[0].add_voter(node(4), "node-4")).await.unwrap();
    within(nodes[0].remove(node(2))).await.unwrap();
    let membership = nodes[0].wait(BOUND).membership(|membership| membership.is_settled()).await.unwrap();
    assert_eq!(membership.voters, [node(1), node(3), node(4)].into());
    within(nodes[0].write("a")).await.unwrap();
}

/// The names of events and spans in a source file.
fn names(source: &str) -> impl Iterator<Item = &str> {
    let quoted = source.split('"').skip(1).step_by(2);
    let name = |text: &&str| {
        text.strip_prefix("raft.").is_some_and(|rest| {
            !rest.is_empty()
                && rest.chars().all(|letter| letter.is_ascii_lowercase() || "._".contains(letter))
        })
    };
    quoted.filter(name)
}

#[test]
fn the_documentation_lists_every_event() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let documentation = std::fs::read_to_string(source.join("lib.rs")).unwrap();
    let (mut directories, mut seen) = (vec![source], 0);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            // Whatever stands between quotes of a line: no name spans lines.
            for name in text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(names) {
                assert!(documentation.contains(&format!("`{name}`")), "{name} of {}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "events have names: {seen}");
}
