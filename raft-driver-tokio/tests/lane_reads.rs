//! Reads are bounded until they are served, also once the node has handed them to the state machine.

mod common;

use std::sync::{Arc, mpsc};
use std::time::Duration;

use common::{Journal, alone, config, within};
use raft_driver_tokio::storage::MemoryLog;
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{Builder, Raft, ReadError};
use tokio::task::JoinSet;

const SOON: Duration = Duration::from_millis(5);

/// A node alone that takes in so many reads, and whose state machine has a thread.
async fn taking_in(reads: u64) -> Raft<Journal> {
    let mut config = config(1);
    config.pending_reads_max = reads;
    let builder = Builder::new(config).machine_on_thread();
    alone(builder, MemoryLog::default(), Journal::default(), Channels::default().endpoint()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_for_which_nobody_waits_any_more_do_not_gather_in_the_lane() {
    const LIMIT: usize = 16;
    let raft = taking_in(LIMIT as u64).await;
    // The state machine hangs, in the hands of a read.
    let (open, gate) = mpsc::channel::<()>();
    let (hangs, seen) = tokio::sync::oneshot::channel();
    let reader = raft.clone();
    let hang = tokio::spawn(async move {
        let closure = move |_: &Journal| (hangs.send(()), gate.recv().is_err()).1;
        reader.read(closure).await
    });
    within(seen).await.unwrap();
    // Clients try again and again, and give up each time.
    let (impatient, held) = (raft.within(SOON), Arc::new(()));
    for _ in 0..50 {
        let mut callers = JoinSet::new();
        for _ in 0..LIMIT / 2 {
            let (raft, held) = (impatient.clone(), Arc::clone(&held));
            callers.spawn(async move { raft.read(move |_| drop(held)).await });
        }
        let outcomes = within(callers.join_all()).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_err()), "{outcomes:?}");
    }
    let kept = Arc::strong_count(&held) - 1;
    assert!((LIMIT..2 * LIMIT).contains(&kept), "{kept} closures of callers that are gone are kept");
    assert_eq!(within(raft.read(|_| ())).await, Err(ReadError::Busy));
    // Nothing else is in anybody's way.
    within(raft.write_committed("meanwhile")).await.unwrap();
    let stale = raft.read_stale(Duration::MAX, |journal| journal.commands.len());
    drop(open);
    assert_eq!(within(stale).await, Ok(1));
    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(within(raft.read(|journal| journal.commands.len())).await, Ok(1));
    assert_eq!(within(hang).await.unwrap(), Ok(true));
    within(raft.shutdown()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_answered_finds_its_place_free() {
    let raft = taking_in(1).await;
    for _ in 0..10_000 {
        assert_eq!(within(raft.read(|_| ())).await, Ok(()));
    }
    within(raft.shutdown()).await;
}
