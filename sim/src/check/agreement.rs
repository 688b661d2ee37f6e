//! The users' machines: replicated means that all of them do the same.
//!
//! * The response to a command is the same on every server, and the same again after a restart or a restore.
//! * Two that have come to the same entry give the same snapshot, to the byte, and have the same digest if they have one.
//! * What the user says is always true of a machine is.

use std::collections::BTreeMap;

use raft_core::host::StateMachine;
use raft_core::{Entries, EntryRef, LogIndex, NodeId};
use twox_hash::XxHash3_64;

use super::{Broken, Check, ensure};
use crate::workload::Workload;

const CHECKER: &str = "agreement";

/// What was seen first, which all others are held against.
#[derive(Debug)]
pub(crate) struct Agreement<M: StateMachine> {
    responses: BTreeMap<LogIndex, M::Response>,
    snapshots: BTreeMap<LogIndex, u64>,
    digests: BTreeMap<LogIndex, u64>,
}

impl<M: StateMachine> Default for Agreement<M> {
    fn default() -> Self {
        Self { responses: BTreeMap::new(), snapshots: BTreeMap::new(), digests: BTreeMap::new() }
    }
}

impl<M: StateMachine<Response: PartialEq + std::fmt::Debug>> Agreement<M> {
    /// A machine answered the commands among these entries.
    pub(crate) fn responded(
        &mut self,
        node: NodeId,
        entries: &Entries,
        responses: &mut Vec<M::Response>,
    ) -> Check {
        let commands = entries.iter().filter_map(|entry| match entry {
            EntryRef::Command(id, _) => Some(id.index),
            EntryRef::Noop(_) | EntryRef::Membership(..) => None,
        });
        for (index, response) in commands.zip(responses.drain(..)) {
            match self.responses.get(&index) {
                Some(first) => ensure!(
                    CHECKER,
                    *first == response,
                    "n{node}'s machine answers the command at {index} with {response:?}, and another answered {first:?}"
                ),
                None => {
                    self.responses.insert(index, response);
                }
            }
        }
        Ok(())
    }

    /// A machine has come to `index`, by whatever way.
    pub(crate) fn arrived<W: Workload<Machine = M>>(
        &mut self,
        workload: &W,
        node: NodeId,
        index: LogIndex,
        machine: &M,
    ) -> Check {
        let invariant = workload.invariant(machine);
        invariant.map_err(|what| Broken::new("invariant", format!("n{node} at {index}: {what}")))?;
        let Some(digest) = workload.digest(machine) else { return Ok(()) };
        let first = *self.digests.entry(index).or_insert(digest);
        ensure!(
            CHECKER,
            first == digest,
            "n{node}'s machine at {index} has another digest than others there"
        );
        Ok(())
    }

    /// A machine at `index` gave its state.
    pub(crate) fn frozen(&mut self, node: NodeId, index: LogIndex, bytes: &[u8]) -> Check {
        let hash = XxHash3_64::oneshot(bytes);
        let first = *self.snapshots.entry(index).or_insert(hash);
        ensure!(
            CHECKER,
            first == hash,
            "n{node}'s machine at {index} gives another snapshot than others there ({} bytes)",
            bytes.len()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::testing::{index, node, puts};
    use raft_core::host::{RestoreError, SnapshotSource, WholeState};

    /// Answers with a number.
    struct Counter(u64);

    impl StateMachine for Counter {
        type Response = u64;
        type Snapshot = WholeState;
        type Error = std::convert::Infallible;

        fn apply(&mut self, _: &Entries, _: &mut Vec<u64>) -> Result<(), Self::Error> {
            Ok(())
        }

        fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
            Ok(WholeState::new(Vec::new()))
        }

        fn restore(&mut self, _: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
            Ok(())
        }
    }

    struct Small;

    impl Workload for Small {
        type Machine = Counter;

        fn machine(&self) -> Counter {
            Counter(0)
        }

        fn command(&self, _: &mut Rng) -> Vec<u8> {
            Vec::new()
        }

        fn invariant(&self, machine: &Counter) -> Result<(), String> {
            if machine.0 < 10 { Ok(()) } else { Err("too large".to_owned()) }
        }

        fn digest(&self, machine: &Counter) -> Option<u64> {
            Some(machine.0)
        }
    }

    #[test]
    fn another_response_is_seen() {
        let mut agreement = Agreement::<Counter>::default();
        assert_eq!(agreement.responded(node(1), &puts(4, 2, &[1, 2]), &mut vec![7, 8]), Ok(()));
        assert_eq!(agreement.responded(node(2), &puts(5, 2, &[2, 3]), &mut vec![8, 9]), Ok(()));
        let broken = agreement.responded(node(3), &puts(4, 2, &[1]), &mut vec![6]).unwrap_err();
        assert!(broken.what.contains("answers the command at 4 with 6, and another answered 7"), "{broken}");
    }

    #[test]
    fn another_state_at_the_same_entry_is_seen() {
        let mut agreement = Agreement::default();
        assert_eq!(agreement.arrived(&Small, node(1), index(4), &Counter(3)), Ok(()));
        assert_eq!(agreement.arrived(&Small, node(2), index(5), &Counter(4)), Ok(()));
        assert_eq!(agreement.arrived(&Small, node(2), index(4), &Counter(5)).unwrap_err().checker, CHECKER);
        assert_eq!(
            agreement.arrived(&Small, node(2), index(9), &Counter(10)).unwrap_err().checker,
            "invariant"
        );
        assert_eq!(agreement.frozen(node(1), index(4), b"abc"), Ok(()));
        assert_eq!(agreement.frozen(node(2), index(5), b"abd"), Ok(()));
        assert!(agreement.frozen(node(2), index(4), b"abd").is_err());
    }
}
