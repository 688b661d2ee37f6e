//! The shortest possible: a state machine of one's own, kept by three nodes in this process.
use std::{array::TryFromSliceError, time::Duration};

use raft_core::host::{RestoreError, SnapshotSource, StateMachine, WholeState};
use raft_core::{Config, Entries, EntryRef, NodeId};
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::{Builder, transport::Channels};

/// A sum. Each command is a number to add; each response is the sum then.
#[derive(Default)]
struct Sum(u64);

impl StateMachine for Sum {
    type Response = u64;
    type Snapshot = WholeState;
    type Error = TryFromSliceError;

    fn apply(&mut self, entries: &Entries, responses: &mut Vec<u64>) -> Result<(), Self::Error> {
        for entry in entries.iter() {
            if let EntryRef::Command(_, command) = entry {
                self.0 = self.0.wrapping_add(u64::from_le_bytes(command[..].try_into()?));
                responses.push(self.0);
            }
        }
        Ok(())
    }

    fn snapshot(&mut self) -> Result<WholeState, Self::Error> {
        Ok(WholeState::new(self.0.to_le_bytes().to_vec()))
    }

    fn restore(&mut self, source: &mut SnapshotSource<'_>) -> Result<(), RestoreError<Self::Error>> {
        let mut sum = [0; 8];
        source.read_exact(&mut sum)?;
        self.0 = u64::from_le_bytes(sum);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (network, mut nodes) = (Channels::default(), Vec::new());
    for id in 1..=3 {
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let builder = Builder::new(Config::new(NodeId::new(id)));
        let node = builder.start(log, snapshots, Sum::default(), network.endpoint()).await?;
        nodes.push(node.within(Duration::from_secs(10)).forwarding()); // any node takes writes
    }
    let members = (1..=3).map(|id| (NodeId::new(id), "in this process".into())).collect();
    nodes[0].bootstrap(members).await?;
    for (number, node) in (1..=9_u64).zip(nodes.iter().cycle()) {
        node.wait(Duration::from_secs(10)).leader().await?;
        let sum = node.write(number.to_le_bytes().to_vec()).await?.response;
        println!("node {} added {number}: {sum}", node.id());
    }
    println!("node 3 reads {}", nodes[2].read(|machine| machine.0).await?);
    Ok(())
}
