//! Thesis §6.4: reads at followers and learners, which ask their leader how far they must be.

use raft_core::{Body, Event, LogIndex, Message, ReadOutcome, RoleKind};

use super::support::{Cluster, at, n};

fn is_question(message: &Message) -> bool {
    matches!(message.body, Body::ReadIndex { .. })
}

fn is_answer(message: &Message) -> bool {
    matches!(message.body, Body::ReadIndexReply { .. })
}

#[test]
fn a_follower_serves_what_its_leader_vouches_for() {
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &["a"]);
    assert_eq!(cluster.commit(2), 2, "it does not know yet that a is committed");
    let tickets = cluster.read(2);
    assert!(!cluster.is_served(2, tickets));
    cluster.settle();
    cluster.beat(1, 1);
    assert!(cluster.is_served(2, tickets));
    assert_eq!(cluster.servers[&2].served_after, [at(3)], "a was answered before the read began");
    assert_eq!(cluster.servers[&2].commands(), ["a"]);
}

#[test]
fn a_learner_serves_reads_too() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.set_members(1, &[1, 2, 3], &[4]);
    cluster.run_ms(300);
    cluster.commit_each(1, &["a"]);
    let tickets = cluster.read(4);
    cluster.settle();
    cluster.beat(1, 1);
    assert!(cluster.is_served(4, tickets));
    assert_eq!(cluster.servers[&4].commands(), ["a"]);
}

#[test]
fn a_leader_that_was_replaced_vouches_for_nothing() {
    let mut cluster = Cluster::led(3);
    // 1 and 2 hear each other, 1 hears nobody else; 3 is elected by 2 before 2 reads at 1's word.
    cluster.cut = vec![1];
    cluster.elect(3);
    cluster.commit_each(3, &["newer"]);
    cluster.cut.clear();
    let question = Body::ReadIndex { id: raft_core::QuestionId { incarnation: 1, seq: 1 } };
    cluster.step(1, Event::Receive(super::support::message(2, 1, 2, question)));
    let answers = cluster.intercept(|message| is_answer(message) && message.from == n(1));
    let vouched = |message: &Message| matches!(message.body, Body::ReadIndexReply { index: Some(_), .. });
    assert!(!answers.iter().any(vouched), "{answers:?}");
    cluster.settle();
    assert!(!cluster.wire.iter().any(vouched));
}

#[test]
fn many_reads_are_one_question() {
    let mut cluster = Cluster::led(3);
    let first = cluster.read(2);
    let more: Vec<_> = (0..10).map(|_| cluster.read(2)).collect();
    let asked = cluster.wire.iter().filter(|message| is_question(message)).count();
    assert!(asked <= 2, "{asked} questions");
    cluster.settle();
    cluster.beat(1, 2);
    assert!(cluster.is_served(2, first));
    assert!(more.iter().all(|tickets| cluster.is_served(2, *tickets)));
}

#[test]
fn a_question_or_an_answer_that_is_lost_is_asked_again() {
    for lost in [is_question, is_answer] {
        let mut cluster = Cluster::led(3);
        let tickets = cluster.read(2);
        let gone = cluster.settle_but(lost);
        assert_eq!(gone.len(), 1);
        assert!(!cluster.is_served(2, tickets));
        cluster.run_ms(1_000);
        assert!(cluster.is_served(2, tickets));
        // The lost one comes after all.
        gone.into_iter().for_each(|message| cluster.deliver(message));
        cluster.settle();
        assert_eq!(cluster.servers[&2].served.len(), 1);
    }
}

#[test]
fn an_answer_to_an_earlier_life_answers_nothing() {
    let mut cluster = Cluster::led(3);
    cluster.read(2);
    let answers = cluster.settle_but(is_answer);
    assert_eq!(answers.len(), 1);
    cluster.commit_each(1, &["newer"]);
    cluster.restart(2);
    cluster.beat(1, 1);
    let tickets = cluster.read(2);
    cluster.wire.clear();
    answers.into_iter().for_each(|message| cluster.deliver(message));
    assert!(!cluster.is_served(2, tickets), "that answer is older than the read");
    assert!(cluster.servers[&2].served.is_empty());
}

#[test]
fn an_answer_to_an_earlier_question_does_not_answer_a_later_one() {
    let mut cluster = Cluster::led(3);
    let first = cluster.read(2);
    let answers = cluster.settle_but(is_answer);
    cluster.commit_each(1, &["newer"]);
    let later = cluster.read(2);
    cluster.wire.clear();
    answers.into_iter().for_each(|message| cluster.deliver(message));
    assert!(cluster.is_served(2, first));
    assert!(!cluster.is_served(2, later));
    cluster.run_ms(1_000);
    assert!(cluster.is_served(2, later));
    assert_eq!(cluster.servers[&2].served_after.last(), Some(&at(3)));
}

#[test]
fn a_read_waits_until_its_own_state_machine_is_there() {
    let mut cluster = Cluster::with(3, |config| config.apply_bytes_max = 1);
    cluster.bootstrap();
    cluster.elect(1);
    cluster.slow_machines = vec![2];
    cluster.commit_each(1, &["a", "b", "c"]);
    cluster.beat(1, 1);
    let tickets = cluster.read(2);
    cluster.settle();
    cluster.beat(1, 2);
    assert!(!cluster.is_served(2, tickets), "{}", cluster.servers[&2].applied_index);
    for _ in 0..5 {
        cluster.report_applied(2);
    }
    assert!(cluster.is_served(2, tickets));
    assert_eq!(cluster.servers[&2].served_after, [at(5)]);
}

#[test]
fn without_a_leader_there_is_nobody_to_ask() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2];
    let pending = cluster.read(2);
    cluster.run_ms(2_000);
    assert_ne!(cluster.role(2), RoleKind::Leader);
    let none = ReadOutcome::NotLeader { leader: None };
    assert_eq!(cluster.servers[&2].read_outcomes(), [(pending, none.clone())]);
    let later = cluster.read(2);
    assert_eq!(cluster.servers[&2].read_outcomes()[1], (later, none));
}

#[test]
fn a_read_that_is_forgotten_is_unknown_now_and_not_served_later() {
    let mut cluster = Cluster::led(3);
    let tickets = cluster.read(2);
    cluster.step(2, Event::Forget { tickets });
    assert_eq!(cluster.servers[&2].read_outcomes(), [(tickets, ReadOutcome::Unknown)]);
    cluster.run_ms(500);
    assert!(cluster.servers[&2].served.is_empty());
}

#[test]
fn at_most_so_many_reads_wait_at_a_follower() {
    let mut cluster = Cluster::with(3, |config| config.pending_reads_max = 2);
    cluster.bootstrap();
    cluster.elect(1);
    let kept = [cluster.read(2), cluster.read(2)];
    let busy = cluster.read(2);
    assert_eq!(cluster.servers[&2].read_outcomes(), [(busy, ReadOutcome::Busy)]);
    cluster.run_ms(500);
    assert!(kept.iter().all(|tickets| cluster.is_served(2, *tickets)));
    assert!(cluster.servers[&2].served_after.iter().all(|after| *after > LogIndex::ZERO));
}
