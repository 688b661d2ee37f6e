//! The state machine: a map from keys to values, and the form of its commands.
//!
//! * Deterministic: what it holds depends on the applied commands alone, and so does its digest.
//! * A value is copied once when it is applied, so that it does not pin the log's buffers; readers share it.
//! * The digest is kept up to date with every command, so that asking for it costs nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use raft_core::host::StateMachine;
use raft_core::{Entries, EntryRef, LogIndex};
use xxhash_rust::xxh3::Xxh3;

/// Longest key in bytes, after percent-decoding.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// Longest value in bytes.
pub(crate) const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Longest command in bytes.
pub(crate) const COMMAND_BYTES_MAX: usize = HEADER_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// What kind it is, and how long the key is.
const HEADER_BYTES: usize = 3;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Begins the command that sets `key`; the value is appended to it as it arrives.
pub(crate) fn begin_put(key: &[u8], value_bytes: usize) -> BytesMut {
    header(PUT, key, value_bytes)
}

/// The command that removes `key`.
pub(crate) fn delete(key: &[u8]) -> Bytes {
    header(DELETE, key, 0).freeze()
}

fn header(kind: u8, key: &[u8], value_bytes: usize) -> BytesMut {
    let key_bytes = u16::try_from(key.len()).expect("keys are checked against KEY_BYTES_MAX before");
    let mut command = BytesMut::with_capacity(HEADER_BYTES + key.len() + value_bytes);
    command.put_u8(kind);
    command.put_u16_le(key_bytes);
    command.put_slice(key);
    command
}

/// A command, borrowed from the log.
enum Command<'a> {
    Put { key: &'a [u8], value: &'a [u8] },
    Delete { key: &'a [u8] },
}

/// A command in the log that this program did not write. Skipping it would make this machine differ from others.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the entry at index {index} is no command of this program: {what}")]
pub(crate) struct NotACommand {
    index: LogIndex,
    what: &'static str,
}

fn decode(command: &[u8]) -> Result<Command<'_>, &'static str> {
    let (header, rest) = command.split_first_chunk::<HEADER_BYTES>().ok_or("it is too short")?;
    let [kind, low, high] = *header;
    let key_bytes = usize::from(u16::from_le_bytes([low, high]));
    let (key, value) = rest.split_at_checked(key_bytes).ok_or("its key is cut short")?;
    match kind {
        PUT => Ok(Command::Put { key, value }),
        DELETE if value.is_empty() => Ok(Command::Delete { key }),
        DELETE => Err("it removes a key and has a value"),
        _ => Err("its kind is unknown"),
    }
}

/// What a client learns of its command beside the log index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Whether the key had a value before.
    pub(crate) existed: bool,
}

/// The machine at a glance, to compare nodes by: equal `applied` must mean equal `digest`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) applied: LogIndex,
    pub(crate) keys: u64,
    /// The sum of every pair's hash: independent of the order in which pairs came to be.
    pub(crate) digest: u128,
}

/// A look at the machine's summary without going through its lane. Locked once for each batch that is applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Glance(Arc<Mutex<Summary>>);

impl Glance {
    pub(crate) fn get(&self) -> Summary {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, summary: Summary) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = summary;
    }
}

struct Stored {
    value: Bytes,
    hash: u128,
}

/// The map. In memory: rebuilt from the log at each start.
#[derive(Default)]
pub(crate) struct Machine {
    pairs: HashMap<Box<[u8]>, Stored>,
    summary: Summary,
    glance: Glance,
}

impl Machine {
    pub(crate) fn glance(&self) -> Glance {
        self.glance.clone()
    }

    /// The value of `key`, shared with the map.
    pub(crate) fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.pairs.get(key).map(|stored| stored.value.clone())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Outcome {
        let stored = Stored { value: Bytes::copy_from_slice(value), hash: pair_hash(key, value) };
        self.summary.digest = self.summary.digest.wrapping_add(stored.hash);
        // Most writes to a hot key find it: look first, so that the key is copied only when it is new.
        let before = match self.pairs.get_mut(key) {
            Some(place) => Some(std::mem::replace(place, stored)),
            None => self.pairs.insert(key.into(), stored),
        };
        self.forget(before)
    }

    fn delete(&mut self, key: &[u8]) -> Outcome {
        let before = self.pairs.remove(key);
        self.forget(before)
    }

    fn forget(&mut self, before: Option<Stored>) -> Outcome {
        if let Some(before) = &before {
            self.summary.digest = self.summary.digest.wrapping_sub(before.hash);
        }
        Outcome { existed: before.is_some() }
    }
}

/// The key's length goes in too: ("a", "bc") is not ("ab", "c").
fn pair_hash(key: &[u8], value: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(value);
    hash.digest128()
}

impl StateMachine for Machine {
    type Response = Outcome;
    type Error = NotACommand;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Outcome>) -> Result<(), NotACommand> {
        for entry in entries.iter() {
            if let EntryRef::Command(id, command) = entry {
                let command = decode(&command).map_err(|what| NotACommand { index: id.index, what })?;
                responses.push(match command {
                    Command::Put { key, value } => self.put(key, value),
                    Command::Delete { key } => self.delete(key),
                });
            }
        }
        if let Some(last) = entries.last() {
            self.summary.applied = last.index;
            self.summary.keys = self.pairs.len() as u64;
            self.glance.set(self.summary);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raft_core::{LogId, Term};

    use super::*;

    fn put(key: &str, value: &str) -> Bytes {
        let mut command = begin_put(key.as_bytes(), value.len());
        command.put_slice(value.as_bytes());
        command.freeze()
    }

    fn entries(first: u64, commands: &[Bytes]) -> Entries {
        Entries::commands(LogId::new(Term::new(2), LogIndex::new(first)), &commands.iter().collect())
    }

    fn applied(commands: &[Bytes]) -> (Machine, Vec<bool>) {
        let (mut machine, mut responses) = (Machine::default(), Vec::new());
        machine.apply(&entries(1, commands), &mut responses).unwrap();
        (machine, responses.iter().map(|outcome| outcome.existed).collect())
    }

    #[test]
    fn puts_replaces_and_deletes() {
        let (machine, existed) =
            applied(&[put("a", "1"), put("a", "2"), put("b", ""), delete(b"a"), delete(b"a")]);
        assert_eq!(existed, [false, true, false, true, false]);
        assert_eq!(machine.get(b"a"), None);
        assert_eq!(machine.get(b"b"), Some(Bytes::new()));
        let summary = machine.glance().get();
        assert_eq!((summary.applied, summary.keys), (LogIndex::new(5), 1));
    }

    #[test]
    fn the_digest_depends_on_the_state_alone() {
        let digest = |commands: &[Bytes]| applied(commands).0.glance().get().digest;
        let state = digest(&[put("a", "1"), put("b", "2")]);
        assert_eq!(
            state,
            digest(&[put("b", "0"), put("a", "1"), put("c", "3"), put("b", "2"), delete(b"c")])
        );
        assert_ne!(state, digest(&[put("a", "2"), put("b", "1")]));
        assert_ne!(digest(&[put("a", "bc")]), digest(&[put("ab", "c")]));
        assert_eq!(digest(&[put("a", "1"), delete(b"a")]), 0);
    }

    #[test]
    fn what_is_no_command_is_an_error_and_never_skipped() {
        for bad in [&b""[..], b"\x01\x00", b"\x01\x05\x00key", b"\x02\x01\x00kv", b"\x09\x01\x00k"] {
            let command = Bytes::copy_from_slice(bad);
            let error = Machine::default().apply(&entries(7, &[command]), &mut Vec::new()).unwrap_err();
            assert_eq!(error.index, LogIndex::new(7), "{error}");
        }
    }
}
