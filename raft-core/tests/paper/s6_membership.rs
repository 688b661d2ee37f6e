//! §6: joint consensus, from any set to any set.

use raft_core::{
    AdminOutcome, AdminRefusal, Body, Entries, Event, MembershipChange, Notice, RoleKind, WriteOutcome,
};

use super::support::{
    Cluster, Server, append, at, commands, id, in_term, log, members, message, n, target, voters,
};

fn done(cluster: &Cluster, server: u64, ticket: raft_core::Ticket) -> bool {
    cluster.outcome(server, ticket) == Some(AdminOutcome::Done)
}

/// Server 1 leads three; 4 and 5 wait to join.
fn led_and_waiting() -> Cluster {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.join(5);
    cluster
}

// --- from set to set -------------------------------------------------------------------------------------------

#[test]
fn a_voter_is_added_by_way_of_a_joint_configuration() {
    let mut cluster = led_and_waiting();
    cluster.commit_each(1, &["a", "b"]);
    let ticket = cluster.set_voters(1, &[1, 2, 3, 4]);
    assert_eq!(cluster.outcome(1, ticket), None, "only the last configuration ends the change");
    cluster.run_ms(1_000);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    let joint = cluster.servers[&1].memberships().into_iter().find(|membership| membership.is_joint());
    let joint = joint.expect("never from one set to another without a joint phase");
    assert_eq!((&joint.outgoing, &joint.voters), (&voters(1..=3).voters, &voters(1..=4).voters));
    for server in 1..=4 {
        let last = cluster.servers[&server].memberships().pop().expect("a configuration");
        assert_eq!(*last, voters(1..=4), "{server}: nothing of the change is left");
        assert_eq!(cluster.servers[&server].commands(), ["a", "b"]);
    }
    assert_eq!(cluster.servers[&5].node.status().last.index, at(0), "5 was not named");
}

#[test]
fn several_servers_change_places_at_once() {
    let mut cluster = led_and_waiting();
    cluster.join(6);
    cluster.commit_each(1, &["a"]);
    let ticket = cluster.set_voters(1, &[4, 5, 6]);
    cluster.run_ms(2_000);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    let leader = cluster.leader().expect("one of the new voters leads");
    assert!([4, 5, 6].contains(&leader), "{leader}");
    let term = cluster.term(leader);
    cluster.propose(leader, &["b"]);
    cluster.run_ms(5_000);
    for server in 4..=6 {
        assert_eq!(cluster.voters(server), [4, 5, 6]);
        assert_eq!(cluster.servers[&server].commands(), ["a", "b"]);
        assert_eq!(cluster.term(server), term, "those that left do not disturb those that stay");
    }
    assert!((1..=3).all(|server| cluster.role(server) == RoleKind::Follower));
}

#[test]
fn a_single_server_becomes_a_cluster_and_a_cluster_a_single_server() {
    let mut cluster = Cluster::led(1);
    (2..=5).for_each(|server| cluster.join(server));
    let ticket = cluster.set_voters(1, &[1, 2, 3, 4, 5]);
    cluster.run_ms(1_000);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    let ticket = cluster.set_voters(1, &[1]);
    cluster.run_ms(1_000);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    cluster.cut = vec![2, 3, 4, 5];
    let tickets = cluster.propose(1, &["alone"]);
    assert!(matches!(cluster.write_outcome(1, tickets), Some(WriteOutcome::Committed { .. })));
}

#[test]
fn the_leader_that_is_removed_hands_over_when_the_change_is_committed() {
    let mut cluster = Cluster::led(3);
    let min = cluster.servers[&1].config.election_timeout_min;
    let ticket = cluster.set_voters(1, &[2, 3]);
    cluster.run_until(2_000, |cluster| cluster.outcome(1, ticket).is_some());
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    let committed = cluster.now;
    cluster.run_until(2_000, |cluster| cluster.leader().is_some_and(|leader| leader != 1));
    assert!(cluster.now.since(committed) < min, "nobody waits for an election timeout");
    cluster.run_ms(3_000);
    assert_eq!((cluster.role(1), cluster.voters(2)), (RoleKind::Follower, vec![2, 3]));
}

#[test]
fn a_leader_that_is_being_removed_takes_no_more_proposals_once_the_last_configuration_is_in_its_log() {
    let mut cluster = Cluster::led(3);
    cluster.set_voters(1, &[2, 3]);
    cluster.run_until(2_000, |cluster| {
        let membership = cluster.servers[&1].node.membership();
        !membership.is_joint() && !membership.is_voter(n(1))
    });
    let last = cluster.last(1);
    let tickets = cluster.propose(1, &["late"]);
    assert_eq!(cluster.last(1), last);
    assert!(cluster.write_outcome(1, tickets).is_some(), "refused at once");
}

// --- the joint phase ---------------------------------------------------------------------------------------------

#[test]
fn in_the_joint_phase_both_majorities_must_agree() {
    for missing in [[4, 5], [2, 3]] {
        let mut cluster = led_and_waiting();
        cluster.set_voters(1, &[1, 4, 5]);
        cluster.run_until_joint(1);
        let before = cluster.commit(1);
        cluster.cut = missing.to_vec();
        cluster.propose(1, &["x"]);
        cluster.settle();
        cluster.beat(1, 2);
        assert_eq!(cluster.commit(1), before, "without {missing:?}");
        cluster.cut.clear();
        cluster.run_ms(1_000);
        assert_eq!(cluster.commit(1), cluster.last(1));
        assert_eq!(cluster.voters(1), [1, 4, 5]);
    }
}

#[test]
fn a_configuration_is_in_force_as_soon_as_it_is_in_the_log() {
    let mut cluster = Cluster::veteran(3, 5, &[1, 5]);
    let five = Entries::membership(id(5, 3), std::sync::Arc::new(voters(1..=5)));
    cluster.step(1, Event::Receive(message(2, 1, 5, append(id(5, 2), five, 1, 1))));
    assert_eq!(cluster.voters(1), [1, 2, 3, 4, 5], "long before it is committed");
    assert_eq!(cluster.commit(1), 1);
    cluster.wire.clear();
    cluster.pass_ms(1_000);
    cluster.campaign(1);
    let asked: Vec<u64> = cluster.wire.iter().map(|message| message.to.get()).collect();
    assert_eq!(asked, [2, 3, 4, 5]);
}

#[test]
fn an_election_in_the_joint_phase_needs_both_majorities() {
    let mut cluster = led_and_waiting();
    cluster.set_voters(1, &[1, 4, 5]);
    cluster.run_until_joint(4);
    cluster.wire.clear();
    // 4 has the joint configuration. Those of the new set alone do not elect it.
    cluster.cut = vec![1, 2, 3];
    cluster.pass_ms(1_000);
    cluster.campaign(4);
    cluster.settle();
    assert_ne!(cluster.role(4), RoleKind::Leader);
    cluster.cut = vec![1];
    cluster.pass_ms(1_000);
    cluster.campaign(4);
    cluster.settle();
    assert_eq!(cluster.role(4), RoleKind::Leader, "2 and 3 of the old set, 4 and 5 of the new one");
}

#[test]
fn a_new_leader_leaves_the_joint_phase() {
    let mut cluster = led_and_waiting();
    let ticket = cluster.set_voters(1, &[1, 2, 3, 4, 5]);
    cluster.run_until(5_000, |cluster| {
        [2, 3, 4, 5].iter().all(|server| cluster.servers[server].node.membership().is_joint())
    });
    cluster.cut = vec![1];
    cluster.wire.clear();
    cluster.elect(2);
    cluster.run_ms(1_000);
    assert!(!cluster.servers[&2].node.membership().is_joint());
    assert_eq!(cluster.voters(2), [1, 2, 3, 4, 5]);
    assert_eq!(cluster.commit(2), cluster.last(2));
    cluster.cut.clear();
    cluster.run_ms(1_000);
    assert_eq!(cluster.voters(1), [1, 2, 3, 4, 5]);
    let unknown = [Some(AdminOutcome::Unknown), Some(AdminOutcome::Done)];
    assert!(unknown.contains(&cluster.outcome(1, ticket)), "{:?}", cluster.outcome(1, ticket));
}

#[test]
fn the_smaller_quorum_counts_at_once() {
    let mut cluster = Cluster::led(3);
    let ticket = cluster.set_voters(1, &[1]);
    cluster.run_until_joint(1);
    cluster.wire.retain(|message| message.to == n(2));
    cluster.run_until(200, |cluster| cluster.wire.iter().any(|message| message.to == n(1)));
    // The acknowledgement of 2 commits the joint entry; whatever follows is decided by 1 alone.
    cluster.cut = vec![3];
    while let Some(reply) = cluster.wire.pop_front() {
        cluster.deliver(reply);
        cluster.cut = if cluster.servers[&1].node.membership().is_joint() { vec![3] } else { vec![2, 3] };
    }
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    assert_eq!(cluster.commit(1), cluster.last(1));
}

// --- learners ----------------------------------------------------------------------------------------------------

#[test]
fn a_learner_receives_the_log_and_is_not_counted() {
    let mut cluster = led_and_waiting();
    let before = cluster.servers[&1].memberships().len();
    let ticket = cluster.set_members(1, &[1, 2, 3], &[4]);
    cluster.run_ms(500);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    assert_eq!(cluster.servers[&1].memberships().len(), before + 1, "no joint phase is needed");
    cluster.cut = vec![2, 3];
    cluster.propose(1, &["x"]);
    cluster.settle();
    assert_eq!(cluster.last(4), cluster.last(1), "it has it");
    assert!(cluster.commit(1) < cluster.last(1), "it does not count");
    cluster.cut = vec![1, 2, 3];
    let term = cluster.term(4);
    cluster.run_ms(3_000);
    assert_eq!((cluster.role(4), cluster.term(4)), (RoleKind::Follower, term), "and it does not campaign");
}

#[test]
fn a_learner_is_promoted() {
    let mut cluster = led_and_waiting();
    cluster.set_members(1, &[1, 2, 3], &[4, 5]);
    cluster.run_ms(500);
    let ticket = cluster.update(1, &[4], &[], &[]);
    cluster.run_ms(500);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    let membership = cluster.servers[&1].node.membership();
    assert_eq!(cluster.voters(1), [1, 2, 3, 4]);
    assert_eq!(membership.learners.iter().map(|id| id.get()).collect::<Vec<_>>(), [5], "5 stays one");
}

#[test]
fn a_voter_that_is_demoted_votes_until_the_joint_phase_ends() {
    let mut cluster = Cluster::led(3);
    let ticket = cluster.set_members(1, &[1, 2], &[3]);
    cluster.run_until_joint(1);
    let joint = cluster.servers[&1].node.membership();
    assert!(joint.is_voter(n(3)) && joint.learners_next.contains(&n(3)) && joint.learners.is_empty());
    cluster.run_ms(500);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    let last = cluster.servers[&1].node.membership();
    assert!(!last.is_voter(n(3)) && last.learners.contains(&n(3)) && last.learners_next.is_empty());
    cluster.propose(1, &["x"]);
    cluster.settle();
    assert_eq!(cluster.last(3), cluster.last(1));
}

// --- what is refused ---------------------------------------------------------------------------------------------

#[test]
fn what_cannot_be_changed_is_refused_with_its_reason() {
    let mut cluster = led_and_waiting();
    let refusals = [
        (cluster.set_voters(1, &[1, 2, 3]), AdminRefusal::NoChange),
        (cluster.set_voters(1, &[]), AdminRefusal::NoVoters),
        (cluster.update(1, &[], &[], &[1, 2, 3]), AdminRefusal::NoVoters),
        (cluster.update(1, &[], &[], &[9]), AdminRefusal::UnknownNode(n(9))),
        (cluster.update(1, &[4], &[4], &[]), AdminRefusal::NamedTwice(n(4))),
        (cluster.update(1, &[], &[2], &[2]), AdminRefusal::NamedTwice(n(2))),
        (cluster.set_members(1, &[1, 2, 4], &[4]), AdminRefusal::NamedTwice(n(4))),
        (cluster.cancel(1), AdminRefusal::NothingToCancel),
    ];
    for (ticket, refusal) in refusals {
        assert_eq!(cluster.refusal(1, ticket), Some(refusal));
    }
    let nowhere = MembershipChange::Set { target: target(&[1, 2, 3, 4], &[]), addresses: members(1..=3) };
    let ticket = cluster.change(1, nowhere);
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::NoAddress(n(4))));
    let ticket = cluster.set_voters(2, &[1, 2]);
    assert_eq!(cluster.refusal(2, ticket), Some(AdminRefusal::NotLeader { leader: Some(n(1)) }));
    assert_eq!(cluster.last(1), 2, "nothing was appended");
}

#[test]
fn one_change_at_a_time() {
    let mut cluster = led_and_waiting();
    cluster.cut = vec![4];
    let first = cluster.set_voters(1, &[1, 2, 3, 4]);
    cluster.run_ms(300);
    let second = cluster.set_voters(1, &[1, 2, 3, 5]);
    assert_eq!(cluster.refusal(1, second), Some(AdminRefusal::ChangeInProgress));
    cluster.cut.clear();
    cluster.run_ms(1_000);
    assert!(done(&cluster, 1, first), "{:?}", cluster.outcome(1, first));
    let third = cluster.set_voters(1, &[1, 2, 3, 5]);
    cluster.run_ms(1_000);
    assert!(done(&cluster, 1, third), "{:?}", cluster.outcome(1, third));
}

#[test]
fn no_change_before_an_entry_of_the_term_is_committed() {
    let mut cluster = Cluster::pristine(3);
    cluster.bootstrap();
    cluster.pass_ms(1_000);
    cluster.campaign(1);
    let appends = cluster.settle_but(|message| matches!(message.body, Body::AppendEntries { .. }));
    assert_eq!((cluster.role(1), cluster.commit(1)), (RoleKind::Leader, 1));
    let ticket = cluster.set_voters(1, &[1, 2]);
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::NoEntryCommitted));
    appends.into_iter().for_each(|message| cluster.deliver(message));
    cluster.settle();
    let ticket = cluster.set_voters(1, &[1, 2]);
    cluster.run_ms(1_000);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
}

#[test]
fn a_member_that_moved_is_reached_at_its_new_address() {
    let mut cluster = Cluster::led(3);
    let moved = |node| MembershipChange::SetAddress { node, address: "elsewhere".into() };
    let ticket = cluster.change(1, moved(n(2)));
    cluster.run_ms(200);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    for server in 1..=3 {
        let peers = cluster.servers[&server].peers.last().expect("told whom to reach");
        assert_eq!(peers.nodes[&n(2)], "elsewhere");
    }
    let ticket = cluster.change(1, moved(n(9)));
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::UnknownNode(n(9))));
}

// --- those who left ----------------------------------------------------------------------------------------------

#[test]
fn a_server_that_left_knows_it_and_is_silent() {
    let mut cluster = Cluster::led(3);
    let ticket = cluster.set_voters(1, &[1, 2]);
    cluster.run_ms(1_000);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    assert_eq!(cluster.voters(3), [1, 2], "it was told the commit");
    assert_eq!(cluster.commit(3), cluster.last(3));
    for server in 1..=2 {
        let peers = cluster.servers[&server].peers.last().expect("told whom to reach");
        assert_eq!(peers.nodes, members(1..=2), "nobody is connected to 3 any more");
    }
    let campaigns = cluster.servers[&3].node.status().counters.campaigns;
    cluster.run_ms(5_000);
    assert!(cluster.wire.is_empty());
    assert_eq!(cluster.servers[&3].node.status().counters.campaigns, campaigns);
    assert_eq!((cluster.role(3), cluster.role(1)), (RoleKind::Follower, RoleKind::Leader));
}

#[test]
fn a_server_that_was_not_told_that_it_left_unseats_nobody() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![3];
    let ticket = cluster.set_voters(1, &[1, 2]);
    cluster.run_ms(2_000);
    assert!(done(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    let term = cluster.term(1);
    cluster.cut.clear();
    cluster.run_ms(5_000);
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Leader, term));
}

// --- truncated ---------------------------------------------------------------------------------------------------

#[test]
fn a_node_whose_membership_is_truncated_counts_by_the_one_before() {
    // Entry 2 of term 2 made node 1 the only voter, and was not committed.
    let alone = voters(1..=1);
    let second = Entries::membership(id(2, 2), std::sync::Arc::new(alone));
    let stored = Entries::join([log(3, &[1]), second]).expect("consecutive");
    let mut cluster = Cluster::pristine(1);
    let config = cluster.servers[&1].config.clone();
    cluster.servers.insert(1, Server::new(config, in_term(2), stored, cluster.now));
    cluster.poll(1);
    assert_eq!(cluster.servers[&1].node.membership().voters.len(), 1);
    // The leader of term 3 has another entry there.
    let other = commands(id(3, 2), &["x"]);
    cluster.step(1, Event::Receive(message(2, 1, 3, append(id(1, 1), other, 1, 1))));
    let server = &cluster.servers[&1];
    assert_eq!(server.node.membership().voters.len(), 3);
    assert_eq!(server.notices.last(), Some(&Notice::Membership { index: at(1) }));
    assert_eq!(server.peers.last(), Some(server.node.membership()), "it is told whom to reach");
    // It cannot elect itself.
    cluster.pass_ms(1_000);
    cluster.wire.clear();
    cluster.campaign(1);
    assert_eq!(cluster.role(1), RoleKind::PreCandidate);
    let asked: Vec<_> = cluster.wire.iter().map(|message| message.to.get()).collect();
    assert_eq!(asked, [2, 3]);
}
