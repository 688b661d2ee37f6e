//! What a store of snapshots holds, told naively.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{LogId, LogIndex, NodeId, SnapshotId, SnapshotMeta, TermRun};

use crate::testing::entries::voters;
use crate::testing::promise::Promise;
use crate::testing::report::Violation;

/// A snapshot, all of it.
pub(super) type Whole = (Arc<SnapshotMeta>, Bytes);

/// What is there, and what may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// Complete ones.
    pub(super) complete: BTreeMap<SnapshotId, Whole>,
    /// Those whose writing or forgetting was not vouched for: a restart may find them or not.
    pub(super) maybe: BTreeMap<SnapshotId, Whole>,
}

impl Model {
    pub(super) fn newest(&self) -> Option<&Whole> {
        self.complete.values().next_back()
    }

    /// What a restart may find: the newest, or one that may be there and is newer.
    pub(super) fn judge(
        &self,
        found: Option<&Arc<SnapshotMeta>>,
        power_was_lost: bool,
    ) -> Result<Option<Whole>, Violation> {
        let newest = self.newest();
        let words = newest.map_or_else(|| "none".into(), |(meta, _)| meta.id.to_string());
        let Some(found) = found else {
            return match newest {
                None => Ok(None),
                Some(_) => {
                    let what = format!("no snapshot is found; {words} was complete");
                    Err(Violation::new(Promise::SnapshotDurable, what))
                }
            };
        };
        let id = found.id;
        let known = self.complete.get(&id).or_else(|| self.maybe.get(&id));
        let Some(known) = known else {
            let what = format!("{id} is found, which was never finished; the newest complete one is {words}");
            return Err(Violation::new(Promise::SnapshotComplete, what));
        };
        if newest.is_some_and(|(meta, _)| id < meta.id) {
            let what = format!("{id} is found; the newest complete one is {words}");
            let promise = if power_was_lost { Promise::SnapshotDurable } else { Promise::SnapshotNewest };
            return Err(Violation::new(promise, what));
        }
        if known.0 != *found {
            let what =
                format!("what is known of {id} changed:\n  found: {found:?}\n  expected: {:?}", known.0);
            return Err(Violation::new(Promise::SnapshotMetaKept, what));
        }
        Ok(Some(known.clone()))
    }

    /// After a restart only that one is there.
    pub(super) fn settle(&mut self, found: Option<Whole>) {
        self.complete = found.into_iter().map(|whole| (whole.0.id, whole)).collect();
        self.maybe.clear();
    }
}

/// What is known of the snapshot `number`, before it is written. Later numbers are newer.
pub(super) fn meta(number: u64) -> SnapshotMeta {
    let term = raft_core::Term::new(1 + number / 3);
    let last = LogId::new(term, LogIndex::new(10 * number));
    SnapshotMeta {
        id: SnapshotId { last, taken_by: NodeId::new(1 + number % 2), seq: number },
        membership: voters(1 + number % 5),
        membership_index: LogIndex::new(number),
        size_bytes: 0,
        digest: 0,
        terms: Arc::new([TermRun { term, first: LogIndex::new(10 * number - 5) }]),
    }
}

/// Bytes that tell which snapshot they are of.
pub(super) fn content(number: u64, bytes: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(number);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

/// The same bytes, in pieces of any size.
pub(super) fn pieces(bytes: &Bytes, random: &mut fastrand::Rng) -> Vec<Bytes> {
    let mut rest = bytes.clone();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let most = rest.len().min(1 + bytes.len() / random.usize(1..6));
        pieces.push(rest.split_to(random.usize(1..=most)));
    }
    pieces
}
