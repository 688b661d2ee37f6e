//! Messages and reports that nobody sent, but for one field or two.

use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Body, Conflict, Entries, Event, InstallProgress, LogId, LogReadError, Message, NodeId, QuestionId,
    SnapshotError, SnapshotMeta, Term, Ticket, Tickets,
};

use super::ops::SERVERS;
use super::support::{at, commands, id, install, snapshot_meta, voters};

/// A message that nobody sent, but for one field or two.
pub(crate) fn forge(message: &Message, how: u16, by: u64) -> Message {
    let mut forged = message.clone();
    // Small numbers are the confusing ones: they look like the truth.
    let near = |value: u64| match by % 9 {
        0 => by,
        1 => 0,
        2 => 1 << 62,
        near => (value + (by / 9) % 4).saturating_sub(near % 4),
    };
    let near_id = |found: LogId| id(near(found.term.get()), near(found.index.get()));
    match how % 8 {
        0 => forged.term = Term::new(near(message.term.get())),
        1 => core::mem::swap(&mut forged.from, &mut forged.to),
        2 => forged.from = NodeId::new(by % (SERVERS + 3)),
        3 => forged.to = NodeId::new(by % (SERVERS + 1)),
        _ => {}
    }
    match (&mut forged.body, how / 8 % 8) {
        (Body::RequestVote { last, .. } | Body::PreVote { last, .. }, 0..=2) => *last = near_id(*last),
        (Body::PreVote { proposed, .. } | Body::PreVoteReply { proposed, .. }, 3) => {
            *proposed = Term::new(near(proposed.get()));
        }
        (Body::RequestVoteReply { granted } | Body::PreVoteReply { granted, .. }, 4..=7) => {
            *granted = !*granted;
        }
        (Body::AppendEntries { prev, .. }, 0) => *prev = near_id(*prev),
        (Body::AppendEntries { commit, .. }, 1) => *commit = at(near(commit.get())),
        (Body::AppendEntries { round, .. }, 2) => *round = near(*round),
        (Body::AppendEntries { entries, .. }, 3) => *entries = Entries::empty(),
        (Body::AppendEntries { prev, entries, .. }, 4 | 5) => {
            let first = id(near(message.term.get()).clamp(1, 1 << 62), prev.index.get() % (1 << 62) + 1);
            *entries = commands(first, &["forged", "too"]);
        }
        (Body::AppendEntries { prev, entries, .. }, 6) => {
            let first = id(near(prev.term.get()).max(1), prev.index.get() % (1 << 62) + 1);
            *entries = Entries::membership(first, Arc::new(voters([by % 5])));
        }
        (Body::AppendEntriesReply { result, .. }, 0..=2) => {
            *result = match result {
                Ok(index) => Ok(at(near(index.get()))),
                Err(Conflict { prev, hint }) => {
                    Err(Conflict { prev: at(near(prev.get())), hint: near_id(*hint) })
                }
            }
        }
        (Body::AppendEntriesReply { result, .. }, 3) => {
            let conflict = Conflict { prev: at(near(3)), hint: near_id(id(1, 1)) };
            *result = if result.is_ok() { Err(conflict) } else { Ok(at(near(3))) };
        }
        (Body::AppendEntriesReply { round, .. }, 4..=7) => *round = near(*round),
        (body, 7) => *body = other_body(message, &near, by),
        (Body::RequestVote { transfer, .. }, 4..=6) => *transfer = !*transfer,
        (Body::InstallSnapshot { meta, offset, data, done, round }, how) => {
            forge_chunk(how, by, &near, Arc::make_mut(meta), (offset, data, done, round));
        }
        (Body::InstallSnapshotReply { id: snapshot, progress, round }, how) => match how {
            0 => snapshot.last = near_id(snapshot.last),
            1 => *progress = InstallProgress::Wants(near(3)),
            2 => *progress = InstallProgress::Busy,
            3 => *progress = InstallProgress::Installed(at(near(snapshot.last.index.get()))),
            _ => *round = near(*round),
        },
        (Body::ReadIndex { id: question } | Body::ReadIndexReply { id: question, .. }, 0..=2) => {
            question.seq = near(question.seq);
            question.incarnation = near(question.incarnation);
        }
        (Body::ReadIndexReply { index, .. }, _) => *index = index.map(|index| at(near(index.get()))),
        _ => {}
    }
    forged
}

/// A body of another kind, which fits the term and the last entries of the cluster more or less.
fn other_body(message: &Message, near: &impl Fn(u64) -> u64, by: u64) -> Body {
    let term = message.term.get();
    let last = id(near(term).clamp(1, 1 << 61), near(by % 9).clamp(1, 1 << 61));
    let meta = Arc::new(snapshot_meta(last, by % 7, by % 4 + 1, b"1@1 forged\n"));
    let question = QuestionId { incarnation: by % 3, seq: near(2) };
    match by % 8 {
        0 => install(&meta, 0, b"1@1 forged\n", true, near(9)),
        1 => install(&meta, 0, b"1@1", false, near(9)),
        2 => Body::InstallSnapshotReply { id: meta.id, progress: InstallProgress::Wants(0), round: near(9) },
        3 => Body::TimeoutNow,
        4 => Body::ReadIndex { id: question },
        5 => Body::ReadIndexReply { id: question, index: (by % 16 < 8).then(|| at(near(by % 9))) },
        6 => Body::RequestVote { last, transfer: by % 16 < 8 },
        _ => Body::AppendEntriesReply { result: Ok(at(near(by % 9))), round: near(9) },
    }
}

fn forge_chunk(
    how: u16,
    by: u64,
    near: &impl Fn(u64) -> u64,
    meta: &mut SnapshotMeta,
    (offset, data, done, round): (&mut u64, &mut Bytes, &mut bool, &mut u64),
) {
    match how {
        0 => meta.id.last = id(near(meta.id.last.term.get()), near(meta.id.last.index.get())),
        1 => *offset = near(*offset),
        2 => *data = Bytes::from_static(b"forged"),
        3 => *done = !*done,
        4 => *round = near(*round),
        5 => meta.digest = by,
        _ => meta.size_bytes = near(meta.size_bytes),
    }
}

/// A report of the driver that answers nothing, or nothing any more: it is to be ignored. What would be a broken duty
/// is not among them.
pub(crate) fn stray(how: u8, by: u64, term: Term) -> Event {
    let last = id(term.get().max(1), by % 20 + 1);
    let snapshot = snapshot_meta(last, by % 7, 3, b"stray").id;
    match how % 7 {
        0 => Event::LogRead {
            read: serde_json::from_value((1_000_000 + by % 100).into()).expect("a number"),
            result: if by.is_multiple_of(2) {
                Err(LogReadError::Gone)
            } else {
                Ok(commands(last, &["stray"]))
            },
        },
        1 => Event::SnapshotChunkRead {
            id: snapshot,
            offset: by % 50,
            result: Ok(Bytes::from_static(b"stray")),
        },
        2 => Event::SnapshotChunkRead { id: snapshot, offset: by % 50, result: Err(SnapshotError::Unusable) },
        3 => Event::SnapshotChunkWritten { id: snapshot, offset: by % 50, result: Ok(()) },
        4 => Event::SnapshotChunkWritten { id: snapshot, offset: by, result: Err(SnapshotError::Failed) },
        5 => Event::Forget { tickets: Tickets::new(Ticket::new(by), 9) },
        _ => Event::Applied(at(0)),
    }
}
