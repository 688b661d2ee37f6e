//! What a node asks for, performed: its log, its snapshots, its messages.
//!
//! * Everything that leaves the node goes to the checkers first.
//! * A sync, a read or a chunk takes its time; a share of them fails where a store may fail.

use raft_core::{Action, Body, Event, LogTask, Notice, SnapshotError, SnapshotMeta, SnapshotTask, Write};

use super::Local;
use crate::check::{Broken, Check, ensure, limits};
use crate::clock::{MILLISECOND, Nanos};
use crate::disk::{WriteFailed, parts_of};
use crate::marks::Mark;
use crate::trace::What;
use crate::workload::Workload;
use crate::world::{Happening, World, note};

impl<W: Workload> World<'_, W> {
    pub(super) fn perform(&mut self, at: usize, action: Action) -> Check {
        let server = &mut self.servers[at];
        let id = server.config.id;
        let life = server.life;
        match action {
            Action::Log(LogTask::Write(write)) => self.write_log(at, &write),
            Action::Log(LogTask::Compact { through }) => {
                self.checks.compacted(&server.status, through)?;
                server.disk.compact(through, self.scenario.disk.whole_records);
                self.summary.compactions += 1;
                note!(self, at, What::Compacts { through });
                Ok(())
            }
            Action::Machine(task) => self.hand_to_machine(at, task),
            Action::Send(message) => {
                ensure!("messages", message.from == id, "n{id} sends in another's name: {message:?}");
                // Answers go to whoever asked, and a leader that was heard is asked, by whatever way the messages came.
                let asks = matches!(
                    message.body,
                    Body::RequestVote { .. }
                        | Body::PreVote { .. }
                        | Body::AppendEntries { .. }
                        | Body::InstallSnapshot { .. }
                        | Body::TimeoutNow
                );
                let known = !asks || server.peers.contains(&message.to);
                ensure!("messages", known, "{message:?}, but it never asked to be connected to its receiver");
                limits::message(&message, &server.config)?;
                self.send(message)
            }
            Action::Respond(response) => self.respond(at, response),
            Action::ReadLog { read, from, through, bytes_max } => {
                self.checks.reads_log(id, from, through)?;
                self.summary.log_reads += 1;
                note!(self, at, What::ReadsLog { from, through });
                let delay = self.servers[at].rng.exponential(self.scenario.disk.read_mean);
                let local = Local::LogRead { read, from, through, bytes_max };
                self.clock.after(delay, Happening::Local(at, life, local));
                Ok(())
            }
            Action::Snapshot(task) => self.snapshot_task(at, task),
            Action::Peers(membership) => {
                // Who is leaving is no member any more, and is still to be reached.
                server.peers = membership.nodes.keys().copied().collect();
                note!(self, at, What::Connects { peers: membership.nodes.keys().copied().collect() });
                Ok(())
            }
            Action::Notify(notice) => {
                self.checks.notified(id, &notice)?;
                self.summary.timed_out += u64::from(matches!(notice, Notice::ChangeTimedOut { .. }));
                if !matches!(notice, Notice::Role { .. }) {
                    note!(self, at, What::Notes { notice });
                }
                Ok(())
            }
        }
    }

    fn write_log(&mut self, at: usize, write: &Write) -> Check {
        let server = &mut self.servers[at];
        let cut = server.rng.chance(self.scenario.disk.cut_writes);
        let pieces = if cut { server.rng.between(1, 3) } else { 1 };
        let id = server.config.id;
        server.unreported.push_back(write.id);
        limits::write(&write.entries, server.unreported.len(), &server.config)?;
        let parts = if cut { parts_of(write, pieces) } else { Vec::new() };
        let parts = if cut { parts.as_slice() } else { std::slice::from_ref(write) };
        self.checks.written(id, write, parts)?;
        let now = self.clock.now();
        let appended = parts.iter().try_for_each(|part| server.disk.append(now, part));
        note!(self, at, What::writes(write));
        if let Err(failed) = appended {
            return self.disk_failed(at, failed);
        }
        self.start_sync(at);
        Ok(())
    }

    /// The driver drops the node, and never tries again (duty 4). Its server starts anew from what is there.
    fn disk_failed(&mut self, at: usize, failed: WriteFailed) -> Check {
        self.checks.mark(match failed {
            WriteFailed::Full => Mark::NoSpaceLeft,
            WriteFailed::Error => Mark::WriteFailed,
        });
        note!(self, at, What::DropsNode { why: failed.to_string() });
        let down_mean = self.scenario.faults.down_mean.max(100 * MILLISECOND);
        let down = self.servers[at].rng.exponential(down_mean);
        self.crash(at, down)
    }

    fn snapshot_task(&mut self, at: usize, task: SnapshotTask) -> Check {
        let model = self.scenario.disk;
        let server = &mut self.servers[at];
        let (id, life) = (server.config.id, server.life);
        match task {
            SnapshotTask::Read { id: of, offset, bytes_max } => {
                self.checks.snapshot_read(id, of)?;
                note!(self, at, What::ReadsChunk { snapshot: of, offset });
                let delay = self.servers[at].rng.exponential(model.read_mean);
                self.clock
                    .after(delay, Happening::Local(at, life, Local::ChunkRead { id: of, offset, bytes_max }));
            }
            SnapshotTask::Write { meta, offset, data, done } => {
                self.checks.chunk(id, &meta, offset, &data, done)?;
                note!(self, at, What::WritesChunk { snapshot: meta.id, offset, bytes: data.len() as u64 });
                let server = &mut self.servers[at];
                let fails = server.rng.chance(model.snapshot_fails) || server.disk.is_full(self.clock.now());
                if !fails {
                    let kept = server.snapshots.write(&meta, offset, &data, done);
                    kept.map_err(|what| Broken::new("snapshots", format!("n{id}: {what}")))?;
                }
                server.chunks_under_way += 1;
                let (stored, peers) = (server.snapshots.count(), server.peers.len());
                limits::snapshots(stored, peers, server.chunks_under_way, &server.config)?;
                let mut delay = server.rng.exponential(model.read_mean);
                if done {
                    delay += model.sync_min + server.rng.exponential(model.sync_more);
                }
                let local = Local::ChunkWritten { meta, offset, done, fails };
                self.clock.after(delay, Happening::Local(at, life, local));
            }
            SnapshotTask::Forget(of) => {
                self.checks.snapshot_forgotten(id, of)?;
                server.snapshots.forget(of);
                note!(self, at, What::DropsSnapshot { snapshot: of });
            }
        }
        Ok(())
    }

    /// A chunk of an incoming snapshot was written, or could not be.
    pub(super) fn chunk_written(
        &mut self,
        at: usize,
        meta: &SnapshotMeta,
        offset: u64,
        done: bool,
        fails: bool,
    ) -> Check {
        let server = &mut self.servers[at];
        server.chunks_under_way -= 1;
        let id = meta.id;
        let result = match (fails, done) {
            (true, _) => Err(SnapshotError::Failed),
            (false, false) => Ok(()),
            (false, true) => match server.snapshots.completed(id) {
                Some(stored) => {
                    self.checks.snapshot_completed(server.config.id, &stored)?;
                    let first = meta.terms.first().map(|run| run.first);
                    server.installed_terms = server.installed_terms.max(first);
                    Ok(())
                }
                // Dropped while its last chunk was under way.
                None => Err(SnapshotError::Unusable),
            },
        };
        self.step(at, Event::SnapshotChunkWritten { id, offset, result })
    }

    fn start_sync(&mut self, at: usize) {
        let model = self.scenario.disk;
        let server = &mut self.servers[at];
        if !server.disk.start_sync() {
            return;
        }
        let mut delay = model.sync_min + server.rng.exponential(model.sync_more);
        if server.rng.chance(model.stall) {
            delay += server.rng.exponential(model.stall_mean);
        }
        if let Some((_, more_mean)) = server.slowed.filter(|(until, _)| *until > self.clock.now()) {
            delay += server.rng.exponential(more_mean);
        }
        let due = (self.clock.now() + delay).max(server.stalled_until);
        self.schedule_sync(at, due);
    }

    fn schedule_sync(&mut self, at: usize, due: Nanos) {
        let server = &mut self.servers[at];
        server.sync_due = due;
        server.syncs += 1;
        self.clock.at(due, Happening::Local(at, server.life, Local::Synced(server.syncs)));
    }

    /// A server is healed at `now`: a sync that stood still goes on.
    pub(crate) fn resume_sync(&mut self, at: usize) {
        let (model, now) = (self.scenario.disk, self.clock.now());
        let latest = now + model.sync_min + model.sync_more;
        if self.servers[at].disk.is_syncing() && self.servers[at].sync_due > latest {
            self.schedule_sync(at, latest);
        }
    }

    pub(super) fn synced(&mut self, at: usize, sync: u64) -> Check {
        let server = &mut self.servers[at];
        if sync != server.syncs {
            // It went on earlier.
            return Ok(());
        }
        let (id, life) = (server.config.id, server.life);
        self.summary.syncs += 1;
        let through = match server.disk.finish_sync() {
            Ok(through) => through,
            Err(failed) => return self.disk_failed(at, failed),
        };
        let more = server.disk.wants_sync();
        if let Some(through) = through {
            self.checks.synced(id, through)?;
            note!(self, at, What::Syncs { through: through.get() });
        }
        self.start_sync(at);
        let (Some(through), model) = (through, self.scenario.disk) else { return Ok(()) };
        if self.servers[at].rng.chance(model.late_report) {
            if more && self.servers[at].rng.chance(500_000) {
                // The sync that has just begun will report for both.
                return Ok(());
            }
            let delay = self.servers[at].rng.exponential(model.late_mean);
            self.clock.after(delay, Happening::Local(at, life, Local::Persisted(through)));
            return Ok(());
        }
        self.step(at, Event::Persisted(through))
    }
}
