//! One simulated server: a node, its disks and its state machine, and how it starts and crashes.
//!
//! * A crash may come between any two actions. The next life knows only what the disk, the snapshot store and the
//!   machine's own image kept.
//! * A server that nobody wants (yet, or any more) is not enlisted: it does not start by itself. Its disk stays its own.

mod answers;
mod driver;
mod lane;
mod perform;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use raft_core::host::recording::RecordedNode;
use raft_core::host::{StateMachine, Waiters};
use raft_core::{
    Config, Counters, Instant, LogId, LogIndex, MachineTask, Membership, NodeId, ReadId, Recovery, RoleKind,
    SnapshotId, SnapshotMeta, Status, Term, Ticket, WriteId,
};

use crate::check::{Broken, Check, OpId, View};
use crate::clock::{LocalClock, MILLISECOND, Nanos, SECOND};
use crate::disk::{Disk, Failing, Rot, Wreck};
use crate::machine::Machine;
use crate::marks::Mark;
use crate::operator::ErrandId;
use crate::rng::Rng;
use crate::snapshots::SnapshotStore;
use crate::trace::What;
use crate::workload::Workload;
use crate::world::{Happening, World, note};

/// Something that happens inside a server.
#[derive(Debug)]
pub(crate) enum Local {
    /// The timer that was set for this instant.
    Wake(Nanos),
    /// A wake-up that nobody asked for.
    SpuriousWake,
    /// Take the actions that were left.
    Poll,
    /// The sync under way has finished, if it is still the one that was scheduled last.
    Synced(u64),
    /// A sync is reported late.
    Persisted(WriteId),
    /// The state machine has finished a task.
    MachineDone,
    /// The log was read.
    LogRead { read: ReadId, from: LogIndex, through: LogIndex, bytes_max: u64 },
    /// The snapshot that the machine took is durable, or cannot be.
    SnapshotTaken { fails: bool },
    /// A part of a snapshot was read.
    ChunkRead { id: SnapshotId, offset: u64, bytes_max: u64 },
    /// A part of an incoming snapshot was written, or could not be.
    ChunkWritten { meta: Arc<SnapshotMeta>, offset: u64, done: bool, fails: bool },
    /// Give the cluster its first configuration; `alien`: another one than the others'.
    Bootstrap { alien: bool },
}

/// Who waits for a ticket.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Waiter {
    /// A client.
    Client(OpId),
    /// A bootstrap with the right set: it must succeed.
    Bootstrap,
    /// A bootstrap with another set: it must be refused.
    AlienBootstrap,
    /// An operator who wants an election.
    Campaign,
    /// The operator, with one of the errands.
    Operator(ErrandId),
}

/// One server.
pub(crate) struct Server<M> {
    config: Config,
    /// Draws for its driver, its disks and its machine.
    pub(crate) rng: Rng,
    life: u32,
    node: Option<RecordedNode>,
    status: Status,
    clock: LocalClock,
    disk: Disk,
    /// Writes beyond the synced ones that survived the last crash.
    survived: usize,
    snapshots: SnapshotStore,
    /// Chunks handed to the store and not reported.
    chunks_under_way: usize,
    /// Writes handed to the disk and not reported.
    unreported: VecDeque<WriteId>,
    machine: Machine<M>,
    lane: VecDeque<MachineTask>,
    /// Bytes handed to the machine and not reported applied.
    applying: VecDeque<(LogIndex, u64)>,
    /// The newest snapshot installed in this life: where the terms that came with it begin.
    installed_terms: Option<LogIndex>,
    /// Through where the last snapshot went that could not be kept, in this life: the next one is tried later.
    lost_snapshot: LogIndex,
    waiters: Waiters<Waiter>,
    /// When somebody last waited, by its own clock, in this life.
    waited: Option<Instant>,
    /// Whom the node has asked to be connected to, in this life.
    peers: BTreeSet<NodeId>,
    /// The timer: which deadline of the node it is for, and when it fires.
    timer: Option<(Instant, Nanos)>,
    poll_due: bool,
    paused_until: Nanos,
    stalled_until: Nanos,
    /// When the sync under way finishes, and how often one was scheduled.
    sync_due: Nanos,
    syncs: u64,
    /// Until when each sync takes so much longer, on average.
    slowed: Option<(Nanos, Nanos)>,
    /// Its disk is gone for good.
    disk_lost: bool,
    /// It crashes after this many actions, for so long.
    crash_in: Option<(u64, Nanos)>,
    enlisted: bool,
}

impl<M: StateMachine> Server<M> {
    pub(crate) fn new(config: Config, machine: Machine<M>, rng: Rng, enlisted: bool) -> Self {
        let status = Status {
            id: config.id,
            role: RoleKind::Follower,
            term: Term::ZERO,
            voted_for: None,
            leader: None,
            last: LogId::ZERO,
            durable: LogIndex::ZERO,
            commit: LogIndex::ZERO,
            applied: LogIndex::ZERO,
            base: LogId::ZERO,
            snapshot: LogId::ZERO,
            membership_index: LogIndex::ZERO,
            counters: Counters::default(),
        };
        Self {
            config,
            rng,
            life: 0,
            node: None,
            status,
            clock: LocalClock::default(),
            disk: Disk::default(),
            survived: 0,
            snapshots: SnapshotStore::default(),
            chunks_under_way: 0,
            unreported: VecDeque::new(),
            machine,
            lane: VecDeque::new(),
            applying: VecDeque::new(),
            installed_terms: None,
            lost_snapshot: LogIndex::ZERO,
            waiters: Waiters::default(),
            waited: None,
            peers: BTreeSet::new(),
            timer: None,
            poll_due: false,
            paused_until: 0,
            stalled_until: 0,
            sync_due: 0,
            syncs: 0,
            slowed: None,
            disk_lost: false,
            crash_in: None,
            enlisted,
        }
    }

    /// Whether it is wanted: it starts, and starts again after a crash.
    pub(crate) fn is_enlisted(&self) -> bool {
        self.enlisted
    }

    /// One that has lost its disk never comes back: it has forgotten what it promised.
    pub(crate) fn enlist(&mut self, enlisted: bool) {
        self.enlisted = enlisted && !self.disk_lost;
    }

    /// Whether its disk is gone for good, or will be found rotten at the next start.
    pub(crate) fn is_lost(&self) -> bool {
        self.disk_lost || self.disk.is_rotten() || self.snapshots.is_rotten()
    }

    /// Its disk is gone for good.
    pub(crate) fn lose_disk(&mut self) {
        (self.disk, self.snapshots) = (Disk::default(), SnapshotStore::default());
        self.machine.lose();
        (self.disk_lost, self.enlisted) = (true, false);
    }

    /// Writes beyond the synced ones that survived the last crash, or parts of them.
    pub(crate) fn survived(&self) -> usize {
        self.survived
    }

    /// While it is down a bit changes, of its log or of its newest snapshot.
    pub(crate) fn rot(&mut self, snapshot: bool, bit: u64) -> Rot {
        if snapshot && self.snapshots.rot(bit) {
            return Rot::Synced;
        }
        let rot = self.disk.rot(bit);
        if let Rot::Tail { whole } = rot {
            self.survived = whole;
        }
        rot
    }

    /// Whether it has ever stored anything.
    pub(crate) fn is_pristine(&self) -> bool {
        self.status.last == LogId::ZERO
    }

    /// Whom it is connected to.
    pub(crate) fn peers(&self) -> &BTreeSet<NodeId> {
        &self.peers
    }

    /// The newest complete snapshot of its store.
    pub(crate) fn snapshot(&self) -> LogId {
        self.snapshots.newest().map_or(LogId::ZERO, |stored| stored.meta.id.last)
    }

    /// Whether the node may have forgotten what became of an entry: it installed a snapshot whose terms begin behind it.
    pub(crate) fn may_not_know(&self, index: LogIndex) -> bool {
        self.installed_terms.is_some_and(|first| index < first)
    }

    /// What the node said of itself after its last step.
    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// Through where the last snapshot went that it could not keep.
    pub(crate) fn lost_snapshot(&self) -> LogIndex {
        self.lost_snapshot
    }

    /// The configuration in force on the node.
    pub(crate) fn membership(&self) -> Option<&Membership> {
        self.node.as_ref().map(|node| &**node.membership())
    }

    pub(crate) fn machine(&self) -> &Machine<M> {
        &self.machine
    }

    pub(crate) fn is_up(&self) -> bool {
        self.node.is_some()
    }

    pub(crate) fn node_mut(&mut self) -> Option<&mut RecordedNode> {
        self.node.as_mut()
    }

    pub(crate) fn life(&self) -> u32 {
        self.life
    }

    /// Requests without an outcome.
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Whether it is up and does not stand still.
    pub(crate) fn is_awake(&self, now: Nanos) -> bool {
        self.is_up() && self.paused_until <= now
    }

    /// Whether the node asks its clients to wait.
    pub(crate) fn has_room(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.write_room_bytes() > 0)
    }

    pub(crate) fn pause(&mut self, until: Nanos) {
        self.paused_until = until.max(self.paused_until);
    }

    pub(crate) fn stall(&mut self, until: Nanos) {
        self.stalled_until = until;
    }

    /// Until then each sync takes so much longer, on average.
    pub(crate) fn slow_down(&mut self, until: Nanos, more_mean: Nanos) {
        self.slowed = Some((until, more_mean));
    }

    /// An append or a sync will fail.
    pub(crate) fn fail_disk(&mut self, failing: Failing) {
        self.disk.fail(failing);
    }

    /// Until then its disk has no space left.
    pub(crate) fn fill_disk(&mut self, until: Nanos) {
        self.disk.fill(until);
    }

    /// Its clock is changed. The timer that was set by it is worth nothing any more.
    pub(crate) fn change_clock(&mut self, how: impl FnOnce(&mut LocalClock)) {
        how(&mut self.clock);
        self.timer = None;
    }

    /// It will crash after so many more actions, for so long.
    pub(crate) fn crash_after(&mut self, actions: u64, down: Nanos) {
        self.crash_in = Some((actions, down));
    }

    /// Nothing is wrong with it any more. Until when it would have stood still, if it did.
    pub(crate) fn heal(&mut self, now: Nanos) -> Option<Nanos> {
        let paused_until = Some(self.paused_until).filter(|until| *until > now);
        (self.paused_until, self.stalled_until, self.slowed, self.crash_in) = (0, 0, None, None);
        self.disk.heal();
        self.change_clock(|clock| clock.heal(now));
        paused_until
    }

    /// A ticket for a request of `waiter`.
    pub(crate) fn ticket(&mut self, waiter: Waiter) -> Ticket {
        self.waiters.push(waiter)
    }
}

impl<W: Workload> World<'_, W> {
    /// Starts a server from what its disks kept.
    pub(crate) fn start(&mut self, at: usize) -> Check {
        let now = self.clock.now();
        let server = &mut self.servers[at];
        if server.is_up() || !server.enlisted {
            return Ok(());
        }
        let id = server.config.id;
        let found_bytes = server.disk.bytes();
        let rotten = server.is_lost();
        let found = server.disk.recover().map_err(|error| error.to_string());
        let log = match found.and_then(|log| server.snapshots.verify().map(|()| log)) {
            Ok(log) if !rotten => log,
            Ok(_) => {
                return Err(Broken::new(
                    "bit-rot",
                    format!("n{id} starts with other bytes than it had synced"),
                ));
            }
            Err(what) if rotten => {
                server.lose_disk();
                self.summary.starts_refused += 1;
                self.checks.mark(Mark::RotRefused);
                note!(self, at, What::Refuses { why: what });
                return Ok(());
            }
            Err(what) => return Err(Broken::new("recovery", format!("n{id}: {what}"))),
        };
        let snapshot = server.snapshots.newest().map(|stored| Arc::clone(&stored.meta));
        // What is not the newest is of no use to anybody.
        let older: Vec<SnapshotId> = server.snapshots.complete().collect();
        for of in older.into_iter().filter(|of| snapshot.as_ref().is_some_and(|newest| newest.id != *of)) {
            server.snapshots.forget(of);
        }
        if server.disk.bytes() < found_bytes {
            self.checks.mark(Mark::TornTail);
        }
        self.checks.recovered(id, &log, server.survived, server.snapshots.complete())?;
        let applied =
            server.machine.recover().map_err(|what| Broken::new("machine", format!("n{id}: {what}")))?;
        let drift = i32::try_from(self.scenario.driver.drift_ppm_max).unwrap_or(0);
        // The extremes of what is allowed are where a bound is broken, if it is.
        let rng = &mut server.rng;
        let drift_ppm = match rng.below(4) {
            0 => drift,
            1 => -drift,
            _ => i32::try_from(rng.below(2 * drift.unsigned_abs() as u64 + 1)).unwrap_or(0) - drift,
        };
        server.clock = LocalClock::new(rng.between(SECOND, 10_000 * SECOND), drift_ppm);
        server.survived = 0;
        let (base, last, pristine) =
            (log.base, log.last, log.last.index == LogIndex::ZERO && snapshot.is_none());
        let held = snapshot.as_ref().map_or(LogId::ZERO, |meta| meta.id.last);
        let recovery = Recovery { log, snapshot, applied, incarnation: u64::from(server.life) };
        let (config, local_now) = (server.config.clone(), Instant::from_nanos(server.clock.at(now)));
        let started = self.start_node(config, recovery, local_now);
        let node = started.map_err(|error| Broken::new("start", format!("n{id}: {error}")))?;
        let server = &mut self.servers[at];
        server.status = node.status();
        let view = View { term_at: &|index| node.term_at(index), membership: node.membership() };
        self.checks.started(&server.status, applied, held, view)?;
        server.node = Some(node);
        let life = server.life;
        note!(self, at, What::Starts { base, last, snapshot: held, applied });
        let founder = at < self.scenario.nodes;
        let bootstraps = founder && self.scenario.bootstrap_only.is_none_or(|only| only == at);
        if pristine && bootstraps {
            let delay = self.servers[at].rng.below(20 * MILLISECOND);
            self.clock.after(delay, Happening::Local(at, life, Local::Bootstrap { alien: false }));
        } else if !pristine && founder && self.servers[at].rng.chance(50_000) {
            let alien = self.servers[at].rng.chance(500_000);
            self.clock.after(0, Happening::Local(at, life, Local::Bootstrap { alien }));
        }
        self.poll(at)
    }

    /// A server stops at once, loses what was in memory and some of what was not synced, and comes back after `down` if
    /// it is wanted.
    pub(crate) fn crash(&mut self, at: usize, down: Nanos) -> Check {
        let model = self.scenario.disk;
        let server = &mut self.servers[at];
        if !server.is_up() {
            return Ok(());
        }
        self.end_recording(at);
        let server = &mut self.servers[at];
        let rng = &mut server.rng;
        let unsynced = server.disk.unsynced_bytes();
        let kept = match rng.below(4) {
            0 => 0,
            1 => unsynced,
            _ => rng.index(unsynced + 1),
        };
        let wreck = match rng.chance(model.wreck) {
            false => Wreck::Cut,
            true if rng.chance(500_000) => Wreck::Zeros(rng.index(200)),
            true => Wreck::Rubbish(rng.index(200), rng.bits()),
        };
        server.survived = server.disk.crash(kept, wreck, rng.chance(500_000));
        server.snapshots.crash(rng.chance(300_000));
        server.machine.crash(self.workload.machine());
        server.lane.clear();
        server.applying.clear();
        server.unreported.clear();
        (server.chunks_under_way, server.installed_terms) = (0, None);
        server.lost_snapshot = LogIndex::ZERO;
        server.peers.clear();
        server.waited = None;
        server.node = None;
        server.life += 1;
        (server.timer, server.poll_due, server.crash_in) = (None, false, None);
        (server.paused_until, server.stalled_until) = (0, 0);
        let lost: Vec<Waiter> = server.waiters.drain().collect();
        self.checks.crashed(server.config.id);
        // It knows nothing and leads nobody until it starts again.
        server.status.role = RoleKind::Follower;
        self.summary.crashes += 1;
        let (kept_bytes, unsynced_bytes) = (kept as u64, unsynced as u64);
        note!(self, at, What::Crashes { kept_bytes, unsynced_bytes });
        for waiter in lost {
            match waiter {
                Waiter::Client(op) => self.lost_with_server(op),
                Waiter::Operator(errand) => self.errand_lost(errand),
                Waiter::Bootstrap | Waiter::AlienBootstrap | Waiter::Campaign => {}
            }
        }
        if !self.settling && self.servers[at].enlisted {
            self.clock.after(down, Happening::Start(at));
        }
        Ok(())
    }
}
