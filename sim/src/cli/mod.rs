//! The command line, for the simulator's own machine or yours: `fn main() -> ExitCode { raft_sim::cli::main(Bank) }`.
//!
//! * The status is 0 if everything held, 1 if a rule was broken, 2 if a file or an argument is no good.

mod progress;
mod recording;
mod replay;
mod run;
mod show;
mod shrink;
mod state;

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::trace::{self, Record};
use crate::transcript::Transcript;
use crate::workload::Workload;
use crate::{Failure, Options, Profile, Summary};

/// Deterministic simulation of a Raft cluster, with every checker on.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What can be done with a workload.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run seeds; each is a cluster's life of at least 10 simulated seconds.
    Run(run::Run),
    /// Do again what a file says: a transcript, or a recording of a real server.
    Replay(replay::Replay),
    /// Make a failing run as short as it can be.
    Shrink(shrink::Shrink),
    /// Draw a run: one HTML page, with nodes as lanes and messages as arrows.
    Show(show::Show),
}

impl Command {
    /// Does it. The status tells whether everything held.
    pub fn run<W: Workload>(self, workload: W) -> ExitCode {
        let ended = match self {
            Self::Run(run) => run.run(workload),
            Self::Replay(replay) => replay.run(workload),
            Self::Shrink(shrink) => shrink.run(workload),
            Self::Show(show) => show.run(workload),
        };
        ended.unwrap_or_else(|unusable| {
            eprintln!("{unusable}");
            ExitCode::from(2)
        })
    }
}

/// The whole command line for a workload.
pub fn main<W: Workload>(workload: W) -> ExitCode {
    Cli::parse().command.run(workload)
}

/// A file or an argument is no good: what to tell, and what to do about it.
type Unusable = String;

/// What is fixed for a run.
#[derive(Debug, Args)]
struct Fixed {
    /// How many servers begin (one to seven, mostly three or five, by the seed, if not given).
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: Option<u8>,
    /// Least simulated seconds of each run.
    #[arg(long, default_value_t = Options::default().seconds_min)]
    seconds: u64,
    /// Least client operations of each run.
    #[arg(long, default_value_t = Options::default().operations_min)]
    operations: u64,
    /// What kind of runs.
    #[arg(long, value_enum, default_value_t = Options::default().profile)]
    profile: Profile,
}

impl Fixed {
    fn options(&self) -> Options {
        Options {
            nodes: self.nodes.map(usize::from),
            seconds_min: self.seconds,
            operations_min: self.operations,
            profile: self.profile,
        }
    }
}

/// Does a run whose records go to `to`: `-` is the standard output, as protocol lines; a file gets JSON, one a line.
fn traced(
    to: &Path,
    run: impl FnOnce(&mut dyn FnMut(&Record)) -> Result<Summary, Box<Failure>>,
) -> Result<Result<Summary, Box<Failure>>, Unusable> {
    let lines = to == Path::new("-");
    let out: Box<dyn Write> = match lines {
        true => Box::new(io::stdout().lock()),
        false => Box::new(File::create(to).map_err(|error| cannot_write(to, &error))?),
    };
    let mut out = BufWriter::new(out);
    let mut written = Ok(());
    let result = run(&mut |record| {
        // A reader that has seen enough closes the pipe; the run goes on to its end.
        if written.is_ok() {
            written = if lines { writeln!(out, "{record}") } else { trace::write(record, &mut out) };
        }
    });
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(result),
        // Nobody reads any more: what would follow could only fail to be printed.
        Err(error) if lines && error.kind() == io::ErrorKind::BrokenPipe => {
            std::process::exit(i32::from(result.is_err()))
        }
        Err(error) => Err(cannot_write(to, &error)),
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Unusable {
    format!("{} cannot be written: {error}", path.display())
}

/// The transcript in a file. One of another workload would be another run here, and prove nothing.
fn transcript<W: Workload>(file: &Path) -> Result<Transcript, Unusable> {
    let unusable = |what: &dyn Display| format!("{}: {what}", file.display());
    let transcript = Transcript::read(file).map_err(|error| unusable(&error))?;
    match transcript.workload() {
        Some(other) if other != W::name() => Err(unusable(&format_args!(
            "it is of the workload {other}, and this program runs {}: use the program that wrote it",
            W::name()
        ))),
        _ => Ok(transcript),
    }
}

fn write_transcript(transcript: &Transcript, to: &Path) -> Result<(), Unusable> {
    transcript.write(to).map_err(|error| cannot_write(to, &error))
}
