//! §5.4: who may be elected, and what is committed.

use raft_core::{
    Body, Config, Entries, Event, HardState, Instant, Message, Notice, RoleKind, Term, Ticket, Violation,
};

use super::support::{Cluster, Server, append, at, commands, id, log, message, n, request_vote};

#[test]
fn a_vote_needs_an_up_to_date_log_term_first_then_index() {
    for (last, granted) in [(id(3, 9), false), (id(4, 2), false), (id(4, 3), true), (id(5, 2), true)] {
        let mut cluster = Cluster::veteran(3, 5, &[1, 4, 4]);
        cluster.step(1, Event::Receive(message(2, 1, 6, request_vote(last))));
        assert_eq!(cluster.said(), [Body::RequestVoteReply { granted }], "{last}");
    }
}

#[test]
fn commit_is_clamped_to_what_was_verified() {
    // Entries 2 and 3 are of a leader that lost; the new one has others there (S1, TRAPS 16 and 17).
    let mut cluster = Cluster::veteran(3, 2, &[1, 2, 2]);
    cluster.step(1, Event::Receive(message(2, 1, 3, append(id(1, 1), Entries::empty(), 3, 1))));
    assert_eq!(cluster.commit(1), 1);
    cluster.step(1, Event::Receive(message(2, 1, 3, append(id(3, 3), Entries::empty(), 3, 1))));
    assert_eq!(cluster.commit(1), 1);
}

#[test]
fn a_committed_entry_is_never_replaced() {
    let mut cluster = Cluster::led(3);
    cluster.propose(1, &["a"]);
    cluster.settle();
    cluster.time_out(1);
    cluster.settle();
    cluster.pass_ms(1_000);
    let forged = append(id(2, 2), commands(id(9, 3), &["x"]), 3, 1);
    cluster.step(2, Event::Receive(message(3, 2, 9, forged)));
    assert_eq!(cluster.servers[&2].node.term_at(at(3)), Some(Term::new(2)));
    let kind = Violation::CommittedEntryChanged(at(3));
    assert!(cluster.servers[&2].notices.contains(&Notice::Violation { peer: n(3), kind }));
}

#[test]
fn figure_8_an_earlier_term_s_entry_is_not_committed_by_counting() {
    // S1 leads term 4 with entry 2@2; it is on a majority, but nothing of term 4 is.
    let mut cluster = Cluster::pristine(5);
    let logs: [&[u64]; 5] = [&[1, 2], &[1, 2], &[1, 1], &[1, 1], &[1, 3]];
    for (server, terms) in (1..).zip(logs) {
        let hard_state = HardState { term: Term::new(3), voted_for: None };
        let server_state = Server::new(Config::new(n(server)), hard_state, log(5, terms), Instant::ZERO);
        cluster.servers.insert(server, server_state);
    }
    cluster.cut = vec![5];
    cluster.elect_until_replicated(1);
}

impl Cluster {
    fn elect_until_replicated(&mut self, server: u64) {
        self.pass_ms(1_000);
        self.step(server, Event::Campaign { ticket: Ticket::new(0) });
        // Let only probes and replicated entries through that stop short of the new term's no-op.
        for _ in 0..200 {
            let Some(message) = self.wire.pop_front() else { break };
            let short = match message.body {
                Body::AppendEntries { prev, ref entries, commit, round } => {
                    let entries = entries.slice(at(1), at(2));
                    Message { body: append(prev, entries, commit.get(), round), ..message }
                }
                _ => message,
            };
            self.deliver(short);
        }
        assert_eq!(self.role(server), RoleKind::Leader);
        let status = self.servers[&server].node.status();
        let on_two = self.servers.values().filter(|server| server.terms().get(1) == Some(&2)).count();
        assert!(on_two >= 3, "entry 2@2 is on a majority: {on_two}");
        assert_eq!(status.commit, at(1), "but it is of an earlier term");
        self.time_out(server);
        self.settle();
        assert_eq!(self.commit(server), 3, "committed with the no-op of the current term");
    }
}
