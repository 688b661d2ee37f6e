//! Three servers on plain threads and channels: nothing but the standard library and the core.
//!
//! ```text
//! cargo run -p raft-core --example embed
//! ```
//!
//! A server is one thread that owns a [`Node`], a disk and a state machine, and has one inbox for clients and peers.
//! [`Server::run`] is the whole loop, [`Server::perform`] everything that a driver has to do. The demonstration in
//! [`main`] elects a leader, writes, reads at every server, stops the leader, goes on without it, and starts it again:
//! what it missed is gone from the others' logs by then, so a snapshot brings it up to date.
//!
//! * The disk is memory that outlives its server's thread. A real one does not return from a write before `fsync`.
//! * Inboxes are bounded. A message that finds one full is lost, as on a network.
//! * Nothing waits for ever: whatever does not come about in time is an error, and the process ends with status 1.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant as Clock};

use bytes::Bytes;
use raft_core::{
    Action, Commands, Config, EntryRef, Event, Instant, LogIndex, LogTask, MachineTask, Message, Node,
    NodeId, Notice, ReadConsistency, Response, SnapshotPolicy, SnapshotTask, Ticket, Tickets, WriteOutcome,
};

#[path = "embed/disk.rs"]
mod disk;

use disk::Disk;

type Failure = Box<dyn Error + Send + Sync>;
/// What a server leaves behind.
type Remains = Result<(Disk, Machine), Failure>;

const INBOX_MAX: usize = 1024;
/// The whole demonstration takes a few seconds.
const RUN_MAX: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

// ---------------------------------------------------------------------------------------------------------
// The state machine: keys and values, one `key=value` a command
// ---------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug, Default, PartialEq)]
struct Machine(BTreeMap<String, String>);

impl Machine {
    fn apply(&mut self, command: &[u8]) -> Result<(), Failure> {
        let (key, value) = str::from_utf8(command)?.split_once('=').ok_or("a command without a value")?;
        self.0.insert(key.into(), value.into());
        Ok(())
    }

    fn snapshot(&self) -> Bytes {
        self.0.iter().map(|(key, value)| format!("{key}={value}\n")).collect::<String>().into()
    }

    fn restore(bytes: &[u8]) -> Result<Self, Failure> {
        let mut machine = Self::default();
        bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .try_for_each(|line| machine.apply(line))?;
        Ok(machine)
    }
}

// ---------------------------------------------------------------------------------------------------------
// A server
// ---------------------------------------------------------------------------------------------------------

/// What reaches a server.
enum Input {
    Message(Message),
    Write(Bytes, Sender<Answer>),
    Read(String, Sender<Answer>),
    Halt,
}

/// What a client hears.
enum Answer {
    Written,
    Value(Option<String>),
    /// Ask there, if anywhere.
    NotLeader(Option<NodeId>),
    /// Ask again. A write may have happened all the same; those of this demonstration can be repeated.
    Again,
}

/// The inbox of every server that runs.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<BTreeMap<NodeId, SyncSender<Input>>>>);

impl Network {
    /// Delivers or drops, at once.
    fn send(&self, to: NodeId, input: Input) {
        if let Some(inbox) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&to) {
            let _ = inbox.try_send(input);
        }
    }

    fn plug_in(&self, id: NodeId) -> Receiver<Input> {
        let (sender, inbox) = sync_channel(INBOX_MAX);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, sender);
        inbox
    }
}

struct Server {
    id: NodeId,
    node: Node,
    disk: Disk,
    machine: Machine,
    inbox: Receiver<Input>,
    network: Network,
    epoch: Clock,
    tickets: u64,
    writers: BTreeMap<Ticket, Sender<Answer>>,
    /// Those whose command is committed, by its index, until it is applied.
    committed: BTreeMap<LogIndex, Sender<Answer>>,
    readers: BTreeMap<Ticket, (String, Sender<Answer>)>,
}

impl Server {
    fn start(id: NodeId, mut disk: Disk, network: Network, epoch: Clock) -> Result<Self, Failure> {
        let config = Config {
            snapshot_policy: SnapshotPolicy::LogsSinceLast(100),
            compaction_margin_entries: 20,
            snapshot_chunk_bytes: 1024, // so that there are several
            tail_bytes_max: 4096,       // so that the log is read now and then
            ..Config::new(id)
        };
        let node = Node::start(config, disk.recovery(), now(epoch))?;
        let inbox = network.plug_in(id);
        Ok(Self {
            id,
            node,
            disk,
            machine: Machine::default(),
            inbox,
            network,
            epoch,
            tickets: 0,
            writers: BTreeMap::new(),
            committed: BTreeMap::new(),
            readers: BTreeMap::new(),
        })
    }

    /// Runs until told to halt; returns what is left.
    fn run(mut self) -> Remains {
        loop {
            while let Some(action) = self.node.poll_action() {
                if let Some(event) = self.perform(action)? {
                    self.node.step(now(self.epoch), event)?;
                }
            }
            let wait = self.node.deadline().map_or(ANSWER_WITHIN, |at| at.since(now(self.epoch)));
            match self.inbox.recv_timeout(wait) {
                Ok(Input::Halt) | Err(RecvTimeoutError::Disconnected) => {
                    return Ok((self.disk, self.machine));
                }
                // `now` is read after the event was taken in.
                Ok(input) => {
                    let event = self.event(input);
                    self.node.step(now(self.epoch), event)?;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.node.step(now(self.epoch), Event::Wake)?;
        }
    }

    fn event(&mut self, input: Input) -> Event {
        let ticket = Ticket::new(self.tickets);
        self.tickets += 1;
        match input {
            Input::Message(message) => Event::Receive(message),
            Input::Write(command, writer) => {
                self.writers.insert(ticket, writer);
                Event::Propose { first: ticket, commands: Commands::one(command) }
            }
            Input::Read(key, reader) => {
                self.readers.insert(ticket, (key, reader));
                Event::Read { tickets: Tickets::one(ticket), consistency: ReadConsistency::Linearizable }
            }
            Input::Halt => Event::Wake, // the loop has seen it before
        }
    }

    /// Does what the node wants done. What is done at once is reported at once.
    fn perform(&mut self, action: Action) -> Result<Option<Event>, Failure> {
        let report = match action {
            Action::Log(LogTask::Write(write)) => {
                self.disk.write(&write)?;
                Some(Event::Persisted(write.id))
            }
            Action::Log(LogTask::Compact { through }) => {
                self.disk.compact(through);
                None
            }
            Action::Machine(MachineTask::Apply(entries)) => {
                for entry in entries.iter() {
                    if let EntryRef::Command(id, command) = entry {
                        self.machine.apply(&command)?;
                        self.committed
                            .remove(&id.index)
                            .into_iter()
                            .for_each(|writer| tell(&writer, Answer::Written));
                    }
                }
                entries.last().map(|last| Event::Applied(last.index))
            }
            Action::Machine(MachineTask::Restore(meta)) => {
                let bytes = self.disk.snapshot(meta.id).ok_or("a snapshot that was reported is gone")?;
                self.machine = Machine::restore(&bytes)?;
                Some(Event::Applied(meta.id.last.index))
            }
            Action::Machine(MachineTask::TakeSnapshot(meta)) => {
                let meta = self.disk.keep_snapshot(&meta, self.machine.snapshot());
                Some(Event::SnapshotTaken(Ok(meta)))
            }
            Action::Machine(MachineTask::Serve(tickets)) => {
                for (key, reader) in tickets.iter().filter_map(|ticket| self.readers.remove(&ticket)) {
                    tell(&reader, Answer::Value(self.machine.0.get(&key).cloned()));
                }
                None
            }
            Action::ReadLog { read, from, through, bytes_max } => {
                Some(Event::LogRead { read, result: self.disk.read(from, through, bytes_max) })
            }
            Action::Snapshot(SnapshotTask::Read { id, offset, bytes_max }) => {
                Some(Event::SnapshotChunkRead {
                    id,
                    offset,
                    result: self.disk.read_chunk(id, offset, bytes_max),
                })
            }
            Action::Snapshot(SnapshotTask::Write { meta, offset, data, done }) => {
                let result = self.disk.write_chunk(&meta, offset, &data, done);
                Some(Event::SnapshotChunkWritten { id: meta.id, offset, result })
            }
            Action::Snapshot(SnapshotTask::Forget(id)) => {
                self.disk.forget(id);
                None
            }
            Action::Send(message) => {
                self.network.send(message.to, Input::Message(message));
                None
            }
            Action::Respond(response) => {
                self.respond(response);
                None
            }
            Action::Peers(_) => None, // every inbox is known from the start
            Action::Notify(notice) => {
                self.say(&notice);
                None
            }
        };
        Ok(report)
    }

    fn respond(&mut self, response: Response) {
        match response {
            Response::Write { tickets, outcome } => {
                for (nth, ticket) in (0..).zip(tickets.iter()) {
                    let Some(writer) = self.writers.remove(&ticket) else { continue };
                    match &outcome {
                        WriteOutcome::Committed { first, applied_here: true } => {
                            self.committed.insert(first.index.plus(nth), writer);
                        }
                        WriteOutcome::Committed { applied_here: false, .. } => tell(&writer, Answer::Written),
                        WriteOutcome::NotLeader { leader } => tell(&writer, Answer::NotLeader(*leader)),
                        WriteOutcome::Superseded
                        | WriteOutcome::Busy
                        | WriteOutcome::Unknown
                        | WriteOutcome::Refused(_) => tell(&writer, Answer::Again),
                    }
                }
            }
            Response::Read { tickets, outcome: _ } => {
                for (_, reader) in tickets.iter().filter_map(|ticket| self.readers.remove(&ticket)) {
                    tell(&reader, Answer::Again);
                }
            }
            Response::Admin { .. } => {} // only the bootstrap, whose success shows
        }
    }

    fn say(&self, notice: &Notice) {
        match notice {
            Notice::Leader { leader: Some(leader), term } if *leader == self.id => {
                println!("n{}: I lead in term {term}", self.id);
            }
            Notice::Snapshot { last, taken_by } if *taken_by != self.id => {
                println!("n{}: brought up to date through {last} by a snapshot of n{taken_by}", self.id);
            }
            Notice::Violation { .. } => println!("n{}: {notice:?}", self.id),
            _ => {}
        }
    }
}

/// Nobody may be listening any more.
fn tell(client: &Sender<Answer>, answer: Answer) {
    let _ = client.send(answer);
}

fn now(epoch: Clock) -> Instant {
    Instant::from_nanos(u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

// ---------------------------------------------------------------------------------------------------------
// The demonstration
// ---------------------------------------------------------------------------------------------------------

struct Cluster {
    network: Network,
    epoch: Clock,
    running: BTreeMap<NodeId, JoinHandle<Remains>>,
    /// Whom clients ask first.
    leader: NodeId,
}

impl Cluster {
    fn start(&mut self, id: NodeId, disk: Disk) -> Result<(), Failure> {
        let mut server = Server::start(id, disk, self.network.clone(), self.epoch)?;
        // The first configuration. A server that has a log already knows better, and says so.
        let members = (1..=3).map(|id| (NodeId::new(id), Bytes::new())).collect();
        server.node.step(now(self.epoch), Event::Bootstrap { ticket: Ticket::new(u64::MAX), members })?;
        self.running.insert(id, spawn(|| server.run()));
        Ok(())
    }

    fn stop(&mut self, id: NodeId) -> Remains {
        let thread = self.running.remove(&id).ok_or("not running")?;
        // Dropping the inbox's only sender is heard even if the inbox is full.
        self.network.send(id, Input::Halt);
        self.network.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        thread.join().map_err(|_| "a server panicked")?
    }

    /// Asks until there is an answer: `at` one server, or wherever the leader may be.
    fn ask(
        &mut self,
        at: Option<NodeId>,
        input: impl Fn(Sender<Answer>) -> Input,
    ) -> Result<Answer, Failure> {
        while self.epoch.elapsed() < RUN_MAX {
            let (sender, receiver) = channel();
            self.network.send(at.unwrap_or(self.leader), input(sender));
            match receiver.recv_timeout(ANSWER_WITHIN) {
                Ok(Answer::NotLeader(Some(leader))) if leader != self.leader => self.leader = leader,
                Ok(Answer::NotLeader(_) | Answer::Again) | Err(_) => {
                    let next = self.running.keys().find(|id| **id > self.leader);
                    self.leader = *next.or(self.running.keys().next()).ok_or("nobody runs")?;
                    sleep(Duration::from_millis(20));
                }
                Ok(answer @ (Answer::Written | Answer::Value(_))) => return Ok(answer),
            }
        }
        Err("no answer in time".into())
    }

    fn write(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        let command = Bytes::from(format!("{key}={value}"));
        match self.ask(None, |writer| Input::Write(command.clone(), writer))? {
            Answer::Written => Ok(()),
            _ => Err("a write was answered as something else".into()),
        }
    }

    /// Any server answers, not only the leader, and never with less than was written before (thesis §6.4).
    fn read(&mut self, at: NodeId, key: &str) -> Result<Option<String>, Failure> {
        match self.ask(Some(at), |reader| Input::Read(key.into(), reader))? {
            Answer::Value(value) => Ok(value),
            _ => Err("a read was answered as something else".into()),
        }
    }

    fn read_everywhere(&mut self, key: &str, value: &str) -> Result<(), Failure> {
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            let found = self.read(id, key)?;
            println!("   n{id} reads {key} = {}", found.as_deref().unwrap_or("nothing"));
            if found.as_deref() != Some(value) {
                return Err(format!("n{id} should have read {value}").into());
            }
        }
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let ids = [1, 2, 3].map(NodeId::new);
    let mut cluster = Cluster {
        network: Network::default(),
        epoch: Clock::now(),
        running: BTreeMap::new(),
        leader: ids[0],
    };
    let mut expected = Machine::default();
    let mut write = |cluster: &mut Cluster, from: u64, before: u64| -> Result<(), Failure> {
        for n in from..before {
            let (key, value) = (format!("key{}", n % 200), format!("value{n}"));
            cluster.write(&key, &value)?;
            expected.0.insert(key, value);
        }
        Ok(())
    };

    println!("-- three servers start");
    for id in ids {
        cluster.start(id, Disk::default())?;
    }
    println!("-- 150 writes, one after the other");
    write(&mut cluster, 0, 150)?;
    cluster.read_everywhere("key149", "value149")?;

    let stopped = cluster.leader;
    println!("-- the leader n{stopped} stops without a word");
    let (disk, _) = cluster.stop(stopped)?;
    println!("-- 350 writes without it");
    write(&mut cluster, 150, 500)?;
    cluster.read_everywhere("key99", "value499")?;

    println!("-- n{stopped} starts again from its disk");
    cluster.start(stopped, disk)?;
    write(&mut cluster, 500, 510)?;
    cluster.read_everywhere("key109", "value509")?;

    println!("-- all stop");
    for id in ids {
        let (_, machine) = cluster.stop(id)?;
        if machine != expected {
            return Err(format!("the state of n{id} is not what was written").into());
        }
    }
    println!("-- all three hold the same {} keys", expected.0.len());
    Ok(())
}
