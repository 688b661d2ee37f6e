//! The log lane: runs a store beside the node, in order.
//!
//! * A store that may block has one thread. It takes whatever is queued as one batch, so that a group commit forms
//!   while the last fsync runs. What is queued is bounded by the core's limit on writes in flight.
//! * A store that does not block runs in the node's task, once for all writes of a turn.
//! * Reads never queue behind an fsync: they have threads of the runtime's blocking pool, or run inline.
//! * After the first failure the store is not called again.

use std::sync::mpsc;

use raft_core::host::{LogSpan, LogStore};
use raft_core::{Event, LogTask, Write, WriteId};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::TaskTracker;

use crate::driver::{LOG_STORE, discard, perform_log, read_log};
use crate::error::{StartError, StopReason};
use crate::task::Input;
use crate::worker::Worker;

/// A log store and where it runs.
#[derive(Debug)]
pub(crate) struct LogLane<L: LogStore> {
    tasks: Tasks<L>,
    reader: L::Reader,
    inputs: UnboundedSender<Input>,
    /// Reads that run.
    reads: TaskTracker,
}

#[derive(Debug)]
enum Tasks<L> {
    Inline { store: L, queue: Vec<LogTask>, batch: Vec<Write> },
    Thread(mpsc::Sender<LogTask>),
}

impl<L: LogStore> LogLane<L> {
    /// Begins; the worker, if there is one, ends when the lane is dropped and the tasks queued are done.
    pub(crate) fn start(
        store: L,
        inputs: UnboundedSender<Input>,
        reads: TaskTracker,
    ) -> Result<(Self, Option<Worker>), StartError> {
        let reader = store.reader();
        let (tasks, worker) = if L::MAY_BLOCK {
            let (sender, receiver) = mpsc::channel();
            let reports = inputs.clone();
            let worker = Worker::spawn("raft-log", move || run(store, &receiver, &reports))?;
            (Tasks::Thread(sender), Some(worker))
        } else {
            (Tasks::Inline { store, queue: Vec::new(), batch: Vec::new() }, None)
        };
        Ok((Self { tasks, reader, inputs, reads }, worker))
    }

    /// Takes the next task.
    pub(crate) fn perform(&mut self, task: LogTask) {
        match &mut self.tasks {
            Tasks::Inline { queue, .. } => queue.push(task),
            // A thread that has ended reported why before it did.
            Tasks::Thread(sender) => drop(sender.send(task)),
        }
    }

    /// Performs what was taken, if the store runs inline, and says what is durable now.
    pub(crate) fn flush(&mut self) -> Result<Option<WriteId>, StopReason> {
        let Tasks::Inline { store, queue, batch } = &mut self.tasks else { return Ok(None) };
        let mut durable = None;
        perform_log(store, queue.drain(..), batch, |id| durable = Some(id))?;
        Ok(durable)
    }

    /// Reads entries: returns the event, or sees to it that it comes later.
    pub(crate) fn read(&mut self, span: LogSpan) -> Result<Option<Event>, StopReason> {
        if !L::MAY_BLOCK {
            return read_log(&self.reader, span).map(Some);
        }
        let (reader, inputs) = (self.reader.clone(), self.inputs.clone());
        self.reads.spawn_blocking(move || {
            let input = match read_log(&reader, span) {
                Ok(event) => Input::Event(event),
                Err(reason) => Input::Failed(reason),
            };
            // A node that is gone needs no entries.
            let _ = inputs.send(input);
        });
        Ok(None)
    }
}

/// The thread of a store that may block.
fn run<L: LogStore>(mut store: L, tasks: &mpsc::Receiver<LogTask>, reports: &UnboundedSender<Input>) {
    let mut batch = Vec::new();
    let mut gone = false;
    while let Ok(first) = tasks.recv() {
        let queued = std::iter::once(first).chain(tasks.try_iter());
        let performed = perform_log(&mut store, queued, &mut batch, |id| {
            gone |= reports.send(Input::Event(Event::Persisted(id))).is_err();
        });
        if let Err(reason) = performed {
            let _ = reports.send(Input::Failed(reason));
            break;
        }
        if gone {
            break;
        }
    }
    discard(LOG_STORE, store);
}
