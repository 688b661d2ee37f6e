//! Room that snapshots leave on their disk: most often the log is on it too, and a log that cannot be written stops its
//! node, and with it every group of the process.

use std::path::Path;

use super::error::SnapshotFileError;

/// Of the whole disk one part in so many is left, but not more than so much.
const PART: u64 = 20;
const BYTES_MAX: u64 = 128 << 20;
/// So much is written between two looks at the disk.
pub(super) const LOOK_BYTES: u64 = 1 << 20;

/// How much is left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// Chosen by the user.
    pub(super) left_bytes: Option<u64>,
}

impl Room {
    /// Whether a snapshot in this directory may grow. A disk that tells nothing of its room has some.
    pub(super) fn check(self, dir: &Path) -> Result<(), SnapshotFileError> {
        let Ok(disk) = fs4::statvfs(dir) else { return Ok(()) };
        let left_bytes = self.left_bytes.unwrap_or((disk.total_space() / PART).min(BYTES_MAX));
        let free_bytes = disk.available_space();
        if free_bytes < left_bytes {
            return Err(SnapshotFileError::NoRoom { path: dir.to_owned(), free_bytes, left_bytes });
        }
        Ok(())
    }
}
