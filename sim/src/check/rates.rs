//! Message rates: every message is paid for, by time, by work, or by what a peer reported.
//!
//! * A *question* (an append, a part of a snapshot, a request for a vote or an index) is paid for by a heartbeat interval
//!   that passed, by a read that needs a round, or by a peer that got further. An *answer* is paid for by a question that
//!   was delivered, or by a write that was done.
//! * What is not paid for adds up on its link, and more than a burst of it is a finding: two nodes that only keep each
//!   other busy are seen at once, however fast or slow they do it.
//! * What a node waits for itself is bounded too: reads of its log and of snapshots.

use raft_core::{Body, Event, InstallProgress, LogIndex, Message, NodeId, Term};

use super::disks::slot;
use super::{Check, ensure};
use crate::clock::Nanos;

const CHECKER: &str = "rates";

/// Unpaid questions on a link beyond which it is no burst any more: a few windows of appends, lost and sent again.
const QUESTIONS_MAX: u64 = 600;

/// Unpaid answers.
const ANSWERS_MAX: u64 = 64;

/// What an entry that a peer has acknowledged pays for: itself, and that it was overtaken and sent again.
const PER_ENTRY: u64 = 4;

/// What one heartbeat interval pays for: a heartbeat by a clock that is fast, and a question or two of a candidate.
const PER_INTERVAL: u64 = 4;

/// Reads of the log, or of snapshots, that are under way for each peer and for the machine: one, and one more that nobody
/// waits for any longer.
const READS_PER_PEER: usize = 4;

/// What went from one node to another.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    questions_unpaid: u64,
    answers_unpaid: u64,
    /// When time last paid, and what was counted then.
    paid_at: Nanos,
    rounds_paid: u64,
    done_paid: u64,
    /// What the receiver has acknowledged, and to which term's leader.
    matched: (Term, LogIndex),
}

/// What one node did.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    heartbeat: Nanos,
    /// Reads and questions of others, each of which may begin a round.
    rounds: u64,
    /// Completions of its disk and its machine.
    done: u64,
    /// Reads of its log and of snapshots that are under way.
    reads: usize,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Rates {
    work: Vec<Work>,
    links: Vec<Link>,
}

impl Rates {
    /// For nodes with these heartbeat intervals.
    pub(crate) fn new(heartbeats: impl Iterator<Item = Nanos>) -> Self {
        let work: Vec<Work> = heartbeats.map(|heartbeat| Work { heartbeat, ..Work::default() }).collect();
        let links = vec![Link::default(); work.len() * work.len()];
        Self { work, links }
    }

    fn link(&mut self, from: NodeId, to: NodeId) -> &mut Link {
        &mut self.links[slot(from) * self.work.len() + slot(to)]
    }

    /// A node takes in an event.
    pub(crate) fn takes(&mut self, node: NodeId, event: &Event) {
        let work = &mut self.work[slot(node)];
        match event {
            Event::Receive(message) => self.received(message),
            Event::Read { .. } => work.rounds += 1,
            Event::Persisted(_) | Event::Applied(_) | Event::SnapshotChunkWritten { .. } => work.done += 1,
            Event::LogRead { .. } | Event::SnapshotChunkRead { .. } => {
                work.reads = work.reads.saturating_sub(1);
            }
            _ => {}
        }
    }

    fn received(&mut self, message: &Message) {
        let (from, to, term) = (message.from, message.to, message.term);
        match &message.body {
            Body::AppendEntriesReply { result: Ok(index), .. }
            | Body::InstallSnapshotReply { progress: InstallProgress::Installed(index), .. } => {
                let link = self.link(to, from);
                let (before, now) = (link.matched, (term, *index));
                if now > before {
                    let news = if before.0 == term { index.since(before.1) } else { 1 };
                    link.questions_unpaid = link.questions_unpaid.saturating_sub(news * PER_ENTRY);
                    link.matched = now;
                }
            }
            // Each part of a snapshot is asked for.
            Body::InstallSnapshotReply { progress: InstallProgress::Wants(offset), .. } if *offset > 0 => {
                let link = self.link(to, from);
                link.questions_unpaid = link.questions_unpaid.saturating_sub(1);
            }
            Body::ReadIndex { .. } => {
                self.work[slot(to)].rounds += 1;
                self.ask(to, from);
            }
            Body::AppendEntries { .. }
            | Body::InstallSnapshot { .. }
            | Body::RequestVote { .. }
            | Body::PreVote { .. }
            | Body::TimeoutNow => self.ask(to, from),
            _ => {}
        }
    }

    /// An answer from `to` to `from` is due.
    fn ask(&mut self, from: NodeId, to: NodeId) {
        let link = self.link(from, to);
        link.answers_unpaid = link.answers_unpaid.saturating_sub(1);
    }

    /// A node sends a message.
    pub(crate) fn sent(&mut self, message: &Message, now: Nanos) -> Check {
        let (from, to) = (message.from, message.to);
        let work = self.work[slot(from)];
        let link = self.link(from, to);
        let (unpaid, max) = match &message.body {
            Body::AppendEntriesReply { .. }
            | Body::InstallSnapshotReply { .. }
            | Body::RequestVoteReply { .. }
            | Body::PreVoteReply { .. }
            | Body::ReadIndexReply { .. } => {
                let paid = work.done - link.done_paid;
                link.done_paid = work.done;
                link.answers_unpaid = link.answers_unpaid.saturating_sub(paid) + 1;
                (link.answers_unpaid, ANSWERS_MAX)
            }
            _ => {
                let intervals = (now - link.paid_at) / work.heartbeat;
                link.paid_at += intervals * work.heartbeat;
                let paid = intervals * PER_INTERVAL + (work.rounds - link.rounds_paid);
                link.rounds_paid = work.rounds;
                link.questions_unpaid = link.questions_unpaid.saturating_sub(paid) + 1;
                (link.questions_unpaid, QUESTIONS_MAX)
            }
        };
        ensure!(
            CHECKER,
            unpaid <= max,
            "n{from} has sent n{to} {unpaid} messages that neither time nor work accounts for, the last one {message:?}"
        );
        Ok(())
    }

    /// A node begins to read its log or a snapshot.
    pub(crate) fn reads(&mut self, node: NodeId) -> Check {
        let peers = self.work.len();
        let work = &mut self.work[slot(node)];
        work.reads += 1;
        let reads = work.reads;
        ensure!(CHECKER, reads <= READS_PER_PEER * (peers + 1), "n{node} waits for {reads} reads at once");
        Ok(())
    }

    /// A node crashed: nothing of what it waited for will come.
    pub(crate) fn crashed(&mut self, node: NodeId) {
        self.work[slot(node)].reads = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{append, id, index, message, node, puts};
    use raft_core::Entries;

    const HEARTBEAT: Nanos = 1_000;

    fn rates() -> Rates {
        Rates::new([HEARTBEAT; 3].into_iter())
    }

    fn heartbeat() -> Message {
        message(1, 2, 3, append(id(1, 1), Entries::empty(), 1))
    }

    fn reply(matched: u64) -> Message {
        message(2, 1, 3, Body::AppendEntriesReply { result: Ok(index(matched)), round: 1 })
    }

    #[test]
    fn two_nodes_that_keep_each_other_busy_are_seen() {
        let mut rates = rates();
        let broken = (0..100 * QUESTIONS_MAX).find_map(|at| {
            let sent = rates.sent(&heartbeat(), at);
            rates.takes(node(2), &Event::Receive(heartbeat()));
            let answered = rates.sent(&reply(1), at);
            rates.takes(node(1), &Event::Receive(reply(1)));
            sent.and(answered).err()
        });
        let what = format!("n1 has sent n2 {} messages", QUESTIONS_MAX + 1);
        assert!(broken.is_some_and(|broken| broken.what.contains(&what)));
    }

    #[test]
    fn answers_that_nobody_asked_for_are_seen() {
        let mut rates = rates();
        let broken = (0..=ANSWERS_MAX).find_map(|at| rates.sent(&reply(1), at * HEARTBEAT).err());
        let what = format!("n2 has sent n1 {} messages", ANSWERS_MAX + 1);
        assert!(broken.is_some_and(|broken| broken.what.contains(&what)));
    }

    #[test]
    fn heartbeats_reads_and_progress_pay_for_what_they_need() {
        let mut rates = rates();
        for at in 0..2 * QUESTIONS_MAX {
            assert_eq!(rates.sent(&heartbeat(), at * HEARTBEAT / 2), Ok(()));
            rates.takes(node(2), &Event::Receive(heartbeat()));
            assert_eq!(rates.sent(&reply(1), at * HEARTBEAT / 2), Ok(()));
        }
        let now = QUESTIONS_MAX * HEARTBEAT;
        // Entry by entry, as fast as they are acknowledged.
        for at in 2..2 * QUESTIONS_MAX {
            assert_eq!(
                rates.sent(&message(1, 2, 3, append(id(at, 3), puts(at + 1, 3, &[1]), 1)), now),
                Ok(())
            );
            rates.takes(node(1), &Event::Receive(reply(at)));
        }
        for _ in 0..2 * QUESTIONS_MAX {
            let asks =
                message(3, 1, 3, Body::ReadIndex { id: raft_core::QuestionId { incarnation: 1, seq: 1 } });
            rates.takes(node(1), &Event::Receive(asks));
            assert_eq!(rates.sent(&heartbeat(), now), Ok(()));
        }
    }

    #[test]
    fn reads_that_pile_up_are_seen() {
        let mut rates = rates();
        let most = READS_PER_PEER * 4;
        assert!((0..most).all(|_| rates.reads(node(1)).is_ok()));
        assert!(rates.reads(node(1)).is_err());
        rates.crashed(node(1));
        assert_eq!(rates.reads(node(1)), Ok(()));
    }
}
