//! The machine lane: applies, restores and serves reads in order, wherever it runs.
//!
//! * What is applied, and who waits for it, is [`MachineLane`]'s; here is what a failure means.
//! * A snapshot's state is frozen in the lane and kept beside it. A restore is the lane's own work, and may block.
//! * While writes are forwarded to the leader, the responses that nobody waits for are kept for a while: the leader's
//!   answer, which names the entry, may come after it was applied here.
//! * After the first failure the machine is not called again. Whoever still waits is told that the command is
//!   committed and the response lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use raft_core::host::{Committed, MachineLane, Read, SnapshotStore, StateMachine, Writer};
use raft_core::{Entries, Event, LogId, LogIndex, SnapshotMeta};

use crate::driver::{
    LogReports, STATE_MACHINE, SnapshotLane, apply, apply_keeping, discard, guard, reject_reads, serve,
};
use crate::error::StopReason;
use crate::forward::Kept;

/// Responses kept for answers of the leader that are late.
const RESPONSES_KEPT_MAX: usize = 16 * 1024;
/// What they may take up, as the machine counts it, beside the last one.
const RESPONSES_KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Something for the state machine.
pub(crate) enum LaneTask<S, W> {
    /// Apply these; the commands of those who wait are among them or come later.
    Apply { entries: Entries, committed: Vec<Committed<W>> },
    /// Answer this one, whose command the leader wrote, when it is applied here.
    Claim(Committed<W>, Kept),
    /// Give up those of them whose limit has passed.
    Forget,
    /// Answer these from what has been applied, each of which then no longer counts where they are counted.
    Serve(Vec<Box<dyn Read<S>>>, Option<Arc<AtomicUsize>>),
    /// Keep the state as it is now.
    TakeSnapshot(Arc<SnapshotMeta>),
    /// Replace the state.
    Restore(Restore<W>),
}

impl<S, W: Writer> LaneTask<S, W> {
    /// The machine does not do it any more: tells whoever waits.
    pub(crate) fn lose(self) {
        match self {
            Self::Apply { committed, .. } | Self::Restore(Restore { committed, .. }) => {
                committed.into_iter().for_each(Committed::lose);
            }
            Self::Claim(claim, _) => claim.lose(),
            Self::Serve(reads, _) => reject_reads(reads),
            Self::TakeSnapshot(_) | Self::Forget => {}
        }
    }

    /// How many entries it applies; `None` if it takes its time for something else.
    fn entries(&self) -> Option<u64> {
        match self {
            Self::Apply { entries, .. } => Some(entries.len()),
            Self::Claim(..) | Self::Forget => Some(0),
            Self::Serve(..) | Self::TakeSnapshot(_) | Self::Restore(_) => None,
        }
    }

    /// Leaves at most `left` entries or reads in it, and takes them from there; what is neither takes all of that. Returns
    /// the rest.
    fn cut(&mut self, left: &mut u64) -> Option<Self> {
        let max = std::mem::take(left);
        match self {
            Self::Apply { entries, .. } => {
                let (first, last) = (entries.first()?.index, entries.last()?.index);
                let rest = entries.slice(first.plus(max), last);
                *entries = entries.slice(first, first.plus(max).prev());
                // Who waits for one of them comes with the first part, and is found by the index.
                (!rest.is_empty()).then(|| Self::Apply { entries: rest, committed: Vec::new() })
            }
            Self::Serve(reads, count) => {
                let rest = reads.split_off(reads.len().min(usize::try_from(max).unwrap_or(usize::MAX)));
                *left = max - reads.len() as u64;
                (!rest.is_empty()).then(|| Self::Serve(rest, count.clone()))
            }
            Self::Claim(..) | Self::Forget | Self::TakeSnapshot(_) | Self::Restore(_) => None,
        }
    }
}

/// A snapshot that takes the state's place, and those whose entries it may skip.
pub(crate) struct Restore<W> {
    pub(crate) meta: Arc<SnapshotMeta>,
    pub(crate) committed: Vec<Committed<W>>,
}

/// What comes after some tasks.
pub(crate) enum Next<W> {
    /// All are done.
    Wait,
    /// The first of the rest takes its time.
    Long,
    /// This, which may block; then go on.
    Restore(Restore<W>),
    /// The lane has failed.
    End(StopReason),
}

/// A state machine and its tasks.
pub(crate) struct Lane<S: StateMachine, P: SnapshotStore, W> {
    machine: MachineLane<S, W>,
    snapshots: SnapshotLane<P>,
    reports: LogReports,
    /// Not done yet.
    tasks: VecDeque<LaneTask<S, W>>,
    /// How many forwarded writes may yet claim a response.
    keep: Arc<AtomicUsize>,
    unclaimed: Unclaimed<S::Response>,
    /// The last index applied since the start.
    applied: LogIndex,
}

/// Responses that nobody waited for, in log order; the oldest make room.
struct Unclaimed<R> {
    responses: VecDeque<(LogId, usize, R)>,
    bytes: usize,
}

impl<R> Default for Unclaimed<R> {
    fn default() -> Self {
        Self { responses: VecDeque::new(), bytes: 0 }
    }
}

impl<R> Unclaimed<R> {
    fn keep(&mut self, id: LogId, bytes: usize, response: R) {
        // Too long is too long: sums stay within their bounds.
        let bytes = bytes.min(RESPONSES_KEPT_BYTES_MAX + 1);
        self.responses.push_back((id, bytes, response));
        self.bytes += bytes;
        let is_too_much =
            |kept: &Self| kept.responses.len() > RESPONSES_KEPT_MAX || kept.bytes > RESPONSES_KEPT_BYTES_MAX;
        while self.responses.len() > 1 && is_too_much(self) {
            let (_, bytes, _) = self.responses.pop_front().expect("there are two");
            self.bytes -= bytes;
        }
    }

    fn take(&mut self, index: LogIndex) -> Option<(LogId, R)> {
        let at = self.responses.binary_search_by_key(&index, |(id, ..)| id.index).ok()?;
        let (id, bytes, response) = self.responses.remove(at)?;
        self.bytes -= bytes;
        Some((id, response))
    }
}

impl<S: StateMachine, P: SnapshotStore, W: Writer<Response = S::Response>> Lane<S, P, W> {
    pub(crate) fn new(
        machine: S,
        snapshots: SnapshotLane<P>,
        reports: LogReports,
        keep: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            machine: MachineLane::new(machine),
            snapshots,
            reports,
            tasks: VecDeque::new(),
            keep,
            unclaimed: Unclaimed::default(),
            applied: LogIndex::ZERO,
        }
    }

    pub(crate) const fn tasks(&mut self) -> &mut VecDeque<LaneTask<S, W>> {
        &mut self.tasks
    }

    /// Performs tasks, up to so many entries and reads or the first that takes its time for something else, and reports what
    /// was applied. [`Next::Long`]: there is more.
    pub(crate) fn run(&mut self, mut entries_max: u64) -> Next<W> {
        let (applied, next) = self.perform(&mut entries_max, true);
        if let Some(index) = applied {
            self.report(index);
        }
        next
    }

    /// Performs tasks as long as none takes its time: users' closures do, and what does more than apply, and an apply of
    /// more than `entries_max`, from which those that are applied are taken. Says what was applied, if anything.
    pub(crate) fn run_short(&mut self, entries_max: &mut u64) -> (Option<LogIndex>, Next<W>) {
        self.perform(entries_max, false)
    }

    /// Whatever of users' panics, the lane has failed.
    fn perform(&mut self, left: &mut u64, long: bool) -> (Option<LogIndex>, Next<W>) {
        guard(STATE_MACHINE, || self.perform_unguarded(left, long))
            .unwrap_or_else(|panicked| (None, Next::End(panicked.into())))
    }

    /// What takes its time, and what is more than `left`, only if `long`: as much of it as that.
    fn perform_unguarded(&mut self, left: &mut u64, long: bool) -> (Option<LogIndex>, Next<W>) {
        let mut applied = None;
        let next = loop {
            let Some(mut task) = self.tasks.pop_front() else { break Next::Wait };
            match task.entries().and_then(|entries| left.checked_sub(entries)) {
                Some(rest) => *left = rest,
                None if long && *left > 0 => {
                    if let Some(rest) = task.cut(left) {
                        self.tasks.push_front(rest);
                    }
                }
                None => {
                    self.tasks.push_front(task);
                    break Next::Long;
                }
            }
            let result = match task {
                LaneTask::Restore(restore) => break Next::Restore(restore),
                LaneTask::Serve(reads, count) => {
                    serve(reads, count.as_deref(), self.machine.machine());
                    continue;
                }
                LaneTask::TakeSnapshot(meta) => self.snapshots.take(&mut self.machine, meta),
                LaneTask::Claim(claim, kept) => {
                    self.claim(claim);
                    drop(kept);
                    continue;
                }
                LaneTask::Forget => {
                    self.machine.forget();
                    continue;
                }
                LaneTask::Apply { entries, committed } => {
                    let result = self.apply(&entries, committed);
                    if result.is_ok() {
                        applied = entries.last().map(|last| last.index).or(applied);
                    }
                    result
                }
            };
            if let Err(reason) = result {
                // Who waits behind it is answered by `finish`.
                break Next::End(reason);
            }
        };
        (applied, next)
    }

    fn apply(&mut self, entries: &Entries, committed: Vec<Committed<W>>) -> Result<(), StopReason> {
        self.applied = entries.last().map_or(self.applied, |last| last.index);
        // Counted before the leader was asked, and so before it could send the entry.
        if self.keep.load(Ordering::Acquire) == 0 {
            if !self.unclaimed.responses.is_empty() {
                discard(STATE_MACHINE, std::mem::take(&mut self.unclaimed));
            }
            return apply(&mut self.machine, entries, committed);
        }
        let unclaimed = &mut self.unclaimed;
        apply_keeping(&mut self.machine, entries, committed, |id, response| {
            unclaimed.keep(id, S::response_bytes(&response), response);
        })
    }

    /// Answers from what was kept, or lets the writer wait.
    fn claim(&mut self, claim: Committed<W>) {
        match self.unclaimed.take(claim.id.index) {
            Some((id, response)) if id == claim.id => claim.writer.applied(id, response),
            Some(_) => claim.lose(),
            None if claim.id.index > self.applied => self.machine.wait(claim),
            None => claim.lose(),
        }
    }

    /// Replaces the state.
    ///
    /// # Errors
    /// The lane has failed, and this is why.
    pub(crate) fn restore(&mut self, Restore { meta, committed }: Restore<W>) -> Result<(), StopReason> {
        guard(STATE_MACHINE, || self.snapshots.restore(&mut self.machine, &meta, committed))??;
        self.applied = meta.id.last.index;
        self.report(self.applied);
        Ok(())
    }

    fn report(&self, index: LogIndex) {
        // A node that is gone needs no report.
        (self.reports)(Ok(Event::Applied(index)));
    }

    /// Tells the node why it must stop.
    pub(crate) fn fail(&self, reason: StopReason) {
        (self.reports)(Err(reason));
    }

    /// Answers whoever still waits, in the lane and behind it, and drops the machine.
    pub(crate) fn finish(self, behind: impl Iterator<Item = LaneTask<S, W>>) {
        let machine = self.machine.stop();
        self.tasks.into_iter().chain(behind).for_each(LaneTask::lose);
        discard(STATE_MACHINE, self.unclaimed);
        discard(STATE_MACHINE, machine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft_core::Term;

    fn id(index: u64) -> LogId {
        LogId::new(Term::new(1), LogIndex::new(index))
    }

    #[test]
    fn responses_are_kept_up_to_a_number_and_a_size() {
        let mut unclaimed = Unclaimed::default();
        for index in 1..=RESPONSES_KEPT_MAX as u64 + 2 {
            unclaimed.keep(id(index), 8, index);
        }
        assert_eq!(unclaimed.take(LogIndex::new(2)), None);
        assert_eq!(unclaimed.take(LogIndex::new(3)), Some((id(3), 3)));
        let mut unclaimed = Unclaimed::default();
        let half = RESPONSES_KEPT_BYTES_MAX / 2;
        (1..=3).for_each(|index| unclaimed.keep(id(index), half, index));
        assert_eq!(unclaimed.take(LogIndex::new(1)), None);
        assert_eq!(unclaimed.take(LogIndex::new(2)), Some((id(2), 2)));
        // One that is longer than everything has it alone.
        unclaimed.keep(id(4), usize::MAX, 4);
        assert_eq!((unclaimed.responses.len(), unclaimed.take(LogIndex::new(4))), (1, Some((id(4), 4))));
        assert_eq!(unclaimed.bytes, 0);
    }
}
