//! Commands as a list of byte strings; entries as a list of blocks, checked when read.

use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BlockBody, CommandPacker, Commands, Entries, Window};
use crate::ids::{LogId, LogIndex};
use crate::membership::Membership;

impl Serialize for Commands {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|command| command.to_bytes()))
    }
}

impl<'de> Deserialize<'de> for Commands {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut packer = CommandPacker::default();
        for command in Vec::<Bytes>::deserialize(deserializer)? {
            packer.push_bytes(command);
        }
        Ok(packer.finish())
    }
}

#[derive(Serialize, Deserialize)]
enum Part {
    Noop(LogId),
    Commands(LogId, Vec<Bytes>),
    Membership(LogId, Arc<Membership>),
}

impl From<&Window> for Part {
    fn from(window: &Window) -> Self {
        match window.body() {
            BlockBody::Noop => Self::Noop(window.first()),
            BlockBody::Membership(membership) => Self::Membership(window.first(), Arc::clone(membership)),
            BlockBody::Commands(chunk) => Self::Commands(
                window.first(),
                window.range().map(|at| chunk.command(at).to_bytes()).collect(),
            ),
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
            let (Part::Noop(first) | Part::Commands(first, _) | Part::Membership(first, _)) = &part;
            if first.index == LogIndex::ZERO || first.index >= LogIndex::LIMIT {
                return Err(D::Error::custom("an entry's index is out of range"));
            }
            entries.push(match part {
                Part::Noop(id) => Self::noop(id),
                Part::Membership(id, membership) => Self::membership(id, membership),
                Part::Commands(first, commands) => {
                    let mut packer = CommandPacker::default();
                    commands.into_iter().for_each(|command| packer.push_bytes(command));
                    Self::commands(first, &packer.finish())
                }
            });
        }
        Self::join(entries).map_err(D::Error::custom)
    }
}
