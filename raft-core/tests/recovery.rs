//! Starting from what survived, what a driver may not do, and that a node is the same wherever it lives.

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use raft_core::{
    Action, Config, ConfigError, Entries, Event, Fatal, Instant, LogId, LogIndex, LogReadError, LogRecovery,
    LogTask, MachineTask, Membership, MembershipError, Node, ReadId, Recovery, SnapshotMeta, StartError,
    Term, TermRun, Ticket, WriteId,
};
use support::{Cluster, append, at, commands, id, in_term, log, message, n};

fn start_from(log: LogRecovery, applied: LogId) -> Result<Node, StartError> {
    Node::start(Config::new(n(1)), Recovery { log, snapshot: None, applied, incarnation: 1 }, Instant::ZERO)
}

fn found(term: u64, terms: &[u64]) -> LogRecovery {
    support::recover(in_term(term), &log(3, terms))
}

fn actions(node: &mut Node) -> Vec<Action> {
    core::iter::from_fn(|| node.poll_action()).collect()
}

// --- start -------------------------------------------------------------------------------------------------------

#[test]
fn what_the_state_machine_holds_is_committed_and_not_applied_again() {
    let stored = log(3, &[1, 4, 4, 4]);
    let mut node = start_from(support::recover(in_term(4), &stored), id(4, 3)).expect("sound");
    let status = node.status();
    assert_eq!((status.commit, status.applied, status.durable), (at(3), at(3), at(4)));
    let is_machine = |action: &Action| matches!(action, Action::Machine(_) | Action::ReadLog { .. });
    assert!(!actions(&mut node).iter().any(is_machine), "it holds all that is known to be committed");
    let heartbeat = append(id(4, 4), Entries::empty(), 4, 1);
    node.step(Instant::ZERO, Event::Receive(message(2, 1, 5, heartbeat))).expect("sound");
    let read = actions(&mut node).into_iter().find_map(|action| match action {
        Action::ReadLog { read, from, .. } => Some((read, from)),
        _ => None,
    });
    // The hard state of term 5 is not durable, but entry 4 is: it may be applied.
    let (read, from) = read.expect("it was never in memory");
    assert_eq!(from, at(4));
    node.step(Instant::ZERO, Event::LogRead { read, result: Ok(stored.slice(at(4), at(4))) }).expect("sound");
    let applied = actions(&mut node).into_iter().find_map(|action| match action {
        Action::Machine(MachineTask::Apply(entries)) => Some(entries),
        _ => None,
    });
    assert_eq!(applied.and_then(|entries| entries.first().zip(entries.last())), Some((id(4, 4), id(4, 4))));
    // Nothing was applied twice, so a report of what it held before is nothing new.
    node.step(Instant::ZERO, Event::Applied(at(3))).expect("sound");
    assert_eq!(node.status().applied, at(3));
}

#[test]
fn what_contradicts_itself_does_not_start() {
    assert!(start_from(found(4, &[1, 4]), LogId::ZERO).is_ok());
    let refused = |log, applied| start_from(log, applied).expect_err("it contradicts itself");
    assert_eq!(
        refused(found(3, &[1, 4]), LogId::ZERO),
        StartError::HardStateBehindLog { hard_state: Term::new(3), last: id(4, 2) }
    );
    assert_eq!(
        refused(found(Term::LIMIT.get(), &[1, 4]), LogId::ZERO),
        StartError::TermTooLarge(Term::LIMIT)
    );
    let applied = id(4, 3);
    assert_eq!(refused(found(4, &[1, 4]), applied), StartError::AppliedBeyondLog { applied, last: id(4, 2) });
    let applied = id(3, 2);
    assert_eq!(
        refused(found(4, &[1, 4]), applied),
        StartError::AppliedDiffers { applied, term: Term::new(4) }
    );
    let bad_terms = LogRecovery { last: id(4, 3), terms: vec![], ..found(4, &[1, 4]) };
    assert_eq!(refused(bad_terms, LogId::ZERO), StartError::BadTerms { base: LogId::ZERO, last: id(4, 3) });
    let compacted = LogRecovery {
        base: id(1, 7),
        last: id(4, 8),
        terms: vec![TermRun { term: Term::new(4), first: at(8) }],
        memberships: vec![],
        ..found(4, &[1, 4])
    };
    assert_eq!(refused(compacted, LogId::ZERO), StartError::MissingSnapshot(id(1, 7)));
}

/// A crash between a snapshot's last chunk and the log's reset leaves a log that it is going to replace.
#[test]
fn the_configuration_in_force_is_known_before_the_node_starts() {
    let of = |voters| Arc::new(Membership::of_voters(support::members(1..=voters)));
    let in_log = vec![(at(1), of(3)), (at(3), of(4))];
    let log = LogRecovery { memberships: in_log, ..found(4, &[1, 4, 4, 4]) };
    let in_snapshot = |last, membership_index, voters| {
        let mut meta = support::snapshot_meta(last, 1, voters, b"");
        meta.membership_index = at(membership_index);
        Some(Arc::new(meta))
    };
    let force = |log: &LogRecovery, snapshot: Option<Arc<SnapshotMeta>>| {
        let before = log.membership(snapshot.as_deref()).map(|membership| membership.voters.len());
        let recovery = Recovery { log: log.clone(), snapshot, applied: LogId::ZERO, incarnation: 1 };
        let node = Node::start(Config::new(n(1)), recovery, Instant::ZERO).expect("sound");
        let after = node.membership().voters.len();
        assert_eq!(before.unwrap_or_default(), after);
        after
    };
    assert_eq!(force(&LogRecovery::default(), None), 0);
    assert_eq!(force(&log, None), 4);
    assert_eq!(force(&log, in_snapshot(id(4, 2), 1, 3)), 4, "the log goes on");
    assert_eq!(force(&log, in_snapshot(id(4, 4), 3, 4)), 4, "the log has nothing later");
    assert_eq!(force(&log, in_snapshot(id(4, 9), 8, 5)), 5, "the snapshot is newer");
    assert_eq!(force(&log, in_snapshot(id(4, 9), 1, 3)), 3, "what the log has was never committed");
    assert_eq!(force(&log, in_snapshot(id(3, 2), 2, 5)), 5, "nor here");
}

#[test]
fn memberships_that_cannot_be_used_do_not_start() {
    let sound = Arc::new(Membership::of_voters(support::members(1..=3)));
    let nobody = Arc::<Membership>::default();
    let with = |memberships| start_from(LogRecovery { memberships, ..found(4, &[1, 4]) }, LogId::ZERO);
    assert!(with(vec![(at(1), Arc::clone(&sound)), (at(2), Arc::clone(&sound))]).is_ok());
    let refused = |memberships| with(memberships).expect_err("it cannot be used");
    assert_eq!(refused(vec![(at(1), nobody)]), StartError::Membership(at(1), MembershipError::NoVoters));
    for wrong in [
        vec![(at(3), Arc::clone(&sound))],
        vec![(at(1), Arc::clone(&sound)), (at(1), Arc::clone(&sound))],
        vec![(LogIndex::ZERO, Arc::clone(&sound))],
    ] {
        let index = wrong.last().map_or(at(0), |(index, _)| *index);
        assert_eq!(refused(wrong), StartError::MembershipIndex(index));
    }
}

#[test]
fn configurations_that_cannot_be_used_do_not_start() {
    type Adjust = fn(&mut Config);
    let zero: [(&str, Adjust); 14] = [
        ("command_bytes_max", |config| config.command_bytes_max = 0),
        ("append_entries_max", |config| config.append_entries_max = 0),
        ("append_bytes_max", |config| config.append_bytes_max = 0),
        ("inflight_appends_max", |config| config.inflight_appends_max = 0),
        ("inflight_bytes_max", |config| config.inflight_bytes_max = 0),
        ("writes_inflight_max", |config| config.writes_inflight_max = 0),
        ("write_bytes_max", |config| config.write_bytes_max = 0),
        ("unpersisted_bytes_max", |config| config.unpersisted_bytes_max = 0),
        ("uncommitted_bytes_max", |config| config.uncommitted_bytes_max = 0),
        ("unapplied_bytes_max", |config| config.unapplied_bytes_max = 0),
        ("apply_bytes_max", |config| config.apply_bytes_max = 0),
        ("tail_bytes_max", |config| config.tail_bytes_max = 0),
        ("pending_proposals_max", |config| config.pending_proposals_max = 0),
        ("pending_reads_max", |config| config.pending_reads_max = 0),
    ];
    let others: [(ConfigError, Adjust); 6] = [
        (ConfigError::ElectionTimeoutRange, |config| {
            config.election_timeout_max = config.election_timeout_min
        }),
        (ConfigError::HeartbeatInterval, |config| config.heartbeat_interval = core::time::Duration::ZERO),
        (ConfigError::HeartbeatInterval, |config| config.heartbeat_interval = config.election_timeout_min),
        (ConfigError::TooLarge("command_bytes_max", 1 << 30), |config| config.command_bytes_max = 1 << 31),
        (ConfigError::TooLarge("writes_inflight_max", 1 << 10), |config| {
            config.writes_inflight_max = 1 << 11
        }),
        (ConfigError::TooLarge("pending_reads_max", 1 << 40), |config| config.pending_reads_max = 1 << 41),
    ];
    let zero = zero.into_iter().map(|(name, adjust)| (ConfigError::Zero(name), adjust));
    for (expected, adjust) in zero.chain(others) {
        let mut config = Config::new(n(1));
        adjust(&mut config);
        let recovery =
            Recovery { log: LogRecovery::default(), snapshot: None, applied: LogId::ZERO, incarnation: 1 };
        let refused = Node::start(config, recovery, Instant::ZERO).expect_err("it cannot be used");
        assert_eq!(refused, StartError::Config(expected));
    }
}

#[test]
fn incarnations_draw_other_election_timeouts() {
    let deadline = |incarnation| {
        let recovery = Recovery { log: found(4, &[1, 4]), snapshot: None, applied: LogId::ZERO, incarnation };
        Node::start(Config::new(n(1)), recovery, Instant::ZERO).expect("sound").deadline().expect("a voter")
    };
    let drawn: std::collections::BTreeSet<_> = (1..=20).map(deadline).collect();
    assert!(drawn.len() > 10, "{drawn:?}");
    let config = Config::new(n(1));
    let earliest = Instant::ZERO + config.election_timeout_min;
    let latest = Instant::ZERO + config.election_timeout_max;
    assert!(drawn.iter().all(|deadline| (earliest..latest).contains(deadline)));
}

// --- what a driver may not do --------------------------------------------------------------------------------------

/// Ids have no public constructor; only a broken driver makes one up.
fn forged_write(id: u64) -> WriteId {
    serde_json::from_value(id.into()).expect("a number")
}

fn forged_read(id: u64) -> ReadId {
    serde_json::from_value(id.into()).expect("a number")
}

#[test]
fn a_broken_duty_is_fatal_and_stays_so() {
    let unknown: [(Event, Fatal); 2] = [
        (Event::Persisted(forged_write(99)), Fatal::UnknownWrite(forged_write(99))),
        (Event::Applied(at(99)), Fatal::UnknownApplied(at(99), at(2))),
    ];
    for (event, fatal) in unknown {
        let cluster = Cluster::led(3);
        let mut node = cluster.servers[&1].node.clone();
        let now = cluster.now;
        node.step(now, Event::Propose { first: Ticket::new(7), commands: ["a"].iter().collect() })
            .expect("sound");
        assert_eq!(node.step(now, event), Err(fatal));
        assert_eq!((node.poll_action(), node.deadline()), (None, None), "it vouches for nothing any more");
        assert_eq!(node.step(now, Event::Wake), Err(fatal));
        assert_eq!(node.step(now, Event::Persisted(forged_write(1))), Err(fatal));
        assert_eq!(node.poll_action(), None);
    }
}

#[test]
fn a_write_reported_again_proves_nothing_new() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["a"]);
    cluster.propose(1, &["b"]);
    let first = cluster.servers[&1].unsynced[0].id;
    cluster.sync_one(1);
    let before = cluster.servers[&1].node.status();
    assert_eq!(before.durable, at(3));
    for id in [first, forged_write(1)] {
        cluster.step(1, Event::Persisted(id));
        assert_eq!(cluster.servers[&1].node.status(), before);
    }
}

#[test]
fn a_report_covers_every_write_before_it() {
    let mut cluster = Cluster::led(3);
    cluster.slow_disks = vec![1];
    cluster.propose(1, &["a"]);
    cluster.propose(1, &["b"]);
    let last = cluster.servers[&1].unsynced[1].id;
    cluster.step(1, Event::Persisted(last));
    assert_eq!(cluster.servers[&1].node.status().durable, at(4));
}

#[test]
fn an_apply_reported_again_changes_nothing() {
    let mut cluster = Cluster::led(3);
    cluster.propose(1, &["a"]);
    cluster.settle();
    let before = cluster.servers[&1].node.status();
    cluster.step(1, Event::Applied(at(1)));
    assert_eq!((before.applied, cluster.servers[&1].node.status()), (at(3), before));
}

/// A node that asks its log store for entries 1 to 3 of [1, 4, 4], and the id of that read.
fn reading() -> (Cluster, support::LogRead) {
    let mut cluster = Cluster::veteran(3, 4, &[1, 4, 4]);
    cluster.slow_reads = vec![1];
    cluster.poll(1);
    if cluster.servers[&1].log_reads.is_empty() {
        cluster.step(1, Event::Receive(message(2, 1, 5, append(id(4, 3), Entries::empty(), 3, 1))));
    }
    let asked = *cluster.servers[&1].log_reads.front().expect("nothing is in memory after a start");
    (cluster, asked)
}

#[test]
fn a_store_that_returns_other_entries_than_it_was_given_is_fatal() {
    let stored = log(3, &[1, 4, 4]);
    let (_, asked) = reading();
    let (from, through) = (asked.from, asked.through);
    let sound = stored.slice(from, through);
    let foreign = Entries::join([sound.slice(from, through.prev()), commands(id(9, through.get()), &["x"])]);
    let foreign = foreign.unwrap_or_else(|_| commands(id(9, from.get()), &["x"]));
    let longer = Entries::join([sound.clone(), commands(id(4, through.get() + 1), &["x"])]);
    let wrong: [Result<Entries, LogReadError>; 5] = [
        Ok(foreign),
        Ok(Entries::empty()),
        Ok(longer.expect("consecutive")),
        Ok(commands(id(4, from.get() + 1), &["x"])),
        Err(LogReadError::Gone),
    ];
    for result in wrong {
        let (mut cluster, asked) = reading();
        let now = cluster.now;
        let node = &mut cluster.server(1).node;
        let got = node.step(now, Event::LogRead { read: asked.read, result: result.clone() });
        assert_eq!(got, Err(Fatal::LogMismatch(asked.read, asked.from)), "{result:?}");
        assert_eq!(node.poll_action(), None);
    }
    let (mut cluster, asked) = reading();
    cluster.step(1, Event::LogRead { read: asked.read, result: Ok(sound) });
    assert_eq!(cluster.servers[&1].applied_index, through);
}

#[test]
fn an_answer_to_a_read_that_nobody_waits_for_is_nothing() {
    let (mut cluster, asked) = reading();
    let before = cluster.servers[&1].node.status();
    for result in [Ok(commands(id(9, 1), &["x"])), Err(LogReadError::Gone)] {
        cluster.step(1, Event::LogRead { read: forged_read(99), result });
    }
    assert_eq!(cluster.servers[&1].node.status(), before);
    cluster.answer_reads(1);
    let applied = cluster.servers[&1].applied_index;
    assert!(applied >= asked.from);
    // The same answer once more, and another one.
    cluster.step(1, asked.answer(&log(3, &[1, 4, 4])));
    cluster.step(1, Event::LogRead { read: asked.read, result: Err(LogReadError::Gone) });
    assert_eq!(cluster.servers[&1].applied_index, applied);
}

// --- a node is a value ---------------------------------------------------------------------------------------------

/// A busy life of three servers drawn from `steps`: everything that their nodes handed out, and their deadlines.
fn life(steps: &[(u8, u8)], after_step: fn(&mut Node)) -> (Vec<(u64, Action)>, Vec<Option<Instant>>) {
    let mut cluster = Cluster::with(3, |config| config.tail_bytes_max = 300);
    cluster.after_step = after_step;
    cluster.trace = Some(Vec::new());
    cluster.bootstrap();
    let mut deadlines = Vec::new();
    for (what, which) in steps {
        let server = u64::from(which % 3) + 1;
        match what % 12 {
            0 | 1 => cluster.time_out(server),
            2 => drop(cluster.propose(server, &["a", &"b".repeat(100), "c"])),
            3 => drop(cluster.read(server)),
            4 => {
                // Not always the oldest: messages overtake each other.
                let at = usize::from(*which) % cluster.wire.len().max(1);
                if let Some(message) = cluster.wire.remove(at) {
                    cluster.deliver(message);
                }
            }
            5 => {
                cluster.hurry_disks();
                cluster.slow_disks = vec![server];
            }
            6 => cluster.hurry_disks(),
            7 => cluster.step(server, Event::Unreachable(n(server % 3 + 1))),
            8 => cluster.cut = vec![server],
            9 => cluster.cut.clear(),
            _ => (0..20).for_each(|_| {
                if let Some(message) = cluster.wire.pop_front() {
                    cluster.deliver(message);
                }
            }),
        }
        deadlines.extend(cluster.servers.values().map(|server| server.node.deadline()));
    }
    (cluster.trace.take().expect("kept"), deadlines)
}

fn through_json(node: &mut Node) {
    let text = serde_json::to_string(node).expect("a node can be written");
    *node = serde_json::from_str(&text).expect("what was written can be read");
}

fn through_clone(node: &mut Node) {
    let clone = node.clone();
    *node = clone;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_calls_give_the_same_actions_also_to_a_copy_and_to_a_node_read_back(
        steps in proptest::collection::vec((any::<u8>(), any::<u8>()), 1..120),
    ) {
        let (first, deadlines) = life(&steps, |_| {});
        prop_assert!(first.iter().any(|(_, action)| matches!(action, Action::Log(LogTask::Write(_)))));
        for after_step in [|_: &mut Node| {}, through_clone, through_json] {
            let (again, deadlines_again) = life(&steps, after_step);
            let differs = first.iter().zip(&again).position(|(first, again)| first != again);
            prop_assert_eq!(differs.map(|at| (&first[at], &again[at])), None);
            prop_assert_eq!(first.len(), again.len());
            prop_assert_eq!(&deadlines, &deadlines_again);
        }
    }
}
