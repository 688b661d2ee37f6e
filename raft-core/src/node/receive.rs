//! What messages do to a node. Nothing in here can fail: what makes no sense is ignored and counted.
//!
//! * This is the only place where a term of a message is compared with one's own (§5.1).
//! * A leader is obeyed, and a candidate voted for, also if the configuration in force does not know it: this node may be
//!   the one that is behind (§6, TRAP 49). Only answers to questions that were never asked are ignored.

use alloc::sync::Arc;

use super::Node;
use crate::ids::{LogId, LogIndex, NodeId, Term};
use crate::message::{Body, Conflict, InstallProgress, Message, QuestionId};
use crate::role::follower::recognise;
use crate::role::{Next, Role};

impl Node {
    pub(super) fn receive(&mut self, message: &Message) {
        let shared = &mut self.shared;
        if message.to != shared.id() || message.from == shared.id() {
            shared.counters.misaddressed += 1;
            return;
        }
        if message.is_absurd(shared.term()) {
            shared.counters.absurd += 1;
            return;
        }
        let Message { from, term, .. } = *message;
        match &message.body {
            Body::PreVote { proposed, last } => self.pre_vote(from, *proposed, *last),
            Body::RequestVote { last, transfer } => self.request_vote(from, term, *last, *transfer),
            Body::AppendEntries { prev, entries, commit, round } => {
                // An answer to an earlier term confirms no round: its receiver may lead this very term by the time it
                // arrives.
                let late = || {
                    let conflict = Conflict { prev: LogIndex::ZERO, hint: LogId::ZERO };
                    Body::AppendEntriesReply { result: Err(conflict), round: 0 }
                };
                if !self.recognise_leader(from, term, late) {
                    return;
                }
                if let Role::Follower(role) = &mut self.role {
                    role.append_entries(&mut self.shared, *prev, entries, *commit, *round);
                }
            }
            Body::InstallSnapshot { meta, offset, data, done, round } => {
                let late = || {
                    let progress = InstallProgress::Wants(0);
                    Body::InstallSnapshotReply { id: meta.id, progress, round: 0 }
                };
                if !self.recognise_leader(from, term, late) {
                    return;
                }
                if let Role::Follower(role) = &mut self.role {
                    let chunk = (*offset, data.clone(), *done);
                    role.install_snapshot(&mut self.shared, Arc::clone(meta), chunk, *round);
                }
            }
            Body::TimeoutNow => self.timeout_now(from, term),
            Body::ReadIndex { id } => self.read_index(from, term, *id),
            Body::ReadIndexReply { .. }
            | Body::InstallSnapshotReply { .. }
            | Body::PreVoteReply { .. }
            | Body::RequestVoteReply { .. }
            | Body::AppendEntriesReply { .. } => self.reply(from, term, &message.body),
        }
    }

    /// Answers to this node's own questions.
    fn reply(&mut self, from: NodeId, term: Term, body: &Body) {
        let member = || self.shared.membership().contains(from);
        let asked = match &self.role {
            // Every other member, and whoever left and does not know it.
            Role::Leader(leader) => leader.is_peer(from),
            _ => member(),
        };
        if !asked {
            // Strangers were asked nothing.
            self.shared.counters.stale += 1;
            return;
        }
        if term > self.shared.term() && member() {
            return self.adopt(term, None);
        }
        let shared = &mut self.shared;
        let next = match (&mut self.role, body) {
            // The sender of a grant may be behind in term: the question was about a later one anyway.
            (Role::PreCandidate(role), Body::PreVoteReply { proposed, granted }) => {
                role.pre_vote_reply(shared, from, *proposed, *granted)
            }
            // Everything else counts only in its own term (TRAP 3).
            (Role::Candidate(role), Body::RequestVoteReply { granted }) if term == shared.term() => {
                role.request_vote_reply(shared, from, *granted)
            }
            (Role::Leader(role), Body::AppendEntriesReply { result, round }) if term == shared.term() => {
                role.append_entries_reply(shared, from, *result, *round);
                Next::Stay
            }
            (Role::Leader(role), Body::InstallSnapshotReply { id, progress, round })
                if term == shared.term() =>
            {
                role.install_snapshot_reply(shared, from, *id, *progress, *round);
                Next::Stay
            }
            (Role::Follower(_), Body::ReadIndexReply { id, index })
                if term == shared.term() && shared.questions.answer(from, *id, *index, &mut shared.out) =>
            {
                Next::Stay
            }
            _ => {
                shared.counters.stale += 1;
                Next::Stay
            }
        };
        self.transition(next);
    }

    /// Whether a live leader forbids electing another (thesis §4.2.3).
    #[inline(never)]
    fn is_sticky(&self) -> bool {
        match &self.role {
            Role::Leader(leader) => leader.is_established(&self.shared),
            _ => self.shared.heard_from_leader(),
        }
    }

    /// Says whether it would vote for the sender; changes nothing here, no timer that runs (thesis §9.6, TRAP 9).
    #[inline(never)]
    fn pre_vote(&mut self, from: NodeId, proposed: Term, last: LogId) {
        let sticky = self.is_sticky();
        let shared = &mut self.shared;
        shared.counters.sticky += u64::from(sticky);
        // Who could not keep a vote promises none: a campaign that counts on it would only disturb the others (TRAP 60).
        let able = !shared.disk_stalled();
        let behind = !shared.is_up_to_date(last);
        let granted = !sticky && able && proposed > shared.term() && !behind;
        if behind && !sticky {
            // Whoever asks: a stranger may be one whose configuration this log lacks (TRAP 49).
            shared.want();
        }
        shared.send(from, Body::PreVoteReply { proposed, granted });
    }

    /// Figure 2, RequestVote RPC.
    #[inline(never)]
    fn request_vote(&mut self, from: NodeId, term: Term, last: LogId, transfer: bool) {
        if term < self.shared.term() {
            // The candidate learns of this term by the answer (§5.1).
            return self.shared.send_gated(from, Body::RequestVoteReply { granted: false });
        }
        if !transfer && self.is_sticky() {
            // As if it had not arrived, its term included: a server that was removed or cut off must not unseat a
            // leader that works (thesis §4.2.3).
            self.shared.counters.sticky += 1;
            return;
        }
        if term > self.shared.term() {
            self.adopt(term, None);
        }
        let shared = &mut self.shared;
        let free = shared.voted_for().is_none_or(|node| node == from);
        let granted = free && shared.is_up_to_date(last);
        if granted {
            assert!(
                matches!(self.role, Role::Follower(_) | Role::PreCandidate(_)),
                "others have voted (§5.2)"
            );
            shared.vote_for(from);
            // Whoever helps another to lead does not compete with it (§5.2).
            shared.rearm_election();
        }
        shared.send_gated(from, Body::RequestVoteReply { granted });
    }

    /// The leader hands over to this node, which campaigns without asking first (thesis §3.10, TRAP 59).
    #[inline(never)]
    fn timeout_now(&mut self, from: NodeId, term: Term) {
        let shared = &mut self.shared;
        if term != shared.term() || shared.leader != Some(from) || shared.can_campaign().is_err() {
            // It is repeated as long as the leader wants it.
            shared.counters.stale += 1;
            return;
        }
        self.transition(Next::Campaign { transfer: true });
    }

    /// A member wants to serve reads (thesis §6.4).
    #[inline(never)]
    fn read_index(&mut self, from: NodeId, term: Term, id: QuestionId) {
        if !self.shared.membership().contains(from) {
            self.shared.counters.stale += 1;
            return;
        }
        if term > self.shared.term() {
            self.adopt(term, None);
        }
        let shared = &mut self.shared;
        match &mut self.role {
            Role::Leader(leader) if term == shared.term() => leader.read_index_asked(shared, from, id),
            _ => shared.send_gated(from, Body::ReadIndexReply { id, index: None }),
        }
    }

    /// A message of the leader of `term`: obeys it, unless that would make two leaders of one term (§5.2), or the term is
    /// over. Afterwards this node is its follower.
    fn recognise_leader(&mut self, from: NodeId, term: Term, late: impl FnOnce() -> Body) -> bool {
        if term < self.shared.term() {
            // The leader learns of this term by the answer, and steps down (§5.1, TRAP 11).
            self.shared.counters.stale += 1;
            self.shared.send_gated(from, late());
            return false;
        }
        let follows = matches!(self.role, Role::Follower(_));
        if term > self.shared.term() {
            self.adopt(term, Some(from));
        } else if follows && self.shared.leader == Some(from) {
            // As before: nothing changes.
        } else if !recognise(&mut self.shared, from) {
            return false;
        } else if !follows {
            self.transition(Next::Follow(Some(from)));
        } else {
            self.shared.set_leader(Some(from));
        }
        self.shared.hear_leader();
        true
    }
}
