//! The state machine's lane: applies, restores, snapshots and reads, one after the other.
//!
//! * Tasks are done in the order in which they were handed out. Only a snapshot's way to the disk goes on beside them.

use raft_core::host::{FrozenState, SnapshotSource, StateMachine};
use raft_core::{Entries, Event, LogIndex, MachineTask, RoleKind, SnapshotError, SnapshotMeta, Tickets};

use super::{Local, Waiter};
use crate::check::{Broken, Check, ensure, limits};
use crate::snapshots::Stored;
use crate::world::{Happening, World, say};

impl World<'_> {
    /// A node hands a task to its machine.
    pub(super) fn hand_to_machine(&mut self, at: usize, task: MachineTask) -> Check {
        let server = &mut self.servers[at];
        let id = server.config.id;
        match &task {
            MachineTask::Apply(entries) => {
                self.checks.applies(id, entries)?;
                let under_way = server.applying.iter().map(|(_, bytes)| bytes).sum();
                limits::apply(entries, under_way, &server.config)?;
                let through = entries.last().map_or(LogIndex::ZERO, |last| last.index);
                server.applying.push_back((through, entries.size_bytes()));
            }
            MachineTask::Restore(meta) => {
                say!(self, "n{id} restores snapshot {}", meta.id);
                self.checks.restores(id, meta)?;
                // What is still on its way is of the past: the limit is on what follows.
                self.servers[at].applying.clear();
            }
            MachineTask::TakeSnapshot(meta) => {
                say!(self, "n{id} takes snapshot {}", meta.id);
                self.checks.snapshot_asked(id, meta)?;
            }
            MachineTask::Serve(_) => {}
        }
        let server = &mut self.servers[at];
        server.lane.push_back(task);
        if server.lane.len() == 1 {
            self.start_machine(at);
        }
        Ok(())
    }

    fn start_machine(&mut self, at: usize) {
        let delay = self.rng.exponential(self.scenario.machine.task_mean);
        let life = self.servers[at].life;
        self.clock.after(delay, Happening::Local(at, life, Local::MachineDone));
    }

    /// The machine has finished the first task of its lane.
    pub(super) fn machine_done(&mut self, at: usize) -> Check {
        let model = self.scenario.machine;
        let server = &mut self.servers[at];
        let Some(task) = server.lane.pop_front() else { return Ok(()) };
        let more = !server.lane.is_empty();
        let applied = match task {
            MachineTask::Apply(entries) => Some(self.apply(at, &entries)?),
            MachineTask::Restore(meta) => Some(self.restore(at, &meta)?),
            MachineTask::TakeSnapshot(meta) => {
                self.take_snapshot(at, &meta)?;
                None
            }
            MachineTask::Serve(tickets) => {
                self.serve(at, tickets)?;
                None
            }
        };
        if more {
            self.start_machine(at);
        }
        let Some(applied) = applied else { return Ok(()) };
        if self.rng.chance(model.save) {
            self.servers[at].machine.save();
        }
        let moves = |task: &MachineTask| matches!(task, MachineTask::Apply(_) | MachineTask::Restore(_));
        if self.servers[at].lane.iter().any(moves) && self.rng.chance(model.late_report) {
            return Ok(());
        }
        self.step(at, Event::Applied(applied))
    }

    fn apply(&mut self, at: usize, entries: &Entries) -> Result<LogIndex, Broken> {
        let server = &mut self.servers[at];
        let mut responses = Vec::new();
        let applied = server.machine.apply(entries, &mut responses);
        applied.map_err(|error| Broken::new("machine", format!("n{}: {error}", at + 1)))?;
        self.checks.machine(server.config.id, server.machine.state())?;
        let last = server.machine.applied();
        say!(self, "n{} applied through {last}", at + 1);
        Ok(last.index)
    }

    fn restore(&mut self, at: usize, meta: &SnapshotMeta) -> Result<LogIndex, Broken> {
        let server = &mut self.servers[at];
        let Some(stored) = server.snapshots.get(meta.id) else {
            let what =
                format!("n{} restores {:?}, which it has dropped since it asked for that", at + 1, meta.id);
            return Err(Broken::new("snapshots", what));
        };
        let (bytes, pieces) = (stored.bytes.clone(), self.rng.between(1, 4));
        let mut read = |offset: u64, bytes_max: u64| {
            let from = usize::try_from(offset).unwrap_or(bytes.len()).min(bytes.len());
            let most = (bytes.len() as u64).div_ceil(pieces).min(bytes_max);
            Ok(bytes.slice(from..bytes.len().min(from + usize::try_from(most).unwrap_or(0))))
        };
        let restored = server.machine.restore(&mut SnapshotSource::new(meta, &mut read));
        restored.map_err(|error| Broken::new("machine", format!("n{}: {error}", at + 1)))?;
        self.checks.machine(server.config.id, server.machine.state())?;
        let last = server.machine.applied();
        ensure!("machine", last == meta.id.last, "n{} restored {:?} and is at {last}", at + 1, meta.id);
        self.summary.restored += 1;
        say!(self, "n{} restored through {last}", at + 1);
        Ok(last.index)
    }

    /// The state is held still for a moment; its way to the disk takes longer.
    fn take_snapshot(&mut self, at: usize, meta: &SnapshotMeta) -> Check {
        let model = self.scenario.disk;
        let server = &mut self.servers[at];
        let here = server.machine.applied();
        ensure!(
            "snapshots",
            here == meta.id.last,
            "n{} wants a snapshot through {} of a machine that is at {here} by its place in the lane",
            at + 1,
            meta.id.last
        );
        let fails = self.rng.chance(model.snapshot_fails);
        let frozen = server.machine.snapshot();
        let mut frozen = frozen.map_err(|error| Broken::new("machine", format!("n{}: {error}", at + 1)))?;
        let mut bytes = Vec::new();
        while let Ok(Some(chunk)) = frozen.next_chunk() {
            bytes.extend_from_slice(&chunk);
        }
        let stored = Stored::seal(meta, bytes.into());
        self.checks.snapshot_made(&stored)?;
        server.snapshots.take(stored);
        let (stored, peers) = (server.snapshots.count(), server.peers.len());
        limits::snapshots(stored, peers, server.chunks_under_way, &server.config)?;
        let delay = model.sync_min + self.rng.exponential(model.sync_more + model.read_mean);
        self.clock.after(delay, Happening::Local(at, server.life, Local::SnapshotTaken { fails }));
        Ok(())
    }

    /// The snapshot that the machine took is durable, or cannot be.
    pub(super) fn snapshot_taken(&mut self, at: usize, fails: bool) -> Check {
        let server = &mut self.servers[at];
        if fails {
            server.snapshots.drop_taking();
            say!(self, "n{} cannot keep its snapshot", at + 1);
            return self.step(at, Event::SnapshotTaken(Err(SnapshotError::Failed)));
        }
        let Some(stored) = server.snapshots.taken() else {
            return Err(Broken::new("snapshots", format!("n{} takes two snapshots at once", at + 1)));
        };
        self.checks.snapshot_completed(server.config.id, &stored)?;
        say!(self, "n{} has taken {}, {} bytes", at + 1, stored.meta.id, stored.meta.size_bytes);
        self.step(at, Event::SnapshotTaken(Ok(stored.meta)))
    }

    fn serve(&mut self, at: usize, tickets: Tickets) -> Check {
        for ticket in tickets.iter() {
            let waiter = self.waiter(at, ticket)?;
            let Waiter::Client(op) = waiter else {
                return Err(Broken::new("tickets", format!("n{} served {waiter:?} as a read", at + 1)));
            };
            let leads = self.servers[at].status.role == RoleKind::Leader;
            self.summary.follower_reads += u64::from(!leads);
            self.read_served(at, op)?;
        }
        Ok(())
    }
}
