//! Nodes of one process over channels: elections, writes, reads, loss of the leader, restart, back-pressure.

mod common;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use common::{BOUND, Cluster, Control, Journal, alone, config, leader, node, within, write};
use raft_core::{Commands, LogIndex, ReadConsistency, RoleKind, WriteRefusal};
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{Builder, Certainty, Raft, ReadError, WriteError};

fn text(number: usize) -> Bytes {
    Bytes::from(number.to_string())
}

#[tokio::test]
async fn a_node_alone_leads_at_once_and_answers_in_order() {
    let raft = alone(
        Builder::new(config(1)),
        MemoryLog::default(),
        Journal::default(),
        Channels::default().endpoint(),
    )
    .await;
    let first = within(raft.write("a")).await.unwrap();
    let second = within(raft.write("b")).await.unwrap();
    assert_eq!((first.response, second.response), (1, 2));
    assert_eq!(second.id.index, first.id.index.next());
    let committed = within(raft.write_committed("c")).await.unwrap();
    assert_eq!(committed.index, second.id.index.next());
    let seen = within(raft.read(|journal| journal.commands.clone())).await.unwrap();
    assert_eq!(seen, ["a", "b", "c"]);
    let status = within(raft.status()).await.unwrap();
    assert_eq!((status.role, status.leader), (RoleKind::Leader, Some(node(1))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_lose_their_leader_and_go_on() {
    let mut cluster = Cluster::start(3).await;
    let nodes = cluster.all();
    for number in 0..100 {
        write(&nodes, text(number)).await.unwrap();
    }
    let old = leader(&nodes).await.id().get();
    cluster.stop(old).await;
    let nodes = cluster.all();
    let mut last = LogIndex::ZERO;
    for number in 100..200 {
        last = write(&nodes, text(number)).await.unwrap().id.index;
    }
    assert_ne!(leader(&nodes).await.id().get(), old);
    // The one that was lost returns over what it left, and catches up.
    let back = cluster.run(old).await;
    let mut metrics = back.metrics();
    within(metrics.wait_for(|metrics| metrics.status.applied >= last)).await.unwrap();
    let expected: Vec<_> = (0..200).map(text).collect();
    let raft = leader(&cluster.all()).await;
    assert_eq!(within(raft.read(|journal| journal.commands.clone())).await.unwrap(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_cluster_restarts_from_its_logs() {
    let mut cluster = Cluster::start(3).await;
    for number in 0..50 {
        write(&cluster.all(), text(number)).await.unwrap();
    }
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in 1..=3 {
        cluster.run(id).await;
    }
    let applied = write(&cluster.all(), text(50)).await.unwrap();
    assert_eq!(applied.response, 51);
}

#[tokio::test]
async fn a_follower_says_who_leads_gives_the_command_back_and_serves_reads() {
    let cluster = Cluster::start(3).await;
    let nodes = cluster.all();
    let led = leader(&nodes).await.id();
    let follower = nodes.iter().find(|raft| raft.id() != led).unwrap();
    assert_eq!(follower.wait(BOUND).leader().await.ok(), Some(led));
    // The leader may change at any time, so only what is said of whoever it is can be checked.
    match within(follower.write("x")).await {
        Err(WriteError::NotLeader { leader, address, command }) => {
            assert_eq!(command, "x");
            assert_eq!(address, leader.map(|id| Bytes::from(format!("node-{id}"))));
        }
        // It was elected meanwhile.
        Ok(_) => {}
        Err(error) => panic!("{error}"),
    }
    // A read is served all the same: the follower asks its leader how far it must be.
    let written = write(&nodes, text(7)).await.unwrap();
    for consistency in [ReadConsistency::Linearizable, ReadConsistency::Lease] {
        let read = within(async {
            loop {
                match follower.read_with(consistency, |journal| journal.commands.len()).await {
                    Ok(count) => return count,
                    // An election on a busy machine.
                    Err(ReadError::NotLeader { .. }) => tokio::task::yield_now().await,
                    Err(error) => panic!("{error}"),
                }
            }
        });
        assert!(read.await >= written.response);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_get_their_own_responses() {
    let cluster = Cluster::start(3).await;
    let nodes = cluster.all();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..64 {
        let nodes = nodes.clone();
        writers.spawn(async move {
            let mut indexes = Vec::new();
            for number in 0..50 {
                let command = Bytes::from(format!("{writer}:{number}"));
                let applied = write(&nodes, command.clone()).await.unwrap();
                indexes.push((applied.response, applied.id.index, command));
            }
            assert!(indexes.is_sorted_by_key(|(response, index, _)| (*response, *index)));
            indexes
        });
    }
    let mut all: Vec<_> = within(writers.join_all()).await.into_iter().flatten().collect();
    all.sort_unstable_by_key(|(response, ..)| *response);
    let raft = leader(&nodes).await;
    let journal = within(raft.read(|journal| journal.commands.clone())).await.unwrap();
    assert_eq!(journal.len(), 64 * 50);
    for (at, (response, _, command)) in all.iter().enumerate() {
        assert_eq!(*response, at + 1, "each response goes to one writer");
        assert_eq!(journal[at], command, "and to the writer of that command");
    }
}

#[tokio::test]
async fn many_commands_at_once_have_a_result_each() {
    let raft = alone(
        Builder::new(config(1)),
        MemoryLog::default(),
        Journal::default(),
        Channels::default().endpoint(),
    )
    .await;
    let commands: Commands = (0..1000).map(|number| number.to_string()).collect();
    let results = within(raft.write_all(commands.clone())).await;
    let responses: Vec<_> = results.into_iter().map(|result| result.unwrap().response).collect();
    assert_eq!(responses, (1..=1000).collect::<Vec<_>>());
    let results = within(raft.write_all_committed(commands)).await;
    assert_eq!(results.len(), 1000);
    assert!(results.windows(2).all(|two| two[0].as_ref().unwrap() < two[1].as_ref().unwrap()));
    assert!(within(raft.write_all(Commands::default())).await.is_empty());
}

#[tokio::test]
async fn a_command_too_large_is_refused_alone() {
    let mut config = config(1);
    config.command_bytes_max = 10;
    let raft =
        alone(Builder::new(config), MemoryLog::default(), Journal::default(), Channels::default().endpoint())
            .await;
    let (long, short) = tokio::join!(raft.write("longer than ten"), raft.write("short"));
    let refusal = WriteRefusal::TooLarge { bytes: 15, bytes_max: 10 };
    let command = Bytes::from("longer than ten");
    assert_eq!(long, Err(WriteError::Refused { refusal, command }));
    assert_eq!(short.unwrap().response, 1);
}

#[tokio::test]
async fn a_leader_cut_off_says_what_it_does_not_know() {
    let cluster = Cluster::start(3).await;
    let nodes = cluster.all();
    write(&nodes, text(0)).await.unwrap();
    let old = leader(&nodes).await;
    cluster.network.isolate(old.id());
    let stranded = tokio::spawn({
        let old = old.clone();
        async move { old.write("stranded").await }
    });
    let others: Vec<_> = nodes.iter().filter(|raft| raft.id() != old.id()).cloned().collect();
    // A new leader commits at the stranded entry's place or before, in a later term.
    write(&others, text(1)).await.unwrap();
    write(&others, text(2)).await.unwrap();
    cluster.network.heal();
    match within(stranded).await.unwrap() {
        Err(error) => assert_eq!(error.certainty(), Certainty::DidNotHappen, "{error}"),
        Ok(applied) => panic!("it was cut off, yet committed {applied:?}"),
    }
    let journal = within(leader(&nodes).await.read(|journal| journal.commands.clone())).await;
    assert!(!journal.unwrap().contains(&Bytes::from("stranded")));
}

/// Two of three go on without the third, far beyond what they keep in memory, over stores of one kind.
async fn one_falls_far_behind<const BLOCKS: bool>() {
    let network = Channels::default();
    let logs: Vec<_> = (0..3).map(|_| MemoryLog::default()).collect();
    let start = async |id: u64| {
        let mut config = config(id);
        config.tail_bytes_max = 4096;
        config.append_bytes_max = 4096;
        let (log, control) = common::FaultyLog::<BLOCKS>::new(logs[id as usize - 1].clone());
        let snapshots = MemorySnapshots::default();
        let start = Builder::new(config).start(log, snapshots, Journal::default(), network.endpoint());
        let raft = within(start).await.expect("starts");
        within(raft.bootstrap(common::members(1..=3))).await.expect("the same set");
        (raft, control)
    };
    let (third, _) = start(3).await;
    let (first, first_control) = start(1).await;
    let (second, second_control) = start(2).await;
    let mut nodes = vec![first, second];
    assert!(within(third.shutdown()).await.is_orderly());
    let command = Bytes::from(vec![7; 256]);
    let mut last = LogIndex::ZERO;
    for _ in 0..10 {
        let commands: Commands = (0..200).map(|_| &command).collect();
        let results = within(leader(&nodes).await.write_all(commands)).await;
        last = results.into_iter().flatten().map(|applied| applied.id.index).max().unwrap_or(last).max(last);
    }
    assert!(last > LogIndex::ZERO);
    let reads = || first_control.reads() + second_control.reads();
    let before = reads();
    let (third, _) = start(3).await;
    let mut metrics = third.metrics();
    within(metrics.wait_for(|metrics| metrics.status.applied >= last)).await.expect("it runs");
    assert!(reads() > before, "what it missed was no longer in memory");
    nodes.push(third);
    let applied = write(&nodes, Bytes::from("last")).await.expect("a majority");
    let journal =
        within(leader(&nodes).await.read(|journal| journal.commands.len())).await.expect("it leads");
    assert_eq!(journal, applied.response);
}

#[tokio::test]
async fn a_node_far_behind_is_brought_up_from_a_store_that_runs_inline() {
    one_falls_far_behind::<false>().await;
}

#[tokio::test]
async fn a_node_far_behind_is_brought_up_from_a_store_that_blocks() {
    one_falls_far_behind::<true>().await;
}

/// A node alone whose log store can be held up: whatever is proposed stays pending, and no election can come.
async fn held_up(builder: Builder) -> (Raft<Journal>, Control) {
    let (log, control) = common::FaultyLog::<true>::new(MemoryLog::default());
    let raft = alone(builder, log, Journal::default(), Channels::default().endpoint()).await;
    within(raft.write("first")).await.expect("a node alone");
    control.hold();
    (raft, control)
}

#[tokio::test]
async fn a_dropped_write_frees_its_place() {
    let (raft, control) = held_up(Builder::new(config(1))).await;
    let mut metrics = raft.metrics();
    {
        let mut write = pin!(raft.write("given up"));
        assert!(matches!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
        // A turn that began after the write was sent has taken it in when the second question is answered.
        for _ in 0..2 {
            within(raft.status()).await.unwrap();
        }
        within(metrics.wait_for(|metrics| metrics.pending_writes == 1)).await.unwrap();
    }
    within(metrics.wait_for(|metrics| metrics.pending_writes == 0)).await.unwrap();
    control.release();
    // It was proposed, so it happened.
    let seen = within(async {
        raft.write("last").await.unwrap();
        raft.read(|journal| journal.commands.clone()).await.unwrap()
    });
    assert_eq!(seen.await, ["first", "given up", "last"]);
}

#[tokio::test]
async fn beyond_the_limit_on_proposals_callers_wait() {
    let mut config = config(1);
    config.pending_proposals_max = 4;
    let (raft, control) = held_up(Builder::new(config)).await;
    let mut writers = tokio::task::JoinSet::new();
    let mut metrics = raft.metrics();
    for number in 1..=4 {
        let raft = raft.clone();
        writers.spawn(async move { raft.write("taken").await });
        within(metrics.wait_for(|metrics| metrics.pending_writes == number)).await.unwrap();
    }
    let mut beyond = pin!(raft.write("beyond"));
    assert!(matches!(beyond.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    for _ in 0..2 {
        within(raft.status()).await.unwrap();
    }
    assert!(matches!(beyond.as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Pending));
    assert_eq!(raft.metrics().borrow().pending_writes, 4, "it was not taken in");
    control.release();
    within(beyond).await.unwrap();
    for result in within(writers.join_all()).await {
        result.unwrap();
    }
}

#[tokio::test]
async fn without_room_callers_wait() {
    let mut config = config(1);
    config.uncommitted_bytes_max = 4096;
    let (raft, control) = held_up(Builder::new(config).queue_max(2)).await;
    let mut metrics = raft.metrics();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let raft = raft.clone();
        writers.spawn(async move { raft.write(vec![0; 1000]).await });
    }
    within(metrics.wait_for(|metrics| metrics.pending_writes >= 4)).await.unwrap();
    // Reads and administration do not queue behind the writes.
    let status = within(raft.status()).await.unwrap();
    assert!(status.last.index.since(status.commit) < 8, "{status:?}");
    assert!(metrics.borrow().pending_writes < 8);
    control.release();
    for result in within(writers.join_all()).await {
        result.unwrap();
    }
}
