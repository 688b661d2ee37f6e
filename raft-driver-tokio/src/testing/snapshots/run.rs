//! One history on one store of snapshots.

use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::host::{IncomingSnapshot, SnapshotChunk, SnapshotFault, SnapshotStore, SnapshotWriter};
use raft_core::{LogId, SnapshotId, SnapshotMeta};

use super::model::{Model, Whole, content, meta, pieces};
use super::store::{begin, check_digest, is_missing, read, read_all, with, write, written};
use crate::testing::medium::{Crashed, Medium};
use crate::testing::promise::Promise;
use crate::testing::report::{Ended, Passed, Violation, ensure, guarded};

/// After a killed process has recovered, so many losses of power are tried.
const LOSSES_AFTER_KILL: usize = 2;

#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A newer one, whole; some after which one goes on with what a crash could have left.
    Save {
        bytes: usize,
        seed: u64,
        crash: Option<u64>,
    },
    /// One that is never finished.
    Abandon {
        bytes: usize,
        seed: u64,
    },
    /// One that comes in chunks. Announced rightly, or with another digest.
    Receive {
        bytes: usize,
        seed: u64,
        is_right: bool,
    },
    /// Two at once, by turns; the one that is finished first is the newer one, or the older one.
    Two {
        bytes: usize,
        seed: u64,
        newer_first: bool,
    },
    /// An operation fails after so many that work.
    Fail {
        bytes: usize,
        seed: u64,
        after: u64,
    },
    /// All but the newest are forgotten.
    ForgetOld,
    Read {
        offset: u64,
        bytes_max: u64,
    },
    Reopen,
}

pub(super) fn history(random: &mut fastrand::Rng, steps: usize, bytes_max: usize) -> Vec<Step> {
    let step = |random: &mut fastrand::Rng| {
        let bytes = match random.u32(..5) {
            0 => random.usize(..=bytes_max),
            1 => random.usize(..3),
            _ => random.usize(..=bytes_max.min(3_000)),
        };
        let seed = random.u64(..);
        match random.u32(..16) {
            0..=4 => Step::Save { bytes, seed, crash: random.bool().then(|| random.u64(..)) },
            5 => Step::Abandon { bytes, seed },
            6..=7 => Step::Receive { bytes, seed, is_right: random.bool() },
            8 => Step::Two { bytes, seed, newer_first: random.bool() },
            9..=10 => Step::Fail { bytes, seed, after: random.u64(..8) },
            11..=12 => Step::ForgetOld,
            13..=14 => Step::Read { offset: random.u64(..4_000), bytes_max: random.u64(..4_000) },
            _ => Step::Reopen,
        }
    };
    (0..steps).map(|_| step(random)).collect()
}

pub(super) fn simpler(step: &Step) -> Vec<Step> {
    match *step {
        Step::Save { bytes, seed, crash: Some(_) } => vec![Step::Save { bytes, seed, crash: None }],
        Step::Save { bytes, seed, crash } if bytes > 1 => vec![Step::Save { bytes: bytes / 2, seed, crash }],
        Step::Abandon { bytes, seed } if bytes > 1 => vec![Step::Abandon { bytes: bytes / 2, seed }],
        _ => Vec::new(),
    }
}

/// What a crash left, and what was found there.
type AfterCrash<M> = (Crashed<M>, Option<Whole>);

struct Runner<'a, M, S, O> {
    open: &'a O,
    one_opener: bool,
    medium: M,
    store: Option<S>,
    model: Model,
    number: u64,
    seed: u64,
    history: Vec<String>,
    passed: Passed,
}

pub(super) fn run<M, S, E, O>(open: &O, one_opener: bool, seed: u64, steps: &[Step]) -> Ended
where
    M: Medium,
    S: SnapshotStore,
    E: Display,
    O: Fn(&M) -> Result<S, E>,
{
    let mut runner = Runner {
        open,
        one_opener,
        medium: M::new_empty().expect("a medium can be made"),
        store: None,
        model: Model::default(),
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
    S: SnapshotStore,
    E: Display,
    O: Fn(&M) -> Result<S, E>,
{
    fn step(&mut self, step: &Step) -> Result<(), Violation> {
        match *step {
            Step::Save { bytes, seed, crash } => self.save(bytes, seed, crash),
            Step::Abandon { bytes, seed } => self.abandon(bytes, seed),
            Step::Receive { bytes, seed, is_right } => self.receive(bytes, seed, is_right),
            Step::Two { bytes, seed, newer_first } => self.two(bytes, seed, newer_first),
            Step::Fail { bytes, seed, after } => self.fail(bytes, seed, after),
            Step::ForgetOld => self.forget_old(),
            Step::Read { offset, bytes_max } => self.read(offset, bytes_max),
            Step::Reopen => self.reopen("the store is dropped and opened again"),
        }
    }

    fn store(&self) -> &S {
        self.store.as_ref().expect("it is open between steps")
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn next_seed(&mut self) -> u64 {
        self.passed.calls += 1;
        self.seed.wrapping_mul(1_000_003).wrapping_add(self.passed.calls)
    }

    // --- writing -------------------------------------------------------------------------------------------------

    /// Writes it, and lets it crash after each call; it is not finished.
    fn fill(
        &mut self,
        meta: &SnapshotMeta,
        bytes: &Bytes,
        seed: u64,
    ) -> Result<(S::Writer, SnapshotMeta), Violation> {
        let mut writer = begin(self.store(), meta.id)?;
        self.check_crashes()?;
        for piece in pieces(bytes, &mut fastrand::Rng::with_seed(seed)) {
            write(&mut writer, &piece)?;
            self.check_crashes()?;
        }
        is_missing(self.store(), meta.id, Promise::SnapshotMissing, "is not finished")?;
        let written = written(&writer, bytes.len())?;
        Ok((writer, with(meta, written)))
    }

    /// Finishes it. Until that has returned a crash may leave it or not.
    fn finish(&mut self, writer: S::Writer, whole: Whole) -> Result<Vec<AfterCrash<M>>, Violation> {
        let id = whole.0.id;
        guarded("SnapshotWriter::finish", || writer.finish(&whole.0))?.map_err(|error| {
            Violation::new(Promise::AcceptsWhatIsLegal, format_args!("finish fails: {error}"))
        })?;
        let mut within = self.model.clone();
        within.maybe.insert(id, whole.clone());
        self.model.maybe.remove(&id);
        self.model.complete.insert(id, whole.clone());
        read_all(self.store(), &whole)?;
        let after = self.model.clone();
        self.crashes(&within, &after)
    }

    fn save(&mut self, bytes: usize, seed: u64, crash: Option<u64>) -> Result<(), Violation> {
        let number = self.next_number();
        let (meta, bytes) = (meta(number), content(number, bytes));
        self.history.push(format!("write snapshot {} of {} bytes, and finish it", meta.id, bytes.len()));
        let (writer, meta) = self.fill(&meta, &bytes, seed)?;
        let written = written(&writer, bytes.len())?;
        // Its own name is in use.
        let other = SnapshotId { seq: u64::MAX, ..meta.id };
        check_digest(self.store(), other, &bytes, written)?;
        is_missing(self.store(), other, Promise::SnapshotMissing, "was given up")?;
        let found = self.finish(writer, (Arc::new(meta), bytes))?;
        self.go_on_after(found, crash)
    }

    fn abandon(&mut self, bytes: usize, seed: u64) -> Result<(), Violation> {
        let number = self.next_number();
        let (meta, bytes) = (meta(number), content(number, bytes));
        self.history.push(format!("write snapshot {} of {} bytes, and give it up", meta.id, bytes.len()));
        let (writer, _) = self.fill(&meta, &bytes, seed)?;
        drop(writer);
        is_missing(self.store(), meta.id, Promise::SnapshotMissing, "was given up")?;
        self.check_crashes()?;
        self.check_complete()
    }

    fn receive(&mut self, bytes: usize, seed: u64, is_right: bool) -> Result<(), Violation> {
        let number = self.next_number();
        let (meta, bytes) = (meta(number), content(number, bytes));
        let (writer, mut announced) = self.fill(&meta, &bytes, seed)?;
        drop(writer);
        let words = if is_right { "as announced" } else { "announced with another digest" };
        self.history.push(format!("receive snapshot {} of {} bytes, {words}", meta.id, bytes.len()));
        announced.digest ^= u64::from(!is_right);
        let announced = Arc::new(announced);
        let mut chunks = pieces(&bytes, &mut fastrand::Rng::with_seed(seed));
        let last = chunks.pop().unwrap_or_default();
        let mut incoming = IncomingSnapshot::default();
        let mut offset = 0;
        let mut put = |runner: &Self, data: Bytes, done| {
            let chunk = SnapshotChunk { meta: Arc::clone(&announced), offset, data, done };
            offset += chunk.data.len() as u64;
            guarded("SnapshotWriter", || incoming.write(runner.store(), &chunk))
        };
        for data in chunks {
            put(self, data, false)?.map_err(|fault| {
                Violation::new(Promise::AcceptsWhatIsLegal, format_args!("a chunk is refused: {fault}"))
            })?;
        }
        let result = put(self, last, true)?;
        let whole = (Arc::clone(&announced), bytes);
        match result {
            Ok(()) if is_right => {
                self.model.complete.insert(meta.id, whole.clone());
                read_all(self.store(), &whole)?;
            }
            Err(SnapshotFault::Different { .. }) if !is_right => {
                is_missing(self.store(), meta.id, Promise::SnapshotComplete, "has another digest")?;
            }
            Ok(()) => {
                let what = format!("{} was finished with another digest than announced", meta.id);
                return Err(Violation::new(Promise::SnapshotDigest, what));
            }
            Err(fault) => {
                let what = format!("the last chunk is refused: {fault}");
                return Err(Violation::new(Promise::AcceptsWhatIsLegal, what));
            }
        }
        let mut within = self.model.clone();
        if is_right {
            within.complete.remove(&meta.id);
            within.maybe.insert(meta.id, whole);
        }
        let after = self.model.clone();
        self.crashes(&within, &after)?;
        self.check_complete()
    }

    fn two(&mut self, bytes: usize, seed: u64, newer_first: bool) -> Result<(), Violation> {
        let numbers = [self.next_number(), self.next_number()];
        let [older, newer] = numbers.map(|number| (meta(number), content(number, bytes)));
        self.history.push(format!("write snapshots {} and {} by turns", older.0.id, newer.0.id));
        let (mut first, mut second) = if newer_first { (newer, older) } else { (older, newer) };
        let mut writers = [begin(self.store(), first.0.id)?, begin(self.store(), second.0.id)?];
        let mut random = fastrand::Rng::with_seed(seed);
        let parts = [pieces(&first.1, &mut random), pieces(&second.1, &mut random)];
        for turn in 0..parts[0].len().max(parts[1].len()) {
            for (writer, parts) in writers.iter_mut().zip(&parts) {
                parts.get(turn).map_or(Ok(()), |piece| write(writer, piece))?;
            }
            self.check_complete()?;
        }
        for (writer, (meta, bytes)) in writers.into_iter().zip([&mut first, &mut second]) {
            let written = written(&writer, bytes.len())?;
            self.finish(writer, (Arc::new(with(meta, written)), bytes.clone()))?;
        }
        self.check_complete()
    }

    fn fail(&mut self, bytes: usize, seed: u64, after: u64) -> Result<(), Violation> {
        let number = self.next_number();
        let (meta, bytes) = (meta(number), content(number, bytes));
        let (writer, meta) = self.fill(&meta, &bytes, seed)?;
        if !self.medium.fail_once(after) {
            return Ok(());
        }
        let id = meta.id;
        let whole = (Arc::new(meta), bytes);
        let finished = guarded("SnapshotWriter::finish", || writer.finish(&whole.0))?;
        let words = match &finished {
            Ok(()) => "nothing fails".into(),
            Err(error) => format!("an operation on the disk fails, and so does finish: {error}"),
        };
        self.history.push(format!("write snapshot {id} of {} bytes; {words}", whole.1.len()));
        let mut within = self.model.clone();
        within.maybe.insert(id, whole.clone());
        match finished {
            Ok(()) => self.model.complete.insert(id, whole),
            Err(_) => self.model.maybe.insert(id, whole),
        };
        let after = self.model.clone();
        self.crashes(&within, &after)?;
        self.check_complete()
    }

    fn forget_old(&mut self) -> Result<(), Violation> {
        let newest = self.model.newest().map(|(meta, _)| meta.id);
        let old: Vec<SnapshotId> =
            self.model.complete.keys().copied().filter(|id| Some(*id) != newest).collect();
        for id in old {
            self.history.push(format!("forget {id}"));
            guarded("SnapshotStore::forget", || self.store().forget(id))?.map_err(|error| {
                Violation::new(Promise::AcceptsWhatIsLegal, format_args!("forget fails: {error}"))
            })?;
            // It may be there again after a restart, but it is not newer than the newest.
            let whole = self.model.complete.remove(&id);
            self.model.maybe.extend(whole.map(|whole| (id, whole)));
            is_missing(self.store(), id, Promise::SnapshotForgotten, "was forgotten")?;
            self.check_complete()?;
            self.check_crashes()?;
        }
        Ok(())
    }

    fn read(&mut self, offset: u64, bytes_max: u64) -> Result<(), Violation> {
        self.passed.calls += 1;
        let Some(newest) = self.model.newest() else { return Ok(()) };
        self.history.push(format!("read {bytes_max} bytes of {} from {offset} on", newest.0.id));
        read(self.store(), newest, offset, bytes_max)
    }

    /// Whatever was done to others did no harm to these.
    fn check_complete(&self) -> Result<(), Violation> {
        self.model.complete.values().try_for_each(|whole| {
            read_all(self.store(), whole)
                .map_err(|violation| Violation { promise: Promise::SnapshotsApart, ..violation })
        })
    }

    // --- crashes -------------------------------------------------------------------------------------------------

    /// After a call that finishes nothing.
    fn check_crashes(&mut self) -> Result<(), Violation> {
        let model = self.model.clone();
        self.crashes(&model, &model).map(drop)
    }

    fn crashes(&mut self, within: &Model, after: &Model) -> Result<Vec<AfterCrash<M>>, Violation> {
        let seed = self.next_seed();
        let mut checked = Vec::new();
        for crash in self.medium.crashes(seed).expect("the medium works") {
            self.passed.crashes += 1;
            let model = if crash.returned { after } else { within };
            let found = self.recover(&crash.medium, model, !crash.cached);
            let (store, found) = found.inspect_err(|_| self.history.push(crash.how.clone()))?;
            if crash.cached {
                let mut model = model.clone();
                model.settle(found.clone());
                let seed = self.next_seed();
                let again = crash.medium.crashes(seed).expect("the medium works");
                for again in again.iter().filter(|a| a.returned && !a.cached).take(LOSSES_AFTER_KILL) {
                    self.recover(&again.medium, &model, true).map_err(|violation| {
                        let recovers = "the store is opened again, and recovers";
                        self.history.extend([crash.how.clone(), recovers.into(), again.how.clone()]);
                        Violation { promise: Promise::RecoveredSnapshotIsDurable, ..violation }
                    })?;
                }
            }
            drop(store);
            checked.push((crash, found));
        }
        Ok(checked)
    }

    /// Opens it, and finds what it should.
    fn recover(
        &self,
        medium: &M,
        model: &Model,
        power_was_lost: bool,
    ) -> Result<(S, Option<Whole>), Violation> {
        let store = guarded("opening", || (self.open)(medium))?.map_err(|error| {
            Violation::new(Promise::SnapshotsOpen, format_args!("it cannot be opened: {error}"))
        })?;
        let base = model.newest().map_or(LogId::ZERO, |(meta, _)| meta.id.last);
        let found = guarded("SnapshotStore::recover", || store.recover(base))?.map_err(|error| {
            Violation::new(Promise::SnapshotsOpen, format_args!("recover fails: {error}"))
        })?;
        let found = model.judge(found.as_ref(), power_was_lost)?;
        found.iter().try_for_each(|whole| read_all(&store, whole))?;
        let kept = found.as_ref().map(|(meta, _)| meta.id);
        for id in model.complete.keys().chain(model.maybe.keys()).filter(|id| Some(**id) != kept) {
            is_missing(&store, *id, Promise::SnapshotMissing, "was dropped by recover")?;
        }
        Ok((store, found))
    }

    fn go_on_after(&mut self, mut found: Vec<AfterCrash<M>>, crash: Option<u64>) -> Result<(), Violation> {
        let Some(pick) = crash else { return Ok(()) };
        if found.is_empty() {
            return self.reopen("the store is dropped and opened again");
        }
        let at = usize::try_from(pick % found.len() as u64).expect("it is below a length");
        let (crash, found) = found.swap_remove(at);
        self.store = None;
        self.medium = crash.medium;
        self.model.settle(found);
        self.reopen(&format!("{}; the store is opened on what is left", crash.how))
    }

    fn reopen(&mut self, why: &str) -> Result<(), Violation> {
        self.history.push(why.into());
        self.store = None;
        let (store, found) = self.recover(&self.medium, &self.model, false)?;
        self.model.settle(found);
        if self.one_opener {
            let second = guarded("opening", || (self.open)(&self.medium))?;
            ensure(second.is_err(), Promise::OneOpener, || "a second opener got in".into())?;
        }
        self.store = Some(store);
        self.check_crashes()
    }
}
