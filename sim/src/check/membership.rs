//! Membership by joint consensus (§6): what configurations follow each other, and who acts by which.
//!
//! * The configuration in force on a node is the last one in its log, whatever put that log there: an append, a
//!   truncation, a snapshot.
//! * A leader appends one only when an entry of its own term is committed (TRAP 44), and when the one before it is
//!   committed: only the joint one that it appended itself may be taken back before that.
//! * Neighbours in a log are steps of joint consensus, and whatever decides by one meets whatever decides by the other.
//! * Only voters in force campaign and lead, and those who were asked for a vote that their newer log forbids: without them
//!   nobody might be elected (thesis §4.2.2). Who was removed and knows it never does.

use std::collections::BTreeMap;
use std::sync::Arc;

use raft_core::{Body, LogId, LogIndex, Membership, Message, NodeId, RoleKind, Status, Term};

use super::book::Book;
use super::commit::Commit;
use super::disks::slot;
use super::rules::intersect;
use super::{Check, ensure};

const CHECKER: &str = "membership";

/// What is in force on a node.
#[derive(Clone, Debug, Default)]
struct InForce {
    at: LogId,
    membership: Arc<Membership>,
    /// What was in force before the last step.
    before: Arc<Membership>,
}

/// All nodes' configurations.
#[derive(Debug)]
pub(crate) struct Memberships {
    nodes: Vec<InForce>,
    /// Appended by a leader, and neither written nor sent so far.
    claimed: BTreeMap<LogId, Arc<Membership>>,
    /// How many were appended, by kind.
    pub(crate) joint: u64,
    pub(crate) backed_out: u64,
}

impl Memberships {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { nodes: vec![InForce::default(); nodes], claimed: BTreeMap::new(), joint: 0, backed_out: 0 }
    }

    /// What is in force on a node, and what was before its last step.
    pub(crate) fn of(&self, node: NodeId) -> [&Membership; 2] {
        let node = &self.nodes[slot(node)];
        [&node.membership, &node.before]
    }

    /// What leaders have appended and nobody else may have seen.
    pub(crate) fn claimed(&self) -> impl Iterator<Item = (LogId, &Arc<Membership>)> {
        self.claimed.iter().map(|(id, membership)| (*id, membership))
    }

    /// What is in force on a node.
    pub(crate) fn in_force(&self, node: NodeId) -> &Arc<Membership> {
        &self.nodes[slot(node)].membership
    }

    /// A node has started.
    pub(crate) fn started(&mut self, status: &Status, membership: &Arc<Membership>, book: &Book) -> Check {
        self.is_last(status, membership, book)?;
        let at = book.at(status.last, status.membership_index).unwrap_or_default();
        let (membership, before) = (Arc::clone(membership), Arc::clone(membership));
        self.nodes[slot(status.id)] = InForce { at, membership, before };
        Ok(())
    }

    /// A node has taken in an event.
    pub(crate) fn stepped(
        &mut self,
        before: &Status,
        after: &Status,
        membership: &Arc<Membership>,
        book: &Book,
        commit: &Commit,
        wanted: bool,
    ) -> Check {
        let node = after.id;
        if before.last != after.last || before.membership_index != after.membership_index {
            let claims = self.is_last(after, membership, book)?;
            let at = book.at(after.last, after.membership_index).unwrap_or_default();
            if claims {
                self.claimed.insert(at, Arc::clone(membership));
            }
            let leads = |status: &Status| status.role == RoleKind::Leader;
            let leading = leads(before) && leads(after) && before.term == after.term;
            if leading && at.index > self.nodes[slot(node)].at.index {
                self.appended(after, at, membership, book)?;
            }
            let known = &mut self.nodes[slot(node)];
            known.before = std::mem::replace(&mut known.membership, Arc::clone(membership));
            known.at = at;
        } else if !Arc::ptr_eq(&self.nodes[slot(node)].before, &self.nodes[slot(node)].membership) {
            let known = &mut self.nodes[slot(node)];
            known.before = Arc::clone(&known.membership);
        }
        let known = &self.nodes[slot(node)];
        let campaigns =
            after.role != RoleKind::Follower && (before.role != after.role || before.term != after.term);
        let left = known.at.index <= before.commit && !known.membership.contains(node);
        let may = known.membership.is_voter(node) || wanted && !left;
        ensure!(
            CHECKER,
            !campaigns || may,
            "n{node} is {:?} of term {} and no voter of {:?} at {}",
            after.role,
            after.term,
            known.membership,
            known.at
        );
        let gone = after.role == RoleKind::Leader
            && !known.membership.contains(node)
            && commit.id_at(known.at.index) == Some(known.at)
            && after.commit >= known.at.index
            && before.commit >= known.at.index;
        ensure!(
            CHECKER,
            !gone || before.role == RoleKind::Leader,
            "n{node} became leader of term {} after it had left, by {}",
            after.term,
            known.at
        );
        Ok(())
    }

    /// What a node says is in force is the last configuration in its log. True if the node itself appended it and
    /// nobody has seen it yet.
    fn is_last(
        &self,
        status: &Status,
        membership: &Arc<Membership>,
        book: &Book,
    ) -> Result<bool, super::Broken> {
        let (node, index) = (status.id, status.membership_index);
        let expected = book.configuration(status.last);
        let expected_index = expected.map_or(LogIndex::ZERO, |(id, _)| id.index);
        if index == expected_index {
            ensure!(
                CHECKER,
                expected.is_none_or(|(_, known)| known == membership),
                "n{node} takes {membership:?} for the configuration at {index}, which is {expected:?}"
            );
            return Ok(false);
        }
        let at = book.at(status.last, index).unwrap_or_default();
        let own = book.leader(at.term).is_some_and(|(leader, _)| leader == node);
        let first = at == LogId::new(Term::BOOTSTRAP, LogIndex::FIRST);
        let unseen = index > expected_index && book.meta(at).is_none();
        ensure!(
            CHECKER,
            unseen && (own || first),
            "the configuration in force on n{node}, whose log ends with {}, stands at {index}, and should at \
             {expected_index}",
            status.last
        );
        Ok(true)
    }

    /// A leader appended a configuration.
    fn appended(&self, leader: &Status, at: LogId, membership: &Membership, book: &Book) -> Check {
        let known = &self.nodes[slot(leader.id)];
        let first = book.leader(leader.term).map_or(LogIndex::LIMIT, |(_, first)| first);
        ensure!(
            CHECKER,
            leader.commit >= first,
            "n{} appended a configuration at {at} before an entry of its term was committed: {} of {first}",
            leader.id,
            leader.commit
        );
        let backs_out = known.membership.is_joint()
            && known.at.term == leader.term
            && membership.voters == known.membership.outgoing
            && !membership.is_joint();
        ensure!(
            CHECKER,
            known.at.index <= leader.commit || backs_out,
            "n{} appended a configuration at {at} while the one at {} is not committed: {}",
            leader.id,
            known.at,
            leader.commit
        );
        Ok(())
    }

    /// A configuration was written or sent for the first time.
    pub(crate) fn noted(&mut self, id: LogId, book: &Book) -> Check {
        let Some(membership) = book.configuration_at(id) else { return Ok(()) };
        if let Some(claimed) = self.claimed.remove(&id) {
            ensure!(
                CHECKER,
                claimed == *membership,
                "{claimed:?} was in force at {id}, and {membership:?} written"
            );
        }
        ensure!(
            CHECKER,
            membership.validate().is_ok()
                && membership.learners.iter().all(|node| !membership.is_voter(*node)),
            "{membership:?} at {id} makes no sense"
        );
        let before = book.at(id, id.index.prev()).and_then(|prev| book.configuration(prev));
        let Some((prev, before)) = before else { return Ok(()) };
        self.joint += u64::from(membership.is_joint());
        let leaves = before.is_joint() && membership.voters == before.voters && !membership.is_joint();
        let backs_out = before.is_joint() && membership.voters == before.outgoing && !membership.is_joint();
        let enters = !before.is_joint() && membership.outgoing == before.voters;
        let stays = !before.is_joint() && !membership.is_joint() && membership.voters == before.voters;
        let readdressed = before.is_joint()
            && (&membership.voters, &membership.outgoing) == (&before.voters, &before.outgoing);
        self.backed_out += u64::from(backs_out && !leaves);
        ensure!(
            CHECKER,
            (leaves || backs_out || enters || stays || readdressed) && intersect(before, membership),
            "{membership:?} at {id} cannot follow {before:?} at {prev}"
        );
        Ok(())
    }

    /// A node sends a message.
    pub(crate) fn sent(&self, message: &Message) -> Check {
        if matches!(message.body, Body::TimeoutNow) {
            let known = self.of(message.from);
            ensure!(
                CHECKER,
                known.iter().any(|membership| membership.is_voter(message.to)),
                "{message:?}, but its receiver is no voter of {:?}",
                known[0]
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::tests::book;
    use super::super::commit::tests::committed;
    use super::*;
    use crate::testing::{id, index, joint, node, status, voters};
    use raft_core::Entries;

    fn book_with(memberships: &[(LogId, Membership)]) -> (Book, Memberships, Check) {
        let mut book = book();
        let mut known = Memberships::new(5);
        let mut result = Ok(());
        for (at, membership) in memberships {
            let prev = book.at(*at, at.index.prev()).unwrap();
            let entry = Entries::membership(*at, Arc::new(membership.clone()));
            book.note(node(2), prev, &entry, &mut Vec::new()).unwrap();
            result = result.and_then(|()| known.noted(*at, &book));
        }
        (book, known, result)
    }

    #[test]
    fn the_configuration_in_force_is_the_last_of_the_log() {
        let (book, mut known, held) = book_with(&[(id(6, 3), joint(&[1, 2, 3], &[3, 4, 5]))]);
        assert_eq!(held, Ok(()));
        let in_force = Arc::new(joint(&[1, 2, 3], &[3, 4, 5]));
        let mut after = status(3, 3);
        (after.last, after.membership_index) = (id(6, 3), index(6));
        assert_eq!(known.started(&after, &in_force, &book), Ok(()));
        assert!(known.started(&after, &Arc::new(voters(&[1])), &book).is_err());
        after.membership_index = index(0);
        assert!(known.started(&after, &in_force, &book).unwrap_err().what.contains("should at 6"));
        // Truncated: what was before is in force again, which is nothing in this log.
        after.last = id(5, 3);
        assert_eq!(known.started(&after, &Arc::new(Membership::default()), &book), Ok(()));
    }

    #[test]
    fn voters_change_by_way_of_a_joint_configuration_only() {
        let (old, new) = (voters(&[1, 2, 3]), voters(&[3, 4, 5]));
        let both = joint(&[1, 2, 3], &[3, 4, 5]);
        let held = |steps: &[&Membership]| {
            let steps: Vec<_> = (6..).zip(steps).map(|(at, step)| (id(at, 3), (*step).clone())).collect();
            book_with(&steps).2
        };
        assert_eq!(held(&[&old, &both, &new]), Ok(()));
        assert_eq!(held(&[&old, &both, &old]), Ok(()));
        assert!(held(&[&old, &new]).unwrap_err().what.contains("cannot follow"));
        assert!(held(&[&both, &voters(&[1, 2, 3, 4])]).is_err());
        assert!(held(&[&voters(&[1, 2]), &both]).is_err());
        assert!(held(&[&joint(&[1], &[])]).is_err());
    }

    #[test]
    fn a_leader_changes_the_membership_one_step_at_a_time() {
        let both = joint(&[1, 2, 3], &[3, 4, 5]);
        let (book, mut known, _) = book_with(&[(id(6, 3), voters(&[1, 2, 3])), (id(7, 3), both.clone())]);
        let commit = committed(&book, id(5, 3));
        let leader = |last, membership, commit| Status {
            role: RoleKind::Leader,
            last,
            membership_index: index(membership),
            commit: index(commit),
            ..status(2, 3)
        };
        let started = leader(id(6, 3), 6, 5);
        known.started(&started, &Arc::new(voters(&[1, 2, 3])), &book).unwrap();
        let both = Arc::new(both);
        let step = |known: &mut Memberships, after: Status| {
            known.stepped(&started, &after, &both, &book, &commit, false)
        };
        assert!(step(&mut known, leader(id(7, 3), 7, 5)).unwrap_err().what.contains("is not committed"));
        assert!(
            step(&mut known, leader(id(7, 3), 7, 3))
                .unwrap_err()
                .what
                .contains("before an entry of its term")
        );
        assert_eq!(step(&mut known, leader(id(7, 3), 7, 6)), Ok(()));
    }

    #[test]
    fn who_does_not_vote_campaigns_only_where_it_may_be_needed() {
        let without = voters(&[2, 3]);
        let (book, mut known, _) = book_with(&[(id(6, 3), voters(&[1, 2, 3])), (id(7, 3), without.clone())]);
        let commit = committed(&book, id(7, 3));
        let mut campaigns = |membership: &Membership, commit_index, wanted| {
            let membership = Arc::new(membership.clone());
            known.nodes[0] =
                InForce { at: id(7, 3), membership: Arc::clone(&membership), before: Arc::default() };
            let before = Status {
                last: id(7, 3),
                membership_index: index(7),
                commit: index(commit_index),
                ..status(1, 3)
            };
            let after = Status { role: RoleKind::PreCandidate, ..before };
            known.stepped(&before, &after, &membership, &book, &commit, wanted).is_ok()
        };
        let learner = Membership { learners: [node(1)].into(), ..without.clone() };
        assert!(campaigns(&voters(&[1, 2]), 7, false));
        for removed in [&without, &learner] {
            assert!(!campaigns(removed, 6, false), "nobody asked");
            assert!(campaigns(removed, 6, true), "the entry may be lost");
        }
        assert!(campaigns(&learner, 7, true));
        assert!(!campaigns(&without, 7, true), "it has left");
    }
}
