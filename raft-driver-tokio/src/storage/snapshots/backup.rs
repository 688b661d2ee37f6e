//! Backups: a snapshot in a file of its own, which a new cluster can begin with.
//!
//! * The format is that of [`SnapshotFiles`](super::SnapshotFiles): whose it was, the state in blocks with checksums, the
//!   configuration as of its last entry, a digest of all.
//! * A backup is written aside, synced and renamed: what has its final name is whole. A file that is there is never
//!   replaced.
//! * All of it is read and compared before anything is made of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use raft_core::SnapshotMeta;

use super::error::SnapshotFileError;
use super::file::{self, BlockWriter, Sink, Stream, Unread};
use super::files::{COMPLETE, MAGIC, SnapshotFiles, group_of, remove};
use crate::GroupId;
use crate::storage::durable::{Identity, sync_directory};

/// So much of a snapshot is in memory while it is copied.
const COPY_BYTES: u64 = 1 << 20;

impl SnapshotFiles {
    /// The newest complete snapshot, if there is one.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<SnapshotMeta>> {
        self.0.complete().last_key_value().map(|(_, meta)| Arc::clone(meta))
    }

    /// Copies the newest complete snapshot to a file of its own, from which a new cluster can begin: a backup. Returns
    /// when the file is durable under its name; all that was copied was compared with its checksums. Blocking; the node
    /// goes on meanwhile, and may drop the snapshot itself.
    ///
    /// # Errors
    /// If there is no snapshot (take one first), `to` exists, or something cannot be read or written. Nothing is left
    /// under that name then.
    pub fn export(&self, to: impl AsRef<Path>) -> Result<Arc<SnapshotMeta>, SnapshotFileError> {
        let to = to.as_ref();
        let (meta, mut from) = self.open_newest(to)?;
        if to.try_exists().map_err(SnapshotFileError::io("look for", to))? {
            return Err(SnapshotFileError::Exists { path: to.to_owned() });
        }
        let mut aside = to.as_os_str().to_owned();
        aside.push(".part");
        let aside = PathBuf::from(aside);
        // What a crash left under this name may be a backup under another: it is unlinked, never written to.
        remove(&aside)?;
        let file = OpenOptions::new().write(true).create_new(true).open(&aside);
        let file = file.map_err(SnapshotFileError::io("create", &aside))?;
        let aside = Aside(aside);
        let failed = || SnapshotFileError::io("write", &aside.0);
        self.copy(&meta, &mut from, file, failed)?.sync_all().map_err(failed())?;
        name(&aside.0, to)?;
        Ok(meta)
    }

    /// The same through a stream: what has arrived as a whole is a backup. What was written before an error is a part of
    /// one, and refused as such by [`BackupFile::open`]. Blocking, as `to` is; nothing is needed on the disk.
    ///
    /// # Errors
    /// If there is no snapshot (take one first), it cannot be read, or `to` fails.
    pub fn export_to(&self, to: impl Write) -> Result<Arc<SnapshotMeta>, SnapshotFileError> {
        let name = Path::new("a stream");
        let (meta, mut from) = self.open_newest(name)?;
        let failed = || SnapshotFileError::io("write to", name);
        self.copy(&meta, &mut from, Stream(to), failed)?.flush().map_err(failed())?;
        Ok(meta)
    }

    /// Copies a snapshot from its file, and compares all of it with its checksums before it writes the end.
    fn copy<F: Sink, E: FnOnce(io::Error) -> SnapshotFileError>(
        &self,
        meta: &SnapshotMeta,
        from: &mut File,
        to: F,
        failed: impl Fn() -> E,
    ) -> Result<F, SnapshotFileError> {
        let source = self.0.path(meta.id, COMPLETE);
        let mut blocks = BlockWriter::begin(to, &self.0.head()).map_err(failed())?;
        let mut offset = 0;
        while offset < meta.size_bytes {
            let part = file::read(from, meta.size_bytes, offset, COPY_BYTES);
            let part = part.map_err(|unread| unread_at(&source, unread))?;
            blocks.write(&part).map_err(failed())?;
            offset += part.len() as u64;
        }
        if blocks.written().digest != meta.digest {
            return Err(unread_at(&source, Unread::Damaged("its digest is wrong")));
        }
        blocks.end(meta).map_err(failed())
    }

    /// The newest snapshot, open: it can be read to its end also if it is dropped meanwhile.
    fn open_newest(&self, to: &Path) -> Result<(Arc<SnapshotMeta>, File), SnapshotFileError> {
        // It may be replaced between the look and the opening, but not again and again.
        for _ in 0..8 {
            let Some(meta) = self.newest() else { break };
            let path = self.0.path(meta.id, COMPLETE);
            match File::open(&path) {
                Ok(file) => return Ok((meta, file)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(SnapshotFileError::io("open", &path)(error)),
            }
        }
        Err(SnapshotFileError::Nothing { path: to.to_owned() })
    }
}

/// Gives a file that was written aside its name. Whether it keeps the other one depends on the file system.
fn name(aside: &Path, to: &Path) -> Result<(), SnapshotFileError> {
    // A link is refused where a rename would replace what somebody put there meanwhile.
    let named = match fs::hard_link(aside, to) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => name_without_links(aside, to),
        linked => linked,
    };
    named.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => SnapshotFileError::Exists { path: to.to_owned() },
        _ => SnapshotFileError::io("name", to)(error),
    })?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new("."))).map_err(|error| {
        // Nobody is told of it.
        let _ = remove(to);
        error.into()
    })
}

/// The same where the file system has no links. A crash in between leaves an empty file, which is no backup.
fn name_without_links(aside: &Path, to: &Path) -> io::Result<()> {
    // Refused if the name is taken. What is replaced then is this.
    drop(File::create_new(to)?);
    fs::rename(aside, to).inspect_err(|_| drop(remove(to)))
}

/// A file that is written aside; gone when dropped, under this name.
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        // If it cannot be removed, the next export replaces it.
        let _ = remove(&self.0);
    }
}

/// A snapshot in a file of its own, made by [`SnapshotFiles::export`](super::SnapshotFiles::export).
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    file: Mutex<File>,
    origin: Identity,
    group: GroupId,
    meta: SnapshotMeta,
}

impl BackupFile {
    /// Opens a backup and reads all of it once, to compare it with its checksums.
    ///
    /// # Errors
    /// If it cannot be read, is no backup, or is damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SnapshotFileError> {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(SnapshotFileError::io("open", path))?;
        let head = file::read_head(&mut file).map_err(SnapshotFileError::io("read", path))?;
        let origin = Identity::decode(MAGIC, &head, path)?;
        let group = group_of(&head);
        let group = group
            .ok_or_else(|| unread_at(path, Unread::Damaged("its beginning is not as it was written")))?;
        let meta = file::read_meta(&mut file).and_then(|meta| {
            file::verify(&mut file, &meta)?;
            Ok(meta)
        });
        let meta = meta.map_err(|unread| unread_at(path, unread))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), origin, group, meta })
    }

    /// Gives it another name in the same file system: one that was written aside, by
    /// [`export_to`](super::SnapshotFiles::export_to) say, becomes the backup of its name once it was opened. Durable when
    /// it returns. Where the file system has links, the former name stays too.
    ///
    /// # Errors
    /// If `to` exists, or the file cannot be named so. Nothing is left under that name then.
    pub fn name(self, to: impl AsRef<Path>) -> Result<Self, SnapshotFileError> {
        let to = to.as_ref();
        // Whoever wrote it may not have synced it.
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.sync_all().map_err(SnapshotFileError::io("sync", &self.path))?;
        drop(file);
        name(&self.path, to)?;
        Ok(Self { path: to.to_owned(), ..self })
    }

    /// Whose state it is.
    #[must_use]
    pub const fn origin(&self) -> Identity {
        self.origin
    }

    /// Of which of its groups.
    #[must_use]
    pub const fn group(&self) -> GroupId {
        self.group
    }

    /// What is known of it: its last entry, its size, and the configuration of the cluster that it was made in.
    #[must_use]
    pub const fn meta(&self) -> &SnapshotMeta {
        &self.meta
    }

    /// Bytes of the state from `offset` on, `bytes_max` of them except at its end.
    ///
    /// # Errors
    /// If the file cannot be read, or was damaged since it was opened.
    pub fn read(&self, offset: u64, bytes_max: u64) -> Result<Bytes, SnapshotFileError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file::read(&mut file, self.meta.size_bytes, offset, bytes_max)
            .map_err(|unread| unread_at(&self.path, unread))
    }
}

fn unread_at(path: &Path, unread: Unread) -> SnapshotFileError {
    match unread {
        Unread::Damaged(what) => SnapshotFileError::Damaged { path: path.to_owned(), what },
        Unread::Io(error) => SnapshotFileError::io("read", path)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_and_never_taken_from_another_file_with_links_and_without() {
        type Name = fn(&Path, &Path) -> io::Result<()>;
        let linked: Name = |aside, to| name(aside, to).map_err(io::Error::other);
        for name in [linked, name_without_links] {
            let dir = tempfile::tempdir().unwrap();
            let [first, second, to] = ["first", "second", "to"].map(|name| dir.path().join(name));
            fs::write(&first, "first").unwrap();
            fs::write(&second, "second").unwrap();
            name(&first, &to).unwrap();
            name(&second, &to).unwrap_err();
            assert_eq!(fs::read(&to).unwrap(), b"first");
            assert_eq!(fs::read(&second).unwrap(), b"second");
            // Nothing is left where there is nothing to name.
            let nothing = dir.path().join("nothing");
            name(&dir.path().join("gone"), &nothing).unwrap_err();
            assert!(!nothing.exists());
        }
    }
}
