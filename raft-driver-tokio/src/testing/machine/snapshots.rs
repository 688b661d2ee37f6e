//! Snapshots of machines: what they hold, and what becomes of damaged ones.

use std::fmt::{Debug, Display};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::host::{FrozenState, RestoreError, SnapshotSource, StateMachine};
use raft_core::{LogIndex, NodeId, SnapshotError, SnapshotId, SnapshotMeta, Term, TermRun};

use super::items::joined;
use super::run::Run;
use crate::testing::entries::voters;
use crate::testing::medium::Medium;
use crate::testing::promise::Promise;
use crate::testing::report::{Violation, ensure, guarded};

/// Damaged snapshots tried for one that is whole.
const DAMAGES: usize = 40;

type Restored<S> = Result<(), RestoreError<<S as StateMachine>::Error>>;

impl<S, M, E, O> Run<'_, S, M, O>
where
    S: StateMachine<Response: PartialEq + Debug>,
    M: Medium,
    E: Display,
    O: Fn(&M) -> Result<S, E>,
{
    /// Takes a snapshot after so many entries, goes on, and restores it elsewhere.
    pub(super) fn snapshot_at(&mut self, at: usize) -> Result<(), Violation> {
        let lines = self.history.len();
        self.history.push(format!("a snapshot is taken after {at} entries"));
        let (_medium, mut machine) = self.fresh()?;
        if at > 0 {
            let first = joined(&self.log[..at]);
            self.apply(&mut machine, &first, Promise::Deterministic, "a machine")?;
        }
        let at_once = self.frozen_bytes(&mut machine)?;
        let who = "a machine of which a snapshot was taken";
        self.compare(&machine, at, Promise::SnapshotHarmless, who)?;
        // Two at once, which are read while more is applied.
        let mut later = [self.freeze(&mut machine)?, self.freeze(&mut machine)?];
        let mut bytes = [Vec::new(), Vec::new()];
        for later_at in at..self.log.len() {
            let entry = self.log[later_at].clone();
            self.apply(&mut machine, &entry, Promise::SnapshotHarmless, who)?;
            for (frozen, bytes) in later.iter_mut().zip(&mut bytes) {
                bytes.extend(next_chunk(frozen)?.unwrap_or_default());
            }
        }
        self.compare(&machine, self.log.len(), Promise::SnapshotHarmless, who)?;
        for (frozen, bytes) in later.iter_mut().zip(&mut bytes) {
            while let Some(chunk) = next_chunk(frozen)? {
                bytes.extend(chunk);
            }
        }
        let (_medium, mut fresh) = self.fresh()?;
        self.restore(&mut fresh, at, &at_once)?;
        self.apply_rest(
            &mut fresh,
            at,
            Promise::RestoreReplaces,
            "a new machine that restored the snapshot",
        )?;
        // The one that went on is as full as can be.
        self.restore(&mut machine, at, &at_once)?;
        self.apply_rest(
            &mut machine,
            at,
            Promise::RestoreReplaces,
            "a used machine that restored the snapshot",
        )?;
        for bytes in bytes {
            let (_medium, mut fresh) = self.fresh()?;
            self.restore(&mut fresh, at, &bytes).map_err(of_the_point)?;
            let who = "a machine that restored a snapshot which was read while later entries were applied";
            self.apply_rest(&mut fresh, at, Promise::SnapshotIsThePoint, who)?;
        }
        self.damage(at, &at_once)?;
        self.history.truncate(lines);
        Ok(())
    }

    fn freeze(&mut self, machine: &mut S) -> Result<S::Snapshot, Violation> {
        self.passed.calls += 1;
        guarded("StateMachine::snapshot", || machine.snapshot())?.map_err(|error| {
            Violation::new(Promise::AcceptsWhatIsLegal, format_args!("snapshot fails: {error}"))
        })
    }

    pub(super) fn frozen_bytes(&mut self, machine: &mut S) -> Result<Vec<u8>, Violation> {
        let mut frozen = self.freeze(machine)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = next_chunk(&mut frozen)? {
            bytes.extend(chunk);
        }
        Ok(bytes)
    }

    /// Restores a snapshot that is whole.
    pub(super) fn restore(&mut self, machine: &mut S, at: usize, bytes: &[u8]) -> Result<(), Violation> {
        // In pieces of any size, as a store may give them.
        let piece = self.random.usize(1..5_000);
        self.restore_from(machine, at, bytes, bytes.len(), piece)?.map_err(|error| {
            let what = format!("its own snapshot of {} bytes is refused: {error}", bytes.len());
            Violation::new(Promise::RestoreReplaces, what)
        })
    }

    /// Restores from bytes of which only the first `readable` can be read.
    fn restore_from(
        &mut self,
        machine: &mut S,
        at: usize,
        bytes: &[u8],
        readable: usize,
        piece: usize,
    ) -> Result<Restored<S>, Violation> {
        self.passed.calls += 1;
        let meta = self.meta(at, bytes.len());
        let mut read = |offset: u64, bytes_max: u64| {
            let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
            let from = place(offset);
            let end = place(offset.saturating_add(bytes_max)).min(from + piece).min(readable);
            if from < end {
                Ok(Bytes::copy_from_slice(&bytes[from..end]))
            } else {
                Err(SnapshotError::Failed)
            }
        };
        let mut source = SnapshotSource::new(&meta, &mut read);
        guarded("StateMachine::restore", || machine.restore(&mut source))
    }

    fn meta(&self, at: usize, size_bytes: usize) -> SnapshotMeta {
        let last = self.id_at(at);
        SnapshotMeta {
            id: SnapshotId { last, taken_by: NodeId::new(1), seq: 1 },
            membership: voters(3),
            membership_index: LogIndex::FIRST,
            size_bytes: size_bytes as u64,
            digest: 0,
            terms: Arc::new([TermRun { term: last.term.max(Term::BOOTSTRAP), first: LogIndex::FIRST }]),
        }
    }

    /// Snapshots that cannot be read to their end, are cut short, or have a byte altered.
    fn damage(&mut self, at: usize, bytes: &[u8]) -> Result<(), Violation> {
        for number in 0..bytes.len().min(DAMAGES) {
            let place = match number {
                0 => 0,
                1 => bytes.len() - 1,
                _ => self.random.usize(..bytes.len()),
            };
            let (_medium, mut machine) = self.fresh()?;
            let result = self.restore_from(&mut machine, at, bytes, place, 5_000)?;
            ensure(result.is_err(), Promise::RestoreReportsErrors, || {
                format!(
                    "only {place} of {} bytes of a snapshot could be read, and restore succeeds",
                    bytes.len()
                )
            })?;
            let cut = &bytes[..place];
            let (_medium, mut machine) = self.fresh()?;
            let result = self.restore_from(&mut machine, at, cut, cut.len(), 5_000)?;
            ensure(result.is_err() || !self.check.notices_damage, Promise::RestoreReportsErrors, || {
                format!("a snapshot of {} bytes that was cut to {place} is restored", bytes.len())
            })?;
            let mut altered = bytes.to_vec();
            altered[place] ^= 1 << self.random.u32(..8);
            let (_medium, mut machine) = self.fresh()?;
            let result = self.restore_from(&mut machine, at, &altered, altered.len(), 5_000)?;
            ensure(result.is_err() || !self.check.notices_damage, Promise::RestoreReportsErrors, || {
                format!("a snapshot of {} bytes whose byte {place} was altered is restored", bytes.len())
            })?;
        }
        Ok(())
    }
}

fn next_chunk<F: FrozenState>(frozen: &mut F) -> Result<Option<Bytes>, Violation> {
    guarded("FrozenState::next_chunk", || frozen.next_chunk())?.map_err(|error| {
        Violation::new(Promise::AcceptsWhatIsLegal, format_args!("next_chunk fails: {error}"))
    })
}

/// Taken at once it could be restored.
fn of_the_point(violation: Violation) -> Violation {
    match violation.promise {
        Promise::RestoreReplaces => Violation { promise: Promise::SnapshotIsThePoint, ..violation },
        _ => violation,
    }
}
