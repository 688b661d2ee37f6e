//! The command line, the namespaces that a run goes into, and what is left of a run that failed.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Blocking, ExitCode, Stdio};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::run::{self, Options};

/// Set for the program that runs in namespaces of its own.
const INSIDE: &str = "CHAOS_IN_NAMESPACES";

/// Kills, pauses, cuts off, fills the disks of and replaces servers of a key-value store, and checks that every client
/// saw what one server would have shown.
#[derive(Debug, Parser)]
#[command(name = "chaos", max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cluster and break it.
    ///
    /// Exit status 0 only if every history is linearizable, nothing that was acknowledged is lost, and all servers agree
    /// at the end. A run that fails leaves its directory, and says how to look at it.
    Run(Run),
    /// Judge the histories that an earlier run left in its directory.
    Check {
        /// The directory.
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Run {
    /// The program to break: `kv`, or another one with its command line and HTTP surface.
    #[arg(long, value_name = "FILE")]
    server: PathBuf,
    /// How long faults go on.
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = clap::value_parser!(u64).range(5..=86_400))]
    duration_s: u64,
    /// Determines the faults and when they come, not how processes and requests interleave. Drawn if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Servers that vote.
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u64).range(3..=9))]
    servers: u64,
    /// Clients, each with one operation at a time.
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=256))]
    clients: u32,
    /// Operations a second that all clients together try, when nothing is broken.
    #[arg(long, value_name = "N", default_value = "800", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    ops_per_s: u32,
    /// What connects servers and clients.
    #[arg(long, value_enum, default_value = "proxy")]
    net: Net,
    /// Servers show each other certificates, made by the program for this run.
    #[arg(long)]
    tls: bool,
    /// Servers record what they do, and at the end every recording is replayed. For servers of this very release.
    #[arg(long)]
    record: bool,
    /// Where data, histories and logs go; below the system's directory for temporary files if it is not given.
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Keep the directory of a run that passed, too.
    #[arg(long)]
    keep: bool,
    /// Further arguments for every server.
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Net {
    /// Loopback through a proxy: delays, cuts, stalls; needs no rights.
    Proxy,
    /// Network namespaces: packets are lost; needs root, `ip`, `nft` and `unshare`.
    Namespaces,
}

pub(crate) fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(wanted) => start(wanted),
        Command::Check { directory } => run::check(&directory),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Goes into namespaces of its own where it may: mounts and networks end with the last process in them, however it ends.
fn enter_namespaces(net: Net) -> io::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let mut flags = vec!["--mount", "--propagation", "private"];
    if net == Net::Namespaces {
        flags.push("--net");
    }
    let tried = Blocking::new("unshare").args(&flags).arg("true").stderr(Stdio::null()).status();
    match (tried.is_ok_and(|status| status.success()), net) {
        (true, _) => {
            let mut arguments = std::env::args_os();
            arguments.next();
            let program = std::env::current_exe()?;
            // Returns only if it failed.
            Err(Blocking::new("unshare").args(&flags).arg(program).args(arguments).env(INSIDE, "1").exec())
        }
        (false, Net::Proxy) => Ok(()),
        (false, Net::Namespaces) => {
            Err(io::Error::other("network namespaces cannot be made here: run as root, or with --net proxy"))
        }
    }
}

fn start(wanted: Run) -> io::Result<bool> {
    enter_namespaces(wanted.net)?;
    let seed = wanted.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut directory = tempfile::Builder::new();
    let directory = directory.prefix("chaos-");
    let mut directory = match &wanted.directory {
        Some(parent) => std::fs::create_dir_all(parent).and_then(|()| directory.tempdir_in(parent))?,
        None => directory.tempdir()?,
    };
    let mut arguments = wanted.arguments;
    // Snapshots often, so that whoever was away or is new needs one.
    for (flag, value) in [("--snapshot-entries", "2000"), ("--keep-entries", "300")] {
        if !arguments.iter().any(|argument| argument == flag) {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
    }
    let options = Options {
        server: wanted.server,
        seed,
        duration_s: wanted.duration_s,
        servers: wanted.servers,
        clients: wanted.clients,
        ops_per_s: wanted.ops_per_s,
        namespaces: wanted.net == Net::Namespaces,
        tls: wanted.tls,
        record: wanted.record,
        arguments,
        keep: wanted.keep,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ran = runtime.block_on(async {
        tokio::select! {
            ran = run::run(&options, directory.path()) => ran,
            _ = tokio::signal::ctrl_c() => Err(io::ErrorKind::Interrupted.into()),
        }
    });
    // Before the directory goes: whoever writes into it ends with its handle.
    drop(runtime);
    let passed = matches!(ran, Ok(true));
    directory.disable_cleanup(!passed || wanted.keep);
    if !passed || wanted.keep {
        tell_where(directory.path());
    }
    ran
}

fn tell_where(directory: &Path) {
    println!("\nkept: {}", directory.display());
    println!("  history.jsonl  every operation      events.jsonl  every fault");
    println!("  server-N.log   what each one said   data-N        what each one had on its disk");
    println!(
        "judge it again: cargo run --release -p raft-driver-tokio --example chaos -- check {}",
        directory.display()
    );
}
