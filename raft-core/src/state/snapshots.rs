//! Snapshots and compaction at one server (§7): when one is taken, what it replaces in the log, and what arrives from a
//! leader.
//!
//! * A snapshot counts only once the driver reports it complete and durable. Only then is the log compacted, or replaced
//!   (TRAP 41).
//! * The log is never compacted past what the machine has applied, nor past a snapshot that is being sent, nor past what its
//!   receiver has of it then, for as long as that gets further, and what is kept does not outweigh the snapshot.
//! * A snapshot is installed only if the log neither holds its last entry nor is committed beyond it (TRAP 36), and the
//!   machine holds everything that is committed: nobody waits for a response that never comes, and no earlier
//!   snapshot is still to be restored.
//! * At most one write to the snapshot store is outstanding.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

use super::{ADMIN_MAX, Shared};
use crate::action::{
    Action, AdminOutcome, AdminRefusal, LogTask, MachineTask, Notice, SnapshotTask, Violation,
};
use crate::config::SnapshotPolicy;
use crate::error::Fatal;
use crate::ids::{LogIndex, NodeId, Ticket};
use crate::message::InstallProgress;
use crate::snapshot::{SnapshotError, SnapshotId, SnapshotMeta};
use crate::time::Instant;
use crate::transfer::Receiving;

#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Snapshots {
    /// The newest complete one.
    latest: Option<Arc<SnapshotMeta>>,
    /// The one that is being taken.
    taking: Option<SnapshotId>,
    tickets: Vec<Ticket>,
    /// The latest one turned out unusable: another is due from then on. And how often that was so.
    wanted: Option<Instant>,
    unusable: u32,
    incarnation: u64,
    taken: u64,
    /// Where the last one was taken, or tried, and the bytes of entries handed to the machine since.
    since: LogIndex,
    since_bytes: u64,
    /// From where on entries were counted in bytes: a machine that holds some itself is not handed them again.
    counted: LogIndex,
    /// What an entry has been in bytes, on average, before the latest one; zero while that is not known.
    entry_bytes: u64,
    receiving: Option<Box<Receiving>>,
    /// The write that the store has not reported.
    writing: Option<(SnapshotId, u64)>,
    /// Of no use to this node any more, but perhaps to a transfer.
    old: Vec<SnapshotId>,
}

impl Snapshots {
    pub(super) fn new(latest: Option<Arc<SnapshotMeta>>, applied: LogIndex, incarnation: u64) -> Self {
        let since = latest.as_ref().map_or(LogIndex::ZERO, |meta| meta.id.last.index);
        Self {
            latest,
            taking: None,
            tickets: Vec::new(),
            wanted: None,
            unusable: 0,
            incarnation,
            taken: 0,
            since,
            since_bytes: 0,
            counted: since.max(applied),
            entry_bytes: 0,
            receiving: None,
            writing: None,
            old: Vec::new(),
        }
    }

    /// Entries of this size were handed to the machine.
    pub(super) fn applied(&mut self, bytes: u64) {
        self.since_bytes += bytes;
    }

    fn is_asked_for(&self, now: Instant) -> bool {
        self.wanted.is_some_and(|from| from <= now) || !self.tickets.is_empty()
    }

    /// Whether the policy wants one, once entries through `handed` went to the machine.
    fn is_due(&self, policy: SnapshotPolicy, handed: LogIndex) -> bool {
        let entries = handed.since(self.since);
        match policy {
            SnapshotPolicy::Never => false,
            SnapshotPolicy::LogsSinceLast(entries_max) => entries >= entries_max,
            SnapshotPolicy::LogBytes(bytes_max) if self.counted == self.since => {
                self.since_bytes >= bytes_max
            }
            // Those that the machine held at the start count like the others on average.
            SnapshotPolicy::LogBytes(bytes_max) => {
                self.entry_bytes_since(handed).saturating_mul(entries) >= bytes_max
            }
        }
    }

    /// What an entry has been in bytes, on average, since the last one was taken; before that, if there was none since.
    fn entry_bytes_since(&self, handed: LogIndex) -> u64 {
        self.since_bytes.checked_div(handed.since(self.counted)).unwrap_or(self.entry_bytes)
    }

    fn last(&self) -> LogIndex {
        self.latest.as_ref().map_or(LogIndex::ZERO, |meta| meta.id.last.index)
    }
}

impl Shared {
    /// The newest complete snapshot.
    pub(crate) fn snapshot(&self) -> Option<&Arc<SnapshotMeta>> {
        self.snapshots.latest.as_ref()
    }

    /// Whether the snapshot is less work for a peer that lacks everything from `next` on than the log is. After one that
    /// could not be used the log is relied on where it is there.
    pub(crate) fn is_less_work(&self, meta: &SnapshotMeta, next: LogIndex) -> bool {
        if self.snapshots.unusable > 0 {
            return false;
        }
        let replaced = meta.id.last.index.next().since(next);
        // Not for what one message brings: an installation also costs the peer its log and its state.
        let cost = meta.size_bytes.saturating_add(self.config.append_bytes_max);
        replaced.saturating_mul(self.snapshots.entry_bytes) > cost
    }

    /// Whether the log behind a snapshot that is being sent has become more than is kept for its receiver: twice the
    /// snapshot, the log of eight snapshots, or what may be on its way, whichever is most. Of one or two would not do: a
    /// small state may take long to be restored, by who keeps up with the log easily.
    pub(crate) fn log_outweighs(&self, meta: &SnapshotMeta) -> bool {
        let entry_bytes = self.snapshots.entry_bytes;
        let snapshot_log_bytes = match self.config.snapshot_policy {
            SnapshotPolicy::Never => 0,
            SnapshotPolicy::LogsSinceLast(entries) => entry_bytes.saturating_mul(entries),
            SnapshotPolicy::LogBytes(bytes) => bytes,
        };
        let kept_bytes = meta.size_bytes.saturating_mul(2).max(snapshot_log_bytes.saturating_mul(8));
        let behind = self.log.last_index().since(meta.id.last.index).saturating_mul(entry_bytes);
        behind > kept_bytes.max(self.config.inflight_bytes_max)
    }

    /// Whether there may be something to do about snapshots and for the log's length.
    pub(crate) fn has_snapshot_action(&self) -> bool {
        let snapshots = &self.snapshots;
        let (handed, policy) = (self.apply_handed, self.config.snapshot_policy);
        snapshots.receiving.is_some()
            || (snapshots.taking.is_none()
                && (snapshots.is_asked_for(self.now) || snapshots.is_due(policy, handed)))
            || (snapshots.latest.is_some() && self.may_compact().is_some())
    }

    // --- taking one ----------------------------------------------------------------------------------------

    pub(crate) fn take_snapshot(&mut self, ticket: Ticket) {
        let refusal = if self.snapshots.tickets.len() >= ADMIN_MAX {
            AdminRefusal::Busy
        } else if self.snapshots.taking.is_some() || self.apply_handed <= self.snapshots.last() {
            AdminRefusal::NoSnapshotNeeded
        } else {
            return self.snapshots.tickets.push(ticket);
        };
        self.admin(ticket, AdminOutcome::Refused(refusal));
    }

    /// The next snapshot to take, by policy or on demand.
    pub(crate) fn next_snapshot(&mut self) -> Option<Action> {
        let (snapshots, handed) = (&self.snapshots, self.apply_handed);
        let due = snapshots.is_asked_for(self.now) || snapshots.is_due(self.config.snapshot_policy, handed);
        if snapshots.taking.is_some() || !due {
            return None;
        }
        // One that turned out unusable is replaced even if nothing happened since.
        if handed <= snapshots.last() && !(snapshots.wanted.is_some() && handed > LogIndex::ZERO) {
            return None;
        }
        let entry_bytes = snapshots.entry_bytes_since(handed);
        let last = self.log.terms.id(self.apply_handed)?;
        let (membership_index, membership) = self.log.membership_as_of(last.index)?;
        // Unique among the snapshots of this server: an incarnation is never repeated.
        let seq = self.snapshots.incarnation.wrapping_add(self.snapshots.taken << 32);
        let id = SnapshotId { last, taken_by: self.id(), seq };
        let meta = SnapshotMeta {
            id,
            membership: Arc::clone(membership),
            membership_index,
            size_bytes: 0,
            digest: 0,
            terms: self.log.history(last.index),
        };
        let snapshots = &mut self.snapshots;
        snapshots.taken += 1;
        snapshots.taking = Some(id);
        snapshots.wanted = None;
        snapshots.entry_bytes = entry_bytes;
        (snapshots.since, snapshots.counted) = (last.index, last.index);
        snapshots.since_bytes = 0;
        Some(Action::Machine(MachineTask::TakeSnapshot(Arc::new(meta))))
    }

    pub(crate) fn snapshot_taken(
        &mut self,
        result: Result<Arc<SnapshotMeta>, SnapshotError>,
    ) -> Result<(), Fatal> {
        let id = self.snapshots.taking.take().ok_or(Fatal::UnknownSnapshot)?;
        let tickets = core::mem::take(&mut self.snapshots.tickets);
        let outcome = match result {
            Ok(meta) if meta.id == id && meta.validate().is_ok() => {
                self.keep(meta);
                AdminOutcome::Done
            }
            Ok(_) => return Err(Fatal::UnknownSnapshot),
            Err(error) => {
                self.notify(Notice::SnapshotFailed(error));
                AdminOutcome::Refused(AdminRefusal::Snapshot(error))
            }
        };
        for ticket in tickets {
            self.admin(ticket, outcome.clone());
        }
        Ok(())
    }

    /// A complete snapshot: the newest counts, others are old.
    fn keep(&mut self, meta: Arc<SnapshotMeta>) {
        if meta.id.last.index < self.snapshots.last() {
            return self.snapshots.old.push(meta.id);
        }
        let SnapshotId { last, taken_by, .. } = meta.id;
        self.snapshots.wanted = None;
        self.notify(Notice::Snapshot { last, taken_by });
        self.snapshots.old.extend(self.snapshots.latest.replace(meta).map(|old| old.id));
    }

    /// The latest snapshot cannot be read: another is needed before it can be sent. The first time at once, then after a
    /// longer rest each time: that may be so of every one.
    pub(crate) fn snapshot_unusable(&mut self, id: SnapshotId, error: SnapshotError) {
        let snapshots = &mut self.snapshots;
        if snapshots.latest.as_ref().is_some_and(|latest| latest.id == id) {
            if snapshots.wanted.is_some() || snapshots.taking.is_some() {
                return;
            }
            let rest = self.config.election_timeout_max * snapshots.unusable.min(64);
            snapshots.wanted = Some(self.now + rest);
            snapshots.unusable = snapshots.unusable.saturating_add(1);
        }
        self.notify(Notice::SnapshotFailed(error));
    }

    /// A peer has it: it can be read.
    pub(crate) fn snapshot_arrived(&mut self, id: SnapshotId) {
        if self.snapshots.latest.as_ref().is_some_and(|latest| latest.id == id) {
            self.snapshots.unusable = 0;
        }
    }

    /// Through where entries may be dropped: a snapshot holds them, except for a margin for slow followers.
    pub(crate) fn may_compact(&self) -> Option<LogIndex> {
        let last = self.snapshots.latest.as_ref()?.id.last.index;
        let through = LogIndex::new(last.get().saturating_sub(self.config.compaction_margin_entries));
        let through = through.min(self.last_applied).min(self.disk.durable());
        let resetting = self.disk.unwritten_reset().is_some();
        (through > self.log.terms.base().index && !resetting).then_some(through)
    }

    /// Drops entries that [`may_compact`](Self::may_compact) allows.
    pub(crate) fn compact(&mut self, through: LogIndex) -> Option<Action> {
        let through = self.log.terms.id(through).filter(|id| id.index > self.log.terms.base().index)?;
        self.log.compact(through);
        Some(Action::Log(LogTask::Compact { through }))
    }

    // --- receiving one -------------------------------------------------------------------------------------

    /// A chunk, or a question, of the leader `from`. What the log holds already is not installed: it is only known
    /// to be committed. Fails if the snapshot would change what is committed.
    pub(crate) fn install_snapshot(
        &mut self,
        from: NodeId,
        meta: Arc<SnapshotMeta>,
        (offset, data, done): (u64, Bytes, bool),
        round: u64,
    ) -> bool {
        let last = meta.id.last;
        match self.log.term(last.index) {
            Some(term) if term == last.term => {
                self.commit(last.index);
                return true;
            }
            Some(_) if last.index <= self.commit_index => {
                self.violation(from, Violation::CommittedEntryChanged(last.index));
                return false;
            }
            _ if last.index <= self.commit_index => return true,
            _ => {}
        }
        let term = self.term();
        let snapshots = &mut self.snapshots;
        match &mut snapshots.receiving {
            Some(receiving) if *receiving.meta() == meta => {
                receiving.take(offset, data, done, term, round);
            }
            Some(receiving) if receiving.is_newer_than(term, round) => return false,
            other => {
                // It may have been given up before.
                let kept = snapshots.old.len();
                snapshots.old.retain(|old| *old != meta.id);
                let begun = snapshots.old.len() < kept;
                let mut receiving = Box::new(Receiving::new(meta, term, round, begun));
                receiving.take(offset, data, done, term, round);
                let before = other.replace(receiving).filter(|before| before.has_begun());
                snapshots.old.extend(before.map(|before| before.id()));
            }
        }
        true
    }

    /// How far this server is with that snapshot; `matched` is through where its log equals the leader's.
    pub(crate) fn install_progress(&self, id: SnapshotId, matched: LogIndex) -> InstallProgress {
        if id.last.index <= self.commit_index {
            let durable = matched >= id.last.index;
            return if durable { InstallProgress::Installed(matched) } else { InstallProgress::Busy };
        }
        match &self.snapshots.receiving {
            Some(receiving) if receiving.id() == id => receiving.progress(),
            _ => InstallProgress::Wants(0),
        }
    }

    /// The next task for the snapshot store. Nothing is kept of a snapshot before the term that it belongs to is durable:
    /// a complete one is never of a later term than the hard state.
    pub(crate) fn next_snapshot_task(&mut self) -> Option<Action> {
        let snapshots = &mut self.snapshots;
        let receiving = snapshots.receiving.as_mut()?;
        if snapshots.writing.is_some() || !self.disk.settled() {
            return None;
        }
        let task = receiving.next_write()?;
        if let SnapshotTask::Write { meta, offset, .. } = &task {
            snapshots.writing = Some((meta.id, *offset));
        }
        Some(Action::Snapshot(task))
    }

    /// The store has a chunk, or failed. Returns whether the leader should know.
    pub(crate) fn chunk_written(
        &mut self,
        id: SnapshotId,
        offset: u64,
        result: Result<(), SnapshotError>,
    ) -> bool {
        if self.snapshots.writing.take_if(|writing| *writing == (id, offset)).is_none() {
            return false;
        }
        if let Err(error) = result {
            self.notify(Notice::SnapshotFailed(error));
        }
        let receiving = self.snapshots.receiving.as_mut().filter(|receiving| receiving.id() == id);
        // After a failure the next heartbeat of the leader is soon enough.
        receiving.map(|receiving| receiving.written(result.is_ok())).is_some() && result.is_ok()
    }

    pub(crate) fn is_receiving(&self) -> bool {
        self.snapshots.receiving.is_some()
    }

    /// Installs a snapshot that arrived completely (§7). Returns whether the log is another now.
    #[inline(never)]
    pub(crate) fn install(&mut self) -> bool {
        let Some(receiving) = &self.snapshots.receiving else { return false };
        let last = receiving.id().last;
        if last.index <= self.commit_index || self.log.term(last.index) == Some(last.term) {
            // The log got there first.
            self.abandon_receiving();
            return false;
        }
        if !receiving.is_complete() || self.last_applied < self.commit_index {
            return false;
        }
        let meta = Arc::clone(receiving.meta());
        self.snapshots.receiving = None;
        self.disk.reset(last);
        self.log.reset(&meta);
        self.void_reads();
        self.commit_as(last.index, false);
        self.apply_handed = last.index;
        (self.snapshots.since, self.snapshots.counted) = (last.index, last.index);
        self.snapshots.since_bytes = 0;
        self.counters.snapshots_installed += 1;
        self.out.push_back(Action::Machine(MachineTask::Restore(Arc::clone(&meta))));
        self.membership_changed(meta.membership_index);
        self.keep(meta);
        if self.snapshots.taking.is_none() {
            // Whoever wanted a snapshot has one.
            for ticket in core::mem::take(&mut self.snapshots.tickets) {
                self.admin(ticket, AdminOutcome::Done);
            }
        }
        true
    }

    /// What arrives is of no use any more.
    pub(crate) fn abandon_receiving(&mut self) {
        let snapshots = &mut self.snapshots;
        let begun = snapshots.receiving.take().filter(|receiving| receiving.has_begun());
        snapshots.old.extend(begun.map(|receiving| receiving.id()));
    }

    /// A snapshot that was complete when the node started is ahead of the log, or contradicts it (TRAP 41): the log begins
    /// anew behind it. In any case the machine gets what it lacks.
    pub(crate) fn adopt_snapshot(&mut self, replaced: bool) {
        let Some(meta) = self.snapshots.latest.clone() else { return };
        let last = meta.id.last;
        if replaced {
            self.disk.reset(last);
        }
        self.commit(last.index);
        if self.apply_handed < last.index {
            self.apply_handed = last.index;
            self.out.push_back(Action::Machine(MachineTask::Restore(meta)));
        }
    }

    pub(crate) fn has_old_snapshots(&self) -> bool {
        !self.snapshots.old.is_empty()
    }

    /// Snapshots that are of no use any more are forgotten, unless they are being sent.
    pub(crate) fn forget_snapshots(&mut self, is_sent: impl Fn(SnapshotId) -> bool) {
        let Snapshots { old, writing, .. } = &mut self.snapshots;
        let busy = |id: SnapshotId| is_sent(id) || writing.is_some_and(|(writing, _)| writing == id);
        let out = &mut self.out;
        old.retain(|id| {
            let keep = busy(*id);
            if !keep {
                out.push_back(Action::Snapshot(SnapshotTask::Forget(*id)));
            }
            keep
        });
    }
}
