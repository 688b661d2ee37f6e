//! Thesis §6.4: linearizable reads by a round of messages: what a read waits for, and where it ends.

use raft_core::{Body, Event, ReadOutcome, Response, RoleKind};

use super::support::{Cluster, at, message, n};

#[test]
fn a_read_needs_a_round_that_began_after_it() {
    let mut cluster = Cluster::led(3);
    cluster.time_out(1);
    let before = cluster.intercept(|_| true);
    let tickets = cluster.read(1);
    let after = cluster.intercept(|_| true);
    before.into_iter().for_each(|message| cluster.deliver(message));
    cluster.settle();
    assert_eq!(cluster.servers[&1].served, [], "answers to messages built before the read prove nothing");
    after.into_iter().for_each(|message| cluster.deliver(message));
    cluster.settle();
    assert_eq!(cluster.servers[&1].served, [tickets]);
}

#[test]
fn a_read_waits_for_the_first_commit_of_the_term_also_alone() {
    let mut cluster = Cluster::pristine(1);
    cluster.bootstrap();
    cluster.slow_disks = vec![1];
    cluster.wake(1);
    let vote = cluster.server(1).unsynced.pop_front().expect("its own vote");
    cluster.server(1).disk.hard_state = vote.hard_state.expect("a vote");
    cluster.step(1, Event::Persisted(vote.id));
    assert_eq!((cluster.role(1), cluster.commit(1)), (RoleKind::Leader, 1));
    let tickets = cluster.read(1);
    assert_eq!(cluster.servers[&1].served, []);
    cluster.sync(1);
    assert_eq!(cluster.servers[&1].served, [tickets]);
}

#[test]
fn a_cut_off_leader_serves_nothing_and_says_so() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![1];
    let tickets = cluster.read(1);
    cluster.read(2);
    let refused = |leader| Response::Read { tickets, outcome: ReadOutcome::NotLeader { leader } };
    for _ in 0..20 {
        if cluster.role(1) == RoleKind::Leader {
            cluster.time_out(1);
        }
    }
    assert_eq!(cluster.servers[&1].served, []);
    assert!(cluster.servers[&1].responses.contains(&refused(None)));
}

#[test]
fn an_answer_to_an_earlier_leadership_confirms_nothing_in_a_later_one() {
    // n1 led term 2; a message of that time reaches n3 when n1 leads term 3 and n3 knows it (found by the simulator).
    let mut cluster = Cluster::led(3);
    cluster.time_out(1);
    let late = cluster.intercept(|message| message.to == n(3));
    cluster.settle();
    let later_term = Body::RequestVoteReply { granted: false };
    cluster.step(1, Event::Receive(message(2, 1, 3, later_term)));
    cluster.elect(1);
    cluster.cut = vec![2];
    let tickets = cluster.read(1);
    cluster.wire.clear();
    late.into_iter().for_each(|message| cluster.deliver(message));
    cluster.settle();
    assert_eq!(cluster.servers[&1].served, [], "{tickets:?}: no round of term {} was heard", cluster.term(1));
    assert_eq!(cluster.servers[&1].node.status().counters.absurd, 0);
}

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
fn a_read_elsewhere_than_at_the_leader_is_vouched_for_by_the_leader() {
    let mut cluster = Cluster::led(3);
    let tickets = cluster.read(2);
    cluster.settle();
    assert_eq!(cluster.servers[&2].served, [tickets], "the leader vouched for it");
    // Nobody leads, as far as a candidate knows.
    cluster.pass_ms(1_000);
    cluster.cut = vec![2];
    cluster.campaign(2);
    let later = cluster.read(2);
    let nobody = ReadOutcome::NotLeader { leader: None };
    assert_eq!(cluster.servers[&2].read_outcomes(), [(later, nobody)]);
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
