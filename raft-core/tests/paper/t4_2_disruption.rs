//! Thesis §4.2.3: servers that were cut off or removed do not unseat a leader that works.

use core::time::Duration;

use raft_core::{Body, Event, RoleKind, Term};

use super::support::{Cluster, ask, id, message, request_vote};

#[test]
fn a_live_leader_makes_its_followers_refuse_others_term_included() {
    let mut cluster = Cluster::led(3);
    for server in [1, 2] {
        cluster.step(server, Event::Receive(message(3, server, 9, request_vote(id(8, 9)))));
        let ask = Body::PreVote { proposed: Term::new(10), last: id(8, 9) };
        cluster.step(server, Event::Receive(message(3, server, 9, ask)));
        assert_eq!((cluster.term(server), cluster.servers[&server].node.status().counters.sticky), (2, 2));
    }
    assert_eq!(cluster.role(1), RoleKind::Leader);
}

#[test]
fn a_node_that_was_cut_off_comes_back_without_unseating_the_leader() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![3];
    for _ in 0..5 {
        cluster.time_out(3);
    }
    assert_eq!((cluster.role(3), cluster.term(3)), (RoleKind::PreCandidate, 2));
    for _ in 0..20 {
        cluster.time_out(1);
        cluster.settle();
    }
    cluster.cut.clear();
    cluster.step(3, Event::Wake);
    cluster.time_out(1);
    cluster.settle();
    assert_eq!(
        (cluster.role(1), cluster.role(3), cluster.term(3)),
        (RoleKind::Leader, RoleKind::Follower, 2)
    );
}

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
