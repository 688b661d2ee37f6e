//! Log replication (§5.3) where disks, peers and leaders change in the middle of it.

mod support;

use raft_core::{Body, Entries, Event, HardState, Notice, ReplicationState, RoleKind, Term, Ticket};
use support::{Cluster, LogRead, append, at, commands, id, message, n};

fn in_term(term: u64) -> HardState {
    HardState { term: Term::new(term), voted_for: None }
}

fn replies(cluster: &mut Cluster) -> Vec<Body> {
    cluster.wire.drain(..).map(|message| message.body).collect()
}

// --- what a follower says ---------------------------------------------------------------------------------------

#[test]
fn a_conflict_that_a_later_message_resolved_is_not_reported() {
    let mut cluster = Cluster::veteran(3, in_term(5), &[1, 5], |_| {});
    // Both arrive before anything is handed out.
    let now = cluster.now;
    let node = &mut cluster.server(1).node;
    let ahead = append(id(5, 3), commands(id(5, 4), &["b"]), 1, 1);
    node.step(now, Event::Receive(message(2, 1, 5, ahead))).expect("sound");
    let fits = append(id(5, 2), commands(id(5, 3), &["a", "b"]), 1, 1);
    node.step(now, Event::Receive(message(2, 1, 5, fits))).expect("sound");
    cluster.poll(1);
    let said = replies(&mut cluster);
    let matched = Body::AppendEntriesReply { result: Ok(at(4)), round: 1 };
    assert_eq!(said.last(), Some(&matched));
    let refused = |body: &&Body| matches!(body, Body::AppendEntriesReply { result: Err(_), .. });
    assert_eq!(said.iter().filter(refused).count(), 0, "{said:?}");
}

#[test]
fn a_late_report_of_a_write_that_another_leader_overwrote_is_no_acknowledgement() {
    let mut cluster = Cluster::veteran(3, in_term(5), &[1, 5], |_| {});
    cluster.slow_disks = vec![1];
    // The leader of term 5 sends entries 3 and 4; their write is in flight.
    cluster
        .step(1, Event::Receive(message(2, 1, 5, append(id(5, 2), commands(id(5, 3), &["a", "b"]), 1, 1))));
    // So is the vote for the leader of term 6, whose entry 3 replaces them and has to wait for a place.
    cluster.pass_ms(1_000);
    cluster.step(1, Event::Receive(message(3, 1, 6, Body::RequestVote { last: id(5, 9) })));
    cluster.step(1, Event::Receive(message(3, 1, 6, append(id(5, 2), commands(id(6, 3), &["c"]), 3, 1))));
    // The old writes are reported: the log's entry 3 is not on disk, though an entry 3 is.
    assert_eq!(cluster.servers[&1].unsynced.len(), 2);
    cluster.sync_one(1);
    cluster.sync_one(1);
    let status = cluster.servers[&1].node.status();
    assert_eq!((status.last, status.durable, status.commit), (id(6, 3), at(2), at(3)));
    assert_eq!(cluster.servers[&1].applied_index, at(2), "it would apply what a crash takes back");
    let acknowledged = |body: &Body| match body {
        Body::AppendEntriesReply { result: Ok(index), .. } => Some(*index),
        _ => None,
    };
    let said = replies(&mut cluster);
    assert!(said.iter().filter_map(acknowledged).all(|index| index <= at(2)), "{said:?}");
    cluster.sync(1);
    assert_eq!(replies(&mut cluster).iter().filter_map(acknowledged).max(), Some(at(3)));
}

// --- a leader and its peers --------------------------------------------------------------------------------------

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
    let log = server.log.clone();
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

// --- whom to connect to ------------------------------------------------------------------------------------------

#[test]
fn peers_are_named_when_the_membership_comes_and_before_any_message_to_them() {
    let mut cluster = Cluster::pristine(3);
    cluster.trace = Some(Vec::new());
    for server in 1..=3 {
        cluster.poll(server);
        assert_eq!(cluster.servers[&server].peers, [], "nobody is known yet");
    }
    cluster.step(1, Event::Bootstrap { ticket: Ticket::new(0), members: support::members(1..=3) });
    cluster.settle();
    cluster.elect(1);
    for server in cluster.servers.values() {
        assert_eq!(server.peers.len(), 1);
        assert_eq!(server.peers[0].nodes, support::members(1..=3));
        assert!(server.notices.contains(&Notice::Membership { index: at(1) }));
    }
    let trace = cluster.trace.take().expect("kept");
    let mine = trace.iter().filter(|(server, _)| *server == 1).map(|(_, action)| action);
    let kinds = mine.filter_map(|action| match action {
        raft_core::Action::Peers(_) => Some('p'),
        raft_core::Action::Send(_) => Some('s'),
        _ => None,
    });
    let kinds: Vec<char> = kinds.collect();
    assert_eq!(kinds.first(), Some(&'p'));
    assert!(kinds.contains(&'s'));
}

#[test]
fn peers_are_named_at_the_start() {
    let mut cluster = Cluster::led(3);
    let now = cluster.now;
    cluster.server(2).peers.clear();
    cluster.server(2).restart(now);
    cluster.poll(2);
    let peers = &cluster.servers[&2].peers;
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].nodes, support::members(1..=3));
}
