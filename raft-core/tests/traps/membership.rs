//! Traps 44 to 53: membership.

use std::sync::Arc;

use raft_core::{AdminOutcome, AdminRefusal, Body, Entries, Event, Membership, RoleKind, Term};

use super::support::{Cluster, append, ask, id, in_term, log, members, message, n, target, voters};

#[test]
fn trap_45_a_candidate_goes_by_the_last_configuration_in_its_log() {
    // Entry 2, committed or not, is a configuration without 1. Until that is known to be committed 1 may be needed
    // (thesis §4.2.2), but only 2 and 3 decide.
    let mut cluster = Cluster::pristine(1);
    let without = Entries::membership(id(4, 2), Arc::new(voters(2..=3)));
    cluster.place(1, in_term(4), Entries::join([log(3, &[1]), without]).expect("consecutive"));
    let behind = Body::PreVote { proposed: Term::new(5), last: id(1, 1) };
    cluster.step(1, Event::Receive(message(2, 1, 4, behind)));
    cluster.campaign(1);
    let grant = |from| {
        let body = Body::PreVoteReply { proposed: Term::new(5), granted: true };
        Event::Receive(message(from, 1, 4, body))
    };
    cluster.step(1, grant(2));
    assert_eq!(
        (cluster.role(1), cluster.term(1)),
        (RoleKind::PreCandidate, 4),
        "its own vote does not count"
    );
    cluster.step(1, grant(3));
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Candidate, 5));
    let vote = |from| Event::Receive(message(from, 1, 5, Body::RequestVoteReply { granted: true }));
    cluster.step(1, vote(2));
    assert_eq!(cluster.role(1), RoleKind::Candidate);
    // Once it is committed, 1 is out of it.
    cluster.step(1, Event::Receive(message(2, 1, 5, append(id(4, 2), Entries::empty(), 2, 1))));
    cluster.pass_ms(5_000);
    cluster.campaign(1);
    assert_eq!((cluster.role(1), cluster.servers[&1].node.deadline()), (RoleKind::Follower, None));
}

#[test]
fn trap_46_a_leader_that_is_leaving_does_not_count_itself() {
    let mut cluster = Cluster::led(3);
    cluster.set_voters(1, &[2, 3]);
    cluster.run_until(2_000, |cluster| cluster.voters(1) == [2, 3] && !is_joint(cluster, 1));
    let last = cluster.last(1);
    cluster.cut = vec![3];
    cluster.settle();
    cluster.beat(1, 1);
    assert_eq!(cluster.last(2), last);
    assert!(cluster.commit(1) < last, "1 and 2 are two servers, but one voter");
    cluster.cut.clear();
    cluster.run_ms(1_000);
    assert!(cluster.commit(2) >= last);
}

fn is_joint(cluster: &Cluster, server: u64) -> bool {
    cluster.servers[&server].node.membership().is_joint()
}

#[test]
fn trap_48_the_joint_phase_is_left_once_and_only_when_it_is_committed() {
    let mut cluster = Cluster::led(3);
    (4..=5).for_each(|server| cluster.join(server));
    let ticket = cluster.set_voters(1, &[1, 4, 5]);
    cluster.run_until_joint(1);
    let joint = cluster.servers[&1].node.status().membership_index;
    cluster.run_until(2_000, |cluster| !is_joint(cluster, 1));
    assert!(cluster.servers[&1].node.status().commit >= joint);
    cluster.run_ms(2_000);
    assert_eq!(cluster.outcome(1, ticket), Some(AdminOutcome::Done));
    let phases: Vec<bool> =
        cluster.servers[&4].memberships().iter().map(|membership| membership.is_joint()).collect();
    let joint_entries = phases.iter().filter(|joint| **joint).count();
    assert_eq!((joint_entries, phases.last()), (1, Some(&false)), "{phases:?}");
    let after = phases.iter().skip_while(|joint| !**joint).filter(|joint| !**joint).count();
    assert_eq!(after, 1, "left once: {phases:?}");
}

#[test]
fn trap_49_a_learner_votes_for_a_candidate_that_knows_it_as_a_voter() {
    let mut cluster = Cluster::pristine(1);
    let mut learner = Membership::of_voters(members(2..=3));
    learner.learners = target(&[], &[1]).learners;
    learner.nodes = members(1..=3);
    let second = Entries::membership(id(4, 2), Arc::new(learner));
    cluster.place(1, in_term(4), Entries::join([log(3, &[1]), second]).expect("consecutive"));
    // 9 is in no configuration that 1 has seen.
    for candidate in [2, 9] {
        cluster.step(1, ask(candidate, candidate + 4, id(4, 2)));
        assert_eq!(cluster.said(), [Body::RequestVoteReply { granted: true }]);
    }
}

#[test]
fn trap_50_a_new_leader_goes_by_the_configuration_in_its_log() {
    let mut cluster = Cluster::led(3);
    (4..=5).for_each(|server| cluster.join(server));
    cluster.set_voters(1, &[1, 4, 5]);
    cluster.run_until_joint(2);
    assert!(cluster.commit(2) < cluster.servers[&2].node.status().membership_index.get());
    cluster.wire.clear();
    // The old majority is not enough for it to commit anything, nor to be elected.
    cluster.cut = vec![1, 4, 5];
    cluster.pass_ms(1_000);
    cluster.campaign(2);
    cluster.settle();
    assert_ne!(cluster.role(2), RoleKind::Leader);
    cluster.cut = vec![1];
    cluster.run_ms(3_000);
    let leader = cluster.leader().expect("both majorities are there");
    assert_ne!(leader, 1);
    cluster.cut.clear();
    cluster.run_ms(3_000);
    for server in [1, 4, 5] {
        assert_eq!(cluster.voters(server), [1, 4, 5]);
    }
}

#[test]
fn trap_52_a_server_that_never_catches_up_can_be_left_out_again() {
    let mut cluster = Cluster::led(3);
    cluster.set_voters(1, &[1, 2, 3, 9]);
    cluster.run_ms(1_000);
    let cancel = cluster.cancel(1);
    cluster.run_ms(500);
    assert_eq!(cluster.outcome(1, cancel), Some(AdminOutcome::Done));
    assert!(!cluster.servers[&1].node.membership().contains(n(9)));
    assert!(cluster.servers[&1].node.peers().all(|peer| peer.id != n(9)), "its stream ends");
    let next = cluster.set_voters(1, &[1, 2]);
    cluster.run_ms(500);
    assert_eq!(cluster.outcome(1, next), Some(AdminOutcome::Done));
}

#[test]
fn trap_50_no_change_behind_a_configuration_that_is_not_committed() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    // One entry, and nothing more to do: but nobody has it yet.
    cluster.cut = vec![2, 3];
    let first = cluster.set_members(1, &[1, 2, 3], &[4]);
    assert!(cluster.servers[&1].node.membership().contains(n(4)));
    let last = cluster.last(1);
    let second = cluster.set_voters(1, &[1, 2]);
    assert_eq!(cluster.refusal(1, second), Some(AdminRefusal::ChangeInProgress));
    assert_eq!(cluster.last(1), last);
    cluster.cut.clear();
    cluster.run_ms(300);
    assert_eq!(cluster.outcome(1, first), Some(AdminOutcome::Done));
    let third = cluster.set_voters(1, &[1, 2]);
    cluster.run_ms(1_000);
    assert_eq!(cluster.outcome(1, third), Some(AdminOutcome::Done));
}
