//! Commands and entries as their buffers, checked when read: what is read back is cut into the same blocks.

use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::commands::Chunks;
use super::{BlockBody, Chunk, Commands, Entries, Window};
use crate::ids::{LogId, LogIndex};
use crate::membership::Membership;

/// A buffer as the wire has it, and how many commands it holds.
#[derive(Serialize, Deserialize)]
struct Packed(Bytes, u32);

impl Packed {
    fn of(window: &Window, chunk: &Chunk) -> Self {
        let range = window.range();
        let count = range.end - range.start;
        if count == chunk.count() {
            return Self(chunk.bytes().clone(), count);
        }
        let mut bytes = chunk.data(range.clone()).to_vec();
        if count > 1 {
            chunk.ends(range).for_each(|end| bytes.extend_from_slice(&end.to_le_bytes()));
        }
        Self(bytes.into(), count)
    }

    fn read<E: serde::de::Error>(self) -> Result<Chunk, E> {
        Chunk::from_parts(self.0, self.1).ok_or_else(|| E::custom("a damaged buffer of commands"))
    }
}

impl Serialize for Commands {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.chunks().iter().map(|chunk| Packed(chunk.bytes().clone(), chunk.count())))
    }
}

impl<'de> Deserialize<'de> for Commands {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let packed = Vec::<Packed>::deserialize(deserializer)?;
        let mut chunks = packed.into_iter().map(Packed::read).collect::<Result<Vec<_>, _>>()?;
        Ok(Self(match chunks.len() {
            0 | 1 => chunks.pop().map_or(Chunks::None, Chunks::One),
            _ => Chunks::Many(chunks.into()),
        }))
    }
}

#[derive(Serialize, Deserialize)]
enum Part {
    Noop(LogId),
    Commands(LogId, Packed),
    Membership(LogId, Arc<Membership>),
}

impl From<&Window> for Part {
    fn from(window: &Window) -> Self {
        match window.body() {
            BlockBody::Noop => Self::Noop(window.first()),
            BlockBody::Membership(membership) => Self::Membership(window.first(), Arc::clone(membership)),
            BlockBody::Commands(chunk) => Self::Commands(window.first(), Packed::of(window, chunk)),
        }
    }
}

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.windows().iter().map(Part::from))
    }
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut entries = Vec::new();
        for part in Vec::<Part>::deserialize(deserializer)? {
            let (first, body) = match part {
                Part::Noop(id) => (id, BlockBody::Noop),
                Part::Membership(id, membership) => (id, BlockBody::Membership(membership)),
                Part::Commands(first, packed) => (first, BlockBody::Commands(packed.read()?)),
            };
            let more = match &body {
                BlockBody::Commands(chunk) => u64::from(chunk.count()) - 1,
                BlockBody::Noop | BlockBody::Membership(_) => 0,
            };
            if first.index == LogIndex::ZERO || first.index.plus(more) >= LogIndex::LIMIT {
                return Err(D::Error::custom("an entry's index is out of range"));
            }
            entries.push(Self::from_window(Window::new(first, body)));
        }
        Self::join(entries).map_err(D::Error::custom)
    }
}
