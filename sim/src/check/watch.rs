//! Looks out for the [marks](crate::marks): which places in the core's behaviour a run has come to.
//!
//! * It sees what the checkers see, and breaks nothing: a mark that is not reached is a matter for the campaign.
//! * One part for each subject. Each keeps only what it has to remember between two events.

mod clients;
mod elections;
mod log;
mod membership;
mod snapshots;

use raft_core::{Body, Entries, Event, InstallProgress, LogId, Message, NodeId, RoleKind, Status, Write};

use super::book::Book;
use super::commit::Commit;
use super::disks::{Disks, slot};
use super::membership::Memberships;
use crate::clock::Nanos;
use crate::marks::{Mark, Marks};

pub(crate) use clients::Clients;

/// What the event that a node is about to take in says, as far as it matters afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    PreVote { last: LogId, proposed_above: bool },
    RequestVote { from: NodeId, last: LogId, of_term: bool, transfer: bool },
    Append { from: NodeId, late: bool },
    TimeoutNow,
    Other,
}

/// What is known of a node between events.
#[derive(Clone, Debug)]
struct Node {
    status: Option<Status>,
    up: bool,
    /// It has heard a leader since it started.
    led: bool,
    /// Writes handed to its disk and not reported: when, and the first and the last entry of each.
    writes: std::collections::VecDeque<log::Handed>,
    /// What it last dropped from the end of its log.
    dropped: Option<LogId>,
    taken: Taken,
}

/// What surrounds a node's step.
pub(super) struct Around<'a> {
    pub(super) book: &'a Book,
    pub(super) commit: &'a Commit,
    pub(super) disks: &'a Disks,
    pub(super) memberships: &'a Memberships,
}

/// The look-out.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) marks: Marks,
    pub(super) clients: Clients,
    nodes: Vec<Node>,
    election_max: Vec<Nanos>,
    now: Nanos,
    elections: elections::Elections,
    log: log::Log,
    membership: membership::Membership,
    snapshots: snapshots::Snapshots,
}

impl Watch {
    /// For nodes with these configurations.
    pub(crate) fn new(configs: &[raft_core::Config]) -> Self {
        let node = Node {
            status: None,
            up: false,
            led: false,
            writes: std::collections::VecDeque::new(),
            dropped: None,
            taken: Taken::Other,
        };
        let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            marks: Marks::default(),
            clients: Clients::new(configs),
            nodes: vec![node; configs.len()],
            election_max: configs.iter().map(|config| nanos(config.election_timeout_max)).collect(),
            now: 0,
            elections: elections::Elections::default(),
            log: log::Log::new(configs.len()),
            membership: membership::Membership::default(),
            snapshots: snapshots::Snapshots::new(configs.len()),
        }
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[slot(node)]
    }

    /// A node has started.
    pub(crate) fn started(&mut self, status: &Status) {
        let node = self.node(status.id);
        (node.status, node.up, node.led) = (Some(*status), true, false);
        node.writes.clear();
        node.dropped = None;
        self.snapshots.started(status.id);
    }

    /// A node has crashed.
    pub(crate) fn crashed(&mut self, node: NodeId) {
        self.node(node).up = false;
        self.clients.crashed(node);
        let down = self.nodes.iter().all(|node| !node.up);
        self.marks.hit_if(Mark::AllDown, down && self.nodes.len() > 1);
    }

    /// A node is about to take in an event.
    pub(crate) fn takes(&mut self, before: &Status, event: &Event, now: Nanos) {
        self.now = now;
        let taken = match event {
            Event::Receive(message) => self.receives(before, message),
            Event::Persisted(id) => {
                self.persisted(before.id, *id);
                Taken::Other
            }
            Event::LogRead { result: Err(_), .. } => {
                self.marks.hit(Mark::LogReadGone);
                Taken::Other
            }
            Event::SnapshotTaken(Err(_)) => {
                self.marks.hit(Mark::SnapshotNotTaken);
                Taken::Other
            }
            Event::SnapshotChunkRead { result: Err(_), .. } => {
                self.marks.hit(Mark::SnapshotNotRead);
                Taken::Other
            }
            Event::SnapshotChunkWritten { result: Err(_), .. } => {
                self.marks.hit(Mark::SnapshotNotWritten);
                Taken::Other
            }
            Event::Unreachable(peer) => {
                self.snapshots.interrupted(before.id, *peer);
                Taken::Other
            }
            _ => Taken::Other,
        };
        self.node(before.id).taken = taken;
    }

    fn receives(&mut self, before: &Status, message: &Message) -> Taken {
        let (from, of_term) = (message.from, message.term >= before.term);
        match &message.body {
            Body::PreVote { proposed, last } => {
                Taken::PreVote { last: *last, proposed_above: *proposed > before.term }
            }
            Body::RequestVote { last, transfer } => {
                Taken::RequestVote { from, last: *last, of_term, transfer: *transfer }
            }
            Body::AppendEntries { prev, entries, .. } => {
                if of_term {
                    self.appends(before, *prev, entries);
                }
                Taken::Append { from, late: !of_term }
            }
            Body::InstallSnapshot { meta, .. } => {
                let needless = of_term && meta.id.last.index <= before.commit;
                self.marks.hit_if(Mark::SnapshotNotNeeded, needless);
                Taken::Append { from, late: !of_term }
            }
            Body::AppendEntriesReply { result, round } if *round > 0 && message.term == before.term => {
                self.log.replied(before, from, result, &mut self.marks);
                Taken::Other
            }
            Body::TimeoutNow => Taken::TimeoutNow,
            _ => Taken::Other,
        }
    }

    /// A node has taken in an event.
    pub(crate) fn stepped(&mut self, before: &Status, after: &Status, elected: bool, around: &Around<'_>) {
        self.voted(before, after, around);
        if elected {
            self.elected(after, around);
        }
        if before.role == RoleKind::Leader {
            self.led(before, after, around);
        }
        if before.last != after.last {
            self.moved(before, after, around);
        }
        let counters = (before.counters, after.counters);
        self.marks.hit_if(Mark::Overflowed, counters.0.overflowed < counters.1.overflowed);
        self.marks
            .hit_if(Mark::SnapshotInstalled, counters.0.snapshots_installed < counters.1.snapshots_installed);
        let node = self.node(after.id);
        node.status = Some(*after);
        node.led |= after.leader.is_some();
    }

    /// A node sends a message.
    pub(crate) fn sent(&mut self, message: &Message, memberships: &Memberships) {
        match &message.body {
            Body::AppendEntries { .. } => {
                let known = memberships.in_force(message.from);
                self.marks.hit_if(Mark::FarewellSent, !known.contains(message.to));
            }
            Body::InstallSnapshot { meta, offset, data, .. } => {
                let whole = self.nodes[slot(message.from)].status.is_some_and(|it| it.base == LogId::ZERO);
                self.marks.hit_if(Mark::SnapshotThoughLogIsThere, whole);
                self.snapshots.sent(message, meta.id, *offset, data.len(), &mut self.marks);
            }
            Body::InstallSnapshotReply { progress: InstallProgress::Busy, .. } => {
                self.marks.hit(Mark::SnapshotReceiverBusy);
            }
            Body::TimeoutNow => {
                let left = !memberships.in_force(message.from).is_voter(message.from);
                self.marks.hit_if(Mark::RemovedLeaderHandsOver, left);
            }
            Body::ReadIndex { id } => self.clients.asks(message.from, *id, &mut self.marks),
            Body::ReadIndexReply { index: None, .. } => self.marks.hit(Mark::QuestionRefused),
            _ => {}
        }
    }

    /// A node hands a write to its disk.
    pub(crate) fn written(&mut self, node: NodeId, write: &Write, handed: LogId, book: &Book) {
        if let Some(to) = write.reset_to {
            let contradicts = handed.index >= to.index && book.at(handed, to.index) != Some(to);
            self.marks.hit_if(Mark::SnapshotReplacesConflict, contradicts);
        }
        let now = self.now;
        self.node(node).writes.push_back(log::Handed::new(write, now));
    }

    /// A configuration was written or sent for the first time.
    pub(crate) fn noted(&mut self, id: LogId, book: &Book) {
        self.membership.noted(id, book, &mut self.marks);
    }

    /// A node reads its log.
    pub(crate) fn reads_log(&mut self, node: NodeId, from: raft_core::LogIndex) {
        let Some(status) = self.nodes[slot(node)].status else { return };
        let for_peer = status.role == RoleKind::Leader && from <= status.applied;
        self.marks.hit_if(Mark::LogReadForPeer, for_peer);
        self.marks.hit_if(Mark::LogReadForMachine, status.role != RoleKind::Leader);
    }

    /// A part of a snapshot arrived at a node's store.
    pub(crate) fn chunk(&mut self, node: NodeId, id: raft_core::SnapshotId, offset: u64, done: bool) {
        self.snapshots.chunk(node, id, offset, done, &mut self.marks);
    }

    fn appends(&mut self, before: &Status, prev: LogId, entries: &Entries) {
        self.marks.hit_if(Mark::AppendBelowBase, prev.index < before.base.index);
        let through = prev.index.plus(entries.len());
        self.marks.hit_if(Mark::LateAppend, !entries.is_empty() && through < before.last.index);
    }
}
