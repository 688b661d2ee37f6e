//! Appends of 256-byte entries, each batch made durable: the durable log, and a plain file that is appended to and
//! synced. One store, then three at once, in turns. Then many groups in one store, each with one batch under way, which
//! share fsyncs. `cargo bench --bench durable [-- [ROUNDS] [groups]]`; with `groups`, only those.

mod group_commit;
#[path = "../../raft-core/benches/rounds/mod.rs"]
mod rounds;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use group_commit::{GROUPS, IDENTITY, measure_groups, write};
use raft_core::Commands;
use raft_core::host::LogStore;
use raft_driver_tokio::storage::DurableLog;
use rounds::in_turn;

const BATCHES: [u64; 3] = [1, 64, 1024];
const ROUND: Duration = Duration::from_millis(250);

/// Something that makes batches durable.
trait Store {
    fn append(&mut self, first: u64, commands: &Commands);
}

struct Plain(File, Vec<u8>);

impl Store for Plain {
    fn append(&mut self, _: u64, commands: &Commands) {
        self.1.clear();
        commands.iter().for_each(|command| self.1.extend_from_slice(&command));
        self.1.extend_from_slice(&crc32fast::hash(&self.1).to_le_bytes());
        self.0.write_all(&self.1).and_then(|()| self.0.sync_data()).expect("the disk works");
    }
}

struct Durable(DurableLog);

impl Store for Durable {
    fn append(&mut self, first: u64, commands: &Commands) {
        self.0.write(&[write(first, commands)]).expect("the disk works");
    }
}

type Make = fn(&Path) -> Box<dyn Store>;

fn plain(dir: &Path) -> Box<dyn Store> {
    Box::new(Plain(File::create(dir.join("plain")).expect("a new file"), Vec::new()))
}

fn durable(dir: &Path) -> Box<dyn Store> {
    Box::new(Durable(DurableLog::open(dir.join("log"), IDENTITY).expect("a new log")))
}

/// Batches a second, per store.
fn measure(make: Make, stores: usize, entries: u64) -> f64 {
    let parent = tempfile::tempdir().expect("a directory");
    let barrier = Arc::new(Barrier::new(stores));
    let threads: Vec<_> = (0..stores)
        .map(|store| {
            let dir = parent.path().join(store.to_string());
            std::fs::create_dir(&dir).expect("a directory");
            let barrier = Arc::clone(&barrier);
            std::thread::spawn(move || {
                let commands: Commands = (0..entries).map(|at| [at as u8; 256]).collect();
                let mut store = make(&dir);
                let mut next = 1;
                for _ in 0..20 {
                    store.append(next, &commands);
                    next += entries;
                }
                barrier.wait();
                let (start, before) = (Instant::now(), next);
                while start.elapsed() < ROUND {
                    store.append(next, &commands);
                    next += entries;
                }
                ((next - before) / entries) as f64 / start.elapsed().as_secs_f64()
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("no store fails")).sum::<f64>() / stores as f64
}

fn main() {
    let rounds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(7);
    if !std::env::args().any(|arg| arg == "groups") {
        compare(rounds);
    }
    println!("groups in one store, each with one batch under way (medians of {rounds} rounds)");
    for entries in [1, 16] {
        let mut syncs = GROUPS.map(|_| Vec::new());
        let mut cases: Vec<_> = GROUPS.into_iter().zip(&mut syncs).collect();
        let written = in_turn(rounds, &mut cases, |(groups, syncs)| {
            let (written, synced) = measure_groups(*groups, entries, 4 * ROUND);
            syncs.push(written / synced);
            written
        });
        for ((groups, written), mut shared) in GROUPS.into_iter().zip(written).zip(syncs) {
            shared.sort_by(f64::total_cmp);
            let shared = shared[rounds / 2];
            println!(
                "{groups:4} groups, batches of {entries:2}: {written} entries/s, {shared:.1} entries a sync"
            );
        }
    }
}

fn compare(rounds: usize) {
    println!("batches a second per store (medians of {rounds} rounds, least to most)");
    for stores in [1, 3] {
        for entries in BATCHES {
            let mut makes: [Make; 2] = [plain, durable];
            let found = in_turn(rounds, &mut makes, |make| measure(*make, stores, entries));
            let (file, log) = (found[0], found[1]);
            let ratio = log.median / file.median;
            println!("{stores} at once, {entries:4} entries a batch: file {file}, log {log}: {ratio:.2}");
        }
    }
}
