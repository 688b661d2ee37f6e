//! What a run records replays, node by node and file by file, and recording changes nothing.

use std::collections::BTreeMap;

use raft_core::NodeId;
use raft_core::host::recording::{Ending, RecorderOptions, RecordingError, RecordingPart, ReplayError};
use raft_sim::{Options, ReplayFailure, Simulation, Summary, is_recording, replay_recording};

/// By server, life and place in that life.
type Files = BTreeMap<(NodeId, u32, usize), Vec<u8>>;

fn short() -> Simulation {
    let options = Options { seconds_min: 4, operations_min: 50, ..Options::default() };
    Simulation { options, ..Simulation::default() }
}

fn record(seed: u64, file_bytes_max: u64) -> (Summary, Files) {
    let options = RecorderOptions { file_bytes_max, ..RecorderOptions::new(crc32fast::hash) };
    let mut files = Files::new();
    let mut write = |node: NodeId, life: u32, part: RecordingPart<'_>| {
        let so_far = files.range((node, life, 0)..=(node, life, usize::MAX)).count();
        let place = if part.begins { so_far } else { so_far - 1 };
        files.entry((node, life, place)).or_default().extend_from_slice(part.bytes);
    };
    let summary = short().record(seed, options, &mut write);
    (summary.unwrap_or_else(|failure| panic!("{failure}")), files)
}

#[test]
fn every_life_of_every_server_replays() {
    let (mut lives, mut rotations, mut actions) = (0, 0, 0);
    for seed in 0..12 {
        let (summary, files) = record(seed, 20_000);
        let plain = short().run(seed).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(summary, plain, "seed {seed}: recording changes nothing");
        let (mut steps, mut next) = (0, 0);
        for ((node, life, place), file) in files {
            assert!(is_recording(&file));
            let name = format!("seed {seed}, n{node}, life {life}, file {place}");
            let verified = replay_recording(file.into(), &mut |_| {})
                .unwrap_or_else(|failure| panic!("{name}: {failure}"));
            assert_eq!(verified.ending, Ending::Complete, "{name}");
            let expected = if place == 0 { 0 } else { next };
            assert_eq!(verified.steps_before, expected, "{name}: nothing is missing");
            next = expected + verified.steps;
            steps += verified.steps;
            actions += verified.actions;
            lives += u64::from(place == 0 && life > 0);
            rotations += u64::from(place > 0);
        }
        assert_eq!(steps, summary.events, "seed {seed}");
    }
    assert!(lives > 5 && rotations > 100 && actions > 10_000, "{lives} {rotations} {actions}");
}

#[test]
fn a_replay_tells_what_happens() {
    let (_, files) = record(1, u64::MAX);
    let file = files.into_values().next().expect("a file");
    let mut text = String::new();
    let verified = replay_recording(file.clone().into(), &mut |step| text += &format!("{step}\n"));
    let verified = verified.expect("it replays");
    assert!(verified.to_string().contains("as recorded, to the end of the recording"));
    for word in ["starts", "#0 Bootstrap", " ← n", "AppendEntries", "Persisted", "Write { id: 1", "Apply("]
    {
        assert!(text.contains(word), "no {word}");
    }
    assert!(text.lines().count() as u64 > verified.steps + verified.actions);
    assert!(text.lines().all(|line| line.chars().count() <= 440));

    let half = &file[..file.len() / 2];
    let shorter = replay_recording(half.to_vec().into(), &mut |_| {}).expect("half of it replays");
    assert!(matches!(shorter.ending, Ending::Damaged { .. }) && shorter.steps < verified.steps);
    let other = replay_recording(b"{\"transcript\":1}".to_vec().into(), &mut |_| {});
    assert_eq!(other, Err(ReplayFailure::Replay(ReplayError::Recording(RecordingError::NotARecording))));
}

/// Records a run by the command line, and replays a file of it as it is, and cut short. The status tells.
#[cfg(feature = "cli")]
#[test]
fn the_command_line_records_and_replays() {
    use std::process::{Command, Output};

    let directory = std::env::temp_dir().join(format!("recordings-{}", std::process::id()));
    let sim = |arguments: &[&str]| -> Output {
        Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().expect("the program runs")
    };
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let run = ["run", "--seed", "1", "--seconds", "4", "--operations", "50"];
    let recorded = sim(&[&run[..], &["--record", &directory.to_string_lossy()]].concat());
    assert!(recorded.status.success(), "{recorded:?}");

    let file = directory.join("n1.0.0.recording");
    let replayed = sim(&["replay", &file.to_string_lossy()]);
    assert!(replayed.status.success() && text(&replayed).contains("are as recorded"), "{replayed:?}");
    let traced = sim(&["replay", &file.to_string_lossy(), "--trace"]);
    assert!(traced.status.success() && text(&traced).contains("#0 Bootstrap"));
    let lines = directory.join("steps.ndjson");
    let traced = sim(&["replay", &file.to_string_lossy(), "--trace", &lines.to_string_lossy()]);
    assert!(traced.status.success(), "{traced:?}");
    let first = std::fs::read_to_string(&lines).expect("the steps were written");
    assert!(first.starts_with("{\"number\":0,\"event\":null,"), "{}", first.lines().next().unwrap_or(""));

    let whole = std::fs::read(&file).expect("the recording");
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("a file can be cut");
    let cut = sim(&["replay", &file.to_string_lossy()]);
    assert!(cut.status.code() == Some(2) && text(&cut).contains("cut short or damaged"), "{cut:?}");
    std::fs::write(&file, &whole[..20]).expect("a file can be cut");
    assert_eq!(sim(&["replay", &file.to_string_lossy()]).status.code(), Some(2), "nothing is left of it");
    std::fs::remove_dir_all(&directory).expect("what was recorded here");
}
