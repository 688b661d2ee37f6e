//! The least that a state machine can do.

use std::convert::Infallible;

use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Entries, EntryRef};

/// Counts what it applies.
#[derive(Default)]
pub(crate) struct Count(u64);

impl StateMachine for Count {
    type Response = u64;
    type Snapshot = WholeState;
    type Error = Infallible;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Infallible> {
        for entry in entries.iter() {
            if let EntryRef::Command(..) = entry {
                self.0 += 1;
                responses.push(self.0);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Infallible> {
        Ok(WholeState::new(self.0.to_le_bytes().to_vec()))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Infallible>> {
        let mut count = [0; 8];
        source.read_exact(&mut count)?;
        self.0 = u64::from_le_bytes(count);
        Ok(())
    }
}
