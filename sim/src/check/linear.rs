//! Linearizability, key by key, while the run goes on.
//!
//! The committed log gives the order of all writes, so each operation has a known version: a write its own
//! index, a read that of the write it saw. The history is linearizable if these versions agree with real time:
//!
//! * a write comes behind every version known, to anybody, when the write was invoked;
//! * a read sees at least that version.
//!
//! A write of unknown outcome stays open for ever: it may take effect at any time after its invocation.

use raft_core::LogIndex;

use super::{Check, ensure};

const CHECKER: &str = "linear";

/// For each key the newest version that any completed operation has shown.
#[derive(Debug, Default)]
pub(crate) struct Linear {
    floors: Vec<LogIndex>,
}

impl Linear {
    /// The newest version that an operation on `key` that begins now must respect.
    pub(crate) fn floor(&self, key: u16) -> LogIndex {
        self.floors.get(usize::from(key)).copied().unwrap_or_default()
    }

    /// An operation on `key` that wrote or saw `version` has completed.
    pub(crate) fn completed(&mut self, key: u16, version: LogIndex) {
        let at = usize::from(key);
        if self.floors.len() <= at {
            self.floors.resize(at + 1, LogIndex::ZERO);
        }
        self.floors[at] = version.max(self.floors[at]);
    }

    /// A write that was invoked above `floor` took its place in the order.
    pub(crate) fn write(&self, op: u64, floor: LogIndex, version: LogIndex) -> Check {
        ensure!(
            CHECKER,
            version > floor,
            "write {op} came to index {version}, though {floor} was seen before it began"
        );
        Ok(())
    }

    /// A read that was invoked above `floor` saw `version`.
    pub(crate) fn read(&self, op: u64, floor: LogIndex, version: LogIndex) -> Check {
        ensure!(
            CHECKER,
            version >= floor,
            "read {op} saw index {version}, though {floor} was seen before it began"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::index;

    #[test]
    fn versions_that_contradict_real_time_are_seen() {
        let mut linear = Linear::default();
        linear.completed(1, index(5));
        linear.completed(1, index(3));
        assert_eq!((linear.floor(0), linear.floor(1)), (index(0), index(5)));
        let floor = linear.floor(1);
        assert_eq!(linear.write(7, floor, index(6)), Ok(()));
        assert!(linear.write(7, floor, index(5)).unwrap_err().what.contains("write 7 came to index 5"));
        assert_eq!(linear.read(8, floor, index(5)), Ok(()));
        assert!(linear.read(8, floor, index(4)).unwrap_err().what.contains("read 8 saw index 4"));
    }
}
