//! What nodes say to each other: the RPCs of Figure 2 as one-way messages.
//!
//! A message may be lost, duplicated, delayed and reordered. Nothing in one can panic a node.

use alloc::sync::Arc;
use bytes::Bytes;
use core::fmt;

use crate::entry::{BlockBody, Entries};
use crate::ids::{LogId, LogIndex, NodeId, Term};
use crate::snapshot::{SnapshotId, SnapshotMeta};

/// A message between two nodes.
#[derive(Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Message {
    /// The sender. A transport must have authenticated it; the node believes it.
    pub from: NodeId,
    /// The receiver.
    pub to: NodeId,
    /// The sender's current term (§5.1).
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// The kinds of messages.
#[derive(Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Body {
    /// A candidate asks for a vote in the message's term (§5.2).
    RequestVote {
        /// The candidate's last entry (§5.4.1).
        last: LogId,
        /// The leader itself asked for this election (thesis §3.10), so a live leader is no reason to refuse.
        transfer: bool,
    },
    /// The answer to [`Body::RequestVote`] of the message's term.
    RequestVoteReply {
        /// Whether the vote was given.
        granted: bool,
    },
    /// Would you vote for me in `proposed`? Changes nobody's term (thesis §9.6).
    PreVote {
        /// The term that the sender would campaign in: one above its own.
        proposed: Term,
        /// The sender's last entry.
        last: LogId,
    },
    /// The answer to [`Body::PreVote`].
    PreVoteReply {
        /// The term that was asked about.
        proposed: Term,
        /// Whether the vote would be given.
        granted: bool,
    },
    /// Replicates entries; without entries, a heartbeat (§5.3).
    AppendEntries {
        /// The entry right before `entries` in the leader's log.
        prev: LogId,
        /// New entries, the first at `prev.index + 1`.
        entries: Entries,
        /// The leader's commit index, not clamped.
        commit: LogIndex,
        /// The round that a reply confirms, from 1 on in each term: see thesis §6.4.
        round: u64,
    },
    /// The answer to [`Body::AppendEntries`] of the message's term.
    AppendEntriesReply {
        /// Through where the sender's log is known to equal the leader's, durably; or why it is not.
        result: Result<LogIndex, Conflict>,
        /// The greatest round heard in this term: the sender still followed this leader when it heard it. Zero
        /// from a sender that answers a leader of an earlier term: it confirms nothing.
        round: u64,
    },
    /// A part of a snapshot, for a follower that lacks entries which the leader no longer has, or for which the
    /// snapshot is less work (§7).
    InstallSnapshot {
        /// Of which snapshot.
        meta: Arc<SnapshotMeta>,
        /// Where in it `data` begins.
        offset: u64,
        /// Its bytes from there on. Empty and not `done`: a heartbeat, which asks how far the receiver is.
        data: Bytes,
        /// Whether the snapshot ends with `data`.
        done: bool,
        /// As in [`Body::AppendEntries`].
        round: u64,
    },
    /// The answer to [`Body::InstallSnapshot`] of the message's term.
    InstallSnapshotReply {
        /// Of which snapshot.
        id: SnapshotId,
        /// How far its receiver is.
        progress: InstallProgress,
        /// As in [`Body::AppendEntriesReply`].
        round: u64,
    },
    /// The leader hands over: campaign at once (thesis §3.10).
    TimeoutNow,
    /// A member without the leadership wants to serve reads: which index must it have applied (thesis §6.4)?
    ReadIndex {
        /// Names the question among those of its sender.
        id: QuestionId,
    },
    /// The answer to [`Body::ReadIndex`].
    ReadIndexReply {
        /// The question.
        id: QuestionId,
        /// Through where the sender's state machine must be before it serves; `None` if the question could not be
        /// answered and should not be repeated.
        index: Option<LogIndex>,
    },
}

/// Names a question of one life of a server: an answer to an earlier life answers nothing (TRAP 55).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct QuestionId {
    /// The server's [`incarnation`](crate::Recovery::incarnation).
    pub incarnation: u64,
    /// Counts the questions of that life.
    pub seq: u64,
}

/// How far the receiver of a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum InstallProgress {
    /// It has the bytes before this offset and wants those from there on.
    Wants(u64),
    /// It is busy with what it has got.
    Busy,
    /// Its store kept nothing of what it got, and it wants all of it again.
    Refused,
    /// It needs nothing more: its log is known to equal the leader's through this index, durably.
    Installed(LogIndex),
}

/// The consistency check of §5.3 failed.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Conflict {
    /// The index that was checked: `prev.index` of the refused message.
    pub prev: LogIndex,
    /// The follower's last entry at or before `prev` whose term is at most that of `prev`: whatever lies
    /// between cannot match, so the leader skips whole terms at once (§5.3).
    pub hint: LogId,
}

impl Body {
    /// The name as it stands in the paper.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::RequestVote { .. } => "RequestVote",
            Self::RequestVoteReply { .. } => "RequestVoteReply",
            Self::PreVote { .. } => "PreVote",
            Self::PreVoteReply { .. } => "PreVoteReply",
            Self::AppendEntries { .. } => "AppendEntries",
            Self::AppendEntriesReply { .. } => "AppendEntriesReply",
            Self::InstallSnapshot { .. } => "InstallSnapshot",
            Self::InstallSnapshotReply { .. } => "InstallSnapshotReply",
            Self::TimeoutNow => "TimeoutNow",
            Self::ReadIndex { .. } => "ReadIndex",
            Self::ReadIndexReply { .. } => "ReadIndexReply",
        }
    }
}

impl Message {
    /// Whether a field is impossible, whatever the state of a receiver whose current term is `own`.
    pub(crate) fn is_absurd(&self, own: Term) -> bool {
        let term = self.term;
        if term >= Term::LIMIT || term.get().saturating_sub(own.get()) > Term::JUMP_MAX {
            return true;
        }
        // Nobody is elected in the term of the bootstrap.
        let elected = term > Term::BOOTSTRAP;
        let possible =
            |id: LogId| id.index < LogIndex::LIMIT && (id.index == LogIndex::ZERO) == (id.term == Term::ZERO);
        let sound = match &self.body {
            // A candidate's log ends before its new term.
            Body::RequestVote { last, .. } => elected && possible(*last) && last.term < term,
            Body::PreVote { proposed, last } => {
                term.next() == Some(*proposed)
                    && *proposed > Term::BOOTSTRAP
                    && possible(*last)
                    && last.term <= term
            }
            Body::AppendEntries { prev, entries, round, .. } => {
                let follows = entries.first().is_none_or(|first| {
                    prev.index.next() == first.index && prev.term <= first.term && first.term > Term::ZERO
                });
                let fits =
                    entries.last().is_none_or(|last| last.term <= term && last.index < LogIndex::LIMIT);
                let counted = *round > 0;
                let memberships = entries.windows().iter().all(|window| match window.body() {
                    BlockBody::Membership(membership) => membership.validate().is_ok(),
                    BlockBody::Noop | BlockBody::Commands(_) => true,
                });
                elected && possible(*prev) && prev.term <= term && counted && follows && fits && memberships
            }
            Body::InstallSnapshot { meta, offset, data, done, round } => {
                let end = offset.checked_add(data.len() as u64);
                let within = end.is_some_and(|end| end <= meta.size_bytes);
                let ends = end == Some(meta.size_bytes);
                // Only an empty snapshot ends with an empty chunk (TRAP 43).
                let part = match (data.is_empty(), *done) {
                    (true, true) => meta.size_bytes == 0,
                    (true, false) => true,
                    (false, done) => done == ends,
                };
                elected
                    && *round > 0
                    && within
                    && part
                    && meta.id.last.term <= term
                    && meta.validate().is_ok()
            }
            Body::TimeoutNow => elected,
            Body::ReadIndexReply { index, .. } => index.is_none_or(|index| index < LogIndex::LIMIT),
            Body::ReadIndex { .. }
            | Body::AppendEntriesReply { .. }
            | Body::InstallSnapshotReply { .. }
            | Body::RequestVoteReply { .. }
            | Body::PreVoteReply { .. } => true,
        };
        !sound
    }
}

/// As in protocol traces: `n1@2 → n3 AppendEntries prev=4@1 [5@2] commit=4 round=9`.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}@{} → n{} {:?}", self.from, self.term, self.to, self.body)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let verdict = |granted: &bool| if *granted { "granted" } else { "refused" };
        match self {
            Self::RequestVote { last, transfer } => {
                write!(f, " last={last}{}", if *transfer { " transfer" } else { "" })
            }
            Self::RequestVoteReply { granted } => write!(f, " {}", verdict(granted)),
            Self::PreVote { proposed, last } => write!(f, " proposed={proposed} last={last}"),
            Self::PreVoteReply { proposed, granted } => {
                write!(f, " proposed={proposed} {}", verdict(granted))
            }
            Self::AppendEntries { prev, entries, commit, round } => {
                write!(f, " prev={prev} {entries:?} commit={commit} round={round}")
            }
            Self::AppendEntriesReply { result: Ok(matched), round } => {
                write!(f, " match={matched} round={round}")
            }
            Self::AppendEntriesReply { result: Err(conflict), round } => {
                write!(f, " conflict at {} hint={} round={round}", conflict.prev, conflict.hint)
            }
            Self::InstallSnapshot { meta, offset, data, done, round } => {
                let end = offset.saturating_add(data.len() as u64);
                let last = if *done { " done" } else { "" };
                write!(f, " {} bytes {offset}..{end} of {}{last} round={round}", meta.id, meta.size_bytes)
            }
            Self::InstallSnapshotReply { id, progress, round } => {
                write!(f, " {id} ")?;
                match progress {
                    InstallProgress::Wants(offset) => write!(f, "wants={offset}")?,
                    InstallProgress::Busy => f.write_str("busy")?,
                    InstallProgress::Refused => f.write_str("refused")?,
                    InstallProgress::Installed(index) => write!(f, "match={index}")?,
                }
                write!(f, " round={round}")
            }
            Self::TimeoutNow => Ok(()),
            Self::ReadIndex { id } => write!(f, " question={}.{}", id.incarnation, id.seq),
            Self::ReadIndexReply { id, index: Some(index) } => {
                write!(f, " question={}.{} index={index}", id.incarnation, id.seq)
            }
            Self::ReadIndexReply { id, index: None } => {
                write!(f, " question={}.{} refused", id.incarnation, id.seq)
            }
        }
    }
}

impl fmt::Debug for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hint={}", self.prev, self.hint)
    }
}
