//! One history on one store: does the steps, lets it crash after each, and compares with the naive log.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use raft_core::host::{LogReader, LogStore};
use raft_core::{LogId, LogIndex, Term, Write};

use super::find::{agree, find, read};
use super::model::{Allowed, Found, Log};
use super::step::{Step, Then, build};
use super::verdict::Expected;
use crate::testing::entries::{Entry, describe};
use crate::testing::medium::{Crashed, Medium};
use crate::testing::promise::Promise;
use crate::testing::report::{Ended, Passed, Violation, ensure, guarded};

/// After a killed process has recovered, so many losses of power are tried.
const LOSSES_AFTER_KILL: usize = 2;
/// Reads beside one write at most.
const READS_BESIDE_MAX: u32 = 10_000;

pub(super) struct Runner<'a, M, S, O> {
    open: &'a O,
    one_opener: bool,
    medium: M,
    store: Option<S>,
    log: Log,
    /// Before each write.
    past: Vec<Log>,
    /// Through here the store was seen to have dropped its entries.
    gone: LogIndex,
    /// The highest term there was, if entries of it may have been lost.
    lost: Option<Term>,
    number: u64,
    seed: u64,
    history: Vec<String>,
    passed: Passed,
}

/// Does the steps on a new medium.
pub(super) fn run<M, S, E, O>(open: &O, one_opener: bool, seed: u64, steps: &[Step]) -> Ended
where
    M: Medium,
    S: LogStore,
    E: Display,
    O: Fn(&M) -> Result<S, E>,
{
    let mut runner = Runner {
        open,
        one_opener,
        medium: M::new_empty().expect("a medium can be made"),
        store: None,
        log: Log::default(),
        past: Vec::new(),
        gone: LogIndex::ZERO,
        lost: None,
        number: 0,
        seed,
        history: Vec::new(),
        passed: Passed { histories: 1, ..Passed::default() },
    };
    let mut begun = 0;
    let violation = runner.reopen("the store is opened").err().or_else(|| {
        steps.iter().find_map(|step| {
            begun += 1;
            runner.step(step).err()
        })
    });
    Ended { violation, history: runner.history, passed: runner.passed, steps: begun }
}

impl<M, S, E, O> Runner<'_, M, S, O>
where
    M: Medium,
    S: LogStore,
    E: Display,
    O: Fn(&M) -> Result<S, E>,
{
    fn step(&mut self, step: &Step) -> Result<(), Violation> {
        match step {
            Step::Write { parts, then } => {
                let mut log = self.log.clone();
                let mut writes = Vec::new();
                for part in parts {
                    self.number += 1;
                    let write = build(&log, part, self.lost.take(), self.number);
                    log.apply(&write);
                    writes.push(write);
                }
                self.write(&writes, *then)
            }
            Step::Compact { back } => self.compact(*back),
            Step::Read { back, count, bytes_max } => self.read(*back, *count, *bytes_max),
            Step::Reopen => self.reopen("the store is dropped and opened again"),
        }
    }

    fn store(&mut self) -> &mut S {
        self.store.as_mut().expect("it is open between steps")
    }

    fn next_seed(&mut self) -> u64 {
        self.number += 1;
        self.seed.wrapping_mul(1_000_003).wrapping_add(self.number)
    }

    fn crashes(&mut self) -> Vec<Crashed<M>> {
        let seed = self.next_seed();
        self.medium.crashes(seed).expect("the medium works")
    }

    // --- calls ---------------------------------------------------------------------------------------------------

    fn write(&mut self, writes: &[Write], then: Then) -> Result<(), Violation> {
        let words: Vec<String> = writes.iter().map(describe).collect();
        self.history.push(format!("write [{}]", words.join(" | ")));
        let before = self.log.clone();
        let can_fail = matches!(then, Then::Fail(after) if self.medium.fail_once(after));
        let result = if then == Then::ReadBeside {
            self.history.push("    reads run beside it".into());
            self.write_beside_reads(writes)?
        } else {
            self.passed.calls += 1;
            guarded("LogStore::write", || self.store().write(writes))?
        };
        let has_failed = match &result {
            Ok(()) => false,
            Err(error) if can_fail => {
                self.history
                    .push(format!("    an operation on the disk fails, and so does the write: {error}"));
                true
            }
            Err(error) => {
                let what = format!("a legal write is refused: {error}");
                return Err(Violation::new(Promise::AcceptsWhatIsLegal, what));
            }
        };
        let unreported = Allowed::prefixes(&before, writes);
        if !has_failed {
            for write in writes {
                self.past.push(self.log.clone());
                self.log.apply(write);
            }
            if self.gone > self.log.base.index && writes.iter().all(|write| write.reset_to.is_none()) {
                self.log.forget(self.gone);
            }
        }
        let term = self.log.hard_state.term.max(before.hard_state.term);
        let term =
            writes.iter().filter_map(|write| write.hard_state).fold(term, |term, next| term.max(next.term));
        let crashes = self.crashes();
        let reported = Allowed::exactly(&self.log);
        let mut found = Vec::new();
        for crash in &crashes {
            let after = if crash.returned && !has_failed {
                (&reported, &self.log.clone())
            } else {
                (&unreported, &before)
            };
            found.push(self.check_crash(crash, after.0, after.1)?);
        }
        let pick = match then {
            Then::Crash(pick) => pick,
            Then::Fail(pick) if has_failed => pick,
            _ => return Ok(()),
        };
        if crashes.is_empty() {
            return self.reopen("the store is dropped and opened again");
        }
        let at = usize::try_from(pick % crashes.len() as u64).expect("it is below a length");
        self.go_on_after(crashes, found, at)?;
        self.lost = Some(term);
        Ok(())
    }

    /// Drops entries through so many before the last one; the largest numbers mean an entry that is not there.
    fn compact(&mut self, back: u64) -> Result<(), Violation> {
        let last = self.log.last();
        let index = LogIndex::new(last.index.get().saturating_sub(back));
        let through = match self.log.id_at(index) {
            _ if back >= 58 => LogId::new(last.term, last.index.plus(back)),
            Some(id) => id,
            None => self.log.base,
        };
        self.history.push(format!("compact through {through}"));
        self.passed.calls += 1;
        guarded("LogStore::compact", || self.store().compact(through))?.map_err(|error| {
            Violation::new(Promise::AcceptsWhatIsLegal, format_args!("compact fails: {error}"))
        })?;
        if through.index <= last.index {
            self.log.goal = self.log.goal.max(through.index);
        }
        self.gone = self.log.base.index;
        let reader = self.store().reader();
        while self.gone < self.log.goal {
            let next = self.gone.next();
            if !read(&reader, next, next, u64::MAX)?.is_empty() {
                break;
            }
            self.gone = next;
        }
        self.compare_read(self.log.goal.next(), LogIndex::LIMIT, u64::MAX)
            .map_err(|violation| Violation { promise: Promise::CompactsNoMore, ..violation })?;
        let allowed = Allowed::exactly(&self.log);
        for crash in self.crashes() {
            self.check_crash(&crash, &allowed, &self.log.clone())?;
        }
        Ok(())
    }

    fn read(&mut self, back: u64, count: u64, bytes_max: u64) -> Result<(), Violation> {
        let from = LogIndex::new(self.log.last().index.plus(3).get().saturating_sub(back));
        let through = from.plus(count);
        self.history.push(format!("read {from}..={through} within {bytes_max} bytes"));
        self.compare_read(from, through, bytes_max)
    }

    fn compare_read(&mut self, from: LogIndex, through: LogIndex, bytes_max: u64) -> Result<(), Violation> {
        self.passed.calls += 1;
        let reader = self.store().reader();
        let found = read(&reader, from, through, bytes_max)?;
        compare(&self.log, from, through, &found)?;
        let is_all = from > self.log.goal && bytes_max == u64::MAX;
        let wanted = self.log.last().index.min(through).get().saturating_add(1).saturating_sub(from.get());
        ensure(
            !is_all || from == LogIndex::ZERO || found.len() as u64 == wanted,
            Promise::ReadsWhatIsThere,
            || {
                format!(
                    "reading {from}..={through} without a limit gives {} entries of {wanted}",
                    found.len()
                )
            },
        )
    }

    /// Writes, while what stays the same is read.
    fn write_beside_reads(&mut self, writes: &[Write]) -> Result<Result<(), S::Error>, Violation> {
        let log = self.log.clone();
        // Behind what may be dropped, before what is replaced.
        let mut end = log.last().index;
        for write in writes {
            end = write.reset_to.map_or(end, |_| LogIndex::ZERO);
            end = write.entries.first().map_or(end, |first| end.min(first.index.prev()));
        }
        let first = log.goal.max(log.base.index).next();
        let reader = self.store().reader();
        // Alone first: what is wrong then has nothing to do with the write.
        for at in 0..8 {
            read_beside(&reader, &log, first, end, at)?;
        }
        let is_over = AtomicBool::new(false);
        let (result, read) = std::thread::scope(|scope| {
            let (log, is_over) = (&log, &is_over);
            let reader = reader.clone();
            let reads = scope.spawn(move || {
                for at in 0..READS_BESIDE_MAX {
                    let was_over = is_over.load(Ordering::Acquire);
                    read_beside(&reader, log, first, end, at)?;
                    if was_over {
                        break;
                    }
                }
                Ok::<_, Violation>(())
            });
            let result = guarded("LogStore::write", || self.store().write(writes));
            is_over.store(true, Ordering::Release);
            (result, reads.join().expect("panics of the reader are caught"))
        });
        self.passed.calls += 1;
        if let Err(violation) = read {
            // If it is wrong alone too, that is what it is.
            for at in 0..8 {
                read_beside(&reader, &log, first, end, at)?;
            }
            return Err(Violation { promise: Promise::ReadsBesideWrites, ..violation });
        }
        result
    }

    // --- crashes -------------------------------------------------------------------------------------------------

    /// What is found after a crash, which must be allowed, and stay.
    fn check_crash(
        &mut self,
        crash: &Crashed<M>,
        allowed: &Allowed,
        reported: &Log,
    ) -> Result<(Found, Log), Violation> {
        self.passed.crashes += 1;
        let expected = Expected { allowed, reported, past: &self.past, power_was_lost: !crash.cached };
        let found = open_and_find(self.open, &crash.medium, &expected);
        let (store, found, mut log) = found.inspect_err(|_| self.history.push(crash.how.clone()))?;
        if crash.cached {
            log.settle(found.clone());
            let seed = self.next_seed();
            let again = crash.medium.crashes(seed).expect("the medium works");
            let losses = again.iter().filter(|again| again.returned && !again.cached);
            for again in losses.take(LOSSES_AFTER_KILL) {
                let allowed = Allowed::exactly(&log);
                let expected =
                    Expected { allowed: &allowed, reported: &log, past: &self.past, power_was_lost: true };
                open_and_find(self.open, &again.medium, &expected).map_err(|violation| {
                    self.history
                        .extend([crash.how.clone(), "the store is opened again, and recovers".into()]);
                    self.history.push(again.how.clone());
                    Violation { promise: Promise::RecoveredIsDurable, ..violation }
                })?;
            }
        }
        drop(store);
        Ok((found, log))
    }

    fn go_on_after(
        &mut self,
        mut crashes: Vec<Crashed<M>>,
        mut found: Vec<(Found, Log)>,
        at: usize,
    ) -> Result<(), Violation> {
        let crash = crashes.swap_remove(at);
        let (found, log) = found.swap_remove(at);
        self.store = None;
        self.medium = crash.medium;
        self.log = log;
        self.log.settle(found);
        self.gone = self.log.base.index;
        self.reopen(&format!("{}; the store is opened on what is left", crash.how))
    }

    fn reopen(&mut self, why: &str) -> Result<(), Violation> {
        self.history.push(why.into());
        self.store = None;
        let allowed = Allowed::exactly(&self.log);
        let expected =
            Expected { allowed: &allowed, reported: &self.log, past: &self.past, power_was_lost: false };
        let (store, found, _) = open_and_find(self.open, &self.medium, &expected)?;
        self.log.settle(found);
        self.gone = self.log.base.index;
        if self.one_opener {
            let second = guarded("opening", || (self.open)(&self.medium))?;
            ensure(second.is_err(), Promise::OneOpener, || "a second opener got in".into())?;
        }
        self.store = Some(store);
        // A start, too, may be interrupted.
        for crash in self.crashes() {
            self.check_crash(&crash, &allowed, &self.log.clone())?;
        }
        Ok(())
    }
}

/// Opens it, and finds what may be there. Returns that as it was found, and as it was expected.
fn open_and_find<M, S, E, O>(
    open: &O,
    medium: &M,
    expected: &Expected<'_>,
) -> Result<(S, Found, Log), Violation>
where
    S: LogStore,
    E: Display,
    O: Fn(&M) -> Result<S, E>,
{
    let mut store = guarded("opening", || open(medium))?.map_err(|error| {
        Violation::new(Promise::OpensAfterCrash, format_args!("it cannot be opened: {error}"))
    })?;
    let (found, recovery) = find(&mut store)?;
    let log = expected.judge(&found)?;
    agree(&recovery, &found.entries)?;
    Ok((store, found, log))
}

/// What was read is the beginning of what is there.
fn compare(log: &Log, from: LogIndex, through: LogIndex, found: &[Entry]) -> Result<(), Violation> {
    let is_there = from > log.base.index && from <= log.last().index && from <= through;
    let expected = if is_there { log.behind(from.prev()) } else { &[] };
    let asked = format!("reading {from}..={through}");
    ensure(is_there || found.is_empty(), Promise::ReadsNothingElse, || {
        format!("{asked} gives {}; the log has {}..={}", found[0], log.base.index.next(), log.last().index)
    })?;
    ensure(found.len() <= expected.len(), Promise::ReadsNothingElse, || {
        format!("{asked} goes on to {}; the log ends at {}", found[found.len() - 1], log.last())
    })?;
    let different = found.iter().zip(expected).find(|(found, expected)| found != expected);
    if let Some((found, expected)) = different {
        let what = format!("{asked} gives {found} in place of {expected}");
        return Err(Violation::new(Promise::ReadsWhatIsThere, what));
    }
    // What may have been dropped may be missing.
    let may_be_gone = from <= log.goal;
    ensure(!is_there || may_be_gone || !found.is_empty(), Promise::ReadsWhatIsThere, || {
        format!("{asked} gives nothing; the log has {}..={}", log.base.index.next(), log.last().index)
    })
}

/// One read beside a write that changes nothing in `first..=end`.
fn read_beside<R: LogReader>(
    reader: &R,
    log: &Log,
    first: LogIndex,
    end: LogIndex,
    at: u32,
) -> Result<(), Violation> {
    if first <= end {
        let from = first.plus(u64::from(at) % (end.since(first) + 1));
        let found = read(reader, from, end, if at.is_multiple_of(2) { u64::MAX } else { 2_000 })?;
        compare(log, from, end, &found)?;
    }
    // What is being changed may be there or not, but is no error.
    let from = end.max(first).next().plus(u64::from(at) % 50);
    guarded("LogReader::read", || reader.read(from, LogIndex::LIMIT, 10_000))?.map(drop).map_err(|error| {
        Violation::new(Promise::ReadsBesideWrites, format_args!("reading from {from} fails: {error}"))
    })
}
