//! Reads that were served too late, or not at all, and leases that were believed too long.

use raft_core::{Body, Config, Event, Lease, Message, RoleKind, Ticket, WriteOutcome};

use super::support::{Cluster, message, n};

fn leases(config: &mut Config) {
    config.lease = Some(Lease { clock_drift_ppm_max: 100 });
}

/// Whether `reader` serves a read by its lease after `writer` committed something.
fn serves_stale(cluster: &mut Cluster, writer: u64, reader: u64) -> bool {
    let write = cluster.propose(writer, &["newer"]);
    cluster.settle();
    let read = cluster.lease_read(reader);
    let committed = matches!(cluster.write_outcome(writer, write), Some(WriteOutcome::Committed { .. }));
    committed && cluster.is_served(reader, read)
}

#[test]
fn a_read_does_not_wait_for_those_who_left_meanwhile() {
    let mut cluster = Cluster::led(2);
    cluster.beat(1, 2);
    cluster.set_voters(1, &[1]);
    cluster.run_until_joint(1);
    let is_ack = |message: &Message| matches!(message.body, Body::AppendEntriesReply { .. });
    let acks = cluster.settle_but(|message| message.to == n(1) && is_ack(message));
    assert!(cluster.servers[&1].node.membership().is_joint());
    // The read waits for a round that 2 never hears; what 2 said before makes 1 the only voter.
    let tickets = cluster.read(1);
    cluster.cut = vec![2];
    cluster.wire.clear();
    acks.into_iter().for_each(|ack| cluster.step(1, Event::Receive(ack)));
    assert_eq!((cluster.voters(1), cluster.servers[&1].node.membership().is_joint()), (vec![1], false));
    cluster.run_ms(1_000);
    assert_eq!(cluster.role(1), RoleKind::Leader);
    assert!(cluster.is_served(1, tickets));
}

#[test]
fn a_read_that_has_its_index_ends_also_at_a_member_that_is_cut_off() {
    let mut cluster = Cluster::led(3);
    cluster.beat(1, 1);
    let entries_to_3 = |message: &Message| {
        let full = matches!(&message.body, Body::AppendEntries { entries, .. } if !entries.is_empty());
        message.to == n(3) && full
    };
    let write = cluster.propose(1, &["x"]);
    cluster.settle_but(entries_to_3);
    assert!(cluster.write_outcome(1, write).is_some());
    let tickets = cluster.read(3);
    cluster.settle_but(entries_to_3);
    cluster.cut = vec![3];
    cluster.run_ms(10_000);
    assert!(!cluster.is_served(3, tickets), "it never got the entry");
    assert_eq!(cluster.servers[&3].read_outcomes().len(), 1);
}

#[test]
fn a_new_voter_that_does_not_know_it_yet_keeps_its_promise_across_a_restart() {
    let mut cluster = Cluster::with(2, leases);
    cluster.bootstrap();
    cluster.elect(1);
    cluster.beat(1, 2);
    cluster.join(3);
    cluster.set_voters(1, &[1, 2, 3]);
    // 3's disk is slow from the joint entry on: it votes, and its disk does not know.
    cluster.run_until_joint(1);
    cluster.slow_disks = vec![3];
    cluster.settle();
    cluster.beat(1, 2);
    assert_eq!((cluster.voters(1), cluster.commit(1)), (vec![1, 2, 3], cluster.last(1)));
    // 3 alone keeps 1's lease alive; then it restarts, and 2 asks for its vote.
    cluster.cut_links = vec![(1, 2), (2, 1)];
    cluster.beat(1, 6);
    cluster.cut_links.extend([(1, 3), (3, 1)]);
    cluster.wire.clear();
    cluster.restart(3);
    cluster.slow_disks.clear();
    cluster.step(2, Event::Campaign { ticket: Ticket::new(0) });
    cluster.settle();
    assert!(!serves_stale(&mut cluster, 2, 1));
}

#[test]
fn a_voter_that_became_the_only_one_keeps_its_promise_to_the_leader_that_left() {
    let mut cluster = Cluster::with(2, leases);
    cluster.bootstrap();
    cluster.elect(2);
    cluster.beat(2, 2);
    cluster.set_voters(2, &[1]);
    cluster.run_until(5_000, |cluster| {
        let membership = cluster.servers[&1].node.membership();
        membership.voters.len() == 1 && !membership.is_joint()
    });
    // 1's answer confirms the round, and says nothing yet of C_new.
    let replies = cluster.intercept(|message| message.to == n(2));
    cluster.wire.clear();
    for reply in replies {
        if let Body::AppendEntriesReply { result: Ok(index), round } = reply.body {
            let body = Body::AppendEntriesReply { result: Ok(index.prev()), round };
            cluster.step(2, Event::Receive(message(1, 2, reply.term.get(), body)));
        }
    }
    cluster.wire.clear();
    cluster.restart(1);
    cluster.cut_links = vec![(1, 2), (2, 1)];
    cluster.time_out(1);
    cluster.settle();
    assert!(!serves_stale(&mut cluster, 1, 2));
}
