//! Replication to each peer: entries, heartbeats and snapshots, and what their answers prove (§5.3, §5.4, §7).

use alloc::sync::Arc;
use bytes::Bytes;

use super::Leader;
use crate::action::{Action, SnapshotTask, Violation};
use crate::entry::Entries;
use crate::ids::{LogIndex, NodeId};
use crate::message::{Body, Conflict, InstallProgress};
use crate::progress::{ConflictFound, Progress};
use crate::quorum;
use crate::snapshot::{SnapshotError, SnapshotId, SnapshotMeta};
use crate::state::{Reader, Shared};
use crate::status::ReplicationState;
use crate::transfer::Step;

impl Leader {
    /// The peers are who the membership in force says (§6). Who left is kept until it is told so.
    pub(super) fn match_peers(&mut self, shared: &Shared) {
        let (index, membership) = shared.log.membership();
        let membership = Arc::clone(membership);
        self.counted_by = index;
        let next_index = shared.log.last_index().next();
        // What somebody said before it was added, or before it left and came back, proves nothing now (TRAP 28).
        self.peers.retain(|peer| !(peer.leaving && membership.contains(peer.id)));
        for peer in &mut self.peers {
            peer.leaving = !membership.contains(peer.id);
        }
        for node in membership.members() {
            if node == shared.id() {
                continue;
            }
            if let Err(at) = self.peers.binary_search_by_key(&node, |peer| peer.id) {
                self.new_round();
                self.peers.insert(at, Progress::new(node, next_index, self.round, shared.now));
            }
        }
        for peer in &mut self.peers {
            peer.votes = membership.is_voter(peer.id);
        }
        self.settle(shared);
    }

    /// Sees whether anything is in progress about the membership.
    pub(super) fn settle(&mut self, shared: &Shared) {
        let membership = shared.membership();
        let settled = membership.is_settled() && membership.is_voter(shared.id());
        self.settled = settled && !self.peers.iter().any(|peer| peer.leaving);
    }

    /// The configuration in force is of an earlier leader: those who leave by it may not know, and hear it from this one
    /// (TRAP 47).
    pub(super) fn match_leaving(&mut self, shared: &mut Shared) {
        let (index, _) = shared.log.membership();
        let Some((_, before)) = shared.log.membership_as_of(index.prev()) else { return };
        let before = Arc::clone(before);
        shared.announce_leaving(&before.nodes);
        let next_index = shared.log.last_index().next();
        for node in before.members() {
            if let (true, Err(at)) =
                (node != shared.id(), self.peers.binary_search_by_key(&node, |peer| peer.id))
            {
                let mut peer = Progress::new(node, next_index, self.round, shared.now);
                peer.leaving = true;
                self.peers.insert(at, peer);
            }
        }
        self.settle(shared);
    }

    /// The peer that a message of the current term and this round is from, unless it proves nothing. It is heard.
    fn answering(&mut self, shared: &mut Shared, from: NodeId, round: u64) -> Option<&mut Progress> {
        let (now, latest) = (shared.now, self.round);
        // Round zero answers a leadership of an earlier term.
        let peer = self.peer_mut(from).filter(|peer| round > 0 && peer.is_of_now(round));
        let Some(peer) = peer else {
            shared.counters.stale += 1;
            return None;
        };
        if round > latest {
            shared.counters.absurd += 1;
            return None;
        }
        peer.heard(round, now);
        Some(peer)
    }

    /// A reply of the current term (§5.3).
    pub(crate) fn append_entries_reply(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        result: Result<LogIndex, Conflict>,
        round: u64,
    ) {
        let (last, current) = (shared.log.last_index(), self.round);
        let absurd = match result {
            Ok(index) => index > last,
            Err(conflict) => {
                // What comes before the log agrees everywhere; only an answer to an earlier term says otherwise.
                let nowhere = conflict.prev == LogIndex::ZERO && round > 0;
                conflict.prev > last || conflict.hint.index > conflict.prev || nowhere
            }
        };
        if absurd {
            shared.counters.absurd += 1;
            return;
        }
        let Some(peer) = self.answering(shared, from, round) else { return };
        match result {
            Ok(index) => {
                if peer.acknowledged(index, round, current, last, &shared.config) {
                    self.progressed(shared, from);
                    self.advance_commit(shared);
                }
            }
            Err(conflict) => {
                match peer.refused(conflict, round, current, &shared.log.terms, &shared.config) {
                    ConflictFound::MovedBack | ConflictFound::Late => {}
                    ConflictFound::Stale => shared.counters.stale += 1,
                    ConflictFound::Lost(index) => {
                        shared.violation(from, Violation::AcknowledgedEntryLost(index));
                        // Only answers to what is sent from now on say what it holds.
                        self.new_round();
                    }
                }
            }
        }
        self.confirm_reads(shared);
    }

    /// A reply of the current term (§7).
    pub(crate) fn install_snapshot_reply(
        &mut self,
        shared: &mut Shared,
        from: NodeId,
        id: SnapshotId,
        progress: InstallProgress,
        round: u64,
    ) {
        let (last, current) = (shared.log.last_index(), self.round);
        if matches!(progress, InstallProgress::Installed(index) if index > last || index < id.last.index) {
            shared.counters.absurd += 1;
            return;
        }
        let Some(peer) = self.answering(shared, from, round) else { return };
        match progress {
            InstallProgress::Installed(index) => {
                let sent_whole = peer.sending_of(id).is_some_and(|sending| sending.was_sent_whole());
                let news = peer.acknowledged(index, round, current, last, &shared.config);
                if sent_whole {
                    shared.snapshot_arrived(id);
                }
                if news {
                    self.progressed(shared, from);
                    self.advance_commit(shared);
                }
            }
            InstallProgress::Wants(offset) => {
                let now = shared.now;
                if peer.sending_of(id).is_some_and(|sending| sending.wants(offset, round, now)) {
                    self.progressed(shared, from);
                }
            }
            InstallProgress::Refused => {
                let now = shared.now;
                if peer.sending_of(id).is_some_and(|sending| sending.refused(round, now)) {
                    shared.snapshot_unusable(id, SnapshotError::Unusable);
                }
            }
            InstallProgress::Busy => {
                let now = shared.now;
                if let Some(sending) = peer.sending_of(id) {
                    sending.busy(now);
                }
            }
        }
        self.confirm_reads(shared);
    }

    /// A part of a snapshot was read for some peers.
    pub(crate) fn chunk_read(
        &mut self,
        shared: &mut Shared,
        id: SnapshotId,
        offset: u64,
        result: Result<&Bytes, SnapshotError>,
    ) {
        let mut failed = None;
        for peer in &mut self.peers {
            if peer.chunk.take_if(|chunk| *chunk == (id, offset)).is_none() {
                continue;
            }
            // It may get another meanwhile, or none.
            let Some(sending) = peer.sending_of(id) else { continue };
            match result {
                Ok(data) if sending.read(offset, data) => continue,
                Ok(_) => failed = Some(SnapshotError::Unusable),
                Err(error) => failed = Some(error),
            }
            peer.abandon_snapshot();
        }
        if let Some(error) = failed {
            shared.snapshot_unusable(id, error);
        }
    }

    /// Commits what a majority holds durably, if it is of the current term; what comes before it is then committed
    /// too (§5.4.2, Figure 8). Both majorities while joint, and always by the configuration in force (§6, TRAP 51).
    #[inline]
    pub(crate) fn advance_commit(&mut self, shared: &mut Shared) {
        // Most answers tell nothing new: no majority is beyond what all are known to hold.
        let beyond = |peer: &Progress| peer.match_index() > shared.commit_index;
        if self.peers.iter().any(beyond) || shared.is_sole_voter() {
            self.commit_what_is_held(shared);
        }
    }

    #[inline(never)]
    fn commit_what_is_held(&mut self, shared: &mut Shared) {
        let held = self.held(shared);
        if held > shared.commit_index && held >= self.noop {
            assert!(
                shared.log.term(held) == Some(shared.term()),
                "only entries of its own term are committed by counting (§5.4.2)"
            );
            shared.commit(held);
        }
    }

    /// Through where a majority holds the log durably.
    fn held(&self, shared: &Shared) -> LogIndex {
        assert_eq!(self.counted_by, shared.log.membership().0, "the configuration in force counts (§6)");
        let durable = shared.disk.durable();
        let by_membership = || {
            quorum::reached(shared.membership(), |node| {
                self.peer(node).map_or(durable, Progress::counted_match)
            })
        };
        if !self.settled {
            return by_membership();
        }
        // One set of voters, with this node in it: nobody has to be looked up.
        let voters = self.peers.iter().filter(|peer| peer.votes).map(Progress::counted_match);
        let held = quorum::reached_by(voters.chain([durable])).unwrap_or_else(by_membership);
        debug_assert_eq!(held, by_membership(), "peers know whether they vote");
        held
    }

    /// The state machine got further.
    pub(crate) fn applied(&mut self, shared: &Shared) {
        self.backlog.drain(shared.last_applied);
    }

    pub(crate) fn unreachable(&mut self, node: NodeId) {
        if let Some(peer) = self.peer_mut(node) {
            peer.unreachable();
        }
    }

    /// Older entries for a peer arrived from the log store.
    pub(crate) fn loaded(&mut self, node: NodeId, entries: Entries) {
        if let Some(peer) = self.peer_mut(node) {
            peer.reading = None;
            peer.loaded = entries;
        }
    }

    /// Behind which entry the log is still needed by peers that get or got a snapshot, and get further.
    pub(crate) fn needed_behind(&self, shared: &Shared) -> Option<LogIndex> {
        let (end, now, within) = (shared.log.last_index(), shared.now, shared.config.catch_up_timeout);
        let outweighs = |meta: &SnapshotMeta| shared.log_outweighs(meta);
        self.peers.iter().filter_map(|peer| peer.needs_behind(end, now, within, outweighs)).min()
    }

    pub(crate) fn is_sending(&self, id: SnapshotId) -> bool {
        self.peers.iter().any(|peer| peer.snapshot().is_some_and(|meta| meta.id == id))
    }

    /// Whether a peer may have something to get, or a member an answer. Peers that have all are passed by.
    pub(crate) fn has_action(&mut self, shared: &Shared) -> bool {
        let last = shared.log.last_index();
        while self.peers.get(self.cursor).is_some_and(|peer| peer.is_up_to_date(last)) {
            self.cursor += 1;
        }
        self.cursor < self.peers.len() || self.reads.is_asked()
    }

    /// The next message to a peer, or read of older entries or of a snapshot for one.
    #[inline(never)]
    pub(crate) fn next_action(&mut self, shared: &mut Shared) -> Option<Action> {
        while let Some(peer) = self.peers.get_mut(self.cursor) {
            if let Some(action) = next_for(peer, shared, self.round) {
                if matches!(action, Action::Send(_)) && !self.round_used {
                    self.round_used = true;
                    if shared.config.lease.is_some() {
                        self.times.sent(self.round, shared.now);
                    }
                }
                return Some(action);
            }
            self.cursor += 1;
        }
        self.next_answer(shared)
    }
}

fn next_for(peer: &mut Progress, shared: &mut Shared, round: u64) -> Option<Action> {
    choose_snapshot(peer, shared);
    let (heartbeat_due, now) = (peer.heartbeat_due, shared.now);
    let chunk_bytes = peer.chunk.is_none().then_some(shared.config.snapshot_chunk_bytes);
    if let Some(sending) = peer.sending() {
        return match sending.next(heartbeat_due, chunk_bytes, round, now)? {
            Step::Send(body) => {
                peer.heartbeat_due = false;
                Some(Action::Send(shared.message(peer.id, body)))
            }
            Step::Read { id, offset, bytes_max } => {
                peer.chunk = Some((id, offset));
                Some(Action::Snapshot(SnapshotTask::Read { id, offset, bytes_max }))
            }
        };
    }
    let from = peer.next_index();
    let last = shared.log.last_index();
    let mut entries = Entries::empty();
    if from <= last && peer.has_room(&shared.config) {
        let config = &shared.config;
        if peer.loaded.first().is_some_and(|first| first.index == from) {
            entries = core::mem::take(&mut peer.loaded);
        } else if let Some(found) =
            shared.log.slice(from, last, config.append_entries_max, config.append_bytes_max)
        {
            entries = found;
        } else if peer.reading.is_none() {
            let through = shared.log.tail_first().prev().min(from.plus(config.append_entries_max - 1));
            let bytes_max = config.append_bytes_max;
            let action = shared.read_log(Reader::Peer(peer.id), from, through, bytes_max);
            if let Action::ReadLog { read, .. } = &action {
                peer.reading = Some(*read);
            }
            return Some(action);
        }
    }
    if entries.is_empty() && !peer.heartbeat_due {
        return None;
    }
    let prev = shared.log.terms.id(from.prev())?;
    peer.sent(&entries, now);
    let body = Body::AppendEntries { prev, entries, commit: shared.commit_index, round };
    Some(Action::Send(shared.message(peer.id, body)))
}

/// A peer that lacks compacted entries gets a snapshot, and so does one for which that is less work (§7). One that has not
/// begun makes place for the latest, and so does one that stands still and behind which the log no longer goes on.
fn choose_snapshot(peer: &mut Progress, shared: &Shared) {
    let base = shared.log.terms.base().index;
    let next = peer.next_index();
    let compacted = next <= base;
    let Some(latest) = shared.snapshot() else {
        assert!(!compacted, "what is compacted is in a snapshot (§7, TRAP 42)");
        return;
    };
    let wanted = match peer.sending() {
        Some(sending) => {
            let stands = sending.stands(shared.now, shared.config.catch_up_timeout);
            let overtaken = sending.meta().id.last.index < base && stands;
            overtaken || (sending.is_idle(shared.now) && sending.meta().id != latest.id)
        }
        None => {
            let searching = peer.state() == ReplicationState::Probe && peer.was_heard();
            compacted || (searching && next <= latest.id.last.index && shared.is_less_work(latest, next))
        }
    };
    if wanted {
        peer.send_snapshot(Arc::clone(latest), &shared.config, shared.now);
    }
}
