//! What a server of a run replicates: the simulator's ledger, and beside it the user's own machine.
//!
//! * A command is a *put* of the ledger, with the user's command in it. The ledger is a small key-value store whose
//!   values are the numbers of the operations that put them: every value is unique, and a read names the write it saw.
//! * The ledger's digest covers everything that it ever applied, in order.
//! * A snapshot is bytes of both, and of the server that took it: chunks of two must never be put together, even if both
//!   are of the same entry.
//! * A machine may be durable: then it has an image of its own, older than itself, from which it starts again.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::host::{FrozenState, SnapshotSource, StateMachine};
use raft_core::{
    CommandPacker, Entries, EntryRef, LogId, LogIndex, Membership, NodeId, SnapshotId, SnapshotMeta, Term,
};

use crate::rng::fold;

const HEADER_BYTES: usize = 14;

/// A command that puts operation `op` as the value of `key`, with the user's command and `padding` bytes behind it.
pub(crate) fn put(op: u64, key: u16, user: &[u8], padding: usize) -> Vec<u8> {
    let length = u32::try_from(user.len()).expect("a command is shorter than 4 GiB");
    let mut command = Vec::with_capacity(HEADER_BYTES + user.len() + padding);
    command.extend_from_slice(&op.to_le_bytes());
    command.extend_from_slice(&key.to_le_bytes());
    command.extend_from_slice(&length.to_le_bytes());
    command.extend_from_slice(user);
    command.resize(command.len() + padding, (op as u8) ^ 0x5a);
    command
}

/// The operation and the key of a command.
pub(crate) fn parse(command: &[u8]) -> Option<(u64, u16)> {
    let op = u64::from_le_bytes(command.get(..8)?.try_into().ok()?);
    let key = u16::from_le_bytes(command.get(8..10)?.try_into().ok()?);
    Some((op, key))
}

/// The user's command in a command.
fn user_command(command: &[u8]) -> Option<&[u8]> {
    let length = u32::from_le_bytes(command.get(10..HEADER_BYTES)?.try_into().ok()?);
    command.get(HEADER_BYTES..HEADER_BYTES + usize::try_from(length).ok()?)
}

fn value_digest(key: u16, op: u64) -> u64 {
    fold(fold(1, u64::from(key)), op)
}

/// The ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    values: BTreeMap<u16, u64>,
    /// A number for the values alone: the sum of one for each.
    values_digest: u64,
    pub(crate) applied: LogId,
    pub(crate) digest: u64,
}

impl State {
    /// Applies an entry, with the operation and the key in it if it is a command. Returns the value that was there.
    pub(crate) fn apply(&mut self, id: LogId, put: Option<(u64, u16)>) -> Option<u64> {
        self.applied = id;
        let (op, key) = put?;
        let before = self.values.insert(key, op);
        let gone = before.map_or(0, |before| value_digest(key, before));
        self.values_digest = self.values_digest.wrapping_add(value_digest(key, op)).wrapping_sub(gone);
        for part in [id.index.get(), id.term.get(), op, u64::from(key), before.unwrap_or(u64::MAX)] {
            self.digest = fold(self.digest, part);
        }
        before
    }

    /// A number for the values alone.
    pub(crate) fn values_digest(&self) -> u64 {
        self.values_digest
    }

    /// The state as bytes, with the user's behind it and `ballast_bytes` more, as the server with this `salt` writes it.
    fn encode(&self, salt: u64, user: &[u8], ballast_bytes: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(48 + 10 * self.values.len() + user.len() + ballast_bytes);
        let (count, length) = (self.values.len() as u64, user.len() as u64);
        let head = [salt, self.applied.term.get(), self.applied.index.get(), self.digest, count, length];
        for part in head {
            bytes.extend_from_slice(&part.to_le_bytes());
        }
        for (key, op) in &self.values {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(&op.to_le_bytes());
        }
        bytes.extend_from_slice(user);
        let (mut noise, end) = (fold(salt, self.digest), bytes.len() + ballast_bytes);
        while bytes.len() < end {
            noise = fold(noise, 1);
            let part = noise.to_le_bytes();
            bytes.extend_from_slice(&part[..part.len().min(end - bytes.len())]);
        }
        bytes.into()
    }

    /// The state whose bytes these are, and the user's bytes in them.
    pub(crate) fn decode(snapshot: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = snapshot;
        let mut number = || {
            let (first, others) = rest.split_first_chunk::<8>()?;
            rest = others;
            Some(u64::from_le_bytes(*first))
        };
        let (salt, term, index, digest) = (number()?, number()?, number()?, number()?);
        let (count, length) = (number()?, number()?);
        let mut values = BTreeMap::new();
        for _ in 0..count {
            let (key, others) = rest.split_first_chunk::<2>()?;
            let (op, others) = others.split_first_chunk::<8>()?;
            values.insert(u16::from_le_bytes(*key), u64::from_le_bytes(*op));
            rest = others;
        }
        let (user, ballast) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let applied = LogId::new(Term::new(term), LogIndex::new(index));
        let digests = values.iter().map(|(key, op)| value_digest(*key, *op));
        let values_digest = digests.fold(0, u64::wrapping_add);
        let state = Self { values, values_digest, applied, digest };
        // The ballast, too, is a function of the state.
        (state.encode(salt, user, ballast.len()) == snapshot).then_some((state, user))
    }
}

/// What a machine or a snapshot is not: the text says which and why.
pub(crate) type Fault = String;

/// The ledger and the user's machine of one server.
pub(crate) struct Machine<M> {
    ledger: State,
    user: M,
    /// What survives a crash: the ledger, and the user's machine as a snapshot. `None`: nothing.
    image: Option<(State, Bytes)>,
    /// What tells its snapshots from another server's, and how much longer they are than they need to be.
    salt: u64,
    ballast_bytes: usize,
}

impl<M: StateMachine> Machine<M> {
    /// The machine of a server, whose snapshots are longer by this much.
    pub(crate) fn new(user: M, salt: u64, ballast_bytes: usize) -> Self {
        Self { ledger: State::default(), user, image: None, salt, ballast_bytes }
    }

    /// The operation that last put `key`.
    pub(crate) fn get(&self, key: u16) -> Option<u64> {
        self.ledger.values.get(&key).copied()
    }

    /// The last entry applied.
    pub(crate) fn applied(&self) -> LogId {
        self.ledger.applied
    }

    /// What the ledger holds.
    pub(crate) fn state(&self) -> &State {
        &self.ledger
    }

    /// The user's machine.
    pub(crate) fn user(&self) -> &M {
        &self.user
    }

    /// Applies entries, and collects the user's responses.
    ///
    /// # Errors
    /// If a command is none, or the user's machine fails or gives another number of responses than there are commands.
    pub(crate) fn apply(&mut self, entries: &Entries, responses: &mut Vec<M::Response>) -> Result<(), Fault> {
        let mut parts = Vec::new();
        let (mut packer, mut first, mut commands) = (CommandPacker::default(), LogId::ZERO, 0);
        for entry in entries.iter() {
            let id = entry.id();
            if !packer.is_empty() && (id.term != first.term || !matches!(entry, EntryRef::Command(..))) {
                parts.push(Entries::commands(first, &packer.finish()));
            }
            match entry {
                EntryRef::Command(id, command) => {
                    let parsed = parse(&command).zip(user_command(&command));
                    let (put, user) = parsed.ok_or_else(|| format!("the command at {id} is no put"))?;
                    self.ledger.apply(id, Some(put));
                    if packer.is_empty() {
                        first = id;
                    }
                    packer.push(user);
                    commands += 1;
                }
                EntryRef::Noop(id) => {
                    self.ledger.apply(id, None);
                    parts.push(Entries::noop(id));
                }
                EntryRef::Membership(id, membership) => {
                    self.ledger.apply(id, None);
                    parts.push(Entries::membership(id, membership.clone()));
                }
            }
        }
        if !packer.is_empty() {
            parts.push(Entries::commands(first, &packer.finish()));
        }
        let entries = Entries::join(parts).map_err(|error| error.to_string())?;
        self.user.apply(&entries, responses).map_err(|error| error.to_string())?;
        if responses.len() != commands {
            return Err(format!("{} responses to {commands} commands", responses.len()));
        }
        Ok(())
    }

    /// The user's state as bytes.
    ///
    /// # Errors
    /// If the machine cannot give it.
    pub(crate) fn user_bytes(&mut self) -> Result<Vec<u8>, Fault> {
        let mut frozen = self.user.snapshot().map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        while let Some(chunk) = frozen.next_chunk().map_err(|error| error.to_string())? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// A snapshot of both, and the user's part of it.
    ///
    /// # Errors
    /// If the user's machine cannot give it.
    pub(crate) fn snapshot(&mut self) -> Result<(Bytes, Vec<u8>), Fault> {
        let user = self.user_bytes()?;
        Ok((self.ledger.encode(self.salt, &user, self.ballast_bytes), user))
    }

    /// Replaces both by a snapshot's, which is read in `pieces`.
    ///
    /// # Errors
    /// If these bytes are no snapshot, or the user's machine does not take its part.
    pub(crate) fn restore(&mut self, bytes: &[u8], pieces: u64) -> Result<(), Fault> {
        let (ledger, user) = State::decode(bytes).ok_or("this is no snapshot")?;
        restore_user(&mut self.user, ledger.applied, user, pieces)?;
        self.ledger = ledger;
        Ok(())
    }

    /// Makes the present state durable.
    ///
    /// # Errors
    /// If the user's machine cannot give its state.
    pub(crate) fn save(&mut self) -> Result<(), Fault> {
        self.image = Some((self.ledger.clone(), self.user_bytes()?.into()));
        Ok(())
    }

    /// Falls back to what was saved last, with a new machine of the user's.
    pub(crate) fn crash(&mut self, user: M) {
        self.user = user;
        self.ledger = State::default();
    }

    /// What is left after a crash: the last entry whose effect was saved.
    ///
    /// # Errors
    /// If the user's machine does not take back what it gave.
    pub(crate) fn recover(&mut self) -> Result<LogId, Fault> {
        if let Some((ledger, bytes)) = &self.image {
            self.ledger.clone_from(ledger);
            restore_user(&mut self.user, ledger.applied, bytes, 1)?;
        }
        Ok(self.ledger.applied)
    }

    /// Loses its image too, with the disk that it was on.
    pub(crate) fn lose(&mut self) {
        self.image = None;
    }
}

fn restore_user<M: StateMachine>(user: &mut M, last: LogId, bytes: &[u8], pieces: u64) -> Result<(), Fault> {
    let length = bytes.len() as u64;
    // Of what is known of a snapshot, a machine sees its last entry and its length.
    let meta = SnapshotMeta {
        id: SnapshotId { last, taken_by: NodeId::new(1), seq: 0 },
        membership: Arc::new(Membership::of_voters(BTreeMap::new())),
        membership_index: LogIndex::ZERO,
        size_bytes: length,
        digest: 0,
        terms: Arc::new([]),
    };
    let mut read = |offset: u64, bytes_max: u64| {
        let from = usize::try_from(offset).unwrap_or(bytes.len()).min(bytes.len());
        let most = usize::try_from(length.div_ceil(pieces).min(bytes_max)).unwrap_or(0);
        Ok(Bytes::copy_from_slice(&bytes[from..bytes.len().min(from + most)]))
    };
    user.restore(&mut SnapshotSource::new(&meta, &mut read)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{commands, id, puts};
    use crate::workload::Nothing;

    fn machine() -> Machine<Nothing> {
        Machine::new(Nothing, 3, 50)
    }

    #[test]
    fn puts_replace_values_and_a_crash_falls_back_to_the_image() {
        let mut machine = machine();
        let mut responses = Vec::new();
        machine.apply(&puts(1, 1, &[7]), &mut responses).unwrap();
        machine.save().unwrap();
        let saved = machine.state().digest;
        responses.clear();
        let more = Entries::join([Entries::noop(id(2, 2)), puts(3, 2, &[8])]).unwrap();
        machine.apply(&more, &mut responses).unwrap();
        assert_eq!(responses.len(), 1);
        assert_eq!((machine.get(0), machine.get(1), machine.applied()), (Some(8), None, id(3, 2)));
        assert_ne!(machine.state().digest, saved);
        machine.crash(Nothing);
        assert_eq!((machine.get(0), machine.applied()), (None, LogId::ZERO));
        assert_eq!(machine.recover(), Ok(id(1, 1)));
        assert_eq!((machine.get(0), machine.state().digest), (Some(7), saved));
        machine.lose();
        machine.crash(Nothing);
        assert_eq!(machine.recover(), Ok(LogId::ZERO));
    }

    #[test]
    fn a_command_that_is_no_put_is_an_error() {
        let result = machine().apply(&commands(4, 2, &["short"]), &mut Vec::new());
        assert_eq!(result, Err("the command at 4@2 is no put".to_owned()));
        let command = put(9, 3, b"user", 100);
        assert_eq!((parse(&command), user_command(&command)), (Some((9, 3)), Some(&b"user"[..])));
    }

    #[test]
    fn a_snapshot_is_the_state_and_nothing_else_is_one() {
        let mut taken = machine();
        taken.apply(&puts(1, 1, &[7, 8]), &mut Vec::new()).unwrap();
        let (bytes, user) = taken.snapshot().unwrap();
        assert_eq!((bytes.len(), user.len()), (48 + 10 + 50, 0));
        let restore = |bytes: &[u8]| {
            let mut other = machine();
            other.restore(bytes, 3).map(|()| other.ledger)
        };
        assert_eq!(restore(&bytes).as_ref(), Ok(taken.state()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1;
            assert_ne!(restore(&damaged).as_ref(), Ok(taken.state()), "byte {at}");
        }
        assert!(restore(&bytes[1..]).is_err());
    }
}
