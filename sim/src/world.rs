//! The world of one run: a cluster of nodes, its clients and its misfortunes, moved by one heap of events.
//!
//! * Everything that happens is an event of the heap, so a seed is one sequence, and its digest names it.
//! * Nodes meet the world only through `step`, `poll_action` and `deadline`, as under any other driver.
//! * When the time is over, faults end, everything heals, and the cluster has to come to rest.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use raft_core::{Body, Config, Event, InstallProgress, Message};

use crate::check::{Broken, Check, Checks, OpId};
use crate::clients::Clients;
use crate::clock::{Clock, MILLISECOND};
use crate::network::Network;
use crate::operator::Operator;
use crate::rng::{Rng, fold};
use crate::scenario::{Options, Scenario};
use crate::server::{Local, Server};
use crate::settle::Settle;
use crate::summary::{Failure, Summary};

/// Where protocol lines go.
pub(crate) type Sink<'t> = Option<&'t mut dyn FnMut(&str)>;

/// Something that the clock brings.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A message arrives.
    Deliver(Message),
    /// Something inside a server, of this life of it.
    Local(usize, u32, Local),
    /// A client's request comes to a server that stood still when it was made, if it still has this life.
    Asked(usize, u32, Event),
    /// A client's next request is due.
    Request(usize),
    /// A client tries again.
    Retry(usize),
    /// A client's patience for an operation ends.
    Patience(OpId),
    /// Something goes wrong.
    Fault,
    /// A server that has just started is told to campaign.
    Usurp(usize),
    /// The operator does something.
    Operate,
    /// A server starts.
    Start(usize),
    /// Has the cluster come to rest?
    Settle,
}

/// One run.
pub(crate) struct World<'t> {
    pub(crate) scenario: Scenario,
    pub(crate) clock: Clock<Happening>,
    pub(crate) network: Network,
    pub(crate) servers: Vec<Server>,
    pub(crate) clients: Clients,
    pub(crate) operator: Operator,
    pub(crate) checks: Checks,
    /// Draws for the driver's side: polling, disks, machines.
    pub(crate) rng: Rng,
    pub(crate) fault_rng: Rng,
    pub(crate) summary: Summary,
    /// The faults are over.
    pub(crate) settling: bool,
    pub(crate) settle: Settle,
    sink: Sink<'t>,
}

/// Writes a protocol line, if anybody reads them. Its parts are not even computed otherwise.
macro_rules! say {
    ($world:expr, $($line:tt)+) => {
        if $world.traces() {
            $world.line(&format!($($line)+));
        }
    };
}
pub(crate) use say;

/// Events of one instant beyond which time is taken to stand still.
const INSTANT_EVENTS_MAX: u64 = 200_000;
impl<'t> World<'t> {
    pub(crate) fn new(seed: u64, options: &Options, sink: Sink<'t>) -> Self {
        let scenario = Scenario::draw(seed, options);
        let nodes = scenario.configs.len();
        let ballast_bytes = scenario.machine.ballast_bytes;
        let server =
            |(at, config): (usize, &Config)| Server::new(config.clone(), ballast_bytes, at < scenario.nodes);
        Self {
            clock: Clock::new(),
            network: Network::new(scenario.network, nodes, Rng::new(seed, 1)),
            servers: scenario.configs.iter().enumerate().map(server).collect(),
            clients: Clients::new(scenario.clients, Rng::new(seed, 2)),
            operator: Operator::new(Rng::new(seed, 5)),
            checks: Checks::new(nodes),
            rng: Rng::new(seed, 3),
            fault_rng: Rng::new(seed, 4),
            summary: Summary { runs: 1, ..Summary::default() },
            settling: false,
            settle: Settle::default(),
            sink,
            scenario,
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self, seed: u64, options: &Options) -> Result<Summary, Failure> {
        // An assertion of the core that fails is a finding like any other.
        let result = catch_unwind(AssertUnwindSafe(|| self.play())).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Err(Broken::new("panic", text))
        });
        let simulated = Duration::from_nanos(self.clock.now());
        match result {
            Ok(()) => Ok(self.finished(simulated)),
            Err(Broken { checker, what }) => {
                say!(self, "BROKEN {checker}: {what}");
                Err(Failure { seed, nodes: options.nodes, at: simulated, checker, what })
            }
        }
    }

    fn finished(&self, simulated: Duration) -> Summary {
        let (snapshots, joint, backed_out) = self.checks.exercised();
        Summary {
            snapshots,
            joint,
            backed_out,
            simulated,
            operations: self.checks.operations.count(),
            committed: self.checks.operations.committed_count(),
            reads_served: self.checks.operations.reads_served(),
            elections: self.checks.elections(),
            ..self.summary
        }
    }

    fn play(&mut self) -> Check {
        say!(self, "{:?}", self.scenario);
        for server in 0..self.servers.len() {
            let delay = self.rng.below(50 * MILLISECOND);
            self.clock.after(delay, Happening::Start(server));
        }
        for client in 0..self.scenario.clients.clients {
            let delay = self.rng.below(500 * MILLISECOND);
            self.clock.after(delay, Happening::Request(client));
        }
        self.next_fault();
        self.next_act();
        let (mut instant, mut events) = (0, 0);
        loop {
            let happening = self.clock.pop();
            let Some(happening) = happening else {
                return Err(Broken::new("progress", "nothing will ever happen again"));
            };
            events = if self.clock.now() == instant { events + 1 } else { 0 };
            instant = self.clock.now();
            if events > INSTANT_EVENTS_MAX {
                return Err(Broken::new("progress", format!("time stands still at {happening:?}")));
            }
            let over = instant >= self.scenario.duration
                && self.checks.operations.count() >= self.scenario.operations_min;
            if over && !self.settling {
                self.heal()?;
            }
            if matches!(happening, Happening::Settle) && self.settled()? {
                return Ok(());
            }
            self.happen(happening)?;
        }
    }

    fn happen(&mut self, happening: Happening) -> Check {
        self.fold(self.clock.now());
        match happening {
            Happening::Deliver(message) => self.deliver(message),
            Happening::Local(server, life, local) => self.local(server, life, local),
            Happening::Asked(server, life, event) => self.asked(server, life, event),
            Happening::Request(client) => self.request(client),
            Happening::Retry(client) => self.retry(client),
            Happening::Patience(op) => self.patience_ends(op),
            Happening::Fault => self.fault(),
            Happening::Usurp(server) => self.campaign(server),
            Happening::Operate => self.operate(),
            Happening::Start(server) => self.start(server),
            Happening::Settle => Ok(()),
        }
    }

    /// Sends a message into the network.
    pub(crate) fn send(&mut self, message: Message) -> Check {
        use crate::network::Fate;
        self.checks.sent(&message)?;
        self.summary.messages += 1;
        self.fold_message(&message);
        let now = self.clock.now();
        let to = usize::try_from(message.to.get()).unwrap_or(0).wrapping_sub(1);
        let from = usize::try_from(message.from.get()).unwrap_or(0).wrapping_sub(1);
        if to >= self.servers.len() || from >= self.servers.len() || to == from {
            return Err(Broken::new("messages", format!("{message:?} is addressed to nobody")));
        }
        if message.body == Body::TimeoutNow {
            self.spite(from);
        }
        let fate = self.network.route(now, from, to);
        say!(self, "{message:?}{}", if fate == Fate::Lost { "  (lost)" } else { "" });
        let arrivals = match fate {
            Fate::Lost => {
                self.summary.messages_lost += 1;
                return Ok(());
            }
            Fate::Once(at) => [Some(at), None],
            Fate::Twice(first, second) => [Some(first), Some(second)],
        };
        for at in arrivals.into_iter().flatten() {
            let carried = self.network.carry(message.clone()).map_err(|what| Broken::new("wire", what))?;
            self.clock.at(at, Happening::Deliver(carried));
        }
        Ok(())
    }

    /// Folds what happened into the run's digest.
    pub(crate) fn fold(&mut self, value: u64) {
        self.summary.digest = fold(self.summary.digest, value);
    }

    fn fold_message(&mut self, message: &Message) {
        let (kind, a, b) = match &message.body {
            Body::RequestVote { last, .. } => (0, last.index.get(), last.term.get()),
            Body::RequestVoteReply { granted } => (1, u64::from(*granted), 0),
            Body::PreVote { proposed, last } => (2, proposed.get(), last.index.get()),
            Body::PreVoteReply { proposed, granted } => (3, proposed.get(), u64::from(*granted)),
            Body::AppendEntries { prev, entries, commit, round } => {
                self.fold(commit.get());
                self.fold(entries.len());
                (4, prev.index.get(), *round)
            }
            Body::AppendEntriesReply { result: Ok(matched), round } => (5, matched.get(), *round),
            Body::AppendEntriesReply { result: Err(conflict), round } => {
                (6, conflict.hint.index.get(), *round)
            }
            Body::InstallSnapshot { meta, offset, data, .. } => {
                self.summary.chunks += u64::from(!data.is_empty());
                (7, meta.id.last.index.get(), *offset)
            }
            Body::InstallSnapshotReply { id, progress, .. } => match progress {
                InstallProgress::Wants(offset) => (8, id.last.index.get(), *offset),
                InstallProgress::Busy => (9, id.last.index.get(), 0),
                InstallProgress::Installed(index) => (10, id.last.index.get(), index.get()),
            },
            Body::TimeoutNow => (11, 0, 0),
            Body::ReadIndex { id } => (12, id.incarnation, id.seq),
            Body::ReadIndexReply { id, index } => (13, id.seq, index.map_or(0, |index| index.get())),
        };
        for part in [message.from.get() << 32 | message.to.get() << 8 | kind, message.term.get(), a, b] {
            self.fold(part);
        }
    }

    /// Whether anybody reads the protocol lines.
    pub(crate) fn traces(&self) -> bool {
        self.sink.is_some()
    }

    /// Writes a protocol line, with the time before it.
    pub(crate) fn line(&mut self, line: &str) {
        let micros = self.clock.now() / 1_000;
        if let Some(sink) = &mut self.sink {
            sink(&format!("{:>3}.{:06} {line}", micros / 1_000_000, micros % 1_000_000));
        }
    }
}
