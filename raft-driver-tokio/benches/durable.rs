//! Appends of 256-byte entries, each batch made durable: the durable log, and a plain file that is appended to and
//! synced. One store, then three at once, in turns. `cargo bench --bench durable [-- ROUNDS]`

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use raft_core::host::LogStore;
use raft_core::{Commands, Entries, LogId, LogIndex, NodeId, Term, Write, WriteId};
use raft_driver_tokio::ClusterId;
use raft_driver_tokio::storage::{DurableLog, Identity};

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
        let write = Write {
            id: serde_json::from_value::<WriteId>(first.into()).expect("a number"),
            hard_state: None,
            reset_to: None,
            entries: Entries::commands(LogId::new(Term::new(1), LogIndex::new(first)), commands),
        };
        self.0.write(std::slice::from_ref(&write)).expect("the disk works");
    }
}

type Make = fn(&Path) -> Box<dyn Store>;

fn plain(dir: &Path) -> Box<dyn Store> {
    Box::new(Plain(File::create(dir.join("plain")).expect("a new file"), Vec::new()))
}

fn durable(dir: &Path) -> Box<dyn Store> {
    let identity = Identity { cluster: ClusterId::new(1), node: NodeId::new(1) };
    Box::new(Durable(DurableLog::open(dir.join("log"), identity).expect("a new log")))
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

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let rounds = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(7);
    println!("batches a second per store (medians of {rounds} rounds); batches of 1, 64 and 1,024 entries");
    for stores in [1, 3] {
        for entries in BATCHES {
            let (mut files, mut logs) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                files.push(measure(plain, stores, entries));
                logs.push(measure(durable, stores, entries));
            }
            let (file, log) = (median(files), median(logs));
            let ratio = log / file;
            println!("{stores} at once, {entries:5} entries: file {file:6.0}, log {log:6.0} ({ratio:.2})");
        }
    }
}
