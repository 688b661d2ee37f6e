//! §5.2: at most one leader in a term; who votes, who counts, and when a timer fires.

use core::time::Duration;

use raft_core::{Body, Entries, Event, HardState, Instant, Notice, RoleKind, Term, Ticket, Violation};

use super::support::{Cluster, append, ask, commands, id, message, n, request_vote};

#[test]
fn a_vote_leaves_only_when_term_and_vote_are_durable() {
    let mut cluster = Cluster::veteran(3, 4, &[1, 4]);
    cluster.slow_disks = vec![1];
    cluster.step(1, Event::Receive(message(2, 1, 5, request_vote(id(4, 2)))));
    assert_eq!(cluster.said(), []);
    cluster.sync(1);
    assert_eq!(cluster.said(), [Body::RequestVoteReply { granted: true }]);
    assert_eq!(cluster.servers[&1].disk.hard_state, HardState { term: Term::new(5), voted_for: Some(n(2)) });
}

#[test]
fn one_vote_in_a_term_also_across_a_restart() {
    let mut cluster = Cluster::veteran(3, 4, &[1, 4]);
    let ask = |from| Event::Receive(message(from, 1, 5, request_vote(id(4, 2))));
    cluster.step(1, ask(2));
    cluster.step(1, ask(3));
    cluster.server(1).restart(Instant::ZERO);
    cluster.step(1, ask(3));
    cluster.step(1, ask(2));
    let granted = |granted| Body::RequestVoteReply { granted };
    assert_eq!(cluster.said(), [granted(true), granted(false), granted(false), granted(true)]);
}

#[test]
fn requests_of_a_candidate_leave_only_when_its_own_vote_is_durable() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![2];
    cluster.pass_ms(1_000);
    cluster.step(2, Event::Campaign { ticket: Ticket::new(0) });
    cluster.settle();
    assert_eq!((cluster.role(2), cluster.term(2)), (RoleKind::Candidate, 3));
    assert_eq!(cluster.term(3), 2, "no request has arrived");
    cluster.sync(2);
    cluster.settle();
    assert_eq!((cluster.role(2), cluster.term(3)), (RoleKind::Leader, 3));
}

#[test]
fn replies_of_another_term_and_duplicates_elect_nobody() {
    let mut cluster = Cluster::veteran(5, 4, &[1, 4]);
    cluster.step(1, Event::Campaign { ticket: Ticket::new(0) });
    let pre_vote = |from, proposed| {
        let body = Body::PreVoteReply { proposed: Term::new(proposed), granted: true };
        Event::Receive(message(from, 1, 4, body))
    };
    for event in [pre_vote(2, 5), pre_vote(2, 5), pre_vote(3, 4), pre_vote(9, 5)] {
        cluster.step(1, event);
    }
    assert_eq!(
        cluster.role(1),
        RoleKind::PreCandidate,
        "one grant, its duplicate, a stale one, a stranger's"
    );
    cluster.step(1, pre_vote(3, 5));
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Candidate, 5));
    let vote = |from, term| Event::Receive(message(from, 1, term, Body::RequestVoteReply { granted: true }));
    for event in [vote(2, 5), vote(2, 5), vote(3, 4), vote(9, 5), pre_vote(4, 5)] {
        cluster.step(1, event);
    }
    assert_eq!(cluster.role(1), RoleKind::Candidate);
    cluster.step(1, vote(3, 5));
    assert_eq!(cluster.role(1), RoleKind::Leader);
}

#[test]
fn nobody_else_is_obeyed_in_the_term_of_a_known_leader() {
    let mut cluster = Cluster::led(3);
    let rival = |to| Event::Receive(message(3, to, 2, append(id(1, 1), commands(id(2, 2), &["x"]), 2, 1)));
    for server in [1, 2] {
        cluster.step(server, rival(server));
        let kind = Violation::SecondLeader(Term::new(2));
        assert!(cluster.servers[&server].notices.contains(&Notice::Violation { peer: n(3), kind }));
        assert_eq!(cluster.servers[&server].node.status().leader, Some(n(1)));
    }
    assert_eq!(cluster.role(1), RoleKind::Leader);
}

#[test]
fn whoever_grants_a_vote_waits_a_whole_election_timeout() {
    let mut cluster = Cluster::veteran(3, 5, &[1, 4, 4]);
    let armed = cluster.servers[&1].node.deadline().expect("a voter");
    cluster.now = armed - Duration::from_millis(1);
    // Refused, in the current term: nothing was promised, so nothing is waited for.
    cluster.step(1, ask(3, 5, id(3, 9)));
    assert_eq!(cluster.servers[&1].node.deadline(), Some(armed));
    cluster.step(1, ask(2, 5, id(4, 3)));
    let deadline = cluster.servers[&1].node.deadline().expect("a voter");
    assert!(deadline.since(cluster.now) >= cluster.servers[&1].config.election_timeout_min, "{deadline:?}");
}

#[test]
fn a_leader_s_message_arms_the_election_timeout_anew() {
    let mut cluster = Cluster::led(3);
    let armed = cluster.servers[&2].node.deadline().expect("a voter");
    cluster.now = armed - Duration::from_millis(1);
    cluster.step(2, Event::Receive(message(1, 2, 2, append(id(2, 2), Entries::empty(), 2, 9))));
    let deadline = cluster.servers[&2].node.deadline().expect("a voter");
    assert!(deadline.since(cluster.now) >= cluster.servers[&2].config.election_timeout_min);
}

#[test]
fn a_paused_process_hears_its_mailbox_before_it_campaigns() {
    let mut cluster = Cluster::led(3);
    cluster.pass_ms(60_000);
    cluster.wake(2);
    assert_eq!(cluster.role(2), RoleKind::Follower);
    let deadline = cluster.servers[&2].node.deadline().expect("armed");
    assert_eq!(deadline.since(cluster.now), cluster.servers[&2].config.heartbeat_interval);
    cluster.time_out(2);
    assert_eq!(cluster.role(2), RoleKind::PreCandidate);
}
