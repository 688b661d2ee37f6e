//! The state machine's lane: applies, restores, snapshots and reads, one after the other.
//!
//! * Tasks are done in the order in which they were handed out. Only a snapshot's way to the disk goes on beside them.

use raft_core::{
    Entries, Event, LogId, LogIndex, MachineTask, RoleKind, SnapshotError, SnapshotMeta, Tickets,
};

use super::{Local, Waiter};
use crate::check::{Broken, Check, ensure, limits};
use crate::snapshots::Stored;
use crate::trace::What;
use crate::workload::Workload;
use crate::world::{Happening, World, note};

impl<W: Workload> World<'_, W> {
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
                note!(self, at, What::Restores { snapshot: meta.id });
                self.checks.restores(id, meta)?;
                // What is still on its way is of the past: the limit is on what follows.
                self.servers[at].applying.clear();
            }
            MachineTask::TakeSnapshot(meta) => {
                note!(self, at, What::TakesSnapshot { snapshot: meta.id });
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
        let server = &mut self.servers[at];
        let (delay, life) = (server.rng.exponential(self.scenario.machine.task_mean), server.life);
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
        let server = &mut self.servers[at];
        if server.rng.chance(model.save) {
            let saved = server.machine.save();
            saved.map_err(|what| Broken::new("machine", format!("n{}: {what}", at + 1)))?;
        }
        let moves = |task: &MachineTask| matches!(task, MachineTask::Apply(_) | MachineTask::Restore(_));
        if server.lane.iter().any(moves) && server.rng.chance(model.late_report) {
            return Ok(());
        }
        self.step(at, Event::Applied(applied))
    }

    fn apply(&mut self, at: usize, entries: &Entries) -> Result<LogIndex, Broken> {
        let server = &mut self.servers[at];
        let id = server.config.id;
        let mut responses = Vec::new();
        let applied = server.machine.apply(entries, &mut responses);
        applied.map_err(|what| Broken::new("machine", format!("n{id}: {what}")))?;
        self.agreement.responded(id, entries, &mut responses)?;
        let last = self.arrived(at)?;
        note!(self, at, What::Applied { through: last });
        Ok(last.index)
    }

    /// A machine has come to where it says, and must be what it should be there.
    fn arrived(&mut self, at: usize) -> Result<LogId, Broken> {
        let server = &self.servers[at];
        let (id, machine) = (server.config.id, &server.machine);
        self.checks.machine(id, machine.state())?;
        let last = machine.applied();
        self.agreement.arrived(self.workload, id, last.index, machine.user())?;
        Ok(last)
    }

    fn restore(&mut self, at: usize, meta: &SnapshotMeta) -> Result<LogIndex, Broken> {
        let server = &mut self.servers[at];
        let Some(stored) = server.snapshots.get(meta.id) else {
            let what =
                format!("n{} restores {:?}, which it has dropped since it asked for that", at + 1, meta.id);
            return Err(Broken::new("snapshots", what));
        };
        let pieces = server.rng.between(1, 4);
        let restored = server.machine.restore(&stored.bytes, pieces);
        restored.map_err(|what| Broken::new("machine", format!("n{}: {what}", at + 1)))?;
        let last = self.arrived(at)?;
        ensure!("machine", last == meta.id.last, "n{} restored {:?} and is at {last}", at + 1, meta.id);
        self.summary.restored += 1;
        note!(self, at, What::Restored { through: last });
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
        let fails = server.rng.chance(model.snapshot_fails) || server.disk.is_full(self.clock.now());
        let frozen = server.machine.snapshot();
        let (bytes, user) = frozen.map_err(|what| Broken::new("machine", format!("n{}: {what}", at + 1)))?;
        self.agreement.frozen(server.config.id, here.index, &user)?;
        let stored = Stored::seal(meta, bytes);
        self.checks.snapshot_made(&stored)?;
        server.snapshots.take(stored);
        let (stored, peers) = (server.snapshots.count(), server.peers.len());
        limits::snapshots(stored, peers, server.chunks_under_way, &server.config)?;
        let delay = model.sync_min + server.rng.exponential(model.sync_more + model.read_mean);
        self.clock.after(delay, Happening::Local(at, server.life, Local::SnapshotTaken { fails }));
        Ok(())
    }

    /// The snapshot that the machine took is durable, or cannot be.
    pub(super) fn snapshot_taken(&mut self, at: usize, fails: bool) -> Check {
        let server = &mut self.servers[at];
        if fails {
            let lost = server.snapshots.drop_taking();
            server.lost_snapshot = lost.map_or(LogIndex::ZERO, |last| last.index);
            note!(self, at, What::LostSnapshot);
            return self.step(at, Event::SnapshotTaken(Err(SnapshotError::Failed)));
        }
        let Some(stored) = server.snapshots.taken() else {
            return Err(Broken::new("snapshots", format!("n{} takes two snapshots at once", at + 1)));
        };
        self.checks.snapshot_completed(server.config.id, &stored)?;
        note!(self, at, What::TookSnapshot { snapshot: stored.meta.id, size_bytes: stored.meta.size_bytes });
        self.step(at, Event::SnapshotTaken(Ok(stored.meta)))
    }

    fn serve(&mut self, at: usize, tickets: Tickets) -> Check {
        for ticket in tickets.iter() {
            let waiter = self.waiter(at, ticket)?;
            let Waiter::Client(op) = waiter else {
                return Err(Broken::new("tickets", format!("n{} served {waiter:?} as a read", at + 1)));
            };
            self.checks.serves(&self.servers[at].status, ticket)?;
            let leads = self.servers[at].status.role == RoleKind::Leader;
            self.summary.follower_reads += u64::from(!leads);
            self.read_served(at, op)?;
        }
        Ok(())
    }
}
