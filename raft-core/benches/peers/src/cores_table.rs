//! The first table: libraries without IO, per entry. Times are medians of rounds taken in turn, and compare only within
//! one run. Allocations and instructions repeat; the latter need valgrind.

use std::process::Command;
use std::time::Instant;

use serde_json::json;

use crate::cores::{LIBRARIES, Library, commit, steady};
use crate::report::Report;
use crate::rounds::{Spread, in_turn};

const CASES: [(u64, usize); 6] = [(3, 1), (3, 64), (3, 1024), (5, 1), (5, 64), (5, 1024)];
const ENTRIES_A_ROUND: usize = 1 << 14;
const ENTRIES_COUNTED: usize = 1 << 13;

/// A run of the program that counts, beside this one.
fn counter(what: &str, name: &str, nodes: u64, window: usize) -> (std::path::PathBuf, [String; 5]) {
    let own = std::env::current_exe().expect("this program has a path");
    let arguments = [
        what.to_owned(),
        name.to_owned(),
        nodes.to_string(),
        window.to_string(),
        ENTRIES_COUNTED.to_string(),
    ];
    (own.with_file_name("raft-core-peers-count"), arguments)
}

fn allocations(name: &str, nodes: u64, window: usize) -> Option<f64> {
    let (program, arguments) = counter("allocations", name, nodes, window);
    let output = Command::new(program).args(arguments).output().ok()?;
    let counted = String::from_utf8_lossy(&output.stdout).trim().parse::<u64>().ok()?;
    Some(counted as f64 / ENTRIES_COUNTED as f64)
}

/// By callgrind, if it is there.
fn instructions(name: &str, nodes: u64, window: usize) -> Option<f64> {
    let (program, arguments) = counter("callgrind", name, nodes, window);
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=raft_core_peers_count::count*")
        .arg(program)
        .args(arguments)
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "))?.1.trim().parse::<u64>();
    Some(collected.ok()? as f64 / ENTRIES_COUNTED as f64)
}

/// Nanoseconds an entry for each library.
fn times(rounds: usize, nodes: u64, window: usize) -> Vec<Spread> {
    let mut libraries: Vec<_> = LIBRARIES.iter().map(|(_, make)| steady(*make, nodes, window)).collect();
    in_turn(rounds, &mut libraries, |library: &mut Box<dyn Library>| {
        let begin = Instant::now();
        commit(library.as_mut(), nodes, window, ENTRIES_A_ROUND);
        begin.elapsed().as_nanos() as f64 / ENTRIES_A_ROUND as f64
    })
}

/// Measures and prints it.
pub(crate) fn run(rounds: usize, report: &mut Report) {
    println!("Libraries without IO: 256-byte commands, committed and handed out on every node, per entry.");
    println!(
        "Of the other libraries only raft-rs lets an entry count no earlier than its log store has it.\n"
    );
    println!(
        "nodes  outstanding  library      ns (min to max)             x ours  allocations  instructions  x ours"
    );
    let steps = CASES.len() * (1 + LIBRARIES.len());
    let bar = report.bar("core", steps);
    for (nodes, window) in CASES {
        let times = times(rounds, nodes, window);
        bar.inc(1);
        let ours = times[0].median;
        let mut own_count = None;
        for ((name, _), time) in LIBRARIES.iter().zip(times) {
            let allocations = allocations(name, nodes, window);
            let count = instructions(name, nodes, window);
            own_count = own_count.or(count);
            bar.inc(1);
            let counted = count.zip(own_count).map_or("no valgrind".to_owned(), |(count, own)| {
                format!("{count:>12.0}  {:>6.2}", count / own)
            });
            let allocated =
                allocations.map_or("not built".to_owned(), |allocations| format!("{allocations:.3}"));
            let range = time.to_string();
            let ratio = time.median / ours;
            bar.suspend(|| {
                println!(
                    "{nodes:>5}  {window:>11}  {name:<11}  {range:<26}  {ratio:>6.2}  {allocated:>11}  {counted}"
                );
            });
            report.row(
                "core",
                json!({
                    "nodes": nodes, "outstanding": window, "library": name, "ns": time.median,
                    "ns_least": time.least, "ns_most": time.most, "allocations": allocations,
                    "instructions": count,
                }),
            );
        }
        bar.suspend(|| println!());
    }
    bar.finish_and_clear();
}
