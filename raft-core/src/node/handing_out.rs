//! What comes out of a node: everybody who may have something to do is asked in turn.
//!
//! * What is handed out by one gives none before it anything to do, so who had nothing is not asked again before the next
//!   event. (A snapshot that is taken, or a log that is compacted, may change what a leader would send: but it too looks at
//!   each peer once an event.)
//! * Nothing here decides anything but the order.

use super::Node;
use crate::action::Action;
use crate::role::Role;

/// Where actions come from, in the order in which they are asked for. To begin anew does no harm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// What is ready as it is.
    #[default]
    Ready,
    /// Messages, which are built late.
    Messages,
    /// Writes and entries to apply.
    Lanes,
    /// Reads and snapshots.
    Rest,
    /// All had their turn.
    Nobody,
}

impl Node {
    /// The next thing to do, or `None` until the next `step`. Whatever is handed out may be done at once; what must
    /// stay in order travels in one lane.
    pub fn poll_action(&mut self) -> Option<Action> {
        let Self { shared, role, fatal, asked } = self;
        if *asked <= Source::Ready {
            if fatal.is_some() {
                return None;
            }
            if let Some(action) = shared.out.pop_front() {
                if shared.out.is_empty() && !matches!(role, Role::Leader(_)) {
                    // Others need this list rarely: it is not kept while they idle.
                    shared.out.shrink_to(0);
                }
                return Some(action);
            }
            *asked = Source::Messages;
        }
        // Before the write: peers write to their disks while this node writes to its own (thesis §10.2.1).
        if *asked <= Source::Messages {
            match role {
                Role::Leader(role) => {
                    let action = if role.has_action(shared) { role.next_action(shared) } else { None };
                    if action.is_some() {
                        return action;
                    }
                }
                Role::Follower(role) if role.has_action(shared) => return Some(role.next_action(shared)),
                _ => {}
            }
            *asked = Source::Lanes;
        }
        if *asked <= Source::Lanes {
            if shared.has_write() {
                return Some(shared.next_write());
            }
            if shared.has_apply() {
                return Some(shared.next_apply());
            }
            *asked = Source::Rest;
        }
        if *asked <= Source::Rest {
            if self.has_reads() {
                let action = self.next_read();
                if action.is_some() {
                    return action;
                }
            }
            if self.shared.has_snapshot_action() {
                let action = self.next_of_snapshots();
                if action.is_some() {
                    return action;
                }
            }
            self.asked = Source::Nobody;
        }
        None
    }

    /// Whether reads may be served or asked about.
    fn has_reads(&self) -> bool {
        let leading = matches!(&self.role, Role::Leader(role) if role.has_reads());
        leading || self.shared.questions.len() > 0
    }

    #[inline(never)]
    fn next_read(&mut self) -> Option<Action> {
        let shared = &mut self.shared;
        let own = match &mut self.role {
            Role::Leader(role) => role.next_serve(shared),
            _ => shared.next_question(),
        };
        own.or_else(|| shared.questions.serve(shared.apply_handed))
    }

    #[inline(never)]
    fn next_of_snapshots(&mut self) -> Option<Action> {
        let shared = &mut self.shared;
        let task = shared.next_snapshot_task();
        if task.is_some() {
            return task;
        }
        let snapshot = shared.next_snapshot();
        if snapshot.is_some() {
            return snapshot;
        }
        let through = shared.may_compact()?;
        let needed = match &self.role {
            Role::Leader(role) => role.needed_behind(shared),
            _ => None,
        };
        shared.compact(through.min(needed.unwrap_or(through)))
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::{BTreeMap, VecDeque};
    use alloc::vec::Vec;
    use bytes::Bytes;
    use core::time::Duration;

    use super::*;
    use crate::action::{LogTask, MachineTask, SnapshotTask};
    use crate::config::{Config, SnapshotPolicy};
    use crate::entry::{Commands, Entries};
    use crate::event::{Event, ReadConsistency};
    use crate::ids::{LogId, NodeId, Ticket, Tickets};
    use crate::message::Message;
    use crate::recovery::{LogRecovery, Recovery};
    use crate::rng::Rng;
    use crate::snapshot::SnapshotMeta;
    use crate::time::Instant;

    /// A node, and what it waits for.
    struct Server {
        node: Node,
        log: Entries,
        reports: VecDeque<Event>,
    }

    impl Server {
        fn start(id: NodeId) -> Self {
            let mut config = Config::new(id);
            config.tail_bytes_max = 600;
            config.apply_bytes_max = 300;
            config.snapshot_policy = SnapshotPolicy::LogsSinceLast(9);
            config.compaction_margin_entries = 4;
            let recovery = Recovery {
                log: LogRecovery::default(),
                snapshot: None,
                applied: LogId::ZERO,
                incarnation: id.get(),
            };
            let node = Node::start(config, recovery, Instant::ZERO).expect("a pristine node starts");
            Self { node, log: Entries::empty(), reports: VecDeque::new() }
        }

        /// Takes the next action: the same as if everybody were asked from the beginning.
        fn poll(&mut self) -> Option<Action> {
            let mut anew = Node { asked: Source::Ready, ..self.node.clone() };
            let action = self.node.poll_action();
            assert_eq!(action, anew.poll_action());
            action
        }

        fn perform(&mut self, action: Action, wire: &mut Vec<Message>) {
            let report = match action {
                Action::Send(message) => return wire.push(message),
                Action::Log(LogTask::Write(write)) => {
                    if let Some(base) = write.reset_to {
                        self.log = Entries::empty();
                        assert!(write.entries.first().is_none_or(|first| first.index == base.index.next()));
                    }
                    if let Some(first) = write.entries.first() {
                        let kept = self.log.slice(crate::ids::LogIndex::ZERO, first.index.prev());
                        self.log = Entries::join([kept, write.entries]).expect("a log has no gaps");
                    }
                    Event::Persisted(write.id)
                }
                Action::Machine(MachineTask::Apply(entries)) => {
                    Event::Applied(entries.last().expect("never empty").index)
                }
                Action::Machine(MachineTask::Restore(meta)) => Event::Applied(meta.id.last.index),
                Action::Machine(MachineTask::TakeSnapshot(meta)) => {
                    let meta = SnapshotMeta { size_bytes: 3, ..SnapshotMeta::clone(&meta) };
                    Event::SnapshotTaken(Ok(meta.into()))
                }
                Action::ReadLog { read, from, through, bytes_max } => {
                    let found = self.log.slice(from, through).prefix(bytes_max);
                    Event::LogRead { read, result: Ok(found) }
                }
                Action::Snapshot(SnapshotTask::Read { id, offset, bytes_max }) => {
                    let length = usize::try_from(bytes_max).expect("a small snapshot");
                    Event::SnapshotChunkRead { id, offset, result: Ok(alloc::vec![0; length].into()) }
                }
                Action::Snapshot(SnapshotTask::Write { meta, offset, .. }) => {
                    Event::SnapshotChunkWritten { id: meta.id, offset, result: Ok(()) }
                }
                _ => return,
            };
            self.reports.push_back(report);
        }
    }

    #[test]
    fn who_had_nothing_has_nothing_until_the_next_event() {
        let ids: Vec<NodeId> = (1..=3).map(NodeId::new).collect();
        let members: BTreeMap<NodeId, Bytes> = ids.iter().map(|id| (*id, Bytes::new())).collect();
        let (mut compactions, mut restores, mut served, mut log_reads) = (0, 0, 0, 0);
        for seed in 0..40 {
            let mut rng = Rng::new(seed, ids[0], 1);
            let mut servers: Vec<Server> = ids.iter().copied().map(Server::start).collect();
            let mut wire: Vec<Message> = Vec::new();
            let mut now = Instant::ZERO;
            let mut any = |below: usize| {
                let below = Duration::from_nanos(below as u64);
                usize::try_from(rng.duration(Duration::ZERO, below).as_nanos()).expect("a small number")
            };
            for turn in 0..1500 {
                let ticket = Ticket::new(turn);
                let (mut at, dice) = (any(servers.len()), any(16));
                let event = match dice {
                    _ if turn < 3 => {
                        at = usize::try_from(turn).expect("one of three");
                        Some(Event::Bootstrap { ticket, members: members.clone() })
                    }
                    0..=5 if !wire.is_empty() => {
                        let message = wire.swap_remove(any(wire.len()));
                        at = ids.iter().position(|id| *id == message.to).expect("one of three");
                        // One server is cut off for a time, and falls behind.
                        let cut = (500..900).contains(&turn) && at == 2;
                        (!cut).then_some(Event::Receive(message))
                    }
                    6..=9 => servers[at].reports.pop_front(),
                    10 | 11 => Some(Event::Propose {
                        first: ticket,
                        commands: Commands::one(Bytes::from_static(b"x")),
                    }),
                    12 => {
                        let consistency = ReadConsistency::Linearizable;
                        Some(Event::Read { tickets: Tickets::new(ticket, 1), consistency })
                    }
                    _ => {
                        now = now + Duration::from_millis(10);
                        Some(Event::Wake)
                    }
                };
                let server = &mut servers[at];
                if let Some(event) = event {
                    server.node.step(now, event).expect("a driver's duties are kept");
                }
                for _ in 0..any(6) {
                    let Some(action) = server.poll() else { break };
                    match &action {
                        Action::Log(LogTask::Compact { .. }) => compactions += 1,
                        Action::Machine(MachineTask::Restore(_)) => restores += 1,
                        Action::Machine(MachineTask::Serve(_)) => served += 1,
                        Action::ReadLog { .. } => log_reads += 1,
                        _ => {}
                    }
                    server.perform(action, &mut wire);
                }
            }
        }
        assert!(
            compactions > 0 && restores > 0 && served > 0 && log_reads > 0,
            "{compactions} {restores} {served} {log_reads}"
        );
    }
}
