//! Thesis §10.2.1: disks beside the network. Nothing is said aloud, or counted, before it is durable.

use raft_core::{Body, Event};

use super::support::{Cluster, append, at, commands, id, message, request_vote};

#[test]
fn an_acknowledgement_waits_for_the_follower_s_disk() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![3];
    cluster.slow_disks = vec![2];
    cluster.propose(1, &["a"]);
    cluster.settle();
    assert_eq!(cluster.commit(1), 2);
    cluster.time_out(1);
    cluster.settle();
    assert_eq!(cluster.commit(1), 2, "a heartbeat is answered, but not for what is not durable");
    cluster.sync(2);
    cluster.settle();
    assert_eq!(cluster.commit(1), 3);
}

#[test]
fn a_majority_of_followers_commits_while_the_leader_s_own_disk_is_slow_but_it_applies_later() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["a"]);
    cluster.settle();
    assert_eq!((cluster.commit(1), cluster.servers[&1].applied_index), (3, at(2)));
    cluster.sync(1);
    assert_eq!(cluster.servers[&1].applied_index, at(3));
}

#[test]
fn a_leader_counts_itself_only_when_durable() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![3];
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["a"]);
    cluster.settle();
    assert_eq!(cluster.commit(1), 2);
    cluster.sync(1);
    assert_eq!(cluster.commit(1), 3);
}

#[test]
fn a_sole_voter_commits_when_its_own_write_is_durable() {
    let mut cluster = Cluster::pristine(1);
    cluster.bootstrap();
    cluster.wake(1);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["a"]);
    assert_eq!((cluster.commit(1), cluster.servers[&1].write_outcomes()), (2, vec![]));
    cluster.sync(1);
    assert_eq!((cluster.commit(1), cluster.servers[&1].applied_index), (3, at(3)));
}

#[test]
fn a_late_report_of_a_write_that_another_leader_overwrote_is_no_acknowledgement() {
    let mut cluster = Cluster::veteran(3, 5, &[1, 5]);
    cluster.slow_disks = vec![1];
    // The leader of term 5 sends entries 3 and 4; their write is in flight.
    cluster
        .step(1, Event::Receive(message(2, 1, 5, append(id(5, 2), commands(id(5, 3), &["a", "b"]), 1, 1))));
    // So is the vote for the leader of term 6, whose entry 3 replaces them and has to wait for a place.
    cluster.pass_ms(1_000);
    cluster.step(1, Event::Receive(message(3, 1, 6, request_vote(id(5, 9)))));
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
    let said = cluster.said();
    assert!(said.iter().filter_map(acknowledged).all(|index| index <= at(2)), "{said:?}");
    cluster.sync(1);
    assert_eq!(cluster.said().iter().filter_map(acknowledged).max(), Some(at(3)));
}
