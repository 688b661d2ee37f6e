//! The shortest possible: a state machine of one's own, kept by three nodes in this process.
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use raft_core::host::{Application, Typed};
use raft_core::{Config, LogId, NodeId};
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::{Builder, Postcard, transport::Channels};
use serde::{Deserialize, Serialize};

/// How much is in each account.
#[derive(Default, Serialize, Deserialize)]
struct Bank(BTreeMap<String, u64>);

/// What is written to the log.
#[derive(Serialize, Deserialize)]
struct Deposit(String, u64);

impl Application for Bank {
    type Command = Deposit;
    type Response = u64;
    type Rejection = Infallible;
    type Error = Infallible;

    fn apply(&mut self, Deposit(account, amount): Deposit, _: LogId) -> Result<u64, Infallible> {
        let balance = self.0.entry(account).or_default();
        *balance = balance.saturating_add(amount);
        Ok(*balance)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (network, mut nodes) = (Channels::default(), Vec::new());
    for id in 1..=3 {
        let machine = Typed::<Bank, Postcard>::default();
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let builder = Builder::new(Config::new(NodeId::new(id)));
        let node = builder.start(log, snapshots, machine, network.endpoint()).await?;
        nodes.push(node.within(Duration::from_secs(10)).forwarding()); // any node takes writes
    }
    nodes[0].bootstrap((1..=3).map(|id| (NodeId::new(id), "in this process".into())).collect()).await?;
    for (amount, node) in (1..=9).zip(nodes.iter().cycle()) {
        // A node that knows no leader yet refuses at once.
        node.wait(Duration::from_secs(10)).leader().await?;
        let balance = node.propose(&Deposit("alice".into(), amount)).await?.response;
        println!("node {} deposited {amount}: {balance}", node.id());
    }
    let balance = nodes[2].read(|bank| bank.application().0["alice"]).await?;
    println!("node 3 reads {balance}");
    Ok(())
}
