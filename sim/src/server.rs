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

use raft_core::host::{StateMachine, Waiters};
use raft_core::{
    Config, Counters, Instant, LogId, LogIndex, MachineTask, Node, NodeId, ReadId, Recovery, RoleKind,
    SnapshotId, SnapshotMeta, Status, Term, Ticket, WriteId,
};

use crate::check::{Broken, Check, OpId, View};
use crate::clock::{LocalClock, MILLISECOND, Nanos, SECOND};
use crate::disk::{Disk, Wreck};
use crate::machine::KvMachine;
use crate::operator::ErrandId;
use crate::snapshots::SnapshotStore;
use crate::world::{Happening, World, say};

/// Something that happens inside a server.
#[derive(Debug)]
pub(crate) enum Local {
    /// The timer that was set for this instant.
    Wake(Nanos),
    /// A wake-up that nobody asked for.
    SpuriousWake,
    /// Take the actions that were left.
    Poll,
    /// The sync under way has finished.
    Synced,
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
pub(crate) struct Server {
    config: Config,
    life: u32,
    node: Option<Node>,
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
    machine: KvMachine,
    lane: VecDeque<MachineTask>,
    /// Bytes handed to the machine and not reported applied.
    applying: VecDeque<(LogIndex, u64)>,
    /// The newest snapshot installed in this life: where the terms that came with it begin.
    installed_terms: Option<LogIndex>,
    waiters: Waiters<Waiter>,
    /// Whom the node has asked to be connected to, in this life.
    peers: BTreeSet<NodeId>,
    /// The timer: which deadline of the node it is for, and when it fires.
    timer: Option<(Instant, Nanos)>,
    poll_due: bool,
    paused_until: Nanos,
    stalled_until: Nanos,
    /// It crashes after this many actions.
    crash_in: Option<u64>,
    enlisted: bool,
}

impl Server {
    pub(crate) fn new(config: Config, ballast_bytes: usize, enlisted: bool) -> Self {
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
            life: 0,
            node: None,
            status,
            clock: LocalClock::default(),
            disk: Disk::default(),
            survived: 0,
            snapshots: SnapshotStore::default(),
            chunks_under_way: 0,
            unreported: VecDeque::new(),
            machine: KvMachine::with_ballast(status.id.get(), ballast_bytes),
            lane: VecDeque::new(),
            applying: VecDeque::new(),
            installed_terms: None,
            waiters: Waiters::default(),
            peers: BTreeSet::new(),
            timer: None,
            poll_due: false,
            paused_until: 0,
            stalled_until: 0,
            crash_in: None,
            enlisted,
        }
    }

    /// Whether it is wanted: it starts, and starts again after a crash.
    pub(crate) fn is_enlisted(&self) -> bool {
        self.enlisted
    }

    pub(crate) fn enlist(&mut self, enlisted: bool) {
        self.enlisted = enlisted;
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

    pub(crate) fn machine(&self) -> &KvMachine {
        &self.machine
    }

    pub(crate) fn is_up(&self) -> bool {
        self.node.is_some()
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

    /// It will crash after so many more actions.
    pub(crate) fn crash_after(&mut self, actions: u64) {
        self.crash_in = Some(actions);
    }

    pub(crate) fn heal(&mut self) {
        (self.paused_until, self.stalled_until, self.crash_in) = (0, 0, None);
    }

    /// A ticket for a request of `waiter`.
    pub(crate) fn ticket(&mut self, waiter: Waiter) -> Ticket {
        self.waiters.push(waiter)
    }
}

impl World<'_> {
    /// Starts a server from what its disks kept.
    pub(crate) fn start(&mut self, at: usize) -> Check {
        let now = self.clock.now();
        let server = &mut self.servers[at];
        if server.is_up() || !server.enlisted {
            return Ok(());
        }
        let id = server.config.id;
        let log =
            server.disk.recover().map_err(|error| Broken::new("recovery", format!("n{id}: {error}")))?;
        let snapshot = server.snapshots.newest().map(|stored| Arc::clone(&stored.meta));
        // What is not the newest is of no use to anybody.
        let older: Vec<SnapshotId> = server.snapshots.complete().collect();
        for of in older.into_iter().filter(|of| snapshot.as_ref().is_some_and(|newest| newest.id != *of)) {
            server.snapshots.forget(of);
        }
        self.checks.recovered(id, &log, server.survived, server.snapshots.complete())?;
        let applied = server.machine.recover().map_err(|error| Broken::new("machine", error.to_string()))?;
        let drift = i32::try_from(self.scenario.driver.drift_ppm_max).unwrap_or(0);
        // The extremes of what is allowed are where a bound is broken, if it is.
        let drift_ppm = match self.rng.below(4) {
            0 => drift,
            1 => -drift,
            _ => i32::try_from(self.rng.below(2 * drift.unsigned_abs() as u64 + 1)).unwrap_or(0) - drift,
        };
        server.clock = LocalClock { epoch: self.rng.between(SECOND, 10_000 * SECOND), drift_ppm };
        server.survived = 0;
        let (base, last, pristine) =
            (log.base, log.last, log.last.index == LogIndex::ZERO && snapshot.is_none());
        let held = snapshot.as_ref().map_or(LogId::ZERO, |meta| meta.id.last);
        let recovery = Recovery { log, snapshot, applied, incarnation: u64::from(server.life) };
        let started = Node::start(server.config.clone(), recovery, Instant::from_nanos(server.clock.at(now)));
        let node = started.map_err(|error| Broken::new("start", format!("n{id}: {error}")))?;
        server.status = node.status();
        let view = View { term_at: &|index| node.term_at(index), membership: node.membership() };
        self.checks.started(&server.status, applied, held, view)?;
        server.node = Some(node);
        let life = server.life;
        say!(self, "n{id} starts, log {base} to {last}, snapshot {held}, applied {applied}");
        let founder = at < self.scenario.nodes;
        let bootstraps = founder && self.scenario.bootstrap_only.is_none_or(|only| only == at);
        if pristine && bootstraps {
            let delay = self.rng.below(20 * MILLISECOND);
            self.clock.after(delay, Happening::Local(at, life, Local::Bootstrap { alien: false }));
        } else if !pristine && founder && self.rng.chance(50_000) {
            let alien = self.rng.chance(500_000);
            self.clock.after(0, Happening::Local(at, life, Local::Bootstrap { alien }));
        }
        self.poll(at)
    }

    /// A server stops at once, and loses what was in memory and some of what was not synced.
    pub(crate) fn crash(&mut self, at: usize) -> Check {
        self.crash_for(at, self.scenario.faults.down_mean)
    }

    /// A server stops, and comes back after about so long if it is wanted.
    pub(crate) fn crash_for(&mut self, at: usize, down_mean: Nanos) -> Check {
        let model = self.scenario.disk;
        let rng = &mut self.rng;
        let server = &mut self.servers[at];
        if !server.is_up() {
            return Ok(());
        }
        let unsynced = server.disk.unsynced_bytes();
        let kept = match rng.below(4) {
            0 => 0,
            1 => unsynced,
            _ => rng.index(unsynced + 1),
        };
        let wreck = match rng.chance(model.wreck) {
            false => Wreck::Cut,
            true if rng.chance(500_000) => Wreck::Zeros(rng.index(200)),
            true => Wreck::Rubbish(rng.index(200), rng.next()),
        };
        server.survived = server.disk.crash(kept, wreck, rng.chance(500_000));
        server.snapshots.crash(rng.chance(300_000));
        server.machine.crash();
        server.lane.clear();
        server.applying.clear();
        server.unreported.clear();
        (server.chunks_under_way, server.installed_terms) = (0, None);
        server.peers.clear();
        server.node = None;
        server.life += 1;
        (server.timer, server.poll_due, server.crash_in) = (None, false, None);
        (server.paused_until, server.stalled_until) = (0, 0);
        let lost: Vec<Waiter> = server.waiters.drain().collect();
        let id = server.config.id;
        // It knows nothing and leads nobody until it starts again.
        server.status.role = RoleKind::Follower;
        self.summary.crashes += 1;
        say!(self, "n{id} CRASHES, {kept} of {unsynced} unsynced bytes survive");
        for waiter in lost {
            match waiter {
                Waiter::Client(op) => self.lost_with_server(op),
                Waiter::Operator(errand) => self.errand_lost(errand),
                Waiter::Bootstrap | Waiter::AlienBootstrap | Waiter::Campaign => {}
            }
        }
        if !self.settling && self.servers[at].enlisted {
            let down = self.fault_rng.exponential(down_mean);
            self.clock.after(down, Happening::Start(at));
        }
        Ok(())
    }
}
