//! Thesis §6.4.1: reads by the leader's lease: no message, but only as long as the clocks prove it.

use core::time::Duration;

use raft_core::{AdminRefusal, Body, Config, Event, Lease, ReadOutcome, RoleKind};

use super::support::{Cluster, at, id, message, n, request_vote};

fn leases(config: &mut Config) {
    config.lease = Some(Lease { clock_drift_ppm_max: 100_000 });
}

/// Server 1 leads three, and its lease is fresh.
fn leased() -> Cluster {
    let mut cluster = Cluster::with(3, leases);
    cluster.bootstrap();
    cluster.elect(1);
    cluster.beat(1, 1);
    assert!(cluster.wire.is_empty());
    cluster
}

#[test]
fn a_read_by_lease_needs_no_message() {
    let mut cluster = leased();
    let tickets = cluster.lease_read(1);
    assert!(cluster.is_served(1, tickets));
    assert!(cluster.wire.is_empty());
}

#[test]
fn without_leases_it_is_a_read_like_any_other() {
    let mut cluster = Cluster::led(3);
    cluster.beat(1, 1);
    let tickets = cluster.lease_read(1);
    assert!(!cluster.is_served(1, tickets), "nobody vouched for it yet");
    cluster.settle();
    assert!(cluster.is_served(1, tickets));
}

#[test]
fn a_lease_ends_before_anybody_else_could_be_elected() {
    let mut cluster = leased();
    let min = cluster.servers[&1].config.election_timeout_min;
    cluster.cut = vec![1];
    // A clock may be a tenth fast, another a tenth slow.
    cluster.now = cluster.now + min * 3 / 4;
    let early = cluster.lease_read(1);
    assert!(cluster.is_served(1, early), "three quarters of the time: still good");
    cluster.now = cluster.now + min / 4;
    let late = cluster.lease_read(1);
    assert!(!cluster.is_served(1, late), "others may have elected somebody");
    cluster.run_ms(2_000);
    assert!(!cluster.is_served(1, late));
    assert_eq!(cluster.servers[&1].read_outcomes(), [(late, ReadOutcome::NotLeader { leader: None })]);
}

#[test]
fn a_lease_is_counted_from_when_the_round_was_sent() {
    let mut cluster = leased();
    let min = cluster.servers[&1].config.election_timeout_min;
    cluster.time_out(1);
    cluster.now = cluster.now + min * 9 / 10;
    // The followers answer late; their promise began when they heard, which may be any time since.
    cluster.settle();
    cluster.now = cluster.now + min / 10;
    let tickets = cluster.lease_read(1);
    assert!(!cluster.is_served(1, tickets), "the round is an election timeout old");
}

#[test]
fn no_lease_before_the_first_commit_of_the_term() {
    let mut cluster = leased();
    cluster.pass_ms(1_000);
    cluster.campaign(2);
    let appends = cluster.settle_but(
        |message| matches!(&message.body, Body::AppendEntries { entries, .. } if !entries.is_empty()),
    );
    assert_eq!(cluster.role(2), RoleKind::Leader);
    cluster.time_out(2);
    let mut held = cluster.settle_but(
        |message| matches!(&message.body, Body::AppendEntries { entries, .. } if !entries.is_empty()),
    );
    let tickets = cluster.lease_read(2);
    assert!(!cluster.is_served(2, tickets));
    held.splice(0..0, appends);
    held.into_iter().for_each(|message| cluster.deliver(message));
    cluster.beat(2, 2);
    assert!(cluster.is_served(2, tickets));
}

#[test]
fn no_lease_any_more_once_a_successor_was_asked_to_campaign() {
    let mut cluster = leased();
    cluster.transfer(1, Some(2));
    assert!(cluster.wire.iter().any(|message| message.body == Body::TimeoutNow));
    let during = cluster.lease_read(1);
    assert!(!cluster.is_served(1, during));
    cluster.cut = vec![1];
    cluster.run_until(2_000, |cluster| {
        cluster.role(1) != RoleKind::Leader || cluster.now > at_ms(cluster, 5_000)
    });
    let late = cluster.lease_read(1);
    assert!(!cluster.is_served(1, during) && !cluster.is_served(1, late));
}

fn at_ms(cluster: &Cluster, ms: u64) -> raft_core::Instant {
    cluster.now + Duration::from_millis(ms)
}

#[test]
fn no_lease_in_the_rest_of_the_term_after_a_transfer_that_failed() {
    let mut cluster = leased();
    let ticket = cluster.transfer(1, Some(2));
    let mut late = 0;
    for _ in 0..30 {
        late += cluster.settle_but(|message| message.body == Body::TimeoutNow).len();
        cluster.time_out(1);
    }
    cluster.settle();
    assert!(late > 0);
    assert_eq!(cluster.refusal(1, ticket), Some(AdminRefusal::TimedOut));
    let tickets = cluster.lease_read(1);
    assert!(!cluster.is_served(1, tickets), "TimeoutNow may arrive at any time");
    cluster.settle();
    assert!(cluster.is_served(1, tickets), "by a round of messages, as without leases");
}

#[test]
fn with_leases_a_restarted_voter_keeps_the_promises_of_its_earlier_life() {
    let mut cluster = leased();
    let min = cluster.servers[&2].config.election_timeout_min;
    cluster.restart(2);
    cluster.wire.clear();
    cluster.step(2, Event::Receive(message(3, 2, 3, request_vote(id(2, 2)))));
    let ask = Body::PreVote { proposed: raft_core::Term::new(3), last: id(2, 2) };
    cluster.step(2, Event::Receive(message(3, 2, 2, ask)));
    let granted = |body: &Body| {
        matches!(body, Body::RequestVoteReply { granted: true } | Body::PreVoteReply { granted: true, .. })
    };
    assert!(!cluster.said().iter().any(granted));
    cluster.campaign(2);
    assert_eq!(cluster.role(2), RoleKind::Follower);
    assert!(
        cluster.servers[&2]
            .admin_outcomes()
            .contains(&raft_core::AdminOutcome::Refused(AdminRefusal::LeaderAlive))
    );
    cluster.now = cluster.now + min;
    cluster.step(2, Event::Receive(message(3, 2, 3, request_vote(id(2, 2)))));
    assert!(cluster.said().iter().any(granted), "an election timeout later it is free");
}

#[test]
fn with_leases_nobody_campaigns_against_a_live_leader_even_if_asked_to() {
    let mut cluster = leased();
    cluster.campaign(2);
    assert_eq!(cluster.role(2), RoleKind::Follower);
    cluster.settle();
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Leader, 2));
    // Unless the leader asks itself.
    cluster.transfer(1, Some(2));
    cluster.settle();
    assert_eq!(cluster.role(2), RoleKind::Leader);
}

#[test]
fn a_sole_voter_s_lease_does_not_wait_after_a_restart() {
    let mut cluster = Cluster::with(1, leases);
    cluster.bootstrap();
    cluster.wake(1);
    cluster.restart(1);
    cluster.wake(1);
    assert_eq!(cluster.role(1), RoleKind::Leader);
    let tickets = cluster.lease_read(1);
    assert!(cluster.is_served(1, tickets));
    assert_eq!(cluster.servers[&1].served_after, [at(3)]);
}

#[test]
fn a_lease_read_at_a_follower_asks_the_leader() {
    let mut cluster = leased();
    let tickets = cluster.lease_read(2);
    assert!(!cluster.is_served(2, tickets));
    assert!(cluster.wire.iter().any(|message| message.to == n(1)));
    cluster.settle();
    assert!(cluster.is_served(2, tickets));
}

#[test]
fn a_lease_holds_as_long_as_nobody_votes_for_another_however_the_clocks_differ() {
    // The leader's clock is slow, and the others' are fast, each by the bound.
    let mut cluster = Cluster::with(3, leases);
    cluster.clocks_ppm = [(1, -100_000), (2, 100_000), (3, 100_000)].into();
    cluster.bootstrap();
    cluster.elect(1);
    cluster.beat(1, 1);
    cluster.cut = vec![1];
    let (mut served, mut free) = (0, 0);
    for ms in 0..300 {
        let tickets = cluster.lease_read(1);
        let reads = cluster.is_served(1, tickets);
        cluster.wire.clear();
        let ask = Body::PreVote { proposed: raft_core::Term::new(3), last: id(2, 2) };
        cluster.step(2, Event::Receive(message(3, 2, 2, ask)));
        let granted = |body: &Body| matches!(body, Body::PreVoteReply { granted: true, .. });
        let votes = cluster.said().iter().any(granted);
        assert!(!(reads && votes), "after {ms} ms a read, and a vote for somebody else");
        served += u64::from(reads);
        free += u64::from(votes);
        cluster.pass_ms(1);
    }
    assert!(served > 100 && free > 100, "{served} {free}");
}
