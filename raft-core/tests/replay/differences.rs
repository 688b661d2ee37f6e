//! What is not what was recorded is found, at its first step.

use raft_core::host::recording::{Divergence, RecorderOptions, ReplayError};

use super::world::{busy_files, options};
use super::{frames, replay, seal};

/// Where a step's frame says how many actions were taken before it, and whether all: behind checksum, length and kind.
const ACTIONS: std::ops::Range<usize> = 13..21;
const DRAINED: usize = 21;

fn one_file() -> (Vec<u8>, Vec<Vec<u8>>) {
    let files = busy_files(RecorderOptions { file_bytes_max: u64::MAX, ..options() });
    assert_eq!(files.len(), 1);
    frames(&files[0])
}

fn actions(frame: &[u8]) -> u64 {
    u64::from_le_bytes(frame[ACTIONS].try_into().expect("eight bytes"))
}

fn difference(header: &[u8], frames: &[Vec<u8>]) -> Option<Divergence> {
    match replay(&[header, &frames.concat()].concat()) {
        Ok(_) => None,
        Err(ReplayError::Diverged(divergence)) => Some(*divergence),
        Err(other) => panic!("{other}"),
    }
}

fn first_difference((header, frames): (Vec<u8>, Vec<Vec<u8>>)) -> Divergence {
    difference(&header, &frames).expect("it differs")
}

#[test]
fn another_seed_draws_other_timeouts() {
    let (header, mut frames) = one_file();
    // Behind the kind: the node's id, then the seed.
    frames[0][13 + 8] ^= 1;
    seal(&mut frames[0]);
    let found = first_difference((header, frames));
    assert!(found.replayed.event.is_some(), "{found}");
}

#[test]
fn a_step_that_is_missing_is_missed() {
    let (header, frames) = one_file();
    // What a step caused stands in the frame behind it.
    let causes = (1..frames.len() - 1).filter(|at| actions(&frames[at + 1]) > 2);
    let mut missed = 0;
    for at in causes.take(10) {
        let mut shorter = frames.clone();
        shorter.remove(at);
        let found = first_difference((header.clone(), shorter));
        // The beginning is before step 0, which is in frame 1.
        assert!(found.replayed.number + 2 >= at as u64, "{found}");
        missed += 1;
    }
    assert_eq!(missed, 10);
}

#[test]
fn actions_taken_at_another_time_are_others() {
    let (header, mut frames) = one_file();
    let at = (1..frames.len()).find(|at| actions(&frames[*at]) > 3).expect("several at once");
    let fewer = actions(&frames[at]) - 1;
    frames[at][ACTIONS].copy_from_slice(&fewer.to_le_bytes());
    seal(&mut frames[at]);
    let found = first_difference((header, frames));
    assert_eq!(found.replayed.number + 2, at as u64, "it is found at once: {found}");
    assert_eq!((found.recorded.actions, found.replayed.actions.len() as u64 >= fewer), (fewer, true));
}

#[test]
fn an_action_more_or_less_is_one_too_many_or_too_few() {
    for (claimed, drained) in [(u64::MAX, 0), (u64::MAX, 1), (0, 1)] {
        let (header, mut frames) = one_file();
        let at = (1..frames.len())
            .find(|at| actions(&frames[*at]) > 1 && frames[*at][DRAINED] == 1)
            .expect("all that there is, and more than one");
        let real = actions(&frames[at]);
        frames[at][ACTIONS].copy_from_slice(&claimed.to_le_bytes());
        frames[at][DRAINED] = drained;
        seal(&mut frames[at]);
        let found = first_difference((header, frames));
        assert_eq!(found.replayed.number + 2, at as u64, "{found}");
        assert_eq!(found.found.actions, if claimed == 0 { 1 } else { real }, "{found}");
    }
}

#[test]
fn what_was_left_is_told_from_what_was_not_there() {
    let (header, frames) = one_file();
    let late: Vec<usize> = (1..frames.len()).filter(|at| frames[*at][DRAINED] == 0).collect();
    assert!(late.len() > 10, "actions are left for later");
    let mut left = 0;
    for at in late.iter().copied().take(50) {
        let mut altered = frames.clone();
        altered[at][DRAINED] = 1;
        seal(&mut altered[at]);
        // There may have been nothing more, and nobody asked.
        let Some(found) = difference(&header, &altered) else { continue };
        left += 1;
        assert_eq!(found.replayed.number + 2, at as u64, "{found}");
        assert_eq!(found.found.actions, found.recorded.actions + 1, "the one too many is shown: {found}");
    }
    assert!(left > 0, "nothing was ever left");
}
