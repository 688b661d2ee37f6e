//! One server: its node, its disk, its state machine, and what came out of the node and was not taken by the test.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Action, AdminOutcome, Config, Entries, EntryRef, Event, Fatal, HardState, Instant, LogId, LogIndex,
    LogReadError, LogTask, MachineTask, Membership, Node, Notice, ReadId, ReadOutcome, Recovery, Response,
    SnapshotError, SnapshotMeta, SnapshotTask, Ticket, Tickets, Write, WriteId, WriteOutcome,
};

use super::at;
use super::store::{Store, digest, machine_bytes, machine_from};

/// A read of the log that a node has asked for.
#[derive(Clone, Copy, Debug)]
pub struct LogRead {
    pub read: ReadId,
    pub from: LogIndex,
    pub through: LogIndex,
    pub bytes_max: u64,
}

impl LogRead {
    /// What a log answers.
    pub fn answer(&self, log: &Entries) -> Event {
        let found = log.slice(self.from, self.through).prefix(self.bytes_max);
        let starts = found.first().is_some_and(|first| first.index == self.from);
        Event::LogRead { read: self.read, result: if starts { Ok(found) } else { Err(LogReadError::Gone) } }
    }
}

/// What of a server takes its time, until the test says otherwise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    pub disk: bool,
    pub machine: bool,
    pub reads: bool,
    pub chunks: bool,
    pub snapshots: bool,
}

pub struct Server {
    pub node: Node,
    pub config: Config,
    /// What is on disk.
    pub disk: Store,
    /// Written and not synced.
    pub unsynced: VecDeque<Write>,
    /// Compactions that follow the write of this id in the log lane.
    uncompacted: VecDeque<(WriteId, LogId)>,
    /// Whether the state machine keeps what it was reported to hold.
    pub durable_machine: bool,
    reported: (LogId, Vec<(LogId, Vec<u8>)>),
    /// Applied commands and served reads, in order.
    pub applied: Vec<(LogId, Vec<u8>)>,
    pub applied_index: LogIndex,
    applied_id: LogId,
    pub served: Vec<Tickets>,
    /// Through where entries had been applied before each of `served`.
    pub served_after: Vec<LogIndex>,
    /// Applied and not reported; a restore leaves nothing here but its report.
    pub unreported: VecDeque<Entries>,
    unreported_restore: bool,
    /// Reads of the log that were not answered.
    pub log_reads: VecDeque<LogRead>,
    /// Chunks of snapshots to be read or written.
    pub chunk_tasks: VecDeque<SnapshotTask>,
    /// A snapshot that is being taken.
    pub taking: Option<(Arc<SnapshotMeta>, Bytes)>,
    /// The snapshots that were restored.
    pub restored: Vec<LogId>,
    pub peers: Vec<Arc<Membership>>,
    pub responses: Vec<Response>,
    pub notices: Vec<Notice>,
    pub incarnation: u64,
    /// How many of the commands its state machine remembers: the latest.
    pub remembers: usize,
}

impl Server {
    pub fn new(config: Config, hard_state: HardState, log: Entries, now: Instant) -> Self {
        Self::from_disk(config, Store { hard_state, log, ..Store::default() }, now)
    }

    pub fn from_disk(config: Config, disk: Store, now: Instant) -> Self {
        Self {
            node: start(&config, &disk, LogId::ZERO, 1, now).expect("what was stored is sound"),
            config,
            disk,
            unsynced: VecDeque::new(),
            uncompacted: VecDeque::new(),
            durable_machine: false,
            reported: (LogId::ZERO, Vec::new()),
            applied: Vec::new(),
            applied_index: LogIndex::ZERO,
            applied_id: LogId::ZERO,
            served: Vec::new(),
            served_after: Vec::new(),
            unreported: VecDeque::new(),
            unreported_restore: false,
            log_reads: VecDeque::new(),
            chunk_tasks: VecDeque::new(),
            taking: None,
            restored: Vec::new(),
            peers: Vec::new(),
            responses: Vec::new(),
            notices: Vec::new(),
            incarnation: 1,
            remembers: usize::MAX,
        }
    }

    /// Loses what was not synced and begins anew, the state machine with what it kept.
    pub fn restart(&mut self, now: Instant) {
        self.unsynced.clear();
        self.uncompacted.clear();
        self.unreported.clear();
        self.unreported_restore = false;
        self.log_reads.clear();
        self.chunk_tasks.clear();
        self.taking = None;
        self.disk.incoming = None;
        self.incarnation += 1;
        if !self.durable_machine {
            self.reported = (LogId::ZERO, Vec::new());
        }
        (self.applied_id, self.applied) = self.reported.clone();
        self.applied_index = self.applied_id.index;
        self.node = start(&self.config, &self.disk, self.applied_id, self.incarnation, now)
            .expect("what was stored is sound");
    }

    /// Performs an action other than `Send`; what is done at once is returned to be reported.
    pub fn perform(&mut self, action: Action, pace: Pace) -> Option<Event> {
        match action {
            Action::Send(_) => unreachable!("messages are the cluster's"),
            Action::Log(LogTask::Write(write)) if pace.disk => self.unsynced.push_back(write),
            Action::Log(LogTask::Write(write)) => {
                assert!(self.unsynced.is_empty(), "the log lane is performed in order");
                self.disk.write(&write);
                return Some(Event::Persisted(write.id));
            }
            Action::Log(LogTask::Compact { through }) => {
                assert!(
                    through.index <= self.applied_index,
                    "nothing is compacted that was not applied (§7)"
                );
                match self.unsynced.back() {
                    Some(before) => self.uncompacted.push_back((before.id, through)),
                    None => self.disk.compact(through),
                }
            }
            Action::Machine(task) => return self.perform_machine(task, pace),
            Action::Respond(response) => self.responses.push(response),
            Action::ReadLog { read, from, through, bytes_max } => {
                let asked = LogRead { read, from, through, bytes_max };
                if !pace.reads {
                    return Some(asked.answer(&self.disk.log));
                }
                self.log_reads.push_back(asked);
            }
            // In order with the writes.
            Action::Snapshot(SnapshotTask::Forget(id)) if !pace.chunks => self.disk.forget(id),
            Action::Snapshot(task) => {
                let write = |task: &SnapshotTask| matches!(task, SnapshotTask::Write { .. });
                let second = write(&task) && self.chunk_tasks.iter().any(write);
                assert!(!second, "at most one chunk is being written");
                if !pace.chunks {
                    return self.perform_chunk(task);
                }
                self.chunk_tasks.push_back(task);
            }
            Action::Peers(membership) => self.peers.push(membership),
            Action::Notify(notice) => self.notices.push(notice),
        }
        None
    }

    fn perform_machine(&mut self, task: MachineTask, pace: Pace) -> Option<Event> {
        match task {
            MachineTask::Apply(entries) => {
                for entry in entries.iter() {
                    assert_eq!(entry.id().index, self.applied_index.next(), "no gap, nothing twice");
                    self.applied_index = entry.id().index;
                    self.applied_id = entry.id();
                    if let EntryRef::Command(id, command) = entry {
                        self.applied.push((id, command.to_vec()));
                    }
                }
                let forgotten = self.applied.len().saturating_sub(self.remembers);
                self.applied.drain(..forgotten);
                if pace.machine {
                    self.unreported.push_back(entries);
                    return None;
                }
            }
            MachineTask::Restore(meta) => {
                let (stored, bytes) =
                    self.disk.snapshots.get(&meta.id).expect("a complete snapshot is restored");
                assert_eq!((stored, meta.digest), (&meta, digest(bytes)));
                assert!(meta.id.last.index > self.applied_index, "a state machine never goes back");
                self.applied = machine_from(bytes);
                self.applied_id = meta.id.last;
                self.applied_index = meta.id.last.index;
                self.restored.push(meta.id.last);
                if pace.machine {
                    self.unreported_restore = true;
                    return None;
                }
            }
            MachineTask::TakeSnapshot(meta) => {
                assert_eq!(meta.id.last, self.applied_id, "a snapshot is of what was applied so far");
                assert!(self.taking.is_none(), "one at a time");
                assert!(
                    !self.disk.snapshots.contains_key(&meta.id),
                    "a snapshot's name is never given again"
                );
                self.taking = Some((meta, machine_bytes(&self.applied)));
                return if pace.snapshots { None } else { self.snapshot_taken() };
            }
            MachineTask::Serve(tickets) => {
                self.served.push(tickets);
                self.served_after.push(self.applied_index);
                return None;
            }
        }
        Some(self.applied())
    }

    /// What the state machine reports: all that it holds.
    pub fn applied(&mut self) -> Event {
        self.reported = (self.applied_id, self.applied.clone());
        Event::Applied(self.applied_index)
    }

    /// Whether the state machine has something to report.
    pub fn take_unreported(&mut self) -> bool {
        let restored = core::mem::take(&mut self.unreported_restore);
        self.unreported.drain(..).count() > 0 || restored
    }

    /// The snapshot that is being taken is complete.
    pub fn snapshot_taken(&mut self) -> Option<Event> {
        let (asked, bytes) = self.taking.take()?;
        let mut meta = SnapshotMeta::clone(&asked);
        meta.size_bytes = bytes.len() as u64;
        meta.digest = digest(&bytes);
        let meta = Arc::new(meta);
        self.disk.snapshots.insert(meta.id, (Arc::clone(&meta), bytes));
        Some(Event::SnapshotTaken(Ok(meta)))
    }

    pub fn perform_chunk(&mut self, task: SnapshotTask) -> Option<Event> {
        match task {
            SnapshotTask::Read { id, offset, bytes_max } => {
                let result = self.disk.read_chunk(id, offset, bytes_max);
                Some(Event::SnapshotChunkRead { id, offset, result })
            }
            SnapshotTask::Write { meta, offset, data, done } => {
                let result = self.disk.write_chunk(&meta, offset, &data, done);
                Some(Event::SnapshotChunkWritten { id: meta.id, offset, result })
            }
            SnapshotTask::Forget(id) => {
                self.disk.forget(id);
                None
            }
        }
    }

    /// Makes the oldest write durable, and performs what follows it in the lane.
    pub fn sync_one(&mut self) -> Option<Event> {
        let write = self.unsynced.pop_front()?;
        self.disk.write(&write);
        while let Some((_, through)) = self.uncompacted.pop_front_if(|(after, _)| *after <= write.id) {
            self.disk.compact(through);
        }
        Some(Event::Persisted(write.id))
    }

    /// The outcomes of writes: first ticket, count, outcome.
    pub fn write_outcomes(&self) -> Vec<(u64, u32, WriteOutcome)> {
        let writes = self.responses.iter().filter_map(|response| match response {
            Response::Write { tickets, outcome } => {
                Some((tickets.first.get(), tickets.count, outcome.clone()))
            }
            _ => None,
        });
        writes.collect()
    }

    /// The outcomes of reads that were not served.
    pub fn read_outcomes(&self) -> Vec<(Tickets, ReadOutcome)> {
        let reads = self.responses.iter().filter_map(|response| match response {
            Response::Read { tickets, outcome } => Some((*tickets, outcome.clone())),
            _ => None,
        });
        reads.collect()
    }

    /// The outcomes of administrative requests, in order.
    pub fn admin_outcomes(&self) -> Vec<AdminOutcome> {
        let admin = self.responses.iter().filter_map(|response| match response {
            Response::Admin { outcome, .. } => Some(outcome.clone()),
            _ => None,
        });
        admin.collect()
    }

    /// The one outcome of an administrative request, if it is there yet.
    pub fn admin_outcome(&self, asked: Ticket) -> Option<AdminOutcome> {
        let mut found = self.responses.iter().filter_map(|response| match response {
            Response::Admin { ticket, outcome } if *ticket == asked => Some(outcome.clone()),
            _ => None,
        });
        let first = found.next();
        assert_eq!(found.next(), None, "one outcome each");
        first
    }

    /// The terms of the log, from its first index on.
    pub fn terms(&self) -> Vec<u64> {
        let status = self.node.status();
        (status.base.index.get() + 1..=status.last.index.get())
            .map(|index| self.node.term_at(at(index)).expect("inside the log").get())
            .collect()
    }

    /// Every configuration in the stored log.
    pub fn memberships(&self) -> Vec<Arc<Membership>> {
        let found = self.disk.log.iter().filter_map(|entry| match entry {
            EntryRef::Membership(_, membership) => Some(Arc::clone(membership)),
            _ => None,
        });
        found.collect()
    }

    /// The commands that were applied.
    pub fn commands(&self) -> Vec<String> {
        self.applied.iter().map(|(_, command)| String::from_utf8_lossy(command).into_owned()).collect()
    }
}

pub fn start(
    config: &Config,
    disk: &Store,
    applied: LogId,
    incarnation: u64,
    now: Instant,
) -> Result<Node, raft_core::StartError> {
    let recovery = Recovery { log: disk.recover(), snapshot: disk.newest_snapshot(), applied, incarnation };
    Node::start(config.clone(), recovery, now)
}
