//! Storages that fail, stop or panic under their node: it stops visibly, nobody waits for ever, and the others go on.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use raft_core::{Config, RoleKind};
use raft_driver_actix::admin::{ShutdownNow, TriggerSnapshot};
use raft_driver_actix::messages::{ClientRead, ClientWrite, ResponseMode};
use raft_driver_actix::metrics::{GetMetrics, health};
use raft_driver_actix::{AdminError, ReadError, StopReason, WriteError};

use crate::support::{Async, Cluster, HeardOf, Kind, LIMIT, Machine, Member, StopStorage, Sync, n, within};

fn defaults(_: &mut Config) {}

/// A node whose storage is gone says so to everybody, also to those who ask later, and is silent.
async fn has_stopped<K: Kind>(node: &Member<K>, reason: &StopReason) {
    let told = node.until(|seen| seen.stopped.is_some()).await;
    assert_eq!(told.stopped.as_ref().unwrap().to_string(), reason.to_string());
    let asked = node.raft.send(GetMetrics).await.unwrap();
    assert_eq!(asked.stopped.as_ref().unwrap().to_string(), reason.to_string());
    let write = node.raft.send(ClientWrite::new("late", ResponseMode::Applied)).await.unwrap();
    assert_eq!(write, Err(WriteError::Stopped { command: Bytes::from("late") }));
    let read = node.raft.send(ClientRead::new(|_: &Machine| ())).await.unwrap();
    assert_eq!(read, Err(ReadError::Stopped));
    let admin = node.raft.send(TriggerSnapshot).await.unwrap();
    assert_eq!(admin, Err(AdminError::Stopped));
    let health = health(&node.raft, LIMIT).await;
    assert!(!health.is_live() && !health.is_ready());
}

/// The leader's storage is harmed; the others elect another one, and nothing of the old one is heard any more, S11.
async fn the_others_go_on<K: Kind>(harm: impl AsyncFn(&Member<K>)) -> String {
    let mut cluster = Cluster::<K>::form(1..=3, defaults).await;
    cluster.write("kept").await;
    let old = cluster.leader().await;
    let others: Vec<_> = cluster.nodes.keys().copied().filter(|id| *id != old).collect();
    let node = &cluster.nodes[&old];
    harm(node).await;
    let lost = node.raft.send(ClientWrite::new("lost", ResponseMode::Applied));
    let reason = node.until(|seen| seen.stopped.is_some()).await.stopped.clone().unwrap();
    match within(lost).await.unwrap() {
        // It may have reached the others before.
        Err(WriteError::Unknown | WriteError::ResponseLost { .. } | WriteError::Stopped { .. }) => {}
        Err(WriteError::NotLeader { .. } | WriteError::Busy { .. } | WriteError::Superseded { .. }) => {}
        other => panic!("{other:?}"),
    }
    has_stopped(node, &reason).await;
    let heard = cluster.router.send(HeardOf(old)).await.unwrap();
    let last = cluster.write_by(&others, "after").await.id().index;
    assert_eq!(
        cluster.router.send(HeardOf(old)).await.unwrap(),
        heard,
        "no heartbeat of a node that stopped"
    );

    // Its storage is repaired, and it comes back over what survived.
    let node = cluster.nodes.remove(&old).unwrap();
    within(node.raft.send(ShutdownNow)).await.unwrap();
    for switch in [&node.disk.broken, &node.disk.panics] {
        switch.store(false, Ordering::Relaxed);
    }
    cluster.start(old.get(), node.disk).await;
    cluster.compare(last).await;
    cluster.end().await;
    reason.to_string()
}

async fn fails<K: Kind>() {
    let reason = the_others_go_on::<K>(async |node| node.disk.broken.store(true, Ordering::Relaxed)).await;
    assert_eq!(reason, "the log store failed: the disk is gone");
}

#[actix::test]
async fn a_blocking_storage_that_fails_stops_its_node() {
    fails::<Sync>().await;
}

#[actix::test]
async fn an_asynchronous_storage_that_fails_stops_its_node() {
    fails::<Async>().await;
}

async fn panics<K: Kind>() {
    let reason = the_others_go_on::<K>(async |node| node.disk.panics.store(true, Ordering::Relaxed)).await;
    // The machine lives in the same actor, and may be the first to miss it.
    assert!(reason.ends_with("the storage actor has stopped"), "{reason}");
}

#[actix::test]
async fn a_blocking_storage_that_panics_is_not_a_hang() {
    panics::<Sync>().await;
}

#[actix::test]
async fn an_asynchronous_storage_that_panics_is_not_a_hang() {
    panics::<Async>().await;
}

#[actix::test]
async fn a_storage_that_stops_stops_its_node_although_nothing_is_written() {
    the_others_go_on::<Async>(async |node| {
        node.storage.send(StopStorage).await.unwrap();
        node.until(|seen| seen.stopped.is_some()).await;
    })
    .await;
}

#[actix::test]
async fn a_follower_whose_storage_stops_says_so() {
    let mut cluster = Cluster::<Async>::form(1..=3, defaults).await;
    let last = cluster.write("kept").await;
    cluster.compare(last).await;
    let led_by = cluster.leader().await;
    let follower = *cluster.nodes.keys().find(|id| **id != led_by).unwrap();
    let node = &cluster.nodes[&follower];
    node.storage.send(StopStorage).await.unwrap();
    let seen = node.until(|seen| seen.stopped.is_some()).await;
    let reason = seen.stopped.clone().unwrap();
    assert!(matches!(reason, StopReason::Log(_) | StopReason::Machine(_)), "{reason}");
    has_stopped(node, &reason).await;
    let leads = cluster.nodes[&led_by].raft.send(GetMetrics).await.unwrap();
    assert!(leads.stopped.is_none());
    cluster.write("without it").await;
    let gone = cluster.nodes.remove(&follower).unwrap();
    within(gone.raft.send(ShutdownNow)).await.unwrap();
    cluster.end().await;
}

#[actix::test]
async fn after_a_shutdown_nothing_of_a_node_is_left() {
    async fn ends<K: Kind>() {
        let mut cluster = Cluster::<K>::form(1..=1, defaults).await;
        cluster.write("kept").await;
        let node = cluster.nodes.remove(&n(1)).unwrap();
        let Member { raft, storage, seen, metrics, disk } = node;
        within(raft.send(ShutdownNow)).await.unwrap();
        assert!(!raft.connected(), "the actor has ended");
        // The storage's actor is its owner's: the node holds no address of it any more, and it ends with the last one.
        drop((raft, storage));
        let mut seen = seen;
        assert!(within(seen.gone()).await, "the storage is dropped");
        drop(metrics);
        assert_eq!(disk.lines().last().unwrap().1, b"kept");
    }
    ends::<Sync>().await;
    ends::<Async>().await;
}

#[actix::test]
async fn a_node_without_a_majority_asks_and_serves_nobody() {
    // Two of three are gone: whoever is left asks again and again, and serves nobody.
    let mut cluster = Cluster::<Sync>::form(1..=3, defaults).await;
    let last = cluster.write("kept").await;
    cluster.compare(last).await;
    let left = cluster.leader().await;
    for id in cluster.nodes.keys().copied().filter(|id| *id != left).collect::<Vec<_>>() {
        cluster.stop(id).await;
    }
    let node = &cluster.nodes[&left];
    let asks = node.until(|seen| seen.status.role == RoleKind::PreCandidate).await;
    assert_eq!(asks.state(), raft_driver_actix::metrics::State::Candidate);
    let read = node.raft.send(ClientRead::new(|_: &Machine| ())).await.unwrap();
    assert!(matches!(read, Err(ReadError::NotLeader { .. })), "{read:?}");
    let write = node.raft.send(ClientWrite::new("nowhere", ResponseMode::Committed)).await.unwrap();
    assert!(matches!(write, Err(WriteError::NotLeader { leader: None, .. })), "{write:?}");
    cluster.end().await;
}
