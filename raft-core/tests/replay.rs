//! A recorded run replays to the same digest, also from JSON: configuration, recovery, then (now, event, how many actions
//! were taken before the next step, their digest).
//!
//! Actions are built late, so when they are taken is an input too: the recordings here take a few at a time.

#![cfg(feature = "serde")]

mod support;

use std::collections::VecDeque;

use proptest::prelude::*;
use raft_core::{Action, Config, Event, Instant, LogId, Node, Recovery, SnapshotPolicy, Ticket};
use serde::{Deserialize, Serialize};
use support::{Store, config, members, n, target};

/// One call of `step`, and the actions that were taken before the next one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Step {
    now: Instant,
    event: Event,
    actions: u64,
    digest: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Recording {
    config: Config,
    recovery: Recovery,
    /// Taken before the first step.
    actions: u64,
    digest: u32,
    steps: Vec<Step>,
}

/// The digest of actions as text: what a node that does something else cannot have.
fn digest(actions: &[Action]) -> u32 {
    crc32fast::hash(&serde_json::to_vec(actions).expect("actions can be written"))
}

fn take(node: &mut Node, most: u64) -> Vec<Action> {
    (0..most).map_while(|_| node.poll_action()).collect()
}

/// Does what was recorded; the first step that came out otherwise, if any.
fn replay(recording: &Recording) -> Option<usize> {
    let (config, recovery) = (recording.config.clone(), recording.recovery.clone());
    let mut node = Node::start(config, recovery, Instant::ZERO).expect("it has started once");
    if digest(&take(&mut node, recording.actions)) != recording.digest {
        return Some(0);
    }
    let differs = |(step, node): (&Step, &mut Node)| {
        node.step(step.now, step.event.clone()).expect("the driver keeps its duties");
        digest(&take(node, step.actions)) != step.digest
    };
    recording.steps.iter().position(|step| differs((step, &mut node)))
}

/// Three servers that are recorded, each with a queue of what it is to be told.
struct Recorder {
    nodes: Vec<(Node, Recording, support::Server, VecDeque<Event>)>,
    now: Instant,
}

impl Recorder {
    fn new() -> Self {
        let nodes = (1..=3).map(|server| {
            let mut config = config(server);
            config.tail_bytes_max = 300;
            config.snapshot_policy = SnapshotPolicy::LogsSinceLast(7);
            config.compaction_margin_entries = 2;
            config.snapshot_chunk_bytes = 20;
            let disk = Store::default();
            let recovery =
                Recovery { log: disk.recover(), snapshot: None, applied: LogId::ZERO, incarnation: server };
            let node = Node::start(config.clone(), recovery.clone(), Instant::ZERO).expect("pristine");
            let host = support::Server::from_disk(config.clone(), disk, Instant::ZERO);
            let recording =
                Recording { config, recovery, actions: 0, digest: digest(&[]), steps: Vec::new() };
            let first = Event::Bootstrap { ticket: Ticket::new(0), members: members(1..=3) };
            (node, recording, host, VecDeque::from([first]))
        });
        Self { nodes: nodes.collect(), now: Instant::ZERO }
    }

    /// The next event of a server, and at most so many of the actions that wait.
    fn step(&mut self, at: usize, most: u64) {
        let (node, recording, host, queue) = &mut self.nodes[at];
        let event = match (queue.pop_front(), node.deadline()) {
            (Some(event), _) => event,
            (None, deadline) => {
                self.now = self.now.max(deadline.unwrap_or(self.now));
                Event::Wake
            }
        };
        node.step(self.now, event.clone()).expect("the driver keeps its duties");
        let actions = take(node, most);
        let (now, taken) = (self.now, actions.len() as u64);
        recording.steps.push(Step { now, event, actions: taken, digest: digest(&actions) });
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Send(message) => sent.push(message),
                other => queue.extend(host.perform(other, support::Pace::default())),
            }
        }
        for message in sent {
            let to = message.to.get() as usize - 1;
            if to < 3 && self.nodes[to].3.len() < 100 {
                self.nodes[to].3.push_back(Event::Receive(message));
            }
        }
    }

    fn tell(&mut self, at: usize, event: Event) {
        self.nodes[at].3.push_back(event);
    }
}

/// A life of three servers drawn from `steps`, one recording each.
fn record(steps: &[(u8, u8)]) -> Vec<Recording> {
    let mut recorder = Recorder::new();
    for (ticket, (what, which)) in (1..).zip(steps) {
        let (at, ticket) = (usize::from(which % 3), Ticket::new(ticket * 10));
        match what % 16 {
            0 => recorder.tell(at, Event::Campaign { ticket }),
            1 | 2 => {
                let commands = ["a", &"b".repeat(100)].iter().collect();
                recorder.tell(at, Event::Propose { first: ticket, commands });
            }
            3 => recorder.tell(at, Event::TakeSnapshot { ticket }),
            4 => recorder.tell(at, Event::TransferLeadership { ticket, to: None }),
            5 => {
                let learners = target(&[1, 2], &[3]);
                let target = if which.is_multiple_of(2) { learners } else { target(&[1, 2, 3], &[]) };
                let change = raft_core::MembershipChange::Set { target, addresses: members(1..=3) };
                recorder.tell(at, Event::ChangeMembership { ticket, change: Box::new(change) });
            }
            6 => recorder.tell(at, Event::Unreachable(n(u64::from(which % 3) + 1))),
            // A queue that is lost, but for what the server's own devices report.
            7 => recorder.nodes[at].3.retain(|event| !matches!(event, Event::Receive(_))),
            _ => {}
        }
        // Sometimes nothing is taken for a while, and then all at once.
        for round in 0..u64::from(what / 16) {
            recorder.step((at + round as usize) % 3, [0, 1, 3, 100][usize::from(which / 64)]);
        }
    }
    recorder.nodes.into_iter().map(|(_, recording, ..)| recording).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_recorded_run_replays_to_the_same_digests_also_from_json(
        steps in proptest::collection::vec((any::<u8>(), any::<u8>()), 20..150),
    ) {
        for recording in record(&steps) {
            prop_assert_eq!(replay(&recording), None);
            let text = serde_json::to_string(&recording).expect("a recording can be written");
            let read: Recording = serde_json::from_str(&text).expect("what was written can be read");
            prop_assert_eq!(&read, &recording);
            prop_assert_eq!(replay(&read), None);
        }
    }
}

/// A fixed schedule that gets somewhere.
fn busy() -> Vec<(u8, u8)> {
    let beat = |at: u8| (15 * 16 + 8, 192 + at);
    let mut steps = vec![(15 * 16, 192)];
    for round in 0..60u8 {
        steps.extend([beat(round), (5 * 16 + 1, 192), (3 * 16 + round % 8, 193), beat(1), (9 * 16 + 2, 64)]);
    }
    steps
}

#[test]
fn what_is_recorded_is_a_whole_life() {
    let recordings = record(&busy());
    let text = serde_json::to_string(&recordings).expect("recordings can be written");
    for word in ["Persisted", "Applied", "LogRead", "AppendEntries", "RequestVote", "SnapshotTaken"] {
        assert!(text.contains(word), "no {word} in {} steps", recordings[0].steps.len());
    }
    assert!(recordings.iter().all(|recording| replay(recording).is_none()));
}

#[test]
fn a_recording_that_was_changed_does_not_replay() {
    let recording = record(&busy()).swap_remove(0);
    assert_eq!(replay(&recording), None);
    // Another seed draws other timeouts, and a later clock sees other deadlines.
    let mut other = recording.clone();
    other.config.seed += 1;
    assert!(replay(&other).is_some());
    // Something that was said never arrives.
    let heard = recording.steps.iter().position(|step| step.actions > 2).expect("something happens");
    let mut shorter = recording.clone();
    shorter.steps.remove(heard);
    assert!(replay(&shorter).is_some());
    // Actions taken at another time are other actions.
    let mut later = recording;
    let late = later.steps.iter().position(|step| step.actions > 3).expect("several at once");
    later.steps[late].actions -= 1;
    assert!(replay(&later).is_some());
}
