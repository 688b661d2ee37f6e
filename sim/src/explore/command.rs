//! `sim explore`: models on the command line.

use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::{Limits, Model, Progress, Report, explore, models};

/// Explore small models of a cluster exhaustively; without a name, all of them.
#[derive(Debug, Args)]
pub struct Explore {
    /// The models to explore.
    #[arg(value_name = "MODEL")]
    names: Vec<String>,
    /// List the models.
    #[arg(long)]
    list: bool,
    /// Stop a model at so many states; it is not closed then.
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
    states_max: u64,
    /// No progress.
    #[arg(long)]
    quiet: bool,
}

impl Explore {
    /// Explores, and prints a table. Fails if a rule is broken, or a model was cut off.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let all = models();
        if self.list {
            all.iter().for_each(|model| println!("{:<14}{} ({})", model.name, model.about, model.bounds()));
            return ExitCode::SUCCESS;
        }
        if let Some(unknown) = self.names.iter().find(|name| !all.iter().any(|model| model.name == **name)) {
            eprintln!("there is no model {unknown:?}; `sim explore --list` lists them");
            return ExitCode::FAILURE;
        }
        let wanted =
            |model: &&Model| self.names.is_empty() || self.names.iter().any(|name| name == model.name);
        let reports: Vec<Report> = all.iter().filter(wanted).map(|model| self.explore(model)).collect();
        table(&reports);
        for report in &reports {
            if let Some(violation) = &report.violation {
                println!("\nFAILED: {}\n{violation}", report.model);
            }
            if report.cut {
                println!("\nCUT OFF: {} has more than {} states", report.model, self.states_max);
            }
        }
        if reports.iter().all(Report::closed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn explore(&self, model: &Model) -> Report {
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        let style = ProgressStyle::with_template("{spinner} {prefix}: {msg}, {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_prefix(model.name);
        let limits = Limits { states_max: self.states_max };
        let report = explore(model, &limits, |progress| {
            bar.set_message(message(progress));
            bar.tick();
        });
        bar.finish_and_clear();
        report
    }
}

fn message(progress: &Progress) -> String {
    let rate = progress.states as f64 / progress.elapsed.as_secs_f64().max(1e-9);
    format!("{} states, {rate:.0} a second, depth {}", progress.states, progress.depth)
}

fn table(reports: &[Report]) {
    println!(
        "{:<14}{:>12}{:>13}{:>7}{:>11}{:>10}{:>11}{:>9}{:>11}  closed",
        "model", "states", "choices", "depth", "widest", "servers", "node steps", "seconds", "states/s"
    );
    let row = |name: &str, report: &Report| {
        let seconds = report.elapsed.as_secs_f64();
        println!(
            "{name:<14}{:>12}{:>13}{:>7}{:>11}{:>10}{:>11}{seconds:>9.1}{:>11.0}  {}",
            report.states,
            report.transitions,
            report.depth,
            report.widest,
            report.servers,
            report.steps,
            report.states as f64 / seconds.max(1e-9),
            if report.closed() { "yes" } else { "NO" }
        );
    };
    reports.iter().for_each(|report| row(report.model, report));
    if reports.len() > 1 {
        let mut all = Report::new("all");
        for report in reports {
            all.states += report.states;
            all.transitions += report.transitions;
            all.depth = all.depth.max(report.depth);
            all.widest = all.widest.max(report.widest);
            all.servers += report.servers;
            all.steps += report.steps;
            all.elapsed += report.elapsed;
            all.cut |= !report.closed();
        }
        row("all", &all);
    }
}
