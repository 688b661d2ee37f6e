//! Changes that never ended, or of which somebody never heard.

use core::time::Duration;

use raft_core::{AdminOutcome, AdminRefusal, RoleKind, WriteOutcome};

use super::support::{Cluster, n};

#[test]
fn a_busy_learner_does_not_keep_a_change_alive_whose_new_voter_is_gone() {
    let mut cluster = Cluster::led_with(3, |config| config.catch_up_timeout = Duration::from_secs(2));
    cluster.join(4);
    cluster.set_members(1, &[1, 2, 3], &[4]);
    cluster.run_ms(500);
    // There is no server 5, and 4 acknowledges all the time.
    let ticket = cluster.update(1, &[5], &[], &[]);
    for _ in 0..50 {
        cluster.propose(1, &["x"]);
        cluster.run_ms(100);
    }
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::TimedOut));
}

#[test]
fn a_leader_that_steps_down_by_itself_answers_a_transfer_and_does_not_spin() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2, 3];
    let ticket = cluster.transfer(1, Some(2));
    // A deadline that stands still would panic here.
    cluster.run_ms(3_000);
    assert_ne!(cluster.role(1), RoleKind::Leader);
    assert!(matches!(cluster.outcome(1, ticket), Some(AdminOutcome::Refused(_))));
}

#[test]
fn those_who_left_hear_of_it_also_from_a_leader_that_never_had_them_as_members() {
    let mut cluster = Cluster::led(3);
    (4..=5).for_each(|server| cluster.join(server));
    cluster.set_voters(1, &[3, 4, 5]);
    cluster.run_until(5_000, |cluster| {
        let membership = cluster.servers[&1].node.membership();
        !membership.is_joint() && membership.voters.len() == 3 && !membership.voters.contains(&n(1))
    });
    // 1 and 4 have C_new; 4 leads from now on.
    cluster.cut = vec![2, 3, 5];
    cluster.wire.retain(|message| message.to.get() == 4);
    cluster.settle();
    assert_eq!(cluster.last(4), cluster.last(1));
    cluster.cut = vec![1, 2];
    cluster.run_until(5_000, |cluster| cluster.role(4) == RoleKind::Leader);
    cluster.cut.clear();
    cluster.run_ms(3_000);
    for server in [1, 2] {
        let status = cluster.servers[&server].node.status();
        let known = status.commit >= status.membership_index;
        let voters = cluster.voters(server);
        assert!(known && voters == [3, 4, 5], "{server} asks for votes for ever: {status:?} {voters:?}");
        assert_eq!(cluster.servers[&server].node.deadline(), None);
    }
}

#[test]
fn a_joint_phase_that_outlives_its_leaders_ends() {
    let mut cluster = Cluster::led(3);
    (4..=5).for_each(|server| cluster.join(server));
    cluster.set_voters(1, &[1, 4, 5]);
    cluster.run_until_joint(1);
    cluster.wire.clear();
    for _ in 0..3 {
        let leader = cluster.leader().expect("somebody leads");
        cluster.restart(leader);
        cluster.wire.clear();
        cluster.run_ms(1_500);
    }
    cluster.run_ms(5_000);
    let leader = cluster.leader().expect("somebody leads");
    let tickets = cluster.propose(leader, &["x"]);
    cluster.run_ms(500);
    assert!(matches!(cluster.write_outcome(leader, tickets), Some(WriteOutcome::Committed { .. })));
    assert!(!cluster.servers[&leader].node.membership().is_joint());
}
