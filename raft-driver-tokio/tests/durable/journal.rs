//! What is in the journal and not yet in redb: as durable as what is, never replayed twice or out of turn, and no part of it
//! is lost silently.

use raft_core::host::{LogReader, LogStore};
use raft_core::{Entries, LogIndex};
use raft_driver_tokio::storage::{DurableLog, OpenError};

use crate::disk::{Disk, Loss, Op, after_loss};
use crate::model::{IDENTITY, Model, commands, created, id, owned, vote, write};

const PAGE: usize = 4096;

/// A log that has something in redb, and then so many appends of one page each in its journal.
fn filled(appends: u64) -> (Disk, DurableLog, Vec<Model>) {
    let disk = created();
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    let mut states = vec![Model::default()];
    for at in 0..=appends {
        let next = write(vote(1, 2), commands(id(1, 1 + at * 2), 2, 300));
        log.write(std::slice::from_ref(&next)).unwrap();
        let mut state = states[states.len() - 1].clone();
        state.apply(&next);
        states.push(state);
    }
    (disk, log, states)
}

/// Where frames were written, without marks and zeros.
fn frames(ops: &[Op]) -> Vec<usize> {
    let frames = ops.iter().filter_map(|op| match op {
        Op::Write(offset, data) if data.len() == PAGE && data.iter().any(|byte| *byte != 0) => {
            Some(*offset as usize)
        }
        _ => None,
    });
    let mut frames: Vec<_> = frames.collect();
    // redb begins far behind them.
    frames.retain(|at| (PAGE..8 * PAGE).contains(at));
    frames
}

fn open(image: Vec<u8>) -> Result<Model, OpenError> {
    let mut log = DurableLog::open_on(Disk::of(image).layer(), IDENTITY)?;
    Ok(Model::read(&mut log).expect("it was opened"))
}

#[test]
fn readers_and_restarts_find_what_only_the_journal_has() {
    let (disk, mut log, states) = filled(5);
    assert_eq!(
        frames(&disk.ops()),
        [1, 2, 3, 4, 5].map(|page| page * PAGE),
        "one page each, one after the other"
    );
    let last = &states[states.len() - 1];
    assert_eq!(Model::read(&mut log).unwrap(), *last);
    // Across what redb has and what it has not, and within.
    let reader = log.reader();
    for from in 1..=13_usize {
        for through in from..=13 {
            let found =
                reader.read(LogIndex::new(from as u64), LogIndex::new(through as u64), u64::MAX).unwrap();
            assert_eq!(owned(&found), last.log[from.min(13) - 1..through.min(12)], "{from} to {through}");
        }
    }
    assert_eq!(reader.read(LogIndex::FIRST, LogIndex::LIMIT, 0).unwrap().len(), 1);
    // A process that is killed leaves it there; one that ends in order does not.
    assert_eq!(open(disk.image()).unwrap(), *last);
    drop((log, reader));
    let closed = disk.ops();
    assert!(closed.iter().rev().take(5).any(|op| matches!(op, Op::Sync)), "the end is a commit");
    assert_eq!(open(disk.image()).unwrap(), *last);
}

#[test]
fn of_what_rots_in_the_journal_nothing_is_lost_silently() {
    let (disk, log, states) = filled(5);
    let (image, ops) = (disk.image(), disk.ops());
    drop(log);
    let last = &states[states.len() - 1];
    for (number, at) in frames(&ops).into_iter().enumerate() {
        for byte in (0..900).step_by(7) {
            for lost in [None, Some(Loss::All)] {
                // With a loss of power, the mark behind the last frame is lost too.
                let mut random = fastrand::Rng::with_seed(9);
                let mut image = lost.map_or(image.clone(), |loss| after_loss(&[], &ops, loss, &mut random));
                image[at + byte] ^= 1 << (byte % 8);
                match open(image) {
                    Err(OpenError::RolledBack { found, witnessed, .. }) => assert!(found < witnessed),
                    Err(error) => panic!("frame {number}, byte {byte}: {error}"),
                    // Behind the frame's end, within its page.
                    Ok(found) if found == *last => assert!(byte > 600, "byte {byte} is looked at"),
                    Ok(found) => {
                        assert!(lost.is_some() && number == 4, "frame {number}, byte {byte}: a silent loss");
                        assert_eq!(found, states[states.len() - 2], "one write short");
                    }
                }
            }
        }
    }
}

#[test]
fn what_former_laps_and_lives_left_is_never_replayed() {
    let (disk, log, _) = filled(60);
    // Several laps, the last of them in the midst of what the one before has left.
    assert!(disk.ops().iter().filter(|op| matches!(op, Op::Write(at, _) if *at == PAGE as u64)).count() > 3);
    let before = disk.image();
    drop(log);
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    // Another term takes the place of what the old frames say.
    log.write(&[write(vote(2, 1), commands(id(2, 3), 1, 10))]).unwrap();
    log.write(&[write(None, commands(id(2, 4), 1, 10))]).unwrap();
    let expected = Model::read(&mut log).unwrap();
    assert_eq!(expected.log.len(), 4);
    assert_eq!(open(disk.image()).unwrap(), expected);
    // Also where a frame of the life before lies at the very place where the next one would be.
    let mut image = disk.image();
    let of_life_before = before[3 * PAGE..5 * PAGE].to_vec();
    let next = frames(&disk.ops()).last().unwrap() + PAGE;
    image[next + PAGE..next + 3 * PAGE].copy_from_slice(&of_life_before);
    assert_eq!(open(image).unwrap(), expected);
}

#[test]
fn a_command_that_looks_like_a_frame_is_a_command() {
    // A command of several pages, so that what a client wrote lies where frames begin in a later lap: a frame of this very
    // file, as far as a client could know it, with every sequence that could be the next.
    let (disk, mut log, _) = filled(3);
    let frame = disk.image()[PAGE..2 * PAGE].to_vec();
    let mut forged = Vec::new();
    for sequence in 0..8_u64 {
        let mut page = frame.clone();
        // All but the key, which never leaves the disk.
        page[8..16].copy_from_slice(&[0x5a; 8]);
        page[16..24].copy_from_slice(&sequence.to_le_bytes());
        let length = u32::from_le_bytes([page[4], page[5], page[6], page[7]]) as usize;
        let sum = crc32fast::hash(&page[4..length]);
        page[..4].copy_from_slice(&sum.to_le_bytes());
        forged.extend_from_slice(&page);
    }
    // Wherever its pages come to lie.
    for shift in (0..PAGE).step_by(61) {
        let mut command = vec![0; shift];
        command.extend_from_slice(&forged);
        let last = log.recover().unwrap().last.index.get();
        let entries = Entries::commands(id(1, last + 1), &[command].iter().collect());
        log.write(&[write(None, entries)]).unwrap();
        log.compact(id(0, 0)).unwrap();
        log.write(&[write(None, commands(id(1, last + 2), 1, 5))]).unwrap();
        if shift % 5 == 0 {
            assert_eq!(open(disk.image()).unwrap(), Model::read(&mut log).unwrap());
        }
    }
}

/// What a leader's change does to a follower's log, over and over.
#[test]
fn readers_never_see_a_log_that_never_was() {
    let disk = created();
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    log.write(&[write(vote(1, 1), commands(id(1, 1), 9, 10))]).unwrap();
    let reader = log.reader();
    let writer = std::thread::spawn(move || {
        for term in 2..600 {
            // The first takes the place of what the last term has left, in redb; the second is in the journal.
            log.write(&[write(vote(term, 1), commands(id(term, 10), 1, 10))]).unwrap();
            log.write(&[write(None, commands(id(term, 11), 1, 10))]).unwrap();
        }
    });
    while !writer.is_finished() {
        let found = owned(&reader.read(LogIndex::new(9), LogIndex::LIMIT, u64::MAX).unwrap());
        if let [_, tenth, eleventh] = &found[..] {
            assert_eq!(tenth.id().term, eleventh.id().term, "of one leader");
        }
    }
    writer.join().unwrap();
}
