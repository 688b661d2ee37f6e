//! Several groups in one store: each is the log that it would be alone, whatever the others do, and their writes share
//! fsyncs.

use std::collections::BTreeMap;
use std::task::{Context, Waker};

use raft_core::host::{AsyncLogStore, LogStore};
use raft_core::{Entries, LogId, LogIndex, Term, Write};
use raft_driver_tokio::GroupId;
use raft_driver_tokio::storage::{DurableError, DurableLog, DurableStore, GroupError, GroupLog, OpenError};

use crate::disk::{Disk, LOSSES, On, after_loss};
use crate::model::{End, IDENTITY, Model, commands, created, id, membership, owned, reset, vote, write};

fn group(id: u64) -> GroupId {
    GroupId::new(id)
}

fn open(disk: &Disk) -> DurableStore {
    DurableStore::open_on(disk.layer(), IDENTITY).unwrap()
}

/// A write as a node of a group could make it next.
fn next(model: &Model, random: &mut fastrand::Rng) -> Write {
    let last = model.last();
    let term = last.term.get().max(model.hard_state.term.get()).max(1);
    let hard_state = random.bool().then(|| vote(term + random.u64(..2), random.u64(..4)).unwrap());
    let term = hard_state.map_or(term, |voted| voted.term.get());
    let back = random.u64(..10).saturating_sub(6).min(last.index.get() - model.base.index.get());
    let at = id(term, last.index.get() - back + 1);
    match random.u8(..10) {
        0 => write(hard_state.or(vote(term, 1)), Entries::empty()),
        1 => write(hard_state, membership(at, 3)),
        2 => reset(hard_state, id(term, last.index.get() + random.u64(1..50)), Entries::empty()),
        3 => write(hard_state, commands(at, random.u64(1..80), 300)),
        _ => write(hard_state, commands(at, random.u64(1..8), random.usize(..600))),
    }
}

fn read(store: &DurableStore, of: u64) -> Model {
    Model::read(&mut store.log(group(of)).unwrap()).unwrap()
}

#[test]
fn each_group_is_the_log_that_it_would_be_alone() {
    for seed in 0..24 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut before = created().image();
        let mut disk = Disk::of(before.clone());
        let mut store = open(&disk);
        let mut models: BTreeMap<u64, Model> = BTreeMap::new();
        let mut logs: BTreeMap<u64, GroupLog> = BTreeMap::new();
        for _ in 0..150 {
            let of = [0, 1, 2, 7, u64::MAX - 1, u64::MAX][random.usize(..6)];
            let model = models.entry(of).or_default();
            let mut log = logs.remove(&of).unwrap_or_else(|| store.log(group(of)).unwrap());
            match random.u8(..20) {
                0 => {
                    drop(log);
                    store.remove(group(of)).unwrap();
                    // The vote stays.
                    *model = Model { hard_state: model.hard_state, ..Model::default() };
                    continue;
                }
                1 => {
                    logs.clear();
                    drop(log);
                    before = End::ALL[random.usize(..3)].end(store, &disk, &before);
                    disk = Disk::of(before.clone());
                    store = open(&disk);
                    for (of, model) in &models {
                        assert_eq!(read(&store, *of), *model, "group {of}, seed {seed}");
                    }
                    let stored = models.iter().filter(|(_, model)| model.last() != LogId::ZERO);
                    let listed = store.groups().unwrap();
                    assert!(stored.map(|(of, _)| group(*of)).all(|of| listed.contains(&of)));
                    continue;
                }
                2 => drop(log),
                3 => {
                    let last = model.last().index.get();
                    let through = LogIndex::new(random.u64(..=last));
                    let entry = model.log.iter().map(|entry| entry.id()).find(|id| id.index == through);
                    if let Some(through) = entry {
                        LogStore::compact(&mut log, through).unwrap();
                        model.compact(LogStore::recover(&mut log).unwrap().base, through.index);
                    }
                    logs.insert(of, log);
                }
                _ => {
                    let batch: Vec<Write> = (0..random.usize(1..4))
                        .map(|_| {
                            let next = next(model, &mut random);
                            model.apply(&next);
                            next
                        })
                        .collect();
                    LogStore::write(&mut log, &batch).unwrap();
                    logs.insert(of, log);
                }
            }
        }
    }
}

#[test]
fn a_loss_of_power_under_writes_of_several_groups_loses_nothing_reported() {
    const GROUPS: u64 = 4;
    let disk = created();
    let image = disk.image();
    let before = disk.ops_len();
    let store = open(&disk);
    let writers = (0..GROUPS).map(|of| {
        let (store, disk) = (store.clone(), disk.clone());
        std::thread::spawn(move || {
            let mut random = fastrand::Rng::with_seed(of);
            let mut log = store.log(group(of)).unwrap();
            let mut states = vec![Model::default()];
            // From so many operations on: handed out, reported.
            let mut marks = vec![(0, 0, 0)];
            for at in 1..25 {
                let next = next(&states[at - 1], &mut random);
                let mut state = states[at - 1].clone();
                state.apply(&next);
                states.push(state);
                marks.push((disk.ops_len() - before, at, at - 1));
                LogStore::write(&mut log, &[next]).unwrap();
                marks.push((disk.ops_len() - before, at, at));
            }
            (states, marks)
        })
    });
    let runs: Vec<_> = writers.collect::<Vec<_>>().into_iter().map(|writer| writer.join().unwrap()).collect();
    let writes = runs.iter().map(|(states, _)| states.len() - 1).sum::<usize>();
    assert!(store.syncs() <= writes as u64);
    drop(store);
    let ops = disk.ops().split_off(before);
    let mut random = fastrand::Rng::with_seed(3);
    for cut in 0..=ops.len() {
        let loss = LOSSES[random.usize(..LOSSES.len())];
        let disk = Disk::of(after_loss(&image, &ops[..cut], loss, &mut random));
        let store = open(&disk);
        for (of, (states, marks)) in runs.iter().enumerate() {
            let (_, handed_out, reported) = marks[marks.partition_point(|mark| mark.0 <= cut) - 1];
            let found = read(&store, of as u64);
            assert!(
                states[reported..=handed_out].contains(&found),
                "group {of} after {cut} operations, lost {loss:?}: after none of {reported}..={handed_out}"
            );
        }
    }
}

/// What is under way, and has been handed to the store.
fn begin<F: Future>(mut future: std::pin::Pin<&mut F>) {
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

#[tokio::test]
async fn whoever_arrives_while_a_sync_runs_shares_the_next() {
    const GROUPS: u64 = 60;
    let disk = created();
    let store = open(&disk);
    let mut first = store.log(group(0)).unwrap();
    disk.hold();
    let batch = [write(vote(1, 1), commands(id(1, 1), 1, 100))];
    let mut running = Box::pin(AsyncLogStore::write(&mut first, &batch));
    begin(running.as_mut());
    disk.wait_for_sync();
    let mut logs: Vec<_> = (1..=GROUPS).map(|of| store.log(group(of)).unwrap()).collect();
    let mut waiting: Vec<_> =
        logs.iter_mut().map(|log| Box::pin(AsyncLogStore::write(log, &batch))).collect();
    waiting.iter_mut().for_each(|write| begin(write.as_mut()));
    disk.release();
    running.await.unwrap();
    for write in waiting {
        write.await.unwrap();
    }
    assert_eq!(store.syncs(), 2);
    drop((first, logs, store));
    let store = open(&disk);
    assert_eq!(store.groups().unwrap(), (0..=GROUPS).map(group).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_call_that_is_dropped_is_finished_before_its_group_is_free() {
    let disk = created();
    let store = open(&disk);
    let mut log = store.log(group(5)).unwrap();
    disk.hold();
    let batch = [write(vote(1, 1), commands(id(1, 1), 3, 100))];
    {
        let mut dropped = Box::pin(AsyncLogStore::write(&mut log, &batch));
        begin(dropped.as_mut());
    }
    disk.wait_for_sync();
    drop(log);
    assert!(matches!(store.log(group(5)), Err(GroupError::InUse { .. })));
    assert!(matches!(store.remove(group(5)), Err(GroupError::InUse { .. })));
    disk.release();
    // What is queued behind it is done after it.
    let mut other = store.log(group(6)).unwrap();
    AsyncLogStore::write(&mut other, &batch).await.unwrap();
    assert_eq!(read(&store, 5).log, owned(&batch[0].entries));
}

#[test]
fn a_group_has_one_user_at_a_time() {
    let disk = created();
    let store = open(&disk);
    let log = store.log(group(1)).unwrap();
    let reader = LogStore::reader(&log);
    let error = store.log(group(1)).unwrap_err();
    assert!(matches!(error, GroupError::InUse { .. }), "{error}");
    drop(log);
    // Its readers are users too.
    assert!(matches!(store.log(group(1)), Err(GroupError::InUse { .. })));
    drop(reader);
    store.log(group(1)).unwrap();
}

#[test]
fn what_one_group_does_wrong_harms_no_other() {
    let disk = created();
    let store = open(&disk);
    let (mut good, mut bad) = (store.log(group(1)).unwrap(), store.log(group(2)).unwrap());
    for log in [&mut good, &mut bad] {
        LogStore::write(log, &[write(vote(5, 1), commands(id(5, 1), 10, 50))]).unwrap();
    }
    for wrong in [
        write(vote(6, 1), commands(id(6, 12), 1, 50)),
        // A term that falls, behind a part of the log that would be cut.
        write(vote(6, 1), commands(id(4, 5), 1, 50)),
    ] {
        let error = LogStore::write(&mut bad, &[wrong]).unwrap_err();
        assert!(matches!(error, DurableError::NotConsecutive { .. }), "{error}");
        assert!(matches!(LogStore::write(&mut bad, &[]), Err(DurableError::Failed(_))));
        assert!(matches!(LogStore::recover(&mut bad), Err(DurableError::Failed(_))));
        LogStore::write(&mut good, &[write(vote(5, 1), Entries::empty())]).unwrap();
        drop(bad);
        // Nothing of it was done.
        bad = store.log(group(2)).unwrap();
        let found = Model::read(&mut bad).unwrap();
        assert_eq!((found.log.len(), found.hard_state.term), (10, Term::new(5)));
    }
}

#[tokio::test]
async fn a_disk_that_fails_fails_every_group_and_nothing_was_reported() {
    for (on, kind) in [
        (On::Sync, std::io::ErrorKind::Other),
        (On::Write, std::io::ErrorKind::Other),
        (On::Write, std::io::ErrorKind::StorageFull),
    ] {
        let disk = created();
        let store = open(&disk);
        let mut logs: Vec<_> = (0..5).map(|of| store.log(group(of)).unwrap()).collect();
        for log in &mut logs {
            LogStore::write(log, &[write(vote(1, 1), commands(id(1, 1), 5, 50))]).unwrap();
        }
        let before: Vec<_> = logs.iter_mut().map(|log| Model::read(log).unwrap()).collect();
        let batch = [write(vote(2, 2), commands(id(2, 6), 5, 50))];
        disk.fail(on, 0, kind);
        let waiting: Vec<_> = logs.iter_mut().map(|log| AsyncLogStore::write(log, &batch)).collect();
        for write in waiting {
            let error = write.await.unwrap_err();
            let is_told = matches!(error, DurableError::Io(_) | DurableError::Full | DurableError::Failed(_));
            assert!(is_told, "{error}");
        }
        disk.heal();
        assert!(matches!(LogStore::write(&mut logs[0], &batch), Err(DurableError::Failed(_))));
        assert!(matches!(store.log(group(9)), Err(GroupError::Log(DurableError::Failed(_)))));
        assert!(store.groups().is_err());
        drop((logs, store));
        let store = open(&disk);
        for (of, before) in before.iter().enumerate() {
            let found = read(&store, of as u64);
            let mut after = before.clone();
            after.apply(&batch[0]);
            assert!(found == *before || found == after, "{on:?}: group {of}");
        }
    }
}

#[test]
fn a_removed_group_keeps_its_vote_and_nothing_else() {
    let disk = created();
    let before = disk.ops_len();
    let store = open(&disk);
    let mut log = store.log(group(3)).unwrap();
    // More blocks than one transaction drops: what is asked for is nothing, but brings the journal into redb.
    for at in 0..1500 {
        LogStore::write(&mut log, &[write(vote(1, 1), commands(id(1, 1 + at), 1, 30))]).unwrap();
        LogStore::compact(&mut log, id(0, 0)).unwrap();
    }
    LogStore::write(&mut log, &[write(vote(7, 2), Entries::empty())]).unwrap();
    let mut other = store.log(group(4)).unwrap();
    LogStore::write(&mut other, &[write(vote(1, 1), commands(id(1, 1), 9, 30))]).unwrap();
    assert!(matches!(store.remove(group(3)), Err(GroupError::InUse { .. })));
    drop((log, other));
    let (written, syncs) = (disk.ops_len(), store.syncs());
    store.remove(group(3)).unwrap();
    assert!(store.syncs() - syncs >= 2, "in steps, so that nobody waits for long");
    assert_eq!(store.groups().unwrap(), [group(4)]);
    let removed = Model { hard_state: vote(7, 2).unwrap(), ..Model::default() };
    assert_eq!(read(&store, 3), removed);
    drop(store);
    // Wherever it is interrupted, the next start finishes it, or it has not begun.
    let ops = disk.ops();
    for cut in (written..=ops.len()).step_by(3) {
        let mut random = fastrand::Rng::with_seed(1);
        let image = after_loss(&[], &ops[..cut], LOSSES[cut % LOSSES.len()], &mut random);
        assert!(cut > before);
        let store = open(&Disk::of(image));
        let found = read(&store, 3);
        assert!(found == removed || found.log.len() == 1500, "cut {cut}: {} entries", found.log.len());
        assert_eq!(read(&store, 4).log.len(), 9);
    }
    let store = open(&disk);
    let mut log = store.log(group(3)).unwrap();
    LogStore::write(&mut log, &[write(vote(8, 1), commands(id(8, 1), 2, 30))]).unwrap();
    drop(log);
    assert_eq!(read(&store, 3).log.len(), 2);
    assert_eq!(store.groups().unwrap(), [group(3), group(4)]);
}

#[test]
fn one_log_is_a_store_with_one_group_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    let directory = log.directory();
    log.write(&[write(vote(3, 1), commands(id(3, 1), 4, 30))]).unwrap();
    drop(log);
    let store = DurableStore::open(dir.path(), IDENTITY).unwrap();
    assert_eq!((store.incarnation(), store.directory()), (2, directory));
    assert!(matches!(DurableStore::open(dir.path(), IDENTITY), Err(OpenError::InUse { .. })));
    assert_eq!(read(&store, 0).log.len(), 4);
    let mut log = store.log(group(1)).unwrap();
    LogStore::write(&mut log, &[write(vote(1, 1), Entries::empty())]).unwrap();
    drop((log, store));
    // The file is closed by then.
    let error = DurableLog::open(dir.path(), IDENTITY).unwrap_err();
    assert!(matches!(error, OpenError::SeveralGroups { .. }), "{error}");
    let store = DurableStore::open(dir.path(), IDENTITY).unwrap();
    store.remove(group(1)).unwrap();
    drop(store);
    let mut log = DurableLog::open(dir.path(), IDENTITY).unwrap();
    assert_eq!(Model::read(&mut log).unwrap().log.len(), 4);
}

#[tokio::test]
async fn a_thousand_groups_lie_in_one_file_and_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableStore::open(dir.path(), IDENTITY).unwrap();
    let mut writing = tokio::task::JoinSet::new();
    for of in 0..1000 {
        let mut log = store.log(group(of)).unwrap();
        writing.spawn(async move {
            let batch = [write(vote(1, 1), commands(id(1, 1), 1, 100))];
            AsyncLogStore::write(&mut log, &batch).await.unwrap();
        });
    }
    writing.join_all().await;
    assert!(store.syncs() < 500, "{}", store.syncs());
    drop(store);
    let store = DurableStore::open(dir.path(), IDENTITY).unwrap();
    assert_eq!(store.groups().unwrap().len(), 1000);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}
