//! Terms, votes and who leads (§5.1, §5.2, thesis §4.2.3): rules that only a particular order of events shows.

mod support;

use core::time::Duration;

use raft_core::{Body, Event, HardState, RoleKind, Term, Ticket};
use support::{Cluster, append, id, log, message, n};

fn in_term(term: u64) -> HardState {
    HardState { term: Term::new(term), voted_for: None }
}

fn ask(from: u64, term: u64, last: raft_core::LogId) -> Event {
    Event::Receive(message(from, 1, term, Body::RequestVote { last }))
}

// --- messages that wait for the hard state -------------------------------------------------------------------

#[test]
fn what_waited_to_be_said_in_an_earlier_term_is_never_said() {
    let mut cluster = Cluster::veteran(3, in_term(4), &[1, 4], |_| {});
    cluster.slow_disks = vec![1];
    cluster.step(1, ask(2, 5, id(4, 2)));
    cluster.step(1, ask(3, 6, id(4, 2)));
    cluster.sync(1);
    let said: Vec<_> = cluster.wire.iter().map(|message| (message.to, message.term.get())).collect();
    assert_eq!(said, [(n(3), 6)], "the grant of term 5 is of no use to anybody");
}

#[test]
fn a_candidacy_that_a_later_term_ended_sends_no_requests() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![2];
    cluster.pass_ms(1_000);
    cluster.step(2, Event::Campaign { ticket: Ticket::new(0) });
    cluster.settle();
    assert_eq!((cluster.role(2), cluster.term(2)), (RoleKind::Candidate, 3));
    cluster.step(2, Event::Receive(message(3, 2, 4, Body::RequestVote { last: id(2, 2) })));
    cluster.sync(2);
    assert!(cluster.wire.iter().all(|message| message.term == Term::new(4)), "{:?}", cluster.wire);
    assert_eq!(cluster.servers[&2].hard_state, HardState { term: Term::new(4), voted_for: Some(n(3)) });
}

// --- timers --------------------------------------------------------------------------------------------------

#[test]
fn whoever_grants_a_vote_waits_a_whole_election_timeout() {
    let mut cluster = Cluster::veteran(3, in_term(5), &[1, 4, 4], |_| {});
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
    cluster.step(2, Event::Receive(message(1, 2, 2, append(id(2, 2), raft_core::Entries::empty(), 2, 9))));
    let deadline = cluster.servers[&2].node.deadline().expect("a voter");
    assert!(deadline.since(cluster.now) >= cluster.servers[&2].config.election_timeout_min);
}

// --- stickiness (thesis §4.2.3) --------------------------------------------------------------------------------

#[test]
fn a_leader_that_lost_contact_no_longer_stands_in_the_way() {
    let mut cluster = Cluster::led(3);
    let min = cluster.servers[&1].config.election_timeout_min;
    let pre_vote = Body::PreVote { proposed: Term::new(3), last: id(2, 2) };
    cluster.now = cluster.now + (min - Duration::from_millis(1));
    cluster.step(1, Event::Receive(message(2, 1, 2, pre_vote.clone())));
    cluster.step(1, ask(2, 3, id(2, 2)));
    assert_eq!(
        (cluster.role(1), cluster.term(1)),
        (RoleKind::Leader, 2),
        "it heard from a majority just now"
    );
    assert_eq!(cluster.servers[&1].node.status().counters.sticky, 2);
    cluster.wire.clear();
    cluster.pass_ms(1);
    cluster.step(1, Event::Receive(message(2, 1, 2, pre_vote)));
    assert_eq!(cluster.role(1), RoleKind::Leader, "a pre-vote changes nothing");
    cluster.step(1, ask(2, 3, id(2, 2)));
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Follower, 3));
    let said: Vec<_> = cluster.wire.drain(..).map(|message| message.body).collect();
    let grants = [
        Body::PreVoteReply { proposed: Term::new(3), granted: true },
        Body::RequestVoteReply { granted: true },
    ];
    assert_eq!(said, grants);
}

#[test]
fn a_leader_in_contact_with_half_of_the_others_of_five_stays_established() {
    let mut cluster = Cluster::led(5);
    cluster.cut = vec![4, 5];
    for _ in 0..10 {
        cluster.time_out(1);
        cluster.settle();
    }
    cluster.step(1, ask(4, 3, id(2, 2)));
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Leader, 2));
}

// --- a disk that does not answer (TRAP 60) -----------------------------------------------------------------------

#[test]
fn a_sole_voter_goes_on_leading_while_its_disk_is_slow() {
    let mut cluster = Cluster::pristine(1);
    cluster.bootstrap();
    cluster.wake(1);
    assert_eq!(cluster.role(1), RoleKind::Leader);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["a"]);
    for _ in 0..30 {
        cluster.time_out(1);
    }
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Leader, 2), "nobody else could do better");
    cluster.sync(1);
    assert_eq!(cluster.commit(1), 3);
}

// --- the configuration in force is the last in the log (§6, TRAP 53) ---------------------------------------------

#[test]
fn a_node_whose_membership_is_truncated_counts_by_the_one_before() {
    // Entry 2 of term 2 made node 1 the only voter, and was not committed.
    let alone = raft_core::Membership::of_voters(support::members(1..=1));
    let second = raft_core::Entries::membership(id(2, 2), std::sync::Arc::new(alone));
    let stored = raft_core::Entries::join([log(3, &[1]), second]).expect("consecutive");
    let mut cluster = Cluster::pristine(1);
    let config = cluster.servers[&1].config.clone();
    cluster.servers.insert(1, support::Server::new(config, in_term(2), stored, cluster.now));
    cluster.poll(1);
    assert_eq!(cluster.servers[&1].node.membership().voters.len(), 1);
    // The leader of term 3 has another entry there.
    let other = support::commands(id(3, 2), &["x"]);
    cluster.step(1, Event::Receive(message(2, 1, 3, append(id(1, 1), other, 1, 1))));
    let server = &cluster.servers[&1];
    assert_eq!(server.node.membership().voters.len(), 3);
    assert_eq!(server.notices.last(), Some(&raft_core::Notice::Membership { index: support::at(1) }));
    assert_eq!(server.peers.last(), Some(server.node.membership()), "it is told whom to reach");
    // It cannot elect itself.
    cluster.pass_ms(1_000);
    cluster.wire.clear();
    cluster.step(1, Event::Campaign { ticket: Ticket::new(0) });
    assert_eq!(cluster.role(1), RoleKind::PreCandidate);
    let asked: Vec<_> = cluster.wire.iter().map(|message| message.to.get()).collect();
    assert_eq!(asked, [2, 3]);
}
