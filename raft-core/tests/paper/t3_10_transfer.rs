//! Thesis §3.10: the leadership is handed over, so that a planned stop costs no election timeout.

use raft_core::{AdminOutcome, AdminRefusal, Body, Event, RoleKind, WriteOutcome};

use super::support::{Cluster, at, message, n};

fn is_timeout_now(message: &raft_core::Message) -> bool {
    message.body == Body::TimeoutNow
}

#[test]
fn the_leadership_goes_to_the_voter_that_was_named_at_once() {
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &["a"]);
    let began = cluster.now;
    let ticket = cluster.transfer(1, Some(3));
    cluster.settle();
    assert_eq!((cluster.role(3), cluster.term(3)), (RoleKind::Leader, 3));
    assert_eq!(cluster.outcome(1, ticket), Some(AdminOutcome::Transferred { to: n(3) }));
    assert_eq!((cluster.role(1), cluster.now), (RoleKind::Follower, began), "no time passed");
}

#[test]
fn without_a_name_it_goes_to_the_voter_with_the_longest_log() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2];
    cluster.commit_each(1, &["a"]);
    cluster.cut.clear();
    let ticket = cluster.transfer(1, None);
    cluster.settle();
    assert_eq!(cluster.outcome(1, ticket), Some(AdminOutcome::Transferred { to: n(3) }));
    assert_eq!(cluster.role(3), RoleKind::Leader);
}

#[test]
fn the_target_first_gets_every_entry() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![3];
    cluster.commit_each(1, &["a", "b"]);
    cluster.cut.clear();
    cluster.step(1, Event::Unreachable(n(3)));
    cluster.transfer(1, Some(3));
    assert!(!cluster.wire.iter().any(is_timeout_now), "it would lose the election");
    cluster.run_until(300, |cluster| cluster.wire.iter().any(is_timeout_now));
    assert_eq!(cluster.last(3), cluster.last(1));
    cluster.settle();
    assert_eq!(cluster.role(3), RoleKind::Leader);
    cluster.beat(3, 1);
    assert_eq!(cluster.servers[&3].commands(), ["a", "b"]);
}

#[test]
fn proposals_are_busy_while_it_runs() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![3];
    cluster.transfer(1, Some(3));
    let refused = cluster.propose(1, &["x"]);
    assert_eq!(cluster.write_outcome(1, refused), Some(WriteOutcome::Busy));
    assert_eq!(cluster.last(1), 2);
}

#[test]
fn it_is_given_up_after_an_election_timeout() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![3];
    let ticket = cluster.transfer(1, Some(3));
    let max = cluster.servers[&1].config.election_timeout_max;
    let began = cluster.now;
    cluster.run_until(2_000, |cluster| cluster.outcome(1, ticket).is_some());
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::TimedOut));
    assert!(cluster.now.since(began) <= max * 2, "{:?}", cluster.now.since(began));
    assert_eq!(cluster.role(1), RoleKind::Leader);
    let tickets = cluster.propose(1, &["x"]);
    cluster.settle();
    assert!(matches!(cluster.write_outcome(1, tickets), Some(WriteOutcome::Committed { .. })), "it goes on");
}

#[test]
fn what_cannot_be_transferred_is_refused_with_its_reason() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.set_members(1, &[1, 2, 3], &[4]);
    cluster.run_ms(300);
    let ticket = cluster.transfer(2, Some(3));
    assert_eq!(cluster.refusal(2, ticket), Some(AdminRefusal::NotLeader { leader: Some(n(1)) }));
    for stranger in [4, 9] {
        let ticket = cluster.transfer(1, Some(stranger));
        assert!(cluster.refusal(1, ticket).is_some(), "{stranger} does not vote");
    }
    cluster.cut = vec![3];
    let first = cluster.transfer(1, Some(3));
    let second = cluster.transfer(1, Some(2));
    assert_eq!(cluster.outcome(1, first), None);
    assert_eq!(cluster.refusal(1, second), Some(AdminRefusal::TransferInProgress));
    let mut alone = Cluster::led(1);
    let ticket = alone.transfer(1, None);
    assert_eq!(alone.refusal(1, ticket), Some(AdminRefusal::NoOtherVoter));
}

#[test]
fn the_target_campaigns_without_a_pre_vote_and_past_the_live_leader() {
    let mut cluster = Cluster::led(3);
    cluster.transfer(1, Some(2));
    let now = cluster.intercept(is_timeout_now);
    assert_eq!(now.iter().map(|message| (message.from, message.to)).collect::<Vec<_>>(), [(n(1), n(2))]);
    now.into_iter().for_each(|message| cluster.deliver(message));
    assert_eq!(cluster.role(2), RoleKind::Candidate);
    let asked = cluster.intercept(|message| message.from == n(2));
    let transfer = |body: &Body| matches!(body, Body::RequestVote { transfer: true, .. });
    assert!(asked.len() == 2 && asked.iter().all(|message| transfer(&message.body)), "{asked:?}");
    // 3 heard from its leader a moment ago, and votes all the same.
    let ask = asked.into_iter().find(|message| message.to == n(3)).expect("3 was asked");
    cluster.deliver(ask);
    let vote = Body::RequestVoteReply { granted: true };
    assert!(cluster.wire.iter().any(|message| message.from == n(3) && message.body == vote));
}

#[test]
fn only_the_current_leader_may_ask_for_it() {
    let mut cluster = Cluster::led(3);
    for stray in [message(3, 2, 2, Body::TimeoutNow), message(1, 2, 1, Body::TimeoutNow)] {
        cluster.step(2, Event::Receive(stray));
        cluster.settle();
        assert_eq!((cluster.role(2), cluster.term(2)), (RoleKind::Follower, 2));
    }
    cluster.step(1, Event::Receive(message(3, 1, 2, Body::TimeoutNow)));
    assert_eq!(cluster.role(1), RoleKind::Leader);
}

#[test]
fn a_server_that_does_not_vote_does_not_campaign_when_asked() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.set_members(1, &[1, 2, 3], &[4]);
    cluster.run_ms(300);
    cluster.step(4, Event::Receive(message(1, 4, 2, Body::TimeoutNow)));
    assert_eq!((cluster.role(4), cluster.term(4)), (RoleKind::Follower, 2));
}

#[test]
fn if_somebody_else_is_elected_that_is_said() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![1];
    let ticket = cluster.transfer(1, Some(2));
    cluster.elect(3);
    cluster.cut.clear();
    cluster.beat(3, 2);
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::OtherLeader(n(3))));
}

// --- StepDown ------------------------------------------------------------------------------------------------------

#[test]
fn a_leader_that_stops_hands_over_first() {
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &["a"]);
    let began = cluster.now;
    let ticket = cluster.step_down(1);
    cluster.settle();
    let leader = cluster.leader().expect("another leads");
    assert!(leader != 1 && cluster.now == began, "nobody waited");
    let outcome = cluster.outcome(1, ticket);
    let over = [AdminOutcome::Done, AdminOutcome::Transferred { to: n(leader) }];
    assert!(outcome.as_ref().is_some_and(|outcome| over.contains(outcome)), "{outcome:?}");
    assert_eq!(cluster.role(1), RoleKind::Follower);
}

#[test]
fn a_leader_that_stops_and_finds_no_successor_steps_down_all_the_same() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2, 3];
    let ticket = cluster.step_down(1);
    let refused = cluster.propose(1, &["x"]);
    assert!(cluster.write_outcome(1, refused).is_some(), "no more proposals");
    cluster.run_until(2_000, |cluster| cluster.outcome(1, ticket).is_some());
    assert_ne!(cluster.role(1), RoleKind::Leader);
}

#[test]
fn a_leader_that_stops_hands_over_to_another_if_it_was_about_to_hand_over() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2];
    cluster.commit_each(1, &["a"]);
    let began = cluster.now;
    let replaced = cluster.transfer(1, Some(2));
    let first = cluster.step_down(1);
    let ticket = cluster.step_down(1);
    assert_eq!(cluster.refusal(1, replaced), Some(AdminRefusal::TransferInProgress));
    assert_eq!(cluster.refusal(1, first), Some(AdminRefusal::TransferInProgress), "it leads yet");
    cluster.settle();
    assert_eq!(
        (cluster.role(3), cluster.now),
        (RoleKind::Leader, began),
        "nobody waited for the one that is cut off"
    );
    assert_eq!(cluster.outcome(1, ticket), Some(AdminOutcome::Transferred { to: n(3) }));
}

#[test]
fn a_leader_that_stops_does_not_tell_another_to_campaign_besides() {
    let mut cluster = Cluster::led(3);
    let replaced = cluster.transfer(1, Some(2));
    let held = cluster.settle_but(is_timeout_now);
    assert_eq!(held.len(), 1);
    let ticket = cluster.step_down(1);
    assert_eq!(cluster.refusal(1, replaced), Some(AdminRefusal::TimedOut), "it may be elected all the same");
    let told = cluster.settle_but(is_timeout_now);
    assert!(told.iter().all(|message| message.to == n(2)), "{told:?}");
    held.into_iter().for_each(|message| cluster.deliver(message));
    cluster.settle();
    assert_eq!(cluster.outcome(1, ticket), Some(AdminOutcome::Transferred { to: n(2) }));
}

#[test]
fn stops_that_follow_each_other_put_nothing_off() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2];
    // 3 answers, and never gets what it lacks.
    cluster.slow_disks = vec![3];
    cluster.propose(1, &["a"]);
    cluster.settle();
    for _ in 0..10 {
        cluster.step_down(1);
        cluster.run_ms(100);
    }
    assert_ne!(cluster.role(1), RoleKind::Leader);
}

#[test]
fn whoever_does_not_lead_is_done_at_once() {
    let mut cluster = Cluster::led(3);
    let ticket = cluster.step_down(2);
    assert_eq!(cluster.outcome(2, ticket), Some(AdminOutcome::Done));
    assert_eq!((cluster.role(1), cluster.commit(1)), (RoleKind::Leader, at(2).get()));
}

#[test]
fn whoever_campaigns_ends_its_campaign() {
    for role in [RoleKind::PreCandidate, RoleKind::Candidate] {
        let mut cluster = Cluster::with(3, |_| {});
        cluster.bootstrap();
        cluster.pass_ms(1_000);
        cluster.campaign(1);
        let held = cluster.settle_but(|message| match role {
            RoleKind::PreCandidate => matches!(message.body, Body::PreVoteReply { granted: true, .. }),
            _ => message.body == Body::RequestVoteReply { granted: true },
        });
        assert!(held.len() == 2 && cluster.role(1) == role, "{role:?}: {held:?}");
        let ticket = cluster.step_down(1);
        assert_eq!(cluster.outcome(1, ticket), Some(AdminOutcome::Done));
        held.into_iter().for_each(|message| cluster.deliver(message));
        cluster.settle();
        assert_eq!(cluster.role(1), RoleKind::Follower, "{role:?}: nobody is elected by what was on its way");
        cluster.elect(2);
    }
}

#[test]
fn the_only_voter_has_nobody_to_hand_over_to() {
    let mut cluster = Cluster::led(1);
    let ticket = cluster.step_down(1);
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::NoOtherVoter));
    cluster.propose(1, &["x"]);
    assert_eq!(cluster.commit(1), 3);
}
