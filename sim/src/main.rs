//! The command line of the simulator: run seeds, show one as protocol lines, prove that the checkers see.

mod mutants;

use std::io::{BufWriter, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use raft_sim::{Campaign, Failure, Options, Summary};

/// Deterministic simulation of a Raft cluster, with every checker on.
#[derive(Debug, Parser)]
#[command(name = "sim", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run seeds; each is a cluster's life of at least 40 simulated seconds.
    Run(Run),
    /// Plant known bugs, one at a time, and see whether the checkers find them.
    Mutants(mutants::Mutants),
}

#[derive(Debug, Args)]
struct Run {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000, conflicts_with = "seed")]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    start: u64,
    /// This seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// How many servers begin (one to seven, mostly three or five, by the seed, if not given).
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: Option<u8>,
    /// Least simulated seconds of each run.
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// Least client operations of each run.
    #[arg(long, default_value_t = 300)]
    operations: u64,
    /// Threads (as many as there are cores, if not given).
    #[arg(long)]
    jobs: Option<usize>,
    /// Print what happens as protocol lines; needs --seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Go on after a failure, and list all of them.
    #[arg(long)]
    keep_going: bool,
    /// No progress bar.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(run) => run.run(),
        Command::Mutants(mutants) => mutants.run(),
    }
}

impl Run {
    fn run(&self) -> ExitCode {
        let options = Options {
            nodes: self.nodes.map(usize::from),
            seconds_min: self.seconds,
            operations_min: self.operations,
        };
        let began = Instant::now();
        let (summary, failures) = match (self.seed, self.trace) {
            (Some(seed), true) => split(trace(seed, &options)),
            (Some(seed), false) => split(raft_sim::run(seed, &options)),
            (None, _) => self.campaign(options),
        };
        report(&summary, began.elapsed().as_secs_f64());
        for failure in &failures {
            println!("\nFAILED: {failure}");
        }
        if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn campaign(&self, options: Options) -> (Summary, Vec<Failure>) {
        let jobs = self.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(self.seeds) };
        let style = "{bar:30} {pos}/{len} seeds, {per_sec}, {elapsed} (ETA {eta})";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        let (start, seeds, keep_going) = (self.start, self.seeds, self.keep_going);
        let campaign = Campaign { start, seeds, jobs, keep_going, options };
        let outcome = campaign.run(|_| bar.inc(1));
        bar.finish_and_clear();
        (outcome.summary, outcome.failures)
    }
}

fn split(result: Result<Summary, Failure>) -> (Summary, Vec<Failure>) {
    match result {
        Ok(summary) => (summary, Vec::new()),
        Err(failure) => (Summary::default(), vec![failure]),
    }
}

fn trace(seed: u64, options: &Options) -> Result<Summary, Failure> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut open = true;
    let result = raft_sim::trace(seed, options, &mut |line| {
        // A reader that has seen enough closes the pipe; the run goes on to its end.
        open = open && writeln!(out, "{line}").is_ok();
    });
    if open && out.flush().is_ok() {
        return result;
    }
    // Nobody reads any more: what would follow could only fail to be printed.
    std::process::exit(i32::from(result.is_err()));
}

fn report(summary: &Summary, wall_seconds: f64) {
    if summary.runs == 0 {
        return;
    }
    let per_second = |value: f64| value / wall_seconds.max(1e-9);
    println!("{summary}");
    println!(
        "speed        {:.0} simulated s/s, {:.0} events/s, {wall_seconds:.1} s in all",
        per_second(summary.simulated.as_secs_f64()),
        per_second(summary.events as f64)
    );
}
