//! One history on several machines: all must do the same.

use std::fmt::{Debug, Display};

use bytes::Bytes;
use raft_core::host::{StateMachine, Unacceptable};
use raft_core::{Commands, Entries, EntryRef, LogId, LogIndex, Term};

use super::MachineCheck;
use super::items::{Item, batches, describe, joined, log};
use crate::testing::medium::{Crashed, Medium};
use crate::testing::promise::Promise;
use crate::testing::report::{Ended, Passed, Violation, ensure, guarded};

/// Snapshots taken of one history.
const SNAPSHOTS: usize = 4;

/// What is known of a history: from the first machine, which was given every entry by itself.
pub(super) struct Run<'a, S: StateMachine, M, O> {
    pub(super) check: &'a MachineCheck<S>,
    open: &'a O,
    pub(super) log: Vec<Entries>,
    /// Of each entry; none if it is no command.
    responses: Vec<Option<S::Response>>,
    /// After so many entries.
    views: Vec<Option<String>>,
    pub(super) random: fastrand::Rng,
    pub(super) history: Vec<String>,
    pub(super) passed: Passed,
    medium: std::marker::PhantomData<fn(M)>,
}

pub(super) fn run<S, M, E, O>(check: &MachineCheck<S>, open: &O, seed: u64, items: &[Item]) -> Ended
where
    S: StateMachine<Response: PartialEq + Debug>,
    M: Medium,
    E: Display,
    O: Fn(&M) -> Result<S, E>,
{
    let mut run = Run {
        check,
        open,
        log: log(items, &check.command),
        responses: Vec::new(),
        views: Vec::new(),
        random: fastrand::Rng::with_seed(seed),
        history: Vec::new(),
        passed: Passed { histories: 1, ..Passed::default() },
        medium: std::marker::PhantomData,
    };
    run.history = run.log.iter().map(describe).collect();
    let violation = run.all().err();
    Ended { violation, history: run.history, passed: run.passed, steps: items.len() }
}

impl<S, M, E, O> Run<'_, S, M, O>
where
    S: StateMachine<Response: PartialEq + Debug>,
    M: Medium,
    E: Display,
    O: Fn(&M) -> Result<S, E>,
{
    fn all(&mut self) -> Result<(), Violation> {
        self.reference()?;
        self.in_batches()?;
        if !self.log.is_empty() {
            for _ in 0..SNAPSHOTS {
                let at = self.random.usize(1..=self.log.len());
                self.snapshot_at(at)?;
            }
        }
        self.bad_commands()?;
        self.crashes()
    }

    // --- parts that the checks share -----------------------------------------------------------------------------

    pub(super) fn fresh(&self) -> Result<(M, S), Violation> {
        let medium = M::new_empty().expect("a medium can be made");
        let machine = self.open(&medium)?;
        Ok((medium, machine))
    }

    fn open(&self, medium: &M) -> Result<S, Violation> {
        guarded("opening", || (self.open)(medium))?.map_err(|error| {
            Violation::new(Promise::AcceptsWhatIsLegal, format_args!("it cannot be opened: {error}"))
        })
    }

    pub(super) fn view(&self, machine: &S) -> Result<Option<String>, Violation> {
        let view = self.check.view.as_ref();
        view.map(|view| guarded("the view", || view(machine))).transpose()
    }

    fn call(&mut self, machine: &mut S, entries: &Entries) -> Result<Vec<S::Response>, Violation> {
        self.passed.calls += 1;
        let mut responses = Vec::new();
        guarded("StateMachine::apply", || machine.apply(entries, &mut responses))?.map_err(|error| {
            Violation::new(
                Promise::AcceptsWhatIsLegal,
                format_args!("{} is refused: {error}", words(entries)),
            )
        })?;
        let commands = entries.iter().filter(|entry| matches!(entry, EntryRef::Command(..))).count();
        ensure(responses.len() == commands, Promise::OneResponse, || {
            format!("{} with {commands} commands got {} responses", words(entries), responses.len())
        })?;
        Ok(responses)
    }

    /// Applies them; the responses must be those of the first machine.
    pub(super) fn apply(
        &mut self,
        machine: &mut S,
        entries: &Entries,
        promise: Promise,
        who: &str,
    ) -> Result<(), Violation> {
        let mut responses = self.call(machine, entries)?.into_iter();
        for entry in entries.iter() {
            let at = usize::try_from(entry.id().index.get() - 1).expect("it is a place in a list");
            let Some(expected) = &self.responses[at] else { continue };
            let found = responses.next().expect("they were counted");
            ensure(found == *expected, promise, || {
                format!(
                    "{who} answers entry {} with {found:?}, and another machine with {expected:?}",
                    entry.id()
                )
            })?;
        }
        Ok(())
    }

    /// The rest of the log behind so many entries, and the state at the end.
    pub(super) fn apply_rest(
        &mut self,
        machine: &mut S,
        from: usize,
        promise: Promise,
        who: &str,
    ) -> Result<(), Violation> {
        self.compare(machine, from, promise, who)?;
        for batch in batches(&self.log[from..], &mut self.random.clone()) {
            self.apply(machine, &batch, promise, who)?;
        }
        self.compare(machine, self.log.len(), promise, who)
    }

    /// Its state is that after so many entries.
    pub(super) fn compare(
        &self,
        machine: &S,
        at: usize,
        promise: Promise,
        who: &str,
    ) -> Result<(), Violation> {
        let found = self.view(machine)?;
        ensure(found == self.views[at], promise, || {
            let words = |view: &Option<String>| view.clone().unwrap_or_default();
            format!(
                "{who} after {at} entries is\n  {}\nand another machine\n  {}",
                words(&found),
                words(&self.views[at])
            )
        })
    }

    pub(super) fn id_at(&self, at: usize) -> LogId {
        at.checked_sub(1).and_then(|at| self.log[at].last()).unwrap_or(LogId::ZERO)
    }

    // --- checks --------------------------------------------------------------------------------------------------

    fn reference(&mut self) -> Result<(), Violation> {
        let (_medium, mut machine) = self.fresh()?;
        self.views.push(self.view(&machine)?);
        for at in 0..self.log.len() {
            let entry = self.log[at].clone();
            if let Some(EntryRef::Command(_, command)) = entry.iter().next() {
                checked::<S>(&command.to_bytes())?.map_err(|error| {
                    let what = format!("{} is not let into the log: {error}", describe(&entry));
                    Violation::new(Promise::ChecksCommands, what)
                })?;
            }
            let response = self.call(&mut machine, &entry)?.pop();
            self.responses.push(response);
            self.views.push(self.view(&machine)?);
        }
        Ok(())
    }

    fn in_batches(&mut self) -> Result<(), Violation> {
        let (_medium, mut machine) = self.fresh()?;
        let who = "a machine that got the same entries in other batches";
        self.apply_rest(&mut machine, 0, Promise::Deterministic, who)?;
        if self.check.equal_snapshots {
            let (_medium, mut other) = self.fresh()?;
            self.apply_rest(&mut other, 0, Promise::Deterministic, who)?;
            let (one, two) = (self.frozen_bytes(&mut machine)?, self.frozen_bytes(&mut other)?);
            ensure(one == two, Promise::Deterministic, || {
                let place =
                    one.iter().zip(&two).position(|(a, b)| a != b).unwrap_or(one.len().min(two.len()));
                format!("two machines with the same entries give snapshots that differ from byte {place} on")
            })?;
        }
        Ok(())
    }

    fn bad_commands(&mut self) -> Result<(), Violation> {
        let Some(bad) = &self.check.bad_command else { return Ok(()) };
        for _ in 0..10 {
            let command = bad(self.random.u64(..));
            let is_kept_out = checked::<S>(&command)?.is_err();
            let (_medium, mut machine) = self.fresh()?;
            if !self.log.is_empty() {
                self.call(&mut machine, &joined(&self.log.clone()))?;
            }
            let last = self.id_at(self.log.len());
            let id = LogId::new(last.term.max(Term::BOOTSTRAP), last.index.next());
            let entries = Entries::commands(id, &Commands::one(command));
            let mut responses = Vec::new();
            let result = guarded("StateMachine::apply", || machine.apply(&entries, &mut responses))?;
            ensure(result.is_err(), Promise::RefusesBadCommands, || {
                format!("{} is applied, and answered with {responses:?}", describe(&entries))
            })?;
            ensure(is_kept_out, Promise::ChecksCommands, || {
                format!("{} is let into the log, where it stops every node", describe(&entries))
            })?;
        }
        Ok(())
    }

    /// Whatever a machine claims to hold after a crash, it must hold, and nothing beyond it.
    fn crashes(&mut self) -> Result<(), Violation> {
        let (medium, mut machine) = self.fresh()?;
        self.claim(&mut machine, 0, "a new machine")?;
        let mut applied = 0;
        for batch in batches(&self.log.clone(), &mut self.random.clone()) {
            self.apply(&mut machine, &batch, Promise::Deterministic, "a durable machine")?;
            applied += usize::try_from(batch.len()).expect("it is in memory");
            self.check_crashes(&medium, applied)?;
        }
        // And after a snapshot was restored, over nothing.
        if self.log.is_empty() {
            return Ok(());
        }
        let restored_at = self.random.usize(1..=self.log.len());
        let (_source, mut other) = self.fresh()?;
        let before = joined(&self.log[..restored_at]);
        self.call(&mut other, &before)?;
        let bytes = self.frozen_bytes(&mut other)?;
        let (medium, mut machine) = self.fresh()?;
        self.restore(&mut machine, restored_at, &bytes)?;
        self.check_crashes(&medium, restored_at)
    }

    fn check_crashes(&mut self, medium: &M, applied: usize) -> Result<(), Violation> {
        for crash in medium.crashes(self.random.u64(..)).expect("the medium works") {
            self.passed.crashes += 1;
            self.check_crash(&crash, applied).inspect_err(|_| {
                self.history.push(format!("entries through {applied} were applied; {}", crash.how));
            })?;
        }
        Ok(())
    }

    fn check_crash(&mut self, crash: &Crashed<M>, applied: usize) -> Result<(), Violation> {
        let who = "a machine that was opened after a crash";
        let mut machine = self.open(&crash.medium)?;
        let claimed = self.claim(&mut machine, applied, who)?;
        if crash.cached {
            let again = crash.medium.crashes(self.random.u64(..)).expect("the medium works");
            for again in again.iter().filter(|again| again.returned && !again.cached).take(2) {
                let mut machine = self.open(&again.medium)?;
                let kept = self.claim(&mut machine, applied, who)?;
                ensure(kept >= claimed, Promise::RecoverClaims, || {
                    format!("it claims {} entries; then {}, and it claims {kept}", claimed, again.how)
                })?;
            }
        }
        let who = format!("{who}, and claims the first {claimed} entries,");
        self.apply_rest(&mut machine, claimed, Promise::RecoverClaims, &who)
    }

    /// How many entries it claims.
    fn claim(&mut self, machine: &mut S, applied: usize, who: &str) -> Result<usize, Violation> {
        let claimed = guarded("StateMachine::recover", || machine.recover())?.map_err(|error| {
            Violation::new(Promise::AcceptsWhatIsLegal, format_args!("recover fails: {error}"))
        })?;
        let count = usize::try_from(claimed.index.get()).unwrap_or(usize::MAX);
        ensure(count <= applied, Promise::RecoverClaims, || {
            format!("{who} claims entry {claimed}; {applied} entries were applied")
        })?;
        ensure(self.id_at(count) == claimed, Promise::RecoverClaims, || {
            format!("{who} claims entry {claimed}; the one there is {}", self.id_at(count))
        })?;
        Ok(count)
    }
}

fn checked<S: StateMachine>(command: &Bytes) -> Result<Result<(), Unacceptable>, Violation> {
    guarded("StateMachine::check", || S::check(command))
}

fn words(entries: &Entries) -> String {
    let id = |id: Option<LogId>| id.map_or(LogIndex::ZERO, |id| id.index);
    match (id(entries.first()), id(entries.last())) {
        (first, last) if first == last => describe(entries),
        (first, last) => format!("a batch {first}..={last}"),
    }
}
