//! What is measured as rows, and the figures that they belong to. Rows are kept as text, a file for each figure, so that
//! everything can be drawn again without measuring.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A value that was found.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Row {
    /// A point of a curve.
    Point { figure: String, series: String, x: f64, y: f64 },
    /// A moment worth a line across the figure.
    Mark { figure: String, label: String, x: f64 },
    /// Something that must not be more than is allowed.
    Check { what: String, found: f64, allowed: f64, unit: String },
    /// A line of the table of latencies, in nanoseconds.
    Tail { load: String, rate: f64, nanos: [f64; 3] },
}

impl Row {
    pub(crate) fn point(figure: &str, series: impl Into<String>, x: f64, y: f64) -> Self {
        Self::Point { figure: figure.into(), series: series.into(), x, y }
    }

    pub(crate) fn mark(figure: &str, label: &str, x: f64) -> Self {
        Self::Mark { figure: figure.into(), label: label.into(), x }
    }

    pub(crate) fn check(what: impl Into<String>, found: f64, allowed: f64, unit: &str) -> Self {
        Self::Check { what: what.into(), found, allowed, unit: unit.into() }
    }

    /// Where it lies, if it is a point of this curve.
    pub(crate) fn at(&self, of_figure: &str, of_series: &str) -> Option<(f64, f64)> {
        match self {
            Self::Point { figure, series, x, y } if figure == of_figure && series == of_series => {
                Some((*x, *y))
            }
            _ => None,
        }
    }

    /// Whether it is not more than is allowed.
    pub(crate) fn holds(&self) -> bool {
        !matches!(self, Self::Check { found, allowed, .. } if found > allowed)
    }

    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |at: usize| fields.get(at)?.parse().ok();
        let text = |at: usize| Some((*fields.get(at)?).to_owned());
        match *fields.first()? {
            "point" => Some(Self::Point { figure: text(1)?, series: text(2)?, x: number(3)?, y: number(4)? }),
            "mark" => Some(Self::Mark { figure: text(1)?, label: text(2)?, x: number(3)? }),
            "check" => {
                Some(Self::Check { what: text(1)?, found: number(2)?, allowed: number(3)?, unit: text(4)? })
            }
            "tail" => Some(Self::Tail {
                load: text(1)?,
                rate: number(2)?,
                nanos: [number(3)?, number(4)?, number(5)?],
            }),
            _ => None,
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Point { figure, series, x, y } => write!(f, "point,{figure},{series},{x:.4},{y:.4}"),
            Self::Mark { figure, label, x } => write!(f, "mark,{figure},{label},{x:.4}"),
            Self::Check { what, found, allowed, unit } => {
                write!(f, "check,{what},{found:.4},{allowed:.4},{unit}")
            }
            Self::Tail { load, rate, nanos: [p50, p99, p999] } => {
                write!(f, "tail,{load},{rate:.0},{p50:.0},{p99:.0},{p999:.0}")
            }
        }
    }
}

/// Where the rows of a curve are kept.
fn path(folder: &Path, curve: &str) -> PathBuf {
    folder.join(format!("{curve}.csv"))
}

/// Keeps the rows of a curve.
pub(crate) fn write(folder: &Path, curve: &str, rows: &[Row]) -> io::Result<()> {
    let lines: Vec<String> = rows.iter().map(Row::to_string).collect();
    fs::write(path(folder, curve), lines.join("\n") + "\n")
}

/// The rows of a curve; none if it was not measured yet.
pub(crate) fn read(folder: &Path, curve: &str) -> io::Result<Vec<Row>> {
    match fs::read_to_string(path(folder, curve)) {
        Ok(text) => parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Rows as they were printed.
pub(crate) fn parse(text: &str) -> io::Result<Vec<Row>> {
    let row = |line: &str| {
        Row::parse(line).ok_or_else(|| io::Error::other(format!("what does this line mean: {line:?}?")))
    };
    text.lines().map(row).collect()
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero.
    Linear,
    Log,
}

use Scale::{Linear, Log};

/// What a figure shows.
pub(crate) struct Figure {
    /// The name of its file.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// How it was set up.
    pub(crate) note: &'static str,
    pub(crate) x: (&'static str, Scale),
    pub(crate) y: (&'static str, Scale),
}

const NODES: (&str, Scale) = ("nodes", Linear);
const PAYLOAD: (&str, Scale) = ("bytes a write", Log);
const ENTRIES: (&str, Scale) = ("entries in the log", Log);
const GROUPS: (&str, Scale) = ("groups", Log);
const SECONDS: (&str, Scale) = ("time, seconds", Linear);
const LOAD: (&str, Scale) = ("offered load, % of the most that it can do", Linear);
const NANOS: &str = "ns of CPU an entry";
const WRITES: &str = "writes a second";
const MIB: &str = "MiB, highest mark";
const MICROS: (&str, Scale) = ("latency from when it was due, µs", Log);
const LAG_NOTE: &str = "The third node comes back after the load has run for a while, and the load goes on for as long after it has caught up.";

/// All figures, in the order of the page.
pub(crate) const FIGURES: [Figure; 18] = [
    Figure {
        name: "nodes-core",
        title: "The core: cost by number of nodes",
        note: "One thread, messages by function call, every write reported durable; all nodes together.",
        x: NODES,
        y: (NANOS, Log),
    },
    Figure {
        name: "nodes-driver",
        title: "The driver in memory: writes by number of nodes",
        note: "All nodes and 256 clients on one thread.",
        x: NODES,
        y: ("thousand writes a CPU second", Linear),
    },
    Figure {
        name: "payload-writes",
        title: "Writes by their length",
        note: "256 clients, fewer where these would have more than 64 MiB under way.",
        x: PAYLOAD,
        y: (WRITES, Log),
    },
    Figure {
        name: "payload-bytes",
        title: "The same in bytes",
        note: "Durable: each byte is written to the disk of this one machine three times at least.",
        x: PAYLOAD,
        y: ("MB/s of commands", Log),
    },
    Figure {
        name: "payload-memory",
        title: "Memory of the whole process",
        note: "Three nodes and their clients. The limits are what those of nodes, handle and transport add up to; \
               in memory the log is part of it.",
        x: PAYLOAD,
        y: (MIB, Linear),
    },
    Figure {
        name: "log-cost",
        title: "The core: cost by length of the log",
        note: "Three nodes.",
        x: ENTRIES,
        y: (NANOS, Linear),
    },
    Figure {
        name: "log-memory",
        title: "The core: memory by length of the log",
        note: "Three nodes, the log itself elsewhere: what the cores keep is the tail.",
        x: ENTRIES,
        y: ("MiB", Linear),
    },
    Figure {
        name: "log-recovery",
        title: "The durable log: time to open it",
        note: "Entries of 256 bytes, after an orderly end, files in the system's cache.",
        x: ENTRIES,
        y: ("seconds", Log),
    },
    Figure {
        name: "groups-commit",
        title: "Groups that write into one durable store",
        note: "Each group has one batch under way.",
        x: GROUPS,
        y: ("entries or fsyncs a second", Log),
    },
    Figure {
        name: "groups-idle",
        title: "Idle groups: CPU of the busiest of three processes",
        note: "Heartbeats every 500 ms.",
        x: GROUPS,
        y: ("% of one core", Log),
    },
    Figure {
        name: "groups-memory",
        title: "Idle groups: memory of the largest of three processes",
        note: "",
        x: GROUPS,
        y: (MIB, Linear),
    },
    Figure {
        name: "clients",
        title: "Clients, each with one write under way",
        note: "In memory, a second is one of the thread's CPU time. No protocol: three tasks with channels between them \
               that keep commands, pass them on and answer, and compare and check nothing.",
        x: ("clients", Log),
        y: (WRITES, Log),
    },
    Figure {
        name: "load-memory",
        title: "Latency by load: in memory",
        note: "Writes come from another thread; waking this one is part of the latency.",
        x: LOAD,
        y: MICROS,
    },
    Figure { name: "load-durable", title: "Latency by load: durable over TCP", note: "", x: LOAD, y: MICROS },
    Figure {
        name: "catch-up",
        title: "A follower catches up beside half load: writes",
        note: LAG_NOTE,
        x: SECONDS,
        y: (WRITES, Linear),
    },
    Figure {
        name: "catch-up-latency",
        title: "A follower catches up beside half load: latency",
        note: "",
        x: SECONDS,
        y: MICROS,
    },
    Figure {
        name: "snapshot",
        title: "A snapshot is sent beside half load: writes",
        note: LAG_NOTE,
        x: SECONDS,
        y: (WRITES, Linear),
    },
    Figure {
        name: "snapshot-latency",
        title: "A snapshot is sent beside half load: latency",
        note: "",
        x: SECONDS,
        y: MICROS,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_being_written_down() {
        let rows = vec![
            Row::point("clients", "in memory", 64.0, 1e6),
            Row::mark("catch-up", "it is back", 2.5),
            Row::check("memory", 12.5, 64.0, "MiB"),
            Row::Tail { load: "in memory".into(), rate: 5e5, nanos: [1e3, 2e3, 3e3] },
        ];
        let folder = tempfile::tempdir().expect("a directory");
        write(folder.path(), "clients", &rows).expect("it is written");
        assert_eq!(read(folder.path(), "clients").expect("it is read"), rows);
        assert_eq!(read(folder.path(), "other").expect("it is read"), []);
        assert!(parse("point,clients,in memory,64\n").is_err(), "a value is missing");
    }
}
