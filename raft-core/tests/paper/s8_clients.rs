//! §8: every proposal has exactly one outcome.

use raft_core::{Event, Ticket, WriteOutcome, WriteRefusal};

use super::support::{Cluster, n};

#[test]
fn every_ticket_gets_one_outcome_across_leaderships() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![1];
    let lost = cluster.propose(1, &["lost", "too"]);
    cluster.pass_ms(1_000);
    cluster.step(2, Event::Campaign { ticket: Ticket::new(0) });
    cluster.settle();
    cluster.propose(2, &["won"]);
    cluster.settle();
    assert_eq!(cluster.servers[&1].write_outcomes(), [], "truncation has not even happened");
    cluster.cut.clear();
    for _ in 0..3 {
        cluster.time_out(2);
        cluster.settle();
    }
    assert_eq!(cluster.servers[&1].write_outcomes(), [(lost.first.get(), 2, WriteOutcome::Superseded)]);
}

#[test]
fn proposals_elsewhere_or_too_large_or_too_many_are_answered_at_once() {
    let mut cluster = Cluster::with(3, |config| {
        config.command_bytes_max = 8;
        config.uncommitted_bytes_max = 100;
    });
    cluster.bootstrap();
    cluster.elect(1);
    cluster.propose(2, &["x"]);
    assert_eq!(cluster.servers[&2].write_outcomes()[0].2, WriteOutcome::NotLeader { leader: Some(n(1)) });
    cluster.propose(1, &["123456789"]);
    let too_large = WriteRefusal::TooLarge { bytes: 9, bytes_max: 8 };
    assert_eq!(cluster.servers[&1].write_outcomes()[0].2, WriteOutcome::Refused(too_large));
    cluster.cut = vec![2, 3];
    cluster.propose(1, &["a"]);
    cluster.propose(1, &["b"]);
    assert_eq!(cluster.servers[&1].node.write_room_bytes(), 0);
    cluster.propose(1, &["c"]);
    assert_eq!(cluster.servers[&1].write_outcomes()[1].2, WriteOutcome::Busy);
    cluster.cut.clear();
    for _ in 0..3 {
        cluster.time_out(1);
        cluster.settle();
    }
    assert_eq!(cluster.servers[&1].node.write_room_bytes(), 100, "the quota came back");
}

#[test]
fn a_forgotten_proposal_is_unknown_now_and_nothing_later() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2, 3];
    let tickets = cluster.propose(1, &["a"]);
    cluster.step(1, Event::Forget { tickets });
    cluster.cut.clear();
    cluster.time_out(1);
    cluster.settle();
    assert_eq!(cluster.commit(1), 3);
    assert_eq!(cluster.servers[&1].write_outcomes(), [(tickets.first.get(), 1, WriteOutcome::Unknown)]);
}
