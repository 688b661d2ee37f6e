//! Typed commands through the handle.

use bytes::Bytes;
use raft_core::Commands;
use raft_core::host::Codec;
use raft_driver_tokio::storage::{MemoryLog, MemorySnapshots};
use raft_driver_tokio::transport::Channels;
use raft_driver_tokio::{Advice, Builder, Certainty, Postcard, ProposeError, Raft, WriteError};

use crate::common::{BOUND, config, members, node, within};
use crate::tally::{Nothing, Plain, add};

async fn start(log: &MemoryLog, snapshots: &MemorySnapshots) -> Raft<Plain> {
    let builder = Builder::new(config(1));
    let network = Channels::default().endpoint();
    let raft = within(builder.start(log.clone(), snapshots.clone(), Plain::default(), network)).await;
    let raft = raft.expect("starts");
    within(raft.bootstrap(members([1]))).await.expect("pristine, or the same again");
    assert_eq!(raft.wait(BOUND).leader().await.ok(), Some(node(1)));
    raft
}

#[tokio::test]
async fn what_is_rejected_is_never_in_the_log() {
    let raft = start(&MemoryLog::default(), &MemorySnapshots::default()).await;
    let first = within(raft.propose(&add("a", 1))).await.expect("it leads");
    let error = within(raft.propose(&add("a", 0))).await.expect_err("nothing to add");
    assert!(matches!(error, ProposeError::Rejected(Nothing)), "{error}");
    assert_eq!((error.certainty(), error.advice()), (Certainty::DidNotHappen, Advice::GiveUp));
    let committed = within(raft.propose_committed(&add("a", 2))).await.expect("it leads");
    assert_eq!(committed.index, first.id.index.next(), "nothing came between");
    let last = within(raft.propose(&add("a", 4))).await.expect("it leads");
    assert_eq!((first.response, last.response), (1, 7));
    within(raft.shutdown()).await;
    let error = within(raft.propose(&add("a", 1))).await.expect_err("it has stopped");
    assert!(matches!(error, ProposeError::Write(WriteError::Stopped { .. })), "{error}");
    let unknown = ProposeError::<Nothing>::Write(WriteError::Unknown);
    assert_eq!(unknown.advice(), Advice::OutcomeUnknown, "as the write says");
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
async fn bytes_that_are_no_command_are_refused_before_they_stop_every_node() {
    let raft = start(&MemoryLog::default(), &MemorySnapshots::default()).await;
    let first = within(raft.propose(&add("a", 1))).await.expect("it leads");
    let bad = Bytes::from_static(b"\x07 no command");
    let error = within(raft.write(bad.clone())).await.expect_err("it could not be applied");
    assert!(matches!(&error, WriteError::Invalid { command, .. } if *command == bad), "{error}");
    assert_eq!(error.certainty(), Certainty::DidNotHappen);

    // In a batch, the others are not harmed; and a rejected one is a bad one.
    let good = Plain::command(&add("a", 2)).expect("valid");
    let rejected = Postcard::encode(&add("a", 0)).expect("it has bytes");
    let batch = [good.clone(), bad, rejected, good].iter().collect::<Commands>();
    let results = within(raft.write_all(batch)).await;
    let sums: Vec<Option<u64>> =
        results.iter().map(|result| result.as_ref().ok().map(|applied| applied.response)).collect();
    assert_eq!(sums, [Some(3), None, None, Some(5)]);
    let last = results[3].as_ref().expect("it was applied").id;
    assert_eq!(last.index.get(), first.id.index.get() + 2, "nothing else is in the log");
}

#[tokio::test]
async fn a_leader_says_why_it_refuses_what_was_passed_on() {
    let network = Channels::default();
    let mut nodes = Vec::new();
    for id in 1..=2 {
        let (log, snapshots) = (MemoryLog::default(), MemorySnapshots::default());
        let started = Builder::new(config(id)).start(log, snapshots, Plain::default(), network.endpoint());
        nodes.push(within(started).await.expect("starts"));
    }
    within(nodes[0].bootstrap(members([1, 2]))).await.expect("pristine");
    let bad = Postcard::encode(&add("a", 0)).expect("it has bytes");
    // Whichever of the two leads, and though it may change meanwhile.
    for raft in &nodes {
        let why = loop {
            match within(raft.forwarding().write(bad.clone())).await.expect_err("it could not be applied") {
                WriteError::Invalid { why, .. } => break why,
                error => assert_eq!(error.certainty(), Certainty::DidNotHappen, "{error}"),
            }
        };
        assert_eq!(why.to_string(), Nothing.to_string());
    }
}
