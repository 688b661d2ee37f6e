//! `replay`: does again what a file says.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Unusable, recording, traced, transcript};
use crate::summary::program;
use crate::workload::Workload;
use crate::{Options, Simulation, is_recording};

/// Which file.
#[derive(Debug, Args)]
pub struct Replay {
    /// A transcript, as `run --save` and `shrink` write it, or the recording of a node.
    file: PathBuf,
    /// Print what happens as protocol lines, or write it to a file as JSON, one object a line.
    #[arg(long, num_args = 0..=1, default_missing_value = "-", value_name = "FILE.ndjson")]
    trace: Option<PathBuf>,
}

impl Replay {
    pub(super) fn run<W: Workload>(&self, workload: W) -> Result<ExitCode, Unusable> {
        let file = fs::read(&self.file).map_err(|error| format!("{}: {error}", self.file.display()))?;
        if is_recording(&file) {
            return recording::replay(&self.file, file, self.trace.as_deref());
        }
        let transcript = transcript::<W>(&self.file)?;
        let simulation = Simulation { options: Options::default(), workload };
        let result = match &self.trace {
            Some(to) => traced(to, |sink| simulation.trace_again(&transcript, sink))?,
            None => simulation.replay(&transcript),
        };
        Ok(match result {
            Ok(summary) => {
                println!("{summary}");
                match transcript.failed_by() {
                    Some(checker) => println!("this run holds now; it was written as failing by `{checker}`"),
                    None => println!("this run holds"),
                }
                ExitCode::SUCCESS
            }
            Err(failure) => {
                let (at, file) = (failure.at.as_secs_f64(), self.file.display());
                println!("FAILED: {file} at {at:.6} s: checker `{}`\n  {}", failure.checker, failure.what);
                println!("reproduce: {} replay {file} --trace", program());
                ExitCode::FAILURE
            }
        })
    }
}
