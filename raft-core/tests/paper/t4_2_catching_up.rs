//! Thesis §4.2.1, and DESIGN §7: new servers catch up before they vote; who may give a change up, and when.

use core::time::Duration;

use raft_core::{AdminOutcome, AdminRefusal, Notice, RoleKind, Ticket};

use super::support::{Cluster, n, voters};

fn refused(cluster: &Cluster, server: u64, ticket: Ticket) -> bool {
    matches!(cluster.outcome(server, ticket), Some(AdminOutcome::Refused(_)))
}

/// Server 1 leads three, and 4 and 5, which nobody reaches, are to be voters too.
fn waiting_for_4_and_5() -> (Cluster, Ticket) {
    let mut cluster = Cluster::led_with(3, |config| config.catch_up_timeout = Duration::from_secs(2));
    cluster.join(4);
    cluster.join(5);
    cluster.cut = vec![4, 5];
    let ticket = cluster.set_voters(1, &[1, 2, 3, 4, 5]);
    cluster.run_ms(300);
    (cluster, ticket)
}

#[test]
fn new_servers_do_not_count_before_they_caught_up() {
    let (mut cluster, ticket) = waiting_for_4_and_5();
    assert_eq!(cluster.outcome(1, ticket), None);
    assert_eq!(cluster.voters(1), [1, 2, 3]);
    let intent = cluster.servers[&1].node.membership().intent.clone().expect("kept in the log");
    assert_eq!(intent.voters, voters(1..=5).voters);
    cluster.cut = vec![3, 4, 5];
    let before = cluster.commit(1);
    cluster.commit_each(1, &["a"]);
    assert_eq!(cluster.commit(1), before + 1, "two of three");
}

#[test]
fn all_new_voters_must_have_caught_up() {
    let (mut cluster, ticket) = waiting_for_4_and_5();
    cluster.cut = vec![5];
    cluster.run_ms(1_000);
    assert_eq!((cluster.last(4), cluster.last(1)), (cluster.last(1), cluster.last(4)), "4 has everything");
    assert!(!cluster.servers[&1].node.membership().is_joint());
    cluster.cut.clear();
    cluster.run_ms(1_000);
    assert_eq!(cluster.outcome(1, ticket), Some(AdminOutcome::Done));
    assert_eq!(cluster.voters(5), [1, 2, 3, 4, 5]);
}

#[test]
fn a_change_in_which_nobody_catches_up_times_out_and_names_them() {
    let (mut cluster, ticket) = waiting_for_4_and_5();
    cluster.run_ms(4_000);
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::TimedOut));
    let behind = Notice::ChangeTimedOut { behind: [n(4), n(5)].into() };
    assert!(cluster.servers[&1].notices.contains(&behind), "{:?}", cluster.servers[&1].notices);
    for server in 1..=3 {
        assert_eq!(**cluster.servers[&server].node.membership(), voters(1..=3), "as before");
    }
    let next = cluster.set_voters(1, &[1, 2]);
    cluster.run_ms(1_000);
    assert_eq!(cluster.outcome(1, next), Some(AdminOutcome::Done), "the next one is not in its way");
}

#[test]
fn a_change_is_cancelled_while_new_servers_catch_up() {
    let (mut cluster, ticket) = waiting_for_4_and_5();
    let cancel = cluster.cancel(1);
    cluster.run_ms(300);
    assert_eq!(cluster.outcome(1, cancel), Some(AdminOutcome::Done));
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::Cancelled));
    for server in 1..=3 {
        assert_eq!(**cluster.servers[&server].node.membership(), voters(1..=3));
    }
}

#[test]
fn any_leader_may_cancel_a_change_while_new_servers_catch_up() {
    let (mut cluster, ticket) = waiting_for_4_and_5();
    cluster.cut = vec![1, 4, 5];
    cluster.elect(2);
    let cancel = cluster.cancel(2);
    cluster.run_ms(300);
    assert_eq!(cluster.outcome(2, cancel), Some(AdminOutcome::Done));
    assert_eq!(**cluster.servers[&2].node.membership(), voters(1..=3));
    cluster.cut = vec![4, 5];
    cluster.run_ms(1_000);
    assert_eq!(**cluster.servers[&1].node.membership(), voters(1..=3));
    assert!(cluster.outcome(1, ticket).is_some_and(|outcome| outcome != AdminOutcome::Done));
}

#[test]
fn a_new_leader_goes_on_with_what_an_old_one_began() {
    let (mut cluster, ticket) = waiting_for_4_and_5();
    cluster.cut = vec![1, 4, 5];
    cluster.run_ms(1_000);
    assert_eq!(cluster.outcome(1, ticket), Some(AdminOutcome::Unknown), "1 lost its leadership");
    let leader = cluster.leader().expect("2 or 3 leads");
    cluster.cut.clear();
    cluster.run_ms(2_000);
    assert_eq!(**cluster.servers[&leader].node.membership(), voters(1..=5));
    for server in 1..=5 {
        assert_eq!(cluster.voters(server), [1, 2, 3, 4, 5]);
    }
}

#[test]
fn a_server_that_is_still_catching_up_can_be_removed_again() {
    let (mut cluster, first) = waiting_for_4_and_5();
    cluster.cancel(1);
    cluster.run_ms(300);
    assert!(refused(&cluster, 1, first));
    cluster.cut = vec![5];
    let second = cluster.set_voters(1, &[1, 2, 3, 4]);
    cluster.run_ms(1_000);
    assert_eq!(cluster.outcome(1, second), Some(AdminOutcome::Done));
}

#[test]
fn the_leader_that_appended_the_joint_configuration_may_take_it_back() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    let change = cluster.set_voters(1, &[1, 2, 3, 4]);
    cluster.run_until_joint(1);
    let cancel = cluster.cancel(1);
    cluster.run_ms(500);
    let base = **cluster.servers[&1].node.membership() == voters(1..=3);
    match cluster.outcome(1, cancel) {
        Some(AdminOutcome::Done) => {
            assert!(base);
            assert_eq!(cluster.refusal(1, change), Some(AdminRefusal::Cancelled));
        }
        other => panic!("nothing of it is committed: {other:?}"),
    }
}

#[test]
fn nobody_else_takes_a_joint_configuration_back() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.join(5);
    cluster.set_voters(1, &[1, 2, 3, 4, 5]);
    cluster.run_until_joint(2);
    cluster.wire.clear();
    cluster.cut = vec![1];
    // 2 leads with the joint entry in its log; its own first entry is not committed yet.
    cluster.pass_ms(1_000);
    cluster.campaign(2);
    cluster.run_until(500, |cluster| cluster.role(2) == RoleKind::Leader);
    let cancel = cluster.cancel(2);
    let refusal = cluster.refusal(2, cancel);
    assert!(matches!(refusal, Some(AdminRefusal::TooLate | AdminRefusal::NoEntryCommitted)), "{refusal:?}");
    cluster.run_ms(2_000);
    assert_eq!(cluster.voters(2), [1, 2, 3, 4, 5], "it is completed");
}

#[test]
fn a_joint_configuration_whose_new_majority_falls_silent_is_taken_back() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.join(5);
    let ticket = cluster.set_voters(1, &[1, 4, 5]);
    cluster.run_until_joint(1);
    cluster.wire.clear();
    cluster.cut = vec![4, 5];
    cluster.run_ms(2_000);
    assert_eq!(cluster.role(1), RoleKind::Leader, "the old majority is there");
    assert_eq!(**cluster.servers[&1].node.membership(), voters(1..=3));
    assert!(refused(&cluster, 1, ticket), "{:?}", cluster.outcome(1, ticket));
    let named = |notice: &Notice| matches!(notice, Notice::MajorityMissing { silent } if silent.contains(&n(4)) && silent.contains(&n(5)));
    assert!(cluster.servers[&1].notices.iter().any(named), "{:?}", cluster.servers[&1].notices);
}
