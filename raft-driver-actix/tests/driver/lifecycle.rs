//! The life cycle that the seed's own tests walked through, with the checks that they lacked. Each over a storage that
//! blocks and one that does not.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use raft_core::{AdminRefusal, Config, LogIndex, RoleKind, SnapshotPolicy};
use raft_driver_actix::admin::{
    AddLearner, CancelConfigChange, InitWithConfig, ProposeConfigChange, TransferLeader,
};
use raft_driver_actix::messages::{ClientResponse, ClientWrite, ResponseMode};
use raft_driver_actix::metrics::State;
use raft_driver_actix::{AdminError, WriteError};

use crate::support::{Async, Cluster, Disk, HeardOf, Kind, Route, Sync, address, members, n, within};

/// One test for each kind of storage.
macro_rules! for_both_kinds {
    ($($name:ident),* $(,)?) => {
        mod blocking {
            $(#[actix::test] async fn $name() { super::$name::<super::Sync>().await })*
        }
        mod asynchronous {
            $(#[actix::test] async fn $name() { super::$name::<super::Async>().await })*
        }
    };
}
for_both_kinds!(
    initialization_by_all_nodes_in_parallel,
    a_single_node_and_its_restart,
    a_leader_that_was_isolated_gives_way_and_its_log_is_mended,
    client_writes_are_forwarded_or_come_back,
    members_come_and_go_and_the_leader_goes_too,
    a_node_that_was_isolated_catches_up_by_snapshot,
);

fn defaults(_: &mut Config) {}

async fn initialization_by_all_nodes_in_parallel<K: Kind>() {
    let mut cluster = Cluster::<K>::new(defaults);
    for id in 1..=3 {
        let node = cluster.start(id, Disk::default()).await;
        assert_eq!(node.until(|_| true).await.state(), State::NonVoter, "pristine");
    }
    let mut asked = Vec::new();
    for (id, node) in &cluster.nodes {
        // Each names the others twice, and not itself: it adds itself.
        let others: Vec<_> = members(1..=3).into_iter().filter(|(other, _)| other != id).collect();
        let init = InitWithConfig::new(others.iter().cloned().chain(others.clone()));
        assert_eq!(init.members.len(), 2);
        asked.push(node.raft.send(init));
    }
    for formed in within(futures_util::future::join_all(asked)).await {
        assert_eq!(formed.unwrap(), Ok(()));
    }
    let led_by = cluster.leader().await;
    for node in cluster.nodes.values() {
        let seen = node.until(|seen| seen.status.leader.is_some()).await;
        assert_eq!(seen.membership.nodes, members(1..=3), "on every node, whatever it was told");
    }
    let again = InitWithConfig { members: members(1..=3) };
    let other = InitWithConfig { members: members(1..=2) };
    let raft = &cluster.nodes[&led_by].raft;
    assert_eq!(raft.send(again).await.unwrap(), Ok(()), "again is harmless");
    let refused = if led_by == n(3) { members([1, 2, 3, 4]) } else { other.members };
    let refused = raft.send(InitWithConfig { members: refused }).await.unwrap();
    assert_eq!(refused, Err(AdminError::Refused(AdminRefusal::NotPristine)));
    let last = cluster.write("first").await;
    assert_eq!(cluster.compare(last).await.len(), 1);
    cluster.end().await;
}

async fn a_single_node_and_its_restart<K: Kind>() {
    // Nothing is ever decided by a time-out: it leads at once.
    fn patient(config: &mut Config) {
        config.election_timeout_min = Duration::from_secs(3600);
        config.election_timeout_max = Duration::from_secs(7200);
    }
    let mut cluster = Cluster::<K>::form(1..=1, patient).await;
    for count in 1..=20 {
        let written = cluster.write_by(&[n(1)], &format!("{count}")).await;
        assert_eq!(written.response(), Some(count), "the storage's own answer");
    }
    let last = cluster.write("last").await;
    let before = cluster.compare(last).await;
    let disk = cluster.stop(n(1)).await;
    let log = disk.lines();

    let back = cluster.start(1, disk).await;
    back.until(|seen| seen.state() == State::Leader).await;
    let found = cluster.read(n(1)).await;
    assert_eq!(found, before, "everything came back, in order");
    assert_eq!(cluster.nodes[&n(1)].disk.lines()[..log.len()], log[..]);
    let written = cluster.write_by(&[n(1)], "after").await;
    assert_eq!(written.response(), Some(22));
    cluster.end().await;
}

async fn a_leader_that_was_isolated_gives_way_and_its_log_is_mended<K: Kind>() {
    let mut cluster = Cluster::<K>::form(1..=3, defaults).await;
    let last = cluster.write("everywhere").await;
    cluster.compare(last).await;
    let old = cluster.leader().await;
    let others: Vec<_> = cluster.nodes.keys().copied().filter(|id| *id != old).collect();

    cluster.router.send(Route::Isolate(old)).await.unwrap();
    // Into its log alone: more entries than the others will have, S3.
    let lost: Vec<_> = (0..10)
        .map(|count| {
            let write = ClientWrite::new(format!("lost {count}"), ResponseMode::Applied);
            cluster.nodes[&old].raft.send(write)
        })
        .collect();
    let lost = tokio::spawn(futures_util::future::join_all(lost));
    let new = cluster.leader_of(&others).await;
    let mut last = LogIndex::ZERO;
    for count in 0..3 {
        last = cluster.write_by(&others, &format!("kept {count}")).await.id().index;
    }
    // A leader that hears no majority steps down, though nobody told it of another.
    cluster.nodes[&old].until(|seen| seen.status.role != RoleKind::Leader).await;
    let sees = &cluster.nodes[&new].until(|seen| seen.status.role == RoleKind::Leader).await;
    assert!(sees.peers.iter().any(|peer| peer.id == old && peer.match_index < last), "progress of each peer");

    cluster.router.send(Route::Heal).await.unwrap();
    let outcomes = within(lost).await.unwrap();
    let all = cluster.compare(last).await;
    let kept: Vec<_> = all.iter().filter(|(_, command)| command.starts_with(b"kept")).collect();
    assert_eq!(kept.len(), 3);
    let applied = |command: &[u8]| all.iter().any(|(_, other)| other == command);
    for (count, outcome) in outcomes.into_iter().enumerate() {
        let command = format!("lost {count}");
        match outcome.unwrap() {
            Ok(written) => assert!(applied(command.as_bytes()), "{written:?}"),
            Err(WriteError::Unknown) => {}
            Err(error) => {
                assert!(!applied(command.as_bytes()), "{error}");
                assert_eq!(
                    error.into_command(),
                    Some(Bytes::from(command)),
                    "what did not happen comes back"
                );
            }
        }
    }
    // What it had written to its disk is gone from there too: it does not return, S4.
    let disk = cluster.stop(old).await;
    cluster.start(old.get(), disk).await;
    let last = cluster.write("after").await;
    cluster.compare(last).await;
    cluster.end().await;
}

async fn client_writes_are_forwarded_or_come_back<K: Kind>() {
    let mut cluster = Cluster::<K>::form(1..=3, defaults).await;
    let mut forwarded = 0;
    let last = within(async {
        loop {
            let led_by = cluster.leader().await;
            let follower = *cluster.nodes.keys().find(|id| **id != led_by).unwrap();
            let node = &cluster.nodes[&follower];
            node.until(|seen| seen.status.leader.is_some()).await;
            // Without leave to be forwarded it comes back, and says where to go.
            let write = ClientWrite::new("whole", ResponseMode::Applied);
            match node.raft.send(write).await.unwrap() {
                Err(WriteError::NotLeader { leader, address: there, command }) => {
                    assert_eq!(command, "whole");
                    assert_eq!(there, leader.map(|leader| address(leader.get())));
                }
                Ok(_) => continue,
                Err(other) => panic!("{other}"),
            }
            let write = ClientWrite::new(format!("forwarded {forwarded}"), ResponseMode::Applied);
            match node.raft.send(write.forwarding(Duration::from_secs(10))).await.unwrap() {
                Ok(ClientResponse::Applied { id, .. }) => {
                    forwarded += 1;
                    let here = node.seen.now();
                    assert!(here.iter().any(|(other, _)| *other == id), "the asked node has applied it");
                    if forwarded == 5 {
                        return id.index;
                    }
                }
                Ok(other) => panic!("{other:?}"),
                Err(WriteError::NotLeader { .. } | WriteError::Unknown | WriteError::Superseded { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    })
    .await;
    let all = cluster.compare(last).await;
    let found: BTreeSet<_> = all.iter().filter(|(_, command)| command.starts_with(b"forwarded")).collect();
    assert!(found.len() >= 5);
    cluster.end().await;
}

async fn members_come_and_go_and_the_leader_goes_too<K: Kind>() {
    let mut cluster = Cluster::<K>::form(1..=3, defaults).await;
    for count in 0..30 {
        cluster.write(&format!("{count}")).await;
    }
    let change = |add: &[u64], remove: &[u64]| ProposeConfigChange {
        add: members(add.iter().copied()),
        remove: remove.iter().copied().map(n).collect(),
    };
    assert_eq!(cluster.ask(change(&[], &[])).await, Err(AdminRefusal::NoChange));
    assert_eq!(cluster.ask(change(&[1], &[])).await, Err(AdminRefusal::NoChange));
    assert_eq!(cluster.ask(change(&[], &[1, 2, 3])).await, Err(AdminRefusal::NoVoters));
    // Only the leader changes anything, and others say who that is.
    let led_by = cluster.leader().await;
    let follower = *cluster.nodes.keys().find(|id| **id != led_by).unwrap();
    cluster.nodes[&follower].until(|seen| seen.status.leader == Some(led_by)).await;
    match cluster.nodes[&follower].raft.send(change(&[], &[1])).await.unwrap() {
        Err(AdminError::NotLeader { leader, address: there }) => {
            assert_eq!(there, leader.map(|leader| address(leader.get())));
        }
        other => panic!("{other:?}"),
    }

    // A node that is not there never catches up: it stays a non-voter, and a second change has to wait.
    let stuck = cluster.nodes[&led_by].raft.send(change(&[9], &[]));
    let stuck = tokio::spawn(stuck);
    let adding = cluster.nodes[&led_by].until(|seen| seen.membership.contains(n(9))).await;
    assert!(!adding.membership.is_voter(n(9)), "new nodes begin as non-voters");
    let second = cluster.nodes[&led_by].raft.send(change(&[], &[follower.get()])).await.unwrap();
    assert!(
        matches!(
            second,
            Err(AdminError::Refused(AdminRefusal::ChangeInProgress) | AdminError::NotLeader { .. })
        ),
        "{second:?}"
    );
    let cancelled = cluster.ask(CancelConfigChange).await;
    assert!(matches!(cancelled, Ok(()) | Err(AdminRefusal::NothingToCancel)), "{cancelled:?}");
    let stuck = within(stuck).await.unwrap().unwrap();
    assert!(
        matches!(stuck, Err(AdminError::Refused(AdminRefusal::Cancelled) | AdminError::Unknown)),
        "{stuck:?}"
    );

    // Two that are there become voters, a third stays a learner.
    for id in [4, 5, 6] {
        cluster.start(id, Disk::default()).await;
    }
    let added = cluster.ask(change(&[4, 5], &[])).await;
    // The second: a new leader had completed it already.
    assert!(matches!(added, Ok(()) | Err(AdminRefusal::NoChange)), "{added:?}");
    let learner = AddLearner { node: n(6), address: address(6) };
    let added = cluster.ask(learner).await;
    assert!(matches!(added, Ok(()) | Err(AdminRefusal::NoChange)), "{added:?}");
    cluster.nodes[&n(6)].until(|seen| seen.membership.learners.contains(&n(6))).await;
    let seen = cluster.nodes[&n(4)].until(|seen| seen.membership.is_voter(n(4))).await;
    assert!(seen.membership.nodes.get(&n(4)) == Some(&address(4)));
    let last = cluster.write("six of them").await;
    cluster.compare(last).await;
    let sixth = cluster.nodes[&n(6)].until(|seen| seen.membership.is_settled()).await;
    assert_eq!(sixth.state(), State::NonVoter);

    // The leader removes itself: it hands over, is silent, and the others go on.
    let led_by = loop {
        let led_by = cluster.leader().await;
        let gone = cluster.nodes[&led_by].raft.send(change(&[], &[led_by.get()]));
        match within(gone).await.unwrap() {
            Ok(()) => break led_by,
            Err(AdminError::Unknown | AdminError::NotLeader { .. }) => {
                let others: Vec<_> = cluster.nodes.keys().copied().filter(|id| *id != led_by).collect();
                let new = cluster.leader_of(&others).await;
                let settled = cluster.nodes[&new].until(|seen| seen.membership.is_settled()).await;
                if !settled.membership.contains(led_by) {
                    break led_by;
                }
            }
            Err(AdminError::Refused(_)) => tokio::task::yield_now().await,
            Err(AdminError::Stopped) => panic!("it stays"),
        }
    };
    let others: Vec<_> = cluster.nodes.keys().copied().filter(|id| *id != led_by).collect();
    let removed = cluster.nodes[&led_by].until(|seen| seen.status.role != RoleKind::Leader).await;
    assert_ne!(removed.state(), State::Leader);
    let gone = cluster.nodes.remove(&led_by).unwrap();
    let after = cluster.write_by(&others, "without it").await.id().index;
    cluster.compare(after).await;
    // Nobody talks to it any more: whoever leads has forgotten it, S12.
    let forgot = others.iter().map(|id| {
        let node = &cluster.nodes[id];
        Box::pin(node.until(|seen| {
            seen.status.role == RoleKind::Leader
                && !seen.membership.nodes.contains_key(&led_by)
                && seen.peers.iter().all(|peer| peer.id != led_by)
        }))
    });
    let (seen, ..) = within(futures_util::future::select_all(forgot)).await;
    let new = seen.status.id;
    let to = *others.iter().find(|id| **id != new && **id != n(6)).unwrap();
    let moved = cluster.ask(TransferLeader(Some(to))).await;
    assert!(matches!(moved, Ok(_) | Err(AdminRefusal::AlreadyLeader | AdminRefusal::TimedOut)), "{moved:?}");
    within(gone.raft.send(raft_driver_actix::admin::Shutdown)).await.unwrap();
    let heard = cluster.router.send(HeardOf(led_by)).await.unwrap();
    let last = cluster.write_by(&others, "still without it").await.id().index;
    cluster.compare(last).await;
    assert_eq!(
        cluster.router.send(HeardOf(led_by)).await.unwrap(),
        heard,
        "after a shutdown nothing is sent"
    );
    cluster.end().await;
}

async fn a_node_that_was_isolated_catches_up_by_snapshot<K: Kind>() {
    fn compacting(config: &mut Config) {
        config.snapshot_policy = SnapshotPolicy::LogsSinceLast(30);
        config.compaction_margin_entries = 5;
        config.snapshot_chunk_bytes = 200;
    }
    let mut cluster = Cluster::<K>::form(1..=3, compacting).await;
    let last = cluster.write("everywhere").await;
    cluster.compare(last).await;
    let led_by = cluster.leader().await;
    let behind = *cluster.nodes.keys().find(|id| **id != led_by).unwrap();
    let others: Vec<_> = cluster.nodes.keys().copied().filter(|id| *id != behind).collect();
    cluster.router.send(Route::Isolate(behind)).await.unwrap();
    let mut last = LogIndex::ZERO;
    for count in 0..100 {
        last = cluster.write_by(&others, &format!("{count}")).await.id().index;
    }
    // More than once: the log is compacted periodically, S14.
    for id in &others {
        let node = &cluster.nodes[id];
        let is_short = || node.disk.lines().first().is_some_and(|(id, _)| id.index > LogIndex::new(40));
        within(async {
            while !is_short() {
                cluster.write_by(&others, "more").await;
            }
        })
        .await;
    }
    cluster.router.send(Route::Heal).await.unwrap();
    let all = cluster.compare(last).await;
    assert!(all.iter().any(|(_, command)| command == b"99"));
    let now = cluster.nodes[&behind].raft.send(raft_driver_actix::metrics::GetMetrics).await.unwrap();
    assert!(now.status.counters.snapshots_installed > 0, "by InstallSnapshot");
    // A pristine one as well, S15; and one that restarts on what it installed.
    cluster.start(4, Disk::default()).await;
    let change = ProposeConfigChange { add: members([4]), remove: BTreeSet::new() };
    let added = cluster.ask(change).await;
    assert!(matches!(added, Ok(()) | Err(AdminRefusal::NoChange)), "{added:?}");
    let last = cluster.write("four").await;
    cluster.compare(last).await;
    let disk = cluster.stop(behind).await;
    cluster.start(behind.get(), disk).await;
    let last = cluster.write("back").await;
    cluster.compare(last).await;
    cluster.end().await;
}
