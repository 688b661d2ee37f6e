//! The core's hot path: one thread, messages by function call, log in memory, durability reported for every
//! write, 256-byte commands committed and handed to every node's state machine.
//!
//! `make bench` prints a table, and fails if a commit costs more allocations or instructions than `figures.txt` beside
//! this file allows: both repeat exactly, so a change of more than a little is a change of the code. Instructions need
//! valgrind; without it they are left out. Times are medians of rounds taken in turn, compare only within one run, and
//! guard nothing. Beside what was measured stands what the project wants to reach, where it says so.
//!
//! * `cargo bench -p raft-core --bench hot_path -- guard` leaves the times out: what CI holds against the figures.
//! * `... -- record` writes what it measures down as the new figures, and which compiler made it: with another one
//!   instructions are shown, but not held against them.
//! * `... -- count NODES WINDOW HISTORY` is one case alone, for `valgrind --tool=callgrind`.

mod cluster;
mod rounds;

use std::fmt::Write as _;
use std::process::{Command, ExitCode};
use std::time::Instant;

use cluster::Cluster;
use rounds::{Spread, in_turn};

const ROUNDS: usize = 9;
const ENTRIES_A_ROUND: usize = 1 << 15;
/// What is counted exactly. Before it, the tail of the log has filled up and drops as much as it takes in.
const ENTRIES_COUNTED: usize = 1 << 13;
const ENTRIES_BEFORE: usize = 34_000;
/// By how much a figure may be exceeded: other versions of the compiler and of dependencies cost a little more or less.
const TOLERANCE: f64 = 0.03;
const FIGURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/figures.txt");

/// Before the name of the compiler in the figures.
const COMPILER: &str = "# instructions of ";

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

impl Case {
    /// A cluster in its steady state.
    fn cluster(self) -> Cluster {
        let mut cluster = Cluster::new(self.nodes);
        cluster.commit_entries(self.history, 1000);
        cluster.commit_entries(ENTRIES_BEFORE, self.window);
        assert!(cluster.applied_bytes() > 0, "commands reach the state machines");
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

/// Nanoseconds per entry of each case.
fn times() -> Vec<Spread> {
    let mut clusters: Vec<_> = CASES.iter().map(|(case, _)| (case.window, case.cluster())).collect();
    in_turn(ROUNDS, &mut clusters, |(window, cluster)| {
        let begin = Instant::now();
        cluster.commit_entries(ENTRIES_A_ROUND, *window);
        begin.elapsed().as_nanos() as f64 / ENTRIES_A_ROUND as f64
    })
}

/// Allocations and instructions per entry.
type Figures = (f64, Option<f64>);

/// What instructions depend on beside the code.
fn compiler() -> String {
    let rustc = std::env::var("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!("{}, {}", version.unwrap_or_default(), std::env::consts::ARCH)
}

/// The figures that are written down, a line for each case, and by which compiler.
fn written_figures() -> (Vec<(Case, Figures)>, String) {
    let text = std::fs::read_to_string(FIGURES).unwrap_or_default();
    let compiler = text.lines().find_map(|line| line.strip_prefix(COMPILER)).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let mut number = || fields.next()?.parse::<f64>().ok();
        let case = case(number()? as u64, number()? as usize, number()? as usize);
        Some((case, (number()?, number())))
    };
    let figures = lines.map(|text| line(text).unwrap_or_else(|| panic!("figures.txt: what is {text:?}?")));
    (figures.collect(), compiler.to_owned())
}

fn write_figures(measured: &[(Case, Figures)]) {
    let mut text = format!(
        "# What a commit of one 256-byte entry costs at most; `make bench` and CI fail beyond it. See hot_path.rs.\n\
         {COMPILER}{}\n\
         # nodes  outstanding  log before  allocations  instructions\n",
        compiler()
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
    let times = (!words.contains(&"guard")).then(times);
    println!(
        "256-byte commands, durability gated, per entry. Times: median of {ROUNDS} rounds (min to max).\n"
    );
    println!("nodes  outstanding  log before  {:<42}  {:<22}  instructions", "ns", "allocations");
    let (written, compiler_then) = written_figures();
    let same_compiler = compiler() == compiler_then;
    let mut measured = Vec::new();
    let mut exceeded = Vec::new();
    for (at, (case, bar)) in CASES.iter().enumerate() {
        let nanos = times
            .as_ref()
            .map_or("left out".to_owned(), |times| format!("{:.1} {}", times[at], beside(bar.nanos, 0)));
        let (allocations, instructions) = (case.allocations(), case.instructions());
        println!(
            "{:>5}  {:>11}  {:>10}  {:<42}  {:<22}  {}",
            case.nodes,
            case.window,
            case.history,
            nanos,
            format!("{allocations:.3} {}", beside(bar.allocations, 2)),
            instructions.map_or("not measured: no valgrind".into(), |count| {
                format!("{count:.0} {}", beside(bar.instructions, 0))
            }),
        );
        measured.push((*case, (allocations, instructions)));
        let name = format!("{} nodes, {} outstanding, log of {}", case.nodes, case.window, case.history);
        let Some((_, figures)) = written.iter().find(|(written, _)| written == case) else {
            exceeded.push(format!("{name}: no figure is written down, see `record`"));
            continue;
        };
        let count = instructions.filter(|_| same_compiler);
        let pairs = [("allocations", Some(allocations), Some(figures.0)), ("instructions", count, figures.1)];
        for (what, found, figure) in pairs {
            let (Some(found), Some(figure)) = (found, figure) else { continue };
            // Allocations of rare growth are a matter of a few in thousands of entries.
            if found > figure * (1.0 + TOLERANCE) + 0.001 {
                exceeded.push(format!("{name}: {found:.3} {what} an entry, not {figure:.3}"));
            }
        }
    }
    if words.contains(&"record") {
        write_figures(&measured);
        println!("\nwritten down in {FIGURES}");
        return ExitCode::SUCCESS;
    }
    println!("\nheld against figures.txt, within {:.0} %", TOLERANCE * 100.0);
    if !same_compiler {
        println!("except for instructions, which are those of {compiler_then}, not of {}", compiler());
    }
    exceeded.iter().for_each(|line| println!("exceeded: {line}"));
    if exceeded.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
