//! Thesis §4.2.2: servers that do not vote by their own log, and without whose campaign nobody could be elected. They lead
//! without counting themselves, until somebody who votes can.

use core::time::Duration;

use raft_core::{AdminOutcome, AdminRefusal, Body, Event, LogId, RoleKind, Term};

use super::support::{Cluster, message, n, voters};

/// Whoever has nothing asks `server` who would vote for it.
fn call_upon(cluster: &mut Cluster, server: u64, from: u64) {
    let term = cluster.term(server);
    let ask = Body::PreVote { proposed: Term::new(term + 1), last: LogId::ZERO };
    cluster.step(server, Event::Receive(message(from, server, term, ask)));
}

#[test]
fn a_server_that_is_leaving_is_needed_until_the_last_configuration_is_committed() {
    // Thesis §4.2.2, figure 4.6: C_new is in the logs of servers only that leave. No other can be elected, because the
    // old majority has longer logs; so one of those must lead, without counting itself.
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.join(5);
    cluster.set_voters(1, &[3, 4, 5]);
    cluster.run_until(5_000, |cluster| {
        let membership = cluster.servers[&1].node.membership();
        !membership.is_joint() && !membership.is_voter(n(1))
    });
    let last = cluster.last(1);
    cluster.wire.retain(|message| message.to == n(2));
    cluster.cut = vec![3, 4, 5];
    cluster.settle();
    assert_eq!((cluster.last(1), cluster.last(2)), (last, last));
    assert!((3..=5).all(|server| cluster.last(server) < last));
    cluster.restart(1);
    cluster.cut.clear();
    cluster.run_ms(10_000);
    let leader = cluster.leader().expect("somebody can be elected");
    assert!([3, 4, 5].contains(&leader), "and the leadership ends with those that stay: {leader}");
    assert_eq!(**cluster.servers[&leader].node.membership(), voters(3..=5));
    assert_eq!(cluster.commit(leader), cluster.last(leader));
}

/// Of 1, 2 and 3, which take 4 in, only 1 holds the joint entry; then 2 led, and only 4 holds an entry of its term; then
/// 2 is lost.
fn lost_while_4_joins() -> Cluster {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.set_voters(1, &[1, 2, 3, 4]);
    cluster.run_until_joint(1);
    cluster.wire.clear();
    cluster.cut = vec![1];
    cluster.pass_ms(1_000);
    cluster.campaign(2);
    cluster.run_until(500, |cluster| cluster.role(2) == RoleKind::Leader);
    cluster.cut = vec![1, 3];
    cluster.settle();
    cluster.cut = vec![2];
    assert!(cluster.servers[&1].node.membership().is_joint());
    assert!(cluster.last(3) < cluster.last(1), "3 votes for 1, but not 1 for 3");
    let status = |server| cluster.servers[&server].node.status();
    assert!(status(4).last > status(1).last && !cluster.servers[&4].node.membership().is_voter(n(4)));
    cluster
}

#[test]
fn a_new_server_campaigns_when_those_who_count_on_its_vote_lack_its_entries() {
    // 1 needs three of 1 to 4, where 2 is lost and 4 has a newer log; 3 needs two of 1 to 3, where 1 has a newer log.
    let mut cluster = lost_while_4_joins();
    cluster.run_until(5_000, |cluster| cluster.role(4) == RoleKind::Leader);
    let committed = cluster.commit(4);
    cluster.run_until(100, |cluster| cluster.commit(4) > committed);
    cluster.run_until(100, |cluster| cluster.role(4) == RoleKind::Follower);
    let handed_over = cluster.now;
    cluster.run_until(1_000, |cluster| [1, 3].iter().any(|server| cluster.role(*server) == RoleKind::Leader));
    let min = cluster.servers[&4].config.election_timeout_min;
    assert!(cluster.now.since(handed_over) < min, "nobody waits for an election timeout");
    cluster.run_ms(2_000);
    for server in [1, 3, 4] {
        assert_eq!(**cluster.servers[&server].node.membership(), voters(1..=4), "{server}");
    }
}

#[test]
fn a_leader_that_does_not_vote_takes_no_orders_for_the_membership() {
    let mut cluster = lost_while_4_joins();
    cluster.run_until(5_000, |cluster| cluster.role(4) == RoleKind::Leader);
    let (cancel, change) = (cluster.cancel(4), cluster.set_voters(4, &[1, 3]));
    for ticket in [cancel, change] {
        assert_eq!(cluster.refusal(4, ticket), Some(AdminRefusal::NotLeader { leader: None }));
    }
}

#[test]
fn what_a_needed_server_leads_survives_its_restart_and_the_return_of_the_lost_one() {
    for back in [false, true] {
        let mut cluster = lost_while_4_joins();
        cluster.run_until(5_000, |cluster| cluster.role(4) == RoleKind::Leader);
        cluster.restart(4);
        if back {
            cluster.cut.clear();
        }
        cluster.run_ms(10_000);
        let leader = cluster.leader().expect("somebody can be elected");
        assert_eq!(**cluster.servers[&leader].node.membership(), voters(1..=4));
        assert_eq!(cluster.commit(leader), cluster.last(leader));
    }
}

#[test]
fn a_learner_that_hears_a_leader_is_not_called_upon() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.set_members(1, &[1, 2, 3], &[4]);
    cluster.run_ms(1_000);
    let term = cluster.term(4);
    call_upon(&mut cluster, 4, 2);
    cluster.cut = vec![4];
    cluster.run_ms(3_000);
    assert_eq!((cluster.role(4), cluster.term(4)), (RoleKind::Follower, term));
    // Now it hears none.
    call_upon(&mut cluster, 4, 2);
    cluster.run_ms(1_000);
    assert_eq!((cluster.role(4), cluster.term(4)), (RoleKind::PreCandidate, term));
    // Until it does again.
    cluster.cut.clear();
    cluster.run_ms(1_000);
    assert_eq!((cluster.role(4), cluster.servers[&4].node.deadline()), (RoleKind::Follower, None));
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Leader, term), "it disturbed nobody");
}

#[test]
fn a_server_that_was_removed_and_knows_it_is_not_called_upon() {
    let mut cluster = Cluster::led(4);
    let ticket = cluster.set_voters(1, &[1, 2, 3]);
    cluster.run_ms(1_000);
    assert_eq!(cluster.outcome(1, ticket), Some(AdminOutcome::Done));
    let term = cluster.term(4);
    for _ in 0..10 {
        call_upon(&mut cluster, 4, 2);
        cluster.run_ms(1_000);
    }
    assert_eq!((cluster.role(4), cluster.term(4)), (RoleKind::Follower, term));
}

#[test]
fn being_asked_again_and_again_puts_nothing_off() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.set_members(1, &[1, 2, 3], &[4]);
    cluster.run_ms(1_000);
    cluster.cut = vec![1, 2, 3];
    let max = cluster.servers[&4].config.election_timeout_max;
    cluster.run_ms(1_000);
    let asked = cluster.now;
    while cluster.role(4) == RoleKind::Follower {
        call_upon(&mut cluster, 4, 9);
        cluster.run_ms(10);
        assert!(cluster.now.since(asked) <= max + Duration::from_millis(10));
    }
    cluster.wire.clear();
    cluster.time_out(4);
    assert!(cluster.said().iter().all(|body| matches!(body, Body::PreVote { .. })), "it asks first");
}

#[test]
fn a_learner_that_had_to_lead_hands_over() {
    // 4 was a voter once, and is asked by 3, which does not know yet that it is none any more.
    let mut cluster = Cluster::led(4);
    cluster.set_members(1, &[1, 2, 3], &[4]);
    cluster.run_ms(1_000);
    cluster.cut = vec![1];
    cluster.pass_ms(1_000);
    call_upon(&mut cluster, 4, 3);
    cluster.time_out(4);
    cluster.run_until(100, |cluster| cluster.role(4) == RoleKind::Leader);
    cluster.run_until(2_000, |cluster| [2, 3].iter().any(|server| cluster.role(*server) == RoleKind::Leader));
    assert_eq!((cluster.role(4), cluster.servers[&4].node.deadline()), (RoleKind::Follower, None));
    let late = message(3, 4, cluster.term(4), Body::TimeoutNow);
    cluster.deliver(late);
    assert_eq!(cluster.role(4), RoleKind::Follower, "nobody hands over to it");
}
