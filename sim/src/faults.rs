//! What goes wrong, and when.
//!
//! * A fault may come at any event, also between two actions of one step.
//! * Each fault ends by itself; when the run's time is over none is left.

use raft_core::{Event, NodeId, RoleKind};

use crate::check::Check;
use crate::clock::{MILLISECOND, Nanos};
use crate::server::Waiter;
use crate::world::{Happening, World, say};

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// One server crashes.
    Crash,
    /// One server crashes in the middle of what it will do next.
    CrashSoon,
    /// All servers crash.
    CrashAll,
    /// The cluster falls into two parts.
    Partition,
    /// One server is alone.
    Isolate,
    /// One direction between two servers is cut.
    OneWay,
    /// One server hears nobody, and is heard.
    Deaf,
    /// One server hears everybody, and is not heard.
    Mute,
    /// One server's process stands still.
    Pause,
    /// One server's disk stands still.
    Stall,
    /// An operator wants an election.
    Campaign,
    /// A transport says that it lost its connection.
    Unreachable,
    /// The leader hears nobody, all others start anew in a moment, and one of them is told to campaign: whatever they
    /// had promised that leader must outlive their memory.
    Usurp,
}

impl Fault {
    /// Every kind.
    pub(crate) const ALL: [Self; 13] = [
        Self::Crash,
        Self::CrashSoon,
        Self::CrashAll,
        Self::Partition,
        Self::Isolate,
        Self::OneWay,
        Self::Deaf,
        Self::Mute,
        Self::Pause,
        Self::Stall,
        Self::Campaign,
        Self::Unreachable,
        Self::Usurp,
    ];
}

impl World<'_> {
    /// Schedules the next fault.
    pub(crate) fn next_fault(&mut self) {
        if let Some(mean) = self.scenario.faults.interval_mean
            && !self.settling
        {
            let delay = self.fault_rng.exponential(mean);
            self.clock.after(delay, Happening::Fault);
        }
    }

    /// Something goes wrong.
    pub(crate) fn fault(&mut self) -> Check {
        if self.settling {
            return Ok(());
        }
        self.next_fault();
        let weights = self.scenario.faults.weights;
        let Some(fault) = self.fault_rng.weighted(&Fault::ALL, &weights) else { return Ok(()) };
        let victim = self.victim();
        let now = self.clock.now();
        let model = &self.scenario.faults;
        let nodes = self.servers.len();
        let cut_until = now + self.fault_rng.exponential(model.cut_mean);
        let pause_until = now + self.fault_rng.exponential(model.pause_mean);
        let other = (victim + 1 + self.fault_rng.index(nodes.max(2) - 1)) % nodes;
        if !matches!(fault, Fault::Crash | Fault::CrashSoon | Fault::CrashAll) {
            self.summary.disturbances += 1;
            say!(self, "FAULT {fault:?} n{}, n{}", victim + 1, other + 1);
        }
        match fault {
            Fault::Crash => self.crash(victim),
            Fault::CrashSoon => {
                let actions = self.fault_rng.between(1, 30);
                self.servers[victim].crash_after(actions);
                Ok(())
            }
            Fault::CrashAll => (0..nodes).try_for_each(|server| self.crash(server)),
            Fault::Partition => {
                let group = self.fault_rng.next();
                self.network.partition(group, cut_until);
                Ok(())
            }
            Fault::Isolate => {
                self.network.partition(1 << victim, cut_until);
                Ok(())
            }
            Fault::OneWay => {
                self.network.cut(victim, other, cut_until);
                Ok(())
            }
            Fault::Deaf => {
                (0..nodes).for_each(|from| self.network.cut(from, victim, cut_until));
                Ok(())
            }
            Fault::Mute => {
                (0..nodes).for_each(|to| self.network.cut(victim, to, cut_until));
                Ok(())
            }
            Fault::Pause => {
                self.servers[victim].pause(pause_until);
                Ok(())
            }
            Fault::Stall => {
                self.servers[victim].stall(pause_until);
                Ok(())
            }
            Fault::Usurp => self.usurp(cut_until),
            Fault::Campaign => self.campaign(victim),
            Fault::Unreachable if self.servers[victim].is_awake(now) && other != victim => {
                self.step(victim, Event::Unreachable(NodeId::new(other as u64 + 1)))
            }
            Fault::Unreachable => Ok(()),
        }
    }

    fn usurp(&mut self, cut_until: Nanos) -> Check {
        let Some(leader) = self.leader() else { return Ok(()) };
        let others: Vec<usize> =
            (0..self.servers.len()).filter(|at| *at != leader && self.servers[*at].is_up()).collect();
        for other in &others {
            self.network.cut(*other, leader, cut_until);
            self.crash_for(*other, MILLISECOND)?;
        }
        if !others.is_empty() {
            let usurper = *self.fault_rng.pick(&others);
            let delay = self.fault_rng.between(3 * MILLISECOND, 40 * MILLISECOND);
            self.clock.after(delay, Happening::Usurp(usurper));
        }
        Ok(())
    }

    /// An operator wants an election here, if the server is there.
    pub(crate) fn campaign(&mut self, at: usize) -> Check {
        if !self.servers[at].is_awake(self.clock.now()) {
            return Ok(());
        }
        let ticket = self.servers[at].ticket(Waiter::Campaign);
        self.step(at, Event::Campaign { ticket })
    }

    /// Sometimes the network fails at the worst moment: a leader that hands over does not hear what comes of it.
    pub(crate) fn spite(&mut self, leader: usize) {
        if self.settling || !self.fault_rng.chance(self.scenario.faults.spite) {
            return;
        }
        let until = self.clock.now() + self.fault_rng.exponential(self.scenario.faults.cut_mean);
        self.summary.disturbances += 1;
        say!(self, "FAULT n{} hears nobody as it hands over", leader + 1);
        (0..self.servers.len()).for_each(|other| self.network.cut(other, leader, until));
    }

    fn victim(&mut self) -> usize {
        let leader = self.servers.iter().position(|server| server.status().role == RoleKind::Leader);
        match leader {
            Some(leader) if self.fault_rng.chance(self.scenario.faults.at_leader) => leader,
            // A server that takes no part is spared.
            _ => {
                let there: Vec<usize> =
                    (0..self.servers.len()).filter(|at| self.servers[*at].is_enlisted()).collect();
                if there.is_empty() { 0 } else { *self.fault_rng.pick(&there) }
            }
        }
    }
}
