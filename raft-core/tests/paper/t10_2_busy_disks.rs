//! Disks that take their time for each write and for its bytes, and never fail (thesis §10.2): a cluster elects a leader,
//! keeps it, and changes its membership.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft_core::{
    AdminOutcome, AdminRefusal, Commands, Config, Event, Instant, Message, RoleKind, SnapshotPolicy, Ticket,
};

use super::support::Cluster;

const MIB: u64 = 1 << 20;

/// Three servers, a millisecond from each other, and a disk at each.
struct World {
    cluster: Cluster,
    sync: Duration,
    bytes_per_s: u64,
    /// A server whose disk is slower.
    slow: Option<(u64, u64)>,
    /// When the write that each disk is busy with is done.
    done: BTreeMap<u64, Instant>,
    under_way: VecDeque<(Instant, Message)>,
    proposed: u64,
    /// The terms that somebody has led.
    terms: Vec<u64>,
}

impl World {
    fn new(sync_ms: u64, bytes_per_s: u64, adjust: impl Fn(&mut Config)) -> Self {
        let mut cluster = Cluster::led_with(3, |config| {
            config.snapshot_policy = SnapshotPolicy::Never;
            adjust(config);
        });
        cluster.slow_disks = vec![1, 2, 3];
        // Most of what is proposed is not to be kept.
        cluster.servers.values_mut().for_each(|server| server.remembers = 1);
        Self {
            cluster,
            sync: Duration::from_millis(sync_ms),
            bytes_per_s,
            slow: None,
            done: BTreeMap::new(),
            under_way: VecDeque::new(),
            proposed: 1 << 20,
            terms: Vec::new(),
        }
    }

    /// A millisecond passes. `load`: clients propose as much as the leader takes.
    fn tick(&mut self, load: bool) {
        self.cluster.pass_ms(1);
        let now = self.cluster.now;
        while let Some((_, server)) = self.cluster.next_due().filter(|(when, _)| *when <= now) {
            self.cluster.wake(server);
        }
        (1..=3).for_each(|server| self.sync(server));
        if let Some(leader) = self.cluster.leader() {
            if self.terms.last() != Some(&self.cluster.term(leader)) {
                self.terms.push(self.cluster.term(leader));
            }
            while load && self.cluster.servers[&leader].node.write_room_bytes() > 0 {
                let commands = Commands::one(Bytes::from_static(&[0; 64 * 1024]));
                self.proposed += 1;
                self.cluster.step(leader, Event::Propose { first: Ticket::new(self.proposed), commands });
            }
        }
        while let Some((_, message)) = self.under_way.pop_front_if(|(when, _)| *when <= now) {
            self.cluster.deliver(message);
        }
        let arrives = now + Duration::from_millis(1);
        self.under_way.extend(self.cluster.wire.drain(..).map(|message| (arrives, message)));
    }

    /// What the disk of a server has done by now, one write after the other.
    fn sync(&mut self, server: u64) {
        let now = self.cluster.now;
        let slow = self.slow.filter(|(slow, _)| *slow == server);
        let bytes_per_s = slow.map_or(self.bytes_per_s, |(_, bytes_per_s)| bytes_per_s);
        while let Some(write) = self.cluster.servers[&server].unsynced.front() {
            let bytes = Duration::from_micros(write.entries.size_bytes() * 1_000_000 / bytes_per_s);
            if *self.done.entry(server).or_insert(now + self.sync + bytes) > now {
                return;
            }
            self.done.remove(&server);
            self.cluster.sync_one(server);
        }
    }
}

#[test]
fn who_asks_for_votes_waits_for_the_disks_of_those_who_give_them() {
    for (min, max, sync_ms) in [(200, 300, 150), (200, 300, 180), (200, 400, 180), (200, 400, 200)] {
        let mut world = World::new(sync_ms, 1 << 40, |config| {
            config.election_timeout_min = Duration::from_millis(min);
            config.election_timeout_max = Duration::from_millis(max);
        });
        world.cluster.cut = vec![1];
        let took = (0..60_000).find(|_| {
            world.tick(false);
            [2, 3].iter().any(|server| world.cluster.role(*server) == RoleKind::Leader)
        });
        let terms = world.cluster.term(2).max(world.cluster.term(3));
        assert!(took.is_some_and(|ms| ms < 2_000), "{took:?} ms, {terms} terms, syncs of {sync_ms} ms");
    }
}

#[test]
fn a_leader_whose_disk_is_busy_goes_on() {
    let mut world = World::new(5, 11 * MIB, |_| {});
    (0..10_000).for_each(|_| world.tick(true));
    assert_eq!(world.terms.len(), 1, "nothing failed: {:?}", world.terms);
    let committed = world.cluster.commit(1) * 64 * 1024;
    assert!(committed > 80 * MIB, "{} MiB of 110", committed / MIB);
}

#[test]
fn a_dead_voter_can_be_removed_amid_load() {
    let mut world = World::new(5, 200 * MIB, |_| {});
    (0..1_000).for_each(|_| world.tick(true));
    world.cluster.cut = vec![3];
    let ticket = world.cluster.set_voters(1, &[1, 2]);
    (0..10_000).for_each(|_| world.tick(true));
    assert_eq!(world.cluster.outcome(1, ticket), Some(AdminOutcome::Done));
}

#[test]
fn the_leadership_is_handed_over_amid_load() {
    for step_down in [false, true] {
        // What is under way takes the disks up to a second.
        let mut world = World::new(5, 64 * MIB, |_| {});
        (0..3_000).for_each(|_| world.tick(true));
        let ticket = if step_down { world.cluster.step_down(1) } else { world.cluster.transfer(1, Some(2)) };
        (0..4_000).for_each(|_| world.tick(true));
        let outcome = world.cluster.outcome(1, ticket);
        assert!(matches!(outcome, Some(AdminOutcome::Transferred { .. })), "{outcome:?}");
        assert_eq!(world.terms.len(), 2, "nobody waited for an election timeout: {:?}", world.terms);
    }
}

#[test]
fn a_target_that_gets_further_is_waited_for_four_election_timeouts() {
    let mut world = World::new(5, 200 * MIB, |_| {});
    world.slow = Some((2, 20 * MIB));
    (0..2_000).for_each(|_| world.tick(true));
    let ticket = world.cluster.transfer(1, Some(2));
    let took = (0..10_000).find(|_| {
        world.tick(true);
        world.cluster.outcome(1, ticket).is_some()
    });
    assert_eq!(world.cluster.refusal(1, ticket), Some(AdminRefusal::TimedOut));
    assert!((1_590..1_610).contains(&took.expect("an outcome")), "{took:?} ms");
    assert_eq!((world.cluster.role(1), world.terms.len()), (RoleKind::Leader, 1));
}

#[test]
fn who_is_to_stop_hands_over_to_whoever_has_everything_first() {
    let mut world = World::new(5, 200 * MIB, |_| {});
    world.slow = Some((2, 12 * MIB));
    (0..2_000).for_each(|_| world.tick(true));
    // 2 has more of the log than 3, which comes back just now, and would take longer than there is time.
    world.cluster.cut = vec![3];
    (0..2_000).for_each(|_| world.tick(true));
    world.cluster.cut.clear();
    (0..10).for_each(|_| world.tick(true));
    let ticket = world.cluster.step_down(1);
    (0..2_000).for_each(|_| world.tick(true));
    let outcome = world.cluster.outcome(1, ticket);
    assert!(matches!(outcome, Some(AdminOutcome::Transferred { to }) if to.get() == 3), "{outcome:?}");
}
