//! Linearizable reads (thesis §6.4): what a read waits for, and where it ends.

mod support;

use raft_core::{Event, ReadOutcome, Ticket};
use support::{Cluster, at, n};

#[test]
fn a_read_waits_for_everything_committed_when_it_arrived_not_for_the_term_s_first_entry_alone() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["a"]);
    cluster.settle();
    assert_eq!((cluster.commit(1), cluster.servers[&1].applied_index), (3, at(2)), "the others committed it");
    let tickets = cluster.read(1);
    cluster.settle();
    assert_eq!(cluster.servers[&1].served, [], "the writer of 3 was answered before this read began");
    cluster.sync(1);
    cluster.settle();
    assert_eq!(cluster.servers[&1].served, [tickets]);
    assert_eq!(cluster.servers[&1].served_after, [at(3)]);
}

#[test]
fn a_read_waits_until_the_entries_are_handed_to_the_state_machine() {
    let mut cluster = Cluster::with(3, |config| config.apply_bytes_max = 1);
    cluster.bootstrap();
    cluster.elect(1);
    cluster.slow_machines = vec![1];
    cluster.propose(1, &["a"]);
    cluster.settle();
    cluster.propose(1, &["b"]);
    cluster.settle();
    assert_eq!((cluster.commit(1), cluster.servers[&1].applied_index), (4, at(3)), "the machine is busy");
    let tickets = cluster.read(1);
    cluster.settle();
    assert_eq!(cluster.servers[&1].served, [], "committed is not applied");
    cluster.report_applied(1);
    assert_eq!(cluster.servers[&1].served, [tickets], "4 was handed out, and the lane keeps the order");
    assert_eq!(cluster.servers[&1].served_after, [at(4)]);
}

#[test]
fn a_read_elsewhere_than_at_the_leader_is_told_where_the_leader_is() {
    let mut cluster = Cluster::led(3);
    let tickets = cluster.read(2);
    let not_leader = |leader| ReadOutcome::NotLeader { leader };
    assert_eq!(cluster.servers[&2].read_outcomes(), [(tickets, not_leader(Some(n(1))))]);
    assert_eq!(cluster.servers[&2].served, []);
    // Nobody leads, as far as a candidate knows.
    cluster.pass_ms(1_000);
    cluster.cut = vec![2];
    cluster.step(2, Event::Campaign { ticket: Ticket::new(0) });
    let later = cluster.read(2);
    assert_eq!(cluster.servers[&2].read_outcomes()[1], (later, not_leader(None)));
}

#[test]
fn a_leader_that_another_replaces_names_it_to_those_who_read() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![1];
    let tickets = cluster.read(1);
    cluster.elect(2);
    cluster.cut.clear();
    cluster.time_out(2);
    cluster.settle();
    let outcome = ReadOutcome::NotLeader { leader: Some(n(2)) };
    assert_eq!(cluster.servers[&1].read_outcomes(), [(tickets, outcome)]);
    assert_eq!(cluster.servers[&1].served, []);
}

#[test]
fn a_forgotten_read_is_unknown_now_and_not_served_later() {
    let mut cluster = Cluster::led(3);
    let forgotten = cluster.read(1);
    let kept = cluster.read(1);
    cluster.step(1, Event::Forget { tickets: forgotten });
    assert_eq!(cluster.servers[&1].read_outcomes(), [(forgotten, ReadOutcome::Unknown)]);
    cluster.settle();
    cluster.time_out(1);
    cluster.settle();
    assert_eq!(cluster.servers[&1].served, [kept]);
    cluster.step(1, Event::Forget { tickets: kept });
    assert_eq!(cluster.servers[&1].read_outcomes().len(), 1, "it was answered already");
}
