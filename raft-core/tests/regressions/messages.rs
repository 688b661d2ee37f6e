//! What messages and events did to nodes that they must not do.

use super::support::{
    Cluster, append, at, commands, id, install, members, message, n, request_vote, snapshot_meta,
};
use raft_core::{
    Action, Body, Entries, Event, Membership, Node, ReadConsistency, RoleKind, Term, Ticket, Tickets,
};

#[test]
fn a_false_prev_below_the_commit_index_is_a_violation_and_no_panic() {
    let mut cluster = Cluster::veteran(3, 5, &[1, 5]);
    // entry 2@5 becomes committed
    cluster.step(1, Event::Receive(message(2, 1, 6, append(id(5, 2), Entries::empty(), 2, 1))));
    assert_eq!(cluster.commit(1), 2);
    cluster.step(1, Event::Receive(message(2, 1, 6, append(id(1, 2), commands(id(2, 3), &["x"]), 2, 1))));
    assert_eq!(cluster.servers[&1].node.status().counters.violations, 1);
}
#[test]
fn a_leader_whose_committed_prefix_differs_is_not_acknowledged() {
    let mut cluster = Cluster::veteran(3, 5, &[1, 5]);
    cluster.step(1, Event::Receive(message(2, 1, 6, append(id(5, 2), Entries::empty(), 2, 1))));
    cluster.wire.clear();
    cluster.step(1, Event::Receive(message(2, 1, 6, append(id(3, 2), commands(id(6, 3), &["x"]), 2, 2))));
    assert_eq!(cluster.servers[&1].node.status().counters.violations, 1);
}
#[test]
fn a_term_at_the_end_of_numbers_is_absurd() {
    let mut cluster = Cluster::led(3);
    let ask = Body::PreVote { proposed: Term::new(5), last: id(1, 1) };
    cluster.step(2, Event::Receive(message(1, 2, u64::MAX, ask)));
    assert_eq!(cluster.servers[&2].node.status().counters.absurd, 1);
}
#[test]
fn an_index_at_the_end_of_numbers_is_absurd() {
    let mut cluster = Cluster::led(3);
    let body = append(id(1, u64::MAX), commands(id(2, 3), &["x"]), 0, 1);
    cluster.step(2, Event::Receive(message(1, 2, 2, body)));
    assert_eq!(cluster.servers[&2].node.status().counters.absurd, 1);
}
#[test]
fn answers_to_an_earlier_leadership_confirm_reads_of_a_later_one() {
    let mut cluster = Cluster::led(5);
    // 3 campaigns for term 3; its vote requests reach 2 only.
    cluster.pass_ms(1_000);
    cluster.step(3, Event::Campaign { ticket: Ticket::new(0) });
    while let Some(m) = cluster.wire.pop_front() {
        let keep = match m.body {
            Body::RequestVote { .. } => m.to == n(2),
            Body::PreVote { .. } => m.to == n(2) || m.to == n(4),
            _ => true,
        };
        if keep {
            cluster.deliver(m)
        }
    }
    assert_eq!((cluster.term(2), cluster.term(3), cluster.role(3)), (3, 3, RoleKind::Candidate));
    // 1 still leads term 2; its second round reaches 2 and 3, whose answers are delayed.
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Leader, 2));
    cluster.wake(1);
    let beats = cluster.intercept(|m| m.to == n(2) || m.to == n(3));
    cluster.wire.clear(); // to 4, 5: lost
    beats.into_iter().for_each(|m| cluster.deliver(m));
    let delayed = cluster.intercept(|m| m.to == n(1));
    assert_eq!(delayed.len(), 2);
    // 1 hears nobody, steps down, and is elected in term 3 by 4 and 5.
    while cluster.role(1) == RoleKind::Leader {
        cluster.time_out(1);
        cluster.wire.clear();
    }
    cluster.pass_ms(1_000);
    cluster.cut = vec![2, 3];
    cluster.step(1, Event::Campaign { ticket: Ticket::new(0) });
    cluster.settle();
    assert_eq!((cluster.role(1), cluster.term(1), cluster.commit(1)), (RoleKind::Leader, 3, 3));
    // Cut off; 4 is elected in term 4 by 2 and 3 and commits a write.
    cluster.cut = vec![1, 5];
    cluster.elect(4);
    cluster.propose(4, &["newer"]);
    cluster.settle();
    assert_eq!((cluster.term(4), cluster.commit(4)), (4, 5));
    // The delayed answers of term 3, which they gave before 1 led it, arrive.
    cluster.cut = vec![];
    cluster.read(1);
    cluster.wire.clear();
    delayed.into_iter().for_each(|m| cluster.deliver(m));
    assert_eq!(cluster.servers[&1].served, [], "a stale read");
}
#[test]
fn nodes_that_became_voters_by_replication_can_replace_their_leader() {
    let mut cluster = Cluster::pristine(3);
    cluster.step(1, Event::Bootstrap { ticket: Ticket::new(0), members: members(1..=3) });
    cluster.settle();
    cluster.elect(1);
    assert_eq!(cluster.servers[&2].node.status().last, id(2, 2));
    assert!(cluster.servers[&2].node.membership().is_voter(n(2)));
    // 1 dies for good here.
    assert!(cluster.servers[&2].node.deadline().is_some() || cluster.servers[&3].node.deadline().is_some());
}
#[test]
fn an_old_acknowledgement_does_not_bring_back_a_peer_that_lost_its_disk() {
    let mut cluster = Cluster::led(5);
    cluster.cut = vec![3, 4, 5];
    cluster.propose(1, &["a"]);
    let m = cluster.wire.pop_front().unwrap();
    cluster.deliver(m); // to 2
    let ack = cluster.wire.pop_front().unwrap();
    cluster.deliver(ack.clone());
    assert_eq!(cluster.servers[&1].node.peers().next().unwrap().match_index, at(3));
    let now = cluster.now;
    let host = cluster.server(2);
    host.disk.log = host.disk.log.slice(at(1), at(2));
    host.restart(now);
    cluster.poll(2);
    // lost is found out
    cluster.time_out(1);
    let m = cluster.intercept(|m| m.to == n(2));
    cluster.wire.clear();
    m.into_iter().for_each(|m| cluster.deliver(m));
    let c = cluster.intercept(|m| m.to == n(1));
    c.into_iter().for_each(|m| cluster.deliver(m));
    assert_eq!(cluster.servers[&1].node.status().counters.violations, 1);
    cluster.wire.clear(); // what it is sent again is lost
    // a duplicate of the old ack
    cluster.deliver(ack);
    cluster.wire.clear();
    // 3 gets the entry
    cluster.cut = vec![4, 5, 2];
    cluster.time_out(1);
    cluster.settle();
    cluster.time_out(1);
    cluster.settle();
    assert_eq!(cluster.servers[&2].node.status().last.index, at(2));
    assert_eq!(cluster.commit(1), 2, "entry 3 is on two of five disks");
}
#[test]
fn a_pause_is_not_taken_for_a_stalled_disk() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["x"]);
    cluster.settle();
    cluster.pass_ms(1_000); // the process sleeps; the report waits in its mailbox
    cluster.wake(1);
    assert_eq!(cluster.role(1), RoleKind::Leader);
}
#[test]
fn a_sole_voter_campaigns_as_soon_as_its_disk_has_answered() {
    let mut cluster = Cluster::pristine(1);
    cluster.slow_disks = vec![1];
    cluster.bootstrap();
    cluster.wake(1);
    cluster.sync(1);
    assert_eq!(cluster.servers[&1].node.deadline(), Some(cluster.now));
}
#[test]
fn a_stray_reply_does_not_use_up_the_terms() {
    let mut cluster = Cluster::led(3);
    let body = Body::PreVoteReply { proposed: Term::new(7), granted: false };
    cluster.step(1, Event::Receive(message(99, 1, (1 << 62) - 1, body)));
    for _ in 0..5 {
        cluster.time_out(1);
        cluster.settle();
        cluster.time_out(2);
        cluster.settle();
    }
    for s in 1..=3 {
        println!("{:?}", cluster.servers[&s].node.status());
    }
    cluster.pass_ms(1000);
    for s in 1..=3 {
        cluster.step(s, Event::Campaign { ticket: Ticket::new(0) });
        cluster.settle();
    }
    assert!((1..=3).any(|s| cluster.role(s) == RoleKind::Leader));
}
#[test]
fn a_stale_request_of_the_same_candidate_does_not_take_its_grant_back() {
    let mut cluster = Cluster::veteran(3, 4, &[1, 4]);
    cluster.slow_disks = vec![1];
    cluster.step(1, Event::Receive(message(2, 1, 6, request_vote(id(4, 2)))));
    cluster.step(1, Event::Receive(message(2, 1, 5, request_vote(id(4, 2)))));
    cluster.sync(1);
    assert!(cluster.wire.iter().any(|m| m.body == Body::RequestVoteReply { granted: true }));
}
#[test]
fn a_node_read_back_does_the_same() {
    let mut cluster = Cluster::led(3);
    let big = "x".repeat(10_000);
    let ev = Event::Propose { first: Ticket::new(50), commands: [&*big, &*big].iter().collect() };
    cluster.cut = vec![2, 3];
    let now = cluster.now;
    let mut a = cluster.servers[&1].node.clone();
    a.step(now, ev).unwrap();
    let text = serde_json::to_string(&a).unwrap();
    let mut b: Node = serde_json::from_str(&text).unwrap();
    let text2 = serde_json::to_string(&b).unwrap();
    assert_eq!(text.len(), text2.len());
    loop {
        let (x, y) = (a.poll_action(), b.poll_action());
        if let (Some(Action::Send(x)), Some(Action::Send(y))) = (&x, &y) {
            let (mut p, mut q) = (vec![], vec![]);
            raft_core::wire::encode_message(x, &mut p);
            raft_core::wire::encode_message(y, &mut q);
            assert!(p == q, "{} {} bytes: {x:?} {y:?}", p.len(), q.len());
        }
        if x.is_none() && y.is_none() {
            break;
        }
    }
}
#[test]
fn the_last_ticket_can_be_used() {
    let mut cluster = Cluster::led(1);
    cluster.step(1, Event::Propose { first: Ticket::new(u64::MAX), commands: ["a"].iter().collect() });
}
#[test]
fn a_read_of_nothing_is_nothing() {
    let mut cluster = Cluster::led(1);
    cluster.step(
        1,
        Event::Read { tickets: Tickets::new(Ticket::new(4), 0), consistency: ReadConsistency::Linearizable },
    );
    assert_eq!(cluster.servers[&1].served, []);
}
#[test]
fn a_pristine_node_that_becomes_a_voter_by_its_first_append_has_an_election_timeout() {
    let mut cluster = Cluster::pristine(1);
    let m = std::sync::Arc::new(Membership::of_voters(members(1..=3)));
    let first = Entries::membership(id(1, 1), m);
    cluster.step(1, Event::Receive(message(2, 1, 2, append(id(0, 0), first, 0, 1))));
    assert!(cluster.servers[&1].node.membership().is_voter(n(1)));
    assert!(cluster.servers[&1].node.deadline().is_some());
}

#[test]
fn what_a_probe_carried_is_not_sent_again_when_it_is_answered_before_it_is_durable() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![3];
    cluster.slow_disks = vec![2];
    cluster.pass_ms(1_000);
    cluster.step(1, Event::Unreachable(n(2)));
    cluster.time_out(1);
    cluster.propose(1, &["a"]);
    let mut sent = 0;
    for _ in 0..100 {
        let Some(message) = cluster.wire.pop_front() else { break };
        if let Body::AppendEntries { entries, .. } = &message.body {
            sent += u64::from(message.to == n(2) && !entries.is_empty());
        }
        cluster.deliver(message);
    }
    assert_eq!(sent, 1);
}

#[test]
fn entries_that_contradict_a_compacted_one_are_a_violation_and_no_panic() {
    let mut cluster = Cluster::veteran(3, 9, &[1, 3]);
    let meta = std::sync::Arc::new(snapshot_meta(id(5, 7), 2, 3, b""));
    cluster.step(1, Event::Receive(message(2, 1, 9, install(&meta, 0, b"", true, 1))));
    assert_eq!(cluster.servers[&1].node.status().base, id(5, 7));
    // Entry 7 would be of term 3, and so would those behind it.
    let false_history = append(id(3, 2), commands(id(3, 3), &["x"; 8]), 0, 2);
    cluster.step(1, Event::Receive(message(2, 1, 9, false_history)));
    assert_eq!(cluster.servers[&1].node.status().counters.violations, 1);
    assert_eq!(cluster.servers[&1].node.status().last, id(5, 7));
}

#[test]
fn a_candidate_that_hears_of_a_leader_asks_for_no_votes_when_its_disk_is_ready() {
    let mut cluster = Cluster::led(3);
    cluster.run_ms(1_000);
    cluster.slow_disks = vec![3];
    let last = cluster.servers[&3].node.status().last;
    cluster.step(3, Event::Receive(message(1, 3, cluster.term(1), Body::TimeoutNow)));
    assert_eq!(cluster.role(3), RoleKind::Candidate);
    // 2 leads this term, and 1 has left.
    let two = Membership::of_voters(members(2..=3));
    let entries = Entries::membership(id(3, last.index.get() + 1), std::sync::Arc::new(two));
    cluster.step(3, Event::Receive(message(2, 3, cluster.term(3), append(last, entries, 0, 1))));
    assert_eq!(cluster.role(3), RoleKind::Follower);
    cluster.wire.clear();
    cluster.sync(3);
    let asks = |message: &&raft_core::Message| matches!(message.body, Body::RequestVote { .. });
    assert_eq!(cluster.wire.iter().find(asks), None);
}

/// On a network that reorders each message that comes early is refused, and each refusal sent a whole window again.
#[test]
fn messages_out_of_order_do_not_multiply() {
    let mut cluster = Cluster::led_with(3, |config| {
        config.append_entries_max = 1;
        config.inflight_appends_max = 64;
    });
    let before = cluster.last(1);
    cluster.propose(1, &["x"; 64]);
    let (mut wire, mut appends, mut beats, mut chance) = (Vec::new(), 0, 0, 7_u64);
    for _ in 0..20_000 {
        let new = cluster.intercept(|_| true);
        appends += new.iter().filter(|sent| matches!(sent.body, Body::AppendEntries { .. })).count();
        wire.extend(new);
        if wire.is_empty() {
            if [2, 3].iter().all(|server| cluster.last(*server) == before + 64) {
                break;
            }
            // What came too early and was answered together with what came then is noticed by the next heartbeat.
            beats += 1;
            cluster.time_out(1);
            continue;
        }
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let next = wire.swap_remove((chance >> 33) as usize % wire.len());
        cluster.deliver(next);
    }
    assert!(wire.is_empty(), "{} messages on their way after {appends} appends", wire.len());
    assert_eq!((cluster.last(2), cluster.last(3)), (before + 64, before + 64));
    // Two followers, 64 entries, a heartbeat or two, and what was refused.
    assert!(beats <= 2, "{beats} heartbeats");
    assert!(appends <= 10 * 2 * 64, "{appends} appends");
}
