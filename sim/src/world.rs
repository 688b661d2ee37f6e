//! The world of one run: a cluster of nodes, its clients and its misfortunes, moved by one heap of events.
//!
//! * Everything that happens is an event of the heap, so a seed is one sequence, and its digest names it.
//! * Nodes meet the world only through `step`, `poll_action` and `deadline`, as under any other driver.
//! * When the time is over, faults end, everything heals, and the cluster has to come to rest.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use raft_core::{Body, Config, Event, InstallProgress, Message, NodeId};

use crate::check::{Agreement, Broken, Check, Checks, OpId};
use crate::clients::Clients;
use crate::clock::{Clock, MILLISECOND, Nanos};
use crate::machine::Machine;
use crate::network::Network;
use crate::operator::Operator;
use crate::recording::Recorder;
use crate::rng::{Rng, fold};
use crate::scenario::{Options, Scenario};
use crate::server::{Local, Server};
use crate::settle::Settle;
use crate::summary::{Failure, Summary};
use crate::trace::{Record, State, What};
use crate::transcript::{Decision, Plan, Transcript};
use crate::workload::Workload;

/// Who is told what happens.
pub(crate) type Sink<'t> = Option<&'t mut dyn FnMut(&Record)>;

/// Something that the clock brings.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A message arrives, under the number with which it was sent.
    Deliver(Message, u64),
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
    /// A server's turn in a rolling restart, and how long it is down.
    Crash(usize, Nanos),
    /// The operator does something.
    Operate,
    /// The time of the faults may be over.
    Over,
    /// A server starts.
    Start(usize),
    /// Has the cluster come to rest?
    Settle,
}

impl Happening {
    /// Whether it waits for this server to go on, if that stands still. Timers are set anew.
    pub(crate) fn waits_for(&self, server: usize, id: NodeId) -> bool {
        match self {
            Self::Deliver(message, _) => message.to == id,
            Self::Local(at, _, local) => {
                *at == server && !matches!(local, Local::Wake(_) | Local::SpuriousWake)
            }
            Self::Asked(at, ..) => *at == server,
            _ => false,
        }
    }
}

/// One run.
pub(crate) struct World<'t, W: Workload> {
    pub(crate) workload: &'t W,
    pub(crate) scenario: Scenario,
    pub(crate) clock: Clock<Happening>,
    pub(crate) network: Network,
    pub(crate) servers: Vec<Server<W::Machine>>,
    pub(crate) clients: Clients,
    pub(crate) operator: Operator,
    pub(crate) checks: Checks,
    pub(crate) agreement: Agreement<W::Machine>,
    pub(crate) plan: Plan,
    pub(crate) fault_rng: Rng,
    pub(crate) summary: Summary,
    /// When the faults end, if that is known.
    ends_at: Option<Nanos>,
    /// The run ends with the faults: nothing has to come to rest.
    pub(crate) stop_when_over: bool,
    /// The faults are over.
    pub(crate) settling: bool,
    pub(crate) settle: Settle,
    sink: Sink<'t>,
    /// The core's event or action that is being dealt with, for the records.
    behind: Option<String>,
    pub(crate) recorder: Option<Recorder<'t>>,
    seed: u64,
}

/// Notes what happens, at a server or (`None`) at none, if anybody listens. Not even computed otherwise.
macro_rules! note {
    ($world:expr, $at:expr, $what:expr) => {
        if $world.traces() {
            let what = $what;
            $world.note($at, what);
        }
    };
}
pub(crate) use note;

/// Events of one instant beyond which time is taken to stand still.
const INSTANT_EVENTS_MAX: u64 = 200_000;

/// The first of the servers' streams of chance.
const SERVERS: u64 = 1_000;

impl<'t, W: Workload> World<'t, W> {
    /// A run of a seed: everything is drawn.
    pub(crate) fn drawn(workload: &'t W, seed: u64, options: &Options, sink: Sink<'t>) -> Self {
        let scenario = Scenario::draw(seed, options, workload.command_bytes_max());
        Self::new(workload, seed, scenario, Plan::default(), sink)
    }

    /// A run of a transcript.
    pub(crate) fn given(workload: &'t W, transcript: &Transcript, sink: Sink<'t>) -> Self {
        let scenario = transcript.scenario.clone();
        let plan = Plan::given(&transcript.decisions, scenario.clients.clients);
        let mut world = Self::new(workload, transcript.seed, scenario, plan, sink);
        world.ends_at = Some(transcript.ends_at);
        world
    }

    fn new(workload: &'t W, seed: u64, scenario: Scenario, plan: Plan, sink: Sink<'t>) -> Self {
        let nodes = scenario.configs.len();
        let ballast_bytes = scenario.machine.ballast_bytes;
        let server = |(at, config): (usize, &Config)| {
            let machine = Machine::new(workload.machine(), config.id.get(), ballast_bytes);
            Server::new(config.clone(), machine, Rng::new(seed, SERVERS + at as u64), at < scenario.nodes)
        };
        Self {
            workload,
            clock: Clock::new(),
            network: Network::new(scenario.network, nodes, seed),
            servers: scenario.configs.iter().enumerate().map(server).collect(),
            clients: Clients::new(scenario.clients, seed),
            operator: Operator::new(Rng::new(seed, 5)),
            checks: Checks::new(&scenario.configs),
            agreement: Agreement::default(),
            plan,
            fault_rng: Rng::new(seed, 4),
            summary: Summary { runs: 1, ..Summary::default() },
            ends_at: None,
            stop_when_over: false,
            settling: false,
            settle: Settle::default(),
            sink,
            behind: None,
            recorder: None,
            seed,
            scenario,
        }
    }

    /// Runs to the end, and hands out what was decided on the way.
    pub(crate) fn run(mut self, options: &Options) -> (Result<Summary, Box<Failure>>, Transcript) {
        // The world changes its own when the faults are over.
        let scenario = self.scenario.clone();
        // An assertion of the core that fails is a finding like any other.
        let result = catch_unwind(AssertUnwindSafe(|| {
            let result = self.play();
            self.end_recordings();
            result
        }))
        .unwrap_or_else(|panic| Err(Broken::new("panic", panic_text(&*panic))));
        self.fetch_recordings();
        let simulated = Duration::from_nanos(self.clock.now());
        let summary = self.finished(simulated);
        if let Err(Broken { checker, what }) = &result {
            note!(self, None, What::Broken { checker: (*checker).to_owned(), found: what.clone() });
        }
        let ends_at = self.ends_at.unwrap_or(self.scenario.duration);
        let failed = result.as_ref().err().map(|broken| (broken.checker.to_owned(), broken.what.clone()));
        let decisions = self.plan.into_taken();
        let workload = Some(W::name().to_owned());
        let transcript = Transcript { seed: self.seed, workload, scenario, ends_at, decisions, failed };
        let result = result.map(|()| summary).map_err(|Broken { checker, what }| {
            let (options, transcript) = (options.clone(), transcript.clone());
            Box::new(Failure { options, at: simulated, checker, what, transcript })
        });
        (result, transcript)
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
            marks: self.checks.marks(),
            ..self.summary
        }
    }

    fn play(&mut self) -> Check {
        let (seed, servers) = (self.seed, self.servers.len() as u64);
        note!(self, None, What::Begins { seed, servers, scenario: self.scenario.describe() });
        for server in 0..self.servers.len() {
            let delay = self.servers[server].rng.below(50 * MILLISECOND);
            self.clock.after(delay, Happening::Start(server));
        }
        self.first_requests();
        self.next_fault();
        self.next_act();
        let over = self.ends_at.unwrap_or(self.scenario.duration);
        self.clock.at(over, Happening::Over);
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
            if matches!(happening, Happening::Over) && self.stop_when_over {
                return Ok(());
            }
            if matches!(happening, Happening::Settle) && self.settled()? {
                note!(self, None, What::AtRest);
                return Ok(());
            }
            self.happen(happening)?;
            self.fetch_recordings();
        }
    }

    /// The time is over. Unless the end is given, the clients must have had enough of it too.
    fn over(&mut self) -> Check {
        if self.ends_at.is_none() && self.checks.operations.count() < self.scenario.operations_min {
            self.clock.after(100 * MILLISECOND, Happening::Over);
            return Ok(());
        }
        self.ends_at = Some(self.clock.now());
        // What is drawn from now on does not depend on how the decisions before were come by.
        self.operator.rng = Rng::new(self.seed, 6);
        self.settle()
    }

    fn happen(&mut self, happening: Happening) -> Check {
        // A source of decisions may come to nothing; only what it decides counts.
        if !matches!(happening, Happening::Fault | Happening::Operate | Happening::Request(_)) {
            self.fold(self.clock.now());
        }
        match happening {
            Happening::Deliver(message, id) => self.deliver(message, id),
            Happening::Local(server, life, local) => self.local(server, life, local),
            Happening::Asked(server, life, event) => self.asked(server, life, event),
            Happening::Request(client) => self.request(client),
            Happening::Retry(client) => self.retry(client),
            Happening::Patience(op) => self.patience_ends(op),
            Happening::Fault => self.fault(),
            Happening::Usurp(server) => self.campaign(server),
            Happening::Crash(server, down) => self.crash_in_turn(server, down),
            Happening::Operate => self.operate(),
            Happening::Over => self.over(),
            Happening::Start(server) => self.start(server),
            Happening::Settle => Ok(()),
        }
    }

    /// Sends a message into the network.
    pub(crate) fn send(&mut self, message: Message) -> Check {
        use crate::network::Fate;
        self.checks.sent(&message, self.clock.now())?;
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
        let fate = self.network.route(now, from, to, payload_bytes(&message.body));
        let arrivals = match fate {
            Fate::Lost => [None, None],
            Fate::Once(at) => [Some(at), None],
            Fate::Twice(first, second) => [Some(first), Some(second)],
        };
        let id = self.summary.messages;
        note!(self, from, What::sent(id, &message, &arrivals));
        self.summary.messages_lost += u64::from(fate == Fate::Lost);
        for at in arrivals.into_iter().flatten() {
            let carried = self.network.carry(message.clone()).map_err(|what| Broken::new("wire", what))?;
            self.clock.at(at, Happening::Deliver(carried, id));
        }
        Ok(())
    }

    /// Something was decided.
    pub(crate) fn decided(&mut self, decision: Decision) {
        self.fold(self.clock.now());
        self.plan.decided(self.clock.now(), decision);
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
                InstallProgress::Refused => (9, id.last.index.get(), 1),
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

    /// Whether anybody listens.
    pub(crate) fn traces(&self) -> bool {
        self.sink.is_some()
    }

    /// Tells the listener what happens, at a server or at none.
    pub(crate) fn note(&mut self, at: impl Into<Option<usize>>, what: What) {
        let Some(sink) = &mut self.sink else { return };
        let server = at.into().map(|at| &self.servers[at]);
        let state = server.and_then(|server| Some(State::of(server.status(), server.membership()?)));
        let node = server.map(|server| server.status().id);
        let core = match what {
            // They speak for themselves.
            What::Sent { .. } | What::Delivered { .. } | What::Swallowed { .. } => None,
            _ => self.behind.clone(),
        };
        sink(&Record { at_ns: self.clock.now(), node, what, state, core });
    }

    /// The records that follow come of this event or action of the core, until the next call.
    pub(crate) fn behind(&mut self, core: Option<&dyn std::fmt::Debug>) {
        if self.traces() {
            self.behind = core.map(|core| brief(format!("{core:?}")));
        }
    }
}

/// What a panic says.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// How many bytes of entries or of a snapshot a message carries.
fn payload_bytes(body: &Body) -> u64 {
    match body {
        Body::AppendEntries { entries, .. } => entries.size_bytes(),
        Body::InstallSnapshot { data, .. } => data.len() as u64,
        _ => 0,
    }
}

/// Payloads make an event or an action long, and say nothing about the protocol.
const CORE_BYTES_MAX: usize = 1_000;

fn brief(mut text: String) -> String {
    if text.len() > CORE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(CORE_BYTES_MAX));
        text.push('…');
    }
    text
}
