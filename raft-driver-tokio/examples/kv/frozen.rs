//! The machine's state as bytes: what a snapshot holds.
//!
//! | bytes | content, little endian |
//! |--:|---|
//! | 8 | [`MAGIC`] |
//! | 16 | digest of the state |
//! | 4 | how many HTTP addresses; for each: node in 8, length in 2, address |
//! | 8 | how many pairs |
//! | … | for each, in the order of keys: key's length in 2, value's length in 4, key, value |

use std::convert::Infallible;
use std::sync::Arc;
use std::vec;

use bytes::{BufMut, Bytes, BytesMut};
use raft_core::NodeId;
use raft_core::host::{FrozenState, RestoreError, SnapshotSource};

use crate::machine::{Addresses, KEY_BYTES_MAX, Pairs, Stored, VALUE_BYTES_MAX};

const MAGIC: [u8; 8] = *b"kvsnap-1";
/// A chunk is given once it holds this much.
const CHUNK_BYTES: usize = 256 * 1024;
const NODES_MAX: u32 = 1 << 16;

/// The state at one point. Holds what the map shared with it then, and lets go of it pair by pair.
pub(crate) struct Frozen {
    /// All of them, until the first is asked for: to put them in order takes its time.
    whole: Option<Pairs>,
    pairs: vec::IntoIter<(Arc<[u8]>, Arc<Stored>)>,
    next: BytesMut,
}

impl Frozen {
    pub(crate) fn new(pairs: Pairs, http: &Addresses, digest: u128) -> Self {
        let mut next = BytesMut::new();
        next.put_slice(&MAGIC);
        next.put_u128_le(digest);
        next.put_u32_le(u32::try_from(http.len()).expect("as many as there are nodes"));
        for (node, address) in http {
            next.put_u64_le(node.get());
            next.put_u16_le(u16::try_from(address.len()).expect("addresses are checked before"));
            next.put_slice(address.as_bytes());
        }
        next.put_u64_le(pairs.len() as u64);
        Self { whole: Some(pairs), pairs: Vec::new().into_iter(), next }
    }
}

impl FrozenState for Frozen {
    type Error = Infallible;

    fn next_chunk(&mut self) -> Result<Option<Bytes>, Infallible> {
        if let Some(whole) = self.whole.take() {
            // Equal states give equal snapshots, though each node's map has an order of its own.
            let mut pairs: Vec<_> = whole.into_iter().collect();
            pairs.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            self.pairs = pairs.into_iter();
        }
        while self.next.len() < CHUNK_BYTES {
            let Some((key, stored)) = self.pairs.next() else { break };
            let value = &stored.value;
            self.next.put_u16_le(u16::try_from(key.len()).expect("no longer than KEY_BYTES_MAX"));
            self.next.put_u32_le(u32::try_from(value.len()).expect("no longer than VALUE_BYTES_MAX"));
            self.next.put_slice(&key);
            self.next.put_slice(value);
        }
        let chunk = self.next.split().freeze();
        Ok((!chunk.is_empty()).then_some(chunk))
    }
}

/// A snapshot that is being read.
pub(crate) struct Thawed {
    digest: u128,
    http: Vec<(NodeId, String)>,
    pairs_left: u64,
}

type Read<T, E> = Result<T, RestoreError<E>>;

impl Thawed {
    pub(crate) fn begin<E>(source: &mut SnapshotSource<'_>) -> Read<Self, E> {
        if array(source)? != MAGIC {
            return Err(RestoreError::Malformed("it does not begin as one"));
        }
        let digest = u128::from_le_bytes(array(source)?);
        let nodes = u32::from_le_bytes(array(source)?);
        if nodes > NODES_MAX {
            return Err(RestoreError::Malformed("too many addresses"));
        }
        let mut http = Vec::new();
        for _ in 0..nodes {
            let node = NodeId::new(u64::from_le_bytes(array(source)?));
            let mut address = vec![0; u16::from_le_bytes(array(source)?).into()];
            source.read_exact(&mut address)?;
            let address = String::from_utf8(address);
            http.push((node, address.map_err(|_| RestoreError::Malformed("an address is no text"))?));
        }
        Ok(Self { digest, http, pairs_left: u64::from_le_bytes(array(source)?) })
    }

    pub(crate) fn http(&mut self) -> Vec<(NodeId, String)> {
        std::mem::take(&mut self.http)
    }

    pub(crate) const fn digest(&self) -> u128 {
        self.digest
    }

    /// The next key with its value; `None` behind the last, where the snapshot must end.
    pub(crate) fn next_pair<E>(
        &mut self,
        source: &mut SnapshotSource<'_>,
    ) -> Read<Option<(Bytes, Bytes)>, E> {
        if self.pairs_left == 0 {
            return match source.remaining_bytes() {
                0 => Ok(None),
                _ => Err(RestoreError::Malformed("something follows the last pair")),
            };
        }
        self.pairs_left -= 1;
        let key_bytes = usize::from(u16::from_le_bytes(array(source)?));
        let value_bytes = u32::from_le_bytes(array(source)?) as usize;
        if key_bytes > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            return Err(RestoreError::Malformed("a key or value is too long"));
        }
        let mut pair = vec![0; key_bytes + value_bytes];
        source.read_exact(&mut pair)?;
        let mut key = Bytes::from(pair);
        let value = key.split_off(key_bytes);
        Ok(Some((key, value)))
    }
}

fn array<const N: usize, E>(source: &mut SnapshotSource<'_>) -> Read<[u8; N], E> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}
