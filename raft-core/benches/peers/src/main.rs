//! This library and others on the same work, in turn: one thread, messages by function call, log in memory, 256-byte
//! commands committed and handed out on every node. `make bench-peers` prints the table.
//!
//! What the others leave out, they do not pay for here:
//!
//! * noraft and raftbare: no durability gating (whatever is in the log counts at once), no pre-vote, no check that a
//!   majority is there, no flow control, no tickets: the user keeps the commands and compares commit indexes.
//! * raft (TiKV's): durability by the order of its `Ready`, synchronously; pre-vote exists and is off.
//! * OmniPaxos: no durability gating; another protocol, whose elections are apart.
//! * This library: durability of every write reported and waited for, pre-vote and check-quorum on, a response for
//!   each range of tickets, limits on everything.
//!
//! Times are medians of rounds taken in turn, and compare only within one run. Allocations and instructions repeat; the
//! latter need valgrind.

#[path = "../../cluster/mod.rs"]
mod cluster;
mod omni;
mod raft_rs;
mod small;

use std::process::Command;
use std::time::Instant;

use cluster::COMMAND_BYTES;

/// A cluster of a library, with a leader.
trait Library {
    /// `window` proposals are to be outstanding together.
    fn new(nodes: u64, window: usize) -> Self
    where
        Self: Sized;

    /// Commits `window` commands that are outstanding together.
    fn commit(&mut self, window: usize);

    /// Commits `entries` of them, a window at a time.
    fn commit_entries(&mut self, entries: usize, window: usize) {
        (0..entries / window).for_each(|_| self.commit(window));
    }

    /// Bytes of commands that were handed out, all nodes together.
    fn handed_out_bytes(&self) -> u64;
}

impl Library for cluster::Cluster {
    fn new(nodes: u64, _window: usize) -> Self {
        Self::new(nodes)
    }

    fn commit(&mut self, window: usize) {
        self.commit(window);
    }

    fn commit_entries(&mut self, entries: usize, window: usize) {
        self.commit_entries(entries, window);
    }

    fn handed_out_bytes(&self) -> u64 {
        self.applied_bytes()
    }
}

type Make = fn(u64, usize) -> Box<dyn Library>;

fn make<L: Library + 'static>(nodes: u64, window: usize) -> Box<dyn Library> {
    Box::new(L::new(nodes, window))
}

const LIBRARIES: [(&str, Make); 5] = [
    ("raft-core", make::<cluster::Cluster>),
    ("noraft", make::<small::by_noraft::Cluster>),
    ("raftbare", make::<small::by_raftbare::Cluster>),
    ("omnipaxos", make::<omni::Cluster>),
    ("raft-rs", make::<raft_rs::Cluster>),
];

const CASES: [(u64, usize); 6] = [(3, 1), (3, 64), (3, 1024), (5, 1), (5, 64), (5, 1024)];
const ROUNDS: usize = 9;
const ENTRIES_A_ROUND: usize = 1 << 14;
const ENTRIES_COUNTED: usize = 1 << 13;
/// Before anything is measured: buffers have grown by then.
const ENTRIES_BEFORE: usize = 34_000;

/// Commits about so many entries, and makes sure that they were handed out on every node. The last window of a follower
/// may wait for the leader's next message.
fn commit(library: &mut dyn Library, nodes: u64, window: usize, entries: usize) {
    let before = library.handed_out_bytes();
    library.commit_entries(entries, window);
    let handed_out = library.handed_out_bytes() - before;
    let least = nodes * ((entries / window - 1) * window * COMMAND_BYTES) as u64;
    assert!(handed_out >= least, "every node hands out every command");
}

fn steady(make: Make, nodes: u64, window: usize) -> Box<dyn Library> {
    let mut library = make(nodes, window);
    commit(library.as_mut(), nodes, window, ENTRIES_BEFORE);
    library
}

/// What is counted, under a name that callgrind finds.
#[inline(never)]
fn count(library: &mut dyn Library, nodes: u64, window: usize) {
    commit(library, nodes, window, ENTRIES_COUNTED);
}

fn allocations(make: Make, nodes: u64, window: usize) -> f64 {
    let mut library = steady(make, nodes, window);
    let counted = allocation_counter::measure(|| count(library.as_mut(), nodes, window));
    counted.count_total as f64 / ENTRIES_COUNTED as f64
}

/// By callgrind, if it is there.
fn instructions(name: &str, nodes: u64, window: usize) -> Option<f64> {
    let own = std::env::current_exe().expect("this program has a path");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=raft_core_peers::count*")
        .arg(own)
        .args(["count".to_owned(), name.to_owned(), nodes.to_string(), window.to_string()])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "))?.1.trim().parse::<u64>();
    Some(collected.expect("callgrind says how many") as f64 / ENTRIES_COUNTED as f64)
}

/// Nanoseconds an entry for each library: median, least and most of rounds taken in turn.
fn times(nodes: u64, window: usize) -> Vec<[f64; 3]> {
    let mut libraries: Vec<_> = LIBRARIES.iter().map(|(_, make)| steady(*make, nodes, window)).collect();
    let mut times = vec![Vec::new(); libraries.len()];
    for _ in 0..ROUNDS {
        for (library, times) in libraries.iter_mut().zip(&mut times) {
            let begin = Instant::now();
            commit(library.as_mut(), nodes, window, ENTRIES_A_ROUND);
            times.push(begin.elapsed().as_nanos() as f64 / ENTRIES_A_ROUND as f64);
        }
    }
    let summary = |mut times: Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        [times[ROUNDS / 2], times[0], times[ROUNDS - 1]]
    };
    times.into_iter().map(summary).collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["count", name, nodes, window] = words.as_slice() {
        let (_, make) = LIBRARIES.iter().find(|(known, _)| known == name).expect("a library's name");
        let (nodes, window) = (nodes.parse().expect("a number"), window.parse().expect("a number"));
        // What counts the allocations is no part of the path.
        return allocation_counter::opt_out(|| {
            count(steady(*make, nodes, window).as_mut(), nodes, window);
        });
    }
    println!(
        "256-byte commands, committed and handed out on every node, per entry, {ROUNDS} rounds in turn.\n"
    );
    println!(
        "nodes  outstanding  library      ns (min to max)             x ours  allocations  instructions  x ours"
    );
    for (nodes, window) in CASES {
        let times = times(nodes, window);
        let ours = times[0][0];
        let mut own_count = None;
        for ((name, make), [median, least, most]) in LIBRARIES.iter().zip(times) {
            let allocations = allocations(*make, nodes, window);
            let count = instructions(name, nodes, window);
            own_count = own_count.or(count);
            let counted = count.zip(own_count).map_or("no valgrind".to_owned(), |(count, own)| {
                format!("{count:>12.0}  {:>6.2}", count / own)
            });
            let range = format!("{median:.0} ({least:.0} to {most:.0})");
            let ratio = median / ours;
            println!(
                "{nodes:>5}  {window:>11}  {name:<11}  {range:<26}  {ratio:>6.2}  {allocations:>11.3}  {counted}"
            );
        }
        println!();
    }
}
