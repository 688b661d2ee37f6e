//! Messages and entries as records show them: everything that the protocol looks at, and no payload.

use std::fmt;

use raft_core::{
    Body, Conflict, Entries, EntryRef, InstallProgress, LogId, LogIndex, NodeId, QuestionId, SnapshotId, Term,
};
use serde::{Deserialize, Serialize};

use super::Members;

/// A message as it was sent or received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// The sender.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The sender's term.
    pub term: Term,
    /// What is said: its name in `kind`, its fields beside it.
    #[serde(flatten)]
    pub said: Said,
}

/// What a message says. The names and fields are those of the core's `Body`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Said {
    /// A candidate asks for a vote.
    RequestVote {
        /// The candidate's last entry.
        last: LogId,
        /// The leader itself asked for this election.
        transfer: bool,
    },
    /// The answer.
    RequestVoteReply {
        /// Whether the vote was given.
        granted: bool,
    },
    /// Would you vote for me?
    PreVote {
        /// In this term.
        proposed: Term,
        /// The sender's last entry.
        last: LogId,
    },
    /// The answer.
    PreVoteReply {
        /// The term that was asked about.
        proposed: Term,
        /// Whether the vote would be given.
        granted: bool,
    },
    /// Entries, or a heartbeat.
    AppendEntries {
        /// The entry before them.
        prev: LogId,
        /// New entries.
        entries: Vec<Run>,
        /// The leader's commit index.
        commit: LogIndex,
        /// The round that a reply confirms.
        round: u64,
    },
    /// The answer: either `matched` or `conflict`.
    AppendEntriesReply {
        /// Through where the logs are equal, durably.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        matched: Option<LogIndex>,
        /// Where they are not: `{"prev":7,"hint":{"term":1,"index":4}}`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        conflict: Option<Conflict>,
        /// The greatest round heard.
        round: u64,
    },
    /// A part of a snapshot.
    InstallSnapshot {
        /// Of which.
        snapshot: SnapshotId,
        /// Where the part begins.
        offset: u64,
        /// How long it is; zero for a heartbeat.
        bytes: u64,
        /// How long the whole snapshot is.
        size_bytes: u64,
        /// Whether it is the last part.
        done: bool,
        /// The round that a reply confirms.
        round: u64,
    },
    /// The answer.
    InstallSnapshotReply {
        /// Of which.
        snapshot: SnapshotId,
        /// `{"Wants":offset}`, `"Busy"` or `{"Installed":index}`.
        progress: InstallProgress,
        /// The greatest round heard.
        round: u64,
    },
    /// Campaign at once.
    TimeoutNow,
    /// Which index must be applied before a read is served?
    ReadIndex {
        /// Names the question.
        question: QuestionId,
    },
    /// The answer.
    ReadIndexReply {
        /// The question.
        question: QuestionId,
        /// The index; none if there is no answer.
        index: Option<LogIndex>,
    },
}

/// Consecutive entries of one term and kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first one's index.
    pub first: LogIndex,
    /// The last one's index.
    pub last: LogIndex,
    /// Their term.
    pub term: Term,
    /// What they are.
    pub kind: Kind,
    /// The configuration that the entry holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Members>,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A leader's first one.
    Noop,
    /// A client's.
    Command,
    /// A configuration.
    Membership,
}

impl Run {
    /// What these entries are.
    #[must_use]
    pub fn of(entries: &Entries) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for entry in entries.iter() {
            let (id, kind, membership) = match entry {
                EntryRef::Noop(id) => (id, Kind::Noop, None),
                EntryRef::Command(id, _) => (id, Kind::Command, None),
                EntryRef::Membership(id, membership) => (id, Kind::Membership, Some((&**membership).into())),
            };
            match runs.last_mut() {
                Some(run) if (run.term, run.kind) == (id.term, kind) && membership.is_none() => {
                    run.last = id.index;
                }
                _ => runs.push(Self { first: id.index, last: id.index, term: id.term, kind, membership }),
            }
        }
        runs
    }
}

impl From<&raft_core::Message> for Message {
    fn from(message: &raft_core::Message) -> Self {
        let &raft_core::Message { from, to, term, ref body } = message;
        Self { from, to, term, said: body.into() }
    }
}

impl From<&Body> for Said {
    fn from(body: &Body) -> Self {
        match body {
            &Body::RequestVote { last, transfer } => Self::RequestVote { last, transfer },
            &Body::RequestVoteReply { granted } => Self::RequestVoteReply { granted },
            &Body::PreVote { proposed, last } => Self::PreVote { proposed, last },
            &Body::PreVoteReply { proposed, granted } => Self::PreVoteReply { proposed, granted },
            &Body::AppendEntries { prev, ref entries, commit, round } => {
                Self::AppendEntries { prev, entries: Run::of(entries), commit, round }
            }
            &Body::AppendEntriesReply { result, round } => {
                Self::AppendEntriesReply { matched: result.ok(), conflict: result.err(), round }
            }
            &Body::InstallSnapshot { ref meta, offset, ref data, done, round } => Self::InstallSnapshot {
                snapshot: meta.id,
                offset,
                bytes: data.len() as u64,
                size_bytes: meta.size_bytes,
                done,
                round,
            },
            &Body::InstallSnapshotReply { id, progress, round } => {
                Self::InstallSnapshotReply { snapshot: id, progress, round }
            }
            Body::TimeoutNow => Self::TimeoutNow,
            &Body::ReadIndex { id } => Self::ReadIndex { question: id },
            &Body::ReadIndexReply { id, index } => Self::ReadIndexReply { question: id, index },
        }
    }
}

/// As the core prints it: `n1@2 → n3 AppendEntries prev=4@1 [5@2] commit=4 round=9`.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}@{} → n{} {}", self.from, self.term, self.to, self.said)
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = |granted: bool| if granted { "granted" } else { "refused" };
        match self {
            Self::RequestVote { last, transfer } => {
                write!(f, "RequestVote last={last}{}", if *transfer { " transfer" } else { "" })
            }
            Self::RequestVoteReply { granted } => write!(f, "RequestVoteReply {}", verdict(*granted)),
            Self::PreVote { proposed, last } => write!(f, "PreVote proposed={proposed} last={last}"),
            Self::PreVoteReply { proposed, granted } => {
                write!(f, "PreVoteReply proposed={proposed} {}", verdict(*granted))
            }
            Self::AppendEntries { prev, entries, commit, round } => {
                write!(f, "AppendEntries prev={prev} {} commit={commit} round={round}", Ids(entries))
            }
            Self::AppendEntriesReply { matched, conflict, round } => {
                f.write_str("AppendEntriesReply")?;
                if let Some(matched) = matched {
                    write!(f, " match={matched}")?;
                }
                if let Some(Conflict { prev, hint }) = conflict {
                    write!(f, " conflict at {prev} hint={hint}")?;
                }
                write!(f, " round={round}")
            }
            Self::InstallSnapshot { snapshot, offset, bytes, size_bytes, done, round } => {
                let (end, last) = (offset.saturating_add(*bytes), if *done { " done" } else { "" });
                write!(
                    f,
                    "InstallSnapshot {snapshot} bytes {offset}..{end} of {size_bytes}{last} round={round}"
                )
            }
            Self::InstallSnapshotReply { snapshot, progress, round } => {
                write!(f, "InstallSnapshotReply {snapshot} ")?;
                match progress {
                    InstallProgress::Wants(offset) => write!(f, "wants={offset}")?,
                    InstallProgress::Busy => f.write_str("busy")?,
                    InstallProgress::Refused => f.write_str("refused")?,
                    InstallProgress::Installed(index) => write!(f, "match={index}")?,
                }
                write!(f, " round={round}")
            }
            Self::TimeoutNow => f.write_str("TimeoutNow"),
            Self::ReadIndex { question } => {
                write!(f, "ReadIndex question={}.{}", question.incarnation, question.seq)
            }
            Self::ReadIndexReply { question, index } => {
                write!(f, "ReadIndexReply question={}.{}", question.incarnation, question.seq)?;
                match index {
                    Some(index) => write!(f, " index={index}"),
                    None => f.write_str(" refused"),
                }
            }
        }
    }
}

/// Identities of entries: `[5@2 6@2]`, `[5@2 ..1028@2]`.
pub(super) struct Ids<'a>(pub(super) &'a [Run]);

impl fmt::Display for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return f.write_str("[]") };
        let count = last.last.since(first.first) + 1;
        let (first, last) = (LogId::new(first.term, first.first), LogId::new(last.term, last.last));
        match count {
            1 => write!(f, "[{first}]"),
            2 => write!(f, "[{first} {last}]"),
            _ => write!(f, "[{first} ..{last}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{append, id, message, puts};
    use raft_core::InstallProgress;

    #[test]
    fn messages_read_as_the_core_prints_them() {
        let question = QuestionId { incarnation: 3, seq: 4 };
        let (index, snapshot) = (LogIndex::new(7), crate::testing::snapshot_meta(5, 2, 1).id);
        let conflict = Conflict { prev: index, hint: id(4, 1) };
        let bodies = [
            append(id(4, 1), Entries::empty(), 4),
            append(id(4, 1), puts(5, 2, &[1]), 4),
            append(id(4, 1), puts(5, 2, &[1, 2]), 4),
            append(id(4, 1), puts(5, 2, &[1, 2, 3]), 4),
            Body::AppendEntriesReply { result: Ok(index), round: 2 },
            Body::AppendEntriesReply { result: Err(conflict), round: 2 },
            Body::RequestVote { last: id(4, 1), transfer: true },
            Body::RequestVoteReply { granted: false },
            Body::PreVote { proposed: Term::new(3), last: id(4, 1) },
            Body::PreVoteReply { proposed: Term::new(3), granted: true },
            Body::InstallSnapshot {
                meta: crate::testing::snapshot_meta(5, 2, 1).into(),
                offset: 3,
                data: vec![1, 2].into(),
                done: true,
                round: 1,
            },
            Body::InstallSnapshotReply { id: snapshot, progress: InstallProgress::Wants(3), round: 1 },
            Body::InstallSnapshotReply { id: snapshot, progress: InstallProgress::Busy, round: 1 },
            Body::InstallSnapshotReply {
                id: snapshot,
                progress: InstallProgress::Installed(index),
                round: 1,
            },
            Body::TimeoutNow,
            Body::ReadIndex { id: question },
            Body::ReadIndexReply { id: question, index: Some(index) },
            Body::ReadIndexReply { id: question, index: None },
        ];
        for body in bodies {
            let said = message(1, 3, 2, body);
            assert_eq!(Message::from(&said).to_string(), format!("{said:?}"));
        }
    }

    #[test]
    fn entries_are_told_as_runs_of_a_term() {
        let entries = Entries::join([puts(5, 2, &[1, 2]), puts(7, 3, &[3])]).unwrap();
        let runs = Run::of(&entries);
        let ends: Vec<_> = runs.iter().map(|run| (run.first.get(), run.last.get(), run.term.get())).collect();
        assert_eq!(ends, [(5, 6, 2), (7, 7, 3)]);
        assert!(runs.iter().all(|run| run.kind == Kind::Command));
    }
}
