//! The rules of the paper, one test each, on a cluster by function calls. In the order of its sections.

mod support;

use raft_core::{
    AdminOutcome, AdminRefusal, Body, Config, Conflict, Entries, Event, HardState, Instant, Notice,
    ReadOutcome, ReplicationState, Response, RoleKind, Term, Ticket, Violation, WriteOutcome, WriteRefusal,
};
use support::{Cluster, Server, append, at, commands, id, log, members, message, n};

fn write_outcomes(server: &Server) -> Vec<(u64, u32, WriteOutcome)> {
    let writes = server.responses.iter().filter_map(|response| match response {
        Response::Write { tickets, outcome } => Some((tickets.first.get(), tickets.count, outcome.clone())),
        _ => None,
    });
    writes.collect()
}

fn admin_outcomes(server: &Server) -> Vec<AdminOutcome> {
    let admin = server.responses.iter().filter_map(|response| match response {
        Response::Admin { outcome, .. } => Some(outcome.clone()),
        _ => None,
    });
    admin.collect()
}

/// A single server in the middle of a life: hard state and log as given, cluster of `size`.
fn veteran(size: u64, term: u64, voted_for: Option<u64>, terms: &[u64]) -> Cluster {
    let mut cluster = Cluster::pristine(1);
    let hard_state = HardState { term: Term::new(term), voted_for: voted_for.map(n) };
    let server = Server::new(Config::new(n(1)), hard_state, log(size, terms), Instant::ZERO);
    cluster.servers.insert(1, server);
    cluster.poll(1);
    cluster
}

fn replies(cluster: &mut Cluster) -> Vec<Body> {
    cluster.wire.drain(..).map(|message| message.body).collect()
}

// --- formation ---------------------------------------------------------------------------------------------

#[test]
fn bootstrap_on_all_nodes_in_parallel_gives_one_cluster() {
    let mut cluster = Cluster::pristine(3);
    cluster.bootstrap();
    for server in cluster.servers.values() {
        assert_eq!(admin_outcomes(server), [AdminOutcome::Done]);
        assert_eq!(server.hard_state.term, Term::new(1));
        assert_eq!(server.node.status().commit, at(1));
    }
    cluster.time_out(2);
    cluster.settle();
    assert_eq!((cluster.role(2), cluster.term(2)), (RoleKind::Leader, 2));
}

#[test]
fn bootstrap_on_one_node_reaches_the_others_by_replication() {
    let mut cluster = Cluster::pristine(3);
    cluster.step(1, Event::Bootstrap { ticket: Ticket::new(0), members: members(1..=3) });
    cluster.settle();
    cluster.elect(1);
    cluster.time_out(1);
    cluster.settle();
    for id in 1..=3 {
        assert_eq!((cluster.commit(id), cluster.servers[&id].node.membership().voters.len()), (2, 3));
    }
}

#[test]
fn a_single_node_leads_at_once_and_again_after_a_restart() {
    let mut cluster = Cluster::pristine(1);
    cluster.bootstrap();
    cluster.wake(1);
    assert_eq!((cluster.role(1), cluster.commit(1)), (RoleKind::Leader, 2));
    let now = cluster.now;
    cluster.server(1).restart(now);
    cluster.wake(1);
    assert_eq!((cluster.role(1), cluster.term(1), cluster.commit(1)), (RoleKind::Leader, 3, 3));
}

#[test]
fn a_second_bootstrap_succeeds_with_the_same_set_only() {
    let mut cluster = Cluster::led(3);
    for (members, outcome) in [
        (members(1..=3), AdminOutcome::Done),
        (members(1..=4), AdminOutcome::Refused(AdminRefusal::NotPristine)),
        (members(2..=3), AdminOutcome::Refused(AdminRefusal::NotAMember)),
    ] {
        cluster.server(1).responses.clear();
        cluster.step(1, Event::Bootstrap { ticket: Ticket::new(9), members });
        assert_eq!(admin_outcomes(&cluster.servers[&1]), [outcome]);
    }
}

// --- §5.1, §5.2: terms and elections -----------------------------------------------------------------------

#[test]
fn a_vote_leaves_only_when_term_and_vote_are_durable() {
    let mut cluster = veteran(3, 4, None, &[1, 4]);
    cluster.slow_disks = vec![1];
    cluster.step(1, Event::Receive(message(2, 1, 5, Body::RequestVote { last: id(4, 2) })));
    assert_eq!(replies(&mut cluster), []);
    cluster.sync(1);
    assert_eq!(replies(&mut cluster), [Body::RequestVoteReply { granted: true }]);
    assert_eq!(cluster.servers[&1].hard_state, HardState { term: Term::new(5), voted_for: Some(n(2)) });
}

#[test]
fn one_vote_in_a_term_also_across_a_restart() {
    let mut cluster = veteran(3, 4, None, &[1, 4]);
    let ask = |from| Event::Receive(message(from, 1, 5, Body::RequestVote { last: id(4, 2) }));
    cluster.step(1, ask(2));
    cluster.step(1, ask(3));
    cluster.server(1).restart(Instant::ZERO);
    cluster.step(1, ask(3));
    cluster.step(1, ask(2));
    let granted = |granted| Body::RequestVoteReply { granted };
    assert_eq!(replies(&mut cluster), [granted(true), granted(false), granted(false), granted(true)]);
}

#[test]
fn requests_of_a_candidate_leave_only_when_its_own_vote_is_durable() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![2];
    cluster.pass_ms(1_000);
    cluster.step(2, Event::Campaign { ticket: Ticket::new(0) });
    cluster.settle();
    assert_eq!((cluster.role(2), cluster.term(2)), (RoleKind::Candidate, 3));
    assert_eq!(cluster.term(3), 2, "no request has arrived");
    cluster.sync(2);
    cluster.settle();
    assert_eq!((cluster.role(2), cluster.term(3)), (RoleKind::Leader, 3));
}

#[test]
fn replies_of_another_term_and_duplicates_elect_nobody() {
    let mut cluster = veteran(5, 4, None, &[1, 4]);
    cluster.step(1, Event::Campaign { ticket: Ticket::new(0) });
    let pre_vote = |from, proposed| {
        let body = Body::PreVoteReply { proposed: Term::new(proposed), granted: true };
        Event::Receive(message(from, 1, 4, body))
    };
    for event in [pre_vote(2, 5), pre_vote(2, 5), pre_vote(3, 4), pre_vote(9, 5)] {
        cluster.step(1, event);
    }
    assert_eq!(
        cluster.role(1),
        RoleKind::PreCandidate,
        "one grant, its duplicate, a stale one, a stranger's"
    );
    cluster.step(1, pre_vote(3, 5));
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Candidate, 5));
    let vote = |from, term| Event::Receive(message(from, 1, term, Body::RequestVoteReply { granted: true }));
    for event in [vote(2, 5), vote(2, 5), vote(3, 4), vote(9, 5), pre_vote(4, 5)] {
        cluster.step(1, event);
    }
    assert_eq!(cluster.role(1), RoleKind::Candidate);
    cluster.step(1, vote(3, 5));
    assert_eq!(cluster.role(1), RoleKind::Leader);
}

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
    let mut cluster = veteran(3, 4, None, &[1, 4]);
    cluster.step(1, Event::Receive(message(2, 1, 3, append(id(1, 1), Entries::empty(), 1, 5))));
    let answer = cluster.wire.pop_front().expect("an answer");
    assert_eq!((answer.to, answer.term), (n(2), Term::new(4)));
    assert_eq!(cluster.servers[&1].node.status().leader, None);
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
fn nobody_else_is_obeyed_in_the_term_of_a_known_leader() {
    let mut cluster = Cluster::led(3);
    let rival = |to| Event::Receive(message(3, to, 2, append(id(1, 1), commands(id(2, 2), &["x"]), 2, 1)));
    for server in [1, 2] {
        cluster.step(server, rival(server));
        let kind = Violation::SecondLeader(Term::new(2));
        assert!(cluster.servers[&server].notices.contains(&Notice::Violation { peer: n(3), kind }));
        assert_eq!(cluster.servers[&server].node.status().leader, Some(n(1)));
    }
    assert_eq!(cluster.role(1), RoleKind::Leader);
}

// --- §5.4.1, thesis §4.2.3 and §9.6: who may be elected ------------------------------------------------------

#[test]
fn a_vote_needs_an_up_to_date_log_term_first_then_index() {
    for (last, granted) in [(id(3, 9), false), (id(4, 2), false), (id(4, 3), true), (id(5, 2), true)] {
        let mut cluster = veteran(3, 5, None, &[1, 4, 4]);
        cluster.step(1, Event::Receive(message(2, 1, 6, Body::RequestVote { last })));
        assert_eq!(replies(&mut cluster), [Body::RequestVoteReply { granted }], "{last}");
    }
}

#[test]
fn a_pre_vote_changes_nothing_and_follows_the_same_rule() {
    for (last, granted) in [(id(3, 9), false), (id(4, 3), true)] {
        let mut cluster = veteran(3, 5, None, &[1, 4, 4]);
        let deadline = cluster.servers[&1].node.deadline();
        let ask = Body::PreVote { proposed: Term::new(8), last };
        cluster.step(1, Event::Receive(message(2, 1, 7, ask)));
        assert_eq!(replies(&mut cluster), [Body::PreVoteReply { proposed: Term::new(8), granted }]);
        let status = cluster.servers[&1].node.status();
        assert_eq!((status.term, status.voted_for), (Term::new(5), None));
        assert_eq!(cluster.servers[&1].node.deadline(), deadline, "no timer is reset (TRAP 9)");
    }
}

#[test]
fn a_live_leader_makes_its_followers_refuse_others_term_included() {
    let mut cluster = Cluster::led(3);
    for server in [1, 2] {
        cluster.step(server, Event::Receive(message(3, server, 9, Body::RequestVote { last: id(8, 9) })));
        let ask = Body::PreVote { proposed: Term::new(10), last: id(8, 9) };
        cluster.step(server, Event::Receive(message(3, server, 9, ask)));
        assert_eq!((cluster.term(server), cluster.servers[&server].node.status().counters.sticky), (2, 2));
    }
    assert_eq!(cluster.role(1), RoleKind::Leader);
}

#[test]
fn a_node_that_was_cut_off_comes_back_without_unseating_the_leader() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![3];
    for _ in 0..5 {
        cluster.time_out(3);
    }
    assert_eq!((cluster.role(3), cluster.term(3)), (RoleKind::PreCandidate, 2));
    for _ in 0..20 {
        cluster.time_out(1);
        cluster.settle();
    }
    cluster.cut.clear();
    cluster.step(3, Event::Wake);
    cluster.time_out(1);
    cluster.settle();
    assert_eq!(
        (cluster.role(1), cluster.role(3), cluster.term(3)),
        (RoleKind::Leader, RoleKind::Follower, 2)
    );
}

#[test]
fn a_leader_without_a_majority_steps_down() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2, 3];
    for _ in 0..20 {
        if cluster.role(1) == RoleKind::Leader {
            cluster.time_out(1);
        }
    }
    assert_eq!((cluster.role(1), cluster.term(1)), (RoleKind::Follower, 2));
    assert_eq!(cluster.servers[&1].node.status().counters.leases_lost, 1);
}

#[test]
fn a_leader_with_a_stalled_disk_steps_down_and_does_not_campaign() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["x"]);
    for _ in 0..20 {
        if cluster.role(1) == RoleKind::Leader {
            cluster.time_out(1);
            cluster.settle();
        }
    }
    assert_eq!(cluster.role(1), RoleKind::Follower);
    cluster.time_out(1);
    assert_eq!(cluster.role(1), RoleKind::Follower, "it could not keep a new term");
}

#[test]
fn a_paused_process_hears_its_mailbox_before_it_campaigns() {
    let mut cluster = Cluster::led(3);
    cluster.pass_ms(60_000);
    cluster.wake(2);
    assert_eq!(cluster.role(2), RoleKind::Follower);
    let deadline = cluster.servers[&2].node.deadline().expect("armed");
    assert_eq!(deadline.since(cluster.now), cluster.servers[&2].config.heartbeat_interval);
    cluster.time_out(2);
    assert_eq!(cluster.role(2), RoleKind::PreCandidate);
}

// --- §5.3: log replication -----------------------------------------------------------------------------------

#[test]
fn a_proposal_is_committed_and_applied_everywhere() {
    let mut cluster = Cluster::led(3);
    let tickets = cluster.propose(1, &["a", "b"]);
    cluster.settle();
    let committed = WriteOutcome::Committed { first: id(2, 3), applied_here: true };
    assert_eq!(write_outcomes(&cluster.servers[&1]), [(tickets.first.get(), 2, committed)]);
    cluster.time_out(1);
    cluster.settle();
    for server in cluster.servers.values() {
        assert_eq!(server.applied, [(id(2, 3), b"a".to_vec()), (id(2, 4), b"b".to_vec())]);
    }
}

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
    assert_eq!((cluster.commit(1), write_outcomes(&cluster.servers[&1])), (2, vec![]));
    cluster.sync(1);
    assert_eq!((cluster.commit(1), cluster.servers[&1].applied_index), (3, at(3)));
}

#[test]
fn an_append_that_does_not_fit_is_refused_with_the_term_to_go_back_to() {
    // Figure 7 (f): the follower's terms 2 and 3 are nobody's.
    let mut cluster = veteran(3, 7, None, &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3]);
    cluster.step(1, Event::Receive(message(2, 1, 8, append(id(6, 10), Entries::empty(), 1, 1))));
    let conflict =
        |prev, hint| Body::AppendEntriesReply { result: Err(Conflict { prev: at(prev), hint }), round: 1 };
    assert_eq!(replies(&mut cluster), [conflict(10, id(3, 10))]);
    cluster.step(1, Event::Receive(message(2, 1, 8, append(id(1, 4), Entries::empty(), 1, 1))));
    assert_eq!(replies(&mut cluster), [conflict(4, id(1, 3))], "a whole term is skipped");
}

#[test]
fn figure_7_every_follower_ends_with_the_leader_s_log() {
    let leader: &[u64] = &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for tail_bytes_max in [1, 1 << 20] {
        for follower in followers {
            let mut cluster = Cluster::pristine(3);
            for (server, terms) in [(1, leader), (2, follower), (3, leader)] {
                let term = if server == 1 { 7 } else { *terms.last().expect("not empty") };
                let hard_state = HardState { term: Term::new(term), voted_for: None };
                let config = Config { tail_bytes_max, ..Config::new(n(server)) };
                let server_state = Server::new(config, hard_state, log(3, terms), Instant::ZERO);
                cluster.servers.insert(server, server_state);
            }
            cluster.elect(1);
            cluster.time_out(1);
            cluster.settle();
            let mut expected = leader.to_vec();
            expected.push(8);
            for id in 1..=3 {
                assert_eq!(cluster.servers[&id].terms(), expected, "{follower:?}");
                assert_eq!(cluster.commit(id), 11);
            }
            assert_eq!(cluster.servers[&2].log, cluster.servers[&1].log);
        }
    }
}

#[test]
fn an_old_append_removes_nothing() {
    let mut cluster = Cluster::led(3);
    cluster.propose(1, &["a"]);
    let old = cluster.intercept(|message| message.to == n(2));
    old.iter().for_each(|message| cluster.deliver(message.clone()));
    cluster.propose(1, &["b"]);
    cluster.settle();
    assert_eq!(cluster.commit(1), 4);
    old.into_iter().for_each(|message| cluster.deliver(message));
    let heartbeat = append(id(1, 1), Entries::empty(), 2, 1);
    cluster.step(2, Event::Receive(message(1, 2, 2, heartbeat)));
    assert_eq!(cluster.servers[&2].node.status().last, id(2, 4));
}

#[test]
fn commit_is_clamped_to_what_was_verified() {
    // Entries 2 and 3 are of a leader that lost; the new one has others there (S1, TRAPS 16 and 17).
    let mut cluster = veteran(3, 2, None, &[1, 2, 2]);
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
fn a_window_that_was_lost_is_noticed_by_the_next_heartbeat() {
    let mut cluster = Cluster::with(3, |config| config.inflight_appends_max = 2);
    cluster.bootstrap();
    cluster.elect(1);
    cluster.cut = vec![3];
    for command in ["a", "b", "c", "d"] {
        cluster.propose(1, &[command]);
        cluster.settle();
    }
    let peer = |cluster: &Cluster| cluster.servers[&1].node.peers().find(|peer| peer.id == n(3));
    assert_eq!(peer(&cluster).map(|peer| peer.inflight_appends), Some(2), "the window is full");
    cluster.cut.clear();
    cluster.time_out(1);
    cluster.settle();
    assert_eq!(
        peer(&cluster).map(|peer| (peer.match_index, peer.state)),
        Some((at(6), ReplicationState::Replicate))
    );
}

#[test]
fn a_peer_that_lost_what_it_acknowledged_is_reported_and_gets_it_again() {
    let mut cluster = Cluster::led(3);
    cluster.propose(1, &["a"]);
    cluster.settle();
    cluster.time_out(1);
    cluster.settle();
    let now = cluster.now;
    let host = cluster.server(2);
    host.log = host.log.slice(at(1), at(1));
    host.restart(now);
    cluster.cut = vec![3];
    cluster.propose(1, &["b"]);
    cluster.settle();
    let lost = |notice: &&Notice| {
        matches!(notice, Notice::Violation { kind: Violation::AcknowledgedEntryLost(_), .. })
    };
    assert_eq!(cluster.servers[&1].notices.iter().filter(lost).count(), 1);
    assert_eq!(cluster.commit(1), 4, "it has acknowledged everything again");
}

// --- §5.4.2: committing entries from previous terms ------------------------------------------------------------

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
                    raft_core::Message { body: append(prev, entries, commit.get(), round), ..message }
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

// --- proposals -------------------------------------------------------------------------------------------------

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
    assert_eq!(write_outcomes(&cluster.servers[&1]), [], "truncation has not even happened");
    cluster.cut.clear();
    for _ in 0..3 {
        cluster.time_out(2);
        cluster.settle();
    }
    assert_eq!(write_outcomes(&cluster.servers[&1]), [(lost.first.get(), 2, WriteOutcome::Superseded)]);
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
    assert_eq!(write_outcomes(&cluster.servers[&2])[0].2, WriteOutcome::NotLeader { leader: Some(n(1)) });
    cluster.propose(1, &["123456789"]);
    let too_large = WriteRefusal::TooLarge { bytes: 9, bytes_max: 8 };
    assert_eq!(write_outcomes(&cluster.servers[&1])[0].2, WriteOutcome::Refused(too_large));
    cluster.cut = vec![2, 3];
    cluster.propose(1, &["a"]);
    cluster.propose(1, &["b"]);
    assert_eq!(cluster.servers[&1].node.write_room_bytes(), 0);
    cluster.propose(1, &["c"]);
    assert_eq!(write_outcomes(&cluster.servers[&1])[1].2, WriteOutcome::Busy);
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
    assert_eq!(write_outcomes(&cluster.servers[&1]), [(tickets.first.get(), 1, WriteOutcome::Unknown)]);
}

// --- thesis §6.4: reads ------------------------------------------------------------------------------------------

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
    cluster.server(1).hard_state = vote.hard_state.expect("a vote");
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

// --- what peers may not do -----------------------------------------------------------------------------------------

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
        message(1, 2, 9, Body::RequestVote { last: id(9, 3) }),
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

#[test]
fn a_slow_disk_bounds_what_a_follower_takes_in() {
    let mut cluster = Cluster::with(3, |config| config.unpersisted_bytes_max = 200);
    cluster.bootstrap();
    cluster.elect(1);
    cluster.slow_disks = vec![2];
    for _ in 0..10 {
        cluster.propose(1, &["0123456789012345678901234567890123456789"]);
        cluster.settle();
    }
    let status = cluster.servers[&2].node.status();
    assert!(status.last.index <= at(6) && status.counters.overflowed > 0, "{status:?}");
    for _ in 0..20 {
        cluster.sync(2);
        cluster.time_out(1);
        cluster.settle();
    }
    assert_eq!(cluster.servers[&2].node.status().last.index, at(12));
}
