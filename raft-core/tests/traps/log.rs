//! Traps 15 to 35: log and commit.

use raft_core::{Body, Conflict, Event, ReplicationState, SnapshotPolicy};

use super::support::{Cluster, append, ask, at, commands, id, message, n};

/// Server 1 leads three; everybody's log is compacted through its last entry.
fn compacted() -> Cluster {
    let mut cluster = Cluster::led_with(3, |config| {
        config.snapshot_policy = SnapshotPolicy::Never;
        config.compaction_margin_entries = 0;
    });
    cluster.commit_each(1, &["a", "b", "c"]);
    cluster.beat(1, 1);
    for server in 1..=3 {
        cluster.take_snapshot(server);
        assert_eq!(cluster.servers[&server].node.status().base, id(2, 5));
    }
    cluster
}

#[test]
fn trap_19_a_conflict_takes_everything_behind_it_along() {
    let mut cluster = Cluster::veteran(3, 5, &[1, 2, 2, 2, 2]);
    let other = append(id(1, 1), commands(id(6, 2), &["x"]), 1, 1);
    cluster.step(1, Event::Receive(message(2, 1, 6, other)));
    assert_eq!(cluster.servers[&1].terms(), [1, 6]);
    assert_eq!(cluster.servers[&1].disk.last(), id(6, 2));
    cluster.restart(1);
    assert_eq!(cluster.servers[&1].terms(), [1, 6], "nothing comes back");
}

#[test]
fn trap_20_a_hint_is_no_match() {
    let mut cluster = Cluster::led(3);
    cluster.cut = vec![2, 3];
    cluster.commit_each(1, &["a", "b"]);
    let before = (cluster.commit(1), cluster.peer(1, 2).map(|peer| peer.match_index));
    for (prev, hint) in [(4, id(2, 4)), (3, id(2, 4)), (2, id(2, 2)), (1, id(1, 1))] {
        let refusal = Body::AppendEntriesReply { result: Err(Conflict { prev: at(prev), hint }), round: 3 };
        cluster.step(1, Event::Receive(message(2, 1, 2, refusal)));
        assert_eq!((cluster.commit(1), cluster.peer(1, 2).map(|peer| peer.match_index)), before);
    }
}

#[test]
fn trap_25_a_stale_rejection_never_takes_next_below_match() {
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &["a", "b", "c"]);
    for prev in 0..=6 {
        let stale = Conflict { prev: at(prev), hint: id(u64::from(prev > 0), u64::from(prev > 0)) };
        let refusal = Body::AppendEntriesReply { result: Err(stale), round: 1 };
        cluster.step(1, Event::Receive(message(2, 1, 2, refusal)));
        let peer = cluster.peer(1, 2).expect("a peer");
        assert!(peer.next_index > peer.match_index, "{peer:?}");
        assert_eq!(peer.match_index, at(5));
    }
    cluster.commit_each(1, &["d"]);
    cluster.beat(1, 2);
    assert_eq!(cluster.peer_state(1, 2), Some(ReplicationState::Replicate));
    assert_eq!(cluster.last(2), 6);
}

#[test]
fn trap_26_an_append_below_the_snapshot_is_acknowledged() {
    let mut cluster = compacted();
    let late = append(id(1, 1), commands(id(2, 2), &["x"]), 2, 9);
    cluster.step(2, Event::Receive(message(1, 2, 2, late)));
    let said = cluster.said();
    let known =
        |body: &Body| matches!(body, Body::AppendEntriesReply { result: Ok(index), .. } if *index >= at(2));
    assert!(said.len() == 1 && known(&said[0]), "{said:?}");
}

#[test]
fn trap_27_the_term_of_a_compacted_entry_is_unknown_and_not_zero() {
    let mut cluster = compacted();
    let node = &cluster.servers[&2].node;
    assert_eq!((node.term_at(at(4)), node.term_at(at(5)).map(|term| term.get())), (None, Some(2)));
    // A prev of term 0 is nobody's entry.
    let absurd = cluster.servers[&2].node.status().counters.absurd;
    let zero = append(id(0, 3), commands(id(2, 4), &["x"]), 5, 9);
    cluster.step(2, Event::Receive(message(1, 2, 2, zero)));
    assert_eq!(cluster.servers[&2].node.status().counters.absurd, absurd + 1);
    // And the log still ends where it ends: a candidate without what was compacted is not up to date.
    cluster.restart(1);
    cluster.wire.clear();
    cluster.pass_ms(1_000);
    cluster.step(1, ask(2, 3, id(2, 4)));
    assert_eq!(cluster.said(), [Body::RequestVoteReply { granted: false }]);
    cluster.step(1, ask(2, 3, id(2, 5)));
    assert_eq!(cluster.said(), [Body::RequestVoteReply { granted: true }]);
}

#[test]
fn trap_28_an_acknowledgement_from_before_a_peer_was_added_again_proves_nothing() {
    let mut cluster = Cluster::led(3);
    cluster.commit_each(1, &["a"]);
    cluster.propose(1, &["b"]);
    let late = cluster.settle_but(|message| message.from == n(3));
    assert!(!late.is_empty());
    cluster.set_voters(1, &[1, 2]);
    cluster.run_ms(2_000);
    assert_eq!(cluster.voters(1), [1, 2]);
    cluster.cut = vec![3];
    cluster.set_members(1, &[1, 2], &[3]);
    cluster.settle();
    cluster.cut.clear();
    let before = cluster.peer(1, 3).expect("added again").match_index;
    late.iter().for_each(|message| cluster.step(1, Event::Receive(message.clone())));
    assert_eq!(cluster.term(1), 2, "all of it in one term");
    assert_eq!(cluster.peer(1, 3).expect("a peer").match_index, before);
    assert_eq!(before, at(0));
    cluster.run_ms(500);
    assert_eq!(cluster.last(3), cluster.last(1), "and it is served");
}

#[test]
fn trap_32_the_quota_comes_back_whatever_becomes_of_the_entries() {
    let mut cluster = Cluster::led_with(3, |config| config.uncommitted_bytes_max = 100);
    for _ in 0..3 {
        cluster.cut = vec![1];
        while cluster.servers[&1].node.write_room_bytes() > 0 {
            cluster.propose(1, &["0123456789"]);
        }
        cluster.elect(2);
        cluster.cut.clear();
        cluster.beat(2, 3);
        cluster.elect(1);
        cluster.beat(1, 1);
        assert_eq!(cluster.servers[&1].node.write_room_bytes(), 100);
        // And once more with entries that a later term commits.
        cluster.cut = vec![2, 3];
        cluster.propose(1, &["0123456789"]);
        cluster.run_ms(1_000);
        cluster.cut.clear();
        cluster.elect(1);
        cluster.beat(1, 1);
        assert_eq!(cluster.servers[&1].node.write_room_bytes(), 100);
    }
}

#[test]
fn trap_33_an_append_from_the_beginning_after_a_compaction_adds_nothing() {
    let mut cluster = compacted();
    let before = cluster.servers[&2].disk.clone();
    let whole = append(id(0, 0), commands(id(2, 1), &["x", "y", "z"]), 5, 9);
    cluster.step(2, Event::Receive(message(1, 2, 2, whole)));
    let disk = &cluster.servers[&2].disk;
    assert_eq!((disk.base, &disk.log), (before.base, &before.log));
    assert_eq!(cluster.last(2), 5);
    cluster.commit_each(1, &["d"]);
    assert_eq!(cluster.last(2), 6);
}

#[test]
fn trap_25_nor_where_the_log_begins_behind_a_snapshot() {
    let mut cluster = compacted();
    cluster.beat(1, 1);
    cluster.cut = vec![2];
    cluster.commit_each(1, &["d", "e"]);
    let matched = cluster.peer(1, 2).expect("a peer").match_index;
    assert_eq!(matched, at(5));
    for hint in 0..5 {
        let stale = Conflict { prev: at(7), hint: id(2 * u64::from(hint > 0), hint) };
        let refusal = Body::AppendEntriesReply { result: Err(stale), round: 1 };
        cluster.step(1, Event::Receive(message(2, 1, 2, refusal)));
        let peer = cluster.peer(1, 2).expect("a peer");
        assert!(peer.match_index == matched && peer.next_index > matched, "{hint}: {peer:?}");
    }
}
