//! The curves: which points each has, and what must not grow.
//!
//! Each point is measured by a process of its own, so that none finds the memory, the files or the threads of another.

use std::time::Duration;

use clap::ValueEnum;

use crate::figures::Row;
use crate::group_commit::GROUPS;
use crate::lag::{self, Lag};
use crate::nodes::Kind;
use crate::points;

const MIB: u64 = 1024 * 1024;

/// What many clients may cost, as a factor.
const CLIENTS_FALL_MAX: f64 = 1.5;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Curve {
    /// 3 to 15 nodes: cost of an entry in the core, writes of the driver
    Nodes,
    /// 16 bytes to 1 MiB a write: writes, bytes and memory
    Payloads,
    /// Logs of 10^3 to 10^7 entries: cost of an entry, memory, time to open a durable log
    Log,
    /// 1 to 1,000 groups: writes into one durable store; CPU and memory while nothing happens
    Groups,
    /// 1 to 10,000 clients, each with one write under way
    Clients,
    /// Latencies at 10 to 95 % of the most that it can do, from when each write was due
    Load,
    /// A follower 1,000,000 entries behind catches up beside half load
    CatchUp,
    /// A snapshot of 1 GiB is sent beside half load
    Snapshot,
}

/// A part of a curve.
pub(crate) struct Point {
    pub(crate) label: String,
    /// About how long it takes.
    pub(crate) seconds: f64,
    pub(crate) measure: Box<dyn Fn() -> Vec<Row>>,
}

fn point(label: impl Into<String>, seconds: f64, measure: impl Fn() -> Vec<Row> + 'static) -> Point {
    Point { label: label.into(), seconds, measure: Box::new(measure) }
}

impl Curve {
    /// Its name on the command line, and of its file.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value().expect("none is hidden");
        value.get_name().to_owned()
    }

    /// The points of the curve; quick: fewer and shorter ones.
    pub(crate) fn points(self, quick: bool) -> Vec<Point> {
        let time = Duration::from_millis(if quick { 500 } else { 2000 });
        let seconds = time.as_secs_f64() * 1.5 + 0.3;
        // The whole of a list, or what is enough to see the shape.
        let chosen = |all: &[usize], few: &[usize]| if quick { few.to_vec() } else { all.to_vec() };
        let of_both_kinds = |xs: Vec<usize>, unit: &str, measure: fn(Kind, usize, Duration) -> Vec<Row>| {
            let pairs = Kind::BOTH.into_iter().flat_map(|kind| xs.iter().map(move |x| (kind, *x)));
            let of = |(kind, x): (Kind, usize)| {
                point(format!("{x} {unit}, {}", kind.label()), seconds, move || measure(kind, x, time))
            };
            pairs.map(of).collect()
        };
        match self {
            Self::Nodes => {
                let of =
                    |size| point(format!("{size} nodes"), seconds + 0.7, move || points::nodes(size, time));
                [3, 5, 7, 9, 15].map(of).into()
            }
            Self::Payloads => {
                let all = [16, 128, 1 << 10, 1 << 13, 1 << 16, 1 << 19, 1 << 20];
                of_both_kinds(chosen(&all, &[16, 1 << 10, 1 << 16, 1 << 20]), "bytes", points::payload)
            }
            Self::Log => {
                let core = [3, 4, 5, 6, 7].map(|power| {
                    let entries = 10_usize.pow(power);
                    point(format!("core, {entries} entries"), 1.0, move || points::log_cost(entries))
                });
                let durable = (3..=if quick { 5 } else { 7 }).map(|power| {
                    let entries = 10_u64.pow(power);
                    let seconds = 0.3 + entries as f64 * 3e-6;
                    point(format!("durable, {entries} entries"), seconds, move || {
                        points::log_recovery(entries)
                    })
                });
                core.into_iter().chain(durable).collect()
            }
            Self::Groups => {
                let writing = GROUPS.map(|groups| {
                    let label = format!("{groups} groups write");
                    point(label, 2.0 * seconds, move || points::groups_commit(groups, time))
                });
                let idle = [1, 10, 100, 1000].map(|groups| {
                    let label = format!("{groups} idle groups");
                    point(label, 3.0 + 3.0 * time.as_secs_f64(), move || {
                        points::groups_idle(groups, 3 * time)
                    })
                });
                writing.into_iter().chain(idle).collect()
            }
            Self::Clients => {
                let all = [1, 4, 16, 64, 256, 1024, 4096, 10_000];
                let all = chosen(&all, &[1, 64, 1024, 10_000]);
                let without = all.clone().into_iter().map(|clients| {
                    let label = format!("{clients} clients, {}", points::NO_PROTOCOL);
                    point(label, seconds, move || points::clients_without(clients, time))
                });
                let with: Vec<_> = of_both_kinds(all, "clients", points::clients);
                with.into_iter().chain(without).collect()
            }
            Self::Load => {
                let percents: &'static [u32] = if quick { &[10, 50, 90] } else { &[10, 25, 50, 75, 90, 95] };
                let seconds = (percents.len() + 1) as f64 * (2.5 * time.as_secs_f64() + 0.1);
                Kind::BOTH
                    .map(|kind| point(kind.label(), seconds, move || points::load(kind, percents, 2 * time)))
                    .into()
            }
            Self::CatchUp => {
                let entries = if quick { 100_000 } else { 1_000_000 };
                let lag = Lag { figure: "catch-up", entries, snapshot_bytes: None, alone: 3 * time };
                let seconds = if quick { 8.0 } else { 45.0 };
                vec![point(format!("{entries} entries behind"), seconds, move || lag::measure(&lag))]
            }
            Self::Snapshot => {
                let bytes = if quick { 128 } else { 1024 } * MIB;
                let lag =
                    Lag { figure: "snapshot", entries: 10_000, snapshot_bytes: Some(bytes), alone: 3 * time };
                let seconds = if quick { 8.0 } else { 50.0 };
                vec![point(format!("{} MiB", bytes / MIB), seconds, move || lag::measure(&lag))]
            }
        }
    }

    /// What must not be more than is allowed, seen from all points together.
    pub(crate) fn checks(self, rows: &[Row]) -> Vec<Row> {
        let curve = |figure: &str, series: &str| -> Vec<(f64, f64)> {
            rows.iter().filter_map(|row| row.at(figure, series)).collect()
        };
        // How much more is paid for each unit at the curve's end than at its beginning.
        let growth = |what: &str, points: Vec<(f64, f64)>, unit: fn(f64) -> f64, allowed: f64| {
            let ((x_first, first), (x_last, last)) = (*points.first()?, *points.last()?);
            let found = (last / unit(x_last)) / (first / unit(x_first));
            Some(Row::check(what, found, allowed, "times"))
        };
        let checks = match self {
            Self::Nodes => vec![growth(
                "core: CPU an entry and follower with the most nodes against the fewest",
                curve("nodes-core", "64 outstanding"),
                |nodes| nodes - 1.0,
                1.2,
            )],
            Self::Payloads => {
                let over = Kind::BOTH.map(|kind| {
                    let found = curve("payload-memory", kind.label());
                    let limit = curve("payload-memory", &format!("limit: {}", kind.label()));
                    let pairs = found.iter().zip(&limit).map(|(found, limit)| (found.1, limit.1));
                    let (found, limit) = pairs.max_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)))?;
                    Some(Row::check(format!("memory of the process {}", kind.label()), found, limit, "MiB"))
                });
                over.into()
            }
            Self::Log => vec![
                growth(
                    "core: CPU an entry behind the longest log against the shortest",
                    curve("log-cost", "64 outstanding"),
                    |_| 1.0,
                    1.2,
                ),
                growth(
                    "durable log: time an entry to open the longest against one of 10^5",
                    curve("log-recovery", "entries of 256 bytes").split_off(2),
                    |entries| entries,
                    1.5,
                ),
            ],
            Self::Groups => vec![growth(
                "idle groups: CPU a group with the most against 10",
                curve("groups-idle", "one set of connections").split_off(1),
                |groups| groups,
                1.2,
            )],
            Self::Clients => {
                let fall = |series: &str| {
                    let rates = curve("clients", series);
                    let most = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
                    Some(most / rates.last()?.1)
                };
                let check = |kind: Kind, found: f64, to_what: &str| {
                    let (kind, what) = (kind.label(), "most writes/s against those of the most clients");
                    Row::check(format!("clients {kind}: {what}{to_what}"), found, CLIENTS_FALL_MAX, "times")
                };
                // In memory, where a write costs less than a microsecond, 10,000 clients and what they write do not fit into
                // a core's cache any more, with or without a protocol.
                let memory = fall(Kind::Memory.label()).zip(fall(points::NO_PROTOCOL));
                let memory = memory.map(|(with, without)| {
                    check(Kind::Memory, with / without, " over the same with no protocol")
                });
                let durable = fall(Kind::Durable.label()).map(|found| check(Kind::Durable, found, ""));
                vec![memory, durable]
            }
            Self::Load | Self::CatchUp | Self::Snapshot => Vec::new(),
        };
        checks.into_iter().flatten().collect()
    }
}
