//! Whatever keeps the mailbox filled does not keep the node from its turns.

use actix::prelude::*;
use bytes::Bytes;
use raft_core::RoleKind;
use raft_driver_actix::Raft;
use raft_driver_actix::admin::{InitWithConfig, Shutdown};
use raft_driver_actix::messages::{ClientWrite, RaftMessage, ResponseMode};
use raft_driver_actix::metrics::GetMetrics;
use raft_driver_actix::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::transport::Channels;

use crate::journals::{Journal, Net, members, n, start, within};

/// More messages than there are from one turn to the next, and fewer than the mailbox holds.
const FLOOD: usize = 4096;

/// A write comes, then a flood, then a question, all while the node waits: only a turn amid the flood can have proposed
/// the write by the time that the question is answered.
async fn a_turn_comes_amid(flood: impl Fn(&Addr<Raft<Journal>>)) {
    let net = Net::Channels(Channels::default());
    let mut node = start(n(1), MemoryLog::default(), MemorySnapshots::default(), &net).await;
    node.raft.send(InitWithConfig { members: members([1]) }).await.unwrap().unwrap();
    let leads =
        node.metrics.wait_for(|seen| seen.as_ref().is_some_and(|seen| seen.status.role == RoleKind::Leader));
    within(leads).await.unwrap();
    let before = node.raft.send(GetMetrics).await.unwrap().status.last;
    let write = node.raft.send(ClientWrite::new("x", ResponseMode::Committed));
    for _ in 0..FLOOD {
        flood(&node.raft);
    }
    let after = within(node.raft.send(GetMetrics)).await.unwrap().status.last;
    assert!(after > before, "{after} is not beyond {before}");
    within(write).await.unwrap().unwrap();
    within(node.raft.send(Shutdown)).await.unwrap();
}

#[actix::test]
async fn a_flood_of_questions_leaves_the_node_its_turns() {
    a_turn_comes_amid(|raft| raft.do_send(GetMetrics)).await;
}

#[actix::test]
async fn a_flood_of_letters_for_others_leaves_the_node_its_turns() {
    let letter = || RaftMessage::Letter { from: n(2), to: n(3), letter: Bytes::new() };
    a_turn_comes_amid(|raft| raft.do_send(letter())).await;
}
