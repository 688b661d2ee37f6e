//! Where a store keeps what must survive, and what crashes leave of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// Where a store keeps what must survive a crash. The checks bring three: [`SimulatedDisk`](super::SimulatedDisk),
/// [`Directory`] and [`Survives`]; implement it for whatever else a store lives on.
pub trait Medium: Sized {
    /// A new one, with nothing on it.
    ///
    /// # Errors
    /// If there is none to be had: the check ends.
    fn new_empty() -> io::Result<Self>;

    /// What crashes would have left, at this moment and at earlier ones since the last call: a choice of them, which
    /// depends on `seed`. None if no crash harms it.
    ///
    /// # Errors
    /// If it cannot be told: the check ends.
    fn crashes(&self, seed: u64) -> io::Result<Vec<Crashed<Self>>>;

    /// Lets one of the next operations that change something fail, after so many more have worked. Returns whether that
    /// can be done.
    fn fail_once(&self, after: u64) -> bool {
        let _ = after;
        false
    }
}

/// What a crash left.
#[derive(Debug)]
pub struct Crashed<M> {
    /// All that is there.
    pub medium: M,
    /// The crash came when the last call had returned; else it came within, or before that.
    pub returned: bool,
    /// What happened, in words.
    pub how: String,
    /// Only the process was killed: what is there may not be durable, since the operating system still holds what was
    /// written. Else power was lost.
    pub cached: bool,
}

/// A directory of the operating system, below [`std::env::temp_dir`], which is removed at the end.
///
/// A crash is a copy of its files, made while the store is open and no call is running: what `kill -9` would leave at
/// that moment. **The page cache is not lost**: an fsync that is missing is not noticed. For that a store must run on a
/// [`SimulatedDisk`](super::SimulatedDisk).
#[derive(Debug)]
pub struct Directory(TempDir);

impl Directory {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl AsRef<Path> for Directory {
    fn as_ref(&self) -> &Path {
        self.path()
    }
}

impl Medium for Directory {
    fn new_empty() -> io::Result<Self> {
        tempfile::Builder::new().prefix("raft-check-").tempdir().map(Self)
    }

    fn crashes(&self, _seed: u64) -> io::Result<Vec<Crashed<Self>>> {
        let copy = Self::new_empty()?;
        copy_files(self.path(), copy.path())?;
        // A store may work on in the background: what was there at one moment is what two copies agree on.
        const ATTEMPTS_MAX: u32 = 100;
        for _ in 0..ATTEMPTS_MAX {
            let files = read_files(copy.path())?;
            if read_files(self.path())? == files {
                let how = "the process was killed after the call had returned".into();
                return Ok(vec![Crashed { medium: copy, returned: true, how, cached: true }]);
            }
            fs::remove_dir_all(copy.path())?;
            fs::create_dir(copy.path())?;
            copy_files(self.path(), copy.path())?;
        }
        Err(io::Error::other("the files of the store never rest: no copy of one moment can be made"))
    }
}

/// A name that is gone when it is its turn was removed in between: the comparison of two copies decides.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            copy_files(&entry.path(), &target)?;
        } else {
            unless_gone(fs::copy(entry.path(), &target))?;
        }
    }
    Ok(())
}

/// Every file below, by its path from there; directories have no content.
fn read_files(dir: &Path) -> io::Result<Vec<(PathBuf, Option<Vec<u8>>)>> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        for entry in fs::read_dir(dir.join(&below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                found.push((path.clone(), None));
                pending.push(path);
            } else if let Some(content) = unless_gone(fs::read(entry.path()))? {
                found.push((path, Some(content)));
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Something in memory whose clones are the same thing, and which outlives the store: nothing is ever lost of it. A
/// crash is then nothing but a store that is dropped and another one that is opened over the same.
#[derive(Clone, Debug, Default)]
pub struct Survives<T>(pub T);

impl<T: Default> Medium for Survives<T> {
    fn new_empty() -> io::Result<Self> {
        Ok(Self(T::default()))
    }

    fn crashes(&self, _seed: u64) -> io::Result<Vec<Crashed<Self>>> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_copied_with_what_is_below() {
        let directory = Directory::new_empty().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        fs::write(directory.path().join("a/b"), b"content").unwrap();
        let [crashed] = &directory.crashes(1).unwrap()[..] else { panic!("one copy") };
        fs::write(directory.path().join("a/b"), b"later").unwrap();
        assert_eq!(fs::read(crashed.medium.path().join("a/b")).unwrap(), b"content");
        assert!(crashed.returned && crashed.cached);
    }
}
