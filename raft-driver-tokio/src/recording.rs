//! Recordings of a node's life, written into a directory beside the node: an incident on a server becomes a local run by
//! `sim replay FILE`. What is in them, and how they are read, is [`raft_core::host::recording`]'s.
//!
//! * The node's task never waits for a file. What it did is handed to the blocking pool, one chunk at a time; while that
//!   one is being written, the recorder gathers the next, up to its limit. Then it stands still, and goes on in a new file,
//!   which begins with all of the node, once the disk is done. How many steps are missing is traced.
//! * After an error nothing is written for a pause, which doubles; then a new file begins.
//! * There are never more files or bytes of one node in the directory than the limits say, except that the newest file
//!   stays; the oldest go first, those of earlier starts included.
//! * Files are named `n3.7.0.recording`: node 3, its seventh recorded start in this directory, the first file of it.
//! * They hold clients' commands as they are: treat them like the log. They are not fsynced.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use raft_core::host::recording::{RecordedNode, RecorderOptions, RecordingPart};
use raft_core::{Instant, NodeId};
use tokio_util::task::TaskTracker;

use crate::error::StartError;

/// The first pause after an error, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Where a node is recorded, and how much of it: see [`Builder::record`](crate::Builder::record). Start from
/// [`Recording::new`] and change what you need.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The directory, which is created. Several nodes may share it.
    pub directory: PathBuf,
    /// Files of one node. Default 16.
    pub files_max: usize,
    /// Bytes of all files of one node. Default 512 MiB.
    pub bytes_max: u64,
    /// Bytes of one file beside the checkpoint that it begins with. Default 32 MiB.
    pub file_bytes_max: u64,
    /// Bytes in memory that wait to be written. Default 16 MiB.
    pub buffer_bytes_max: u64,
}

impl Recording {
    /// The defaults, in this directory.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            directory: directory.into(),
            files_max: 16,
            bytes_max: 512 * MIB,
            file_bytes_max: 32 * MIB,
            buffer_bytes_max: 16 * MIB,
        }
    }

    /// For drivers: what to start a [`RecordedNode`] with.
    #[must_use]
    pub fn options(&self) -> RecorderOptions {
        RecorderOptions {
            file_bytes_max: self.file_bytes_max,
            buffer_bytes_max: self.buffer_bytes_max,
            ..RecorderOptions::new(crc32fast::hash)
        }
    }
}

/// Takes what a node did after each turn, and has it written.
#[derive(Debug)]
pub(crate) struct RecordingWriter {
    id: NodeId,
    shared: Arc<Shared>,
    pool: TaskTracker,
    /// Nothing is taken until then; what is there is dropped.
    until: Option<Instant>,
    pause: Duration,
    missed: u64,
}

#[derive(Debug)]
struct Shared {
    /// Taken from the node and not written yet: one chunk, and at the end another.
    chunks: Mutex<VecDeque<Vec<Part>>>,
    files: Mutex<Files>,
    busy: AtomicBool,
    failed: AtomicBool,
}

#[derive(Debug)]
struct Part {
    begins: bool,
    bytes: Vec<u8>,
}

impl RecordingWriter {
    /// A writer for the node of this name. Its files are written on the blocking pool, as tasks of `pool`.
    ///
    /// # Errors
    /// If the directory cannot be created or looked at.
    pub(crate) fn start(recording: &Recording, id: NodeId, pool: TaskTracker) -> Result<Self, StartError> {
        let directory = recording.directory.display().to_string();
        let files = Files::open(recording, id).map_err(|error| StartError::Recording { directory, error })?;
        let shared = Shared {
            chunks: Mutex::default(),
            files: Mutex::new(files),
            busy: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        Ok(Self { id, shared: Arc::new(shared), pool, until: None, pause: PAUSE_MIN, missed: 0 })
    }

    /// Takes what the node did, unless what was taken before is still being written. To be called after each turn.
    pub(crate) fn take(&mut self, node: &mut RecordedNode, now: Instant) {
        if self.shared.failed.swap(false, Ordering::AcqRel) {
            self.until = Some(now + self.pause);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
        }
        if let Some(until) = self.until {
            if now >= until && !self.shared.busy.load(Ordering::Acquire) {
                self.until = None;
                // Begins anew with the next step.
                let _ = node.fetch(|_| Err(()));
            }
            return;
        }
        if self.shared.busy.load(Ordering::Acquire) {
            return;
        }
        let mut chunk = Vec::new();
        let Ok(()) = node.fetch(|part| keep(&mut chunk, part));
        self.trace_missed(node);
        self.write(chunk);
    }

    /// The node has stopped: takes the rest, whatever is still being written. `orderly` if it could go on, so that its last
    /// step can be verified too.
    pub(crate) fn end(mut self, node: &mut RecordedNode, orderly: bool) {
        let mut chunk = Vec::new();
        let Ok(()) = match orderly {
            true => node.end_recording(|part| keep(&mut chunk, part)),
            false => node.fetch(|part| keep(&mut chunk, part)),
        };
        self.trace_missed(node);
        self.write(chunk);
    }

    fn trace_missed(&mut self, node: &RecordedNode) {
        let missed = node.steps_missed();
        if missed > self.missed {
            tracing::warn!(id = self.id.get(), steps = missed - self.missed, "raft.recording_gap");
            self.missed = missed;
        }
    }

    fn write(&mut self, chunk: Vec<Part>) {
        if chunk.is_empty() {
            return;
        }
        self.shared.busy.store(true, Ordering::Release);
        self.shared.chunks.lock().unwrap_or_else(PoisonError::into_inner).push_back(chunk);
        let (shared, id) = (Arc::clone(&self.shared), self.id);
        // Dropped unrun if the runtime is shut down: the file ends early, and says so when it is replayed.
        drop(self.pool.spawn_blocking(move || shared.write(id)));
    }
}

fn keep(chunk: &mut Vec<Part>, part: RecordingPart<'_>) -> Result<(), std::convert::Infallible> {
    chunk.push(Part { begins: part.begins, bytes: part.bytes.to_vec() });
    Ok(())
}

impl Shared {
    /// Writes whatever waits, in order.
    fn write(&self, id: NodeId) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let next = || self.chunks.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        while let Some(chunk) = next() {
            if let Err(error) = chunk.iter().try_for_each(|part| files.write(part)) {
                tracing::error!(id = id.get(), %error, "raft.recording_failed");
                files.current = None;
                self.failed.store(true, Ordering::Release);
            }
        }
        self.busy.store(false, Ordering::Release);
    }
}

/// The files of one node in the directory.
#[derive(Debug)]
struct Files {
    directory: PathBuf,
    id: NodeId,
    life: u64,
    next: u64,
    files_max: usize,
    bytes_max: u64,
    /// Oldest first, with their lengths; the last one is the current one, if there is one.
    kept: VecDeque<(PathBuf, u64)>,
    current: Option<File>,
}

impl Files {
    fn open(recording: &Recording, id: NodeId) -> io::Result<Self> {
        let directory = recording.directory.clone();
        fs::create_dir_all(&directory)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let Some(place) = entry.file_name().to_str().and_then(|name| place(name, id)) else { continue };
            found.push((place, entry.path(), entry.metadata()?.len()));
        }
        found.sort();
        let life = found.last().map_or(0, |((life, _), ..)| life.saturating_add(1));
        let kept = found.into_iter().map(|(_, path, bytes)| (path, bytes)).collect();
        let Recording { files_max, bytes_max, .. } = *recording;
        Ok(Self { directory, id, life, next: 0, files_max, bytes_max, kept, current: None })
    }

    fn write(&mut self, part: &Part) -> io::Result<()> {
        if part.begins {
            self.current = None;
            let path = self.directory.join(format!("n{}.{}.{}.recording", self.id, self.life, self.next));
            self.next += 1;
            let file = File::create_new(&path)?;
            self.kept.push_back((path, 0));
            self.current = Some(file);
        }
        // What follows an error is of no use before the next beginning.
        let Some(file) = &mut self.current else { return Ok(()) };
        file.write_all(&part.bytes)?;
        if let Some((_, bytes)) = self.kept.back_mut() {
            *bytes += part.bytes.len() as u64;
        }
        self.prune()
    }

    /// Removes the oldest until the limits hold. The current one stays.
    fn prune(&mut self) -> io::Result<()> {
        let mut bytes: u64 = self.kept.iter().map(|(_, bytes)| bytes).sum();
        while self.kept.len() > 1 && (self.kept.len() > self.files_max || bytes > self.bytes_max) {
            let Some((path, length)) = self.kept.pop_front() else { break };
            bytes -= length;
            remove(&path)?;
        }
        Ok(())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        // An operator was faster.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Which start of this node, and which file of it, a name says. `None` if it is none of its recordings.
fn place(name: &str, id: NodeId) -> Option<(u64, u64)> {
    let rest = name.strip_suffix(".recording")?.strip_prefix('n')?;
    let mut parts = rest.split('.');
    let (node, life, file) = (parts.next()?, parts.next()?, parts.next()?);
    let numbers = (node.parse::<u64>().ok()?, life.parse().ok()?, file.parse().ok()?);
    (parts.next().is_none() && numbers.0 == id.get()).then_some((numbers.1, numbers.2))
}
