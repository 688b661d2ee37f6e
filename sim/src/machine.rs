//! The replicated state machine that runs by default: a key-value store, and its commands.
//!
//! * A value is the number of the operation that put it, so that every value is unique and a read names the
//!   write it saw.
//! * The machine's digest covers everything that it ever applied, in order.
//! * Its snapshots are bytes of that and of the server that took them: chunks of two must never be put together, even
//!   if both are of the same entry.
//! * It may be durable: then it has an image of its own, older than itself, from which it starts again.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Entries, EntryRef, LogId, LogIndex, Term};

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
pub(crate) struct State {
    values: BTreeMap<u16, u64>,
    pub(crate) applied: LogId,
    pub(crate) digest: u64,
}

impl State {
    /// Applies an entry, with the operation and the key in it if it is a command. Returns the value that was there.
    pub(crate) fn apply(&mut self, id: LogId, put: Option<(u64, u16)>) -> Option<u64> {
        self.applied = id;
        let (op, key) = put?;
        let before = self.values.insert(key, op);
        for part in [id.index.get(), id.term.get(), op, u64::from(key), before.unwrap_or(u64::MAX)] {
            self.digest = fold(self.digest, part);
        }
        before
    }

    /// A number for the values alone.
    pub(crate) fn values_digest(&self) -> u64 {
        self.values.iter().fold(0, |sum, (key, op)| fold(fold(sum, u64::from(*key)), *op))
    }

    /// The state as bytes, with `ballast_bytes` more behind it, as the server with this `salt` writes it.
    fn encode(&self, salt: u64, ballast_bytes: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(40 + 10 * self.values.len() + ballast_bytes);
        let count = self.values.len() as u64;
        let head = [salt, self.applied.term.get(), self.applied.index.get(), self.digest, count];
        for part in head {
            bytes.extend_from_slice(&part.to_le_bytes());
        }
        for (key, op) in &self.values {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(&op.to_le_bytes());
        }
        let (mut noise, end) = (fold(salt, self.digest), bytes.len() + ballast_bytes);
        while bytes.len() < end {
            noise = fold(noise, 1);
            let part = noise.to_le_bytes();
            bytes.extend_from_slice(&part[..part.len().min(end - bytes.len())]);
        }
        bytes.into()
    }

    /// The state whose bytes these are.
    pub(crate) fn decode(snapshot: &[u8]) -> Option<Self> {
        let mut rest = snapshot;
        let mut number = || {
            let (first, others) = rest.split_first_chunk::<8>()?;
            rest = others;
            Some(u64::from_le_bytes(*first))
        };
        let (salt, term, index, digest, count) = (number()?, number()?, number()?, number()?, number()?);
        let mut values = BTreeMap::new();
        for _ in 0..count {
            let (key, others) = rest.split_first_chunk::<2>()?;
            let (op, others) = others.split_first_chunk::<8>()?;
            values.insert(u16::from_le_bytes(*key), u64::from_le_bytes(*op));
            rest = others;
        }
        let applied = LogId::new(Term::new(term), LogIndex::new(index));
        let state = Self { values, applied, digest };
        // The ballast, too, is a function of the state.
        (state.encode(salt, rest.len()) == snapshot).then_some(state)
    }
}

/// A key-value store whose values are the numbers of the operations that put them.
#[derive(Debug, Default)]
pub struct KvMachine {
    state: State,
    /// What survives a crash.
    image: State,
    /// What tells its snapshots from another server's, and how much longer they are than they need to be.
    salt: u64,
    ballast_bytes: usize,
}

impl KvMachine {
    /// The machine of a server, whose snapshots are longer by this much.
    pub(crate) fn with_ballast(salt: u64, ballast_bytes: usize) -> Self {
        Self { salt, ballast_bytes, ..Self::default() }
    }

    /// The operation that last put `key`.
    pub(crate) fn get(&self, key: u16) -> Option<u64> {
        self.state.values.get(&key).copied()
    }

    /// The last entry applied.
    pub(crate) fn applied(&self) -> LogId {
        self.state.applied
    }

    /// What it holds.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Applies entries given as (index, term, operation on key 0), for hand-made histories.
    #[cfg(test)]
    pub(crate) fn apply_all(&mut self, entries: &[(u64, u64, Option<u64>)]) {
        for (index, term, op) in entries {
            let id = LogId::new(Term::new(*term), LogIndex::new(*index));
            self.state.apply(id, op.map(|op| (op, 0)));
        }
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
    type Snapshot = WholeState;
    type Error = BadCommand;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Self::Response>) -> Result<(), BadCommand> {
        for entry in entries.iter() {
            if let EntryRef::Command(id, command) = entry {
                let put = parse(&command).ok_or(BadCommand(id))?;
                responses.push((id.index, self.state.apply(id, Some(put))));
            } else {
                self.state.apply(entry.id(), None);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, BadCommand> {
        Ok(WholeState::new(self.state.encode(self.salt, self.ballast_bytes)))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<BadCommand>> {
        let bytes = source.read_to_end()?;
        self.state = State::decode(&bytes).ok_or(RestoreError::Malformed("these are no values"))?;
        Ok(())
    }

    fn recover(&mut self) -> Result<LogId, BadCommand> {
        Ok(self.image.applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{commands, frozen, id, puts, snapshot_meta};
    use raft_core::SnapshotMeta;

    #[test]
    fn puts_replace_values_and_a_crash_falls_back_to_the_image() {
        let mut machine = KvMachine::default();
        let mut responses = Vec::new();
        machine.apply(&puts(1, 1, &[7]), &mut responses).unwrap();
        machine.save();
        let saved = machine.state().digest;
        machine.apply(&Entries::noop(id(2, 2)), &mut responses).unwrap();
        machine.apply(&puts(3, 2, &[8]), &mut responses).unwrap();
        assert_eq!(responses, [(LogIndex::new(1), None), (LogIndex::new(3), Some(7))]);
        assert_eq!((machine.get(0), machine.get(1), machine.applied()), (Some(8), None, id(3, 2)));
        assert_ne!(machine.state().digest, saved);
        machine.crash();
        assert_eq!((machine.get(0), machine.applied(), machine.state().digest), (Some(7), id(1, 1), saved));
        assert_eq!(machine.recover(), Ok(id(1, 1)));
    }

    #[test]
    fn a_command_that_is_no_put_is_an_error() {
        let result = KvMachine::default().apply(&commands(4, 2, &["short"]), &mut Vec::new());
        assert_eq!(result, Err(BadCommand(id(4, 2))));
        assert_eq!(parse(&put(9, 3, 100)), Some((9, 3)));
    }

    #[test]
    fn a_snapshot_is_the_state_and_nothing_else_is_one() {
        let mut machine = KvMachine::with_ballast(3, 50);
        machine.apply(&puts(1, 1, &[7, 8]), &mut Vec::new()).unwrap();
        let bytes = frozen(&mut machine);
        assert_eq!(bytes.len(), 40 + 10 + 50);
        let meta = SnapshotMeta { size_bytes: bytes.len() as u64, ..snapshot_meta(2, 1, 1) };
        let restore = |bytes: &[u8]| {
            let mut other = KvMachine::default();
            let mut read = |offset: u64, bytes_max: u64| {
                let from = usize::try_from(offset).unwrap();
                let to = bytes.len().min(from + usize::try_from(bytes_max).unwrap().min(20));
                Ok(Bytes::copy_from_slice(&bytes[from..to]))
            };
            other.restore(&mut SnapshotSource::new(&meta, &mut read)).map(|()| other.state)
        };
        assert_eq!(restore(&bytes).as_ref(), Ok(machine.state()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert_ne!(restore(&damaged).as_ref(), Ok(machine.state()), "byte {at}");
        }
        assert!(restore(&bytes[1..]).is_err());
    }
}
