//! What idle groups cost: three processes on loopback, a thousand groups of three nodes, heartbeats every 500 ms, leaders
//! spread evenly. Prints the share of one core and the memory of each process, over 20 s in which nothing happens.
//!
//! `make groups`, or: `cargo bench -p raft-driver-tokio --bench groups -- [shared] [unaligned] [separate] [durable] [GROUPS]`
//!
//! * `shared`: as [`Groups`] does it: one set of connections, timers on a common grid.
//! * `unaligned`: one set of connections, each group's timer on its own.
//! * `separate`: each group with sockets of its own, as if it were alone.
//! * `durable`: `shared`, with logs and snapshots on disk.

mod idle_groups;

use std::time::Duration;

use idle_groups::{Failure, Idleness, PROCESSES};

const QUIET: Duration = Duration::from_secs(8);
const MEASURED: Duration = Duration::from_secs(20);

fn main() -> Result<(), Failure> {
    // Cargo adds one of its own.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let Some((role, arguments)) = arguments.split_first()
        && role == "process"
    {
        return idle_groups::process(arguments);
    }
    let count = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1000);
    let mut modes: Vec<_> = arguments.iter().filter(|argument| argument.parse::<u64>().is_err()).collect();
    let default = "shared".to_owned();
    if modes.is_empty() {
        modes.push(&default);
    }
    println!(
        "{count} idle groups of {PROCESSES} nodes, heartbeats every 500 ms, over {} s:",
        MEASURED.as_secs()
    );
    println!();
    println!(
        "| mode | process | of one core | RSS | highest RSS | messages sent/s | writes/s | switches/s |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    modes.into_iter().try_for_each(|mode| print(mode, count))
}

fn print(mode: &str, groups: u64) -> Result<(), Failure> {
    const MIB: f64 = 1024.0 * 1024.0;
    for (id, process) in (1..).zip(idle_groups::measure(mode, groups, QUIET, MEASURED)?) {
        let Idleness { core_share, rss_bytes, rss_bytes_max, .. } = process;
        println!(
            "| {mode} | {id} | {:.1} % | {:.1} MiB | {:.1} MiB | {:.0} | {:.0} | {:.0} |",
            core_share * 100.0,
            rss_bytes as f64 / MIB,
            rss_bytes_max as f64 / MIB,
            process.messages_sent_per_s,
            process.writes_per_s,
            process.switches_per_s,
        );
        if process.elections > 0 {
            println!("| | | | | | | | not idle: {} elections |", process.elections);
        }
    }
    Ok(())
}
