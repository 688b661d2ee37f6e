//! Thesis §9.6: a pre-vote asks without changing anything.

use raft_core::{Body, Event, Notice, RoleKind, Term};

use super::support::{Cluster, id, message};

#[test]
fn a_pre_vote_changes_nothing_and_follows_the_same_rule() {
    for (last, granted) in [(id(3, 9), false), (id(4, 3), true)] {
        let mut cluster = Cluster::veteran(3, 5, &[1, 4, 4]);
        let deadline = cluster.servers[&1].node.deadline();
        let ask = Body::PreVote { proposed: Term::new(8), last };
        cluster.step(1, Event::Receive(message(2, 1, 7, ask)));
        assert_eq!(cluster.said(), [Body::PreVoteReply { proposed: Term::new(8), granted }]);
        let status = cluster.servers[&1].node.status();
        assert_eq!((status.term, status.voted_for), (Term::new(5), None));
        assert_eq!(cluster.servers[&1].node.deadline(), deadline, "no timer is reset (TRAP 9)");
    }
}

#[test]
fn who_asks_in_vain_tells_of_it_once() {
    let mut cluster = Cluster::veteran(3, 5, &[1, 4, 4]);
    for _ in 0..3 {
        cluster.time_out(1);
        assert_eq!(cluster.said().len(), 2, "both others are asked each time");
    }
    let told = Notice::Role { role: RoleKind::PreCandidate, term: Term::new(5) };
    assert_eq!(cluster.servers[&1].notices.iter().filter(|notice| **notice == told).count(), 1);
}
