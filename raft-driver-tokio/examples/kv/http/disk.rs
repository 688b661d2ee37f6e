//! What a node's data takes on its disk, and how much is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How long figures are good for: many may watch, and a directory is read for each.
const FRESH: Duration = Duration::from_millis(900);
/// Directories within directories that are looked into.
const DEPTH_MAX: u32 = 4;

/// In bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Figures {
    /// Everything but snapshots.
    pub(crate) log_bytes: u64,
    pub(crate) snapshot_bytes: u64,
    /// What the file system still has for this process, where that can be asked.
    pub(crate) free_bytes: Option<u64>,
}

/// A data directory.
#[derive(Debug)]
pub(crate) struct Disk {
    data: PathBuf,
    snapshots: PathBuf,
    last: Mutex<Option<(Instant, Figures)>>,
}

impl Disk {
    pub(crate) fn new(data: PathBuf, snapshots: PathBuf) -> Self {
        Self { data, snapshots, last: Mutex::new(None) }
    }

    /// Reads directories: not for a thread that must not wait.
    pub(crate) fn figures(&self) -> Figures {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, figures)) = last.filter(|(at, _)| at.elapsed() < FRESH) {
            return figures;
        }
        let (all, snapshot_bytes) = (bytes_in(&self.data, 0), bytes_in(&self.snapshots, 0));
        let log_bytes = all.saturating_sub(snapshot_bytes);
        let figures =
            Figures { log_bytes, snapshot_bytes, free_bytes: fs4::available_space(&self.data).ok() };
        *last = Some((Instant::now(), figures));
        figures
    }
}

/// What the files of a directory take together. What goes away meanwhile, or cannot be read, counts nothing.
fn bytes_in(directory: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_file() => found.len(),
        Ok(found) if found.is_dir() && depth < DEPTH_MAX => bytes_in(&entry.path(), depth + 1),
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_told_apart_from_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let snapshots = directory.path().join("snapshots");
        fs::create_dir(&snapshots).unwrap();
        fs::write(directory.path().join("log"), [0; 300]).unwrap();
        fs::write(snapshots.join("one"), [0; 70]).unwrap();
        let figures = Disk::new(directory.path().into(), snapshots).figures();
        assert_eq!((figures.log_bytes, figures.snapshot_bytes), (300, 70));
        assert!(figures.free_bytes > Some(0));
        let nowhere = directory.path().join("nowhere");
        let gone = Disk::new(nowhere.clone(), nowhere.join("snapshots")).figures();
        assert_eq!((gone.log_bytes, gone.snapshot_bytes), (0, 0));
    }
}
