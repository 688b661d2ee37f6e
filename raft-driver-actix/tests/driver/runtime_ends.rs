//! What becomes of those who wait when the arbiter ends under a node, and of a node that many shut down.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, mpsc as gates};

use actix::prelude::*;
use futures_util::future::join_all;
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Config, Entries, EntryRef, RoleKind};
use raft_driver_actix::admin::{InitWithConfig, Shutdown, ShutdownNow};
use raft_driver_actix::messages::{ClientRead, ClientWrite, ResponseMode};
use raft_driver_actix::metrics::{GetMetrics, RaftMetrics, watch as listen};
use raft_driver_actix::storage::{MemoryLog, MemorySnapshots};
use raft_driver_actix::{Builder, Raft, StopReason};
use raft_driver_tokio::Certainty;
use raft_driver_tokio::transport::Channels;
use tokio::sync::{mpsc, oneshot};

use crate::support::{members, n, within};

/// Tells when it begins to apply a command, and waits until its gate's other half is dropped. Once it is dropped itself,
/// and will not be made again, there is nothing more to be heard.
#[derive(Clone)]
struct Gated {
    gate: Arc<Mutex<gates::Receiver<()>>>,
    applies: mpsc::UnboundedSender<()>,
}

/// A machine, what opens its gate, and what it tells.
fn gated() -> (Gated, gates::Sender<()>, mpsc::UnboundedReceiver<()>) {
    let ((open, gate), (applies, applied)) = (gates::channel(), mpsc::unbounded_channel());
    (Gated { gate: Arc::new(Mutex::new(gate)), applies }, open, applied)
}

impl StateMachine for Gated {
    type Response = ();
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<()>) -> Result<(), Infallible> {
        for _ in entries.iter().filter(|entry| matches!(entry, EntryRef::Command(..))) {
            self.applies.send(()).unwrap();
            let _ = self.gate.lock().unwrap().recv();
            responses.push(());
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        Ok(WholeState::new(""))
    }

    fn restore(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        Ok(())
    }
}

/// The only node of its cluster, which leads, on this arbiter.
async fn leading(
    arbiter: &ArbiterHandle,
    builder: Builder,
    machine: Gated,
    supervised: bool,
) -> Addr<Raft<Gated>> {
    let (listener, mut metrics) = listen();
    let builder = builder.listener(listener);
    let (sender, started) = oneshot::channel();
    arbiter.spawn(async move {
        let stores = || (MemoryLog::default(), MemorySnapshots::default());
        let network = || Channels::default().endpoint();
        let raft = if supervised {
            let open = move || {
                let ((log, snapshots), machine) = (stores(), machine.clone());
                async move { Ok((log, snapshots, machine, network())) }
            };
            builder.supervise(open).await
        } else {
            let (log, snapshots) = stores();
            builder.start(log, snapshots, machine, network()).await
        };
        let _ = sender.send(raft.unwrap());
    });
    let raft = within(started).await.unwrap();
    within(raft.send(InitWithConfig { members: members([1]) })).await.unwrap().unwrap();
    let leads =
        |seen: &Option<RaftMetrics>| seen.as_ref().is_some_and(|seen| seen.status.role == RoleKind::Leader);
    within(metrics.wait_for(leads)).await.unwrap();
    raft
}

#[actix::test]
async fn whoever_waits_for_a_node_whose_arbiter_ends_is_told() {
    for (on_thread, supervised) in [(true, false), (true, true), (false, false), (false, true)] {
        let arbiter = Arbiter::new();
        let (machine, open, mut applied) = gated();
        let builder = Builder::new(Config::new(n(1)));
        let builder = if on_thread { builder.machine_on_thread() } else { builder };
        let raft = leading(&arbiter.handle(), builder, machine, supervised).await;

        let write = raft.send(ClientWrite::new("x", ResponseMode::Applied));
        within(applied.recv()).await.unwrap();
        let shutdown = raft.send(Shutdown);
        arbiter.stop();
        let joined = tokio::task::spawn_blocking(|| arbiter.join());
        // Without a thread of its own, the machine holds up the arbiter.
        let open = on_thread.then_some(open);
        within(joined).await.unwrap().unwrap();
        drop(open);

        // It was committed.
        if let Ok(Err(error)) = within(write).await {
            assert_ne!(error.certainty(), Certainty::DidNotHappen, "{error}");
        }
        if let Ok(reason) = within(shutdown).await {
            assert!(matches!(reason, StopReason::Requested | StopReason::RuntimeEnded), "{reason}");
        }
        assert!(within(raft.send(GetMetrics)).await.is_err());
        assert!(within(raft.send(ClientRead::new(|_: &Gated| ()))).await.is_err());
        assert_eq!(within(applied.recv()).await, None, "the machine is dropped");
    }
}

/// Shuts the node down again when it hears that it has stopped.
struct Nervous(Option<Addr<Raft<Gated>>>);

impl Actor for Nervous {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "()")]
struct Yours(Addr<Raft<Gated>>);

impl Handler<Yours> for Nervous {
    type Result = ();

    fn handle(&mut self, Yours(raft): Yours, _: &mut Self::Context) {
        self.0 = Some(raft);
    }
}

impl Handler<RaftMetrics> for Nervous {
    type Result = ();

    fn handle(&mut self, metrics: RaftMetrics, _: &mut Self::Context) {
        if metrics.stopped.is_some()
            && let Some(raft) = self.0.take()
        {
            raft.do_send(Shutdown);
            raft.do_send(ShutdownNow);
        }
    }
}

#[actix::test]
async fn a_node_that_many_shut_down_ends_once_and_tells_all_of_them() {
    let nervous = Nervous(None).start();
    let (machine, _, mut applied) = gated();
    let builder = Builder::new(Config::new(n(1))).listener(nervous.clone().recipient());
    let raft = leading(&Arbiter::current(), builder, machine, false).await;
    within(nervous.send(Yours(raft.clone()))).await.unwrap();
    let asked = (0..4).map(async |at| match at % 2 {
        0 => raft.send(Shutdown).await,
        _ => raft.send(ShutdownNow).await,
    });
    for reason in within(join_all(asked)).await {
        assert!(matches!(reason, Ok(StopReason::Requested)), "{reason:?}");
    }
    assert_eq!(within(applied.recv()).await, None, "the machine is dropped");
    assert!(within(raft.send(Shutdown)).await.is_err());
}
