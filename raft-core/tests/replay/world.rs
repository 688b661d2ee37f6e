//! Three servers whose lives are recorded, and what came out of them, so that a replay can be held against it.

use std::collections::VecDeque;

use raft_core::host::recording::{RecordedNode, RecorderOptions, RecordingPart};
use raft_core::{Action, Event, Instant, LogId, MembershipChange, NodeId, Recovery, SnapshotPolicy, Ticket};

use super::support::{Pace, Server, Store, config, members, target};

/// CRC-32, and files so short that they rotate many times.
pub(crate) fn options() -> RecorderOptions {
    RecorderOptions { file_bytes_max: 2_000, ..RecorderOptions::new(crc32fast::hash) }
}

/// A server that is recorded.
pub(crate) struct Recorded {
    pub(crate) node: RecordedNode,
    pub(crate) files: Vec<Vec<u8>>,
    /// All that it was told, and all that it wanted done.
    pub(crate) told: Vec<(Instant, Event)>,
    pub(crate) taken: Vec<Action>,
    host: Server,
    queue: VecDeque<Event>,
}

impl Recorded {
    /// Writes down what was recorded.
    pub(crate) fn fetch(&mut self) {
        let files = &mut self.files;
        let write = |part: RecordingPart<'_>| keep(files, part);
        self.node.fetch(write).expect("memory takes anything");
    }
}

pub(crate) fn keep(files: &mut Vec<Vec<u8>>, part: RecordingPart<'_>) -> Result<(), &'static str> {
    if part.begins {
        files.push(Vec::new());
    }
    files.last_mut().ok_or("a part belongs to a file")?.extend_from_slice(part.bytes);
    Ok(())
}

pub(crate) struct World {
    pub(crate) servers: Vec<Recorded>,
    now: Instant,
}

impl World {
    pub(crate) fn new(options: RecorderOptions) -> Self {
        let server = |id: u64| {
            let mut config = config(id);
            config.tail_bytes_max = 300;
            config.snapshot_policy = SnapshotPolicy::LogsSinceLast(7);
            config.compaction_margin_entries = 2;
            config.snapshot_chunk_bytes = 20;
            let disk = Store::default();
            let recovery =
                Recovery { log: disk.recover(), snapshot: None, applied: LogId::ZERO, incarnation: id };
            let host = Server::from_disk(config.clone(), disk, Instant::ZERO);
            let node = RecordedNode::start(config, recovery, Instant::ZERO, options).expect("pristine");
            let first = Event::Bootstrap { ticket: Ticket::new(0), members: members(1..=3) };
            let (files, told, taken) = (Vec::new(), Vec::new(), Vec::new());
            Recorded { node, files, told, taken, host, queue: VecDeque::from([first]) }
        };
        Self { servers: (1..=3).map(server).collect(), now: Instant::ZERO }
    }

    /// The next event of a server, and at most so many of the actions that wait.
    pub(crate) fn step(&mut self, at: usize, most: usize) {
        let server = &mut self.servers[at];
        let event = match (server.queue.pop_front(), server.node.deadline()) {
            (Some(event), _) => event,
            (None, deadline) => {
                self.now = self.now.max(deadline.unwrap_or(self.now));
                Event::Wake
            }
        };
        server.node.step(self.now, event.clone()).expect("the driver keeps its duties");
        server.told.push((self.now, event));
        let actions: Vec<Action> = (0..most).map_while(|_| server.node.poll_action()).collect();
        server.taken.extend(actions.iter().cloned());
        let mut sent = Vec::new();
        for action in actions {
            match action {
                Action::Send(message) => sent.push(message),
                other => server.queue.extend(server.host.perform(other, Pace::default())),
            }
        }
        for message in sent {
            let to = message.to.get() as usize - 1;
            if to < 3 && self.servers[to].queue.len() < 100 {
                self.servers[to].queue.push_back(Event::Receive(message));
            }
        }
    }

    fn tell(&mut self, at: usize, event: Event) {
        self.servers[at].queue.push_back(event);
    }

    /// Does what a schedule says: each pair is something that is asked of a server, and how the servers go on then.
    pub(crate) fn live(&mut self, schedule: &[(u8, u8)]) {
        for (ticket, (what, which)) in (1..).zip(schedule) {
            let (at, ticket) = (usize::from(which % 3), Ticket::new(ticket * 10));
            let to = NodeId::new(u64::from(which % 3) + 1);
            match what % 16 {
                0 => self.tell(at, Event::Campaign { ticket }),
                1 | 2 => {
                    let commands = ["a", &"b".repeat(100)].iter().collect();
                    self.tell(at, Event::Propose { first: ticket, commands });
                }
                3 => self.tell(at, Event::TakeSnapshot { ticket }),
                4 => self.tell(at, Event::TransferLeadership { ticket, to: None }),
                5 => {
                    let learners = target(&[1, 2], &[3]);
                    let target = if which.is_multiple_of(2) { learners } else { target(&[1, 2, 3], &[]) };
                    let change = MembershipChange::Set { target, addresses: members(1..=3) };
                    self.tell(at, Event::ChangeMembership { ticket, change: Box::new(change) });
                }
                6 => self.tell(at, Event::Unreachable(to)),
                // A queue that is lost, but for what the server's own devices report.
                7 => self.servers[at].queue.retain(|event| !matches!(event, Event::Receive(_))),
                8 => self.servers[at].fetch(),
                _ => {}
            }
            // Sometimes nothing is taken for a while, and then all at once.
            for round in 0..u64::from(what / 16) {
                self.step((at + round as usize) % 3, [0, 1, 3, 100][usize::from(which / 64)]);
            }
        }
    }

    /// Writes everything down; the recordings end with their end.
    pub(crate) fn end(&mut self) {
        for server in &mut self.servers {
            let files = &mut server.files;
            server.node.end_recording(|part| keep(files, part)).expect("memory takes anything");
        }
    }
}

/// A fixed schedule that gets somewhere.
pub(crate) fn busy() -> Vec<(u8, u8)> {
    let beat = |at: u8| (15 * 16 + 8, 192 + at);
    let mut steps = vec![(15 * 16, 192)];
    for round in 0..60u8 {
        steps.extend([beat(round), (5 * 16 + 1, 192), (3 * 16 + round % 8, 193), beat(1), (9 * 16 + 2, 64)]);
    }
    steps
}

/// The files of the first server's busy life.
pub(crate) fn busy_files(options: RecorderOptions) -> Vec<Vec<u8>> {
    let mut world = World::new(options);
    world.live(&busy());
    world.end();
    world.servers.swap_remove(0).files
}
