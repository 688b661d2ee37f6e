//! A disk in memory that knows what a loss of power would leave of it.
//!
//! * Data are durable once the *file* is synced; a new name, a renaming or a removal once the *directory* is
//!   ([`SimulatedDisk::sync_names`]), as POSIX has it and no more.
//! * Of what was not synced, a loss of power keeps any part: all, nothing, some writes, some sectors of 512 bytes of
//!   them; of names any prefix.
//! * A sync that failed is final: what it should have written is never durable, whatever a later sync says. That is how
//!   Linux has it. A process that is started again after it sees what is not there and cannot know; so after a failure
//!   every crash is a loss of power.

mod image;
mod pages;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::storage::FileLayer;
use image::{Change, Image, Loss};

use super::medium::{Crashed, Medium};

/// Crashes looked at after one call: beyond these, a choice.
const CUTS_MAX: usize = 12;

#[derive(Clone, Debug, Default)]
struct State {
    /// What is durable.
    durable: Image,
    /// What a process reads.
    current: Image,
    /// What leads from the one to the other, and syncs.
    changes: Vec<Change>,
    /// So many of them were there when crashes were looked at last.
    looked_at: usize,
    next_file: u64,
    /// The change after so many more fails.
    fault: Option<u64>,
    /// A change has failed: from then on nothing is forgotten, so that what is lost can be told.
    has_failed: bool,
}

/// A disk with files in one directory. Clones are the same disk. A store runs on it through [`SimulatedFile`]s, which
/// are [`FileLayer`]s too.
///
/// ```
/// use raft_driver_tokio::testing::{Medium, SimulatedDisk};
///
/// let disk = SimulatedDisk::new_empty()?;
/// let file = disk.create("votes")?;
/// disk.sync_names()?;
/// file.append(b"synced")?;
/// file.sync()?;
/// file.append(b" and not")?;
/// let crashes = disk.crashes(7)?;
/// let contents = crashes.iter().filter_map(|crash| crash.medium.open("votes").ok()?.contents().ok());
/// let contents: Vec<_> = contents.filter(|bytes| bytes.len() >= 6).collect();
/// assert!(contents.iter().any(|bytes| bytes == b"synced") && contents.iter().any(|bytes| bytes == b"synced and not"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

impl fmt::Debug for SimulatedDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedDisk").field("names", &self.names()).finish_non_exhaustive()
    }
}

impl SimulatedDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic between two changes that belong together would be one of this module.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The names that are there, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state().current.names.keys().cloned().collect()
    }

    /// A new and empty file; one that had this name loses it.
    ///
    /// # Errors
    /// If the disk is told to fail.
    pub fn create(&self, name: &str) -> io::Result<SimulatedFile> {
        let mut state = self.state();
        state.next_file += 1;
        let file = state.next_file;
        state.change(Change::Create { name: name.into(), file })?;
        Ok(SimulatedFile { disk: self.clone(), file })
    }

    /// The file of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn open(&self, name: &str) -> io::Result<SimulatedFile> {
        let file = self.state().current.names.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
        Ok(SimulatedFile { disk: self.clone(), file })
    }

    /// Gives a file another name; one that had it loses it.
    ///
    /// # Errors
    /// If there is no such file, or the disk is told to fail.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.open(from)?;
        self.state().change(Change::Rename { from: from.into(), to: to.into() })
    }

    /// Removes a file.
    ///
    /// # Errors
    /// If there is no such file, or the disk is told to fail.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        self.open(name)?;
        self.state().change(Change::Remove { name: name.into() })
    }

    /// Makes all names durable: an fsync of the directory.
    ///
    /// # Errors
    /// If the disk is told to fail.
    pub fn sync_names(&self) -> io::Result<()> {
        self.state().change(Change::SyncNames)
    }
}

impl State {
    fn change(&mut self, change: Change) -> io::Result<()> {
        if let Some(left) = self.fault {
            self.fault = left.checked_sub(1);
            if left == 0 {
                self.has_failed = true;
                self.fail(change);
                return Err(io::Error::other("the simulated disk was told to fail"));
            }
        }
        change.apply(&mut self.current);
        self.changes.push(change);
        Ok(())
    }

    /// A sync that fails loses for good what it should have written; a write that fails may have been done in part.
    fn fail(&mut self, change: Change) {
        match change {
            Change::Sync { file } => self.changes.push(Change::FailedSync { file }),
            Change::Write { file, offset, data } => {
                let part = Change::Write { file, offset, data: data[..data.len() / 2].into() };
                part.apply(&mut self.current);
                self.changes.push(part);
            }
            _ => {}
        }
    }

    /// A disk after a crash when so many changes were done.
    fn after(&self, cut: usize, loss: Loss, random: &mut fastrand::Rng) -> Self {
        let changes = &self.changes[..cut];
        if loss == Loss::Nothing {
            let mut current = self.durable.clone();
            changes.iter().for_each(|change| change.apply(&mut current));
            let changes = changes.to_vec();
            let looked_at = changes.len();
            return Self { current, changes, looked_at, fault: None, ..self.clone() };
        }
        let durable = image::after_loss(&self.durable, changes, loss, random);
        Self { current: durable.clone(), durable, next_file: self.next_file, ..Self::default() }
    }

    /// Forgets what is durable by now.
    fn settle(&mut self) {
        if !self.has_failed {
            let (durable, pending) = image::split(&self.durable, &self.changes);
            (self.durable, self.changes) = (durable, pending);
        }
        self.looked_at = self.changes.len();
    }
}

impl Medium for SimulatedDisk {
    fn new_empty() -> io::Result<Self> {
        Ok(Self::default())
    }

    fn crashes(&self, seed: u64) -> io::Result<Vec<Crashed<Self>>> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut state = self.state();
        state.fault = None;
        let (first, end) = (state.looked_at, state.changes.len());
        let mut cuts: Vec<usize> = (first..end).collect();
        while cuts.len() > CUTS_MAX {
            cuts.swap_remove(random.usize(..cuts.len()));
        }
        cuts.sort_unstable();
        let mut crashed = Vec::new();
        let mut add = |cut: usize, loss: Loss, random: &mut fastrand::Rng| {
            let disk = Self(Arc::new(Mutex::new(state.after(cut, loss, random))));
            let returned = cut == end;
            let when = if returned {
                "after the call had returned".into()
            } else {
                format!(
                    "within the call, after {} of its {} operations on the disk",
                    cut - first,
                    end - first
                )
            };
            let how = format!("{} {when}", loss.words());
            crashed.push(Crashed { medium: disk, returned, how, cached: loss == Loss::Nothing });
        };
        let losses = &Loss::ALL[usize::from(state.has_failed)..];
        for cut in cuts {
            // What is lost between two operations is mostly the same: two kinds for each.
            add(cut, losses[random.usize(..losses.len())], &mut random);
            add(cut, Loss::Everything, &mut random);
        }
        losses.iter().for_each(|loss| add(end, *loss, &mut random));
        state.settle();
        Ok(crashed)
    }

    fn fail_once(&self, after: u64) -> bool {
        self.state().fault = Some(after);
        true
    }
}

/// A file on a [`SimulatedDisk`]. Clones are the same file.
#[derive(Clone, Debug)]
pub struct SimulatedFile {
    disk: SimulatedDisk,
    file: u64,
}

impl SimulatedFile {
    /// Appends bytes.
    ///
    /// # Errors
    /// If the disk is told to fail; a part of them may be there then.
    pub fn append(&self, data: &[u8]) -> io::Result<()> {
        let offset = self.len_bytes()?;
        self.write(offset, data)
    }

    /// All of its bytes.
    ///
    /// # Errors
    /// If it is gone.
    pub fn contents(&self) -> io::Result<Vec<u8>> {
        let state = self.disk.state();
        let pages = state.current.files.get(&self.file).ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; pages.len()];
        pages.read(0, &mut bytes);
        Ok(bytes)
    }

    /// Returns when its bytes are durable. Its name is so only after [`SimulatedDisk::sync_names`].
    ///
    /// # Errors
    /// If the disk is told to fail: then what was not durable never will be.
    pub fn sync(&self) -> io::Result<()> {
        self.disk.state().change(Change::Sync { file: self.file })
    }

    /// For stores that take any file: see [`DurableLog::open_on`](crate::storage::DurableLog::open_on).
    #[must_use]
    pub fn layer(&self) -> Arc<dyn FileLayer> {
        Arc::new(self.clone())
    }
}

impl FileLayer for SimulatedFile {
    fn len_bytes(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state
            .current
            .files
            .get(&self.file)
            .map(|bytes| bytes.len() as u64)
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        let pages = state.current.files.get(&self.file).ok_or(io::ErrorKind::NotFound)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if pages.read(offset, out) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.state().change(Change::Write { file: self.file, offset, data: data.into() })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.state().change(Change::SetLen { file: self.file, len })
    }

    fn sync(&self) -> io::Result<()> {
        Self::sync(self)
    }
}

#[cfg(test)]
mod tests;
