//! The second table: libraries that run by themselves. Three nodes in one process on one thread, logs in memory, 256 bytes a
//! write, each client with one write under way; a write counts when it was applied and its client knows. Seconds are those
//! of the thread's CPU time: it always has something to do, and other programs do not count.
//!
//! How the others were set up, and what they leave out:
//!
//! * Their stores are vectors, their networks a call of the other node; payloads are shared, never copied (ours copies each
//!   into a block, and sends it through a channel). Up to [`BATCH_ENTRIES`] entries a message. No heartbeat, election or
//!   snapshot happens in a run.
//! * OpenRaft 0.9 and 0.10: no check-quorum, and no pre-vote in 0.9; durability is reported by a callback, at once here.
//!   Their network is asynchronous calls, with one append under way for each follower in 0.9.
//! * async-raft: no pre-vote, no check-quorum; the leader's append is awaited for each entry by itself.
//! * actix-raft: the same with actors. It needs crates of its time, and is a program of its own beside this one.
//! * The floor keeps, passes on and answers, with no protocol at all: it compares nothing, and checks nothing.

mod async_raft;
mod floor;
mod openraft_0_10;
mod openraft_0_9;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::load::{Work, actix_driver, tokio_driver};
use crate::report::Report;
use crate::rounds::in_turn;

const NODES: u64 = 3;
/// Longer than a run.
const HEARTBEAT_MS: u64 = 60_000;
/// The most that a message carries, where that can be chosen.
const BATCH_ENTRIES: u64 = 1024;

pub(crate) const CLIENTS: [usize; 5] = [1, 64, 256, 1024, 4096];

/// Writes a second with so many clients.
type Measure = Box<dyn Fn(usize, Work) -> f64>;

/// What is measured, and what it runs on.
struct Driver {
    name: &'static str,
    runtime: &'static str,
    measure: Measure,
}

fn drivers(actix_raft: Option<PathBuf>) -> Vec<Driver> {
    let driver =
        |name, runtime, measure: fn(usize, Work) -> f64| Driver { name, runtime, measure: Box::new(measure) };
    let mut all = vec![
        driver("ours, Tokio", "Tokio", tokio_driver),
        driver("ours, Actix", "actix 0.13", actix_driver),
        driver("openraft 0.9", "Tokio", openraft_0_9::measure),
        driver("openraft 0.10", "Tokio", openraft_0_10::measure),
        driver("async-raft 0.6", "Tokio", async_raft::measure),
    ];
    if let Some(program) = actix_raft {
        let measure = Box::new(move |clients, work| beside(&program, clients, work));
        all.push(Driver { name: "actix-raft 0.4", runtime: "actix 0.8", measure });
    }
    all.push(driver("no protocol", "Tokio", floor::measure));
    all
}

/// Runs it on a runtime of Tokio that has this thread only.
fn on_one_thread<T>(measured: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measured)
}

/// What another program measures and prints.
fn beside(program: &Path, clients: usize, work: Work) -> f64 {
    let mut command = Command::new(program);
    command.arg(clients.to_string());
    if let Work::Writes(writes) = work {
        command.arg(writes.to_string());
    }
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| {
        let error = String::from_utf8_lossy(&output.stderr);
        panic!("{} prints no number, but: {said}{error}", program.display())
    })
}

/// Which of it is wanted.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds taken in turn; each takes about 5 s for each number of clients.
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_values_t = CLIENTS)]
    clients: Vec<usize>,
    /// Only drivers whose names have this in them, beside ours on Tokio. Once for each.
    #[arg(long)]
    only: Vec<String>,
    /// Instead of what goes into half a second, about so many writes, by the clock on the wall. For instruction counts
    /// under callgrind, with one of --clients and --only: what twice as many take is the difference.
    #[arg(long, value_name = "N")]
    writes: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 5, clients: CLIENTS.to_vec(), only: Vec::new(), writes: None }
    }
}

/// Measures and prints it.
pub(crate) fn run(options: &Options, actix_raft: Option<PathBuf>, report: &mut Report) {
    let rounds = usize::from(options.rounds);
    let work = options.writes.map_or(Work::Round, Work::Writes);
    println!(
        "\nDrivers: 3 nodes in one process on one thread, logs in memory, 256-byte writes, each client with one under way."
    );
    println!("Thousand writes a second of the thread's CPU time, median of {rounds} rounds in turn.");
    println!(
        "The others' logs share payloads and their networks are calls; no heartbeats, elections or snapshots in a run."
    );
    if actix_raft.is_none() {
        println!("actix-raft is not measured: it is a program of its own, see --actix-raft.");
    }
    println!("\nclients  driver           thousand/s (min to max)     x ours  runs on");
    let wanted = |driver: &Driver| {
        options.only.is_empty()
            || driver.name == "ours, Tokio"
            || options.only.iter().any(|part| driver.name.contains(part))
    };
    let mut drivers: Vec<Driver> = drivers(actix_raft).into_iter().filter(wanted).collect();
    let bar = report.bar("drivers", options.clients.len() * rounds * drivers.len());
    for &clients in &options.clients {
        let rates = in_turn(rounds, &mut drivers, |driver| {
            bar.set_message(driver.name);
            let rate = (driver.measure)(clients, work) / 1000.0;
            bar.inc(1);
            rate
        });
        let ours = rates[0].median;
        for (driver, rate) in drivers.iter().zip(rates) {
            let (name, runtime, ratio) = (driver.name, driver.runtime, rate.median / ours);
            let range = format!("{rate:.1}");
            bar.suspend(|| println!("{clients:>7}  {name:<15}  {range:<26}  {ratio:>6.3}  {runtime}"));
            report.row(
                "drivers",
                json!({
                    "clients": clients, "driver": name, "runtime": runtime, "thousand_writes_s": rate.median,
                    "least": rate.least, "most": rate.most,
                }),
            );
        }
        bar.suspend(|| println!());
    }
    bar.finish_and_clear();
}
