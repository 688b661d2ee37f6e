//! The page that shows what was found: what must not grow, the tail, and the figures.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::figures::{FIGURES, Row};

const HEAD: &str = "# How it grows

Made by `make growth`, which also says how (`make growth GROWTH=--help`); the rows are in the CSV files beside this page, and
`make growth GROWTH=--redraw` draws them again. One process each, commands of 256 bytes unless a figure says otherwise. *In
memory*: all nodes and clients on one thread, messages through channels. *Durable over TCP*: each of three nodes on a thread
of its own, with its own sockets on loopback and its own store, every write synced by a majority; clients on the leader's thread.

";

/// Writes it.
pub(crate) fn write(folder: &Path, rows: &[Row]) -> io::Result<()> {
    let mut page = HEAD.to_owned();
    page += "## What must not grow\n\n| | found | allowed |\n|---|--:|--:|\n";
    for row in rows {
        if let Row::Check { what, found, allowed, unit } = row {
            let verdict = if row.holds() { "" } else { ": **beyond it**" };
            line(&mut page, format_args!("| {what} | {found:.2} {unit} | {allowed:.2} {unit}{verdict} |"));
        }
    }
    page += "\n## The tail\n\nOpen loop: latencies count from when a write was due.\n\n";
    page += "| load | answered/s | p50 | p99 | p99.9 |\n|---|--:|--:|--:|--:|\n";
    for row in rows {
        if let Row::Tail { load, rate, nanos } = row {
            let [p50, p99, p999] = nanos.map(millis);
            line(&mut page, format_args!("| {load} | {rate:.0} | {p50} | {p99} | {p999} |"));
        }
    }
    page += "\n## Figures\n\n";
    for figure in &FIGURES {
        let drawn =
            rows.iter().any(|row| matches!(row, Row::Point { figure: name, .. } if name == figure.name));
        if drawn {
            line(&mut page, format_args!("![{}]({}.svg)\n", figure.title, figure.name));
            if !figure.note.is_empty() {
                line(&mut page, format_args!("{}\n", figure.note));
            }
        }
    }
    fs::write(folder.join("README.md"), page.trim_end().to_owned() + "\n")
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("a string takes anything");
}

fn millis(nanos: f64) -> String {
    let digits = if nanos < 1e6 { 3 } else { 1 };
    format!("{:.digits$} ms", nanos / 1e6)
}
