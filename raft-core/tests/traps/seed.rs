//! Traps S1 to S21: what the library that this project began from got wrong, where no other test shows it.

use raft_core::{Body, Event, RoleKind};

use super::support::{Cluster, ask, id, in_term, log, message, n};

#[test]
fn trap_s03_a_follower_with_a_longer_log_than_its_leader_is_not_stuck() {
    let mut cluster = Cluster::pristine(3);
    cluster.place(1, in_term(5), log(3, &[1, 5]));
    cluster.place(2, in_term(4), log(3, &[1, 2, 2, 2, 3, 3, 3, 4, 4]));
    cluster.place(3, in_term(5), log(3, &[1, 5]));
    cluster.elect(1);
    cluster.beat(1, 2);
    assert_eq!(cluster.servers[&2].disk.log, cluster.servers[&1].disk.log);
    cluster.restart(2);
    assert_eq!(cluster.servers[&2].terms(), [1, 5, 6], "S4: nothing comes back");
}

#[test]
fn trap_s06_a_leader_that_sees_a_later_term_never_leads_it_unelected() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2, 3];
    cluster.pass_ms(1_000);
    // The candidate's log is too short for a vote, but its term is later.
    cluster.step(1, ask(3, 9, id(1, 1)));
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Follower, 9));
    cluster.wire.clear();
    cluster.pass_ms(10);
    cluster.wake(1);
    let leads = |body: &Body| matches!(body, Body::AppendEntries { .. });
    assert!(!cluster.said().iter().any(leads));
}

#[test]
fn trap_s08_learners_do_not_commit() {
    let mut cluster = Cluster::led(3);
    (4..=6).for_each(|server| cluster.join(server));
    cluster.set_members(1, &[1, 2, 3], &[4, 5, 6]);
    cluster.run_ms(500);
    cluster.cut = vec![2, 3];
    let before = cluster.commit(1);
    cluster.commit_each(1, &["x"]);
    assert!((4..=6).all(|server| cluster.last(server) == cluster.last(1)));
    assert_eq!(cluster.commit(1), before);
}

#[test]
fn trap_s09_match_index_begins_at_nothing() {
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &["a", "b"]);
    cluster.beat(1, 1);
    cluster.pass_ms(1_000);
    cluster.campaign(2);
    cluster.settle_but(|message| matches!(message.body, Body::AppendEntries { .. }));
    assert_eq!(cluster.role(2), RoleKind::Leader);
    let matched: Vec<u64> = cluster.servers[&2].node.peers().map(|peer| peer.match_index.get()).collect();
    assert_eq!(matched, [0, 0]);
}

#[test]
fn trap_s17_a_stale_answer_does_not_stop_a_candidate() {
    let mut cluster = Cluster::veteran(3, 4, &[1, 4]);
    cluster.campaign(1);
    let grant = Body::PreVoteReply { proposed: raft_core::Term::new(5), granted: true };
    cluster.step(1, Event::Receive(message(2, 1, 4, grant)));
    assert_eq!(cluster.role(1), RoleKind::Candidate);
    for term in 1..5 {
        cluster.step(1, Event::Receive(message(3, 1, term, Body::RequestVoteReply { granted: false })));
    }
    cluster.step(1, Event::Receive(message(2, 1, 5, Body::RequestVoteReply { granted: true })));
    assert_eq!(cluster.role(1), RoleKind::Leader);
}

#[test]
fn trap_s18_election_timeouts_are_drawn_anew() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2];
    let mut drawn = std::collections::BTreeSet::new();
    for _ in 0..20 {
        cluster.time_out(2);
        let deadline = cluster.servers[&2].node.deadline().expect("armed");
        drawn.insert(deadline.since(cluster.now));
    }
    assert!(drawn.len() > 10, "{drawn:?}");
}

#[test]
fn trap_s20_a_peer_that_takes_nothing_does_not_make_the_others_wait() {
    let mut cluster = Cluster::led_with(3, |config| {
        config.inflight_appends_max = 1;
        config.inflight_bytes_max = 100;
    });
    cluster.cut = vec![3];
    for _ in 0..50 {
        cluster.commit_each(1, &["x"]);
    }
    assert_eq!(cluster.commit(1), 52);
    let waiting = cluster.servers[&1].node.peers().find(|peer| peer.id == n(3)).expect("a peer");
    assert!(waiting.inflight_appends <= 1, "{waiting:?}");
    assert!(cluster.servers[&1].node.write_room_bytes() > 0);
}
