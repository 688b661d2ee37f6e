//! What waits to be sent to one peer through one of its two connections, and in which order.
//!
//! * Groups take turns: one that has much to send delays no other by more than a share of a write.
//! * Each group has a budget, and all of them together have one; beyond the latter, a group may still have one message
//!   in the queue, so that none is locked out by others.
//! * What was taken to be written stays in the queue, and in its budgets, until it was written: so it is known how long
//!   a group's oldest message has waited, and that the same entries need not be queued once more behind themselves.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use raft_core::{Body, Message};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cluster::GroupId;
use crate::tcp::TcpConfig;

/// A group's share of one write, which it may exceed by one message.
const SHARE_BYTES: u64 = 32 * 1024;
/// Messages of one group taken in one turn.
const SHARE_MESSAGES: usize = 64;
/// An empty queue keeps this many places.
const PLACES_KEPT: usize = 4;

/// One of the two connections to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// Votes, heartbeats and answers: whatever has no payload.
    Control,
    /// Entries and parts of snapshots.
    Bulk,
}

impl Lane {
    pub(crate) const ALL: [Self; 2] = [Self::Control, Self::Bulk];
}

/// Something to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Parcel {
    /// What a node says.
    Message(Message),
    /// What its driver says.
    Letter(Bytes),
}

impl Parcel {
    /// About what it takes up.
    fn size_bytes(&self) -> u64 {
        const PARCEL_BYTES: u64 = 64;
        PARCEL_BYTES
            + match self {
                Self::Letter(letter) => letter.len() as u64,
                Self::Message(message) => match &message.body {
                    Body::AppendEntries { entries, .. } => entries.size_bytes(),
                    Body::InstallSnapshot { data, .. } => data.len() as u64,
                    _ => 0,
                },
            }
    }
}

/// Whether both bring the same: entries after the same one, or the same part of a snapshot.
fn same_payload(one: &Parcel, other: &Parcel) -> bool {
    let (Parcel::Message(one), Parcel::Message(other)) = (one, other) else { return false };
    one.term == other.term
        && match (&one.body, &other.body) {
            (
                Body::AppendEntries { prev, entries, .. },
                Body::AppendEntries { prev: at, entries: more, .. },
            ) => prev == at && entries.is_empty() == more.is_empty(),
            (
                Body::InstallSnapshot { meta, offset, data, .. },
                Body::InstallSnapshot { meta: of, offset: at, data: more, .. },
            ) => meta.id == of.id && offset == at && data.len() == more.len(),
            _ => false,
        }
}

/// The queue of one lane to one peer.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct State {
    groups: HashMap<GroupId, Waiting>,
    /// Groups that have messages which were not taken, each once.
    turns: VecDeque<GroupId>,
    /// Groups of which messages were taken and not yet written.
    taken: Vec<GroupId>,
    bytes: u64,
}

/// What one group has in the queue.
#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<(Instant, Parcel)>,
    /// How many of them were taken, from the front.
    taken: usize,
    bytes: u64,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message. `false` if it is dropped for want of room, or as one that waits already. What has waited for
    /// longer than `patience` is not queued a second time: whoever asks for it again has been overtaken by the question.
    pub(crate) fn push(
        &self,
        group: GroupId,
        parcel: Parcel,
        config: &TcpConfig,
        patience: Duration,
    ) -> bool {
        let (bytes, now) = (parcel.size_bytes(), Instant::now());
        let mut state = self.state();
        let State { groups, turns, bytes: all_bytes, .. } = &mut *state;
        let waiting = groups.entry(group).or_default();
        let is_full = waiting.messages.len() >= config.queue_messages_max
            || waiting.bytes > config.queue_bytes_max
            || (*all_bytes > config.queue_peer_bytes_max && !waiting.messages.is_empty());
        let is_slow = waiting.messages.front().is_some_and(|(since, _)| now - *since >= patience);
        if is_full || (is_slow && waiting.messages.iter().any(|(_, queued)| same_payload(queued, &parcel))) {
            return false;
        }
        let first = waiting.messages.len() == waiting.taken;
        waiting.messages.push_back((now, parcel));
        waiting.bytes += bytes;
        *all_bytes += bytes;
        if first {
            turns.push_back(group);
        }
        drop(state);
        self.arrived.notify_one();
        true
    }

    /// How long a group's oldest message has been in the queue.
    pub(crate) fn waited(&self, group: GroupId, now: Instant) -> Option<Duration> {
        let state = self.state();
        let (since, _) = state.groups.get(&group)?.messages.front()?;
        Some(now - *since)
    }

    /// Resolves when something has arrived since it was last empty.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes messages worth about `bytes_max`, a share of each group in turn. They stay until [`written`](Self::written).
    pub(crate) fn take(&self, bytes_max: u64, batch: &mut Vec<(GroupId, Parcel)>) {
        let mut state = self.state();
        let State { groups, turns, taken, .. } = &mut *state;
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(group) = turns.pop_front() else { break };
            let waiting = groups.get_mut(&group).expect("a group has its turn only while it has messages");
            let (mut share, mut count) = (0, 0);
            if waiting.taken == 0 {
                taken.push(group);
            }
            for (_, parcel) in waiting.messages.iter().skip(waiting.taken).take(SHARE_MESSAGES) {
                batch.push((group, parcel.clone()));
                share += parcel.size_bytes();
                count += 1;
                if share >= SHARE_BYTES {
                    break;
                }
            }
            waiting.taken += count;
            bytes += share;
            if waiting.taken < waiting.messages.len() {
                turns.push_back(group);
            }
        }
    }

    /// Whatever was taken is written, or lost.
    pub(crate) fn written(&self) {
        let mut state = self.state();
        let State { groups, taken, bytes: all_bytes, .. } = &mut *state;
        for group in taken.drain(..) {
            // A group that ended meanwhile has nothing here any more.
            let Some(waiting) = groups.get_mut(&group) else { continue };
            for (_, parcel) in waiting.messages.drain(..waiting.taken) {
                let bytes = parcel.size_bytes();
                waiting.bytes -= bytes;
                *all_bytes -= bytes;
            }
            waiting.taken = 0;
            if waiting.messages.is_empty() && waiting.messages.capacity() > 4 * PLACES_KEPT {
                waiting.messages.shrink_to(PLACES_KEPT);
            }
        }
    }

    /// Drops everything; returns how much that was.
    pub(crate) fn clear(&self) -> usize {
        let mut state = self.state();
        let dropped = state.groups.values().map(|waiting| waiting.messages.len()).sum();
        *state = State::default();
        dropped
    }

    /// A group has ended: drops what it has in the queue.
    pub(crate) fn remove(&self, group: GroupId) {
        let mut state = self.state();
        let Some(waiting) = state.groups.remove(&group) else { return };
        state.bytes -= waiting.bytes;
        state.turns.retain(|other| *other != group);
        state.taken.retain(|other| *other != group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::ClusterId;
    use raft_core::{Commands, Entries, LogId, LogIndex, NodeId, Term};

    const PATIENT: Duration = Duration::MAX;

    fn append(prev: u64, bytes: usize) -> Parcel {
        let (prev, first) = (LogIndex::new(prev), LogIndex::new(prev + 1));
        let entries = match bytes {
            0 => Entries::empty(),
            _ => Entries::commands(
                LogId::new(Term::new(1), first),
                &[vec![7; bytes]].iter().collect::<Commands>(),
            ),
        };
        let body = Body::AppendEntries {
            prev: LogId::new(Term::new(1), prev),
            entries,
            commit: LogIndex::ZERO,
            round: 1,
        };
        Parcel::Message(Message { from: NodeId::new(1), to: NodeId::new(2), term: Term::new(1), body })
    }

    fn config() -> TcpConfig {
        TcpConfig::new(ClusterId::new(1))
    }

    fn taken(outbox: &Outbox, bytes_max: u64) -> Vec<u64> {
        let mut batch = Vec::new();
        outbox.take(bytes_max, &mut batch);
        batch.into_iter().map(|(group, _)| group.get()).collect()
    }

    #[test]
    fn groups_take_turns_whoever_came_first() {
        let outbox = Outbox::default();
        let (many, few) = (GroupId::new(1), GroupId::new(2));
        for at in 0..4 {
            assert!(outbox.push(many, append(at, SHARE_BYTES as usize), &config(), PATIENT));
        }
        assert!(outbox.push(few, append(0, 10), &config(), PATIENT));
        assert_eq!(taken(&outbox, 2 * SHARE_BYTES), [1, 2, 1]);
        outbox.written();
        assert_eq!(taken(&outbox, u64::MAX), [1, 1]);
        outbox.written();
        assert_eq!(taken(&outbox, u64::MAX), [0; 0]);
        assert_eq!(outbox.state().bytes, 0);
    }

    #[test]
    fn one_group_cannot_lock_out_another() {
        let config = TcpConfig { queue_bytes_max: 2_000, queue_peer_bytes_max: 3_000, ..config() };
        let outbox = Outbox::default();
        let push = |group, at| outbox.push(GroupId::new(group), append(at, 1_000), &config, PATIENT);
        assert_eq!([push(1, 0), push(1, 1), push(1, 2)], [true, true, false], "its own budget");
        assert_eq!([push(2, 0), push(2, 1)], [true, false], "the budget of all");
        assert_eq!([push(3, 0), push(3, 1)], [true, false], "one message in any case");
        assert_eq!(taken(&outbox, u64::MAX).len(), 4);
        outbox.remove(GroupId::new(1));
        outbox.written();
        assert_eq!(outbox.state().bytes, 0);
    }

    #[test]
    fn what_waits_is_not_queued_behind_itself() {
        let (outbox, group) = (Outbox::default(), GroupId::new(1));
        let push = |parcel, patience| outbox.push(group, parcel, &config(), patience);
        assert!(push(append(4, 100), PATIENT));
        assert!(push(append(4, 100), PATIENT), "as long as it has not waited for long");
        assert!(!push(append(4, 200), Duration::ZERO));
        assert!(push(append(5, 100), Duration::ZERO), "something else");
        assert!(push(append(4, 0), Duration::ZERO), "a question");
        assert_eq!(taken(&outbox, u64::MAX).len(), 4);
        assert!(!push(append(4, 100), Duration::ZERO), "it is being written");
        assert!(outbox.waited(group, Instant::now()).is_some());
        outbox.written();
        assert!(push(append(4, 100), Duration::ZERO), "written, and perhaps lost");
        assert_eq!(outbox.clear(), 1);
        assert!(outbox.waited(group, Instant::now()).is_none());
    }
}
