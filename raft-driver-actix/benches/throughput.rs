//! Writes a second through both drivers, in turn: three nodes in one process on one thread, logs in memory, messages through
//! channels, 256 bytes a write, each client a task with one write under way. Medians of rounds; a write counts when it was
//! applied. A second is one of the thread's CPU time: it always has something to do, and other programs do not count.
//!
//! * `cargo bench -p raft-driver-actix --bench throughput [-- [ROUNDS] [tokio|actix] [CLIENTS]]`; with a driver, only that.
//! * `-- tokio 64 count 10000` does so many writes and ends, so that `valgrind --tool=callgrind` of the program says the same
//!   each time: the difference of two runs, of 10,000 and 20,000, is what 10,000 writes cost.

mod load;
#[path = "../../raft-core/benches/rounds/mod.rs"]
mod rounds;

use crate::load::{Work, actix_driver, tokio_driver};
use crate::rounds::in_turn;

/// And what is to be reached, in thousands of writes a second: by the Tokio driver, by the Actix driver.
const CLIENTS: [(usize, u32, u32); 5] =
    [(1, 300, 200), (64, 1_500, 1_000), (256, 1_700, 1_200), (1_024, 1_700, 1_200), (4_096, 1_500, 1_000)];

/// Writes a second with so many clients.
type Measure = fn(usize, Work) -> f64;

fn main() {
    // Cargo adds one of its own.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let drivers: [(&str, Measure); 2] = [("tokio", tokio_driver), ("actix", actix_driver)];
    if let Some((name, driver)) = drivers.iter().find(|(name, _)| arguments.iter().any(|named| named == name))
    {
        let mut numbers = arguments.iter().filter_map(|argument| argument.parse().ok());
        let clients = numbers.next().unwrap_or(64);
        let counted = arguments.iter().any(|argument| argument == "count");
        let work = if counted { Work::Writes(numbers.next().unwrap_or(10_000) as u64) } else { Work::Round };
        println!("{name}, {clients} clients: {:.0} thousand writes/s", driver(clients, work) / 1000.0);
        return;
    }
    let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(5_usize).max(1);
    println!("Thousand writes a second, medians of {rounds} rounds (least to most):\n");
    println!("| clients | Tokio | to be reached | Actix | to be reached | Actix ÷ Tokio |");
    println!("|--:|--:|--:|--:|--:|--:|");
    for (clients, reach_tokio, reach_actix) in CLIENTS {
        let found =
            in_turn(rounds, &mut drivers.clone(), |(_, driver)| driver(clients, Work::Round) / 1000.0);
        let (on_tokio, on_actix) = (found[0], found[1]);
        println!(
            "| {clients} | {on_tokio} | {:.2} of {reach_tokio} | {on_actix} | {:.2} of {reach_actix} | {:.2} |",
            on_tokio.median / f64::from(reach_tokio),
            on_actix.median / f64::from(reach_actix),
            on_actix.median / on_tokio.median,
        );
    }
}
