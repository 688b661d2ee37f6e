//! A session over a cluster that loses its leader at the worst moment.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use raft_core::NodeId;
use raft_core::host::{SessionLimits, SessionResponse};
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{Applied, Builder, Patience, Raft, Route, Session, WriteError};

use crate::common::{config, leader, members, within};
use crate::tally::{Once, Plain, Probe, Tally, add};

/// Counts the tries on their way.
struct Counted {
    nodes: Vec<Raft<Once>>,
    tries: AtomicUsize,
}

impl Route for &Counted {
    type Machine = Plain;

    async fn submit(
        &self,
        command: Bytes,
        attempt: u32,
        leader: Option<NodeId>,
    ) -> Result<Applied<SessionResponse<u64>>, WriteError> {
        self.tries.fetch_add(1, Ordering::Relaxed);
        self.nodes.submit(command, attempt, leader).await
    }
}

#[tokio::test]
async fn a_leader_is_cut_off_after_it_committed_and_before_it_answered() {
    let network = Channels::default();
    let mut probes: BTreeMap<NodeId, Probe> = BTreeMap::new();
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let tally = Tally::default();
        probes.insert(NodeId::new(id), tally.probe.clone());
        let start = Builder::new(config(id)).machine_on_thread().start(
            MemoryLog::default(),
            MemorySnapshots::default(),
            Once::new(Plain::new(tally)),
            network.endpoint(),
        );
        nodes.push(within(start).await.expect("starts"));
    }
    for raft in &nodes {
        within(raft.bootstrap(members(1..=3))).await.expect("pristine");
    }
    let route = Counted { nodes: nodes.clone(), tries: AtomicUsize::new(0) };
    let patience = Patience { tries_max: 1000, try_max: Duration::from_millis(500), ..Patience::default() };
    let session =
        within(Session::open(&route, SessionLimits::default(), patience)).await.expect("a leader comes");

    // It may have lost the leadership just before: then the command is simply answered, and the story is told again.
    let mut sum = 0;
    for round in 1.. {
        assert!(round < 20, "a leader that is held up never got a command");
        let old = leader(&nodes).await.id();
        probes[&old].hold(true);
        let before = route.tries.load(Ordering::Relaxed);
        let cut = async {
            for (_, probe) in probes.iter().filter(|(id, _)| **id != old) {
                probe.has_applied(round).await;
            }
            // The others have applied it, so it is committed; who would answer for it has not.
            network.isolate(old);
        };
        let (applied, ()) = tokio::join!(within(session.propose(&add("a", round))), cut);
        sum += round;
        assert_eq!(applied.expect("two nodes of three are there").response, sum);
        probes[&old].hold(false);
        network.heal();
        for (id, probe) in &probes {
            probe.has_applied(round).await;
            assert_eq!(*probe.applied.borrow(), round, "once on node {id}");
        }
        if route.tries.load(Ordering::Relaxed) - before > 1 {
            break;
        }
    }
    for raft in &nodes {
        let sums = |once: &Once| once.machine().application().sums.clone();
        let read = loop {
            match within(raft.read(sums)).await {
                Ok(sums) => break sums,
                // After the healing somebody must be elected first.
                Err(_) => drop(leader(&nodes).await),
            }
        };
        assert_eq!(read["a"], sum);
    }
    within(session.close()).await.expect("a leader is there");
}
