//! What servers recorded of themselves, done again: each has to do what it did, step by step.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use raft_sim::replay_recording;
use serde::{Deserialize, Serialize};

/// What came of all recordings of a run.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replayed {
    pub(crate) files: u64,
    pub(crate) steps: u64,
    /// Files in which a server does something else, and what.
    pub(crate) wrong: Vec<String>,
}

/// Where servers record.
pub(crate) fn directory(run: &Path) -> PathBuf {
    run.join("recordings")
}

/// Replays every recording of a run, which may be none. One that a `kill -9` cut is replayed as far as it goes.
pub(crate) fn replay(run: &Path, mut step: impl FnMut()) -> io::Result<Replayed> {
    let mut replayed = Replayed::default();
    let directory = directory(run);
    if !directory.is_dir() {
        return Ok(replayed);
    }
    for entry in fs::read_dir(&directory)? {
        let path = entry?.path();
        let file = fs::read(&path)?;
        // A server that was killed before it had written anything.
        if !raft_sim::is_recording(&file) {
            continue;
        }
        replayed.files += 1;
        match replay_recording(file.into(), &mut |_| replayed.steps += 1) {
            Ok(_) => {}
            Err(failure) => {
                replayed.wrong.push(format!("{}: {failure}", path.display()));
            }
        }
        step();
    }
    Ok(replayed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_without_recordings_is_well_and_damaged_ones_are_told() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(replay(run.path(), || ()).unwrap(), Replayed::default());
        fs::create_dir(directory(run.path())).unwrap();
        fs::write(directory(run.path()).join("n1.0.0.recording"), b"").unwrap();
        assert_eq!(replay(run.path(), || ()).unwrap(), Replayed::default());
        let magic = raft_core::host::recording::MAGIC;
        fs::write(directory(run.path()).join("n2.0.0.recording"), [&magic[..], &[0xff; 64]].concat())
            .unwrap();
        let replayed = replay(run.path(), || ()).unwrap();
        assert_eq!((replayed.files, replayed.wrong.len()), (1, 1), "{replayed:?}");
    }
}
