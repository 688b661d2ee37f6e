//! A disk that fails: a typed error, nothing more from that store, and nothing lost once it is opened again.

use std::io;

use raft_core::host::{LogReader, LogStore};
use raft_core::{Entries, LogIndex};
use raft_driver_tokio::storage::{DurableError, DurableLog};

use crate::disk::{Disk, Loss, On, after_loss};
use crate::model::{IDENTITY, Model, commands, created, id, read_all, vote, write};

/// A log with some content on a disk that works.
fn filled() -> (Disk, DurableLog, Model) {
    filled_with(3000)
}

/// Of entries of so many bytes: of small ones, the last are in the journal alone.
fn filled_with(bytes: usize) -> (Disk, DurableLog, Model) {
    let disk = created();
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    let mut model = Model::default();
    for at in 0..20 {
        let next = write(vote(1, 2), commands(id(1, 1 + at * 30), 30, bytes));
        log.write(std::slice::from_ref(&next)).unwrap();
        model.apply(&next);
    }
    (disk, log, model)
}

#[test]
fn a_failed_write_or_sync_is_final() {
    let (large, small) = (20_000, 20);
    for (on, bytes, kind, is_full, before) in [
        (On::Write, large, io::ErrorKind::Other, false),
        (On::Sync, large, io::ErrorKind::Other, false),
        (On::Write, large, io::ErrorKind::StorageFull, true),
        (On::SetLen, large, io::ErrorKind::StorageFull, true),
        (On::Sync, large, io::ErrorKind::QuotaExceeded, true),
        // In the journal.
        (On::Write, small, io::ErrorKind::Other, false),
        (On::Sync, small, io::ErrorKind::Other, false),
        (On::Write, small, io::ErrorKind::StorageFull, true),
    ]
    .into_iter()
    .flat_map(|fault| [(fault, 3000), (fault, 40)])
    .map(|((on, bytes, kind, is_full), before)| (on, bytes, kind, is_full, before))
    {
        // The fault hits each of the calls of a write in turn, the last of them too.
        for working in 0.. {
            let (disk, mut log, model) = filled_with(before);
            let next = write(vote(2, 1), commands(id(2, 601), 100, bytes));
            disk.fail(on, working, kind);
            let Err(error) = log.write(std::slice::from_ref(&next)) else {
                assert!(working > 0, "{on:?} is needed once at least");
                break;
            };
            assert_eq!(matches!(error, DurableError::Full), is_full, "{on:?}: {error}");
            assert_eq!(matches!(error, DurableError::Io(_)), !is_full, "{on:?}: {error}");
            assert_eq!(
                error.to_string().contains("reboot"),
                !is_full,
                "what to do before the next start: {error}"
            );
            // Also when the disk works again.
            disk.heal();
            let reader = log.reader();
            let again = log.write(&[write(vote(3, 1), Entries::empty())]);
            assert!(matches!(again, Err(DurableError::Failed(_))));
            assert!(matches!(log.write(&[]), Err(DurableError::Failed(_))));
            assert!(matches!(log.recover(), Err(DurableError::Failed(_))));
            assert!(matches!(reader.read(LogIndex::FIRST, LogIndex::FIRST, 1), Err(DurableError::Failed(_))));
            drop((log, reader));

            let mut unreported = model.clone();
            unreported.apply(&next);
            // Also if what was not synced is gone.
            let lost = after_loss(&[], &disk.ops(), Loss::All, &mut fastrand::Rng::with_seed(1));
            for image in [disk.image(), lost] {
                let mut log = DurableLog::open_on(Disk::of(image).layer(), IDENTITY).unwrap();
                let found = Model::read(&mut log).unwrap();
                assert!(found == model || found == unreported, "{on:?} after {working}");
            }
        }
    }
}

#[test]
fn nothing_is_written_or_synced_after_a_failure() {
    // Of small entries: the journal's sync. Of large ones: redb's own.
    for bytes in [20, 20_000] {
        for on in [On::Write, On::Sync] {
            let (disk, mut log, model) = filled_with(40);
            let next = write(vote(2, 1), commands(id(2, 601), 10, bytes));
            disk.fail(on, 0, io::ErrorKind::Other);
            log.write(std::slice::from_ref(&next)).unwrap_err();
            disk.heal();
            let before = disk.ops_len();
            drop(log);
            assert_eq!(disk.ops_len(), before, "{on:?}, entries of {bytes} bytes: the close went on");

            // The next store on the same file knows nothing of that.
            let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
            let mut unreported = model.clone();
            unreported.apply(&next);
            let found = Model::read(&mut log).unwrap();
            assert!(found == model || found == unreported, "{on:?}, entries of {bytes} bytes");
            log.write(&[write(vote(3, 1), Entries::empty())]).unwrap();
        }
    }
}

#[test]
fn a_start_that_fails_while_the_journal_is_emptied_loses_nothing() {
    let (disk, log, model) = filled_with(40);
    let image = disk.image();
    drop(log);
    for on in [On::Write, On::SetLen, On::Sync] {
        for working in 0.. {
            let disk = Disk::of(image.clone());
            disk.fail(on, working, io::ErrorKind::StorageFull);
            let opened = DurableLog::open_on(disk.layer(), IDENTITY);
            let has_failed = opened.is_err();
            drop(opened);
            disk.heal();
            let lost = after_loss(&image, &disk.ops(), Loss::All, &mut fastrand::Rng::with_seed(1));
            for image in [disk.image(), lost] {
                let mut log = DurableLog::open_on(Disk::of(image).layer(), IDENTITY).unwrap();
                assert_eq!(Model::read(&mut log).unwrap(), model, "{on:?} after {working}");
            }
            if !has_failed {
                assert!(on == On::SetLen || working > 0, "{on:?} is needed once at least");
                break;
            }
        }
    }
}

#[test]
fn a_failed_read_is_final() {
    let (disk, log, model) = filled();
    drop(log);
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    // More than the store keeps in memory, so that a read reaches the disk.
    for at in 0..12 {
        log.write(&[write(None, commands(id(1, 601 + at * 8), 8, 800_000))]).unwrap();
    }
    disk.fail(On::Read, 0, io::ErrorKind::Other);
    let error = read_all(&log.reader()).unwrap_err();
    assert!(matches!(error, DurableError::Io(_)), "{error}");
    disk.heal();
    assert!(matches!(log.write(&[write(vote(3, 1), Entries::empty())]), Err(DurableError::Failed(_))));
    drop(log);
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    let found = Model::read(&mut log).unwrap();
    assert_eq!(found.log[..600], model.log[..]);
    assert_eq!(found.log.len(), 600 + 12 * 8);
}

#[test]
fn entries_that_leave_a_gap_are_refused() {
    for first in [id(1, 602), id(1, 0x7000_0000_0000_0000)] {
        let (disk, mut log, model) = filled();
        let error = log.write(&[write(None, Entries::noop(first))]).unwrap_err();
        assert!(matches!(error, DurableError::NotConsecutive { .. }), "{error}");
        assert!(matches!(log.recover(), Err(DurableError::Failed(_))));
        drop(log);
        let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
        assert_eq!(Model::read(&mut log).unwrap(), model);
    }
    let (_, mut log, _) = filled();
    log.write(&[write(vote(5, 0), commands(id(5, 601), 1, 1))]).unwrap();
    let error = log.write(&[write(None, commands(id(4, 602), 1, 1))]).unwrap_err();
    assert!(matches!(error, DurableError::NotConsecutive { .. }), "a term that falls: {error}");
}
