//! A cluster by function calls: every message, every fsync and every moment is the test's own choice.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft_core::{
    Action, Body, Commands, Config, Entries, Event, HardState, Instant, LogId, LogIndex, LogRecovery,
    LogScan, LogTask, MachineTask, Message, Node, NodeId, Notice, Recovery, Response, RoleKind, Term, Ticket,
    Tickets, Write,
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
        Self { servers, now, wire: VecDeque::new(), slow_disks: Vec::new(), cut: Vec::new(), next_ticket: 1 }
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
        self.poll(server);
    }

    /// Performs whatever the node hands out.
    pub fn poll(&mut self, server: u64) {
        loop {
            let cut = self.cut.contains(&server);
            let slow = self.slow_disks.contains(&server);
            let now = self.now;
            let host = self.servers.get_mut(&server).expect("a server of the cluster");
            let mut done = Vec::new();
            while let Some(action) = host.node.poll_action() {
                match action {
                    Action::Send(message) => {
                        if !cut && !self.cut.contains(&message.to.get()) {
                            self.wire.push_back(message);
                        }
                    }
                    Action::Log(LogTask::Write(write)) if slow => host.unsynced.push_back(write),
                    Action::Log(LogTask::Write(write)) => {
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
                        done.push(Event::Applied(host.applied_index));
                    }
                    Action::Machine(MachineTask::Serve(tickets)) => host.served.push(tickets),
                    Action::Respond(response) => host.responses.push(response),
                    Action::ReadLog { read, from, through, bytes_max } => {
                        let result = Ok(host.log.slice(from, through).prefix(bytes_max));
                        done.push(Event::LogRead { read, result });
                    }
                    Action::Peers(_) => {}
                    Action::Notify(notice) => host.notices.push(notice),
                }
            }
            if done.is_empty() {
                return;
            }
            for event in done {
                host.node.step(now, event).expect("the driver keeps its duties");
            }
        }
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
