//! Recordings replay to what was seen.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use proptest::prelude::*;
use raft_core::host::recording::{Ending, RecordedNode, RecorderOptions, Replay, Replayed};
use raft_core::{Action, Entries, Event, Fatal, Instant, LogId, LogRecovery, Node, Recovery, WriteId};

use super::replay;
use super::support::{append, config, id, in_term, message, recover, voters};
use super::world::{Recorded, World, busy, keep, options};

/// Replays the files one by one, each alone; what came out, all in all.
fn replay_all(files: &[Vec<u8>]) -> Vec<Replayed> {
    let mut all = Vec::new();
    for file in files {
        let (steps, ending) = replay(file).expect("what was recorded replays");
        assert_eq!(ending, Some(Ending::Complete));
        assert!(steps.iter().all(|step| step.verified));
        all.extend(steps);
    }
    all
}

/// Holds a replay against what was seen.
fn check(server: &Recorded) {
    let steps = replay_all(&server.files);
    let numbers: Vec<u64> =
        steps.iter().filter(|step| step.event.is_some()).map(|step| step.number).collect();
    assert_eq!(numbers, (0..server.told.len() as u64).collect::<Vec<_>>());
    let told: Vec<(Instant, Event)> = steps.iter().filter_map(|step| step.event.clone()).collect();
    assert_eq!(told, server.told);
    let taken: Vec<Action> = steps.into_iter().flat_map(|step| step.actions).collect();
    assert_eq!(taken, server.taken);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_recorded_life_replays_file_by_file(
        schedule in proptest::collection::vec((any::<u8>(), any::<u8>()), 20..150),
        file_bytes_max in 1..20_000u64,
    ) {
        let mut world = World::new(RecorderOptions { file_bytes_max, ..options() });
        world.live(&schedule);
        world.end();
        world.servers.iter().for_each(check);
    }
}

#[test]
fn what_is_recorded_is_a_whole_life() {
    let mut world = World::new(options());
    world.live(&busy());
    world.end();
    let mut text = String::new();
    for server in &world.servers {
        check(server);
        assert!(server.files.len() > 5, "it rotates: {} files", server.files.len());
        for (_, event) in &server.told {
            let line = serde_json::to_string(event).expect("an event can be written in other formats");
            assert_eq!(&serde_json::from_str::<Event>(&line).expect("and read"), event);
            text += &line;
        }
        for action in &server.taken {
            let line = serde_json::to_string(action).expect("an action can be written in other formats");
            assert_eq!(&serde_json::from_str::<Action>(&line).expect("and read"), action);
        }
    }
    for word in ["Persisted", "Applied", "LogRead", "AppendEntries", "RequestVote", "SnapshotTaken"] {
        assert!(text.contains(word), "no {word}");
    }
}

#[test]
fn a_file_is_its_beginning_and_little_more_than_its_limit() {
    let mut world = World::new(options());
    world.live(&busy());
    world.end();
    let files = &world.servers[0].files;
    let step_bytes_max = 1_000;
    for file in files {
        let (header, frames) = super::frames(file);
        let (beginning, rest) = frames.split_first().expect("a beginning");
        let beginning = (header.len() + beginning.len()) as u64;
        let rest: u64 = rest.iter().map(|frame| frame.len() as u64).sum();
        assert!(rest <= options().file_bytes_max.max(beginning) + step_bytes_max);
    }
}

#[test]
fn a_recording_may_begin_in_the_midst_of_a_life() {
    let mut world = World::new(options());
    let half = busy().len() / 2;
    world.live(&busy()[..half]);
    // Actions that wait are part of the checkpoint.
    (0..3).for_each(|at| world.step(at, 0));
    for server in &mut world.servers {
        server.node.record(options());
        server.files.clear();
        server.told.clear();
        server.taken.clear();
    }
    world.live(&busy()[half..]);
    world.end();
    world.servers.iter().for_each(check);
}

#[test]
fn a_recording_without_an_end_replays_to_its_last_step() {
    let mut world = World::new(RecorderOptions { file_bytes_max: u64::MAX, ..options() });
    world.live(&busy());
    for server in &mut world.servers {
        server.fetch();
        let (steps, ending) = replay(&server.files[0]).expect("it replays");
        assert_eq!(ending, Some(Ending::Open));
        let (last, before) = steps.split_last().expect("there are steps");
        assert!(before.iter().all(|step| step.verified) && !last.verified);
        assert_eq!(last.event.as_ref(), server.told.last());
        let taken: Vec<&Action> = before.iter().flat_map(|step| &step.actions).collect();
        assert!(taken.into_iter().eq(&server.taken[..before.iter().map(|step| step.actions.len()).sum()]));
    }
}

#[test]
fn what_nobody_fetches_is_dropped_and_the_next_file_replays_alone() {
    let mut world = World::new(RecorderOptions { buffer_bytes_max: 3_000, ..options() });
    let quiet: Vec<(u8, u8)> = busy().into_iter().filter(|(what, _)| what % 16 != 8).collect();
    world.live(&quiet);
    let server = &mut world.servers[0];
    let missed = server.node.steps_missed();
    assert!(missed > 100, "{missed}");
    server.fetch();
    let bytes: usize = server.files.iter().map(Vec::len).sum();
    assert!(bytes < 20_000, "{bytes} bytes waited");
    let kept = replay_all(&server.files).iter().filter(|step| step.event.is_some()).count() as u64;
    assert_eq!(kept + missed, server.told.len() as u64);
    let (files, told) = (server.files.len(), server.told.len() as u64);
    world.live(&[(15 * 16, 192)]);
    world.end();
    let server = &world.servers[0];
    let steps = replay_all(&server.files[files..]);
    assert_eq!((steps[0].number, server.node.is_recorded()), (told, false));
}

#[test]
fn a_disk_that_fails_costs_what_it_did_not_take() {
    let mut world = World::new(options());
    world.live(&busy());
    let server = &mut world.servers[0];
    assert_eq!(server.node.fetch(|_| Err("disk full")), Err("disk full"));
    server.files.clear();
    let before = server.told.len() as u64;
    world.live(&busy());
    world.end();
    let server = &world.servers[0];
    let steps = replay_all(&server.files);
    assert_eq!(steps[0].number, before);
}

#[test]
fn a_driver_that_broke_a_duty_is_seen_to_do_so() {
    let recovery =
        Recovery { log: LogRecovery::default(), snapshot: None, applied: LogId::ZERO, incarnation: 1 };
    let mut node = RecordedNode::start(config(1), recovery, Instant::ZERO, options()).expect("pristine");
    while node.poll_action().is_some() {}
    let never: WriteId = serde_json::from_str("99").expect("a number");
    let fatal = node.step(Instant::ZERO, Event::Persisted(never));
    assert_eq!(fatal, Err(Fatal::UnknownWrite(never)));
    assert_eq!(node.poll_action(), None);
    let mut files = Vec::new();
    node.end_recording(|part| keep(&mut files, part)).expect("memory takes anything");
    let steps = replay_all(&files);
    assert_eq!(steps.last().map(|step| step.result), Some(fatal));
}

/// A node that no run leads to stands for one with a bug: an assertion of its own stops it.
#[test]
fn a_step_that_panics_is_on_record() {
    let start = Entries::membership(id(1, 1), Arc::new(voters(1..=3)));
    let recovery =
        Recovery { log: recover(in_term(2), &start), snapshot: None, applied: id(1, 1), incarnation: 1 };
    let mut node = Node::start(config(1), recovery, Instant::ZERO).expect("sound");
    let hears = |commit, round| {
        let entries = append(id(1, 1), Entries::empty(), commit, round);
        Event::Receive(message(2, 1, 2, entries))
    };
    node.step(Instant::ZERO, hears(1, 1)).expect("a leader");
    let mut value = serde_json::to_value(&node).expect("a node can be written in other formats");
    *value.pointer_mut("/role/Follower/verified").expect("what it shares with its leader") = 9.into();
    let mut node = RecordedNode::from(serde_json::from_value::<Node>(value).expect("a node"));
    node.record(options());
    let step = catch_unwind(AssertUnwindSafe(|| node.step(Instant::ZERO, hears(9, 2))));
    step.expect_err("the commit index passes the end of the log");
    let mut files = Vec::new();
    node.fetch(|part| keep(&mut files, part)).expect("memory takes anything");

    let mut replay = Replay::open(files.swap_remove(0).into(), crc32fast::hash).expect("a recording");
    let beginning = replay.next_step().expect("nothing differs").expect("there is a beginning");
    assert!(beginning.verified && beginning.event.is_none());
    assert!(replay.upcoming().is_some_and(|line| line.contains("commit=9 round=2")));
    catch_unwind(AssertUnwindSafe(|| replay.next_step())).expect_err("it panics again");
}

#[test]
fn a_node_that_is_not_recorded_is_the_node() {
    let recovery =
        Recovery { log: LogRecovery::default(), snapshot: None, applied: LogId::ZERO, incarnation: 1 };
    let plain = Node::start(config(1), recovery, Instant::ZERO).expect("pristine");
    let mut node = RecordedNode::from(plain.clone());
    assert!(!node.is_recorded() && node.steps_missed() == 0);
    node.step(Instant::ZERO, Event::Wake).expect("harmless");
    node.fetch(|part| Err(part.bytes.len())).expect("there is nothing to fetch");
    let mut same = plain;
    same.step(Instant::ZERO, Event::Wake).expect("harmless");
    assert_eq!(format!("{:?}", node.into_node()), format!("{same:?}"));
}
