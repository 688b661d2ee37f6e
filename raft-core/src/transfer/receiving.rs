//! The follower's side of a transfer.
//!
//! * The receiver hands its store one chunk at a time. Nothing is acknowledged by being sent (TRAP 39).

use alloc::sync::Arc;
use bytes::Bytes;

use crate::action::SnapshotTask;
use crate::ids::Term;
use crate::message::InstallProgress;
use crate::snapshot::{SnapshotId, SnapshotMeta};

/// A snapshot that arrives from a leader.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Receiving {
    meta: Arc<SnapshotMeta>,
    /// Through where the store has it.
    received: u64,
    chunk: Chunk,
    /// The term and the latest round in which the leader sent it.
    term: Term,
    round: u64,
    /// The store was handed some of it.
    begun: bool,
}

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
enum Chunk {
    /// None: the next one is wanted.
    Wanted,
    /// None: the store kept nothing of what it was handed, and the first one is wanted again.
    Refused,
    /// It waits to be handed to the store.
    Waiting(Bytes, bool),
    /// The store writes it: its end, and whether it is the last.
    Writing(u64, bool),
    /// All are there.
    Complete,
}

impl Receiving {
    /// `begun`: the store may hold some of it from before.
    pub(crate) fn new(meta: Arc<SnapshotMeta>, term: Term, round: u64, begun: bool) -> Self {
        Self { meta, received: 0, chunk: Chunk::Wanted, term, round, begun }
    }

    pub(crate) fn meta(&self) -> &Arc<SnapshotMeta> {
        &self.meta
    }

    pub(crate) fn id(&self) -> SnapshotId {
        self.meta.id
    }

    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.chunk, Chunk::Complete)
    }

    /// Whether the leader of `term` sent its message of `round` before those that brought this snapshot.
    pub(crate) fn is_newer_than(&self, term: Term, round: u64) -> bool {
        self.term == term && round < self.round
    }

    /// A chunk arrived, or a question.
    pub(crate) fn take(&mut self, offset: u64, data: Bytes, done: bool, term: Term, round: u64) {
        self.round = if self.term == term { self.round.max(round) } else { round };
        self.term = term;
        let wanted = matches!(self.chunk, Chunk::Wanted | Chunk::Refused) && offset == self.received;
        if wanted && (done || !data.is_empty()) {
            self.chunk = Chunk::Waiting(data, done);
        }
    }

    pub(crate) fn progress(&self) -> InstallProgress {
        match self.chunk {
            Chunk::Wanted => InstallProgress::Wants(self.received),
            Chunk::Refused => InstallProgress::Refused,
            Chunk::Waiting(..) | Chunk::Writing(..) | Chunk::Complete => InstallProgress::Busy,
        }
    }

    /// Whether the store may hold some of it.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The next chunk for the store.
    pub(crate) fn next_write(&mut self) -> Option<SnapshotTask> {
        let Chunk::Waiting(data, done) = &mut self.chunk else { return None };
        let (data, done) = (core::mem::take(data), *done);
        self.chunk = Chunk::Writing(self.received + data.len() as u64, done);
        self.begun = true;
        Some(SnapshotTask::Write { meta: Arc::clone(&self.meta), offset: self.received, data, done })
    }

    /// The store has what it was handed, or has nothing.
    pub(crate) fn written(&mut self, kept: bool) {
        if let Chunk::Writing(end, done) = self.chunk {
            (self.received, self.chunk) = match (kept, done) {
                (false, _) => (0, Chunk::Refused),
                (true, false) => (end, Chunk::Wanted),
                (true, true) => (end, Chunk::Complete),
            };
        }
    }
}
