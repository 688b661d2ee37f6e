//! Traps 54 to 62: reads, transfer, driver.

use raft_core::{Body, Event, ReadConsistency, RoleKind, Ticket, Tickets};

use super::support::{Cluster, at, id, message, n};

#[test]
fn trap_55_an_answer_counts_for_the_rounds_through_its_own() {
    let mut cluster = Cluster::led(5);
    cluster.beat(1, 1);
    let first = cluster.read(1);
    let answers = cluster.settle_but(|message| message.to == n(1));
    let second = cluster.read(1);
    cluster.wire.clear();
    // The answers to the first read's round, twice and late.
    for message in answers.iter().chain(&answers) {
        cluster.deliver(message.clone());
    }
    assert!(cluster.is_served(1, first));
    assert!(!cluster.is_served(1, second));
}

#[test]
fn trap_56_half_of_the_servers_is_no_quorum() {
    let mut cluster = Cluster::led(4);
    cluster.cut = vec![3, 4];
    let tickets = cluster.read(1);
    cluster.settle();
    cluster.beat(1, 2);
    assert!(!cluster.is_served(1, tickets));
    cluster.cut = vec![4];
    cluster.beat(1, 2);
    assert!(cluster.is_served(1, tickets));
}

#[test]
fn trap_59_a_server_that_left_ignores_timeout_now() {
    let mut cluster = Cluster::led(3);
    cluster.set_voters(1, &[1, 2]);
    cluster.run_ms(1_000);
    let ticket = cluster.transfer(1, Some(3));
    assert!(cluster.refusal(1, ticket).is_some());
    cluster.step(3, Event::Receive(message(1, 3, 2, Body::TimeoutNow)));
    assert_eq!((cluster.role(3), cluster.term(3)), (RoleKind::Follower, 2));
}

#[test]
fn trap_60_a_candidate_with_a_stalled_disk_does_not_campaign() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![2];
    cluster.commit_each(1, &["a"]);
    cluster.cut = vec![1];
    for _ in 0..20 {
        cluster.time_out(2);
        cluster.wire.clear();
    }
    assert_eq!(cluster.term(2), 2, "it could not keep a vote");
    cluster.hurry_disks();
    cluster.time_out(2);
    cluster.settle();
    cluster.run_ms(2_000);
    assert!(cluster.leader().is_some_and(|leader| leader != 1));
}

#[test]
fn trap_60_a_voter_with_a_stalled_disk_grants_no_pre_vote() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![2];
    cluster.commit_each(1, &["a"]);
    cluster.run_ms(1_000);
    cluster.cut = vec![1];
    cluster.run_ms(3_000);
    assert_eq!(cluster.term(3), 2, "the vote that it would need could not be kept");
    cluster.hurry_disks();
    cluster.run_ms(2_000);
    assert!(cluster.leader().is_some_and(|leader| leader != 1));
}

#[test]
fn trap_61_a_message_that_arrives_twice_is_appended_once_and_a_proposal_is_answered_once() {
    let mut cluster = Cluster::led(3);
    let tickets = cluster.propose(1, &["a"]);
    let sent: Vec<_> = cluster.wire.drain(..).collect();
    for _ in 0..3 {
        for message in &sent {
            cluster.deliver(message.clone());
        }
        cluster.settle();
    }
    cluster.beat(1, 1);
    assert!(cluster.servers.values().all(|server| server.commands() == ["a"]));
    let outcomes = cluster.servers[&1].write_outcomes();
    assert_eq!(outcomes.len(), 1);
    assert_eq!(outcomes[0].0, tickets.first.get());
    assert_eq!(cluster.servers[&2].applied, [(id(2, 3), b"a".to_vec())]);
    assert_eq!(cluster.servers[&2].applied_index, at(3));
}

#[test]
fn trap_56_reads_of_one_round_each_keep_their_own_index() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["a"]);
    let acks = cluster.settle_but(|message| message.to == n(1));
    assert_eq!(cluster.commit(1), 2);
    // All of it before the leader says another word: a read, the commit of a, another read.
    let tickets = [100, 101].map(|ticket| Tickets::one(Ticket::new(ticket)));
    let consistency = ReadConsistency::Linearizable;
    let now = cluster.now;
    let node = &mut cluster.server(1).node;
    node.step(now, Event::Read { tickets: tickets[0], consistency }).expect("sound");
    for ack in acks {
        node.step(now, Event::Receive(ack)).expect("sound");
    }
    node.step(now, Event::Read { tickets: tickets[1], consistency }).expect("sound");
    cluster.poll(1);
    cluster.settle();
    cluster.beat(1, 1);
    assert_eq!(cluster.commit(1), 3);
    assert!(cluster.is_served(1, tickets[0]));
    assert!(!cluster.is_served(1, tickets[1]), "a is not applied here: it is not durable yet");
    cluster.sync(1);
    assert!(cluster.is_served(1, tickets[1]));
    assert_eq!(cluster.servers[&1].served_after, [at(2), at(3)]);
}
