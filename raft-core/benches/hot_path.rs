//! The core's hot path: one thread, messages by function call, log in memory, durability reported for every
//! write, 256-byte commands committed and handed to every node's state machine.
//!
//! `make bench` prints a table, and fails if a commit costs more allocations or instructions than `figures.txt` beside
//! this file allows: both repeat exactly, so a change of more than a little is a change of the code. Instructions need
//! valgrind; without it they are left out. Times are medians of rounds taken in turn, compare only within one run, and
//! guard nothing. Beside what was measured stands what the project wants to reach, where it says so.
//!
//! * `cargo bench -p raft-core --bench hot_path -- record` writes what it measures down as the new figures.
//! * `... -- count NODES WINDOW HISTORY` is one case alone, for `valgrind --tool=callgrind`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use bytes::Bytes;
use raft_core::{
    Action, CommandPacker, Config, EntryRef, Event, Instant, LogId, LogRecovery, LogTask, MachineTask,
    Message, Node, NodeId, Recovery, RoleKind, Ticket,
};

const COMMAND_BYTES: usize = 256;
const ROUNDS: usize = 9;
const ENTRIES_A_ROUND: usize = 1 << 15;
/// What is counted exactly. Before it, the tail of the log has filled up and drops as much as it takes in.
const ENTRIES_COUNTED: usize = 1 << 13;
const ENTRIES_BEFORE: usize = 34_000;
/// By how much a figure may be exceeded: other versions of the compiler and of dependencies cost a little more or less.
const TOLERANCE: f64 = 0.03;
const DUTIES: &str = "the bench keeps a driver's duties";
const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/figures.txt");

/// What is measured: a cluster of `nodes`, `window` commands outstanding together, `history` entries in the log before.
#[derive(Clone, Copy, PartialEq)]
struct Case {
    nodes: u64,
    window: usize,
    history: usize,
}

/// What a commit of one entry should cost, where the project says so.
#[derive(Clone, Copy)]
struct Bar {
    nanos: Option<f64>,
    allocations: Option<f64>,
    instructions: Option<f64>,
}

const fn case(nodes: u64, window: usize, history: usize) -> Case {
    Case { nodes, window, history }
}

const fn bar(nanos: f64, allocations: f64, instructions: Option<f64>) -> Bar {
    Bar { nanos: Some(nanos), allocations: Some(allocations), instructions }
}

const CASES: [(Case, Bar); 7] = [
    (case(3, 1, 0), bar(400.0, 3.0, Some(4_000.0))),
    (case(3, 64, 0), bar(50.0, 0.1, Some(450.0))),
    (case(3, 1024, 0), bar(45.0, 0.05, None)),
    // A long log costs no more than a short one.
    (case(3, 64, 1_000_000), bar(50.0, 0.1, Some(450.0))),
    (case(5, 1, 0), Bar { nanos: None, allocations: None, instructions: None }),
    (case(5, 64, 0), Bar { nanos: Some(70.0), allocations: None, instructions: None }),
    (case(5, 1024, 0), Bar { nanos: None, allocations: None, instructions: None }),
];

struct Cluster {
    nodes: Vec<Node>,
    wire: VecDeque<Message>,
    packer: CommandPacker,
    payload: Vec<u8>,
    ticket: u64,
    now: Instant,
    applied_bytes: u64,
}

impl Cluster {
    /// A cluster with a leader, the first of its nodes.
    fn new(size: u64) -> Self {
        let now = Instant::ZERO;
        let members: BTreeMap<NodeId, Bytes> = (1..=size).map(|id| (NodeId::new(id), Bytes::new())).collect();
        let mut cluster = Self {
            nodes: Vec::new(),
            wire: VecDeque::new(),
            packer: CommandPacker::default(),
            payload: vec![b'x'; COMMAND_BYTES],
            ticket: 0,
            now,
            applied_bytes: 0,
        };
        for id in members.keys() {
            let recovery = Recovery {
                log: LogRecovery::default(),
                snapshot: None,
                applied: LogId::ZERO,
                incarnation: 1,
            };
            let node = Node::start(Config::new(*id), recovery, now).expect("a pristine node starts");
            cluster.nodes.push(node);
        }
        for at in 0..cluster.nodes.len() {
            cluster.step(at, Event::Bootstrap { ticket: Ticket::new(0), members: members.clone() });
        }
        cluster.step(0, Event::Campaign { ticket: Ticket::new(0) });
        cluster.run();
        assert_eq!(cluster.nodes[0].role(), RoleKind::Leader);
        cluster
    }

    /// Takes in an event and does what comes of it. What one round of actions completed is reported together: reports are
    /// cumulative.
    fn step(&mut self, at: usize, event: Event) {
        let (node, now) = (&mut self.nodes[at], self.now);
        node.step(now, event).expect(DUTIES);
        loop {
            let (mut persisted, mut applied) = (None, None);
            while let Some(action) = node.poll_action() {
                match action {
                    Action::Send(message) => self.wire.push_back(message),
                    Action::Log(LogTask::Write(write)) => {
                        black_box(&write.entries);
                        persisted = Some(write.id);
                    }
                    Action::Machine(MachineTask::Apply(entries)) => {
                        for entry in entries.iter() {
                            if let EntryRef::Command(_, command) = entry {
                                self.applied_bytes += black_box(&*command).len() as u64;
                            }
                        }
                        applied = entries.last();
                    }
                    other => drop(black_box(other)),
                }
            }
            if let Some(id) = persisted {
                node.step(now, Event::Persisted(id)).expect(DUTIES);
            }
            if let Some(last) = applied {
                node.step(now, Event::Applied(last.index)).expect(DUTIES);
            }
            if persisted.is_none() && applied.is_none() {
                return;
            }
        }
    }

    fn run(&mut self) {
        while let Some(message) = self.wire.pop_front() {
            let to = usize::try_from(message.to.get()).expect("a small id") - 1;
            self.step(to, Event::Receive(message));
        }
    }

    /// Commits `window` commands that are outstanding together.
    fn commit(&mut self, window: usize) {
        self.packer.reserve(window, window * COMMAND_BYTES);
        for _ in 0..window {
            self.packer.push(&self.payload);
        }
        let commands = self.packer.finish();
        let first = Ticket::new(self.ticket);
        self.ticket += window as u64;
        self.step(0, Event::Propose { first, commands });
        self.run();
    }

    fn commit_entries(&mut self, entries: usize, window: usize) {
        for _ in 0..entries / window {
            self.commit(window);
        }
        let status = self.nodes[0].status();
        assert_eq!(status.commit, status.last.index, "everything is committed");
    }
}

impl Case {
    /// A cluster in its steady state.
    fn cluster(self) -> Cluster {
        let mut cluster = Cluster::new(self.nodes);
        cluster.commit_entries(self.history, 1000);
        cluster.commit_entries(ENTRIES_BEFORE, self.window);
        cluster
    }

    fn allocations(self) -> f64 {
        let mut cluster = self.cluster();
        let counted = allocation_counter::measure(|| count(&mut cluster, self.window));
        counted.count_total as f64 / ENTRIES_COUNTED as f64
    }

    /// By callgrind, if it is there.
    fn instructions(self) -> Option<f64> {
        let own = std::env::current_exe().expect("this program has a path");
        let Case { nodes, window, history } = self;
        let output = Command::new("valgrind")
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
            .arg("--toggle-collect=hot_path::count*")
            .arg(own)
            .arg("count")
            .args([nodes.to_string(), window.to_string(), history.to_string()])
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let collected =
            said.lines().find_map(|line| line.split_once("Collected : "))?.1.trim().parse::<u64>();
        let instructions = collected.expect("callgrind says how many") as f64 / ENTRIES_COUNTED as f64;
        assert!(instructions > 1.0, "callgrind looked for `hot_path::count` and found it");
        Some(instructions)
    }
}

/// What is counted, under a name that callgrind finds.
#[inline(never)]
fn count(cluster: &mut Cluster, window: usize) {
    cluster.commit_entries(ENTRIES_COUNTED, window);
}

/// Nanoseconds per entry of each case: median, least and most.
fn times() -> Vec<[f64; 3]> {
    let mut clusters: Vec<Cluster> = CASES.iter().map(|(case, _)| case.cluster()).collect();
    let mut times: Vec<Vec<f64>> = CASES.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for (((case, _), cluster), times) in CASES.iter().zip(&mut clusters).zip(&mut times) {
            let begin = std::time::Instant::now();
            cluster.commit_entries(ENTRIES_A_ROUND, case.window);
            times.push(begin.elapsed().as_nanos() as f64 / ENTRIES_A_ROUND as f64);
        }
    }
    let summary = |mut times: Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        [times[ROUNDS / 2], times[0], times[ROUNDS - 1]]
    };
    times.into_iter().map(summary).collect()
}

/// Allocations and instructions per entry.
type Figures = (f64, Option<f64>);

/// The figures that are written down: a line for each case.
fn written_figures() -> Vec<(Case, Figures)> {
    let text = std::fs::read_to_string(FIGURES).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let mut number = || fields.next()?.parse::<f64>().ok();
        let case = case(number()? as u64, number()? as usize, number()? as usize);
        Some((case, (number()?, number())))
    };
    lines.map(|text| line(text).unwrap_or_else(|| panic!("figures.txt: what is {text:?}?"))).collect()
}

fn write_figures(measured: &[(Case, Figures)]) {
    let mut text = String::from(
        "# What a commit of one 256-byte entry costs at most; `make bench` fails beyond it. See hot_path.rs.\n\
         # nodes  outstanding  log before  allocations  instructions\n",
    );
    for (Case { nodes, window, history }, (allocations, instructions)) in measured {
        let instructions = instructions.map(|count| format!("{count:.0}")).unwrap_or_default();
        writeln!(text, "{nodes:>7}  {window:>11}  {history:>10}  {allocations:>11.3}  {instructions:>12}")
            .expect("a string takes anything");
    }
    std::fs::write(FIGURES, text).expect("the figures can be written down");
}

/// Beside a measured value, what to reach, if that is said.
fn beside(reach: Option<f64>, decimals: usize) -> String {
    reach.map(|reach| format!("(reach {reach:.decimals$})")).unwrap_or_default()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["count", nodes, window, history] = words.as_slice() {
        let number = |text: &str| text.parse::<usize>().expect("a number");
        let case = case(number(nodes) as u64, number(window), number(history));
        // What counts the allocations is no part of the path.
        allocation_counter::opt_out(|| count(&mut case.cluster(), case.window));
        return ExitCode::SUCCESS;
    }
    println!(
        "256-byte commands, durability gated, per entry. Times: median of {ROUNDS} rounds (min to max).\n"
    );
    println!("nodes  outstanding  log before  {:<42}  {:<22}  instructions", "ns", "allocations");
    let written = written_figures();
    let mut measured = Vec::new();
    let mut exceeded = Vec::new();
    for ((case, bar), [median, least, most]) in CASES.iter().zip(times()) {
        let (allocations, instructions) = (case.allocations(), case.instructions());
        println!(
            "{:>5}  {:>11}  {:>10}  {:<42}  {:<22}  {}",
            case.nodes,
            case.window,
            case.history,
            format!("{median:.1} ({least:.1} to {most:.1}) {}", beside(bar.nanos, 0)),
            format!("{allocations:.3} {}", beside(bar.allocations, 2)),
            instructions.map_or("not measured: no valgrind".into(), |count| {
                format!("{count:.0} {}", beside(bar.instructions, 0))
            }),
        );
        measured.push((*case, (allocations, instructions)));
        let Some((_, figures)) = written.iter().find(|(written, _)| written == case) else { continue };
        let pairs =
            [("allocations", Some(allocations), Some(figures.0)), ("instructions", instructions, figures.1)];
        for (what, found, figure) in pairs {
            let (Some(found), Some(figure)) = (found, figure) else { continue };
            // Allocations of rare growth are a matter of a few in thousands of entries.
            if found > figure * (1.0 + TOLERANCE) + 0.001 {
                exceeded.push(format!(
                    "{} nodes, {} outstanding, log of {}: {found:.3} {what} an entry, not {figure:.3}",
                    case.nodes, case.window, case.history
                ));
            }
        }
    }
    if words.contains(&"record") {
        write_figures(&measured);
        println!("\nwritten down in {FIGURES}");
        return ExitCode::SUCCESS;
    }
    if written.is_empty() {
        println!("\nno figures to hold this against: see `record`");
        return ExitCode::FAILURE;
    }
    println!("\nheld against figures.txt, within {:.0} %", TOLERANCE * 100.0);
    exceeded.iter().for_each(|line| println!("exceeded: {line}"));
    if exceeded.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
