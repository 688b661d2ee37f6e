//! `show`: a run as a picture.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::{Fixed, Unusable, cannot_write, transcript};
use crate::trace::{self, Record};
use crate::workload::Workload;
use crate::{Options, Simulation, show};

/// Which run, and where to draw it.
#[derive(Debug, Args)]
pub struct Show {
    /// A transcript, or a trace of JSON lines.
    #[arg(required_unless_present = "seed")]
    file: Option<PathBuf>,
    /// This seed's run instead.
    #[arg(long, conflicts_with = "file")]
    seed: Option<u64>,
    #[command(flatten)]
    fixed: Fixed,
    /// The page to write (the file's name with `.html`, if not given).
    #[arg(long)]
    html: Option<PathBuf>,
}

impl Show {
    pub(super) fn run<W: Workload>(&self, workload: W) -> Result<ExitCode, Unusable> {
        let seed = self.seed.unwrap_or_default();
        let (records, name) = match &self.file {
            Some(file) => (self.records_of(file, workload)?, file.clone()),
            None => {
                let simulation = Simulation { options: self.fixed.options(), workload };
                let mut records = Vec::new();
                // A run that fails is what one wants to see.
                let _ = simulation.trace(seed, &mut |record| records.push(record.clone()));
                (records, PathBuf::from(format!("seed-{seed}")))
            }
        };
        let page = self.html.clone().unwrap_or_else(|| name.with_extension("html"));
        fs::write(&page, show::page(&records)).map_err(|error| cannot_write(&page, &error))?;
        println!("wrote {} ({} records): open it in a browser", page.display(), records.len());
        Ok(ExitCode::SUCCESS)
    }

    /// The records of a run that a file holds, or tells how to do again.
    fn records_of<W: Workload>(&self, file: &PathBuf, workload: W) -> Result<Vec<Record>, Unusable> {
        let unreadable = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let mut opened = BufReader::new(File::open(file).map_err(|error| unreadable(&error))?);
        // A transcript says so on its first line.
        let begins = opened.fill_buf().map_err(|error| unreadable(&error))?.starts_with(b"{\"transcript\"");
        if !begins {
            return trace::read(opened).map_err(|error| unreadable(&error));
        }
        let transcript = transcript::<W>(file)?;
        let mut records = Vec::new();
        let simulation = Simulation { options: Options::default(), workload };
        let _ = simulation.trace_again(&transcript, &mut |record| records.push(record.clone()));
        Ok(records)
    }
}
