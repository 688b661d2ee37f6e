//! Files that are cut short, damaged or made up: an error or a shorter replay, never a panic, never much memory.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use raft_core::host::recording::{Ending, MAGIC, RecordingError, Replay, ReplayError, VERSION};
use serde_json::Value;

use super::support::Cluster;
use super::world::{busy_files, options};
use super::{frames, replay, seal};

/// A short file that begins with a checkpoint, and one that begins with a start.
fn short_files() -> [Vec<u8>; 2] {
    let mut files = busy_files(options());
    let start = files.swap_remove(0);
    [start, files.swap_remove(3)]
}

/// A file of which only the beginning is sound replays that beginning.
fn is_a_beginning(damaged: &[u8], file: &[u8]) {
    let from = damaged.iter().zip(file).take_while(|(found, sound)| found == sound).count();
    assert!(from < file.len(), "it is damaged");
    let (all, _) = replay(file).expect("a sound file");
    match replay(damaged) {
        Ok((steps, Some(Ending::Damaged { offset }))) => {
            assert!(offset <= from, "the damage at {from} is noticed at {offset}");
            // Of the last one nobody knows what should have come out.
            let verified = steps.iter().filter(|step| step.verified).count();
            assert!(verified < all.len() && verified + 1 == steps.len());
            assert_eq!(steps[..verified], all[..verified]);
        }
        Ok((steps, Some(Ending::Open))) => {
            assert!(from == damaged.len() && steps.len() <= all.len());
        }
        Err(ReplayError::Recording(
            RecordingError::Damaged | RecordingError::NotARecording | RecordingError::Release { .. },
        )) => {
            let (header, frames) = frames(file);
            assert!(from < header.len() + frames[0].len(), "only damage to the beginning costs all of it");
        }
        other => panic!("damage at {from}: {other:?}"),
    }
}

#[test]
fn a_file_that_was_cut_short_replays_to_there() {
    for file in short_files() {
        for cut in (0..file.len()).rev().step_by(7).chain(0..40) {
            is_a_beginning(&file[..cut], &file);
            // As a file system may leave it.
            let zeros = [&file[..cut], &[0; 100]].concat();
            if !zeros.starts_with(&file) {
                is_a_beginning(&zeros, &file);
            }
        }
    }
}

#[test]
fn a_byte_that_was_altered_anywhere_is_noticed() {
    for file in short_files() {
        for at in (0..file.len()).step_by(5).chain(0..80) {
            let mut damaged = file.clone();
            damaged[at] ^= 1 << (at % 8);
            is_a_beginning(&damaged, &file);
        }
    }
}

#[test]
fn what_follows_the_end_is_noticed() {
    let [file, _] = short_files();
    let (steps, ending) = replay(&[&file[..], b"more"].concat()).expect("the file itself is sound");
    assert_eq!(ending, Some(Ending::Damaged { offset: file.len() }));
    assert!(steps.iter().all(|step| step.verified));
}

#[test]
fn other_files_are_no_recordings() {
    for other in [&b""[..], b"seed = 7\n", &MAGIC[..7]] {
        let found = Replay::open(other.to_vec().into(), crc32fast::hash);
        assert_eq!(found.err(), Some(RecordingError::NotARecording));
    }
    let found = Replay::open(MAGIC.to_vec().into(), crc32fast::hash);
    assert_eq!(found.err(), Some(RecordingError::Damaged));
}

#[test]
fn recordings_of_another_release_are_refused_by_name() {
    let [file, _] = short_files();
    let mut format = file.clone();
    format[8] += 1;
    let mut release = file.clone();
    release[11] = b'9';
    for (file, expected) in [(format, VERSION + 1), (release, VERSION)] {
        let found = Replay::open(file.into(), crc32fast::hash).expect_err("another release");
        let RecordingError::Release { format, release } = &found else { panic!("{found}") };
        assert_eq!((*format, release.len()), (expected, env!("CARGO_PKG_VERSION").len()));
    }
}

#[test]
fn frames_out_of_place_make_no_sense() {
    let [start, checkpoint] = short_files();
    let ((header, first), (_, second)) = (frames(&start), frames(&checkpoint));
    let found = |frames: &[&[u8]]| match replay(&[&header[..], &frames.concat()].concat()) {
        Err(ReplayError::Recording(RecordingError::Senseless { offset, .. })) => offset - header.len(),
        other => panic!("it makes sense: {other:?}"),
    };
    assert_eq!(found(&[&first[1]]), 0, "a step without a node");
    assert_eq!(found(&[&first[0], &first[0]]), first[0].len(), "a second start");
    assert_eq!(found(&[&first[0], &second[0]]), first[0].len(), "another node");
}

/// Whoever knows the format can write anything. It ends in an error, in a difference, or in an assertion of the node.
#[test]
fn a_file_that_was_altered_on_purpose_does_no_harm() {
    let (mut refused, mut differs, mut same, mut asserted) = (0, 0, 0, 0);
    for file in short_files() {
        let (header, sound) = frames(&file);
        for at in 0..sound.len().min(12) {
            for byte in (12..sound[at].len()).step_by(if at == 0 { 3 } else { 11 }) {
                for with in [0x01, 0x80, 0xff] {
                    let mut altered = sound.clone();
                    altered[at][byte] ^= with;
                    seal(&mut altered[at]);
                    let file = [&header[..], &altered.concat()].concat();
                    // The assertions of an impossible node say what they found; here that is no news.
                    match catch_unwind(AssertUnwindSafe(|| replay(&file))) {
                        Ok(Err(ReplayError::Recording(_))) => refused += 1,
                        Ok(Err(ReplayError::Diverged(_))) => differs += 1,
                        Ok(Ok(_)) => same += 1,
                        Err(_) => asserted += 1,
                    }
                }
            }
        }
    }
    assert!(refused > 100 && differs > 100 && same > 0, "{refused} refused, {differs} differ, {same} same");
    assert!(asserted * 20 < refused + differs + same, "{asserted} assertions");
}

/// The names and kinds of everything in a value, wherever it lies.
fn layout(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Null => "nothing",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "fields",
    };
    found.insert(format!("{at}: {kind}"));
    match value {
        Value::Array(values) => values.iter().for_each(|value| layout(value, &format!("{at}/*"), found)),
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| layout(value, &format!("{at}/{name}"), found));
        }
        _ => {}
    }
}

/// A checkpoint is a node's own memory: if this fails, a node keeps something else than before, so give recordings another
/// [`VERSION`], and write the new number here.
#[test]
fn what_a_node_keeps_is_of_this_version() {
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &["a", "b"]);
    let mut found = BTreeSet::new();
    for server in 1..=2 {
        let node = serde_json::to_value(&cluster.servers[&server].node);
        layout(&node.expect("a node can be written in other formats"), "", &mut found);
    }
    let text: String = found.iter().map(|line| format!("{line}\n")).collect();
    assert_eq!((VERSION, crc32fast::hash(text.as_bytes())), (8, 407_646_958), "{text}");
}
