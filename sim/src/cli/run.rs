//! `run`: a campaign over many seeds, or one of them.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::state::{COMMIT, State};
use super::{Fixed, Unusable, progress, recording, traced, write_transcript};
use crate::summary::program;
use crate::workload::Workload;
use crate::{Campaign, Failure, Simulation, Summary};

/// Seeds between two times that a campaign is written down.
const PART: u64 = 500;

/// A campaign of so many runs is expected to come to every mark.
const MARKS_RUNS_MIN: u64 = 1_000;

/// Which seeds, and how.
#[derive(Debug, Args)]
pub struct Run {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000, conflicts_with = "seed")]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    start: u64,
    /// This seed only.
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    fixed: Fixed,
    /// Threads (as many as there are cores, if not given).
    #[arg(long)]
    jobs: Option<usize>,
    /// Begin no more seeds after so many seconds.
    #[arg(long, value_name = "SECONDS", conflicts_with = "seed")]
    time: Option<u64>,
    /// Write down in this file what is done, and go on from there if it exists.
    #[arg(long, value_name = "FILE", conflicts_with = "seed")]
    resume: Option<PathBuf>,
    /// Write the transcripts of failing runs into this directory.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Print what happens as protocol lines, or write it to a file as JSON, one object a line.
    #[arg(long, requires = "seed", num_args = 0..=1, default_missing_value = "-", value_name = "FILE.ndjson")]
    trace: Option<PathBuf>,
    /// Record every node into files of this directory, which `replay` steps through.
    #[arg(long, requires = "seed", conflicts_with = "trace", value_name = "DIR")]
    record: Option<PathBuf>,
    /// Go on after a failure, and list all of them.
    #[arg(long)]
    keep_going: bool,
    /// Print how many runs reached each mark, a place in the core's behaviour.
    #[arg(long)]
    marks: bool,
    /// No progress bar.
    #[arg(long)]
    quiet: bool,
}

impl Run {
    pub(super) fn run<W: Workload>(&self, workload: W) -> Result<ExitCode, Unusable> {
        let simulation = Simulation { options: self.fixed.options(), workload };
        match self.seed {
            Some(seed) => self.one(&simulation, seed),
            None => self.campaign(&simulation),
        }
    }

    fn one<W: Workload>(&self, simulation: &Simulation<W>, seed: u64) -> Result<ExitCode, Unusable> {
        let began = Instant::now();
        let result = match (&self.trace, &self.record) {
            (Some(to), _) => traced(to, |sink| simulation.trace(seed, sink))?,
            (None, Some(to)) => recording::record(simulation, seed, to)?,
            (None, None) => simulation.run(seed),
        };
        match result {
            Ok(summary) => {
                report(&summary, began.elapsed().as_secs_f64());
                self.tell_marks(&summary);
                Ok(ExitCode::SUCCESS)
            }
            Err(failure) => {
                self.failed(&failure)?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    fn campaign<W: Workload>(&self, simulation: &Simulation<W>) -> Result<ExitCode, Unusable> {
        let jobs = self.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        let deadline = self.time.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let mut state = State::new(simulation.options.to_string(), self.start);
        if let Some(file) = &self.resume {
            state = state.resume(file)?;
        }
        let bar = progress::bar(self.seeds, "seeds", self.quiet);
        bar.set_position(state.done);
        bar.reset_eta();
        while state.done < self.seeds && (self.keep_going || state.failures.is_empty()) {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break;
            }
            let (start, keep_going) = (self.start.wrapping_add(state.done), self.keep_going);
            let seeds = PART.min(self.seeds - state.done);
            let campaign = Campaign { start, seeds, jobs, keep_going, deadline };
            let began = Instant::now();
            let simulated = state.summary.simulated;
            let outcome = campaign.run(simulation, |so_far| {
                let rate = so_far.simulated.as_secs_f64() / began.elapsed().as_secs_f64().max(1e-9);
                let hours = (simulated + so_far.simulated).as_secs_f64() / 3_600.0;
                bar.set_message(format!("{rate:.0} simulated s/s, {hours:.1} simulated h"));
                bar.inc(1);
            });
            for failure in &outcome.failures {
                bar.suspend(|| self.failed(failure))?;
            }
            let done = outcome.summary.runs + outcome.failures.len() as u64;
            state.add(done, began.elapsed().as_secs_f64(), &outcome);
            if let Some(file) = &self.resume {
                state.write(file)?;
            }
            if done < seeds {
                break;
            }
        }
        bar.finish_and_clear();
        println!("commit       {COMMIT}, {} seeds from {} on{}", state.done, self.start, simulation.options);
        report(&state.summary, state.wall_seconds);
        self.tell_marks(&state.summary);
        Ok(if state.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Tells of a failure, and keeps it.
    fn failed(&self, failure: &Failure) -> Result<(), Unusable> {
        let (program, seed) = (program(), failure.seed());
        println!("FAILED: {failure}\nshortest:  {program} shrink --seed {seed}{}\n", failure.options);
        let Some(directory) = &self.save else { return Ok(()) };
        let file = directory.join(format!("seed-{seed}.jsonl"));
        let made = std::fs::create_dir_all(directory);
        made.map_err(|error| super::cannot_write(directory, &error))?;
        write_transcript(&failure.transcript, &file)?;
        println!("wrote {}", file.display());
        Ok(())
    }

    /// The marks, or those that a campaign has missed.
    fn tell_marks(&self, summary: &Summary) {
        if self.marks {
            print!("{}", summary.marks);
        } else if summary.runs >= MARKS_RUNS_MIN {
            for mark in summary.marks.missed() {
                println!("missed       {mark:?}: {}", mark.what());
            }
        }
    }
}

fn report(summary: &Summary, wall_seconds: f64) {
    let per_second = |value: f64| value / wall_seconds.max(1e-9);
    println!("{summary}");
    println!(
        "speed        {:.0} simulated s/s, {:.0} events/s, {wall_seconds:.1} s in all",
        per_second(summary.simulated.as_secs_f64()),
        per_second(summary.events as f64)
    );
}
