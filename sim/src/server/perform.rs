//! What a node asks for, performed: its log, its snapshots, its messages.
//!
//! * Everything that leaves the node goes to the checkers first.
//! * A sync, a read or a chunk takes its time; a share of them fails where a store may fail.

use raft_core::{Action, Body, Event, LogTask, Notice, SnapshotError, SnapshotMeta, SnapshotTask, Write};

use super::Local;
use crate::check::{Broken, Check, ensure, limits};
use crate::disk::parts_of;
use crate::world::{Happening, World, say};

impl World<'_> {
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
                say!(self, "n{id} compacts through {through}");
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
                say!(self, "n{id} reads its log from {from} through {through}");
                let delay = self.rng.exponential(self.scenario.disk.read_mean);
                let local = Local::LogRead { read, from, through, bytes_max };
                self.clock.after(delay, Happening::Local(at, life, local));
                Ok(())
            }
            Action::Snapshot(task) => self.snapshot_task(at, task),
            Action::Peers(membership) => {
                // Who is leaving is no member any more, and is still to be reached.
                server.peers = membership.nodes.keys().copied().collect();
                say!(self, "n{id} connects to {:?}", membership.nodes.keys());
                Ok(())
            }
            Action::Notify(notice) => {
                self.checks.notified(id, &notice)?;
                self.summary.timed_out += u64::from(matches!(notice, Notice::ChangeTimedOut { .. }));
                if !matches!(notice, Notice::Role { .. }) {
                    say!(self, "n{id} notes {notice:?}");
                }
                Ok(())
            }
        }
    }

    fn write_log(&mut self, at: usize, write: &Write) -> Check {
        let cut = self.rng.chance(self.scenario.disk.cut_writes);
        let pieces = if cut { self.rng.between(1, 3) } else { 1 };
        let server = &mut self.servers[at];
        let id = server.config.id;
        server.unreported.push_back(write.id);
        limits::write(&write.entries, server.unreported.len(), &server.config)?;
        let parts = if cut { parts_of(write, pieces) } else { Vec::new() };
        let parts = if cut { parts.as_slice() } else { std::slice::from_ref(write) };
        self.checks.written(id, write, parts)?;
        parts.iter().for_each(|part| server.disk.append(part));
        if self.traces() {
            let reset = write.reset_to.map(|base| format!(" begins anew behind {base}")).unwrap_or_default();
            let (number, hard_state, entries) = (write.id, write.hard_state, &write.entries);
            self.line(&format!("n{id} writes #{number:?} {hard_state:?}{reset} {entries:?}"));
        }
        self.start_sync(at);
        Ok(())
    }

    fn snapshot_task(&mut self, at: usize, task: SnapshotTask) -> Check {
        let model = self.scenario.disk;
        let server = &mut self.servers[at];
        let (id, life) = (server.config.id, server.life);
        match task {
            SnapshotTask::Read { id: of, offset, bytes_max } => {
                self.checks.snapshot_read(id, of)?;
                say!(self, "n{id} reads snapshot {of} from {offset} on");
                let delay = self.rng.exponential(model.read_mean);
                self.clock
                    .after(delay, Happening::Local(at, life, Local::ChunkRead { id: of, offset, bytes_max }));
            }
            SnapshotTask::Write { meta, offset, data, done } => {
                self.checks.chunk(id, &meta, offset, &data, done)?;
                say!(self, "n{id} keeps {} bytes of snapshot {} from {offset} on", data.len(), meta.id);
                let fails = self.rng.chance(model.snapshot_fails);
                let server = &mut self.servers[at];
                if !fails {
                    let kept = server.snapshots.write(&meta, offset, &data, done);
                    kept.map_err(|what| Broken::new("snapshots", format!("n{id}: {what}")))?;
                }
                server.chunks_under_way += 1;
                let (stored, peers) = (server.snapshots.count(), server.peers.len());
                limits::snapshots(stored, peers, server.chunks_under_way, &server.config)?;
                let mut delay = self.rng.exponential(model.read_mean);
                if done {
                    delay += model.sync_min + self.rng.exponential(model.sync_more);
                }
                let local = Local::ChunkWritten { meta, offset, done, fails };
                self.clock.after(delay, Happening::Local(at, life, local));
            }
            SnapshotTask::Forget(of) => {
                self.checks.snapshot_forgotten(id, of)?;
                server.snapshots.forget(of);
                say!(self, "n{id} drops snapshot {of}");
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
        say!(self, "n{} kept snapshot {id} from {offset} on: {result:?}", at + 1);
        self.step(at, Event::SnapshotChunkWritten { id, offset, result })
    }

    fn start_sync(&mut self, at: usize) {
        let model = self.scenario.disk;
        let server = &mut self.servers[at];
        if !server.disk.start_sync() {
            return;
        }
        let mut delay = model.sync_min + self.rng.exponential(model.sync_more);
        if self.rng.chance(model.stall) {
            delay += self.rng.exponential(model.stall_mean);
        }
        let finished = (self.clock.now() + delay).max(server.stalled_until);
        self.clock.at(finished, Happening::Local(at, server.life, Local::Synced));
    }

    pub(super) fn synced(&mut self, at: usize) -> Check {
        let server = &mut self.servers[at];
        let (id, life) = (server.config.id, server.life);
        self.summary.syncs += 1;
        let through = server.disk.finish_sync();
        let more = server.disk.wants_sync();
        if let Some(through) = through {
            self.checks.synced(id, through)?;
            say!(self, "n{id} synced #{through:?}");
        }
        self.start_sync(at);
        let (Some(through), model) = (through, self.scenario.disk) else { return Ok(()) };
        if self.rng.chance(model.late_report) {
            if more && self.rng.chance(500_000) {
                // The sync that has just begun will report for both.
                return Ok(());
            }
            let delay = self.rng.exponential(model.late_mean);
            self.clock.after(delay, Happening::Local(at, life, Local::Persisted(through)));
            return Ok(());
        }
        self.step(at, Event::Persisted(through))
    }
}
