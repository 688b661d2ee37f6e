//! A cluster by function calls: every message, every fsync and every moment is the test's own choice.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft_core::{
    Action, Body, Commands, Config, Entries, Event, HardState, Instant, LogId, LogIndex, LogReadError,
    LogRecovery, LogScan, LogTask, MachineTask, Membership, Message, Node, NodeId, Notice, ReadId,
    ReadOutcome, Recovery, Response, RoleKind, Term, Ticket, Tickets, Write, WriteOutcome,
};

pub fn n(id: u64) -> NodeId {
    NodeId::new(id)
}

pub fn at(index: u64) -> LogIndex {
    LogIndex::new(index)
}

pub fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term::new(term), at(index))
}

pub fn members(ids: impl IntoIterator<Item = u64>) -> BTreeMap<NodeId, Bytes> {
    ids.into_iter().map(|id| (n(id), Bytes::from(format!("n{id}")))).collect()
}

/// A read of the log that a node has asked for.
#[derive(Clone, Copy, Debug)]
pub struct LogRead {
    pub read: ReadId,
    pub from: LogIndex,
    pub through: LogIndex,
    pub bytes_max: u64,
}

impl LogRead {
    /// What a log answers.
    pub fn answer(&self, log: &Entries) -> Event {
        let found = log.slice(self.from, self.through).prefix(self.bytes_max);
        let starts = found.first().is_some_and(|first| first.index == self.from);
        Event::LogRead { read: self.read, result: if starts { Ok(found) } else { Err(LogReadError::Gone) } }
    }
}

/// A server: its node, its disk, and what came out of the node and was not taken by the test.
pub struct Server {
    pub node: Node,
    pub config: Config,
    /// What is on disk.
    pub hard_state: HardState,
    pub log: Entries,
    /// Written and not synced.
    pub unsynced: VecDeque<Write>,
    /// Applied commands and served reads, in order.
    pub applied: Vec<(LogId, Vec<u8>)>,
    pub applied_index: LogIndex,
    pub served: Vec<Tickets>,
    /// Through where entries had been applied before each of `served`.
    pub served_after: Vec<LogIndex>,
    /// Applied and not reported.
    pub unreported: VecDeque<Entries>,
    /// Reads of the log that were not answered.
    pub log_reads: VecDeque<LogRead>,
    pub peers: Vec<Arc<Membership>>,
    pub responses: Vec<Response>,
    pub notices: Vec<Notice>,
    pub incarnation: u64,
}

impl Server {
    pub fn new(config: Config, hard_state: HardState, log: Entries, now: Instant) -> Self {
        let mut server = Self {
            node: start(&config, hard_state, &log, 1, now),
            config,
            hard_state,
            log,
            unsynced: VecDeque::new(),
            applied: Vec::new(),
            applied_index: LogIndex::ZERO,
            served: Vec::new(),
            served_after: Vec::new(),
            unreported: VecDeque::new(),
            log_reads: VecDeque::new(),
            peers: Vec::new(),
            responses: Vec::new(),
            notices: Vec::new(),
            incarnation: 1,
        };
        server.applied_index = LogIndex::ZERO;
        server
    }

    /// Loses what was not synced and begins anew, the state machine empty.
    pub fn restart(&mut self, now: Instant) {
        self.unsynced.clear();
        self.unreported.clear();
        self.log_reads.clear();
        self.incarnation += 1;
        self.node = start(&self.config, self.hard_state, &self.log, self.incarnation, now);
        self.applied.clear();
        self.applied_index = LogIndex::ZERO;
    }

    fn store(&mut self, write: &Write) {
        self.hard_state = write.hard_state.unwrap_or(self.hard_state);
        if let Some(first) = write.entries.first() {
            let kept = self.log.slice(at(1), first.index.prev());
            self.log = Entries::join([kept, write.entries.clone()]).expect("writes leave no gap");
        }
    }

    /// The outcomes of writes: first ticket, count, outcome.
    pub fn write_outcomes(&self) -> Vec<(u64, u32, WriteOutcome)> {
        let writes = self.responses.iter().filter_map(|response| match response {
            Response::Write { tickets, outcome } => {
                Some((tickets.first.get(), tickets.count, outcome.clone()))
            }
            _ => None,
        });
        writes.collect()
    }

    /// The outcomes of reads that were not served.
    pub fn read_outcomes(&self) -> Vec<(Tickets, ReadOutcome)> {
        let reads = self.responses.iter().filter_map(|response| match response {
            Response::Read { tickets, outcome } => Some((*tickets, outcome.clone())),
            _ => None,
        });
        reads.collect()
    }

    pub fn terms(&self) -> Vec<u64> {
        (1..=self.node.status().last.index.get())
            .map(|index| self.node.term_at(at(index)).expect("inside the log").get())
            .collect()
    }
}

fn start(config: &Config, hard_state: HardState, log: &Entries, incarnation: u64, now: Instant) -> Node {
    let recovery = Recovery { log: recover(hard_state, log), applied: LogId::ZERO, incarnation };
    Node::start(config.clone(), recovery, now).expect("what was stored is sound")
}

pub fn recover(hard_state: HardState, log: &Entries) -> LogRecovery {
    let mut scan = LogScan::default();
    scan.hard_state(hard_state).expect("the first one");
    scan.entries(log).expect("consecutive");
    scan.finish()
}

/// Messages travel only when told to; disks sync at once unless told otherwise.
pub struct Cluster {
    pub servers: BTreeMap<u64, Server>,
    pub now: Instant,
    pub wire: VecDeque<Message>,
    /// Servers whose writes wait for [`Cluster::sync`].
    pub slow_disks: Vec<u64>,
    /// Servers whose state machines apply without saying so, until [`Cluster::report_applied`].
    pub slow_machines: Vec<u64>,
    /// Servers whose reads of the log wait for [`Cluster::answer_reads`].
    pub slow_reads: Vec<u64>,
    /// Everything that was handed out, if it is to be kept.
    pub trace: Option<Vec<(u64, Action)>>,
    /// What happens to a node between each event and what it causes.
    pub after_step: fn(&mut Node),
    /// Messages to and from these are lost.
    pub cut: Vec<u64>,
    next_ticket: u64,
}

impl Cluster {
    /// Pristine servers `1..=size`.
    pub fn pristine(size: u64) -> Self {
        Self::with(size, |_| {})
    }

    pub fn with(size: u64, adjust: impl Fn(&mut Config)) -> Self {
        let now = Instant::ZERO;
        let servers = (1..=size).map(|id| {
            let mut config = Config::new(n(id));
            adjust(&mut config);
            (id, Server::new(config, HardState::default(), Entries::empty(), now))
        });
        let servers = servers.collect();
        Self {
            servers,
            now,
            wire: VecDeque::new(),
            slow_disks: Vec::new(),
            slow_machines: Vec::new(),
            slow_reads: Vec::new(),
            trace: None,
            after_step: |_| {},
            cut: Vec::new(),
            next_ticket: 1,
        }
    }

    /// Server 1 of `size`, alone in the middle of a life: its log has these terms.
    pub fn veteran(size: u64, hard_state: HardState, terms: &[u64], adjust: impl Fn(&mut Config)) -> Self {
        let mut cluster = Self::with(1, &adjust);
        let config = cluster.servers[&1].config.clone();
        cluster.servers.insert(1, Server::new(config, hard_state, log(size, terms), Instant::ZERO));
        cluster.poll(1);
        cluster
    }

    /// Bootstrapped servers with server 1 as leader, its no-op committed.
    pub fn led(size: u64) -> Self {
        let mut cluster = Self::pristine(size);
        cluster.bootstrap();
        cluster.elect(1);
        cluster
    }

    pub fn bootstrap(&mut self) {
        let ids: Vec<u64> = self.servers.keys().copied().collect();
        for id in &ids {
            let event = Event::Bootstrap { ticket: Ticket::new(0), members: members(ids.iter().copied()) };
            self.step(*id, event);
        }
        self.settle();
    }

    pub fn step(&mut self, server: u64, event: Event) {
        let node = &mut self.servers.get_mut(&server).expect("a server of the cluster").node;
        node.step(self.now, event).expect("the driver keeps its duties");
        (self.after_step)(node);
        self.poll(server);
    }

    /// Performs whatever the node hands out.
    pub fn poll(&mut self, server: u64) {
        for _ in 0..10_000 {
            let cut = self.cut.contains(&server);
            let slow = self.slow_disks.contains(&server);
            let slow_machine = self.slow_machines.contains(&server);
            let slow_reads = self.slow_reads.contains(&server);
            let now = self.now;
            let host = self.servers.get_mut(&server).expect("a server of the cluster");
            let mut done = Vec::new();
            while let Some(action) = host.node.poll_action() {
                if let Some(trace) = &mut self.trace {
                    trace.push((server, action.clone()));
                }
                match action {
                    Action::Send(message) => {
                        if !cut && !self.cut.contains(&message.to.get()) {
                            self.wire.push_back(message);
                        }
                    }
                    Action::Log(LogTask::Write(write)) if slow => host.unsynced.push_back(write),
                    Action::Log(LogTask::Write(write)) => {
                        assert!(host.unsynced.is_empty(), "the log lane is performed in order");
                        host.store(&write);
                        done.push(Event::Persisted(write.id));
                    }
                    Action::Machine(MachineTask::Apply(entries)) => {
                        for entry in entries.iter() {
                            assert_eq!(entry.id().index, host.applied_index.next(), "no gap, nothing twice");
                            host.applied_index = entry.id().index;
                            if let raft_core::EntryRef::Command(id, command) = entry {
                                host.applied.push((id, command.to_vec()));
                            }
                        }
                        if slow_machine {
                            host.unreported.push_back(entries);
                        } else {
                            done.push(Event::Applied(host.applied_index));
                        }
                    }
                    Action::Machine(MachineTask::Serve(tickets)) => {
                        host.served.push(tickets);
                        host.served_after.push(host.applied_index);
                    }
                    Action::Respond(response) => host.responses.push(response),
                    Action::ReadLog { read, from, through, bytes_max } => {
                        let asked = LogRead { read, from, through, bytes_max };
                        if slow_reads {
                            host.log_reads.push_back(asked);
                        } else {
                            done.push(asked.answer(&host.log));
                        }
                    }
                    Action::Peers(membership) => host.peers.push(membership),
                    Action::Notify(notice) => host.notices.push(notice),
                }
            }
            if done.is_empty() {
                return;
            }
            for event in done {
                host.node.step(now, event).expect("the driver keeps its duties");
                (self.after_step)(&mut host.node);
            }
        }
        panic!("a node that is never done");
    }

    /// Makes every write of a slow disk durable.
    pub fn sync(&mut self, server: u64) {
        for _ in 0..100 {
            let host = self.servers.get_mut(&server).expect("a server of the cluster");
            let Some(write) = host.unsynced.pop_front() else { return };
            host.store(&write);
            self.step(server, Event::Persisted(write.id));
        }
        panic!("a disk that is never done");
    }

    /// Makes the oldest write of a slow disk durable.
    pub fn sync_one(&mut self, server: u64) {
        let host = self.servers.get_mut(&server).expect("a server of the cluster");
        if let Some(write) = host.unsynced.pop_front() {
            host.store(&write);
            self.step(server, Event::Persisted(write.id));
        }
    }

    /// Makes everything durable, and every disk fast again.
    pub fn hurry_disks(&mut self) {
        for server in self.slow_disks.clone() {
            self.sync(server);
        }
        self.slow_disks.clear();
    }

    /// Reports everything that a slow state machine has applied so far.
    pub fn report_applied(&mut self, server: u64) {
        let host = self.servers.get_mut(&server).expect("a server of the cluster");
        let last = host.unreported.drain(..).next_back().and_then(|entries| entries.last());
        if let Some(last) = last {
            self.step(server, Event::Applied(last.index));
        }
    }

    /// Answers the reads of the log that wait, from what is on disk now.
    pub fn answer_reads(&mut self, server: u64) {
        let host = self.servers.get_mut(&server).expect("a server of the cluster");
        for asked in core::mem::take(&mut host.log_reads) {
            let answer = asked.answer(&self.servers[&server].log);
            self.step(server, answer);
        }
    }

    /// Delivers every message, and those that they cause, until there is none.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            let Some(message) = self.wire.pop_front() else { return };
            self.deliver(message);
        }
        panic!("the cluster never comes to rest");
    }

    pub fn deliver(&mut self, message: Message) {
        let to = message.to.get();
        if !self.cut.contains(&to)
            && !self.cut.contains(&message.from.get())
            && self.servers.contains_key(&to)
        {
            self.step(to, Event::Receive(message));
        }
    }

    /// Takes the messages that wait and satisfy `wanted`.
    pub fn intercept(&mut self, wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let (taken, left): (Vec<_>, Vec<_>) = self.wire.drain(..).partition(|message| wanted(message));
        self.wire = left.into();
        taken
    }

    /// Makes `server` the leader: everybody forgets the old one, then it campaigns.
    pub fn elect(&mut self, server: u64) {
        self.pass_ms(1_000);
        self.step(server, Event::Campaign { ticket: Ticket::new(0) });
        self.settle();
        assert_eq!(self.role(server), RoleKind::Leader, "{:?}", self.servers[&server].node.status());
    }

    /// Lets time pass without waking anybody.
    pub fn pass_ms(&mut self, ms: u64) {
        self.now = self.now + core::time::Duration::from_millis(ms);
    }

    pub fn wake(&mut self, server: u64) {
        self.step(server, Event::Wake);
    }

    /// Passes time until the server's deadline and wakes it.
    pub fn time_out(&mut self, server: u64) {
        let deadline = self.servers[&server].node.deadline().expect("it waits for something");
        self.now = self.now.max(deadline);
        self.wake(server);
    }

    pub fn propose(&mut self, server: u64, commands: &[&str]) -> Tickets {
        let first = Ticket::new(self.next_ticket);
        let tickets = Tickets::new(first, u32::try_from(commands.len()).expect("few"));
        self.next_ticket += commands.len() as u64;
        self.step(server, Event::Propose { first, commands: commands.iter().collect::<Commands>() });
        tickets
    }

    pub fn read(&mut self, server: u64) -> Tickets {
        let tickets = Tickets::one(Ticket::new(self.next_ticket));
        self.next_ticket += 1;
        let consistency = raft_core::ReadConsistency::Linearizable;
        self.step(server, Event::Read { tickets, consistency });
        tickets
    }

    pub fn role(&self, server: u64) -> RoleKind {
        self.servers[&server].node.status().role
    }

    pub fn term(&self, server: u64) -> u64 {
        self.servers[&server].node.status().term.get()
    }

    pub fn commit(&self, server: u64) -> u64 {
        self.servers[&server].node.status().commit.get()
    }

    pub fn server(&mut self, server: u64) -> &mut Server {
        self.servers.get_mut(&server).expect("a server of the cluster")
    }
}

pub fn message(from: u64, to: u64, term: u64, body: Body) -> Message {
    Message { from: n(from), to: n(to), term: Term::new(term), body }
}

pub fn append(prev: LogId, entries: Entries, commit: u64, round: u64) -> Body {
    Body::AppendEntries { prev, entries, commit: at(commit), round }
}

/// Commands of one term, the first at `first`.
pub fn commands(first: LogId, commands: &[&str]) -> Entries {
    Entries::commands(first, &commands.iter().collect::<Commands>())
}

/// A log with these terms, its first entry the configuration of servers `1..=size`.
pub fn log(size: u64, terms: &[u64]) -> Entries {
    assert_eq!(terms.first(), Some(&1), "a log begins with the bootstrap");
    let membership = raft_core::Membership::of_voters(members(1..=size));
    let first = Entries::membership(id(1, 1), std::sync::Arc::new(membership));
    let rest = (2..).zip(&terms[1..]).map(|(index, term)| {
        let command = format!("{index}@{term}");
        commands(id(*term, index), &[&command])
    });
    Entries::join(core::iter::once(first).chain(rest)).expect("consecutive")
}
