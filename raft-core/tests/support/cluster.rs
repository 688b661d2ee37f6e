//! The servers and the wire between them. Messages travel only when told to; disks sync at once, machines, reads and
//! snapshots are done at once, unless told otherwise.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use raft_core::{
    Action, Body, Config, Entries, Event, HardState, Instant, Message, Node, ReplicationState, RoleKind,
    SnapshotError, SnapshotTask, Ticket,
};

use super::server::{Pace, Server};
use super::{at, config, in_term, log, members, n};

pub struct Cluster {
    pub servers: BTreeMap<u64, Server>,
    pub now: Instant,
    /// How much faster a server's clock runs than `now`, in parts per million.
    pub clocks_ppm: BTreeMap<u64, i64>,
    pub wire: VecDeque<Message>,
    /// Servers whose writes wait for [`Cluster::sync`].
    pub slow_disks: Vec<u64>,
    /// Servers whose state machines apply without saying so, until [`Cluster::report_applied`].
    pub slow_machines: Vec<u64>,
    /// Servers whose reads of the log wait for [`Cluster::answer_reads`].
    pub slow_reads: Vec<u64>,
    /// Servers whose chunks are read and written when [`Cluster::perform_chunks`] says so.
    pub slow_chunks: Vec<u64>,
    /// Servers whose snapshots are complete when [`Cluster::finish_snapshot`] says so.
    pub slow_snapshots: Vec<u64>,
    /// Everything that was handed out, if it is to be kept.
    pub trace: Option<Vec<(u64, Action)>>,
    /// What happens to a node between each event and what it causes.
    pub after_step: fn(&mut Node),
    /// Messages to and from these are lost.
    pub cut: Vec<u64>,
    /// Messages from the first to the second are lost.
    pub cut_links: Vec<(u64, u64)>,
    pub(super) next_ticket: u64,
    /// What a server that joins later is configured as, but for its name.
    template: Config,
}

impl Cluster {
    /// Pristine servers `1..=size`.
    pub fn pristine(size: u64) -> Self {
        Self::with(size, |_| {})
    }

    pub fn with(size: u64, adjust: impl Fn(&mut Config)) -> Self {
        let mut template = config(1);
        adjust(&mut template);
        let mut cluster = Self {
            servers: BTreeMap::new(),
            now: Instant::ZERO,
            clocks_ppm: BTreeMap::new(),
            wire: VecDeque::new(),
            slow_disks: Vec::new(),
            slow_machines: Vec::new(),
            slow_reads: Vec::new(),
            slow_chunks: Vec::new(),
            slow_snapshots: Vec::new(),
            trace: None,
            after_step: |_| {},
            cut: Vec::new(),
            cut_links: Vec::new(),
            next_ticket: 1,
            template,
        };
        (1..=size).for_each(|id| cluster.join(id));
        cluster
    }

    /// Bootstrapped servers with server 1 as leader, its no-op committed.
    pub fn led(size: u64) -> Self {
        Self::led_with(size, |_| {})
    }

    pub fn led_with(size: u64, adjust: impl Fn(&mut Config)) -> Self {
        let mut cluster = Self::with(size, adjust);
        cluster.bootstrap();
        cluster.elect(1);
        cluster
    }

    /// Server 1 of `size`, alone in the middle of a life: in `term`, and its log has these terms.
    pub fn veteran(size: u64, term: u64, terms: &[u64]) -> Self {
        let mut cluster = Self::with(0, |_| {});
        cluster.place(1, in_term(term), log(size, terms));
        cluster
    }

    /// A server in the middle of a life, in place of whoever has its name.
    pub fn place(&mut self, server: u64, hard_state: HardState, log: Entries) {
        let config = self.config(server);
        self.servers.insert(server, Server::new(config, hard_state, log, self.clock(server)));
        self.poll(server);
    }

    /// A pristine server, which nobody knows yet.
    pub fn join(&mut self, server: u64) {
        let config = self.config(server);
        let joined = Server::new(config, HardState::default(), Entries::empty(), self.clock(server));
        self.servers.insert(server, joined);
    }

    pub fn config(&self, server: u64) -> Config {
        Config { id: n(server), ..self.template.clone() }
    }

    pub fn bootstrap(&mut self) {
        let ids: Vec<u64> = self.servers.keys().copied().collect();
        for id in &ids {
            let event = Event::Bootstrap { ticket: Ticket::new(0), members: members(ids.iter().copied()) };
            self.step(*id, event);
        }
        self.settle();
    }

    // --- events ------------------------------------------------------------------------------------------------

    pub fn step(&mut self, server: u64, event: Event) {
        let now = self.clock(server);
        let node = &mut self.servers.get_mut(&server).expect("a server of the cluster").node;
        node.step(now, event).expect("the driver keeps its duties");
        (self.after_step)(node);
        self.poll(server);
    }

    /// Performs whatever the node hands out.
    pub fn poll(&mut self, server: u64) {
        let pace = Pace {
            disk: self.slow_disks.contains(&server),
            machine: self.slow_machines.contains(&server),
            reads: self.slow_reads.contains(&server),
            chunks: self.slow_chunks.contains(&server),
            snapshots: self.slow_snapshots.contains(&server),
        };
        for _ in 0..10_000 {
            let mut done = Vec::new();
            while let Some(action) = self.server(server).node.poll_action() {
                if let Some(trace) = &mut self.trace {
                    trace.push((server, action.clone()));
                }
                match action {
                    Action::Send(message) if self.is_unannounced(&message) => {
                        panic!("{message:?}: n{server} never asked to be connected")
                    }
                    Action::Send(message) if self.is_cut(&message) => {}
                    Action::Send(message) => self.wire.push_back(message),
                    other => done.extend(self.server(server).perform(other, pace)),
                }
            }
            if done.is_empty() {
                return;
            }
            let (now, after_step) = (self.clock(server), self.after_step);
            for event in done {
                let host = self.server(server);
                host.node.step(now, event).expect("the driver keeps its duties");
                after_step(&mut host.node);
            }
        }
        panic!("a node that is never done");
    }

    /// Starts a server from what it kept, and performs what that causes.
    pub fn restart(&mut self, server: u64) {
        let now = self.clock(server);
        self.server(server).restart(now);
        self.poll(server);
    }

    fn report(&mut self, server: u64, event: Option<Event>) {
        if let Some(event) = event {
            self.step(server, event);
        }
    }

    // --- disks and state machines --------------------------------------------------------------------------------

    /// Makes every write of a slow disk durable.
    pub fn sync(&mut self, server: u64) {
        for _ in 0..100 {
            if self.servers[&server].unsynced.is_empty() {
                return;
            }
            self.sync_one(server);
        }
        panic!("a disk that is never done");
    }

    /// Makes the oldest write of a slow disk durable.
    pub fn sync_one(&mut self, server: u64) {
        let done = self.server(server).sync_one();
        self.report(server, done);
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
        if self.server(server).take_unreported() {
            let report = self.server(server).applied();
            self.step(server, report);
        }
    }

    /// Answers the reads of the log that wait, from what is on disk now.
    pub fn answer_reads(&mut self, server: u64) {
        for asked in core::mem::take(&mut self.server(server).log_reads) {
            let answer = asked.answer(&self.servers[&server].disk.log);
            self.step(server, answer);
        }
    }

    /// Performs the oldest task of a slow snapshot store.
    pub fn perform_chunk(&mut self, server: u64) {
        let host = self.server(server);
        let done = host.chunk_tasks.pop_front().and_then(|task| host.perform_chunk(task));
        self.report(server, done);
    }

    /// Performs every task of a slow snapshot store, and those that follow.
    pub fn perform_chunks(&mut self, server: u64) {
        for _ in 0..1_000 {
            if self.servers[&server].chunk_tasks.is_empty() {
                return;
            }
            self.perform_chunk(server);
        }
        panic!("a snapshot store that is never done");
    }

    /// Says that the oldest task of a slow snapshot store failed.
    pub fn fail_chunk(&mut self, server: u64, error: SnapshotError) {
        let event = match self.server(server).chunk_tasks.pop_front().expect("a task") {
            SnapshotTask::Read { id, offset, .. } => {
                Event::SnapshotChunkRead { id, offset, result: Err(error) }
            }
            SnapshotTask::Write { meta, offset, .. } => {
                Event::SnapshotChunkWritten { id: meta.id, offset, result: Err(error) }
            }
            forget @ SnapshotTask::Forget(_) => {
                self.server(server).perform_chunk(forget);
                return;
            }
        };
        self.step(server, event);
    }

    /// The snapshot that a server takes is complete.
    pub fn finish_snapshot(&mut self, server: u64) {
        let done = self.server(server).snapshot_taken();
        self.report(server, done);
    }

    /// The snapshot that a server takes comes to nothing.
    pub fn fail_snapshot(&mut self, server: u64, error: SnapshotError) {
        self.server(server).taking.take().expect("one is being taken");
        self.step(server, Event::SnapshotTaken(Err(error)));
    }

    // --- messages ------------------------------------------------------------------------------------------------

    /// Whether a message goes to somebody of whom the last `Peers` said nothing, and is no answer.
    fn is_unannounced(&self, message: &Message) -> bool {
        let begins = matches!(
            message.body,
            Body::AppendEntries { .. }
                | Body::InstallSnapshot { .. }
                | Body::RequestVote { .. }
                | Body::PreVote { .. }
                | Body::TimeoutNow
        );
        let peers = self.servers[&message.from.get()].peers.last();
        begins && peers.is_none_or(|peers| !peers.nodes.contains_key(&message.to))
    }

    fn is_cut(&self, message: &Message) -> bool {
        let (from, to) = (message.from.get(), message.to.get());
        self.cut.contains(&from) || self.cut.contains(&to) || self.cut_links.contains(&(from, to))
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
        if !self.is_cut(&message) && self.servers.contains_key(&to) {
            self.step(to, Event::Receive(message));
        }
    }

    /// Takes the messages that wait and satisfy `wanted`.
    pub fn intercept(&mut self, wanted: impl Fn(&Message) -> bool) -> Vec<Message> {
        let (taken, left): (Vec<_>, Vec<_>) = self.wire.drain(..).partition(|message| wanted(message));
        self.wire = left.into();
        taken
    }

    /// Delivers everything but what satisfies `kept`, until nothing else waits; returns that.
    pub fn settle_but(&mut self, kept: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut held = Vec::new();
        for _ in 0..100_000 {
            let Some(message) = self.wire.pop_front() else { return held };
            if kept(&message) {
                held.push(message);
            } else {
                self.deliver(message);
            }
        }
        panic!("the cluster never comes to rest");
    }

    /// Takes what waits on the wire: what was said.
    pub fn said(&mut self) -> Vec<Body> {
        self.wire.drain(..).map(|message| message.body).collect()
    }

    // --- time ----------------------------------------------------------------------------------------------------

    /// Makes `server` the leader: everybody forgets the old one, then it campaigns.
    pub fn elect(&mut self, server: u64) {
        self.pass_ms(1_000);
        self.campaign(server);
        self.settle();
        assert_eq!(self.role(server), RoleKind::Leader, "{:?}", self.servers[&server].node.status());
    }

    pub fn campaign(&mut self, server: u64) {
        self.step(server, Event::Campaign { ticket: Ticket::new(0) });
    }

    /// What a server's clock says now.
    pub fn clock(&self, server: u64) -> Instant {
        scaled(self.now, 1_000_000 + self.skew(server), 1_000_000)
    }

    fn skew(&self, server: u64) -> i64 {
        self.clocks_ppm.get(&server).copied().unwrap_or_default()
    }

    /// When a server's deadline has come by its own clock.
    pub fn due(&self, server: u64) -> Option<Instant> {
        let deadline = self.servers[&server].node.deadline()?;
        let earliest = scaled(deadline, 1_000_000, 1_000_000 + self.skew(server));
        // Rounded up, so that the deadline has come indeed.
        Some(if self.skew(server) == 0 { earliest } else { earliest + Duration::from_nanos(1) })
    }

    /// Whoever is due next, and when.
    pub fn next_due(&self) -> Option<(Instant, u64)> {
        self.servers.keys().filter_map(|server| Some((self.due(*server)?, *server))).min()
    }

    /// Lets time pass without waking anybody.
    pub fn pass_ms(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
    }

    pub fn wake(&mut self, server: u64) {
        self.step(server, Event::Wake);
    }

    /// Passes time until the server's deadline and wakes it.
    pub fn time_out(&mut self, server: u64) {
        let deadline = self.due(server).expect("it waits for something");
        self.now = self.now.max(deadline);
        self.wake(server);
    }

    /// So many heartbeats of a leader, each with all that follows from it.
    pub fn beat(&mut self, leader: u64, times: u64) {
        for _ in 0..times {
            self.time_out(leader);
            self.settle();
        }
    }

    /// Lets time pass for everybody: whoever is due is woken, and messages arrive at once.
    pub fn run_ms(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        self.settle();
        for _ in 0..100_000 {
            let next = self.next_due().filter(|(when, _)| *when <= end);
            let Some((when, server)) = next else {
                self.now = end;
                return;
            };
            self.now = self.now.max(when);
            self.wake(server);
            self.settle();
        }
        panic!("a deadline that stands still");
    }

    /// As [`run_ms`](Self::run_ms), but stops as soon as `seen`, looked at after each step; messages may wait then.
    pub fn run_until(&mut self, ms: u64, seen: impl Fn(&Self) -> bool) {
        let end = self.now + Duration::from_millis(ms);
        for _ in 0..100_000 {
            if seen(self) {
                return;
            }
            if let Some(message) = self.wire.pop_front() {
                self.deliver(message);
                continue;
            }
            let next = self.next_due().filter(|(when, _)| *when <= end);
            let (when, server) = next.unwrap_or_else(|| panic!("not seen within {ms} ms"));
            self.now = self.now.max(when);
            self.wake(server);
        }
        let due: Vec<_> = self.servers.values().map(|server| server.node.deadline()).collect();
        panic!("a deadline that stands still at {:?}: {due:?}", self.now);
    }

    /// Until the configuration in force at `server` is a joint one (§6).
    pub fn run_until_joint(&mut self, server: u64) {
        self.run_until(5_000, |cluster| cluster.servers[&server].node.membership().is_joint());
    }

    // --- what is seen --------------------------------------------------------------------------------------------

    pub fn role(&self, server: u64) -> RoleKind {
        self.servers[&server].node.status().role
    }

    pub fn term(&self, server: u64) -> u64 {
        self.servers[&server].node.status().term.get()
    }

    pub fn commit(&self, server: u64) -> u64 {
        self.servers[&server].node.status().commit.get()
    }

    pub fn last(&self, server: u64) -> u64 {
        self.servers[&server].node.status().last.index.get()
    }

    /// Whoever leads the latest term.
    pub fn leader(&self) -> Option<u64> {
        let leads = |id: &&u64| self.role(**id) == RoleKind::Leader;
        self.servers.keys().filter(leads).max_by_key(|id| self.term(**id)).copied()
    }

    /// What a leader knows of a peer.
    pub fn peer(&self, leader: u64, peer: u64) -> Option<raft_core::PeerStatus> {
        self.servers[&leader].node.peers().find(|status| status.id == n(peer))
    }

    pub fn peer_state(&self, leader: u64, peer: u64) -> Option<ReplicationState> {
        self.peer(leader, peer).map(|peer| peer.state)
    }

    pub fn voters(&self, server: u64) -> Vec<u64> {
        self.servers[&server].node.membership().voters.iter().map(|id| id.get()).collect()
    }

    pub fn server(&mut self, server: u64) -> &mut Server {
        self.servers.get_mut(&server).expect("a server of the cluster")
    }
}

fn scaled(when: Instant, by: i64, of: i64) -> Instant {
    let nanos = i128::from(when.as_nanos()) * i128::from(by) / i128::from(of);
    Instant::from_nanos(u64::try_from(nanos).expect("clocks run forward"))
}
