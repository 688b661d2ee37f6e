//! Bytes that change by themselves: noticed at start or without consequence, never a silent loss.

use raft_core::host::{LogReader, LogStore};
use raft_core::{Entries, LogIndex};
use raft_driver_tokio::storage::{DurableError, DurableLog, OpenError};

use crate::disk::{Disk, Loss, Op, after_loss};
use crate::model::{IDENTITY, Model, commands, created, id, membership, owned, vote, write};

/// A disk with some history. The store is returned so that the caller decides how it ends.
fn filled() -> (Disk, DurableLog, Vec<Model>) {
    let disk = created();
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    let mut states = vec![Model::default()];
    let mut put = |entries| {
        let next = write(vote(1, 2), entries);
        log.write(std::slice::from_ref(&next)).unwrap();
        let mut state = states[states.len() - 1].clone();
        state.apply(&next);
        states.push(state);
    };
    put(membership(id(1, 1), 3));
    for at in 0..12 {
        put(commands(id(1, 2 + at * 64), 64, 256));
    }
    for at in 0..12 {
        put(commands(id(1, 770 + at), 1, 256));
    }
    put(Entries::empty());
    put(commands(id(1, 770), 100, 90));
    (disk, log, states)
}

/// Places to damage: the head of the file, everywhere else by samples, and the insides of the newest writes.
fn places(image: &[u8], ops: &[Op], random: &mut fastrand::Rng) -> Vec<usize> {
    let mut places: Vec<usize> = (0..60).chain(512..524).chain(1024..1036).chain(4096..4096 + 320).collect();
    places.extend((0..150).map(|_| random.usize(..image.len())));
    let writes = ops.iter().rev().filter_map(|op| match op {
        Op::Write(offset, data) => Some((*offset as usize, data.len())),
        _ => None,
    });
    for (offset, len) in writes.take(40) {
        places.extend((0..4).map(|_| offset + random.usize(..len)));
    }
    places
}

fn flip(image: &[u8], place: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut image = image.to_vec();
    image[place] ^= 1 << random.u8(..8);
    image
}

/// Opens damaged images and counts (refused, intact). Anything else must be in `tolerated`.
fn survey(image: &[u8], places: &[usize], intact: &Model, tolerated: &[Model]) -> (u32, u32, u32) {
    let mut random = fastrand::Rng::with_seed(5);
    let (mut refused, mut whole, mut short) = (0, 0, 0);
    for place in places {
        let disk = Disk::of(flip(image, *place, &mut random));
        match DurableLog::open_on(disk.layer(), IDENTITY) {
            Err(error) => {
                assert!(!matches!(error, OpenError::Io { .. } | OpenError::InUse { .. }), "{error}");
                refused += 1;
            }
            Ok(mut log) => match Model::read(&mut log) {
                Err(_) => refused += 1,
                Ok(found) if found == *intact => whole += 1,
                Ok(found) => {
                    assert!(tolerated.contains(&found), "a silent loss: byte {place}");
                    short += 1;
                }
            },
        }
    }
    (refused, whole, short)
}

#[test]
fn after_a_clean_close_no_flipped_bit_loses_anything() {
    let (disk, log, states) = filled();
    drop(log);
    let image = disk.image();
    let mut random = fastrand::Rng::with_seed(1);
    let places = places(&image, &disk.ops(), &mut random);
    let (refused, whole, short) = survey(&image, &places, &states[states.len() - 1], &[]);
    println!("{refused} refused, {whole} intact");
    assert!(refused > 100 && whole > 10 && short == 0, "{refused} {whole} {short}");
}

#[test]
fn after_a_kill_no_flipped_bit_loses_anything() {
    let (disk, log, states) = filled();
    let (image, ops) = (disk.image(), disk.ops());
    drop(log);
    let mut random = fastrand::Rng::with_seed(2);
    let places = places(&image, &ops, &mut random);
    let (refused, whole, short) = survey(&image, &places, &states[states.len() - 1], &[]);
    println!("{refused} refused, {whole} intact");
    assert!(refused > 100 && whole > 10 && short == 0, "{refused} {whole} {short}");
}

#[test]
fn rot_below_an_open_log_is_noticed_by_its_reader() {
    let disk = created();
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    let mut model = Model::default();
    // More than the store keeps in memory.
    for at in 0..12 {
        let next = write(vote(1, 2), commands(id(1, 1 + at * 8), 8, 800_000));
        log.write(std::slice::from_ref(&next)).unwrap();
        model.apply(&next);
    }
    let reader = log.reader();
    let len = disk.image().len();
    disk.rot((4096 + 2000..len).step_by(4096));
    let mut next = LogIndex::FIRST;
    let error = loop {
        match reader.read(next, LogIndex::LIMIT, 0) {
            Ok(found) => {
                let found = owned(&found);
                assert_eq!(found[..], model.log[next.get() as usize - 1..][..1], "what is returned is right");
                next = next.next();
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, DurableError::Damaged(_)), "{error}");
    let again = log.write(&[write(vote(2, 0), Entries::empty())]);
    assert!(matches!(again, Err(DurableError::Failed(_))));
}

#[test]
fn with_a_loss_of_power_at_most_the_last_write_is_at_stake() {
    let (disk, log, states) = filled();
    let ops = disk.ops();
    drop(log);
    let mut random = fastrand::Rng::with_seed(3);
    // The last witness was not synced.
    let image = after_loss(&[], &ops, Loss::All, &mut random);
    let places = places(&image, &ops, &mut random);
    let [.., before, last] = &states[..] else { unreachable!() };
    let (refused, whole, short) = survey(&image, &places, last, std::slice::from_ref(before));
    println!("{refused} refused, {whole} intact, {short} one write short");
    assert!(refused > 50 && whole > 10, "{refused} {whole}");
}

#[test]
fn an_older_state_behind_a_newer_first_page_is_noticed() {
    let (disk, log, _) = filled();
    drop(log);
    let older = disk.image();
    let mut log = DurableLog::open_on(disk.layer(), IDENTITY).unwrap();
    log.write(&[write(vote(9, 1), Entries::empty())]).unwrap();
    drop(log);
    let image = [&disk.image()[..4096], &older[4096..]].concat();
    let error = DurableLog::open_on(Disk::of(image).layer(), IDENTITY).unwrap_err();
    assert!(matches!(error, OpenError::RolledBack { .. }), "{error}");
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let (disk, log, _) = filled();
    drop(log);
    let image = disk.image();
    for len in [0, 1, 39, 40, 4095, 4096, 4097, 4200, 8192, 100_000, image.len() - 4096, image.len() - 1] {
        let error = DurableLog::open_on(Disk::of(image[..len].to_vec()).layer(), IDENTITY).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. } | OpenError::NotALog { .. }), "{len}: {error}");
    }
}
