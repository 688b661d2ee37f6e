//! The driver of one server: brings events and the time to its node, and polls its actions.
//!
//! * Late, early, merged or spurious, as far as the law of actions allows: actions are left for later, timers fire
//!   late, syncs are reported together.
//! * It takes no protocol decision, and hands everything that leaves the node to the checkers first.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft_core::host::recording::RecordedNode;
use raft_core::{Event, Instant, LogReadError, Message, NodeId, RoleKind, SnapshotError};

use super::{Local, Waiter};
use crate::check::{Broken, Check, Due, View, limits};
use crate::clock::{MILLISECOND, Nanos};
use crate::trace::What;
use crate::workload::Workload;
use crate::world::{Happening, World, note};

impl<W: Workload> World<'_, W> {
    /// A message arrives.
    pub(crate) fn deliver(&mut self, message: Message, id: u64) -> Check {
        let now = self.clock.now();
        let slot = |node: NodeId| usize::try_from(node.get()).unwrap_or(0).saturating_sub(1);
        let (from, to) = (slot(message.from), slot(message.to));
        let server = &self.servers[to];
        let up = server.is_up();
        if !up || self.network.swallows(now, from, to) {
            let why = if up { "cut" } else { "down" };
            note!(self, to, What::Swallowed { id, message: (&message).into(), why: why.to_owned() });
            self.summary.messages_lost += 1;
            return Ok(());
        }
        if server.paused_until > now {
            let until = self.network.after_pause(now, server.paused_until, from, to);
            self.clock.at(until, Happening::Deliver(message, id));
            return Ok(());
        }
        note!(self, to, What::Delivered { id, message: (&message).into() });
        self.checks.received(&message);
        self.step(to, Event::Receive(message))
    }

    /// A client asks a server, at once or when it goes on.
    pub(crate) fn ask_server(&mut self, at: usize, event: Event) -> Check {
        if self.servers[at].is_awake(self.clock.now()) {
            return self.step(at, event);
        }
        // A process that goes on finds requests and messages in no particular order.
        let server = &mut self.servers[at];
        let (life, until) = (server.life, server.paused_until + server.rng.below(MILLISECOND));
        self.clock.at(until, Happening::Asked(at, life, event));
        Ok(())
    }

    /// A request comes to a server that had stood still.
    pub(crate) fn asked(&mut self, at: usize, life: u32, event: Event) -> Check {
        // If it has crashed meanwhile, the request was lost with it.
        if self.servers[at].life == life { self.ask_server(at, event) } else { Ok(()) }
    }

    /// Something happens inside a server.
    pub(crate) fn local(&mut self, at: usize, life: u32, local: Local) -> Check {
        let now = self.clock.now();
        let server = &mut self.servers[at];
        if server.life != life || !server.is_up() {
            return Ok(());
        }
        if server.paused_until > now {
            let until = server.paused_until;
            self.clock.at(until, Happening::Local(at, life, local));
            return Ok(());
        }
        match local {
            Local::Wake(due) => self.wake(at, due),
            Local::SpuriousWake => self.step(at, Event::Wake),
            Local::Poll => {
                server.poll_due = false;
                self.poll(at)
            }
            Local::Synced(sync) => self.synced(at, sync),
            Local::Persisted(id) => self.step(at, Event::Persisted(id)),
            Local::MachineDone => self.machine_done(at),
            Local::LogRead { read, from, through, bytes_max } => {
                let found = server.disk.read(from, through, bytes_max);
                // Any non-empty beginning will do.
                let shorter = server.rng.chance(100_000);
                let found = found
                    .map(|entries| if shorter { entries.prefix(server.rng.below(200)) } else { entries });
                self.step(at, Event::LogRead { read, result: found.ok_or(LogReadError::Gone) })
            }
            Local::SnapshotTaken { fails } => self.snapshot_taken(at, fails),
            Local::ChunkRead { id, offset, bytes_max } => {
                let found = server.snapshots.read(id, offset, bytes_max);
                let fails = self.scenario.disk.snapshot_fails;
                let result = match found {
                    Some(_) if server.rng.chance(fails) => Err(SnapshotError::Failed),
                    Some(_) if server.rng.chance(fails / 4) => Err(SnapshotError::Unusable),
                    found => found.ok_or(SnapshotError::Unusable),
                };
                self.step(at, Event::SnapshotChunkRead { id, offset, result })
            }
            Local::ChunkWritten { meta, offset, done, fails } => {
                self.chunk_written(at, &meta, offset, done, fails)
            }
            Local::Bootstrap { alien } => self.bootstrap(at, alien),
        }
    }

    fn bootstrap(&mut self, at: usize, alien: bool) -> Check {
        let waiter = if alien { Waiter::AlienBootstrap } else { Waiter::Bootstrap };
        let mut members: BTreeMap<NodeId, Bytes> = self
            .servers
            .iter()
            .take(self.scenario.nodes)
            .map(|server| (server.config.id, Bytes::from(format!("sim:{}", server.config.id))))
            .collect();
        if alien {
            members.insert(NodeId::new(99), Bytes::from_static(b"sim:99"));
        }
        let ticket = self.servers[at].ticket(waiter);
        note!(self, at, What::Bootstraps { alien });
        self.step(at, Event::Bootstrap { ticket, members })
    }

    /// A timer fires: perhaps too early by now, since deadlines move.
    fn wake(&mut self, at: usize, due: Nanos) -> Check {
        let now = self.clock.now();
        let server = &mut self.servers[at];
        if server.timer.is_none_or(|(_, fires)| fires != due) {
            return Ok(());
        }
        server.timer = None;
        let local_now = Instant::from_nanos(server.clock.at(now));
        if server.node.as_ref().and_then(|node| node.deadline()).is_some_and(|deadline| deadline <= local_now)
        {
            return self.step(at, Event::Wake);
        }
        self.set_timer(at);
        Ok(())
    }

    pub(crate) fn set_timer(&mut self, at: usize) {
        let now = self.clock.now();
        let server = &mut self.servers[at];
        let Some(deadline) = server.node.as_ref().and_then(|node| node.deadline()) else { return };
        // Deadlines mostly move on: a timer that fires too early is set again then.
        if server.timer.is_some_and(|(before, _)| before <= deadline) {
            return;
        }
        let due = server.clock.when(deadline.as_nanos()).max(now);
        let driver = self.scenario.driver;
        let late = if server.rng.chance(driver.late_wake) {
            server.rng.exponential(driver.late_wake_mean)
        } else {
            0
        };
        let fires = due + late;
        server.timer = Some((deadline, fires));
        self.clock.at(fires, Happening::Local(at, server.life, Local::Wake(fires)));
    }

    /// A node takes in an event, and then perhaps its actions are taken.
    pub(crate) fn step(&mut self, at: usize, event: Event) -> Check {
        let now = self.clock.now();
        if !self.servers[at].is_up() {
            return Ok(());
        }
        self.behind(Some(&event));
        if !matches!(event, Event::Receive(_)) {
            note!(self, at, What::takes(&format!("{event:?}")));
        }
        let server = &mut self.servers[at];
        let Some(node) = &mut server.node else { return Ok(()) };
        let local_now = Instant::from_nanos(server.clock.at(now));
        if let Event::Persisted(reported) = &event {
            while server.unreported.front().is_some_and(|write| write <= reported) {
                server.unreported.pop_front();
            }
        }
        if let Event::Applied(reported) = &event {
            while server.applying.front().is_some_and(|(through, _)| through <= reported) {
                server.applying.pop_front();
            }
        }
        let due = node.deadline().filter(|due| event == Event::Wake && *due <= local_now);
        let due = due.map(|due| Due {
            late: local_now.since(due) > server.config.heartbeat_interval,
            // With nobody waiting for a while, nothing else could be due.
            election: server.waiters.is_empty()
                && server.waited.is_none_or(|at| due > at + server.config.heartbeat_interval * 4),
        });
        if !server.waiters.is_empty() {
            server.waited = Some(local_now);
        }
        let room = matches!(event, Event::Propose { .. }) && node.write_room_bytes() > 0;
        self.checks.takes(&server.status, &event, due, room, now);
        node.step(local_now, event).map_err(|error| Broken::new("fatal", format!("n{}: {error}", at + 1)))?;
        let (before, after) = (server.status, node.status());
        let view = View { term_at: &|index| node.term_at(index), membership: node.membership() };
        self.checks.stepped(&before, &after, view)?;
        server.status = after;
        self.summary.events += 1;
        // What a leader has on the way is looked at now and then: a window that is overrun stays so for a while.
        if after.role == RoleKind::Leader && self.summary.events.is_multiple_of(16) {
            for peer in node.peers() {
                limits::peer(&peer, &server.config)?;
            }
        }
        self.summary.installed += after.counters.snapshots_installed - before.counters.snapshots_installed;
        self.fold((after.commit.get() << 16) ^ (after.term.get() << 40) ^ after.last.index.get());
        if (before.role, before.term) != (after.role, after.term) {
            note!(self, at, What::Becomes { role: after.role });
        }
        if let Some(candidate) = after.voted_for
            && (before.voted_for, before.term) != (after.voted_for, after.term)
        {
            note!(self, at, What::Votes { candidate });
        }
        if before.commit != after.commit {
            note!(self, at, What::Commits { through: after.commit });
        }
        self.behind(None);
        let driver = self.scenario.driver;
        if self.servers[at].rng.chance(driver.spurious_wake) {
            let life = self.servers[at].life;
            let delay = self.servers[at].rng.exponential(MILLISECOND);
            self.clock.after(delay, Happening::Local(at, life, Local::SpuriousWake));
        }
        if self.servers[at].rng.chance(driver.late_poll) {
            let taken = self.servers[at].rng.below(3);
            return self.poll_some(at, taken);
        }
        self.poll(at)
    }

    /// Takes and performs every action.
    pub(super) fn poll(&mut self, at: usize) -> Check {
        self.take_actions(at, u64::MAX)?;
        self.set_timer(at);
        Ok(())
    }

    /// Takes a few actions, and leaves the others for later.
    fn poll_some(&mut self, at: usize, taken: u64) -> Check {
        self.take_actions(at, taken)?;
        self.set_timer(at);
        let server = &mut self.servers[at];
        let delay = server.rng.exponential(self.scenario.driver.late_poll_mean);
        if server.is_up() && !server.poll_due {
            server.poll_due = true;
            self.clock.after(delay, Happening::Local(at, server.life, Local::Poll));
        }
        Ok(())
    }

    fn take_actions(&mut self, at: usize, actions: u64) -> Check {
        for _ in 0..actions {
            let server = &mut self.servers[at];
            let Some(action) = server.node.as_mut().and_then(RecordedNode::poll_action) else {
                return Ok(());
            };
            if let Some((left, down)) = &mut server.crash_in {
                *left -= 1;
                if *left == 0 {
                    let down = *down;
                    return self.crash(at, down);
                }
            }
            self.behind(Some(&action));
            self.perform(at, action)?;
            self.behind(None);
        }
        Ok(())
    }
}
