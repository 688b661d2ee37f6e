//! The directory of a store: who holds it, whether a log must be there, and how a new one comes to be.
//!
//! | file | content |
//! |---|---|
//! | `raft-identity` | whose directory this is; locked while the store is open |
//! | `raft-log` | the log |
//! | `raft-log.new` | a log that is being created; of no meaning |
//!
//! A store is created in this order, each step durable before the next: the directory; an empty `raft-identity`; the
//! log, complete, as `raft-log.new`; its renaming to `raft-log`; the content of `raft-identity`. So a crash at any
//! point leaves either nothing that was ever used (and it begins anew) or a complete log. Once `raft-identity` has
//! content a log must be there: if it is missing, the node has lost its memory and must not start.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;

use super::error::OpenError;
use super::file::{FileLayer, IDENTITY_MAGIC, Identity, OsFile};

const IDENTITY_FILE: &str = "raft-identity";
const LOG_FILE: &str = "raft-log";
const NEW_LOG_FILE: &str = "raft-log.new";

/// Held for as long as the store is open: no second opener gets in.
#[derive(Debug)]
pub(super) struct DirectoryLock(#[expect(dead_code, reason = "closing the file unlocks it")] File);

/// A locked directory with a log in it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) lock: DirectoryLock,
    pub(super) log: Arc<dyn FileLayer>,
    pub(super) log_path: PathBuf,
}

/// Locks the directory and opens its log; creates both if they were never there. `create_log` writes a complete and
/// empty log into an empty file.
pub(super) fn open(
    dir: &Path,
    identity: &Identity,
    create_log: impl FnOnce(Arc<dyn FileLayer>, &Path) -> Result<(), OpenError>,
) -> Result<Opened, OpenError> {
    create_directory(dir)?;
    let mut marker = Marker::lock(dir)?;
    let mark = marker.check(identity)?;
    let log_path = dir.join(LOG_FILE);
    let exists = log_path.try_exists().map_err(OpenError::io("look for", &log_path))?;
    if exists {
        let log = open_file(&log_path, false)?;
        if mark != Mark::Complete {
            // A crash came between the renaming and the mark. The log itself says whose it is.
            let mut head =
                vec![0; log.len_bytes().map_err(OpenError::io("read", &log_path))?.min(4096) as usize];
            log.read(0, &mut head).map_err(OpenError::io("read", &log_path))?;
            identity.check(super::file::LOG_MAGIC, &head, &log_path)?;
            // The renaming may not have been durable yet.
            sync_directory(dir)?;
            marker.write(identity)?;
        }
        return Ok(Opened { lock: DirectoryLock(marker.file), log, log_path });
    }
    if mark != Mark::Empty {
        return Err(OpenError::Missing { path: log_path });
    }
    let new_path = dir.join(NEW_LOG_FILE);
    let log = open_file(&new_path, true)?;
    create_log(Arc::clone(&log), &new_path)?;
    log.sync().map_err(OpenError::io("sync", &new_path))?;
    drop(log);
    fs::rename(&new_path, &log_path).map_err(OpenError::io("rename", &new_path))?;
    sync_directory(dir)?;
    marker.write(identity)?;
    Ok(Opened { lock: DirectoryLock(marker.file), log: open_file(&log_path, false)?, log_path })
}

fn open_file(path: &Path, is_new: bool) -> Result<Arc<dyn FileLayer>, OpenError> {
    let file = OpenOptions::new().read(true).write(true).create(is_new).truncate(is_new).open(path);
    let file = file.map_err(OpenError::io("open", path))?;
    let file = FileBackend::new(file).map_err(|error| OpenError::Io {
        op: "open",
        path: path.to_owned(),
        source: io::Error::other(error.to_string()),
    })?;
    Ok(Arc::new(OsFile(file)))
}

/// Creates the directory and what leads to it. Each is durable in the one above it.
fn create_directory(dir: &Path) -> Result<(), OpenError> {
    let missing: Vec<&Path> =
        dir.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir()).collect();
    fs::create_dir_all(dir).map_err(OpenError::io("create the directory", dir))?;
    for path in missing {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent)?,
            _ => sync_directory(Path::new("."))?,
        }
    }
    Ok(())
}

/// Makes the names in a directory durable.
fn sync_directory(dir: &Path) -> Result<(), OpenError> {
    // Elsewhere directories cannot be opened as files, and names are durable with the file.
    if cfg!(unix) {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(OpenError::io("sync the directory", dir))?;
    }
    Ok(())
}

/// How far the identity file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Nothing: there may never have been a log.
    Empty,
    /// Cut short, or zeros where bytes should be. There was a log.
    Unfinished,
    /// All of it, and it is this node's.
    Complete,
}

/// The file that says whose directory this is.
struct Marker {
    file: File,
    path: PathBuf,
    content: Vec<u8>,
}

impl Marker {
    fn lock(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(IDENTITY_FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(OpenError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path }),
            Err(TryLockError::Error(source)) => return Err(OpenError::Io { op: "lock", path, source }),
        }
        let mut content = Vec::new();
        // Bounded: a foreign file may be of any size.
        (&mut file).take(4096).read_to_end(&mut content).map_err(OpenError::io("read", &path))?;
        Ok(Self { file, path, content })
    }

    /// An error if the directory is not this node's.
    fn check(&self, identity: &Identity) -> Result<Mark, OpenError> {
        let expected = identity.encode(IDENTITY_MAGIC);
        if self.content.is_empty() {
            return Ok(Mark::Empty);
        }
        let is_unfinished = self.content.len() <= expected.len()
            && self.content != expected
            && self.content.iter().zip(expected).all(|(found, expected)| *found == expected || *found == 0);
        if is_unfinished {
            return Ok(Mark::Unfinished);
        }
        identity.check(IDENTITY_MAGIC, &self.content, &self.path)?;
        Ok(Mark::Complete)
    }

    fn write(&mut self, identity: &Identity) -> Result<(), OpenError> {
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&identity.encode(IDENTITY_MAGIC)))
            .and_then(|()| self.file.sync_all())
            .map_err(OpenError::io("write", &self.path))
    }
}
