//! How a cluster begins: the first configuration, and whom to connect to (DESIGN §7).

use raft_core::{AdminOutcome, AdminRefusal, Event, Notice, RoleKind, Term, Ticket};

use super::support::{Cluster, at, members};

#[test]
fn bootstrap_on_all_nodes_in_parallel_gives_one_cluster() {
    let mut cluster = Cluster::pristine(3);
    cluster.bootstrap();
    for server in cluster.servers.values() {
        assert_eq!(server.admin_outcomes(), [AdminOutcome::Done]);
        assert_eq!(server.disk.hard_state.term, Term::new(1));
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
        assert_eq!(cluster.servers[&1].admin_outcomes(), [outcome]);
    }
}

#[test]
fn the_same_set_succeeds_again_when_others_have_joined_and_the_first_entry_is_in_a_snapshot() {
    let mut cluster = Cluster::led(3);
    cluster.join(4);
    cluster.set_members(1, &[1, 2, 3], &[4]);
    cluster.settle();
    cluster.commit_each(1, &["a", "b"]);
    cluster.take_snapshot(2);
    cluster.settle();
    let now = cluster.now;
    cluster.server(2).restart(now);
    cluster.poll(2);
    cluster.server(2).responses.clear();
    cluster.step(2, Event::Bootstrap { ticket: Ticket::new(9), members: members(1..=3) });
    assert_eq!(cluster.servers[&2].admin_outcomes(), [AdminOutcome::Done]);
    assert_eq!(cluster.servers[&2].node.membership().learners.len(), 1, "and changes nothing");
}

#[test]
fn peers_are_named_when_the_membership_comes_and_before_any_message_to_them() {
    let mut cluster = Cluster::pristine(3);
    cluster.trace = Some(Vec::new());
    for server in 1..=3 {
        cluster.poll(server);
        assert_eq!(cluster.servers[&server].peers, [], "nobody is known yet");
    }
    cluster.step(1, Event::Bootstrap { ticket: Ticket::new(0), members: members(1..=3) });
    cluster.settle();
    cluster.elect(1);
    for server in cluster.servers.values() {
        assert_eq!(server.peers.len(), 1);
        assert_eq!(server.peers[0].nodes, members(1..=3));
        assert!(server.notices.contains(&Notice::Membership { index: at(1) }));
    }
    let trace = cluster.trace.take().expect("kept");
    let mine = trace.iter().filter(|(server, _)| *server == 1).map(|(_, action)| action);
    let kinds = mine.filter_map(|action| match action {
        raft_core::Action::Peers(_) => Some('p'),
        raft_core::Action::Send(_) => Some('s'),
        _ => None,
    });
    let kinds: Vec<char> = kinds.collect();
    assert_eq!(kinds.first(), Some(&'p'));
    assert!(kinds.contains(&'s'));
}

#[test]
fn peers_are_named_at_the_start() {
    let mut cluster = Cluster::led(3);
    let now = cluster.now;
    cluster.server(2).peers.clear();
    cluster.server(2).restart(now);
    cluster.poll(2);
    let peers = &cluster.servers[&2].peers;
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].nodes, members(1..=3));
}
