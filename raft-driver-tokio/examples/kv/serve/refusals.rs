//! Peers that refuse this node: one that a majority refuses cannot take part until somebody puts it right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use raft_core::NodeId;
use raft_driver_tokio::tcp::{Refusal, Refused};
use tokio::sync::watch;

use crate::cli::{Peers, Serve};
use crate::driver::Handle;
use crate::failure::{Failure, Kind};
use crate::node::Node;

/// How long a refusal counts: several times the longest pause between two attempts to connect.
const REFUSAL_FRESH: Duration = Duration::from_secs(15);

/// Resolves when so many peers refuse this node that it can never be part of a majority.
pub(super) async fn refused_by_majority(
    node: &Handle,
    mut refusals: watch::Receiver<Option<Refused>>,
    options: &Serve,
    peers: &Peers,
) -> Failure {
    let mut by: BTreeMap<NodeId, (Refusal, Instant)> = BTreeMap::new();
    while refusals.changed().await.is_ok() {
        let Some(refused) = refusals.borrow_and_update().clone() else { continue };
        let membership = Arc::clone(&node.metrics().borrow().membership);
        let members: BTreeSet<NodeId> = match membership.voters.is_empty() {
            true => peers.members.keys().copied().collect(),
            false => membership.voters.clone(),
        };
        // Who connects to this node may be anybody; whom it connects to is a member.
        let is_theirs_to_mend = matches!(refused.refusal, Refusal::Full | Refusal::Unremembered);
        if !refused.by_peer || is_theirs_to_mend || !members.contains(&refused.peer) {
            continue;
        }
        by.insert(refused.peer, (refused.refusal, Instant::now()));
        // Whoever still refuses says so at each of this node's attempts; others were mended meanwhile.
        by.retain(|_, (_, at)| at.elapsed() < REFUSAL_FRESH);
        let led = node.observe().await.is_some_and(|metrics| metrics.status.leader.is_some());
        if !led && members.len().saturating_sub(by.len()) < members.len() / 2 + 1 {
            let peers = by.iter().map(|(peer, (refusal, _))| format!("node {peer}: {refusal}"));
            let advice = match refused.refusal {
                Refusal::Bootstrap => format!(
                    "give every node the same --peer list; then remove {}, which holds no data yet if this node \
                     never answered a client, and start again",
                    options.data.display()
                ),
                Refusal::Cluster => "give every node of the cluster the same --cluster".to_owned(),
                Refusal::Directory => {
                    "this directory is not the one that the node had before: start it on that one; if it is lost, \
                     remove the node from the cluster and add one of a new id"
                        .to_owned()
                }
                Refusal::Tls => "give every node --tls-ca, --tls-cert and --tls-key, or none".to_owned(),
                Refusal::Untrusted | Refusal::Expired | Refusal::Name | Refusal::Certificate => {
                    "give every node a certificate of its own id by one authority that all trust, and see that it has \
                     not expired; `kv certs` makes some for trying"
                        .to_owned()
                }
                Refusal::Version => "run the same version on all nodes".to_owned(),
                Refusal::Lease => "give every node the same --election-ms".to_owned(),
                _ => {
                    "compare the ids and addresses in --peer with what the nodes were started with".to_owned()
                }
            };
            let what =
                format!("a majority of peers refuses this node: {}", peers.collect::<Vec<_>>().join("; "));
            return Failure::new(Kind::Peers, what, advice);
        }
    }
    // The transport is gone, and the node with it: that is told elsewhere.
    std::future::pending().await
}
