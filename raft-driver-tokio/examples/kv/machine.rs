//! The state machine: a map from keys to values, and the form of its commands.
//!
//! * Deterministic: what it holds depends on the applied commands alone, and so does its digest.
//! * A value is copied once when it is applied, so that it does not pin the log's buffers; readers share it.
//! * The digest is kept up to date with every command, so that asking for it costs nothing.
//! * The map is persistent: a copy costs nothing and shares what does not change, so a snapshot stops no write (see
//!   [`frozen`](crate::frozen)).
//! * Where clients reach each member is part of the state: it travels with log and snapshots, as the members do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use imbl::HashMap;
use raft_core::host::{RestoreError, SnapshotSource, StateMachine, TRAILER_BYTES_MAX, Unacceptable};
use raft_core::{Entries, EntryRef, LogIndex, NodeId};
use xxhash_rust::xxh3::Xxh3;

use crate::frozen::{Frozen, Thawed};

/// Longest key in bytes, after percent-decoding.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// Longest value in bytes.
pub(crate) const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Longest command in bytes, with what is written behind it (see [`once`](crate::once)).
pub(crate) const COMMAND_BYTES_MAX: usize =
    HEADER_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX + TRAILER_BYTES_MAX;

/// What kind it is, and how long the key is.
const HEADER_BYTES: usize = 3;
const PUT: u8 = 1;
const DELETE: u8 = 2;
/// The key is a node's number in 8 bytes, the value its HTTP address.
const SET_HTTP: u8 = 3;

/// Begins the command that sets `key`; the value is appended to it as it arrives.
pub(crate) fn begin_put(key: &[u8], value_bytes: usize) -> BytesMut {
    header(PUT, key, value_bytes)
}

/// The command that removes `key`.
pub(crate) fn delete(key: &[u8]) -> Bytes {
    header(DELETE, key, 0).freeze()
}

/// The command that says where clients reach a node.
pub(crate) fn set_http(node: NodeId, address: &str) -> Bytes {
    let mut command = header(SET_HTTP, &node.get().to_le_bytes(), address.len());
    command.put_slice(address.as_bytes());
    command.freeze()
}

fn header(kind: u8, key: &[u8], value_bytes: usize) -> BytesMut {
    let key_bytes = u16::try_from(key.len()).expect("keys are checked against KEY_BYTES_MAX before");
    let mut command = BytesMut::with_capacity(HEADER_BYTES + key.len() + value_bytes + TRAILER_BYTES_MAX);
    command.put_u8(kind);
    command.put_u16_le(key_bytes);
    command.put_slice(key);
    command
}

/// A command, borrowed from the log.
enum Command<'a> {
    Put { key: &'a [u8], value: &'a [u8] },
    Delete { key: &'a [u8] },
    SetHttp { node: NodeId, address: &'a str },
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
        SET_HTTP => {
            let node = <[u8; 8]>::try_from(key).map_err(|_| "it names no node")?;
            let address = std::str::from_utf8(value).map_err(|_| "its address is no text")?;
            Ok(Command::SetHttp { node: NodeId::new(u64::from_le_bytes(node)), address })
        }
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

/// Where clients reach whom.
pub(crate) type Addresses = BTreeMap<NodeId, String>;

/// A look at the machine without going through its lane. Locked once for each batch that is applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Glance(Arc<Mutex<(Summary, Arc<Addresses>)>>);

impl Glance {
    pub(crate) fn get(&self) -> Summary {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Where clients reach whom, as far as the log says.
    pub(crate) fn http(&self) -> Arc<Addresses> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner).1)
    }

    fn set(&self, summary: Summary, http: &Arc<Addresses>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (summary, Arc::clone(http));
    }
}

pub(crate) struct Stored {
    pub(crate) value: Bytes,
    hash: u128,
}

/// Keys and values. It holds them by pointers: its nodes have places to spare, and a snapshot makes it copy some.
pub(crate) type Pairs = HashMap<Arc<[u8]>, Arc<Stored>>;

/// The map. In memory: rebuilt from snapshot and log at each start.
#[derive(Default)]
pub(crate) struct Machine {
    pairs: Pairs,
    http: Arc<Addresses>,
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
        let stored = Arc::new(Stored { value: Bytes::copy_from_slice(value), hash: pair_hash(key, value) });
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

    fn forget(&mut self, before: Option<Arc<Stored>>) -> Outcome {
        if let Some(before) = &before {
            self.summary.digest = self.summary.digest.wrapping_sub(before.hash);
        }
        Outcome { existed: before.is_some() }
    }

    fn set_http(&mut self, node: NodeId, address: &str) -> Outcome {
        let before = Arc::make_mut(&mut self.http).insert(node, address.to_owned());
        let hash = |address: &str| address_hash(node, address);
        let digest = self.summary.digest.wrapping_add(hash(address));
        self.summary.digest = digest.wrapping_sub(before.as_deref().map_or(0, hash));
        Outcome { existed: before.is_some() }
    }

    fn applied(&mut self, last: LogIndex) {
        self.summary.applied = last;
        self.summary.keys = self.pairs.len() as u64;
        self.glance.set(self.summary, &self.http);
    }
}

/// The key's length goes in too: ("a", "bc") is not ("ab", "c").
fn pair_hash(key: &[u8], value: &[u8]) -> u128 {
    hash(&(key.len() as u64).to_le_bytes(), key, value)
}

fn address_hash(node: NodeId, address: &str) -> u128 {
    hash(b"http address of", &node.get().to_le_bytes(), address.as_bytes())
}

fn hash(kind: &[u8], key: &[u8], value: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(kind);
    hash.update(key);
    hash.update(value);
    hash.digest128()
}

impl StateMachine for Machine {
    type Response = Outcome;
    type Snapshot = Frozen;
    type Error = NotACommand;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<Outcome>) -> Result<(), NotACommand> {
        for entry in entries.iter() {
            if let EntryRef::Command(id, command) = entry {
                let command = decode(&command).map_err(|what| NotACommand { index: id.index, what })?;
                responses.push(match command {
                    Command::Put { key, value } => self.put(key, value),
                    Command::Delete { key } => self.delete(key),
                    Command::SetHttp { node, address } => self.set_http(node, address),
                });
            }
        }
        if let Some(last) = entries.last() {
            self.applied(last.index);
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<Frozen, NotACommand> {
        Ok(Frozen::new(self.pairs.clone(), &self.http, self.summary.digest))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<NotACommand>> {
        let mut restored = Self { glance: self.glance.clone(), ..Self::default() };
        let mut thawed = Thawed::begin(source)?;
        for (node, address) in thawed.http() {
            restored.set_http(node, &address);
        }
        while let Some((key, value)) = thawed.next_pair(source)? {
            restored.put(&key, &value);
        }
        if restored.summary.digest != thawed.digest() {
            return Err(RestoreError::Malformed("its digest is wrong"));
        }
        restored.applied(source.last().index);
        *self = restored;
        Ok(())
    }

    fn check(command: &Bytes) -> Result<(), Unacceptable> {
        decode(command).map(drop).map_err(Unacceptable::new)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use raft_core::host::FrozenState;
    use raft_core::{LogId, Membership, SnapshotError, SnapshotId, SnapshotMeta, Term, TermRun};

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
            assert!(Machine::check(&command).is_err(), "it must not even come that far");
            let error = Machine::default().apply(&entries(7, &[command]), &mut Vec::new()).unwrap_err();
            assert_eq!(error.index, LogIndex::new(7), "{error}");
        }
    }

    fn frozen(machine: &mut Machine) -> Bytes {
        let mut frozen = machine.snapshot().unwrap();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = Result::<_, Infallible>::unwrap(frozen.next_chunk()) {
            bytes.extend_from_slice(&chunk);
        }
        bytes.freeze()
    }

    fn restored(bytes: &Bytes, index: u64) -> Result<Machine, RestoreError<NotACommand>> {
        let node = NodeId::new(1);
        let last = LogId::new(Term::new(2), LogIndex::new(index));
        let meta = SnapshotMeta {
            id: SnapshotId { last, taken_by: node, seq: 1 },
            membership: Arc::new(Membership::of_voters([(node, "here".into())].into())),
            membership_index: LogIndex::FIRST,
            size_bytes: bytes.len() as u64,
            digest: 0,
            terms: Arc::new([TermRun { term: last.term, first: LogIndex::FIRST }]),
        };
        let mut read = |offset: u64, bytes_max: u64| {
            let from = usize::try_from(offset).unwrap();
            let end = bytes.len().min(from + usize::try_from(bytes_max).unwrap());
            Ok::<_, SnapshotError>(bytes.slice(from..end))
        };
        let mut machine = applied(&[put("old", "gone")]).0;
        machine.restore(&mut SnapshotSource::new(&meta, &mut read))?;
        Ok(machine)
    }

    #[test]
    fn a_snapshot_is_the_state_when_it_was_frozen_and_restores_it() {
        let node = NodeId::new(7);
        let long = "v".repeat(700_000);
        let commands =
            [put("a", "1"), put("b", &long), put("", ""), set_http(node, "h:1"), set_http(node, "h:2")];
        let (mut machine, _) = applied(&commands);
        let mut earlier = machine.snapshot().unwrap();
        machine.apply(&entries(6, &[put("a", "2"), delete(b"b")]), &mut Vec::new()).unwrap();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = earlier.next_chunk().unwrap() {
            bytes.extend_from_slice(&chunk);
        }
        let machine = restored(&bytes.freeze(), 5).unwrap();
        let summary = applied(&commands).0.glance().get();
        assert_eq!(machine.glance().get(), summary);
        assert_eq!((machine.get(b"a"), machine.get(b"old")), (Some("1".into()), None));
        assert_eq!(machine.get(b"b").map(|value| value.len()), Some(700_000));
        assert_eq!(machine.glance().http()[&node], "h:2");
        let empty = frozen(&mut Machine::default());
        assert_eq!(restored(&empty, 9).unwrap().glance().get().applied, LogIndex::new(9));
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        let whole = frozen(&mut applied(&[put("a", "1"), put("b", "2")]).0);
        restored(&whole, 2).unwrap();
        for length in 0..whole.len() {
            assert!(restored(&whole.slice(..length), 2).is_err(), "cut to {length} bytes");
        }
        for at in 0..whole.len() {
            let mut altered = whole.to_vec();
            altered[at] ^= 1;
            assert!(restored(&altered.into(), 2).is_err(), "byte {at} altered");
        }
        let longer = Bytes::from([&whole[..], b"x"].concat());
        assert!(restored(&longer, 2).is_err(), "bytes too many");
    }
}
