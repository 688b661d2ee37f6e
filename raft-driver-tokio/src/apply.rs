//! The machine lane: applies and serves reads beside the node, in order, on a task or a thread of its own.
//!
//! * What is applied, and who waits for it, is [`MachineLane`]'s; here is where it runs, and what a failure means.
//! * After the first failure the machine is not called again. Whoever still waits is told that the command is
//!   committed and the response lost.

use raft_core::host::{Committed, MachineLane, Read, StateMachine};
use raft_core::{Entries, Event};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinHandle;

use crate::driver::{STATE_MACHINE, apply, discard, reject_reads, serve};
use crate::error::StartError;
use crate::request::PendingWrite;
use crate::task::Input;
use crate::worker::Worker;

/// Tasks taken at once; what was applied is reported once for all of them.
const BATCH_MAX: usize = 64;

/// Something for the state machine.
pub(crate) enum LaneTask<S: StateMachine> {
    /// Apply these; the commands of those who wait are among them or come later.
    Apply { entries: Entries, committed: Vec<Committed<PendingWrite<S::Response>>> },
    /// Answer these from what has been applied.
    Serve(Vec<Box<dyn Read<S>>>),
}

/// Where a lane runs.
#[derive(Debug)]
pub(crate) enum Runner {
    Task(JoinHandle<()>),
    Thread(Worker),
}

impl Runner {
    /// Resolves when the lane has ended and the machine is dropped.
    pub(crate) async fn ended(self) {
        match self {
            Self::Thread(worker) => worker.ended().await,
            Self::Task(task) => {
                if task.await.is_err_and(|error| error.is_panic()) {
                    tracing::error!("the state machine's task panicked while it ended");
                }
            }
        }
    }
}

/// Begins; the lane ends when its sender is dropped and what is queued is done, or at the first failure.
pub(crate) fn start<S: StateMachine>(
    machine: S,
    inputs: UnboundedSender<Input>,
    on_thread: bool,
) -> Result<(UnboundedSender<LaneTask<S>>, Runner), StartError> {
    // Unbounded: the core bounds what is unapplied, and how many reads are pending.
    let (sender, mut tasks) = mpsc::unbounded_channel();
    let mut lane = Lane { machine: MachineLane::new(machine), inputs };
    let runner = if on_thread {
        Runner::Thread(Worker::spawn("raft-machine", move || {
            let mut batch = Vec::new();
            while tasks.blocking_recv_many(&mut batch, BATCH_MAX) > 0 && lane.run(&mut batch) {}
            lane.finish(batch, tasks);
        })?)
    } else {
        Runner::Task(tokio::spawn(async move {
            let mut batch = Vec::new();
            while tasks.recv_many(&mut batch, BATCH_MAX).await > 0 && lane.run(&mut batch) {}
            lane.finish(batch, tasks);
        }))
    };
    Ok((sender, runner))
}

struct Lane<S: StateMachine> {
    machine: MachineLane<S, PendingWrite<S::Response>>,
    inputs: UnboundedSender<Input>,
}

impl<S: StateMachine> Lane<S> {
    /// Performs a batch and reports. Returns whether to go on.
    fn run(&mut self, batch: &mut Vec<LaneTask<S>>) -> bool {
        let mut applied = None;
        let mut tasks = std::mem::take(batch).into_iter();
        while let Some(task) = tasks.next() {
            match task {
                LaneTask::Apply { entries, committed } => {
                    if let Err(reason) = apply(&mut self.machine, &entries, committed) {
                        let _ = self.inputs.send(Input::Failed(reason));
                        // Who waits behind it is answered by `finish`.
                        batch.extend(tasks);
                        return false;
                    }
                    applied = entries.last().map(|last| last.index).or(applied);
                }
                LaneTask::Serve(reads) => serve(reads, self.machine.machine()),
            }
        }
        if let Some(index) = applied {
            // A node that is gone needs no report; its lane ends when the queue is empty.
            let _ = self.inputs.send(Input::Event(Event::Applied(index)));
        }
        true
    }

    /// Answers whoever still waits and drops the machine.
    fn finish(self, batch: Vec<LaneTask<S>>, mut tasks: UnboundedReceiver<LaneTask<S>>) {
        let machine = self.machine.stop();
        tasks.close();
        for task in batch.into_iter().chain(std::iter::from_fn(|| tasks.try_recv().ok())) {
            match task {
                LaneTask::Apply { committed, .. } => committed.into_iter().for_each(Committed::lose),
                LaneTask::Serve(reads) => reject_reads(reads),
            }
        }
        discard(STATE_MACHINE, machine);
    }
}
