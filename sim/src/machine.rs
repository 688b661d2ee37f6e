//! The replicated state machine that runs by default: a key-value store, and its commands.
//!
//! * A value is the number of the operation that put it, so that every value is unique and a read names the
//!   write it saw.
//! * The machine's digest covers everything that it ever applied, in order.
//! * It may be durable: then it has an image of its own, older than itself, from which it starts again.

use std::collections::BTreeMap;

use raft_core::host::StateMachine;
use raft_core::{Entries, EntryRef, LogId, LogIndex};

use crate::rng::fold;

const HEADER_BYTES: usize = 10;

/// A command that puts operation `op` as the value of `key`, with `padding` bytes behind it.
pub(crate) fn put(op: u64, key: u16, padding: usize) -> Vec<u8> {
    let mut command = Vec::with_capacity(HEADER_BYTES + padding);
    command.extend_from_slice(&op.to_le_bytes());
    command.extend_from_slice(&key.to_le_bytes());
    command.resize(HEADER_BYTES + padding, (op as u8) ^ 0x5a);
    command
}

/// The operation and the key of a command.
pub(crate) fn parse(command: &[u8]) -> Option<(u64, u16)> {
    let op = u64::from_le_bytes(command.get(..8)?.try_into().ok()?);
    let key = u16::from_le_bytes(command.get(8..HEADER_BYTES)?.try_into().ok()?);
    Some((op, key))
}

/// A command that the machine cannot read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the command at {0} is no put")]
pub struct BadCommand(pub LogId);

/// The state of a [`KvMachine`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    values: BTreeMap<u16, u64>,
    applied: LogId,
    digest: u64,
}

/// A key-value store whose values are the numbers of the operations that put them.
#[derive(Debug, Default)]
pub struct KvMachine {
    state: State,
    /// What survives a crash.
    image: State,
}

impl KvMachine {
    /// The operation that last put `key`.
    pub(crate) fn get(&self, key: u16) -> Option<u64> {
        self.state.values.get(&key).copied()
    }

    /// The last entry applied.
    pub(crate) fn applied(&self) -> LogId {
        self.state.applied
    }

    /// Equal for machines that applied the same commands in the same order.
    pub(crate) fn digest(&self) -> u64 {
        self.state.digest
    }

    /// Makes the present state durable.
    pub(crate) fn save(&mut self) {
        self.image.clone_from(&self.state);
    }

    /// Falls back to what was saved last.
    pub(crate) fn crash(&mut self) {
        self.state.clone_from(&self.image);
    }
}

impl StateMachine for KvMachine {
    /// The value that was there before, and where the command stood.
    type Response = (LogIndex, Option<u64>);
    type Error = BadCommand;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Self::Response>) -> Result<(), BadCommand> {
        let state = &mut self.state;
        for entry in entries.iter() {
            if let EntryRef::Command(id, command) = entry {
                let (op, key) = parse(&command).ok_or(BadCommand(id))?;
                let before = state.values.insert(key, op);
                for part in [id.index.get(), id.term.get(), op, u64::from(key), before.unwrap_or(u64::MAX)] {
                    state.digest = fold(state.digest, part);
                }
                responses.push((id.index, before));
            }
            state.applied = entry.id();
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<LogId, BadCommand> {
        Ok(self.image.applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{commands, id, puts};

    #[test]
    fn puts_replace_values_and_a_crash_falls_back_to_the_image() {
        let mut machine = KvMachine::default();
        let mut responses = Vec::new();
        machine.apply(&puts(1, 1, &[7]), &mut responses).unwrap();
        machine.save();
        let saved = machine.digest();
        machine.apply(&Entries::noop(id(2, 2)), &mut responses).unwrap();
        machine.apply(&puts(3, 2, &[8]), &mut responses).unwrap();
        assert_eq!(responses, [(LogIndex::new(1), None), (LogIndex::new(3), Some(7))]);
        assert_eq!((machine.get(0), machine.get(1), machine.applied()), (Some(8), None, id(3, 2)));
        assert_ne!(machine.digest(), saved);
        machine.crash();
        assert_eq!((machine.get(0), machine.applied(), machine.digest()), (Some(7), id(1, 1), saved));
        assert_eq!(machine.recover(), Ok(id(1, 1)));
    }

    #[test]
    fn a_command_that_is_no_put_is_an_error() {
        let result = KvMachine::default().apply(&commands(4, 2, &["short"]), &mut Vec::new());
        assert_eq!(result, Err(BadCommand(id(4, 2))));
        assert_eq!(parse(&put(9, 3, 100)), Some((9, 3)));
    }
}
