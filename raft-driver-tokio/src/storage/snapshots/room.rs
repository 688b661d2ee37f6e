//! Room that snapshots leave on their disk: most often the log is on it too, and a log that cannot be written stops its
//! node, and with it every group of the process. Below that a snapshot is given up once it has taken more than is free: one
//! that is small may be what lets the log become shorter.

use std::path::Path;

use super::error::SnapshotFileError;

/// Of the whole disk one part in so many is left, but not more than so much.
const PART: u64 = 20;
const BYTES_MAX: u64 = 128 << 20;
/// So much is written between two looks at the disk.
pub(super) const LOOK_BYTES: usize = 1 << 20;

/// How much is left.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// Chosen by the user.
    pub(super) left_bytes: Option<u64>,
}

impl Room {
    /// Whether a snapshot in this directory that has taken so much may grow. A disk that tells nothing of its room has some.
    pub(super) fn check(self, dir: &Path, taken_bytes: u64) -> Result<(), SnapshotFileError> {
        let Ok(disk) = fs4::statvfs(dir) else { return Ok(()) };
        let (free_bytes, left_bytes) = (disk.available_space(), self.left_of(disk.total_space()));
        if free_bytes < left_bytes && free_bytes < taken_bytes {
            return Err(SnapshotFileError::NoRoom { path: dir.to_owned(), free_bytes, left_bytes });
        }
        Ok(())
    }

    fn left_of(self, disk_bytes: u64) -> u64 {
        self.left_bytes.unwrap_or((disk_bytes / PART).min(BYTES_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_a_part_of_the_disk_and_bounded() {
        let room = Room::default();
        assert_eq!([0, 48 << 20, 1 << 40].map(|bytes| room.left_of(bytes)), [0, (48 << 20) / 20, 128 << 20]);
        assert_eq!(Room { left_bytes: Some(7) }.left_of(1 << 40), 7);
    }

    #[test]
    fn below_that_a_snapshot_may_take_as_much_as_it_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let all = Room { left_bytes: Some(u64::MAX) };
        all.check(dir.path(), 0).unwrap();
        let error = all.check(dir.path(), u64::MAX).unwrap_err();
        assert!(matches!(error, SnapshotFileError::NoRoom { left_bytes: u64::MAX, .. }), "{error}");
        assert!(error.to_string().contains("make room"), "{error}");
        Room { left_bytes: Some(0) }.check(dir.path(), u64::MAX).unwrap();
        Room::default().check(&dir.path().join("gone"), u64::MAX).unwrap();
    }
}
