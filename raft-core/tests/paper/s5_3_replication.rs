//! §5.3: one log everywhere. The consistency check, conflicts, and what is on the way to a peer.

use raft_core::{
    Body, Config, Conflict, Entries, Event, HardState, Instant, Notice, ReplicationState, RoleKind, Term,
    Violation, WriteOutcome,
};

use super::support::{Cluster, LogRead, Server, append, at, commands, id, log, message, n};

#[test]
fn a_proposal_is_committed_and_applied_everywhere() {
    let mut cluster = Cluster::led(3);
    let tickets = cluster.propose(1, &["a", "b"]);
    cluster.settle();
    let committed = WriteOutcome::Committed { first: id(2, 3), applied_here: true };
    assert_eq!(cluster.servers[&1].write_outcomes(), [(tickets.first.get(), 2, committed)]);
    cluster.time_out(1);
    cluster.settle();
    for server in cluster.servers.values() {
        assert_eq!(server.applied, [(id(2, 3), b"a".to_vec()), (id(2, 4), b"b".to_vec())]);
    }
}

#[test]
fn an_append_that_does_not_fit_is_refused_with_the_term_to_go_back_to() {
    // Figure 7 (f): the follower's terms 2 and 3 are nobody's.
    let mut cluster = Cluster::veteran(3, 7, &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]);
    cluster.step(1, Event::Receive(message(2, 1, 8, append(id(6, 10), Entries::empty(), 1, 1))));
    let conflict =
        |prev, hint| Body::AppendEntriesReply { result: Err(Conflict { prev: at(prev), hint }), round: 1 };
    assert_eq!(cluster.said(), [conflict(10, id(3, 10))]);
    cluster.step(1, Event::Receive(message(2, 1, 8, append(id(1, 4), Entries::empty(), 1, 1))));
    assert_eq!(cluster.said(), [conflict(4, id(1, 3))], "a whole term is skipped");
}

#[test]
fn figure_7_every_follower_ends_with_the_leader_s_log() {
    let leader: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for tail_bytes_max in [1, 1 << 20] {
        for follower in followers {
            let mut cluster = Cluster::pristine(3);
            for (server, terms) in [(1, leader), (2, follower), (3, leader)] {
                let term = if server == 1 { 7 } else { *terms.last().expect("not empty") };
                let hard_state = HardState { term: Term::new(term), voted_for: None };
                let config = Config { tail_bytes_max, ..Config::new(n(server)) };
                cluster.servers.insert(server, Server::new(config, hard_state, log(3, terms), Instant::ZERO));
            }
            cluster.elect(1);
            cluster.time_out(1);
            cluster.settle();
            let mut expected = leader.to_vec();
            expected.push(8);
            for id in 1..=3 {
                assert_eq!(cluster.servers[&id].terms(), expected, "{follower:?}");
                assert_eq!(cluster.commit(id), 11);
            }
            assert_eq!(cluster.servers[&2].disk.log, cluster.servers[&1].disk.log);
        }
    }
}

#[test]
fn an_old_append_removes_nothing() {
    let mut cluster = Cluster::led(3);
    cluster.propose(1, &["a"]);
    let old = cluster.intercept(|message| message.to == n(2));
    old.iter().for_each(|message| cluster.deliver(message.clone()));
    cluster.propose(1, &["b"]);
    cluster.settle();
    assert_eq!(cluster.commit(1), 4);
    old.into_iter().for_each(|message| cluster.deliver(message));
    let heartbeat = append(id(1, 1), Entries::empty(), 2, 1);
    cluster.step(2, Event::Receive(message(1, 2, 2, heartbeat)));
    assert_eq!(cluster.servers[&2].node.status().last, id(2, 4));
}

#[test]
fn a_window_that_was_lost_is_noticed_by_the_next_heartbeat() {
    let mut cluster = Cluster::with(3, |config| config.inflight_appends_max = 2);
    cluster.bootstrap();
    cluster.elect(1);
    cluster.cut = vec![3];
    for command in ["a", "b", "c", "d"] {
        cluster.propose(1, &[command]);
        cluster.settle();
    }
    let peer = |cluster: &Cluster| cluster.servers[&1].node.peers().find(|peer| peer.id == n(3));
    assert_eq!(peer(&cluster).map(|peer| peer.inflight_appends), Some(2), "the window is full");
    cluster.cut.clear();
    cluster.time_out(1);
    cluster.settle();
    assert_eq!(
        peer(&cluster).map(|peer| (peer.match_index, peer.state)),
        Some((at(6), ReplicationState::Replicate))
    );
}

#[test]
fn a_peer_that_lost_what_it_acknowledged_is_reported_and_gets_it_again() {
    let mut cluster = Cluster::led(3);
    cluster.propose(1, &["a"]);
    cluster.settle();
    cluster.time_out(1);
    cluster.settle();
    let now = cluster.now;
    let host = cluster.server(2);
    host.disk.log = host.disk.log.slice(at(1), at(1));
    host.restart(now);
    cluster.cut = vec![3];
    cluster.propose(1, &["b"]);
    cluster.settle();
    let lost = |notice: &&Notice| {
        matches!(notice, Notice::Violation { kind: Violation::AcknowledgedEntryLost(_), .. })
    };
    assert_eq!(cluster.servers[&1].notices.iter().filter(lost).count(), 1);
    assert_eq!(cluster.commit(1), 4, "it has acknowledged everything again");
}

#[test]
fn a_conflict_that_a_later_message_resolved_is_not_reported() {
    let mut cluster = Cluster::veteran(3, 5, &[1, 5]);
    // Both arrive before anything is handed out.
    let now = cluster.now;
    let node = &mut cluster.server(1).node;
    let ahead = append(id(5, 3), commands(id(5, 4), &["b"]), 1, 1);
    node.step(now, Event::Receive(message(2, 1, 5, ahead))).expect("sound");
    let fits = append(id(5, 2), commands(id(5, 3), &["a", "b"]), 1, 1);
    node.step(now, Event::Receive(message(2, 1, 5, fits))).expect("sound");
    cluster.poll(1);
    let said = cluster.said();
    let matched = Body::AppendEntriesReply { result: Ok(at(4)), round: 1 };
    assert_eq!(said.last(), Some(&matched));
    let refused = |body: &&Body| matches!(body, Body::AppendEntriesReply { result: Err(_), .. });
    assert_eq!(said.iter().filter(refused).count(), 0, "{said:?}");
}

#[test]
fn an_unreachable_peer_is_probed_from_what_it_acknowledged() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![3];
    cluster.propose(1, &["a", "b"]);
    cluster.settle();
    let peer = |cluster: &Cluster| {
        let peer = cluster.servers[&1].node.peers().find(|peer| peer.id == n(3)).expect("a peer");
        (peer.state, peer.match_index, peer.next_index, peer.inflight_bytes > 0)
    };
    assert_eq!(peer(&cluster), (ReplicationState::Replicate, at(2), at(5), true));
    cluster.step(1, Event::Unreachable(n(3)));
    assert_eq!(peer(&cluster), (ReplicationState::Probe, at(2), at(3), false));
    assert!(cluster.wire.is_empty(), "it is unreachable: nothing goes out before the next heartbeat");
    cluster.step(1, Event::Unreachable(n(9)));
    cluster.cut.clear();
    // One round trip of a heartbeat: without the hint it would take a refusal first.
    cluster.time_out(1);
    cluster.wire.retain(|message| message.to == n(3));
    let probe = cluster.wire.pop_front().expect("a probe");
    assert!(matches!(&probe.body, Body::AppendEntries { prev, .. } if *prev == id(2, 2)), "{probe:?}");
    cluster.deliver(probe);
    cluster.settle();
    assert_eq!(peer(&cluster), (ReplicationState::Replicate, at(4), at(5), false));
}

/// Server 1 leads, and reads entries for its peers that it alone has: the reads, and its log then.
fn reading_for_peers(own: &[&str]) -> (Cluster, Vec<LogRead>, Entries) {
    let mut cluster = Cluster::with(3, |config| config.tail_bytes_max = 1);
    cluster.bootstrap();
    cluster.elect(1);
    cluster.cut = vec![2, 3];
    cluster.propose(1, own);
    cluster.cut.clear();
    cluster.slow_reads = vec![1];
    cluster.time_out(1);
    cluster.settle();
    let server = cluster.server(1);
    let asked: Vec<_> = server.log_reads.drain(..).collect();
    assert_eq!(asked.iter().map(|asked| asked.from).collect::<Vec<_>>(), [at(3), at(3)], "one for each peer");
    let log = server.disk.log.clone();
    cluster.slow_reads.clear();
    (cluster, asked, log)
}

#[test]
fn a_read_for_a_peer_that_comes_back_after_the_entries_were_replaced_is_of_no_interest() {
    let gone = Entries::empty();
    for stored_in_time in [true, false] {
        let (mut cluster, asked, old_log) = reading_for_peers(&["a", "b"]);
        cluster.cut = vec![1];
        cluster.elect(2);
        cluster.propose(2, &["c"]);
        cluster.settle();
        cluster.cut.clear();
        for _ in 0..3 {
            cluster.time_out(2);
            cluster.settle();
        }
        assert_eq!((cluster.role(1), cluster.servers[&1].terms()), (RoleKind::Follower, vec![1, 2, 3, 3]));
        for asked in asked {
            // The store was quicker than the truncation, or it was not.
            let answer = asked.answer(if stored_in_time { &old_log } else { &gone });
            cluster.step(1, answer);
        }
        cluster.time_out(2);
        cluster.settle();
        assert_eq!(cluster.servers[&1].applied, cluster.servers[&2].applied);
    }
}

#[test]
fn a_read_for_a_peer_that_comes_back_in_a_later_leadership_is_not_sent() {
    let (mut cluster, asked, old_log) = reading_for_peers(&["a"]);
    let later_term = Body::RequestVoteReply { granted: false };
    cluster.step(1, Event::Receive(message(2, 1, 5, later_term)));
    assert_eq!(cluster.role(1), RoleKind::Follower);
    cluster.elect(1);
    cluster.wire.clear();
    for asked in asked {
        cluster.step(1, asked.answer(&old_log));
    }
    assert_eq!(cluster.wire.len(), 0, "{:?}", cluster.wire);
    assert_eq!((cluster.commit(1), cluster.servers[&2].terms()), (4, vec![1, 2, 2, 6]));
}
