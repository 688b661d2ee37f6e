//! What the servers of a run said themselves, in their logs.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;

/// Full disks after which somebody must have run out of room.
const FULL_MAX: u64 = 5;
/// Lines of one server that are repeated.
const LINES_MAX: usize = 3;

/// What was found in all logs.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// What must not be.
    pub(crate) wrong: Vec<String>,
    /// Servers that stopped because their log found no room.
    pub(crate) full_logs: u64,
    /// Servers that could not start on a full disk.
    pub(crate) full_starts: u64,
    /// Snapshots and other files that found no room.
    pub(crate) full_files: u64,
}

impl Said {
    /// Reads the logs of all servers that ever were.
    pub(crate) fn by(cluster: &Cluster) -> io::Result<Self> {
        let mut said = Self::default();
        for id in 1.. {
            let log = cluster.log(id);
            if !log.exists() {
                break;
            }
            said.read(id, &String::from_utf8_lossy(&fs::read(log)?));
        }
        Ok(said)
    }

    fn read(&mut self, id: u64, log: &str) {
        let bad = |line: &&str| line.contains("panicked") || line.contains("safety violation");
        let bad = log.lines().filter(bad).take(LINES_MAX);
        self.wrong.extend(bad.map(|line| format!("server {id} said: {line}")));
        for line in log.lines() {
            let said = |part: &str| line.contains(part);
            if said("the node stopped") && said("the disk is full") {
                self.full_logs += 1;
            } else if said("no storage space") {
                self.full_starts += 1;
            } else if said("(os error 28)") || said("(os error 27)") {
                // ENOSPC, and EFBIG where full disks are limits on the size of files.
                self.full_files += 1;
            }
        }
    }

    /// That filling so many disks did nothing to anybody, if it did not: then nothing was tried.
    pub(crate) fn never_out_of_room(&self, disks_filled: u64) -> Option<String> {
        let met = self.full_logs + self.full_starts + self.full_files;
        (met == 0 && disks_filled >= FULL_MAX)
            .then(|| format!("disks were filled {disks_filled} times, and no server ever ran out of room"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_tell_of_panics_and_of_full_disks() {
        let mut said = Said::default();
        said.read(
            4,
            "INFO fine\nthread 'main' panicked at x\nWARN cannot write a: No space left (os error 28)\n",
        );
        said.read(5, "kv: the node stopped: the log store failed: the disk is full: free some space\n");
        said.read(5, "kv: cannot write to /d/raft-log: no storage space; check the path\n");
        let Said { wrong, full_logs, full_starts, full_files } = &said;
        assert_eq!((wrong.len(), *full_logs, *full_starts, *full_files), (1, 1, 1, 1), "{said:?}");
        assert!(wrong[0].contains("server 4"), "{wrong:?}");
        assert_eq!(said.never_out_of_room(100), None);
        let nobody = Said::default();
        assert_eq!(nobody.never_out_of_room(4), None);
        assert!(nobody.never_out_of_room(5).is_some());
    }
}
