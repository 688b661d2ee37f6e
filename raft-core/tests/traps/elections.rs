//! Traps 1 to 14: votes and terms.

use raft_core::{AdminOutcome, AdminRefusal, Body, Entries, Event, HardState, RoleKind, Term};

use super::support::{Cluster, append, ask, id, in_term, log, message, n};

fn vote(from: u64, term: u64) -> Event {
    Event::Receive(message(from, 1, term, Body::RequestVoteReply { granted: true }))
}

/// Server 1 of five is a candidate in term 5; 2 and 3 granted their pre-votes.
fn candidate() -> Cluster {
    let mut cluster = Cluster::veteran(5, 4, &[1, 4]);
    cluster.campaign(1);
    for from in [2, 3] {
        let grant = Body::PreVoteReply { proposed: Term::new(5), granted: true };
        cluster.step(1, Event::Receive(message(from, 1, 4, grant)));
    }
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Candidate, 5));
    cluster
}

#[test]
fn trap_01_term_and_vote_are_one_write_and_the_reply_waits_for_it() {
    let mut cluster = Cluster::veteran(3, 4, &[1, 4]);
    cluster.slow_disks = vec![1];
    cluster.step(1, ask(2, 5, id(4, 2)));
    let voted = HardState { term: Term::new(5), voted_for: Some(n(2)) };
    let writes: Vec<_> = cluster.servers[&1].unsynced.iter().map(|write| write.hard_state).collect();
    assert_eq!(writes.last(), Some(&Some(voted)));
    assert!(cluster.wire.is_empty());
    // A crash now leaves neither term nor vote, and nobody was promised anything.
    cluster.restart(1);
    assert_eq!(cluster.servers[&1].disk.hard_state, in_term(4));
}

#[test]
fn trap_02_the_vote_survives_a_step_down_in_its_term() {
    let mut cluster = candidate();
    cluster.step(1, Event::Receive(message(2, 1, 5, append(id(4, 2), Entries::empty(), 1, 1))));
    let status = cluster.servers[&1].node.status();
    assert_eq!((status.role, status.voted_for), (RoleKind::Follower, Some(n(1))));
    cluster.pass_ms(1_000);
    cluster.wire.clear();
    cluster.step(1, ask(3, 5, id(4, 9)));
    assert_eq!(cluster.said(), [Body::RequestVoteReply { granted: false }]);
}

#[test]
fn trap_03_a_vote_of_an_earlier_term_does_not_count() {
    let mut cluster = candidate();
    cluster.step(1, vote(2, 4));
    cluster.step(1, vote(3, 4));
    assert_eq!(cluster.role(1), RoleKind::Candidate);
    cluster.step(1, vote(2, 5));
    cluster.step(1, vote(3, 5));
    assert_eq!(cluster.role(1), RoleKind::Leader);
}

#[test]
fn trap_04_a_vote_counts_once() {
    let mut cluster = candidate();
    (0..5).for_each(|_| cluster.step(1, vote(2, 5)));
    assert_eq!(cluster.role(1), RoleKind::Candidate);
}

#[test]
fn trap_05_a_pre_vote_is_no_vote() {
    let mut cluster = candidate();
    for from in 2..=5 {
        for term in [4, 5] {
            let grant = Body::PreVoteReply { proposed: Term::new(5), granted: true };
            cluster.step(1, Event::Receive(message(from, 1, term, grant)));
        }
    }
    assert_eq!(cluster.role(1), RoleKind::Candidate);
}

#[test]
fn trap_06_its_own_vote_counts_when_it_is_durable() {
    let mut cluster = Cluster::led(1);
    cluster.restart(1);
    cluster.slow_disks = vec![1];
    cluster.wake(1);
    assert_ne!(cluster.role(1), RoleKind::Leader, "a vote that a crash can take back");
    cluster.sync_one(1);
    assert_eq!(cluster.role(1), RoleKind::Leader);
    assert!(cluster.commit(1) < 3, "and its own entry counts when that is durable");
    cluster.sync(1);
    assert_eq!(cluster.commit(1), 3);
}

#[test]
fn trap_07_the_term_survives_a_restart_of_everybody() {
    let mut cluster = Cluster::led(3);
    cluster.elect(2);
    cluster.elect(3);
    let before = cluster.term(3);
    (1..=3).for_each(|server| cluster.restart(server));
    for server in 1..=3 {
        assert_eq!(cluster.term(server), before);
    }
    cluster.elect(1);
    assert_eq!(cluster.term(1), before + 1);
}

#[test]
fn trap_08_a_pre_candidate_learns_of_a_later_term() {
    // 3 saw term 9 and lacks entries; 1 has them and an earlier term. Each needs the other.
    let mut cluster = Cluster::pristine(3);
    cluster.place(1, in_term(4), log(3, &[1, 4]));
    cluster.place(3, in_term(9), log(3, &[1]));
    cluster.cut = vec![2];
    cluster.run_ms(5_000);
    assert_eq!(cluster.role(1), RoleKind::Leader, "{:?}", cluster.servers[&1].node.status());
    assert!(cluster.term(1) >= 10);
}

#[test]
fn trap_10_a_pre_candidate_knows_no_leader() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2];
    cluster.time_out(2);
    let status = cluster.servers[&2].node.status();
    assert_eq!((status.role, status.leader), (RoleKind::PreCandidate, None));
}

#[test]
fn trap_12_a_leader_that_reaches_one_of_four_does_not_hold_the_others_back() {
    let mut cluster = Cluster::led(5);
    for other in [3, 4, 5] {
        cluster.cut_links.extend([(1, other), (other, 1)]);
    }
    cluster.run_ms(5_000);
    let leader = cluster.leader().expect("somebody leads the four that reach each other");
    assert_ne!(leader, 1);
    let before = cluster.commit(leader);
    cluster.commit_each(leader, &["x"]);
    assert_eq!(cluster.commit(leader), before + 1);
}

#[test]
fn trap_14_whoever_does_not_vote_does_not_campaign() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.set_members(1, &[1, 2], &[4]);
    cluster.run_ms(1_000);
    for server in [3, 4] {
        assert!(!cluster.servers[&server].node.membership().is_voter(n(server)));
        let term = cluster.term(server);
        cluster.server(server).responses.clear();
        cluster.campaign(server);
        let refused = AdminOutcome::Refused(AdminRefusal::NotAVoter);
        assert_eq!(cluster.servers[&server].admin_outcomes(), [refused]);
        cluster.cut = vec![1, 2];
        cluster.run_ms(3_000);
        cluster.cut.clear();
        assert_eq!((cluster.role(server), cluster.term(server)), (RoleKind::Follower, term));
    }
}
