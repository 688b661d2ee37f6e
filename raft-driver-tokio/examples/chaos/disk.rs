//! A server's disk, which can become full.
//!
//! * Where mounting is allowed: a small file system of its own in memory. It becomes full by losing all room that is not
//!   taken; what is freed then may be taken again, as on a real machine.
//! * Elsewhere: a directory, and a limit on the size of files that is lowered for the running process: writes beyond
//!   it fail (`EFBIG`), those below go on. A process started later has no limit.
//! * What was written survives `kill -9`; power failures are the simulator's business.

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Room for log and snapshots of a run.
const ROOM: &str = "size=256m";
/// How often the size is looked at and set, while files grow.
const TRIES: usize = 20;
/// Below what a log has from the beginning.
const FILE_BYTES_MAX: u64 = 4096;

/// How disks are made full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tmpfs,
    Limit,
}

impl Kind {
    /// What this process has the rights to. Tries it, in a directory that is to become the run's.
    pub(crate) fn available(directory: &Path) -> Self {
        let probe = directory.join("probe");
        let tried = fs::create_dir(&probe).and_then(|()| mount(&probe)).and_then(|()| unmount(&probe));
        // An error: it was not made, or is in use, and an empty directory disturbs nobody.
        let _ = fs::remove_dir(&probe);
        if tried.is_ok() { Self::Tmpfs } else { Self::Limit }
    }
}

/// The disk of one server.
pub(crate) struct Disk {
    kind: Kind,
    root: PathBuf,
}

impl Disk {
    /// An empty disk at a directory that does not exist yet.
    pub(crate) fn new(root: PathBuf, kind: Kind) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        if kind == Kind::Tmpfs {
            mount(&root)?;
        }
        Ok(Self { kind, root })
    }

    /// Where the server keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// No room is left, for the process that runs.
    pub(crate) fn fill(&self, process: Option<Pid>) -> io::Result<()> {
        match (self.kind, process) {
            (Kind::Tmpfs, _) => fill(&self.root),
            (Kind::Limit, Some(process)) => limit(process, Some(FILE_BYTES_MAX)),
            (Kind::Limit, None) => Ok(()),
        }
    }

    /// There is room again.
    pub(crate) fn free(&self, process: Option<Pid>) -> io::Result<()> {
        match (self.kind, process) {
            (Kind::Tmpfs, _) => resize(&self.root, ROOM),
            (Kind::Limit, Some(process)) => limit(process, None),
            (Kind::Limit, None) => Ok(()),
        }
    }

    /// Moves what is on the disk into a plain directory, for whoever looks at it later.
    pub(crate) fn keep(&self, into: &Path) -> io::Result<()> {
        copy(&self.data(), into)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.kind == Kind::Tmpfs {
            // An error: it is gone already, or will be with the mount namespace.
            let _ = unmount(&self.root);
        }
    }
}

const FLAGS: MountFlags = MountFlags::NODEV.union(MountFlags::NOSUID);

fn mount(at: &Path) -> io::Result<()> {
    let options = CString::new(ROOM)?;
    Ok(rustix::mount::mount("chaos", at, "tmpfs", FLAGS, &*options)?)
}

fn resize(at: &Path, size: &str) -> io::Result<()> {
    Ok(rustix::mount::mount_remount(at, FLAGS, &*CString::new(size)?)?)
}

fn unmount(at: &Path) -> io::Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    Ok(unmount(at, UnmountFlags::DETACH)?)
}

/// Leaves no more room than is taken.
fn fill(at: &Path) -> io::Result<()> {
    let mut last = io::Error::from(io::ErrorKind::InvalidInput);
    for _ in 0..TRIES {
        let now = rustix::fs::statvfs(at)?;
        let taken_bytes = (now.f_blocks - now.f_bfree) * now.f_frsize;
        // Less than is taken by now is refused.
        match resize(at, &format!("size={taken_bytes}")) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn limit(process: Pid, bytes_max: Option<u64>) -> io::Result<()> {
    let now = rustix::process::getrlimit(Resource::Fsize);
    let current = match (bytes_max, now.maximum) {
        (Some(wanted), Some(most)) => Some(wanted.min(most)),
        (wanted, most) => wanted.or(most),
    };
    prlimit(Some(process), Resource::Fsize, Rlimit { current, maximum: now.maximum })?;
    Ok(())
}

fn copy(from: &Path, into: &Path) -> io::Result<()> {
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = into.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_and_has_room_again() {
        let directory = tempfile::tempdir().unwrap();
        if Kind::available(directory.path()) == Kind::Limit {
            return;
        }
        let disk = Disk::new(directory.path().join("disk"), Kind::Tmpfs).unwrap();
        fs::create_dir(disk.data()).unwrap();
        fs::write(disk.data().join("before"), b"kept").unwrap();
        disk.fill(None).unwrap();
        let full = fs::write(disk.data().join("more"), [0; 8192]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        disk.free(None).unwrap();
        fs::write(disk.data().join("more"), [0; 8192]).unwrap();
        disk.keep(&directory.path().join("kept")).unwrap();
        drop(disk);
        assert_eq!(fs::read(directory.path().join("kept/before")).unwrap(), b"kept");
        assert!(!directory.path().join("disk/data").exists());
    }
}
