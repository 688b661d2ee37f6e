//! Arbitrary values of everything that has an encoding, and damage to bytes.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use raft_core::{
    Body, Conflict, Entries, HardState, InstallProgress, LogId, LogIndex, Membership, Message, NodeId,
    QuestionId, SnapshotId, SnapshotMeta, Target, Term, TermRun, Write,
};

use crate::{commands, id, write};

pub(crate) fn term() -> impl Strategy<Value = Term> {
    prop_oneof![0..5u64, 0..Term::LIMIT.get()].prop_map(Term::new)
}

pub(crate) fn index() -> impl Strategy<Value = LogIndex> {
    prop_oneof![0..5u64, 0..LogIndex::LIMIT.get()].prop_map(LogIndex::new)
}

pub(crate) fn log_id() -> impl Strategy<Value = LogId> {
    (term(), index()).prop_map(|(term, index)| LogId::new(term, index))
}

pub(crate) fn node() -> impl Strategy<Value = NodeId> {
    any::<u64>().prop_map(NodeId::new)
}

/// Every node gets a place, the first one as a voter; the intent names any of them.
pub(crate) fn membership() -> impl Strategy<Value = Membership> {
    let node = (any::<u64>(), vec(any::<u8>(), 0..20), 0..6u8, any::<(bool, bool)>());
    (vec(node, 1..8), any::<bool>()).prop_map(|(all, with_intent)| {
        let mut membership = Membership::default();
        let mut intent = Target::default();
        for (id, address, place, (as_voter, as_learner)) in all {
            let id = NodeId::new(id);
            if membership.nodes.insert(id, address.into()).is_some() {
                continue;
            }
            if membership.voters.is_empty() || place < 2 {
                membership.voters.insert(id);
            }
            if (1..4).contains(&place) {
                membership.outgoing.insert(id);
            }
            if place == 3 {
                membership.learners_next.insert(id);
            }
            if place == 4 && !membership.voters.contains(&id) {
                membership.learners.insert(id);
            }
            if as_voter {
                intent.voters.insert(id);
            } else if as_learner {
                intent.learners.insert(id);
            }
        }
        // A target without voters is no target.
        membership.intent = (with_intent && !intent.voters.is_empty()).then_some(intent);
        membership.validate().unwrap();
        membership
    })
}

#[derive(Clone, Debug)]
enum Part {
    Noop,
    Commands(Vec<Vec<u8>>),
    Membership(Membership),
}

/// Blocks of all kinds one after the other, then windows that begin and end within blocks.
pub(crate) fn entries() -> impl Strategy<Value = Entries> {
    let command = prop_oneof![
        8 => vec(any::<u8>(), 0..12),
        1 => (any::<u8>(), 9_000..10_000usize).prop_map(|(byte, len)| vec![byte; len]),
    ];
    let part = prop_oneof![
        Just(Part::Noop),
        vec(command, 1..8).prop_map(Part::Commands),
        membership().prop_map(Part::Membership),
    ];
    let first = (1..1_000u64, prop_oneof![1..100u64, 1..LogIndex::LIMIT.get() - 1_000]);
    (first, vec((part, 0..2u64), 0..5), any::<(u8, u8)>()).prop_map(|((mut term, first), parts, cut)| {
        let mut next = first;
        let parts = parts.into_iter().map(|(part, newer)| {
            term += newer;
            let at = id(term, next);
            let entries = match part {
                Part::Noop => Entries::noop(at),
                Part::Commands(list) => commands(at, list),
                Part::Membership(membership) => Entries::membership(at, Arc::new(membership)),
            };
            next += entries.len();
            entries
        });
        let all = Entries::join(parts.collect::<Vec<_>>()).unwrap();
        let from = first + u64::from(cut.0) % 4;
        let through = (first + all.len()).saturating_sub(u64::from(cut.1) % 4 + 1);
        all.slice(LogIndex::new(from), LogIndex::new(through))
    })
}

pub(crate) fn question() -> impl Strategy<Value = QuestionId> {
    any::<(u64, u64)>().prop_map(|(incarnation, seq)| QuestionId { incarnation, seq })
}

pub(crate) fn snapshot_id() -> impl Strategy<Value = SnapshotId> {
    (log_id(), node(), any::<u64>()).prop_map(|(last, taken_by, seq)| SnapshotId { last, taken_by, seq })
}

/// Runs of rising terms, the last one of the snapshot's own term, or none at all.
pub(crate) fn meta() -> impl Strategy<Value = SnapshotMeta> {
    let runs = vec((1..3u64, 1..50u64), 0..6);
    let rest = (node(), any::<[u64; 3]>(), membership(), 0..3u64, any::<prop::sample::Index>());
    (1..1_000u64, 1..1_000u64, runs, rest).prop_map(|(term, index, runs, rest)| {
        let (taken_by, [seq, size_bytes, digest], membership, further, at) = rest;
        let (mut last, mut first) = (term, index);
        let terms = runs.into_iter().map(|(newer, longer)| {
            last += newer;
            first += longer;
            TermRun { term: Term::new(last), first: LogIndex::new(first) }
        });
        let terms = terms.collect();
        let through = first + further;
        let membership_index = at.index(usize::try_from(through).unwrap()) as u64 + 1;
        let meta = SnapshotMeta {
            id: SnapshotId { last: id(last, through), taken_by, seq },
            membership: Arc::new(membership),
            membership_index: LogIndex::new(membership_index),
            size_bytes,
            digest,
            terms,
        };
        meta.validate().unwrap();
        meta
    })
}

pub(crate) fn body() -> impl Strategy<Value = Body> {
    let conflict = (index(), log_id()).prop_map(|(prev, hint)| Conflict { prev, hint });
    let result = prop_oneof![index().prop_map(Ok), conflict.prop_map(Err)];
    let data = vec(any::<u8>(), 0..40);
    let progress = prop_oneof![
        any::<u64>().prop_map(InstallProgress::Wants),
        Just(InstallProgress::Busy),
        Just(InstallProgress::Refused),
        index().prop_map(InstallProgress::Installed),
    ];
    prop_oneof![
        1 => (log_id(), any::<bool>()).prop_map(|(last, transfer)| Body::RequestVote { last, transfer }),
        1 => any::<bool>().prop_map(|granted| Body::RequestVoteReply { granted }),
        1 => (term(), log_id()).prop_map(|(proposed, last)| Body::PreVote { proposed, last }),
        1 => (term(), any::<bool>()).prop_map(|(proposed, granted)| Body::PreVoteReply { proposed, granted }),
        4 => (log_id(), entries(), index(), any::<u64>())
            .prop_map(|(prev, entries, commit, round)| Body::AppendEntries { prev, entries, commit, round }),
        1 => (result, any::<u64>()).prop_map(|(result, round)| Body::AppendEntriesReply { result, round }),
        3 => (meta(), any::<u64>(), data, any::<(bool, u64)>()).prop_map(|(meta, offset, data, (done, round))| {
            Body::InstallSnapshot { meta: Arc::new(meta), offset, data: data.into(), done, round }
        }),
        1 => (snapshot_id(), progress, any::<u64>())
            .prop_map(|(id, progress, round)| Body::InstallSnapshotReply { id, progress, round }),
        1 => Just(Body::TimeoutNow),
        1 => question().prop_map(|id| Body::ReadIndex { id }),
        1 => (question(), option::of(index())).prop_map(|(id, index)| Body::ReadIndexReply { id, index }),
    ]
}

pub(crate) fn message() -> impl Strategy<Value = Message> {
    (node(), node(), term(), body()).prop_map(|(from, to, term, body)| Message { from, to, term, body })
}

/// With a hard state or not; entries that replace a suffix, or a reset with entries that follow it, or without any.
pub(crate) fn any_write() -> impl Strategy<Value = Write> {
    let hard_state = (term(), option::of(node())).prop_map(|(term, voted_for)| HardState { term, voted_for });
    (option::of(hard_state), entries(), 0..4u8, any::<bool>()).prop_map(
        |(hard_state, entries, kind, bare)| {
            let entries = if bare && kind == 0 { Entries::empty() } else { entries };
            let write = write(hard_state, entries);
            let reset_to = match write.entries.first() {
                _ if kind > 1 => None,
                // What stands before the first entry can be anything of a term that is not above.
                Some(first) if first.index.get() > 1 => Some(LogId::new(first.term, first.index.prev())),
                Some(_) => None,
                None => Some(id(7, 9)),
            };
            Write { reset_to, ..write }
        },
    )
}

/// A few changes to bytes: a byte set, bytes cut out, bytes put in.
#[derive(Clone, Debug)]
pub(crate) enum Damage {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
    Put(prop::sample::Index, Vec<u8>),
}

pub(crate) fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let at = any::<prop::sample::Index>;
    let value = prop_oneof![0..4u8, 0xfe..=0xffu8, any::<u8>()];
    let one = prop_oneof![
        6 => (at(), value).prop_map(|(at, value)| Damage::Set(at, value)),
        1 => (at(), 1..30usize).prop_map(|(at, len)| Damage::Cut(at, len)),
        1 => (at(), vec(any::<u8>(), 1..30)).prop_map(|(at, more)| Damage::Put(at, more)),
    ];
    vec(one, 1..4)
}

pub(crate) fn damaged(mut bytes: Vec<u8>, damage: Vec<Damage>) -> Vec<u8> {
    for change in damage {
        // Most of what is checked stands near the beginning: half of the places are there.
        let place = |at: prop::sample::Index, len: usize| {
            let near = at.index(2 * len);
            if near < len { near } else { (near - len) % len.min(64) }
        };
        match change {
            _ if bytes.is_empty() => {}
            Damage::Set(at, value) => {
                let at = place(at, bytes.len());
                bytes[at] = value;
            }
            Damage::Cut(at, len) => {
                let at = place(at, bytes.len());
                bytes.drain(at..(at + len).min(bytes.len()));
            }
            Damage::Put(at, more) => {
                let at = place(at, bytes.len());
                bytes.splice(at..at, more);
            }
        }
    }
    bytes
}
