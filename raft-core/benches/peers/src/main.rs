//! This project beside others, on the same work, in turn (A B A B): one table for each way in which it can be used. Figures
//! compare only within one run. `make bench-peers` builds what is needed and prints all tables.
//!
//! * [`cores`]: libraries without IO, by function call; [`cores_table`] measures them, `count.rs` counts.
//! * [`drivers`]: libraries that run by themselves, in one process.
//! * [`networked`]: kv and etcd as [`servers`]; [`failover`]: the same when the leader goes.
//! * [`report`]: the figures as a file, and progress.

mod cores;
mod cores_table;
mod drivers;
mod failover;
#[path = "../../../../raft-driver-actix/benches/load/mod.rs"]
mod load;
mod networked;
mod report;
#[path = "../../rounds/mod.rs"]
mod rounds;
mod servers;

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::report::Report;
use crate::servers::{Programs, Result};

const HELP: &str = "\
Without a table, all are measured, one after the other. Figures compare only within one run, and the
machine should have nothing else to do. Other programs that take part:
  raft-core-peers-count  beside this one; valgrind for instructions                (core)
  --actix-raft PROGRAM   raft-core/benches/peers/actix-raft, built by itself       (drivers)
  --kv PROGRAM           cargo build --release -p raft-driver-tokio --example kv   (networked, failover)
  --etcd PROGRAM         Debian's etcd-server                                      (networked, failover)
`make bench-peers` builds and names them; PEERS_ARGS=\"drivers --rounds 3\" chooses.
Servers are processes on loopback that end with this program, however it ends.";

/// Measures this project beside others on the same work, in turn, and prints tables with ratios.
#[derive(Debug, Parser)]
#[command(after_help = HELP)]
struct Cli {
    #[command(subcommand)]
    table: Option<Table>,
    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
struct Shared {
    /// Also write the figures into this file, as JSON: after each row all that are there.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The program that measures actix-raft. Without it, that row is left out.
    #[arg(long, global = true, value_name = "PROGRAM")]
    actix_raft: Option<PathBuf>,
    /// This project's key-value server.
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "target/release/examples/kv")]
    kv: PathBuf,
    /// The server to compare it with. Where it cannot be started, its rows are left out.
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "etcd")]
    etcd: PathBuf,
    /// Where servers have their data for as long as they run: on a real disk.
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/tmp")]
    data: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Table {
    /// Libraries without IO, by function call on one thread: time, allocations and instructions an entry. About 3 minutes.
    Core {
        /// Rounds taken in turn.
        #[arg(long, default_value_t = CORE_ROUNDS, value_parser = clap::value_parser!(u8).range(1..=100))]
        rounds: u8,
    },
    /// Libraries that run by themselves, 3 nodes in one process: writes a second for numbers of clients. About 3 minutes.
    Drivers(drivers::Options),
    /// kv and etcd as three processes: writes a second and latencies for numbers of clients. About 3 minutes.
    Networked(networked::Options),
    /// kv and etcd when the leader is killed, and when it is stopped in order. About 12 minutes.
    Failover(failover::Options),
}

const CORE_ROUNDS: u8 = 9;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match measure(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn measure(cli: Cli) -> Result<()> {
    let Cli { table, shared } = cli;
    let mut report = Report::new(shared.json.clone());
    match table {
        Some(Table::Core { rounds }) => cores_table::run(rounds.into(), &mut report),
        Some(Table::Drivers(options)) => drivers::run(&options, shared.actix_raft, &mut report),
        Some(Table::Networked(options)) => {
            let programs = programs(&shared)?;
            until_interrupted(networked::run(&options, &programs, &mut report))?;
        }
        Some(Table::Failover(options)) => {
            let programs = programs(&shared)?;
            until_interrupted(failover::run(&options, &programs, &mut report))?;
        }
        None => {
            // What is missing is better heard of before than after the first tables.
            let programs = programs(&shared)?;
            cores_table::run(CORE_ROUNDS.into(), &mut report);
            drivers::run(&drivers::Options::default(), shared.actix_raft, &mut report);
            until_interrupted(async {
                networked::run(&networked::Options::default(), &programs, &mut report).await?;
                failover::run(&failover::Options::default(), &programs, &mut report).await
            })?;
        }
    }
    Ok(())
}

/// Finds what servers are started from, and says what is missing.
fn programs(shared: &Shared) -> Result<Programs> {
    let kv = shared.kv.canonicalize().map_err(|error| {
        let build = "cargo build --release -p raft-driver-tokio --example kv";
        format!("{}: {error}; build it ({build}), or name it with --kv", shared.kv.display())
    })?;
    let version = Command::new(&shared.etcd).arg("--version").stdin(Stdio::null()).output();
    let etcd = match version {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stdout);
            println!("Beside it: {}", said.lines().next().unwrap_or("etcd"));
            Some(shared.etcd.clone())
        }
        _ => {
            let name = shared.etcd.display();
            println!("{name} cannot be started: its rows are left out. Debian has it as etcd-server.");
            None
        }
    };
    let data = shared.data.canonicalize().map_err(|error| format!("{}: {error}", shared.data.display()))?;
    if servers::in_memory(&data) {
        println!(
            "{} is in memory: nothing there is durable, and no figure means anything. See --data.",
            data.display()
        );
    }
    Ok(Programs { kv, etcd, data })
}

/// Runs it on this thread. A signal ends it in order, and its servers with it.
fn until_interrupted(measured: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    LocalSet::new().block_on(&runtime, async {
        let failed = |error| format!("signals cannot be heard: {error}");
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        tokio::select! {
            done = measured => done,
            _ = interrupt.recv() => Err("interrupted".to_owned()),
            _ = terminate.recv() => Err("told to end".to_owned()),
        }
    })
}
