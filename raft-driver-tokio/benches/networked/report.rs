//! The table: medians of rounds, with the least and the most where it matters, beside what is to be reached.

use std::path::Path;
use std::time::Duration;

use crate::rounds::Spread;
use crate::{Figures, PAYLOAD_BYTES, Row};

/// Clients, and what is to be reached: writes a second, and milliseconds for 99 of 100.
const REACH: [(usize, f64, f64); 5] = [
    (1, 2_000.0, 0.9),
    (16, 13_000.0, 2.5),
    (64, 50_000.0, 3.0),
    (256, 150_000.0, 4.0),
    (1_024, 300_000.0, 8.0),
];

/// What `f_type` is of a file system in memory.
const TMPFS: u64 = 0x0102_1994;

pub(crate) fn head(rounds: usize, round: Duration, dir: &Path) {
    let kind = rustix::fs::statfs(dir).map(|found| found.f_type as u64);
    let kind = match kind {
        Ok(TMPFS) => " (tmpfs: IN MEMORY, nothing is durable)".into(),
        Ok(kind) => format!(" (file system {kind:#x})"),
        Err(error) => format!(" ({error})"),
    };
    println!(
        "Three nodes in one process, TCP on loopback, {PAYLOAD_BYTES} bytes, on two of three disks before the answer."
    );
    println!(
        "Files in {}{kind}; medians of {rounds} rounds of {} s in turn.\n",
        dir.display(),
        round.as_secs_f64()
    );
    println!(
        "| clients | | writes/s | to be reached | of the floor | p50 ms | p99 ms | to be reached | p99.9 ms | CPU s / 1,000 writes | fsyncs/s, three stores |"
    );
    println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
}

fn median(figures: &[Figures], of: impl Fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = figures.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn lines(clients: usize, rates: &[Spread], found: &[(Row, Vec<Figures>)]) {
    let floor = found.iter().zip(rates).find(|((row, _), _)| *row == Row::Floor);
    let reach = REACH.iter().find(|(reach, ..)| *reach == clients);
    for ((row, found), rate) in found.iter().zip(rates) {
        let [p50, p99, p999] = [0, 1, 2].map(|at| median(found, |figures| figures.latency_ms[at]));
        let reach = reach.filter(|_| *row == Row::Raft);
        let reach_rate =
            reach.map_or(String::new(), |(_, reach, _)| format!("{:.2} of {reach:.0}", rate.median / reach));
        let reach_p99 = reach.map_or(String::new(), |(.., reach)| format!("{reach}"));
        let of_floor = floor.map_or(String::new(), |(_, floor)| format!("{:.2}", rate.median / floor.median));
        println!(
            "| {clients} | {} | {rate} | {reach_rate} | {of_floor} | {p50:.2} | {p99:.2} | {reach_p99} | {p999:.2} | {:.4} | {:.0} |",
            row.name(),
            median(found, |figures| figures.cpu_s_per_1000),
            median(found, |figures| figures.syncs_per_s),
        );
    }
}
