//! Election Safety (§5.2) and the votes behind it.
//!
//! * At most one leader in a term.
//! * At most one vote of a node in a term, across restarts: by what it says and by what its disk keeps.
//! * A vote leaves only when it is durable, and goes only to a candidate whose log is up to date (§5.4.1).
//! * A leader has the durable votes of a majority by the configuration in its own log, of both sets while joint (§6).
//! * An election that may disregard a living leader was asked for by that leader (thesis §3.10).
//! * A pre-vote goes, like a vote, only to a candidate whose log is up to date and whose term is new (thesis §9.6).
//! * Whoever does not vote has been asked, by somebody whose log is older, before it campaigns (thesis §4.2.2).
//! * Who wakes late hears what has come meanwhile before it campaigns (TRAP 62).

use std::collections::{BTreeMap, BTreeSet};

use raft_core::{Body, Event, HardState, LogId, Membership, Message, NodeId, RoleKind, Status, Term};

use super::disks::slot;
use super::rules::decides;
use super::{Broken, Check, ensure};

const CHECKER: &str = "election";

/// Who was elected, and by whom.
#[derive(Debug)]
pub(crate) struct Election {
    leaders: BTreeMap<Term, NodeId>,
    /// Each node's durable votes.
    votes: Vec<BTreeMap<Term, NodeId>>,
    /// The last entry that each candidate of a term advertised.
    candidates: BTreeMap<(Term, NodeId), LogId>,
    /// The term in which each node was last told to campaign at once.
    hurried: Vec<Term>,
    /// Who may be given a pre-vote, by whom, for which term: as it was when the question came.
    electable: BTreeSet<(NodeId, NodeId, Term)>,
    /// Who was asked for a vote that its newer log forbids, and has heard no leader since.
    wanted: Vec<bool>,
    wakes: Vec<Wakes>,
}

/// A timer that fires.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Due {
    /// Later than its deadline by more than a heartbeat interval.
    pub(crate) late: bool,
    /// It can only be that of an election, if the node does not lead.
    pub(crate) election: bool,
}

/// How a node's last timers fired.
#[derive(Clone, Copy, Debug, Default)]
struct Wakes {
    /// It is taking in a late wake, the first in a row.
    excused: bool,
    /// Its last timer fired late.
    late: bool,
}

impl Election {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            leaders: BTreeMap::new(),
            votes: vec![BTreeMap::new(); nodes],
            candidates: BTreeMap::new(),
            hurried: vec![Term::ZERO; nodes],
            electable: BTreeSet::new(),
            wanted: vec![false; nodes],
            wakes: vec![Wakes::default(); nodes],
        }
    }

    /// Whether this node led a term above `term`.
    pub(crate) fn led_after(&self, node: NodeId, term: Term) -> bool {
        self.leaders.iter().any(|(of, leader)| *of > term && *leader == node)
    }

    /// A node has started.
    pub(crate) fn started(&mut self, node: NodeId) {
        self.wanted[slot(node)] = false;
    }

    /// Whether an election may need this node though it does not vote.
    pub(crate) fn wants(&self, node: NodeId) -> bool {
        self.wanted[slot(node)]
    }

    /// Who was elected last, and in which term.
    pub(crate) fn latest(&self) -> Option<(Term, NodeId)> {
        self.leaders.last_key_value().map(|(term, leader)| (*term, *leader))
    }

    pub(crate) fn elected(&self) -> u64 {
        self.leaders.len() as u64
    }

    fn vote(&self, node: NodeId, term: Term) -> Option<NodeId> {
        self.votes[slot(node)].get(&term).copied()
    }

    /// A hard state became durable.
    pub(crate) fn durable(&mut self, node: NodeId, hard_state: HardState) -> Check {
        let Some(candidate) = hard_state.voted_for else { return Ok(()) };
        let before = *self.votes[slot(node)].entry(hard_state.term).or_insert(candidate);
        ensure!(
            CHECKER,
            before == candidate,
            "n{node} voted for n{before} and for n{candidate} in term {}",
            hard_state.term
        );
        Ok(())
    }

    /// A node became leader.
    pub(crate) fn elected_leader(&mut self, status: &Status, membership: &Membership) -> Check {
        let (node, term) = (status.id, status.term);
        if let Some(other) = self.leaders.get(&term) {
            return Err(Broken::new(CHECKER, format!("n{other} and n{node} both lead term {term}")));
        }
        self.leaders.insert(term, node);
        let votes = self.votes.iter().filter(|votes| votes.get(&term) == Some(&node)).count();
        ensure!(
            CHECKER,
            decides(membership, |voter| self.vote(voter, term) == Some(node)),
            "n{node} leads term {term} with {votes} durable votes by {membership:?}"
        );
        Ok(())
    }

    /// A node is about to take in an event. `due`: the timer that fires by it, if one does. Returns whether it has
    /// to hear first what came meanwhile.
    pub(crate) fn takes(&mut self, before: &Status, event: &Event, due: Option<Due>) -> bool {
        let wakes = &mut self.wakes[slot(before.id)];
        wakes.excused = due.is_some_and(|due| due.late && due.election) && !wakes.late;
        // What else was due in time says nothing of the timer for elections: its excuse may be used up.
        wakes.late = match due {
            Some(due) if due.late || due.election => due.late,
            _ => wakes.late,
        };
        if let Event::Receive(Message { from, term, body, .. }) = event {
            let wanted = &mut self.wanted[slot(before.id)];
            match body {
                Body::PreVote { last, .. } if *last < before.last => *wanted = true,
                Body::PreVote { proposed, .. } if *proposed > before.term => {
                    self.electable.insert((before.id, *from, *proposed));
                }
                Body::AppendEntries { .. } | Body::InstallSnapshot { .. } if *term >= before.term => {
                    *wanted = false;
                }
                _ => {}
            }
        }
        self.wakes[slot(before.id)].excused
    }

    /// A node stepped: its vote, or the leader that it knows, may have changed.
    pub(crate) fn voted(&mut self, before: &Status, after: &Status) -> Check {
        // Who hears a leader, or leads, is not needed.
        let sticky = before.counters.sticky != after.counters.sticky;
        self.wanted[slot(after.id)] &= !sticky && after.role != RoleKind::Leader;
        let same_term = before.term == after.term;
        let campaigns = before.role == RoleKind::Follower && after.role != RoleKind::Follower;
        ensure!(
            CHECKER,
            !(campaigns && self.wakes[slot(after.id)].excused),
            "n{} woke late, and is {:?} of term {} without having heard what came meanwhile",
            after.id,
            after.role,
            after.term
        );
        if after.leader != before.leader || !same_term {
            let known = self.leaders.get(&after.term).copied();
            ensure!(
                CHECKER,
                after.leader.is_none() || after.leader == known,
                "n{} takes n{:?} for the leader of term {}, which is n{known:?}",
                after.id,
                after.leader,
                after.term
            );
        }
        if after.voted_for == before.voted_for && same_term {
            return Ok(());
        }
        let vote = match after.voted_for {
            Some(candidate) if candidate != after.id => candidate,
            None if same_term => {
                let what = format!("n{} took back its vote in term {}", after.id, after.term);
                return Err(Broken::new(CHECKER, what));
            }
            _ => return Ok(()),
        };
        let advertised = self.candidates.get(&(after.term, vote));
        ensure!(
            CHECKER,
            advertised.is_some_and(|last| *last >= before.last),
            "n{} voted in term {} for n{vote} with a log through {advertised:?}, and has {} itself",
            after.id,
            after.term,
            before.last
        );
        Ok(())
    }

    /// A node was given a message: what a candidate advertises is remembered.
    pub(crate) fn received(&mut self, message: &Message) {
        match message.body {
            Body::RequestVote { last, .. } => {
                self.candidates.insert((message.term, message.from), last);
            }
            Body::TimeoutNow => {
                let hurried = &mut self.hurried[slot(message.to)];
                *hurried = message.term.max(*hurried);
            }
            _ => {}
        }
    }

    /// A node sends a message.
    pub(crate) fn sent(&self, message: &Message) -> Check {
        let (from, term) = (message.from, message.term);
        let vote = match &message.body {
            Body::RequestVote { transfer, .. } => {
                ensure!(
                    CHECKER,
                    !transfer || self.hurried[slot(from)].next() == Some(term),
                    "{message:?}, but the last leader that asked for it did so in term {}",
                    self.hurried[slot(from)]
                );
                from
            }
            Body::RequestVoteReply { granted: true } => message.to,
            Body::PreVoteReply { granted: true, proposed } => {
                ensure!(
                    CHECKER,
                    self.electable.contains(&(from, message.to, *proposed)),
                    "{message:?}, but by its log and its term n{} could not be elected by n{from}",
                    message.to
                );
                return Ok(());
            }
            Body::AppendEntries { .. } | Body::InstallSnapshot { .. } | Body::TimeoutNow => {
                let leader = self.leaders.get(&term);
                ensure!(
                    CHECKER,
                    leader == Some(&from),
                    "{message:?}, but the leader of that term is {leader:?}"
                );
                return Ok(());
            }
            _ => return Ok(()),
        };
        let durable = self.vote(from, term);
        ensure!(
            "persist-before-send",
            durable == Some(vote),
            "{message:?}, but n{from}'s durable vote in that term is {durable:?}"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{append, hard_state, id, joint, message, node, status, voters};
    use raft_core::{Entries, RoleKind};

    fn vote(election: &mut Election, voter: u64, term: u64, candidate: u64) -> Check {
        election.durable(node(voter), hard_state(term, candidate).unwrap())
    }

    #[test]
    fn a_second_vote_in_a_term_is_seen_even_after_a_restart() {
        let mut election = Election::new(3);
        assert_eq!(vote(&mut election, 1, 2, 3), Ok(()));
        assert_eq!(vote(&mut election, 1, 2, 0), Ok(()));
        assert_eq!(vote(&mut election, 1, 3, 2), Ok(()));
        assert!(vote(&mut election, 1, 2, 2).is_err());
    }

    #[test]
    fn a_leader_needs_a_majority_of_durable_votes_and_a_term_of_its_own() {
        let mut election = Election::new(3);
        let mut leader = status(1, 2);
        leader.role = RoleKind::Leader;
        vote(&mut election, 1, 2, 1).unwrap();
        let by = voters(&[1, 2, 3]);
        assert!(election.elected_leader(&leader, &by).unwrap_err().what.contains("1 durable votes"));
        let mut election = Election::new(3);
        vote(&mut election, 1, 2, 1).unwrap();
        vote(&mut election, 2, 2, 1).unwrap();
        assert_eq!(election.elected_leader(&leader, &by), Ok(()));
        leader.id = node(2);
        assert!(election.elected_leader(&leader, &by).unwrap_err().what.contains("both lead term 2"));
        assert_eq!(election.sent(&message(1, 2, 2, append(LogId::ZERO, Entries::empty(), 0))), Ok(()));
        assert!(election.sent(&message(2, 1, 2, append(LogId::ZERO, Entries::empty(), 0))).is_err());
    }

    #[test]
    fn who_is_asked_by_one_that_is_behind_is_wanted_until_it_hears_a_leader() {
        let mut election = Election::new(3);
        let before = Status { last: id(5, 3), ..status(1, 3) };
        let mut takes = |body, term| {
            election.takes(&before, &Event::Receive(message(2, 1, term, body)), None);
            election.wants(node(1))
        };
        let ask = |last| Body::PreVote { proposed: Term::new(4), last };
        assert!(!takes(ask(id(5, 3)), 3), "it gets the vote");
        assert!(takes(ask(id(6, 2)), 3));
        assert!(takes(append(LogId::ZERO, Entries::empty(), 0), 2), "of an earlier term");
        assert!(!takes(append(LogId::ZERO, Entries::empty(), 0), 3));
        assert!(takes(ask(LogId::ZERO), 3));
        election.started(node(1));
        assert!(!election.wants(node(1)));
    }

    #[test]
    fn a_vote_that_is_not_durable_must_not_leave() {
        let mut election = Election::new(3);
        let grant = message(1, 2, 4, Body::RequestVoteReply { granted: true });
        assert!(election.sent(&grant).is_err());
        vote(&mut election, 1, 4, 2).unwrap();
        assert_eq!(election.sent(&grant), Ok(()));
        assert!(election.sent(&message(1, 3, 4, Body::RequestVoteReply { granted: true })).is_err());
        assert!(
            election
                .sent(&message(1, 3, 4, Body::RequestVote { last: LogId::ZERO, transfer: false }))
                .is_err()
        );
        assert_eq!(election.sent(&message(1, 3, 4, Body::RequestVoteReply { granted: false })), Ok(()));
    }

    #[test]
    fn a_vote_for_a_log_that_is_behind_is_seen() {
        // Longer but of an older term: comparing indexes alone would grant it.
        let mut election = Election::new(3);
        let mut before = status(1, 3);
        before.last = id(5, 3);
        let mut after = before;
        (after.term, after.voted_for) = (crate::testing::term(4), Some(node(2)));
        assert!(election.voted(&before, &after).is_err());
        election.received(&message(2, 1, 4, Body::RequestVote { last: id(9, 2), transfer: false }));
        assert!(election.voted(&before, &after).unwrap_err().what.contains("has 5@3 itself"));
        election.received(&message(2, 1, 4, Body::RequestVote { last: id(5, 3), transfer: false }));
        assert_eq!(election.voted(&before, &after), Ok(()));
        let mut back = after;
        back.voted_for = None;
        assert!(election.voted(&after, &back).unwrap_err().what.contains("took back"));
        back.leader = Some(node(3));
        back.voted_for = after.voted_for;
        assert!(election.voted(&after, &back).unwrap_err().what.contains("takes n"));
    }

    #[test]
    fn votes_of_learners_and_of_one_set_alone_elect_nobody() {
        let mut election = Election::new(5);
        let leader = status(1, 2);
        (1..=3).for_each(|voter| vote(&mut election, voter, 2, 1).unwrap());
        assert!(election.elected_leader(&leader, &joint(&[1, 2, 3], &[3, 4, 5])).is_err());
        let mut election = Election::new(5);
        [1, 4, 5].iter().for_each(|voter| vote(&mut election, *voter, 2, 1).unwrap());
        assert!(election.elected_leader(&leader, &voters(&[1, 2, 3])).is_err());
        let mut election = Election::new(5);
        [1, 2, 4, 5].iter().for_each(|voter| vote(&mut election, *voter, 2, 1).unwrap());
        assert_eq!(election.elected_leader(&leader, &joint(&[1, 2, 3], &[3, 4, 5])), Ok(()));
    }

    #[test]
    fn an_election_against_a_living_leader_must_have_been_asked_for() {
        let mut election = Election::new(3);
        vote(&mut election, 2, 4, 2).unwrap();
        let request = message(2, 1, 4, Body::RequestVote { last: LogId::ZERO, transfer: true });
        assert!(election.sent(&request).unwrap_err().what.contains("asked for it"));
        election.received(&message(1, 2, 3, Body::TimeoutNow));
        assert_eq!(election.sent(&request), Ok(()));
        assert!(election.led_after(node(1), Term::ZERO) == election.leaders.contains_key(&Term::new(3)));
    }

    #[test]
    fn a_pre_vote_for_a_log_or_a_term_that_is_behind_is_seen() {
        let mut election = Election::new(3);
        let voter = Status { last: id(5, 3), ..status(1, 3) };
        let asks = |proposed, last| {
            let body = Body::PreVote { proposed: crate::testing::term(proposed), last };
            Event::Receive(message(2, 1, 3, body))
        };
        let grant = |proposed| {
            let proposed = crate::testing::term(proposed);
            message(1, 2, 3, Body::PreVoteReply { proposed, granted: true })
        };
        election.takes(&voter, &asks(4, id(9, 2)), None);
        assert!(election.sent(&grant(4)).unwrap_err().what.contains("could not be elected"));
        election.takes(&voter, &asks(3, id(5, 3)), None);
        assert!(election.sent(&grant(3)).is_err());
        election.takes(&voter, &asks(4, id(5, 3)), None);
        assert_eq!(election.sent(&grant(4)), Ok(()));
        assert!(election.sent(&grant(5)).is_err());
    }

    #[test]
    fn who_wakes_late_does_not_campaign_at_once() {
        let mut election = Election::new(3);
        let before = status(1, 2);
        let campaigns = Status { role: RoleKind::PreCandidate, ..before };
        let due = |late, election| Some(Due { late, election });
        election.takes(&before, &Event::Wake, due(false, true));
        assert_eq!(election.voted(&before, &campaigns), Ok(()));
        election.takes(&before, &Event::Wake, due(true, true));
        assert!(election.voted(&before, &campaigns).unwrap_err().what.contains("woke late"));
        // A wake that nobody asked for changes nothing, and the second late one in a row is no pause.
        election.takes(&before, &Event::Wake, None);
        election.takes(&before, &Event::Wake, due(true, true));
        assert_eq!(election.voted(&before, &campaigns), Ok(()));
        // What was excused may have been another timer.
        election.takes(&before, &Event::Wake, due(false, true));
        election.takes(&before, &Event::Wake, due(true, false));
        assert_eq!(election.voted(&before, &campaigns), Ok(()));
        election.takes(&before, &Event::Wake, due(true, true));
        assert_eq!(election.voted(&before, &campaigns), Ok(()));
    }
}
