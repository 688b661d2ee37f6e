//! Loss of power at every operation on the disk: everything reported durable is there afterwards, byte for byte, and
//! the log begins where it began before or after the compaction or reset that was interrupted.

use std::ops::RangeInclusive;

use raft_core::host::LogStore;
use raft_core::{Entries, LogId, LogIndex, Write};
use raft_driver_tokio::storage::DurableLog;

use crate::disk::{Disk, LOSSES, Loss, Op, after_loss};
use crate::model::{IDENTITY, Model, commands, created, id, membership, reset, vote, write};

/// What the store is asked.
#[derive(Clone, Debug)]
enum Call {
    Write(Vec<Write>),
    Compact(LogId),
}

/// Calls as a follower makes them: appends of all sizes, truncations within and between blocks, votes; compactions within
/// blocks, between them and of everything; snapshots installed over the log.
fn workload() -> Vec<Call> {
    // Small ones until they need more of the file than there was. Then the whole log is replaced.
    let small = |at: u64| vec![write(None, commands(id(1, 1 + at * 60), 60, 800))];
    let mut batches: Vec<_> = (0..30).map(small).collect();
    batches.extend([
        vec![write(vote(1, 0), membership(id(1, 1), 3))],
        vec![write(vote(2, 3), Entries::empty())],
        vec![write(None, Entries::noop(id(2, 2)))],
        vec![write(None, commands(id(2, 3), 1, 256))],
        vec![write(None, commands(id(2, 4), 64, 256)), write(None, commands(id(2, 68), 10, 100))],
        vec![write(vote(3, 1), Entries::empty()), write(None, commands(id(3, 70), 3, 5000))],
        vec![write(None, commands(id(3, 73), 600, 256))],
        // In the middle of a block, and of the one before that.
        vec![write(vote(4, 0), commands(id(4, 200), 5, 256))],
        vec![write(None, commands(id(4, 205), 1, 300_000))],
        vec![write(None, commands(id(4, 206), 4, 700_000))],
        vec![write(vote(5, 2), commands(id(5, 30), 2, 256)), write(None, commands(id(5, 31), 40, 256))],
        vec![write(vote(6, 2), Entries::empty())],
        // The whole log.
        vec![write(vote(7, 1), commands(id(7, 1), 20, 256))],
        vec![write(None, membership(id(7, 21), 5)), write(None, commands(id(7, 22), 3, 20))],
    ]);
    let mut calls: Vec<Call> = batches.into_iter().map(Call::Write).collect();
    calls.extend([
        // Nothing yet, since the one block goes on; then the first blocks; then all.
        Call::Compact(id(7, 2)),
        Call::Write(vec![write(None, commands(id(7, 25), 300, 256))]),
        Call::Compact(id(7, 30)),
        Call::Write(vec![write(vote(8, 1), commands(id(8, 325), 100, 900))]),
        Call::Compact(id(8, 400)),
        Call::Compact(id(8, 424)),
        Call::Write(vec![write(None, commands(id(8, 425), 30, 256))]),
        // A snapshot far ahead, one behind a vote, and one over an older part of the log.
        Call::Write(vec![reset(None, id(9, 1000), Entries::empty())]),
        Call::Write(vec![write(vote(9, 0), commands(id(9, 1001), 40, 300))]),
        Call::Write(vec![
            write(vote(10, 2), commands(id(10, 1041), 2, 50)),
            reset(vote(11, 0), id(10, 1041), commands(id(11, 1042), 20, 256)),
        ]),
        Call::Write(vec![write(None, commands(id(11, 1062), 200, 256))]),
        Call::Compact(id(11, 1100)),
        Call::Write(vec![write(vote(12, 3), Entries::empty())]),
    ]);
    // Small ones in the journal, of one page and of several, for some laps.
    for at in 0..30 {
        let bytes = if at % 5 == 0 { 2_500 } else { 120 };
        let vote = (at % 7 == 0).then(|| vote(12, 3)).flatten();
        calls.push(Call::Write(vec![write(vote, commands(id(12, 1262 + at * 3), 3, bytes))]));
    }
    calls
}

/// A run, as the disk saw it.
struct Run {
    image: Vec<u8>,
    ops: Vec<Op>,
    /// The log after each write.
    states: Vec<Model>,
    /// From so many operations on, so many writes were handed out, and so many reported.
    marks: Vec<(usize, usize, usize)>,
}

impl Run {
    fn of(disk: &Disk) -> Self {
        let image = disk.image();
        let disk_ops_before = disk.ops_len();
        let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
        let mut states = vec![Model::read(&mut log).unwrap()];
        let mut marks = vec![(0, 0, 0)];
        for call in workload() {
            let reported = states.len() - 1;
            let mut next = states[reported].clone();
            match call {
                Call::Write(batch) => {
                    for write in &batch {
                        next.apply(write);
                        states.push(next.clone());
                    }
                    marks.push((disk.ops_len() - disk_ops_before, states.len() - 1, reported));
                    log.write(&batch).unwrap();
                }
                Call::Compact(through) => {
                    let before = disk.ops_len() - disk_ops_before;
                    log.compact(through).unwrap();
                    // It may drop less: what it dropped is seen by what it finds now.
                    let found = Model::read(&mut log).unwrap();
                    next.compact(found.base, through.index);
                    assert_eq!(found, next);
                    states.push(next);
                    marks.push((before, states.len() - 1, reported));
                }
            }
            marks.push((disk.ops_len() - disk_ops_before, states.len() - 1, states.len() - 1));
        }
        drop(log);
        Self { image, ops: disk.ops().split_off(disk_ops_before), states, marks }
    }

    /// How many of the writes may be there when power is lost after so many operations.
    fn allowed(&self, ops: usize) -> RangeInclusive<usize> {
        let (_, handed_out, reported) = self.marks[self.marks.partition_point(|mark| mark.0 <= ops) - 1];
        reported..=handed_out
    }

    /// Every cut, and these kinds of loss. Says what was violated first.
    fn check(&self, losses: &[Loss]) -> Result<usize, String> {
        let mut random = fastrand::Rng::with_seed(7);
        let mut checked = 0;
        for cut in 0..=self.ops.len() {
            for &loss in losses {
                let image = after_loss(&self.image, &self.ops[..cut], loss, &mut random);
                self.check_image(image, self.allowed(cut))
                    .map_err(|error| format!("after {cut} operations, lost {loss:?}: {error}"))?;
                checked += 1;
            }
        }
        Ok(checked)
    }

    fn check_image(&self, image: Vec<u8>, allowed: RangeInclusive<usize>) -> Result<(), String> {
        let disk = Disk::of(image);
        let mut log = DurableLog::open_on(disk.layer(), IDENTITY).map_err(|error| error.to_string())?;
        let found = Model::read(&mut log).map_err(|error| error.to_string())?;
        if !self.states[allowed.clone()].contains(&found) {
            let other = self.states.iter().rposition(|state| *state == found);
            return Err(format!("expected the state after one of {allowed:?} writes, found {other:?}"));
        }
        Ok(())
    }
}

#[test]
fn what_was_reported_survives_a_loss_of_power_at_every_operation() {
    let run = Run::of(&created());
    let syncs = run.ops.iter().filter(|op| matches!(op, Op::Sync)).count();
    assert!(syncs > workload().len(), "one for each batch at least");
    assert!(run.ops.iter().any(|op| matches!(op, Op::SetLen(_))), "the file grows on the way");
    let is_prepared =
        |op: &Op| matches!(op, Op::Write(_, data) if data.len() > 100_000 && data.iter().all(|b| *b == 0));
    assert!(run.ops.iter().any(is_prepared), "and is prepared with zeros");
    let is_lap = |op: &&Op| matches!(op, Op::Write(4096, _));
    assert!(run.ops.iter().filter(is_lap).count() >= 4, "the journal begins anew on the way");
    let checked = run.check(&LOSSES).unwrap();
    println!("{checked} losses of power over {} operations, {syncs} of them syncs", run.ops.len());
}

#[test]
fn without_fsync_the_same_check_fails() {
    let disk = created();
    disk.ignore_sync();
    let run = Run::of(&disk);
    assert!(!run.ops.iter().any(|op| matches!(op, Op::Sync)));
    // Each kind of loss is noticed, except the one that loses nothing.
    for loss in LOSSES.into_iter().filter(|loss| !matches!(loss, Loss::Nothing | Loss::Last | Loss::LastTorn))
    {
        println!("{}", run.check(&[loss]).unwrap_err());
    }
    run.check(&[Loss::Nothing]).unwrap();
}

#[test]
fn a_kill_without_loss_of_power_loses_nothing_either() {
    let run = Run::of(&created());
    for (cut, handed_out, reported) in &run.marks {
        let mut image = run.image.clone();
        let mut random = fastrand::Rng::new();
        image = after_loss(&image, &run.ops[..*cut], Loss::Nothing, &mut random);
        run.check_image(image, *reported..=*handed_out).unwrap();
    }
}

#[test]
fn a_crash_during_recovery_loses_nothing_either() {
    let run = Run::of(&created());
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..12 {
        let cut = random.usize(..run.ops.len());
        let image = after_loss(&run.image, &run.ops[..cut], Loss::Sectors, &mut random);
        let disk = Disk::of(image.clone());
        let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
        let found = Model::read(&mut log).unwrap();
        let last = found.last().index.get();
        let next = commands(id(20, last + 1), 2, 100);
        log.write(&[write(vote(20, 1), next)]).unwrap();
        let written = disk.ops_len();
        drop(log);
        let ops = disk.ops();
        for again in 0..=written {
            for loss in [Loss::All, Loss::Sectors] {
                let disk = Disk::of(after_loss(&image, &ops[..again], loss, &mut random));
                let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
                let now = Model::read(&mut log).unwrap();
                let kept = &now.log[..found.log.len().min(now.log.len())];
                assert_eq!(kept, &found.log[..], "cut {cut}, then {again}, {loss:?}");
                assert!(now.hard_state == found.hard_state || now.hard_state == vote(20, 1).unwrap());
                if again == written {
                    assert_eq!(now.last().index, LogIndex::new(last + 2));
                }
            }
        }
    }
}
