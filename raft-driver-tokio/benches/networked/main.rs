//! Durable writes over TCP on loopback: three nodes of this library, and what the machine allows without a protocol, in turn.
//!
//! * Three nodes are three threads of this process, each with a current-thread runtime, a durable store in its own
//!   directory and a TCP transport of its own. Every write is answered when a majority has it on its disk, and the
//!   leader's machine has applied it. Payloads are 256 bytes.
//! * Clients are tasks of the leader's runtime, each with one write under way. There is no other load.
//! * The floor does the same with no protocol: the leader appends what has gathered to a plain file, syncs it with
//!   `fdatasync` and sends it to two followers, which append, sync and acknowledge; two of three answer the client.
//! * CPU time is that of the whole process, clients included.
//!
//! `cargo bench -p raft-driver-tokio --bench networked -- [--rounds N] [--seconds S] [--clients 1,64]
//! [--rows raft,tls,floor] [--dir PATH]`. By default 5 rounds of 1 s for each cell, about 2 minutes, in the target directory.

#[path = "../../tests/common/authority.rs"]
mod authority;
#[path = "../count/mod.rs"]
mod count;
mod floor;
mod nodes;
mod report;
#[path = "../../../raft-core/benches/rounds/mod.rs"]
mod rounds;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use rounds::in_turn;
use tokio::task::JoinSet;

/// What clients write.
const PAYLOAD_BYTES: usize = 256;
/// Whatever took longer counts as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
const WARM_UP: Duration = Duration::from_millis(300);

/// What is measured in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    /// Three nodes.
    Raft,
    /// The same, over mutual TLS.
    Tls,
    /// No protocol.
    Floor,
}

impl Row {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "raft" => Some(Self::Raft),
            "tls" => Some(Self::Tls),
            "floor" => Some(Self::Floor),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Raft => "three nodes",
            Self::Tls => "three nodes, mutual TLS",
            Self::Floor => "no protocol",
        }
    }

    fn measure(self, dir: &Path, clients: usize, round: Duration) -> Figures {
        match self {
            Self::Raft => nodes::measure(dir, clients, round, false),
            Self::Tls => nodes::measure(dir, clients, round, true),
            Self::Floor => floor::measure(dir, clients, round),
        }
    }
}

/// What one round found.
struct Figures {
    writes_per_s: f64,
    /// At 50, 99 and 99.9 per cent.
    latency_ms: [f64; 3],
    cpu_s_per_1000: f64,
    /// Of the three stores together.
    syncs_per_s: f64,
}

/// What a round begins with.
struct Before {
    at: Instant,
    cpu_s: f64,
    syncs: u64,
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Has so many clients write within the current runtime, one write after the other each. `syncs` counts those of all stores.
async fn load<W: Future<Output = ()> + Send + 'static>(
    clients: usize,
    round: Duration,
    syncs: impl Fn() -> u64,
    write: impl Fn(Bytes) -> W + Clone + Send + 'static,
) -> Figures {
    let command = Bytes::from_static(&[7; PAYLOAD_BYTES]);
    write(command.clone()).await;
    let begin = Instant::now() + WARM_UP;
    let end = begin + round;
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (write, command) = (write.clone(), command.clone());
        tasks.spawn(async move {
            let mut latencies_ns = Vec::new();
            let mut began = Instant::now();
            while began < end {
                write(command.clone()).await;
                let answered = Instant::now();
                if began >= begin && answered < end {
                    latencies_ns.push((answered - began).as_nanos() as u64);
                }
                began = answered;
            }
            latencies_ns
        });
    }
    tokio::time::sleep_until(begin.into()).await;
    let before = Before { at: Instant::now(), cpu_s: cpu_seconds(), syncs: syncs() };
    tokio::time::sleep_until(end.into()).await;
    let (seconds, cpu_s) = (before.at.elapsed().as_secs_f64(), cpu_seconds() - before.cpu_s);
    let syncs = syncs() - before.syncs;
    let mut histogram = Histogram::<u64>::new_with_max(LATENCY_NS_MAX, 3).expect("three digits are possible");
    for latency_ns in tasks.join_all().await.into_iter().flatten() {
        histogram.saturating_record(latency_ns);
    }
    let writes = histogram.len() as f64;
    Figures {
        writes_per_s: writes / seconds,
        latency_ms: [0.5, 0.99, 0.999].map(|share| histogram.value_at_quantile(share) as f64 / 1e6),
        cpu_s_per_1000: cpu_s / writes * 1000.0,
        syncs_per_s: syncs as f64 / seconds,
    }
}

struct Options {
    rounds: usize,
    round: Duration,
    clients: Vec<usize>,
    rows: Vec<Row>,
    dir: PathBuf,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options = Self {
            rounds: 5,
            round: Duration::from_secs(1),
            clients: vec![1, 16, 64, 256, 1024],
            rows: vec![Row::Raft, Row::Tls, Row::Floor],
            dir: env!("CARGO_TARGET_TMPDIR").into(),
        };
        // Cargo adds one of its own.
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(option) = arguments.next() {
            let value = arguments.next().ok_or(format!("{option} needs a value"))?;
            let wrong = || format!("{option} {value} makes no sense");
            let list = || value.split(',');
            match &*option {
                "--rounds" => options.rounds = value.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?,
                "--seconds" => {
                    let seconds =
                        value.parse().ok().filter(|s| (0.1..=600.0).contains(s)).ok_or_else(wrong)?;
                    options.round = Duration::from_secs_f64(seconds);
                }
                "--clients" => {
                    let clients: Option<Vec<_>> = list().map(|n| n.parse().ok().filter(|n| *n > 0)).collect();
                    options.clients = clients.ok_or_else(wrong)?;
                }
                "--rows" => options.rows = list().map(Row::parse).collect::<Option<_>>().ok_or_else(wrong)?,
                "--dir" => options.dir = value.clone().into(),
                _ => return Err(format!("there is no {option}: see the head of the program")),
            }
        }
        Ok(options)
    }
}

fn main() -> std::process::ExitCode {
    let options = match Options::parse() {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}");
            return std::process::ExitCode::FAILURE;
        }
    };
    let Options { rounds, round, clients, rows, dir } = options;
    report::head(rounds, round, &dir);
    for clients in clients {
        let mut found: Vec<(Row, Vec<Figures>)> = rows.iter().map(|row| (*row, Vec::new())).collect();
        let rates = in_turn(rounds, &mut found, |(row, found)| {
            let dir = tempfile::tempdir_in(&dir).expect("a directory to write to");
            let figures = row.measure(dir.path(), clients, round);
            let writes_per_s = figures.writes_per_s;
            found.push(figures);
            writes_per_s
        });
        report::lines(clients, &rates, &found);
    }
    std::process::ExitCode::SUCCESS
}
