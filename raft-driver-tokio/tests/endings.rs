//! How a node ends, and what becomes of those who wait: everything that was handed over is done, everybody is told
//! the truth, and nobody waits for ever.

#![allow(clippy::unwrap_used, reason = "a test says by failing what it expected")]

mod common;

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use common::{Journal, alone, config, within};
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Entries, EntryRef};
use raft_driver_tokio::storage::MemoryLog;
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{Applied, Builder, Raft, ReadError, WriteError};
use tokio::task::JoinHandle;

/// Waits at the command `gate`, and fails at `bad`.
struct Gated {
    applied: Arc<Mutex<Vec<Bytes>>>,
    gate: mpsc::Receiver<()>,
}

#[derive(Debug, thiserror::Error)]
#[error("a bad command")]
struct Bad;

impl StateMachine for Gated {
    type Response = ();
    type Snapshot = WholeState;
    type Error = Bad;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<()>) -> Result<(), Bad> {
        for entry in entries.iter() {
            let EntryRef::Command(_, command) = entry else { continue };
            match &*command {
                b"gate" => self.gate.recv().unwrap(),
                b"bad" => return Err(Bad),
                _ => {}
            }
            self.applied.lock().unwrap().push(command.to_bytes());
            responses.push(());
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Bad> {
        Ok(WholeState::new(""))
    }

    fn restore(&mut self, _source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Bad>> {
        Ok(())
    }
}

type Write = JoinHandle<Result<Applied<()>, WriteError>>;

struct Held {
    raft: Raft<Gated>,
    open: mpsc::Sender<()>,
    applied: Arc<Mutex<Vec<Bytes>>>,
    writes: Vec<Write>,
}

/// A node alone, its machine held up at the first command and the others committed behind it, one by one.
async fn held(commands: &[&'static str]) -> Held {
    let (open, gate) = mpsc::channel();
    let applied = Arc::default();
    let machine = Gated { applied: Arc::clone(&applied), gate };
    let builder = Builder::new(config(1)).machine_on_thread();
    let raft = alone(builder, MemoryLog::default(), machine, Channels::default().endpoint()).await;
    let mut metrics = raft.metrics();
    let mut writes = Vec::new();
    for &command in commands {
        let before = within(raft.status()).await.unwrap().commit;
        let writer = raft.clone();
        writes.push(tokio::spawn(async move { writer.write(command).await }));
        within(metrics.wait_for(|metrics| metrics.status.commit > before)).await.unwrap();
    }
    Held { raft, open, applied, writes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_applies_what_is_committed_and_was_handed_over() {
    let Held { raft, open, applied, writes } = held(&["gate", "b", "c"]).await;
    let stopping = tokio::spawn({
        let raft = raft.clone();
        async move { raft.shutdown().await }
    });
    while raft.stop_reason().is_none() {
        tokio::task::yield_now().await;
    }
    open.send(()).unwrap();
    within(stopping).await.unwrap();
    for write in writes {
        within(write).await.unwrap().unwrap();
    }
    assert_eq!(*applied.lock().unwrap(), ["gate", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_room_hears_of_the_end_although_the_machine_hangs() {
    let builder = Builder::new(config(1)).machine_on_thread().queue_max(1).queue_bytes_max(1);
    let raft = alone(builder, MemoryLog::default(), Journal::default(), Channels::default().endpoint()).await;
    // A stale read has the one place there is, and keeps the machine; a write has all the bytes, and waits for it.
    let (open, gate) = mpsc::channel::<()>();
    let (hangs, seen) = tokio::sync::oneshot::channel();
    let reader = raft.clone();
    let read = tokio::spawn(async move {
        let closure = move |_: &Journal| (hangs.send(()), gate.recv().is_ok()).1;
        reader.read_stale(Duration::MAX, closure).await
    });
    within(seen).await.unwrap();
    let before = within(raft.status()).await.unwrap().commit;
    let writer = raft.clone();
    let write = tokio::spawn(async move { writer.write("first").await });
    within(raft.metrics().wait_for(|metrics| metrics.status.commit > before)).await.unwrap();

    // In this order: both wait when the end begins.
    let (raft_to_stop, mut stopping) = (raft.clone(), None);
    let stop = async { stopping = Some(tokio::spawn(async move { raft_to_stop.shutdown().await })) };
    let ended = async { tokio::join!(raft.read_stale(Duration::MAX, |_| ()), raft.write("second"), stop) };
    let (read_behind, written_behind, ()) = within(ended).await;
    assert_eq!(read_behind, Err(ReadError::Stopped));
    assert_eq!(written_behind, Err(WriteError::Stopped { command: "second".into() }));
    // What the machine was handed is done all the same.
    open.send(()).unwrap();
    assert_eq!(within(read).await.unwrap(), Ok(true));
    within(write).await.unwrap().unwrap();
    assert!(within(stopping.unwrap()).await.unwrap().is_orderly());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_behind_a_failing_command_is_known_to_be() {
    let Held { open, writes, .. } = held(&["gate", "bad", "c", "d"]).await;
    open.send(()).unwrap();
    let mut outcomes = Vec::new();
    for write in writes {
        outcomes.push(within(write).await.unwrap());
    }
    assert!(outcomes[0].is_ok());
    for outcome in &outcomes[1..] {
        assert!(matches!(outcome, Err(WriteError::ResponseLost { .. })), "{outcome:?}");
    }
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_panics_when_dropped_harms_nobody_else() {
    let Held { raft, open, writes, .. } = held(&["gate"]).await;
    let (sent, told) = tokio::sync::oneshot::channel();
    let reader = tokio::spawn({
        let raft = raft.clone();
        async move {
            let bomb = Bomb;
            let read = raft.read(move |_| {
                let _bomb = &bomb;
            });
            let _ = sent.send(());
            read.await
        }
    });
    told.await.unwrap();
    open.send(()).unwrap();
    for write in writes {
        within(write).await.unwrap().unwrap();
    }
    let read = within(reader).await.unwrap();
    assert!(matches!(read, Err(ReadError::Panicked | ReadError::Stopped)), "{read:?}");
    within(raft.write("later")).await.unwrap();
    assert!(raft.stop_reason().is_none());
}

/// A caller that holds a place in the node's queue when it closes is answered all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_write_hangs_over_a_shutdown() {
    for _ in 0..200 {
        let endpoint = Channels::default().endpoint();
        let raft = alone(Builder::new(config(1)), MemoryLog::default(), Journal::default(), endpoint).await;
        let (first, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let writer = || {
            let (raft, first) = (raft.clone(), first.clone());
            tokio::spawn(async move {
                loop {
                    match raft.write("x").await {
                        Err(WriteError::Stopped { .. }) => return,
                        _ => drop(first.send(())),
                    }
                }
            })
        };
        let writers: Vec<_> = (0..6).map(|_| writer()).collect();
        within(begun.recv()).await.unwrap();
        within(raft.shutdown()).await;
        for writer in writers {
            within(writer).await.unwrap();
        }
    }
}
