//! `shrink`: the shortest schedule that still fails.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Fixed, Unusable, progress, transcript, write_transcript};
use crate::Simulation;
use crate::summary::program;
use crate::workload::Workload;

/// Which run, and how long to search.
#[derive(Debug, Args)]
pub struct Shrink {
    /// The transcript of a failing run, as `run --save` writes it.
    #[arg(required_unless_present = "seed")]
    file: Option<PathBuf>,
    /// This seed's run instead.
    #[arg(long, conflicts_with = "file")]
    seed: Option<u64>,
    #[command(flatten)]
    fixed: Fixed,
    /// Where to write the shortest one.
    #[arg(long, short, default_value = "shrunk.jsonl")]
    output: PathBuf,
    /// How many runs to try at most.
    #[arg(long, default_value_t = 2_000)]
    runs: u64,
    /// No progress bar.
    #[arg(long)]
    quiet: bool,
}

impl Shrink {
    pub(super) fn run<W: Workload>(&self, workload: W) -> Result<ExitCode, Unusable> {
        let simulation = Simulation { options: self.fixed.options(), workload };
        let failing = match &self.file {
            Some(file) => transcript::<W>(file)?,
            None => simulation.transcribe(self.seed.unwrap_or_default()).1,
        };
        let bar = progress::bar(self.runs, "runs", self.quiet);
        // A core that panics does so in every run that counts: said once, at the end.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let shrunk = simulation.shrink(&failing, self.runs, &mut |progress| {
            let (faults, moves, requests) = progress.left;
            bar.set_position(progress.runs);
            bar.set_message(format!(
                "{}: {faults} faults, {moves} acts, {requests} requests, {} servers left",
                progress.doing, progress.servers
            ));
        });
        std::panic::set_hook(hook);
        bar.finish_and_clear();
        let shrunk = shrunk.map_err(|holds| holds.to_string())?;
        let count = |(faults, moves, requests): (usize, usize, usize), servers| {
            format!("{faults} faults, {moves} acts of the operator, {requests} requests, {servers} servers")
        };
        let left = &shrunk.transcript;
        println!("from  {}", count(failing.decisions(), failing.servers().1));
        println!("to    {}", count(left.decisions(), left.servers().1));
        println!(
            "in    {} runs{}",
            shrunk.runs,
            if shrunk.complete { "" } else { " (more might help: --runs)" }
        );
        println!("still {}: {}", shrunk.failure.checker, shrunk.failure.what);
        write_transcript(left, &self.output)?;
        let (program, file) = (program(), self.output.display());
        println!(
            "wrote {file}: `{program} replay {file} --trace` prints it, `{program} show {file}` draws it"
        );
        Ok(ExitCode::SUCCESS)
    }
}
