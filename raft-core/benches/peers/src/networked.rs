//! The third table: etcd beside this project's kv, each as three processes on loopback, every write fsynced on a majority.
//!
//! * One generator process loads one after the other, by the same HTTP/2 client with at most [`CONNECTIONS`] connections, all
//!   to the leader: etcd by its gRPC, kv by its HTTP. 256-byte values, [`KEYS`] keys, each client with one write under way.
//! * Both have the same timeouts, and their defaults for everything else, a snapshot each 100,000 entries among them.
//! * etcd keeps a history of each key, in a file that it writes now and then, and has no pre-vote by default; kv keeps what
//!   is there now, in memory, and answers whether the key was there before.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::report::Report;
use crate::rounds::Spread;
use crate::servers::link::{Link, Put};
use crate::servers::{Cluster, DEFAULT_TIMEOUTS, Programs, Result, System};

/// The most that a generator has.
const CONNECTIONS: usize = 8;
const KEYS: u32 = 10_000;
const VALUE_BYTES: usize = 256;
const WARM_UP: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(10);
/// Numbers of clients, and how many times etcd's writes a second are to be reached with them.
const CASES: [(usize, f64); 4] = [(1, 1.5), (16, 2.0), (64, 3.0), (256, 3.0)];

/// Which of it is wanted.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds taken in turn.
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// How long each loads a server, after half a second that does not count.
    #[arg(long, value_name = "S", default_value = "3", value_parser = clap::value_parser!(u8).range(1..=60))]
    seconds: u8,
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_values_t = CASES.map(|(clients, _)| clients))]
    clients: Vec<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self { rounds: 5, seconds: 3, clients: CASES.map(|(clients, _)| clients).into() }
    }
}

/// What one round found.
struct Load {
    writes_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// CPU seconds a second.
    generator: f64,
    servers: f64,
    /// CPU microseconds of all servers.
    servers_us_a_write: f64,
}

/// What all clients share.
struct Shared {
    links: Vec<Link>,
    value: Bytes,
    counts: Cell<bool>,
    ends: Cell<bool>,
    /// Microseconds that each write took.
    took_us: RefCell<Vec<u32>>,
    failed: Cell<Option<Put>>,
}

async fn client(shared: Rc<Shared>, number: usize) {
    let link = &shared.links[number % shared.links.len()];
    while !shared.ends.get() {
        let key = format!("bench-{}", fastrand::u32(..KEYS));
        let begin = Instant::now();
        match link.put(key.as_bytes(), shared.value.clone(), LIMIT).await {
            Put::Done if shared.counts.get() => {
                let us = u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX);
                shared.took_us.borrow_mut().push(us);
            }
            Put::Done => {}
            failed => {
                shared.failed.set(Some(failed));
                return;
            }
        }
    }
}

fn own_cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

async fn load(cluster: &mut Cluster, clients: usize, duration: Duration) -> Result<Load> {
    let leader = cluster.leader().await?;
    let links: Vec<Link> = (0..clients.min(CONNECTIONS)).map(|_| cluster.link(leader)).collect();
    for link in &links {
        link.connect().await.ok_or("the leader takes no connection")?;
    }
    let shared = Rc::new(Shared {
        links,
        value: std::iter::repeat_with(|| fastrand::u8(..)).take(VALUE_BYTES).collect(),
        counts: Cell::default(),
        ends: Cell::default(),
        took_us: RefCell::new(Vec::with_capacity(1 << 20)),
        failed: Cell::default(),
    });
    let running: Vec<_> =
        (0..clients).map(|number| tokio::task::spawn_local(client(Rc::clone(&shared), number))).collect();
    tokio::time::sleep(WARM_UP).await;
    let (began, own, servers) = (Instant::now(), own_cpu_seconds(), cluster.cpu_seconds());
    shared.counts.set(true);
    tokio::time::sleep(duration).await;
    shared.counts.set(false);
    let seconds = began.elapsed().as_secs_f64();
    let (own, servers) = (own_cpu_seconds() - own, cluster.cpu_seconds() - servers);
    shared.ends.set(true);
    for client in running {
        client.await.map_err(|error| error.to_string())?;
    }
    if let Some(failed) = shared.failed.take() {
        return Err(format!("a write to the leader of {} failed: {failed:?}", cluster.system.name()));
    }
    let mut took_us = shared.took_us.take();
    took_us.sort_unstable();
    let at = |part: f64| took_us.get(((took_us.len() as f64 * part) as usize).min(took_us.len() - 1));
    let ms = |part| at(part).map_or(f64::NAN, |us| f64::from(*us) / 1000.0);
    if took_us.is_empty() {
        return Err(format!("{} made no write in {seconds:.1} s", cluster.system.name()));
    }
    Ok(Load {
        writes_s: took_us.len() as f64 / seconds,
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        generator: own / seconds,
        servers: servers / seconds,
        servers_us_a_write: servers * 1e6 / took_us.len() as f64,
    })
}

/// Measures and prints it.
pub(crate) async fn run(options: &Options, programs: &Programs, report: &mut Report) -> Result<()> {
    println!(
        "\nOver HTTP: three processes of each on loopback, every write fsynced on a majority, 256-byte values, each client with"
    );
    println!(
        "one write under way at the leader; one generator process with at most {CONNECTIONS} HTTP/2 connections for either (etcd by gRPC)."
    );
    println!(
        "Medians of {} rounds of {} s in turn. CPU: seconds a second, and of the servers for a write.\n",
        options.rounds, options.seconds
    );
    let mut clusters = Vec::new();
    for system in programs.systems() {
        clusters.push(Cluster::start(system, programs, DEFAULT_TIMEOUTS).await?);
    }
    println!(
        "clients  server  writes/s (min to max)      x etcd  to be reached  p50 ms  p99 ms  CPU generator  servers  us a write"
    );
    let bar = report.bar("networked", options.clients.len() * usize::from(options.rounds) * clusters.len());
    for &clients in &options.clients {
        let mut found: Vec<Vec<Load>> = clusters.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds {
            for (cluster, found) in clusters.iter_mut().zip(&mut found) {
                bar.set_message(cluster.system.name());
                found.push(load(cluster, clients, Duration::from_secs(options.seconds.into())).await?);
                bar.inc(1);
            }
        }
        let of = |loads: &[Load], figure: fn(&Load) -> f64| Spread::of(loads.iter().map(figure).collect());
        let etcd = clusters.iter().position(|cluster| cluster.system == System::Etcd);
        let etcd = etcd.map(|at| of(&found[at], |load| load.writes_s).median);
        for (cluster, loads) in clusters.iter().zip(&found) {
            let (system, writes) = (cluster.system, of(loads, |load| load.writes_s));
            let (p50, p99) = (of(loads, |load| load.p50_ms).median, of(loads, |load| load.p99_ms).median);
            let generator = of(loads, |load| load.generator).median;
            let servers = of(loads, |load| load.servers).median;
            let us = of(loads, |load| load.servers_us_a_write).median;
            let reach = CASES.iter().find(|(case, _)| *case == clients && system == System::Kv);
            let reach = reach.map_or("-".to_owned(), |(_, reach)| format!("{reach:.1}"));
            let ratio = etcd.map_or("-".to_owned(), |etcd| format!("{:.2}", writes.median / etcd));
            let (name, range) = (system.name(), writes.to_string());
            bar.suspend(|| {
                println!(
                    "{clients:>7}  {name:<6}  {range:<25}  {ratio:>6}  {reach:>13}  {p50:>6.2}  {p99:>6.2}  \
                     {generator:>13.2}  {servers:>7.2}  {us:>10.0}"
                );
            });
            report.row(
                "networked",
                json!({
                    "clients": clients, "server": name, "writes_s": writes.median, "least": writes.least,
                    "most": writes.most, "p50_ms": p50, "p99_ms": p99, "generator_cpu": generator,
                    "servers_cpu": servers, "servers_cpu_us_a_write": us,
                }),
            );
        }
        bar.suspend(|| println!());
    }
    bar.finish_and_clear();
    Ok(())
}
