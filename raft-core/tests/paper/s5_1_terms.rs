//! §5.1: terms are a logical clock; stale senders learn of the current one, and nonsense changes nothing.

use raft_core::{Body, Conflict, Entries, Event, HardState, RoleKind, Term, Ticket};

use super::support::{Cluster, append, ask, at, commands, id, message, n, request_vote};

#[test]
fn a_later_term_makes_anyone_a_follower() {
    let mut cluster = Cluster::led(3);
    let conflict = Conflict { prev: at(1), hint: id(0, 0) };
    let reply = Body::AppendEntriesReply { result: Err(conflict), round: 1 };
    cluster.step(1, Event::Receive(message(2, 1, 7, reply)));
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Follower, 7));
}

#[test]
fn a_leader_of_an_earlier_term_is_answered_so_that_it_steps_down() {
    let mut cluster = Cluster::veteran(3, 4, &[1, 4]);
    cluster.step(1, Event::Receive(message(2, 1, 3, append(id(1, 1), Entries::empty(), 1, 5))));
    let answer = cluster.wire.pop_front().expect("an answer");
    assert_eq!((answer.to, answer.term), (n(2), Term::new(4)));
    assert_eq!(cluster.servers[&1].node.status().leader, None);
}

#[test]
fn what_waited_to_be_said_in_an_earlier_term_is_never_said() {
    let mut cluster = Cluster::veteran(3, 4, &[1, 4]);
    cluster.slow_disks = vec![1];
    cluster.step(1, ask(2, 5, id(4, 2)));
    cluster.step(1, ask(3, 6, id(4, 2)));
    cluster.sync(1);
    let said: Vec<_> = cluster.wire.iter().map(|message| (message.to, message.term.get())).collect();
    assert_eq!(said, [(n(3), 6)], "the grant of term 5 is of no use to anybody");
}

#[test]
fn a_candidacy_that_a_later_term_ended_sends_no_requests() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![2];
    cluster.pass_ms(1_000);
    cluster.step(2, Event::Campaign { ticket: Ticket::new(0) });
    cluster.settle();
    assert_eq!((cluster.role(2), cluster.term(2)), (RoleKind::Candidate, 3));
    cluster.step(2, Event::Receive(message(3, 2, 4, request_vote(id(2, 2)))));
    cluster.sync(2);
    assert!(cluster.wire.iter().all(|message| message.term == Term::new(4)), "{:?}", cluster.wire);
    assert_eq!(cluster.servers[&2].disk.hard_state, HardState { term: Term::new(4), voted_for: Some(n(3)) });
}

#[test]
fn nonsense_is_ignored_and_counted() {
    let mut cluster = Cluster::led(3);
    let before = cluster.servers[&2].node.status();
    let limit = 1 << 62;
    let nonsense = [
        message(1, 3, 2, append(id(2, 2), Entries::empty(), 2, 1)),
        message(2, 2, 2, append(id(2, 2), Entries::empty(), 2, 1)),
        message(1, 2, limit, Body::RequestVoteReply { granted: true }),
        message(1, 2, 1, append(id(1, 1), Entries::empty(), 1, 1)),
        message(1, 2, 2, append(id(3, 2), Entries::empty(), 2, 1)),
        message(1, 2, 2, append(id(2, limit), Entries::empty(), 2, 1)),
        message(1, 2, 2, append(id(2, 2), commands(id(2, 4), &["gap"]), 2, 1)),
        message(1, 2, 2, append(id(2, 2), commands(id(9, 3), &["later term"]), 2, 1)),
        message(1, 2, 9, request_vote(id(9, 3))),
        message(1, 2, 9, Body::PreVote { proposed: Term::new(12), last: id(2, 3) }),
    ];
    let count = nonsense.len() as u64;
    for message in nonsense {
        cluster.step(2, Event::Receive(message));
    }
    let after = cluster.servers[&2].node.status();
    assert_eq!(after.counters.misaddressed + after.counters.absurd, count);
    let counters = before.counters;
    assert_eq!(raft_core::Status { counters, ..after }, before, "nothing else changed");
    let ahead = Body::AppendEntriesReply { result: Ok(at(99)), round: 1 };
    cluster.step(1, Event::Receive(message(2, 1, 2, ahead)));
    assert_eq!((cluster.commit(1), cluster.servers[&1].node.status().counters.absurd), (2, 1));
}
