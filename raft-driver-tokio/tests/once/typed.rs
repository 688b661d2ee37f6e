//! Typed commands through the handle.

use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{Builder, Certainty, ProposeError, Raft, StopReason, WriteError};

use crate::common::{BOUND, config, leader, members, node, within};
use crate::tally::{Nothing, Plain, add};

async fn start(log: &MemoryLog, snapshots: &MemorySnapshots) -> Raft<Plain> {
    let builder = Builder::new(config(1));
    let network = Channels::default().endpoint();
    let raft = within(builder.start(log.clone(), snapshots.clone(), Plain::default(), network)).await;
    let raft = raft.expect("starts");
    within(raft.bootstrap(members([1]))).await.expect("pristine, or the same again");
    assert_eq!(raft.wait_for_leader(BOUND).await, Some(node(1)));
    raft
}

#[tokio::test]
async fn what_is_rejected_is_never_in_the_log() {
    let raft = start(&MemoryLog::default(), &MemorySnapshots::default()).await;
    let first = within(raft.propose(&add("a", 1))).await.expect("it leads");
    let error = within(raft.propose(&add("a", 0))).await.expect_err("nothing to add");
    assert!(matches!(error, ProposeError::Rejected(Nothing)), "{error}");
    assert_eq!(error.certainty(), Certainty::DidNotHappen);
    let committed = within(raft.propose_committed(&add("a", 2))).await.expect("it leads");
    assert_eq!(committed.index, first.id.index.next(), "nothing came between");
    let last = within(raft.propose(&add("a", 4))).await.expect("it leads");
    assert_eq!((first.response, last.response), (1, 7));
    within(raft.shutdown()).await;
    let error = within(raft.propose(&add("a", 1))).await.expect_err("it has stopped");
    assert!(matches!(error, ProposeError::Write(WriteError::Stopped { .. })), "{error}");
}

#[tokio::test]
async fn a_small_state_is_kept_and_taken_from_snapshots_without_code() {
    let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
    let raft = start(&log, &snapshots).await;
    for amount in 1..=5 {
        within(raft.propose(&add("a", amount))).await.expect("it leads");
    }
    within(raft.snapshot()).await.expect("something was applied");
    within(raft.propose(&add("b", 7))).await.expect("it leads");
    within(raft.shutdown()).await;

    let raft = start(&log, &snapshots).await;
    let tally = |machine: &Plain| (machine.application().sums.clone(), machine.application().commands);
    let (sums, commands) = within(raft.read(tally)).await.expect("it leads");
    assert_eq!((sums["a"], sums["b"], commands), (15, 7, 6));
}

#[tokio::test]
async fn a_command_that_cannot_be_decoded_stops_the_node() {
    let raft = start(&MemoryLog::default(), &MemorySnapshots::default()).await;
    let raft = leader(&[raft]).await;
    let error = within(raft.write(&b"\x07 no command"[..])).await.expect_err("it cannot be applied");
    assert_ne!(error.certainty(), Certainty::DidNotHappen);
    let reason = within(raft.stopped()).await;
    assert!(matches!(reason, StopReason::Machine(_)), "{reason}");
    assert!(reason.to_string().contains("cannot be decoded"), "{reason}");
}
