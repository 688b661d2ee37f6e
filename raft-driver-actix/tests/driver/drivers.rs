//! Nodes of both drivers in one cluster: the same messages, letters and disks.

use std::collections::BTreeMap;
use std::time::Duration;

use raft_core::host::{Application, ByCodec, Typed};
use raft_core::{Config, LogId, LogIndex, NodeId};
use raft_driver_actix::admin::{InitWithConfig, Shutdown, TransferLeader};
use raft_driver_actix::messages::{ClientRead, ClientWrite, ResponseMode};
use raft_driver_actix::metrics::watch as listen;
use raft_driver_actix::storage::{DurableLog, Identity, SnapshotFiles};
use raft_driver_actix::{Builder, WriteError};
use raft_driver_tokio::tcp::{Tcp, TcpConfig};
use raft_driver_tokio::{BootstrapDigest, ClusterId, Postcard};
use serde::{Deserialize, Serialize};

use crate::support::{n, within};

/// Counts what it is told.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Words(BTreeMap<String, u64>);

impl Application for Words {
    type Command = String;
    type Response = u64;
    type Rejection = std::convert::Infallible;
    type Error = std::convert::Infallible;

    fn apply(&mut self, word: String, _: LogId) -> Result<u64, Self::Error> {
        let count = self.0.entry(word).or_default();
        *count += 1;
        Ok(*count)
    }
}

type Machine = Typed<Words, Postcard>;

const CLUSTER: ClusterId = ClusterId::new(5);
const LIMIT: Duration = Duration::from_secs(30);

fn word(word: &str, mode: ResponseMode) -> ClientWrite<u64> {
    ClientWrite::typed::<Words, Postcard, ByCodec>(&word.to_owned(), mode).unwrap().forwarding(LIMIT)
}

/// A place for a node: a directory, and a port that is known before anybody is told of it.
struct Place {
    directory: tempfile::TempDir,
    listener: Option<std::net::TcpListener>,
    address: String,
}

impl Place {
    fn new() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self { directory: tempfile::tempdir().unwrap(), listener: Some(listener), address }
    }

    fn stores(&self, node: NodeId) -> (DurableLog, SnapshotFiles) {
        let identity = Identity { cluster: CLUSTER, node };
        let log = DurableLog::open(self.directory.path().join("log"), identity).unwrap();
        (log, SnapshotFiles::open(self.directory.path().join("snapshots"), identity).unwrap())
    }

    async fn network(&mut self, members: &BTreeMap<NodeId, bytes::Bytes>) -> Tcp {
        let bootstrap = Some(BootstrapDigest::of(members));
        drop(self.listener.take());
        Tcp::bind(&self.address, TcpConfig { bootstrap, ..TcpConfig::new(CLUSTER) }).await.unwrap()
    }
}

#[actix::test]
async fn both_drivers_form_one_cluster_and_forward_to_each_other() {
    let mut places: BTreeMap<NodeId, Place> = (1..=3).map(|id| (n(id), Place::new())).collect();
    let members: BTreeMap<_, _> =
        places.iter().map(|(id, place)| (*id, place.address.clone().into())).collect();
    // Two on Actix, one on Tokio; over TCP and durable stores.
    let mut actix = BTreeMap::new();
    for id in [n(1), n(2)] {
        let place = places.get_mut(&id).unwrap();
        let (log, snapshots) = place.stores(id);
        let (listener, metrics) = listen();
        let builder = Builder::new(Config::new(id)).listener(listener);
        let network = place.network(&members).await;
        let raft = builder.start(log, snapshots, Machine::default(), network).await.unwrap();
        raft.send(InitWithConfig { members: members.clone() }).await.unwrap().unwrap();
        actix.insert(id, (raft, metrics));
    }
    let third = places.get_mut(&n(3)).unwrap();
    let (log, snapshots) = third.stores(n(3));
    let network = third.network(&members).await;
    let tokio = raft_driver_tokio::Builder::new(Config::new(n(3)));
    let tokio = tokio.start(log, snapshots, Machine::default(), network).await.unwrap();
    tokio.bootstrap(members.clone()).await.unwrap();

    let mut last = LogIndex::ZERO;
    let mut expected = 0;
    // Whoever leads, each node in turn is asked, and forwards.
    for to in [n(1), n(3), n(2), n(3)] {
        within(async {
            loop {
                let leader = tokio.wait(LIMIT).leader().await.unwrap();
                if leader == to {
                    return;
                }
                // Only the leader does it; elections may come between.
                let _ = match actix.get(&leader) {
                    Some((raft, _)) => raft.send(TransferLeader(Some(to))).await.unwrap().is_ok(),
                    None => tokio.transfer_leadership(Some(to)).await.is_ok(),
                };
            }
        })
        .await;
        for (raft, metrics) in actix.values_mut() {
            let knows =
                metrics.wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.status.leader.is_some()));
            within(knows).await.unwrap();
            within(async {
                loop {
                    match raft.send(word("by actix", ResponseMode::Applied)).await.unwrap() {
                        Ok(written) => {
                            last = written.id().index;
                            expected += 1;
                            return assert!(written.response().unwrap() >= expected);
                        }
                        // None of these did happen, or they may have: the count is at least what is known.
                        Err(WriteError::NotLeader { .. } | WriteError::Superseded { .. }) => {}
                        Err(
                            WriteError::Unknown | WriteError::ResponseLost { .. } | WriteError::Busy { .. },
                        ) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            })
            .await;
        }
        let forwarding = tokio.within(LIMIT).forwarding();
        within(async {
            while forwarding.propose(&"by tokio".to_owned()).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    tokio.wait(LIMIT).applied(last).await.unwrap();
    let read = || |machine: &Machine| machine.application().0.clone();
    let mut states = vec![within(tokio.read(read())).await.unwrap()];
    for (raft, _) in actix.values() {
        states.push(within(raft.send(ClientRead::new(read()))).await.unwrap().unwrap());
    }
    assert!(states.iter().all(|state| *state == states[0] && state["by tokio"] >= 4), "{states:?}");

    // What one driver wrote, the other reads: the third node's directory, on Actix.
    tokio.shutdown().await;
    let third = places.get_mut(&n(3)).unwrap();
    let (log, snapshots) = third.stores(n(3));
    let network = third.network(&members).await;
    let back =
        Builder::new(Config::new(n(3))).start(log, snapshots, Machine::default(), network).await.unwrap();
    let found = within(async {
        loop {
            match back.send(ClientRead::new(read())).await.unwrap() {
                Ok(found) => return found,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert_eq!(found, states[0]);
    within(back.send(Shutdown)).await.unwrap();
    for (raft, _) in actix.values() {
        within(raft.send(Shutdown)).await.unwrap();
    }
}
