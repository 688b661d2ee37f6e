//! The log lane: runs a store beside the node, in order.
//!
//! * A store that may block has one thread. It takes whatever is queued as one batch, so that a group commit forms
//!   while the last fsync runs. What is queued is bounded by the core's limit on writes in flight.
//! * A store that does not block runs in the node's task, once for all writes of a turn.
//! * Reads never queue behind an fsync: they have threads of the runtime's blocking pool, or run inline.
//! * After the first failure the store is not called again.

use std::sync::mpsc;

use raft_core::host::{LogSpan, LogStore};
use raft_core::{Event, Write, WriteId};
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::task::TaskTracker;

use crate::driver::{LOG_STORE, discard, read_log, write_log};
use crate::error::{StartError, StopReason};
use crate::task::Input;
use crate::worker::Worker;

/// A log store and where it runs.
#[derive(Debug)]
pub(crate) struct LogLane<L: LogStore> {
    writes: Writes<L>,
    reader: L::Reader,
    inputs: UnboundedSender<Input>,
    /// Reads that run.
    reads: TaskTracker,
}

#[derive(Debug)]
enum Writes<L> {
    Inline { store: L, batch: Vec<Write> },
    Thread(mpsc::Sender<Write>),
}

impl<L: LogStore> LogLane<L> {
    /// Begins; the worker, if there is one, ends when the lane is dropped and the writes queued are done.
    pub(crate) fn start(
        store: L,
        inputs: UnboundedSender<Input>,
        reads: TaskTracker,
    ) -> Result<(Self, Option<Worker>), StartError> {
        let reader = store.reader();
        let (writes, worker) = if L::MAY_BLOCK {
            let (sender, receiver) = mpsc::channel();
            let reports = inputs.clone();
            let worker = Worker::spawn("raft-log", move || run(store, &receiver, &reports))?;
            (Writes::Thread(sender), Some(worker))
        } else {
            (Writes::Inline { store, batch: Vec::new() }, None)
        };
        Ok((Self { writes, reader, inputs, reads }, worker))
    }

    /// Takes the next write.
    pub(crate) fn write(&mut self, write: Write) {
        match &mut self.writes {
            Writes::Inline { batch, .. } => batch.push(write),
            // A thread that has ended reported why before it did.
            Writes::Thread(sender) => drop(sender.send(write)),
        }
    }

    /// Performs what was taken, if the store runs inline, and says what is durable now.
    pub(crate) fn flush(&mut self) -> Result<Option<WriteId>, StopReason> {
        let Writes::Inline { store, batch } = &mut self.writes else { return Ok(None) };
        let Some(last) = batch.last().map(|write| write.id) else { return Ok(None) };
        write_log(store, batch)?;
        batch.clear();
        Ok(Some(last))
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
fn run<L: LogStore>(mut store: L, writes: &mpsc::Receiver<Write>, reports: &UnboundedSender<Input>) {
    let mut batch = Vec::new();
    while let Ok(first) = writes.recv() {
        let mut last = first.id;
        batch.push(first);
        for next in writes.try_iter() {
            last = next.id;
            batch.push(next);
        }
        let (input, failed) = match write_log(&mut store, &batch) {
            Ok(()) => (Input::Event(Event::Persisted(last)), false),
            Err(reason) => (Input::Failed(reason), true),
        };
        if reports.send(input).is_err() || failed {
            break;
        }
        batch.clear();
    }
    discard(LOG_STORE, store);
}
