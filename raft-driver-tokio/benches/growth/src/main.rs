//! How cost, throughput, latency and memory grow with nodes, payloads, logs, groups, clients, load, and beside a follower
//! that catches up: `make growth`.
//!
//! * Each point is measured by a child process, which prints rows; the parent keeps them as CSV, draws them, and says
//!   what grew faster than it may.
//! * What was not measured now is drawn from what is there.

#[path = "../../../tests/bulk/mod.rs"]
mod bulk;
#[path = "../../../../raft-core/benches/cluster/mod.rs"]
mod cluster;
mod curves;
mod draw;
mod figures;
#[path = "../../group_commit/mod.rs"]
mod group_commit;
#[path = "../../hops/mod.rs"]
mod hops;
#[path = "../../idle_groups/mod.rs"]
#[expect(dead_code, reason = "the bench of its own prints more")]
mod idle_groups;
mod lag;
mod load;
mod nodes;
mod page;
mod points;
mod system;

use std::error::Error;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use crate::curves::{Curve, Point};
use crate::figures::{FIGURES, Row};

/// Measures how Raft grows, and draws it
///
/// Writes a CSV file for each curve, an SVG file for each figure and a README.md that shows them. Says at the end what grew
/// faster than it may, and fails then. All of it takes about ten minutes on two cores, which should have nothing else to do.
#[derive(Parser)]
#[command(
    name = "growth",
    after_help = "Examples (after `make growth GROWTH=\"...\"`):\n  \
        --quick                 see that everything works, in two minutes; figures are rough\n  \
        load catch-up           these curves anew, the others as they were\n  \
        --redraw                draw what was measured before, measure nothing\n  \
        --quick --out /tmp/g    leave the committed figures alone"
)]
struct Options {
    /// Which curves to measure [default: all]
    curves: Vec<Curve>,
    /// Fewer and shorter points, in about two minutes
    #[arg(long)]
    quick: bool,
    /// Measure nothing: draw what is there
    #[arg(long, conflicts_with = "curves")]
    redraw: bool,
    /// Where rows, figures and page are kept
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/growth"))]
    out: PathBuf,
    /// One point of one curve alone, its rows to stdout: what child processes do; good under `perf record`
    #[arg(long, value_name = "NUMBER", requires = "curves")]
    point: Option<usize>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((role, arguments)) = arguments.split_first()
        && role == "process"
    {
        // A process with idle groups, started by a point.
        return ended(idle_groups::process(arguments).map(|()| true).map_err(|error| error.to_string()));
    }
    ended(run(&Options::parse()).map_err(|error| error.to_string()))
}

fn ended(result: Result<bool, String>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether nothing grew faster than it may.
fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let all = Curve::value_variants();
    if let (Some(number), [curve]) = (options.point, options.curves.as_slice()) {
        let points = curve.points(options.quick);
        let point = points.get(number).ok_or_else(|| format!("there are {} points", points.len()))?;
        (point.measure)().iter().for_each(|row| println!("{row}"));
        return Ok(true);
    }
    std::fs::create_dir_all(&options.out)?;
    if !options.redraw {
        let curves = if options.curves.is_empty() { all } else { options.curves.as_slice() };
        measure(curves, options.quick, &options.out)?;
    }
    let mut rows = Vec::new();
    for curve in all {
        rows.append(&mut figures::read(&options.out, &curve.name())?);
    }
    FIGURES.iter().try_for_each(|figure| draw::draw(&options.out, figure, &rows))?;
    page::write(&options.out, &rows)?;
    println!("{}", options.out.join("README.md").display());
    let mut holds = true;
    for row in &rows {
        if let Row::Check { what, found, allowed, unit } = row {
            let verdict = if row.holds() { "within" } else { "BEYOND" };
            println!("{what}: {found:.2} {unit}, {verdict} {allowed:.2}");
            holds &= row.holds();
        }
    }
    Ok(holds)
}

fn measure(curves: &[Curve], quick: bool, out: &Path) -> Result<(), Box<dyn Error>> {
    let all: f64 = curves.iter().flat_map(|curve| curve.points(quick)).map(|point| point.seconds).sum();
    let bar = ProgressBar::new((all * 10.0) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:30} {percent:>3} % {elapsed}, {eta} left  {wide_msg}")?);
    let mut done = 0.0;
    for curve in curves {
        let mut rows = Vec::new();
        for (number, point) in curve.points(quick).iter().enumerate() {
            bar.set_message(format!("{}: {}", curve.name(), point.label));
            rows.append(&mut child(*curve, quick, number, point, &bar, done)?);
            done += point.seconds;
        }
        rows.append(&mut curve.checks(&rows));
        figures::write(out, &curve.name(), &rows)?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Has a process of its own measure a point.
fn child(
    curve: Curve,
    quick: bool,
    number: usize,
    point: &Point,
    bar: &ProgressBar,
    done: f64,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(curve.name()).args(["--point".to_owned(), number.to_string()]);
    command.args(quick.then_some("--quick"));
    // A file, since a pipe that nobody reads would hold it up.
    let mut printed = tempfile::tempfile()?;
    let mut child = command.stdout(printed.try_clone()?).spawn()?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let share = began.elapsed().as_secs_f64().min(point.seconds);
        bar.set_position(((done + share) * 10.0) as u64);
        std::thread::sleep(Duration::from_millis(50));
    };
    let mut text = String::new();
    printed.rewind()?;
    printed.read_to_string(&mut text)?;
    if !status.success() {
        return Err(
            io::Error::other(format!("{}: {} could not be measured", curve.name(), point.label)).into()
        );
    }
    Ok(figures::parse(&text)?)
}
