//! Proof that the checkers see: each patch under `sim/mutants/` plants one known bug into a copy of the core, and the
//! default campaign has to find it.
//!
//! * The patches are small unified diffs against `raft-core/src`; the code itself stays clean.
//! * A mutant that no longer applies, does not build, or is not found is a failure, and so is any seed that it took to
//!   find one and that fails without it.
//! * Verdicts are kept under `target/mutants`, each with a hash of the patch and of all sources: a run that was
//!   interrupted goes on, and what has not changed is not run again.

mod plant;
mod table;
mod verdicts;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, thread};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use plant::Nursery;
use table::Row;
use verdicts::{Verdict, Verdicts};

#[derive(Debug, Args)]
pub(crate) struct Mutants {
    /// Only the mutants whose names contain this.
    name: Option<String>,
    /// How many seeds a mutant may survive.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// Threads for the seeds of a mutant (as many as there are cores, if not given).
    #[arg(long)]
    jobs: Option<usize>,
    /// Minutes that a mutant's campaign may take.
    #[arg(long, default_value_t = 20)]
    minutes: u64,
    /// Forget what earlier runs found.
    #[arg(long)]
    fresh: bool,
    /// Only list them, with what they plant.
    #[arg(long)]
    list: bool,
}

/// A planted bug.
#[derive(Debug)]
struct Mutant {
    name: String,
    patch: PathBuf,
    /// What it plants, in a sentence: what stands before the patch.
    what: String,
}

impl Mutants {
    pub(crate) fn run(&self) -> ExitCode {
        let result = if self.list { self.names() } else { self.all() };
        match result {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("mutants: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn names(&self) -> io::Result<bool> {
        let mutants = self.wanted(Path::new(env!("CARGO_MANIFEST_DIR")))?;
        let width = mutants.iter().map(|mutant| mutant.name.len()).max().unwrap_or_default();
        for Mutant { name, what, .. } in &mutants {
            println!("{name:width$}  {what}");
        }
        println!("{} mutants, {}", mutants.len(), table::numbers(mutants.iter().map(|mutant| &*mutant.name)));
        Ok(true)
    }

    fn all(&self) -> io::Result<bool> {
        let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = sim.parent().ok_or_else(|| io::Error::other("the workspace has no directory"))?;
        let mutants = self.wanted(sim)?;
        let work = target_dir(root).join("mutants");
        fs::create_dir_all(&work)?;
        let nursery = Nursery::new(root, &work)?;
        let mut known = Verdicts::open(&work.join("verdicts.tsv"), self.fresh)?;

        let bar = ProgressBar::new(mutants.len() as u64 + 1);
        let style = "{bar:30} {pos}/{len} mutants, {elapsed} (ETA {eta})  {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_secs(1));
        let width = mutants.iter().map(|mutant| mutant.name.len()).max().unwrap_or_default();
        bar.suspend(|| println!("{}", table::head(width)));
        let mut rows = Vec::new();
        for mutant in &mutants {
            bar.set_message(mutant.name.clone());
            let verdict = self.verdict(&nursery, &mut known, Some(mutant), self.seeds)?;
            let row = Row { name: mutant.name.clone(), what: mutant.what.clone(), verdict };
            bar.suspend(|| println!("{}", row.line(width, self.seeds)));
            bar.inc(1);
            rows.push(row);
        }
        bar.set_message("the same seeds without a mutant");
        let seeds = rows.iter().filter_map(Row::seeds).max().unwrap_or_default();
        let clean = self.verdict(&nursery, &mut known, None, seeds)?;
        bar.finish_and_clear();

        let caught = rows.iter().filter(|row| row.seeds().is_some()).count();
        let names = || rows.iter().map(|row| &*row.name);
        println!("{caught} of {} mutants caught, {}", rows.len(), table::numbers(names()));
        match &clean {
            Verdict::Missed { .. } => println!("without a mutant the same {seeds} seeds are clean"),
            other => println!("WITHOUT A MUTANT: {}", other.text(seeds)),
        }
        if self.name.is_none() {
            let path = work.join("table.md");
            fs::write(&path, table::markdown(&rows, self.seeds, seeds))?;
            println!("the table as markdown: {}", path.display());
        }
        Ok(caught == rows.len() && matches!(clean, Verdict::Missed { .. }))
    }

    /// The mutants with such a name, in the order of their numbers.
    fn wanted(&self, sim: &Path) -> io::Result<Vec<Mutant>> {
        let mut mutants = Vec::new();
        for entry in fs::read_dir(sim.join("mutants"))? {
            let patch = entry?.path();
            let name = patch.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let wanted = self.name.as_ref().is_none_or(|part| name.contains(part.as_str()));
            if patch.extension().is_some_and(|extension| extension == "patch") && wanted {
                let text = fs::read_to_string(&patch)?;
                let what = text.lines().next().unwrap_or_default().to_owned();
                mutants.push(Mutant { name, patch, what });
            }
        }
        mutants.sort_by_key(|mutant| table::order(&mutant.name));
        if mutants.is_empty() { Err(io::Error::other("no mutant has such a name")) } else { Ok(mutants) }
    }

    /// What so many seeds say of a mutant, or of the core as it is: known, or found out now.
    fn verdict(
        &self,
        nursery: &Nursery,
        known: &mut Verdicts,
        mutant: Option<&Mutant>,
        seeds: u64,
    ) -> io::Result<Verdict> {
        let patch = mutant.map(|mutant| &*mutant.patch);
        let key = nursery.key(patch)?;
        if let Some(verdict) = known.find(key, seeds) {
            return Ok(verdict);
        }
        let jobs = self.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        let verdict = match nursery.build(patch)? {
            Ok(()) => nursery.run(seeds, jobs, Duration::from_secs(60 * self.minutes))?,
            Err(why) => Verdict::Broken(why),
        };
        known.keep(key, mutant.map_or("none", |mutant| &mutant.name), &verdict)?;
        Ok(verdict)
    }
}

fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}
